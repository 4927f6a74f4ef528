//! Acceptance: a report's way from arrival to the durable log. Envelope, window, decode, date,
//! place; then the spool or the held log, one append each; and the receipt only once that is
//! synced.
//!
//! All decisions are made under one lock, in order of arrival; both logs' sync threads give the
//! verdicts. What a decision changed becomes *durable* state with its sync; when a sync fails,
//! everything goes back to the durable state, and nodes send again.

pub mod dating;
pub mod held;
mod place;
mod window;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use metrics::counter;
use serde::Serialize;
use spool::{AppendError, Files, OpenError, Options, Recovery, Replay, Spool};
use telemetry::limits::{CONTROL_BYTES_MAX, RECORD_BYTES_MAX};
use telemetry::mac::Key;
use telemetry::record::Record;
use telemetry::report::{self, Report};
use telemetry::session::{Nonce, Receipt, Session};
use telemetry::snapshot::Snapshot;
use telemetry::topic::{Down, Up};
use telemetry::{Malformed, NodeName};

use self::dating::{Before, Date};
use self::held::{HeldEntry, Index, Reason, Waiting};
use self::place::Places;
use self::window::{Code, Node, Position, Ring};
use crate::clock::Clock;
use crate::credentials::Credentials;
use crate::custody::{Accept, Arrival, Downlinks, Login, Reply, Verdict};
use crate::entry::{Accepted, Content, Dated, Entry};
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
    /// Held entries whose records are in the spool, while their mark in the held log is not durable.
    resolving: HashSet<u64>,
    seen: HashMap<NodeName, Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    last_report_ms: i64,
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

/// What is to be done with the new records of a report.
enum Decision {
    Accept(Accepted),
    Hold(Reason, Vec<(i64, u64)>),
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
        let failed = |acceptor: &Arc<std::sync::OnceLock<Weak<Self>>>| {
            let acceptor = Arc::clone(acceptor);
            Box::new(move || {
                if let Some(acceptor) = acceptor.get().and_then(Weak::upgrade) {
                    acceptor.go_back();
                }
            })
        };
        let (spool, recovery) =
            Spool::open(Arc::clone(&files), &folder.join("spool"), limits.spool, failed(&acceptor), &mut |replay| {
                replay_spool(replay, &mut nodes, &mut resolved)
            })
            .map_err(StartError::Spool)?;
        let mut waiting = Index::default();
        let (held, held_recovery) =
            Spool::open(files, &folder.join("held"), limits.held, failed(&acceptor), &mut |replay| {
                replay_held(replay, &mut nodes, &mut waiting);
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
            resolving: resolved.clone(),
            seen: HashMap::new(),
        };
        let started = Arc::new_cyclic(|myself: &Weak<Self>| Self {
            core: Mutex::new(core),
            spool,
            held,
            clock,
            downlinks,
            live,
            held_node_bytes: limits.held_node_bytes,
            myself: myself.clone(),
        });
        if acceptor.set(started.myself.clone()).is_err() {
            tracing::error!("two acceptors on one log");
        }
        for index in resolved {
            started.settle(index, true, String::new());
        }
        started.resolve_all();
        Ok((started, recovery, held_recovery))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log's sync failed: what was decided since is forgotten, here as on the disk.
    fn go_back(&self) {
        let mut core = self.lock();
        core.nodes = core.durable.clone();
        core.waiting = core.waiting_durable.clone();
        counter!("tianyu_spool_failures_total").increment(1);
        tracing::error!("a write to the durable log failed; nodes will send again");
    }

    /// The spool, for the sinks.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// What waits in the held log.
    pub fn waiting(&self) -> Index {
        self.lock().waiting.clone()
    }

    /// Everything the gateway knows of its nodes.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let core = self.lock();
        let mut held: HashMap<&str, usize> = HashMap::new();
        for (_, summary) in core.waiting.iter() {
            *held.entry(summary.node.as_str()).or_default() += 1;
        }
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
                    clock_known: ring.is_some_and(|r| r.anchors.iter().any(|a| Some(a.boot) == boot)),
                    newest_ms: ring.map_or(0, |r| r.before.date_ms),
                    held: held.get(name.as_str()).copied().unwrap_or(0),
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
    pub fn set_registry(&self, registry: Arc<Registry>) {
        self.lock().registry = registry;
        self.resolve_all();
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

    /// Drops what waits, by a person's decision. Whether it was there.
    pub fn drop_held(&self, index: u64, by: String) -> bool {
        let there = self.lock().waiting.get(index).is_some();
        if there {
            self.lock().waiting.remove(index);
            self.settle(index, false, by);
            self.resolve_all();
        }
        there
    }

    /// Looks again at everything that waits. How many entries were accepted.
    pub fn resolve_all(&self) -> usize {
        let nodes: HashSet<NodeName> =
            self.lock().waiting.iter().filter_map(|(_, s)| NodeName::new(&s.node).ok()).collect();
        nodes.iter().map(|node| self.resolve(&mut self.lock(), node)).sum()
    }

    fn session(&self, arrival: &Arrival, reply: Reply) {
        let session = match Session::decode(&arrival.payload) {
            Ok(session) => session,
            Err(error) => {
                counter!("tianyu_sessions_malformed_total").increment(1);
                tracing::warn!(node = %arrival.node, %error, "session message");
                return reply.give(Verdict::Done);
            }
        };
        let now = self.clock.utc();
        let mut core = self.lock();
        let mut state = core.nodes.get(&arrival.node).map_or_else(Node::default, |n| Node::clone(n));
        let (ring, skipped, with_utc) = match &session {
            Session::Open(open) => {
                let opened = state.open(open);
                if opened.new_ring {
                    counter!("tianyu_new_rings_total").increment(1);
                    tracing::info!(node = %arrival.node, ring = open.ring, first = open.floor, "a ring not seen before");
                }
                if opened.lost > 0 {
                    counter!("tianyu_records_lost_by_node_total").increment(opened.lost.into());
                    tracing::warn!(node = %arrival.node, ring = open.ring, records = opened.lost, "the node no longer holds records that never came");
                }
                (open.ring, opened.new_ring || opened.lost > 0, true)
            }
            Session::Ready(ready) => {
                let known = state.ready(ready, |a| now.known_good && dating::believable(a, now.ms));
                if !known {
                    counter!("tianyu_sessions_stale_total").increment(1);
                    return reply.give(Verdict::Done);
                }
                (ready.ring, false, false)
            }
        };
        let Some(of) = state.ring(ring) else { return };
        let code = Code::of(arrival.node.as_str(), &state, of, 0, skipped, false);
        let entry = Entry::Window(minicbor::to_vec(&code).unwrap_or_default());
        let state = Arc::new(state);
        let result = self.append(&mut core, &arrival.node, &entry, state, None, with_utc, reply);
        if result.is_ok() && !with_utc {
            self.resolve(&mut core, &arrival.node);
        }
    }

    /// Appends to the spool; on success the state is in force, and once it is synced the node is
    /// told. On refusal nothing has changed and `reply` says so.
    #[expect(clippy::too_many_arguments, reason = "one place that ties state, entry and verdict together")]
    fn append(
        &self,
        core: &mut Core,
        node: &NodeName,
        entry: &Entry,
        state: Arc<Node>,
        held: Option<u64>,
        with_utc: bool,
        reply: Reply,
    ) -> Result<(), AppendError> {
        let done = self.done(node, &state, held, None, with_utc, reply);
        let Core { nodes, waiting: _, resolving, .. } = core;
        let mut checkpoint = || encode_checkpoint(nodes, resolving);
        match self.spool.append_then(&entry.encode(), &mut checkpoint, done) {
            Ok(_) => {
                core.nodes.insert(node.clone(), state);
                Ok(())
            }
            Err(error) => {
                // `done` was dropped, and with it the reply: that is the refusal.
                counter!("tianyu_refused_total").increment(1);
                tracing::debug!(%node, %error, "not taken");
                Err(error)
            }
        }
    }

    /// What happens on a sync thread once an entry's fate is known.
    fn done(
        &self,
        node: &NodeName,
        state: &Arc<Node>,
        resolved: Option<u64>,
        waits: Option<(HeldEntry, u64)>,
        with_utc: bool,
        reply: Reply,
    ) -> spool::Done {
        let (node, state, myself) = (node.clone(), Arc::clone(state), self.myself.clone());
        Box::new(move |result| {
            let Some(acceptor) = myself.upgrade() else { return };
            let Ok(index) = result else { return drop(reply) };
            acceptor.synced(&node, &state, index, resolved, waits, with_utc);
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
            }
            if let Some(held) = resolved {
                core.waiting_durable.remove(held);
            }
            core.key(node)
        };
        if let Some(held) = resolved {
            self.settle(held, true, String::new());
        }
        let Some(session) = state.session else { return };
        let Some(ring) = state.ring(session.ring) else { return };
        self.send_receipt(node, &key, session.nonce, ring, with_utc);
    }

    fn send_receipt(&self, node: &NodeName, key: &Key, nonce: Nonce, ring: &Ring, with_utc: bool) {
        let now = self.clock.utc();
        let utc_ms = (with_utc && now.known_good).then_some(now.ms);
        let receipt = Receipt { ring: ring.id, next: ring.next, utc_ms };
        let (mut body, mut sealed) = ([0; CONTROL_BYTES_MAX], [0; CONTROL_BYTES_MAX]);
        let Ok(length) = receipt.encode(&mut body) else { return };
        let Ok(length) = key.seal(node, Down::Receipt, nonce, &body[..length], &mut sealed) else { return };
        self.downlinks.send(node, Down::Receipt, Bytes::copy_from_slice(&sealed[..length]));
    }

    fn report(&self, arrival: &Arrival, reply: Reply) {
        let report = match Report::decode(&arrival.payload) {
            Ok(report) => report,
            Err(error) => {
                counter!("tianyu_reports_malformed_total").increment(1);
                tracing::warn!(node = %arrival.node, %error, "a report whose envelope cannot be read");
                return reply.give(Verdict::Done);
            }
        };
        let now = self.clock.utc();
        let mut core = self.lock();
        let seen = core.seen.entry(arrival.node.clone()).or_default();
        seen.reports += 1;
        seen.last_report_ms = now.ms;
        let envelope = report.envelope;
        let Some(state) = core.nodes.get(&arrival.node).cloned() else {
            counter!("tianyu_reports_without_session_total").increment(1);
            return reply.give(Verdict::Done);
        };
        let Some(ring) = state.ring(envelope.ring) else {
            counter!("tianyu_reports_without_session_total").increment(1);
            return reply.give(Verdict::Done);
        };
        let overlap = match ring.position(envelope.first, envelope.count) {
            Position::Ahead => {
                // Its predecessors must be dated first; the node sends them when no receipt comes.
                counter!("tianyu_reports_ahead_total").increment(1);
                return reply.give(Verdict::Done);
            }
            Position::Below => envelope.count,
            Position::New { overlap } => overlap,
        };
        let decoded: Result<Vec<Record>, Malformed> = report.records().collect();
        let (records, digests) = match decoded {
            Ok(records) => {
                let digests: Option<Vec<u32>> = records.iter().map(|r| record_digest(r, envelope.boot)).collect();
                (records, digests.unwrap_or_default())
            }
            Err(_) if overlap == envelope.count => {
                return self.again(&mut core, &arrival.node, &state, reply);
            }
            Err(error) => {
                let reason = match error {
                    Malformed::Newer(_) => Reason::NewerVersion,
                    _ => Reason::Poison,
                };
                let digests = vec![report::digest(&arrival.payload); (envelope.count - overlap) as usize];
                let decision = (reason, Vec::new());
                return self.hold(&mut core, arrival, &report, overlap, &digests, decision, now.ms, reply);
            }
        };
        let clashing = (0..overlap).any(|at| {
            let known = ring.digest(envelope.first + at);
            known.is_none() || known != digests.get(at as usize).copied()
        });
        if clashing {
            counter!("tianyu_other_content_total").increment(1);
            tracing::error!(node = %arrival.node, ring = envelope.ring, first = envelope.first, "records came again with other content; is this name on two boards?");
            core.seen.entry(arrival.node.clone()).or_default().other_content += 1;
            let decision = (Reason::OtherContent, Vec::new());
            return self.hold(&mut core, arrival, &report, envelope.count, &[], decision, now.ms, reply);
        }
        if overlap == envelope.count {
            core.seen.entry(arrival.node.clone()).or_default().duplicates += 1;
            return self.again(&mut core, &arrival.node, &state, reply);
        }
        let fresh = &digests[overlap as usize..];
        if core.waiting.blocks(&arrival.node, envelope.ring) {
            let decision = (Reason::BehindUndated, Vec::new());
            return self.hold(&mut core, arrival, &report, overlap, fresh, decision, now.ms, reply);
        }
        let mut next = Node::clone(&state);
        let first = envelope.first + overlap;
        let news = &records[overlap as usize..];
        let decided = self.decide(&core.registry, &arrival.node, &mut next, &report, first, news, fresh, None, now.ms);
        match decided {
            Decision::Accept(accepted) => {
                let entry = Entry::Accepted(accepted);
                // A refusal has been said through the reply.
                if self.append(&mut core, &arrival.node, &entry, Arc::new(next), None, false, reply).is_ok()
                    && news.iter().any(|r| matches!(r, Record::Description(_)))
                {
                    self.resolve(&mut core, &arrival.node);
                }
            }
            Decision::Hold(reason, dates) => {
                self.hold(&mut core, arrival, &report, overlap, fresh, (reason, dates), now.ms, reply);
            }
        }
    }

    /// What is durable already is receipted again.
    fn again(&self, core: &mut Core, node: &NodeName, state: &Arc<Node>, reply: Reply) {
        counter!("tianyu_reports_duplicate_total").increment(1);
        let durable = core.durable.get(node).cloned();
        let key = core.key(node);
        if let (Some(durable), Some(session)) = (durable, state.session)
            && let Some(ring) = durable.ring(session.ring)
        {
            self.send_receipt(node, &key, session.nonce, ring, false);
        }
        reply.give(Verdict::Done);
    }

    /// Dates and places new records, and takes them into `state`.
    #[expect(clippy::too_many_arguments, reason = "a pure step of the pipeline with all it depends on")]
    fn decide(
        &self,
        registry: &Registry,
        node: &NodeName,
        state: &mut Node,
        report: &Report<'_>,
        first: u32,
        records: &[Record],
        digests: &[u32],
        held: Option<(u64, &[(i64, u64)])>,
        arrived_ms: i64,
    ) -> Decision {
        let envelope = report.envelope;
        let others: Vec<(i64, u32)> =
            state.rings.iter().filter(|r| r.id != envelope.ring).map(|r| (r.before.date_ms, r.id)).collect();
        let Some(ring) = state.ring_mut(envelope.ring) else { return Decision::Hold(Reason::Undated, Vec::new()) };
        let mut before = ring.before;
        let mut dates: Vec<(i64, u64)> = Vec::with_capacity(records.len());
        let mut dated = Vec::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            let t_ms = record.t_ms().unwrap_or(before.t_ms);
            let fixed = held.and_then(|(_, dates)| dates.get(at).copied());
            let date = match fixed {
                Some((ms, error_ms)) => Date { ms, error_ms },
                None => match dating::date(&ring.anchors, &before, envelope.boot, t_ms) {
                    Some(date) if date.ms <= arrived_ms.saturating_add(FUTURE_MS_MAX) => date,
                    _ => return Decision::Hold(Reason::Undated, Vec::new()),
                },
            };
            if fixed.is_none() {
                before = Before { date_ms: date.ms, boot: envelope.boot, t_ms };
            }
            dates.push((date.ms, date.error_ms));
            dated.push((record, date, t_ms));
        }
        if held.is_none() && dates.iter().any(|(ms, _)| others.iter().any(|(other, _)| other == ms)) {
            counter!("tianyu_clashes_total").increment(1);
            return Decision::Hold(Reason::Clash, dates);
        }
        let mut places = Places::default();
        let mut out = Vec::with_capacity(records.len());
        for (at, (record, date, t_ms)) in dated.into_iter().enumerate() {
            let content = match record {
                Record::Round(round) => {
                    let description = ring.descriptions.get(&round.config).map(|d| &**d);
                    match place::round(registry, node.as_str(), description, round, date.ms, &mut places) {
                        Ok(readings) => Content::Round { config: round.config, readings },
                        Err(reason) => return Decision::Hold(reason, dates),
                    }
                }
                Record::Event(event) => {
                    let home = registry.place(node.as_str(), None, date.ms);
                    Content::Event {
                        code: event.code.id(),
                        subject: event.subject,
                        value: event.value,
                        detail: event.detail,
                        place: home.and_then(|p| places.index(p)),
                    }
                }
                Record::Description(description) => {
                    ring.describe(description.clone());
                    let mut bytes = [0; RECORD_BYTES_MAX];
                    let length = record.encode(envelope.boot, &mut bytes).unwrap_or(0);
                    Content::Description(bytes[..length].to_vec())
                }
                Record::Loss(loss) => {
                    counter!("tianyu_records_lost_by_node_total").increment(loss.count.into());
                    Content::Loss(loss.first, loss.count, loss.cause)
                }
                Record::Gone => Content::Gone,
            };
            let seq = first + at as u32;
            out.push(Dated { seq, date_ms: date.ms, error_ms: date.error_ms, t_ms, content });
        }
        if held.is_none() {
            for digest in digests {
                ring.push(*digest);
            }
        }
        if held.is_none_or(|(_, dates)| dates.is_empty()) {
            ring.before = before;
        }
        let added = if held.is_none() { digests.len() } else { 0 };
        let window = state.ring(envelope.ring).map(|ring| {
            minicbor::to_vec(Code::of(node.as_str(), state, ring, added, false, false)).unwrap_or_default()
        });
        Decision::Accept(Accepted {
            node: node.as_str().to_owned(),
            ring: envelope.ring,
            boot: envelope.boot,
            arrived_ms,
            places: places.0,
            records: out,
            held: held.map(|(index, _)| index),
            window: window.unwrap_or_default(),
        })
    }

    /// Keeps a report, from its `overlap`-th record on, until it can be decided.
    #[expect(clippy::too_many_arguments, reason = "one place that ties state, entry and verdict together")]
    fn hold(
        &self,
        core: &mut Core,
        arrival: &Arrival,
        report: &Report<'_>,
        overlap: u32,
        digests: &[u32],
        (reason, dates): (Reason, Vec<(i64, u64)>),
        arrived_ms: i64,
        reply: Reply,
    ) {
        counter!("tianyu_held_total", "reason" => format!("{reason:?}")).increment(1);
        if core.waiting.bytes_of(&arrival.node) + arrival.payload.len() as u64 > self.held_node_bytes {
            // Its own records wait on the node; nobody else notices.
            counter!("tianyu_held_over_budget_total").increment(1);
            tracing::warn!(node = %arrival.node, "too much of this node waits in the held log; see tianyu held list");
            return reply.give(Verdict::Done);
        }
        let envelope = report.envelope;
        let mut state = core.nodes.get(&arrival.node).map_or_else(Node::default, |n| Node::clone(n));
        let mut window = None;
        if reason != Reason::OtherContent
            && let Some(ring) = state.ring_mut(envelope.ring)
        {
            for digest in digests {
                ring.push(*digest);
            }
            if let (Some((date_ms, _)), Ok(Some(last))) = (dates.last().copied(), report.records().last().transpose()) {
                let t_ms = last.t_ms().unwrap_or(ring.before.t_ms);
                ring.before = Before { date_ms, boot: envelope.boot, t_ms };
            }
            let ring = ring.clone();
            window = Some(Code::of(arrival.node.as_str(), &state, &ring, digests.len(), false, false));
        }
        let (from, count) = match reason {
            Reason::OtherContent => (envelope.first, envelope.count),
            _ => (envelope.first + overlap, envelope.count - overlap),
        };
        let waiting = Waiting {
            node: arrival.node.as_str().to_owned(),
            ring: envelope.ring,
            from,
            count,
            arrived_ms,
            reason,
            dates,
            payload: arrival.payload.to_vec(),
            window,
        };
        let entry = HeldEntry::Waiting(Box::new(waiting));
        let bytes = minicbor::to_vec(&entry).unwrap_or_default();
        let state = Arc::new(state);
        let waits = (entry.clone(), bytes.len() as u64);
        let done = self.done(&arrival.node, &state, None, Some(waits), false, reply);
        let Core { waiting, .. } = core;
        match self.held.append_then(&bytes, &mut || waiting.encode(), done) {
            Ok(index) => {
                core.waiting.apply(index, &entry, bytes.len() as u64);
                core.nodes.insert(arrival.node.clone(), state);
            }
            Err(error) => tracing::debug!(node = %arrival.node, %error, "not held"),
        }
    }

    /// Tries what waits of one node again, oldest first.
    fn resolve(&self, core: &mut Core, node: &NodeName) -> usize {
        let candidates: Vec<u64> = core
            .waiting
            .iter()
            .filter(|(_, s)| s.node == node.as_str() && s.reason.resolves_itself())
            .map(|(index, _)| index)
            .collect();
        let mut accepted = 0;
        let mut blocked = HashSet::new();
        for index in candidates {
            let Some(waiting) = self.read_held(index) else { continue };
            if waiting.reason.blocks() && blocked.contains(&waiting.ring) {
                continue;
            }
            let Some(state) = core.nodes.get(node).cloned() else { continue };
            let Ok(report) = Report::decode(&waiting.payload) else { continue };
            let Ok(records) = report.records().collect::<Result<Vec<_>, _>>() else { continue };
            let skip = waiting.from.saturating_sub(report.envelope.first) as usize;
            let Some(news) = records.get(skip..) else { continue };
            let mut next = Node::clone(&state);
            let held = Some((index, waiting.dates.as_slice()));
            let arrived = waiting.arrived_ms.max(self.clock.utc().ms);
            let decided = self.decide(&core.registry, node, &mut next, &report, waiting.from, news, &[], held, arrived);
            let Decision::Accept(entry) = decided else {
                if waiting.reason.blocks() {
                    blocked.insert(waiting.ring);
                }
                continue;
            };
            core.resolving.insert(index);
            core.waiting.remove(index);
            let entry = Entry::Accepted(entry);
            if self.append(core, node, &entry, Arc::new(next), Some(index), false, Reply::nobody()).is_err() {
                core.resolving.remove(&index);
                core.waiting = core.waiting_durable.clone();
                break;
            }
            accepted += 1;
        }
        accepted
    }

    /// One entry of the held log, as it was received.
    pub fn read_held(&self, index: u64) -> Option<Waiting> {
        match self.held.reader(index).read() {
            Ok(Some(spool::Read::Entry { index: found, bytes })) if found == index => match minicbor::decode(&bytes) {
                Ok(HeldEntry::Waiting(waiting)) => Some(*waiting),
                _ => None,
            },
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(index, %error, "read the held log");
                None
            }
        }
    }

    /// Marks a held entry as dealt with, and lets go of what nobody needs any more.
    fn settle(&self, index: u64, accepted: bool, by: String) {
        let at_ms = self.clock.utc().ms;
        let entry = HeldEntry::Settled { index, accepted, by, at_ms };
        let bytes = minicbor::to_vec(&entry).unwrap_or_default();
        let myself = self.myself.clone();
        let waiting = self.lock().waiting.clone();
        let done = Box::new(move |result: Result<u64, _>| {
            let (Some(acceptor), Ok(mark)) = (myself.upgrade(), result) else { return };
            let keep = {
                let mut core = acceptor.lock();
                core.resolving.remove(&index);
                core.waiting_durable.remove(index);
                core.waiting_durable.oldest().unwrap_or(mark + 1)
            };
            if let Err(error) =
                acceptor.held.consumer(HELD_CONSUMER).and_then(|consumer| consumer.commit_and_sync(keep))
            {
                tracing::warn!(%error, "let go of settled entries");
            }
        });
        if let Err(error) = self.held.append_then(&bytes, &mut || waiting.encode(), done) {
            // Found again, and settled again, at the next start: the spool knows it was resolved.
            tracing::debug!(index, %error, "settle");
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
            Ok(readings) => self.live.update(arrival.node.as_str(), now.ms, &snapshot, &readings, &places.0),
            Err(_) => counter!("tianyu_snapshots_unplaced_total").increment(1),
        }
    }
}

/// Name of the held log's only consumer: what nobody waits for any more.
const HELD_CONSUMER: &str = "settled";
/// A record may be dated this far ahead of the gateway's clock.
const FUTURE_MS_MAX: i64 = 60_000;

impl Core {
    fn key(&mut self, node: &NodeName) -> Key {
        if let Some(key) = self.keys.get(node) {
            return key.clone();
        }
        let key = self.credentials.key(node);
        self.keys.insert(node.clone(), key.clone());
        key
    }
}

impl Accept for Acceptor {
    fn arrive(&self, arrival: Arrival, reply: Reply) {
        if !self.lock().credentials.known(&arrival.node) {
            // Only behind a broker: the endpoint lets no such node in.
            counter!("tianyu_unknown_nodes_total").increment(1);
            return reply.give(Verdict::Done);
        }
        match arrival.channel {
            Up::Report => self.report(&arrival, reply),
            Up::Session => self.session(&arrival, reply),
            Up::Live => {
                self.live(&arrival);
                reply.give(Verdict::Done);
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

fn record_digest(record: &Record, boot: u16) -> Option<u32> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let length = record.encode(boot, &mut bytes).ok()?;
    Some(report::digest(&bytes[..length]))
}

fn encode_checkpoint(nodes: &HashMap<NodeName, Arc<Node>>, resolving: &HashSet<u64>) -> Vec<u8> {
    let codes: Vec<Code> = nodes
        .iter()
        .flat_map(|(name, node)| {
            node.rings.iter().map(|ring| Code::of(name.as_str(), node, ring, usize::MAX, true, true))
        })
        .collect();
    let resolving: Vec<u64> = resolving.iter().copied().collect();
    minicbor::to_vec((codes, resolving)).unwrap_or_default()
}

fn apply(code: &Code, nodes: &mut HashMap<NodeName, Node>) {
    if let Ok(name) = NodeName::new(&code.node) {
        code.apply(nodes.entry(name).or_default());
    }
}

fn replay_spool(replay: Replay, nodes: &mut HashMap<NodeName, Node>, resolved: &mut HashSet<u64>) {
    match replay {
        Replay::Checkpoint(bytes) => match minicbor::decode::<(Vec<Code>, Vec<u64>)>(&bytes) {
            Ok((codes, resolving)) => {
                codes.iter().for_each(|code| apply(code, nodes));
                resolved.extend(resolving);
            }
            Err(error) => tracing::error!(%error, "a checkpoint cannot be read"),
        },
        Replay::Entry { index, bytes } => match Entry::decode(&bytes) {
            Ok(Entry::Window(bytes)) => match minicbor::decode::<Code>(&bytes) {
                Ok(code) => apply(&code, nodes),
                Err(error) => tracing::error!(index, %error, "a window cannot be read"),
            },
            Ok(Entry::Accepted(accepted)) => {
                resolved.extend(accepted.held);
                let Ok(code) = minicbor::decode::<Code>(&accepted.window) else {
                    return tracing::error!(index, "a window cannot be read");
                };
                apply(&code, nodes);
                let ring = NodeName::new(&accepted.node).ok().and_then(|n| nodes.get_mut(&n)?.ring_mut(accepted.ring));
                let Some(ring) = ring else { return };
                for record in &accepted.records {
                    if let Content::Description(bytes) = &record.content
                        && let Ok((_, Record::Description(description))) = Record::decode(bytes)
                    {
                        ring.describe(description);
                    }
                }
            }
            Err(error) => tracing::error!(index, %error, "a spool entry cannot be read"),
        },
    }
}

fn replay_held(replay: Replay, nodes: &mut HashMap<NodeName, Node>, waiting: &mut Index) {
    match replay {
        Replay::Checkpoint(bytes) => match Index::decode(&bytes) {
            Some(index) => *waiting = index,
            None => tracing::error!("the held log's checkpoint cannot be read"),
        },
        Replay::Entry { index, bytes } => match minicbor::decode::<HeldEntry>(&bytes) {
            Ok(entry) => {
                waiting.apply(index, &entry, bytes.len() as u64);
                let HeldEntry::Waiting(waiting) = &entry else { return };
                let Some(code) = &waiting.window else { return };
                let Ok(name) = NodeName::new(&code.node) else { return };
                // The spool may have gone on from here: only what it does not know counts.
                let ahead = nodes.get(&name).and_then(|n| n.ring(code.ring)).is_none_or(|r| r.next < code.next);
                if ahead {
                    apply(code, nodes);
                }
            }
            Err(error) => tracing::error!(index, %error, "a held entry cannot be read"),
        },
    }
}
