//! Parts that answer bits and bytes: on I2C, on 1-Wire, on pins.
//!
//! Each owns its registers, its timing and its failings, written from its datasheet and not from
//! its driver: too early a question is answered as the part would. What it measures is a
//! [`crate::world::World`]'s, handed in with the time at each transaction, so that the same bus
//! serves a test, a host and an emulated board.

mod air;
mod analog;
mod light;
mod water;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};
use sensors::part::{Buses, Part};
use sensors::rms::{Converter, Rms};
use telemetry::Property;

pub use analog::{Clamp, Gauge, Loop};
pub use wire::{Line, LinePin, OneWireAt, OneWireBus};

use crate::world::Chance;

/// What is true of a property at a depth, m.
pub type Truth<'a> = &'a dyn Fn(Property, f64) -> Option<f64>;

/// What ails a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Absent,
    /// It takes commands and acknowledges no read.
    Busy,
    /// The last bit of each answer is turned: the check sum's, where it has one.
    BadCrc,
    /// It gives the values that it had when this began.
    Stuck,
    /// Its answers are random bytes.
    Garbage,
    /// Its own clock stands still: it takes commands and never finishes.
    Stopped,
    /// It holds the bus down, for everybody.
    HoldsBus,
}

/// What a part sees of the world.
struct Seen<'a> {
    now_us: u64,
    truth: &'a dyn Fn(Property) -> Option<f64>,
}

impl Seen<'_> {
    fn value(&self, property: Property) -> f64 {
        (self.truth)(property).unwrap_or(0.0)
    }
}

/// No acknowledge.
#[derive(Debug)]
struct Nack;

/// An I2C part: what it does with what is written to it, and what it gives.
trait Chip: Send {
    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack>;
    fn read(&mut self, into: &mut [u8], seen: &Seen<'_>) -> Result<(), Nack>;
    /// Measures what is due by now.
    fn settle(&mut self, _seen: &Seen<'_>) {}
    /// As after power-on.
    fn reset(&mut self);
}

struct Place {
    address: u8,
    depth_m: f64,
    chip: Box<dyn Chip>,
    fault: Option<Fault>,
    held: BTreeMap<Property, f64>,
    /// When its clock stopped.
    stopped_us: Option<u64>,
}

impl Place {
    /// The part, with what it sees.
    fn see<R>(&mut self, now_us: u64, truth: Truth<'_>, act: impl FnOnce(&mut dyn Chip, &Seen<'_>) -> R) -> R {
        let now_us = match self.fault {
            Some(Fault::Stopped) => *self.stopped_us.get_or_insert(now_us),
            _ => now_us,
        };
        let (depth_m, stuck) = (self.depth_m, self.fault == Some(Fault::Stuck));
        let held = RefCell::new(&mut self.held);
        let truth = |property: Property| {
            let value = truth(property, depth_m)?;
            Some(if stuck { *held.borrow_mut().entry(property).or_insert(value) } else { value })
        };
        act(&mut *self.chip, &Seen { now_us, truth: &truth })
    }
}

/// An I2C bus with its parts.
pub struct I2cBus {
    places: Vec<Place>,
    chance: Chance,
    /// Transactions so far.
    pub transactions: u64,
}

impl I2cBus {
    /// A bus without parts.
    pub fn new(seed: u64) -> Self {
        Self { places: Vec::new(), chance: Chance::new(seed), transactions: 0 }
    }

    /// Puts a part on the bus; `temperature` is which temperature it feels. An ADS1115 goes by
    /// [`I2cBus::add_loops`].
    ///
    /// # Panics
    /// When it is no I2C part, or the address is taken.
    pub fn add(&mut self, part: Part, address: u8, temperature: Property, depth_m: f64) -> &mut Self {
        self.place(
            address,
            depth_m,
            match part {
                Part::Sht3x | Part::Sht4x => Box::new(air::Sht::new(part == Part::Sht4x, temperature)),
                Part::Scd4x => Box::new(air::Scd4x::new(temperature)),
                Part::Bme280 => Box::new(air::Bme280::new(temperature)),
                Part::Bh1750 => Box::new(light::Bh1750::new()),
                Part::Veml7700 => Box::new(light::Veml7700::new()),
                Part::EzoPh | Part::EzoDo | Part::EzoEc | Part::EzoRtd => Box::new(water::Ezo::new(part, temperature)),
                Part::Tmp105 => Box::new(analog::Tmp105::new(temperature)),
                Part::Ads1115 => Box::new(analog::Ads1115::new([None; 4])),
                other => panic!("{} is not on I2C", other.name()),
            },
        )
    }

    /// Puts an ADS1115 with transmitters on its inputs on the bus.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn add_loops(&mut self, address: u8, loops: [Option<Loop>; 4], depth_m: f64) -> &mut Self {
        self.place(address, depth_m, Box::new(analog::Ads1115::new(loops)))
    }

    fn place(&mut self, address: u8, depth_m: f64, chip: Box<dyn Chip>) -> &mut Self {
        assert!(self.places.iter().all(|it| it.address != address), "two parts at {address:#04x}");
        self.places.push(Place { address, depth_m, chip, fault: None, held: BTreeMap::new(), stopped_us: None });
        self
    }

    /// Begins a fault of the part at an address, or ends it. False when there is no such part.
    pub fn set_fault(&mut self, address: u8, fault: Option<Fault>) -> bool {
        let place = self.places.iter_mut().find(|it| it.address == address);
        place.is_some_and(|it| {
            it.held.clear();
            (it.fault, it.stopped_us) = (fault, None);
            true
        })
    }

    /// Takes the part's power away for a moment. False when there is no such part.
    pub fn reset(&mut self, address: u8) -> bool {
        let place = self.places.iter_mut().find(|it| it.address == address);
        place.is_some_and(|it| {
            it.chip.reset();
            true
        })
    }

    /// What the bus does with a transaction at this time.
    ///
    /// # Errors
    /// When nobody acknowledges, or the bus is held down.
    pub fn transaction(
        &mut self,
        address: u8,
        operations: &mut [Operation<'_>],
        now_us: u64,
        truth: Truth<'_>,
    ) -> Result<(), ErrorKind> {
        self.transactions += 1;
        if self.places.iter().any(|it| it.fault == Some(Fault::HoldsBus)) {
            return Err(ErrorKind::ArbitrationLoss);
        }
        let nack = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown);
        let place = self.places.iter_mut().find(|it| it.address == address && it.fault != Some(Fault::Absent));
        let (place, chance) = (place.ok_or(nack)?, &mut self.chance);
        let fault = place.fault;
        place.see(now_us, truth, |chip, seen| {
            chip.settle(seen);
            for operation in operations {
                match operation {
                    Operation::Write(bytes) => chip.write(bytes, seen).map_err(|_| nack)?,
                    Operation::Read(_) if fault == Some(Fault::Busy) => return Err(nack),
                    Operation::Read(into) => {
                        chip.read(into, seen).map_err(|_| nack)?;
                        match (fault, into.last_mut()) {
                            (Some(Fault::BadCrc), Some(last)) => *last ^= 1,
                            (Some(Fault::Garbage), _) => into.fill_with(|| chance.bits() as u8),
                            _ => {}
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Lets every part measure what is due by now. A part does so at each transaction too, with
    /// what is true then; this is for a world that changes between.
    pub fn settle(&mut self, now_us: u64, truth: Truth<'_>) {
        for place in &mut self.places {
            place.see(now_us, truth, |chip, seen| chip.settle(seen));
        }
    }

    /// The bus at this time, as drivers want one.
    pub fn at<'b>(&'b mut self, now_us: u64, truth: Truth<'b>) -> I2cAt<'b> {
        I2cAt { bus: self, now_us, truth }
    }
}

/// An I2C bus at one time.
pub struct I2cAt<'b> {
    bus: &'b mut I2cBus,
    now_us: u64,
    truth: Truth<'b>,
}

impl ErrorType for I2cAt<'_> {
    type Error = ErrorKind;
}

impl I2c for I2cAt<'_> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        self.bus.transaction(address, operations, self.now_us, self.truth)
    }
}

/// The converter of every simulated board.
pub const CONVERTER: Converter = Converter { rate_hz: 2_000, count_max: 4_095, reference_v: 3.3 };

/// Everything that hangs on one board.
#[derive(Default)]
pub struct Bench {
    /// I2C buses by number.
    pub i2c: Vec<I2cBus>,
    /// 1-Wire buses by number.
    pub wires: Vec<OneWireBus>,
    /// What closes each contact: the property is 0.5 or more.
    pub contacts: Vec<Property>,
    /// Gauges on counters.
    pub counters: Vec<Gauge>,
    /// Clamps on ADC inputs.
    pub clamps: Vec<Clamp>,
}

impl Bench {
    /// The board at this time.
    pub fn at<'b>(&'b mut self, now_us: u64, truth: Truth<'b>) -> BenchAt<'b> {
        BenchAt { bench: self, now_us, truth }
    }
}

/// A board's parts at one time: what [`sensors::part::Driver`] wants.
pub struct BenchAt<'b> {
    bench: &'b mut Bench,
    now_us: u64,
    truth: Truth<'b>,
}

impl Buses for BenchAt<'_> {
    type I2c<'c>
        = I2cAt<'c>
    where
        Self: 'c;
    type Wire<'c>
        = OneWireAt<'c>
    where
        Self: 'c;

    fn i2c(&mut self, bus: u8) -> Option<I2cAt<'_>> {
        let (now_us, truth) = (self.now_us, self.truth);
        Some(self.bench.i2c.get_mut(usize::from(bus))?.at(now_us, truth))
    }

    fn wire(&mut self, bus: u8) -> Option<OneWireAt<'_>> {
        let (now_us, truth) = (self.now_us, self.truth);
        Some(self.bench.wires.get_mut(usize::from(bus))?.at(now_us, truth))
    }

    fn contact(&mut self, input: u8) -> Option<bool> {
        let property = *self.bench.contacts.get(usize::from(input))?;
        Some((self.truth)(property, 0.0)? >= 0.5)
    }

    fn count(&mut self, input: u8) -> Option<u32> {
        Some(self.bench.counters.get_mut(usize::from(input))?.count(self.now_us, self.truth))
    }

    fn adc_start(&mut self, input: u8) -> bool {
        self.bench.clamps.get_mut(usize::from(input)).map(|clamp| clamp.begin(self.now_us)).is_some()
    }

    fn adc(&mut self, input: u8) -> Option<Rms> {
        Some(self.bench.clamps.get(usize::from(input))?.window(self.now_us, self.truth))
    }
}
