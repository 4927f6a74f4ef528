//! A relay board that answers bytes: coils, read-back, and a time-out of its own that lets go of
//! the coils when nobody talks to it.
//!
//! It owns its coils, its time-out register and its failings. What hangs on the coils is the
//! host's; the map is the compiled profile's, so that a new profile has a simulated board at once.

use sensors::modbus::{LineSettings, crc16};
use sensors::profile::compile::Compiled;
use sensors::profile::{CoilRead, CoilWrite, ProfileError, Relay};

use crate::instrument::{Answer, sound};

/// Time from the end of a request to the beginning of the answer, µs.
const THINKS_US: u64 = 10_000;

/// What ails a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and says nothing; its coils stay as they are, without end.
    Dead,
    /// This coil stays in this state, whatever is written; it is read as it is.
    Stuck {
        /// From 0.
        coil: u8,
        /// Closed.
        closed: bool,
    },
    /// It answers at another address than it should.
    OtherAddress(u8),
    /// It takes no time-out: the register keeps what it has.
    KeepsTimeOut,
    /// It hears every other question only.
    HardOfHearing,
    /// Every other answer of it is damaged.
    Garbles,
    /// It answers so late, ms, and every other question 50 ms sooner.
    Slow(u16),
}

/// A board on a line.
#[derive(Clone, Debug)]
pub struct RelayBoard {
    relay: Relay,
    address: u8,
    fault: Option<Fault>,
    /// Bit n: coil n is closed.
    closed: u16,
    time_out_raw: u16,
    /// What the time-out register has at power-on.
    power_on_raw: u16,
    heard_us: u64,
    /// The last question was one of every other.
    odd: bool,
    powered: bool,
}

impl RelayBoard {
    /// A board of this profile at `address`, all coils open, its time-out off. It forgets its
    /// time-out with its power.
    ///
    /// # Errors
    /// When the profile is damaged; none when it is of something else.
    pub fn new(compiled: &Compiled, address: u8) -> Result<Option<Self>, ProfileError> {
        let board = |relay| Self {
            relay,
            address,
            fault: None,
            closed: 0,
            time_out_raw: 0,
            power_on_raw: 0,
            heard_us: 0,
            odd: false,
            powered: true,
        };
        Ok(compiled.profile()?.relay().map(board))
    }

    /// Begins a fault, or ends it.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        self.settle();
    }

    /// Whether a coil is closed.
    pub fn is_closed(&self, coil: u8) -> bool {
        self.closed >> coil & 1 == 1
    }

    /// What its time-out register has.
    pub fn time_out_raw(&self) -> u16 {
        self.time_out_raw
    }

    /// When it last heard a frame for it, µs.
    pub fn heard_us(&self) -> u64 {
        self.heard_us
    }

    /// Its own power fails: every coil is open, and its time-out is forgotten.
    pub fn power_off(&mut self) {
        (self.powered, self.closed, self.time_out_raw) = (false, 0, self.power_on_raw);
    }

    /// Its own power comes back.
    pub fn power_on(&mut self, now_us: u64) {
        (self.powered, self.heard_us) = (true, now_us);
        self.settle();
    }

    /// When it lets go of its coils if it hears nothing until then, µs.
    pub fn lets_go_us(&self) -> Option<u64> {
        let per_s = u64::from(self.relay.time_out?.per_s);
        let runs = self.powered && self.closed != 0 && self.time_out_raw > 0 && self.fault != Some(Fault::Dead);
        runs.then(|| self.heard_us + u64::from(self.time_out_raw) * 1_000_000 / per_s)
    }

    /// Lets time pass.
    pub fn pass(&mut self, now_us: u64) {
        if self.lets_go_us().is_some_and(|at_us| at_us <= now_us) {
            self.closed = 0;
            self.settle();
        }
    }

    /// A coil that is stuck is as it is.
    fn settle(&mut self) {
        if let (true, Some(Fault::Stuck { coil, closed })) = (self.powered, self.fault) {
            let bit = 1 << coil;
            self.closed = if closed { self.closed | bit } else { self.closed & !bit };
        }
    }

    /// What the board answers to the bytes of a frame that ended at `now_us`.
    pub fn answer(&mut self, frame: &[u8], line: LineSettings, now_us: u64) -> Option<Answer> {
        self.pass(now_us);
        let address = match self.fault {
            Some(Fault::OtherAddress(other)) => other,
            _ => self.address,
        };
        let request = sound(frame).filter(|_| self.powered && self.fault != Some(Fault::Dead))?;
        if request.first() != Some(&address) {
            return None;
        }
        self.odd = !self.odd;
        if self.odd && self.fault == Some(Fault::HardOfHearing) {
            return None;
        }
        self.heard_us = now_us;
        let mut bytes = vec![address];
        bytes.extend(self.obey(&request[1..]));
        let damaged = self.odd && self.fault == Some(Fault::Garbles);
        bytes.extend((crc16(&bytes) ^ u16::from(damaged)).to_le_bytes());
        self.settle();
        let thinks_us = match self.fault {
            Some(Fault::Slow(ms)) => u64::from(ms).saturating_sub(if self.odd { 0 } else { 50 }) * 1_000,
            _ => THINKS_US,
        };
        Some(Answer { after_us: thinks_us + line.chars_us(bytes.len()), bytes })
    }

    /// Function and data of the answer to a request's function and data. Exceptions: 1 illegal
    /// function, 2 illegal address, 3 illegal value (Modbus application protocol §7).
    fn obey(&mut self, request: &[u8]) -> Vec<u8> {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let refused = |code| vec![request[0] | 0x80, code];
        let coils = u16::from(self.relay.coils);
        let time_out = self.relay.time_out.map(|it| it.register);
        match (request, self.relay.write, self.relay.read) {
            ([1, _, _, _, _], _, CoilRead::Coils { start }) => {
                let (first, count) = (word(1).wrapping_sub(start), word(3));
                if count == 0 || first.saturating_add(count) > coils {
                    return refused(2);
                }
                let bits = self.closed >> first & (u32::MAX >> (32 - u32::from(count))) as u16;
                let length = usize::from(count.div_ceil(8));
                [&[1, length as u8][..], &bits.to_le_bytes()[..length]].concat()
            }
            ([5, _, _, value, 0], CoilWrite::Single { start }, _) => {
                let coil = word(1).wrapping_sub(start);
                match value {
                    _ if coil >= coils => return refused(2),
                    0xFF => self.closed |= 1 << coil,
                    0 => self.closed &= !(1 << coil),
                    _ => return refused(3),
                }
                request.to_vec()
            }
            ([15, _, _, _, _, length, data @ ..], CoilWrite::Multiple { start }, _) => {
                let (first, count) = (word(1).wrapping_sub(start), word(3));
                if count == 0 || first.saturating_add(count) > coils {
                    return refused(2);
                }
                if usize::from(*length) != data.len() || usize::from(count.div_ceil(8)) != data.len() {
                    return refused(3);
                }
                for n in 0..count {
                    let bit = 1 << (first + n);
                    let closed = data[usize::from(n / 8)] >> (n % 8) & 1 == 1;
                    self.closed = if closed { self.closed | bit } else { self.closed & !bit };
                }
                request[..5].to_vec()
            }
            ([3, _, _, 0, 1], ..) if time_out == Some(word(1)) => {
                let [high, low] = self.time_out_raw.to_be_bytes();
                vec![3, 2, high, low]
            }
            ([3, _, _, 0, 1], _, CoilRead::Registers { start, on }) => {
                let coil = word(1).wrapping_sub(start);
                if coil >= coils {
                    return refused(2);
                }
                let [high, low] = if self.is_closed(coil as u8) { on } else { 0 }.to_be_bytes();
                vec![3, 2, high, low]
            }
            ([6, _, _, _, _], ..) if time_out == Some(word(1)) => {
                if self.fault != Some(Fault::KeepsTimeOut) {
                    self.time_out_raw = word(3);
                }
                request.to_vec()
            }
            ([6, _, _, _, _], CoilWrite::Register { start, on, off }, _) => {
                let coil = word(1).wrapping_sub(start);
                match word(3) {
                    _ if coil >= coils => return refused(2),
                    value if value == on => self.closed |= 1 << coil,
                    value if value == off => self.closed &= !(1 << coil),
                    _ => return refused(3),
                }
                request.to_vec()
            }
            ([], ..) => Vec::new(),
            _ => refused(1),
        }
    }
}
