//! The CMSDK watchdog: whoever does not feed it is reset.
//!
//! At its first expiry it raises the NMI, which notes where the processor hung and resets
//! ([`crate::reset`]). Should even that not get through, the second expiry resets by itself.

use crate::registers::Registers;

/// Cycles of the MPS2's clock in a ms (AN385 §4.1).
const CYCLES_PER_MS: u32 = 25_000;

// Registers (Arm DDI 0479D table 4-14).
const LOAD: usize = 0x00;
const CONTROL: usize = 0x08;
const CLEAR: usize = 0x0c;
const LOCK: usize = 0xc00;
/// Lets the other registers be written.
const UNLOCK: u32 = 0x1acc_e551;
/// Interrupt at the first expiry, reset at the second.
const ON: u32 = 0b11;

/// The running watchdog; it cannot be stopped.
#[derive(Debug)]
pub struct Watchdog(Registers);

impl Watchdog {
    /// Longest time that it can be given, ms.
    pub const TIMEOUT_MS_MAX: u32 = u32::MAX / CYCLES_PER_MS;

    /// Starts it: it bites when it is not fed for `timeout_ms`, at most
    /// [`TIMEOUT_MS_MAX`](Self::TIMEOUT_MS_MAX).
    pub fn start(timeout_ms: u32) -> Self {
        // SAFETY: the CMSDK watchdog of AN385's memory map (table 3-1).
        let registers = unsafe { Registers::new(0x4000_8000) };
        registers.write(LOCK, UNLOCK);
        registers.write(LOAD, timeout_ms.clamp(1, Self::TIMEOUT_MS_MAX) * CYCLES_PER_MS);
        registers.write(CONTROL, ON);
        // Any other value locks, so that a program that has gone astray cannot stop it.
        registers.write(LOCK, 0);
        Self(registers)
    }

    /// Its time begins anew.
    pub fn feed(&mut self) {
        self.0.write(LOCK, UNLOCK);
        self.0.write(CLEAR, 1);
        self.0.write(LOCK, 0);
    }
}
