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
use super::{Acceptor, Appending, Core};
use crate::custody::{Arrival, Reply, Verdict};
use crate::entry::Entry;

impl Acceptor {
    pub(super) fn report(&self, arrival: &Arrival, reply: Reply) {
        let report = match Report::decode(&arrival.payload) {
            Ok(report) => report,
            Err(error) => {
                counter!("tianyu_reports_malformed_total").increment(1);
                tracing::warn!(node = %arrival.node, %error, "a report whose envelope cannot be read");
                return reply.give(Verdict::Done);
            }
        };
        let now_ms = self.clock.utc().ms;
        let mut core = self.lock();
        let seen = core.seen.entry(arrival.node.clone()).or_default();
        seen.reports += 1;
        seen.last_report_ms = now_ms;
        let envelope = report.envelope;
        let state = core.nodes.get(&arrival.node).cloned();
        let Some((state, ring)) = state.as_ref().and_then(|state| Some((state, state.ring(envelope.ring)?))) else {
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
        let hold = |core: &mut Core, holding, reply| self.hold(core, arrival, &report, holding, now_ms, reply);
        let decoded: Result<Vec<Record>, Malformed> = report.records().collect();
        let (records, digests) = match decoded {
            Ok(records) => {
                let digests: Option<Vec<u32>> = records.iter().map(|r| record_digest(r, envelope.boot)).collect();
                (records, digests.unwrap_or_default())
            }
            Err(_) if overlap == envelope.count => return self.again(&mut core, &arrival.node, state, reply),
            Err(error) => {
                let reason = match error {
                    Malformed::Newer(_) => Reason::NewerVersion,
                    _ => Reason::Poison,
                };
                let digests = vec![report::digest(&arrival.payload); (envelope.count - overlap) as usize];
                return hold(&mut core, Holding { reason, overlap, digests: &digests, dates: Vec::new() }, reply);
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
            let (reason, overlap) = (Reason::OtherContent, envelope.count);
            return hold(&mut core, Holding { reason, overlap, digests: &[], dates: Vec::new() }, reply);
        }
        if overlap == envelope.count {
            core.seen.entry(arrival.node.clone()).or_default().duplicates += 1;
            return self.again(&mut core, &arrival.node, state, reply);
        }
        let (Some(fresh), Some(news)) = (digests.get(overlap as usize..), records.get(overlap as usize..)) else {
            return;
        };
        if core.waiting.blocking(&arrival.node, envelope.ring).is_some() {
            let reason = Reason::BehindUndated;
            return hold(&mut core, Holding { reason, overlap, digests: fresh, dates: Vec::new() }, reply);
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
            Decision::Accept(accepted) => {
                let entry = Entry::Accepted(accepted);
                let appending = Appending { state: next.into(), held: None, with_utc: false, reply };
                // A refusal has been said through the reply.
                if self.append(&mut core, &arrival.node, &entry, appending).is_ok()
                    && news.iter().any(|r| matches!(r, Record::Description(_)))
                {
                    self.look_again(&mut core, &arrival.node);
                }
            }
            Decision::Hold(reason, dates) => {
                hold(&mut core, Holding { reason, overlap, digests: fresh, dates }, reply);
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
}

fn record_digest(record: &Record, boot: u16) -> Option<u32> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let length = record.encode(boot, &mut bytes).ok()?;
    Some(report::digest(&bytes[..length]))
}
