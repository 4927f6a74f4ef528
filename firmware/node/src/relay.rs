//! Relay boards on Modbus lines: coils that follow control, are written again and read back all
//! the time, and let go by themselves when nobody talks to their board.
//!
//! A board's turn: what goes off is written, then what is on, then every coil is read back, then
//! the board's own time-out, which is written again where it is another. Whatever the writes were
//! answered, the coils count as they are read. A turn stops at the first silence; it goes on in
//! another slot where an answer came only to a repetition, at once while something is to be
//! switched, else when it is the board's turn again. So a dead board costs no more than
//! one question, and a disturbed one no more than its slot. Nothing is ever broadcast.
//!
//! It owns what boards have been told and what they said. When a line is free is the sampler's.

use sensors::modbus::{ModbusError, Request, Settings, Transaction, slot_us_max};
use sensors::profile::Relay;

use crate::config::{COILS_MAX, Config, Output, RELAYS_MAX, RelayBoard};

/// Turns in a row without a whole answer, or with another state than was told, before it is an
/// alarm.
pub const TRIES_MAX: u8 = 3;
/// Longest from one turn of a board to the next, s: a coil that did not follow is told again, and
/// three turns are short beside the half hour that fish have.
pub const REFRESH_S_MAX: u16 = 30;

/// What is asked of a board next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Writes a coil whose actuator is off.
    Off(u8),
    /// Writes a coil whose actuator is on.
    On(u8),
    /// Reads a coil.
    Read(u8),
    /// Reads the time-out.
    TimeOut,
    /// Writes it.
    SetTimeOut,
    /// Reads it again.
    ProveTimeOut,
}

/// What is known of a board's time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeOut {
    /// Nothing yet, or it is about to be written.
    Unknown,
    /// It was written, and is another all the same.
    Wrong,
    /// It is as the config says.
    Proven,
}

#[derive(Clone, Copy, Debug)]
struct Board {
    // Bit n of each: coil n.
    /// It is an actuator's.
    used: u16,
    /// It is closed while its actuator is off.
    inverted: u16,
    /// It is to be closed.
    wanted: u16,
    /// As in the turn that is open, or was the last.
    told: u16,
    /// Was closed when all were last read.
    was: u16,
    /// Read in this turn.
    read: u16,
    /// And found closed.
    closed: u16,
    /// Was not as told when it was last read.
    differs: u16,
    /// Turns in a row in which something differed.
    differed: u8,
    /// Turns in a row without a whole answer.
    silent: u8,
    time_out: TimeOut,
    /// Its time-out was right and no longer is: it has been without power.
    forgot: bool,
    /// Some coil is wanted otherwise than told.
    changed: bool,
    /// The turn was begun to switch something, and that is not written yet.
    switching: bool,
    /// Where the turn goes on.
    stage: Option<Stage>,
    began_us: u64,
    due_us: u64,
    /// Until then a late answer may be taken for the next one.
    twin_until_us: u64,
}

impl Board {
    const NONE: Self = Self {
        used: 0,
        inverted: 0,
        wanted: 0,
        told: 0,
        was: 0,
        read: 0,
        closed: 0,
        differs: 0,
        differed: 0,
        silent: 0,
        time_out: TimeOut::Unknown,
        forgot: false,
        changed: false,
        switching: false,
        stage: None,
        began_us: 0,
        due_us: 0,
        twin_until_us: 0,
    };

    /// All its actuators are off.
    fn new(config: &Config, index: u8, now_us: u64) -> Self {
        let mut board = Self { due_us: now_us, ..Self::NONE };
        for actuator in &config.actuators {
            let Output::Coil { relay, coil, inverted } = actuator.output else { continue };
            let bit = if relay == index { 1u16.checked_shl(coil.into()).unwrap_or(0) } else { 0 };
            board.used |= bit;
            board.inverted |= if inverted { bit } else { 0 };
        }
        (board.wanted, board.told, board.was) = (board.inverted, board.inverted, board.inverted);
        board
    }

    /// The question of a stage; `None` where it has none.
    #[inline(never)]
    fn request(&self, of: &RelayBoard, relay: &Relay, stage: Stage) -> Option<Request> {
        let (on, was_on) = (self.told ^ self.inverted, self.was ^ self.inverted);
        let is = |bits: u16, n: u8| bits.checked_shr(n.into()).unwrap_or(0) & 1 == 1;
        let time_out = relay.time_out.filter(|_| of.time_out_s > 0);
        let raw = || time_out.and_then(|time_out| time_out.raw(of.time_out_s));
        let request = match stage {
            Stage::Off(0) if relay.writes_all_at_once() => {
                // Two that exclude each other never overlap.
                let both = on & !was_on != 0 && was_on & !on != 0;
                let first = (on & was_on) ^ self.inverted;
                (self.used != 0 && both).then(|| relay.write_request(of.address, 0, first))?
            }
            Stage::On(0) if relay.writes_all_at_once() => {
                (self.used != 0).then(|| relay.write_request(of.address, 0, self.told))?
            }
            Stage::Off(_) | Stage::On(_) if relay.writes_all_at_once() => return None,
            Stage::Off(n) => (is(self.used, n) && !is(on, n)).then(|| relay.write_request(of.address, n, self.told))?,
            Stage::On(n) => (is(self.used, n) && is(on, n)).then(|| relay.write_request(of.address, n, self.told))?,
            Stage::Read(n) if relay.reads_all_at_once() => {
                (self.used != 0 && n == 0).then(|| relay.read_request(of.address, 0))?
            }
            Stage::Read(n) => is(self.used, n).then(|| relay.read_request(of.address, n))?,
            Stage::TimeOut | Stage::ProveTimeOut => time_out?.read_request(of.address),
            Stage::SetTimeOut => time_out?.write_request(of.address, raw()?),
        };
        request.ok()
    }

    /// The stage behind this one.
    fn behind(&self, stage: Stage) -> Option<Stage> {
        let more = |n: u8| Some(n + 1).filter(|n| *n < COILS_MAX);
        match stage {
            Stage::Off(n) => Some(more(n).map_or(Stage::On(0), Stage::Off)),
            Stage::On(n) => Some(more(n).map_or(Stage::Read(0), Stage::On)),
            Stage::Read(n) => Some(more(n).map_or(Stage::TimeOut, Stage::Read)),
            Stage::TimeOut if self.time_out != TimeOut::Proven => Some(Stage::SetTimeOut),
            Stage::SetTimeOut => Some(Stage::ProveTimeOut),
            Stage::TimeOut | Stage::ProveTimeOut => None,
        }
    }

    /// Takes in a good answer.
    fn hear(&mut self, of: &RelayBoard, relay: &Relay, stage: Stage, data: &[u8]) {
        match stage {
            Stage::Off(_) | Stage::On(_) | Stage::SetTimeOut => {}
            Stage::Read(n) => {
                for coil in 0..COILS_MAX {
                    if let Some(closed) = relay.is_closed(n, coil, data) {
                        self.read |= 1 << coil;
                        self.closed |= u16::from(closed) << coil;
                    }
                }
            }
            Stage::TimeOut | Stage::ProveTimeOut => {
                let time_out = relay.time_out.and_then(|it| Some((it, it.raw(of.time_out_s)?)));
                let right = time_out.is_some_and(|(it, raw)| it.holds(raw, data));
                self.forgot |= !right && self.time_out == TimeOut::Proven;
                self.time_out = match (right, stage, self.time_out) {
                    (true, ..) => TimeOut::Proven,
                    (false, Stage::ProveTimeOut, _) | (false, _, TimeOut::Wrong) => TimeOut::Wrong,
                    (false, ..) => TimeOut::Unknown,
                };
            }
        }
    }

    /// The turn is over; the next comes at the board's pace.
    fn end(&mut self, whole: bool, pace_us: u64) {
        (self.stage, self.switching) = (None, false);
        self.due_us = self.began_us.saturating_add(pace_us);
        let read = self.read & self.used;
        if read == self.used {
            self.was = self.closed & read;
        }
        if read != 0 {
            self.differs = (self.told ^ self.closed) & read;
            self.differed = if self.differs == 0 { 0 } else { self.differed.saturating_add(1) };
        }
        self.silent = if whole && read == self.used { 0 } else { self.silent.saturating_add(1) };
    }
}

/// All relay boards of a node.
#[derive(Debug)]
pub(crate) struct Relays {
    boards: [Board; RELAYS_MAX],
}

impl Relays {
    pub(crate) const fn new() -> Self {
        Self { boards: [Board::NONE; RELAYS_MAX] }
    }

    /// As new: every board has its turn at `now_us`, with what is set until then.
    pub(crate) fn restart(&mut self, config: &Config, now_us: u64) {
        for (index, board) in (0u8..).zip(&mut self.boards) {
            *board = Board::new(config, index, now_us);
        }
    }

    /// Sets what a coil is to be.
    pub(crate) fn set(&mut self, relay: u8, coil: u8, closed: bool) {
        let Some(board) = self.boards.get_mut(usize::from(relay)) else { return };
        let bit = 1u16.checked_shl(coil.into()).unwrap_or(0);
        let before = board.wanted;
        board.wanted = if closed { before | bit } else { before & !bit };
        board.changed |= board.wanted != before;
    }

    /// A round begins: every board has a turn in it.
    pub(crate) fn round(&mut self, now_us: u64) {
        for board in self.boards.iter_mut().filter(|board| board.stage.is_none()) {
            board.due_us = board.due_us.min(now_us);
        }
    }

    fn on(config: &Config, bus: u8) -> impl Iterator<Item = u8> {
        (0u8..).zip(&config.relays).filter(move |(_, relay)| relay.bus == bus).map(|(index, _)| index)
    }

    fn board(&self, index: u8) -> Option<&Board> {
        self.boards.get(usize::from(index))
    }

    /// The board of a line that has something to be switched.
    pub(crate) fn changed(&self, config: &Config, bus: u8) -> Option<u8> {
        Self::on(config, bus).find(|index| self.board(*index).is_some_and(|board| board.changed || board.switching))
    }

    /// The board of a line that has waited longest of those whose turn it is.
    pub(crate) fn due(&self, config: &Config, bus: u8, now_us: u64) -> Option<u8> {
        let due = Self::on(config, bus).filter_map(|index| Some((index, self.board(index)?.due_us)));
        due.filter(|(_, due_us)| *due_us <= now_us).min_by_key(|(_, due_us)| *due_us).map(|(index, _)| index)
    }

    /// When a board of this line has to be asked at the latest; never, where there is none.
    pub(crate) fn wake_us(&self, config: &Config, bus: u8) -> u64 {
        let boards = Self::on(config, bus).filter_map(|index| self.board(index));
        boards.map(|board| if board.changed { 0 } else { board.due_us }).min().unwrap_or(u64::MAX)
    }

    /// Begins a slot of a board, with a turn or where the last slot stopped; `None` when there is
    /// nothing to ask it.
    pub(crate) fn begin(&mut self, config: &Config, index: u8, now_us: u64) -> Option<Transaction> {
        let board = self.boards.get_mut(usize::from(index))?;
        if board.changed || board.stage.is_none() {
            (board.switching, board.changed) = (board.changed, false);
            (board.told, board.read, board.closed) = (board.wanted, 0, 0);
            (board.stage, board.began_us) = (Some(Stage::Off(0)), now_us);
        }
        self.ask(config, index, true, now_us)
    }

    /// An answer came, or did not. The slot's next question; `None` when it is over.
    #[inline(never)]
    pub(crate) fn heard(
        &mut self,
        config: &Config,
        index: u8,
        transaction: &Transaction,
        outcome: Result<(), ModbusError>,
        now_us: u64,
    ) -> Option<Transaction> {
        let board = self.boards.get_mut(usize::from(index))?;
        let (of, relay, _) = config.relay(index)?;
        let stage = board.stage?;
        board.twin_until_us = board.twin_until_us.max(transaction.twin_until_us().unwrap_or(0));
        match outcome {
            Ok(()) => board.hear(of, &relay, stage, transaction.data()),
            // It lives, and refuses: what it has is still to be read.
            Err(ModbusError::Exception(_)) => {}
            Err(_) => {
                board.end(false, pace_us(config, of));
                return None;
            }
        }
        board.stage = board.behind(stage);
        self.ask(config, index, !transaction.was_repeated(), now_us)
    }

    /// The question of the stage that a board is at, or of the first behind it that has one.
    #[inline(never)]
    fn ask(&mut self, config: &Config, index: u8, goes_on: bool, now_us: u64) -> Option<Transaction> {
        let board = self.boards.get_mut(usize::from(index))?;
        let (of, relay, settings) = config.relay(index)?;
        while let Some(stage) = board.stage {
            let Some(request) = board.request(of, &relay, stage) else {
                board.stage = board.behind(stage);
                continue;
            };
            board.switching &= matches!(stage, Stage::Off(_) | Stage::On(_));
            let twin = request.is_read() && now_us < board.twin_until_us;
            if !goes_on || twin {
                board.due_us = if twin { board.twin_until_us } else { now_us };
                return None;
            }
            return Some(Transaction::new(request, settings, now_us));
        }
        let proven = of.time_out_s == 0 || board.time_out != TimeOut::Unknown;
        board.end(proven, pace_us(config, of));
        None
    }

    /// Bit n: actuator n is at a board that does not answer, or whose time-out is not proven.
    pub(crate) fn unsure(&self, config: &Config) -> u8 {
        self.each(config, |board, _| board.silent >= TRIES_MAX || board.time_out == TimeOut::Wrong)
    }

    /// Bit n: the coil of actuator n is read otherwise than it was told.
    pub(crate) fn differing(&self, config: &Config) -> u8 {
        self.each(config, |board, coil| {
            board.differed >= TRIES_MAX && board.differs.checked_shr(coil.into()).unwrap_or(0) & 1 == 1
        })
    }

    fn each(&self, config: &Config, is: impl Fn(&Board, u8) -> bool) -> u8 {
        (0u8..).zip(&config.actuators).fold(0, |bits, (n, actuator)| match actuator.output {
            Output::Coil { relay, coil, .. } => {
                bits | u8::from(self.board(relay).is_some_and(|board| is(board, coil))) << (n % 8)
            }
            _ => bits,
        })
    }

    /// A board that had forgotten its time-out; each time is named once.
    pub(crate) fn forgetful(&mut self) -> Option<u8> {
        let (index, board) = (0u8..).zip(&mut self.boards).find(|(_, board)| board.forgot)?;
        board.forgot = false;
        Some(index)
    }
}

/// From one turn of a board to the next, µs: at least one a round, and three in its time-out.
pub(crate) fn pace_us(config: &Config, of: &RelayBoard) -> u64 {
    let mut pace_us = u64::from(config.period_s.min(REFRESH_S_MAX)) * 1_000_000;
    if of.time_out_s > 0 {
        pace_us = pace_us.min(u64::from(of.time_out_s) * 1_000_000 / 3);
    }
    pace_us
}

/// Longest slot of a board, µs, whatever the line does: every question once, and the repetitions
/// of one, because with that the slot ends. And longest that it takes to switch something, which
/// goes on in slots of its own until it is written.
#[inline(never)]
pub(crate) fn board_us_max(config: &Config, index: u8) -> (u64, u64) {
    let Some((of, relay, settings)) = config.relay(index) else { return (0, 0) };
    let once = Settings { retries: 0, ..settings };
    // The longest turn: one actuator goes off, the others come on, the time-out is not proven.
    let mut board = Board::new(config, index, 0);
    let first = board.used & board.used.wrapping_neg();
    board.was ^= first;
    board.told ^= board.used & !first;
    let (mut sum_us, mut longest_us, mut writes_us) = (0, 0, 0);
    let mut stage = Some(Stage::Off(0));
    while let Some(at) = stage {
        if let Some(request) = board.request(of, &relay, at) {
            let once_us = slot_us_max(&request, &once);
            sum_us += once_us;
            longest_us = once_us.max(longest_us);
            if matches!(at, Stage::Off(_) | Stage::On(_)) {
                writes_us += once_us;
            }
        }
        stage = board.behind(at);
    }
    let retries = u64::from(settings.retries);
    let slot_us = sum_us + longest_us * retries;
    (slot_us, slot_us + writes_us * retries)
}
