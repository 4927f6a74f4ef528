//! Registers to values: pure.

use telemetry::{MissingReason, Tests};

use super::{Kind, Profile, Quantity, RawRange, Scale};

/// A value as the probe gave it, before calibration and quality tests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// In the unit of the property table; finite.
    pub value: f32,
    /// [`Tests::PROBE`] when the profile says that the probe cannot be trusted here, else none.
    pub tests: Tests,
}

impl Profile<'_> {
    /// Turns the outcome of one block into its quantities: `give(index, sample)` for each, where
    /// `index` counts [`Profile::quantities`].
    pub fn convert(
        &self,
        block: usize,
        outcome: Result<&[u8], MissingReason>,
        mut give: impl FnMut(usize, Result<Sample, MissingReason>),
    ) {
        for (index, quantity) in self.quantities().enumerate() {
            if usize::from(quantity.block) == block {
                give(index, outcome.and_then(|data| quantity.convert(data)));
            }
        }
    }
}

impl Quantity {
    /// The value in a block's register bytes (big-endian, two a register).
    ///
    /// # Errors
    /// Why there is none: the probe's own quality register, a sentinel, a raw value that the part
    /// cannot give, or a block that is too short.
    pub fn convert(&self, data: &[u8]) -> Result<Sample, MissingReason> {
        if let Some(quality) = &self.quality {
            let judged = register(data, quality.offset).ok_or(MissingReason::Garbled)?;
            match quality.values.iter().find(|(value, _)| *value == judged) {
                Some((_, None)) => {}
                Some((_, Some(reason))) => return Err(*reason),
                None => return Err(quality.otherwise),
            }
        }
        let bits = self.bits(data).ok_or(MissingReason::Garbled)?;
        if let Some(sentinel) = self.sentinels.iter().find(|it| it.bits == bits) {
            return Err(sentinel.reason);
        }
        let raw = match self.kind {
            Kind::U16 | Kind::U32 => bits as f32,
            // Sixteen bits, reinterpreted.
            Kind::I16 => f32::from(bits as u16 as i16),
            Kind::I32 => bits as i32 as f32,
            Kind::F32 => f32::from_bits(bits),
        };
        if !raw.is_finite() {
            return Err(MissingReason::Sentinel);
        }
        if self.valid.is_some_and(|range| !range.holds(raw)) {
            return Err(MissingReason::OutOfRange);
        }
        let value = self.add
            + match self.scale {
                Scale::Divide(by) => raw / f32::from(by),
                Scale::Multiply(by) => raw * by,
            };
        if !value.is_finite() {
            return Err(MissingReason::OutOfRange);
        }
        let doubtful = self.doubtful || self.trusted.is_some_and(|range| !range.holds(raw));
        Ok(Sample { value, tests: if doubtful { Tests::PROBE } else { Tests::NONE } })
    }

    /// The number's bits, in its own order.
    fn bits(&self, data: &[u8]) -> Option<u32> {
        let word = |at| {
            let word = register(data, at)?;
            Some(if self.order.low_byte_first { word.swap_bytes() } else { word })
        };
        let first = u32::from(word(self.offset)?);
        if self.kind.registers() == 1 {
            return Some(first);
        }
        let second = u32::from(word(self.offset.checked_add(1)?)?);
        Some(if self.order.low_word_first { second << 16 | first } else { first << 16 | second })
    }
}

impl RawRange {
    /// Whether the range holds `raw`, its ends included.
    pub fn holds(self, raw: f32) -> bool {
        self.min <= raw && raw <= self.max
    }
}

/// The register at `offset` of a block.
fn register(data: &[u8], offset: u8) -> Option<u16> {
    let at = usize::from(offset) * 2;
    let bytes = data.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}
