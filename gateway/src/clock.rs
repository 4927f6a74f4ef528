//! The gateway's time. A parameter: runs on a virtual clock take hours of it in seconds.

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
}

/// No gateway of this program ran before this instant (2026-11-01T00:00Z): a clock that shows an
/// earlier one is wrong.
pub const EARLIEST_MS: i64 = 1_793_491_200_000;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
    not_before_ms: i64,
}

impl SystemClock {
    /// `not_before_ms`: the newest instant the durable log knows; a clock that shows an earlier
    /// one was set back, and is not believed until it has passed it.
    pub fn new(not_before_ms: i64) -> Self {
        Self { started: std::time::Instant::now(), not_before_ms: not_before_ms.max(EARLIEST_MS) }
    }
}

impl Clock for SystemClock {
    fn utc(&self) -> Utc {
        let ms = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(_) => 0,
        };
        Utc { ms, known_good: ms >= self.not_before_ms && ms < 4_102_444_800_000 }
    }

    fn mono_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
