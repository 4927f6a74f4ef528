//! A 1-Wire bus with DS18B20 thermometers: bits, and below them a line with its timing.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use sensors::PartError;
use sensors::onewire::OneWire;
use telemetry::Property;

use super::Truth;

/// Maxim's CRC-8, as a shift register (application note 27, figure 2).
fn crc(bytes: &[u8]) -> u8 {
    let mut register = 0_u8;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)) {
        let feedback = register & 1 ^ bit;
        register = (register >> 1) ^ (feedback * 0x8C);
    }
    register
}

/// What a thermometer expects or gives next.
#[derive(Clone, Debug)]
enum State {
    /// Nothing, until the next reset.
    Deaf,
    /// A ROM command: bits so far.
    Rom(u8, u32),
    /// Its number, from this bit on.
    Match(u32),
    /// A search: this bit, then its complement, then the master's choice.
    Search(u32, u8),
    /// A function command: bits so far.
    Function(u8, u32),
    /// It gives these bytes, from this bit on.
    Send(Vec<u8>, usize),
    /// It gives 0 until its conversion is done.
    Converting,
}

/// One thermometer.
#[derive(Clone, Debug)]
struct Thermometer {
    rom: u64,
    property: Property,
    depth_m: f64,
    absent: bool,
    spoils: bool,
    state: State,
    raw: i16,
    done_us: Option<u64>,
}

impl Thermometer {
    /// With its conversion ended, when it is time.
    fn settled(&mut self, now_us: u64, truth: Truth<'_>) -> &mut Self {
        if self.done_us.is_some_and(|it| now_us >= it) {
            self.done_us = None;
            self.raw = (truth(self.property, self.depth_m).unwrap_or(0.0) * 16.0).round() as i16;
        }
        self
    }

    fn scratchpad(&self) -> Vec<u8> {
        let [low, high] = self.raw.to_le_bytes();
        let mut bytes = vec![low, high, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10];
        bytes.push(crc(&bytes) ^ u8::from(self.spoils));
        bytes
    }

    fn write(&mut self, bit: bool, now_us: u64) {
        let state = std::mem::replace(&mut self.state, State::Deaf);
        self.state = match state {
            State::Rom(bits, count) => match (bits | u8::from(bit) << count, count) {
                (0x55, 7) => State::Match(0),
                (0xCC, 7) => State::Function(0, 0),
                (0xF0, 7) => State::Search(0, 0),
                (_, 7) => State::Deaf,
                (bits, count) => State::Rom(bits, count + 1),
            },
            State::Match(at) if (self.rom >> at & 1 != 0) == bit => {
                if at == 63 {
                    State::Function(0, 0)
                } else {
                    State::Match(at + 1)
                }
            }
            State::Search(at, 2) if (self.rom >> at & 1 != 0) == bit && at < 63 => State::Search(at + 1, 0),
            State::Function(bits, count) => match (bits | u8::from(bit) << count, count) {
                (0x44, 7) => {
                    self.done_us = Some(now_us + 750_000);
                    State::Converting
                }
                (0xBE, 7) => State::Send(self.scratchpad(), 0),
                (_, 7) => State::Deaf,
                (bits, count) => State::Function(bits, count + 1),
            },
            _ => State::Deaf,
        };
    }

    fn read(&mut self) -> bool {
        match &mut self.state {
            State::Search(at, phase @ (0 | 1)) => {
                let bit = (self.rom >> *at & 1 != 0) ^ (*phase == 1);
                *phase += 1;
                bit
            }
            State::Send(bytes, at) => {
                let bit = bytes.get(*at / 8).is_none_or(|byte| byte >> (*at % 8) & 1 != 0);
                *at += 1;
                bit
            }
            State::Converting => self.done_us.is_none(),
            _ => true,
        }
    }
}

/// A 1-Wire bus with its thermometers.
#[derive(Clone, Debug, Default)]
pub struct OneWireBus {
    parts: Vec<Thermometer>,
}

impl OneWireBus {
    /// A bus without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a DS18B20 with this serial number (48 bits) on the bus; its ROM code.
    pub fn add(&mut self, serial: u64, property: Property, depth_m: f64) -> u64 {
        let mut bytes = ((serial & 0xFFFF_FFFF_FFFF) << 8 | 0x28).to_le_bytes();
        bytes[7] = crc(&bytes[..7]);
        let rom = u64::from_le_bytes(bytes);
        let (state, raw) = (State::Deaf, 0x0550);
        self.parts.push(Thermometer {
            rom,
            property,
            depth_m,
            absent: false,
            spoils: false,
            state,
            raw,
            done_us: None,
        });
        rom
    }

    fn part(&mut self, rom: u64) -> Option<&mut Thermometer> {
        self.parts.iter_mut().find(|it| it.rom == rom)
    }

    /// Takes a part off the bus, or puts it back. False when there is none of this code.
    pub fn set_absent(&mut self, rom: u64, absent: bool) -> bool {
        self.part(rom).map(|it| it.absent = absent).is_some()
    }

    /// Makes a part's check sums wrong, or right again. False when there is none of this code.
    pub fn set_bad_crc(&mut self, rom: u64, spoils: bool) -> bool {
        self.part(rom).map(|it| it.spoils = spoils).is_some()
    }

    /// Takes all parts' power away for a moment.
    pub fn power_cut(&mut self) {
        for part in &mut self.parts {
            (part.state, part.raw, part.done_us) = (State::Deaf, 0x0550, None);
        }
    }

    /// The bus at this time, as drivers want one.
    pub fn at<'b>(&'b mut self, now_us: u64, truth: Truth<'b>) -> OneWireAt<'b> {
        OneWireAt { bus: self, now_us, truth }
    }

    fn present(&mut self, now_us: u64, truth: Truth<'_>) -> impl Iterator<Item = &mut Thermometer> {
        let present = self.parts.iter_mut().filter(|it| !it.absent);
        present.map(move |it| it.settled(now_us, truth))
    }

    /// A reset; whether anybody is there.
    pub fn reset(&mut self, now_us: u64, truth: Truth<'_>) -> bool {
        self.present(now_us, truth).map(|it| it.state = State::Rom(0, 0)).count() > 0
    }

    /// A bit from the master.
    pub fn write_bit(&mut self, bit: bool, now_us: u64, truth: Truth<'_>) {
        self.present(now_us, truth).for_each(|it| it.write(bit, now_us));
    }

    /// A bit for the master: whoever gives 0 holds the line down.
    pub fn read_bit(&mut self, now_us: u64, truth: Truth<'_>) -> bool {
        let mut high = true;
        for part in self.present(now_us, truth) {
            high &= part.read();
        }
        high
    }

    /// Whether a short slot is a question: some part has to give a bit.
    fn gives(&self) -> bool {
        let gives = |it: &Thermometer| {
            !it.absent && matches!(it.state, State::Send(..) | State::Search(_, 0 | 1) | State::Converting)
        };
        self.parts.iter().any(gives)
    }
}

/// A 1-Wire bus at one time.
pub struct OneWireAt<'b> {
    bus: &'b mut OneWireBus,
    now_us: u64,
    truth: Truth<'b>,
}

impl OneWire for OneWireAt<'_> {
    fn reset(&mut self) -> Result<bool, PartError> {
        Ok(self.bus.reset(self.now_us, self.truth))
    }

    fn write_bit(&mut self, bit: bool) -> Result<(), PartError> {
        self.bus.write_bit(bit, self.now_us, self.truth);
        Ok(())
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        Ok(self.bus.read_bit(self.now_us, self.truth))
    }
}

/// The line of a bus, with its levels and times: for drivers that make slots of a pin. Slots are
/// judged as parts judge them (DS18B20 figures 13 to 16).
pub struct Line {
    bus: OneWireBus,
    truth: Box<dyn Fn(Property, f64) -> Option<f64>>,
    now_ns: u64,
    fell_ns: Option<u64>,
    /// Whether that edge asked a part for a bit.
    asked: bool,
    /// The master's last falling edge.
    slot_ns: u64,
    /// From when until when a part holds the line down.
    held_ns: (u64, u64),
    /// The line is shorted to ground.
    pub shorted: bool,
    /// Slots that no part would understand.
    pub violations: u32,
}

/// A pin on a [`Line`], and the delay that makes time pass.
#[derive(Clone)]
pub struct LinePin(Rc<RefCell<Line>>);

impl Line {
    /// A line, and the pin on it.
    pub fn new(
        bus: OneWireBus,
        truth: impl Fn(Property, f64) -> Option<f64> + 'static,
    ) -> (Rc<RefCell<Self>>, LinePin) {
        let line = Rc::new(RefCell::new(Self {
            bus,
            truth: Box::new(truth),
            now_ns: 0,
            fell_ns: None,
            asked: false,
            slot_ns: 0,
            held_ns: (0, 0),
            shorted: false,
            violations: 0,
        }));
        (line.clone(), LinePin(line))
    }

    /// Lets time pass.
    pub fn pass_ms(&mut self, ms: u64) {
        self.now_ns += ms * 1_000_000;
    }

    fn fall(&mut self) {
        // 60 µs a slot and 1 µs between slots.
        if self.slot_ns != 0 && self.now_ns < self.slot_ns + 61_000 {
            self.violations += 1;
        }
        (self.fell_ns, self.slot_ns) = (Some(self.now_ns), self.now_ns);
        // A part that has a 0 to give holds the line from the edge on, for 15 to 60 µs.
        self.asked = self.bus.gives();
        if self.asked && !self.bus.read_bit(self.now_ns / 1_000, &*self.truth) {
            self.held_ns = (self.now_ns, self.now_ns + 30_000);
        }
    }

    fn rise(&mut self) {
        let Some(fell_ns) = self.fell_ns.take() else { return };
        let now_us = self.now_ns / 1_000;
        match (self.now_ns - fell_ns) / 1_000 {
            480..=960 => {
                if self.bus.reset(now_us, &*self.truth) {
                    self.held_ns = (self.now_ns + 30_000, self.now_ns + 150_000);
                }
            }
            low_us @ (1..15 | 60..=120) if !self.asked => self.bus.write_bit(low_us < 15, now_us, &*self.truth),
            1..15 if self.asked => {}
            _ => self.violations += 1,
        }
    }

    fn is_high(&self) -> bool {
        let held = (self.held_ns.0..self.held_ns.1).contains(&self.now_ns);
        self.fell_ns.is_none() && !held && !self.shorted
    }
}

impl ErrorType for LinePin {
    type Error = Infallible;
}

impl OutputPin for LinePin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.0.borrow_mut().fall();
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.0.borrow_mut().rise();
        Ok(())
    }
}

impl InputPin for LinePin {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(self.0.borrow().is_high())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.borrow().is_high())
    }
}

impl DelayNs for LinePin {
    fn delay_ns(&mut self, ns: u32) {
        self.0.borrow_mut().now_ns += u64::from(ns);
    }
}
