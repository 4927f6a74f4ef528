//! What is kept besides the ring: settings, configs and faults, and the trial of a new config. How each
//! lies in the flash is the node core's business ([`node::slots`], [`node::faults`]).

use core::fmt::Write as _;

use embedded_storage::nor_flash::NorFlash;
use heapless::String;
use node::faults::{Fault, FaultKind, FaultLog};
use node::settings::{SETTINGS_BYTES_MAX, Settings};
use node::slots::{Entry, Reason, Slot, SlotError, Slots, Source, State};
use node::trial::{Trial, Verdict, number_of};
use node::{Node, RestartCause};

use crate::CRC32;
use crate::ask;
use crate::flash::{Map, Range, Region, RegionError, Shared};
use crate::kept::{Before, Stage};

/// Bytes of an image that are looked at at once.
const CHUNK: usize = 64;
/// Bytes of a config image that say its number.
const HEAD: usize = 16;

type Error<F> = SlotError<RegionError<<F as embedded_storage::nor_flash::ErrorType>::Error>>;

/// All of it. What cannot be opened is not there: the node goes on without.
#[derive(Debug)]
pub(crate) struct Keep<F: NorFlash + 'static> {
    settings: Option<Slots<Region<F>>>,
    configs: Option<Slots<Region<F>>>,
    faults: Option<FaultLog<Region<F>>>,
    trial: Trial,
    /// Number of the fault that was listed last.
    listed: u32,
}

impl<F: NorFlash> Keep<F> {
    /// Opens all, and counts this boot.
    #[inline(never)]
    pub(crate) fn open(shared: &'static Shared<F>, map: &Map, board: &str) -> Self {
        let slots = |range: Range| {
            let mut slots = Slots::open(Region::new(shared, range), board).ok()?;
            // A flash that does not take it: the node goes on with what runs.
            let _counted = slots.boot_counted();
            Some(slots)
        };
        let [first, second] = map.config;
        let configs = slots(Range { from: first.from, bytes: first.bytes + second.bytes });
        let faults = FaultLog::open(Region::new(shared, map.faults)).ok();
        Self { settings: slots(map.settings), configs, faults, trial: Trial::none(), listed: u32::MAX }
    }

    /// The settings, and the CRC of their image.
    #[inline(never)]
    pub(crate) fn settings(&mut self) -> Option<(Settings, u32)> {
        let slots = self.settings.as_mut()?;
        let mut bytes = [0; SETTINGS_BYTES_MAX];
        let mut found = None;
        // Those that run and, if they are given up as not valid, those before.
        for _ in 0..2 {
            let image = slots.read_image(&mut bytes).ok()?;
            match Settings::decode(image) {
                Ok(settings) => {
                    found = Some((settings, CRC32.checksum(image)));
                    break;
                }
                Err(_) => slots.condemn(Reason::Invalid).ok()?,
            }
        }
        bytes.fill(0);
        found
    }

    /// Keeps settings: a person at the board wrote them, so they are not on trial.
    pub(crate) fn keep_settings(&mut self, image: &[u8], when_s: u64) -> Result<(), Error<F>> {
        let slots = self.settings.as_mut().ok_or(SlotError::Geometry)?;
        slots.stage(image, "console", when_s, Source::Serial)?;
        slots.confirm()
    }

    /// Boots the node with the config that runs or, if that is not valid, with the one before; whether
    /// there is one. `image` has room for any.
    pub(crate) fn boot(
        &mut self,
        node: &mut Node<Region<F>>,
        ring: impl Fn() -> Region<F>,
        image: &mut [u8],
        seed: u64,
        now_us: u64,
        cause: RestartCause,
    ) -> bool {
        let Some(slots) = &mut self.configs else { return false };
        for _ in 0..2 {
            let Ok(image) = slots.read_image(image) else { return false };
            if node.boot(ring(), image, seed, now_us, cause).is_ok() {
                self.tell_given_up(node, now_us);
                self.begin_trial(node, now_us);
                return true;
            }
            if slots.condemn(Reason::Invalid).is_err() {
                return false;
            }
        }
        false
    }

    fn tell_given_up(&mut self, node: &mut Node<Region<F>>, now_us: u64) {
        let Some(slots) = &mut self.configs else { return };
        let Some(given_up) = slots.untold().cloned() else { return };
        let State::Condemned { reason, .. } = given_up.state else { return };
        let number = number(slots, &given_up).unwrap_or(0);
        if node.tell_given_up(number, reason, now_us) {
            // Told again after the next boot when this is not kept.
            let _kept = slots.mark_told();
        }
    }

    /// A config runs: its trial begins, where it is on trial.
    fn begin_trial(&mut self, node: &Node<Region<F>>, now_us: u64) {
        let running = self.configs.as_ref().and_then(Slots::running);
        let on_trial = running.is_some_and(|entry| matches!(entry.state, State::Trial { .. }));
        self.trial = if on_trial { Trial::begin(node.config(), now_us / 1_000) } else { Trial::none() };
    }

    /// Keeps a config that is valid; what runs goes on running.
    pub(crate) fn keep_config(&mut self, image: &[u8], source: Source, when_s: u64) -> Result<(), Error<F>> {
        let who = if source == Source::Mqtt { "gateway" } else { "console" };
        self.configs.as_mut().ok_or(SlotError::Geometry)?.stage(image, who, when_s, source)
    }

    /// The config that was kept last runs now, or the node does not take it.
    pub(crate) fn applied(&mut self, node: &Node<Region<F>>, fine: bool, now_us: u64) {
        if fine {
            self.begin_trial(node, now_us);
        } else if let Some(slots) = &mut self.configs {
            // Not kept: then the next boot finds out the same.
            let _given_up = slots.condemn(Reason::Invalid);
        }
    }

    /// Judges the trial; when to come again, ms, or `None`: the config was given up, and the node has to
    /// boot the one before.
    pub(crate) fn judge(&mut self, node: &Node<Region<F>>, now_ms: u64) -> Option<u64> {
        match self.trial.judge(node.config_proof(), now_ms) {
            Verdict::Wait(until_ms) => Some(until_ms),
            Verdict::Confirm => {
                if !self.confirm() {
                    self.trial.put_off(now_ms);
                }
                Some(now_ms)
            }
            Verdict::GiveUp(reason) => {
                if self.configs.as_mut().is_some_and(|slots| slots.condemn(reason).is_ok()) {
                    return None;
                }
                // There is nothing to go back to, or the flash does not take it.
                self.trial.put_off(now_ms);
                Some(now_ms)
            }
        }
    }

    /// Ends the trial by hand, or because the config has proved itself; whether there was one and it is
    /// kept.
    pub(crate) fn confirm(&mut self) -> bool {
        let kept = self.trial.is_on() && self.configs.as_mut().is_some_and(|slots| slots.confirm().is_ok());
        if kept {
            self.trial = Trial::none();
        }
        kept
    }

    /// Where the config that runs stands.
    pub(crate) fn standing(&self) -> ask::Trial {
        if self.trial.is_on() { ask::Trial::Trial } else { ask::Trial::Confirmed }
    }

    /// Number and CRC of the image of the config that is stored.
    pub(crate) fn stored_config(&mut self) -> Option<(u16, u32)> {
        let slots = self.configs.as_mut()?;
        let entry = slots.running()?.clone();
        let number = number(slots, &entry)?;
        let mut digest = CRC32.digest();
        let (mut at, mut bytes) = (0, [0; CHUNK]);
        while at < entry.length {
            let count = slots.read(&entry, at, &mut bytes).ok().filter(|count| *count > 0)?;
            digest.update(bytes.get(..count)?);
            at += count;
        }
        Some((number, digest.finalize()))
    }

    /// Puts the config that is stored into `buffer`; its length.
    pub(crate) fn read_config(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.configs.as_mut()?.read_image(buffer).ok().map(<[u8]>::len)
    }

    /// The n-th newest config, as text.
    pub(crate) fn history(&mut self, n: u8) -> Option<String<96>> {
        let slots = self.configs.as_mut()?;
        let entry = |index: usize| match slots.history().get(index) {
            Some(Slot::Kept(entry)) => Some(entry),
            _ => None,
        };
        let newer = usize::from(entry(1).map(|e| e.generation) > entry(0).map(|e| e.generation));
        let index = match n {
            0 => newer,
            1 => 1 - newer,
            _ => return None,
        };
        let entry = entry(index)?.clone();
        let number = number(slots, &entry)?;
        let mut text = String::new();
        let state = match entry.state {
            State::Trial { .. } => "on trial",
            State::Confirmed => "confirmed",
            State::Condemned { .. } => "given up",
        };
        let _cut = write!(text, "config {number} by {}, {state}", entry.who);
        if entry.when_s > 0 {
            let _cut = write!(text, ", at {} s UTC", entry.when_s);
        }
        Some(text)
    }

    /// Logs how the boot before ended, where that was a fault.
    #[inline(never)]
    pub(crate) fn log(&mut self, before: &Before) {
        let fault = before.fault.unwrap_or_default();
        let kind = match (fault.kind, before.cause) {
            (1, _) => FaultKind::Panic,
            (3, _) => FaultKind::Stack,
            (0, RestartCause::Watchdog) => FaultKind::Watchdog,
            (0, RestartCause::BrownOut) => FaultKind::BrownOut,
            (0, _) if before.asked.is_some_and(|asked| asked != crate::kept::Asked::Person) => FaultKind::Deadline,
            (0, _) => return,
            _ => FaultKind::Processor,
        };
        let detail = match kind {
            FaultKind::Deadline => before.asked.map_or(0, |asked| asked as u32),
            FaultKind::Watchdog => u32::from(before.stage == Some(Stage::Flash)),
            FaultKind::Panic => fault.address,
            _ => fault.detail,
        };
        let [lr, t0, t1, t2, t3, _] = fault.backtrace;
        let fault = Fault {
            kind,
            boot: before.boots.saturating_sub(1),
            uptime_s: before.up_s,
            pc: if kind == FaultKind::Panic { 0 } else { fault.address },
            lr,
            address: 0,
            trace: [t0, t1, t2, t3],
            stack_bytes: before.stack,
            detail,
        };
        // A log that cannot be kept stops no node.
        let _kept = self.faults.as_mut().map(|log| log.append(&fault));
    }

    /// The n-th newest fault, as text: from the newest on, one after the other.
    pub(crate) fn fault(&mut self, n: u8) -> Option<String<96>> {
        let below = if n == 0 { u32::MAX } else { self.listed };
        let nothing = Fault {
            kind: FaultKind::Other(0),
            boot: 0,
            uptime_s: 0,
            pc: 0,
            lr: 0,
            address: 0,
            trace: [0; 4],
            stack_bytes: 0,
            detail: 0,
        };
        let mut found = [(0, nothing)];
        self.faults.as_mut()?.read(below, &mut found).ok().filter(|count| *count > 0)?;
        let [(number, fault)] = found;
        self.listed = number;
        let mut text = String::new();
        let what = match fault.kind {
            FaultKind::Watchdog => "watchdog",
            FaultKind::Processor => "processor fault",
            FaultKind::Stack => "stack overflow",
            FaultKind::Panic => "panic",
            FaultKind::BrownOut => "brown-out",
            FaultKind::Deadline => "deadline",
            FaultKind::Flash => "flash",
            FaultKind::Other(_) => "unknown",
        };
        let Fault { boot, uptime_s, pc, lr, detail, trace: [t0, t1, ..], .. } = fault;
        let _cut = write!(
            text,
            "{number} {what} {detail:x}, boot {boot} at {uptime_s} s, {pc:08x} {lr:08x} {t0:08x} {t1:08x}"
        );
        Some(text)
    }
}

fn number<F: NorFlash>(slots: &mut Slots<Region<F>>, entry: &Entry) -> Option<u16> {
    let mut head = [0; HEAD];
    slots.read(entry, 0, &mut head).ok().and_then(|_| number_of(&head))
}
