//! What a line means.

use node::config::BUSES_MAX;
use sensors::modbus::Request;

use crate::ask::Image;

/// Longest calibration that can be asked for, minutes.
const CALIBRATION_MIN_MAX: u32 = 120;
/// That of a calibration where nothing is said, minutes.
const CALIBRATION_MIN: u32 = 30;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Status,
    Channels,
    Scan { bus: u8, from: u8, to: u8 },
    SelfTest,
    Faults,
    Config,
    Confirm,
    History,
    Calibrate { channel: u8, minutes: u32 },
    Reboot,
    Provision(Provision),
}

/// A command of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provision {
    Begin { image: Image, bytes: usize, crc: u32 },
    End,
    Abort,
    Show,
    Read,
    Restart,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// No such command.
    Unknown,
    /// This is how it is used.
    Usage(&'static str),
}

const SCAN: Mistake = Mistake::Usage("scan BUS [FROM TO], BUS 0-1, FROM and TO 1-247");
const CALIBRATE: Mistake =
    Mistake::Usage("calibrate CHANNEL begin [MINUTES] or calibrate CHANNEL end, at most 120 minutes");
const CONFIG: Mistake = Mistake::Usage("config, config confirm or config history");
const PROVISION: Mistake =
    Mistake::Usage("provision settings|config LENGTH CRC, provision end|abort|show|read|restart");

/// Reads a line that is not empty.
pub(crate) fn parse(line: &str) -> Result<Command, Mistake> {
    let mut words = line.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let rest = [words.next(), words.next(), words.next()];
    if words.next().is_some() {
        return Err(Mistake::Unknown);
    }
    let bare = |command| if rest == [None; 3] { Ok(command) } else { Err(Mistake::Usage("it takes no arguments")) };
    match first {
        "help" | "?" => bare(Command::Help),
        "status" => bare(Command::Status),
        "channels" => bare(Command::Channels),
        "selftest" => bare(Command::SelfTest),
        "faults" => bare(Command::Faults),
        "reboot" => bare(Command::Reboot),
        "scan" => scan(rest).ok_or(SCAN),
        "config" => match rest {
            [None, None, None] => Ok(Command::Config),
            [Some("confirm"), None, None] => Ok(Command::Confirm),
            [Some("history"), None, None] => Ok(Command::History),
            _ => Err(CONFIG),
        },
        "calibrate" => calibrate(rest).ok_or(CALIBRATE),
        "provision" => provision(rest).map(Command::Provision).ok_or(PROVISION),
        _ => Err(Mistake::Unknown),
    }
}

fn scan(words: [Option<&str>; 3]) -> Option<Command> {
    let [bus, from, to] = words;
    let bus = bus?.parse().ok().filter(|bus| usize::from(*bus) < BUSES_MAX)?;
    let (from, to) = match (from, to) {
        (None, None) => (1, Request::ADDRESS_MAX),
        (Some(from), Some(to)) => (from.parse().ok()?, to.parse().ok()?),
        _ => return None,
    };
    (1 <= from && from <= to && to <= Request::ADDRESS_MAX).then_some(Command::Scan { bus, from, to })
}

fn calibrate(words: [Option<&str>; 3]) -> Option<Command> {
    let [channel, what, minutes] = words;
    let channel = channel?.parse().ok()?;
    let minutes = match (what?, minutes) {
        ("begin", None) => CALIBRATION_MIN,
        ("begin", Some(minutes)) => minutes.parse().ok().filter(|m| (1..=CALIBRATION_MIN_MAX).contains(m))?,
        ("end", None) => 0,
        _ => return None,
    };
    Some(Command::Calibrate { channel, minutes })
}

fn provision(words: [Option<&str>; 3]) -> Option<Provision> {
    Some(match words {
        [Some("end"), None, None] => Provision::End,
        [Some("abort"), None, None] => Provision::Abort,
        [Some("show"), None, None] => Provision::Show,
        [Some("read"), None, None] => Provision::Read,
        [Some("restart"), None, None] => Provision::Restart,
        [Some(what), Some(bytes), Some(crc)] => {
            let image = match what {
                "settings" => Image::Settings,
                "config" => Image::Config,
                _ => return None,
            };
            let hex = crc.len() == 8 && crc.bytes().all(|b| b.is_ascii_hexdigit());
            let crc = u32::from_str_radix(crc, 16).ok().filter(|_| hex)?;
            Provision::Begin { image, bytes: bytes.parse().ok()?, crc }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_what_the_page_says() {
        for (line, command) in [
            ("help", Command::Help),
            ("  status  ", Command::Status),
            ("channels", Command::Channels),
            ("scan 0", Command::Scan { bus: 0, from: 1, to: 247 }),
            ("scan 1 3 9", Command::Scan { bus: 1, from: 3, to: 9 }),
            ("selftest", Command::SelfTest),
            ("faults", Command::Faults),
            ("config", Command::Config),
            ("config confirm", Command::Confirm),
            ("config history", Command::History),
            ("calibrate 4 begin", Command::Calibrate { channel: 4, minutes: 30 }),
            ("calibrate 4 begin 90", Command::Calibrate { channel: 4, minutes: 90 }),
            ("calibrate 4 end", Command::Calibrate { channel: 4, minutes: 0 }),
            ("reboot", Command::Reboot),
            ("provision end", Command::Provision(Provision::End)),
            ("provision abort", Command::Provision(Provision::Abort)),
            ("provision show", Command::Provision(Provision::Show)),
            ("provision read", Command::Provision(Provision::Read)),
            ("provision restart", Command::Provision(Provision::Restart)),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
        let begin = Provision::Begin { image: Image::Settings, bytes: 211, crc: 0x9a0b_33c1 };
        assert_eq!(parse("provision settings 211 9a0b33c1"), Ok(Command::Provision(begin)));
    }

    #[test]
    fn what_is_wrong_is_said_and_never_guessed() {
        for line in ["reboots", "status now please sir madam", "x"] {
            assert_eq!(parse(line), Err(Mistake::Unknown), "{line}");
        }
        for line in [
            "scan",
            "scan 2",
            "scan 0 5",
            "scan 0 9 3",
            "scan 0 0 3",
            "scan 0 1 248",
            "scan 0 1 999",
            "status now",
            "config delete",
            "calibrate",
            "calibrate 4",
            "calibrate 4 begin 0",
            "calibrate 4 begin 121",
            "calibrate 4 end 5",
            "calibrate 300 end",
            "provision",
            "provision settings 211",
            "provision settings x 9a0b33c1",
            "provision settings 211 9a0b33",
            "provision settings 211 +9a0b33c",
            "provision firmware 1 9a0b33c1",
        ] {
            assert!(matches!(parse(line), Err(Mistake::Usage(_))), "{line}");
        }
    }
}
