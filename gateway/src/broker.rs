//! Nodes behind an external MQTT broker: the same custody over rumqttc (3.1.1, persistent
//! session, manual acknowledgements).
//!
//! A broker's own acknowledgement proves nothing to a node; this client acknowledges a message to
//! the broker only when its records are durable, and the node trusts only the gateway's sealed
//! receipt. Messages come in on one client and go out on another: acknowledgements share the
//! request channel of the first, and nothing else may fill it. rumqttc forgets what was under way
//! when a session is lost; that is harmless here, because the node sends again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use telemetry::NodeName;
use telemetry::topic::{self, Down};
use tokio_util::sync::CancellationToken;

use crate::custody::{Accept, Arrival, Outlet, Reply, Sent, Verdict};

/// Messages that may wait for their verdict, and requests in a client's channel.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes of one packet, either way.
const PACKET_BYTES_MAX: usize = 8 * 1024;
/// First and longest pause between connections.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How to reach the broker, and whose messages to take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Client id; the outgoing client's is this and "-out".
    pub client_id: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// Node names, or "+" for all.
    pub nodes: Vec<String>,
}

/// The way down to nodes behind the broker.
struct Out(AsyncClient);

impl Outlet for Out {
    fn send(&self, node: &NodeName, channel: Down, message: Bytes) -> Sent {
        // Receipts and commands are never retained and lose nothing by being lost: QoS 0.
        let topic = topic::down(node, channel);
        match self.0.try_publish(topic.as_str(), QoS::AtMostOnce, false, message) {
            Ok(()) => Sent::Queued,
            Err(_) => {
                counter!("tianyu_broker_down_full_total").increment(1);
                Sent::Full
            }
        }
    }
}

impl Options {
    fn mqtt(&self, suffix: &str) -> MqttOptions {
        let mut options = MqttOptions::new(format!("{}{suffix}", self.client_id), &self.host, self.port);
        options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        options
    }
}

/// Small messages must not wait for the acknowledgement of the one before.
fn at_once() -> NetworkOptions {
    let mut options = NetworkOptions::new();
    options.set_tcp_nodelay(true);
    options
}

/// The client that publishes to nodes, and the way through it. It runs until `shutdown`.
pub fn outlet(options: &Options, shutdown: CancellationToken) -> (Box<dyn Outlet>, impl Future<Output = ()> + use<>) {
    let mut mqtt = options.mqtt("-out");
    mqtt.set_clean_session(true);
    let (client, mut events) = AsyncClient::new(mqtt, IN_FLIGHT_MAX);
    events.set_network_options(at_once());
    let task = async move {
        let mut pause = PAUSES.0;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.poll() => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => pause = PAUSES.0,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "publish through the broker");
                    rest(&mut pause, &shutdown).await;
                }
            }
        }
    };
    (Box::new(Out(client)), task)
}

/// Takes messages in until `shutdown`.
pub async fn run(options: Options, accept: Arc<dyn Accept>, shutdown: CancellationToken) {
    let epoch = Arc::new(AtomicU64::new(0));
    let mut pause = PAUSES.0;
    while !shutdown.is_cancelled() {
        // A new client for each connection: acknowledgements of an older one must not reach this
        // one, whose packet ids mean other messages.
        let now = epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let mut mqtt = options.mqtt("");
        mqtt.set_clean_session(false).set_manual_acks(true);
        let (client, mut events) = AsyncClient::new(mqtt, 2 * IN_FLIGHT_MAX);
        events.set_network_options(at_once());
        let (refuse, mut refused) = tokio::sync::mpsc::channel::<()>(1);
        let why = loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => break "shutdown".to_owned(),
                _ = refused.recv() => break "a message cannot be taken now".to_owned(),
                event = events.poll() => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    pause = PAUSES.0;
                    tracing::info!(
                        host = options.host,
                        port = options.port,
                        resumed = ack.session_present,
                        "connected to the broker"
                    );
                    let filters = options.nodes.iter().map(|node| format!("{}/{node}/up/+", topic::PREFIX));
                    let filters = filters.map(|path| rumqttc::SubscribeFilter::new(path, QoS::AtLeastOnce));
                    if client.try_subscribe_many(filters).is_err() {
                        break "subscribe".to_owned();
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    if ack.return_codes.contains(&rumqttc::SubscribeReasonCode::Failure) {
                        counter!("tianyu_broker_refused_subscriptions_total").increment(1);
                        tracing::error!("the broker refuses the subscription; allow this client to read ty/1/+/up/+");
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let Some((node, channel)) = topic::parse_up(&publish.topic) else {
                        counter!("tianyu_broker_foreign_topics_total").increment(1);
                        // Nothing will ever be made of it: let the broker forget it.
                        drop(client.try_ack(&publish));
                        continue;
                    };
                    let (ack, epoch, refuse) = (client.clone(), Arc::clone(&epoch), refuse.clone());
                    let arrival = Arrival { node, channel, payload: publish.payload.clone() };
                    let reply = if publish.qos == QoS::AtMostOnce {
                        Reply::nobody()
                    } else {
                        Reply::new(move |verdict| {
                            if epoch.load(Ordering::SeqCst) != now {
                                return;
                            }
                            let done = match verdict {
                                Verdict::Done => ack.try_ack(&publish).is_ok(),
                                Verdict::Refused => false,
                            };
                            if !done && refuse.try_send(()).is_err() {
                                // It is told already, or the connection is gone.
                                counter!("tianyu_broker_refused_total").increment(1);
                            }
                        })
                    };
                    accept.arrive(arrival, reply);
                }
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        };
        if !shutdown.is_cancelled() {
            counter!("tianyu_broker_disconnects_total").increment(1);
            tracing::warn!(host = options.host, port = options.port, why, "not connected to the broker");
            rest(&mut pause, &shutdown).await;
        }
    }
}

/// Pauses, longer each time, by an amount that differs between gateways.
async fn rest(pause: &mut Duration, shutdown: &CancellationToken) {
    let mut byte = [0];
    let jitter = if getrandom::fill(&mut byte).is_ok() { f64::from(byte[0]) / 512.0 } else { 0.0 };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(pause.mul_f64(0.75 + jitter)) => {}
    }
    *pause = (*pause * 2).min(PAUSES.1);
}
