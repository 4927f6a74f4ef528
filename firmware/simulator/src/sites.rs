//! Four places around Fuzhou, each with a node: a pond with an aerator, a cage near the shore, a
//! platform in deep water, a greenhouse. One probe fouls, one dies.

use node::config::{Actuator, Calibration, Channel, Config, ConfigError, Drive, Formula, Probe, Proof, Source};
use node::control::{Condition, Interlock, Pauses, Rule};
use node::sun::Place;
use node::{Identity, config};
use sensors::profile::ProfileError;
use sensors::profile::compile::{CompileError, Compiled, built_in};
use telemetry::mac::Key;
use telemetry::name::InvalidNodeName;
use telemetry::{ActuatorKind as Kind, NodeName, Property};

use crate::host::{Direct, Flash, Parts};
use crate::instrument::{Fault, Instrument};
use crate::recorded::{RecordedCage, Recording};
use crate::relay_board::RelayBoard;
use crate::world::{Cage, Greenhouse, Pond, World};

/// The registry of these places, as `sites.toml`.
pub const SITES_TOML: &str = include_str!("sites.toml");
/// Names of the nodes.
pub const NODES: [&str; 4] = ["fuqing-pond", "lianjiang-cage", "pingtan-platform", "minhou-greenhouse"];
/// Sectors of a node's flash: 1 MiB, weeks of rounds.
pub const FLASH_SECTORS: usize = 256;
/// Round by round, s.
const PERIOD_S: u16 = 10;

/// Whoever knows the nodes' keys; usually the gateway's credentials.
pub type Keys<'a> = &'a dyn Fn(&NodeName) -> Key;

/// Why a place could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The name is no node's.
    #[error(transparent)]
    Name(#[from] InvalidNodeName),
    /// There is no built-in profile of this name.
    #[error("there is no built-in profile {0:?}")]
    NoProfile(String),
    /// A built-in profile is wrong.
    #[error("compile a built-in profile")]
    Compile(#[from] CompileError),
    /// A compiled profile is damaged.
    #[error("read a compiled profile")]
    Profile(#[from] ProfileError),
    /// The config has no room, or is wrong.
    #[error("put the config together")]
    Config(#[from] ConfigError),
    /// More channels or probes than a node has room for.
    #[error("the node has no room for more")]
    Full,
}

/// Puts a node together, probe by probe.
pub struct Builder {
    identity: Identity,
    config: Config,
    instruments: Vec<(u8, Instrument)>,
    directs: Vec<Direct>,
    relays: Vec<(u8, RelayBoard)>,
    seed: u64,
}

impl Builder {
    /// A node without anything.
    ///
    /// # Errors
    /// When the name is no node's.
    pub fn new(name: &str, keys: Keys<'_>, period_s: u16, seed: u64) -> Result<Self, SiteError> {
        let name = NodeName::new(name)?;
        let key = keys(&name);
        let identity = Identity { name, key, firmware: env!("CARGO_PKG_VERSION"), board: "simulated" };
        let mut config = Config::new(1);
        config.period_s = period_s;
        config.batch_records = 6;
        config.hold_s = 60;
        let (instruments, directs, relays) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { identity, config, instruments, directs, relays, seed })
    }

    /// Its config, to change.
    pub fn config_mut(&mut self) -> &mut config::Config {
        &mut self.config
    }

    /// Adds a probe with a built-in profile; a channel for each of `properties` that it measures.
    ///
    /// # Errors
    /// When there is no such profile, or no room.
    pub fn probe(
        &mut self,
        bus: u8,
        address: u8,
        profile: &str,
        depth_m: f64,
        properties: &[Property],
    ) -> Result<usize, SiteError> {
        let compiled = built_in(profile).ok_or_else(|| SiteError::NoProfile(profile.to_owned()))??;
        self.compiled(bus, address, compiled, depth_m, properties)
    }

    /// Adds a probe with this profile.
    ///
    /// # Errors
    /// When there is no room.
    pub fn compiled(
        &mut self,
        bus: u8,
        address: u8,
        compiled: Compiled,
        depth_m: f64,
        properties: &[Property],
    ) -> Result<usize, SiteError> {
        let profile = self.profile(&compiled)?;
        let probe = self.config.probes.len() as u8;
        let probe_config = Probe { bus, address, profile, settings: None };
        self.config.probes.push(probe_config).map_err(|_| SiteError::Full)?;
        for (quantity, of) in (0u8..).zip(compiled.profile()?.quantities()) {
            if properties.contains(&of.property) {
                self.channel(of.property, Source::Probe { probe, quantity })?;
            }
        }
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.instruments.push((bus, Instrument::new(compiled, address, depth_m, self.seed)));
        Ok(self.instruments.len() - 1)
    }

    /// The index of a profile, which is taken in where it is new.
    fn profile(&mut self, compiled: &Compiled) -> Result<u8, SiteError> {
        let known = (0..config::PROFILES_MAX as u8).find(|it| self.config.profile_bytes(*it) == Some(&compiled.bytes));
        Ok(match known {
            Some(profile) => profile,
            None => self.config.add_profile(&compiled.bytes)?,
        })
    }

    /// Adds a relay board with a built-in profile; its index.
    ///
    /// # Errors
    /// When there is no such profile, it is of no relay board, or there is no room.
    pub fn relay(&mut self, bus: u8, address: u8, profile: &str, time_out_s: u16) -> Result<u8, SiteError> {
        let unknown = || SiteError::NoProfile(profile.to_owned());
        let compiled = built_in(profile).ok_or_else(unknown)??;
        let board = RelayBoard::new(&compiled, address)?.ok_or_else(unknown)?;
        let index = self.config.relays.len() as u8;
        let board_config = config::RelayBoard { bus, address, profile: self.profile(&compiled)?, time_out_s };
        self.config.relays.push(board_config).map_err(|_| SiteError::Full)?;
        self.relays.push((bus, board));
        Ok(index)
    }

    /// Adds a direct input.
    ///
    /// # Errors
    /// When there is no room.
    pub fn direct(&mut self, property: Property, depth_m: f64) -> Result<(), SiteError> {
        let input = self.directs.len() as u8;
        self.directs.push(Direct { property, depth_m });
        self.channel(property, Source::Direct { input })
    }

    /// Adds a computed channel.
    ///
    /// # Errors
    /// When there is no room.
    pub fn computed(&mut self, formula: Formula, inputs: &[u8]) -> Result<(), SiteError> {
        let inputs = inputs.iter().copied().collect();
        self.channel(formula.shape().0, Source::Computed { formula, inputs })
    }

    fn channel(&mut self, property: Property, source: Source) -> Result<(), SiteError> {
        let (calibration, limits) = (Calibration::default(), node::quality::Limits::default());
        let channel = Channel { property, source, calibration, limits, compensate_with: None };
        self.config.channels.push(channel).map_err(|_| SiteError::Full)
    }

    /// The node in its place.
    ///
    /// # Errors
    /// When the config is not valid.
    pub fn build(self, world: Box<dyn World>, flash: Flash) -> Result<Parts, SiteError> {
        self.config.validate()?;
        let Self { identity, config, instruments, directs, relays, seed } = self;
        Ok(Parts { identity, config, world, instruments, directs, relays, flash, seed })
    }

    /// A fault of a probe from the beginning.
    pub fn fault(&mut self, instrument: usize, fault: Fault) {
        if let Some((_, instrument)) = self.instruments.get_mut(instrument) {
            instrument.set_fault(Some(fault), 0);
        }
    }
}

/// Where they stand, near enough for the sun.
const FUZHOU: Place = Place { latitude: 26.0, longitude: 119.3, utc_offset_min: 480 };

/// The pond of Fuqing: two oxygen probes, pH, an aerator that proves its current, a second one that
/// stands in for it, mains and a siren. The deeper probe fouls.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn pond(keys: Keys<'_>, seed: u64, flash: Flash) -> Result<Parts, SiteError> {
    use Property::{DissolvedOxygen, Level, Mains, MotorCurrent, OxygenSaturation, Ph, WaterTemperature};
    let mut node = Builder::new(NODES[0], keys, PERIOD_S, seed)?;
    node.probe(0, 1, "renke-rs-ldo-n01", 0.3, &[DissolvedOxygen, OxygenSaturation, WaterTemperature])?;
    let lower = node.probe(0, 2, "renke-rs-ldo-n01", 1.2, &[DissolvedOxygen, WaterTemperature])?;
    node.fault(lower, Fault::Fouling { share_per_day: 0.05 });
    for property in [Ph, Level, MotorCurrent, Mains] {
        node.direct(property, 0.5)?;
    }
    let config = node.config_mut();
    // The first had one aerator and seven channels; a demo goes on with the records of that time.
    config.number = 2;
    config.place = Some(FUZHOU);
    let pauses = Pauses { on_s: 120, off_s: 60 };
    // The profile gives saturation first, so oxygen is channel 1.
    let rule = |on_below, off_above| Rule::Aerator { channel: 1, on_below, off_above, critical: 2.0, pauses };
    let proof = Proof { channel: 7, at_least: 1.0, within_s: 10, backup: Some(1) };
    let first = Actuator::new(Kind::Aerator, rule(4.0, 5.5));
    let actuators = [
        Actuator { proof: Some(proof), drive: Drive::RelaysWatchdog, ..first },
        Actuator::new(Kind::Aerator, rule(3.0, 4.5)),
        Actuator::new(Kind::Siren, Rule::Siren),
    ];
    config.actuators.extend(actuators);
    node.build(Box::new(Pond::new(seed)), flash)
}

/// The cage of Lianjiang: two oxygen probes at two depths, salinity and current. The deeper probe
/// is the one that dies ([`DYING`]). With a `recording`, the upper one replays it.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn near_shore_cage(
    keys: Keys<'_>,
    seed: u64,
    flash: Flash,
    recording: Option<Recording>,
) -> Result<Parts, SiteError> {
    use Property::{CurrentSpeed, DissolvedOxygen, Level, Salinity, WaterTemperature};
    let mut node = Builder::new(NODES[1], keys, PERIOD_S, seed)?;
    for (address, depth_m) in [(1, 1.0), (2, 4.0)] {
        node.probe(0, address, "renke-rs-ldo-n01", depth_m, &[DissolvedOxygen, WaterTemperature])?;
    }
    for property in [Salinity, CurrentSpeed, Level] {
        node.direct(property, 1.0)?;
    }
    node.config_mut().salinity_psu = 30.0;
    let cage = Cage::near_shore(seed);
    match recording {
        Some(recording) => node.build(Box::new(RecordedCage::new(recording, cage)), flash),
        None => node.build(Box::new(cage), flash),
    }
}

/// The probe that dies: its node, its number, and after how long, s.
pub const DYING: (&str, usize, u64) = (NODES[1], 1, 300);

/// The platform of Pingtan: an oxygen probe, current, waves and a weather station.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn deep_sea_platform(keys: Keys<'_>, seed: u64, flash: Flash) -> Result<Parts, SiteError> {
    use Property as P;
    let mut node = Builder::new(NODES[2], keys, PERIOD_S, seed)?;
    node.probe(0, 247, "hach-ldo-aqs", 10.0, &[P::DissolvedOxygen, P::OxygenSaturation, P::WaterTemperature])?;
    let weather = [P::WindSpeed, P::WindDirection, P::AirTemperature, P::RelativeHumidity, P::AirPressure];
    node.probe(1, 1, "dfrobot-sen0658", 0.0, &weather)?;
    for property in [P::Salinity, P::CurrentSpeed, P::WaveHeight] {
        node.direct(property, 10.0)?;
    }
    node.config_mut().salinity_psu = 33.6;
    node.build(Box::new(Cage::deep_sea(seed)), flash)
}

/// The greenhouse of Minhou: a louver box, a soil probe, wind and rain; a roof vent that they close,
/// a fan, and a heater that yields to it.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn greenhouse(keys: Keys<'_>, seed: u64, flash: Flash) -> Result<Parts, SiteError> {
    use Property as P;
    let mut node = Builder::new(NODES[3], keys, PERIOD_S, seed)?;
    let air = [P::RelativeHumidity, P::AirTemperature, P::CarbonDioxide, P::Illuminance];
    node.probe(0, 1, "louver-box-co2", 0.0, &air)?;
    let soil = [P::SoilMoisture, P::SoilTemperature, P::SoilConductivity, P::SoilPh];
    node.probe(1, 1, "soil-a", 0.1, &soil)?;
    // The profile gives humidity first.
    node.computed(Formula::VapourPressureDeficit, &[1, 0])?;
    node.computed(Formula::DewPoint, &[1, 0])?;
    let wind = node.config_mut().channels.len() as u8;
    node.direct(P::WindSpeed, 0.0)?;
    node.direct(P::Rain, 0.0)?;
    let config = node.config_mut();
    config.number = 2;
    let pauses = Pauses { on_s: 60, off_s: 60 };
    let band =
        |kind, low, high, raises, safe| Actuator::new(kind, Rule::Band { channel: 1, low, high, raises, safe, pauses });
    config.actuators.extend([
        band(Kind::Vent, 24.0, 27.0, false, true),
        band(Kind::Fan, 26.0, 30.0, false, true),
        band(Kind::Heater, 15.0, 18.0, true, false),
    ]);
    let off = |actuator, when, hold_s| Interlock { actuator, on: false, when, unknown: true, hold_s };
    config.interlocks.extend([
        // Domain page §4: wind above 10 m/s, or rain.
        off(0, Condition::Above { channel: wind, level: 10.0, release: 8.0 }, 300),
        off(0, Condition::Above { channel: wind + 1, level: 0.0, release: 0.0 }, 300),
        off(2, Condition::On { actuator: 1 }, 0),
    ]);
    node.build(Box::new(Greenhouse::new(seed)), flash)
}

/// Sets up the four nodes; `flash` gives each its flash by name, and the near-shore cage replays
/// a `recording`.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn all(
    keys: Keys<'_>,
    seed: u64,
    mut flash: impl FnMut(&str) -> Flash,
    recording: Option<Recording>,
) -> Result<Vec<Parts>, SiteError> {
    Ok(vec![
        pond(keys, seed, flash(NODES[0]))?,
        near_shore_cage(keys, seed ^ 1, flash(NODES[1]), recording)?,
        deep_sea_platform(keys, seed ^ 2, flash(NODES[2]))?,
        greenhouse(keys, seed ^ 3, flash(NODES[3]))?,
    ])
}

/// A light node for load: one direct input, a round every `period_s`.
///
/// # Errors
/// When the name is no node's.
pub fn light(name: &str, keys: Keys<'_>, period_s: u16, seed: u64) -> Result<Parts, SiteError> {
    let mut node = Builder::new(name, keys, period_s, seed)?;
    node.direct(Property::WaterTemperature, 0.5)?;
    node.direct(Property::Ph, 0.5)?;
    node.build(Box::new(Pond::new(seed)), Flash::new(16))
}
