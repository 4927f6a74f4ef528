//! The node's promises on the emulated board: its real firmware on a Cortex-M3, on real time, with
//! the real gateway.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::board::{Options, Pond};
use system_tests::station::{NOWHERE, WITHIN};
use system_tests::{Influx, Mosquitto, influx, until};
use telemetry::{Flag, Property};

const SOON: Duration = Duration::from_secs(30);

/// The value and flag of a property in what is stored.
fn of(stored: &system_tests::books::Stored, property: Property) -> (Option<f64>, u8) {
    let found = stored.readings.iter().find(|(_, name, ..)| name == property.name());
    found.map_or((None, 0), |(.., reading)| (reading.value, reading.flag))
}

#[tokio::test(flavor = "multi_thread")]
async fn from_power_on_to_the_first_reading_in_influxdb_values_are_what_is_true() -> Result<()> {
    let Some(influx) = Influx::start().await? else { return Ok(()) };
    let Some(mut pond) = Pond::new(Some(&influx.url()), "", Options::default()).await? else { return Ok(()) };
    pond.provision().await?;
    pond.board.set_temperature(21_500).await?;
    let good = Flag::Good.id();
    let wanted = |stored: &_| {
        of(stored, Property::DissolvedOxygen) == (Some(7.19), good)
            && of(stored, Property::WaterTemperature) == (Some(27.4), good)
            && of(stored, Property::AirTemperature) == (Some(21.5), good)
    };
    let (name, _) = pond.stored("a round of good values", |_, stored| wanted(stored)).await?;
    println!("measured: round {} has every value; power came with the provisioning before", name.2);
    let flux = format!(
        "from(bucket: \"{}\") |> range(start: 0) |> filter(fn: (r) => r._field == \"dissolved_oxygen\") |> keep(columns: [\"node\", \"_value\"])",
        influx::BUCKET
    );
    let rows = until("a reading in InfluxDB", WITHIN, || async {
        influx.query(&flux).await.ok().filter(|rows| rows.iter().any(|row| row["_value"] == "7.19"))
    })
    .await?;
    ensure!(rows.iter().all(|row| row["node"] == pond.settings.name.as_str()), "{rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_probe_is_a_missing_reading_the_aerator_goes_on_and_off_again_when_it_is_back() -> Result<()> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    pond.provision().await?;
    let runs = |on: bool| {
        let tank = pond.tank.clone();
        until("the aerator", SOON, move || {
            let tank = tank.clone();
            async move { (tank.is_on(0) == Some(on)).then_some(()) }
        })
    };
    // After a start it runs; after its shortest run and three good readings of 7.19 it stops.
    runs(true).await?;
    runs(false).await?;
    let probe = pond.board.scene(|scene, _| std::mem::take(&mut scene.lines[0]));
    runs(true).await.context("blind within 6 s")?;
    let missing = Flag::Missing.id();
    let dead = |stored: &_| of(stored, Property::DissolvedOxygen) == (None, missing);
    let (_, stored) = pond.stored("a missing reading", |_, stored| dead(stored)).await?;
    ensure!(of(&stored, Property::AirTemperature).0.is_some(), "the thermometer does not suffer: {stored:?}");
    pond.board.scene(|scene, _| scene.lines[0] = probe);
    runs(false).await.context("the way back")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn low_oxygen_switches_the_aerator_with_the_network_off() -> Result<()> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    pond.provision().await?;
    pond.stored("a first round", |_, _| true).await?;
    pond.board.set_link(false).await?;
    pond.station.tianyu.kill()?;
    let switches = |on: bool| {
        let tank = pond.tank.clone();
        until("the aerator", SOON, move || {
            let tank = tank.clone();
            async move { (tank.is_on(0) == Some(on)).then_some(()) }
        })
    };
    switches(false).await?;
    pond.tank.set(Property::DissolvedOxygen, 3.2);
    switches(true).await?;
    pond.tank.set(Property::DissolvedOxygen, 6.8);
    switches(false).await?;
    // What was measured meanwhile comes when both are back.
    pond.station.start().await?;
    pond.board.set_link(true).await?;
    pond.stored("the low oxygen of before", |_, stored| of(stored, Property::DissolvedOxygen).0 == Some(3.2)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_works_on_a_network_that_has_ipv6_only() -> Result<()> {
    let options = Options { ipv4: false, ..Options::default() };
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", options).await? else { return Ok(()) };
    pond.provision().await?;
    pond.stored("a round over IPv6", |_, _| true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_everything_costs_a_node_nothing() -> Result<()> {
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let broker = format!("[broker]\nhost = \"127.0.0.1\"\nport = {}\n", mosquitto.port());
    let Some(mut pond) = Pond::new(Some(NOWHERE), &broker, Options::default()).await? else { return Ok(()) };
    pond.settings.port = mosquitto.port();
    pond.provision().await?;
    pond.stored("a round by way of the broker", |_, _| true).await?;
    for _ in 0..3 {
        let rounds = pond.history()?.len();
        mosquitto.kill()?;
        mosquitto.restart().await?;
        let more = |stored: usize| stored >= rounds + 2;
        until("rounds after the broker's restart", WITHIN, || async {
            pond.history().ok().filter(|history| more(history.len()))
        })
        .await?;
    }
    until("everything is delivered", WITHIN, || async {
        pond.board.status().await.ok().filter(|status| status.contains(", 0 not yet with the gateway"))
    })
    .await?;
    pond.board.kill()?;
    let (ring, _, records) = pond.board.records()?;
    let (records, rounds, gone) = pond.delivered(ring, records).await?;
    ensure!(gone == 0, "nothing was torn");
    println!("measured: {records} records, {rounds} rounds through 3 restarts of a broker without memory");
    Ok(())
}
