//! The emulated board itself, without a node on it: what the node's promises stand on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource, Operation};
use emulation::control::{Phase, Word};
use sensors::modbus::LineSettings;
use sensors::part::Part;
use sensors::profile::compile::compile;
use simulator::fittings::Fittings;
use simulator::instrument::{Answer, Instrument};
use simulator::part::{Bench, Clamp, Gauge, I2cBus, OneWireBus};
use simulator::serial_line::Slave;
use simulator::tunnel::{Moment, Peripherals};
use simulator::world::{Greenhouse, World};
use system_tests::board::{Board, Options, Scene, image};
use system_tests::qemu;
use telemetry::Property;

/// For what takes a fraction of a second on a machine that is not busy.
const SOON: Duration = Duration::from_secs(20);

/// A part at 0x44 that answers 0xfd, pins of which one sticks, two contacts, a converter that gives
/// a ramp, and a wire that repeats what it hears.
#[derive(Default)]
struct Oddments {
    pin: bool,
    bits: std::collections::VecDeque<bool>,
}

impl Peripherals for Oddments {
    fn i2c(
        &mut self,
        bus: u8,
        address: u8,
        operations: &mut [Operation<'_>],
        _at: &mut Moment<'_>,
    ) -> Option<Result<(), ErrorKind>> {
        if bus != 0 {
            return None;
        }
        Some(match (address, operations) {
            (0x44, [Operation::Write([0xfd]), Operation::Read(bytes)]) => {
                bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
                Ok(())
            }
            _ => Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)),
        })
    }

    fn set_pin(&mut self, pin: u8, high: bool, at: &mut Moment<'_>) -> Option<bool> {
        if pin == 3 {
            self.pin = high;
        }
        self.pin(pin, at)
    }

    fn pin(&mut self, pin: u8, _at: &mut Moment<'_>) -> Option<bool> {
        match pin {
            3 => Some(self.pin),
            4 => Some(false),
            _ => None,
        }
    }

    fn contact(&mut self, input: u8, _at: &mut Moment<'_>) -> Option<bool> {
        [true, false].get(usize::from(input)).copied()
    }

    fn pulses(&mut self, counter: u8, _at: &mut Moment<'_>) -> Option<u32> {
        (counter == 0).then_some(0x1234_5678)
    }

    fn start_adc(&mut self, channel: u8, _at: &mut Moment<'_>) -> Option<()> {
        (channel == 0).then_some(())
    }

    fn adc(&mut self, channel: u8, first: u8, count: u8, _at: &mut Moment<'_>) -> Option<Vec<u16>> {
        // The window has come as far as sample 5.
        (channel == 0).then(|| (first.into()..5).map(|n: u16| 1_000 + n).take(count.into()).collect())
    }

    fn one_wire_reset(&mut self, bus: u8, _at: &mut Moment<'_>) -> Option<bool> {
        (bus == 0).then_some(true)
    }

    fn one_wire_write(&mut self, bus: u8, bit: bool, _at: &mut Moment<'_>) -> Option<()> {
        (bus == 0).then(|| self.bits.push_back(bit))
    }

    fn one_wire_read(&mut self, bus: u8, _at: &mut Moment<'_>) -> Option<bool> {
        (bus == 0).then(|| self.bits.pop_front().unwrap_or(true))
    }
}

/// Nothing at all.
struct Nothing;

impl Peripherals for Nothing {}

/// Sends this once it hears something, all at once.
struct Flood(Option<Vec<u8>>);

impl Slave for Flood {
    fn hear(
        &mut self,
        _frame: &[u8],
        _line: LineSettings,
        _now_us: u64,
        _truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) -> Option<Answer> {
        Some(Answer { after_us: 0, bytes: self.0.take()? })
    }
}

fn scene() -> Scene {
    let world = Box::new(Greenhouse::new(7));
    Scene { world, lines: [Vec::new(), Vec::new()], peripherals: Box::new(Oddments::default()) }
}

/// A board with the self test that has said that it is ready; none without QEMU.
async fn ready(options: Options, scene: Scene) -> Result<Option<Board>> {
    let Some(qemu) = qemu()? else { return Ok(None) };
    let image = tokio::task::spawn_blocking(|| image("qemu-mps2", "selftest")).await??;
    let mut board = Board::new(&qemu, &image, options, scene)?;
    let begun = Instant::now();
    board.start().await?;
    board.console_line("boot Power, 0 resets, kept 0", SOON).await?;
    println!("measured: {} {:?} after QEMU's start", board.console_line("ready", SOON).await?, begun.elapsed());
    Ok(Some(board))
}

/// What the board answers to a command, in the line that begins with its first word.
async fn ask(board: &Board, command: &str) -> Result<String> {
    board.type_line(command).await?;
    board.console_line(command.split(' ').next().unwrap_or_default(), SOON).await
}

#[tokio::test]
async fn an_i2c_part_and_a_modbus_probe_read_what_is_true() -> Result<()> {
    let path = "../firmware/sensors/profiles/xy-md02.toml";
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))?;
    let mut scene = scene();
    scene.lines[0].push(Box::new(Instrument::new(compile(&text, path)?, 1, 0.0, 3).exact()));
    let Some(mut board) = ready(Options::default(), scene).await? else { return Ok(()) };
    // Halves are what it resolves after power-on (TMP105 datasheet table 8).
    for milli_celsius in [21_500, -10_500] {
        board.set_temperature(milli_celsius).await?;
        assert_eq!(ask(&board, "temperature").await?, format!("temperature Ok({milli_celsius})"));
    }
    assert_eq!(ask(&board, "absent").await?, "absent Err(NoAcknowledge(Address))");
    let answer = ask(&board, "modbus").await?;
    let values: Vec<f64> = answer.split(' ').skip(1).map(str::parse).collect::<Result<_, _>>().context(answer)?;
    let truth = [Property::AirTemperature, Property::RelativeHumidity]
        .map(|property| board.scene(|scene, _| scene.world.value(property, 0.0)).unwrap_or(f64::NAN));
    // Its registers have tenths; the truth moves on a little between.
    assert!(values.len() == 2 && values.iter().zip(truth).all(|(a, b)| (a - b).abs() < 0.11), "{values:?} {truth:?}");
    // Nobody is at the address any more: the board says so, and goes on.
    board.scene(|scene, _| scene.lines[0].clear());
    assert_eq!(ask(&board, "modbus").await?, "modbus NoAnswer NoAnswer");
    Ok(())
}

#[tokio::test]
async fn parts_behind_the_tunnel_answer_and_a_dead_peer_is_a_failed_part() -> Result<()> {
    let Some(board) = ready(Options::default(), scene()).await? else { return Ok(()) };
    board.type_line("tunnel").await?;
    for line in [
        "i2c Ok(()) [01, 02, 03, 04, 05, 06] absent Err(Refused(NoAddress))",
        "pins [Ok(true), Ok(false)] stuck Ok(false) none Err(Refused(Absent))",
        "contacts Ok(true) Ok(false)",
        "adc Ok(()) Ok(3) [1002, 1003, 1004, 0]",
        "wire Ok(true) Ok(()) Ok(33) Ok(true)",
    ] {
        assert_eq!(board.console_line("", SOON).await?, line);
    }
    println!("measured: 14 questions: {}", board.console_line("tunnel took", SOON).await?);
    ensure!(ask(&board, "pulses").await?.starts_with(&format!("pulses Ok({}) in", 0x1234_5678)));
    board.scene(|scene, _| scene.peripherals = Box::new(Nothing));
    ensure!(ask(&board, "pulses").await?.starts_with("pulses Err(Refused(Absent)) in"));

    board.scene(|scene, _| scene.peripherals = Box::new(Oddments::default()));
    board.mute_tunnel(true);
    let took_us = async |answer: &str| {
        let line = ask(&board, "pulses").await?;
        ensure!(line.starts_with(answer), "{line}");
        Ok(line.split(' ').nth_back(1).context("no time")?.parse::<u64>()?)
    };
    // The first question waits for its time, those after it for nothing; later it is tried again.
    ensure!((100_000..400_000).contains(&took_us("pulses Err(NoAnswer)").await?));
    ensure!(took_us("pulses Err(NoAnswer)").await? < 50_000);
    board.mute_tunnel(false);
    ask_for(&board, "wait 1000", "waited").await?;
    took_us("pulses Ok").await?;
    Ok(())
}

/// What does not change.
struct Still(BTreeMap<Property, f64>);

impl World for Still {
    fn step(&mut self, _utc_ms: i64, _dt_s: f64) {}

    fn value(&self, property: Property, _depth_m: f64) -> Option<f64> {
        self.0.get(&property).copied()
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}
}

#[tokio::test]
async fn the_engine_of_parts_reads_what_is_true_on_every_kind_of_bus() -> Result<()> {
    let truth = [
        (Property::AirTemperature, 25.5),
        (Property::RelativeHumidity, 63.0),
        (Property::AirPressure, 1_008.0),
        (Property::WaterTemperature, 27.25),
        (Property::Mains, 1.0),
        (Property::MotorCurrent, 3.4),
    ];
    let mut bus = I2cBus::new(1);
    bus.add(Part::Sht4x, 0x44, Property::AirTemperature, 0.0).add(Part::Bme280, 0x76, Property::AirTemperature, 0.0);
    let mut wire = OneWireBus::new();
    wire.add(7, Property::WaterTemperature, 0.5);
    let bench = Bench {
        i2c: vec![bus],
        wires: vec![wire],
        contacts: vec![Property::Mains],
        counters: vec![Gauge::new(Property::Rain, 0.2, 41)],
        clamps: vec![Clamp::new(Property::MotorCurrent, 1.0 / 30.0, 50.0)],
    };
    let world = Box::new(Still(truth.into()));
    let scene = Scene { world, peripherals: Box::new(Fittings::new(bench, 0)), ..scene() };
    let Some(mut board) = ready(Options::default(), scene).await? else { return Ok(()) };
    board.set_temperature(19_500).await?;
    board.type_line("parts").await?;
    let expected: [(&str, &[f64]); 6] = [
        ("tmp105", &[19.5]),
        ("sht4x", &[25.5, 63.0]),
        ("bme280", &[25.5, 63.0, 1_008.0]),
        ("ds18b20", &[27.25]),
        ("contact", &[1.0]),
        // 3.4 A by a clamp of 30 A and 1 V.
        ("adc-rms", &[3.4 / 30.0]),
    ];
    for (part, expected) in expected {
        let line = board.console_line(part, SOON).await?;
        println!("measured: {line}");
        let (values, _time) = line.split_once(" in ").context("no time")?;
        let values: Result<Vec<f64>, _> = values.split(' ').skip(1).map(str::parse).collect();
        let values = values.with_context(|| line.clone())?;
        let same = values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.002 * b.abs().max(1.0));
        ensure!(values.len() == expected.len() && same, "{line}, not {expected:?}");
    }
    Ok(())
}

#[tokio::test]
async fn flash_survives_a_kill_at_any_instant_and_its_phases_are_seen() -> Result<()> {
    let Some(mut board) = ready(Options::default(), scene()).await? else { return Ok(()) };
    let filled = ask(&board, "fill 8192").await?;
    ensure!(filled.starts_with("fill Ok(()) Ok(()) in"), "{filled}");
    let took_us: u64 = filled.rsplit(' ').nth(1).context("no time")?.parse()?;
    assert!(took_us >= 640, "a page of 64 words takes 0.64 ms, not {took_us} us");
    let erased = ask(&board, "erase 4096").await?;
    let took_us: u64 = erased.rsplit(' ').nth(1).context("no time")?.parse()?;
    assert!(took_us >= 45_000, "{erased}");
    println!("measured: {filled}; {erased}");
    let stats = board.flash_stats()?;
    assert_eq!((stats.programs, stats.erases, stats.phase), (2, 1, Phase::Idle));
    // 0xa5 and then 0xf0 in the same place.
    assert_eq!(board.flash().read(8192, 5)?, [0xa0, 0xa0, 0xa0, 0xa0, 0xa5]);

    board.restart().await?;
    board.console_line("boot Power, 0 resets", SOON).await?;
    board.console_line("ready", SOON).await?;
    assert_eq!(ask(&board, "read 8192").await?, "read Ok(()) [a0, a0, a0, a0, a5, a5, a5, a5]");

    // On a busy machine a kill may come late; most do not.
    let (mut kills, mut torn_erase, mut torn_program) = (0, 0, 0);
    while (torn_erase < 3 || torn_program < 3) && kills < 12 {
        let late_ms = kills % 4 * 10;
        kills += 1;
        board.type_line("erases 12288").await?;
        board.wait_for_phase(Phase::Program, SOON).await?;
        let phase = board.kill_in(Phase::Erase, Duration::from_millis(late_ms), SOON).await?;
        assert_eq!(board.flash_stats()?.address & !4095, 12_288);
        let bytes = board.flash().read(12_288, 4_096)?;
        torn_erase += u32::from(phase == Phase::Erase && bytes.iter().any(|byte| ![0x5a, 0xff].contains(byte)));
        board.start().await?;
        board.console_line("ready", SOON).await?;
        board.type_line("erases 12288").await?;
        let phase = board.kill_in(Phase::Program, Duration::from_millis(late_ms / 5), SOON).await?;
        let bytes = board.flash().read(12_288, 4_096)?;
        torn_program += u32::from(phase == Phase::Program && bytes[0] == 0x5a && bytes[4_095] == 0xff);
        board.start().await?;
        board.console_line("ready", SOON).await?;
    }
    println!("measured: of {kills} kills each {torn_erase} left a half-erased sector, {torn_program} half a program");
    assert!(torn_erase >= 3 && torn_program >= 3, "kills fell beside the operations: {torn_erase} {torn_program}");

    board.flash().set(Word::FailPrograms, 1)?;
    ensure!(ask(&board, "fill 20480").await?.starts_with("fill Err(Failed)"));
    board.flash().set(Word::FailErases, 1)?;
    ensure!(ask(&board, "erase 20480").await?.starts_with("erase Err(Failed)"));
    board.flash().set(Word::FailErases, 0)?;
    board.flash().set(Word::SlowErase, 4)?;
    let slow = ask(&board, "erase 20480").await?;
    assert!(slow.rsplit(' ').nth(1).context("no time")?.parse::<u64>()? >= 180_000, "{slow}");
    Ok(())
}

#[tokio::test]
async fn every_reset_tells_its_cause_and_a_fault_tells_where() -> Result<()> {
    let Some(mut board) = ready(Options::default(), scene()).await? else { return Ok(()) };
    board.type_line("keep 77").await?;
    assert_eq!(ask(&board, "fed").await?, "fed");
    // Fed for the last time; it bites.
    board.console_line("boot Watchdog, 1 resets, kept 77", SOON).await?;
    board.console_line("ready", SOON).await?;
    board.type_line("restart").await?;
    board.console_line("boot Software, 2 resets, kept 77", SOON).await?;
    board.console_line("ready", SOON).await?;
    board.type_line("hang").await?;
    board.console_line("boot Watchdog, 3 resets", SOON).await?;
    let fault = board.console_line("fault", SOON).await?;
    ensure!(!fault.contains("pc 00000000"), "the watchdog does not say where: {fault}");
    board.console_line("ready", SOON).await?;
    board.type_line("touch 3").await?;
    board.console_line("boot Fault, 4 resets", SOON).await?;
    let fault = board.console_line("fault", SOON).await?;
    ensure!(fault.contains("at a000000c") && !fault.contains("pc 00000000"), "{fault}");
    board.console_line("ready", SOON).await?;
    board.type_line("overflow").await?;
    board.console_line("boot StackOverflow, 5 resets, kept 77", SOON).await?;
    let fault = board.console_line("fault", SOON).await?;
    ensure!(!fault.contains("trace [00000000"), "no return addresses: {fault}");
    board.console_line("ready", SOON).await?;
    board.type_line("panic").await?;
    board.console_line("boot Panic, 6 resets", SOON).await?;
    board.console_line("fault pc 00000000 at 00000000 trace [", SOON).await?;
    board.console_line("ready", SOON).await?;
    board.restart().await?;
    board.console_line("boot Power, 0 resets, kept 0", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn no_byte_is_lost_while_the_processor_erases() -> Result<()> {
    const BYTES: usize = 20_000;
    let mut scene = scene();
    scene.lines[1].push(Box::new(Flood(Some((0..BYTES).map(|n| n as u8).collect()))));
    let Some(board) = ready(Options::default(), scene).await? else { return Ok(()) };
    board.type_line(&format!("listen {BYTES}")).await?;
    assert_eq!(board.console_line("listened", SOON).await?, format!("listened {BYTES} wrong 0 lost 0"));
    Ok(())
}

#[tokio::test]
async fn the_clock_keeps_time_past_its_wrap_and_the_processor_sleeps() -> Result<()> {
    // The counter wraps 2 s after the start.
    let start_us = (7 << 32) + u64::from(u32::MAX) - 2_000_000;
    let options = Options { start_us, ..Options::default() };
    let Some(board) = ready(options, scene()).await? else { return Ok(()) };
    let time = async |_| {
        let answer = ask(&board, "time").await?;
        let numbers: Vec<u64> = answer.split(' ').filter_map(|word| word.parse().ok()).collect();
        anyhow::Ok((Instant::now(), numbers[0], numbers[1]))
    };
    let (from, from_us, from_slept_us) = time(()).await?;
    ensure!(from_us > start_us && from_us < start_us + 2_000_000, "began at {from_us}");
    ask_for(&board, "wait 5000", "waited").await?;
    let (to, to_us, slept_us) = time(()).await?;
    ensure!(to_us > 8 << 32, "no wrap: {to_us}");
    let (own_us, host_us) = (to_us - from_us, (to - from).as_micros() as u64);
    let slept_us = slept_us - from_slept_us;
    println!("measured: {own_us} us of the board are {host_us} us of the host; asleep {slept_us} us");
    // Both ends are uncertain by what the console takes.
    ensure!(own_us >= 5_000_000 && own_us.abs_diff(host_us) < 100_000);
    ensure!(slept_us * 10 > own_us * 9, "awake for more than a tenth of the time");
    println!("measured: {}", ask(&board, "stack").await?);
    Ok(())
}

async fn ask_for(board: &Board, command: &str, answer: &str) -> Result<String> {
    board.type_line(command).await?;
    board.console_line(answer, SOON).await
}

#[tokio::test]
async fn an_address_is_had_on_either_kind_of_network_and_the_cable_is_felt() -> Result<()> {
    for (ipv4, ipv6, has) in [(false, true, "none fec0::5054:ff:fe12:3456/64"), (true, false, "10.0.2.15/24 none")] {
        let options = Options { ipv4, ipv6, ..Options::default() };
        let Some(mut board) = ready(options, scene()).await? else { return Ok(()) };
        board.type_line("address").await?;
        // Less than the 10 s after which DHCP's next try would bring a stack along that sleeps.
        let address = board.console_line("address", Duration::from_secs(8)).await?;
        ensure!(address.contains(has), "{address}");
        println!("measured: {address}");
        for (up, command) in [(false, "link 0"), (true, "link 1")] {
            board.set_link(up).await?;
            board.type_line(command).await?;
            // By the PHY's interrupt: what would wake the stack else comes seconds later.
            let felt = board.console_line("link", Duration::from_secs(3)).await?;
            assert_eq!(felt, if up { "link up" } else { "link down" });
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_start_has_chance_of_its_own() -> Result<()> {
    let Some(qemu) = qemu()? else { return Ok(()) };
    let image = tokio::task::spawn_blocking(|| image("qemu-mps2", "selftest")).await??;
    let mut board = Board::new(&qemu, &image, Options::default(), scene())?;
    board.start().await?;
    let mut seeds = vec![board.console_line("seed", SOON).await?];
    board.console_line("ready", SOON).await?;
    board.type_line("restart").await?;
    seeds.push(board.console_line("seed", SOON).await?);
    board.restart().await?;
    seeds.push(board.console_line("seed", SOON).await?);
    seeds.sort();
    seeds.dedup();
    ensure!(seeds.len() == 3 && seeds.iter().all(|seed| !seed.contains("00, 00, 00, 00")), "{seeds:?}");
    Ok(())
}
