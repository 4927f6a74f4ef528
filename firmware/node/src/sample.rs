//! Rounds: every probe of every line gets its turn, one at a time per line, and a dead one costs
//! its own turn only.
//!
//! In between, also outside rounds, relay boards have their slots: one that has something to be
//! switched is the next on its line, the others take turns with the probes.
//!
//! Before its first reading, a probe that compensates oxygen itself is told the config's salinity
//! and air pressure; one that does not take them is asked all the same, and the node says so.
//!
//! It owns who is asked next and what came. What the values mean is not its business.

use heapless::Vec;
use sensors::modbus::{LineSettings, Step, Transaction};
use sensors::part::Part;
use sensors::profile::{Sample, Slot, SlotStep};
use telemetry::MissingReason;
use telemetry::limits::CHANNELS_MAX;

use crate::config::{BUSES_MAX, Config, PROBES_MAX, RELAYS_MAX, Source};
use crate::relay::Relays;

/// Bytes taken off a line at once.
const CHUNK: usize = 64;
/// A round that begins at most this late keeps its place in the grid, µs.
const LATE_US: u64 = 100_000;
/// Time that direct inputs get from the beginning of a round at least, µs.
const DIRECT_US: u64 = 200_000;
/// What is added to a part's own time, µs, for its commands and for polls that come late.
const DIRECT_LATE_US: u64 = 100_000;
/// Steps of one line in one poll; the rest waits for the next.
const STEPS_MAX: usize = 64;

/// A Modbus line, as the host gives it. Nothing here waits.
pub trait Lines {
    /// Puts a frame on a line, with the line's settings.
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]);
    /// Takes what came since; how many bytes, 0 when there is nothing more.
    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize;
}

/// What a channel's source gave in a round.
pub(crate) type Taken = Result<Sample, MissingReason>;

/// Rounds in which a probe is told its settings before that is given up.
const TELLS_MAX: u8 = 3;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "no allocator, and there are two of these")]
enum Turn {
    /// Tells the probe a setting.
    Tell(Transaction),
    /// Reads it.
    Read(Slot),
    /// Talks to a relay board.
    Relay(Transaction),
}

/// How far a probe has been told its settings.
#[derive(Clone, Copy, Debug)]
struct Told {
    settings: u8,
    failures: u8,
}

impl Told {
    const NOTHING: Self = Self { settings: 0, failures: 0 };
}

#[derive(Debug)]
struct Line {
    /// Whose turn it is, a probe's or a relay board's.
    turn: Option<(u8, Turn)>,
    /// The probe that is next in this round; none when it is through.
    next: Option<u8>,
    /// The last slot was a relay board's.
    relayed: bool,
    told: [Told; PROBES_MAX],
}

/// The rounds of a node.
#[derive(Debug)]
pub(crate) struct Sampler {
    next_us: u64,
    began_us: Option<u64>,
    direct_us: u64,
    lines: [Line; BUSES_MAX],
    relays: Relays,
    /// By channel; empty before the first round.
    taken: Vec<Taken, CHANNELS_MAX>,
}

/// How a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to do before this instant, unless bytes arrive.
    Wait(u64),
    /// Over: it began then.
    Done(u64),
}

impl Sampler {
    /// The first round begins at `first_us`.
    pub(crate) const fn new(first_us: u64) -> Self {
        let lines = [Line::new(), Line::new()];
        let relays = Relays::new();
        Self { next_us: first_us, began_us: None, direct_us: 0, lines, relays, taken: Vec::new() }
    }

    /// As new: the first round begins at `first_us`.
    pub(crate) fn restart(&mut self, config: &Config, first_us: u64) {
        (self.next_us, self.began_us, self.direct_us) = (first_us, None, 0);
        for line in &mut self.lines {
            (line.turn, line.next) = (None, None);
            line.told.fill(Told::NOTHING);
        }
        self.relays.restart(config, first_us);
        self.taken.clear();
    }

    /// The relay boards, to look at.
    pub(crate) fn relays(&self) -> &Relays {
        &self.relays
    }

    /// The relay boards.
    pub(crate) fn relays_mut(&mut self) -> &mut Relays {
        &mut self.relays
    }

    /// What the source of a channel gave in the round that is over.
    pub(crate) fn taken(&self, channel: usize) -> Taken {
        self.taken.get(channel).copied().unwrap_or(Err(MissingReason::NotRead))
    }

    /// When a line is next asked something, as far as is known now; `None` while it is, or during a round.
    pub(crate) fn rests_until_us(&self, config: &Config, bus: u8) -> Option<u64> {
        let line = self.lines.get(usize::from(bus))?;
        let rests = self.began_us.is_none() && line.turn.is_none();
        rests.then(|| self.next_us.min(self.relays.wake_us(config, bus)))
    }

    /// A probe that does not take its settings; each is named once.
    pub(crate) fn refuser(&mut self) -> Option<u8> {
        let all = self.lines.iter_mut().flat_map(|line| (0u8..).zip(&mut line.told));
        let (index, told) = all.into_iter().find(|(_, told)| told.failures == TELLS_MAX)?;
        told.failures += 1;
        Some(index)
    }

    /// Moves on. `begin` is called when a round begins.
    pub(crate) fn poll(&mut self, config: &Config, now_us: u64, io: &mut impl Lines, begin: impl FnOnce()) -> Progress {
        if self.began_us.is_none() && now_us >= self.next_us {
            begin();
            self.start(config, now_us);
        }
        let mut until_us = if self.began_us.is_none() { self.next_us } else { u64::MAX };
        let mut probing = false;
        for (bus, line) in (0u8..).zip(&mut self.lines) {
            until_us = until_us.min(line.advance(config, &mut self.relays, bus, now_us, io, &mut self.taken));
            probing |= line.is_probing();
        }
        match self.began_us {
            Some(began_us) if !probing && now_us >= self.direct_us => {
                self.began_us = None;
                Progress::Done(began_us)
            }
            Some(_) if !probing => Progress::Wait(until_us.min(self.direct_us)),
            _ => Progress::Wait(until_us),
        }
    }

    fn start(&mut self, config: &Config, now_us: u64) {
        let period_us = u64::from(config.period_s) * 1_000_000;
        // On the grid unless it was missed: equal intervals cost nothing on the wire.
        let began_us = if now_us - self.next_us <= LATE_US { self.next_us } else { now_us };
        self.next_us = began_us + period_us;
        self.began_us = Some(began_us);
        self.taken.clear();
        // A config has no more channels than there is room for.
        let _fits = self.taken.resize(config.channels.len(), Err(MissingReason::NotRead));
        self.direct_us = now_us + direct_us(config);
        for (bus, line) in (0u8..).zip(&mut self.lines) {
            line.next = probe_from(config, bus, 0);
        }
        self.relays.round(now_us);
    }
}

/// Time that the slowest direct input of a config needs, µs; 0 without any.
fn direct_us(config: &Config) -> u64 {
    let needs = config.channels.iter().map(|channel| match channel.source {
        Source::Direct { input } => {
            let part = config.inputs.get(usize::from(input)).and_then(|input| Part::from_id(input.part));
            let ready_us = part.map_or(0, |part| u64::from(part.ready_ms()) * 1_000);
            DIRECT_US.max(ready_us + DIRECT_LATE_US)
        }
        _ => 0,
    });
    needs.max().unwrap_or(0)
}

impl Line {
    const fn new() -> Self {
        Self { turn: None, next: None, relayed: false, told: [Told::NOTHING; PROBES_MAX] }
    }

    /// Whether a probe has its turn, or still waits for it.
    fn is_probing(&self) -> bool {
        self.next.is_some() || matches!(self.turn, Some((_, Turn::Tell(_) | Turn::Read(_))))
    }

    /// Moves the line on; until when it waits.
    fn advance(
        &mut self,
        config: &Config,
        relays: &mut Relays,
        bus: u8,
        now_us: u64,
        io: &mut impl Lines,
        taken: &mut [Taken],
    ) -> u64 {
        for _ in 0..STEPS_MAX {
            if self.turn.is_none() {
                self.turn = self.choose(config, relays, bus, now_us);
            }
            // What comes while nobody is asked is nobody's answer, and must not wake the host for ever.
            receive(bus, io, |bytes| {
                if let Some((_, turn)) = &mut self.turn {
                    turn.on_rx(bytes, now_us);
                }
            });
            let Some((index, turn)) = self.turn.as_mut() else { return relays.wake_us(config, bus) };
            let index = *index;
            match turn {
                Turn::Relay(transaction) => match transaction.poll(now_us) {
                    Step::Wait { until_us } => return until_us,
                    Step::Send => io.send(bus, &transaction.settings().line, transaction.tx_bytes()),
                    Step::Done(outcome) => {
                        let next = relays.heard(config, index, transaction, outcome, now_us);
                        self.turn = next.map(|transaction| (index, Turn::Relay(transaction)));
                    }
                },
                Turn::Tell(transaction) => match transaction.poll(now_us) {
                    Step::Wait { until_us } => return until_us,
                    Step::Send => io.send(bus, &transaction.settings().line, transaction.tx_bytes()),
                    Step::Done(outcome) => {
                        let told = self.told.get_mut(usize::from(index));
                        let again = told.is_some_and(|told| {
                            match outcome {
                                Ok(()) => told.settings += 1,
                                Err(_) => told.failures += 1,
                            }
                            outcome.is_ok()
                        });
                        let next = if again { self.telling(config, index, now_us) } else { None };
                        self.turn = next.or_else(|| reading(config, index, now_us));
                    }
                },
                Turn::Read(slot) => {
                    let Some((_, profile, settings)) = config.probe(index) else {
                        self.turn = None;
                        continue;
                    };
                    match slot.poll(&profile, now_us) {
                        SlotStep::Wait { until_us } => return until_us,
                        SlotStep::Send => io.send(bus, &settings.line, slot.tx_bytes()),
                        SlotStep::Done => {
                            let warm = now_us >= u64::from(profile.warm_up_ms()) * 1_000;
                            for (channel, place) in config.channels.iter().zip(taken.iter_mut()) {
                                let Source::Probe { probe, quantity } = &channel.source else { continue };
                                if *probe == index {
                                    let sample = slot.samples().get(usize::from(*quantity)).copied();
                                    let sample = sample.unwrap_or(Err(MissingReason::NotRead));
                                    *place = if warm { sample } else { sample.and(Err(MissingReason::WarmUp)) };
                                }
                            }
                            self.turn = None;
                        }
                    }
                }
            }
        }
        now_us
    }

    /// Whose turn it is. What is switched waits for nobody; a board that is only told again lets a
    /// probe go first if it had the last slot.
    #[inline(never)]
    fn choose(&mut self, config: &Config, relays: &mut Relays, bus: u8, now_us: u64) -> Option<(u8, Turn)> {
        let yields = self.relayed && self.next.is_some();
        // Each board at most once: one that has nothing to be asked is not due any more.
        for _ in 0..=RELAYS_MAX {
            let changed = relays.changed(config, bus);
            let due = || relays.due(config, bus, now_us).filter(|_| !yields);
            let Some(board) = changed.or_else(due) else { break };
            if let Some(transaction) = relays.begin(config, board, now_us) {
                self.relayed = true;
                return Some((board, Turn::Relay(transaction)));
            }
        }
        self.relayed = false;
        let index = self.next?;
        self.next = probe_from(config, bus, index.saturating_add(1));
        self.telling(config, index, now_us).or_else(|| reading(config, index, now_us))
    }

    /// The turn in which a probe is told its next setting, where there is one.
    fn telling(&self, config: &Config, index: u8, now_us: u64) -> Option<(u8, Turn)> {
        let told = self.told.get(usize::from(index)).copied().unwrap_or(Told::NOTHING);
        let (request, settings) = config.setting(index, told.settings).filter(|_| told.failures < TELLS_MAX)?;
        Some((index, Turn::Tell(Transaction::new(request, settings, now_us))))
    }
}

impl Turn {
    fn on_rx(&mut self, bytes: &[u8], now_us: u64) {
        match self {
            Self::Tell(transaction) | Self::Relay(transaction) => transaction.on_rx(bytes, now_us),
            Self::Read(slot) => slot.on_rx(bytes, now_us),
        }
    }
}

/// Takes what came on a line. One that babbles without end is cut off by the turn's own time.
fn receive(bus: u8, io: &mut impl Lines, mut take: impl FnMut(&[u8])) {
    let mut bytes = [0; CHUNK];
    for _ in 0..STEPS_MAX {
        let count = io.receive(bus, &mut bytes).min(CHUNK);
        if count == 0 {
            break;
        }
        take(bytes.get(..count).unwrap_or_default());
    }
}

/// The first probe of `bus` from index `from` on.
fn probe_from(config: &Config, bus: u8, from: u8) -> Option<u8> {
    let mine = |index: &u8| config.probes.get(usize::from(*index)).is_some_and(|probe| probe.bus == bus);
    (from..config.probes.len() as u8).find(mine)
}

fn reading(config: &Config, index: u8, now_us: u64) -> Option<(u8, Turn)> {
    let (probe, profile, settings) = config.probe(index)?;
    Some((index, Turn::Read(Slot::new(&profile, probe.address, settings, now_us))))
}
