//! CPU of `tianyu run` for each durable report of eight readings through the built-in endpoint,
//! and its memory; beside it a mosquitto that hands the same messages to one subscriber, stores
//! nothing and so promises nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use gateway::credentials::Credentials;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use system_tests::measure::{RUNS, Spread, cpu, resident_bytes};
use system_tests::{Mosquitto, Tianyu, free_port};
use telemetry::NodeName;
use tokio::task::JoinSet;

use crate::sender::Sender;

/// Connections at once.
const CONNECTIONS: [usize; 3] = [1, 100, 1000];
/// Reports of one run, over all connections.
const REPORTS: u32 = 20_000;
const WITHIN: Duration = Duration::from_secs(120);

fn name(number: usize) -> Result<NodeName> {
    Ok(NodeName::new(&format!("node-{number}"))?)
}

/// CPU by thread for each report, in µs, and reports a second, of [`RUNS`] runs.
struct Load {
    cpu_us: BTreeMap<String, Vec<f64>>,
    rate: Vec<f64>,
}

impl Load {
    fn cpu_us(&self, thread: impl Fn(&str) -> bool) -> Spread {
        let mut sums = vec![0.0; RUNS];
        for (_, values) in self.cpu_us.iter().filter(|(name, _)| thread(name)) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Spread::of(sums)
    }
}

/// Lets all senders deliver at once, several times; `settle` waits until the server has nothing
/// left to do.
async fn load<F: Future<Output = Result<()>>>(
    process: u32,
    mut senders: Vec<Sender>,
    settle: impl Fn() -> F,
) -> Result<Load> {
    let each = REPORTS / u32::try_from(senders.len())?;
    let total = f64::from(each) * senders.len() as f64;
    let mut load = Load { cpu_us: BTreeMap::new(), rate: Vec::new() };
    // The first run warms up.
    for run in 0..=RUNS {
        settle().await?;
        let (before, began) = (cpu(process)?, Instant::now());
        let mut tasks = JoinSet::new();
        for mut sender in senders.drain(..) {
            tasks.spawn_local(async move { sender.deliver_more(each).await.map(|()| sender) });
        }
        while let Some(sender) = tasks.join_next().await {
            senders.push(sender??);
        }
        let took = began.elapsed();
        settle().await?;
        if run == 0 {
            continue;
        }
        load.rate.push(total / took.as_secs_f64());
        for (thread, used) in cpu(process)? {
            let used = used.saturating_sub(before.get(&thread).copied().unwrap_or_default());
            load.cpu_us.entry(thread).or_default().push(used.as_secs_f64() * 1e6 / total);
        }
    }
    Ok(load)
}

pub(crate) async fn run() -> Result<()> {
    println!("CPU for each report of 8 readings, QoS 1, µs; {REPORTS} reports a run\n");
    println!(
        "{:>12} {:>24} {:>20} {:>20} {:>20} {:>24}",
        "connections", "endpoint, acceptance", "sync", "together", "history", "reports/s"
    );
    gateway().await?;
    if let Some(broker) = Mosquitto::start("log_type none\nmax_inflight_messages 0\nmax_queued_messages 0").await? {
        println!("\n{:>12} {:>24}  mosquitto to one subscriber, not durable", "connections", "all");
        mosquitto(&broker).await?;
    }
    Ok(())
}

async fn gateway() -> Result<()> {
    let mut tianyu = Tianyu::new()?;
    let (mqtt, http) = (free_port()?, free_port()?);
    let mut sites =
        String::from("[[site]]\nname = \"福清\"\nadcode = 350181\n[[site.unit]]\nname = \"1号塘\"\nkind = \"pond\"\n");
    let mut credentials = Credentials::open(&tianyu.directory().join("tianyu-data"))?;
    let mut nodes = Vec::new();
    for number in 0..CONNECTIONS.into_iter().max().unwrap_or(0) {
        let node = name(number)?;
        sites += &format!(
            "[[node]]\nname = \"{node}\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = \"福清\"\nunit = \"1号塘\"\n"
        );
        let token = credentials.add(&node)?;
        nodes.push((credentials.key(&node), node, token));
    }
    tianyu.file("sites.toml", &sites)?;
    let config = format!(
        "sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\"]\n[api]\nlisten = \"127.0.0.1:{http}\"\n[log]\nfilter = \"warn\"\n"
    );
    tianyu.file("tianyu.toml", &config)?;
    tianyu.run()?;
    let settled = async || {
        let caught_up = |body: &str| {
            let pipeline: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            pipeline["sinks"].as_array().is_some_and(|sinks| sinks.iter().all(|sink| sink["behind"] == 0))
        };
        tianyu.answers(http, "api/v1/pipeline", WITHIN, caught_up).await.map(drop)
    };
    settled().await?;
    let process = tianyu.process()?.id();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let idle = resident_bytes(process)?;
    let booted = Instant::now();
    for connections in CONNECTIONS {
        let mut senders = Vec::new();
        for (key, node, token) in nodes.iter().take(connections) {
            senders.push(Sender::to_gateway(mqtt, node, token, key.clone(), booted).await?);
        }
        let load = load(process, senders, &settled).await?;
        let acceptance = |name: &str| name.starts_with("tokio") || name == "tianyu";
        let sync = |name: &str| name == "spool-sync";
        println!(
            "{connections:>12} {:>24} {:>20} {:>20} {:>20} {:>24}",
            load.cpu_us(acceptance).to_string(),
            load.cpu_us(sync).to_string(),
            load.cpu_us(|name| acceptance(name) || sync(name)).to_string(),
            load.cpu_us(|name| name == "sink-history").to_string(),
            Spread::of(load.rate.clone()).to_string()
        );
    }
    println!("\nRAM of `tianyu run`, MiB: {:.1} idle, {:.1} after all of it", mib(idle), mib(resident_bytes(process)?));
    Ok(())
}

async fn mosquitto(broker: &Mosquitto) -> Result<()> {
    let mut options = MqttOptions::new("subscriber", "127.0.0.1", broker.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 16);
    client.subscribe("ty/#", QoS::AtLeastOnce).await.context("subscribe")?;
    let subscriber = tokio::task::spawn_local(async move { while events.poll().await.is_ok() {} });
    for connections in CONNECTIONS {
        let mut senders = Vec::new();
        for number in 0..connections {
            senders.push(Sender::to_broker(broker.port(), &name(number)?).await?);
        }
        let load = load(broker.process().id(), senders, || async { Ok(()) }).await?;
        println!("{connections:>12} {:>24}", load.cpu_us(|_| true).to_string());
    }
    anyhow::ensure!(!subscriber.is_finished(), "the subscriber was cut off");
    subscriber.abort();
    Ok(())
}
