//! Interlocks: while something is so, an actuator is forced, whatever its rule says.
//!
//! Rain closes a vent, an empty tank stops a pump, a fan that runs keeps the heater off: each is
//! one line of a config. Conditions on another actuator look at one with a lower index only, so
//! that no two can wait for each other; the higher index yields.

use minicbor::decode::Decoder;
use minicbor::encode::{Encoder, Error as EncodeError};

use super::{MISSED_MAX, STALE_MS, Seen, Trust};
use crate::config::ConfigError;

/// Forces an actuator while its condition holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interlock {
    /// Which is forced.
    pub actuator: u8,
    /// To what. Off goes before on where two interlocks disagree.
    pub on: bool,
    /// While this holds.
    pub when: Condition,
    /// Whether it counts as holding while its channel is blind.
    pub unknown: bool,
    /// It holds so long after it was last true, s: gusts and showers come again.
    pub hold_s: u16,
}

/// What an interlock looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// A value above `level`, until it is at or below `release`.
    Above {
        /// The channel.
        channel: u8,
        /// In the channel's unit.
        level: f32,
        /// Not above `level`.
        release: f32,
    },
    /// A value below `level`, until it is at or above `release`.
    Below {
        /// The channel.
        channel: u8,
        /// In the channel's unit.
        level: f32,
        /// Not below `level`.
        release: f32,
    },
    /// Another actuator is on, or not yet known to have gone off.
    On {
        /// Which.
        actuator: u8,
    },
    /// Another actuator is off, or not yet known to have gone on.
    Off {
        /// Which.
        actuator: u8,
    },
}

impl Condition {
    /// The channel it looks at.
    pub const fn channel(&self) -> Option<u8> {
        match self {
            Self::Above { channel, .. } | Self::Below { channel, .. } => Some(*channel),
            Self::On { .. } | Self::Off { .. } => None,
        }
    }

    /// Whether a value begins it, and whether a value ends it.
    fn by(&self, value: f32) -> (bool, bool) {
        match *self {
            Self::Above { level, release, .. } => (value > level, value <= release),
            Self::Below { level, release, .. } => (value < level, value >= release),
            Self::On { .. } | Self::Off { .. } => (false, false),
        }
    }

    /// Whether its numbers are in order.
    pub fn is_possible(&self) -> bool {
        match *self {
            Self::Above { level, release, .. } => level.is_finite() && release.is_finite() && release <= level,
            Self::Below { level, release, .. } => level.is_finite() && release.is_finite() && release >= level,
            Self::On { .. } | Self::Off { .. } => true,
        }
    }
}

/// How a condition on a channel stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lock {
    holds: bool,
    /// It goes on holding until then.
    pub(super) until_ms: u64,
    /// `None` until the channel has been read once.
    pub(super) trusted_ms: Option<u64>,
    missed: u8,
}

impl Lock {
    pub(super) const fn new() -> Self {
        Self { holds: false, until_ms: 0, trusted_ms: None, missed: 0 }
    }

    /// Takes in a reading of the condition's channel.
    pub(super) fn observe(&mut self, of: &Interlock, seen: Option<Seen>, now_ms: u64) {
        let (begins, ends) = match Trust::of(seen) {
            Trust::Calibrating => return,
            Trust::Good(value) => {
                self.trusted_ms = Some(now_ms);
                self.missed = 0;
                of.when.by(value)
            }
            // Doubtful and beyond: it holds; doubtful and within: nothing is let go.
            Trust::Doubtful(value) => {
                self.missed = self.missed.saturating_add(1);
                (value.is_some_and(|value| of.when.by(value).0), false)
            }
            Trust::Failed => {
                self.missed = MISSED_MAX;
                (false, false)
            }
        };
        if begins {
            self.holds = true;
            self.until_ms = now_ms + u64::from(of.hold_s) * 1_000;
        } else if ends && now_ms >= self.until_ms {
            self.holds = false;
        }
    }

    /// Whether nobody knows.
    pub(super) fn is_blind(&self, now_ms: u64) -> bool {
        let stale = self.trusted_ms.is_none_or(|trusted_ms| now_ms.saturating_sub(trusted_ms) >= STALE_MS);
        stale || self.missed >= MISSED_MAX
    }

    /// Whether the condition counts as holding.
    pub(super) fn holds(&self, of: &Interlock, now_ms: u64) -> bool {
        if self.is_blind(now_ms) { of.unknown || now_ms < self.until_ms } else { self.holds }
    }
}

impl Interlock {
    pub(crate) fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        e.array(5)?.u8(self.actuator)?.bool(self.on)?.bool(self.unknown)?.u16(self.hold_s)?;
        match self.when {
            Condition::Above { channel, level, release } => {
                e.array(4)?.u8(1)?.u8(channel)?.f32(level)?.f32(release)?;
            }
            Condition::Below { channel, level, release } => {
                e.array(4)?.u8(2)?.u8(channel)?.f32(level)?.f32(release)?;
            }
            Condition::On { actuator } => {
                e.array(2)?.u8(3)?.u8(actuator)?;
            }
            Condition::Off { actuator } => {
                e.array(2)?.u8(4)?.u8(actuator)?;
            }
        }
        Ok(())
    }

    pub(crate) fn decode(d: &mut Decoder<'_>) -> Result<Self, ConfigError> {
        if d.array()? != Some(5) {
            return Err(ConfigError::Shape);
        }
        let (actuator, on, unknown, hold_s) = (d.u8()?, d.bool()?, d.bool()?, d.u16()?);
        let fields = d.array()?;
        let when = match (d.u8()?, fields) {
            (1, Some(4)) => Condition::Above { channel: d.u8()?, level: d.f32()?, release: d.f32()? },
            (2, Some(4)) => Condition::Below { channel: d.u8()?, level: d.f32()?, release: d.f32()? },
            (3, Some(2)) => Condition::On { actuator: d.u8()? },
            (4, Some(2)) => Condition::Off { actuator: d.u8()? },
            _ => return Err(ConfigError::Shape),
        };
        Ok(Self { actuator, on, when, unknown, hold_s })
    }
}
