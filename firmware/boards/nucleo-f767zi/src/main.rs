//! The node on an ST Nucleo-F767ZI: wiring only. It builds; it was not tried on hardware.
//!
//! Ethernet with the board's own PHY, two RS-485 lines, and the console on USART3, which is the ST-LINK's
//! USB port. Pins and flash map come from board.toml.
//!
//! The node half runs in an interrupt, above network and console: a TLS handshake delays no control. Lines and
//! inputs run in another, above the node half. The flash has two banks (option bit nDBANK = 0): the program runs
//! on from bank 1 while bank 2 is written. The node half itself waits for an erase, 1 s, at most 2 for a sector of
//! 128 KiB; lines and inputs do not, so no byte and no pulse is lost.
#![no_std]
#![no_main]

mod flash;
mod serial;

use embassy_executor::{InterruptExecutor, SpawnError, SpawnToken, Spawner};
use embassy_net::{Runner, StackResources};
use embassy_stm32::adc::{Adc, AdcChannel, AnyAdcChannel, SampleTime};
use embassy_stm32::eth::{self, Ethernet, GenericPhy, PacketQueue, Sma};
use embassy_stm32::exti::{self, ExtiInput};
use embassy_stm32::gpio::{ExtiPin, Flex, Input, Level, Output, OutputOpenDrain, Pin, Pull, Speed};
use embassy_stm32::i2c::{self, I2c};
use embassy_stm32::interrupt::typelevel::Binding;
use embassy_stm32::interrupt::{self, InterruptExt, Priority};
use embassy_stm32::mode::{Async, Blocking};
use embassy_stm32::peripherals::{ADC1, ETH, ETH_SMA, IWDG, RNG, USART2, USART3, USART6};
use embassy_stm32::rng::{self, Rng};
use embassy_stm32::usart::{self, BufferedUart};
use embassy_stm32::wdg::IndependentWatchdog;
use embassy_stm32::{Peri, bind_interrupts, pac, rcc, time::Hertz};
use embassy_time::{Delay, Duration, Timer};
use embedded_io_async::Write;
use inputs::{Inputs, Outputs, PlainBuses};
use node::{Node, RestartCause, settings::Settings};
use platform::flash::{Region, Shared};
use platform::network::{self, Network};
use platform::parts::Engine;
use platform::{Cable, Exchange, Facts, NodeHalf, Port, Room, Start, Started, Watchdog, console, run_line};
use sensors::modbus::{LineSettings, Parity};
use sensors::onewire::BitBang;
use serial::Serial;
use static_cell::{ConstStaticCell, StaticCell};

include!(concat!(env!("OUT_DIR"), "/board.rs"));

bind_interrupts!(struct Irqs {
    ETH => eth::InterruptHandler;
    EXTI9_5 => exti::InterruptHandler<interrupt::typelevel::EXTI9_5>;
    RNG => rng::InterruptHandler<RNG>;
    USART2 => usart::BufferedInterruptHandler<USART2>;
    USART3 => usart::BufferedInterruptHandler<USART3>;
    USART6 => usart::BufferedInterruptHandler<USART6>;
});

/// 115,200 8N1 (CONSOLE.md).
const CONSOLE_LINE: LineSettings = match LineSettings::new(115_200, Parity::None, 1) {
    Some(line) => line,
    None => LineSettings::DEFAULT,
};

type Irq<T> = <<T as ExtiPin>::ExtiChannel as exti::Channel>::IRQ;
type Device = Ethernet<'static, ETH, GenericPhy<Sma<'static, ETH_SMA>>>;
type Wire = BitBang<OutputOpenDrain<'static>, Delay>;
type Bus = I2c<'static, Blocking, i2c::Master>;
type Parts = Engine<PlainBuses<Bus, Wire, 4, 2, 3>>;
type Half = NodeHalf<flash::Flash, Outputs<Flex<'static>, 4>, Parts, Dog>;

static ROOM: Room = Room::new();
static EXCHANGE: Exchange = Exchange::new(&ROOM);
static INPUTS: Inputs<4, 2, 3> = Inputs::new(4_095, 3.3);
static NODE_HALF: InterruptExecutor = InterruptExecutor::new();
static LINES: InterruptExecutor = InterruptExecutor::new();

/// Runs the node half. The interrupt is that of a UART that the board does not use, as the next one is.
#[embassy_stm32::interrupt]
unsafe fn UART4() {
    // SAFETY: called from the interrupt that the executor was started with.
    unsafe { NODE_HALF.on_interrupt() }
}

/// Runs lines and inputs.
#[embassy_stm32::interrupt]
unsafe fn UART5() {
    // SAFETY: called from the interrupt that the executor was started with.
    unsafe { LINES.on_interrupt() }
}

/// The independent watchdog; it runs on its own oscillator and cannot be stopped.
enum Dog {
    Asleep(Peri<'static, IWDG>),
    Awake(IndependentWatchdog<'static, IWDG>),
    None,
}

impl Watchdog for Dog {
    fn start(&mut self, after: Duration) {
        // 12 bits of 8 ms are the most that it can (RM0410 table 192).
        let after_us = after.min(Duration::from_secs(32)).as_micros() as u32;
        *self = match core::mem::replace(self, Self::None) {
            Self::Asleep(peripheral) => {
                let mut dog = IndependentWatchdog::new(peripheral, after_us);
                dog.unleash();
                Self::Awake(dog)
            }
            other => other,
        };
    }

    fn feed(&mut self) {
        if let Self::Awake(dog) = self {
            dog.pet();
        }
    }
}

#[unsafe(no_mangle)]
fn board_reset() -> ! {
    cortex_m::peripheral::SCB::sys_reset()
}

/// Why the processor started (RM0410 §5.3.21), told once.
fn cause() -> RestartCause {
    let flags = pac::RCC.csr().read();
    pac::RCC.csr().modify(|w| w.set_rmvf(true));
    if flags.wdgrstf() || flags.wwdgrstf() {
        RestartCause::Watchdog
    } else if flags.sftrstf() {
        RestartCause::Software
    } else if flags.porrstf() {
        RestartCause::Power
    } else if flags.borrstf() {
        RestartCause::BrownOut
    } else {
        // The reset pin.
        RestartCause::Unknown
    }
}

/// 216 MHz from the 8 MHz that the ST-LINK gives; 48 MHz for the random numbers.
fn clocks() -> embassy_stm32::Config {
    let mut config = embassy_stm32::Config::default();
    config.rcc.hse = Some(rcc::Hse { freq: Hertz(8_000_000), mode: rcc::HseMode::Bypass });
    config.rcc.pll_src = rcc::PllSource::HSE;
    config.rcc.pll = Some(rcc::Pll {
        prediv: rcc::PllPreDiv::DIV4,
        mul: rcc::PllMul::MUL216,
        divp: Some(rcc::PllPDiv::DIV2),
        divq: Some(rcc::PllQDiv::DIV9),
        divr: None,
    });
    config.rcc.ahb_pre = rcc::AHBPrescaler::DIV1;
    config.rcc.apb1_pre = rcc::APBPrescaler::DIV4;
    config.rcc.apb2_pre = rcc::APBPrescaler::DIV2;
    config.rcc.sys = rcc::Sysclk::PLL1_P;
    config
}

/// A pin that switches, low at first, and can be read back.
fn output(pin: Peri<'static, impl Pin>) -> Flex<'static> {
    let mut pin = Flex::new(pin);
    pin.set_low();
    pin.set_as_output(Speed::Low);
    pin
}

fn contact(pin: Peri<'static, impl Pin>) -> Input<'static> {
    Input::new(pin, Pull::Up)
}

fn pulse<T: ExtiPin + Pin>(pin: Peri<'static, T>, channel: Peri<'static, T::ExtiChannel>) -> ExtiInput<'static, Async>
where
    Irqs: Binding<Irq<T>, exti::InterruptHandler<Irq<T>>>,
{
    ExtiInput::new(pin, channel, Pull::Up, Irqs)
}

fn analog(pin: impl AdcChannel<ADC1> + 'static) -> AnyAdcChannel<'static, ADC1> {
    pin.degrade_adc()
}

fn one_wire(pin: Peri<'static, impl Pin>) -> Wire {
    BitBang::new(OutputOpenDrain::new(pin, Level::High, Speed::Low), Delay)
}

#[embassy_executor::task]
async fn node_half(half: &'static mut Half) -> ! {
    half.run().await
}

#[embassy_executor::task(pool_size = 2)]
async fn line_task(bus: usize, port: Serial, drive: Output<'static>) -> ! {
    run_line(&EXCHANGE, bus, port, drive).await
}

#[embassy_executor::task]
async fn watch_contacts(pins: [Input<'static>; 4]) -> ! {
    INPUTS.watch(pins).await
}

#[embassy_executor::task(pool_size = 2)]
async fn count_pulses(n: usize, pin: ExtiInput<'static, Async>) -> ! {
    INPUTS.count(n, pin).await
}

#[embassy_executor::task]
async fn sample_adcs(mut adc: Adc<'static, ADC1>, mut channels: [AnyAdcChannel<'static, ADC1>; 3]) -> ! {
    let read = |n| Some(adc.blocking_read(channels.get_mut(usize::from(n))?, SampleTime::CYCLES84));
    INPUTS.sample(read).await
}

#[embassy_executor::task]
async fn serve_console(port: Serial) -> ! {
    console::run(&EXCHANGE, port).await
}

#[embassy_executor::task]
async fn network_stack(mut runner: Runner<'static, Device>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network_half(network: &'static mut Network<Cable>) -> ! {
    network.run().await
}

/// A task's token: each is spawned as often as its pool has room for.
fn once<S>(token: Result<SpawnToken<S>, SpawnError>) -> SpawnToken<S> {
    token.unwrap_or_else(|_| board_reset())
}

/// An address of the node's own making (IEEE 802-2014 §8.4.4), of the chip's number.
fn mac_address() -> [u8; 6] {
    let mut address = [2u8, 0, 0, 0, 0, 0];
    for (n, byte) in embassy_stm32::uid::uid().into_iter().enumerate() {
        let place = &mut address[1 + n % 5];
        *place = place.rotate_left(3) ^ byte;
    }
    address
}

/// What is said when nothing else can be done: the option bits are the tool's to set.
#[embassy_executor::task]
async fn one_bank(mut console: Serial) -> ! {
    loop {
        let text = b"the flash has one bank: STM32_Programmer_CLI -c port=SWD -ob nDBANK=0\r\n";
        // Nobody listening is nobody to tell.
        let _said = console.write_all(text).await;
        Timer::after_secs(5).await;
    }
}

/// A serial port on a USART and its pins.
macro_rules! serial {
    ($usart:expr, $tx:expr, $rx:expr) => {{
        static BYTES: ConstStaticCell<([u8; serial::TX_BYTES], [u8; serial::RX_BYTES])> =
            ConstStaticCell::new(([0; serial::TX_BYTES], [0; serial::RX_BYTES]));
        let (to, from) = BYTES.take();
        BufferedUart::new($usart, $rx, $tx, to, from, Irqs, serial::config(&LineSettings::DEFAULT)).map(Serial::new)
    }};
}

#[embassy_executor::main]
async fn main(spawner: Spawner) {
    wire(spawner);
}

/// Not within `main`: what lies on its stack is gone when the tasks run.
#[inline(never)]
fn wire(spawner: Spawner) {
    cortex::stack::guard();
    let cause = cause();
    let p = embassy_stm32::init(clocks());
    // First of all, so that nothing is switched by a pin that floats.
    let pins = Outputs(outputs!(p, output));

    // A USART refuses rates that its clock cannot be divided to; all of a line's can be.
    let Ok(mut console) = serial!(p.USART3, p.PD8, p.PD9) else { board_reset() };
    if console.set(&CONSOLE_LINE).is_err() {
        board_reset()
    }
    if !flash::has_two_banks() {
        spawner.spawn(once(one_bank(console)));
        return;
    }
    let mut entropy = [0; 48];
    Rng::new(p.RNG, Irqs).fill_bytes(&mut entropy);

    let (peripheral, mut scl, mut sda) = i2c!(0, p);
    let clock = OutputOpenDrain::new(scl.reborrow(), Level::High, Speed::Low);
    inputs::i2c::free(clock, OutputOpenDrain::new(sda.reborrow(), Level::High, Speed::Low), Delay);
    let mut i2c_config = i2c::Config::default();
    i2c_config.timeout = Duration::from_millis(50);
    let i2c = I2c::new_blocking(peripheral, scl, sda, i2c_config);
    let [wire] = onewire!(p, one_wire);

    static FLASH: StaticCell<Shared<flash::Flash>> = StaticCell::new();
    static NODE: StaticCell<Node<Region<flash::Flash>>> = StaticCell::new();
    static HALF: StaticCell<Half> = StaticCell::new();
    let kept = cortex::fault::kept();
    let flash = flash::Flash::new(embassy_stm32::flash::Flash::new_blocking(p.FLASH));
    let Started { half, settings, network, stack_seed, network_seed } = platform::start(Start {
        exchange: &EXCHANGE,
        flash: FLASH.init(Shared::new(flash, kept)),
        map: MAP,
        node: NODE.uninit(),
        pins,
        parts: Engine::new(PlainBuses { i2c, wire, inputs: &INPUTS }),
        watchdog: Dog::Asleep(p.IWDG),
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

    interrupt::UART4.set_priority(Priority::P6);
    interrupt::UART5.set_priority(Priority::P5);
    let lines = LINES.start(interrupt::UART5);
    let (usart, tx, rx, drive) = rs485!(0, p);
    if let Ok(port) = serial!(usart, tx, rx) {
        lines.spawn(once(line_task(0, port, Output::new(drive, Level::Low, Speed::Low))));
    }
    let (usart, tx, rx, drive) = rs485!(1, p);
    if let Ok(port) = serial!(usart, tx, rx) {
        lines.spawn(once(line_task(1, port, Output::new(drive, Level::Low, Speed::Low))));
    }
    lines.spawn(once(watch_contacts(contacts!(p, contact))));
    for (n, pin) in pulses!(p, pulse).into_iter().enumerate() {
        lines.spawn(once(count_pulses(n, pin)));
    }
    lines.spawn(once(sample_adcs(Adc::new(p.ADC1), adcs!(p, analog))));
    NODE_HALF.start(interrupt::UART4).spawn(once(node_half(HALF.init(half))));
    spawner.spawn(once(serve_console(console)));

    let Some(settings) = settings.filter(|_| network) else { return };
    static SETTINGS: StaticCell<Settings> = StaticCell::new();
    static BUFFERS: ConstStaticCell<network::Buffers> = ConstStaticCell::new(network::Buffers::new());
    static NETWORK: StaticCell<Network<Cable>> = StaticCell::new();
    static RESOURCES: StaticCell<StackResources<{ network::SOCKETS }>> = StaticCell::new();
    static PACKETS: ConstStaticCell<PacketQueue<4, 4>> = ConstStaticCell::new(PacketQueue::new());
    let device = Ethernet::new(
        PACKETS.take(),
        p.ETH,
        Irqs,
        p.PA1,
        p.PA7,
        p.PC4,
        p.PC5,
        p.PG13,
        p.PB13,
        p.PG11,
        mac_address(),
        p.ETH_SMA,
        p.PA2,
        p.PC1,
    );
    let resources = RESOURCES.init_with(StackResources::new);
    let (stack, runner) = embassy_net::new(device, network::first_config(&settings), resources, stack_seed);
    spawner.spawn(once(network_stack(runner)));
    let settings = SETTINGS.init(settings);
    let network = Network::new(stack, Cable, &EXCHANGE, settings, BUFFERS.take(), network_seed);
    spawner.spawn(once(network_half(NETWORK.init(network))));
}
