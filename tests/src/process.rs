//! One child process: its output as lines to wait for, its signals, its end.
//!
//! Children are ended by their own process id when dropped. Of their output the newest lines are
//! kept, up to [`LINES_MAX`], and shown when the test that owns them fails.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::until;

/// Lines of output that are kept; older ones are forgotten.
pub const LINES_MAX: usize = 10_000;

/// Lines of output that a failing test shows.
const LINES_SHOWN: usize = 60;

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Output {
    lines: Mutex<VecDeque<String>>,
    /// Raised by one with every line.
    arrived: watch::Sender<u64>,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.arrived.send_modify(|count| *count += 1);
    }
}

impl Process {
    /// Starts `program` in `directory`, with both outputs read line by line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        variables: &[(&str, OsString)],
        directory: &Path,
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let mut child = Command::new(program)
            .args(arguments)
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = Arc::new(Output { lines: Mutex::default(), arrived: watch::Sender::new(0) });
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(read(stdout, output.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(read(stderr, output.clone()));
        }
        Ok(Self { name, child, output, readers })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines of standard output and standard error that are kept, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().iter().cloned().collect()
    }

    /// The first kept line that contains `text`, waited for.
    ///
    /// # Errors
    /// When no such line came within `within`.
    pub async fn line(&self, text: &str, within: Duration) -> Result<String> {
        let mut arrived = self.output.arrived.subscribe();
        let found = async {
            loop {
                let line = self.output.lines().iter().find(|line| line.contains(text)).cloned();
                if let Some(line) = line {
                    return Ok(line);
                }
                arrived.changed().await.context("output ended")?;
            }
        };
        tokio::time::timeout(within, found)
            .await
            .unwrap_or_else(|_| bail!("{} said no {text:?} within {within:?}", self.name))
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("state of {}", self.name))
    }

    /// Sends a signal: `Signal::TERM` to end, `Signal::STOP` and `Signal::CONT` to freeze and
    /// thaw, as a machine that hangs.
    ///
    /// # Errors
    /// When it has already ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Asking first reaps it, so that the id cannot have become another process's.
        if let Some(status) = self.ended()? {
            bail!("{} has already ended: {status}", self.name);
        }
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills it with SIGKILL, as a power cut would, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("end of {}", self.name))?;
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it has not ended within `within`.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.end(within).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it has not ended within `within`.
    pub async fn end(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        let child = Mutex::new(&mut self.child);
        until(&what, within, || {
            let state = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            async { state.transpose() }
        })
        .await?
        .with_context(|| what.clone())
    }

    /// Every kept line of a process that ends by itself, and how it ended. What it wrote last can
    /// be read after its end only.
    ///
    /// # Errors
    /// When it has not ended, and all that holds its outputs with it, within `within`.
    pub async fn output(&mut self, within: Duration) -> Result<(ExitStatus, Vec<String>)> {
        let status = self.end(within).await?;
        let what = format!("last output of {}", self.name);
        let readers = &self.readers;
        until(&what, within, || async { readers.iter().all(|reader| reader.is_finished()).then_some(()) }).await?;
        Ok((status, self.lines()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.kill();
        if std::thread::panicking() {
            let lines = self.output.lines();
            eprintln!("--- last lines of {} ({ended:?})", self.name);
            for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
                eprintln!("{line}");
            }
        }
    }
}

/// Reads one output to its end on a thread of its own, which ends with the child.
fn read(from: impl Read + Send + 'static, output: Arc<Output>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // A broken pipe means the child is gone, like the end of the output.
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            output.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Process {
        let directory = std::env::temp_dir();
        Process::start(Path::new("/bin/sh"), &["-c".into(), script.into()], &[], &directory).unwrap()
    }

    #[tokio::test]
    async fn lines_of_both_outputs_are_waited_for() {
        let process = shell("echo ready; echo oops >&2; exec tail -f /dev/null");
        assert_eq!(process.line("rea", SOON).await.unwrap(), "ready");
        assert_eq!(process.line("oops", SOON).await.unwrap(), "oops");
    }

    #[tokio::test]
    async fn the_last_line_of_an_ended_process_is_there() {
        for _ in 0..20 {
            let (status, lines) = shell("seq 1000").output(SOON).await.unwrap();
            assert!(status.success());
            assert_eq!((lines.len(), lines.last().map(String::as_str)), (1000, Some("1000")));
        }
    }

    #[tokio::test]
    async fn an_end_asked_for_is_told_from_a_kill() {
        let mut process = shell("trap 'kill $!; exit 7' TERM; tail -f /dev/null & echo ready; wait");
        process.line("ready", SOON).await.unwrap();
        assert_eq!(process.terminate(SOON).await.unwrap().code(), Some(7));
        assert!(process.signal(Signal::TERM).is_err());
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let process = shell("echo ready; exec tail -f /dev/null");
        process.line("ready", SOON).await.unwrap();
        let id = Pid::from_child(&process.child);
        drop(process);
        assert!(rustix::process::test_kill_process(id).is_err());
    }
}
