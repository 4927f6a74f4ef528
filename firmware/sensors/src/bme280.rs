//! Bosch BME280: temperature, relative humidity and pressure of air over I2C.
//!
//! One forced measurement a turn. The `bme280` crate sleeps 40 ms in its call and keeps the bus;
//! its arithmetic is the datasheet's, as here: floating point (appendix A), in single precision,
//! which is within 0.1 Pa of the double one.
//!
//! The part has no check sum. Calibration and settings are read anew each turn, and what is beyond
//! its range is no value, so that noise on the bus has little chance to pass.
//!
//! Reference: BME280 datasheet v1.24 (here *BME280*).

use embedded_hal::i2c::I2c;

use crate::{PartError, Turn};

/// With SDO at ground; 77h with SDO at supply.
pub const ADDRESS: u8 = 0x76;

const ID: u8 = 0xD0;
const CTRL_HUM: u8 = 0xF2;
const STATUS: u8 = 0xF3;
const CTRL_MEAS: u8 = 0xF4;
const DATA: u8 = 0xF7;
const CALIBRATION: u8 = 0x88;
const CALIBRATION_HUMIDITY: u8 = 0xE1;

/// What [`ID`] reads (BME280 §5.4.1); a BMP280, which knows no humidity, says 58h.
const CHIP: u8 = 0x60;
/// Temperature and pressure once each, forced (BME280 §5.4.5).
const FORCED: u8 = 0b0010_0101;
/// Bits of [`FORCED`] that stay when the measurement is done.
const OVERSAMPLING: u8 = 0b1111_1100;
/// Bits of the status: measuring, or copying its calibration.
const BUSY: u8 = 0b1001;
/// From start to fetch, ms: 9.3 at most (BME280 appendix B), rounded up.
const MEASURE_MS: u32 = 10;
/// Between questions after that, ms.
const ASK_MS: u32 = 2;
const ASKED_MAX: u8 = 10;

/// Longest turn, ms.
pub const TURN_MS_MAX: u32 = MEASURE_MS + ASKED_MAX as u32 * ASK_MS;

/// What one measurement gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Temperature, °C, −40…85.
    pub temperature_c: f32,
    /// Relative humidity, %, 0…100.
    pub humidity_pct: f32,
    /// Pressure where it is (not reduced to sea level), hPa, 300…1100.
    pub pressure_hpa: f32,
}

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Bme280 {
    address: u8,
    started: bool,
    asked: u8,
}

impl Bme280 {
    /// A part at `address`, usually [`ADDRESS`]. Nothing is sent.
    pub const fn new(address: u8) -> Self {
        Self { address, started: false, asked: 0 }
    }

    /// Starts a measurement; [`fetch`](Self::fetch) it after the returned time, ms.
    ///
    /// # Errors
    /// [`PartError::Stranger`], or when the part does not acknowledge or the bus fails.
    pub fn start(&mut self, i2c: &mut impl I2c) -> Result<u32, PartError> {
        self.started = false;
        let [chip] = self.read(i2c, ID)?;
        if chip != CHIP {
            return Err(PartError::Stranger);
        }
        i2c.write(self.address, &[CTRL_HUM, 1]).map_err(PartError::of_bus)?;
        i2c.write(self.address, &[CTRL_MEAS, FORCED]).map_err(PartError::of_bus)?;
        let [set] = self.read(i2c, CTRL_MEAS)?;
        if set & OVERSAMPLING != FORCED & OVERSAMPLING {
            return Err(PartError::Stranger);
        }
        (self.started, self.asked) = (true, 0);
        Ok(MEASURE_MS)
    }

    /// Fetches what was started.
    ///
    /// # Errors
    /// [`PartError::NotStarted`], [`PartError::Late`], what [`convert`] finds, or when the part
    /// does not acknowledge or the bus fails.
    pub fn fetch(&mut self, i2c: &mut impl I2c) -> Result<Turn<Weather>, PartError> {
        if !core::mem::take(&mut self.started) {
            return Err(PartError::NotStarted);
        }
        let [status] = self.read(i2c, STATUS)?;
        if status & BUSY != 0 {
            if self.asked >= ASKED_MAX {
                return Err(PartError::Late);
            }
            self.asked += 1;
            self.started = true;
            return Ok(Turn::Later(ASK_MS));
        }
        let (data, low, high) =
            (self.read(i2c, DATA)?, self.read(i2c, CALIBRATION)?, self.read(i2c, CALIBRATION_HUMIDITY)?);
        convert(data, low, high).map(Turn::Done)
    }

    fn read<const N: usize>(&self, i2c: &mut impl I2c, register: u8) -> Result<[u8; N], PartError> {
        let mut bytes = [0; N];
        i2c.write_read(self.address, &[register], &mut bytes).map_err(PartError::of_bus)?;
        Ok(bytes)
    }
}

/// Registers F7h…FEh, 88h…A1h and E1h…E7h to units (BME280 appendix A).
///
/// # Errors
/// [`PartError::Sentinel`] for the values of a measurement that was not made,
/// [`PartError::Garbled`] for a calibration that no part has, [`PartError::OutOfRange`] beyond what
/// the part can measure.
pub fn convert(data: [u8; 8], low: [u8; 26], high: [u8; 7]) -> Result<Weather, PartError> {
    let [p2, p1, p0, t2, t1, t0, h1, h0] = data;
    let twenty = |a: u8, b: u8, c: u8| u32::from(a) << 12 | u32::from(b) << 4 | u32::from(c) >> 4;
    let (adc_p, adc_t, adc_h) = (twenty(p2, p1, p0), twenty(t2, t1, t0), u16::from_be_bytes([h1, h0]));
    // What the registers hold before a measurement, or without one (BME280 table 15 and §5.4.9).
    if adc_p == 0x8_0000 || adc_t == 0x8_0000 || adc_h == 0x8000 {
        return Err(PartError::Sentinel);
    }
    #[rustfmt::skip]
    let [t1a, t1b, t2a, t2b, t3a, t3b, p1a, p1b, p2a, p2b, p3a, p3b, p4a, p4b, p5a, p5b, p6a, p6b,
         p7a, p7b, p8a, p8b, p9a, p9b, _, h1] = low;
    let [h2a, h2b, h3, e4, e5, e6, h6] = high;
    let unsigned = |a: u8, b: u8| f32::from(u16::from_le_bytes([a, b]));
    let signed = |a: u8, b: u8| f32::from(i16::from_le_bytes([a, b]));
    // Twelve bits, signed: the byte is the upper part of both.
    let twelve = |upper: u8, lower: u8| f32::from((i16::from(upper as i8) << 4) | i16::from(lower));

    let t = adc_t as f32;
    let (cal_1, cal_2, cal_3) = (unsigned(t1a, t1b), signed(t2a, t2b), signed(t3a, t3b));
    // A bus that is stuck; no part has these.
    if cal_1 == 0.0 || cal_1 == 65_535.0 {
        return Err(PartError::Garbled);
    }
    let from_zero = t / 131_072.0 - cal_1 / 8_192.0;
    let fine = (t / 16_384.0 - cal_1 / 1_024.0) * cal_2 + from_zero * from_zero * cal_3;
    let temperature_c = fine / 5_120.0;

    let half = fine / 2.0 - 64_000.0;
    let mut squared = half * half * signed(p6a, p6b) / 32_768.0 + half * signed(p5a, p5b) * 2.0;
    squared = squared / 4.0 + signed(p4a, p4b) * 65_536.0;
    let linear = (signed(p3a, p3b) * half * half / 524_288.0 + signed(p2a, p2b) * half) / 524_288.0;
    let divisor = (1.0 + linear / 32_768.0) * unsigned(p1a, p1b);
    let p = (1_048_576.0 - adc_p as f32 - squared / 4_096.0) * 6_250.0 / divisor;
    let (curve, slope) = (signed(p9a, p9b) * p * p / 2_147_483_648.0, p * signed(p8a, p8b) / 32_768.0);
    let pressure_hpa = (p + (curve + slope + signed(p7a, p7b)) / 16.0) / 100.0;

    let x = fine - 76_800.0;
    let wet = f32::from(adc_h) - (twelve(e4, e5 & 0x0F) * 64.0 + twelve(e6, e5 >> 4) / 16_384.0 * x);
    let bend = 1.0 + f32::from(h6 as i8) / 67_108_864.0 * x * (1.0 + f32::from(h3) / 67_108_864.0 * x);
    let h = wet * (signed(h2a, h2b) / 65_536.0 * bend);
    let humidity_pct = h * (1.0 - f32::from(h1) * h / 524_288.0);

    // NaN and infinity, which a calibration of zeros gives, are in no range.
    let inside = (-40.0..=85.0).contains(&temperature_c)
        && (300.0..=1_100.0).contains(&pressure_hpa)
        && humidity_pct.is_finite();
    if !inside {
        return Err(PartError::OutOfRange);
    }
    Ok(Weather { temperature_c, humidity_pct: humidity_pct.clamp(0.0, 100.0), pressure_hpa })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Temperature and pressure as in the worked example of the BMP280 datasheet §3.12 (the same
    /// registers and formulas); humidity with the coefficients of a part.
    fn calibration() -> ([u8; 26], [u8; 7]) {
        let words: [i32; 12] = [27_504, 26_435, -1_000, 36_477, -10_685, 3_024, 2_855, 140, -7, 15_500, -14_600, 6_000];
        let mut low = [0; 26];
        for (place, word) in low.chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&(word as u16).to_le_bytes());
        }
        low[25] = 75;
        // H2 = 362, H3 = 0, H4 = 322, H5 = 50, H6 = 30.
        let (h4, h5) = (322_u16, 50_u16);
        let high = [0x6A, 0x01, 0, (h4 >> 4) as u8, (h4 & 0xF | (h5 & 0xF) << 4) as u8, (h5 >> 4) as u8, 30];
        (low, high)
    }

    fn data(p: u32, t: u32, h: u16) -> [u8; 8] {
        let [_, p2, p1, p0] = (p << 4).to_be_bytes();
        let [_, t2, t1, t0] = (t << 4).to_be_bytes();
        let [h1, h0] = h.to_be_bytes();
        [p2, p1, p0, t2, t1, t0, h1, h0]
    }

    #[test]
    fn the_datasheets_example_is_25_08_degrees_and_1006_53_hpa() {
        let (low, high) = calibration();
        let weather = convert(data(415_148, 519_888, 30_000), low, high).unwrap();
        assert!((weather.temperature_c - 25.08).abs() < 0.005, "{weather:?}");
        assert!((weather.pressure_hpa - 1_006.532_7).abs() < 0.001, "{weather:?}");
        // Appendix A in double precision: 60.03.
        assert!((weather.humidity_pct - humidity(30_000.0, 128_422.285)).abs() < 0.001, "{weather:?}");
    }

    /// BME280 appendix A, double precision, with the coefficients of [`calibration`].
    fn humidity(adc: f64, fine: f64) -> f32 {
        let x = fine - 76_800.0;
        let h = (adc - (322.0 * 64.0 + 50.0 / 16_384.0 * x))
            * (362.0 / 65_536.0 * (1.0 + 30.0 / 67_108_864.0 * x * (1.0 + 0.0 / 67_108_864.0 * x)));
        (h * (1.0 - 75.0 * h / 524_288.0)).clamp(0.0, 100.0) as f32
    }

    #[test]
    fn what_was_not_measured_and_what_cannot_be_is_no_weather() {
        let (low, high) = calibration();
        for missing in [data(0x8_0000, 519_888, 30_000), data(415_148, 0x8_0000, 30_000), data(1, 2, 0x8000)] {
            assert_eq!(convert(missing, low, high), Err(PartError::Sentinel));
        }
        for stuck in [0x00, 0xFF] {
            assert!(convert([stuck; 8], [stuck; 26], [stuck; 7]).is_err());
            assert!(convert(data(415_148, 519_888, 30_000), [stuck; 26], [stuck; 7]).is_err());
        }
    }

    #[test]
    fn signed_twelve_bit_coefficients_keep_their_sign() {
        let (low, mut high) = calibration();
        // H4 = -1: FFFh; the lower half of E5 is its lowest four bits.
        high[3] = 0xFF;
        high[4] |= 0x0F;
        let with = convert(data(415_148, 519_888, 10_000), low, high).unwrap().humidity_pct;
        let x = 128_422.285 - 76_800.0_f64;
        let h = (10_000.0 - (-64.0 + 50.0 / 16_384.0 * x)) * (362.0 / 65_536.0 * (1.0 + 30.0 / 67_108_864.0 * x));
        assert!((f64::from(with) - h * (1.0 - 75.0 * h / 524_288.0)).abs() < 0.001, "{with}");
    }
}
