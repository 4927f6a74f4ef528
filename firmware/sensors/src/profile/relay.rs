//! Relay boards as data: how coils are written and read back, and where the board's own time-out
//! is set.

use crate::modbus::{ReadFunction, Request, RequestError, coil};

/// Most coils of one relay board.
pub const RELAY_COILS_MAX: u8 = 16;

/// How coils are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoilWrite {
    /// Each by function 05.
    Single {
        /// Address of the first.
        start: u16,
    },
    /// All at once by function 15.
    Multiple {
        /// Address of the first.
        start: u16,
    },
    /// Each by a code in a holding register of its own, function 06.
    Register {
        /// Register of the first.
        start: u16,
        /// Code that closes it.
        on: u16,
        /// Code that opens it.
        off: u16,
    },
}

/// How coils are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoilRead {
    /// All at once by function 01.
    Coils {
        /// Address of the first.
        start: u16,
    },
    /// Each from a holding register of its own, function 03, one at a time: some boards answer no
    /// more than that.
    Registers {
        /// Register of the first.
        start: u16,
        /// What it holds while the coil is closed.
        on: u16,
    },
}

/// The register of the time after which a board that hears nothing lets go of its coils.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTimeOut {
    /// Holding register.
    pub register: u16,
    /// Written with function 16 instead of 06.
    pub multiple: bool,
    /// Its units in a second.
    pub per_s: u16,
    /// Shortest, s.
    pub min_s: u16,
    /// Longest, s; in its units it fits the register.
    pub max_s: u16,
}

/// A relay board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Coils, 1…[`RELAY_COILS_MAX`].
    pub coils: u8,
    /// How they are written.
    pub write: CoilWrite,
    /// How they are read back.
    pub read: CoilRead,
    /// Its time-out; `None` for a board that holds its coils for ever.
    pub time_out: Option<RelayTimeOut>,
}

impl Relay {
    /// Whether one request writes every coil.
    pub fn writes_all_at_once(&self) -> bool {
        matches!(self.write, CoilWrite::Multiple { .. })
    }

    /// Whether one request reads every coil.
    pub fn reads_all_at_once(&self) -> bool {
        matches!(self.read, CoilRead::Coils { .. })
    }

    /// Writes coil `n` as its bit of `closed` says, and where the board writes all at once every
    /// other one too.
    ///
    /// # Errors
    /// When the address is not a slave's or there is no such coil.
    pub fn write_request(&self, address: u8, n: u8, closed: u16) -> Result<Request, RequestError> {
        let bit = closed.checked_shr(n.into()).unwrap_or(0) & 1 == 1;
        match self.write {
            CoilWrite::Single { start } => Request::write_coil(slave(address)?, self.at(start, n)?, bit),
            CoilWrite::Multiple { start } => {
                Request::write_coils(slave(address)?, start, self.coils, u32::from(closed))
            }
            CoilWrite::Register { start, on, off } => {
                Request::write_single(slave(address)?, self.at(start, n)?, if bit { on } else { off })
            }
        }
    }

    /// Reads coil `n`, and where the board reads all at once every other one too.
    ///
    /// # Errors
    /// When the address is not a slave's or there is no such coil.
    pub fn read_request(&self, address: u8, n: u8) -> Result<Request, RequestError> {
        match self.read {
            CoilRead::Coils { start } => Request::read_coils(address, start, self.coils),
            CoilRead::Registers { start, .. } => Request::read(address, ReadFunction::Holding, self.at(start, n)?, 1),
        }
    }

    /// What an answer to [`Relay::read_request`] for coil `n` says of coil `of`; `None` where it
    /// says nothing of it.
    pub fn is_closed(&self, n: u8, of: u8, data: &[u8]) -> Option<bool> {
        match self.read {
            CoilRead::Coils { .. } if of < self.coils => coil(data, of),
            CoilRead::Registers { on, .. } if of == n => Some(word(data)? == on),
            _ => None,
        }
    }
}

impl Relay {
    fn at(&self, start: u16, n: u8) -> Result<u16, RequestError> {
        let inside = Some(n).filter(|n| *n < self.coils);
        inside.and_then(|n| start.checked_add(n.into())).ok_or(RequestError::Range)
    }
}

impl RelayTimeOut {
    /// What the register holds for so many seconds; `None` outside what the board can do.
    pub fn raw(&self, time_out_s: u16) -> Option<u16> {
        let inside = (self.min_s..=self.max_s).contains(&time_out_s);
        Some(time_out_s).filter(|_| inside)?.checked_mul(self.per_s)
    }

    /// Reads the register.
    ///
    /// # Errors
    /// When the address is not a slave's.
    pub fn read_request(&self, address: u8) -> Result<Request, RequestError> {
        Request::read(address, ReadFunction::Holding, self.register, 1)
    }

    /// Writes the register.
    ///
    /// # Errors
    /// When the address is not a slave's.
    pub fn write_request(&self, address: u8, raw: u16) -> Result<Request, RequestError> {
        if self.multiple {
            Request::write_multiple(slave(address)?, self.register, &[raw])
        } else {
            Request::write_single(slave(address)?, self.register, raw)
        }
    }

    /// Whether an answer to [`RelayTimeOut::read_request`] says that the register holds this.
    pub fn holds(&self, raw: u16, data: &[u8]) -> bool {
        word(data) == Some(raw)
    }
}

/// No coil is ever written by broadcast: nobody would confirm it.
fn slave(address: u8) -> Result<u8, RequestError> {
    if address == Request::BROADCAST { Err(RequestError::Address(address)) } else { Ok(address) }
}

fn word(data: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(..2)?.try_into().ok()?))
}
