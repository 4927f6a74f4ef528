//! The one vocabulary that node, gateway and simulator share: observed properties and their
//! units, quality, records and their names, reports, sessions, receipts, snapshots, commands,
//! topics and limits, with their versioned CBOR encoding (`telemetry.cddl` beside this crate).
//!
//! It owns names and bytes. It deliberately does not own time, storage, transport or policy:
//! when a report is sent, where it is kept and what is done with it is decided by the node core
//! and the gateway. `CUSTODY.md` tells how these messages make a conversation.
//!
//! Everything here is `no_std`, allocates nothing, and every decoder is total: any bytes give a
//! message or an error, in bounded time and memory.

#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#[cfg(feature = "std")]
extern crate std;

pub mod actuator;
pub mod alarm;
mod cbor;
pub mod limits;
pub mod mac;
pub mod name;
mod nibble;
pub mod property;
pub mod quality;
pub mod record;
pub mod report;
pub mod rounds;
pub mod session;
pub mod snapshot;
pub mod topic;

pub use actuator::ActuatorKind;
pub use alarm::Alarm;
pub use cbor::{Malformed, TooLong, skip_item};
pub use name::{NodeName, RecordName};
pub use property::{Medium, Property};
pub use quality::{Flag, MissingReason, Quality, Tests};
pub use record::{Record, Round};
pub use report::{Envelope, Report};

/// The encoding version this crate writes, inside reports, snapshots and sessions.
pub const VERSION: u8 = 1;
