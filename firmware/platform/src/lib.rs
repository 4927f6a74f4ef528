//! What all boards share: the two halves of a node, the network, the console, supervision, the flash map.
//!
//! # For boards
//!
//! A board is wiring only. It places an [`Exchange`], a [`flash::Shared`] around its NOR flash, a
//! [`Kept`] in memory that a reset does not clear, the node core and [`network::Buffers`] in statics, and runs
//!
//! | Task | Made by | Executor |
//! |---|---|---|
//! | [`NodeHalf::run`] | [`start`] | of higher priority where there is one |
//! | [`run_line`], per Modbus line | a [`Port`] and the transceiver's pin | as the node half |
//! | embassy-net's runner | the board's driver | thread |
//! | [`network::Network::run`] | the stack, a [`Link`], the settings | thread |
//! | [`console::run`] | any serial port | thread |
//!
//! `README.md` beside this crate has a board's `main.rs`.
//!
//! # Two halves that cannot hurt each other
//!
//! The node half owns the node core, lines, parts, outputs, flash and watchdog. It is polled at the instants
//! it names and when something arrives, and waits for nobody. The network half may hang for as long as it
//! likes: between the two are only the bounded pieces of [`Exchange`].

#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(test)]
extern crate std;

mod answer;
pub mod ask;
pub mod board;
pub mod console;
pub mod exchange;
pub mod flash;
mod half;
mod hands;
mod keep;
pub mod kept;
mod line;
pub mod network;
mod outbox;
pub mod parts;
mod random;
pub mod scan;
pub mod supervise;

pub use board::{Cable, Facts, Link, LinkError, NoParts, Parts, Pins, Watchdog};
pub use exchange::{Exchange, Room};
pub use half::{NodeHalf, Start, Started, start};
pub use kept::Kept;
pub use line::{Line, NoPin, Port, run_line};

/// CRC-32 of IEEE 802.3, as zlib has it.
pub(crate) const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
