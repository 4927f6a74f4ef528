//! What is computed on the boards' own kind of processor, a Cortex-M3 without floating point,
//! emulated by QEMU.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::process::Process;
use system_tests::qemu;

/// From reset to its last word; it takes a tenth of a second.
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn computed_quantities_meet_the_domains_vectors_on_a_cortex_m3() -> Result<()> {
    emulated("vectors", " missed").await
}

#[tokio::test]
async fn the_node_core_leaves_room_on_the_stack_of_a_cortex_m3() -> Result<()> {
    emulated("stack", "stack of the node core").await
}

/// Runs a program of `tests/size-probe` to its end, which has to be a good one; `measured` is in the
/// line of its figures.
async fn emulated(program: &str, measured: &str) -> Result<()> {
    let Some(qemu) = qemu()? else { return Ok(()) };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("size-probe");
    // From its own folder: that is where its target and linker script are named.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--example", program])
        .current_dir(&workspace)
        .output()
        .context("run Cargo")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let board = ["-M", "mps2-an385", "-nographic", "-semihosting-config", "enable=on,target=native", "-kernel"];
    let mut arguments: Vec<_> = board.iter().map(Into::into).collect();
    arguments.push(workspace.join("../../target/size-probe/thumbv7m-none-eabi/release/examples").join(program).into());
    let mut emulation = Process::start(&qemu, &arguments, &[], &workspace)?;
    let said = emulation.line(measured, WITHIN).await?;
    println!("measured: {said}");
    let status = emulation.end(WITHIN).await?;
    ensure!(status.success(), "{}", emulation.lines().join("\n"));
    Ok(())
}
