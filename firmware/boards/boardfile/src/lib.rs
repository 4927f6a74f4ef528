//! Makes of a `board.toml` what is built with it: Rust and a linker script in the board's build script, and what
//! is flashed of its program. One place decides which pin is what and what lies where in the flash, for the
//! board's code as for `tianyu check`.
//!
//! The Rust has the board's name, its flash map as the platform wants it, and a macro for each kind
//! of pin. `outputs!(p, f)` is `[f(p.PF14), …]` with the pins in the order of their numbers, so a pin
//! that the chip does not have, or that cannot do what it should, fails to compile.

mod flash;
mod pins;
mod uf2;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Deserialize;

pub use pins::Names;
pub use uf2::uf2;

/// What of a board's file a build needs.
#[derive(Debug, Deserialize)]
pub struct BoardFile {
    name: String,
    #[serde(default)]
    lines: Places,
    #[serde(default)]
    i2c: Places,
    #[serde(default)]
    onewire: Places,
    #[serde(default)]
    outputs: Places,
    #[serde(default)]
    contacts: Places,
    #[serde(default)]
    pulses: Places,
    #[serde(default)]
    adcs: Places,
    flash: Flash,
    tool: Tool,
}

#[derive(Debug, Deserialize)]
struct Tool {
    kind: String,
    #[serde(default)]
    family: u32,
}

#[derive(Debug, Default, Deserialize)]
struct Places {
    names: Vec<String>,
    #[serde(default)]
    at: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Flash {
    base: u32,
    sectors: Vec<Sectors>,
    map: BTreeMap<String, [u32; 2]>,
}

#[derive(Debug, Deserialize)]
struct Sectors {
    count: u32,
    bytes: u32,
}

/// A piece of memory: its name to the linker, where it begins, how many bytes it has.
pub type Piece = (&'static str, u32, u32);

/// The stack lies in a piece of its own, below the data; the loader of the crate `cortex` is the first
/// thing in the flash that the program brings.
const LINKED: &str = "
_stack_end = ORIGIN(STACK);
_stack_start = ORIGIN(STACK) + LENGTH(STACK);
EXTERN(__loader);
SECTIONS { .loader ORIGIN(LOADER) : { KEEP(*(.loader)) } > LOADER } INSERT BEFORE .vector_table;
";

impl BoardFile {
    /// Reads a board's file, relative to the crate that is being built.
    ///
    /// # Errors
    /// When it is not there or not what it should be.
    pub fn read(path: &str) -> Result<Self, Box<dyn Error>> {
        println!("cargo::rerun-if-changed={path}");
        Self::parse(&std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?)
    }

    fn parse(text: &str) -> Result<Self, Box<dyn Error>> {
        Ok(toml::from_str(text)?)
    }

    /// Writes `board.rs` for the board to include; `names` is how its HAL names the pins.
    ///
    /// # Errors
    /// When the file names pins or areas that cannot be understood.
    pub fn write_rust(&self, names: Names) -> Result<(), Box<dyn Error>> {
        Ok(std::fs::write(out()?.join("board.rs"), self.rust(names)?)?)
    }

    /// Writes `map.rs`, the flash map alone: for a board whose pins are not its processor's.
    ///
    /// # Errors
    /// When the map is not possible or cannot be written.
    pub fn write_map(&self) -> Result<(), Box<dyn Error>> {
        Ok(std::fs::write(out()?.join("map.rs"), self.flash.rust()?)?)
    }

    fn rust(&self, names: Names) -> Result<String, Box<dyn Error>> {
        let mut text = String::new();
        writeln!(text, "/// The board's name.\npub const NAME: &str = {:?};", self.name)?;
        text += &self.flash.rust()?;
        text += &pins::places("outputs", &self.outputs, names)?;
        text += &pins::places("contacts", &self.contacts, names)?;
        text += &pins::places("pulses", &self.pulses, names)?;
        text += &pins::places("adcs", &self.adcs, names)?;
        text += &pins::places("onewire", &self.onewire, names)?;
        text += &pins::buses("rs485", &self.lines, names, &["TX", "RX", "DE"])?;
        text += &pins::buses("i2c", &self.i2c, names, &["SCL", "SDA"])?;
        Ok(text)
    }

    /// Writes `memory.x` for cortex-m-rt, and has the linker look for it. The program is image A. What
    /// is before it in the flash is the loader's, from `loader_at` on. `pieces` are the others, `STACK`
    /// and `RAM` among them; `more` is put behind it all.
    ///
    /// # Errors
    /// When the map has no image, or no room before it.
    pub fn write_memory(&self, loader_at: u32, pieces: &[Piece], more: &str) -> Result<(), Box<dyn Error>> {
        let out = out()?;
        std::fs::write(out.join("memory.x"), self.memory(loader_at, pieces, more)?)?;
        println!("cargo::rustc-link-search={}", out.display());
        Ok(())
    }

    fn memory(&self, loader_at: u32, pieces: &[Piece], more: &str) -> Result<String, Box<dyn Error>> {
        let [offset, length] = self.flash.area("image-a")?;
        let base = self.flash.base;
        let loader_bytes = offset.checked_sub(loader_at).filter(|bytes| *bytes > 0).ok_or("no room for a loader")?;
        let own = [("LOADER", base + loader_at, loader_bytes), ("FLASH", base + offset, length)];
        let mut text = String::from("MEMORY {\n");
        for (name, origin, bytes) in own.iter().chain(pieces) {
            writeln!(text, "  {name} : ORIGIN = {origin:#010x}, LENGTH = {bytes:#x}")?;
        }
        Ok(text + "}\n" + LINKED + more)
    }
}

/// The family by which a board takes UF2 files; none for one that does not.
///
/// # Errors
/// When the file's text is not what it should be.
pub fn uf2_family(text: &str) -> Result<Option<u32>, Box<dyn Error>> {
    let Tool { kind, family } = BoardFile::parse(text)?.tool;
    Ok((kind == "uf2").then_some(family))
}

fn out() -> Result<PathBuf, Box<dyn Error>> {
    Ok(std::env::var_os("OUT_DIR").ok_or("Cargo names OUT_DIR")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "some-board"
        [lines]
        names = ["rs485-1"]
        at = ["USART2: TX D53 (PD5), RX D52 (PD6), DE D54 (PD4)"]
        [i2c]
        names = ["i2c-1"]
        at = ["I2C1: SDA D14 (PB9), SCL D15 (PB8)"]
        [outputs]
        names = ["D4", "D5"]
        at = ["PF14", "PE11"]
        [pulses]
        names = ["D12"]
        at = ["PA6, EXTI6"]
        [flash]
        base = 0x08000000
        sectors = [{ count = 4, bytes = 0x4000 }, { count = 1, bytes = 0x10000 }, { count = 7, bytes = 0x20000 }]
        [flash.map]
        image-a = [0x20000, 0x20000]
        image-b = [0x40000, 0x20000]
        config-a = [0x00000, 0x4000]
        config-b = [0x04000, 0x4000]
        settings-a = [0x08000, 0x4000]
        settings-b = [0x0c000, 0x4000]
        faults = [0x60000, 0x20000]
        ring = [0x80000, 0x60000]
        [tool]
        kind = "uf2"
        family = 7
    "#;

    #[test]
    fn pins_become_arrays_and_buses_tuples_in_the_order_that_the_hal_wants() {
        let text = BoardFile::parse(TEXT).unwrap().rust(Names::Stm32).unwrap();
        assert!(text.contains("pub const NAME: &str = \"some-board\";"), "{text}");
        assert!(
            text.contains("macro_rules! outputs { ($p:ident, $f:expr) => { [$f($p.PF14), $f($p.PE11)] } }"),
            "{text}"
        );
        assert!(text.contains("[$f($p.PA6, $p.EXTI6)]"), "{text}");
        assert!(text.contains("(0, $p:ident) => { ($p.USART2, $p.PD5, $p.PD6, $p.PD4) };"), "{text}");
        assert!(text.contains("(0, $p:ident) => { ($p.I2C1, $p.PB8, $p.PB9) };"), "the SCL first: {text}");
        assert!(text.contains("macro_rules! adcs { ($p:ident, $f:expr) => { [] } }"), "{text}");
    }

    #[test]
    fn sectors_of_several_sizes_become_units_of_one_size() {
        let text = BoardFile::parse(TEXT).unwrap().rust(Names::Stm32).unwrap();
        assert!(
            text.contains("config: [Range { from: 0x0, bytes: 0x20000 }, Range { from: 0x20000, bytes: 0x20000 }]"),
            "{text}"
        );
        assert!(text.contains("settings: Range { from: 0x40000, bytes: 0x40000 }"), "{text}");
        assert!(text.contains("ring: Range { from: 0xe0000, bytes: 0x60000 }"), "{text}");
        assert!(text.contains("pub const SECTORS: [(u32, u32); 10] = [(0x0, 0x4000), (0x4000, 0x4000)"), "{text}");
    }

    #[test]
    fn the_program_is_linked_where_image_a_is() {
        let file = BoardFile::parse(TEXT).unwrap();
        let memory = file.memory(0x100, &[("RAM", 0x2000_0000, 0x8000)], "").unwrap();
        assert!(memory.contains("LOADER : ORIGIN = 0x08000100, LENGTH = 0x1ff00"), "{memory}");
        assert!(memory.contains("FLASH : ORIGIN = 0x08020000, LENGTH = 0x20000"), "{memory}");
        assert!(memory.contains("RAM : ORIGIN = 0x20000000, LENGTH = 0x8000"), "{memory}");
        assert!(file.memory(0x20000, &[], "").is_err(), "a loader needs room");
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let refuses = |from: &str, to: &str| {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            BoardFile::parse(&text).unwrap().rust(Names::Stm32).unwrap_err().to_string()
        };
        assert!(refuses("RX D52 (PD6)", "RX D52").contains("RX"));
        assert!(refuses("\"PF14\"", "\"somewhere\"").contains("somewhere"));
        assert!(refuses("at = [\"PA6, EXTI6\"]", "at = [\"PA6\", \"PA7\"]").contains("pulses"));
        assert!(refuses("ring = [0x80000, 0x60000]", "ring = [0x80000, 0x50000]").contains("ring"));
        assert!(refuses("settings-b = [0x0c000", "settings-b = [0x10000").contains("settings"));
        assert!(refuses("faults =", "moods =").contains("faults"));
    }

    #[test]
    fn a_family_is_for_boards_that_take_uf2_files() {
        assert_eq!(uf2_family(TEXT).unwrap(), Some(7));
        assert_eq!(uf2_family(&TEXT.replace("\"uf2\"", "\"command\"")).unwrap(), None);
    }

    #[test]
    fn every_board_file_here_is_understood() {
        for (board, names) in
            [("nucleo-f767zi", Names::Stm32), ("pico-w", Names::Rp), ("pico-2-w", Names::Rp), ("esp32-c3", Names::Esp)]
        {
            let path = format!("{}/../{board}/board.toml", env!("CARGO_MANIFEST_DIR"));
            let file = BoardFile::read(&path).unwrap();
            assert_eq!(file.name, board);
            assert!(file.rust(names).unwrap().contains("macro_rules! rs485"), "{board}");
        }
    }
}
