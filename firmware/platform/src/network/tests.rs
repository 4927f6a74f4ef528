//! The network half's conversation with a server that a test plays byte by byte, and its TLS with a
//! real rustls.

use std::boxed::Box;
use std::string::String;
use std::vec;
use std::vec::Vec;

use embedded_io_adapters::tokio_1::FromTokio;
use node::settings::{Ipv4, Ipv6, Link, Radio, Settings, TOKEN_BYTES};
use telemetry::NodeName;
use telemetry::mac::Key;
use telemetry::topic::{Down, Up};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};

use super::mqtt::{self, Failure, Over};
use crate::exchange::{Exchange, Room};

fn settings() -> Settings {
    Settings {
        name: NodeName::new("pond-7").unwrap(),
        token: [0xa5; TOKEN_BYTES],
        key: Key::new([9; 32]),
        host: heapless::String::try_from("localhost").unwrap(),
        port: 1883,
        pin: None,
        link: Link::Ethernet,
        ipv4: Ipv4::Dhcp,
        ipv6: Ipv6::Auto,
        dns: heapless::Vec::new(),
        radio: Radio::Always,
    }
}

fn exchange() -> &'static Exchange {
    Box::leak(Box::new(Exchange::new(Box::leak(Box::new(Room::new())))))
}

/// A server's end of a connection.
struct Server<S = DuplexStream>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// The next packet: its first byte and its body; `None` at the end.
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await.ok()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.0.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// CONNACK and SUBACK; what CONNECT and SUBSCRIBE said.
    async fn welcome(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (first, connect) = self.packet().await.unwrap();
        assert_eq!(first, 0x10);
        self.say(&[0x20, 3, 0, 0, 0]).await;
        let (first, subscribe) = self.packet().await.unwrap();
        assert_eq!(first, 0x82);
        self.say(&[0x90, 4, subscribe[0], subscribe[1], 0, 1]).await;
        (connect, subscribe)
    }

    /// A message of the node's: its topic, its packet id where it has one, its payload.
    async fn published(&mut self) -> (String, Option<[u8; 2]>, Vec<u8>) {
        let (first, body) = self.packet().await.unwrap();
        assert_eq!(first & 0xf9, 0x30, "a message that is neither retained nor a repetition: {first:02x}");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
        let at = 2 + length;
        if first & 6 == 0 {
            assert_eq!(body[at], 0, "no properties");
            return (topic, None, body[at + 1..].to_vec());
        }
        assert_eq!(body[at + 2], 0, "no properties");
        (topic, Some([body[at], body[at + 1]]), body[at + 3..].to_vec())
    }

    async fn publish(&mut self, topic: &str, payload: &[u8]) {
        let length = 2 + topic.len() + 1 + payload.len();
        let mut packet = vec![0x30];
        let mut rest = length;
        while rest > 0x7f {
            packet.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        packet.push(rest as u8);
        packet.extend((topic.len() as u16).to_be_bytes());
        packet.extend(topic.as_bytes());
        packet.push(0);
        packet.extend(payload);
        self.say(&packet).await;
    }
}

/// Runs a conversation against what a test does as the server; how the conversation ended, and what the
/// server found.
async fn talk<R>(exchange: &'static Exchange, server: impl AsyncFnOnce(Server) -> R) -> (Result<Over, Failure>, R) {
    let (near, far) = duplex(4_096);
    let settings = settings();
    let (busy, mut tx) = (mqtt::Busy::new(false), [0; mqtt::TX_BYTES]);
    let mut image = exchange.image.lock().await;
    let talk = async {
        let transport = FromTokio::new(near);
        let over = mqtt::converse(transport, &busy, exchange, &settings, image.as_mut_slice(), &mut tx).await;
        if exchange.connection().up {
            exchange.set_connection(false);
        }
        over
    };
    tokio::time::timeout(core::time::Duration::from_secs(20), async { tokio::join!(talk, server(Server(far))) })
        .await
        .unwrap()
}

/// Waits until a connection is there, and takes it as the node half does.
async fn connected(exchange: &Exchange) {
    while !exchange.connection().up {
        exchange.woken().await;
    }
    exchange.outbox.open();
}

#[tokio::test]
async fn a_node_logs_in_with_a_clean_start_and_is_connected_when_it_is_subscribed() {
    let exchange = exchange();
    let (over, ()) = talk(exchange, async |mut server| {
        let (first, connect) = server.packet().await.unwrap();
        assert_eq!(first, 0x10);
        assert_eq!(&connect[..7], b"\0\x04MQTT\x05");
        assert_eq!(connect[7], 0b1100_0010, "user, password, clean start; no will");
        assert_eq!(&connect[8..10], [0, 30], "keep-alive");
        let password = "a5".repeat(TOKEN_BYTES);
        for text in ["pond-7", &password] {
            let mut field = (text.len() as u16).to_be_bytes().to_vec();
            field.extend(text.as_bytes());
            assert!(connect.windows(field.len()).any(|window| window == field), "{text}");
        }
        server.say(&[0x20, 3, 0, 0, 0]).await;
        let (_, subscribe) = server.packet().await.unwrap();
        assert!(subscribe.ends_with(b"\0\x12ty/1/pond-7/down/#\x01"), "{subscribe:?}");
        assert!(!exchange.connection().up, "not before SUBACK");
        server.say(&[0x90, 4, subscribe[0], subscribe[1], 0, 1]).await;
        connected(exchange).await;
    })
    .await;
    assert_eq!(over, Err(Failure::Lost), "the server went away");
    assert!(!exchange.connection().up);
    assert_eq!(exchange.glance().counters.connected, 1);
}

#[tokio::test]
async fn messages_go_both_ways_and_a_puback_only_makes_room() {
    let exchange = exchange();
    let (over, ()) = talk(exchange, async |mut server| {
        server.welcome().await;
        connected(exchange).await;
        assert!(exchange.outbox.push(Up::Session, b"open"));
        assert!(exchange.outbox.push(Up::Live, b"live"));
        let (topic, id, payload) = server.published().await;
        assert_eq!((topic.as_str(), payload.as_slice()), ("ty/1/pond-7/up/session", &b"open"[..]));
        assert!(id.is_some(), "QoS 1");
        let (topic, none, payload) = server.published().await;
        assert_eq!((topic.as_str(), none, payload.as_slice()), ("ty/1/pond-7/up/live", None, &b"live"[..]));
        // Two reports do not fit at once: the second waits for the PUBACK of the first.
        for n in [1, 2] {
            assert!(exchange.outbox.push(Up::Report, &[n; 1_000]) || n == 2);
        }
        let (_, first, payload) = server.published().await;
        assert_eq!(payload, [1; 1_000]);
        exchange.outbox.push(Up::Report, &[2; 1_000]);
        for id in [id, first] {
            let [high, low] = id.unwrap();
            server.say(&[0x40, 2, high, low]).await;
        }
        let (topic, _, payload) = server.published().await;
        assert_eq!((topic.as_str(), payload), ("ty/1/pond-7/up/report", vec![2; 1_000]));
        server.publish("ty/1/pond-7/down/receipt", b"receipt").await;
        server.publish("ty/1/pond-8/down/receipt", b"another's").await;
        server.publish("ty/1/pond-7/down/command", b"command").await;
        for (kind, payload) in [(Down::Receipt, &b"receipt"[..]), (Down::Command, b"command")] {
            let message = exchange.down.receive().await;
            assert_eq!((message.kind, message.payload.as_slice()), (kind, payload));
        }
    })
    .await;
    assert_eq!(over, Err(Failure::Lost));
    assert_eq!(exchange.glance().counters.foreign, 1);
}

#[tokio::test]
async fn nothing_of_a_connection_that_was_cut_is_sent_on_the_next() {
    let exchange = exchange();
    let (over, ()) = talk(exchange, async |mut server| {
        server.welcome().await;
        connected(exchange).await;
        // One in flight without its PUBACK, and one that has no room yet.
        assert!(exchange.outbox.push(Up::Report, &[1; 1_000]));
        server.published().await;
        assert!(exchange.outbox.push(Up::Session, &[2; 200]));
        assert!(exchange.outbox.push(Up::Report, &[3; 900]));
        server.published().await;
    })
    .await;
    assert_eq!(over, Err(Failure::Lost));
    let (_, ()) = talk(exchange, async |mut server| {
        let (connect, _) = server.welcome().await;
        assert_eq!(connect[7] & 2, 2, "a clean start");
        connected(exchange).await;
        assert!(exchange.outbox.push(Up::Session, b"new"));
        let (_, _, payload) = server.published().await;
        assert_eq!(payload, b"new", "nothing came before it");
        server.say(&[0xe0, 0]).await;
        // The node ends it too, and says nothing more.
        assert!(server.packet().await.is_none_or(|(first, _)| first == 0xe0));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_or_talks_nonsense_is_left() {
    let cases: [(&[u8], Failure); 5] = [
        (&[0x20, 3, 0, 0x87, 0], Failure::Refused),
        (&[0x20, 3, 0, 0x88, 0], Failure::Refused),
        (&[0x90, 1, 0], Failure::Malformed),
        (&[0x20, 0xff, 0xff, 0xff, 0xff, 0xff], Failure::Malformed),
        (&[0xe0, 2, 0x8b, 0], Failure::Lost),
    ];
    for (answer, failure) in cases {
        let (over, ()) = talk(exchange(), async |mut server| {
            server.packet().await.unwrap();
            server.say(answer).await;
            assert!(server.packet().await.is_none(), "the node says nothing more");
        })
        .await;
        assert_eq!(over, Err(failure), "{answer:02x?}");
    }
    // Behind SUBACK: an end with a reason, nonsense, and a packet larger than there is room for.
    let cases: [(&[u8], Failure); 3] = [
        (&[0xe0, 2, 0x97, 0], Failure::Lost),
        (&[0x30, 1, 0], Failure::Malformed),
        (&[0x30, 0xff, 0xff, 0x7f, 0, 1, b'x'], Failure::Malformed),
    ];
    for (answer, failure) in cases {
        let (over, ()) = talk(exchange(), async |mut server| {
            server.welcome().await;
            server.say(answer).await;
            while server.packet().await.is_some() {}
        })
        .await;
        assert_eq!(over, Err(failure), "{answer:02x?}");
    }
    // A refused subscription.
    let (over, ()) = talk(exchange(), async |mut server| {
        server.packet().await.unwrap();
        server.say(&[0x20, 3, 0, 0, 0]).await;
        let (_, subscribe) = server.packet().await.unwrap();
        server.say(&[0x90, 4, subscribe[0], subscribe[1], 0, 0x87]).await;
        while server.packet().await.is_some() {}
    })
    .await;
    assert_eq!(over, Err(Failure::Refused));
}

#[tokio::test]
async fn a_config_lies_in_the_image_buffer_when_the_connection_has_ended() {
    let exchange = exchange();
    let image: Vec<u8> = (0..node::config::IMAGE_BYTES_MAX + 32).map(|n| n as u8).collect();
    let sent = image.clone();
    let (over, ()) = talk(exchange, async |mut server| {
        server.welcome().await;
        server.publish("ty/1/pond-7/down/config", &sent).await;
        while server.packet().await.is_some() {}
    })
    .await;
    let Ok(Over::Delivery(delivery)) = over else { panic!("{over:?}") };
    let buffer = exchange.image.try_lock().unwrap();
    assert!(buffer[delivery.from..delivery.to] == image[..]);
}

#[tokio::test]
async fn a_connection_that_is_not_wanted_any_more_ends_with_a_farewell() {
    let exchange = exchange();
    let (over, last) = talk(exchange, async |mut server| {
        server.welcome().await;
        connected(exchange).await;
        exchange.let_go(true);
        server.packet().await
    })
    .await;
    assert_eq!(over, Ok(Over::Unwanted));
    assert_eq!(last.map(|(first, _)| first), Some(0xe0));
}

mod tls;
