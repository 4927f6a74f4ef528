//! Every I2C part's driver against a part that behaves, or misbehaves, as its datasheet says.

use std::collections::BTreeMap;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, Operation};
use sensors::ezo::Water;
use sensors::part::{Buses, Driver, NoWire, Part, Source, Step};
use sensors::{PartError, Turn, ads1115::Ads1115, bme280::Bme280, scd4x::Scd4x};
use simulator::part::{Bench, Fault, I2cBus, Loop};
use telemetry::{MissingReason, Property};

type World = BTreeMap<Property, f64>;

/// A greenhouse's air over a pond, at its usual address each part.
fn world() -> World {
    [
        (Property::AirTemperature, 25.37),
        (Property::RelativeHumidity, 63.2),
        (Property::AirPressure, 1_008.4),
        (Property::CarbonDioxide, 812.0),
        (Property::Illuminance, 41_300.0),
        (Property::WaterTemperature, 27.4),
        (Property::Ph, 8.21),
        (Property::DissolvedOxygen, 6.35),
        (Property::Salinity, 12.5),
        (Property::Conductivity, 21.35),
        (Property::Level, 1.62),
    ]
    .into()
}

/// Something else of the air, so that no old value passes for a new one. What parts are told of
/// the water stays true.
fn other_air() -> World {
    let same = [Property::WaterTemperature, Property::Salinity, Property::AirPressure];
    world().into_iter().map(|(it, value)| (it, if same.contains(&it) { value } else { value * 0.8 })).collect()
}

const WATER: Water = Water { temperature_c: Some(27.4), salinity: Some(12.5), pressure_hpa: Some(1_008.4) };

/// I2C parts with the temperature that each feels.
const ON_I2C: [(Part, Property); 12] = [
    (Part::Sht4x, Property::AirTemperature),
    (Part::Sht3x, Property::AirTemperature),
    (Part::Scd4x, Property::AirTemperature),
    (Part::Bme280, Property::AirTemperature),
    (Part::Bh1750, Property::AirTemperature),
    (Part::Veml7700, Property::AirTemperature),
    (Part::EzoPh, Property::WaterTemperature),
    (Part::EzoDo, Property::WaterTemperature),
    (Part::EzoEc, Property::WaterTemperature),
    (Part::EzoRtd, Property::WaterTemperature),
    (Part::Tmp105, Property::AirTemperature),
    (Part::Ads1115, Property::AirTemperature),
];

/// Those whose answers carry a check sum.
const WITH_CRC: [Part; 3] = [Part::Sht4x, Part::Sht3x, Part::Scd4x];

const LEVEL: Loop = Loop { property: Property::Level, at_4_ma: 0.0, at_20_ma: 5.0 };

struct Rig {
    bench: Bench,
    driver: Driver,
    world: World,
    now_us: u64,
    /// Polls of the last turn.
    polls: u32,
}

impl Rig {
    /// One part alone on bus 0.
    fn new(part: Part, temperature: Property) -> Self {
        let address = part.addresses()[0];
        let mut bus = I2cBus::new(1);
        if part == Part::Ads1115 {
            bus.add_loops(address, [Some(LEVEL), None, Some(LEVEL), None], 0.0);
        } else {
            bus.add(part, address, temperature, 0.0);
        }
        let bench = Bench { i2c: vec![bus], ..Bench::default() };
        Self::of(bench, Source { part, bus: 0, address, rom: 0 })
    }

    fn of(bench: Bench, source: Source) -> Self {
        let driver = Driver::new(source, u8::MAX);
        Self { bench, driver, world: world(), now_us: 7_000_000, polls: 0 }
    }

    fn part(&self) -> Part {
        self.driver.source().part
    }

    fn start(&mut self) -> Step {
        let Self { bench, driver, world, now_us, .. } = self;
        driver.start(&mut bench.at(*now_us, &|property, _| world.get(&property).copied()), *now_us, &WATER)
    }

    /// Lets the part measure what is due, before the world changes.
    fn settle(&mut self) {
        let Self { bench, world, now_us, .. } = self;
        bench.i2c[0].settle(*now_us, &|property, _| world.get(&property).copied());
    }

    fn poll(&mut self) -> Step {
        let Self { bench, driver, world, now_us, .. } = self;
        driver.poll(&mut bench.at(*now_us, &|property, _| world.get(&property).copied()), *now_us)
    }

    /// Polls as early as the driver allows until the turn is over; its length, ms.
    fn finish(&mut self, mut step: Step) -> u64 {
        let from_us = self.now_us;
        self.polls = 0;
        while let Step::Wait { until_us } = step {
            assert!(until_us > self.now_us, "{} waits for the past", self.part().name());
            self.now_us = until_us;
            self.polls += 1;
            assert!(self.polls < 100, "{} never ends", self.part().name());
            step = self.poll();
        }
        (self.now_us - from_us) / 1_000
    }

    fn turn(&mut self) -> u64 {
        // Between rounds.
        self.now_us += 10_000_000;
        let step = self.start();
        self.finish(step)
    }

    fn values(&self) -> Vec<Result<f32, MissingReason>> {
        (0..self.part().quantities().len()).map(|quantity| self.driver.value(quantity as u8)).collect()
    }

    fn fault(&mut self, fault: Option<Fault>) {
        let address = self.driver.source().address;
        assert!(self.bench.i2c[0].set_fault(address, fault));
    }

    /// What each quantity should be, and how near the part can come; less than 0 for none.
    fn wanted(&self) -> Vec<(f64, f64)> {
        let part = self.part();
        let truth = |property: Property| self.world[&property];
        match part {
            Part::Sht4x | Part::Sht3x => {
                vec![(truth(Property::AirTemperature), 0.005), (truth(Property::RelativeHumidity), 0.005)]
            }
            Part::Scd4x => vec![
                (truth(Property::CarbonDioxide), 1.0),
                (truth(Property::AirTemperature), 0.005),
                (truth(Property::RelativeHumidity), 0.005),
            ],
            Part::Bme280 => vec![
                (truth(Property::AirTemperature), 0.005),
                (truth(Property::RelativeHumidity), 0.02),
                (truth(Property::AirPressure), 0.02),
            ],
            Part::Bh1750 => vec![(truth(Property::Illuminance), 1.0)],
            Part::Veml7700 => vec![(truth(Property::Illuminance), 3.0)],
            Part::EzoPh => vec![(truth(Property::Ph), 0.001)],
            Part::EzoDo => vec![(truth(Property::DissolvedOxygen), 0.02)],
            // To 25 °C, as it was told the temperature.
            Part::EzoEc => vec![(truth(Property::Conductivity) / (1.0 + 0.019 * 2.4), 0.006)],
            Part::EzoRtd => vec![(truth(Property::WaterTemperature), 0.001)],
            Part::Tmp105 => vec![(truth(Property::AirTemperature), 0.07)],
            Part::Ads1115 => {
                let ma = 4.0 + 16.0 * truth(Property::Level) / 5.0;
                vec![
                    (ma, 0.002),
                    (0.0, -1.0),
                    (ma, 0.002),
                    (0.0, -1.0),
                    (ma / 10.0, 1e-4),
                    (0.0, 0.0),
                    (ma / 10.0, 1e-4),
                    (0.0, 0.0),
                ]
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// Every value is there and true.
    fn assert_true(&self) {
        assert!(self.check(|reason| panic!("{} has no value: {reason:?}", self.part().name())) > 0);
    }

    /// What is there is true; how much is there.
    fn assert_true_or_missing(&self) -> usize {
        self.check(|_| {})
    }

    fn check(&self, missing: impl Fn(MissingReason)) -> usize {
        let (part, wanted) = (self.part(), self.wanted());
        let mut there = 0;
        let values = self.values();
        assert_eq!(values.len(), wanted.len(), "{}", part.name());
        for (index, (value, (wanted, within))) in values.into_iter().zip(wanted).enumerate() {
            match value {
                // An open loop.
                Err(MissingReason::OutOfRange) if within < 0.0 => {}
                Err(reason) => missing(reason),
                Ok(value) => {
                    let off = (f64::from(value) - wanted).abs();
                    let name = part.quantities()[index].name;
                    assert!(off <= within, "{name} of {}: {value} instead of {wanted}", part.name());
                    there += 1;
                }
            }
        }
        there
    }

    fn assert_missing(&self, reasons: &[MissingReason]) {
        for value in self.values() {
            let reason = value.expect_err(self.part().name());
            assert!(reasons.contains(&reason), "{}: {reason:?}", self.part().name());
        }
    }
}

fn rigs() -> impl Iterator<Item = Rig> {
    ON_I2C.into_iter().map(|(part, temperature)| Rig::new(part, temperature))
}

#[test]
fn every_part_gives_what_is_true_within_its_time() {
    for mut rig in rigs() {
        assert_eq!(rig.driver.value(0), Err(MissingReason::NotRead));
        for round in 0..4 {
            let lasted_ms = rig.turn();
            rig.assert_true();
            let first = rig.part() == Part::Scd4x && round == 0;
            let ready_ms = if first { 5_500 } else { u64::from(rig.part().ready_ms()) };
            assert!(lasted_ms <= ready_ms + 50, "{} takes {lasted_ms} ms", rig.part().name());
            rig.world = if round % 2 == 0 { other_air() } else { world() };
        }
    }
}

#[test]
fn a_driver_that_waits_leaves_the_bus_alone() {
    for mut rig in rigs() {
        rig.now_us += 1_000_000;
        let Step::Wait { until_us } = rig.start() else { panic!("{} is done at once", rig.part().name()) };
        let before = rig.bench.i2c[0].transactions;
        for now_us in [rig.now_us, until_us - 1] {
            rig.now_us = now_us;
            assert_eq!(rig.poll(), Step::Wait { until_us });
            assert_eq!(rig.driver.value(0), Err(MissingReason::NotRead));
        }
        assert_eq!(rig.bench.i2c[0].transactions, before);
        rig.finish(Step::Wait { until_us });
        rig.assert_true();
        let after = rig.bench.i2c[0].transactions;
        assert_eq!(rig.poll(), Step::Done);
        assert_eq!(rig.bench.i2c[0].transactions, after);
    }
}

#[test]
fn a_part_that_fails_says_why_and_comes_back() {
    use MissingReason::{
        Crc, Exception, Fault as Broken, Garbled, NoAnswer, NotRead, OutOfRange, PowerOnValue, Sentinel,
    };
    let any = [Crc, Exception, Broken, Garbled, NoAnswer, NotRead, OutOfRange, PowerOnValue, Sentinel];
    let faults: [(Fault, &[MissingReason]); 5] = [
        (Fault::Absent, &[NoAnswer]),
        (Fault::Busy, &[NoAnswer]),
        (Fault::HoldsBus, &[Broken]),
        (Fault::BadCrc, &[Crc]),
        (Fault::Garbage, &any),
    ];
    for mut rig in rigs() {
        let part = rig.part();
        for (fault, reasons) in faults {
            rig.turn();
            rig.assert_true();
            rig.fault(Some(fault));
            for _ in 0..3 {
                let lasted_ms = rig.turn();
                assert!(lasted_ms <= u64::from(part.turn_ms_max()), "{} with {fault:?}: {lasted_ms} ms", part.name());
                if WITH_CRC.contains(&part) || !matches!(fault, Fault::BadCrc | Fault::Garbage) {
                    rig.assert_missing(reasons);
                }
            }
            rig.fault(None);
            // One turn may go into starting it anew.
            rig.turn();
            rig.turn();
            rig.assert_true();
        }
    }
}

#[test]
fn a_part_that_never_finishes_is_given_up_in_time() {
    for mut rig in rigs() {
        let part = rig.part();
        let reason = match part {
            // They do not acknowledge, or have no mark of being ready.
            Part::Sht3x | Part::Sht4x => MissingReason::NoAnswer,
            Part::Bh1750 | Part::Veml7700 | Part::Tmp105 => continue,
            _ => MissingReason::Fault,
        };
        rig.turn();
        rig.fault(Some(Fault::Stopped));
        for _ in 0..2 {
            let lasted_ms = rig.turn();
            assert!(lasted_ms <= u64::from(part.turn_ms_max()), "{}: {lasted_ms} ms", part.name());
            rig.assert_missing(&[reason, MissingReason::NoAnswer]);
        }
        // An SCD4x whose clock stands still does not answer its questions either.
        assert!(rig.values().contains(&Err(reason)) || part == Part::Scd4x, "{}: {:?}", part.name(), rig.values());
        rig.fault(None);
        rig.turn();
        rig.turn();
        rig.assert_true();
    }
}

#[test]
fn parts_that_are_asked_too_early_say_so_and_are_asked_again() {
    let world = world();
    let truth = |property: Property, _: f64| world.get(&property).copied();
    let mut bus = I2cBus::new(1);
    bus.add(Part::Bme280, 0x76, Property::AirTemperature, 0.0).add_loops(0x48, [Some(LEVEL); 4], 0.0);
    let mut part = Bme280::new(0x76);
    part.start(&mut bus.at(0, &truth)).unwrap();
    let early = (1..9).all(|ms| matches!(part.fetch(&mut bus.at(ms * 1_000, &truth)), Ok(Turn::Later(_))));
    assert!(early);
    assert!(matches!(part.fetch(&mut bus.at(9_300, &truth)), Ok(Turn::Done(_))));
    let mut part = Ads1115::new(0x48);
    part.start(&mut bus.at(0, &truth), 0).unwrap();
    let early = (1..9).all(|ms| part.fetch(&mut bus.at(ms * 1_000, &truth)) == Ok(Turn::Later(1)));
    assert!(early);
    assert!(matches!(part.fetch(&mut bus.at(8_600, &truth)), Ok(Turn::Done(_))));
    assert_eq!(part.fetch(&mut bus.at(20_000, &truth)), Err(PartError::NotStarted));
    assert_eq!(part.start(&mut bus.at(20_000, &truth), 4), Err(PartError::OutOfRange));

    bus.add(Part::Scd4x, 0x62, Property::AirTemperature, 0.0);
    let mut part = Scd4x::new();
    assert_eq!(part.start(&mut bus.at(0, &truth), None), Ok(500));
    let mut at = |ms: u64| part.fetch(&mut bus.at(ms * 1_000, &truth));
    assert_eq!([at(500), at(500)], [Ok(Turn::Later(0)), Ok(Turn::Later(5_000))]);
    // Not yet, for as long as it is asked; then it is given up.
    for ask in 0..12 {
        assert_eq!([at(600 + 2 * ask), at(601 + 2 * ask)], [Ok(Turn::Later(1)), Ok(Turn::Later(500))]);
    }
    assert_eq!([at(700), at(701)], [Ok(Turn::Later(1)), Err(PartError::Late)]);
    assert_eq!(at(6_000), Err(PartError::NotStarted));
}

#[test]
fn a_part_that_is_stuck_gives_the_same_again_for_the_quality_tests_to_find() {
    for mut rig in rigs() {
        rig.turn();
        rig.fault(Some(Fault::Stuck));
        rig.turn();
        let before = rig.values();
        rig.world.insert(Property::AirTemperature, 12.0);
        rig.world.insert(Property::Illuminance, 5.0);
        rig.turn();
        assert_eq!(rig.values(), before, "{}", rig.part().name());
    }
}

#[test]
fn a_turn_that_nobody_finished_leaves_no_value_for_the_next() {
    for mut rig in rigs() {
        // The length of a turn differs; the next one comes at any moment of it.
        let after = [0, 1, 5, 9, 20, 100, 180, 301, 650, 2_000, 6_000];
        for (after_ms, between_ms) in after.into_iter().flat_map(|it| [(it, 0), (it, 3), (it, 6_000)]) {
            rig.world = world();
            rig.turn();
            rig.assert_true();
            rig.now_us += 10_000_000;
            rig.start();
            rig.now_us += after_ms * 1_000;
            rig.poll();
            rig.settle();
            rig.world = other_air();
            // The node forgot the turn: it begins another.
            rig.now_us += between_ms * 1_000;
            let step = rig.start();
            assert_eq!(rig.driver.value(0), Err(MissingReason::NotRead));
            rig.finish(step);
            rig.assert_true();
        }
    }
}

#[test]
fn a_part_that_loses_its_power_in_a_turn_never_gives_what_it_had() {
    for mut rig in rigs() {
        for cut_at in 0..6 {
            rig.world = world();
            rig.turn();
            rig.turn();
            rig.assert_true();
            rig.settle();
            rig.world = other_air();
            rig.now_us += 10_000_000;
            let mut step = rig.start();
            for poll in 0..100 {
                if poll == cut_at {
                    let address = rig.driver.source().address;
                    assert!(rig.bench.i2c[0].reset(address));
                }
                let Step::Wait { until_us } = step else { break };
                rig.now_us = until_us;
                step = rig.poll();
            }
            assert_eq!(step, Step::Done, "{}", rig.part().name());
            rig.assert_true_or_missing();
        }
    }
}

#[test]
fn a_dead_part_costs_the_others_nothing() {
    let (alive, dead) = (Part::Sht4x, Part::Bme280);
    let mut bus = I2cBus::new(1);
    bus.add(alive, 0x44, Property::AirTemperature, 0.0);
    let world = world();
    let truth = |property: Property, _: f64| world.get(&property).copied();
    let mut bench = Bench { i2c: vec![bus], ..Bench::default() };
    let source = |part: Part, address| Source { part, bus: 0, address, rom: 0 };
    let mut drivers = [Driver::new(source(dead, 0x76), 7), Driver::new(source(alive, 0x44), 3)];
    let mut now_us = 0;
    let steps = drivers.each_mut().map(|it| it.start(&mut bench.at(now_us, &truth), now_us, &Water::default()));
    assert_eq!(steps[0], Step::Done);
    assert!(matches!(steps[1], Step::Wait { .. }));
    now_us += 11_000;
    assert_eq!(drivers[1].poll(&mut bench.at(now_us, &truth), now_us), Step::Done);
    assert_eq!(drivers[0].value(0), Err(MissingReason::NoAnswer));
    assert!(drivers[1].value(1).is_ok());
    // A bus that the board does not have is a fault, not a wait.
    let mut nowhere = Driver::new(Source { part: alive, bus: 1, address: 0x44, rom: 0 }, 3);
    assert_eq!(nowhere.start(&mut bench.at(now_us, &truth), now_us, &Water::default()), Step::Done);
    assert_eq!(nowhere.value(0), Err(MissingReason::Fault));
}

/// What is done to what the parts answer.
#[derive(Clone, Copy)]
enum Harm {
    /// This bit of all that is read in a turn is turned.
    Flip(usize),
    /// From this byte on, nobody drives the bus.
    Cut(usize),
}

/// A board whose bus harms answers on their way.
struct HarmedBuses<'b> {
    bus: &'b mut I2cBus,
    now_us: u64,
    world: &'b World,
    harm: Harm,
    read: &'b mut usize,
}

impl Buses for HarmedBuses<'_> {
    type I2c<'c>
        = &'c mut Self
    where
        Self: 'c;
    type Wire<'c>
        = NoWire
    where
        Self: 'c;

    fn i2c(&mut self, _bus: u8) -> Option<&mut Self> {
        Some(self)
    }
}

impl ErrorType for HarmedBuses<'_> {
    type Error = ErrorKind;
}

impl I2c for HarmedBuses<'_> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let truth = |property: Property, _: f64| self.world.get(&property).copied();
        self.bus.transaction(address, operations, self.now_us, &truth)?;
        for operation in operations {
            let Operation::Read(into) = operation else { continue };
            for byte in into.iter_mut() {
                match self.harm {
                    Harm::Flip(bit) if bit / 8 == *self.read => *byte ^= 1 << (bit % 8),
                    Harm::Cut(from) if *self.read >= from => *byte = 0xFF,
                    _ => {}
                }
                *self.read += 1;
            }
        }
        Ok(())
    }
}

/// One turn with harmed answers; bytes read in it.
fn harmed_turn(rig: &mut Rig, harm: Harm) -> usize {
    let mut read = 0;
    rig.now_us += 10_000_000;
    let mut step = None;
    for _ in 0..100 {
        let Rig { bench, driver, world, now_us, .. } = rig;
        let mut buses = HarmedBuses { bus: &mut bench.i2c[0], now_us: *now_us, world, harm, read: &mut read };
        let now = match step {
            None => driver.start(&mut buses, *now_us, &WATER),
            Some(_) => driver.poll(&mut buses, *now_us),
        };
        let Step::Wait { until_us } = now else { return read };
        *now_us = until_us;
        step = Some(now);
    }
    panic!("{} never ends", rig.part().name());
}

#[test]
fn no_turned_bit_and_no_cut_answer_panics_or_passes_a_check_sum() {
    for mut rig in rigs() {
        let part = rig.part();
        let bytes = harmed_turn(&mut rig, Harm::Flip(usize::MAX));
        assert!(bytes > 0);
        rig.assert_true();
        let right = rig.values();
        let flips = (0..bytes * 8).map(Harm::Flip);
        for harm in flips.chain((0..bytes).map(Harm::Cut)) {
            harmed_turn(&mut rig, harm);
            for (value, right) in rig.values().into_iter().zip(&right) {
                let Ok(value) = value else { continue };
                assert!(value.is_finite());
                let same = right.is_ok_and(|right| (right - value).abs() < 0.3);
                assert!(same || !WITH_CRC.contains(&part), "{}: {value} instead of {right:?}", part.name());
            }
            // It is sound again: one turn may go into starting it anew.
            harmed_turn(&mut rig, Harm::Flip(usize::MAX));
            harmed_turn(&mut rig, Harm::Flip(usize::MAX));
            rig.assert_true();
        }
    }
}

#[test]
fn noise_for_a_thousand_turns_is_never_air() {
    for part in WITH_CRC {
        let mut rig = Rig::new(part, Property::AirTemperature);
        rig.fault(Some(Fault::Garbage));
        let passed = (0..1_000).filter(|_| {
            rig.turn();
            rig.values().iter().any(Result::is_ok)
        });
        // Two check sums of eight bits, both right by chance: one in 65 536.
        assert_eq!(passed.count(), 0, "{}", part.name());
    }
}

#[test]
fn an_scd4x_that_knows_the_pressure_is_right_on_a_mountain() {
    let mut rig = Rig::new(Part::Scd4x, Property::AirTemperature);
    rig.world.insert(Property::AirPressure, 850.0);
    let mut told = |pressure_hpa| {
        rig.now_us += 20_000_000;
        let water = Water { pressure_hpa, ..Water::default() };
        let Rig { bench, driver, world, now_us, .. } = &mut rig;
        let truth = |property: Property, _: f64| world.get(&property).copied();
        let step = driver.start(&mut bench.at(*now_us, &truth), *now_us, &water);
        rig.finish(step);
        rig.driver.value(0).unwrap()
    };
    assert!((told(None) - 681.0).abs() < 1.0);
    assert!((told(Some(850.0)) - 812.0).abs() < 1.0);
    // Nonsense is not told; what the part was told before holds.
    assert!((told(Some(f32::NAN)) - 812.0).abs() < 1.0);
}

#[test]
fn circuits_reckon_with_the_water_that_they_are_told_and_with_the_usual_one_else() {
    let mut rig = Rig::new(Part::EzoEc, Property::WaterTemperature);
    rig.turn();
    rig.assert_true();
    // Told nothing it gives what is, at 25 °C, although it was told something before.
    let water = Water::default();
    let Rig { bench, driver, world, now_us, .. } = &mut rig;
    let truth = |property: Property, _: f64| world.get(&property).copied();
    let step = driver.start(&mut bench.at(*now_us, &truth), *now_us, &water);
    rig.finish(step);
    assert!((rig.driver.value(0).unwrap() - 21.35).abs() < 0.006);

    let mut rig = Rig::new(Part::EzoDo, Property::WaterTemperature);
    let Rig { bench, driver, world, now_us, .. } = &mut rig;
    let truth = |property: Property, _: f64| world.get(&property).copied();
    let step = driver.start(&mut bench.at(*now_us, &truth), *now_us, &water);
    rig.finish(step);
    // As if it were fresh and cold: more than there is.
    assert!(rig.driver.value(0).unwrap() > 7.5);
}

#[test]
fn light_is_measured_from_night_to_full_sun() {
    for (part, brightest) in [(Part::Bh1750, 121_000.0), (Part::Veml7700, 120_000.0)] {
        let mut rig = Rig::new(part, Property::AirTemperature);
        for lux in [0.0, 1.0, 50.0, 999.0, 1_001.0, 20_000.0, 54_000.0, 55_000.0, 80_000.0, brightest] {
            rig.world.insert(Property::Illuminance, lux);
            rig.turn();
            let value = f64::from(rig.driver.value(0).unwrap());
            assert!((value - lux).abs() <= 1.0 + 0.0005 * lux, "{}: {value} instead of {lux}", part.name());
        }
        rig.world.insert(Property::Illuminance, 1e7);
        rig.turn();
        assert_eq!(rig.driver.value(0), Err(MissingReason::OutOfRange));
    }
}
