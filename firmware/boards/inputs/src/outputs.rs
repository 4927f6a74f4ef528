//! The pins that switch.

use embedded_hal::digital::{InputPin, OutputPin};
use platform::board::Pins;

/// N output pins by their numbers, each of which can read the level that is really there.
#[derive(Debug)]
pub struct Outputs<O, const N: usize>(pub [O; N]);

impl<O: OutputPin + InputPin, const N: usize> Pins for Outputs<O, N> {
    fn set(&mut self, pin: u8, high: bool) {
        if let Some(output) = self.0.get_mut(usize::from(pin)) {
            // Pins of the processor itself cannot fail; what is there is read back.
            let _set = output.set_state(high.into());
        }
    }

    fn get(&mut self, pin: u8) -> Option<bool> {
        self.0.get_mut(usize::from(pin))?.is_high().ok()
    }
}
