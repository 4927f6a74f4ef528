//! The node core: sample, judge, keep, deliver, control. No HAL, no allocation, no I/O of its own.
#![no_std]

pub mod ring;
