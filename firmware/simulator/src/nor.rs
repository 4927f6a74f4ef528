//! NOR flash in memory, with the manners of the real thing: writing only clears bits, a word is
//! written once between erasures, and power may fail in the middle of any operation.
//!
//! What a cut leaves depends on the part. Words under way may be old, new, a mixture, or hold bits
//! that read differently each time until they are erased ([`Torn::Weak`]). On a part with an ECC
//! over each word ([`Nor::with_ecc`]) a word that is partly written cannot be read at all, or only
//! now and then, and neither can one that was touched by a cut and is written again.
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
    /// Word by word nothing, everything, or a mixture, chosen by this seed: of a mixture's bits some
    /// read differently each time, and on a part with ECC the word cannot be read.
    Weak(u64),
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
    /// The word's ECC says that more than one bit is wrong.
    #[error("the word at {0} cannot be read")]
    Unreadable(u32),
    /// The part does not answer.
    #[error("the part does not answer")]
    Mute,
    /// There is no power.
    #[error("the power is gone")]
    NoPower,
}

impl NorFlashError for NorError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Access(kind) => *kind,
            _ => NorFlashErrorKind::Other,
        }
    }
}

/// What has happened to a word since its sector was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nothing.
    Erased,
    /// It was written.
    Written,
    /// An operation on it was cut.
    Touched,
    /// Its ECC does not fit; some of these can be read now and then.
    Bad { always: bool },
}

/// A NOR flash of `SECTOR`-byte sectors that writes `WRITE` bytes at once and reads `READ`.
#[derive(Clone, Debug)]
pub struct Nor<const SECTOR: usize = 4096, const WRITE: usize = 4, const READ: usize = 1> {
    bytes: Vec<u8>,
    words: Vec<Word>,
    /// Bits that read differently each time.
    unstable: Vec<u8>,
    /// By sector: whether it has unstable bits or bad words.
    harmed: Vec<bool>,
    ecc: bool,
    operations: u64,
    cut: Option<(u64, Torn)>,
    powered: bool,
    mute: bool,
    broken: Option<usize>,
    written: u64,
    erased: u64,
    glitches: Option<(u64, u64)>,
    weak: Option<usize>,
    stumble: Option<(u64, Torn)>,
    chance: u64,
    cuts: (u64, u64),
}

impl<const SECTOR: usize, const WRITE: usize, const READ: usize> Nor<SECTOR, WRITE, READ> {
    /// An erased flash.
    pub fn new(sectors: usize) -> Self {
        Self {
            bytes: vec![0xff; sectors * SECTOR],
            words: vec![Word::Erased; sectors * SECTOR / WRITE],
            unstable: vec![0; sectors * SECTOR],
            harmed: vec![false; sectors],
            ecc: false,
            operations: 0,
            cut: None,
            powered: true,
            mute: false,
            broken: None,
            written: 0,
            erased: 0,
            glitches: None,
            weak: None,
            stumble: None,
            chance: 0,
            cuts: (0, 0),
        }
    }

    /// The same with an ECC over each word.
    #[must_use]
    pub fn with_ecc(mut self) -> Self {
        self.ecc = true;
        self
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

    /// From now on no read, write or erasure works, until it is unmuted: a bus that hangs.
    pub fn mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// From now on this sector can neither be written nor erased.
    pub fn break_sector(&mut self, sector: usize) {
        self.broken = Some(sector);
    }

    /// From now on no bit of this byte can be cleared, and nobody is told.
    pub fn weaken(&mut self, at: usize) {
        self.weak = Some(at);
    }

    /// The word with this byte can no longer be read, until its sector is erased.
    pub fn spoil(&mut self, at: usize) {
        self.words[at / WRITE] = Word::Bad { always: true };
        self.harmed[at / SECTOR] = true;
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

    /// Writes and erasures in which power failed so far.
    pub fn cuts(&self) -> (u64, u64) {
        self.cuts
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

    /// Takes on the bytes of another flash; erased beyond their end.
    pub fn fill_from(&mut self, image: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().zip(image.iter().chain(std::iter::repeat(&0xff))) {
            *place = *byte;
        }
        self.unstable.fill(0);
        self.harmed.fill(false);
        for (word, bytes) in self.words.iter_mut().zip(self.bytes.chunks(WRITE)) {
            *word = if bytes.iter().all(|byte| *byte == 0xff) { Word::Erased } else { Word::Written };
        }
    }

    /// Whether the part obeys at all.
    fn works(&self) -> Result<(), NorError> {
        match (self.powered, self.mute) {
            (false, _) => Err(NorError::NoPower),
            (true, true) => Err(NorError::Mute),
            (true, false) => Ok(()),
        }
    }

    /// Applies one operation, or the torn part of it: bytes to write, or an erasure.
    fn apply(&mut self, from: usize, length: usize, data: Option<&[u8]>) -> Result<(), NorError> {
        let here = |of: Option<(u64, Torn)>| of.filter(|(at, _)| *at == self.operations).map(|(_, torn)| torn);
        let (cut, stumble) = (here(self.cut), here(self.stumble));
        self.operations += 1;
        if self.broken == Some(from / SECTOR) {
            return Err(NorError::Broken(from as u32));
        }
        let step = |at: usize| data.and_then(|data| data.get(at - from..at - from + WRITE));
        match cut.or(stumble) {
            None | Some(Torn::Everything) => {
                if data.is_none() && self.weak.is_none_or(|weak| !(from..from + length).contains(&weak)) {
                    self.bytes[from..from + length].fill(0xff);
                    self.unstable[from..from + length].fill(0);
                    self.words[from / WRITE..(from + length) / WRITE].fill(Word::Erased);
                    self.harmed[from / SECTOR..(from + length) / SECTOR].fill(false);
                } else {
                    for at in (from..from + length).step_by(WRITE) {
                        self.finish(at, step(at));
                    }
                }
            }
            Some(Torn::Nothing) => {}
            Some(torn) => {
                for at in (from..from + length).step_by(WRITE) {
                    self.tear(at, step(at), torn, (at - from, length));
                }
            }
        }
        if cut.is_some() {
            self.powered = false;
            let (writes, erasures) = &mut self.cuts;
            *if data.is_some() { writes } else { erasures } += 1;
            return Err(NorError::NoPower);
        }
        if stumble.is_some() { Err(NorError::Broken(from as u32)) } else { Ok(()) }
    }

    /// What a byte becomes; a weak one takes no zeros.
    fn becomes(&self, at: usize, data: Option<u8>) -> u8 {
        let old = self.bytes[at];
        let new = data.map_or(0xff, |data| old & data);
        if self.weak == Some(at) { new | old } else { new }
    }

    /// The whole operation on one word.
    fn finish(&mut self, word: usize, data: Option<&[u8]>) {
        for (index, at) in (word..word + WRITE).enumerate() {
            self.bytes[at] = self.becomes(at, data.map(|data| data[index]));
            // A zero that is written is a zero; a bit left alone stays as unsure as it was.
            self.unstable[at] &= data.map_or(0, |data| data[index]);
        }
        let again = self.ecc && data.is_some() && self.words[word / WRITE] == Word::Touched;
        self.words[word / WRITE] = match data {
            Some(_) if again => Word::Bad { always: true },
            Some(_) => Word::Written,
            None => Word::Erased,
        };
        self.harmed[word / SECTOR] |= again;
    }

    /// A part of the operation on one word, which lies `at` bytes behind the operation's beginning.
    fn tear(&mut self, word: usize, data: Option<&[u8]>, torn: Torn, (offset, length): (usize, usize)) {
        let mut partly = false;
        let weak = match torn {
            Torn::Weak(seed) => match scatter(seed ^ (word as u64) << 8) & 3 {
                0 => return,
                1 => return self.finish(word, data),
                _ => Some(seed),
            },
            _ => None,
        };
        for (index, at) in (word..word + WRITE).enumerate() {
            let (old, new) = (self.bytes[at], self.becomes(at, data.map(|data| data[index])));
            let mask = match (torn, offset + index < length / 2) {
                (Torn::FirstHalf, true) | (Torn::LastHalf, false) => 0xff,
                (Torn::FirstHalf, false) | (Torn::LastHalf, true) => 0,
                // Half of these are all but done, which is where they are taken for whole.
                (Torn::Weak(seed), _) if seed & 1 == 1 => 0xff,
                (Torn::SomeBits(seed) | Torn::Weak(seed), _) => scatter(seed ^ at as u64),
                _ => 0,
            };
            self.bytes[at] = (old & !mask) | (new & mask);
            partly |= self.bytes[at] != new;
            if let Some(seed) = weak {
                let some = |n| scatter(seed.rotate_left(n) ^ at as u64);
                let few = if seed & 1 == 1 { some(29) & some(41) & some(53) } else { 0xff };
                self.unstable[at] |= (old ^ new) & some(17) & few;
                partly |= self.unstable[at] != 0;
            }
        }
        self.harmed[word / SECTOR] = true;
        self.words[word / WRITE] = if self.ecc && partly {
            Word::Bad { always: weak.is_none_or(|seed| scatter(seed ^ word as u64) & 1 == 0) }
        } else {
            Word::Touched
        };
    }

    fn draw(&mut self) -> u8 {
        self.chance = self.chance.wrapping_add(1);
        scatter(self.chance)
    }
}

/// Eight bits that look like chance (SplitMix64's finaliser).
fn scatter(seed: u64) -> u8 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 56) as u8
}

impl<const SECTOR: usize, const WRITE: usize, const READ: usize> ErrorType for Nor<SECTOR, WRITE, READ> {
    type Error = NorError;
}

impl<const SECTOR: usize, const WRITE: usize, const READ: usize> ReadNorFlash for Nor<SECTOR, WRITE, READ> {
    const READ_SIZE: usize = READ;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorError> {
        self.works()?;
        check_read(self, offset, bytes.len()).map_err(NorError::Access)?;
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        bytes.copy_from_slice(&self.bytes[from..to]);
        if self.harmed[from / SECTOR..to.div_ceil(SECTOR)].contains(&true) {
            for word in from / WRITE..to.div_ceil(WRITE) {
                if let Word::Bad { always } = self.words[word]
                    && (always || self.draw() & 1 == 0)
                {
                    return Err(NorError::Unreadable((word * WRITE) as u32));
                }
            }
            for (byte, at) in bytes.iter_mut().zip(from..) {
                if self.unstable[at] != 0 {
                    *byte ^= self.unstable[at] & self.draw();
                }
            }
        }
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

impl<const SECTOR: usize, const WRITE: usize, const READ: usize> NorFlash for Nor<SECTOR, WRITE, READ> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.works()?;
        check_erase(self, from, to).map_err(NorError::Access)?;
        self.erased += u64::from(to - from) / SECTOR as u64;
        self.apply(from as usize, (to - from) as usize, None)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorError> {
        self.works()?;
        check_write(self, offset, bytes.len()).map_err(NorError::Access)?;
        let from = offset as usize;
        for at in (from..from + bytes.len()).step_by(WRITE) {
            // A word that a cut left blank cannot be told from an erased one.
            let blank = (at..at + WRITE).all(|at| self.bytes[at] | self.unstable[at] == 0xff);
            if !blank || self.words[at / WRITE] == Word::Written {
                return Err(NorError::NotErased(at as u32));
            }
        }
        self.written += bytes.len() as u64;
        self.apply(from, bytes.len(), Some(bytes))
    }
}
