//! What a board has to give, as narrow traits. Everything else is shared.

use embassy_time::Duration;
use node::config::Config;
use node::settings::{Link as LinkSettings, Settings};
use sensors::ezo::Water;
use telemetry::MissingReason;

/// Output and input pins, by the board's numbers (`board.toml`).
pub trait Pins {
    /// Sets an output's level; numbers that the board does not have are ignored.
    fn set(&mut self, pin: u8, high: bool);
    /// Reads the level back; `None` when the board has no such pin.
    fn get(&mut self, pin: u8) -> Option<bool>;
}

/// The hardware watchdog. The platform starts it once and feeds it at least every
/// [`FEED_EVERY`](crate::supervise::FEED_EVERY), but only while control and sampling go on.
pub trait Watchdog {
    /// Starts it to bite after this time, or the longest it can that is shorter.
    fn start(&mut self, after: Duration);
    /// Feeds it.
    fn feed(&mut self);
}

/// Parts that give direct inputs: on I2C, 1-Wire, counters, ADC.
///
/// The node half calls this; nothing of it may wait longer than a bus transaction takes.
pub trait Parts {
    /// A config was taken on: these are its [`Config::inputs`].
    fn begin(&mut self, config: &Config, now_us: u64);
    /// What is known of the water, just before a round begins: for parts that reckon with it.
    fn water(&mut self, _water: &Water) {}
    /// A round begins: start what takes time.
    fn round_begins(&mut self, now_us: u64);
    /// Moves on; when to come again, µs since boot, `u64::MAX` for not before the next round.
    fn poll(&mut self, now_us: u64) -> u64;
    /// The value of an input in its channel's unit, of this round.
    fn direct(&mut self, input: u8) -> Result<f32, MissingReason>;
}

/// A board without parts.
#[derive(Clone, Copy, Debug)]
pub struct NoParts;

impl Parts for NoParts {
    fn begin(&mut self, _config: &Config, _now_us: u64) {}

    fn round_begins(&mut self, _now_us: u64) {}

    fn poll(&mut self, _now_us: u64) -> u64 {
        u64::MAX
    }

    fn direct(&mut self, _input: u8) -> Result<f32, MissingReason> {
        Err(MissingReason::NotRead)
    }
}

/// Why a link does not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The settings name a link that this board does not have.
    #[error("this board has no such link")]
    Unsupported,
    /// No network of that name, no cable, no coverage.
    #[error("no network to be seen")]
    NoNetwork,
    /// The network does not take the passphrase, PIN or access point.
    #[error("the network refuses the node")]
    Refused,
    /// The radio or modem does not answer.
    #[error("the radio does not answer")]
    Device,
    /// It took too long.
    #[error("the link took too long")]
    TimeOut,
}

/// What carries the network: a cable, Wi-Fi, a modem. Its packets go to embassy-net by its driver; this
/// is how it is brought up and put to sleep.
#[expect(async_fn_in_trait, reason = "executors of boards do not send futures")]
pub trait Link {
    /// Brings it up, or waits until it is; the platform gives up after
    /// [`LINK_WITHIN`](crate::network::LINK_WITHIN) by dropping the future, and calls again.
    async fn up(&mut self, settings: &LinkSettings) -> Result<(), LinkError>;
    /// Puts it to sleep: the radio is off.
    async fn down(&mut self);
    /// Signal strength in dBm, where there is one.
    async fn rssi(&mut self) -> Option<i8>;
}

/// A cable: up whenever the driver says so, and never asleep.
#[derive(Clone, Copy, Debug)]
pub struct Cable;

impl Link for Cable {
    async fn up(&mut self, settings: &LinkSettings) -> Result<(), LinkError> {
        match settings {
            LinkSettings::Ethernet => Ok(()),
            _ => Err(LinkError::Unsupported),
        }
    }

    async fn down(&mut self) {}

    async fn rssi(&mut self) -> Option<i8> {
        None
    }
}

/// What a board is, and what only it can do.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its name, as the folder's: `qemu-mps2`.
    pub board: &'static str,
    /// Version of the firmware.
    pub firmware: &'static str,
    /// Deepest that the stack has been since the board painted it, and its size, bytes.
    pub stack: fn() -> (u32, u32),
    /// Resets the processor.
    pub reset: fn() -> !,
}

/// Whether a node with these settings may use this link at all.
pub(crate) fn wants_radio(settings: &Settings) -> bool {
    !matches!(settings.link, LinkSettings::Ethernet)
}
