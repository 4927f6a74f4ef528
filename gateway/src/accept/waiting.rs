//! Into the held log, and out of it again: by itself when what was missing arrives, or by a
//! person's word.
//!
//! Entries are looked at again only when something has changed for their node, a few at a time:
//! however much waits, everybody else's reports go on in between.

use std::sync::Arc;

use metrics::counter;
use spool::AppendError;
use telemetry::NodeName;
use telemetry::record::Record;
use telemetry::report::Report;
use telemetry::session::Anchor;

use super::dating::{self, Before};
use super::decide::{Case, Decision, Origin};
use super::held::{Dates, HeldEntry, Index, Reason, Waiting};
use super::window::{Code, Node, Recent};
use super::{Acceptor, Appending, Core, HELD_CONSUMER, Log};
use crate::custody::{Arrival, Reply, Verdict};
use crate::entry::{Entry, cbor};

/// Entries looked at before others may have the lock.
const LOOKS_MAX: usize = 64;

/// What is to be held, and why.
pub(super) struct Holding<'a> {
    pub(super) reason: Reason,
    /// Records of the report that are not new.
    pub(super) overlap: u32,
    /// Digests of those that are.
    pub(super) digests: &'a [u32],
    /// Their dates, where they are fixed already.
    pub(super) dates: Dates,
}

/// How far a node's entries have been looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    from: u64,
    /// Also those that only another program could read: looked at when it starts.
    all: bool,
}

/// What a look at a node's entries gave.
#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    accepted: usize,
    /// There are more to look at now.
    go_on: bool,
}

/// What became of an entry that was tried again.
enum Tried {
    Accepted,
    Still(Reason),
    /// It is not there, or nothing is known of its node.
    Gone,
}

/// Why a person's word about a waiting entry is not followed.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// Nothing waits there.
    #[error("nothing waits under {0}: it was resolved or dropped in the meantime")]
    Unknown(u64),
    /// It waits for something else.
    #[error("{}: {}", .0.text(), .0.remedy())]
    Waits(Reason),
    /// The instant makes no sense for it.
    #[error("that boot cannot have begun then: before 2020, or in the gateway's future")]
    Instant,
    /// The log does not take it now.
    #[error("not now: {0}")]
    Refused(#[from] AppendError),
    /// Records of the node are on their way to the disk.
    #[error("the node is delivering just now; try again")]
    Busy,
}

impl Acceptor {
    /// Keeps a report, from its first new record on, until it can be decided; gives the reply back
    /// when it must wait for the other log.
    pub(super) fn hold(
        &self,
        core: &mut Core,
        arrival: &Arrival,
        report: &Report<'_>,
        holding: Holding<'_>,
        arrived_ms: i64,
        reply: Reply,
    ) -> Option<Reply> {
        if !core.may_go(&arrival.node, Log::Held) {
            return Some(reply);
        }
        let Holding { reason, overlap, digests, dates } = holding;
        let envelope = report.envelope;
        let mut state = core.nodes.get(&arrival.node).map_or_else(Node::default, |n| Node::clone(n));
        let mut window = None;
        if reason != Reason::OtherContent
            && let Some(ring) = state.ring_mut(envelope.ring)
        {
            for (at, digest) in digests.iter().enumerate() {
                // What clashes is not stored: its date is still free for who comes next.
                let fixed = dates.get(at).filter(|_| reason != Reason::Clash);
                let date_ms = fixed.map_or(0, |(date_ms, _)| *date_ms);
                ring.push(Recent { digest: Some(*digest), date_ms });
            }
            if let (Some((date_ms, error_ms)), Ok(Some(last))) = (dates.last(), report.records().last().transpose()) {
                let t_ms = last.t_ms().unwrap_or(ring.before.t_ms);
                let dating::Date { ms: date_ms, earliest_ms, .. } = dating::Date::within(*date_ms, *error_ms);
                ring.before = Before { date_ms, earliest_ms, boot: envelope.boot, t_ms };
            }
            // What channels mean is known at once: the live view and later records need it.
            let mut described = false;
            for record in report.records() {
                if let Ok(Record::Description(description)) = record {
                    ring.describe(description);
                    described = true;
                }
            }
            let ring = state.ring(envelope.ring);
            window = ring.map(|ring| Code::of(arrival.node.as_str(), &state, ring, digests.len(), false, described));
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
        let bytes = cbor(&entry);
        let (held_bytes, _) = core.waiting.usage_of(arrival.node.as_str());
        if held_bytes + bytes.len() as u64 > self.held_node_bytes {
            // Its own records wait on the node; nobody else notices.
            counter!("tianyu_held_over_budget_total").increment(1);
            tracing::warn!(node = %arrival.node, "too much of this node waits in the held log; see tianyu held list");
            reply.give(Verdict::Done);
            return None;
        }
        counter!("tianyu_held_total", "reason" => format!("{reason:?}")).increment(1);
        let appending = Appending { state: state.into(), held: None, with_utc: false, reply };
        let state = Arc::clone(&appending.state);
        let done = self.done(&arrival.node, appending, Some((entry.clone(), bytes.len() as u64)));
        match self.held.append_then(&bytes, &mut || core.held_state().encode(), done) {
            Ok(index) => {
                core.waiting.apply(index, &entry, bytes.len() as u64);
                core.under_way(&arrival.node, Log::Held, state);
            }
            Err(error) => core.refused(&arrival.node, &error),
        }
        None
    }

    /// Something has changed for a node: what waits of it is looked at again, the first of it now.
    pub(super) fn look_again(&self, core: &mut Core, node: &NodeName) {
        if core.waiting.usage_of(node.as_str()).1 > 0 {
            core.due.insert(node.clone(), Due::default());
            if let Err(error) = self.look(core, node) {
                tracing::debug!(%node, %error, "not resolved now");
            }
            self.due.notify_one();
        }
    }

    /// Looks again at everything that waits; `all`: also at what only another program could read.
    /// How many entries were accepted.
    pub fn resolve_all(&self, all: bool) -> usize {
        self.mark(all, |waiting| waiting.nodes().collect());
        self.resolve_due()
    }

    /// Looks again at what waits for a date: the gateway's own clock has gone on.
    pub(crate) fn resolve_undated(&self) -> usize {
        self.mark(false, |waiting| waiting.undated().collect());
        self.resolve_due()
    }

    fn mark(&self, all: bool, nodes: impl FnOnce(&Index) -> Vec<&str>) {
        let mut core = self.lock();
        let nodes: Vec<_> = nodes(&core.waiting).into_iter().filter_map(|name| NodeName::new(name).ok()).collect();
        for node in nodes {
            let due = core.due.entry(node).or_default();
            *due = Due { from: 0, all: all || due.all };
        }
    }

    /// Goes on with whoever is due until nobody is, or the log takes no more. How many entries
    /// were accepted.
    pub(crate) fn resolve_due(&self) -> usize {
        let mut accepted = 0;
        let nodes: Vec<NodeName> = self.lock().due.keys().cloned().collect();
        for node in nodes {
            loop {
                // Whoever waits for the lock has it between two looks.
                match self.look(&mut self.lock(), &node) {
                    Ok(Looked { accepted: more, go_on }) => {
                        accepted += more;
                        if !go_on {
                            break;
                        }
                    }
                    // It stays due.
                    Err(_) => return accepted,
                }
            }
        }
        accepted
    }

    /// Waits until somebody is due.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    /// Tries the next few entries of a node, oldest first.
    fn look(&self, core: &mut Core, node: &NodeName) -> Result<Looked, AppendError> {
        let mut looked = Looked::default();
        let Some(Due { mut from, all }) = core.due.get(node).copied() else { return Ok(looked) };
        if !core.may_go(node, Log::Spool) {
            // It stays due until what is on its way to the held log has arrived.
            return Ok(looked);
        }
        let placed = core.registry.knows(node.as_str());
        for _ in 0..LOOKS_MAX {
            let next = core.waiting.of(node, from).find(|(index, it)| match it.reason {
                Reason::Undated | Reason::BehindUndated => core.waiting.blocking(node, it.ring) == Some(*index),
                Reason::Unplaced => placed,
                Reason::NewerVersion | Reason::UnknownProperty => all,
                reason => reason.resolves_itself(),
            });
            let Some((index, _)) = next else {
                core.due.remove(node);
                return Ok(looked);
            };
            from = index + 1;
            if matches!(self.try_again(core, node, index)?, Tried::Accepted) {
                looked.accepted += 1;
            }
        }
        core.due.insert(node.clone(), Due { from, all });
        looked.go_on = true;
        Ok(looked)
    }

    fn try_again(&self, core: &mut Core, node: &NodeName, index: u64) -> Result<Tried, AppendError> {
        let (Some(waiting), Some(state)) = (self.read_held(index), core.nodes.get(node).cloned()) else {
            return Ok(Tried::Gone);
        };
        let still = Ok(Tried::Still(waiting.reason));
        let Ok(report) = Report::decode(&waiting.payload) else { return still };
        let Ok(records) = report.records().collect::<Result<Vec<Record>, _>>() else { return still };
        let skip = waiting.from.saturating_sub(report.envelope.first) as usize;
        let Some(news) = records.get(skip..) else { return still };
        let origin = match &waiting.window {
            _ if waiting.dates.len() == news.len() => Origin::Fixed(index, &waiting.dates),
            _ if waiting.reason.blocks() => Origin::InTurn(index),
            Some(window) => Origin::Late(index, window.before()),
            None => return still,
        };
        let mut next = Node::clone(&state);
        let case = Case {
            registry: &core.registry,
            boards: &core.boards,
            node,
            envelope: report.envelope,
            first: waiting.from,
            records: news,
            origin,
            now_ms: waiting.arrived_ms.max(self.clock.utc().ms),
        };
        let accepted = match case.decide(&mut next) {
            Decision::Accept(accepted) => accepted,
            Decision::Hold(reason, _) => return Ok(Tried::Still(reason)),
        };
        let appending = Appending { state: next.into(), held: Some(index), with_utc: false, reply: Reply::nobody() };
        self.append(core, node, &Entry::Accepted(accepted), appending)?;
        // Only now: a checkpoint that the append itself writes stands before the entry.
        core.resolving.insert(index);
        core.waiting.remove(index);
        Ok(Tried::Accepted)
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

    /// Tries one entry again now, by a person's wish, whatever it waits for.
    ///
    /// # Errors
    /// Why it still waits.
    pub fn replay_held(&self, index: u64) -> Result<(), DecisionError> {
        let mut core = self.lock();
        let node = named(&core.waiting, index)?;
        let reason = core.waiting.get(index).map_or(Reason::Poison, |it| it.reason);
        // Its name, or its instant, belongs to another record.
        if matches!(reason, Reason::OtherContent | Reason::Clash) {
            return Err(DecisionError::Waits(reason));
        }
        if !core.may_go(&node, Log::Spool) {
            return Err(DecisionError::Busy);
        }
        match self.try_again(&mut core, &node, index)? {
            Tried::Accepted => Ok(()),
            Tried::Still(reason) => Err(DecisionError::Waits(reason)),
            Tried::Gone => Err(DecisionError::Unknown(index)),
        }
    }

    /// Takes a person's word for when the boot began whose records wait under `index`, and dates
    /// by it. How many entries were accepted at once; what was said is kept in the held log.
    ///
    /// # Errors
    /// When it does not wait for a date, or the instant cannot be.
    pub fn date_held(&self, index: u64, began_ms: i64, within_ms: u32, by: String) -> Result<usize, DecisionError> {
        let now = self.clock.utc();
        let mut core = self.lock();
        let node = named(&core.waiting, index)?;
        let waiting = self.read_held(index).ok_or(DecisionError::Unknown(index))?;
        if !waiting.reason.blocks() {
            return Err(DecisionError::Waits(waiting.reason));
        }
        if !core.may_go(&node, Log::Spool) {
            return Err(DecisionError::Busy);
        }
        let boot = Report::decode(&waiting.payload).map_err(|_| DecisionError::Unknown(index))?.envelope.boot;
        let drift_ppm = telemetry::limits::DRIFT_PPM_DEFAULT;
        let anchor = Anchor { boot, mono_ms: 0, utc_ms: began_ms, error_ms: within_ms, drift_ppm };
        if !now.known_good || !dating::believable(&anchor, now.ms) {
            return Err(DecisionError::Instant);
        }
        let state = core.nodes.get(&node).ok_or(DecisionError::Unknown(index))?;
        let mut state = Node::clone(state);
        state.ring_mut(waiting.ring).ok_or(DecisionError::Unknown(index))?.anchor(anchor);
        let code = state.ring(waiting.ring).map(|ring| Code::of(node.as_str(), &state, ring, 0, false, false));
        let code = code.ok_or(DecisionError::Unknown(index))?;
        tracing::info!(%node, index, began_ms, within_ms, by, "a person said when a boot began");
        let said = cbor(&HeldEntry::Decided { index, began_ms, within_ms, by, at_ms: now.ms });
        self.held.append_then(&said, &mut || core.held_state().encode(), Box::new(|_| {}))?;
        let entry = Entry::Window(cbor(&code));
        let appending = Appending { state: state.into(), held: None, with_utc: false, reply: Reply::nobody() };
        self.append(&mut core, &node, &entry, appending)?;
        let before = core.waiting.len();
        self.look_again(&mut core, &node);
        Ok(before - core.waiting.len())
    }

    /// Drops what waits, by a person's decision.
    ///
    /// # Errors
    /// When it is not there, or the log does not take the decision.
    pub fn drop_held(&self, index: u64, by: String) -> Result<(), DecisionError> {
        let mut core = self.lock();
        let node = named(&core.waiting, index)?;
        self.settle(&mut core, index, false, by)?;
        core.waiting.remove(index);
        // What waited behind it may go on.
        self.look_again(&mut core, &node);
        Ok(())
    }

    /// Marks a held entry as dealt with.
    pub(super) fn settle(&self, core: &mut Core, index: u64, accepted: bool, by: String) -> Result<(), AppendError> {
        let entry = HeldEntry::Settled { index, accepted, by, at_ms: self.clock.utc().ms };
        let myself = self.myself.clone();
        let done = Box::new(move |result: Result<u64, _>| {
            let (Some(acceptor), Ok(mark)) = (myself.upgrade(), result) else { return };
            let mut core = acceptor.lock();
            core.resolved.remove(&index);
            core.waiting_durable.remove(index);
            core.settled = core.settled.max(mark + 1);
        });
        self.held.append_then(&cbor(&entry), &mut || core.held_state().encode(), done).map(drop)
    }

    /// Lets go of what nobody needs any more in the held log.
    pub(crate) fn let_go(&self) {
        let keep = {
            let core = self.lock();
            core.waiting_durable.oldest().unwrap_or(core.settled).min(core.settled)
        };
        let consumer = match self.held.consumer(HELD_CONSUMER) {
            Ok(consumer) if consumer.position() < keep => consumer,
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "open the held log's cursor"),
        };
        if let Err(error) = consumer.commit_and_sync(keep) {
            tracing::warn!(%error, "let go of settled entries");
        }
    }
}

fn named(waiting: &Index, index: u64) -> Result<NodeName, DecisionError> {
    let node = waiting.get(index).and_then(|it| NodeName::new(&it.node).ok());
    node.ok_or(DecisionError::Unknown(index))
}
