//! Line settings and the times that follow from them.

use core::num::{NonZeroU32, NonZeroU64};

/// Parity bit of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit: what nearly every field probe is shipped with.
    None,
    /// Even parity: the default of the serial line guide.
    Even,
    /// Odd parity.
    Odd,
}

/// How characters look on the line. RTU always has 8 data bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    // Not zero by type, so that no division below can panic.
    baud: NonZeroU32,
    parity: Parity,
    stop_bits: u8,
}

impl LineSettings {
    /// Slowest supported rate, bit/s.
    pub const BAUD_MIN: u32 = 1_200;
    /// Fastest supported rate, bit/s.
    pub const BAUD_MAX: u32 = 115_200;
    /// 9600 8N1, the commonest setting of field probes.
    pub const DEFAULT: Self = Self {
        // 9600 is not zero; a `const` cannot say so without naming what else it would be.
        baud: match NonZeroU32::new(9_600) {
            Some(baud) => baud,
            None => NonZeroU32::MAX,
        },
        parity: Parity::None,
        stop_bits: 1,
    };

    /// Settings of a line; `None` outside 1200…115200 bit/s or 1…2 stop bits.
    pub const fn new(baud: u32, parity: Parity, stop_bits: u8) -> Option<Self> {
        match NonZeroU32::new(baud) {
            Some(rate) if baud >= Self::BAUD_MIN && baud <= Self::BAUD_MAX && stop_bits >= 1 && stop_bits <= 2 => {
                Some(Self { baud: rate, parity, stop_bits })
            }
            _ => None,
        }
    }

    /// Rate, bit/s.
    pub const fn baud(self) -> u32 {
        self.baud.get()
    }

    /// Parity bit.
    pub const fn parity(self) -> Parity {
        self.parity
    }

    /// Stop bits, 1 or 2.
    pub const fn stop_bits(self) -> u8 {
        self.stop_bits
    }

    /// Bits of one character on the line: start, 8 data, parity, stop.
    pub const fn char_bits(self) -> u32 {
        let parity = match self.parity {
            Parity::None => 0,
            Parity::Even | Parity::Odd => 1,
        };
        1 + 8 + parity + self.stop_bits as u32
    }

    /// Time of `chars` characters on the line, µs, rounded up.
    pub fn chars_us(self, chars: usize) -> u64 {
        self.half_chars_us(chars as u64 * 2)
    }

    /// Silence that separates frames, µs: 3.5 characters, but 1.75 ms above 19200 bit/s (serial
    /// line guide §2.5.1.1).
    pub fn frame_gap_us(self) -> u64 {
        if self.baud() > 19_200 { 1_750 } else { self.half_chars_us(7) }
    }

    fn half_chars_us(self, halves: u64) -> u64 {
        let baud = NonZeroU64::from(self.baud);
        (halves * u64::from(self.char_bits()) * 500_000 + (baud.get() - 1)) / baud
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_three_and_a_half_characters_with_a_floor_above_19200() {
        let at = |baud| LineSettings::new(baud, Parity::None, 1).unwrap().frame_gap_us();
        assert_eq!(at(9_600), 3_646);
        assert_eq!(at(4_800), 7_292);
        assert_eq!(at(19_200), 1_823);
        assert_eq!(at(38_400), 1_750);
        assert_eq!(at(115_200), 1_750);
    }

    #[test]
    fn parity_and_stop_bits_lengthen_the_character() {
        let line = LineSettings::new(9_600, Parity::Even, 2).unwrap();
        assert_eq!(line.char_bits(), 12);
        assert_eq!(line.chars_us(8), 10_000);
    }

    #[test]
    fn settings_that_no_line_has_are_refused() {
        assert!(LineSettings::new(0, Parity::None, 1).is_none());
        assert!(LineSettings::new(1_000_000, Parity::None, 1).is_none());
        assert!(LineSettings::new(9_600, Parity::None, 0).is_none());
        assert!(LineSettings::new(9_600, Parity::None, 3).is_none());
    }
}
