//! The gateway: takes reports in, makes them durable, hands them to the sinks.
//!
//! ```text
//! endpoint (built-in MQTT) ─┐                                        ┌─▶ history
//!                           ├─▶ accept: window, decode, date, place ─┤─▶ InfluxDB
//! broker (rumqttc) ─────────┘        └─▶ spool │ held (fsync)        └─▶ …
//!                                             └─▶ receipt, PUBACK
//! ```
//! One direction, one durable boundary. [`run`] is the whole of it on one screen.

pub mod accept;
pub mod api;
pub mod broker;
pub mod clock;
pub mod config;
pub mod configs;
pub mod control;
pub mod credentials;
pub mod custody;
#[cfg(feature = "field")]
pub mod demo;
pub mod endpoint;
pub mod entry;
pub mod live;
pub mod metric;
#[cfg(feature = "field")]
pub mod node_file;
pub mod registry;
pub mod sinks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use spool::{Disk, Options, Spool};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::accept::{Acceptor, Limits, Needs};
use crate::clock::Clock;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::custody::Downlinks;
use crate::endpoint::Endpoint;
use crate::live::Live;
use crate::registry::Registry;
use crate::sinks::feed::{self, Feed, Influx, Sink};
use crate::sinks::history::{self, History};
use crate::sinks::influx;
use crate::sinks::missed::Again;

/// How often files and the spool's room are looked at.
const CARE_EVERY: Duration = Duration::from_secs(2);
/// How often what waits for a date is looked at again without a new reason.
const UNDATED_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for connections to end, and again for sinks and logs: a node or a browser that
/// does not read, or a disk that does not answer, keeps nobody from stopping.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What a gateway is given besides its configuration.
pub struct Surroundings {
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// Listening sockets of the endpoint; by default those of the configuration.
    pub mqtt: Vec<TcpListener>,
    /// Listening socket of the API.
    pub http: Option<TcpListener>,
    /// What `/metrics` shows.
    pub metrics: Option<PrometheusHandle>,
}

impl Surroundings {
    /// Sockets as configured.
    pub async fn from(
        config: &Config,
        clock: Arc<dyn Clock>,
        metrics: Option<PrometheusHandle>,
    ) -> anyhow::Result<Self> {
        let mut mqtt = Vec::new();
        for address in config.endpoint.iter().flat_map(|e| &e.listen) {
            mqtt.push(TcpListener::bind(address).await.with_context(|| format!("listen on {address} (MQTT)"))?);
        }
        let http = match &config.api {
            Some(api) => {
                let address = api.listen;
                Some(TcpListener::bind(address).await.with_context(|| format!("listen on {address} (HTTP)"))?)
            }
            None => None,
        };
        Ok(Self { clock, mqtt, http, metrics })
    }
}

/// A running gateway, as its API sees it.
pub struct Gateway {
    acceptor: Arc<Acceptor>,
    registry: ArcSwap<Registry>,
    live: Arc<Live>,
    clock: Arc<dyn Clock>,
    feeds: Vec<feed::Handle>,
    reload: Notify,
}

/// The pipeline's state as the API shows it.
#[derive(Debug, Serialize)]
pub struct Pipeline {
    /// Whether the gateway's clock is believed.
    pub clock_known_good: bool,
    /// Why reports are not taken now; nodes keep them.
    pub refusing: Option<String>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Segments of the spool.
    pub spool_segments: usize,
    /// First index still in the spool.
    pub spool_oldest: u64,
    /// First index not yet durable.
    pub spool_synced: u64,
    /// Failed writes or syncs.
    pub spool_failures: u64,
    /// Entries that wait in the held log.
    pub held: usize,
    /// The sinks.
    pub sinks: Vec<feed::Status>,
}

impl Gateway {
    /// Who accepts.
    pub fn acceptor(&self) -> &Arc<Acceptor> {
        &self.acceptor
    }

    /// The newest values.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The registry in force.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// UTC by the gateway's clock, in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.clock.utc().ms
    }

    /// Reads registry and credentials again, whether or not their files look changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// How the pipeline stands.
    pub fn pipeline(&self) -> Pipeline {
        let usage = self.acceptor.spool().usage();
        Pipeline {
            clock_known_good: self.clock.utc().known_good,
            refusing: self.acceptor.refusing(),
            spool_bytes: usage.bytes,
            spool_segments: usage.segments,
            spool_oldest: usage.oldest,
            spool_synced: usage.synced,
            spool_failures: usage.failures,
            held: self.acceptor.held_count(),
            sinks: self.feeds.iter().map(feed::Handle::status).collect(),
        }
    }

    /// Ends the sinks, then closes the logs: afterwards the data directory is free, whoever still
    /// holds this gateway. It waits on a thread of its own, which a disk that hangs may outlive.
    async fn close(self: &Arc<Self>) {
        let (gateway, (tell, told)) = (Arc::clone(self), tokio::sync::oneshot::channel());
        self.feeds.iter().for_each(feed::Handle::stop);
        let closing = std::thread::Builder::new().name("closing".into()).spawn(move || {
            gateway.feeds.iter().for_each(feed::Handle::join);
            gateway.acceptor.close();
            // Nobody listens only when it took too long.
            let _told = tell.send(());
        });
        match closing {
            Ok(_) if tokio::time::timeout(STOP_WITHIN, told).await.is_ok() => {}
            Ok(_) => tracing::error!("sinks and logs did not close in time; what is acknowledged is on the disk"),
            Err(error) => tracing::error!(%error, "close sinks and logs"),
        }
    }
}

/// The spool through the acceptor that keeps it.
struct SpoolOf(Arc<Acceptor>);

impl AsRef<Spool> for SpoolOf {
    fn as_ref(&self) -> &Spool {
        self.0.spool()
    }
}

/// Runs a gateway until `shutdown`; `started` gets it once everything listens.
pub async fn run(
    config: Config,
    surroundings: Surroundings,
    shutdown: CancellationToken,
    started: impl FnOnce(Arc<Gateway>),
) -> anyhow::Result<()> {
    let Surroundings { clock, mqtt, http, metrics } = surroundings;
    let registry = Arc::new(Registry::load(&config.sites).map_err(|c| anyhow::anyhow!(listing(&c)))?);
    let credentials = Credentials::open(&config.data_dir)?;
    let (downlinks, live) = (Downlinks::new(), Arc::new(Live::default()));

    let tls = match config.endpoint.as_ref().map(|e| (&e.certificate, &e.key)) {
        Some((Some(certificate), Some(key))) => Some(endpoint::tls(certificate, key)?),
        _ => None,
    };
    let broker = config.broker.as_ref().map(broker_options).transpose()?;

    // The durable boundary.
    let (acceptor, recovery, held) = Acceptor::start(
        Arc::new(Disk),
        &config.data_dir,
        limits(&config),
        Needs {
            credentials,
            registry: Arc::clone(&registry),
            clock: Arc::clone(&clock),
            downlinks: downlinks.clone(),
            live: Arc::clone(&live),
        },
    )?;
    tracing::info!(
        replayed = recovery.replayed,
        torn_bytes = recovery.torn_bytes,
        held = held.replayed,
        "logs are open"
    );
    for (path, offset, bytes) in recovery.corrupt.iter().chain(&held.corrupt) {
        tracing::error!(path = %path.display(), offset, bytes, "damaged and passed over; see tianyu spool verify");
    }

    // Downstream: the sinks.
    let feeds = sinks(&config, &acceptor)?;
    let shared = acceptor.shared_series();
    if !shared.is_empty() {
        tracing::error!(complaints = listing(&shared), "these readings wait in the held log");
    }
    let gateway = Arc::new(Gateway {
        acceptor: Arc::clone(&acceptor),
        registry: ArcSwap::new(registry),
        live,
        clock,
        feeds,
        reload: Notify::new(),
    });

    // Upstream: whoever brings reports.
    let tasks = tokio_util::task::TaskTracker::new();
    if let Some(settings) = &config.endpoint {
        let limits = endpoint::Limits { connections_max: settings.connections_max, ..endpoint::Limits::default() };
        let endpoint = Endpoint::new(acceptor.clone(), downlinks.clone(), limits, tls);
        for listener in mqtt {
            tracing::info!(address = %listener.local_addr()?, "listening for MQTT");
            tasks.spawn(Arc::clone(&endpoint).run(listener, shutdown.clone()));
        }
    }
    if let Some(options) = broker {
        let (outlet, publishing) = broker::outlet(&options, shutdown.clone());
        downlinks.behind(outlet);
        tasks.spawn(publishing);
        tasks.spawn(broker::run(options, acceptor.clone(), shutdown.clone()));
    }
    if let Some(listener) = http {
        tracing::info!(address = %listener.local_addr()?, "listening for HTTP");
        let (gateway, shutdown) = (Arc::clone(&gateway), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = api::run(listener, gateway, metrics, shutdown).await {
                tracing::error!(%error, "serve HTTP");
            }
        });
    }
    let orders = (control::socket(&config.data_dir), Arc::clone(&gateway), shutdown.clone());
    tasks.spawn(async move {
        let (path, gateway, shutdown) = orders;
        if let Err(error) = control::run(&path, gateway, shutdown).await {
            tracing::error!(path = %path.display(), %error, "take orders; tianyu held can only look");
        }
    });
    started(Arc::clone(&gateway));

    care(&config, &gateway, &shutdown).await;
    tasks.close();
    if tokio::time::timeout(STOP_WITHIN, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    gateway.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Looks after what changes slowly: files, waiting entries, the clock, the spool's room.
async fn care(config: &Config, gateway: &Arc<Gateway>, shutdown: &CancellationToken) {
    let mut seen = modified(config);
    let mut wrong: Option<String> = None;
    let mut clock_known = true;
    let mut undated_at = tokio::time::Instant::now() + UNDATED_EVERY;
    let mut ticks = tokio::time::interval(CARE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut asked = false;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = gateway.acceptor.due() => {}
            () = gateway.reload.notified() => asked = true,
            _ = ticks.tick() => {}
        }
        let now = modified(config);
        if asked || now != seen {
            seen = now;
            if let Err(error) = gateway.acceptor.reload_credentials() {
                tracing::error!(%error, "reload credentials; the old ones stay in force");
            }
            // Off the async threads: what waited for a place is taken in at once.
            let (sites, gateway) = (config.sites.clone(), Arc::clone(gateway));
            let reloaded = tokio::task::spawn_blocking(move || reload_registry(&sites, &gateway, wrong)).await;
            wrong = reloaded.unwrap_or_else(|error| {
                tracing::error!(%error, "read the registry again");
                None
            });
        }
        let known = gateway.clock.utc().known_good;
        if known != clock_known {
            clock_known = known;
            match known {
                true => tracing::info!("the machine's clock is known good again"),
                false => tracing::error!(
                    now_ms = gateway.now_ms(),
                    "the machine's clock is not believed: it is before what has been dated already, or far beyond; \
                     records of nodes without a clock of their own wait until it is set (or: run --trust-clock)"
                ),
            }
        }
        let undated = known && tokio::time::Instant::now() >= undated_at;
        if undated {
            undated_at = tokio::time::Instant::now() + UNDATED_EVERY;
        }
        let acceptor = Arc::clone(&gateway.acceptor);
        let looked = tokio::task::spawn_blocking(move || {
            acceptor.offer_utc();
            acceptor.offer_configs();
            if undated {
                acceptor.resolve_undated();
            }
            acceptor.resolve_due();
            acceptor.let_go();
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "look after the held log");
        }
        // Room is made before the budget is reached, so that nothing needs to be refused.
        let usage = gateway.acceptor.spool().usage();
        let budget = config.spool.budget_mib << 20;
        let full = |bytes| bytes > budget - budget / 8;
        if full(usage.bytes) {
            feed::make_room(&gateway.feeds, || full(gateway.acceptor.spool().usage().bytes));
        }
    }
}

/// Reads the registry again; what is wrong with it, so that the same is not said twice.
fn reload_registry(sites: &[PathBuf], gateway: &Gateway, wrong: Option<String>) -> Option<String> {
    let loaded = Registry::load(sites).and_then(|registry| {
        let registry = Arc::new(registry);
        gateway.acceptor.set_registry(Arc::clone(&registry)).map(|()| registry)
    });
    match loaded {
        Ok(registry) => {
            gateway.registry.store(registry);
            tracing::info!("the registry was read again");
            None
        }
        Err(complaints) => {
            let text = listing(&complaints);
            if wrong.as_ref() != Some(&text) {
                tracing::error!(complaints = text, "the registry is wrong; the old one stays in force");
            }
            Some(text)
        }
    }
}

/// When each watched file was changed last.
fn modified(config: &Config) -> Vec<Option<std::time::SystemTime>> {
    let nodes = config.data_dir.join("nodes.toml");
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    config.sites.iter().chain(std::iter::once(&nodes)).map(|path| time(path)).collect()
}

fn limits(config: &Config) -> Limits {
    let options = |budget: u64| Options {
        budget_bytes: budget << 20,
        free_bytes_min: config.spool.free_mib << 20,
        // At least eight segments to a budget, so that room can be made piece by piece.
        segment_bytes_max: (32 << 20).min((budget << 20) / 8),
        ..Options::default()
    };
    Limits {
        spool: options(config.spool.budget_mib),
        held: options(config.spool.held_mib),
        held_node_bytes: config.spool.held_node_mib << 20,
    }
}

fn sinks(config: &Config, acceptor: &Arc<Acceptor>) -> anyhow::Result<Vec<feed::Handle>> {
    let spool = || Arc::new(SpoolOf(Arc::clone(acceptor))) as feed::SpoolOf;
    let folder = config.data_dir.join("history");
    let mut feeds: Vec<(Feed, Box<dyn Sink>)> = Vec::new();
    if config.history.keep {
        let feed = Feed::new("history", true, spool(), None, CancellationToken::new())?;
        feeds.push((feed, Box::new(History::open(&folder)?)));
    } else {
        acceptor.spool().forget("history")?;
    }
    if let Some(settings) = &config.influx {
        let token = std::fs::read_to_string(&settings.token_file)
            .with_context(|| format!("read the InfluxDB token from {}", settings.token_file.display()))?;
        let target = influx::Target {
            url: settings.url.clone(),
            org: settings.org.clone(),
            bucket: settings.bucket.clone(),
            token: token.trim().to_owned(),
        };
        let stop = CancellationToken::new();
        let request = Duration::from_millis(settings.timeout_ms);
        let timeouts = influx::Timeouts { request, ..influx::Timeouts::default() };
        let client = influx::Client::new(target, timeouts, stop.clone(), tokio::runtime::Handle::current())?;
        // Also for a sink that is required now: it may have been detached when it was not.
        let again = Again::new(history::Reader::new(&folder), config.data_dir.join("influx.missed"));
        let required = settings.required || !config.history.keep;
        let feed = Feed::new("influx", required, spool(), Some(again), stop)?;
        feeds.push((feed, Box::new(Influx(Box::new(client)))));
    } else {
        acceptor.spool().forget("influx")?;
    }
    // Started only when all are there: until then nothing runs that would have to be ended.
    feeds.into_iter().map(|(feed, sink)| Ok(feed.start(sink)?)).collect()
}

fn broker_options(settings: &config::Broker) -> anyhow::Result<broker::Options> {
    let login = match (&settings.user, &settings.password_file) {
        (Some(user), Some(file)) => {
            let password = std::fs::read_to_string(file)
                .with_context(|| format!("read the broker's password from {}", file.display()))?;
            Some((user.clone(), password.trim().to_owned()))
        }
        (Some(user), None) => Some((user.clone(), String::new())),
        (None, _) => None,
    };
    Ok(broker::Options {
        host: settings.host.clone(),
        port: settings.port,
        client_id: settings.client_id.clone(),
        login,
        nodes: settings.nodes.clone(),
    })
}

/// Complaints, one after the other.
pub fn listing(complaints: &[config::Complaint]) -> String {
    complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
