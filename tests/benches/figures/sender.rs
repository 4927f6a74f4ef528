//! A node as lean as custody allows, to load a gateway or a broker with: MQTT 3.1.1, every report
//! one round of eight readings, as many under way as the endpoint and the protocol let.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{QoS, v4};
use telemetry::limits::UNRECEIPTED_RECORDS_MAX;
use telemetry::mac::Key;
use telemetry::record::{ChannelDescription, Description, Reading, Record, Round};
use telemetry::report::ReportWriter;
use telemetry::session::{Anchor, Nonce, Open, Ready, Receipt, Session};
use telemetry::topic::{self, Down, Up};
use telemetry::{NodeName, Property, Quality};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the endpoint takes of one connection at once (`endpoint::Limits::in_flight_max`).
const IN_FLIGHT_MAX: usize = 32;
/// Longest packet that comes down.
const PACKET_BYTES_MAX: usize = 4096;
/// Time since boot when the load begins, ms: its rounds were all taken before.
const BOOTED_MS: u64 = 100_000_000;
/// From round to round, ms.
const PERIOD_MS: u64 = 10;
const RING: u32 = 7;
/// What its eight channels measure, each with a value in the property's integer.
pub(crate) const CHANNELS: [(Property, i32); 8] = [
    (Property::DissolvedOxygen, 719),
    (Property::OxygenSaturation, 918),
    (Property::Ph, 812),
    (Property::WaterTemperature, 2741),
    (Property::Salinity, 2835),
    (Property::Turbidity, 123),
    (Property::Level, 1832),
    (Property::BatteryVoltage, 12_610),
];

/// The round with this number: each value near that of its channel.
pub(crate) fn round(seq: u32) -> Round {
    let readings = (0..).zip(CHANNELS).map(|(channel, (_, value))| {
        let noise = seq.wrapping_mul(2_654_435_761).rotate_left(u32::from(channel)) >> 29;
        Reading { channel, value: value + noise as i32, raw: None, quality: Quality::GOOD }
    });
    Round { t_ms: u64::from(seq) * PERIOD_MS, config: 1, readings: readings.collect() }
}

fn record(seq: u32) -> Record {
    if seq > 0 {
        return Record::Round(round(seq));
    }
    let channels = (0..).zip(CHANNELS).map(|(channel, (property, _))| ChannelDescription {
        channel,
        property: property.id(),
        calibration: 0,
        period_s: 1,
    });
    Record::Description(Description {
        t_ms: 0,
        config: 1,
        digest: 1,
        drift_ppm: 40,
        firmware: heapless::String::new(),
        board: heapless::String::new(),
        channels: channels.collect(),
        actuators: heapless::Vec::new(),
    })
}

/// An MQTT connection.
struct Connection {
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    next_id: u16,
    in_flight: usize,
}

impl Connection {
    /// Connects and subscribes to `filter`.
    async fn open(port: u16, name: &NodeName, token: &str, filter: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut connection = Self { stream, incoming, outgoing, next_id: 1, in_flight: 0 };
        let mut connect = v4::Connect::new(name.as_str());
        connect.set_login(name.as_str(), token);
        connect.write(&mut connection.outgoing)?;
        let v4::Packet::ConnAck(answer) = connection.packet().await? else { bail!("no CONNACK") };
        anyhow::ensure!(answer.code == v4::ConnectReturnCode::Success, "{:?}", answer.code);
        let mut subscribe = v4::Subscribe::new(filter, QoS::AtMostOnce);
        subscribe.pkid = u16::MAX;
        subscribe.write(&mut connection.outgoing)?;
        let v4::Packet::SubAck(_) = connection.packet().await? else { bail!("no SUBACK") };
        Ok(connection)
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let mut publish = v4::Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = self.next_id;
        self.next_id = self.next_id % (u16::MAX - 1) + 1;
        publish.write(&mut self.outgoing)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Sends what waits, then gives the next packet.
    async fn packet(&mut self) -> Result<v4::Packet> {
        self.stream.write_all_buf(&mut self.outgoing).await.context("send")?;
        loop {
            match v4::Packet::read(&mut self.incoming, PACKET_BYTES_MAX) {
                Ok(packet) => return Ok(packet),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let read = self.stream.read_buf(&mut self.incoming).await.context("receive")?;
            anyhow::ensure!(read > 0, "closed");
        }
    }

    /// The next message that came down; `None` for an acknowledgement of one that went up.
    async fn message(&mut self) -> Result<Option<Bytes>> {
        match self.packet().await? {
            v4::Packet::PubAck(_) => {
                self.in_flight -= 1;
                Ok(None)
            }
            v4::Packet::Publish(publish) => Ok(Some(publish.payload)),
            other => bail!("{other:?} is no answer"),
        }
    }
}

/// A sender with its connection.
pub(crate) struct Sender {
    name: NodeName,
    /// The key under which a gateway seals receipts; a broker gives none.
    key: Option<Key>,
    connection: Connection,
    nonce: Nonce,
    released: u32,
    sent: u32,
}

impl Sender {
    /// Connects to a gateway and opens a session, which goes on where the last one ended.
    pub(crate) async fn to_gateway(port: u16, name: &NodeName, token: &str, key: Key, booted: Instant) -> Result<Self> {
        let filter = format!("{}/{name}/down/#", topic::PREFIX);
        let connection = Connection::open(port, name, token, &filter).await?;
        let mono_ms = BOOTED_MS + u64::try_from(booted.elapsed().as_millis()).unwrap_or(0);
        let nonce = Nonce(mono_ms.to_be_bytes());
        let (name, released, sent) = (name.clone(), 0, 0);
        let mut sender = Self { name, key: Some(key), connection, nonce, released, sent };
        let open = Open { nonce, ring: RING, boot: 1, floor: 0, next: u32::MAX, mono_ms };
        sender.say(&Session::Open(open))?;
        let utc_ms = loop {
            if let Some(utc_ms) = sender.hear().await? {
                break utc_ms;
            }
        };
        let anchor = Anchor { boot: 1, mono_ms, utc_ms, error_ms: 1_000, drift_ppm: 40 };
        sender.say(&Session::Ready(Ready { nonce, ring: RING, anchors: [anchor].into_iter().collect() }))?;
        sender.sent = sender.released;
        sender.deliver(1).await?;
        Ok(sender)
    }

    /// Connects to a broker, which takes anything from anyone.
    pub(crate) async fn to_broker(port: u16, name: &NodeName) -> Result<Self> {
        let connection = Connection::open(port, name, "", "nothing").await?;
        Ok(Self { name: name.clone(), key: None, connection, nonce: Nonce([0; 8]), released: 0, sent: 0 })
    }

    fn say(&mut self, session: &Session) -> Result<()> {
        let mut bytes = [0; 512];
        let length = session.encode(&mut bytes)?;
        self.connection.publish(topic::up(&self.name, Up::Session).as_str(), &bytes[..length])
    }

    /// Takes what comes next; UTC, when it is the receipt that tells it.
    async fn hear(&mut self) -> Result<Option<i64>> {
        let Some(message) = self.connection.message().await? else { return Ok(None) };
        let key = self.key.as_ref().context("a broker sends nothing")?;
        let receipt = Receipt::decode(key.open(&self.name, Down::Receipt, self.nonce, &message)?)?;
        self.released = self.released.max(receipt.next);
        Ok(receipt.utc_ms)
    }

    fn send_next(&mut self) -> Result<()> {
        let mut bytes = [0; 256];
        let mut writer = ReportWriter::new(&mut bytes, RING, self.sent, 1, BOOTED_MS);
        writer.push(&record(self.sent))?;
        let length = writer.finish()?;
        self.sent += 1;
        self.connection.publish(topic::up(&self.name, Up::Report).as_str(), &bytes[..length])
    }

    /// Sends this many reports more, until all are in custody: receipted by a gateway, or
    /// acknowledged by a broker.
    pub(crate) async fn deliver_more(&mut self, reports: u32) -> Result<()> {
        self.deliver(self.sent + reports).await
    }

    async fn deliver(&mut self, until: u32) -> Result<()> {
        loop {
            let window = if self.key.is_some() { self.released + UNRECEIPTED_RECORDS_MAX } else { u32::MAX };
            while self.sent < until.min(window) && self.connection.in_flight < IN_FLIGHT_MAX {
                self.send_next()?;
            }
            let done = self.key.is_none() || self.released >= until;
            if done && self.sent >= until && self.connection.in_flight == 0 {
                return Ok(());
            }
            self.hear().await?;
        }
    }
}
