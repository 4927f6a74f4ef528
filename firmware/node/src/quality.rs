//! QARTOD's tests on each value, in a state of constant size per channel: gap, gross range, rate,
//! spike and stuck (IOOS manuals, required and strongly recommended tests).
//!
//! What is tested is the value that control uses, after calibration. Nothing is ever filtered
//! away: a value keeps its number and gets a flag. Low oxygen is never implausible by itself.

use telemetry::property::Facts;
use telemetry::{Flag, Quality, Tests};

/// A sample later than so many periods after the one before has a gap in front of it.
const GAP_PERIODS: i64 = 3;

/// What is remembered of a channel. Times are in ms since boot; before it they are negative.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    last: f32,
    before: f32,
    rate_anchor: f32,
    stuck_anchor: f32,
    last_ms: i64,
    rate_ms: i64,
    stuck_ms: i64,
    /// Values remembered, at most 2; 0 = no anchors either.
    known: u8,
}

// A node has up to 32 of these in RAM.
const _: () = assert!(size_of::<History>() <= 64);

/// The limits a farm has narrowed or widened; `None` = the property's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Least plausible value, in the property's unit.
    pub min: Option<f32>,
    /// Greatest plausible value.
    pub max: Option<f32>,
}

impl History {
    /// Judges `value` of `t_ms`, which came with `tests` from its source, and remembers it.
    pub fn judge(
        &mut self,
        facts: &Facts,
        limits: &Limits,
        value: f32,
        t_ms: i64,
        period_ms: i64,
        tests: Tests,
    ) -> Quality {
        let mut tests = tests;
        if self.known > 0 && t_ms - self.last_ms > GAP_PERIODS * period_ms {
            // Only informs: the value itself is as good as any.
            tests = tests.with(Tests::GAP);
            self.known = self.known.min(1);
        }
        let (min, max) = (limits.min.unwrap_or(facts.min), limits.max.unwrap_or(facts.max));
        if !(min..=max).contains(&value) {
            // Nothing implausible becomes an anchor for what follows.
            return Quality::Present { flag: Flag::Fail, tests: tests.with(Tests::GROSS_RANGE) };
        }
        if facts.rate_max > 0.0 {
            tests = tests.with(self.rate(facts, value, t_ms)).with(self.spike(facts, value));
        }
        if facts.stuck_after_s > 0 {
            tests = tests.with(self.stuck(facts, value, t_ms));
        }
        self.before = if self.known > 0 { self.last } else { value };
        self.last = value;
        self.last_ms = t_ms;
        self.known = (self.known + 1).min(2);
        let informing = Tests::GAP.with(Tests::CONDITIONS).bits();
        let flag = if tests.bits() & !informing == 0 { Flag::Good } else { Flag::Suspect };
        Quality::Present { flag, tests }
    }

    /// The change since the beginning of the window.
    fn rate(&mut self, facts: &Facts, value: f32, t_ms: i64) -> Tests {
        let window_ms = i64::from(facts.rate_window_s) * 1_000;
        if self.known == 0 {
            (self.rate_anchor, self.rate_ms) = (value, t_ms);
            return Tests::NONE;
        }
        let passed_ms = t_ms - self.rate_ms;
        let windows = (passed_ms as f32 / window_ms as f32).max(1.0);
        let fired = (value - self.rate_anchor).abs() > facts.rate_max * windows;
        if fired || passed_ms >= window_ms {
            // After a step the new level is where the next change is counted from.
            (self.rate_anchor, self.rate_ms) = (value, t_ms);
        }
        if fired { Tests::RATE } else { Tests::NONE }
    }

    /// The two before agree with each other, and this one with neither. A record is never changed
    /// afterwards, so the newest is judged by those before, not the middle one of three.
    fn spike(&self, facts: &Facts, value: f32) -> Tests {
        let calm = self.known == 2 && (self.last - self.before).abs() <= facts.rate_max / 4.0;
        let middle = (self.last + self.before) / 2.0;
        if calm && (value - middle).abs() > facts.rate_max { Tests::SPIKE } else { Tests::NONE }
    }

    fn stuck(&mut self, facts: &Facts, value: f32, t_ms: i64) -> Tests {
        if self.known == 0 || (value - self.stuck_anchor).abs() > facts.stuck_band {
            (self.stuck_anchor, self.stuck_ms) = (value, t_ms);
        }
        let unchanged_ms = t_ms - self.stuck_ms;
        if unchanged_ms >= i64::from(facts.stuck_after_s) * 1_000 { Tests::STUCK } else { Tests::NONE }
    }

    /// Takes the stuck anchor over from a reading of an earlier boot: it was there `age_ms` before
    /// this one began. Readings come oldest first.
    pub fn recall(&mut self, facts: &Facts, value: f32, age_ms: i64) {
        if self.known == 0 || (value - self.stuck_anchor).abs() > facts.stuck_band {
            (self.stuck_anchor, self.stuck_ms) = (value, -age_ms);
        }
        // One value known: no spike or rate is judged over a restart by more than it knows.
        (self.last, self.before, self.last_ms) = (value, value, -age_ms);
        (self.rate_anchor, self.rate_ms) = (value, -age_ms);
        self.known = 1;
    }
}

/// The quality of a value that was computed from one of quality `input`, with what its own tests say.
pub fn from_input(own: Quality, input: Quality) -> Quality {
    match (own, input) {
        (Quality::Present { flag, tests }, Quality::Present { flag: of, .. }) if of.rank() > Flag::Good.rank() => {
            Quality::Present { flag: flag.rolled_up(of), tests: tests.with(Tests::INPUT) }
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telemetry::Property;

    const DO: &Facts = Property::DissolvedOxygen.facts();

    fn run(values: &[(i64, f32)]) -> (Flag, Tests) {
        let mut history = History::default();
        let mut last = (Flag::Missing, Tests::NONE);
        for (t_s, value) in values {
            let quality = history.judge(DO, &Limits::default(), *value, t_s * 1_000, 60_000, Tests::NONE);
            if let Quality::Present { flag, tests } = quality {
                last = (flag, tests);
            }
        }
        last
    }

    #[test]
    fn anoxia_that_comes_slowly_is_good() {
        let fall: std::vec::Vec<_> = (0..60).map(|n| (n * 60, 6.0 - n as f32 * 0.1)).collect();
        assert_eq!(run(&fall), (Flag::Good, Tests::NONE));
    }

    #[test]
    fn outside_the_plausible_range_fails() {
        assert_eq!(run(&[(0, 6.0), (60, 25.1)]), (Flag::Fail, Tests::GROSS_RANGE));
        assert_eq!(run(&[(0, -0.3)]), (Flag::Fail, Tests::GROSS_RANGE));
        let narrowed = Limits { min: None, max: Some(15.0) };
        let quality = History::default().judge(DO, &narrowed, 16.0, 0, 60_000, Tests::NONE);
        assert_eq!(quality.flag(), Flag::Fail);
    }

    #[test]
    fn a_leap_is_suspect_by_rate_and_spike_and_the_new_level_is_not() {
        let (flag, tests) = run(&[(0, 6.0), (60, 6.1), (120, 9.9)]);
        assert_eq!(flag, Flag::Suspect);
        assert!(tests.contains(Tests::RATE) && tests.contains(Tests::SPIKE));
        assert_eq!(run(&[(0, 6.0), (60, 6.1), (120, 9.9), (180, 9.8)]), (Flag::Good, Tests::NONE));
    }

    #[test]
    fn a_creep_within_the_window_is_caught_by_rate() {
        let (flag, tests) = run(&[(0, 6.0), (120, 7.2), (240, 8.4), (360, 9.3)]);
        assert_eq!((flag, tests), (Flag::Suspect, Tests::RATE));
    }

    #[test]
    fn an_hour_without_change_is_stuck_even_across_a_restart() {
        let flat: std::vec::Vec<_> = (0..=60).map(|n| (n * 60, 6.0)).collect();
        assert_eq!(run(&flat), (Flag::Suspect, Tests::STUCK));
        assert_eq!(run(&flat[..60]), (Flag::Good, Tests::NONE));
        let mut history = History::default();
        history.recall(DO, 6.0, 3_000_000);
        history.recall(DO, 6.005, 60_000);
        let quality = history.judge(DO, &Limits::default(), 6.0, 600_000, 600_000, Tests::NONE);
        assert_eq!(quality, Quality::Present { flag: Flag::Suspect, tests: Tests::STUCK });
    }

    #[test]
    fn a_gap_informs_and_harms_nothing() {
        assert_eq!(run(&[(0, 6.0), (60, 6.0), (600, 6.1)]), (Flag::Good, Tests::GAP));
    }

    #[test]
    fn what_is_computed_is_no_better_than_its_input() {
        let suspect = Quality::Present { flag: Flag::Suspect, tests: Tests::RATE };
        assert_eq!(from_input(Quality::GOOD, suspect), Quality::Present { flag: Flag::Suspect, tests: Tests::INPUT });
        assert_eq!(from_input(Quality::GOOD, Quality::GOOD), Quality::GOOD);
    }
}
