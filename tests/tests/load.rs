//! Many nodes at once, from one process, against the gateway as it is shipped.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gateway::credentials::Credentials;
use gateway::sinks::history::Reader;
use simulator::clock::{Clock as _, RunningClock};
use simulator::fleet::{Endpoint, Fleet};
use simulator::host::Host;
use simulator::sites;
use system_tests::farm::NODE_TOKEN;
use system_tests::{Tianyu, free_port, long, until};

/// From round to round, s.
const PERIOD_S: u16 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes_come_at_once_and_each_is_in_custody() -> Result<()> {
    let count = if long() { 9_000 } else { 1_000 };
    let names: Vec<String> = (0..count).map(|n| format!("load-{n}")).collect();
    let mut tianyu = Tianyu::new()?;
    let port = free_port()?;
    let mut registry =
        String::from("[[site]]\nname = \"s\"\nadcode = 350181\n[[site.unit]]\nname = \"u\"\nkind = \"pond\"\n");
    let (data, mut credentials) = (tianyu.directory().join("tianyu-data"), String::new());
    let token = {
        let folder = tempfile::tempdir()?;
        let mut one = Credentials::open(folder.path())?;
        one.set(&telemetry::NodeName::new("one")?, NODE_TOKEN)?;
        let (_, entry) = one.list().next().context("it was set")?;
        entry.token_sha256.clone()
    };
    for name in &names {
        write!(
            registry,
            "[[node]]\nname = \"{name}\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = \"s\"\nunit = \"u\"\n"
        )?;
        // One token for all: making each by itself would write the file as often.
        write!(credentials, "[{name}]\ntoken_sha256 = \"{token}\"\ncreated = \"2026-01-01T00:00:00Z\"\n")?;
    }
    tianyu.file("sites.toml", &registry)?;
    tianyu.file("tianyu.toml", &format!("sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{port}\"]\n"))?;
    let keys = Credentials::open(&data)?;
    std::fs::write(data.join("nodes.toml"), credentials).context("write the credentials")?;
    tianyu.run()?;
    tianyu.line("ready", Duration::from_secs(60)).await?;

    let clock = RunningClock::new(gateway::clock::Clock::utc(&gateway::clock::SystemClock::new()).ms, 1.0);
    let mut hosts = Vec::with_capacity(count);
    for (name, seed) in names.iter().zip(0..) {
        let parts = sites::light(name, &|name| keys.key(name), PERIOD_S, seed)?;
        hosts.push((Host::new(parts, clock.began_utc_ms(), 0)?, NODE_TOKEN.to_owned()));
    }
    let (came, endpoint) = (Instant::now(), Endpoint { host: "127.0.0.1".to_owned(), port });
    let fleet = Fleet::start(hosts, &endpoint, Arc::new(clock.clone()));
    let within = Duration::from_secs(240);
    until("a round of each", within, || async {
        let mut all = true;
        fleet.each(|host| all &= host.ledger().count() > 0);
        all.then_some(())
    })
    .await?;
    let kept = fleet.kept();
    until("all of them in custody", within, || async { fleet.is_delivered(&kept).then_some(()) }).await?;
    println!("measured: {count} nodes were in custody {:.1} s after they came", came.elapsed().as_secs_f64());
    // Where the first answer took too long to tell the time by, records wait for the next one.
    let reader = Reader::new(&data.join("history"));
    let (stored, clashes) = until("two readings of each in the history", within, || async {
        reader.count().ok().filter(|(stored, _)| *stored >= 2 * count as u64)
    })
    .await?;
    let mut rounds = 0;
    fleet.each(|host| rounds += host.ledger().count());
    drop(fleet.stop().await);
    ensure!(stored <= 2 * rounds as u64 && clashes == 0, "{stored} of {rounds} rounds, {clashes} clashes");
    Ok(())
}
