//! A fleet on a clock that waits for it: time stands while anything is under way between a node
//! and the gateway, and then jumps to the next instant at which some host has something to do. A
//! simulated day takes as long as its work takes, a round trip takes no simulated time at all, and
//! the same seed gives the same rounds.
//!
//! The connections are real MQTT, as [`crate::fleet`]'s. Under way is: a connection that is being
//! made, a message without its PUBACK, and what the gateway has to say to that. The last cannot be
//! counted, since one receipt may answer many reports or none. So when everything is acknowledged
//! the node's subscription is made once more: the gateway's endpoint handles what comes in order,
//! and answers it behind all that earlier messages led to, snapshots included. A broker in between
//! promises no such order; there a receipt may come late, which nodes bear.
//!
//! It owns the pace, and links that are cut or lossy. What happens to a node is ordered between
//! two runs, so at an instant at which nothing is under way.

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{AsyncClient, QoS};
use telemetry::NodeName;
use telemetry::topic::{Down, Up};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::clock::{Clock as _, VirtualClock};
use crate::fleet::{self, Endpoint, Order, Tell, Told, Unreachable};
use crate::host::Host;
use crate::world::Chance;

/// First and longest pause between attempts to connect, µs of the simulation.
const BACK_OFF_US: (u64, u64) = (200_000, 30_000_000);
/// Events of all connections that wait for the driver.
const EVENTS_MAX: usize = 1_024;
/// Longest real time that one simulated instant may take: a backlog of days is delivered in one.
const PATIENCE: Duration = Duration::from_secs(60);

/// The fleet stands: something is under way and does not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{node} waits for {what} at {at_ms} ms of the simulation, for more than {patience:?}")]
pub struct Stuck {
    /// Which node.
    pub node: String,
    /// What it waits for.
    pub what: &'static str,
    /// When, ms of the simulation.
    pub at_ms: u64,
    /// For how long in real time.
    pub patience: Duration,
}

/// A node's way to the gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// There is none.
    Down,
    /// It is there, and takes no time.
    Up,
    /// It is there, and what comes down is this late: all of a round trip is on one side, which is
    /// the worst that it can do to a node's clock.
    Slow {
        /// How late, ms.
        ms: u64,
    },
    /// It is there, and messages get lost on it either way; what goes up was acknowledged to
    /// nobody.
    Lossy {
        /// Share of messages that are lost, 0–1.
        share: f64,
    },
}

/// A node of the fleet.
struct Member {
    name: NodeName,
    token: String,
    host: Host,
    link: Link,
    chance: Chance,
    connection: Option<Connection>,
    /// Messages that come down late: when, and what.
    late: VecDeque<(u64, Down, Vec<u8>)>,
    /// No attempt to connect before this instant.
    retry_us: u64,
    pause_us: u64,
    connected_us: u64,
    wake_us: u64,
}

/// A connection that is being made, or is there.
struct Connection {
    number: u64,
    task: AbortHandle,
    /// Once it is there.
    client: Option<AsyncClient>,
    unacknowledged: usize,
    /// Something was published since the gateway was last asked whether that is all.
    unasked: bool,
    asked: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// What it waits for.
    fn waits_for(&self) -> Option<&'static str> {
        match self {
            Self { client: None, .. } => Some("a connection"),
            Self { unacknowledged: 1.., .. } => Some("a PUBACK"),
            Self { asked: true, .. } | Self { unasked: true, .. } => Some("the gateway's last word"),
            _ => None,
        }
    }
}

/// Nodes that run when they are told to, until where they are told to.
pub struct Lockstep {
    members: Vec<Member>,
    clock: VirtualClock,
    endpoint: Endpoint,
    connections: u64,
    patience: Duration,
    tell: mpsc::Sender<(u64, Told)>,
    told: mpsc::Receiver<(u64, Told)>,
}

impl Lockstep {
    /// Hosts, each with its token, against one endpoint. They stand until they are run.
    pub fn new(hosts: Vec<(Host, String)>, endpoint: &Endpoint, clock: VirtualClock) -> Self {
        let (tell, told) = mpsc::channel(EVENTS_MAX);
        let member = |(index, (host, token)): (u64, (Host, String))| Member {
            name: host.name().clone(),
            token,
            wake_us: host.wake_us(),
            host,
            link: Link::Up,
            chance: Chance::new(index),
            connection: None,
            late: VecDeque::new(),
            connected_us: 0,
            retry_us: 0,
            pause_us: BACK_OFF_US.0,
        };
        let members = (0..).zip(hosts).map(member).collect();
        Self { members, clock, endpoint: endpoint.clone(), connections: 0, patience: PATIENCE, tell, told }
    }

    /// With another longest real time for one simulated instant.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Time of the simulation, ms.
    pub fn now_ms(&self) -> u64 {
        self.clock.mono_ms()
    }

    /// The hosts, in the order in which they were given.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.members.iter().map(|member| &member.host)
    }

    /// The first host of this name.
    pub fn host(&self, node: &str) -> Option<&Host> {
        self.hosts().find(|host| host.name().as_str() == node)
    }

    /// The first seq of this node's present ring that the gateway has not receipted, as far as the
    /// node knows.
    pub fn released(&self, node: &str) -> Option<u32> {
        self.host(node)?.node()?.session().released()
    }

    /// Orders every node of this name about, now.
    ///
    /// # Errors
    /// When there is none.
    pub fn order(&mut self, node: &str, order: Order) -> Result<(), Unreachable> {
        let now_us = self.clock.mono_us();
        self.each(node, |member| {
            member.host.run(now_us);
            let begins = fleet::obey(&mut member.host, order, now_us);
            if begins || order == Order::PowerOff {
                // A board without power has no modem either.
                (member.connection, member.retry_us) = (None, now_us);
                member.late.clear();
            }
            member.wake_us = member.host.wake_us();
        })
    }

    /// Gives every node of this name another link, now. A connection that is there is cut when it
    /// is down, without a word to either side but the end of the stream.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&mut self, node: &str, link: Link) -> Result<(), Unreachable> {
        let now_us = self.clock.mono_us();
        self.each(node, |member| {
            if link == Link::Down {
                member.lose_connection(now_us);
            } else if member.link == Link::Down {
                (member.retry_us, member.pause_us) = (now_us, BACK_OFF_US.0);
            }
            member.link = link;
        })
    }

    fn each(&mut self, node: &str, mut change: impl FnMut(&mut Member)) -> Result<(), Unreachable> {
        let mut there = false;
        for member in self.members.iter_mut().filter(|member| member.name.as_str() == node) {
            change(member);
            there = true;
        }
        if there { Ok(()) } else { Err(Unreachable) }
    }

    /// Runs until this time of the simulation, all that happens at it included.
    ///
    /// # Errors
    /// When something under way does not come.
    pub async fn run_until(&mut self, ms: u64) -> Result<(), Stuck> {
        while self.step(ms).await? {}
        Ok(())
    }

    /// Runs until the gateway has receipted everything that nodes with power hold now, but not
    /// beyond this time of the simulation; whether it has. What they take meanwhile may wait.
    ///
    /// # Errors
    /// When something under way does not come.
    pub async fn run_until_delivered(&mut self, ms: u64) -> Result<bool, Stuck> {
        self.settle().await?;
        let next = |host: &Host| host.node().and_then(|node| node.ring()).map_or(0, |(_, _, next)| next);
        let kept: Vec<u32> = self.hosts().map(next).collect();
        loop {
            let is_released = |(host, kept): (&Host, &u32)| {
                *kept == 0 || host.node().and_then(|node| node.session().released()) >= Some(*kept)
            };
            if self.hosts().zip(&kept).all(is_released) {
                return Ok(true);
            }
            if !self.step(ms).await? {
                return Ok(false);
            }
        }
    }

    /// Does what is due now and jumps to the next instant at which something is, but not beyond
    /// `ms`; `false` when that is reached and done.
    ///
    /// # Errors
    /// When something under way does not come.
    pub async fn step(&mut self, ms: u64) -> Result<bool, Stuck> {
        self.settle().await?;
        let (now_us, end_us) = (self.clock.mono_us(), ms.saturating_mul(1_000));
        if now_us >= end_us {
            return Ok(false);
        }
        let wake_us = self.members.iter().map(Member::wake_us).min().unwrap_or(u64::MAX);
        let next_us = wake_us.clamp(now_us + 1, end_us);
        self.clock.advance(Duration::from_micros(next_us - now_us));
        Ok(true)
    }

    /// Gives the hosts back, each run until now.
    pub fn stop(self) -> Vec<Host> {
        let now_us = self.clock.mono_us();
        let hosts = self.members.into_iter().map(|member| member.host);
        hosts
            .map(|mut host| {
                host.run(now_us);
                host
            })
            .collect()
    }

    /// Does everything that is due now, until nothing is under way.
    async fn settle(&mut self) -> Result<(), Stuck> {
        let now_us = self.clock.mono_us();
        let by = tokio::time::Instant::now() + self.patience;
        for index in 0..self.members.len() {
            if self.members.get(index).is_some_and(|member| member.wake_us() <= now_us) {
                self.act(index, now_us);
            }
        }
        loop {
            while let Ok((connection, told)) = self.told.try_recv() {
                self.hear(connection, told, now_us);
            }
            let waits = |member: &Member| {
                let what = member.connection.as_ref().and_then(Connection::waits_for)?;
                Some((member.name.to_string(), what))
            };
            let Some((node, what)) = self.members.iter().find_map(waits) else { return Ok(()) };
            // The channel cannot end: this side has a sender too.
            let Ok(Some((connection, told))) = tokio::time::timeout_at(by, self.told.recv()).await else {
                return Err(Stuck { node, what, at_ms: now_us / 1_000, patience: self.patience });
            };
            self.hear(connection, told, now_us);
        }
    }

    /// Runs a member if it is due, sends what it has to say, and asks for the gateway's last word.
    fn act(&mut self, index: usize, now_us: u64) {
        let Some(member) = self.members.get_mut(index) else { return };
        while member.late.front().is_some_and(|(at_us, ..)| *at_us <= now_us) {
            if let Some((_, kind, payload)) = member.late.pop_front() {
                member.host.run(now_us);
                member.host.message(kind, &payload);
            }
        }
        if member.host.wake_us() <= now_us {
            member.host.run(now_us);
        }
        member.wake_us = member.host.wake_us();
        if member.may_connect() && member.retry_us <= now_us {
            self.connections += 1;
            let tell = Tell { to: self.tell.clone(), connection: self.connections };
            let (name, token, endpoint) = (member.name.clone(), member.token.clone(), self.endpoint.clone());
            // A refusal is heard at once; no answer at all is for the driver to complain of.
            let connect_within = 2 * self.patience + Duration::from_secs(1);
            let task = tokio::spawn(async move {
                fleet::converse(&name, &token, &endpoint, connect_within, &tell).await;
                // Nobody listens when the fleet has stopped.
                let _heard = tell.to.send((tell.connection, Told::Disconnected)).await;
            });
            member.connection = Some(Connection {
                number: self.connections,
                task: task.abort_handle(),
                client: None,
                unacknowledged: 0,
                unasked: false,
                asked: false,
            });
        }
        member.publish();
    }

    /// Takes what a connection tells to its member, and lets that act on it.
    fn hear(&mut self, number: u64, told: Told, now_us: u64) {
        let of = |member: &Member| member.connection.as_ref().is_some_and(|it| it.number == number);
        // Of a connection that was cut meanwhile.
        let Some(index) = self.members.iter().position(of) else { return };
        let Some(member) = self.members.get_mut(index) else { return };
        let Some(connection) = &mut member.connection else { return };
        match told {
            Told::Connected(client) => {
                connection.client = Some(client);
                member.connected_us = now_us;
                member.host.run(now_us);
                member.host.connected();
            }
            Told::Disconnected => {
                let lasted_us = now_us.saturating_sub(member.connected_us);
                if member.lose_connection(now_us) && lasted_us > BACK_OFF_US.1 {
                    member.pause_us = BACK_OFF_US.0;
                }
                member.retry_us = now_us + member.pause_us;
                member.pause_us = (member.pause_us * 2).min(BACK_OFF_US.1);
            }
            Told::Message(kind, payload) => {
                if !member.loses() {
                    let ms = if let Link::Slow { ms } = member.link { ms } else { 0 };
                    member.late.push_back((now_us + ms * 1_000, kind, payload));
                }
            }
            Told::Acknowledged => connection.unacknowledged = connection.unacknowledged.saturating_sub(1),
            Told::Answered => connection.asked = false,
        }
        self.act(index, now_us);
    }
}

impl Member {
    fn may_connect(&self) -> bool {
        self.connection.is_none() && self.link != Link::Down && self.host.node().is_some()
    }

    /// When it has to be looked at next.
    fn wake_us(&self) -> u64 {
        let retry_us = if self.may_connect() { self.retry_us } else { u64::MAX };
        let late_us = self.late.front().map_or(u64::MAX, |(at_us, ..)| *at_us);
        self.wake_us.min(retry_us).min(late_us)
    }

    /// Whether there was one.
    fn lose_connection(&mut self, now_us: u64) -> bool {
        self.late.clear();
        let was = self.connection.take().is_some_and(|connection| connection.client.is_some());
        if was {
            self.host.run(now_us);
            self.host.disconnected();
        }
        self.wake_us = self.host.wake_us();
        was
    }

    /// Whether the link swallows a message now.
    fn loses(&mut self) -> bool {
        match self.link {
            Link::Lossy { share } => self.chance.unit() < share,
            Link::Up | Link::Down | Link::Slow { .. } => false,
        }
    }

    /// Sends what the host has to say; once it is all acknowledged, asks whether that is all.
    fn publish(&mut self) {
        while self.connection.as_ref().is_some_and(|it| it.client.is_some())
            && let Some((channel, payload)) = self.host.next_publish()
        {
            if self.loses() {
                continue;
            }
            let Some(connection) = &mut self.connection else { return };
            let Some(client) = &connection.client else { return };
            // No room in the client: lost as on the air.
            if fleet::publish(client, &self.name, channel, payload) {
                connection.unacknowledged += usize::from(channel != Up::Live);
                connection.unasked = true;
            }
        }
        let Some(connection) = &mut self.connection else { return };
        if connection.unasked
            && !connection.asked
            && connection.unacknowledged == 0
            && let Some(client) = &connection.client
            && client.try_subscribe(fleet::filter(&self.name), QoS::AtLeastOnce).is_ok()
        {
            (connection.unasked, connection.asked) = (false, true);
        }
    }
}
