//! What benchmarks read: the CPU of a process by its threads, its memory, and the spread of
//! several runs. It judges nothing: figures are for people, and a busy machine is no failure.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;

/// Runs of each measurement.
pub const RUNS: usize = 5;

/// The spread of several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these values; zeros where there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Three significant digits are more than such a machine repeats.
        let digits = if self.median >= 100.0 { 0 } else { 2 };
        let Self { min, median, max } = self;
        write!(f, "{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

/// CPU that a process has used so far, by the names of its threads. Threads that have ended are
/// not in it.
///
/// # Errors
/// When there is no such process, or the system does not account for threads.
pub fn cpu(process: u32) -> Result<BTreeMap<String, Duration>> {
    let mut used: BTreeMap<String, Duration> = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).context("threads of a process")? {
        let folder = thread.context("threads of a process")?.path();
        let (Some(name), Some(text)) = (of_thread(&folder, "comm")?, of_thread(&folder, "schedstat")?) else {
            continue;
        };
        // Nanoseconds on a processor come first (Documentation/scheduler/sched-stats.rst).
        let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok()).context("CPU of a thread")?;
        *used.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(nanos);
    }
    Ok(used)
}

/// One of a thread's files; none when it has ended meanwhile.
fn of_thread(folder: &Path, file: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(folder.join(file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{file} of a thread")),
    }
}

/// CPU that this process has used so far, in all its threads.
///
/// # Errors
/// When the system does not account for threads.
pub fn own_cpu() -> Result<Duration> {
    Ok(cpu(std::process::id())?.values().sum())
}

/// Memory of a process that is in RAM, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("memory of a process")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("memory of a process")?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_names_the_middle_and_both_ends() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(vec![250.4, 249.6]).to_string(), "250 (250–250)");
    }

    #[test]
    fn work_of_a_named_thread_is_its_own() {
        let work = || {
            let mut sum = 0u64;
            while cpu(std::process::id()).unwrap().get("at-work").is_none_or(|used| used.as_millis() < 5) {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        };
        std::thread::Builder::new().name("at-work".into()).spawn(work).unwrap().join().unwrap();
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
    }
}
