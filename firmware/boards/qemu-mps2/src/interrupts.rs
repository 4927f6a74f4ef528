//! Which peripheral an interrupt is from (Arm AN385 table 4-2).

use cortex_m::interrupt::InterruptNumber;
use cortex_m::peripheral::NVIC;

use crate::{clock, ethernet, executor, uart};

/// Number of an interrupt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupt(pub(crate) u16);

// SAFETY: every number that is used is one of the 32 that AN385 has, and stays the same.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self.0
    }
}

/// Lets an interrupt through.
pub(crate) fn enable(interrupt: u16) {
    // SAFETY: no code relies on an interrupt's being masked; what handlers share is behind
    // critical sections.
    unsafe { NVIC::unmask(Interrupt(interrupt)) };
}

#[cortex_m_rt::exception]
unsafe fn DefaultHandler(number: i16) {
    match number {
        clock::TIMER0 => clock::on_timer(),
        ethernet::INTERRUPT => ethernet::on_interrupt(),
        number if number == executor::HIGH as i16 => executor::on_interrupt(),
        number => {
            if !uart::on_interrupt(number) {
                // Nobody asked for it; left on, it would come for ever.
                let number = u16::try_from(number).unwrap_or_default();
                NVIC::mask(Interrupt(number));
            }
        }
    }
}
