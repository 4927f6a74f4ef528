//! What becomes of records: each dated, placed and judged, or the whole lot held with the reason.
//! Pure: the node's state goes in and comes out changed, effects are elsewhere.

use metrics::counter;
use telemetry::NodeName;
use telemetry::limits::RECORD_BYTES_MAX;
use telemetry::record::Record;
use telemetry::report::Envelope;

use super::dating::{self, Before, Date};
use super::held::{Dates, Reason};
use super::judge::{self, Boards};
use super::place::{self, Places};
use super::window::{Code, Node, Recent};
use crate::entry::{Accepted, Content, Dated, cbor};
use crate::registry::Registry;

/// A record may be dated this far ahead of the gateway's clock.
const FUTURE_MS_MAX: i64 = 60_000;

/// Where records come from; with an index, from the held log.
pub(super) enum Origin<'a> {
    /// They have just arrived; their digests.
    Arrived(&'a [u32]),
    /// They waited for a date, and it is their turn: nothing behind them has one yet.
    InTurn(u64),
    /// They waited although their dates were fixed.
    Fixed(u64, &'a [(i64, u64)]),
    /// They could not be read when they arrived, behind this record; others have passed them since.
    Late(u64, Before),
}

/// Records to be decided about, and what the decision goes by.
pub(super) struct Case<'a> {
    pub(super) registry: &'a Registry,
    pub(super) boards: &'a Boards,
    pub(super) node: &'a NodeName,
    pub(super) envelope: Envelope,
    /// Seq of the first of `records`.
    pub(super) first: u32,
    pub(super) records: &'a [Record],
    pub(super) origin: Origin<'a>,
    /// When they arrived, or are looked at again, by the gateway's clock.
    pub(super) now_ms: i64,
}

/// What is to be done with them.
pub(super) enum Decision {
    /// Into the spool.
    Accept(Accepted),
    /// Into the held log, with their dates as far as they could be fixed.
    Hold(Reason, Dates),
}

impl Case<'_> {
    /// Decides, and takes the records into `state`. When they are to be held, `state` is spoilt.
    pub(super) fn decide(&self, state: &mut Node) -> Decision {
        let envelope = self.envelope;
        let dates = match self.dates(state) {
            Ok(dates) => dates,
            Err((reason, dates)) => return Decision::Hold(reason, dates),
        };
        let Some(ring) = state.ring_mut(envelope.ring) else { return Decision::Hold(Reason::Undated, Vec::new()) };
        let mut places = Places::default();
        let mut out = Vec::with_capacity(self.records.len());
        let mut t_ms = ring.before.t_ms;
        for ((record, date), seq) in self.records.iter().zip(&dates).zip(self.first..) {
            t_ms = record.t_ms().unwrap_or(t_ms);
            let content = match record {
                Record::Round(round) => {
                    let description = ring.descriptions.get(&round.config).map(|d| &**d);
                    let node = self.node.as_str();
                    match place::round(self.registry, node, description, round, date.ms, &mut places) {
                        Ok(mut readings) => {
                            let (spreads, boards) = (&mut ring.spreads, self.boards);
                            judge::judge(&mut readings, &places.0, spreads, boards, self.registry, node, date.ms);
                            Content::Round { config: round.config, readings }
                        }
                        Err(reason) => return Decision::Hold(reason, told(&dates)),
                    }
                }
                Record::Event(event) => {
                    let home = self.registry.place(self.node.as_str(), None, date.ms);
                    Content::Event {
                        code: event.code.id(),
                        subject: event.subject,
                        value: event.value,
                        detail: event.detail,
                        place: home.and_then(|p| places.index(p)),
                    }
                }
                Record::Description(description) => {
                    ring.describe(description.clone());
                    let mut bytes = [0; RECORD_BYTES_MAX];
                    let length = record.encode(envelope.boot, &mut bytes).unwrap_or(0);
                    Content::Description(bytes[..length].to_vec())
                }
                // Counted already when the session told the floor that passed them.
                Record::Loss(loss) => Content::Loss(loss.first, loss.count, loss.cause),
                Record::Gone => {
                    ring.lost += 1;
                    Content::Gone
                }
            };
            out.push(Dated { seq, date_ms: date.ms, error_ms: date.error_ms, t_ms, content });
        }
        let (held, added) = match self.origin {
            Origin::Arrived(digests) => {
                for (digest, date) in digests.iter().zip(&dates) {
                    ring.push(Recent { digest: Some(*digest), date_ms: date.ms });
                }
                (None, digests.len())
            }
            Origin::InTurn(index) | Origin::Fixed(index, _) | Origin::Late(index, _) => (Some(index), 0),
        };
        if let (Origin::Arrived(_) | Origin::InTurn(_), Some(last)) = (&self.origin, dates.last()) {
            ring.before = Before { date_ms: last.ms, earliest_ms: last.earliest_ms, boot: envelope.boot, t_ms };
        }
        let Some(ring) = state.ring(envelope.ring) else { return Decision::Hold(Reason::Undated, Vec::new()) };
        let window = Code::of(self.node.as_str(), state, ring, added, false, false);
        Decision::Accept(Accepted {
            node: self.node.as_str().to_owned(),
            ring: envelope.ring,
            boot: envelope.boot,
            arrived_ms: self.now_ms,
            places: places.0,
            records: out,
            held,
            window: cbor(&window),
        })
    }

    /// A date for each record: fixed already, or by the ring's anchors, rising with seq.
    fn dates(&self, state: &Node) -> Result<Vec<Date>, (Reason, Dates)> {
        if let Origin::Fixed(_, fixed) = self.origin {
            let dates = fixed.iter().map(|(ms, error_ms)| Date::within(*ms, *error_ms));
            return Ok(dates.collect());
        }
        let undated = || (Reason::Undated, Vec::new());
        let ring = state.ring(self.envelope.ring).ok_or_else(undated)?;
        let boot = self.envelope.boot;
        let mut before = if let Origin::Late(_, before) = self.origin { before } else { ring.before };
        let mut dates = Vec::with_capacity(self.records.len());
        for record in self.records {
            let t_ms = record.t_ms().unwrap_or(before.t_ms);
            let date = dating::date(&ring.anchors, &before, boot, t_ms)
                .filter(|date| date.ms <= self.now_ms.saturating_add(FUTURE_MS_MAX))
                .ok_or_else(undated)?;
            before = Before { date_ms: date.ms, earliest_ms: date.earliest_ms, boot, t_ms };
            dates.push(date);
        }
        let others = || state.rings.iter().filter(|r| r.id != ring.id);
        if dates.iter().any(|date| others().any(|other| other.is_taken(date.ms))) {
            counter!("tianyu_clashes_total").increment(1);
            return Err((Reason::Clash, told(&dates)));
        }
        Ok(dates)
    }
}

fn told(dates: &[Date]) -> Dates {
    dates.iter().map(|date| (date.ms, date.error_ms)).collect()
}
