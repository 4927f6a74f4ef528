//! Thermometers on 1-Wire, and what is read from pins: contacts, counters, clamps.

use std::collections::BTreeMap;

use sensors::ezo::Water;
use sensors::onewire::{BitBang, OneWire, Search};
use sensors::part::{Driver, Part, Source, Step};
use sensors::{PartError, Turn, ds18b20::Ds18b20};
use simulator::part::{Bench, Clamp, Gauge, Line, OneWireAt, OneWireBus};
use telemetry::{MissingReason, Property};

fn thermometers() -> (OneWireBus, [u64; 3]) {
    let mut bus = OneWireBus::new();
    // Serial numbers that part early, late, and in the last bit.
    let roms = [
        bus.add(0x0000_0B0B_0001, Property::WaterTemperature, 0.2),
        bus.add(0x0000_0B0B_0003, Property::WaterTemperature, 1.0),
        bus.add(0x8000_0B0B_0001, Property::WaterTemperature, 1.4),
    ];
    (bus, roms)
}

/// Colder below.
fn pond(property: Property, depth_m: f64) -> Option<f64> {
    (property == Property::WaterTemperature).then_some(28.0 - depth_m)
}

fn found(wire: &mut impl OneWire) -> Vec<u64> {
    let mut search = Search::new();
    let mut roms: Vec<u64> = std::iter::from_fn(|| search.next(wire).unwrap()).collect();
    assert_eq!(search.next(wire), Ok(None));
    roms.sort_unstable();
    roms
}

#[test]
fn a_search_finds_every_thermometer_and_nothing_else() {
    let (mut bus, mut roms) = thermometers();
    roms.sort_unstable();
    assert_eq!(found(&mut bus.at(0, &pond)), roms);
    assert!(bus.set_absent(roms[1], true));
    assert_eq!(found(&mut bus.at(0, &pond)), [roms[0], roms[2]]);
    assert_eq!(found(&mut OneWireBus::new().at(0, &pond)), []);
    // More than a search finds; those that it finds are different ones.
    let mut many = OneWireBus::new();
    let roms: Vec<u64> = (0..70_u64).map(|n| many.add(n * 0x1_2345_6789, Property::WaterTemperature, 0.0)).collect();
    let mut some = found(&mut many.at(0, &pond));
    some.dedup();
    assert_eq!(some.len(), 64);
    assert!(some.iter().all(|rom| roms.contains(rom)));
}

#[test]
fn each_thermometer_of_a_string_gives_its_own_depth() {
    let (bus, roms) = thermometers();
    let mut bench = Bench { wires: vec![bus], ..Bench::default() };
    let mut drivers = roms.map(|rom| Driver::new(Source { part: Part::Ds18b20, bus: 0, address: 0, rom }, 1));
    let mut now_us = 5;
    for round in 0..3 {
        for driver in &mut drivers {
            let step = driver.start(&mut bench.at(now_us, &pond), now_us, &Water::default());
            assert!(matches!(step, Step::Wait { .. }), "{step:?}");
            now_us += 1_000;
        }
        now_us += 752_000;
        for (driver, wanted) in drivers.iter_mut().zip([27.8, 27.0, 26.6]) {
            // The dead one's turn ended before the round in which it died.
            assert_eq!(driver.poll(&mut bench.at(now_us, &pond), now_us), Step::Done);
            assert!((driver.value(0).unwrap() - wanted).abs() < 0.04, "{:?}", driver.value(0));
        }
        now_us += 1_000_000 * (round + 1);
    }
    // One dies: it is missing, and none takes its place.
    assert!(bench.wires[0].set_absent(roms[1], true));
    let steps = drivers.each_mut().map(|it| it.start(&mut bench.at(now_us, &pond), now_us, &Water::default()));
    assert_eq!(steps[1], Step::Done);
    assert_eq!(drivers[1].value(0), Err(MissingReason::NoAnswer));
    now_us += 752_000;
    assert_eq!(drivers[2].poll(&mut bench.at(now_us, &pond), now_us), Step::Done);
    assert!((drivers[2].value(0).unwrap() - 26.6).abs() < 0.04);
}

#[test]
fn eighty_five_degrees_after_power_on_are_no_temperature_and_a_bad_check_sum_is_none_either() {
    let (mut bus, roms) = thermometers();
    let mut part = Ds18b20::new(roms[0]);
    let mut now_us = 0;
    let mut turn = |bus: &mut OneWireBus, part: &mut Ds18b20, cut: bool, truth: f64| {
        now_us += 1_000_000;
        let ms = part.start(&mut bus.at(now_us, &|_, _| Some(truth)))?;
        if cut {
            bus.power_cut();
        }
        now_us += u64::from(ms) * 1_000;
        part.fetch(&mut bus.at(now_us, &|_, _| Some(truth)))
    };
    assert_eq!(turn(&mut bus, &mut part, true, 20.0), Err(PartError::PowerOn));
    assert_eq!(turn(&mut bus, &mut part, false, 20.0), Ok(Turn::Done(20.0)));
    assert_eq!(turn(&mut bus, &mut part, true, 20.0), Err(PartError::PowerOn));
    // Where it was nearly as hot before, it may be true.
    assert_eq!(turn(&mut bus, &mut part, false, 84.0), Ok(Turn::Done(84.0)));
    assert_eq!(turn(&mut bus, &mut part, false, 85.0), Ok(Turn::Done(85.0)));
    assert!(bus.set_bad_crc(roms[0], true));
    assert_eq!(turn(&mut bus, &mut part, false, 20.0), Err(PartError::Crc));
    assert_eq!(part.fetch(&mut bus.at(u64::MAX, &pond)), Err(PartError::NotStarted));
    // Several on the bus, and no number: they all talk at once.
    assert!(bus.set_bad_crc(roms[0], false));
    let mut any = Ds18b20::new(0);
    any.start(&mut bus.at(0, &pond)).unwrap();
    assert_eq!(any.fetch(&mut bus.at(750_000, &pond)), Err(PartError::Crc));
}

#[test]
fn slots_made_of_a_pin_are_what_parts_understand() {
    let (bus, mut roms) = thermometers();
    let (line, pin) = Line::new(bus, pond);
    let mut wire = BitBang::new(pin.clone(), pin);
    let mut part = Ds18b20::new(roms[2]);
    roms.sort_unstable();
    assert_eq!(found(&mut wire), roms);
    let ms = part.start(&mut wire).unwrap();
    line.borrow_mut().pass_ms(u64::from(ms));
    let Ok(Turn::Done(celsius)) = part.fetch(&mut wire) else { panic!("no temperature") };
    assert!((celsius - 26.6).abs() < 0.04);
    assert_eq!(line.borrow().violations, 0);
    line.borrow_mut().shorted = true;
    assert_eq!(part.start(&mut wire).unwrap_err().missing_reason(), MissingReason::Fault);
    assert!(Search::new().next(&mut wire).is_err());
    line.borrow_mut().shorted = false;
    let (_, pin) = Line::new(OneWireBus::new(), pond);
    let mut empty = BitBang::new(pin.clone(), pin);
    assert_eq!(part.start(&mut empty), Err(PartError::NoAnswer));
}

/// A bus that turns one bit of what is read.
struct FlipBit<'b>(OneWireAt<'b>, &'b mut i64);

impl OneWire for FlipBit<'_> {
    fn reset(&mut self) -> Result<bool, PartError> {
        self.0.reset()
    }

    fn write_bit(&mut self, bit: bool) -> Result<(), PartError> {
        self.0.write_bit(bit)
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        *self.1 -= 1;
        Ok(self.0.read_bit()? ^ (*self.1 == 0))
    }
}

#[test]
fn a_turned_bit_on_the_wire_is_read_again_and_never_a_wrong_temperature() {
    let (mut bus, roms) = thermometers();
    let mut now_us = 0;
    for flipped in 1..=1 + 72 {
        let mut part = Ds18b20::new(roms[0]);
        let mut left = flipped;
        let started = part.start(&mut FlipBit(bus.at(now_us, &pond), &mut left));
        now_us += 750_000;
        match started {
            // The answer to the start itself.
            Err(error) => assert_eq!((flipped, error), (1, PartError::NoAnswer)),
            Ok(_) => {
                let Ok(Turn::Done(celsius)) = part.fetch(&mut FlipBit(bus.at(now_us, &pond), &mut left)) else {
                    panic!("bit {flipped}");
                };
                assert!((celsius - 27.8).abs() < 0.04);
            }
        }
    }
    // A number that was garbled in a search is no part.
    for serial in 0..16 {
        let mut alone = OneWireBus::new();
        let real = alone.add(serial, Property::WaterTemperature, 0.0);
        for flipped in 1..=128 {
            let mut left = flipped;
            if let Ok(Some(rom)) = Search::new().next(&mut FlipBit(alone.at(now_us, &pond), &mut left)) {
                assert_eq!(rom, real, "bit {flipped}");
            }
        }
    }
}

#[test]
fn mains_rain_and_a_motor_are_read_from_pins() {
    let mut bench = Bench {
        contacts: vec![Property::Mains],
        // Just short of the wrap.
        counters: vec![Gauge::new(Property::Rain, 0.2, u32::MAX - 1)],
        clamps: vec![Clamp::new(Property::MotorCurrent, 1.0 / 30.0, 50.0)],
        ..Bench::default()
    };
    let source = |part, address| Source { part, bus: 0, address, rom: 0 };
    let mut world: BTreeMap<Property, f64> =
        [(Property::MotorCurrent, 3.4), (Property::Mains, 1.0), (Property::Rain, 37.0)].into();
    let mut contact = Driver::new(source(Part::Contact, 0), 1);
    let mut rain = Driver::new(source(Part::Pulse, 0), 3);
    let mut motor = Driver::new(source(Part::AdcRms, 0), 1);
    let water = Water::default();
    let mut tips = 0.0;
    for minute in 0..10_u64 {
        let now_us = minute * 60_000_000;
        let truth = |property: Property, _: f64| world.get(&property).copied();
        let mut board = bench.at(now_us, &truth);
        assert_eq!(contact.start(&mut board, now_us, &water), Step::Done);
        assert_eq!(contact.value(0), Ok(f32::from(u8::from(minute < 5))));
        assert_eq!(rain.start(&mut board, now_us, &water), Step::Done);
        match rain.value(0) {
            Ok(value) => {
                tips += value;
                // 37 mm an hour are a little more than three tips a minute.
                assert_eq!((value, rain.value(1)), (3.0, Ok(0.05)));
            }
            Err(reason) => assert_eq!((minute, reason), (0, MissingReason::NotRead)),
        }
        let Step::Wait { until_us } = motor.start(&mut board, now_us, &water) else { panic!("no window") };
        assert_eq!(until_us, now_us + 102_000);
        assert_eq!(motor.poll(&mut bench.at(until_us, &truth), until_us), Step::Done);
        let ampere = motor.value(0).unwrap() * 30.0;
        let wanted = if minute < 5 { 3.4 } else { 0.0 };
        assert!((ampere - wanted).abs() < 0.02, "{ampere} A");
        if minute == 4 {
            world.insert(Property::Mains, 0.0);
            world.insert(Property::MotorCurrent, 0.0);
        }
    }
    assert_eq!(tips, 27.0);
    // Counted by something that was reset: no flood.
    bench.counters[0].reset();
    let truth = |property: Property, _: f64| world.get(&property).copied();
    assert_eq!(rain.start(&mut bench.at(600_000_000, &truth), 600_000_000, &water), Step::Done);
    assert!(rain.value(0).is_err() || rain.value(0) == Ok(3.0));
    // Inputs that the board does not have.
    for (part, reason) in [
        (Part::Contact, MissingReason::NotRead),
        (Part::Pulse, MissingReason::Fault),
        (Part::AdcRms, MissingReason::Fault),
        (Part::Ds18b20, MissingReason::Fault),
    ] {
        let mut driver = Driver::new(Source { part, bus: 3, address: 7, rom: 0 }, 1);
        assert_eq!(driver.start(&mut bench.at(0, &truth), 0, &water), Step::Done);
        assert_eq!(driver.value(0), Err(reason), "{}", part.name());
    }
}
