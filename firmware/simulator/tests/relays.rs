//! Relay boards on Modbus lines, byte by byte: coils follow control in a stated time, let go when
//! the node or the line is dead, and whatever a board does not do is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use node::RestartCause;
use node::config::{Actuator, Drive, Output};
use node::control::{Condition, Interlock, Pauses, Rule};
use node::ring::Ring;
use simulator::host::{Flash, Host};
use simulator::instrument;
use simulator::relay_board::{Fault, RelayBoard};
use simulator::sites::Builder;
use simulator::world::World;
use telemetry::mac::Key;
use telemetry::record::EventCode;
use telemetry::{ActuatorKind as Kind, Alarm, NodeName, Property, Quality, Record};

const SECTORS: usize = 64;
/// 2026-11-24T00:00 in Fuzhou.
const MIDNIGHT_MS: i64 = 1_795_449_600_000;
const QUICK: Pauses = Pauses { on_s: 60, off_s: 30 };
/// Time-out of the boards that have one, s.
const TIME_OUT_S: u16 = 30;
/// The only board with a time-out among the built-in profiles.
const LETS_GO: &str = "wb-mr6c";

fn keys(node: &NodeName) -> Key {
    Key::derive(&[7; 32], node)
}

/// What is true, by depth, and what really runs.
#[derive(Default)]
struct Scene {
    values: HashMap<u32, f64>,
    on: HashMap<u8, bool>,
    exclusive: Option<[u8; 2]>,
    overlapped: bool,
    changes: u32,
}

#[derive(Clone, Default)]
struct Script(Arc<Mutex<Scene>>);

impl World for Script {
    fn step(&mut self, _utc_ms: i64, _dt_s: f64) {}

    fn value(&self, _property: Property, depth_m: f64) -> Option<f64> {
        self.0.lock().unwrap().values.get(&(depth_m as u32)).copied()
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        let mut scene = self.0.lock().unwrap();
        scene.changes += u32::from(scene.on.insert(actuator, on) != Some(on));
        let both = scene.exclusive.is_some_and(|two| two.iter().all(|one| scene.on.get(one) == Some(&true)));
        scene.overlapped |= both;
    }
}

struct Farm {
    host: Host,
    scene: Script,
    now_us: u64,
}

/// A node that reads oxygen at depth 0 and air at depth 1 by itself, and what is added to it.
fn builder(period_s: u16, seed: u64) -> Builder {
    let mut node = Builder::new("farm", &keys, period_s, seed).unwrap();
    node.direct(Property::DissolvedOxygen, 0.0).unwrap();
    node.direct(Property::AirTemperature, 1.0).unwrap();
    node
}

impl Farm {
    fn new(node: Builder) -> Self {
        let scene = Script::default();
        scene.0.lock().unwrap().values = HashMap::from([(0, 7.0), (1, 23.0), (2, 25.0)]);
        let parts = node.build(Box::new(scene.clone()), Flash::new(SECTORS)).unwrap();
        let host = Host::new(parts, MIDNIGHT_MS, 0).unwrap();
        Self { host, scene, now_us: 0 }
    }

    /// A pond whose aerator hangs on the closed contact of a board with a time-out, at rest.
    fn pond(period_s: u16) -> Self {
        let mut node = builder(period_s, 1);
        let relay = node.relay(0, 9, LETS_GO, TIME_OUT_S).unwrap();
        node.config_mut().actuators.push(aerator(relay, 0)).unwrap();
        let mut farm = Self::new(node);
        farm.pass(u64::from(period_s) * 4 + 70);
        assert!(!farm.is_told(0) && !farm.runs(0) && farm.board().is_closed(0), "at rest");
        assert_eq!(farm.host.node().unwrap().alarms(), 0);
        farm
    }

    fn pass(&mut self, seconds: u64) {
        self.pass_ms(seconds * 1_000);
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now_us += ms * 1_000;
        self.host.run(self.now_us);
    }

    /// Milliseconds until it is so, looked at every 5; at most these.
    fn until(&mut self, most_ms: u64, so: impl Fn(&Self) -> bool) -> u64 {
        let begun_us = self.now_us;
        while !so(self) {
            self.pass_ms(5);
            assert!((self.now_us - begun_us) / 1_000 <= most_ms, "not within {most_ms} ms");
        }
        (self.now_us - begun_us) / 1_000
    }

    fn set(&self, depth: u32, value: f64) {
        self.scene.0.lock().unwrap().values.insert(depth, value);
    }

    fn lose(&self, depth: u32) {
        self.scene.0.lock().unwrap().values.remove(&depth);
    }

    /// Moves oxygen as water does, so that no test of quality fires.
    fn drift(&mut self, to: f64) {
        let from = self.scene.0.lock().unwrap().values[&0];
        for step in 1..=30 {
            self.set(0, from + (to - from) * f64::from(step) / 30.0);
            self.pass(10);
        }
    }

    fn board(&mut self) -> &mut RelayBoard {
        self.host.relay(0).unwrap()
    }

    /// What the node wants.
    fn is_told(&self, actuator: u8) -> bool {
        self.host.node().unwrap().is_on(actuator)
    }

    /// What really runs.
    fn runs(&self, actuator: u8) -> bool {
        self.scene.0.lock().unwrap().on.get(&actuator) == Some(&true)
    }

    fn has(&self, alarm: Alarm) -> bool {
        self.host.node().unwrap().concerned(alarm) & 1 == 1
    }

    /// Faults told of this part.
    fn faults(&self, part: u8) -> usize {
        let copy = Flash::from_image(SECTORS, &self.host.flash().image());
        let (mut ring, _) = Ring::open_or_format(copy, 0).unwrap();
        let mut bytes = [0; 512];
        let fault =
            |record: &Record| matches!(record, Record::Event(e) if e.code == EventCode::Fault && e.subject == part);
        let records =
            (ring.floor()..ring.next_seq()).filter_map(|seq| ring.read(seq, &mut bytes).unwrap().map(Record::decode));
        records.filter(|record| record.as_ref().is_ok_and(|(_, record)| fault(record))).count()
    }
}

/// An aerator that runs while its coil is open.
fn aerator(relay: u8, coil: u8) -> Actuator {
    let rule = Rule::Aerator { channel: 0, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses: QUICK };
    let output = Output::Coil { relay, coil, inverted: true };
    Actuator { drive: Drive::RelaysTimeOut, output, ..Actuator::new(Kind::Aerator, rule) }
}

/// Something that follows air, on an ordinary coil.
fn band(kind: Kind, low: f32, high: f32, raises: bool, relay: u8, coil: u8) -> Actuator {
    let rule = Rule::Band { channel: 1, low, high, raises, safe: false, pauses: QUICK };
    let output = Output::Coil { relay, coil, inverted: false };
    Actuator { drive: Drive::Relays, output, ..Actuator::new(kind, rule) }
}

/// The slowest of many switches on a line with five dead probes, none slower than stated; and what
/// is stated, ms.
fn slowest_switch(profile: &str, time_out_s: u16, fault: Option<Fault>) -> (u64, u64) {
    let (mut slowest_ms, mut bound_ms) = (0, 0);
    for seed in 1..=6 {
        let mut node = builder(10, seed);
        let relay = node.relay(0, 9, profile, time_out_s).unwrap();
        for address in 1..=5 {
            let dead = node.probe(0, address, "xy-md02", 2.0, &[Property::AirTemperature]).unwrap();
            node.fault(dead, instrument::Fault::Silent);
        }
        // Fans that start one after the other, whenever chance says so, and nothing stops them.
        for coil in 0..4 {
            let mut fan = band(Kind::Fan, 20.0, 25.0, false, relay, coil);
            if let Rule::Band { safe, .. } = &mut fan.rule {
                *safe = true;
            }
            node.config_mut().actuators.push(fan).unwrap();
        }
        let mut farm = Farm::new(node);
        farm.lose(1);
        farm.board().set_fault(fault);
        bound_ms = farm.host.node().unwrap().config().switch_ms_max(relay);
        for fan in 0..4 {
            farm.until(60_000, |farm| farm.is_told(fan));
            slowest_ms = farm.until(bound_ms, |farm| farm.runs(fan)).max(slowest_ms);
        }
    }
    println!("{profile}, {fault:?}: {slowest_ms} of {bound_ms} ms");
    (slowest_ms, bound_ms)
}

#[test]
fn a_switch_reaches_its_coil_in_the_stated_time_while_dead_probes_hog_the_line() {
    for (profile, time_out_s) in [("waveshare-relay-8ch", 0), ("r421a08", 0), (LETS_GO, TIME_OUT_S)] {
        let (slowest_ms, _) = slowest_switch(profile, time_out_s, None);
        assert!((500..700).contains(&slowest_ms), "{profile}: a slot of a dead probe, and its own: {slowest_ms} ms");
        // Every question has to be repeated, at most one for each of four coils, and no probe comes between.
        let (disturbed_ms, _) = slowest_switch(profile, time_out_s, Some(Fault::HardOfHearing));
        assert!(disturbed_ms < 600 + 4 * 250, "{profile}: {disturbed_ms} ms");
    }
}

#[test]
fn on_a_quiet_line_a_switch_is_a_matter_of_one_question() {
    let mut farm = Farm::pond(10);
    farm.set(0, 3.0);
    farm.until(11_000, |farm| farm.is_told(0));
    let ms = farm.until(200, |farm| farm.runs(0));
    assert!(ms <= 50, "{ms} ms");
}

#[test]
fn when_the_node_dies_the_board_lets_go_and_the_aerator_runs() {
    let mut farm = Farm::pond(10);
    farm.host.power_off();
    let ms = farm.until(u64::from(TIME_OUT_S) * 1_000, |farm| farm.runs(0));
    assert!(ms > u64::from(TIME_OUT_S) * 1_000 * 2 / 3 - 1_000, "it was told again in time until then: {ms} ms");
    farm.pass(3_600);
    assert!(farm.runs(0));
    // Back: on for its shortest time and three good readings, then the rule, through the coil.
    farm.host.power_on(RestartCause::Watchdog, farm.now_us).unwrap();
    farm.pass(55);
    assert!(farm.runs(0));
    farm.pass(60);
    assert!(!farm.is_told(0) && !farm.runs(0));
}

#[test]
fn when_the_line_is_cut_the_board_lets_go_and_it_is_told() {
    let mut farm = Farm::pond(10);
    farm.host.cut_line(0, true);
    farm.until(u64::from(TIME_OUT_S) * 1_000, |farm| farm.runs(0));
    // Three turns, one every ten seconds, and the last one's slot.
    farm.until(12_000, |farm| farm.has(Alarm::RelayBoard));
    assert!(!farm.has(Alarm::NotRunning), "nobody knows that");
    farm.pass(600);
    assert!(farm.runs(0) && farm.has(Alarm::RelayBoard));
    farm.host.cut_line(0, false);
    farm.until(11_000, |farm| !farm.has(Alarm::RelayBoard) && !farm.runs(0));
    assert_eq!(farm.faults(3), 0, "it had not forgotten its time-out");
}

#[test]
fn between_two_long_rounds_the_coils_are_told_again_and_never_let_go() {
    let mut farm = Farm::pond(150);
    let before = farm.scene.0.lock().unwrap().changes;
    for _ in 0..600 {
        farm.pass(3);
        let silent_us = farm.now_us - farm.board().heard_us();
        assert!(silent_us <= u64::from(TIME_OUT_S) * 1_000_000 * 2 / 3, "{silent_us} µs");
    }
    assert_eq!(farm.scene.0.lock().unwrap().changes, before, "the aerator stayed off");
}

#[test]
fn a_coil_that_sticks_is_told_and_an_aerator_that_stays_off_sounds_the_alarm() {
    let mut farm = Farm::pond(10);
    farm.board().set_fault(Some(Fault::Stuck { coil: 0, closed: true }));
    farm.drift(3.0);
    farm.pass(31);
    assert!(farm.is_told(0) && !farm.runs(0));
    assert!(farm.has(Alarm::NotRunning) && !farm.has(Alarm::Unproven) && !farm.has(Alarm::RelayBoard));
    farm.board().set_fault(None);
    farm.until(11_000, |farm| farm.runs(0) && !farm.has(Alarm::NotRunning));
    // And one that does not go off.
    farm.board().set_fault(Some(Fault::Stuck { coil: 0, closed: false }));
    farm.drift(7.0);
    farm.pass(91);
    assert!(!farm.is_told(0) && farm.runs(0));
    assert!(farm.has(Alarm::Unproven) && !farm.has(Alarm::NotRunning));
    farm.board().set_fault(None);
    farm.until(11_000, |farm| !farm.runs(0) && !farm.has(Alarm::Unproven));
}

#[test]
fn a_board_that_lost_power_is_told_its_coils_and_its_time_out_again() {
    let mut farm = Farm::pond(10);
    let raw = farm.board().time_out_raw();
    assert_eq!(raw, TIME_OUT_S);
    farm.board().power_off();
    farm.pass(5);
    assert!(farm.runs(0), "without power the contact is closed");
    let now_us = farm.now_us;
    farm.board().power_on(now_us);
    assert_eq!(farm.board().time_out_raw(), 0);
    farm.pass(11);
    assert_eq!(farm.board().time_out_raw(), raw);
    assert!(!farm.runs(0) && farm.host.node().unwrap().alarms() == 0);
    assert_eq!(farm.faults(3), 1, "told once");
    farm.host.power_off();
    farm.until(u64::from(TIME_OUT_S) * 1_000, |farm| farm.runs(0));
}

#[test]
fn a_board_that_keeps_its_time_out_off_is_told_and_control_goes_on() {
    let mut farm = Farm::pond(10);
    farm.board().power_off();
    let now_us = farm.now_us;
    farm.board().set_fault(Some(Fault::KeepsTimeOut));
    farm.board().power_on(now_us);
    farm.until(11_000, |farm| farm.has(Alarm::RelayBoard));
    farm.drift(3.0);
    assert!(farm.is_told(0) && farm.runs(0) && farm.has(Alarm::RelayBoard));
    farm.board().set_fault(None);
    farm.until(11_000, |farm| !farm.has(Alarm::RelayBoard));
    assert_eq!(farm.board().time_out_raw(), TIME_OUT_S);
}

#[test]
fn a_board_that_answers_for_another_address_is_one_that_does_not_answer() {
    let mut farm = Farm::pond(10);
    farm.board().set_fault(Some(Fault::OtherAddress(8)));
    farm.until(40_000, |farm| farm.has(Alarm::RelayBoard));
    assert!(farm.runs(0), "and it lets go");
    farm.board().set_fault(None);
    farm.until(11_000, |farm| !farm.has(Alarm::RelayBoard) && !farm.runs(0));
}

#[test]
fn late_answers_of_a_slow_board_are_never_those_of_another_coil() {
    let mut node = builder(30, 1);
    let relay = node.relay(0, 9, "r421a08", 0).unwrap();
    // Two that are off, one by an open coil and one by a closed one.
    let mut lamps = [0, 1].map(|coil| band(Kind::Lamp, 20.0, 25.0, true, relay, coil));
    lamps[0].output = Output::Coil { relay, coil: 0, inverted: true };
    node.config_mut().actuators.extend(lamps);
    let mut farm = Farm::new(node);
    // The longest that it may take is 200 ms: every answer comes to the repetition, and one more behind it.
    for late_ms in (210..420).step_by(10) {
        farm.board().set_fault(Some(Fault::Slow(late_ms)));
        farm.pass(300);
        let node = farm.host.node().unwrap();
        assert_eq!((node.concerned(Alarm::Unproven), node.concerned(Alarm::RelayBoard)), (0, 0), "{late_ms} ms");
    }
}

#[test]
fn a_failed_probe_brings_the_aerator_on_through_its_coil_and_good_readings_let_it_go() {
    let mut farm = Farm::pond(10);
    farm.lose(0);
    // Three rounds, and what a switch may take.
    let bound_ms = 30_200 + farm.host.node().unwrap().config().switch_ms_max(0);
    let ms = farm.until(bound_ms, |farm| farm.runs(0));
    assert!(ms > 19_000, "two missed readings are no reason: {ms} ms");
    assert!(farm.has(Alarm::ControlBlind));
    farm.set(0, 7.0);
    farm.pass(50);
    assert!(farm.runs(0), "not before its shortest time");
    farm.until(40_000, |farm| !farm.runs(0));
    assert_eq!(farm.host.node().unwrap().alarms(), 0);
}

/// Two probes and a second board on a line with a first board: how long a round takes, and how long
/// a switch on the second board, in ms.
fn beside(fault: Option<Fault>) -> (u64, u64) {
    let mut node = builder(20, 3);
    let other = node.relay(0, 8, "waveshare-relay-8ch", 0).unwrap();
    let relay = node.relay(0, 9, LETS_GO, TIME_OUT_S).unwrap();
    for address in [1, 2] {
        node.probe(0, address, "xy-md02", 2.0, &[Property::AirTemperature]).unwrap();
    }
    node.config_mut().actuators.push(aerator(relay, 0)).unwrap();
    node.config_mut().actuators.push(band(Kind::Lamp, 20.0, 25.0, true, other, 0)).unwrap();
    let mut farm = Farm::new(node);
    farm.board().set_fault(fault);
    farm.pass(1_000);
    // The longest of ten rounds.
    let mut longest_ms = 0;
    for _ in 0..10 {
        let rounds = farm.host.node().unwrap().counters().rounds;
        farm.until(21_000, |farm| farm.host.node().unwrap().counters().rounds > rounds);
        longest_ms = longest_ms.max(farm.now_us / 1_000 % 20_000);
        let round = farm.host.node().unwrap().round().clone();
        assert!(round.readings.iter().all(|reading| matches!(reading.quality, Quality::Present { .. })), "{round:?}");
    }
    farm.set(0, 3.0);
    farm.until(21_000, |farm| farm.is_told(0));
    let bound_ms = farm.host.node().unwrap().config().switch_ms_max(relay);
    (longest_ms, farm.until(bound_ms, |farm| farm.runs(0)))
}

#[test]
fn a_dead_board_costs_its_own_slot_and_delays_nobody_else() {
    let (alive_ms, switch_ms) = beside(None);
    let (dead_ms, beside_dead_ms) = beside(Some(Fault::Dead));
    println!("a round: {alive_ms} ms, beside a dead board {dead_ms} ms; a switch: {switch_ms}, {beside_dead_ms} ms");
    // One question and its repetition: 2 × 200 ms of waiting, and the frames.
    assert!(dead_ms <= alive_ms + 500, "{alive_ms} {dead_ms}");
    assert!(dead_ms > alive_ms + 200, "the dead board was asked: {alive_ms} {dead_ms}");
}

#[test]
fn two_that_exclude_each_other_never_overlap_on_a_board_that_is_written_at_once() {
    for profile in ["waveshare-relay-8ch", "r421a08"] {
        let mut node = builder(10, 1);
        let relay = node.relay(0, 9, profile, 0).unwrap();
        // Wrongly set on purpose: the heater goes on until 27 °C, the fan begins at 25.
        let fan = band(Kind::Fan, 20.0, 25.0, false, relay, 0);
        let heater = band(Kind::Heater, 21.0, 27.0, true, relay, 1);
        node.config_mut().actuators.extend([fan, heater]);
        let when = Condition::On { actuator: 0 };
        let off = Interlock { actuator: 1, on: false, when, unknown: true, hold_s: 0 };
        node.config_mut().interlocks.push(off).unwrap();
        let mut farm = Farm::new(node);
        farm.scene.0.lock().unwrap().exclusive = Some([0, 1]);
        for _ in 0..3 {
            for (celsius, running) in [(19.0, 1), (26.0, 0)] {
                let from = farm.scene.0.lock().unwrap().values[&1];
                for step in 1..=20 {
                    farm.set(1, from + (celsius - from) * f64::from(step) / 20.0);
                    farm.pass(10);
                }
                farm.pass(60);
                assert!(farm.runs(running) && !farm.runs(1 - running), "{profile} at {celsius} °C");
            }
        }
        assert!(!farm.scene.0.lock().unwrap().overlapped, "{profile}");
    }
}

#[test]
fn a_probe_on_the_line_of_a_dead_board_is_read_and_a_dead_probe_leaves_the_board_alone() {
    let mut node = builder(10, 5);
    let relay = node.relay(0, 9, LETS_GO, TIME_OUT_S).unwrap();
    let probe = node.probe(0, 1, "xy-md02", 2.0, &[Property::AirTemperature]).unwrap();
    node.config_mut().actuators.push(aerator(relay, 0)).unwrap();
    let mut farm = Farm::new(node);
    farm.host.set_fault(probe, Some(instrument::Fault::NeverEnds));
    farm.pass(200);
    assert!(!farm.runs(0) && farm.host.node().unwrap().alarms() == 0, "a babbling probe does not cut the board off");
    let garbled = farm.host.node().unwrap().round().readings[2].quality;
    assert!(matches!(garbled, Quality::Missing(_)), "{garbled:?}");
    farm.host.set_fault(probe, None);
    farm.board().set_fault(Some(Fault::Dead));
    farm.pass(100);
    assert!(matches!(farm.host.node().unwrap().round().readings[2].quality, Quality::Present { .. }));
    assert!(farm.has(Alarm::RelayBoard));
}
