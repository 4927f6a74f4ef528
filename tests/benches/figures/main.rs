//! Figures of the product beside what they can be compared with; `tests/bench` runs them.
//!
//! Each subject prints a table of its own: the median of several runs with the least and the most.
//! Nothing here passes or fails. Limits that must hold have tests of their own.

mod bytes;
mod endpoint;
mod entries;
mod history;
mod influx;
mod sender;
mod spool;

use anyhow::{Result, ensure};

/// What there is to be measured.
const SUBJECTS: [&str; 5] = ["bytes", "spool", "endpoint", "history", "influx"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for name in &wanted {
        ensure!(SUBJECTS.contains(&name.as_str()), "there is no {name:?}; there are {}", SUBJECTS.join(", "));
    }
    let subjects =
        SUBJECTS.into_iter().filter(|subject| wanted.is_empty() || wanted.iter().any(|name| name == subject));
    tokio::task::LocalSet::new().run_until(measure(subjects)).await
}

async fn measure(subjects: impl Iterator<Item = &str>) -> Result<()> {
    for subject in subjects {
        println!("\n== {subject} ==");
        match subject {
            "bytes" => bytes::run()?,
            "spool" => spool::run()?,
            "endpoint" => endpoint::run().await?,
            "history" => history::run()?,
            _ => influx::run().await?,
        }
    }
    Ok(())
}
