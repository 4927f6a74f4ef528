//! Maxim DS18B20: temperature over 1-Wire. Each is known by the number in its ROM, so that one that
//! died is never taken for its neighbour.
//!
//! Deliberately absent: alarms, other resolutions than as shipped, parasite power.
//!
//! Reference: DS18B20 datasheet rev. 6 (here *DS18B20*).

use crate::{
    PartError, Turn,
    onewire::{OneWire, crc8, select},
};

/// The lowest byte of a DS18B20's number.
pub const FAMILY: u8 = 0x28;

const CONVERT: u8 = 0x44;
const READ_SCRATCHPAD: u8 = 0xBE;
/// A conversion of 12 bits, ms (DS18B20 table 2).
const CONVERT_MS: u32 = 750;
/// Readings of one conversion, while their check sum is wrong.
const TRIES: u8 = 3;
/// Bits of the config byte that are always the same (DS18B20 figure 10).
const CONFIG_FIXED: u8 = 0b1001_1111;
/// 85 °C: what a part shows until it has measured (DS18B20 table 1).
const POWER_ON: i16 = 0x0550;
/// A part that was as hot as this last time may really be at 85 °C, in 1/16 °C.
const HOT: i16 = 80 * 16;

/// Longest turn, ms.
pub const TURN_MS_MAX: u32 = CONVERT_MS;

/// One thermometer.
#[derive(Clone, Copy, Debug)]
pub struct Ds18b20 {
    rom: u64,
    started: bool,
    last: Option<i16>,
}

impl Ds18b20 {
    /// The thermometer with this number, lowest byte first on the wire; 0 for the only one on its
    /// bus. Nothing is sent.
    pub const fn new(rom: u64) -> Self {
        Self { rom, started: false, last: None }
    }

    /// Starts a conversion; [`fetch`](Self::fetch) it after the returned time, ms.
    ///
    /// # Errors
    /// [`PartError::NoAnswer`] when no part is on the bus, or this one does not convert, or when
    /// the line fails.
    pub fn start(&mut self, wire: &mut impl OneWire) -> Result<u32, PartError> {
        self.started = false;
        select(wire, self.rom)?;
        wire.write_byte(CONVERT)?;
        // While it converts it answers 0 (DS18B20 "convert T"). One that is not there, or did not
        // understand, does not, and its scratchpad would still hold what it measured before.
        if wire.read_bit()? {
            return Err(PartError::NoAnswer);
        }
        self.started = true;
        Ok(CONVERT_MS)
    }

    /// Fetches what was started, °C, −55…125.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Crc`], [`PartError::PowerOn`], or when the line
    /// fails.
    pub fn fetch(&mut self, wire: &mut impl OneWire) -> Result<Turn<f32>, PartError> {
        if !core::mem::take(&mut self.started) {
            return Err(PartError::NotStarted);
        }
        let mut read = Err(PartError::Crc);
        for _ in 0..TRIES {
            select(wire, self.rom)?;
            wire.write_byte(READ_SCRATCHPAD)?;
            let mut scratchpad = [0; 9];
            for byte in &mut scratchpad {
                *byte = wire.read_byte()?;
            }
            read = decode(scratchpad);
            if read != Err(PartError::Crc) {
                break;
            }
        }
        let last = self.last.take();
        let raw = read?;
        if raw == POWER_ON && last.is_none_or(|it| it < HOT) {
            return Err(PartError::PowerOn);
        }
        self.last = Some(raw);
        Ok(Turn::Done(convert(raw)))
    }
}

/// Checks the nine bytes of a scratchpad; the temperature in 1/16 °C.
///
/// # Errors
/// [`PartError::Crc`]; a line stuck high or low fails it too. [`PartError::OutOfRange`].
pub fn decode(scratchpad: [u8; 9]) -> Result<i16, PartError> {
    let [low, high, _, _, config, ..] = scratchpad;
    // Nine zeros have a good check sum; the config byte tells.
    if crc8(&scratchpad) != 0 || config & CONFIG_FIXED != 0x1F {
        return Err(PartError::Crc);
    }
    // At coarser resolutions the last bits mean nothing (DS18B20 figure 4).
    let unused = 3 - (config >> 5);
    let raw = i16::from_le_bytes([low, high]) >> unused << unused;
    if (-55 * 16..=125 * 16).contains(&raw) { Ok(raw) } else { Err(PartError::OutOfRange) }
}

/// 1/16 °C to °C.
pub fn convert(raw: i16) -> f32 {
    f32::from(raw) / 16.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datasheets_table_converts() {
        let table = [(0x07D0, 125.0), (0x0550, 85.0), (0x0191, 25.0625), (0, 0.0), (0xFF5E, -10.125), (0xFC90, -55.0)];
        for (raw, celsius) in table {
            assert_eq!(convert(raw as u16 as i16), celsius);
        }
    }

    #[test]
    fn no_bit_flip_and_no_stuck_line_is_a_temperature() {
        let scratchpad = [0x50, 0x05, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10, 0x1C];
        assert_eq!(decode(scratchpad), Ok(0x0550));
        for bit in 0..72 {
            let mut flipped = scratchpad;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(flipped), Err(PartError::Crc));
        }
        for stuck in [0x00, 0xFF] {
            assert_eq!(decode([stuck; 9]), Err(PartError::Crc));
        }
    }
}
