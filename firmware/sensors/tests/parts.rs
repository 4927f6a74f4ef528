//! Drivers of I2C parts against parts that behave: a register file, a busy time, a missing part.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation, SevenBitAddress};
use sensors::{
    PartError,
    ads1115::{Input, LoopInputs, LoopRange},
    sht::{self, Climate, Family, Sht},
};
use telemetry::MissingReason;

const NACK: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown);

/// A part that answers writes and reads addressed to it.
trait Part {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ErrorKind>;
    fn read(&mut self, into: &mut [u8]) -> Result<(), ErrorKind>;
}

struct OnBus<P> {
    address: u8,
    part: P,
    broken: Option<ErrorKind>,
}

impl<P> OnBus<P> {
    fn at(address: u8, part: P) -> Self {
        Self { address, part, broken: None }
    }
}

impl<P> ErrorType for OnBus<P> {
    type Error = ErrorKind;
}

impl<P: Part> I2c for OnBus<P> {
    fn transaction(&mut self, address: SevenBitAddress, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        if address != self.address {
            return Err(NACK);
        }
        for operation in operations {
            match operation {
                Operation::Write(bytes) => self.part.write(bytes)?,
                Operation::Read(into) => self.part.read(into)?,
            }
        }
        Ok(())
    }
}

impl<P: Part> embedded_hal_async::i2c::I2c for OnBus<P> {
    async fn transaction(
        &mut self,
        address: SevenBitAddress,
        operations: &mut [Operation<'_>],
    ) -> Result<(), ErrorKind> {
        I2c::transaction(self, address, operations)
    }
}

/// A bus that the test can reach while a driver has it.
struct Shared<'b, P>(&'b std::cell::RefCell<OnBus<P>>);

impl<P> ErrorType for Shared<'_, P> {
    type Error = ErrorKind;
}

impl<P: Part> I2c for Shared<'_, P> {
    fn transaction(&mut self, address: SevenBitAddress, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        I2c::transaction(&mut *self.0.borrow_mut(), address, operations)
    }
}

/// An SHT that knows one command and does not acknowledge reads before one was given.
struct Climatic {
    command: &'static [u8],
    answer: [u8; 6],
    started: bool,
}

impl Part for Climatic {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ErrorKind> {
        if bytes != self.command {
            return Err(NACK);
        }
        self.started = true;
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), ErrorKind> {
        if !std::mem::take(&mut self.started) {
            return Err(NACK);
        }
        into.copy_from_slice(&self.answer);
        Ok(())
    }
}

fn sht31() -> OnBus<Climatic> {
    OnBus::at(0x44, Climatic { command: &[0x24, 0x00], answer: [0x66, 0x67, 0xA2, 0x5E, 0xB9, 0x3C], started: false })
}

fn near(climate: Climate, temperature_c: f32, humidity_pct: f32) -> bool {
    (climate.temperature_c - temperature_c).abs() < 0.005 && (climate.humidity_pct - humidity_pct).abs() < 0.005
}

#[test]
fn an_sht_is_started_and_fetched_in_two_calls() {
    let mut part = Sht::new(sht31(), Family::Sht3x, sht::ADDRESS);
    assert_eq!(part.start(), Ok(16));
    assert!(near(part.fetch().unwrap(), 25.0, 37.0));
    // What was fetched is gone: the last value never comes twice.
    assert_eq!(part.fetch(), Err(PartError::NoAnswer));

    let mut bus = sht31();
    bus.part.command = &[0xFD];
    let mut part = Sht::new(bus, Family::Sht4x, sht::ADDRESS);
    assert_eq!(part.start(), Ok(9));
    assert!(near(part.fetch().unwrap(), 25.0, 40.25));
}

#[test]
fn an_absent_a_damaged_and_a_broken_sht_each_say_so() {
    let mut absent = Sht::new(sht31(), Family::Sht3x, 0x45);
    let error = absent.start().unwrap_err();
    assert_eq!(error.missing_reason(), MissingReason::NoAnswer);

    let mut bus = sht31();
    bus.part.answer[1] ^= 1;
    let mut damaged = Sht::new(bus, Family::Sht3x, sht::ADDRESS);
    damaged.start().unwrap();
    let error = damaged.fetch().unwrap_err();
    assert_eq!(error.missing_reason(), MissingReason::Crc);

    let mut bus = sht31();
    bus.broken = Some(ErrorKind::ArbitrationLoss);
    let error = Sht::new(bus, Family::Sht3x, sht::ADDRESS).start().unwrap_err();
    assert_eq!(error.missing_reason(), MissingReason::Fault);
}

/// A delay that only counts.
struct Counted(u64);

impl embedded_hal_async::delay::DelayNs for Counted {
    async fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
    }
}

/// Runs a future that never has to wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

#[test]
fn the_async_form_waits_as_long_as_the_part_needs() {
    let (mut bus, mut delay) = (sht31(), Counted(0));
    let climate = at_once(sht::measure(&mut bus, &mut delay, Family::Sht3x, sht::ADDRESS));
    assert!(near(climate.unwrap(), 25.0, 37.0));
    assert!(delay.0 >= 15_500_000);
    let absent = at_once(sht::measure(&mut bus, &mut delay, Family::Sht3x, 0x45));
    assert_eq!(absent, Err(PartError::NoAnswer));
}

/// The two registers of an ADS1115 that matter, with a conversion that takes some polls.
struct Converter {
    counts: [i16; 4],
    config: u16,
    conversion: i16,
    pointer: u8,
    busy_reads: u8,
}

impl Part for Converter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ErrorKind> {
        self.pointer = bytes[0];
        if let (1, &[high, low]) = (self.pointer, &bytes[1..]) {
            self.config = u16::from_be_bytes([high, low]);
            if self.config & 0x8000 != 0 {
                // Single-ended inputs are 100b…111b in MUX; PGA must be ±2.048 V (010b).
                let mux = self.config >> 12 & 7;
                assert!(mux >= 4 && self.config >> 9 & 7 == 2, "{:#06x}", self.config);
                self.conversion = self.counts[usize::from(mux) - 4];
                self.busy_reads = 3;
            }
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), ErrorKind> {
        let value = if self.pointer == 0 {
            self.conversion as u16
        } else if self.busy_reads > 0 {
            self.busy_reads -= 1;
            self.config & 0x7FFF
        } else {
            self.config | 0x8000
        };
        into.copy_from_slice(&value.to_be_bytes());
        Ok(())
    }
}

fn ads1115(counts: [i16; 4]) -> OnBus<Converter> {
    OnBus::at(0x48, Converter { counts, config: 0x8583, conversion: 0, pointer: 0, busy_reads: 0 })
}

#[test]
fn each_loop_is_read_from_its_own_input_without_waiting() {
    let mut inputs = LoopInputs::new(ads1115([6_400, 19_200, 32_000, 5_000]), 0x48).unwrap();
    let range = LoopRange::new(100.0, 0.0, 5.0).unwrap();
    let wanted = [Ok(0.0), Ok(2.5), Ok(5.0), Err(MissingReason::OutOfRange)];
    for (number, wanted) in wanted.into_iter().enumerate() {
        inputs.start(Input::from_number(number as u8).unwrap()).unwrap();
        assert_eq!(inputs.fetch(), Ok(None), "a count without a conversion");
        assert_eq!(range.convert(fetch(&mut inputs)), wanted);
        assert_eq!(inputs.fetch(), Err(PartError::NotStarted));
    }
}

fn fetch(inputs: &mut LoopInputs<OnBus<Converter>>) -> i16 {
    (0..10).find_map(|_| inputs.fetch().unwrap()).expect("a count within ten polls")
}

#[test]
fn a_count_nobody_fetched_is_never_taken_for_a_new_one() {
    let bus = std::cell::RefCell::new(ads1115([6_400; 4]));
    let mut inputs = LoopInputs::new(Shared(&bus), 0x48).unwrap();
    inputs.start(Input::A0).unwrap();
    // The round ended without a fetch; by the next one the level has changed.
    bus.borrow_mut().part.busy_reads = 0;
    bus.borrow_mut().part.counts = [19_200; 4];
    inputs.start(Input::A0).unwrap();
    let count = (0..10).find_map(|_| inputs.fetch().unwrap());
    assert_eq!(count, Some(19_200));
}

#[test]
fn a_converter_that_is_not_there_says_so() {
    assert!(LoopInputs::new(ads1115([0; 4]), 0x40).is_none());
    let mut inputs = LoopInputs::new(ads1115([0; 4]), 0x49).unwrap();
    assert_eq!(inputs.start(Input::A0), Err(PartError::NoAnswer));
    assert!(Input::from_number(4).is_none());
}
