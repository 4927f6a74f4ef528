//! What an image travels in where nothing else vouches for it: a serial line, a file. It names the
//! board that the image was checked against, and a check sum covers all of it.
//!
//! `"TYI"`, version, board's length and name (≤ 16 bytes), the image's length (4 bytes, big end
//! first), CRC-32C of everything before and of the image, the image.

use telemetry::report::Digest;

/// Version that is written.
pub const ENVELOPE_VERSION: u8 = 1;
/// Bytes of a board's name at most.
pub const BOARD_BYTES_MAX: usize = 16;
/// Bytes around an image at most.
pub const ENVELOPE_BYTES_MAX: usize = 5 + BOARD_BYTES_MAX + 8;

/// What an envelope begins with; no image does.
pub const MAGIC: [u8; 3] = *b"TYI";

/// Why an envelope is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It does not begin as one.
    #[error("this is no image for a node")]
    Shape,
    /// It was made by a newer program.
    #[error("the image's envelope is of version {0}, which is newer than this program")]
    Newer(u8),
    /// It ends too early.
    #[error("the image is cut: {found} of {expected} bytes")]
    Cut {
        /// Bytes that are there.
        found: usize,
        /// Bytes that it says it has.
        expected: usize,
    },
    /// Bytes were changed on the way.
    #[error("the image's check sum is wrong")]
    CheckSum,
    /// It was made for another board.
    #[error("the image is for another board")]
    OtherBoard,
}

/// Puts an image for `board` into its envelope, in `buffer`; the length. `None` when it does not
/// fit, or the board's name is too long.
pub fn seal(board: &str, image: &[u8], buffer: &mut [u8]) -> Option<usize> {
    if board.len() > BOARD_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(image.len()).ok()?.to_be_bytes();
    let head: [&[u8]; 4] = [&MAGIC, &[ENVELOPE_VERSION, board.len() as u8], board.as_bytes(), &length];
    let mut sum = Digest::default();
    head.iter().chain([&image]).for_each(|part| sum.update(part));
    let sum = sum.finalize().to_be_bytes();
    let mut at = 0;
    for part in head.into_iter().chain([&sum[..], image]) {
        buffer.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    Some(at)
}

/// The image in an envelope for `board`. Total on any bytes.
///
/// # Errors
/// When it is none, newer, cut, changed, or for another board.
pub fn open<'b>(bytes: &'b [u8], board: &str) -> Result<&'b [u8], EnvelopeError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(EnvelopeError::Shape)?;
    let cut = |expected| EnvelopeError::Cut { found: bytes.len(), expected };
    let (version, rest) = rest.split_first().ok_or(cut(MAGIC.len() + 2))?;
    if *version != ENVELOPE_VERSION {
        return Err(if *version > ENVELOPE_VERSION { EnvelopeError::Newer(*version) } else { EnvelopeError::Shape });
    }
    let (named, rest) = rest.split_first().ok_or(cut(MAGIC.len() + 2))?;
    let named = usize::from(*named);
    if named > BOARD_BYTES_MAX {
        return Err(EnvelopeError::Shape);
    }
    let head = MAGIC.len() + 2 + named;
    let (name, rest) = rest.split_at_checked(named).ok_or(cut(head + 8))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(cut(head + 8))?;
    let (sum, image) = rest.split_first_chunk::<4>().ok_or(cut(head + 8))?;
    let length = u32::from_be_bytes(*length) as usize;
    if image.len() != length {
        let expected = (head + 8).saturating_add(length);
        return Err(if image.len() < length { cut(expected) } else { EnvelopeError::Shape });
    }
    let mut digest = Digest::default();
    digest.update(bytes.get(..head + 4).unwrap_or_default());
    digest.update(image);
    if digest.finalize() != u32::from_be_bytes(*sum) {
        return Err(EnvelopeError::CheckSum);
    }
    if name != board.as_bytes() {
        return Err(EnvelopeError::OtherBoard);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn sealed(board: &str, image: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; image.len() + ENVELOPE_BYTES_MAX];
        let length = seal(board, image, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn it_gives_back_what_was_put_in_and_no_damage_to_it_passes() {
        let image: Vec<u8> = (0..200).collect();
        let bytes = sealed("pico-w", &image);
        assert_eq!(open(&bytes, "pico-w"), Ok(&image[..]));
        assert_eq!(open(&bytes, "pico-2-w"), Err(EnvelopeError::OtherBoard));
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end], "pico-w").is_err(), "{end}");
        }
        assert!(matches!(open(&bytes[..100], "pico-w"), Err(EnvelopeError::Cut { found: 100, .. })));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bytes, "pico-w").is_err(), "{bit}");
        }
        let mut newer = bytes.clone();
        newer[3] = 2;
        assert_eq!(open(&newer, "pico-w"), Err(EnvelopeError::Newer(2)));
        let mut changed = bytes;
        changed[100] ^= 1;
        assert_eq!(open(&changed, "pico-w"), Err(EnvelopeError::CheckSum));
        assert_eq!(seal("a board with a long name", &image, &mut [0; 300]), None);
        assert_eq!(seal("pico-w", &image, &mut [0; 200]), None);
    }
}
