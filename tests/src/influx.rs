//! A real InfluxDB 2, set up with one organisation, bucket and token.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::{READY_WITHIN, free_port, program, skipped, until};

/// Organisation that every test server has.
pub const ORG: &str = "fuzhou";
/// Bucket that every test server has, kept for ever.
pub const BUCKET: &str = "farm";
/// Token that may do everything on a test server.
pub const TOKEN: &str = "tianyu-system-tests";

/// Starts that are tried when another process takes the port.
const STARTS_MAX: u32 = 3;

/// One row of a Flux answer: column name → value as Flux prints it; null is the empty text.
pub type Row = BTreeMap<String, String>;

/// A running InfluxDB 2; ended, and its directory removed, when dropped.
#[derive(Debug)]
pub struct Influx {
    process: Process,
    port: u16,
    http: reqwest::Client,
    // Below the process, so that it is removed after the process has ended.
    directory: TempDir,
}

impl Influx {
    /// Starts a server and sets it up; `None` when `tests/run` has said that there is none here,
    /// which counts the test as skipped.
    ///
    /// # Errors
    /// When there is no `influxd`, or it does not answer in time.
    pub async fn start() -> Result<Option<Self>> {
        if skipped("influxd")? {
            return Ok(None);
        }
        let directory = tempfile::tempdir().context("directory for InfluxDB")?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .context("HTTP client for InfluxDB")?;
        let mut tries = 1;
        let (process, port) = loop {
            let port = free_port()?;
            let mut process = spawn(&directory, port)?;
            match ready(&mut process, &http, port).await {
                Ok(()) => break (process, port),
                Err(error) if tries == STARTS_MAX || process.ended()?.is_none() => return Err(error),
                Err(_) => tries += 1,
            }
        };
        let server = Self { process, port, http, directory };
        server.set_up().await?;
        Ok(Some(server))
    }

    /// Base address, as a gateway's `[influx] url` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it with SIGKILL; what it had stored stays for [`Influx::restart`].
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port and data, after ending it where it still runs.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = spawn(&self.directory, self.port)?;
        ready(&mut self.process, &self.http, self.port).await
    }

    /// Freezes it: connections open and nothing answers.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Writes line protocol with millisecond timestamps; the status and text of the answer,
    /// whatever it is.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn write(&self, lines: &str) -> Result<(u16, String)> {
        let answer = self
            .http
            .post(format!("{}/api/v2/write", self.url()))
            .query(&[("org", ORG), ("bucket", BUCKET), ("precision", "ms")])
            .header("Authorization", format!("Token {TOKEN}"))
            .body(lines.to_owned())
            .send()
            .await
            .context("write to InfluxDB")?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.context("answer of InfluxDB")?))
    }

    /// The rows of a Flux query, in the order of the answer.
    ///
    /// # Errors
    /// When the query is refused or fails half-way.
    pub async fn query(&self, flux: &str) -> Result<Vec<Row>> {
        let answer = self
            .http
            .post(format!("{}/api/v2/query", self.url()))
            .query(&[("org", ORG)])
            .header("Authorization", format!("Token {TOKEN}"))
            .header("Content-Type", "application/vnd.flux")
            .header("Accept", "application/csv")
            .body(flux.to_owned())
            .send()
            .await
            .context("query InfluxDB")?;
        let status = answer.status();
        let text = answer.text().await.context("answer of InfluxDB")?;
        ensure!(status.is_success(), "InfluxDB answered {status}: {text}");
        rows(&text)
    }

    async fn set_up(&self) -> Result<()> {
        let body = serde_json::json!({
            "username": "tests", "password": "tianyu-tests", "org": ORG, "bucket": BUCKET, "token": TOKEN,
        });
        let answer = self
            .http
            .post(format!("{}/api/v2/setup", self.url()))
            .body(body.to_string())
            .send()
            .await
            .context("set InfluxDB up")?;
        let status = answer.status();
        ensure!(status.is_success(), "InfluxDB set-up answered {status}");
        Ok(())
    }
}

fn spawn(directory: &TempDir, port: u16) -> Result<Process> {
    let program = program("influxd", "TIANYU_INFLUXD", "influxd-2.7.12/influxd")?;
    let at = |name: &str| directory.path().join(name).into_os_string();
    let arguments = [
        "--bolt-path".into(),
        at("influxd.bolt"),
        "--sqlite-path".into(),
        at("influxd.sqlite"),
        "--engine-path".into(),
        at("engine"),
        "--http-bind-address".into(),
        format!("127.0.0.1:{port}").into(),
        "--reporting-disabled".into(),
        "--log-level".into(),
        "warn".into(),
    ];
    // Its caches and settings stay in the test's directory too.
    let home = [("HOME", directory.path().as_os_str().to_owned())];
    Process::start(&program, &arguments, &home, directory.path())
}

/// Waits until the server says that it passes its own health check.
async fn ready(process: &mut Process, http: &reqwest::Client, port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/health");
    let passing = until("health of InfluxDB", READY_WITHIN, || {
        let ended = process.ended();
        let url = &url;
        async move {
            match ended {
                Ok(None) => {}
                Ok(Some(status)) => return Some(Err(anyhow::anyhow!("InfluxDB ended: {status}"))),
                Err(error) => return Some(Err(error)),
            }
            // No answer and a refusal both mean: not yet.
            let answer = http.get(url).send().await.ok()?;
            answer.status().is_success().then_some(Ok(()))
        }
    });
    passing.await?
}

/// Reads Flux's CSV: tables with a header each, parted by an empty line.
fn rows(text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut header: Option<Vec<String>> = None;
    for cells in records(text) {
        if cells.len() == 1 && cells[0].is_empty() {
            header = None;
            continue;
        }
        let Some(names) = &header else {
            header = Some(cells);
            continue;
        };
        let row: Row = names.iter().cloned().zip(cells).filter(|(name, _)| !name.is_empty()).collect();
        if let Some(error) = row.get("error") {
            bail!("InfluxDB: {error}");
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Cells of CSV by RFC 4180, where a quoted cell may hold commas, quotes and line ends.
fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                cell.push('"');
                letters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            other => cell.push(other),
        }
    }
    if !cell.is_empty() || !record.is_empty() {
        record.push(cell);
        records.push(record);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_one_answer_keep_their_own_columns() {
        let rows =
            rows(",result,table,_value\r\n,,0,1.5\r\n\r\n,result,table,site\r\n,,0,\"a,\"\"b\"\"\nc\"\r\n").unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["_value"], "1.5");
        assert_eq!(rows[1]["site"], "a,\"b\"\nc");
        assert!(!rows[1].contains_key("_value"));
    }

    #[test]
    fn a_query_that_fails_half_way_is_an_error_not_fewer_rows() {
        let answer = ",result,table,_value\r\n,,0,1.5\r\n\r\n,error,reference\r\n,engine: out of memory,897\r\n";
        assert!(rows(answer).unwrap_err().to_string().contains("out of memory"));
    }
}
