//! The gateway: takes reports in, makes them durable, hands them to the sinks.

pub mod clock;
pub mod config;
pub mod credentials;
pub mod custody;
pub mod endpoint;
pub mod entry;
pub mod registry;
pub mod sinks;
