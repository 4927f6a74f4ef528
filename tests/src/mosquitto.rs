//! A real mosquitto, with the settings that a test gives it.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::process::Process;
use crate::{READY_WITHIN, free_port, program, skipped, until};

/// Starts that are tried when another process takes the port.
const STARTS_MAX: u32 = 3;

/// A running mosquitto; ended, and its directory removed, when dropped.
#[derive(Debug)]
pub struct Mosquitto {
    process: Process,
    port: u16,
    // Below the process, so that it is removed after the process has ended.
    directory: TempDir,
}

impl Mosquitto {
    /// Starts a broker that lets everyone in. `settings` are further lines of its configuration,
    /// such as `max_queued_messages 0`; without `persistence true` it keeps nothing on the disk,
    /// which is its own default. `None` when
    /// `tests/run` has said that there is no mosquitto here, which counts the test as skipped.
    ///
    /// # Errors
    /// When there is no `mosquitto`, or it does not listen in time.
    pub async fn start(settings: &str) -> Result<Option<Self>> {
        if skipped("mosquitto")? {
            return Ok(None);
        }
        let directory = tempfile::tempdir().context("directory for mosquitto")?;
        let mut tries = 1;
        loop {
            let port = free_port()?;
            // Started as root it would become another user, who may not write the directory.
            let configuration = format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence_location {}/\n\
                 {}log_dest stderr\nlog_type all\n{settings}\n",
                directory.path().display(),
                if rustix::process::getuid().is_root() { "user root\n" } else { "" },
            );
            std::fs::write(directory.path().join("mosquitto.conf"), configuration)
                .context("configuration of mosquitto")?;
            let mut process = spawn(&directory)?;
            match ready(&mut process, port).await {
                Ok(()) => return Ok(Some(Self { process, port, directory })),
                Err(error) if tries == STARTS_MAX || process.ended()?.is_none() => {
                    return Err(error.context(process.lines().join("\n")));
                }
                Err(_) => tries += 1,
            }
        }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it with SIGKILL. With persistence it keeps what it had saved by then, else nothing.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port and directory, after ending it where it still runs.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = spawn(&self.directory)?;
        ready(&mut self.process, self.port).await
    }

    /// The first line of its log that contains `text`, waited for.
    ///
    /// # Errors
    /// When no such line came within `within`.
    pub async fn line(&self, text: &str, within: Duration) -> Result<String> {
        self.process.line(text, within).await
    }
}

fn spawn(directory: &TempDir) -> Result<Process> {
    let program = program("mosquitto", "TIANYU_MOSQUITTO", "mosquitto/mosquitto")?;
    Process::start(&program, &["-c".into(), "mosquitto.conf".into()], &[], directory.path())
}

/// Waits until the broker takes connections.
async fn ready(process: &mut Process, port: u16) -> Result<()> {
    let listening = until("mosquitto listening", READY_WITHIN, || {
        let ended = process.ended();
        async move {
            match ended {
                Ok(None) => {}
                Ok(Some(status)) => return Some(Err(anyhow::anyhow!("mosquitto ended: {status}"))),
                Err(error) => return Some(Err(error)),
            }
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(|_| Ok(()))
        }
    });
    listening.await?
}
