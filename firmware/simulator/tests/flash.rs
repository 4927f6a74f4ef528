//! Flash in its bad hours: erasures fall where they are in nobody's way, a word that cannot be read
//! costs its own record, and a flash that does not answer is not taken for a damaged one.

use node::config::{Config, IMAGE_BYTES_MAX, Probe, Source};
use node::faults::{Fault, FaultKind, FaultLog, FaultLogError};
use node::ring::{Ring, RingError};
use node::sample::Lines;
use node::{Identity, Io, Node, RestartCause};
use sensors::modbus::{LineSettings, crc16};
use simulator::host::Flash;
use simulator::nor::{Nor, NorError};
use telemetry::mac::Key;
use telemetry::topic::Up;
use telemetry::{MissingReason, NodeName, Property};

#[test]
fn after_a_round_no_append_of_the_next_one_erases() {
    let flash = Flash::new(4);
    let erased = || flash.with(|nor| nor.erased());
    let (mut ring, _) = Ring::open_or_format(flash.clone(), 7).unwrap();
    let mut prepared = 0;
    for n in 0..600_usize {
        let before = erased();
        ring.append(&vec![n as u8; 1 + n * 37 % 512]).unwrap();
        for _ in 0..8 {
            ring.append(&[n as u8; 36]).unwrap();
        }
        assert_eq!(erased(), before, "round {n}");
        ring.prepare().unwrap();
        prepared += erased() - before;
    }
    assert!(prepared > 50, "{prepared}");
}

/// A line with one XY-MD02 at address 1; nobody is at address 2.
struct Bus {
    answer: Vec<u8>,
}

impl Lines for Bus {
    fn send(&mut self, _bus: u8, _line: &LineSettings, frame: &[u8]) {
        if frame[0] == 1 {
            self.answer = vec![frame[0], frame[1], 4, 1, 0, 2, 91];
            self.answer.extend(crc16(&self.answer).to_le_bytes());
        }
    }

    fn receive(&mut self, _bus: u8, buffer: &mut [u8]) -> usize {
        let count = self.answer.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.answer[..count]);
        self.answer.drain(..count);
        count
    }
}

impl Io for Bus {
    fn direct(&mut self, _input: u8) -> Result<f32, MissingReason> {
        Err(MissingReason::NoAnswer)
    }
    fn switch(&mut self, _actuator: u8, _on: bool) {}
    fn publish(&mut self, _channel: Up, _payload: &[u8]) -> bool {
        true
    }
}

#[test]
fn no_erasure_falls_into_a_probes_slot() {
    let mut config = Config::new(1);
    config.period_s = 10;
    let text = include_str!("../../sensors/profiles/xy-md02.toml");
    let compiled = sensors::profile::compile::compile(text, "xy-md02.toml").unwrap();
    let profile = config.add_profile(&compiled.bytes).unwrap();
    for (probe, address) in [(0, 1), (1, 2)] {
        config.probes.push(Probe { bus: 0, address, profile, settings: None }).unwrap();
        let channel = node::config::Channel {
            property: Property::AirTemperature,
            source: Source::Probe { probe, quantity: 0 },
            calibration: Default::default(),
            limits: Default::default(),
            compensate_with: None,
        };
        config.channels.push(channel).unwrap();
    }
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image).unwrap();
    let name = NodeName::new("pond-7").unwrap();
    let key = Key::derive(&[3; 32], &name);
    let mut node = Node::new(Identity { name, key, firmware: "0.1.0", board: "host" });
    let flash = Flash::new(4);
    node.boot(flash.clone(), &image[..length], 77 << 32, 0, RestartCause::Power).unwrap();
    let mut bus = Bus { answer: Vec::new() };
    let erased = || flash.with(|nor| nor.erased());
    let (mut total, mut now_us) = (0, 0);
    while now_us < 6 * 3_600_000_000 {
        let before = (erased(), node.counters().rounds);
        now_us = node.poll(now_us, &mut bus).max(now_us + 1);
        if erased() > before.0 {
            // Every slot of a round that is over is closed, and the next is not open.
            assert_eq!(node.counters().rounds, before.1 + 1, "an erasure within a round");
            total += erased() - before.0;
        }
    }
    assert!(total > 10, "{total} erasures");
}

type Words = Nor<4096, 16>;

fn filled() -> (Words, u32) {
    let (mut ring, _) = Ring::open_or_format(Words::new(4).with_ecc(), 7).unwrap();
    for n in 0..150_u32 {
        ring.append(&[n as u8; 70]).unwrap();
    }
    let floor = ring.floor();
    (ring.into_flash(), floor)
}

#[test]
fn a_word_that_cannot_be_read_costs_at_most_its_record() {
    let (flash, floor) = filled();
    for at in (0..4 * 4096).step_by(16) {
        let mut flash = flash.clone();
        flash.spoil(at);
        let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
        assert!(!made && ring.id() == 7, "word {at}");
        assert!((150..=151).contains(&ring.next_seq()), "word {at}: {}", ring.next_seq());
        let mut buffer = [0; 512];
        let lost = (floor..150).filter(|seq| ring.read(*seq, &mut buffer).unwrap() != Some(&[*seq as u8; 70][..]));
        let lost = lost.count();
        assert!(lost <= 1, "word {at}: {lost} records");
        let seq = ring.append(&[9; 9]).unwrap().seq;
        assert_eq!(ring.read(seq, &mut buffer).unwrap(), Some(&[9; 9][..]), "word {at}");
    }
}

#[test]
fn a_flash_that_does_not_answer_is_an_error_and_loses_nothing() {
    let flash = Flash::new(4);
    let (mut ring, _) = Ring::open_or_format(flash.clone(), 7).unwrap();
    for n in 0..100_u8 {
        ring.append(&[n; 40]).unwrap();
    }
    let mut buffer = [0; 512];
    flash.with(|nor| nor.mute(true));
    assert_eq!(ring.read(50, &mut buffer), Err(RingError::Flash(NorError::Mute)));
    assert_eq!(ring.append(&[1; 40]), Err(RingError::Flash(NorError::Mute)));
    assert!(matches!(Ring::open_or_format(flash.clone(), 8), Err(RingError::Flash(NorError::Mute))));
    assert!(matches!(FaultLog::open(flash.clone()), Err(FaultLogError::Flash(NorError::Mute))));
    flash.with(|nor| nor.mute(false));
    assert_eq!(ring.read(50, &mut buffer).unwrap(), Some(&[50; 40][..]));
    assert_eq!(ring.append(&[2; 40]).unwrap().seq, 100);
    let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
    assert!(!made);
    for n in 0..100_u8 {
        assert_eq!(ring.read(u32::from(n), &mut buffer).unwrap(), Some(&[n; 40][..]));
    }
}

fn fault(n: u32) -> Fault {
    let (kind, trace) = (FaultKind::Processor, [1, 2, 3, 4]);
    Fault { kind, boot: n, uptime_s: 5, pc: 6, lr: 7, address: 8, trace, stack_bytes: 9, detail: 10 }
}

#[test]
fn the_fault_log_goes_round_and_a_damaged_entry_costs_itself() {
    let mut log = FaultLog::open(Nor::<4096, 4>::new(2)).unwrap();
    let mut read = [(0, fault(0)); 8];
    assert_eq!(log.read(u32::MAX, &mut read), Ok(0));
    for n in 1..=1_000 {
        assert_eq!(log.append(&fault(n)), Ok(n));
        log.read(u32::MAX, &mut read).unwrap();
        assert_eq!(read[0], (n, fault(n)));
    }
    // A page further back.
    assert_eq!(log.read(990, &mut read), Ok(8));
    assert_eq!(read.map(|(number, _)| number), [989, 988, 987, 986, 985, 984, 983, 982]);
    let mut flash = log.into_flash();
    assert_eq!(flash.erased(), 1_000_u64.div_ceil(64), "a sector for 64 entries, in turn");
    let at = flash.bytes_mut().chunks(64).position(|entry| entry.starts_with(&998_u32.to_be_bytes())).unwrap();
    for bit in 0..64 * 8 {
        let mut flash = flash.clone();
        flash.bytes_mut()[at * 64 + bit / 8] ^= 1 << (bit % 8);
        let mut log = FaultLog::open(flash).unwrap();
        assert_eq!(log.read(u32::MAX, &mut read), Ok(8));
        let numbers = read.map(|(number, _)| number);
        // What is behind its check sum says nothing.
        let whole = if bit / 8 < 54 { [1_000, 999, 997, 996] } else { [1_000, 999, 998, 997] };
        assert_eq!(numbers[..4], whole, "bit {bit}");
    }
    assert!(matches!(FaultLog::open(Nor::<4096, 4>::new(1)), Err(FaultLogError::Geometry)));
}
