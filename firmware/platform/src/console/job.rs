//! What a command asks the node half, and what it makes of the answers: pure, so that a test can be
//! the node.

use core::fmt::Write;

use crate::ask::{Answer, Ask, Image, NotStored, Scanned, Stored, StoredAs};

use super::command::Command;
use super::text;

/// Faults and configs that are listed.
const LISTED_MAX: u8 = 16;

/// What is being worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Status,
    /// The next channel; behind the last come so many actuators.
    Channels {
        next: u8,
        actuators: u8,
    },
    /// The next actuator, of so many.
    Actuators {
        next: u8,
        actuators: u8,
    },
    /// The address being asked, the last one, and how many were found.
    Scan {
        bus: u8,
        address: u8,
        to: u8,
        found: u8,
    },
    SelfTest,
    Faults(u8),
    History(u8),
    Config,
    Confirm,
    Calibrate {
        channel: u8,
        minutes: u32,
    },
    Reboot,
    /// What is stored, and then what runs.
    Show,
    Store {
        image: Image,
        bytes: usize,
    },
    /// Ends with the image in the buffer.
    ReadBack,
}

/// What comes after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask on.
    Ask(Job),
    /// It is done.
    Done,
    /// The image buffer holds so many bytes to be sent.
    Send(usize),
}

impl Job {
    /// The job of a command that has one.
    pub(super) fn of(command: Command) -> Option<Self> {
        Some(match command {
            Command::Status => Self::Status,
            Command::Channels => Self::Channels { next: 0, actuators: 0 },
            Command::Scan { bus, from, to } => Self::Scan { bus, address: from, to, found: 0 },
            Command::SelfTest => Self::SelfTest,
            Command::Faults => Self::Faults(0),
            Command::History => Self::History(0),
            Command::Config => Self::Config,
            Command::Confirm => Self::Confirm,
            Command::Calibrate { channel, minutes } => Self::Calibrate { channel, minutes },
            Command::Reboot => Self::Reboot,
            Command::Help | Command::Provision(_) => return None,
        })
    }

    /// What it asks.
    pub(super) fn ask(&self) -> Ask {
        match *self {
            Self::Status => Ask::Status,
            Self::Channels { next, .. } => Ask::Channel(next),
            Self::Actuators { next, .. } => Ask::Actuator(next),
            Self::Scan { bus, address, .. } => Ask::Scan { bus, address },
            Self::SelfTest => Ask::SelfTest,
            Self::Faults(n) => Ask::Fault(n),
            Self::History(n) => Ask::History(n),
            Self::Config => Ask::Config,
            Self::Confirm => Ask::Confirm,
            Self::Calibrate { channel, minutes } => Ask::Calibrate { channel, for_s: minutes * 60 },
            Self::Reboot => Ask::Reboot,
            Self::Show => Ask::Stored,
            Self::Store { image, bytes } => Ask::Store { image, bytes },
            Self::ReadBack => Ask::ReadBack,
        }
    }

    /// Takes the answer, and says what there is to say. What does not fit into `out` is cut.
    pub(super) fn take(self, answer: &Answer, out: &mut impl Write) -> Next {
        match (self, answer) {
            (Self::Status, Answer::Status(status)) => {
                let _cut = text::status(out, status);
                Next::Done
            }
            (Self::Channels { next, actuators }, Answer::Channel(channel)) => match channel {
                Some(channel) => {
                    let _cut = text::channel(out, next, channel);
                    next.checked_add(1).map_or(Next::Done, |next| Next::Ask(Self::Channels { next, actuators }))
                }
                None if next == 0 => say(out, "no channels"),
                None if actuators > 0 => Next::Ask(Self::Actuators { next: 0, actuators }),
                None => Next::Done,
            },
            (Self::Actuators { next, actuators }, Answer::Actuator(Some(actuator))) => {
                let _cut = text::actuator(out, next, actuator);
                match next + 1 < actuators {
                    true => Next::Ask(Self::Actuators { next: next + 1, actuators }),
                    false => Next::Done,
                }
            }
            (Self::Scan { bus, address, to, found }, Answer::Scanned(scanned)) => {
                let _cut = text::scanned(out, address, scanned);
                let found = found + u8::from(matches!(scanned, Scanned::Somebody(_)));
                if address < to && !matches!(scanned, Scanned::NoLine | Scanned::NoRoom) {
                    return Next::Ask(Self::Scan { bus, address: address + 1, to, found });
                }
                let _cut = write!(out, "{found} found\r\n");
                Next::Done
            }
            (Self::SelfTest, Answer::Tested(tested)) => {
                let _cut = text::tested(out, tested);
                Next::Done
            }
            (Self::Faults(n), Answer::Fault(entry)) => list(n, entry.as_deref(), "no faults", Self::Faults, out),
            (Self::History(n), Answer::History(entry)) => list(n, entry.as_deref(), "no configs", Self::History, out),
            (Self::Config, Answer::Config(None)) => say(out, "no config"),
            (Self::Config, Answer::Config(Some((number, digest, period_s, channels, actuators, trial)))) => {
                let _cut = write!(out, "config {number} ({digest:08x}), {}", text::trial(*trial));
                let _cut = write!(out, ": every {period_s} s, {channels} channels, {actuators} actuators\r\n");
                Next::Ask(Self::Channels { next: 0, actuators: *actuators })
            }
            (Self::Confirm, Answer::Confirmed(true)) => say(out, "confirmed"),
            (Self::Confirm, Answer::Confirmed(false)) => say(out, "no config is on trial"),
            (Self::Calibrate { channel, minutes }, Answer::Calibrated(outcome)) => {
                let _cut = match (outcome, minutes) {
                    (Err(_), _) => write!(out, "there is no channel {channel}\r\n"),
                    (Ok(()), 0) => write!(out, "channel {channel} is not being calibrated any more\r\n"),
                    (Ok(()), _) => write!(out, "channel {channel} is being calibrated for {minutes} min\r\n"),
                };
                Next::Done
            }
            (Self::Show, Answer::Has(stored)) => {
                let _cut = has(out, stored);
                Next::Done
            }
            (Self::Store { .. }, Answer::Stored(outcome)) => {
                let _cut = match *outcome {
                    Ok(StoredAs::Settings) => write!(out, "OK settings stored\r\n"),
                    Ok(StoredAs::Trial(number)) => write!(out, "OK config {number} trial\r\n"),
                    Ok(StoredAs::Later(number)) => write!(out, "OK config {number} stored\r\n"),
                    Err(why @ NotStored::Flash) => write!(out, "ERROR flash {why}\r\n"),
                    Err(why @ NotStored::Busy) => write!(out, "ERROR busy {why}\r\n"),
                    Err(why) => write!(out, "ERROR refused {why}\r\n"),
                };
                Next::Done
            }
            (Self::ReadBack, Answer::Read(Some(bytes))) => Next::Send(*bytes),
            (Self::ReadBack, Answer::Read(None)) => say(out, "ERROR none there is no config"),
            // An answer to another question: a late one, of a question that was given up.
            _ => say(out, "ERROR busy the node does not answer in time"),
        }
    }
}

fn say(out: &mut impl Write, text: &str) -> Next {
    let _cut = write!(out, "{text}\r\n");
    Next::Done
}

fn list(n: u8, entry: Option<&str>, none: &str, job: fn(u8) -> Job, out: &mut impl Write) -> Next {
    match entry {
        Some(entry) => {
            say(out, entry);
            if n + 1 < LISTED_MAX { Next::Ask(job(n + 1)) } else { Next::Done }
        }
        None if n == 0 => say(out, none),
        None => Next::Done,
    }
}

fn has(out: &mut impl Write, stored: &Stored) -> core::fmt::Result {
    write!(out, "DATA board {}\r\nDATA firmware {}\r\n", stored.board, stored.firmware)?;
    write!(out, "DATA name {}\r\n", stored.name.as_ref().map_or("-", |name| name.as_str()))?;
    match stored.settings {
        Some(crc) => write!(out, "DATA settings {crc:08x}\r\n")?,
        None => write!(out, "DATA settings -\r\n")?,
    }
    match stored.config {
        Some((number, crc, trial)) => write!(out, "DATA config {number} {crc:08x} {}\r\n", text::trial(trial))?,
        None => write!(out, "DATA config -\r\n")?,
    }
    write!(out, "DATA boot {}\r\nDATA config-max {}\r\nOK\r\n", stored.boot, node::config::IMAGE_BYTES_MAX)
}
