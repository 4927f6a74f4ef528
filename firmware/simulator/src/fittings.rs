//! What is fitted to an emulated board: simulated parts and switches at the far end of its tunnel.

use embedded_hal::i2c::{ErrorKind, Operation};

use crate::part::{Bench, CONVERTER};
use crate::tunnel::{Moment, Peripherals};

/// Time between two samples of the converter, µs.
const SAMPLE_US: u64 = 1_000_000 / CONVERTER.rate_hz as u64;

/// An output of the board and what it switches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// The actuator of the world that it switches, on while the pin is high.
    pub actuator: Option<u8>,
    /// The pin keeps this level, whatever it is set to: a driver that has burnt through.
    pub stuck: Option<bool>,
    /// Its level.
    pub high: bool,
    /// Times that its level has changed.
    pub changes: u64,
}

/// All of it.
#[derive(Default)]
pub struct Fittings {
    /// Parts on buses, contacts, counters and clamps.
    pub bench: Bench,
    /// Outputs by number.
    pub outputs: Vec<Output>,
    /// When each clamp's window was begun, µs.
    windows: Vec<Option<u64>>,
}

impl Fittings {
    /// These parts, and so many outputs that switch the actuators of the same numbers.
    pub fn new(bench: Bench, outputs: u8) -> Self {
        let output = |number| Output { actuator: Some(number), ..Output::default() };
        let windows = vec![None; bench.clamps.len()];
        Self { bench, outputs: (0..outputs).map(output).collect(), windows }
    }
}

impl Peripherals for Fittings {
    fn i2c(
        &mut self,
        bus: u8,
        address: u8,
        operations: &mut [Operation<'_>],
        at: &mut Moment<'_>,
    ) -> Option<Result<(), ErrorKind>> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        let bus = self.bench.i2c.get_mut(usize::from(bus))?;
        Some(bus.transaction(address, operations, at.now_us, &truth))
    }

    fn set_pin(&mut self, pin: u8, high: bool, at: &mut Moment<'_>) -> Option<bool> {
        let output = self.outputs.get_mut(usize::from(pin))?;
        let level = output.stuck.unwrap_or(high);
        output.changes += u64::from(level != output.high);
        output.high = level;
        if let Some(actuator) = output.actuator {
            at.world.switch(actuator, level);
        }
        Some(level)
    }

    fn pin(&mut self, pin: u8, _at: &mut Moment<'_>) -> Option<bool> {
        self.outputs.get(usize::from(pin)).map(|output| output.stuck.unwrap_or(output.high))
    }

    fn contact(&mut self, input: u8, at: &mut Moment<'_>) -> Option<bool> {
        let property = *self.bench.contacts.get(usize::from(input))?;
        Some(at.world.value(property, 0.0)? >= 0.5)
    }

    fn pulses(&mut self, counter: u8, at: &mut Moment<'_>) -> Option<u32> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        Some(self.bench.counters.get_mut(usize::from(counter))?.count(at.now_us, &truth))
    }

    fn start_adc(&mut self, channel: u8, at: &mut Moment<'_>) -> Option<()> {
        *self.windows.get_mut(usize::from(channel))? = Some(at.now_us);
        Some(())
    }

    fn adc(&mut self, channel: u8, first: u8, count: u8, at: &mut Moment<'_>) -> Option<Vec<u16>> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        let clamp = self.bench.clamps.get(usize::from(channel))?;
        let begun_us = (*self.windows.get(usize::from(channel))?)?;
        let at_us = (u64::from(first)..).map(|number| begun_us + number * SAMPLE_US);
        let come = at_us.take(count.into()).take_while(|at_us| *at_us < at.now_us);
        Some(come.map(|at_us| clamp.sample(at_us, &truth)).collect())
    }

    fn one_wire_reset(&mut self, bus: u8, at: &mut Moment<'_>) -> Option<bool> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        Some(self.bench.wires.get_mut(usize::from(bus))?.reset(at.now_us, &truth))
    }

    fn one_wire_write(&mut self, bus: u8, bit: bool, at: &mut Moment<'_>) -> Option<()> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        self.bench.wires.get_mut(usize::from(bus))?.write_bit(bit, at.now_us, &truth);
        Some(())
    }

    fn one_wire_read(&mut self, bus: u8, at: &mut Moment<'_>) -> Option<bool> {
        let truth = |property, depth_m| at.world.value(property, depth_m);
        Some(self.bench.wires.get_mut(usize::from(bus))?.read_bit(at.now_us, &truth))
    }
}
