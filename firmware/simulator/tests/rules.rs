//! Every rule of a farm on the real node core, with no gateway: it goes safe, and it returns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use node::RestartCause;
use node::config::{Actuator, Config, ConfigError, Drive, Manual, Proof};
use node::control::{Condition, Interlock, Pauses, Rule};
use node::ring::Ring;
use node::sun::Place;
use simulator::host::{Flash, Host};
use simulator::sites::Builder;
use simulator::world::World;
use telemetry::mac::Key;
use telemetry::record::{Event, EventCode};
use telemetry::session::{Command, Nonce, Order, Receipt, Session};
use telemetry::topic::{Down, Up};
use telemetry::{ActuatorKind as Kind, Alarm, Flag, NodeName, Property, Quality, Record, Tests};

const SECTORS: usize = 64;
/// 2026-11-24T00:00 in Fuzhou.
const MIDNIGHT_MS: i64 = 1_795_449_600_000;
const HOUR: u64 = 3_600;
const QUICK: Pauses = Pauses { on_s: 60, off_s: 30 };
const FUZHOU: Place = Place { latitude: 26.07, longitude: 119.30, utc_offset_min: 480 };

fn keys(node: &NodeName) -> Key {
    Key::derive(&[7; 32], node)
}

/// What is true, by channel, and what was switched when.
#[derive(Default)]
struct Scene {
    now_ms: u64,
    values: HashMap<u32, f64>,
    /// Channels that are so only while an actuator is on: a motor's current, a pipe's flow.
    follows: HashMap<u32, u8>,
    on: HashMap<u8, bool>,
    /// Two that were on together, if only for an instant.
    overlapped: bool,
    exclusive: Option<[u8; 2]>,
    starts: Vec<(u8, u64)>,
}

#[derive(Clone)]
struct Script(Arc<Mutex<Scene>>);

impl World for Script {
    fn step(&mut self, _utc_ms: i64, dt_s: f64) {
        self.0.lock().unwrap().now_ms += (dt_s * 1e3).round() as u64;
    }

    fn value(&self, _property: Property, depth_m: f64) -> Option<f64> {
        // The depth is the channel's index here.
        let (scene, channel) = (self.0.lock().unwrap(), depth_m as u32);
        let idle = scene.follows.get(&channel).is_some_and(|actuator| scene.on.get(actuator) != Some(&true));
        scene.values.get(&channel).map(|value| if idle { 0.0 } else { *value })
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        let mut scene = self.0.lock().unwrap();
        let before = scene.on.insert(actuator, on);
        let both = scene.exclusive.is_some_and(|two| two.iter().all(|one| scene.on.get(one) == Some(&true)));
        scene.overlapped |= both;
        if before != Some(on) && on {
            let now_ms = scene.now_ms;
            scene.starts.push((actuator, now_ms));
        }
    }
}

struct Farm {
    host: Host,
    scene: Arc<Mutex<Scene>>,
    now_us: u64,
}

/// A node with a direct input for each of these, sampled every 10 s.
fn wired(channels: &[Property]) -> Builder {
    let mut node = Builder::new("farm", &keys, 10, 1).unwrap();
    for (index, property) in channels.iter().enumerate() {
        node.direct(*property, index as f64).unwrap();
    }
    node
}

impl Farm {
    fn new(mut node: Builder, actuators: &[Actuator], interlocks: &[Interlock], values: &[f64]) -> Self {
        let config = node.config_mut();
        config.actuators.extend(actuators.iter().copied());
        config.interlocks.extend(interlocks.iter().copied());
        config.place = Some(FUZHOU);
        let scene = Arc::new(Mutex::new(Scene::default()));
        scene.lock().unwrap().values = (0..).zip(values.iter().copied()).collect();
        let parts = node.build(Box::new(Script(Arc::clone(&scene))), Flash::new(SECTORS)).unwrap();
        let host = Host::new(parts, MIDNIGHT_MS, 0).unwrap();
        Self { host, scene, now_us: 0 }
    }

    fn set(&mut self, channel: u32, value: f64) {
        self.scene.lock().unwrap().values.insert(channel, value);
    }

    fn follow(&mut self, channel: u32, actuator: u8) {
        self.scene.lock().unwrap().follows.insert(channel, actuator);
    }

    fn lose(&mut self, channel: u32) {
        self.scene.lock().unwrap().values.remove(&channel);
    }

    fn pass(&mut self, seconds: u64) {
        self.now_us += seconds * 1_000_000;
        self.host.run(self.now_us);
    }

    /// Moves a value as water and air do, so that no test of quality fires.
    fn drift(&mut self, channel: u32, to: f64, steps: u32) {
        let from = self.scene.lock().unwrap().values[&channel];
        for step in 1..=steps {
            self.set(channel, from + (to - from) * f64::from(step) / f64::from(steps));
            self.pass(10);
        }
    }

    fn on(&self) -> Vec<u8> {
        let scene = self.scene.lock().unwrap();
        let mut on: Vec<_> = scene.on.iter().filter(|(_, on)| **on).map(|(actuator, _)| *actuator).collect();
        on.sort_unstable();
        on
    }

    fn has(&self, alarm: Alarm) -> bool {
        self.host.node().unwrap().alarms() & alarm.bit() != 0
    }

    fn events(&self) -> Vec<Event> {
        let copy = Flash::from_image(SECTORS, &self.host.flash().image());
        let (mut ring, _) = Ring::open_or_format(copy, 0).unwrap();
        let mut bytes = [0; 512];
        let mut events = Vec::new();
        for seq in ring.floor()..ring.next_seq() {
            if let Some(Ok((_, Record::Event(event)))) = ring.read(seq, &mut bytes).unwrap().map(Record::decode) {
                events.push(event);
            }
        }
        events
    }

    /// Why an actuator last changed.
    fn cause(&self, actuator: u8) -> i64 {
        let changes = |event: &&Event| event.code == EventCode::ActuatorChanged && event.subject == actuator;
        self.events().iter().rfind(changes).unwrap().detail
    }

    /// A gateway opens a session, sends this, and dies.
    fn visit(&mut self, utc_ms: Option<i64>, order: Option<Order>) {
        self.host.connected();
        let mut nonce = None;
        for _ in 0..10 {
            self.pass(1);
            while let Some((channel, payload)) = self.host.next_publish() {
                if let (Up::Session, Ok(Session::Open(open))) = (channel, Session::decode(&payload)) {
                    let mut body = [0; 64];
                    let receipt = Receipt { ring: open.ring, next: open.floor, utc_ms };
                    let length = receipt.encode(&mut body).unwrap();
                    self.down(Down::Receipt, open.nonce, &body[..length]);
                    nonce = Some(open.nonce);
                }
            }
            if let (Some(nonce), Some(order)) = (nonce, order) {
                let mut body = [0; 64];
                let length = Command { counter: 1, not_after_ms: u64::MAX, order }.encode(&mut body).unwrap();
                self.down(Down::Command, nonce, &body[..length]);
            }
        }
        assert!(nonce.is_some());
        self.host.disconnected();
    }

    fn down(&mut self, kind: Down, nonce: Nonce, body: &[u8]) {
        let name = NodeName::new("farm").unwrap();
        let mut sealed = [0; 256];
        let length = keys(&name).seal(&name, kind, nonce, body, &mut sealed).unwrap();
        self.host.message(kind, &sealed[..length]);
    }
}

const fn aerator(on_below: f32, off_above: f32) -> Actuator {
    Actuator::new(
        Kind::Aerator,
        Rule::Aerator { channel: 0, on_below, off_above, critical: 2.0, pauses: Pauses { on_s: 900, off_s: 300 } },
    )
}

/// Of channel 0: on above `high` (a fan, a vent) or below `low` (a heater).
const fn band(kind: Kind, low: f32, high: f32, raises: bool) -> Actuator {
    Actuator::new(kind, Rule::Band { channel: 0, low, high, raises, safe: false, pauses: QUICK })
}

const SIREN: Actuator = Actuator::new(Kind::Siren, Rule::Siren);

#[test]
fn aerators_on_one_channel_start_at_their_own_levels_and_stop_at_them() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[aerator(4.0, 5.5), aerator(3.0, 4.5)], &[], &[7.0]);
    farm.pass(1_000);
    assert_eq!(farm.on(), []);
    farm.drift(0, 3.6, 150);
    assert_eq!(farm.on(), [0]);
    farm.drift(0, 2.8, 60);
    assert_eq!(farm.on(), [0, 1]);
    farm.drift(0, 4.8, 120);
    assert_eq!(farm.on(), [0], "stage 2 has its own level");
    farm.drift(0, 5.8, 60);
    assert_eq!(farm.on(), []);
}

#[test]
fn after_a_power_cut_aerators_start_one_after_the_other_and_after_a_crash_they_stay_on() {
    let four = [aerator(4.0, 5.5); 4];
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &four, &[], &[]);
    farm.pass(60);
    let starts = farm.scene.lock().unwrap().starts.clone();
    assert_eq!(starts.iter().map(|(actuator, _)| *actuator).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for pair in starts.windows(2) {
        let apart_ms = pair[1].1 - pair[0].1;
        assert!((5_000..=10_000).contains(&apart_ms), "{apart_ms} ms apart");
    }
    // The program fails; the relays let go, which is on, and nothing is switched off for a turn.
    farm.host.power_on(RestartCause::Watchdog, farm.now_us).unwrap();
    farm.host.run(farm.now_us);
    assert_eq!(farm.on(), [0, 1, 2, 3]);
    farm.pass(60);
    assert_eq!(farm.scene.lock().unwrap().starts.len(), 4, "and nothing was started again");
}

#[test]
fn starts_by_a_rule_are_staggered_as_well() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[aerator(4.0, 5.5); 3], &[], &[7.0]);
    farm.pass(1_000);
    assert_eq!(farm.on(), []);
    farm.scene.lock().unwrap().starts.clear();
    farm.drift(0, 3.9, 120);
    farm.pass(30);
    let starts = farm.scene.lock().unwrap().starts.clone();
    assert_eq!(starts.len(), 3);
    assert!(starts.windows(2).all(|pair| (5_000..=10_000).contains(&(pair[1].1 - pair[0].1))), "{starts:?}");
}

#[test]
fn the_night_floor_keeps_aerators_on_until_an_hour_after_sunrise_and_caps_nothing() {
    let floored = Actuator { night_floor: true, ..aerator(4.0, 5.5) };
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[floored], &[], &[8.0]);
    farm.visit(Some(MIDNIGHT_MS), None);
    farm.visit(None, Some(Order::Switch { actuator: 0, on: false, for_s: 600 }));
    assert_eq!(farm.host.node().unwrap().counters().refused, 1, "nobody switches it off at night");
    // Sunrise of 24 November in Fuzhou: 06:28 (astral); the floor ends at 07:28.
    farm.pass(7 * HOUR + 20 * 60 - farm.now_us / 1_000_000);
    assert_eq!(farm.on(), [0]);
    farm.pass(20 * 60);
    assert_eq!(farm.on(), [], "the gateway is dead, and the node has its own clock");
    // By day it is the rule's affair.
    farm.drift(0, 3.8, 200);
    assert_eq!(farm.on(), [0]);
    farm.drift(0, 8.0, 200);
    assert_eq!(farm.on(), []);
    farm.pass(24 * HOUR - farm.now_us / 1_000_000 - 60);
    assert_eq!(farm.on(), []);
    farm.pass(80);
    assert_eq!((farm.on(), farm.cause(0)), (vec![0], 15));
}

#[test]
fn without_a_clock_the_night_floor_is_a_margin_on_oxygen() {
    let floored = Actuator { night_floor: true, ..aerator(4.0, 5.5) };
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[floored], &[], &[6.2]);
    farm.pass(2 * HOUR);
    assert_eq!(farm.on(), [0], "above 5.5, and it is still not sure that it is day");
    farm.drift(0, 6.7, 60);
    assert_eq!(farm.on(), []);
    farm.drift(0, 3.9, 200);
    assert_eq!(farm.on(), [0]);
    farm.drift(0, 6.0, 200);
    assert_eq!(farm.on(), [0]);
    // At noon a clock comes, and the level is the config's own again.
    farm.visit(Some(MIDNIGHT_MS + 12 * 3_600_000), None);
    farm.pass(20);
    assert_eq!(farm.on(), []);
}

#[test]
fn an_aerator_without_current_sounds_the_siren_and_another_starts_until_it_runs_again() {
    let proof = Proof { channel: 1, at_least: 1.0, within_s: 10, backup: Some(1) };
    let actuators = [Actuator { proof: Some(proof), ..aerator(4.0, 5.5) }, aerator(2.0, 3.0), SIREN];
    let channels = [Property::DissolvedOxygen, Property::MotorCurrent];
    let mut farm = Farm::new(wired(&channels), &actuators, &[], &[7.0, 4.2]);
    farm.follow(1, 0);
    farm.pass(1_020);
    farm.set(1, 0.0);
    assert_eq!(farm.on(), []);
    assert_eq!(farm.host.node().unwrap().alarms(), 0);
    farm.drift(0, 4.05, 100);
    // It is switched on and draws nothing.
    farm.drift(0, 3.95, 2);
    farm.pass(20);
    let events = farm.events();
    let told = |code, subject| {
        events.iter().rfind(|event| event.code == code && event.subject == subject && event.value == 1).unwrap().t_ms
    };
    let after_ms = told(EventCode::Alarm, Alarm::NotRunning as u8) - told(EventCode::ActuatorChanged, 0);
    assert!(after_ms <= 10_000, "{after_ms} ms");
    farm.pass(10);
    assert_eq!(farm.on(), [0, 1, 2]);
    assert_eq!(farm.cause(1), 13);
    assert_eq!(farm.host.node().unwrap().concerned(Alarm::NotRunning), 1);
    // Enough oxygen: neither is needed, and the first is still known not to run.
    farm.drift(0, 6.0, 120);
    assert_eq!((farm.on(), farm.has(Alarm::NotRunning)), (vec![2], true));
    farm.drift(0, 3.9, 120);
    assert_eq!(farm.on(), [0, 1, 2]);
    // Somebody has closed the breaker.
    farm.set(1, 4.2);
    farm.pass(920);
    assert_eq!(farm.on(), [0], "the other has run its shortest time");
    assert!(!farm.has(Alarm::NotRunning));
}

#[test]
fn a_contactor_that_does_not_let_go_is_told() {
    let proof = Proof { channel: 1, at_least: 1.0, within_s: 10, backup: None };
    let actuators = [Actuator { proof: Some(proof), ..aerator(4.0, 5.5) }];
    let channels = [Property::DissolvedOxygen, Property::MotorCurrent];
    let mut farm = Farm::new(wired(&channels), &actuators, &[], &[7.0, 4.2]);
    farm.pass(1_000);
    assert_eq!(farm.on(), []);
    assert!(farm.has(Alarm::Unproven) && !farm.has(Alarm::NotRunning));
    farm.set(1, 0.0);
    farm.pass(20);
    assert!(!farm.has(Alarm::Unproven));
}

#[test]
fn a_current_sensor_that_dies_is_no_motor_that_stands() {
    let proof = Proof { channel: 1, at_least: 1.0, within_s: 10, backup: Some(1) };
    let actuators = [Actuator { proof: Some(proof), ..aerator(4.0, 5.5) }, aerator(2.0, 3.0)];
    let channels = [Property::DissolvedOxygen, Property::MotorCurrent];
    let mut farm = Farm::new(wired(&channels), &actuators, &[], &[3.5, 4.2]);
    farm.follow(1, 0);
    farm.pass(1_000);
    assert_eq!(farm.on(), [0]);
    farm.lose(1);
    farm.pass(60);
    assert_eq!(farm.on(), [0]);
    assert!(farm.has(Alarm::ControlBlind) && !farm.has(Alarm::NotRunning));
    farm.set(1, 4.2);
    farm.pass(20);
    assert_eq!(farm.host.node().unwrap().alarms() & !Alarm::Ineffective.bit(), 0);
}

#[test]
fn twenty_minutes_without_a_rise_are_told_until_oxygen_rises() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[aerator(4.0, 5.5)], &[], &[7.0]);
    farm.pass(1_000);
    farm.drift(0, 3.9, 120);
    assert_eq!(farm.on(), [0]);
    farm.drift(0, 3.7, 115);
    assert!(!farm.has(Alarm::Ineffective), "not yet twenty minutes");
    farm.pass(60);
    assert!(farm.has(Alarm::Ineffective));
    farm.drift(0, 3.9, 12);
    assert!(!farm.has(Alarm::Ineffective));
    farm.drift(0, 5.3, 300);
    assert!(!farm.has(Alarm::Ineffective), "it rises");
    farm.drift(0, 6.0, 60);
    assert_eq!(farm.on(), []);
    farm.pass(1_500);
    assert!(!farm.has(Alarm::Ineffective));
}

#[test]
fn a_power_cut_on_battery_sounds_the_siren_and_its_end_silences_it() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen, Property::Mains]), &[SIREN], &[], &[7.0, 1.0]);
    farm.pass(60);
    assert_eq!((farm.on(), farm.has(Alarm::MainsLost)), (vec![], false));
    farm.set(1, 0.0);
    farm.pass(11);
    assert_eq!((farm.on(), farm.has(Alarm::MainsLost)), (vec![0], true));
    farm.lose(1);
    farm.pass(60);
    assert!(!farm.has(Alarm::MainsLost), "an input that says nothing is no power cut");
    farm.set(1, 0.0);
    farm.pass(11);
    farm.set(1, 1.0);
    farm.pass(11);
    assert_eq!((farm.on(), farm.has(Alarm::MainsLost)), (vec![], false));
}

#[test]
fn a_siren_is_silenced_for_half_an_hour_at_most_and_not_for_what_comes_after() {
    let channels = [Property::DissolvedOxygen, Property::Mains];
    let mut farm = Farm::new(wired(&channels), &[SIREN, aerator(4.0, 5.5)], &[], &[7.0, 0.0]);
    farm.pass(60);
    assert_eq!(farm.on(), [0, 1]);
    let silence = Order::Switch { actuator: 0, on: false, for_s: 12 * 3_600 };
    farm.visit(None, Some(silence));
    assert_eq!(farm.on(), [1]);
    farm.pass(1_700);
    assert_eq!(farm.on(), []);
    farm.pass(100);
    assert_eq!(farm.on(), [0], "the power is still off");
    farm.visit(None, Some(silence));
    assert_eq!(farm.on(), []);
    farm.drift(0, 1.8, 110);
    assert_eq!(farm.on(), [0, 1], "oxygen is news");
}

#[test]
fn the_local_switch_wins_over_everything_and_is_told() {
    let channels = [Property::DissolvedOxygen, Property::ActuatorState, Property::ActuatorState];
    let manual = Manual { on: Some(1), off: Some(2) };
    let actuators = [Actuator { manual, ..aerator(4.0, 5.5) }];
    let mut farm = Farm::new(wired(&channels), &actuators, &[], &[7.0, 0.0, 0.0]);
    farm.pass(1_000);
    assert_eq!(farm.on(), []);
    farm.set(1, 1.0);
    farm.pass(11);
    assert_eq!((farm.on(), farm.cause(0), farm.has(Alarm::Manual)), (vec![0], 9, true));
    farm.visit(None, Some(Order::Switch { actuator: 0, on: false, for_s: 600 }));
    assert_eq!(farm.on(), [0]);
    assert!(farm.events().iter().any(|event| event.code == EventCode::CommandAnswered && event.detail == 5));
    // A man is in the water: off, whatever oxygen is, and without waiting.
    farm.set(2, 1.0);
    farm.pass(11);
    assert_eq!(farm.on(), []);
    farm.drift(0, 1.5, 120);
    assert_eq!(farm.on(), []);
    assert!(farm.has(Alarm::OxygenCritical), "and the node says what that means");
    farm.set(1, 0.0);
    farm.set(2, 0.0);
    farm.pass(11);
    assert_eq!((farm.on(), farm.has(Alarm::Manual)), (vec![0], false));
    // A switch that nobody can read any more lets go after three rounds.
    farm.set(2, 1.0);
    farm.pass(11);
    assert_eq!(farm.on(), []);
    farm.lose(2);
    farm.pass(20);
    assert_eq!(farm.on(), []);
    farm.pass(20);
    assert_eq!(farm.on(), [0]);
}

#[test]
fn during_calibration_the_aerator_stays_on_and_readings_are_marked() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[aerator(4.0, 5.5), SIREN], &[], &[7.0]);
    farm.pass(1_000);
    assert_eq!(farm.on(), []);
    farm.visit(None, Some(Order::Calibrate { channel: 0, for_s: 1_200 }));
    assert_eq!((farm.on(), farm.cause(0)), (vec![0], 14));
    // Zero solution, then air.
    farm.set(0, 0.05);
    farm.pass(300);
    assert!(farm.has(Alarm::Calibrating) && !farm.has(Alarm::OxygenCritical) && !farm.has(Alarm::ControlBlind));
    let Quality::Present { flag, tests } = farm.host.node().unwrap().round().readings[0].quality else { panic!() };
    assert!(tests.contains(Tests::CALIBRATING) && flag == Flag::Suspect);
    farm.set(0, 8.3);
    farm.pass(850);
    assert_eq!(farm.on(), [0], "high, and not believed");
    // Back in the pond when the time is over, with nobody to say so.
    farm.set(0, 7.0);
    farm.pass(60);
    assert!(!farm.has(Alarm::Calibrating));
    farm.pass(60);
    assert_eq!(farm.on(), []);
    // A probe that is dead after its calibration is a dead probe.
    farm.visit(None, Some(Order::Calibrate { channel: 0, for_s: 60 }));
    farm.lose(0);
    farm.pass(120);
    assert!(farm.has(Alarm::ControlBlind));
    assert_eq!(farm.on(), [0]);
}

#[test]
fn noise_around_the_critical_level_makes_one_alarm() {
    let mut farm = Farm::new(wired(&[Property::DissolvedOxygen]), &[aerator(4.0, 5.5)], &[], &[3.0]);
    farm.pass(60);
    farm.drift(0, 1.99, 60);
    for _ in 0..50 {
        farm.set(0, 2.05);
        farm.pass(10);
        farm.set(0, 1.95);
        farm.pass(10);
    }
    assert!(farm.has(Alarm::OxygenCritical));
    farm.drift(0, 2.3, 20);
    assert!(!farm.has(Alarm::OxygenCritical));
    let told = |event: &&Event| event.code == EventCode::Alarm && event.subject == Alarm::OxygenCritical as u8;
    assert_eq!(farm.events().iter().filter(told).count(), 2);
}

/// Closed by rain on channel 1 and by wind above 10 m/s on channel 2.
fn weather(actuator: u8, unknown: bool) -> [Interlock; 2] {
    let rain = Condition::Above { channel: 1, level: 0.0, release: 0.0 };
    let wind = Condition::Above { channel: 2, level: 10.0, release: 8.0 };
    [rain, wind].map(|when| Interlock { actuator, on: false, when, unknown, hold_s: 300 })
}

#[test]
fn rain_and_wind_close_the_roof_vent_and_it_opens_again_when_they_are_over() {
    let channels = [Property::AirTemperature, Property::Rain, Property::WindSpeed];
    let vent = band(Kind::Vent, 20.0, 26.0, false);
    let mut farm = Farm::new(wired(&channels), &[vent], &weather(0, true), &[28.0, 0.0, 3.0]);
    farm.pass(60);
    assert_eq!(farm.on(), [0]);
    for (channel, bad, good) in [(1, 0.4, 0.0), (2, 10.5, 7.0)] {
        farm.set(channel, bad);
        farm.pass(11);
        assert_eq!((farm.on(), farm.cause(0)), (vec![], 10), "at once, within its shortest time");
        farm.set(channel, good);
        farm.pass(250);
        assert_eq!(farm.on(), [], "gusts and showers come again");
        farm.pass(100);
        assert_eq!(farm.on(), [0]);
    }
    farm.set(2, 10.5);
    farm.pass(11);
    farm.set(2, 9.0);
    farm.pass(600);
    assert_eq!(farm.on(), [], "not below its release");
    farm.set(2, 3.0);
    farm.pass(20);
    assert_eq!(farm.on(), [0]);
    farm.lose(2);
    farm.pass(20);
    assert_eq!(farm.on(), [0], "two missed readings are no reason");
    farm.pass(20);
    assert_eq!((farm.on(), farm.has(Alarm::ControlBlind)), (vec![], true), "as declared: nobody knows the wind");
    farm.set(2, 3.0);
    farm.pass(20);
    assert_eq!((farm.on(), farm.has(Alarm::ControlBlind)), (vec![0], false));
}

#[test]
fn co2_is_never_dosed_while_a_vent_is_open_or_may_be() {
    let channels = [Property::AirTemperature, Property::ActuatorState, Property::CarbonDioxide];
    let proof = Proof { channel: 1, at_least: 0.5, within_s: 120, backup: None };
    let vent = Actuator { proof: Some(proof), soak_s: 60, ..band(Kind::Vent, 20.0, 26.0, false) };
    let rule = Rule::Band { channel: 2, low: 800.0, high: 1_000.0, raises: true, safe: false, pauses: QUICK };
    let co2 = Actuator::new(Kind::CarbonDioxideDoser, rule);
    let closed = Interlock { actuator: 1, on: false, when: Condition::On { actuator: 0 }, unknown: true, hold_s: 0 };
    let mut farm = Farm::new(wired(&channels), &[vent, co2], &[closed], &[22.0, 0.0, 600.0]);
    farm.pass(60);
    assert_eq!(farm.on(), [1]);
    farm.drift(0, 27.0, 60);
    farm.set(1, 1.0);
    farm.pass(60);
    assert_eq!(farm.on(), [0]);
    // Told to close; its end switch says so after a minute and a half.
    farm.drift(0, 19.0, 100);
    farm.pass(10);
    assert_eq!(farm.on(), [], "it is still on its way");
    farm.set(1, 0.0);
    farm.pass(20);
    assert_eq!(farm.on(), [1]);
    // It sticks open: never closed, never dosed, and told after its travel time.
    farm.drift(0, 27.0, 60);
    farm.set(1, 1.0);
    farm.pass(60);
    farm.drift(0, 19.0, 100);
    farm.pass(180);
    assert_eq!((farm.on(), farm.has(Alarm::Unproven)), (vec![], true));
    farm.set(1, 0.0);
    farm.pass(20);
    assert_eq!((farm.on(), farm.has(Alarm::Unproven)), (vec![1], false));
}

#[test]
fn a_vent_that_does_not_open_in_its_travel_time_is_told_and_tried_again() {
    let channels = [Property::AirTemperature, Property::ActuatorState];
    let proof = Proof { channel: 1, at_least: 0.5, within_s: 60, backup: None };
    let vent = Actuator { proof: Some(proof), soak_s: 300, ..band(Kind::Vent, 20.0, 26.0, false) };
    let mut farm = Farm::new(wired(&channels), &[vent], &[], &[22.0, 0.0]);
    farm.follow(1, 0);
    farm.set(1, 0.0);
    farm.pass(600);
    farm.drift(0, 27.0, 10);
    farm.pass(80);
    assert_eq!((farm.on(), farm.cause(0), farm.has(Alarm::Unproven)), (vec![], 12, true));
    farm.pass(200);
    assert_eq!(farm.on(), [], "its motor rests");
    farm.pass(60);
    assert_eq!(farm.on(), [0], "and is tried again");
    farm.set(1, 1.0);
    farm.pass(120);
    assert_eq!((farm.on(), farm.has(Alarm::Unproven)), (vec![0], false));
}

#[test]
fn heater_and_fan_never_run_together_and_the_pad_not_with_closed_vents() {
    let channels = [Property::AirTemperature];
    let yields = |actuator, when| Interlock { actuator, on: false, when, unknown: true, hold_s: 30 };
    let actuators = [
        band(Kind::Fan, 20.0, 24.0, false),
        // Wrongly set: without the interlock both would run between 20 and 24.
        band(Kind::Heater, 22.0, 26.0, true),
        band(Kind::Vent, 24.0, 27.0, false),
        band(Kind::Pad, 23.0, 25.0, false),
    ];
    let interlocks = [yields(1, Condition::On { actuator: 0 }), yields(3, Condition::Off { actuator: 2 })];
    let mut farm = Farm::new(wired(&channels), &actuators, &interlocks, &[21.0]);
    farm.scene.lock().unwrap().exclusive = Some([0, 1]);
    farm.pass(120);
    assert_eq!(farm.on(), [1]);
    farm.drift(0, 25.5, 90);
    assert_eq!(farm.on(), [0], "the fan goes first, and no pad while the vent is shut");
    farm.drift(0, 27.5, 60);
    farm.pass(60);
    assert_eq!(farm.on(), [0, 2, 3]);
    farm.drift(0, 23.5, 100);
    assert_eq!(farm.on(), [0], "the vent closes and the pad with it");
    farm.drift(0, 21.0, 60);
    assert_eq!(farm.on(), [0]);
    farm.drift(0, 19.5, 30);
    farm.pass(60);
    assert_eq!(farm.on(), [1], "the fan rests, so the heater may");
    // The channel dies, and comes back.
    farm.lose(0);
    farm.pass(40);
    assert_eq!(farm.on(), []);
    farm.set(0, 19.5);
    farm.pass(60);
    assert_eq!(farm.on(), [1]);
    assert!(!farm.scene.lock().unwrap().overlapped, "one goes off before the other comes on");
}

#[test]
fn irrigation_runs_so_long_soaks_and_is_stopped_by_rain_an_empty_tank_and_a_dry_pipe() {
    let channels = [Property::SoilMoisture, Property::Rain, Property::Level, Property::ActuatorState];
    let rule = Rule::Band {
        channel: 0,
        low: 30.0,
        high: 40.0,
        raises: true,
        safe: false,
        pauses: Pauses { on_s: 30, off_s: 30 },
    };
    let proof = Proof { channel: 3, at_least: 0.5, within_s: 20, backup: None };
    let irrigation = Actuator { run_s: 300, soak_s: 900, proof: Some(proof), ..Actuator::new(Kind::Irrigation, rule) };
    let rain = Condition::Above { channel: 1, level: 0.0, release: 0.0 };
    let tank = Condition::Below { channel: 2, level: 0.3, release: 0.5 };
    let blocks = [rain, tank].map(|when| Interlock { actuator: 0, on: false, when, unknown: true, hold_s: 0 });
    let mut farm = Farm::new(wired(&channels), &[irrigation], &blocks, &[20.0, 0.0, 2.0, 1.0]);
    farm.follow(3, 0);
    farm.pass(890);
    assert_eq!(farm.on(), [], "it may have run just before the restart");
    farm.pass(30);
    assert_eq!(farm.on(), [0]);
    farm.pass(260);
    assert_eq!(farm.on(), [0]);
    farm.pass(20);
    assert_eq!((farm.on(), farm.cause(0)), (vec![], 11));
    farm.pass(860);
    assert_eq!(farm.on(), [], "the water soaks in");
    farm.pass(60);
    assert_eq!(farm.on(), [0]);
    for (channel, bad, good) in [(1, 2.0, 0.0), (2, 0.2, 2.0)] {
        farm.set(channel, bad);
        farm.pass(11);
        assert_eq!((farm.on(), farm.cause(0)), (vec![], 10));
        farm.pass(2_000);
        assert_eq!(farm.on(), []);
        farm.set(channel, good);
        farm.pass(20);
        assert_eq!(farm.on(), [0]);
    }
    // No flow: the pump would run dry.
    farm.pass(1_500);
    farm.set(3, 0.0);
    while farm.on() != [0] {
        farm.pass(10);
    }
    farm.pass(40);
    assert_eq!((farm.on(), farm.cause(0), farm.has(Alarm::Unproven)), (vec![], 12, true));
    farm.set(3, 1.0);
    while farm.on() != [0] {
        farm.pass(10);
    }
    farm.pass(30);
    assert_eq!((farm.on(), farm.has(Alarm::Unproven)), (vec![0], false));
    farm.lose(0);
    farm.pass(40);
    assert_eq!((farm.on(), farm.has(Alarm::ControlBlind)), (vec![], true), "blind is off");
}

#[test]
fn each_safe_state_is_entered_when_declared_and_left_again() {
    // The config says two minutes; three missed readings would be half of one.
    let heater = Actuator { blind_after_s: 30, ..band(Kind::Heater, 22.0, 26.0, true) };
    let vent = Actuator {
        restart_on: Some(false),
        ..Actuator::new(
            Kind::Vent,
            Rule::Band { channel: 0, low: 20.0, high: 26.0, raises: false, safe: true, pauses: QUICK },
        )
    };
    let mut farm = Farm::new(wired(&[Property::AirTemperature]), &[heater, vent], &[], &[18.0]);
    farm.pass(19);
    assert_eq!(farm.on(), [], "after a restart the vent is as declared for a restart");
    farm.pass(60);
    assert_eq!(farm.on(), [0]);
    farm.lose(0);
    farm.pass(40);
    assert_eq!(farm.on(), [1], "the heater is off, the vent as declared");
    farm.set(0, 18.0);
    farm.pass(100);
    assert_eq!(farm.on(), [0]);
}

fn refused(change: impl Fn(&mut Config)) -> ConfigError {
    let mut node = wired(&[Property::DissolvedOxygen, Property::ActuatorState, Property::AirTemperature]);
    let config = node.config_mut();
    config.place = Some(FUZHOU);
    let heater = Rule::Band { channel: 2, low: 1.0, high: 2.0, raises: true, safe: false, pauses: QUICK };
    config.actuators.extend([aerator(4.0, 5.5), Actuator::new(Kind::Heater, heater), SIREN]);
    assert_eq!(config.validate(), Ok(()));
    change(config);
    config.validate().unwrap_err()
}

#[test]
fn a_config_that_declares_what_is_not_safe_is_refused_by_name() {
    let safe_band = |kind| {
        Actuator::new(kind, Rule::Band { channel: 2, low: 1.0, high: 2.0, raises: true, safe: true, pauses: QUICK })
    };
    let proof = Proof { channel: 1, at_least: 0.5, within_s: 10, backup: None };
    let lock = |actuator, on, when| Interlock { actuator, on, when, unknown: false, hold_s: 0 };
    let above = |level, release| Condition::Above { channel: 2, level, release };
    type Wrong<'a> = (ConfigError, &'a dyn Fn(&mut Config));
    let wrong: &[Wrong<'_>] = &[
        (ConfigError::HoldingRelays(0), &|c| c.actuators[0].drive = Drive::Relays),
        (ConfigError::Aerator(0), &|c| c.actuators[0].rule = Rule::Remote),
        (ConfigError::Aerator(0), &|c| c.actuators[0].kind = Kind::Fan),
        (ConfigError::SafeState(0), &|c| c.actuators[0].restart_on = Some(false)),
        (ConfigError::SafeState(1), &|c| c.actuators[1] = safe_band(Kind::Heater)),
        (ConfigError::SafeState(1), &|c| c.actuators[1] = safe_band(Kind::CarbonDioxideDoser)),
        (ConfigError::SafeState(1), &|c| c.actuators[1] = safe_band(Kind::Irrigation)),
        (ConfigError::SafeState(1), &|c| c.actuators[1] = safe_band(Kind::Doser)),
        (ConfigError::SafeState(1), &|c| c.actuators[1].restart_on = Some(true)),
        (ConfigError::TooSeldom(0), &|c| c.actuators[0].blind_after_s = 29),
        (ConfigError::Range("blind_after_s"), &|c| c.actuators[0].blind_after_s = 601),
        (ConfigError::Run(0), &|c| c.actuators[0].run_s = 3_600),
        (ConfigError::Run(1), &|c| c.actuators[1].run_s = 30),
        (ConfigError::Run(2), &|c| c.actuators[2].run_s = 60),
        (ConfigError::Night(1), &|c| c.actuators[1].night_floor = true),
        (ConfigError::Night(0), &|c| (c.actuators[0].night_floor, c.place) = (true, None)),
        (ConfigError::Manual(0), &|c| c.actuators[0].manual.on = Some(0)),
        (ConfigError::Manual(0), &|c| c.actuators[0].manual.off = Some(9)),
        (ConfigError::Proof(0), &|c| c.actuators[0].proof = Some(Proof { channel: 9, ..proof })),
        (ConfigError::Proof(0), &|c| c.actuators[0].proof = Some(Proof { at_least: f32::NAN, ..proof })),
        (ConfigError::Proof(0), &|c| c.actuators[0].proof = Some(Proof { backup: Some(0), ..proof })),
        (ConfigError::Proof(0), &|c| c.actuators[0].proof = Some(Proof { backup: Some(1), ..proof })),
        (ConfigError::Proof(1), &|c| c.actuators[1].proof = Some(proof)),
        (ConfigError::TooSeldom(0), &|c| c.actuators[0].proof = Some(Proof { within_s: 9, ..proof })),
        (ConfigError::Interlock(0), &|c| c.interlocks.push(lock(0, false, above(1.0, 1.0))).unwrap()),
        (ConfigError::Interlock(0), &|c| c.interlocks.push(lock(1, false, above(1.0, 2.0))).unwrap()),
        (ConfigError::Interlock(0), &|c| c.interlocks.push(lock(1, false, above(f32::NAN, 2.0))).unwrap()),
        (ConfigError::Interlock(0), &|c| c.interlocks.push(lock(9, false, above(2.0, 2.0))).unwrap()),
        (ConfigError::Interlock(0), &|c| {
            c.interlocks.push(Interlock { unknown: true, ..lock(1, true, above(2.0, 2.0)) }).unwrap();
        }),
        (ConfigError::Interlock(0), &|c| {
            c.interlocks.push(lock(1, false, Condition::On { actuator: 2 })).unwrap();
        }),
        (ConfigError::Interlock(0), &|c| {
            c.interlocks.push(lock(2, true, Condition::On { actuator: 1 })).unwrap();
        }),
        (ConfigError::Range("place"), &|c| c.place = Some(Place { latitude: f32::NAN, ..FUZHOU })),
        (ConfigError::Range("place"), &|c| c.place = Some(Place { longitude: f32::INFINITY, ..FUZHOU })),
        (ConfigError::Range("leaf_warmer_c"), &|c| c.leaf_warmer_c = f32::NAN),
        (ConfigError::Range("salinity_psu"), &|c| c.salinity_psu = f32::NAN),
        (ConfigError::Range("pressure_hpa"), &|c| c.pressure_hpa = f32::NAN),
        (ConfigError::Calibration(0), &|c| c.channels[0].calibration.slope = f32::NAN),
        (ConfigError::Calibration(0), &|c| c.channels[0].calibration.offset = f32::INFINITY),
        (ConfigError::Limits(2), &|c| c.channels[2].limits.min = Some(f32::NAN)),
        (ConfigError::Limits(2), &|c| c.channels[2].limits.max = Some(f32::INFINITY)),
        (ConfigError::Limits(2), &|c| c.channels[2].limits.max = Some(-30.0)),
        (ConfigError::Limits(0), &|c| c.channels[0].limits.min = Some(1.0)),
        (ConfigError::Rule(0), &|c| c.actuators[0].rule = aerator(f32::NAN, 5.5).rule),
        (ConfigError::Rule(0), &|c| c.actuators[0].rule = aerator(4.0, f32::INFINITY).rule),
    ];
    for (index, (error, change)) in wrong.iter().enumerate() {
        assert_eq!(refused(change), *error, "case {index}");
    }
    for drive in [Drive::Pin, Drive::RelaysTimeOut, Drive::RelaysWatchdog] {
        let mut config = wired(&[Property::DissolvedOxygen]).config_mut().clone();
        config.actuators.push(Actuator { drive, ..aerator(4.0, 5.5) }).unwrap();
        assert_eq!(config.validate(), Ok(()));
    }
}
