//! What the emulated board and the machine around it have to agree on.
//!
//! QEMU's board has no flash, no random numbers, and few parts. So a file of the host is its
//! flash, with a page for numbers that both sides read and write ([`control`]), and a spare UART
//! carries what a board does with its pins and buses ([`tunnel`]). Both exist in emulation only.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod control;
pub mod tunnel;
