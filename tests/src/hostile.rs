//! An InfluxDB as it should not be: an HTTP/1.1 server at the level of bytes, which refuses,
//! closes or never ends, and which keeps what it says it has stored.
//!
//! [`crate::Ledger`] answers by the book; this one does not. It looks into lines only for the
//! marker of one that it will not have.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::until;

/// Most bytes of one request.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// What one request is met with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing is stored; this status, further header lines and text are the answer.
    Refuse(u16, &'static str, &'static str),
    /// The connection is closed and nothing is stored.
    CloseBefore,
    /// Everything is stored and the connection closed without an answer.
    CloseAfter,
    /// Header lines that never end.
    EndlessHeader,
    /// A refusal whose text never ends, as fast as it is taken.
    EndlessText,
    /// An answer that stops in the middle of its header and keeps the connection.
    Silence,
}

/// What the server does besides the acts that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mood {
    /// This act for every request.
    pub always: Option<Act>,
    /// Lines with this text are refused with this status, as the real server does: 400 stores
    /// nothing of the request, 422 the other lines.
    pub poison: Option<(u16, &'static str)>,
    /// Requests with more bytes of lines than this are answered with 413.
    pub bytes_max: Option<usize>,
}

#[derive(Debug, Default)]
struct Book {
    lines: Mutex<BTreeMap<String, u32>>,
    acts: Mutex<VecDeque<Act>>,
    mood: Mutex<Mood>,
    /// When each request came, and by how many lines.
    requests: Mutex<Vec<(std::time::Instant, usize)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    book: Arc<Book>,
    server: JoinHandle<()>,
}

impl Hostile {
    /// Starts it on a free port of 127.0.0.1, well-behaved.
    ///
    /// # Errors
    /// When the machine has no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("port for a hostile server")?;
        let address = listener.local_addr().context("port of a hostile server")?;
        let book = Arc::new(Book::default());
        let shared = Arc::clone(&book);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let book = Arc::clone(&shared);
                // How a client takes it is the client's affair.
                connections.spawn(async move { drop(serve(stream, &book).await) });
            }
        });
        Ok(Self { address, book, server })
    }

    /// Base address, as a gateway's `[influx] url` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it is like this.
    pub fn mood(&self, mood: Mood) {
        *lock(&self.book.mood) = mood;
    }

    /// One coming request is met with this; several wait in order.
    pub fn act(&self, act: Act) {
        lock(&self.book.acts).push_back(act);
    }

    /// Waits until all acts have been played.
    ///
    /// # Errors
    /// When they were not within `within`.
    pub async fn played(&self, within: Duration) -> Result<()> {
        until("all acts played", within, || async { lock(&self.book.acts).is_empty().then_some(()) }).await
    }

    /// The lines it has stored, and how often each.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<String, u32> {
        lock(&self.book.lines).clone()
    }

    /// When requests came, and with how many lines.
    #[must_use]
    pub fn requests(&self) -> Vec<(std::time::Instant, usize)> {
        lock(&self.book.requests).clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(stream: TcpStream, book: &Book) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let text = request(&mut stream).await?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lock(&book.requests).push((std::time::Instant::now(), lines.len()));
        let store = |lines: &[&str]| {
            let mut all = lock(&book.lines);
            lines.iter().for_each(|line| *all.entry((*line).to_owned()).or_default() += 1);
        };
        let mood = lock(&book.mood).clone();
        let act = lock(&book.acts).pop_front().or(mood.always);
        let (status, header, words) = match act {
            Some(Act::Refuse(status, header, words)) => (status, header, words),
            Some(Act::CloseBefore) => return Ok(()),
            Some(Act::CloseAfter) => {
                store(&lines);
                return Ok(());
            }
            Some(Act::EndlessHeader) => {
                stream.write_all(b"HTTP/1.1 204 No Content\r\nX-Endless: ").await?;
                loop {
                    stream.write_all(b"a").await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Some(Act::EndlessText) => {
                stream.write_all(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"400\r\n").await?;
                    stream.write_all(&[b'x'; 0x400]).await?;
                    stream.write_all(b"\r\n").await?;
                }
            }
            Some(Act::Silence) => {
                stream.write_all(b"HTTP/1.1 204 No").await?;
                std::future::pending().await
            }
            None if mood.bytes_max.is_some_and(|most| text.len() > most) => (413, "", "too large"),
            None => {
                let bad = |line: &&str| mood.poison.is_some_and(|(_, marker)| line.contains(marker));
                let good: Vec<&str> = lines.iter().copied().filter(|line| !bad(line)).collect();
                match mood.poison {
                    Some((400, _)) if good.len() < lines.len() => (400, "", "unable to parse"),
                    Some((status, _)) if good.len() < lines.len() => {
                        store(&good);
                        (status, "", "field type conflict")
                    }
                    _ => {
                        store(&lines);
                        (204, "", "")
                    }
                }
            }
        };
        let answer = format!("HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\n\r\n{words}", words.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// The unpacked body of the next request.
async fn request(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let (mut length, mut line) = (0, String::new());
    let mut packed = false;
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line).await? > 0, "the client has closed");
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        packed |= header.starts_with("content-encoding:") && header.contains("gzip");
    }
    if length > REQUEST_BYTES_MAX {
        bail!("a request of {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if !packed {
        // The gateway packs what it sends; a server that is not told so must not store it.
        bail!("a body that is not packed");
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).take(REQUEST_BYTES_MAX as u64).read_to_string(&mut text)?;
    Ok(text)
}
