//! Drivers of instruments over embedded-hal 1.0, and Modbus probes as data.
//!
//! Owns: the Modbus RTU master ([`modbus`]), probe profiles ([`profile`]), one file per part for
//! what hangs on I2C, 1-Wire or a pin, and the engine that runs any of them ([`part`]). Each has a
//! pure `convert` core that a datasheet's numbers test.
//!
//! Does not own: when to sample, calibration, compensation, quality tests (`node`), nor pins and
//! buses (boards). It never waits on its own account: a driver starts a measurement, and is asked
//! again later.
#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(any(test, feature = "compile"))]
extern crate std;

pub mod ads1115;
pub mod bh1750;
pub mod bme280;
pub mod contact;
pub mod ds18b20;
pub mod ezo;
mod i2c;
pub mod modbus;
pub mod onewire;
pub mod part;
pub mod profile;
pub mod pulse;
pub mod rms;
pub mod scd4x;
pub mod sht;
pub mod tmp105;
pub mod veml7700;

pub use i2c::{PartError, Turn};

/// The README's example is compiled, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
