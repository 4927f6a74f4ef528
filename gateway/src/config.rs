//! The gateway's configuration: one TOML file, checked whole before anything starts.
//!
//! Every key has a default that is safe on a machine by itself; unknown keys are errors. Relative
//! paths are relative to the file. Secrets are never in it, only the names of files that hold
//! them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where spool, held log, history, credentials and keys live.
    pub data_dir: PathBuf,
    /// Registry files: sites, units, points, nodes.
    pub sites: Vec<PathBuf>,
    /// The built-in MQTT endpoint.
    pub endpoint: Option<Endpoint>,
    /// An external MQTT broker.
    pub broker: Option<Broker>,
    /// The durable log.
    pub spool: Spool,
    /// The local history.
    pub history: History,
    /// InfluxDB 2.
    pub influx: Option<Influx>,
    /// JSON, metrics and health over HTTP.
    pub api: Option<Api>,
    /// What is logged and how.
    pub log: Log,
}

/// The built-in MQTT endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Endpoint {
    /// Addresses to listen on, IPv4 and IPv6.
    pub listen: Vec<SocketAddr>,
    /// Certificate chain in PEM; with `key`, switches TLS on.
    pub certificate: Option<PathBuf>,
    /// Private key in PEM.
    pub key: Option<PathBuf>,
    /// Allows MQTT without TLS beyond this machine, where the network itself is trusted.
    pub allow_plaintext: bool,
    /// Connections at once.
    pub connections_max: usize,
}

/// An external MQTT broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "mqtt_port")]
    pub port: u16,
    /// Client id; the broker keeps the session under it, so it must not change.
    #[serde(default = "client_id")]
    pub client_id: String,
    /// User name, where the broker wants one.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Allows a broker beyond this machine: the way there has no TLS yet, so the network itself must
    /// be trusted (a VPN, a tunnel). The broker's own access rules say who may publish as a node.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Node names to own, or "+" for all. A node has one owner: several gateways divide them.
    #[serde(default = "all_nodes")]
    pub nodes: Vec<String>,
}

/// The durable log.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Most that the spool may hold, in MiB.
    pub budget_mib: u64,
    /// Most that the held log may hold, in MiB.
    pub held_mib: u64,
    /// Most that one node may have in the held log, in MiB.
    pub held_node_mib: u64,
    /// Acknowledging stops when the disk has less free than this, in MiB.
    pub free_mib: u64,
}

/// The local history.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Whether to keep one. Without it, InfluxDB becomes required.
    pub keep: bool,
}

/// InfluxDB 2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Influx {
    /// Base address.
    pub url: String,
    /// Organisation.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// File with a token that may write the bucket.
    pub token_file: PathBuf,
    /// Stops acknowledgement when it is away for longer than the spool can wait, instead of
    /// being fed from the history later.
    #[serde(default)]
    pub required: bool,
    /// Longest that one request may take, from connecting to the end of the answer, in
    /// milliseconds.
    #[serde(default = "influx_timeout_ms")]
    pub timeout_ms: u64,
}

/// JSON, metrics and health over HTTP.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address. It has no log-in yet: only this machine's own addresses are accepted.
    pub listen: SocketAddr,
}

/// What is logged and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A `tracing` filter: error, warn, info, debug, or by module.
    pub filter: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

/// Longest that one request to InfluxDB may take when nothing else is said, in milliseconds.
pub const INFLUX_TIMEOUT_MS: u64 = 30_000;

fn influx_timeout_ms() -> u64 {
    INFLUX_TIMEOUT_MS
}

fn mqtt_port() -> u16 {
    1883
}

fn client_id() -> String {
    "tianyu".to_owned()
}

fn all_nodes() -> Vec<String> {
    vec!["+".to_owned()]
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("tianyu-data"),
            sites: Vec::new(),
            endpoint: None,
            broker: None,
            spool: Spool::default(),
            history: History::default(),
            influx: None,
            api: None,
            log: Log::default(),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 1883))],
            certificate: None,
            key: None,
            allow_plaintext: false,
            connections_max: 10_000,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self { budget_mib: 4096, held_mib: 512, held_node_mib: 16, free_mib: 512 }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { keep: true }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

/// What is wrong with a file, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub what: String,
    /// The line's text.
    pub source: String,
}

impl Complaint {
    /// About a file as a whole.
    pub fn whole(file: &Path, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, what: what.into(), source: String::new() }
    }

    /// About the byte at `offset` of `text`.
    pub fn at(file: &Path, text: &str, offset: usize, what: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            what: what.into(),
            source: text[start..].lines().next().unwrap_or_default().to_owned(),
        }
    }

    /// About the first place in `text` where `key` is set, or the file as a whole.
    pub fn key(file: &Path, text: &str, key: &str, what: impl Into<String>) -> Self {
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let indent = line.len() - line.trim_start().len();
            let bare = line.trim_start().trim_start_matches('[');
            if bare.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', ']'])) {
                return Self::at(file, text, offset + indent, what);
            }
            offset += line.len();
        }
        Self::whole(file, what)
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.display();
        if self.line == 0 {
            return write!(f, "{file}: {}", self.what);
        }
        write!(f, "{file}:{}:{}: {}", self.line, self.column, self.what)?;
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        write!(f, "\n {pad} |\n {number} | {}\n {pad} | {}^", self.source, " ".repeat(self.column.saturating_sub(1)))
    }
}

impl std::error::Error for Complaint {}

/// Reads a TOML file into `T`, naming line and column of what does not fit.
pub fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<(T, String), Complaint> {
    let text = std::fs::read_to_string(file).map_err(|e| Complaint::whole(file, format!("read the file: {e}")))?;
    Ok((parse(file, &text)?, text))
}

/// Reads the text of a TOML file into `T`, naming line and column of what does not fit.
pub fn parse<T: serde::de::DeserializeOwned>(file: &Path, text: &str) -> Result<T, Complaint> {
    toml::from_str(text).map_err(|e| {
        let what = e.message().replace('\n', " ");
        match e.span() {
            Some(span) => Complaint::at(file, text, span.start, what),
            None => Complaint::whole(file, what),
        }
    })
}

impl Config {
    /// Reads and checks a file; all that is wrong at once, so that it is mended at once.
    pub fn load(file: &Path) -> Result<Self, Vec<Complaint>> {
        let (mut config, text): (Self, String) = read(file).map_err(|complaint| vec![complaint])?;
        let complaints = config.check(file, &text);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        config.resolve(file.parent().unwrap_or(Path::new("")));
        let missing = config.missing(file, &text);
        if missing.is_empty() { Ok(config) } else { Err(missing) }
    }

    /// Files that it names and that cannot be read.
    fn missing(&self, file: &Path, text: &str) -> Vec<Complaint> {
        let endpoint = self.endpoint.as_ref();
        let named = [
            ("certificate", endpoint.and_then(|e| e.certificate.as_ref()), "the certificate chain in PEM"),
            ("key", endpoint.and_then(|e| e.key.as_ref()), "the certificate's private key in PEM"),
            ("password_file", self.broker.as_ref().and_then(|b| b.password_file.as_ref()), "the broker's password"),
            ("token_file", self.influx.as_ref().map(|i| &i.token_file), "an InfluxDB token that may write the bucket"),
        ];
        let unread = named.into_iter().filter_map(|(key, path, what)| {
            let error = std::fs::File::open(path?).err()?;
            let what = format!("{} cannot be read ({error}): put {what} there", path?.display());
            Some(Complaint::key(file, text, key, what))
        });
        unread.collect()
    }

    fn resolve(&mut self, base: &Path) {
        let mut paths: Vec<&mut PathBuf> = vec![&mut self.data_dir];
        paths.extend(&mut self.sites);
        if let Some(endpoint) = &mut self.endpoint {
            paths.extend(endpoint.certificate.as_mut());
            paths.extend(endpoint.key.as_mut());
        }
        paths.extend(self.broker.as_mut().and_then(|b| b.password_file.as_mut()));
        paths.extend(self.influx.as_mut().map(|i| &mut i.token_file));
        for path in paths {
            *path = base.join(&*path);
        }
    }

    fn check(&self, file: &Path, text: &str) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let mut complain = |key: &str, what: String| complaints.push(Complaint::key(file, text, key, what));
        if self.endpoint.is_none() && self.broker.is_none() {
            complain("", "nothing to listen to: add an [endpoint] section, or a [broker] section".into());
        }
        if let Some(e) = &self.endpoint {
            if e.listen.is_empty() {
                complain("listen", "no address to listen on: write listen = [\"127.0.0.1:1883\"]".into());
            }
            if e.certificate.is_some() != e.key.is_some() {
                complain("endpoint", "certificate and key go together: give both for TLS, or neither".into());
            }
            let open = e.listen.iter().find(|a| !a.ip().is_loopback());
            if let (Some(address), None, false) = (open, &e.certificate, e.allow_plaintext) {
                complain(
                    "listen",
                    format!(
                        "{address} is reachable from other machines and has no TLS: give certificate and key, \
                         or write allow_plaintext = true where the network itself is trusted"
                    ),
                );
            }
            if e.connections_max == 0 {
                complain("connections_max", "at least 1 connection must be allowed".into());
            }
        }
        if let Some(b) = &self.broker {
            let here = b.host == "localhost" || b.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            if !here && !b.allow_plaintext {
                complain(
                    "host",
                    format!(
                        "{} is another machine and the way there has no TLS: reach it through a tunnel to this machine, \
                         or write allow_plaintext = true where the network itself is trusted",
                        b.host
                    ),
                );
            }
            if b.nodes.is_empty() {
                complain("nodes", "no nodes to own: name them, or write nodes = [\"+\"]".into());
            }
            for node in &b.nodes {
                if node.starts_with("$share") {
                    complain(
                        "nodes",
                        "a shared subscription would give one node's reports to several gateways, and none would have \
                         all of them: name this gateway's nodes instead"
                            .into(),
                    );
                } else if node != "+" && telemetry::NodeName::new(node).is_err() {
                    complain("nodes", format!("\"{node}\" is no node: {}", telemetry::name::InvalidNodeName));
                }
            }
        }
        if !self.history.keep && self.influx.is_none() {
            complain("keep", "nothing would keep the data: keep the history, or add an [influx] section".into());
        }
        if let Some(i) = &self.influx
            && !i.url.starts_with("http://")
            && !i.url.starts_with("https://")
        {
            complain("url", format!("\"{}\" is no address of an InfluxDB: it looks like http://127.0.0.1:8086", i.url));
        }
        if let Some(i) = &self.influx
            && !(1_000..=600_000).contains(&i.timeout_ms)
        {
            complain("timeout_ms", format!("{} ms is no time for a request: 1000 to 600000", i.timeout_ms));
        }
        if let Some(a) = &self.api
            && !a.listen.ip().is_loopback()
        {
            complain(
                "api",
                format!(
                    "{} is reachable from other machines and the page has no log-in: use 127.0.0.1 or [::1]",
                    a.listen
                ),
            );
        }
        for (key, value, least) in [
            ("budget_mib", self.spool.budget_mib, 64),
            ("held_mib", self.spool.held_mib, 8),
            ("held_node_mib", self.spool.held_node_mib, 1),
            ("free_mib", self.spool.free_mib, 16),
        ] {
            if value < least {
                complain(key, format!("{value} MiB is too little: at least {least}"));
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Vec<Complaint>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tianyu.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    #[test]
    fn the_example_is_valid_and_says_every_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tianyu.toml");
        std::fs::write(&file, include_str!("../examples/tianyu.toml")).unwrap();
        let complaints = Config::load(&file).unwrap_err();
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].line > 0 && complaints[0].what.contains("put an InfluxDB token"), "{complaints:?}");
        std::fs::write(folder.path().join("influx.token"), "t").unwrap();
        let config = Config::load(&file).unwrap();
        assert!(
            config.endpoint.is_some() && config.broker.is_some() && config.influx.is_some() && config.api.is_some()
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let complaint = load("[endpoint]\nlisten = [\"127.0.0.1:1883\"]\n  lisen = 3\n").unwrap_err().remove(0);
        assert_eq!((complaint.line, complaint.column), (3, 3), "{complaint}");
        assert!(complaint.what.contains("unknown field `lisen`"), "{complaint}");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_remedy() {
        let text = "[endpoint]\nlisten = [\"0.0.0.0:1883\"]\n[broker]\nhost = \"broker.example\"\nnodes = [\"$share/g/+\"]\n[spool]\nfree_mib = 1\n";
        let complaints = load(text).unwrap_err();
        let lines: Vec<_> = complaints.iter().map(|c| c.line).collect();
        assert_eq!(lines, [2, 4, 5, 7]);
        assert!(complaints[..2].iter().all(|c| c.what.contains("allow_plaintext = true")));
        assert!(complaints[2].what.contains("shared subscription"));
    }

    #[test]
    fn a_gateway_with_nothing_to_do_is_refused() {
        assert!(load("").unwrap_err()[0].what.contains("[endpoint]"));
        assert!(load("[endpoint]\n[history]\nkeep = false\n").unwrap_err()[0].what.contains("[influx]"));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load("data_dir = \"d\"\n[endpoint]\n").unwrap();
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("d"));
    }
}
