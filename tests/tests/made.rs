//! A node made by writing a file: checked, imaged, provisioned over a console, pushed to and
//! calibrated through the running gateway. The node is the real core on a simulated board.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gateway::configs::{Configs, What};
use gateway::control::{self, Newest, Request};
use gateway::node_file::NodeFile;
use node::Identity;
use node::config::Config;
use simulator::clock::RunningClock;
use simulator::fleet::{Endpoint, Fleet};
use simulator::host::{Flash, Host, Parts};
use simulator::instrument::Instrument;
use simulator::world::Pond;
use system_tests::{Tianyu, free_port, until};
use telemetry::mac::Key;
use telemetry::{NodeName, Property, Tests};

const SOON: Duration = Duration::from_secs(60);

const SITES: &str = "[[site]]\nname = \"s\"\nadcode = 350181\n[[site.unit]]\nname = \"塘 1\"\nkind = \"pond\"\n\
    [[node]]\nname = \"pond-7\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = \"s\"\nunit = \"塘 1\"\n";

const POND: &str = r#"
[node]
name = "pond-7"
board = "qemu-mps2"
period_s = 3
batch_records = 1
hold_s = 1

[link]
kind = "ethernet"

[gateway]
host = "127.0.0.1"
port = 1883

[[probe]]
name = "do"
profile = "quick.toml"
line = "rs485-0"
address = 1
response_ms = 100
retries = 0

[[channel]]
name = "oxygen"
property = "dissolved_oxygen"
probe = "do"

[[channel]]
name = "water"
property = "water_temperature"
probe = "do"

[[actuator]]
name = "aerator"
kind = "aerator"
output = "out-0"
[actuator.aerator]
channel = "oxygen"
on_below = 4.5
off_above = 6.0
critical = 3.0
"#;

/// A directory with the node's file in it.
fn files() -> Result<Tianyu> {
    let tianyu = Tianyu::new()?;
    tianyu.file("pond-7.toml", POND)?;
    // A profile of the farm's own: a probe that needs no minute to warm up.
    tianyu.file("quick.toml", &quick()?)?;
    Ok(tianyu)
}

fn quick() -> Result<String> {
    let known = sensors::profile::compile::profiles();
    let (name, text) = known.iter().find(|(name, _)| *name == "renke-rs-ldo-n01").context("the profile")?;
    Ok(text.replace(name, "quick").replace("warm_up_ms = 60000", "warm_up_ms = 0"))
}

/// Runs a command to its end; its exit code and output.
async fn command(tianyu: &Tianyu, arguments: &[&str]) -> Result<(i32, String)> {
    let (status, lines) = tianyu.command(arguments, 3 * SOON).await?;
    Ok((status.code().context("ended by a signal")?, lines.join("\n")))
}

fn private(path: &Path) -> Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

#[tokio::test]
async fn a_node_file_is_known_by_its_content_and_checked_with_all_that_is_wrong() -> Result<()> {
    let tianyu = files()?;
    let (code, text) = command(&tianyu, &["check", "pond-7.toml"]).await?;
    ensure!(code == 0 && text.contains("runs in emulation") && text.contains("days offline"), "{code}: {text}");
    tianyu.file("pond-7.toml", &POND.replace("rs485-0", "rs485-9").replace("out-0", "out-99"))?;
    let (code, text) = command(&tianyu, &["check", "pond-7.toml"]).await?;
    ensure!(code == 3, "{code}: {text}");
    ensure!(text.contains("pond-7.toml:19:8: there is no line of qemu-mps2 \"rs485-9\": did you mean"), "{text}");
    ensure!(text.contains("pond-7.toml:37:10: there is no pin of qemu-mps2 that can switch \"out-99\""), "{text}");
    Ok(())
}

#[tokio::test]
async fn images_are_made_with_credentials_of_their_own_and_never_issued_twice_in_silence() -> Result<()> {
    let tianyu = files()?;
    let folder = tianyu.directory().to_owned();
    let image = ["node", "image", "pond-7.toml", "--out", "images", "--by", "li"];
    let (code, text) = command(&tianyu, &image).await?;
    ensure!(code == 0 && text.contains("number 1, digest") && text.contains("days offline"), "{code}: {text}");
    for name in ["pond-7.token", "pond-7.settings.cbor"] {
        ensure!(private(&folder.join("images").join(name))?, "{name} can be read by others");
    }
    let settings = || std::fs::read(folder.join("images/pond-7.settings.cbor"));
    let first = node::settings::Settings::decode(&settings()?)?;
    ensure!(first.name.as_str() == "pond-7" && first.port == 1883);

    // The same file again: the same credentials, the same number. A changed one: the next number.
    ensure!(command(&tianyu, &image).await?.1.contains("number 1, digest"));
    ensure!(node::settings::Settings::decode(&settings()?)? == first);
    tianyu.file("pond-7.toml", &POND.replace("period_s = 3", "period_s = 4"))?;
    ensure!(command(&tianyu, &image).await?.1.contains("number 2, digest"));
    let config = Config::decode(&std::fs::read(folder.join("images/pond-7.config.cbor"))?)?;
    ensure!((config.number, config.period_s) == (2, 4));

    // Without its token no second one is made behind anybody's back.
    let elsewhere = ["node", "image", "pond-7.toml", "--out", "elsewhere"];
    let (code, text) = command(&tianyu, &elsewhere).await?;
    ensure!(code == 1 && text.contains("revoke them first") && text.contains("--token-file"), "{code}: {text}");
    std::fs::write(folder.join("elsewhere/pond-7.token"), "00".repeat(20))?;
    let (code, text) = command(&tianyu, &elsewhere).await?;
    ensure!(code == 1 && text.contains("is not the one that \"pond-7\" has here"), "{code}: {text}");

    let (code, text) = command(&tianyu, &["node", "configs", "pond-7"]).await?;
    ensure!(code == 0 && text.lines().count() == 2 && text.contains("li") && text.contains("kept"), "{text}");
    Ok(())
}

#[tokio::test]
async fn flashing_prints_the_boards_own_tool_and_says_what_is_missing() -> Result<()> {
    let tianyu = files()?;
    let (code, text) = command(&tianyu, &["node", "flash", "pond-7.toml"]).await?;
    ensure!(code == 0 && text.contains("qemu-system-arm") && text.contains("nothing to flash"), "{text}");
    let on = |board: &str, line: &str| {
        POND.replace("qemu-mps2", board)
            .replace("rs485-0", line)
            .replace("out-0", if board == "pico-w" { "GP10" } else { "D4" })
    };
    tianyu.file("nucleo.toml", &on("nucleo-f767zi", "rs485-1"))?;
    let (code, text) = command(&tianyu, &["node", "flash", "nucleo.toml"]).await?;
    ensure!(code == 0 && text.contains("probe-rs download --chip STM32F767ZITx ./nucleo-f767zi"), "{text}");
    ensure!(text.contains("not tried on hardware"), "{text}");
    let (code, text) = command(&tianyu, &["node", "flash", "nucleo.toml", "--run"]).await?;
    ensure!(code == 1 && text.contains("nucleo-f767zi is not there; name its folder with --images"), "{text}");

    let wifi = on("pico-w", "rs485-1").replace("\"ethernet\"", "\"wifi\"\nssid = \"farm\"");
    tianyu.file("pico.toml", &wifi)?;
    tianyu.file("pico-w.uf2", "an image")?;
    let drive = tianyu.directory().join("RPI-RP2");
    std::fs::create_dir(&drive)?;
    let (code, text) = command(&tianyu, &["node", "flash", "pico.toml", "--to", "RPI-RP2", "--run"]).await?;
    ensure!(code == 0 && text.contains("BOOTSEL"), "{text}");
    ensure!(std::fs::read(drive.join("pico-w.uf2"))? == b"an image");
    Ok(())
}

/// A board's console (`firmware/platform/CONSOLE.md`) that loses answers now and then.
struct Console {
    settings: Option<Vec<u8>>,
    config: Option<Vec<u8>>,
    transfer: Option<(bool, usize, u32, Vec<u8>)>,
    said: usize,
    /// Each so manieth answer to a piece is lost.
    loses: usize,
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Decodes standard base64.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|it| *it == c)?).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    (text.len().is_multiple_of(4)).then_some(bytes)
}

impl Console {
    fn answer(&mut self, line: &str) -> Vec<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let one = |text: String| vec![text];
        match (&words[..], self.transfer.as_mut()) {
            (["provision", "abort"], _) => {
                self.transfer = None;
                one("OK aborted".into())
            }
            (["provision", "show"], _) => {
                let sum = |image: &Option<Vec<u8>>| image.as_ref().map_or("-".into(), |it| format!("{:08x}", crc(it)));
                let config = self.config.as_ref().map_or("-".into(), |it| {
                    format!("{} {:08x} trial", Config::decode(it).map_or(0, |it| it.number), crc(it))
                });
                vec![
                    "DATA board qemu-mps2".into(),
                    "DATA firmware 0.1.0".into(),
                    format!("DATA name {}", if self.settings.is_some() { "pond-7" } else { "-" }),
                    format!("DATA settings {}", sum(&self.settings)),
                    format!("DATA config {config}"),
                    "DATA boot 1".into(),
                    "DATA config-max 8192".into(),
                    "OK".into(),
                ]
            }
            (["provision", "restart"], _) => one("OK restart".into()),
            (["provision", what, length, sum], _) => {
                let (length, sum) = (length.parse().unwrap_or(0), u32::from_str_radix(sum, 16).unwrap_or(0));
                self.transfer = Some((*what == "settings", length, sum, Vec::new()));
                one("OK 0".into())
            }
            (["provision", "end"], Some((settings, length, sum, bytes))) => {
                let (settings, whole) = (*settings, bytes.len() == *length && crc(bytes) == *sum);
                let bytes = std::mem::take(bytes);
                self.transfer = None;
                if !whole {
                    return one("ERROR crc wrong".into());
                }
                if settings {
                    self.settings = Some(bytes);
                    return one("OK settings stored".into());
                }
                match Config::decode(&bytes) {
                    Ok(config) => {
                        self.config = Some(bytes);
                        one(format!("OK config {} stored", config.number))
                    }
                    Err(error) => one(format!("ERROR refused {error}")),
                }
            }
            ([], Some((.., bytes))) => one(format!("OK {}", bytes.len())),
            ([], None) => vec!["> ".into()],
            ([piece], Some((_, length, _, bytes))) => match base64(piece) {
                Some(more) if bytes.len() + more.len() <= *length => {
                    bytes.extend(more);
                    self.said += 1;
                    if self.said.is_multiple_of(self.loses) { Vec::new() } else { one(format!("OK {}", bytes.len())) }
                }
                _ => one("ERROR piece no base64".into()),
            },
            _ => one("ERROR unknown".into()),
        }
    }

    /// Speaks with one program after the other until nobody comes any more.
    fn serve(mut self, stream: UnixStream) -> std::io::Result<Self> {
        let mut write = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            // What is typed is echoed.
            if self.transfer.is_none() {
                write.write_all(format!("> {line}\r\n").as_bytes())?;
            }
            for answer in self.answer(line.trim()) {
                write.write_all(format!("{answer}\r\n").as_bytes())?;
            }
        }
        Ok(self)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_is_provisioned_over_its_console_and_what_it_runs_is_read_back() -> Result<()> {
    let tianyu = files()?;
    let socket = tianyu.directory().join("console.sock");
    let listener = UnixListener::bind(&socket)?;
    let board = std::thread::spawn(move || -> std::io::Result<Console> {
        let mut console = Console { settings: None, config: None, transfer: None, said: 0, loses: 4 };
        for _ in 0..2 {
            console = console.serve(listener.accept()?.0)?;
        }
        Ok(console)
    });
    let provision = ["node", "provision", "--serial", "unix:console.sock", "pond-7.toml"];
    let (code, text) = command(&tianyu, &provision).await?;
    ensure!(code == 0, "{code}: {text}");
    ensure!(text.contains("board     qemu-mps2 with firmware 0.1.0"), "{text}");
    ensure!(text.contains("runs      \"pond-7\", config 1, trial"), "{text}");
    // Again: everything is there already.
    let (code, text) = command(&tianyu, &provision).await?;
    ensure!(
        code == 0 && text.contains("settings  are there already") && text.contains("config    1 is there"),
        "{text}"
    );
    let console = board.join().map_err(|_| anyhow::anyhow!("the board"))??;
    let settings = node::settings::Settings::decode(&console.settings.context("settings")?)?;
    ensure!(settings.name.as_str() == "pond-7");
    ensure!(Config::decode(&console.config.context("a config")?)?.period_s == 3);

    // Nobody there, and the wrong thing there.
    let (code, text) = command(&tianyu, &["node", "provision", "--serial", "unix:nobody", "pond-7.toml"]).await?;
    ensure!(code == 1 && text.contains("open unix:nobody"), "{text}");
    let (code, text) = command(&tianyu, &["node", "provision", "--serial", "pond-7.toml", "pond-7.toml"]).await?;
    ensure!(code == 1 && text.contains("is no serial port"), "{text}");
    Ok(())
}

/// A gateway, and the node on a simulated board that runs config 1.
struct Made {
    tianyu: Tianyu,
    fleet: Fleet,
}

async fn made() -> Result<Made> {
    let mut tianyu = files()?;
    let mqtt = free_port()?;
    tianyu.file("sites.toml", SITES)?;
    tianyu.file("tianyu.toml", &format!("sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\"]\n"))?;
    let (code, text) = command(&tianyu, &["node", "image", "pond-7.toml"]).await?;
    ensure!(code == 0, "{text}");
    tianyu.run()?;
    tianyu.line("ready", SOON).await?;
    let read = |name: &str| std::fs::read(tianyu.directory().join(name)).with_context(|| name.to_owned());
    let settings = node::settings::Settings::decode(&read("pond-7.settings.cbor")?)?;
    let config = Config::decode(&read("pond-7.config.cbor")?)?;
    let host = host(&settings.name, settings.key.clone(), config)?;
    let token = String::from_utf8(read("pond-7.token")?)?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let clock = Arc::new(RunningClock::new(now_ms, 1.0));
    let fleet = Fleet::start(vec![(host, token)], &Endpoint { host: "127.0.0.1".into(), port: mqtt }, clock);
    let made = Made { tianyu, fleet };
    until("the node shows values", SOON, || async { made.newest().ok() }).await?;
    Ok(made)
}

fn host(name: &NodeName, key: Key, config: Config) -> Result<Host> {
    let compiled = sensors::profile::compile::compile(&quick()?, "quick.toml")?;
    let parts = Parts {
        identity: Identity { name: name.clone(), key, firmware: "0.1.0", board: "qemu-mps2" },
        config,
        world: Box::new(Pond::new(1)),
        instruments: vec![(0, Instrument::new(compiled, 1, 0.5, 1))],
        directs: Vec::new(),
        relays: Vec::new(),
        flash: Flash::new(64),
        seed: 1,
    };
    Ok(Host::new(parts, jiff::Timestamp::now().as_millisecond(), 0)?)
}

impl Made {
    fn data(&self) -> std::path::PathBuf {
        self.tianyu.directory().join("tianyu-data")
    }

    fn newest(&self) -> Result<Newest> {
        let answer = control::ask(&self.data(), &Request::Newest { node: "pond-7".into() })?;
        ensure!(answer.done, "{}", answer.text);
        Ok(serde_json::from_str(&answer.text)?)
    }

    fn runs(&self) -> u16 {
        let mut number = 0;
        self.fleet.each(|host| number = host.config().number);
        number
    }

    fn states(&self) -> Result<Vec<(u16, What)>> {
        let versions = Configs::of(&self.data()).versions(&NodeName::new("pond-7")?)?;
        Ok(versions.into_iter().map(|it| (it.number, it.state)).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_config_is_followed_until_the_node_runs_it_and_a_bad_one_changes_nothing() -> Result<()> {
    let mut made = made().await?;
    let push = ["node", "push", "pond-7.toml", "--by", "li", "--wait", "50"];
    made.tianyu.file("pond-7.toml", &POND.replace("period_s = 3", "period_s = 5"))?;
    let (code, text) = command(&made.tianyu, &push).await?;
    ensure!(code == 0 && text.contains("\"pond-7\" runs config 2"), "{code}: {text}");
    ensure!(made.runs() == 2 && made.states()?.last() == Some(&(2, What::Taken)), "{:?}", made.states()?);
    let (code, text) = command(&made.tianyu, &push).await?;
    ensure!(code == 0 && text.contains("already"), "{text}");

    // What no node takes does no harm, and the next right one goes in its place.
    let name = NodeName::new("pond-7")?;
    let (bad, ..) = Configs::of(&made.data()).keep(&name, "bad", "li", 0, |_| Ok((vec![0x91, 0xff], 1)))?;
    let request = Request::ConfigPush { node: "pond-7".into(), number: bad, channels: vec![1, 4], by: "li".into() };
    let answer = control::ask(&made.data(), &request)?;
    ensure!(answer.done && answer.text.contains("is sent"), "{}", answer.text);
    made.tianyu.file("pond-7.toml", &POND.replace("period_s = 3", "period_s = 4"))?;
    let (code, text) = command(&made.tianyu, &push).await?;
    ensure!(code == 0 && text.contains("runs config 4"), "{code}: {text}");
    let states = made.states()?;
    let of_bad = states.iter().find(|(number, _)| *number == bad).map(|(_, state)| *state);
    ensure!(matches!(of_bad, Some(What::Superseded | What::GivenUp)) && made.runs() == 4, "{states:?}");

    // Two channels that would share a series never leave.
    let answer = control::ask(
        &made.data(),
        &Request::ConfigPush { node: "pond-7".into(), number: 4, channels: vec![1, 1], by: "li".into() },
    )?;
    ensure!(!answer.done && answer.text.contains("would share a series"), "{}", answer.text);
    let none = Request::ConfigPush { node: "pond-9".into(), number: 4, channels: vec![], by: "li".into() };
    let answer = control::ask(&made.data(), &none)?;
    ensure!(!answer.done && answer.text.contains("there is no node \"pond-9\""), "{}", answer.text);

    // One that waits for its node outlives the gateway, and goes when both are back.
    for host in made.fleet.stop().await {
        drop(host);
    }
    made.tianyu.file("pond-7.toml", &POND.replace("period_s = 3", "period_s = 6"))?;
    let (code, text) = command(&made.tianyu, &["node", "push", "pond-7.toml", "--wait", "0"]).await?;
    ensure!(code == 1 && text.contains("goes on by itself"), "{code}: {text}");
    made.tianyu.kill()?;
    made.tianyu.run()?;
    made.tianyu.line("ready", SOON).await?;
    let read = |name: &str| std::fs::read(made.tianyu.directory().join(name));
    let settings = node::settings::Settings::decode(&read("pond-7.settings.cbor")?)?;
    let config = Config::decode(&Configs::of(&made.tianyu.directory().join("tianyu-data")).image(&name, 4)?)?;
    let (token, port) = (String::from_utf8(read("pond-7.token")?)?, port(&made.tianyu)?);
    let clock = Arc::new(RunningClock::new(jiff::Timestamp::now().as_millisecond(), 1.0));
    let endpoint = Endpoint { host: "127.0.0.1".into(), port };
    let fleet = Fleet::start(vec![(host(&name, settings.key.clone(), config)?, token)], &endpoint, clock);
    until("the config that waited runs", SOON, || async {
        let mut number = 0;
        fleet.each(|host| number = host.config().number);
        (number == 5).then_some(())
    })
    .await?;
    fleet.stop().await;
    Ok(())
}

fn port(tianyu: &Tianyu) -> Result<u16> {
    let text = std::fs::read_to_string(tianyu.directory().join("tianyu.toml"))?;
    let port = text.split("127.0.0.1:").nth(1).and_then(|it| it.split('"').next());
    Ok(port.context("a port")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_calibrated_through_the_gateway_and_before_and_after_are_kept() -> Result<()> {
    let made = made().await?;
    let oxygen = |newest: &Newest| {
        let (_, value, raw, _) = *newest.readings.iter().find(|it| it.0 == 0)?;
        Some((Property::DissolvedOxygen.value(value), raw.map(|raw| Property::DissolvedOxygen.value(raw))))
    };
    let shows = until("a reading of oxygen", SOON, || async {
        made.newest().ok().and_then(|it| oxygen(&it)).map(|it| it.0).filter(|it| *it > 1.0)
    })
    .await?;
    let standard = format!("{:.2}", shows * 1.25);
    let calibrate = ["node", "calibrate", "pond-7.toml"];
    let rest = ["--standard", &standard, "--yes", "--by", "wang", "--next-due", "2027-02-01", "--wait", "50"];
    let arguments = |channel| [&calibrate[..], &[channel], &rest].concat();
    let (code, text) = command(&made.tianyu, &arguments("oxygen")).await?;
    ensure!(code == 0, "{code}: {text}");
    for part in
        ["calibration has begun", "calibration is over", "before    slope 1", "runs config 2", "next due 2027-02-01"]
    {
        ensure!(text.contains(part), "{part}: {text}");
    }
    let file = NodeFile::load(&made.tianyu.directory().join("pond-7.toml"))
        .map_err(|c| anyhow::anyhow!(gateway::listing(&c)))?;
    let calibration = file.config.channels[0].calibration;
    ensure!(calibration.number == 1 && (1.15..1.35).contains(&calibration.slope), "{calibration:?}");
    ensure!(made.runs() == 2);
    let shown = until("corrected values", SOON, || async {
        let newest = made.newest().ok().filter(|it| it.config == 2)?;
        oxygen(&newest).filter(|(_, raw)| raw.is_some())
    })
    .await?;
    ensure!((shown.0 - shown.1.unwrap_or(0.0) * f64::from(calibration.slope)).abs() < 0.02, "{shown:?}");

    let (_, list) = command(&made.tianyu, &["node", "configs", "pond-7"]).await?;
    ensure!(list.contains("calibrated \"oxygen\": slope 1 offset 0 before") && list.contains("wang"), "{list}");
    // A node that has no such channel says so; and a computed or unknown one is told before.
    let request = Request::Calibrate { node: "pond-7".into(), channel: 9, for_s: 60, by: "wang".into() };
    let answer = control::ask(&made.data(), &request)?;
    ensure!(!answer.done && answer.text.contains("no such channel"), "{}", answer.text);
    let (code, text) = command(&made.tianyu, &arguments("oxigen")).await?;
    ensure!(code == 1 && text.contains("there is no channel \"oxigen\"; there is \"oxygen\", \"water\""), "{text}");

    // Readings of the time in between were marked: their records say so for ever.
    until("marked readings are stored", SOON, || async {
        let export = made.tianyu.export().await.ok()?;
        let tests = |it: &serde_json::Value| it["content"]["round"]["readings"][0]["tests"].as_u64().unwrap_or(0);
        let marked = export.iter().filter(|it| tests(it) & u64::from(Tests::CALIBRATING.bits()) != 0).count();
        (marked > 0).then_some(marked)
    })
    .await?;
    made.fleet.stop().await;
    Ok(())
}
