//! The binary form of a profile: CBOR (RFC 8949), arrays only, of definite length.
//!
//! ```text
//! profile  = [version, name, address, baud, framing, warm_up_ms, response_ms, retries,
//!             [* block], [* quantity], [* write], * later]          (version 1)
//! profile  = [version, …, [* write], relay, * later]               (version 2)
//! framing  = parity (0 none, 1 even, 2 odd) + 4 if two stop bits + 8 if the adapter echoes
//! block    = [function, start, count]
//! quantity = [property, block, offset, form, scale, add, flags, valid, trusted, sentinels, quality]
//! form     = kind (0 u16, 1 i16, 2 u32, 3 i32, 4 f32) + 16 if low word first + 32 if low byte first
//! scale    = divisor (unsigned) / factor (float32)
//! flags    = compensated by (0 nobody, 1 probe, 2 node) + 4 if doubtful
//! valid, trusted = null / [min, max] (float32)
//! sentinels = [* (bits, reason)]
//! quality  = null / [offset, otherwise, * (value, reason / null)]
//! write    = [setting, register, 6 / 16, raw]
//! raw      = fixed (unsigned) / factor (float32) / [* (value, register)]
//! relay    = [coils, write, start, on, off, read, start, on, time_out]
//! write    = 5 / 6 / 15, on and off: codes for 6, else 0
//! read     = 1 / 3, on: code for 3, else 0
//! time_out = null / [register, 6 / 16, units per second, min s, max s]
//! ```
//! A profile of version 2 may have no block and no quantity: a board that only switches.
//! Elements may be added at the end of `profile` by later writers of the same version; they are
//! skipped. Anything else is a new version.

use heapless::Vec;
use minicbor::{Decoder, data::Type};
use telemetry::{MissingReason, Property};

use super::{
    BLOCKS_MAX, Block, CODES_MAX, CoilRead, CoilWrite, CompensatedBy, ConfigWrite, Kind, NAME_LEN_MAX, Order,
    PROFILE_LEN_MAX, PROFILE_VERSION, Profile, QUANTITIES_MAX, QualityRegister, Quantity, RELAY_COILS_MAX, RawRange,
    RawValue, Relay, RelayTimeOut, Scale, Sentinel, Setting, WRITES_MAX,
};
use crate::modbus::{LineSettings, Parity, RETRIES_MAX, ReadFunction, Request, Settings};

/// Elements of a profile of version 1; one of version 2 has one more.
const PROFILE_ELEMENTS: u64 = 11;
/// Most elements a profile may have, so that skipping stays bounded.
const PROFILE_ELEMENTS_MAX: u64 = 32;

/// Why bytes are not a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Not the shape of a profile, or cut off.
    #[error("profile is malformed")]
    Malformed,
    /// Longer than [`PROFILE_LEN_MAX`].
    #[error("profile of {0} bytes is too long")]
    TooLong(usize),
    /// Written by a newer compiler.
    #[error("profile version {0} is newer than this firmware")]
    NewerVersion(u8),
    /// A property this firmware does not know.
    #[error("profile measures property {0}, which this firmware does not know")]
    UnknownProperty(u8),
    /// More of something than there is room for.
    #[error("profile has too many {0}")]
    TooMany(&'static str),
    /// A number that makes no sense there.
    #[error("profile has an impossible {0}")]
    Impossible(&'static str),
}

impl From<minicbor::decode::Error> for ProfileError {
    fn from(_: minicbor::decode::Error) -> Self {
        Self::Malformed
    }
}

/// A run of CBOR arrays within the profile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items<'b> {
    bytes: &'b [u8],
    count: usize,
}

impl<'b> Items<'b> {
    /// A decoder at the beginning of each item.
    pub(super) fn iter(self) -> impl Iterator<Item = Decoder<'b>> + use<'b> {
        let mut walk = Decoder::new(self.bytes);
        (0..self.count).map_while(move |_| {
            let here = walk.clone();
            telemetry::skip_item(&mut walk).ok()?;
            Some(here)
        })
    }

    pub(super) fn len(self) -> usize {
        self.count
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Profile<'_>, ProfileError> {
    if bytes.len() > PROFILE_LEN_MAX {
        return Err(ProfileError::TooLong(bytes.len()));
    }
    let mut d = Decoder::new(bytes);
    let elements = array(&mut d)?;
    let version = d.u8()?;
    if version > PROFILE_VERSION {
        return Err(ProfileError::NewerVersion(version));
    }
    let known = PROFILE_ELEMENTS + u64::from(version >= 2);
    if version == 0 || !(known..=PROFILE_ELEMENTS_MAX).contains(&elements) {
        return Err(ProfileError::Malformed);
    }
    let name = d.str()?;
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(ProfileError::Impossible("name"));
    }
    let address = d.u8()?;
    if address == Request::BROADCAST || address > Request::ADDRESS_MAX {
        return Err(ProfileError::Impossible("address"));
    }
    let (baud, framing) = (d.u32()?, d.u8()?);
    let parity = match framing & 3 {
        0 => Parity::None,
        1 => Parity::Even,
        2 => Parity::Odd,
        _ => return Err(ProfileError::Impossible("parity")),
    };
    if framing > 15 {
        return Err(ProfileError::Impossible("framing"));
    }
    let line =
        LineSettings::new(baud, parity, 1 + (framing >> 2 & 1)).ok_or(ProfileError::Impossible("line setting"))?;
    let warm_up_ms = d.u32()?;
    let settings = Settings { line, echo: framing & 8 != 0, response_ms: d.u16()?, retries: d.u8()? };
    if settings.retries > RETRIES_MAX {
        return Err(ProfileError::Impossible("number of retries"));
    }
    let blocks = items(&mut d, bytes, BLOCKS_MAX, "blocks", |d| block(d).map(drop))?;
    if blocks.len() == 0 && version < 2 {
        return Err(ProfileError::Impossible("lack of blocks"));
    }
    let quantities = items(&mut d, bytes, QUANTITIES_MAX, "quantities", |d| {
        let quantity = quantity(d)?;
        let mut block_d =
            blocks.iter().nth(quantity.block.into()).ok_or(ProfileError::Impossible("block of a quantity"))?;
        let count = u16::from(block(&mut block_d)?.count);
        let end = u16::from(quantity.offset) + u16::from(quantity.kind.registers());
        if end > count {
            return Err(ProfileError::Impossible("register of a quantity"));
        }
        match &quantity.quality {
            Some(quality) if u16::from(quality.offset) >= count => Err(ProfileError::Impossible("quality register")),
            _ => Ok(()),
        }
    })?;
    let writes = items(&mut d, bytes, WRITES_MAX, "settings", |d| write(d).map(drop))?;
    let relay = if version >= 2 { Some(relay(&mut d)?) } else { None };
    for _ in known..elements {
        telemetry::skip_item(&mut d).map_err(|_| ProfileError::Malformed)?;
    }
    if d.position() != bytes.len() {
        return Err(ProfileError::Malformed);
    }
    Ok(Profile { name, address, settings, warm_up_ms, blocks, quantities, writes, relay })
}

pub(super) fn block(d: &mut Decoder<'_>) -> Result<Block, ProfileError> {
    if array(d)? != 3 {
        return Err(ProfileError::Malformed);
    }
    let function = ReadFunction::from_code(d.u8()?).ok_or(ProfileError::Impossible("function of a block"))?;
    let (start, count) = (d.u16()?, d.u8()?);
    // The address does not matter for what a read may ask.
    Request::read(1, function, start, count).map_err(|_| ProfileError::Impossible("register count"))?;
    Ok(Block { function, start, count })
}

pub(super) fn quantity(d: &mut Decoder<'_>) -> Result<Quantity, ProfileError> {
    if array(d)? != 11 {
        return Err(ProfileError::Malformed);
    }
    let property = d.u8()?;
    let property = Property::from_id(property).ok_or(ProfileError::UnknownProperty(property))?;
    let (block, offset, form) = (d.u8()?, d.u8()?, d.u8()?);
    let kind = match form & 15 {
        0 => Kind::U16,
        1 => Kind::I16,
        2 => Kind::U32,
        3 => Kind::I32,
        4 => Kind::F32,
        _ => return Err(ProfileError::Impossible("type of a quantity")),
    };
    if form > 63 {
        return Err(ProfileError::Impossible("type of a quantity"));
    }
    let order = Order { low_word_first: form & 16 != 0, low_byte_first: form & 32 != 0 };
    let scale = match d.datatype()? {
        Type::F32 => Scale::Multiply(d.f32()?),
        _ => Scale::Divide(d.u16()?),
    };
    let sound = match scale {
        Scale::Divide(by) => by != 0,
        Scale::Multiply(by) => by.is_finite() && by != 0.0,
    };
    if !sound {
        return Err(ProfileError::Impossible("scale"));
    }
    let add = d.f32()?;
    if !add.is_finite() {
        return Err(ProfileError::Impossible("offset"));
    }
    let flags = d.u8()?;
    let compensated_by = match flags & 3 {
        0 => CompensatedBy::Nobody,
        1 => CompensatedBy::Probe,
        2 => CompensatedBy::Node,
        _ => return Err(ProfileError::Impossible("compensation")),
    };
    if flags > 7 {
        return Err(ProfileError::Impossible("flag"));
    }
    let valid = range(d)?;
    let trusted = range(d)?;
    let mut sentinels = Vec::new();
    for _ in 0..pairs(array(d)?)? {
        let sentinel = Sentinel { bits: d.u32()?, reason: reason(d.u8()?)? };
        sentinels.push(sentinel).map_err(|_| ProfileError::TooMany("sentinels"))?;
    }
    let quality = match d.datatype()? {
        Type::Null => {
            d.null()?;
            None
        }
        _ => Some(quality(d)?),
    };
    Ok(Quantity {
        property,
        block,
        offset,
        kind,
        order,
        scale,
        add,
        compensated_by,
        doubtful: flags & 4 != 0,
        valid,
        trusted,
        sentinels,
        quality,
    })
}

fn quality(d: &mut Decoder<'_>) -> Result<QualityRegister, ProfileError> {
    let elements = array(d)?.checked_sub(2).ok_or(ProfileError::Malformed)?;
    let mut quality = QualityRegister { offset: d.u8()?, otherwise: reason(d.u8()?)?, values: Vec::new() };
    for _ in 0..pairs(elements)? {
        let value = d.u16()?;
        let meaning = match d.datatype()? {
            Type::Null => {
                d.null()?;
                None
            }
            _ => Some(reason(d.u8()?)?),
        };
        quality.values.push((value, meaning)).map_err(|_| ProfileError::TooMany("quality values"))?;
    }
    Ok(quality)
}

pub(super) fn write(d: &mut Decoder<'_>) -> Result<ConfigWrite, ProfileError> {
    if array(d)? != 4 {
        return Err(ProfileError::Malformed);
    }
    let setting = Setting::from_id(d.u8()?).ok_or(ProfileError::Impossible("setting"))?;
    let register = d.u16()?;
    let multiple = match d.u8()? {
        6 => false,
        16 => true,
        _ => return Err(ProfileError::Impossible("function of a setting")),
    };
    let raw = match d.datatype()? {
        Type::F32 => {
            let factor = d.f32()?;
            if !(factor.is_finite() && factor > 0.0) {
                return Err(ProfileError::Impossible("factor of a setting"));
            }
            RawValue::Times(factor)
        }
        Type::Array => {
            let mut codes: Vec<(u32, u16), CODES_MAX> = Vec::new();
            for _ in 0..pairs(array(d)?)? {
                let code = (d.u32()?, d.u16()?);
                codes.push(code).map_err(|_| ProfileError::TooMany("codes"))?;
            }
            RawValue::Codes(codes)
        }
        _ => RawValue::Fixed(d.u16()?),
    };
    Ok(ConfigWrite { setting, register, multiple, raw })
}

fn relay(d: &mut Decoder<'_>) -> Result<Relay, ProfileError> {
    if array(d)? != 9 {
        return Err(ProfileError::Malformed);
    }
    let coils = d.u8()?;
    if coils == 0 || coils > RELAY_COILS_MAX {
        return Err(ProfileError::Impossible("number of coils"));
    }
    let (function, start, on, off) = (d.u8()?, d.u16()?, d.u16()?, d.u16()?);
    let write = match function {
        5 => CoilWrite::Single { start },
        15 => CoilWrite::Multiple { start },
        6 if on != off => CoilWrite::Register { start, on, off },
        _ => return Err(ProfileError::Impossible("way to write coils")),
    };
    let (function, read_start, on) = (d.u8()?, d.u16()?, d.u16()?);
    let read = match function {
        1 => CoilRead::Coils { start: read_start },
        3 => CoilRead::Registers { start: read_start, on },
        _ => return Err(ProfileError::Impossible("way to read coils")),
    };
    for start in [start, read_start] {
        start.checked_add(u16::from(coils) - 1).ok_or(ProfileError::Impossible("address of coils"))?;
    }
    let time_out = match d.datatype()? {
        Type::Null => {
            d.null()?;
            None
        }
        _ => Some(time_out(d)?),
    };
    Ok(Relay { coils, write, read, time_out })
}

fn time_out(d: &mut Decoder<'_>) -> Result<RelayTimeOut, ProfileError> {
    if array(d)? != 5 {
        return Err(ProfileError::Malformed);
    }
    let register = d.u16()?;
    let multiple = match d.u8()? {
        6 => false,
        16 => true,
        _ => return Err(ProfileError::Impossible("function of a time-out")),
    };
    let time_out = RelayTimeOut { register, multiple, per_s: d.u16()?, min_s: d.u16()?, max_s: d.u16()? };
    let RelayTimeOut { per_s, min_s, max_s, .. } = time_out;
    let sound = per_s > 0 && min_s > 0 && min_s <= max_s && max_s.checked_mul(per_s).is_some();
    if sound { Ok(time_out) } else { Err(ProfileError::Impossible("range of a time-out")) }
}

/// Validates an array of at most `max` items and keeps where it lies.
fn items<'b>(
    d: &mut Decoder<'b>,
    bytes: &'b [u8],
    max: usize,
    what: &'static str,
    mut check: impl FnMut(&mut Decoder<'b>) -> Result<(), ProfileError>,
) -> Result<Items<'b>, ProfileError> {
    let count = usize::try_from(array(d)?).unwrap_or(usize::MAX);
    if count > max {
        return Err(ProfileError::TooMany(what));
    }
    let start = d.position();
    for _ in 0..count {
        check(d)?;
    }
    let bytes = bytes.get(start..d.position()).unwrap_or_default();
    Ok(Items { bytes, count })
}

fn range(d: &mut Decoder<'_>) -> Result<Option<RawRange>, ProfileError> {
    if d.datatype()? == Type::Null {
        d.null()?;
        return Ok(None);
    }
    if array(d)? != 2 {
        return Err(ProfileError::Malformed);
    }
    let range = RawRange { min: d.f32()?, max: d.f32()? };
    // Written so that a NaN fails it.
    if range.min <= range.max { Ok(Some(range)) } else { Err(ProfileError::Impossible("range")) }
}

fn reason(id: u8) -> Result<MissingReason, ProfileError> {
    match MissingReason::from_id(id) {
        MissingReason::Unknown => Err(ProfileError::Impossible("reason")),
        reason => Ok(reason),
    }
}

/// Length of an array; arrays of indefinite length have no place here.
fn array(d: &mut Decoder<'_>) -> Result<u64, ProfileError> {
    d.array()?.ok_or(ProfileError::Malformed)
}

fn pairs(elements: u64) -> Result<u64, ProfileError> {
    if elements.is_multiple_of(2) { Ok(elements / 2) } else { Err(ProfileError::Malformed) }
}
