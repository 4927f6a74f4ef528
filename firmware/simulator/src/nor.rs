//! NOR flash in memory, with the manners of the real thing: writing only clears bits, a word is
//! written once between erasures, and power may fail in the middle of any operation.
//!
//! It owns the model of the part. It deliberately knows nothing of what is kept in it.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};

/// How much of the operation in which power fails takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Nothing.
    Nothing,
    /// The first half of its bytes.
    FirstHalf,
    /// The last half of its bytes.
    LastHalf,
    /// Some bits all over, chosen by this seed.
    SomeBits(u64),
    /// Everything, but nobody is told.
    Everything,
}

/// Why the flash did not obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NorError {
    /// Misaligned or out of bounds.
    #[error("the access is misaligned or out of bounds")]
    Access(NorFlashErrorKind),
    /// A word was written that was not erased: a fault of the program, not of the part.
    #[error("the word at {0} is written without having been erased")]
    NotErased(u32),
    /// The sector is broken, or has failed this once.
    #[error("the sector at {0} is broken")]
    Broken(u32),
    /// There is no power.
    #[error("the power is gone")]
    NoPower,
}

impl NorFlashError for NorError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Access(kind) => *kind,
            Self::NotErased(_) | Self::Broken(_) | Self::NoPower => NorFlashErrorKind::Other,
        }
    }
}

/// A NOR flash of `SECTOR`-byte sectors that writes `WRITE` bytes at once.
#[derive(Clone, Debug)]
pub struct Nor<const SECTOR: usize = 4096, const WRITE: usize = 4> {
    bytes: Vec<u8>,
    operations: u64,
    cut: Option<(u64, Torn)>,
    powered: bool,
    broken: Option<usize>,
    written: u64,
    erased: u64,
    glitches: Option<(u64, u64)>,
    weak: Option<usize>,
    stumble: Option<(u64, Torn)>,
}

impl<const SECTOR: usize, const WRITE: usize> Nor<SECTOR, WRITE> {
    /// An erased flash.
    pub fn new(sectors: usize) -> Self {
        Self {
            bytes: vec![0xff; sectors * SECTOR],
            operations: 0,
            cut: None,
            powered: true,
            broken: None,
            written: 0,
            erased: 0,
            glitches: None,
            weak: None,
            stumble: None,
        }
    }

    /// Power fails in the `operation`-th write or erasure from the first on (counted from 0).
    pub fn cut_at(&mut self, operation: u64, torn: Torn) {
        self.cut = Some((operation, torn));
    }

    /// The `operation`-th write or erasure from the first on fails so far, and the power stays.
    pub fn stumble_at(&mut self, operation: u64, torn: Torn) {
        self.stumble = Some((operation, torn));
    }

    /// Power is back, and nothing more is to fail; what was torn stays torn.
    pub fn power_on(&mut self) {
        self.powered = true;
        (self.cut, self.stumble) = (None, None);
    }

    /// From now on this sector can neither be written nor erased.
    pub fn break_sector(&mut self, sector: usize) {
        self.broken = Some(sector);
    }

    /// From now on no bit of this byte can be cleared, and nobody is told.
    pub fn weaken(&mut self, at: usize) {
        self.weak = Some(at);
    }

    /// From now on one read in `of` brings one wrong bit; what is in the flash stays right.
    pub fn glitch(&mut self, of: u64, seed: u64) {
        self.glitches = Some((of, seed));
    }

    /// Whether there is power.
    pub fn is_powered(&self) -> bool {
        self.powered
    }

    /// Writes and erasures so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Sectors erased so far.
    pub fn erased(&self) -> u64 {
        self.erased
    }

    /// The bytes as they are, to damage some.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Applies one operation byte by byte, or the torn part of it.
    fn apply(&mut self, from: usize, length: usize, change: impl Fn(usize, u8) -> u8) -> Result<(), NorError> {
        if self.broken == Some(from / SECTOR) {
            self.operations += 1;
            return Err(NorError::Broken(from as u32));
        }
        let here = |of: Option<(u64, Torn)>| of.filter(|(at, _)| *at == self.operations).map(|(_, torn)| torn);
        let (cut, stumble) = (here(self.cut), here(self.stumble));
        let torn = cut.or(stumble);
        self.operations += 1;
        for index in 0..length {
            let old = self.bytes[from + index];
            let new = change(index, old);
            let mask = match torn {
                None | Some(Torn::Everything) => 0xff,
                Some(Torn::Nothing) => 0,
                Some(Torn::FirstHalf) if index < length / 2 => 0xff,
                Some(Torn::LastHalf) if index >= length / 2 => 0xff,
                Some(Torn::FirstHalf | Torn::LastHalf) => 0,
                Some(Torn::SomeBits(seed)) => scatter(seed ^ ((from + index) as u64)),
            };
            let new = if self.weak == Some(from + index) { new | old } else { new };
            self.bytes[from + index] = (old & !mask) | (new & mask);
        }
        if cut.is_some() {
            self.powered = false;
            return Err(NorError::NoPower);
        }
        if stumble.is_some() { Err(NorError::Broken(from as u32)) } else { Ok(()) }
    }

    fn powered(&self) -> Result<(), NorError> {
        if self.powered { Ok(()) } else { Err(NorError::NoPower) }
    }
}

/// Eight bits that look like chance (SplitMix64's finaliser).
fn scatter(seed: u64) -> u8 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 56) as u8
}

impl<const SECTOR: usize, const WRITE: usize> ErrorType for Nor<SECTOR, WRITE> {
    type Error = NorError;
}

impl<const SECTOR: usize, const WRITE: usize> ReadNorFlash for Nor<SECTOR, WRITE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorError> {
        self.powered()?;
        check_read(self, offset, bytes.len()).map_err(NorError::Access)?;
        let from = offset as usize;
        bytes.copy_from_slice(&self.bytes[from..from + bytes.len()]);
        if let Some((of, seed)) = &mut self.glitches {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let chance = u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| scatter(*seed ^ n)));
            if chance.is_multiple_of(*of)
                && let Some(byte) = bytes.get_mut((chance >> 8) as usize % bytes.len().max(1))
            {
                *byte ^= 1 << (chance >> 5 & 7);
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const SECTOR: usize, const WRITE: usize> NorFlash for Nor<SECTOR, WRITE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.powered()?;
        check_erase(self, from, to).map_err(NorError::Access)?;
        self.erased += u64::from(to - from) / SECTOR as u64;
        self.apply(from as usize, (to - from) as usize, |_, _| 0xff)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorError> {
        self.powered()?;
        check_write(self, offset, bytes.len()).map_err(NorError::Access)?;
        let from = offset as usize;
        if let Some(index) = self.bytes[from..from + bytes.len()].iter().position(|b| *b != 0xff) {
            return Err(NorError::NotErased(offset + index as u32));
        }
        self.written += bytes.len() as u64;
        self.apply(from, bytes.len(), |index, old| old & bytes[index])
    }
}
