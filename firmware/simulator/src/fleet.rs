//! Many hosts, each with its own MQTT connection to a gateway or broker, as boards have.
//!
//! It owns connections and their back-off, and the pace at which hosts run. Delivery is the node
//! core's: nothing here repeats a report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use node::RestartCause;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use telemetry::NodeName;
use telemetry::topic::{self, Down, Up};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::host::Host;
use crate::instrument::Fault;

/// First and longest pause between attempts to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Longest real time until the other side has answered a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Requests that wait within the MQTT client: every record that may be under way in a report of its
/// own, and some more.
const REQUESTS_MAX: usize = 300;
/// Events of a connection that wait for its host.
const EVENTS_MAX: usize = 64;
/// Orders that wait for a host.
const ORDERS_MAX: usize = 16;
/// Longest real time between two looks at a host.
const LOOK: Duration = Duration::from_millis(500);
/// Longest MQTT packet either way: the longest config image, sealed.
const PACKET_BYTES_MAX: usize = 9_216;

/// Where nodes connect to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Power fails.
    PowerOff,
    /// Power comes back.
    PowerOn,
    /// It restarts by itself.
    Restart,
    /// Its flash is erased while it has no power; then it starts anew.
    EraseRing,
    /// A probe fails, or heals.
    Fault {
        /// Number of the probe.
        instrument: usize,
        /// How.
        fault: Option<Fault>,
    },
}

/// Why a node could not be ordered about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fleet has no such node, or it has stopped")]
pub struct Unreachable;

/// A node of the fleet.
struct Member {
    name: NodeName,
    host: Arc<Mutex<Host>>,
    orders: mpsc::Sender<Order>,
}

/// Nodes that run until they are stopped.
pub struct Fleet {
    members: Vec<Member>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Fleet {
    /// Starts hosts, each with its token, against one endpoint. Needs a tokio runtime.
    pub fn start(hosts: Vec<(Host, String)>, endpoint: &Endpoint, clock: Arc<dyn Clock>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut members = Vec::with_capacity(hosts.len());
        for (host, token) in hosts {
            let name = host.name().clone();
            let host = Arc::new(Mutex::new(host));
            let (orders, ordered) = mpsc::channel(ORDERS_MAX);
            let (tell, told) = mpsc::channel(EVENTS_MAX);
            let tell = Tell { to: tell, connection: 0 };
            tasks.spawn(connect(name.clone(), token, endpoint.clone(), tell, stop.clone()));
            let keeper = Keeper { name: name.clone(), host: Arc::clone(&host), client: None };
            tasks.spawn(keeper.keep(told, ordered, Arc::clone(&clock), stop.clone()));
            members.push(Member { name, host, orders });
        }
        Self { members, tasks, stop }
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Orders a node about.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn order(&self, node: &str, order: Order) -> Result<(), Unreachable> {
        let member = self.members.iter().find(|it| it.name.as_str() == node).ok_or(Unreachable)?;
        member.orders.send(order).await.map_err(|_| Unreachable)
    }

    /// Looks at each host; it must not be for long.
    pub fn each(&self, mut look: impl FnMut(&mut Host)) {
        for member in &self.members {
            look(&mut member.host.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The next seq of each node's ring, to be asked for with [`Fleet::is_delivered`]; 0 without
    /// power.
    pub fn kept(&self) -> Vec<u32> {
        let mut kept = Vec::with_capacity(self.members.len());
        self.each(|host| kept.push(host.node().and_then(|node| node.ring()).map_or(0, |(_, _, next)| next)));
        kept
    }

    /// Whether the gateway has receipted all that was [`kept`](Fleet::kept) then.
    pub fn is_delivered(&self, kept: &[u32]) -> bool {
        let (mut all, mut kept) = (true, kept.iter());
        self.each(|host| {
            let released = host.node().and_then(|node| node.session().released()).unwrap_or(0);
            all &= kept.next().is_none_or(|next| released >= *next);
        });
        all
    }

    /// Stops every node where it is; gives the hosts back.
    pub async fn stop(mut self) -> Vec<Host> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let hosts = self.members.into_iter().filter_map(|member| Arc::try_unwrap(member.host).ok());
        hosts.map(|host| host.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

/// What a connection tells its host.
pub(crate) enum Told {
    Connected(AsyncClient),
    Disconnected,
    Message(Down, Vec<u8>),
    /// A message was acknowledged, which means nothing to a node.
    Acknowledged,
    /// A subscription was answered that was made after [`Told::Connected`].
    Answered,
}

/// How a connection tells it.
pub(crate) struct Tell {
    pub(crate) to: mpsc::Sender<(u64, Told)>,
    /// Which connection it is.
    pub(crate) connection: u64,
}

impl Tell {
    /// Whether anybody listens still.
    async fn say(&self, told: Told) -> bool {
        self.to.send((self.connection, told)).await.is_ok()
    }
}

/// Keeps a connection up.
async fn connect(name: NodeName, token: String, endpoint: Endpoint, tell: Tell, stop: CancellationToken) {
    let mut pause = BACK_OFF.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            lasted = converse(&name, &token, &endpoint, CONNECT_WITHIN, &tell) => {
                if lasted {
                    pause = BACK_OFF.0;
                }
                if !tell.say(Told::Disconnected).await {
                    return;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACK_OFF.1),
        }
    }
}

/// Does to a host what is ordered; whether it has started anew.
pub(crate) fn obey(host: &mut Host, order: Order, now_us: u64) -> bool {
    let cause = match order {
        Order::PowerOff => {
            host.power_off();
            return false;
        }
        Order::Fault { instrument, fault } => {
            host.set_fault(instrument, fault);
            return false;
        }
        Order::PowerOn => RestartCause::Power,
        Order::Restart => RestartCause::Software,
        Order::EraseRing => {
            host.power_off();
            host.erase_ring();
            RestartCause::Power
        }
    };
    // A config that was valid at the first start is valid at the next.
    host.power_on(cause, now_us).is_ok()
}

/// The quality of service of a node's message (CUSTODY.md).
pub(crate) fn qos(channel: Up) -> QoS {
    if channel == Up::Live { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

/// Queues a node's message; whether there was room.
pub(crate) fn publish(client: &AsyncClient, name: &NodeName, channel: Up, payload: Vec<u8>) -> bool {
    client.try_publish(topic::up(name, channel).as_str(), qos(channel), false, payload).is_ok()
}

/// What a node subscribes to.
pub(crate) fn filter(name: &NodeName) -> String {
    format!("{}/{}/down/#", topic::PREFIX, name.as_str())
}

/// One connection, from beginning to end; whether it came as far as a subscription.
pub(crate) async fn converse(
    name: &NodeName,
    token: &str,
    endpoint: &Endpoint,
    connect_within: Duration,
    tell: &Tell,
) -> bool {
    let mut options = MqttOptions::new(name.as_str(), &endpoint.host, endpoint.port);
    options.set_credentials(name.as_str(), token);
    options.set_clean_session(true);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    // Nagle's algorithm and the peer's delayed acknowledgement would add 40 ms to each message.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(connect_within.as_secs());
    events.set_network_options(network);
    let mut subscribed = false;
    loop {
        let told = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                if client.try_subscribe(filter(name), QoS::AtLeastOnce).is_err() {
                    return subscribed;
                }
                continue;
            }
            Ok(Event::Incoming(Packet::SubAck(_))) if subscribed => Told::Answered,
            Ok(Event::Incoming(Packet::PubAck(_))) => Told::Acknowledged,
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                subscribed = true;
                Told::Connected(client.clone())
            }
            Ok(Event::Incoming(Packet::Publish(message))) => match topic::parse_down(&message.topic) {
                Some((_, kind)) => Told::Message(kind, message.payload.to_vec()),
                None => continue,
            },
            Ok(_) => continue,
            // Whatever it is: the node is told, and another attempt follows.
            Err(_) => return subscribed,
        };
        if !tell.say(told).await {
            return subscribed;
        }
    }
}

/// Runs a host as its clock goes on.
struct Keeper {
    name: NodeName,
    host: Arc<Mutex<Host>>,
    client: Option<AsyncClient>,
}

impl Keeper {
    async fn keep(
        mut self,
        mut told: mpsc::Receiver<(u64, Told)>,
        mut ordered: mpsc::Receiver<Order>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        loop {
            let wake_us = self.advance(clock.mono_us());
            let wait = clock.real_until(wake_us).unwrap_or(LOOK).clamp(Duration::from_millis(1), LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                Some((_, told)) = told.recv() => self.hear(told, clock.mono_us()),
                Some(order) = ordered.recv() => self.obey(order, clock.mono_us()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Runs the host until now and publishes what it wants; when it wants to be run again.
    fn advance(&self, now_us: u64) -> u64 {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.run(now_us);
        if let Some(client) = &self.client {
            while let Some((channel, payload)) = host.next_publish() {
                // A full queue is a lost message, as on the air: the node repeats what was not
                // receipted.
                let _queued = publish(client, &self.name, channel, payload);
            }
        }
        host.wake_us()
    }

    fn hear(&mut self, told: Told, now_us: u64) {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.run(now_us);
        match told {
            Told::Connected(client) => {
                self.client = Some(client);
                host.connected();
            }
            Told::Disconnected => {
                self.client = None;
                host.disconnected();
            }
            Told::Message(kind, payload) => host.message(kind, &payload),
            Told::Acknowledged | Told::Answered => {}
        }
    }

    fn obey(&mut self, order: Order, now_us: u64) {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.run(now_us);
        if obey(&mut host, order, now_us) && self.client.is_some() {
            host.connected();
        }
    }
}
