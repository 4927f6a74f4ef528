//! Custody against the real binary, real servers and real SIGKILLs: what a node was told is in
//! custody is in the spool, in the history and in InfluxDB exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::custodian::{Custodian, Habits};
use system_tests::station::{NODES, NOWHERE, Station, WITHIN, each_as_it_was_made, moments, settled_in_influx};
use system_tests::{Influx, Ledger, Mosquitto, long, until};

/// SIGKILLs of the gateway in one campaign, and of a server.
const KILLS: (u32, u32) = (100, 10);

/// Waits until the ledger has a line for every reading that was made, and nothing that differs;
/// readings and lines.
async fn settled_in_ledger(ledger: &Ledger, made: &BTreeMap<String, u32>) -> Result<(u32, usize)> {
    let total = made.values().sum();
    let water = |lines: &[String]| lines.iter().filter(|l| l.starts_with("water")).collect::<BTreeSet<_>>().len();
    let lines = ledger.lines_when(3 * WITHIN, |lines| water(lines) >= total as usize).await?;
    each_as_it_was_made(lines.iter().map(String::as_str), made)?;
    Ok((total, lines.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_reading_is_lost_or_doubled_when_the_gateway_and_influxdb_are_killed() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut station = Station::new(Some(&influx.url()), "")?;
    station.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    let each = if long() { 10 * KILLS.0 } else { KILLS.0 } / KILLS.1;
    for _ in 0..KILLS.1 {
        station.kill(each / 2, &mut moments, None).await?;
        influx.kill()?;
        station.kill(each - each / 2, &mut moments, None).await?;
        station.progress(1 + moments.next(100)).await?;
        influx.restart().await?;
    }
    let made = station.settle().await?;
    settled_in_influx(&influx, &made).await?;
    println!(
        "measured: {} readings through {} kills of the gateway and {} of InfluxDB: 0 lost, 0 doubled",
        made.values().sum::<u32>(),
        each * KILLS.1,
        KILLS.1
    );
    let status = station.tianyu.terminate(WITHIN).await?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_appends_everything_never_sees_a_reading_with_two_times_or_contents() -> Result<()> {
    let ledger = Ledger::start().await?;
    let mut station = Station::new(Some(&ledger.url()), "")?;
    station.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    let kills = if long() { 10 * KILLS.0 } else { KILLS.0 };
    station.kill(kills, &mut moments, Some(&ledger)).await?;
    let made = station.settle().await?;
    let (readings, lines) = settled_in_ledger(&ledger, &made).await?;
    println!(
        "measured: {readings} readings in {lines} lines through {kills} kills: every repetition is the same bytes"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_outage_is_said_stops_nobody_and_is_caught_up_while_new_data_flow() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut station = Station::new(Some(&influx.url()), "")?;
    station.begin(3, Habits::default()).await?;
    station.progress(50).await?;
    influx.kill()?;
    station.progress(300).await?;
    let body = station
        .tianyu
        .answers(station.http, "api/v1/pipeline", WITHIN, |body| {
            body.contains("connection") || body.contains("cannot take")
        })
        .await?;
    ensure!(body.contains("\"influx\""), "{body}");
    influx.restart().await?;
    let made = station.settle().await?;
    settled_in_influx(&influx, &made).await?;
    println!("measured: {} readings across an InfluxDB outage: 0 lost", made.values().sum::<u32>());
    Ok(())
}

/// A station behind this broker.
fn behind(mosquitto: &Mosquitto) -> Result<Station> {
    let broker = mosquitto.port();
    let mut station = Station::new(Some(NOWHERE), &format!("[broker]\nhost = \"127.0.0.1\"\nport = {broker}\n"))?;
    station.mqtt = broker;
    Ok(station)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_forgets_what_it_acknowledged_loses_nothing() -> Result<()> {
    // No persistence: a kill forgets every queue and every session.
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let mut station = behind(&mosquitto)?;
    station.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    for kill in 0..KILLS.1 {
        station.progress(1 + moments.next(100)).await?;
        if kill % 2 == 1 {
            // What it takes for a gateway that is away is lost with it.
            station.tianyu.kill()?;
            let from = station.acknowledged();
            until("messages taken for nobody", WITHIN, || async { (station.acknowledged() > from + 10).then_some(()) })
                .await?;
            mosquitto.kill()?;
            station.start().await?;
        } else {
            mosquitto.kill()?;
        }
        mosquitto.restart().await?;
    }
    let made = station.settle().await?;
    println!(
        "measured: {} readings through {} kills of a broker without persistence: 0 lost, 0 doubled",
        made.values().sum::<u32>(),
        KILLS.1
    );
    Ok(())
}

/// Messages that mosquitto keeps for one client by default: 1000 queued (`max_queued_messages`)
/// and 20 on the way (`max_inflight_messages`; mosquitto.conf(5)).
const BROKER_HOLDS: u32 = 1020;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_queue_overflows_drops_what_it_acknowledged_and_loses_nothing() -> Result<()> {
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let mut station = behind(&mosquitto)?;
    station.begin(NODES.len(), Habits { every: Duration::from_millis(2), ..Habits::default() }).await?;
    let mut dropped = 0;
    for cycle in 0..KILLS.1 + 4 {
        // From sessions that stand and an empty queue on, so that it is known what must have been
        // dropped: 6 nodes with 256 records each under way, one a report, are more than it keeps.
        station.progress(5).await?;
        station.delivered().await?;
        station.tianyu.signal(rustix::process::Signal::STOP)?;
        station.nodes.iter().for_each(|node| node.cut(1));
        station.nodes.iter().for_each(Custodian::go_on_producing);
        let from = station.acknowledged();
        until("more acknowledged than it keeps", WITHIN, || async {
            (station.acknowledged() > from + BROKER_HOLDS + 100).then_some(())
        })
        .await?;
        mosquitto.line("Outgoing messages are being dropped for client tianyu", WITHIN).await?;
        dropped += station.acknowledged() - from - BROKER_HOLDS;
        // In some cycles what is left of the queue arrives, with its holes.
        if cycle % 4 != 0 {
            mosquitto.kill()?;
            mosquitto.restart().await?;
        }
        station.nodes.iter().for_each(|node| node.cut(Habits::default().report_rounds));
        station.tianyu.signal(rustix::process::Signal::CONT)?;
    }
    let made = station.settle().await?;
    println!(
        "measured: {} readings through a broker that dropped at least {dropped} acknowledged messages: 0 lost, 0 doubled",
        made.values().sum::<u32>()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_without_a_server_keeps_everything_in_its_history() -> Result<()> {
    let mut station = Station::new(Some(NOWHERE), "")?;
    station.begin(3, Habits::default()).await?;
    station.progress(100).await?;
    station.settle().await?;
    let (status, lines) = station.tianyu.command(&["spool", "verify"], WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    Ok(())
}
