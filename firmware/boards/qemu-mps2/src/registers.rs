//! Registers of a peripheral, by their offset.

use core::ptr::{read_volatile, write_volatile};

/// A block of 32-bit registers at an address of the MPS2's memory map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers(usize);

impl Registers {
    /// # Safety
    /// `base` is the address of a block of device registers or of memory that is there as long as
    /// the program runs and that no Rust reference covers; reading and writing the offsets that
    /// the caller uses does no harm to memory safety.
    pub(crate) const unsafe fn new(base: usize) -> Self {
        Self(base)
    }

    pub(crate) fn read(self, offset: usize) -> u32 {
        // SAFETY: by the contract of `new`.
        unsafe { read_volatile((self.0 + offset) as *const u32) }
    }

    pub(crate) fn write(self, offset: usize, value: u32) {
        // SAFETY: by the contract of `new`.
        unsafe { write_volatile((self.0 + offset) as *mut u32, value) }
    }
}
