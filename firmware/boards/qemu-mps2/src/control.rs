//! The board's side of the page that it shares with the host (see [`emulation::control`]).

use emulation::control::{MAGIC, PAGE_AT, SEED_WORDS, Word};

use crate::registers::Registers;

/// Where QEMU maps the file: the PSRAM (AN385 table 3-1).
pub(crate) const FILE: usize = 0x2100_0000;

// SAFETY: the page lies in the PSRAM, where no Rust object is.
const PAGE: Registers = unsafe { Registers::new(FILE + PAGE_AT as usize) };

/// A word of the page; 0 when the host has not prepared one.
pub(crate) fn get(word: Word) -> u32 {
    let is_there = PAGE.read(4 * Word::Magic as usize) == MAGIC;
    if is_there { PAGE.read(4 * word as usize) } else { 0 }
}

/// Writes a word that is the board's.
pub(crate) fn set(word: Word, value: u32) {
    PAGE.write(4 * word as usize, value);
}

/// Raises a count by one.
pub(crate) fn count(word: Word) {
    set(word, get(word).wrapping_add(1));
}

/// Where the clock begins, µs.
pub(crate) fn start_us() -> u64 {
    u64::from(get(Word::StartHigh)) << 32 | u64::from(get(Word::StartLow))
}

/// The chance that the host gave, with the number of this start, so that a reset without the host
/// is not given the same again; zeros when there is no host that gives any.
pub(crate) fn seed() -> [u8; 4 * SEED_WORDS as usize] {
    let mut seed = [0; 4 * SEED_WORDS as usize];
    if get(Word::Magic) != 0 {
        count(Word::Starts);
        for (index, place) in seed.chunks_exact_mut(4).enumerate() {
            let word = PAGE.read(4 * (Word::Seed as usize + index));
            place.copy_from_slice(&(word ^ get(Word::Starts)).to_le_bytes());
        }
    }
    seed
}
