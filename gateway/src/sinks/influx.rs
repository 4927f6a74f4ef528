//! InfluxDB 2: lines out, and what its answers mean.
//!
//! What the real server does with bad lines (measured on 2.7.12): 400 stores nothing and names a
//! line; 422 stores the rest and drops what conflicts. Either way the lines at fault are found
//! by halving the batch (writing a line twice stores it once), set apart, counted and told, and
//! every other line is stored. 413 halves without blame. 401, 403 and 404 are for a person to
//! mend: the sink waits and says so. All else is the server's or the network's trouble and is
//! tried again with growing pauses.
//!
//! The `influxdb2` client shows no header of an answer. So that 429 and 503 are honoured, the
//! server is then asked once more with one line of the batch, for its `Retry-After` alone. Nor
//! does the client bound the text of a refusal that it reads: what bounds an answer that never
//! ends is the time of a request.

use std::io::Write as _;
use std::time::Duration;

use influxdb2::RequestError;
use influxdb2::api::write::TimestampPrecision;
use reqwest::header;
use tokio_util::sync::CancellationToken;

use super::line::Lines;

/// Characters of a server's answer that are kept.
const ANSWER_CHARS_MAX: usize = 300;

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base address, such as `http://127.0.0.1:8086`.
    pub url: String,
    /// Organisation.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// Token with write access to the bucket.
    pub token: String,
}

/// How long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For one request, from connecting to the end of the answer.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(30) }
    }
}

/// Why a write did not happen as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Some line cannot be stored, whatever is tried: 400 or 422.
    #[error("InfluxDB refused lines: {0}")]
    Lines(String),
    /// Too much at once: 413.
    #[error("InfluxDB found the batch too large")]
    TooLarge,
    /// A person must act: 401, 403, 404 and other refusals of the request as a whole.
    #[error("InfluxDB refuses the request ({status}): {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        text: String,
    },
    /// Try again later: 408, 429, 5xx, no connection, no answer in time.
    #[error("InfluxDB cannot take it now: {text}")]
    Later {
        /// What it said, or what came between.
        text: String,
        /// How long it asks to be left alone.
        pause: Option<Duration>,
    },
}

impl WriteError {
    /// Trouble that passes, with no word on when.
    pub fn later(text: impl Into<String>) -> Self {
        Self::Later { text: text.into(), pause: None }
    }
}

/// What writes a batch of lines: the real client, and a double for answers the real server
/// cannot be made to give.
pub trait Writer: Send {
    /// Writes `lines`, one HTTP request.
    fn write(&mut self, lines: &str) -> Result<(), WriteError>;
}

/// The real server, through the `influxdb2` client.
pub struct Client {
    client: influxdb2::Client,
    /// For the one question that the client cannot ask.
    http: reqwest::Client,
    target: Target,
    runtime: tokio::runtime::Handle,
    stop: CancellationToken,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("\"{url}\" is no address of an InfluxDB ({why}); it looks like http://127.0.0.1:8086")]
    Address {
        /// As given.
        url: String,
        /// Why.
        why: String,
    },
    /// The HTTP client cannot be made.
    #[error("make an HTTP client: {0}")]
    Http(String),
}

impl Client {
    /// A client whose requests run on `runtime`; nothing is sent yet. Call [`Writer::write`] from
    /// a thread outside that runtime. `stop` ends whatever is under way.
    pub fn new(
        target: Target,
        timeouts: Timeouts,
        stop: CancellationToken,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, ClientError> {
        let address = |why: String| ClientError::Address { url: target.url.clone(), why };
        let url = reqwest::Url::parse(&target.url).map_err(|e| address(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(address("it is not http or https with a host".into()));
        }
        let http = || {
            // Nothing but lines is sent, so every body is compressed.
            let mut headers = header::HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
            reqwest::Client::builder()
                .default_headers(headers)
                .connect_timeout(timeouts.connect)
                .timeout(timeouts.request)
                .pool_max_idle_per_host(1)
        };
        let client = influxdb2::ClientBuilder::with_builder(http(), &target.url, &target.org, &target.token)
            .build()
            .map_err(|e| ClientError::Http(e.to_string()))?;
        let http = http().build().map_err(|e| ClientError::Http(e.to_string()))?;
        Ok(Self { client, http, target, runtime, stop })
    }

    async fn send(&self, lines: &str) -> Result<(), WriteError> {
        let Target { org, bucket, .. } = &self.target;
        let body = gzip(lines)?;
        let written =
            self.client.write_line_protocol_with_precision(org, bucket, body, TimestampPrecision::Milliseconds).await;
        match written {
            Ok(()) => Ok(()),
            Err(RequestError::Http { status, text }) => match meaning(status.as_u16(), &text) {
                WriteError::Later { text, .. } if matches!(status.as_u16(), 429 | 503) => {
                    let pause = self.asked_pause(lines.lines().next().unwrap_or_default()).await;
                    Err(WriteError::Later { text, pause })
                }
                error => Err(error),
            },
            Err(RequestError::ReqwestProcessing { source }) => Err(WriteError::later(causes(&source))),
            Err(other) => Err(WriteError::later(shorten(&other.to_string()))),
        }
    }

    /// How long a server that refuses wants to be left alone, asked with a line that it is to
    /// store anyway. The answer's text is not read.
    async fn asked_pause(&self, line: &str) -> Option<Duration> {
        let Target { url, org, bucket, token } = &self.target;
        let mut url = reqwest::Url::parse(url).ok()?;
        url.set_path("/api/v2/write");
        let request = self
            .http
            .post(url)
            .header(header::AUTHORIZATION, format!("Token {token}"))
            .query(&[("org", org.as_str()), ("bucket", bucket.as_str()), ("precision", "ms")])
            .body(gzip(line).ok()?);
        // No answer is no wish: the usual pauses go on.
        let answer = request.send().await.ok()?;
        retry_after(answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?, jiff::Timestamp::now())
    }
}

impl Writer for Client {
    fn write(&mut self, lines: &str) -> Result<(), WriteError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(WriteError::later("the gateway is stopping")),
                written = self.send(lines) => written,
            }
        })
    }
}

fn gzip(lines: &str) -> Result<Vec<u8>, WriteError> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::with_capacity(lines.len() / 4), flate2::Compression::fast());
    let packed = gzip.write_all(lines.as_bytes()).and_then(|()| gzip.finish());
    packed.map_err(|e| WriteError::later(format!("compress the batch: {e}")))
}

/// `Retry-After` as a pause from `now` on: seconds or a date (RFC 9110 §10.2.3).
fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// The chain of causes: reqwest's own text leaves out what matters ("connection refused").
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    shorten(&text)
}

fn shorten(text: &str) -> String {
    text.chars().take(ANSWER_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What an HTTP status other than 204 means for a batch.
fn meaning(status: u16, text: &str) -> WriteError {
    let text = shorten(text);
    match status {
        400 | 422 => WriteError::Lines(text),
        413 => WriteError::TooLarge,
        408 | 429 | 500..=599 => WriteError::later(format!("{status} {text}")),
        _ => WriteError::Refused { status, text },
    }
}

/// A line that InfluxDB will not have, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLine {
    /// The line.
    pub line: String,
    /// The server's words.
    pub why: String,
}

/// Writes all lines, setting apart those that the server refuses. When it returns an error,
/// some lines may be stored: write them all again.
pub fn write_all(writer: &mut dyn Writer, lines: &Lines, batch_max: usize) -> Result<Vec<RefusedLine>, WriteError> {
    let mut refused = Vec::new();
    // Ranges still to be written, the next one last. Halving adds at most log2(batch) of them.
    let mut left: Vec<_> =
        (0..lines.len()).step_by(batch_max.max(1)).map(|at| at..(at + batch_max).min(lines.len())).rev().collect();
    while let Some(range) = left.pop() {
        let text = lines.text(range.clone());
        let halve = match writer.write(text) {
            Ok(()) => continue,
            Err(WriteError::Lines(why)) if range.len() == 1 => {
                refused.push(RefusedLine { line: text.trim_end().to_owned(), why });
                continue;
            }
            Err(WriteError::TooLarge) if range.len() == 1 => {
                refused.push(RefusedLine { line: text.trim_end().to_owned(), why: "413: too large by itself".into() });
                continue;
            }
            Err(WriteError::Lines(_) | WriteError::TooLarge) => range.start + range.len() / 2,
            Err(error) => return Err(error),
        };
        left.push(halve..range.end);
        left.push(range.start..halve);
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::samples;

    /// Stores lines as the real server does; poisons are lines with a marker in them.
    #[derive(Default)]
    struct Server {
        stored: std::collections::BTreeSet<String>,
        status: u16,
        bytes_max: usize,
        requests: usize,
    }

    impl Writer for Server {
        fn write(&mut self, lines: &str) -> Result<(), WriteError> {
            self.requests += 1;
            if lines.len() > self.bytes_max {
                return Err(meaning(413, ""));
            }
            let (bad, good): (Vec<_>, Vec<_>) = lines.lines().partition(|l| l.contains("poison"));
            if bad.is_empty() || self.status == 422 {
                self.stored.extend(good.into_iter().map(str::to_owned));
            }
            if bad.is_empty() { Ok(()) } else { Err(meaning(self.status, "bad line")) }
        }
    }

    fn lines(count: u32, poisons: &[u32]) -> Lines {
        let mut lines = Lines::default();
        for seq in 0..count {
            let mut accepted = samples::accepted(seq, 1_790_000_000_000 + i64::from(seq));
            accepted.places.truncate(1);
            if poisons.contains(&seq) {
                accepted.places[0].unit = "poison".into();
            }
            lines.push(&accepted);
        }
        lines
    }

    #[test]
    fn one_bad_line_never_takes_good_lines_with_it() {
        for status in [400, 422] {
            let mut server = Server { status, bytes_max: usize::MAX, ..Server::default() };
            let lines = lines(100, &[0, 41, 42, 99]);
            let refused = write_all(&mut server, &lines, 5000).unwrap();
            let all = (0..lines.len()).map(|at| lines.text(at..at + 1).trim_end().to_owned());
            let good: std::collections::BTreeSet<_> = all.filter(|l| !l.contains("poison")).collect();
            assert_eq!(server.stored, good, "{status}");
            assert!(refused.iter().all(|r| r.line.contains("poison")));
            assert_eq!(refused.len() + good.len(), lines.len());
        }
    }

    #[test]
    fn what_is_too_large_is_sent_in_parts() {
        let lines = lines(64, &[]);
        let mut server = Server { bytes_max: 1200, ..Server::default() };
        assert_eq!(write_all(&mut server, &lines, 5000), Ok(Vec::new()));
        assert_eq!(server.stored.len(), lines.len());
    }

    #[test]
    fn statuses_are_understood() {
        assert!(matches!(meaning(401, "no"), WriteError::Refused { status: 401, .. }));
        assert!(matches!(meaning(404, "bucket"), WriteError::Refused { status: 404, .. }));
        for later in [408, 429, 500, 503] {
            assert!(matches!(meaning(later, ""), WriteError::Later { .. }));
        }
    }

    #[test]
    fn a_server_asks_for_a_pause_in_seconds_or_until_a_date() {
        let now: jiff::Timestamp = "2026-11-24T20:00:00Z".parse().unwrap();
        assert_eq!(retry_after(" 7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Tue, 24 Nov 2026 20:01:30 GMT", now), Some(Duration::from_secs(90)));
        assert_eq!(retry_after("Tue, 24 Nov 2026 19:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn an_address_that_is_none_is_said_so() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let target = Target { url: "/x".into(), org: "o".into(), bucket: "b".into(), token: "t".into() };
        let error = Client::new(target, Timeouts::default(), CancellationToken::new(), runtime.handle().clone());
        let error = error.err().unwrap();
        assert!(error.to_string().contains("looks like http://"), "{error}");
    }
}
