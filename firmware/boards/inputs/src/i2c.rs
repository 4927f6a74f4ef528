//! What a blocking I2C driver needs around it: a bus that is stuck must not stop the node.

use embedded_hal::delay::DelayNs;
use embedded_hal::digital::{InputPin, OutputPin};

/// Half a period of 100 kHz, and some.
const HALF_US: u32 = 6;
/// A part that was cut off while it gave a byte lets go of SDA after nine clocks at most (I2C
/// specification UM10204 §3.1.16).
const CLOCKS_MAX: u8 = 9;

/// Frees a bus whose SDA a part holds down, because the processor was reset while it was asking. To be called before
/// the pins are given to the I2C driver, with both open drain.
pub fn free<L: InputPin + OutputPin, D: InputPin + OutputPin>(mut scl: L, mut sda: D, mut delay: impl DelayNs) {
    // Pins of the processor itself do not fail, and what the bus is then like shows at its first use.
    for _ in 0..CLOCKS_MAX {
        if sda.is_high().unwrap_or(true) {
            break;
        }
        let _low = scl.set_low();
        delay.delay_us(HALF_US);
        let _high = scl.set_high();
        delay.delay_us(HALF_US);
    }
    // A stop: SDA rises while SCL is high.
    let _low = sda.set_low();
    delay.delay_us(HALF_US);
    let _high = sda.set_high();
    delay.delay_us(HALF_US);
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use core::convert::Infallible;

    use embedded_hal::digital::ErrorType;

    use super::*;

    /// A part that holds SDA for so many more clocks, and what it saw.
    #[derive(Default)]
    struct Bus {
        held: Cell<u8>,
        clocks: Cell<u8>,
        sda_low: Cell<bool>,
        stops: Cell<u8>,
    }

    struct Scl<'a>(&'a Bus);
    struct Sda<'a>(&'a Bus);
    struct Now;

    impl DelayNs for Now {
        fn delay_ns(&mut self, _ns: u32) {}
    }

    impl ErrorType for Scl<'_> {
        type Error = Infallible;
    }

    impl ErrorType for Sda<'_> {
        type Error = Infallible;
    }

    impl OutputPin for Scl<'_> {
        fn set_low(&mut self) -> Result<(), Infallible> {
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            self.0.held.set(self.0.held.get().saturating_sub(1));
            self.0.clocks.set(self.0.clocks.get() + 1);
            Ok(())
        }
    }

    impl InputPin for Scl<'_> {
        fn is_high(&mut self) -> Result<bool, Infallible> {
            Ok(true)
        }

        fn is_low(&mut self) -> Result<bool, Infallible> {
            Ok(false)
        }
    }

    impl OutputPin for Sda<'_> {
        fn set_low(&mut self) -> Result<(), Infallible> {
            self.0.sda_low.set(true);
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Infallible> {
            if self.0.held.get() == 0 && self.0.sda_low.replace(false) {
                self.0.stops.set(self.0.stops.get() + 1);
            }
            Ok(())
        }
    }

    impl InputPin for Sda<'_> {
        fn is_high(&mut self) -> Result<bool, Infallible> {
            Ok(self.0.held.get() == 0 && !self.0.sda_low.get())
        }

        fn is_low(&mut self) -> Result<bool, Infallible> {
            self.is_high().map(|high| !high)
        }
    }

    #[test]
    fn a_part_in_the_middle_of_a_byte_is_clocked_until_it_lets_go_and_hears_a_stop() {
        // Eight bits and the acknowledgement are the most that a part can be in the middle of.
        for held in 0..=9 {
            let bus = Bus { held: Cell::new(held), ..Bus::default() };
            free(Scl(&bus), Sda(&bus), Now);
            assert_eq!((bus.clocks.get(), bus.stops.get()), (held, 1));
        }
        let dead = Bus { held: Cell::new(200), ..Bus::default() };
        free(Scl(&dead), Sda(&dead), Now);
        assert_eq!((dead.clocks.get(), dead.stops.get()), (9, 0), "it ends all the same");
    }
}
