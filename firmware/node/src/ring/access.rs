//! Reading the ring's flash: what cannot be read is told from a flash that does not answer.

use embedded_storage::nor_flash::NorFlash;
use telemetry::limits::RECORD_BYTES_MAX;

use super::layout::{COPIES, FRAME_HEAD, FRAME_MAX, HEADER_COPY, Head, unseal};
use super::{Ring, RingError};
use crate::flash::{self, ALIGN_MAX};

impl<F: NorFlash> Ring<F> {
    /// Reads; `false` when this place cannot be read although the flash answers elsewhere.
    fn load(&mut self, at: u32, place: &mut [u8]) -> Result<bool, RingError<F::Error>> {
        flash::load(&mut self.flash, at, place).map_err(RingError::Flash)
    }

    /// A sector's header, from whichever of its copies is whole.
    pub(super) fn head(&mut self, sector: u32) -> Result<Option<Head>, RingError<F::Error>> {
        let mut bytes = [0; HEADER_COPY];
        for copy in 0..COPIES {
            let at = self.address(sector, copy * HEADER_COPY);
            if self.load(at, &mut bytes)?
                && let Some(head) = Head::parse(&bytes)
            {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// What the head of a frame says of itself, if it may be one: low half of its seq, and length.
    pub(super) fn frame_head(&mut self, sector: u32, at: usize) -> Result<Option<(u16, usize)>, RingError<F::Error>> {
        let mut bytes = [0; ALIGN_MAX];
        let Some([l0, l1, s0, s1, ..]) = self.fetch(sector, at, FRAME_HEAD, &mut bytes)? else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let possible = length <= RECORD_BYTES_MAX && at + FRAME_HEAD + length <= Self::SECTOR;
        Ok(possible.then_some((u16::from_be_bytes([*s0, *s1]), length)))
    }

    /// The frame of `seq` if it begins exactly here: the length of its content, which is in `buffer`.
    pub(super) fn exactly(
        &mut self,
        sector: u32,
        at: usize,
        seq: u32,
        buffer: &mut [u8; RECORD_BYTES_MAX],
    ) -> Result<Option<usize>, RingError<F::Error>> {
        let Some((_, length)) = self.frame_head(sector, at)?.filter(|(low, _)| *low == seq as u16) else {
            return Ok(None);
        };
        let id = self.id;
        let mut bytes = [0; FRAME_MAX];
        let Some(frame) = self.fetch(sector, at, FRAME_HEAD + length, &mut bytes)? else { return Ok(None) };
        let Some(content) = unseal(frame, id, seq) else { return Ok(None) };
        // Read once more, the head may say something else by now.
        let place = buffer.get_mut(..content.len()).ok_or(RingError::Geometry)?;
        place.copy_from_slice(content);
        Ok(Some(content.len()))
    }

    /// Whether a frame here voids the name `seq`.
    pub(super) fn is_void(&mut self, sector: u32, at: usize, seq: u32) -> Result<bool, RingError<F::Error>> {
        let id = self.id;
        let mut bytes = [0; ALIGN_MAX];
        let Some(head) = self.fetch(sector, at, FRAME_HEAD, &mut bytes)? else { return Ok(false) };
        Ok(head.starts_with(&[0, 0]) && unseal(head, id, seq).is_some())
    }

    /// Reads `length` bytes, rounded up to what the flash reads at once; `None` when they are
    /// damaged beyond reading, or would lie beyond the sector's end.
    pub(super) fn fetch<'b>(
        &mut self,
        sector: u32,
        at: usize,
        length: usize,
        bytes: &'b mut [u8],
    ) -> Result<Option<&'b [u8]>, RingError<F::Error>> {
        let room = length.next_multiple_of(Self::ALIGN);
        if at + room > Self::SECTOR {
            return Ok(None);
        }
        let at = self.address(sector, at);
        let place = bytes.get_mut(..room).ok_or(RingError::Geometry)?;
        Ok(if self.load(at, place)? { place.get(..length) } else { None })
    }

    /// Whether these bytes are in the flash.
    pub(super) fn reads_back(&mut self, at: u32, written: &[u8]) -> Result<bool, RingError<F::Error>> {
        flash::reads_back(&mut self.flash, at, written).map_err(RingError::Flash)
    }

    pub(super) fn address(&self, sector: u32, at: usize) -> u32 {
        // Both fit: the region's capacity was checked against u32 when it was opened.
        sector * Self::SECTOR as u32 + at as u32
    }
}
