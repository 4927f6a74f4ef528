//! An append-only stand-in for InfluxDB's write address.
//!
//! The real server keeps one row for each series and time and so hides what was written twice;
//! this one keeps every line of every request in the order of arrival, and gives the answers that
//! the real one cannot be made to give. It deliberately does not check or index lines.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Most bytes of one request, as sent and unpacked.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// What one request is answered with, instead of being stored and answered with 204.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether its lines are stored all the same, as when an answer comes too late.
    pub stored: bool,
    /// HTTP status.
    pub status: u16,
    /// Text of the answer.
    pub text: String,
}

/// A running ledger on a loopback port; ended when dropped.
#[derive(Debug)]
pub struct Ledger {
    address: SocketAddr,
    book: Arc<Book>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Book {
    lines: Mutex<Vec<String>>,
    answers: Mutex<VecDeque<Answer>>,
    /// Requests so far.
    requests: watch::Sender<u64>,
}

impl Book {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, VecDeque<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the machine has no free port.
    pub async fn start() -> Result<Self> {
        let book =
            Arc::new(Book { lines: Mutex::default(), answers: Mutex::default(), requests: watch::Sender::new(0) });
        let router = axum::Router::new()
            .route("/api/v2/write", post(write))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(book.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.context("port for the ledger")?;
        let address = listener.local_addr().context("port of the ledger")?;
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the ledger ended: {error}");
            }
        });
        Ok(Self { address, book, server })
    }

    /// Base address, as a gateway's `[influx] url` wants it. Any organisation, bucket and token
    /// will do.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every line so far, in the order of arrival, doubles included.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.book.lines().clone()
    }

    /// Requests so far, refused ones included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        *self.book.requests.borrow()
    }

    /// Waits until another request has been stored or refused; its answer may still be under way.
    ///
    /// # Errors
    /// When none came within `within`.
    pub async fn another_request(&self, within: Duration) -> Result<()> {
        let mut requests = self.book.requests.subscribe();
        let waited = tokio::time::timeout(within, requests.changed()).await;
        Ok(waited.with_context(|| format!("no request within {within:?}"))??)
    }

    /// Answers one coming request with `answer`; several wait in order.
    pub fn answer(&self, answer: Answer) {
        self.book.answers().push_back(answer);
    }

    /// Waits until the lines are `enough`, and returns them.
    ///
    /// # Errors
    /// When they were not within `within`.
    pub async fn lines_when(&self, within: Duration, enough: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let mut requests = self.book.requests.subscribe();
        let waiting = async {
            loop {
                let lines = self.lines();
                if enough(&lines) {
                    return Ok(lines);
                }
                requests.changed().await.context("the ledger ended")?;
            }
        };
        let waited = tokio::time::timeout(within, waiting).await;
        waited.with_context(|| format!("the ledger has {} lines after {within:?}", self.lines().len()))?
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn write(State(book): State<Arc<Book>>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let packed = headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let text = match unpack(&body, packed) {
        Ok(text) => text,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let answer = book.answers().pop_front();
    if answer.as_ref().is_none_or(|answer| answer.stored) {
        book.lines().extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    book.requests.send_modify(|count| *count += 1);
    let Some(answer) = answer else { return (StatusCode::NO_CONTENT, String::new()) };
    (StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), answer.text)
}

fn unpack(body: &[u8], packed: bool) -> std::io::Result<String> {
    let mut text = String::new();
    if packed {
        let limit = REQUEST_BYTES_MAX as u64;
        flate2::read::GzDecoder::new(body).take(limit).read_to_string(&mut text)?;
    } else {
        let mut body = body;
        body.read_to_string(&mut text)?;
    }
    Ok(text)
}
