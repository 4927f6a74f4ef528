//! InfluxDB at its worst: whatever it answers, and however it fails to, every line is there once
//! it is well again, no other sink waits for it, and what is wrong is said.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::Station;
use system_tests::custodian::Habits;
use system_tests::hostile::{Act, Hostile, Mood};
use system_tests::station::{WITHIN, each_as_it_was_made};
use system_tests::until;

async fn station(server: &Hostile) -> Result<Station> {
    // Goes on in the [influx] section; one second is the shortest that is allowed.
    let mut station = Station::new(Some(&server.url()), "timeout_ms = 1000\n")?;
    station.begin(2, Habits::default()).await?;
    Ok(station)
}

fn is_well(sink: &Value) -> bool {
    sink["error"].is_null() && sink["needs_a_person"] == false
}

/// While InfluxDB is ill: nodes get their receipts and the history takes everything.
async fn nobody_waits(station: &Station) -> Result<()> {
    station.progress(20).await?;
    station.sink("history", |sink| is_well(sink) && sink["behind"].as_u64().is_some_and(|behind| behind < 20)).await?;
    Ok(())
}

/// Every reading is in the server, and each line once by series and time.
async fn settled(station: &Station, server: &Hostile) -> Result<BTreeMap<String, u32>> {
    let made = station.settle().await?;
    let total: u32 = made.values().sum();
    let water = || server.lines().into_keys().filter(|line| line.starts_with("water")).collect::<Vec<_>>();
    until("every line", WITHIN, || async { (water().len() >= total as usize).then_some(()) }).await?;
    each_as_it_was_made(water().iter().map(String::as_str), &made)?;
    station.sink("influx", |sink| is_well(sink) && sink["behind"] == 0).await?;
    Ok(made)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_status_it_refuses_with_every_line_arrives_once_it_is_well() -> Result<()> {
    let server = Hostile::start().await?;
    let station = station(&server).await?;
    for (status, for_a_person) in
        [(401, true), (403, true), (404, true), (408, false), (429, false), (500, false), (502, false), (503, false)]
    {
        let failures = station.counter("tianyu_sink_failures_total", "influx").await?;
        server.mood(Mood { always: Some(Act::Refuse(status, "", "its own words")), ..Mood::default() });
        let sink = station
            .sink("influx", |sink| sink["error"].as_str().is_some_and(|e| e.contains(&status.to_string())))
            .await?;
        ensure!(sink["needs_a_person"] == for_a_person, "{status}: {sink}");
        ensure!(sink["error"].as_str().is_some_and(|error| error.contains("its own words")), "{sink}");
        nobody_waits(&station).await?;
        ensure!(station.counter("tianyu_sink_failures_total", "influx").await? > failures);
        server.mood(Mood::default());
        station.sink("influx", is_well).await?;
    }
    settled(&station, &server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_before_or_after_it_stored_loses_and_doubles_nothing() -> Result<()> {
    let server = Hostile::start().await?;
    let station = station(&server).await?;
    for act in [Act::CloseBefore, Act::CloseAfter, Act::CloseAfter, Act::CloseBefore] {
        station.progress(5).await?;
        server.act(act.clone());
        server.act(act);
        server.played(WITHIN).await?;
        nobody_waits(&station).await?;
        station.sink("influx", is_well).await?;
    }
    settled(&station, &server).await?;
    let again = server.lines().into_values().filter(|times| *times > 1).count();
    ensure!(again > 0, "what was stored without an answer must have come again");
    Ok(())
}

/// Most memory that a process has had, in KiB.
fn memory_kib(station: &Station) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", station.tianyu.process()?.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_is_given_up_and_every_line_arrives() -> Result<()> {
    let server = Hostile::start().await?;
    let station = station(&server).await?;
    for act in [Act::EndlessHeader, Act::Silence, Act::EndlessText] {
        station.progress(5).await?;
        let before = memory_kib(&station)?;
        server.act(act.clone());
        server.played(WITHIN).await?;
        let sink = station.sink("influx", |sink| sink["error"].is_string()).await?;
        ensure!(sink["error"].as_str().is_some_and(|error| error.contains("timed out")), "{act:?}: {sink}");
        ensure!(sink["needs_a_person"] == false, "{act:?}: {sink}");
        nobody_waits(&station).await?;
        station.sink("influx", is_well).await?;
        println!("measured: {act:?} for one second: {} KiB more than before", memory_kib(&station)? - before);
    }
    settled(&station, &server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_are_set_apart_and_told_and_every_good_line_is_stored() -> Result<()> {
    for status in [400, 422] {
        let server = Hostile::start().await?;
        // Reading 37 of each node, whatever else is in its batch.
        server.mood(Mood { poison: Some((status, "dissolved_oxygen=0.37 ")), ..Mood::default() });
        let station = station(&server).await?;
        station.progress(60).await?;
        let made = station.settle().await?;
        let good: usize = made.values().map(|made| *made as usize - 1).sum();
        let water = || server.lines().into_keys().filter(|line| line.starts_with("water")).collect::<Vec<_>>();
        until("every good line", WITHIN, || async { (water().len() >= good).then_some(()) }).await?;
        ensure!(water().len() == good && !water().iter().any(|line| line.contains("=0.37 ")), "{status}");
        let sink = station.sink("influx", |sink| sink["refused"] == 2 && sink["behind"] == 0).await?;
        ensure!(is_well(&sink), "what is refused for good is no failure: {sink}");
        let told = sink["refused_latest"].to_string();
        ensure!(told.contains("=0.37 ") && told.contains(if status == 400 { "unable to parse" } else { "conflict" }));
        ensure!(station.counter("tianyu_influx_refused_lines_total", "").await? == 2.0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_it_is_sent_in_parts() -> Result<()> {
    let server = Hostile::start().await?;
    server.mood(Mood { bytes_max: Some(2_000), ..Mood::default() });
    let station = station(&server).await?;
    station.progress(200).await?;
    settled(&station, &server).await?;
    ensure!(station.sink("influx", |_| true).await?["refused"] == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_pause_is_left_alone_for_it() -> Result<()> {
    for status in [429, 503] {
        let server = Hostile::start().await?;
        // The batch, and the question with one line of it.
        server.act(Act::Refuse(status, "Retry-After: 3\r\n", "slowly"));
        server.act(Act::Refuse(status, "Retry-After: 3\r\n", "slowly"));
        let station = station(&server).await?;
        server.played(WITHIN).await?;
        nobody_waits(&station).await?;
        settled(&station, &server).await?;
        let requests = server.requests();
        let [(_, _), (asked, lines), (next, _), ..] = requests[..] else { anyhow::bail!("{requests:?}") };
        ensure!(lines == 1, "it was asked with {lines} lines");
        ensure!(next - asked >= Duration::from_secs(3), "it was asked for 3 s and left alone for {:?}", next - asked);
    }
    Ok(())
}
