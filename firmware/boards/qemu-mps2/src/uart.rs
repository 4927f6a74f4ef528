//! The CMSDK UARTs: interrupt-driven, as embedded-io-async streams.
//!
//! Received bytes go into a ring by interrupt, so that none is lost while a task is busy: the ring
//! holds what comes at 115200 bit/s during a sector erasure. When it is full, the interrupt is
//! left off until there is room; QEMU then keeps the bytes on the host, a real line would lose
//! them, and [`Uart::lost`] counts those.
//!
//! Characters are always 8N1: the UART has no other. QEMU does not pace bytes; rates are kept all
//! the same, for a real MPS2.

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::future::poll_fn;
use core::task::Poll;

use critical_section::Mutex;
use embassy_sync::waitqueue::AtomicWaker;
use heapless::Deque;

use crate::interrupts;
use crate::registers::Registers;

/// Bytes that come at 115200 bit/s in 45 ms, and some.
const RING_BYTES: usize = 640;
/// Cycles of the MPS2's clock in a second (AN385 §4.1).
const CYCLES_PER_S: u32 = 25_000_000;
/// Below this divider the UART stays silent (Arm DDI 0479D §4.6).
const DIVIDER_MIN: u32 = 16;
/// Longest wait of [`Uart::write_blocking`] for room for one byte, µs.
const BLOCKING_US_MAX: u64 = 20_000;

// Registers (Arm DDI 0479D table 4-8).
const DATA: usize = 0x00;
const STATE: usize = 0x04;
const CTRL: usize = 0x08;
const INTERRUPTS: usize = 0x0c;
const DIVIDER: usize = 0x10;
const STATE_TX_FULL: u32 = 1;
const STATE_RX_FULL: u32 = 1 << 1;
const STATE_RX_OVERRUN: u32 = 1 << 3;
const CTRL_TX: u32 = 1;
const CTRL_RX: u32 = 1 << 1;
const CTRL_TX_INTERRUPT: u32 = 1 << 2;
const CTRL_RX_INTERRUPT: u32 = 1 << 3;
const INTERRUPT_TX: u32 = 1;
const INTERRUPT_RX: u32 = 1 << 1;

type Ring = Mutex<RefCell<Deque<u8, RING_BYTES>>>;

struct Port {
    registers: Registers,
    /// Interrupts: receiving, sending (AN385 table 4-2).
    interrupts: [u16; 2],
    /// Apart from the rest, which is not zero at the start and so takes flash.
    ring: &'static Ring,
    lost: Mutex<Cell<u32>>,
    taken: Mutex<Cell<bool>>,
    came: AtomicWaker,
    room: AtomicWaker,
}

impl Port {
    const fn new(registers: Registers, interrupts: [u16; 2], ring: &'static Ring) -> Self {
        Self {
            registers,
            interrupts,
            ring,
            lost: Mutex::new(Cell::new(0)),
            taken: Mutex::new(Cell::new(false)),
            came: AtomicWaker::new(),
            room: AtomicWaker::new(),
        }
    }

    /// Changes bits of the control register; only within a critical section.
    fn control(&self, _cs: critical_section::CriticalSection<'_>, clear: u32, set: u32) {
        self.registers.write(CTRL, self.registers.read(CTRL) & !clear | set);
    }

    /// Moves what has come into the ring.
    fn receive(&self) {
        critical_section::with(|cs| {
            self.registers.write(INTERRUPTS, INTERRUPT_RX);
            let mut ring = self.ring.borrow(cs).borrow_mut();
            loop {
                let state = self.registers.read(STATE);
                if state & STATE_RX_OVERRUN != 0 {
                    self.registers.write(STATE, STATE_RX_OVERRUN);
                    let lost = self.lost.borrow(cs);
                    lost.set(lost.get().saturating_add(1));
                }
                if state & STATE_RX_FULL == 0 {
                    break;
                }
                if ring.is_full() {
                    self.control(cs, CTRL_RX_INTERRUPT, 0);
                    break;
                }
                // There is room, as was just seen.
                let _room = ring.push_back(self.registers.read(DATA) as u8);
            }
        });
        self.came.wake();
    }

    fn pop(&self, bytes: &mut [u8]) -> usize {
        let count = critical_section::with(|cs| {
            let mut ring = self.ring.borrow(cs).borrow_mut();
            let mut count = 0;
            for (place, byte) in bytes.iter_mut().zip(core::iter::from_fn(|| ring.pop_front())) {
                *place = byte;
                count += 1;
            }
            self.control(cs, 0, CTRL_RX_INTERRUPT);
            count
        });
        if count > 0 && self.registers.read(STATE) & STATE_RX_FULL != 0 {
            // What waited for room.
            self.receive();
        }
        count
    }
}

static RINGS: [Ring; 4] = [const { Mutex::new(RefCell::new(Deque::new())) }; 4];

// SAFETY: UARTs of AN385's memory map (table 3-1). The fifth is left out: nobody needs its ring.
static PORTS: [Port; 4] = unsafe {
    [
        Port::new(Registers::new(0x4000_4000), [0, 1], &RINGS[0]),
        Port::new(Registers::new(0x4000_5000), [2, 3], &RINGS[1]),
        Port::new(Registers::new(0x4000_6000), [4, 5], &RINGS[2]),
        Port::new(Registers::new(0x4000_7000), [18, 19], &RINGS[3]),
    ]
};

/// Serves a UART's interrupt; whether it was one.
pub(crate) fn on_interrupt(number: i16) -> bool {
    let Ok(number) = u16::try_from(number) else { return false };
    for port in &PORTS {
        if number == port.interrupts[0] {
            port.receive();
            return true;
        }
        if number == port.interrupts[1] {
            critical_section::with(|cs| port.control(cs, CTRL_TX_INTERRUPT, 0));
            port.registers.write(INTERRUPTS, INTERRUPT_TX);
            port.room.wake();
            return true;
        }
    }
    false
}

/// One of the UARTs.
pub struct Uart(&'static Port);

impl Uart {
    /// Opens UART `number` (0–3) at this rate, bit/s. `None` when there is none or it is open.
    pub fn open(number: usize, baud: u32) -> Option<Self> {
        let port = PORTS.get(number)?;
        if critical_section::with(|cs| port.taken.borrow(cs).replace(true)) {
            return None;
        }
        let mut uart = Self(port);
        uart.set_baud(baud);
        port.registers.write(CTRL, CTRL_TX | CTRL_RX | CTRL_RX_INTERRUPT);
        port.interrupts.into_iter().for_each(interrupts::enable);
        Some(uart)
    }

    /// Changes the rate, bit/s, between frames. Below 373 and above 1.5 Mbit/s it is the nearest
    /// that the divider has.
    pub fn set_baud(&mut self, baud: u32) {
        // 20 bits (DDI 0479D §4.6).
        let divider = CYCLES_PER_S.checked_div(baud).unwrap_or(u32::MAX).clamp(DIVIDER_MIN, 0x000f_ffff);
        self.0.registers.write(DIVIDER, divider);
    }

    /// Times at which bytes were lost because nobody fetched them.
    pub fn lost(&self) -> u32 {
        critical_section::with(|cs| self.0.lost.borrow(cs).get())
    }

    /// What has come, without waiting; how many bytes.
    pub fn read_now(&mut self, bytes: &mut [u8]) -> usize {
        self.0.pop(bytes)
    }

    /// Whether something has come.
    pub(crate) fn has_come(&self) -> bool {
        critical_section::with(|cs| !self.0.ring.borrow(cs).borrow().is_empty())
    }

    /// Sends without another task's getting a turn. Bytes for which there is no room within 20 ms
    /// are given up, so that a stalled peer hangs nothing.
    pub(crate) fn write_blocking(&mut self, bytes: &[u8]) {
        write_blocking(self.0.registers, bytes);
    }

    /// Both directions, for tasks of their own.
    pub fn split(self) -> (Receiver, Sender) {
        (Receiver(self.0), Sender(self.0))
    }
}

fn write_blocking(registers: Registers, bytes: &[u8]) {
    for byte in bytes {
        let until_us = crate::clock::now_us() + BLOCKING_US_MAX;
        while registers.read(STATE) & STATE_TX_FULL != 0 {
            if crate::clock::now_us() > until_us {
                return;
            }
        }
        registers.write(DATA, u32::from(*byte));
    }
}

/// What comes on a UART.
pub struct Receiver(&'static Port);

/// What goes out on a UART.
pub struct Sender(&'static Port);

async fn read(port: &Port, bytes: &mut [u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    poll_fn(|cx| {
        port.came.register(cx.waker());
        match port.pop(bytes) {
            0 => Poll::Pending,
            count => Poll::Ready(count),
        }
    })
    .await
}

async fn write(port: &Port, bytes: &[u8]) -> usize {
    for byte in bytes {
        poll_fn(|cx| {
            if port.registers.read(STATE) & STATE_TX_FULL == 0 {
                return Poll::Ready(());
            }
            port.room.register(cx.waker());
            critical_section::with(|cs| port.control(cs, 0, CTRL_TX_INTERRUPT));
            // It may have become free before the interrupt was on.
            if port.registers.read(STATE) & STATE_TX_FULL == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        port.registers.write(DATA, u32::from(*byte));
    }
    bytes.len()
}

macro_rules! stream {
    ($($of:ty),*) => { $(impl embedded_io_async::ErrorType for $of { type Error = Infallible; })* };
}
stream!(Uart, Receiver, Sender);

macro_rules! reads {
    ($($of:ty),*) => { $(impl embedded_io_async::Read for $of {
        async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> { Ok(read(self.0, bytes).await) }
    })* };
}
reads!(Uart, Receiver);

macro_rules! writes {
    ($($of:ty),*) => { $(impl embedded_io_async::Write for $of {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> { Ok(write(self.0, bytes).await) }
        async fn flush(&mut self) -> Result<(), Infallible> { Ok(()) }
    })* };
}
writes!(Uart, Sender);
