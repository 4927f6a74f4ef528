//! Pulse counters: rain gauges and flow meters.
//!
//! Two halves: [`EdgeCounter`] counts contact closures where an interrupt or a fast loop sees
//! them, and [`Pulses`] makes amounts of any counter that only goes up and wraps. What a pulse is
//! worth (0.2 mm of rain, 2.25 mL) is the config's slope.
//!
//! What was counted while the node was off is not known, and not made up.

use telemetry::MissingReason;

/// More pulses a second than this are no gauge: a counter that was reset, or noise.
pub const RATE_MAX_HZ: u32 = 10_000;

/// Counts edges, and not the bouncing of the contact after each.
#[derive(Clone, Copy, Debug)]
pub struct EdgeCounter {
    count: u32,
    dead_us: u64,
    last_us: Option<u64>,
}

impl EdgeCounter {
    /// Edges within `dead_us` of a counted one are bouncing. A reed contact of a rain gauge wants
    /// 50 ms or so (at 100 mm/h it closes every 7.2 s); a flow meter of 200 pulses/s, 1 ms.
    pub const fn new(dead_us: u64) -> Self {
        Self { count: 0, dead_us, last_us: None }
    }

    /// An edge at this time.
    pub fn on_edge(&mut self, now_us: u64) {
        if self.last_us.is_none_or(|last_us| now_us.saturating_sub(last_us) >= self.dead_us) {
            self.count = self.count.wrapping_add(1);
            self.last_us = Some(now_us);
        }
    }

    /// Edges since it was made; wraps.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// What was counted since the time before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Pulses.
    pub pulses: u32,
    /// Pulses a second, on average.
    pub per_second: f32,
}

/// Makes amounts of a counter that wraps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulses {
    before: Option<(u32, u64)>,
}

impl Pulses {
    /// Before the first look at the counter.
    pub const fn new() -> Self {
        Self { before: None }
    }

    /// What was counted since the look before, which is also the one to compare with next time.
    ///
    /// # Errors
    /// [`MissingReason::NotRead`] at the first look, [`MissingReason::Fault`] for more than any
    /// gauge gives.
    pub fn take(&mut self, count: u32, now_us: u64) -> Result<Counted, MissingReason> {
        let (count_before, before_us) = self.before.replace((count, now_us)).ok_or(MissingReason::NotRead)?;
        let pulses = count.wrapping_sub(count_before);
        let elapsed_us = now_us.saturating_sub(before_us);
        if elapsed_us == 0 {
            return Err(MissingReason::NotRead);
        }
        if u64::from(pulses) * 1_000_000 > elapsed_us.saturating_mul(u64::from(RATE_MAX_HZ)) {
            return Err(MissingReason::Fault);
        }
        // Seconds by way of ms: exact enough, and no double precision.
        let seconds = (elapsed_us / 1_000) as f32 / 1_000.0;
        let per_second = if seconds > 0.0 { pulses as f32 / seconds } else { 0.0 };
        Ok(Counted { pulses, per_second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shower_of_100_mm_an_hour_tips_every_7_2_s() {
        let mut gauge = Pulses::new();
        assert_eq!(gauge.take(7, 0), Err(MissingReason::NotRead));
        let counted = gauge.take(57, 360_000_000).unwrap();
        assert_eq!(counted.pulses, 50);
        // 50 tips of 0.2 mm in six minutes are 10 mm.
        assert!((counted.per_second * 7.2 - 1.0).abs() < 1e-5);
        assert_eq!(gauge.take(57, 720_000_000), Ok(Counted { pulses: 0, per_second: 0.0 }));
    }

    #[test]
    fn a_counter_that_wraps_loses_nothing() {
        let mut gauge = Pulses::new();
        let mut count = u32::MAX - 2;
        gauge.take(count, 0).unwrap_err();
        let mut sum = 0;
        for second in 1..=10_u64 {
            count = count.wrapping_add(second as u32);
            sum += gauge.take(count, second * 1_000_000).unwrap().pulses;
        }
        assert_eq!(sum, 55);
    }

    #[test]
    fn a_counter_that_was_reset_is_no_flood() {
        let mut gauge = Pulses::new();
        gauge.take(1_000, 0).unwrap_err();
        assert_eq!(gauge.take(3, 60_000_000), Err(MissingReason::Fault));
        // The next one compares with what is there now.
        assert_eq!(gauge.take(5, 120_000_000).unwrap().pulses, 2);
        assert_eq!(gauge.take(6, 120_000_000), Err(MissingReason::NotRead));
    }

    #[test]
    fn a_contact_that_bounces_counts_once() {
        let mut edges = EdgeCounter::new(50_000);
        for tip in 0..3_u64 {
            for bounce_us in [0, 300, 900, 4_000, 49_999] {
                edges.on_edge(tip * 7_200_000 + bounce_us);
            }
        }
        assert_eq!(edges.count(), 3);
        edges.on_edge(2 * 7_200_000 + 50_000);
        assert_eq!(edges.count(), 4);
    }
}
