//! The built-in endpoint as its clients see it: real clients of both versions, and raw sockets
//! for what a real client does not send.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gateway::custody::{Accept, Arrival, Downlinks, Login, Reply, Sent, Verdict};
use gateway::endpoint::{Endpoint, Limits};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, v5};
use telemetry::NodeName;
use telemetry::topic::{Down, Up};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Hands every arrival to the test, which gives the verdict.
struct Hand {
    arrivals: mpsc::UnboundedSender<(Arrival, Reply)>,
    connections: Mutex<Vec<(String, bool)>>,
}

impl Accept for Hand {
    fn arrive(&self, arrival: Arrival, reply: Reply) {
        assert!(self.arrivals.send((arrival, reply)).is_ok());
    }
    fn login(&self, node: &NodeName, token: &[u8]) -> Login {
        if token == format!("token of {node}").as_bytes() { Login::Welcome } else { Login::Denied }
    }
    fn connection(&self, node: &NodeName, connected: bool) {
        self.connections.lock().unwrap().push((node.to_string(), connected));
    }
}

struct Served {
    port: u16,
    hand: Arc<Hand>,
    arrivals: mpsc::UnboundedReceiver<(Arrival, Reply)>,
    downlinks: Downlinks,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn serve(limits: Limits) -> Served {
    serve_with(limits, None).await
}

async fn serve_with(limits: Limits, tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>) -> Served {
    let (send, arrivals) = mpsc::unbounded_channel();
    let hand = Arc::new(Hand { arrivals: send, connections: Mutex::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (downlinks, shutdown) = (Downlinks::new(), CancellationToken::new());
    let endpoint = Endpoint::new(hand.clone(), downlinks.clone(), limits, tls);
    let task = tokio::spawn(endpoint.run(listener, shutdown.clone()));
    Served { port, hand, arrivals, downlinks, shutdown, task }
}

impl Served {
    fn client(&self, node: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(node, "127.0.0.1", self.port);
        options.set_credentials(node, format!("token of {node}"));
        AsyncClient::new(options, 16)
    }

    async fn arrival(&mut self) -> (Arrival, Reply) {
        within(self.arrivals.recv()).await.unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing came within 20 s")
}

async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Packet {
    within(async {
        loop {
            match events.poll().await.unwrap() {
                Event::Incoming(packet) if wanted(&packet) => return packet,
                _ => {}
            }
        }
    })
    .await
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A CONNECT of version 4 or 5 with user, token and optionally a will topic.
fn connect(level: u8, client: &str, user: &str, token: &str, will: Option<&str>) -> Vec<u8> {
    let string = |s: &str| [&(s.len() as u16).to_be_bytes()[..], s.as_bytes()].concat();
    let flags = 0xC2 | if will.is_some() { 0x04 } else { 0 };
    let properties = if level == 5 { vec![0] } else { vec![] };
    let mut body = [string("MQTT"), vec![level, flags, 0, 30], properties.clone(), string(client)].concat();
    if let Some(topic) = will {
        body.extend([properties, string(topic), string("gone")].concat());
    }
    body.extend([string(user), string(token)].concat());
    assert!(body.len() < 128);
    [vec![0x10, body.len() as u8], body].concat()
}

async fn raw(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

async fn to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset instead of an orderly end is an end as well.
    let _end = within(stream.read_to_end(&mut bytes)).await;
    bytes
}

fn hello(user: &str) -> Vec<u8> {
    connect(5, user, user, &format!("token of {user}"), None)
}

async fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    within(stream.read_exact(&mut head)).await.unwrap();
    let mut body = vec![0; head[1].into()];
    within(stream.read_exact(&mut body)).await.unwrap();
    [&head[..], &body].concat()
}

#[tokio::test]
async fn a_puback_leaves_only_after_the_verdict_and_in_order() {
    let mut served = serve(Limits::default()).await;
    let (client, mut events) = served.client("pond-7");
    for text in ["one", "two"] {
        client.publish("ty/1/pond-7/up/report", QoS::AtLeastOnce, false, text).await.unwrap();
    }
    until(&mut events, |p| matches!(p, Packet::ConnAck(_))).await;
    let acks = tokio::spawn(async move {
        let mut ids = Vec::new();
        while ids.len() < 2 {
            if let Packet::PubAck(ack) = until(&mut events, |p| matches!(p, Packet::PubAck(_))).await {
                ids.push(ack.pkid);
            }
        }
        ids
    });
    let (first, first_reply) = served.arrival().await;
    let (second, second_reply) = served.arrival().await;
    assert_eq!((first.channel, &first.payload[..], &second.payload[..]), (Up::Report, &b"one"[..], &b"two"[..]));
    second_reply.give(Verdict::Done);
    assert!(!acks.is_finished());
    first_reply.give(Verdict::Done);
    assert_eq!(within(acks).await.unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_version_5_client_is_told_the_limits_and_served() {
    let mut served = serve(Limits::default()).await;
    let mut options = v5::MqttOptions::new("pond-7", "127.0.0.1", served.port);
    options.set_credentials("pond-7", "token of pond-7");
    let (client, mut events) = v5::AsyncClient::new(options, 16);
    client.subscribe("ty/1/pond-7/down/#", v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let mut told = None;
    let payload = within(async {
        loop {
            match events.poll().await.unwrap() {
                v5::Event::Incoming(v5::Incoming::ConnAck(ack)) => told = ack.properties,
                v5::Event::Incoming(v5::Incoming::SubAck(_)) => {
                    let sent = served.downlinks.send(&node("pond-7"), Down::Receipt, Bytes::from_static(b"receipt"));
                    assert_eq!(sent, Sent::Queued);
                    client.publish("ty/1/pond-7/up/live", v5::mqttbytes::QoS::AtMostOnce, false, "live").await.unwrap();
                }
                v5::Event::Incoming(v5::Incoming::Publish(p)) => return p.payload,
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(&payload[..], b"receipt");
    let told = told.unwrap();
    assert_eq!((told.max_qos, told.retain_available, told.receive_max), (Some(1), Some(0), Some(32)));
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    assert_eq!(served.arrival().await.0.channel, Up::Live);
}

#[tokio::test]
async fn what_cannot_be_taken_closes_the_connection_and_says_quota_exceeded() {
    let mut served = serve(Limits::default()).await;
    let mut stream = raw(served.port, &hello("pond-7")).await;
    assert_eq!(read_packet(&mut stream).await[3], 0);
    let topic = b"ty/1/pond-7/up/report";
    let body = [&[0, topic.len() as u8][..], topic, &[0, 9, 0], b"x"].concat();
    stream.write_all(&[&[0x32, body.len() as u8][..], &body].concat()).await.unwrap();
    let (_, reply) = served.arrival().await;
    reply.give(Verdict::Refused);
    assert_eq!(to_end(&mut stream).await[..3], [0xE0, 2, 0x97]);
}

#[tokio::test]
async fn wrong_tokens_unknown_versions_and_borrowed_names_are_refused() {
    let served = serve(Limits::default()).await;
    for (packet, answer) in [
        (connect(4, "pond-7", "pond-7", "wrong", None), vec![0x20, 2, 0, 5]),
        (connect(4, "pond-8", "pond-7", "token of pond-7", None), vec![0x20, 2, 0, 2]),
        (connect(4, "x", "Pond 7", "t", None), vec![0x20, 2, 0, 5]),
        (connect(3, "pond-7", "pond-7", "token of pond-7", None), vec![]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![]),
        (vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F], vec![]),
    ] {
        let mut stream = raw(served.port, &packet).await;
        assert_eq!(to_end(&mut stream).await, answer, "{packet:?}");
    }
    assert!(served.hand.connections.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_address_that_keeps_failing_to_log_in_waits_for_its_answer_and_keeps_nobody_out() {
    let pause = Duration::from_millis(300);
    let served = serve(Limits { failed_logins_max: 3, failed_login_pause: pause, ..Limits::default() }).await;
    for attempt in 0..5 {
        let mut stream = raw(served.port, &connect(4, "a", "a", "wrong", None)).await;
        let asked = tokio::time::Instant::now();
        assert_eq!(to_end(&mut stream).await.len(), 4);
        assert!(attempt < 3 || asked.elapsed() >= pause, "{attempt}");
    }
    let mut stream = raw(served.port, &hello("pond-7")).await;
    let mut answer = [0; 4];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!([answer[0], answer[2], answer[3]], [0x20, 0, 0], "welcome");
}

#[tokio::test]
async fn a_node_reaches_its_own_topics_and_no_others() {
    let served = serve(Limits::default()).await;
    let (client, mut events) = served.client("pond-7");
    for (filter, allowed) in [
        ("ty/1/pond-7/down/#", true),
        ("ty/1/pond-7/down/receipt", true),
        ("ty/1/pond-7/down/+", true),
        ("ty/1/pond-8/down/receipt", false),
        ("ty/1/+/down/receipt", false),
        ("#", false),
        ("$share/g/ty/1/pond-7/down/receipt", false),
        ("ty/1/pond-7/up/report", false),
    ] {
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let Packet::SubAck(ack) = until(&mut events, |p| matches!(p, Packet::SubAck(_))).await else { unreachable!() };
        let granted = ack.return_codes[0] != rumqttc::SubscribeReasonCode::Failure;
        assert_eq!(granted, allowed, "{filter}");
    }
    client.publish("ty/1/pond-8/up/report", QoS::AtLeastOnce, false, "x").await.unwrap();
    within(async { while events.poll().await.is_ok() {} }).await;
}

#[tokio::test]
async fn packets_beyond_the_limits_or_the_book_close_the_connection_with_their_reason() {
    let served = serve(Limits::default()).await;
    let publish = |first: u8, topic: &str, rest: &[u8]| {
        let body = [&[0, topic.len() as u8][..], topic.as_bytes(), rest].concat();
        [&[first, body.len() as u8][..], &body].concat()
    };
    let own = "ty/1/pond-7/up/report";
    for (packet, reason) in [
        (vec![0x32, 0xFF, 0xFF, 0x03], 0x95),
        (publish(0x34, own, &[0, 1, 0]), 0x9B),
        (publish(0x33, own, &[0, 1, 0]), 0x9A),
        (publish(0x32, own, &[0, 1, 3, 0x23, 0, 1]), 0x94),
        (publish(0x32, "ty/1/pond-8/up/report", &[0, 1, 0]), 0x87),
        (publish(0x32, "ty/1/pond-7/up/report/a/b/c", &[0, 1, 0]), 0x87),
        (publish(0x32, "sensors/pond", &[0, 1, 0]), 0x87),
        (publish(0x32, own, &[0, 0, 0]), 0x81),
        (vec![0x36, 3, 0, 9, b'x'], 0x81),
        (vec![0xF0, 0], 0x81),
        (hello("pond-7"), 0x82),
    ] {
        let mut stream = raw(served.port, &hello("pond-7")).await;
        assert_eq!(read_packet(&mut stream).await[3], 0);
        stream.write_all(&packet).await.unwrap();
        let answer = to_end(&mut stream).await;
        assert_eq!(answer.get(..3), Some(&[0xE0, 2, reason][..]), "{packet:x?}: {answer:x?}");
    }
}

#[tokio::test]
async fn a_second_connection_takes_over_and_the_first_ones_will_stays_unsaid() {
    let mut served = serve(Limits::default()).await;
    let will = connect(5, "pond-7", "pond-7", "token of pond-7", Some("ty/1/pond-7/up/live"));
    let mut first = raw(served.port, &will).await;
    assert_eq!(read_packet(&mut first).await[3], 0);
    let mut second = raw(served.port, &will).await;
    assert_eq!(read_packet(&mut second).await[3], 0);
    assert_eq!(to_end(&mut first).await[..3], [0xE0, 2, 0x8E]);
    assert!(served.downlinks.connected(&node("pond-7")));
    drop(second);
    let (arrival, _) = served.arrival().await;
    assert_eq!((arrival.channel, &arrival.payload[..]), (Up::Live, &b"gone"[..]));
    assert!(served.arrivals.try_recv().is_err());
}

#[tokio::test]
async fn a_will_on_a_foreign_topic_is_refused_with_the_connection() {
    let served = serve(Limits::default()).await;
    for topic in ["ty/1/pond-8/up/live", "ty/1/pond-7/down/receipt", "lights/out"] {
        let mut stream = raw(served.port, &connect(4, "pond-7", "pond-7", "token of pond-7", Some(topic))).await;
        assert_eq!(to_end(&mut stream).await, [0x20, 2, 0, 5], "{topic}");
    }
}

#[tokio::test]
async fn revoking_closes_a_live_connection() {
    let served = serve(Limits::default()).await;
    let mut stream = raw(served.port, &hello("pond-7")).await;
    read_packet(&mut stream).await;
    assert!(served.downlinks.close(&node("pond-7")));
    assert_eq!(to_end(&mut stream).await[..3], [0xE0, 2, 0x98]);
}

#[tokio::test]
async fn silence_ends_a_connection_before_and_after_connect() {
    let served = serve(Limits { connect_within: Duration::from_millis(50), ..Limits::default() }).await;
    let mut silent = raw(served.port, &[0x10]).await;
    assert!(to_end(&mut silent).await.is_empty());
    let served = serve(Limits { keep_alive_max: Duration::from_millis(40), ..Limits::default() }).await;
    let mut silent = raw(served.port, &hello("pond-7")).await;
    read_packet(&mut silent).await;
    assert_eq!(to_end(&mut silent).await[..3], [0xE0, 2, 0x8D]);
}

#[tokio::test]
async fn no_more_is_taken_than_may_be_in_flight() {
    let mut served = serve(Limits { in_flight_max: 2, ..Limits::default() }).await;
    let (client, mut events) = served.client("pond-7");
    for _ in 0..5 {
        client.publish("ty/1/pond-7/up/report", QoS::AtLeastOnce, false, "x").await.unwrap();
    }
    let polling = tokio::spawn(async move {
        for _ in 0..5 {
            until(&mut events, |p| matches!(p, Packet::PubAck(_))).await;
        }
    });
    let mut replies = vec![served.arrival().await.1, served.arrival().await.1];
    for left in [3, 2, 1] {
        assert!(served.arrivals.try_recv().is_err(), "{left} are still to wait");
        replies.remove(0).give(Verdict::Done);
        replies.push(served.arrival().await.1);
    }
    for reply in replies {
        reply.give(Verdict::Done);
    }
    within(polling).await.unwrap();
}

#[tokio::test]
async fn shutdown_says_goodbye_and_ends() {
    let served = serve(Limits::default()).await;
    let mut stream = raw(served.port, &hello("pond-7")).await;
    read_packet(&mut stream).await;
    served.shutdown.cancel();
    assert_eq!(to_end(&mut stream).await[..3], [0xE0, 2, 0x8B]);
    within(served.task).await.unwrap();
}

#[tokio::test]
async fn with_certificate_and_key_nodes_speak_tls_and_nothing_else_gets_in() {
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let served = serve_with(Limits::default(), Some(gateway::endpoint::tls(&certificate, &key).unwrap())).await;

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let name = ServerName::try_from("gateway.farm").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(&hello("pond-7")).await.unwrap();
    let mut connack = [0; 4];
    within(stream.read_exact(&mut connack)).await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0));

    let mut plain = raw(served.port, &hello("pond-8")).await;
    assert!(!to_end(&mut plain).await.starts_with(&[0x20]));
    assert!(!served.downlinks.connected(&node("pond-8")));
    let missing = gateway::endpoint::tls(&folder.path().join("none.pem"), &key).unwrap_err();
    assert!(missing.to_string().contains("none.pem"), "{missing}");
}
