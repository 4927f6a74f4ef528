//! Custody between a node's session and a small model of a gateway, over a link that loses,
//! doubles, delays and turns messages round, while the node restarts: nothing is lost, nothing is
//! doubled, and only the gateway's own word counts.

use std::collections::{BTreeMap, VecDeque};

use node::ring::Ring;
use node::session::{CLOCKLESS_RENEWAL_MS, Heard, Pace, Session};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use simulator::nor::Nor;
use telemetry::limits::{CLOCK_ROUND_TRIP_MS_MAX, SESSION_RENEWAL_MS, UNRECEIPTED_RECORDS_MAX};
use telemetry::mac::Key;
use telemetry::record::{Event, EventCode, Reading, Round};
use telemetry::session::{Anchor, Command, Nonce, Order, Receipt, Session as Message};
use telemetry::topic::{Down, Up};
use telemetry::{NodeName, Quality, Record, Report};

const PACE: Pace = Pace { batch_records: 24, hold_ms: 60_000 };
const UTC: i64 = 1_800_000_000_000;

fn name() -> NodeName {
    NodeName::new("pond-7").unwrap()
}

fn key() -> Key {
    Key::derive(&[7; 32], &name())
}

fn round(t_ms: u64, n: u32) -> Record {
    let readings = (0..8).map(|channel| Reading {
        channel,
        value: 700 + i32::from(channel) * 100 + (n.wrapping_mul(2_654_435_761) >> (24 + channel % 4)) as i32 % 9,
        raw: None,
        quality: Quality::GOOD,
    });
    Record::Round(Round { t_ms, config: 1, readings: readings.collect() })
}

fn append(ring: &mut Ring<Nor>, boot: u16, record: &Record) -> u32 {
    let mut buffer = [0; 512];
    let length = record.encode(boot, &mut buffer).unwrap();
    ring.append(&buffer[..length]).unwrap().seq
}

/// A gateway as small as the contract allows.
#[derive(Default)]
struct Gateway {
    nonce: Option<Nonce>,
    ready: Vec<Anchor>,
    is_ready: bool,
    ring: u32,
    next: u32,
    records: BTreeMap<u32, (u16, Record)>,
    bytes: usize,
    clock: bool,
}

impl Gateway {
    fn hear(&mut self, up: Up, payload: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        match up {
            Up::Session => match Message::decode(payload).unwrap() {
                Message::Open(open) => {
                    self.nonce = Some(open.nonce);
                    self.is_ready = false;
                    self.ring = open.ring;
                    self.next = self.next.max(open.floor);
                    Some(self.receipt(self.clock.then_some(UTC + now_ms as i64)))
                }
                Message::Ready(ready) => {
                    if self.nonce == Some(ready.nonce) {
                        self.is_ready = true;
                        self.ready = ready.anchors.to_vec();
                    }
                    None
                }
            },
            Up::Report => {
                let report = Report::decode(payload).unwrap();
                self.bytes += payload.len();
                let envelope = report.envelope;
                if !self.is_ready || envelope.ring != self.ring || envelope.first > self.next {
                    return None;
                }
                for (seq, record) in (envelope.first..).zip(report.records()) {
                    let named = (envelope.boot, record.unwrap());
                    if let Some(known) = self.records.get(&seq) {
                        assert_eq!(*known, named, "one name, one content");
                    } else {
                        self.records.insert(seq, named);
                    }
                }
                self.next = self.next.max(envelope.first + envelope.count);
                Some(self.receipt(None))
            }
            Up::Live => None,
        }
    }

    fn receipt(&self, utc_ms: Option<i64>) -> Vec<u8> {
        let mut body = [0; 64];
        let length = Receipt { ring: self.ring, next: self.next, utc_ms }.encode(&mut body).unwrap();
        sealed(&key(), Down::Receipt, self.nonce.unwrap(), &body[..length])
    }
}

fn sealed(key: &Key, kind: Down, nonce: Nonce, body: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 256];
    let length = key.seal(&name(), kind, nonce, body, &mut buffer).unwrap();
    buffer[..length].to_vec()
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A pipe that may lose, double and delay.
struct Pipe<T>(VecDeque<(u64, T)>);

impl<T: Clone> Pipe<T> {
    fn put(&mut self, now_ms: u64, message: T, chance: &mut Chance, trouble: u64) {
        if chance.below(100) < trouble {
            match chance.below(3) {
                0 => return,
                1 => self.0.push_back((now_ms + chance.below(20_000), message.clone())),
                _ => {}
            }
            self.0.push_back((now_ms + chance.below(20_000), message));
        } else {
            self.0.push_back((now_ms + 20, message));
        }
    }

    fn take(&mut self, now_ms: u64) -> Option<T> {
        let at = self.0.iter().position(|(due, _)| *due <= now_ms)?;
        self.0.remove(at).map(|(_, message)| message)
    }
}

struct World {
    now_ms: u64,
    started_ms: u64,
    boot: u16,
    ring: Option<Ring<Nor>>,
    session: Session,
    gateway: Gateway,
    up: Pipe<(Up, Vec<u8>)>,
    down: Pipe<Vec<u8>>,
    chance: Chance,
    kept: BTreeMap<u32, (u16, Record)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let ring = Ring::open_or_format(Nor::new(64), 0xABCD).unwrap().0;
        Self {
            now_ms: 0,
            started_ms: 0,
            boot: 1,
            ring: Some(ring),
            session: Session::new(name(), key(), 1, 40, PACE, seed),
            gateway: Gateway { clock: true, ..Gateway::default() },
            up: Pipe(VecDeque::new()),
            down: Pipe(VecDeque::new()),
            chance: Chance(seed | 1),
            kept: BTreeMap::new(),
        }
    }

    fn mono_ms(&self) -> u64 {
        self.now_ms - self.started_ms
    }

    fn keep(&mut self, record: Record) {
        let seq = append(self.ring.as_mut().unwrap(), self.boot, &record);
        self.kept.insert(seq, (self.boot, record));
    }

    fn reboot(&mut self) {
        self.boot += 1;
        self.started_ms = self.now_ms;
        let flash = self.ring.take().unwrap().into_flash();
        self.ring = Some(Ring::open_or_format(flash, 1).unwrap().0);
        let seed = self.chance.below(u64::MAX);
        self.session = Session::new(name(), key(), self.boot, 40, PACE, seed);
        self.session.connected(0);
    }

    /// Passes `ms`, in steps, with `trouble` percent of messages mistreated.
    fn pass(&mut self, ms: u64, trouble: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms += 10;
            let mono = self.mono_ms();
            while let Some((kind, payload)) = self.up.take(self.now_ms) {
                if let Some(answer) = self.gateway.hear(kind, &payload, self.now_ms) {
                    self.down.put(self.now_ms, answer, &mut self.chance, trouble);
                }
            }
            while let Some(message) = self.down.take(self.now_ms) {
                let ring = self.ring.as_ref().unwrap();
                let Heard { clock, beyond } = self.session.receipt(&message, mono, ring.id(), ring.next_seq());
                assert_eq!(beyond, None);
                if let Some(event) = clock {
                    let error = (event.value - UTC - self.now_ms as i64).abs();
                    assert!(error <= event.detail, "{error} ms off, {} promised", event.detail);
                    self.keep(Record::Event(event));
                }
            }
            let (up, chance, now) = (&mut self.up, &mut self.chance, self.now_ms);
            let mut publish = |kind: Up, payload: &[u8]| {
                let accepted = chance.below(100) >= trouble / 2;
                if accepted {
                    up.put(now, (kind, payload.to_vec()), chance, trouble);
                }
                accepted
            };
            self.session.poll(mono, self.ring.as_mut().unwrap(), &mut publish).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn nothing_is_lost_and_nothing_is_doubled(seed in any::<u64>(), trouble in 0u64..60) {
        let mut world = World::new(seed);
        world.session.connected(0);
        for n in 0..400 {
            let record = round(world.mono_ms(), n);
            world.keep(record);
            let pause = 10 * world.chance.below(400);
            world.pass(pause, trouble);
            match world.chance.below(60) {
                0 => world.reboot(),
                1 => world.session.disconnected(),
                2 | 3 => world.session.connected(world.mono_ms()),
                _ => {}
            }
        }
        world.session.connected(world.mono_ms());
        world.pass(300_000, 0);
        prop_assert_eq!(&world.gateway.records, &world.kept);
        prop_assert_eq!(world.session.released(), Some(world.ring.as_ref().unwrap().next_seq()));
    }
}

#[test]
fn a_steady_link_costs_at_most_one_and_a_half_bytes_a_reading() {
    let mut world = World::new(1);
    world.session.connected(0);
    world.pass(1_000, 0);
    let before = world.ring.take().unwrap().into_flash();
    let written = before.written();
    world.ring = Some(Ring::open_or_format(before, 1).unwrap().0);
    let base = world.gateway.bytes;
    let rounds = 24 * 10;
    for n in 0..rounds {
        let record = round(world.mono_ms(), n);
        world.keep(record);
        world.pass(2_000, 0);
    }
    world.pass(70_000, 0);
    assert_eq!(world.gateway.records, world.kept);
    assert_eq!((world.session.counters().timeouts, world.session.counters().resent), (0, 0));
    let readings = f64::from(rounds * 8);
    let wire = (world.gateway.bytes - base) as f64 / readings;
    let flash = (world.ring.take().unwrap().into_flash().written() - written) as f64 / readings;
    println!("wire {wire:.2} B, flash {flash:.2} B a reading");
    assert!(wire <= 1.5, "{wire:.2} B a reading on the wire");
    assert!(flash <= 5.0, "{flash:.2} B a reading in the flash");
}

#[test]
fn older_boots_are_dated_by_the_clock_they_knew() {
    let mut world = World::new(5);
    world.session.connected(0);
    world.pass(1_000, 0);
    for n in 0..5 {
        world.keep(round(n * 10, n as u32));
    }
    world.reboot();
    world.gateway.clock = false;
    world.pass(1_000, 0);
    let boots: Vec<u16> = world.gateway.ready.iter().map(|anchor| anchor.boot).collect();
    assert_eq!(boots, [1]);
    let anchor = world.gateway.ready[0];
    let error = (anchor.utc_ms - UTC - anchor.mono_ms as i64).unsigned_abs();
    assert!(error <= u64::from(anchor.error_ms));
}

#[test]
fn forged_stale_and_late_messages_change_nothing_and_are_counted() {
    let mut world = World::new(9);
    world.session.connected(0);
    world.pass(1_000, 0);
    world.keep(round(5, 1));
    let (ring, next) = (0xABCD, 2);
    let released = world.session.released();
    let nonce = world.gateway.nonce.unwrap();
    let mut body = [0; 64];
    let length = Receipt { ring, next: 2, utc_ms: None }.encode(&mut body).unwrap();
    let other = Key::derive(&[8; 32], &name());
    let forged = sealed(&other, Down::Receipt, nonce, &body[..length]);
    assert_eq!(world.session.receipt(&forged, 1_000, ring, next), Heard::default());
    assert_eq!(world.session.counters().forged, 1);
    // A renewed session does not believe what the one before would have.
    world.session.reopen();
    world.pass(10, 0);
    let stale = sealed(&key(), Down::Receipt, nonce, &body[..length]);
    assert_eq!(world.session.receipt(&stale, 1_010, ring, next), Heard::default());
    assert_eq!(world.session.counters().stale, 1);
    assert_eq!(world.session.released(), released);

    world.pass(1_000, 0);
    let nonce = world.gateway.nonce.unwrap();
    let mut command = |counter, not_after_ms| {
        let order = Order::Switch { actuator: 0, on: true, for_s: 60 };
        let mut body = [0; 64];
        let length = Command { counter, not_after_ms, order }.encode(&mut body).unwrap();
        world.session.command(&sealed(&key(), Down::Command, nonce, &body[..length]), 3_000)
    };
    assert!(command(1, 10_000).is_some());
    assert!(command(1, 10_000).is_none(), "each number is obeyed once");
    assert!(command(2, 2_999).is_none(), "what is late is not obeyed");
    // Numbers are of a session: the next one begins anew, and the old one's word is void.
    world.session.reopen();
    world.pass(1_000, 0);
    let fresh = world.gateway.nonce.unwrap();
    for (nonce, obeyed) in [(nonce, false), (fresh, true)] {
        let order = Order::Switch { actuator: 0, on: true, for_s: 60 };
        let length = Command { counter: 1, not_after_ms: 10_000, order }.encode(&mut body).unwrap();
        let message = sealed(&key(), Down::Command, nonce, &body[..length]);
        assert_eq!(world.session.command(&message, 3_000).is_some(), obeyed);
    }
}

#[test]
fn receipts_only_release_more_and_only_for_their_own_ring() {
    let mut world = World::new(19);
    world.session.connected(0);
    world.pass(1_000, 0);
    for n in 0..100 {
        world.keep(round(world.mono_ms(), n));
    }
    world.pass(2_000, 0);
    world.gateway.next = 1_000_000;
    let nonce = world.gateway.nonce.unwrap();
    let (id, next) = (0xABCD, world.ring.as_ref().unwrap().next_seq());
    let say = |world: &mut World, ring, next_receipt| {
        let mut body = [0; 64];
        let length = Receipt { ring, next: next_receipt, utc_ms: None }.encode(&mut body).unwrap();
        let message = sealed(&key(), Down::Receipt, nonce, &body[..length]);
        let heard = world.session.receipt(&message, world.mono_ms(), id, next);
        (heard.beyond, world.session.released().unwrap())
    };
    let released = world.session.released().unwrap();
    assert!(released > 90 && released <= next);
    assert_eq!(say(&mut world, id, 5), (None, released), "a late one takes nothing back");
    assert_eq!(say(&mut world, id + 1, next + 3), (None, released), "one of another ring says nothing");
    assert_eq!(say(&mut world, id, next), (None, next));
    assert_eq!(say(&mut world, id, next + 7), (Some(next + 7), next + 7), "names not given here are told");
}

#[test]
fn no_more_is_under_way_than_the_window_and_what_is_known_is_not_sent_again() {
    let mut ring = Ring::open_or_format(Nor::<4096, 4>::new(64), 1).unwrap().0;
    for n in 0..700 {
        append(&mut ring, 1, &round(n * 10, n as u32));
    }
    let mut session = Session::new(name(), key(), 1, 40, PACE, 3);
    session.connected(0);
    let (mut nonce, mut sent) = (None, Vec::new());
    let mut pass = |session: &mut Session, ring: &mut Ring<Nor>, now_ms: u64| {
        session
            .poll(now_ms, ring, &mut |kind, payload| {
                match kind {
                    Up::Session => match Message::decode(payload).unwrap() {
                        Message::Open(open) => nonce = Some(open.nonce),
                        Message::Ready(_) => {}
                    },
                    _ => {
                        let envelope = Report::decode(payload).unwrap().envelope;
                        sent.extend(envelope.first..envelope.first + envelope.count);
                    }
                }
                true
            })
            .unwrap();
        (nonce.unwrap(), std::mem::take(&mut sent))
    };
    let receipt = |nonce, next| {
        let mut body = [0; 64];
        let length = Receipt { ring: 1, next, utc_ms: Some(UTC) }.encode(&mut body).unwrap();
        sealed(&key(), Down::Receipt, nonce, &body[..length])
    };
    let (nonce, _) = pass(&mut session, &mut ring, 10);
    session.receipt(&receipt(nonce, 0), 20, 1, 700);
    let (_, sent) = pass(&mut session, &mut ring, 60_100);
    assert!(sent.iter().copied().eq(0..UNRECEIPTED_RECORDS_MAX), "{} are under way", sent.len());
    // It has more than was sent to it since: another way, an earlier boot.
    session.receipt(&receipt(nonce, 300), 60_200, 1, 700);
    let (_, sent) = pass(&mut session, &mut ring, 60_300);
    assert_eq!((sent.first(), sent.len() as u32), (Some(&300), UNRECEIPTED_RECORDS_MAX));
}

#[test]
fn a_late_answer_tells_no_time_and_a_session_lasts_six_hours() {
    for (trip_ms, known) in
        [(u64::from(CLOCK_ROUND_TRIP_MS_MAX), true), (u64::from(CLOCK_ROUND_TRIP_MS_MAX) + 1, false)]
    {
        let mut ring = Ring::open_or_format(Nor::<4096, 4>::new(8), 1).unwrap().0;
        let mut session = Session::new(name(), key(), 1, 40, PACE, 3);
        session.connected(0);
        let mut nonces = Vec::new();
        let mut poll = |session: &mut Session, now_ms: u64| {
            session
                .poll(now_ms, &mut ring, &mut |_, payload| {
                    if let Message::Open(open) = Message::decode(payload).unwrap() {
                        nonces.push(open.nonce);
                    }
                    true
                })
                .unwrap();
            (nonces.len(), *nonces.last().unwrap())
        };
        let (_, nonce) = poll(&mut session, 1_000);
        let mut body = [0; 64];
        let length = Receipt { ring: 1, next: 0, utc_ms: Some(UTC) }.encode(&mut body).unwrap();
        session.receipt(&sealed(&key(), Down::Receipt, nonce, &body[..length]), 1_000 + trip_ms, 1, 0);
        assert!(session.is_open());
        let anchor = session.clock();
        assert_eq!(anchor.is_some(), known);
        if let Some(anchor) = anchor {
            // The answer was written at any instant of the trip.
            let most = (anchor.utc_ms - UTC).unsigned_abs()
                + anchor.mono_ms.abs_diff(1_000).max(anchor.mono_ms.abs_diff(1_000 + trip_ms));
            assert!(most <= u64::from(anchor.error_ms), "{most} ms off, {} promised", anchor.error_ms);
        }
        let lasts_ms = if known { SESSION_RENEWAL_MS } else { CLOCKLESS_RENEWAL_MS };
        assert_eq!(poll(&mut session, trip_ms + lasts_ms).0, 1);
        assert_eq!(poll(&mut session, 1_000 + trip_ms + lasts_ms).0, 2);
    }
}

#[test]
fn what_can_no_longer_be_read_is_said_to_be_gone() {
    let mut world = World::new(11);
    for n in 0..10 {
        world.keep(round(u64::from(n) * 10, n));
    }
    let mut flash = world.ring.take().unwrap().into_flash();
    flash.bytes_mut()[200] ^= 1;
    world.ring = Some(Ring::open_or_format(flash, 1).unwrap().0);
    world.session.connected(0);
    world.session.hurry(10);
    world.pass(5_000, 0);
    let gone = world.gateway.records.values().filter(|(_, record)| *record == Record::Gone).count();
    assert_eq!(gone, 1);
    assert!(world.gateway.records.len() >= 10);
}

#[test]
fn a_glitch_on_the_bus_is_not_told_as_a_loss() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        for n in 0..400 {
            world.keep(round(u64::from(n) * 10, n));
        }
        let mut flash = world.ring.take().unwrap().into_flash();
        flash.glitch(2_000, seed);
        world.ring = Some(Ring::open_or_format(flash, 1).unwrap().0);
        world.session.connected(0);
        world.pass(60_000, 0);
        // A glitch while it is opened may pass over a name; what was kept arrives.
        for (seq, record) in &world.kept {
            assert_eq!(world.gateway.records.get(seq), Some(record), "seed {seed}, seq {seq}");
        }
    }
}

#[test]
fn a_gateway_that_went_back_to_a_backup_gets_again_what_it_forgot() {
    let mut world = World::new(13);
    world.session.connected(0);
    for n in 0..300 {
        let record = round(world.mono_ms(), n);
        world.keep(record);
        world.pass(100, 0);
    }
    world.pass(70_000, 0);
    assert_eq!(world.gateway.records, world.kept);
    // It knows neither the session nor what came since.
    world.gateway.records.split_off(&100);
    (world.gateway.next, world.gateway.nonce, world.gateway.is_ready) = (100, Some(Nonce([0; 8])), false);
    let record = round(world.mono_ms(), 300);
    world.keep(record);
    world.pass(150_000, 0);
    assert_eq!(world.gateway.records, world.kept);
}

#[test]
fn a_node_that_did_not_learn_the_time_asks_again_soon_and_then_no_more() {
    let mut world = World::new(17);
    world.gateway.clock = false;
    world.session.connected(0);
    world.pass(1_000, 0);
    world.keep(round(10, 1));
    assert_eq!((world.session.counters().sessions, world.session.clock()), (1, None));
    world.gateway.clock = true;
    world.pass(CLOCKLESS_RENEWAL_MS + 1_000, 0);
    assert_eq!(world.session.counters().sessions, 2);
    assert_eq!(world.gateway.ready.first().map(|anchor| anchor.boot), Some(1));
    world.pass(10 * CLOCKLESS_RENEWAL_MS, 0);
    assert_eq!(world.session.counters().sessions, 2);
}

#[test]
fn silence_is_met_with_growing_patience() {
    let mut ring = Ring::open_or_format(Nor::<4096, 4>::new(8), 1).unwrap().0;
    append_event(&mut ring);
    let mut session = Session::new(name(), key(), 1, 40, PACE, 3);
    session.connected(0);
    let mut opened = Vec::new();
    for now_ms in (0..400_000).step_by(100) {
        session
            .poll(now_ms, &mut ring, &mut |kind, _| {
                assert_eq!(kind, Up::Session, "nothing is sent before the gateway has answered");
                opened.push(now_ms);
                true
            })
            .unwrap();
    }
    let gaps: Vec<u64> = opened.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((5_000..=6_400).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 75_100), "{gaps:?}");
    assert!(gaps.last().is_some_and(|gap| *gap >= 60_000), "{gaps:?}");
}

fn append_event(ring: &mut Ring<Nor>) {
    let event = Event { t_ms: 0, code: EventCode::Restarted, subject: 0, value: 1, detail: 1 };
    append(ring, 1, &Record::Event(event));
}
