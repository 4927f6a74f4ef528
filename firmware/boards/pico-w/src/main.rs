//! The node on a Raspberry Pi Pico W, and on a Pico 2 W, which differs in its processor only: wiring only.
//! It builds; it was not tried on hardware.
//!
//! Wi-Fi by the CYW43439, two RS-485 lines, and the console on USB. Pins and flash map come from board.toml.
//!
//! The node half runs in an interrupt, above network and console: a TLS handshake delays no control. Lines and
//! inputs run in another, above the node half. Nothing at all runs while a sector of the flash is erased: 45 ms, at most 400. Bytes of the
//! lines are kept ([`line`]); of several pulses in that time one is counted.
#![no_std]
#![no_main]

mod bus;
mod console;
mod line;
mod nvram;
mod radio;

use bus::Bus;
use console::Console;
use cyw43::{A4, Aligned, SpiBus};
use cyw43_pio::PioSpi;
use embassy_executor::{InterruptExecutor, SpawnError, SpawnToken, Spawner};
use embassy_net::{Runner, StackResources};
use embassy_rp::adc::{self, Adc, AdcPin};
use embassy_rp::flash::{self, Flash};
use embassy_rp::gpio::{Flex, Input, Level, Output, OutputOpenDrain, Pin, Pull};
use embassy_rp::interrupt::{self, InterruptExt, Priority};
use embassy_rp::pac::dma::vals::TreqSel;
use embassy_rp::peripherals::{DMA_CH0, DMA_CH1, DMA_CH2, FLASH, I2C0, PIN_23, PIN_24, PIN_25, PIN_29, PIO0, USB};
use embassy_rp::pio::{self, Pio};
use embassy_rp::uart::{self, Uart};
use embassy_rp::{Peri, bind_interrupts, dma, pac, usb, watchdog};
use embassy_time::{Delay, Duration};
use embassy_usb::UsbDevice;
use inputs::{Inputs, Outputs, PlainBuses};
use line::{Line, Ring};
use node::{Node, RestartCause, settings::Settings};
use platform::flash::{Region, Shared};
use platform::network::{self, Network};
use platform::parts::Engine;
use platform::{Exchange, Facts, NodeHalf, Room, Start, Started, Watchdog, run_line};
use radio::Radio;
use sensors::onewire::BitBang;
use static_cell::{ConstStaticCell, StaticCell};

include!(concat!(env!("OUT_DIR"), "/board.rs"));

bind_interrupts!(struct Irqs {
    DMA_IRQ_0 =>
        dma::InterruptHandler<DMA_CH0>, dma::InterruptHandler<DMA_CH1>, dma::InterruptHandler<DMA_CH2>;
    PIO0_IRQ_0 => pio::InterruptHandler<PIO0>;
    USBCTRL_IRQ => usb::InterruptHandler<USB>;
    #[cfg(feature = "rp2350")]
    TRNG_IRQ => embassy_rp::trng::InterruptHandler<embassy_rp::peripherals::TRNG>;
});

type BoardFlash = Flash<'static, FLASH, flash::Blocking, FLASH_BYTES>;
type Wire = BitBang<OutputOpenDrain<'static>, Delay>;
type Parts = Engine<PlainBuses<Bus<I2C0>, Wire, 4, 2, 3>>;
type Half = NodeHalf<BoardFlash, Outputs<Flex<'static>, 4>, Parts, Dog>;

static ROOM: Room = Room::new();
static EXCHANGE: Exchange = Exchange::new(&ROOM);
static INPUTS: Inputs<4, 2, 3> = Inputs::new(4_095, 3.3);
static NODE_HALF: InterruptExecutor = InterruptExecutor::new();
static LINES: InterruptExecutor = InterruptExecutor::new();
static RADIO_PROGRAM: Aligned<A4, [u8; cyw43_firmware::CYW43_43439A0.len()]> = Aligned(*cyw43_firmware::CYW43_43439A0);

/// Runs the node half. The interrupt is one of those that belong to no peripheral, as the next one is.
#[embassy_rp::interrupt]
unsafe fn SWI_IRQ_1() {
    // SAFETY: called from the interrupt that the executor was started with.
    unsafe { NODE_HALF.on_interrupt() }
}

/// Runs lines and inputs.
#[embassy_rp::interrupt]
unsafe fn SWI_IRQ_0() {
    // SAFETY: called from the interrupt that the executor was started with.
    unsafe { LINES.on_interrupt() }
}

/// The watchdog.
struct Dog(watchdog::Watchdog, Duration);

impl Watchdog for Dog {
    fn start(&mut self, after: Duration) {
        // The RP2040's counts to 2^24 µs by twos (RP2040 datasheet, erratum E1).
        self.1 = after.min(Duration::from_millis(8_300));
        self.0.start(self.1);
    }

    fn feed(&mut self) {
        self.0.feed(self.1);
    }
}

/// Resets the whole chip but its clocks, as the watchdog does.
#[unsafe(no_mangle)]
fn board_reset() -> ! {
    // SAFETY: nothing runs behind this.
    let peripherals = unsafe { embassy_rp::Peripherals::steal() };
    watchdog::Watchdog::new(peripherals.WATCHDOG).trigger_reset();
    loop {
        cortex_m::asm::nop();
    }
}

/// Why the processor started (RP2040 datasheet §4.7.6 and §2.10.5, RP2350 datasheet §12.9.7 and §6.4).
fn cause(dog: &watchdog::Watchdog) -> RestartCause {
    match dog.reset_reason() {
        Some(watchdog::ResetReason::TimedOut) => return RestartCause::Watchdog,
        Some(watchdog::ResetReason::Forced) => return RestartCause::Software,
        None => (),
    }
    #[cfg(feature = "rp2040")]
    let (power, brown_out) = (pac::VREG_AND_CHIP_RESET.chip_reset().read().had_por(), false);
    #[cfg(feature = "rp2350")]
    let (power, brown_out) = {
        let flags = pac::POWMAN.chip_reset().read();
        (flags.had_por(), flags.had_bor())
    };
    match (brown_out, power) {
        (true, _) => RestartCause::BrownOut,
        (_, true) => RestartCause::Power,
        // The reset pin, or a debugger.
        _ => RestartCause::Unknown,
    }
}

/// Chance of the ring oscillator, each bit of 64 samples: one alone says little.
#[cfg(feature = "rp2040")]
fn fill(entropy: &mut [u8]) {
    for _ in 0..64 {
        for byte in entropy.iter_mut() {
            *byte = byte.rotate_left(1) ^ embassy_rp::clocks::RoscRng::next_u8();
        }
    }
}

/// A pin that switches, low at first, and can be read back.
fn output(pin: Peri<'static, impl Pin>) -> Flex<'static> {
    let mut pin = Flex::new(pin);
    pin.set_low();
    pin.set_as_output();
    pin
}

fn contact(pin: Peri<'static, impl Pin>) -> Input<'static> {
    let mut pin = Input::new(pin, Pull::Up);
    pin.set_schmitt(true);
    pin
}

fn analog(pin: Peri<'static, impl AdcPin + 'static>) -> adc::Channel<'static> {
    adc::Channel::new_pin(pin, Pull::None)
}

fn one_wire(pin: Peri<'static, impl Pin>) -> Wire {
    BitBang::new(OutputOpenDrain::new(pin, Level::High), Delay)
}

/// A task's token: each is spawned as often as its pool has room for.
fn once<S>(token: Result<SpawnToken<S>, SpawnError>) -> SpawnToken<S> {
    token.unwrap_or_else(|_| board_reset())
}

#[embassy_executor::task]
async fn node_half(half: &'static mut Half) -> ! {
    half.run().await
}

#[embassy_executor::task(pool_size = 2)]
async fn serve_line(bus: usize, port: Line, drive: Output<'static>) -> ! {
    run_line(&EXCHANGE, bus, port, drive).await
}

#[embassy_executor::task]
async fn watch_contacts(pins: [Input<'static>; 4]) -> ! {
    INPUTS.watch(pins).await
}

#[embassy_executor::task(pool_size = 2)]
async fn count_pulses(n: usize, pin: Input<'static>) -> ! {
    INPUTS.count(n, pin).await
}

#[embassy_executor::task]
async fn sample_adcs(mut adc: Adc<'static, adc::Blocking>, mut channels: [adc::Channel<'static>; 3]) -> ! {
    INPUTS.sample(|n| adc.blocking_read(channels.get_mut(usize::from(n))?).ok()).await
}

#[embassy_executor::task]
async fn serve_usb(mut device: UsbDevice<'static, usb::Driver<'static, USB>>) -> ! {
    device.run().await
}

#[embassy_executor::task]
async fn serve_console(port: Console) -> ! {
    platform::console::run(&EXCHANGE, port).await
}

#[embassy_executor::task]
async fn run_radio(runner: cyw43::Runner<'static, SpiBus<Output<'static>, PioSpi<'static, PIO0, 0>>>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network_stack(mut runner: Runner<'static, cyw43::NetDriver<'static>>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network_half(network: &'static mut Network<Radio>) -> ! {
    network.run().await
}

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    wire(spawner);
}

/// Not within `main`: what lies on its stack is gone when the tasks run.
#[inline(never)]
fn wire(spawner: Spawner) {
    cortex::stack::guard();
    let p = embassy_rp::init(Default::default());
    // First of all, so that nothing is switched by a pin that floats.
    let pins = Outputs(outputs!(p, output));
    let dog = watchdog::Watchdog::new(p.WATCHDOG);
    let cause = cause(&dog);
    let mut entropy = [0; 48];
    #[cfg(feature = "rp2040")]
    fill(&mut entropy);
    #[cfg(feature = "rp2350")]
    embassy_rp::trng::Trng::new(p.TRNG, Irqs, Default::default()).blocking_fill_bytes(&mut entropy);

    let (peripheral, scl, sda) = i2c!(0, p);
    let i2c = Bus::new(peripheral, scl, sda);
    let [wire] = onewire!(p, one_wire);

    static FLASH: StaticCell<Shared<BoardFlash>> = StaticCell::new();
    static NODE: StaticCell<Node<Region<BoardFlash>>> = StaticCell::new();
    static HALF: StaticCell<Half> = StaticCell::new();
    let kept = cortex::fault::kept();
    let Started { half, settings, network, stack_seed, network_seed } = platform::start(Start {
        exchange: &EXCHANGE,
        flash: FLASH.init(Shared::new(Flash::new_blocking(p.FLASH), kept)),
        map: MAP,
        node: NODE.uninit(),
        pins,
        parts: Engine::new(PlainBuses { i2c, wire, inputs: &INPUTS }),
        watchdog: Dog(dog, Duration::MIN),
        kept,
        cause,
        facts: Facts {
            board: NAME,
            firmware: env!("CARGO_PKG_VERSION"),
            stack: cortex::stack::depth,
            reset: board_reset,
        },
        entropy,
    });

    interrupt::SWI_IRQ_1.set_priority(Priority::P3);
    interrupt::SWI_IRQ_0.set_priority(Priority::P2);
    let lines = LINES.start(interrupt::SWI_IRQ_0);
    static RINGS: [Ring; 2] = [Ring::new(), Ring::new()];
    let [first, second] = &RINGS;
    let (peripheral, tx, rx, drive) = rs485!(0, p);
    let uart = Uart::new_blocking(peripheral, tx, rx, uart::Config::default());
    let port = Line::new(uart, pac::UART0, TreqSel::UART0_RX, dma::Channel::new(p.DMA_CH1, Irqs), first);
    lines.spawn(once(serve_line(0, port, Output::new(drive, Level::Low))));
    let (peripheral, tx, rx, drive) = rs485!(1, p);
    let uart = Uart::new_blocking(peripheral, tx, rx, uart::Config::default());
    let port = Line::new(uart, pac::UART1, TreqSel::UART1_RX, dma::Channel::new(p.DMA_CH2, Irqs), second);
    lines.spawn(once(serve_line(1, port, Output::new(drive, Level::Low))));
    lines.spawn(once(watch_contacts(contacts!(p, contact))));
    for (n, pin) in pulses!(p, contact).into_iter().enumerate() {
        lines.spawn(once(count_pulses(n, pin)));
    }
    lines.spawn(once(sample_adcs(Adc::new_blocking(p.ADC, Default::default()), adcs!(p, analog))));
    NODE_HALF.start(interrupt::SWI_IRQ_1).spawn(once(node_half(HALF.init(half))));
    let (port, device) = console::new(usb::Driver::new(p.USB, Irqs), NAME);
    spawner.spawn(once(serve_usb(device)));
    spawner.spawn(once(serve_console(port)));

    let Some(settings) = settings.filter(|_| network) else { return };
    static SETTINGS: StaticCell<Settings> = StaticCell::new();
    let settings = SETTINGS.init(settings);
    // The radio's pins are the board's own (Pico W datasheet §2.1).
    let radio =
        RadioPins { power: p.PIN_23, select: p.PIN_25, data: p.PIN_24, clock: p.PIN_29, pio: p.PIO0, dma: p.DMA_CH0 };
    spawner.spawn(once(begin_network(spawner, radio, settings, stack_seed, network_seed)));
}

/// What the radio is at.
struct RadioPins {
    power: Peri<'static, PIN_23>,
    select: Peri<'static, PIN_25>,
    data: Peri<'static, PIN_24>,
    clock: Peri<'static, PIN_29>,
    pio: Peri<'static, PIO0>,
    dma: Peri<'static, DMA_CH0>,
}

#[embassy_executor::task]
async fn begin_network(
    spawner: Spawner,
    radio: RadioPins,
    settings: &'static Settings,
    stack_seed: u64,
    network_seed: [u8; 32],
) {
    static BUFFERS: ConstStaticCell<network::Buffers> = ConstStaticCell::new(network::Buffers::new());
    static NETWORK: StaticCell<Network<Radio>> = StaticCell::new();
    static RESOURCES: StaticCell<StackResources<{ network::SOCKETS }>> = StaticCell::new();
    static STATE: StaticCell<cyw43::State> = StaticCell::new();
    let power = Output::new(radio.power, Level::Low);
    let select = Output::new(radio.select, Level::High);
    let mut pio = Pio::new(radio.pio, Irqs);
    // The default is for the RP2040's 125 MHz; the other is slow enough for the RP2350's 150.
    let divider = match cfg!(feature = "rp2040") {
        true => cyw43_pio::DEFAULT_CLOCK_DIVIDER,
        false => cyw43_pio::RM2_CLOCK_DIVIDER,
    };
    let dma = dma::Channel::new(radio.dma, Irqs);
    let spi = PioSpi::new(&mut pio.common, pio.sm0, divider, pio.irq0, select, radio.data, radio.clock, dma);
    let state = STATE.init_with(cyw43::State::new);
    // A radio that does not start is a network half that does not go on: supervision restarts, three times.
    let (device, mut control, runner) = cyw43::new(state, power, spi, &RADIO_PROGRAM, &nvram::NVRAM).await;
    spawner.spawn(once(run_radio(runner)));
    control.init(cyw43_firmware::CYW43_43439A0_CLM).await;
    let resources = RESOURCES.init_with(StackResources::new);
    let (stack, runner) = embassy_net::new(device, network::first_config(settings), resources, stack_seed);
    spawner.spawn(once(network_stack(runner)));
    let radio = Radio::new(control, stack).await;
    let network = Network::new(stack, radio, &EXCHANGE, settings, BUFFERS.take(), network_seed);
    spawner.spawn(once(network_half(NETWORK.init(network))));
}
