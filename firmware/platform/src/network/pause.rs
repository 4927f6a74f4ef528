//! How long to wait before the next attempt (`CUSTODY.md`, "How long to wait").

use embassy_time::Duration;

use crate::random::Random;

/// Shortest first pause, ms.
const FIRST_MS_MIN: u64 = 250;
/// Longest first pause, ms.
const FIRST_MS_MAX: u64 = 1_000;
/// Longest pause before chance adds up to a quarter, ms.
const LONGEST_MS: u64 = 60_000;
/// A connection that lasted so long was a good one: the pauses begin anew.
pub(crate) const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Pauses that double.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    /// The last one without chance, ms; 0 before the first.
    last_ms: u64,
}

impl Pauses {
    pub(crate) const fn new() -> Self {
        Self { last_ms: 0 }
    }

    /// The next pause.
    pub(crate) fn next(&mut self, random: &mut Random) -> Duration {
        if self.last_ms == 0 {
            self.last_ms = FIRST_MS_MIN + random.below(FIRST_MS_MAX - FIRST_MS_MIN + 1);
            return Duration::from_millis(self.last_ms);
        }
        self.last_ms = (self.last_ms * 2).min(LONGEST_MS);
        Duration::from_millis(self.last_ms + random.below(self.last_ms / 4 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_less_than_a_second_to_a_minute_and_never_meet() {
        for seed in 0..100 {
            let (mut pauses, mut random) = (Pauses::new(), Random::new(seed));
            let first = pauses.next(&mut random).as_millis();
            assert!((FIRST_MS_MIN..=FIRST_MS_MAX).contains(&first));
            let mut base = first;
            for _ in 0..20 {
                base = (base * 2).min(LONGEST_MS);
                let pause = pauses.next(&mut random).as_millis();
                assert!((base..=base + base / 4).contains(&pause), "{pause} after a base of {base}");
            }
            assert_eq!(base, LONGEST_MS);
        }
        let firsts: std::collections::BTreeSet<_> =
            (0..100).map(|seed| Pauses::new().next(&mut Random::new(seed)).as_millis()).collect();
        assert!(firsts.len() > 80, "a hundred nodes do not come at once");
    }
}
