//! Compiles profile files. For hosts: the gateway's `check` and `node` commands, the simulator.
//!
//! A profile is a TOML file; the ones in `firmware/sensors/profiles` are built in, and a farm's
//! own file is compiled just the same. Whatever is wrong is reported with file, line, column and
//! what would be right.

mod document;
mod encode;
mod error;
mod relay;

use std::{
    string::{String, ToString},
    vec::Vec,
};

pub use document::Evidence;
pub use error::{CompileError, LoadError};

use super::Profile;

/// A compiled profile, with what only people want to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Name, as in the binary.
    pub name: String,
    /// Who makes it.
    pub maker: String,
    /// Chinese title.
    pub title_zh: String,
    /// English title.
    pub title_en: String,
    /// What the register map was verified against.
    pub verified: Evidence,
    /// Where that evidence is from.
    pub source: String,
    /// The binary, at most [`PROFILE_LEN_MAX`](super::PROFILE_LEN_MAX) bytes.
    pub bytes: Vec<u8>,
}

impl Compiled {
    /// The profile, read in place.
    ///
    /// # Errors
    /// Never for what [`compile`] made; the bytes are public and may have been changed.
    pub fn profile(&self) -> Result<Profile<'_>, super::ProfileError> {
        Profile::decode(&self.bytes)
    }
}

/// Compiles the text of a profile; `file` is only what errors call it.
///
/// # Errors
/// The first thing that is wrong, where it is and what would be right.
pub fn compile(text: &str, file: &str) -> Result<Compiled, CompileError> {
    let document = document::parse(text, file)?;
    encode::encode(document, text, file)
}

/// Compiles the profile in a file.
///
/// # Errors
/// When the file cannot be read or is no profile.
pub fn load(path: &std::path::Path) -> Result<Compiled, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| LoadError::Read { file: path.display().to_string(), source })?;
    Ok(compile(&text, &path.display().to_string())?)
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../profiles/", $name, ".toml")))),*]
    };
}

/// Name and text of the built-in profiles.
const BUILT_IN: &[(&str, &str)] = built_in![
    "soil-a",
    "soil-a-npk",
    "soil-b-jxct",
    "soil-c",
    "renke-rs-ldo-n01",
    "dfrobot-sen0658",
    "louver-box-pm25",
    "louver-box-co2",
    "xy-md02",
    "supmea-do7013",
    "hach-ldo-aqs",
    "waveshare-relay-8ch",
    "wb-mr6c",
    "r421a08",
    "in-situ-rdo-pro",
    "supmea-ph8001",
    "aquaread-leveline-ctd",
    "daviteq-mbrtu-tbd",
    "boqu-bh-485-nh",
    "aquaread-leveline",
    "qdy30a",
];

/// Name and TOML text of every built-in profile.
pub fn profiles() -> &'static [(&'static str, &'static str)] {
    BUILT_IN
}

/// Compiles the built-in profile of this name; `None` when there is none.
///
/// # Errors
/// Never for a released build: a test compiles each of them.
pub fn built_in(name: &str) -> Option<Result<Compiled, CompileError>> {
    BUILT_IN.iter().find(|(it, _)| *it == name).map(|(name, text)| compile(text, &std::format!("{name}.toml")))
}

/// The profile that a config names: a built-in one, or the path of a file (anything that ends in
/// `.toml`), as seen from `base`.
///
/// # Errors
/// When there is none, or it is wrong.
pub fn find(name: &str, base: &std::path::Path) -> Result<Compiled, LoadError> {
    if let Some(compiled) = built_in(name) {
        return Ok(compiled?);
    }
    if name.ends_with(".toml") {
        return load(&base.join(name));
    }
    let known: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    Err(LoadError::Unknown { name: name.into(), known: known.join(", ") })
}
