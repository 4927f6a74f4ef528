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
    for _ in 0..fields {
        decoder.skip()?;
    }
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
