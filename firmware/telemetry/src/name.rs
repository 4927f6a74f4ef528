//! Names: of nodes, and of records.

use crate::limits::NODE_NAME_BYTES_MAX;

/// A node's name: 1–32 of `a–z`, `0–9` and `-`, beginning with a letter or digit. It is a topic
/// level, a user name and a tag, and needs escaping in none of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(heapless::String<NODE_NAME_BYTES_MAX>);

/// Why a text is no node name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node name is 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit")]
pub struct InvalidNodeName;

impl NodeName {
    /// Checks and keeps a name.
    pub fn new(name: &str) -> Result<Self, InvalidNodeName> {
        let fine = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts = name.as_bytes().first().is_some_and(fine);
        if !starts || !name.bytes().all(|b| fine(&b) || b == b'-') {
            return Err(InvalidNodeName);
        }
        heapless::String::try_from(name).map(Self).map_err(|_| InvalidNodeName)
    }

    /// The name of a node that nobody has named yet: `unnamed`.
    pub fn unnamed() -> Self {
        // The room is that of the longest name.
        Self(heapless::String::try_from("unnamed").unwrap_or_default())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for NodeName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record's name within its node: immutable, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordName {
    /// Random, made when the node's ring was formatted.
    pub ring: u32,
    /// Counts records in that ring; never restarts.
    pub seq: u32,
}
