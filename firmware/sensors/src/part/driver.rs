//! One part's turn, whatever the part.

use core::convert::Infallible;

use embedded_hal::i2c::I2c;
use telemetry::MissingReason;

use super::Part;
use crate::{
    PartError, Turn,
    ads1115::{self, Ads1115, LoopRange},
    bh1750::Bh1750,
    bme280::Bme280,
    ds18b20::Ds18b20,
    ezo::{Circuit, Ezo, Water},
    onewire::OneWire,
    pulse::Pulses,
    rms::Rms,
    scd4x::Scd4x,
    sht::{Family, Sht},
    tmp105::Tmp105,
    veml7700::Veml7700,
};

/// Added to every time that a part needs, µs: the caller's clock was read before the command.
const LATE_US: u64 = 2_000;
/// Inputs of an ADS1115, and more quantities than any other part has.
const VALUES: usize = 4;

/// What a board has for parts. Numbers are the board's own.
pub trait Buses {
    /// An I2C bus, or a handle of one.
    type I2c<'b>: I2c
    where
        Self: 'b;
    /// A 1-Wire bus, or a handle of one; [`NoWire`] where there is none.
    type Wire<'b>: OneWire
    where
        Self: 'b;

    /// The I2C bus of this number.
    fn i2c(&mut self, bus: u8) -> Option<Self::I2c<'_>>;

    /// The 1-Wire bus of this number.
    fn wire(&mut self, _bus: u8) -> Option<Self::Wire<'_>> {
        None
    }

    /// Whether this contact is closed, debounced; none while that is not known.
    fn contact(&mut self, _input: u8) -> Option<bool> {
        None
    }

    /// What this counter has counted; it wraps.
    fn count(&mut self, _input: u8) -> Option<u32> {
        None
    }

    /// Begins a window on this ADC input; false where there is none.
    fn adc_start(&mut self, _input: u8) -> bool {
        false
    }

    /// The window that was begun, as far as it has come.
    fn adc(&mut self, _input: u8) -> Option<Rms> {
        None
    }
}

/// The 1-Wire bus of a board that has none.
#[derive(Clone, Copy, Debug)]
pub struct NoWire(Infallible);

impl OneWire for NoWire {
    fn reset(&mut self) -> Result<bool, PartError> {
        match self.0 {}
    }

    fn write_bit(&mut self, _bit: bool) -> Result<(), PartError> {
        match self.0 {}
    }

    fn read_bit(&mut self) -> Result<bool, PartError> {
        match self.0 {}
    }
}

/// Which part, and where. Inputs that differ in their quantity only share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is.
    pub part: Part,
    /// The board's number of the I2C or 1-Wire bus; 0 for pins.
    pub bus: u8,
    /// I2C address, or the board's number of a contact, counter or ADC input.
    pub address: u8,
    /// 1-Wire ROM code; 0 = the only part on its bus.
    pub rom: u64,
}

/// What a driver wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be polled at this time, not before.
    Wait {
        /// µs of the caller's clock.
        until_us: u64,
    },
    /// Nothing: its turn is over, and its values or their reasons are there.
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Sht(Sht),
    Scd4x(Scd4x),
    Bme280(Bme280),
    Bh1750(Bh1750),
    Veml7700(Veml7700),
    Ezo(Ezo),
    Tmp105(Tmp105),
    Ds18b20(Ds18b20),
    /// And the input whose conversion runs.
    Ads1115(Ads1115, u8),
    Contact,
    Pulse(Pulses),
    /// And the questions so far.
    AdcRms(u8),
}

/// Values of a turn, or what they lack.
type Values = [Result<f32, MissingReason>; VALUES];

/// One part and the turn it is in.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    source: Source,
    wanted: u8,
    kind: Kind,
    /// When to poll; none between turns.
    until_us: Option<u64>,
    values: Values,
}

const NOT_READ: Values = [Err(MissingReason::NotRead); VALUES];

impl Driver {
    /// For a part that gives these quantities (bit n is quantity n). Nothing is sent.
    pub fn new(source: Source, wanted: u8) -> Self {
        let Source { part, address, rom, .. } = source;
        let kind = match part {
            Part::Sht4x => Kind::Sht(Sht::new(Family::Sht4x, address)),
            Part::Sht3x => Kind::Sht(Sht::new(Family::Sht3x, address)),
            Part::Scd4x => Kind::Scd4x(Scd4x::new()),
            Part::Bme280 => Kind::Bme280(Bme280::new(address)),
            Part::Bh1750 => Kind::Bh1750(Bh1750::new(address)),
            Part::Veml7700 => Kind::Veml7700(Veml7700::new(address)),
            Part::EzoPh => Kind::Ezo(Ezo::new(Circuit::Ph, address)),
            Part::EzoDo => Kind::Ezo(Ezo::new(Circuit::Oxygen, address)),
            Part::EzoEc => Kind::Ezo(Ezo::new(Circuit::Conductivity, address)),
            Part::EzoRtd => Kind::Ezo(Ezo::new(Circuit::Temperature, address)),
            Part::Tmp105 => Kind::Tmp105(Tmp105::new(address)),
            Part::Ds18b20 => Kind::Ds18b20(Ds18b20::new(rom)),
            Part::Ads1115 => Kind::Ads1115(Ads1115::new(address), 0),
            Part::Contact => Kind::Contact,
            Part::Pulse => Kind::Pulse(Pulses::new()),
            Part::AdcRms => Kind::AdcRms(0),
        };
        Self { source, wanted, kind, until_us: None, values: NOT_READ }
    }

    /// Which part this is.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Wants this quantity too.
    pub fn want(&mut self, quantity: u8) {
        self.wanted |= 1_u8.checked_shl(u32::from(quantity)).unwrap_or(0);
    }

    /// Begins a turn, and ends one that was not over. The values of the turn before are gone.
    /// `water` is what is known of what the part hangs in, for those that need it.
    pub fn start(&mut self, buses: &mut impl Buses, now_us: u64, water: &Water) -> Step {
        self.values = NOT_READ;
        self.until_us = Some(now_us);
        let begun = self.begin(buses, now_us, water);
        self.go_on(begun, now_us)
    }

    /// Goes on with the turn, when it is time.
    pub fn poll(&mut self, buses: &mut impl Buses, now_us: u64) -> Step {
        match self.until_us {
            None => Step::Done,
            Some(until_us) if now_us < until_us => Step::Wait { until_us },
            Some(_) => {
                let turn = self.fetch(buses);
                self.go_on(turn, now_us)
            }
        }
    }

    /// What the last turn gave.
    ///
    /// # Errors
    /// Why there is no value; [`MissingReason::NotRead`] before the turn is over, and for a
    /// quantity that the part does not have or that nobody wanted.
    pub fn value(&self, quantity: u8) -> Result<f32, MissingReason> {
        let get = |index: usize| self.values.get(index).copied().unwrap_or(Err(MissingReason::NotRead));
        if self.until_us.is_some() || usize::from(quantity) >= self.source.part.quantities().len() {
            return Err(MissingReason::NotRead);
        }
        match self.kind {
            // First the loops of its inputs, then their voltages.
            Kind::Ads1115(..) => {
                let volts = get(usize::from(quantity) % VALUES)?;
                if usize::from(quantity) < VALUES { loop_ma(volts) } else { Ok(volts) }
            }
            _ => get(usize::from(quantity)),
        }
    }

    fn go_on(&mut self, turn: Result<Turn<Values>, MissingReason>, now_us: u64) -> Step {
        match turn {
            Ok(Turn::Later(ms)) => {
                let until_us = now_us + u64::from(ms) * 1_000 + LATE_US;
                self.until_us = Some(until_us);
                return Step::Wait { until_us };
            }
            Ok(Turn::Done(values)) => self.values = values,
            Err(reason) => self.values = [Err(reason); VALUES],
        }
        self.until_us = None;
        Step::Done
    }

    /// First command of a turn; ms until the next.
    fn begin(&mut self, buses: &mut impl Buses, now_us: u64, water: &Water) -> Result<Turn<Values>, MissingReason> {
        let Source { bus, address, .. } = self.source;
        let wanted = self.wanted;
        let started = match &mut self.kind {
            Kind::Contact => {
                return buses.contact(address).map(|it| done([f32::from(u8::from(it))])).ok_or(MissingReason::NotRead);
            }
            Kind::Pulse(pulses) => {
                let count = buses.count(address).ok_or(MissingReason::Fault)?;
                return pulses.take(count, now_us).map(|it| done([it.pulses as f32, it.per_second]));
            }
            Kind::AdcRms(asked) => {
                *asked = 0;
                return if buses.adc_start(address) {
                    Ok(Turn::Later(crate::rms::WINDOW_MS))
                } else {
                    Err(MissingReason::Fault)
                };
            }
            Kind::Ds18b20(part) => part.start(&mut buses.wire(bus).ok_or(MissingReason::Fault)?),
            kind => {
                let i2c = &mut buses.i2c(bus).ok_or(MissingReason::Fault)?;
                match kind {
                    Kind::Sht(part) => part.start(i2c),
                    Kind::Scd4x(part) => part.start(i2c, water.pressure_hpa),
                    Kind::Bme280(part) => part.start(i2c),
                    Kind::Bh1750(part) => part.start(i2c),
                    Kind::Veml7700(part) => part.start(i2c),
                    Kind::Ezo(part) => part.start(i2c, *water),
                    Kind::Tmp105(part) => part.start(i2c),
                    Kind::Ads1115(part, input) => match next_input(wanted, 0) {
                        Some(first) => {
                            *input = first;
                            part.start(i2c, first)
                        }
                        None => Err(PartError::NotStarted),
                    },
                    Kind::Ds18b20(_) | Kind::Contact | Kind::Pulse(_) | Kind::AdcRms(_) => Err(PartError::NotStarted),
                }
            }
        };
        started.map(Turn::Later).map_err(PartError::missing_reason)
    }

    fn fetch(&mut self, buses: &mut impl Buses) -> Result<Turn<Values>, MissingReason> {
        let Source { bus, address, .. } = self.source;
        let turn = match &mut self.kind {
            Kind::Contact | Kind::Pulse(_) => Err(PartError::NotStarted),
            Kind::AdcRms(asked) => {
                return match buses.adc(address).ok_or(MissingReason::Fault)?.volts() {
                    // A board that samples more slowly than it should gets as long again.
                    Err(MissingReason::NotRead) if *asked < 10 => {
                        *asked += 1;
                        Ok(Turn::Later(crate::rms::WINDOW_MS / 10))
                    }
                    volts => volts.map(|it| done([it])),
                };
            }
            Kind::Ds18b20(part) => one(part.fetch(&mut buses.wire(bus).ok_or(MissingReason::Fault)?)),
            kind => {
                let i2c = &mut buses.i2c(bus).ok_or(MissingReason::Fault)?;
                match kind {
                    Kind::Sht(part) => part.fetch(i2c).map(|it| done([it.temperature_c, it.humidity_pct])),
                    Kind::Scd4x(part) => part
                        .fetch(i2c)
                        .map(|turn| turn.map(|it| values([it.co2_ppm, it.temperature_c, it.humidity_pct]))),
                    Kind::Bme280(part) => part
                        .fetch(i2c)
                        .map(|turn| turn.map(|it| values([it.temperature_c, it.humidity_pct, it.pressure_hpa]))),
                    Kind::Bh1750(part) => one(part.fetch(i2c)),
                    Kind::Veml7700(part) => one(part.fetch(i2c)),
                    Kind::Ezo(part) => one(part.fetch(i2c)).map(|turn| match self.source.part {
                        // µS/cm to the property's mS/cm.
                        Part::EzoEc => turn.map(|it| it.map(|value| value.map(|it| it / 1_000.0))),
                        _ => turn,
                    }),
                    Kind::Tmp105(part) => one(part.fetch(i2c)),
                    Kind::Ads1115(part, input) => return convert(part, i2c, input, self.wanted, &mut self.values),
                    Kind::Ds18b20(_) | Kind::Contact | Kind::Pulse(_) | Kind::AdcRms(_) => Err(PartError::NotStarted),
                }
            }
        };
        turn.map_err(PartError::missing_reason)
    }
}

/// Goes through the wanted inputs of an ADS1115, one conversion after the other.
fn convert(
    part: &mut Ads1115,
    i2c: &mut impl I2c,
    input: &mut u8,
    wanted: u8,
    so_far: &mut Values,
) -> Result<Turn<Values>, MissingReason> {
    let count = match part.fetch(i2c).map_err(PartError::missing_reason)? {
        Turn::Later(ms) => return Ok(Turn::Later(ms)),
        Turn::Done(count) => count,
    };
    if let Some(place) = so_far.get_mut(usize::from(*input)) {
        // At its stop the converter cannot tell how much it is.
        *place = if count == i16::MAX { Err(MissingReason::OutOfRange) } else { Ok(ads1115::volts(count)) };
    }
    match next_input(wanted, *input + 1) {
        Some(next) => {
            *input = next;
            part.start(i2c, next).map(Turn::Later).map_err(PartError::missing_reason)
        }
        None => Ok(Turn::Done(*so_far)),
    }
}

/// The first input from `from` on whose loop or voltage is wanted.
fn next_input(wanted: u8, from: u8) -> Option<u8> {
    let inputs = wanted | wanted >> VALUES;
    (from..VALUES as u8).find(|input| inputs >> input & 1 != 0)
}

/// Current of a loop on 100 Ω, mA.
fn loop_ma(volts: f32) -> Result<f32, MissingReason> {
    LoopRange::MILLIAMPERE.of_volts(volts)
}

fn values<const N: usize>(given: [f32; N]) -> Values {
    let mut values = NOT_READ;
    for (place, value) in values.iter_mut().zip(given) {
        // No property is infinite or no number.
        *place = if value.is_finite() { Ok(value) } else { Err(MissingReason::Garbled) };
    }
    values
}

fn done<const N: usize>(given: [f32; N]) -> Turn<Values> {
    Turn::Done(values(given))
}

fn one(turn: Result<Turn<f32>, PartError>) -> Result<Turn<Values>, PartError> {
    turn.map(|turn| turn.map(|it| values([it])))
}
