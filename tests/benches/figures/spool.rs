//! Durable records a second on the real disk, by how many share a commit; beside it a plain file
//! with `fdatasync` (what the disk allows) and SQLite.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use spool::{Disk, Options, Spool};
use system_tests::measure::{RUNS, Spread, own_cpu};

/// Records of one commit.
const COMMITS: [usize; 3] = [1, 100, 1000];
/// A report of one round of eight readings, as accepted.
const RECORD: [u8; 250] = [0x5A; 250];
/// Time of one run.
const RUN: Duration = Duration::from_millis(500);

pub(crate) fn run() -> Result<()> {
    println!("durable records of {} bytes a second; CPU of each in µs beside it\n", RECORD.len());
    print!("{:>8}", "a commit");
    for (what, _) in STORES {
        print!(" {what:>28} {:>18}", "CPU");
    }
    println!(" {:>11}", "spool/file");
    for commit in COMMITS {
        let mut runs = STORES.map(|_| Vec::new());
        for _ in 0..RUNS {
            let folder = folder()?;
            for ((_, open), runs) in STORES.iter().zip(&mut runs) {
                runs.push(rate(commit, &mut open(folder.path())?)?);
            }
        }
        print!("{commit:>8}");
        for runs in &runs {
            let (rates, cpu_us) = runs.iter().copied().unzip();
            print!(" {:>28} {:>18}", Spread::of(rates).to_string(), Spread::of(cpu_us).to_string());
        }
        let [spool, file, _] = runs.map(|runs| Spread::of(runs.into_iter().map(|(rate, _)| rate).collect()).median);
        println!(" {:>11.2}", spool / file);
    }
    Ok(())
}

/// Makes so many records durable with one commit.
type Commit = Box<dyn FnMut(usize) -> Result<()>>;

/// Opens a store in a folder.
type Open = fn(&Path) -> Result<Commit>;

/// What is compared, by name.
const STORES: [(&str, Open); 3] = [("spool", to_spool), ("file, fdatasync", to_file), ("SQLite, WAL, FULL", to_sqlite)];

/// A folder on the disk that the repository is on: the temporary one may be in memory.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("folder for a benchmark")
}

/// Durable records a second, `count` to a commit, and the CPU of each in µs.
fn rate(count: usize, commit: &mut Commit) -> Result<(f64, f64)> {
    let (used, began, mut records) = (own_cpu()?, Instant::now(), 0.0);
    while began.elapsed() < RUN {
        commit(count)?;
        records += count as f64;
    }
    Ok((records / began.elapsed().as_secs_f64(), (own_cpu()? - used).as_secs_f64() * 1e6 / records))
}

fn to_spool(folder: &Path) -> Result<Commit> {
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let (spool, _) = Spool::open(Arc::new(Disk), &folder.join("spool"), options, Box::new(|| {}), &mut |_| {})?;
    Ok(Box::new(move |count| {
        let (tell, told) = mpsc::channel();
        for _ in 0..count {
            let tell = tell.clone();
            let done = Box::new(move |result| drop(tell.send(result)));
            spool.append_then(&RECORD, &mut Vec::new, done)?;
        }
        drop(tell);
        let mut durable = 0;
        for result in told {
            result?;
            durable += 1;
        }
        anyhow::ensure!(durable == count, "{durable} of {count} were told durable");
        Ok(())
    }))
}

fn to_file(folder: &Path) -> Result<Commit> {
    let mut file = File::create(folder.join("file"))?;
    Ok(Box::new(move |count| {
        file.write_all(&RECORD.repeat(count))?;
        Ok(file.sync_data()?)
    }))
}

fn to_sqlite(folder: &Path) -> Result<Commit> {
    let mut connection = Connection::open(folder.join("sqlite"))?;
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB)",
    )?;
    Ok(Box::new(move |count| {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO record (body) VALUES (?1)")?;
            for _ in 0..count {
                insert.execute([&RECORD[..]])?;
            }
        }
        Ok(transaction.commit()?)
    }))
}
