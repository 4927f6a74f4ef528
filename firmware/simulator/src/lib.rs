//! Ponds and greenhouses that answer at the byte level, and the parts a node stands on.
//!
//! ```text
//! world ─▶ instrument, part ─ bytes on lines and buses ─▶ host (the node core on simulated parts) ─▶ fleet (MQTT)
//! ```
//! It owns what is true, what probes make of it, and the boards that are not there. What the node
//! does with it is the node's own code, unchanged; what the gateway does, the gateway's.

pub mod clock;
pub mod fittings;
pub mod fleet;
pub mod host;
pub mod instrument;
pub mod lockstep;
pub mod nor;
pub mod part;
pub mod recorded;
pub mod relay_board;
pub mod serial_line;
pub mod sites;
pub mod tunnel;
pub mod world;
