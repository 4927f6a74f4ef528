//! Actuators and interlocks of a node file.

use node::config::{Actuator, Drive, Manual, Output, Proof};
use node::control::{Condition, Interlock, Pauses, Rule};
use telemetry::ActuatorKind;

use super::Reading;
use super::document::{ActuatorTable, Document, Force, InterlockTable, Name};
use super::fit::forget_backup;

impl Reading<'_> {
    /// Takes the actuators in, each at its index, also those that cannot be.
    pub(super) fn actuators(&mut self, document: &Document) {
        self.found.unique("actuator", document.actuator.iter().map(|it| &it.name));
        let mut wrong = Vec::new();
        for (index, table) in (0u8..).zip(&document.actuator) {
            let actuator = self.actuator(document, table);
            wrong.extend(actuator.is_none().then_some(index));
            // What cannot be is judged no further, as a lamp that nothing but an order switches.
            let actuator = actuator.unwrap_or(Actuator::new(ActuatorKind::Lamp, Rule::Remote));
            if self.config.actuators.push(actuator).is_err() {
                self.found.of(&table.name, "a node has room for 8 actuators");
                break;
            }
        }
        for index in wrong {
            forget_backup(&mut self.config, index);
        }
    }

    fn channel(&mut self, document: &Document, name: &Name) -> Option<u8> {
        let known = document.channel.iter().map(|it| it.name.get_ref().as_str());
        self.found.find("channel", name, known).and_then(|at| u8::try_from(at).ok())
    }

    fn other(&mut self, document: &Document, name: &Name) -> Option<u8> {
        let known = document.actuator.iter().map(|it| it.name.get_ref().as_str());
        self.found.find("actuator", name, known).and_then(|at| u8::try_from(at).ok())
    }

    fn actuator(&mut self, document: &Document, table: &ActuatorTable) -> Option<Actuator> {
        let kinds = ActuatorKind::ALL.iter().map(|it| it.name());
        let kind = self.found.find("kind of actuator", &table.kind, kinds);
        let (drive, output) = self.output(document, table);
        let rule = self.rule(document, table, kind.and_then(|at| ActuatorKind::ALL.get(at)).copied());
        let mut hand = |name: &Option<Name>| match name {
            Some(name) => self.channel(document, name).map(Some),
            None => Some(None),
        };
        let manual = match &table.manual {
            Some(manual) => hand(&manual.on).zip(hand(&manual.off)).map(|(on, off)| Manual { on, off }),
            None => Some(Manual::default()),
        };
        let proof = match &table.proof {
            Some(proof) => {
                let channel = self.channel(document, &proof.channel);
                let backup = match &proof.backup {
                    Some(backup) => self.other(document, backup).map(Some),
                    None => Some(None),
                };
                channel.zip(backup).map(|(channel, backup)| {
                    Some(Proof { channel, at_least: proof.at_least, within_s: proof.within_s, backup })
                })
            }
            None => Some(None),
        };
        let usual = Actuator::new(*ActuatorKind::ALL.get(kind?)?, rule?);
        Some(Actuator {
            drive,
            output,
            restart_on: table.restart_on,
            blind_after_s: table.blind_after_s.unwrap_or(usual.blind_after_s),
            run_s: table.run_s,
            soak_s: table.soak_s,
            night_floor: table.night_floor,
            manual: manual?,
            proof: proof?,
            ..usual
        })
    }

    /// Through what and where it is switched; nowhere where that has been complained about.
    fn output(&mut self, document: &Document, table: &ActuatorTable) -> (Drive, Output) {
        let inverted = table.inverted;
        match (&table.output, &table.relay) {
            (Some(pin), None) => {
                let number = self.pin(pin, &self.board.outputs, "switch", table.name.get_ref());
                (Drive::Pin, number.map_or(Output::Host, |pin| Output::Pin { pin, inverted }))
            }
            (None, Some(relay)) => {
                let known = document.relay.iter().map(|it| it.name.get_ref().as_str());
                let at = self.found.find("relay board", relay, known);
                let Some(coil) = &table.coil else {
                    self.found.of(
                        &table.name,
                        format!("\"{}\" needs its coil: write coil = 0 for the first", table.name.get_ref()),
                    );
                    return (Drive::RelaysWatchdog, Output::Host);
                };
                let number = at.and_then(|at| self.relays.get(at).copied().flatten());
                let board = number.and_then(|at| self.config.relays.get(usize::from(at)).copied());
                let profile = board.and_then(|it| self.profiles.get(usize::from(it.profile)));
                let coils = profile.and_then(|(_, it)| Some(it.profile().ok()?.relay()?.coils));
                let coil_number = *coil.get_ref();
                if let Some(coils) = coils.filter(|coils| coil_number >= *coils) {
                    let what = format!("\"{}\" has {coils} coils: 0 to {}", relay.get_ref(), coils - 1);
                    self.found.at(coil.span().start, what);
                    return (Drive::RelaysWatchdog, Output::Host);
                }
                let place = format!("coil {coil_number} of {}", relay.get_ref());
                if let Some((_, other)) = self.taken.iter().find(|(it, _)| *it == place) {
                    let what = format!(
                        "{place} is \"{other}\"'s already: choose another one for \"{}\"",
                        table.name.get_ref()
                    );
                    self.found.at(coil.span().start, what);
                    return (Drive::RelaysWatchdog, Output::Host);
                }
                self.taken.push((place, table.name.get_ref().clone()));
                let times_out = board.is_some_and(|it| it.time_out_s > 0);
                let drive = match (table.watchdog_relay, times_out, board.is_none()) {
                    (true, ..) | (.., true) => Drive::RelaysWatchdog,
                    (false, true, _) => Drive::RelaysTimeOut,
                    (false, false, _) => Drive::Relays,
                };
                let output = number.map(|relay| Output::Coil { relay, coil: coil_number, inverted });
                (drive, output.unwrap_or(Output::Host))
            }
            (Some(_), Some(_)) => {
                let what =
                    format!("\"{}\" is switched at two places: give output or relay, not both", table.name.get_ref());
                self.found.of(&table.name, what);
                (Drive::RelaysWatchdog, Output::Host)
            }
            (None, None) => {
                let what = format!(
                    "\"{}\" says not where it is switched: give output = \"PIN\", or relay and coil",
                    table.name.get_ref()
                );
                self.found.of(&table.name, what);
                (Drive::RelaysWatchdog, Output::Host)
            }
        }
    }

    fn rule(&mut self, document: &Document, table: &ActuatorTable, kind: Option<ActuatorKind>) -> Option<Rule> {
        match (&table.aerator, &table.band) {
            (Some(_), Some(band)) => {
                self.found.at(band.span().start, "one rule each: aerator or band, not both");
                None
            }
            (Some(it), None) => {
                let it = it.get_ref();
                Some(Rule::Aerator {
                    channel: self.channel(document, &it.channel)?,
                    on_below: it.on_below,
                    off_above: it.off_above,
                    critical: it.critical,
                    pauses: Pauses { on_s: it.on_s, off_s: it.off_s },
                })
            }
            (None, Some(it)) => {
                let it = it.get_ref();
                Some(Rule::Band {
                    channel: self.channel(document, &it.channel)?,
                    low: it.low,
                    high: it.high,
                    raises: it.raises,
                    safe: it.safe_on,
                    pauses: Pauses { on_s: it.on_s, off_s: it.off_s },
                })
            }
            (None, None) if kind == Some(ActuatorKind::Siren) => Some(Rule::Siren),
            (None, None) => Some(Rule::Remote),
        }
    }

    /// Takes the interlocks in that can be.
    pub(super) fn interlocks(&mut self, document: &Document) {
        for (at, table) in document.interlock.iter().enumerate() {
            let Some(interlock) = self.interlock(document, table) else { continue };
            self.interlocks.push(at);
            if self.config.interlocks.push(interlock).is_err() {
                self.found.of(&table.actuator, "a node has room for 16 interlocks");
                return;
            }
        }
    }

    fn interlock(&mut self, document: &Document, table: &InterlockTable) -> Option<Interlock> {
        let actuator = self.other(document, &table.actuator);
        let when = match (&table.above, &table.below, &table.while_on, &table.while_off) {
            (Some(it), None, None, None) => {
                Condition::Above { channel: self.channel(document, &it.channel)?, level: it.level, release: it.release }
            }
            (None, Some(it), None, None) => {
                Condition::Below { channel: self.channel(document, &it.channel)?, level: it.level, release: it.release }
            }
            (None, None, Some(it), None) => Condition::On { actuator: self.other(document, it)? },
            (None, None, None, Some(it)) => Condition::Off { actuator: self.other(document, it)? },
            _ => {
                self.found
                    .of(&table.actuator, "an interlock has one condition: one of above, below, while_on, while_off");
                return None;
            }
        };
        let on = table.force == Force::On;
        Some(Interlock { actuator: actuator?, on, when, unknown: table.unknown, hold_s: table.hold_s })
    }
}
