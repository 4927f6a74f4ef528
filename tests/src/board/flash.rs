//! The file that is an emulated board's flash, with the page beside it that both sides use.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use emulation::control::{FILE_BYTES, FLASH_BYTES, MAGIC, Phase, SEED_WORDS, Word};

/// What the flash has done since its file was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlashStats {
    /// Programs that have ended.
    pub programs: u32,
    /// Sector erasures that have ended.
    pub erases: u32,
    /// What it is doing.
    pub phase: Phase,
    /// Where.
    pub address: u32,
}

/// The file.
#[derive(Debug)]
pub struct FlashFile {
    file: File,
    path: PathBuf,
}

impl FlashFile {
    /// A new flash, erased.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path).context("flash file")?;
        // The rest of the file has no blocks on the disk.
        file.set_len(FILE_BYTES.into())?;
        file.write_all_at(&vec![0xff; FLASH_BYTES as usize], 0)?;
        let this = Self { file, path: path.to_owned() };
        this.set(Word::Magic, MAGIC)?;
        Ok(this)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A word of the page.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, word: Word) -> Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, word.offset().into()).context("read the control page")?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Sets a word of the page.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, word: Word, value: u32) -> Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), word.offset().into()).context("write the control page")
    }

    /// Gives the next start its chance and its clock's beginning, µs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn prepare(&self, start_us: u64) -> Result<()> {
        // The board says so too, but not before it has started.
        self.set(Word::Phase, Phase::Idle as u32)?;
        self.set(Word::StartLow, start_us as u32)?;
        self.set(Word::StartHigh, (start_us >> 32) as u32)?;
        let seed: [u8; 4 * SEED_WORDS as usize] = std::array::from_fn(|_| rand::random());
        self.file.write_all_at(&seed, Word::Seed.offset().into()).context("write the seed")
    }

    /// What it has done, and is doing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn stats(&self) -> Result<FlashStats> {
        Ok(FlashStats {
            programs: self.get(Word::Programs)?,
            erases: self.get(Word::Erases)?,
            phase: self.phase()?,
            address: self.get(Word::Address)?,
        })
    }

    /// What it is doing.
    ///
    /// # Errors
    /// When the file cannot be read, or the page holds nonsense.
    pub fn phase(&self) -> Result<Phase> {
        let word = self.get(Word::Phase)?;
        Phase::from_word(word).with_context(|| format!("phase {word}"))
    }

    /// Bytes of the flash.
    ///
    /// # Errors
    /// When they are not within it.
    pub fn read(&self, from: u32, count: usize) -> Result<Vec<u8>> {
        ensure!(from as usize + count <= FLASH_BYTES as usize, "{from} + {count} is behind the flash");
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, from.into()).context("read the flash")?;
        Ok(bytes)
    }

    /// Puts bytes into the flash, as a programmer would: whatever was there.
    ///
    /// # Errors
    /// When they are not within it.
    pub fn write(&self, from: u32, bytes: &[u8]) -> Result<()> {
        ensure!(from as usize + bytes.len() <= FLASH_BYTES as usize, "{from} + {} is behind the flash", bytes.len());
        self.file.write_all_at(bytes, from.into()).context("write the flash")
    }

    /// Waits, without letting go of the processor, until the flash is in this phase: a program is
    /// over before any timer would tell.
    ///
    /// # Errors
    /// When it was not within `within`.
    pub(super) fn watch(&self, phase: Phase, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        while self.phase()? != phase {
            ensure!(Instant::now() < until, "the flash was not in phase {phase:?} within {within:?}");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits, without letting go of the processor, until the flash erases, or programs after
    /// `programs` more programs have ended.
    ///
    /// # Errors
    /// When it did neither within `within`.
    pub(super) fn watch_writes(&self, programs: u32, within: Duration) -> Result<()> {
        let (until, before) = (Instant::now() + within, self.get(Word::Programs)?);
        loop {
            match self.phase()? {
                Phase::Erase => return Ok(()),
                Phase::Program if self.get(Word::Programs)?.wrapping_sub(before) >= programs => return Ok(()),
                _ => {}
            }
            ensure!(Instant::now() < until, "the flash wrote too little within {within:?}");
            std::thread::yield_now();
        }
    }
}
