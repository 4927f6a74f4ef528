//! One MQTT 5 connection: log in, subscribe, pass messages both ways, until it ends.
//!
//! # Which client, and why it cannot lose or double anything
//!
//! Custody is the node core's: it opens its own session on each connection and sends from the last
//! receipt on, whatever a broker has acknowledged. So a client must only never *add* anything, and
//! above all never send what belonged to an older connection.
//!
//! | | minimq 0.13.5 | rust-mqtt 0.6.0 |
//! |---|---|---|
//! | image of the proof of concept, code | 86 KB | 130 KB |
//! | keep-alive, packet ids, waiting for PUBACK | inside | the caller's |
//! | in flight when a connection is lost | kept in its `Session` and sent again on the next connection with DUP | the caller's to keep |
//! | malformed and oversize packets | an error, the connection is dead | an error |
//!
//! minimq it is, with its one memory taken away: a `Session` lives exactly as long as one connection.
//! A new one has never been connected, so it says *clean start*, asks for no session to be kept, and
//! its table of what is in flight is empty (`mqtt_client/session/state.rs`). The outbox is closed at the
//! same moment. A PUBACK frees room and means nothing else. A test counts what a server receives on
//! the connection after one that was cut with messages in flight: none of them.
//!
//! # What may be dropped in the middle
//!
//! Waiting for the server is given up whenever the node has something to say. That loses nothing on
//! TCP; a TLS record may be half read, so [`Busy`] holds the node's word back until it is whole.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;

use embassy_futures::select::{Either3, select3};
use embassy_time::{Duration, Instant, Timer, with_timeout};
use embedded_io_async::{Read, Write};
use minimq::{Buffers, ConfigBuilder, Connection, Error, PeerError, PubError, Publication, QoS, Session};
use minimq::{SubscriptionOptions, ToPayload, TopicFilter};
use node::settings::{Radio, Settings, TOKEN_BYTES};
use telemetry::topic::{self, Down, Up};

use crate::exchange::{Delivery, Doing, Exchange, Message};
use crate::outbox::Outbox;

/// Keep-alive, s (`CUSTODY.md`): a connection that is silent for 30 s is dead on both sides.
const KEEP_ALIVE_S: u16 = 30;
/// From CONNECT to CONNACK, and from SUBSCRIBE to SUBACK.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest that a message may take to get into the transport.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// Longest that messages wait for a PUBACK that makes room for the next.
const ROOM_WITHIN: Duration = Duration::from_secs(30);
/// How long a radio that sleeps between reports lingers when nothing more is due: an order may come.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes for what waits for its PUBACK, and for the packet being written: the largest report and a
/// message of the session beside it.
pub const TX_BYTES: usize = 1_536;

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The log-in or the subscription was refused.
    Refused,
    /// The server sent what is no MQTT, or too much of it.
    Malformed,
    /// The server ended it, or fell silent.
    Lost,
}

/// Why a connection that worked is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// It is not wanted any more.
    Unwanted,
    /// A large message lies in the image buffer.
    Delivery(Delivery),
}

/// Whether a transport is in the middle of something that must not be dropped.
pub(crate) type Busy = Cell<bool>;

/// The token as the text that is the password.
pub(crate) fn password(token: &[u8; TOKEN_BYTES]) -> [u8; 2 * TOKEN_BYTES] {
    let mut text = [0; 2 * TOKEN_BYTES];
    for (digits, byte) in text.chunks_exact_mut(2).zip(token) {
        for (digit, nibble) in digits.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    text
}

/// The oldest message of the outbox, as minimq takes a payload.
struct Oldest<'a>(&'a Outbox);

impl ToPayload for Oldest<'_> {
    type Error = ();

    fn serialize(self, buffer: &mut [u8]) -> Result<usize, ()> {
        self.0.copy(buffer).ok_or(())
    }
}

fn failure<E>(error: &Error<E>) -> Failure {
    match error {
        Error::Peer(PeerError::Rejected(_)) => Failure::Refused,
        Error::Peer(PeerError::InvalidPacket) | Error::Resource(_) => Failure::Malformed,
        _ => Failure::Lost,
    }
}

async fn within<T, E>(limit: Duration, work: impl Future<Output = Result<T, Error<E>>>) -> Result<T, Failure> {
    match with_timeout(limit, work).await {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(_) => Err(Failure::Lost),
    }
}

/// Serves one connection over a transport that is connected. `image` is where packets arrive. The caller
/// says that the connection is gone, when a large message has been looked at.
pub(crate) async fn converse<T: Read + Write>(
    transport: T,
    busy: &Busy,
    exchange: &Exchange,
    settings: &Settings,
    image: &mut [u8],
    tx: &mut [u8],
) -> Result<Over, Failure> {
    let base = image.as_ptr() as usize;
    let name = settings.name.as_str();
    let password = password(&settings.token);
    let config = ConfigBuilder::new(Buffers::new(image, tx)).keepalive_interval(KEEP_ALIVE_S);
    let config = config.client_id(name).and_then(|config| config.auth(name, &password));
    // A name is shorter than any client id may be, and there is one log-in.
    let mut session = Session::new(config.map_err(|_| Failure::Refused)?);
    let mut connection = within(ANSWER_WITHIN, session.connect(transport)).await?;
    subscribe(&mut connection, settings).await?;
    exchange.set_connection(true);
    exchange.show(|glance| {
        glance.doing = Doing::Connected;
        glance.counters.connected = glance.counters.connected.wrapping_add(1);
    });
    let result = pass(&mut connection, busy, exchange, settings, base).await;
    // A server that does not hear the farewell notices that the connection ends.
    let _told = with_timeout(WRITE_WITHIN, connection.disconnect()).await;
    result
}

async fn subscribe<T: Read + Write>(
    connection: &mut Connection<'_, '_, T>,
    settings: &Settings,
) -> Result<(), Failure> {
    let mut filter = topic::down(&settings.name, Down::Receipt);
    filter.truncate(filter.len() - Down::Receipt.name().len());
    // The room is that of the longest topic.
    filter.push('#').map_err(|_| Failure::Refused)?;
    let options = SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce);
    let filters = [TopicFilter::new(&filter).options(options)];
    let asked = within(ANSWER_WITHIN, connection.subscribe(&filters, &[])).await?;
    within(ANSWER_WITHIN, async {
        // What comes down before belongs to nobody yet.
        while !connection.is_complete(&asked) {
            connection.poll().await?;
        }
        Ok(())
    })
    .await
}

/// What is to be done with a message that came.
enum Came {
    Nothing,
    Foreign,
    Small(Message),
    Large(Delivery),
}

fn look(settings: &Settings, base: usize, topic: &str, payload: &[u8]) -> Came {
    let Some((_, kind)) = topic::parse_down(topic).filter(|(name, _)| *name == settings.name) else {
        return Came::Foreign;
    };
    if kind == Down::Config {
        let from = (payload.as_ptr() as usize).saturating_sub(base);
        return Came::Large(Delivery { from, to: from + payload.len() });
    }
    match heapless::Vec::from_slice(payload) {
        Ok(payload) => Came::Small(Message { kind, payload }),
        Err(_) => Came::Foreign,
    }
}

/// Waits for `work`, and beyond it until nothing is half done. The transport is polled by the same task
/// before this is, so whoever ends the work in the middle also makes this look again.
async fn unless<R>(busy: &Busy, work: impl Future<Output = R>) -> R {
    let result = work.await;
    poll_fn(|_| if busy.get() { Poll::Pending } else { Poll::Ready(()) }).await;
    result
}

/// What became of the outbox.
struct Sent {
    /// At least one message went.
    any: bool,
    /// Nothing waits any more.
    all: bool,
}

async fn send<T: Read + Write>(
    connection: &mut Connection<'_, '_, T>,
    exchange: &Exchange,
    settings: &Settings,
) -> Result<Sent, Failure> {
    let mut any = false;
    while let Some((up, _)) = exchange.outbox.first() {
        let topic = topic::up(&settings.name, up);
        let qos = if up == Up::Live { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let publication = Publication::new(&topic, Oldest(exchange.outbox)).qos(qos);
        match with_timeout(WRITE_WITHIN, connection.publish(publication)).await {
            Ok(Ok(_)) => any = true,
            Ok(Err(PubError::Payload(()) | PubError::Session(Error::NotReady | Error::Resource(_))))
                if !connection.session().is_publish_quiescent() =>
            {
                return Ok(Sent { any, all: false });
            }
            // With nothing in flight there is no more room than this: the server takes no packet so large.
            Ok(Err(PubError::Payload(()) | PubError::Session(Error::NotReady | Error::Resource(_)))) => {
                exchange.show(|glance| glance.counters.foreign = glance.counters.foreign.wrapping_add(1));
            }
            Ok(Err(PubError::Session(error))) => return Err(failure(&error)),
            Err(_) => return Err(Failure::Lost),
        }
        if exchange.outbox.pop() {
            exchange.wake();
        }
    }
    Ok(Sent { any, all: true })
}

async fn pass<T: Read + Write>(
    connection: &mut Connection<'_, '_, T>,
    busy: &Busy,
    exchange: &Exchange,
    settings: &Settings,
    base: usize,
) -> Result<Over, Failure> {
    let batch = settings.radio == Radio::Batch;
    // Since when the oldest message has waited for room, and whether there may be some now.
    let mut stuck: Option<Instant> = None;
    let mut room = true;
    loop {
        if room {
            let sent = send(connection, exchange, settings).await?;
            if sent.any || sent.all {
                stuck = None;
            }
            room = sent.all;
            if !room {
                stuck.get_or_insert_with(Instant::now);
            }
        }
        let word = async {
            match stuck {
                Some(since) => Timer::at(since + ROOM_WITHIN).await,
                None => exchange.outbox.filled().await,
            }
        };
        let unwanted = async {
            exchange.wanted(batch, false).await;
            if exchange.is_wanted(false) {
                Timer::after(LINGER).await;
            }
        };
        let came = match select3(connection.poll(), unless(busy, word), unless(busy, unwanted)).await {
            Either3::First(Ok(None)) => Came::Nothing,
            Either3::First(Ok(Some(message))) => look(settings, base, message.topic(), message.payload()),
            Either3::First(Err(error)) => return Err(failure(&error)),
            Either3::Second(()) if stuck.is_some() => return Err(Failure::Lost),
            Either3::Second(()) => continue,
            Either3::Third(()) => return Ok(Over::Unwanted),
        };
        // Whatever came may have made room.
        room = true;
        match came {
            Came::Nothing => exchange.show(|_| ()),
            Came::Foreign => exchange.show(|glance| glance.counters.foreign = glance.counters.foreign.wrapping_add(1)),
            Came::Small(message) => {
                exchange.down.send(message).await;
                exchange.wake();
            }
            Came::Large(delivery) => return Ok(Over::Delivery(delivery)),
        }
    }
}
