//! Sampling rounds as differences: each value against the channel's last, each interval against
//! the last, channel set and quality only when they change.
//!
//! A round is one unit (nibble) of what-changed bits, then what changed, then a difference per
//! value. The state a coder carries is bounded by the number of channels, and rounds are coded
//! one after the other, so a node needs no room for a batch.

use crate::limits::CHANNELS_MAX;
use crate::nibble::{Full, NibbleReader, NibbleWriter};
use crate::quality::{Flag, MissingReason, Quality, Tests};
use crate::record::{Reading, Round};

const INTERVAL: u8 = 1;
const CHANNELS: u8 = 2;
const QUALITY: u8 = 4;
const CONFIG: u8 = 8;
/// Fills the last byte: a lone "quality changed" that nothing follows is no round.
const PAD: u8 = QUALITY;
/// In a quality unit: a raw value goes beside the value.
const RAW: u8 = 8;

#[derive(Clone, Copy)]
struct Last {
    value: i32,
    quality: Quality,
    raw: bool,
}

#[derive(Clone)]
struct State {
    t_ms: u64,
    interval_ms: i64,
    channels: u32,
    config: u16,
    last: [Last; CHANNELS_MAX],
}

#[expect(clippy::indexing_slicing, reason = "a remainder is below the length")]
impl State {
    fn last(&self, channel: u8) -> &Last {
        &self.last[usize::from(channel) % CHANNELS_MAX]
    }

    fn last_mut(&mut self, channel: u8) -> &mut Last {
        &mut self.last[usize::from(channel) % CHANNELS_MAX]
    }

    fn new(reference_ms: u64) -> Self {
        Self {
            t_ms: reference_ms,
            interval_ms: 0,
            channels: 0,
            config: 0,
            last: [Last { value: 0, quality: Quality::GOOD, raw: false }; CHANNELS_MAX],
        }
    }
}

fn flag_code(flag: Flag) -> u8 {
    match flag {
        Flag::Good => 0,
        Flag::NotEvaluated => 1,
        Flag::Suspect => 2,
        Flag::Fail => 3,
        Flag::Missing => 4,
    }
}

/// Good although tests fired (a test that only informs): the code says that tests follow.
const GOOD_WITH_TESTS: u8 = 5;

/// Codes rounds one after the other into a buffer that the caller keeps.
pub(crate) struct RoundsWriter {
    units: usize,
    state: State,
}

impl RoundsWriter {
    /// Times are coded as distances from `reference_ms`, which the reader must know.
    pub(crate) fn new(reference_ms: u64) -> Self {
        Self { units: 0, state: State::new(reference_ms) }
    }

    /// Adds a round, or leaves everything as it was.
    pub(crate) fn push(&mut self, buffer: &mut [u8], round: &Round) -> Result<(), Full> {
        let mut nibbles = NibbleWriter::resume(buffer, self.units);
        let mut state = self.state.clone();
        write(&mut nibbles, &mut state, round)?;
        self.units = nibbles.units();
        self.state = state;
        // A shared last byte may hold half of a round that did not fit; padding overwrites it.
        Ok(())
    }

    /// Bytes so far, the last one perhaps half used.
    pub(crate) fn bytes(&self) -> usize {
        self.units.div_ceil(2)
    }

    /// Pads to whole bytes; their number.
    pub(crate) fn finish(self, buffer: &mut [u8]) -> Result<usize, Full> {
        let mut nibbles = NibbleWriter::resume(buffer, self.units);
        if self.units % 2 == 1 {
            nibbles.unit(PAD)?;
        }
        Ok(nibbles.units() / 2)
    }
}

fn write(nibbles: &mut NibbleWriter<'_>, state: &mut State, round: &Round) -> Result<(), Full> {
    let interval_ms = round.t_ms.wrapping_sub(state.t_ms) as i64;
    let channels = round.readings.iter().fold(0u32, |mask, r| mask | 1 << (r.channel % 32));
    let changed = round.readings.iter().any(|r| {
        let last = state.last(r.channel);
        last.quality != r.quality || last.raw != r.raw.is_some()
    });
    let mut header = 0;
    for (bit, differs) in [
        (INTERVAL, interval_ms != state.interval_ms),
        (CHANNELS, channels != state.channels),
        (QUALITY, changed),
        (CONFIG, round.config != state.config),
    ] {
        if differs {
            header |= bit;
        }
    }
    nibbles.unit(header)?;
    if header & INTERVAL != 0 {
        nibbles.signed(interval_ms.wrapping_sub(state.interval_ms))?;
    }
    if header & CHANNELS != 0 {
        nibbles.unsigned(channels.into())?;
    }
    if header & CONFIG != 0 {
        nibbles.unsigned(round.config.into())?;
    }
    if header & QUALITY != 0 {
        for reading in &round.readings {
            let raw = if reading.raw.is_some() { RAW } else { 0 };
            let (code, detail) = match reading.quality {
                Quality::GOOD => (flag_code(Flag::Good), None),
                Quality::Missing(reason) => (flag_code(Flag::Missing), Some(reason.id().into())),
                Quality::Present { flag: Flag::Good, tests } => (GOOD_WITH_TESTS, Some(tests.bits().into())),
                Quality::Present { flag, tests } => (flag_code(flag), Some(tests.bits().into())),
            };
            nibbles.unit(code | raw)?;
            if let Some(detail) = detail {
                nibbles.unsigned(detail)?;
            }
        }
    }
    for reading in &round.readings {
        let last = state.last_mut(reading.channel);
        last.quality = reading.quality;
        last.raw = reading.raw.is_some();
        if matches!(reading.quality, Quality::Missing(_)) {
            continue;
        }
        nibbles.signed(reading.value.wrapping_sub(last.value).into())?;
        if let Some(raw) = reading.raw {
            nibbles.signed(raw.wrapping_sub(reading.value).into())?;
        }
        last.value = reading.value;
    }
    state.t_ms = round.t_ms;
    state.interval_ms = interval_ms;
    state.channels = channels;
    state.config = round.config;
    Ok(())
}

/// Reads the rounds of one run.
#[derive(Clone)]
pub(crate) struct RoundsReader<'b> {
    nibbles: NibbleReader<'b>,
    state: State,
}

/// The bytes are no run of rounds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

impl<'b> RoundsReader<'b> {
    pub(crate) fn new(bytes: &'b [u8], reference_ms: u64) -> Self {
        Self { nibbles: NibbleReader::new(bytes), state: State::new(reference_ms) }
    }

    /// Whether nothing follows but padding.
    pub(crate) fn is_at_end(&self) -> bool {
        match self.nibbles.left() {
            0 => true,
            1 => self.nibbles.clone().unit() == Some(PAD),
            _ => false,
        }
    }

    /// Reads the next round into `round`; `None` at the end. What is garbled leaves no round.
    pub(crate) fn next_into(&mut self, round: &mut Round) -> Option<Result<(), Garbled>> {
        if self.is_at_end() {
            return None;
        }
        Some(self.read(round).ok_or(Garbled))
    }

    fn read(&mut self, round: &mut Round) -> Option<()> {
        let (nibbles, state) = (&mut self.nibbles, &mut self.state);
        let header = nibbles.unit()?;
        if header & INTERVAL != 0 {
            state.interval_ms = state.interval_ms.wrapping_add(nibbles.signed()?);
        }
        if header & CHANNELS != 0 {
            state.channels = u32::try_from(nibbles.unsigned()?).ok()?;
        }
        if header & CONFIG != 0 {
            state.config = u16::try_from(nibbles.unsigned()?).ok()?;
        }
        state.t_ms = state.t_ms.wrapping_add(state.interval_ms as u64);
        let channels = (0..32u8).filter({
            let mask = state.channels;
            move |c| mask & (1 << c) != 0
        });
        if header & QUALITY != 0 {
            for channel in channels.clone() {
                let unit = nibbles.unit()?;
                let last = state.last_mut(channel);
                last.raw = unit & RAW != 0;
                last.quality = match unit & 7 {
                    0 => Quality::GOOD,
                    4 => Quality::Missing(MissingReason::from_id(u8::try_from(nibbles.unsigned()?).ok()?)),
                    code => {
                        let flag = match code {
                            GOOD_WITH_TESTS => Flag::Good,
                            1 => Flag::NotEvaluated,
                            2 => Flag::Suspect,
                            3 => Flag::Fail,
                            _ => return None,
                        };
                        let tests = Tests::from_bits(u16::try_from(nibbles.unsigned()?).ok()?);
                        Quality::Present { flag, tests }
                    }
                };
            }
        }
        (round.t_ms, round.config) = (state.t_ms, state.config);
        round.readings.clear();
        for channel in channels {
            let last = state.last_mut(channel);
            let mut reading = Reading { channel, value: 0, raw: None, quality: last.quality };
            if !matches!(last.quality, Quality::Missing(_)) {
                let step = i32_step(nibbles.signed()?)?;
                last.value = last.value.wrapping_add(step);
                reading.value = last.value;
                if last.raw {
                    let step = i32_step(nibbles.signed()?)?;
                    reading.raw = Some(last.value.wrapping_add(step));
                }
            }
            round.readings.push(reading).ok()?;
        }
        Some(())
    }
}

fn i32_step(step: i64) -> Option<i32> {
    i32::try_from(step).ok()
}
