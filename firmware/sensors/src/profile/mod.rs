//! Modbus probes and relay boards as data: which registers a probe has and what they mean, how a
//! board's coils are switched.
//!
//! A probe is described in a TOML file (`profiles/*.toml`), compiled on a host (feature `compile`)
//! to a compact binary and carried in the node's config. Here the binary is validated once
//! ([`Profile::decode`]) and then read in place: a profile costs no RAM beside its bytes.
//!
//! [`Slot`] reads one probe, block by block; [`Profile::convert`] turns a block's registers into
//! values in the unit of the property table, or says why there is none. [`Relay`] makes the
//! requests of a relay board.
//!
//! Deliberately absent: calibration, compensation and quality tests (the node's), and anything
//! that would need code for a new probe.

mod codec;
#[cfg(feature = "compile")]
pub mod compile;
mod convert;
mod relay;
mod slot;

use heapless::Vec;
use telemetry::{MissingReason, Property};

use crate::modbus::{LineSettings, ReadFunction, Request, RequestError, Settings};

pub use codec::ProfileError;
pub use convert::Sample;
pub use relay::{CoilRead, CoilWrite, RELAY_COILS_MAX, Relay, RelayTimeOut};
pub use slot::{Slot, SlotStep, slot_ms_max};

/// Newest version of the binary form. A profile is written in the oldest that says it all, so that
/// an older program can read it: 1 for probes, 2 for relay boards.
pub const PROFILE_VERSION: u8 = 2;
/// Longest binary profile, bytes.
pub const PROFILE_LEN_MAX: usize = 1_024;
/// Longest name, bytes.
pub const NAME_LEN_MAX: usize = 32;
/// Most reads of one probe in a round.
pub const BLOCKS_MAX: usize = 8;
/// Most quantities of one probe.
pub const QUANTITIES_MAX: usize = 16;
/// Most settings of one probe that can be written.
pub const WRITES_MAX: usize = 8;
/// Most raw values of one quantity that stand for "no value".
pub const SENTINELS_MAX: usize = 4;
/// Most values of one quality register that are named.
pub const QUALITY_VALUES_MAX: usize = 8;

/// A validated profile, over the bytes it was decoded from.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'b> {
    name: &'b str,
    address: u8,
    settings: Settings,
    warm_up_ms: u32,
    blocks: codec::Items<'b>,
    quantities: codec::Items<'b>,
    writes: codec::Items<'b>,
    relay: Option<Relay>,
}

/// One read of consecutive registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Function 03 or 04.
    pub function: ReadFunction,
    /// First register, as on the line (from 0).
    pub start: u16,
    /// Registers, 1…125.
    pub count: u8,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One register, unsigned.
    U16,
    /// One register, two's complement.
    I16,
    /// Two registers, unsigned.
    U32,
    /// Two registers, two's complement.
    I32,
    /// Two registers, IEEE 754 single.
    F32,
}

impl Kind {
    /// Registers taken, 1 or 2.
    pub const fn registers(self) -> u8 {
        match self {
            Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
        }
    }
}

/// In which order the pieces of a number come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The register with the lower bits comes first.
    pub low_word_first: bool,
    /// The low byte of a register comes first (against the standard).
    pub low_byte_first: bool,
}

/// How a raw number becomes a value, before the offset is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Divided by a whole number, so that 658 / 10 is the float nearest to 65.8.
    Divide(u16),
    /// Multiplied.
    Multiply(f32),
}

/// A raw range, ends included, in raw units (after sign, before scale).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RawRange {
    /// Least.
    pub min: f32,
    /// Greatest.
    pub max: f32,
}

/// A raw value that stands for "no value".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// Bits of the register or registers, in the number's own order.
    pub bits: u32,
    /// What it means.
    pub reason: MissingReason,
}

/// A register in which the probe says what it thinks of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QualityRegister {
    /// Registers from the start of the quantity's block.
    pub offset: u8,
    /// Values and what they mean; `None` is good.
    pub values: Vec<(u16, Option<MissingReason>), QUALITY_VALUES_MAX>,
    /// What every other value means.
    pub otherwise: MissingReason,
}

/// Which side compensates a reading for salinity and pressure. Doing it twice is wrong by as much
/// as not doing it at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompensatedBy {
    /// Nothing to compensate, or nobody does.
    Nobody,
    /// The probe, from its own registers: the node writes them and leaves the value alone.
    Probe,
    /// The node.
    Node,
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// What is measured; the value is in its unit.
    pub property: Property,
    /// Index of the block that carries it.
    pub block: u8,
    /// Registers from the start of the block.
    pub offset: u8,
    /// What the register holds.
    pub kind: Kind,
    /// In which order.
    pub order: Order,
    /// Raw number to value.
    pub scale: Scale,
    /// Added after scaling, in the property's unit.
    pub add: f32,
    /// Which side compensates.
    pub compensated_by: CompensatedBy,
    /// The probe gives a number without measuring it (the NPK of conductivity probes): every
    /// value is marked doubtful.
    pub doubtful: bool,
    /// Outside it there is no value ([`MissingReason::OutOfRange`]).
    pub valid: Option<RawRange>,
    /// Outside it, but within `valid`, a value is marked doubtful: the probe is at its stop.
    pub trusted: Option<RawRange>,
    /// Raw values without meaning as numbers.
    pub sentinels: Vec<Sentinel, SENTINELS_MAX>,
    /// Where the probe judges the value itself.
    pub quality: Option<QualityRegister>,
}

/// Settings that profiles know how to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Setting {
    /// Salinity of the water for the probe's own compensation, PSU.
    Salinity = 1,
    /// Air pressure for the probe's own compensation, kPa.
    Pressure = 2,
    /// Zero calibration; the value is fixed.
    CalibrateZero = 3,
    /// Full-scale (100 %) calibration; the value is fixed.
    CalibrateFull = 4,
    /// The probe's own address, 1…247.
    Address = 5,
    /// The probe's own rate, bit/s.
    Baud = 6,
    /// Altitude for the probe's own compensation, m.
    Altitude = 7,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Self; 7] = [
        Self::Salinity,
        Self::Pressure,
        Self::CalibrateZero,
        Self::CalibrateFull,
        Self::Address,
        Self::Baud,
        Self::Altitude,
    ];

    /// The setting of this number in the binary.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u8 == id)
    }

    /// Its name in profile files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Salinity => "salinity",
            Self::Pressure => "pressure",
            Self::CalibrateZero => "calibrate_zero",
            Self::CalibrateFull => "calibrate_full",
            Self::Address => "address",
            Self::Baud => "baud",
            Self::Altitude => "altitude",
        }
    }

    /// The setting of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// Most codes of a [`RawValue::Codes`].
pub const CODES_MAX: usize = 8;

/// How a setting becomes the register's value.
#[derive(Clone, Debug, PartialEq)]
pub enum RawValue {
    /// Always this.
    Fixed(u16),
    /// The value times this, rounded.
    Times(f32),
    /// A list of (value, register) pairs.
    Codes(Vec<(u32, u16), CODES_MAX>),
}

/// A setting and the register it is written to.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigWrite {
    /// What is set.
    pub setting: Setting,
    /// The register, as on the line.
    pub register: u16,
    /// Written with function 16 instead of 06.
    pub multiple: bool,
    /// Value to register.
    pub raw: RawValue,
}

/// Why a setting cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The profile names no register for it.
    #[error("this probe has no register for {}", .0.name())]
    Unsupported(Setting),
    /// The register cannot hold it, or no code stands for it.
    #[error("{} cannot take this value", .0.name())]
    Value(Setting),
    /// The request itself is impossible.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl<'b> Profile<'b> {
    /// Validates a binary profile. Total on any bytes: it ends in time linear in their number, and
    /// what it accepts, every other method reads without failing.
    ///
    /// # Errors
    /// Says what is wrong; a profile of a newer version is told from a damaged one.
    pub fn decode(bytes: &'b [u8]) -> Result<Self, ProfileError> {
        codec::decode(bytes)
    }

    /// Name, as in its file: lower case, digits, hyphens.
    pub fn name(&self) -> &'b str {
        self.name
    }

    /// Address the probe is shipped with, 1…247.
    pub fn address(&self) -> u8 {
        self.address
    }

    /// Line settings, timeout and retries the probe is shipped with or needs. A node's config may
    /// say otherwise (another rate, an adapter that echoes).
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Time after power-on before values count, ms.
    pub fn warm_up_ms(&self) -> u32 {
        self.warm_up_ms
    }

    /// The reads of one round, at most [`BLOCKS_MAX`].
    pub fn blocks(&self) -> impl Iterator<Item = Block> + use<'b> {
        self.blocks.iter().map_while(|mut d| codec::block(&mut d).ok())
    }

    /// The quantities, at most [`QUANTITIES_MAX`], in the file's order.
    pub fn quantities(&self) -> impl Iterator<Item = Quantity> + use<'b> {
        self.quantities.iter().map_while(|mut d| codec::quantity(&mut d).ok())
    }

    /// The settings that can be written, at most [`WRITES_MAX`].
    pub fn writes(&self) -> impl Iterator<Item = ConfigWrite> + use<'b> {
        self.writes.iter().map_while(|mut d| codec::write(&mut d).ok())
    }

    /// What it switches; `None` for a probe.
    pub fn relay(&self) -> Option<Relay> {
        self.relay
    }

    /// The read of one block from the slave at `address`.
    ///
    /// # Errors
    /// When the address is not a slave's.
    pub fn request(&self, block: Block, address: u8) -> Result<Request, RequestError> {
        Request::read(address, block.function, block.start, block.count)
    }

    /// The request that writes `setting`; `value` in the setting's unit, ignored where fixed.
    ///
    /// # Errors
    /// When the probe has no such register, or the register cannot hold the value.
    pub fn write_request(&self, setting: Setting, value: f32, address: u8) -> Result<Request, WriteError> {
        let write = self.writes().find(|it| it.setting == setting).ok_or(WriteError::Unsupported(setting))?;
        let raw = write.raw.of(value).ok_or(WriteError::Value(setting))?;
        Ok(if write.multiple {
            Request::write_multiple(address, write.register, &[raw])?
        } else {
            Request::write_single(address, write.register, raw)?
        })
    }
}

impl RawValue {
    /// The register for `value`, or `None` when it has none.
    fn of(&self, value: f32) -> Option<u16> {
        match self {
            Self::Fixed(raw) => Some(*raw),
            Self::Times(factor) => {
                let raw = value * factor + 0.5;
                // No range holds a NaN; the cast then cuts off the fraction only.
                (0.0..65_536.0).contains(&raw).then_some(raw as u16)
            }
            Self::Codes(codes) => codes.iter().find(|(of, _)| *of as f32 == value).map(|(_, raw)| *raw),
        }
    }
}

/// 9600 8N1, no echo, 500 ms, one retry: what holds where a profile says nothing.
impl Default for Settings {
    fn default() -> Self {
        Self { line: LineSettings::DEFAULT, echo: false, response_ms: 500, retries: 1 }
    }
}
