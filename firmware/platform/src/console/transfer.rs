//! An image on its way in, piece by piece (`CONSOLE.md`, "Sending").

use node::config::IMAGE_BYTES_MAX;
use node::envelope::ENVELOPE_BYTES_MAX;
use node::settings::SETTINGS_BYTES_MAX;

use crate::CRC32;
use crate::ask::Image;

/// Characters of a piece.
pub(crate) const PIECE_CHARS_MAX: usize = 96;
/// Bytes of a piece.
pub(crate) const PIECE_BYTES_MAX: usize = PIECE_CHARS_MAX / 4 * 3;

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) image: Image,
    bytes: usize,
    crc: u32,
    come: usize,
}

/// Why what was sent is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Short,
    Crc,
}

const fn image_bytes_max(image: Image) -> usize {
    match image {
        Image::Settings => SETTINGS_BYTES_MAX,
        Image::Config => IMAGE_BYTES_MAX,
    }
}

impl Transfer {
    /// One of so many bytes with this CRC; `None` when that is nothing, or too much.
    pub(crate) fn new(image: Image, bytes: usize, crc: u32) -> Option<Self> {
        let most = ENVELOPE_BYTES_MAX + image_bytes_max(image);
        (1..=most).contains(&bytes).then_some(Self { image, bytes, crc, come: 0 })
    }

    /// Bytes that have come.
    pub(crate) fn come(&self) -> usize {
        self.come
    }

    /// Takes a piece into `buffer`; whether it was one. Otherwise nothing of it counts.
    pub(crate) fn piece(&mut self, text: &str, buffer: &mut [u8]) -> bool {
        if text.len() > PIECE_CHARS_MAX {
            return false;
        }
        let mut bytes = [0; PIECE_BYTES_MAX];
        let Some(count) = decode(text, &mut bytes) else { return false };
        let end = self.come + count;
        // Padding in the middle would be a piece of another transfer.
        if end > self.bytes || text.ends_with('=') && end < self.bytes {
            return false;
        }
        let (Some(from), Some(to)) = (bytes.get(..count), buffer.get_mut(self.come..end)) else { return false };
        to.copy_from_slice(from);
        self.come = end;
        true
    }

    /// Whether what came is what was announced; its length.
    pub(crate) fn end(&self, buffer: &[u8]) -> Result<usize, Unfit> {
        if self.come < self.bytes {
            return Err(Unfit::Short);
        }
        match buffer.get(..self.bytes) {
            Some(bytes) if CRC32.checksum(bytes) == self.crc => Ok(self.bytes),
            _ => Err(Unfit::Crc),
        }
    }
}

/// Base64 with padding (RFC 4648 §4). A crate's engine for every alphabet and for speed is 2.5 KB.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes a piece as text.
pub(crate) fn encode<'t>(bytes: &[u8], text: &'t mut [u8; PIECE_CHARS_MAX]) -> &'t str {
    let mut length = 0;
    for (of, into) in bytes.chunks(3).zip(text.chunks_exact_mut(4)) {
        let word = of.iter().zip([16, 8, 0]).fold(0u32, |word, (byte, at)| word | u32::from(*byte) << at);
        for (n, (place, at)) in into.iter_mut().zip([18, 12, 6, 0]).enumerate() {
            let digit = ALPHABET.get((word >> at & 63) as usize).copied().unwrap_or(b'=');
            *place = if n > of.len() { b'=' } else { digit };
        }
        length += 4;
    }
    text.get(..length).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or_default()
}

/// Reads a piece; its length. `None` when it is not what [`encode`] writes, to the last bit.
fn decode(text: &str, bytes: &mut [u8; PIECE_BYTES_MAX]) -> Option<usize> {
    let digits = text.trim_end_matches('=').as_bytes();
    // What is left of four is one or two, and nothing but the last.
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 || text.len() > PIECE_CHARS_MAX {
        return None;
    }
    let mut length = 0;
    for (of, into) in digits.chunks(4).zip(bytes.chunks_exact_mut(3)) {
        let mut word = 0;
        for (digit, at) in of.iter().zip([18, 12, 6, 0]) {
            word |= (ALPHABET.iter().position(|of| of == digit)? as u32) << at;
        }
        let [_, decoded @ ..] = word.to_be_bytes();
        let (whole, rest) = decoded.split_at_checked(of.len() - 1)?;
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        into.get_mut(..whole.len())?.copy_from_slice(whole);
        length += whole.len();
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn pieces(bytes: &[u8]) -> Vec<String> {
        bytes.chunks(PIECE_BYTES_MAX).map(|piece| encode(piece, &mut [0; PIECE_CHARS_MAX]).into()).collect()
    }

    #[test]
    fn what_is_nothing_or_too_much_is_refused() {
        assert_eq!(Transfer::new(Image::Settings, 0, 0), None);
        assert_eq!(Transfer::new(Image::Settings, SETTINGS_BYTES_MAX + ENVELOPE_BYTES_MAX + 1, 0), None);
        assert_eq!(Transfer::new(Image::Config, IMAGE_BYTES_MAX + ENVELOPE_BYTES_MAX + 1, 0), None);
        assert!(Transfer::new(Image::Config, IMAGE_BYTES_MAX, 0).is_some());
    }

    #[test]
    fn a_piece_that_is_none_does_not_count_and_can_be_sent_again() {
        let bytes = [7u8; 100];
        let mut buffer = [0; 128];
        let mut transfer = Transfer::new(Image::Settings, 100, CRC32.checksum(&bytes)).unwrap();
        let good = pieces(&bytes);
        assert!(transfer.piece(&good[0], &mut buffer));
        for bad in ["AAA", "AAAA*AAA", "AA==", "provision", &"A".repeat(100), &good[0]] {
            assert!(!transfer.piece(bad, &mut buffer), "{bad}");
            assert_eq!(transfer.come(), 72);
        }
        assert_eq!(transfer.end(&buffer), Err(Unfit::Short));
        assert!(transfer.piece(&good[1], &mut buffer));
        assert_eq!(transfer.end(&buffer), Ok(100));
        buffer[50] ^= 1;
        assert_eq!(transfer.end(&buffer), Err(Unfit::Crc));
    }

    #[test]
    fn base64_is_that_of_rfc_4648_and_nothing_beside_it() {
        let vectors =
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("\u{fb}\u{ff}", "w7vDvw==")];
        for (bytes, text) in vectors {
            assert_eq!(encode(bytes.as_bytes(), &mut [0; PIECE_CHARS_MAX]), text);
            let mut read = [0; PIECE_BYTES_MAX];
            assert_eq!(decode(text, &mut read), Some(bytes.len()));
            assert_eq!(&read[..bytes.len()], bytes.as_bytes());
        }
        for text in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 9", "Zm9v\n", "Zm9-"] {
            assert_eq!(decode(text, &mut [0; PIECE_BYTES_MAX]), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_image_comes_through_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 1..3000)) {
            let mut buffer = [0; 3000];
            let mut transfer = Transfer::new(Image::Config, bytes.len(), CRC32.checksum(&bytes)).unwrap();
            for piece in pieces(&bytes) {
                prop_assert!(transfer.piece(&piece, &mut buffer));
            }
            prop_assert_eq!(transfer.end(&buffer), Ok(bytes.len()));
            prop_assert_eq!(&buffer[..bytes.len()], &bytes[..]);
        }
    }
}
