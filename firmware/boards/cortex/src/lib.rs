//! What every board with a Cortex-M has: a loader in front of the image, a guarded stack that is
//! measured, and a record of faults that a reset does not take away.
//!
//! The linker script comes from `boardfile`, with `STACK` at the beginning of the RAM and `RAM` behind it. A board
//! defines `fn board_reset() -> !`, unmangled, which resets the processor.
#![no_std]

pub mod fault;
mod loader;
pub mod stack;
