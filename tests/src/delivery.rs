//! A simulated node that delivers to a gateway in memory, byte by byte as over MQTT: what its
//! records cost on the wire and in its flash.
//!
//! The gateway here does as little as the contract allows. The node is the real core on simulated
//! instruments, with the noise that they have.

use anyhow::{Context as _, Result, ensure};
use simulator::host::{Flash, Host, Parts, Taken};
use simulator::sites::{Builder, FLASH_SECTORS};
use simulator::world::Pond;
use telemetry::mac::Key;
use telemetry::session::{Nonce, Receipt, Session};
use telemetry::topic::{Down, Up};
use telemetry::{NodeName, Property, Record, Report};

/// 2026-11-24T00:00 in Fuzhou.
const BEGAN_MS: i64 = 1_795_449_600_000;
/// Steps in which time passes.
const STEP_US: u64 = 1_000_000;

/// What a node has delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Its rounds, as taken.
    pub rounds: Vec<Taken>,
    /// MQTT payloads of the reports that carried them, and events that came between.
    pub reports: Vec<Vec<u8>>,
    /// Bytes written to its flash meanwhile: frames, sector headers and all.
    pub flash_bytes: u64,
}

impl Delivery {
    /// Readings of all rounds.
    #[must_use]
    pub fn readings(&self) -> usize {
        self.rounds.iter().map(|taken| taken.round.readings.len()).sum()
    }

    /// Bytes of MQTT payload for each reading.
    #[must_use]
    pub fn wire_bytes_per_reading(&self) -> f64 {
        self.reports.iter().map(Vec::len).sum::<usize>() as f64 / self.readings() as f64
    }

    /// Bytes of flash for each reading.
    #[must_use]
    pub fn flash_bytes_per_reading(&self) -> f64 {
        self.flash_bytes as f64 / self.readings() as f64
    }
}

/// Keys of the nodes here.
#[must_use]
pub fn key(node: &NodeName) -> Key {
    Key::derive(&[7; 32], node)
}

/// A pond's node of eight channels, a round a minute: two oxygen probes, pH, salinity, level.
///
/// # Errors
/// Never, unless a built-in profile changes.
pub fn pond_of_eight(seed: u64) -> Result<Parts> {
    use Property::{DissolvedOxygen, Level, OxygenSaturation, Ph, Salinity, WaterTemperature};
    let mut node = Builder::new("pond", &key, 60, seed)?;
    node.probe(0, 1, "renke-rs-ldo-n01", 0.3, &[DissolvedOxygen, OxygenSaturation, WaterTemperature])?;
    node.probe(0, 2, "renke-rs-ldo-n01", 1.2, &[DissolvedOxygen, WaterTemperature])?;
    for property in [Ph, Salinity, Level] {
        node.direct(property, 0.5)?;
    }
    Ok(node.build(Box::new(Pond::new(seed)), Flash::new(FLASH_SECTORS))?)
}

/// Lets a node take `rounds` rounds and deliver them, `of_report` to a report, after it has
/// settled in: probes warm, session open, description delivered.
///
/// # Errors
/// When it does not deliver all of them, each once.
pub fn deliver(mut parts: Parts, rounds: usize, of_report: u16) -> Result<Delivery> {
    parts.config.batch_records = of_report;
    parts.config.hold_s = u16::MAX;
    let period_us = u64::from(parts.config.period_s) * 1_000_000;
    let mut link = Link { host: Host::new(parts, BEGAN_MS, 0)?, nonce: Nonce([0; 8]), next: 0, now_us: 0 };
    link.host.connected();
    // Longest that so many rounds may take, whole reports and what goes before included.
    let most_us = 2 * (rounds as u64 + 2 * u64::from(of_report) + 10) * period_us;
    // Nothing is under way when counting begins and when it ends.
    link.pass(u64::from(of_report) * period_us)?;
    while !link.is_idle() {
        ensure!(link.now_us < most_us, "nothing was delivered");
        link.pass(STEP_US)?;
    }
    let written = link.host.flash().with(|nor| nor.written());
    let (mut reports, mut times_ms) = (Vec::new(), Vec::new());
    while times_ms.len() < rounds || !link.is_idle() {
        ensure!(link.now_us < most_us, "only {} of {rounds} came", times_ms.len());
        for payload in link.pass(STEP_US)? {
            for record in Report::decode(&payload)?.records() {
                if let Record::Round(round) = record? {
                    times_ms.push(round.t_ms);
                }
            }
            reports.push(payload);
        }
    }
    let flash_bytes = link.host.flash().with(|nor| nor.written()) - written;
    let came = |taken: &&Taken| times_ms.binary_search(&taken.round.t_ms).is_ok();
    let taken: Vec<_> = link.host.ledger().filter(came).cloned().collect();
    ensure!(taken.len() == times_ms.len(), "{} rounds were taken and {} delivered", taken.len(), times_ms.len());
    Ok(Delivery { rounds: taken, reports, flash_bytes })
}

/// A node and the gateway it talks to.
struct Link {
    host: Host,
    nonce: Nonce,
    /// The first seq that the gateway does not have.
    next: u32,
    now_us: u64,
}

impl Link {
    /// Whether everything that the node has kept is delivered.
    fn is_idle(&self) -> bool {
        self.host.node().and_then(|node| node.ring()).is_some_and(|(_, _, next)| next == self.next)
    }

    /// Lets time pass; the reports that came.
    fn pass(&mut self, by_us: u64) -> Result<Vec<Vec<u8>>> {
        let until_us = self.now_us + by_us;
        let mut reports = Vec::new();
        while self.now_us < until_us {
            self.now_us = (self.now_us + STEP_US).min(until_us);
            self.host.run(self.now_us);
            while let Some((channel, payload)) = self.host.next_publish() {
                match channel {
                    Up::Session => self.session(&payload)?,
                    Up::Report => {
                        let envelope = Report::decode(&payload)?.envelope;
                        ensure!(envelope.first == self.next, "{} came instead of {}", envelope.first, self.next);
                        self.next += envelope.count;
                        self.receipt(envelope.ring, None)?;
                        reports.push(payload);
                    }
                    Up::Live => {}
                }
            }
        }
        Ok(reports)
    }

    fn session(&mut self, payload: &[u8]) -> Result<()> {
        if let Session::Open(open) = Session::decode(payload)? {
            self.nonce = open.nonce;
            self.next = self.next.max(open.floor);
            let utc_ms = BEGAN_MS.saturating_add_unsigned(self.now_us / 1_000);
            self.receipt(open.ring, Some(utc_ms))?;
        }
        Ok(())
    }

    fn receipt(&mut self, ring: u32, utc_ms: Option<i64>) -> Result<()> {
        let (mut body, mut sealed) = ([0; 64], [0; 128]);
        let length = Receipt { ring, next: self.next, utc_ms }.encode(&mut body)?;
        let name = self.host.name().clone();
        let length = key(&name).seal(&name, Down::Receipt, self.nonce, &body[..length], &mut sealed)?;
        self.host.message(Down::Receipt, sealed.get(..length).context("a sealed receipt")?);
        Ok(())
    }
}
