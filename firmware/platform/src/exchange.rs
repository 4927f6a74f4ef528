//! What the node half, the network half and the console have between them: bounded, and without any
//! waiting on the node's side.
//!
//! A board places one [`Exchange`] in a static and hands it to everything.

use core::cell::Cell;
use core::net::{Ipv4Addr, Ipv6Addr};

use embassy_sync::blocking_mutex::Mutex as Blocking;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use heapless::Vec;
use node::config::{BUSES_MAX, IMAGE_BYTES_MAX};
use telemetry::topic::{Down, TOPIC_BYTES_MAX};

use crate::ask::{Answer, Ask};
use crate::board::LinkError;
use crate::line::Line;
use crate::outbox::Outbox;

/// Bytes of a receipt or command that are passed on by copy; sealed ones have at most about 80.
pub const SMALL_BYTES_MAX: usize = 128;
/// Messages from the gateway that wait to be looked at.
const DOWN_MAX: usize = 4;
/// Around an image in a packet: fixed header, topic, properties, and the seal.
const AROUND_BYTES: usize = 8 + TOPIC_BYTES_MAX + 32 + 32;
/// Bytes of the buffer that holds a whole config image in its envelope, or a packet with one.
pub const IMAGE_BUFFER_BYTES: usize = IMAGE_BYTES_MAX + AROUND_BYTES;
const _: () = assert!(AROUND_BYTES >= node::envelope::ENVELOPE_BYTES_MAX);

/// The buffer that is large enough for a whole config. There is one, because RAM is what a small
/// board has least of: MQTT receives into it, the console collects what it is sent in it, and the
/// node half reads configs into it.
pub type ImageBuffer = [u8; IMAGE_BUFFER_BYTES];

/// A small message from the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Down,
    pub(crate) payload: Vec<u8, SMALL_BYTES_MAX>,
}

/// A config that lies in the image buffer, for the node half to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// How the conversation with the gateway stands, as the network half has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Counts connections and their ends.
    pub number: u32,
    /// Connected, and the down topics are subscribed.
    pub up: bool,
}

/// What the network half counts since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    /// MQTT connections.
    pub connected: u32,
    /// Links that did not come up.
    pub link: u32,
    /// No address, or no answer about a name.
    pub address: u32,
    /// TCP connections that did not come about.
    pub tcp: u32,
    /// TLS handshakes that failed, wrong pins among them.
    pub tls: u32,
    /// Gateways of another key than the one pinned.
    pub pin: u32,
    /// Log-ins that were refused.
    pub refused: u32,
    /// Packets that were malformed, or too large.
    pub malformed: u32,
    /// Connections that the other side ended, or that fell silent.
    pub lost: u32,
    /// Messages that are none of a node's.
    pub foreign: u32,
}

/// What the network half is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// There are no settings.
    #[default]
    Nothing,
    /// The radio is off until something is due.
    Asleep,
    /// It brings the link up.
    Link,
    /// It waits for an address.
    Address,
    /// It asks for the gateway's address.
    Name,
    /// It connects.
    Connect,
    /// Connected.
    Connected,
    /// It waits before it tries again.
    Pause,
}

/// The network half at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// What it is at.
    pub doing: Doing,
    /// The node's IPv4 address and the bits of its network.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The node's IPv6 address and the bits of its network.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Signal strength, dBm.
    pub rssi: Option<i8>,
    /// Why the link did not come up the last time.
    pub link_error: Option<LinkError>,
    /// Counted since boot.
    pub counters: NetworkCounters,
    /// Rises with each thing it does: it goes on.
    pub beats: u32,
}

/// What of an [`Exchange`] is large, and all zeros at first: apart from it, so that it costs RAM and no
/// flash.
pub struct Room {
    outbox: Outbox,
    down: Channel<CriticalSectionRawMutex, Message, DOWN_MAX>,
    image: Mutex<CriticalSectionRawMutex, ImageBuffer>,
}

impl Room {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it is placed in a static")]
    pub const fn new() -> Self {
        Self { outbox: Outbox::new(), down: Channel::new(), image: Mutex::new([0; IMAGE_BUFFER_BYTES]) }
    }
}

/// What passes between the halves.
pub struct Exchange {
    lines: [Line; BUSES_MAX],
    pub(crate) outbox: &'static Outbox,
    pub(crate) down: &'static Channel<CriticalSectionRawMutex, Message, DOWN_MAX>,
    connection: Blocking<CriticalSectionRawMutex, Cell<Connection>>,
    glance: Blocking<CriticalSectionRawMutex, Cell<Glance>>,
    pub(crate) image: &'static Mutex<CriticalSectionRawMutex, ImageBuffer>,
    pub(crate) delivery: Signal<CriticalSectionRawMutex, Delivery>,
    pub(crate) delivered: Signal<CriticalSectionRawMutex, ()>,
    wanted: Blocking<CriticalSectionRawMutex, Cell<Wanted>>,
    wanted_changed: Signal<CriticalSectionRawMutex, ()>,
    pub(crate) asks: Signal<CriticalSectionRawMutex, Ask>,
    pub(crate) answers: Signal<CriticalSectionRawMutex, Answer>,
    wake: Signal<CriticalSectionRawMutex, ()>,
}

impl Exchange {
    /// An empty one.
    pub const fn new(room: &'static Room) -> Self {
        Self {
            lines: [Line::new(), Line::new()],
            outbox: &room.outbox,
            down: &room.down,
            connection: Blocking::new(Cell::new(Connection { number: 0, up: false })),
            glance: Blocking::new(Cell::new(Glance {
                doing: Doing::Nothing,
                ipv4: None,
                ipv6: None,
                rssi: None,
                link_error: None,
                counters: NetworkCounters {
                    connected: 0,
                    link: 0,
                    address: 0,
                    tcp: 0,
                    tls: 0,
                    pin: 0,
                    refused: 0,
                    malformed: 0,
                    lost: 0,
                    foreign: 0,
                },
                beats: 0,
            })),
            image: &room.image,
            delivery: Signal::new(),
            delivered: Signal::new(),
            wanted: Blocking::new(Cell::new(Wanted { let_go: false, due: false })),
            wanted_changed: Signal::new(),
            asks: Signal::new(),
            answers: Signal::new(),
            wake: Signal::new(),
        }
    }

    /// A Modbus line.
    pub fn line(&self, bus: usize) -> Option<&Line> {
        self.lines.get(bus)
    }

    /// Makes the node half look at once.
    pub fn wake(&self) {
        self.wake.signal(());
    }

    pub(crate) async fn woken(&self) {
        self.wake.wait().await;
    }

    /// How the conversation stands.
    pub fn connection(&self) -> Connection {
        self.connection.lock(Cell::get)
    }

    /// MQTT is connected and subscribed, or gone. The outbox is closed either way: the node half opens
    /// it when it has understood that there is a new connection.
    pub(crate) fn set_connection(&self, up: bool) {
        self.outbox.close();
        self.connection.lock(|cell| {
            let Connection { number, .. } = cell.get();
            cell.set(Connection { number: number.wrapping_add(1), up });
        });
        self.wake();
    }

    /// The network half at a glance.
    pub fn glance(&self) -> Glance {
        self.glance.lock(Cell::get)
    }

    /// Changes what there is to be seen of the network half; it has gone on.
    pub(crate) fn show(&self, change: impl FnOnce(&mut Glance)) {
        self.glance.lock(|cell| {
            let mut glance = cell.get();
            change(&mut glance);
            glance.beats = glance.beats.wrapping_add(1);
            cell.set(glance);
        });
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        let changed = self.wanted.lock(|cell| {
            let before = cell.get();
            let mut wanted = before;
            change(&mut wanted);
            cell.set(wanted);
            wanted != before
        });
        if changed {
            self.wanted_changed.signal(());
        }
    }

    /// Asks the network half to let go of the image buffer, or to go on.
    pub(crate) fn let_go(&self, wanted: bool) {
        self.want(|all| all.let_go = wanted);
    }

    /// Says whether there is something to be sent, for a radio that is on only then.
    pub(crate) fn set_due(&self, due: bool) {
        self.want(|all| all.due = due);
    }

    /// Whether the network half should be connected; `batch` only while something is due.
    pub(crate) fn is_wanted(&self, batch: bool) -> bool {
        let Wanted { let_go, due } = self.wanted.lock(Cell::get);
        !let_go && (!batch || due)
    }

    /// Waits until the network half should be connected, or should not be any more.
    pub(crate) async fn wanted(&self, batch: bool, connected: bool) {
        while self.is_wanted(batch) != connected {
            self.wanted_changed.wait().await;
        }
    }
}

/// What is asked of the network half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// The console needs the image buffer.
    let_go: bool,
    /// Something is to be sent.
    due: bool,
}
