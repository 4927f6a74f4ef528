//! What every part can fail with, and how a driver says that it is not ready.

use embedded_hal::i2c::{Error, ErrorKind};
use telemetry::MissingReason;

/// Why a part gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Nobody acknowledged: the part is absent, unpowered or still busy.
    #[error("part does not acknowledge")]
    NoAnswer,
    /// The bus itself failed.
    #[error("bus failed: {0:?}")]
    Bus(ErrorKind),
    /// The answer's check sum is wrong.
    #[error("crc of the answer is wrong")]
    Crc,
    /// The part has no measurement to give.
    #[error("no measurement was started")]
    NotStarted,
    /// It acknowledges but is never ready.
    #[error("part has not finished in time")]
    Late,
    /// It says itself that it cannot do that.
    #[error("part refuses")]
    Refused,
    /// What answers is another part, or one that lost its settings meanwhile.
    #[error("another part answers, or one that was reset")]
    Stranger,
    /// It gave the value that stands for "none".
    #[error("part gave no value")]
    Sentinel,
    /// The value is beyond what the part can measure.
    #[error("value is beyond the part's range")]
    OutOfRange,
    /// It still shows what it has after power-on.
    #[error("part shows its power-on value")]
    PowerOn,
    /// What came makes no answer.
    #[error("answer makes no sense")]
    Garbled,
    /// It reckons with the water's temperature, which is not known yet.
    #[error("temperature of the water is not known yet")]
    Untold,
}

/// Where a measurement that was started stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn<T> {
    /// Ask again after this many ms, not before.
    Later(u32),
    /// Here it is; the driver has forgotten it.
    Done(T),
}

impl<T> Turn<T> {
    /// The same turn with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Turn<U> {
        match self {
            Self::Later(ms) => Turn::Later(ms),
            Self::Done(value) => Turn::Done(f(value)),
        }
    }
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
            Self::Late | Self::Stranger => MissingReason::Fault,
            Self::Refused => MissingReason::Exception,
            Self::Sentinel => MissingReason::Sentinel,
            Self::OutOfRange => MissingReason::OutOfRange,
            Self::PowerOn => MissingReason::PowerOnValue,
            Self::Garbled => MissingReason::Garbled,
            Self::Untold => MissingReason::Input,
        }
    }
}
