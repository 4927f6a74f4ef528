//! A stream of four-bit units, high half of each byte first, and variable-length integers in
//! it: three bits a unit, low ones first, the top bit saying that more follow. A small signed
//! difference costs half a byte.

/// The buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Writes units to a borrowed buffer.
pub(crate) struct NibbleWriter<'b> {
    buffer: &'b mut [u8],
    units: usize,
}

impl<'b> NibbleWriter<'b> {
    /// Goes on after `units` that are already there.
    pub(crate) fn resume(buffer: &'b mut [u8], units: usize) -> Self {
        Self { buffer, units }
    }

    pub(crate) fn units(&self) -> usize {
        self.units
    }

    pub(crate) fn unit(&mut self, unit: u8) -> Result<(), Full> {
        let slot = self.buffer.get_mut(self.units / 2).ok_or(Full)?;
        *slot = if self.units.is_multiple_of(2) { unit << 4 } else { (*slot & 0xF0) | (unit & 0x0F) };
        self.units += 1;
        Ok(())
    }

    pub(crate) fn unsigned(&mut self, mut value: u64) -> Result<(), Full> {
        while value > 7 {
            self.unit((value & 7) as u8 | 8)?;
            value >>= 3;
        }
        self.unit(value as u8)
    }

    pub(crate) fn signed(&mut self, value: i64) -> Result<(), Full> {
        self.unsigned(((value << 1) ^ (value >> 63)) as u64)
    }
}

/// Reads units from a slice.
#[derive(Clone)]
pub(crate) struct NibbleReader<'b> {
    bytes: &'b [u8],
    units: usize,
}

impl<'b> NibbleReader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, units: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() * 2 - self.units
    }

    pub(crate) fn unit(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.units / 2)?;
        let unit = if self.units.is_multiple_of(2) { byte >> 4 } else { byte & 0x0F };
        self.units += 1;
        Some(unit)
    }

    pub(crate) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        // 22 units hold 66 bits; what does not fit in 64 is malformed.
        for shift in (0..66).step_by(3) {
            let unit = u64::from(self.unit()?);
            let bits = unit & 7;
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if unit & 8 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_size_read_back() {
        let values = [0, 1, -1, 3, -4, 4, 719, -1000, i64::from(i32::MIN), i64::MAX, i64::MIN];
        let mut buffer = [0; 128];
        let mut writer = NibbleWriter::resume(&mut buffer, 0);
        for v in values {
            writer.signed(v).unwrap();
        }
        let mut reader = NibbleReader::new(&buffer);
        for v in values {
            assert_eq!(reader.signed(), Some(v));
        }
    }

    #[test]
    fn small_differences_cost_half_a_byte() {
        for v in -4..=3 {
            let mut buffer = [0; 4];
            let mut writer = NibbleWriter::resume(&mut buffer, 0);
            writer.signed(v).unwrap();
            assert_eq!(writer.units(), 1, "{v}");
        }
    }
}
