//! Answers as text for people.

use core::fmt::{self, Display, Write};

use node::RestartCause;
use telemetry::{Alarm, Flag, Property, Quality};

use crate::ask::{Actuator, Channel, Scanned, Status, Tested, Trial};
use crate::exchange::Doing;

/// What `help` says.
pub(crate) const HELP: &str = "\
status                              how the node stands\r
channels                            newest values\r
scan BUS [FROM TO]                  who is on a Modbus line\r
selftest                            what answers\r
faults                              newest faults\r
config [confirm|history]            the config that runs\r
calibrate CHANNEL begin [MINUTES]   mark a channel's readings\r
calibrate CHANNEL end\r
reboot                              restart the node\r
provision ...                       for programs: CONSOLE.md\r
";

/// An integer with its last `digits` behind a point.
struct Fixed(i32, u8);

impl Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, digits) = *self;
        let unit = 10u32.checked_pow(u32::from(digits)).unwrap_or(1);
        let size = value.unsigned_abs();
        if value < 0 {
            f.write_char('-')?;
        }
        write!(f, "{}", size / unit)?;
        match digits {
            0 => Ok(()),
            digits => write!(f, ".{:0width$}", size % unit, width = usize::from(digits)),
        }
    }
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// An IPv6 address as RFC 5952 wants it, but never with an IPv4 address in it. (The one of `core` aligns as well,
/// for 2 KB.)
struct V6([u16; 8]);

impl Display for V6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first of the longest runs of zeros, of two at least.
        let (mut from, mut longest, mut run) = (0, 1, 0);
        for (index, part) in self.0.iter().enumerate() {
            run = if *part == 0 { run + 1 } else { 0 };
            if run > longest {
                (from, longest) = (index + 1 - run, run);
            }
        }
        let gap = if longest > 1 { from..from + longest } else { 8..8 };
        for (index, part) in self.0.iter().enumerate() {
            if index == gap.start {
                f.write_str("::")?;
            }
            if !gap.contains(&index) {
                let colon = if index == 0 || index == gap.end { "" } else { ":" };
                write!(f, "{colon}{part:x}")?;
            }
        }
        Ok(())
    }
}

/// A time, days and hours as far as there are any.
struct Span(u64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0 / 1_000;
        if s >= 86_400 {
            write!(f, "{} d ", s / 86_400)?;
        }
        write!(f, "{:02}:{:02}:{:02}", s / 3_600 % 24, s / 60 % 60, s % 60)
    }
}

/// What a channel's value is written as: `7.19`.
pub(crate) fn value(property: Property, value: i32) -> impl Display {
    Fixed(value, property.facts().digits)
}

fn cause(cause: RestartCause) -> &'static str {
    match cause {
        RestartCause::Unknown => "unknown",
        RestartCause::Power => "power",
        RestartCause::Watchdog => "watchdog",
        RestartCause::Software => "software",
        RestartCause::BrownOut => "brown-out",
        RestartCause::Fault => "fault",
    }
}

fn doing(doing: Doing) -> &'static str {
    match doing {
        Doing::Nothing => "off: no settings, or it hung too often",
        Doing::Asleep => "asleep",
        Doing::Link => "bringing the link up",
        Doing::Address => "waiting for an address",
        Doing::Name => "asking for the gateway's address",
        Doing::Connect => "connecting",
        Doing::Connected => "connected",
        Doing::Pause => "waiting before the next attempt",
    }
}

/// Where a config stands.
pub(crate) fn trial(trial: Trial) -> &'static str {
    match trial {
        Trial::Trial => "trial",
        Trial::Confirmed => "confirmed",
        Trial::Stored => "stored",
    }
}

fn flag(flag: Flag) -> &'static str {
    match flag {
        Flag::Good => "good",
        Flag::NotEvaluated => "not evaluated",
        Flag::Suspect => "SUSPECT",
        Flag::Fail => "FAIL",
        Flag::Missing => "MISSING",
    }
}

/// Answer to `status`.
pub(crate) fn status(out: &mut impl Write, status: &Status) -> fmt::Result {
    match &status.name {
        Some(name) => write!(out, "{name}")?,
        None => write!(out, "no settings yet")?,
    }
    write!(out, ", {} on {}\r\n", status.firmware, status.board)?;
    write!(out, "boot {}, up {}, started by {}", status.boot, Span(status.up_ms), cause(status.cause))?;
    write!(out, ", {} since power came\r\n", status.boots)?;
    if let Some(fault) = status.fault {
        write!(out, "last fault: kind {} at {:08x}, {:08x}\r\n", fault.kind, fault.address, fault.detail)?;
    }
    if status.degraded.storage {
        write!(out, "DEGRADED: runs without ring, the flash hung\r\n")?;
    }
    if status.degraded.network {
        write!(out, "DEGRADED: runs without network, it hung\r\n")?;
    }
    match status.config {
        Some((number, digest, of)) => write!(out, "config {number} ({digest:08x}), {}\r\n", trial(of))?,
        None => write!(out, "no config: measures and controls nothing\r\n")?,
    }
    match status.ring {
        Some((id, floor, next)) => write!(out, "ring {id:08x}: from {floor}, next {next}")?,
        None => write!(out, "no ring")?,
    }
    match status.held {
        Some(held) => write!(out, ", {held} not yet with the gateway\r\n")?,
        None => write!(out, "\r\n")?,
    }
    let session = if status.session { "the gateway answers" } else { "the gateway has not answered" };
    write!(out, "session: {session}")?;
    match status.utc {
        Some((utc_ms, error_ms)) => write!(out, ", UTC {} s +- {error_ms} ms\r\n", utc_ms.div_euclid(1_000))?,
        None => write!(out, ", the time of day is not known\r\n")?,
    }
    network(out, status)?;
    write!(out, "alarms:")?;
    let raised = |alarm: &Alarm| status.alarms & alarm.bit() != 0;
    match Alarm::ALL.iter().any(raised) {
        true => Alarm::ALL.into_iter().filter(raised).try_for_each(|alarm| write!(out, " {}", alarm.name()))?,
        false => write!(out, " none")?,
    }
    let counters = &status.counters;
    write!(out, "\r\nrounds {}, not kept {}", counters.rounds, counters.unkept)?;
    write!(out, ", overwritten {}, refused {}", counters.lost, counters.refused)?;
    let [first, second] = status.line_errors;
    write!(out, ", line errors {} {}\r\n", first, second)?;
    let (used, size) = status.stack;
    write!(out, "stack {used} of {size} bytes\r\n")
}

fn network(out: &mut impl Write, status: &Status) -> fmt::Result {
    let glance = &status.network;
    write!(out, "network: {}", doing(glance.doing))?;
    if let Some((address, bits)) = glance.ipv4 {
        let [a, b, c, d] = address.octets();
        write!(out, ", {a}.{b}.{c}.{d}/{bits}")?;
    }
    if let Some((address, bits)) = glance.ipv6 {
        write!(out, ", {}/{bits}", V6(address.segments()))?;
    }
    if let Some(rssi) = glance.rssi {
        write!(out, ", {rssi} dBm")?;
    }
    if let Some(error) = glance.link_error {
        write!(out, ", {error}")?;
    }
    let n = &glance.counters;
    write!(out, "\r\n  connected {}, failed: link {}, address {}, TCP {}", n.connected, n.link, n.address, n.tcp)?;
    write!(out, ", TLS {}, other key {}, log-in {}", n.tls, n.pin, n.refused)?;
    write!(out, ", malformed {}, lost {}, foreign {}\r\n", n.malformed, n.lost, n.foreign)
}

/// A line of `channels`.
pub(crate) fn channel(out: &mut impl Write, index: u8, channel: &Channel) -> fmt::Result {
    let Channel { property, reading, age_ms } = channel;
    write!(out, "{index:2} {:24} ", property.name())?;
    let Some(reading) = reading else { return write!(out, "no round yet\r\n") };
    match reading.quality {
        Quality::Missing(reason) => write!(out, "MISSING: {}", reason.name())?,
        Quality::Present { flag: of, .. } => {
            let shown = value(*property, reading.value);
            write!(out, "{shown} {} {}", property.facts().symbol, flag(of))?;
        }
    }
    write!(out, ", {} s ago\r\n", age_ms / 1_000)
}

/// A line about an actuator.
pub(crate) fn actuator(out: &mut impl Write, index: u8, actuator: &Actuator) -> fmt::Result {
    let on = if actuator.on { "on" } else { "off" };
    write!(out, "actuator {index} {}: {on}", actuator.kind.name())?;
    match actuator.pin {
        Some((pin, Some(high))) => write!(out, ", pin {pin} {}\r\n", if high { "high" } else { "low" }),
        Some((pin, None)) => write!(out, ", pin {pin} that this board does not have\r\n"),
        None => write!(out, "\r\n"),
    }
}

/// What a scan of one address found; nothing about nobody.
pub(crate) fn scanned(out: &mut impl Write, address: u8, scanned: &Scanned) -> fmt::Result {
    match scanned {
        Scanned::NoLine => write!(out, "this board has no such line\r\n"),
        Scanned::NoRoom => write!(out, "rounds leave no room on this line: a longer period would\r\n"),
        Scanned::Nobody => Ok(()),
        Scanned::Somebody(found) => {
            write!(out, "found address {address}: ")?;
            match (&found.looks_like, found.exception) {
                (Some(name), _) => write!(out, "looks like {name}\r\n")?,
                (None, Some(code)) => write!(out, "answers with exception {code}, like no profile of the config\r\n")?,
                (None, None) => write!(out, "like no profile of the config\r\n")?,
            }
            write!(out, "  >{}\r\n  <{}\r\n", Hex(&found.request), Hex(&found.answer))
        }
    }
}

/// Answer to `selftest`.
pub(crate) fn tested(out: &mut impl Write, tested: &Tested) -> fmt::Result {
    let word = |fine: bool| if fine { "ok" } else { "FAILS" };
    let count = |out: &mut dyn Write, what: fmt::Arguments<'_>, counted: Option<(u8, u8)>| match counted {
        Some((fine, all)) => write!(out, "{what}: {fine} of {all} {}\r\n", word(fine == all)),
        None => write!(out, "{what}: none\r\n"),
    };
    match tested.flash {
        Some(fine) => write!(out, "flash: {}\r\n", word(fine))?,
        None => write!(out, "flash: not used without a config\r\n")?,
    }
    for (bus, line) in tested.lines.into_iter().enumerate() {
        count(out, format_args!("probes on line {bus} that answer"), line)?;
    }
    count(out, format_args!("parts that give a value"), tested.inputs)?;
    count(out, format_args!("pins that read back as set"), tested.pins)?;
    write!(out, "time of day: {}\r\n", if tested.clock { "ok" } else { "not known" })?;
    write!(out, "gateway: {}\r\n", if tested.gateway { "ok" } else { "has not answered" })
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn ipv6_addresses_are_written_as_the_standard_library_writes_them() {
        for text in [
            "::",
            "::1",
            "1::",
            "fe80::5054:ff:fe12:3456",
            "2001:db8::1:0:0:1",
            "2001:db8:0:1:1:1:1:1",
            "1:2:3:4:5:6:7:8",
        ] {
            let address: Ipv6Addr = text.parse().unwrap();
            assert_eq!(format!("{}", V6(address.segments())), format!("{address}"));
        }
        // Every place of zeros.
        for zeros in 0..=u8::MAX {
            let address =
                Ipv6Addr::from(core::array::from_fn(|n| if zeros >> n & 1 == 1 { 0u16 } else { 0xa0 + n as u16 }));
            if address.to_ipv4().is_none() {
                assert_eq!(format!("{}", V6(address.segments())), format!("{address}"));
            }
        }
    }
}
