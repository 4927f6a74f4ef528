//! `tianyu spool`: reading the durable log without its lock.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway::entry::{Accepted, Content, Entry};
use serde_json::json;
use spool::{Disk, Replay, SegmentSummary, read_only};

/// Shows the segments; with `verify`, damage is an exit code.
pub(super) fn inspect(data: &Path, verify: bool) -> anyhow::Result<ExitCode> {
    let mut damaged = false;
    for log in ["spool", "held"] {
        let folder = data.join(log);
        let mut unreadable = 0;
        let segments = read_only(&Disk, &folder, &mut |replay| {
            let Replay::Entry { bytes, .. } = replay else { return };
            if log == "spool" && Entry::decode(&bytes).is_err() {
                unreadable += 1;
            }
        })
        .with_context(|| format!("read the log in {}", folder.display()))?;
        println!("{log}: {} segments", segments.len());
        for SegmentSummary { path, first, bytes, entries, corrupt, unfinished_bytes } in &segments {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            print!("  {name}  from {first}  {entries} entries  {bytes} bytes");
            if *unfinished_bytes > 0 {
                print!("  ({unfinished_bytes} bytes at the end being written, or torn)");
            }
            println!();
            for (offset, bytes) in corrupt {
                println!("    damaged: {bytes} bytes at {offset}");
            }
            damaged |= !corrupt.is_empty();
        }
        if unreadable > 0 {
            println!("  {unreadable} entries that this program cannot read");
            damaged = true;
        }
    }
    Ok(if verify && damaged { ExitCode::from(super::WRONG) } else { ExitCode::SUCCESS })
}

/// Prints every record as a line of JSON, oldest first.
pub(super) fn export(data: &Path) -> anyhow::Result<ExitCode> {
    let folder = data.join("spool");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut result = Ok(());
    read_only(&Disk, &folder, &mut |replay| {
        let Replay::Entry { index, bytes } = replay else { return };
        if result.is_err() {
            return;
        }
        if let Ok(Entry::Accepted(accepted)) = Entry::decode(&bytes) {
            result = records(&mut out, index, &accepted);
        }
    })
    .with_context(|| format!("read the log in {}", folder.display()))?;
    // A reader that has seen enough (head) is no error.
    match result.and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS).context("write the export"),
    }
}

fn records(out: &mut impl std::io::Write, index: u64, accepted: &Accepted) -> std::io::Result<()> {
    for record in &accepted.records {
        let content = match &record.content {
            Content::Round { config, readings } => {
                let readings: Vec<_> = readings
                    .iter()
                    .map(|r| {
                        let place = accepted.places.get(usize::from(r.place));
                        json!({
                            "channel": r.channel, "property": r.property().map(|p| p.name()),
                            "value": r.value(), "raw": r.raw(), "flag": r.flag, "tests": r.tests,
                            "reason": r.reason().map(|m| m.name()), "calibration": r.calibration,
                            "site": place.map(|p| &p.site), "unit": place.map(|p| &p.unit), "point": place.map(|p| &p.point),
                        })
                    })
                    .collect();
                json!({ "round": { "config": config, "readings": readings } })
            }
            Content::Event { code, subject, value, detail, .. } => {
                json!({ "event": { "code": code, "subject": subject, "value": value, "detail": detail } })
            }
            Content::Description(_) => json!({ "description": {} }),
            Content::Loss(first, count, cause) => json!({ "loss": { "first": first, "count": count, "cause": cause } }),
            Content::Gone => json!({ "gone": {} }),
        };
        let line = json!({
            "index": index, "node": accepted.node, "ring": accepted.ring, "seq": record.seq, "boot": accepted.boot,
            "date_ms": record.date_ms, "error_ms": record.error_ms, "t_ms": record.t_ms, "content": content,
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
