//! What of the board a config uses: parts that give direct inputs, relay boards, and where each
//! actuator's switch is. Numbers of buses and pins are the board's; `tianyu check` knows them.

use minicbor::decode::Decoder;
use minicbor::encode::{Encoder, Error as EncodeError};

use super::image::sized;
use super::{BUSES_MAX, Config, ConfigError, Drive};

/// Most parts that give direct inputs.
pub const INPUTS_MAX: usize = 16;
/// Most relay boards.
pub const RELAYS_MAX: usize = 4;
/// Most coils of one relay board.
pub const COILS_MAX: u8 = sensors::profile::RELAY_COILS_MAX;
/// Longest time-out of a relay board, s.
pub const RELAY_TIME_OUT_S_MAX: u16 = 600;

/// A part that gives a direct input: on I2C, 1-Wire, or a pin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// What part, by its number for ever (`sensors::part::Part`).
    pub part: u8,
    /// The board's number of the I2C or 1-Wire bus; 0 for pins.
    pub bus: u8,
    /// I2C address, or the board's number of a contact, counter or ADC input.
    pub address: u8,
    /// Which of the part's quantities, in the part's order.
    pub quantity: u8,
    /// 1-Wire ROM code; 0 = the only part on its bus.
    pub rom: u64,
    /// The channel's unit per unit of the part: mm per tip, ampere per volt, range of a 4–20 mA loop.
    pub slope: f32,
    /// In the channel's unit.
    pub offset: f32,
}

/// A relay board on a Modbus line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayBoard {
    /// The line, below [`BUSES_MAX`].
    pub bus: u8,
    /// Its address, 1–247.
    pub address: u8,
    /// Index of its profile.
    pub profile: u8,
    /// Without a word from its master for so long it lets go of its coils, s; written to it, and
    /// read back with the coils at least three times in it. 0 = it has no such time-out.
    pub time_out_s: u16,
}

/// Where an actuator is switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// The host knows: a simulation.
    #[default]
    Host,
    /// A pin of the board.
    Pin {
        /// The board's number for it.
        pin: u8,
        /// On is low.
        inverted: bool,
    },
    /// A coil of a relay board. It is switched at most [`Config::switch_ms_max`] after the decision:
    /// an interlock for two that exclude each other has to hold for longer, where one of them is
    /// somewhere else.
    Coil {
        /// Index in [`Config::relays`].
        relay: u8,
        /// From 0.
        coil: u8,
        /// On is an open coil: the contact that is closed when the coil is dead.
        inverted: bool,
    },
}

impl Input {
    /// A part's quantity as it is: slope 1, offset 0, alone on its bus.
    pub const fn new(part: u8, bus: u8, address: u8, quantity: u8) -> Self {
        Self { part, bus, address, quantity, rom: 0, slope: 1.0, offset: 0.0 }
    }

    pub(super) fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        e.array(7)?.u8(self.part)?.u8(self.bus)?.u8(self.address)?.u8(self.quantity)?;
        e.u64(self.rom)?.f32(self.slope)?.f32(self.offset)?;
        Ok(())
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, ConfigError> {
        sized(d, Some(7))?;
        let (part, bus, address, quantity) = (d.u8()?, d.u8()?, d.u8()?, d.u8()?);
        Ok(Self { part, bus, address, quantity, rom: d.u64()?, slope: d.f32()?, offset: d.f32()? })
    }
}

impl RelayBoard {
    pub(super) fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        e.array(4)?.u8(self.bus)?.u8(self.address)?.u8(self.profile)?.u16(self.time_out_s)?;
        Ok(())
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, ConfigError> {
        sized(d, Some(4))?;
        Ok(Self { bus: d.u8()?, address: d.u8()?, profile: d.u8()?, time_out_s: d.u16()? })
    }
}

impl Output {
    pub(super) fn encode<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        match *self {
            Self::Host => e.null()?,
            Self::Pin { pin, inverted } => e.array(2)?.u8(pin)?.bool(inverted)?,
            Self::Coil { relay, coil, inverted } => e.array(3)?.u8(relay)?.u8(coil)?.bool(inverted)?,
        };
        Ok(())
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, ConfigError> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(Self::Host);
        }
        match sized(d, None)? {
            2 => Ok(Self::Pin { pin: d.u8()?, inverted: d.bool()? }),
            3 => Ok(Self::Coil { relay: d.u8()?, coil: d.u8()?, inverted: d.bool()? }),
            _ => Err(ConfigError::Shape),
        }
    }
}

impl Config {
    /// Whether inputs, relay boards and outputs are possible, as far as that shows without the
    /// board's own numbers.
    pub(super) fn validate_wiring(&self) -> Result<(), ConfigError> {
        for (index, input) in (0u8..).zip(&self.inputs) {
            if !(input.slope.is_finite() && input.slope != 0.0 && input.offset.is_finite()) {
                return Err(ConfigError::Input(index));
            }
        }
        for (index, relay) in (0u8..).zip(&self.relays) {
            let taken = |bus, address| (bus, address) == (relay.bus, relay.address);
            let fine = usize::from(relay.bus) < BUSES_MAX
                && (1..=247).contains(&relay.address)
                && self.profile_bytes(relay.profile).is_some()
                && relay.time_out_s <= RELAY_TIME_OUT_S_MAX
                && !self.relays.iter().take(usize::from(index)).any(|other| taken(other.bus, other.address))
                && !self.probes.iter().any(|probe| taken(probe.bus, probe.address));
            if !fine {
                return Err(ConfigError::RelayBoard(index));
            }
            let (_, profile, _) = self.relay(index).ok_or(ConfigError::NoRelayBoard(index))?;
            let possible = || profile.time_out.is_some_and(|it| it.raw(relay.time_out_s).is_some());
            if relay.time_out_s > 0 && !possible() {
                return Err(ConfigError::RelayTimeOut(index));
            }
        }
        for (index, actuator) in (0u8..).zip(&self.actuators) {
            if let Output::Coil { relay, coil, .. } = actuator.output
                && self.relay(relay).is_some_and(|(_, profile, _)| coil >= profile.coils)
            {
                return Err(ConfigError::Coil(index));
            }
            let fine = match actuator.output {
                Output::Host => true,
                Output::Pin { .. } => actuator.drive == Drive::Pin,
                Output::Coil { relay, coil, .. } => self.relays.get(usize::from(relay)).is_some_and(|board| {
                    let times_out = actuator.drive == Drive::RelaysTimeOut;
                    coil < COILS_MAX && actuator.drive != Drive::Pin && (!times_out || board.time_out_s > 0)
                }),
            };
            let place = |output| match output {
                Output::Host => None,
                Output::Pin { pin, .. } => Some((u8::MAX, pin)),
                Output::Coil { relay, coil, .. } => Some((relay, coil)),
            };
            let mine = place(actuator.output);
            let mut others = self.actuators.iter().take(usize::from(index)).map(|other| place(other.output));
            if !fine || mine.is_some() && others.any(|other| other == mine) {
                return Err(ConfigError::Output(index));
            }
        }
        Ok(())
    }
}
