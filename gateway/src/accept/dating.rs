//! When a record was taken: from the node's own clock to UTC, with a bound of the error. Pure.
//!
//! A boot with an anchor (an instant at which node clock and UTC were known together) is dated by
//! the nearest one; the error grows with the stated drift. A boot that never knew UTC lies
//! between the last dated record and the start of the next boot that does: its records are placed
//! in order as early as they can have been, with the rest of that interval as their error.

use telemetry::session::Anchor;

use crate::clock::EARLIEST_MS;

/// How far an anchor may lie ahead of the gateway's own clock.
const AHEAD_MS_MAX: i64 = 60_000;
/// Nothing of this product was measured before 2020-01-01T00:00Z.
pub const PLAUSIBLE_FROM_MS: i64 = 1_577_836_800_000;

/// A date and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// UTC in milliseconds.
    pub ms: i64,
    /// Bound of the error in milliseconds.
    pub error_ms: u64,
    /// The earliest that it can have been; an estimate's bound often lies on its other side.
    pub earliest_ms: i64,
}

impl Date {
    /// A date that may be off as far on either side.
    pub fn within(ms: i64, error_ms: u64) -> Self {
        Self { ms, error_ms, earliest_ms: ms.saturating_sub_unsigned(error_ms) }
    }
}

/// What dating goes by besides the anchors: the newest record dated so far in the same ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Its date; 0 if there is none.
    pub date_ms: i64,
    /// The earliest that it can have been.
    pub earliest_ms: i64,
    /// Its boot.
    pub boot: u16,
    /// Its time since that boot.
    pub t_ms: u64,
}

/// Whether an anchor can be believed by a gateway whose clock shows `now_ms`.
pub fn believable(anchor: &Anchor, now_ms: i64) -> bool {
    let start = i64::try_from(anchor.mono_ms).ok().and_then(|mono| anchor.utc_ms.checked_sub(mono));
    anchor.utc_ms >= EARLIEST_MS.min(PLAUSIBLE_FROM_MS)
        && anchor.utc_ms <= now_ms.saturating_add(AHEAD_MS_MAX)
        && start.is_some_and(|start| start >= PLAUSIBLE_FROM_MS)
}

/// How many boots `of` lies behind `from`; negative when before it. Boot numbers wrap.
pub fn boots_between(from: u16, of: u16) -> i16 {
    of.wrapping_sub(from).cast_signed()
}

fn by_anchor(anchor: &Anchor, t_ms: u64) -> Option<Date> {
    let away = i64::try_from(i128::from(t_ms) - i128::from(anchor.mono_ms)).ok()?;
    let drift = drift(away.unsigned_abs(), anchor.drift_ppm);
    let ms = anchor.utc_ms.checked_add(away)?;
    (ms >= PLAUSIBLE_FROM_MS).then(|| Date::within(ms, u64::from(anchor.error_ms) + drift))
}

/// How far a clock can have gone wrong in this time.
fn drift(ms: u64, ppm: u16) -> u64 {
    ms / 1_000_000 * u64::from(ppm) + ms % 1_000_000 * u64::from(ppm) / 1_000_000
}

/// The date of a record at `t_ms` of `boot`; `None` while it cannot be told.
pub fn date(anchors: &[Anchor], before: &Before, boot: u16, t_ms: u64) -> Option<Date> {
    let own = anchors.iter().filter(|a| a.boot == boot).min_by_key(|a| a.mono_ms.abs_diff(t_ms));
    let date = match own {
        Some(anchor) => by_anchor(anchor, t_ms)?,
        None => estimate(anchors, before, boot, t_ms)?,
    };
    // Time rises with seq; where clocks disagree by less than their errors, order wins.
    let least = before.date_ms.saturating_add(i64::from(before.date_ms != 0));
    if date.ms >= least {
        return Some(date);
    }
    Some(Date { ms: least, error_ms: date.error_ms.saturating_add(least.abs_diff(date.ms)), ..date })
}

fn estimate(anchors: &[Anchor], before: &Before, boot: u16, t_ms: u64) -> Option<Date> {
    // The next boot that knows UTC began after everything of this one.
    let later = anchors
        .iter()
        .filter(|a| boots_between(boot, a.boot) > 0)
        .min_by_key(|a| (boots_between(boot, a.boot), a.mono_ms))?;
    let latest = by_anchor(later, 0)?;
    let passed = if before.boot == boot { t_ms.saturating_sub(before.t_ms) } else { t_ms };
    let last = latest.ms.checked_sub(1)?;
    let (ms, earliest_ms) = match before.date_ms {
        // Nothing is known from before: the latest it can have been, and no bound but plausibility.
        0 => (last, PLAUSIBLE_FROM_MS),
        // What is before may itself be an estimate, placed later than it was; and a fast clock says
        // that more has passed than has.
        date_ms => (
            date_ms.checked_add(i64::try_from(passed.max(1)).ok()?)?.min(last),
            before.earliest_ms.checked_add(i64::try_from(passed - drift(passed, later.drift_ppm)).ok()?)?,
        ),
    };
    let earliest_ms = earliest_ms.min(ms);
    let error_ms = (latest.ms.abs_diff(ms) + latest.error_ms).max(ms.abs_diff(earliest_ms));
    Some(Date { ms, error_ms, earliest_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_000_000_000;

    fn anchor(boot: u16, mono_ms: u64, utc_ms: i64) -> Anchor {
        Anchor { boot, mono_ms, utc_ms, error_ms: 50, drift_ppm: 40 }
    }

    #[test]
    fn a_synced_boot_is_dated_within_its_drift() {
        let day = 86_400_000;
        let anchors = [anchor(3, day, NOON)];
        let date = date(&anchors, &Before::default(), 3, 0).unwrap();
        assert_eq!(date, Date::within(NOON - 86_400_000, 50 + 3456));
    }

    #[test]
    fn the_nearest_anchor_decides() {
        let anchors = [anchor(3, 0, NOON), anchor(3, 1_000_000, NOON + 1_000_040)];
        assert_eq!(date(&anchors, &Before::default(), 3, 900_000).unwrap().ms, NOON + 900_040);
    }

    #[test]
    fn boots_that_never_knew_the_time_lie_in_order_between_those_that_did() {
        // Boot 4 ended at NOON; boots 5 and 6 never synced; boot 7 began two days later.
        let anchors = [anchor(4, 0, NOON), anchor(7, 5_000, NOON + 2 * 86_400_000)];
        let start_of_7 = NOON + 2 * 86_400_000 - 5_000;
        let mut before = Before { date_ms: NOON, earliest_ms: NOON, boot: 4, t_ms: 0 };
        for (boot, t_ms) in [(5, 1_000), (5, 61_000), (6, 1_000), (6, 3_600_000)] {
            let d = date(&anchors, &before, boot, t_ms).unwrap();
            assert!(d.ms > before.date_ms && d.ms < start_of_7, "{boot} {t_ms}");
            let covers = |ms: i64| ms.abs_diff(d.ms) <= d.error_ms;
            assert!(covers(start_of_7 - 1), "the bound reaches the start of the next known boot");
            before = Before { date_ms: d.ms, earliest_ms: d.earliest_ms, boot, t_ms };
        }
        assert_eq!(before.date_ms, NOON + 61_000 + 3_600_000);
    }

    /// Dates records of boot 1 at these times, the boot having begun at `began_ms`, and checks each
    /// against the truth: the node's clock is fast by 40 ppm.
    fn within_bounds(anchors: &[Anchor], mut before: Before, boot: u16, began_ms: i64, times: &[u64]) {
        for t_ms in times.iter().copied() {
            let true_ms = began_ms + (t_ms - t_ms * 40 / 1_000_000) as i64;
            let d = date(anchors, &before, boot, t_ms).unwrap();
            assert!(d.ms.abs_diff(true_ms) <= d.error_ms, "{t_ms}: {} off, {d:?}", d.ms.abs_diff(true_ms));
            before = Before { date_ms: d.ms, earliest_ms: d.earliest_ms, boot, t_ms };
        }
    }

    #[test]
    fn every_record_of_a_new_ring_that_never_knew_the_time_is_within_its_bound() {
        // Boot 1 of the ring ran for six hours without a clock; then boot 2 began, and knows it.
        let began_ms = NOON - 6 * 3_600_000;
        within_bounds(&[anchor(2, 0, NOON)], Before::default(), 1, began_ms, &[0, 1, 60_000, 3_600_000, 21_599_000]);
    }

    #[test]
    fn a_fast_clock_without_a_date_does_not_push_its_last_records_out_of_their_bounds() {
        // Boot 1 ended at NOON, boot 2 ran for a day without a clock, and boot 3 began at once.
        let day = 86_400_000;
        let anchors = [anchor(1, 0, NOON), anchor(3, 0, NOON + 86_400_000)];
        let before = Before { date_ms: NOON, earliest_ms: NOON - 50, boot: 1, t_ms: 0 };
        within_bounds(&anchors, before, 2, NOON, &[1_000, day / 2, day - 1_000, day + 1_000, day + 3_000]);
    }

    #[test]
    fn the_order_of_boots_survives_the_wrap_of_their_number() {
        let anchors = [anchor(u16::MAX - 1, 0, NOON), anchor(1, 5_000, NOON + 3_600_000)];
        let before = Before { date_ms: NOON, earliest_ms: NOON, boot: u16::MAX - 1, t_ms: 0 };
        let last = date(&anchors, &before, u16::MAX, 1_000).unwrap();
        let first = date(
            &anchors,
            &Before { date_ms: last.ms, earliest_ms: last.earliest_ms, boot: u16::MAX, t_ms: 1_000 },
            0,
            2_000,
        )
        .unwrap();
        assert_eq!((last.ms, first.ms), (NOON + 1_000, NOON + 3_000));
    }

    #[test]
    fn without_a_later_boot_that_knows_the_time_there_is_no_date() {
        let anchors = [anchor(4, 0, NOON)];
        assert_eq!(date(&anchors, &Before { date_ms: NOON, earliest_ms: NOON, boot: 4, t_ms: 0 }, 5, 10), None);
        assert_eq!(date(&[], &Before::default(), 1, 10), None);
    }

    #[test]
    fn dates_rise_with_seq_even_when_a_new_anchor_disagrees() {
        let before = Before { date_ms: NOON + 1_000, earliest_ms: NOON + 950, boot: 3, t_ms: 900 };
        let d = date(&[anchor(3, 0, NOON)], &before, 3, 990).unwrap();
        assert_eq!((d.ms, d.error_ms), (NOON + 1_001, 50 + 11));
    }

    #[test]
    fn anchors_in_1970_in_the_future_or_before_their_own_boot_are_not_believed() {
        assert!(believable(&anchor(1, 1000, NOON), NOON));
        for wrong in [
            anchor(1, 0, 5_000),
            anchor(1, 0, 4_100_000_000_000),
            anchor(1, u64::MAX, NOON),
            anchor(1, 1_780_000_000_000, NOON),
        ] {
            assert!(!believable(&wrong, NOON), "{wrong:?}");
        }
    }
}
