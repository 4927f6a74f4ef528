//! A NOR flash: a file of the host, with the manners and the times of a real part.
//!
//! Programs only clear bits, word by word; an erasure goes through mixtures of what was and what
//! will be. A kill of QEMU at any instant leaves what a power cut would. Times are the typical ones
//! of a Winbond W25Q128JV (datasheet §9.6). During both the processor serves interrupts, but no
//! task runs: as on boards that execute from the flash that they write.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use emulation::control::{FLASH_BYTES, Phase, SECTOR_BYTES, Word};

use crate::registers::Registers;
use crate::{clock, control};

/// Half of a word's share of a page program: 0.7 ms for 64 words.
const HALF_WORD_US: u64 = 5;
/// A sector's erasure, µs.
const ERASE_US: u64 = 45_000;
/// Mixtures that an erasure goes through.
const ERASE_STEPS: u32 = 16;
/// Most that the host may stretch a program or an erasure.
const SLOW_MAX: u32 = 100;

// SAFETY: the flash lies in the PSRAM, where no Rust object is.
const WORDS: Registers = unsafe { Registers::new(control::FILE) };

/// Why the flash did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashError {
    /// It failed; the host wanted it to.
    Failed,
    /// Not aligned, or not within the flash.
    Access(NorFlashErrorKind),
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Failed => NorFlashErrorKind::Other,
            Self::Access(kind) => *kind,
        }
    }
}

/// The flash. There is one; `Board` has it.
#[derive(Debug)]
pub struct Flash(());

impl Flash {
    pub(crate) fn new() -> Self {
        // Whatever the last run was cut off in is over.
        control::set(Word::Phase, Phase::Idle as u32);
        Self(())
    }
}

/// 32 bits that look like chance (SplitMix32's finaliser, as in MurmurHash3).
fn scatter(seed: u32) -> u32 {
    let z = (seed ^ seed >> 16).wrapping_mul(0x85eb_ca6b);
    let z = (z ^ z >> 13).wrapping_mul(0xc2b2_ae35);
    z ^ z >> 16
}

fn program(at: u32, word: u32, half_us: u64) {
    let old = WORDS.read(at as usize);
    control::set(Word::Address, at);
    // Some bits are cleared before others.
    WORDS.write(at as usize, old & (word | scatter(at ^ old)));
    clock::spin_us(half_us);
    WORDS.write(at as usize, old & word);
    clock::spin_us(half_us);
}

fn erase(sector: u32) {
    let step_us = ERASE_US / u64::from(ERASE_STEPS) * u64::from(control::get(Word::SlowErase).clamp(1, SLOW_MAX));
    let begun_us = clock::now_us();
    for step in 1..=ERASE_STEPS {
        clock::sleep_until(begun_us + u64::from(step) * step_us, || false);
        for at in (sector..sector + SECTOR_BYTES).step_by(4) {
            // Each step sets about a quarter of the bits that are not set yet; the last sets all.
            let seed = at ^ step << 24;
            let some = if step == ERASE_STEPS { u32::MAX } else { scatter(seed) & scatter(!seed) };
            WORDS.write(at as usize, WORDS.read(at as usize) | some);
        }
    }
}

impl ErrorType for Flash {
    type Error = FlashError;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        check_read(self, offset, bytes.len()).map_err(FlashError::Access)?;
        let mut at = offset;
        let mut left = bytes;
        while !left.is_empty() {
            let word = WORDS.read((at & !3) as usize).to_le_bytes();
            let of_word = word.get((at & 3) as usize..).unwrap_or_default();
            let count = of_word.len().min(left.len());
            let (now, rest) = left.split_at_mut(count);
            now.copy_from_slice(of_word.get(..count).unwrap_or_default());
            at += count as u32;
            left = rest;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES as usize
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR_BYTES as usize;

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        check_write(self, offset, bytes.len()).map_err(FlashError::Access)?;
        if control::get(Word::FailPrograms) != 0 {
            return Err(FlashError::Failed);
        }
        control::set(Word::Phase, Phase::Program as u32);
        let half_us = HALF_WORD_US * u64::from(control::get(Word::SlowProgram).clamp(1, SLOW_MAX));
        for (at, word) in (offset..).step_by(4).zip(bytes.chunks_exact(4)) {
            program(at, u32::from_le_bytes([word[0], word[1], word[2], word[3]]), half_us);
        }
        control::set(Word::Phase, Phase::Idle as u32);
        control::count(Word::Programs);
        Ok(())
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        check_erase(self, from, to).map_err(FlashError::Access)?;
        for sector in (from..to).step_by(SECTOR_BYTES as usize) {
            if control::get(Word::FailErases) != 0 {
                return Err(FlashError::Failed);
            }
            control::set(Word::Address, sector);
            control::set(Word::Phase, Phase::Erase as u32);
            erase(sector);
            control::set(Word::Phase, Phase::Idle as u32);
            control::count(Word::Erases);
        }
        Ok(())
    }
}
