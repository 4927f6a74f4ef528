//! Control, on the node alone: an aerator that comes on when oxygen falls and whenever nobody can
//! be sure, and bands for heaters, fans and vents. No network, no clock of day, no storage.
//!
//! It owns rules, safe states, times and remote orders. It deliberately knows no pins: it says
//! which actuator should be on, and the node passes that on.
//!
//! Limits are the project's domain page §4. A suspect value is not trusted, but oxygen that looks
//! low still starts the aerator.

use heapless::Vec;
use minicbor::decode::Decoder;
use minicbor::encode::{Encoder, Error as EncodeError};
use telemetry::limits::ACTUATORS_MAX;
use telemetry::{Flag, Quality, Tests};

use crate::config::{Actuator, ConfigError};

/// A value older than this is nothing to control by, ms.
pub const STALE_MS: u64 = 600_000;
/// Missed readings in a row after which a channel is blind.
pub const MISSED_MAX: u8 = 3;
/// Good readings in a row that give control back to the rule.
pub const GOOD_MIN: u8 = 3;
/// Longest that a remote order holds, s.
pub const REMOTE_S_MAX: u32 = 24 * 3_600;

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
}

/// Why an actuator changed; the detail of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The rule said so.
    Rule = 1,
    /// Oxygen was critical.
    Critical = 2,
    /// The reading failed its tests, or is stuck.
    Failed = 3,
    /// Three readings were missed.
    Missed = 4,
    /// No trusted reading for ten minutes.
    Stale = 5,
    /// The node had just started.
    Restart = 6,
    /// An order.
    Remote = 7,
    /// An order ended.
    RemoteEnded = 8,
}

/// A change of an actuator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub actuator: u8,
    /// To what.
    pub on: bool,
    /// Why.
    pub cause: Cause,
}

/// Why an order is refused; the detail of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// There is no such actuator.
    Unknown = 1,
    /// Oxygen is low, or nobody can be sure that it is not.
    Low = 2,
    /// The actuator stands in its safe state.
    Safe = 3,
}

/// One reading of a control channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// In the property's unit; `None` when missing.
    pub value: Option<f32>,
    /// Its quality.
    pub quality: Quality,
}

#[derive(Clone, Copy, Debug)]
struct State {
    on: bool,
    since_ms: u64,
    /// Why it stands in its safe state; `None` while the rule decides.
    blind: Option<Cause>,
    good: u8,
    missed: u8,
    trusted_ms: u64,
    value: Option<f32>,
    remote: Option<(bool, u64)>,
}

/// All actuators of a node.
#[derive(Debug)]
pub struct Control {
    states: Vec<State, ACTUATORS_MAX>,
}

impl Control {
    /// After a restart: everything in its safe state. The host must set the outputs to
    /// [`Control::is_on`] at once.
    pub fn new(actuators: &[Actuator], now_ms: u64) -> Self {
        let state = |actuator: &Actuator| State {
            on: actuator.rule.safe(),
            since_ms: now_ms,
            blind: Some(Cause::Restart),
            good: 0,
            missed: 0,
            trusted_ms: now_ms,
            value: None,
            remote: None,
        };
        let mut states = Vec::new();
        for actuator in actuators.iter().take(ACTUATORS_MAX) {
            if states.push(state(actuator)).is_err() {
                break;
            }
        }
        Self { states }
    }

    /// Whether an actuator is to be on.
    pub fn is_on(&self, actuator: u8) -> bool {
        self.states.get(usize::from(actuator)).is_some_and(|state| state.on)
    }

    /// Bit n: actuator n is to be on.
    pub fn bits(&self) -> u8 {
        (0u8..).zip(&self.states).fold(0, |bits, (n, state)| bits | u8::from(state.on) << (n % 8))
    }

    /// Whether a rule's channel is blind.
    pub fn is_blind(&self, actuators: &[Actuator]) -> bool {
        actuators.iter().zip(&self.states).any(|(a, s)| a.rule.channel().is_some() && s.blind.is_some())
    }

    /// Whether a trusted oxygen reading is critical.
    pub fn is_critical(&self, actuators: &[Actuator]) -> bool {
        actuators.iter().zip(&self.states).any(|(a, s)| match a.rule {
            Rule::Aerator { critical, .. } => s.value.is_some_and(|value| value < critical),
            _ => false,
        })
    }

    /// Takes in a round: `seen` gives the reading of a channel.
    pub fn observe(&mut self, actuators: &[Actuator], now_ms: u64, mut seen: impl FnMut(u8) -> Option<Seen>) {
        for (actuator, state) in actuators.iter().zip(&mut self.states) {
            let Some(channel) = actuator.rule.channel() else { continue };
            let seen = seen(channel);
            let value = seen.and_then(|seen| seen.value);
            let (flag, tests) = match seen.map(|seen| seen.quality) {
                Some(Quality::Present { flag, tests }) => (flag, tests),
                Some(Quality::Missing(_)) | None => (Flag::Missing, Tests::NONE),
            };
            let failed = flag == Flag::Fail || tests.contains(Tests::STUCK);
            let trusted = !failed && matches!(flag, Flag::Good | Flag::NotEvaluated);
            if let Some(value) = value.filter(|_| trusted) {
                state.value = Some(value);
                state.trusted_ms = now_ms;
                state.missed = 0;
                state.good = state.good.saturating_add(1);
                continue;
            }
            state.good = 0;
            state.missed = state.missed.saturating_add(1);
            // Untrusted and low: the aerator comes on; untrusted and high: nothing goes off.
            if let Rule::Aerator { on_below, .. } = actuator.rule
                && !failed
                && value.is_some_and(|value| value < on_below)
            {
                state.value = value;
            }
            if failed {
                state.blind.get_or_insert(Cause::Failed);
            } else if state.missed >= MISSED_MAX {
                state.blind.get_or_insert(Cause::Missed);
            }
        }
    }

    /// Takes an order; `Err` says why it is not obeyed.
    pub fn order(
        &mut self,
        actuators: &[Actuator],
        now_ms: u64,
        which: u8,
        on: bool,
        for_s: u32,
    ) -> Result<(), Refusal> {
        let index = usize::from(which);
        let (Some(actuator), Some(state)) = (actuators.get(index), self.states.get_mut(index)) else {
            return Err(Refusal::Unknown);
        };
        match actuator.rule {
            Rule::Remote => {}
            Rule::Aerator { .. } if on => {}
            Rule::Aerator { on_below, .. } => {
                // Nobody may switch off what keeps the fish alive.
                if state.blind.is_some() || state.value.is_none_or(|value| value < on_below) {
                    return Err(Refusal::Low);
                }
            }
            Rule::Band { safe, .. } => {
                if state.blind.is_some() && on != safe {
                    return Err(Refusal::Safe);
                }
            }
        }
        state.remote = Some((on, now_ms + u64::from(for_s.min(REMOTE_S_MAX)) * 1_000));
        Ok(())
    }

    /// Decides by `now_ms`: what changes, each told once.
    pub fn decide(&mut self, actuators: &[Actuator], now_ms: u64, mut changed: impl FnMut(Change)) {
        for (index, (actuator, state)) in (0u8..).zip(actuators.iter().zip(&mut self.states)) {
            let (on, cause) = state.wish(&actuator.rule, now_ms);
            if on != state.on && state.may_change(&actuator.rule, on, cause, now_ms) {
                state.on = on;
                state.since_ms = now_ms;
                changed(Change { actuator: index, on, cause });
            }
        }
    }

    /// When [`Control::decide`] has to be asked again at the latest, ms since boot.
    pub fn wake_ms(&self, actuators: &[Actuator], now_ms: u64) -> Option<u64> {
        let times = actuators.iter().zip(&self.states).flat_map(|(actuator, state)| {
            let stale = actuator.rule.channel().map(|_| state.trusted_ms + STALE_MS);
            let held = actuator.rule.pauses();
            let pause = state.since_ms + 1_000 * u64::from(if state.on { held.on_s } else { held.off_s });
            [state.remote.map(|(_, until)| until), stale, Some(pause)]
        });
        times.flatten().filter(|time| *time > now_ms).min()
    }
}

impl State {
    /// What should be, and why.
    fn wish(&mut self, rule: &Rule, now_ms: u64) -> (bool, Cause) {
        let ended = self.remote.is_some_and(|(_, until_ms)| now_ms >= until_ms);
        if ended {
            self.remote = None;
        }
        let otherwise = if ended { Cause::RemoteEnded } else { Cause::Rule };
        let Some(_) = rule.channel() else {
            return self.remote.map_or((false, otherwise), |(on, _)| (on, Cause::Remote));
        };
        if now_ms.saturating_sub(self.trusted_ms) >= STALE_MS {
            self.blind.get_or_insert(Cause::Stale);
            self.good = 0;
        }
        let pauses = rule.pauses();
        let held_ms = now_ms.saturating_sub(self.since_ms);
        if let Some(cause) = self.blind {
            // Back to the rule: enough good readings, and, where safe means on, long enough on.
            let long_enough = !rule.safe() || !self.on || held_ms >= u64::from(pauses.on_s) * 1_000;
            if self.good >= GOOD_MIN && long_enough {
                self.blind = None;
            } else {
                // An order against what is safe ends where safety begins.
                self.remote = self.remote.filter(|(on, _)| *on == rule.safe());
                return (rule.safe(), cause);
            }
        }
        let Some(value) = self.value else { return (rule.safe(), Cause::Missed) };
        match *rule {
            Rule::Remote => (false, otherwise),
            Rule::Aerator { on_below, off_above, critical, .. } => {
                if value < on_below {
                    self.remote = self.remote.filter(|(on, _)| *on);
                    return (true, if value < critical { Cause::Critical } else { Cause::Rule });
                }
                match self.remote {
                    Some((on, _)) => (on, Cause::Remote),
                    // A missed or doubtful reading never switches off.
                    None => (self.on && (value <= off_above || self.missed > 0), otherwise),
                }
            }
            Rule::Band { low, high, raises, .. } => {
                if let Some((on, _)) = self.remote {
                    return (on, Cause::Remote);
                }
                let (start, stop) = if raises { (value < low, value > high) } else { (value > high, value < low) };
                (start || self.on && !stop, otherwise)
            }
        }
    }

    fn may_change(&self, rule: &Rule, on: bool, cause: Cause, now_ms: u64) -> bool {
        let pauses = rule.pauses();
        let least_s = if on { pauses.off_s } else { pauses.on_s };
        let urgent = match cause {
            Cause::Critical => true,
            Cause::Failed | Cause::Missed | Cause::Stale | Cause::Restart => on == rule.safe(),
            Cause::Rule | Cause::Remote | Cause::RemoteEnded => false,
        };
        urgent || now_ms.saturating_sub(self.since_ms) >= u64::from(least_s) * 1_000
    }
}

impl Rule {
    /// The channel it looks at.
    pub const fn channel(&self) -> Option<u8> {
        match self {
            Self::Remote => None,
            Self::Aerator { channel, .. } | Self::Band { channel, .. } => Some(*channel),
        }
    }

    /// What is safe when nobody knows.
    pub const fn safe(&self) -> bool {
        match self {
            Self::Remote => false,
            Self::Aerator { .. } => true,
            Self::Band { safe, .. } => *safe,
        }
    }

    const fn pauses(&self) -> Pauses {
        match self {
            Self::Remote => Pauses { on_s: 0, off_s: 0 },
            Self::Aerator { pauses, .. } | Self::Band { pauses, .. } => *pauses,
        }
    }

    /// Whether its numbers are in order.
    pub fn is_possible(&self) -> bool {
        match self {
            Self::Remote => true,
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
            _ => return Err(ConfigError::Shape),
        })
    }
}
