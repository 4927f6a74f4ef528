//! Time for simulations: one clock that only tests move, and one that runs at a multiple of real
//! time. Both are monotonic; true UTC is theirs to know, not the nodes'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time of a simulation.
pub trait Clock: Send + Sync {
    /// Time since the simulation began, µs. Never steps back.
    fn mono_us(&self) -> u64;

    /// Real time until the simulation reaches `mono_us`; none when only somebody else moves it.
    fn real_until(&self, mono_us: u64) -> Option<Duration>;

    /// UTC at the beginning of the simulation, ms since 1970.
    fn began_utc_ms(&self) -> i64;

    /// Time since the simulation began, ms.
    fn mono_ms(&self) -> u64 {
        self.mono_us() / 1_000
    }

    /// True UTC, ms since 1970.
    fn utc_ms(&self) -> i64 {
        self.began_utc_ms().saturating_add_unsigned(self.mono_ms())
    }
}

/// A clock that stands until it is moved.
#[derive(Clone, Debug)]
pub struct VirtualClock {
    began_utc_ms: i64,
    now_us: Arc<AtomicU64>,
}

impl VirtualClock {
    /// Stands at 0, which is this UTC in ms since 1970.
    pub fn new(began_utc_ms: i64) -> Self {
        Self { began_utc_ms, now_us: Arc::default() }
    }

    /// Moves on; the new time in µs.
    pub fn advance(&self, by: Duration) -> u64 {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.now_us.fetch_add(by_us, Ordering::SeqCst).saturating_add(by_us)
    }
}

impl Clock for VirtualClock {
    fn mono_us(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst)
    }

    fn real_until(&self, mono_us: u64) -> Option<Duration> {
        (self.mono_us() >= mono_us).then_some(Duration::ZERO)
    }

    fn began_utc_ms(&self) -> i64 {
        self.began_utc_ms
    }
}

/// A clock that runs by itself, at a multiple of real time.
#[derive(Clone, Debug)]
pub struct RunningClock {
    began_utc_ms: i64,
    began: Instant,
    speed: f64,
}

impl RunningClock {
    /// Starts now at this UTC; `speed` is simulated seconds a real second, held to 0.01–3600.
    pub fn new(began_utc_ms: i64, speed: f64) -> Self {
        let speed = if speed.is_finite() { speed.clamp(0.01, 3_600.0) } else { 1.0 };
        Self { began_utc_ms, began: Instant::now(), speed }
    }

    /// Simulated seconds a real second.
    pub fn speed(&self) -> f64 {
        self.speed
    }
}

impl Clock for RunningClock {
    fn mono_us(&self) -> u64 {
        (self.began.elapsed().as_secs_f64() * self.speed * 1e6) as u64
    }

    fn real_until(&self, mono_us: u64) -> Option<Duration> {
        let ahead_us = mono_us.saturating_sub(self.mono_us());
        // A day is longer than any wait; it keeps the division far from overflow.
        Some(Duration::from_secs_f64((ahead_us as f64 / 1e6 / self.speed).min(86_400.0)))
    }

    fn began_utc_ms(&self) -> i64 {
        self.began_utc_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_clock_stands_until_it_is_moved() {
        let clock = VirtualClock::new(1_000);
        assert_eq!((clock.mono_ms(), clock.utc_ms()), (0, 1_000));
        clock.advance(Duration::from_millis(1_500));
        assert_eq!((clock.mono_ms(), clock.utc_ms()), (1_500, 2_500));
        assert_eq!(clock.real_until(1_500_001), None);
    }

    #[test]
    fn a_fast_clock_waits_less() {
        let clock = RunningClock::new(0, 100.0);
        assert!(clock.real_until(clock.mono_us() + 10_000_000).unwrap() <= Duration::from_millis(100));
    }
}
