//! 4–20 mA loops on an ADS1115: four current transmitters over I2C.
//!
//! The registers are the `ads1x1x` crate's; here are the loop's meaning and its faults. A conversion
//! is started and fetched in separate calls, so that a control loop never waits.
//!
//! Deliberately absent: differential inputs, the comparator, other ranges than ±2.048 V.
//!
//! References: ADS1115 datasheet SBAS444E, NAMUR NE 43 (what currents beside 4–20 mA mean).

use ads1x1x::{Ads1x1x, Error as AdcError, TargetAddr, channel, ic::Ads1115, ic::Resolution16Bit, mode::OneShot};
use embedded_hal::i2c::I2c;
use telemetry::MissingReason;

use crate::PartError;

/// Volts of one count at ±2.048 V (SBAS444E table 3): 62.5 µV.
const VOLTS_PER_COUNT: f32 = 2.048 / 32_768.0;
/// Below it the transmitter says that it failed, or the loop is open (NE 43; **unverified**).
pub const FAULT_BELOW_MA: f32 = 3.6;
/// Above it the transmitter says that it failed, or the loop is shorted (NE 43; **unverified**).
pub const FAULT_ABOVE_MA: f32 = 21.0;
/// From start to fetch, ms: 1/128 s ± 10 % (SBAS444E §6.5), twice, because one that was never
/// fetched may still be running. A part that takes longer is broken: give up.
pub const CONVERSION_MS_MAX: u32 = 18;

/// Input against ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// AIN0.
    A0,
    /// AIN1.
    A1,
    /// AIN2.
    A2,
    /// AIN3.
    A3,
}

impl Input {
    /// Input number 0…3.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::A0,
            1 => Self::A1,
            2 => Self::A2,
            3 => Self::A3,
            _ => return None,
        })
    }
}

/// What a loop's current means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoopRange {
    shunt_ohm: f32,
    at_4_ma: f32,
    at_20_ma: f32,
}

impl LoopRange {
    /// `at_4_ma` and `at_20_ma` in the property's unit; falling ranges are right too. `None` when
    /// the shunt is not positive or anything is not finite.
    pub fn new(shunt_ohm: f32, at_4_ma: f32, at_20_ma: f32) -> Option<Self> {
        let sound = shunt_ohm.is_finite() && shunt_ohm > 0.0 && at_4_ma.is_finite() && at_20_ma.is_finite();
        sound.then_some(Self { shunt_ohm, at_4_ma, at_20_ma })
    }

    /// The loop's current, mA.
    pub fn current_ma(&self, count: i16) -> f32 {
        f32::from(count) * VOLTS_PER_COUNT / self.shunt_ohm * 1_000.0
    }

    /// The value in the property's unit. Between the faults and the ends of the range the line
    /// goes on straight: NE 43 lets a transmitter say 3.8 to 20.5 mA.
    ///
    /// # Errors
    /// [`MissingReason::OutOfRange`] beyond a fault limit, and at the converter's stop: 100 Ω
    /// reach it at 20.48 mA, below the fault limit, and what is above cannot be told.
    pub fn convert(&self, count: i16) -> Result<f32, MissingReason> {
        let current_ma = self.current_ma(count);
        if count == i16::MAX || !(FAULT_BELOW_MA..=FAULT_ABOVE_MA).contains(&current_ma) {
            return Err(MissingReason::OutOfRange);
        }
        Ok(self.at_4_ma + (current_ma - 4.0) / 16.0 * (self.at_20_ma - self.at_4_ma))
    }
}

/// The four inputs of one part.
pub struct LoopInputs<I2C> {
    adc: Ads1x1x<I2C, Ads1115, Resolution16Bit, OneShot>,
    started: Option<Input>,
}

impl<I2C: I2c> LoopInputs<I2C> {
    /// The part at 48h…4Bh, by its ADDR pin; nothing is sent. `None` for any other address.
    pub fn new(i2c: I2C, address: u8) -> Option<Self> {
        let address = match address {
            0x48 => TargetAddr::Gnd,
            0x49 => TargetAddr::Vdd,
            0x4A => TargetAddr::Sda,
            0x4B => TargetAddr::Scl,
            _ => return None,
        };
        Some(Self { adc: Ads1x1x::new_ads1115(i2c, address), started: None })
    }

    /// Gives the bus back.
    pub fn release(self) -> I2C {
        self.adc.destroy_ads1115()
    }

    /// Starts a conversion; [`fetch`](Self::fetch) it within the returned time, ms. What was
    /// started before and never fetched is forgotten: an old count never passes for a new one.
    ///
    /// # Errors
    /// When the part does not acknowledge or the bus fails.
    pub fn start(&mut self, input: Input) -> Result<u32, PartError> {
        self.started = None;
        if self.read(input)?.is_some() {
            // That was the count nobody fetched; now the conversion starts.
            self.read(input)?;
        }
        self.started = Some(input);
        Ok(CONVERSION_MS_MAX)
    }

    /// The count that was started, or `None` while it is not there yet.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], or when the part does not acknowledge or the bus fails.
    pub fn fetch(&mut self) -> Result<Option<i16>, PartError> {
        let input = self.started.ok_or(PartError::NotStarted)?;
        let count = self.read(input)?;
        if count.is_some() {
            self.started = None;
        }
        Ok(count)
    }

    fn read(&mut self, input: Input) -> Result<Option<i16>, PartError> {
        let count = match input {
            Input::A0 => self.adc.read(channel::SingleA0),
            Input::A1 => self.adc.read(channel::SingleA1),
            Input::A2 => self.adc.read(channel::SingleA2),
            Input::A3 => self.adc.read(channel::SingleA3),
        };
        match count {
            Ok(count) => Ok(Some(count)),
            Err(nb::Error::WouldBlock) => Ok(None),
            Err(nb::Error::Other(AdcError::I2C(error))) => Err(PartError::of_bus(error)),
            // Only the comparator's settings are checked by the crate, and none is made here.
            Err(nb::Error::Other(AdcError::InvalidInputData)) => Err(PartError::NotStarted),
        }
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
