//! The node half on a clock that a test turns, with simulated flash, pins and instruments.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::ToString as _;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use embassy_time::Duration;
use node::config::{Actuator, Calibration, Channel, Config, Output, Probe, Source};
use node::control::{Pauses, Rule};
use node::settings::{Ipv4, Ipv6, Link, SETTINGS_BYTES_MAX, Settings, TOKEN_BYTES};
use sensors::profile::compile::compile;
use simulator::host::Flash;
use simulator::instrument::Instrument;
use telemetry::topic::Up;
use telemetry::{ActuatorKind, Property};

use super::*;
use crate::ask::{Answer, Ask, Image, NotStored, Scanned, Trial};
use crate::board::NoParts;
use crate::exchange::Room;
use crate::flash::Range;

const RENKE: &str = include_str!("../../../sensors/profiles/renke-rs-ldo-n01.toml");
const PERIOD_S: u16 = 10;

const fn sectors(from: u32, count: u32) -> Range {
    Range { from: from * 4_096, bytes: count * 4_096 }
}

const MAP: Map = Map {
    ring: sectors(0, 16),
    config: [sectors(16, 3), sectors(19, 3)],
    settings: sectors(22, 2),
    faults: sectors(24, 2),
    image: [sectors(26, 1), sectors(27, 1)],
};

#[derive(Clone, Default)]
struct Levels(Arc<Mutex<BTreeMap<u8, bool>>>);

impl Pins for Levels {
    fn set(&mut self, pin: u8, high: bool) {
        self.0.lock().unwrap().insert(pin, high);
    }

    fn get(&mut self, pin: u8) -> Option<bool> {
        self.0.lock().unwrap().get(&pin).copied()
    }
}

#[derive(Clone, Default)]
struct Dog(Arc<Mutex<u32>>);

impl Watchdog for Dog {
    fn start(&mut self, _after: Duration) {}

    fn feed(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

fn reset() -> ! {
    panic!("reset");
}

/// A board on a desk.
struct Machine {
    flash: Flash,
    kept: &'static Kept,
    levels: Levels,
    dog: Dog,
    exchange: &'static Exchange,
    half: Box<NodeHalf<Flash, Levels, NoParts, Dog>>,
    started: (bool, Option<Settings>),
    instruments: Vec<Instrument>,
    /// Bytes on their way to line 0.
    under_way: Vec<(u64, Vec<u8>)>,
    now_us: u64,
}

impl Machine {
    fn new() -> Self {
        Self::on(Flash::new(28), Box::leak(Box::new(Kept::new())), RestartCause::Power)
    }

    fn on(flash: Flash, kept: &'static Kept, cause: RestartCause) -> Self {
        let exchange: &'static Exchange = Box::leak(Box::new(Exchange::new(Box::leak(Box::new(Room::new())))));
        let (levels, dog) = (Levels::default(), Dog::default());
        let Started { half, settings, network, .. } = start(Start {
            exchange,
            flash: Box::leak(Box::new(Shared::new(flash.clone(), kept))),
            map: MAP,
            node: Box::leak(Box::new(MaybeUninit::uninit())),
            pins: levels.clone(),
            parts: NoParts,
            watchdog: dog.clone(),
            kept,
            cause,
            facts: Facts { board: "desk", firmware: "0.1.0", stack: || (1_000, 8_192), reset },
            entropy: [7; 48],
        });
        let now_us = Instant::now().as_micros();
        let started = (network, settings);
        let (half, instruments, under_way) = (Box::new(half), Vec::new(), Vec::new());
        Self { flash, kept, levels, dog, exchange, half, started, instruments, under_way, now_us }
    }

    /// The same board after a reset.
    fn again(self, cause: RestartCause) -> Self {
        let Self { flash, kept, instruments, .. } = self;
        Self { instruments, ..Self::on(flash, kept, cause) }
    }

    /// One poll, and time until the next or until bytes arrive; `false` when it reset itself.
    fn step(&mut self) -> bool {
        let due: Vec<_> = self.under_way.extract_if(.., |(at_us, _)| *at_us <= self.now_us).collect();
        let line = self.exchange.line(0).unwrap();
        due.iter().for_each(|(_, bytes)| line.hear(bytes));
        let Ok(wake_us) = catch_unwind(AssertUnwindSafe(|| self.half.poll(self.now_us))) else { return false };
        let mut next_us = wake_us.max(self.now_us + 100);
        if let Some((settings, frame)) = line.take() {
            let sent_us = self.now_us + settings.chars_us(frame.len());
            for instrument in &mut self.instruments {
                let answer = instrument.answer(&frame, settings, sent_us, truth).unwrap();
                self.under_way.extend(answer.map(|answer| (sent_us + answer.after_us, answer.bytes)));
            }
        }
        for (at_us, _) in &self.under_way {
            next_us = next_us.min(*at_us);
        }
        self.now_us = next_us;
        true
    }

    fn run(&mut self, seconds: u64) -> bool {
        let until_us = self.now_us + seconds * 1_000_000;
        while self.now_us < until_us {
            if !self.step() {
                return false;
            }
        }
        true
    }

    fn ask(&mut self, ask: Ask) -> Answer {
        self.exchange.asks.signal(ask);
        for _ in 0..1_000_000 {
            assert!(self.step());
            if let Some(answer) = self.exchange.answers.try_take() {
                return answer;
            }
        }
        panic!("no answer");
    }

    fn store(&mut self, image: Image, bytes: &[u8]) -> Result<StoredAs, NotStored> {
        self.exchange.image.try_lock().unwrap()[..bytes.len()].copy_from_slice(bytes);
        match self.ask(Ask::Store { image, bytes: bytes.len() }) {
            Answer::Stored(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
}

fn truth(property: Property, _depth_m: f64) -> Option<f64> {
    Some(match property {
        Property::DissolvedOxygen => 6.5,
        Property::WaterTemperature => 24.0,
        Property::OxygenSaturation => 77.0,
        _ => return None,
    })
}

fn instrument(address: u8) -> Instrument {
    Instrument::new(compile(RENKE, "renke").unwrap(), address, 1.0, 7).exact()
}

/// A Renke at address 3 and an aerator on a pin that is low when it is on.
fn config(number: u16, pin: u8) -> Vec<u8> {
    let mut config = Config::new(number);
    config.period_s = PERIOD_S;
    let profile = config.add_profile(&compile(RENKE, "renke").unwrap().bytes).unwrap();
    config.probes.push(Probe { bus: 0, address: 3, profile, settings: None }).unwrap();
    let properties = [Property::OxygenSaturation, Property::DissolvedOxygen, Property::WaterTemperature];
    for (quantity, property) in (0..).zip(properties) {
        let source = Source::Probe { probe: 0, quantity };
        let (calibration, limits) = (Calibration::default(), Default::default());
        config.channels.push(Channel { property, source, calibration, limits, compensate_with: None }).unwrap();
    }
    let pauses = Pauses { on_s: 0, off_s: 0 };
    let rule = Rule::Aerator { channel: 1, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses };
    let output = Output::Pin { pin, inverted: true };
    config.actuators.push(Actuator { output, ..Actuator::new(ActuatorKind::Aerator, rule) }).unwrap();
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image).unwrap();
    // Whether its numbers make sense is the test's own business.
    Config::decode(&image[..length]).unwrap();
    image.truncate(length);
    image
}

fn settings() -> Vec<u8> {
    let settings = Settings {
        name: NodeName::new("pond-7").unwrap(),
        token: [7; TOKEN_BYTES],
        key: Key::new([9; 32]),
        host: heapless::String::try_from("gateway.farm").unwrap(),
        port: 1883,
        pin: None,
        link: Link::Ethernet,
        ipv4: Ipv4::Dhcp,
        ipv6: Ipv6::Auto,
        dns: heapless::Vec::new(),
        radio: Radio::Always,
    };
    let mut image = vec![0; SETTINGS_BYTES_MAX];
    let length = settings.encode(&mut image).unwrap();
    image.truncate(length);
    image
}

/// A board that runs config 1, with its instrument.
fn provisioned() -> Machine {
    let mut machine = Machine::new();
    machine.instruments.push(instrument(3));
    assert_eq!(machine.store(Image::Settings, &settings()), Ok(StoredAs::Settings));
    assert_eq!(machine.store(Image::Config, &config(1, 5)), Ok(StoredAs::Later(1)));
    machine.again(RestartCause::Software)
}

fn status(machine: &mut Machine) -> crate::ask::Status {
    match machine.ask(Ask::Status) {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_board_is_provisioned_and_measures_and_controls_after_a_restart() {
    let mut new = Machine::new();
    assert!(!new.started.0 && new.started.1.is_none());
    let before = status(&mut new);
    assert_eq!((before.name, before.config, before.ring), (None, None, None));
    assert!(new.run(60), "a board without anything is fed");
    let mut machine = provisioned();
    assert!(machine.started.0 && machine.started.1.is_some());
    // Its probe warms up for a minute.
    assert!(machine.run(60 + u64::from(PERIOD_S) * 5));
    let after = status(&mut machine);
    assert_eq!(after.name.unwrap().as_str(), "pond-7");
    assert_eq!(after.config.unwrap().0, 1);
    assert!(after.counters.rounds >= 4);
    assert_eq!(machine.levels.clone().get(5), Some(true), "oxygen is fine: the aerator is off, which is high");
    let Answer::Channel(Some(channel)) = machine.ask(Ask::Channel(2)) else { panic!() };
    assert_eq!((channel.property, channel.reading.unwrap().value), (Property::WaterTemperature, 2_400));
}

#[test]
fn a_newer_config_runs_at_once_and_what_it_does_not_switch_any_more_is_off() {
    let mut machine = provisioned();
    machine.instruments.clear();
    assert!(machine.run(60));
    assert_eq!(machine.levels.clone().get(5), Some(false), "nobody knows the oxygen: on");
    assert_eq!(machine.store(Image::Config, &config(1, 6)), Err(NotStored::NotNewer));
    assert_eq!(machine.store(Image::Config, &config(2, 6)), Ok(StoredAs::Trial(2)));
    assert!(machine.run(1));
    assert_eq!(machine.levels.clone().get(5), Some(true), "no longer an aerator's: off");
    assert_eq!(machine.levels.clone().get(6), Some(false), "and the aerator goes on running on its new pin");
}

#[test]
fn what_is_no_image_is_refused_and_nothing_of_it_is_kept() {
    let mut machine = provisioned();
    let good = config(2, 5);
    for broken in [&good[..good.len() - 1], &[0xff; 40]] {
        assert!(matches!(machine.store(Image::Config, broken), Err(NotStored::Config(_))));
    }
    assert!(matches!(machine.store(Image::Settings, &settings()[..80]), Err(NotStored::Settings(_))));
    let mut sealed = vec![0; good.len() + envelope::ENVELOPE_BYTES_MAX];
    let length = envelope::seal("pond-board", &good, &mut sealed).unwrap();
    let other = Err(NotStored::Envelope(envelope::EnvelopeError::OtherBoard));
    assert_eq!(machine.store(Image::Config, &sealed[..length]), other);
    let length = envelope::seal("desk", &config(1, 5), &mut sealed).unwrap();
    assert_eq!(machine.store(Image::Config, &sealed[..length]), Err(NotStored::NotNewer), "it was opened");
    let mut machine = machine.again(RestartCause::Power);
    assert_eq!(status(&mut machine).config.unwrap().0, 1);
    assert!(machine.started.1.is_some());
}

#[test]
fn what_is_stored_is_said_without_what_opens_anything() {
    let mut machine = provisioned();
    let Answer::Has(stored) = machine.ask(Ask::Stored) else { panic!() };
    assert_eq!(stored.name.unwrap().as_str(), "pond-7");
    assert_eq!(stored.settings, Some(crate::CRC32.checksum(&settings())));
    let (number, crc, _) = stored.config.unwrap();
    assert_eq!((number, crc), (1, crate::CRC32.checksum(&config(1, 5))));
    let Answer::Read(Some(length)) = machine.ask(Ask::ReadBack) else { panic!() };
    assert_eq!(machine.exchange.image.try_lock().unwrap()[..length], config(1, 5)[..]);
}

#[test]
fn a_scan_finds_who_is_on_a_line_while_rounds_go_on() {
    let mut machine = provisioned();
    machine.instruments.push(instrument(9));
    let mut found = Vec::new();
    assert!(machine.run(60));
    let rounds = status(&mut machine).counters.rounds;
    let began_us = machine.now_us;
    for address in 1..=20 {
        match machine.ask(Ask::Scan { bus: 0, address }) {
            Answer::Scanned(Scanned::Nobody) => {}
            Answer::Scanned(Scanned::Somebody(somebody)) => {
                assert_eq!(somebody.request[..2], [address, 3]);
                assert_eq!(somebody.answer[0], address);
                found.push((address, somebody.looks_like.unwrap().to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
    let name = compile(RENKE, "renke").unwrap().name;
    assert_eq!(found, [(3, name.clone()), (9, name)]);
    let passed_s = (machine.now_us - began_us) / 1_000_000;
    let status = status(&mut machine);
    let missed = (passed_s / u64::from(PERIOD_S)).saturating_sub(u64::from(status.counters.rounds - rounds));
    assert!(missed <= 1, "{passed_s} s, {} rounds", status.counters.rounds - rounds);
    let Answer::Channel(Some(channel)) = machine.ask(Ask::Channel(2)) else { panic!() };
    assert_eq!(channel.reading.unwrap().value, 2_400, "the probe of the config is read all the while");
    assert_eq!(machine.ask(Ask::Scan { bus: 7, address: 1 }), Answer::Scanned(Scanned::NoLine));
}

#[test]
fn the_node_is_told_of_a_connection_and_its_end_and_the_outbox_is_open_in_between() {
    let mut machine = provisioned();
    assert!(machine.run(15));
    assert!(!machine.exchange.outbox.push(Up::Live, b"x"), "no connection");
    machine.exchange.set_connection(true);
    assert!(machine.run(1));
    let (up, _) = machine.exchange.outbox.first().unwrap();
    assert_eq!(up, Up::Session, "it opens its session at once");
    // Down and up again between two polls: another connection, and another session.
    machine.exchange.set_connection(false);
    machine.exchange.set_connection(true);
    assert_eq!(machine.exchange.outbox.first(), None);
    assert!(machine.run(1));
    assert_eq!(machine.exchange.outbox.first().unwrap().0, Up::Session);
    machine.exchange.set_connection(false);
    assert!(machine.run(30));
    assert_eq!(machine.exchange.outbox.first(), None);
}

#[test]
fn the_watchdog_is_fed_each_second_and_a_network_half_that_hangs_resets_the_node() {
    let machine = provisioned();
    let mut machine = machine.again(RestartCause::Power);
    let fed = *machine.dog.0.lock().unwrap();
    assert!(machine.run(60));
    assert!(*machine.dog.0.lock().unwrap() - fed >= 59);
    // Nobody runs the network half here: its beats stand still.
    for resets in 1..=3 {
        assert!(!machine.run(400), "it resets itself");
        machine = machine.again(RestartCause::Software);
        let status = status(&mut machine);
        assert_eq!(status.asked, Some(Asked::Network));
        assert_eq!(status.degraded.network, resets == 3);
    }
    assert!(!machine.started.0, "without network from now on");
    assert!(machine.run(1_000));
    assert!(status(&mut machine).counters.rounds > 90);
}

#[test]
fn a_reboot_that_is_asked_for_happens_and_is_remembered() {
    let mut machine = provisioned();
    assert!(machine.run(2));
    machine.exchange.asks.signal(Ask::Reboot);
    assert!(!machine.run(2));
    let mut machine = machine.again(RestartCause::Software);
    assert_eq!(status(&mut machine).asked, Some(Asked::Person));
}

#[test]
fn a_flash_that_fails_for_good_costs_no_round() {
    let mut machine = provisioned();
    assert!(machine.run(30));
    let before = status(&mut machine).counters.rounds;
    for sector in 0..16 {
        machine.flash.with(|nor| nor.break_sector(sector));
    }
    machine.exchange.show(|_| ());
    for _ in 0..10 {
        machine.exchange.show(|_| ());
        assert!(machine.run(60));
    }
    let after = status(&mut machine);
    assert!(after.counters.rounds - before >= 59, "{}", after.counters.rounds - before);
    assert_eq!(machine.ask(Ask::Config), {
        let config = Config::decode(&config(1, 5)).unwrap();
        Answer::Config(Some((1, config.digest(), PERIOD_S, 3, 1, Trial::Trial)))
    });
}

/// Runs with a network half that goes on, but reaches nobody.
fn run_alone(machine: &mut Machine, seconds: u64) -> bool {
    (0..seconds / 60).all(|_| {
        machine.exchange.show(|_| ());
        machine.run(60)
    })
}

#[test]
fn a_config_that_does_not_prove_itself_gives_way_to_the_one_before() {
    let mut machine = provisioned();
    assert!(machine.run(70));
    assert_eq!(machine.ask(Ask::Confirm), Answer::Confirmed(true));
    assert_eq!(machine.ask(Ask::Confirm), Answer::Confirmed(false), "nothing is on trial any more");
    assert_eq!(machine.store(Image::Config, &config(2, 6)), Ok(StoredAs::Trial(2)));
    assert_eq!(machine.store(Image::Config, &config(3, 6)), Err(NotStored::OnTrial));
    assert!(!run_alone(&mut machine, 3_600), "no gateway has heard of it: the node resets itself");
    let mut machine = machine.again(RestartCause::Software);
    let now = status(&mut machine);
    assert_eq!(
        (now.asked, now.config.map(|(number, _, trial)| (number, trial))),
        (Some(Asked::Config), Some((1, Trial::Confirmed)))
    );
    let Answer::History(Some(newest)) = machine.ask(Ask::History(0)) else { panic!() };
    assert_eq!(newest, "config 2 by console, given up");
    let Answer::History(Some(before)) = machine.ask(Ask::History(1)) else { panic!() };
    assert_eq!(before, "config 1 by console, confirmed");
    assert_eq!(machine.ask(Ask::History(2)), Answer::History(None));
    assert!(run_alone(&mut machine, 3_600), "and that is the end of it");
}

#[test]
fn a_config_that_a_person_confirms_stays_without_a_gateway() {
    let mut machine = provisioned();
    assert!(machine.run(70));
    assert_eq!(machine.store(Image::Config, &config(2, 6)), Ok(StoredAs::Trial(2)));
    assert!(machine.run(70));
    assert_eq!(machine.ask(Ask::Confirm), Answer::Confirmed(true));
    assert!(run_alone(&mut machine, 3_600));
    let mut machine = machine.again(RestartCause::Power);
    assert_eq!(status(&mut machine).config.map(|(number, _, trial)| (number, trial)), Some((2, Trial::Confirmed)));
}

#[test]
fn what_ended_a_boot_is_listed_newest_first() {
    let machine = provisioned();
    machine.kept.note_fault(crate::kept::Fault {
        kind: 2,
        address: 0x800_1234,
        detail: 0x82,
        backtrace: [1, 2, 3, 4, 5, 6],
    });
    let machine = machine.again(RestartCause::Software);
    let mut machine = machine.again(RestartCause::Watchdog);
    let mut listed = Vec::new();
    for n in 0..4 {
        match machine.ask(Ask::Fault(n)) {
            Answer::Fault(Some(text)) => listed.push(text.to_string()),
            Answer::Fault(None) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed[0].starts_with("2 watchdog"), "{listed:?}");
    assert!(listed[1].starts_with("1 processor fault 82") && listed[1].contains("08001234 00000001"), "{listed:?}");
}
