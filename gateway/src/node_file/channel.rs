//! Channels of a node file: where each one's value comes from.

use node::config::{Calibration, Channel, Formula, Input, Source};
use node::quality::Limits;
use sensors::part::{Bus, Part};
use telemetry::Property;

use super::board::Places;
use super::document::{ChannelTable, Document, Name};
use super::{Named, Reading, names};

/// Names of the formulas; each is the property that it gives.
const FORMULAS: [(&str, Formula); 7] = [
    ("oxygen_saturation", Formula::OxygenSaturation),
    ("unionized_ammonia", Formula::UnionizedAmmonia),
    ("salinity", Formula::Salinity),
    ("conductivity_25", Formula::Conductivity25),
    ("vapour_pressure_deficit", Formula::VapourPressureDeficit),
    ("dew_point", Formula::DewPoint),
    ("absolute_humidity", Formula::AbsoluteHumidity),
];

impl Reading<'_> {
    /// Takes the channels in, each at its index, also those that cannot be.
    pub(super) fn channels(&mut self, document: &Document) -> Vec<Named> {
        self.found.unique("channel", document.channel.iter().map(|it| &it.name));
        if document.channel.is_empty() {
            self.found
                .at(document.node.name.span().start, "a node without channels measures nothing: add a [[channel]]");
        }
        let mut named: Vec<Named> = Vec::new();
        for table in &document.channel {
            let known = self.source(document, table, &named);
            let (property, source) = known.unwrap_or_else(|| {
                let named = table.property.as_ref().and_then(|it| Property::from_name(it.get_ref()));
                (named.unwrap_or(Property::Level), None)
            });
            // What cannot be is judged no further, as an input that anything can be.
            let source = source.unwrap_or_else(|| {
                if self.config.inputs.is_empty() {
                    // There is room: it is the first one.
                    let _first = self.config.inputs.push(Input::new(0, 0, 0, 0));
                }
                Source::Direct { input: 0 }
            });
            let compensate_with = table.compensate_with.as_ref().and_then(|with| {
                let names = document.channel.iter().map(|it| it.name.get_ref().as_str());
                self.found.find("channel", with, names).and_then(|at| u8::try_from(at).ok())
            });
            let calibration = table.calibration.map_or_else(Calibration::default, |it| Calibration {
                number: it.number,
                slope: it.slope,
                offset: it.offset,
            });
            let limits = Limits { min: table.min, max: table.max };
            let channel = Channel { property, source, calibration, limits, compensate_with };
            if self.config.channels.push(channel).is_err() {
                self.found.of(&table.name, "a node has room for 32 channels");
                break;
            }
            let (name, point, unit) = (table.name.get_ref().clone(), table.point.clone(), table.unit.clone());
            let twin = named.iter().find(|it| (it.property, &it.point, &it.unit) == (property, &point, &unit));
            if let Some(twin) = twin {
                self.found.of(
                    &table.name,
                    format!(
                        "\"{}\" and \"{name}\" both measure {} at one place and would share a series: give each a point, \
                         such as point = \"1.5 m\"",
                        twin.name,
                        property.name()
                    ),
                );
            }
            named.push(Named { name, property, point, unit });
        }
        named
    }

    /// Property and source of a channel; no source where it has been complained about.
    fn source(
        &mut self,
        document: &Document,
        table: &ChannelTable,
        before: &[Named],
    ) -> Option<(Property, Option<Source>)> {
        let ways = [&table.probe, &table.part, &table.contact, &table.pulse, &table.adc, &table.formula];
        let given = ways.iter().filter(|it| it.is_some()).count();
        if given != 1 {
            let what = if given == 0 { "says not" } else { "says more than once" };
            self.found.of(
                &table.name,
                format!(
                    "\"{}\" {what} where its value comes from: give one of probe, part, contact, pulse, adc, formula",
                    table.name.get_ref()
                ),
            );
            return None;
        }
        if let Some(formula) = &table.formula {
            return self.computed(formula, table, document, before);
        }
        let Some(property) = &table.property else {
            self.found
                .of(&table.name, format!("\"{}\" says not what it measures: give property", table.name.get_ref()));
            return None;
        };
        let all = Property::ALL.iter().map(|it| it.name());
        let property = *Property::ALL.get(self.found.find("property", property, all)?)?;
        let source = match &table.probe {
            Some(probe) => self.of_probe(document, table, probe, property),
            None => self.direct(table, property),
        };
        Some((property, source))
    }

    fn of_probe(
        &mut self,
        document: &Document,
        table: &ChannelTable,
        probe: &Name,
        property: Property,
    ) -> Option<Source> {
        let at = self.found.find("probe", probe, document.probe.iter().map(|it| it.name.get_ref().as_str()))?;
        let index = self.probes.get(at).copied().flatten()?;
        let (_, profile, _) = self.config.probe(index)?;
        let has: Vec<Property> = profile.quantities().map(|it| it.property).collect();
        let nth = table.nth.as_ref().map_or(1, |it| usize::from(*it.get_ref()));
        let fitting = has.iter().enumerate().filter(|(_, it)| **it == property);
        let quantity = fitting.clone().nth(nth.wrapping_sub(1)).map(|(at, _)| at);
        let Some(quantity) = quantity.and_then(|at| u8::try_from(at).ok()) else {
            let what = match fitting.count() {
                0 => names::unknown(
                    &format!("quantity of {}", profile.name()),
                    property.name(),
                    &has.iter().map(|it| it.name()).collect::<Vec<_>>(),
                ),
                some => format!("{} measures {} {some} times: nth is 1 to {some}", profile.name(), property.name()),
            };
            let at = table.nth.as_ref().map(|it| it.span().start);
            let at = at.or(table.property.as_ref().map(|it| it.span().start));
            self.found.at(at.unwrap_or(table.name.span().start), what);
            return None;
        };
        Some(Source::Probe { probe: index, quantity })
    }

    /// A part of the board: on I2C, 1-Wire or a pin.
    fn direct(&mut self, table: &ChannelTable, property: Property) -> Option<Source> {
        let board = self.board;
        let pins: [(&Option<Name>, Part, &Places, &str); 3] = [
            (&table.contact, Part::Contact, &board.contacts, "see a contact"),
            (&table.pulse, Part::Pulse, &board.pulses, "count pulses"),
            (&table.adc, Part::AdcRms, &board.adcs, "measure a voltage"),
        ];
        let pin = pins.into_iter().find_map(|(name, part, places, what)| Some((name.as_ref()?, part, places, what)));
        let (part, bus, address, rom) = match (pin, &table.part) {
            (Some((name, part, places, what)), _) => {
                let number = self.pin(name, places, what, table.name.get_ref())?;
                (part, 0, number, 0)
            }
            (None, Some(part)) => {
                let known = Part::ALL.iter().filter(|it| matches!(it.bus(), Bus::I2c | Bus::OneWire));
                let known: Vec<_> = known.copied().collect();
                let part = *known.get(self.found.find("part", part, known.iter().map(|it| it.name()))?)?;
                let (bus, address, rom) = self.bus(table, part)?;
                (part, bus, address, rom)
            }
            (None, None) => return None,
        };
        let quantity = self.quantity(table, part, property)?;
        let (slope, offset) = match (table.at_4_ma, table.at_20_ma) {
            (Some(at_4), Some(at_20)) => {
                let slope = (at_20 - at_4) / 16.0;
                (slope, at_4 - 4.0 * slope)
            }
            (None, None) => (table.slope.unwrap_or(1.0), table.offset.unwrap_or(0.0)),
            _ => {
                self.found.of(&table.name, "at_4_ma and at_20_ma go together: give both");
                return None;
            }
        };
        let input = Input { part: part.id(), bus, address, quantity, rom, slope, offset };
        let index = u8::try_from(self.config.inputs.len()).ok()?;
        if self.config.inputs.push(input).is_err() {
            self.found.of(&table.name, "a node has room for 16 direct inputs");
            return None;
        }
        Some(Source::Direct { input: index })
    }

    /// The number of a pin that can do something and that nobody else has.
    pub(super) fn pin(&mut self, name: &Name, places: &Places, what: &str, whose: &str) -> Option<u8> {
        let board = self.board;
        let Some(number) = places.number(name.get_ref()) else {
            let others =
                [&board.lines, &board.i2c, &board.onewire, &board.outputs, &board.contacts, &board.pulses, &board.adcs];
            let known: Vec<_> = places.names.iter().map(String::as_str).collect();
            let message = if others.iter().any(|it| it.number(name.get_ref()).is_some()) {
                let can: Vec<_> = known.iter().map(|it| format!("\"{it}\"")).collect();
                let can =
                    if can.is_empty() { "none of its pins can".to_owned() } else { format!("{} can", can.join(", ")) };
                format!("{} of {} cannot {what}: {can}", name.get_ref(), board.name)
            } else {
                names::unknown(&format!("pin of {} that can {what}", board.name), name.get_ref(), &known)
            };
            self.found.of(name, message);
            return None;
        };
        if let Some((_, other)) = self.taken.iter().find(|(pin, _)| pin == name.get_ref()) {
            let message = format!("{} is \"{other}\"'s already: choose another pin for \"{whose}\"", name.get_ref());
            self.found.of(name, message);
            return None;
        }
        self.taken.push((name.get_ref().clone(), whose.to_owned()));
        Some(number)
    }

    /// Bus, address and ROM code of a part on I2C or 1-Wire.
    fn bus(&mut self, table: &ChannelTable, part: Part) -> Option<(u8, u8, u64)> {
        let board = self.board;
        let (places, kind) = match part.bus() {
            Bus::OneWire => (&board.onewire, "1-Wire bus"),
            _ => (&board.i2c, "I2C bus"),
        };
        let known: Vec<_> = places.names.iter().map(String::as_str).collect();
        let bus = match (&table.bus, known.len()) {
            (Some(bus), _) => self.found.find(&format!("{kind} of {}", board.name), bus, known.iter().copied())?,
            (None, 1) => 0,
            (None, _) => {
                let all: Vec<_> = known.iter().map(|it| format!("bus = \"{it}\"")).collect();
                let remedy = if all.is_empty() {
                    format!("{} has none", board.name)
                } else {
                    format!("write {}", all.join(" or "))
                };
                self.found.of(&table.name, format!("\"{}\" needs its {kind}: {remedy}", table.name.get_ref()));
                return None;
            }
        };
        let bus = u8::try_from(bus).ok()?;
        if part.bus() == Bus::OneWire {
            let rom = match &table.rom {
                None => 0,
                Some(text) => match rom(text.get_ref()) {
                    Some(rom) => rom,
                    None => {
                        let what = format!("\"{}\" is no ROM code: it looks like \"28-0123456789ab\"", text.get_ref());
                        self.found.of(text, what);
                        return None;
                    }
                },
            };
            return Some((bus, 0, rom));
        }
        let addresses = part.addresses();
        let address = table.address.as_ref().map_or(addresses.first().copied().unwrap_or(0), |it| *it.get_ref());
        if !addresses.contains(&address) {
            let can: Vec<_> = addresses.iter().map(|it| format!("{it:#04x}")).collect();
            let at = table.address.as_ref().map_or(table.name.span().start, |it| it.span().start);
            self.found.at(at, format!("{} cannot be at {address:#04x}: it can be at {}", part.name(), can.join(", ")));
            return None;
        }
        let taken = self.config.inputs.iter().find(|it| {
            let other = Part::from_id(it.part);
            it.part != part.id() && other.is_some_and(|o| o.bus() == Bus::I2c) && (it.bus, it.address) == (bus, address)
        });
        if let Some(other) = taken.and_then(|it| Part::from_id(it.part)) {
            let at =
                table.address.as_ref().or(table.address.as_ref()).map_or(table.name.span().start, |it| it.span().start);
            let name = known.get(usize::from(bus)).copied().unwrap_or("?");
            self.found.at(
                at,
                format!(
                    "{} and {} are both at {address:#04x} of {name}: use another address or bus",
                    other.name(),
                    part.name()
                ),
            );
            return None;
        }
        Some((bus, address, 0))
    }

    fn quantity(&mut self, table: &ChannelTable, part: Part, property: Property) -> Option<u8> {
        let quantities = part.quantities();
        let names: Vec<_> = quantities.iter().map(|it| it.name).collect();
        if let Some(quantity) = &table.quantity {
            let at = self.found.find(&format!("quantity of {}", part.name()), quantity, names.iter().copied())?;
            return u8::try_from(at).ok();
        }
        let fits = quantities.iter().position(|it| it.properties.contains(&property));
        let any = quantities.iter().position(|it| it.properties.is_empty());
        let only = any.filter(|_| matches!(part.bus(), Bus::Contact | Bus::Counter | Bus::Adc));
        let Some(at) = fits.or(only) else {
            let at = table.property.as_ref().map_or(table.name.span().start, |it| it.span().start);
            let what = if any.is_some() {
                let all: Vec<_> = names.iter().map(|it| format!("\"{it}\"")).collect();
                format!("{} needs its quantity: one of {}", part.name(), all.join(", "))
            } else {
                let gives: Vec<_> = quantities.iter().flat_map(|it| it.properties).map(|it| it.name()).collect();
                names::unknown(&format!("quantity of {}", part.name()), property.name(), &gives)
            };
            self.found.at(at, what);
            return None;
        };
        u8::try_from(at).ok()
    }

    fn computed(
        &mut self,
        formula: &Name,
        table: &ChannelTable,
        document: &Document,
        before: &[Named],
    ) -> Option<(Property, Option<Source>)> {
        let at = self.found.find("formula", formula, FORMULAS.iter().map(|(name, _)| *name))?;
        let (_, formula) = *FORMULAS.get(at)?;
        let (property, least, most) = formula.shape();
        if !(least..=most).contains(&table.inputs.len()) {
            let many = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            self.found.of(&table.name, format!("{} is computed from {many} channels: give inputs", property.name()));
            return Some((property, None));
        }
        let mut inputs = heapless::Vec::new();
        for input in &table.inputs {
            let all = document.channel.iter().map(|it| it.name.get_ref().as_str());
            let Some(index) = self.found.find("channel", input, all) else { return Some((property, None)) };
            if index >= before.len() {
                self.found.of(
                    input,
                    format!(
                        "\"{}\" comes later: put its [[channel]] before \"{}\", which is computed from it",
                        input.get_ref(),
                        table.name.get_ref()
                    ),
                );
                return Some((property, None));
            }
            inputs.push(u8::try_from(index).ok()?).ok()?;
        }
        Some((property, Some(Source::Computed { formula, inputs })))
    }
}

/// A 1-Wire ROM code as Linux writes it, family and serial number, least byte first in the number:
/// `28-0123456789ab`; the check sum is computed.
fn rom(text: &str) -> Option<u64> {
    let (family, serial) = text.split_once('-')?;
    if family.len() != 2 || serial.len() != 12 {
        return None;
    }
    let (family, serial) = (u8::from_str_radix(family, 16).ok()?, u64::from_str_radix(serial, 16).ok()?);
    let low = u64::from(family) | serial << 8;
    let crc = low.to_le_bytes().iter().take(7).fold(0u8, |crc, byte| {
        // CRC-8 of Maxim's application note 27: x^8 + x^5 + x^4 + 1, reflected.
        (0..8).fold(crc ^ byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x8C } else { crc >> 1 })
    });
    Some(low | u64::from(crc) << 56)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rom_code_gets_its_check_sum() {
        // The example of Maxim's application note 27, figure 3: 02 1C B8 01 00 00 00 with the sum A2.
        assert_eq!(rom("02-00000001b81c"), Some(0xA200_0000_01B8_1C02));
        for wrong in ["", "28", "28-1", "28-00000001b81", "zz-00000001b81c"] {
            assert_eq!(rom(wrong), None);
        }
    }

    #[test]
    fn a_formula_is_called_what_it_gives() {
        for (name, formula) in FORMULAS {
            assert_eq!(formula.shape().0.name(), name);
        }
    }
}
