//! BH1750 and VEML7700.

use telemetry::Property;

use super::air::solve;
use super::{Chip, Nack, Seen};

pub(super) struct Bh1750 {
    on: bool,
    time: u8,
    done_us: Option<u64>,
    raw: u16,
}

impl Bh1750 {
    pub(super) fn new() -> Self {
        Self { on: false, time: 69, done_us: None, raw: 0 }
    }
}

impl Chip for Bh1750 {
    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        let [command] = bytes else { return Err(Nack) };
        match command {
            0x01 => self.on = true,
            0x40..=0x47 => self.time = self.time & 0x1F | command << 5,
            0x60..=0x7F => self.time = self.time & 0xE0 | command & 0x1F,
            0x20 if self.on => self.done_us = Some(seen.now_us + 180_000 * u64::from(self.time) / 69),
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self, seen: &Seen<'_>) {
        if self.done_us.is_some_and(|it| seen.now_us >= it) {
            (self.done_us, self.on) = (None, false);
            self.raw = (seen.value(Property::Illuminance) * 1.2 * f64::from(self.time) / 69.0).round() as u16;
        }
    }

    fn read(&mut self, into: &mut [u8], _seen: &Seen<'_>) -> Result<(), Nack> {
        // Too early, it still gives what it measured before.
        let bytes = self.raw.to_be_bytes();
        into.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new();
    }
}

pub(super) struct Veml7700 {
    registers: [u16; 8],
    pointer: u8,
    done_us: Option<u64>,
}

impl Veml7700 {
    pub(super) fn new() -> Self {
        let mut registers = [0; 8];
        (registers[0], registers[7]) = (1, 0xC481);
        Self { registers, pointer: 0, done_us: None }
    }
}

impl Chip for Veml7700 {
    fn settle(&mut self, seen: &Seen<'_>) {
        if self.done_us.is_some_and(|it| seen.now_us >= it) {
            self.done_us = None;
            // The maker's correction, the other way round.
            let lux = |count: f64| {
                let x = count * 0.5376;
                let bent = 6.0135e-13 * x.powi(4) - 9.3924e-9 * x.powi(3) + 8.1488e-5 * x.powi(2) + 1.0023 * x;
                if x <= 1_000.0 { x } else { bent }
            };
            self.registers[4] = solve(seen.value(Property::Illuminance), lux, 65_535.0) as u16;
        }
    }

    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        match bytes {
            [pointer] => self.pointer = *pointer,
            [0, low, high] => {
                let (before, now) = (self.registers[0], u16::from_le_bytes([*low, *high]));
                self.registers[0] = now;
                if now & 1 != 0 {
                    self.done_us = None;
                } else if before & 1 != 0 && now == 0x1000 {
                    self.done_us = Some(seen.now_us + 2_500 + 110_000);
                }
            }
            _ => return Err(Nack),
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], _seen: &Seen<'_>) -> Result<(), Nack> {
        let word = self.registers[usize::from(self.pointer & 7)].to_le_bytes();
        into.iter_mut().zip(word).for_each(|(place, byte)| *place = byte);
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new();
    }
}
