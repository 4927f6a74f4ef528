//! Temperature over I2C: TMP105, TMP75, TMP102, TMP275, LM75 and what is compatible.
//!
//! All of them have the temperature in register 0, left-justified; how many bits are real is the
//! part's. They measure by themselves: a turn sets the finest resolution and waits for a value
//! that was begun after that. The `tmp1x2` crate keeps the bus to itself, which here many parts share.
//!
//! The parts have no check sum; the settings are read back with each value.
//!
//! References: TMP105 datasheet SBOS648 (here *TMP105*), LM75B datasheet rev. 6.1.

use embedded_hal::i2c::I2c;

use crate::{PartError, Turn};

/// With all address pins at ground; up to 4Fh.
pub const ADDRESS: u8 = 0x48;

const TEMPERATURE: u8 = 0;
const CONFIG: u8 = 1;
/// 12 bits, continuous (TMP105 §7.5.3). A TMP102 has these bits fixed, an LM75 has none.
const FINEST: u8 = 0x60;
/// Twice a conversion of 12 bits (300 ms at most, TMP105 §6.5), for one may be running.
const MEASURE_MS: u32 = 600;

/// Longest turn, ms.
pub const TURN_MS_MAX: u32 = MEASURE_MS;

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Tmp105 {
    address: u8,
    /// What the part made of the setting; none while nothing was started.
    set: Option<u8>,
}

impl Tmp105 {
    /// A part at `address`, usually [`ADDRESS`]. Nothing is sent.
    pub const fn new(address: u8) -> Self {
        Self { address, set: None }
    }

    /// Begins a turn; [`fetch`](Self::fetch) after the returned time, ms.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c) -> Result<u32, PartError> {
        self.set = None;
        i2c.write(self.address, &[CONFIG, FINEST]).map_err(PartError::of_bus)?;
        let [now] = self.read(i2c, CONFIG)?;
        self.set = Some(now);
        Ok(MEASURE_MS)
    }

    /// The temperature, °C.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Stranger`] when the part lost its settings
    /// meanwhile, [`PartError::OutOfRange`], or when the part does not acknowledge or the bus
    /// fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<f32>, PartError> {
        let set = self.set.take().ok_or(PartError::NotStarted)?;
        let raw = self.read(i2c, TEMPERATURE)?;
        let [now] = self.read(i2c, CONFIG)?;
        if now != set {
            return Err(PartError::Stranger);
        }
        let celsius = convert(raw);
        if !(-55.0..=128.0).contains(&celsius) {
            return Err(PartError::OutOfRange);
        }
        Ok(Turn::Done(celsius))
    }

    fn read<const N: usize>(&self, i2c: &mut impl I2c, register: u8) -> Result<[u8; N], PartError> {
        let mut bytes = [0; N];
        i2c.write_read(self.address, &[register], &mut bytes).map_err(PartError::of_bus)?;
        Ok(bytes)
    }
}

/// The register's twelve bits to °C.
pub fn convert(raw: [u8; 2]) -> f32 {
    f32::from(i16::from_be_bytes(raw) >> 4) / 16.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_datasheets_table_converts() {
        // TMP105 table 6.
        let table =
            [(0x7FF0, 127.9375), (0x5000, 80.0), (0x1900, 25.0), (0x0040, 0.25), (0x0000, 0.0), (0xE700, -25.0)];
        for (raw, celsius) in table {
            assert_eq!(convert(u16::to_be_bytes(raw)), celsius);
        }
    }
}
