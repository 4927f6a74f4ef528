//! Requests: functions 03, 04, 06 and 16.

use heapless::Vec;

use super::crc::crc16;

/// Most registers of one read (application protocol §6.3).
pub const READ_COUNT_MAX: u8 = 125;
/// Most registers of one write here. The protocol allows 123; no supported probe's setting is
/// longer than a 32-bit word, and the frame lives in the node's RAM.
pub const WRITE_COUNT_MAX: usize = 8;
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
    /// The last register lies beyond 65535.
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

    /// Whether it reads registers (and so cannot be taken for its own echo).
    pub fn is_read(&self) -> bool {
        ReadFunction::from_code(self.function()).is_some()
    }

    /// First bytes that a good answer has, by which it is told from everything else.
    pub(super) fn answer_head(&self) -> Vec<u8, 6> {
        let mut head = Vec::new();
        let wanted: &[u8] = if self.is_read() {
            &[self.address(), self.function(), self.byte(5) * 2]
        } else {
            // Both writes are answered with the request's own first six bytes.
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
            5 + usize::from(self.byte(5)) * 2
        } else {
            8
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.frame.get(at).copied().unwrap_or(0)
    }
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
    fn questions_nobody_can_answer_are_refused() {
        assert_eq!(Request::read(0, Holding, 0, 1), Err(RequestError::Address(0)));
        assert_eq!(Request::read(248, Holding, 0, 1), Err(RequestError::Address(248)));
        assert_eq!(Request::read(1, Holding, 0, 0), Err(RequestError::Count(0)));
        assert_eq!(Request::read(1, Holding, 0, 126), Err(RequestError::Count(126)));
        assert_eq!(Request::read(1, Holding, 65_535, 2), Err(RequestError::Range));
        assert_eq!(Request::write_multiple(1, 0, &[]), Err(RequestError::Count(0)));
        assert_eq!(Request::write_multiple(1, 0, &[0; 9]), Err(RequestError::Count(9)));
    }
}
