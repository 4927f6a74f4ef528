//! The I2C bus. The HAL's driver waits for ever on a bus whose lines are held down; nothing is begun on such
//! a one. A line that is held down from the middle of a transfer on costs one bite of the watchdog.

use embassy_rp::Peri;
use embassy_rp::gpio::{Level, OutputOpenDrain, Pin};
use embassy_rp::i2c::{Blocking, Config, I2c, Instance, SclPin, SdaPin};
use embassy_rp::pac;
use embassy_time::Delay;
use embedded_hal::i2c::{ErrorKind, ErrorType, Operation};

/// The bus.
pub(crate) struct Bus<T: Instance + 'static> {
    i2c: I2c<'static, T, Blocking>,
    /// The bits of SCL and SDA among the pins.
    lines: u32,
}

impl<T: Instance + 'static> Bus<T> {
    /// Frees the bus and takes it.
    pub(crate) fn new<C, D>(peripheral: Peri<'static, T>, mut scl: Peri<'static, C>, mut sda: Peri<'static, D>) -> Self
    where
        C: SclPin<T> + Pin,
        D: SdaPin<T> + Pin,
    {
        let clock = OutputOpenDrain::new(scl.reborrow(), Level::High);
        inputs::i2c::free(clock, OutputOpenDrain::new(sda.reborrow(), Level::High), Delay);
        let lines = 1 << scl.pin() | 1 << sda.pin();
        Self { i2c: I2c::new_blocking(peripheral, scl, sda, Config::default()), lines }
    }
}

impl<T: Instance + 'static> ErrorType for Bus<T> {
    type Error = ErrorKind;
}

impl<T: Instance + 'static> embedded_hal::i2c::I2c for Bus<T> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        if pac::SIO.gpio_in(0).read() & self.lines != self.lines {
            return Err(ErrorKind::Bus);
        }
        let result = embedded_hal::i2c::I2c::transaction(&mut self.i2c, address, operations);
        result.map_err(|error| embedded_hal::i2c::Error::kind(&error))
    }
}
