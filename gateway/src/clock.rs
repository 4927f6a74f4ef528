//! The gateway's time. A parameter: runs on a virtual clock take hours of it in seconds.

use std::sync::atomic::{AtomicI64, Ordering};

/// UTC as the gateway knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Milliseconds since 1970.
    pub ms: i64,
    /// Whether it is known to be right. If not, nothing is dated by it and receipts carry no UTC.
    pub known_good: bool,
}

/// Where the gateway gets its time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn utc(&self) -> Utc;
    /// Milliseconds on a clock that never steps.
    fn mono_ms(&self) -> u64;
    /// Tells it the newest instant that the durable log has dated: a clock that shows an earlier
    /// one was set back.
    fn not_before(&self, _utc_ms: i64) {}
}

/// No gateway of this program ran before this instant (2026-11-01T00:00Z): a clock that shows an
/// earlier one is wrong.
pub const EARLIEST_MS: i64 = 1_793_491_200_000;

/// Further than this beyond all that is known, a clock is not believed either: 2099 is what some
/// boards wake with.
const AHEAD_MS_MAX: i64 = 5 * 366 * 86_400_000;
/// How far back the clock may be set while it is still believed: a correction, not another day.
const BACK_MS_MAX: i64 = 60_000;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
    known_ms: AtomicI64,
    trusted: bool,
}

impl SystemClock {
    /// The machine's clocks, believed from the day this program was made, and not before what the
    /// log has dated.
    pub fn new() -> Self {
        Self { started: std::time::Instant::now(), known_ms: AtomicI64::new(EARLIEST_MS), trusted: false }
    }

    /// The machine's clocks, believed by a person's word whatever the log says.
    pub fn trusted() -> Self {
        Self { trusted: true, ..Self::new() }
    }

    fn is_good(&self, ms: i64) -> bool {
        let known_ms = self.known_ms.load(Ordering::Relaxed);
        self.trusted || ms >= (known_ms - BACK_MS_MAX).max(EARLIEST_MS) && ms <= known_ms.saturating_add(AHEAD_MS_MAX)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn utc(&self) -> Utc {
        let ms = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(_) => 0,
        };
        Utc { ms, known_good: self.is_good(ms) }
    }

    fn mono_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn not_before(&self, utc_ms: i64) {
        self.known_ms.fetch_max(utc_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_in_2099_or_set_back_behind_the_log_is_not_believed() {
        let clock = SystemClock::new();
        assert!(clock.is_good(EARLIEST_MS + 86_400_000));
        for wrong in [0, EARLIEST_MS - 1, 4_080_000_000_000] {
            assert!(!clock.is_good(wrong), "{wrong}");
        }
        let dated = EARLIEST_MS + 30 * 86_400_000;
        clock.not_before(dated);
        assert!(clock.is_good(dated - 1_000) && !clock.is_good(dated - 3_600_000));
        assert!(SystemClock::trusted().is_good(dated - 3_600_000));
    }
}
