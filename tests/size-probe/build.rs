//! Tells the linker where `memory.x` is, and compiles the profile of the probe that is emulated.

use std::{env, fs, path::Path};

const PROFILE: &str = "../../firmware/sensors/profiles/xy-md02.toml";

fn main() {
    let text = fs::read_to_string(PROFILE).expect("the profile is beside the drivers");
    let compiled = sensors::profile::compile::compile(&text, PROFILE).expect("a shipped profile compiles");
    let place = Path::new(&env::var_os("OUT_DIR").expect("Cargo says where")).join("xy-md02.bin");
    fs::write(place, &compiled.bytes).expect("the build's own folder takes a file");
    println!("cargo::rerun-if-changed={PROFILE}");
    println!("cargo::rustc-link-search={}", env!("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed=memory.x");
}
