//! Vishay VEML7700 and VEML6030: illuminance over I2C.
//!
//! One setting from night to full sun: gain 1/8, 100 ms. The `veml6030` crate keeps the bus to
//! itself, which here many parts share.
//!
//! The part has no check sum; its settings are read back with each value.
//!
//! References: VEML7700 datasheet rev. 1.8 (here *VEML*), application note *Designing the VEML7700
//! into an application* of 17 January 2024 (here *AN*).

use embedded_hal::i2c::I2c;

use crate::{PartError, Turn};

/// Its only address; a VEML6030 may also be at 48h.
pub const ADDRESS: u8 = 0x10;

const CONF: u8 = 0;
const ALS: u8 = 4;
/// Gain 1/8, 100 ms, on (VEML table 1).
const ON: u16 = 0x1000;
const OFF: u16 = ON | 1;
/// lx of a count at that setting (AN table "resolution").
const LX_PER_COUNT: f32 = 0.537_6;
/// From power-on to fetch, ms: 2.5 ms to wake (VEML §power on), then two measurements, because
/// the first may have begun before.
const MEASURE_MS: u32 = 210;

/// Longest turn, ms.
pub const TURN_MS_MAX: u32 = MEASURE_MS;

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Veml7700 {
    address: u8,
    started: bool,
}

impl Veml7700 {
    /// A part at `address`, usually [`ADDRESS`]. Nothing is sent.
    pub const fn new(address: u8) -> Self {
        Self { address, started: false }
    }

    /// Starts a measurement; [`fetch`](Self::fetch) it after the returned time, ms.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c) -> Result<u32, PartError> {
        self.started = false;
        self.set(i2c, OFF)?;
        self.set(i2c, ON)?;
        self.started = true;
        Ok(MEASURE_MS)
    }

    /// Fetches what was started, lx, and switches the part off.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Stranger`] when the part lost its settings
    /// meanwhile, [`PartError::OutOfRange`] when it is too bright, or when the part does not
    /// acknowledge or the bus fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<f32>, PartError> {
        if !core::mem::take(&mut self.started) {
            return Err(PartError::NotStarted);
        }
        let count = self.read(i2c, ALS)?;
        if self.read(i2c, CONF)? != ON {
            return Err(PartError::Stranger);
        }
        self.set(i2c, OFF)?;
        if count == u16::MAX {
            return Err(PartError::OutOfRange);
        }
        Ok(Turn::Done(convert(count)))
    }

    fn set(&self, i2c: &mut impl I2c, word: u16) -> Result<(), PartError> {
        let [low, high] = word.to_le_bytes();
        i2c.write(self.address, &[CONF, low, high]).map_err(PartError::of_bus)
    }

    fn read(&self, i2c: &mut impl I2c, register: u8) -> Result<u16, PartError> {
        let mut word = [0; 2];
        i2c.write_read(self.address, &[register], &mut word).map_err(PartError::of_bus)?;
        Ok(u16::from_le_bytes(word))
    }
}

/// Raw count to lx. Above 1000 lx the part is not linear, and the maker's polynomial corrects it
/// (AN, "correction formula").
pub fn convert(count: u16) -> f32 {
    let x = f32::from(count) * LX_PER_COUNT;
    if x <= 1_000.0 {
        return x;
    }
    (((6.013_5e-13 * x - 9.392_4e-9) * x + 8.148_8e-5) * x + 1.002_3) * x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_half_a_lux_and_bright_light_is_corrected_upwards() {
        assert_eq!(convert(0), 0.0);
        assert!((convert(100) - 53.76).abs() < 1e-3);
        // 10 000 lx uncorrected: 6013.5 − 9392.4 + 8148.8 + 10 023.
        let corrected = convert(18_601);
        assert!((corrected - 14_793.0).abs() < 5.0, "{corrected}");
        // Brighter is more, up to full sun.
        assert!((0..45_000).all(|count| convert(count) < convert(count + 1)));
        assert!(convert(45_000) > 120_000.0);
    }
}
