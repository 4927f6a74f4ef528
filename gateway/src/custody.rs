//! The seam between transports and acceptance: what arrived goes up with a reply to be given
//! once it is durable; receipts and commands go down to whoever is connected.
//!
//! It owns no policy: what is stored, held or refused is decided behind [`Accept`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use telemetry::NodeName;
use telemetry::topic::{Down, Up};
use tokio::sync::Notify;

/// Messages that wait for one slow connection; beyond this they are dropped and counted. The
/// newest receipt always has a place of its own.
const DOWN_QUEUE_MAX: usize = 16;

/// What arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The node: as it logged in, or as the broker's topic says.
    pub node: NodeName,
    /// On which of its topics.
    pub channel: Up,
    /// The message.
    pub payload: Bytes,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Durable, or deliberately not stored: acknowledge it.
    Done,
    /// It cannot be taken now: do not acknowledge it, close, and let it come again.
    Refused,
}

/// What a log-in is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// It is that node.
    Welcome,
    /// Unknown node, wrong token or revoked; which of them is not told to the client.
    Denied,
}

/// Who takes arrivals in.
pub trait Accept: Send + Sync + 'static {
    /// Takes an arrival without blocking; `reply` is given when its fate is known.
    fn arrive(&self, arrival: Arrival, reply: Reply);
    /// Checks a node's token.
    fn login(&self, node: &NodeName, token: &[u8]) -> Login;
    /// A node's connection came or went.
    fn connection(&self, node: &NodeName, connected: bool);
}

/// The duty to tell an arrival's fate. Dropped without a word it means [`Verdict::Refused`].
pub struct Reply(Option<Box<dyn FnOnce(Verdict) + Send>>);

impl Reply {
    /// Calls `tell` with the verdict.
    pub fn new(tell: impl FnOnce(Verdict) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// For arrivals that nobody acknowledges (QoS 0).
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Tells it.
    pub fn give(mut self, verdict: Verdict) {
        if let Some(tell) = self.0.take() {
            tell(verdict);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(Verdict::Refused);
        }
    }
}

/// Why a connection is to be closed by the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The same node has connected anew.
    TakenOver,
    /// Its credentials were revoked, or a person asked for it.
    Administrative,
}

#[derive(Default)]
struct Waiting {
    /// The receipt that answers a session's opening: it tells UTC, and no later one does.
    answer: Option<Bytes>,
    receipt: Option<Bytes>,
    others: VecDeque<(Down, Bytes)>,
    closing: Option<Closing>,
}

/// One connection's mailbox.
pub struct Link {
    waiting: Mutex<Waiting>,
    /// Told whenever there is something new.
    pub notify: Notify,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits to be sent, and whether to close.
    pub fn take(&self) -> (Vec<(Down, Bytes)>, Option<Closing>) {
        let mut waiting = self.lock();
        let receipts = [waiting.answer.take(), waiting.receipt.take()].into_iter().flatten();
        let receipts = receipts.map(|bytes| (Down::Receipt, bytes));
        let all = receipts.chain(std::mem::take(&mut waiting.others)).collect();
        (all, waiting.closing)
    }
}

/// What became of a message to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Handed to its connection.
    Queued,
    /// The node is not connected.
    NotConnected,
    /// Its connection does not keep up.
    Full,
}

/// Where messages to a node can be left.
pub trait Outlet: Send + Sync {
    /// Hands over a message; never blocks.
    fn send(&self, node: &NodeName, channel: Down, message: Bytes) -> Sent;
}

/// The ways down to nodes: the built-in endpoint's connections, and a broker behind them.
#[derive(Clone, Default)]
pub struct Downlinks(Arc<Ways>);

#[derive(Default)]
struct Ways {
    links: Mutex<HashMap<NodeName, Arc<Link>>>,
    broker: std::sync::OnceLock<Box<dyn Outlet>>,
}

impl Downlinks {
    /// No ways yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn links(&self) -> MutexGuard<'_, HashMap<NodeName, Arc<Link>>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes that are not connected here are reached through `outlet`. Only the first call counts.
    pub fn behind(&self, outlet: Box<dyn Outlet>) -> bool {
        self.0.broker.set(outlet).is_ok()
    }

    /// Registers a connection; an older one of the same node is told to close.
    pub fn connect(&self, node: &NodeName) -> Arc<Link> {
        let link = Arc::new(Link { waiting: Mutex::default(), notify: Notify::new() });
        let old = self.links().insert(node.clone(), Arc::clone(&link));
        if let Some(old) = old {
            old.lock().closing = Some(Closing::TakenOver);
            old.notify.notify_one();
        }
        link
    }

    /// Forgets a connection, unless a newer one has taken its place. Whether it was the current one.
    pub fn disconnect(&self, node: &NodeName, link: &Arc<Link>) -> bool {
        let mut links = self.links();
        let current = links.get(node).is_some_and(|l| Arc::ptr_eq(l, link));
        if current {
            links.remove(node);
        }
        current
    }

    /// Closes a node's connection. Whether it had one.
    pub fn close(&self, node: &NodeName) -> bool {
        let link = self.links().get(node).cloned();
        if let Some(link) = &link {
            link.lock().closing = Some(Closing::Administrative);
            link.notify.notify_one();
        }
        link.is_some()
    }

    /// Whether the node is connected to the built-in endpoint.
    pub fn connected(&self, node: &NodeName) -> bool {
        self.links().contains_key(node)
    }

    /// Sends the receipt that answers a session's opening, before any other; never blocks. Only
    /// the answer to a newer session takes its place.
    pub fn answer(&self, node: &NodeName, message: Bytes) -> Sent {
        self.leave(node, Down::Receipt, message, true)
    }

    /// Sends a message to a node; never blocks. A newer receipt takes the place of an older one
    /// that still waits: receipts are cumulative.
    pub fn send(&self, node: &NodeName, channel: Down, message: Bytes) -> Sent {
        self.leave(node, channel, message, false)
    }

    fn leave(&self, node: &NodeName, channel: Down, message: Bytes, answer: bool) -> Sent {
        let Some(link) = self.links().get(node).cloned() else {
            return self.0.broker.get().map_or(Sent::NotConnected, |broker| broker.send(node, channel, message));
        };
        {
            let mut waiting = link.lock();
            match channel {
                Down::Receipt if answer => (waiting.answer, waiting.receipt) = (Some(message), None),
                Down::Receipt => waiting.receipt = Some(message),
                _ if waiting.others.len() >= DOWN_QUEUE_MAX => return Sent::Full,
                _ => waiting.others.push_back((channel, message)),
            }
        }
        link.notify.notify_one();
        Sent::Queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_that_tells_utc_is_neither_replaced_nor_overtaken_by_a_later_receipt() {
        let downlinks = Downlinks::new();
        let node = NodeName::new("pond-7").unwrap();
        let link = downlinks.connect(&node);
        downlinks.send(&node, Down::Command, Bytes::from_static(b"command"));
        downlinks.send(&node, Down::Receipt, Bytes::from_static(b"of the session before"));
        downlinks.answer(&node, Bytes::from_static(b"answer"));
        for later in ["4", "7"] {
            downlinks.send(&node, Down::Receipt, Bytes::from(later));
        }
        let sent: Vec<_> = link.take().0.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(sent, ["answer", "7", "command"]);
    }
}
