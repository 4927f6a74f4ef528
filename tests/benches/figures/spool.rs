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
use system_tests::measure::{RUNS, Spread};

/// Records of one commit.
const COMMITS: [usize; 3] = [1, 100, 1000];
/// A report of one round of eight readings, as accepted.
const RECORD: [u8; 250] = [0x5A; 250];
/// Time of one run.
const RUN: Duration = Duration::from_millis(500);

pub(crate) fn run() -> Result<()> {
    println!("durable records of {} bytes a second\n", RECORD.len());
    println!(
        "{:>8} {:>28} {:>28} {:>28} {:>12}",
        "a commit", "spool", "file, fdatasync", "SQLite, WAL, FULL", "spool/file"
    );
    for commit in COMMITS {
        let (mut spool, mut file, mut sqlite) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let folder = folder()?;
            spool.push(rate(commit, to_spool(folder.path())?)?);
            file.push(rate(commit, to_file(folder.path())?)?);
            sqlite.push(rate(commit, to_sqlite(folder.path())?)?);
        }
        let [spool, file, sqlite] = [spool, file, sqlite].map(Spread::of);
        let texts = [spool, file, sqlite].map(|spread| format!("{:>28}", spread.to_string()));
        println!("{commit:>8} {} {:>12.2}", texts.join(" "), spool.median / file.median);
    }
    Ok(())
}

/// A folder on the disk that the repository is on: the temporary one may be in memory.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("folder for a benchmark")
}

/// How many records a second `commit` makes durable, so many at a time.
fn rate(count: usize, mut commit: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let (began, mut records) = (Instant::now(), 0);
    while began.elapsed() < RUN {
        commit(count)?;
        records += count;
    }
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

fn to_spool(folder: &Path) -> Result<impl FnMut(usize) -> Result<()>> {
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let (spool, _) = Spool::open(Arc::new(Disk), &folder.join("spool"), options, Box::new(|| {}), &mut |_| {})?;
    Ok(move |count| {
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
    })
}

fn to_file(folder: &Path) -> Result<impl FnMut(usize) -> Result<()>> {
    let mut file = File::create(folder.join("file"))?;
    Ok(move |count| {
        file.write_all(&RECORD.repeat(count))?;
        Ok(file.sync_data()?)
    })
}

fn to_sqlite(folder: &Path) -> Result<impl FnMut(usize) -> Result<()>> {
    let mut connection = Connection::open(folder.join("sqlite"))?;
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB)",
    )?;
    Ok(move |count| {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO record (body) VALUES (?1)")?;
            for _ in 0..count {
                insert.execute([&RECORD[..]])?;
            }
        }
        Ok(transaction.commit()?)
    })
}
