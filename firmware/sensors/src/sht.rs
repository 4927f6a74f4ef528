//! Sensirion SHT3x and SHT4x: air temperature and relative humidity over I2C.
//!
//! A measurement is started and fetched in two calls, so that a control loop never waits the
//! 8 to 16 ms between them. That is why the `sht4x` crate is not used here: its `measure` sleeps
//! in between, knows only one of the two families and brings fixed-point types.
//!
//! Deliberately absent: the heater, alerts and periodic mode.
//!
//! References: SHT3x-DIS datasheet v7 (here *SHT3x*), SHT4x datasheet v6 (here *SHT4x*).

use embedded_hal::i2c::I2c;

use crate::PartError;

/// Address of most parts of both families; 45h is the other one.
pub const ADDRESS: u8 = 0x44;

/// Which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SHT30, SHT31, SHT35.
    Sht3x,
    /// SHT40, SHT41, SHT45.
    Sht4x,
}

impl Family {
    /// Single shot, highest repeatability, without clock stretching (SHT3x §4.3, SHT4x §4.5).
    const fn command(self) -> &'static [u8] {
        match self {
            Self::Sht3x => &[0x24, 0x00],
            Self::Sht4x => &[0xFD],
        }
    }

    /// From start to fetch, ms: 15.5 ms at low supply (SHT3x table 4), 8.3 ms (SHT4x table 5),
    /// rounded up.
    pub const fn duration_ms(self) -> u32 {
        match self {
            Self::Sht3x => 16,
            Self::Sht4x => 9,
        }
    }
}

/// What one measurement gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Climate {
    /// Air temperature, °C, −45…130.
    pub temperature_c: f32,
    /// Relative humidity, %, 0…100.
    pub humidity_pct: f32,
}

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Sht {
    family: Family,
    address: u8,
}

impl Sht {
    /// A part at `address`, usually [`ADDRESS`]. Nothing is sent.
    pub const fn new(family: Family, address: u8) -> Self {
        Self { family, address }
    }

    /// Starts a measurement; [`fetch`](Self::fetch) it after the returned time, ms.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c) -> Result<u32, PartError> {
        i2c.write(self.address, self.family.command()).map_err(PartError::of_bus)?;
        Ok(self.family.duration_ms())
    }

    /// Fetches what was started.
    ///
    /// # Errors
    /// [`PartError::NoAnswer`] also when it is too early, or nothing was started: then the part
    /// does not acknowledge.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Climate, PartError> {
        let mut answer = [0; 6];
        i2c.read(self.address, &mut answer).map_err(PartError::of_bus)?;
        decode(self.family, answer)
    }
}

/// Checks and converts the six bytes of an answer: temperature, CRC, humidity, CRC.
///
/// # Errors
/// [`PartError::Crc`]; a bus stuck high or low fails it too.
pub fn decode(family: Family, answer: [u8; 6]) -> Result<Climate, PartError> {
    let [t_high, t_low, t_crc, h_high, h_low, h_crc] = answer;
    if crc8(&[t_high, t_low]) != t_crc || crc8(&[h_high, h_low]) != h_crc {
        return Err(PartError::Crc);
    }
    Ok(convert(family, u16::from_be_bytes([t_high, t_low]), u16::from_be_bytes([h_high, h_low])))
}

/// Raw words to units (SHT3x §4.13, SHT4x §4.6). Humidity is cropped to 0…100 %, as the SHT4x
/// datasheet advises: its formula reaches −6 and 119 %.
pub fn convert(family: Family, temperature: u16, humidity: u16) -> Climate {
    let fraction = |raw: u16| f32::from(raw) / 65_535.0;
    let humidity_pct = match family {
        Family::Sht3x => 100.0 * fraction(humidity),
        Family::Sht4x => -6.0 + 125.0 * fraction(humidity),
    };
    Climate { temperature_c: -45.0 + 175.0 * fraction(temperature), humidity_pct: humidity_pct.clamp(0.0, 100.0) }
}

/// Sensirion's CRC-8: polynomial 31h, start FFh (SHT3x §4.12, SHT4x §4.4).
pub fn crc8(bytes: &[u8]) -> u8 {
    let mut crc = 0xFF_u8;
    for &byte in bytes {
        crc ^= byte;
        for _ in 0..8 {
            let carry = crc & 0x80 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x31;
            }
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 0.005
    }

    #[test]
    fn the_crc_is_the_datasheets() {
        assert_eq!(crc8(&[0xBE, 0xEF]), 0x92);
        assert_eq!(crc8(&[0x66, 0x67]), 0xA2);
        assert_eq!(crc8(&[0x5E, 0xB9]), 0x3C);
    }

    #[test]
    fn both_families_convert_as_their_datasheets_say() {
        let sht3x = convert(Family::Sht3x, 0x6667, 0x5EB9);
        assert!(near(sht3x.temperature_c, 25.0) && near(sht3x.humidity_pct, 37.0));
        // (60 + 6) / 125 of the scale.
        let sht4x = convert(Family::Sht4x, 0x6667, 34_602);
        assert!(near(sht4x.temperature_c, 25.0) && near(sht4x.humidity_pct, 60.0));
        let ends = [convert(Family::Sht4x, 0, 0), convert(Family::Sht4x, u16::MAX, u16::MAX)];
        assert_eq!((ends[0].temperature_c, ends[0].humidity_pct), (-45.0, 0.0));
        assert_eq!((ends[1].temperature_c, ends[1].humidity_pct), (130.0, 100.0));
    }

    #[test]
    fn no_bit_flip_of_an_answer_and_no_stuck_bus_is_a_climate() {
        let answer = [0x66, 0x67, 0xA2, 0x5E, 0xB9, 0x3C];
        assert!(decode(Family::Sht3x, answer).is_ok());
        for bit in 0..48 {
            let mut flipped = answer;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(Family::Sht3x, flipped), Err(PartError::Crc));
        }
        for stuck in [0x00, 0xFF] {
            assert_eq!(decode(Family::Sht4x, [stuck; 6]), Err(PartError::Crc));
        }
    }
}
