//! The network half: link, addresses, TCP, TLS, MQTT, and pauses in between. It serves the node half and
//! never makes it wait; everything it does has a time limit, so it always goes on.
//!
//! A board makes its embassy-net stack with [`first_config`], runs the stack's runner in a task, and
//! [`Network::run`] in another.
//!
//! RAM, beside embassy-net's own 2–3 KB: [`Buffers`] (1,024 + 1,536 bytes for TCP, 1,536 for MQTT), the
//! [`ImageBuffer`](crate::exchange::ImageBuffer) it shares with the console, and with `tls` 2 × 2.3 KB
//! for records. [`SOCKETS`] sockets: DNS, DHCP, and the one connection.

mod address;
mod mqtt;
mod pause;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use core::cell::Cell;
use core::net::IpAddr;

use embassy_futures::select::{Either, select};
use embassy_net::tcp::TcpSocket;
use embassy_net::{IpEndpoint, Stack};
use embassy_time::{Duration, Instant, Timer, with_timeout};
use node::settings::{Radio, Settings};
#[cfg(feature = "tls")]
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::board::Link;
use crate::exchange::{Doing, Exchange, Glance, NetworkCounters};
use crate::random::Random;
use mqtt::{Failure, Over};
use pause::{GOOD_AFTER, Pauses};

pub use address::{ADDRESSES_MAX, first_config};
pub use mqtt::TX_BYTES;

/// Sockets that a board's `StackResources` has room for: DNS, DHCP, TCP.
pub const SOCKETS: usize = 3;
/// Longest that a link may take to come up.
pub const LINK_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for an address of the node's own.
const ADDRESS_WITHIN: Duration = Duration::from_secs(30);
/// Longest that TCP may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A TCP connection on which nothing is acknowledged for so long is dead.
const SILENT_AFTER: Duration = Duration::from_secs(45);
/// Longest that a TLS handshake may take: two operations on P-256 take a second on a small processor.
#[cfg(feature = "tls")]
const TLS_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the farewell to leave.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for the image buffer.
const BUFFER_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for the node half to look at a config.
const DELIVERY_WITHIN: Duration = Duration::from_secs(30);

/// TCP's receive window: receipts and orders are short, a config may take its time.
const RX_BYTES: usize = 1_024;

/// What a connection needs room for.
#[derive(Debug)]
pub struct Buffers {
    /// TCP's receive window.
    rx: [u8; RX_BYTES],
    /// What TCP has not been acknowledged: a report and a snapshot.
    tx: [u8; 1_536],
    mqtt: [u8; TX_BYTES],
    #[cfg(feature = "tls")]
    tls: tls::Buffers,
}

impl Buffers {
    /// Empty ones, for a static.
    #[expect(clippy::new_without_default, reason = "they are placed in a static")]
    pub const fn new() -> Self {
        Self {
            rx: [0; RX_BYTES],
            tx: [0; 1_536],
            mqtt: [0; TX_BYTES],
            #[cfg(feature = "tls")]
            tls: tls::Buffers::new(),
        }
    }
}

/// Why an attempt came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setback {
    Link,
    Address,
    Tcp,
    /// Somebody else has the image buffer.
    Buffer,
    #[cfg(feature = "tls")]
    Tls,
    /// The gateway has another key, or wants TLS that this firmware does not have.
    Pin,
    Mqtt(Failure),
}

impl Setback {
    fn count(self, counters: &mut NetworkCounters) {
        let place = match self {
            Self::Link => &mut counters.link,
            Self::Address => &mut counters.address,
            Self::Tcp | Self::Buffer => &mut counters.tcp,
            #[cfg(feature = "tls")]
            Self::Tls => &mut counters.tls,
            Self::Pin => &mut counters.pin,
            Self::Mqtt(Failure::Refused) => &mut counters.refused,
            Self::Mqtt(Failure::Malformed) => &mut counters.malformed,
            Self::Mqtt(Failure::Lost) => &mut counters.lost,
        };
        *place = place.wrapping_add(1);
    }
}

/// The network half.
pub struct Network<L> {
    stack: Stack<'static>,
    link: L,
    exchange: &'static Exchange,
    settings: &'static Settings,
    buffers: &'static mut Buffers,
    random: Random,
    #[cfg(feature = "tls")]
    rng: ChaCha20Rng,
}

impl<L: Link> Network<L> {
    /// A network half over a stack and the link below it. `seed` is 32 unpredictable bytes that nobody
    /// else gets ([`Started::network_seed`](crate::Started::network_seed)).
    pub fn new(
        stack: Stack<'static>,
        link: L,
        exchange: &'static Exchange,
        settings: &'static Settings,
        buffers: &'static mut Buffers,
        seed: [u8; 32],
    ) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = seed;
        let random = Random::new(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        Self {
            stack,
            link,
            exchange,
            settings,
            buffers,
            random,
            #[cfg(feature = "tls")]
            rng: ChaCha20Rng::from_seed(seed),
        }
    }

    /// Keeps the node connected for ever, or whenever something is due.
    pub async fn run(&mut self) -> ! {
        let mut pauses = Pauses::new();
        let batch = self.settings.radio == Radio::Batch;
        address::configure(self.stack, self.settings);
        loop {
            if !self.exchange.is_wanted(batch) {
                if batch {
                    self.link.down().await;
                }
                self.exchange.show(|glance| glance.doing = Doing::Asleep);
                self.sleep(batch).await;
            }
            let began = Instant::now();
            match self.attempt().await {
                Ok(()) => {
                    pauses = Pauses::new();
                    // Nobody makes a node come back without any pause.
                    Timer::after(Pauses::new().next(&mut self.random)).await;
                }
                Err(setback) => {
                    // One that worked for long has not failed because the gateway is overrun.
                    if matches!(setback, Setback::Mqtt(_)) && began.elapsed() >= GOOD_AFTER {
                        pauses = Pauses::new();
                    }
                    let pause = pauses.next(&mut self.random);
                    self.exchange.show(|glance| {
                        glance.doing = Doing::Pause;
                        setback.count(&mut glance.counters);
                    });
                    Timer::after(pause).await;
                }
            }
        }
    }

    /// Waits until a connection is wanted, and is seen to be alive meanwhile.
    async fn sleep(&self, batch: bool) {
        while let Either::Second(()) =
            select(self.exchange.wanted(batch, true), Timer::after(Duration::from_secs(30))).await
        {
            self.exchange.show(|_| ());
        }
    }

    /// From nothing to a connection, and until that is over.
    async fn attempt(&mut self) -> Result<(), Setback> {
        self.begin(Doing::Link);
        let result = with_timeout(LINK_WITHIN, self.link.up(&self.settings.link)).await;
        let error = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(crate::board::LinkError::TimeOut),
        };
        let rssi = self.link.rssi().await;
        self.exchange.show(|glance| (glance.link_error, glance.rssi) = (error, rssi));
        if error.is_some() {
            return Err(Setback::Link);
        }
        self.begin(Doing::Address);
        with_timeout(ADDRESS_WITHIN, self.stack.wait_config_up()).await.map_err(|_| Setback::Address)?;
        let stack = self.stack;
        self.exchange.show(|glance| addresses(stack, glance));
        self.begin(Doing::Name);
        let found = address::resolve(self.stack, &self.settings.host).await;
        let mut setback = Setback::Address;
        for address in found {
            self.begin(Doing::Connect);
            match self.connect(address).await {
                // Another address is the same gateway: only what did not get through is tried there.
                Err(failed @ Setback::Tcp) => setback = failed,
                other => return other,
            }
        }
        Err(setback)
    }

    fn begin(&self, doing: Doing) {
        self.exchange.show(|glance| glance.doing = doing);
    }

    async fn connect(&mut self, address: IpAddr) -> Result<(), Setback> {
        let (exchange, settings) = (self.exchange, self.settings);
        #[cfg(feature = "tls")]
        let Buffers { rx, tx, mqtt, tls: tls_buffers } = &mut *self.buffers;
        #[cfg(not(feature = "tls"))]
        let Buffers { rx, tx, mqtt } = &mut *self.buffers;
        let over = {
            // The console may have it: then it also wants the network to stay away.
            let image = with_timeout(BUFFER_WITHIN, exchange.image.lock()).await;
            let mut image = image.map_err(|_| Setback::Buffer)?;
            let mut socket = TcpSocket::new(self.stack, rx, tx);
            socket.set_timeout(Some(SILENT_AFTER));
            let endpoint = IpEndpoint::new(address::for_stack(address).ok_or(Setback::Tcp)?, settings.port);
            match with_timeout(CONNECT_WITHIN, socket.connect(endpoint)).await {
                Ok(Ok(())) => {}
                _ => return Err(Setback::Tcp),
            }
            let busy = Cell::new(false);
            let over = match &settings.pin {
                None => mqtt::converse(&mut socket, &busy, exchange, settings, image.as_mut_slice(), mqtt).await,
                #[cfg(feature = "tls")]
                Some(pin) => {
                    let tls = tls::open(&mut socket, &busy, pin, &mut self.rng, tls_buffers);
                    let tls = with_timeout(TLS_WITHIN, tls).await.map_err(|_| Setback::Tls)??;
                    mqtt::converse(tls, &busy, exchange, settings, image.as_mut_slice(), mqtt).await
                }
                #[cfg(not(feature = "tls"))]
                Some(_) => return Err(Setback::Pin),
            };
            socket.close();
            // Whether the farewell got through changes nothing.
            let _closed = with_timeout(CLOSE_WITHIN, socket.flush()).await;
            over
        };
        if let Ok(Over::Delivery(delivery)) = over {
            exchange.delivered.reset();
            exchange.delivery.signal(delivery);
            exchange.wake();
            // The node half looks at it before it hears that the connection is gone.
            let _looked = with_timeout(DELIVERY_WITHIN, exchange.delivered.wait()).await;
        }
        if exchange.connection().up {
            exchange.set_connection(false);
        }
        over.map(|_| ()).map_err(Setback::Mqtt)
    }
}

fn addresses(stack: Stack<'_>, glance: &mut Glance) {
    glance.ipv4 = stack.config_v4().map(|config| (config.address.address(), config.address.prefix_len()));
    #[cfg(feature = "ipv6")]
    {
        glance.ipv6 = stack.config_v6().map(|config| (config.address.address(), config.address.prefix_len()));
    }
}
