//! Pins, flash map and memory of the board, from its board.toml.

use boardfile::{BoardFile, Names};

/// What tells the chip's ROM that there is a program; it looks in the first 4 KiB (RP2350 datasheet §5.9.5).
const IMAGE_DEF: &str = "
SECTIONS { .start_block : ALIGN(4) { KEEP(*(.start_block)); } > LOADER } INSERT AFTER .loader;
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let board = BoardFile::read("board.toml")?;
    board.write_rust(Names::Rp)?;
    // SRAM0 to SRAM9 follow each other (RP2350 datasheet §4.2).
    board.write_memory(0, &[("STACK", 0x2000_0000, 64 << 10), ("RAM", 0x2001_0000, 456 << 10)], IMAGE_DEF)
}
