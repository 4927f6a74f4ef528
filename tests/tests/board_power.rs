//! Power cuts of the emulated board at any instant, half of them in the middle of writing to its flash:
//! afterwards the node's own flash and the gateway's log hold the same records, each once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use emulation::control::{Phase, Word};
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use system_tests::board::{Options, Pond};
use system_tests::station::{NOWHERE, WITHIN};
use system_tests::{long, until};
use telemetry::Record;

/// Stops of power in a run.
const STOPS: u32 = 200;
/// Longest that a node runs between two stops that do not wait for its flash.
const RUN_MS_MAX: u64 = 1_000;
/// Programs that are let pass at most before a stop in one.
const PROGRAMS_MAX: u32 = 10;
/// How much slower than a real part it programs: the 10 µs of a word are over before a kill comes.
const SLOWER: u32 = 50;
/// Longest into a program or an erasure that the stop comes: a record takes 5 ms then, an erasure 45.
const LATE_US_MAX: u64 = 4_000;
/// The moments, unless TIANYU_SEED names others.
const SEED: u64 = 7;

fn seed() -> Result<u64> {
    let seed = match std::env::var("TIANYU_SEED") {
        Ok(text) => text.parse().context("TIANYU_SEED")?,
        Err(_) => SEED,
    };
    println!("moments by TIANYU_SEED={seed}");
    Ok(seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cut_at_any_instant_loses_and_doubles_nothing() -> Result<()> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    let mut chance = ChaCha8Rng::seed_from_u64(seed()?);
    pond.provision().await?;
    pond.stored("a first round", |_, _| true).await?;
    pond.board.kill()?;
    pond.board.flash().set(Word::SlowProgram, SLOWER)?;
    let stops = if long() { 5 * STOPS } else { STOPS };
    let mut phases: BTreeMap<&str, u32> = BTreeMap::new();
    let mut seen: BTreeMap<u32, Record> = BTreeMap::new();
    let mut ring = None;
    for stop in 0..stops {
        pond.board.start().await?;
        let phase = if stop % 4 < 3 {
            let late = Duration::from_micros(chance.random_range(0..LATE_US_MAX));
            pond.board.kill_in_flash(chance.random_range(0..PROGRAMS_MAX), late, WITHIN).await?
        } else {
            // Any instant: while it starts, connects, delivers, or waits.
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..RUN_MS_MAX))).await;
            pond.board.kill()?;
            pond.board.flash_stats()?.phase
        };
        let name = match phase {
            Phase::Idle => "between",
            Phase::Program => "in a program",
            Phase::Erase => "in an erasure",
        };
        *phases.entry(name).or_default() += 1;
        // What was once in the flash is there for good, under its name, until the ring has gone round.
        let (id, floor, records) = pond.board.records().with_context(|| format!("after stop {stop}"))?;
        ensure!(*ring.get_or_insert(id) == id, "the ring was made anew at stop {stop}");
        for (seq, record) in seen.range(floor..) {
            ensure!(records.get(seq) == Some(record), "record {seq} is another, or gone, after stop {stop}");
        }
        seen.extend(records);
    }
    let inside = phases.iter().filter(|(phase, _)| **phase != "between").map(|(_, count)| count).sum::<u32>();
    ensure!(2 * inside >= stops, "only {inside} of {stops} stops were inside a program or an erasure: {phases:?}");
    // All that there is gets delivered; then the power goes for the last time.
    pond.board.start().await?;
    until("everything is delivered", 3 * WITHIN, || async {
        let status = pond.board.status().await.ok()?;
        status.contains(", 0 not yet with the gateway").then_some(())
    })
    .await?;
    pond.board.kill()?;
    let (id, floor, records) = pond.board.records()?;
    seen.extend(records);
    let (records, rounds, gone) = pond.delivered(id, seen).await?;
    ensure!(gone as u32 <= stops, "more than one record was being written at each stop: {gone}");
    println!(
        "measured: {stops} stops, {phases:?}: {records} records (the ring went round over the first {floor}), {rounds} \
         rounds, {gone} torn while they were written: 0 lost, 0 doubled"
    );
    Ok(())
}
