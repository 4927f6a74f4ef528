//! When the night ends: what an aerator's night floor needs to know of the sun.
//!
//! It owns no clock: UTC comes in, from whoever knows it.

use core::f32::consts::{FRAC_PI_2, PI};

use libm::sqrtf;

/// The floor holds from local midnight until so long after sunrise (domain page §4), min.
const AFTER_SUNRISE_MIN: i64 = 60;
const DAY_MS: i64 = 86_400_000;
/// Height of the sun's centre at sunrise, with refraction and its radius: −0.833°.
const SUNRISE_SIN: f32 = -0.014_538;

/// Where a node stands, and its local time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Degrees north, −66–66: beyond there are days without a sunrise.
    pub latitude: f32,
    /// Degrees east, −180–180.
    pub longitude: f32,
    /// Local time less UTC, min, −720–840; 480 in China.
    pub utc_offset_min: i16,
}

impl Place {
    /// Whether its numbers are on this planet.
    pub fn is_possible(&self) -> bool {
        (-66.0..=66.0).contains(&self.latitude)
            && (-180.0..=180.0).contains(&self.longitude)
            && (-720..=840).contains(&self.utc_offset_min)
    }

    /// Whether it is between midnight and an hour after sunrise.
    pub fn is_night(&self, utc_ms: i64) -> bool {
        let local_ms = utc_ms.saturating_add(i64::from(self.utc_offset_min) * 60_000);
        let minute = local_ms.rem_euclid(DAY_MS) / 60_000;
        minute < self.sunrise_min(local_ms.div_euclid(DAY_MS)) + AFTER_SUNRISE_MIN
    }

    /// Sunrise on a local day, counted from 1970-01-01, in minutes after local midnight. Within
    /// two minutes (NOAA's general solar position equations, after Spencer 1971).
    pub fn sunrise_min(&self, day: i64) -> i64 {
        // 1970 began with 1 January; the year of 365.2425 days keeps the phase without a calendar.
        let of_year = (day.saturating_mul(10_000)).rem_euclid(3_652_425) as f32 / 3_652_425.0;
        let angle = 2.0 * PI * of_year;
        let (s, c) = (sin(angle), sin(angle + FRAC_PI_2));
        let (s2, c2) = (2.0 * s * c, c * c - s * s);
        let (s3, c3) = (s2 * c + c2 * s, c2 * c - s2 * s);
        let equation_min = 229.18 * (0.000_075 + 0.001_868 * c - 0.032_077 * s - 0.014_615 * c2 - 0.040_849 * s2);
        let declination = 0.006_918 - 0.399_912 * c + 0.070_257 * s - 0.006_758 * c2 + 0.000_907 * s2 - 0.002_697 * c3
            + 0.001_48 * s3;
        let (sin_l, sin_d) = (sin(self.latitude * (PI / 180.0)), sin(declination));
        let cosines = sqrtf((1.0 - sin_l * sin_l) * (1.0 - sin_d * sin_d));
        let hour_angle = acos((SUNRISE_SIN - sin_l * sin_d) / cosines) * (180.0 / PI);
        let utc_min = 720.0 - 4.0 * (self.longitude + hour_angle) - equation_min;
        (utc_min as i64 + i64::from(self.utc_offset_min)).rem_euclid(1_440)
    }
}

/// Sine of an angle in −π…3π (Abramowitz and Stegun 4.3.97, within 2e-9): the sun needs neither
/// more digits nor larger angles, and a library's would cost four kilobytes.
fn sin(x: f32) -> f32 {
    let x = if x > PI { x - 2.0 * PI } else { x };
    let x = if x.abs() > FRAC_PI_2 { PI.copysign(x) - x } else { x };
    let y = x * x;
    let series = [-0.000_000_023_9, 0.000_002_752_6, -0.000_198_409, 0.008_333_332, -0.166_666_66, 1.0];
    x * series.into_iter().fold(0.0, |sum, c| sum * y + c)
}

/// Arc cosine of what is cut to −1…1 (Abramowitz and Stegun 4.4.45, within 7e-5, a second of time).
fn acos(x: f32) -> f32 {
    let y = x.abs().min(1.0);
    let series = [-0.018_729_3, 0.074_261, -0.212_114_4, 1.570_728_8];
    let angle = sqrtf(1.0 - y) * series.into_iter().fold(0.0, |sum, c| sum * y + c);
    if x < 0.0 { PI - angle } else { angle }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUZHOU: Place = Place { latitude: 26.07, longitude: 119.30, utc_offset_min: 480 };
    /// 2026-01-01.
    const DAY_2026: i64 = 20_454;

    #[test]
    fn the_sun_rises_within_two_minutes_of_the_almanac() {
        let harbin = Place { latitude: 45.80, longitude: 126.53, utc_offset_min: 480 };
        let quito = Place { latitude: -0.18, longitude: -78.47, utc_offset_min: -300 };
        let hobart = Place { latitude: -42.88, longitude: 147.33, utc_offset_min: 600 };
        // Days of 2026 and sunrise in minutes, by the astral library 3.2 (Meeus' algorithms).
        for (place, of) in [
            (FUZHOU, [(78, 367), (171, 312), (265, 352), (354, 406), (405, 402)]),
            (harbin, [(78, 338), (171, 224), (265, 322), (354, 432), (405, 405)]),
            (quito, [(78, 378), (171, 373), (265, 363), (354, 368), (405, 385)]),
            (hobart, [(78, 373), (171, 462), (265, 359), (354, 268), (405, 324)]),
        ] {
            for (day, wanted) in of {
                let got = place.sunrise_min(DAY_2026 + day);
                assert!((got - wanted).abs() <= 2, "{place:?} day {day}: {got} instead of {wanted}");
            }
        }
    }

    #[test]
    fn the_floor_holds_from_midnight_to_an_hour_after_sunrise() {
        let at = |hour: i64, minute: i64| (DAY_2026 + 171) * DAY_MS + ((hour - 8) * 60 + minute) * 60_000;
        for (hour, minute, night) in
            [(23, 59, false), (0, 0, true), (3, 0, true), (6, 8, true), (6, 16, false), (12, 0, false)]
        {
            assert_eq!(FUZHOU.is_night(at(hour, minute)), night, "{hour}:{minute}");
        }
    }

    #[test]
    fn the_small_sine_and_arc_cosine_are_right() {
        for step in -180..540 {
            let x = step as f32 * PI / 180.0;
            assert!((sin(x) - x.sin()).abs() < 1e-6, "sin {x}");
        }
        for step in -110..=110 {
            let x = step as f32 / 100.0;
            assert!((acos(x) - x.clamp(-1.0, 1.0).acos()).abs() < 1e-4, "acos {x}");
        }
    }

    #[test]
    fn any_instant_is_borne() {
        for utc_ms in [i64::MIN, -1, 0, i64::MAX] {
            FUZHOU.is_night(utc_ms);
        }
    }
}
