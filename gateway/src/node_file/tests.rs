use super::*;

const POND: &str = include_str!("../../examples/nodes/pond.toml");
const EXAMPLES: [(&str, &str); 5] = [
    ("pond", POND),
    ("cage", include_str!("../../examples/nodes/cage.toml")),
    ("greenhouse", include_str!("../../examples/nodes/greenhouse.toml")),
    ("emulated", include_str!("../../examples/nodes/emulated.toml")),
    ("minimal", include_str!("../../examples/nodes/minimal.toml")),
];

fn load(text: &str) -> Result<NodeFile, Vec<Complaint>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("wifi.passphrase"), "fish and rice\n").unwrap();
    let file = folder.path().join("node.toml");
    std::fs::write(&file, text).unwrap();
    NodeFile::load(&file)
}

fn told(text: &str) -> Vec<String> {
    let complaints = load(text).expect_err("a mistake");
    complaints.iter().map(|it| format!("{}:{}: {}", it.line, it.column, it.what)).collect()
}

#[test]
fn every_example_is_right_and_its_images_say_what_it_says() {
    for (name, text) in EXAMPLES {
        let file = load(text).unwrap_or_else(|complaints| panic!("{name}: {complaints:#?}"));
        assert!(NodeFile::is(text));
        let mut image = [0; node::config::IMAGE_BYTES_MAX];
        let length = file.config.encode(&mut image).unwrap();
        assert_eq!(Config::decode(&image[..length]).unwrap(), file.config, "{name}");
        let settings = file.settings([1; TOKEN_BYTES], Key::new([2; 32]));
        let length = settings.encode(&mut image).unwrap();
        assert_eq!(Settings::decode(&image[..length]).unwrap(), settings, "{name}");
        assert_eq!(settings.name, file.name);
        assert!(room::ring(&file.board, &file.config).is_some_and(|room| room.days > 0.25), "{name}");
    }
}

#[test]
fn the_registry_entry_of_an_example_fits_the_example_of_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let sites = include_str!("../../examples/sites.toml");
    let sites = &sites[..sites.find("[[node]]").unwrap()];
    let entry = load(POND).unwrap().registry_entry("2026-03-01T08:00:00+08:00");
    let path = folder.path().join("sites.toml");
    std::fs::write(&path, format!("{sites}\n{entry}")).unwrap();
    let registry = crate::registry::Registry::load(&[path]).unwrap();
    let at = "2026-04-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(registry.place("pond-7", Some(1), at).unwrap().point, "1.5 m");
    insta::assert_snapshot!(entry);
}

/// A change to the pond's file, and everything that is then said.
const MISTAKES: &[(&str, &str)] = &[
    ("name = \"pond-7\" ", "name = \"Pond 7\" "),
    ("board = \"nucleo-f767zi\"", "board = \"nucleo-f767\""),
    ("period_s = 60 ", "period_s = 1 "),
    ("period_s = 60 ", "period_s = 300 "),
    ("period_s = 60 ", "periods = 60 "),
    ("salinity_psu = 0.0", "salinity_psu = 55.0"),
    ("utc_offset = \"+08:00\"", "utc_offset = \"Asia/Shanghai\""),
    ("kind = \"ethernet\"  ", "kind = \"wifi\"  "),
    ("kind = \"ethernet\"  ", "kind = \"ethernet\"\nssid = \"farm\"  "),
    ("router = \"192.168.8.1\" }", "router = \"fe80::1\" }"),
    ("address = \"192.168.8.7/24\"", "address = \"192.168.8.7\""),
    ("port = 8883", "port = 0"),
    ("pin = \"4a5b", "pin = \"xx5b"),
    ("profile = \"wb-mr6c\"", "profile = \"wb-mr6\""),
    ("profile = \"wb-mr6c\"", "profile = \"xy-md02\""),
    ("address = 2\n", "address = 1\n"),
    ("address = 10\n", "address = 250\n"),
    ("line = \"rs485-2\"", "line = \"rs485-3\""),
    ("line = \"rs485-2\"\n", ""),
    ("baud = 9600 ", "baud = 300 "),
    ("time_out_s = 60\n", ""),
    ("time_out_s = 60\n", "time_out_s = 6000\n"),
    ("time_out_s = 60\n", "time_out_s = 1\n"),
    ("probe = \"do-lower\"\n", "probe = \"do-lowr\"\n"),
    ("property = \"dissolved_oxygen\"\nprobe = \"do-lower\"", "property = \"ph\"\nprobe = \"do-lower\""),
    ("property = \"dissolved_oxygen\"\nprobe = \"do-lower\"", "property = \"oxygen\"\nprobe = \"do-lower\""),
    ("point = \"1.5 m\"", "point = \"0.5 m\""),
    ("slope = 1.0, offset", "slope = 20.0, offset"),
    ("inputs = [\"oxygen 0.5 m\", \"water\"]", "inputs = [\"oxygen 0.5 m\", \"mains\"]"),
    ("inputs = [\"oxygen 0.5 m\", \"water\"]", "inputs = [\"oxygen 0.5 m\"]"),
    ("adc = \"A0\"", "adc = \"D5\""),
    ("adc = \"A0\"", "adc = \"A9\""),
    ("adc = \"A0\"", "contact = \"D3\""),
    ("adc = \"A0\"", "part = \"ads1115\""),
    ("adc = \"A0\"", "part = \"ads1115\"\nquantity = \"loop-0\"\naddress = 0x40"),
    ("adc = \"A0\"", ""),
    ("output = \"D4\"", "output = \"D14\""),
    ("output = \"D4\"", "relay = \"relays\"\ncoil = 1"),
    ("output = \"D4\"", "relay = \"relays\"\ncoil = 6"),
    ("output = \"D4\"", ""),
    ("kind = \"siren\" ", "kind = \"aerator\" "),
    ("channel = \"oxygen 0.5 m\"\non_below", "channel = \"oxygen\"\non_below"),
    ("channel = \"oxygen 0.5 m\"\non_below", "channel = \"water\"\non_below"),
    ("on_below = 4.5", "on_below = 6.5"),
    ("manual = { on = \"hand on\" }", "manual = { on = \"mains\" }"),
    ("within_s = 60, backup", "within_s = 10, backup"),
    ("blind_after_s = 300 ", "restart_on = false "),
    ("[place]\nlatitude = 25.72\nlongitude = 119.38\nutc_offset = \"+08:00\"\n", ""),
    ("name = \"aerator 2\"", "name = \"aerator 1\""),
];

#[test]
fn each_mistake_is_named_with_its_place_and_its_remedy() {
    let mut all = String::new();
    for (from, to) in MISTAKES {
        assert_eq!(POND.matches(from).count(), 1, "{from}");
        all.push_str(&format!("{from:?} → {to:?}\n"));
        for line in told(&POND.replacen(from, to, 1)) {
            all.push_str(&format!("    {line}\n"));
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn all_mistakes_are_said_at_once() {
    let mut text = POND.to_owned();
    for (from, to) in [
        ("profile = \"wb-mr6c\"", "profile = \"wb-mr6\""),
        ("address = 2\n", "address = 1\n"),
        ("adc = \"A1\"", "adc = \"A0\""),
        ("on_below = 4.5", "on_below = 6.5"),
        ("point = \"0.5 m\" ", "compensate_with = \"water\" "),
        ("slope = 1.0, offset", "slope = 20.0, offset"),
        ("output = \"D4\"", "output = \"D99\""),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let told = told(&text);
    assert_eq!(told.len(), 7, "{told:#?}");
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_board_without_room_for_tls_and_a_ring_that_is_full_within_a_day_are_said() {
    let boards = board::all().unwrap();
    let mut small = boards.into_iter().find(|it| it.name == "nucleo-f767zi").unwrap();
    small.tls = false;
    small.flash.map.insert(board::Area::Ring, [0x160000, 0x60000]);
    insta::assert_snapshot!(complaints_of(&small, &[]));
    small.flash.map.insert(board::Area::Ring, [0x104000, 0xc000]);
    let fast = [("pin = \"4a5b", "# \""), ("period_s = 60 ", "period_s = 8 ")];
    insta::assert_snapshot!(complaints_of(&small, &fast));
}

fn complaints_of(board: &Board, changes: &[(&str, &str)]) -> String {
    let text = changes.iter().fold(POND.to_owned(), |text, (from, to)| text.replacen(from, to, 1));
    let complaints = NodeFile::parse_for(Path::new("pond.toml"), text, std::slice::from_ref(board)).unwrap_err();
    complaints.iter().map(|it| it.to_string()).collect::<Vec<_>>().join("\n")
}
