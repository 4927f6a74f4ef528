//! What QEMU's board lacks, asked for over a spare UART: I2C parts, pins, pulse counters, the ADC,
//! 1-Wire. The host's simulator answers (frames: [`emulation::tunnel`]).
//!
//! A question sleeps until its answer is there, with interrupts served but no task run: QEMU does
//! not pace the UART, so that takes a fraction of a ms. No answer within [`ANSWER_US_MAX`] is a
//! failed part, and the next [`REST_US`] fail at once: whoever answers nothing costs at most a
//! tenth of the board's time.

use core::cell::{Cell, RefCell};

use embedded_hal::digital::{self, InputPin, OutputPin, StatefulOutputPin};
use embedded_hal::i2c::{self, I2c, NoAcknowledgeSource, SevenBitAddress};
use emulation::tunnel::{Finder, Operation, PAYLOAD_MAX, READ, SAMPLES_MAX, Status, TRANSFER_MAX, frame};
use heapless::Vec;

use crate::clock;
use crate::uart::Uart;

/// Longest wait for an answer, µs: time for a busy host to be scheduled.
pub const ANSWER_US_MAX: u64 = 100_000;
/// Time without questions after one was not answered, µs.
pub const REST_US: u64 = 1_000_000;

type Answer = Vec<u8, PAYLOAD_MAX>;

/// Why a question brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelError {
    /// Nobody is at the other end.
    NoAnswer,
    /// The question went through, but not well.
    Refused(Status),
    /// It does not fit a frame, or its answer does not fit the question.
    Malformed,
}

impl i2c::Error for TunnelError {
    fn kind(&self) -> i2c::ErrorKind {
        match self {
            Self::Refused(Status::NoAddress) => i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address),
            Self::Refused(Status::NoData) => i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data),
            Self::Refused(Status::Held) => i2c::ErrorKind::ArbitrationLoss,
            _ => i2c::ErrorKind::Other,
        }
    }
}

impl digital::Error for TunnelError {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

/// The board's end.
pub struct Tunnel {
    uart: RefCell<(Uart, Finder)>,
    number: Cell<u8>,
    rests_until_us: Cell<u64>,
}

impl Tunnel {
    /// A tunnel over this UART, which should be fast.
    pub fn new(uart: Uart) -> Self {
        Self { uart: RefCell::new((uart, Finder::new())), number: Cell::new(0), rests_until_us: Cell::new(0) }
    }

    /// Asks; what the answer brings.
    fn ask(&self, operation: Operation, payload: &[u8]) -> Result<Answer, TunnelError> {
        let mut uart = self.uart.try_borrow_mut().map_err(|_| TunnelError::NoAnswer)?;
        let (uart, finder) = &mut *uart;
        if clock::now_us() < self.rests_until_us.get() {
            return Err(TunnelError::NoAnswer);
        }
        self.number.set(self.number.get().wrapping_add(1));
        let question = frame(self.number.get(), operation as u8, payload).ok_or(TunnelError::Malformed)?;
        // Whatever is left of an earlier answer came too late.
        finder.forget();
        while uart.read_now(&mut [0; 32]) > 0 {}
        uart.write_blocking(&question);
        let until_us = clock::now_us() + ANSWER_US_MAX;
        while clock::sleep_until(until_us, || uart.has_come()) {
            let mut byte = [0];
            while uart.read_now(&mut byte) > 0 {
                finder.push(byte[0]);
                while let Some(frame) = finder.next_frame() {
                    if frame.number == self.number.get() && frame.operation == operation as u8 {
                        return split(frame.payload);
                    }
                }
            }
        }
        self.rests_until_us.set(clock::now_us() + REST_US);
        Err(TunnelError::NoAnswer)
    }

    /// Asks for bytes; the answer has to bring exactly as many.
    fn fetch<const N: usize>(&self, operation: Operation, payload: &[u8]) -> Result<[u8; N], TunnelError> {
        self.ask(operation, payload)?.as_slice().try_into().map_err(|_| TunnelError::Malformed)
    }

    /// An I2C bus.
    pub fn i2c(&'static self, bus: u8) -> TunnelBus {
        TunnelBus { tunnel: self, bus }
    }

    /// A pin, as output or as input.
    pub fn pin(&'static self, pin: u8) -> TunnelPin {
        TunnelPin { tunnel: self, pin }
    }

    /// A 1-Wire bus.
    pub fn one_wire(&'static self, bus: u8) -> TunnelOneWire {
        TunnelOneWire { tunnel: self, bus }
    }

    /// Pulses that a counter has seen since it began, modulo 2³².
    ///
    /// # Errors
    /// When there is no such counter or no answer.
    pub fn pulses(&self, counter: u8) -> Result<u32, TunnelError> {
        self.fetch(Operation::Pulses, &[counter]).map(u32::from_le_bytes)
    }

    /// Whether a contact is closed.
    ///
    /// # Errors
    /// When there is no such contact or no answer.
    pub fn contact(&self, input: u8) -> Result<bool, TunnelError> {
        self.fetch(Operation::Contact, &[input]).map(|[closed]| closed != 0)
    }

    /// Begins a window of samples on a channel of the converter.
    ///
    /// # Errors
    /// When there is no such channel or no answer.
    pub fn start_adc(&self, channel: u8) -> Result<(), TunnelError> {
        self.fetch::<0>(Operation::StartAdc, &[channel]).map(|_| ())
    }

    /// Samples of the window from number `first` on, as far as it has come; how many there were.
    ///
    /// # Errors
    /// When there is no such channel or no answer.
    pub fn adc(&self, channel: u8, first: u8, samples: &mut [u16]) -> Result<usize, TunnelError> {
        let count = samples.len().min(SAMPLES_MAX) as u8;
        let answer = self.ask(Operation::Adc, &[channel, first, count])?;
        for (sample, bytes) in samples.iter_mut().zip(answer.chunks_exact(2)) {
            *sample = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        Ok(samples.len().min(answer.len() / 2))
    }
}

fn split(payload: &[u8]) -> Result<Answer, TunnelError> {
    let (status, rest) = payload.split_first().ok_or(TunnelError::Malformed)?;
    match Status::from_byte(*status).ok_or(TunnelError::Malformed)? {
        Status::Done => Vec::from_slice(rest).map_err(|_| TunnelError::Malformed),
        status => Err(TunnelError::Refused(status)),
    }
}

/// An I2C bus behind the tunnel. A transaction's reads and writes have to fit a frame each way.
#[derive(Clone, Copy)]
pub struct TunnelBus {
    tunnel: &'static Tunnel,
    bus: u8,
}

impl i2c::ErrorType for TunnelBus {
    type Error = TunnelError;
}

impl I2c<SevenBitAddress> for TunnelBus {
    fn transaction(&mut self, address: u8, operations: &mut [i2c::Operation<'_>]) -> Result<(), TunnelError> {
        let mut question: Vec<u8, PAYLOAD_MAX> = Vec::new();
        let mut add = |bytes: &[u8]| question.extend_from_slice(bytes).map_err(|_| TunnelError::Malformed);
        let length = |bytes: &[u8]| match bytes.len() {
            length if length <= TRANSFER_MAX => Ok(length as u8),
            _ => Err(TunnelError::Malformed),
        };
        add(&[self.bus, address])?;
        for operation in operations.iter() {
            match operation {
                i2c::Operation::Write(bytes) => {
                    add(&[length(bytes)?])?;
                    add(bytes)?;
                }
                i2c::Operation::Read(bytes) => add(&[length(bytes)? | READ])?,
            }
        }
        let answer = self.tunnel.ask(Operation::I2c, &question)?;
        let mut left = answer.as_slice();
        for operation in operations {
            if let i2c::Operation::Read(bytes) = operation {
                let (now, rest) = left.split_at_checked(bytes.len()).ok_or(TunnelError::Malformed)?;
                bytes.copy_from_slice(now);
                left = rest;
            }
        }
        if left.is_empty() { Ok(()) } else { Err(TunnelError::Malformed) }
    }
}

/// A pin behind the tunnel.
#[derive(Clone, Copy)]
pub struct TunnelPin {
    tunnel: &'static Tunnel,
    pin: u8,
}

impl TunnelPin {
    fn set(&self, high: bool) -> Result<(), TunnelError> {
        self.tunnel.fetch::<1>(Operation::SetPin, &[self.pin, u8::from(high)]).map(|_| ())
    }

    fn is(&self, high: bool) -> Result<bool, TunnelError> {
        self.tunnel.fetch(Operation::GetPin, &[self.pin]).map(|[level]| (level != 0) == high)
    }
}

impl digital::ErrorType for TunnelPin {
    type Error = TunnelError;
}

impl OutputPin for TunnelPin {
    fn set_low(&mut self) -> Result<(), TunnelError> {
        self.set(false)
    }

    fn set_high(&mut self) -> Result<(), TunnelError> {
        self.set(true)
    }
}

/// The level is read back from the pin itself, not remembered.
impl StatefulOutputPin for TunnelPin {
    fn is_set_high(&mut self) -> Result<bool, TunnelError> {
        self.is(true)
    }

    fn is_set_low(&mut self) -> Result<bool, TunnelError> {
        self.is(false)
    }
}

impl InputPin for TunnelPin {
    fn is_high(&mut self) -> Result<bool, TunnelError> {
        self.is(true)
    }

    fn is_low(&mut self) -> Result<bool, TunnelError> {
        self.is(false)
    }
}

/// A 1-Wire bus behind the tunnel.
#[derive(Clone, Copy)]
pub struct TunnelOneWire {
    tunnel: &'static Tunnel,
    bus: u8,
}

impl TunnelOneWire {
    /// Resets the bus; whether a part has told its presence.
    ///
    /// # Errors
    /// When there is no such bus or no answer.
    pub fn reset(&mut self) -> Result<bool, TunnelError> {
        self.tunnel.fetch(Operation::OneWireReset, &[self.bus]).map(|[present]| present != 0)
    }

    /// Writes one bit.
    ///
    /// # Errors
    /// When there is no such bus or no answer.
    pub fn write_bit(&mut self, bit: bool) -> Result<(), TunnelError> {
        self.tunnel.fetch::<0>(Operation::OneWireWrite, &[self.bus, u8::from(bit)]).map(|_| ())
    }

    /// Reads one bit.
    ///
    /// # Errors
    /// When there is no such bus or no answer.
    pub fn read_bit(&mut self) -> Result<bool, TunnelError> {
        self.tunnel.fetch(Operation::OneWireRead, &[self.bus]).map(|[bit]| bit != 0)
    }

    /// Writes a byte, lowest bit first.
    ///
    /// # Errors
    /// When there is no such bus or no answer.
    pub fn write_byte(&mut self, byte: u8) -> Result<(), TunnelError> {
        self.tunnel.fetch::<0>(Operation::OneWireWriteBytes, &[self.bus, byte]).map(|_| ())
    }

    /// Reads a byte, lowest bit first.
    ///
    /// # Errors
    /// When there is no such bus or no answer.
    pub fn read_byte(&mut self) -> Result<u8, TunnelError> {
        self.tunnel.fetch(Operation::OneWireReadBytes, &[self.bus, 1]).map(|[byte]| byte)
    }
}
