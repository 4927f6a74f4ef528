//! Custody against the real binary, real servers and real SIGKILLs: what a node was told is in
//! custody is in the spool, in the history and in InfluxDB exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::custodian::{Custodian, Habits};
use system_tests::{Influx, Ledger, Mosquitto, Tianyu, free_port, influx, long, until};

const NODES: [&str; 6] = ["pond-1", "pond-2", "pond-3", "pond-4", "pond-5", "pond-6"];
const SITE: &str = "福清, 一号=\"东\"";
const WITHIN: Duration = Duration::from_secs(60);
/// SIGKILLs of the gateway in one campaign, and of a server.
const KILLS: (u32, u32) = (100, 10);

/// A gateway with a registry for [`NODES`], and the nodes.
struct Farm {
    tianyu: Tianyu,
    mqtt: u16,
    http: u16,
    nodes: Vec<Custodian>,
    /// A sink that is never there keeps every segment: doubles can be judged over all of them.
    spool_is_whole: bool,
}

/// An InfluxDB that is never there: nothing listens on port 9 (discard), and the spool's budget
/// is far.
const NOWHERE: &str = "http://127.0.0.1:9";

impl Farm {
    fn new(influx_url: Option<&str>, more: &str) -> Result<Self> {
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
            "sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\"]\n[api]\nlisten = \"127.0.0.1:{http}\"\n"
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
    async fn begin(&mut self, nodes: usize, habits: Habits) -> Result<()> {
        for name in &NODES[..nodes] {
            self.nodes.push(Custodian::start(&self.tianyu, name, self.mqtt, habits).await?);
        }
        self.start().await
    }

    async fn start(&mut self) -> Result<()> {
        self.tianyu.run()?;
        self.tianyu.line("ready", WITHIN).await?;
        Ok(())
    }

    /// Kills the gateway `number` times at moments that `moments` choose: after some records,
    /// while it starts and recovers, and between a sink's storing a batch and its cursor.
    async fn kill(&mut self, number: u32, moments: &mut Moments, ledger: Option<&Ledger>) -> Result<()> {
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
    async fn progress(&self, records: u32) -> Result<()> {
        let from: Vec<u32> = self.nodes.iter().map(Custodian::released).collect();
        until("more receipts", WITHIN, || async {
            self.nodes.iter().zip(&from).all(|(node, from)| node.released() >= from + records).then_some(())
        })
        .await
    }

    /// Messages that the endpoint or the broker has acknowledged to nodes.
    fn acknowledged(&self) -> u32 {
        self.nodes.iter().map(Custodian::acknowledged).sum()
    }

    /// Stops production, waits for every receipt, and compares what was made with what is in the
    /// spool and in the history, by name and by value: record n of a node holds value n.
    async fn settle(&self) -> Result<BTreeMap<String, u32>> {
        let made: Vec<u32> = self.nodes.iter().map(Custodian::stop_producing).collect();
        until("all receipts", 2 * WITHIN, || async { self.nodes.iter().all(Custodian::done).then_some(()) }).await?;
        let made: BTreeMap<String, u32> = NODES.iter().map(|&n| n.to_owned()).zip(made).collect();
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
struct Moments(u32);

impl Moments {
    /// A number below `below` (xorshift32; Marsaglia 2003).
    fn next(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % below
    }
}

/// A campaign's moments: other ones each time, told so that a failure can be tried again.
fn moments() -> Result<Moments> {
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
async fn settled_in_influx(influx: &Influx, made: &BTreeMap<String, u32>) -> Result<()> {
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

/// Waits until the ledger has a line for every reading that was made; a line may be there several
/// times, but never two that differ for one reading, or for one series and time.
async fn settled_in_ledger(ledger: &Ledger, made: &BTreeMap<String, u32>) -> Result<(usize, usize)> {
    let total: usize = made.values().map(|made| *made as usize).sum();
    let lines = ledger
        .lines_when(3 * WITHIN, |lines| {
            lines.iter().filter(|l| l.starts_with("water")).collect::<BTreeSet<_>>().len() >= total
        })
        .await?;
    let mut names: BTreeMap<(String, i64), BTreeSet<&str>> = BTreeMap::new();
    let mut places: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.starts_with("water")) {
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
    ensure!(names.keys().cloned().collect::<BTreeSet<_>>() == want, "{} of {} readings", names.len(), want.len());
    Ok((total, lines.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_reading_is_lost_or_doubled_when_the_gateway_and_influxdb_are_killed() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut farm = Farm::new(Some(&influx.url()), "")?;
    farm.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    let each = if long() { 10 * KILLS.0 } else { KILLS.0 } / KILLS.1;
    for _ in 0..KILLS.1 {
        farm.kill(each / 2, &mut moments, None).await?;
        influx.kill()?;
        farm.kill(each - each / 2, &mut moments, None).await?;
        farm.progress(1 + moments.next(100)).await?;
        influx.restart().await?;
    }
    let made = farm.settle().await?;
    settled_in_influx(&influx, &made).await?;
    println!(
        "measured: {} readings through {} kills of the gateway and {} of InfluxDB: 0 lost, 0 doubled",
        made.values().sum::<u32>(),
        each * KILLS.1,
        KILLS.1
    );
    let status = farm.tianyu.terminate(WITHIN).await?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_appends_everything_never_sees_a_reading_with_two_times_or_contents() -> Result<()> {
    let ledger = Ledger::start().await?;
    let mut farm = Farm::new(Some(&ledger.url()), "")?;
    farm.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    let kills = if long() { 10 * KILLS.0 } else { KILLS.0 };
    farm.kill(kills, &mut moments, Some(&ledger)).await?;
    let made = farm.settle().await?;
    let (readings, lines) = settled_in_ledger(&ledger, &made).await?;
    println!(
        "measured: {readings} readings in {lines} lines through {kills} kills: every repetition is the same bytes"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_outage_is_said_stops_nobody_and_is_caught_up_while_new_data_flow() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut farm = Farm::new(Some(&influx.url()), "")?;
    farm.begin(3, Habits::default()).await?;
    farm.progress(50).await?;
    influx.kill()?;
    farm.progress(300).await?;
    let body = farm
        .tianyu
        .answers(farm.http, "api/v1/pipeline", WITHIN, |body| {
            body.contains("connection") || body.contains("cannot take")
        })
        .await?;
    ensure!(body.contains("\"influx\""), "{body}");
    influx.restart().await?;
    let made = farm.settle().await?;
    settled_in_influx(&influx, &made).await?;
    println!("measured: {} readings across an InfluxDB outage: 0 lost", made.values().sum::<u32>());
    Ok(())
}

/// A farm behind this broker.
fn behind(mosquitto: &Mosquitto) -> Result<Farm> {
    let broker = mosquitto.port();
    let mut farm = Farm::new(Some(NOWHERE), &format!("[broker]\nhost = \"127.0.0.1\"\nport = {broker}\n"))?;
    farm.mqtt = broker;
    Ok(farm)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_forgets_what_it_acknowledged_loses_nothing() -> Result<()> {
    // No persistence: a kill forgets every queue and every session.
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let mut farm = behind(&mosquitto)?;
    farm.begin(3, Habits::default()).await?;
    let mut moments = moments()?;
    for kill in 0..KILLS.1 {
        farm.progress(1 + moments.next(100)).await?;
        if kill % 2 == 1 {
            // What it takes for a gateway that is away is lost with it.
            farm.tianyu.kill()?;
            let from = farm.acknowledged();
            until("messages taken for nobody", WITHIN, || async { (farm.acknowledged() > from + 10).then_some(()) })
                .await?;
            mosquitto.kill()?;
            farm.start().await?;
        } else {
            mosquitto.kill()?;
        }
        mosquitto.restart().await?;
    }
    let made = farm.settle().await?;
    println!(
        "measured: {} readings through {} kills of a broker without persistence: 0 lost, 0 doubled",
        made.values().sum::<u32>(),
        KILLS.1
    );
    Ok(())
}

/// Messages that mosquitto keeps for one client by default: 1000 queued (`max_queued_messages`)
/// and 20 on the way (`max_inflight_messages`; mosquitto.conf(5)).
const BROKER_HOLDS: u32 = 1020;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_queue_overflows_drops_what_it_acknowledged_and_loses_nothing() -> Result<()> {
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let mut farm = behind(&mosquitto)?;
    farm.begin(NODES.len(), Habits { every: Duration::from_millis(2), ..Habits::default() }).await?;
    let mut dropped = 0;
    for cycle in 0..KILLS.1 + 4 {
        // From sessions that stand and an empty queue on, so that it is known what must have been
        // dropped: 6 nodes with 256 records each under way, one a report, are more than it keeps.
        farm.progress(5).await?;
        farm.nodes.iter().for_each(|node| drop(node.stop_producing()));
        until("all receipts", WITHIN, || async { farm.nodes.iter().all(Custodian::done).then_some(()) }).await?;
        farm.tianyu.signal(rustix::process::Signal::STOP)?;
        farm.nodes.iter().for_each(|node| node.cut(1));
        farm.nodes.iter().for_each(Custodian::go_on_producing);
        let from = farm.acknowledged();
        until("more acknowledged than it keeps", WITHIN, || async {
            (farm.acknowledged() > from + BROKER_HOLDS + 100).then_some(())
        })
        .await?;
        mosquitto.line("Outgoing messages are being dropped for client tianyu", WITHIN).await?;
        dropped += farm.acknowledged() - from - BROKER_HOLDS;
        // In some cycles what is left of the queue arrives, with its holes.
        if cycle % 4 != 0 {
            mosquitto.kill()?;
            mosquitto.restart().await?;
        }
        farm.nodes.iter().for_each(|node| node.cut(Habits::default().report_rounds));
        farm.tianyu.signal(rustix::process::Signal::CONT)?;
    }
    let made = farm.settle().await?;
    println!(
        "measured: {} readings through a broker that dropped at least {dropped} acknowledged messages: 0 lost, 0 doubled",
        made.values().sum::<u32>()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_without_a_server_keeps_everything_in_its_history() -> Result<()> {
    let mut farm = Farm::new(Some(NOWHERE), "")?;
    farm.begin(3, Habits::default()).await?;
    farm.progress(100).await?;
    farm.settle().await?;
    let (status, lines) = farm.tianyu.command(&["spool", "verify"], WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    Ok(())
}
