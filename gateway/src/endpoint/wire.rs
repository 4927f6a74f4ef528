//! MQTT packets of both versions as the endpoint sees them. The codec is rumqttc's `mqttbytes`
//! (v4 and v5): it is a dependency already, reads from and writes to one buffer without copying
//! payloads, and bounds a packet by its fixed header before it is buffered.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, Error as V4Error, QoS, v4};
use rumqttc::v5::mqttbytes::{Error as V5Error, v5};
use telemetry::topic::Topic;

/// Why bytes are no packet, or a packet no bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Longer than the endpoint takes.
    #[error("the packet is longer than {0} bytes")]
    TooLarge(usize),
    /// Not MQTT as the version says.
    #[error("{0}")]
    Malformed(String),
}

impl From<V4Error> for Error {
    fn from(error: V4Error) -> Self {
        match error {
            V4Error::PayloadSizeLimitExceeded(bytes) => Self::TooLarge(bytes),
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl From<V5Error> for Error {
    fn from(error: V5Error) -> Self {
        match error {
            V5Error::PayloadSizeLimitExceeded { pkt_size, .. } => Self::TooLarge(pkt_size),
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 3.1.1
    V4,
    /// 5
    V5,
}

/// A message to be published when the connection ends without a word.
#[derive(Clone, Debug)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) qos: u8,
}

/// A client's first packet.
#[derive(Clone, Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) keep_alive_s: u16,
    pub(super) user: String,
    pub(super) token: String,
    pub(super) will: Option<Will>,
    /// Most that the client takes in one packet.
    pub(super) packet_max: u32,
}

/// What a client sends.
#[derive(Debug)]
pub(super) enum Incoming {
    Connect(Connect),
    Publish {
        topic: String,
        qos: u8,
        retain: bool,
        id: u16,
        payload: Bytes,
        alias: bool,
    },
    Subscribe {
        id: u16,
        filters: Vec<String>,
    },
    Unsubscribe {
        id: u16,
        filters: usize,
    },
    PubAck,
    Ping,
    Disconnect {
        with_will: bool,
    },
    /// A packet that a client of this endpoint has no reason to send.
    Unexpected,
}

/// Why a CONNECT is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotAuthorized,
    BadClientId,
}

/// Why the endpoint closes, as MQTT 5 words it.
pub(super) use v5::DisconnectReasonCode as Reason;

/// The version a CONNECT asks for, as soon as enough of it is there.
///
/// # Errors
/// When what has come so far cannot become a CONNECT of a known version.
pub(super) fn version(buffer: &[u8], packet_max: usize) -> Result<Option<Version>, Error> {
    let Some(first) = buffer.first() else { return Ok(None) };
    if *first != 0x10 {
        return Err(V4Error::IncorrectPacketFormat.into());
    }
    let mut length = 0usize;
    for (at, byte) in buffer.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if length > packet_max {
                return Err(Error::TooLarge(length));
            }
            let Some(head) = buffer.get(at + 2..at + 9) else { return Ok(None) };
            return match head {
                [0, 4, b'M', b'Q', b'T', b'T', 4] => Ok(Some(Version::V4)),
                [0, 4, b'M', b'Q', b'T', b'T', 5] => Ok(Some(Version::V5)),
                [.., level] => Err(V4Error::InvalidProtocolLevel(*level).into()),
                [] => Ok(None),
            };
        }
    }
    if buffer.len() > 4 { Err(V4Error::MalformedRemainingLength.into()) } else { Ok(None) }
}

/// The next whole packet; `None` when more bytes are needed.
pub(super) fn read(version: Version, buffer: &mut BytesMut, packet_max: usize) -> Result<Option<Incoming>, Error> {
    // A bare DISCONNECT is two bytes; the v5 reader wants a reason code that may be left out.
    if buffer.starts_with(&[0xE0, 0]) {
        return Ok(Some(Incoming::Disconnect { with_will: false }));
    }
    let incoming = match version {
        Version::V4 => match v4::Packet::read(buffer, packet_max) {
            Err(V4Error::InsufficientBytes(_)) => return Ok(None),
            packet => match packet? {
                v4::Packet::Connect(c) => {
                    let (user, token) = c.login.map_or_else(Default::default, |l| (l.username, l.password));
                    let will = c.last_will.map(|w| Will {
                        topic: w.topic,
                        payload: w.message,
                        retain: w.retain,
                        qos: w.qos as u8,
                    });
                    let packet_max = u32::MAX;
                    Incoming::Connect(Connect {
                        client_id: c.client_id,
                        keep_alive_s: c.keep_alive,
                        user,
                        token,
                        will,
                        packet_max,
                    })
                }
                v4::Packet::Publish(p) => Incoming::Publish {
                    topic: p.topic,
                    qos: p.qos as u8,
                    retain: p.retain,
                    id: p.pkid,
                    payload: p.payload,
                    alias: false,
                },
                v4::Packet::Subscribe(s) => {
                    Incoming::Subscribe { id: s.pkid, filters: s.filters.into_iter().map(|f| f.path).collect() }
                }
                v4::Packet::Unsubscribe(u) => Incoming::Unsubscribe { id: u.pkid, filters: u.topics.len() },
                v4::Packet::PubAck(_) => Incoming::PubAck,
                v4::Packet::PingReq => Incoming::Ping,
                v4::Packet::Disconnect => Incoming::Disconnect { with_will: false },
                _ => Incoming::Unexpected,
            },
        },
        Version::V5 => match v5::Packet::read(buffer, Some(u32::try_from(packet_max).unwrap_or(u32::MAX))) {
            Err(V5Error::InsufficientBytes(_)) => return Ok(None),
            packet => match packet? {
                v5::Packet::Connect(c, will, login) => {
                    let (user, token) = login.map_or_else(Default::default, |l| (l.username, l.password));
                    let will = match will {
                        Some(w) => Some(Will {
                            topic: String::from_utf8(w.topic.to_vec()).map_err(|_| V4Error::TopicNotUtf8)?,
                            payload: w.message,
                            retain: w.retain,
                            qos: w.qos as u8,
                        }),
                        None => None,
                    };
                    let packet_max = c.properties.and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
                    Incoming::Connect(Connect {
                        client_id: c.client_id,
                        keep_alive_s: c.keep_alive,
                        user,
                        token,
                        will,
                        packet_max,
                    })
                }
                v5::Packet::Publish(p) => Incoming::Publish {
                    topic: String::from_utf8(p.topic.to_vec()).map_err(|_| V4Error::TopicNotUtf8)?,
                    qos: p.qos as u8,
                    retain: p.retain,
                    id: p.pkid,
                    payload: p.payload,
                    alias: p.properties.is_some_and(|p| p.topic_alias.is_some()),
                },
                v5::Packet::Subscribe(s) => {
                    Incoming::Subscribe { id: s.pkid, filters: s.filters.into_iter().map(|f| f.path).collect() }
                }
                v5::Packet::Unsubscribe(u) => Incoming::Unsubscribe { id: u.pkid, filters: u.filters.len() },
                v5::Packet::PubAck(_) => Incoming::PubAck,
                v5::Packet::PingReq(_) => Incoming::Ping,
                v5::Packet::Disconnect(d) => {
                    Incoming::Disconnect { with_will: d.reason_code == Reason::DisconnectWithWillMessage }
                }
                _ => Incoming::Unexpected,
            },
        },
    };
    Ok(Some(incoming))
}

/// Limits told in a v5 CONNACK.
pub(super) struct Told {
    pub(super) in_flight_max: u16,
    pub(super) packet_max: u32,
    pub(super) keep_alive_s: u16,
}

pub(super) fn connack(version: Version, out: &mut BytesMut, result: Result<Told, Refusal>) -> Result<(), Error> {
    match version {
        Version::V4 => {
            let code = match result {
                Ok(_) => v4::ConnectReturnCode::Success,
                Err(Refusal::NotAuthorized) => v4::ConnectReturnCode::NotAuthorized,
                Err(Refusal::BadClientId) => v4::ConnectReturnCode::BadClientId,
            };
            v4::ConnAck::new(code, false).write(out)?;
        }
        Version::V5 => {
            let (code, told) = match result {
                Ok(told) => (v5::ConnectReturnCode::Success, Some(told)),
                Err(Refusal::NotAuthorized) => (v5::ConnectReturnCode::NotAuthorized, None),
                Err(Refusal::BadClientId) => (v5::ConnectReturnCode::ClientIdentifierNotValid, None),
            };
            let properties = told.map(|told| v5::ConnAckProperties {
                session_expiry_interval: Some(0),
                receive_max: Some(told.in_flight_max),
                max_qos: Some(1),
                retain_available: Some(0),
                max_packet_size: Some(told.packet_max),
                assigned_client_identifier: None,
                topic_alias_max: Some(0),
                reason_string: None,
                user_properties: Vec::new(),
                wildcard_subscription_available: None,
                subscription_identifiers_available: Some(0),
                shared_subscription_available: Some(0),
                server_keep_alive: Some(told.keep_alive_s),
                response_information: None,
                server_reference: None,
                authentication_method: None,
                authentication_data: None,
            });
            v5::ConnAck { session_present: false, code, properties }.write(out)?;
        }
    }
    Ok(())
}

pub(super) fn puback(version: Version, out: &mut BytesMut, id: u16) -> Result<(), Error> {
    match version {
        Version::V4 => v4::PubAck::new(id).write(out)?,
        Version::V5 => v5::PubAck::new(id, None).write(out)?,
    };
    Ok(())
}

pub(super) fn suback(version: Version, out: &mut BytesMut, id: u16, allowed: &[bool]) -> Result<(), Error> {
    match version {
        Version::V4 => {
            let code = |ok: &bool| {
                if *ok { v4::SubscribeReasonCode::Success(QoS::AtLeastOnce) } else { v4::SubscribeReasonCode::Failure }
            };
            v4::SubAck::new(id, allowed.iter().map(code).collect()).write(out)?;
        }
        Version::V5 => {
            let code = |ok: &bool| match ok {
                true => v5::SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::AtLeastOnce),
                false => v5::SubscribeReasonCode::NotAuthorized,
            };
            let return_codes = allowed.iter().map(code).collect();
            v5::SubAck { pkid: id, return_codes, properties: None }.write(out)?;
        }
    }
    Ok(())
}

pub(super) fn unsuback(version: Version, out: &mut BytesMut, id: u16, filters: usize) -> Result<(), Error> {
    match version {
        Version::V4 => v4::UnsubAck::new(id).write(out)?,
        Version::V5 => {
            let reasons = vec![v5::UnsubAckReason::Success; filters];
            v5::UnsubAck { pkid: id, reasons, properties: None }.write(out)?
        }
    };
    Ok(())
}

pub(super) fn pong(out: &mut BytesMut) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// A message down, QoS 0.
pub(super) fn publish(version: Version, out: &mut BytesMut, topic: &Topic, payload: &Bytes) -> Result<(), Error> {
    match version {
        Version::V4 => {
            v4::Publish::new(topic.as_str(), mqttbytes::QoS::AtMostOnce, payload.to_vec()).write(out)?;
        }
        Version::V5 => {
            let qos = rumqttc::v5::mqttbytes::QoS::AtMostOnce;
            v5::Publish::new(topic.as_str(), qos, payload.clone(), None).write(out)?;
        }
    }
    Ok(())
}

/// Says why, where the version has words for it. By hand: the codec's length leaves out the
/// (empty) properties that it then writes.
pub(super) fn disconnect(version: Version, out: &mut BytesMut, reason: Reason) {
    if version == Version::V5 {
        out.extend_from_slice(&[0xE0, 2, reason as u8, 0]);
    }
}
