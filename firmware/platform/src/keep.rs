//! Settings and configs in flash: two places for each, so that one is whole while the other is written.
//!
//! A place holds a head (mark, sequence, length, CRC of the image, CRC of the head) and behind it the
//! image. The head is written last: a place whose writing was cut has none.

use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};

use crate::CRC32;
use crate::flash::{Map, Range, Region, RegionError, Shared};

/// Largest word that any flash writes at once, bytes.
const WORD_MAX: usize = 32;
/// "TYP1".
const MARK: u32 = 0x5459_5031;
/// Bytes of a head, a multiple of any word.
const HEAD_BYTES: usize = 32;

/// Why an image is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeepError<E> {
    /// It is larger than its place.
    #[error("there is no room for so much")]
    Room,
    /// The flash failed.
    #[error("the flash failed")]
    Flash(RegionError<E>),
    /// What was written does not read back.
    #[error("the flash does not keep what is written")]
    Verify,
}

impl<E> From<RegionError<E>> for KeepError<E> {
    fn from(error: RegionError<E>) -> Self {
        Self::Flash(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    sequence: u32,
    length: u32,
    crc: u32,
}

impl Head {
    fn bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0xff; HEAD_BYTES];
        let words = [MARK, self.sequence, self.length, self.crc];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = CRC32.checksum(bytes.get(..16).unwrap_or_default());
        if let Some(place) = bytes.get_mut(16..20) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map(u32::from_le_bytes)
        };
        let whole = word(0)? == MARK && word(16)? == CRC32.checksum(bytes.get(..16)?);
        let head = Self { sequence: word(4)?, length: word(8)?, crc: word(12)? };
        Some(head).filter(|_| whole)
    }
}

/// Two places for one thing.
#[derive(Debug)]
pub(crate) struct Pair<F: 'static> {
    places: [Region<F>; 2],
}

impl<F: NorFlash> Pair<F> {
    pub(crate) const fn new(shared: &'static Shared<F>, [a, b]: [Range; 2]) -> Self {
        Self { places: [Region::new(shared, a), Region::new(shared, b)] }
    }

    /// Reads the newest image that is whole; its length and CRC.
    pub(crate) fn newest(&mut self, buffer: &mut [u8]) -> Option<(usize, u32)> {
        let heads = self.heads();
        let newer = usize::from(newer(&heads));
        [newer, 1 - newer].into_iter().find_map(|n| {
            let head = heads.get(n).copied().flatten()?;
            let image = buffer.get_mut(..head.length as usize)?;
            self.places.get_mut(n)?.read(HEAD_BYTES as u32, image).ok()?;
            (CRC32.checksum(image) == head.crc).then_some((image.len(), head.crc))
        })
    }

    /// CRC of the newest image, as its head says.
    pub(crate) fn crc(&mut self) -> Option<u32> {
        let heads = self.heads();
        heads.get(usize::from(newer(&heads))).copied().flatten().map(|head| head.crc)
    }

    /// Keeps an image in the place that the newest is not in. A power cut leaves the one before.
    pub(crate) fn keep(&mut self, image: &[u8]) -> Result<u32, KeepError<F::Error>> {
        const { assert!(F::WRITE_SIZE <= WORD_MAX && WORD_MAX.is_multiple_of(F::WRITE_SIZE)) };
        let heads = self.heads();
        let newer = newer(&heads);
        let sequence = heads.iter().flatten().map(|head| head.sequence).max().unwrap_or(0).wrapping_add(1);
        let [a, b] = &mut self.places;
        let place = if newer { a } else { b };
        let end = HEAD_BYTES + image.len();
        if end.next_multiple_of(WORD_MAX) > place.capacity() {
            return Err(KeepError::Room);
        }
        let sectors = end.div_ceil(F::ERASE_SIZE) * F::ERASE_SIZE;
        place.erase(0, sectors as u32)?;
        let mut at = HEAD_BYTES as u32;
        for part in image.chunks(WORD_MAX) {
            let mut word = [0xff; WORD_MAX];
            word.iter_mut().zip(part).for_each(|(place, byte)| *place = *byte);
            place.write(at, &word)?;
            at += WORD_MAX as u32;
        }
        let crc = CRC32.checksum(image);
        place.write(0, &Head { sequence, length: image.len() as u32, crc }.bytes())?;
        let mut digest = CRC32.digest();
        let mut at = HEAD_BYTES as u32;
        for part in image.chunks(WORD_MAX) {
            let mut word = [0; WORD_MAX];
            place.read(at, &mut word)?;
            digest.update(word.get(..part.len()).unwrap_or_default());
            at += WORD_MAX as u32;
        }
        if digest.finalize() == crc { Ok(crc) } else { Err(KeepError::Verify) }
    }

    fn heads(&mut self) -> [Option<Head>; 2] {
        let mut heads = [None; 2];
        for (head, place) in heads.iter_mut().zip(&mut self.places) {
            let mut bytes = [0; HEAD_BYTES];
            *head = place.read(0, &mut bytes).ok().and_then(|()| Head::read(&bytes));
        }
        heads
    }
}

/// Whether the second is the newer, as sequences that wrap.
fn newer([a, b]: &[Option<Head>; 2]) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => b.sequence.wrapping_sub(a.sequence) < u32::MAX / 2,
        (None, Some(_)) => true,
        _ => false,
    }
}

/// Halves of a range on whole sectors; the settings' range holds two places.
pub(crate) const fn halves(range: Range, sector: u32) -> [Range; 2] {
    let bytes = range.bytes / 2 / sector * sector;
    [Range { from: range.from, bytes }, Range { from: range.from + bytes, bytes }]
}

/// All that is kept besides the ring.
#[derive(Debug)]
pub(crate) struct Keep<F: 'static> {
    pub(crate) settings: Pair<F>,
    pub(crate) configs: Pair<F>,
}

impl<F: NorFlash> Keep<F> {
    pub(crate) fn new(shared: &'static Shared<F>, map: &Map) -> Self {
        let settings = Pair::new(shared, halves(map.settings, F::ERASE_SIZE as u32));
        Self { settings, configs: Pair::new(shared, map.config) }
    }
}
