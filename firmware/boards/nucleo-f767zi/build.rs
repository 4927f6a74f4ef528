//! Pins, flash map and memory of the board, from its board.toml.

use boardfile::{BoardFile, Names};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let board = BoardFile::read("board.toml")?;
    board.write_rust(Names::Stm32)?;
    // DTCM, SRAM1 and SRAM2 follow each other (RM0410 table 1). The stack is where the processor is fastest.
    board.write_memory(0, &[("STACK", 0x2000_0000, 64 << 10), ("RAM", 0x2001_0000, 448 << 10)], "")
}
