//! What cannot yet be decoded, placed or dated: kept as received, durable, until what is missing
//! arrives or a person decides. The log behind it is the spool's kind; here is what it holds and
//! the index of what still waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use minicbor::{Decode, Encode};
use telemetry::NodeName;

use crate::entry::cbor;

/// Why something waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Reason {
    /// The records behind a good envelope cannot be read.
    #[n(0)]
    Poison,
    /// It is of a version this program does not know.
    #[n(1)]
    NewerVersion,
    /// No description of its config has come yet.
    #[n(2)]
    NoDescription,
    /// A channel measures a property this program does not know.
    #[n(3)]
    UnknownProperty,
    /// The registry does not say where the node or channel stood then.
    #[n(4)]
    Unplaced,
    /// Two channels would be the same series: give them points.
    #[n(5)]
    SharedSeries,
    /// When it was taken cannot be told yet.
    #[n(6)]
    Undated,
    /// Records of the same ring before it wait for a date.
    #[n(7)]
    BehindUndated,
    /// A record of this name with other content is there already.
    #[n(8)]
    OtherContent,
    /// Another ring of the same node has a record of the same instant.
    #[n(9)]
    Clash,
}

impl Reason {
    /// As told to people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Poison => "its records cannot be read",
            Self::NewerVersion => "its version is newer than this program",
            Self::NoDescription => "the description of its config has not come yet",
            Self::UnknownProperty => "it measures a property this program does not know",
            Self::Unplaced => "sites.toml does not say where the node or channel stood then",
            Self::SharedSeries => "two channels would share a series: give them points in sites.toml",
            Self::Undated => "when it was taken cannot be told yet",
            Self::BehindUndated => "records before it wait for a date",
            Self::OtherContent => "a record of this name with other content is there already",
            Self::Clash => "another board of this node has a record of the same instant",
        }
    }

    /// Whether what is missing can still arrive by itself.
    pub const fn resolves_itself(self) -> bool {
        !matches!(self, Self::Poison | Self::OtherContent | Self::Clash)
    }

    /// What a person can do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Poison => "keep it for whoever made the node's firmware, or drop it",
            Self::NewerVersion | Self::UnknownProperty => "install a newer tianyu; it looks again when it starts",
            Self::NoDescription => "it comes with the node's next session; a node that is gone for good: drop it",
            Self::Unplaced => "say in sites.toml where the node stood since when; it is looked at again at once",
            Self::SharedSeries => "give the channels points in sites.toml; it is looked at again at once",
            Self::Undated => {
                "it waits for the node's clock; if that never comes, say when its boot began: held resolve"
            }
            Self::BehindUndated => "resolve what waits before it",
            Self::OtherContent => "find out whether two boards have this name; then drop what is wrong",
            Self::Clash => "find out whether two boards have this name; then drop what is wrong",
        }
    }

    /// Whether later records of the ring must wait behind it.
    pub const fn blocks(self) -> bool {
        matches!(self, Self::Undated | Self::BehindUndated)
    }
}

/// Dates that are fixed though their records wait: UTC and error bound in milliseconds, one a record.
pub type Dates = Vec<(i64, u64)>;

/// Something that waits, as received.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Waiting {
    /// Node name.
    #[n(0)]
    pub node: String,
    /// The ring its records are named in.
    #[n(1)]
    pub ring: u32,
    /// First seq that waits; records of the report before it were taken already.
    #[n(2)]
    pub from: u32,
    /// How many records wait.
    #[n(3)]
    pub count: u32,
    /// When it arrived: UTC in milliseconds by the gateway's clock, as good as that was.
    #[n(4)]
    pub arrived_ms: i64,
    /// Why it waits.
    #[n(5)]
    pub reason: Reason,
    /// Dates fixed at arrival, one a record with its error bound; empty where there were none.
    #[n(6)]
    pub dates: Dates,
    /// The report.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    pub payload: Vec<u8>,
    /// The window after it.
    #[n(8)]
    pub(super) window: Option<super::window::Code>,
}

/// One entry of the held log.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum HeldEntry {
    /// Something new waits.
    #[n(0)]
    Waiting(#[n(0)] Box<Waiting>),
    /// It no longer does.
    #[n(1)]
    Settled {
        /// Its index.
        #[n(0)]
        index: u64,
        /// Accepted into the spool, or dropped.
        #[n(1)]
        accepted: bool,
        /// Who dropped it and why; empty when it resolved itself.
        #[n(2)]
        by: String,
        /// When, UTC in milliseconds.
        #[n(3)]
        at_ms: i64,
    },
    /// A person said when a boot began whose clock was never known; kept as evidence.
    #[n(2)]
    Decided {
        /// The entry it was said about.
        #[n(0)]
        index: u64,
        /// When that boot began: UTC in milliseconds.
        #[n(1)]
        began_ms: i64,
        /// How far off that may be, in milliseconds.
        #[n(2)]
        within_ms: u32,
        /// Who said so, and why.
        #[n(3)]
        by: String,
        /// When it was said, UTC in milliseconds.
        #[n(4)]
        at_ms: i64,
    },
}

impl HeldEntry {
    /// Whether it brings a description with it.
    pub(super) fn describes(&self) -> bool {
        matches!(self, Self::Waiting(waiting) if waiting.window.as_ref().is_some_and(super::window::Code::describes))
    }
}

/// What is known of a waiting entry without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Summary {
    /// Node name.
    #[n(0)]
    pub node: String,
    /// Ring.
    #[n(1)]
    pub ring: u32,
    /// First seq.
    #[n(2)]
    pub from: u32,
    /// Records.
    #[n(3)]
    pub count: u32,
    /// Bytes in the log.
    #[n(4)]
    pub bytes: u64,
    /// When it arrived.
    #[n(5)]
    pub arrived_ms: i64,
    /// Why it waits.
    #[n(6)]
    #[serde(serialize_with = "reason_text")]
    pub reason: Reason,
}

fn reason_text<S: serde::Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.text())
}

/// What waits, by index in the held log, and by node: what one node waits for costs no other a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    entries: BTreeMap<u64, Summary>,
    nodes: HashMap<String, OfNode>,
}

/// One node's share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfNode {
    entries: BTreeSet<u64>,
    bytes: u64,
    /// Entries of each ring that later records must not overtake.
    blocking: BTreeMap<u32, BTreeSet<u64>>,
}

impl Index {
    /// Takes in an entry of the log, in its order.
    pub fn apply(&mut self, index: u64, entry: &HeldEntry, bytes: u64) {
        match entry {
            HeldEntry::Waiting(w) => {
                let (node, reason) = (w.node.clone(), w.reason);
                let (ring, from, count, arrived_ms) = (w.ring, w.from, w.count, w.arrived_ms);
                self.insert(index, Summary { node, ring, from, count, bytes, arrived_ms, reason });
            }
            HeldEntry::Settled { index, .. } => self.remove(*index),
            HeldEntry::Decided { .. } => {}
        }
    }

    pub(super) fn insert(&mut self, index: u64, summary: Summary) {
        self.remove(index);
        let node = self.nodes.entry(summary.node.clone()).or_default();
        node.entries.insert(index);
        node.bytes += summary.bytes;
        if summary.reason.blocks() {
            node.blocking.entry(summary.ring).or_default().insert(index);
        }
        self.entries.insert(index, summary);
    }

    pub(super) fn remove(&mut self, index: u64) {
        let Some(summary) = self.entries.remove(&index) else { return };
        let Some(node) = self.nodes.get_mut(&summary.node) else { return };
        node.entries.remove(&index);
        node.bytes = node.bytes.saturating_sub(summary.bytes);
        if summary.reason.blocks()
            && let Some(blocking) = node.blocking.get_mut(&summary.ring)
        {
            blocking.remove(&index);
            if blocking.is_empty() {
                node.blocking.remove(&summary.ring);
            }
        }
        if node.entries.is_empty() {
            self.nodes.remove(&summary.node);
        }
    }

    /// Everything that waits, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Summary)> {
        self.entries.iter().map(|(index, summary)| (*index, summary))
    }

    /// What waits of one node from index `from` on, oldest first.
    pub fn of(&self, node: &NodeName, from: u64) -> impl Iterator<Item = (u64, &Summary)> {
        let all = self.nodes.get(node.as_str()).into_iter().flat_map(move |n| n.entries.range(from..));
        all.filter_map(|index| Some((*index, self.entries.get(index)?)))
    }

    /// Names of the nodes of which something waits.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// One entry.
    pub fn get(&self, index: u64) -> Option<&Summary> {
        self.entries.get(&index)
    }

    /// Bytes and entries that wait of one node.
    pub fn usage_of(&self, node: &str) -> (u64, usize) {
        self.nodes.get(node).map_or((0, 0), |n| (n.bytes, n.entries.len()))
    }

    /// The oldest entry of this ring that later records must not overtake.
    pub fn blocking(&self, node: &NodeName, ring: u32) -> Option<u64> {
        self.nodes.get(node.as_str())?.blocking.get(&ring)?.first().copied()
    }

    /// Names of the nodes of which something waits for a date.
    pub fn undated(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|(_, n)| !n.blocking.is_empty()).map(|(name, _)| name.as_str())
    }

    /// The first index that must still be kept.
    pub fn oldest(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let all: Vec<(u64, &Summary)> = self.iter().collect();
        cbor(&all)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut index = Self::default();
        for (at, summary) in minicbor::decode::<Vec<(u64, Summary)>>(bytes).ok()? {
            index.insert(at, summary);
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(node: &str, ring: u32, reason: Reason) -> HeldEntry {
        HeldEntry::Waiting(Box::new(Waiting {
            node: node.into(),
            ring,
            from: 1,
            count: 2,
            arrived_ms: 3,
            reason,
            dates: Vec::new(),
            payload: vec![0; 10],
            window: None,
        }))
    }

    #[test]
    fn each_node_answers_for_its_own_and_the_checkpoint_brings_it_all_back() {
        let (a, b) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let mut index = Index::default();
        for (at, node, ring, reason) in
            [(1, "a", 7, Reason::Undated), (2, "b", 7, Reason::Poison), (5, "a", 7, Reason::BehindUndated)]
        {
            index.apply(at, &waiting(node, ring, reason), 100);
        }
        assert_eq!((index.usage_of("a"), index.usage_of("b"), index.usage_of("c")), ((200, 2), (100, 1), (0, 0)));
        assert_eq!((index.blocking(&a, 7), index.blocking(&a, 8), index.blocking(&b, 7)), (Some(1), None, None));
        assert!(index.undated().eq(["a"]));
        assert!(index.of(&a, 2).map(|(at, _)| at).eq([5]));
        assert_eq!(Index::decode(&index.encode()), Some(index.clone()));
        // What comes twice, as a replay after a crash may, counts once.
        index.apply(5, &waiting("a", 7, Reason::BehindUndated), 100);
        assert_eq!(index.usage_of("a"), (200, 2));
        for at in [1, 5, 5, 2] {
            index.apply(9, &HeldEntry::Settled { index: at, accepted: true, by: String::new(), at_ms: 0 }, 0);
        }
        assert_eq!(index, Index::default());
    }
}
