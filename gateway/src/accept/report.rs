//! A report's way from arrival to one of the two logs.

use std::sync::Arc;

use metrics::counter;
use telemetry::Malformed;
use telemetry::NodeName;
use telemetry::limits::RECORD_BYTES_MAX;
use telemetry::record::Record;
use telemetry::report::{self, Report};

use super::decide::{Case, Decision, Origin};
use super::held::Reason;
use super::waiting::Holding;
use super::window::{Node, Position};
use super::{Acceptor, Appending, Core, Log};
use crate::custody::{Arrival, Reply, Verdict};
use crate::entry::Entry;

impl Acceptor {
    /// Takes a report in; gives the reply back when it must wait for the other log.
    pub(super) fn report(&self, core: &mut Core, arrival: &Arrival, reply: Reply) -> Option<Reply> {
        let done = |reply: Reply| {
            reply.give(Verdict::Done);
            None
        };
        let report = match Report::decode(&arrival.payload) {
            Ok(report) => report,
            Err(error) => {
                counter!("tianyu_reports_malformed_total").increment(1);
                tracing::warn!(node = %arrival.node, %error, "a report whose envelope cannot be read");
                return done(reply);
            }
        };
        let now_ms = self.clock.utc().ms;
        let envelope = report.envelope;
        let state = core.nodes.get(&arrival.node).cloned();
        let Some((state, ring)) = state.as_ref().and_then(|state| Some((state, state.ring(envelope.ring)?))) else {
            counter!("tianyu_reports_without_session_total").increment(1);
            return done(reply);
        };
        let overlap = match ring.position(envelope.first, envelope.count) {
            Position::Ahead => {
                // Its predecessors must be dated first; the node sends them when no receipt comes.
                counter!("tianyu_reports_ahead_total").increment(1);
                return done(reply);
            }
            Position::Below => envelope.count,
            Position::New { overlap } => overlap,
        };
        let hold = |core, holding, reply| self.hold(core, arrival, &report, holding, now_ms, reply);
        // All the room at once: records are large, and an iterator that may fail promises none.
        let mut records: Vec<Record> = Vec::with_capacity(envelope.count as usize);
        let decoded = report.records().try_for_each(|record| record.map(|record| records.push(record)));
        let (records, digests) = match decoded {
            Ok(()) => {
                // What was decoded can be encoded: a record is shorter than the report it came in.
                let digests: Option<Vec<u32>> = records.iter().map(|r| record_digest(r, envelope.boot)).collect();
                (records, digests?)
            }
            Err(_) if overlap == envelope.count => return self.again(core, &arrival.node, state, reply),
            Err(error) => {
                let reason = match error {
                    Malformed::Newer(_) => Reason::NewerVersion,
                    _ => Reason::Poison,
                };
                let digests = vec![report::digest(&arrival.payload); (envelope.count - overlap) as usize];
                return hold(core, Holding { reason, overlap, digests: &digests, dates: Vec::new() }, reply);
            }
        };
        // A record that its node can no longer read is the same one all the same.
        let clashing = (envelope.first..)
            .zip(records.iter().zip(&digests))
            .take(overlap as usize)
            .any(|(seq, (record, digest))| *record != Record::Gone && ring.digest(seq) != Some(*digest));
        if clashing {
            if !core.may_go(&arrival.node, Log::Held) {
                return Some(reply);
            }
            counter!("tianyu_other_content_total").increment(1);
            tracing::error!(node = %arrival.node, ring = envelope.ring, first = envelope.first, "records came again with other content; is this name on two boards?");
            core.seen.entry(arrival.node.clone()).or_default().other_content += 1;
            let (reason, overlap) = (Reason::OtherContent, envelope.count);
            return hold(core, Holding { reason, overlap, digests: &[], dates: Vec::new() }, reply);
        }
        if overlap == envelope.count {
            core.seen.entry(arrival.node.clone()).or_default().duplicates += 1;
            return self.again(core, &arrival.node, state, reply);
        }
        let (fresh, news) = (digests.get(overlap as usize..)?, records.get(overlap as usize..)?);
        if core.waiting.blocking(&arrival.node, envelope.ring).is_some() {
            let reason = Reason::BehindUndated;
            return hold(core, Holding { reason, overlap, digests: fresh, dates: Vec::new() }, reply);
        }
        let mut next = Node::clone(state);
        let case = Case {
            registry: &core.registry,
            boards: &core.boards,
            node: &arrival.node,
            envelope,
            first: envelope.first + overlap,
            records: news,
            origin: Origin::Arrived(fresh),
            now_ms,
        };
        match case.decide(&mut next) {
            Decision::Accept(_) if !core.may_go(&arrival.node, Log::Spool) => Some(reply),
            Decision::Accept(accepted) => {
                let entry = Entry::Accepted(accepted);
                let appending = Appending { state: next.into(), held: None, with_utc: false, reply };
                // A refusal has been said through the reply.
                if self.append(core, &arrival.node, &entry, appending).is_ok()
                    && news.iter().any(|r| matches!(r, Record::Description(_)))
                {
                    self.look_again(core, &arrival.node);
                }
                None
            }
            Decision::Hold(reason, dates) => hold(core, Holding { reason, overlap, digests: fresh, dates }, reply),
        }
    }

    /// What is durable already is receipted again.
    fn again(&self, core: &mut Core, node: &NodeName, state: &Arc<Node>, reply: Reply) -> Option<Reply> {
        counter!("tianyu_reports_duplicate_total").increment(1);
        let durable = core.durable.get(node).cloned();
        let key = core.key(node);
        if let (Some(durable), Some(session)) = (durable, state.session)
            && let Some(ring) = durable.ring(session.ring)
        {
            self.send_receipt(node, &key, session.nonce, ring, false);
        }
        reply.give(Verdict::Done);
        None
    }
}

fn record_digest(record: &Record, boot: u16) -> Option<u32> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let length = record.encode(boot, &mut bytes).ok()?;
    Some(report::digest(&bytes[..length]))
}
