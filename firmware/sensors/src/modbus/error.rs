//! What can be wrong with an answer.

use telemetry::quality::MissingReason;

/// Why a transaction ended without an answer to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModbusError {
    /// Not one byte came before the deadline.
    #[error("no answer")]
    Timeout,
    /// The line never fell silent, so nothing could be sent.
    #[error("the line is never silent")]
    Busy,
    /// An answer of the right shape arrived damaged.
    #[error("crc {got:#06x} instead of {expected:#06x}")]
    Crc {
        /// What the bytes add up to.
        expected: u16,
        /// What the frame says.
        got: u16,
    },
    /// The slave refused; the code is of the application protocol §7.
    #[error("exception {0}")]
    Exception(u8),
    /// A whole frame came, from somebody else.
    #[error("answer from address {0}")]
    WrongAddress(u8),
    /// A whole frame came, for another function.
    #[error("answer for function {0}")]
    WrongFunction(u8),
    /// A whole frame came with another number of data bytes, or a write echoed other values.
    #[error("answer does not match the question")]
    WrongContent,
    /// The answer began and did not end in time.
    #[error("answer breaks off after {0} bytes")]
    Short(u8),
    /// More bytes than any frame has.
    #[error("more bytes than a frame can hold")]
    TooLong,
    /// Bytes that are no frame at all: noise, a collision, another baud rate.
    #[error("bytes that are no frame")]
    Framing,
}

impl ModbusError {
    /// Whether asking again at once may help. A refusal is final, except "acknowledge" (5) and
    /// "device busy" (6).
    pub fn is_worth_a_retry(self) -> bool {
        match self {
            Self::Exception(code) => matches!(code, 5 | 6),
            _ => true,
        }
    }

    /// Whether the slave may still answer the question after this: then the next question of the
    /// same shape must not go out at once.
    pub fn leaves_answer_owed(self) -> bool {
        matches!(self, Self::Timeout | Self::WrongAddress(_) | Self::Short(_) | Self::TooLong | Self::Framing)
    }

    /// What a reading without a value says about this.
    pub fn missing_reason(self) -> MissingReason {
        match self {
            Self::Timeout => MissingReason::NoAnswer,
            Self::Crc { .. } => MissingReason::Crc,
            Self::Exception(_) => MissingReason::Exception,
            Self::Busy
            | Self::WrongAddress(_)
            | Self::WrongFunction(_)
            | Self::WrongContent
            | Self::Short(_)
            | Self::TooLong
            | Self::Framing => MissingReason::Garbled,
        }
    }
}
