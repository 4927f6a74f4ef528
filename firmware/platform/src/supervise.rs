//! Whether the node may go on: what feeds the watchdog, and what a part that stands still costs.
//!
//! - The watchdog is fed by the loop that controls, and only while rounds come in time: a dead probe's
//!   time-out is an attempt and ends a round as well. A loop that hangs feeds nothing.
//! - A network half that does not go on is restarted with the processor, at most [`RESETS_MAX`]
//!   times in a row; then the node goes on without it. Each step of the network half has a time
//!   limit and is tried again, so this means that something in it hangs.
//! - A flash in the middle of whose operation the watchdog bit [`RESETS_MAX`] times in a row is left
//!   alone: control and live values without a ring. One that fails without hanging costs no reset
//!   ([`crate::flash`]).

use embassy_time::Duration;

use crate::kept::{Asked, Before};

/// The watchdog is fed at least so often.
pub const FEED_EVERY: Duration = Duration::from_secs(1);
/// It bites when it is not fed for so long. The erase of a large sector fits: 4 s for 256 KB on an
/// STM32F7 (datasheet DS11532, table 49).
pub const BITES_AFTER: Duration = Duration::from_secs(8);
/// Resets in a row because of the same part.
pub const RESETS_MAX: u8 = 3;
/// The network half goes on at least so often: its longest step is the wait for a link.
pub const NETWORK_WITHIN_MS: u64 = 5 * 60_000;
/// A part that has been fine for so long has its resets forgotten.
pub const FINE_AFTER_MS: u64 = 10 * 60_000;
/// What a round may be late beyond its period, ms: a poll that meets an erase.
const LATE_MS: u64 = 10_000;

/// How a node runs, when not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Degraded {
    /// Without its ring: the flash hangs.
    pub storage: bool,
    /// Without network: it hangs.
    pub network: bool,
}

impl Degraded {
    /// What the resets before this boot say.
    pub const fn after(before: &Before) -> Self {
        Self { storage: before.flash_resets >= RESETS_MAX, network: before.network_resets >= RESETS_MAX }
    }
}

/// What has been seen to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Rounds since boot, and the period of the config that runs, s; `None` while there is no config.
    pub rounds: Option<(u32, u16)>,
    /// The network half's beats; `None` where it does not run.
    pub network: Option<u32>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Feed the watchdog.
    Feed,
    /// Note this and reset.
    Reset(Asked),
}

/// Something that must move, and when it last did.
#[derive(Clone, Copy, Debug)]
struct Mark {
    value: u32,
    moved_ms: u64,
}

impl Mark {
    const fn new(now_ms: u64) -> Self {
        Self { value: 0, moved_ms: now_ms }
    }

    /// How long it has stood still.
    fn look(&mut self, value: u32, now_ms: u64) -> u64 {
        if value != self.value {
            (self.value, self.moved_ms) = (value, now_ms);
        }
        now_ms.saturating_sub(self.moved_ms)
    }
}

/// The supervisor.
#[derive(Clone, Debug)]
pub struct Supervisor {
    rounds: Mark,
    period_s: Option<u16>,
    network: Mark,
    began_ms: u64,
    fine: bool,
}

impl Supervisor {
    /// One that begins to look at `now_ms`.
    pub const fn new(now_ms: u64) -> Self {
        Self { rounds: Mark::new(now_ms), period_s: None, network: Mark::new(now_ms), began_ms: now_ms, fine: false }
    }

    /// Looks; call it at least every [`FEED_EVERY`].
    pub fn look(&mut self, signs: &Signs, now_ms: u64) -> Verdict {
        if let Some((rounds, period_s)) = signs.rounds {
            // Another config may have another period: its first round has all the time of that.
            if self.period_s != Some(period_s) {
                (self.period_s, self.rounds.moved_ms) = (Some(period_s), now_ms);
            }
            // A round begins each period and is over before the next (the config is refused otherwise).
            if self.rounds.look(rounds, now_ms) > 2_000 * u64::from(period_s) + LATE_MS {
                return Verdict::Reset(Asked::Sampling);
            }
        }
        if let Some(beats) = signs.network
            && self.network.look(beats, now_ms) > NETWORK_WITHIN_MS
        {
            return Verdict::Reset(Asked::Network);
        }
        Verdict::Feed
    }

    /// Says once, after a good while, that all has been fine: the resets may be forgotten.
    pub fn has_been_fine(&mut self, now_ms: u64) -> bool {
        let first = !self.fine && now_ms.saturating_sub(self.began_ms) >= FINE_AFTER_MS;
        self.fine |= first;
        first
    }
}

#[cfg(test)]
mod tests {
    use node::RestartCause;

    use super::*;
    use crate::kept::{Kept, Stage};

    const PERIOD_S: u16 = 10;

    fn signs(rounds: u32, beats: u32) -> Signs {
        Signs { rounds: Some((rounds, PERIOD_S)), network: Some(beats) }
    }

    /// Looks each second for so long; the verdict at its end.
    fn watch(supervisor: &mut Supervisor, from_s: u64, for_s: u64, signs: impl Fn(u64) -> Signs) -> (u64, Verdict) {
        for s in from_s..from_s + for_s {
            let verdict = supervisor.look(&signs(s), s * 1_000);
            if verdict != Verdict::Feed {
                return (s, verdict);
            }
        }
        (from_s + for_s, Verdict::Feed)
    }

    #[test]
    fn the_watchdog_is_fed_while_rounds_come_and_not_when_they_stop() {
        let mut supervisor = Supervisor::new(0);
        let going = |s: u64| signs((s / u64::from(PERIOD_S)) as u32, s as u32);
        assert_eq!(watch(&mut supervisor, 0, 3_600, going).1, Verdict::Feed);
        let (at, verdict) = watch(&mut supervisor, 3_600, 3_600, |s| signs(360, s as u32));
        assert_eq!(verdict, Verdict::Reset(Asked::Sampling));
        let silent_s = at - 3_600;
        assert!((20..=31).contains(&silent_s), "after two periods and ten seconds: {silent_s} s");
    }

    #[test]
    fn a_long_period_is_given_its_time_and_a_new_config_begins_anew() {
        let mut supervisor = Supervisor::new(0);
        let slow = |_| Signs { rounds: Some((1, 3_600)), network: None };
        assert_eq!(watch(&mut supervisor, 0, 7_200, slow).1, Verdict::Feed);
        let quick = |_| Signs { rounds: Some((1, PERIOD_S)), network: None };
        let (at, verdict) = watch(&mut supervisor, 7_200, 3_600, quick);
        assert_eq!(verdict, Verdict::Reset(Asked::Sampling));
        assert_eq!(at, 7_200 + 31, "two periods and ten seconds after it was taken on");
    }

    #[test]
    fn a_node_without_config_or_network_is_fed() {
        let mut supervisor = Supervisor::new(0);
        let nothing = |_| Signs { rounds: None, network: None };
        assert_eq!(watch(&mut supervisor, 0, 86_400, nothing).1, Verdict::Feed);
    }

    #[test]
    fn a_network_half_that_hangs_costs_three_resets_and_then_the_node_goes_on_without_it() {
        let kept = Kept::new();
        let mut before = kept.begin(RestartCause::Power);
        for reset in 1..=RESETS_MAX {
            assert!(!Degraded::after(&before).network);
            let mut supervisor = Supervisor::new(0);
            let (at, verdict) = watch(&mut supervisor, 0, 3_600, |s| signs(s as u32, 7));
            assert_eq!(verdict, Verdict::Reset(Asked::Network));
            assert_eq!(at * 1_000, NETWORK_WITHIN_MS + 1_000);
            kept.note_reset(Asked::Network);
            before = kept.begin(RestartCause::Software);
            assert_eq!(before.network_resets, reset);
        }
        let degraded = Degraded::after(&before);
        assert!(degraded.network && !degraded.storage);
        let mut supervisor = Supervisor::new(0);
        let alone = |s| Signs { network: None, ..signs(s as u32, 7) };
        assert_eq!(watch(&mut supervisor, 0, 3_600, alone).1, Verdict::Feed);
    }

    #[test]
    fn a_flash_that_hangs_costs_three_resets_and_then_the_ring() {
        let kept = Kept::new();
        kept.begin(RestartCause::Power);
        for _ in 0..RESETS_MAX {
            kept.enter(Stage::Flash);
            kept.begin(RestartCause::Watchdog);
        }
        kept.enter(Stage::Run);
        assert!(Degraded::after(&kept.begin(RestartCause::Software)).storage);
    }

    #[test]
    fn resets_are_forgotten_once_after_a_good_while() {
        let mut supervisor = Supervisor::new(5_000);
        assert!(!supervisor.has_been_fine(FINE_AFTER_MS));
        assert!(supervisor.has_been_fine(5_000 + FINE_AFTER_MS));
        assert!(!supervisor.has_been_fine(5_000 + 2 * FINE_AFTER_MS));
    }
}
