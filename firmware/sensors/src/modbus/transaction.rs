//! One question and its answer as a state machine driven by time.

use super::{
    LineSettings, ModbusError, Request,
    response::{RESPONSE_LEN_MAX, Scan, classify, scan},
};

/// Most repetitions after the first attempt.
pub const RETRIES_MAX: u8 = 3;
/// How long the line is given to fall silent before sending, in characters: a late answer of up
/// to 29 registers passes by. Only then the attempt counts as [`ModbusError::Busy`].
pub const QUIET_CHARS_MAX: usize = 64;
/// What slaves get to obey a broadcast, µs (serial line guide §2.4.1: 100 to 200 ms).
pub const TURNAROUND_US: u64 = 100_000;

/// How a slave is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Characters on the line.
    pub line: LineSettings,
    /// The adapter hands back what it sends (half-duplex with the receiver left on). For reads a
    /// wrong setting does no harm; for writes it must be right, because a good answer to a write
    /// looks like its echo.
    pub echo: bool,
    /// From the end of the question to the beginning of the answer, ms.
    pub response_ms: u16,
    /// Repetitions after the first attempt, at most [`RETRIES_MAX`].
    pub retries: u8,
}

impl Settings {
    const fn retries(&self) -> u8 {
        if self.retries > RETRIES_MAX { RETRIES_MAX } else { self.retries }
    }

    fn quiet_us_max(&self) -> u64 {
        self.line.frame_gap_us() + self.line.chars_us(QUIET_CHARS_MAX)
    }

    /// From handing over the question to the latest moment at which its answer is whole.
    fn window_us(&self, request: &Request) -> u64 {
        let sending = self.line.chars_us(request.bytes().len());
        if request.address() == Request::BROADCAST {
            return sending + TURNAROUND_US;
        }
        sending
            + u64::from(self.response_ms) * 1_000
            + self.line.chars_us(request.answer_len())
            + self.line.frame_gap_us()
    }
}

/// Longest that a transaction can take, µs, whatever the line does: every attempt waits for
/// silence at most once and then for its answer at most once.
pub fn slot_us_max(request: &Request, settings: &Settings) -> u64 {
    let attempts = if request.address() == Request::BROADCAST { 1 } else { u64::from(settings.retries()) + 1 };
    attempts * (settings.quiet_us_max() + settings.window_us(request))
}

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before `until_us`, unless bytes arrive.
    Wait {
        /// On the caller's clock, µs.
        until_us: u64,
    },
    /// Put [`Transaction::tx_bytes`] on the line now. Said once per attempt.
    Send,
    /// Over; the line is free. After `Ok` a read's registers or coils are in [`Transaction::data`].
    Done(Result<(), ModbusError>),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waiting until the line has been silent since `since_us`, but not past `until_us`.
    Quiet {
        since_us: u64,
        until_us: u64,
    },
    /// The question is out. `damaged_us`: when a damaged answer was last added to.
    Answer {
        until_us: u64,
        damaged_us: Option<u64>,
    },
    Done(Result<(), ModbusError>),
}

/// One question to one slave, repeated as the settings allow.
///
/// Call [`poll`](Self::poll) whenever the time it last named has come or bytes arrived, and hand
/// every received byte to [`on_rx`](Self::on_rx), before the poll: a caller that looks seldom then
/// loses nothing that came in time. Time is any monotonic µs count.
#[derive(Debug)]
pub struct Transaction {
    request: Request,
    settings: Settings,
    phase: Phase,
    attempts_left: u8,
    /// An earlier attempt ended without the slave's answer, which may still be under way.
    answer_owed: bool,
    first_sent_us: u64,
    last_sent_us: u64,
    twin_until_us: Option<u64>,
    /// Bytes of the own echo still to be stripped in this attempt.
    echo_left: usize,
    echo_seen: bool,
    rx: heapless::Vec<u8, RESPONSE_LEN_MAX>,
    data: (usize, usize),
}

impl Transaction {
    /// Begins at `now_us`. The first [`Step::Send`] comes after one frame gap of silence.
    pub fn new(request: Request, settings: Settings, now_us: u64) -> Self {
        let mut this = Self {
            attempts_left: settings.retries(),
            request,
            settings,
            phase: Phase::Done(Err(ModbusError::Timeout)),
            answer_owed: false,
            first_sent_us: u64::MAX,
            last_sent_us: now_us,
            twin_until_us: None,
            echo_left: 0,
            echo_seen: false,
            rx: heapless::Vec::new(),
            data: (0, 0),
        };
        this.begin_attempt(now_us);
        this
    }

    /// The question's frame.
    pub fn tx_bytes(&self) -> &[u8] {
        self.request.bytes()
    }

    /// The question.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// How the slave is talked to.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Register bytes of a good answer to a read, big-endian, two a register, or [`coil`]s, eight a
    /// byte; empty before that.
    ///
    /// [`coil`]: super::coil()
    pub fn data(&self) -> &[u8] {
        self.rx.get(self.data.0..self.data.1).unwrap_or_default()
    }

    /// Its outcome took more than one attempt.
    pub fn was_repeated(&self) -> bool {
        self.attempts_left < self.settings.retries()
    }

    /// The own question came back although the settings say that the adapter does not echo.
    pub fn unexpected_echo(&self) -> bool {
        self.echo_seen && !self.settings.echo
    }

    /// After an answer that came only to a repetition: until when the answer to the other question
    /// may still arrive. It would be taken for the answer to the next question of the same shape
    /// (address, function, count), which must therefore not be asked before; [`Slot`] sees to it.
    ///
    /// [`Slot`]: crate::profile::Slot
    pub fn twin_until_us(&self) -> Option<u64> {
        self.twin_until_us
    }

    /// Takes bytes that came off the line.
    pub fn on_rx(&mut self, bytes: &[u8], now_us: u64) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.phase {
            Phase::Quiet { since_us, .. } => *since_us = now_us,
            // A twin, or somebody babbling: the next transaction waits for silence anyway.
            Phase::Done(_) => {}
            // Also behind the deadline: bytes may have come in time and be noticed late.
            Phase::Answer { .. } => self.take(bytes, now_us),
        }
    }

    /// Moves on to `now_us` and says what to do.
    pub fn poll(&mut self, now_us: u64) -> Step {
        let gap_us = self.settings.line.frame_gap_us();
        match self.phase {
            Phase::Quiet { since_us, until_us } => {
                let silent_us = since_us.saturating_add(gap_us);
                if now_us >= silent_us {
                    self.rx.clear();
                    self.first_sent_us = self.first_sent_us.min(now_us);
                    self.last_sent_us = now_us;
                    self.echo_left = if self.settings.echo { self.request.bytes().len() } else { 0 };
                    self.phase = Phase::Answer {
                        until_us: now_us.saturating_add(self.settings.window_us(&self.request)),
                        damaged_us: None,
                    };
                    Step::Send
                } else if now_us >= until_us {
                    self.fail(ModbusError::Busy, now_us)
                } else {
                    Step::Wait { until_us: silent_us.min(until_us) }
                }
            }
            Phase::Answer { until_us, damaged_us } => {
                // A damaged answer that nothing follows will not get better by waiting.
                let given_up_us =
                    damaged_us.map_or(until_us, |at| at.saturating_add(gap_us.max(DAMAGED_SILENCE_US)).min(until_us));
                if now_us < given_up_us {
                    return Step::Wait { until_us: given_up_us };
                }
                if self.request.address() == Request::BROADCAST {
                    return self.finish(Ok(()));
                }
                self.fail(classify(&self.request, &self.rx), now_us)
            }
            Phase::Done(outcome) => Step::Done(outcome),
        }
    }

    /// Takes bytes while an answer is awaited.
    fn take(&mut self, bytes: &[u8], now_us: u64) {
        let mut bytes = bytes;
        if self.echo_left > 0 {
            bytes = self.strip_echo(bytes);
        }
        if bytes.is_empty() {
            return;
        }
        let room = self.rx.capacity() - self.rx.len();
        let overflow = bytes.len() > room;
        let _fits = self.rx.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        if self.rx.starts_with(self.request.bytes()) && self.request.is_read() {
            self.echo_seen = true;
        }
        match scan(&self.request, &self.rx) {
            Scan::Answer { start, end } => {
                self.data = (start, end);
                self.phase = Phase::Done(Ok(()));
                if self.answer_owed {
                    // What came may answer the first question; then the slave is this slow, and
                    // the answer to the last one takes as long again, and longer where its time
                    // varies.
                    let slowness_us = now_us.saturating_sub(self.first_sent_us);
                    let patience_us = self.settings.window_us(&self.request);
                    self.twin_until_us =
                        Some(self.last_sent_us.saturating_add(slowness_us.saturating_add(patience_us)));
                }
            }
            Scan::Exception(code) => {
                let error = ModbusError::Exception(code);
                if error.is_worth_a_retry() {
                    self.end_attempt(error, now_us);
                } else {
                    self.phase = Phase::Done(Err(error));
                }
            }
            Scan::Damaged { .. } | Scan::Incomplete if overflow => {
                self.end_attempt(ModbusError::TooLong, now_us);
            }
            Scan::Damaged { .. } => {
                if let Phase::Answer { damaged_us, .. } = &mut self.phase {
                    *damaged_us = Some(now_us);
                }
            }
            Scan::Incomplete => {}
        }
    }

    /// Strips what is left of the own echo; gives back what is not echo.
    fn strip_echo<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let frame = self.request.bytes();
        let stripped = frame.len() - self.echo_left;
        let awaited = frame.get(stripped..).unwrap_or_default();
        let same = awaited.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if same == awaited.len() || same == bytes.len() {
            self.echo_left -= same;
            return bytes.get(same..).unwrap_or_default();
        }
        // Not an echo after all, or a damaged one: what was stripped counts as received, and the
        // search for the answer passes over it.
        self.echo_left = 0;
        let _fits = self.rx.extend_from_slice(frame.get(..stripped).unwrap_or_default());
        bytes
    }

    fn begin_attempt(&mut self, now_us: u64) {
        self.phase = Phase::Quiet { since_us: now_us, until_us: now_us.saturating_add(self.settings.quiet_us_max()) };
    }

    /// Ends an attempt; the next one begins, if there is one.
    fn end_attempt(&mut self, error: ModbusError, now_us: u64) {
        self.answer_owed |= error.leaves_answer_owed();
        if self.attempts_left == 0 || self.request.address() == Request::BROADCAST {
            self.phase = Phase::Done(Err(error));
        } else {
            self.attempts_left -= 1;
            self.begin_attempt(now_us);
        }
    }

    fn fail(&mut self, error: ModbusError, now_us: u64) -> Step {
        self.end_attempt(error, now_us);
        match self.phase {
            Phase::Done(outcome) => Step::Done(outcome),
            _ => Step::Wait { until_us: now_us.saturating_add(self.settings.line.frame_gap_us()) },
        }
    }

    fn finish(&mut self, outcome: Result<(), ModbusError>) -> Step {
        self.phase = Phase::Done(outcome);
        Step::Done(outcome)
    }
}

/// Silence after which a damaged answer is given up, µs: longer than the 16 ms for which common
/// USB adapters sit on received bytes (FTDI AN232B-04, default latency timer).
const DAMAGED_SILENCE_US: u64 = 20_000;
