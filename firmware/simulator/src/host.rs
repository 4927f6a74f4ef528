//! A board that is not there: the node core on simulated lines, flash and place.
//!
//! It owns what a board's firmware owns besides the core: bytes on lines, switches, power. It
//! speaks no MQTT; [`crate::fleet`] does. Nothing here waits or looks at a clock: time comes in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use node::config::{Config, ConfigError, IMAGE_BYTES_MAX, Output};
use node::faults::{Fault as Logged, FaultKind, FaultLog};
use node::sample::Lines;
use node::slots::{Reason, Slots, Source};
use node::trial::{Trial, Verdict, number_of};
use node::{Identity, Io, Node, RestartCause};
use sensors::modbus::LineSettings;
use telemetry::record::Round;
use telemetry::topic::{Down, Up};
use telemetry::{MissingReason, Property};

use crate::instrument::{Fault, Instrument};
use crate::nor::{Nor, NorError};
use crate::relay_board::RelayBoard;
use crate::world::{Chance, World};

/// Messages that wait for MQTT; beyond it the node is told that there is no room.
const OUTBOX_MAX: usize = 64;
/// Bytes under way on a line; what a babbling probe sends beyond it is lost.
const LINE_BYTES_MAX: usize = 4_096;
/// Steps of one [`Host::run`]; the rest waits for the next.
const STEPS_MAX: usize = 100_000;
/// Rounds that a ledger remembers; the oldest make room.
const LEDGER_MAX: usize = 100_000;

/// Sectors of the two slots of the config, 12 KiB each.
const SLOT_SECTORS: usize = 6;
/// Sectors of the fault log.
const FAULT_SECTORS: usize = 2;

/// The flash of a node: stays when the node is gone.
#[derive(Clone, Debug)]
pub struct Flash(Arc<Mutex<Nor>>);

impl Flash {
    /// An erased flash of 4 KiB sectors.
    pub fn new(sectors: usize) -> Self {
        Self(Arc::new(Mutex::new(Nor::new(sectors))))
    }

    /// A flash that holds an image made by [`Flash::image`]; erased beyond its end.
    pub fn from_image(sectors: usize, image: &[u8]) -> Self {
        let flash = Self::new(sectors);
        flash.with(|nor| nor.fill_from(image));
        flash
    }

    /// All its bytes.
    pub fn image(&self) -> Vec<u8> {
        self.with(|nor| nor.bytes_mut().to_vec())
    }

    /// Looks at the part, or harms it.
    pub fn with<T>(&self, of: impl FnOnce(&mut Nor) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ErrorType for Flash {
    type Error = NorError;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = <Nor as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorError> {
        self.with(|nor| nor.read(offset, bytes))
    }

    fn capacity(&self) -> usize {
        self.with(|nor| nor.capacity())
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = <Nor as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <Nor as NorFlash>::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.with(|nor| nor.erase(from, to))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorError> {
        self.with(|nor| nor.write(offset, bytes))
    }
}

/// A round as it was taken, with the time that only the simulation knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// Ring it was kept in.
    pub ring: u32,
    /// Its name there; none when the flash did not keep it.
    pub seq: Option<u32>,
    /// Boot it was taken in.
    pub boot: u16,
    /// Time since the simulation began at which it was taken, ms.
    pub at_ms: u64,
    /// What was taken.
    pub round: Round,
}

/// A direct input: an analogue transmitter or a part on I2C, already in its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Direct {
    /// What it measures.
    pub property: Property,
    /// Where it hangs, m.
    pub depth_m: f64,
}

/// What a node is made of.
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// What it does.
    pub config: Config,
    /// Where it stands.
    pub world: Box<dyn World>,
    /// Probes, each with its line.
    pub instruments: Vec<(u8, Instrument)>,
    /// Direct inputs by number.
    pub directs: Vec<Direct>,
    /// Relay boards by their index in the config, each with its line.
    pub relays: Vec<(u8, RelayBoard)>,
    /// Its flash.
    pub flash: Flash,
    /// Chance.
    pub seed: u64,
}

/// Everything around the core.
struct Board {
    world: Box<dyn World>,
    instruments: Vec<(u8, Instrument)>,
    directs: Vec<Direct>,
    relays: Vec<(u8, RelayBoard)>,
    /// What hangs on their coils.
    coils: Vec<(u8, usize, u8, bool)>,
    /// Bit n: line n is cut.
    cut: u8,
    /// Bytes under way: line, instant of the last, bytes.
    under_way: VecDeque<(u8, u64, Vec<u8>)>,
    outbox: VecDeque<(Up, Vec<u8>)>,
    chance: Chance,
    /// Of the simulation, µs.
    now_us: u64,
}

impl Lines for Board {
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]) {
        let Self { world, instruments, relays, under_way, now_us, cut, .. } = self;
        let ends_us = *now_us + line.chars_us(frame.len());
        if *cut >> bus & 1 == 1 {
            return;
        }
        for (of, instrument) in instruments.iter_mut().filter(|(of, _)| *of == bus) {
            let truth = |property, depth_m| world.value(property, depth_m);
            // A profile that cannot be read is a probe that is not there.
            let Ok(Some(answer)) = instrument.answer(frame, *line, ends_us, truth) else { continue };
            let waiting: usize = under_way.iter().map(|(_, _, bytes)| bytes.len()).sum();
            if waiting + answer.bytes.len() <= LINE_BYTES_MAX {
                under_way.push_back((*of, ends_us + answer.after_us, answer.bytes));
            }
        }
        for (of, relay) in relays.iter_mut().filter(|(of, _)| *of == bus) {
            if let Some(answer) = relay.answer(frame, *line, ends_us) {
                under_way.push_back((*of, ends_us + answer.after_us, answer.bytes));
            }
        }
        self.settle();
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        let now_us = self.now_us;
        let Some(index) = self.under_way.iter().position(|(of, at_us, _)| *of == bus && *at_us <= now_us) else {
            return 0;
        };
        let Some((_, _, bytes)) = self.under_way.get_mut(index) else { return 0 };
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        bytes.drain(..count);
        if bytes.is_empty() {
            self.under_way.remove(index);
        }
        count
    }
}

impl Io for Board {
    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        let direct = self.directs.get(usize::from(input)).ok_or(MissingReason::NoAnswer)?;
        let value = self.world.value(direct.property, direct.depth_m).ok_or(MissingReason::NoAnswer)?;
        // A contact is open or closed.
        let contact = matches!(direct.property, Property::ActuatorState | Property::Mains);
        Ok(if contact { value } else { value * (1.0 + 0.001 * self.chance.bell()) } as f32)
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.world.switch(actuator, on);
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        let room = self.outbox.len() < OUTBOX_MAX;
        if room {
            self.outbox.push_back((channel, payload.to_vec()));
        }
        room
    }
}

impl Board {
    /// What hangs on coils is as the coils are.
    fn settle(&mut self) {
        for (actuator, board, coil, inverted) in &self.coils {
            let closed = self.relays.get(*board).is_some_and(|(_, board)| board.is_closed(*coil));
            self.world.switch(*actuator, closed != *inverted);
        }
    }

    /// Relay boards have clocks and power of their own.
    fn pass(&mut self, now_us: u64) {
        for (_, relay) in &mut self.relays {
            relay.pass(now_us);
        }
        self.settle();
    }
}

/// What hangs on coils: actuator, board, coil, inverted.
fn coils(config: &Config) -> Vec<(u8, usize, u8, bool)> {
    let coils = (0u8..).zip(&config.actuators).filter_map(|(actuator, of)| match of.output {
        Output::Coil { relay, coil, inverted } => Some((actuator, usize::from(relay), coil, inverted)),
        _ => None,
    });
    coils.collect()
}

/// A node with everything around it.
pub struct Host {
    identity: Identity,
    config: Config,
    flash: Flash,
    slots_flash: Flash,
    faults_flash: Flash,
    /// None while the flash of the slots does not answer.
    slots: Option<Slots<Flash>>,
    trial: Trial,
    linked: bool,
    boots: u32,
    node: Option<Node<Flash>>,
    board: Board,
    began_utc_ms: i64,
    booted_us: u64,
    drift_ppm: i32,
    wake_us: u64,
    rounds: u32,
    ledger: VecDeque<Taken>,
}

impl Host {
    /// Switches a node on at `now_us` of a simulation that began at this UTC.
    ///
    /// # Errors
    /// When its config is not valid.
    pub fn new(parts: Parts, began_utc_ms: i64, now_us: u64) -> Result<Self, ConfigError> {
        let Parts { identity, config, world, instruments, directs, relays, flash, seed } = parts;
        let (under_way, outbox, chance) = (VecDeque::new(), VecDeque::new(), Chance::new(seed));
        let (coils, cut) = (coils(&config), 0);
        let board = Board { world, instruments, directs, relays, coils, cut, under_way, outbox, chance, now_us };
        let (node, ledger) = (None, VecDeque::new());
        let mut host = Self {
            identity,
            config,
            flash,
            slots_flash: Flash::new(SLOT_SECTORS),
            faults_flash: Flash::new(FAULT_SECTORS),
            slots: None,
            trial: Trial::none(),
            linked: false,
            boots: 0,
            node,
            board,
            began_utc_ms,
            booted_us: 0,
            drift_ppm: 0,
            wake_us: 0,
            rounds: 0,
            ledger,
        };
        // As it leaves the factory: what it is to do is confirmed.
        let mut image = vec![0; IMAGE_BYTES_MAX];
        let length = host.config.encode(&mut image)?;
        Config::decode(&image[..length])?;
        if let Some(slots) = host.open_slots() {
            // Flash without faults, and room for the longest image.
            let kept = slots.stage(&image[..length], "factory", 0, Source::Factory).and_then(|()| slots.confirm());
            kept.map_err(|_| ConfigError::TooMany("bytes"))?;
        }
        host.power_on(RestartCause::Power, now_us)?;
        Ok(host)
    }

    fn open_slots(&mut self) -> Option<&mut Slots<Flash>> {
        self.slots = Slots::open(self.slots_flash.clone(), self.identity.board).ok();
        self.slots.as_mut()
    }

    /// Its clock runs fast by this share, or slow: 20 is what a common crystal is sold with. Has to
    /// be said before the host is run.
    #[must_use]
    pub fn drifting(mut self, ppm: i32) -> Self {
        self.drift_ppm = ppm;
        self
    }

    /// A relay board, to look at or to harm. What hangs on it follows when the host is run.
    pub fn relay(&mut self, board: usize) -> Option<&mut RelayBoard> {
        self.board.relays.get_mut(board).map(|(_, board)| board)
    }

    /// Cuts a line, or mends it: nothing that is sent arrives.
    pub fn cut_line(&mut self, bus: u8, cut: bool) {
        let bit = 1 << bus;
        self.board.cut = if cut { self.board.cut | bit } else { self.board.cut & !bit };
    }

    /// The node's own time since boot at this instant of the simulation, µs.
    fn own_us(&self, now_us: u64) -> u64 {
        let since_us = i128::from(now_us.saturating_sub(self.booted_us));
        u64::try_from(since_us + since_us * i128::from(self.drift_ppm) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// The first instant of the simulation at which the node's own time is `own_us`.
    fn true_us(&self, own_us: u64) -> u64 {
        if self.drift_ppm == 0 || own_us == u64::MAX {
            return self.booted_us.saturating_add(own_us);
        }
        let since_us = i128::from(own_us) * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let mut at_us = self.booted_us.saturating_add(u64::try_from(since_us).unwrap_or(u64::MAX));
        // The divisions above each lose less than a step.
        while self.own_us(at_us) < own_us {
            at_us += 1;
        }
        at_us
    }

    /// The node, when it has power.
    pub fn node(&self) -> Option<&Node<Flash>> {
        self.node.as_ref()
    }

    /// Its config, also without power.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its flash, also while it runs.
    pub fn flash(&self) -> &Flash {
        &self.flash
    }

    /// The flash of its config, also while it runs.
    pub fn slots_flash(&self) -> &Flash {
        &self.slots_flash
    }

    /// The flash of its fault log, also while it runs.
    pub fn faults_flash(&self) -> &Flash {
        &self.faults_flash
    }

    /// What is in its config slots.
    pub fn slots(&self) -> Option<&Slots<Flash>> {
        self.slots.as_ref()
    }

    /// A person at the console confirms the config that runs; whether that is kept.
    pub fn confirm_config(&mut self) -> bool {
        let kept = self.slots.as_mut().is_some_and(|slots| slots.confirm().is_ok());
        if kept {
            self.trial = Trial::none();
        }
        kept
    }

    /// Its name.
    pub fn name(&self) -> &telemetry::NodeName {
        &self.identity.name
    }

    /// Every round it took, oldest first.
    pub fn ledger(&self) -> impl Iterator<Item = &Taken> {
        self.ledger.iter()
    }

    /// UTC at the simulation's beginning, ms.
    pub fn began_utc_ms(&self) -> i64 {
        self.began_utc_ms
    }

    /// When it has to be run again at the latest, µs of the simulation.
    pub fn wake_us(&self) -> u64 {
        let arrives = self.board.under_way.iter().map(|(_, at_us, _)| *at_us).min();
        let lets_go = self.board.relays.iter().filter_map(|(_, relay)| relay.lets_go_us()).min();
        self.wake_us.min(arrives.unwrap_or(u64::MAX)).min(lets_go.unwrap_or(u64::MAX))
    }

    /// Begins a fault of the probe with this number, or ends its faults.
    pub fn set_fault(&mut self, instrument: usize, fault: Option<Fault>) {
        let now_us = self.board.now_us;
        if let Some((_, instrument)) = self.board.instruments.get_mut(instrument) {
            instrument.set_fault(fault, now_us);
        }
    }

    /// Power fails: what the node did not write is gone.
    pub fn power_off(&mut self) {
        self.node = None;
        self.board.under_way.clear();
        self.board.outbox.clear();
        self.wake_us = u64::MAX;
    }

    /// Power comes back; a node that runs is restarted, with the config that its slots say. Where
    /// they say none, it is not provisioned and does nothing.
    ///
    /// # Errors
    /// When none of its configs is valid.
    pub fn power_on(&mut self, cause: RestartCause, now_us: u64) -> Result<(), ConfigError> {
        self.power_off();
        for flash in [&self.flash, &self.slots_flash, &self.faults_flash] {
            flash.with(Nor::power_on);
        }
        (self.booted_us, self.wake_us, self.rounds) = (now_us, now_us, 0);
        self.board.now_us = self.board.now_us.max(now_us);
        self.boots += 1;
        self.log(cause);
        if let Some(slots) = self.open_slots() {
            // A flash that does not take it: the node goes on with what runs.
            let _counted = slots.boot_counted();
        }
        let mut outcome = Ok(());
        // The config that runs and, if it is given up as not valid, the one before.
        for _ in 0..2 {
            outcome = self.boot(cause);
            if outcome.is_ok() {
                break;
            }
            let given_up = self.slots.as_mut().is_some_and(|slots| slots.condemn(Reason::Invalid).is_ok());
            if !given_up {
                break;
            }
        }
        outcome
    }

    fn boot(&mut self, cause: RestartCause) -> Result<(), ConfigError> {
        self.trial = Trial::none();
        let Some(slots) = &mut self.slots else { return Ok(()) };
        let mut buffer = vec![0; IMAGE_BYTES_MAX];
        let Ok(image) = slots.read_image(&mut buffer) else { return Ok(()) };
        let mut node = Node::new(self.identity.clone());
        node.boot(self.flash.clone(), image, self.board.chance.bits(), 0, cause)?;
        self.config = node.config().clone();
        self.board.coils = coils(&self.config);
        if let Some(given_up) = slots.untold().cloned()
            && let node::slots::State::Condemned { reason, .. } = given_up.state
        {
            let mut head = [0; 16];
            let number = slots.read(&given_up, 0, &mut head).ok().and_then(|_| number_of(&head)).unwrap_or(0);
            if node.tell_given_up(number, reason, 0) {
                // Told again after the next boot when this is not kept.
                let _kept = slots.mark_told();
            }
        }
        if slots.running().is_some_and(|entry| matches!(entry.state, node::slots::State::Trial { .. })) {
            self.trial = Trial::begin(&self.config, 0);
        }
        self.node = Some(node);
        Ok(())
    }

    /// What ended the boot before is logged, where it was a fault.
    fn log(&mut self, cause: RestartCause) {
        let kind = match cause {
            RestartCause::Watchdog => FaultKind::Watchdog,
            RestartCause::BrownOut => FaultKind::BrownOut,
            RestartCause::Fault => FaultKind::Processor,
            _ => return,
        };
        let fault = Logged {
            kind,
            boot: self.boots,
            uptime_s: 0,
            pc: 0,
            lr: 0,
            address: 0,
            trace: [0; 4],
            stack_bytes: 0,
            detail: 0,
        };
        // A log that cannot be kept stops no node.
        let _kept = FaultLog::open(self.faults_flash.clone()).and_then(|mut log| log.append(&fault));
    }

    /// Erases the flash: the node loses all that it kept, and what is told of its ring. It has to
    /// be off.
    pub fn erase_ring(&mut self) {
        if self.node.is_none() {
            self.flash.with(|nor| nor.fill_from(&[]));
        }
    }

    /// MQTT is connected and subscribed.
    pub fn connected(&mut self) {
        self.linked = true;
        let now_us = self.own_us(self.board.now_us);
        if let Some(node) = &mut self.node {
            node.connected(now_us);
        }
        self.wake_us = self.board.now_us;
    }

    /// MQTT is gone.
    pub fn disconnected(&mut self) {
        self.linked = false;
        let now_us = self.own_us(self.board.now_us);
        self.board.outbox.clear();
        if let Some(node) = &mut self.node {
            node.disconnected(now_us);
        }
        self.wake_us = self.board.now_us;
    }

    /// A message of a down topic came. A config goes into the slot that does not run, takes effect
    /// and is on trial.
    pub fn message(&mut self, kind: Down, payload: &[u8]) {
        let now_us = self.own_us(self.board.now_us);
        if let Some(node) = &mut self.node
            && let Some(image) = node.message(kind, payload, now_us)
            && let Some(slots) = &mut self.slots
            && slots.stage(image, "gateway", 0, Source::Mqtt).is_ok()
        {
            if node.apply(image, now_us).is_ok() {
                self.config = node.config().clone();
                self.board.coils = coils(&self.config);
                self.trial = Trial::begin(&self.config, now_us / 1_000);
            } else {
                // Not kept: then the next boot finds out the same.
                let _given_up = slots.condemn(Reason::Invalid);
            }
        }
        self.wake_us = self.board.now_us;
    }

    /// Confirms the config on trial, or goes back to the one before.
    fn judge(&mut self) {
        let now_ms = self.own_us(self.board.now_us) / 1_000;
        let (Some(node), Some(slots)) = (&self.node, &mut self.slots) else { return };
        match self.trial.judge(node.config_proof(), now_ms) {
            Verdict::Wait(until_ms) => {
                let until_us = self.true_us(until_ms.saturating_mul(1_000));
                self.wake_us = self.wake_us.min(until_us);
            }
            Verdict::Confirm => match slots.confirm() {
                Ok(()) => self.trial = Trial::none(),
                Err(_) => self.trial.put_off(now_ms),
            },
            Verdict::GiveUp(reason) => match slots.condemn(reason) {
                Ok(()) => {
                    let linked = self.linked;
                    // The one before ran already.
                    let restarted = self.power_on(RestartCause::Software, self.board.now_us);
                    if linked && restarted.is_ok() {
                        self.connected();
                    }
                }
                Err(_) => self.trial.put_off(now_ms),
            },
        }
    }

    /// What the node wants published next.
    pub fn next_publish(&mut self) -> Option<(Up, Vec<u8>)> {
        self.board.outbox.pop_front()
    }

    /// Lets time pass until `until_us` of the simulation.
    pub fn run(&mut self, until_us: u64) {
        for _ in 0..STEPS_MAX {
            let now_us = self.wake_us().max(self.board.now_us);
            if now_us > until_us {
                break;
            }
            self.pass(now_us);
            self.poll();
            self.judge();
        }
        self.pass(until_us);
    }

    fn pass(&mut self, now_us: u64) {
        let by_us = now_us.saturating_sub(self.board.now_us);
        if by_us > 0 {
            self.board.now_us = now_us;
            let utc_ms = self.began_utc_ms.saturating_add_unsigned(now_us / 1_000);
            self.board.world.step(utc_ms, by_us as f64 / 1e6);
        }
        self.board.pass(now_us);
    }

    fn poll(&mut self) {
        let own_us = self.own_us(self.board.now_us);
        let Some(node) = &mut self.node else {
            self.wake_us = u64::MAX;
            return;
        };
        let wake_us = node.poll(own_us, &mut self.board);
        let rounds = node.counters().rounds;
        let taken = (rounds != self.rounds).then(|| {
            let ring = node.ring().map_or(0, |(id, _, _)| id);
            let (seq, boot, round) = (node.round_seq(), node.boot_number(), node.round().clone());
            Taken { ring, seq, boot, at_ms: 0, round }
        });
        self.wake_us = self.true_us(wake_us);
        if let Some(mut taken) = taken {
            self.rounds = rounds;
            taken.at_ms = self.true_us(taken.round.t_ms.saturating_mul(1_000)) / 1_000;
            if self.ledger.len() == LEDGER_MAX {
                self.ledger.pop_front();
            }
            self.ledger.push_back(taken);
        }
    }
}
