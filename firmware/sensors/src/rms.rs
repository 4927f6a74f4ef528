//! Alternating current by a clamp on an ADC: the proof that an aerator's motor runs.
//!
//! The clamp's voltage rides on half the converter's range. Sums of samples and of their squares
//! give the root mean square without that offset. What a volt is in ampere is the config's slope:
//! 30 for a clamp of 30 A and 1 V.

use telemetry::MissingReason;

/// Shortest window, ms: two periods of 50 Hz.
pub const WINDOW_MS_MIN: u32 = 40;
/// The best window, ms: whole periods of both 50 and 60 Hz. Others are wrong by a few per cent,
/// for they end within a period.
pub const WINDOW_MS: u32 = 100;
/// Samples at most, so that no sum overflows.
const SAMPLES_MAX: u32 = 1 << 15;
/// Samples at the converter's ends, of 100, from which on a window counts as clipped.
const CLIPPED_PCT_MAX: u32 = 2;

/// The converter that samples come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Converter {
    /// Samples a second.
    pub rate_hz: u32,
    /// Count at its upper end: 4095 with 12 bits.
    pub count_max: u16,
    /// Voltage of that count.
    pub reference_v: f32,
}

/// One window of samples.
#[derive(Clone, Copy, Debug)]
pub struct Rms {
    converter: Converter,
    samples: u32,
    clipped: u32,
    sum: u64,
    squares: u64,
}

impl Rms {
    /// A window without samples yet.
    pub const fn new(converter: Converter) -> Self {
        Self { converter, samples: 0, clipped: 0, sum: 0, squares: 0 }
    }

    /// One more sample; true while the window ([`WINDOW_MS`]) wants more. What comes after is
    /// ignored.
    pub fn push(&mut self, count: u16) -> bool {
        if self.wants_more() {
            self.samples += 1;
            self.clipped += u32::from(count == 0 || count >= self.converter.count_max);
            self.sum += u64::from(count);
            self.squares += u64::from(count) * u64::from(count);
        }
        self.wants_more()
    }

    fn wants_more(&self) -> bool {
        let wanted = u64::from(self.converter.rate_hz) * u64::from(WINDOW_MS) / 1_000;
        u64::from(self.samples) < wanted.min(u64::from(SAMPLES_MAX))
    }

    /// Root mean square without the offset, V.
    ///
    /// # Errors
    /// [`MissingReason::NotRead`] before there are two periods,
    /// [`MissingReason::OutOfRange`] when the converter was driven to its ends: also when nothing
    /// is connected and the input lies there.
    pub fn volts(&self) -> Result<f32, MissingReason> {
        let wanted = u64::from(self.converter.rate_hz) * u64::from(WINDOW_MS_MIN) / 1_000;
        if self.samples == 0 || u64::from(self.samples) < wanted {
            return Err(MissingReason::NotRead);
        }
        if self.clipped * 100 > self.samples * CLIPPED_PCT_MAX {
            return Err(MissingReason::OutOfRange);
        }
        // n²·variance = n·Σx² − (Σx)², never below zero; at most 2^62 by SAMPLES_MAX.
        let n = u64::from(self.samples);
        let spread = (n * self.squares).saturating_sub(self.sum * self.sum);
        let counts = spread.isqrt() as f32 / self.samples as f32;
        Ok(counts * self.converter.reference_v / f32::from(self.converter.count_max.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADC: Converter = Converter { rate_hz: 2_000, count_max: 4_095, reference_v: 3.3 };

    /// A sine of this many counts on an offset.
    fn window(amplitude: f64, offset: f64, hertz: f64, samples: u32) -> Rms {
        let mut rms = Rms::new(ADC);
        for index in 0..samples {
            let angle = core::f64::consts::TAU * hertz * f64::from(index) / f64::from(ADC.rate_hz) + 0.3;
            rms.push((offset + amplitude * angle.sin()).round().clamp(0.0, 4_095.0) as u16);
        }
        rms
    }

    #[test]
    fn a_sine_is_its_amplitude_by_the_root_of_two_at_50_and_60_hz() {
        for hertz in [50.0, 60.0] {
            for offset in [1_900.0, 2_048.0, 2_200.0] {
                let volts = window(1_000.0, offset, hertz, 200).volts().unwrap();
                let wanted = 1_000.0 / 2_f32.sqrt() * 3.3 / 4_095.0;
                assert!((volts / wanted - 1.0).abs() < 0.002, "{hertz} Hz: {volts}");
            }
        }
    }

    #[test]
    fn a_motor_that_stands_draws_nothing() {
        assert_eq!(window(0.0, 2_048.0, 50.0, 200).volts(), Ok(0.0));
        // One count of noise on a clamp of 30 A/V is 0.02 A.
        assert!(window(1.0, 2_048.0, 50.0, 200).volts().unwrap() * 30.0 < 0.03);
    }

    #[test]
    fn too_few_samples_and_a_converter_at_its_end_are_no_current() {
        assert_eq!(window(1_000.0, 2_048.0, 50.0, 79).volts(), Err(MissingReason::NotRead));
        assert!(window(1_000.0, 2_048.0, 50.0, 80).volts().is_ok());
        assert_eq!(window(3_000.0, 2_048.0, 50.0, 200).volts(), Err(MissingReason::OutOfRange));
        for end in [0.0, 4_095.0] {
            assert_eq!(window(0.0, end, 50.0, 200).volts(), Err(MissingReason::OutOfRange));
        }
        assert_eq!(Rms::new(ADC).volts(), Err(MissingReason::NotRead));
    }

    #[test]
    fn a_window_takes_no_more_than_it_wants_and_its_sums_hold() {
        let fast = Converter { rate_hz: 1_000_000, count_max: u16::MAX, reference_v: 1.0 };
        let mut rms = Rms::new(fast);
        for index in 0..200_000_u32 {
            rms.push(if index % 2 == 0 { 1 } else { u16::MAX - 1 });
        }
        // Half the scale, but for the two counts.
        assert_eq!(rms.samples, SAMPLES_MAX);
        assert_eq!(rms.volts(), Err(MissingReason::NotRead), "32 ms are less than two periods");
        let mut rms = Rms::new(Converter { rate_hz: 300_000, ..fast });
        while rms.push(if rms.samples.is_multiple_of(2) { 1 } else { u16::MAX - 1 }) {}
        assert!((rms.volts().unwrap() - 0.5).abs() < 1e-4);
    }
}
