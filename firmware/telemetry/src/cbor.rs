//! What the encoders and decoders here share: one error each, and arrays that may grow.

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::Encoder;
use minicbor::encode::write::Cursor;

/// The message does not fit in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit in {capacity} bytes")]
pub struct TooLong {
    /// Bytes there were.
    pub capacity: usize,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the CBOR, or not the shape, that the schema says.
    #[error("the bytes are not what the schema says")]
    Shape,
    /// The check sum does not match.
    #[error("the check sum does not match")]
    Checksum,
    /// A version this crate does not know. Not an error of the sender: keep the bytes.
    #[error("version {0} is newer than this program")]
    Newer(u8),
    /// Longer than the protocol allows, or more items than it allows.
    #[error("more than the protocol allows")]
    Limit,
}

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self::Shape
    }
}

/// Runs `write` over `buffer`; the length written.
pub(crate) fn encode<'b>(
    buffer: &'b mut [u8],
    write: impl FnOnce(
        &mut Encoder<Cursor<&'b mut [u8]>>,
    ) -> Result<(), minicbor::encode::Error<minicbor::encode::write::EndOfSlice>>,
) -> Result<usize, TooLong> {
    let capacity = buffer.len();
    let mut encoder = Encoder::new(Cursor::new(buffer));
    write(&mut encoder).map_err(|_| TooLong { capacity })?;
    Ok(encoder.into_writer().position())
}

/// An array's length; indefinite arrays are not used in this protocol.
pub(crate) fn array(decoder: &mut Decoder<'_>, least: u64) -> Result<u64, Malformed> {
    match decoder.array()? {
        Some(length) if length >= least => Ok(length),
        _ => Err(Malformed::Shape),
    }
}

/// Passes over the fields that a newer sender added.
pub(crate) fn skip(decoder: &mut Decoder<'_>, fields: u64) -> Result<(), Malformed> {
    (0..fields).try_for_each(|_| skip_item(decoder))
}

/// Passes over one item of any kind but of indefinite length, which nothing here uses. (The decoder's own does the
/// same, and indefinite lengths, in 2 KB.)
///
/// # Errors
/// When it is cut off or no CBOR of definite length (RFC 8949 §3).
pub fn skip_item(decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
    let (input, mut at) = (decoder.input(), decoder.position());
    let mut items = 1u64;
    while items > 0 {
        let head = *input.get(at).ok_or(Malformed::Shape)?;
        let size = match head & 31 {
            0..24 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return Err(Malformed::Shape),
        };
        let argument = input.get(at + 1..at + 1 + size).ok_or(Malformed::Shape)?;
        let value = argument.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let value = if size == 0 { u64::from(head & 31) } else { value };
        let (bytes, inside) = match head >> 5 {
            2 | 3 => (value, 0),
            4 => (0, value),
            5 => (0, value.checked_mul(2).ok_or(Malformed::Shape)?),
            6 => (0, 1),
            _ => (0, 0),
        };
        items = (items - 1).checked_add(inside).ok_or(Malformed::Shape)?;
        let bytes = usize::try_from(bytes).ok().and_then(|bytes| bytes.checked_add(1 + size));
        // What is longer than the input ends the search at its end.
        at = bytes.and_then(|bytes| at.checked_add(bytes)).ok_or(Malformed::Shape)?;
    }
    if at > input.len() {
        return Err(Malformed::Shape);
    }
    decoder.set_position(at);
    Ok(())
}

/// Reads the leading version of a message whose first element it is.
pub(crate) fn versioned(decoder: &mut Decoder<'_>, least: u64) -> Result<u64, Malformed> {
    let length = array(decoder, 1)?;
    let version = decoder.u8()?;
    if version > crate::VERSION {
        return Err(Malformed::Newer(version));
    }
    if version == 0 || length < least {
        return Err(Malformed::Shape);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_any_kind_is_passed_over_and_a_cut_one_is_not() {
        let mut buffer = [0; 512];
        let length = encode(&mut buffer, |e| {
            e.array(13)?.u8(23)?.u8(24)?.u16(500)?.u32(70_000)?.u64(u64::MAX)?.i32(-70_000)?.f32(1.5)?.f64(2.5)?;
            e.bool(true)?.null()?.bytes(&[7; 300])?.str("溶解氧")?;
            e.map(1)?.u8(1)?.array(2)?.u8(1)?.tag(minicbor::data::Tag::new(1))?.array(0)?;
            e.u8(9).map(|_| ())
        })
        .unwrap();
        let all = &buffer[..length];
        let mut decoder = Decoder::new(all);
        skip_item(&mut decoder).unwrap();
        assert_eq!((decoder.position(), decoder.u8().unwrap()), (length - 1, 9));
        for cut in 0..length - 1 {
            assert_eq!(skip_item(&mut Decoder::new(&all[..cut])), Err(Malformed::Shape), "{cut} bytes");
        }
    }

    #[test]
    fn what_no_input_can_hold_is_malformed() {
        for bytes in [
            &[0x9f, 0xff][..],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x82, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
            &[0x1c],
        ] {
            assert_eq!(skip_item(&mut Decoder::new(bytes)), Err(Malformed::Shape), "{bytes:x?}");
        }
    }
}
