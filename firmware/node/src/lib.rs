//! The node core: sample, judge, keep, deliver, control. No HAL, no allocation, no I/O of its own.
//!
//! # For hosts
//!
//! A host (a board, or a simulator) owns flash, lines, pins, clock and MQTT, and keeps the image of
//! the node's config. It makes a [`Node`] with [`Node::new`] in the place where it stays, calls
//! [`Node::boot`] and then:
//!
//! - calls [`Node::poll`] at the instant the last call named, and also as soon as bytes arrive on
//!   a line; everything the node wants goes out through [`Io`], which must not wait;
//! - calls [`Node::connected`] once MQTT is connected and the three down topics are subscribed
//!   ([`telemetry::topic::down`], QoS 1, clean session), [`Node::disconnected`] when it is gone;
//! - hands every message of a down topic to [`Node::message`], then polls; an image that this
//!   returns is stored first and then taken on with [`Node::apply`].
//!
//! All instants are µs since boot on a clock that never steps. Topics, user name and password are
//! the host's; payloads are the node's. `Up::Report` and `Up::Session` go with QoS 1, `Up::Live`
//! with QoS 0, nothing is retained. What a broker acknowledges means nothing to the node.
//!
//! ```
//! use node::config::{Calibration, Channel, Config, Source};
//! use telemetry::Property;
//!
//! let mut config = Config::new(1);
//! config.period_s = 10;
//! let channel = Channel {
//!     property: Property::AirTemperature,
//!     source: Source::Direct { input: 0 },
//!     calibration: Calibration::default(),
//!     limits: Default::default(),
//!     compensate_with: None,
//! };
//! assert!(config.channels.push(channel).is_ok());
//! assert_eq!(config.validate(), Ok(()));
//! ```
//!
//! # What holds
//!
//! Storage and network failures degrade the node; they never stop sampling and control. Nothing
//! here panics after boot, and nothing waits.

#![no_std]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

#[cfg(test)]
extern crate std;

pub mod compute;
pub mod config;
pub mod control;
pub mod envelope;
pub mod faults;
mod flash;
mod judge;
mod node;
pub mod quality;
mod random;
pub mod relay;
pub mod ring;
pub mod sample;
pub mod session;
pub mod settings;
pub mod slots;
pub mod sun;
pub mod trial;

pub use node::{Counters, Identity, Io, Node, RestartCause};
