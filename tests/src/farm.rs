//! A whole farm in one process on one virtual clock: the real gateway, simulated nodes in
//! lock-step with it over MQTT on loopback, and where it is wanted a real InfluxDB.
//!
//! Owns starting and stopping them together, and places for many nodes at once. What has to be
//! true afterwards is the tests' own; [`crate::books`] compares what was taken with what is stored.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gateway::clock::{Clock, Utc};
use gateway::config::{self, Config};
use gateway::credentials::Credentials;
use gateway::sinks::history::Reader;
use gateway::{Gateway, Surroundings};
use simulator::clock::VirtualClock;
use simulator::fleet::Endpoint;
use simulator::host::{Flash, Host, Parts};
use simulator::lockstep::Lockstep;
use simulator::sites;
use telemetry::NodeName;
use telemetry::mac::Key;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::books::{self, Agreement, Name, Stored};
use crate::influx::{BUCKET, Influx, ORG, TOKEN};
use crate::until;

/// When every simulation begins: 2026-06-01T00:00 in Fuzhou.
pub const BEGAN_MS: i64 = 1_780_243_200_000;
/// An hour, ms.
pub const HOUR: u64 = 3_600_000;
/// The most that the clock of a simulated node is off, ppm: what a common crystal is sold with.
/// Nodes state 40, which covers its temperature too.
const DRIFT_PPM: i32 = 20;
/// Longest real time until every sink has stored what is in the spool.
const STORED_WITHIN: Duration = Duration::from_secs(120);
/// What every simulated node logs in with.
pub const NODE_TOKEN: &str = "a token of a simulated node";

/// A simulation's clock as the gateway's, always right.
pub struct Simulated<C>(pub C);

impl<C: simulator::clock::Clock + 'static> Clock for Simulated<C> {
    fn utc(&self) -> Utc {
        Utc { ms: self.0.utc_ms(), known_good: true }
    }

    fn mono_ms(&self) -> u64 {
        self.0.mono_ms()
    }
}

/// A node that is going to be of a farm.
pub struct Seat {
    /// The node; [`Plan::key`] has its key.
    pub parts: Parts,
    /// When it is switched on, ms of the simulation.
    pub begins_ms: u64,
    /// How fast its clock runs.
    pub drift_ppm: i32,
}

/// What a farm is made of.
pub struct Plan {
    /// Its nodes.
    pub nodes: Vec<Seat>,
    /// Where they stand, as `sites.toml`.
    pub sites: String,
    /// Names that may log in besides the nodes', with [`NODE_TOKEN`].
    pub guests: Vec<String>,
    /// A database to write into besides the history.
    pub influx: Option<Influx>,
    /// The gateway's configuration; what the farm needs of it is put in at the start.
    pub config: Config,
    data: TempDir,
    credentials: Credentials,
}

impl Plan {
    /// A farm without nodes, in a directory of its own.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new() -> Result<Self> {
        let data = tempfile::tempdir().context("directory for a farm")?;
        let credentials = Credentials::open(data.path())?;
        let (nodes, sites, guests) = (Vec::new(), String::new(), Vec::new());
        let config = Config { endpoint: Some(config::Endpoint::default()), ..Config::default() };
        Ok(Self { nodes, sites, guests, influx: None, config, data, credentials })
    }

    /// A farm of `count` nodes of four kinds by turns (pond, near-shore cage, platform,
    /// greenhouse), each at a unit of its own, which sample once in `period_s`.
    ///
    /// # Errors
    /// When it cannot be put together.
    pub fn mixed(count: usize, period_s: u16, seed: u64) -> Result<Self> {
        let mut plan = Self::new()?;
        for index in 0..count {
            plan.add(index % sites::NODES.len(), &mixed_name(index), period_s, seed.wrapping_add(index as u64))?;
        }
        Ok(plan)
    }

    /// The key of a node of this farm.
    pub fn key(&self, node: &NodeName) -> Key {
        self.credentials.key(node)
    }

    /// Adds a node of one of the four kinds, at a unit of its own name.
    ///
    /// # Errors
    /// When it cannot be put together.
    pub fn add(&mut self, kind: usize, name: &str, period_s: u16, seed: u64) -> Result<()> {
        let parts = self.parts(kind, name, period_s, seed)?;
        // Crystals of a lot differ: evenly within what they are sold with.
        let drift_ppm = (self.nodes.len() as i32 * 7) % (2 * DRIFT_PPM + 1) - DRIFT_PPM;
        self.nodes.push(Seat { parts, begins_ms: 0, drift_ppm });
        self.sites.push_str(&registered(kind, name)?);
        Ok(())
    }

    /// A node of one of the four kinds under another name.
    ///
    /// # Errors
    /// When it cannot be put together.
    pub fn parts(&self, kind: usize, name: &str, period_s: u16, seed: u64) -> Result<Parts> {
        let keys = |name: &NodeName| self.credentials.key(name);
        let flash = Flash::new(sites::FLASH_SECTORS);
        let mut parts = match kind {
            0 => sites::pond(&keys, seed, flash)?,
            1 => sites::near_shore_cage(&keys, seed, flash, None)?,
            2 => sites::deep_sea_platform(&keys, seed, flash)?,
            _ => sites::greenhouse(&keys, seed, flash)?,
        };
        let name = NodeName::new(name)?;
        parts.identity.key = self.key(&name);
        parts.identity.name = name;
        parts.config.period_s = period_s;
        // No proof can be quicker than the rounds that bring it.
        for proof in parts.config.actuators.iter_mut().filter_map(|actuator| actuator.proof.as_mut()) {
            proof.within_s = proof.within_s.max(period_s);
        }
        // A report of six rounds, or of what there is after ten minutes.
        parts.config.hold_s = 600;
        Ok(parts)
    }

    /// Starts gateway and nodes. Time stands at the beginning.
    ///
    /// # Errors
    /// When the gateway does not start.
    pub async fn start(self) -> Result<Farm> {
        let Self { nodes, sites, guests, influx, mut config, data, mut credentials } = self;
        let registry = data.path().join("sites.toml");
        std::fs::write(&registry, sites)?;
        for guest in &guests {
            credentials.set(&NodeName::new(guest)?, NODE_TOKEN)?;
        }
        let mut hosts = Vec::with_capacity(nodes.len());
        for Seat { parts, begins_ms, drift_ppm } in nodes {
            credentials.set(&parts.identity.name, NODE_TOKEN)?;
            let host = Host::new(parts, BEGAN_MS, begins_ms * 1_000)?.drifting(drift_ppm);
            hosts.push((host, NODE_TOKEN.to_owned()));
        }
        drop(credentials);
        let clock = VirtualClock::new(BEGAN_MS);
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.context("listen for MQTT")?;
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: listener.local_addr()?.port() };
        (config.data_dir, config.sites) = (data.path().to_owned(), vec![registry]);
        if let Some(influx) = &influx {
            let token_file = data.path().join("influx.token");
            std::fs::write(&token_file, TOKEN)?;
            let (org, bucket) = (ORG.to_owned(), BUCKET.to_owned());
            config.influx = Some(config::Influx {
                url: influx.url(),
                org,
                bucket,
                token_file,
                required: false,
                timeout_ms: 30_000,
            });
        }
        let shared: Arc<dyn Clock> = Arc::new(Simulated(clock.clone()));
        let surroundings = Surroundings { clock: shared, mqtt: vec![listener], http: None, metrics: None };
        let stop = CancellationToken::new();
        let (started, starts) = tokio::sync::oneshot::channel();
        let runs = tokio::spawn(gateway::run(config, surroundings, stop.clone(), |gateway| {
            // Nobody listens only when the test has ended already.
            let _told = started.send(gateway);
        }));
        let gateway = match starts.await {
            Ok(gateway) => gateway,
            Err(_) => {
                runs.await??;
                anyhow::bail!("the gateway ended");
            }
        };
        let fleet = Lockstep::new(hosts, &endpoint, clock.clone());
        Ok(Farm { gateway, fleet, endpoint, influx, clock, data, runs, stop })
    }
}

/// Name of the node with this number in [`Plan::mixed`].
#[must_use]
pub fn mixed_name(index: usize) -> String {
    let kind = sites::NODES[index % sites::NODES.len()];
    format!("{}-{index}", kind.split('-').next_back().unwrap_or(kind))
}

/// Site, unit and node of a node of one of the four kinds, as `sites.toml`.
fn registered(kind: usize, name: &str) -> Result<String> {
    let (adcode, unit_kind, points): (u32, &str, &[(u8, &str)]) = match kind {
        0 => (350_181, "pond", &[(0, "0.3 m"), (1, "0.3 m"), (2, "0.3 m"), (3, "1.2 m"), (4, "1.2 m")]),
        1 => (350_122, "cage", &[(0, "1 m"), (1, "1 m"), (2, "4 m"), (3, "4 m")]),
        2 => (350_128, "cage", &[]),
        _ => (350_121, "greenhouse", &[]),
    };
    let mut text = String::new();
    write!(
        text,
        "[[site]]\nname = \"site-{name}\"\nadcode = {adcode}\n\
         [[site.unit]]\nname = \"{name}\"\nkind = \"{unit_kind}\"\n\
         [[node]]\nname = \"{name}\"\n\
         [[node.at]]\nsince = 2020-01-01T00:00:00+08:00\nsite = \"site-{name}\"\nunit = \"{name}\"\n[node.at.points]\n"
    )?;
    for (channel, point) in points {
        writeln!(text, "\"{channel}\" = \"{point}\"")?;
    }
    Ok(text)
}

/// A farm that runs.
pub struct Farm {
    /// Its gateway.
    pub gateway: Arc<Gateway>,
    /// Its nodes.
    pub fleet: Lockstep,
    /// Where the gateway listens.
    pub endpoint: Endpoint,
    /// Its database.
    pub influx: Option<Influx>,
    /// Its time.
    pub clock: VirtualClock,
    data: TempDir,
    runs: tokio::task::JoinHandle<Result<()>>,
    stop: CancellationToken,
}

impl Farm {
    /// The history's folder.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.data.path().join("history")
    }

    /// The file that says where nodes stand.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.data.path().join("sites.toml")
    }

    /// The gateway's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.data.path()
    }

    /// Waits until every sink has stored what is in the spool.
    ///
    /// # Errors
    /// When one does not, or has refused something; and when two records claim one place and time.
    pub async fn stored(&self) -> Result<()> {
        let state = || async {
            let sinks = self.gateway.pipeline().sinks;
            sinks.iter().all(|sink| sink.behind == 0 && !sink.detached).then_some(sinks)
        };
        let sinks = until("every sink has stored everything", STORED_WITHIN, state).await?;
        for sink in sinks {
            anyhow::ensure!(sink.refused == 0 && sink.error.is_none(), "{sink:?}");
        }
        let (_, clashes) = Reader::new(&self.history()).count()?;
        anyhow::ensure!(clashes == 0, "{clashes} readings claim a place and time that another has");
        Ok(())
    }

    /// Compares what the nodes took with the history, and the history with InfluxDB where there is
    /// one; each node's readings at the place where the registry has it at their true time.
    ///
    /// # Errors
    /// With the first difference, and when something is not stored.
    pub async fn agreement(&self) -> Result<(Agreement, BTreeMap<Name, Stored>)> {
        self.stored().await?;
        let taken = books::taken(self.fleet.hosts())?;
        let stored = books::history(&self.history())?;
        let registry = self.gateway.registry();
        let place = |node: &str, channel, at_ms| {
            let place = registry.place(node, Some(channel), at_ms)?;
            Some((place.adcode, place.site.clone(), place.unit.clone(), place.point.clone()))
        };
        let agreement = books::compare(&taken, &stored, place)?;
        if let Some(influx) = &self.influx {
            books::same_points(&books::points(&self.history(), &stored)?, &books::influx(influx).await?)?;
        }
        Ok((agreement, stored))
    }

    /// Fails unless every round that is not stored is one that its node took after what the
    /// gateway has receipted.
    ///
    /// # Errors
    /// With the first that is lost.
    pub fn nothing_lost(&self, agreement: &Agreement) -> Result<()> {
        for (node, ring, seq) in &agreement.unstored {
            let waits = self.fleet.released(node).is_some_and(|released| *seq >= released);
            anyhow::ensure!(waits, "{node} {ring} {seq} is receipted and not stored");
        }
        Ok(())
    }

    /// Puts another registry in force, and waits until it is.
    ///
    /// # Errors
    /// When it cannot be written or does not come into force.
    pub async fn register(&self, sites: &str) -> Result<()> {
        let before = self.gateway.registry();
        let beside = self.data.path().join("sites.new");
        std::fs::write(&beside, sites)?;
        std::fs::rename(&beside, self.registry())?;
        let changed = || async { (!Arc::ptr_eq(&before, &self.gateway.registry())).then_some(()) };
        until("the gateway has read sites.toml again", Duration::from_secs(30), changed).await
    }

    /// Stops nodes, then gateway; gives the hosts back.
    ///
    /// # Errors
    /// When the gateway has failed.
    pub async fn stop(self) -> Result<Vec<Host>> {
        let hosts = self.fleet.stop();
        self.stop.cancel();
        self.runs.await??;
        Ok(hosts)
    }
}
