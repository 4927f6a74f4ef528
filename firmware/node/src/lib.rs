//! The node core: sample, judge, keep, deliver, control. No HAL, no allocation, no I/O of its own.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod random;
pub mod ring;
pub mod session;
