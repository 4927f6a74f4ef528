//! A recording of real water, value by value: the near-shore logger's CSV as a world.
//!
//! It owns reading the file and saying which value held when. Rows taken before the logger knew
//! the time, and rows without a value, are passed over and counted, never guessed.

use std::collections::BTreeMap;
use std::path::Path;

use telemetry::Property;

use crate::world::{Cage, World, oxygen_saturation_mg_l};

/// Salinity of the place where the recording was made, for mg/L from %: open shore of Nova Scotia.
const SALINITY: f64 = 31.0;

/// What the columns are. The logger's own tilt and battery are only in [`Rows`].
const COLUMNS: [(Property, &str); 4] = [
    (Property::OxygenSaturation, "Dissolved Oxygen"),
    (Property::WaterTemperature, "Temperature"),
    (Property::Tilt, "Device Tilt"),
    (Property::BatteryVoltage, "Battery Voltage"),
];

/// Why a recording cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("read the recording")]
    Read(#[from] std::io::Error),
    /// A column is missing.
    #[error("the recording has no column {0:?}")]
    NoColumn(&'static str),
    /// No row has a time and a value.
    #[error("the recording has no value with a time")]
    Empty,
}

/// A recording that begins to play with the simulation.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Values by ms since the recording's first.
    series: BTreeMap<Property, BTreeMap<i64, f64>>,
    skipped: usize,
    length_ms: i64,
    speed: f64,
    passed_ms: f64,
}

impl Recording {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is no such recording.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// When it is no such recording.
    pub fn parse(text: &str) -> Result<Self, RecordingError> {
        let mut series = BTreeMap::<Property, BTreeMap<i64, f64>>::new();
        let skipped = rows(text, &COLUMNS[..2], |at_ms, property, value| {
            series.entry(property).or_default().insert(at_ms, value);
        })?;
        let ends = |it: &BTreeMap<i64, f64>| Some((*it.first_key_value()?.0, *it.last_key_value()?.0));
        let (first, last) = series
            .values()
            .filter_map(ends)
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .ok_or(RecordingError::Empty)?;
        for values in series.values_mut() {
            *values = values.iter().map(|(at_ms, value)| (at_ms - first, *value)).collect();
        }
        // The last value lasts as long as the usual two hours between rows.
        let length_ms = last - first + 7_200_000;
        Ok(Self { series, skipped, length_ms, speed: 1.0, passed_ms: 0.0 })
    }

    /// Plays `speed` recorded seconds a simulated second: its rows are two hours apart.
    pub fn at_speed(mut self, speed: f64) -> Self {
        self.speed = speed;
        self
    }

    /// Rows without a time or a value that is played.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Values of a property in all.
    pub fn count(&self, property: Property) -> usize {
        self.series.get(&property).map_or(0, BTreeMap::len)
    }

    /// The recorded value that holds now; none before the first.
    fn recorded(&self, property: Property) -> Option<f64> {
        let at_ms = (self.passed_ms as i64).rem_euclid(self.length_ms.max(1));
        let values = self.series.get(&property)?;
        values.range(..=at_ms).next_back().or_else(|| values.first_key_value()).map(|(_, value)| *value)
    }
}

impl World for Recording {
    fn step(&mut self, _utc_ms: i64, dt_s: f64) {
        // After its end it begins anew.
        self.passed_ms = (self.passed_ms + dt_s * 1e3 * self.speed).rem_euclid(self.length_ms.max(1) as f64);
    }

    fn value(&self, property: Property, _depth_m: f64) -> Option<f64> {
        match property {
            Property::DissolvedOxygen => {
                let share = self.recorded(Property::OxygenSaturation)? / 100.0;
                let celsius = self.recorded(Property::WaterTemperature)?;
                Some(share * oxygen_saturation_mg_l(celsius, SALINITY))
            }
            _ => self.recorded(property),
        }
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}
}

/// How deep a recorded value holds, m: the logger hung near the surface.
const DEPTH_M: f64 = 2.0;

/// A cage whose upper water is a recording; what that does not tell is the cage's own.
pub struct RecordedCage {
    recording: Recording,
    cage: Cage,
}

impl RecordedCage {
    /// The recording begins to play in this cage.
    pub fn new(recording: Recording, cage: Cage) -> Self {
        Self { recording, cage }
    }
}

impl World for RecordedCage {
    fn step(&mut self, utc_ms: i64, dt_s: f64) {
        self.recording.step(utc_ms, dt_s);
        self.cage.step(utc_ms, dt_s);
    }

    fn value(&self, property: Property, depth_m: f64) -> Option<f64> {
        let recorded = if depth_m <= DEPTH_M { self.recording.value(property, depth_m) } else { None };
        recorded.or_else(|| self.cage.value(property, depth_m))
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.cage.switch(actuator, on);
    }
}

/// A recording row by row, whatever its dates: one row in each period of the simulation, and of
/// what a row does not tell there is no value then.
#[derive(Clone, Debug)]
pub struct Rows {
    rows: Vec<(Property, f64)>,
    skipped: usize,
    began_utc_ms: i64,
    period_ms: i64,
    at: usize,
}

impl Rows {
    /// Reads the text of such a file; its first row is played from the simulation's beginning on.
    ///
    /// # Errors
    /// When it is no such recording.
    pub fn parse(text: &str, began_utc_ms: i64, period_s: u16) -> Result<Self, RecordingError> {
        let mut played = Vec::new();
        let skipped = rows(text, &COLUMNS, |_, property, value| played.push((property, value)))?;
        if played.is_empty() {
            return Err(RecordingError::Empty);
        }
        let period_ms = i64::from(period_s.max(1)) * 1_000;
        Ok(Self { rows: played, skipped, began_utc_ms, period_ms, at: 0 })
    }

    /// The rows that are played.
    pub fn rows(&self) -> &[(Property, f64)] {
        &self.rows
    }

    /// Rows without a time or a value.
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

impl World for Rows {
    fn step(&mut self, utc_ms: i64, _dt_s: f64) {
        self.at = usize::try_from((utc_ms - self.began_utc_ms) / self.period_ms).unwrap_or(0);
    }

    fn value(&self, property: Property, _depth_m: f64) -> Option<f64> {
        self.rows.get(self.at).filter(|(of, _)| *of == property).map(|(_, value)| *value)
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}
}

/// Hands over each row with a time and a value of one of these columns; how many have not.
fn rows(
    text: &str,
    columns: &[(Property, &'static str)],
    mut take: impl FnMut(i64, Property, f64),
) -> Result<usize, RecordingError> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &'static str| header.iter().position(|it| *it == name).ok_or(RecordingError::NoColumn(name));
    let time = column("Timestamp(UTC)")?;
    let columns: Vec<_> =
        columns.iter().map(|(property, name)| Ok((*property, column(name)?))).collect::<Result<_, RecordingError>>()?;
    let mut skipped = 0;
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let at_ms = cells.get(time).and_then(|cell| utc_ms(cell));
        let value = columns.iter().find_map(|(property, column)| {
            let value: f64 = cells.get(*column)?.parse().ok()?;
            value.is_finite().then_some((*property, value))
        });
        match at_ms.zip(value) {
            Some((at_ms, (property, value))) => take(at_ms, property, value),
            None => skipped += 1,
        }
    }
    Ok(skipped)
}

/// `2018-03-01 1:41`, UTC, as ms since 1970.
fn utc_ms(text: &str) -> Option<i64> {
    let (date, time) = text.trim().split_once(' ')?;
    let mut date = date.splitn(3, '-').map(|it| it.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':').map(|it| it.parse::<i64>().ok());
    let (hour, minute) = (time.next()??, time.next()??);
    let second = time.next().unwrap_or(Some(0))?;
    let fits = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (1970..=2100).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !fits {
        return None;
    }
    // Days since 1970 of a civil date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Timestamp(UTC),Time Corrected(seconds),Sensor,Record Type,Dissolved Oxygen,Temperature\n\
        209s after startup (time not set),,a,Temperature,,22.68\n\
        2018-03-01 1:41,-66,a,Dissolved Oxygen,100.5,\n\
        2018-03-01 3:41,-66,a,Temperature,,1.5\n\
        2018-03-01 5:41,-66,a,Dissolved Oxygen,90,\n";

    #[test]
    fn recorded_values_come_one_after_the_other() {
        let mut recording = Recording::parse(TEXT).unwrap();
        assert_eq!(recording.skipped(), 1);
        assert_eq!(recording.value(Property::OxygenSaturation, 0.0), Some(100.5));
        recording.step(0, 4.0 * 3_600.0);
        assert_eq!(recording.value(Property::OxygenSaturation, 0.0), Some(90.0));
        assert_eq!(recording.value(Property::WaterTemperature, 0.0), Some(1.5));
    }

    #[test]
    fn row_by_row_each_period_has_one_value() {
        let text = "Timestamp(UTC),Dissolved Oxygen,Temperature,Device Tilt,Battery Voltage\n\
            209s after startup (time not set),,22.68,,\n\
            2018-03-01 1:41,100.5,,,\n2018-03-01 1:41,99,,,\n2018-03-01 3:41,,,6.1,\n2018-03-01 5:41,,,,\n";
        let mut rows = Rows::parse(text, 1_000_000, 60).unwrap();
        assert_eq!((rows.rows().len(), rows.skipped()), (3, 2));
        let mut values = |utc_ms, property| {
            rows.step(utc_ms, 0.0);
            rows.value(property, 0.0)
        };
        assert_eq!(values(1_000_000, Property::OxygenSaturation), Some(100.5));
        assert_eq!(values(1_060_000, Property::OxygenSaturation), Some(99.0));
        assert_eq!(values(1_060_000, Property::Tilt), None);
        assert_eq!(values(1_179_999, Property::Tilt), Some(6.1));
        assert_eq!(values(1_180_000, Property::Tilt), None);
    }

    #[test]
    fn dates_are_read_as_utc() {
        assert_eq!(utc_ms("2018-03-01 1:41"), Some(1_519_868_460_000));
        assert_eq!(utc_ms("209s after startup (time not set)"), None);
        assert_eq!(utc_ms("2018-13-01 1:41"), None);
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        assert!(matches!(Recording::parse("a,b\n1,2\n"), Err(RecordingError::NoColumn(_))));
    }
}
