//! The node file as it is written: every key, nothing else, and where each value stands.

use serde::Deserialize;
use toml::Spanned;

/// A name in the file.
pub(super) type Name = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) node: NodeTable,
    pub(super) link: LinkTable,
    pub(super) gateway: GatewayTable,
    pub(super) place: Option<PlaceTable>,
    pub(super) registry: Option<RegistryTable>,
    #[serde(default)]
    pub(super) probe: Vec<ProbeTable>,
    #[serde(default)]
    pub(super) relay: Vec<RelayTable>,
    #[serde(default)]
    pub(super) channel: Vec<ChannelTable>,
    #[serde(default)]
    pub(super) actuator: Vec<ActuatorTable>,
    #[serde(default)]
    pub(super) interlock: Vec<InterlockTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeTable {
    pub(super) name: Name,
    pub(super) board: Name,
    pub(super) period_s: Option<Spanned<u16>>,
    pub(super) batch_records: Option<u16>,
    pub(super) hold_s: Option<u16>,
    pub(super) drift_ppm: Option<u16>,
    pub(super) salinity_psu: Option<f32>,
    pub(super) pressure_hpa: Option<f32>,
    pub(super) leaf_warmer_c: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkTable {
    pub(super) kind: Spanned<super::board::LinkKind>,
    pub(super) ssid: Option<Name>,
    pub(super) passphrase_file: Option<Spanned<std::path::PathBuf>>,
    pub(super) apn: Option<Name>,
    pub(super) pin_file: Option<Spanned<std::path::PathBuf>>,
    pub(super) ipv4: Option<Spanned<toml::Value>>,
    pub(super) ipv6: Option<Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) dns: Vec<Name>,
    #[serde(default)]
    pub(super) radio: Radio,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Radio {
    #[default]
    Always,
    Batch,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayTable {
    pub(super) host: Name,
    pub(super) port: Spanned<u16>,
    pub(super) pin: Option<Name>,
    pub(super) certificate: Option<Spanned<std::path::PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceTable {
    pub(super) latitude: f32,
    pub(super) longitude: f32,
    pub(super) utc_offset: Name,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryTable {
    pub(super) site: String,
    pub(super) unit: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeTable {
    pub(super) name: Name,
    pub(super) profile: Name,
    pub(super) line: Option<Name>,
    pub(super) address: Option<Spanned<u8>>,
    pub(super) baud: Option<Spanned<u32>>,
    pub(super) parity: Option<Parity>,
    pub(super) stop_bits: Option<u8>,
    pub(super) echo: Option<bool>,
    pub(super) response_ms: Option<u16>,
    pub(super) retries: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Parity {
    None,
    Even,
    Odd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RelayTable {
    pub(super) name: Name,
    pub(super) profile: Name,
    pub(super) line: Option<Name>,
    pub(super) address: Option<Spanned<u8>>,
    pub(super) time_out_s: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelTable {
    pub(super) name: Name,
    pub(super) property: Option<Name>,
    pub(super) probe: Option<Name>,
    pub(super) nth: Option<Spanned<u8>>,
    pub(super) part: Option<Name>,
    pub(super) bus: Option<Name>,
    pub(super) address: Option<Spanned<u8>>,
    pub(super) rom: Option<Name>,
    pub(super) quantity: Option<Name>,
    pub(super) contact: Option<Name>,
    pub(super) pulse: Option<Name>,
    pub(super) adc: Option<Name>,
    pub(super) slope: Option<f32>,
    pub(super) offset: Option<f32>,
    pub(super) at_4_ma: Option<f32>,
    pub(super) at_20_ma: Option<f32>,
    pub(super) formula: Option<Name>,
    #[serde(default)]
    pub(super) inputs: Vec<Name>,
    pub(super) min: Option<f32>,
    pub(super) max: Option<f32>,
    pub(super) compensate_with: Option<Name>,
    pub(super) calibration: Option<CalibrationTable>,
    pub(super) point: Option<String>,
    pub(super) unit: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CalibrationTable {
    pub(super) number: u16,
    pub(super) slope: f32,
    pub(super) offset: f32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActuatorTable {
    pub(super) name: Name,
    pub(super) kind: Name,
    pub(super) output: Option<Name>,
    pub(super) relay: Option<Name>,
    pub(super) coil: Option<Spanned<u8>>,
    #[serde(default)]
    pub(super) inverted: bool,
    #[serde(default)]
    pub(super) watchdog_relay: bool,
    pub(super) aerator: Option<Spanned<AeratorTable>>,
    pub(super) band: Option<Spanned<BandTable>>,
    pub(super) restart_on: Option<bool>,
    pub(super) blind_after_s: Option<u16>,
    #[serde(default)]
    pub(super) run_s: u16,
    #[serde(default)]
    pub(super) soak_s: u16,
    #[serde(default)]
    pub(super) night_floor: bool,
    pub(super) manual: Option<ManualTable>,
    pub(super) proof: Option<ProofTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AeratorTable {
    pub(super) channel: Name,
    pub(super) on_below: f32,
    pub(super) off_above: f32,
    pub(super) critical: f32,
    #[serde(default)]
    pub(super) on_s: u16,
    #[serde(default)]
    pub(super) off_s: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BandTable {
    pub(super) channel: Name,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) raises: bool,
    pub(super) safe_on: bool,
    #[serde(default)]
    pub(super) on_s: u16,
    #[serde(default)]
    pub(super) off_s: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManualTable {
    pub(super) on: Option<Name>,
    pub(super) off: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofTable {
    pub(super) channel: Name,
    pub(super) at_least: f32,
    pub(super) within_s: u16,
    pub(super) backup: Option<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InterlockTable {
    pub(super) actuator: Name,
    pub(super) force: Force,
    pub(super) above: Option<LevelTable>,
    pub(super) below: Option<LevelTable>,
    pub(super) while_on: Option<Name>,
    pub(super) while_off: Option<Name>,
    #[serde(default)]
    pub(super) unknown: bool,
    #[serde(default)]
    pub(super) hold_s: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Force {
    On,
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LevelTable {
    pub(super) channel: Name,
    pub(super) level: f32,
    pub(super) release: f32,
}
