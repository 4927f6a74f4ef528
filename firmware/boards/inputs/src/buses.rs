//! The buses and inputs of a board, as the parts' drivers ask for them.

use embedded_hal::i2c::I2c;
use sensors::onewire::OneWire;
use sensors::part::Buses;
use sensors::rms::Rms;

use crate::Inputs;

/// One I2C bus, one 1-Wire bus and the [`Inputs`].
pub struct PlainBuses<I, W, const C: usize, const P: usize, const A: usize> {
    /// I2C bus 0.
    pub i2c: I,
    /// 1-Wire bus 0.
    pub wire: W,
    /// Contacts, counters, ADC inputs.
    pub inputs: &'static Inputs<C, P, A>,
}

impl<I: I2c, W: OneWire, const C: usize, const P: usize, const A: usize> Buses for PlainBuses<I, W, C, P, A> {
    type I2c<'b>
        = &'b mut I
    where
        Self: 'b;
    type Wire<'b>
        = &'b mut W
    where
        Self: 'b;

    fn i2c(&mut self, bus: u8) -> Option<&mut I> {
        (bus == 0).then_some(&mut self.i2c)
    }

    fn wire(&mut self, bus: u8) -> Option<&mut W> {
        (bus == 0).then_some(&mut self.wire)
    }

    fn contact(&mut self, input: u8) -> Option<bool> {
        self.inputs.contact(input)
    }

    fn count(&mut self, input: u8) -> Option<u32> {
        self.inputs.counted(input)
    }

    fn adc_start(&mut self, input: u8) -> bool {
        self.inputs.begin_window(input)
    }

    fn adc(&mut self, input: u8) -> Option<Rms> {
        self.inputs.window(input)
    }
}
