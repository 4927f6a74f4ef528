//! Records: what a node keeps and delivers, each immutable and named once.

use minicbor::decode::Decoder;

use crate::cbor::{self, Malformed, TooLong};
use crate::limits::{ACTUATORS_MAX, CHANNELS_MAX, RECORD_BYTES_MAX};
use crate::quality::Quality;
use crate::rounds::{RoundsReader, RoundsWriter};

/// One channel's reading within a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Channel index, 0–31; the description of the round's config says what it measures.
    pub channel: u8,
    /// The value, as the property's integer (see [`crate::Property::quantize`]); 0 where missing.
    pub value: i32,
    /// What the instrument gave, where calibration or compensation changed it.
    pub raw: Option<i32>,
    /// Flag, tests, reason.
    pub quality: Quality,
}

/// One sampling round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Phenomenon time: milliseconds since the boot it was taken in.
    pub t_ms: u64,
    /// The config it was taken under: a number that rises with each config applied on this ring.
    pub config: u16,
    /// By rising channel, each at most once.
    pub readings: heapless::Vec<Reading, CHANNELS_MAX>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCode {
    /// The node started; value = cause (0 unknown, 1 power, 2 watchdog, 3 software, 4 brown-out, 5 fault), detail = boots so far.
    Restarted,
    /// An actuator changed; subject = actuator, value = 1 on, 0 off, detail = cause (a table of `CUSTODY.md`).
    ActuatorChanged,
    /// A part failed; subject = part, value = code, detail = more.
    Fault,
    /// The clock was set; value = UTC in ms at the event's time, detail = error bound in ms.
    ClockSet,
    /// A config took effect; value = its number, detail = its digest.
    ConfigApplied,
    /// An alarm of the node's own was raised or cleared, or concerns others than before; subject = alarm (a table of
    /// `CUSTODY.md`), value = 1 raised, 0 cleared, detail = bit n for actuator n that it concerns (0 or 1 where it
    /// concerns the node).
    Alarm,
    /// A command was carried out or refused; subject = actuator or channel, value = its counter, detail = outcome:
    /// 0 done, else why not (a table of `CUSTODY.md`).
    CommandAnswered,
    /// The ring was formatted; value = ring id.
    RingFormatted,
    /// A config was given up and the one before runs again; value = the number of the one given up, detail = why (a table
    /// of `CUSTODY.md`).
    ConfigGivenUp,
    /// A kind this version does not know, kept by number.
    Other(u8),
}

impl EventCode {
    /// By number.
    pub const fn from_id(id: u8) -> Self {
        match id {
            1 => Self::Restarted,
            2 => Self::ActuatorChanged,
            3 => Self::Fault,
            4 => Self::ClockSet,
            5 => Self::ConfigApplied,
            6 => Self::Alarm,
            7 => Self::CommandAnswered,
            8 => Self::RingFormatted,
            9 => Self::ConfigGivenUp,
            other => Self::Other(other),
        }
    }

    /// Its number.
    pub const fn id(self) -> u8 {
        match self {
            Self::Restarted => 1,
            Self::ActuatorChanged => 2,
            Self::Fault => 3,
            Self::ClockSet => 4,
            Self::ConfigApplied => 5,
            Self::Alarm => 6,
            Self::CommandAnswered => 7,
            Self::RingFormatted => 8,
            Self::ConfigGivenUp => 9,
            Self::Other(id) => id,
        }
    }
}

/// Something that happened at an instant. One shape for all kinds, so that a gateway can keep
/// and show a kind it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since boot.
    pub t_ms: u64,
    /// What happened.
    pub code: EventCode,
    /// To which actuator, channel or part.
    pub subject: u8,
    /// See [`EventCode`].
    pub value: i64,
    /// See [`EventCode`].
    pub detail: i64,
}

/// What one channel measures under one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelDescription {
    /// Channel index.
    pub channel: u8,
    /// Property id; may be one this version does not know.
    pub property: u8,
    /// Calibration number; rises with each calibration of the channel, 0 = as delivered.
    pub calibration: u16,
    /// Sampling period in seconds.
    pub period_s: u16,
}

/// What one actuator is under one config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActuatorDescription {
    /// Actuator index.
    pub actuator: u8,
    /// Number of an [`crate::ActuatorKind`]; may be one this version does not know.
    pub kind: u8,
}

/// What a node's channels mean under one config. Sent before the first round of that config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Milliseconds since boot.
    pub t_ms: u64,
    /// Config number, as rounds carry it.
    pub config: u16,
    /// Digest of the config's bytes.
    pub digest: u32,
    /// Bound of the node's clock drift, in parts per million.
    pub drift_ppm: u16,
    /// Firmware version.
    pub firmware: heapless::String<16>,
    /// Board name.
    pub board: heapless::String<16>,
    /// Channels, by rising index.
    pub channels: heapless::Vec<ChannelDescription, CHANNELS_MAX>,
    /// Actuators, by rising index.
    pub actuators: heapless::Vec<ActuatorDescription, ACTUATORS_MAX>,
}

/// Records that are gone for good, told by a record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Milliseconds since boot.
    pub t_ms: u64,
    /// First seq that is gone.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// 1 overwritten because the ring was full, 2 unreadable.
    pub cause: u8,
}

/// A record's content. The large variants are what they are: a node handles one at a time on
/// its stack and has no allocator to box them with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "no allocator; see above")]
pub enum Record {
    /// A sampling round.
    Round(Round),
    /// An event.
    Event(Event),
    /// A description.
    Description(Description),
    /// A loss.
    Loss(Loss),
    /// This seq can no longer be read: the sender says so in the record's place.
    Gone,
}

const KIND_ROUND: u8 = 0;
const KIND_EVENT: u8 = 1;
const KIND_DESCRIPTION: u8 = 2;
const KIND_LOSS: u8 = 3;
pub(crate) const KIND_GONE: u8 = 4;

impl Record {
    /// Milliseconds since boot; `None` for what is gone.
    pub fn t_ms(&self) -> Option<u64> {
        match self {
            Self::Round(r) => Some(r.t_ms),
            Self::Event(e) => Some(e.t_ms),
            Self::Description(d) => Some(d.t_ms),
            Self::Loss(l) => Some(l.t_ms),
            Self::Gone => None,
        }
    }

    /// Encodes as kept in a ring, with the boot whose clock its time is of. The same record
    /// always gives the same bytes, so their check sum stands for its content.
    pub fn encode(&self, boot: u16, buffer: &mut [u8]) -> Result<usize, TooLong> {
        match self {
            Self::Round(round) => round.encode(boot, buffer),
            other => with_head(KIND_EVENT, boot, buffer, |body| encode_segment(other, body).ok()),
        }
    }

    /// Decodes what [`Record::encode`] wrote: boot and record.
    pub fn decode(bytes: &[u8]) -> Result<(u16, Self), Malformed> {
        let mut record = Self::Gone;
        let boot = record.decode_from(bytes)?;
        Ok((boot, record))
    }

    /// Decodes in place what [`Record::encode`] wrote, where there is no room for a second record;
    /// the boot. After an error it is no record that anybody wrote.
    pub fn decode_from(&mut self, bytes: &[u8]) -> Result<u16, Malformed> {
        let [kind, b0, b1, body @ ..] = bytes else { return Err(Malformed::Shape) };
        match *kind {
            KIND_ROUND => {
                let mut reader = RoundsReader::new(body, 0);
                *self = Self::Round(Round::default());
                let Self::Round(round) = self else { return Err(Malformed::Shape) };
                reader.next_into(round).ok_or(Malformed::Shape)?.map_err(|_| Malformed::Shape)?;
                if !reader.is_at_end() {
                    return Err(Malformed::Shape);
                }
            }
            KIND_EVENT => {
                let mut decoder = Decoder::new(body);
                let count = decode_segment(&mut decoder, self)?;
                if count != 1 || decoder.position() != body.len() {
                    return Err(Malformed::Shape);
                }
            }
            _ => return Err(Malformed::Shape),
        }
        Ok(u16::from_be_bytes([*b0, *b1]))
    }
}

impl Round {
    /// Encodes as [`Record::encode`] does, without a record around it.
    pub fn encode(&self, boot: u16, buffer: &mut [u8]) -> Result<usize, TooLong> {
        with_head(KIND_ROUND, boot, buffer, |body| {
            let mut writer = RoundsWriter::new(0);
            writer.push(body, self).ok()?;
            writer.finish(body).ok()
        })
    }
}

/// Writes kind and boot, and behind them what `write` writes.
fn with_head(
    kind: u8,
    boot: u16,
    buffer: &mut [u8],
    write: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> Result<usize, TooLong> {
    let capacity = buffer.len().min(RECORD_BYTES_MAX);
    let too_long = TooLong { capacity };
    let (head, body) = buffer.get_mut(..capacity).and_then(|b| b.split_at_mut_checked(3)).ok_or(too_long)?;
    let [b0, b1] = boot.to_be_bytes();
    head.copy_from_slice(&[kind, b0, b1]);
    Ok(3 + write(body).ok_or(too_long)?)
}

/// Writes any record but a round as one CBOR array.
pub(crate) fn encode_segment(record: &Record, buffer: &mut [u8]) -> Result<usize, TooLong> {
    cbor::encode(buffer, |e| {
        match record {
            // A round is packed by its own coder; the callers never hand one over.
            Record::Round(_) | Record::Gone => {
                e.array(2)?.u8(KIND_GONE)?.u32(1)?;
            }
            Record::Event(v) => {
                e.array(6)?.u8(KIND_EVENT)?.u64(v.t_ms)?.u8(v.code.id())?.u8(v.subject)?.i64(v.value)?.i64(v.detail)?;
            }
            Record::Loss(v) => {
                e.array(5)?.u8(KIND_LOSS)?.u64(v.t_ms)?.u32(v.first)?.u32(v.count)?.u8(v.cause)?;
            }
            Record::Description(v) => {
                e.array(9)?.u8(KIND_DESCRIPTION)?.u64(v.t_ms)?.u16(v.config)?.u32(v.digest)?.u16(v.drift_ppm)?;
                e.str(&v.firmware)?.str(&v.board)?;
                e.array(v.channels.len() as u64)?;
                for c in &v.channels {
                    e.array(4)?.u8(c.channel)?.u8(c.property)?.u16(c.calibration)?.u16(c.period_s)?;
                }
                e.array(v.actuators.len() as u64)?;
                for a in &v.actuators {
                    e.array(2)?.u8(a.actuator)?.u8(a.kind)?;
                }
            }
        }
        Ok(())
    })
}

/// Reads one CBOR segment into a record; how many seqs it stands for.
pub(crate) fn decode_segment(d: &mut Decoder<'_>, record: &mut Record) -> Result<u32, Malformed> {
    let length = cbor::array(d, 2)?;
    let kind = d.u8()?;
    let least = match kind {
        KIND_EVENT => 6,
        KIND_DESCRIPTION => 9,
        KIND_LOSS => 5,
        KIND_GONE => 2,
        _ => return Err(Malformed::Shape),
    };
    if length < least {
        return Err(Malformed::Shape);
    }
    let mut count = 1;
    match kind {
        KIND_EVENT => {
            *record = Record::Event(Event {
                t_ms: d.u64()?,
                code: EventCode::from_id(d.u8()?),
                subject: d.u8()?,
                value: d.i64()?,
                detail: d.i64()?,
            });
        }
        KIND_LOSS => {
            *record = Record::Loss(Loss { t_ms: d.u64()?, first: d.u32()?, count: d.u32()?, cause: d.u8()? });
        }
        KIND_GONE => {
            count = d.u32()?;
            *record = Record::Gone;
        }
        _ => description(d, record)?,
    }
    cbor::skip(d, length - least)?;
    Ok(count)
}

fn description(d: &mut Decoder<'_>, record: &mut Record) -> Result<(), Malformed> {
    *record = Record::Description(Description {
        t_ms: d.u64()?,
        config: d.u16()?,
        digest: d.u32()?,
        drift_ppm: d.u16()?,
        firmware: heapless::String::try_from(d.str()?).map_err(|_| Malformed::Limit)?,
        board: heapless::String::try_from(d.str()?).map_err(|_| Malformed::Limit)?,
        channels: heapless::Vec::new(),
        actuators: heapless::Vec::new(),
    });
    let Record::Description(v) = record else { return Err(Malformed::Shape) };
    for _ in 0..cbor::array(d, 0)? {
        let length = cbor::array(d, 4)?;
        let c = ChannelDescription { channel: d.u8()?, property: d.u8()?, calibration: d.u16()?, period_s: d.u16()? };
        cbor::skip(d, length - 4)?;
        v.channels.push(c).map_err(|_| Malformed::Limit)?;
    }
    for _ in 0..cbor::array(d, 0)? {
        let length = cbor::array(d, 2)?;
        let a = ActuatorDescription { actuator: d.u8()?, kind: d.u8()? };
        cbor::skip(d, length - 2)?;
        v.actuators.push(a).map_err(|_| Malformed::Limit)?;
    }
    Ok(())
}
