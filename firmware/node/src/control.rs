//! Control, on the node alone: an aerator that comes on when oxygen falls and whenever nobody can
//! be sure, bands for heaters, fans and vents, and what holds for any actuator: interlocks, a
//! longest run, a proof that it runs, a switch for the hand. No network, no storage; the time of
//! day only lets aerators run longer.
//!
//! It owns rules, safe states, times and remote orders. It deliberately knows no pins: it says
//! which actuator should be on, and the node passes that on.
//!
//! Who is asked first: the hand; an interlock or the end of the longest run that says off; an
//! interlock that says on; a broken actuator that this one stands in for; safety; an order; the
//! rule. An aerator is never forced off but by hand.
//!
//! Limits are the project's domain page §4. A suspect value is not trusted, but oxygen that looks
//! low still starts the aerator.

mod interlock;
mod rule;

use heapless::Vec;
use telemetry::limits::ACTUATORS_MAX;
use telemetry::{ActuatorKind, Alarm, Flag, Quality, Tests};

use crate::config::{Actuator, Config, INTERLOCKS_MAX};
use crate::random::Random;
use interlock::Lock;

pub use interlock::{Condition, Interlock};
pub use rule::{Pauses, Rule};

/// A value older than this is nothing to control by, ms.
pub const STALE_MS: u64 = 600_000;
/// Missed readings in a row after which a channel is blind.
pub const MISSED_MAX: u8 = 3;
/// Good readings in a row that give control back to the rule.
pub const GOOD_MIN: u8 = 3;
/// Longest that a remote order holds, s.
pub const REMOTE_S_MAX: u32 = 24 * 3_600;
/// Longest that an order silences a siren, s (domain page §4: low oxygen is not shelved longer).
pub const SILENCE_S_MAX: u32 = 30 * 60;
/// From one start to the next, ms; up to as much again is added, by chance, because other nodes
/// come back from the same power cut.
pub const STAGGER_MS: u64 = 5_000;
/// How long an aerator may run before oxygen has to have risen, ms.
const RISE_MS: u64 = 20 * 60_000;
/// The least that counts as risen, mg/L: above the noise of a probe.
const RISE_MG_L: f32 = 0.1;
/// How far above its critical level oxygen has to be for the alarm to end, mg/L: a siren must not
/// stutter with the noise of a probe.
const CRITICAL_RELEASE_MG_L: f32 = 0.2;
/// What a night floor adds to the level of switching off while the time of day is unknown, mg/L.
const NIGHT_MARGIN_MG_L: f32 = 1.0;
/// Passes of one decision: each actuator may change, and another yield to it.
const PASSES_MAX: usize = 2 * ACTUATORS_MAX;

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
    /// No trusted reading for ten minutes, or for as long as the config says.
    Stale = 5,
    /// The node had just started.
    Restart = 6,
    /// An order.
    Remote = 7,
    /// An order ended.
    RemoteEnded = 8,
    /// The local switch.
    Manual = 9,
    /// An interlock.
    Interlock = 10,
    /// Its longest run was over.
    RunEnded = 11,
    /// It did not do what it was told.
    Unproven = 12,
    /// It stands in for one that does not run.
    Backup = 13,
    /// Its channel is being calibrated.
    Calibrating = 14,
    /// Night.
    Night = 15,
    /// An alarm.
    Alarm = 16,
}

impl Cause {
    /// Whether it is one of those for which an actuator stands in its safe state.
    const fn is_safety(self) -> bool {
        matches!(self, Self::Failed | Self::Missed | Self::Stale | Self::Restart | Self::Calibrating)
    }
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
    /// There is no such actuator, or channel.
    Unknown = 1,
    /// Oxygen is low, or nobody can be sure that it is not.
    Low = 2,
    /// The actuator stands in its safe state, or in for a broken one.
    Safe = 3,
    /// An interlock forces it.
    Interlock = 4,
    /// It is switched by hand.
    Manual = 5,
    /// Aerators run at night.
    Night = 6,
}

/// One reading of a control channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// In the property's unit; `None` when missing.
    pub value: Option<f32>,
    /// Its quality.
    pub quality: Quality,
}

/// What a reading is good for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trust {
    Good(f32),
    /// Missing or suspect.
    Doubtful(Option<f32>),
    /// Outside its range, or stuck.
    Failed,
    Calibrating,
}

impl Trust {
    fn of(seen: Option<Seen>) -> Self {
        let Some(Seen { value, quality: Quality::Present { flag, tests } }) = seen else {
            return Self::Doubtful(None);
        };
        match value {
            _ if tests.contains(Tests::CALIBRATING) => Self::Calibrating,
            _ if flag == Flag::Fail || tests.contains(Tests::STUCK) => Self::Failed,
            Some(value) if matches!(flag, Flag::Good | Flag::NotEvaluated) => Self::Good(value),
            value => Self::Doubtful(value),
        }
    }
}

/// What is known at an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since boot, ms.
    pub ms: u64,
    /// UTC, where it is known.
    pub utc_ms: Option<i64>,
    /// Bits of the critical alarms that are raised.
    pub critical: u32,
    /// Bit n: channel n is being calibrated.
    pub calibrating: u32,
}

/// What a proof's channel says.
#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    running: bool,
    /// When that was taken; `None` before the first reading.
    taken_ms: Option<u64>,
    missed: u8,
    /// Was told to go on and did not, and has not since.
    dead: bool,
    /// Was told to go off and did not, and has not since.
    welded: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    on: bool,
    since_ms: u64,
    /// Why it stands in its safe state; `None` while the rule decides.
    blind: Option<Cause>,
    good: u8,
    missed: u8,
    manual_missed: u8,
    manual: Option<bool>,
    trusted_ms: u64,
    value: Option<f32>,
    /// Oxygen is critical, for the alarm.
    critical: bool,
    remote: Option<(bool, u64)>,
    /// Critical alarms that were raised when an order silenced this siren.
    silenced: u32,
    proof: Proof,
    /// The lowest oxygen since it last rose while this aerator ran, and when it last rose.
    rise: Option<(f32, u64)>,
}

/// What the others want of an actuator.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    forced: Option<bool>,
    backup: bool,
    /// Whether it is night; `None` while nobody knows.
    night: Option<bool>,
}

/// All actuators of a node.
#[derive(Debug)]
pub struct Control {
    states: Vec<State, ACTUATORS_MAX>,
    locks: Vec<Lock, INTERLOCKS_MAX>,
    night: Option<bool>,
    next_start_ms: u64,
    random: Random,
}

impl Control {
    /// After a restart: everything in its safe state. Actuators of which `running` has the bit are
    /// known to run already; the others are started one after the other. The host must set the
    /// outputs to [`Control::is_on`] at once.
    pub fn new(config: &Config, now_ms: u64, seed: u64, running: u8) -> Self {
        let mut control = Self::off();
        control.restart(config, now_ms, seed, running);
        control
    }

    /// Nothing to switch.
    pub(crate) const fn off() -> Self {
        Self { states: Vec::new(), locks: Vec::new(), night: None, next_start_ms: 0, random: Random::new(0) }
    }

    /// [`Control::new`] in place.
    pub(crate) fn restart(&mut self, config: &Config, now_ms: u64, seed: u64, running: u8) {
        let state = |index: u8, actuator: &Actuator| State {
            on: actuator.safe(Cause::Restart) && running >> (index % 8) & 1 == 1,
            since_ms: now_ms,
            blind: Some(Cause::Restart),
            good: 0,
            missed: 0,
            manual_missed: 0,
            manual: None,
            trusted_ms: now_ms,
            value: None,
            critical: false,
            remote: None,
            silenced: 0,
            proof: Proof::default(),
            rise: None,
        };
        self.states.clear();
        self.locks.clear();
        for (index, actuator) in (0u8..).zip(&config.actuators) {
            // A config has no more than there is room for.
            if self.states.push(state(index, actuator)).is_err() {
                break;
            }
        }
        for _ in &config.interlocks {
            if self.locks.push(Lock::new()).is_err() {
                break;
            }
        }
        (self.night, self.next_start_ms, self.random) = (None, now_ms, Random::new(seed));
    }

    /// Whether an actuator is to be on.
    pub fn is_on(&self, actuator: u8) -> bool {
        self.states.get(usize::from(actuator)).is_some_and(|state| state.on)
    }

    /// Bit n: actuator n is to be on.
    pub fn bits(&self) -> u8 {
        self.each(|_, state| state.on)
    }

    fn each(&self, mut of: impl FnMut(u8, &State) -> bool) -> u8 {
        (0u8..).zip(&self.states).fold(0, |bits, (n, state)| bits | u8::from(of(n, state)) << (n % 8))
    }

    /// Bit n: the alarm concerns actuator n. None for alarms that are the node's own.
    pub fn concerned(&self, config: &Config, now: &Now, alarm: Alarm) -> u8 {
        self.each(|n, state| {
            let Some(actuator) = config.actuators.get(usize::from(n)) else { return false };
            let aerator = actuator.kind == ActuatorKind::Aerator;
            match alarm {
                Alarm::OxygenCritical => state.critical,
                Alarm::ControlBlind => {
                    let rule = actuator.rule.channel().is_some()
                        && state.blind.is_some_and(|cause| cause != Cause::Calibrating);
                    let proof = actuator.proof.is_some() && state.proof.missed >= MISSED_MAX;
                    rule || proof || self.is_lock_blind(config, n, now.ms)
                }
                Alarm::NotRunning => aerator && state.proof.dead,
                Alarm::Unproven => !aerator && state.proof.dead || state.proof.welded,
                Alarm::Ineffective => state.on && state.rise.is_some_and(|(_, since_ms)| now.ms >= since_ms + RISE_MS),
                Alarm::Manual => state.manual.is_some(),
                Alarm::Calibrating => actuator.is_calibrated_by(now.calibrating),
                Alarm::Storage | Alarm::MainsLost | Alarm::RelayBoard => false,
            }
        })
    }

    fn is_lock_blind(&self, config: &Config, actuator: u8, now_ms: u64) -> bool {
        let locks = config.interlocks.iter().zip(&self.locks);
        let mut mine = locks.filter(|(of, _)| of.actuator == actuator && of.when.channel().is_some());
        mine.any(|(_, lock)| lock.is_blind(now_ms))
    }

    /// Takes in a round that began at `taken_ms`: `seen` gives the reading of a channel.
    pub fn observe(&mut self, config: &Config, now: &Now, taken_ms: u64, mut seen: impl FnMut(u8) -> Option<Seen>) {
        let night = |utc_ms| config.place.map(|place| place.is_night(utc_ms));
        self.night = now.utc_ms.and_then(night);
        for (interlock, lock) in config.interlocks.iter().zip(&mut self.locks) {
            if let Some(channel) = interlock.when.channel() {
                lock.observe(interlock, seen(channel), now.ms);
            }
        }
        for (actuator, state) in config.actuators.iter().zip(&mut self.states) {
            state.observe_hand(actuator, &mut seen);
            if let Some(proof) = &actuator.proof {
                state.proof.observe(proof.at_least, taken_ms, seen(proof.channel));
            }
            if let Some(channel) = actuator.rule.channel() {
                state.observe(actuator, now.ms, seen(channel));
            }
        }
    }

    /// Takes an order; `Err` says why it is not obeyed.
    pub fn order(&mut self, config: &Config, now: &Now, which: u8, on: bool, for_s: u32) -> Result<(), Refusal> {
        let wanted = self.wanted(config, which, now.ms);
        let index = usize::from(which);
        let (Some(actuator), Some(state)) = (config.actuators.get(index), self.states.get_mut(index)) else {
            return Err(Refusal::Unknown);
        };
        if state.manual.is_some() {
            return Err(Refusal::Manual);
        }
        if wanted.forced == Some(!on) {
            return Err(Refusal::Interlock);
        }
        if wanted.backup && !on {
            return Err(Refusal::Safe);
        }
        let mut for_s = for_s.min(REMOTE_S_MAX);
        match actuator.rule {
            Rule::Remote => {}
            Rule::Siren => {
                if !on {
                    for_s = for_s.min(SILENCE_S_MAX);
                }
                state.silenced = now.critical;
            }
            Rule::Aerator { .. } if on => {}
            Rule::Aerator { on_below, .. } => {
                // Nobody may switch off what keeps the fish alive.
                if state.blind.is_some() || state.value.is_none_or(|value| value < on_below) {
                    return Err(Refusal::Low);
                }
                if actuator.night_floor && wanted.night == Some(true) {
                    return Err(Refusal::Night);
                }
            }
            Rule::Band { safe, .. } => {
                if state.blind.is_some() && on != safe {
                    return Err(Refusal::Safe);
                }
            }
        }
        state.remote = Some((on, now.ms + u64::from(for_s) * 1_000));
        Ok(())
    }

    /// Decides by `now`: what changes, each told once.
    pub fn decide(&mut self, config: &Config, now: &Now, mut changed: impl FnMut(Change)) {
        for (actuator, state) in config.actuators.iter().zip(&mut self.states) {
            state.assess(actuator, now);
        }
        for _ in 0..PASSES_MAX {
            let mut moved = false;
            // Of those that wait for their turn: whose life depends on it, then the lowest index.
            let mut first: Option<(bool, Change)> = None;
            for (index, actuator) in (0u8..).zip(&config.actuators) {
                let wanted = self.wanted(config, index, now.ms);
                let Some(state) = self.states.get_mut(usize::from(index)) else { continue };
                let (on, cause) = state.wish(actuator, now, wanted);
                if on == state.on || !state.may_change(actuator, on, cause, now.ms) {
                    continue;
                }
                let change = Change { actuator: index, on, cause };
                let waits = on && cause != Cause::Manual && actuator.kind != ActuatorKind::Siren;
                if waits {
                    let urgent = actuator.kind == ActuatorKind::Aerator && cause != Cause::Remote;
                    if first.is_none_or(|(before, _)| urgent && !before) {
                        first = Some((urgent, change));
                    }
                    continue;
                }
                state.set(on, now.ms);
                changed(change);
                moved = true;
            }
            if moved {
                continue;
            }
            let Some((_, change)) = first.filter(|_| now.ms >= self.next_start_ms) else { break };
            if let Some(state) = self.states.get_mut(usize::from(change.actuator)) {
                state.set(true, now.ms);
                changed(change);
            }
            self.next_start_ms = now.ms + STAGGER_MS + self.random.bits() % STAGGER_MS;
        }
    }

    /// What the others want of an actuator.
    fn wanted(&self, config: &Config, which: u8, now_ms: u64) -> Wanted {
        let mut forced = None;
        for (interlock, lock) in config.interlocks.iter().zip(&self.locks).filter(|(of, _)| of.actuator == which) {
            let holds = match interlock.when {
                Condition::Above { .. } | Condition::Below { .. } => lock.holds(interlock, now_ms),
                Condition::On { actuator } => self.may_be(config, interlock, actuator, true, now_ms),
                Condition::Off { actuator } => self.may_be(config, interlock, actuator, false, now_ms),
            };
            if holds && forced != Some(false) {
                forced = Some(interlock.on);
            }
        }
        let mut proofs = config.actuators.iter().zip(&self.states);
        let backup = proofs.any(|(actuator, state)| {
            state.on && state.proof.dead && actuator.proof.is_some_and(|proof| proof.backup == Some(which))
        });
        Wanted { forced, backup, night: self.night }
    }

    /// Whether an actuator is, or may still be, as an interlock asks.
    fn may_be(&self, config: &Config, of: &Interlock, other: u8, on: bool, now_ms: u64) -> bool {
        let index = usize::from(other);
        let (Some(actuator), Some(state)) = (config.actuators.get(index), self.states.get(index)) else {
            return of.unknown;
        };
        if state.on == on || now_ms < state.since_ms + u64::from(of.hold_s) * 1_000 {
            return true;
        }
        if actuator.proof.is_none() {
            return false;
        }
        if state.proof.missed >= MISSED_MAX {
            return of.unknown;
        }
        state.proof.says(state.since_ms).is_none_or(|running| running == on)
    }

    /// When [`Control::decide`] has to be asked again at the latest, ms since boot.
    pub fn wake_ms(&self, config: &Config, now_ms: u64) -> Option<u64> {
        let mut first = u64::MAX;
        let mut at = |time_ms: u64| {
            if time_ms > now_ms {
                first = first.min(time_ms);
            }
        };
        at(self.next_start_ms);
        for (actuator, state) in config.actuators.iter().zip(&self.states) {
            let pauses = actuator.rule.pauses();
            let pause_s = if state.on { pauses.on_s } else { actuator.least_off_s() };
            for seconds in [pause_s, actuator.run_s, actuator.proof.map_or(0, |proof| proof.within_s)] {
                at(state.since_ms + 1_000 * u64::from(seconds));
            }
            if actuator.rule.channel().is_some() {
                at(state.trusted_ms + actuator.blind_after_ms());
            }
            at(state.remote.map_or(0, |(_, until_ms)| until_ms));
            at(state.rise.map_or(0, |(_, since_ms)| since_ms + RISE_MS));
        }
        for (interlock, lock) in config.interlocks.iter().zip(&self.locks) {
            at(lock.until_ms);
            at(lock.trusted_ms.map_or(0, |trusted_ms| trusted_ms + STALE_MS));
            if let Condition::On { actuator } | Condition::Off { actuator } = interlock.when
                && let Some(state) = self.states.get(usize::from(actuator))
            {
                at(state.since_ms + u64::from(interlock.hold_s) * 1_000);
            }
        }
        Some(first).filter(|first| *first < u64::MAX)
    }
}

impl Proof {
    fn observe(&mut self, at_least: f32, taken_ms: u64, seen: Option<Seen>) {
        match Trust::of(seen) {
            // A doubtful current is still a current.
            Trust::Good(value) | Trust::Doubtful(Some(value)) => {
                self.running = value >= at_least;
                self.taken_ms = Some(taken_ms);
                self.missed = 0;
            }
            Trust::Doubtful(None) | Trust::Failed => self.missed = self.missed.saturating_add(1),
            Trust::Calibrating => {}
        }
    }

    /// What a reading taken since `since_ms` says; `None` where there is none.
    fn says(&self, since_ms: u64) -> Option<bool> {
        self.taken_ms.filter(|taken_ms| *taken_ms >= since_ms).map(|_| self.running)
    }
}

impl State {
    fn set(&mut self, on: bool, now_ms: u64) {
        self.on = on;
        self.since_ms = now_ms;
        self.rise = None;
    }

    /// The local switch.
    fn observe_hand(&mut self, actuator: &Actuator, seen: &mut impl FnMut(u8) -> Option<Seen>) {
        let contacts = [actuator.manual.off, actuator.manual.on];
        let mut read = contacts.map(|contact| contact.map(|channel| Trust::of(seen(channel))));
        if read.iter().flatten().any(|trust| !matches!(trust, Trust::Good(_))) {
            // The hand keeps what it has until the switch is read again, but not for ever.
            self.manual_missed = self.manual_missed.saturating_add(1);
            if self.manual_missed < MISSED_MAX {
                return;
            }
            read = read.map(|trust| trust.filter(|trust| matches!(trust, Trust::Good(_))));
        } else {
            self.manual_missed = 0;
        }
        let [off, on] = read.map(|trust| matches!(trust, Some(Trust::Good(value)) if value >= 0.5));
        // Whoever stands in the water is right.
        self.manual = if off { Some(false) } else { on.then_some(true) };
    }

    /// The rule's own channel.
    fn observe(&mut self, actuator: &Actuator, now_ms: u64, seen: Option<Seen>) {
        match Trust::of(seen) {
            Trust::Good(value) => {
                self.value = Some(value);
                self.trusted_ms = now_ms;
                self.missed = 0;
                self.good = self.good.saturating_add(1);
            }
            Trust::Calibrating => self.calibrates(now_ms),
            Trust::Failed => {
                self.missed = self.missed.saturating_add(1);
                self.stands(Cause::Failed);
            }
            Trust::Doubtful(value) => {
                self.good = 0;
                self.missed = self.missed.saturating_add(1);
                // Untrusted and low: the aerator comes on; untrusted and high: nothing goes off.
                if let Rule::Aerator { on_below, .. } = actuator.rule
                    && value.is_some_and(|value| value < on_below)
                {
                    self.value = value;
                }
                if self.missed >= MISSED_MAX {
                    self.stands(Cause::Missed);
                }
            }
        }
        if let Rule::Aerator { off_above, critical, .. } = actuator.rule {
            let release = critical + if self.critical { CRITICAL_RELEASE_MG_L } else { 0.0 };
            self.critical = self.value.is_some_and(|value| value < release);
            self.observe_rise(off_above, now_ms);
        }
    }

    /// Takes the safe state, or stays in it for the cause it had.
    fn stands(&mut self, cause: Cause) {
        self.good = 0;
        // The end of a calibration, or of a restart, hides no dead probe.
        if self.blind.is_none_or(|before| matches!(before, Cause::Calibrating | Cause::Restart)) {
            self.blind = Some(cause);
        }
    }

    /// What a probe in a calibration liquid says is nothing to control by, nor to miss.
    fn calibrates(&mut self, now_ms: u64) {
        self.blind = Some(Cause::Calibrating);
        self.value = None;
        self.critical = false;
        (self.good, self.missed) = (0, 0);
        self.trusted_ms = now_ms;
    }

    /// Whether oxygen rises while the aerator runs and it should.
    fn observe_rise(&mut self, off_above: f32, now_ms: u64) {
        let knows = self.on && self.blind.is_none_or(|cause| cause == Cause::Restart);
        self.rise = match (self.value.filter(|_| knows), self.rise) {
            (Some(value), _) if value >= off_above => None,
            (Some(value), None) => Some((value, now_ms)),
            (Some(value), Some((lowest, _))) if value >= lowest + RISE_MG_L => Some((value, now_ms)),
            (Some(value), Some((lowest, since_ms))) => Some((lowest.min(value), since_ms)),
            (None, _) => None,
        };
    }

    /// What time alone changes: channels become stale, proofs fail.
    fn assess(&mut self, actuator: &Actuator, now: &Now) {
        if actuator.is_calibrated_by(now.calibrating) {
            self.calibrates(now.ms);
        }
        if actuator.rule.channel().is_some()
            && now.ms.saturating_sub(self.trusted_ms) >= actuator.blind_after_ms()
            && self.blind.is_none_or(|cause| matches!(cause, Cause::Restart | Cause::Calibrating))
        {
            self.stands(Cause::Stale);
        }
        let Some(proof) = &actuator.proof else { return };
        let Some(running) = self.proof.says(self.since_ms) else { return };
        let due = now.ms.saturating_sub(self.since_ms) >= u64::from(proof.within_s) * 1_000;
        match (self.on, running) {
            (true, true) => self.proof.dead = false,
            (true, false) => self.proof.dead |= due,
            (false, true) => self.proof.welded |= due,
            (false, false) => self.proof.welded = false,
        }
    }

    /// Whether this very run has failed its proof.
    fn has_failed(&self, actuator: &Actuator, now_ms: u64) -> bool {
        let due = |within_s: u16| now_ms.saturating_sub(self.since_ms) >= u64::from(within_s) * 1_000;
        self.on
            && self.proof.dead
            && actuator.proof.is_some_and(|proof| due(proof.within_s))
            && self.proof.says(self.since_ms) == Some(false)
    }

    /// What should be, and why.
    fn wish(&mut self, actuator: &Actuator, now: &Now, wanted: Wanted) -> (bool, Cause) {
        let rule = &actuator.rule;
        let ended = self.remote.is_some_and(|(_, until_ms)| now.ms >= until_ms);
        if ended {
            self.remote = None;
        }
        let otherwise = if ended { Cause::RemoteEnded } else { Cause::Rule };
        if let Some(on) = self.manual {
            // What was ordered before somebody came is not what holds after they left.
            self.remote = None;
            return (on, Cause::Manual);
        }
        let held_ms = now.ms.saturating_sub(self.since_ms);
        if wanted.forced == Some(false) {
            return (false, Cause::Interlock);
        }
        if self.on && actuator.run_s > 0 && held_ms >= u64::from(actuator.run_s) * 1_000 {
            return (false, Cause::RunEnded);
        }
        if !rule.safe() && self.has_failed(actuator, now.ms) {
            return (false, Cause::Unproven);
        }
        if wanted.forced == Some(true) {
            return (true, Cause::Interlock);
        }
        if wanted.backup {
            return (true, Cause::Backup);
        }
        match rule {
            Rule::Remote => return self.remote.map_or((false, otherwise), |(on, _)| (on, Cause::Remote)),
            Rule::Siren => {
                // Silence is for what was known when it was ordered.
                let news = now.critical & !self.silenced != 0;
                self.remote = self.remote.filter(|(on, _)| *on || !news);
                return self.remote.map_or((now.critical != 0, Cause::Alarm), |(on, _)| (on, Cause::Remote));
            }
            Rule::Aerator { .. } | Rule::Band { .. } => {}
        }
        let pauses = rule.pauses();
        if let Some(cause) = self.blind {
            let safe = actuator.safe(cause);
            // Back to the rule: enough good readings, and, where safe means on, long enough on.
            let long_enough = !rule.safe() || !self.on || held_ms >= u64::from(pauses.on_s) * 1_000;
            if self.good >= GOOD_MIN && long_enough {
                self.blind = None;
            } else {
                // An order against what is safe ends where safety begins.
                self.remote = self.remote.filter(|(on, _)| *on == safe);
                return (safe, cause);
            }
        }
        let Some(value) = self.value else { return (rule.safe(), Cause::Missed) };
        match *rule {
            Rule::Remote | Rule::Siren => (false, otherwise),
            Rule::Aerator { on_below, off_above, critical, .. } => {
                if value < on_below {
                    self.remote = self.remote.filter(|(on, _)| *on);
                    return (true, if value < critical { Cause::Critical } else { Cause::Rule });
                }
                if actuator.night_floor && wanted.night == Some(true) {
                    self.remote = self.remote.filter(|(on, _)| *on);
                    return (true, Cause::Night);
                }
                let unsure = actuator.night_floor && wanted.night.is_none();
                let off_above = off_above + if unsure { NIGHT_MARGIN_MG_L } else { 0.0 };
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

    fn may_change(&self, actuator: &Actuator, on: bool, cause: Cause, now_ms: u64) -> bool {
        let least_s = if on { actuator.least_off_s() } else { actuator.rule.pauses().on_s };
        // What may run only so long has to rest as well, whoever asks.
        let rests = on && actuator.run_s > 0;
        let urgent = match cause {
            Cause::Manual => true,
            Cause::Critical | Cause::Interlock | Cause::RunEnded | Cause::Unproven | Cause::Backup | Cause::Alarm => {
                !rests
            }
            safety if safety.is_safety() => !rests && on == actuator.safe(safety),
            _ => false,
        };
        urgent || now_ms.saturating_sub(self.since_ms) >= u64::from(least_s) * 1_000
    }
}
