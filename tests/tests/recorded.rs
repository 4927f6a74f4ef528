//! What a logger really recorded near the shore, through probe, node and gateway into InfluxDB:
//! not a row more, not a row less.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use sensors::profile::compile::compile;
use simulator::host::Flash;
use simulator::recorded::Rows;
use simulator::sites::Builder;
use system_tests::farm::{BEGAN_MS, HOUR, Seat};
use system_tests::{Influx, Plan, books, recorded};
use telemetry::Property;

const NAME: &str = "near-shore";
const PERIOD_S: u16 = 60;
/// Columns of the file, by what is recorded in them.
const COLUMNS: [(&str, Property); 4] = [
    ("Dissolved Oxygen", Property::OxygenSaturation),
    ("Temperature", Property::WaterTemperature),
    ("Device Tilt", Property::Tilt),
    ("Battery Voltage", Property::BatteryVoltage),
];

/// The logger as a probe. Its maker gives it no Modbus; this map is the test's own. In a row it has
/// one value, and −9999 for the others.
const LOGGER: &str = r#"
name = "near-shore-logger"
maker = "this test"
title = { zh = "近岸记录仪", en = "near-shore logger" }
verified = { by = "synthetic", source = "this test" }

[line]
address = 1
baud = 9600

[[block]]
function = 3
start = 0
count = 8

[[quantity]]
property = "oxygen_saturation"
unit = "%"
register = 0
type = "f32"
sentinels = [{ raw = -9999.0 }]

[[quantity]]
property = "water_temperature"
unit = "Cel"
register = 2
type = "f32"
sentinels = [{ raw = -9999.0 }]

[[quantity]]
property = "tilt"
unit = "deg"
register = 4
type = "f32"
sentinels = [{ raw = -9999.0 }]

[[quantity]]
property = "battery_voltage"
unit = "V"
register = 6
type = "f32"
sentinels = [{ raw = -9999.0 }]
"#;

const STAYS: &str = r#"
[[site]]
name = "shore"
adcode = 350122
[[site.unit]]
name = "A1网箱"
kind = "cage"
[[node]]
name = "near-shore"
[[node.at]]
since = 2020-01-01T00:00:00+08:00
site = "shore"
unit = "A1网箱"
"#;

/// Values by property in the order of the file, read without the product: rows that begin with a
/// date and have a number in one of the columns; and how many rows there are besides.
fn read(text: &str) -> Result<(BTreeMap<Property, Vec<f64>>, usize)> {
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().context("a header")?.split(',').collect();
    let (mut values, mut others) = (BTreeMap::<Property, Vec<f64>>::new(), 0);
    for line in lines {
        let cells: Vec<_> = line.split(',').collect();
        let dated = line.starts_with("20") && line.as_bytes().get(4) == Some(&b'-');
        let value = COLUMNS.iter().find_map(|(name, property)| {
            let at = header.iter().position(|it| it == name)?;
            Some((*property, cells.get(at)?.parse().ok()?))
        });
        match value.filter(|_| dated) {
            Some((property, value)) => values.entry(property).or_default().push(value),
            None => others += 1,
        }
    }
    Ok((values, others))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_of_the_recorded_shore_becomes_exactly_one_reading() -> Result<()> {
    let Some(path) = recorded()? else { return Ok(()) };
    let Some(influx) = Influx::start().await? else { return Ok(()) };
    let text = std::fs::read_to_string(&path)?;
    let (expected, others) = read(&text)?;
    let rows = Rows::parse(&text, BEGAN_MS, PERIOD_S)?;
    let count = rows.rows().len();
    ensure!((count, rows.skipped()) == (expected.values().map(Vec::len).sum(), others), "{count} rows are played");

    let mut plan = Plan::new()?;
    let keys = |name: &telemetry::NodeName| plan.key(name);
    let mut node = Builder::new(NAME, &keys, PERIOD_S, 71)?;
    node.compiled(0, 1, compile(LOGGER, "logger")?, 2.0, &COLUMNS.map(|(_, property)| property))?;
    let mut parts = node.build(Box::new(rows), Flash::new(64))?;
    parts.instruments = parts.instruments.into_iter().map(|(bus, probe)| (bus, probe.exact())).collect();
    plan.nodes.push(Seat { parts, begins_ms: 0, drift_ppm: 0 });
    plan.sites = STAYS.to_owned();
    plan.influx = Some(influx);
    let mut farm = plan.start().await?;
    let end = count as u64 * u64::from(PERIOD_S) * 1_000;
    farm.fleet.run_until(end).await?;
    ensure!(farm.fleet.run_until_delivered(end + HOUR).await?, "the last rows are not delivered");

    // Equal in every field to what the node took, in the history and in InfluxDB.
    let (agreement, stored) = farm.agreement().await?;
    farm.nothing_lost(&agreement)?;
    let points = books::influx(farm.influx.as_ref().context("there is one")?).await?;
    for (property, expected) in &expected {
        let of = |stored: &books::Stored| {
            let reading = stored.readings.iter().find(|it| it.1 == property.name())?;
            reading.3.value
        };
        let values: Vec<f64> = stored.values().filter_map(of).collect();
        let digits = f64::from(10i32.pow(u32::from(property.facts().digits)));
        let rounded: Vec<f64> = expected.iter().map(|value| (value * digits).round() / digits).collect();
        let differs = values.iter().zip(&rounded).position(|(a, b)| a != b);
        ensure!(values.len() == rounded.len() && differs.is_none(), "{}: row {differs:?} differs", property.name());
        let in_influx = points.values().filter(|fields| fields.contains_key(property.name())).count();
        ensure!(in_influx == expected.len(), "{}: {in_influx} of {} in InfluxDB", property.name(), expected.len());
        println!("measured: {} rows, {in_influx} readings of {}", expected.len(), property.name());
    }
    println!("measured: {count} rows with a time and a value, {others} without");
    farm.stop().await?;
    Ok(())
}
