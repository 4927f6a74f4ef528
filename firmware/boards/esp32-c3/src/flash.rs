//! The flash, by way of a small buffer: the HAL takes 4 KiB of stack for bytes that do not lie on a word,
//! and reads whole words only.

use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use esp_storage::{FlashStorage, FlashStorageError};

use crate::FLASH_BYTES;

/// Bytes that the flash moves at once.
const WORD: usize = 4;
/// Bytes of the buffer.
const BUFFER_BYTES: usize = 256;

/// It lies on a word.
#[repr(align(4))]
struct Buffer([u8; BUFFER_BYTES]);

/// The flash.
pub(crate) struct Flash(FlashStorage<'static>);

/// Why the flash did not do it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Error(FlashStorageError);

impl NorFlashError for Error {
    fn kind(&self) -> NorFlashErrorKind {
        match self.0 {
            FlashStorageError::NotAligned => NorFlashErrorKind::NotAligned,
            FlashStorageError::OutOfBounds => NorFlashErrorKind::OutOfBounds,
            _ => NorFlashErrorKind::Other,
        }
    }
}

impl Flash {
    pub(crate) fn new(flash: FlashStorage<'static>) -> Self {
        Self(flash)
    }
}

impl ErrorType for Flash {
    type Error = Error;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        let mut buffer = Buffer([0; BUFFER_BYTES]);
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let ahead = at as usize % WORD;
            let count = rest.len().min(BUFFER_BYTES - ahead);
            let (part, behind) = rest.split_at_mut(count);
            let whole = buffer.0.get_mut(..(ahead + count).next_multiple_of(WORD)).unwrap_or_default();
            self.0.read_nor(at - ahead as u32, whole).map_err(Error)?;
            part.iter_mut().zip(whole.iter().skip(ahead)).for_each(|(place, byte)| *place = *byte);
            (at, rest) = (at + count as u32, behind);
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH_BYTES
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = FlashStorage::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        self.0.erase(from, to).map_err(Error)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let mut buffer = Buffer([0; BUFFER_BYTES]);
        let mut at = offset;
        for part in bytes.chunks(BUFFER_BYTES) {
            let place = buffer.0.get_mut(..part.len()).unwrap_or_default();
            place.copy_from_slice(part);
            self.0.write_nor(at, place).map_err(Error)?;
            at += part.len() as u32;
        }
        Ok(())
    }
}
