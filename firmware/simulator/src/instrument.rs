//! Modbus RTU probes that answer bytes: one for every profile there is, with the faults that real
//! ones have.
//!
//! A probe owns its registers and its failings. What it measures is a [`crate::world::World`]'s;
//! the register map is the compiled profile's, so that a new profile has a simulated probe at
//! once.

use std::collections::BTreeMap;

use sensors::modbus::{LineSettings, crc16};
use sensors::profile::compile::Compiled;
use sensors::profile::{Kind, Profile, ProfileError, Quantity, Scale, Setting};
use telemetry::Property;

use crate::world::Chance;

/// Time from the end of a request to the beginning of the answer, µs.
const THINKS_US: u64 = 20_000;
/// Noise of a reading: this share of it, plus half of the property's last digit.
const NOISE_SHARE: f64 = 0.001;
/// Bytes of a babbling probe per request: more than any frame.
const BABBLE_BYTES: usize = 600;
/// A broadcast, which nobody answers.
const BROADCAST: u8 = 0;

/// What ails a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It does not answer.
    Silent,
    /// Instead of an answer come random bytes.
    Noise,
    /// The answer's check sum is wrong.
    BadCrc,
    /// The request comes back before the answer, as on adapters that hear themselves.
    Echo,
    /// It answers every read with this exception.
    Exception(u8),
    /// It gives the values that it had when this began.
    Stuck,
    /// Values move away from the truth, by this share of it a day.
    Drift {
        /// 0.01 is 1 % a day.
        share_per_day: f64,
    },
    /// Growth covers the cap: values fall towards nothing.
    Fouling {
        /// Share of the rest that is lost a day, 0–1.
        share_per_day: f64,
    },
    /// It gives this for everything, as some do until they have measured.
    PowerOn {
        /// In each property's unit.
        value: f64,
    },
    /// It answers at another address than it should.
    OtherAddress(u8),
    /// Once asked, it sends without end.
    NeverEnds,
}

/// An answer on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Delay of its last byte after the request's last byte, µs.
    pub after_us: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A probe on a line.
#[derive(Clone, Debug)]
pub struct Instrument {
    compiled: Compiled,
    address: u8,
    depth_m: f64,
    fault: Option<(Fault, u64)>,
    held: BTreeMap<u8, f64>,
    written: BTreeMap<u16, u16>,
    chance: Chance,
    noisy: bool,
}

impl Instrument {
    /// A probe of this profile at `address`, hanging at a depth.
    pub fn new(compiled: Compiled, address: u8, depth_m: f64, seed: u64) -> Self {
        let (held, written, chance) = (BTreeMap::new(), BTreeMap::new(), Chance::new(seed));
        Self { compiled, address, depth_m, fault: None, held, written, chance, noisy: true }
    }

    /// Without noise: it gives the truth, as finely as its registers can.
    pub fn exact(mut self) -> Self {
        self.noisy = false;
        self
    }

    /// Its address on the line.
    pub fn address(&self) -> u8 {
        self.address
    }

    /// Where it hangs, m.
    pub fn depth_m(&self) -> f64 {
        self.depth_m
    }

    /// Begins a fault at this instant, or ends all faults.
    pub fn set_fault(&mut self, fault: Option<Fault>, now_us: u64) {
        self.held.clear();
        self.fault = fault.map(|fault| (fault, now_us));
    }

    /// What was written to a register.
    pub fn written(&self, register: u16) -> Option<u16> {
        self.written.get(&register).copied()
    }

    /// What the probe answers to the bytes of a frame that ended at `now_us`; `truth` gives what
    /// is true at its depth.
    ///
    /// # Errors
    /// When its profile is damaged.
    pub fn answer(
        &mut self,
        frame: &[u8],
        line: LineSettings,
        now_us: u64,
        truth: impl Fn(Property, f64) -> Option<f64>,
    ) -> Result<Option<Answer>, ProfileError> {
        let fault = self.fault.map(|(fault, _)| fault);
        let address = match fault {
            Some(Fault::OtherAddress(other)) => other,
            _ => self.address,
        };
        let Some(request) = sound(frame) else { return Ok(None) };
        if request.first() != Some(&address) && request.first() != Some(&BROADCAST) {
            return Ok(None);
        }
        let bytes = match fault {
            Some(Fault::Silent) => Vec::new(),
            Some(Fault::Noise) => (0..12).map(|_| self.chance.bits() as u8).collect(),
            Some(Fault::NeverEnds) => (0..BABBLE_BYTES).map(|_| self.chance.bits() as u8).collect(),
            _ => {
                let mut pdu = self.obey(&request[1..], now_us, &truth)?;
                if let (Some(Fault::Exception(code)), Some(function)) = (fault, request.get(1)) {
                    pdu = vec![function | 0x80, code];
                }
                let mut bytes = vec![address];
                bytes.append(&mut pdu);
                let wrong = u16::from(matches!(fault, Some(Fault::BadCrc)));
                bytes.extend((crc16(&bytes) ^ wrong).to_le_bytes());
                if matches!(fault, Some(Fault::Echo)) {
                    bytes.splice(0..0, frame.iter().copied());
                }
                bytes
            }
        };
        if bytes.is_empty() || request.first() == Some(&BROADCAST) {
            return Ok(None);
        }
        Ok(Some(Answer { after_us: THINKS_US + line.chars_us(bytes.len()), bytes }))
    }

    /// Function and data of the answer to a request's function and data.
    fn obey(
        &mut self,
        request: &[u8],
        now_us: u64,
        truth: &impl Fn(Property, f64) -> Option<f64>,
    ) -> Result<Vec<u8>, ProfileError> {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        Ok(match request {
            [function @ (3 | 4), _, _, _, _] => match self.read(*function, word(1), word(3), now_us, truth)? {
                Ok(data) => {
                    let mut pdu = vec![*function, data.len() as u8];
                    pdu.extend(data);
                    pdu
                }
                Err(exception) => vec![function | 0x80, exception],
            },
            [6, _, _, _, _] if self.is_setting(word(1))? => {
                self.write(word(1), word(3))?;
                request.to_vec()
            }
            [16, _, _, _, count, bytes, data @ ..]
                if data.len() == usize::from(*bytes)
                    && *bytes == count.saturating_mul(2)
                    && self.is_setting(word(1))? =>
            {
                for (register, value) in (word(1)..).zip(data.chunks_exact(2)) {
                    self.write(register, u16::from_be_bytes([value[0], value[1]]))?;
                }
                request[..5].to_vec()
            }
            // Illegal data address, illegal function (Modbus application protocol §7).
            [function @ (6 | 16), ..] => vec![function | 0x80, 2],
            [function, ..] => vec![function | 0x80, 1],
            [] => Vec::new(),
        })
    }

    fn is_setting(&self, register: u16) -> Result<bool, ProfileError> {
        Ok(self.compiled.profile()?.writes().any(|write| write.register == register))
    }

    fn write(&mut self, register: u16, value: u16) -> Result<(), ProfileError> {
        let setting = self.compiled.profile()?.writes().find(|it| it.register == register).map(|it| it.setting);
        if let (Some(Setting::Address), Ok(address @ 1..=247)) = (setting, u8::try_from(value)) {
            self.address = address;
        }
        self.written.insert(register, value);
        Ok(())
    }

    /// Register bytes, or the exception.
    fn read(
        &mut self,
        function: u8,
        start: u16,
        count: u16,
        now_us: u64,
        truth: &impl Fn(Property, f64) -> Option<f64>,
    ) -> Result<Result<Vec<u8>, u8>, ProfileError> {
        // The map is small; a copy of it lets the probe change while it is walked.
        let bytes = self.compiled.bytes.clone();
        let profile = Profile::decode(&bytes)?;
        let inside = profile.blocks().enumerate().find(|(_, block)| {
            block.function.code() == function
                && start >= block.start
                && u32::from(start) + u32::from(count) <= u32::from(block.start) + u32::from(block.count)
        });
        let Some((index, block)) = inside.filter(|_| (1..=125).contains(&count)) else { return Ok(Err(2)) };
        let mut registers = vec![0u16; usize::from(block.count)];
        for (number, quantity) in profile.quantities().enumerate() {
            if usize::from(quantity.block) != index {
                continue;
            }
            let value = self.value(number as u8, quantity.property, now_us, truth);
            put(&quantity, value, &mut registers);
        }
        let from = usize::from(start - block.start);
        Ok(Ok(registers[from..from + usize::from(count)].iter().flat_map(|it| it.to_be_bytes()).collect()))
    }

    /// What the probe makes of the truth.
    fn value(
        &mut self,
        number: u8,
        property: Property,
        now_us: u64,
        truth: &impl Fn(Property, f64) -> Option<f64>,
    ) -> Option<f64> {
        let mut value = truth(property, self.depth_m)?;
        if self.noisy {
            let finest = 0.5 * 10f64.powi(-i32::from(property.facts().digits));
            value += self.chance.bell() * (NOISE_SHARE * value.abs() + finest);
            if property.facts().min >= 0.0 {
                value = value.max(0.0);
            }
        }
        let Some((fault, since_us)) = self.fault else { return Some(value) };
        let days = now_us.saturating_sub(since_us) as f64 / 86.4e9;
        Some(match fault {
            Fault::Stuck => *self.held.entry(number).or_insert(value),
            Fault::Drift { share_per_day } => value * (1.0 + share_per_day * days),
            // A cap under growth sees less oxygen; a thermometer does not care.
            Fault::Fouling { share_per_day } if property != Property::WaterTemperature => {
                value * (1.0 - share_per_day.clamp(0.0, 1.0)).powf(days)
            }
            Fault::PowerOn { value } => value,
            _ => value,
        })
    }
}

/// The frame without its check sum, when that is right.
pub(crate) fn sound(frame: &[u8]) -> Option<&[u8]> {
    let (body, sum) = frame.split_at_checked(frame.len().checked_sub(2)?)?;
    (body.len() >= 2 && crc16(body).to_le_bytes() == sum).then_some(body)
}

/// Writes a value into its registers, the way its profile says to read it.
fn put(quantity: &Quantity, value: Option<f64>, registers: &mut [u16]) {
    if let Some(quality) = &quantity.quality {
        let good = quality.values.iter().find(|(_, meaning)| meaning.is_none());
        if let (Some((good, _)), Some(place)) = (good, registers.get_mut(usize::from(quality.offset))) {
            *place = *good;
        }
    }
    let bits = match value {
        Some(value) => {
            let value = value - f64::from(quantity.add);
            let raw = match quantity.scale {
                Scale::Divide(by) => value * f64::from(by),
                Scale::Multiply(by) => value / f64::from(by),
            };
            match quantity.kind {
                // These casts hold at the type's ends, which is what registers do.
                Kind::U16 => u32::from(raw.round() as u16),
                Kind::I16 => u32::from(raw.round() as i16 as u16),
                Kind::U32 => raw.round() as u32,
                Kind::I32 => raw.round() as i32 as u32,
                Kind::F32 => (raw as f32).to_bits(),
            }
        }
        // What it cannot measure it gives as its sentinel, or as nothing.
        None => quantity.sentinels.first().map_or(0, |it| it.bits),
    };
    let order = |word: u32| if quantity.order.low_byte_first { (word as u16).swap_bytes() } else { word as u16 };
    let words = match (quantity.kind.registers(), quantity.order.low_word_first) {
        (1, _) => vec![order(bits)],
        (_, true) => vec![order(bits), order(bits >> 16)],
        (_, false) => vec![order(bits >> 16), order(bits)],
    };
    for (place, word) in registers.iter_mut().skip(usize::from(quantity.offset)).zip(words) {
        *place = word;
    }
}
