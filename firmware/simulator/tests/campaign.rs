//! A farm by chance: readings, faults, clocks, hands and orders without sense, and what must hold
//! all the same. The oracle keeps its own books; it asks the rules nothing.
//!
//! `TIANYU_SEED` repeats one run, `TIANYU_LONG` makes thirty times as many.

use std::collections::BTreeSet;

use node::config::{Actuator, Calibration, Channel, Config, Manual, Proof, Source};
use node::control::{Cause, Change, Condition, Control, Interlock, Now, Pauses, Rule, Seen};
use node::sun::Place;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use telemetry::{ActuatorKind as Kind, Alarm, Flag, MissingReason, Property, Quality, Tests};

// Channels.
const OXYGEN: usize = 0;
const CURRENT: usize = 1;
const AIR: usize = 2;
const WIND: usize = 3;
const SOIL: usize = 4;
const VENT_OPEN: usize = 5;
const HAND_ON: usize = 6;
const HAND_OFF: usize = 7;
const CHANNELS: usize = 8;

// Actuators.
const STAGE_1: usize = 0;
const STAGE_2: usize = 1;
const SIREN: usize = 2;
const VENT: usize = 3;
const FAN: usize = 4;
const HEATER: usize = 5;
const CO2: usize = 6;
const IRRIGATION: usize = 7;
const ACTUATORS: usize = 8;

const AERATOR_PAUSES: Pauses = Pauses { on_s: 300, off_s: 120 };
const PAUSES: Pauses = Pauses { on_s: 60, off_s: 90 };
const ON_BELOW: [f32; 2] = [4.0, 3.0];
const CRITICAL: f32 = 2.0;
const RUN_S: u64 = 240;
const SOAK_S: u64 = 600;
/// Each of eight actuators may be ten seconds before an aerator, and then it is its turn.
const TURNS_MS: u64 = 80_000;

fn config(period_s: u16) -> Config {
    let aerator = |on_below, off_above| {
        let rule =
            Rule::Aerator { channel: OXYGEN as u8, on_below, off_above, critical: CRITICAL, pauses: AERATOR_PAUSES };
        Actuator { night_floor: true, ..Actuator::new(Kind::Aerator, rule) }
    };
    let band = |kind, channel: usize, low, high, raises| {
        let rule = Rule::Band { channel: channel as u8, low, high, raises, safe: false, pauses: PAUSES };
        Actuator::new(kind, rule)
    };
    let current =
        Proof { channel: CURRENT as u8, at_least: 1.0, within_s: period_s.max(10), backup: Some(STAGE_2 as u8) };
    let travel = Proof { channel: VENT_OPEN as u8, at_least: 0.5, within_s: 60, backup: None };
    let hand = Manual { on: Some(HAND_ON as u8), off: Some(HAND_OFF as u8) };
    let mut config = Config::new(1);
    config.period_s = period_s;
    config.place = Some(Place { latitude: 26.0, longitude: 119.0, utc_offset_min: 480 });
    for (input, property) in (0u8..).zip(PROPERTIES) {
        let (source, calibration) = (Source::Direct { input }, Calibration::default());
        let channel = Channel { property, source, calibration, limits: Default::default(), compensate_with: None };
        config.channels.push(channel).unwrap();
    }
    config.actuators.extend([
        Actuator { proof: Some(current), manual: hand, ..aerator(ON_BELOW[0], 5.5) },
        aerator(ON_BELOW[1], 4.5),
        Actuator::new(Kind::Siren, Rule::Siren),
        Actuator { proof: Some(travel), ..band(Kind::Vent, AIR, 22.0, 26.0, false) },
        band(Kind::Fan, AIR, 20.0, 25.0, false),
        // Wrongly set on purpose: its band overlaps the fan's.
        band(Kind::Heater, AIR, 21.0, 27.0, true),
        Actuator::new(Kind::CarbonDioxideDoser, Rule::Remote),
        Actuator { run_s: RUN_S as u16, soak_s: SOAK_S as u16, ..band(Kind::Irrigation, SOIL, 30.0, 35.0, true) },
    ]);
    let off =
        |actuator: usize, when, hold_s| Interlock { actuator: actuator as u8, on: false, when, unknown: true, hold_s };
    config.interlocks.extend([
        off(VENT, Condition::Above { channel: WIND as u8, level: 10.0, release: 8.0 }, 120),
        off(HEATER, Condition::On { actuator: FAN as u8 }, 0),
        off(CO2, Condition::On { actuator: VENT as u8 }, 0),
        // Sprinkled in great heat, and even so not without a rest.
        Interlock {
            actuator: IRRIGATION as u8,
            on: true,
            when: Condition::Above { channel: AIR as u8, level: 30.0, release: 29.0 },
            unknown: false,
            hold_s: 0,
        },
    ]);
    config
}

const PROPERTIES: [Property; CHANNELS] = [
    Property::DissolvedOxygen,
    Property::MotorCurrent,
    Property::AirTemperature,
    Property::WindSpeed,
    Property::SoilMoisture,
    Property::ActuatorState,
    Property::ActuatorState,
    Property::ActuatorState,
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Silent,
    Failed,
    Stuck,
    Suspect,
}

/// What a round said of a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Good(f32),
    Suspect(f32),
    Failed,
    Nothing,
    Calibrating,
}

impl Said {
    fn seen(self) -> Seen {
        let present = |value, flag, tests| Seen { value: Some(value), quality: Quality::Present { flag, tests } };
        match self {
            Self::Good(value) => present(value, Flag::Good, Tests::NONE),
            Self::Suspect(value) => present(value, Flag::Suspect, Tests::RATE),
            Self::Failed => present(99.0, Flag::Fail, Tests::GROSS_RANGE),
            Self::Nothing => Seen { value: None, quality: Quality::Missing(MissingReason::NoAnswer) },
            Self::Calibrating => present(0.1, Flag::Suspect, Tests::CALIBRATING),
        }
    }
}

/// What the oracle knows of oxygen.
#[derive(Clone, Copy, Debug)]
struct Oxygen {
    /// The last that could be trusted, or that was doubtful and lower.
    value: Option<f32>,
    /// When it last could be trusted.
    trusted_ms: u64,
    missed: u32,
    /// Failed or calibrating, or never read: nothing is known until it is read well.
    lost: bool,
}

impl Oxygen {
    const NONE: Self = Self { value: None, trusted_ms: 0, missed: 0, lost: true };

    fn is_unknown(&self, now_ms: u64) -> bool {
        self.lost || self.value.is_none() || self.missed >= 3 || now_ms - self.trusted_ms >= 600_000
    }

    fn is_below(&self, level: f32, now_ms: u64) -> bool {
        self.is_unknown(now_ms) || self.value.is_some_and(|value| value < level)
    }
}

/// The farm, and the books about it.
struct Farm {
    random: ChaCha8Rng,
    seed: u64,
    config: Config,
    control: Control,
    now: Now,
    utc_offset_ms: Option<i64>,
    calibrating_until_ms: u64,
    truth: [f32; CHANNELS],
    faults: [(Fault, u64); CHANNELS],
    motor_broken: bool,
    vent_moves_ms: u64,
    on: [bool; ACTUATORS],
    since_ms: [u64; ACTUATORS],
    last_start_ms: Option<u64>,
    oxygen: Oxygen,
    /// Since when oxygen has been below a level, or unknown, without a break.
    low_since_ms: [(f32, Option<u64>); 3],
    hand: Option<bool>,
    hand_missed: u32,
    /// When the hand let go.
    freed_ms: u64,
    /// What the vent's end switch said since the vent's last change; and rounds it said nothing.
    vent_said: (Option<bool>, u32),
    /// Nothing more goes wrong, and nobody comes.
    calm: bool,
    seen: BTreeSet<String>,
}

impl Farm {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let config = config([5, 10, 60][random.random_range(0..3)]);
        let control = Control::new(&config, 0, seed, 0);
        let low = |level| (level, Some(0));
        Self {
            random,
            seed,
            config,
            control,
            now: Now::default(),
            utc_offset_ms: None,
            calibrating_until_ms: 0,
            truth: [6.0, 0.0, 20.0, 3.0, 33.0, 0.0, 0.0, 0.0],
            faults: [(Fault::None, 0); CHANNELS],
            motor_broken: false,
            vent_moves_ms: 0,
            on: [false; ACTUATORS],
            since_ms: [0; ACTUATORS],
            last_start_ms: None,
            oxygen: Oxygen::NONE,
            low_since_ms: [low(CRITICAL), low(ON_BELOW[0]), low(ON_BELOW[1])],
            hand: None,
            hand_missed: 0,
            freed_ms: 0,
            vent_said: (None, 0),
            calm: false,
            seen: BTreeSet::new(),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    /// Everything goes wrong for so many rounds; then nothing does, and everything returns.
    fn run(mut self, rounds: u32) -> BTreeSet<String> {
        self.pass(rounds);
        self.calm = true;
        self.faults = [(Fault::None, 0); CHANNELS];
        (self.motor_broken, self.utc_offset_ms, self.calibrating_until_ms) = (false, None, 0);
        self.truth = [7.0, 0.0, 19.0, 3.0, 36.0, 0.0, 0.0, 0.0];
        // The longest order, shortest times, rest, travel.
        self.pass(6_000 / u32::from(self.config.period_s));
        let on = |farm: &Self| (0..ACTUATORS).filter(|index| farm.on[*index]).collect::<Vec<_>>();
        // A motor that did not run when it last was to is told until it has run again.
        let dead = self.control.concerned(&self.config, &self.now, Alarm::NotRunning) != 0;
        let fine = if dead { vec![SIREN, HEATER] } else { vec![HEATER] };
        assert_eq!(on(&self), fine, "seed {}: when all is well", self.seed);
        (self.truth[OXYGEN], self.truth[AIR], self.truth[SOIL]) = (3.5, 28.0, 29.0);
        self.pass(180 / u32::from(self.config.period_s));
        // A stand-in may have started with it, and not have run its shortest time yet.
        let running: Vec<usize> = on(&self).into_iter().filter(|index| !(dead && *index == STAGE_2)).collect();
        assert_eq!(running, [STAGE_1, VENT, FAN, IRRIGATION], "seed {}: by their rules", self.seed);
        let blind = self.control.concerned(&self.config, &self.now, Alarm::ControlBlind);
        assert_eq!(blind, 0, "seed {}", self.seed);
        self.seen
    }

    fn pass(&mut self, rounds: u32) {
        let period_ms = u64::from(self.config.period_s) * 1_000;
        for _ in 0..rounds {
            let began_ms = self.now.ms;
            // A bus that hangs, sometimes for longer than a reading stays fresh.
            let late_ms = if !self.calm && self.one_in(400) { self.random.random_range(0..900_000) } else { 0 };
            self.wait(200 + late_ms);
            self.live(period_ms + late_ms);
            self.round(began_ms);
            self.decide();
            self.wait(began_ms + period_ms.max(late_ms + 300) - self.now.ms);
            if !self.calm && self.one_in(2_000) {
                self.restart();
            }
        }
    }

    /// Time passes; control is asked when it wants to be, and orders come.
    fn wait(&mut self, for_ms: u64) {
        let until_ms = self.now.ms + for_ms;
        loop {
            let wake_ms = self.control.wake_ms(&self.config, self.now.ms);
            assert!(wake_ms.is_none_or(|wake_ms| wake_ms > self.now.ms), "seed {}", self.seed);
            let next_ms = wake_ms.unwrap_or(until_ms).min(until_ms);
            self.set_time(next_ms);
            if next_ms == until_ms {
                break;
            }
            self.decide();
        }
        if self.calm {
            self.decide();
            return;
        }
        if self.one_in(20) {
            self.order();
        }
        if self.one_in(300) {
            self.calibrating_until_ms = self.now.ms + self.random.random_range(0..600_000);
            self.set_time(self.now.ms);
        }
        if self.one_in(300) {
            // No clock, the right one, or one that leaps.
            let choices = [None, Some(1_795_449_600_000), Some(self.random.random_range(0..1_800_000_000_000))];
            self.utc_offset_ms = choices[self.random.random_range(0..3)];
        }
        self.decide();
    }

    fn set_time(&mut self, now_ms: u64) {
        self.now.ms = now_ms;
        self.now.utc_ms = self.utc_offset_ms.map(|offset| offset + now_ms as i64);
        self.now.calibrating = u32::from(now_ms < self.calibrating_until_ms) << OXYGEN;
        if self.now.calibrating != 0 {
            // What the liquid says is forgotten.
            self.oxygen = Oxygen { trusted_ms: now_ms, ..Oxygen::NONE };
        }
        self.note();
    }

    /// The farm goes on.
    fn live(&mut self, dt_ms: u64) {
        if !self.calm {
            self.misfortune(dt_ms);
        }
        self.truth[CURRENT] = if self.on[STAGE_1] && !self.motor_broken { 4.0 } else { 0.0 };
        if self.now.ms >= self.vent_moves_ms {
            self.truth[VENT_OPEN] = f32::from(self.on[VENT]);
        }
    }

    fn misfortune(&mut self, dt_ms: u64) {
        let walk = (dt_ms as f32 / 60_000.0).min(3.0);
        for (channel, range) in [(OXYGEN, 0.0..9.0), (AIR, 15.0..32.0), (WIND, 0.0..16.0), (SOIL, 25.0..40.0f32)] {
            let span = (range.end - range.start) * 0.15 * walk.max(0.2);
            let step = self.random.random_range(-span..span);
            self.truth[channel] = (self.truth[channel] + step).clamp(range.start, range.end);
        }
        if self.one_in(300) {
            self.motor_broken = !self.motor_broken;
        }
        for contact in [HAND_ON, HAND_OFF] {
            let closed = self.truth[contact] > 0.0;
            if self.one_in(if closed { 15 } else { 600 }) {
                self.truth[contact] = f32::from(!closed);
            }
        }
        for channel in 0..CHANNELS {
            if self.now.ms >= self.faults[channel].1 {
                let faults = [Fault::None, Fault::Silent, Fault::Failed, Fault::Stuck, Fault::Suspect];
                let fault = if self.one_in(60) { faults[self.random.random_range(0..5)] } else { Fault::None };
                self.faults[channel] = (fault, self.now.ms + self.random.random_range(0..1_200_000));
                if fault == Fault::None {
                    self.faults[channel].1 = 0;
                }
            }
        }
    }

    fn said(&self, channel: usize) -> Said {
        if self.now.calibrating >> channel & 1 == 1 {
            return Said::Calibrating;
        }
        let value = self.truth[channel];
        match self.faults[channel].0 {
            Fault::None => Said::Good(value),
            Fault::Silent => Said::Nothing,
            Fault::Failed | Fault::Stuck => Said::Failed,
            Fault::Suspect => Said::Suspect(value),
        }
    }

    fn round(&mut self, taken_ms: u64) {
        let said: [Said; CHANNELS] = std::array::from_fn(|channel| self.said(channel));
        self.control.observe(&self.config, &self.now, taken_ms, |channel| Some(said[usize::from(channel)].seen()));
        match said[OXYGEN] {
            Said::Good(value) => {
                self.oxygen = Oxygen { value: Some(value), trusted_ms: self.now.ms, missed: 0, lost: false };
            }
            Said::Suspect(value) => {
                self.oxygen.missed += 1;
                if value < self.oxygen.value.unwrap_or(f32::MAX).min(ON_BELOW[1]) {
                    self.oxygen.value = Some(value);
                }
            }
            Said::Nothing => self.oxygen.missed += 1,
            Said::Failed | Said::Calibrating => self.oxygen.lost = true,
        }
        self.note();
        // The switch: off before on; unread, it keeps what it had for two rounds.
        let closed = |channel: usize| match said[channel] {
            Said::Good(value) => Some(value > 0.5),
            _ => None,
        };
        let (hand_on, hand_off) = (closed(HAND_ON), closed(HAND_OFF));
        self.hand_missed = if hand_on.is_none() || hand_off.is_none() { self.hand_missed + 1 } else { 0 };
        if self.hand.is_some() {
            self.freed_ms = self.now.ms;
        }
        if self.hand_missed == 0 || self.hand_missed >= 3 {
            self.hand = match (hand_off, hand_on) {
                (Some(true), _) => Some(false),
                (_, Some(true)) => Some(true),
                _ => None,
            };
        }
        match said[VENT_OPEN] {
            Said::Good(value) | Said::Suspect(value) => {
                let fresh = taken_ms >= self.since_ms[VENT];
                self.vent_said = (if fresh { Some(value > 0.5) } else { self.vent_said.0 }, 0);
            }
            _ => self.vent_said.1 += 1,
        }
        if let Said::Good(wind) = said[WIND]
            && wind > 10.0
        {
            self.decide();
            assert!(!self.on[VENT], "seed {}: the vent is open in a wind of {wind}", self.seed);
        }
        self.decide();
        if let Some(on) = self.hand {
            assert_eq!(self.on[STAGE_1], on, "seed {}: the hand is not obeyed", self.seed);
        }
    }

    /// Notes since when oxygen is low or unknown.
    fn note(&mut self) {
        for (level, since_ms) in &mut self.low_since_ms {
            if self.oxygen.is_below(*level, self.now.ms) {
                since_ms.get_or_insert(self.now.ms);
            } else {
                *since_ms = None;
            }
        }
    }

    fn order(&mut self) {
        let which = self.random.random_range(0..=ACTUATORS as u8);
        let (on, for_s) = (self.random.random_bool(0.5), self.random.random_range(0..4_000));
        let answer = self.control.order(&self.config, &self.now, which, on, for_s);
        self.seen.insert(format!("{:?}", answer.err()));
        let index = usize::from(which);
        if answer.is_ok() && !on && index <= STAGE_2 {
            let low = self.oxygen.is_below(ON_BELOW[index], self.now.ms);
            assert!(!low, "seed {}: {which} obeys an order to go off at {:?}", self.seed, self.oxygen);
        }
    }

    fn restart(&mut self) {
        let warm = self.random.random_bool(0.5);
        let (seed, now_ms) = (self.random.next_u64(), self.now.ms);
        self.control = Control::new(&self.config, now_ms, seed, if warm { u8::MAX } else { 0 });
        self.on = std::array::from_fn(|index| self.control.is_on(index as u8));
        self.since_ms = [now_ms; ACTUATORS];
        self.oxygen = Oxygen { trusted_ms: now_ms, ..Oxygen::NONE };
        self.low_since_ms.iter_mut().for_each(|(_, since_ms)| *since_ms = Some(now_ms));
        (self.hand, self.hand_missed, self.vent_said, self.last_start_ms) = (None, 0, (None, 0), None);
        if warm {
            assert!(self.on[STAGE_1] && self.on[STAGE_2]);
        }
        self.decide();
    }

    fn decide(&mut self) {
        let mut changes: Vec<Change> = Vec::new();
        self.control.decide(&self.config, &self.now, |change| changes.push(change));
        for change in changes {
            self.check_change(change);
        }
        let critical = [Alarm::OxygenCritical, Alarm::NotRunning].into_iter();
        let raised = critical.filter(|alarm| self.control.concerned(&self.config, &self.now, *alarm) != 0);
        self.now.critical = raised.fold(0, |bits, alarm| bits | alarm.bit());
        self.check_state();
    }

    fn check_change(&mut self, Change { actuator, on, cause }: Change) {
        let (seed, now_ms, index) = (self.seed, self.now.ms, usize::from(actuator));
        let held_s = (now_ms - self.since_ms[index]) / 1_000;
        let told = format!("seed {seed}: {actuator} goes {on} for {cause:?} after {held_s} s, {:?}", self.oxygen);
        self.seen.insert(format!("{cause:?} {on}"));
        assert_ne!(self.on[index], on, "{told}: told twice");
        let pauses = self.config.actuators[index].rule.pauses();
        let safe = matches!(cause, Cause::Failed | Cause::Missed | Cause::Stale | Cause::Restart | Cause::Calibrating);
        let urgent = match cause {
            Cause::Manual | Cause::Alarm | Cause::Interlock => true,
            Cause::RunEnded | Cause::Unproven => !on,
            Cause::Critical | Cause::Backup => on,
            _ => safe,
        };
        let least_s = if on { pauses.off_s } else { pauses.on_s };
        assert!(urgent || held_s >= u64::from(least_s), "{told}: too soon");
        if safe {
            assert_eq!(on, index <= STAGE_2, "{told}: that is not its safe state");
        }
        if index == IRRIGATION && on {
            assert!(held_s >= SOAK_S, "{told}: it soaks");
        }
        if index <= STAGE_2 && !on && cause != Cause::Manual {
            assert!(!self.oxygen.is_below(ON_BELOW[index], now_ms), "{told}: off although low or unknown");
        }
        if on && index != SIREN && cause != Cause::Manual {
            let apart_ms = self.last_start_ms.map(|last_ms| now_ms - last_ms);
            assert!(apart_ms.is_none_or(|apart_ms| apart_ms >= 5_000), "{told}: {apart_ms:?} ms after another");
            self.last_start_ms = Some(now_ms);
        }
        self.on[index] = on;
        self.since_ms[index] = now_ms;
        if index == VENT {
            self.vent_said.0 = None;
            let sticks = !self.calm && self.one_in(10);
            self.vent_moves_ms = now_ms + if sticks { 300_000 } else { 40_000 };
        }
    }

    fn check_state(&self) {
        let (seed, now_ms) = (self.seed, self.now.ms);
        for index in [STAGE_1, STAGE_2] {
            if index == STAGE_1 && self.hand == Some(false) {
                continue;
            }
            // Critical or unknown: at once, but for its turn. Low: after its shortest pause.
            let pause_ms = u64::from(AERATOR_PAUSES.off_s) * 1_000;
            let freed_ms = if index == STAGE_1 { self.freed_ms } else { 0 };
            let off_ms = now_ms - self.since_ms[index].max(freed_ms);
            for ((level, since_ms), patience_ms) in
                [(self.low_since_ms[0], TURNS_MS), (self.low_since_ms[1 + index], TURNS_MS + pause_ms)]
            {
                let low_ms = since_ms.map_or(0, |since_ms| now_ms - since_ms);
                assert!(
                    self.on[index] || low_ms.min(off_ms) <= patience_ms,
                    "seed {seed}: aerator {index} is off, and oxygen below {level} for {low_ms} ms: {:?}",
                    self.oxygen
                );
            }
        }
        assert!(!(self.on[FAN] && self.on[HEATER]), "seed {seed}: fan and heater");
        let run_ms = now_ms - self.since_ms[IRRIGATION];
        assert!(!self.on[IRRIGATION] || run_ms <= RUN_S * 1_000, "seed {seed}: irrigates for {run_ms} ms");
        if self.on[CO2] {
            let shut = !self.on[VENT] && self.vent_said.0 == Some(false);
            assert!(shut, "seed {seed}: CO2 with a vent that may be open");
        }
    }
}

#[test]
fn whatever_happens_aerators_run_when_they_must_and_nothing_runs_that_must_not() {
    let long = std::env::var_os("TIANYU_LONG").is_some();
    let seeds = match std::env::var("TIANYU_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..if long { 2_000 } else { 60 },
    };
    assert_eq!(config(60).validate(), Ok(()));
    let alone = seeds.end - seeds.start == 1;
    let mut seen = BTreeSet::new();
    for seed in seeds {
        seen.extend(Farm::new(seed).run(3_000));
    }
    // A campaign in which something never happened has not tried it.
    for wanted in [
        "Rule true",
        "Rule false",
        "Critical true",
        "Failed true",
        "Failed false",
        "Missed true",
        "Missed false",
        "Stale true",
        "Restart true",
        "Remote true",
        "Remote false",
        "RemoteEnded false",
        "Manual true",
        "Manual false",
        "Interlock true",
        "Interlock false",
        "RunEnded false",
        "Unproven false",
        "Backup true",
        "Calibrating true",
        "Night true",
        "Alarm true",
        "Alarm false",
        "None",
        "Some(Unknown)",
        "Some(Low)",
        "Some(Safe)",
        "Some(Interlock)",
        "Some(Manual)",
        "Some(Night)",
    ] {
        assert!(alone || seen.contains(wanted), "never: {wanted}, only {seen:?}");
    }
}
