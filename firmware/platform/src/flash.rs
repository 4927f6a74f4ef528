//! One flash, divided: who has which part of it, and what happens when it fails.
//!
//! A board gives one [`NorFlash`] and a [`Map`]. Everything that is kept goes through [`Region`]s of
//! it, from the node half alone, so nobody waits for anybody. What is kept where, and in what form,
//! is the business of those who keep it.
//!
//! A flash that fails is left alone for a minute after [`FAILURES_MAX`] failures in a row: an
//! operation may take its whole time-out before it fails, and control must not pay for that in
//! every round.

use core::cell::{Cell, RefCell};

use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_time::{Duration, Instant};
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};

use crate::kept::{Kept, Stage};

/// Failures in a row after which a flash is left alone.
pub const FAILURES_MAX: u8 = 3;
/// For so long.
pub const REST: Duration = Duration::from_secs(60);

/// Bytes of a flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub from: u32,
    /// How many.
    pub bytes: u32,
}

impl Range {
    /// The first byte behind it.
    pub const fn end(self) -> u32 {
        self.from.saturating_add(self.bytes)
    }

    const fn overlaps(self, other: Self) -> bool {
        self.from < other.end() && other.from < self.end()
    }
}

/// What of a board's flash is for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The offline ring.
    pub ring: Range,
    /// Two places for configs, so that one is whole while the other is written: of one size, one behind the
    /// other.
    pub config: [Range; 2],
    /// Settings: two places, so at least two sectors.
    pub settings: Range,
    /// Faults: at least two sectors.
    pub faults: Range,
    /// Two places for firmware; the running one is where the board boots from.
    pub image: [Range; 2],
}

impl Map {
    /// All of it.
    pub const fn all(&self) -> [Range; 7] {
        let [config_a, config_b] = self.config;
        let [image_a, image_b] = self.image;
        [self.ring, config_a, config_b, self.settings, self.faults, image_a, image_b]
    }

    /// Whether each lies in a flash of `capacity` bytes, on whole sectors of `sector` bytes, and no two
    /// overlap. A board asserts this in a constant.
    pub const fn is_sound(&self, capacity: u32, sector: u32) -> bool {
        let [first, second] = self.config;
        let beside = first.end() == second.from && first.bytes == second.bytes;
        if !beside || self.settings.bytes < 2 * sector || self.faults.bytes < 2 * sector {
            return false;
        }
        let all = self.all();
        let mut n = 0;
        #[expect(clippy::indexing_slicing, reason = "a constant function has no iterators; n and m are in range")]
        while n < all.len() {
            let range = all[n];
            let whole = range.from.is_multiple_of(sector) && range.bytes.is_multiple_of(sector) && range.bytes > 0;
            if !whole || range.end() > capacity {
                return false;
            }
            let mut m = 0;
            while m < n {
                if range.overlaps(all[m]) {
                    return false;
                }
                m += 1;
            }
            n += 1;
        }
        true
    }
}

/// Whether a failing flash is asked at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    failures: u8,
    rests_until_ms: u64,
}

impl Breaker {
    const fn new() -> Self {
        Self { failures: 0, rests_until_ms: 0 }
    }

    fn is_resting(self, now_ms: u64) -> bool {
        now_ms < self.rests_until_ms
    }

    /// What it is after an operation. After a rest, one more failure brings the next.
    fn after(self, fine: bool, now_ms: u64) -> Self {
        if fine {
            return Self::new();
        }
        let failures = self.failures.saturating_add(1);
        let rests_until_ms = if failures >= FAILURES_MAX { now_ms + REST.as_millis() } else { 0 };
        Self { failures, rests_until_ms }
    }
}

/// A flash that several regions lie in.
#[derive(Debug)]
pub struct Shared<F> {
    flash: Mutex<CriticalSectionRawMutex, RefCell<Option<F>>>,
    breaker: Mutex<CriticalSectionRawMutex, Cell<Breaker>>,
    kept: &'static Kept,
}

impl<F> Shared<F> {
    /// The board's flash. What goes on in it is noted in `kept`, so that a reset in the middle of an
    /// operation is put down to it.
    pub const fn new(flash: F, kept: &'static Kept) -> Self {
        let breaker = Mutex::new(Cell::new(Breaker::new()));
        Self { flash: Mutex::new(RefCell::new(Some(flash))), breaker, kept }
    }

    /// Whether it is being left alone.
    pub fn is_resting(&self) -> bool {
        self.breaker.lock(Cell::get).is_resting(Instant::now().as_millis())
    }

    /// The flash is taken out while it works, so that interrupts go on.
    fn with<R, E>(&self, work: impl FnOnce(&mut F) -> Result<R, E>) -> Result<R, RegionError<E>> {
        if self.is_resting() {
            return Err(RegionError::Resting);
        }
        let mut flash = self.flash.lock(|place| place.borrow_mut().take()).ok_or(RegionError::InUse)?;
        let stage = self.kept.enter(Stage::Flash);
        let result = work(&mut flash);
        self.kept.enter(stage);
        self.flash.lock(|place| *place.borrow_mut() = Some(flash));
        let now_ms = Instant::now().as_millis();
        self.breaker.lock(|breaker| breaker.set(breaker.get().after(result.is_ok(), now_ms)));
        result.map_err(RegionError::Flash)
    }
}

/// Why a region did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError<E> {
    /// Outside of it.
    Bounds,
    /// Not on whole words or sectors.
    Alignment,
    /// It is switched off: the node runs without it.
    Off,
    /// It failed too often and is left alone for a while.
    Resting,
    /// Somebody else is in the middle of an operation.
    InUse,
    /// The flash failed.
    Flash(E),
}

impl<E: NorFlashError> NorFlashError for RegionError<E> {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Bounds => NorFlashErrorKind::OutOfBounds,
            Self::Alignment => NorFlashErrorKind::NotAligned,
            Self::Off | Self::Resting | Self::InUse => NorFlashErrorKind::Other,
            Self::Flash(error) => error.kind(),
        }
    }
}

/// A part of a flash, itself a flash that begins at 0.
#[derive(Debug)]
pub struct Region<F: 'static> {
    shared: &'static Shared<F>,
    range: Range,
    on: bool,
}

impl<F> Region<F> {
    /// That range of it.
    pub const fn new(shared: &'static Shared<F>, range: Range) -> Self {
        Self { shared, range, on: true }
    }

    /// One that fails at once whatever it is asked.
    pub const fn off(shared: &'static Shared<F>) -> Self {
        Self { shared, range: Range { from: 0, bytes: 0 }, on: false }
    }

    fn place<E>(&self, offset: u32, bytes: usize, unit: usize) -> Result<u32, RegionError<E>> {
        if !self.on {
            return Err(RegionError::Off);
        }
        let bytes = u32::try_from(bytes).map_err(|_| RegionError::Bounds)?;
        let end = offset.checked_add(bytes).ok_or(RegionError::Bounds)?;
        if end > self.range.bytes {
            return Err(RegionError::Bounds);
        }
        let unit = unit.max(1) as u32;
        if !offset.is_multiple_of(unit) || !bytes.is_multiple_of(unit) {
            return Err(RegionError::Alignment);
        }
        Ok(self.range.from + offset)
    }
}

impl<F: NorFlash> ErrorType for Region<F> {
    type Error = RegionError<F::Error>;
}

impl<F: NorFlash> ReadNorFlash for Region<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        let place = self.place(offset, bytes.len(), F::READ_SIZE)?;
        self.shared.with(|flash| flash.read(place, bytes))
    }

    fn capacity(&self) -> usize {
        self.range.bytes as usize
    }
}

impl<F: NorFlash> NorFlash for Region<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        let bytes = to.checked_sub(from).ok_or(RegionError::Bounds)?;
        let place = self.place(from, bytes as usize, F::ERASE_SIZE)?;
        self.shared.with(|flash| flash.erase(place, place + bytes))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        let place = self.place(offset, bytes.len(), F::WRITE_SIZE)?;
        self.shared.with(|flash| flash.write(place, bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const SECTOR: u32 = 4096;

    /// A flash in RAM that fails while it is told to, and counts what it was asked.
    struct Ram {
        bytes: Vec<u8>,
        fails: &'static core::sync::atomic::AtomicBool,
        asked: &'static core::sync::atomic::AtomicUsize,
    }

    impl Ram {
        fn ask(&self) -> Result<(), NorFlashErrorKind> {
            self.asked.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            if self.fails.load(core::sync::atomic::Ordering::Relaxed) { Err(NorFlashErrorKind::Other) } else { Ok(()) }
        }
    }

    impl ErrorType for Ram {
        type Error = NorFlashErrorKind;
    }

    impl ReadNorFlash for Ram {
        const READ_SIZE: usize = 1;

        fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
            self.ask()?;
            bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
            Ok(())
        }

        fn capacity(&self) -> usize {
            self.bytes.len()
        }
    }

    impl NorFlash for Ram {
        const WRITE_SIZE: usize = 4;
        const ERASE_SIZE: usize = SECTOR as usize;

        fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
            self.ask()?;
            self.bytes[from as usize..to as usize].fill(0xff);
            Ok(())
        }

        fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
            self.ask()?;
            self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
    }

    fn sectors(from: u32, count: u32) -> Range {
        Range { from: from * SECTOR, bytes: count * SECTOR }
    }

    fn map() -> Map {
        Map {
            ring: sectors(0, 8),
            config: [sectors(8, 3), sectors(11, 3)],
            settings: sectors(14, 2),
            faults: sectors(16, 2),
            image: [sectors(18, 6), sectors(24, 8)],
        }
    }

    #[test]
    fn a_map_is_sound_only_in_bounds_on_whole_sectors_and_without_overlap() {
        assert!(map().is_sound(32 * SECTOR, SECTOR));
        assert!(!map().is_sound(31 * SECTOR, SECTOR), "the last range is outside");
        assert!(!Map { settings: sectors(13, 2), ..map() }.is_sound(32 * SECTOR, SECTOR), "settings in a config");
        assert!(!Map { settings: sectors(14, 1), ..map() }.is_sound(32 * SECTOR, SECTOR), "no second place");
        assert!(!Map { faults: sectors(16, 1), ..map() }.is_sound(32 * SECTOR, SECTOR), "no second sector");
        assert!(!Map { config: [sectors(8, 3), sectors(11, 2)], ..map() }.is_sound(32 * SECTOR, SECTOR));
        assert!(!Map { faults: Range { from: 16 * SECTOR, bytes: 100 }, ..map() }.is_sound(32 * SECTOR, SECTOR));
        assert!(!Map { ring: sectors(0, 0), ..map() }.is_sound(32 * SECTOR, SECTOR), "nothing is no ring");
    }

    fn shared()
    -> (&'static Shared<Ram>, &'static core::sync::atomic::AtomicBool, &'static core::sync::atomic::AtomicUsize) {
        let fails: &_ = Box::leak(Box::default());
        let asked: &_ = Box::leak(Box::default());
        let kept: &_ = Box::leak(Box::new(Kept::new()));
        let ram = Ram { bytes: vec![0; 32 * SECTOR as usize], fails, asked };
        (Box::leak(Box::new(Shared::new(ram, kept))), fails, asked)
    }

    #[test]
    fn regions_share_a_flash_and_stay_in_their_own_part() {
        let (shared, ..) = shared();
        let [mut first, mut second] = map().config.map(|range| Region::new(shared, range));
        let end = first.capacity() as u32;
        assert_eq!(end, 3 * SECTOR);
        first.write(end - 4, &[1, 2, 3, 4]).unwrap();
        second.write(0, &[5, 6, 7, 8]).unwrap();
        let mut bytes = [0; 4];
        first.read(end - 4, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!(first.read(end - 3, &mut bytes), Err(RegionError::Bounds));
        assert_eq!(first.write(end, &[0; 4]), Err(RegionError::Bounds));
        assert_eq!(first.write(2, &[0; 4]), Err(RegionError::Alignment));
        assert_eq!(first.erase(0, 100), Err(RegionError::Alignment));
        first.erase(0, end).unwrap();
        second.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [5, 6, 7, 8], "the neighbour was not erased");
        assert_eq!(Region::off(shared).read(0, &mut bytes), Err(RegionError::Off));
    }

    #[test]
    fn a_flash_that_fails_three_times_is_not_asked_again_for_a_while() {
        let (shared, fails, asked) = shared();
        let mut ring = Region::new(shared, map().ring);
        fails.store(true, core::sync::atomic::Ordering::Relaxed);
        for _ in 0..FAILURES_MAX {
            assert_eq!(ring.write(0, &[0; 4]), Err(RegionError::Flash(NorFlashErrorKind::Other)));
        }
        assert_eq!(ring.write(0, &[0; 4]), Err(RegionError::Resting));
        assert_eq!(asked.load(core::sync::atomic::Ordering::Relaxed), usize::from(FAILURES_MAX));
    }

    #[test]
    fn after_its_rest_a_flash_is_asked_once_and_forgiven_when_it_works() {
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_MAX {
            assert!(!breaker.is_resting(1_000));
            breaker = breaker.after(false, 1_000);
        }
        assert!(breaker.is_resting(60_999) && !breaker.is_resting(61_000));
        let again = breaker.after(false, 61_000);
        assert!(again.is_resting(120_999), "one more failure, one more rest");
        assert_eq!(breaker.after(true, 61_000), Breaker::new());
    }
}
