//! Puts the linker's memory map where `link.x` looks for it, makes the flash map of board.toml, and
//! compiles the profile of the probe that the self test reads.

use std::path::PathBuf;

const PROFILE: &str = "../../sensors/profiles/xy-md02.toml";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("Cargo names OUT_DIR")?);
    std::fs::copy("memory.x", out.join("memory.x"))?;
    let compiled = sensors::profile::compile::compile(&std::fs::read_to_string(PROFILE)?, PROFILE)?;
    std::fs::write(out.join("xy-md02.bin"), &compiled.bytes)?;
    boardfile::BoardFile::read("board.toml")?.write_map()?;
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROFILE}");
    Ok(())
}
