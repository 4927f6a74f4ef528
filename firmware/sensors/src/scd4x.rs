//! Sensirion SCD40 and SCD41: CO2, temperature and relative humidity of air over I2C.
//!
//! It measures by itself every 5 s; a turn takes the newest measurement, which is at most that
//! old, and the part forgets what was read. The `scd4x` crate sleeps up to 500 ms in its calls.
//!
//! Deliberately absent: single shot (SCD41 only), low power, and calibration by order. The part's
//! automatic calibration stays as shipped: it takes the least value of a week for fresh air, so a
//! house that is never aired needs it switched off by the maker's tool.
//!
//! Reference: SCD4x datasheet v1.5 (here *SCD4x*).

use embedded_hal::i2c::I2c;

use crate::{PartError, Turn, sht::crc8};

/// Its only address (SCD4x table 7).
pub const ADDRESS: u8 = 0x62;

const START: [u8; 2] = [0x21, 0xB1];
const STOP: [u8; 2] = [0x3F, 0x86];
const READY: [u8; 2] = [0xE4, 0xB8];
const READ: [u8; 2] = [0xEC, 0x05];
const PRESSURE: [u8; 2] = [0xE0, 0x00];

/// After stop, ms (SCD4x §3.5.3).
const STOP_MS: u32 = 500;
/// Between measurements, ms (SCD4x §3.5.1).
const PERIOD_MS: u32 = 5_000;
/// Between any other command and its answer, ms (SCD4x table 9).
const COMMAND_MS: u32 = 1;
/// Between questions whether it is ready, ms.
const ASK_MS: u32 = 500;
/// Questions before it counts as stuck: more than a period.
const ASKED_MAX: u8 = 12;

/// Longest turn, ms: stop, a period, and all questions.
pub const TURN_MS_MAX: u32 = STOP_MS + PERIOD_MS + ASKED_MAX as u32 * (ASK_MS + COMMAND_MS) + 10;

/// What one measurement gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Air {
    /// Carbon dioxide, ppm, 1…40 000.
    pub co2_ppm: f32,
    /// Temperature, °C; a little above the air's, for the part heats itself.
    pub temperature_c: f32,
    /// Relative humidity, %, 0…100.
    pub humidity_pct: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Idle,
    Pressure,
    Begin,
    Ask,
    Ready,
    Data,
}

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Scd4x {
    running: bool,
    step: Step,
    asked: u8,
    pressure_hpa: u16,
}

impl Scd4x {
    /// A part at [`ADDRESS`]. Nothing is sent.
    pub const fn new() -> Self {
        Self { running: false, step: Step::Idle, asked: 0, pressure_hpa: 0 }
    }

    /// Begins a turn; [`fetch`](Self::fetch) after the returned time, ms. With the air's pressure,
    /// hPa, CO2 is right at any altitude; without, at 1013 hPa.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c, pressure_hpa: Option<f32>) -> Result<u32, PartError> {
        // What the part takes (SCD4x §3.6.5); 0 says that there is none.
        self.pressure_hpa = pressure_hpa.filter(|it| (700.0..=1_200.0).contains(it)).map_or(0, |it| it as u16);
        (self.step, self.asked) = (Step::Pressure, 0);
        if self.running {
            return Ok(0);
        }
        // After this node's reset it may still be measuring, and would then take no start.
        self.send(i2c, &STOP)?;
        Ok(STOP_MS)
    }

    /// Goes on with the turn.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Crc`], [`PartError::Late`],
    /// [`PartError::Sentinel`], or when the part does not acknowledge or the bus fails. After any
    /// of these it is started anew by the next turn.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<Air>, PartError> {
        let turn = self.go_on(i2c);
        if turn.is_err() {
            (self.step, self.running) = (Step::Idle, false);
        }
        turn
    }

    fn go_on(&mut self, i2c: &mut impl I2c) -> Result<Turn<Air>, PartError> {
        let (next, wait_ms) = match self.step {
            Step::Idle => return Err(PartError::NotStarted),
            Step::Pressure if self.pressure_hpa == 0 => (Step::Begin, 0),
            Step::Pressure => {
                let [high, low] = self.pressure_hpa.to_be_bytes();
                let [a, b] = PRESSURE;
                self.send(i2c, &[a, b, high, low, crc8(&[high, low])])?;
                (Step::Begin, COMMAND_MS)
            }
            Step::Begin if self.running => (Step::Ask, 0),
            Step::Begin => {
                self.send(i2c, &START)?;
                self.running = true;
                (Step::Ask, PERIOD_MS)
            }
            Step::Ask => {
                self.send(i2c, &READY)?;
                (Step::Ready, COMMAND_MS)
            }
            Step::Ready => {
                let mut answer = [0; 3];
                i2c.read(ADDRESS, &mut answer).map_err(PartError::of_bus)?;
                // The last eleven bits are 0 while there is nothing new (SCD4x §3.8.2).
                if word(answer)? & 0x07FF != 0 {
                    self.send(i2c, &READ)?;
                    (Step::Data, COMMAND_MS)
                } else if self.asked < ASKED_MAX {
                    self.asked += 1;
                    (Step::Ask, ASK_MS)
                } else {
                    return Err(PartError::Late);
                }
            }
            Step::Data => {
                let mut answer = [0; 9];
                i2c.read(ADDRESS, &mut answer).map_err(PartError::of_bus)?;
                self.step = Step::Idle;
                return decode(answer).map(Turn::Done);
            }
        };
        self.step = next;
        Ok(Turn::Later(wait_ms))
    }

    fn send(&self, i2c: &mut impl I2c, bytes: &[u8]) -> Result<(), PartError> {
        i2c.write(ADDRESS, bytes).map_err(PartError::of_bus)
    }
}

impl Default for Scd4x {
    fn default() -> Self {
        Self::new()
    }
}

/// A word and its check sum.
fn word([high, low, crc]: [u8; 3]) -> Result<u16, PartError> {
    if crc8(&[high, low]) == crc { Ok(u16::from_be_bytes([high, low])) } else { Err(PartError::Crc) }
}

/// Checks and converts the nine bytes of an answer.
///
/// # Errors
/// [`PartError::Crc`]; [`PartError::Sentinel`] for 0 ppm, which no air has.
pub fn decode(answer: [u8; 9]) -> Result<Air, PartError> {
    let [a, b, c, d, e, f, g, h, i] = answer;
    let (co2, temperature, humidity) = (word([a, b, c])?, word([d, e, f])?, word([g, h, i])?);
    if co2 == 0 {
        return Err(PartError::Sentinel);
    }
    Ok(convert(co2, temperature, humidity))
}

/// Raw words to units (SCD4x §3.5.2).
pub fn convert(co2: u16, temperature: u16, humidity: u16) -> Air {
    let fraction = |raw: u16| f32::from(raw) / 65_535.0;
    Air {
        co2_ppm: f32::from(co2),
        temperature_c: -45.0 + 175.0 * fraction(temperature),
        humidity_pct: 100.0 * fraction(humidity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of SCD4x §3.5.2: 500 ppm, 25 °C, 37 %.
    const ANSWER: [u8; 9] = [0x01, 0xF4, 0x33, 0x66, 0x67, 0xA2, 0x5E, 0xB9, 0x3C];

    #[test]
    fn the_datasheets_answer_is_500_ppm() {
        let air = decode(ANSWER).unwrap();
        assert_eq!(air.co2_ppm, 500.0);
        assert!((air.temperature_c - 25.0).abs() < 0.005 && (air.humidity_pct - 37.0).abs() < 0.005);
    }

    #[test]
    fn no_bit_flip_and_no_stuck_bus_is_air() {
        for bit in 0..72 {
            let mut flipped = ANSWER;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(flipped), Err(PartError::Crc));
        }
        for stuck in [0x00, 0xFF] {
            assert_eq!(decode([stuck; 9]), Err(PartError::Crc));
        }
        // 0 with its right check sum.
        let nothing = [0x00, 0x00, 0x81, 0x66, 0x67, 0xA2, 0x5E, 0xB9, 0x3C];
        assert_eq!(decode(nothing), Err(PartError::Sentinel));
    }
}
