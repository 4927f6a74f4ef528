//! The books: what nodes took, what the history has, what InfluxDB has, each by record name, and
//! whether they say the same, field by field and both ways.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use simulator::host::Host;
use telemetry::{Flag, Property, Quality, Tests};

use crate::Influx;
use crate::influx::BUCKET;

/// A reading without its place and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Value in the property's unit; none where missing.
    pub value: Option<f64>,
    /// QARTOD flag.
    pub flag: u8,
    /// Tests in the low 16 bits, reason of a missing value above.
    pub tests: i64,
    /// Raw value, where it differs.
    pub raw: Option<f64>,
    /// Calibration number.
    pub calibration: u16,
}

/// A record's name: node, ring, seq.
pub type Name = (String, u32, u32);

/// Division, site, unit and point.
pub type Place = (u32, String, String, String);

/// A round as its node took it.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Boot it was taken in.
    pub boot: u16,
    /// When, by the true clock, ms since 1970.
    pub at_ms: i64,
    /// Readings by channel.
    pub readings: Vec<(u8, Property, Reading)>,
}

/// Every round that these nodes took and kept, by name.
///
/// # Errors
/// When one was not kept in flash, or two have one name.
pub fn taken<'h>(hosts: impl IntoIterator<Item = &'h Host>) -> Result<BTreeMap<Name, Taken>> {
    let mut all = BTreeMap::new();
    for host in hosts {
        let channels = &host.config().channels;
        for of in host.ledger() {
            let seq = of.seq.with_context(|| format!("{}: a round that the flash did not keep", host.name()))?;
            let mut readings = Vec::with_capacity(of.round.readings.len());
            for reading in &of.round.readings {
                let channel = channels.get(usize::from(reading.channel)).context("a channel that there is not")?;
                let property = channel.property;
                let (value, flag, tests) = match reading.quality {
                    Quality::Present { flag, tests } => {
                        (Some(property.value(reading.value)), flag.id(), i64::from(tests.bits()))
                    }
                    Quality::Missing(reason) => (None, telemetry::Flag::Missing.id(), i64::from(reason.id()) << 16),
                };
                let raw = reading.raw.map(|raw| property.value(raw));
                let calibration = channel.calibration.number;
                readings.push((reading.channel, property, Reading { value, flag, tests, raw, calibration }));
            }
            let at_ms = host.began_utc_ms().saturating_add_unsigned(of.at_ms);
            let name = (host.name().to_string(), of.ring, seq);
            let before = all.insert(name.clone(), Taken { boot: of.boot, at_ms, readings });
            ensure!(before.is_none(), "two rounds are named {name:?}");
        }
    }
    Ok(all)
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its date, ms since 1970.
    pub time_ms: i64,
    /// The date's stated error, ms.
    pub error_ms: u64,
    /// Its readings: medium, property, place.
    pub readings: Vec<(String, String, Place, Reading)>,
}

fn files(folder: &Path) -> Result<Vec<Connection>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sqlite"));
    files.sort();
    let open = |path| Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
    files.iter().map(open).collect()
}

/// Every round of the history, by name.
///
/// # Errors
/// When it cannot be read, or one record has two dates.
pub fn history(folder: &Path) -> Result<BTreeMap<Name, Stored>> {
    let mut all: BTreeMap<Name, Stored> = BTreeMap::new();
    for file in files(folder)? {
        let mut statement = file.prepare(
            "SELECT node, ring, seq, time_ms, error_ms, medium, property, adcode, site, unit, point,
                    value, flag, tests, raw, calibration
             FROM reading JOIN series ON series.id = reading.series",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: Name = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (time_ms, error_ms) = (row.get(3)?, row.get::<_, i64>(4)?.unsigned_abs());
            let place: Place = (row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?);
            let (value, flag, tests) = (row.get(11)?, row.get(12)?, row.get(13)?);
            let reading = Reading { value, flag, tests, raw: row.get(14)?, calibration: row.get(15)? };
            let stored =
                all.entry(name).or_insert_with_key(|_| Stored { time_ms, error_ms, readings: Vec::with_capacity(12) });
            ensure!((stored.time_ms, stored.error_ms) == (time_ms, error_ms), "one record has two dates");
            stored.readings.push((row.get(5)?, row.get(6)?, place, reading));
        }
    }
    Ok(all)
}

/// What comparing found where everything agrees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Rounds that are stored.
    pub rounds: usize,
    /// Their readings.
    pub readings: usize,
    /// Rounds that were taken and are not stored; all others are, once.
    pub unstored: Vec<Name>,
    /// Readings that the gateway's own tests have found something in.
    pub judged: usize,
    /// Greatest stated error of a date, ms.
    pub error_ms_max: u64,
    /// Greatest true error of a date, ms.
    pub off_ms_max: u64,
}

/// Whether the gateway has found something in a reading; `None` when more has changed than its own
/// bits and a flag that they have worsened.
fn judged(taken: &Reading, stored: &Reading) -> Option<bool> {
    let bits = Tests::CLIMATOLOGY.with(Tests::DEVIATION).with(Tests::NEIGHBOUR).bits();
    let found = stored.tests & i64::from(bits) != 0;
    let (tests, rank) = (stored.tests & !i64::from(bits), |flag| Flag::from_id(flag).map(Flag::rank));
    let flag = if found && rank(stored.flag) >= rank(taken.flag) { taken.flag } else { stored.flag };
    (Reading { tests, flag, ..stored.clone() } == *taken).then_some(found)
}

/// Compares what was taken with what is stored. Whatever is stored must have been taken, with
/// equal fields but for what the gateway's own tests add, at the place that `place` says for node, channel and true time, and within its
/// date's stated error.
///
/// # Errors
/// With the first difference.
pub fn compare(
    taken: &BTreeMap<Name, Taken>,
    stored: &BTreeMap<Name, Stored>,
    place: impl Fn(&str, u8, i64) -> Option<Place>,
) -> Result<Agreement> {
    let mut agreement = Agreement::default();
    for name in stored.keys() {
        ensure!(taken.contains_key(name), "{name:?} is stored and was never taken");
    }
    for (name, taken) in taken {
        let Some(stored) = stored.get(name) else {
            agreement.unstored.push(name.clone());
            continue;
        };
        ensure!(
            taken.readings.len() == stored.readings.len(),
            "{name:?}: {} readings of {}",
            stored.readings.len(),
            taken.readings.len()
        );
        for (channel, property, reading) in &taken.readings {
            let place = place(&name.0, *channel, taken.at_ms).with_context(|| format!("{name:?} stands nowhere"))?;
            let tags = (property.medium().name(), property.name(), &place);
            let is = |it: &&(String, String, Place, Reading)| (it.0.as_str(), it.1.as_str(), &it.2) == tags;
            let there = stored.readings.iter().find(is).with_context(|| format!("{name:?}: no {tags:?}"))?;
            agreement.judged += usize::from(
                judged(reading, &there.3)
                    .with_context(|| format!("{name:?}: {reading:?} was taken, stored is {:?}, {tags:?}", there.3))?,
            );
        }
        let off_ms = stored.time_ms.abs_diff(taken.at_ms);
        // One more for the whole milliseconds that both are in.
        ensure!(off_ms <= stored.error_ms + 1, "{name:?}: {off_ms} ms off, {} stated", stored.error_ms);
        agreement.rounds += 1;
        agreement.readings += taken.readings.len();
        agreement.error_ms_max = agreement.error_ms_max.max(stored.error_ms);
        agreement.off_ms_max = agreement.off_ms_max.max(off_ms);
    }
    Ok(agreement)
}

/// A point of InfluxDB: measurement, node, place, time.
pub type PointName = (String, String, Place, i64);

/// Fields of a point.
pub type Fields = BTreeMap<String, f64>;

/// The points that a history's rounds and events are in InfluxDB.
///
/// # Errors
/// When the history cannot be read.
pub fn points(folder: &Path, rounds: &BTreeMap<Name, Stored>) -> Result<BTreeMap<PointName, Fields>> {
    let mut all: BTreeMap<PointName, Fields> = BTreeMap::new();
    let told = |fields: &mut Fields, error_ms: u64| {
        if error_ms > gateway::sinks::line::TIME_ERROR_TOLD_MS {
            fields.insert("time_error_s".to_owned(), error_ms as f64 / 1e3);
        }
    };
    for ((node, _, _), stored) in rounds {
        for (medium, property, place, reading) in &stored.readings {
            let point = (medium.clone(), node.clone(), place.clone(), stored.time_ms);
            let fields = all.entry(point).or_default();
            told(fields, stored.error_ms);
            let present = [
                (String::new(), reading.value),
                ("_flag".to_owned(), Some(f64::from(reading.flag))),
                ("_raw".to_owned(), reading.raw),
                ("_tests".to_owned(), (reading.tests != 0).then_some(reading.tests as f64)),
                ("_cal".to_owned(), (reading.calibration != 0).then_some(f64::from(reading.calibration))),
            ];
            for (suffix, value) in present {
                if let Some(value) = value {
                    fields.insert(format!("{property}{suffix}"), value);
                }
            }
        }
    }
    for file in files(folder)? {
        let mut statement = file.prepare(
            "SELECT node, adcode, site, unit, point, time_ms, error_ms, code, subject, value, detail FROM event",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let place: Place = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            let fields = all.entry(("node".to_owned(), row.get(0)?, place, row.get(5)?)).or_default();
            told(fields, row.get::<_, i64>(6)?.unsigned_abs());
            for (at, name) in [(7, "event_code"), (8, "event_subject"), (9, "event_value"), (10, "event_detail")] {
                fields.insert(name.to_owned(), row.get::<_, i64>(at)? as f64);
            }
        }
    }
    Ok(all)
}

/// Everything that InfluxDB has, point by point.
///
/// # Errors
/// When it cannot be asked.
pub async fn influx(influx: &Influx) -> Result<BTreeMap<PointName, Fields>> {
    let mut all = BTreeMap::new();
    // One measurement at a time bounds the answer.
    for measurement in ["water", "air", "soil", "weather", "actuator", "node"] {
        let rows = influx
            .query(&format!(
                "from(bucket: \"{BUCKET}\") |> range(start: 0) |> filter(fn: (r) => r._measurement == \"{measurement}\")
                 |> pivot(rowKey: [\"_time\"], columnKey: [\"_field\"], valueColumn: \"_value\")"
            ))
            .await?;
        for mut row in rows {
            let mut tag = |name: &str| row.remove(name).unwrap_or_default();
            let time: jiff::Timestamp = tag("_time").parse()?;
            let place: Place = (tag("adcode").parse()?, tag("site"), tag("unit"), tag("point"));
            let point = (tag("_measurement"), tag("node"), place, time.as_millisecond());
            for name in ["result", "table", "_start", "_stop"] {
                row.remove(name);
            }
            let mut fields = Fields::new();
            for (name, value) in row.into_iter().filter(|(_, value)| !value.is_empty()) {
                let value = value.parse().with_context(|| format!("{name} is {value}"))?;
                fields.insert(name, value);
            }
            ensure!(all.insert(point.clone(), fields).is_none(), "{point:?} is there twice");
        }
    }
    Ok(all)
}

/// Compares points both ways.
///
/// # Errors
/// With the first difference.
pub fn same_points(expected: &BTreeMap<PointName, Fields>, found: &BTreeMap<PointName, Fields>) -> Result<()> {
    for (point, fields) in expected {
        let there = found.get(point).with_context(|| format!("InfluxDB has no {point:?}"))?;
        ensure!(there == fields, "{point:?}: InfluxDB has {there:?}, the history {fields:?}");
    }
    let more = found.keys().find(|point| !expected.contains_key(*point));
    ensure!(more.is_none(), "InfluxDB has {more:?}, the history has not");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(seq: u32) -> Name {
        ("pond-0".to_owned(), 9, seq)
    }

    fn place() -> Place {
        (350_181, "fuqing".to_owned(), "1号塘".to_owned(), "0.3 m".to_owned())
    }

    fn reading() -> Reading {
        Reading { value: Some(7.19), flag: 1, tests: 0, raw: Some(7.31), calibration: 2 }
    }

    fn books() -> (BTreeMap<Name, Taken>, BTreeMap<Name, Stored>) {
        let property = Property::DissolvedOxygen;
        let readings = vec![(1, property, reading())];
        let taken = Taken { boot: 1, at_ms: 1_780_243_200_000, readings };
        let readings = vec![("water".to_owned(), property.name().to_owned(), place(), reading())];
        let stored = Stored { time_ms: 1_780_243_200_050, error_ms: 50, readings };
        ([(name(1), taken.clone()), (name(2), taken)].into(), [(name(1), stored.clone()), (name(2), stored)].into())
    }

    fn agree(taken: &BTreeMap<Name, Taken>, stored: &BTreeMap<Name, Stored>) -> Result<Agreement> {
        compare(taken, stored, |_, _, _| Some(place()))
    }

    #[test]
    fn books_that_say_the_same_agree_and_what_is_not_stored_is_named() {
        let (taken, mut stored) = books();
        let agreement = agree(&taken, &stored).unwrap();
        assert_eq!((agreement.rounds, agreement.readings, agreement.off_ms_max), (2, 2, 50));
        stored.remove(&name(2));
        assert_eq!(agree(&taken, &stored).unwrap().unstored, [name(2)]);
    }

    #[test]
    fn any_other_difference_is_one() {
        let changes: [fn(&mut Stored); 10] = [
            |it| it.time_ms += 2,
            |it| it.error_ms -= 2,
            |it| drop(it.readings.pop()),
            |it| it.readings.push(it.readings[0].clone()),
            |it| it.readings[0].2.2 = "2号塘".to_owned(),
            |it| it.readings[0].3.value = Some(7.18),
            |it| it.readings[0].3.flag = 3,
            |it| it.readings[0].3.tests = 8,
            |it| it.readings[0].3.raw = None,
            |it| it.readings[0].3.calibration = 1,
        ];
        for (at, change) in changes.iter().enumerate() {
            let (taken, mut stored) = books();
            change(stored.get_mut(&name(2)).unwrap());
            assert!(agree(&taken, &stored).is_err(), "change {at}");
        }
        let (mut taken, stored) = books();
        taken.remove(&name(1));
        assert!(agree(&taken, &stored).is_err(), "a record that nobody took");
    }

    #[test]
    fn the_gateways_own_tests_may_worsen_a_flag_and_nothing_else() {
        let found = i64::from(Tests::DEVIATION.bits());
        let of = |flag, tests| Reading { flag, tests, ..reading() };
        assert_eq!(judged(&reading(), &of(3, found)), Some(true));
        assert_eq!(judged(&of(4, 4), &of(3, 4 | found)), None, "bettered");
        assert_eq!(judged(&reading(), &of(3, 0)), None, "without a reason");
        assert_eq!(judged(&reading(), &Reading { value: Some(7.2), ..of(3, found) }), None);
    }

    #[test]
    fn points_differ_by_a_field_too_many_or_too_few() {
        let point = ("water".to_owned(), "pond-0".to_owned(), place(), 1_780_243_200_050);
        let fields = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1.0)).collect::<Fields>();
        let all = |names: &[&str]| BTreeMap::from([(point.clone(), fields(names))]);
        assert!(same_points(&all(&["ph"]), &all(&["ph"])).is_ok());
        for (expected, found) in [(all(&["ph"]), all(&["ph", "ph_raw"])), (all(&["ph", "ph_flag"]), all(&["ph"]))] {
            assert!(same_points(&expected, &found).is_err());
        }
        assert!(same_points(&BTreeMap::new(), &all(&["ph"])).is_err());
        assert!(same_points(&all(&["ph"]), &BTreeMap::new()).is_err());
    }
}
