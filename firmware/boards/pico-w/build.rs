//! Pins, flash map and memory of the board, from its board.toml.

use boardfile::{BoardFile, Names};

/// The second stage that the RP2040 begins with; it starts what follows it (RP2040 datasheet §2.8.1.3.1).
const BOOT2: (&str, u32, u32) = ("BOOT2", 0x1000_0000, 0x100);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let board = BoardFile::read("board.toml")?;
    board.write_rust(Names::Rp)?;
    // SRAM0 to SRAM5 follow each other (RP2040 datasheet §2.6.2).
    board.write_memory(0x100, &[BOOT2, ("STACK", 0x2000_0000, 64 << 10), ("RAM", 0x2001_0000, 200 << 10)], "")
}
