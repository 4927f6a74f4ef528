//! The binary image of a config: CBOR arrays, version first.

use heapless::Vec;
use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::write::Cursor;
use minicbor::encode::{Encoder, Error as EncodeError};
use sensors::modbus::{LineSettings, Parity, Settings};
use telemetry::Property;
use telemetry::report::digest;

use super::{
    Actuator, Calibration, Channel, Config, ConfigError, Formula, IMAGE_BYTES_MAX, IMAGE_VERSION, Probe, Source,
};
use crate::control::Rule;
use crate::quality::Limits;

impl Config {
    /// The check sum by which descriptions name this config: of its image, piece by piece, so that
    /// it takes no room to make.
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
        e.array(12)?.u8(IMAGE_VERSION)?.u16(self.number)?.u16(self.period_s)?.u16(self.batch_records)?;
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
            e.array(2)?.u8(actuator.kind)?;
            actuator.rule.encode(e)?;
        }
        Ok(())
    }

    /// Decodes and checks an image. Total on any bytes.
    pub fn decode(image: &[u8]) -> Result<Self, ConfigError> {
        if image.len() > IMAGE_BYTES_MAX {
            return Err(ConfigError::TooMany("bytes"));
        }
        let mut d = Decoder::new(image);
        let length = d.array()?;
        let version = d.u8()?;
        if version > IMAGE_VERSION {
            return Err(ConfigError::Newer(version));
        }
        if length != Some(12) || version == 0 {
            return Err(ConfigError::Shape);
        }
        let mut config = Self::new(d.u16()?);
        config.period_s = d.u16()?;
        config.batch_records = d.u16()?;
        config.hold_s = d.u16()?;
        config.drift_ppm = d.u16()?;
        config.salinity_psu = d.f32()?;
        config.pressure_hpa = d.f32()?;
        for _ in 0..sized(&mut d, None)? {
            config.add_profile(d.bytes()?)?;
        }
        for _ in 0..sized(&mut d, None)? {
            sized(&mut d, Some(4))?;
            let probe = Probe { bus: d.u8()?, address: d.u8()?, profile: d.u8()?, settings: settings(&mut d)? };
            config.probes.push(probe).map_err(|_| ConfigError::TooMany("probes"))?;
        }
        for _ in 0..sized(&mut d, None)? {
            let channel = channel(&mut d)?;
            config.channels.push(channel).map_err(|_| ConfigError::TooMany("channels"))?;
        }
        for _ in 0..sized(&mut d, None)? {
            sized(&mut d, Some(2))?;
            let actuator = Actuator { kind: d.u8()?, rule: Rule::decode(&mut d)? };
            config.actuators.push(actuator).map_err(|_| ConfigError::TooMany("actuators"))?;
        }
        if d.position() != image.len() {
            return Err(ConfigError::Shape);
        }
        config.validate()?;
        Ok(config)
    }
}

/// Folds what is written into one check sum.
struct Fold(u32);

impl minicbor::encode::Write for Fold {
    type Error = core::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            let [a, b, c, d] = self.0.to_be_bytes();
            self.0 = digest(&[a, b, c, d, *byte]);
        }
        Ok(())
    }
}

impl From<DecodeError> for ConfigError {
    fn from(_: DecodeError) -> Self {
        Self::Shape
    }
}

fn sized(d: &mut Decoder<'_>, exactly: Option<u64>) -> Result<u64, ConfigError> {
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
