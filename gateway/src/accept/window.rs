//! What a gateway knows of a node: where each of its rings stands, its session, its anchors and
//! descriptions. Pure state with an encoding; decisions about a report are made here, effects
//! elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use minicbor::{Decode, Encode};
use telemetry::limits::{ANCHORS_MAX, UNRECEIPTED_RECORDS_MAX};
use telemetry::record::{Description, Record};
use telemetry::session::{Anchor, Nonce, Open, Ready};

use super::dating::{self, Before};
use super::judge::Spreads;

/// Rings remembered for each node: boards that were swapped back and forth, or erased.
const RINGS_MAX: usize = 16;
/// Anchors kept of one boot: the nearest dates a record, and each session adds one.
const ANCHORS_OF_BOOT_MAX: usize = 4;
/// Anchors kept of each ring: twice as many as a node tells at once.
const ANCHORS_KEPT_MAX: usize = 2 * ANCHORS_MAX;
/// Descriptions remembered for each ring.
const DESCRIPTIONS_MAX: usize = 8;

/// A node's session, as opened last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionState {
    pub(crate) nonce: Nonce,
    pub(crate) ring: u32,
    pub(crate) boot: u16,
}

/// What is remembered of a record just below the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recent {
    /// Digest of its content: an honest duplicate has the same. None while a log is replayed and
    /// the other one has not told of it yet.
    pub(crate) digest: Option<u32>,
    /// Its date; 0 where it waits for one, or was dated before this program started.
    pub(crate) date_ms: i64,
}

/// Where one ring stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ring {
    pub(crate) id: u32,
    /// The first seq the gateway does not have.
    pub(crate) next: u32,
    /// Records that are gone for good: the node no longer held them, or could not read them.
    pub(crate) lost: u64,
    pub(crate) before: Before,
    pub(crate) anchors: Vec<Anchor>,
    /// The records just below `next`, the newest last.
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) descriptions: BTreeMap<u16, Arc<Description>>,
    /// What each channel's values were like lately; gone with the program.
    pub(crate) spreads: Spreads,
}

/// A node's rings, the newest last, and its session.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) session: Option<SessionState>,
    /// Shared, so that a decision copies only the ring it changes.
    pub(crate) rings: Vec<Arc<Ring>>,
}

/// How a report stands to its ring's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Its first record is beyond the window: something before it is missing.
    Ahead,
    /// All of it lies below the window.
    Below,
    /// This many of its first records lie below the window; the rest is new.
    New {
        /// Records that are not new.
        overlap: u32,
    },
}

impl Ring {
    pub(crate) fn position(&self, first: u32, count: u32) -> Position {
        if first > self.next {
            return Position::Ahead;
        }
        let overlap = self.next - first;
        if overlap >= count { Position::Below } else { Position::New { overlap } }
    }

    /// The digest of a record below the window, if it is still remembered.
    pub(crate) fn digest(&self, seq: u32) -> Option<u32> {
        let back = self.next.checked_sub(seq)?;
        let at = self.recent.len().checked_sub(back as usize)?;
        self.recent.get(at)?.digest
    }

    /// Whether one of the remembered records has this date.
    pub(crate) fn is_taken(&self, date_ms: i64) -> bool {
        date_ms <= self.before.date_ms && self.recent.iter().any(|it| it.date_ms == date_ms)
    }

    /// Takes a record in at the window's end.
    pub(crate) fn push(&mut self, recent: Recent) {
        self.next = self.next.wrapping_add(1);
        self.recent.push_back(recent);
        while self.recent.len() > UNRECEIPTED_RECORDS_MAX as usize {
            self.recent.pop_front();
        }
    }

    /// Moves the window past records that are gone.
    pub(crate) fn skip_to(&mut self, next: u32) {
        self.next = next;
        self.recent.clear();
    }

    /// Takes in an instant at which node clock and UTC were known together.
    pub(crate) fn anchor(&mut self, anchor: Anchor) {
        self.anchors.retain(|a| a.boot != anchor.boot || a.mono_ms != anchor.mono_ms);
        self.anchors.push(anchor);
        self.anchors.sort_by_key(|a| (dating::boots_between(anchor.boot, a.boot), a.mono_ms));
        // A boot of many sessions must not push out the anchors of the boots before it.
        if self.anchors.iter().filter(|a| a.boot == anchor.boot).count() > ANCHORS_OF_BOOT_MAX
            && let Some(oldest) = self.anchors.iter().position(|a| a.boot == anchor.boot)
        {
            self.anchors.remove(oldest);
        }
        if self.anchors.len() > ANCHORS_KEPT_MAX {
            self.anchors.remove(0);
        }
    }

    pub(crate) fn describe(&mut self, description: Description) {
        self.descriptions.insert(description.config, Arc::new(description));
        while self.descriptions.len() > DESCRIPTIONS_MAX {
            self.descriptions.pop_first();
        }
    }
}

/// What opening a session meant for the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// A ring never seen before.
    pub(crate) new_ring: bool,
    /// Records that the node no longer holds and the gateway never had.
    pub(crate) lost: u32,
}

impl Node {
    pub(crate) fn ring(&self, id: u32) -> Option<&Ring> {
        self.rings.iter().find(|r| r.id == id).map(|r| &**r)
    }

    /// What the node measures by the newest config of its session's ring.
    pub(crate) fn description(&self) -> Option<&Arc<Description>> {
        self.ring(self.session?.ring)?.descriptions.last_key_value().map(|(_, description)| description)
    }

    pub(crate) fn ring_mut(&mut self, id: u32) -> Option<&mut Ring> {
        self.rings.iter_mut().find(|r| r.id == id).map(Arc::make_mut)
    }

    pub(crate) fn open(&mut self, open: &Open) -> Opened {
        self.session = Some(SessionState { nonce: open.nonce, ring: open.ring, boot: open.boot });
        match self.rings.iter().position(|r| r.id == open.ring) {
            Some(at) => {
                let mut ring = self.rings.remove(at);
                let lost = open.floor.saturating_sub(ring.next);
                if lost > 0 {
                    let ring = Arc::make_mut(&mut ring);
                    ring.skip_to(open.floor);
                    ring.lost += u64::from(lost);
                }
                self.rings.push(ring);
                Opened { new_ring: false, lost }
            }
            None => {
                self.rings.push(Arc::new(Ring { id: open.ring, next: open.floor, ..Ring::default() }));
                if self.rings.len() > RINGS_MAX {
                    self.rings.remove(0);
                }
                Opened { new_ring: true, lost: 0 }
            }
        }
    }

    /// Takes in a session's anchors, those that `believable` lets pass. Whether the session is
    /// the one that is open.
    pub(crate) fn ready(&mut self, ready: &Ready, believable: impl Fn(&Anchor) -> bool) -> bool {
        if self.session.is_none_or(|s| s.nonce != ready.nonce || s.ring != ready.ring) {
            return false;
        }
        let Some(ring) = self.ring_mut(ready.ring) else { return false };
        for anchor in ready.anchors.iter().filter(|a| believable(a)) {
            ring.anchor(*anchor);
        }
        true
    }
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(array)]
struct AnchorCode(#[n(0)] u16, #[n(1)] u64, #[n(2)] i64, #[n(3)] u32, #[n(4)] u16);

/// One ring of one node as kept in entries and checkpoints. Digests are those of the records below
/// `next` that were added since the last encoding, or all of them in a checkpoint; descriptions only in a checkpoint and where a
/// held report brought one: else they are replayed from their own records.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct Code {
    #[n(0)]
    pub(crate) node: String,
    #[n(1)]
    session: Option<([u8; 8], u32, u16)>,
    #[n(2)]
    pub(crate) ring: u32,
    #[n(3)]
    pub(crate) next: u32,
    #[n(4)]
    before: (i64, u16, u64, i64),
    #[n(5)]
    anchors: Vec<AnchorCode>,
    #[n(6)]
    digests: Vec<Option<u32>>,
    #[n(7)]
    skipped: bool,
    #[n(8)]
    descriptions: Vec<minicbor::bytes::ByteVec>,
    #[n(9)]
    lost: u64,
}

impl Code {
    /// The ring's state with the last `added` of its recent records.
    pub(crate) fn of(name: &str, node: &Node, ring: &Ring, added: usize, skipped: bool, whole: bool) -> Self {
        let descriptions = if whole {
            let encode = |d: &Arc<Description>| {
                let mut bytes = [0; telemetry::limits::RECORD_BYTES_MAX];
                let length = Record::Description((**d).clone()).encode(0, &mut bytes).ok()?;
                Some(minicbor::bytes::ByteVec::from(bytes[..length].to_vec()))
            };
            ring.descriptions.values().filter_map(encode).collect()
        } else {
            Vec::new()
        };
        Self {
            node: name.to_owned(),
            session: node.session.map(|s| (s.nonce.0, s.ring, s.boot)),
            ring: ring.id,
            next: ring.next,
            before: (ring.before.date_ms, ring.before.boot, ring.before.t_ms, ring.before.earliest_ms),
            anchors: ring
                .anchors
                .iter()
                .map(|a| AnchorCode(a.boot, a.mono_ms, a.utc_ms, a.error_ms, a.drift_ppm))
                .collect(),
            digests: ring.recent.iter().skip(ring.recent.len().saturating_sub(added)).map(|it| it.digest).collect(),
            skipped,
            descriptions,
            lost: ring.lost,
        }
    }

    /// The newest record that was dated then.
    pub(crate) fn before(&self) -> Before {
        let (date_ms, boot, t_ms, earliest_ms) = self.before;
        Before { date_ms, earliest_ms, boot, t_ms }
    }

    /// Brings `node` to this state; the opposite of [`Code::of`].
    pub(crate) fn apply(&self, node: &mut Node) {
        node.session = self.session.map(|(nonce, ring, boot)| SessionState { nonce: Nonce(nonce), ring, boot });
        if node.ring(self.ring).is_none() {
            node.rings.push(Arc::new(Ring { id: self.ring, ..Ring::default() }));
            if node.rings.len() > RINGS_MAX {
                node.rings.remove(0);
            }
        }
        let Some(ring) = node.ring_mut(self.ring) else { return };
        if self.skipped {
            ring.recent.clear();
        } else {
            // The other log has those in between, and tells of them in its turn.
            let between = self.first().saturating_sub(ring.next).min(UNRECEIPTED_RECORDS_MAX);
            (0..between).for_each(|_| ring.push(Recent { digest: None, date_ms: 0 }));
        }
        for digest in &self.digests {
            ring.push(Recent { digest: *digest, date_ms: 0 });
        }
        (ring.next, ring.lost) = (self.next, self.lost);
        ring.before = self.before();
        ring.anchors = self
            .anchors
            .iter()
            .map(|a| Anchor { boot: a.0, mono_ms: a.1, utc_ms: a.2, error_ms: a.3, drift_ppm: a.4 })
            .collect();
        self.describe(ring);
    }

    /// Seq of the first record whose digest is in it.
    fn first(&self) -> u32 {
        self.next.saturating_sub(self.digests.len() as u32)
    }

    /// Tells a ring that has gone on from here what it does not know: digests and descriptions.
    pub(crate) fn supply(&self, ring: &mut Ring) {
        for (seq, digest) in (self.first()..).zip(&self.digests) {
            let back = ring.next.checked_sub(seq).map(|back| back as usize);
            let at = back.and_then(|back| ring.recent.len().checked_sub(back));
            if let Some(recent) = at.and_then(|at| ring.recent.get_mut(at)) {
                recent.digest = recent.digest.or(*digest);
            }
        }
        self.describe(ring);
    }

    /// Whether descriptions are in it.
    pub(crate) fn describes(&self) -> bool {
        !self.descriptions.is_empty()
    }

    /// Tells a ring the descriptions that are in it.
    fn describe(&self, ring: &mut Ring) {
        for bytes in &self.descriptions {
            if let Ok((_, Record::Description(description))) = Record::decode(bytes) {
                ring.describe(description);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ring: u32, floor: u32, next: u32) -> Open {
        Open { nonce: Nonce([1; 8]), ring, boot: 1, floor, next, mono_ms: 0 }
    }

    #[test]
    fn a_window_tells_new_from_below_and_ahead() {
        let mut node = Node::default();
        assert_eq!(node.open(&open(9, 100, 200)), Opened { new_ring: true, lost: 0 });
        let ring = node.ring_mut(9).unwrap();
        assert_eq!(ring.position(101, 5), Position::Ahead);
        assert_eq!(ring.position(100, 5), Position::New { overlap: 0 });
        for digest in 0..10 {
            ring.push(Recent { digest: Some(digest), date_ms: 1000 + i64::from(digest) });
        }
        ring.before.date_ms = 1009;
        assert!(ring.is_taken(1003) && !ring.is_taken(999) && !ring.is_taken(1010));
        assert_eq!(ring.position(105, 5), Position::Below);
        assert_eq!(ring.position(105, 6), Position::New { overlap: 5 });
        assert_eq!(ring.digest(100), Some(0));
        assert_eq!(ring.digest(109), Some(9));
        assert_eq!((ring.digest(99), ring.digest(110)), (None, None));
    }

    #[test]
    fn a_hole_is_passed_only_when_the_node_no_longer_holds_it() {
        let mut node = Node::default();
        node.open(&open(9, 0, 10));
        assert_eq!(node.open(&open(9, 0, 50)).lost, 0);
        assert_eq!(node.ring(9).unwrap().next, 0);
        assert_eq!(node.open(&open(9, 20, 50)).lost, 20);
        assert_eq!((node.ring(9).unwrap().next, node.ring(9).unwrap().lost), (20, 20));
    }

    #[test]
    fn a_new_ring_is_a_new_window_and_the_old_one_is_remembered() {
        let mut node = Node::default();
        node.open(&open(9, 0, 10));
        node.ring_mut(9).unwrap().push(Recent { digest: Some(7), date_ms: 1 });
        assert!(node.open(&open(10, 0, 1)).new_ring);
        assert!(!node.open(&open(9, 0, 10)).new_ring);
        assert_eq!(node.ring(9).unwrap().next, 1);
    }

    #[test]
    fn what_the_other_log_has_leaves_no_digest_in_the_wrong_place() {
        let mut node = Node::default();
        node.open(&open(9, 0, 10));
        let mut codes = Vec::new();
        for digest in 0..6 {
            let ring = node.ring_mut(9).unwrap();
            ring.push(Recent { digest: Some(digest), date_ms: 0 });
            codes.push(Code::of("a", &node, node.ring(9).unwrap(), 1, false, false));
        }
        // Records 2 and 3 are in the other log, which is read afterwards.
        let mut replayed = Node::default();
        replayed.open(&open(9, 0, 10));
        for at in [0, 1, 4, 5] {
            codes[at].apply(&mut replayed);
        }
        let digests = |node: &Node| (0..6).map(|seq| node.ring(9).unwrap().digest(seq)).collect::<Vec<_>>();
        assert_eq!(digests(&replayed), [Some(0), Some(1), None, None, Some(4), Some(5)]);
        for at in [2, 3] {
            codes[at].supply(replayed.ring_mut(9).unwrap());
        }
        assert_eq!(digests(&replayed), digests(&node));
    }

    #[test]
    fn state_reads_back_from_a_checkpoint_and_from_increments() {
        let mut node = Node::default();
        node.open(&open(9, 0, 10));
        let anchor = Anchor { boot: 1, mono_ms: 5, utc_ms: 1_795_000_000_000, error_ms: 1, drift_ppm: 40 };
        let ready = Ready { nonce: Nonce([1; 8]), ring: 9, anchors: [anchor].into_iter().collect() };
        assert!(node.ready(&ready, |_| true));
        let mut followed = Node::default();
        Code::of("a", &node, node.ring(9).unwrap(), 0, true, false).apply(&mut followed);
        for digest in 0..300 {
            let ring = node.ring_mut(9).unwrap();
            ring.push(Recent { digest: Some(digest), date_ms: 0 });
            ring.before = Before { date_ms: 1, earliest_ms: 1, boot: 1, t_ms: 2 };
            Code::of("a", &node, node.ring(9).unwrap(), 1, false, false).apply(&mut followed);
        }
        assert_eq!(followed, node);
        let bytes = minicbor::to_vec(Code::of("a", &node, node.ring(9).unwrap(), usize::MAX, true, true)).unwrap();
        let mut restored = Node::default();
        minicbor::decode::<Code>(&bytes).unwrap().apply(&mut restored);
        assert_eq!(restored, node);
    }
}
