//! What the spool holds: records as accepted, with the decisions that acceptance froze: date,
//! place and quality. A sink needs nothing else, so replaying an entry gives the same rows.

use minicbor::{Decode, Encode};
use telemetry::quality::{Flag, MissingReason, Tests};
use telemetry::{Property, RecordName};

/// The version this program writes. Older ones stay readable; newer ones are refused whole.
pub const VERSION: u8 = 1;
/// Room that a report of a few rounds takes, so that its buffer need not grow.
const ENTRY_BYTES_USUAL: usize = 1024;

/// One spool entry.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Entry {
    /// Records of one report.
    #[n(0)]
    Accepted(#[n(0)] Accepted),
    /// A window's state after something that stored no record: a session opened or became
    /// ready, a receipt moved past what the node no longer holds or what was held.
    #[n(1)]
    Window(#[n(0)] Vec<u8>),
}

/// Records of one report that were accepted together, in order of seq.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Accepted {
    /// Node name.
    #[n(0)]
    pub node: String,
    /// The ring the records are named in.
    #[n(1)]
    pub ring: u32,
    /// The boot in whose clock `t_ms` is.
    #[n(2)]
    pub boot: u16,
    /// When the report arrived: UTC in milliseconds by the gateway's clock.
    #[n(3)]
    pub arrived_ms: i64,
    /// The places that readings refer to by index.
    #[n(4)]
    pub places: Vec<Place>,
    /// The records.
    #[n(5)]
    pub records: Vec<Dated>,
    /// The held entry these records were resolved from, if they waited there.
    #[n(6)]
    pub held: Option<u64>,
    /// The window after this entry, as `accept::window` encodes it.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    pub window: Vec<u8>,
}

/// Where a reading belongs, as the registry said for its phenomenon time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Place {
    /// Division code (GB/T 2260).
    #[n(0)]
    pub adcode: u32,
    /// Site name.
    #[n(1)]
    pub site: String,
    /// Unit: pond, cage, greenhouse.
    #[n(2)]
    pub unit: String,
    /// Position or depth within the unit; empty where there is only one.
    #[n(3)]
    pub point: String,
}

/// A record with its date.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Dated {
    /// Its name, with the entry's ring.
    #[n(0)]
    pub seq: u32,
    /// Phenomenon time: UTC in milliseconds.
    #[n(1)]
    pub date_ms: i64,
    /// Bound of the date's error, in milliseconds.
    #[n(2)]
    pub error_ms: u64,
    /// Milliseconds since boot, as the node said.
    #[n(3)]
    pub t_ms: u64,
    /// The content.
    #[n(4)]
    pub content: Content,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Content {
    /// Readings of one sampling round.
    #[n(0)]
    Round {
        /// Config number.
        #[n(0)]
        config: u16,
        /// The readings.
        #[n(1)]
        readings: Vec<Observation>,
    },
    /// An event; numbers as in [`telemetry::record::Event`]. `place` is the node's own.
    #[n(1)]
    Event {
        /// Code by number.
        #[n(0)]
        code: u8,
        /// Subject.
        #[n(1)]
        subject: u8,
        /// Value.
        #[n(2)]
        value: i64,
        /// Detail.
        #[n(3)]
        detail: i64,
        /// Index into the entry's places, of the subject's unit or else the node's home.
        #[n(4)]
        place: Option<u8>,
    },
    /// A description, as the node encoded it ([`telemetry::Record::encode`]).
    #[n(2)]
    Description(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// Records gone for good: first seq, count, cause.
    #[n(3)]
    Loss(#[n(0)] u32, #[n(1)] u32, #[n(2)] u8),
    /// The node could no longer read this one.
    #[n(4)]
    Gone,
}

/// One placed and judged reading.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
#[cbor(array)]
pub struct Observation {
    /// Channel of the node.
    #[n(0)]
    pub channel: u8,
    /// Property id.
    #[n(1)]
    pub property: u8,
    /// Index into the entry's places.
    #[n(2)]
    pub place: u8,
    /// QARTOD flag.
    #[n(3)]
    pub flag: u8,
    /// Value in the property's integer; 0 where missing.
    #[n(4)]
    pub value: i32,
    /// Tests fired, node's and gateway's bits.
    #[n(5)]
    pub tests: u16,
    /// Why it is missing.
    #[n(6)]
    pub reason: u8,
    /// Calibration number.
    #[n(7)]
    pub calibration: u16,
    /// Raw value, where it differs.
    #[n(8)]
    pub raw: Option<i32>,
}

impl Observation {
    /// The property; only known ones are ever placed.
    pub fn property(&self) -> Option<Property> {
        Property::from_id(self.property)
    }

    /// The flag; what no version ever wrote reads as not evaluated.
    pub fn flag(&self) -> Flag {
        Flag::from_id(self.flag).unwrap_or_default()
    }

    /// The tests that fired.
    pub fn tests(&self) -> Tests {
        Tests::from_bits(self.tests)
    }

    /// The value in the property's unit; `None` where missing.
    pub fn value(&self) -> Option<f64> {
        (self.flag() != Flag::Missing).then(|| self.property().map(|p| p.value(self.value))).flatten()
    }

    /// The raw value in the property's unit, where it differs.
    pub fn raw(&self) -> Option<f64> {
        self.raw.and_then(|raw| self.property().map(|p| p.value(raw)))
    }

    /// Why it is missing.
    pub fn reason(&self) -> Option<MissingReason> {
        (self.flag() == Flag::Missing).then(|| MissingReason::from_id(self.reason))
    }

    /// The `<p>_tests` field: tests in the low 16 bits, missing reason in the next 8.
    pub fn tests_field(&self) -> i64 {
        i64::from(self.tests) | i64::from(self.reason().map_or(0, MissingReason::id)) << 16
    }
}

impl Accepted {
    /// The name of one of its records.
    pub fn name(&self, record: &Dated) -> RecordName {
        RecordName { ring: self.ring, seq: record.seq }
    }
}

/// CBOR of anything that is kept.
pub(crate) fn cbor(of: &impl Encode<()>) -> Vec<u8> {
    append(of, Vec::new())
}

fn append(of: &impl Encode<()>, mut bytes: Vec<u8>) -> Vec<u8> {
    match minicbor::encode(of, &mut bytes) {
        Ok(()) => bytes,
        Err(error) => match error.into_write() {
            // A vector takes whatever is written to it, and nothing that is kept refuses to be encoded.
            Some(never) => match never {},
            None => bytes,
        },
    }
}

/// Why bytes are no entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Written by a newer program.
    #[error("the entry is of version {0}; this program reads up to {VERSION}: use the newer program")]
    Newer(u8),
    /// Not an entry.
    #[error("the entry is malformed: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// Not even a version.
    #[error("the entry is empty")]
    Empty,
}

impl Entry {
    /// Encodes it: version, then CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES_USUAL);
        bytes.push(VERSION);
        append(self, bytes)
    }

    /// Decodes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        match bytes.split_first() {
            None => Err(EntryError::Empty),
            Some((&version, _)) if version == 0 || version > VERSION => Err(EntryError::Newer(version)),
            Some((_, body)) => Ok(minicbor::decode(body)?),
        }
    }
}
