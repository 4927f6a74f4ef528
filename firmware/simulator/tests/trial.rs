//! A config on trial: taken on when it proves itself, given up when it does not, and never half of
//! either, whenever the power fails.

use node::config::{Actuator, Config, IMAGE_BYTES_MAX};
use node::control::{Pauses, Rule};
use node::slots::{BOOTS_MAX, Reason, Slot, SlotError, Slots, Source, State};
use node::{Identity, RestartCause};
use simulator::host::{Direct, Flash, Host, Parts};
use simulator::nor::{Nor, NorError, Torn};
use simulator::world::Pond;
use telemetry::mac::Key;
use telemetry::record::EventCode;
use telemetry::session::{Nonce, Receipt, Session};
use telemetry::topic::{Down, Up};
use telemetry::{ActuatorKind, NodeName, Property, Record, Report};

const MINUTE_US: u64 = 60_000_000;

fn name() -> NodeName {
    NodeName::new("pond-7").unwrap()
}

fn key() -> Key {
    Key::derive(&[3; 32], &name())
}

/// A config whose aerator follows the direct input with this number; input 0 is oxygen, and there is
/// no other.
fn config(number: u16, input: u8) -> Config {
    let mut config = Config::new(number);
    (config.period_s, config.hold_s) = (10, 20);
    let channel = node::config::Channel {
        property: Property::DissolvedOxygen,
        source: node::config::Source::Direct { input },
        calibration: Default::default(),
        limits: Default::default(),
        compensate_with: None,
    };
    config.channels.push(channel).unwrap();
    let pauses = Pauses { on_s: 60, off_s: 60 };
    let rule = Rule::Aerator { channel: 0, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses };
    config.actuators.push(Actuator::new(ActuatorKind::Aerator, rule)).unwrap();
    config
}

fn image(config: &Config) -> Vec<u8> {
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image).unwrap();
    image.truncate(length);
    image
}

/// A host and what its gateway knows.
struct Run {
    host: Host,
    now_us: u64,
    nonce: Option<Nonce>,
    ring: u32,
    next: u32,
    records: Vec<Record>,
    /// It answers no report.
    deaf: bool,
}

impl Run {
    fn new() -> Self {
        let identity = Identity { name: name(), key: key(), firmware: "0.1.0", board: "host" };
        let parts = Parts {
            identity,
            config: config(1, 0),
            world: Box::new(Pond::new(1)),
            instruments: Vec::new(),
            relays: Vec::new(),
            directs: vec![Direct { property: Property::DissolvedOxygen, depth_m: 0.5 }],
            flash: Flash::new(8),
            seed: 5,
        };
        let host = Host::new(parts, 1_800_000_000_000, 0).unwrap();
        let mut run = Self { host, now_us: 0, nonce: None, ring: 0, next: 0, records: Vec::new(), deaf: false };
        run.host.connected();
        run.pass(MINUTE_US);
        run
    }

    fn receipt(&mut self, utc_ms: Option<i64>) {
        let mut body = [0; 64];
        let length = Receipt { ring: self.ring, next: self.next, utc_ms }.encode(&mut body).unwrap();
        self.send(Down::Receipt, &body[..length]);
    }

    fn send(&mut self, kind: Down, body: &[u8]) {
        let mut buffer = vec![0; body.len() + 256];
        let length = key().seal(&name(), kind, self.nonce.unwrap(), body, &mut buffer).unwrap();
        self.host.message(kind, &buffer[..length]);
    }

    fn pass(&mut self, by_us: u64) {
        let until_us = self.now_us + by_us;
        while self.now_us < until_us {
            self.now_us = self.host.wake_us().clamp(self.now_us + 1, until_us);
            self.host.run(self.now_us);
            while let Some((up, payload)) = self.host.next_publish() {
                match up {
                    Up::Live => {}
                    Up::Session => {
                        if let Session::Open(open) = Session::decode(&payload).unwrap() {
                            (self.nonce, self.ring) = (Some(open.nonce), open.ring);
                            self.next = self.next.max(open.floor);
                            self.receipt(Some(1_800_000_000_000 + (self.now_us / 1_000) as i64));
                        }
                    }
                    Up::Report => {
                        let report = Report::decode(&payload).unwrap();
                        if !self.deaf && report.envelope.first <= self.next {
                            let skip = (self.next - report.envelope.first) as usize;
                            self.records.extend(report.records().map(Result::unwrap).skip(skip));
                            self.next = self.next.max(report.envelope.first + report.envelope.count);
                            self.receipt(None);
                        }
                    }
                }
            }
        }
    }

    fn push(&mut self, config: &Config) {
        self.send(Down::Config, &image(config));
    }

    fn state(&self) -> State {
        self.host.slots().unwrap().running().unwrap().state
    }

    fn number(&self) -> u16 {
        self.host.node().unwrap().config().number
    }

    /// What the gateway was told of configs that were given up: number and reason.
    fn given_up(&self) -> Vec<(i64, i64)> {
        let of = |record: &Record| match record {
            Record::Event(event) if event.code == EventCode::ConfigGivenUp => Some((event.value, event.detail)),
            _ => None,
        };
        self.records.iter().filter_map(of).collect()
    }
}

#[test]
fn a_good_config_is_confirmed_and_stays() {
    let mut run = Run::new();
    assert_eq!(run.state(), State::Confirmed, "as it left the factory");
    run.push(&config(2, 0));
    assert_eq!((run.number(), run.state()), (2, State::Trial { boots: 0 }));
    run.pass(2 * MINUTE_US);
    assert_eq!((run.number(), run.state()), (2, State::Confirmed));
    run.pass(60 * MINUTE_US);
    run.host.power_on(RestartCause::Power, run.now_us).unwrap();
    assert_eq!((run.number(), run.state()), (2, State::Confirmed));
    assert!(run.given_up().is_empty());
}

#[test]
fn one_that_loses_a_rules_probe_rolls_back_and_the_gateway_is_told() {
    let mut run = Run::new();
    run.push(&config(2, 9));
    run.pass(14 * MINUTE_US);
    assert_eq!((run.number(), run.state()), (2, State::Trial { boots: 0 }));
    run.pass(2 * MINUTE_US);
    assert_eq!((run.number(), run.state()), (1, State::Confirmed));
    run.pass(2 * MINUTE_US);
    assert_eq!(run.given_up(), [(2, Reason::Unread as i64)]);
    // Told once, also after further boots.
    run.host.power_on(RestartCause::Power, run.now_us).unwrap();
    run.host.connected();
    run.pass(2 * MINUTE_US);
    assert_eq!(run.given_up().len(), 1);
    // And another one may come.
    run.push(&config(3, 0));
    run.pass(2 * MINUTE_US);
    assert_eq!((run.number(), run.state()), (3, State::Confirmed));
}

#[test]
fn one_that_cuts_the_node_off_rolls_back_unless_somebody_at_the_console_confirms_it() {
    for person in [false, true] {
        let mut run = Run::new();
        run.push(&config(2, 0));
        run.deaf = true;
        run.pass(5 * MINUTE_US);
        assert_eq!(run.state(), State::Trial { boots: 0 });
        if person {
            assert!(run.host.confirm_config());
        }
        run.pass(15 * MINUTE_US);
        run.deaf = false;
        run.pass(5 * MINUTE_US);
        assert_eq!(run.state(), State::Confirmed);
        assert_eq!(run.number(), if person { 2 } else { 1 });
        assert_eq!(run.given_up(), if person { vec![] } else { vec![(2, Reason::Untold as i64)] });
    }
}

#[test]
fn one_under_which_the_node_does_not_stay_up_is_given_up_by_counting() {
    let mut run = Run::new();
    run.push(&config(2, 0));
    run.deaf = true;
    for boot in 1..=BOOTS_MAX {
        run.pass(MINUTE_US / 2);
        run.host.power_on(RestartCause::Watchdog, run.now_us).unwrap();
        assert_eq!((run.number(), run.state()), (2, State::Trial { boots: boot }));
    }
    run.host.power_on(RestartCause::Watchdog, run.now_us).unwrap();
    assert_eq!((run.number(), run.state()), (1, State::Confirmed));
    run.deaf = false;
    run.host.connected();
    run.pass(2 * MINUTE_US);
    assert_eq!(run.given_up(), [(2, Reason::Boots as i64)]);
}

#[test]
fn a_second_config_is_not_taken_while_one_is_on_trial() {
    let mut run = Run::new();
    run.deaf = true;
    run.push(&config(2, 0));
    run.push(&config(3, 0));
    assert_eq!(run.number(), 2, "the first one's way back is not given away");
}

#[test]
fn a_failing_flash_of_the_slots_costs_no_control() {
    let mut run = Run::new();
    run.host.slots_flash().with(|nor| nor.mute(true));
    run.push(&config(2, 0));
    assert_eq!(run.number(), 1, "what cannot be kept is not taken on");
    run.host.slots_flash().with(|nor| nor.mute(false));
    run.push(&config(2, 0));
    run.host.slots_flash().with(|nor| nor.mute(true));
    let rounds = run.host.node().unwrap().counters().rounds;
    run.pass(30 * MINUTE_US);
    assert_eq!(run.number(), 2);
    assert!(run.host.node().unwrap().counters().rounds >= rounds + 179, "it goes on, without a restart");
    run.host.slots_flash().with(|nor| nor.mute(false));
    run.pass(2 * MINUTE_US);
    assert_eq!(run.state(), State::Confirmed);
}

const TORN: [Torn; 8] = [
    Torn::Nothing,
    Torn::FirstHalf,
    Torn::LastHalf,
    Torn::SomeBits(1),
    Torn::Weak(1),
    Torn::Weak(2),
    Torn::Weak(3),
    Torn::Everything,
];

fn cut_everywhere<const S: usize, const W: usize>(ecc: bool) -> u64 {
    let new = || {
        let flash = Nor::<S, W>::new(2 * 4_096usize.div_ceil(S));
        if ecc { flash.with_ecc() } else { flash }
    };
    let mut slots = Slots::open(new(), "board").unwrap();
    slots.stage(&[0; 300], "factory", 0, Source::Factory).unwrap();
    slots.confirm().unwrap();
    let start = slots.into_flash();
    let mut cuts = 0;
    for at in 0.. {
        for torn in TORN {
            let mut flash = start.clone();
            flash.cut_at(start.operations() + at, torn);
            let (mut flash, done) = live(flash);
            if flash.is_powered() {
                return cuts;
            }
            cuts += 1;
            let mut seen: Option<u8> = None;
            for boot in 0..3 {
                flash.power_on();
                let mut slots = Slots::open(flash, "board").unwrap();
                let counted = slots.boot_counted();
                assert_eq!(counted, Ok(()));
                let entry = slots.running().unwrap().clone();
                let mut buffer = [9; 300];
                let runs = slots.read_image(&mut buffer).unwrap()[0];
                assert!(buffer.iter().all(|byte| *byte == runs), "half of one and half of the other");
                assert!(seen.is_none_or(|seen| seen == runs), "boot {boot}: {runs} after {seen:?}");
                seen = Some(runs);
                let fits = match done {
                    0 => runs <= 1,
                    1 => runs == 1,
                    2 => runs == 1 || runs == 2,
                    3 => runs == 2 || runs == 1,
                    _ => runs == 1,
                };
                assert!(fits, "cut {at} {torn:?}: {runs} after step {done}");
                if done >= 2 && runs == 1 {
                    assert_eq!(entry.state, State::Confirmed, "cut {at} {torn:?}");
                }
                flash = slots.into_flash();
            }
        }
    }
    cuts
}

/// One thing that is done to slots.
type Step<const S: usize, const W: usize> = fn(&mut Slots<Nor<S, W>>) -> Result<(), SlotError<NorError>>;

/// Stages, confirms; stages, gives up, says so, until the power fails: the flash, and how many steps
/// were done.
fn live<const S: usize, const W: usize>(flash: Nor<S, W>) -> (Nor<S, W>, usize) {
    let mut slots = Slots::open(flash, "board").unwrap();
    let steps: [Step<S, W>; 5] = [
        |slots| slots.stage(&[1; 300], "a", 1, Source::Serial),
        Slots::confirm,
        |slots| slots.stage(&[2; 300], "b", 2, Source::Mqtt),
        |slots| slots.condemn(Reason::Person),
        Slots::mark_told,
    ];
    let done = steps.into_iter().take_while(|step| step(&mut slots).is_ok()).count();
    (slots.into_flash(), done)
}

#[test]
fn a_cut_in_any_operation_of_the_slots_leaves_one_or_the_other_and_each_boot_says_the_same() {
    assert!(cut_everywhere::<4096, 1>(false) > 100);
    assert!(cut_everywhere::<4096, 4>(false) > 100);
    assert!(cut_everywhere::<4096, 8>(true) > 100);
    assert!(cut_everywhere::<8192, 16>(true) > 100);
    assert!(cut_everywhere::<131_072, 32>(true) > 100);
}

#[test]
fn what_cannot_be_staged_is_refused_by_name() {
    let new = || Slots::open(Nor::<4096, 4>::new(6), "board").unwrap();
    let mut slots = new();
    assert_eq!(slots.running(), None, "not provisioned, which is no error");
    assert_eq!(slots.confirm(), Err(SlotError::Unprovisioned));
    assert_eq!(slots.condemn(Reason::Person), Err(SlotError::Unprovisioned));
    assert!(slots.room() >= IMAGE_BYTES_MAX, "{}", slots.room());
    assert_eq!(slots.stage(&[], "a", 0, Source::Serial), Err(SlotError::Length(0)));
    assert_eq!(slots.push(&[1]), Err(SlotError::Staging));
    slots.begin(10, "a", 0, Source::Serial).unwrap();
    slots.push(&[1; 4]).unwrap();
    assert_eq!(slots.finish(), Err(SlotError::Staging));
    slots.begin(10, "a", 0, Source::Serial).unwrap();
    assert_eq!(slots.push(&[1; 11]), Err(SlotError::Staging));
    assert_eq!(slots.running(), None);
    // The first has nothing to go back to.
    slots.stage(&[1; 10], "somebody with a very long name, cut at 32", 5, Source::Serial).unwrap();
    assert_eq!(slots.running().unwrap().who.as_str(), "somebody with a very long name, ");
    assert_eq!(slots.condemn(Reason::Unread), Err(SlotError::NoOther));
    let mut flash = slots.into_flash();
    for _ in 0..10 {
        let mut slots = Slots::open(flash, "board").unwrap();
        slots.boot_counted().unwrap();
        assert!(slots.running().is_some(), "nothing better is there");
        flash = slots.into_flash();
    }
    let slots = Slots::open(flash, "another").unwrap();
    assert_eq!(slots.running(), None);
    assert_eq!(slots.history()[0], Slot::OtherBoard);
    assert!(matches!(Slots::open(Nor::<4096, 4>::new(1), "board"), Err(SlotError::Geometry)));
    let mut mute = Nor::<4096, 4>::new(6);
    mute.mute(true);
    assert!(matches!(Slots::open(mute, "board"), Err(SlotError::Flash(NorError::Mute))));
}

#[test]
fn a_damaged_image_does_not_run_and_the_one_before_does() {
    let mut slots = Slots::open(Nor::<4096, 4>::new(6).with_ecc(), "board").unwrap();
    for n in [1, 2] {
        slots.stage(&[n; 900], "a", 0, Source::Serial).unwrap();
        slots.confirm().unwrap();
    }
    let (at, length) = slots.place(slots.running().unwrap());
    let good = slots.into_flash();
    for n in (0..length).step_by(37) {
        for unreadable in [false, true] {
            let mut flash = good.clone();
            if unreadable {
                flash.spoil(at as usize + n);
            } else {
                flash.bytes_mut()[at as usize + n] ^= 8;
            }
            let mut slots = Slots::open(flash, "board").unwrap();
            assert_eq!(slots.history()[1], Slot::Damaged);
            let mut buffer = [0; 1_000];
            assert_eq!(slots.read_image(&mut buffer).unwrap(), [1; 900]);
        }
    }
}
