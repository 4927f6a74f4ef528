//! The flash ring: records of opaque bytes, each named once by its seq and kept through any cut
//! of power, over any [`NorFlash`].
//!
//! It owns the layout of its flash region and nothing else: what a record means, who has received
//! it and when it is sent are not its business. A record is overwritten only because the ring is
//! full, the oldest sector first, never because somebody has it already.
//!
//! A sector begins with a header (ring, generation, first seq, check sum); frames follow, each
//! with a check sum over ring, seq and content. A frame torn by a cut does not check out; the
//! next begins behind it. No word is written twice between erasures, and opening writes nothing,
//! so a cut while opening is no event at all.

mod layout;

use embedded_storage::nor_flash::NorFlash;
use telemetry::limits::RECORD_BYTES_MAX;

use self::layout::{ALIGN_MAX, FRAME_HEAD, FRAME_MAX, HEADER, Head, seal, unseal};

/// Fewest sectors: one being erased, one being written, one to read.
const SECTORS_MIN: u32 = 3;
/// Bytes read back at once: whole units of any flash, see [`ALIGN_MAX`].
const READ_BACK: usize = 4 * ALIGN_MAX;
/// Sectors tried for one record before the flash is called worn out.
const ATTEMPTS_MAX: u8 = 3;

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
}

impl<F: NorFlash> Ring<F> {
    const SECTOR: usize = F::ERASE_SIZE;
    const ALIGN: usize = {
        let unit = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
        if unit > 4 { unit } else { 4 }
    };

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
        let mut frame = [0xff; FRAME_MAX];
        let length = seal(&mut frame, self.id, self.next, record).ok_or(RingError::Length(record.len()))?;
        let length = length.next_multiple_of(Self::ALIGN);
        let frame = frame.get(..length).ok_or(RingError::Geometry)?;
        let mut overwritten: Option<Overwritten> = None;
        for _ in 0..ATTEMPTS_MAX {
            if self.write_at + length > Self::SECTOR
                && let Some(lost) = self.turn(self.next)?
            {
                let first = overwritten.map_or(lost.first, |before| before.first);
                overwritten =
                    Some(Overwritten { first, count: lost.first.wrapping_add(lost.count).wrapping_sub(first) });
            }
            let at = self.address(self.newest, self.write_at);
            if let Err(error) = self.flash.write(at, frame) {
                // What the words hold now is unknown: nothing more goes into this sector.
                self.write_at = Self::SECTOR;
                return Err(RingError::Flash(error));
            }
            if self.reads_back(at, frame)? {
                self.write_at += length;
                let seq = self.next;
                self.next += 1;
                return Ok(Appended { seq, overwritten });
            }
            self.write_at = Self::SECTOR;
        }
        Err(RingError::Worn)
    }

    /// Makes sure that no seq below `next` is ever given again: somebody already has records by
    /// those names that this ring does not know.
    pub fn advance(&mut self, next: u32) -> Result<Option<Overwritten>, RingError<F::Error>> {
        if next <= self.next {
            return Ok(None);
        }
        self.turn(next)
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
            let end = self.end_of(self.cursor.sector)?;
            if seq < end {
                return self.walk(seq, end, buffer);
            }
            if self.cursor.sector == self.newest {
                return Ok(None);
            }
            let sector = self.behind(self.cursor.sector, 1);
            self.cursor = Cursor { sector, at: HEADER, seq: end };
        }
        Ok(None)
    }

    /// Walks the cursor's sector up to `seq`, before `end`.
    fn walk<'b>(
        &mut self,
        seq: u32,
        end: u32,
        buffer: &'b mut [u8; RECORD_BYTES_MAX],
    ) -> Result<Option<&'b [u8]>, RingError<F::Error>> {
        while let Some((found, at, length)) = self.frame(self.cursor, end, buffer)? {
            if found > seq {
                // The frame of `seq` is damaged; the walk resumes at this one.
                self.cursor = Cursor { at, seq: found, ..self.cursor };
                return Ok(None);
            }
            let after = at + (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
            self.cursor = Cursor { at: after, seq: found + 1, ..self.cursor };
            if found == seq {
                return Ok(buffer.get(..length));
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
        let mut bytes = [0; FRAME_MAX];
        while at + FRAME_HEAD.next_multiple_of(Self::ALIGN) <= Self::SECTOR {
            let head = self.fetch(cursor.sector, at, FRAME_HEAD, &mut bytes)?;
            let [l0, l1, s0, s1, ..] = *head else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let low = u16::from_be_bytes([s0, s1]);
            let seq = cursor.seq.checked_add(u32::from(low.wrapping_sub(cursor.seq as u16)));
            let whole = (1..=RECORD_BYTES_MAX).contains(&length) && at + FRAME_HEAD + length <= Self::SECTOR;
            if let Some(seq) = seq.filter(|seq| whole && *seq < end) {
                let frame = self.fetch(cursor.sector, at, FRAME_HEAD + length, &mut bytes)?;
                if let Some(content) = unseal(frame, self.id, seq)
                    && let Some(place) = buffer.get_mut(..length)
                {
                    place.copy_from_slice(content);
                    return Ok(Some((seq, at, length)));
                }
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

    /// The seq behind the last that may be in `sector`.
    fn end_of(&mut self, sector: u32) -> Result<u32, RingError<F::Error>> {
        if sector == self.newest {
            return Ok(self.next);
        }
        let generation = self.head(sector)?.filter(|head| self.is_live(head)).map_or(0, |head| head.generation);
        let mut after = self.behind(sector, 1);
        // A damaged header on the way is passed over.
        for _ in 0..self.sectors {
            if let Some(head) = self.head(after)?
                && self.is_live(&head)
                && head.generation > generation
            {
                return Ok(head.first);
            }
            if after == self.newest {
                break;
            }
            after = self.behind(after, 1);
        }
        Ok(self.next)
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
            match self.prepare(sector, &head) {
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
        self.floor = self.oldest()?.map_or(first, |(head, _)| head.first);
        if self.cursor.seq < self.floor || self.cursor.sector == sector {
            self.seek(self.floor)?;
        }
        let count = self.floor.saturating_sub(floor);
        Ok((count > 0).then_some(Overwritten { first: floor, count }))
    }

    /// Erases a sector and writes its header; whether it stands.
    fn prepare(&mut self, sector: u32, head: &Head) -> Result<bool, RingError<F::Error>> {
        let from = self.address(sector, 0);
        self.flash.erase(from, from + self.size()).map_err(RingError::Flash)?;
        self.flash.write(from, &head.bytes()).map_err(RingError::Flash)?;
        Ok(self.head(sector)? == Some(*head))
    }

    /// Whether a sector is of this ring and not one that can no longer be erased: of those in use,
    /// none is further behind than there are sectors.
    fn is_live(&self, head: &Head) -> bool {
        head.ring == self.id && self.generation.wrapping_sub(head.generation) < self.sectors
    }

    fn make(&mut self, id: u32) -> Result<(), RingError<F::Error>> {
        // The newest sector goes last: a ring that is half erased must never give a seq again.
        for step in 1..=self.sectors {
            let from = self.address(self.behind(self.newest, step), 0);
            self.flash.erase(from, from + self.size()).map_err(RingError::Flash)?;
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
        Ok(())
    }

    /// Finds the ring; whether there is one.
    fn mount(&mut self) -> Result<bool, RingError<F::Error>> {
        let mut newest: Option<(Head, u32)> = None;
        for sector in 0..self.sectors {
            let Some(head) = self.head(sector)? else { continue };
            let newer = match newest {
                None => true,
                // Seqs decide, and not generations alone: a sector that was made, and given up
                // because nobody was told, may stand beside the one that was made in its place.
                // Only one of these has records.
                Some((best, at)) if best.first == head.first => {
                    match (self.has_frames(at, best.first)?, self.has_frames(sector, head.first)?) {
                        (false, true) => true,
                        (true, false) => false,
                        _ => best.generation < head.generation,
                    }
                }
                Some((best, _)) => best.first < head.first,
            };
            if newer {
                newest = Some((head, sector));
            }
        }
        let Some((head, sector)) = newest else { return Ok(false) };
        self.id = head.ring;
        self.generation = head.generation;
        self.newest = sector;
        let (end, _) = self.measure(Cursor { sector, at: HEADER, seq: head.first })?;
        // A frame may end in set bits: what looks blank within it is not.
        self.write_at = self.blank_from(sector)?.max(end.at);
        // Bits behind the last whole frame: torn and never confirmed, or whole once and delivered.
        // Which cannot be told, so their name is passed over.
        let torn = self.write_at > end.at;
        let next = if torn { end.seq.saturating_add(1) } else { end.seq };
        // A header that has rotted since hides a newer sector; its names must not be given again.
        let after = self.behind(sector, 1);
        let hidden = Cursor { sector: after, at: HEADER, seq: next };
        self.next = match self.head(after)? {
            None => match self.measure(hidden)? {
                (_, false) => next,
                (beyond, true) => beyond.seq.saturating_add(1),
            },
            Some(_) => next,
        };
        if self.next != next {
            // Frames of this sector end where the hidden one began.
            self.write_at = Self::SECTOR;
        }
        let oldest = self.oldest()?;
        self.floor = oldest.map_or(self.next, |(head, _)| head.first);
        self.cursor = Cursor { sector: oldest.map_or(sector, |(_, sector)| sector), at: HEADER, seq: self.floor };
        Ok(true)
    }

    fn has_frames(&mut self, sector: u32, first: u32) -> Result<bool, RingError<F::Error>> {
        Ok(self.measure(Cursor { sector, at: HEADER, seq: first })?.1)
    }

    /// Walks a sector to its end: behind its last whole frame, and whether it has any.
    fn measure(&mut self, mut cursor: Cursor) -> Result<(Cursor, bool), RingError<F::Error>> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        // No more frames fit in a sector; a seq far from its place is no frame of it.
        let most = u32::try_from(Self::SECTOR / FRAME_HEAD).unwrap_or(u32::MAX);
        let end = cursor.seq.saturating_add(most);
        let mut any = false;
        while let Some((seq, at, length)) = self.frame(cursor, end, &mut buffer)? {
            any = true;
            cursor.at = at + (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
            cursor.seq = seq.saturating_add(1);
        }
        Ok((cursor, any))
    }

    /// The first aligned place of a sector behind which every bit is set.
    fn blank_from(&mut self, sector: u32) -> Result<usize, RingError<F::Error>> {
        let mut blank = HEADER;
        let mut at = HEADER;
        let mut bytes = [0; ALIGN_MAX];
        while at < Self::SECTOR {
            let unit = self.fetch(sector, at, Self::ALIGN, &mut bytes)?;
            at += Self::ALIGN;
            if unit.iter().any(|byte| *byte != 0xff) {
                blank = at;
            }
        }
        Ok(blank)
    }

    fn oldest(&mut self) -> Result<Option<(Head, u32)>, RingError<F::Error>> {
        let mut oldest: Option<(Head, u32)> = None;
        for sector in 0..self.sectors {
            if let Some(head) = self.head(sector)?
                && self.is_live(&head)
                && oldest.is_none_or(|(best, _)| best.generation > head.generation)
            {
                oldest = Some((head, sector));
            }
        }
        Ok(oldest)
    }

    fn head(&mut self, sector: u32) -> Result<Option<Head>, RingError<F::Error>> {
        let mut bytes = [0; HEADER];
        let at = self.address(sector, 0);
        self.flash.read(at, &mut bytes).map_err(RingError::Flash)?;
        Ok(Head::parse(&bytes))
    }

    /// Reads `length` bytes, rounded up to what the flash reads at once.
    fn fetch<'b>(
        &mut self,
        sector: u32,
        at: usize,
        length: usize,
        bytes: &'b mut [u8],
    ) -> Result<&'b [u8], RingError<F::Error>> {
        let room = length.next_multiple_of(Self::ALIGN).min(Self::SECTOR.saturating_sub(at));
        let at = self.address(sector, at);
        let place = bytes.get_mut(..room).ok_or(RingError::Geometry)?;
        self.flash.read(at, place).map_err(RingError::Flash)?;
        place.get(..length).ok_or(RingError::Geometry)
    }

    fn reads_back(&mut self, at: u32, frame: &[u8]) -> Result<bool, RingError<F::Error>> {
        // A whole frame is on the stack already.
        let mut bytes = [0; READ_BACK];
        let mut at = at;
        for part in frame.chunks(READ_BACK) {
            let place = bytes.get_mut(..part.len()).ok_or(RingError::Geometry)?;
            self.flash.read(at, place).map_err(RingError::Flash)?;
            if place != part {
                return Ok(false);
            }
            at += part.len() as u32;
        }
        Ok(true)
    }

    fn address(&self, sector: u32, at: usize) -> u32 {
        // Both fit: the region's capacity was checked against u32 when it was opened.
        sector * self.size() + at as u32
    }

    fn size(&self) -> u32 {
        Self::SECTOR as u32
    }
}
