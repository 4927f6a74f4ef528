//! From the file's shape to the binary, with every check that needs meaning.

use std::{format, ops::Range, string::String, string::ToString, vec::Vec};

use minicbor::Encoder;
use telemetry::{MissingReason, Property};
use toml::Spanned;

use super::{
    CompileError, Compiled,
    document::{Block, Document, Endian, Kind, Parity, Quality, Quantity, Reason, Sentinel, Side, Write},
    relay,
};
use crate::{
    modbus::{self, LineSettings, ReadFunction, Request},
    profile::{
        BLOCKS_MAX, CODES_MAX, NAME_LEN_MAX, PROFILE_LEN_MAX, PROFILE_VERSION, Profile, QUALITY_VALUES_MAX,
        QUANTITIES_MAX, SENTINELS_MAX, Setting, WRITES_MAX,
    },
};

/// Longest response time that a probe may claim, ms: more would let a dead one hold the bus.
const RESPONSE_MS_MAX: u16 = 5_000;
/// Longest warm-up, ms.
const WARM_UP_MS_MAX: u32 = 3_600_000;

/// The file, for errors.
pub(super) struct Place<'t> {
    text: &'t str,
    file: &'t str,
}

impl Place<'_> {
    pub(super) fn error(&self, span: Range<usize>, what: impl Into<String>, right: &str) -> CompileError {
        let right = (!right.is_empty()).then(|| right.to_string());
        CompileError::at(self.text, self.file, Some(span), what, right)
    }
}

pub(super) type Out = Encoder<Vec<u8>>;

pub(super) fn encode(document: Document, text: &str, file: &str) -> Result<Compiled, CompileError> {
    let place = Place { text, file };
    let Document { name, maker, title, verified, line, timing, block, quantity, write, relay } = document;
    let sound = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.get_ref().is_empty() || name.get_ref().len() > NAME_LEN_MAX || !sound(name.get_ref()) {
        return Err(place.error(
            name.span(),
            format!("{:?} is no profile name", name.get_ref()),
            &format!("use 1 to {NAME_LEN_MAX} lower-case letters, digits and hyphens"),
        ));
    }
    if !(1..=Request::ADDRESS_MAX).contains(line.address.get_ref()) {
        return Err(place.error(
            line.address.span(),
            format!("{} is no slave's address", line.address.get_ref()),
            "use 1 to 247",
        ));
    }
    let (parity, parity_bits) = match line.parity {
        Parity::None => (modbus::Parity::None, 0),
        Parity::Even => (modbus::Parity::Even, 1),
        Parity::Odd => (modbus::Parity::Odd, 2),
    };
    let stop_bits = line.stop_bits.as_ref().map_or(1, |it| *it.get_ref());
    if LineSettings::new(*line.baud.get_ref(), parity, 1).is_none() {
        return Err(place.error(
            line.baud.span(),
            format!("{} bit/s is not supported", line.baud.get_ref()),
            "use 1200 to 115200",
        ));
    }
    if let Some(it) = line.stop_bits.as_ref().filter(|it| !(1..=2).contains(it.get_ref())) {
        return Err(place.error(it.span(), "no line has that many stop bits", "use 1 or 2"));
    }
    let warm_up_ms = within(&place, timing.warm_up_ms, 0, 0, WARM_UP_MS_MAX)?;
    let response_ms = within(&place, timing.response_ms, 500, 10, RESPONSE_MS_MAX)?;
    let retries = within(&place, timing.retries, 1, 0, modbus::RETRIES_MAX)?;
    limit(&place, &block, BLOCKS_MAX, "blocks")?;
    limit(&place, &quantity, QUANTITIES_MAX, "quantities")?;
    limit(&place, &write, WRITES_MAX, "settings to write")?;

    if (block.is_empty() || quantity.is_empty()) && relay.is_none() {
        return Err(place.error(
            name.span(),
            "the profile neither reads nor switches anything",
            "add a [[block]] and a [[quantity]], or [relay]",
        ));
    }

    let mut out = Encoder::new(Vec::new());
    let done = (|| {
        let framing = parity_bits + ((stop_bits - 1) << 2) + (u8::from(line.echo) << 3);
        let (elements, version) = if relay.is_some() { (12, PROFILE_VERSION) } else { (11, 1) };
        out.array(elements)?.u8(version)?.str(name.get_ref())?;
        out.u8(*line.address.get_ref())?.u32(*line.baud.get_ref())?.u8(framing)?;
        out.u32(warm_up_ms)?.u16(response_ms)?.u8(retries)?;
        out.array(block.len() as u64)?;
        for it in &block {
            encode_block(&place, &mut out, it)?;
        }
        out.array(quantity.len() as u64)?;
        for it in &quantity {
            encode_quantity(&place, &mut out, it, &block)?;
        }
        out.array(write.len() as u64)?;
        for it in &write {
            encode_write(&place, &mut out, it)?;
        }
        if let Some(it) = &relay {
            relay::encode(&place, &mut out, it)?;
        }
        Ok(())
    })();
    match done {
        Ok(()) => {}
        Err(Failed::Wrong(error)) => return Err(error),
        Err(Failed::Write(error)) => {
            return Err(place.error(name.span(), format!("the profile cannot be written: {error}"), ""));
        }
    }
    let bytes = out.into_writer();
    if bytes.len() > PROFILE_LEN_MAX {
        return Err(place.error(
            name.span(),
            format!("the profile takes {} bytes", bytes.len()),
            &format!("the node has room for {PROFILE_LEN_MAX}: leave out what is not needed"),
        ));
    }
    // What the node would refuse must not leave the host.
    if let Err(error) = Profile::decode(&bytes) {
        return Err(place.error(name.span(), error.to_string(), ""));
    }
    Ok(Compiled {
        name: name.into_inner(),
        maker,
        title_zh: title.zh,
        title_en: title.en,
        verified: verified.by,
        source: verified.source,
        bytes,
    })
}

pub(super) type WriteFailure = minicbor::encode::Error<core::convert::Infallible>;

pub(super) enum Failed {
    Wrong(CompileError),
    Write(WriteFailure),
}

impl From<CompileError> for Failed {
    fn from(error: CompileError) -> Self {
        Self::Wrong(error)
    }
}

impl From<WriteFailure> for Failed {
    fn from(error: WriteFailure) -> Self {
        Self::Write(error)
    }
}

fn within<T: PartialOrd + Copy + core::fmt::Display>(
    place: &Place<'_>,
    value: Option<Spanned<T>>,
    default: T,
    min: T,
    max: T,
) -> Result<T, CompileError> {
    match value {
        None => Ok(default),
        Some(it) if *it.get_ref() >= min && *it.get_ref() <= max => Ok(*it.get_ref()),
        Some(it) => {
            Err(place.error(it.span(), format!("{} is out of range", it.get_ref()), &format!("use {min} to {max}")))
        }
    }
}

fn limit<T>(place: &Place<'_>, items: &[Spanned<T>], max: usize, what: &str) -> Result<(), CompileError> {
    match items.get(max) {
        None => Ok(()),
        Some(it) => Err(place.error(it.span(), format!("too many {what}"), &format!("a probe has room for {max}"))),
    }
}

fn encode_block(place: &Place<'_>, out: &mut Out, it: &Spanned<Block>) -> Result<(), Failed> {
    let block = it.get_ref();
    let Some(function) = ReadFunction::from_code(*block.function.get_ref()) else {
        return Err(place
            .error(
                block.function.span(),
                format!("function {} does not read registers", block.function.get_ref()),
                "use 3 (holding registers) or 4 (input registers)",
            )
            .into());
    };
    if let Err(error) = Request::read(1, function, block.start, *block.count.get_ref()) {
        return Err(place
            .error(block.count.span(), error.to_string(), "use 1 to 125, ending at register 65535 at the latest")
            .into());
    }
    out.array(3)?.u8(function.code())?.u16(block.start)?.u8(*block.count.get_ref())?;
    Ok(())
}

/// Index and start of the block that holds `count` registers from `register`.
fn find_block(blocks: &[Spanned<Block>], function: Option<u8>, register: u16, count: u8) -> Option<(u8, u16)> {
    let wanted = u32::from(register)..u32::from(register) + u32::from(count);
    let at = blocks.iter().position(|it| {
        let block = it.get_ref();
        let end = u32::from(block.start) + u32::from(*block.count.get_ref());
        u32::from(block.start) <= wanted.start
            && wanted.end <= end
            && function.is_none_or(|it| it == *block.function.get_ref())
    })?;
    let start = blocks.get(at)?.get_ref().start;
    Some((u8::try_from(at).ok()?, start))
}

fn encode_quantity(
    place: &Place<'_>,
    out: &mut Out,
    it: &Spanned<Quantity>,
    blocks: &[Spanned<Block>],
) -> Result<(), Failed> {
    let quantity = it.get_ref();
    let property = property(place, &quantity.property)?;
    let facts = property.facts();
    let unit = quantity.unit.get_ref();
    if unit != facts.unit && unit != facts.symbol {
        return Err(place
            .error(
                quantity.unit.span(),
                format!("{} is not kept in {unit:?}", facts.name),
                &format!("scale to {:?} and say so", facts.unit),
            )
            .into());
    }
    let (kind, registers) = match quantity.kind {
        Kind::U16 => (0, 1),
        Kind::I16 => (1, 1),
        Kind::U32 => (2, 2),
        Kind::I32 => (3, 2),
        Kind::F32 => (4, 2),
    };
    let register = *quantity.register.get_ref();
    let (block, start) = find_block(blocks, quantity.function, register, registers).ok_or_else(|| {
        place.error(
            quantity.register.span(),
            format!("no block reads register {register}"),
            "add a [[block]] that holds it, or widen one (32-bit types take two registers)",
        )
    })?;
    let form = kind
        + 16 * u8::from(quantity.word_order == Endian::Little)
        + 32 * u8::from(quantity.byte_order == Endian::Little);
    // Both fit: a block holds at most 125 registers, and `find_block` found it within.
    let offset = (register - start) as u8;
    out.array(11)?.u8(property.id())?.u8(block)?.u8(offset)?.u8(form)?;

    let scale = finite(place, quantity.scale.as_ref(), 1.0)?;
    if scale == 0.0 {
        let span = quantity.scale.as_ref().map_or(it.span(), Spanned::span);
        return Err(place.error(span, "a scale of 0 makes every value 0", "use 0.1 for tenths").into());
    }
    let divisor = (1.0 / scale).round();
    if (1.0..=65_535.0).contains(&divisor) && (divisor * scale - 1.0).abs() < 1e-12 {
        out.u16(divisor as u16)?;
    } else {
        out.f32(scale as f32)?;
    }
    out.f32(finite(place, quantity.offset.as_ref(), 0.0)? as f32)?;
    let side = match quantity.compensated_by {
        Side::None => 0,
        Side::Probe => 1,
        Side::Node => 2,
    };
    out.u8(side + 4 * u8::from(quantity.doubtful))?;
    for range in [&quantity.valid, &quantity.trusted] {
        let Some(range) = range else {
            out.null()?;
            continue;
        };
        let [min, max] = *range.get_ref();
        // Written so that a NaN fails it.
        if !(min <= max && min.is_finite() && max.is_finite()) {
            return Err(place
                .error(range.span(), "this range holds nothing", "use [least, greatest] in raw units")
                .into());
        }
        out.array(2)?.f32(min as f32)?.f32(max as f32)?;
    }
    limit(place, &quantity.sentinels, SENTINELS_MAX, "sentinels")?;
    out.array(quantity.sentinels.len() as u64 * 2)?;
    for sentinel in &quantity.sentinels {
        out.u32(sentinel_bits(place, sentinel, quantity.kind)?)?;
        out.u8(reason(sentinel.get_ref().reason).id())?;
    }
    match &quantity.quality {
        None => {
            out.null()?;
        }
        Some(quality) => encode_quality(place, out, quality, blocks, (block, start))?,
    }
    Ok(())
}

fn encode_quality(
    place: &Place<'_>,
    out: &mut Out,
    it: &Spanned<Quality>,
    blocks: &[Spanned<Block>],
    (block, start): (u8, u16),
) -> Result<(), Failed> {
    let quality = it.get_ref();
    let same = blocks.get(usize::from(block)).map(core::slice::from_ref);
    if find_block(same.unwrap_or_default(), None, quality.register, 1).is_none() {
        return Err(place
            .error(
                it.span(),
                format!("quality register {} lies outside the quantity's block", quality.register),
                "widen the block so that value and quality come in one answer",
            )
            .into());
    }
    let named = quality.good.len() + quality.values.len();
    if named > QUALITY_VALUES_MAX {
        return Err(place
            .error(
                it.span(),
                format!("{named} named quality values"),
                &format!("name at most {QUALITY_VALUES_MAX}; `otherwise` covers the rest"),
            )
            .into());
    }
    out.array(2 + named as u64 * 2)?;
    out.u8((quality.register - start) as u8)?.u8(reason(quality.otherwise).id())?;
    for good in &quality.good {
        out.u16(*good)?.null()?;
    }
    for named in &quality.values {
        out.u16(named.value)?.u8(reason(named.reason).id())?;
    }
    Ok(())
}

fn encode_write(place: &Place<'_>, out: &mut Out, it: &Spanned<Write>) -> Result<(), Failed> {
    let write = it.get_ref();
    let setting = Setting::from_name(write.setting.get_ref()).ok_or_else(|| {
        let names = Setting::ALL.map(Setting::name).join(", ");
        place.error(
            write.setting.span(),
            format!("no setting is called {:?}", write.setting.get_ref()),
            &format!("use one of {names}"),
        )
    })?;
    let function = write.function.as_ref().map_or(6, |it| *it.get_ref());
    if function != 6 && function != 16 {
        let span = write.function.as_ref().map_or(it.span(), Spanned::span);
        let what = format!("function {function} does not write registers");
        return Err(place.error(span, what, "use 6 or 16").into());
    }
    out.array(4)?.u8(setting as u8)?.u16(write.register)?.u8(function)?;
    match (write.value, write.scale, &write.codes) {
        (Some(value), None, None) => out.u16(value)?,
        (None, Some(scale), None) if scale.is_finite() && scale > 0.0 => out.f32(scale as f32)?,
        (None, None, Some(codes)) if codes.len() <= CODES_MAX => {
            out.array(codes.len() as u64 * 2)?;
            for (value, raw) in codes {
                out.u32(*value)?.u16(*raw)?;
            }
            out
        }
        _ => {
            return Err(place
                .error(
                    it.span(),
                    "it is not said how the value becomes a register",
                    &format!(
                        "give exactly one of value = fixed, scale = factor above 0, codes = [[value, register], …] (at most {CODES_MAX})"
                    ),
                )
                .into());
        }
    };
    Ok(())
}

fn finite(place: &Place<'_>, value: Option<&Spanned<f64>>, default: f64) -> Result<f64, CompileError> {
    match value {
        None => Ok(default),
        Some(it) if (*it.get_ref() as f32).is_finite() => Ok(*it.get_ref()),
        Some(it) => Err(place.error(it.span(), "this is no finite number", "")),
    }
}

fn sentinel_bits(place: &Place<'_>, it: &Spanned<Sentinel>, kind: Kind) -> Result<u32, CompileError> {
    let bits = match (kind, &it.get_ref().raw) {
        (Kind::F32, toml::Value::Float(raw)) => Some((*raw as f32).to_bits()),
        (Kind::F32, toml::Value::Integer(raw)) => Some((*raw as f32).to_bits()),
        // Either as the number or as its bits; the cast keeps the low bits, which is what is meant.
        (Kind::U16 | Kind::I16, toml::Value::Integer(raw)) => {
            (-0x8000..=0xFFFF).contains(raw).then_some(*raw as u32 & 0xFFFF)
        }
        (Kind::U32 | Kind::I32, toml::Value::Integer(raw)) => {
            (-0x8000_0000..=0xFFFF_FFFF).contains(raw).then_some(*raw as u32)
        }
        _ => None,
    };
    bits.ok_or_else(|| {
        place.error(
            it.span(),
            format!("{} is no raw value of this type", it.get_ref().raw),
            "give the register's content, such as 0x7FFF or -9999",
        )
    })
}

fn reason(reason: Reason) -> MissingReason {
    match reason {
        Reason::Sentinel => MissingReason::Sentinel,
        Reason::OutOfRange => MissingReason::OutOfRange,
        Reason::WarmUp => MissingReason::WarmUp,
        Reason::Disabled => MissingReason::Disabled,
        Reason::Fault => MissingReason::Fault,
        Reason::PowerOnValue => MissingReason::PowerOnValue,
    }
}

fn property(place: &Place<'_>, name: &Spanned<String>) -> Result<Property, CompileError> {
    Property::from_name(name.get_ref()).ok_or_else(|| {
        let nearest =
            Property::ALL.iter().map(|it| it.name()).min_by_key(|it| distance(it, name.get_ref())).unwrap_or_default();
        place.error(
            name.span(),
            format!("no property is called {:?}", name.get_ref()),
            &format!("did you mean {nearest:?}?"),
        )
    })
}

/// Edit distance (Levenshtein), for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for ((cb, above), diagonal) in b.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or(i + 1);
            next.push((above + 1).min(left + 1).min(diagonal + usize::from(ca != *cb)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
