//! 4–20 mA loops on an ADS1115: four current transmitters over I2C.
//!
//! A conversion is started and fetched in separate calls, so that a control loop never waits. The
//! `ads1x1x` crate does that too, but keeps the bus to itself, which here many parts share.
//!
//! Deliberately absent: differential inputs, the comparator, other ranges than ±2.048 V.
//!
//! References: ADS1115 datasheet SBAS444E, NAMUR NE 43 (what currents beside 4–20 mA mean).

use embedded_hal::i2c::I2c;
use telemetry::MissingReason;

use crate::{PartError, Turn};

/// Pointer of the conversion register (SBAS444E §8.6.1).
const CONVERSION: u8 = 0;
/// Pointer of the config register.
const CONFIG: u8 = 1;
/// Bit of the config register: no conversion runs.
const IDLE: u16 = 0x8000;
/// Mark in `asked`: what runs is not what was started.
const STALE: u8 = 0x80;
/// Questions, 1 ms apart, before a conversion counts as broken.
const ASKED_MAX: u8 = 10;

/// Volts of one count at ±2.048 V (SBAS444E table 3): 62.5 µV.
const VOLTS_PER_COUNT: f32 = 2.048 / 32_768.0;
/// Below it the transmitter says that it failed, or the loop is open (NE 43; **unverified**).
pub const FAULT_BELOW_MA: f32 = 3.6;
/// Above it the transmitter says that it failed, or the loop is shorted (NE 43; **unverified**).
pub const FAULT_ABOVE_MA: f32 = 21.0;
/// From start to fetch, ms: 1/128 s + 10 % (SBAS444E §6.5), rounded up.
pub const CONVERSION_MS: u32 = 9;

/// Volts at the input.
pub fn volts(count: i16) -> f32 {
    f32::from(count) * VOLTS_PER_COUNT
}

/// What a loop's current means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoopRange {
    shunt_ohm: f32,
    at_4_ma: f32,
    at_20_ma: f32,
}

impl LoopRange {
    /// A loop on 100 Ω in mA: the config's slope and offset say what they mean.
    pub const MILLIAMPERE: Self = Self { shunt_ohm: 100.0, at_4_ma: 4.0, at_20_ma: 20.0 };

    /// `at_4_ma` and `at_20_ma` in the property's unit; falling ranges are right too. `None` when
    /// the shunt is not positive or anything is not finite.
    pub fn new(shunt_ohm: f32, at_4_ma: f32, at_20_ma: f32) -> Option<Self> {
        let sound = shunt_ohm.is_finite() && shunt_ohm > 0.0 && at_4_ma.is_finite() && at_20_ma.is_finite();
        sound.then_some(Self { shunt_ohm, at_4_ma, at_20_ma })
    }

    /// The loop's current, mA.
    pub fn current_ma(&self, count: i16) -> f32 {
        volts(count) / self.shunt_ohm * 1_000.0
    }

    /// The value in the property's unit. Between the faults and the ends of the range the line
    /// goes on straight: NE 43 lets a transmitter say 3.8 to 20.5 mA.
    ///
    /// # Errors
    /// [`MissingReason::OutOfRange`] beyond a fault limit, and at the converter's stop: 100 Ω
    /// reach it at 20.48 mA, below the fault limit, and what is above cannot be told.
    pub fn convert(&self, count: i16) -> Result<f32, MissingReason> {
        if count == i16::MAX {
            return Err(MissingReason::OutOfRange);
        }
        self.of_volts(volts(count))
    }

    /// As [`convert`](Self::convert), of the voltage on the shunt.
    ///
    /// # Errors
    /// [`MissingReason::OutOfRange`] beyond a fault limit.
    pub fn of_volts(&self, volts: f32) -> Result<f32, MissingReason> {
        let current_ma = volts / self.shunt_ohm * 1_000.0;
        if !(FAULT_BELOW_MA..=FAULT_ABOVE_MA).contains(&current_ma) {
            return Err(MissingReason::OutOfRange);
        }
        Ok(self.at_4_ma + (current_ma - 4.0) / 16.0 * (self.at_20_ma - self.at_4_ma))
    }
}

/// One part, one conversion at a time.
#[derive(Clone, Copy, Debug)]
pub struct Ads1115 {
    address: u8,
    /// Config register of the conversion that runs; none while none does.
    config: Option<u16>,
    asked: u8,
}

impl Ads1115 {
    /// The part at 48h…4Bh, by its ADDR pin. Nothing is sent.
    pub const fn new(address: u8) -> Self {
        Self { address, config: None, asked: 0 }
    }

    /// Starts a conversion of input 0…3 against ground; [`fetch`](Self::fetch) it after the
    /// returned time, ms. One that still runs is waited for: while it does, the part takes no
    /// start (SBAS444E §8.4.2.1), and its count would pass for the new one.
    ///
    /// # Errors
    /// [`PartError::OutOfRange`] for another input, or when the part does not acknowledge or the
    /// bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c, input: u8) -> Result<u32, PartError> {
        self.config = None;
        self.asked = 0;
        if input > 3 {
            return Err(PartError::OutOfRange);
        }
        // Start, AINn to ground, ±2.048 V, single shot, 128/s, no comparator (SBAS444E §8.6.3).
        let config = 0xC583 | u16::from(input) << 12;
        if self.read(i2c, CONFIG)? & IDLE != 0 {
            self.write(i2c, config)?;
        } else {
            self.asked = STALE;
        }
        self.config = Some(config);
        Ok(CONVERSION_MS)
    }

    /// The count of the conversion that was started.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Late`] when it does not end,
    /// [`PartError::Stranger`] when the part lost its settings meanwhile, or when it does not
    /// acknowledge or the bus fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<i16>, PartError> {
        let config = self.config.take().ok_or(PartError::NotStarted)?;
        let now = self.read(i2c, CONFIG)?;
        if now & IDLE == 0 {
            if self.asked & !STALE >= ASKED_MAX {
                return Err(PartError::Late);
            }
            self.asked += 1;
            self.config = Some(config);
            return Ok(Turn::Later(1));
        }
        if self.asked & STALE != 0 {
            // That was the conversion nobody fetched; now this one starts.
            self.asked = 0;
            self.write(i2c, config)?;
            self.config = Some(config);
            return Ok(Turn::Later(CONVERSION_MS));
        }
        if now != config {
            return Err(PartError::Stranger);
        }
        Ok(Turn::Done(self.read(i2c, CONVERSION)? as i16))
    }

    fn write(&self, i2c: &mut impl I2c, config: u16) -> Result<(), PartError> {
        let [high, low] = config.to_be_bytes();
        i2c.write(self.address, &[CONFIG, high, low]).map_err(PartError::of_bus)
    }

    fn read(&self, i2c: &mut impl I2c, register: u8) -> Result<u16, PartError> {
        let mut word = [0; 2];
        i2c.write_read(self.address, &[register], &mut word).map_err(PartError::of_bus)?;
        Ok(u16::from_be_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level() -> LoopRange {
        LoopRange::new(100.0, 0.0, 5.0).unwrap()
    }

    #[test]
    fn counts_of_the_domain_page_are_4_12_and_20_ma() {
        for (count, current_ma, value) in [(6_400, 4.0, 0.0), (19_200, 12.0, 2.5), (32_000, 20.0, 5.0)] {
            assert!((level().current_ma(count) - current_ma).abs() < 1e-5);
            assert!((level().convert(count).unwrap() - value).abs() < 1e-5);
        }
    }

    #[test]
    fn a_broken_loop_is_no_value_and_its_margins_are() {
        let fault = Err(MissingReason::OutOfRange);
        for count in [0, -32_768, 5_759, 32_767] {
            assert_eq!(level().convert(count), fault, "{count}");
        }
        // 3.8 and 20.4 mA.
        assert!(level().convert(6_080).unwrap() < 0.0);
        assert!(level().convert(32_640).unwrap() > 5.0);
        // With 50 Ω the upper fault is within the converter's range.
        let half = LoopRange::new(50.0, 0.0, 5.0).unwrap();
        assert_eq!(half.convert(17_600), fault);
        assert!(half.convert(16_000).is_ok());
    }

    #[test]
    fn a_range_may_fall_and_may_not_be_nonsense() {
        let falling = LoopRange::new(100.0, 10.0, -10.0).unwrap();
        assert_eq!(falling.convert(19_200), Ok(0.0));
        for (shunt, low, high) in
            [(0.0, 0.0, 1.0), (-100.0, 0.0, 1.0), (f32::NAN, 0.0, 1.0), (100.0, f32::INFINITY, 1.0)]
        {
            assert_eq!(LoopRange::new(shunt, low, high), None);
        }
    }
}
