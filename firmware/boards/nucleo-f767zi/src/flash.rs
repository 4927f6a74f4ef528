//! The flash, whose sectors are of three sizes, as the platform wants it: in units of one size.
//!
//! `SECTORS` (made of board.toml) says where each unit is and how much of it is there; what lies behind
//! that is out of bounds. Words are programmed one by one, as the part can (RM0410 §3.3.6); the HAL
//! would have 16 bytes at once.

use embassy_stm32::flash::{Blocking, Error};
use embassy_stm32::pac;
use embassy_time::{Duration, Instant};
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};

use crate::{FLASH_BYTES, SECTOR_BYTES, SECTORS};

/// Where the flash is (RM0410 §2.2.2).
const BASE: u32 = 0x0800_0000;
/// Bytes that the processor programs at once, at 2.7 V and more (RM0410 table 7).
const WORD: usize = 4;
/// A word takes 100 µs at most (DS11532 §6.3.13).
const WORD_WITHIN: Duration = Duration::from_millis(10);

/// The flash.
pub(crate) struct Flash(embassy_stm32::flash::Flash<'static, Blocking>);

/// Whether the flash has two banks, as this program needs: bank 2 is written while the program runs in
/// bank 1.
pub(crate) fn has_two_banks() -> bool {
    !pac::FLASH.optcr().read().n_dbank()
}

impl Flash {
    pub(crate) fn new(flash: embassy_stm32::flash::Flash<'static, Blocking>) -> Self {
        Self(flash)
    }
}

/// Where `bytes` at this place of the map are in the flash.
fn place(offset: u32, bytes: usize) -> Result<u32, Error> {
    let unit = SECTOR_BYTES as u32;
    let (begins, size) = *SECTORS.get((offset / unit) as usize).ok_or(Error::Size)?;
    let within = offset % unit;
    let end = u32::try_from(bytes).ok().and_then(|bytes| within.checked_add(bytes)).ok_or(Error::Size)?;
    if end > size { Err(Error::Size) } else { Ok(begins + within) }
}

/// Programs one word; only bits that are set can be cleared.
fn program(address: u32, word: u32) -> Result<(), Error> {
    // SAFETY: `place` has found the address within the flash, and it is a multiple of four.
    unsafe { core::ptr::write_volatile(address as *mut u32, word) };
    cortex_m::asm::dsb();
    let until = Instant::now() + WORD_WITHIN;
    loop {
        let status = pac::FLASH.sr().read();
        if !status.bsy() {
            break match (status.wrperr(), status.pgaerr() || status.pgperr() || status.erserr()) {
                (true, _) => Err(Error::Protected),
                (_, true) => Err(Error::Seq),
                _ => Ok(()),
            };
        }
        if Instant::now() > until {
            break Err(Error::Prog);
        }
    }
}

impl ErrorType for Flash {
    type Error = Error;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        // What is asked for may lie in several units.
        let unit = SECTOR_BYTES as u32;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let count = rest.len().min((unit - at % unit) as usize);
            let (part, behind) = rest.split_at_mut(count);
            self.0.blocking_read(place(at, count)?, part)?;
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
    const ERASE_SIZE: usize = SECTOR_BYTES;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let unit = SECTOR_BYTES as u32;
        if !from.is_multiple_of(unit) || !to.is_multiple_of(unit) {
            return Err(Error::Unaligned);
        }
        for at in (from..to).step_by(SECTOR_BYTES) {
            let (begins, size) = *SECTORS.get((at / unit) as usize).ok_or(Error::Size)?;
            self.0.blocking_erase(begins, begins + size)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        if !offset.is_multiple_of(WORD as u32) || !bytes.len().is_multiple_of(WORD) {
            return Err(Error::Unaligned);
        }
        let at = place(offset, bytes.len())?;
        // The keys of RM0410 §3.3.5.
        pac::FLASH.keyr().write_value(0x4567_0123);
        pac::FLASH.keyr().write_value(0xcdef_89ab);
        // Flags are cleared by writing what is read.
        pac::FLASH.sr().modify(|_| ());
        pac::FLASH.cr().write(|w| {
            w.set_pg(true);
            w.set_psize(pac::flash::vals::Psize::PSIZE32);
        });
        let words = bytes.chunks_exact(WORD).filter_map(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let result = (0..).zip(words).try_for_each(|(n, word)| program(BASE + at + 4 * n, word));
        pac::FLASH.cr().write(|w| w.set_lock(true));
        result
    }
}
