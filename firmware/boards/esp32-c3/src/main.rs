//! The node on an ESP32-C3: wiring only. It builds; it was not tried on hardware.
//!
//! Wi-Fi, one RS-485 line on UART1, and the console on UART0, which a board's USB bridge is at. Pins and flash
//! map come from board.toml.
//!
//! The node half, the line, the inputs and the console run in the main thread; the network has a thread of lower
//! priority, so a TLS handshake delays no control. (Interrupts will not do: they run on the stack of whom they
//! interrupt, and those of the Wi-Fi driver's threads are small.) Nothing at all runs while a sector of the
//! flash is erased: 50 ms, at most 400; of several pulses in that time one is counted.
#![no_std]
#![no_main]

mod fault;
mod flash;
mod radio;
mod serial;

use embassy_executor::{SpawnError, SpawnToken, Spawner};
use embassy_net::{Runner, StackResources};
use embassy_time::{Delay, Duration};
use esp_hal::analog::adc::{Adc, AdcConfig, AdcPin, Attenuation};
use esp_hal::gpio::{DriveMode, Flex, Input, InputConfig, InputPin, Level, Output, OutputConfig, OutputPin, Pull};
use esp_hal::i2c::master::{Config as I2cConfig, I2c, SoftwareTimeout};
use esp_hal::peripherals::{ADC1, GPIO0, WIFI};
use esp_hal::rng::{Trng, TrngSource};
use esp_hal::rtc_cntl::{Rtc, RwdtStage, SocResetReason};
use esp_hal::timer::timg::TimerGroup;
use esp_hal::uart::Uart;
use esp_hal::{Blocking, system};
use esp_radio::wifi::{Interface, WifiController};
use esp_rtos::embassy::Executor;
use esp_storage::FlashStorage;
use inputs::{Inputs, Outputs, PlainBuses};
use node::{Node, RestartCause, settings::Settings};
use platform::flash::{Region, Shared};
use platform::network::{self, Network};
use platform::parts::Engine;
use platform::{Exchange, Facts, NodeHalf, Room, Start, Started, Watchdog, run_line};
use radio::Radio;
use sensors::modbus::{LineSettings, Parity};
use sensors::onewire::BitBang;
use serial::Serial;
use static_cell::{ConstStaticCell, StaticCell};

include!(concat!(env!("OUT_DIR"), "/board.rs"));

esp_bootloader_esp_idf::esp_app_desc!();

/// Stack of the network's thread.
const NETWORK_STACK_BYTES: usize = 32 * 1024;
/// The Wi-Fi driver's heap, in which that stack lies too.
const HEAP_BYTES: usize = 72 * 1024 + NETWORK_STACK_BYTES + 1024;
/// Above the network's, below those of the Wi-Fi driver's threads, which are short.
const NODE_PRIORITY: usize = 2;
/// 115,200 8N1 (CONSOLE.md).
const CONSOLE_LINE: LineSettings = match LineSettings::new(115_200, Parity::None, 1) {
    Some(line) => line,
    None => LineSettings::DEFAULT,
};

type Wire = BitBang<Flex<'static>, Delay>;
type Parts = Engine<PlainBuses<I2c<'static, Blocking>, Wire, 1, 1, 1>>;
type Half = NodeHalf<flash::Flash, Outputs<Flex<'static>, 2>, Parts, Dog>;

static ROOM: Room = Room::new();
static EXCHANGE: Exchange = Exchange::new(&ROOM);
/// Up to 2.5 V (ESP32-C3 datasheet §4.2.2.1, 11 dB).
static INPUTS: Inputs<1, 1, 1> = Inputs::new(4_095, 2.5);

/// The watchdog of the RTC; it runs on an oscillator of its own.
struct Dog(Rtc<'static>);

impl Watchdog for Dog {
    fn start(&mut self, after: Duration) {
        self.0.rwdt.set_timeout(RwdtStage::Stage0, esp_hal::time::Duration::from_micros(after.as_micros()));
        self.0.rwdt.enable();
    }

    fn feed(&mut self) {
        self.0.rwdt.feed();
    }
}

/// Why the processor started (ESP32-C3 technical reference manual, table 6.1-1).
fn cause() -> RestartCause {
    match system::reset_reason() {
        Some(SocResetReason::ChipPowerOn) => RestartCause::Power,
        Some(SocResetReason::SysBrownOut | SocResetReason::CorePwrGlitch) => RestartCause::BrownOut,
        Some(SocResetReason::CoreSw | SocResetReason::Cpu0Sw) => RestartCause::Software,
        Some(
            SocResetReason::CoreMwdt0
            | SocResetReason::CoreMwdt1
            | SocResetReason::CoreRtcWdt
            | SocResetReason::Cpu0Mwdt0
            | SocResetReason::Cpu0Mwdt1
            | SocResetReason::Cpu0RtcWdt
            | SocResetReason::SysRtcWdt
            | SocResetReason::SysSuperWdt,
        ) => RestartCause::Watchdog,
        _ => RestartCause::Unknown,
    }
}

/// A pin that switches, low at first, and can be read back.
fn output(pin: impl InputPin + OutputPin + 'static) -> Flex<'static> {
    let mut pin = Flex::new(pin);
    pin.set_low();
    pin.set_input_enable(true);
    pin.set_output_enable(true);
    pin
}

fn contact(pin: impl InputPin + 'static) -> Input<'static> {
    Input::new(pin, InputConfig::default().with_pull(Pull::Up))
}

/// A pin that pulls down only, and is read.
fn open_drain<'d>(pin: impl InputPin + OutputPin + 'd) -> Flex<'d> {
    let mut pin = Flex::new(pin);
    pin.apply_output_config(&OutputConfig::default().with_drive_mode(DriveMode::OpenDrain));
    pin.set_high();
    pin.set_input_enable(true);
    pin.set_output_enable(true);
    pin
}

fn one_wire(pin: impl InputPin + OutputPin + 'static) -> Wire {
    BitBang::new(open_drain(pin), Delay)
}

/// A task's token: each is spawned as often as its pool has room for.
fn once<S>(token: Result<SpawnToken<S>, SpawnError>) -> SpawnToken<S> {
    token.unwrap_or_else(|_| fault::reset())
}

#[embassy_executor::task]
async fn node_half(half: &'static mut Half) -> ! {
    half.run().await
}

#[embassy_executor::task]
async fn serve_line(port: Serial, drive: Output<'static>) -> ! {
    run_line(&EXCHANGE, 0, port, drive).await
}

#[embassy_executor::task]
async fn watch_contacts(pins: [Input<'static>; 1]) -> ! {
    INPUTS.watch(pins).await
}

#[embassy_executor::task]
async fn count_pulses(n: usize, pin: Input<'static>) -> ! {
    INPUTS.count(n, pin).await
}

#[embassy_executor::task]
async fn sample_adc(
    mut adc: Adc<'static, ADC1<'static>, Blocking>,
    mut pin: AdcPin<GPIO0<'static>, ADC1<'static>>,
) -> ! {
    /// Looks at a conversion, which takes less than 10 µs of them.
    const LOOKS_MAX: u32 = 10_000;
    let read = |_| (0..LOOKS_MAX).find_map(|_| adc.read_oneshot(&mut pin).ok());
    INPUTS.sample(read).await
}

#[embassy_executor::task]
async fn serve_console(port: Serial) -> ! {
    platform::console::run(&EXCHANGE, port).await
}

#[embassy_executor::task]
async fn network_stack(mut runner: Runner<'static, Interface>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network_half(network: &'static mut Network<Radio>) -> ! {
    network.run().await
}

#[esp_rtos::main]
async fn main(spawner: Spawner) {
    fault::paint_stack();
    wire(spawner);
}

/// Not within `main`: what lies on its stack is gone when the tasks run.
#[inline(never)]
fn wire(spawner: Spawner) {
    let mut p = esp_hal::init(esp_hal::Config::default());
    // First of all, so that nothing is switched by a pin that floats.
    let pins = Outputs(outputs!(p, output));
    esp_rtos::start(TimerGroup::new(p.TIMG0).timer0, p.FROM_CPU_INTR0);

    let mut entropy = [0; 48];
    {
        // The ADC's noise feeds the random numbers, until it is needed itself.
        let _source = TrngSource::new(p.RNG.reborrow(), p.ADC1.reborrow());
        // It is refused without a source only.
        let Ok(trng) = Trng::try_new() else { fault::reset() };
        trng.read(&mut entropy);
    }

    // Rates and times that the peripherals can have: they are refused for what cannot be only.
    let (peripheral, mut scl, mut sda) = i2c!(0, p);
    inputs::i2c::free(open_drain(scl.reborrow()), open_drain(sda.reborrow()), Delay);
    let within = SoftwareTimeout::Transaction(esp_hal::time::Duration::from_millis(50));
    let Ok(i2c) = I2c::new(peripheral, I2cConfig::default().with_software_timeout(within)) else { fault::reset() };
    let i2c = i2c.with_scl(scl).with_sda(sda);
    let [wire] = onewire!(p, one_wire);
    let (peripheral, tx, rx, drive) = rs485!(0, p);
    let line = LineSettings::DEFAULT;
    let Ok(uart) = Uart::new(peripheral, serial::config(&line)) else { fault::reset() };
    let port = Serial::new(uart.with_tx(tx).with_rx(rx).into_async(), line);
    let Ok(uart) = Uart::new(p.UART0, serial::config(&CONSOLE_LINE)) else { fault::reset() };
    let console = Serial::new(uart.with_tx(p.GPIO21).with_rx(p.GPIO20).into_async(), CONSOLE_LINE);

    static FLASH: StaticCell<Shared<flash::Flash>> = StaticCell::new();
    static NODE: StaticCell<Node<Region<flash::Flash>>> = StaticCell::new();
    static HALF: StaticCell<Half> = StaticCell::new();
    let kept = fault::kept();
    let Started { half, settings, network, stack_seed, network_seed } = platform::start(Start {
        exchange: &EXCHANGE,
        flash: FLASH.init(Shared::new(flash::Flash::new(FlashStorage::new(p.FLASH)), kept)),
        map: MAP,
        node: NODE.uninit(),
        pins,
        parts: Engine::new(PlainBuses { i2c, wire, inputs: &INPUTS }),
        watchdog: Dog(Rtc::new(p.RTC_TIMER)),
        kept,
        cause: cause(),
        facts: Facts {
            board: NAME,
            firmware: env!("CARGO_PKG_VERSION"),
            stack: fault::stack_depth,
            reset: fault::reset,
        },
        entropy,
    });

    spawner.spawn(once(serve_line(port, Output::new(drive, Level::Low, OutputConfig::default()))));
    spawner.spawn(once(watch_contacts(contacts!(p, contact))));
    for (n, pin) in pulses!(p, contact).into_iter().enumerate() {
        spawner.spawn(once(count_pulses(n, pin)));
    }
    let mut config = AdcConfig::new();
    let [pin] = adcs!(p, |pin| config.enable_pin(pin, Attenuation::_11dB));
    spawner.spawn(once(sample_adc(Adc::new(p.ADC1, config), pin)));
    spawner.spawn(once(node_half(HALF.init(half))));
    spawner.spawn(once(serve_console(console)));

    let Some(settings) = settings.filter(|_| network) else { return };
    static BEGIN: StaticCell<NetworkThread> = StaticCell::new();
    esp_alloc::heap_allocator!(size: HEAP_BYTES);
    esp_rtos::CurrentThreadHandle::get().set_priority(NODE_PRIORITY);
    let begin: *mut _ = BEGIN.init(NetworkThread { settings, wifi: p.WIFI, stack_seed, network_seed });
    // SAFETY: it lies in a static that nobody else has, and all of it may be sent.
    unsafe {
        esp_radio_rtos_driver::task_create("network", network_thread, begin.cast(), 0, None, NETWORK_STACK_BYTES);
    }
}

/// What the network's thread begins with.
struct NetworkThread {
    settings: Settings,
    wifi: WIFI<'static>,
    stack_seed: u64,
    network_seed: [u8; 32],
}

extern "C" fn network_thread(begin: *mut core::ffi::c_void) {
    static EXECUTOR: StaticCell<Executor> = StaticCell::new();
    // SAFETY: `main` gives it away, once.
    let begin: &'static mut NetworkThread = unsafe { &mut *begin.cast() };
    EXECUTOR.init(Executor::new()).run(|spawner| spawner.spawn(once(begin_network(spawner, begin))))
}

#[embassy_executor::task]
async fn begin_network(spawner: Spawner, begin: &'static mut NetworkThread) {
    static BUFFERS: ConstStaticCell<network::Buffers> = ConstStaticCell::new(network::Buffers::new());
    static NETWORK: StaticCell<Network<Radio>> = StaticCell::new();
    static RESOURCES: StaticCell<StackResources<{ network::SOCKETS }>> = StaticCell::new();
    let NetworkThread { settings, wifi, stack_seed, network_seed } = begin;
    // A radio that does not start is a network half that does not go on: supervision restarts, three times.
    let Ok(controller) = WifiController::new(wifi.reborrow(), Default::default()) else { return };
    let resources = RESOURCES.init_with(StackResources::new);
    let (stack, runner) =
        embassy_net::new(Interface::station(), network::first_config(settings), resources, *stack_seed);
    spawner.spawn(once(network_stack(runner)));
    let network = Network::new(stack, Radio(controller), &EXCHANGE, settings, BUFFERS.take(), *network_seed);
    spawner.spawn(once(network_half(NETWORK.init(network))));
}
