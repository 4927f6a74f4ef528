//! A firmware image read as machine code: which lines of the firmware's own rooms can reach a panic.
//!
//! It asks LLVM's disassembler for every call, and its symbolizer for the source lines of a call,
//! with everything that was inlined there. A call counts where it goes to a panicking function of
//! the standard library, or to a function of a library that may come to one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Sources that must never panic once a board has booted.
const ROOMS: [&str; 3] = ["firmware/telemetry/src/", "firmware/sensors/src/", "firmware/node/src/"];

/// What a panic is, in the names of the standard library's functions.
const PANICS: [&str; 6] = [
    "core::panicking::",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "core::result::unwrap_failed",
    "core::slice::index::slice_",
    "core::slice::copy_from_slice_impl::len_mismatch_fail",
];

/// Libraries of the rooms: what of them may panic is followed to who calls it.
const LIBRARIES: [&str; 14] = [
    "core::",
    "heapless::",
    "minicbor::",
    "libm::",
    "hmac::",
    "sha2::",
    "digest::",
    "block_buffer::",
    "crc::",
    "subtle::",
    "embedded_hal::",
    "embedded_storage::",
    "hybrid_array::",
    "nb::",
];

/// One way to a panic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The innermost of its source lines that is in one of the firmware's rooms: `file:line`.
    pub from: String,
    /// What it calls.
    pub to: String,
}

struct Call {
    at: String,
    from: String,
    to: String,
}

/// Every way from the firmware's rooms to a panic in this image, which has to have line tables.
///
/// # Errors
/// When LLVM's tools are not there, or the image has no code or no lines.
pub fn ways_to_panic(disassembler: &Path, image: &Path) -> Result<BTreeSet<Way>> {
    let calls = calls(disassembler, image)?;
    ensure!(!calls.is_empty(), "{} has no code", image.display());
    let mut dangerous: HashSet<&str> = calls
        .iter()
        .map(|call| &*call.to)
        .filter(|to| PANICS.iter().any(|panic| bare(to).starts_with(panic)))
        .collect();
    let is_library = |name: &str| LIBRARIES.iter().any(|library| bare(name).starts_with(library));
    loop {
        let more: Vec<_> = calls
            .iter()
            .filter(|call| dangerous.contains(&*call.to) && is_library(&call.from) && !dangerous.contains(&*call.from))
            .map(|call| &*call.from)
            .collect();
        if more.is_empty() {
            break;
        }
        dangerous.extend(more);
    }
    let suspects: Vec<_> =
        calls.iter().filter(|call| dangerous.contains(&*call.to) && !dangerous.contains(&*call.from)).collect();
    let symbolizer = disassembler.with_file_name("llvm-symbolizer");
    let lines = lines(&symbolizer, image, suspects.iter().map(|call| &*call.at))?;
    let mut ways = BTreeSet::new();
    for call in suspects {
        let frames = lines.get(&call.at).map(Vec::as_slice).unwrap_or_default();
        ensure!(frames.iter().any(|frame| !frame.starts_with("??")), "{} has no line tables", image.display());
        let ours =
            frames.iter().find_map(|frame| ROOMS.iter().find_map(|room| frame.find(room).map(|at| &frame[at..])));
        if let Some(from) = ours {
            ways.insert(Way { from: from.to_owned(), to: call.to.clone() });
        }
    }
    Ok(ways)
}

/// A function's name without the `<` of an impl.
fn bare(name: &str) -> &str {
    name.trim_start_matches(['<', '&'])
}

/// Every direct call and tail call between functions.
fn calls(disassembler: &Path, image: &Path) -> Result<Vec<Call>> {
    let output = Command::new(disassembler)
        .args(["--disassemble", "--demangle", "--no-show-raw-insn"])
        .arg(image)
        .output()
        .context("run the disassembler")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut from = String::new();
    let mut calls = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")).map(|(_, name)| name) {
            // Constants among the code are no functions.
            if !name.starts_with('$') {
                from = name.to_owned();
            }
            continue;
        }
        let Some((at, instruction)) = line.split_once(':') else { continue };
        let jumps = instruction.split_whitespace().next().is_some_and(is_jump);
        // `0x7b7c <name>`, or `<name+0x12>` for a place within a function, which is no call.
        let target = instruction.split_once(" <").and_then(|(_, rest)| Some(&rest[..rest.rfind('>')?]));
        if let (true, Some(to)) = (jumps, target)
            && !to.contains("+0x")
            && to != from
        {
            calls.push(Call { at: format!("0x{}", at.trim()), from: from.clone(), to: to.to_owned() });
        }
    }
    Ok(calls)
}

/// Branches of ARM and RISC-V.
fn is_jump(mnemonic: &str) -> bool {
    mnemonic.starts_with(['b', 'j']) || matches!(mnemonic, "call" | "tail")
}

/// The source lines of each address, innermost first.
fn lines<'a>(
    symbolizer: &Path,
    image: &Path,
    addresses: impl Iterator<Item = &'a str>,
) -> Result<HashMap<String, Vec<String>>> {
    let addresses: Vec<_> = addresses.collect();
    let mut lines = HashMap::new();
    // Bounded command lines.
    for chunk in addresses.chunks(500) {
        let output = Command::new(symbolizer)
            .args(["--inlines", "--output-style=GNU", "--functions=none", "--addresses", "--obj"])
            .arg(image)
            .args(chunk)
            .stdin(Stdio::null())
            .output()
            .context("run the symbolizer")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut at = String::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(address) = line.strip_prefix("0x") {
                at = format!("0x{}", address.trim_start_matches('0'));
            } else if !line.is_empty() {
                lines.entry(at.clone()).or_insert_with(Vec::new).push(line.to_owned());
            }
        }
    }
    Ok(lines)
}
