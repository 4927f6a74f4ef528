//! The node half: the node core and everything it needs to sample, judge, keep and control. It waits for
//! nobody.
//!
//! A board runs [`NodeHalf::run`] in a task of its own, in an executor of higher priority where it has
//! one.

#[cfg(test)]
mod tests;

use core::mem::MaybeUninit;

use embassy_futures::select::select;
use embassy_time::{Instant, Timer};
use embedded_storage::nor_flash::NorFlash;
use node::config::{Config, ConfigError, IMAGE_BYTES_MAX};
use node::settings::{Radio, Settings};
use node::slots::{SlotError, Source};
use node::{Identity, Node, RestartCause, envelope};
use telemetry::NodeName;
use telemetry::mac::Key;
use telemetry::topic::Down;

use crate::ask::{self, NotStored, StoredAs};
use crate::board::{Facts, Parts, Pins, Watchdog};
use crate::exchange::{Connection, Delivery, Exchange, Message};
use crate::flash::{Map, Region, Shared};
use crate::hands::Hands;
use crate::keep::Keep;
use crate::kept::{Asked, Before, Kept, Stage};
use crate::scan::Scan;
use crate::supervise::{BITES_AFTER, Degraded, FEED_EVERY, Signs, Supervisor, Verdict};

/// Messages looked at in one poll.
const MESSAGES_MAX: usize = 4;
/// Time for an answer to leave the console before the node restarts.
const REBOOT_AFTER_US: u64 = 500_000;

/// What a board starts the platform with.
pub struct Start<F: NorFlash + 'static, P, A, W> {
    /// What passes between the halves.
    pub exchange: &'static Exchange,
    /// The board's flash.
    pub flash: &'static Shared<F>,
    /// What of it is for what.
    pub map: Map,
    /// Where the node core lies: 12 KB.
    pub node: &'static mut MaybeUninit<Node<Region<F>>>,
    /// Pins of actuators.
    pub pins: P,
    /// Parts that give direct inputs.
    pub parts: A,
    /// The hardware watchdog, not yet started.
    pub watchdog: W,
    /// What is kept across resets.
    pub kept: &'static Kept,
    /// Why the processor started, as its registers say.
    pub cause: RestartCause,
    /// What the board is.
    pub facts: Facts,
    /// Unpredictable bytes of the hardware's random source, fresh at each boot.
    pub entropy: [u8; 48],
}

/// What comes of it.
pub struct Started<F: NorFlash + 'static, P, A, W> {
    /// To be run in a task of its own.
    pub half: NodeHalf<F, P, A, W>,
    /// Who the node is; without settings there is nothing to run a network half for.
    pub settings: Option<Settings>,
    /// Whether the network half may run: there are settings, and it has not hung too often.
    pub network: bool,
    /// For embassy-net's stack.
    pub stack_seed: u64,
    /// For the network half.
    pub network_seed: [u8; 32],
}

/// The node half.
pub struct NodeHalf<F: NorFlash + 'static, P, A, W> {
    pub(crate) node: &'static mut Node<Region<F>>,
    pub(crate) hands: Hands<P, A>,
    pub(crate) keep: Keep<F>,
    pub(crate) flash: &'static Shared<F>,
    pub(crate) facts: Facts,
    pub(crate) before: Before,
    pub(crate) degraded: Degraded,
    pub(crate) has_settings: bool,
    pub(crate) has_config: bool,
    pub(crate) scan: Option<Scan>,
    pub(crate) round_us: u64,
    rounds: u32,
    watchdog: W,
    kept: &'static Kept,
    supervisor: Supervisor,
    network: bool,
    batch: bool,
    seen: Connection,
    /// Since when nothing has been delivered, for a radio that sleeps.
    quiet_since_us: u64,
    reboot_us: Option<(u64, Asked)>,
}

/// Starts: reads settings and config, and boots the node core with them. Takes as long as the ring takes
/// to be found in the flash.
#[inline(never)]
pub fn start<F: NorFlash, P: Pins, A: Parts, W: Watchdog>(start: Start<F, P, A, W>) -> Started<F, P, A, W> {
    let Start { exchange, flash, map, node, pins, parts, mut watchdog, kept, cause, facts, entropy } = start;
    let now_us = Instant::now().as_micros();
    let before = kept.begin(cause);
    watchdog.start(BITES_AFTER);
    watchdog.feed();
    let degraded = Degraded::after(&before);
    let mut keep = Keep::open(flash, &map, facts.board);
    keep.log(&before);
    let settings = keep.settings().map(|(settings, _)| settings);
    let identity = identity(settings.as_ref(), &facts);
    let node = node.write(Node::new(identity));
    let [a, b, c, d, e, f, g, h, ref rest @ ..] = entropy;
    let mut hands = Hands::new(exchange, pins, parts);
    let ring = || if degraded.storage { Region::off(flash) } else { Region::new(flash, map.ring) };
    let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let has_config = exchange
        .image
        .try_lock()
        .is_ok_and(|mut image| keep.boot(node, ring, image.as_mut_slice(), seed, now_us, before.cause));
    if has_config {
        hands.begin(node.config(), now_us);
    }
    watchdog.feed();
    let network = settings.is_some() && !degraded.network;
    let batch =
        settings.as_ref().is_some_and(|settings| settings.radio == Radio::Batch && crate::board::wants_radio(settings));
    let half = NodeHalf {
        node,
        hands,
        keep,
        flash,
        facts,
        before,
        degraded,
        has_settings: settings.is_some(),
        has_config,
        scan: None,
        round_us: 0,
        rounds: 0,
        watchdog,
        kept,
        supervisor: Supervisor::new(now_us / 1_000),
        network,
        batch,
        seen: Connection::default(),
        quiet_since_us: now_us,
        reboot_us: None,
    };
    let mut seeds = rest.iter().copied();
    let stack_seed = u64::from_le_bytes(core::array::from_fn(|_| seeds.next().unwrap_or_default()));
    let network_seed = core::array::from_fn(|_| seeds.next().unwrap_or_default());
    Started { half, settings, network, stack_seed, network_seed }
}

fn identity(settings: Option<&Settings>, facts: &Facts) -> Identity {
    let Facts { firmware, board, .. } = *facts;
    match settings {
        Some(Settings { name, key, .. }) => Identity { name: name.clone(), key: key.clone(), firmware, board },
        // It samples and controls all the same; without settings there is nobody to talk to.
        None => Identity { name: NodeName::unnamed(), key: Key::new([0; 32]), firmware, board },
    }
}

impl<F: NorFlash, P: Pins, A: Parts, W: Watchdog> NodeHalf<F, P, A, W> {
    /// Runs for ever.
    pub async fn run(&mut self) -> ! {
        self.kept.enter(Stage::Run);
        loop {
            let wake_us = self.poll(Instant::now().as_micros());
            select(Timer::at(Instant::from_micros(wake_us)), self.hands.exchange.woken()).await;
        }
    }

    /// Does what is due at `now_us`; when to come again at the latest.
    pub(crate) fn poll(&mut self, now_us: u64) -> u64 {
        self.hands.now_us = now_us;
        self.listen(now_us);
        if let Some(ask) = self.hands.exchange.asks.try_take() {
            self.answer(ask, now_us);
        }
        self.hands.parts.poll(now_us);
        let mut wake_us = self.node.poll(now_us, &mut self.hands);
        // A round that has just begun has started them.
        wake_us = wake_us.min(self.hands.parts.poll(now_us));
        let rounds = self.node.counters().rounds;
        if rounds != self.rounds {
            (self.rounds, self.round_us) = (rounds, now_us);
        }
        wake_us = wake_us.min(self.poll_scan(now_us));
        if self.has_config {
            match self.keep.judge(self.node, now_us / 1_000) {
                Some(until_ms) => wake_us = wake_us.min(until_ms.saturating_mul(1_000)),
                // Outputs stand as they are until the one before runs.
                None => self.reboot(now_us, Asked::Config),
            }
        }
        self.tell_due(now_us);
        self.supervise(now_us);
        wake_us.min(now_us + FEED_EVERY.as_micros()).max(now_us)
    }

    /// Takes what the network half has: a config first, because that is of the connection that is over.
    fn listen(&mut self, now_us: u64) {
        if let Some(delivery) = self.hands.exchange.delivery.try_take() {
            self.take_delivery(delivery, now_us);
            self.hands.exchange.delivered.signal(());
        }
        let connection = self.hands.exchange.connection();
        if connection != self.seen {
            if self.seen.up {
                self.node.disconnected(now_us);
            }
            if connection.up {
                self.hands.exchange.outbox.open();
                self.node.connected(now_us);
            }
            self.seen = connection;
        }
        for _ in 0..MESSAGES_MAX {
            let Ok(Message { kind, payload }) = self.hands.exchange.down.try_receive() else { break };
            // Receipts and commands only: a config comes by itself.
            let _image = self.node.message(kind, &payload, now_us);
        }
    }

    fn take_delivery(&mut self, Delivery { from, to }: Delivery, now_us: u64) {
        // The network half has let go of it.
        let Ok(buffer) = self.hands.exchange.image.try_lock() else { return };
        let Some(payload) = buffer.get(from..to) else { return };
        if let Some(image) = self.node.message(Down::Config, payload, now_us) {
            let mut taker = Taker { node: self.node, hands: &mut self.hands, keep: &mut self.keep };
            // What is not taken is not described to the gateway, which sees that and sends it again.
            let _taken = taker.take(image, Source::Mqtt, self.has_config, now_us);
        }
    }

    /// Stores what the console has put into the image buffer.
    pub(crate) fn store(&mut self, image: ask::Image, bytes: usize, now_us: u64) -> Result<StoredAs, NotStored> {
        let buffer = self.hands.exchange.image.try_lock().map_err(|_| NotStored::Busy)?;
        let mut bytes = buffer.get(..bytes).ok_or(NotStored::Busy)?;
        // No image begins as an envelope does.
        if bytes.starts_with(&envelope::MAGIC) {
            bytes = envelope::open(bytes, self.facts.board).map_err(NotStored::Envelope)?;
        }
        match image {
            ask::Image::Settings => {
                Settings::decode(bytes).map_err(NotStored::Settings)?;
                self.keep.keep_settings(bytes, when_s(self.node, now_us)).map_err(|_| NotStored::Flash)?;
                Ok(StoredAs::Settings)
            }
            ask::Image::Config => {
                let mut taker = Taker { node: self.node, hands: &mut self.hands, keep: &mut self.keep };
                taker.take(bytes, Source::Serial, self.has_config, now_us)
            }
        }
    }

    pub(crate) fn reboot(&mut self, now_us: u64, why: Asked) {
        self.reboot_us.get_or_insert((now_us + REBOOT_AFTER_US, why));
    }

    /// A radio that sleeps is woken when a report is due, and sleeps again when it is receipted.
    fn tell_due(&mut self, now_us: u64) {
        if !self.batch {
            return;
        }
        let config = self.node.config();
        let Some((_, floor, next)) = self.node.ring() else { return };
        let released = self.node.session().released().unwrap_or(floor).max(floor);
        let waiting = next.saturating_sub(released);
        if waiting == 0 {
            self.quiet_since_us = now_us;
        }
        let hold_us = u64::from(config.hold_s.max(config.period_s)) * 1_000_000;
        let held = now_us.saturating_sub(self.quiet_since_us) >= hold_us;
        let due = waiting > 0 && (self.seen.up || held || waiting >= u32::from(config.batch_records));
        self.hands.exchange.set_due(due || self.node.alarms() & telemetry::Alarm::CRITICAL != 0);
    }

    fn supervise(&mut self, now_us: u64) {
        let now_ms = now_us / 1_000;
        let rounds = self.has_config.then(|| (self.node.counters().rounds, self.node.config().period_s));
        let network = self.network.then(|| self.hands.exchange.glance().beats);
        let verdict = self.supervisor.look(&Signs { rounds, network }, now_ms);
        if self.supervisor.has_been_fine(now_ms) {
            if !self.degraded.storage {
                self.kept.flash_is_fine();
            }
            if !self.degraded.network {
                self.kept.network_is_fine();
            }
        }
        let (used, _) = (self.facts.stack)();
        // Each ten seconds is near enough, and the code over what is kept is not for nothing.
        self.kept.note(used, u32::try_from(now_ms / 10_000 * 10).unwrap_or(u32::MAX));
        let asked = match (verdict, self.reboot_us) {
            (Verdict::Reset(why), _) => Some(why),
            (_, Some((at_us, why))) if now_us >= at_us => Some(why),
            _ => None,
        };
        match asked {
            None => self.watchdog.feed(),
            Some(why) => {
                self.kept.note_reset(why);
                (self.facts.reset)()
            }
        }
    }
}

/// What a config is taken with.
struct Taker<'a, F: NorFlash + 'static, P, A> {
    node: &'a mut Node<Region<F>>,
    hands: &'a mut Hands<P, A>,
    keep: &'a mut Keep<F>,
}

impl<F: NorFlash, P: Pins, A: Parts> Taker<'_, F, P, A> {
    /// Keeps a config if it is possible and newer than the one that runs, and takes it on, if one runs.
    fn take(&mut self, image: &[u8], source: Source, runs: bool, now_us: u64) -> Result<StoredAs, NotStored> {
        if image.len() > IMAGE_BYTES_MAX {
            return Err(NotStored::Config(ConfigError::Shape));
        }
        let number = check(image)?;
        if runs && number <= self.node.config().number {
            return Err(NotStored::NotNewer);
        }
        let kept = self.keep.keep_config(image, source, when_s(self.node, now_us));
        kept.map_err(|error| match error {
            SlotError::OnTrial => NotStored::OnTrial,
            _ => NotStored::Flash,
        })?;
        if !runs {
            return Ok(StoredAs::Later(number));
        }
        let applied = self.node.apply(image, now_us);
        self.keep.applied(self.node, applied.is_ok(), now_us);
        applied.map_err(NotStored::Config)?;
        self.hands.begin(self.node.config(), now_us);
        Ok(StoredAs::Trial(number))
    }
}

/// UTC, s; 0 while it is not known.
fn when_s<F: NorFlash>(node: &Node<F>, now_us: u64) -> u64 {
    let utc_ms = node
        .session()
        .clock()
        .map(|anchor| anchor.utc_ms.saturating_add_unsigned((now_us / 1_000).saturating_sub(anchor.mono_ms)));
    utc_ms.and_then(|ms| u64::try_from(ms / 1_000).ok()).unwrap_or(0)
}

/// Whether an image is of a config that is possible; its number.
#[inline(never)]
fn check(image: &[u8]) -> Result<u16, NotStored> {
    Config::decode(image).map(|config| config.number).map_err(NotStored::Config)
}
