//! The protocol page is enough: a node written from it alone, in another language, is in custody.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};
use system_tests::process::Process;
use system_tests::{Mosquitto, Tianyu, free_port, python, until};
use telemetry::Property;
use telemetry::quality::MissingReason;

const NODE: &str = "outsider-1";
const SITE: &str = "福清一号";
/// Records it makes at least: more than a window of 256, so that it has to wait for receipts.
const RECORDS_MIN: usize = 300;
const WITHIN: Duration = Duration::from_secs(60);
/// The property of each channel, as `node.py` describes them.
const CHANNELS: [(u64, Property); 5] = [
    (0, Property::DissolvedOxygen),
    (1, Property::WaterTemperature),
    (2, Property::Ph),
    (3, Property::AirTemperature),
    (9, Property::BatteryVoltage),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn script() -> OsString {
    repository().join("tests/outsider/node.py").into()
}

/// A gateway that knows the node and its place, and the node's credentials.
struct Farm {
    tianyu: Tianyu,
    python: PathBuf,
    /// Where the gateway listens, and where the node connects to.
    mqtt: u16,
    http: u16,
    token: String,
    key: String,
}

impl Farm {
    async fn new(python: PathBuf, more: &str) -> Result<Self> {
        let tianyu = Tianyu::new()?;
        let (mqtt, http, nobody) = (free_port()?, free_port()?, free_port()?);
        tianyu.file(
            "sites.toml",
            &format!(
                "[[site]]\nname = '{SITE}'\nadcode = 350181\n[[site.unit]]\nname = \"1号塘\"\nkind = \"pond\"\n\
                 [[node]]\nname = \"{NODE}\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = '{SITE}'\nunit = \"1号塘\"\n"
            ),
        )?;
        tianyu.file("influx.token", "none")?;
        // An InfluxDB that is not there: so everything stays in the spool and can be counted.
        tianyu.file(
            "tianyu.toml",
            &format!(
                "sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\"]\n[api]\nlisten = \"127.0.0.1:{http}\"\n\
                 [influx]\nurl = \"http://127.0.0.1:{nobody}\"\norg = \"none\"\nbucket = \"none\"\ntoken_file = \"influx.token\"\n{more}"
            ),
        )?;
        let (status, lines) = tianyu.command(&["node", "add", NODE], WITHIN).await?;
        ensure!(status.success(), "{lines:?}");
        let word = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim().to_owned()).with_context(|| format!("no {name} in {lines:?}"))
        };
        let (token, key) = (word("token")?, word("key")?);
        Ok(Self { tianyu, python, mqtt, http, token, key })
    }

    async fn start(&mut self) -> Result<()> {
        self.tianyu.run()?;
        self.tianyu.line("ready", WITHIN).await?;
        Ok(())
    }

    fn node(&self) -> Result<Process> {
        let port = self.mqtt.to_string();
        let mut arguments = vec![script()];
        let options = [
            ["--port", port.as_str()],
            ["--name", NODE],
            ["--token", self.token.as_str()],
            ["--key", self.key.as_str()],
            ["--store", "outsider.sqlite"],
            ["--every-ms", "10"],
            ["--patience-ms", "500"],
        ];
        arguments.push("run".into());
        arguments.extend(options.into_iter().flatten().map(OsString::from));
        Process::start(&self.python, &arguments, &[], self.tianyu.directory())
    }

    /// What the node's own file holds: boot and content by seq.
    fn made(&self) -> Result<BTreeMap<u32, (u32, Value)>> {
        let file = self.tianyu.directory().join("outsider.sqlite");
        let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut rows = file.prepare("SELECT seq, boot, body FROM record")?;
        let rows =
            rows.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?, row.get::<_, String>(2)?)))?;
        rows.map(|row| {
            let (seq, boot, body) = row?;
            Ok((seq, (boot, serde_json::from_str(&body)?)))
        })
        .collect()
    }

    /// Waits until the node has made so many records.
    async fn rounds(&self, count: usize) -> Result<()> {
        until("more rounds", WITHIN, || async { (self.made().ok()?.len() > count).then_some(()) }).await
    }

    /// Ends the node's measuring, waits until all is delivered, and compares.
    async fn settle(&mut self, mut node: Process) -> Result<()> {
        self.rounds(RECORDS_MIN).await?;
        node.signal(Signal::TERM)?;
        let (status, lines) = node.output(WITHIN).await?;
        ensure!(status.success(), "{lines:#?}");
        self.whole().await
    }

    /// Waits until the node has had this many more receipts than now.
    async fn receipts(&self, node: &Process, more: usize) -> Result<()> {
        let count = || node.lines().iter().filter(|line| line.starts_with("receipted")).count();
        let from = count();
        until("more receipts", WITHIN, || async { (count() >= from + more).then_some(()) }).await
    }

    /// Everything that the node made is in the spool exactly once, and nothing else; its readings
    /// are in the history with the same values.
    async fn whole(&mut self) -> Result<()> {
        let made = self.made()?;
        let readings = made.values().map(|(_, body)| body["readings"].as_array().map_or(0, Vec::len)).sum::<usize>();
        ensure!(made.len() > RECORDS_MIN && readings % CHANNELS.len() == 0, "{readings} readings were made");
        let (status, lines) = self.tianyu.command(&["spool", "export"], WITHIN).await?;
        ensure!(status.success(), "{lines:?}");
        let mut kept = BTreeMap::new();
        for line in &lines {
            let line: Value = serde_json::from_str(line).with_context(|| line.clone())?;
            let seq = u32::try_from(line["seq"].as_u64().context("seq")?)?;
            ensure!(kept.insert(seq, line).is_none(), "seq {seq} is in the spool twice");
        }
        ensure!(kept.keys().eq(made.keys()), "{} records were made, {} are kept", made.len(), kept.len());
        for (seq, (boot, body)) in &made {
            let line = &kept[seq];
            ensure!(line["boot"] == *boot && line["node"] == NODE, "{line}");
            same(body, line).with_context(|| format!("seq {seq}: made {body}, kept {line}"))?;
        }
        let (status, lines) = self.tianyu.command(&["held", "list"], WITHIN).await?;
        ensure!(status.success() && lines.iter().all(|line| !line.contains(NODE)), "{lines:?}");

        let data = self.tianyu.directory().join("tianyu-data");
        let rows = until("the history is whole", WITHIN, || async {
            history(&data).ok().filter(|rows| rows.len() >= readings)
        })
        .await?;
        ensure!(rows.len() == readings, "{} rows of {readings}", rows.len());
        for (seq, property, value) in rows {
            let (_, body) = made.get(&seq).with_context(|| format!("the history has seq {seq}"))?;
            let (channel, property) =
                CHANNELS.into_iter().find(|(_, p)| p.name() == property).context("another property")?;
            let all = body["readings"].as_array().context("a round")?;
            let one = all.iter().find(|reading| reading[0] == channel).context("a reading")?;
            ensure!(value == in_unit(one, property)?, "seq {seq} {}: {value:?}, made {one}", property.name());
        }
        Ok(())
    }
}

/// The value of a reading as the node wrote it down: channel, value, raw, quality, tests or reason.
fn in_unit(reading: &Value, property: Property) -> Result<Option<f64>> {
    let value = i32::try_from(reading[1].as_i64().context("value")?)?;
    Ok((reading[3] != 4).then(|| property.value(value)))
}

/// Whether a record was kept as it was made.
fn same(made: &Value, kept: &Value) -> Result<()> {
    if let Some(fields) = made["array"].as_array() {
        ensure!(kept["t_ms"] == fields[1]);
        let content = match fields[0].as_u64() {
            Some(1) => {
                json!({"event": {"code": fields[2], "subject": fields[3], "value": fields[4], "detail": fields[5]}})
            }
            Some(2) => json!({"description": {}}),
            kind => anyhow::bail!("kind {kind:?}"),
        };
        let mut found = kept["content"].clone();
        // Where it happened is the gateway's own knowledge.
        if let Some(event) = found.get_mut("event").and_then(Value::as_object_mut) {
            event.retain(|name, _| ["code", "subject", "value", "detail"].contains(&name.as_str()));
        }
        if let Some(description) = found.get_mut("description").and_then(Value::as_object_mut) {
            description.clear();
        }
        ensure!(content == found);
        return Ok(());
    }
    ensure!(kept["t_ms"] == made["t"]);
    let round = &kept["content"]["round"];
    let (made, kept) = (made["readings"].as_array().context("made")?, round["readings"].as_array().context("kept")?);
    ensure!(round["config"] == 1 && made.len() == CHANNELS.len() && kept.len() == CHANNELS.len());
    for ((made, kept), (channel, property)) in made.iter().zip(kept).zip(CHANNELS) {
        ensure!(made[0] == channel && kept["channel"] == channel && kept["property"] == property.name());
        let (quality, more) = (made[3].as_u64().context("quality")?, made[4].as_u64().context("tests")?);
        let flag = [1, 2, 3, 4, 9, 1][usize::try_from(quality)?];
        let raw = made[2].as_i64().map(i32::try_from).transpose()?.map(|raw| property.value(raw));
        let missing = quality == 4;
        let reason = missing.then(|| MissingReason::from_id(more as u8).name());
        ensure!(kept["value"].as_f64() == in_unit(made, property)? && kept["raw"].as_f64() == raw);
        ensure!(kept["flag"] == flag && kept["reason"].as_str() == reason);
        ensure!(kept["tests"] == if missing { 0 } else { more });
    }
    Ok(())
}

/// Seq, property and value of every reading in the history.
fn history(data: &Path) -> Result<Vec<(u32, String, Option<f64>)>> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(data.join("history"))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "sqlite") {
            let history = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut rows = history.prepare("SELECT seq, property, value FROM reading JOIN series ON id = series")?;
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            all.extend(rows.collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_written_from_the_protocol_page_alone_is_in_custody() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut farm = Farm::new(python, "").await?;
    farm.start().await?;
    let mut node = farm.node()?;
    farm.receipts(&node, 20).await?;
    farm.tianyu.kill()?;
    // It measures on while nobody answers.
    let before = farm.made()?.len();
    farm.rounds(before + 20).await?;
    farm.start().await?;
    farm.receipts(&node, 20).await?;

    let body = farm
        .tianyu
        .answers(farm.http, "api/v1/live", WITHIN, |body| body.contains("battery_voltage") && body.contains(NODE))
        .await?;
    let live: Value = serde_json::from_str(&body)?;
    let shown = live["nodes"][NODE]["readings"].as_array().context("live readings")?;
    let shown: Vec<&str> = shown.iter().filter_map(|reading| reading["property"].as_str()).collect();
    ensure!(shown == CHANNELS.map(|(_, property)| property.name()), "{body}");

    // A power cut of the node: the same ring goes on, in another boot.
    let first = node.line("ring ", WITHIN).await?;
    node.kill()?;
    let node = farm.node()?;
    let again = node.line("ring ", WITHIN).await?;
    let ring = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    ensure!(ring(&first) == ring(&again) && again.contains("boot 2"), "{first} and then {again}");
    farm.receipts(&node, 20).await?;
    // And the gateway once more, politely.
    farm.tianyu.terminate(WITHIN).await?;
    node.line("not connected", WITHIN).await?;
    farm.start().await?;

    farm.settle(node).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_written_from_the_protocol_page_alone_survives_a_broker_that_forgets() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let broker = mosquitto.port();
    let mut farm = Farm::new(python, &format!("[broker]\nhost = \"127.0.0.1\"\nport = {broker}\n")).await?;
    farm.mqtt = broker;
    farm.start().await?;
    let node = farm.node()?;
    for _ in 0..2 {
        farm.receipts(&node, 10).await?;
        mosquitto.kill()?;
        mosquitto.restart().await?;
    }
    farm.receipts(&node, 10).await?;
    farm.tianyu.kill()?;
    farm.start().await?;
    farm.settle(node).await
}

#[tokio::test]
async fn a_node_written_from_the_protocol_page_alone_sends_the_golden_bytes_and_obeys_no_forgery() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let telemetry = repository().join("firmware/telemetry");
    let arguments = [script(), "self-test".into(), telemetry.into()];
    let mut node = Process::start(&python, &arguments, &[], &repository())?;
    let (status, lines) = node.output(WITHIN).await?;
    ensure!(status.success() && lines.iter().any(|line| line == "self-test passed"), "{lines:#?}");
    Ok(())
}
