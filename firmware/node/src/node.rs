//! The node: its parts wired together, and what a host has to give it.
//!
//! Functions with a large frame are never inlined: frames that merge are all paid for at once, and
//! the stack is what a board shares with its network.

use embedded_storage::nor_flash::NorFlash;
use sensors::ezo::Water;
use sensors::profile::Sample;
use telemetry::limits::{RECORD_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use telemetry::mac::Key;
use telemetry::record::{ActuatorDescription, ChannelDescription, Description, Event, EventCode, Loss, Round};
use telemetry::session::{Command, Order};
use telemetry::snapshot::Snapshot;
use telemetry::topic::{Down, Up};
use telemetry::{ActuatorKind, Alarm, Flag, MissingReason, NodeName, Property, Quality, Record, Tests};

use crate::config::{self, Actuator, Channel, Config, ConfigError, Output, Source};
use crate::control::{Change, Control, Now, Refusal};
use crate::judge::Judge;
use crate::ring::{Overwritten, Ring};
use crate::sample::{Lines, Progress, Sampler};
use crate::session::{self, Pace, Session};
use crate::slots::Reason;
use crate::trial::Proof;

/// Records of earlier boots that are looked at for what they say of stuck values.
const RECALLED_MAX: u32 = 64;
/// Pause after the flash failed in the conversation, ms.
const STORAGE_PAUSE_MS: u64 = 1_000;
/// Changes told at once: each of 8 actuators before a round and after it, each time once more
/// where an alarm sounds a siren.
const CHANGES_MAX: usize = 32;
/// Longest that a channel counts as being calibrated, s: someone may forget to say that it is over.
const CALIBRATION_S_MAX: u32 = 2 * 3_600;
/// Bytes of an event or a loss: kind, boot, and at most 33 of CBOR.
const SHORT_BYTES_MAX: usize = 36;
/// A clock with a larger error does not know the night from the day, ms.
const NIGHT_ERROR_MS_MAX: u64 = 30 * 60_000;
/// Part number of the flash in a fault's event.
const PART_FLASH: u8 = 1;

/// Part number of a probe that does not take its settings, in a fault's event.
const PART_PROBE: u8 = 2;

/// Part number of a relay board that had forgotten its time-out, in a fault's event.
const PART_RELAY_BOARD: u8 = 3;

/// What the host gives. Nothing of it may wait.
pub trait Io: Lines {
    /// What is known of the water, told just before [`Io::round_begins`]: for parts that reckon
    /// with it.
    fn water(&mut self, _water: &Water) {}
    /// A round begins: start what takes time on I2C, so that [`Io::direct`] has it at its end.
    fn round_begins(&mut self) {}
    /// The value of a direct input in its channel's unit, taken in this round.
    fn direct(&mut self, input: u8) -> Result<f32, MissingReason>;
    /// Switches an actuator. Also called when nothing changed, once a round. Not called for a coil of
    /// a relay board: the node writes that itself, and reads it back.
    fn switch(&mut self, actuator: u8, on: bool);
    /// Publishes on the node's own up topic; `false` when there is no room now.
    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool;
}

/// Who a node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: NodeName,
    /// Its key.
    pub key: Key,
    /// Firmware version, cut to 16 bytes.
    pub firmware: &'static str,
    /// Board, cut to 16 bytes.
    pub board: &'static str,
}

/// Why the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RestartCause {
    /// Nobody knows.
    Unknown = 0,
    /// Power came.
    Power = 1,
    /// The watchdog bit.
    Watchdog = 2,
    /// The program asked for it.
    Software = 3,
    /// The voltage fell.
    BrownOut = 4,
    /// The processor faulted.
    Fault = 5,
}

/// What happened, counted since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rounds taken.
    pub rounds: u32,
    /// Records that the flash did not keep.
    pub unkept: u32,
    /// Records that were overwritten before the gateway had them, as far as is known.
    pub lost: u32,
    /// Configs and orders that were refused.
    pub refused: u32,
    /// The conversation's own.
    pub session: session::Counters,
}

/// What control did, before it is told.
struct Steered {
    changes: heapless::Vec<Change, CHANGES_MAX>,
    /// Alarms as they were before.
    alarms: [u8; Alarm::ALL.len()],
}

/// A node.
#[derive(Debug)]
pub struct Node<F> {
    identity: Identity,
    /// Booted, with a config that is valid.
    on: bool,
    config: Config,
    /// Check sum of the image it came from.
    digest: u32,
    boot: u16,
    ring: Option<Ring<F>>,
    session: Session,
    sampler: Sampler,
    judge: Judge,
    control: Control,
    round: Round,
    round_seq: Option<u32>,
    /// By alarm: bit n = it concerns actuator n; 1 where it concerns the node.
    alarms: [u8; Alarm::ALL.len()],
    /// Channels that are being calibrated, by their bits, and until when, ms.
    calibrating: (u32, u64),
    seed: u64,
    linked: bool,
    unsaid: u32,
    storage_fails: bool,
    /// Seq behind the description of the config that runs.
    described: Option<u32>,
    /// Bit n: channel n has had a value under it.
    read_once: u32,
    outputs_due: bool,
    snapshot_due: bool,
    counters: Counters,
}

impl<F: NorFlash> Node<F> {
    /// A node that is off. It is most of the core's RAM and never moves by itself: a board keeps it
    /// in a static.
    #[inline]
    pub fn new(identity: Identity) -> Self {
        let session = Session::new(identity.name.clone(), identity.key.clone(), 0, 0, pace(&Config::new(0)), 0);
        Self {
            identity,
            on: false,
            config: Config::new(0),
            digest: 0,
            boot: 0,
            ring: None,
            session,
            sampler: Sampler::new(0),
            judge: Judge::new(),
            control: Control::off(),
            round: Round::default(),
            round_seq: None,
            alarms: [0; Alarm::ALL.len()],
            calibrating: (0, 0),
            seed: 0,
            linked: false,
            unsaid: 0,
            storage_fails: false,
            described: None,
            read_once: 0,
            outputs_due: false,
            snapshot_due: false,
            counters: Counters::default(),
        }
    }

    /// Starts it on its flash region with the config of this image, at `now_us`. `seed` is 64
    /// unpredictable bits of the hardware's random source, fresh at each boot.
    ///
    /// Flash that fails does not stop the node: it samples, controls and shows live values, and
    /// says so by [`Alarm::Storage`].
    ///
    /// # Errors
    /// When the config is not valid. Then the node is off and does nothing.
    #[inline(never)]
    pub fn boot(
        &mut self,
        flash: F,
        image: &[u8],
        seed: u64,
        now_us: u64,
        cause: RestartCause,
    ) -> Result<(), ConfigError> {
        self.on = false;
        self.config.decode_from(image)?;
        self.digest = config::digest(image);
        let now_ms = now_us / 1_000;
        self.judge.restart(&self.config);
        let (ring, made) = match Ring::open_or_format(flash, (seed >> 32) as u32) {
            Ok((ring, made)) => (Some(ring), made),
            Err(_) => (None, false),
        };
        self.ring = ring;
        let (boots, boot) = self.ring.as_mut().map_or((0, 0), |ring| recall(ring, &self.config, &mut self.judge));
        self.boot = boot;
        self.start_session(seed);
        // After a power cut everything would start at once. After any other restart what is safe
        // when on is on already: a dead controller leaves it on.
        let cold = matches!(cause, RestartCause::Power | RestartCause::BrownOut | RestartCause::Unknown);
        self.control.restart(&self.config, now_ms, seed, if cold { 0 } else { u8::MAX });
        self.sampler.restart(&self.config, now_us);
        (self.round.t_ms, self.round.config) = (0, 0);
        self.round.readings.clear();
        (self.round_seq, self.described) = (None, None);
        self.alarms = [0; Alarm::ALL.len()];
        self.calibrating = (0, 0);
        self.seed = seed;
        (self.linked, self.unsaid, self.read_once) = (false, 0, 0);
        self.storage_fails = self.ring.is_none();
        (self.outputs_due, self.snapshot_due) = (true, false);
        self.counters = Counters::default();
        self.on = true;
        if made {
            let id = self.ring.as_ref().map_or(0, Ring::id);
            self.tell(now_ms, EventCode::RingFormatted, 0, i64::from(id), 0);
        }
        self.tell(now_ms, EventCode::Restarted, 0, cause as i64, boots);
        self.describe(now_ms);
        Ok(())
    }

    #[inline(never)]
    fn start_session(&mut self, seed: u64) {
        let Identity { name, key, .. } = &self.identity;
        let (drift_ppm, pace) = (self.config.drift_ppm, pace(&self.config));
        self.session = Session::new(name.clone(), key.clone(), self.boot, drift_ppm, pace, seed);
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.identity.name
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The check sum of its config's image ([`config::digest`]).
    pub fn config_digest(&self) -> u32 {
        self.digest
    }

    /// The boot in whose time its records now are.
    pub fn boot_number(&self) -> u16 {
        self.boot
    }

    /// The newest round; empty before the first.
    pub fn round(&self) -> &Round {
        &self.round
    }

    /// The seq that the newest round was kept under; `None` when the flash did not keep it.
    pub fn round_seq(&self) -> Option<u32> {
        self.round_seq
    }

    /// Until when a line is free for others, µs since boot; `None` in the middle of a round or of a relay
    /// board's turn. For a host that looks for probes in between. A coil that has to be switched does not
    /// wait for that: then the host gives way.
    pub fn line_rests_until_us(&self, bus: u8) -> Option<u64> {
        if self.on { self.sampler.rests_until_us(&self.config, bus) } else { Some(u64::MAX) }
    }

    /// Whether an actuator is to be on.
    pub fn is_on(&self, actuator: u8) -> bool {
        self.control.is_on(actuator)
    }

    /// Bit n: [`Alarm`] n is raised.
    pub fn alarms(&self) -> u32 {
        let raised = |alarm: &Alarm| self.concerned(*alarm) != 0;
        Alarm::ALL.into_iter().filter(raised).fold(0, |bits, alarm| bits | alarm.bit())
    }

    /// Bit n: the alarm concerns actuator n; 1 for a raised alarm of the node's own, 0 when it is
    /// not raised.
    pub fn concerned(&self, alarm: Alarm) -> u8 {
        self.alarms.get(alarm as usize).copied().unwrap_or(0)
    }

    /// The ring's id, its floor and its next seq, where there is one.
    pub fn ring(&self) -> Option<(u32, u32, u32)> {
        self.ring.as_ref().map(|ring| (ring.id(), ring.floor(), ring.next_seq()))
    }

    /// The conversation, to look at.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What was counted since boot.
    pub fn counters(&self) -> Counters {
        Counters { session: self.session.counters(), ..self.counters }
    }

    /// Ends the node and gives its flash back: power is off. `None` when it had failed at boot.
    pub fn into_flash(self) -> Option<F> {
        self.ring.map(Ring::into_flash)
    }

    /// MQTT is connected and the down topics are subscribed.
    pub fn connected(&mut self, now_us: u64) {
        self.linked = true;
        self.snapshot_due = true;
        self.session.connected(now_us / 1_000);
    }

    /// MQTT is gone. Orders go on until they expire; rules are not touched.
    pub fn disconnected(&mut self, _now_us: u64) {
        self.linked = false;
        self.session.disconnected();
    }

    /// A message of a down topic came. Returns the image of a config that passed every check and is
    /// newer than the one that runs: the host stores it and calls [`Node::apply`].
    #[inline(never)]
    pub fn message<'m>(&mut self, kind: Down, payload: &'m [u8], now_us: u64) -> Option<&'m [u8]> {
        if !self.on {
            return None;
        }
        let now_ms = now_us / 1_000;
        match kind {
            Down::Receipt => {
                let (id, next) = self.ring.as_ref().map(|ring| (ring.id(), ring.next_seq()))?;
                let heard = self.session.receipt(payload, now_ms, id, next);
                if let Some(beyond) = heard.beyond {
                    self.advance(now_ms, beyond);
                }
                if let Some(clock) = heard.clock {
                    self.keep_event(clock, now_ms);
                }
                None
            }
            Down::Command => {
                let command = self.session.command(payload, now_ms)?;
                self.obey(command, now_ms);
                None
            }
            Down::Config => {
                let image = self.session.open_sealed(Down::Config, payload)?;
                let fine = is_newer(image, self.config.number);
                self.counters.refused += u32::from(!fine);
                fine.then_some(image)
            }
        }
    }

    /// Takes on the config of another image: every actuator goes to its safe state, as after a
    /// restart.
    ///
    /// # Errors
    /// When it is not valid, or not newer than the one that runs. Then nothing changes.
    #[inline(never)]
    pub fn apply(&mut self, image: &[u8], now_us: u64) -> Result<(), ConfigError> {
        let now_ms = now_us / 1_000;
        let running = self.take_on(image)?;
        self.session.set_pace(pace(&self.config), self.config.drift_ppm);
        self.control.restart(&self.config, now_ms, self.seed, running);
        self.calibrating = (0, 0);
        self.judge.restart(&self.config);
        self.sampler.restart(&self.config, now_us);
        self.outputs_due = true;
        self.digest = config::digest(image);
        self.tell(now_ms, EventCode::ConfigApplied, 0, i64::from(self.config.number), i64::from(self.digest));
        self.describe(now_ms);
        self.read_once = 0;
        Ok(())
    }

    /// Puts another config in the place of the one that runs; bit n: actuator n goes on running.
    #[inline(never)]
    fn take_on(&mut self, image: &[u8]) -> Result<u8, ConfigError> {
        let mut config = Config::new(0);
        config.decode_from(image)?;
        if !self.on || config.number <= self.config.number {
            return Err(ConfigError::Range("number"));
        }
        // What runs goes on running where it may, without another start.
        let stays = |(before, after): (&Actuator, &Actuator)| before.kind == after.kind;
        let kept = (0u8..).zip(self.config.actuators.iter().zip(&config.actuators)).filter(|(_, pair)| stays(*pair));
        let running = kept.fold(0, |bits, (n, _)| bits | 1 << (n % 8)) & self.control.bits();
        self.config = config;
        Ok(running)
    }

    /// Says that a channel's probe is being calibrated for at most `for_s` seconds (two hours), or
    /// with 0 that this is over; for the local console, and by order. Its readings are marked; an
    /// aerator that follows it stays on, anything else stands in its safe state.
    ///
    /// # Errors
    /// When there is no such channel.
    pub fn calibrate(&mut self, channel: u8, for_s: u32, now_us: u64) -> Result<(), Refusal> {
        if usize::from(channel) >= self.config.channels.len() {
            return Err(Refusal::Unknown);
        }
        let now_ms = now_us / 1_000;
        let until_ms = self.calibrating.1;
        let others = self.now(now_ms).calibrating & !(1 << channel);
        let until_ms = if others == 0 { now_ms } else { until_ms };
        self.calibrating = match for_s {
            0 => (others, until_ms),
            _ => (others | 1 << channel, until_ms.max(now_ms + u64::from(for_s.min(CALIBRATION_S_MAX)) * 1_000)),
        };
        Ok(())
    }

    /// How far the config that runs has proved itself, for [`crate::trial::Trial::judge`].
    pub fn config_proof(&self) -> Proof {
        let read =
            self.config.control_channels().all(|n| self.read_once.checked_shr(u32::from(n)).unwrap_or(0) & 1 == 1);
        let told =
            self.described.zip(self.session.released()).is_some_and(|(described, released)| described <= released);
        Proof { read, told }
    }

    /// Tells the gateway that the config with this number was given up, and why. Whether the flash
    /// has it: then the host marks it as told ([`crate::slots::Slots::mark_told`]).
    pub fn tell_given_up(&mut self, number: u16, reason: Reason, now_us: u64) -> bool {
        let unkept = self.counters.unkept;
        self.tell(now_us / 1_000, EventCode::ConfigGivenUp, 0, i64::from(number), reason as i64);
        self.on && self.counters.unkept == unkept
    }

    /// Whether the config that runs has proved itself: every channel that control looks at has had
    /// a value, and the gateway has the config's description. A host that has applied a new one
    /// waits for this for a time of its own choice, and else boots with the one before.
    pub fn is_config_proven(&self) -> bool {
        self.config_proof() == Proof { read: true, told: true }
    }

    /// Does what is due at `now_us`; when to come again at the latest, µs since boot; never, while
    /// it is off.
    pub fn poll(&mut self, now_us: u64, io: &mut impl Io) -> u64 {
        if !self.on {
            return u64::MAX;
        }
        let now_ms = now_us / 1_000;
        let mut wake_us = u64::MAX;
        // Outputs first: whatever else happens, a restarted node's aerators come on.
        let mut steered = Steered { changes: heapless::Vec::new(), alarms: self.alarms };
        self.steer(now_ms, io, &mut steered);
        match poll_sampler(&mut self.sampler, &self.config, &self.round, now_us, io) {
            Progress::Wait(until_us) => wake_us = wake_us.min(until_us),
            Progress::Done(began_us) => {
                self.finish(began_us / 1_000, now_ms, io, &mut steered);
                wake_us = now_us;
            }
        }
        // Told behind the round that led to it: records are dated in their order, and it began
        // earlier.
        self.assess(now_ms);
        self.report(now_ms, steered);
        if let Some(ring) = &mut self.ring {
            match self.session.poll(now_ms, ring, &mut |channel, payload| io.publish(channel, payload)) {
                Ok(Some(until_ms)) => wake_us = wake_us.min(until_ms.saturating_mul(1_000)),
                Ok(None) => {}
                Err(_) => {
                    self.storage_fails = true;
                    wake_us = wake_us.min((now_ms + STORAGE_PAUSE_MS) * 1_000);
                }
            }
        }
        if self.snapshot_due {
            self.show(now_ms, io);
        }
        let calibrated = Some(self.calibrating.1).filter(|until_ms| *until_ms > now_ms);
        for until_ms in [self.control.wake_ms(&self.config, now_ms), calibrated].into_iter().flatten() {
            wake_us = wake_us.min(until_ms * 1_000);
        }
        wake_us.max(now_us)
    }

    /// What control has to know besides readings.
    fn now(&self, now_ms: u64) -> Now {
        let (channels, until_ms) = self.calibrating;
        Now {
            ms: now_ms,
            utc_ms: self.utc_ms(now_ms),
            critical: self.alarms() & Alarm::CRITICAL,
            calibrating: if now_ms < until_ms { channels } else { 0 },
        }
    }

    /// UTC, where it is known well enough to tell night from day.
    fn utc_ms(&self, now_ms: u64) -> Option<i64> {
        let anchor = self.session.clock()?;
        let passed_ms = now_ms.saturating_sub(anchor.mono_ms);
        let drift_ms = passed_ms.saturating_mul(u64::from(anchor.drift_ppm)) / 1_000_000;
        let known = u64::from(anchor.error_ms).saturating_add(drift_ms) <= NIGHT_ERROR_MS_MAX;
        known.then(|| anchor.utc_ms.saturating_add_unsigned(passed_ms))
    }

    /// Lets the rules decide and switches what changed; it is still to be told.
    #[inline(never)]
    fn steer(&mut self, now_ms: u64, io: &mut impl Io, steered: &mut Steered) {
        let told = steered.changes.len();
        // Twice where an alarm sounds a siren at once.
        for _ in 0..2 {
            let now = self.now(now_ms);
            self.control.decide(&self.config, &now, |change| {
                // One change an actuator and pass, and there are places for all passes of a poll.
                let _fits = steered.changes.push(change);
            });
            self.assess(now_ms);
            if self.now(now_ms).critical == now.critical {
                break;
            }
        }
        // What goes off goes before what comes on: two that exclude each other never overlap.
        let changes = steered.changes.get(told..).unwrap_or_default();
        for on in [false, true] {
            for change in changes.iter().filter(|change| change.on == on) {
                switch(&self.config, &mut self.sampler, io, change.actuator, on);
            }
        }
        if self.outputs_due {
            for actuator in 0..self.config.actuators.len() as u8 {
                switch(&self.config, &mut self.sampler, io, actuator, self.control.is_on(actuator));
            }
            self.outputs_due = false;
        }
    }

    /// Tells what [`Node::steer`] did, and which alarms are raised, cleared, or concern others
    /// than before.
    #[inline(never)]
    fn report(&mut self, now_ms: u64, steered: Steered) {
        for change in &steered.changes {
            self.snapshot_due = true;
            let cause = change.cause as i64;
            self.tell(now_ms, EventCode::ActuatorChanged, change.actuator, i64::from(change.on), cause);
        }
        for (alarm, before) in Alarm::ALL.into_iter().zip(steered.alarms) {
            let concerned = self.concerned(alarm);
            if concerned != before {
                self.snapshot_due = true;
                let raised = i64::from(concerned != 0);
                self.tell(now_ms, EventCode::Alarm, alarm as u8, raised, i64::from(concerned));
            }
        }
    }

    /// A round is over: judge it, control by it, keep it, show it, in this order.
    #[inline(never)]
    fn finish(&mut self, t_ms: u64, now_ms: u64, io: &mut impl Io, steered: &mut Steered) {
        let sampler = &self.sampler;
        let now = self.now(now_ms);
        let taken = |index: usize, channel: &Channel| match channel.source {
            Source::Direct { input } => io.direct(input).map(|value| Sample { value, tests: Tests::NONE }),
            _ => sampler.taken(index),
        };
        self.judge.round(&self.config, t_ms, now.calibrating, &mut self.round, taken);
        self.counters.rounds += 1;
        for reading in &self.round.readings {
            if matches!(reading.quality, Quality::Present { .. }) {
                self.read_once |= 1u32.checked_shl(u32::from(reading.channel)).unwrap_or(0);
            }
        }
        self.control.observe(&self.config, &now, t_ms, |channel| self.judge.seen(channel));
        self.outputs_due = true;
        self.steer(now_ms, io, steered);
        let (next, unkept) = (self.ring.as_ref().map(Ring::next_seq), self.counters.unkept);
        self.keep_round(now_ms);
        self.round_seq = next.filter(|_| self.counters.unkept == unkept);
        self.describe_again(now_ms);
        self.make_room(now_ms);
        self.snapshot_due = true;
        if let Some(probe) = self.sampler.refuser() {
            self.tell(now_ms, EventCode::Fault, PART_PROBE, i64::from(probe), 0);
        }
        if let Some(board) = self.sampler.relays_mut().forgetful() {
            self.tell(now_ms, EventCode::Fault, PART_RELAY_BOARD, i64::from(board), 0);
        }
    }

    /// Raises and clears alarms.
    #[inline(never)]
    fn assess(&mut self, now_ms: u64) {
        let now = self.now(now_ms);
        let relays = self.sampler.relays();
        let differing = relays.differing(&self.config);
        let aerators = (0u8..).zip(&self.config.actuators).filter(|(_, it)| it.kind == ActuatorKind::Aerator);
        let aerating = aerators.fold(0, |bits, (n, _)| bits | 1u8 << (n % 8)) & self.control.bits();
        for alarm in Alarm::ALL {
            let concerned = match alarm {
                Alarm::Storage => u8::from(self.storage_fails),
                Alarm::MainsLost => u8::from(self.is_mains_lost()),
                Alarm::RelayBoard => relays.unsure(&self.config),
                Alarm::NotRunning => self.control.concerned(&self.config, &now, alarm) | differing & aerating,
                Alarm::Unproven => self.control.concerned(&self.config, &now, alarm) | differing & !aerating,
                _ => self.control.concerned(&self.config, &now, alarm),
            };
            if let Some(place) = self.alarms.get_mut(alarm as usize) {
                *place = concerned;
            }
        }
    }

    /// Whether a channel of mains says that there is none. One that says nothing is no power cut.
    fn is_mains_lost(&self) -> bool {
        let mut mains = (0u8..).zip(&self.config.channels).filter(|(_, channel)| channel.property == Property::Mains);
        mains.any(|(index, _)| {
            let seen = self.judge.seen(index);
            seen.is_some_and(|seen| seen.quality.flag() != Flag::Fail && seen.value.is_some_and(|value| value < 0.5))
        })
    }

    #[inline(never)]
    fn obey(&mut self, command: Command, now_ms: u64) {
        let outcome = match command.order {
            Order::Reopen => {
                self.session.reopen();
                return;
            }
            Order::Switch { actuator, on, for_s } => {
                let now = self.now(now_ms);
                self.control.order(&self.config, &now, actuator, on, for_s)
            }
            Order::Calibrate { channel, for_s } => self.calibrate(channel, for_s, now_ms * 1_000),
        };
        let subject = match command.order {
            Order::Switch { actuator, .. } => actuator,
            Order::Calibrate { channel, .. } => channel,
            Order::Reopen => 0,
        };
        let detail = outcome.err().map_or(0, |refusal| refusal as i64);
        self.counters.refused += u32::from(outcome.is_err());
        self.tell(now_ms, EventCode::CommandAnswered, subject, i64::from(command.counter), detail);
    }

    #[inline(never)]
    fn show(&mut self, now_ms: u64, io: &mut impl Io) {
        self.snapshot_due = false;
        if !self.linked || self.counters.rounds == 0 {
            return;
        }
        let snapshot = Snapshot {
            boot: self.boot,
            sent_ms: now_ms,
            actuators: self.control.bits(),
            alarms: self.alarms(),
            round: core::mem::take(&mut self.round),
        };
        let mut buffer = [0; SNAPSHOT_BYTES_MAX];
        // Thirty-two channels with raw values may be too many; the ring has them all.
        if let Some(bytes) = snapshot.encode(&mut buffer).ok().and_then(|length| buffer.get(..length)) {
            // Never stored, never repeated: the next round brings the next.
            let _sent = io.publish(Up::Live, bytes);
        }
        self.round = snapshot.round;
    }

    #[inline(never)]
    fn describe(&mut self, now_ms: u64) {
        let mut description = Description {
            t_ms: now_ms,
            config: self.config.number,
            digest: self.digest,
            drift_ppm: self.config.drift_ppm,
            firmware: cut(self.identity.firmware),
            board: cut(self.identity.board),
            channels: heapless::Vec::new(),
            actuators: heapless::Vec::new(),
        };
        let period_s = self.config.period_s;
        for (channel, of) in (0u8..).zip(&self.config.channels) {
            let (property, calibration) = (of.property.id(), of.calibration.number);
            // A config has no more of them than a description has room for.
            let _fits = description.channels.push(ChannelDescription { channel, property, calibration, period_s });
        }
        for (actuator, of) in (0u8..).zip(&self.config.actuators) {
            let _fits = description.actuators.push(ActuatorDescription { actuator, kind: of.kind.id() });
        }
        let mut buffer = [0; RECORD_BYTES_MAX];
        let length = Record::Description(description).encode(self.boot, &mut buffer).ok();
        self.keep_bytes(length.and_then(|length| buffer.get(..length)), now_ms);
        self.described = self.ring.as_ref().map(Ring::next_seq);
        self.hurry();
    }

    /// The ring always holds what its channels mean: a gateway that has never heard it could place
    /// none of the rounds that outlive their description, nor any to come.
    fn describe_again(&mut self, now_ms: u64) {
        let floor = self.ring.as_ref().map(Ring::floor);
        if self.described.zip(floor).is_some_and(|(described, floor)| described <= floor) {
            self.describe(now_ms);
        }
    }

    fn tell(&mut self, t_ms: u64, code: EventCode, subject: u8, value: i64, detail: i64) {
        self.keep_event(Event { t_ms, code, subject, value, detail }, t_ms);
        self.hurry();
    }

    #[inline(never)]
    fn keep_event(&mut self, event: Event, now_ms: u64) {
        let mut buffer = [0; SHORT_BYTES_MAX];
        let length = Record::Event(event).encode(self.boot, &mut buffer).ok();
        self.keep_bytes(length.and_then(|length| buffer.get(..length)), now_ms);
    }

    fn hurry(&mut self) {
        if let Some(ring) = &self.ring {
            self.session.hurry(ring.next_seq());
        }
    }

    #[inline(never)]
    fn keep_round(&mut self, now_ms: u64) {
        let mut buffer = [0; RECORD_BYTES_MAX];
        let length = self.round.encode(self.boot, &mut buffer).ok();
        self.keep_bytes(length.and_then(|length| buffer.get(..length)), now_ms);
    }

    /// Keeps a record's bytes; what could not be kept, or coded, is counted and said as soon as
    /// something can.
    fn keep_bytes(&mut self, record: Option<&[u8]>, now_ms: u64) {
        if !self.append(record, now_ms) {
            self.counters.unkept += 1;
            self.unsaid += 1;
        } else if self.unsaid > 0 && self.say_unkept(now_ms) {
            self.unsaid = 0;
        }
    }

    #[inline(never)]
    fn say_unkept(&mut self, now_ms: u64) -> bool {
        let value = i64::from(self.unsaid);
        let fault = Event { t_ms: now_ms, code: EventCode::Fault, subject: PART_FLASH, value, detail: 0 };
        let mut buffer = [0; SHORT_BYTES_MAX];
        let length = Record::Event(fault).encode(self.boot, &mut buffer).ok();
        self.append(length.and_then(|length| buffer.get(..length)), now_ms)
    }

    #[inline(never)]
    fn append(&mut self, record: Option<&[u8]>, now_ms: u64) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        let Some(appended) = record.and_then(|bytes| ring.append(bytes).ok()) else {
            self.storage_fails = true;
            return false;
        };
        self.storage_fails = false;
        if let Some(overwritten) = appended.overwritten {
            self.own_up(overwritten, now_ms);
        }
        true
    }

    /// Records that the gateway is known not to have are gone: a record says so. Where that is
    /// not known, the floor of the next session tells.
    #[inline(never)]
    fn own_up(&mut self, gone: Overwritten, now_ms: u64) {
        let Some(released) = self.session.released() else { return };
        let first = gone.first.max(released);
        let count = (gone.first + gone.count).saturating_sub(first);
        if count == 0 {
            return;
        }
        self.counters.lost = self.counters.lost.saturating_add(count);
        let loss = Record::Loss(Loss { t_ms: now_ms, first, count, cause: 1 });
        let mut buffer = [0; SHORT_BYTES_MAX];
        let bytes = loss.encode(self.boot, &mut buffer).ok().and_then(|length| buffer.get(..length));
        // A sector was just made free, so this overwrites nothing more.
        let kept = bytes.zip(self.ring.as_mut()).is_some_and(|(bytes, ring)| ring.append(bytes).is_ok());
        if !kept {
            self.counters.unkept += 1;
            self.unsaid += 1;
        }
    }

    /// Erases ahead of need, here where no probe has its slot.
    #[inline(never)]
    fn make_room(&mut self, now_ms: u64) {
        match self.ring.as_mut().map(Ring::prepare) {
            Some(Ok(Some(overwritten))) => self.own_up(overwritten, now_ms),
            Some(Err(_)) => self.storage_fails = true,
            Some(Ok(None)) | None => {}
        }
    }

    /// The gateway knows names that this ring has not given: they are passed over.
    fn advance(&mut self, now_ms: u64, next: u32) {
        let moved = self.ring.as_mut().map(|ring| ring.advance(next));
        match moved {
            Some(Ok(_)) => self.tell(now_ms, EventCode::Fault, PART_FLASH, i64::from(next), 1),
            Some(Err(_)) => self.storage_fails = true,
            None => {}
        }
    }
}

/// Switches an actuator where its output is.
fn switch(config: &Config, sampler: &mut Sampler, io: &mut impl Io, actuator: u8, on: bool) {
    match config.actuators.get(usize::from(actuator)).map(|actuator| actuator.output) {
        Some(Output::Coil { relay, coil, inverted }) => sampler.relays_mut().set(relay, coil, on != inverted),
        _ => io.switch(actuator, on),
    }
}

fn poll_sampler(sampler: &mut Sampler, config: &Config, last: &Round, now_us: u64, io: &mut impl Io) -> Progress {
    let mut begun = false;
    let progress = sampler.poll(config, now_us, io, || begun = true);
    if begun {
        io.water(&water(config, last));
        io.round_begins();
    }
    progress
}

/// What the last round and the config say of the water. A temperature that is measured, but was not
/// this time, is NaN.
fn water(config: &Config, last: &Round) -> Water {
    let measured = |property: Property| {
        let reading = last.readings.iter().find(|reading| {
            let channel = config.channels.get(usize::from(reading.channel));
            let fine = matches!(reading.quality, Quality::Present { flag, .. } if flag != Flag::Fail);
            fine && channel.is_some_and(|channel| channel.property == property)
        });
        reading.map(|reading| property.value_f32(reading.value))
    };
    let has_thermometer = config.channels.iter().any(|channel| channel.property == Property::WaterTemperature);
    Water {
        temperature_c: measured(Property::WaterTemperature).or(has_thermometer.then_some(f32::NAN)),
        salinity: measured(Property::Salinity).or(Some(config.salinity_psu)),
        pressure_hpa: measured(Property::AirPressure).or(Some(config.pressure_hpa)),
    }
}

fn pace(config: &Config) -> Pace {
    Pace { batch_records: config.batch_records, hold_ms: u64::from(config.hold_s) * 1_000 }
}

fn cut(text: &str) -> heapless::String<16> {
    let mut cut = heapless::String::new();
    for letter in text.chars() {
        if cut.push(letter).is_err() {
            break;
        }
    }
    cut
}

/// Whether an image is of a valid config with a higher number.
#[inline(never)]
fn is_newer(image: &[u8], number: u16) -> bool {
    let mut config = Config::new(0);
    config.decode_from(image).is_ok() && config.number > number
}

/// Boots so far and the number of this one, and what the newest rounds say of stuck values.
#[inline(never)]
fn recall<F: NorFlash>(ring: &mut Ring<F>, config: &Config, judge: &mut Judge) -> (i64, u16) {
    let from = ring.next_seq().saturating_sub(RECALLED_MAX).max(ring.floor());
    // Twice: the ages of what comes first need the length of all.
    let mut total_ms = 0;
    let mut record = Record::Gone;
    let mut last_boot = 0u16;
    let mut unreadable = 0u16;
    for judging in [false, true] {
        let mut passed_ms: i64 = 0;
        let mut before: Option<(u16, u64)> = None;
        for seq in from..ring.next_seq() {
            let Some(boot) = session::read(ring, seq, &mut record).ok().flatten() else {
                unreadable = unreadable.saturating_add(u16::from(!judging));
                continue;
            };
            if !judging {
                (last_boot, unreadable) = (boot, 0);
            }
            let Some(t_ms) = record.t_ms() else { continue };
            if let Some((of, earlier_ms)) = before
                && of == boot
            {
                passed_ms = passed_ms.saturating_add_unsigned(t_ms.saturating_sub(earlier_ms));
            }
            before = Some((boot, t_ms));
            if let (true, Record::Round(round)) = (judging, &record)
                && round.config == config.number
            {
                judge.recall(config, round, total_ms - passed_ms);
            }
        }
        total_ms = passed_ms;
    }
    // What cannot be read may be of later boots; their numbers are not used again.
    let boot = last_boot.wrapping_add(unreadable).wrapping_add(1);
    (i64::from(boot), boot)
}
