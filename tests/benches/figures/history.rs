//! Durable rows a second into the local history: 10,000 series, one row in ten late; beside it a
//! SQLite table that takes the same rows in the order in which they come and finds none of them.

use std::time::Instant;

use anyhow::Result;
use gateway::entry::{Accepted, Content};
use gateway::sinks::history::History;
use rusqlite::{Connection, params};
use system_tests::measure::{RUNS, Spread, own_cpu};

use crate::entries::{BEGAN_MS, accepted};
use crate::spool::folder;

/// Nodes of eight series each.
const NODES: u32 = 1_250;
/// Rounds of each node in one run, and before the first.
const ROUNDS: u32 = 24;
/// From round to round, ms.
const PERIOD_MS: i64 = 60_000;
/// Every tenth round is late by this: a node that was away for two days.
const LATE_MS: i64 = 2 * 86_400_000 + PERIOD_MS / 2;
/// Entries of one batch, as a feed cuts them.
const BATCH: usize = 5_000;

/// The rounds of one run in the order in which they come.
fn entries(run: u32) -> Vec<Accepted> {
    let mut entries = Vec::new();
    for seq in run * ROUNDS..(run + 1) * ROUNDS {
        for node in 0..NODES {
            let late_ms = if (node + seq) % 10 == 0 { LATE_MS } else { 0 };
            entries.push(accepted(node, seq, BEGAN_MS + 5 * 86_400_000 + i64::from(seq) * PERIOD_MS - late_ms));
        }
    }
    entries
}

pub(crate) fn run() -> Result<()> {
    let folder = folder()?;
    let mut history = History::open(&folder.path().join("history"))?;
    let mut plain = Connection::open(folder.path().join("plain.sqlite"))?;
    plain.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         CREATE TABLE reading (node TEXT, property INTEGER, time_ms INTEGER, value REAL, flag INTEGER, seq INTEGER)",
    )?;
    let rows = f64::from(ROUNDS * NODES * 8);
    let [mut ours, mut plains, mut our_cpu, mut plain_cpu] = [const { Vec::new() }; 4];
    // The first run makes the series.
    for run in 0..=RUNS as u32 {
        let entries = entries(run);
        let (used, began) = (own_cpu()?, Instant::now());
        for (first, batch) in (0u64..).zip(entries.chunks(BATCH)) {
            let stored = history.store(batch, first, first)?;
            anyhow::ensure!(stored.again == 0 && stored.clashes == 0, "{stored:?}");
        }
        let (took, our_use) = (began.elapsed(), own_cpu()? - used);
        let (used, began) = (own_cpu()?, Instant::now());
        entries.chunks(BATCH).try_for_each(|batch| store_plainly(&mut plain, batch))?;
        if run > 0 {
            ours.push(rows / took.as_secs_f64());
            our_cpu.push(our_use.as_secs_f64() * 1e6 / rows);
            plains.push(rows / began.elapsed().as_secs_f64());
            plain_cpu.push((own_cpu()? - used).as_secs_f64() * 1e6 / rows);
        }
    }
    drop(history);
    let mut bytes = 0;
    for file in std::fs::read_dir(folder.path().join("history"))? {
        bytes += file?.metadata()?.len();
    }
    let all = rows * (RUNS + 1) as f64;
    println!("durable rows a second, {} series, 10 % late, batches of {} rows\n", NODES * 8, BATCH * 8);
    println!("{:>16} {:>30} {:>34} {:>8}", "", "history", "SQLite, no key, not looked for", "ratio");
    for (what, ours, plain) in [("rows/s", ours, plains), ("CPU, µs a row", our_cpu, plain_cpu)] {
        let (ours, plain) = (Spread::of(ours), Spread::of(plain));
        println!("{what:>16} {:>30} {:>34} {:>8.2}", ours.to_string(), plain.to_string(), ours.median / plain.median);
    }
    println!("\n{:.0} bytes of disk a row", bytes as f64 / all);
    Ok(())
}

fn store_plainly(connection: &mut Connection, batch: &[Accepted]) -> Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for accepted in batch {
            for record in &accepted.records {
                let Content::Round { readings, .. } = &record.content else { continue };
                for r in readings {
                    insert.execute(params![
                        accepted.node,
                        r.property,
                        record.date_ms,
                        r.value(),
                        r.flag,
                        record.seq
                    ])?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}
