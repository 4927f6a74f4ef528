//! Acceptance over a file system that can fail at any operation: a model node talks to the real
//! acceptor, and what it was told is compared with what the log holds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};

use bytes::Bytes;
use gateway::accept::held::Reason;
use gateway::accept::{Acceptor, Limits, Needs, described};
use gateway::clock::{Clock, Utc};
use gateway::credentials::Credentials;
use gateway::custody::{Accept, Arrival, Downlinks, Outlet, Reply, Sent, Verdict};
use gateway::entry::{Content, Entry};
use gateway::live::Live;
use gateway::registry::Registry;
use spool::files::LogFile;
use spool::memory::{Failure, Memory, Unsynced};
use spool::{Files, Options, Read, Replay, read_only};
use telemetry::NodeName;
use telemetry::mac::Key;
use telemetry::quality::Quality;
use telemetry::record::*;
use telemetry::report::ReportWriter;
use telemetry::session::*;
use telemetry::snapshot::Snapshot;
use telemetry::topic::{Down, Up};

const NOW: i64 = 1_795_000_000_000;
/// When a boot of which nobody knew the time began, as a person remembers it.
const NOON_BEFORE: i64 = NOW - 86_400_000;

#[derive(Default)]
struct TestClock {
    ahead: AtomicI64,
    wrong: AtomicBool,
}

impl Clock for TestClock {
    fn utc(&self) -> Utc {
        Utc { ms: NOW + self.ahead.load(Ordering::Relaxed), known_good: !self.wrong.load(Ordering::Relaxed) }
    }
    fn mono_ms(&self) -> u64 {
        self.ahead.load(Ordering::Relaxed).unsigned_abs()
    }
}

/// What the gateway sent down, by node.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<Vec<(NodeName, Down, Bytes)>>>);

impl Outlet for Mailbox {
    fn send(&self, node: &NodeName, channel: Down, message: Bytes) -> Sent {
        self.0.lock().unwrap().push((node.clone(), channel, message));
        Sent::Queued
    }
}

const SITES: &str = r#"
[[site]]
name = "s, 1=\"x\" 福清"
adcode = 350181
[[site.unit]]
name = "塘 1"
kind = "pond"
[[site.unit]]
name = "塘 2"
kind = "pond"
[[node]]
name = "pond-7"
[[node.at]]
since = 2020-01-01T00:00:00Z
site = "s, 1=\"x\" 福清"
unit = "塘 1"
[[node.at]]
since = 2026-11-18T12:00:00Z
site = "s, 1=\"x\" 福清"
unit = "塘 2"
"#;

struct Gateway {
    acceptor: Arc<Acceptor>,
    mailbox: Mailbox,
    clock: Arc<TestClock>,
    live: Arc<Live>,
}

fn credentials(folder: &Path) -> Credentials {
    let mut credentials = Credentials::open(folder).unwrap();
    for node in ["pond-7", "pond-8"] {
        if !credentials.known(&NodeName::new(node).unwrap()) {
            credentials.set(&NodeName::new(node).unwrap(), "t").unwrap();
        }
    }
    credentials
}

fn registry(folder: &Path, text: &str) -> Arc<Registry> {
    let path = folder.join("sites.toml");
    std::fs::write(&path, text).unwrap();
    Arc::new(Registry::load(&[path]).unwrap())
}

fn data() -> PathBuf {
    PathBuf::from("data")
}

fn open(memory: &Memory, folder: &Path, sites: &str) -> Option<Gateway> {
    open_on(Arc::new(memory.clone()), folder, sites)
}

fn open_on(files: Arc<dyn Files>, folder: &Path, sites: &str) -> Option<Gateway> {
    let (mailbox, clock, downlinks) = (Mailbox::default(), Arc::new(TestClock::default()), Downlinks::new());
    let live = Arc::new(Live::default());
    downlinks.behind(Box::new(mailbox.clone()));
    let options = Options {
        segment_bytes_max: 2000,
        free_bytes_min: 0,
        retry_after: std::time::Duration::ZERO,
        ..Options::default()
    };
    let limits = Limits { spool: options, held: options, held_node_bytes: 4000 };
    let needs = Needs {
        credentials: credentials(folder),
        registry: registry(folder, sites),
        clock: clock.clone(),
        downlinks,
        live: Arc::clone(&live),
    };
    let (acceptor, ..) = Acceptor::start(files, &data(), limits, needs).ok()?;
    Some(Gateway { acceptor, mailbox, clock, live })
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Whoever is still in a callback keeps the logs open no longer.
        self.acceptor.close();
    }
}

impl Gateway {
    fn arrive(&self, node: &NodeName, channel: Up, payload: &[u8]) -> Verdict {
        self.begin(node, channel, payload).recv().unwrap()
    }

    /// Lets something arrive; the verdict comes when it comes.
    fn begin(&self, node: &NodeName, channel: Up, payload: &[u8]) -> mpsc::Receiver<Verdict> {
        let (tell, told) = mpsc::channel();
        // Whoever does not wait for it has let go of the other end.
        let reply = Reply::new(move |verdict| {
            let _heard = tell.send(verdict);
        });
        let payload = Bytes::copy_from_slice(payload);
        self.acceptor.arrive(Arrival { node: node.clone(), channel, payload }, reply);
        told
    }
}

/// A node as far as custody goes: a ring of records, a session, and what it was told.
struct Node {
    name: NodeName,
    key: Key,
    ring: u32,
    boot: u16,
    records: Vec<(u16, Record)>,
    floor: u32,
    nonce: Nonce,
    released: u32,
    /// Behind the last record of a report that was acknowledged (a PUBACK).
    acknowledged: u32,
    utc_ms: Option<i64>,
}

fn round(t_ms: u64, value: i32) -> Record {
    let reading = Reading { channel: 0, value, raw: None, quality: Quality::GOOD };
    Record::Round(Round { t_ms, config: 1, readings: [reading].into_iter().collect() })
}

fn description() -> Record {
    let channel = ChannelDescription { channel: 0, property: 1, calibration: 0, period_s: 60 };
    Record::Description(Description {
        t_ms: 1,
        config: 1,
        digest: 7,
        drift_ppm: 40,
        firmware: "1".try_into().unwrap(),
        board: "host".try_into().unwrap(),
        channels: [channel].into_iter().collect(),
        actuators: heapless::Vec::new(),
    })
}

impl Node {
    fn new(folder: &Path, name: &str, rounds: u32) -> Self {
        let name = NodeName::new(name).unwrap();
        let mut records = vec![(1, description())];
        records.extend((1..=rounds).map(|n| (1, round(u64::from(n) * 1000, n as i32))));
        let key = credentials(folder).key(&name);
        Self {
            name,
            key,
            ring: 9,
            boot: 1,
            records,
            floor: 0,
            nonce: Nonce([0; 8]),
            released: 0,
            acknowledged: 0,
            utc_ms: None,
        }
    }

    fn next(&self) -> u32 {
        self.records.len() as u32
    }

    /// Reads its mail; only what is sealed for its session counts.
    fn read_mail(&mut self, gateway: &Gateway) {
        for (node, channel, message) in gateway.mailbox.0.lock().unwrap().drain(..) {
            if node == self.name
                && let Ok(body) = self.key.open(&self.name, channel, self.nonce, &message)
            {
                let receipt = Receipt::decode(body).unwrap();
                assert_eq!(receipt.ring, self.ring);
                self.released = self.released.max(receipt.next);
                self.utc_ms = receipt.utc_ms.or(self.utc_ms);
            }
        }
    }

    /// Opens a session; where the gateway wants to go on, if it answered.
    fn open(&mut self, gateway: &Gateway, nonce: u8) -> Option<u32> {
        self.nonce = Nonce([nonce; 8]);
        self.released = 0;
        let (ring, boot, floor, next) = (self.ring, self.boot, self.floor, self.next());
        let open = Open { nonce: self.nonce, ring, boot, floor, next, mono_ms: 500_000 };
        // What is not acknowledged has not been said: the connection is closed, and opened anew.
        if self.say(gateway, &Session::Open(open)) == Verdict::Refused {
            return None;
        }
        self.read_mail(gateway);
        let utc_ms = self.utc_ms;
        let anchor = utc_ms.map(|utc_ms| Anchor { boot, mono_ms: 500_000, utc_ms, error_ms: 5, drift_ppm: 40 });
        let ready = Ready { nonce: self.nonce, ring, anchors: anchor.into_iter().collect() };
        let said = self.say(gateway, &Session::Ready(ready));
        self.read_mail(gateway);
        utc_ms.filter(|_| said == Verdict::Done).map(|_| self.released)
    }

    fn say(&self, gateway: &Gateway, session: &Session) -> Verdict {
        let mut bytes = [0; 512];
        let length = session.encode(&mut bytes).unwrap();
        gateway.arrive(&self.name, Up::Session, &bytes[..length])
    }

    fn report(&self, from: u32, to: u32) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let mut writer = ReportWriter::new(&mut bytes, self.ring, from, self.records[from as usize].0, 500_000);
        for (_, record) in &self.records[from as usize..to as usize] {
            writer.push(record).unwrap();
        }
        let length = writer.finish().unwrap();
        bytes[..length].to_vec()
    }

    fn deliver(&mut self, gateway: &Gateway, from: u32, to: u32) -> Verdict {
        let verdict = gateway.arrive(&self.name, Up::Report, &self.report(from, to));
        if verdict == Verdict::Done {
            self.acknowledged = self.acknowledged.max(to);
        }
        self.read_mail(gateway);
        verdict
    }

    /// Sends a snapshot of 6.50 mg/L.
    fn show(&self, gateway: &Gateway) {
        let Record::Round(round) = round(500_000, 650) else { unreachable!() };
        let snapshot = Snapshot { boot: self.boot, sent_ms: 500_000, round, actuators: 0, alarms: 0 };
        let mut bytes = [0; 512];
        let length = snapshot.encode(&mut bytes).unwrap();
        assert_eq!(gateway.arrive(&self.name, Up::Live, &bytes[..length]), Verdict::Done);
    }

    /// Sends everything in threes, going back to the last receipt, until all is released.
    fn deliver_all(&mut self, gateway: &Gateway) -> bool {
        for attempt in 1..8 {
            if self.open(gateway, attempt).is_none() {
                continue;
            }
            loop {
                let from = self.released;
                if from >= self.next() {
                    return true;
                }
                self.deliver(gateway, from, (from + 3).min(self.next()));
                if self.released == from {
                    break;
                }
            }
        }
        false
    }
}

/// Names of the records in the spool, with their dates and units.
fn stored(memory: &Memory) -> Vec<(u32, u32, i64, Option<String>)> {
    let mut all = Vec::new();
    read_only(memory, &data().join("spool"), &mut |replay| {
        if let Replay::Entry { bytes, .. } = replay
            && let Entry::Accepted(accepted) = Entry::decode(&bytes).unwrap()
        {
            for record in &accepted.records {
                let unit = match &record.content {
                    Content::Round { readings, .. } => {
                        Some(accepted.places[usize::from(readings[0].place)].unit.clone())
                    }
                    _ => None,
                };
                all.push((accepted.ring, record.seq, record.date_ms, unit));
            }
        }
    })
    .unwrap();
    all
}

fn seqs(memory: &Memory) -> Vec<u32> {
    stored(memory).into_iter().map(|(_, seq, ..)| seq).collect()
}

fn reasons(gateway: &Gateway) -> Vec<Reason> {
    gateway.acceptor.waiting().iter().map(|(_, s)| s.reason).collect()
}

#[test]
fn a_receipt_means_the_records_are_there_whatever_operation_was_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let operations = {
        let memory = Memory::new();
        let gateway = open(&memory, folder.path(), SITES).unwrap();
        assert!(Node::new(folder.path(), "pond-7", 20).deliver_all(&gateway));
        memory.operations()
    };
    assert!(operations > 20);
    for unsynced in [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn, Unsynced::Holed] {
        for at in 0..operations {
            let memory = Memory::new();
            memory.fail_at(at, Failure::Crash);
            let mut node = Node::new(folder.path(), "pond-7", 20);
            if let Some(gateway) = open(&memory, folder.path(), SITES) {
                node.deliver_all(&gateway);
            }
            // In turn as they are sent here, a PUBACK means no less than a receipt.
            let told = node.released.max(node.acknowledged);
            memory.crash(unsynced);
            let here = format!("crash at {at}, {unsynced:?}");
            let gateway = open(&memory, folder.path(), SITES).unwrap();
            let before = seqs(&memory);
            assert!(before.iter().copied().eq(0..before.len() as u32), "{before:?}; {here}");
            assert!(before.len() as u32 >= told, "told {told}, stored {before:?}; {here}");
            assert!(node.deliver_all(&gateway), "{here}");
            drop(gateway);
            let dates: Vec<i64> = stored(&memory).iter().map(|(_, _, date, _)| *date).collect();
            assert!(seqs(&memory).into_iter().eq(0..21), "{:?}; {here}", seqs(&memory));
            assert!(dates.is_sorted() && dates.windows(2).all(|w| w[0] < w[1]), "{here}");
        }
    }
}

#[test]
fn a_failed_write_is_no_receipt_and_no_double() {
    let folder = tempfile::tempdir().unwrap();
    for at in 0..40 {
        let memory = Memory::new();
        let gateway = open(&memory, folder.path(), SITES).unwrap();
        memory.fail_at(at, Failure::Once);
        let mut node = Node::new(folder.path(), "pond-7", 12);
        while !node.deliver_all(&gateway) {}
        drop(gateway);
        memory.crash(Unsynced::Dropped);
        assert!(seqs(&memory).into_iter().eq(0..13), "failure at {at}: {:?}", seqs(&memory));
    }
}

#[test]
fn duplicates_overlaps_and_reordered_reports_store_each_record_once() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 10);
    node.open(&gateway, 1);
    for (from, to, released) in
        [(4, 6, 0), (0, 3, 3), (0, 3, 3), (1, 5, 5), (8, 10, 5), (5, 8, 8), (2, 11, 11), (0, 11, 11)]
    {
        assert_eq!(node.deliver(&gateway, from, to), Verdict::Done);
        assert_eq!(node.released, released, "after {from}..{to}");
    }
    assert!(seqs(&memory).into_iter().eq(0..11));
}

#[test]
fn a_hole_is_never_passed_until_the_node_says_that_it_is_gone() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 10);
    node.open(&gateway, 1);
    node.deliver(&gateway, 0, 3);
    for _ in 0..3 {
        node.deliver(&gateway, 5, 8);
        assert_eq!(node.released, 3);
    }
    node.floor = 5;
    assert_eq!(node.open(&gateway, 2), Some(5));
    node.deliver(&gateway, 5, 8);
    assert_eq!(node.released, 8);
    assert_eq!(seqs(&memory), [0, 1, 2, 5, 6, 7]);
}

#[test]
fn a_known_name_with_other_content_is_held_and_never_receipted_as_a_duplicate() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 5);
    assert!(node.deliver_all(&gateway));
    let mut twin = Node::new(folder.path(), "pond-7", 8);
    twin.records[4].1 = round(4_000, 999);
    twin.open(&gateway, 9);
    twin.deliver(&gateway, 3, 8);
    assert_eq!(reasons(&gateway), [Reason::OtherContent]);
    assert_eq!(twin.released, 6, "what is durable stays receipted; nothing new is");
    assert!(seqs(&memory).into_iter().eq(0..6));
    assert_eq!(gateway.acceptor.nodes()[0].other_content, 1);
}

#[test]
fn poison_and_newer_versions_are_held_and_cost_the_node_nothing_else() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 10);
    node.open(&gateway, 1);
    node.deliver(&gateway, 0, 3);
    let mut poison = node.report(3, 5);
    let body = poison.len() - 8;
    poison[body] ^= 0xFF;
    let mut newer = node.report(5, 7);
    let version = newer.iter().position(|b| *b == 1).unwrap();
    // [array, ring, first, count, boot, sent (5), version]
    assert_eq!(newer[10], 1, "{version}");
    newer[10] = 2;
    for payload in [&mut poison, &mut newer] {
        let end = payload.len() - 5;
        let crc = telemetry::report::digest(&payload[..end]).to_be_bytes();
        payload[end + 1..].copy_from_slice(&crc);
        assert_eq!(gateway.arrive(&node.name, Up::Report, payload), Verdict::Done);
    }
    node.read_mail(&gateway);
    assert_eq!(node.released, 7, "held records are in custody");
    assert_eq!(reasons(&gateway), [Reason::Poison, Reason::NewerVersion]);
    node.deliver(&gateway, 7, 11);
    assert_eq!(node.released, 11);
    assert_eq!(seqs(&memory), [0, 1, 2, 7, 8, 9, 10]);
    drop(gateway);
    memory.crash(Unsynced::Dropped);
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    assert_eq!(reasons(&gateway).len(), 2);
    gateway.acceptor.drop_held(gateway.acceptor.waiting().iter().next().unwrap().0, "test".into()).unwrap();
    assert_eq!(reasons(&gateway), [Reason::NewerVersion]);
}

#[test]
fn a_malformed_envelope_is_dropped_and_nobody_waits_for_it() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 5);
    node.open(&gateway, 1);
    for garbage in [&b""[..], b"x", &[0xFF; 900], &node.report(0, 3)[1..]] {
        assert_eq!(gateway.arrive(&node.name, Up::Report, garbage), Verdict::Done);
        assert_eq!(gateway.arrive(&node.name, Up::Session, garbage), Verdict::Done);
        assert_eq!(gateway.arrive(&node.name, Up::Live, garbage), Verdict::Done);
    }
    assert!(node.deliver_all(&gateway));
}

#[test]
fn an_unplaced_node_is_held_and_placed_when_the_registry_comes() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-8", 5);
    assert!(node.deliver_all(&gateway));
    assert!(
        reasons(&gateway).iter().all(|r| *r == Reason::NoDescription || *r == Reason::Unplaced),
        "{:?}",
        reasons(&gateway)
    );
    assert!(!reasons(&gateway).is_empty());
    let sites = SITES.replace("name = \"pond-7\"", "name = \"pond-8\"");
    for crash in [true, false] {
        if crash {
            // A look that did not last: the records wait again, and come out once.
            memory.fail_at(1, Failure::Crash);
        }
        gateway.acceptor.set_registry(registry(folder.path(), &sites)).unwrap();
        if crash {
            break;
        }
    }
    drop(gateway);
    memory.crash(Unsynced::Dropped);
    let gateway = open(&memory, folder.path(), &sites).unwrap();
    gateway.acceptor.resolve_all(true);
    drop(gateway);
    let gateway = open(&memory, folder.path(), &sites).unwrap();
    assert!(reasons(&gateway).is_empty(), "{:?}", reasons(&gateway));
    drop(gateway);
    let mut seqs = seqs(&memory);
    seqs.sort_unstable();
    assert!(seqs.iter().copied().eq(0..6), "{seqs:?}");
}

#[test]
fn a_gateway_whose_clock_is_wrong_holds_and_dates_when_it_is_right() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    gateway.clock.wrong.store(true, Ordering::Relaxed);
    let mut node = Node::new(folder.path(), "pond-7", 5);
    assert_eq!(node.open(&gateway, 1), None, "receipts carry no UTC");
    node.deliver(&gateway, 0, 3);
    node.deliver(&gateway, 3, 6);
    assert_eq!(node.released, 6, "held is in custody");
    node.show(&gateway);
    assert_eq!(gateway.live.all()["pond-7"].readings[0].value, Some(6.5), "what cannot be dated can be shown");
    assert_eq!(reasons(&gateway), [Reason::Undated, Reason::BehindUndated]);
    assert!(seqs(&memory).is_empty());
    gateway.clock.wrong.store(false, Ordering::Relaxed);
    node.open(&gateway, 2);
    gateway.acceptor.resolve_all(true);
    assert!(reasons(&gateway).is_empty(), "{:?}", reasons(&gateway));
    drop(gateway);
    let all = stored(&memory);
    assert!(all.iter().map(|(_, seq, ..)| *seq).eq(0..6));
    assert_eq!(all[5].2, NOW - 500_000 + 5_000);
}

#[test]
fn anchors_in_1970_and_2099_date_nothing() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 3);
    for utc_ms in [1_000, 4_080_000_000_000] {
        node.nonce = Nonce([3; 8]);
        let (ring, boot) = (node.ring, node.boot);
        node.say(&gateway, &Session::Open(Open { nonce: node.nonce, ring, boot, floor: 0, next: 4, mono_ms: 0 }));
        let anchor = Anchor { boot, mono_ms: 0, utc_ms, error_ms: 0, drift_ppm: 0 };
        node.say(&gateway, &Session::Ready(Ready { nonce: node.nonce, ring, anchors: [anchor].into_iter().collect() }));
    }
    node.deliver(&gateway, 0, 4);
    assert_eq!(reasons(&gateway), [Reason::Undated]);
    assert!(node.deliver_all(&gateway) && reasons(&gateway).is_empty());
    assert!(stored(&memory).iter().all(|(_, _, date, _)| (*date - NOW).abs() < 600_000));
}

#[test]
fn an_erased_ring_opens_a_new_window_and_is_no_duplicate() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    assert!(Node::new(folder.path(), "pond-7", 5).deliver_all(&gateway));
    gateway.clock.ahead.store(60_000, Ordering::Relaxed);
    let mut erased = Node::new(folder.path(), "pond-7", 4);
    erased.ring = 10;
    assert!(erased.deliver_all(&gateway));
    let names: Vec<_> = stored(&memory).into_iter().map(|(ring, seq, ..)| (ring, seq)).collect();
    assert_eq!(names.len(), 11);
    assert_eq!(names.iter().filter(|(ring, _)| *ring == 10).count(), 5);
}

#[test]
fn a_node_moved_while_offline_leaves_its_old_readings_in_the_old_pond() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    // The stay at the second pond begins at 2026-11-18T12:00:00Z.
    let moved: i64 = 1_795_003_200_000;
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 10);
    // Round n is taken n seconds after boot; the session opens 500 s after boot.
    gateway.clock.ahead.store(moved - NOW + 495_000, Ordering::Relaxed);
    assert!(node.deliver_all(&gateway));
    let units: Vec<_> = stored(&memory).into_iter().filter_map(|(.., unit)| unit).collect();
    assert_eq!(units, [vec!["塘 1"; 4], vec!["塘 2"; 6]].concat());
}

#[test]
fn a_node_that_sends_nothing_but_poison_fills_only_its_own_budget() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut bad = Node::new(folder.path(), "pond-8", 200);
    bad.open(&gateway, 1);
    for from in 0..190 {
        bad.deliver(&gateway, from, from + 1);
    }
    let held: u64 = gateway.acceptor.waiting().iter().map(|(_, s)| s.bytes).sum();
    assert!(held < 4_500, "{held} bytes");
    assert!(bad.released < 100, "what is over the budget is not receipted");
    assert!(Node::new(folder.path(), "pond-7", 10).deliver_all(&gateway));
}

#[test]
fn stale_and_foreign_sessions_change_nothing() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 3);
    node.open(&gateway, 1);
    let stale = Ready { nonce: Nonce([7; 8]), ring: 9, anchors: heapless::Vec::new() };
    node.say(&gateway, &Session::Ready(stale));
    let stranger = NodeName::new("nobody").unwrap();
    assert_eq!(gateway.arrive(&stranger, Up::Report, &node.report(0, 3)), Verdict::Done);
    assert!(node.deliver_all(&gateway));
    assert_eq!(gateway.acceptor.nodes().len(), 1);
}

#[test]
fn records_of_a_boot_that_never_knew_the_time_are_dated_by_a_persons_word() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    gateway.clock.wrong.store(true, Ordering::Relaxed);
    let mut node = Node::new(folder.path(), "pond-7", 5);
    node.open(&gateway, 1);
    node.deliver(&gateway, 0, 3);
    node.deliver(&gateway, 3, 6);
    gateway.clock.wrong.store(false, Ordering::Relaxed);
    let indices: Vec<u64> = gateway.acceptor.waiting().iter().map(|(index, _)| index).collect();
    let began = NOON_BEFORE;
    for (index, began_ms, wanted) in [
        (99, began, "nothing waits under 99"),
        (indices[0], 1_000, "before 2020"),
        (indices[0], NOW + 3_600_000, "future"),
    ] {
        let error = gateway.acceptor.date_held(index, began_ms, 60_000, "me".into()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert_eq!(gateway.acceptor.date_held(indices[1], began, 60_000, "me, by the log book".into()).unwrap(), 2);
    drop(gateway);
    memory.crash(Unsynced::Dropped);
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    assert!(reasons(&gateway).is_empty());
    drop(gateway);
    let dates: Vec<_> = stored(&memory).into_iter().map(|(_, seq, date, _)| (seq, date)).collect();
    assert_eq!(
        dates[1..],
        [(1, began + 1_000), (2, began + 2_000), (3, began + 3_000), (4, began + 4_000), (5, began + 5_000)]
    );
}

#[test]
fn a_record_of_the_same_instant_in_another_ring_is_held_and_no_word_lets_it_pass() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    assert!(Node::new(folder.path(), "pond-7", 5).deliver_all(&gateway));
    let mut twin = Node::new(folder.path(), "pond-7", 3);
    twin.ring = 10;
    twin.records[3].1 = round(10_000, 3);
    twin.open(&gateway, 9);
    for (from, to) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        twin.deliver(&gateway, from, to);
    }
    assert_eq!(twin.released, 4, "held is in custody");
    // Its description and first two rounds are of instants that the other board has given.
    assert_eq!(reasons(&gateway), [Reason::Clash; 3]);
    let index = gateway.acceptor.waiting().iter().next().unwrap().0;
    let error = gateway.acceptor.replay_held(index).unwrap_err();
    assert!(error.to_string().contains("two boards"), "{error}");
}

#[test]
fn a_node_is_asked_for_a_new_session_when_the_gateways_clock_becomes_known() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    gateway.clock.wrong.store(true, Ordering::Relaxed);
    let mut node = Node::new(folder.path(), "pond-7", 3);
    node.open(&gateway, 1);
    node.deliver(&gateway, 0, 4);
    gateway.acceptor.offer_utc();
    assert!(gateway.mailbox.0.lock().unwrap().is_empty(), "there is nothing to offer yet");
    gateway.clock.wrong.store(false, Ordering::Relaxed);
    for wanted in [1, 0] {
        gateway.acceptor.offer_utc();
        let mail: Vec<_> = gateway.mailbox.0.lock().unwrap().drain(..).collect();
        assert_eq!(mail.len(), wanted, "once is enough");
        for (_, channel, message) in mail {
            let body = node.key.open(&node.name, channel, node.nonce, &message).unwrap();
            assert_eq!(Command::decode(body).unwrap().order, Order::Reopen);
        }
    }
    node.open(&gateway, 2);
    assert!(reasons(&gateway).is_empty(), "{:?}", reasons(&gateway));
}

#[test]
fn however_much_waits_all_of_it_comes_out_in_order_when_the_clock_does() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    gateway.clock.wrong.store(true, Ordering::Relaxed);
    let mut node = Node::new(folder.path(), "pond-7", 150);
    node.open(&gateway, 1);
    // As many as fit into the node's budget.
    let mut sent = 0;
    while sent < node.next() && node.released == sent {
        node.deliver(&gateway, sent, sent + 1);
        sent += 1;
    }
    let held = node.released;
    assert!(gateway.acceptor.held_count() == held as usize && held > 20, "{held}");
    gateway.clock.wrong.store(false, Ordering::Relaxed);
    // What is left is delivered while some of it may still wait.
    assert!(node.deliver_all(&gateway));
    gateway.acceptor.resolve_all(false);
    assert!(reasons(&gateway).is_empty());
    drop(gateway);
    assert!(seqs(&memory).into_iter().eq(0..151), "{:?}", seqs(&memory));
    assert!(stored(&memory).windows(2).all(|w| w[0].2 < w[1].2));
}

#[test]
fn a_registry_that_would_merge_two_channels_is_refused_and_the_old_one_holds() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let points = "unit = \"塘 1\"\npoints = { 0 = \"0.5 m\", 1 = \"1.5 m\" }\n[[node.at]]";
    let sites = SITES.replacen("unit = \"塘 1\"\n[[node.at]]", points, 1);
    let sites = sites.replacen("unit = \"塘 2\"", "unit = \"塘 2\"\npoints = { 0 = \"0.5 m\", 1 = \"1.5 m\" }", 1);
    let gateway = open(&memory, folder.path(), &sites).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 3);
    if let Record::Description(description) = &mut node.records[0].1 {
        let other = ChannelDescription { channel: 1, ..description.channels[0] };
        description.channels.push(other).unwrap();
    }
    assert!(node.deliver_all(&gateway));
    let complaints = gateway.acceptor.set_registry(registry(folder.path(), SITES)).unwrap_err();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    // `check` finds the same without a gateway, in what the log says that nodes measure.
    let described = described(&memory, &data()).unwrap();
    let found = described.iter().flat_map(|(node, d)| registry(folder.path(), SITES).shared_series(node.as_str(), d));
    assert_eq!(
        found.map(|c| c.what).collect::<Vec<_>>(),
        complaints.iter().map(|c| c.what.clone()).collect::<Vec<_>>()
    );
    assert!(complaints.iter().all(|c| c.line > 0 && c.what.contains("give them points")), "{complaints:?}");
    node.records.push((1, round(9_000, 7)));
    node.open(&gateway, 2);
    node.deliver(&gateway, 4, 5);
    assert!(reasons(&gateway).is_empty());
}

#[test]
fn the_gateways_own_tests_worsen_a_flag_in_bits_of_their_own() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let usual = "[[climatology]]\nproperty = \"dissolved_oxygen\"\nmonths = [11]\nmin = -0.2\nmax = 0.05\n";
    let gateway = open(&memory, folder.path(), &format!("{SITES}{usual}")).unwrap();
    // Round n holds n hundredths of a mg/L.
    assert!(Node::new(folder.path(), "pond-7", 10).deliver_all(&gateway));
    drop(gateway);
    let mut judged = Vec::new();
    read_only(&memory, &data().join("spool"), &mut |replay| {
        let Replay::Entry { bytes, .. } = replay else { return };
        let Entry::Accepted(accepted) = Entry::decode(&bytes).unwrap() else { return };
        for record in &accepted.records {
            if let Content::Round { readings, .. } = &record.content {
                judged.push((readings[0].flag, readings[0].tests));
            }
        }
    })
    .unwrap();
    let suspect = (3, telemetry::Tests::CLIMATOLOGY.bits());
    assert_eq!(judged, [vec![(1, 0); 5], vec![suspect; 5]].concat());
}

/// A disk on which the syncs of one log wait, or fail, by the test's word.
#[derive(Clone)]
struct Slow {
    memory: Memory,
    log: &'static str,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Gate {
    #[default]
    Open,
    Closed,
    FailOnce,
}

struct SlowFile(Box<dyn LogFile>, Option<Slow>);

impl LogFile for SlowFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync(&self) -> std::io::Result<()> {
        if let Some(slow) = &self.1 {
            let gate = slow.gate.0.lock().unwrap();
            let mut gate = slow.gate.1.wait_while(gate, |gate| *gate == Gate::Closed).unwrap();
            if std::mem::take(&mut *gate) == Gate::FailOnce {
                return Err(std::io::Error::other("the test's word"));
            }
        }
        self.0.sync()
    }
    fn truncate(&self, length: u64) -> std::io::Result<()> {
        self.0.truncate(length)
    }
    fn length(&self) -> std::io::Result<u64> {
        self.0.length()
    }
}

impl Slow {
    fn set(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = gate;
        self.gate.1.notify_all();
    }

    fn wrap(&self, path: &Path, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        let mine = path.parent() == Some(&data().join(self.log)) && path.extension().is_some_and(|e| e == "seg");
        Box::new(SlowFile(file, mine.then(|| self.clone())))
    }
}

impl Files for Slow {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn LogFile>> {
        Ok(self.wrap(path, self.memory.create(path)?))
    }
    fn open(&self, path: &Path, write: bool) -> std::io::Result<Box<dyn LogFile>> {
        Ok(self.wrap(path, self.memory.open(path, write)?))
    }
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.memory.create_dir(path)
    }
    fn list(&self, folder: &Path) -> std::io::Result<Vec<String>> {
        self.memory.list(folder)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.memory.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.memory.rename(from, to)
    }
    fn sync_dir(&self, folder: &Path) -> std::io::Result<()> {
        self.memory.sync_dir(folder)
    }
    fn free_bytes(&self, folder: &Path) -> std::io::Result<u64> {
        self.memory.free_bytes(folder)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Send + Sync>>> {
        Files::lock(&self.memory, path)
    }
}

#[test]
fn no_receipt_passes_a_record_that_is_still_on_its_way_to_the_other_log() {
    for (log, held) in [("held", 3), ("spool", 4)] {
        for fate in [Gate::Open, Gate::FailOnce, Gate::Closed] {
            let here = format!("{log}, {}", fate as u8);
            let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
            let slow = Slow { memory: memory.clone(), log, gate: Arc::default() };
            let gateway = open_on(Arc::new(slow.clone()), folder.path(), SITES).unwrap();
            let mut node = Node::new(folder.path(), "pond-7", 8);
            // Nobody has described this one's config: it belongs into the held log.
            if let Record::Round(round) = &mut node.records[held].1 {
                round.config = 77;
            }
            node.open(&gateway, 1);
            node.deliver(&gateway, 0, 3);
            assert_eq!(node.released, 3);
            slow.set(Gate::Closed);
            let first = gateway.begin(&node.name, Up::Report, &node.report(3, 4));
            let second = gateway.begin(&node.name, Up::Report, &node.report(4, 5));
            let third = gateway.begin(&node.name, Up::Report, &node.report(5, 7));
            node.read_mail(&gateway);
            assert_eq!(node.released, 3, "{here}");
            let gateway = if fate == Gate::Closed {
                // The power goes before the slow disk has done its work.
                memory.fail_at(0, Failure::Crash);
                slow.set(Gate::Open);
                drop(gateway);
                memory.crash(Unsynced::Dropped);
                open(&memory, folder.path(), SITES).unwrap()
            } else {
                slow.set(fate);
                let verdicts = [first, second, third].map(|told| told.recv().unwrap());
                node.read_mail(&gateway);
                let (first, released) = if fate == Gate::Open { (Verdict::Done, 7) } else { (Verdict::Refused, 3) };
                assert_eq!((verdicts, node.released), ([first, Verdict::Done, Verdict::Done], released), "{here}");
                gateway
            };
            // A log that has just failed may refuse for a moment.
            while !node.deliver_all(&gateway) {}
            assert_eq!(reasons(&gateway), [Reason::NoDescription], "{here}");
            let waiting = gateway.acceptor.waiting();
            let mut there: Vec<u32> = waiting.iter().flat_map(|(_, it)| it.from..it.from + it.count).collect();
            drop(gateway);
            assert!(there.contains(&(held as u32)), "{there:?}; {here}");
            there.extend(seqs(&memory));
            there.sort_unstable();
            assert!(there.iter().copied().eq(0..9), "{there:?}; {here}");
        }
    }
}

#[test]
fn a_duplicate_is_known_after_a_restart_although_its_neighbours_are_in_the_other_log() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    let mut node = Node::new(folder.path(), "pond-7", 8);
    if let Record::Round(round) = &mut node.records[4].1 {
        round.config = 77;
    }
    for n in 0..9 {
        if n == 0 {
            node.open(&gateway, 1);
        }
        node.deliver(&gateway, n, n + 1);
    }
    assert_eq!(node.released, 9);
    drop(gateway);
    memory.crash(Unsynced::Dropped);
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    node.open(&gateway, 2);
    node.deliver(&gateway, 2, 9);
    assert_eq!(reasons(&gateway), [Reason::NoDescription]);
    assert_eq!(gateway.acceptor.nodes()[0].other_content, 0);
}

#[test]
fn what_is_on_its_way_out_of_the_held_log_is_in_one_of_the_two_whatever_operation_was_the_last() {
    let nowhere = SITES.replace("pond-7", "pond-9");
    let run = |memory: &Memory, folder: &Path| {
        // So many that the spool begins a new segment on the way.
        let mut node = Node::new(folder, "pond-7", 50);
        if let Some(gateway) = open(memory, folder, &nowhere) {
            node.deliver_all(&gateway);
            let placed = registry(folder, SITES);
            // A log that has failed takes nothing; what waits is looked at again later.
            gateway.acceptor.set_registry(placed).unwrap();
        }
        node
    };
    let operations = {
        let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
        run(&memory, folder.path());
        memory.operations()
    };
    for (failure, unsynced) in [
        (Failure::Crash, Unsynced::Dropped),
        (Failure::Crash, Unsynced::Kept),
        (Failure::Crash, Unsynced::Torn),
        (Failure::Once, Unsynced::Dropped),
    ] {
        for at in 0..operations {
            let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
            memory.fail_at(at, failure);
            let node = run(&memory, folder.path());
            memory.crash(unsynced);
            let here = format!("{failure:?} at {at}, {unsynced:?}");
            // Where the node's place is unknown, nothing more leaves the held log.
            let gateway = open(&memory, folder.path(), &nowhere).unwrap();
            let waiting = gateway.acceptor.waiting();
            let mut there: Vec<u32> = waiting.iter().flat_map(|(_, it)| it.from..it.from + it.count).collect();
            drop(gateway);
            there.extend(seqs(&memory));
            there.sort_unstable();
            let told = node.released as usize;
            assert!(there.iter().copied().eq(0..there.len() as u32), "{there:?}; {here}");
            assert!(there.len() >= told, "told {told}, there {there:?}; {here}");
        }
    }
}

#[test]
fn a_consumer_reads_exactly_what_was_accepted() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), Memory::new());
    let gateway = open(&memory, folder.path(), SITES).unwrap();
    assert!(Node::new(folder.path(), "pond-7", 10).deliver_all(&gateway));
    let mut reader = gateway.acceptor.spool().reader(0);
    let mut count = 0;
    while let Some(read) = reader.read().unwrap() {
        let Read::Entry { bytes, .. } = read else { panic!("{read:?}") };
        if let Entry::Accepted(accepted) = Entry::decode(&bytes).unwrap() {
            count += accepted.records.len();
        }
    }
    assert_eq!(count, 11);
}
