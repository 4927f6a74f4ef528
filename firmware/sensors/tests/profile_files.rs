//! Profile files: what compiles, what is refused and how, and what the binary withstands.

use sensors::part::{Bus, Part};
use sensors::profile::{
    PROFILE_LEN_MAX, Profile, ProfileError,
    compile::{self, compile},
};
use telemetry::{MissingReason, Tests};

const BASE: &str = r#"
name = "test-probe"
maker = "测试"
title = { zh = "测试探头", en = "test probe" }
verified = { by = "synthetic", source = "made up" }

[line]
address = 7
baud = 9600

[[block]]
function = 3
start = 10
count = 6

[[quantity]]
property = "orp"
unit = "mV"
register = 10
type = "i16"
"#;

fn with(more: &str) -> String {
    format!("{BASE}{more}")
}

/// The value that the one quantity of `BASE` plus `more` makes of six registers.
fn convert(more: &str, registers: [u16; 6]) -> Result<(f32, Tests), MissingReason> {
    let compiled = compile(&with(more), "test.toml").unwrap();
    let data: Vec<u8> = registers.iter().flat_map(|it| it.to_be_bytes()).collect();
    let quantity = compiled.profile().unwrap().quantities().next().unwrap();
    quantity.convert(&data).map(|it| (it.value, it.tests))
}

fn error(text: &str) -> String {
    compile(text, "test.toml").unwrap_err().to_string()
}

#[test]
fn every_built_in_profile_compiles_under_its_own_name() {
    for (name, text) in compile::profiles() {
        let compiled = compile(text, name).unwrap();
        assert_eq!(&compiled.name, name);
        let profile = compiled.profile().unwrap();
        assert_eq!(profile.quantities().count() > 0, profile.relay().is_none(), "{name}");
        assert!(compiled.bytes.len() <= PROFILE_LEN_MAX / 2, "{name}: {} bytes", compiled.bytes.len());
    }
}

#[test]
fn every_profile_file_is_built_in_and_the_readme_tells_how_each_was_verified() {
    let room = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(room.join("profiles")).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    let mut names: Vec<_> = compile::profiles().iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let mut stems: Vec<_> = files.iter().map(|it| it.file_stem().unwrap().to_str().unwrap()).collect();
    stems.sort_unstable();
    assert_eq!(stems, names);

    let readme = std::fs::read_to_string(room.join("README.md")).unwrap();
    let headings = ["## Supported Modbus probes", "## Supported relay boards"];
    let rows: Vec<_> = headings.into_iter().flat_map(|heading| rows(&readme, heading)).collect();
    assert_eq!(rows.len(), names.len(), "one row per profile");
    for file in files {
        let it = compile::load(&file).unwrap();
        let row = format!(
            "| `{}` | {} | {} | {} | {} | {} |",
            it.name,
            it.maker,
            it.title_zh,
            it.title_en,
            it.verified.name(),
            it.source
        );
        assert!(rows.contains(&row.as_str()), "README lacks this row:\n{row}");
    }
}

/// Rows of the table below a heading of the README.
fn rows<'r>(readme: &'r str, heading: &str) -> Vec<&'r str> {
    let (_, section) = readme.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter(|it| it.starts_with("| `")).collect()
}

#[test]
fn the_readme_tells_every_part_and_what_it_gives() {
    let wanted: Vec<String> = Part::ALL
        .iter()
        .map(|part| {
            let quantities = part.quantities().iter().map(|it| format!("{} {}", it.name, it.unit));
            let addresses = part.addresses().iter().map(|it| format!("{it:02X}h"));
            let place = match part.bus() {
                Bus::I2c => addresses.collect::<Vec<_>>().join(" "),
                Bus::OneWire => "1-Wire".to_owned(),
                Bus::Contact => "contact".to_owned(),
                Bus::Counter => "counter".to_owned(),
                Bus::Adc => "ADC".to_owned(),
            };
            let quantities = quantities.collect::<Vec<_>>().join(", ");
            let times = (part.ready_ms(), part.turn_ms_max());
            let (id, name, title) = (part.id(), part.name(), part.title());
            format!("| `{name}` | {id} | {title} | {place} | {quantities} | {} | {} |", times.0, times.1)
        })
        .collect();
    let readme = include_str!("../README.md");
    let rows = rows(readme, "## Supported parts");
    assert_eq!(rows, wanted, "the table would be\n{}", wanted.join("\n"));
}

#[test]
fn the_readmes_example_is_a_profile() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    assert_eq!(compile(example, "README.md").unwrap().name, "my-probe");
    let (_, rest) = rest.split_once("```toml\n[relay]").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let (head, _) = BASE.split_once("[[block]]").unwrap();
    let compiled = compile(&format!("{head}[relay]{example}"), "README.md").unwrap();
    assert_eq!(compiled.profile().unwrap().relay().unwrap().coils, 6);
}

#[test]
fn a_users_own_file_compiles_like_a_built_in_one() {
    let dir = std::env::temp_dir().join(format!("tianyu-profile-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("own.toml");
    std::fs::write(&path, BASE).unwrap();
    assert_eq!(compile::load(&path).unwrap().name, "test-probe");
    assert_eq!(compile::find("own.toml", &dir).unwrap().name, "test-probe");
    assert_eq!(compile::find("soil-a", &dir).unwrap().name, "soil-a");
    let unknown = compile::find("soil-x", &dir).unwrap_err().to_string();
    assert!(unknown.contains("no profile is called \"soil-x\"; use the path"), "{unknown}");
    std::fs::write(&path, BASE.replace("count = 6", "count = 0")).unwrap();
    let error = compile::load(&path).unwrap_err().to_string();
    assert!(error.contains("own.toml:14:9: "), "{error}");
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(compile::load(&path).is_err());
}

#[test]
fn numbers_are_put_together_in_the_order_the_file_says() {
    let two = |order: &str, kind: &str| {
        let text = with(order).replace("type = \"i16\"", &format!("type = \"{kind}\""));
        let compiled = compile(&text, "test.toml").unwrap();
        let quantity = compiled.profile().unwrap().quantities().next().unwrap();
        move |first: u16, second: u16| {
            let data: Vec<u8> = [first, second].iter().flat_map(|it| it.to_be_bytes()).collect();
            quantity.convert(&data).unwrap().value
        }
    };
    let (big, little) = ("", "word_order = \"little\"\n");
    let swapped = "byte_order = \"little\"\n";
    let both = "byte_order = \"little\"\nword_order = \"little\"\n";
    // 7.19 is 40 E6 14 7B.
    assert_eq!(two(big, "f32")(0x40E6, 0x147B), 7.19);
    assert_eq!(two(little, "f32")(0x147B, 0x40E6), 7.19);
    assert_eq!(two(swapped, "f32")(0xE640, 0x7B14), 7.19);
    assert_eq!(two(both, "f32")(0x7B14, 0xE640), 7.19);
    assert_eq!(two(big, "u32")(0x0001, 0x86A0), 100_000.0);
    assert_eq!(two(big, "i32")(0xFFFF, 0xFFFE), -2.0);
    assert_eq!(two(little, "i32")(0xFFFE, 0xFFFF), -2.0);
    assert_eq!(two(swapped, "i16")(0x9BFF, 0), -101.0);
    assert_eq!(two(big, "u16")(0xFF9B, 0), 65_435.0);
}

#[test]
fn scale_and_offset_apply_after_the_sign() {
    assert_eq!(convert("scale = 0.1\noffset = -40\n", [0xFF9B, 0, 0, 0, 0, 0]), Ok((-50.1, Tests::NONE)));
    assert_eq!(convert("scale = 2.5\n", [4, 0, 0, 0, 0, 0]), Ok((10.0, Tests::NONE)));
}

#[test]
fn sentinels_ranges_and_trust_each_say_their_own() {
    let more = "valid = [-1000, 1000]\ntrusted = [-900, 900]\n\
        sentinels = [{ raw = 0x7FFF }, { raw = -999, reason = \"power_on_value\" }]\n";
    let one = |raw: i16| convert(more, [raw as u16, 0, 0, 0, 0, 0]);
    assert_eq!(one(0x7FFF), Err(MissingReason::Sentinel));
    assert_eq!(one(-999), Err(MissingReason::PowerOnValue));
    assert_eq!(one(1001), Err(MissingReason::OutOfRange));
    assert_eq!(one(-1000), Ok((-1000.0, Tests::PROBE)));
    assert_eq!(one(901), Ok((901.0, Tests::PROBE)));
    assert_eq!(one(900), Ok((900.0, Tests::NONE)));
}

#[test]
fn the_probes_own_judgement_decides_whether_there_is_a_value() {
    let more = "quality = { register = 14, good = [0, 1], otherwise = \"fault\", \
        values = [{ value = 3, reason = \"warm_up\" }] }\n";
    let judged = |value| convert(more, [250, 0, 0, 0, value, 0]).map(|it| it.0);
    assert_eq!(judged(0), Ok(250.0));
    assert_eq!(judged(1), Ok(250.0));
    assert_eq!(judged(3), Err(MissingReason::WarmUp));
    assert_eq!(judged(9), Err(MissingReason::Fault));
}

#[test]
fn errors_name_the_place_and_what_would_be_right() {
    let cases = [
        (
            BASE.replace("\"orp\"", "\"disolved_oxygen\""),
            "test.toml:17:12: no property is called \"disolved_oxygen\"; did you mean \"dissolved_oxygen\"?",
        ),
        (BASE.replace("\"mV\"", "\"V\""), "test.toml:18:8: orp is not kept in \"V\"; scale to \"mV\" and say so"),
        (
            BASE.replace("register = 10", "register = 16"),
            "test.toml:19:12: no block reads register 16; add a [[block]]",
        ),
        (
            BASE.replace("register = 10\ntype = \"i16\"", "register = 15\ntype = \"f32\""),
            "test.toml:19:12: no block reads register 15; add a [[block]]",
        ),
        (BASE.replace("function = 3", "function = 5"), "test.toml:12:12: function 5 does not read registers; use 3"),
        (BASE.replace("address = 7", "address = 248"), "test.toml:8:11: 248 is no slave's address; use 1 to 247"),
        (
            BASE.replace("baud = 9600", "baud = 9600\nspeed = 3"),
            "test.toml:10:1: unknown field `speed`; expected one of",
        ),
        (BASE.replace("\"i16\"", "\"int16\""), "test.toml:20:8: unknown variant `int16`; expected one of"),
        (
            BASE.replace("\"test-probe\"", "\"Test Probe\""),
            "test.toml:2:8: \"Test Probe\" is no profile name; use 1 to 32 lower-case",
        ),
        (with("scale = 0\n"), "test.toml:21:9: a scale of 0"),
        (with("scale = inf\n"), "test.toml:21:9: this is no finite number"),
        (with("valid = [5, 1]\n"), "test.toml:21:9: this range holds nothing"),
        (with("sentinels = [{ raw = 70000 }]\n"), "test.toml:21:14: 70000 is no raw value of this type"),
        (
            with("quality = { register = 3, good = [0], otherwise = \"fault\" }\n"),
            "test.toml:21:11: quality register 3 lies outside the quantity's block",
        ),
        (
            with("[[write]]\nsetting = \"salinty\"\nregister = 1\nvalue = 1\n"),
            "test.toml:22:11: no setting is called \"salinty\"; use one of salinity, ",
        ),
        (
            with("[[write]]\nsetting = \"salinity\"\nregister = 1\n"),
            "test.toml:21:1: it is not said how the value becomes a register",
        ),
        (with("[timing]\nretries = 9\n"), "test.toml:22:11: 9 is out of range; use 0 to 3"),
        (BASE.replace("count = 6", "count = 126"), "test.toml:14:9: count of 126 registers"),
        (BASE.replace("baud = 9600", "baud = 300"), "test.toml:9:8: 300 bit/s"),
        ("name = ".to_string(), "test.toml:1:"),
    ];
    for (text, wanted) in cases {
        let found = error(&text);
        assert!(found.starts_with(wanted), "\n found {found}\nwanted {wanted}");
    }
}

#[test]
fn columns_count_characters_also_behind_chinese() {
    let text = BASE.replace(
        "title = { zh = \"测试探头\", en = \"test probe\" }",
        "title = { zh = \"测试探头\", de = \"test probe\" }",
    );
    let found = error(&text);
    assert!(found.starts_with("test.toml:4:24: unknown field `de`"), "{found}");
}

#[test]
fn too_many_of_anything_is_refused_where_it_begins() {
    let block = "\n[[block]]\nfunction = 3\nstart = 100\ncount = 1\n";
    assert!(error(&with(&block.repeat(8))).contains("too many blocks; a probe has room for 8"));
    let quantity = "\n[[quantity]]\nproperty = \"orp\"\nunit = \"mV\"\nregister = 11\n";
    assert!(error(&with(&quantity.repeat(16))).contains("too many quantities"));
    assert!(compile(&with(&quantity.repeat(15)), "test.toml").is_ok());
}

#[test]
fn a_profile_of_a_newer_version_is_told_from_a_damaged_one() {
    let mut bytes = compile(BASE, "test.toml").unwrap().bytes;
    bytes[1] = 3;
    assert_eq!(Profile::decode(&bytes).unwrap_err(), ProfileError::NewerVersion(3));
    bytes[1] = 0;
    assert_eq!(Profile::decode(&bytes).unwrap_err(), ProfileError::Malformed);
}

#[test]
fn elements_that_a_later_writer_added_are_skipped() {
    let mut bytes = compile(BASE, "test.toml").unwrap().bytes;
    assert_eq!(bytes[0], 0x8B);
    bytes[0] = 0x8C;
    bytes.extend([0x82, 0x01, 0x61, b'x']);
    assert_eq!(Profile::decode(&bytes).unwrap().name(), "test-probe");
}

/// Uses everything a decoded profile offers.
fn exercise(profile: &Profile<'_>) {
    let data = [0xA5_u8; 250];
    if let Some(relay) = profile.relay() {
        for n in 0..relay.coils {
            relay.write_request(1, n, 0xA5A5).unwrap();
            relay.read_request(1, n).unwrap();
            assert!(relay.is_closed(n, n, &data).is_some());
        }
        if let Some(time_out) = relay.time_out {
            let raw = time_out.raw(time_out.max_s).unwrap();
            time_out.read_request(1).unwrap();
            time_out.write_request(1, raw).unwrap();
        }
    }
    for (index, block) in profile.blocks().enumerate() {
        profile.request(block, 1).unwrap();
        profile.convert(index, Ok(&data), |_, sample| {
            if let Ok(sample) = sample {
                assert!(sample.value.is_finite());
            }
        });
    }
    for write in profile.writes() {
        let _ = profile.write_request(write.setting, 1.0, 1);
    }
    assert!(profile.name().len() <= 32);
}

#[test]
fn every_prefix_and_every_bit_flip_of_every_profile_is_survived() {
    for (name, text) in compile::profiles().iter().chain(&[("test-board", BOARD)]) {
        let bytes = compile(text, name).unwrap().bytes;
        for cut in 0..bytes.len() {
            assert!(Profile::decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(profile) = Profile::decode(&flipped) {
                exercise(&profile);
            }
        }
    }
}

#[test]
fn the_binary_form_does_not_change_under_nodes_in_the_field() {
    // Written by version 1. Do not change the bytes: a new form is a new version.
    let golden = "8b016a746573742d70726f6265071925800000\
        1901f401\
        81830\
        30a06818b0c00000101fa0000000000f6f680f680";
    let bytes = compile(BASE, "test.toml").unwrap().bytes;
    let hex: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
    assert_eq!(hex, golden);
}

/// A relay board: everything that its table can say.
const BOARD: &str = r#"
name = "test-board"
maker = "测试"
title = { zh = "测试继电器", en = "test board" }
verified = { by = "synthetic", source = "made up" }

[line]
address = 7
baud = 9600

[relay]
coils = 4
write = { function = 6, start = 1, on = 0x0100, off = 0x0200 }
read = { function = 3, start = 1, on = 1 }
time_out = { register = 40, function = 16, per_s = 10, min_s = 2, max_s = 600 }
"#;

#[test]
fn a_relay_board_is_written_and_read_back_as_its_file_says() {
    let compiled = compile(BOARD, "test.toml").unwrap();
    let relay = compiled.profile().unwrap().relay().unwrap();
    let bytes = |request: Result<sensors::modbus::Request, _>| request.unwrap().bytes()[..6].to_vec();
    assert_eq!(bytes(relay.write_request(7, 2, 0b0100)), [7, 6, 0, 3, 1, 0]);
    assert_eq!(bytes(relay.write_request(7, 3, 0b0100)), [7, 6, 0, 4, 2, 0]);
    assert_eq!(bytes(relay.read_request(7, 3)), [7, 3, 0, 4, 0, 1]);
    assert_eq!((relay.is_closed(3, 3, &[0, 1]), relay.is_closed(3, 3, &[0, 0])), (Some(true), Some(false)));
    assert_eq!(relay.is_closed(3, 2, &[0, 1]), None, "one register says nothing of another coil");
    let time_out = relay.time_out.unwrap();
    assert_eq!([1, 2, 30, 600, 601].map(|s| time_out.raw(s)), [None, Some(20), Some(300), Some(6_000), None]);
    let write = time_out.write_request(7, 300).unwrap();
    assert_eq!(write.bytes()[..9], [7, 16, 0, 40, 0, 1, 2, 0x01, 0x2C]);
    assert!(time_out.holds(300, &[0x01, 0x2C]) && !time_out.holds(300, &[0, 0]) && !time_out.holds(300, &[]));
    assert!(relay.write_request(7, 4, 0).is_err(), "there is no fifth coil");
    // Nobody would confirm a broadcast.
    assert!(relay.write_request(0, 0, 0).is_err() && time_out.write_request(0, 300).is_err());

    let all = BOARD.replace("function = 6, start = 1, on = 0x0100, off = 0x0200", "function = 15, start = 0");
    let all = all.replace("function = 3, start = 1, on = 1", "function = 1, start = 0");
    let compiled = compile(&all, "test.toml").unwrap();
    let relay = compiled.profile().unwrap().relay().unwrap();
    assert!(relay.writes_all_at_once() && relay.reads_all_at_once());
    assert_eq!(relay.write_request(7, 0, 0xFFFA).unwrap().bytes()[..8], [7, 15, 0, 0, 0, 4, 1, 0x0A]);
    let closed = |of| relay.is_closed(0, of, &[0x0A]);
    assert_eq!([0, 1, 2, 3, 4].map(closed), [Some(false), Some(true), Some(false), Some(true), None]);
}

#[test]
fn what_is_wrong_with_a_relay_board_is_named() {
    let cases = [
        (BOARD.replace("coils = 4", "coils = 17"), "test.toml:12:9: a board of 17 coils; use 1 to 16"),
        (BOARD.replace("start = 1, on = 0x0100", "start = 65533, on = 0x0100"), "test.toml:13:9: the last coil lies"),
        (BOARD.replace(", off = 0x0200", ""), "test.toml:13:9: it is not said how a coil is written; use function 5"),
        (BOARD.replace("off = 0x0200", "off = 0x0100"), "test.toml:13:9: it is not said how a coil is written"),
        (BOARD.replace("function = 6, start", "function = 5, start"), "test.toml:13:9: it is not said how a coil"),
        (BOARD.replace(", on = 1 }", " }"), "test.toml:14:8: it is not said how a coil is read back; use function 1"),
        (BOARD.replace("function = 3, start = 1", "function = 3, start = 65533"), "test.toml:14:8: the last coil"),
        (BOARD.replace("function = 16, per_s", "function = 5, per_s"), "test.toml:15:12: function 5 does not write"),
        (BOARD.replace("max_s = 600", "max_s = 6554"), "test.toml:15:12: this time-out cannot be; give min_s above 0"),
        (BOARD.replace("min_s = 2", "min_s = 0"), "test.toml:15:12: this time-out cannot be"),
        (BOARD.replace("coils = 4", "coils = 4\nhold = 1"), "test.toml:13:1: unknown field `hold`; expected one of"),
        (
            BASE.split_once("[[block]]").unwrap().0.to_string(),
            "test.toml:2:8: the profile neither reads nor switches anything; add a [[block]]",
        ),
    ];
    for (text, wanted) in cases {
        let found = error(&text);
        assert!(found.starts_with(wanted), "\n found {found}\nwanted {wanted}");
    }
}

#[test]
fn the_binary_form_of_a_relay_board_does_not_change_either() {
    // Written by version 2. Do not change the bytes: a new form is a new version.
    let golden = "8c026a746573742d626f617264071925800000\
        1901f401\
        808080\
        890406011901001902000301018518\
        28100a02190258";
    let mut bytes = compile(BOARD, "test.toml").unwrap().bytes;
    let hex: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
    assert_eq!(hex, golden);
    // A later writer of the same version may add to it.
    bytes[0] += 1;
    bytes.push(0xF6);
    assert_eq!(Profile::decode(&bytes).unwrap().relay().unwrap().coils, 4);
}

proptest::proptest! {
    #[test]
    fn any_bytes_at_all_are_decoded_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        if let Ok(profile) = Profile::decode(&bytes) {
            exercise(&profile);
        }
    }
}
