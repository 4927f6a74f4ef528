//! Chance for jitter: SplitMix64 (Steele, Lea and Flood 2014). Not for secrets.

/// A source of jitter.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From the host's seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Sixty-four bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `span` with up to a quarter more.
    pub(crate) fn jittered(&mut self, span: u64) -> u64 {
        span + self.bits() % (span / 4 + 1)
    }
}
