//! The node's flash ring against flash that loses power: what was appended stays, names are never
//! given twice, and it opens after every cut.

use std::collections::BTreeMap;

use node::ring::{Ring, RingError};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use simulator::nor::{Nor, NorError, Torn};

type Flash = Nor<2048, 4>;

const ALL: [Torn; 7] = [
    Torn::Nothing,
    Torn::FirstHalf,
    Torn::LastHalf,
    Torn::SomeBits(1),
    Torn::SomeBits(2),
    Torn::SomeBits(3),
    Torn::Everything,
];

fn content(seq: u32, salt: u32) -> Vec<u8> {
    let length = 20 + (seq * 97 + salt * 31) as usize % 400;
    (0..length).map(|i| (i as u32 * 7 + seq * 13 + salt * 101) as u8).collect()
}

fn read(ring: &mut Ring<Flash>, seq: u32) -> Option<Vec<u8>> {
    let mut buffer = [0; 512];
    ring.read(seq, &mut buffer).unwrap().map(<[u8]>::to_vec)
}

/// Appends 40 records, which is several times round; what was confirmed, and the flash.
fn fill(flash: &mut Flash, salt: u32) -> (Vec<Vec<u8>>, bool) {
    let mut kept = Vec::new();
    let Ok((mut ring, _)) = Ring::open_or_format(flash.clone(), 7) else { unreachable!() };
    let mut whole = true;
    for n in 0..40 {
        let bytes = content(n, salt);
        match ring.append(&bytes) {
            Ok(appended) => {
                assert_eq!(appended.seq as usize, kept.len());
                kept.push(bytes);
            }
            Err(RingError::Flash(_)) => {
                whole = false;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    *flash = ring.into_flash();
    (kept, whole)
}

#[test]
fn it_opens_after_a_cut_in_any_operation_and_has_all_that_was_confirmed() {
    let mut probe = Flash::new(4);
    drop(Ring::format(probe.clone(), 7).unwrap());
    probe = Ring::format(probe, 7).unwrap().into_flash();
    let formatted = probe.clone();
    let before = probe.operations();
    fill(&mut probe, 0);
    let operations = probe.operations() - before;
    assert!(operations > 45, "the ring went round: {operations} operations");
    for cut in 0..operations {
        for torn in ALL {
            let mut flash = formatted.clone();
            flash.cut_at(before + cut, torn);
            let (kept, whole) = fill(&mut flash, 0);
            assert!(!whole);
            flash.power_on();
            // Opening writes nothing: the second time is like the first.
            for _ in 0..2 {
                let (ring, made) = Ring::open_or_format(flash.clone(), 8).unwrap();
                assert!(!made, "cut {cut} {torn:?}");
                drop(ring);
            }
            let (mut ring, _) = Ring::open_or_format(flash, 8).unwrap();
            assert_eq!(ring.id(), 7);
            let confirmed = kept.len() as u32;
            let next = ring.next_seq();
            assert!(next == confirmed || next == confirmed + 1, "cut {cut} {torn:?}: {next} for {confirmed}");
            assert!(ring.floor() <= confirmed);
            for (seq, bytes) in kept.iter().enumerate().skip(ring.floor() as usize) {
                let found = read(&mut ring, seq as u32);
                // A sector that was being erased may have lost any of its records.
                if found.as_ref() != Some(bytes) {
                    assert!(found.is_none(), "cut {cut} {torn:?}: other content under seq {seq}");
                    assert!(torn != Torn::Nothing && torn != Torn::Everything, "cut {cut} {torn:?} seq {seq}");
                    assert!((seq as u32) < confirmed - 8, "cut {cut} {torn:?}: lost {seq} of {confirmed}");
                }
            }
            if next > confirmed {
                // The name of what was not confirmed is either that record or nothing.
                let found = read(&mut ring, confirmed);
                assert!(found.is_none_or(|found| found == content(confirmed, 0)), "cut {cut} {torn:?}");
            }
            // Life goes on, with new names, and the old ones keep their content.
            let last_old = read(&mut ring, next.wrapping_sub(1));
            for n in 0..6 {
                let appended = ring.append(&content(next + n, 5)).unwrap();
                assert_eq!(appended.seq, next + n);
            }
            for n in 0..6 {
                assert_eq!(read(&mut ring, next + n), Some(content(next + n, 5)), "cut {cut} {torn:?} n {n}");
            }
            if next > 0 && ring.floor() < next {
                assert_eq!(read(&mut ring, next - 1), last_old);
            }
        }
    }
}

#[test]
fn a_format_that_is_cut_leaves_the_old_ring_or_none_and_never_gives_a_name_twice() {
    let mut flash = Flash::new(4);
    fill(&mut flash, 0);
    let before = flash.operations();
    let next = Ring::open_or_format(flash.clone(), 8).unwrap().0.next_seq();
    for cut in 0..7 {
        for torn in ALL {
            let mut shared = Shared(flash.clone());
            shared.0.cut_at(before + cut, torn);
            assert!(Ring::format(&mut shared, 9).is_err());
            shared.0.power_on();
            let (ring, made) = Ring::open_or_format(shared.0, 10).unwrap();
            match (ring.id(), made) {
                (7, false) => assert!(ring.next_seq() >= next, "cut {cut} {torn:?}: {}", ring.next_seq()),
                (9, false) | (10, true) => assert_eq!(ring.next_seq(), 0),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A flash that outlives the ring that failed on it.
struct Shared(Flash);

impl Shared {
    fn cut_in(&mut self, operations: u64, torn: Torn) {
        let at = self.0.operations() + operations;
        self.0.cut_at(at, torn);
    }
}

impl embedded_storage::nor_flash::ErrorType for Shared {
    type Error = simulator::nor::NorError;
}

impl embedded_storage::nor_flash::ReadNorFlash for Shared {
    const READ_SIZE: usize = 1;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.read(offset, bytes)
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl embedded_storage::nor_flash::NorFlash for Shared {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 2048;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        self.0.erase(from, to)
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.write(offset, bytes)
    }
}

#[test]
fn only_a_full_ring_overwrites_and_it_says_what() {
    let (mut ring, made) = Ring::open_or_format(Flash::new(4), 7).unwrap();
    assert!(made);
    let mut lost = 0;
    for n in 0..300 {
        let appended = ring.append(&content(n, 1)).unwrap();
        if let Some(overwritten) = appended.overwritten {
            assert_eq!(overwritten.first, lost);
            lost += overwritten.count;
        }
        assert_eq!(ring.floor(), lost);
        for seq in [ring.floor(), (ring.floor() + n) / 2, n] {
            assert_eq!(read(&mut ring, seq), Some(content(seq, 1)));
        }
        assert_eq!(read(&mut ring, n + 1), None);
        assert!(lost == 0 || read(&mut ring, lost - 1).is_none());
    }
    assert!(lost > 200);
}

#[test]
fn a_damaged_record_is_none_and_its_neighbours_are_whole() {
    let mut flash = Flash::new(4);
    let (kept, _) = fill(&mut flash, 3);
    let floor = Ring::open_or_format(flash.clone(), 8).unwrap().0.floor() as usize;
    for at in (0..8192).step_by(61) {
        let mut flash = flash.clone();
        flash.bytes_mut()[at] ^= 0x10;
        let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
        assert!(!made);
        // No name is given twice, whatever rots; where it cannot be told, one is passed over.
        assert!((40..=41).contains(&ring.next_seq()), "byte {at}: {}", ring.next_seq());
        let missing = (floor..40).filter(|n| read(&mut ring, *n as u32).as_ref() != Some(&kept[*n])).count();
        let headers = at % 2048 < 32;
        assert!(headers || missing <= 1, "byte {at}: {missing} missing");
        for (seq, bytes) in kept.iter().enumerate() {
            assert!(read(&mut ring, seq as u32).is_none_or(|found| found == *bytes));
        }
    }
}

#[test]
fn a_cell_that_does_not_take_what_is_written_costs_no_record() {
    for weak in (0..8192).step_by(53) {
        let mut flash = Flash::new(4);
        flash.weaken(weak);
        let (mut ring, _) = Ring::open_or_format(flash, 7).unwrap();
        let mut lost = 0;
        for n in 0..60 {
            let appended = ring.append(&content(n, 2)).unwrap();
            assert_eq!(appended.seq, n);
            if let Some(overwritten) = appended.overwritten {
                assert_eq!(overwritten.first, lost, "byte {weak}, record {n}");
                lost += overwritten.count;
            }
            assert_eq!(ring.floor(), lost, "byte {weak}, record {n}");
            assert_eq!(read(&mut ring, n), Some(content(n, 2)), "byte {weak}, record {n}");
        }
        let (mut ring, _) = Ring::open_or_format(ring.into_flash(), 8).unwrap();
        for n in 55..60 {
            assert_eq!(read(&mut ring, n), Some(content(n, 2)), "byte {weak}, record {n}");
        }
    }
}

#[test]
fn frames_of_another_ring_or_of_seqs_long_gone_are_no_records() {
    let mut full = Flash::new(4);
    fill(&mut full, 3);
    let (other, _) = Ring::open_or_format(Flash::new(4), 9).unwrap();
    let (mut later, _) = Ring::open_or_format(Flash::new(4), 7).unwrap();
    later.advance(65_536).unwrap();
    // What an erasure that did not take would leave behind a fresh header.
    for mut header in [other.into_flash(), later.into_flash()] {
        for sector in 0..4 {
            let bytes = header.bytes_mut();
            let Some(from) = (0..4).rev().find(|at| bytes[at * 2048] != 0xff) else { unreachable!() };
            let head = bytes[from * 2048..from * 2048 + 32].to_vec();
            let mut flash = Flash::new(4);
            flash.bytes_mut()[32..2048].copy_from_slice(&full.bytes_mut()[sector * 2048 + 32..][..2016]);
            flash.bytes_mut()[..32].copy_from_slice(&head);
            let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
            assert!(!made);
            for seq in ring.floor()..ring.next_seq() {
                assert_eq!(read(&mut ring, seq), None, "sector {sector}, seq {seq}");
            }
        }
    }
}

#[test]
fn after_a_sector_could_not_be_begun_nothing_goes_into_the_one_before() {
    for torn in ALL {
        // Three sectors: there is no other to pass on to.
        let mut flash = Shared(Flash::new(3));
        let (mut ring, _) = Ring::open_or_format(&mut flash, 7).unwrap();
        for n in 0..4 {
            ring.append(&[n; 440]).unwrap();
        }
        // The fifth has no room; the header of the next sector is its second operation.
        let off = ring.into_flash();
        let at = off.0.operations() + 1;
        off.0.stumble_at(at, torn);
        let (mut ring, _) = Ring::open_or_format(off, 7).unwrap();
        assert!(ring.append(&[4; 440]).is_err());
        let seq = ring.append(&[9; 5]).unwrap().seq;
        let off = ring.into_flash();
        let (mut ring, _) = Ring::open_or_format(off, 7).unwrap();
        let mut buffer = [0; 512];
        assert_eq!(ring.read(seq, &mut buffer).unwrap(), Some(&[9; 5][..]), "{torn:?}");
        assert_eq!(ring.next_seq(), seq + 1, "{torn:?}");
    }
}

#[test]
fn a_reader_that_was_overtaken_finds_the_oldest_that_is_left() {
    let (mut ring, _) = Ring::open_or_format(Flash::new(4), 7).unwrap();
    for n in 0..200 {
        ring.append(&content(n, 1)).unwrap();
        // It reads the oldest once in a while and nothing between.
        if n % 7 == 0 {
            let floor = ring.floor();
            assert_eq!(read(&mut ring, floor), Some(content(floor, 1)), "{floor} of {n}");
        }
    }
}

#[test]
fn any_bit_of_a_header_may_rot_and_no_name_comes_twice() {
    let mut flash = Flash::new(4);
    let (kept, _) = fill(&mut flash, 3);
    for (sector, bit) in (0..4).flat_map(|sector| (0..32 * 8).map(move |bit| (sector, bit))) {
        let mut flash = flash.clone();
        flash.bytes_mut()[sector * 2048 + bit / 8] ^= 1 << (bit % 8);
        let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
        assert!(!made && (40..=41).contains(&ring.next_seq()), "sector {sector}, bit {bit}: {}", ring.next_seq());
        let whole = (0..40).filter(|n| read(&mut ring, *n as u32).as_ref() == Some(&kept[*n])).count();
        assert!(whole >= 15, "sector {sector}, bit {bit}: {whole} are left");
        for (seq, bytes) in kept.iter().enumerate() {
            assert!(read(&mut ring, seq as u32).is_none_or(|found| found == *bytes), "sector {sector}, bit {bit}");
        }
    }
}

#[test]
fn a_header_that_was_misread_once_makes_no_name_come_twice() {
    for sector in 0..4 {
        for appends in [0, 1, 3, 8] {
            let mut flash = Flash::new(4);
            let (kept, _) = fill(&mut flash, 3);
            let (at, good) = (sector * 2048 + 9, flash.bytes_mut()[sector * 2048 + 9]);
            flash.bytes_mut()[at] ^= 4;
            let bad = flash.bytes_mut()[at];
            let (mut ring, _) = Ring::open_or_format(flash, 8).unwrap();
            // Short ones, for which the sector before has room.
            let names: Vec<u32> = (1..=appends).map(|n| ring.append(&[n]).unwrap().seq).collect();
            assert!(names.iter().all(|name| *name >= kept.len() as u32), "sector {sector}: {names:?}");
            let mut flash = ring.into_flash();
            if flash.bytes_mut()[at] == bad {
                flash.bytes_mut()[at] = good;
            }
            let (mut ring, _) = Ring::open_or_format(flash, 8).unwrap();
            let next = ring.append(&content(0, 7)).unwrap().seq;
            assert!(names.iter().all(|name| next > *name), "sector {sector}: {next} after {names:?}");
            for (n, name) in (1..).zip(names) {
                assert!(name < ring.floor() || read(&mut ring, name) == Some(vec![n]), "sector {sector}, {name}");
            }
        }
    }
}

#[test]
fn a_record_that_ends_in_set_bits_is_not_written_over_after_a_restart() {
    for length in 1..40 {
        for set in 1..=length {
            let mut record = vec![5; length];
            record[length - set..].fill(0xff);
            let (mut ring, _) = Ring::open_or_format(Flash::new(4), 7).unwrap();
            ring.append(&record).unwrap();
            let (mut ring, _) = Ring::open_or_format(ring.into_flash(), 8).unwrap();
            assert_eq!(ring.append(&[1, 2, 3]).unwrap().seq, 1);
            assert_eq!(read(&mut ring, 0), Some(record), "{set} of {length} bytes");
            assert_eq!(read(&mut ring, 1), Some(vec![1, 2, 3]));
        }
    }
}

#[test]
fn a_region_that_cannot_hold_a_ring_is_refused() {
    assert!(matches!(Ring::open_or_format(Nor::<2048, 4>::new(2), 1), Err(RingError::Geometry)));
    assert!(matches!(Ring::open_or_format(Nor::<512, 4>::new(20), 1), Err(RingError::Geometry)));
    let (mut ring, _) = Ring::open_or_format(Nor::<4096, 32>::new(4), 1).unwrap();
    assert_eq!(ring.append(&[]), Err(RingError::Length(0)));
    assert_eq!(ring.append(&[0; 513]), Err(RingError::Length(513)));
    for n in 0..100u32 {
        assert_eq!(ring.append(&content(n, 9)).unwrap().seq, n);
    }
    assert_eq!(ring.advance(500).unwrap().map(|lost| lost.count > 0), Some(true));
    assert_eq!(ring.append(b"x").unwrap().seq, 500);
}

#[test]
fn a_sector_that_breaks_costs_its_own_room_only() {
    for broken in 0..6 {
        let mut flash = Nor::<2048, 4>::new(6);
        fill(&mut flash, 3);
        flash.break_sector(broken);
        let (mut ring, _) = Ring::open_or_format(flash, 8).unwrap();
        let mut failures = 0;
        let mut kept = Vec::new();
        for _ in 0..200 {
            let seq = ring.next_seq();
            match ring.append(&content(seq, 4)) {
                Ok(appended) => kept.push(appended.seq),
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= 1, "sector {broken}: {failures} records were not kept");
        let next = ring.next_seq();
        let held = kept.iter().filter(|seq| read(&mut ring, **seq) == Some(content(**seq, 4))).count();
        assert_eq!(held as u32, next - ring.floor(), "sector {broken}: what is above the floor is there");
        assert!(held > 20, "sector {broken}: {held}");
        let flash = ring.into_flash();
        let (mut ring, made) = Ring::open_or_format(flash, 8).unwrap();
        assert!(!made && ring.next_seq() == next);
        assert_eq!(read(&mut ring, next - 1), Some(content(next - 1, 4)));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Append records.
    Append(u32),
    /// The power fails so many flash operations from now.
    Cut(u64, Torn),
    /// The flash operation so many from now fails, and the power stays.
    Stumble(u64, Torn),
    /// The gateway knows so many more names.
    Advance(u32),
    /// The power fails between operations.
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..12u32).prop_map(Step::Append),
        4 => (0..14u64, prop::sample::select(ALL.to_vec()), any::<u64>()).prop_map(|(at, torn, seed)| {
            Step::Cut(at, if let Torn::SomeBits(_) = torn { Torn::SomeBits(seed) } else { torn })
        }),
        3 => (0..14u64, prop::sample::select(ALL.to_vec())).prop_map(|(at, torn)| Step::Stumble(at, torn)),
        1 => (1..200u32).prop_map(Step::Advance),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_history_of_cuts_gives_a_name_twice_or_loses_more_than_the_oldest(
        history in prop::collection::vec(steps(), 1..60),
        sectors in 3..7usize,
    ) {
        let mut flash = Shared(Flash::new(sectors));
        // By name: content, and how many sectors had been begun early before it.
        let mut kept: BTreeMap<u32, (Vec<u8>, usize)> = BTreeMap::new();
        // Every content is new; the first name not yet given to anybody.
        let (mut salt, mut unused) = (0, 0);
        // A cut, or names passed over, may begin a sector before the one before it is full.
        let mut early = 0;
        let mut history = history.into_iter().chain([Step::Restart, Step::Append(3)]);
        let mut left = 0;
        'power: loop {
            flash.0.power_on();
            let (mut ring, _) = Ring::open_or_format(&mut flash, 7).unwrap();
            prop_assert_eq!(ring.id(), 7);
            prop_assert!(ring.next_seq() >= unused, "{} was given before, up to {}", ring.next_seq(), unused);
            let mut buffer = [0; 512];
            let newest: Vec<u32> = kept.keys().rev().take(3).copied().collect();
            for (seq, (bytes, since)) in &kept {
                match ring.read(*seq, &mut buffer).unwrap() {
                    Some(found) => prop_assert_eq!(found, &bytes[..], "other content under {}", seq),
                    // The newest lie in two sectors, and only the oldest is ever erased.
                    None => prop_assert!(
                        !newest.contains(seq) || early - since + 3 > sectors,
                        "{seq} of {newest:?} is lost"
                    ),
                }
            }
            let (mut cut, mut stumbles) = (false, false);
            loop {
                let step = if left > 0 { Step::Append(left) } else {
                    match history.next() {
                        Some(step) => step,
                        None => break 'power,
                    }
                };
                match step {
                    Step::Append(count) => {
                        left = count - 1;
                        salt += 1;
                        let next = ring.next_seq();
                        prop_assert!(next >= unused);
                        // Now and then a short one, for which there may still be room.
                        let mut bytes = content(next, salt);
                        bytes.truncate(if salt % 3 == 0 { 5 } else { bytes.len() });
                        match ring.append(&bytes) {
                            Ok(appended) => {
                                prop_assert_eq!(appended.seq, next);
                                kept.insert(next, (bytes, early));
                                unused = next + 1;
                            }
                            Err(RingError::Flash(NorError::NoPower)) if cut => { left = 0; continue 'power; }
                            Err(error) => { prop_assert!(stumbles, "{}", error); stumbles = false; }
                        }
                    }
                    Step::Advance(by) => {
                        early += 1;
                        let to = ring.next_seq() + by;
                        match ring.advance(to) {
                            Ok(_) => { prop_assert_eq!(ring.next_seq(), to); unused = to; }
                            Err(RingError::Flash(NorError::NoPower)) if cut => continue 'power,
                            Err(error) => { prop_assert!(stumbles, "{}", error); stumbles = false; }
                        }
                    }
                    Step::Cut(at, torn) => {
                        let off = ring.into_flash();
                        off.cut_in(at, torn);
                        cut = true;
                        early += 1;
                        ring = Ring::open_or_format(off, 7).unwrap().0;
                        prop_assert!(ring.next_seq() >= unused);
                    }
                    Step::Stumble(at, torn) => {
                        let off = ring.into_flash();
                        let at = off.0.operations() + at;
                        off.0.stumble_at(at, torn);
                        (stumbles, early) = (true, early + 1);
                        ring = Ring::open_or_format(off, 7).unwrap().0;
                        prop_assert!(ring.next_seq() >= unused);
                    }
                    Step::Restart => continue 'power,
                }
            }
        }
    }
}
