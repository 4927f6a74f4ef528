//! Acceptance: a report's way from arrival to the durable log. Envelope, window, decode, date,
//! place, judge; then the spool or the held log, one append each; and the receipt only once that is
//! synced.
//!
//! All decisions are made under one lock, in order of arrival; both logs' sync threads give the
//! verdicts. What a decision changed becomes *durable* state with its sync; when a sync fails,
//! the nodes concerned go back to their durable state, and send again.
//!
//! Of one node something is on its way to one log only: what belongs into the other one waits
//! until that has arrived. So whatever a crash or a failed sync takes is the end of what a node
//! has sent, and no receipt passes a record that is in neither log.

pub mod dating;
mod decide;
pub mod held;
mod judge;
mod orders;
mod place;
mod recovery;
mod report;
mod session;
mod waiting;
mod window;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use metrics::counter;
use serde::Serialize;
use spool::{AppendError, Files, OpenError, Options, Recovery, Spool};
use telemetry::NodeName;
use telemetry::mac::Key;
use telemetry::snapshot::Snapshot;
use telemetry::topic::Up;
use tokio::sync::Notify;

use self::held::{HeldEntry, Index};
use self::judge::Boards;
pub use self::orders::OrderError;
use self::orders::Orders;
use self::place::Places;
pub use self::recovery::described;
pub use self::waiting::DecisionError;
use self::waiting::Due;
use self::window::Node;
use crate::clock::Clock;
use crate::config::Complaint;
use crate::credentials::Credentials;
use crate::custody::{Accept, Arrival, Downlinks, Login, Reply, Verdict};
use crate::entry::Entry;
use crate::live::Live;
use crate::registry::Registry;

/// Bounds of acceptance.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The spool's bounds.
    pub spool: Options,
    /// The held log's bounds.
    pub held: Options,
    /// Bytes that may wait for one node.
    pub held_node_bytes: u64,
}

/// What acceptance works with.
pub struct Needs {
    /// Who nodes are.
    pub credentials: Credentials,
    /// Where they stand.
    pub registry: Arc<Registry>,
    /// The gateway's time.
    pub clock: Arc<dyn Clock>,
    /// The ways down to nodes.
    pub downlinks: Downlinks,
    /// The live view.
    pub live: Arc<Live>,
}

/// Who decides about arrivals.
pub struct Acceptor {
    core: Mutex<Core>,
    spool: Spool,
    held: Spool,
    clock: Arc<dyn Clock>,
    downlinks: Downlinks,
    live: Arc<Live>,
    held_node_bytes: u64,
    /// What persons want of nodes. Its lock is taken last.
    orders: Orders,
    /// Told when entries of the held log are to be looked at again.
    due: Notify,
    myself: Weak<Acceptor>,
}

struct Core {
    credentials: Credentials,
    registry: Arc<Registry>,
    keys: HashMap<NodeName, Key>,
    /// State with everything that was appended.
    nodes: HashMap<NodeName, Arc<Node>>,
    /// State with everything that is synced.
    durable: HashMap<NodeName, Arc<Node>>,
    waiting: Index,
    waiting_durable: Index,
    /// What of a node is on its way to a log.
    pending: HashMap<NodeName, Pending>,
    /// Arrivals that wait until it has arrived, because they belong into the other log.
    parked: HashMap<NodeName, VecDeque<(Arrival, Reply)>>,
    /// Held entries whose records are on their way to the spool.
    resolving: HashSet<u64>,
    /// Held entries whose records are in the spool, while their mark in the held log is not durable.
    resolved: HashSet<u64>,
    /// Nodes of which something that waits is to be looked at again.
    due: BTreeMap<NodeName, Due>,
    /// The held log's index behind the newest durable mark.
    settled: u64,
    /// The newest values by unit, for the neighbour test.
    boards: Boards,
    /// Nodes whose session began while the gateway's clock was not known good.
    without_utc: HashSet<NodeName>,
    /// Why the log last refused an entry; none once it has taken one again.
    refusing: Option<String>,
    seen: HashMap<NodeName, Seen>,
}

/// One of the two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Spool,
    Held,
}

/// Entries of one node that are not durable yet, all of them in one log.
#[derive(Clone, Copy, Debug)]
struct Pending {
    log: Log,
    entries: usize,
}

/// What goes with an entry of a log: the state it brings, and whoever waits for it.
struct Appending {
    /// The node's state after it.
    state: Arc<Node>,
    /// The held entry it resolves.
    held: Option<u64>,
    /// Whether the receipt tells UTC.
    with_utc: bool,
    reply: Reply,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    last_report_ms: i64,
    /// The next seq of the node's ring, as its session told.
    told_next: Option<u32>,
    connected: bool,
    reports: u64,
    duplicates: u64,
    other_content: u64,
}

/// Why acceptance cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool.
    #[error("open the spool: {0}")]
    Spool(#[source] OpenError),
    /// The held log.
    #[error("open the held log: {0}")]
    Held(#[source] OpenError),
    /// The held log's cursor.
    #[error("open the held log: {0}")]
    Cursor(#[from] spool::ReadError),
}

/// A node as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Name.
    pub node: String,
    /// Whether it is connected to the built-in endpoint.
    pub connected: bool,
    /// When its last report arrived; 0 = not since this gateway started.
    pub last_report_ms: i64,
    /// Ring of its session.
    pub ring: Option<u32>,
    /// Boot of its session.
    pub boot: Option<u16>,
    /// The first seq the gateway does not have.
    pub next: u32,
    /// Records that the node held beyond that when its session opened; none before one has.
    pub backlog: Option<u32>,
    /// Records of this ring that are gone for good.
    pub lost: u64,
    /// Whether the clock of its present boot is known.
    pub clock_known: bool,
    /// Date of its newest record; 0 = none.
    pub newest_ms: i64,
    /// Entries that wait in the held log.
    pub held: usize,
    /// Reports since this gateway started.
    pub reports: u64,
    /// Of these, ones that held nothing new.
    pub duplicates: u64,
    /// Records that came again with other content.
    pub other_content: u64,
}

impl Acceptor {
    /// Opens both logs in `folder` and brings back what they know.
    pub fn start(
        files: Arc<dyn Files>,
        folder: &Path,
        limits: Limits,
        needs: Needs,
    ) -> Result<(Arc<Self>, Recovery, Recovery), StartError> {
        let Needs { credentials, registry, clock, downlinks, live } = needs;
        let mut nodes: HashMap<NodeName, Node> = HashMap::new();
        let mut resolved = HashSet::new();
        // Both logs tell their failures to an acceptor that does not exist yet.
        let acceptor: Arc<std::sync::OnceLock<Weak<Self>>> = Arc::default();
        let failed = |log| {
            let acceptor = Arc::clone(&acceptor);
            Box::new(move || {
                if let Some(acceptor) = acceptor.get().and_then(Weak::upgrade) {
                    acceptor.go_back(log);
                }
            })
        };
        let (spool, recovery) =
            Spool::open(Arc::clone(&files), &folder.join("spool"), limits.spool, failed(Log::Spool), &mut |replay| {
                recovery::replay_spool(replay, &mut nodes, &mut resolved)
            })
            .map_err(StartError::Spool)?;
        let mut waiting = Index::default();
        let (held, held_recovery) =
            Spool::open(files, &folder.join("held"), limits.held, failed(Log::Held), &mut |replay| {
                recovery::replay_held(replay, &mut nodes, &mut waiting);
            })
            .map_err(StartError::Held)?;
        held.consumer(HELD_CONSUMER)?;
        let nodes: HashMap<_, _> = nodes.into_iter().map(|(name, node)| (name, Arc::new(node))).collect();
        for index in &resolved {
            waiting.remove(*index);
        }
        let core = Core {
            credentials,
            registry,
            keys: HashMap::new(),
            durable: nodes.clone(),
            nodes,
            waiting_durable: waiting.clone(),
            waiting,
            pending: HashMap::new(),
            parked: HashMap::new(),
            resolving: HashSet::new(),
            resolved: resolved.clone(),
            due: BTreeMap::new(),
            settled: 0,
            boards: Boards::default(),
            without_utc: HashSet::new(),
            refusing: None,
            seen: HashMap::new(),
        };
        // A clock that shows less than what has been dated already was set back.
        let newest_ms = core.nodes.values().flat_map(|node| &node.rings).map(|ring| ring.before.date_ms).max();
        clock.not_before(newest_ms.unwrap_or(0));
        let started = Arc::new_cyclic(|myself: &Weak<Self>| Self {
            core: Mutex::new(core),
            spool,
            held,
            clock,
            downlinks,
            live,
            held_node_bytes: limits.held_node_bytes,
            orders: Orders::open(folder),
            due: Notify::new(),
            myself: myself.clone(),
        });
        if acceptor.set(started.myself.clone()).is_err() {
            tracing::error!("two acceptors on one log");
        }
        for index in resolved {
            started.settle_resolved(&mut started.lock(), index);
        }
        started.resolve_all(true);
        Ok((started, recovery, held_recovery))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log's sync failed, and with it all that was on its way there: what was decided about it
    /// is forgotten, here as on the disk.
    fn go_back(&self, log: Log) {
        counter!("tianyu_spool_failures_total").increment(1);
        tracing::error!(?log, "a write to a durable log failed; nodes will send again");
        let mut core = self.lock();
        core.refusing = Some("a write to the durable log failed".to_owned());
        match log {
            Log::Spool => {
                let undone: Vec<u64> = core.resolving.drain().collect();
                for index in undone {
                    core.wait_again(index);
                }
            }
            Log::Held => {
                // Those that were coming in are gone; those that a person dropped, without that
                // having lasted, are back.
                let Core { waiting, waiting_durable, resolving, .. } = &mut *core;
                *waiting = waiting_durable.clone();
                resolving.iter().for_each(|index| waiting.remove(*index));
            }
        }
        let nodes: Vec<NodeName> =
            core.pending.iter().filter(|(_, it)| it.log == log).map(|(node, _)| node.clone()).collect();
        for node in nodes {
            core.pending.remove(&node);
            match core.durable.get(&node).cloned() {
                Some(state) => drop(core.nodes.insert(node.clone(), state)),
                None => drop(core.nodes.remove(&node)),
            }
            self.unpark(&mut core, &node);
        }
    }

    /// Takes in what has waited for the other log, in order, as far as it need not wait again.
    fn unpark(&self, core: &mut Core, node: &NodeName) {
        while let Some(queue) = core.parked.get_mut(node) {
            let Some((arrival, reply)) = queue.pop_front() else {
                core.parked.remove(node);
                return;
            };
            if let Some(reply) = self.take_in(core, &arrival, reply) {
                if let Some(queue) = core.parked.get_mut(node) {
                    queue.push_front((arrival, reply));
                }
                return;
            }
        }
    }

    /// Takes a report or session message in; gives the reply back when it must wait.
    fn take_in(&self, core: &mut Core, arrival: &Arrival, reply: Reply) -> Option<Reply> {
        match arrival.channel {
            Up::Report => self.report(core, arrival, reply),
            Up::Session => self.session(core, arrival, reply),
            Up::Live => None,
        }
    }

    /// Marks a held entry whose records are durable in the spool.
    fn settle_resolved(&self, core: &mut Core, index: u64) {
        if let Err(error) = self.settle(core, index, true, String::new()) {
            // Found again, and settled again, at the next start: the spool knows it was resolved.
            tracing::debug!(index, %error, "settle");
        }
    }

    /// The spool, for the sinks.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Closes both logs: what is queued is written, and later arrivals are refused.
    pub fn close(&self) {
        self.spool.close();
        self.held.close();
    }

    /// What waits in the held log.
    pub fn waiting(&self) -> Index {
        self.lock().waiting.clone()
    }

    /// How many entries wait there.
    pub fn held_count(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Everything the gateway knows of its nodes.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let core = self.lock();
        let mut all: Vec<_> = core
            .nodes
            .iter()
            .map(|(name, node)| {
                let seen = core.seen.get(name).copied().unwrap_or_default();
                let ring = node.session.and_then(|s| node.ring(s.ring));
                let boot = node.session.map(|s| s.boot);
                NodeStatus {
                    node: name.to_string(),
                    connected: seen.connected,
                    last_report_ms: seen.last_report_ms,
                    ring: node.session.map(|s| s.ring),
                    boot,
                    next: ring.map_or(0, |r| r.next),
                    backlog: seen.told_next.zip(ring).map(|(told, ring)| told.saturating_sub(ring.next)),
                    lost: ring.map_or(0, |r| r.lost),
                    clock_known: ring.is_some_and(|r| r.anchors.iter().any(|a| Some(a.boot) == boot)),
                    newest_ms: ring.map_or(0, |r| r.before.date_ms),
                    held: core.waiting.usage_of(name.as_str()).1,
                    reports: seen.reports,
                    duplicates: seen.duplicates,
                    other_content: seen.other_content,
                }
            })
            .collect();
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    }

    /// Puts a new registry in force and looks again at what waited for one.
    ///
    /// # Errors
    /// When it would make two channels of a node share a series; the old one stays in force.
    pub fn set_registry(&self, registry: Arc<Registry>) -> Result<(), Vec<Complaint>> {
        {
            let mut core = self.lock();
            let complaints = core.shared_series(&registry);
            if !complaints.is_empty() {
                return Err(complaints);
            }
            core.registry = registry;
        }
        self.resolve_all(false);
        Ok(())
    }

    /// What the registry in force makes ambiguous.
    pub fn shared_series(&self) -> Vec<Complaint> {
        let core = self.lock();
        core.shared_series(&core.registry)
    }

    /// Why reports are not taken now.
    pub fn refusing(&self) -> Option<String> {
        self.lock().refusing.clone()
    }

    /// Reads the credentials again; closes connections of nodes that were revoked.
    pub fn reload_credentials(&self) -> Result<(), crate::credentials::CredentialsError> {
        let mut core = self.lock();
        core.credentials.reload()?;
        let gone: Vec<_> = core
            .seen
            .iter()
            .filter(|(node, seen)| seen.connected && !core.credentials.known(node))
            .map(|(node, _)| node.clone())
            .collect();
        drop(core);
        for node in gone {
            self.downlinks.close(&node);
        }
        Ok(())
    }

    /// Appends to the spool; on success the state is in force, and once it is synced the node is
    /// told. On refusal nothing has changed and the reply says so.
    fn append(&self, core: &mut Core, node: &NodeName, entry: &Entry, appending: Appending) -> Result<(), AppendError> {
        let state = Arc::clone(&appending.state);
        let done = self.done(node, appending, None);
        let news = if let Entry::Accepted(accepted) = entry { orders::news(accepted) } else { Vec::new() };
        let done = if news.is_empty() { done } else { self.told(node, news, done) };
        match self.spool.append_then(&entry.encode(), &mut || recovery::encode_checkpoint(core), done) {
            Ok(_) => {
                core.refusing = None;
                core.under_way(node, Log::Spool, state);
                if let Entry::Accepted(accepted) = entry {
                    core.boards.learn(accepted);
                }
                Ok(())
            }
            Err(error) => {
                // `done` was dropped, and with it the reply: that is the refusal.
                core.refused(node, &error);
                Err(error)
            }
        }
    }

    /// `done`, and then what a node has said of its orders.
    fn told(&self, node: &NodeName, news: Vec<orders::News>, done: spool::Done) -> spool::Done {
        let (node, myself) = (node.clone(), self.myself.clone());
        Box::new(move |result| {
            let durable = result.is_ok();
            done(result);
            if let Some(acceptor) = myself.upgrade().filter(|_| durable) {
                acceptor.orders.hear(&node, &news);
            }
        })
    }

    /// What happens on a sync thread once an entry's fate is known; `waits` for one of the held log.
    fn done(&self, node: &NodeName, appending: Appending, waits: Option<(HeldEntry, u64)>) -> spool::Done {
        let (node, myself) = (node.clone(), self.myself.clone());
        Box::new(move |result| {
            let Some(acceptor) = myself.upgrade() else { return };
            // Not durable: the reply is dropped, which refuses.
            let Ok(index) = result else { return };
            let Appending { state, held, with_utc, reply } = appending;
            acceptor.synced(&node, &state, index, held, waits, with_utc);
            // Whoever hears the verdict may be the one to start anew on the same log.
            drop(acceptor);
            reply.give(Verdict::Done);
        })
    }

    fn synced(
        &self,
        node: &NodeName,
        state: &Arc<Node>,
        index: u64,
        resolved: Option<u64>,
        waits: Option<(HeldEntry, u64)>,
        with_utc: bool,
    ) {
        let key = {
            let mut core = self.lock();
            core.durable.insert(node.clone(), Arc::clone(state));
            if let Some((entry, bytes)) = &waits {
                core.waiting_durable.apply(index, entry, *bytes);
                if entry.describes() {
                    // It has brought what it waits for itself, and others before it.
                    core.due.insert(node.clone(), waiting::Due::default());
                    self.due.notify_one();
                }
            }
            if let Some(held) = resolved {
                core.resolving.remove(&held);
                core.resolved.insert(held);
                core.waiting_durable.remove(held);
                self.settle_resolved(&mut core, held);
            }
            core.key(node)
        };
        if let Some(session) = state.session
            && let Some(ring) = state.ring(session.ring)
        {
            self.send_receipt(node, &key, session.nonce, ring, with_utc);
        }
        let mut core = self.lock();
        if core.arrived(node) {
            self.unpark(&mut core, node);
            if core.due.contains_key(node) {
                self.due.notify_one();
            }
        }
    }

    fn live(&self, arrival: &Arrival) {
        let snapshot = match Snapshot::decode(&arrival.payload) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                counter!("tianyu_snapshots_malformed_total").increment(1);
                tracing::debug!(node = %arrival.node, %error, "snapshot");
                return;
            }
        };
        let now = self.clock.utc();
        self.orders.learn(&arrival.node, now.ms, &snapshot.round);
        let (registry, description) = {
            let core = self.lock();
            let description = core.nodes.get(&arrival.node).and_then(|node| {
                let ring = node.session.and_then(|s| node.ring(s.ring))?;
                ring.descriptions.get(&snapshot.round.config).cloned()
            });
            (Arc::clone(&core.registry), description)
        };
        let mut places = Places::default();
        let readings = place::round(
            &registry,
            arrival.node.as_str(),
            description.as_deref(),
            &snapshot.round,
            now.ms,
            &mut places,
        );
        match readings {
            Ok(readings) => {
                let actuators = description.as_ref().map_or(&[][..], |d| &d.actuators);
                self.live.update(arrival.node.as_str(), now.ms, &snapshot, actuators, &readings, &places.0);
            }
            Err(_) => counter!("tianyu_snapshots_unplaced_total").increment(1),
        }
    }
}

/// Arrivals of one node that wait for a log; beyond this they are refused.
const PARKED_MAX: usize = 64;
/// Name of the held log's only consumer: what nobody waits for any more.
const HELD_CONSUMER: &str = "settled";

impl Core {
    fn key(&mut self, node: &NodeName) -> Key {
        if let Some(key) = self.keys.get(node) {
            return key.clone();
        }
        let key = self.credentials.key(node);
        self.keys.insert(node.clone(), key.clone());
        key
    }

    /// Whether something of this node may go to this log now.
    fn may_go(&self, node: &NodeName, log: Log) -> bool {
        self.pending.get(node).is_none_or(|pending| pending.log == log)
    }

    /// An entry was taken by a log: its state is in force.
    fn under_way(&mut self, node: &NodeName, log: Log, state: Arc<Node>) {
        self.nodes.insert(node.clone(), state);
        self.pending.entry(node.clone()).or_insert(Pending { log, entries: 0 }).entries += 1;
    }

    /// An entry has become durable; whether nothing of its node is under way any more.
    fn arrived(&mut self, node: &NodeName) -> bool {
        let Some(pending) = self.pending.get_mut(node) else { return true };
        pending.entries = pending.entries.saturating_sub(1);
        let all = pending.entries == 0;
        if all {
            self.pending.remove(node);
        }
        all
    }

    /// What waits, as the held log's checkpoint has to say it: with what is only on its way out.
    fn held_state(&self) -> Index {
        let mut state = self.waiting.clone();
        for index in &self.resolving {
            if let Some(summary) = self.waiting_durable.get(*index) {
                state.insert(*index, summary.clone());
            }
        }
        state
    }

    /// Lets a held entry wait again whose way out has come to nothing.
    fn wait_again(&mut self, index: u64) {
        if let Some(summary) = self.waiting_durable.get(index).cloned() {
            self.waiting.insert(index, summary);
        }
    }

    fn refused(&mut self, node: &NodeName, error: &AppendError) {
        counter!("tianyu_refused_total").increment(1);
        let why = error.to_string();
        if self.refusing.is_none() {
            tracing::error!(%node, %error, "reports are not taken now; nodes keep them");
        }
        self.refusing = Some(why);
    }

    /// Channels of a node that a registry would give one series, by what their nodes say they
    /// measure.
    fn shared_series(&self, registry: &Registry) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        for (name, node) in &self.nodes {
            if let Some(description) = node.description() {
                complaints.extend(registry.shared_series(name.as_str(), description));
            }
        }
        complaints
    }
}

impl Accept for Acceptor {
    fn arrive(&self, arrival: Arrival, reply: Reply) {
        let mut core = self.lock();
        if !core.credentials.known(&arrival.node) {
            // Only behind a broker: the endpoint lets no such node in.
            counter!("tianyu_unknown_nodes_total").increment(1);
            return reply.give(Verdict::Done);
        }
        if arrival.channel == Up::Live {
            drop(core);
            self.live(&arrival);
            return reply.give(Verdict::Done);
        }
        if arrival.channel == Up::Report {
            let now_ms = self.clock.utc().ms;
            let seen = core.seen.entry(arrival.node.clone()).or_default();
            seen.reports += 1;
            seen.last_report_ms = now_ms;
        }
        let waits = match core.parked.contains_key(&arrival.node) {
            true => Some(reply),
            false => self.take_in(&mut core, &arrival, reply),
        };
        if let Some(reply) = waits {
            let queue = core.parked.entry(arrival.node.clone()).or_default();
            if queue.len() < PARKED_MAX {
                queue.push_back((arrival, reply));
            } else {
                counter!("tianyu_refused_total").increment(1);
            }
        }
    }

    fn login(&self, node: &NodeName, token: &[u8]) -> Login {
        if self.lock().credentials.check(node, token) { Login::Welcome } else { Login::Denied }
    }

    fn connection(&self, node: &NodeName, connected: bool) {
        self.lock().seen.entry(node.clone()).or_default().connected = connected;
    }
}
