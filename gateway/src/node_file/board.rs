//! What each board can do, as data: `firmware/boards/<board>/board.toml`, built in. A new board is a
//! new folder there.
//!
//! Names of lines, buses and pins are what is printed on the board; their place in the list is the
//! number that a config image carries and the board's code knows.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Text of every board's file, in the order of their folders.
const FILES: &[&str] = include!(concat!(env!("OUT_DIR"), "/boards.rs"));

/// Least room of a config: the largest image with a head for each of its pieces, in bytes.
pub const CONFIG_SLOT_BYTES_MIN: u32 = 12 * 1024;
/// Least room of the ring where the flash has it, in bytes.
pub const RING_BYTES_MIN: u32 = 256 * 1024;

/// A board.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name, as node files and descriptions say it.
    pub name: String,
    /// As people call it.
    pub title: String,
    /// Processor and clock.
    pub processor: String,
    /// What the compiler calls it.
    pub target: String,
    /// How far it was seen to work.
    pub status: Status,
    /// RAM, KiB.
    pub ram_kib: u32,
    /// How it can get to a network.
    pub links: Vec<LinkKind>,
    /// Whether it has room for TLS.
    pub tls: bool,
    /// RS-485 lines.
    #[serde(default)]
    pub lines: Places,
    /// I2C buses.
    #[serde(default)]
    pub i2c: Places,
    /// 1-Wire buses.
    #[serde(default)]
    pub onewire: Places,
    /// Pins that switch.
    #[serde(default)]
    pub outputs: Places,
    /// Pins that see a contact.
    #[serde(default)]
    pub contacts: Places,
    /// Pins that count pulses.
    #[serde(default)]
    pub pulses: Places,
    /// Pins that measure a voltage.
    #[serde(default)]
    pub adcs: Places,
    /// Its flash.
    pub flash: Flash,
    /// What writes it.
    pub tool: Tool,
}

/// How far a board was seen to work: never more than was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Status {
    /// Every test run runs it.
    #[serde(rename = "runs in emulation")]
    Emulated,
    /// Its image is built and measured.
    #[serde(rename = "builds; not tried on hardware")]
    Builds,
}

/// How a node gets to its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A cable.
    Ethernet,
    /// Wi-Fi.
    Wifi,
    /// A modem.
    Cellular,
}

/// Lines, buses or pins of one kind; a place in the list is the number.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// What is printed on the board.
    pub names: Vec<String>,
    /// Where that is on the processor, for whoever wires it.
    #[serde(default)]
    pub at: Vec<String>,
}

/// A board's flash.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flash {
    /// Where the processor and the tools see its first byte.
    pub base: u32,
    /// Bytes written at once.
    pub write: u32,
    /// How long a sector takes to erase, typically and at most, ms.
    pub erase_ms: [u32; 2],
    /// Its sectors, from the first on.
    pub sectors: Vec<Sectors>,
    /// Where what is: offset and length in bytes.
    pub map: BTreeMap<Area, [u32; 2]>,
}

/// Some sectors of one size.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sectors {
    /// How many.
    pub count: u32,
    /// Of how many bytes each.
    pub bytes: u32,
}

/// What the flash is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The firmware.
    ImageA,
    /// Room for the firmware's next version.
    ImageB,
    /// A config.
    ConfigA,
    /// Room for the next one.
    ConfigB,
    /// The settings.
    SettingsA,
    /// Room for the next ones.
    SettingsB,
    /// The fault log.
    Faults,
    /// The records.
    Ring,
}

impl Area {
    /// Every area.
    pub const ALL: [Self; 8] = [
        Self::ImageA,
        Self::ImageB,
        Self::ConfigA,
        Self::ConfigB,
        Self::SettingsA,
        Self::SettingsB,
        Self::Faults,
        Self::Ring,
    ];
}

/// What writes a board. `{image}`, `{data}`, `{address}` and `{partitions}` stand for files and a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// How it works.
    pub kind: ToolKind,
    /// The released image's file name.
    pub image: String,
    /// Command and arguments that write the image.
    #[serde(default)]
    pub flash: Vec<String>,
    /// Command and arguments that write bytes at an address.
    #[serde(default)]
    pub data: Vec<String>,
    /// Command and arguments that start it anew.
    #[serde(default)]
    pub restart: Vec<String>,
    /// A partition table that the tool wants.
    #[serde(default)]
    pub partitions: String,
    /// Name of the drive that a UF2 file is copied to.
    #[serde(default)]
    pub volume: String,
    /// Family by which a board takes a UF2 file as its own (microsoft/uf2 `utils/uf2families.json`).
    #[serde(default)]
    pub family: u32,
    /// What a person does first.
    #[serde(default)]
    pub hint: String,
}

/// How a board is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// It is not.
    None,
    /// By a command.
    Command,
    /// By copying a UF2 file onto a drive.
    Uf2,
}

/// Every board.
///
/// # Errors
/// Never for a released build: a test reads each of them.
pub fn all() -> Result<Vec<Board>, toml::de::Error> {
    FILES.iter().map(|text| toml::from_str(text)).collect()
}

impl Places {
    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<u8> {
        self.names.iter().position(|it| it == name).and_then(|at| u8::try_from(at).ok())
    }
}

impl Flash {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.sectors.iter().map(|it| u64::from(it.count) * u64::from(it.bytes)).sum()
    }

    /// Offset and length of an area; nothing where it is not in the map.
    pub fn area(&self, area: Area) -> (u32, u32) {
        let [offset, length] = self.map.get(&area).copied().unwrap_or_default();
        (offset, length)
    }

    /// Sizes of the sectors that an area covers; `None` where it begins or ends within one, or
    /// outside the flash.
    pub fn sectors_of(&self, area: Area) -> Option<Vec<u32>> {
        let (offset, length) = self.area(area);
        let (from, to) = (u64::from(offset), u64::from(offset) + u64::from(length));
        let (mut at, mut found) = (0u64, Vec::new());
        let each = self.sectors.iter().flat_map(|it| std::iter::repeat_n(it.bytes, it.count as usize));
        for bytes in each {
            let end = at + u64::from(bytes);
            match (at >= from && end <= to, at < to && end > from) {
                (true, _) => found.push(bytes),
                (false, true) => return None,
                (false, false) => {}
            }
            at = end;
        }
        (to <= at && !found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fewest sectors of the ring (`node::ring`) and of the fault log.
    const RING_SECTORS_MIN: usize = 3;
    const FAULT_SECTORS_MIN: usize = 2;

    fn mistakes(board: &Board) -> Vec<String> {
        let mut found = Vec::new();
        let flash = &board.flash;
        let mut end = 0;
        let mut by_place: Vec<_> = Area::ALL.iter().map(|area| (flash.area(*area), *area)).collect();
        by_place.sort();
        for ((offset, length), area) in by_place {
            let Some(sectors) = flash.sectors_of(area) else {
                found.push(format!("{area:?} is not whole sectors of the flash"));
                continue;
            };
            if u64::from(offset) < end {
                found.push(format!("{area:?} overlaps what is before it"));
            }
            end = u64::from(offset) + u64::from(length);
            if sectors.iter().any(|bytes| *bytes != sectors[0]) && !matches!(area, Area::ImageA | Area::ImageB) {
                found.push(format!("{area:?} has sectors of several sizes"));
            }
            let enough = match area {
                // The slot that is not run where it lies may be larger.
                Area::ImageA | Area::ImageB => length >= flash.area(Area::ImageA).1,
                Area::ConfigA | Area::ConfigB => length >= CONFIG_SLOT_BYTES_MIN,
                Area::SettingsA | Area::SettingsB => length >= 1024,
                Area::Faults => sectors.len() >= FAULT_SECTORS_MIN,
                Area::Ring => sectors.len() >= RING_SECTORS_MIN && length >= RING_BYTES_MIN,
            };
            if !enough {
                found.push(format!("{area:?} is too small"));
            }
        }
        let lists = [&board.lines, &board.i2c, &board.onewire, &board.outputs];
        for places in lists.into_iter().chain([&board.contacts, &board.pulses, &board.adcs]) {
            for (n, name) in places.names.iter().enumerate() {
                if places.names[..n].contains(name) {
                    found.push(format!("{name} is there twice"));
                }
            }
            if !places.at.is_empty() && places.at.len() != places.names.len() {
                found.push(format!("{:?} are not told one by one", places.names));
            }
        }
        if board.links.is_empty() || board.lines.names.len() > node::config::BUSES_MAX {
            found.push("no link, or more lines than a node has".into());
        }
        let complete = match board.tool.kind {
            ToolKind::None => true,
            ToolKind::Command => !board.tool.flash.is_empty() && !board.tool.data.is_empty(),
            ToolKind::Uf2 => !board.tool.volume.is_empty() && board.tool.family != 0,
        };
        if !complete || board.tool.image.is_empty() {
            found.push("the tool is not told whole".into());
        }
        found
    }

    #[test]
    fn every_board_reads_and_its_flash_is_divided_into_whole_sectors_that_do_not_overlap() {
        let boards = all().unwrap();
        assert!(boards.len() >= 5, "{}", boards.len());
        for (text, board) in FILES.iter().zip(&boards) {
            assert_eq!(mistakes(board), [""; 0], "{}", board.name);
            assert!(text.contains(&format!("name = \"{}\"", board.name)));
            // As a description carries it.
            assert!(board.name.len() <= 16, "{}", board.name);
        }
    }

    #[test]
    fn a_map_that_cannot_be_is_found_out() {
        let board = || all().unwrap().remove(0);
        let with = |change: &dyn Fn(&mut Flash)| {
            let mut board = board();
            change(&mut board.flash);
            mistakes(&board).join("; ")
        };
        assert_eq!(with(&|_| {}), "");
        let (ring, _) = board().flash.area(Area::Ring);
        assert!(
            with(&|f| {
                f.map.insert(Area::Ring, [ring - 1, 0x40000]);
            })
            .contains("Ring is not whole")
        );
        assert!(
            with(&|f| {
                f.map.insert(Area::Ring, [ring, u32::MAX]);
            })
            .contains("Ring is not whole")
        );
        assert!(
            with(&|f| {
                f.map.insert(Area::Ring, [0, 0x40000]);
            })
            .contains("ImageA overlaps")
        );
        assert!(
            with(&|f| {
                f.map.insert(Area::Ring, [ring, 0x2000]);
            })
            .contains("Ring is too small")
        );
        assert!(
            with(&|f| {
                f.map.remove(&Area::Faults);
            })
            .contains("Faults is not whole")
        );
    }

    #[test]
    fn a_partition_table_says_what_the_map_says() {
        for board in all().unwrap() {
            let lines = board.tool.partitions.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
            let number = |text: &str| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap();
            let table: BTreeMap<_, _> = lines
                .map(|line| line.split(',').collect::<Vec<_>>())
                .map(|f| (f[0].to_owned(), [number(f[3]), number(f[4])]))
                .collect();
            for (area, place) in board.flash.map.iter().filter(|_| !table.is_empty()) {
                let name = format!("{area:?}").replace('A', "-a").replace('B', "-b").to_lowercase();
                assert_eq!(table.get(&name), Some(place), "{} {name}", board.name);
            }
        }
    }
}
