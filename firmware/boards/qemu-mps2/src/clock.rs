//! Time in µs: embassy's clock and alarm, and bounded waits.
//!
//! The FPGA's cycle counter, prescaled to 1 MHz, is 32 bits wide and wraps after 71 minutes
//! (Arm AN385 §4.5). A read that finds it lower than the last one has seen a wrap; the alarm's
//! timer, which never waits longer than [`ALARM_US_MAX`], makes sure that there are reads.

use core::cell::{Cell, RefCell};
use core::task::Waker;

use critical_section::{CriticalSection, Mutex};
use embassy_time_driver::Driver;
use embassy_time_queue_utils::Queue;

use crate::interrupts;
use crate::registers::Registers;

/// Interrupt of the alarm's timer.
pub(crate) const TIMER0: i16 = 8;

/// Cycles of the MPS2's clock in a µs (Arm AN385 §4.1: 25 MHz).
const CYCLES_PER_US: u32 = 25;
/// Longest that the alarm's timer is set to, µs: less than 2³² cycles.
const ALARM_US_MAX: u64 = 60_000_000;
/// Longest that the SysTick is set to, µs: less than 2²⁴ cycles.
const SLEEP_US_MAX: u64 = 500_000;

// FPGA I/O registers (AN385 table 4-5).
const COUNTER: usize = 0x18;
const PRESCALE: usize = 0x1c;
// CMSDK timer registers (Arm DDI 0479D table 4-6).
const CTRL: usize = 0x00;
const VALUE: usize = 0x04;
const RELOAD: usize = 0x08;
const INTCLEAR: usize = 0x0c;
const CTRL_ENABLE: u32 = 1;
const CTRL_INTERRUPT: u32 = 1 << 3;

// SAFETY: the FPGA I/O of AN385's memory map (table 3-1).
const FPGA_IO: Registers = unsafe { Registers::new(0x4002_8000) };
// SAFETY: the CMSDK timer 0 of AN385's memory map.
const TIMER: Registers = unsafe { Registers::new(0x4000_0000) };

struct Clock {
    /// Where the counter was when it was last read, with the wraps before.
    last: Mutex<Cell<u64>>,
    /// Time that was slept, µs.
    slept: Mutex<Cell<u64>>,
    queue: Mutex<RefCell<Queue>>,
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock {
    last: Mutex::new(Cell::new(0)),
    slept: Mutex::new(Cell::new(0)),
    queue: Mutex::new(RefCell::new(Queue::new())),
});

impl Clock {
    fn read(&self, cs: CriticalSection<'_>) -> u64 {
        let last = self.last.borrow(cs);
        // Modulo 2³²: what has passed since, as long as that is less than one turn.
        let passed = FPGA_IO.read(COUNTER).wrapping_sub(last.get() as u32);
        last.set(last.get() + u64::from(passed));
        last.get()
    }

    /// Wakes what is due and sets the timer for what is next.
    fn run(&self, cs: CriticalSection<'_>) {
        let mut queue = self.queue.borrow(cs).borrow_mut();
        let mut next = queue.next_expiration(self.read(cs));
        let mut wait_us = next.saturating_sub(self.read(cs));
        while wait_us == 0 {
            next = queue.next_expiration(self.read(cs));
            wait_us = next.saturating_sub(self.read(cs));
        }
        let cycles = wait_us.min(ALARM_US_MAX) as u32 * CYCLES_PER_US;
        TIMER.write(CTRL, 0);
        TIMER.write(INTCLEAR, 1);
        // Without a reload value it counts down once.
        TIMER.write(RELOAD, 0);
        TIMER.write(VALUE, cycles);
        TIMER.write(CTRL, CTRL_ENABLE | CTRL_INTERRUPT);
    }
}

impl Driver for Clock {
    fn now(&self) -> u64 {
        critical_section::with(|cs| self.read(cs))
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|cs| {
            if self.queue.borrow(cs).borrow_mut().schedule_wake(at, waker) {
                self.run(cs);
            }
        });
    }
}

/// Starts the clock at this time, µs. What waits for the clock must not have begun.
pub(crate) fn start(at_us: u64) {
    critical_section::with(|cs| {
        FPGA_IO.write(PRESCALE, CYCLES_PER_US - 1);
        FPGA_IO.write(COUNTER, at_us as u32);
        CLOCK.last.borrow(cs).set(at_us);
        CLOCK.run(cs);
    });
    interrupts::enable(TIMER0 as u16);
}

/// The alarm's interrupt.
pub(crate) fn on_timer() {
    critical_section::with(|cs| CLOCK.run(cs));
}

/// Monotonic time since where the clock was started, µs.
pub fn now_us() -> u64 {
    CLOCK.now()
}

/// For how long the processor has slept since the start, µs.
pub fn slept_us() -> u64 {
    critical_section::with(|cs| CLOCK.slept.borrow(cs).get())
}

/// Sleeps until the next interrupt, but not at all when `ready`.
pub(crate) fn sleep_unless(ready: impl Fn() -> bool) {
    sleep(None, ready);
}

/// Sleeps, with interrupts served, until `ready` or until `until_us` has come; whether `ready`.
pub(crate) fn sleep_until(until_us: u64, ready: impl Fn() -> bool) -> bool {
    loop {
        if ready() {
            return true;
        }
        let left_us = until_us.saturating_sub(now_us());
        if left_us == 0 {
            return false;
        }
        sleep(Some(left_us), &ready);
    }
}

fn sleep(most_us: Option<u64>, ready: impl Fn() -> bool) {
    critical_section::with(|cs| {
        // An interrupt that comes from here on ends the sleep at once: it is pending, though
        // masked, and that wakes.
        if !ready() {
            if let Some(us) = most_us {
                alarm_in(us);
            }
            let from = CLOCK.read(cs);
            cortex_m::asm::wfi();
            let slept = CLOCK.slept.borrow(cs);
            slept.set(slept.get() + CLOCK.read(cs) - from);
        }
    });
}

/// Lets this many µs pass, awake: for times that are too short to sleep.
pub(crate) fn spin_us(us: u64) {
    let until_us = now_us() + us;
    while now_us() < until_us {}
}

/// One SysTick exception after this time, which only has to end a sleep.
fn alarm_in(us: u64) {
    let cycles = us.min(SLEEP_US_MAX) as u32 * CYCLES_PER_US;
    // SAFETY: the SysTick is used here only, and by one caller at a time: the thread mode.
    let systick = unsafe { &*cortex_m::peripheral::SYST::PTR };
    // SAFETY: values within the register's 24 bits (ARMv7-M B3.3.4).
    unsafe {
        systick.csr.write(0);
        systick.rvr.write(cycles.max(1));
        systick.cvr.write(0);
        // Processor clock, exception, counting.
        systick.csr.write(0b111);
    }
}

#[cortex_m_rt::exception]
fn SysTick() {
    // SAFETY: as in `alarm_in`, which the exception interrupts but cannot be interrupted by.
    unsafe { (*cortex_m::peripheral::SYST::PTR).csr.write(0) };
}
