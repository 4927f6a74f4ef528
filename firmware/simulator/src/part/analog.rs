//! TMP105, ADS1115 with its loops, gauges that pulse, and current clamps.

use core::f64::consts::TAU;

use sensors::rms::Rms;
use telemetry::Property;

use super::{CONVERTER, Chip, Nack, Seen, Truth};

pub(super) struct Tmp105 {
    temperature: Property,
    config: u8,
    pointer: u8,
    /// When the conversion that runs ends.
    done_us: Option<u64>,
    raw: i16,
}

impl Tmp105 {
    pub(super) fn new(temperature: Property) -> Self {
        Self { temperature, config: 0, pointer: 0, done_us: None, raw: 0 }
    }

    /// 27.5 ms at 9 bits, 220 ms at 12, times the spread of parts (TMP105 §6.5).
    fn conversion_us(&self) -> u64 {
        37_500 << (self.config >> 5 & 3)
    }
}

impl Chip for Tmp105 {
    fn settle(&mut self, seen: &Seen<'_>) {
        let done_us = *self.done_us.get_or_insert(seen.now_us + self.conversion_us());
        if seen.now_us >= done_us {
            self.done_us = Some(seen.now_us + self.conversion_us());
            // 9 to 12 bits, left-justified.
            let unused = 7 - u32::from(self.config >> 5 & 3);
            let raw = (seen.value(self.temperature) * 256.0).round() as i16;
            self.raw = raw >> unused << unused;
        }
    }

    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        match bytes {
            [pointer] => self.pointer = pointer & 3,
            [1, config] => {
                self.config = *config;
                self.done_us = Some(seen.now_us + self.conversion_us());
            }
            _ => return Err(Nack),
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], _seen: &Seen<'_>) -> Result<(), Nack> {
        let bytes = match self.pointer {
            0 => self.raw.to_be_bytes(),
            1 => [self.config, 0xFF],
            _ => [0; 2],
        };
        into.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.temperature);
    }
}

/// A transmitter of 4–20 mA on 100 Ω.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loop {
    /// What it measures.
    pub property: Property,
    /// Value at 4 mA.
    pub at_4_ma: f64,
    /// Value at 20 mA.
    pub at_20_ma: f64,
}

pub(super) struct Ads1115 {
    loops: [Option<Loop>; 4],
    config: u16,
    conversion: i16,
    pointer: u8,
    done_us: Option<u64>,
}

impl Ads1115 {
    pub(super) fn new(loops: [Option<Loop>; 4]) -> Self {
        Self { loops, config: 0x0583, conversion: 0, pointer: 0, done_us: None }
    }
}

impl Chip for Ads1115 {
    fn settle(&mut self, seen: &Seen<'_>) {
        if self.done_us.is_none_or(|it| seen.now_us < it) {
            return;
        }
        self.done_us = None;
        let volts_max = match self.config >> 9 & 7 {
            0 => 6.144,
            1 => 4.096,
            2 => 2.048,
            3 => 1.024,
            4 => 0.512,
            _ => 0.256,
        };
        let input = usize::from(self.config >> 12 & 7).checked_sub(4);
        // An open input reads nothing; differential ones are not wired.
        let milliampere = input.and_then(|input| self.loops[input]).map_or(0.0, |it| {
            let share = (seen.value(it.property) - it.at_4_ma) / (it.at_20_ma - it.at_4_ma);
            4.0 + 16.0 * share
        });
        self.conversion = (milliampere * 0.1 / volts_max * 32_768.0).round() as i16;
    }

    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        match bytes {
            [pointer] => self.pointer = pointer & 3,
            [1, high, low] => {
                (self.pointer, self.config) = (1, u16::from_be_bytes([*high, *low]) & 0x7FFF);
                if high & 0x80 != 0 && self.done_us.is_none() {
                    // 128 samples a second, 10 % late.
                    self.done_us = Some(seen.now_us + 8_600);
                }
            }
            _ => return Err(Nack),
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], _seen: &Seen<'_>) -> Result<(), Nack> {
        let word = match self.pointer {
            0 => self.conversion as u16,
            1 => self.config | u16::from(self.done_us.is_none()) << 15,
            _ => 0,
        };
        into.iter_mut().zip(word.to_be_bytes()).for_each(|(place, byte)| *place = byte);
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.loops);
    }
}

/// A gauge that closes a contact for every so much: rain, or water that flows.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    /// What passes: its value is taken for units an hour.
    property: Property,
    per_pulse: f64,
    count: u32,
    rest: f64,
    last_us: Option<u64>,
}

impl Gauge {
    /// A gauge whose counter stands at `count`; it wraps.
    pub fn new(property: Property, per_pulse: f64, count: u32) -> Self {
        Self { property, per_pulse, count, rest: 0.0, last_us: None }
    }

    /// Its counter at this time; what is true now is taken to have been so since the last look.
    pub fn count(&mut self, now_us: u64, truth: Truth<'_>) -> u32 {
        let elapsed_us = now_us - self.last_us.replace(now_us).unwrap_or(now_us);
        let hourly = truth(self.property, 0.0).unwrap_or(0.0).max(0.0);
        self.rest += hourly * elapsed_us as f64 / 3.6e9 / self.per_pulse;
        self.count = self.count.wrapping_add(self.rest.floor() as u32);
        self.rest = self.rest.fract();
        self.count
    }

    /// The counter begins at 0 again, as after a reset of what counts.
    pub fn reset(&mut self) {
        (self.count, self.rest) = (0, 0.0);
    }
}

/// A current clamp around a motor's wire, on half the converter's range.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    property: Property,
    volts_per_ampere: f64,
    hertz: f64,
    begun_us: u64,
}

impl Clamp {
    /// A clamp that sees this current, A, of mains of so many Hz.
    pub fn new(property: Property, volts_per_ampere: f64, hertz: f64) -> Self {
        Self { property, volts_per_ampere, hertz, begun_us: 0 }
    }

    /// The converter's count at this time.
    pub fn sample(&self, now_us: u64, truth: Truth<'_>) -> u16 {
        let peak_v = truth(self.property, 0.0).unwrap_or(0.0) * self.volts_per_ampere * 2f64.sqrt();
        let sine = (TAU * self.hertz * (now_us % 1_000_000) as f64 / 1e6).sin();
        let (most, reference_v) = (f64::from(CONVERTER.count_max), f64::from(CONVERTER.reference_v));
        ((0.5 + peak_v * sine / reference_v) * most).round().clamp(0.0, most) as u16
    }

    pub(super) fn begin(&mut self, now_us: u64) {
        self.begun_us = now_us;
    }

    /// The window that was begun, as far as it has come.
    pub(super) fn window(&self, now_us: u64, truth: Truth<'_>) -> Rms {
        let mut rms = Rms::new(CONVERTER);
        let step_us = 1_000_000 / CONVERTER.rate_hz as usize;
        for at_us in (self.begun_us..now_us).step_by(step_us) {
            if !rms.push(self.sample(at_us, truth)) {
                break;
            }
        }
        rms
    }
}
