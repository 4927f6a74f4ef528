//! Pins and flash map of the board, from its board.toml. Memory is esp-hal's business.

use boardfile::{BoardFile, Names};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    BoardFile::read("board.toml")?.write_rust(Names::Esp)
}
