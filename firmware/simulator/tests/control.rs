//! The rules by themselves: what a node's rounds never show, because they never stop.

use node::config::{Actuator, Config};
use node::control::{Cause, Change, Control, Now, Pauses, Refusal, Rule, Seen};
use telemetry::{ActuatorKind, Flag, MissingReason, Quality, Tests};

const PAUSES: Pauses = Pauses { on_s: 900, off_s: 300 };
const AERATOR: Actuator = Actuator::new(
    ActuatorKind::Aerator,
    Rule::Aerator { channel: 0, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses: PAUSES },
);
const HEATER: Actuator = Actuator::new(
    ActuatorKind::Heater,
    Rule::Band { channel: 0, low: 15.0, high: 20.0, raises: true, safe: false, pauses: PAUSES },
);

struct Rig {
    config: Config,
    control: Control,
    now_ms: u64,
    changes: Vec<Change>,
}

impl Rig {
    fn new(actuator: Actuator) -> Self {
        let mut config = Config::new(1);
        config.actuators.push(actuator).unwrap();
        Self { control: Control::new(&config, 0, 1, 0), config, now_ms: 0, changes: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { ms: self.now_ms, ..Now::default() }
    }

    fn see(&mut self, value: f32, flag: Flag, tests: Tests) {
        self.take(Seen { value: Some(value), quality: Quality::Present { flag, tests } });
    }

    fn miss(&mut self) {
        self.take(Seen { value: None, quality: Quality::Missing(MissingReason::NoAnswer) });
    }

    fn take(&mut self, seen: Seen) {
        self.now_ms += 10_000;
        let now = self.now();
        self.control.observe(&self.config, &now, self.now_ms, |_| Some(seen));
        self.decide();
    }

    fn decide(&mut self) {
        let now = self.now();
        let changes = &mut self.changes;
        self.control.decide(&self.config, &now, |change| changes.push(change));
    }

    fn order(&mut self, which: u8, on: bool, for_s: u32) -> Result<(), Refusal> {
        let now = self.now();
        self.control.order(&self.config, &now, which, on, for_s)
    }

    fn good(&mut self, value: f32, rounds: u32) {
        for _ in 0..rounds {
            self.see(value, Flag::Good, Tests::NONE);
        }
    }

    fn is_on(&self) -> bool {
        self.control.is_on(0)
    }

    fn last(&self) -> Option<(bool, Cause)> {
        self.changes.last().map(|change| (change.on, change.cause))
    }
}

/// Past the restart, with the aerator off for longer than its pause.
fn resting() -> Rig {
    let mut rig = Rig::new(AERATOR);
    rig.good(7.0, 130);
    assert_eq!(rig.last(), Some((false, Cause::Rule)));
    rig
}

#[test]
fn ten_minutes_without_any_round_bring_the_aerator_on() {
    let mut rig = resting();
    let heard_ms = rig.now_ms;
    let wake_ms = rig.control.wake_ms(&rig.config, heard_ms).unwrap();
    assert!(wake_ms <= heard_ms + 600_000, "it asks to be woken in time");
    rig.now_ms = heard_ms + 599_999;
    rig.decide();
    assert!(!rig.is_on());
    rig.now_ms = heard_ms + 600_000;
    rig.decide();
    assert_eq!(rig.last(), Some((true, Cause::Stale)));
    // And back: its shortest time and three good readings, whichever is later.
    rig.good(7.0, 89);
    assert!(rig.is_on());
    rig.good(7.0, 1);
    assert!(!rig.is_on());
}

#[test]
fn two_good_readings_are_too_few_to_give_control_back() {
    let mut rig = resting();
    for _ in 0..3 {
        rig.miss();
    }
    assert_eq!(rig.last(), Some((true, Cause::Missed)));
    for _ in 0..100 {
        rig.good(7.0, 2);
        rig.miss();
    }
    assert!(rig.is_on());
    rig.good(7.0, 3);
    assert!(!rig.is_on());
}

#[test]
fn a_stuck_channel_is_a_blind_one() {
    let mut rig = resting();
    rig.see(7.0, Flag::Suspect, Tests::STUCK);
    assert_eq!(rig.last(), Some((true, Cause::Failed)));
}

#[test]
fn suspect_high_oxygen_stops_nothing() {
    let mut rig = resting();
    rig.good(3.0, 1);
    assert_eq!(rig.last(), Some((true, Cause::Rule)));
    rig.good(5.0, 100);
    rig.see(9.0, Flag::Suspect, Tests::SPIKE);
    rig.see(9.0, Flag::Suspect, Tests::RATE);
    assert!(rig.is_on());
    rig.good(9.0, 1);
    assert!(!rig.is_on());
}

#[test]
fn orders_against_what_is_safe_are_refused_while_blind() {
    let mut aerator = Rig::new(AERATOR);
    assert_eq!(aerator.order(0, false, 60), Err(Refusal::Low));
    assert_eq!(aerator.order(0, true, 60), Ok(()));
    assert_eq!(aerator.order(1, true, 60), Err(Refusal::Unknown));
    aerator.decide();
    assert!(aerator.is_on());

    let mut heater = Rig::new(HEATER);
    assert_eq!(heater.order(0, true, 60), Err(Refusal::Safe));
    heater.good(17.0, 40);
    assert_eq!(heater.order(0, true, 3_600), Ok(()));
    heater.good(17.0, 1);
    assert_eq!(heater.last(), Some((true, Cause::Remote)));
    for _ in 0..3 {
        heater.miss();
    }
    assert_eq!(heater.last(), Some((false, Cause::Missed)), "safety ends an order, and does not wait");
    heater.good(17.0, 100);
    assert!(!heater.is_on(), "and the order does not come back");
}
