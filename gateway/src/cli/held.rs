//! `tianyu held`: what waits is read from the log itself, also while a gateway writes it; what a
//! person decides goes to the gateway that runs.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway::accept::held::{HeldEntry, Index, Waiting};
use gateway::control::{self, Request};
use spool::{Disk, Replay};
use telemetry::report::Report;

/// What is asked.
#[derive(clap::Subcommand)]
pub(super) enum HeldCommand {
    /// What waits, with reasons
    List,
    /// One entry: why it waits, what would help, and its bytes as received
    Show {
        /// Its index
        index: u64,
    },
    /// Say when the boot began whose records wait for a date that will never come by itself
    Resolve {
        /// Index of one of them
        index: u64,
        /// When the node started, such as 2026-11-24T08:00:00+08:00
        #[arg(long, value_name = "INSTANT")]
        began: jiff::Timestamp,
        /// How far off that may be, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        within: u32,
        /// Who says so and why; kept in the log
        #[arg(long, value_name = "WHO")]
        by: String,
    },
    /// Try one entry again now, or all of them
    Replay {
        /// Its index
        index: Option<u64>,
    },
    /// Drop an entry for good
    Drop {
        /// Its index
        index: u64,
        /// Who drops it and why; kept in the log
        #[arg(long, value_name = "WHO")]
        by: String,
    },
}

/// Does it.
pub(super) fn run(data: &Path, command: HeldCommand) -> anyhow::Result<ExitCode> {
    let request = match command {
        HeldCommand::List => return list(data),
        HeldCommand::Show { index } => return show(data, index),
        HeldCommand::Resolve { index, began, within, by } => {
            let within_ms = within.checked_mul(1000).context("--within is too long: at most 4294967 seconds")?;
            Request::HeldResolve { index, began_ms: began.as_millisecond(), within_ms, by }
        }
        HeldCommand::Replay { index } => Request::HeldReplay { index },
        HeldCommand::Drop { index, by } => Request::HeldDrop { index, by },
    };
    let answer = control::ask(data, &request).with_context(|| {
        format!("ask the gateway of {}; does it run, and is this its data directory (--data)?", data.display())
    })?;
    if answer.done {
        println!("{}", answer.text);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tianyu: {}", answer.text);
    Ok(ExitCode::FAILURE)
}

/// Reads the held log; `each` sees every entry that was ever held and is still there.
fn waiting(data: &Path, mut each: impl FnMut(u64, Waiting)) -> anyhow::Result<Index> {
    let folder = data.join("held");
    anyhow::ensure!(folder.is_dir(), "{} has no held log; is it a gateway's data directory?", data.display());
    let mut index = Index::default();
    spool::read_only(&Disk, &folder, &mut |replay| {
        let Replay::Entry { index: at, bytes } = replay else { return };
        let Ok(entry) = minicbor::decode::<HeldEntry>(&bytes) else { return };
        index.apply(at, &entry, bytes.len() as u64);
        if let HeldEntry::Waiting(waiting) = entry {
            each(at, *waiting);
        }
    })
    .with_context(|| format!("read the log in {}", folder.display()))?;
    Ok(index)
}

fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.strftime("%FT%TZ").to_string())
}

fn list(data: &Path) -> anyhow::Result<ExitCode> {
    let index = waiting(data, |_, _| {})?;
    for (at, it) in index.iter() {
        println!(
            "{at:>8}  {:<16}  ring {:08x}  seq {}+{}  {}  {}",
            it.node,
            it.ring,
            it.from,
            it.count,
            instant(it.arrived_ms),
            it.reason.text()
        );
    }
    println!("{} waiting", index.len());
    Ok(ExitCode::SUCCESS)
}

fn show(data: &Path, wanted: u64) -> anyhow::Result<ExitCode> {
    let mut found = None;
    let index = waiting(data, |at, waiting| {
        if at == wanted {
            found = Some(waiting);
        }
    })?;
    let Some(it) = found.filter(|_| index.get(wanted).is_some()) else {
        anyhow::bail!("nothing waits under {wanted}; see: tianyu held list");
    };
    println!("node     {}", it.node);
    println!("ring     {:08x}", it.ring);
    println!("records  {} from seq {}", it.count, it.from);
    println!("arrived  {}", instant(it.arrived_ms));
    println!("why      {}", it.reason.text());
    println!("remedy   {}", it.reason.remedy());
    for (date_ms, error_ms) in it.dates.first().into_iter().chain(it.dates.last()) {
        println!("dated    {} within {} ms", instant(*date_ms), error_ms);
    }
    match Report::decode(&it.payload) {
        Ok(report) => {
            println!("boot     {}", report.envelope.boot);
            for record in report.records() {
                match record {
                    Ok(record) => println!("record   {record:?}"),
                    Err(error) => println!("record   {error}"),
                }
            }
        }
        Err(error) => println!("report   {error}"),
    }
    let hex: Vec<String> = it.payload.iter().map(|byte| format!("{byte:02x}")).collect();
    for line in hex.chunks(32) {
        println!("bytes    {}", line.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}
