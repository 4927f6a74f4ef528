//! What the bytes promise: they read back, they are those of version 1 for ever, and no prefix
//! or flipped bit of them does harm.

use std::fmt::Write as _;

use proptest::prelude::*;
use telemetry::mac::{Key, OpenError};
use telemetry::quality::{Flag, MissingReason, Quality, Tests};
use telemetry::record::*;
use telemetry::report::{Report, ReportWriter};
use telemetry::session::*;
use telemetry::snapshot::Snapshot;
use telemetry::topic::Down;
use telemetry::{Malformed, NodeName};

fn reading(channel: u8, value: i32) -> Reading {
    Reading { channel, value, raw: None, quality: Quality::GOOD }
}

fn live_round() -> Round {
    // DO 7.19, saturation 91.8, pH 8.12, water 27.41 °C, salinity 28.35, turbidity 12.3, level 1.832, battery 12.61
    let values = [719, 918, 812, 2741, 2835, 123, 1832, 12_610];
    Round { t_ms: 86_400_000 - 350, config: 3, readings: (0..8).map(|c| reading(c, values[usize::from(c)])).collect() }
}

fn report(records: &[Record]) -> Vec<u8> {
    let mut buffer = [0; 1024];
    let mut writer = ReportWriter::new(&mut buffer, 0xDEAD_BEEF, 1000, 7, 86_400_000);
    for record in records {
        writer.push(record).unwrap();
    }
    let length = writer.finish().unwrap();
    buffer[..length].to_vec()
}

fn mixed() -> Vec<Record> {
    let mut suspect = live_round();
    suspect.t_ms += 60_000;
    suspect.readings[0].quality = Quality::Present { flag: Flag::Suspect, tests: Tests::RATE.with(Tests::SPIKE) };
    suspect.readings[0].raw = Some(731);
    suspect.readings[3] =
        Reading { channel: 3, value: 0, raw: None, quality: Quality::Missing(MissingReason::NoAnswer) };
    suspect.readings[4].quality = Quality::Present { flag: Flag::Good, tests: Tests::GAP };
    let mut channels = heapless::Vec::new();
    channels.push(ChannelDescription { channel: 0, property: 1, calibration: 2, period_s: 60 }).unwrap();
    let mut actuators = heapless::Vec::new();
    actuators.push(ActuatorDescription { actuator: 0, kind: 1 }).unwrap();
    vec![
        Record::Description(Description {
            t_ms: 5,
            config: 3,
            digest: 0x0102_0304,
            drift_ppm: 40,
            firmware: "0.1.0".try_into().unwrap(),
            board: "host".try_into().unwrap(),
            channels,
            actuators,
        }),
        Record::Round(live_round()),
        Record::Round(suspect.clone()),
        Record::Event(Event { t_ms: 9, code: EventCode::Restarted, subject: 0, value: 2, detail: 41 }),
        Record::Gone,
        Record::Gone,
        Record::Loss(Loss { t_ms: 10, first: 3, count: 4, cause: 1 }),
        Record::Round(suspect),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    })
}

fn records(payload: &[u8]) -> Result<Vec<Record>, Malformed> {
    Report::decode(payload)?.records().collect()
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut buffer = [0; 512];
    let mut all = vec![("live report", report(&[Record::Round(live_round())])), ("mixed report", report(&mixed()))];
    let open = Open { nonce: Nonce([1, 2, 3, 4, 5, 6, 7, 8]), ring: 9, boot: 2, floor: 10, next: 20, mono_ms: 30 };
    let n = Session::Open(open).encode(&mut buffer).unwrap();
    all.push(("open", buffer[..n].to_vec()));
    let anchors = [Anchor { boot: 2, mono_ms: 30, utc_ms: 1_790_000_000_000, error_ms: 12, drift_ppm: 40 }];
    let ready = Ready { nonce: open.nonce, ring: 9, anchors: anchors.into_iter().collect() };
    let n = Session::Ready(ready).encode(&mut buffer).unwrap();
    all.push(("ready", buffer[..n].to_vec()));
    let n = Receipt { ring: 9, next: 20, utc_ms: Some(1_790_000_000_000) }.encode(&mut buffer).unwrap();
    all.push(("receipt", buffer[..n].to_vec()));
    let command =
        Command { counter: 1, not_after_ms: 5000, order: Order::Switch { actuator: 1, on: true, for_s: 600 } };
    let n = command.encode(&mut buffer).unwrap();
    all.push(("command", buffer[..n].to_vec()));
    let snapshot = Snapshot { boot: 7, sent_ms: 86_400_000, round: live_round(), actuators: 1, alarms: 4 };
    let n = snapshot.encode(&mut buffer).unwrap();
    all.push(("snapshot", buffer[..n].to_vec()));
    for record in [&mixed()[0], &mixed()[2], &mixed()[3], &mixed()[6]] {
        let n = record.encode(7, &mut buffer).unwrap();
        all.push(("record", buffer[..n].to_vec()));
    }
    all
}

/// Decodes as whatever it is; re-encoding what was understood is not asked for here.
fn survives(name: &str, bytes: &[u8]) -> bool {
    match name {
        "live report" | "mixed report" => records(bytes).is_ok(),
        "open" | "ready" => Session::decode(bytes).is_ok(),
        "receipt" => Receipt::decode(bytes).is_ok(),
        "command" => Command::decode(bytes).is_ok(),
        "snapshot" => Snapshot::decode(bytes).is_ok(),
        "record" => Record::decode(bytes).is_ok(),
        _ => unreachable!("{name}"),
    }
}

#[test]
fn version_1_is_these_bytes_for_ever() {
    // Do not change the file: a change here is a new version of the protocol.
    let golden = include_str!("golden-1.txt");
    let now = messages().iter().map(|(name, bytes)| format!("{name}: {}\n", hex(bytes))).collect::<String>();
    assert_eq!(now, golden);
}

#[test]
fn an_order_to_calibrate_came_later_and_is_these_bytes_for_ever() {
    let order = Order::Calibrate { channel: 3, for_s: 600 };
    let mut buffer = [0; 64];
    let n = Command { counter: 2, not_after_ms: 5000, order }.encode(&mut buffer).unwrap();
    assert_eq!(hex(&buffer[..n]), "8601021913880303190258");
    assert_eq!(Command::decode(&buffer[..n]).unwrap().order, order);
    for end in 0..n {
        assert!(Command::decode(&buffer[..end]).is_err(), "cut to {end}");
    }
}

#[test]
fn a_report_reads_back_record_by_record() {
    let payload = report(&mixed());
    assert_eq!(records(&payload).unwrap(), mixed());
    let envelope = Report::decode(&payload).unwrap().envelope;
    assert_eq!((envelope.ring, envelope.first, envelope.count, envelope.boot), (0xDEAD_BEEF, 1000, 8, 7));
}

#[test]
fn a_live_round_of_eight_costs_at_most_48_bytes() {
    let payload = report(&[Record::Round(live_round())]);
    assert!(payload.len() <= 48, "{} bytes", payload.len());
}

#[test]
fn no_prefix_of_any_message_is_taken_for_a_message() {
    for (name, bytes) in messages() {
        for end in 0..bytes.len() {
            // A packed record has no length of its own: the ring's frame carries it.
            assert!(!survives(name, &bytes[..end]) || name == "record", "{name} cut to {end}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_report_is_noticed_and_none_does_harm_elsewhere() {
    for (name, bytes) in messages() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let fine = survives(name, &flipped);
            assert!(!(fine && name.ends_with("report")), "{name} with bit {bit} flipped");
        }
    }
}

#[test]
fn fields_of_a_newer_sender_are_passed_over() {
    let mut buffer = [0; 64];
    let mut e = minicbor::Encoder::new(minicbor::encode::write::Cursor::new(&mut buffer[..]));
    e.array(6).unwrap().u8(1).unwrap().u32(9).unwrap().u32(20).unwrap().null().unwrap();
    e.str("more").unwrap().array(1).unwrap().u8(1).unwrap();
    let n = e.into_writer().position();
    assert_eq!(Receipt::decode(&buffer[..n]), Ok(Receipt { ring: 9, next: 20, utc_ms: None }));
}

#[test]
fn every_message_and_record_may_get_more_elements_at_its_end() {
    let more = [0xF6, 0x82, 0x01, 0x61, 0x78];
    for (name, bytes) in messages() {
        let head = if name == "record" { 3 } else { 0 };
        // Rounds are packed and reports end with their check sum: both are other versions then.
        if name.ends_with("report") || (name == "record" && bytes[0] == 0) {
            continue;
        }
        let mut grown = bytes.clone();
        assert!((0x80..0x96).contains(&grown[head]), "{name} is an array");
        grown[head] += 2;
        grown.extend(more);
        match name {
            "open" | "ready" => assert_eq!(Session::decode(&grown), Session::decode(&bytes)),
            "receipt" => assert_eq!(Receipt::decode(&grown), Receipt::decode(&bytes)),
            "command" => assert_eq!(Command::decode(&grown), Command::decode(&bytes)),
            "snapshot" => assert_eq!(Snapshot::decode(&grown), Snapshot::decode(&bytes)),
            _ => assert_eq!(Record::decode(&grown), Record::decode(&bytes)),
        }
        assert!(survives(name, &grown), "{name}");
        // One element said and not there is no message.
        grown[head] += 1;
        assert!(!survives(name, &grown), "{name}");
    }
}

#[test]
fn a_newer_version_is_named_and_its_envelope_still_read() {
    let mut payload = report(&[Record::Round(live_round())]);
    // array, ring (5), first (3), count, boot, sent (5), then the version
    assert_eq!(payload[16], 1);
    payload[16] = 2;
    let end = payload.len() - 5;
    let crc = telemetry::report::digest(&payload[..end]).to_be_bytes();
    payload[end + 1..].copy_from_slice(&crc);
    let report = Report::decode(&payload).unwrap();
    assert_eq!((report.envelope.first, report.envelope.version), (1000, 2));
    assert_eq!(report.records().next(), Some(Err(Malformed::Newer(2))));
}

#[test]
fn a_report_that_holds_more_or_fewer_records_than_it_says_is_malformed() {
    let payload = report(&mixed());
    for count in [7u8, 9] {
        let mut wrong = payload.clone();
        assert_eq!(wrong[9], 8);
        wrong[9] = count;
        let end = wrong.len() - 5;
        let crc = telemetry::report::digest(&wrong[..end]).to_be_bytes();
        wrong[end + 1..].copy_from_slice(&crc);
        assert_eq!(records(&wrong), Err(Malformed::Shape));
    }
}

#[test]
fn a_seal_holds_for_one_node_one_kind_and_one_session() {
    let (node, other) = (NodeName::new("pond-7").unwrap(), NodeName::new("pond-8").unwrap());
    let key = Key::derive(&[7; 32], &node);
    let (nonce, old) = (Nonce([1; 8]), Nonce([2; 8]));
    let mut buffer = [0; 64];
    let n = key.seal(&node, Down::Receipt, nonce, b"body", &mut buffer).unwrap();
    let message = &buffer[..n];
    assert_eq!(key.open(&node, Down::Receipt, nonce, message), Ok(b"body".as_slice()));
    assert_eq!(key.open(&node, Down::Receipt, old, message), Err(OpenError::Forged));
    assert_eq!(key.open(&node, Down::Command, nonce, message), Err(OpenError::Forged));
    assert_eq!(key.open(&other, Down::Receipt, nonce, message), Err(OpenError::Forged));
    assert_eq!(Key::derive(&[7; 32], &other).open(&node, Down::Receipt, nonce, message), Err(OpenError::Forged));
    for bit in 0..n * 8 {
        let mut flipped = message.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&node, Down::Receipt, nonce, &flipped).is_err(), "bit {bit}");
    }
}

prop_compose! {
    fn any_quality()(kind in 0..6u8, tests in any::<u16>(), reason in 0..=12u8) -> Quality {
        let tests = Tests::from_bits(tests);
        match kind {
            0 | 1 => Quality::GOOD,
            2 => Quality::Present { flag: Flag::Good, tests },
            3 => Quality::Present { flag: Flag::Suspect, tests },
            4 => Quality::Present { flag: Flag::NotEvaluated, tests },
            _ => Quality::Missing(MissingReason::from_id(reason)),
        }
    }
}

prop_compose! {
    fn any_round()(
        t_ms in any::<u64>(),
        config in any::<u16>(),
        mask in any::<u32>(),
        values in proptest::collection::vec((any::<i32>(), any::<Option<i32>>(), any_quality()), 32),
    ) -> Round {
        let readings = (0..32u8).filter(|c| mask & (1 << c) != 0).map(|channel| {
            let (value, raw, quality) = values[usize::from(channel)];
            match quality {
                Quality::Missing(_) => Reading { channel, value: 0, raw: None, quality },
                Quality::Present { .. } => Reading { channel, value, raw, quality },
            }
        }).collect();
        Round { t_ms, config, readings }
    }
}

proptest! {
    #[test]
    fn a_check_sum_over_two_parts_is_that_of_both_together(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in any::<proptest::sample::Index>()) {
        let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
        prop_assert_eq!(telemetry::report::digest_of_both(head, tail), telemetry::report::digest(&bytes));
    }

    #[test]
    fn any_rounds_read_back_from_ring_and_report(rounds in proptest::collection::vec(any_round(), 1..6)) {
        let mut buffer = [0; 1024];
        let mut writer = ReportWriter::new(&mut buffer, 1, 2, 3, 4);
        let mut sent = Vec::new();
        let mut place = Record::Gone;
        for round in rounds {
            let record = Record::Round(round);
            let mut kept = [0; 512];
            let n = record.encode(3, &mut kept).unwrap();
            prop_assert_eq!(Record::decode(&kept[..n]), Ok((3, record.clone())));
            // In the place of the round before, of which nothing is left.
            prop_assert_eq!(place.decode_from(&kept[..n]), Ok(3));
            prop_assert_eq!(&place, &record);
            if writer.push(&record).is_err() { break; }
            sent.push(record);
        }
        if sent.is_empty() { return Ok(()); }
        let n = writer.finish().unwrap();
        prop_assert_eq!(records(&buffer[..n]).unwrap(), sent);
    }

    #[test]
    fn any_bytes_decode_to_something_or_to_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for name in ["live report", "open", "receipt", "command", "snapshot", "record"] {
            survives(name, &bytes);
        }
    }

    #[test]
    fn what_reads_from_a_mangled_report_behind_a_good_sum_is_a_record_like_any(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4u8), 1..5),
    ) {
        let mut payload = report(&mixed());
        payload.truncate(payload.len() - 5);
        for (at, byte, kind) in changes {
            let at = at.index(payload.len());
            match kind {
                0 => payload[at] ^= 1 << (byte & 7),
                1 => payload[at] = byte,
                2 => payload.insert(at, byte),
                _ => drop(payload.remove(at)),
            }
        }
        let crc = telemetry::report::digest(&payload).to_be_bytes();
        payload.push(0x44);
        payload.extend(crc);
        let Ok(read) = Report::decode(&payload) else { return Ok(()) };
        let boot = read.envelope.boot;
        let mut count = 0;
        for record in read.records().map_while(Result::ok) {
            // A gateway tells records apart by these bytes, and they always fit.
            let mut kept = [0; 512];
            let n = record.encode(boot, &mut kept).unwrap();
            prop_assert_eq!(Record::decode(&kept[..n]), Ok((boot, record)));
            count += 1;
        }
        prop_assert!(count <= read.envelope.count);
    }

    #[test]
    fn any_segments_behind_a_good_envelope_decode_in_bounded_steps(body in proptest::collection::vec(any::<u8>(), 0..200), items in 0..17u8) {
        let mut payload = vec![0x80 | (7 + items), 1, 2, 0x18, 200, 3, 4, 1];
        payload.extend(body);
        let crc = telemetry::report::digest(&payload).to_be_bytes();
        payload.push(0x44);
        payload.extend(crc);
        if let Ok(report) = Report::decode(&payload) {
            prop_assert!(report.records().count() <= 201);
        }
    }
}
