//! What has become of an image, told by one write unit after the other.

use telemetry::report::digest;

use super::{Reason, State};

/// Units for marks. A trial takes one, two for each of its boots, and two for each of what may follow.
pub(super) const MARKS_MAX: usize = 32;
/// Bytes of a mark: kind, number, low half of the generation, check sum with the rest of its name.
pub(super) const BYTES: usize = 8;

/// A mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Begun,
    Boot,
    Confirmed,
    /// With the reason.
    Condemned(u8),
    /// With the reason.
    Told(u8),
}

impl Mark {
    /// Its bytes, at the beginning of a unit.
    pub(super) fn write(self, generation: u32, index: u8, unit: &mut [u8]) {
        let (kind, number) = match self {
            Self::Begun => (1, 0),
            Self::Boot => (2, 0),
            Self::Confirmed => (3, 0),
            Self::Condemned(reason) => (4, reason),
            Self::Told(reason) => (5, reason),
        };
        let [.., g0, g1] = generation.to_be_bytes();
        let [s0, s1, s2, s3] = sum(kind, number, generation, index).to_be_bytes();
        for (place, byte) in unit.iter_mut().zip([kind, number, g0, g1, s0, s1, s2, s3]) {
            *place = byte;
        }
    }

    /// The mark in a unit, if it is a whole one of this image and place.
    pub(super) fn read(generation: u32, index: u8, unit: &[u8]) -> Option<Self> {
        let ([kind, number, g0, g1, s0, s1, s2, s3], rest) = unit.split_first_chunk::<BYTES>()?;
        let named = u16::from_be_bytes([*g0, *g1]) == generation as u16 && rest.iter().all(|byte| *byte == 0xff);
        if !named || u32::from_be_bytes([*s0, *s1, *s2, *s3]) != sum(*kind, *number, generation, index) {
            return None;
        }
        Some(match *kind {
            1 => Self::Begun,
            2 => Self::Boot,
            3 => Self::Confirmed,
            4 => Self::Condemned(*number),
            5 => Self::Told(*number),
            _ => return None,
        })
    }

    /// Whether it has to be there twice to be believed for ever.
    const fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Condemned(_) | Self::Told(_))
    }
}

fn sum(kind: u8, number: u8, generation: u32, index: u8) -> u32 {
    let [g0, g1, g2, g3] = generation.to_be_bytes();
    digest(&[kind, number, g0, g1, g2, g3, index])
}

/// The marks of a slot, read from its first unit to its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    last: Option<Mark>,
    /// The last is there twice.
    sure: bool,
    boots: u8,
    /// The next unit that nothing has touched.
    next: u8,
}

impl Marks {
    pub(super) const NONE: Self = Self { last: None, sure: false, boots: 0, next: 0 };

    /// A unit that is not blank: a mark, or what a cut left of one. That counts as a boot.
    pub(super) fn found(&mut self, index: u8, mark: Option<Mark>) {
        self.next = index + 1;
        if matches!(mark, None | Some(Mark::Boot)) {
            self.boots = self.boots.saturating_add(1);
        }
        if let Some(mark) = mark {
            self.sure = self.last == Some(mark);
            self.last = Some(mark);
        }
    }

    /// Passes over one unit: it may have been touched by a cut and look blank.
    pub(super) fn skip(&mut self) {
        self.next = self.next.saturating_add(1);
    }

    /// The unit for the next mark; `None` when all are used.
    pub(super) fn next(&self) -> Option<u8> {
        Some(self.next).filter(|next| usize::from(*next) < MARKS_MAX)
    }

    /// The mark that has to be written once more.
    pub(super) fn unsure(&self) -> Option<Mark> {
        self.last.filter(|mark| mark.is_final() && !self.sure)
    }

    /// What they say; `None` when not even the trial was begun.
    pub(super) fn state(&self) -> Option<State> {
        Some(match self.last? {
            Mark::Begun | Mark::Boot => State::Trial { boots: self.boots },
            Mark::Confirmed => State::Confirmed,
            Mark::Condemned(reason) => State::Condemned { reason: Reason::from_id(reason), told: false },
            Mark::Told(reason) => State::Condemned { reason: Reason::from_id(reason), told: true },
        })
    }
}
