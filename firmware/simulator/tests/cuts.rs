//! The campaign: ring, config slots and fault log of a node against power that fails in any of their
//! programs and erasures, on flash of every geometry in use. `TIANYU_LONG=1` runs ten times as many
//! scripts, `TIANYU_SEED` begins with another seed, `TIANYU_SCRIPT=geometry:seed` runs a single one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use node::faults::{Fault, FaultKind, FaultLog};
use node::ring::{Ring, RingError};
use node::slots::{BOOTS_MAX, Reason, SlotError, Slots, Source, State};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use simulator::nor::{Nor, NorError, Torn};

/// Scripts of one run: each is a life of a node with several power cuts.
const SCRIPTS: u64 = 10_000;
/// Seed of the first script; script n has this and n.
const SEED: u64 = 0x7e1a_0004;
/// Scripts that once failed: geometry and seed.
const REGRESSIONS: &[(usize, u64)] = &[];

/// A flash that outlives what was opened on it.
struct Kept<'a, const S: usize, const W: usize, const R: usize>(&'a mut Nor<S, W, R>);

impl<const S: usize, const W: usize, const R: usize> ErrorType for Kept<'_, S, W, R> {
    type Error = NorError;
}

impl<const S: usize, const W: usize, const R: usize> ReadNorFlash for Kept<'_, S, W, R> {
    const READ_SIZE: usize = R;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorError> {
        self.0.read(offset, bytes)
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<const S: usize, const W: usize, const R: usize> NorFlash for Kept<'_, S, W, R> {
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = S;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.0.erase(from, to)
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorError> {
        self.0.write(offset, bytes)
    }
}

type Geometry = (&'static str, fn(&mut StdRng));

/// Name, and how often it is drawn. Large sectors cost time, and nothing of them is special but the
/// many frames.
const GEOMETRIES: [(Geometry, u32); 9] = [
    (("4 KiB by 1", script::<4096, 1, 1>), 120),
    (("4 KiB by 4", script::<4096, 4, 1>), 200),
    (("4 KiB by 4, read by 4", script::<4096, 4, 4>), 120),
    (("4 KiB by 2", script::<4096, 2, 1>), 60),
    (("4 KiB by 8 with ECC", ecc::<4096, 8>), 120),
    (("8 KiB by 16 with ECC", ecc::<8192, 16>), 120),
    (("8 KiB by 32 with ECC", ecc::<8192, 32>), 120),
    (("128 KiB by 32 with ECC", ecc::<131_072, 32>), 2),
    (("256 KiB by 16", script::<262_144, 16, 1>), 2),
];

fn script<const S: usize, const W: usize, const R: usize>(rng: &mut StdRng) {
    live::<S, W, R>(rng, Nor::new);
}

fn ecc<const S: usize, const W: usize>(rng: &mut StdRng) {
    live::<S, W, 1>(rng, |sectors| Nor::new(sectors).with_ecc());
}

/// `all_but_done`: also tears that are whole but for a few bits that read differently each time.
fn torn(rng: &mut StdRng, all_but_done: bool) -> Torn {
    match rng.random_range(0..10) {
        0 => Torn::Nothing,
        1 => Torn::Everything,
        2 => Torn::FirstHalf,
        3 => Torn::LastHalf,
        4 => Torn::SomeBits(rng.random()),
        _ => Torn::Weak(rng.random::<u64>() & !u64::from(!all_but_done)),
    }
}

/// A record; in half of all lives they are long, so that the ring goes round.
fn content(seq: u32, salt: u32, long: bool) -> Vec<u8> {
    let long = long || salt.is_multiple_of(13);
    let length = if long { 300 + (seq * 97 + salt * 31) % 213 } else { 1 + (seq * 7 + salt) % 60 };
    (0..length).map(|i| (i * 7 + seq * 13 + salt * 101) as u8).collect()
}

/// Cuts in programs and in erasures.
static CUTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn count<const S: usize, const W: usize, const R: usize>(flash: &Nor<S, W, R>) {
    let (writes, erasures) = flash.cuts();
    CUTS[0].fetch_add(writes, Ordering::Relaxed);
    CUTS[1].fetch_add(erasures, Ordering::Relaxed);
}

fn live<const S: usize, const W: usize, const R: usize>(rng: &mut StdRng, new: fn(usize) -> Nor<S, W, R>) {
    let sectors = if S > 100_000 { 3 } else { rng.random_range(3..6) };
    ring_life(rng, new(sectors));
    slots_life(rng, new(2 * 4096_usize.div_ceil(S)));
    faults_life(rng, new(2));
}

/// Cuts the power in one of the next operations of a flash.
fn arm<const S: usize, const W: usize, const R: usize>(
    rng: &mut StdRng,
    flash: &mut Nor<S, W, R>,
    within: u64,
    all_but_done: bool,
) {
    let (at, torn) = (flash.operations() + rng.random_range(0..within), torn(rng, all_but_done));
    flash.cut_at(at, torn);
}

fn ring_life<const S: usize, const W: usize, const R: usize>(rng: &mut StdRng, mut flash: Nor<S, W, R>) {
    let sectors = flash.capacity() / S;
    // What was confirmed, by name; the first name that was not yet given to anybody.
    let mut kept: BTreeMap<u32, (Vec<u8>, usize)> = BTreeMap::new();
    // Sectors that may have been begun before the one before them was full: by a cut, or because
    // names were passed over.
    let mut early = 0;
    // Names were being passed over when power failed: they are, or are not.
    let mut passing = false;
    let (mut unused, mut salt) = (0, rng.random_range(0..1_000));
    let mut id = None;
    // By name, what was being written when power failed.
    let mut pending: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    // What the ring has said of the names that were being written, once something was appended.
    let mut settled: BTreeMap<u32, Option<Vec<u8>>> = BTreeMap::new();
    let long = rng.random();
    // It has been in use for some time.
    let (mut ring, _) = Ring::open_or_format(Kept(&mut flash), 7).unwrap();
    for next in 0..rng.random_range(0..sectors * S / 400) as u32 {
        ring.append(&content(next, 0, true)).unwrap();
        kept.insert(next, (content(next, 0, true), early));
        unused = next + 1;
    }
    for boot in 0..rng.random_range(3..7) {
        flash.power_on();
        if boot == 0 || id.is_some() {
            let again = Ring::open_or_format(Kept(&mut flash), 7).unwrap();
            let (next, made) = (again.0.next_seq(), again.1);
            assert!(!made || boot == 0, "the ring is gone");
            if !made {
                let again = Ring::open_or_format(Kept(&mut flash), 8).unwrap().0;
                // The head of what was under way may look blank at one time.
                assert!(again.next_seq().abs_diff(next) <= 1 || !pending.is_empty() || passing);
                assert_eq!(again.id(), 7);
            }
        }
        let cut_within = rng.random_range(1..60);
        let mut ring = match Ring::open_or_format(Kept(&mut flash), 7) {
            Ok((ring, _)) => ring,
            Err(error) => panic!("boot {boot}: {error}"),
        };
        assert_eq!(ring.id(), *id.get_or_insert(7));
        assert!(ring.next_seq() >= unused, "{} was given before, up to {unused}", ring.next_seq());
        let mut buffer = [0; 512];
        check(&mut ring, &kept, &pending, early, sectors);
        early += 1;
        // In a ring of three sectors, a confirmed passing over of names that is followed by several boots
        // in a row, each cut in a sector's header that is whole but for a few unstable bits, can come
        // back to the names before it. Such headers are left out here.
        arm(rng, &mut flash, cut_within, false);
        let (mut ring, _) = match Ring::open_or_format(Kept(&mut flash), 7) {
            Ok(opened) => opened,
            Err(error) => panic!("{error}"),
        };
        for step in 0..rng.random_range(1..80) {
            salt += 1;
            let next = ring.next_seq();
            let outcome = match rng.random_range(0..40) {
                0 => {
                    let to = next + rng.random_range(1..5);
                    early += 1;
                    passing = true;
                    ring.advance(to).map(|_| unused = to)
                }
                1..6 => ring.prepare().map(|_| ()),
                _ => {
                    let bytes = content(next, salt, long);
                    pending.insert(next, bytes.clone());
                    ring.append(&bytes).map(|appended| {
                        assert_eq!(appended.seq, next);
                        pending.remove(&next);
                        kept.insert(next, (bytes, early));
                        unused = next + 1;
                    })
                }
            };
            match outcome {
                Ok(()) => {}
                Err(RingError::Flash(NorError::NoPower)) => break,
                Err(error) => panic!("boot {boot}, step {step}: {error}"),
            }
            if ring.next_seq() == next + 1 {
                // From now on all that was under way reads the same for ever.
                let (floor, next) = (ring.floor(), ring.next_seq());
                for (name, _) in pending.range(floor..next) {
                    let now = ring.read(*name, &mut buffer).unwrap().map(<[u8]>::to_vec);
                    settled.entry(*name).or_insert(now);
                }
            }
            if rng.random_range(0..8) == 0 {
                let floor = ring.floor();
                for (name, said) in settled.range(floor..) {
                    let now = ring.read(*name, &mut buffer).unwrap().map(<[u8]>::to_vec);
                    assert_eq!(now, *said, "{name} reads differently");
                }
            }
        }
    }
    count(&flash);
}

/// All that was confirmed is there, unless it is below the floor, or in the sector that was being
/// erased, which has the oldest only.
fn check<F: NorFlash>(
    ring: &mut Ring<F>,
    kept: &BTreeMap<u32, (Vec<u8>, usize)>,
    pending: &BTreeMap<u32, Vec<u8>>,
    early: usize,
    sectors: usize,
) {
    let (floor, next) = (ring.floor(), ring.next_seq());
    let mut buffer = [0; 512];
    let mut there = |seq: u32, bytes: &[u8]| match ring.read(seq, &mut buffer) {
        Ok(Some(found)) => {
            assert_eq!(found, bytes, "other content under {seq}");
            true
        }
        Ok(None) => false,
        Err(_) => panic!("a read failed"),
    };
    let missing: Vec<u32> =
        kept.range(floor..).filter(|(seq, (bytes, _))| !there(**seq, bytes)).map(|(seq, _)| *seq).collect();
    if let Some(last) = missing.last() {
        let bytes: usize = kept.range(floor..=*last).map(|(_, (bytes, _))| bytes.len() + 8).sum();
        assert!(bytes <= F::ERASE_SIZE, "{missing:?} of {floor}..{next} are gone: more than a sector");
    }
    // The newest lie in two sectors, and only the oldest is ever erased.
    for (seq, (_, since)) in kept.iter().rev().take(3) {
        let gone = *seq < floor || missing.contains(seq);
        assert!(!gone || early - since + 3 > sectors, "{seq}, one of the newest of {floor}..{next}, is gone");
    }
    for (seq, bytes) in pending.range(floor..next) {
        if kept.contains_key(seq) {
            continue;
        }
        // It may be there.
        there(*seq, bytes);
    }
}

fn image(n: u32, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u32 * 31 + n * 7) as u8).collect()
}

fn slots_life<const S: usize, const W: usize, const R: usize>(rng: &mut StdRng, mut flash: Nor<S, W, R>) {
    let length = rng.random_range(1..600);
    let mut slots = Slots::open(Kept(&mut flash), "board").unwrap();
    slots.stage(&image(0, length), "factory", 0, Source::Factory).unwrap();
    slots.confirm().unwrap();
    drop(slots);
    // Number of the image that is confirmed, and of one that may be on trial.
    let (mut old, mut new): (u32, Option<u32>) = (0, None);
    let mut number = 0;
    let mut under_way = None;
    for _ in 0..rng.random_range(2..8) {
        flash.power_on();
        let mut slots = Slots::open(Kept(&mut flash), "board").unwrap();
        assert!(slots.running().is_some(), "it is not provisioned any more");
        drop(slots);
        if rng.random_bool(0.8) {
            let within = if rng.random_bool(0.5) { 4 } else { 40 };
            arm(rng, &mut flash, within, true);
        }
        slots = Slots::open(Kept(&mut flash), "board").unwrap();
        if slots.boot_counted() == Err(SlotError::Flash(NorError::NoPower)) {
            continue;
        }
        let entry = slots.running().unwrap().clone();
        let mut buffer = [0; 600];
        let found = slots.read_image(&mut buffer).unwrap();
        let runs = (0..=number).find(|n| image(*n, length) == found);
        let Some(runs) = runs else { panic!("half an image runs") };
        match under_way.take() {
            // The cut decided: from here on it is one of the two.
            Some(("stage", of)) if runs == of => new = Some(of),
            Some(("confirm", of)) if entry.state == State::Confirmed && runs == of => (old, new) = (of, None),
            Some(("condemn", _)) if runs == old => new = None,
            _ => {}
        }
        if let (Some(of), true) = (new, runs == old) {
            let boots = slots.history().iter().any(|slot| {
                matches!(slot, node::slots::Slot::Kept(e)
                    if matches!(e.state, State::Condemned { reason: Reason::Boots, .. }))
            });
            assert!(boots, "{of} is not run any more although nobody has given it up");
            new = None;
        }
        match new {
            Some(of) => {
                assert_eq!(runs, of);
                assert!(matches!(entry.state, State::Trial { boots } if boots <= BOOTS_MAX), "{entry:?}");
            }
            None => {
                assert_eq!(runs, old);
                assert_eq!(entry.state, State::Confirmed, "what was confirmed is on trial again");
            }
        }
        for _ in 0..rng.random_range(0..4) {
            let (what, of, outcome) = match (new, rng.random_range(0..3)) {
                (None, _) => {
                    number += 1;
                    ("stage", number, slots.stage(&image(number, length), "somebody", 7, Source::Mqtt))
                }
                (Some(of), 0) => ("condemn", of, slots.condemn(Reason::Unread)),
                (Some(of), 1) => ("confirm", of, slots.confirm()),
                (Some(_), _) => {
                    let staged = slots.stage(&image(1, length), "somebody", 7, Source::Mqtt);
                    assert_eq!(staged, Err(SlotError::OnTrial));
                    continue;
                }
            };
            match outcome {
                Ok(()) => match what {
                    "stage" => new = Some(of),
                    "confirm" => (old, new) = (of, None),
                    _ => new = None,
                },
                Err(SlotError::Flash(NorError::NoPower)) => {
                    under_way = Some((what, of));
                    break;
                }
                Err(error) => panic!("{what}: {error}"),
            }
            if what == "condemn" {
                let untold = slots.untold().is_some();
                assert!(untold, "nobody would be told");
                match slots.mark_told() {
                    Ok(()) => assert!(slots.untold().is_none()),
                    Err(SlotError::Flash(NorError::NoPower)) => break,
                    Err(error) => panic!("told: {error}"),
                }
            }
        }
    }
    count(&flash);
}

fn fault(n: u32) -> Fault {
    Fault {
        kind: FaultKind::from_id(n as u8),
        boot: n,
        uptime_s: n * 3,
        pc: n ^ 0x5555,
        lr: !n,
        address: n << 8,
        trace: [n, n + 1, n + 2, 0],
        stack_bytes: 4_000,
        detail: 0xffff_ffff,
    }
}

fn faults_life<const S: usize, const W: usize, const R: usize>(rng: &mut StdRng, mut flash: Nor<S, W, R>) {
    let mut kept: Vec<u32> = Vec::new();
    let mut n = 0;
    for _ in 0..rng.random_range(2..6) {
        flash.power_on();
        let per_sector = S / 64;
        let mut log = FaultLog::open(Kept(&mut flash)).unwrap();
        let mut read = vec![(0, fault(0)); 40];
        let count = log.read(u32::MAX, &mut read).unwrap();
        assert!(read[..count].windows(2).all(|pair| pair[0].0 > pair[1].0), "newest first");
        let there: Vec<u32> = read[..count].iter().map(|(_, fault)| fault.boot).collect();
        for (_, of) in &read[..count] {
            assert_eq!(*of, fault(of.boot), "an entry that nobody wrote");
        }
        // One whole sector of the newest is always left; each cut may have taken a place or two.
        for of in kept.iter().rev().take(20.min(per_sector - 20)) {
            assert!(there.contains(of), "{of} of {kept:?} is lost");
        }
        arm(rng, &mut flash, 80, true);
        let mut log = FaultLog::open(Kept(&mut flash)).unwrap();
        for _ in 0..rng.random_range(1..60) {
            n += 1;
            match log.append(&fault(n)) {
                Ok(_) => kept.push(n),
                Err(node::faults::FaultLogError::Flash(NorError::NoPower)) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    count(&flash);
}

#[test]
fn no_cut_of_any_program_or_erasure_loses_doubles_or_stops_anything() {
    let long = std::env::var_os("TIANYU_LONG").is_some();
    let seed = std::env::var("TIANYU_SEED").ok().and_then(|seed| seed.parse().ok());
    println!("seed {}", seed.unwrap_or(SEED));
    let scripts = SCRIPTS * if long { 10 } else { 1 };
    let drawn: Vec<usize> = (0..).zip(GEOMETRIES).flat_map(|(n, (_, often))| vec![n; often as usize]).collect();
    let run = |geometry: usize, seed: u64| {
        let ((name, script), _) = GEOMETRIES[geometry];
        let outcome = std::panic::catch_unwind(|| script(&mut StdRng::seed_from_u64(seed)));
        assert!(outcome.is_ok(), "geometry {geometry} ({name}), seed {seed}");
    };
    if let Ok(one) = std::env::var("TIANYU_SCRIPT") {
        let (geometry, seed) = one.split_once(':').unwrap();
        return run(geometry.parse().unwrap(), seed.parse().unwrap());
    }
    for (geometry, seed) in REGRESSIONS {
        run(*geometry, *seed);
    }
    let (first, step) = (seed.unwrap_or(SEED), 2);
    std::thread::scope(|scope| {
        for thread in 0..step {
            let (run, drawn) = (&run, &drawn);
            scope.spawn(move || {
                for n in (thread..scripts).step_by(step as usize) {
                    run(drawn[n as usize % drawn.len()], first + n);
                }
            });
        }
    });
    let [writes, erasures] = CUTS.each_ref().map(|cuts| cuts.load(Ordering::Relaxed));
    println!("{scripts} scripts, power cut in {writes} programs and {erasures} erasures");
    assert!(writes > 2 * scripts && erasures > scripts / 4, "{writes} and {erasures} in {scripts} scripts");
}
