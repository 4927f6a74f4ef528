//! Who is at an address of a Modbus line: asked between rounds, so that nobody's turn waits for it.
//!
//! First one register is asked for; whatever answers, an exception too, is somebody. Then each profile
//! of the config is read there in full; the first that makes sense is what it looks like.

use heapless::String;
use node::config::{Config, PROFILES_MAX};
use sensors::modbus::{LineSettings, ModbusError, ReadFunction, Request, Settings, Step, Transaction, slot_us_max};
use sensors::profile::{NAME_LEN_MAX, Profile, Slot, SlotStep, slot_ms_max};

use crate::ask::{Frame, Scanned};

/// An address that says nothing for so long is nobody's, ms, where no profile of the config takes longer:
/// most instruments answer within 100 ms.
const RESPONSE_MS_MIN: u16 = 150;
/// Bytes taken off a line at once.
const CHUNK: usize = 32;
/// Rounds that are waited for room on a line before that is given up.
const ROUNDS_MAX: u8 = 3;

/// Somebody at an address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// What was asked.
    pub request: Frame,
    /// What was answered, cut where there is no more room.
    pub answer: Frame,
    /// It answered with an exception, which has this code.
    pub exception: Option<u8>,
    /// The name of the profile that it answers like.
    pub looks_like: Option<String<NAME_LEN_MAX>>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, in a static")]
enum Turn {
    None,
    Ask(Transaction),
    Read(u8, Slot),
}

/// A scan of one address.
#[derive(Debug)]
pub(crate) struct Scan {
    bus: u8,
    address: u8,
    settings: Settings,
    turn: Turn,
    found: Option<Found>,
    next_profile: u8,
    /// The next round, and how many have been waited for.
    waits: (u64, u8),
}

/// How it stands.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Come again at this instant, or when bytes arrive.
    Wait(u64),
    Done(Scanned),
}

/// The line, as a scan uses it.
pub(crate) trait Wire {
    fn send(&mut self, line: &LineSettings, frame: &[u8]);
    fn receive(&mut self, bytes: &mut [u8]) -> usize;
}

impl Scan {
    /// Of this address, with the settings that the probes of the line have.
    pub(crate) fn new(config: &Config, bus: u8, address: u8) -> Self {
        let line = (0..config.probes.len() as u8)
            .filter_map(|index| config.probe(index))
            .find(|(probe, ..)| probe.bus == bus)
            .map_or(LineSettings::DEFAULT, |(.., settings)| settings.line);
        let slowest = (0..PROFILES_MAX as u8).filter_map(|index| profile(config, index));
        let response_ms = slowest.map(|profile| profile.settings().response_ms).max().unwrap_or(0);
        let settings = Settings { line, echo: false, response_ms: response_ms.max(RESPONSE_MS_MIN), retries: 0 };
        Self { bus, address, settings, turn: Turn::None, found: None, next_profile: 0, waits: (0, 0) }
    }

    pub(crate) fn bus(&self) -> u8 {
        self.bus
    }

    /// Whether somebody is being asked, so that what comes is the answer.
    pub(crate) fn is_asking(&self) -> bool {
        !matches!(self.turn, Turn::None)
    }

    /// The node has the line to itself: what was being asked is asked again later.
    pub(crate) fn give_way(&mut self) {
        match core::mem::replace(&mut self.turn, Turn::None) {
            Turn::None => {}
            Turn::Ask(_) => self.found = None,
            Turn::Read(index, _) => self.next_profile = index,
        }
    }

    /// Moves on. `free_until_us` is until when the line is free; `None` while it is not.
    pub(crate) fn poll(
        &mut self,
        config: &Config,
        now_us: u64,
        free_until_us: Option<u64>,
        wire: &mut impl Wire,
    ) -> Progress {
        // Each step ends a turn, begins one, or waits.
        for _ in 0..2 * PROFILES_MAX + 4 {
            let mut bytes = [0; CHUNK];
            loop {
                if matches!(self.turn, Turn::None) {
                    break;
                }
                let count = wire.receive(&mut bytes).min(CHUNK);
                let bytes = bytes.get(..count).unwrap_or_default();
                match &mut self.turn {
                    Turn::None => break,
                    Turn::Ask(transaction) => {
                        transaction.on_rx(bytes, now_us);
                        if let Some(found) = &mut self.found {
                            let room = found.answer.capacity() - found.answer.len();
                            let _fits =
                                found.answer.extend_from_slice(bytes.get(..count.min(room)).unwrap_or_default());
                        }
                    }
                    Turn::Read(_, slot) => slot.on_rx(bytes, now_us),
                }
                if count == 0 {
                    break;
                }
            }
            match &mut self.turn {
                Turn::None => {
                    if let Some(progress) = self.begin(config, now_us, free_until_us) {
                        return progress;
                    }
                }
                Turn::Ask(transaction) => match transaction.poll(now_us) {
                    Step::Wait { until_us } => return Progress::Wait(until_us),
                    Step::Send => {
                        let frame = transaction.tx_bytes();
                        wire.send(&self.settings.line, frame);
                        let request = Frame::from_slice(frame).unwrap_or_default();
                        self.found = Some(Found { request, ..Found::default() });
                    }
                    Step::Done(outcome) => {
                        self.turn = Turn::None;
                        match outcome {
                            Ok(()) => {}
                            Err(ModbusError::Exception(code)) => {
                                if let Some(found) = &mut self.found {
                                    found.exception = Some(code);
                                }
                            }
                            Err(_) => return Progress::Done(Scanned::Nobody),
                        }
                    }
                },
                Turn::Read(index, slot) => {
                    let Some(profile) = profile(config, *index) else {
                        self.turn = Turn::None;
                        continue;
                    };
                    match slot.poll(&profile, now_us) {
                        SlotStep::Wait { until_us } => return Progress::Wait(until_us),
                        SlotStep::Send => wire.send(&self.settings.line, slot.tx_bytes()),
                        SlotStep::Done => {
                            let fits = slot.error().is_none() && slot.samples().iter().all(Result::is_ok);
                            if fits && let Some(found) = &mut self.found {
                                found.looks_like = String::try_from(profile.name()).ok();
                                self.next_profile = u8::MAX;
                            }
                            self.turn = Turn::None;
                        }
                    }
                }
            }
        }
        Progress::Wait(now_us)
    }

    /// Begins the next turn, if there is room for it before the next round.
    fn begin(&mut self, config: &Config, now_us: u64, free_until_us: Option<u64>) -> Option<Progress> {
        let (turn, longest_us) = match &self.found {
            None => {
                let Ok(request) = Request::read(self.address, ReadFunction::Holding, 0, 1) else {
                    return Some(Progress::Done(Scanned::Nobody));
                };
                let longest_us = slot_us_max(&request, &self.settings);
                (Turn::Ask(Transaction::new(request, self.settings, now_us)), longest_us)
            }
            Some(found) => match profile(config, self.next_profile) {
                None => return Some(Progress::Done(Scanned::Somebody(found.clone()))),
                Some(profile) => {
                    let settings = Settings { line: self.settings.line, retries: 0, ..profile.settings() };
                    let longest_us = u64::from(slot_ms_max(&profile, &settings)) * 1_000;
                    let slot = Slot::new(&profile, self.address, settings, now_us);
                    (Turn::Read(self.next_profile, slot), longest_us)
                }
            },
        };
        // The round that begins next must find the line as if nothing had been.
        let room = free_until_us.is_some_and(|until_us| now_us.saturating_add(longest_us) < until_us);
        if !room {
            return Some(self.wait(now_us, free_until_us));
        }
        if let Turn::Read(..) = turn {
            self.next_profile += 1;
        }
        self.turn = turn;
        None
    }

    fn wait(&mut self, now_us: u64, free_until_us: Option<u64>) -> Progress {
        let Some(until_us) = free_until_us else {
            // A round goes on: the node is polled whenever it moves, and so is this.
            return Progress::Wait(now_us + 10_000);
        };
        let (known_us, rounds) = self.waits;
        if until_us != known_us {
            self.waits = (until_us, rounds + 1);
            if rounds >= ROUNDS_MAX {
                return Progress::Done(match self.found.take() {
                    Some(found) => Scanned::Somebody(found),
                    None => Scanned::NoRoom,
                });
            }
        }
        Progress::Wait(until_us)
    }
}

fn profile(config: &Config, index: u8) -> Option<Profile<'_>> {
    config.profile_bytes(index).and_then(|bytes| Profile::decode(bytes).ok())
}
