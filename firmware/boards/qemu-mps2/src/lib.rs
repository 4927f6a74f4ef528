//! The board that QEMU emulates: an Arm MPS2 with the FPGA image AN385, a Cortex-M3.
//!
//! Owns: the drivers of what the board has, each behind the trait that all boards use. Does not
//! own what the node does with them; that is the platform's and the core's.
//!
//! QEMU's board lacks flash, random numbers, pins and most parts. A file of the host stands for
//! the flash ([`flash`]), the host gives each start its chance ([`Board::seed`]), and the rest is
//! asked for over a spare UART ([`tunnel`]). UART 0 is the console, 1 and 2 are Modbus lines, 3 is
//! the tunnel.
#![no_std]

pub mod buses;
pub mod clock;
mod control;
pub mod ethernet;
pub mod executor;
pub mod flash;
pub mod i2c;
mod interrupts;
mod registers;
pub mod reset;
pub mod stack;
pub mod tunnel;
pub mod uart;
pub mod watchdog;

/// What a program finds when it starts.
pub struct Board {
    /// Why it starts.
    pub boot: reset::Boot,
    /// Chance of this start. The board has no source of it: QEMU's host writes it into the page
    /// beside the flash before each start; the number of the start is mixed in. Zeros without a host.
    pub seed: [u8; 48],
    /// The flash.
    pub flash: flash::Flash,
}

/// Starts guard and clock. Once, first of all.
pub fn start() -> Board {
    let boot = reset::boot();
    stack::guard();
    clock::start(control::start_us());
    Board { boot, seed: control::seed(), flash: flash::Flash::new() }
}
