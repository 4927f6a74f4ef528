//! Opening a ring: what the flash holds, and what of it was under way when power failed.

use embedded_storage::nor_flash::NorFlash;
use telemetry::limits::RECORD_BYTES_MAX;

use super::layout::{FRAME_HEAD, FRAME_MAX, HEADER, Head, seal, unseal};
use super::{Cursor, Overwritten, Ring, RingError};
use crate::flash::{self, ALIGN_MAX, BLANK_READS};

/// Times that the last frame is read before it counts as torn.
const TAIL_READS: usize = 3;
/// Bytes looked at at once for being blank: whole units of any flash.
const CHUNK: usize = 4 * ALIGN_MAX;

/// Behind the last whole frame of a sector, and place and seq of that.
type Measured = (Cursor, Option<(usize, u32)>);

impl<F: NorFlash> Ring<F> {
    /// Finds the ring; whether there is one.
    pub(super) fn mount(&mut self) -> Result<bool, RingError<F::Error>> {
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
        let (end, last) = self.measure(Cursor { sector, at: HEADER, seq: head.first })?;
        // Bits behind the last whole frame: torn and never confirmed, or whole once and delivered.
        // Which cannot be told, so their name is passed over.
        let (write_at, torn) = self.resume(sector, end.at)?;
        let next = if torn { end.seq.saturating_add(1) } else { end.seq };
        // Where there is no whole frame, the header may be what was torn.
        self.write_at = if last.is_none() { Self::SECTOR } else { write_at };
        self.doubt = if torn { Some((end.at, end.seq)) } else { last };
        // A header that has rotted since hides a newer sector; its names must not be given again.
        let after = self.behind(sector, 1);
        let hidden = Cursor { sector: after, at: HEADER, seq: next };
        self.next = match self.head(after)? {
            None => match self.measure(hidden)? {
                (_, None) => next,
                (beyond, Some(_)) => beyond.seq.saturating_add(1),
            },
            Some(_) => next,
        };
        if self.next != next {
            // Frames of this sector end where the hidden one began.
            self.write_at = Self::SECTOR;
            self.doubt = None;
        }
        self.ahead = None;
        let oldest = self.oldest()?;
        self.floor = oldest.map_or(self.next, |(head, _)| head.first);
        self.cursor = Cursor { sector: oldest.map_or(sector, |(_, sector)| sector), at: HEADER, seq: self.floor };
        Ok(true)
    }

    fn has_frames(&mut self, sector: u32, first: u32) -> Result<bool, RingError<F::Error>> {
        Ok(self.measure(Cursor { sector, at: HEADER, seq: first })?.1.is_some())
    }

    /// Walks a sector to its end: behind its last whole frame, and place and seq of that.
    fn measure(&mut self, mut cursor: Cursor) -> Result<Measured, RingError<F::Error>> {
        let mut buffer = [0; RECORD_BYTES_MAX];
        // No more frames fit in a sector; a seq far from its place is no frame of it.
        let most = u32::try_from(Self::SECTOR / FRAME_HEAD).unwrap_or(u32::MAX);
        let end = cursor.seq.saturating_add(most);
        let mut last = None;
        while let Some((seq, at, length)) = self.frame(cursor, end, &mut buffer)? {
            last = Some((at, seq));
            cursor.at = at + (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
            cursor.seq = seq.saturating_add(1);
            // It may have been settled, at each opening: then it is there once more.
            while let Some(length) = self.exactly(cursor.sector, cursor.at + Self::UNIT, seq, &mut buffer)? {
                last = Some((cursor.at + Self::UNIT, seq));
                cursor.at += Self::UNIT + (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
            }
        }
        Ok((cursor, last))
    }

    /// Where to go on in a sector whose last whole frame ends at `end`, and whether something torn
    /// is behind it.
    fn resume(&mut self, sector: u32, end: usize) -> Result<(usize, bool), RingError<F::Error>> {
        let blank = self.blank_from(sector, end)?;
        if blank == end {
            return Ok(((end + Self::UNIT).min(Self::SECTOR), false));
        }
        // A head that makes no sense was torn itself, and nothing behind it was touched.
        let length = self.frame_head(sector, end)?.map_or(0, |(_, length)| length);
        let torn = (FRAME_HEAD + length).next_multiple_of(Self::ALIGN);
        // More than one thing torn: it is not worth finding out.
        let room = if blank > end + torn { Self::SECTOR } else { end + torn + Self::UNIT };
        Ok((room.min(Self::SECTOR), true))
    }

    /// The first aligned place from `from` on behind which every bit is set.
    fn blank_from(&mut self, sector: u32, from: usize) -> Result<usize, RingError<F::Error>> {
        let mut blank = from;
        let mut at = from;
        while at < Self::SECTOR {
            let length = CHUNK.min(Self::SECTOR - at);
            let reads = if at < from + FRAME_MAX + CHUNK { BLANK_READS } else { 1 };
            if !self.is_blank(sector, at, length, reads)? {
                for unit in (at..at + length).step_by(Self::ALIGN) {
                    if !self.is_blank(sector, unit, Self::ALIGN, reads)? {
                        blank = unit + Self::ALIGN;
                    }
                }
            }
            at += length;
        }
        Ok(blank)
    }

    fn is_blank(&mut self, sector: u32, at: usize, length: usize, reads: usize) -> Result<bool, RingError<F::Error>> {
        let at = self.address(sector, at);
        flash::is_blank(&mut self.flash, at, length, reads).map_err(RingError::Flash)
    }

    /// The length of the newest sector's frame at `at`, if it is whole: it is in `frame` as it was written.
    fn whole(
        &mut self,
        at: usize,
        seq: u32,
        frame: &mut [u8; FRAME_MAX],
    ) -> Result<Option<usize>, RingError<F::Error>> {
        let (id, sector) = (self.id, self.newest);
        let Some((_, length)) = self.frame_head(sector, at)? else { return Ok(None) };
        let sealed = self.fetch(sector, at, FRAME_HEAD + length, frame)?;
        Ok(sealed.filter(|sealed| unseal(sealed, id, seq).is_some()).map(<[u8]>::len))
    }

    /// Makes the last record read the same for ever, whether it was whole when power failed or not.
    #[inline(never)]
    pub(super) fn settle(&mut self) -> Result<Option<Overwritten>, RingError<F::Error>> {
        let Some((at, seq)) = self.doubt else { return Ok(None) };
        let mut frame = [0xff; FRAME_MAX];
        let mut length = None;
        for _ in 0..TAIL_READS {
            length = self.whole(at, seq, &mut frame)?;
            if length.is_some() {
                break;
            }
        }
        let whole = length.is_some();
        let length = match length {
            Some(length) => length,
            None => {
                frame.fill(0xff);
                seal(&mut frame, self.id, seq, &[]).ok_or(RingError::Geometry)?
            }
        };
        let frame = frame.get(..length.next_multiple_of(Self::ALIGN)).ok_or(RingError::Geometry)?;
        if self.write_at + frame.len() <= Self::SECTOR && self.put(frame)? {
            self.doubt = None;
            return Ok(None);
        }
        let next = self.next;
        // What is void must not be found before the next sector, and needs no frame in it.
        let overwritten = self.turn(if whole { next } else { seq })?;
        self.next = next;
        self.doubt = None;
        // If this is not kept, the record is what it was: as good as it reads.
        let _kept = !whole || self.put(frame)?;
        Ok(overwritten)
    }

    pub(super) fn oldest(&mut self) -> Result<Option<(Head, u32)>, RingError<F::Error>> {
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
}
