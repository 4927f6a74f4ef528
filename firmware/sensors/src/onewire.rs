//! 1-Wire: the bus of DS18B20 thermometers, on one pin.
//!
//! A bus that is bit-banged keeps the processor for its slots: 1 ms for a reset, 70 µs a bit, about
//! 11 ms for a thermometer's turn. An interrupt in the middle of a slot may turn a bit, which the
//! CRC finds. The crates at hand are for an older embedded-hal.
//!
//! Deliberately absent: overdrive, and parts that live on the data line alone (parasite power).
//!
//! References: DS18B20 datasheet rev. 6 (here *DS18B20*), Maxim application notes 126 (timing),
//! 187 (search) and 27 (CRC).

use embedded_hal::{
    delay::DelayNs,
    digital::{InputPin, OutputPin},
};

use crate::PartError;

/// One bus: what a part needs of it.
pub trait OneWire {
    /// Resets all parts; true when at least one is present.
    ///
    /// # Errors
    /// When the line cannot be driven or does not come up.
    fn reset(&mut self) -> Result<bool, PartError>;

    /// Sends one bit.
    ///
    /// # Errors
    /// When the line cannot be driven.
    fn write_bit(&mut self, bit: bool) -> Result<(), PartError>;

    /// Asks for one bit; true when no part holds the line down.
    ///
    /// # Errors
    /// When the line cannot be driven or read.
    fn read_bit(&mut self) -> Result<bool, PartError>;

    /// Sends a byte, lowest bit first.
    ///
    /// # Errors
    /// As [`OneWire::write_bit`].
    fn write_byte(&mut self, byte: u8) -> Result<(), PartError> {
        (0..8).try_for_each(|bit| self.write_bit(byte >> bit & 1 != 0))
    }

    /// Asks for a byte.
    ///
    /// # Errors
    /// As [`OneWire::read_bit`].
    fn read_byte(&mut self) -> Result<u8, PartError> {
        let mut byte = 0;
        for bit in 0..8 {
            byte |= u8::from(self.read_bit()?) << bit;
        }
        Ok(byte)
    }
}

impl<W: OneWire> OneWire for &mut W {
    fn reset(&mut self) -> Result<bool, PartError> {
        (**self).reset()
    }

    fn write_bit(&mut self, bit: bool) -> Result<(), PartError> {
        (**self).write_bit(bit)
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        (**self).read_bit()
    }
}

/// A bus on an open-drain pin with a pull-up of 4.7 kΩ.
#[derive(Debug)]
pub struct BitBang<P, D> {
    pin: P,
    delay: D,
}

impl<P: InputPin + OutputPin, D: DelayNs> BitBang<P, D> {
    /// The pin must be open drain. The delay must be good to 3 µs.
    pub fn new(pin: P, delay: D) -> Self {
        Self { pin, delay }
    }

    /// Low for the first time, then released; the line is looked at after the second.
    fn slot(&mut self, low_us: u32, until_look_us: u32, rest_us: u32) -> Result<bool, PartError> {
        let broken = |_| PartError::Bus(embedded_hal::i2c::ErrorKind::Bus);
        self.pin.set_low().map_err(broken)?;
        self.delay.delay_us(low_us);
        self.pin.set_high().map_err(broken)?;
        self.delay.delay_us(until_look_us);
        let high = self.pin.is_high().map_err(|_| PartError::Bus(embedded_hal::i2c::ErrorKind::Bus))?;
        self.delay.delay_us(rest_us);
        Ok(high)
    }
}

impl<P: InputPin + OutputPin, D: DelayNs> OneWire for BitBang<P, D> {
    // The times of application note 126, table 2, "recommended".
    fn reset(&mut self) -> Result<bool, PartError> {
        let present = !self.slot(480, 70, 410)?;
        if self.pin.is_low().unwrap_or(true) {
            // Nobody holds it that long: the line is shorted or has no pull-up.
            return Err(PartError::Bus(embedded_hal::i2c::ErrorKind::Bus));
        }
        Ok(present)
    }

    fn write_bit(&mut self, bit: bool) -> Result<(), PartError> {
        if bit {
            self.slot(6, 9, 55)?
        } else {
            self.slot(60, 5, 5)?
        };
        Ok(())
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        self.slot(6, 9, 55)
    }
}

/// Maxim's CRC-8: polynomial X⁸ + X⁵ + X⁴ + 1, lowest bit first (application note 27). Over bytes
/// and their check sum it is 0.
pub fn crc8(bytes: &[u8]) -> u8 {
    let mut crc = 0_u8;
    for &byte in bytes {
        crc ^= byte;
        for _ in 0..8 {
            let carry = crc & 1 != 0;
            crc >>= 1;
            if carry {
                crc ^= 0x8C;
            }
        }
    }
    crc
}

const SEARCH_ROM: u8 = 0xF0;
const MATCH_ROM: u8 = 0x55;
const SKIP_ROM: u8 = 0xCC;

/// Resets the bus and speaks to the part with this number; with 0, to the only one there is.
///
/// # Errors
/// [`PartError::NoAnswer`] when no part is present, or when the line fails.
pub fn select(wire: &mut impl OneWire, rom: u64) -> Result<(), PartError> {
    if !wire.reset()? {
        return Err(PartError::NoAnswer);
    }
    if rom == 0 {
        return wire.write_byte(SKIP_ROM);
    }
    wire.write_byte(MATCH_ROM)?;
    rom.to_le_bytes().into_iter().try_for_each(|byte| wire.write_byte(byte))
}

/// Finds the parts of a bus one by one, in the order of their numbers' bits (application note
/// 187). A part's number has its family in the lowest byte and a CRC in the highest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    rom: u64,
    /// The last bit where 0 was taken although there were parts with 1: there, 1 comes next.
    fork: Option<u32>,
    found: u8,
    done: bool,
}

/// Most parts that a search finds; noise could otherwise keep it going.
const FOUND_MAX: u8 = 64;

impl Search {
    /// Before the first part.
    pub const fn new() -> Self {
        Self { rom: 0, fork: None, found: 0, done: false }
    }

    /// The next part's number; none when there is no further one, or after 64.
    ///
    /// # Errors
    /// [`PartError::Crc`] when a part answered and its number is garbled, or when the line fails.
    /// The search is over then.
    pub fn next(&mut self, wire: &mut impl OneWire) -> Result<Option<u64>, PartError> {
        if core::mem::replace(&mut self.done, true) || !wire.reset()? {
            return Ok(None);
        }
        wire.write_byte(SEARCH_ROM)?;
        let (mut rom, mut fork) = (0_u64, None);
        for bit in 0..64 {
            let (zeros, ones) = (!wire.read_bit()?, !wire.read_bit()?);
            let take = match (zeros, ones) {
                // All have gone silent.
                (false, false) => return Err(PartError::Crc),
                (true, false) => false,
                (false, true) => true,
                (true, true) => match self.fork {
                    Some(last) if bit < last => self.rom >> bit & 1 != 0,
                    last => last == Some(bit),
                },
            };
            if zeros && ones && !take {
                fork = Some(bit);
            }
            rom |= u64::from(take) << bit;
            wire.write_bit(take)?;
        }
        if rom == 0 || crc8(&rom.to_le_bytes()) != 0 {
            return Err(PartError::Crc);
        }
        self.found += 1;
        (self.rom, self.fork, self.done) = (rom, fork, fork.is_none() || self.found >= FOUND_MAX);
        Ok(Some(rom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_application_notes() {
        // Application note 27: family 02, serial 00 00 00 01 B8 1C, check sum A2.
        assert_eq!(crc8(&[0x02, 0x1C, 0xB8, 0x01, 0x00, 0x00, 0x00]), 0xA2);
        assert_eq!(crc8(&[0x50, 0x05, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10]), 0x1C);
    }
}
