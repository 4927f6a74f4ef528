//! Custody against the real binary, the real InfluxDB and real SIGKILLs: what a node was told is
//! in custody is in the history and in InfluxDB exactly once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::custodian::Custodian;
use system_tests::{Influx, Mosquitto, Tianyu, free_port, influx, long, until};

const NODES: [&str; 3] = ["pond-1", "pond-2", "pond-3"];
const SITE: &str = "福清, 一号=\"东\"";

/// A gateway with a registry for [`NODES`], writing to InfluxDB.
struct Farm {
    tianyu: Tianyu,
    mqtt: u16,
    http: u16,
}

impl Farm {
    fn new(influx: Option<&Influx>, more: &str) -> Result<Self> {
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
        if let Some(influx) = influx {
            tianyu.file("influx.token", influx::TOKEN)?;
            config += &format!(
                "[influx]\nurl = \"{}\"\norg = \"{}\"\nbucket = \"{}\"\ntoken_file = \"influx.token\"\n",
                influx.url(),
                influx::ORG,
                influx::BUCKET
            );
        }
        tianyu.file("tianyu.toml", &(config + more))?;
        Ok(Self { tianyu, mqtt, http })
    }

    async fn nodes(&self, every: Duration) -> Result<Vec<Custodian>> {
        let mut nodes = Vec::new();
        for name in NODES {
            nodes.push(Custodian::start(&self.tianyu, name, self.mqtt, every).await?);
        }
        Ok(nodes)
    }

    async fn start(&mut self) -> Result<()> {
        self.tianyu.run()?;
        self.tianyu.line("ready", Duration::from_secs(60)).await?;
        Ok(())
    }
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

async fn in_influx(influx: &Influx) -> Result<BTreeMap<String, Vec<i64>>> {
    let flux = format!(
        "from(bucket: \"{}\") |> range(start: 0) |> filter(fn: (r) => r._measurement == \"water\" and r._field == \"dissolved_oxygen\") |> keep(columns: [\"node\", \"_value\", \"_time\", \"site\"])",
        influx::BUCKET
    );
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in influx.query(&flux).await? {
        ensure!(row["site"] == SITE, "site arrived as {:?}", row["site"]);
        all.entry(row["node"].clone()).or_default().push((row["_value"].parse::<f64>()? * 100.0).round() as i64);
    }
    all.values_mut().for_each(|values| values.sort_unstable());
    Ok(all)
}

/// Stops production, waits for every receipt, and compares what was made with what arrived.
async fn settle(farm: &Farm, nodes: &[Custodian], influx: Option<&Influx>) -> Result<u32> {
    let made: Vec<u32> = nodes.iter().map(Custodian::stop_producing).collect();
    until("all receipts", Duration::from_secs(120), || async { nodes.iter().all(Custodian::done).then_some(()) })
        .await?;
    let total: u32 = made.iter().sum();
    let want: BTreeMap<String, Vec<i64>> =
        NODES.iter().zip(&made).map(|(node, made)| ((*node).to_owned(), (1..=i64::from(*made)).collect())).collect();
    let data = farm.tianyu.directory().join("tianyu-data");
    until("the history is whole", Duration::from_secs(120), || async {
        let rows = in_history(&data).ok()?;
        (rows.values().map(Vec::len).sum::<usize>() >= total as usize).then_some(())
    })
    .await?;
    for (node, rows) in in_history(&data)? {
        // Record n of a node holds value n: each once, under its own name.
        let names: Vec<i64> = rows.iter().map(|(seq, _)| i64::from(*seq)).collect();
        let values: Vec<i64> = rows.iter().map(|(_, value)| *value).collect();
        ensure!(names == want[&node] && values == want[&node], "{node}: {} rows of {}", rows.len(), want[&node].len());
    }
    if let Some(influx) = influx {
        let arrived = until("InfluxDB has caught up", Duration::from_secs(180), || async {
            let all = in_influx(influx).await.ok()?;
            (all.values().map(Vec::len).sum::<usize>() >= total as usize).then_some(all)
        })
        .await?;
        ensure!(arrived == want, "InfluxDB holds other values than were measured");
    }
    Ok(total)
}

/// Waits until every node has had this many more records receipted.
async fn progress(nodes: &[Custodian], records: u32) -> Result<()> {
    let from: Vec<u32> = nodes.iter().map(Custodian::released).collect();
    until("more receipts", Duration::from_secs(60), || async {
        nodes.iter().zip(&from).all(|(node, from)| node.released() >= from + records).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_reading_is_lost_or_doubled_when_the_gateway_and_influxdb_are_killed() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut farm = Farm::new(Some(&influx), "")?;
    farm.start().await?;
    let nodes = farm.nodes(Duration::from_millis(5)).await?;
    let (kills, influx_kills) = if long() { (100, 10) } else { (20, 3) };
    for kill in 0..kills {
        // A different moment each time: after a few records, in the middle of bursts.
        progress(&nodes, 1 + kill * 7 % 60).await?;
        farm.tianyu.kill()?;
        if kill % (kills / influx_kills) == 1 {
            influx.kill()?;
            farm.start().await?;
            progress(&nodes, 100).await?;
            influx.restart().await?;
        } else {
            farm.start().await?;
        }
    }
    let total = settle(&farm, &nodes, Some(&influx)).await?;
    println!(
        "measured: {total} readings through {kills} kills of the gateway and {influx_kills} of InfluxDB: 0 lost, 0 doubled"
    );
    let status = farm.tianyu.terminate(Duration::from_secs(30)).await?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_influxdb_outage_is_said_stops_nobody_and_is_caught_up_while_new_data_flow() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let mut farm = Farm::new(Some(&influx), "")?;
    farm.start().await?;
    let nodes = farm.nodes(Duration::from_millis(5)).await?;
    progress(&nodes, 50).await?;
    influx.kill()?;
    progress(&nodes, 300).await?;
    let body = farm
        .tianyu
        .answers(farm.http, "api/v1/pipeline", Duration::from_secs(60), |body| {
            body.contains("connection") || body.contains("cannot take")
        })
        .await?;
    ensure!(body.contains("\"influx\""), "{body}");
    influx.restart().await?;
    let total = settle(&farm, &nodes, Some(&influx)).await?;
    println!("measured: {total} readings across an InfluxDB outage: 0 lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_what_it_acknowledged_loses_nothing() -> Result<()> {
    // Default queue limits, no persistence: it drops what overflows and forgets all when killed.
    let Some(mut mosquitto) = Mosquitto::start("").await? else { return Ok(()) };
    let broker = mosquitto.port();
    let mut farm = Farm::new(None, &format!("[broker]\nhost = \"127.0.0.1\"\nport = {broker}\n"))?;
    farm.start().await?;
    farm.mqtt = broker;
    let nodes = farm.nodes(Duration::from_millis(5)).await?;
    for kill in 0..if long() { 10 } else { 3 } {
        progress(&nodes, 100).await?;
        if kill % 2 == 1 {
            farm.tianyu.kill()?;
            farm.start().await?;
            progress(&nodes, 20).await?;
        }
        mosquitto.kill()?;
        mosquitto.restart().await?;
    }
    let total = settle(&farm, &nodes, None).await?;
    println!("measured: {total} readings through a broker that was killed: 0 lost, 0 doubled");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_without_a_server_keeps_everything_in_its_history() -> Result<()> {
    let mut farm = Farm::new(None, "")?;
    farm.start().await?;
    let nodes = farm.nodes(Duration::from_millis(5)).await?;
    progress(&nodes, 100).await?;
    settle(&farm, &nodes, None).await?;
    let (status, lines) = farm.tianyu.command(&["spool", "verify"], Duration::from_secs(30)).await?;
    ensure!(status.success(), "{lines:?}");
    Ok(())
}
