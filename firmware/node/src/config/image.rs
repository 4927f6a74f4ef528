//! The binary image of a config: CBOR arrays, version first.
//!
//! It is written in the oldest version that says it all, so that an older program can read it and
//! its digest stays. Version 1: 12 elements. Version 2: more of each actuator, then interlocks,
//! place and leaves behind them. Version 3: each actuator's output, then inputs and relay boards.

use heapless::Vec;
use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::write::Cursor;
use minicbor::encode::{Encoder, Error as EncodeError};
use sensors::modbus::{LineSettings, Parity, Settings};
use telemetry::{ActuatorKind, Property};

use super::{
    Actuator, Calibration, Channel, Config, ConfigError, Drive, Formula, IMAGE_BYTES_MAX, IMAGE_VERSION, Input, Manual,
    Output, Probe, Proof, RelayBoard, Source,
};
use crate::control::{Interlock, Rule};
use crate::quality::Limits;
use crate::sun::Place;

/// The check sum by which descriptions name the config of this image. A node takes it of the image that it
/// has, so that it needs no encoder.
pub fn digest(image: &[u8]) -> u32 {
    fold(0, image)
}

fn fold(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        let [a, b, c, d] = sum.to_be_bytes();
        telemetry::report::digest(&[a, b, c, d, *byte])
    })
}

impl Config {
    /// The [`digest`] of this config's image, made piece by piece.
    pub fn digest(&self) -> u32 {
        let mut encoder = Encoder::new(Fold(0));
        match self.write(&mut encoder) {
            Ok(()) => encoder.into_writer().0,
            Err(_) => 0,
        }
    }

    /// Encodes the image; its length.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, ConfigError> {
        let mut encoder = Encoder::new(Cursor::new(buffer));
        self.write(&mut encoder).map_err(|_| ConfigError::TooMany("bytes"))?;
        Ok(encoder.into_writer().position())
    }

    fn write<W: minicbor::encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), EncodeError<W::Error>> {
        let version = self.oldest_version();
        let (length, per_actuator) = lengths(version);
        e.array(length)?.u8(version)?.u16(self.number)?.u16(self.period_s)?.u16(self.batch_records)?;
        e.u16(self.hold_s)?.u16(self.drift_ppm)?.f32(self.salinity_psu)?.f32(self.pressure_hpa)?;
        e.array(self.ends.len() as u64)?;
        for index in 0..self.ends.len() as u8 {
            e.bytes(self.profile_bytes(index).unwrap_or_default())?;
        }
        e.array(self.probes.len() as u64)?;
        for probe in &self.probes {
            e.array(4)?.u8(probe.bus)?.u8(probe.address)?.u8(probe.profile)?;
            match probe.settings {
                None => e.null()?,
                Some(s) => {
                    let parity = match s.line.parity() {
                        Parity::None => 0,
                        Parity::Even => 1,
                        Parity::Odd => 2,
                    };
                    e.array(6)?.u32(s.line.baud())?.u8(parity)?.u8(s.line.stop_bits())?;
                    e.bool(s.echo)?.u16(s.response_ms)?.u8(s.retries)?
                }
            };
        }
        e.array(self.channels.len() as u64)?;
        for channel in &self.channels {
            e.array(8)?.u8(channel.property.id())?;
            match &channel.source {
                Source::Probe { probe, quantity } => e.array(3)?.u8(1)?.u8(*probe)?.u8(*quantity)?,
                Source::Direct { input } => e.array(2)?.u8(2)?.u8(*input)?,
                Source::Computed { formula, inputs } => e.array(3)?.u8(3)?.u8(*formula as u8)?.bytes(inputs)?,
            };
            e.u16(channel.calibration.number)?.f32(channel.calibration.slope)?.f32(channel.calibration.offset)?;
            for limit in [channel.limits.min, channel.limits.max] {
                match limit {
                    Some(limit) => e.f32(limit)?,
                    None => e.null()?,
                };
            }
            match channel.compensate_with {
                Some(with) => e.u8(with)?,
                None => e.null()?,
            };
        }
        e.array(self.actuators.len() as u64)?;
        for actuator in &self.actuators {
            e.array(per_actuator)?.u8(actuator.kind.id())?;
            actuator.rule.encode(e)?;
            if version >= 2 {
                write_actuator(e, actuator)?;
            }
            if version >= 3 {
                actuator.output.encode(e)?;
            }
        }
        if version < 2 {
            return Ok(());
        }
        e.array(self.interlocks.len() as u64)?;
        for interlock in &self.interlocks {
            interlock.encode(e)?;
        }
        match self.place {
            Some(Place { latitude, longitude, utc_offset_min }) => {
                e.array(3)?.f32(latitude)?.f32(longitude)?.i16(utc_offset_min)?
            }
            None => e.null()?,
        };
        e.f32(self.leaf_warmer_c)?;
        if version < 3 {
            return Ok(());
        }
        e.array(self.inputs.len() as u64)?;
        for input in &self.inputs {
            input.encode(e)?;
        }
        e.array(self.relays.len() as u64)?;
        for relay in &self.relays {
            relay.encode(e)?;
        }
        Ok(())
    }

    /// The oldest version that says it all.
    fn oldest_version(&self) -> u8 {
        let wired = self.actuators.iter().any(|actuator| actuator.output != Output::Host);
        match () {
            () if wired || !self.inputs.is_empty() || !self.relays.is_empty() => IMAGE_VERSION,
            () if self.fits_version_1() => 1,
            () => 2,
        }
    }

    fn fits_version_1(&self) -> bool {
        let plain = |actuator: &Actuator| {
            actuator.rule != Rule::Siren && *actuator == Actuator::new(actuator.kind, actuator.rule)
        };
        self.interlocks.is_empty()
            && self.place.is_none()
            && self.leaf_warmer_c == 0.0
            && self.actuators.iter().all(plain)
    }

    /// Decodes and checks an image. Total on any bytes.
    pub fn decode(image: &[u8]) -> Result<Self, ConfigError> {
        let mut config = Self::new(0);
        config.decode_from(image)?;
        Ok(config)
    }

    /// Decodes and checks an image in place: a config takes more room than a small stack should
    /// hold twice. After an error this is no config to run.
    #[inline(never)]
    pub fn decode_from(&mut self, image: &[u8]) -> Result<(), ConfigError> {
        self.clear();
        if image.len() > IMAGE_BYTES_MAX {
            return Err(ConfigError::TooMany("bytes"));
        }
        let mut d = Decoder::new(image);
        let length = d.array()?;
        let version = d.u8()?;
        if version > IMAGE_VERSION {
            return Err(ConfigError::Newer(version));
        }
        let (elements, per_actuator) = lengths(version);
        if version == 0 || length != Some(elements) {
            return Err(ConfigError::Shape);
        }
        self.number = d.u16()?;
        self.period_s = d.u16()?;
        self.batch_records = d.u16()?;
        self.hold_s = d.u16()?;
        self.drift_ppm = d.u16()?;
        self.salinity_psu = d.f32()?;
        self.pressure_hpa = d.f32()?;
        for _ in 0..sized(&mut d, None)? {
            self.add_profile(d.bytes()?)?;
        }
        for _ in 0..sized(&mut d, None)? {
            sized(&mut d, Some(4))?;
            let probe = Probe { bus: d.u8()?, address: d.u8()?, profile: d.u8()?, settings: settings(&mut d)? };
            self.probes.push(probe).map_err(|_| ConfigError::TooMany("probes"))?;
        }
        for _ in 0..sized(&mut d, None)? {
            let channel = channel(&mut d)?;
            self.channels.push(channel).map_err(|_| ConfigError::TooMany("channels"))?;
        }
        for _ in 0..sized(&mut d, None)? {
            sized(&mut d, Some(per_actuator))?;
            let kind = ActuatorKind::from_id(d.u8()?).ok_or(ConfigError::Range("kind of an actuator"))?;
            let mut actuator = Actuator::new(kind, Rule::decode(&mut d)?);
            if version >= 2 {
                read_actuator(&mut d, &mut actuator)?;
            }
            if version >= 3 {
                actuator.output = Output::decode(&mut d)?;
            }
            self.actuators.push(actuator).map_err(|_| ConfigError::TooMany("actuators"))?;
        }
        if version >= 2 {
            for _ in 0..sized(&mut d, None)? {
                let interlock = Interlock::decode(&mut d)?;
                self.interlocks.push(interlock).map_err(|_| ConfigError::TooMany("interlocks"))?;
            }
            self.place = place(&mut d)?;
            self.leaf_warmer_c = d.f32()?;
        }
        if version >= 3 {
            for _ in 0..sized(&mut d, None)? {
                let input = Input::decode(&mut d)?;
                self.inputs.push(input).map_err(|_| ConfigError::TooMany("inputs"))?;
            }
            for _ in 0..sized(&mut d, None)? {
                let relay = RelayBoard::decode(&mut d)?;
                self.relays.push(relay).map_err(|_| ConfigError::TooMany("relay boards"))?;
            }
        }
        if d.position() != image.len() {
            return Err(ConfigError::Shape);
        }
        self.validate()
    }
}

/// Elements of an image and of each actuator in it, by version.
const fn lengths(version: u8) -> (u64, u64) {
    match version {
        0 | 1 => (12, 2),
        2 => (15, 11),
        _ => (17, 12),
    }
}

/// What version 2 says of an actuator beyond version 1.
fn write_actuator<W: minicbor::encode::Write>(
    e: &mut Encoder<W>,
    actuator: &Actuator,
) -> Result<(), EncodeError<W::Error>> {
    e.u8(actuator.drive as u8)?;
    match actuator.restart_on {
        Some(on) => e.bool(on)?,
        None => e.null()?,
    };
    e.u16(actuator.blind_after_s)?.u16(actuator.run_s)?.u16(actuator.soak_s)?.bool(actuator.night_floor)?;
    write_optional(e, actuator.manual.on)?;
    write_optional(e, actuator.manual.off)?;
    match actuator.proof {
        Some(Proof { channel, at_least, within_s, backup }) => {
            e.array(4)?.u8(channel)?.f32(at_least)?.u16(within_s)?;
            write_optional(e, backup)
        }
        None => e.null().map(|_| ()),
    }
}

fn write_optional<W: minicbor::encode::Write>(
    e: &mut Encoder<W>,
    number: Option<u8>,
) -> Result<(), EncodeError<W::Error>> {
    match number {
        Some(number) => e.u8(number)?,
        None => e.null()?,
    };
    Ok(())
}

fn read_actuator(d: &mut Decoder<'_>, actuator: &mut Actuator) -> Result<(), ConfigError> {
    actuator.drive = Drive::from_id(d.u8()?).ok_or(ConfigError::Range("drive"))?;
    actuator.restart_on = optional(d, |d| d.bool())?;
    (actuator.blind_after_s, actuator.run_s, actuator.soak_s) = (d.u16()?, d.u16()?, d.u16()?);
    actuator.night_floor = d.bool()?;
    actuator.manual = Manual { on: optional(d, |d| d.u8())?, off: optional(d, |d| d.u8())? };
    if d.datatype()? == minicbor::data::Type::Null {
        d.null()?;
        return Ok(());
    }
    sized(d, Some(4))?;
    let (channel, at_least, within_s) = (d.u8()?, d.f32()?, d.u16()?);
    actuator.proof = Some(Proof { channel, at_least, within_s, backup: optional(d, |d| d.u8())? });
    Ok(())
}

fn place(d: &mut Decoder<'_>) -> Result<Option<Place>, ConfigError> {
    if d.datatype()? == minicbor::data::Type::Null {
        d.null()?;
        return Ok(None);
    }
    sized(d, Some(3))?;
    Ok(Some(Place { latitude: d.f32()?, longitude: d.f32()?, utc_offset_min: d.i16()? }))
}

/// Folds what is written into one check sum.
struct Fold(u32);

impl minicbor::encode::Write for Fold {
    type Error = core::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0 = fold(self.0, bytes);
        Ok(())
    }
}

impl From<DecodeError> for ConfigError {
    fn from(_: DecodeError) -> Self {
        Self::Shape
    }
}

pub(super) fn sized(d: &mut Decoder<'_>, exactly: Option<u64>) -> Result<u64, ConfigError> {
    match d.array()? {
        Some(length) if exactly.is_none_or(|wanted| wanted == length) => Ok(length),
        _ => Err(ConfigError::Shape),
    }
}

fn optional<'b, T>(
    d: &mut Decoder<'b>,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, DecodeError>,
) -> Result<Option<T>, ConfigError> {
    if d.datatype()? == minicbor::data::Type::Null {
        d.null()?;
        return Ok(None);
    }
    Ok(Some(read(d)?))
}

fn settings(d: &mut Decoder<'_>) -> Result<Option<Settings>, ConfigError> {
    if d.datatype()? == minicbor::data::Type::Null {
        d.null()?;
        return Ok(None);
    }
    sized(d, Some(6))?;
    let baud = d.u32()?;
    let parity = match d.u8()? {
        0 => Parity::None,
        1 => Parity::Even,
        2 => Parity::Odd,
        _ => return Err(ConfigError::Shape),
    };
    let line = LineSettings::new(baud, parity, d.u8()?).ok_or(ConfigError::Range("line settings"))?;
    Ok(Some(Settings { line, echo: d.bool()?, response_ms: d.u16()?, retries: d.u8()? }))
}

fn channel(d: &mut Decoder<'_>) -> Result<Channel, ConfigError> {
    sized(d, Some(8))?;
    let property = Property::from_id(d.u8()?).ok_or(ConfigError::Range("property"))?;
    let fields = sized(d, None)?;
    let source = match (d.u8()?, fields) {
        (1, 3) => Source::Probe { probe: d.u8()?, quantity: d.u8()? },
        (2, 2) => Source::Direct { input: d.u8()? },
        (3, 3) => {
            let formula = Formula::from_id(d.u8()?).ok_or(ConfigError::Range("formula"))?;
            let inputs = Vec::from_slice(d.bytes()?).map_err(|_| ConfigError::TooMany("inputs"))?;
            Source::Computed { formula, inputs }
        }
        _ => return Err(ConfigError::Shape),
    };
    Ok(Channel {
        property,
        source,
        calibration: Calibration { number: d.u16()?, slope: d.f32()?, offset: d.f32()? },
        limits: Limits { min: optional(d, |d| d.f32())?, max: optional(d, |d| d.f32())? },
        compensate_with: optional(d, |d| d.u8())?,
    })
}
