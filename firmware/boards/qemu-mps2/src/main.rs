//! The node on the emulated board: wiring only. It runs in emulation.
#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use embassy_executor::{SpawnError, SpawnToken, Spawner};
use embassy_net::{Runner, StackResources};
use embassy_time::Duration;
use node::{Node, RestartCause, settings::Settings};
use platform::flash::{Region, Shared};
use platform::kept::{BACKTRACE_MAX, Fault};
use platform::network::{self, Network};
use platform::parts::Engine;
use platform::{Cable, Exchange, Facts, Kept, NoPin, NodeHalf, Pins, Port, Room, Start, Started, Watchdog};
use platform::{console, run_line};
use qemu_mps2::buses::Buses;
use qemu_mps2::ethernet::Ethernet;
use qemu_mps2::flash::Flash;
use qemu_mps2::i2c::Bus;
use qemu_mps2::reset::{Boot, Cause};
use qemu_mps2::tunnel::Tunnel;
use qemu_mps2::uart::Uart;
use qemu_mps2::{executor, reset, stack, watchdog};
use sensors::modbus::LineSettings;
use static_cell::{ConstStaticCell, StaticCell};

static ROOM: Room = Room::new();
static EXCHANGE: Exchange = Exchange::new(&ROOM);
#[unsafe(link_section = ".uninit.KEPT")]
static KEPT: MaybeUninit<Kept> = MaybeUninit::uninit();

include!(concat!(env!("OUT_DIR"), "/map.rs"));

struct Outputs(&'static Tunnel);

impl Pins for Outputs {
    fn set(&mut self, pin: u8, high: bool) {
        use embedded_hal::digital::OutputPin;
        let mut pin = self.0.pin(pin);
        let level = if high { pin.set_high() } else { pin.set_low() };
        // What does not go through is seen when it is read back.
        let _ = level;
    }

    fn get(&mut self, pin: u8) -> Option<bool> {
        use embedded_hal::digital::InputPin;
        self.0.pin(pin).is_high().ok()
    }
}

struct Dog(Option<watchdog::Watchdog>);

impl Watchdog for Dog {
    fn start(&mut self, after: Duration) {
        self.0 = Some(watchdog::Watchdog::start(after.as_millis().try_into().unwrap_or(u32::MAX)));
    }

    fn feed(&mut self) {
        if let Some(dog) = &mut self.0 {
            dog.feed();
        }
    }
}

/// A UART as a Modbus line. It knows 8N1 only; QEMU's sockets know no parity.
struct Line(Uart);

impl embedded_io_async::ErrorType for Line {
    type Error = core::convert::Infallible;
}

impl embedded_io_async::Read for Line {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Self::Error> {
        embedded_io_async::Read::read(&mut self.0, bytes).await
    }
}

impl embedded_io_async::Write for Line {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        embedded_io_async::Write::write(&mut self.0, bytes).await
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        embedded_io_async::Write::flush(&mut self.0).await
    }
}

impl Port for Line {
    fn set(&mut self, line: &LineSettings) -> Result<(), Self::Error> {
        self.0.set_baud(line.baud());
        Ok(())
    }
}

type Half = NodeHalf<Flash, Outputs, Engine<Buses>, Dog>;

#[embassy_executor::task]
async fn node_task(half: &'static mut Half) -> ! {
    half.run().await
}

#[embassy_executor::task(pool_size = 2)]
async fn line_task(bus: usize, line: Line) -> ! {
    run_line(&EXCHANGE, bus, line, NoPin).await
}

#[embassy_executor::task]
async fn console_task(uart: Uart) -> ! {
    console::run(&EXCHANGE, uart).await
}

#[embassy_executor::task]
async fn net_task(mut runner: Runner<'static, Ethernet>) -> ! {
    runner.run().await
}

#[embassy_executor::task]
async fn network_task(network: &'static mut Network<Cable>) -> ! {
    network.run().await
}

/// What the platform calls the cause of a start; where the run before ended in a fault, that is noted.
fn cause(boot: &Boot, kept: &Kept) -> RestartCause {
    if let Some(fault) = boot.fault {
        let kind = match boot.cause {
            Cause::Panic => 1,
            Cause::StackOverflow => 3,
            // Where the processor hung is worth as much as where it faulted.
            Cause::Watchdog => 6,
            _ => 2,
        };
        let [caller, ..] = fault.trace;
        let address = if boot.cause == Cause::Panic { caller } else { fault.pc };
        let mut backtrace = [0; BACKTRACE_MAX];
        backtrace.iter_mut().zip(fault.trace).for_each(|(place, word)| *place = word);
        kept.note_fault(Fault { kind, address, detail: fault.status, backtrace });
    }
    match boot.cause {
        Cause::Power => RestartCause::Power,
        Cause::Unknown => RestartCause::Unknown,
        Cause::Software => RestartCause::Software,
        Cause::Watchdog => RestartCause::Watchdog,
        Cause::Fault | Cause::StackOverflow | Cause::Panic => RestartCause::Fault,
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    static EXECUTOR: StaticCell<executor::Executor> = StaticCell::new();
    EXECUTOR.init(executor::Executor::new()).run(wire)
}

/// Makes everything and starts its tasks. Not inlined: what lies on the stack of `main` lies there for ever.
#[inline(never)]
fn wire(low: Spawner) {
    static FLASH: StaticCell<Shared<Flash>> = StaticCell::new();
    static NODE: StaticCell<Node<Region<Flash>>> = StaticCell::new();
    static HALF: StaticCell<Half> = StaticCell::new();
    static TUNNEL: StaticCell<Tunnel> = StaticCell::new();

    let Some(mut peripherals) = cortex_m::Peripherals::take() else { reset::restart() };
    let board = qemu_mps2::start();
    let [Some(serial), Some(line_0), Some(line_1), Some(tunnel)] =
        [(0, 115_200), (1, 9_600), (2, 9_600), (3, 1_000_000)].map(|(number, baud)| Uart::open(number, baud))
    else {
        reset::restart()
    };
    // SAFETY: it is made of atomic words: whatever lies there is one.
    let kept = unsafe { KEPT.assume_init_ref() };
    let (bus, tunnel) = (Bus::shield1(), &*TUNNEL.init(Tunnel::new(tunnel)));
    let Started { half, settings, network, stack_seed, network_seed } = platform::start(Start {
        exchange: &EXCHANGE,
        cause: cause(&board.boot, kept),
        flash: FLASH.init(Shared::new(board.flash, kept)),
        map: MAP,
        node: NODE.uninit(),
        pins: Outputs(tunnel),
        parts: Engine::new(Buses::new(bus, tunnel)),
        watchdog: Dog(None),
        kept,
        facts: Facts {
            board: "qemu-mps2",
            firmware: env!("CARGO_PKG_VERSION"),
            stack: || (stack::used_max(), stack::size()),
            reset: reset::restart,
        },
        entropy: board.seed,
    });
    // SAFETY: the tunnel and the flash are the node half's alone from here on; all else that the halves share
    // is the exchange, which is made for it.
    let high = unsafe { executor::high(&mut peripherals) };
    begin(high, node_task(HALF.init(half)));
    begin(high, line_task(0, Line(line_0)));
    begin(high, line_task(1, Line(line_1)));
    begin(low, console_task(serial));
    if let (Some(settings), true) = (settings, network) {
        connect(low, settings, stack_seed, network_seed);
    }
}

#[inline(never)]
fn connect(low: Spawner, settings: Settings, stack_seed: u64, network_seed: [u8; 32]) {
    static SETTINGS: StaticCell<Settings> = StaticCell::new();
    static BUFFERS: ConstStaticCell<network::Buffers> = ConstStaticCell::new(network::Buffers::new());
    static RESOURCES: StaticCell<StackResources<{ network::SOCKETS }>> = StaticCell::new();
    static NETWORK: StaticCell<Network<Cable>> = StaticCell::new();

    let Some(device) = Ethernet::start() else { return };
    let resources = RESOURCES.init(StackResources::new());
    let (stack, runner) = embassy_net::new(device, network::first_config(&settings), resources, stack_seed);
    begin(low, net_task(runner));
    let settings = SETTINGS.init(settings);
    let network = Network::new(stack, Cable, &EXCHANGE, settings, BUFFERS.take(), network_seed);
    begin(low, network_task(NETWORK.init(network)));
}

/// Each task has its place; without one there is nothing to run.
fn begin<S>(spawner: Spawner, task: Result<SpawnToken<S>, SpawnError>) {
    match task {
        Ok(task) => spawner.spawn(task),
        Err(_) => reset::restart(),
    }
}
