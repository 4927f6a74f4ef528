//! The trial of a new config: whether it has proved itself, or has had its time.
//!
//! ```text
//! Slots::stage ─▶ Node::apply ─▶ Trial::begin ─▶ after each poll Trial::judge ─▶ Slots::confirm
//!                                                                  └▶ Slots::condemn, boot the one before
//! ```
//! After a restart, [`Slots::boot_counted`](crate::slots::Slots::boot_counted) comes before the node
//! is booted, and the trial begins anew where the config is still on trial: a trial lasts at most
//! its time for each of [`BOOTS_MAX`](crate::slots::BOOTS_MAX) boots. A person at the console may end
//! it either way. Where [`Slots::untold`](crate::slots::Slots::untold) says that one was given up, the
//! booted node tells the gateway with [`Node::tell_given_up`](crate::Node::tell_given_up).
//!
//! It owns no flash and no clock.

use minicbor::decode::Decoder;

use crate::config::Config;
use crate::slots::Reason;

/// Shortest trial, s: long enough for a link to come back and a gateway to answer.
const TRIAL_S_MIN: u64 = 15 * 60;
/// Rounds in which each channel has to have been read once.
const ROUNDS: u64 = 3;
/// Time for the report and its receipt behind those rounds, s.
const RECEIPT_S: u64 = 5 * 60;
/// Pause before what the flash did not take is tried again, ms.
const AGAIN_MS: u64 = 60_000;

/// How far the config that runs has proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Every channel that control looks at has had a value.
    pub read: bool,
    /// The gateway has acknowledged the config's description.
    pub told: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing before this instant, ms since boot, unless the proof changes; `u64::MAX` when no
    /// config is on trial.
    Wait(u64),
    /// Confirm it.
    Confirm,
    /// Give it up and boot the one before.
    GiveUp(Reason),
}

/// A trial, or none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trial {
    ends_ms: Option<u64>,
    again_ms: u64,
}

impl Trial {
    /// No config is on trial.
    pub const fn none() -> Self {
        Self { ends_ms: None, again_ms: 0 }
    }

    /// The trial of a config that is in force since `now_ms`.
    pub fn begin(config: &Config, now_ms: u64) -> Self {
        Self { ends_ms: Some(now_ms.saturating_add(length_s(config) * 1_000)), again_ms: 0 }
    }

    /// Whether a config is on trial.
    pub fn is_on(&self) -> bool {
        self.ends_ms.is_some()
    }

    /// What is to be done at `now_ms`.
    pub fn judge(&self, proof: Proof, now_ms: u64) -> Verdict {
        let Some(ends_ms) = self.ends_ms else { return Verdict::Wait(u64::MAX) };
        let proven = proof.read && proof.told;
        if !proven && now_ms < ends_ms {
            return Verdict::Wait(ends_ms);
        }
        if now_ms < self.again_ms {
            return Verdict::Wait(self.again_ms);
        }
        match proof {
            Proof { read: true, told: true } => Verdict::Confirm,
            Proof { read: false, .. } => Verdict::GiveUp(Reason::Unread),
            Proof { read: true, told: false } => Verdict::GiveUp(Reason::Untold),
        }
    }

    /// The flash did not take the verdict: the node goes on with what it runs and tries again.
    pub fn put_off(&mut self, now_ms: u64) {
        self.again_ms = now_ms.saturating_add(AGAIN_MS);
    }
}

/// How long a config may be on trial, s: a quarter of an hour, or for slow periods three rounds and
/// five minutes, so never more than 3 h 5 min. A round's probes are all asked within a period
/// ([`Config::validate`]).
pub fn length_s(config: &Config) -> u64 {
    TRIAL_S_MIN.max(u64::from(config.period_s) * ROUNDS + RECEIPT_S)
}

/// The number of a config image, from its first bytes (16 are enough). Total on any bytes.
pub fn number_of(image: &[u8]) -> Option<u16> {
    let mut decoder = Decoder::new(image);
    decoder.array().ok()?;
    decoder.u8().ok()?;
    decoder.u16().ok()
}
