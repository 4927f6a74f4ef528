//! Rounds: every probe of every line gets its turn, one at a time per line, and a dead one costs
//! its own turn only.
//!
//! It owns who is asked next and what came. What the values mean is not its business.

use sensors::modbus::LineSettings;
use sensors::profile::{Sample, Slot, SlotStep};
use telemetry::MissingReason;
use telemetry::limits::CHANNELS_MAX;

use crate::config::{BUSES_MAX, Config, Source};

/// Bytes taken off a line at once.
const CHUNK: usize = 64;
/// A round that begins at most this late keeps its place in the grid, µs.
const LATE_US: u64 = 100_000;
/// Time that direct inputs get from the beginning of a round, µs: an ADS1115 at 8 samples a second
/// takes 125 ms (datasheet SBAS444, table 8), a SHT4x 9 ms.
const DIRECT_US: u64 = 200_000;
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

#[derive(Debug, Default)]
struct Line {
    turn: Option<(u8, Slot)>,
}

/// The rounds of a node.
#[derive(Debug)]
pub(crate) struct Sampler {
    next_us: u64,
    began_us: Option<u64>,
    direct_us: u64,
    lines: [Line; BUSES_MAX],
    taken: [Taken; CHANNELS_MAX],
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
    pub(crate) fn new(first_us: u64) -> Self {
        Self {
            next_us: first_us,
            began_us: None,
            direct_us: 0,
            lines: Default::default(),
            taken: [Err(MissingReason::NotRead); CHANNELS_MAX],
        }
    }

    /// What the source of a channel gave in the round that is over.
    pub(crate) fn taken(&self, channel: usize) -> Taken {
        self.taken.get(channel).copied().unwrap_or(Err(MissingReason::NotRead))
    }

    /// Moves on. `begin` is called when a round begins.
    pub(crate) fn poll(&mut self, config: &Config, now_us: u64, io: &mut impl Lines, begin: impl FnOnce()) -> Progress {
        let began_us = match self.began_us {
            Some(began_us) => began_us,
            None if now_us < self.next_us => return Progress::Wait(self.next_us),
            None => {
                begin();
                self.start(config, now_us)
            }
        };
        let mut until_us = u64::MAX;
        let mut busy = false;
        for (bus, line) in (0u8..).zip(&mut self.lines) {
            if let Some(wait_us) = line.advance(config, bus, now_us, io, &mut self.taken) {
                busy = true;
                until_us = until_us.min(wait_us);
            }
        }
        if busy {
            return Progress::Wait(until_us);
        }
        if now_us < self.direct_us {
            return Progress::Wait(self.direct_us);
        }
        self.began_us = None;
        Progress::Done(began_us)
    }

    fn start(&mut self, config: &Config, now_us: u64) -> u64 {
        let period_us = u64::from(config.period_s) * 1_000_000;
        // On the grid unless it was missed: equal intervals cost nothing on the wire.
        let began_us = if now_us - self.next_us <= LATE_US { self.next_us } else { now_us };
        self.next_us = began_us + period_us;
        self.began_us = Some(began_us);
        self.taken = [Err(MissingReason::NotRead); CHANNELS_MAX];
        let direct = config.channels.iter().any(|channel| matches!(channel.source, Source::Direct { .. }));
        self.direct_us = if direct { now_us + DIRECT_US } else { now_us };
        for (bus, line) in (0u8..).zip(&mut self.lines) {
            line.turn = turn(config, bus, 0, now_us);
        }
        began_us
    }
}

impl Line {
    /// Moves the line on; until when it waits, or `None` when it is through.
    fn advance(
        &mut self,
        config: &Config,
        bus: u8,
        now_us: u64,
        io: &mut impl Lines,
        taken: &mut [Taken; CHANNELS_MAX],
    ) -> Option<u64> {
        for _ in 0..STEPS_MAX {
            let (index, slot) = self.turn.as_mut()?;
            let Some((_, profile, settings)) = config.probe(*index) else {
                self.turn = turn(config, bus, index.saturating_add(1), now_us);
                continue;
            };
            let mut bytes = [0; CHUNK];
            // A line that babbles without end is cut off by its turn's own time.
            for _ in 0..STEPS_MAX {
                let count = io.receive(bus, &mut bytes).min(CHUNK);
                if count == 0 {
                    break;
                }
                slot.on_rx(bytes.get(..count).unwrap_or_default(), now_us);
            }
            match slot.poll(&profile, now_us) {
                SlotStep::Wait { until_us } => return Some(until_us),
                SlotStep::Send => io.send(bus, &settings.line, slot.tx_bytes()),
                SlotStep::Done => {
                    let warm = now_us >= u64::from(profile.warm_up_ms()) * 1_000;
                    for (channel, place) in config.channels.iter().zip(taken.iter_mut()) {
                        let Source::Probe { probe, quantity } = &channel.source else { continue };
                        if probe == index {
                            let sample = slot.samples().get(usize::from(*quantity)).copied();
                            let sample = sample.unwrap_or(Err(MissingReason::NotRead));
                            *place = if warm { sample } else { sample.and(Err(MissingReason::WarmUp)) };
                        }
                    }
                    self.turn = turn(config, bus, index.saturating_add(1), now_us);
                }
            }
        }
        Some(now_us)
    }
}

/// The turn of the first probe of `bus` from index `from` on.
fn turn(config: &Config, bus: u8, from: u8, now_us: u64) -> Option<(u8, Slot)> {
    (from..config.probes.len() as u8).find_map(|index| {
        let (probe, profile, settings) = config.probe(index)?;
        (probe.bus == bus).then(|| (index, Slot::new(&profile, probe.address, settings, now_us)))
    })
}
