//! A node made by writing a file: `pond-7.toml` says board, link, probes, channels and rules by name;
//! here it becomes a [`Config`] and [`Settings`], checked against what the board can do.
//!
//! Everything that is wrong is said at once, each with its place and what would be right. Numbers
//! that images carry follow from the order in the file and from the board's own lists.

pub mod board;
mod channel;
mod control;
mod document;
mod fit;
mod link;
mod names;
pub mod room;

use std::path::Path;

use node::config::{Config, RelayBoard};
use node::settings::{Settings, TOKEN_BYTES};
use node::sun::Place;
use sensors::modbus::{LineSettings, Parity, Settings as LineUse};
use sensors::profile::compile::Compiled;
use telemetry::mac::Key;
use telemetry::{NodeName, Property};

use self::board::Board;
use self::document::{Document, ProbeTable};
pub use self::link::unhex;
use self::names::Findings;
use crate::config::{self, Complaint};

/// A node file, read and found right.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// The node.
    pub name: NodeName,
    /// Its board.
    pub board: Board,
    /// What it measures and controls; its number is 0, for whoever gives it one.
    pub config: Config,
    /// Its channels, by their index.
    pub channels: Vec<Named>,
    /// Names of its actuators, by their index.
    pub actuators: Vec<String>,
    /// The file as it was read.
    pub text: String,
    settings: Settings,
    registry: Option<document::RegistryTable>,
}

/// What a file says of a channel beyond its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What the file calls it.
    pub name: String,
    /// What it measures.
    pub property: Property,
    /// Where in its unit it stands.
    pub point: Option<String>,
    /// In which unit, where not the node's.
    pub unit: Option<String>,
}

/// What all parts of a file are read with.
struct Reading<'a> {
    folder: &'a Path,
    board: &'a Board,
    config: Config,
    found: Findings<'a>,
    /// Profiles by the names under which the file knows them, in the image's order.
    profiles: Vec<(String, Compiled)>,
    /// The config's number of each probe and each relay board of the file; none where it cannot be.
    probes: Vec<Option<u8>>,
    relays: Vec<Option<u8>>,
    /// The file's place of each interlock of the config.
    interlocks: Vec<usize>,
    /// Pins that something has taken: name, by whom.
    taken: Vec<(String, String)>,
}

impl NodeFile {
    /// Whether a text is a node file, by what it says.
    pub fn is(text: &str) -> bool {
        text.lines().any(|line| line.trim() == "[node]")
    }

    /// Reads and checks a file; all that is wrong at once.
    pub fn load(file: &Path) -> Result<Self, Vec<Complaint>> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| vec![Complaint::whole(file, format!("read the file: {error}"))])?;
        Self::parse(file, text)
    }

    /// Checks the text of a file.
    pub fn parse(file: &Path, text: String) -> Result<Self, Vec<Complaint>> {
        let boards = board::all().map_err(|error| vec![Complaint::whole(file, error.to_string())])?;
        Self::parse_for(file, text, &boards)
    }

    fn parse_for(file: &Path, text: String, boards: &[Board]) -> Result<Self, Vec<Complaint>> {
        let document: Document = config::parse(file, &text).map_err(|complaint| vec![complaint])?;
        let mut found = Findings { file, text: &text, all: Vec::new() };
        let name = match NodeName::new(document.node.name.get_ref()) {
            Ok(name) => Some(name),
            Err(error) => {
                found.of(&document.node.name, format!("\"{}\": {error}", document.node.name.get_ref()));
                None
            }
        };
        let board = found.find("board", &document.node.board, boards.iter().map(|it| it.name.as_str()));
        let Some(board) = board.and_then(|at| boards.get(at)) else { return Err(found.all) };
        let mut reading = Reading {
            folder: file.parent().unwrap_or(Path::new("")),
            board,
            config: Config::new(0),
            found,
            profiles: Vec::new(),
            probes: Vec::new(),
            relays: Vec::new(),
            interlocks: Vec::new(),
            taken: Vec::new(),
        };
        let settings = reading.settings(&document);
        reading.numbers(&document);
        let stand = reading.probes(&document);
        reading.relays(&document, stand);
        let channels = reading.channels(&document);
        reading.actuators(&document);
        reading.interlocks(&document);
        reading.fit(&document, &channels);
        let Reading { config, found, .. } = reading;
        let (Some(name), Some(settings), []) = (name, settings, &*found.all) else {
            let mut all = found.all;
            all.sort_by_key(|complaint| (complaint.line, complaint.column));
            return Err(all);
        };
        let settings = Settings { name: name.clone(), ..settings };
        let actuators = document.actuator.iter().map(|it| it.name.get_ref().clone()).collect();
        let (board, registry) = (board.clone(), document.registry);
        Ok(Self { name, board, config, channels, actuators, settings, registry, text })
    }

    /// Its settings, with what only the gateway and the node know.
    pub fn settings(&self, token: [u8; TOKEN_BYTES], key: Key) -> Settings {
        Settings { token, key, ..self.settings.clone() }
    }

    /// Its entry for `sites.toml`, ready to be put in.
    pub fn registry_entry(&self, since: &str) -> String {
        let (site, unit) = match &self.registry {
            Some(it) => (it.site.as_str(), it.unit.as_str()),
            None => ("SITE", "UNIT"),
        };
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut entry = format!("[[node]]\nname = \"{}\"\n\n[[node.at]]\nsince = {since}\n", self.name.as_str());
        entry.push_str(&format!("site = {}\nunit = {}\n", quoted(site), quoted(unit)));
        let list = |of: &dyn Fn(&Named) -> Option<String>| {
            let each = self.channels.iter().enumerate();
            let each = each.filter_map(|(n, it)| of(it).map(|place| format!("\"{n}\" = {}", quoted(&place))));
            each.collect::<Vec<_>>().join(", ")
        };
        for (key, list) in [("points", list(&|it| it.point.clone())), ("units", list(&|it| it.unit.clone()))] {
            if !list.is_empty() {
                entry.push_str(&format!("{key} = {{ {list} }}\n"));
            }
        }
        entry.push_str("# channels:");
        for (n, it) in self.channels.iter().enumerate() {
            entry.push_str(&format!(
                " {n} {} ({}){}",
                it.name,
                it.property.name(),
                if n + 1 < self.channels.len() { "," } else { "\n" }
            ));
        }
        entry
    }
}

impl Reading<'_> {
    fn numbers(&mut self, document: &Document) {
        let node = &document.node;
        let config = &mut self.config;
        let set = |place: &mut u16, value: Option<u16>| *place = value.unwrap_or(*place);
        set(&mut config.period_s, node.period_s.as_ref().map(|it| *it.get_ref()));
        set(&mut config.batch_records, node.batch_records);
        set(&mut config.hold_s, node.hold_s);
        set(&mut config.drift_ppm, node.drift_ppm);
        config.salinity_psu = node.salinity_psu.unwrap_or(config.salinity_psu);
        config.pressure_hpa = node.pressure_hpa.unwrap_or(config.pressure_hpa);
        config.leaf_warmer_c = node.leaf_warmer_c.unwrap_or(config.leaf_warmer_c);
        let Some(place) = &document.place else { return };
        let utc_offset_min = offset_min(place.utc_offset.get_ref());
        if utc_offset_min.is_none() {
            self.found.of(
                &place.utc_offset,
                format!("\"{}\" is no offset from UTC: it looks like \"+08:00\"", place.utc_offset.get_ref()),
            );
        }
        let (latitude, longitude) = (place.latitude, place.longitude);
        self.config.place = Some(Place { latitude, longitude, utc_offset_min: utc_offset_min.unwrap_or(0) });
    }

    /// The number of a line by its name; without one, the board's only line.
    fn line(&mut self, whose: &document::Name, line: Option<&document::Name>) -> Option<u8> {
        let names = &self.board.lines.names;
        match (line, names.len()) {
            (Some(line), _) => {
                let what = format!("line of {}", self.board.name);
                self.found.find(&what, line, names.iter().map(String::as_str)).and_then(|at| u8::try_from(at).ok())
            }
            (None, 1) => Some(0),
            (None, _) => {
                let all: Vec<_> = names.iter().map(|it| format!("line = \"{it}\"")).collect();
                self.found.of(whose, format!("\"{}\" needs its line: write {}", whose.get_ref(), all.join(" or ")));
                None
            }
        }
    }

    /// The index of a profile in the config, taken in when it is new.
    fn profile(&mut self, name: &document::Name) -> Option<u8> {
        let index = |at: usize| u8::try_from(at).ok();
        if let Some(at) = self.profiles.iter().position(|(known, _)| known == name.get_ref()) {
            return index(at);
        }
        let compiled = match sensors::profile::compile::find(name.get_ref(), self.folder) {
            Ok(compiled) => compiled,
            Err(sensors::profile::compile::LoadError::Unknown { .. }) => {
                let known: Vec<_> = sensors::profile::compile::profiles().iter().map(|(name, _)| *name).collect();
                let what = names::unknown("built-in profile", name.get_ref(), &known);
                self.found.of(name, format!("{what} A file of your own ends in .toml"));
                return None;
            }
            Err(error) => {
                let why = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                self.found.of(name, why);
                return None;
            }
        };
        match self.config.add_profile(&compiled.bytes) {
            Ok(_) => self.profiles.push((name.get_ref().clone(), compiled)),
            Err(error) => {
                self.found.of(name, format!("{error}: a node has room for 8 profiles of 3 KiB together"));
                return None;
            }
        }
        index(self.profiles.len() - 1)
    }

    /// Takes probes in; who is at which address of which line.
    fn probes<'n>(&mut self, document: &'n Document) -> Vec<(u8, u8, &'n str)> {
        self.found.unique("probe", document.probe.iter().map(|it| &it.name));
        let mut stand: Vec<(u8, u8, &'n str)> = Vec::new();
        for table in &document.probe {
            let (line, profile) = (self.line(&table.name, table.line.as_ref()), self.profile(&table.profile));
            let known = profile.and_then(|index| self.profiles.get(usize::from(index)));
            let known = known.and_then(|(_, compiled)| compiled.profile().ok().map(|it| (it.address(), it.settings())));
            let (Some(bus), Some(profile), Some((usual, talk))) = (line, profile, known) else {
                self.probes.push(None);
                continue;
            };
            let address = table.address.as_ref().map_or(usual, |it| *it.get_ref());
            let at = table.address.as_ref().map_or(table.name.span().start, |it| it.span().start);
            let fine = self.address(&mut stand, (bus, address, table.name.get_ref()), at);
            let settings = self.line_use(table, talk);
            let probe = node::config::Probe { bus, address, profile, settings };
            let index = u8::try_from(self.config.probes.len()).ok().filter(|_| fine);
            match index.map(|_| self.config.probes.push(probe)) {
                Some(Err(_)) => {
                    self.found.of(&table.name, "a node has room for 16 probes");
                    self.probes.push(None);
                }
                Some(Ok(())) => self.probes.push(index),
                None => self.probes.push(None),
            }
        }
        stand
    }

    /// Whether a slave can be there; else it is said.
    fn address<'n>(&mut self, stand: &mut Vec<(u8, u8, &'n str)>, new: (u8, u8, &'n str), at: usize) -> bool {
        let (bus, address, name) = new;
        let line = self.board.lines.names.get(usize::from(bus)).map_or("?", String::as_str);
        let before = self.found.all.len();
        if !(1..=247).contains(&address) {
            self.found.at(at, format!("{address} is no Modbus address: 1 to 247"));
        } else if let Some((.., other)) = stand.iter().find(|(b, a, _)| (*b, *a) == (bus, address)) {
            self.found.at(
                at,
                format!(
                    "\"{other}\" and \"{name}\" are both at address {address} of {line}: give one of them another \
                     address, at the probe itself and here"
                ),
            );
        }
        stand.push(new);
        self.found.all.len() == before
    }

    /// How a probe is talked to, where the file says so.
    fn line_use(&mut self, table: &ProbeTable, usual: LineUse) -> Option<LineUse> {
        let ProbeTable { baud, parity, stop_bits, echo, response_ms, retries, .. } = table;
        if baud.is_none()
            && parity.is_none()
            && stop_bits.is_none()
            && echo.is_none()
            && response_ms.is_none()
            && retries.is_none()
        {
            return None;
        }
        let rate = baud.as_ref().map_or(usual.line.baud(), |it| *it.get_ref());
        let parity = parity.map_or(usual.line.parity(), |it| match it {
            document::Parity::None => Parity::None,
            document::Parity::Even => Parity::Even,
            document::Parity::Odd => Parity::Odd,
        });
        let Some(line) = LineSettings::new(rate, parity, stop_bits.unwrap_or(usual.line.stop_bits())) else {
            let at = baud.as_ref().map_or(table.name.span().start, |it| it.span().start);
            self.found.at(at, "no such line: 1200 to 115200 baud, 1 or 2 stop bits");
            return None;
        };
        Some(LineUse {
            line,
            echo: echo.unwrap_or(usual.echo),
            response_ms: response_ms.unwrap_or(usual.response_ms),
            retries: retries.unwrap_or(usual.retries),
        })
    }

    fn relays<'n>(&mut self, document: &'n Document, mut stand: Vec<(u8, u8, &'n str)>) {
        self.found.unique("relay board", document.relay.iter().map(|it| &it.name));
        for table in &document.relay {
            let (line, profile) = (self.line(&table.name, table.line.as_ref()), self.profile(&table.profile));
            let known = profile.and_then(|index| self.profiles.get(usize::from(index)));
            let known = known.and_then(|(_, it)| it.profile().ok().map(|it| (it.address(), it.relay())));
            let mut time_out_s = table.time_out_s.as_ref().map_or(0, |it| *it.get_ref());
            if let (Some((_, relay)), Some(asked)) = (&known, &table.time_out_s) {
                let has = relay.as_ref().and_then(|it| it.time_out);
                match has {
                    None => self.found.at(
                        asked.span().start,
                        format!("{} has no time-out of its own: leave time_out_s out", table.profile.get_ref()),
                    ),
                    Some(has) if !(has.min_s..=has.max_s).contains(&time_out_s) => {
                        let what =
                            format!("the time-out of {} is {} to {} s", table.profile.get_ref(), has.min_s, has.max_s);
                        self.found.at(asked.span().start, what);
                        time_out_s = has.max_s;
                    }
                    Some(_) => {}
                }
            }
            if let Some((_, None)) = &known {
                self.found.of(
                    &table.profile,
                    format!(
                        "{} is a probe, no relay board: name a profile with a [relay] table",
                        table.profile.get_ref()
                    ),
                );
            }
            let (Some(bus), Some(profile), Some((usual, Some(_)))) = (line, profile, known) else {
                self.relays.push(None);
                continue;
            };
            let address = table.address.as_ref().map_or(usual, |it| *it.get_ref());
            let at = table.address.as_ref().map_or(table.name.span().start, |it| it.span().start);
            let fine = self.address(&mut stand, (bus, address, table.name.get_ref()), at);
            let index = u8::try_from(self.config.relays.len()).ok().filter(|_| fine);
            match index.map(|_| self.config.relays.push(RelayBoard { bus, address, profile, time_out_s })) {
                Some(Err(_)) => {
                    self.found.of(&table.name, "a node has room for 4 relay boards");
                    self.relays.push(None);
                }
                Some(Ok(())) => self.relays.push(index),
                None => self.relays.push(None),
            }
        }
    }
}

/// Minutes of an offset such as `+08:00`.
fn offset_min(text: &str) -> Option<i16> {
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let (hours, minutes): (i16, i16) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..=14).contains(&hours) && (0..60).contains(&minutes)).then(|| sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests;
