//! Small physical models of the places that nodes stand in: a pond, a cage, a greenhouse.
//!
//! They own what is true. What an instrument makes of it is [`crate::instrument`]'s. The models
//! are meant to have the right shape and size, not to predict a farm: each number is a textbook
//! magnitude (Boyd, *Water Quality in Ponds for Aquaculture*, 1990, for ponds), and the state is
//! seeded so that two runs are the same.

use core::f64::consts::{PI, TAU};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use telemetry::Property;

/// Longest step that the models are integrated with, s.
const STEP_S_MAX: f64 = 60.0;
/// Local time of Fuzhou: UTC+8.
const ZONE_MS: i64 = 8 * 3_600_000;

/// A place.
pub trait World: Send {
    /// Lets `dt_s` seconds pass, ending at this UTC.
    fn step(&mut self, utc_ms: i64, dt_s: f64);

    /// What is true of a property at a depth (m, 0 = surface; no meaning in the air), in the
    /// property's unit; none where the place has no such thing.
    fn value(&self, property: Property, depth_m: f64) -> Option<f64>;

    /// Switches one of its actuators.
    fn switch(&mut self, actuator: u8, on: bool);
}

/// Hour of the local day, 0–24.
fn hour(utc_ms: i64) -> f64 {
    (utc_ms + ZONE_MS).rem_euclid(86_400_000) as f64 / 3_600_000.0
}

/// Sun at this hour: 0 at night, 1 at a clear noon.
fn sun(hour: f64) -> f64 {
    (PI * (hour - 6.0) / 12.0).sin().max(0.0)
}

/// Oxygen at saturation, mg/L, of water at °C and salinity (Weiss, *Deep-Sea Research* 17, 1970;
/// 1.4276 g/L is the density of oxygen at 0 °C).
pub fn oxygen_saturation_mg_l(celsius: f64, salinity: f64) -> f64 {
    let h = (celsius + 273.15) / 100.0;
    let fresh = -173.4292 + 249.6339 / h + 143.3483 * h.ln() - 21.8492 * h;
    let salt = salinity * (-0.033_096 + 0.014_259 * h - 0.001_7 * h * h);
    (fresh + salt).exp() * 1.427_6
}

/// Chance for a world: bounded, seeded.
#[derive(Clone, Debug)]
pub(crate) struct Chance(ChaCha8Rng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Any 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Evenly within 0–1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0, deviation 1, within ±3.46: the sum of twelve even numbers would be
    /// within ±6; four are enough here.
    pub(crate) fn bell(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.unit()).sum();
        (sum - 2.0) * 3f64.sqrt()
    }
}

/// Walks `dt_s` in steps that the models bear.
fn steps(utc_ms: i64, dt_s: f64, mut step: impl FnMut(f64, f64)) {
    // A day is more than any host lets pass at once.
    let dt_s = dt_s.clamp(0.0, 86_400.0);
    let count = (dt_s / STEP_S_MAX).ceil().max(1.0);
    for index in 1..=count as u32 {
        let back_s = dt_s * (1.0 - f64::from(index) / count);
        step(hour(utc_ms - (back_s * 1e3) as i64), dt_s / count);
    }
}

/// A shrimp or fish pond of 1.5 m with two aerators (actuators 0 and 1) on the mains.
#[derive(Clone, Debug)]
pub struct Pond {
    temperature: f64,
    oxygen: f64,
    ph: f64,
    cloud: f64,
    aerating: [bool; 2],
    chance: Chance,
}

impl Pond {
    /// As at some morning.
    pub fn new(seed: u64) -> Self {
        Self { temperature: 28.5, oxygen: 5.0, ph: 8.0, cloud: 0.8, aerating: [false; 2], chance: Chance::new(seed) }
    }
}

impl World for Pond {
    fn step(&mut self, utc_ms: i64, dt_s: f64) {
        steps(utc_ms, dt_s, |hour, dt_s| {
            let dt_h = dt_s / 3_600.0;
            // Clouds wander within 0.4 and 1 (a clear sky), by about 0.1 an hour.
            self.cloud = (self.cloud + 0.1 * dt_h.sqrt() * self.chance.bell()).clamp(0.4, 1.0);
            let light = sun(hour) * self.cloud;
            let air = 28.0 + 4.0 * (TAU * (hour - 9.0) / 24.0).sin();
            self.temperature += dt_h * ((air - self.temperature) / 20.0 + 0.25 * light);
            // mg/L an hour: photosynthesis of a green pond, respiration with Q10 = 2, and the
            // animals' extra demand in the two hours after each of two feeds.
            let photosynthesis = 1.7 * light;
            let fed = [7.0, 17.0].into_iter().any(|at| (at..at + 2.0).contains(&hour));
            let respiration = 0.32 * 2f64.powf((self.temperature - 20.0) / 10.0) + if fed { 0.15 } else { 0.0 };
            // Through the surface, and by each aerator's wheel.
            let exchange = 0.04 + 0.5 * self.aerating.iter().filter(|on| **on).count() as f64;
            let saturation = oxygen_saturation_mg_l(self.temperature, 5.0);
            let change = photosynthesis - respiration + exchange * (saturation - self.oxygen);
            self.oxygen = (self.oxygen + dt_h * change).clamp(0.0, 25.0);
            // Taking CO2 out raises pH, respiration lowers it; alkalinity pulls it back.
            self.ph += dt_h * (0.12 * (photosynthesis - respiration) + (8.0 - self.ph) / 12.0);
            self.ph = self.ph.clamp(6.0, 10.5);
        });
    }

    fn value(&self, property: Property, depth_m: f64) -> Option<f64> {
        // Less light and more mud below: a little colder and poorer.
        let temperature = self.temperature - 0.4 * depth_m;
        let oxygen = (self.oxygen * (1.0 - 0.12 * depth_m)).max(0.0);
        Some(match property {
            Property::DissolvedOxygen => oxygen,
            Property::OxygenSaturation => 100.0 * oxygen / oxygen_saturation_mg_l(temperature, 5.0),
            Property::WaterTemperature => temperature,
            Property::Ph => self.ph,
            Property::Salinity => 5.0,
            Property::Level => 1.5,
            // Of the first aerator: 1.5 kW on three phases.
            Property::MotorCurrent if self.aerating[0] => 3.4,
            Property::MotorCurrent => 0.0,
            Property::Mains => 1.0,
            _ => return None,
        })
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        if let Some(aerating) = self.aerating.get_mut(usize::from(actuator)) {
            *aerating = on;
        }
    }
}

/// A cage in the sea. Tides of Fujian are large and semidiurnal: M2 about 2 m, S2 about 0.7 m.
#[derive(Clone, Debug)]
pub struct Cage {
    deep: bool,
    tide: f64,
    current: f64,
    hour: f64,
    bloom: f64,
    wind: f64,
    battery: f64,
    chance: Chance,
}

impl Cage {
    /// Near the shore: fresher, warmer, greener.
    pub fn near_shore(seed: u64) -> Self {
        Self::new(false, seed)
    }

    /// A platform in deep water: saltier, faster, rougher.
    pub fn deep_sea(seed: u64) -> Self {
        Self::new(true, seed)
    }

    fn new(deep: bool, seed: u64) -> Self {
        let (wind, chance) = (if deep { 8.0 } else { 4.0 }, Chance::new(seed));
        Self { deep, tide: 0.0, current: 0.0, hour: 12.0, bloom: 0.0, wind, battery: 12.6, chance }
    }

    /// Tilt of what hangs in the current, degrees from upright.
    pub fn tilt_deg(&self) -> f64 {
        (4.0 + 25.0 * self.current).min(80.0)
    }

    /// Its battery, V: filled by the sun, drawn down by night.
    pub fn battery_v(&self) -> f64 {
        self.battery
    }
}

impl World for Cage {
    fn step(&mut self, utc_ms: i64, dt_s: f64) {
        steps(utc_ms, dt_s, |hour, dt_s| {
            let dt_h = dt_s / 3_600.0;
            self.hour = hour;
            self.bloom = (self.bloom + 0.02 * dt_h.sqrt() * self.chance.bell()).clamp(-0.1, 0.1);
            let calm = if self.deep { 8.0 } else { 4.0 };
            self.wind += dt_h * (calm - self.wind) / 6.0 + 0.8 * dt_h.sqrt() * self.chance.bell();
            self.wind = self.wind.clamp(0.0, 30.0);
            self.battery = (self.battery + dt_h * (0.15 * sun(hour) - 0.04)).clamp(11.2, 13.8);
        });
        // Hours since 1970 keep the phase of the tide from run to run.
        let t_h = utc_ms as f64 / 3_600_000.0;
        let (m2, s2) = (TAU * t_h / 12.420_6, TAU * t_h / 12.0);
        self.tide = 2.0 * m2.cos() + 0.7 * s2.cos();
        let strength = if self.deep { 0.30 } else { 0.15 };
        self.current = (strength * (2.0 * m2.sin() + 0.7 * s2.sin())).abs() + 0.02;
    }

    fn value(&self, property: Property, depth_m: f64) -> Option<f64> {
        let day = (TAU * (self.hour - 9.0) / 24.0).sin();
        let (warm, salt) = if self.deep { (23.0, 33.6) } else { (25.0, 30.0) };
        let salinity = salt + if self.deep { 0.1 } else { 0.8 } * self.tide;
        let temperature = warm + 0.5 * day - 0.15 * self.tide - 0.08 * depth_m;
        let share = 0.96 + 0.05 * day + self.bloom - 0.01 * depth_m;
        let oxygen = (share * oxygen_saturation_mg_l(temperature, salinity)).max(0.0);
        let air = warm + 1.0 + 3.0 * day;
        Some(match property {
            Property::DissolvedOxygen => oxygen,
            Property::OxygenSaturation => 100.0 * share.max(0.0),
            Property::WaterTemperature => temperature,
            Property::Salinity => salinity,
            Property::Ph => 8.1 + 0.05 * day,
            Property::Level => 5.0 + self.tide,
            Property::CurrentSpeed => self.current,
            // Fully developed seas: H = 0.0246 U² (Pierson and Moskowitz, 1964), at most 10 m.
            Property::WaveHeight => (0.024_6 * self.wind * self.wind).min(10.0),
            Property::Turbidity => 5.0 + 30.0 * self.current,
            Property::WindSpeed => self.wind,
            // Beaufort's B = (U / 0.836)^(2/3).
            Property::WindForce => (self.wind / 0.836).powf(2.0 / 3.0).round().min(12.0),
            Property::WindDirection => 45.0 + 20.0 * day,
            Property::AirTemperature => air,
            Property::RelativeHumidity => 80.0 - 8.0 * day,
            Property::AirPressure => 1_013.0 - 0.3 * day,
            Property::Illuminance => 90_000.0 * sun(self.hour),
            Property::Rain => 0.0,
            _ => return None,
        })
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}
}

/// A plastic greenhouse with a roof vent (actuator 0), a fan (1), a heater (2) and a crop in soil;
/// wind and rain outside.
#[derive(Clone, Debug)]
pub struct Greenhouse {
    air: f64,
    vapour_kpa: f64,
    co2: f64,
    light: f64,
    soil_temperature: f64,
    soil_moisture: f64,
    cloud: f64,
    wind: f64,
    switched: [bool; 3],
    chance: Chance,
}

/// Saturated vapour pressure, kPa (Magnus, coefficients of Sonntag 1990).
fn saturated_kpa(celsius: f64) -> f64 {
    0.611_2 * (17.62 * celsius / (243.12 + celsius)).exp()
}

impl Greenhouse {
    /// As at some morning.
    pub fn new(seed: u64) -> Self {
        let vapour_kpa = 0.8 * saturated_kpa(22.0);
        let (co2, soil_temperature, soil_moisture) = (600.0, 22.0, 32.0);
        let (cloud, wind, switched, chance) = (0.8, 3.0, [false; 3], Chance::new(seed));
        let (air, light) = (22.0, 0.0);
        Self { air, vapour_kpa, co2, light, soil_temperature, soil_moisture, cloud, wind, switched, chance }
    }
}

impl World for Greenhouse {
    fn step(&mut self, utc_ms: i64, dt_s: f64) {
        steps(utc_ms, dt_s, |hour, dt_s| {
            let dt_h = dt_s / 3_600.0;
            self.cloud = (self.cloud + 0.2 * dt_h.sqrt() * self.chance.bell()).clamp(0.3, 1.0);
            self.wind += dt_h * (3.0 - self.wind) / 4.0 + dt_h.sqrt() * self.chance.bell();
            self.wind = self.wind.clamp(0.0, 20.0);
            self.light = sun(hour) * self.cloud;
            let [vent, fan, heater] = self.switched;
            let outside = 21.0 + 4.0 * (TAU * (hour - 9.0) / 24.0).sin();
            let (outside_kpa, outside_co2) = (0.7 * saturated_kpa(outside), 420.0);
            // Air changes an hour: leaks, the open vent, the fan. At most one share of it a step.
            let changes = 1.5 + if vent { 8.0 } else { 0.0 } + if fan { 18.5 } else { 0.0 };
            let changed = (dt_h * changes).min(1.0);
            let near = |inside: f64, outside: f64| changed * (outside - inside);
            let heat = if heater { 8.0 } else { 0.0 };
            self.air +=
                near(self.air, outside) + dt_h * (16.0 * self.light + heat + (self.soil_temperature - self.air));
            // The crop: transpires and takes CO2 by day, gives some by night.
            self.vapour_kpa += near(self.vapour_kpa, outside_kpa) + dt_h * (0.2 + 2.0 * self.light);
            self.vapour_kpa = self.vapour_kpa.clamp(0.2, saturated_kpa(self.air));
            self.co2 += near(self.co2, outside_co2) + dt_h * (120.0 - 500.0 * self.light);
            self.co2 = self.co2.clamp(320.0, 2_500.0);
            self.soil_temperature += dt_h * (self.air - self.soil_temperature) / 8.0;
            self.soil_moisture -= dt_h * 0.25 * self.light;
            // Watered at six in the evening when it has become dry.
            if self.soil_moisture < 26.0 && (18.0..18.5).contains(&hour) {
                self.soil_moisture = 34.0;
            }
            self.soil_moisture = self.soil_moisture.max(8.0);
        });
    }

    fn value(&self, property: Property, _depth_m: f64) -> Option<f64> {
        Some(match property {
            Property::AirTemperature => self.air,
            Property::RelativeHumidity => (100.0 * self.vapour_kpa / saturated_kpa(self.air)).min(100.0),
            Property::CarbonDioxide => self.co2,
            Property::Illuminance => 80_000.0 * self.light,
            // Sunlight: about 54 lx per µmol/(m² s) (Thimijan and Heins, 1983).
            Property::Par => 80_000.0 * self.light / 54.0,
            Property::SoundLevel => 45.0,
            Property::AirPressure => 1_012.0,
            Property::WindSpeed => self.wind,
            // Showers come under the darkest clouds.
            Property::Rain => {
                if self.cloud < 0.32 {
                    0.2
                } else {
                    0.0
                }
            }
            Property::SoilTemperature => self.soil_temperature,
            Property::SoilMoisture => self.soil_moisture,
            Property::SoilConductivity => 400.0 + 20.0 * self.soil_moisture,
            Property::SoilPh => 6.4,
            _ => return None,
        })
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        if let Some(switched) = self.switched.get_mut(usize::from(actuator)) {
            *switched = on;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-06-01T00:00 in Fuzhou.
    const MIDNIGHT_MS: i64 = 1_780_243_200_000;

    fn oxygen_by_minute(pond: &mut Pond, minutes: i64) -> Vec<f64> {
        (1..=minutes)
            .map(|minute| {
                pond.step(MIDNIGHT_MS + minute * 60_000, 60.0);
                pond.oxygen
            })
            .collect()
    }

    #[test]
    fn oxygen_is_lowest_before_dawn_and_highest_in_the_afternoon() {
        let mut pond = Pond::new(1);
        let days = oxygen_by_minute(&mut pond, 3 * 1_440);
        let last = &days[2 * 1_440..];
        let at = |wanted: f64| last.iter().position(|it| *it == wanted).unwrap() as f64 / 60.0;
        let lowest = at(last.iter().copied().fold(f64::INFINITY, f64::min));
        let highest = at(last.iter().copied().fold(0.0, f64::max));
        assert!((4.0..8.0).contains(&lowest), "lowest at {lowest} h");
        assert!((12.0..18.0).contains(&highest), "highest at {highest} h");
    }

    #[test]
    fn the_aerator_raises_oxygen_at_night() {
        let (mut still, mut aerated) = (Pond::new(1), Pond::new(1));
        aerated.switch(0, true);
        let (still, aerated) = (oxygen_by_minute(&mut still, 300), oxygen_by_minute(&mut aerated, 300));
        assert!(aerated[299] > still[299] + 1.0, "{} {}", aerated[299], still[299]);
    }

    #[test]
    fn the_same_seed_gives_the_same_day_and_another_seed_another() {
        let day = |seed| oxygen_by_minute(&mut Pond::new(seed), 1_440);
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8));
    }

    #[test]
    fn saturation_agrees_with_the_published_table() {
        // Weiss 1970 as tabulated by USGS: fresh water 0 °C 14.6, 20 °C 9.1; at 35 psu 20 °C 7.4.
        assert!((oxygen_saturation_mg_l(0.0, 0.0) - 14.6).abs() < 0.1);
        assert!((oxygen_saturation_mg_l(20.0, 0.0) - 9.1).abs() < 0.1);
        assert!((oxygen_saturation_mg_l(20.0, 35.0) - 7.4).abs() < 0.1);
    }

    #[test]
    fn every_value_of_every_place_stays_plausible_for_a_week() {
        let worlds: [Box<dyn World>; 4] = [
            Box::new(Pond::new(3)),
            Box::new(Cage::near_shore(3)),
            Box::new(Cage::deep_sea(3)),
            Box::new(Greenhouse::new(3)),
        ];
        for mut world in worlds {
            for quarter in 1..=7 * 96 {
                world.step(MIDNIGHT_MS + quarter * 900_000, 900.0);
                for property in Property::ALL {
                    let facts = property.facts();
                    if let Some(value) = world.value(*property, 1.0) {
                        let plausible = f64::from(facts.min)..=f64::from(facts.max);
                        assert!(plausible.contains(&value), "{} is {value}", facts.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_fan_cools_the_greenhouse_at_noon() {
        let (mut shut, mut open) = (Greenhouse::new(1), Greenhouse::new(1));
        open.switch(1, true);
        for world in [&mut shut, &mut open] {
            world.step(MIDNIGHT_MS + 12 * 3_600_000, 6.0 * 3_600.0);
        }
        assert!(open.air + 3.0 < shut.air, "{} {}", open.air, shut.air);
    }
}
