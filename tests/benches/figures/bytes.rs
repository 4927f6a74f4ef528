//! Bytes of MQTT payload and of flash for each reading, from the real node core on simulated
//! instruments; beside it the same readings as JSON, SenML-CBOR and Sparkplug B.
//!
//! The others are given what we have too: channels are known from a description that went before,
//! so SenML names them by number and leaves the unit out, and Sparkplug uses the aliases of its
//! birth certificate. Their flags are left out; ours are in.

use anyhow::{Context as _, Result};
use minicbor::Encoder;
use prost::Message as _;
use serde_json::{Value, json};
use simulator::host::{Flash, Parts, Taken};
use simulator::recorded::Recording;
use simulator::sites;
use system_tests::delivery::{Delivery, deliver, key, pond_of_eight};
use system_tests::recorded;
use telemetry::{Property, Quality};

/// Rounds of one report.
const ROUNDS: usize = 24;
const SEED: u64 = 1;
/// The recording has a row every two hours.
const ROW_S: f64 = 7_200.0;

pub(crate) fn run() -> Result<()> {
    println!("bytes for each reading of {ROUNDS} rounds; a round by itself in brackets, whole\n");
    println!(
        "{:>26} {:>9} {:>7} {:>16} {:>16} {:>16} {:>16}",
        "node", "channels", "flash", "Tianyu", "Sparkplug B", "SenML-CBOR", "JSON"
    );
    row("pond of eight", || pond_of_eight(SEED))?;
    let flash = || Flash::new(sites::FLASH_SECTORS);
    row("demo: pond", || Ok(sites::pond(&key, SEED, flash())?))?;
    row("demo: near-shore cage", || Ok(sites::near_shore_cage(&key, SEED, flash(), None)?))?;
    row("demo: platform", || Ok(sites::deep_sea_platform(&key, SEED, flash())?))?;
    row("demo: greenhouse", || Ok(sites::greenhouse(&key, SEED, flash())?))?;
    if let Some(file) = recorded()? {
        row("near-shore cage, recorded", || {
            // A round for each row.
            let recording = Recording::open(&file)?;
            let mut parts = sites::near_shore_cage(&key, SEED, flash(), None)?;
            let period_s = parts.config.period_s;
            let recording = recording.at_speed(ROW_S / f64::from(period_s));
            parts.world = sites::near_shore_cage(&key, SEED, flash(), Some(recording))?.world;
            Ok(parts)
        })?;
    }
    Ok(())
}

fn row(what: &str, parts: impl Fn() -> Result<Parts>) -> Result<()> {
    let properties: Vec<Property> = parts()?.config.channels.iter().map(|channel| channel.property).collect();
    let many = deliver(parts()?, 10 * ROUNDS, ROUNDS as u16)?;
    // Long enough that the last is beyond every warm-up.
    let one = deliver(parts()?, 2 * ROUNDS, 1)?;
    let others: [Encoding; 3] = [sparkplug, senml, json];
    print!("{what:>26} {:>9} {:>7.2}", properties.len(), many.flash_bytes_per_reading());
    let ours = |delivery: &Delivery| delivery.reports.iter().map(Vec::len).max().unwrap_or(0);
    let figure = |each: f64, whole: usize| format!("{each:.2} ({whole})");
    print!(" {:>16}", figure(many.wire_bytes_per_reading(), ours(&one)));
    for other in others {
        let mut bytes = 0;
        for rounds in many.rounds.chunks(ROUNDS) {
            bytes += other(rounds, &properties)?.len();
        }
        let whole = other(one.rounds.last_chunk::<1>().context("a round")?, &properties)?.len();
        print!(" {:>16}", figure(bytes as f64 / many.readings() as f64, whole));
    }
    println!();
    Ok(())
}

/// Rounds and what their channels measure, as bytes of a message.
type Encoding = fn(&[Taken], &[Property]) -> Result<Vec<u8>>;

/// The values of a round that are there, with their channels.
fn values<'t>(taken: &'t Taken, properties: &'t [Property]) -> impl Iterator<Item = (u8, Property, f64)> + 't {
    let present = |quality| matches!(quality, Quality::Present { .. });
    let readings = taken.round.readings.iter().filter(move |reading| present(reading.quality));
    readings.filter_map(|reading| {
        let property = *properties.get(usize::from(reading.channel))?;
        Some((reading.channel, property, property.value(reading.value)))
    })
}

/// One object a round, values by property and channel.
fn json(rounds: &[Taken], properties: &[Property]) -> Result<Vec<u8>> {
    let object = |taken: &Taken| {
        let mut object = serde_json::Map::from_iter([("t".to_owned(), json!(taken.at_ms))]);
        for (channel, property, value) in values(taken, properties) {
            object.insert(format!("{}_{channel}", property.name()), json!(value));
        }
        Value::Object(object)
    };
    Ok(serde_json::to_vec(&rounds.iter().map(object).collect::<Vec<_>>())?)
}

/// A SenML pack (RFC 8428, labels of section 6): base time with the first record of each round,
/// values as 32-bit floats.
fn senml(rounds: &[Taken], properties: &[Property]) -> Result<Vec<u8>> {
    const BASE_TIME: i8 = -3;
    const NAME: i8 = 0;
    const VALUE: i8 = 2;
    let mut encoder = Encoder::new(Vec::new());
    let count: usize = rounds.iter().map(|taken| values(taken, properties).count()).sum();
    encoder.array(count as u64)?;
    for taken in rounds {
        for (at, (channel, _, value)) in values(taken, properties).enumerate() {
            encoder.map(if at == 0 { 3 } else { 2 })?;
            if at == 0 {
                encoder.i8(BASE_TIME)?.f64(taken.at_ms as f64 / 1e3)?;
            }
            encoder.i8(NAME)?.str(&channel.to_string())?.i8(VALUE)?.f32(value as f32)?;
        }
    }
    Ok(encoder.into_writer())
}

/// What a Sparkplug B DDATA message uses of `org.eclipse.tahu.protobuf.Payload`.
#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metric {
    #[prost(uint64, optional, tag = "2")]
    alias: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(float, optional, tag = "12")]
    float_value: Option<f32>,
}

fn sparkplug(rounds: &[Taken], properties: &[Property]) -> Result<Vec<u8>> {
    // Milliseconds since 1970, as the specification wants them; the day does not matter.
    let utc_ms = |taken: &Taken| 1_795_449_600_000 + taken.at_ms;
    let metrics = rounds.iter().flat_map(|taken| {
        values(taken, properties).map(move |(channel, _, value)| Metric {
            alias: Some(channel.into()),
            timestamp: Some(utc_ms(taken)),
            float_value: Some(value as f32),
        })
    });
    let payload = Payload { timestamp: rounds.last().map(utc_ms), metrics: metrics.collect(), seq: Some(100) };
    Ok(payload.encode_to_vec())
}
