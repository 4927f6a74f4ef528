//! The conversation with a node, the gateway's side: sessions, receipts, and the request to open
//! a session anew.

use bytes::Bytes;
use metrics::counter;
use telemetry::NodeName;
use telemetry::limits::CONTROL_BYTES_MAX;
use telemetry::mac::Key;
use telemetry::session::{Command, Nonce, Order, Receipt, Session};
use telemetry::topic::Down;

use super::window::{Code, Node, Ring};
use super::{Acceptor, Appending, Core, Log, dating};
use crate::custody::{Arrival, Reply, Verdict};
use crate::entry::{Entry, cbor};

impl Acceptor {
    /// Takes a session message in; gives the reply back when it must wait for the other log.
    pub(super) fn session(&self, core: &mut Core, arrival: &Arrival, reply: Reply) -> Option<Reply> {
        let session = match Session::decode(&arrival.payload) {
            Ok(session) => session,
            Err(error) => {
                counter!("tianyu_sessions_malformed_total").increment(1);
                tracing::warn!(node = %arrival.node, %error, "session message");
                reply.give(Verdict::Done);
                return None;
            }
        };
        if !core.may_go(&arrival.node, Log::Spool) {
            return Some(reply);
        }
        let now = self.clock.utc();
        let mut state = core.nodes.get(&arrival.node).map_or_else(Node::default, |n| Node::clone(n));
        let (ring, skipped, with_utc) = match &session {
            Session::Open(open) => {
                let opened = state.open(open);
                core.seen.entry(arrival.node.clone()).or_default().told_next = Some(open.next);
                if opened.new_ring {
                    counter!("tianyu_new_rings_total").increment(1);
                    tracing::info!(node = %arrival.node, ring = open.ring, first = open.floor, "a ring not seen before");
                }
                if opened.lost > 0 {
                    counter!("tianyu_records_lost_by_node_total").increment(opened.lost.into());
                    tracing::warn!(node = %arrival.node, ring = open.ring, records = opened.lost, "the node no longer holds records that never came");
                }
                if now.known_good {
                    core.without_utc.remove(&arrival.node);
                } else {
                    core.without_utc.insert(arrival.node.clone());
                }
                (open.ring, opened.new_ring || opened.lost > 0, true)
            }
            Session::Ready(ready) => {
                let known = state.ready(ready, |a| now.known_good && dating::believable(a, now.ms));
                if !known {
                    counter!("tianyu_sessions_stale_total").increment(1);
                    reply.give(Verdict::Done);
                    return None;
                }
                (ready.ring, false, false)
            }
        };
        let of = state.ring(ring)?;
        let code = Code::of(arrival.node.as_str(), &state, of, 0, skipped, false);
        let entry = Entry::Window(cbor(&code));
        let appending = Appending { state: state.into(), held: None, with_utc, reply };
        let result = self.append(core, &arrival.node, &entry, appending);
        if result.is_ok() && !with_utc {
            // Its anchors may date what waited for them.
            self.look_again(core, &arrival.node);
        }
        None
    }

    pub(super) fn send_receipt(&self, node: &NodeName, key: &Key, nonce: Nonce, ring: &Ring, with_utc: bool) {
        let now = self.clock.utc();
        let utc_ms = (with_utc && now.known_good).then_some(now.ms);
        let receipt = Receipt { ring: ring.id, next: ring.next, utc_ms };
        let mut body = [0; CONTROL_BYTES_MAX];
        let Ok(length) = receipt.encode(&mut body) else { return };
        let Some(sealed) = seal(node, key, Down::Receipt, nonce, &body[..length]) else { return };
        // A node that is gone asks again when it is back.
        match with_utc {
            true => self.downlinks.answer(node, sealed),
            false => self.downlinks.send(node, Down::Receipt, sealed),
        };
    }

    /// Asks every node whose session began while the gateway's clock was not known good to open
    /// another, now that it is: until then their new records can wait without a date.
    pub fn offer_utc(&self) {
        let now = self.clock.utc();
        if !now.known_good {
            return;
        }
        let mut core = self.lock();
        let nodes: Vec<NodeName> = core.without_utc.drain().collect();
        for node in nodes {
            let Some(session) = core.nodes.get(&node).and_then(|state| state.session) else { continue };
            let key = core.key(&node);
            // Rises within any session, also across a restart of the gateway; harmless at any time.
            let counter = (now.ms / 100) as u32;
            let command = Command { counter, not_after_ms: u64::MAX, order: Order::Reopen };
            let mut body = [0; CONTROL_BYTES_MAX];
            let Ok(length) = command.encode(&mut body) else { continue };
            let Some(sealed) = seal(&node, &key, Down::Command, session.nonce, &body[..length]) else { continue };
            let sent = self.downlinks.send(&node, Down::Command, sealed);
            tracing::info!(%node, ?sent, "asked to open a session anew: the clock is known now");
        }
    }
}

pub(super) fn seal(node: &NodeName, key: &Key, kind: Down, nonce: Nonce, body: &[u8]) -> Option<Bytes> {
    let mut sealed = [0; CONTROL_BYTES_MAX];
    let length = key.seal(node, kind, nonce, body, &mut sealed).ok()?;
    Some(Bytes::copy_from_slice(&sealed[..length]))
}
