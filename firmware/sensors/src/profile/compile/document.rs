//! The shape of a profile file.

use std::{string::String, vec::Vec};

use serde::Deserialize;
use toml::Spanned;

use super::CompileError;

/// What a register map was verified against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Evidence {
    /// Frames recorded from the real instrument.
    #[serde(rename = "real frame")]
    RealFrame,
    /// The maker's manual.
    #[serde(rename = "manual")]
    Manual,
    /// Only frames computed from a description.
    #[serde(rename = "synthetic")]
    Synthetic,
}

impl Evidence {
    /// As in profile files.
    pub fn name(self) -> &'static str {
        match self {
            Self::RealFrame => "real frame",
            Self::Manual => "manual",
            Self::Synthetic => "synthetic",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: Spanned<String>,
    pub(super) maker: String,
    pub(super) title: Title,
    pub(super) verified: Verified,
    pub(super) line: Line,
    #[serde(default)]
    pub(super) timing: Timing,
    #[serde(default)]
    pub(super) block: Vec<Spanned<Block>>,
    #[serde(default)]
    pub(super) quantity: Vec<Spanned<Quantity>>,
    #[serde(default)]
    pub(super) write: Vec<Spanned<Write>>,
    pub(super) relay: Option<Spanned<Relay>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Title {
    pub(super) zh: String,
    pub(super) en: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verified {
    pub(super) by: Evidence,
    pub(super) source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) address: Spanned<u8>,
    pub(super) baud: Spanned<u32>,
    #[serde(default)]
    pub(super) parity: Parity,
    #[serde(default)]
    pub(super) stop_bits: Option<Spanned<u8>>,
    #[serde(default)]
    pub(super) echo: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Parity {
    #[default]
    None,
    Even,
    Odd,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timing {
    pub(super) warm_up_ms: Option<Spanned<u32>>,
    pub(super) response_ms: Option<Spanned<u16>>,
    pub(super) retries: Option<Spanned<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Block {
    pub(super) function: Spanned<u8>,
    pub(super) start: u16,
    pub(super) count: Spanned<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    #[default]
    U16,
    I16,
    U32,
    I32,
    F32,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Endian {
    #[default]
    Big,
    Little,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    #[default]
    None,
    Probe,
    Node,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantity {
    pub(super) property: Spanned<String>,
    pub(super) unit: Spanned<String>,
    pub(super) register: Spanned<u16>,
    /// Needed only where two blocks of different functions hold the same register number.
    pub(super) function: Option<u8>,
    #[serde(default, rename = "type")]
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) byte_order: Endian,
    #[serde(default)]
    pub(super) word_order: Endian,
    pub(super) scale: Option<Spanned<f64>>,
    pub(super) offset: Option<Spanned<f64>>,
    #[serde(default)]
    pub(super) compensated_by: Side,
    #[serde(default)]
    pub(super) doubtful: bool,
    pub(super) valid: Option<Spanned<[f64; 2]>>,
    pub(super) trusted: Option<Spanned<[f64; 2]>>,
    #[serde(default)]
    pub(super) sentinels: Vec<Spanned<Sentinel>>,
    pub(super) quality: Option<Spanned<Quality>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sentinel {
    pub(super) raw: toml::Value,
    #[serde(default)]
    pub(super) reason: Reason,
}

/// The reasons that a probe itself can give.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    #[default]
    Sentinel,
    OutOfRange,
    WarmUp,
    Disabled,
    Fault,
    PowerOnValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quality {
    pub(super) register: u16,
    pub(super) good: Vec<u16>,
    #[serde(default)]
    pub(super) values: Vec<QualityValue>,
    pub(super) otherwise: Reason,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QualityValue {
    pub(super) value: u16,
    pub(super) reason: Reason,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    pub(super) setting: Spanned<String>,
    pub(super) register: u16,
    pub(super) function: Option<Spanned<u8>>,
    pub(super) value: Option<u16>,
    pub(super) scale: Option<f64>,
    pub(super) codes: Option<Vec<(u32, u16)>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) coils: Spanned<u8>,
    pub(super) write: Spanned<CoilWrite>,
    pub(super) read: Spanned<CoilRead>,
    pub(super) time_out: Option<Spanned<TimeOut>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoilWrite {
    pub(super) function: u8,
    pub(super) start: u16,
    pub(super) on: Option<u16>,
    pub(super) off: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoilRead {
    pub(super) function: u8,
    pub(super) start: u16,
    pub(super) on: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeOut {
    pub(super) register: u16,
    pub(super) function: Option<u8>,
    pub(super) per_s: Option<u16>,
    pub(super) min_s: u16,
    pub(super) max_s: u16,
}

pub(super) fn parse(text: &str, file: &str) -> Result<Document, CompileError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let message = error.message();
        // serde says what it knows after a comma: "unknown field `x`, expected one of …".
        let (what, right) = match message.split_once(", expected ") {
            Some((what, right)) => (what, Some(std::format!("expected {right}"))),
            None => (message, None),
        };
        CompileError::at(text, file, error.span(), what, right)
    })
}
