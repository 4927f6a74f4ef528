//! The registry: sites, their units, and where each node's channels stand since when. Read from
//! `sites.toml` files; a reading is placed by its phenomenon time.
//!
//! What a channel measures is not decided here but by the node's description; whether two channels
//! would share a series is seen where both are known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use telemetry::record::Description;
use telemetry::{NodeName, Property};

use crate::config::{self, Complaint};
use crate::entry::Place;

/// Longest name of a site, unit or point, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Divisions of Fuzhou (GB/T 2260; domain page §6): code, Chinese name, English name.
pub const FUZHOU: &[(u32, &str, &str)] = &[
    (350_100, "福州市", "Fuzhou"),
    (350_102, "鼓楼区", "Gulou"),
    (350_103, "台江区", "Taijiang"),
    (350_104, "仓山区", "Cangshan"),
    (350_105, "马尾区", "Mawei"),
    (350_111, "晋安区", "Jin'an"),
    (350_112, "长乐区", "Changle"),
    (350_121, "闽侯县", "Minhou"),
    (350_122, "连江县", "Lianjiang"),
    (350_123, "罗源县", "Luoyuan"),
    (350_124, "闽清县", "Minqing"),
    (350_125, "永泰县", "Yongtai"),
    (350_128, "平潭县", "Pingtan"),
    (350_181, "福清市", "Fuqing"),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    site: Vec<SiteEntry>,
    #[serde(default)]
    node: Vec<NodeEntry>,
    #[serde(default)]
    climatology: Vec<ClimatologyEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteEntry {
    name: toml::Spanned<String>,
    #[serde(default)]
    title: String,
    adcode: toml::Spanned<u32>,
    #[serde(default)]
    unit: Vec<UnitEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitEntry {
    name: toml::Spanned<String>,
    kind: UnitKind,
    #[serde(default)]
    title: String,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// A pond.
    Pond,
    /// A cage, near the shore or out at sea.
    Cage,
    /// A greenhouse.
    Greenhouse,
    /// An open field.
    Field,
    /// A weather station or another place of its own.
    Station,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    name: toml::Spanned<String>,
    at: Vec<AtEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtEntry {
    since: toml::Spanned<toml::value::Datetime>,
    site: toml::Spanned<String>,
    unit: toml::Spanned<String>,
    #[serde(default)]
    points: BTreeMap<String, toml::Spanned<String>>,
    #[serde(default)]
    units: BTreeMap<String, toml::Spanned<String>>,
}

/// A site as registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Name, unique.
    pub name: String,
    /// As shown to people.
    pub title: String,
    /// Division code.
    pub adcode: u32,
    /// Its units.
    pub units: Vec<Unit>,
}

/// A unit of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Name, unique within the site.
    pub name: String,
    /// What it is.
    pub kind: UnitKind,
    /// As shown to people.
    pub title: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stay {
    since_ms: i64,
    home: Place,
    channels: BTreeMap<u8, Place>,
    /// For a complaint about it: where it stands.
    stands: Complaint,
}

/// A season's usual range of a property, as a farm states it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClimatologyEntry {
    property: toml::Spanned<String>,
    months: toml::Spanned<Vec<u8>>,
    min: toml::Spanned<f64>,
    max: f64,
    site: Option<toml::Spanned<String>>,
    unit: Option<toml::Spanned<String>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Climatology {
    /// Bit n: month n, 1 to 12.
    months: u16,
    min: f64,
    max: f64,
    site: Option<String>,
    unit: Option<String>,
}

/// All files together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    sites: Vec<Site>,
    /// Stays of each node by rising `since`.
    nodes: BTreeMap<String, Vec<Stay>>,
    /// Usual ranges by property, those of a unit before those of a site before all others.
    climatology: BTreeMap<Property, Vec<Climatology>>,
}

impl Registry {
    /// Reads and checks files; everything that is wrong at once.
    pub fn load(files: &[PathBuf]) -> Result<Self, Vec<Complaint>> {
        let mut registry = Self::default();
        let mut complaints = Vec::new();
        let mut read = Vec::new();
        for path in files {
            match config::read::<File>(path) {
                Ok((file, text)) => read.push((path.clone(), file, text)),
                Err(complaint) => complaints.push(complaint),
            }
        }
        for (path, file, text) in &read {
            registry.add_sites(path, file, text, &mut complaints);
        }
        for (path, file, text) in &read {
            registry.add_nodes(path, file, text, &mut complaints);
            registry.add_climatology(path, file, text, &mut complaints);
        }
        if complaints.is_empty() { Ok(registry) } else { Err(complaints) }
    }

    fn add_sites(&mut self, path: &Path, file: &File, text: &str, complaints: &mut Vec<Complaint>) {
        for entry in &file.site {
            let name = entry.name.get_ref();
            let mut complain = |at: usize, what: String| complaints.push(Complaint::at(path, text, at, what));
            check_name("site", &entry.name, &mut complain);
            if self.sites.iter().any(|s| s.name == *name) {
                complain(
                    entry.name.span().start,
                    format!("there is another site \"{name}\": names of sites are unique"),
                );
            }
            let adcode = *entry.adcode.get_ref();
            if let Some(remedy) = wrong_adcode(adcode) {
                complain(entry.adcode.span().start, remedy);
            }
            let mut units: Vec<Unit> = Vec::new();
            for unit in &entry.unit {
                check_name("unit", &unit.name, &mut complain);
                let (name, title) = (unit.name.get_ref().clone(), unit.title.clone());
                if units.iter().any(|u| u.name == name) {
                    complain(unit.name.span().start, format!("there is another unit \"{name}\" at this site"));
                }
                units.push(Unit { title: if title.is_empty() { name.clone() } else { title }, name, kind: unit.kind });
            }
            let title = if entry.title.is_empty() { name.clone() } else { entry.title.clone() };
            self.sites.push(Site { name: name.clone(), title, adcode, units });
        }
    }

    fn add_nodes(&mut self, path: &Path, file: &File, text: &str, complaints: &mut Vec<Complaint>) {
        for entry in &file.node {
            let name = entry.name.get_ref();
            let mut complain = |at: usize, what: String| complaints.push(Complaint::at(path, text, at, what));
            if let Err(error) = NodeName::new(name) {
                complain(entry.name.span().start, error.to_string());
            }
            let mut stays = Vec::new();
            for at in &entry.at {
                let stands = Complaint::at(path, text, at.unit.span().start, "");
                stays.extend(self.stay(at, stands, &mut complain));
            }
            stays.sort_by_key(|stay: &Stay| stay.since_ms);
            if stays.windows(2).any(|w| w[0].since_ms == w[1].since_ms) {
                complain(entry.name.span().start, format!("node \"{name}\" is at two places since the same instant"));
            }
            if self.nodes.insert(name.clone(), stays).is_some() {
                complain(
                    entry.name.span().start,
                    format!("node \"{name}\" stands twice: put all its stays in one entry"),
                );
            }
        }
    }

    fn stay(&self, at: &AtEntry, stands: Complaint, complain: &mut impl FnMut(usize, String)) -> Option<Stay> {
        let since = at.since.get_ref().to_string();
        let since_ms = match since.parse::<jiff::Timestamp>() {
            Ok(instant) => instant.as_millisecond(),
            Err(_) => {
                complain(
                    at.since.span().start,
                    format!(
                        "\"{since}\" is no instant: write date, time and offset, such as 2026-03-01T08:00:00+08:00"
                    ),
                );
                return None;
            }
        };
        let Some(site) = self.sites.iter().find(|s| s.name == *at.site.get_ref()) else {
            complain(at.site.span().start, format!("there is no site \"{}\"", at.site.get_ref()));
            return None;
        };
        let mut place = |unit: &toml::Spanned<String>, point: &str| {
            if !site.units.iter().any(|u| u.name == *unit.get_ref()) {
                let there: Vec<_> = site.units.iter().map(|u| format!("\"{}\"", u.name)).collect();
                complain(
                    unit.span().start,
                    format!("site \"{}\" has no unit \"{}\"; it has {}", site.name, unit.get_ref(), there.join(", ")),
                );
            }
            Place {
                adcode: site.adcode,
                site: site.name.clone(),
                unit: unit.get_ref().clone(),
                point: point.to_owned(),
            }
        };
        let home = place(&at.unit, "");
        let mut channels: BTreeMap<u8, Place> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (key, unit) in &at.units {
            match channel(key) {
                Some(channel) => drop(channels.insert(channel, place(unit, ""))),
                None => wrong.push((unit.span().start, key.clone())),
            }
        }
        for (key, point) in &at.points {
            match channel(key) {
                Some(channel) => {
                    channels.entry(channel).or_insert_with(|| home.clone()).point.clone_from(point.get_ref());
                }
                None => wrong.push((point.span().start, key.clone())),
            }
        }
        for point in at.points.values() {
            check_name("point", point, complain);
        }
        for (offset, key) in wrong {
            complain(offset, format!("\"{key}\" is no channel: channels are 0 to 31"));
        }
        Some(Stay { since_ms, home, channels, stands })
    }

    fn add_climatology(&mut self, path: &Path, file: &File, text: &str, complaints: &mut Vec<Complaint>) {
        for entry in &file.climatology {
            let mut complain = |at: usize, what: String| complaints.push(Complaint::at(path, text, at, what));
            let name = entry.property.get_ref();
            let Some(property) = Property::from_name(name) else {
                let all: Vec<_> = Property::ALL.iter().map(|p| p.name()).collect();
                complain(
                    entry.property.span().start,
                    format!("there is no property \"{name}\"; there are {}", all.join(", ")),
                );
                continue;
            };
            let (months, min, max) = (entry.months.get_ref(), *entry.min.get_ref(), entry.max);
            if months.is_empty() || months.iter().any(|m| !(1..=12).contains(m)) {
                complain(entry.months.span().start, "months are numbers from 1 to 12, such as [6, 7, 8]".into());
            }
            // Also when one of them is not a number.
            if !(min.is_finite() && max.is_finite() && min < max) {
                complain(entry.min.span().start, format!("min {min} is not below max {max}"));
            }
            let oxygen = matches!(property, Property::DissolvedOxygen | Property::OxygenSaturation);
            if oxygen && min as f32 > property.facts().min {
                complain(
                    entry.min.span().start,
                    format!(
                        "low oxygen is an emergency and never implausible: write min = {}, and set an alarm instead",
                        property.facts().min
                    ),
                );
            }
            let site = entry.site.as_ref().map(|site| {
                if !self.sites.iter().any(|s| s.name == *site.get_ref()) {
                    complain(site.span().start, format!("there is no site \"{}\"", site.get_ref()));
                }
                site.get_ref().clone()
            });
            let unit = entry.unit.as_ref().map(|unit| {
                let there = self.sites.iter().filter(|s| Some(&s.name) == site.as_ref()).flat_map(|s| &s.units);
                if !there.into_iter().any(|u| u.name == *unit.get_ref()) {
                    complain(
                        unit.span().start,
                        format!("there is no unit \"{}\" at the site named here", unit.get_ref()),
                    );
                }
                unit.get_ref().clone()
            });
            let months = months.iter().fold(0u16, |bits, month| bits | 1u16.checked_shl((*month).into()).unwrap_or(0));
            let of = self.climatology.entry(property).or_default();
            of.push(Climatology { months, min, max, site, unit });
            of.sort_by_key(|it| (it.unit.is_none(), it.site.is_none()));
        }
    }

    /// The usual range of a property at a place in the month of `at_ms` (UTC+8), where a farm has
    /// stated one.
    pub fn climatology(&self, place: &Place, property: Property, at_ms: i64) -> Option<(f64, f64)> {
        let all = self.climatology.get(&property)?;
        let local = jiff::tz::offset(8).to_datetime(jiff::Timestamp::from_millisecond(at_ms).ok()?);
        let month = 1u16.checked_shl(u32::from(local.month().unsigned_abs())).unwrap_or(0);
        let holds = |it: &&Climatology| {
            it.months & month != 0
                && it.site.as_ref().is_none_or(|site| *site == place.site)
                && it.unit.as_ref().is_none_or(|unit| *unit == place.unit)
        };
        all.iter().find(holds).map(|it| (it.min, it.max))
    }

    /// Channels of a node that would share a series: same place, same property.
    pub fn shared_series(&self, node: &str, description: &Description) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        for stay in self.nodes.get(node).into_iter().flatten() {
            let mut known: BTreeMap<(&str, &str, u8), u8> = BTreeMap::new();
            for channel in &description.channels {
                let place = stay.channels.get(&channel.channel).unwrap_or(&stay.home);
                let series = (place.unit.as_str(), place.point.as_str(), channel.property);
                if let Some(other) = known.insert(series, channel.channel) {
                    let property = Property::from_id(channel.property).map_or("?", |p| p.name());
                    let what = format!(
                        "channels {other} and {} of \"{node}\" both measure {property} here and would share a series: \
                         give them points",
                        channel.channel
                    );
                    complaints.push(Complaint { what, ..stay.stands.clone() });
                }
            }
        }
        complaints
    }

    /// Whether a node is registered.
    pub fn knows(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// Every site.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Names of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Where a node's channel stood at an instant; its home for no channel.
    pub fn place(&self, node: &str, channel: Option<u8>, at_ms: i64) -> Option<&Place> {
        let stay = self.nodes.get(node)?.iter().rev().find(|stay| stay.since_ms <= at_ms)?;
        Some(channel.and_then(|c| stay.channels.get(&c)).unwrap_or(&stay.home))
    }
}

fn channel(key: &str) -> Option<u8> {
    key.parse().ok().filter(|c| usize::from(*c) < telemetry::limits::CHANNELS_MAX)
}

fn check_name(what: &str, name: &toml::Spanned<String>, complain: &mut impl FnMut(usize, String)) {
    let text = name.get_ref();
    let fine = !text.trim().is_empty()
        && text.chars().count() <= NAME_CHARS_MAX
        && !text.chars().any(|c| c.is_control() || c == '\\');
    if !fine {
        complain(
            name.span().start,
            format!(
                "\"{}\" cannot name a {what}: 1 to {NAME_CHARS_MAX} characters, no line breaks, no backslash",
                text.escape_debug()
            ),
        );
    }
}

fn wrong_adcode(code: u32) -> Option<String> {
    if code == 350_182 {
        return Some("350182 was 长乐 until 2017; it is 350112 now".into());
    }
    if FUZHOU.iter().any(|(known, ..)| *known == code) {
        return None;
    }
    if code / 100 == 3501 {
        let known: Vec<_> = FUZHOU.iter().map(|(c, zh, _)| format!("{c} {zh}")).collect();
        return Some(format!("{code} is no division of Fuzhou; they are {}", known.join(", ")));
    }
    let province = code / 10_000;
    (!(11..=82).contains(&province))
        .then(|| format!("{code} is no division code (GB/T 2260): six digits, such as 350181"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../examples/sites.toml");

    fn load(text: &str) -> Result<Registry, Vec<Complaint>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sites.toml");
        std::fs::write(&file, text).unwrap();
        Registry::load(&[file])
    }

    fn ms(instant: &str) -> i64 {
        instant.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_moved_node_is_where_it_was_at_the_time() {
        let registry = load(EXAMPLE).unwrap();
        let unit = |at| registry.place("pond-7", Some(0), ms(at)).map(|p| p.unit.clone());
        assert_eq!(unit("2026-02-28T00:00:00Z"), None);
        assert_eq!(unit("2026-04-01T00:00:00Z").as_deref(), Some("1号塘"));
        assert_eq!(unit("2026-09-01T00:00:00Z").as_deref(), Some("2号塘"));
        let place = registry.place("pond-7", Some(1), ms("2026-04-01T00:00:00Z")).unwrap();
        assert_eq!((place.adcode, place.point.as_str()), (350_181, "1.5 m"));
    }

    #[test]
    fn the_narrowest_climatology_of_the_local_month_holds() {
        let site =
            "[[climatology]]\nproperty = \"water_temperature\"\nmonths = [1]\nmin = 5\nmax = 6\nsite = \"fuqing-1\"\n";
        let registry = load(&format!("{EXAMPLE}{site}")).unwrap();
        let at = |instant, site: &str| {
            let place = Place { adcode: 350_181, site: site.into(), unit: "1号塘".into(), point: String::new() };
            registry.climatology(&place, Property::WaterTemperature, ms(instant))
        };
        assert_eq!(at("2026-12-15T00:00:00Z", "fuqing-1"), Some((8.0, 24.0)));
        // Already January in Fuzhou.
        assert_eq!(at("2026-12-31T16:00:00Z", "fuqing-1"), Some((5.0, 6.0)));
        assert_eq!(at("2026-12-31T16:00:00Z", "other"), Some((8.0, 24.0)));
        assert_eq!(at("2026-07-01T00:00:00Z", "fuqing-1"), None);
    }

    #[test]
    fn channels_that_would_share_a_series_are_named_where_their_node_stands() {
        let channel =
            |channel| telemetry::record::ChannelDescription { channel, property: 1, calibration: 0, period_s: 60 };
        let description = |channels: &[u8]| Description {
            t_ms: 0,
            config: 1,
            digest: 0,
            drift_ppm: 0,
            firmware: heapless::String::new(),
            board: heapless::String::new(),
            channels: channels.iter().map(|c| channel(*c)).collect(),
            actuators: heapless::Vec::new(),
        };
        let registry = load(EXAMPLE).unwrap();
        // Until June they had points of their own.
        let complaints = registry.shared_series("pond-7", &description(&[0, 1]));
        assert_eq!(complaints.iter().map(|c| c.line).collect::<Vec<_>>(), [36], "{complaints:?}");
        assert!(complaints[0].what.contains("channels 0 and 1"), "{complaints:?}");
        assert_eq!(registry.shared_series("pond-7", &description(&[0, 5])), []);
    }

    #[test]
    fn each_mistake_is_named_with_line_and_remedy() {
        for (from, to, line, what) in [
            ("adcode = 350181", "adcode = 350182", 7, "350112"),
            ("adcode = 350181", "adcode = 350199", 7, "350181 福清市"),
            ("name = \"2号塘\"", "name = \"1号塘\"", 15, "another unit"),
            ("name = \"1号塘\"", "name = \"a\\nb\"", 10, "no line breaks"),
            ("unit = \"2号塘\"", "unit = \"3号塘\"", 36, "it has \"1号塘\", \"2号塘\""),
            ("\"1\" = \"1.5 m\"", "\"x\" = \"1.5 m\"", 30, "channels are 0 to 31"),
            ("name = \"pond-7\"", "name = \"Pond 7\"", 21, "a-z, 0-9"),
            ("since = 2026-03-01T08:00:00+08:00", "since = 2026-03-01", 24, "offset"),
            ("kind = \"pond\"", "kind = \"pnd\"", 11, "pond"),
            ("title = \"福清一号养殖场\"", "titel = \"x\"", 6, "titel"),
            ("property = \"water_temperature\"", "property = \"watertemp\"", 44, "soil_moisture"),
            ("property = \"water_temperature\"", "property = \"dissolved_oxygen\"", 46, "never implausible"),
            ("months = [12, 1, 2]", "months = [0]", 45, "from 1 to 12"),
            ("min = 8.0", "min = nan", 46, "not below"),
        ] {
            let complaints = load(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            let hit = complaints.iter().find(|c| c.what.contains(what));
            assert!(hit.is_some_and(|c| c.line == line), "{to}: {complaints:#?}");
        }
    }
}
