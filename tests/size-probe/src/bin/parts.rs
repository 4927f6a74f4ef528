//! Every part's driver, and the engine that runs them: I2C, bit-banged 1-Wire, pins.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::hint::black_box;

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{ErrorType as PinError, InputPin, OutputPin};
use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, Operation};
use panic_halt as _;
use sensors::ezo::Water;
use sensors::onewire::{BitBang, Search};
use sensors::part::{Buses, Driver, Part, Source, Step};
use sensors::rms::{Converter, Rms};

struct Anything;

impl ErrorType for Anything {
    type Error = ErrorKind;
}

impl I2c for Anything {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        black_box((address, operations));
        black_box(Ok(()))
    }
}

impl PinError for Anything {
    type Error = Infallible;
}

impl OutputPin for Anything {
    fn set_low(&mut self) -> Result<(), Infallible> {
        black_box(Ok(()))
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        black_box(Ok(()))
    }
}

impl InputPin for Anything {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(black_box(true))
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(black_box(true))
    }
}

impl DelayNs for Anything {
    fn delay_ns(&mut self, ns: u32) {
        black_box(ns);
    }
}

struct Board(Rms);

impl Buses for Board {
    type I2c<'b> = Anything;
    type Wire<'b> = BitBang<Anything, Anything>;

    fn i2c(&mut self, bus: u8) -> Option<Anything> {
        black_box(bus);
        black_box(Some(Anything))
    }

    fn wire(&mut self, bus: u8) -> Option<BitBang<Anything, Anything>> {
        black_box(bus);
        Some(BitBang::new(Anything, Anything))
    }

    fn contact(&mut self, input: u8) -> Option<bool> {
        black_box(input);
        black_box(None)
    }

    fn count(&mut self, input: u8) -> Option<u32> {
        black_box(input);
        black_box(None)
    }

    fn adc_start(&mut self, input: u8) -> bool {
        self.0.push(black_box(0));
        black_box(input) == 0
    }

    fn adc(&mut self, _input: u8) -> Option<Rms> {
        Some(self.0)
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Board(Rms::new(Converter { rate_hz: 2_000, count_max: 4_095, reference_v: 3.3 }));
    loop {
        black_box(Search::new().next(&mut BitBang::new(Anything, Anything))).ok();
        let Some(part) = Part::from_id(black_box(1)) else { continue };
        let source = Source { part, bus: black_box(0), address: black_box(0x44), rom: black_box(0) };
        let mut driver = Driver::new(source, black_box(0xFF));
        let water = Water { temperature_c: black_box(None), ..Water::default() };
        let mut step = driver.start(&mut board, black_box(0), &water);
        while let Step::Wait { .. } = step {
            step = driver.poll(&mut board, black_box(1));
        }
        for quantity in 0..8 {
            black_box(driver.value(quantity)).ok();
        }
    }
}
