//! What cannot yet be decoded, placed or dated: kept as received, durable, until what is missing
//! arrives or a person decides. The log behind it is the spool's kind; here is what it holds and
//! the index of what still waits.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use telemetry::NodeName;

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

    /// Whether later records of the ring must wait behind it.
    pub const fn blocks(self) -> bool {
        matches!(self, Self::Undated | Self::BehindUndated)
    }
}

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
    pub dates: Vec<(i64, u64)>,
    /// The report.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    pub payload: Vec<u8>,
    /// The window after it.
    #[n(8)]
    pub(crate) window: Option<super::window::Code>,
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

/// What waits, by index in the held log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<u64, Summary>);

impl Index {
    pub(crate) fn apply(&mut self, index: u64, entry: &HeldEntry, bytes: u64) {
        match entry {
            HeldEntry::Waiting(w) => {
                let summary = Summary {
                    node: w.node.clone(),
                    ring: w.ring,
                    from: w.from,
                    count: w.count,
                    bytes,
                    arrived_ms: w.arrived_ms,
                    reason: w.reason,
                };
                self.0.insert(index, summary);
            }
            HeldEntry::Settled { index, .. } => drop(self.0.remove(index)),
        }
    }

    /// Everything that waits, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Summary)> {
        self.0.iter().map(|(index, summary)| (*index, summary))
    }

    /// One entry.
    pub fn get(&self, index: u64) -> Option<&Summary> {
        self.0.get(&index)
    }

    pub(crate) fn remove(&mut self, index: u64) {
        self.0.remove(&index);
    }

    /// Bytes that wait for one node.
    pub fn bytes_of(&self, node: &NodeName) -> u64 {
        self.0.values().filter(|s| s.node == node.as_str()).map(|s| s.bytes).sum()
    }

    /// Whether records of this ring wait that later ones must not overtake.
    pub fn blocks(&self, node: &NodeName, ring: u32) -> bool {
        self.0.values().any(|s| s.ring == ring && s.reason.blocks() && s.node == node.as_str())
    }

    /// The first index that must still be kept.
    pub fn oldest(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let all: Vec<(u64, &Summary)> = self.iter().collect();
        // A vector takes whatever is written to it.
        minicbor::to_vec(all).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        minicbor::decode::<Vec<(u64, Summary)>>(bytes).ok().map(|all| Self(all.into_iter().collect()))
    }
}
