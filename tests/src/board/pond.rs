//! A pond with an emulated node and the real gateway: an oxygen probe on a Modbus line, QEMU's
//! thermometer on I2C, an aerator on a pin. Water is as the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use node::config::{Actuator, Calibration, Channel, Config, IMAGE_BYTES_MAX, Input, Output, Probe, Source};
use node::control::{Pauses, Rule};
use node::quality::Limits;
use node::ring::Ring;
use node::settings::{Ipv4, Ipv6, Link, Radio, SETTINGS_BYTES_MAX, Settings};
use sensors::modbus::Settings as Manners;
use sensors::part::Part;
use sensors::profile::compile::{Compiled, compile};
use simulator::fittings::Fittings;
use simulator::host::Flash;
use simulator::instrument::Instrument;
use simulator::part::Bench;
use simulator::world::World;
use telemetry::mac::Key;
use telemetry::record::Round;
use telemetry::{ActuatorKind, NodeName, Property, Record};

use super::{Board, Options, Scene, image, image_with};
use crate::books::{self, Name, Stored};
use crate::station::{NODES, Station, WITHIN};
use crate::{qemu, until};

/// Where the ring is in the board's flash, and its bytes (`firmware/boards/qemu-mps2`).
const RING: (u32, usize) = (0x11_0000, 0x4_0000);
/// Longest that a command of the console takes.
const SOON: Duration = Duration::from_secs(30);
/// Bytes in a piece of an image (CONSOLE.md).
const PIECE: usize = 72;

/// Still water: every property has the value that it was given, and actuators are remembered.
#[derive(Clone, Debug, Default)]
pub struct Tank(Arc<Mutex<Water>>);

#[derive(Debug, Default)]
struct Water {
    values: BTreeMap<u8, f64>,
    on: BTreeMap<u8, bool>,
}

impl Tank {
    fn water(&self) -> MutexGuard<'_, Water> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, this is true.
    pub fn set(&self, property: Property, value: f64) {
        self.water().values.insert(property.id(), value);
    }

    /// Whether an actuator runs; `None` before it was ever switched.
    #[must_use]
    pub fn is_on(&self, actuator: u8) -> Option<bool> {
        self.water().on.get(&actuator).copied()
    }
}

impl World for Tank {
    fn step(&mut self, _utc_ms: i64, _dt_s: f64) {}

    fn value(&self, property: Property, _depth_m: f64) -> Option<f64> {
        self.water().values.get(&property.id()).copied()
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        self.water().on.insert(actuator, on);
    }
}

/// The pond.
pub struct Pond {
    /// The node's board.
    pub board: Board,
    /// The gateway.
    pub station: Station,
    /// The water.
    pub tank: Tank,
    /// What the node measures and controls.
    pub config: Config,
    /// Who the node is.
    pub settings: Settings,
}

/// Channel of dissolved oxygen.
const OXYGEN: u8 = 0;

/// The profile of a probe that needs no time to warm up: no test waits a minute for one.
fn probe() -> Result<Compiled> {
    Ok(compile(&Pond::profile()?, "quick.toml")?)
}

fn channel(property: Property, source: Source) -> Channel {
    let (calibration, limits) = (Calibration::default(), Limits::default());
    Channel { property, source, calibration, limits, compensate_with: None }
}

/// A round every two seconds; an aerator that starts below 4 mg/L and needs three good readings to stop.
///
/// # Errors
/// When a built-in profile has changed.
fn config() -> Result<Config> {
    let mut config = Config::new(1);
    (config.period_s, config.batch_records, config.hold_s) = (2, 2, 1);
    let compiled = probe()?;
    let profile = config.add_profile(&compiled.bytes)?;
    // A dead probe must not take longer than a round.
    let line = compiled.profile()?.settings().line;
    let settings = Some(Manners { line, echo: false, response_ms: 100, retries: 0 });
    let full = || anyhow::anyhow!("the config is full");
    config.probes.push(Probe { bus: 0, address: 1, profile, settings }).map_err(|_| full())?;
    let thermometer = Input::new(Part::Tmp105 as u8, 0, 0x48, 0);
    config.inputs.push(thermometer).map_err(|_| full())?;
    for channel in [
        channel(Property::DissolvedOxygen, Source::Probe { probe: 0, quantity: 1 }),
        channel(Property::WaterTemperature, Source::Probe { probe: 0, quantity: 2 }),
        channel(Property::AirTemperature, Source::Direct { input: 0 }),
    ] {
        config.channels.push(channel).map_err(|_| full())?;
    }
    let pauses = Pauses { on_s: 3, off_s: 2 };
    let rule = Rule::Aerator { channel: OXYGEN, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses };
    let output = Output::Pin { pin: 0, inverted: false };
    let aerator = Actuator { output, blind_after_s: 6, ..Actuator::new(ActuatorKind::Aerator, rule) };
    config.actuators.push(aerator).map_err(|_| full())?;
    config.validate()?;
    Ok(config)
}

/// The bytes of a config's image.
///
/// # Errors
/// When it has no room.
pub fn config_image(config: &Config) -> Result<Vec<u8>> {
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image)?;
    image.truncate(length);
    Ok(image)
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N]> {
    ensure!(text.len() == 2 * N && text.is_ascii(), "{text} is not {N} bytes in hex");
    let mut bytes = [0; N];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16)?;
    }
    Ok(bytes)
}

impl Pond {
    /// The text of the profile of its probe.
    ///
    /// # Errors
    /// When the built-in one, of which it is made, cannot be read.
    pub fn profile() -> Result<String> {
        let path = "../firmware/sensors/profiles/renke-rs-ldo-n01.toml";
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).context(path)?;
        let (before, after) = text.split_once("warm_up_ms = ").context("the profile warms up")?;
        let (_, after) = after.split_once('\n').context("the profile goes on")?;
        Ok(format!("{before}warm_up_ms = 0\n{after}"))
    }

    /// Gives the board its settings once more, and restarts it.
    ///
    /// # Errors
    /// When it does not take them.
    pub async fn reprovision_settings(&mut self) -> Result<()> {
        self.send_settings().await?;
        self.board.restart_by_console().await
    }

    async fn send_settings(&self) -> Result<()> {
        let mut image = [0; SETTINGS_BYTES_MAX];
        let length = self.settings.encode(&mut image)?;
        let stored = self.board.send_image("settings", &image[..length]).await?;
        ensure!(stored == "OK settings stored", "{stored}");
        Ok(())
    }

    /// A gateway that runs, and a board with the node's image that is not on yet. `more` are lines of
    /// the gateway's configuration. None without QEMU.
    ///
    /// # Errors
    /// When the image does not build or something does not start.
    pub async fn new(influx_url: Option<&str>, more: &str, options: Options) -> Result<Option<Self>> {
        let Some(qemu) = qemu()? else { return Ok(None) };
        let image = tokio::task::spawn_blocking(|| image("qemu-mps2", "qemu-mps2")).await??;
        Self::with(&qemu, &image, Station::new(influx_url, more)?, options).await.map(Some)
    }

    /// As [`Pond::new`], with the image that speaks TLS and a gateway that speaks nothing else.
    /// `station` has its certificate; `pin` is the SHA-256 of its public key.
    ///
    /// # Errors
    /// As there.
    pub async fn over_tls(station: Station, pin: [u8; 32]) -> Result<Option<Self>> {
        let Some(qemu) = qemu()? else { return Ok(None) };
        let image = tokio::task::spawn_blocking(|| image_with("qemu-mps2", "qemu-mps2", "tls")).await??;
        let mut pond = Self::with(&qemu, &image, station, Options::default()).await?;
        pond.settings.pin = Some(pin);
        Ok(Some(pond))
    }

    async fn with(qemu: &Path, image: &Path, mut station: Station, options: Options) -> Result<Self> {
        station.start().await?;
        let (status, lines) = station.tianyu.command(&["node", "add", NODES[0]], WITHIN).await?;
        ensure!(status.success(), "{lines:?}");
        let word = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| format!("no {name} in {lines:?}"))
        };
        let host = if options.ipv4 { "10.0.2.2" } else { "fec0::2" };
        let settings = Settings {
            name: NodeName::new(NODES[0])?,
            token: hex(word("token")?)?,
            key: Key::new(hex(word("key")?)?),
            host: host.try_into().map_err(|_| anyhow::anyhow!("too long a host"))?,
            port: station.mqtt,
            pin: None,
            link: Link::Ethernet,
            ipv4: if options.ipv4 { Ipv4::Dhcp } else { Ipv4::Off },
            ipv6: if options.ipv6 { Ipv6::Auto } else { Ipv6::Off },
            dns: heapless::Vec::new(),
            radio: Radio::Always,
        };
        let tank = Tank::default();
        tank.set(Property::DissolvedOxygen, 7.19);
        tank.set(Property::OxygenSaturation, 91.8);
        tank.set(Property::WaterTemperature, 27.4);
        let probe = Instrument::new(probe()?, 1, 0.0, 1).exact();
        let peripherals = Box::new(Fittings::new(Bench::default(), 4));
        let scene = Scene { world: Box::new(tank.clone()), lines: [vec![Box::new(probe)], Vec::new()], peripherals };
        let board = Board::new(qemu, image, options, scene)?;
        Ok(Self { board, station, tank, config: config()?, settings })
    }

    /// Switches the board on for the first time and provisions it over its console.
    ///
    /// # Errors
    /// When it does not take what it is given.
    pub async fn provision(&mut self) -> Result<()> {
        self.board.start().await?;
        self.send_settings().await?;
        let image = config_image(&self.config)?;
        let stored = self.board.send_image("config", &image).await?;
        ensure!(stored == format!("OK config {} stored", self.config.number), "{stored}");
        self.board.restart_by_console().await
    }

    /// Waits until a round that pleases `wanted` is in the history; its name and what is stored.
    ///
    /// # Errors
    /// When none came within a minute.
    pub async fn stored(&self, what: &str, wanted: impl Fn(&Name, &Stored) -> bool) -> Result<(Name, Stored)> {
        let found = until(what, WITHIN, || async {
            let stored = self.history().ok()?;
            stored.into_iter().rev().find(|(name, stored)| wanted(name, stored))
        })
        .await;
        match found {
            Ok(found) => Ok(found),
            Err(error) => Err(error.context(self.board.status().await?)),
        }
    }

    /// All rounds of the history.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn history(&self) -> Result<BTreeMap<Name, Stored>> {
        books::history(&self.station.tianyu.directory().join("tianyu-data/history"))
    }

    /// Compares all `records` that were ever seen in the board's flash with what the gateway has: every
    /// record that it has was in the flash and is once in its log, every record before the last that it
    /// has is there, and every round's readings are in the history as they were in the flash. The board
    /// has to be off; how many records, rounds, and names of what was being written when the power went.
    ///
    /// # Errors
    /// With the first difference.
    pub async fn delivered(&self, ring: u32, mut records: BTreeMap<u32, Record>) -> Result<(usize, usize, usize)> {
        let (mut logged, mut gone) = (BTreeSet::new(), 0);
        for record in self.station.tianyu.export().await? {
            let seq =
                record["seq"].as_u64().and_then(|seq| u32::try_from(seq).ok()).context("a record without a seq")?;
            ensure!(record["ring"].as_u64() == Some(ring.into()), "of another ring: {record}");
            ensure!(logged.insert(seq), "record {seq} is in the log twice");
            // A write that a cut has torn leaves a name without content, which the node owns up to.
            let is_gone = record["content"].get("gone").is_some();
            gone += usize::from(is_gone);
            ensure!(records.contains_key(&seq) != is_gone, "record {seq} is not what was in the flash: {record}");
        }
        // What it wrote between its last report and the end of its power waits for the next start.
        let last = *logged.last().context("nothing was delivered")?;
        records.retain(|seq, _| *seq <= last);
        let lost: Vec<_> = records.keys().filter(|seq| !logged.contains(seq)).collect();
        ensure!(lost.is_empty(), "records {lost:?} were in the flash, and are not in the log");
        self.stored("the last round", |(_, _, seq), _| {
            records
                .iter()
                .rev()
                .find(|(_, record)| matches!(record, Record::Round(_)))
                .is_none_or(|(last, _)| seq >= last)
        })
        .await?;
        let history = self.history()?;
        let mut rounds = 0;
        for (seq, record) in &records {
            let Record::Round(round) = record else { continue };
            let name = (self.settings.name.to_string(), ring, *seq);
            let stored = history.get(&name).with_context(|| format!("round {seq} is not in the history"))?;
            same(round, stored, &self.config).with_context(|| format!("round {seq}"))?;
            rounds += 1;
        }
        ensure!(history.len() == rounds, "the history has {} rounds, the flash {rounds}", history.len());
        Ok((records.len(), rounds, gone))
    }
}

fn same(round: &Round, stored: &Stored, config: &Config) -> Result<()> {
    ensure!(round.readings.len() == stored.readings.len(), "{round:?} {stored:?}");
    for reading in &round.readings {
        let channel = config.channels.get(usize::from(reading.channel)).context("a channel that there is not")?;
        let of = stored.readings.iter().find(|(_, property, ..)| property == channel.property.name());
        let (.., of) = of.with_context(|| format!("{} is not stored", channel.property.name()))?;
        let value = matches!(reading.quality, telemetry::Quality::Present { .. });
        let value = value.then(|| channel.property.value(reading.value));
        ensure!(of.value == value, "{reading:?} is stored as {of:?}");
    }
    Ok(())
}

impl Board {
    /// Sends an image over the console, piece by piece; the line that says what became of it.
    ///
    /// # Errors
    /// When the board does not answer as CONSOLE.md says.
    pub async fn send_image(&self, what: &str, image: &[u8]) -> Result<String> {
        // Ends what may be half typed.
        self.type_line("").await?;
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(image);
        let (_, begun) = self.ask(&format!("provision {what} {} {crc:08x}", image.len()), SOON).await?;
        ensure!(begun == "OK 0", "{begun}");
        let mut sent = 0;
        for piece in image.chunks(PIECE) {
            sent += piece.len();
            let (_, come) = self.ask(&BASE64_STANDARD.encode(piece), SOON).await?;
            ensure!(come == format!("OK {sent}"), "{come} after {sent} bytes");
        }
        Ok(self.ask("provision end", SOON).await?.1)
    }

    async fn restart_by_console(&self) -> Result<()> {
        let (_, restarts) = self.ask("provision restart", SOON).await?;
        ensure!(restarts == "OK restart", "{restarts}");
        Ok(())
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it says nothing.
    pub async fn status(&self) -> Result<String> {
        self.type_line("status").await?;
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.starts_with("stack")) {
            lines.push(self.console_line("", SOON).await?);
        }
        Ok(lines.join("\n"))
    }

    /// The ring in its flash: its id, the oldest seq that it may have, its records. The board should be off.
    ///
    /// # Errors
    /// When there is no sound ring.
    pub fn records(&self) -> Result<(u32, u32, BTreeMap<u32, Record>)> {
        let bytes = self.flash().read(RING.0, RING.1)?;
        let (mut ring, made) = Ring::open_or_format(Flash::from_image(RING.1 / 4_096, &bytes), 0)?;
        ensure!(!made, "there is no ring in the flash");
        let mut records = BTreeMap::new();
        for seq in ring.floor()..ring.next_seq() {
            let mut buffer = [0; telemetry::limits::RECORD_BYTES_MAX];
            if let Some(bytes) = ring.read(seq, &mut buffer)? {
                records.insert(seq, Record::decode(bytes)?.1);
            }
        }
        Ok((ring.id(), ring.floor(), records))
    }
}
