//! What a person orders while the gateway runs: one JSON line a request, one a reply, over a Unix
//! socket in the data directory that only its owner may open.
//!
//! It owns the socket and the words. Reading needs none of this: `tianyu spool` and `held list`
//! look at the logs themselves.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::Gateway;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// Requests at once.
const REQUESTS_MAX: usize = 8;
/// Longest wait for a request to be said, and for it to be carried out.
const SAID_WITHIN: Duration = Duration::from_secs(10);
const DONE_WITHIN: Duration = Duration::from_secs(120);

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Try held entries again: one, or all of them.
    HeldReplay {
        /// Which; all if none is named.
        index: Option<u64>,
    },
    /// A person says when the boot began whose records wait for a date.
    HeldResolve {
        /// The entry it is about.
        index: u64,
        /// UTC in milliseconds.
        began_ms: i64,
        /// How far off that may be.
        within_ms: u32,
        /// Who says so, and why.
        by: String,
    },
    /// Drop a held entry for good.
    HeldDrop {
        /// Which.
        index: u64,
        /// Who drops it, and why.
        by: String,
    },
    /// Read registry and credentials again.
    Reload,
    /// Give a node a config that is kept in the data directory.
    ConfigPush {
        /// The node.
        node: String,
        /// The config's number.
        number: u16,
        /// What its channels measure, by property number.
        channels: Vec<u8>,
        /// Who wants it.
        by: String,
    },
    /// Mark a node's channel as being calibrated, or no longer.
    Calibrate {
        /// The node.
        node: String,
        /// The channel.
        channel: u8,
        /// For so long, in seconds; 0 = no longer.
        for_s: u32,
        /// Who calibrates.
        by: String,
    },
    /// The newest values of a node as it shows them, before anything is stored; as JSON.
    Newest {
        /// The node.
        node: String,
    },
}

/// The newest values of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// When they came: UTC in milliseconds.
    pub arrived_ms: i64,
    /// Milliseconds on the node's clock when they were taken.
    pub t_ms: u64,
    /// Config they were taken under.
    pub config: u16,
    /// Channel, value, raw value (as the property's integers) and whether there is one.
    pub readings: Vec<(u8, i32, Option<i32>, bool)>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// In words.
    pub text: String,
}

/// The socket of a data directory.
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Takes orders until `shutdown`.
///
/// # Errors
/// When the socket cannot be made.
pub async fn run(path: &Path, gateway: Arc<Gateway>, shutdown: CancellationToken) -> std::io::Result<()> {
    // This process holds the log's lock: a socket that is there was left by one that is gone.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted?.0,
        };
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, gateway).await {
                tracing::debug!(%error, "an order was not taken or not answered");
            }
            drop(place);
        });
    }
    std::fs::remove_file(path)
}

async fn serve(mut stream: UnixStream, gateway: Arc<Gateway>) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(SAID_WITHIN, read.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => tokio::task::spawn_blocking(move || carry_out(&gateway, request)).await?,
        Err(error) => Answer { done: false, text: format!("not an order: {error}") },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    tokio::time::timeout(SAID_WITHIN, write.write_all(&text)).await?
}

fn carry_out(gateway: &Gateway, request: Request) -> Answer {
    tracing::info!(?request, "ordered");
    let acceptor = gateway.acceptor();
    let done = |text: String| Answer { done: true, text };
    let refused = |error: &dyn std::fmt::Display| Answer { done: false, text: error.to_string() };
    match request {
        Request::HeldReplay { index: None } => {
            done(format!("{} accepted, {} still wait", acceptor.resolve_all(true), acceptor.held_count()))
        }
        Request::HeldReplay { index: Some(index) } => match acceptor.replay_held(index) {
            Ok(()) => done("accepted".into()),
            Err(error) => refused(&error),
        },
        Request::HeldResolve { by, .. } | Request::HeldDrop { by, .. } if by.trim().is_empty() => {
            refused(&"say who decides this and why")
        }
        Request::HeldResolve { index, began_ms, within_ms, by } => {
            match acceptor.date_held(index, began_ms, within_ms, by) {
                Ok(accepted) => done(format!("{accepted} accepted, {} still wait", acceptor.held_count())),
                Err(error) => refused(&error),
            }
        }
        Request::HeldDrop { index, by } => match acceptor.drop_held(index, by) {
            Ok(()) => done("dropped".into()),
            Err(error) => refused(&error),
        },
        Request::ConfigPush { by, .. } | Request::Calibrate { by, .. } if by.trim().is_empty() => {
            refused(&"say who wants this")
        }
        Request::ConfigPush { node, number, channels, by } => {
            match acceptor.push_config(&node, number, &channels, &by) {
                Ok(text) => done(text),
                Err(error) => refused(&error),
            }
        }
        Request::Calibrate { node, channel, for_s, by: _ } => match acceptor.calibrate(&node, channel, for_s) {
            Ok(()) => done(if for_s == 0 { "calibration is over" } else { "calibration has begun" }.to_owned()),
            Err(error) => refused(&error),
        },
        Request::Newest { node } => match acceptor.newest(&node) {
            Ok(Some((arrived_ms, round))) => {
                let readings = round.readings.iter();
                let readings = readings.map(|it| {
                    let is_there = matches!(it.quality, telemetry::Quality::Present { .. });
                    (it.channel, it.value, it.raw, is_there)
                });
                let newest =
                    Newest { arrived_ms, t_ms: round.t_ms, config: round.config, readings: readings.collect() };
                match serde_json::to_string(&newest) {
                    Ok(text) => done(text),
                    Err(error) => refused(&error),
                }
            }
            Ok(None) => refused(&format!("\"{node}\" has shown no values since this gateway started")),
            Err(error) => refused(&error),
        },
        Request::Reload => match acceptor.reload_credentials() {
            Ok(()) => {
                gateway.reload();
                done("the credentials are in force, the registry is read again".into())
            }
            Err(error) => refused(&error),
        },
    }
}

/// Gives an order to the gateway that runs on this data directory, and waits for its answer.
///
/// # Errors
/// When none runs there, or it does not answer.
pub fn ask(data_dir: &Path, request: &Request) -> std::io::Result<Answer> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket(data_dir))?;
    stream.set_write_timeout(Some(SAID_WITHIN))?;
    stream.set_read_timeout(Some(DONE_WITHIN))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
