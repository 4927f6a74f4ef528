//! The console of a board: lines to wait for, and lines typed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{broadcast, watch};

/// Lines that are kept; older ones are forgotten.
const LINES_MAX: usize = 10_000;

/// Lines that a program at the serial port may be behind.
const BEHIND_MAX: usize = 1_024;

/// What a board has said since it was last switched on.
#[derive(Debug)]
pub(super) struct Console {
    lines: Mutex<Lines>,
    /// Raised by one with every line and every connection.
    arrived: watch::Sender<u64>,
    typing: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    /// For whoever is at the serial port.
    lines_out: broadcast::Sender<String>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// Of those kept: how many were looked at.
    seen: usize,
}

impl Default for Console {
    fn default() -> Self {
        let (lines, typing) = (Mutex::default(), tokio::sync::Mutex::new(None));
        Self { lines, arrived: watch::Sender::new(0), typing, lines_out: broadcast::Sender::new(BEHIND_MAX) }
    }
}

impl Console {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The board is about to start: what was said is over.
    pub(super) fn begin(&self) {
        *self.lines() = Lines::default();
    }

    fn push(&self, line: String) {
        // Nobody is at the serial port, most of the time.
        let _listeners = self.lines_out.send(line.clone());
        let mut lines = self.lines();
        if lines.kept.len() == LINES_MAX {
            lines.kept.pop_front();
            lines.seen = lines.seen.saturating_sub(1);
        }
        lines.kept.push_back(line);
        drop(lines);
        self.arrived.send_modify(|count| *count += 1);
    }

    /// The next line that contains `text` and what comes before it count as seen.
    fn next(&self, text: &str) -> Option<String> {
        let mut lines = self.lines();
        let index = lines.kept.iter().skip(lines.seen).position(|line| line.contains(text))?;
        lines.seen += index + 1;
        lines.kept.get(lines.seen - 1).cloned()
    }

    pub(super) async fn line(&self, text: &str, within: Duration) -> Result<String> {
        let mut arrived = self.arrived.subscribe();
        let found = async {
            loop {
                if let Some(line) = self.next(text) {
                    return Ok(line);
                }
                arrived.changed().await.context("the console is gone")?;
            }
        };
        tokio::time::timeout(within, found).await.unwrap_or_else(|_| {
            let lines: Vec<String> = self.lines().kept.iter().cloned().collect();
            bail!("the board said no {text:?} within {within:?}, but:\n{}", lines.join("\n"))
        })
    }

    /// What came of a program's command: its DATA lines without that word, and its last line.
    fn answer(&self) -> Option<(Vec<String>, String)> {
        let mut lines = self.lines();
        let begins = |line: &String| line.starts_with("OK") || line.starts_with("ERROR");
        let end = lines.kept.iter().skip(lines.seen).position(begins)?;
        let (from, to) = (lines.seen, lines.seen + end);
        lines.seen = to + 1;
        let data = lines.kept.range(from..to).filter_map(|line| line.strip_prefix("DATA ")).map(str::to_owned);
        Some((data.collect(), lines.kept.get(to)?.clone()))
    }

    pub(super) async fn answered(&self, within: Duration) -> Result<(Vec<String>, String)> {
        let mut arrived = self.arrived.subscribe();
        let found = async {
            loop {
                if let Some(answer) = self.answer() {
                    return Ok(answer);
                }
                arrived.changed().await.context("the console is gone")?;
            }
        };
        tokio::time::timeout(within, found).await.unwrap_or_else(|_| {
            let lines: Vec<String> = self.lines().kept.iter().cloned().collect();
            bail!("the board gave no answer within {within:?}, but:\n{}", lines.join("\n"))
        })
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut typing = self.typing.lock().await;
        typing.as_mut().context("the board is off")?.write_all(bytes).await.context("type at the console")
    }
}

/// Serves the console for as long as the board is there; each connection is a start of QEMU.
pub(super) async fn serve(listener: UnixListener, console: Arc<Console>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (read, write) = stream.into_split();
        *console.typing.lock().await = Some(write);
        let mut read = BufReader::new(read);
        let mut line = Vec::new();
        // A broken connection means that QEMU is gone, like its end.
        while read.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
            console.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
        *console.typing.lock().await = None;
    }
}

/// A serial port for a program: what it writes is typed, and every line that the board says goes to it.
pub(super) async fn serve_port(listener: UnixListener, console: Arc<Console>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (mut read, mut write) = stream.into_split();
        let mut lines = console.lines_out.subscribe();
        let mut bytes = [0; 1_024];
        loop {
            let fine = tokio::select! {
                line = lines.recv() => match line {
                    Ok(line) => write.write_all(format!("{line}\r\n").as_bytes()).await.is_ok(),
                    Err(_) => false,
                },
                count = read.read(&mut bytes) => match count {
                    Ok(count @ 1..) => console.send(&bytes[..count]).await.is_ok(),
                    // The program is through.
                    _ => false,
                },
            };
            if !fine {
                break;
            }
        }
    }
}
