//! How the ring's bytes lie in a sector: its header, and the frame of a record.

use telemetry::limits::RECORD_BYTES_MAX;
use telemetry::report::{digest, digest_of_both};

use crate::flash::ALIGN_MAX;

/// Names the layout. A ring of another one (TYR1 had one header a sector) is none: a new one is made
/// in its place, and the node says so.
const MAGIC: u32 = u32::from_be_bytes(*b"TYR2");
/// Room of one copy of a sector's header: a multiple of every write size in use.
pub(super) const HEADER_COPY: usize = 32;
/// How often a sector's header is written: no one word may take a sector with it.
pub(super) const COPIES: usize = 2;
/// Room of a sector's header.
pub(super) const HEADER: usize = COPIES * HEADER_COPY;
/// Bytes before a frame's content: length, low half of the seq, check sum.
pub(super) const FRAME_HEAD: usize = 8;
pub(super) const FRAME_MAX: usize = FRAME_HEAD + RECORD_BYTES_MAX + ALIGN_MAX;

/// What a sector says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) ring: u32,
    pub(super) generation: u32,
    pub(super) first: u32,
}

impl Head {
    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0xff; HEADER];
        let copy = self.copy();
        bytes.chunks_exact_mut(HEADER_COPY).for_each(|place| place.copy_from_slice(&copy));
        bytes
    }

    fn copy(&self) -> [u8; HEADER_COPY] {
        let mut bytes = [0xff; HEADER_COPY];
        let mut fields = [0; 16];
        for (place, field) in fields.chunks_exact_mut(4).zip([MAGIC, self.ring, self.generation, self.first]) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes[..16].copy_from_slice(&fields);
        bytes[16..20].copy_from_slice(&digest(&fields).to_be_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; HEADER_COPY]) -> Option<Self> {
        let (fields, rest) = bytes.split_at(16);
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let sound = word(0)? == MAGIC && word(16)? == digest(fields) && rest.get(4..)?.iter().all(|b| *b == 0xff);
        if !sound {
            return None;
        }
        Some(Self { ring: word(4)?, generation: word(8)?, first: word(12)? })
    }
}

/// Writes a frame; its length. `None` when the record is too long for one.
pub(super) fn seal(frame: &mut [u8; FRAME_MAX], ring: u32, seq: u32, record: &[u8]) -> Option<usize> {
    let sum = named_digest(ring, seq, record);
    let length = FRAME_HEAD + record.len();
    let (head, content) = frame.get_mut(..length)?.split_first_chunk_mut::<FRAME_HEAD>()?;
    content.copy_from_slice(record);
    let ([l0, l1], [s0, s1], [c0, c1, c2, c3]) =
        ((record.len() as u16).to_be_bytes(), (seq as u16).to_be_bytes(), sum.to_be_bytes());
    *head = [l0, l1, s0, s1, c0, c1, c2, c3];
    Some(length)
}

/// The content of a frame, if it is whole and that of `seq` in `ring`.
pub(super) fn unseal(frame: &[u8], ring: u32, seq: u32) -> Option<&[u8]> {
    let (head, content) = frame.split_first_chunk::<FRAME_HEAD>()?;
    let [_, _, _, _, sum @ ..] = *head;
    (named_digest(ring, seq, content) == u32::from_be_bytes(sum)).then_some(content)
}

/// The check sum of a record with its whole name.
fn named_digest(ring: u32, seq: u32, record: &[u8]) -> u32 {
    digest_of_both(&((u64::from(ring) << 32) | u64::from(seq)).to_be_bytes(), record)
}
