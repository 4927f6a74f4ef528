//! The flash ring: records of opaque bytes, each named once by its seq and kept through any cut
//! of power, over any [`NorFlash`].
//!
//! It owns the layout of its flash region and nothing else: what a record means, who has received
//! it and when it is sent are not its business. A record is overwritten only because the ring is
//! full, the oldest sector first, never because somebody has it already.
//!
//! A sector begins with a header (ring, generation, first seq, check sum), twice; frames follow, each
//! with a check sum over ring, seq and content. A frame torn by a cut does not check out; the
//! next begins behind it. No word is written twice between erasures, and opening writes nothing,
//! so a cut while opening is no event at all.
//!
//! # What a cut leaves
//!
//! Bits that were under way may read differently each time until they are erased, and a word with an
//! ECC may not be readable at all. So nothing that a cut may have touched is believed for long:
//! - A frame's head is written before the rest of it. Behind the last whole frame, what a torn head
//!   says is passed over, and one head more, however blank it looks.
//! - The last record may be the one that was being written. The first append after opening writes it
//!   once more, or a frame without content that voids its name for ever. From then on it reads the
//!   same each time.
//! - A sector without a whole frame is left for the next: its header may be the one that was torn.
//! - A sector counts as erased only if this ring has erased it since it was opened.
//!
//! A word that fails to read three times is damage if the flash answers elsewhere; if it does not,
//! that is an error, and nothing is concluded from it.
//!
//! # What it costs
//!
//! Bytes a reading, all included (frame heads, padding, sector headers), with eight channels of a
//! pond every ten minutes; days without a gateway that the region holds at least; and erasures of
//! each sector a year. `firmware/simulator/tests/wear.rs` measures them.
//!
//! | flash | region | write size | B/reading | days | cycles/year |
//! |---|---|---|---|---|---|
//! | pico-w, pico-2-w | 64 × 4 KiB | 1 | 4.69 | 47 | 7.5 |
//! | esp32-c3, qemu-mps2, nRF | 64 × 4 KiB | 4 | 4.69 | 47 | 7.5 |
//! | 8-byte words | 64 × 4 KiB | 8 | 5.12 | 44 | 8.2 |
//! | nucleo-f767zi by words | 3 × 256 KiB | 4 | 4.67 | 97 | 2.5 |
//! | nucleo-f767zi by 16 | 3 × 256 KiB | 16 | 6.00 | 76 | 3.2 |
//! | 32-byte words | 4 × 128 KiB | 32 | 8.00 | 43 | 6.4 |
//!
//! A round is kept at once, in a frame of its own, and takes whole write units: 37 bytes are 48 in
//! units of 16, and 64 in units of 32. That is why these miss 5 bytes; packing several rounds into a
//! frame would lose what is not yet written. The F767 need not miss them: embassy-stm32 writes 16
//! bytes at once, the part programs words (RM0410, program parallelism). With sectors of 256 KiB it has no smaller
//! ring than three of them.
//!
//! # Erasing
//!
//! [`Ring::prepare`] erases the next sector ahead of need, so that it falls between rounds. One
//! erasure takes 45 ms, at most 400 ms, of a 4 KB sector of a W25Q16JV (its datasheet, AC
//! characteristics), and a second or two of a 256 KB sector of an STM32F767 (its datasheet, flash
//! memory characteristics).

mod access;
mod layout;
mod mount;

use embedded_storage::nor_flash::NorFlash;
use telemetry::limits::RECORD_BYTES_MAX;

use self::layout::{FRAME_HEAD, FRAME_MAX, HEADER, Head, seal};
use crate::flash::ALIGN_MAX;

/// Fewest sectors: one being erased, one being written, one to read.
const SECTORS_MIN: u32 = 3;
/// Sectors tried for one record before the flash is called worn out.
const ATTEMPTS_MAX: u8 = 3;

/// Room left in the newest sector below which the next is erased: a round with all its channels, and
/// what it leads to.
const AHEAD: usize = 2 * FRAME_MAX;

/// Why the ring cannot do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError<E> {
    /// The region's sectors are too few or too small, or its write size is not supported.
    #[error("the flash region cannot hold a ring")]
    Geometry,
    /// The flash did not obey. Nothing is known to be lost.
    #[error("the flash failed: {0:?}")]
    Flash(E),
    /// A record is 1 to 512 bytes.
    #[error("a record of {0} bytes")]
    Length(usize),
    /// Every seq has been given.
    #[error("the ring has no names left")]
    Exhausted,
    /// Several sectors in a row did not keep what was written.
    #[error("the flash does not keep what is written")]
    Worn,
}

/// Seqs that are gone because their sector was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overwritten {
    /// First seq.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What became of an appended record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its name.
    pub seq: u32,
    /// What it displaced.
    pub overwritten: Option<Overwritten>,
}

/// A whole frame: seq, place in its sector, length of its content.
type Found = (u32, usize, usize);

/// Where the walk through a sector stands: the frame at `at`, if whole, has a seq ≥ `seq`.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    sector: u32,
    at: usize,
    seq: u32,
}

/// The ring.
#[derive(Debug)]
pub struct Ring<F> {
    flash: F,
    sectors: u32,
    id: u32,
    generation: u32,
    newest: u32,
    /// Where the next frame goes in the newest sector; its size when nothing more may.
    write_at: usize,
    next: u32,
    floor: u32,
    cursor: Cursor,
    /// The last frame, or what is left of it: place and seq. Not yet known to read the same each time.
    doubt: Option<(usize, u32)>,
    /// The sector behind the newest was tried to be erased ahead; whether it was.
    ahead: Option<bool>,
}

impl<F: NorFlash> Ring<F> {
    const SECTOR: usize = F::ERASE_SIZE;
    const ALIGN: usize = {
        let unit = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
        if unit > 4 { unit } else { 4 }
    };
    /// What of a frame is written first.
    const UNIT: usize = FRAME_HEAD.next_multiple_of(Self::ALIGN);

    /// Opens the ring in `flash`, or makes one named `fresh` where there is none. The second value
    /// says whether it was made.
    pub fn open_or_format(flash: F, fresh: u32) -> Result<(Self, bool), RingError<F::Error>> {
        let mut ring = Self::bare(flash)?;
        if ring.mount()? {
            return Ok((ring, false));
        }
        ring.make(fresh)?;
        Ok((ring, true))
    }

    /// Makes a new, empty ring; `id` must be random, and all that is in the region is lost.
    pub fn format(flash: F, id: u32) -> Result<Self, RingError<F::Error>> {
        let mut ring = Self::bare(flash)?;
        if ring.mount()? {
            // An erasure that is cut may leave a header and take the frames behind it. So the
            // sector that goes last has no frames, and its header says which seq comes next.
            ring.turn(ring.next)?;
        }
        ring.make(id)?;
        Ok(ring)
    }

    fn bare(flash: F) -> Result<Self, RingError<F::Error>> {
        let sectors = flash.capacity().checked_div(Self::SECTOR).and_then(|n| u32::try_from(n).ok());
        let sectors = sectors.ok_or(RingError::Geometry)?;
        let fits = Self::SECTOR >= HEADER + 2 * FRAME_MAX.next_multiple_of(Self::ALIGN)
            && u32::try_from(flash.capacity()).is_ok()
            && Self::ALIGN <= ALIGN_MAX
            && HEADER.is_multiple_of(Self::ALIGN)
            && Self::SECTOR.is_multiple_of(Self::ALIGN);
        if sectors < SECTORS_MIN || !fits {
            return Err(RingError::Geometry);
        }
        Ok(Self {
            flash,
            sectors,
            id: 0,
            generation: 0,
            newest: 0,
            write_at: Self::SECTOR,
            next: 0,
            floor: 0,
            cursor: Cursor { sector: 0, at: HEADER, seq: 0 },
            doubt: None,
            ahead: None,
        })
    }

    /// The sector that comes `steps` behind another, round the ring.
    fn behind(&self, sector: u32, steps: u32) -> u32 {
        (sector + steps).checked_rem(self.sectors).unwrap_or(0)
    }

    /// The ring's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The oldest seq that may still be read; [`Ring::next_seq`] when there is none.
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// The seq that the next record gets.
    pub fn next_seq(&self) -> u32 {
        self.next
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// Keeps a record. When this returns, it is in the flash and has been read back.
    pub fn append(&mut self, record: &[u8]) -> Result<Appended, RingError<F::Error>> {
        if record.is_empty() || record.len() > RECORD_BYTES_MAX {
            return Err(RingError::Length(record.len()));
        }
        if self.next == u32::MAX {
            return Err(RingError::Exhausted);
        }
        let settled = self.settle()?;
        let appended = self.keep(record)?;
        Ok(Appended { overwritten: both(settled, appended.overwritten), ..appended })
    }

    #[inline(never)]
    fn keep(&mut self, record: &[u8]) -> Result<Appended, RingError<F::Error>> {
        let mut overwritten = None;
        let mut frame = [0xff; FRAME_MAX];
        let length = seal(&mut frame, self.id, self.next, record).ok_or(RingError::Length(record.len()))?;
        let frame = frame.get(..length.next_multiple_of(Self::ALIGN)).ok_or(RingError::Geometry)?;
        for _ in 0..ATTEMPTS_MAX {
            if self.write_at + frame.len() > Self::SECTOR {
                overwritten = both(overwritten, self.turn(self.next)?);
            }
            if self.put(frame)? {
                let seq = self.next;
                self.next += 1;
                return Ok(Appended { seq, overwritten });
            }
        }
        Err(RingError::Worn)
    }

    /// Writes a frame, its head first: what a torn head says is then true, or nothing else was
    /// touched. Whether it can be read back; if not, nothing more goes into this sector.
    fn put(&mut self, frame: &[u8]) -> Result<bool, RingError<F::Error>> {
        let at = self.address(self.newest, self.write_at);
        let end = self.write_at + frame.len();
        self.write_at = Self::SECTOR;
        let (head, rest) = frame.split_at_checked(Self::UNIT).ok_or(RingError::Geometry)?;
        self.flash.write(at, head).map_err(RingError::Flash)?;
        if !rest.is_empty() {
            self.flash.write(at + Self::UNIT as u32, rest).map_err(RingError::Flash)?;
        }
        let kept = self.reads_back(at, frame)?;
        if kept {
            self.write_at = end;
        }
        Ok(kept)
    }

    /// Makes sure that no seq below `next` is ever given again: somebody already has records by
    /// those names that this ring does not know.
    pub fn advance(&mut self, next: u32) -> Result<Option<Overwritten>, RingError<F::Error>> {
        if next <= self.next {
            return Ok(None);
        }
        let settled = self.settle()?;
        Ok(both(settled, self.turn(next)?))
    }

    /// Erases the next sector when the newest is nearly full; to be called where an erasure is in
    /// nobody's way. Tried once for each sector: what fails here is tried again when it is needed.
    pub fn prepare(&mut self) -> Result<Option<Overwritten>, RingError<F::Error>> {
        if self.ahead.is_some() || Self::SECTOR - self.write_at >= AHEAD {
            return Ok(None);
        }
        let settled = self.settle()?;
        if Self::SECTOR - self.write_at >= AHEAD {
            return Ok(settled);
        }
        let sector = self.behind(self.newest, 1);
        self.ahead = Some(false);
        self.erase(sector)?;
        self.ahead = Some(true);
        let floor = self.floor;
        self.set_floor(self.next, sector)?;
        Ok(both(settled, lost(floor, self.floor)))
    }

    /// The content of a record, in `buffer`; `None` when it was overwritten, never written or can
    /// no longer be read. Reading seqs one after the other is quick; a jump reads every header.
    pub fn read<'b>(
        &mut self,
        seq: u32,
        buffer: &'b mut [u8; RECORD_BYTES_MAX],
    ) -> Result<Option<&'b [u8]>, RingError<F::Error>> {
        if seq < self.floor || seq >= self.next {
            return Ok(None);
        }
        if seq < self.cursor.seq || seq - self.cursor.seq > 64 {
            self.seek(seq)?;
        }
        // Every pass moves on to a later sector, of which there are only so many.
        for _ in 0..=self.sectors {
            let (end, after) = self.end_of(self.cursor.sector)?;
            if seq < end {
                let mut found = self.walk(seq, end, buffer)?;
                // The last one of a sector may have been settled at the beginning of the next.
                if found.is_none()
                    && seq + 1 == end
                    && let Some(after) = after
                {
                    found = self.exactly(after, HEADER, seq, buffer)?;
                }
                return Ok(found.filter(|length| *length > 0).and_then(|length| buffer.get(..length)));
            }
            if self.cursor.sector == self.newest {
                return Ok(None);
            }
            let sector = self.behind(self.cursor.sector, 1);
            self.cursor = Cursor { sector, at: HEADER, seq: end };
        }
        Ok(None)
    }

    /// Walks the cursor's sector up to `seq`, before `end`: the length of its content, which is in
    /// `buffer`; 0 when it is void.
    fn walk(
        &mut self,
        seq: u32,
        end: u32,
        buffer: &mut [u8; RECORD_BYTES_MAX],
    ) -> Result<Option<usize>, RingError<F::Error>> {
        while let Some((found, at, length)) = self.frame(self.cursor, end, buffer)? {
            if found > seq {
                // The frame of `seq` is damaged; the walk resumes at this one.
                self.cursor = Cursor { at, seq: found, ..self.cursor };
                return Ok(None);
            }
            let after = at + (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
            self.cursor = Cursor { at: after, seq: found + 1, ..self.cursor };
            if found == seq {
                let void = self.is_void(self.cursor.sector, after + Self::UNIT, seq)?;
                return Ok(Some(if void { 0 } else { length }));
            }
        }
        Ok(None)
    }

    /// The first whole frame at or behind the cursor with a seq in `cursor.seq..end`: its seq,
    /// place and length; the content is in `buffer`. Damaged stretches are passed over.
    fn frame(
        &mut self,
        cursor: Cursor,
        end: u32,
        buffer: &mut [u8; RECORD_BYTES_MAX],
    ) -> Result<Option<Found>, RingError<F::Error>> {
        let mut at = cursor.at;
        while at + Self::UNIT <= Self::SECTOR {
            if let Some((low, _)) = self.frame_head(cursor.sector, at)?
                && let Some(seq) = cursor.seq.checked_add(u32::from(low.wrapping_sub(cursor.seq as u16)))
                && seq < end
                && let Some(length) = self.exactly(cursor.sector, at, seq, buffer)?
            {
                return Ok(Some((seq, at, length)));
            }
            at += Self::ALIGN;
        }
        Ok(None)
    }

    /// Puts the cursor at the beginning of the sector that holds `seq`.
    fn seek(&mut self, seq: u32) -> Result<(), RingError<F::Error>> {
        let mut best: Option<(Head, u32)> = None;
        for sector in 0..self.sectors {
            if let Some(head) = self.head(sector)?
                && self.is_live(&head)
                && head.first <= seq
                && best.is_none_or(|(b, _)| b.generation < head.generation)
            {
                best = Some((head, sector));
            }
        }
        if let Some((head, sector)) = best {
            self.cursor = Cursor { sector, at: HEADER, seq: head.first };
        }
        Ok(())
    }

    /// The seq behind the last that may be in `sector`, and the sector that begins with it.
    fn end_of(&mut self, sector: u32) -> Result<(u32, Option<u32>), RingError<F::Error>> {
        if sector == self.newest {
            return Ok((self.next, None));
        }
        let generation = self.head(sector)?.filter(|head| self.is_live(head)).map_or(0, |head| head.generation);
        let mut after = self.behind(sector, 1);
        // A damaged header on the way is passed over.
        for _ in 0..self.sectors {
            if let Some(head) = self.head(after)?
                && self.is_live(&head)
                && head.generation > generation
            {
                return Ok((head.first, Some(after)));
            }
            if after == self.newest {
                break;
            }
            after = self.behind(after, 1);
        }
        Ok((self.next, None))
    }

    /// Erases the oldest sector and makes it the newest, for seqs from `first` on.
    fn turn(&mut self, first: u32) -> Result<Option<Overwritten>, RingError<F::Error>> {
        let floor = self.floor;
        // Until a header stands, nothing more may be written.
        self.write_at = Self::SECTOR;
        // A sector that is broken is passed over, but never as far as the newest. Its header may
        // stand although nobody was told: each attempt has a generation of its own.
        let steps = u32::from(ATTEMPTS_MAX).min(self.sectors - 2);
        let mut ready = Err(RingError::Worn);
        let mut sector = self.newest;
        let mut head = Head { ring: self.id, generation: self.generation, first };
        for step in 1..=steps {
            sector = self.behind(self.newest, step);
            head.generation = self.generation.wrapping_add(step);
            match self.begin(sector, &head, step == 1 && self.ahead == Some(true)) {
                Ok(true) => {
                    ready = Ok(());
                    break;
                }
                Ok(false) => {}
                Err(error) => ready = Err(error),
            }
        }
        ready?;
        self.generation = head.generation;
        self.newest = sector;
        self.write_at = HEADER;
        self.next = first;
        self.ahead = None;
        self.set_floor(first, sector)?;
        Ok(lost(floor, self.floor))
    }

    /// Finds the oldest record again; `next` where there is none. `erased` lost its own.
    fn set_floor(&mut self, next: u32, erased: u32) -> Result<(), RingError<F::Error>> {
        self.floor = self.oldest()?.map_or(next, |(head, _)| head.first);
        if self.cursor.seq < self.floor || self.cursor.sector == erased {
            self.seek(self.floor)?;
        }
        Ok(())
    }

    /// Writes a sector's header, after an erasure if it was not erased ahead; whether it stands.
    fn begin(&mut self, sector: u32, head: &Head, erased: bool) -> Result<bool, RingError<F::Error>> {
        if !erased {
            self.erase(sector)?;
        }
        let from = self.address(sector, 0);
        self.ahead = self.ahead.map(|_| false);
        self.flash.write(from, &head.bytes()).map_err(RingError::Flash)?;
        self.reads_back(from, &head.bytes())
    }

    fn erase(&mut self, sector: u32) -> Result<(), RingError<F::Error>> {
        let from = self.address(sector, 0);
        self.flash.erase(from, from + Self::SECTOR as u32).map_err(RingError::Flash)
    }

    /// Whether a sector is of this ring and not one that can no longer be erased: of those in use,
    /// none is further behind than there are sectors.
    fn is_live(&self, head: &Head) -> bool {
        head.ring == self.id && self.generation.wrapping_sub(head.generation) < self.sectors
    }

    fn make(&mut self, id: u32) -> Result<(), RingError<F::Error>> {
        // The newest sector goes last: a ring that is half erased must never give a seq again.
        for step in 1..=self.sectors {
            self.erase(self.behind(self.newest, step))?;
        }
        let head = Head { ring: id, generation: 1, first: 0 };
        self.flash.write(0, &head.bytes()).map_err(RingError::Flash)?;
        self.id = id;
        self.generation = 1;
        self.newest = 0;
        self.write_at = HEADER;
        self.next = 0;
        self.floor = 0;
        self.cursor = Cursor { sector: 0, at: HEADER, seq: 0 };
        (self.doubt, self.ahead) = (None, None);
        Ok(())
    }
}

/// What is gone between two floors.
fn lost(before: u32, after: u32) -> Option<Overwritten> {
    let count = after.saturating_sub(before);
    (count > 0).then_some(Overwritten { first: before, count })
}

/// Two losses, one right behind the other, as one.
fn both(first: Option<Overwritten>, then: Option<Overwritten>) -> Option<Overwritten> {
    match (first, then) {
        (Some(a), Some(b)) => Some(Overwritten { first: a.first, count: a.count.saturating_add(b.count) }),
        (a, b) => a.or(b),
    }
}
