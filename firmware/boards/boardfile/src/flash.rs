//! The flash map, as the platform wants it.

use std::error::Error;
use std::fmt::Write as _;

use crate::Flash;

/// Every area, as the map names it.
const AREAS: [&str; 8] = ["image-a", "image-b", "config-a", "config-b", "settings-a", "settings-b", "faults", "ring"];

impl Flash {
    pub(crate) fn area(&self, name: &str) -> Result<[u32; 2], String> {
        self.map.get(name).copied().ok_or_else(|| format!("the flash map has no {name}"))
    }

    /// Sectors that an area covers: where each begins and its bytes.
    fn sectors_of(&self, name: &str) -> Result<Vec<(u32, u32)>, String> {
        let [from, bytes] = self.area(name)?;
        let (mut at, mut found, mut left) = (0, Vec::new(), bytes);
        for sector in self.sectors.iter().flat_map(|it| std::iter::repeat_n(it.bytes, it.count as usize)) {
            if at >= from && left >= sector {
                found.push((at, sector));
                left -= sector;
            }
            at += sector;
        }
        let begins = found.first().is_some_and(|(at, _)| *at == from);
        if begins && left == 0 { Ok(found) } else { Err(format!("{name} is not whole sectors")) }
    }

    /// The map in Rust.
    ///
    /// The platform knows flashes of one sector size, as embedded-storage does. Where sectors are of
    /// several sizes, each sector that is in use is shown as a unit of the largest size, one behind
    /// the other, whatever it has in truth: `SECTORS` says where each begins and how much of it is there.
    pub(crate) fn rust(&self) -> Result<String, Box<dyn Error>> {
        let mut areas = Vec::new();
        for name in AREAS {
            areas.push((name, self.sectors_of(name)?));
        }
        let [settings_a, settings_bytes] = self.area("settings-a")?;
        if self.area("settings-b")? != [settings_a + settings_bytes, settings_bytes] {
            return Err("settings-b does not follow settings-a, as long as that".into());
        }
        areas.sort_by_key(|(_, sectors)| sectors.first().copied());
        let sectors: Vec<(u32, u32)> = areas.iter().flat_map(|(_, sectors)| sectors.iter().copied()).collect();
        let unit = sectors.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default();
        let mixed = self.sectors.iter().any(|it| it.bytes != self.sectors[0].bytes);
        let range = |name: &str, count: u32| -> Result<String, String> {
            let own = self.sectors_of(name)?;
            let first = sectors.iter().position(|sector| Some(sector) == own.first()).unwrap_or_default() as u32;
            let [mut from, mut bytes] = self.area(name)?;
            if mixed {
                (from, bytes) = (first * unit, own.len() as u32 * unit);
            }
            Ok(format!("Range {{ from: {from:#x}, bytes: {:#x} }}", bytes * count))
        };
        let mut text = String::from("use platform::flash::{Map, Range};\n");
        let capacity: u32 = match mixed {
            true => sectors.len() as u32 * unit,
            false => self.sectors.iter().map(|it| it.count * it.bytes).sum(),
        };
        writeln!(text, "/// Bytes of the flash.\npub const FLASH_BYTES: usize = {capacity:#x};")?;
        writeln!(text, "/// Bytes erased at once.\npub const SECTOR_BYTES: usize = {unit:#x};")?;
        if mixed {
            writeln!(text, "/// Where each unit of the map is, and how many bytes of it there are.")?;
            let each: Vec<_> = sectors.iter().map(|(at, bytes)| format!("({at:#x}, {bytes:#x})")).collect();
            writeln!(text, "pub const SECTORS: [(u32, u32); {}] = [{}];", each.len(), each.join(", "))?;
        }
        writeln!(text, "/// What of the flash is for what.\npub const MAP: Map = Map {{")?;
        writeln!(text, "    ring: {},", range("ring", 1)?)?;
        writeln!(text, "    config: [{}, {}],", range("config-a", 1)?, range("config-b", 1)?)?;
        writeln!(text, "    settings: {},", range("settings-a", 2)?)?;
        writeln!(text, "    faults: {},", range("faults", 1)?)?;
        writeln!(text, "    image: [{}, {}],\n}};", range("image-a", 1)?, range("image-b", 1)?)?;
        writeln!(text, "const _: () = assert!(MAP.is_sound(FLASH_BYTES as u32, SECTOR_BYTES as u32));")?;
        Ok(text)
    }
}
