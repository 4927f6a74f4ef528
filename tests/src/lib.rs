//! Real servers and the real gateway for the system tests in `tests/tests`.
//!
//! Owns starting, awaiting, killing and reading them: each on free loopback ports, each with a
//! directory of its own, each ended when its handle is dropped. Nothing here sleeps to let
//! something happen: readiness is asked for again and again until it is there or a deadline has
//! passed. It deliberately knows no promise of the product; those are the tests' own sentences.

use std::time::Duration;

use anyhow::{Context, Result, bail};

pub mod board;
pub mod books;
pub mod custodian;
pub mod delivery;
pub mod farm;
pub mod hostile;
pub mod image;
pub mod influx;
pub mod ledger;
pub mod measure;
pub mod mosquitto;
pub mod process;
pub mod station;
pub mod tianyu;

pub use farm::{Farm, Plan};
pub use hostile::Hostile;
pub use influx::Influx;
pub use ledger::Ledger;
pub use mosquitto::Mosquitto;
pub use station::Station;
pub use tianyu::Tianyu;

/// Longest that a server may take until it answers, generous for a busy machine of two cores.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// Time between two questions of [`until`].
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Whether the long campaigns are wanted (`tests/run --long`).
#[must_use]
pub fn long() -> bool {
    std::env::var_os("TIANYU_LONG").is_some_and(|value| value == "1")
}

/// Asks `question` until it answers with a value, and fails when none came within `within`.
///
/// # Errors
/// When the time is over; the message names `what` was waited for.
pub async fn until<T, F>(what: &str, within: Duration, mut question: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let answer = async {
        let mut ticks = tokio::time::interval(ASK_EVERY);
        loop {
            ticks.tick().await;
            if let Some(answer) = question().await {
                break answer;
            }
        }
    };
    tokio::time::timeout(within, answer).await.with_context(|| format!("{what}: not within {within:?}"))
}

/// A loopback port that was free a moment ago.
///
/// Another process may take it before it is used, so a server that ends at once is started again
/// with another one.
///
/// # Errors
/// When the machine has no free port.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("free loopback port")?;
    Ok(listener.local_addr().context("address of a loopback port")?.port())
}

/// The recorded near-shore series: the file that `TIANYU_RECORDED` names, else the one in the
/// `shared/data` folder beside the repository. `None` where there is none, which counts the test
/// as skipped.
///
/// # Errors
/// When `TIANYU_RECORDED` names no file, or the skip cannot be told.
pub fn recorded() -> Result<Option<std::path::PathBuf>> {
    use std::path::{Path, PathBuf};

    if let Some(path) = std::env::var_os("TIANYU_RECORDED").map(PathBuf::from) {
        anyhow::ensure!(path.is_file(), "TIANYU_RECORDED names no file: {}", path.display());
        return Ok(Some(path));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    // No folder and no file both mean: not here.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = entries.filter(|path| path.extension().is_some_and(|extension| extension == "csv")).min();
    if found.is_none() {
        skip("the recorded series")?;
    }
    Ok(found)
}

/// A Python 3, for the node written from the protocol page. `None` where `tests/run` has said that
/// there is none, which counts the test as skipped.
///
/// # Errors
/// When there is no `python3`, or the skip cannot be told.
pub fn python() -> Result<Option<std::path::PathBuf>> {
    if skipped("python3")? { Ok(None) } else { program("python3", "TIANYU_PYTHON", "python/python3").map(Some) }
}

/// The emulator of boards with an ARM processor; `None` when `tests/run` has said that there is
/// none here, which counts the test as skipped.
///
/// # Errors
/// When there is no `qemu-system-arm`.
pub fn qemu() -> Result<Option<std::path::PathBuf>> {
    let name = "qemu-system-arm";
    if skipped(name)? { Ok(None) } else { program(name, "TIANYU_QEMU", "qemu/qemu-system-arm").map(Some) }
}

/// LLVM's disassembler, with its symbolizer beside it; `None` when `tests/run` has said that there is
/// none here, which counts the test as skipped.
///
/// # Errors
/// When there is no `llvm-objdump`.
pub fn disassembler() -> Result<Option<std::path::PathBuf>> {
    let name = "llvm-objdump";
    if skipped(name)? { Ok(None) } else { program(name, "TIANYU_OBJDUMP", "llvm/llvm-objdump").map(Some) }
}

/// Whether `tests/run` could not get `server` here and has said so; then the test is skipped, and
/// counted as skipped. Without `tests/run` a missing server is an error with a remedy.
fn skipped(server: &str) -> Result<bool> {
    let without = std::env::var("TIANYU_WITHOUT").unwrap_or_default();
    if !without.split_whitespace().any(|name| name == server) {
        return Ok(false);
    }
    skip(server)?;
    Ok(true)
}

/// Tells that this test is skipped for want of `what`, in the list that `tests/run` counts.
///
/// # Errors
/// When the list cannot be written.
pub fn skip(what: &str) -> Result<()> {
    use std::io::Write as _;

    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("SKIPPED: {test} needs {what}");
    if let Some(list) = std::env::var_os("TIANYU_SKIPS") {
        let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).context("list of skips")?;
        list.write_all(format!("{test} needs {what}\n").as_bytes()).context("list of skips")?;
    }
    Ok(())
}

/// The program `name`, by the variable that names it, else in the tests' cache, else on the path.
fn program(name: &str, variable: &str, cached: &str) -> Result<std::path::PathBuf> {
    use std::path::PathBuf;

    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let cache = std::env::var_os("TIANYU_TEST_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        base.map(|base| base.join("tianyu-tests"))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in sbin, which is not on every user's path.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    let found = cache
        .map(|cache| cache.join(cached))
        .into_iter()
        .chain(folders.map(|folder| folder.join(name)))
        .find(|candidate| candidate.is_file());
    let Some(found) = found else {
        bail!("{name} is not here; `tests/run` gets it, or name it in {variable}");
    };
    Ok(found)
}
