//! A station: the real gateway with a registry, and nodes that deliver to it and know what they were
//! told. Here is what all custody tests share: how it is started and killed, and how what was made
//! is compared with what is in the spool, the history and InfluxDB.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use telemetry::NodeName;
use telemetry::session::{Nonce, Open, Session};
use telemetry::topic::{self, Up};

use crate::custodian::{Custodian, Habits};
use crate::{Influx, Ledger, Tianyu, free_port, influx, until};

/// Nodes that the registry knows.
pub const NODES: [&str; 6] = ["pond-1", "pond-2", "pond-3", "pond-4", "pond-5", "pond-6"];
/// The site of all of them, with what needs escaping.
pub const SITE: &str = "福清, 一号=\"东\"";
/// Longest wait for what should happen soon.
pub const WITHIN: Duration = Duration::from_secs(60);
/// A gateway with a registry for [`NODES`], and the nodes.
#[derive(Debug)]
pub struct Station {
    /// The gateway.
    pub tianyu: Tianyu,
    /// Where nodes connect.
    pub mqtt: u16,
    /// Where its API listens.
    pub http: u16,
    /// The nodes.
    pub nodes: Vec<Custodian>,
    /// A sink that is never there keeps every segment: doubles can be judged over all of them.
    spool_is_whole: bool,
}

/// An InfluxDB that is never there: nothing listens on port 9 (discard), and the spool's budget
/// is far.
pub const NOWHERE: &str = "http://127.0.0.1:9";

impl Station {
    /// A station that writes to the InfluxDB at `influx_url`; `more` are further lines of its
    /// configuration.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(influx_url: Option<&str>, more: &str) -> Result<Self> {
        let tianyu = Tianyu::new()?;
        let (mqtt, http) = (free_port()?, free_port()?);
        let mut sites =
            format!("[[site]]\nname = '{SITE}'\nadcode = 350181\n[[site.unit]]\nname = \"塘 1\"\nkind = \"pond\"\n");
        for node in NODES {
            sites += &format!(
                "[[node]]\nname = \"{node}\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = '{SITE}'\nunit = \"塘 1\"\n"
            );
        }
        tianyu.file("sites.toml", &sites)?;
        let mut config = format!(
            "sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\", \"[::1]:{mqtt}\"]\n[api]\nlisten = \"127.0.0.1:{http}\"\n"
        );
        if let Some(url) = influx_url {
            tianyu.file("influx.token", influx::TOKEN)?;
            config += &format!(
                "[influx]\nurl = \"{url}\"\norg = \"{}\"\nbucket = \"{}\"\ntoken_file = \"influx.token\"\n",
                influx::ORG,
                influx::BUCKET
            );
        }
        tianyu.file("tianyu.toml", &(config + more))?;
        Ok(Self { tianyu, mqtt, http, nodes: Vec::new(), spool_is_whole: influx_url == Some(NOWHERE) })
    }

    /// Starts so many nodes, and then the gateway.
    ///
    /// # Errors
    /// When the gateway is not ready in time.
    pub async fn begin(&mut self, nodes: usize, habits: Habits) -> Result<()> {
        for name in &NODES[..nodes] {
            self.nodes.push(Custodian::start(&self.tianyu, name, self.mqtt, habits).await?);
        }
        self.start().await
    }

    /// Starts the gateway.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&mut self) -> Result<()> {
        self.tianyu.run()?;
        self.tianyu.line("ready", WITHIN).await?;
        Ok(())
    }

    /// Kills the gateway `number` times at moments that `moments` choose: after some records,
    /// while it starts and recovers, and between a sink's storing a batch and its cursor.
    ///
    /// # Errors
    /// When it does not come back, or nothing arrives.
    pub async fn kill(&mut self, number: u32, moments: &mut Moments, ledger: Option<&Ledger>) -> Result<()> {
        for _ in 0..number {
            match (moments.next(3), ledger) {
                // After the kill before this one: anywhere in its start and its recovery.
                (0, _) => tokio::time::sleep(Duration::from_millis(moments.next(150).into())).await,
                (1, Some(ledger)) => ledger.another_request(WITHIN).await?,
                _ => self.progress(1 + moments.next(40)).await?,
            }
            self.tianyu.kill()?;
            self.tianyu.run()?;
        }
        self.tianyu.line("ready", WITHIN).await?;
        Ok(())
    }

    /// Waits until every node has had this many more records receipted.
    ///
    /// # Errors
    /// When they were not in time.
    pub async fn progress(&self, records: u32) -> Result<()> {
        let from: Vec<u32> = self.nodes.iter().map(Custodian::released).collect();
        until("more receipts", WITHIN, || async {
            self.nodes.iter().zip(&from).all(|(node, from)| node.released() >= from + records).then_some(())
        })
        .await
    }

    /// A node of the registry that only logs in: its token.
    ///
    /// # Errors
    /// When its credentials cannot be made.
    pub async fn token(&self, node: &str) -> Result<String> {
        let (status, lines) = self.tianyu.command(&["node", "add", node], WITHIN).await?;
        ensure!(status.success(), "tianyu node add {node}: {lines:?}");
        let token = lines.iter().find_map(|line| line.strip_prefix("token"));
        Ok(token.with_context(|| format!("no token in {lines:?}"))?.trim().to_owned())
    }

    /// The state of the gateway in `/healthz`, once it is `wanted`: ok, degraded or refusing.
    ///
    /// # Errors
    /// When it was not in time.
    pub async fn health(&self, wanted: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/healthz", self.http);
        let http = reqwest::Client::builder().no_proxy().timeout(WITHIN).build()?;
        let last = std::sync::Mutex::new(Value::Null);
        let keep = |body: &Value| last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(body);
        let healthy = until("/healthz", WITHIN, || async {
            let answer = http.get(&url).send().await.ok()?;
            let status = answer.status().as_u16();
            let body: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
            keep(&body);
            // 503 is what restarts things; its words are for people.
            (body["status"] == wanted && (status == 200) == (wanted == "ok")).then_some(body)
        })
        .await;
        healthy.with_context(|| format!("it is not {wanted}: {last:?}"))
    }

    /// The state of a sink in `/api/v1/pipeline`, once it is as `wanted`.
    ///
    /// # Errors
    /// When it was not in time.
    pub async fn sink(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let of = |body: &str| -> Option<Value> {
            let pipeline: Value = serde_json::from_str(body).ok()?;
            pipeline["sinks"].as_array()?.iter().find(|sink| sink["name"] == name).cloned()
        };
        let enough = |body: &str| of(body).is_some_and(|sink| wanted(&sink));
        let body = self.tianyu.answers(self.http, "api/v1/pipeline", WITHIN, enough).await;
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                let last = self.tianyu.answers(self.http, "api/v1/pipeline", WITHIN, |_| true).await?;
                return Err(error.context(last));
            }
        };
        of(&body).context("the sink has gone")
    }

    /// The sum of a counter in `/metrics` over all its labels that contain `label`.
    ///
    /// # Errors
    /// When there are no metrics.
    pub async fn counter(&self, name: &str, label: &str) -> Result<f64> {
        let text = self.tianyu.answers(self.http, "metrics", WITHIN, |_| true).await?;
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Messages that the endpoint or the broker has acknowledged to nodes.
    #[must_use]
    pub fn acknowledged(&self) -> u32 {
        self.nodes.iter().map(Custodian::acknowledged).sum()
    }

    /// Stops production and waits for every receipt; how many readings each node has made.
    ///
    /// # Errors
    /// When receipts do not come in time.
    pub async fn delivered(&self) -> Result<BTreeMap<String, u32>> {
        let made: Vec<u32> = self.nodes.iter().map(Custodian::stop_producing).collect();
        until("all receipts", 2 * WITHIN, || async { self.nodes.iter().all(Custodian::done).then_some(()) }).await?;
        Ok(NODES.iter().map(|&n| n.to_owned()).zip(made).collect())
    }

    /// Stops production, waits for every receipt, and compares what was made with what is in the
    /// spool and in the history, by name and by value: record n of a node holds value n.
    ///
    /// # Errors
    /// When something is lost, doubled or other than it was made.
    pub async fn settle(&self) -> Result<BTreeMap<String, u32>> {
        let made = self.delivered().await?;
        let total: u32 = made.values().sum();
        let data = self.tianyu.directory().join("tianyu-data");
        until("the history is whole", 2 * WITHIN, || async {
            let rows = in_history(&data).ok()?;
            (rows.values().map(Vec::len).sum::<usize>() >= total as usize).then_some(())
        })
        .await?;
        let want: BTreeMap<String, Vec<(u32, i64)>> =
            made.iter().map(|(node, made)| (node.clone(), (1..=*made).map(|n| (n, n.into())).collect())).collect();
        let (history, spool) = (in_history(&data)?, in_spool(&self.tianyu).await?);
        for (node, want) in &want {
            let (rows, records) = (&history[node], &spool[node]);
            ensure!(rows == want, "{node}: the history has {} rows of {}", rows.len(), want.len());
            // What every sink has is no longer in the spool; what is must be its end, each once.
            let first = records.first().map_or(u32::MAX, |(seq, _)| *seq);
            let rest: Vec<_> = want.iter().filter(|(seq, _)| *seq >= first).copied().collect();
            ensure!(!rest.is_empty() && *records == rest, "{node}: the spool has {records:?}");
            ensure!(!self.spool_is_whole || *records == *want, "{node}: the spool begins at {first}");
        }
        Ok(made)
    }
}

/// Moments to kill at, the same for the same seed.
#[derive(Debug)]
pub struct Moments(u32);

impl Moments {
    /// A number below `below` (xorshift32; Marsaglia 2003).
    pub fn next(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % below
    }
}

/// A campaign's moments: other ones each time, told so that a failure can be tried again.
///
/// # Errors
/// When `TIANYU_SEED` is no number.
pub fn moments() -> Result<Moments> {
    let seed = match std::env::var("TIANYU_SEED") {
        Ok(seed) => seed.parse().context("TIANYU_SEED is a number")?,
        Err(_) => std::time::UNIX_EPOCH.elapsed()?.subsec_nanos() | 1,
    };
    println!("moments by TIANYU_SEED={seed}");
    Ok(Moments(seed))
}

/// Readings of each node in the history, by name and by value.
fn in_history(data: &Path) -> Result<BTreeMap<String, Vec<(u32, i64)>>> {
    let mut all: BTreeMap<String, Vec<(u32, i64)>> = BTreeMap::new();
    let Ok(files) = std::fs::read_dir(data.join("history")) else { return Ok(all) };
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "sqlite") {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let history = rusqlite::Connection::open_with_flags(&path, flags)?;
            let mut rows =
                history.prepare("SELECT node, seq, round(value * 100) FROM reading JOIN series ON id = series")?;
            for row in rows.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get::<_, f64>(2)? as i64)))? {
                let (node, seq, value) = row?;
                all.entry(node).or_default().push((seq, value));
            }
        }
    }
    all.values_mut().for_each(|rows| rows.sort_unstable());
    Ok(all)
}

/// Readings of each node in the spool, by name and by value, doubles included.
async fn in_spool(tianyu: &Tianyu) -> Result<BTreeMap<String, Vec<(u32, i64)>>> {
    let mut all: BTreeMap<String, Vec<(u32, i64)>> = BTreeMap::new();
    let mut dates: BTreeMap<String, BTreeMap<u32, i64>> = BTreeMap::new();
    let exported = tianyu.export().await?;
    for record in &exported {
        let node = record["node"].as_str().context("a record without a node")?.to_owned();
        let seq = u32::try_from(record["seq"].as_u64().context("a record without a seq")?)?;
        let date = record["date_ms"].as_i64().context("a record without a date")?;
        ensure!(record["ring"] == 7, "{record}");
        let of_node = dates.entry(node.clone()).or_default();
        ensure!(of_node.insert(seq, date).is_none(), "{node}: record {seq} is in the spool twice: {record}");
        if let Some(value) = record["content"]["round"]["readings"][0]["value"].as_f64() {
            all.entry(node).or_default().push((seq, (value * 100.0).round() as i64));
        }
    }
    for (node, dates) in dates {
        let dates: Vec<i64> = dates.into_values().collect();
        ensure!(dates.is_sorted_by(|a, b| a < b), "{node}: dates do not rise with seq");
    }
    all.values_mut().for_each(|rows| rows.sort_unstable());
    Ok(all)
}

/// Waits until InfluxDB holds every reading that was made, and nothing else.
///
/// # Errors
/// When it does not in time, or holds something else.
pub async fn settled_in_influx(influx: &Influx, made: &BTreeMap<String, u32>) -> Result<()> {
    let flux = format!(
        "from(bucket: \"{}\") |> range(start: 0) |> filter(fn: (r) => r._measurement == \"water\" and r._field == \"dissolved_oxygen\") |> keep(columns: [\"node\", \"_value\", \"_time\", \"site\"])",
        influx::BUCKET
    );
    let total: u32 = made.values().sum();
    let rows = until("InfluxDB has caught up", 3 * WITHIN, || async {
        let rows = influx.query(&flux).await.ok()?;
        (rows.len() >= total as usize).then_some(rows)
    })
    .await?;
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        ensure!(row["site"] == SITE, "site arrived as {:?}", row["site"]);
        all.entry(row["node"].clone()).or_default().push((row["_value"].parse::<f64>()? * 100.0).round() as i64);
    }
    all.values_mut().for_each(|values| values.sort_unstable());
    let want: BTreeMap<String, Vec<i64>> =
        made.iter().map(|(node, made)| (node.clone(), (1..=i64::from(*made)).collect())).collect();
    ensure!(all == want, "InfluxDB holds other values than were measured");
    Ok(())
}

/// Lines of readings, judged: every reading that was made is there, and however often a line may
/// be repeated, no reading has two lines that differ, and no series and time two contents.
///
/// # Errors
/// When that is not so.
pub fn each_as_it_was_made<'l>(lines: impl Iterator<Item = &'l str>, made: &BTreeMap<String, u32>) -> Result<()> {
    let mut names: BTreeMap<(String, i64), BTreeSet<&str>> = BTreeMap::new();
    let mut places: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for line in lines.filter(|line| line.starts_with("water")) {
        let (rest, time) = line.rsplit_once(' ').context("a line without a time")?;
        let (series, fields) = rest.rsplit_once(' ').context("a line without fields")?;
        let node = series.split(',').find_map(|tag| tag.strip_prefix("node=")).context("a line without a node")?;
        let value = fields.split(',').find_map(|field| field.strip_prefix("dissolved_oxygen=")).context("no value")?;
        let value = (value.parse::<f64>()? * 100.0).round() as i64;
        names.entry((node.to_owned(), value)).or_default().insert(line);
        places.entry((series, time)).or_default().insert(fields);
    }
    for (name, lines) in &names {
        ensure!(lines.len() == 1, "{name:?} was sent with two times or contents: {lines:?}");
    }
    for (place, fields) in &places {
        ensure!(fields.len() == 1, "{place:?} was sent with two contents: {fields:?}");
    }
    let want: BTreeSet<(String, i64)> =
        made.iter().flat_map(|(node, made)| (1..=i64::from(*made)).map(|value| (node.clone(), value))).collect();
    let have: BTreeSet<_> = names.into_keys().collect();
    let (missing, foreign): (Vec<_>, Vec<_>) = (want.difference(&have).collect(), have.difference(&want).collect());
    ensure!(missing.is_empty() && foreign.is_empty(), "missing: {missing:?}, never made: {foreign:?}");
    Ok(())
}

/// How the endpoint at `port` answers a session that the node `name`, logged in with `token`,
/// opens over MQTT 5: the reason of its DISCONNECT, or none when it acknowledged.
///
/// # Errors
/// When neither comes, or there is no log-in.
pub async fn answer_over_mqtt5(port: u16, name: &str, token: &str) -> Result<Option<u8>> {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::{AsyncClient, ConnectionError, Event, Incoming, MqttOptions, StateError};

    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_credentials(name, token);
    let (client, mut events) = AsyncClient::new(options, 16);
    let node = NodeName::new(name)?;
    let open = Open { nonce: Nonce([9; 8]), ring: 9, boot: 1, floor: 0, next: 0, mono_ms: 0 };
    let mut bytes = [0; 512];
    let length = Session::Open(open).encode(&mut bytes)?;
    let topic = topic::up(&node, Up::Session);
    client.publish(topic.as_str(), QoS::AtLeastOnce, false, bytes[..length].to_vec()).await?;
    let answer = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::PubAck(_))) => return Ok(None),
                Ok(_) => {}
                Err(ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. })) => {
                    return Ok(Some(reason_code as u8));
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::time::timeout(WITHIN, answer).await.context("no answer over MQTT 5")?
}
