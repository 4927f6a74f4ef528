//! What every part on I2C can fail with.

use embedded_hal::i2c::{Error, ErrorKind};
use telemetry::MissingReason;

/// Why a part gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Nobody acknowledged: the part is absent, unpowered or still busy.
    #[error("part does not acknowledge")]
    NoAnswer,
    /// The bus itself failed.
    #[error("i2c bus failed: {0:?}")]
    Bus(ErrorKind),
    /// The answer's check sum is wrong.
    #[error("crc of the answer is wrong")]
    Crc,
    /// The part has no measurement to give.
    #[error("no measurement was started")]
    NotStarted,
}

impl PartError {
    /// What a bus error says of the part.
    pub(crate) fn of_bus<E: Error>(error: E) -> Self {
        match error.kind() {
            ErrorKind::NoAcknowledge(_) => Self::NoAnswer,
            kind => Self::Bus(kind),
        }
    }

    /// What a reading without a value says about this.
    pub fn missing_reason(self) -> MissingReason {
        match self {
            Self::NoAnswer => MissingReason::NoAnswer,
            Self::Bus(_) => MissingReason::Fault,
            Self::Crc => MissingReason::Crc,
            Self::NotStarted => MissingReason::NotRead,
        }
    }
}
