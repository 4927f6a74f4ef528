//! Custody, the node's side: what is in the ring goes to the gateway, and stays until the gateway
//! says that it is kept for good.
//!
//! It owns the conversation: session, receipts, clock anchors, resending. It deliberately knows no
//! transport (a closure takes what is to be published and may refuse it), and what a broker has
//! acknowledged means nothing here: only a receipt releases.

use embedded_storage::nor_flash::NorFlash;
use telemetry::limits::{
    ANCHORS_MAX, CLOCK_ROUND_TRIP_MS_MAX, CONTROL_BYTES_MAX, RECORD_BYTES_MAX, REPORT_BYTES_MAX, SESSION_RENEWAL_MS,
    UNRECEIPTED_RECORDS_MAX,
};
use telemetry::mac::Key;
use telemetry::record::{Event, EventCode};
use telemetry::report::ReportWriter;
use telemetry::session::{Anchor, Command, Nonce, Open, Ready, Receipt, Session as Message};
use telemetry::topic::{Down, Up};
use telemetry::{NodeName, Record};

use crate::random::Random;
use crate::ring::{Ring, RingError};

/// First patience with a gateway that does not answer, ms.
pub const BACK_OFF_MS_MIN: u64 = 5_000;
/// Longest patience, ms; up to a quarter more is added, so that a hundred nodes do not come at once.
pub const BACK_OFF_MS_MAX: u64 = 60_000;
/// How long a session lasts while UTC is not known, ms: the first answer after a modem has woken is
/// often too late to tell the time by, and a gateway may learn it after its nodes have come.
pub const CLOCKLESS_RENEWAL_MS: u64 = 120_000;
/// Pause after the host could not take a message, ms.
const REFUSED_MS: u64 = 500;
/// Records of one report that are looked at again when they read as missing: a glitch on the
/// flash's bus must not be told as a loss, and a long run of missing ones is no glitch.
const SECOND_LOOKS: u8 = 8;
/// Records looked through for clock anchors in one poll.
const SCAN_STEP: u32 = 64;

/// How eagerly records travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A report is cut when so many records wait, 1–256.
    pub batch_records: u16,
    /// Or when the first of them has waited so long, ms.
    pub hold_ms: u64,
}

/// What happened in the conversation, counted since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions opened.
    pub sessions: u32,
    /// Reports sent.
    pub reports: u32,
    /// Bytes of them.
    pub report_bytes: u64,
    /// Records sent again.
    pub resent: u32,
    /// Records named although unreadable.
    pub gone: u32,
    /// Messages that were sealed for nobody, or for another node.
    pub forged: u32,
    /// Messages of the session before.
    pub stale: u32,
    /// Times nothing came in time.
    pub timeouts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No link, or not yet time to try.
    Closed,
    /// Waiting for the receipt that answers.
    Opening { nonce: Nonce, sent_ms: u64 },
    /// Under way; `told` once the anchors are.
    Delivering { nonce: Nonce, opened_ms: u64, told: bool },
}

/// What a receipt meant, beyond releasing records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The clock became known: keep this event.
    pub clock: Option<Event>,
    /// The gateway has records up to here, which this ring never gave names to.
    pub beyond: Option<u32>,
}

/// The node's side of custody.
pub struct Session {
    node: NodeName,
    key: Key,
    seed: u64,
    random: Random,
    boot: u16,
    drift_ppm: u16,
    pace: Pace,
    linked: bool,
    state: State,
    before: Option<Nonce>,
    nonces: u32,
    commands: Option<u32>,
    /// The gateway has everything before this, as far as is known since boot.
    released: Option<u32>,
    sent: u32,
    sent_most: u32,
    back_off_ms: u64,
    deadline_ms: Option<u64>,
    not_before_ms: u64,
    waiting_since_ms: Option<u64>,
    urgent_before: u32,
    told_floor: u32,
    scanned: Option<u32>,
    older: heapless::Deque<Anchor, { ANCHORS_MAX - 1 }>,
    current: Option<Anchor>,
    kept: Option<Anchor>,
    counters: Counters,
}

/// Without key and seed: whoever knows both knows the nonces to come.
impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("node", &self.node)
            .field("boot", &self.boot)
            .field("linked", &self.linked)
            .field("open", &self.is_open())
            .field("released", &self.released)
            .field("sent", &self.sent)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// For `boot`, with the host's random `seed` (64 unpredictable bits).
    pub fn new(node: NodeName, key: Key, boot: u16, drift_ppm: u16, pace: Pace, seed: u64) -> Self {
        Self {
            node,
            key,
            seed,
            random: Random::new(seed),
            boot,
            drift_ppm,
            pace,
            linked: false,
            state: State::Closed,
            before: None,
            nonces: 0,
            commands: None,
            released: None,
            sent: 0,
            sent_most: 0,
            back_off_ms: BACK_OFF_MS_MIN,
            deadline_ms: None,
            not_before_ms: 0,
            waiting_since_ms: None,
            urgent_before: 0,
            told_floor: 0,
            scanned: None,
            older: heapless::Deque::new(),
            current: None,
            kept: None,
            counters: Counters::default(),
        }
    }

    /// What was counted since boot.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The gateway has everything before this; `None` before the first receipt of this boot.
    pub fn released(&self) -> Option<u32> {
        self.released
    }

    /// The clock's anchor of this boot, once known.
    pub fn clock(&self) -> Option<Anchor> {
        self.current
    }

    /// Whether the gateway has answered this session.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Delivering { .. })
    }

    /// The link is there and the down topics are subscribed.
    pub fn connected(&mut self, now_ms: u64) {
        self.linked = true;
        self.retire();
        self.deadline_ms = None;
        self.not_before_ms = now_ms;
    }

    /// The link is gone.
    pub fn disconnected(&mut self) {
        self.linked = false;
        self.retire();
        self.deadline_ms = None;
    }

    /// The records before `seq` shall travel without waiting for company.
    pub fn hurry(&mut self, before_seq: u32) {
        self.urgent_before = self.urgent_before.max(before_seq);
    }

    /// Another pace, from a new config.
    pub fn set_pace(&mut self, pace: Pace, drift_ppm: u16) {
        self.pace = pace;
        self.drift_ppm = drift_ppm;
    }

    /// Opens a new session at the next poll, because the gateway asked.
    pub fn reopen(&mut self) {
        self.retire();
        self.deadline_ms = None;
    }

    /// A receipt came.
    pub fn receipt(&mut self, sealed: &[u8], now_ms: u64, ring: u32, next_seq: u32) -> Heard {
        let mut heard = Heard::default();
        let Some(body) = self.open_sealed(Down::Receipt, sealed) else { return heard };
        let Ok(receipt) = Receipt::decode(body) else {
            self.counters.forged += 1;
            return heard;
        };
        if receipt.ring != ring {
            self.counters.stale += 1;
            return heard;
        }
        match self.state {
            State::Closed => {}
            State::Opening { nonce, sent_ms } => {
                heard.clock = receipt.utc_ms.and_then(|utc_ms| self.set_clock(utc_ms, sent_ms, now_ms));
                self.state = State::Delivering { nonce, opened_ms: now_ms, told: false };
                if self.released.is_none_or(|released| released < receipt.next) {
                    self.back_off_ms = BACK_OFF_MS_MIN;
                }
                self.released = Some(receipt.next);
                self.sent = receipt.next;
                self.deadline_ms = None;
            }
            State::Delivering { .. } => {
                if self.released.is_some_and(|released| receipt.next <= released) {
                    return heard;
                }
                self.released = Some(receipt.next);
                self.sent = self.sent.max(receipt.next);
                self.back_off_ms = BACK_OFF_MS_MIN;
                self.deadline_ms = (self.sent > receipt.next).then(|| now_ms + self.random.jittered(self.back_off_ms));
            }
        }
        heard.beyond = (receipt.next > next_seq).then_some(receipt.next);
        heard
    }

    /// A command came: what it orders, if it is for this session, new, and still to be obeyed.
    pub fn command(&mut self, sealed: &[u8], now_ms: u64) -> Option<Command> {
        let body = self.open_sealed(Down::Command, sealed)?;
        let Ok(command) = Command::decode(body) else {
            self.counters.forged += 1;
            return None;
        };
        if now_ms > command.not_after_ms || self.commands.is_some_and(|last| command.counter <= last) {
            self.counters.stale += 1;
            return None;
        }
        self.commands = Some(command.counter);
        Some(command)
    }

    /// The body of a message sealed for this node and session; else it is counted.
    pub fn open_sealed<'b>(&mut self, kind: Down, sealed: &'b [u8]) -> Option<&'b [u8]> {
        let current = match self.state {
            State::Opening { nonce, .. } | State::Delivering { nonce, .. } => Some(nonce),
            State::Closed => None,
        };
        if let Some(body) = current.and_then(|nonce| self.key.open(&self.node, kind, nonce, sealed).ok()) {
            return Some(body);
        }
        let stale = self.before.is_some_and(|nonce| self.key.open(&self.node, kind, nonce, sealed).is_ok());
        if stale {
            self.counters.stale += 1;
        } else {
            self.counters.forged += 1;
        }
        None
    }

    /// Moves the conversation on; when to come again, in ms since boot.
    pub fn poll<F: NorFlash>(
        &mut self,
        now_ms: u64,
        ring: &mut Ring<F>,
        publish: &mut impl FnMut(Up, &[u8]) -> bool,
    ) -> Result<Option<u64>, RingError<F::Error>> {
        if !self.scan(ring)? {
            return Ok(Some(now_ms));
        }
        if !self.linked {
            return Ok(None);
        }
        if now_ms < self.not_before_ms {
            return Ok(Some(self.not_before_ms));
        }
        if self.deadline_ms.is_some_and(|deadline| now_ms >= deadline) {
            self.counters.timeouts += 1;
            self.back_off_ms = (self.back_off_ms * 2).min(BACK_OFF_MS_MAX);
            self.retire();
        }
        if let State::Delivering { opened_ms, .. } = self.state
            && (now_ms.saturating_sub(opened_ms) >= self.lasts_ms()
                || self.sent < ring.floor() && self.told_floor < ring.floor())
        {
            // Time for a fresh clock; or what is asked for was overwritten, and the gateway has to
            // hear of the new floor.
            self.retire();
        }
        match self.state {
            State::Closed => {
                if !self.open(now_ms, ring, publish) {
                    return Ok(Some(self.refused(now_ms)));
                }
            }
            State::Opening { .. } => {}
            State::Delivering { nonce, opened_ms, told } => {
                if !told {
                    if !self.tell(nonce, ring.id(), publish) {
                        return Ok(Some(self.refused(now_ms)));
                    }
                    self.state = State::Delivering { nonce, opened_ms, told: true };
                }
                return self.deliver(now_ms, ring, publish);
            }
        }
        Ok(self.deadline_ms)
    }

    fn lasts_ms(&self) -> u64 {
        if self.current.is_some() { SESSION_RENEWAL_MS } else { CLOCKLESS_RENEWAL_MS }
    }

    fn refused(&mut self, now_ms: u64) -> u64 {
        self.not_before_ms = now_ms + REFUSED_MS;
        self.not_before_ms
    }

    fn retire(&mut self) {
        if let State::Opening { nonce, .. } | State::Delivering { nonce, .. } = self.state {
            self.before = Some(nonce);
        }
        self.state = State::Closed;
    }

    #[inline(never)]
    fn open<F: NorFlash>(&mut self, now_ms: u64, ring: &Ring<F>, publish: &mut impl FnMut(Up, &[u8]) -> bool) -> bool {
        let Some(nonce) = self.fresh_nonce() else { return false };
        let open = Open {
            nonce,
            ring: ring.id(),
            boot: self.boot,
            floor: ring.floor(),
            next: ring.next_seq(),
            mono_ms: now_ms,
        };
        let mut buffer = [0; CONTROL_BYTES_MAX];
        let sent = Message::Open(open).encode(&mut buffer).ok().and_then(|length| buffer.get(..length));
        if !sent.is_some_and(|bytes| publish(Up::Session, bytes)) {
            return false;
        }
        self.counters.sessions += 1;
        self.commands = None;
        self.told_floor = open.floor;
        self.state = State::Opening { nonce, sent_ms: now_ms };
        self.deadline_ms = Some(now_ms + self.random.jittered(self.back_off_ms));
        true
    }

    /// Eight bytes that nobody without the key can foresee, even having seen the ones before: a
    /// MAC over their number, under the node's key and the seed of this boot. No receipt looks
    /// like what is sealed here.
    #[inline(never)]
    fn fresh_nonce(&mut self) -> Option<Nonce> {
        self.nonces = self.nonces.wrapping_add(1);
        let mut buffer = [0; 64];
        let [a, b, c, d] = self.nonces.to_be_bytes();
        let [e, f] = self.boot.to_be_bytes();
        let seed = Nonce(self.seed.to_be_bytes());
        let length = self.key.seal(&self.node, Down::Config, seed, &[a, b, c, d, e, f], &mut buffer).ok()?;
        let tail = buffer.get(length.checked_sub(8)?..length)?;
        Some(Nonce(tail.try_into().ok()?))
    }

    #[inline(never)]
    fn tell(&self, nonce: Nonce, ring: u32, publish: &mut impl FnMut(Up, &[u8]) -> bool) -> bool {
        let mut anchors = heapless::Vec::new();
        for anchor in self.current.iter().chain(self.older.iter().rev()) {
            if anchors.push(*anchor).is_err() {
                break;
            }
        }
        let mut buffer = [0; CONTROL_BYTES_MAX];
        let ready = Message::Ready(Ready { nonce, ring, anchors });
        let bytes = ready.encode(&mut buffer).ok().and_then(|length| buffer.get(..length));
        bytes.is_some_and(|bytes| publish(Up::Session, bytes))
    }

    #[inline(never)]
    fn deliver<F: NorFlash>(
        &mut self,
        now_ms: u64,
        ring: &mut Ring<F>,
        publish: &mut impl FnMut(Up, &[u8]) -> bool,
    ) -> Result<Option<u64>, RingError<F::Error>> {
        let next = ring.next_seq();
        let released = self.released.unwrap_or(self.sent);
        let window = released.saturating_add(UNRECEIPTED_RECORDS_MAX);
        let mut buffer = [0; REPORT_BYTES_MAX];
        // Each pass sends at least one record, and no more than the window may be under way.
        while self.sent < next.min(window) {
            let since = *self.waiting_since_ms.get_or_insert(now_ms);
            let due = next - self.sent >= u32::from(self.pace.batch_records)
                || self.sent < self.urgent_before
                || now_ms >= since + self.pace.hold_ms;
            if !due {
                break;
            }
            let Some((length, count)) = self.cut(now_ms, ring, next.min(window), &mut buffer)? else {
                return Ok(Some(self.refused(now_ms)));
            };
            if !buffer.get(..length).is_some_and(|bytes| publish(Up::Report, bytes)) {
                return Ok(Some(self.refused(now_ms)));
            }
            self.counters.reports += 1;
            self.counters.report_bytes += length as u64;
            self.counters.resent += self.sent_most.saturating_sub(self.sent).min(count);
            self.sent += count;
            self.sent_most = self.sent_most.max(self.sent);
            if self.deadline_ms.is_none() {
                self.deadline_ms = Some(now_ms + self.random.jittered(self.back_off_ms));
            }
        }
        if self.sent >= next {
            self.waiting_since_ms = None;
        }
        let hold = self.waiting_since_ms.filter(|_| self.sent < window).map(|since| since + self.pace.hold_ms);
        Ok([self.deadline_ms, hold].into_iter().flatten().min())
    }

    /// Cuts a report of one boot from `sent` on: its length and how many records are in it.
    #[inline(never)]
    fn cut<F: NorFlash>(
        &mut self,
        now_ms: u64,
        ring: &mut Ring<F>,
        end: u32,
        buffer: &mut [u8; REPORT_BYTES_MAX],
    ) -> Result<Option<(usize, u32)>, RingError<F::Error>> {
        let mut record = Record::Gone;
        // What is gone belongs to no boot; the first that can be read decides.
        let mut boot = self.boot;
        for seq in self.sent..end {
            if let Some(of) = read(ring, seq, &mut record)? {
                boot = of;
                break;
            }
        }
        let mut writer = ReportWriter::new(buffer, ring.id(), self.sent, boot, now_ms);
        let mut looks = SECOND_LOOKS;
        for seq in self.sent..end {
            let mut of = read(ring, seq, &mut record)?;
            if of.is_none() && looks > 0 {
                looks -= 1;
                of = read(ring, seq, &mut record)?;
            }
            if of.is_some_and(|of| of != boot) {
                break;
            }
            if writer.push(&record).is_err() {
                // What no report can hold must not stop what comes behind it.
                if writer.count() > 0 || writer.push(&Record::Gone).is_err() {
                    break;
                }
                self.counters.gone += 1;
            } else if matches!(record, Record::Gone) {
                self.counters.gone += 1;
            }
        }
        let count = writer.count();
        if count == 0 {
            return Ok(None);
        }
        Ok(writer.finish().ok().map(|length| (length, count)))
    }

    /// The anchor that a round trip gives, and the event that keeps it, if it says something new.
    fn set_clock(&mut self, utc_ms: i64, sent_ms: u64, now_ms: u64) -> Option<Event> {
        let trip_ms = now_ms.saturating_sub(sent_ms);
        if trip_ms > u64::from(CLOCK_ROUND_TRIP_MS_MAX) {
            return None;
        }
        // The answer was written at some instant between; one more for the clocks' own steps.
        let error_ms = u32::try_from(trip_ms.div_ceil(2)).unwrap_or(u32::MAX).saturating_add(1);
        let anchor =
            Anchor { boot: self.boot, mono_ms: sent_ms + trip_ms / 2, utc_ms, error_ms, drift_ppm: self.drift_ppm };
        self.current = Some(anchor);
        let news = self.kept.is_none_or(|kept| {
            let apart_ms = anchor.mono_ms.saturating_sub(kept.mono_ms);
            let drift_ms = apart_ms.saturating_mul(u64::from(self.drift_ppm)) / 1_000_000;
            let expected = kept.utc_ms.saturating_add_unsigned(apart_ms);
            let bound = u64::from(kept.error_ms) + u64::from(error_ms) + drift_ms;
            apart_ms >= SESSION_RENEWAL_MS || utc_ms.abs_diff(expected) > bound
        });
        if !news {
            return None;
        }
        self.kept = Some(anchor);
        Some(Event {
            t_ms: now_ms,
            code: EventCode::ClockSet,
            subject: 0,
            value: utc_ms.saturating_add_unsigned(now_ms - anchor.mono_ms),
            detail: i64::from(error_ms),
        })
    }

    /// Looks through what earlier boots left for their anchors, a step at a time; whether done.
    #[inline(never)]
    fn scan<F: NorFlash>(&mut self, ring: &mut Ring<F>) -> Result<bool, RingError<F::Error>> {
        let from = self.scanned.unwrap_or(0).max(ring.floor());
        let to = ring.next_seq().min(from.saturating_add(SCAN_STEP));
        if self.scanned == Some(u32::MAX) {
            return Ok(true);
        }
        let mut record = Record::Gone;
        for seq in from..to {
            let boot = read(ring, seq, &mut record)?;
            self.scanned = Some(seq + 1);
            let Some(boot) = boot else { continue };
            if boot == self.boot {
                self.scanned = Some(u32::MAX);
                return Ok(true);
            }
            if let Record::Event(Event { t_ms, code: EventCode::ClockSet, value, detail, .. }) = record {
                let error_ms = u32::try_from(detail).unwrap_or(u32::MAX);
                let anchor = Anchor { boot, mono_ms: t_ms, utc_ms: value, error_ms, drift_ppm: self.drift_ppm };
                if self.older.back().is_some_and(|last| last.boot == boot) {
                    self.older.pop_back();
                } else if self.older.is_full() {
                    self.older.pop_front();
                }
                // There is room: one was taken out, or it was not full.
                let _fits = self.older.push_back(anchor);
            }
        }
        if to == ring.next_seq() {
            self.scanned = Some(u32::MAX);
        }
        Ok(self.scanned == Some(u32::MAX))
    }
}

/// Reads a record and its boot; what cannot be read is [`Record::Gone`].
#[inline(never)]
pub(crate) fn read<F: NorFlash>(
    ring: &mut Ring<F>,
    seq: u32,
    record: &mut Record,
) -> Result<Option<u16>, RingError<F::Error>> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let boot = ring.read(seq, &mut bytes)?.and_then(|bytes| record.decode_from(bytes).ok());
    if boot.is_none() {
        *record = Record::Gone;
    }
    Ok(boot)
}
