//! Tries what the board has, by commands on the console. Each answer is one line.
#![no_std]
#![no_main]

use core::fmt::Write as _;

use embassy_executor::Spawner;
use embassy_net::{Config, ConfigV6, StackResources};
use embassy_time::{Duration, Instant, Timer, with_timeout};
use embedded_hal::digital::{OutputPin as _, StatefulOutputPin as _};
use embedded_hal::i2c::I2c as _;
use embedded_io_async::{Read as _, Write as _};
use embedded_storage::nor_flash::{NorFlash as _, ReadNorFlash as _};
use heapless::String;
use qemu_mps2::buses::Buses;
use qemu_mps2::ethernet::Ethernet;
use qemu_mps2::flash::Flash;
use qemu_mps2::i2c::Bus;
use qemu_mps2::tunnel::Tunnel;
use qemu_mps2::uart::Uart;
use qemu_mps2::watchdog::Watchdog;
use qemu_mps2::{clock, reset, stack};
use sensors::ezo::Water;
use sensors::part::{Driver, Part, Source, Step};
use sensors::profile::{Profile, Slot, SlotStep};
use static_cell::StaticCell;

/// The profile of the probe that `modbus` reads.
const PROFILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xy-md02.bin"));
/// Time of the watchdog, ms.
const WATCHDOG_MS: u32 = 500;

type Line = String<240>;

macro_rules! say {
    ($console:expr, $($word:tt)*) => {{
        let mut line = Line::new();
        // A line that is too long is cut.
        let _cut = writeln!(line, $($word)*);
        let Ok(()) = $console.write_all(line.as_bytes()).await;
    }};
}

struct Rig {
    console: Uart,
    line: Uart,
    noisy: Uart,
    tunnel: &'static Tunnel,
    i2c: Bus,
    flash: Flash,
}

#[embassy_executor::task]
async fn net(mut runner: embassy_net::Runner<'static, Ethernet>) -> ! {
    runner.run().await
}

#[embassy_executor::main(entry = "cortex_m_rt::entry", executor = "qemu_mps2::executor::Executor")]
async fn main(spawner: Spawner) {
    static TUNNEL: StaticCell<Tunnel> = StaticCell::new();
    static RESOURCES: StaticCell<StackResources<4>> = StaticCell::new();

    let board = qemu_mps2::start();
    let open = |number, baud| Uart::open(number, baud).unwrap_or_else(|| panic!("UART {number} is open"));
    let mut rig = Rig {
        console: open(0, 115_200),
        line: open(1, 9_600),
        noisy: open(2, 115_200),
        tunnel: TUNNEL.init(Tunnel::new(open(3, 1_000_000))),
        i2c: Bus::shield1(),
        flash: board.flash,
    };
    let boot = board.boot;
    say!(rig.console, "boot {:?}, {} resets, kept {}", boot.cause, boot.resets, boot.kept);
    if let Some(fault) = boot.fault {
        say!(rig.console, "fault pc {:08x} at {:08x} trace {:08x?}", fault.pc, fault.address, fault.trace);
    }
    say!(rig.console, "seed {:02x?}", board.seed);
    let ethernet = Ethernet::start().unwrap_or_else(|| panic!("there is no LAN9118"));
    let mut config = Config::dhcpv4(embassy_net::DhcpConfig::default());
    config.ipv6 = ConfigV6::Slaac;
    let [s0, s1, s2, s3, s4, s5, s6, s7, ..] = board.seed;
    let seed = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let (network, runner) = embassy_net::new(ethernet, config, RESOURCES.init(StackResources::new()), seed);
    spawner.spawn(net(runner).unwrap_or_else(|_| panic!("one network")));
    say!(rig.console, "ready at {} us", clock::now_us());
    let mut command = Line::new();
    loop {
        let mut byte = [0];
        let Ok(_one) = rig.console.read(&mut byte).await;
        match byte[0] {
            b'\n' => {
                run(&mut rig, network, &command).await;
                command.clear();
            }
            byte => {
                // A command that is too long is cut, and then unknown.
                let _cut = command.push(char::from(byte));
            }
        }
    }
}

async fn run(rig: &mut Rig, network: embassy_net::Stack<'static>, command: &str) {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    let number = words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
    match name {
        "time" => say!(rig.console, "time {} slept {}", clock::now_us(), clock::slept_us()),
        "wait" => {
            Timer::after_millis(number.into()).await;
            say!(rig.console, "waited until {}", clock::now_us());
        }
        "stack" => say!(rig.console, "stack {} of {}", stack::used_max(), stack::size()),
        "temperature" => {
            let mut raw = [0; 2];
            let read = rig.i2c.write_read(0x48, &[0], &mut raw);
            // 1/256 °C (TMP105 datasheet §7.5.2).
            say!(rig.console, "temperature {:?}", read.map(|()| i32::from(i16::from_be_bytes(raw)) * 1000 / 256));
        }
        "absent" => say!(rig.console, "absent {:?}", rig.i2c.write(0x49, &[0])),
        "modbus" => modbus(rig).await,
        "tunnel" => tunnel(rig).await,
        "parts" => parts(rig).await,
        "pulses" => {
            let begun = clock::now_us();
            let pulses = rig.tunnel.pulses(0);
            say!(rig.console, "pulses {pulses:?} in {} us", clock::now_us() - begun);
        }
        "fill" => fill(rig, number).await,
        "read" => {
            let mut bytes = [0; 8];
            let read = rig.flash.read(number, &mut bytes);
            say!(rig.console, "read {:?} {:02x?}", read, bytes);
        }
        "erase" => {
            let begun = clock::now_us();
            let erased = rig.flash.erase(number, number + 4096);
            say!(rig.console, "erase {:?} in {} us", erased, clock::now_us() - begun);
        }
        "erases" => loop {
            // Until somebody kills the board.
            let erased = rig.flash.erase(number, number + 4096);
            let written = rig.flash.write(number, &[0x5a; 4096]);
            if erased.is_err() || written.is_err() {
                break say!(rig.console, "erases {erased:?} {written:?}");
            }
        },
        "listen" => listen(rig, number).await,
        "address" => address(rig, network).await,
        "link" => {
            // 1: until the cable is in; 0: until it is out.
            match number {
                0 => network.wait_link_down().await,
                _ => network.wait_link_up().await,
            }
            say!(rig.console, "link {}", if network.is_link_up() { "up" } else { "down" });
        }
        "keep" => reset::keep(number),
        "restart" => reset::restart(),
        "hang" => {
            Watchdog::start(WATCHDOG_MS);
            loop {
                core::hint::black_box(());
            }
        }
        "fed" => {
            let mut watchdog = Watchdog::start(WATCHDOG_MS);
            let until = Instant::now() + Duration::from_millis(u64::from(4 * WATCHDOG_MS));
            while Instant::now() < until {
                watchdog.feed();
                Timer::after_millis(u64::from(WATCHDOG_MS) / 2).await;
            }
            say!(rig.console, "fed");
            watchdog.feed();
        }
        "panic" => panic!("as asked"),
        "touch" => {
            // SAFETY: none; it is to fault.
            let word = unsafe { core::ptr::read_volatile((0xa000_0000 + 4 * number as usize) as *const u32) };
            say!(rig.console, "touched {word}");
        }
        "overflow" => say!(rig.console, "overflow {}", deeper(1)),
        _ => say!(rig.console, "unknown {command:?}"),
    }
}

/// Without end, as far as anybody can tell.
#[inline(never)]
#[expect(unconditional_recursion, reason = "it is to overflow")]
fn deeper(depth: u32) -> u32 {
    let room = core::hint::black_box([depth; 32]);
    deeper(depth + 1) + room[depth as usize % 32]
}

async fn modbus(rig: &mut Rig) {
    let Ok(profile) = Profile::decode(PROFILE) else { return say!(rig.console, "modbus has no profile") };
    let settings = profile.settings();
    rig.line.set_baud(settings.line.baud());
    let mut slot = Slot::new(&profile, 1, settings, clock::now_us());
    let mut bytes = [0; 64];
    loop {
        match slot.poll(&profile, clock::now_us()) {
            SlotStep::Wait { until_us } => {
                let left = until_us.saturating_sub(clock::now_us());
                if let Ok(read) = with_timeout(Duration::from_micros(left), rig.line.read(&mut bytes)).await {
                    let Ok(count) = read;
                    slot.on_rx(&bytes[..count], clock::now_us());
                }
            }
            SlotStep::Send => {
                let Ok(()) = rig.line.write_all(slot.tx_bytes()).await;
            }
            SlotStep::Done => break,
        }
    }
    let mut line = Line::new();
    for sample in slot.samples() {
        // A line that is too long is cut.
        let _cut = match sample {
            Ok(sample) => write!(line, " {}", sample.value),
            Err(reason) => write!(line, " {reason:?}"),
        };
    }
    say!(rig.console, "modbus{line}");
}

async fn tunnel(rig: &mut Rig) {
    let tunnel = rig.tunnel;
    let begun = clock::now_us();
    let mut raw = [0; 6];
    let written = tunnel.i2c(0).write_read(0x44, &[0xfd], &mut raw);
    say!(rig.console, "i2c {written:?} {raw:02x?} absent {:?}", tunnel.i2c(0).write(0x45, &[1]));
    let mut pin = tunnel.pin(3);
    let levels = [pin.set_high().and_then(|()| pin.is_set_high()), pin.set_low().and_then(|()| pin.is_set_high())];
    let mut stuck = tunnel.pin(4);
    let refused = stuck.set_high().and_then(|()| stuck.is_set_high());
    say!(rig.console, "pins {levels:?} stuck {refused:?} none {:?}", tunnel.pin(9).is_set_high());
    say!(rig.console, "contacts {:?} {:?}", tunnel.contact(0), tunnel.contact(1));
    let mut samples = [0; 4];
    let started = tunnel.start_adc(0);
    let read = tunnel.adc(0, 2, &mut samples);
    say!(rig.console, "adc {started:?} {read:?} {samples:?}");
    let mut wire = tunnel.one_wire(0);
    let (present, wrote, byte) = (wire.reset(), wire.write_byte(0x33), wire.read_byte());
    say!(rig.console, "wire {present:?} {wrote:?} {byte:02x?} {:?}", wire.read_bit());
    say!(rig.console, "tunnel took {} us", clock::now_us() - begun);
}

/// One turn each of parts by the engine that a node runs them with.
async fn parts(rig: &mut Rig) {
    const SOURCES: [(Part, u8, u8); 7] = [
        (Part::Tmp105, 0, 0x48),
        (Part::Sht4x, 1, 0x44),
        (Part::Bme280, 1, 0x76),
        (Part::Ds18b20, 0, 0),
        (Part::Contact, 0, 0),
        (Part::Pulse, 0, 0),
        (Part::AdcRms, 0, 0),
    ];
    let mut buses = Buses::new(Bus::shield1(), rig.tunnel);
    for (part, bus, address) in SOURCES {
        let mut driver = Driver::new(Source { part, bus, address, rom: 0 }, u8::MAX);
        let begun = clock::now_us();
        let mut step = driver.start(&mut buses, begun, &Water::default());
        while let Step::Wait { until_us } = step {
            Timer::at(Instant::from_micros(until_us)).await;
            step = driver.poll(&mut buses, clock::now_us());
        }
        let mut line = Line::new();
        for (quantity, _) in (0..).zip(part.quantities()) {
            // A line that is too long is cut.
            let _cut = match driver.value(quantity) {
                Ok(value) => write!(line, " {value}"),
                Err(reason) => write!(line, " {reason:?}"),
            };
        }
        say!(rig.console, "{}{line} in {} us", part.name(), clock::now_us() - begun);
    }
}

async fn fill(rig: &mut Rig, at: u32) {
    let begun = clock::now_us();
    let written = rig.flash.write(at, &[0xa5; 256]);
    let took = clock::now_us() - begun;
    // Bits that are clear stay clear.
    let again = rig.flash.write(at, &[0xf0; 4]);
    say!(rig.console, "fill {written:?} {again:?} in {took} us");
}

/// Takes this many bytes off the noisy line, and erases now and then while they come.
async fn listen(rig: &mut Rig, count: u32) {
    // Whoever is on the line begins when it hears something.
    let Ok(()) = rig.noisy.write_all(&[0]).await;
    let (mut got, mut wrong, mut bytes) = (0_u32, 0_u32, [0; 256]);
    while got < count {
        let Ok(came) = rig.noisy.read(&mut bytes).await;
        for byte in &bytes[..came] {
            wrong += u32::from(*byte != got as u8);
            got += 1;
        }
        if rig.flash.erase(0, 4096).is_err() {
            break;
        }
    }
    say!(rig.console, "listened {got} wrong {wrong} lost {}", rig.noisy.lost());
}

async fn address(rig: &mut Rig, network: embassy_net::Stack<'static>) {
    network.wait_config_up().await;
    let four = network.config_v4().map(|it| it.address);
    // The other kind may come a little later.
    while network.config_v6().is_none() && four.is_none() {
        Timer::after_millis(10).await;
    }
    let mut line = Line::new();
    // Both fit a line.
    let _fits = match (four, network.config_v6().map(|it| it.address)) {
        (Some(four), Some(six)) => write!(line, "{four} {six}"),
        (Some(four), None) => write!(line, "{four} none"),
        (None, Some(six)) => write!(line, "none {six}"),
        (None, None) => write!(line, "none none"),
    };
    say!(rig.console, "address {line} at {} us", clock::now_us());
}
