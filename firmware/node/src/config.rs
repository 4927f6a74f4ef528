//! What a node measures and controls, as data: a plain struct that hosts fill, its binary image,
//! and the one check that both pass before the node believes a word of it.
//!
//! The TOML that people write is the host's business; so is where the image is kept.

mod image;
mod lines;
mod wiring;

use heapless::Vec;
use sensors::modbus::{Request, Settings};
use sensors::part::Part;
use sensors::profile::{CompensatedBy, PROFILE_LEN_MAX, Profile, Relay, Setting};
use telemetry::limits::{ACTUATORS_MAX, CHANNELS_MAX, UNRECEIPTED_RECORDS_MAX};
use telemetry::{ActuatorKind, Property};

use crate::control::{Cause, Condition, Interlock, MISSED_MAX, Rule, STALE_MS};
use crate::quality::Limits;
use crate::sun::Place;

pub use self::image::digest;
pub use self::wiring::{COILS_MAX, INPUTS_MAX, Input, Output, RELAY_TIME_OUT_S_MAX, RELAYS_MAX, RelayBoard};

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
/// Most interlocks.
pub const INTERLOCKS_MAX: usize = 16;
/// Newest version of the image.
pub const IMAGE_VERSION: u8 = 3;
/// Shortest rest between two attempts to start what has failed its proof, s.
const RETRY_S_MIN: u16 = 60;

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
    /// Of air °C and %RH, before leaves that are warmer by [`Config::leaf_warmer_c`].
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
        /// In [`Config::inputs`]; where there are none, the host's number for it.
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

/// What is between the node and an actuator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Drive {
    /// A pin of the board, its relay wired so that a dead controller leaves the safe state: for an
    /// aerator the contact that closes when the coil is dead.
    #[default]
    Pin = 0,
    /// A relay board that holds its coils when nobody talks to it any more. Not for an aerator.
    Relays = 1,
    /// One with a time-out of its own, set to leave the safe state.
    RelaysTimeOut = 2,
    /// One with a watchdog relay in series.
    RelaysWatchdog = 3,
}

impl Drive {
    const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::Pin,
            1 => Self::Relays,
            2 => Self::RelaysTimeOut,
            3 => Self::RelaysWatchdog,
            _ => return None,
        })
    }
}

/// Contacts of a local switch, each a channel of [`Property::ActuatorState`]; both for a switch
/// with the positions on, automatic and off. Off goes before on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manual {
    /// Closed: on by hand.
    pub on: Option<u8>,
    /// Closed: off by hand.
    pub off: Option<u8>,
}

/// How an actuator proves that it does what it is told: motor current, flow, an end switch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proof {
    /// The channel.
    pub channel: u8,
    /// It runs (a vent: is open) from this value on, in the channel's unit.
    pub at_least: f32,
    /// So long after it is switched the channel has to agree, s: 10 for a motor, the travel time
    /// for a vent. Not below the period.
    pub within_s: u16,
    /// The actuator that is started when this one, an aerator, does not run.
    pub backup: Option<u8>,
}

/// A thing that is switched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Actuator {
    /// What it is, which decides what may be its safe state.
    pub kind: ActuatorKind,
    /// When.
    pub rule: Rule,
    /// Through what.
    pub drive: Drive,
    /// Where.
    pub output: Output,
    /// What it is between a restart and its rule's first decision, where that is not the rule's
    /// safe state.
    pub restart_on: Option<bool>,
    /// Without a trusted reading for so long it takes its safe state, s, 1–600; three missed
    /// readings do as well, and must not take longer.
    pub blind_after_s: u16,
    /// It runs at most so long, s; 0 = without end.
    pub run_s: u16,
    /// After any run it rests so long, s: water soaks in, a motor cools.
    pub soak_s: u16,
    /// An aerator runs from midnight to an hour after sunrise whatever oxygen is. While the time
    /// of day is unknown it switches off 1 mg/L later instead. Needs [`Config::place`].
    pub night_floor: bool,
    /// Its local switch, which always wins.
    pub manual: Manual,
    /// How it proves that it runs.
    pub proof: Option<Proof>,
}

impl Actuator {
    /// An actuator on a pin, with nothing but its rule.
    pub const fn new(kind: ActuatorKind, rule: Rule) -> Self {
        Self {
            kind,
            rule,
            drive: Drive::Pin,
            output: Output::Host,
            restart_on: None,
            blind_after_s: (STALE_MS / 1_000) as u16,
            run_s: 0,
            soak_s: 0,
            night_floor: false,
            manual: Manual { on: None, off: None },
            proof: None,
        }
    }

    /// Its safe state for a cause.
    pub(crate) fn safe(&self, cause: Cause) -> bool {
        self.restart_on.filter(|_| cause == Cause::Restart).unwrap_or(self.rule.safe())
    }

    /// Shortest time off, once off.
    pub(crate) fn least_off_s(&self) -> u16 {
        self.rule.pauses().off_s.max(self.soak_s)
    }

    pub(crate) fn blind_after_ms(&self) -> u64 {
        u64::from(self.blind_after_s) * 1_000
    }

    /// Whether its rule's channel is among those that are being calibrated.
    pub(crate) fn is_calibrated_by(&self, channels: u32) -> bool {
        self.rule.channel().is_some_and(|n| channels.checked_shr(u32::from(n)).unwrap_or(0) & 1 == 1)
    }
}

/// Kinds whose only safe state is off: what they give cannot be taken back.
const fn is_safe_off_only(kind: ActuatorKind) -> bool {
    use ActuatorKind::{CarbonDioxideDoser, Doser, Feeder, Heater, Irrigation};
    matches!(kind, Heater | CarbonDioxideDoser | Irrigation | Doser | Feeder)
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
    /// How much warmer than the air leaves are, °C, −10–10; 0 leaves the deficit of the air.
    pub leaf_warmer_c: f32,
    /// Where it stands: needed for the night.
    pub place: Option<Place>,
    /// Probes, in the order in which they are asked.
    pub probes: Vec<Probe, PROBES_MAX>,
    /// Channels, by their index.
    pub channels: Vec<Channel, CHANNELS_MAX>,
    /// Actuators, by their index.
    pub actuators: Vec<Actuator, ACTUATORS_MAX>,
    /// What forces actuators whatever their rules say.
    pub interlocks: Vec<Interlock, INTERLOCKS_MAX>,
    /// Parts that give direct inputs, by the input's number.
    pub inputs: Vec<Input, INPUTS_MAX>,
    /// Relay boards, by their index.
    pub relays: Vec<RelayBoard, RELAYS_MAX>,
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
    /// The probes and relay boards of this bus may take longer than the period.
    #[error("the probes and relay boards of bus {0} may take longer than a round lasts")]
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
    /// Limits that are no numbers, not in order, or that call low oxygen implausible.
    #[error("the limits of channel {0} are no range, or hide low oxygen")]
    Limits(u8),
    /// A rule's numbers are not in order, or its channel does not exist or measures something else.
    #[error("the rule of actuator {0} is impossible")]
    Rule(u8),
    /// A rule, interlock or proof whose channel is read too seldom to notice in time that it has
    /// failed.
    #[error("a channel of actuator {0} is read too seldom")]
    TooSeldom(u8),
    /// An aerator without an oxygen rule, or an oxygen rule for something else.
    #[error("actuator {0}: an aerator follows oxygen, and nothing else does")]
    Aerator(u8),
    /// A kind with one safe state only, and another is declared.
    #[error("actuator {0} declares a safe state that its kind must not have")]
    SafeState(u8),
    /// An aerator whose relays hold when the node dies.
    #[error("actuator {0} is an aerator on relays that hold: a time-out or a watchdog relay is needed")]
    HoldingRelays(u8),
    /// An aerator on a coil that has to be closed for it to run.
    #[error("actuator {0} is an aerator that stops when its coil is dead: it has to run when the coil is open")]
    DeadCoil(u8),
    /// A longest run that is shorter than the shortest, without a rest, or of what is safe when on.
    #[error("the longest run of actuator {0} is impossible, or ends in an unsafe state")]
    Run(u8),
    /// A night floor of something that is no aerator, or in an unknown place.
    #[error("the night floor of actuator {0} needs an oxygen rule and the node's place")]
    Night(u8),
    /// A switch on a channel that does not exist or is no contact.
    #[error("the local switch of actuator {0} is no channel of actuator state")]
    Manual(u8),
    /// A proof on a channel that does not exist, an impossible backup, or attempts without a rest.
    #[error("the proof of actuator {0} is impossible")]
    Proof(u8),
    /// An interlock that names what does not exist, yields to a higher index, or forces an aerator
    /// off.
    #[error("interlock {0} is impossible, or forces an aerator off")]
    Interlock(u8),
    /// A part's scale that is no number, or nothing.
    #[error("the scale of input {0} is no number")]
    Input(u8),
    /// A relay board that names what does not exist, or where a probe or another board is.
    #[error("relay board {0} names a bus, address, profile or time-out that cannot be")]
    RelayBoard(u8),
    /// A relay board with the profile of a probe.
    #[error("the profile of relay board {0} is of something that switches nothing")]
    NoRelayBoard(u8),
    /// A time-out that a relay board does not have, outside its range, or so short that the line
    /// may keep the board waiting for a third of it.
    #[error("relay board {0} has no such time-out, or its line may keep it waiting for a third of it")]
    RelayTimeOut(u8),
    /// A coil that its relay board does not have.
    #[error("the output of actuator {0} is a coil that its relay board does not have")]
    Coil(u8),
    /// An output that does not fit what it is driven through, or that another actuator has.
    #[error("the output of actuator {0} does not fit its drive, or is another's too")]
    Output(u8),
}

impl Config {
    /// A config without probes: a round a minute, reports of 24 rounds or 5 minutes.
    pub const fn new(number: u16) -> Self {
        Self {
            number,
            period_s: 60,
            batch_records: 24,
            hold_s: 300,
            drift_ppm: telemetry::limits::DRIFT_PPM_DEFAULT,
            salinity_psu: 0.0,
            pressure_hpa: 1013.25,
            leaf_warmer_c: 0.0,
            place: None,
            probes: Vec::new(),
            channels: Vec::new(),
            actuators: Vec::new(),
            interlocks: Vec::new(),
            inputs: Vec::new(),
            relays: Vec::new(),
            profiles: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Takes out everything whose number an image says.
    fn clear(&mut self) {
        (self.number, self.place, self.leaf_warmer_c) = (0, None, 0.0);
        self.probes.clear();
        self.channels.clear();
        self.actuators.clear();
        self.interlocks.clear();
        self.inputs.clear();
        self.relays.clear();
        self.profiles.clear();
        self.ends.clear();
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

    /// A relay board, what its profile says of it, and how it is talked to.
    pub fn relay(&self, index: u8) -> Option<(&RelayBoard, Relay, Settings)> {
        let board = self.relays.get(usize::from(index))?;
        let profile = Profile::decode(self.profile_bytes(board.profile)?).ok()?;
        Some((board, profile.relay()?, profile.settings()))
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
    #[inline(never)]
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("period_s", (1..=3_600).contains(&self.period_s)),
            ("batch_records", (1..=UNRECEIPTED_RECORDS_MAX).contains(&u32::from(self.batch_records))),
            ("salinity_psu", (0.0..=42.0).contains(&self.salinity_psu)),
            ("pressure_hpa", (500.0..=1100.0).contains(&self.pressure_hpa)),
            ("leaf_warmer_c", (-10.0..=10.0).contains(&self.leaf_warmer_c)),
            ("place", self.place.is_none_or(|place| place.is_possible())),
            ("channels", !self.channels.is_empty()),
        ];
        if let Some((name, _)) = ranges.into_iter().find(|(_, fine)| !fine) {
            return Err(ConfigError::Range(name));
        }
        for index in 0..self.probes.len() as u8 {
            let error = ConfigError::Probe(index);
            let (probe, ..) = self.probe(index).ok_or(error)?;
            if usize::from(probe.bus) >= BUSES_MAX || !(1..=247).contains(&probe.address) {
                return Err(error);
            }
        }
        for (index, channel) in (0u8..).zip(&self.channels) {
            self.validate_channel(index, channel)?;
        }
        for (index, actuator) in (0u8..).zip(&self.actuators) {
            self.validate_actuator(index, actuator)?;
        }
        for (index, interlock) in (0u8..).zip(&self.interlocks) {
            self.validate_interlock(index, interlock)?;
        }
        self.validate_wiring()?;
        self.validate_lines()
    }

    /// The channels that control looks at, some more than once.
    pub(crate) fn control_channels(&self) -> impl Iterator<Item = u8> {
        let actuators = self.actuators.iter().flat_map(|actuator| {
            let Manual { on, off } = actuator.manual;
            [actuator.rule.channel(), actuator.proof.map(|proof| proof.channel), on, off]
        });
        let interlocks = self.interlocks.iter().map(|interlock| interlock.when.channel());
        actuators.chain(interlocks).flatten()
    }

    fn property(&self, channel: u8) -> Option<Property> {
        self.channels.get(usize::from(channel)).map(|channel| channel.property)
    }

    /// Whether missed readings of a channel are noticed within so many seconds.
    fn notices_within(&self, seconds: u64) -> bool {
        u64::from(self.period_s) * u64::from(MISSED_MAX) <= seconds
    }

    fn validate_actuator(&self, index: u8, actuator: &Actuator) -> Result<(), ConfigError> {
        let Actuator { kind, rule, .. } = *actuator;
        let aerates = matches!(rule, Rule::Aerator { .. });
        if aerates != (kind == ActuatorKind::Aerator) {
            return Err(ConfigError::Aerator(index));
        }
        if let Some(channel) = rule.channel() {
            let property = self.property(channel);
            let fits = if aerates { property == Some(Property::DissolvedOxygen) } else { property.is_some() };
            if !fits || !rule.is_possible() {
                return Err(ConfigError::Rule(index));
            }
            if !(1..=STALE_MS / 1_000).contains(&u64::from(actuator.blind_after_s)) {
                return Err(ConfigError::Range("blind_after_s"));
            }
            if !self.notices_within(u64::from(actuator.blind_after_s)) {
                return Err(ConfigError::TooSeldom(index));
            }
        }
        let [on, restart_on] = [Cause::Failed, Cause::Restart].map(|cause| actuator.safe(cause));
        if aerates && !restart_on || is_safe_off_only(kind) && (on || restart_on) {
            return Err(ConfigError::SafeState(index));
        }
        if aerates && actuator.drive == Drive::Relays {
            return Err(ConfigError::HoldingRelays(index));
        }
        // What lets go of the coils, a time-out or a watchdog relay, must not stop it.
        if aerates && matches!(actuator.output, Output::Coil { inverted: false, .. }) {
            return Err(ConfigError::DeadCoil(index));
        }
        let run_s = actuator.run_s;
        if run_s > 0 && (on || restart_on || run_s < rule.pauses().on_s || actuator.least_off_s() == 0) {
            return Err(ConfigError::Run(index));
        }
        if actuator.night_floor && (!aerates || self.place.is_none()) {
            return Err(ConfigError::Night(index));
        }
        let Manual { on, off } = actuator.manual;
        if [on, off].into_iter().flatten().any(|contact| self.property(contact) != Some(Property::ActuatorState)) {
            return Err(ConfigError::Manual(index));
        }
        let Some(proof) = actuator.proof else { return Ok(()) };
        let stands_in = |backup: u8| {
            let other = self.actuators.get(usize::from(backup));
            aerates && backup != index && other.is_some_and(|other| other.kind == kind)
        };
        if self.property(proof.channel).is_none()
            || !(proof.at_least.is_finite() && proof.at_least > 0.0)
            || !proof.backup.is_none_or(stands_in)
            || !rule.safe() && actuator.least_off_s() < RETRY_S_MIN
        {
            return Err(ConfigError::Proof(index));
        }
        if proof.within_s < self.period_s || !self.notices_within(STALE_MS / 1_000) {
            return Err(ConfigError::TooSeldom(index));
        }
        Ok(())
    }

    fn validate_interlock(&self, index: u8, interlock: &Interlock) -> Result<(), ConfigError> {
        let wrong = ConfigError::Interlock(index);
        let actuator = self.actuators.get(usize::from(interlock.actuator)).ok_or(wrong)?;
        let starves = actuator.kind == ActuatorKind::Aerator && !interlock.on;
        // What must not run while nobody knows must not be forced to either.
        let blindly = interlock.on && interlock.unknown && is_safe_off_only(actuator.kind);
        if starves || blindly || !interlock.when.is_possible() {
            return Err(wrong);
        }
        match interlock.when {
            Condition::Above { channel, .. } | Condition::Below { channel, .. } => {
                self.property(channel).ok_or(wrong)?;
                if !self.notices_within(STALE_MS / 1_000) {
                    return Err(ConfigError::TooSeldom(interlock.actuator));
                }
            }
            Condition::On { actuator: other } | Condition::Off { actuator: other } => {
                if other >= interlock.actuator || interlock.on {
                    return Err(wrong);
                }
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
            Source::Direct { input } => {
                let part = self.inputs.get(usize::from(*input));
                if !self.inputs.is_empty() && part.is_none() {
                    return Err(wrong);
                }
                // This one is told of the water.
                if part.is_some_and(|it| Part::from_id(it.part) == Some(Part::EzoDo)) {
                    compensated_by = Some(CompensatedBy::Probe);
                }
            }
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
        // Nothing is within a range that has no number for an end; and low oxygen is an emergency,
        // not a bad reading.
        let Limits { min, max } = channel.limits;
        let facts = channel.property.facts();
        let (least, most) = (min.unwrap_or(facts.min), max.unwrap_or(facts.max));
        let oxygen = matches!(channel.property, Property::DissolvedOxygen | Property::OxygenSaturation);
        if !(least.is_finite() && most.is_finite() && least < most) || oxygen && least > 0.0 {
            return Err(ConfigError::Limits(index));
        }
        Ok(())
    }
}
