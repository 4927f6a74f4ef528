//! The demo's nodes on their simulated boards, without a network.

use simulator::host::{Flash, Host};
use simulator::instrument::Fault;
use simulator::sites;
use telemetry::mac::Key;
use telemetry::{MissingReason, NodeName, Property};

fn keys(node: &NodeName) -> Key {
    Key::derive(&[7; 32], node)
}

/// 2026-11-24T00:00 in Fuzhou.
const BEGAN_MS: i64 = 1_795_449_600_000;

fn hosts(seed: u64) -> Vec<Host> {
    let parts = sites::all(&keys, seed, |_| Flash::new(sites::FLASH_SECTORS), None).unwrap();
    parts.into_iter().map(|parts| Host::new(parts, BEGAN_MS, 0).unwrap()).collect()
}

fn missing(reading: &telemetry::record::Reading) -> Option<MissingReason> {
    match reading.quality {
        telemetry::Quality::Missing(reason) => Some(reason),
        _ => None,
    }
}

#[test]
fn after_warming_up_every_channel_of_every_site_has_a_plausible_value() {
    for mut host in hosts(1) {
        host.run(200_000_000);
        let round = &host.ledger().last().unwrap().round;
        assert_eq!(round.readings.len(), host.node().unwrap().config().channels.len());
        for reading in &round.readings {
            assert_eq!(missing(reading), None, "{} {reading:?}", host.name().as_str());
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_rounds_to_the_last_bit() {
    let run = |seed| {
        let mut hosts = hosts(seed);
        hosts.iter_mut().for_each(|host| host.run(600_000_000));
        let rounds = |host: &Host| host.ledger().map(|it| it.round.clone()).collect::<Vec<_>>();
        hosts.iter().map(rounds).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_probe_that_dies_is_missing_and_its_neighbour_is_not() {
    let mut host = hosts(1).remove(1);
    assert_eq!(host.name().as_str(), sites::DYING.0);
    host.run(200_000_000);
    host.set_fault(sites::DYING.1, Some(Fault::Silent));
    host.run(230_000_000);
    let taken = host.ledger().last().unwrap();
    let config = host.node().unwrap().config();
    let oxygen: Vec<_> = taken
        .round
        .readings
        .iter()
        .zip(&config.channels)
        .filter(|(_, channel)| channel.property == Property::DissolvedOxygen)
        .map(|(reading, _)| missing(reading))
        .collect();
    assert_eq!(oxygen, [None, Some(MissingReason::NoAnswer)]);
}

#[test]
fn the_pond_lives_through_a_night_by_its_aerators_and_the_greenhouse_keeps_its_temperature() {
    let [pond, _, _, mut greenhouse]: [Host; 4] = hosts(2).try_into().map_err(|_| "four").unwrap();
    let mut pond = pond;
    let (mut aerated, mut lowest, mut coldest, mut hottest) = (0, i32::MAX, i32::MAX, 0);
    for minute in 5..1_440 {
        pond.run(minute * 60_000_000);
        greenhouse.run(minute * 60_000_000);
        let node = pond.node().unwrap();
        aerated += u32::from(node.is_on(0));
        lowest = lowest.min(node.round().readings[1].value);
        assert_eq!(node.alarms() & telemetry::Alarm::NotRunning.bit(), 0, "its motor draws current");
        let celsius = greenhouse.node().unwrap().round().readings[1].value;
        (coldest, hottest) = (coldest.min(celsius), hottest.max(celsius));
        assert!(!(greenhouse.node().unwrap().is_on(1) && greenhouse.node().unwrap().is_on(2)), "fan and heater");
    }
    assert!((30..1_000).contains(&aerated), "aerated for {aerated} of 1440 minutes");
    assert!(lowest > 300, "{lowest} hundredths of mg/L");
    assert!(coldest > 1_400 && hottest < 3_600, "{coldest} to {hottest} hundredths of a degree");
}

#[test]
fn a_power_cut_ends_the_boot_and_the_ring_goes_on() {
    let mut host = hosts(1).remove(0);
    host.run(300_000_000);
    let (ring, _, next) = host.node().unwrap().ring().unwrap();
    let boot = host.node().unwrap().boot_number();
    host.power_off();
    host.run(400_000_000);
    assert!(host.node().is_none());
    host.power_on(node::RestartCause::Power, 400_000_000).unwrap();
    host.run(500_000_000);
    let after = host.node().unwrap();
    let (ring_after, _, next_after) = after.ring().unwrap();
    assert_eq!((ring_after, after.boot_number()), (ring, boot + 1));
    assert!(next_after > next);
}

#[test]
fn an_erased_ring_is_a_new_ring() {
    let mut host = hosts(1).remove(0);
    host.run(60_000_000);
    let before = host.node().unwrap().ring().unwrap().0;
    host.power_off();
    host.erase_ring();
    host.power_on(node::RestartCause::Power, 60_000_000).unwrap();
    assert_ne!(host.node().unwrap().ring().unwrap().0, before);
}

#[test]
fn a_flash_image_brings_the_ring_back() {
    let mut host = hosts(1).remove(3);
    host.run(60_000_000);
    let ring = host.node().unwrap().ring().unwrap();
    let flash = Flash::from_image(sites::FLASH_SECTORS, &host.flash().image());
    let parts = sites::greenhouse(&keys, 9, flash).unwrap();
    let again = Host::new(parts, BEGAN_MS, 0).unwrap();
    assert_eq!(again.node().unwrap().ring().unwrap().0, ring.0);
    assert!(again.node().unwrap().ring().unwrap().2 > ring.2);
}

#[test]
fn a_recording_is_read_value_by_value_through_a_probe() {
    let text = "Timestamp(UTC),x,Dissolved Oxygen,Temperature\n2018-03-01 1:41,,,1.57\n2018-03-01 1:42,,100.5,\n\
        2018-03-01 1:43,,,8.25\n";
    let recording = simulator::recorded::Recording::parse(text).unwrap();
    let mut node = sites::Builder::new("replay", &keys, 10, 1).unwrap();
    node.probe(0, 1, "hach-ldo-aqs", 1.0, &[Property::WaterTemperature]).unwrap();
    let parts = node.build(Box::new(recording), Flash::new(16)).unwrap();
    let mut host = Host::new(parts, BEGAN_MS, 0).unwrap();
    host.run(200_000_000);
    let values: Vec<_> = host.ledger().map(|it| it.round.readings[0].value).collect();
    // Warm after a minute; 1.57 °C until the second minute ends, then 8.25 °C; hundredths.
    let near = |wanted: i32| values.iter().any(|value| (value - wanted).abs() <= 5);
    assert!(near(157) && near(825), "{values:?}");
}

#[test]
fn the_recorded_near_shore_data_plays_through_a_probe() {
    let path = std::env::var_os("TIANYU_RECORDED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        std::path::PathBuf::from,
    );
    let path = path.join("near-shore-aquameasure-670364.csv");
    if !path.exists() {
        println!("skipped: {} is not there; TIANYU_RECORDED names its folder", path.display());
        return;
    }
    let recording = simulator::recorded::Recording::open(&path).unwrap();
    assert!(recording.count(Property::WaterTemperature) > 1_000, "{}", recording.count(Property::WaterTemperature));
    let mut node = sites::Builder::new("replay", &keys, 10, 1).unwrap();
    node.probe(0, 247, "hach-ldo-aqs", 1.0, &[Property::OxygenSaturation, Property::WaterTemperature]).unwrap();
    let world = Box::new(recording.at_speed(3_600.0));
    let mut host = Host::new(node.build(world, Flash::new(64)).unwrap(), BEGAN_MS, 0).unwrap();
    host.run(3_600_000_000);
    let values: std::collections::BTreeSet<i32> = host
        .ledger()
        .filter(|it| missing(&it.round.readings[0]).is_none())
        .map(|it| it.round.readings[0].value)
        .collect();
    assert!(values.len() > 50, "{} different values", values.len());
}

#[test]
fn a_thousand_light_nodes_fit_into_one_process() {
    let hosts: Vec<Host> = (0..1_000)
        .map(|number| {
            let parts = sites::light(&format!("load-{number}"), &keys, 60, number).unwrap();
            let mut host = Host::new(parts, BEGAN_MS, 0).unwrap();
            host.run(119_000_000);
            host
        })
        .collect();
    let rounds: std::collections::BTreeSet<usize> = hosts.iter().map(|host| host.ledger().count()).collect();
    assert_eq!(rounds, [2].into());
}

#[test]
fn a_ring_that_has_gone_round_still_says_what_its_channels_mean() {
    let parts = sites::pond(&keys, 1, Flash::new(8)).unwrap();
    let flash = parts.flash.clone();
    let mut host = Host::new(parts, BEGAN_MS, 0).unwrap();
    // Twelve hours, a minute at a time: a host takes only so many steps at once.
    (1..=720u64).for_each(|minute| host.run(minute * 60_000_000));
    host.power_off();
    let (mut ring, made) = node::ring::Ring::open_or_format(flash, 1).unwrap();
    assert!(!made && ring.floor() > 1_000, "nothing was overwritten: {}", ring.floor());
    let mut bytes = [0; telemetry::limits::RECORD_BYTES_MAX];
    let described = (ring.floor()..ring.next_seq()).any(|seq| {
        let record = ring.read(seq, &mut bytes).unwrap().map(|bytes| telemetry::Record::decode(bytes).unwrap().1);
        matches!(record, Some(telemetry::Record::Description(_)))
    });
    assert!(described, "no description in {}..{}", ring.floor(), ring.next_seq());
}
