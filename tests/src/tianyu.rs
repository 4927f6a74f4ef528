//! The `tianyu` binary as it is shipped, with a configuration and a directory of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::until;

/// Longest that one HTTP answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A gateway's directory and, while it runs, its process. Several runs may follow one another on
/// the same data; everything is ended and removed when dropped.
#[derive(Debug)]
pub struct Tianyu {
    process: Option<Process>,
    http: reqwest::Client,
    /// Whether `run` leaves out the checks of the configuration's limits.
    unchecked: bool,
    // Below the process, so that it is removed after the process has ended.
    directory: TempDir,
}

impl Tianyu {
    /// A gateway that does not run yet, in an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("directory for tianyu")?;
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().context("HTTP client")?;
        Ok(Self { process: None, http, unchecked: false, directory })
    }

    /// Runs the gateway without the checks that keep limits sensible, such as a spool's budget.
    pub fn unchecked(&mut self) {
        self.unchecked = true;
    }

    /// Its directory: configuration, sites, secrets and, with the default `data_dir`, its data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file into its directory; the path of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Runs `tianyu` with these arguments to its end, in its directory; the exit status and the
    /// lines of both outputs.
    ///
    /// # Errors
    /// When it cannot be started or has not ended within `within`.
    pub async fn command(&self, arguments: &[&str], within: Duration) -> Result<(ExitStatus, Vec<String>)> {
        self.spawn(&binary()?, arguments)?.output(within).await
    }

    /// Every record in the spool by `tianyu spool export`, whether it runs or not.
    ///
    /// # Errors
    /// When the export fails, or prints what is no JSON.
    pub async fn export(&self) -> Result<Vec<serde_json::Value>> {
        let mut command = std::process::Command::new(binary()?);
        command.args(["spool", "export"]).current_dir(self.directory.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("run tianyu spool export")?;
        anyhow::ensure!(output.status.success(), "tianyu spool export: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).context("read the export")?;
        lines.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read {line}"))).collect()
    }

    /// Starts `tianyu run --config tianyu.toml`; the file must be there (see [`Tianyu::file`]).
    /// Wait for [`Tianyu::line`] or [`Tianyu::answers`] afterwards.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn run(&mut self) -> Result<()> {
        self.start(&["run", "--config", "tianyu.toml"])
    }

    /// Starts `tianyu` with these arguments; it runs until it is killed or terminated.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        if let Some(process) = &mut self.process
            && process.ended()?.is_none()
        {
            bail!("tianyu runs already");
        }
        let program = if self.unchecked { beside("unchecked")? } else { binary()? };
        self.process = Some(self.spawn(&program, arguments)?);
        Ok(())
    }

    /// The first line of this run's output that contains `text`, waited for.
    ///
    /// # Errors
    /// When no such line came within `within`.
    pub async fn line(&self, text: &str, within: Duration) -> Result<String> {
        self.process()?.line(text, within).await
    }

    /// The body of the first answer with a status of success from `http://127.0.0.1:PORT/PATH`
    /// for which `enough` is true, waited for.
    ///
    /// # Errors
    /// When there was none within `within`.
    pub async fn answers(
        &self,
        port: u16,
        path: &str,
        within: Duration,
        enough: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let url = format!("http://127.0.0.1:{port}/{}", path.trim_start_matches('/'));
        until(&url, within, || async {
            // No answer and a refusal both mean: not yet.
            let answer = self.http.get(&url).send().await.ok()?.error_for_status().ok()?;
            answer.text().await.ok().filter(|body| enough(body))
        })
        .await
    }

    /// Kills it with SIGKILL, as a power cut would; its data stay for the next run.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("tianyu does not run")?.kill()
    }

    /// Ends it with SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it does not run or has not ended within `within`.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.as_mut().context("tianyu does not run")?.terminate(within).await
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("tianyu does not run")?.signal(signal)
    }

    /// The process of the current run, or of the last one if that ended by itself.
    ///
    /// # Errors
    /// When it was never run, or was killed.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("tianyu does not run")
    }

    fn spawn(&self, program: &Path, arguments: &[&str]) -> Result<Process> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        // The machine's own settings must not change what is tested.
        let variables = [("RUST_LOG", "".into()), ("NO_COLOR", "1".into()), ("NO_PROXY", "127.0.0.1,localhost".into())];
        Process::start(program, &arguments, &variables, self.directory.path())
    }
}

/// The binary: named by `TIANYU_BIN`, else the one that Cargo built beside the running test.
///
/// # Errors
/// When it is not built; `cargo build --workspace --bins` does that.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIANYU_BIN") {
        return Ok(path.into());
    }
    beside("tianyu")
}

/// A program that Cargo built beside the running test.
fn beside(name: &str) -> Result<PathBuf> {
    // A test runs as target/<profile>/deps/<name>-<hash>.
    let test = std::env::current_exe().context("path of this test")?;
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built; `cargo build --workspace --bins` does that"))
}
