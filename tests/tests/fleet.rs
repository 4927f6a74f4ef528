//! Simulated nodes and the gateway in one process: what was sampled is what is stored.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gateway::clock::Clock;
use gateway::config::{self, Config};
use gateway::credentials::Credentials;
use gateway::sinks::history::{Reader, Selection};
use gateway::{Gateway, Surroundings};
use simulator::clock::RunningClock;
use simulator::fleet::{Endpoint, Fleet, Order};
use simulator::host::{Flash, Host};
use simulator::sites;
use system_tests::farm::Simulated;
use system_tests::until;
use telemetry::{Property, Quality, Round};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Simulated seconds a real second.
const SPEED: f64 = 30.0;
const WITHIN: Duration = Duration::from_secs(60);

fn now_ms() -> i64 {
    gateway::clock::SystemClock::new().utc().ms
}

/// The rounds that each node took, with the time of the true clock.
fn taken(hosts: &[Host]) -> BTreeMap<String, Vec<(i64, Round)>> {
    let times =
        |host: &Host| host.ledger().map(|it| (host.began_utc_ms() + it.at_ms as i64, it.round.clone())).collect();
    hosts.iter().map(|host| (host.name().to_string(), times(host))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_of_simulated_nodes_is_in_the_history_exactly_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().to_owned();
    let registry = data_dir.join("sites.toml");
    std::fs::write(&registry, sites::SITES_TOML)?;
    let began_ms = now_ms();
    let mut credentials = Credentials::open(&data_dir)?;
    let key = |name: &telemetry::NodeName| credentials.key(name);
    let parts = sites::all(&key, 11, |_| Flash::new(sites::FLASH_SECTORS), None)?;
    let clock = RunningClock::new(began_ms, SPEED);
    let mut hosts = Vec::new();
    for parts in parts {
        credentials.set(&parts.identity.name, "a token of a simulated node")?;
        hosts.push((Host::new(parts, began_ms, 0)?, "a token of a simulated node".to_owned()));
    }
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let port = listener.local_addr()?.port();
    let config = Config {
        data_dir: data_dir.clone(),
        sites: vec![registry],
        endpoint: Some(config::Endpoint::default()),
        ..Config::default()
    };
    let shared: Arc<dyn Clock> = Arc::new(Simulated(clock.clone()));
    let surroundings = Surroundings { clock: shared, mqtt: vec![listener], http: None, metrics: None };
    let stop = CancellationToken::new();
    let (started, starts) = tokio::sync::oneshot::channel::<Arc<Gateway>>();
    let runs = tokio::spawn(gateway::run(config, surroundings, stop.clone(), |gateway| {
        let _told = started.send(gateway);
    }));
    let gateway = starts.await.context("the gateway starts")?;
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port };
    let fleet = Fleet::start(hosts, &endpoint, Arc::new(clock.clone()));

    let rounds = |fleet: &Fleet, wanted: usize| {
        let mut enough = true;
        fleet.each(|host| enough &= host.ledger().count() >= wanted);
        enough.then_some(())
    };
    until("ten rounds", WITHIN, || async { rounds(&fleet, 10) }).await?;
    // A node loses its power and gets it back: its next rounds are of another boot.
    fleet.order(sites::NODES[0], Order::PowerOff).await?;
    fleet.order(sites::NODES[0], Order::PowerOn).await?;
    until("twenty rounds", WITHIN, || async { rounds(&fleet, 20) }).await?;
    // Rounds of which every record is known to be receipted.
    let mut counts = BTreeMap::new();
    fleet.each(|host| {
        counts.insert(host.name().to_string(), host.ledger().count());
    });
    let kept = fleet.kept();
    until("delivery", WITHIN, || async { fleet.is_delivered(&kept).then_some(()) }).await?;
    let live = gateway.live().all();
    assert_eq!(live.keys().map(String::as_str).collect::<Vec<_>>(), {
        let mut names = sites::NODES.to_vec();
        names.sort_unstable();
        names
    });
    // Off, so that nothing more is taken while the history catches up.
    for node in sites::NODES {
        fleet.order(node, Order::PowerOff).await?;
    }
    let hosts = fleet.stop().await;
    let taken = taken(&hosts);

    let reader = Reader::new(&data_dir.join("history"));
    let which = |site: &str, unit: &str, point: &str, property: Property| Selection {
        site: site.to_owned(),
        unit: unit.to_owned(),
        point: point.to_owned(),
        property: property.facts().name.to_owned(),
    };
    let series = [
        ("fuqing-pond", 5, which("fuqing", "1号塘", "", Property::Ph), Property::Ph),
        ("fuqing-pond", 1, which("fuqing", "1号塘", "0.3 m", Property::DissolvedOxygen), Property::DissolvedOxygen),
        (
            "lianjiang-cage",
            3,
            which("lianjiang", "A1网箱", "4 m", Property::WaterTemperature),
            Property::WaterTemperature,
        ),
        ("pingtan-platform", 10, which("pingtan", "1号平台", "", Property::WaveHeight), Property::WaveHeight),
        ("minhou-greenhouse", 4, which("minhou", "3号棚", "", Property::SoilMoisture), Property::SoilMoisture),
    ];
    let (from_ms, to_ms) = (began_ms - 3_600_000, began_ms + 86_400_000);
    for (node, channel, which, property) in series {
        let taken = &taken[node];
        let rows = until("history", WITHIN, || async {
            reader.rows(&which, from_ms, to_ms, 100_000).ok().filter(|rows| rows.len() >= counts[node])
        })
        .await?;
        assert!(rows.len() <= taken.len(), "{node}: {} rows of {} rounds", rows.len(), taken.len());
        for (row, (at_ms, round)) in rows.iter().zip(taken) {
            let reading =
                round.readings.iter().find(|it| it.channel == channel).context("the round has the channel")?;
            let finest = 10f64.powi(-i32::from(property.facts().digits));
            match (reading.quality, row.value) {
                (Quality::Missing(_), None) => {}
                (Quality::Present { .. }, Some(value)) => {
                    let kept = f64::from(reading.value) * finest;
                    assert!((value - kept).abs() < finest / 2.0, "{node} {which:?}: {value}, not {kept}");
                }
                other => panic!("{node} {which:?}: {other:?}"),
            }
            let off_ms = row.time_ms.abs_diff(*at_ms);
            // The stated error holds against the time that only the simulation knows.
            // Less than half a period, so that a missing or doubled round would show.
            assert!(row.error_ms < 5_000, "{node}: {} ms", row.error_ms);
            assert!(off_ms <= row.error_ms + 1, "{node} {which:?}: {off_ms} ms off, {} stated", row.error_ms);
        }
    }
    assert_eq!(reader.count()?.1, 0, "no two records claim one place and time");
    stop.cancel();
    runs.await??;
    Ok(())
}
