//! Nothing in the firmware's rooms panics once a board has booted: their release build has no way
//! to a panic.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use system_tests::disassembler;
use system_tests::image::ways_to_panic;

#[test]
fn the_node_core_has_no_way_to_a_panic() -> Result<()> {
    expect_no_way_to_a_panic("node")
}

#[test]
fn no_parts_driver_has_a_way_to_a_panic() -> Result<()> {
    expect_no_way_to_a_panic("parts")
}

fn expect_no_way_to_a_panic(program: &str) -> Result<()> {
    let Some(disassembler) = disassembler()? else { return Ok(()) };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("size-probe");
    // From its own folder: that is where its target and linker script are named.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--bin", program])
        .current_dir(&workspace)
        .output()
        .context("run Cargo")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let release = workspace.join("../../target/size-probe/thumbv7m-none-eabi/release");
    let ways = ways_to_panic(&disassembler, &release.join(program))?;
    let told: Vec<_> = ways.iter().map(|way| format!("{} may come to {}", way.from, way.to)).collect();
    ensure!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}
