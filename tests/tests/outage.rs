//! A sink that is away for longer than the spool can wait: one that may lag is let go and fed
//! again without a hole; a required one stops acknowledgement, and nothing is lost by that either.

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::custodian::{Custodian, Habits};
use system_tests::station::{NODES, WITHIN, answer_over_mqtt5, settled_in_influx};
use system_tests::{Influx, Station, until};

/// A spool of one MiB, filled in seconds; a farm's may not be smaller than 64.
const SMALL: &str = "timeout_ms = 1000\n[spool]\nbudget_mib = 1\nheld_mib = 8\nheld_node_mib = 1\nfree_mib = 16\n";
/// One record a report, so that the spool fills with few readings.
const WORDY: Habits =
    Habits { every: Duration::from_millis(2), report_rounds: 1, patience: Duration::from_millis(800) };
/// MQTT 5, "quota exceeded" (MQTT 5.0 §3.14.2.1).
const QUOTA_EXCEEDED: u8 = 0x97;

async fn station(influx: &Influx, more: &str) -> Result<Station> {
    let mut station = Station::new(Some(&influx.url()), &format!("{SMALL}{more}"))?;
    station.tianyu.unchecked();
    station.begin(3, WORDY).await?;
    station.progress(50).await?;
    Ok(station)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_away_for_longer_than_the_spool_holds_neither_stops_the_farm_nor_leaves_a_hole() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut station = station(&influx, "").await?;
    let note = station.tianyu.directory().join("tianyu-data/influx.missed");
    let mut caught = false;
    for _outage in 0..5 {
        influx.kill()?;
        station.sink("influx", |sink| sink["detached"] == true).await?;
        station.progress(200).await?;
        // Killed while the sink is detached: it must be known afterwards where it stood.
        station.tianyu.kill()?;
        station.start().await?;
        station.progress(200).await?;
        station.sink("influx", |sink| sink["detached"] == true).await?;
        influx.restart().await?;
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        let noted = async {
            while !note.exists() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(WITHIN, noted).await?;
        // Killed while what it missed is being fed, if that is not over already.
        influx.freeze()?;
        let failures = station.counter("tianyu_sink_failures_total", "influx").await?;
        until("a request that fails, or the end", WITHIN, || async {
            let now = station.counter("tianyu_sink_failures_total", "influx").await.ok()?;
            (now > failures || !note.exists()).then_some(())
        })
        .await?;
        station.tianyu.kill()?;
        caught = note.exists();
        influx.thaw()?;
        station.start().await?;
        if caught {
            break;
        }
        station.progress(50).await?;
    }
    ensure!(caught, "feeding was over before it could be killed, five times");
    station.progress(50).await?;
    let made = station.settle().await?;
    station.sink("influx", |sink| sink["missed"] == 0 && sink["detached"] == false && sink["behind"] == 0).await?;
    settled_in_influx(&influx, &made).await?;
    ensure!(!note.exists(), "nothing is missed any more");
    println!("measured: {} readings across outages longer than the spool: no hole", made.values().sum::<u32>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_sink_that_is_full_stops_acknowledgement_and_nothing_is_lost() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut station = station(&influx, "[history]\nkeep = false\n").await?;
    // Made while it runs: it is known once the gateway has been started again.
    let token = station.token(NODES[5]).await?;
    influx.kill()?;
    station.health("refusing").await?;
    let receipts = |station: &Station| station.nodes.iter().map(Custodian::released).collect::<Vec<_>>();
    // Killed while it is full: it is full afterwards.
    station.tianyu.kill()?;
    let told = receipts(&station);
    station.start().await?;
    let health = station.health("refusing").await?;
    ensure!(health["error"].as_str().is_some_and(|error| error.contains("bytes")), "{health}");
    // Some entries may still have fitted; then no more are taken, and each node is told so.
    let answer = answer_over_mqtt5(station.mqtt, NODES[5], &token).await?;
    ensure!(answer == Some(QUOTA_EXCEEDED), "{answer:?}");
    ensure!(station.counter("tianyu_endpoint_closed_total", "QuotaExceeded").await? > 0.0);
    let sink = station.sink("influx", |sink| sink["error"].is_string()).await?;
    ensure!(sink["required"] == true && sink["detached"] == false, "{sink}");
    let now = receipts(&station);
    ensure!(now.iter().zip(&told).all(|(now, told)| now - told < 300), "{told:?} and then {now:?}");
    influx.restart().await?;
    station.health("ok").await?;
    station.progress(50).await?;
    let answer = answer_over_mqtt5(station.mqtt, NODES[5], &token).await?;
    ensure!(answer.is_none(), "{answer:?}");
    let made = station.delivered().await?;
    settled_in_influx(&influx, &made).await?;
    println!("measured: {} readings while a required sink was full: 0 lost", made.values().sum::<u32>());
    Ok(())
}
