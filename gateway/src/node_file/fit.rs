//! Whether a node can live with what its file says: the node core's own check, told in the file's
//! words, again and again until nothing is left to be said; and the board's room.

use node::config::{Actuator, BUSES_MAX, Calibration, Config, ConfigError, IMAGE_BYTES_MAX, RELAY_TIME_OUT_S_MAX};
use node::control::{MISSED_MAX, Rule, STALE_MS};
use node::quality::Limits;
use sensors::modbus::{LineSettings, Parity, Settings as LineUse};
use telemetry::ActuatorKind;

use super::document::Document;
use super::{Named, Reading, room};

/// Complaints of the node core that are told of one file at most.
const ROUNDS_MAX: usize = 64;
/// Shortest outage that a ring has to outlast, in days.
const DAYS_MIN: f64 = 0.25;

impl Reading<'_> {
    /// Complains of all that the node core would refuse.
    pub(super) fn fit(&mut self, document: &Document, channels: &[Named]) {
        let mut config = self.config.clone();
        for _ in 0..ROUNDS_MAX {
            let Err(error) = config.validate() else { break };
            let (at, what) = self.explain(document, channels, error);
            self.found.at(at, what);
            if !mend(&mut config, error) {
                break;
            }
        }
        if self.found.all.is_empty() {
            let mut image = [0; IMAGE_BYTES_MAX];
            if self.config.encode(&mut image).is_err() {
                let what = format!("the config image is beyond {IMAGE_BYTES_MAX} bytes: fewer channels or profiles");
                self.found.of(&document.node.name, what);
            }
            if let Some(room) = room::ring(self.board, &self.config).filter(|room| room.days < DAYS_MIN) {
                let what = format!("{room}: not even a night's outage; a longer period_s, or fewer channels");
                let at = document.node.period_s.as_ref().map(|it| it.span().start);
                self.found.at(at.unwrap_or(document.node.name.span().start), what);
            }
        }
    }

    /// Where a complaint of the node core belongs, and what it means here.
    fn explain(&self, document: &Document, channels: &[Named], error: ConfigError) -> (usize, String) {
        use ConfigError as E;
        let node = document.node.name.span().start;
        let period_s = self.config.period_s;
        let channel = |index: u8| {
            let name = &document.channel[usize::from(index).min(document.channel.len() - 1)].name;
            (name.span().start, name.get_ref().as_str())
        };
        let actuator = |index: u8| {
            let name = &document.actuator[usize::from(index).min(document.actuator.len() - 1)].name;
            (name.span().start, name.get_ref().as_str())
        };
        let set = self.config.actuators.get(match error {
            E::TooSeldom(index) | E::SafeState(index) | E::Aerator(index) => usize::from(index),
            _ => usize::MAX,
        });
        match error {
            E::Slow(bus) => {
                let at = document.node.period_s.as_ref().map_or(node, |it| it.span().start);
                (at, self.slow(document, bus))
            }
            E::TooSeldom(index) => {
                let (at, name) = actuator(index);
                let due_s = set.and_then(|it| it.rule.channel().map(|_| u64::from(it.blind_after_s)));
                let due_s = due_s.unwrap_or(STALE_MS / 1_000);
                let takes_s = u64::from(period_s) * u64::from(MISSED_MAX);
                let most = due_s / u64::from(MISSED_MAX);
                if takes_s > due_s {
                    let what = format!(
                        "\"{name}\" would notice a dead probe after {takes_s} s ({MISSED_MAX} rounds of {period_s} s), and its \
                         safe state is due after {due_s} s: period_s = {most} at most"
                    );
                    return (at, what);
                }
                let what =
                    format!("the proof of \"{name}\" is due before a round is over: within_s = {period_s} at least");
                (at, what)
            }
            E::DeadCoil(index) => {
                let (at, name) = actuator(index);
                let what = format!(
                    "\"{name}\" is an aerator that stops when its relay board lets go of the coils: wire it to the contact \
                     that is closed while the coil is dead (NC), and write inverted = true"
                );
                (at, what)
            }
            E::HoldingRelays(index) => {
                let (at, name) = actuator(index);
                let table = document.actuator.get(usize::from(index));
                let relay = table.and_then(|it| it.relay.as_ref()).map_or("its relay board", |it| it.get_ref());
                let what = format!(
                    "\"{name}\" is an aerator and {relay} holds its coils when the node dies: give {relay} a time_out_s where \
                     it has one of its own, or put a watchdog relay in series and write watchdog_relay = true"
                );
                (at, what)
            }
            E::Aerator(index) => {
                let (at, name) = actuator(index);
                let what = if set.is_some_and(|it| it.kind == ActuatorKind::Aerator) {
                    format!("\"{name}\" is an aerator and follows no oxygen: give it an [actuator.aerator] rule")
                } else {
                    format!("\"{name}\" is no aerator: give it an [actuator.band] rule, or kind = \"aerator\"")
                };
                (at, what)
            }
            E::SafeState(index) => {
                let (at, name) = actuator(index);
                let what = match set.map(|it| it.kind) {
                    Some(ActuatorKind::Aerator) => {
                        format!("\"{name}\" is an aerator and is safe when on: leave restart_on out")
                    }
                    Some(kind) => {
                        format!(
                            "\"{name}\" is a {} and is safe only when off: safe_on = false, and no restart_on",
                            kind.name()
                        )
                    }
                    None => error.to_string(),
                };
                (at, what)
            }
            E::Rule(index) => {
                let (at, name) = actuator(index);
                let what = match set_rule(&self.config, index) {
                    Some(Rule::Aerator { channel: of, .. }) if !is_oxygen(&self.config, of) => {
                        let measured = channels.get(usize::from(of));
                        let (of, what) = measured.map_or(("?", "?"), |it| (it.name.as_str(), it.property.name()));
                        format!("\"{name}\" follows \"{of}\", which is {what}: an aerator follows dissolved_oxygen")
                    }
                    Some(Rule::Aerator { .. }) => format!(
                        "the limits of \"{name}\" are not in order: 0 < critical ≤ on_below < off_above < 25 mg/L"
                    ),
                    _ => format!("the limits of \"{name}\" are not in order: low < high"),
                };
                (at, what)
            }
            E::Run(index) => {
                let (at, name) = actuator(index);
                let what = format!(
                    "the longest run of \"{name}\" cannot be: run_s needs soak_s or off_s, is not below on_s, and is not for \
                     what is safe when on"
                );
                (at, what)
            }
            E::Night(index) => {
                let (at, name) = actuator(index);
                (at, format!("night_floor of \"{name}\" is for aerators, and needs a [place] to know the sun by"))
            }
            E::Manual(index) => {
                let (at, name) = actuator(index);
                (
                    at,
                    format!("the local switch of \"{name}\" is a channel with property = \"state\", such as a contact"),
                )
            }
            E::Proof(index) => {
                let (at, name) = actuator(index);
                let what = format!(
                    "the proof of \"{name}\" cannot be: at_least is above 0, a backup is another aerator, and what is safe \
                     when off rests 60 s at least (off_s or soak_s) between two attempts"
                );
                (at, what)
            }
            E::Output(index) => {
                let (at, name) = actuator(index);
                (at, format!("\"{name}\": {error}"))
            }
            E::Interlock(index) => {
                let at = self.interlocks.get(usize::from(index)).and_then(|at| document.interlock.get(*at));
                let what = "this interlock cannot be: it must not force an aerator off nor start blindly what is safe only \
                            when off, release is on the other side of level, and while_on and while_off name an actuator \
                            further up in the file, with force = \"off\"";
                (at.map_or(node, |it| it.actuator.span().start), what.into())
            }
            E::NotCompensated(index) => {
                let (at, name) = channel(index);
                let what = format!(
                    "the probe of \"{name}\" gives oxygen as if of fresh water: write compensate_with = the channel of the \
                     water's temperature"
                );
                (at, what)
            }
            E::CompensatedTwice(index) => {
                let (at, name) = channel(index);
                (at, format!("the probe of \"{name}\" compensates by itself: leave compensate_with out"))
            }
            E::Source(index) => {
                let (at, name) = channel(index);
                let what =
                    format!("compensate_with of \"{name}\" is for dissolved_oxygen, and names a water_temperature");
                (at, what)
            }
            E::Calibration(index) => {
                let (at, name) = channel(index);
                (at, format!("the calibration of \"{name}\" is none that an instrument needs: slope is 0.1 to 10"))
            }
            E::Limits(index) => {
                let (at, name) = channel(index);
                (at, format!("min and max of \"{name}\" are no range, or would call low oxygen implausible"))
            }
            E::Range(what) => (node, range(what)),
            E::RelayBoard(index) => {
                let at = self.relays.iter().position(|it| *it == Some(index)).and_then(|at| document.relay.get(at));
                (at.map_or(node, |it| it.name.span().start), error.to_string())
            }
            E::RelayTimeOut(index) => {
                let at = self.relays.iter().position(|it| *it == Some(index)).and_then(|at| document.relay.get(at));
                let place = at.map(|it| it.time_out_s.as_ref().map_or(it.name.span().start, |it| it.span().start));
                let now_s = self.config.relays.get(usize::from(index)).map_or(0, |it| it.time_out_s);
                let set = |config: &mut Config, time_out_s| {
                    if let Some(board) = config.relays.get_mut(usize::from(index)) {
                        board.time_out_s = time_out_s;
                    }
                };
                let least = self.least(now_s + 1..=RELAY_TIME_OUT_S_MAX, set, error);
                let remedy = least.map_or_else(String::new, |it| format!("time_out_s = {it} at least, or "));
                let what =
                    format!("its line may keep it waiting for a third of its time-out: {remedy}a line of its own");
                (place.unwrap_or(node), what)
            }
            E::Input(index) => {
                let of = self
                    .config
                    .channels
                    .iter()
                    .position(|it| matches!(it.source, node::config::Source::Direct { input } if input == index));
                let (at, name) = channel(of.and_then(|of| u8::try_from(of).ok()).unwrap_or(0));
                (at, format!("slope and offset of \"{name}\" are numbers, and slope is not 0"))
            }
            _ => (node, error.to_string()),
        }
    }

    /// Who takes how long on a line, and with what period all get a turn.
    fn slow(&self, document: &Document, bus: u8) -> String {
        let mut all = Vec::new();
        for (at, index) in self.probes.iter().enumerate() {
            let Some(index) = index else { continue };
            let on_it = self.config.probes.get(usize::from(*index)).is_some_and(|it| it.bus == bus);
            let Some(ms) = self.config.probe_slot_ms_max(*index).filter(|_| on_it) else { continue };
            let name = document.probe.get(at).map_or("?", |it| it.name.get_ref());
            all.push(format!("\"{name}\" {ms} ms"));
        }
        for (at, index) in self.relays.iter().enumerate() {
            let Some(index) = index else { continue };
            if self.config.relays.get(usize::from(*index)).is_some_and(|it| it.bus == bus) {
                let ms = self.config.relay_slot_ms_max(*index);
                let name = document.relay.get(at).map_or("?", |it| it.name.get_ref());
                all.push(format!("\"{name}\" {ms} ms at each of its turns"));
            }
        }
        let line = self.board.lines.names.get(usize::from(bus)).map_or("?", String::as_str);
        let now_s = self.config.period_s;
        let least =
            self.least(now_s + 1..=3_600, |config, period_s| config.period_s = period_s, ConfigError::Slow(bus));
        let remedy =
            least.map_or_else(|| "a longer time_out_s, or ".to_owned(), |it| format!("period_s = {it} at least, or "));
        format!(
            "who is on {line} may take longer ({}) than a round lasts, {now_s} s: {remedy}another line for some of them",
            all.join(", ")
        )
    }

    /// The least number with which the node core does not say this of the lines any more.
    fn least(
        &self,
        mut numbers: std::ops::RangeInclusive<u16>,
        set: impl Fn(&mut Config, u16),
        error: ConfigError,
    ) -> Option<u16> {
        let mut config = self.config.clone();
        config.actuators.clear();
        config.interlocks.clear();
        numbers.find(|number| {
            set(&mut config, *number);
            config.validate() != Err(error)
        })
    }
}

fn set_rule(config: &Config, index: u8) -> Option<Rule> {
    config.actuators.get(usize::from(index)).map(|it| it.rule)
}

fn is_oxygen(config: &Config, channel: u8) -> bool {
    let of = config.channels.get(usize::from(channel));
    of.is_some_and(|it| it.property == telemetry::Property::DissolvedOxygen)
}

fn range(what: &str) -> String {
    let within = match what {
        "period_s" => "1 to 3600",
        "batch_records" => "1 to 256",
        "salinity_psu" => "0 to 42",
        "pressure_hpa" => "500 to 1100",
        "leaf_warmer_c" => "-10 to 10",
        "place" => "latitude -66 to 66, longitude -180 to 180",
        "blind_after_s" => "1 to 600",
        _ => return format!("{what} is out of range"),
    };
    format!("{what} is out of range: {within}")
}

/// Nobody counts on an actuator as a backup that is no aerator any more.
pub(super) fn forget_backup(config: &mut Config, of: u8) {
    for proof in config.actuators.iter_mut().filter_map(|it| it.proof.as_mut()) {
        proof.backup = proof.backup.filter(|backup| *backup != of);
    }
}

/// Makes a copy of the config right where `error` says, so that what is wrong behind it shows;
/// whether it could.
fn mend(config: &mut Config, error: ConfigError) -> bool {
    use ConfigError as E;
    let lamp = Actuator::new(ActuatorKind::Lamp, Rule::Remote);
    match error {
        E::Slow(bus) if usize::from(bus) < BUSES_MAX => {
            // Only so that the rest is looked at: nobody talks to a probe like this.
            let Some(line) = LineSettings::new(LineSettings::BAUD_MAX, Parity::None, 1) else { return false };
            let fast = LineUse { line, echo: false, response_ms: 1, retries: 0 };
            let on_it = config.probes.iter_mut().filter(|it| it.bus == bus);
            on_it.fold(false, |changed, probe| changed | (probe.settings.replace(fast) != Some(fast)))
        }
        E::TooSeldom(index)
        | E::HoldingRelays(index)
        | E::DeadCoil(index)
        | E::Aerator(index)
        | E::SafeState(index)
        | E::Rule(index)
        | E::Run(index)
        | E::Night(index)
        | E::Manual(index)
        | E::Proof(index)
        | E::Output(index) => {
            let changed = config.actuators.get_mut(usize::from(index)).is_some_and(|it| {
                *it != lamp && {
                    *it = lamp;
                    true
                }
            });
            forget_backup(config, index);
            changed
        }
        E::Interlock(index) => {
            let there = usize::from(index) < config.interlocks.len();
            if there {
                config.interlocks.remove(usize::from(index));
            }
            there
        }
        E::NotCompensated(index) | E::CompensatedTwice(index) | E::Source(index) => {
            config.channels.get_mut(usize::from(index)).is_some_and(|it| {
                let changed = it.compensate_with.is_some() || !matches!(it.source, node::config::Source::Direct { .. });
                (it.compensate_with, it.source) = (None, node::config::Source::Direct { input: 0 });
                changed
            })
        }
        E::RelayTimeOut(index) => config.relays.get_mut(usize::from(index)).is_some_and(|it| {
            let changed = it.time_out_s != RELAY_TIME_OUT_S_MAX;
            it.time_out_s = RELAY_TIME_OUT_S_MAX;
            changed
        }),
        E::Calibration(index) => config.channels.get_mut(usize::from(index)).is_some_and(|it| {
            it.calibration = Calibration::default();
            true
        }),
        E::Limits(index) => config.channels.get_mut(usize::from(index)).is_some_and(|it| {
            it.limits = Limits::default();
            true
        }),
        E::Input(index) => config.inputs.get_mut(usize::from(index)).is_some_and(|it| {
            (it.slope, it.offset) = (1.0, 0.0);
            true
        }),
        E::Range("salinity_psu") => {
            config.salinity_psu = 0.0;
            true
        }
        E::Range("pressure_hpa") => {
            config.pressure_hpa = 1_013.25;
            true
        }
        E::Range("leaf_warmer_c") => {
            config.leaf_warmer_c = 0.0;
            true
        }
        E::Range("batch_records") => {
            config.batch_records = 1;
            true
        }
        E::Range("place") => {
            config.place = None;
            true
        }
        _ => false,
    }
}
