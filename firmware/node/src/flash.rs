//! What every store in flash needs: damage told from a flash that does not answer, and blank from
//! what only looks so.

use embedded_storage::nor_flash::NorFlash;

/// Largest unit of any flash in use, in bytes (STM32H7 writes 32).
pub(crate) const ALIGN_MAX: usize = 32;
/// Reads of a place before it counts as unreadable.
const TRIES_MAX: u8 = 3;
/// Bytes looked at at once: whole units of any flash.
const CHUNK: usize = 4 * ALIGN_MAX;
/// Times that bits which a cut may have touched have to look blank: one that is neither is then
/// overlooked once in 256 times.
pub(crate) const BLANK_READS: usize = 8;

/// Reads; `false` when this place cannot be read although the flash answers elsewhere.
pub(crate) fn load<F: NorFlash>(flash: &mut F, at: u32, place: &mut [u8]) -> Result<bool, F::Error> {
    let Err(mut error) = flash.read(at, place) else { return Ok(true) };
    for _ in 1..TRIES_MAX {
        match flash.read(at, place) {
            Ok(()) => return Ok(true),
            Err(again) => error = again,
        }
    }
    // The beginning of one sector that can be read, whatever it holds, and the flash is there.
    let mut bytes = [0; ALIGN_MAX];
    for sector in (0..flash.capacity()).step_by(F::ERASE_SIZE) {
        for unit in [sector, sector + ALIGN_MAX] {
            if flash.read(unit as u32, &mut bytes).is_ok() {
                return Ok(false);
            }
        }
    }
    Err(error)
}

/// Whether these bytes are in the flash.
pub(crate) fn reads_back<F: NorFlash>(flash: &mut F, at: u32, written: &[u8]) -> Result<bool, F::Error> {
    // What was written is on the stack already.
    let mut bytes = [0; CHUNK];
    let mut at = at;
    for part in written.chunks(CHUNK) {
        let Some(place) = bytes.get_mut(..part.len()) else { return Ok(false) };
        if !load(flash, at, place)? || place != part {
            return Ok(false);
        }
        at += part.len() as u32;
    }
    Ok(true)
}

/// Whether every bit is set, each of so many times.
pub(crate) fn is_blank<F: NorFlash>(flash: &mut F, at: u32, length: usize, reads: usize) -> Result<bool, F::Error> {
    let mut bytes = [0; CHUNK];
    let mut done = 0;
    while done < length {
        let part = CHUNK.min(length - done);
        let Some(place) = bytes.get_mut(..part) else { return Ok(false) };
        for _ in 0..reads {
            if !load(flash, at + done as u32, place)? || place.iter().any(|byte| *byte != 0xff) {
                return Ok(false);
            }
        }
        done += part;
    }
    Ok(true)
}
