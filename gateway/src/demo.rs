//! `tianyu demo`: a gateway and four simulated sites in one process, on free loopback ports.
//!
//! It owns the demonstration: files, tokens, clock, fleet and the table on the terminal. What it
//! shows is the gateway's own live view; nodes and gateway are the real ones. Everything is kept
//! in its folder, the nodes' flash included, so that a second start goes on with the first one's
//! data.

mod table;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use simulator::clock::{Clock as _, RunningClock};
use simulator::fleet::{Endpoint, Fleet, Order};
use simulator::host::{Flash, Host};
use simulator::instrument::Fault;
use simulator::recorded::Recording;
use simulator::sites;
use telemetry::NodeName;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock, Utc};
use crate::config::{self, Config};
use crate::credentials::Credentials;
use crate::{Gateway, Surroundings};

/// How often the table is drawn.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// How often flash images and the clock are saved.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for the nodes when the demo stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Fastest: a receipt's round trip is bounded in simulated time, and must stay within it.
pub const SPEED_MAX: f64 = 60.0;
/// What a demonstration is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; made when it is not there.
    pub data_dir: PathBuf,
    /// Address of the API; loopback.
    pub http: SocketAddr,
    /// An InfluxDB to write into besides.
    pub influx: Option<config::Influx>,
    /// Simulated seconds a real second, 0.1–[`SPEED_MAX`].
    pub speed: f64,
    /// A recorded near-shore series that the upper probe of the near-shore cage replays, and how
    /// many recorded seconds pass in a simulated one.
    pub recorded: Option<(PathBuf, f64)>,
    /// Chance: the same seed gives the same places.
    pub seed: u64,
}

/// Simulated time as the gateway's.
struct Simulated(RunningClock);

impl Clock for Simulated {
    fn utc(&self) -> Utc {
        Utc { ms: self.0.utc_ms(), known_good: true }
    }

    fn mono_ms(&self) -> u64 {
        self.0.mono_ms()
    }
}

/// Runs the demonstration until `shutdown`.
///
/// # Errors
/// When a file or a port cannot be had, or the gateway does not start.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Options { data_dir, http, influx, speed, recorded, seed } = options;
    anyhow::ensure!((0.1..=SPEED_MAX).contains(&speed), "the speed is {speed}: it can be 0.1 to {SPEED_MAX}");
    std::fs::create_dir_all(&data_dir).with_context(|| format!("make {}", data_dir.display()))?;
    let recording = match &recorded {
        Some((path, speed)) => {
            Some(Recording::open(path).with_context(|| format!("read {}", path.display()))?.at_speed(*speed))
        }
        None => None,
    };

    // Files, tokens and places.
    let registry = data_dir.join("sites.toml");
    std::fs::write(&registry, sites::SITES_TOML).with_context(|| format!("write {}", registry.display()))?;
    let began_utc_ms = began(&data_dir)?;
    let mut credentials = Credentials::open(&data_dir)?;
    let parts = sites::all(&|name| credentials.key(name), seed, |name| flash(&data_dir, name), recording)?;
    let clock = RunningClock::new(began_utc_ms, speed);
    let mut hosts = Vec::with_capacity(parts.len());
    for parts in parts {
        let token = token()?;
        credentials.set(&parts.identity.name, &token)?;
        hosts.push((Host::new(parts, began_utc_ms, 0)?, token));
    }
    drop(credentials);

    // The gateway, as `tianyu run` runs it.
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.context("listen for MQTT")?;
    let port = listener.local_addr()?.port();
    let api = TcpListener::bind(http).await.with_context(|| format!("listen on {http} (HTTP)"))?;
    let http = api.local_addr()?;
    let config = Config {
        data_dir: data_dir.clone(),
        sites: vec![registry],
        endpoint: Some(config::Endpoint::default()),
        influx,
        api: Some(config::Api { listen: http }),
        ..Config::default()
    };
    // At real speed the machine's own clock is the truth, and stays it when it is set.
    let gateway_clock: Arc<dyn Clock> = if (speed - 1.0).abs() < f64::EPSILON && began_utc_ms <= now_ms() {
        Arc::new(SystemClock::new())
    } else {
        Arc::new(Simulated(clock.clone()))
    };
    let surroundings = Surroundings { clock: gateway_clock, mqtt: vec![listener], http: Some(api), metrics: None };
    let gateway_stop = CancellationToken::new();
    let (started, starts) = tokio::sync::oneshot::channel();
    let mut gateway_runs = tokio::spawn(crate::run(config, surroundings, gateway_stop.clone(), |gateway| {
        // Nobody listens only when the demo has ended already.
        let _told = started.send(gateway);
    }));
    let gateway = match starts.await {
        Ok(gateway) => gateway,
        Err(_) => return gateway_runs.await.context("run the gateway")?,
    };
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port };
    let fleet = Fleet::start(hosts, &endpoint, Arc::new(clock.clone()));
    say(&format!(
        "tianyu demo: {} 个节点 nodes, {speed}x; http://{http} ; MQTT 127.0.0.1:{port}; Ctrl-C 结束 stops\n",
        fleet.len()
    ))?;

    let shown = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        shown = show(&gateway, &fleet, &clock, &data_dir) => shown,
        ended = &mut gateway_runs => {
            fleet.stop().await;
            return ended.context("run the gateway")?;
        }
    };
    // Nodes first: once they stand, their flash is what it will be at the next start.
    let hosts = tokio::time::timeout(STOP_WITHIN, fleet.stop()).await.context("stop the nodes")?;
    for host in &hosts {
        save_flash(&data_dir, host.name(), &host.flash().image())?;
    }
    save_clock(&data_dir, clock.utc_ms())?;
    gateway_stop.cancel();
    gateway_runs.await.context("stop the gateway")??;
    shown
}

/// Shows what comes, lets the probe die that has to, and saves from time to time.
async fn show(gateway: &Gateway, fleet: &Fleet, clock: &RunningClock, data_dir: &Path) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let mut arrived: BTreeMap<String, i64> = BTreeMap::new();
    let (mut lines, mut dead) = (0usize, false);
    let mut save_at = tokio::time::Instant::now() + SAVE_EVERY;
    let mut ticks = tokio::time::interval(DRAW_EVERY);
    loop {
        ticks.tick().await;
        let (node, instrument, after_s) = sites::DYING;
        if !dead && clock.mono_ms() >= after_s * 1_000 {
            fleet.order(node, Order::Fault { instrument, fault: Some(Fault::Silent) }).await?;
            dead = true;
        }
        let (nodes, now_ms) = (gateway.live().all(), gateway.now_ms());
        if terminal {
            let table = table::table(&nodes, now_ms, table::size());
            // Back to the table's first line, and everything from there cleared.
            let up = if lines > 0 { format!("\x1b[{lines}A") } else { String::new() };
            lines = table.lines().count();
            say(&format!("{up}\x1b[J{table}"))?;
        } else {
            for (name, node) in &nodes {
                if arrived.insert(name.clone(), node.arrived_ms) != Some(node.arrived_ms) {
                    say(&table::line(name, node, now_ms))?;
                }
            }
        }
        if tokio::time::Instant::now() >= save_at {
            save_at += SAVE_EVERY;
            let mut images = Vec::new();
            fleet.each(|host| images.push((host.name().clone(), host.flash().image())));
            for (name, image) in images {
                save_flash(data_dir, &name, &image)?;
            }
            save_clock(data_dir, clock.utc_ms())?;
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to the terminal")
}

/// A token of 256 unpredictable bits.
fn token() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).context("ask the system for random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn now_ms() -> i64 {
    SystemClock::new().utc().ms
}

/// UTC at which this run begins: now, but never before an earlier run's end, which may lie ahead
/// when it ran faster.
fn began(data_dir: &Path) -> anyhow::Result<i64> {
    let path = data_dir.join("demo.clock");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let before: i64 = text.trim().parse().with_context(|| format!("read {}", path.display()))?;
            Ok(now_ms().max(before))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(now_ms()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn save_clock(data_dir: &Path, utc_ms: i64) -> anyhow::Result<()> {
    replace(&data_dir.join("demo.clock"), format!("{utc_ms}\n").as_bytes())
}

fn flash_file(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(format!("{name}.flash"))
}

/// The flash that an earlier run left, or an erased one. A node that finds an older state than
/// the gateway knows is moved on by the gateway's receipt.
fn flash(data_dir: &Path, name: &str) -> Flash {
    match std::fs::read(flash_file(data_dir, name)) {
        Ok(image) => Flash::from_image(sites::FLASH_SECTORS, &image),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, name, "read a node's flash; it begins with a new ring");
            }
            Flash::new(sites::FLASH_SECTORS)
        }
    }
}

fn save_flash(data_dir: &Path, name: &NodeName, image: &[u8]) -> anyhow::Result<()> {
    replace(&flash_file(data_dir, name.as_str()), image)
}

/// Writes a file so that it is the old one or the new one, never half of it.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("write {}", path.display()))
}
