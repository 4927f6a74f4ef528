//! What a node measures and controls, as data: a plain struct that hosts fill, its binary image,
//! and the one check that both pass before the node believes a word of it.
//!
//! The TOML that people write is the host's business; so is where the image is kept.

mod image;

use heapless::Vec;
use sensors::modbus::{Request, Settings, slot_us_max};
use sensors::profile::{CompensatedBy, PROFILE_LEN_MAX, Profile, Setting, slot_ms_max};
use telemetry::Property;
use telemetry::limits::{ACTUATORS_MAX, CHANNELS_MAX, UNRECEIPTED_RECORDS_MAX};

use crate::control::{Rule, STALE_MS};
use crate::quality::Limits;

/// Most Modbus lines.
pub const BUSES_MAX: usize = 2;
/// Most probes on all lines together.
pub const PROBES_MAX: usize = 16;
/// Most different profiles.
pub const PROFILES_MAX: usize = 8;
/// Bytes of all profiles together.
pub const PROFILE_BYTES_MAX: usize = 3 * 1024;
/// Bytes of an image.
pub const IMAGE_BYTES_MAX: usize = 8 * 1024;
/// Version of the image.
pub const IMAGE_VERSION: u8 = 1;

/// A probe on a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// The line, below [`BUSES_MAX`].
    pub bus: u8,
    /// Its address, 1–247.
    pub address: u8,
    /// Index of its profile.
    pub profile: u8,
    /// How it is talked to, where the profile's word does not hold here.
    pub settings: Option<Settings>,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Formula {
    /// Of oxygen mg/L, water °C, and optionally salinity and air pressure hPa (else the config's).
    OxygenSaturation = 1,
    /// Of total ammonia mg/L, pH, water °C, and optionally salinity (else the config's). Above a
    /// salinity of 5 as in sea water, and marked [`telemetry::Tests::CONDITIONS`].
    UnionizedAmmonia = 2,
    /// Of mS/cm and water °C.
    Salinity = 3,
    /// Of mS/cm and water °C.
    Conductivity25 = 4,
    /// Of air °C and %RH.
    VapourPressureDeficit = 5,
    /// Of air °C and %RH.
    DewPoint = 6,
    /// Of air °C and %RH.
    AbsoluteHumidity = 7,
}

impl Formula {
    /// What it gives, how many inputs it must have, and how many it may have.
    pub const fn shape(self) -> (Property, usize, usize) {
        match self {
            Self::OxygenSaturation => (Property::OxygenSaturation, 2, 4),
            Self::UnionizedAmmonia => (Property::UnionizedAmmonia, 3, 4),
            Self::Salinity => (Property::Salinity, 2, 2),
            Self::Conductivity25 => (Property::Conductivity25, 2, 2),
            Self::VapourPressureDeficit => (Property::VapourPressureDeficit, 2, 2),
            Self::DewPoint => (Property::DewPoint, 2, 2),
            Self::AbsoluteHumidity => (Property::AbsoluteHumidity, 2, 2),
        }
    }

    const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            1 => Self::OxygenSaturation,
            2 => Self::UnionizedAmmonia,
            3 => Self::Salinity,
            4 => Self::Conductivity25,
            5 => Self::VapourPressureDeficit,
            6 => Self::DewPoint,
            7 => Self::AbsoluteHumidity,
            _ => return None,
        })
    }
}

/// Where a channel's value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A quantity of a probe, by their indices.
    Probe {
        /// In [`Config::probes`].
        probe: u8,
        /// In the profile's order.
        quantity: u8,
    },
    /// An input whose value, in the property's unit, the host gives: an I2C part, a 4–20 mA loop.
    Direct {
        /// The host's number for it.
        input: u8,
    },
    /// Other channels of the same round, all with lower indices.
    Computed {
        /// How.
        formula: Formula,
        /// From which channels, in the formula's order.
        inputs: Vec<u8, 4>,
    },
}

/// The line through a channel's calibration points: value = slope × raw + offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Rises with each calibration; 0 = as delivered.
    pub number: u16,
    /// 0.1–10.
    pub slope: f32,
    /// In the property's unit.
    pub offset: f32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { number: 0, slope: 1.0, offset: 0.0 }
    }
}

/// What a channel measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// What.
    pub property: Property,
    /// Where its value comes from.
    pub source: Source,
    /// How it is corrected.
    pub calibration: Calibration,
    /// Plausible range, where not the property's own.
    pub limits: Limits,
    /// For oxygen that the probe gives as if of fresh water: the channel of the water temperature
    /// by which the node compensates for the config's salinity.
    pub compensate_with: Option<u8>,
}

/// A thing that is switched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Actuator {
    /// As [`telemetry::record::ActuatorDescription::kind`] lists them; 1 is an aerator.
    pub kind: u8,
    /// When.
    pub rule: Rule,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rises with each config applied to a node.
    pub number: u16,
    /// From round to round, s, 1–3600.
    pub period_s: u16,
    /// A report is cut when so many records wait, 1–256.
    pub batch_records: u16,
    /// Or when the first of them has waited so long, s.
    pub hold_s: u16,
    /// Bound of the node's clock drift, ppm.
    pub drift_ppm: u16,
    /// Salinity where no channel measures it, 0–42.
    pub salinity_psu: f32,
    /// Air pressure where no channel measures it, 500–1100 hPa.
    pub pressure_hpa: f32,
    /// Probes, in the order in which they are asked.
    pub probes: Vec<Probe, PROBES_MAX>,
    /// Channels, by their index.
    pub channels: Vec<Channel, CHANNELS_MAX>,
    /// Actuators, by their index.
    pub actuators: Vec<Actuator, ACTUATORS_MAX>,
    profiles: Vec<u8, PROFILE_BYTES_MAX>,
    ends: Vec<u16, PROFILES_MAX>,
}

/// Why a config is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The image is no CBOR of the right shape.
    #[error("the image is not what the schema says")]
    Shape,
    /// The image is of a newer program.
    #[error("image version {0} is newer than this program")]
    Newer(u8),
    /// More items than a node has room for.
    #[error("more {0} than a node has room for")]
    TooMany(&'static str),
    /// A number outside its range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// The profile with this index cannot be read.
    #[error("profile {0} is not valid")]
    Profile(u8),
    /// A probe names what does not exist.
    #[error("probe {0} names a bus, address or profile that does not exist")]
    Probe(u8),
    /// The probes of this bus may take longer than the period.
    #[error("the probes of bus {0} may take longer than a round lasts")]
    Slow(u8),
    /// A channel names what does not exist, or measures another property.
    #[error("the source of channel {0} does not exist or measures something else")]
    Source(u8),
    /// The probe compensates already.
    #[error("channel {0} would be compensated twice")]
    CompensatedTwice(u8),
    /// Nobody compensates although the profile leaves it to the node.
    #[error("channel {0} has to be compensated by the node")]
    NotCompensated(u8),
    /// A calibration that no instrument needs.
    #[error("the calibration of channel {0} is out of range")]
    Calibration(u8),
    /// A rule's numbers are not in order, or its channel does not exist or measures something else.
    #[error("the rule of actuator {0} is impossible")]
    Rule(u8),
    /// A rule whose channel is read too seldom to notice in time that it has failed.
    #[error("the channel of actuator {0} is read too seldom")]
    TooSeldom(u8),
}

impl Config {
    /// A config without probes: a round a minute, reports of 24 rounds or 5 minutes.
    pub fn new(number: u16) -> Self {
        Self {
            number,
            period_s: 60,
            batch_records: 24,
            hold_s: 300,
            drift_ppm: telemetry::limits::DRIFT_PPM_DEFAULT,
            salinity_psu: 0.0,
            pressure_hpa: 1013.25,
            probes: Vec::new(),
            channels: Vec::new(),
            actuators: Vec::new(),
            profiles: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Takes in a compiled profile; its index.
    pub fn add_profile(&mut self, bytes: &[u8]) -> Result<u8, ConfigError> {
        let index = self.ends.len() as u8;
        if bytes.len() > PROFILE_LEN_MAX || Profile::decode(bytes).is_err() {
            return Err(ConfigError::Profile(index));
        }
        let full = ConfigError::TooMany("profiles");
        if self.ends.is_full() {
            return Err(full);
        }
        self.profiles.extend_from_slice(bytes).map_err(|_| full)?;
        self.ends.push(self.profiles.len() as u16).map_err(|_| full)?;
        Ok(index)
    }

    /// Bytes of the profile with this index.
    pub fn profile_bytes(&self, index: u8) -> Option<&[u8]> {
        let index = usize::from(index);
        let end = usize::from(*self.ends.get(index)?);
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| usize::from(*end));
        self.profiles.get(start..end)
    }

    /// The profile of a probe, read in place, and how it is talked to.
    pub fn probe(&self, index: u8) -> Option<(&Probe, Profile<'_>, Settings)> {
        let probe = self.probes.get(usize::from(index))?;
        let profile = Profile::decode(self.profile_bytes(probe.profile)?).ok()?;
        let settings = probe.settings.unwrap_or(profile.settings());
        Some((probe, profile, settings))
    }

    /// The `n`th setting that a probe which compensates oxygen itself has to be told, as a request.
    pub(crate) fn setting(&self, index: u8, n: u8) -> Option<(Request, Settings)> {
        let (probe, profile, settings) = self.probe(index)?;
        if !profile.quantities().any(|quantity| quantity.compensated_by == CompensatedBy::Probe) {
            return None;
        }
        // In the settings' units: PSU and kPa.
        [(Setting::Salinity, self.salinity_psu), (Setting::Pressure, self.pressure_hpa / 10.0)]
            .into_iter()
            .filter_map(|(setting, value)| profile.write_request(setting, value, probe.address).ok())
            .nth(usize::from(n))
            .map(|request| (request, settings))
    }

    /// Checks everything that could go wrong later.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("period_s", (1..=3_600).contains(&self.period_s)),
            ("batch_records", (1..=UNRECEIPTED_RECORDS_MAX).contains(&u32::from(self.batch_records))),
            ("salinity_psu", (0.0..=42.0).contains(&self.salinity_psu)),
            ("pressure_hpa", (500.0..=1100.0).contains(&self.pressure_hpa)),
            ("channels", !self.channels.is_empty()),
        ];
        if let Some((name, _)) = ranges.into_iter().find(|(_, fine)| !fine) {
            return Err(ConfigError::Range(name));
        }
        let mut busy_ms = [0u64; BUSES_MAX];
        for index in 0..self.probes.len() as u8 {
            let error = ConfigError::Probe(index);
            let (probe, profile, settings) = self.probe(index).ok_or(error)?;
            let busy = busy_ms.get_mut(usize::from(probe.bus)).ok_or(error)?;
            if !(1..=247).contains(&probe.address) {
                return Err(error);
            }
            *busy += u64::from(slot_ms_max(&profile, &settings));
            // In one round at most two settings are told.
            *busy +=
                (0..2).filter_map(|n| self.setting(index, n)).map(|(r, s)| slot_us_max(&r, &s) / 1_000).sum::<u64>();
            if *busy > u64::from(self.period_s) * 1_000 {
                return Err(ConfigError::Slow(probe.bus));
            }
        }
        for (index, channel) in (0u8..).zip(&self.channels) {
            self.validate_channel(index, channel)?;
        }
        for (index, actuator) in (0u8..).zip(&self.actuators) {
            let Some(channel) = actuator.rule.channel() else { continue };
            let property = self.channels.get(usize::from(channel)).map(|channel| channel.property);
            let fits = match actuator.rule {
                Rule::Aerator { .. } => property == Some(Property::DissolvedOxygen),
                Rule::Remote | Rule::Band { .. } => property.is_some(),
            };
            if !fits || !actuator.rule.is_possible() {
                return Err(ConfigError::Rule(index));
            }
            if u64::from(self.period_s) * 3_000 > STALE_MS {
                return Err(ConfigError::TooSeldom(index));
            }
        }
        Ok(())
    }

    fn validate_channel(&self, index: u8, channel: &Channel) -> Result<(), ConfigError> {
        let wrong = ConfigError::Source(index);
        let mut compensated_by = None;
        match &channel.source {
            Source::Probe { probe, quantity } => {
                let (_, profile, _) = self.probe(*probe).ok_or(wrong)?;
                let quantity = profile.quantities().nth(usize::from(*quantity)).ok_or(wrong)?;
                if quantity.property != channel.property {
                    return Err(wrong);
                }
                compensated_by = Some(quantity.compensated_by);
            }
            Source::Direct { .. } => {}
            Source::Computed { formula, inputs } => {
                let (property, least, most) = formula.shape();
                let fits = (least..=most).contains(&inputs.len()) && inputs.iter().all(|input| *input < index);
                if property != channel.property || !fits {
                    return Err(wrong);
                }
            }
        }
        match (compensated_by, channel.compensate_with) {
            (Some(CompensatedBy::Probe), Some(_)) => return Err(ConfigError::CompensatedTwice(index)),
            (Some(CompensatedBy::Node), None) if channel.property == Property::DissolvedOxygen => {
                return Err(ConfigError::NotCompensated(index));
            }
            (_, Some(with)) => {
                let temperature = self.channels.get(usize::from(with));
                let fits = temperature.is_some_and(|c| c.property == Property::WaterTemperature);
                if !fits || channel.property != Property::DissolvedOxygen {
                    return Err(wrong);
                }
            }
            _ => {}
        }
        let Calibration { slope, offset, .. } = channel.calibration;
        if !(0.1..=10.0).contains(&slope) || !offset.is_finite() {
            return Err(ConfigError::Calibration(index));
        }
        Ok(())
    }
}
