//! The real node core on parts that answer bytes: direct inputs from the config to the round.

use node::config::{Calibration, Channel, Config, ConfigError, IMAGE_BYTES_MAX, Input, Source as From};
use node::sample::Lines;
use node::{Identity, Io, Node, RestartCause};
use sensors::ezo::Water;
use sensors::modbus::LineSettings;
use sensors::part::{Driver, Part, Source, Step};
use simulator::nor::Nor;
use simulator::part::{Bench, Fault, I2cBus, OneWireBus};
use telemetry::mac::Key;
use telemetry::topic::Up;
use telemetry::{MissingReason, NodeName, Property, Quality};

/// Warm and a little salty.
fn pond(property: Property, _depth_m: f64) -> Option<f64> {
    Some(match property {
        Property::WaterTemperature => 29.0,
        Property::AirTemperature => 24.5,
        Property::RelativeHumidity => 70.0,
        Property::DissolvedOxygen => 4.2,
        Property::Salinity => 12.0,
        Property::AirPressure => 990.0,
        _ => return None,
    })
}

/// A board: a driver for each input of the config.
struct Board {
    bench: Bench,
    inputs: Vec<Input>,
    drivers: Vec<Driver>,
    water: Water,
    now_us: u64,
}

impl Board {
    /// Polls every driver that wants to be; when the next one does.
    fn poll(&mut self, now_us: u64) -> u64 {
        self.now_us = now_us;
        let steps = self.drivers.iter_mut().map(|it| it.poll(&mut self.bench.at(now_us, &pond), now_us));
        let waits = steps.filter_map(|step| match step {
            Step::Wait { until_us } => Some(until_us),
            Step::Done => None,
        });
        waits.min().unwrap_or(u64::MAX)
    }
}

impl Lines for Board {
    fn send(&mut self, _bus: u8, _line: &LineSettings, _frame: &[u8]) {
        unreachable!("no probe is on a line");
    }

    fn receive(&mut self, _bus: u8, _buffer: &mut [u8]) -> usize {
        0
    }
}

impl Io for Board {
    fn water(&mut self, water: &Water) {
        self.water = *water;
    }

    fn round_begins(&mut self) {
        for driver in &mut self.drivers {
            driver.start(&mut self.bench.at(self.now_us, &pond), self.now_us, &self.water);
        }
    }

    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        let at = usize::from(input);
        let Input { quantity, slope, offset, .. } = self.inputs[at];
        Ok(self.drivers[at].value(quantity)? * slope + offset)
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}

    fn publish(&mut self, _channel: Up, _payload: &[u8]) -> bool {
        true
    }
}

/// What hangs on the board, and the config that names it.
fn pond_board() -> (Bench, Config) {
    let mut wire = OneWireBus::new();
    let rom = wire.add(7, Property::WaterTemperature, 0.5);
    wire.add(8, Property::AirTemperature, 0.0);
    let mut bus = I2cBus::new(1);
    bus.add(Part::EzoDo, 0x61, Property::WaterTemperature, 0.5).add(Part::Bme280, 0x76, Property::AirTemperature, 0.0);

    let mut config = Config::new(1);
    (config.period_s, config.salinity_psu) = (20, 12.0);
    let inputs = [
        (Property::WaterTemperature, Input { rom, ..Input::new(Part::Ds18b20.id(), 0, 0, 0) }),
        (Property::DissolvedOxygen, Input::new(Part::EzoDo.id(), 0, 0x61, 0)),
        // Corrected for its height.
        (Property::AirPressure, Input { offset: 2.0, ..Input::new(Part::Bme280.id(), 0, 0x76, 2) }),
    ];
    for (number, (property, input)) in (0..).zip(inputs) {
        config.inputs.push(input).unwrap();
        let (calibration, limits) = (Calibration::default(), Default::default());
        let source = From::Direct { input: number };
        config.channels.push(Channel { property, source, calibration, limits, compensate_with: None }).unwrap();
    }
    (Bench { i2c: vec![bus], wires: vec![wire], ..Bench::default() }, config)
}

struct Run {
    node: Node<Nor>,
    board: Board,
    now_us: u64,
}

impl Run {
    /// Two thermometers on a wire, and an oxygen circuit and a barometer on I2C.
    fn new() -> Self {
        let (bench, config) = pond_board();
        let drivers = config.inputs.iter().map(|input| {
            let part = Part::from_id(input.part).unwrap();
            let source = Source { part, bus: input.bus, address: input.address, rom: input.rom };
            Driver::new(source, 1 << input.quantity)
        });
        let board = Board {
            bench,
            inputs: config.inputs.to_vec(),
            drivers: drivers.collect(),
            water: Water::default(),
            now_us: 0,
        };
        let mut image = vec![0; IMAGE_BYTES_MAX];
        let length = config.encode(&mut image).unwrap();
        let name = NodeName::new("pond-7").unwrap();
        let key = Key::derive(&[3; 32], &name);
        let mut node = Node::new(Identity { name, key, firmware: "0.1.0", board: "host" });
        node.boot(Nor::new(32), &image[..length], 0xABCD << 32 | 77, 0, RestartCause::Power).unwrap();
        Self { node, board, now_us: 0 }
    }

    /// Until one more round is over; what it gave.
    fn round(&mut self) -> Vec<Result<f64, MissingReason>> {
        let before = self.node.counters().rounds;
        for _ in 0..10_000 {
            self.board.poll(self.now_us);
            let wake_us = self.node.poll(self.now_us, &mut self.board);
            if self.node.counters().rounds > before {
                let readings = self.node.round().readings.iter().map(|reading| match reading.quality {
                    Quality::Present { .. } => Ok(self.value(reading.channel, reading.value)),
                    Quality::Missing(reason) => Err(reason),
                });
                return readings.collect();
            }
            // A round may have begun just now.
            self.now_us = wake_us.min(self.board.poll(self.now_us)).max(self.now_us + 1);
        }
        panic!("no round ends");
    }

    fn value(&self, channel: u8, kept: i32) -> f64 {
        [Property::WaterTemperature, Property::DissolvedOxygen, Property::AirPressure][usize::from(channel)].value(kept)
    }
}

#[test]
fn a_round_waits_for_its_slowest_part_and_oxygen_knows_the_water_it_is_in() {
    let mut run = Run::new();
    // Nobody knows the temperature yet: no oxygen, rather than one that is off by a fifth.
    let first = run.round();
    assert!((first[0].unwrap() - 29.0).abs() < 0.07);
    assert_eq!(first[1], Err(MissingReason::Input));
    assert_eq!(first[2], Ok(992.0));
    for _ in 0..3 {
        let readings = run.round();
        assert!((readings[0].unwrap() - 29.0).abs() < 0.07);
        assert!((readings[1].unwrap() - 4.2).abs() < 0.03, "{readings:?}");
    }
    // The thermometer dies: the last temperature counts, and oxygen is still there.
    run.board.bench.wires[0] = OneWireBus::new();
    run.round();
    let readings = run.round();
    assert_eq!(readings[0], Err(MissingReason::NoAnswer));
    assert!((readings[1].unwrap() - 4.2).abs() < 0.03, "{readings:?}");
    // The barometer dies too: only it is missing.
    assert!(run.board.bench.i2c[0].set_fault(0x76, Some(Fault::Absent)));
    let readings = run.round();
    assert_eq!(readings[2], Err(MissingReason::NoAnswer));
    assert!(readings[1].is_ok());
}

#[test]
fn oxygen_that_its_circuit_compensates_is_not_compensated_again() {
    let (_, mut config) = pond_board();
    assert_eq!(config.validate(), Ok(()));
    config.channels[1].compensate_with = Some(0);
    assert_eq!(config.validate(), Err(ConfigError::CompensatedTwice(1)));
    // A transmitter on a loop knows nothing of the water.
    config.inputs[1].part = Part::Ads1115.id();
    assert_eq!(config.validate(), Ok(()));
}
