//! What the console asks the node half, one question at a time, and what it is answered.

use heapless::Vec;
use node::config::ConfigError;
use node::control::Refusal;
use node::{Counters, RestartCause};
use telemetry::record::Reading;
use telemetry::{ActuatorKind, NodeName, Property};

use crate::exchange::Glance;
use crate::kept::{Asked, Fault};
use crate::scan::Found;
use crate::supervise::Degraded;

/// What an image is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// Settings.
    Settings,
    /// A config.
    Config,
}

/// A question, or something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// How it stands.
    Status,
    /// A channel's newest value.
    Channel(u8),
    /// The config that runs.
    Config,
    /// An actuator of it.
    Actuator(u8),
    /// Marks a channel as being calibrated for so many seconds; 0 ends it.
    Calibrate {
        /// The channel.
        channel: u8,
        /// For how long.
        for_s: u32,
    },
    /// Ends a config's trial.
    Confirm,
    /// The n-th newest config there was.
    History(u8),
    /// The n-th newest fault.
    Fault(u8),
    /// Tests the parts of the node; see [`Tested`].
    SelfTest,
    /// Asks an address of a line, between rounds.
    Scan {
        /// The line.
        bus: u8,
        /// 1–247.
        address: u8,
    },
    /// What lies in the image buffer, from its beginning, is to be stored.
    Store {
        /// As what.
        image: Image,
        /// Its length.
        bytes: usize,
    },
    /// Puts the image of the config that is stored into the image buffer.
    ReadBack,
    /// What is stored.
    Stored,
    /// Restarts the node.
    Reboot,
}

/// Where a config stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It runs and has not proved itself yet.
    Trial,
    /// It runs and has.
    Confirmed,
    /// It does not run before the next restart.
    Stored,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its name; `None` without settings.
    pub name: Option<NodeName>,
    /// Its board.
    pub board: &'static str,
    /// Its firmware.
    pub firmware: &'static str,
    /// Number of this boot in the ring.
    pub boot: u16,
    /// Boots since power came.
    pub boots: u32,
    /// Since this boot, ms.
    pub up_ms: u64,
    /// Why it started.
    pub cause: RestartCause,
    /// What it was that asked for a reset.
    pub asked: Option<Asked>,
    /// The fault that ended the boot before.
    pub fault: Option<Fault>,
    /// What it does without.
    pub degraded: Degraded,
    /// Number and digest of its config, and where that stands.
    pub config: Option<(u16, u32, Trial)>,
    /// Id, floor and next seq of its ring.
    pub ring: Option<(u32, u32, u32)>,
    /// Records that the gateway does not have, as far as is known.
    pub held: Option<u32>,
    /// Whether the gateway has answered this session.
    pub session: bool,
    /// UTC now in ms, and its error bound in ms, where it is known.
    pub utc: Option<(i64, u32)>,
    /// Bit n: alarm n.
    pub alarms: u32,
    /// What was counted since boot.
    pub counters: Counters,
    /// Deepest that the stack was, with the boot before, and its size; bytes.
    pub stack: (u32, u32),
    /// The network half.
    pub network: Glance,
    /// Errors of the ports of both lines.
    pub line_errors: [u32; 2],
}

/// A channel and its newest value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    /// What it measures.
    pub property: Property,
    /// Its newest reading; `None` before the first round.
    pub reading: Option<Reading>,
    /// Age of the round, ms.
    pub age_ms: u64,
}

/// An actuator of the config that runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Actuator {
    /// What it is.
    pub kind: ActuatorKind,
    /// Whether it is to be on.
    pub on: bool,
    /// Level of its pin, read back, where it is on one.
    pub pin: Option<(u8, Option<bool>)>,
}

/// What a self test found; `None` where there is nothing to be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tested {
    /// The flash takes and gives back records.
    pub flash: Option<bool>,
    /// By line: probes that answered in the newest round, of how many.
    pub lines: [Option<(u8, u8)>; 2],
    /// Direct inputs that gave a value in the newest round, of how many.
    pub inputs: Option<(u8, u8)>,
    /// Pins that read back as they are set, of how many.
    pub pins: Option<(u8, u8)>,
    /// The time of day is known.
    pub clock: bool,
    /// The gateway answers.
    pub gateway: bool,
}

/// What is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The board.
    pub board: &'static str,
    /// Its firmware.
    pub firmware: &'static str,
    /// Who the node is.
    pub name: Option<NodeName>,
    /// CRC of the settings image.
    pub settings: Option<u32>,
    /// Number and CRC of the config image, and where it stands.
    pub config: Option<(u16, u32, Trial)>,
    /// Number of this boot.
    pub boot: u16,
}

/// Why something that was sent is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// Its envelope says that it is not for this board, or not whole.
    #[error(transparent)]
    Envelope(node::envelope::EnvelopeError),
    /// The settings are not possible.
    #[error(transparent)]
    Settings(node::settings::SettingsError),
    /// The config is not possible.
    #[error(transparent)]
    Config(ConfigError),
    /// The config that runs is as new.
    #[error("its number is not above that of the one that runs")]
    NotNewer,
    /// The config that runs is on trial, and the place of the new one is that of the one before.
    #[error("the config that runs is on trial: it has to be confirmed first")]
    OnTrial,
    /// The flash did not take it.
    #[error("the flash does not take it")]
    Flash,
    /// The buffer is somebody else's.
    #[error("the buffer is in use")]
    Busy,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one, in a static")]
pub enum Answer {
    /// To [`Ask::Status`].
    Status(Status),
    /// To [`Ask::Channel`]; `None` when there is no such channel.
    Channel(Option<Channel>),
    /// To [`Ask::Config`]: number, digest, period in s, channels, actuators, and where it stands.
    Config(Option<(u16, u32, u16, u8, u8, Trial)>),
    /// To [`Ask::Actuator`].
    Actuator(Option<Actuator>),
    /// To [`Ask::Calibrate`].
    Calibrated(Result<(), Refusal>),
    /// To [`Ask::Confirm`].
    Confirmed(bool),
    /// To [`Ask::History`], as text.
    History(Option<heapless::String<96>>),
    /// To [`Ask::Fault`], as text.
    Fault(Option<heapless::String<96>>),
    /// To [`Ask::SelfTest`].
    Tested(Tested),
    /// To [`Ask::Scan`].
    Scanned(Scanned),
    /// To [`Ask::Store`].
    Stored(Result<StoredAs, NotStored>),
    /// To [`Ask::ReadBack`]: bytes in the image buffer.
    Read(Option<usize>),
    /// To [`Ask::Stored`].
    Has(Stored),
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredAs {
    /// Settings, for the next restart.
    Settings,
    /// A config with this number that runs, on trial.
    Trial(u16),
    /// A config with this number, for the next restart.
    Later(u16),
}

/// What a scan of one address found.
#[derive(Clone, Debug, PartialEq)]
pub enum Scanned {
    /// There is no such line.
    NoLine,
    /// Rounds leave no room on this line.
    NoRoom,
    /// Nobody is there.
    Nobody,
    /// Somebody.
    Somebody(Found),
}

/// Bytes of a frame, as shown.
pub type Frame = Vec<u8, 32>;
