//! The page beside the flash: what the board tells of its flash, and what the host wants of it.
//!
//! Flash and page are one file of the host, [`FILE_BYTES`] long, which QEMU maps into the board's
//! memory; so both survive a kill of QEMU at any instant, as a real flash does. Words are 32 bits,
//! little-endian, and each has one writer.

/// Size of the file, bytes: the MPS2's PSRAM, which QEMU insists on (hw/arm/mps2.c).
pub const FILE_BYTES: u32 = 16 << 20;
/// The flash at the file's beginning, bytes; the host fills a new one with 0xff.
pub const FLASH_BYTES: u32 = 4 << 20;
/// Erased at once, bytes (Winbond W25Q128JV datasheet §6.1).
pub const SECTOR_BYTES: u32 = 4_096;
/// Where the page begins in the file.
pub const PAGE_AT: u32 = FILE_BYTES - SECTOR_BYTES;

/// First word of a page that the host has prepared. Without it the board uses no word of it.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TyEm");

/// The words of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Word {
    /// [`MAGIC`]. By the host.
    Magic = 0,
    /// Programs that have ended since the file was made, modulo 2³². By the board.
    Programs = 1,
    /// Sector erasures that have ended since the file was made, modulo 2³². By the board.
    Erases = 2,
    /// A [`Phase`]. By the board; by the host only while the board is off.
    Phase = 3,
    /// Offset in the flash of the word that is being programmed or the sector that is being
    /// erased. By the board.
    Address = 4,
    /// Starts of the board since the file was made, modulo 2³². By the board.
    Starts = 5,
    /// Not 0: programs fail from now on and change nothing. By the host.
    FailPrograms = 8,
    /// Not 0: erasures fail from now on and change nothing. By the host.
    FailErases = 9,
    /// An erasure takes this many times as long; 0 counts as 1, and no more than 100 is done. By
    /// the host.
    SlowErase = 10,
    /// A program takes this many times as long; 0 counts as 1, and no more than 100 is done. By the
    /// host, for whom a word is over too soon to be met in the middle.
    SlowProgram = 11,
    /// Where the board's clock begins, µs, low word. By the host, before a start.
    StartLow = 16,
    /// Where the board's clock begins, µs, high word. By the host, before a start.
    StartHigh = 17,
    /// The first of [`SEED_WORDS`] of chance for this start: the board has no source of it. By the
    /// host.
    Seed = 20,
}

/// Words of chance that a start is given.
pub const SEED_WORDS: u32 = 12;

impl Word {
    /// Where the word is in the file.
    pub const fn offset(self) -> u32 {
        PAGE_AT + 4 * self as u32
    }
}

/// What the flash is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nothing.
    Idle = 0,
    /// A program is under way.
    Program = 1,
    /// An erasure is under way.
    Erase = 2,
}

impl Phase {
    /// The phase of a [`Word::Phase`].
    pub const fn from_word(word: u32) -> Option<Self> {
        match word {
            0 => Some(Self::Idle),
            1 => Some(Self::Program),
            2 => Some(Self::Erase),
            _ => None,
        }
    }
}
