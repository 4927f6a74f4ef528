//! The whole node on the host: rounds, probes that die, rules, records and snapshots.

use std::collections::{HashMap, VecDeque};

use node::config::{
    Actuator, Calibration, Channel, Config, ConfigError, Drive, Formula, IMAGE_BYTES_MAX, Input, Manual, Output, Probe,
    Proof, RelayBoard, Source, digest,
};
use node::control::{Condition, Interlock, Pauses, Rule};
use node::sample::Lines;
use node::sun::Place;
use node::{Identity, Io, Node, RestartCause};
use sensors::modbus::{LineSettings, crc16};
use simulator::nor::{Nor, Torn};
use simulator::relay_board::Fault;
use telemetry::mac::Key;
use telemetry::record::EventCode;
use telemetry::session::{Command, Nonce, Order, Receipt, Session};
use telemetry::snapshot::Snapshot;
use telemetry::topic::{Down, Up};
use telemetry::{ActuatorKind as Kind, Alarm, Flag, MissingReason, NodeName, Property, Quality, Record, Report, Tests};

type Direct = Result<f32, MissingReason>;

/// A host with XY-MD02 probes on a line, direct inputs and a gateway's memory.
#[derive(Default)]
struct Host {
    boards: Vec<simulator::relay_board::RelayBoard>,
    /// The address of every frame that was sent.
    sent: Vec<u8>,
    answers: VecDeque<u8>,
    alive: Vec<u8>,
    direct: HashMap<u8, Direct>,
    on: HashMap<u8, bool>,
    live: Vec<Snapshot>,
    records: Vec<Record>,
    down: Vec<(Down, Vec<u8>)>,
    next: u32,
    nonce: Option<Nonce>,
    deaf: bool,
}

fn name() -> NodeName {
    NodeName::new("pond-7").unwrap()
}

fn key() -> Key {
    Key::derive(&[3; 32], &name())
}

impl Host {
    fn seal(&mut self, kind: Down, body: &[u8]) {
        let mut buffer = [0; 256];
        let length = key().seal(&name(), kind, self.nonce.unwrap(), body, &mut buffer).unwrap();
        self.down.push((kind, buffer[..length].to_vec()));
    }

    fn receipt(&mut self, utc_ms: Option<i64>) {
        let mut body = [0; 64];
        let length = Receipt { ring: 0xABCD, next: self.next, utc_ms }.encode(&mut body).unwrap();
        self.seal(Down::Receipt, &body[..length]);
    }
}

impl Lines for Host {
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]) {
        assert_eq!(bus, 0);
        assert_ne!(frame[0], 0, "nothing is broadcast");
        self.sent.push(frame[0]);
        for board in &mut self.boards {
            // Time stands for these: they never let go.
            self.answers.extend(board.answer(frame, *line, 0).into_iter().flat_map(|answer| answer.bytes));
        }
        // XY-MD02: 25.6 °C and 60.3 %RH in input registers 1 and 2.
        if self.alive.contains(&frame[0]) {
            let mut answer = vec![frame[0], frame[1], 4, 1, 0, 2, 91];
            answer.extend(crc16(&answer).to_le_bytes());
            self.answers.extend(answer);
        }
    }

    fn receive(&mut self, _bus: u8, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.answers.len());
        for (place, byte) in buffer.iter_mut().zip(self.answers.drain(..count)) {
            *place = byte;
        }
        count
    }
}

impl Io for Host {
    fn direct(&mut self, input: u8) -> Direct {
        self.direct.get(&input).copied().unwrap_or(Err(MissingReason::NoAnswer))
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.on.insert(actuator, on);
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        match channel {
            Up::Live => self.live.push(Snapshot::decode(payload).unwrap()),
            Up::Session => {
                if let Session::Open(open) = Session::decode(payload).unwrap() {
                    self.nonce = Some(open.nonce);
                    if !self.deaf {
                        self.receipt(Some(1_800_000_000_000 + open.mono_ms as i64));
                    }
                }
            }
            Up::Report => {
                let report = Report::decode(payload).unwrap();
                assert_eq!(report.envelope.first, self.next);
                self.records.extend(report.records().map(Result::unwrap));
                self.next += report.envelope.count;
                if !self.deaf {
                    self.receipt(None);
                }
            }
        }
        true
    }
}

struct Run {
    node: Node<Nor>,
    host: Host,
    now_us: u64,
}

fn image(config: &Config) -> Vec<u8> {
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image).unwrap();
    image.truncate(length);
    image
}

fn boot(flash: Nor, config: Config) -> Node<Nor> {
    let identity = Identity { name: name(), key: key(), firmware: "0.1.0", board: "host" };
    let mut node = Node::new(identity);
    node.boot(flash, &image(&config), 0xABCD << 32 | 77, 0, RestartCause::Power).unwrap();
    node
}

impl Run {
    fn new(config: Config) -> Self {
        let node = boot(Nor::new(32), config);
        Self { node, host: Host::default(), now_us: 0 }
    }

    fn pass(&mut self, seconds: u64) {
        let until_us = self.now_us + seconds * 1_000_000;
        let mut polls = 0;
        while self.now_us < until_us {
            for (kind, payload) in std::mem::take(&mut self.host.down) {
                self.node.message(kind, &payload, self.now_us);
            }
            let wake_us = self.node.poll(self.now_us, &mut self.host);
            polls += 1;
            assert!(polls < seconds * 400 + 1_000, "the node does not come to rest");
            if self.host.down.is_empty() {
                self.now_us = wake_us.max(self.now_us + 1).min(until_us);
            }
        }
    }

    fn oxygen(&mut self, value: Direct) {
        self.host.direct.insert(0, value);
    }
}

fn direct(property: Property, input: u8) -> Channel {
    Channel {
        property,
        source: Source::Direct { input },
        calibration: Calibration::default(),
        limits: Default::default(),
        compensate_with: None,
    }
}

fn aerated() -> Config {
    let mut config = Config::new(1);
    config.period_s = 10;
    config.channels.push(direct(Property::DissolvedOxygen, 0)).unwrap();
    let pauses = Pauses { on_s: 900, off_s: 300 };
    let rule = Rule::Aerator { channel: 0, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses };
    config.actuators.push(Actuator::new(Kind::Aerator, rule)).unwrap();
    config
}

/// A probe of XY-MD02 at each of these addresses, temperature and humidity each, and a dew point.
fn probed(addresses: &[u8]) -> Config {
    let mut config = Config::new(1);
    config.period_s = 10;
    let text = include_str!("../../sensors/profiles/xy-md02.toml");
    let compiled = sensors::profile::compile::compile(text, "xy-md02.toml").unwrap();
    let profile = config.add_profile(&compiled.bytes).unwrap();
    for (index, address) in addresses.iter().enumerate() {
        let probe = Probe { bus: 0, address: *address, profile, settings: None };
        config.probes.push(probe).unwrap();
        for (quantity, of) in compiled.profile().unwrap().quantities().enumerate() {
            let source = Source::Probe { probe: index as u8, quantity: quantity as u8 };
            config.channels.push(Channel { source, ..direct(of.property, 0) }).unwrap();
        }
    }
    let inputs = heapless::Vec::from_slice(&[0, 1]).unwrap();
    let source = Source::Computed { formula: Formula::DewPoint, inputs };
    config.channels.push(Channel { source, ..direct(Property::DewPoint, 0) }).unwrap();
    config
}

#[test]
fn a_dead_probe_costs_its_own_readings_only() {
    let mut run = Run::new(probed(&[1, 2, 3]));
    run.host.alive = vec![1, 3];
    run.pass(35);
    let round = run.node.round();
    let got: Vec<_> = round.readings.iter().map(|r| (r.value, r.quality)).collect();
    let dead = (0, Quality::Missing(MissingReason::NoAnswer));
    let good = |value| (value, Quality::GOOD);
    assert_eq!(got, [good(2560), good(603), dead, dead, good(2560), good(603), good(1734)]);
    assert_eq!(round.t_ms % 10_000, 0, "rounds keep to the grid");
    assert!(run.node.counters().rounds >= 3);
}

#[test]
fn what_happens_is_delivered_in_order_and_shown_at_once() {
    let mut config = probed(&[1]);
    config.hold_s = 20;
    let mut run = Run::new(config);
    run.host.alive = vec![1];
    run.node.connected(0);
    run.pass(100);
    let kinds: Vec<_> = run.host.records.iter().take(4).collect();
    assert!(matches!(kinds[0], Record::Event(e) if e.code == EventCode::RingFormatted && e.value == 0xABCD));
    assert!(matches!(kinds[1], Record::Event(e) if e.code == EventCode::Restarted && e.value == 1));
    assert!(matches!(kinds[2], Record::Description(d) if d.channels.len() == 3 && d.config == 1));
    assert!(run.host.records.iter().any(|r| matches!(r, Record::Event(e) if e.code == EventCode::ClockSet)));
    let rounds = run.host.records.iter().filter(|r| matches!(r, Record::Round(_))).count();
    assert!(rounds >= 7, "{rounds}");
    assert!(run.host.live.len() >= 9);
    assert_eq!(run.host.live.last().unwrap().round.readings[0].value, 2560);
}

#[test]
fn a_round_is_kept_before_what_it_led_to() {
    let mut config = aerated();
    config.hold_s = 20;
    let mut run = Run::new(config);
    run.oxygen(Ok(3.0));
    run.node.connected(0);
    run.pass(60);
    for value in [2.5, 1.9, 1.8, 7.0] {
        run.oxygen(Ok(value));
        run.pass(400);
    }
    run.pass(60);
    let of_event = |code| run.host.records.iter().filter(move |r| matches!(r, Record::Event(e) if e.code == code));
    assert!(of_event(EventCode::Alarm).count() >= 3 && of_event(EventCode::ActuatorChanged).count() >= 1);
    let times: Vec<_> = run.host.records.iter().filter_map(Record::t_ms).collect();
    assert!(times.is_sorted(), "records are dated in their order");
}

#[test]
fn the_aerator_is_on_after_a_restart_and_leaves_after_its_time_and_good_readings() {
    let mut run = Run::new(aerated());
    run.oxygen(Ok(7.0));
    run.pass(1);
    assert!(run.host.on[&0]);
    run.pass(890);
    assert!(run.node.is_on(0), "not before its shortest time");
    run.pass(30);
    assert!(!run.host.on[&0]);
    // Down and up again through the band.
    run.oxygen(Ok(4.1));
    run.pass(600);
    assert!(!run.node.is_on(0), "inside the band nothing changes");
    run.oxygen(Ok(3.9));
    run.pass(20);
    assert!(run.node.is_on(0));
    run.oxygen(Ok(5.4));
    run.pass(1_000);
    assert!(run.node.is_on(0), "inside the band nothing changes");
    run.oxygen(Ok(5.6));
    run.pass(20);
    assert!(!run.node.is_on(0));
    // Critical oxygen does not wait for the shortest pause; low oxygen does.
    run.oxygen(Ok(3.5));
    run.pass(100);
    assert!(!run.node.is_on(0));
    run.oxygen(Ok(1.9));
    run.pass(20);
    assert!(run.node.is_on(0));
    assert!(run.node.alarms() & Alarm::OxygenCritical.bit() != 0);
}

/// Brings a run to where the aerator is off by its rule.
fn resting() -> Run {
    let mut run = Run::new(aerated());
    let mut value = 7.0;
    for _ in 0..100 {
        value += 0.02;
        run.oxygen(Ok(value));
        run.pass(10);
    }
    assert!(!run.node.is_on(0));
    run
}

#[test]
fn three_missed_readings_or_a_failed_one_bring_it_on_and_three_good_ones_let_it_go() {
    for (value, seconds) in [(Err(MissingReason::NoAnswer), 31), (Ok(30.0), 11)] {
        let mut run = resting();
        run.oxygen(value);
        run.pass(seconds);
        assert!(run.node.is_on(0), "{value:?}");
        assert!(run.node.alarms() & Alarm::ControlBlind.bit() != 0);
        // The gateway is dead all along: nothing of this needs it.
        let mut back = 8.0;
        for _ in 0..92 {
            back += 0.02;
            run.oxygen(Ok(back));
            run.pass(10);
        }
        assert!(!run.node.is_on(0), "{value:?}");
        assert_eq!(run.node.alarms(), 0);
    }
    let mut run = resting();
    run.oxygen(Err(MissingReason::Crc));
    run.pass(19);
    assert!(!run.node.is_on(0), "two missed readings are no reason");
}

#[test]
fn a_flat_line_brings_it_on_and_a_probe_that_moves_again_lets_it_go() {
    let mut run = resting();
    run.pass(3_650);
    assert!(run.node.is_on(0), "an hour without a hundredth of change is a stuck probe");
    assert!(run.node.alarms() & Alarm::ControlBlind.bit() != 0);
    let mut value = 9.0;
    for _ in 0..92 {
        value -= 0.02;
        run.oxygen(Ok(value));
        run.pass(10);
    }
    assert!(!run.node.is_on(0));
    assert_eq!(run.node.alarms(), 0);
}

#[test]
fn suspect_low_oxygen_starts_the_aerator_and_suspect_high_oxygen_stops_nothing() {
    let mut run = resting();
    run.pass(300);
    run.oxygen(Ok(3.0));
    run.pass(5);
    let Quality::Present { flag, tests } = run.node.round().readings[0].quality else { panic!() };
    assert_eq!(flag, Flag::Suspect);
    assert!(tests.contains(Tests::RATE));
    assert!(run.node.is_on(0));
}

fn order(run: &mut Run, counter: u32, on: bool, for_s: u32) {
    let order = Order::Switch { actuator: 0, on, for_s };
    let mut body = [0; 64];
    let length = Command { counter, not_after_ms: u64::MAX, order }.encode(&mut body).unwrap();
    run.host.seal(Down::Command, &body[..length]);
}

#[test]
fn orders_expire_and_off_is_refused_while_oxygen_is_low() {
    let mut run = resting();
    run.node.connected(run.now_us);
    run.pass(300);
    order(&mut run, 1, true, 1_000);
    run.pass(5);
    assert!(run.node.is_on(0));
    run.pass(900);
    assert!(run.node.is_on(0));
    run.pass(110);
    assert!(!run.node.is_on(0), "the order is over");
    // Low: nobody may switch it off.
    run.pass(300);
    run.oxygen(Ok(3.8));
    run.pass(15);
    run.oxygen(Ok(3.7));
    run.pass(1_000);
    assert!(run.node.is_on(0));
    order(&mut run, 2, false, 600);
    run.pass(5);
    assert!(run.node.is_on(0));
    assert_eq!(run.node.counters().refused, 1);
    run.node.disconnected(run.now_us);
    run.node.connected(run.now_us);
    run.pass(30);
    let refused = |r: &Record| matches!(r, Record::Event(e) if e.code == EventCode::CommandAnswered && e.detail == 2);
    assert!(run.host.records.iter().any(refused));
    let changes = |r: &&Record| matches!(r, Record::Event(e) if e.code == EventCode::ActuatorChanged);
    assert!(run.host.records.iter().filter(changes).count() >= 4);
}

#[test]
fn an_off_order_ends_where_low_oxygen_begins() {
    let mut run = resting();
    run.node.connected(run.now_us);
    run.pass(1);
    order(&mut run, 1, false, 3_600);
    run.pass(400);
    run.oxygen(Ok(3.9));
    run.pass(15);
    assert!(run.node.is_on(0));
    run.oxygen(Ok(4.6));
    run.pass(1_000);
    assert!(run.node.is_on(0), "and does not come back when oxygen does");
}

#[test]
fn a_heater_and_a_vent_keep_their_bands_and_their_safe_states() {
    let mut config = Config::new(1);
    config.period_s = 10;
    config.channels.push(direct(Property::AirTemperature, 0)).unwrap();
    let pauses = Pauses { on_s: 30, off_s: 30 };
    for (kind, raises, safe) in [(Kind::Heater, true, false), (Kind::Vent, false, true)] {
        let rule = Rule::Band { channel: 0, low: 15.0, high: 20.0, raises, safe, pauses };
        config.actuators.push(Actuator::new(kind, rule)).unwrap();
    }
    let mut run = Run::new(config);
    let states = |run: &mut Run, celsius: f32| {
        // The temperature moves as air does, so that no test fires.
        let from = match run.host.direct.get(&0) {
            Some(Ok(value)) => *value,
            _ => celsius,
        };
        for step in 1..=30 {
            run.oxygen(Ok(from + (celsius - from) * step as f32 / 30.0));
            run.pass(10);
        }
        (run.node.is_on(0), run.node.is_on(1))
    };
    run.pass(1);
    assert_eq!((run.node.is_on(0), run.node.is_on(1)), (false, true), "safe after a restart");
    assert_eq!(states(&mut run, 14.0), (true, false));
    assert_eq!(states(&mut run, 17.5), (true, false));
    assert_eq!(states(&mut run, 20.5), (false, true));
    assert_eq!(states(&mut run, 17.5), (false, true));
    assert_eq!(states(&mut run, 14.5), (true, false));
    run.oxygen(Err(MissingReason::NoAnswer));
    run.pass(40);
    assert_eq!((run.node.is_on(0), run.node.is_on(1)), (false, true), "safe when blind");
}

#[test]
fn dead_flash_stops_neither_rounds_nor_rules() {
    let mut flash = Nor::new(32);
    flash.cut_at(0, Torn::Nothing);
    let mut run = Run { node: boot(flash, aerated()), host: Host::default(), now_us: 0 };
    run.node.connected(0);
    run.oxygen(Ok(7.0));
    run.pass(950);
    assert!(!run.node.is_on(0));
    assert_eq!(run.node.alarms(), Alarm::Storage.bit());
    assert!(run.node.counters().rounds > 90);
    assert!(run.host.live.len() > 90);
}

#[test]
fn a_node_is_off_until_it_is_booted_with_a_good_image() {
    let identity = Identity { name: name(), key: key(), firmware: "0.1.0", board: "host" };
    let mut node: Node<Nor> = Node::new(identity);
    let mut host = Host::default();
    let mut unsafe_config = aerated();
    unsafe_config.actuators[0].drive = Drive::Relays;
    let refused = node.boot(Nor::new(32), &image(&unsafe_config), 1, 0, RestartCause::Power);
    assert_eq!(refused, Err(ConfigError::HoldingRelays(0)));
    node.connected(0);
    assert_eq!(node.poll(0, &mut host), u64::MAX);
    assert!(node.apply(&image(&aerated()), 0).is_err(), "only what runs takes on another config");
    assert_eq!((node.counters().rounds, host.on.len(), node.ring()), (0, 0, None));
    node.boot(Nor::new(32), &image(&aerated()), 1, 0, RestartCause::Power).unwrap();
    assert!(node.poll(0, &mut host) < u64::MAX);
    assert_eq!(host.on.get(&0), Some(&true), "the aerator comes on at once");
}

#[test]
fn a_node_booted_again_in_its_place_is_like_a_new_one() {
    let mut run = resting();
    run.node.connected(run.now_us);
    run.node.calibrate(0, 600, run.now_us).unwrap();
    run.pass(100);
    let fresh = boot(Nor::new(32), probed(&[1, 2]));
    let seed = 0xABCD << 32 | 77;
    run.node.boot(Nor::new(32), &image(&probed(&[1, 2])), seed, 0, RestartCause::Power).unwrap();
    assert_eq!(format!("{:?}", run.node), format!("{fresh:?}"));
}

#[test]
fn records_outlive_the_power_and_a_new_boot_has_a_new_number() {
    let mut run = Run::new(aerated());
    run.oxygen(Ok(7.0));
    run.pass(200);
    let (_, _, next) = run.node.ring().unwrap();
    let boot_number = run.node.boot_number();
    let flash = run.node.into_flash().unwrap();
    let mut run = Run { node: boot(flash, aerated()), host: Host::default(), now_us: 0 };
    assert_eq!(run.node.boot_number(), boot_number + 1);
    run.node.connected(0);
    run.pass(100);
    assert!(run.host.next >= next);
    let rounds = run.host.records.iter().filter(|r| matches!(r, Record::Round(_))).count();
    assert!(rounds >= 20);
    let names: Vec<_> = run.host.records.iter().filter_map(Record::t_ms).collect();
    assert!(names.len() == run.host.next as usize);
}

#[test]
fn calibration_and_compensation_keep_the_raw_value() {
    let mut config = Config::new(1);
    config.salinity_psu = 30.0;
    let calibration = Calibration { number: 2, slope: 1.1, offset: 0.0 };
    let oxygen = Channel { calibration, compensate_with: Some(1), ..direct(Property::DissolvedOxygen, 0) };
    config.channels.push(oxygen).unwrap();
    config.channels.push(direct(Property::WaterTemperature, 1)).unwrap();
    let inputs = heapless::Vec::from_slice(&[0, 1]).unwrap();
    let source = Source::Computed { formula: Formula::OxygenSaturation, inputs };
    config.channels.push(Channel { source, ..direct(Property::OxygenSaturation, 0) }).unwrap();
    let mut run = Run::new(config);
    run.host.direct.insert(0, Ok(6.0));
    run.host.direct.insert(1, Ok(25.0));
    run.pass(2);
    let readings = &run.node.round().readings;
    // 6.0 × 1.1 × 6.967 / 8.263 (Benson and Krause at 25 °C, S 30 and 0).
    assert_eq!((readings[0].value, readings[0].raw), (556, Some(600)));
    assert_eq!((readings[1].value, readings[1].raw), (2500, None));
    assert_eq!(readings[2].value, 799);
    run.host.direct.insert(1, Err(MissingReason::NoAnswer));
    run.pass(60);
    let readings = &run.node.round().readings;
    assert!(matches!(readings[0].quality, Quality::Present { flag: Flag::Suspect, tests } if tests == Tests::INPUT));
    assert_eq!(readings[2].quality, Quality::Missing(MissingReason::Input));
}

#[test]
fn ammonia_is_computed_by_the_salinity_and_sea_water_is_marked() {
    // Domain page §2: 25 °C and pH 8.00; fresh .05366, S 35 on the free scale .0440.
    for (config_psu, channel_psu, wanted, tests) in [
        (0.0, None, 537, Tests::NONE),
        (35.0, None, 440, Tests::CONDITIONS),
        (0.0, Some(35.0), 440, Tests::CONDITIONS),
        (35.0, Some(2.0), 537, Tests::NONE),
    ] {
        let mut config = Config::new(1);
        config.salinity_psu = config_psu;
        let mut inputs = vec![0, 1, 2];
        for (input, property) in (0..).zip([Property::TotalAmmonia, Property::Ph, Property::WaterTemperature]) {
            config.channels.push(direct(property, input)).unwrap();
        }
        if channel_psu.is_some() {
            inputs.push(3);
            config.channels.push(direct(Property::Salinity, 3)).unwrap();
        }
        let inputs = heapless::Vec::from_slice(&inputs).unwrap();
        let source = Source::Computed { formula: Formula::UnionizedAmmonia, inputs };
        config.channels.push(Channel { source, ..direct(Property::UnionizedAmmonia, 0) }).unwrap();
        let mut run = Run::new(config);
        for (input, value) in (0..).zip([1.0, 8.0, 25.0, channel_psu.unwrap_or_default()]) {
            run.host.direct.insert(input, Ok(value));
        }
        run.pass(2);
        let reading = *run.node.round().readings.last().unwrap();
        // Ten-thousandths of mg/L.
        assert!((reading.value - wanted).abs() <= 1, "{reading:?} instead of {wanted}");
        assert_eq!(reading.quality, Quality::Present { flag: Flag::Good, tests });
    }
}

#[test]
fn a_config_survives_its_image_and_no_damage_to_it_does_harm() {
    let mut config = probed(&[1, 2]);
    config.channels.push(direct(Property::DissolvedOxygen, 0)).unwrap();
    let mut with_rule = aerated();
    config.actuators.append_rule(with_rule.actuators.pop().unwrap(), 5);
    survives(&config, 1);
    survives(&greenhouse(), 2);
    survives(&wired(), 3);
}

fn survives(config: &Config, version: u8) {
    config.validate().unwrap();
    let mut image = vec![0; 8192];
    let length = config.encode(&mut image).unwrap();
    image.truncate(length);
    assert_eq!(image[1], version, "the oldest that says it all");
    let read = Config::decode(&image).unwrap();
    assert_eq!(read, *config);
    assert_eq!((read.digest(), digest(&image)), (config.digest(), config.digest()));
    for cut in 0..length {
        assert!(Config::decode(&image[..cut]).is_err());
    }
    for bit in 0..length * 8 {
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        if let Ok(config) = Config::decode(&image) {
            assert_eq!(config.validate(), Ok(()));
        }
    }
}

trait AppendRule {
    fn append_rule(&mut self, actuator: Actuator, channel: u8);
}

impl AppendRule for heapless::Vec<Actuator, 8> {
    fn append_rule(&mut self, mut actuator: Actuator, to: u8) {
        if let Rule::Aerator { channel, .. } = &mut actuator.rule {
            *channel = to;
        }
        self.push(actuator).unwrap();
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let mut slow = aerated();
    slow.period_s = 201;
    assert_eq!(slow.validate(), Err(ConfigError::TooSeldom(0)));
    let mut crowded = probed(&[1, 2, 3]);
    crowded.period_s = 1;
    assert_eq!(crowded.validate(), Err(ConfigError::Slow(0)));
    let mut upside_down = aerated();
    let pauses = Pauses { on_s: 0, off_s: 0 };
    upside_down.actuators[0].rule = Rule::Aerator { channel: 0, on_below: 5.0, off_above: 4.0, critical: 2.0, pauses };
    assert_eq!(upside_down.validate(), Err(ConfigError::Rule(0)));
    let mut wrong = probed(&[1]);
    wrong.channels[0].property = Property::SoilMoisture;
    assert_eq!(wrong.validate(), Err(ConfigError::Source(0)));
}

#[test]
fn a_config_by_message_is_checked_and_the_next_rounds_are_under_it() {
    let mut run = resting();
    run.node.connected(run.now_us);
    run.pass(2);
    let offer = |run: &mut Run, config: &Config| {
        let mut buffer = vec![0; 9000];
        let nonce = run.host.nonce.unwrap();
        let length = key().seal(&name(), Down::Config, nonce, &image(config), &mut buffer).unwrap();
        run.node.message(Down::Config, &buffer[..length], run.now_us).map(<[u8]>::to_vec)
    };
    assert_eq!(offer(&mut run, &aerated()), None, "it runs already");
    let before = format!("{:?}", run.node);
    let mut impossible = aerated();
    (impossible.number, impossible.period_s) = (2, 0);
    for refused in [image(&aerated()), image(&impossible), image(&aerated())[..20].to_vec()] {
        assert!(run.node.apply(&refused, run.now_us).is_err());
    }
    assert_eq!(format!("{:?}", run.node), before, "a refused config changes nothing");
    let mut next = aerated();
    next.number = 2;
    next.hold_s = 20;
    next.channels.push(direct(Property::Rain, 1)).unwrap();
    next.actuators.push(Actuator::new(Kind::Irrigation, Rule::Remote)).unwrap();
    let when = Condition::Above { channel: 1, level: 0.0, release: 0.0 };
    next.interlocks.push(Interlock { actuator: 1, on: false, when, unknown: true, hold_s: 0 }).unwrap();
    let taken = offer(&mut run, &next).unwrap();
    assert_eq!(taken, image(&next));
    run.node.apply(&taken, run.now_us).unwrap();
    assert_eq!(run.node.config(), &next);
    assert!(!run.node.is_config_proven());
    run.pass(60);
    assert!(!run.node.is_config_proven(), "nobody has read the rain that an interlock looks at");
    run.host.direct.insert(1, Ok(0.0));
    run.pass(10);
    assert!(run.node.is_config_proven(), "its channels have been read and the gateway knows it");
    assert!(run.node.is_on(0), "safe until the new rule has seen enough");
    let told = |r: &Record| matches!(r, Record::Description(d) if d.config == 2 && d.digest == next.digest());
    let described = run.host.records.iter().position(told).unwrap();
    let of_new = |r: &Record| matches!(r, Record::Round(r) if r.config == 2);
    let first = run.host.records.iter().position(of_new).unwrap();
    assert!(described < first, "a description comes before the first round under it");
}

#[test]
fn what_is_overwritten_before_the_gateway_has_it_is_told_by_a_record() {
    let mut config = aerated();
    config.hold_s = 20;
    config.actuators.clear();
    let mut run = Run { node: boot(Nor::new(3), config), host: Host::default(), now_us: 0 };
    run.oxygen(Ok(7.0));
    run.node.connected(0);
    run.pass(100);
    let delivered = run.host.next;
    run.node.disconnected(run.now_us);
    run.pass(6_000);
    let lost = run.node.counters().lost;
    assert!(lost > 100, "{lost}");
    // The gateway learns the floor as the session opens.
    run.host.next = run.node.ring().unwrap().1;
    run.host.records.clear();
    run.node.connected(run.now_us);
    run.pass(60);
    let losses: Vec<_> =
        run.host.records.iter().filter_map(|r| if let Record::Loss(l) = r { Some(*l) } else { None }).collect();
    assert!(!losses.is_empty());
    assert!(losses.iter().all(|loss| loss.cause == 1 && loss.first >= delivered));
}

#[test]
fn the_gateway_having_more_than_the_ring_makes_no_name_come_twice() {
    let mut run = Run::new(aerated());
    run.host.next = 500;
    run.oxygen(Ok(7.0));
    run.node.connected(0);
    run.pass(400);
    let (_, _, next) = run.node.ring().unwrap();
    assert!(next > 500);
    assert!(run.host.next > 500, "what comes after is delivered");
}

#[test]
fn a_cut_in_any_flash_operation_of_a_running_node_breaks_no_promise() {
    for cut in 0..40 {
        for torn in [Torn::Nothing, Torn::SomeBits(cut), Torn::Everything] {
            let mut flash = Nor::new(8);
            flash.cut_at(cut, torn);
            let mut config = aerated();
            config.hold_s = 20;
            let mut run = Run { node: boot(flash, config.clone()), host: Host::default(), now_us: 0 };
            run.oxygen(Ok(7.0));
            run.node.connected(0);
            run.pass(400);
            let Some(mut flash) = run.node.into_flash() else { continue };
            flash.power_on();
            let delivered = run.host.next;
            run.node = boot(flash, config);
            run.now_us = 0;
            run.node.connected(0);
            run.pass(100);
            // The host refuses a report that repeats or skips a name.
            let (_, _, next) = run.node.ring().unwrap();
            assert!(run.host.next > delivered, "cut {cut} {torn:?}");
            assert!(next - run.host.next <= 3, "cut {cut} {torn:?}: {next} of which {}", run.host.next);
            let gone = run.host.records.iter().filter(|record| **record == Record::Gone).count();
            assert!(gone <= 1, "cut {cut} {torn:?}: {gone}");
            assert!(run.host.records.iter().any(|r| matches!(r, Record::Event(e) if e.code == EventCode::Restarted)));
        }
    }
}

/// The image of version 1: nodes in the field keep it. Do not change the test.
#[test]
fn the_image_of_version_1_stays_what_it_is() {
    let mut image = [0; 256];
    let length = aerated().encode(&mut image).unwrap();
    let hex: String = image[..length].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "8c01010a181819012c1828fa00000000fa447d5000808081880182020000fa3f800000fa00000000f6f6f6818201870100fa40800000fa40b00000fa4000000019038419012c"
    );
}

/// Everything that version 2 says, once.
fn greenhouse() -> Config {
    let mut config = Config::new(1);
    config.leaf_warmer_c = -1.5;
    config.place = Some(Place { latitude: 26.0, longitude: 119.25, utc_offset_min: 480 });
    for property in [Property::DissolvedOxygen, Property::ActuatorState, Property::Rain] {
        config.channels.push(direct(property, 0)).unwrap();
    }
    let aerator = Actuator {
        drive: Drive::RelaysWatchdog,
        night_floor: true,
        manual: Manual { on: Some(1), off: None },
        proof: Some(Proof { channel: 1, at_least: 0.5, within_s: 60, backup: Some(1) }),
        ..aerated().actuators[0]
    };
    let pauses = Pauses { on_s: 30, off_s: 60 };
    let rule = Rule::Band { channel: 2, low: 1.0, high: 2.0, raises: false, safe: false, pauses };
    let vent = Actuator { restart_on: Some(true), ..Actuator::new(Kind::Vent, rule) };
    let irrigation =
        Actuator { run_s: 300, soak_s: 900, blind_after_s: 200, ..Actuator::new(Kind::Irrigation, Rule::Remote) };
    config.actuators.extend([
        aerator,
        aerated().actuators[0],
        vent,
        irrigation,
        Actuator::new(Kind::Siren, Rule::Siren),
    ]);
    let conditions = [
        Condition::Above { channel: 2, level: 0.5, release: 0.25 },
        Condition::Below { channel: 2, level: 0.25, release: 0.5 },
        Condition::On { actuator: 2 },
        Condition::Off { actuator: 0 },
    ];
    for when in conditions {
        config.interlocks.push(Interlock { actuator: 3, on: false, when, unknown: true, hold_s: 600 }).unwrap();
    }
    config
}

/// The image of version 2: nodes in the field keep it. Do not change the test.
#[test]
fn the_image_of_version_2_stays_what_it_is() {
    let mut image = [0; 512];
    let length = greenhouse().encode(&mut image).unwrap();
    let hex: String = image[..length].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("config-2.txt").trim());
    assert_eq!(Config::decode(&image[..length]), Ok(greenhouse()));
}

/// The compiled profile of this name.
fn built_in(name: &str) -> Vec<u8> {
    sensors::profile::compile::built_in(name).unwrap().unwrap().bytes
}

/// What version 3 adds: parts, a relay board, outputs.
fn wired() -> Config {
    let mut config = probed(&[1]);
    let profile = config.add_profile(&built_in("wb-mr6c")).unwrap();
    let oxygen = config.channels.len() as u8;
    config.channels.push(direct(Property::DissolvedOxygen, 1)).unwrap();
    config.inputs.extend([Input::new(1, 0, 0x44, 0), Input { rom: 0x28ff, slope: 0.5, ..Input::new(2, 1, 0, 1) }]);
    config.relays.push(RelayBoard { bus: 1, address: 9, profile, time_out_s: 30 }).unwrap();
    let mut aerator = aerated().actuators[0];
    if let Rule::Aerator { channel, .. } = &mut aerator.rule {
        *channel = oxygen;
    }
    let coil = Output::Coil { relay: 0, coil: 3, inverted: true };
    let siren = Actuator::new(Kind::Siren, Rule::Siren);
    config.actuators.extend([
        Actuator { drive: Drive::RelaysTimeOut, output: coil, ..aerator },
        Actuator { output: Output::Pin { pin: 5, inverted: false }, ..siren },
    ]);
    config
}

#[test]
fn wiring_that_cannot_be_is_refused() {
    assert_eq!(wired().validate(), Ok(()));
    let refused = |change: fn(&mut Config)| {
        let mut config = wired();
        change(&mut config);
        config.validate()
    };
    let oxygen = wired().channels.len() as u8 - 1;
    let beyond = refused(|it| it.channels.last_mut().unwrap().source = Source::Direct { input: 2 });
    assert_eq!(beyond, Err(ConfigError::Source(oxygen)));
    assert_eq!(refused(|it| it.inputs[1].slope = f32::NAN), Err(ConfigError::Input(1)));
    assert_eq!(refused(|it| it.relays[0].address = 0), Err(ConfigError::RelayBoard(0)));
    assert_eq!(
        refused(|it| (it.relays[0].bus, it.relays[0].address) = (0, 1)),
        Err(ConfigError::RelayBoard(0)),
        "a probe is there"
    );
    assert_eq!(refused(|it| it.relays[0].profile = 0), Err(ConfigError::NoRelayBoard(0)), "that is a probe's");
    assert_eq!(refused(|it| it.relays[0].profile = 2), Err(ConfigError::RelayBoard(0)));
    assert_eq!(refused(|it| it.relays[0].time_out_s = 601), Err(ConfigError::RelayBoard(0)));
    let coil = |coil| Output::Coil { relay: 0, coil, inverted: true };
    let last = |it: &mut Config| it.actuators[0].output = Output::Coil { relay: 0, coil: 5, inverted: true };
    assert_eq!(refused(last), Ok(()));
    let mut beyond = wired();
    beyond.actuators[0].output = coil(6);
    assert_eq!(beyond.validate(), Err(ConfigError::Coil(0)), "it has six");
    let holds = |it: &mut Config| it.relays[0].profile = it.add_profile(&built_in("waveshare-relay-8ch")).unwrap();
    assert_eq!(refused(holds), Err(ConfigError::RelayTimeOut(0)), "it has none");
    assert_eq!(refused(|it| it.relays[0].time_out_s = 5), Err(ConfigError::Slow(1)), "it would have no pause");
    // On the probe's line it may wait for two slots of the probe and its own.
    assert_eq!(refused(|it| it.relays[0].bus = 0), Ok(()));
    let crowded = refused(|it| (it.relays[0].bus, it.relays[0].time_out_s) = (0, 9));
    assert_eq!(crowded, Err(ConfigError::RelayTimeOut(0)));
    assert_eq!(refused(|it| it.period_s = 1), Err(ConfigError::Slow(1)), "the board's turn is longer than a round");
    assert_eq!(refused(|it| it.relays[0].time_out_s = 0), Err(ConfigError::Output(0)), "it promises a time-out");
    assert_eq!(refused(|it| it.actuators[0].drive = Drive::Pin), Err(ConfigError::Output(0)), "a coil is no pin");
    assert_eq!(refused(|it| it.actuators[0].drive = Drive::Relays), Err(ConfigError::HoldingRelays(0)));
    let closed = refused(|it| it.actuators[0].output = Output::Coil { relay: 0, coil: 3, inverted: false });
    assert_eq!(closed, Err(ConfigError::DeadCoil(0)), "it would stop when its time is out");
    let doubled = refused(|it| {
        it.actuators[0] = Actuator { drive: Drive::Pin, output: it.actuators[1].output, ..it.actuators[0] };
    });
    assert_eq!(doubled, Err(ConfigError::Output(1)), "one pin for two");
}

/// Two probes and a relay board, with this fault, on one line; whom the node spoke to in the first
/// round.
fn spoken_to(fault: Option<Fault>) -> Vec<u8> {
    let mut config = probed(&[1, 2]);
    let compiled = sensors::profile::compile::built_in("wb-mr6c").unwrap().unwrap();
    let profile = config.add_profile(&compiled.bytes).unwrap();
    config.relays.push(RelayBoard { bus: 0, address: 9, profile, time_out_s: 30 }).unwrap();
    let output = Output::Coil { relay: 0, coil: 0, inverted: false };
    config
        .actuators
        .push(Actuator { drive: Drive::Relays, output, ..Actuator::new(Kind::Lamp, Rule::Remote) })
        .unwrap();
    let mut run = Run::new(config);
    run.host.alive = vec![1, 2];
    run.host.boards.extend(simulator::relay_board::RelayBoard::new(&compiled, 9).unwrap());
    run.host.boards[0].set_fault(fault);
    run.pass(9);
    run.host.sent
}

#[test]
fn a_board_has_one_slot_and_a_dead_or_disturbed_one_lets_the_probes_go_first() {
    // Coils, read back, time-out read, written and read back; then the probes.
    assert_eq!(spoken_to(None), [9, 9, 9, 9, 9, 1, 2]);
    // A question and its repetition, until its next turn.
    assert_eq!(spoken_to(Some(Fault::Dead)), [9, 9, 1, 2]);
    // Each answered to its repetition, which ends the slot.
    assert_eq!(spoken_to(Some(Fault::Garbles)), [9, 9, 1, 9, 9, 2, 9, 9, 9, 9, 9, 9]);
}

/// A host that does everything wrong, by chance.
struct Chaos {
    host: Host,
    state: u64,
}

impl Chaos {
    fn bits(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.bits().is_multiple_of(n)
    }
}

impl Lines for Chaos {
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]) {
        if !self.one_in(4) {
            self.host.send(bus, line, frame);
        }
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        if self.one_in(8) {
            let count = self.bits() as usize % (buffer.len() + 1);
            buffer[..count].fill_with(|| self.bits() as u8);
            return count;
        }
        self.host.receive(bus, buffer)
    }
}

impl Io for Chaos {
    fn direct(&mut self, _input: u8) -> Direct {
        if self.one_in(5) { Err(MissingReason::Fault) } else { Ok(f32::from_bits(self.bits() as u32)) }
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.host.switch(actuator, on);
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        !self.one_in(3) && self.host.publish(channel, payload)
    }
}

#[test]
fn nonsense_from_every_side_at_once_does_no_harm() {
    for seed in 1..20u64 {
        let mut config = if seed.is_multiple_of(3) { greenhouse() } else { probed(&[1, 2]) };
        config.hold_s = 15;
        config.period_s = 10;
        if config.actuators.is_empty() {
            config.channels.push(direct(Property::DissolvedOxygen, 0)).unwrap();
            config.actuators.append_rule(aerated().actuators[0], 5);
        }
        // Every other run has its aerator on a coil, on the same line.
        let mut boards = Vec::new();
        if seed % 2 == 1 {
            let name = ["wb-mr6c", "r421a08", "waveshare-relay-8ch"][seed as usize % 3];
            let compiled = sensors::profile::compile::built_in(name).unwrap().unwrap();
            let profile = config.add_profile(&compiled.bytes).unwrap();
            let time_out_s = if name == "wb-mr6c" { 30 } else { 0 };
            config.relays.push(RelayBoard { bus: 0, address: 9, profile, time_out_s }).unwrap();
            let output = Output::Coil { relay: 0, coil: 2, inverted: true };
            config.actuators[0] = Actuator { drive: Drive::RelaysWatchdog, output, ..config.actuators[0] };
            boards.extend(simulator::relay_board::RelayBoard::new(&compiled, 9).unwrap());
        }
        let mut flash = Nor::new(4);
        if seed.is_multiple_of(2) {
            flash.break_sector(seed as usize % 4);
        }
        let mut node = boot(flash, config);
        let host = Host { alive: vec![1, 2], boards, ..Host::default() };
        let mut chaos = Chaos { host, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        let (mut now_us, mut polls) = (0, 0u32);
        node.connected(0);
        while now_us < 3_000_000_000 {
            polls += 1;
            let wake_us = node.poll(now_us, &mut chaos);
            assert!(wake_us >= now_us);
            now_us = wake_us.min(now_us + 5_000_000) + chaos.bits() % 3_000;
            for (kind, mut payload) in std::mem::take(&mut chaos.host.down) {
                if chaos.one_in(3) {
                    let at = chaos.bits() as usize % payload.len();
                    payload[at] ^= 1 << (chaos.bits() % 8);
                }
                if !chaos.one_in(5) {
                    node.message(kind, &payload, now_us);
                }
            }
            match chaos.bits() % 200 {
                0 => node.disconnected(now_us),
                1 => node.connected(now_us),
                _ => {}
            }
        }
        let rounds = node.counters().rounds;
        assert!(rounds >= 250, "seed {seed}: {rounds} rounds in 3000 s");
        assert!(polls < 60_000, "seed {seed}: {polls} polls");
        assert!(node.is_on(0), "what cannot be trusted keeps the aerator on");
        for board in &chaos.host.boards {
            assert!(!board.is_closed(2), "seed {seed}: and its coil open");
            assert!(chaos.host.sent.len() > 500, "seed {seed}: {} frames", chaos.host.sent.len());
        }
    }
}

/// A probe that compensates itself: it echoes writes, or refuses them.
#[test]
fn a_probe_that_compensates_is_told_the_salinity_once_and_a_refusal_is_told() {
    for refuses in [false, true] {
        let mut config = Config::new(1);
        config.period_s = 10;
        config.hold_s = 20;
        config.salinity_psu = 30.0;
        let text = include_str!("../../sensors/profiles/renke-rs-ldo-n01.toml");
        let compiled = sensors::profile::compile::compile(text, "renke-rs-ldo-n01.toml").unwrap();
        let profile = config.add_profile(&compiled.bytes).unwrap();
        config.probes.push(Probe { bus: 0, address: 1, profile, settings: None }).unwrap();
        let quantities: Vec<_> = compiled.profile().unwrap().quantities().collect();
        let quantity = quantities.iter().position(|q| q.property == Property::DissolvedOxygen).unwrap() as u8;
        let source = Source::Probe { probe: 0, quantity };
        config.channels.push(Channel { source, ..direct(Property::DissolvedOxygen, 0) }).unwrap();
        let mut twice = config.clone();
        twice.channels.push(direct(Property::WaterTemperature, 0)).unwrap();
        twice.channels[0].compensate_with = Some(1);
        assert_eq!(twice.validate(), Err(ConfigError::CompensatedTwice(0)));

        let mut probe = Renke { host: Host::default(), refuses, writes: Vec::new() };
        let mut node = boot(Nor::new(8), config);
        node.connected(0);
        let mut now_us = 0;
        while now_us < 100_000_000 {
            for (kind, payload) in std::mem::take(&mut probe.host.down) {
                node.message(kind, &payload, now_us);
            }
            now_us = node.poll(now_us, &mut probe).max(now_us + 1);
        }
        assert_eq!(node.round().readings[0].value, 650);
        let fault = |r: &Record| matches!(r, Record::Event(e) if e.code == EventCode::Fault && e.subject == 2);
        let faults = probe.host.records.iter().filter(|r| fault(r)).count();
        if refuses {
            assert_eq!(faults, 1);
        } else {
            assert_eq!(faults, 0);
            assert_eq!(probe.writes, [(0x1020, 30), (0x1022, 10_133)]);
        }
    }
}

struct Renke {
    host: Host,
    refuses: bool,
    writes: Vec<(u16, u16)>,
}

impl Lines for Renke {
    fn send(&mut self, _bus: u8, _line: &LineSettings, frame: &[u8]) {
        let word = |at| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mut answer = match frame[1] {
            6 | 16 if self.refuses => vec![frame[0], frame[1] | 0x80, 2],
            6 => {
                self.writes.push((word(2), word(4)));
                frame[..6].to_vec()
            }
            16 => {
                self.writes.push((word(2), word(7)));
                frame[..6].to_vec()
            }
            _ => {
                // Saturation as a fraction, mg/L, °C, as the registers from `start` on.
                let all: Vec<u8> = [0.93f32, 6.5, 24.0].iter().flat_map(|value| value.to_be_bytes()).collect();
                let (from, count) = (usize::from(word(2)) * 2, usize::from(word(4)) * 2);
                let mut answer = vec![frame[0], frame[1], count as u8];
                answer.extend(&all[from..from + count]);
                answer
            }
        };
        answer.extend(crc16(&answer).to_le_bytes());
        self.host.answers.extend(answer);
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        self.host.receive(bus, buffer)
    }
}

impl Io for Renke {
    fn direct(&mut self, input: u8) -> Direct {
        self.host.direct(input)
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.host.switch(actuator, on);
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        self.host.publish(channel, payload)
    }
}
