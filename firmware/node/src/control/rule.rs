//! What an actuator follows.

use minicbor::decode::Decoder;
use minicbor::encode::{Encoder, Error as EncodeError};

use crate::config::ConfigError;

/// Shortest times of an actuator, s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// On, once on.
    pub on_s: u16,
    /// Off, once off.
    pub off_s: u16,
}

/// When an actuator is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Only when ordered; off when the order ends and after a restart.
    Remote,
    /// An aerator: on when oxygen is low and whenever that cannot be known.
    Aerator {
        /// Channel of dissolved oxygen.
        channel: u8,
        /// On below this, mg/L.
        on_below: f32,
        /// Off above this, mg/L.
        off_above: f32,
        /// On below this whatever the pause, mg/L.
        critical: f32,
        /// Shortest times.
        pauses: Pauses,
    },
    /// A heater (`raises`: on below `low`, off above `high`) or a fan, vent or cooler (on above
    /// `high`, off below `low`).
    Band {
        /// The channel.
        channel: u8,
        /// Lower end, in the channel's unit.
        low: f32,
        /// Upper end.
        high: f32,
        /// Whether being on raises the value.
        raises: bool,
        /// What is safe when the channel is blind.
        safe: bool,
        /// Shortest times.
        pauses: Pauses,
    },
    /// A siren or lamp: on while the node has a critical alarm.
    Siren,
}

impl Rule {
    /// The channel it looks at.
    pub const fn channel(&self) -> Option<u8> {
        match self {
            Self::Remote | Self::Siren => None,
            Self::Aerator { channel, .. } | Self::Band { channel, .. } => Some(*channel),
        }
    }

    /// What is safe when nobody knows.
    pub const fn safe(&self) -> bool {
        match self {
            Self::Remote | Self::Siren => false,
            Self::Aerator { .. } => true,
            Self::Band { safe, .. } => *safe,
        }
    }

    /// Its shortest times.
    pub const fn pauses(&self) -> Pauses {
        match self {
            Self::Remote | Self::Siren => Pauses { on_s: 0, off_s: 0 },
            Self::Aerator { pauses, .. } | Self::Band { pauses, .. } => *pauses,
        }
    }

    /// Whether its numbers are in order.
    pub fn is_possible(&self) -> bool {
        match self {
            Self::Remote | Self::Siren => true,
            Self::Aerator { on_below, off_above, critical, .. } => {
                0.0 < *critical && critical <= on_below && on_below < off_above && *off_above < 25.0
            }
            Self::Band { low, high, .. } => low.is_finite() && high.is_finite() && low < high,
        }
    }

    pub(crate) fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        match self {
            Self::Remote => {
                e.array(1)?.u8(0)?;
            }
            Self::Aerator { channel, on_below, off_above, critical, pauses } => {
                e.array(7)?.u8(1)?.u8(*channel)?.f32(*on_below)?.f32(*off_above)?.f32(*critical)?;
                e.u16(pauses.on_s)?.u16(pauses.off_s)?;
            }
            Self::Band { channel, low, high, raises, safe, pauses } => {
                e.array(8)?.u8(2)?.u8(*channel)?.f32(*low)?.f32(*high)?.bool(*raises)?.bool(*safe)?;
                e.u16(pauses.on_s)?.u16(pauses.off_s)?;
            }
            Self::Siren => {
                e.array(1)?.u8(3)?;
            }
        }
        Ok(())
    }

    pub(crate) fn decode(d: &mut Decoder<'_>) -> Result<Self, ConfigError> {
        let fields = d.array()?;
        Ok(match (d.u8()?, fields) {
            (0, Some(1)) => Self::Remote,
            (1, Some(7)) => Self::Aerator {
                channel: d.u8()?,
                on_below: d.f32()?,
                off_above: d.f32()?,
                critical: d.f32()?,
                pauses: Pauses { on_s: d.u16()?, off_s: d.u16()? },
            },
            (2, Some(8)) => Self::Band {
                channel: d.u8()?,
                low: d.f32()?,
                high: d.f32()?,
                raises: d.bool()?,
                safe: d.bool()?,
                pauses: Pauses { on_s: d.u16()?, off_s: d.u16()? },
            },
            (3, Some(1)) => Self::Siren,
            _ => return Err(ConfigError::Shape),
        })
    }
}
