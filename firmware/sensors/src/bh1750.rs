//! ROHM BH1750FVI: illuminance over I2C.
//!
//! One measurement a turn at the usual sensitivity, and where the sun is too bright for that, a
//! second one at less than half of it. The `bh1750` crate is for an older embedded-hal and sleeps.
//!
//! The part has no check sum, and nothing in it can be read back. One that lost its power meanwhile
//! gives 0, as it does in the dark: so 0 counts when it comes twice.
//!
//! Reference: BH1750FVI technical note rev. D (here *BH1750*).

use embedded_hal::i2c::I2c;

use crate::{PartError, Turn};

/// With ADDR at ground; 5Ch with ADDR at supply.
pub const ADDRESS: u8 = 0x23;

const POWER_ON: u8 = 0x01;
/// One measurement of 1 lx resolution, then power down (BH1750 p. 5).
const ONE_TIME: u8 = 0x20;
/// Measurement time register as shipped, and the least it takes (BH1750 p. 11).
const USUAL: u8 = 69;
const LEAST: u8 = 31;
/// At most, with the usual register, ms (BH1750 p. 2); it is in proportion to the register.
const MEASURE_MS: u32 = 180;

/// Longest turn, ms: 0 once, then both sensitivities.
pub const TURN_MS_MAX: u32 = 3 * MEASURE_MS;

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Bh1750 {
    address: u8,
    /// Measurement time register of the measurement that runs; 0 while none does.
    time: u8,
    /// It gave 0 before.
    dark: bool,
}

impl Bh1750 {
    /// A part at `address`, usually [`ADDRESS`]. Nothing is sent.
    pub const fn new(address: u8) -> Self {
        Self { address, time: 0, dark: false }
    }

    /// Starts a measurement; [`fetch`](Self::fetch) it after the returned time, ms.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c) -> Result<u32, PartError> {
        self.dark = false;
        self.measure(i2c, USUAL)
    }

    /// Fetches what was started, lx, 0…121 000.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::OutOfRange`] when it is too bright, or when the
    /// part does not acknowledge or the bus fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<f32>, PartError> {
        let time = core::mem::take(&mut self.time);
        if time == 0 {
            return Err(PartError::NotStarted);
        }
        let mut raw = [0; 2];
        i2c.read(self.address, &mut raw).map_err(PartError::of_bus)?;
        match u16::from_be_bytes(raw) {
            0 if !self.dark => {
                self.dark = true;
                Ok(Turn::Later(self.measure(i2c, USUAL)?))
            }
            u16::MAX if time == USUAL => Ok(Turn::Later(self.measure(i2c, LEAST)?)),
            u16::MAX => Err(PartError::OutOfRange),
            raw => Ok(Turn::Done(convert(raw, time))),
        }
    }

    fn measure(&mut self, i2c: &mut impl I2c, time: u8) -> Result<u32, PartError> {
        self.time = 0;
        for command in [POWER_ON, 0x40 | time >> 5, 0x60 | time & 0x1F, ONE_TIME] {
            i2c.write(self.address, &[command]).map_err(PartError::of_bus)?;
        }
        self.time = time;
        Ok(MEASURE_MS * u32::from(time) / u32::from(USUAL) + 1)
    }
}

/// Raw count to lx (BH1750 p. 11).
pub fn convert(raw: u16, time: u8) -> f32 {
    f32::from(raw) / 1.2 * (f32::from(USUAL) / f32::from(time.max(LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_technical_notes_example_is_28067_lx() {
        // BH1750 p. 7: 1000 0011 1001 0000.
        assert!((convert(0x8390, USUAL) - 28_066.7).abs() < 0.05);
        assert_eq!(convert(0, USUAL), 0.0);
        // The brightest that it can tell.
        assert!((convert(0xFFFE, LEAST) - 121_554.0).abs() < 1.0);
    }
}
