//! Questions of the board and their answers, as frames on a spare UART.
//!
//! ```text
//! 0x7e  length of the payload  number  operation  payload …  CRC-16, low byte first
//! ```
//! The sum covers everything from the length on and is Modbus's. An answer carries its question's
//! number; its payload begins with a [`Status`], and what was asked for follows when that is
//! [`Status::Done`]. Numbers of more than one byte are little-endian.

use heapless::Vec;
use sensors::modbus::crc16;

/// First byte of a frame.
pub const SYNC: u8 = 0x7e;
/// Longest payload, bytes.
pub const PAYLOAD_MAX: usize = 250;
/// Longest frame, bytes.
pub const FRAME_MAX: usize = PAYLOAD_MAX + AROUND;
/// Bytes of a frame that are not its payload: sync, length, number, operation, sum.
const AROUND: usize = 6;
/// In an I2C operation's length: it reads.
pub const READ: u8 = 0x80;
/// Longest I2C read or write, bytes.
pub const TRANSFER_MAX: usize = 0x7f;
/// Most samples of one answer.
pub const SAMPLES_MAX: usize = 120;

/// What a question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// `bus, address`, then for each operation a length of at most [`TRANSFER_MAX`], with [`READ`]
    /// when it reads, and the bytes when it writes. The answer: all bytes that were read.
    I2c = 1,
    /// `pin, level` (0 or 1). The answer: the level that the pin then has.
    SetPin = 2,
    /// `pin`. The answer: the level that it has, whatever it was set to.
    GetPin = 3,
    /// `counter`. The answer: pulses since the counter began, u32, modulo 2³².
    Pulses = 4,
    /// `input`. The answer: 1 when the contact is closed.
    Contact = 5,
    /// `channel`. The converter begins a window of samples. The answer: nothing.
    StartAdc = 6,
    /// `channel, first, count`: samples of the window from number `first` on, at most `count` (to
    /// [`SAMPLES_MAX`]), as far as it has come. The answer: as many u16.
    Adc = 7,
    /// `bus`. The answer: 1 when a part has told its presence.
    OneWireReset = 8,
    /// `bus, bit`. The answer: nothing.
    OneWireWrite = 9,
    /// `bus`. The answer: the bit that was read.
    OneWireRead = 10,
    /// `bus, bytes …`, each lowest bit first. The answer: nothing.
    OneWireWriteBytes = 11,
    /// `bus, count`. The answer: as many bytes.
    OneWireReadBytes = 12,
}

impl Operation {
    /// The operation with this number.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::I2c,
            2 => Self::SetPin,
            3 => Self::GetPin,
            4 => Self::Pulses,
            5 => Self::Contact,
            6 => Self::StartAdc,
            7 => Self::Adc,
            8 => Self::OneWireReset,
            9 => Self::OneWireWrite,
            10 => Self::OneWireRead,
            11 => Self::OneWireWriteBytes,
            12 => Self::OneWireReadBytes,
            _ => return None,
        })
    }
}

/// How a question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done; what was asked for follows.
    Done = 0,
    /// Nobody acknowledged the address.
    NoAddress = 1,
    /// The part did not acknowledge a byte.
    NoData = 2,
    /// There is no such bus, pin, counter or channel.
    Absent = 3,
    /// The question makes no sense.
    Malformed = 4,
    /// The bus is held by somebody.
    Held = 5,
}

impl Status {
    /// The status with this number.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Done,
            1 => Self::NoAddress,
            2 => Self::NoData,
            3 => Self::Absent,
            4 => Self::Malformed,
            5 => Self::Held,
            _ => return None,
        })
    }
}

/// A frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'f> {
    /// Number of the question.
    pub number: u8,
    /// An [`Operation`].
    pub operation: u8,
    /// What belongs to it.
    pub payload: &'f [u8],
}

/// The bytes of a frame; `None` when the payload is longer than [`PAYLOAD_MAX`].
pub fn frame(number: u8, operation: u8, payload: &[u8]) -> Option<Vec<u8, FRAME_MAX>> {
    let length = u8::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX)?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&[SYNC, length, number, operation]).ok()?;
    bytes.extend_from_slice(payload).ok()?;
    let sum = crc16(bytes.get(1..)?);
    bytes.extend_from_slice(&sum.to_le_bytes()).ok()?;
    Some(bytes)
}

/// Finds frames in a stream of bytes, whatever is between them.
#[derive(Debug, Default)]
pub struct Finder {
    bytes: Vec<u8, FRAME_MAX>,
    /// Length of the frame that was given out last and is still in front.
    taken: usize,
}

impl Finder {
    /// Nothing has come yet.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), taken: 0 }
    }

    /// Takes one byte. [`Finder::next_frame`] has to be asked after each, until there is none.
    pub fn push(&mut self, byte: u8) {
        // There is room: what fills it is a whole frame, and was given out or judged none.
        let _fits = self.bytes.push(byte);
    }

    /// The next frame that is whole.
    pub fn next_frame(&mut self) -> Option<Frame<'_>> {
        let mut taken = core::mem::take(&mut self.taken);
        loop {
            self.drop_front(taken);
            let start = self.bytes.iter().position(|it| *it == SYNC).unwrap_or(self.bytes.len());
            self.drop_front(start);
            let &[_, length, ..] = self.bytes.as_slice() else { return None };
            let whole = usize::from(length) + AROUND;
            if whole <= FRAME_MAX && self.bytes.len() < whole {
                return None;
            }
            if whole <= FRAME_MAX && is_sound(self.bytes.get(..whole)?) {
                self.taken = whole;
                break;
            }
            // What looked like a beginning was none; another may follow it.
            taken = 1;
        }
        let frame = self.bytes.get(..self.taken)?;
        let payload = frame.get(4..self.taken.checked_sub(2)?)?;
        Some(Frame { number: *frame.get(2)?, operation: *frame.get(3)?, payload })
    }

    /// Gives up what has come of a frame: after a silence its end will not come.
    pub fn forget(&mut self) {
        self.bytes.clear();
        self.taken = 0;
    }

    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.bytes.rotate_left(count);
        self.bytes.truncate(self.bytes.len() - count);
    }
}

fn is_sound(frame: &[u8]) -> bool {
    let (body, sum) = frame.split_at(frame.len().saturating_sub(2));
    body.get(1..).is_some_and(|covered| crc16(covered).to_le_bytes() == sum)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec as Bytes;

    use super::*;

    fn found(bytes: &[u8]) -> Bytes<(u8, u8, Bytes<u8>)> {
        let mut finder = Finder::new();
        let mut frames = Bytes::new();
        for byte in bytes {
            finder.push(*byte);
            while let Some(it) = finder.next_frame() {
                frames.push((it.number, it.operation, it.payload.to_vec()));
            }
        }
        frames
    }

    #[test]
    fn a_frame_is_as_it_is_written_here() {
        // GetPin 4, question 9. CRC-16/MODBUS of 01 09 03 04 is 0xe9d0 (computed apart from this).
        assert_eq!(frame(9, 3, &[4]).unwrap(), [0x7e, 0x01, 0x09, 0x03, 0x04, 0xd0, 0xe9]);
    }

    #[test]
    fn frames_are_found_between_noise_and_damaged_ones() {
        let long = [SYNC; PAYLOAD_MAX];
        let (a, b) = (frame(1, 2, &[SYNC, 200]).unwrap(), frame(2, 3, &long).unwrap());
        let mut damaged = frame(3, 4, &[5; 20]).unwrap();
        damaged[7] ^= 1;
        let stream = [&[0, SYNC, 0xff, SYNC][..], &a, &damaged, &a, &b, &a].concat();
        let one = (1, 2, [SYNC, 200].to_vec());
        // The noise's second sync takes the first frame's beginning for its length and loses nothing.
        assert_eq!(found(&stream), [one.clone(), one.clone(), (2, 3, long.to_vec()), one]);
    }

    #[test]
    fn a_frame_cut_anywhere_is_forgotten_after_a_silence() {
        let (a, b) = (frame(1, 2, &[3, 4, 5]).unwrap(), frame(2, 2, &[6]).unwrap());
        for cut in 0..a.len() {
            let mut finder = Finder::new();
            a[..cut].iter().for_each(|byte| finder.push(*byte));
            assert_eq!(finder.next_frame(), None, "cut at {cut}");
            finder.forget();
            b.iter().for_each(|byte| finder.push(*byte));
            assert_eq!(finder.next_frame().map(|it| it.number), Some(2), "cut at {cut}");
        }
    }

    #[test]
    fn a_payload_that_is_too_long_makes_no_frame() {
        assert!(frame(1, 1, &[0; PAYLOAD_MAX]).is_some());
        assert_eq!(frame(1, 1, &[0; PAYLOAD_MAX + 1]), None);
    }
}
