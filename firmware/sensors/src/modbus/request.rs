//! Requests: functions 01, 03, 04, 05, 06, 15 and 16.

use heapless::Vec;

use super::crc::crc16;

/// Most registers of one read (application protocol §6.3).
pub const READ_COUNT_MAX: u8 = 125;
/// Most registers of one write here. The protocol allows 123; no supported probe's setting is
/// longer than a 32-bit word, and the frame lives in the node's RAM.
pub const WRITE_COUNT_MAX: usize = 8;
/// Most coils of one read or write here. The protocol allows 2000 and 1968; relay boards have at
/// most this many.
pub const COIL_COUNT_MAX: u8 = 32;
/// Longest request frame, bytes: address, function, start, count, byte count, values, CRC.
pub const REQUEST_LEN_MAX: usize = 9 + 2 * WRITE_COUNT_MAX;

/// Which register file a read asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFunction {
    /// Function 03.
    Holding,
    /// Function 04.
    Input,
}

impl ReadFunction {
    /// Function code on the line.
    pub const fn code(self) -> u8 {
        match self {
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    /// The function with this code, if it reads registers.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            3 => Some(Self::Holding),
            4 => Some(Self::Input),
            _ => None,
        }
    }
}

/// Why no request can be made of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Slaves live at 1…247; reads cannot be broadcast.
    #[error("address {0} is not one of a slave")]
    Address(u8),
    /// Reads take 1…[`READ_COUNT_MAX`], writes 1…[`WRITE_COUNT_MAX`] registers.
    #[error("count of {0} registers")]
    Count(usize),
    /// Reads and writes take 1…[`COIL_COUNT_MAX`] coils.
    #[error("count of {0} coils")]
    Coils(u8),
    /// The last register, or coil, lies beyond 65535.
    #[error("registers beyond 65535")]
    Range,
}

/// One question to one slave, as the bytes that go on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    frame: Vec<u8, REQUEST_LEN_MAX>,
}

impl Request {
    /// Highest address a slave may have (serial line guide §2.2).
    pub const ADDRESS_MAX: u8 = 247;
    /// Every slave obeys and none answers.
    pub const BROADCAST: u8 = 0;

    /// Reads `count` registers from `start`.
    pub fn read(address: u8, function: ReadFunction, start: u16, count: u8) -> Result<Self, RequestError> {
        if address == Self::BROADCAST || address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        if count == 0 || count > READ_COUNT_MAX {
            return Err(RequestError::Count(count.into()));
        }
        if start.checked_add(u16::from(count) - 1).is_none() {
            return Err(RequestError::Range);
        }
        let mut frame = Vec::new();
        push(&mut frame, &[address, function.code()]);
        push(&mut frame, &start.to_be_bytes());
        push(&mut frame, &u16::from(count).to_be_bytes());
        Ok(Self::sealed(frame))
    }

    /// Reads `count` coils from `start` (function 01).
    pub fn read_coils(address: u8, start: u16, count: u8) -> Result<Self, RequestError> {
        if address == Self::BROADCAST || address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        check_coils(start, count)?;
        let mut frame = Vec::new();
        push(&mut frame, &[address, READ_COILS]);
        push(&mut frame, &start.to_be_bytes());
        push(&mut frame, &u16::from(count).to_be_bytes());
        Ok(Self::sealed(frame))
    }

    /// Writes one coil (function 05).
    pub fn write_coil(address: u8, coil: u16, closed: bool) -> Result<Self, RequestError> {
        if address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        let mut frame = Vec::new();
        push(&mut frame, &[address, 5]);
        push(&mut frame, &coil.to_be_bytes());
        // Application protocol §6.5: nothing else is a state.
        push(&mut frame, &[if closed { 0xFF } else { 0 }, 0]);
        Ok(Self::sealed(frame))
    }

    /// Writes `count` coils from `start` (function 15): bit n of `closed` is the `n`th of them.
    pub fn write_coils(address: u8, start: u16, count: u8, closed: u32) -> Result<Self, RequestError> {
        if address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        check_coils(start, count)?;
        let bytes = usize::from(count.div_ceil(8));
        // Bits beyond the last coil are zero (application protocol §6.11).
        let closed = closed & u32::MAX >> (u32::from(COIL_COUNT_MAX) - u32::from(count));
        let mut frame = Vec::new();
        push(&mut frame, &[address, 15]);
        push(&mut frame, &start.to_be_bytes());
        push(&mut frame, &u16::from(count).to_be_bytes());
        push(&mut frame, &[bytes as u8]);
        push(&mut frame, closed.to_le_bytes().get(..bytes).unwrap_or_default());
        Ok(Self::sealed(frame))
    }

    /// Writes one register (function 06).
    pub fn write_single(address: u8, register: u16, value: u16) -> Result<Self, RequestError> {
        if address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        let mut frame = Vec::new();
        push(&mut frame, &[address, 6]);
        push(&mut frame, &register.to_be_bytes());
        push(&mut frame, &value.to_be_bytes());
        Ok(Self::sealed(frame))
    }

    /// Writes a run of registers (function 16).
    pub fn write_multiple(address: u8, start: u16, values: &[u16]) -> Result<Self, RequestError> {
        if address > Self::ADDRESS_MAX {
            return Err(RequestError::Address(address));
        }
        if values.is_empty() || values.len() > WRITE_COUNT_MAX {
            return Err(RequestError::Count(values.len()));
        }
        // The length is at most WRITE_COUNT_MAX, so neither cast cuts anything off.
        let count = values.len() as u8;
        if start.checked_add(u16::from(count) - 1).is_none() {
            return Err(RequestError::Range);
        }
        let mut frame = Vec::new();
        push(&mut frame, &[address, 16]);
        push(&mut frame, &start.to_be_bytes());
        push(&mut frame, &u16::from(count).to_be_bytes());
        push(&mut frame, &[count * 2]);
        for value in values {
            push(&mut frame, &value.to_be_bytes());
        }
        Ok(Self::sealed(frame))
    }

    fn sealed(mut frame: Vec<u8, REQUEST_LEN_MAX>) -> Self {
        let crc = crc16(&frame);
        push(&mut frame, &crc.to_le_bytes());
        Self { frame }
    }

    /// The frame, CRC included.
    pub fn bytes(&self) -> &[u8] {
        &self.frame
    }

    /// Whom it is for; [`Self::BROADCAST`] for a broadcast.
    pub fn address(&self) -> u8 {
        self.byte(0)
    }

    /// Function code.
    pub fn function(&self) -> u8 {
        self.byte(1)
    }

    /// Whether it reads (and so cannot be taken for its own echo).
    pub fn is_read(&self) -> bool {
        self.function() == READ_COILS || ReadFunction::from_code(self.function()).is_some()
    }

    /// Data bytes of a good answer to a read: two a register, one for eight coils.
    fn data_len(&self) -> u8 {
        let count = self.byte(5);
        if self.function() == READ_COILS { count.div_ceil(8) } else { count.saturating_mul(2) }
    }

    /// First bytes that a good answer has, by which it is told from everything else.
    pub(super) fn answer_head(&self) -> Vec<u8, 6> {
        let mut head = Vec::new();
        let wanted: &[u8] = if self.is_read() {
            &[self.address(), self.function(), self.data_len()]
        } else {
            // Every write is answered with the request's own first six bytes.
            self.frame.get(..6).unwrap_or_default()
        };
        // At most six bytes by the two arms above.
        let _fits = head.extend_from_slice(wanted);
        head
    }

    /// Length of a good answer, bytes; 0 for a broadcast.
    pub fn answer_len(&self) -> usize {
        if self.address() == Self::BROADCAST {
            0
        } else if self.is_read() {
            5 + usize::from(self.data_len())
        } else {
            8
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.frame.get(at).copied().unwrap_or(0)
    }
}

/// Code of the function that reads coils.
const READ_COILS: u8 = 1;

fn check_coils(start: u16, count: u8) -> Result<(), RequestError> {
    if count == 0 || count > COIL_COUNT_MAX {
        return Err(RequestError::Coils(count));
    }
    start.checked_add(u16::from(count) - 1).map(drop).ok_or(RequestError::Range)
}

/// Whether the `n`th coil of a read is closed, from the answer's data; `None` beyond its end.
pub fn coil(data: &[u8], n: u8) -> Option<bool> {
    Some(data.get(usize::from(n / 8))? >> (n % 8) & 1 == 1)
}

/// Appends what the constructors have already bounded by [`REQUEST_LEN_MAX`].
fn push(frame: &mut Vec<u8, REQUEST_LEN_MAX>, bytes: &[u8]) {
    let _fits = frame.extend_from_slice(bytes);
    debug_assert!(_fits.is_ok(), "a request longer than its bound");
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReadFunction::{Holding, Input};

    #[test]
    fn reads_are_the_frames_of_the_manuals() {
        let cases: [(Request, &[u8]); 7] = [
            (Request::read(1, Holding, 0, 4).unwrap(), &[1, 3, 0, 0, 0, 4, 0x44, 0x09]),
            (Request::read(1, Holding, 0, 3).unwrap(), &[1, 3, 0, 0, 0, 3, 0x05, 0xCB]),
            (Request::read(1, Holding, 0x1E, 3).unwrap(), &[1, 3, 0, 0x1E, 0, 3, 0x65, 0xCD]),
            (Request::read(1, Holding, 0, 6).unwrap(), &[1, 3, 0, 0, 0, 6, 0xC5, 0xC8]),
            (Request::read(1, Holding, 500, 4).unwrap(), &[1, 3, 1, 0xF4, 0, 4, 0x04, 0x07]),
            (Request::read(1, Holding, 510, 2).unwrap(), &[1, 3, 1, 0xFE, 0, 2, 0xA4, 0x07]),
            (Request::read(1, Input, 1, 2).unwrap(), &[1, 4, 0, 1, 0, 2, 0x20, 0x0B]),
        ];
        for (request, wanted) in cases {
            assert_eq!(request.bytes(), wanted);
        }
    }

    #[test]
    fn writes_of_the_renke_probe_are_the_frames_of_the_domain_page() {
        let frame = |register, value| Request::write_single(1, register, value).unwrap().bytes().to_vec();
        assert_eq!(frame(0x1010, 1), [1, 6, 0x10, 0x10, 0, 1, 0x4D, 0x0F]);
        assert_eq!(frame(0x1010, 2), [1, 6, 0x10, 0x10, 0, 2, 0x0D, 0x0E]);
        assert_eq!(frame(0x1020, 30), [1, 6, 0x10, 0x20, 0, 0x1E, 0x0C, 0xC8]);
    }

    #[test]
    fn a_write_of_several_registers_carries_its_byte_count() {
        // The example of the application protocol §6.12, sent to slave 17.
        let request = Request::write_multiple(17, 1, &[0x000A, 0x0102]).unwrap();
        assert_eq!(request.bytes(), [17, 16, 0, 1, 0, 2, 4, 0, 0x0A, 1, 2, 0xC6, 0xF0]);
        assert_eq!(request.answer_len(), 8);
    }

    #[test]
    fn coils_are_read_and_written_with_the_frames_of_the_protocol_and_of_relay_boards() {
        let cases: [(Request, &[u8]); 8] = [
            // Examples of the application protocol §6.1, §6.5 and §6.11, sent to slave 17.
            (Request::read_coils(17, 0x13, 19).unwrap(), &[17, 1, 0, 0x13, 0, 0x13, 0x8E, 0x92]),
            (Request::write_coil(17, 0xAC, true).unwrap(), &[17, 5, 0, 0xAC, 0xFF, 0, 0x4E, 0x8B]),
            (
                Request::write_coils(17, 0x13, 10, 0x1CD).unwrap(),
                &[17, 15, 0, 0x13, 0, 0x0A, 2, 0xCD, 0x01, 0xBF, 0x0B],
            ),
            // Printed in descriptions of eight-channel boards.
            (Request::write_coil(1, 0, true).unwrap(), &[1, 5, 0, 0, 0xFF, 0, 0x8C, 0x3A]),
            (Request::write_coil(1, 0, false).unwrap(), &[1, 5, 0, 0, 0, 0, 0xCD, 0xCA]),
            (Request::write_coil(1, 3, true).unwrap(), &[1, 5, 0, 3, 0xFF, 0, 0x7C, 0x3A]),
            (Request::read_coils(1, 0, 8).unwrap(), &[1, 1, 0, 0, 0, 8, 0x3D, 0xCC]),
            (Request::write_coils(1, 0, 8, 0xFF).unwrap(), &[1, 15, 0, 0, 0, 8, 1, 0xFF, 0xBE, 0xD5]),
        ];
        for (request, wanted) in cases {
            assert_eq!(request.bytes(), wanted);
        }
        assert_eq!(Request::write_coils(1, 0, 8, 0xFFFF_FFFF), Request::write_coils(1, 0, 8, 0xFF), "none beyond");
        let lengths = [1u8, 8, 9, 16, 32].map(|count| Request::read_coils(1, 0, count).unwrap().answer_len());
        assert_eq!(lengths, [6, 6, 7, 7, 9]);
        assert_eq!(Request::write_coils(1, 0, 32, u32::MAX).unwrap().answer_len(), 8);
    }

    #[test]
    fn questions_nobody_can_answer_are_refused() {
        assert_eq!(Request::read_coils(0, 0, 1), Err(RequestError::Address(0)));
        assert_eq!(Request::write_coil(248, 0, true), Err(RequestError::Address(248)));
        assert_eq!(Request::read_coils(1, 0, 0), Err(RequestError::Coils(0)));
        assert_eq!(Request::read_coils(1, 0, 33), Err(RequestError::Coils(33)));
        assert_eq!(Request::write_coils(1, 0, 33, 0), Err(RequestError::Coils(33)));
        assert_eq!(Request::write_coils(1, 65_535, 2, 0), Err(RequestError::Range));
        assert_eq!(Request::read(0, Holding, 0, 1), Err(RequestError::Address(0)));
        assert_eq!(Request::read(248, Holding, 0, 1), Err(RequestError::Address(248)));
        assert_eq!(Request::read(1, Holding, 0, 0), Err(RequestError::Count(0)));
        assert_eq!(Request::read(1, Holding, 0, 126), Err(RequestError::Count(126)));
        assert_eq!(Request::read(1, Holding, 65_535, 2), Err(RequestError::Range));
        assert_eq!(Request::write_multiple(1, 0, &[]), Err(RequestError::Count(0)));
        assert_eq!(Request::write_multiple(1, 0, &[0; 9]), Err(RequestError::Count(9)));
    }
}
