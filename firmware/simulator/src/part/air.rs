//! SHT3x, SHT4x, SCD4x and BME280.

use telemetry::Property;

use super::{Chip, Nack, Seen};

/// Sensirion's CRC-8 (SHT4x datasheet §4.4), by the book: one bit at a time.
fn crc(word: [u8; 2]) -> u8 {
    let mut rest = u32::from(word[0] ^ 0xFF) << 16 | u32::from(word[1]) << 8;
    for bit in (8..24).rev() {
        if rest >> bit & 1 != 0 {
            rest ^= 0x131 << (bit - 8);
        }
    }
    rest as u8
}

/// Words, each with its check sum.
fn words(words: &[u16]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| {
            let [high, low] = word.to_be_bytes();
            [high, low, crc([high, low])]
        })
        .collect()
}

/// A word of a linear scale.
fn scaled(value: f64, from: f64, span: f64) -> u16 {
    // The cast holds at the type's ends, which is what converters do.
    ((value - from) / span * 65_535.0).round() as u16
}

/// Gives what is there, then FFh: a bus that nobody drives.
fn give(bytes: &[u8], into: &mut [u8]) {
    for (index, place) in into.iter_mut().enumerate() {
        *place = bytes.get(index).copied().unwrap_or(0xFF);
    }
}

pub(super) struct Sht {
    fourth: bool,
    temperature: Property,
    started_us: Option<u64>,
}

impl Sht {
    pub(super) fn new(fourth: bool, temperature: Property) -> Self {
        Self { fourth, temperature, started_us: None }
    }
}

impl Chip for Sht {
    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        let command: &[u8] = if self.fourth { &[0xFD] } else { &[0x24, 0x00] };
        if bytes != command {
            return Err(Nack);
        }
        self.started_us = Some(seen.now_us);
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], seen: &Seen<'_>) -> Result<(), Nack> {
        // SHT4x table 5, SHT3x table 4: at most.
        let needs_us = if self.fourth { 8_300 } else { 15_500 };
        if self.started_us.is_none_or(|it| seen.now_us < it + needs_us) {
            return Err(Nack);
        }
        self.started_us = None;
        let (from, span) = if self.fourth { (-6.0, 125.0) } else { (0.0, 100.0) };
        let humidity = scaled(seen.value(Property::RelativeHumidity), from, span);
        give(&words(&[scaled(seen.value(self.temperature), -45.0, 175.0), humidity]), into);
        Ok(())
    }

    fn reset(&mut self) {
        self.started_us = None;
    }
}

const PERIOD_US: u64 = 5_000_000;

pub(super) struct Scd4x {
    temperature: Property,
    since_us: Option<u64>,
    stopping_until_us: u64,
    read: u64,
    pressure_hpa: f64,
    answer: Option<(u64, Vec<u8>)>,
}

impl Scd4x {
    pub(super) fn new(temperature: Property) -> Self {
        let pressure_hpa = 1_013.0;
        Self { temperature, since_us: None, stopping_until_us: 0, read: 0, pressure_hpa, answer: None }
    }

    /// Measurements so far.
    fn made(&self, now_us: u64) -> u64 {
        self.since_us.map_or(0, |since_us| now_us.saturating_sub(since_us) / PERIOD_US)
    }
}

impl Chip for Scd4x {
    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        let now_us = seen.now_us;
        if now_us < self.stopping_until_us {
            return Err(Nack);
        }
        self.answer = None;
        match (bytes, self.since_us) {
            ([0x3F, 0x86], _) => {
                self.since_us = None;
                self.stopping_until_us = now_us + 500_000;
            }
            // While it measures it takes no start.
            ([0x21, 0xB1], None) => (self.since_us, self.read) = (Some(now_us), 0),
            ([0xE0, 0x00, high, low, sum], _) if crc([*high, *low]) == *sum => {
                self.pressure_hpa = f64::from(u16::from_be_bytes([*high, *low]));
            }
            ([0xE4, 0xB8], _) => {
                let ready = self.made(now_us) > self.read;
                self.answer = Some((now_us + 1_000, words(&[if ready { 0x8006 } else { 0x8000 }])));
            }
            ([0xEC, 0x05], _) if self.made(now_us) > self.read => {
                self.read = self.made(now_us);
                // Infrared light is absorbed by molecules, not by shares of them.
                let air_hpa = (seen.truth)(Property::AirPressure).unwrap_or(1_013.0);
                let co2 = seen.value(Property::CarbonDioxide) * air_hpa / self.pressure_hpa;
                let temperature = scaled(seen.value(self.temperature), -45.0, 175.0);
                let humidity = scaled(seen.value(Property::RelativeHumidity), 0.0, 100.0);
                self.answer = Some((now_us + 1_000, words(&[co2.round() as u16, temperature, humidity])));
            }
            _ => return Err(Nack),
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], seen: &Seen<'_>) -> Result<(), Nack> {
        match self.answer.take() {
            Some((from_us, bytes)) if seen.now_us >= from_us => give(&bytes, into),
            _ => return Err(Nack),
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.temperature);
    }
}

/// Calibration words T1…T3, P1…P9 (those of the BMP280 datasheet §3.12), then H1…H6.
const T: [f64; 3] = [27_504.0, 26_435.0, -1_000.0];
const P: [f64; 9] = [36_477.0, -10_685.0, 3_024.0, 2_855.0, 140.0, -7.0, 15_500.0, -14_600.0, 6_000.0];
const H: [f64; 6] = [75.0, 362.0, 0.0, 322.0, 50.0, 30.0];

pub(super) struct Bme280 {
    temperature: Property,
    registers: [u8; 256],
    pointer: u8,
    done_us: Option<u64>,
}

impl Bme280 {
    pub(super) fn new(temperature: Property) -> Self {
        let mut registers = [0; 256];
        registers[0xD0] = 0x60;
        for (index, word) in T.iter().chain(&P).enumerate() {
            let [low, high] = (*word as i32 as u16).to_le_bytes();
            (registers[0x88 + 2 * index], registers[0x89 + 2 * index]) = (low, high);
        }
        registers[0xA1] = H[0] as u8;
        let (h2, h4, h5) = (H[1] as u16, H[3] as u16, H[4] as u16);
        [registers[0xE1], registers[0xE2]] = h2.to_le_bytes();
        registers[0xE3] = H[2] as u8;
        registers[0xE4] = (h4 >> 4) as u8;
        registers[0xE5] = (h4 & 15 | (h5 & 15) << 4) as u8;
        registers[0xE6] = (h5 >> 4) as u8;
        registers[0xE7] = H[5] as u8;
        // What data registers hold before a measurement.
        (registers[0xF7], registers[0xFA], registers[0xFD]) = (0x80, 0x80, 0x80);
        Self { temperature, registers, pointer: 0, done_us: None }
    }
}

/// BME280 appendix A, double precision.
fn pascal(adc: f64, fine: f64) -> f64 {
    let first = fine / 2.0 - 64_000.0;
    let mut second = first * first * P[5] / 32_768.0;
    second += first * P[4] * 2.0;
    second = second / 4.0 + P[3] * 65_536.0;
    let first = (P[2] * first * first / 524_288.0 + P[1] * first) / 524_288.0;
    let first = (1.0 + first / 32_768.0) * P[0];
    let p = (1_048_576.0 - adc - second / 4_096.0) * 6_250.0 / first;
    p + (P[8] * p * p / 2_147_483_648.0 + p * P[7] / 32_768.0 + P[6]) / 16.0
}

fn percent(adc: f64, fine: f64) -> f64 {
    let x = fine - 76_800.0;
    let wet = adc - (H[3] * 64.0 + H[4] / 16_384.0 * x);
    let h = wet * (H[1] / 65_536.0 * (1.0 + H[5] / 67_108_864.0 * x * (1.0 + H[2] / 67_108_864.0 * x)));
    h * (1.0 - H[0] * h / 524_288.0)
}

/// The whole number whose image is nearest to `wanted`, for a function that rises.
pub(super) fn solve(wanted: f64, rising: impl Fn(f64) -> f64, most: f64) -> f64 {
    let (mut low, mut high) = (0.0, most);
    while high - low > 1.0 {
        let middle = ((low + high) / 2.0_f64).floor();
        if rising(middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    if (rising(low) - wanted).abs() < (rising(high) - wanted).abs() { low } else { high }
}

impl Chip for Bme280 {
    fn settle(&mut self, seen: &Seen<'_>) {
        if self.done_us.is_none_or(|it| seen.now_us < it) {
            return;
        }
        self.done_us = None;
        let fine = |adc: f64| {
            let second = adc / 131_072.0 - T[0] / 8_192.0;
            (adc / 16_384.0 - T[0] / 1_024.0) * T[1] + second * second * T[2]
        };
        let adc_t = solve(seen.value(self.temperature), |adc| fine(adc) / 5_120.0, 1_048_575.0);
        let fine = fine(adc_t);
        let hpa = (seen.truth)(Property::AirPressure).unwrap_or(1_013.25);
        let adc_p = solve(-hpa * 100.0, |adc| -pascal(adc, fine), 1_048_575.0);
        let adc_h = solve(seen.value(Property::RelativeHumidity), |adc| percent(adc, fine), 65_535.0);
        let twenty = |adc: f64| ((adc as u32) << 4).to_be_bytes();
        let ([_, p2, p1, p0], [_, t2, t1, t0]) = (twenty(adc_p), twenty(adc_t));
        let [h1, h0] = (adc_h as u16).to_be_bytes();
        self.registers[0xF7..=0xFE].copy_from_slice(&[p2, p1, p0, t2, t1, t0, h1, h0]);
        self.registers[0xF4] &= 0xFC;
        self.registers[0xF3] = 0;
    }

    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        match bytes {
            [] => {}
            [register] => self.pointer = *register,
            pairs => {
                for pair in pairs.chunks_exact(2) {
                    self.registers[usize::from(pair[0])] = pair[1];
                    // Forced mode, with every quantity switched on.
                    if pair[0] == 0xF4 && pair[1] & 3 == 1 && pair[1] >> 2 == 0b00_1001 && self.registers[0xF2] == 1 {
                        self.done_us = Some(seen.now_us + 9_300);
                        self.registers[0xF3] = 8;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], _seen: &Seen<'_>) -> Result<(), Nack> {
        for place in into {
            *place = self.registers[usize::from(self.pointer)];
            self.pointer = self.pointer.wrapping_add(1);
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.temperature);
    }
}
