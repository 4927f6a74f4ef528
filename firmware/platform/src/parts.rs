//! The parts that a config names, run on what the board has for them.

use heapless::Vec;
use node::config::{Config, INPUTS_MAX, Input};
use sensors::ezo::Water;
use sensors::part::{Buses, Driver, Part, Source, Step};
use telemetry::MissingReason;

use crate::board::Parts;

/// Where a direct input gets its value.
#[derive(Clone, Copy, Debug)]
struct Tap {
    /// Index of its driver.
    driver: u8,
    quantity: u8,
    slope: f32,
    offset: f32,
}

/// A driver for each part; inputs that differ in their quantity only share one.
#[derive(Debug)]
pub struct Engine<B> {
    buses: B,
    drivers: Vec<Driver, INPUTS_MAX>,
    taps: Vec<Option<Tap>, INPUTS_MAX>,
    water: Water,
}

impl<B: Buses> Engine<B> {
    /// Without parts, until a config names some.
    pub fn new(buses: B) -> Self {
        Self { buses, drivers: Vec::new(), taps: Vec::new(), water: Water::default() }
    }

    fn tap(&mut self, input: &Input) -> Option<Tap> {
        let Input { part, bus, address, quantity, rom, slope, offset } = *input;
        let source = Source { part: Part::from_id(part)?, bus, address, rom };
        let known = self.drivers.iter().position(|driver| driver.source() == source);
        let driver = known.unwrap_or(self.drivers.len());
        if known.is_none() {
            self.drivers.push(Driver::new(source, 0)).ok()?;
        }
        self.drivers.get_mut(driver)?.want(quantity);
        Some(Tap { driver: u8::try_from(driver).ok()?, quantity, slope, offset })
    }
}

impl<B: Buses> Parts for Engine<B> {
    fn begin(&mut self, config: &Config, _now_us: u64) {
        self.drivers.clear();
        self.taps.clear();
        for input in &config.inputs {
            let tap = self.tap(input);
            // A config has no more inputs than there is room for.
            let _fits = self.taps.push(tap);
        }
    }

    fn water(&mut self, water: &Water) {
        self.water = *water;
    }

    fn round_begins(&mut self, now_us: u64) {
        for driver in &mut self.drivers {
            driver.start(&mut self.buses, now_us, &self.water);
        }
    }

    fn poll(&mut self, now_us: u64) -> u64 {
        let buses = &mut self.buses;
        let steps = self.drivers.iter_mut().map(|driver| match driver.poll(buses, now_us) {
            Step::Wait { until_us } => until_us,
            Step::Done => u64::MAX,
        });
        steps.min().unwrap_or(u64::MAX)
    }

    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        let tap = self.taps.get(usize::from(input)).copied().flatten().ok_or(MissingReason::NotRead)?;
        let driver = self.drivers.get(usize::from(tap.driver)).ok_or(MissingReason::NotRead)?;
        driver.value(tap.quantity).map(|value| value * tap.slope + tap.offset)
    }
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use embedded_hal::i2c::{ErrorType, I2c, Operation};
    use sensors::part::NoWire;

    use super::*;

    /// A TMP105 at each address whose temperature is that address, on bus 1; contacts; a counter.
    struct Bench {
        counted: u32,
        transactions: u32,
    }

    struct Bus<'b>(&'b mut Bench);

    impl ErrorType for Bus<'_> {
        type Error = Infallible;
    }

    impl I2c for Bus<'_> {
        fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Infallible> {
            self.0.transactions += 1;
            for operation in operations {
                if let Operation::Read(bytes) = operation {
                    // 1/256 °C.
                    bytes.fill(0);
                    bytes[0] = address;
                }
            }
            Ok(())
        }
    }

    impl Buses for Bench {
        type I2c<'b> = Bus<'b>;
        type Wire<'b> = NoWire;

        fn i2c(&mut self, bus: u8) -> Option<Bus<'_>> {
            (bus == 1).then_some(Bus(self))
        }

        fn contact(&mut self, input: u8) -> Option<bool> {
            (input < 2).then_some(input == 1)
        }

        fn count(&mut self, input: u8) -> Option<u32> {
            (input == 0).then_some(self.counted)
        }
    }

    fn config(inputs: &[Input]) -> Config {
        let mut config = Config::new(1);
        config.inputs.extend_from_slice(inputs).unwrap();
        config
    }

    /// A round: begins it and polls until nothing is under way.
    fn round(engine: &mut Engine<Bench>, now_us: &mut u64) {
        engine.round_begins(*now_us);
        loop {
            match engine.poll(*now_us) {
                u64::MAX => break,
                until_us => *now_us = until_us,
            }
        }
    }

    #[test]
    fn inputs_get_their_parts_values_in_the_channels_unit() {
        let inputs = [
            Input::new(Part::Tmp105.id(), 1, 0x48, 0),
            Input { slope: 2.0, offset: -4.0, ..Input::new(Part::Tmp105.id(), 1, 0x49, 0) },
            Input::new(Part::Contact.id(), 0, 1, 0),
            Input { slope: 0.2, ..Input::new(Part::Pulse.id(), 0, 0, 0) },
        ];
        let mut engine = Engine::new(Bench { counted: 7, transactions: 0 });
        let mut now_us = 1_000_000;
        engine.begin(&config(&inputs), now_us);
        assert_eq!(engine.direct(0), Err(MissingReason::NotRead), "not before a round");
        round(&mut engine, &mut now_us);
        engine.buses.counted += 10;
        now_us += 10_000_000;
        round(&mut engine, &mut now_us);
        assert_eq!(engine.direct(0), Ok(f32::from(0x48u8)));
        assert_eq!(engine.direct(1), Ok(2.0 * f32::from(0x49u8) - 4.0));
        assert_eq!(engine.direct(2), Ok(1.0));
        assert_eq!(engine.direct(3), Ok(2.0), "ten tips of 0.2 mm");
        assert_eq!(engine.direct(4), Err(MissingReason::NotRead), "there is no such input");
    }

    #[test]
    fn what_the_board_does_not_have_is_missing_and_costs_the_others_nothing() {
        let inputs = [
            Input::new(Part::Tmp105.id(), 0, 0x48, 0),
            Input::new(Part::Ds18b20.id(), 0, 0, 0),
            Input::new(Part::Contact.id(), 0, 9, 0),
            Input::new(0xee, 0, 0, 0),
            Input::new(Part::Tmp105.id(), 1, 0x48, 0),
        ];
        let mut engine = Engine::new(Bench { counted: 0, transactions: 0 });
        let mut now_us = 0;
        engine.begin(&config(&inputs), now_us);
        round(&mut engine, &mut now_us);
        for input in 0..4 {
            assert!(engine.direct(input).is_err(), "input {input}");
        }
        assert_eq!(engine.direct(4), Ok(f32::from(0x48u8)));
    }

    #[test]
    fn quantities_of_one_part_share_its_turn_and_another_config_begins_anew() {
        let both = [0, 1].map(|quantity| Input::new(Part::Pulse.id(), 0, 0, quantity));
        let twice = [Input::new(Part::Tmp105.id(), 1, 0x48, 0); 2];
        let mut engine = Engine::new(Bench { counted: 0, transactions: 0 });
        engine.begin(&config(&both), 0);
        assert_eq!(engine.drivers.len(), 1);
        engine.begin(&config(&twice), 0);
        assert_eq!(engine.drivers.len(), 1);
        let mut now_us = 0;
        round(&mut engine, &mut now_us);
        let alone = engine.buses.transactions;
        engine.begin(&config(&twice[..1]), 0);
        engine.buses.transactions = 0;
        round(&mut engine, &mut now_us);
        assert_eq!(engine.buses.transactions, alone, "one turn for both");
        assert_eq!(engine.direct(1), Err(MissingReason::NotRead));
    }
}
