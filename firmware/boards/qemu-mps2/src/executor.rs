//! Runs tasks at two levels, and sleeps in between.
//!
//! What must not wait for the network runs in an interrupt ([`high`]): it breaks in on what runs in
//! thread mode ([`Executor`]), and the peripherals' interrupts break in on both.
//!
//! embassy's own executor sleeps by `WFE`, which QEMU takes for nothing: it would use a core of
//! the host for each board. This one sleeps by `WFI`, and counts for how long, so that a duty
//! cycle can be measured.

use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use cortex_m::peripheral::NVIC;
use embassy_executor::{Spawner, raw};
use static_cell::StaticCell;

use crate::clock;
use crate::interrupts::{self, Interrupt};

/// An interrupt that no peripheral of the AN385 has (table 4-2).
pub(crate) const HIGH: u16 = 31;
/// Below the peripherals' interrupts, which are at 0: of the eight bits the upper three count.
const HIGH_PRIORITY: u8 = 0xc0;

/// A task of thread mode has become ready since those were last polled.
static READY: AtomicBool = AtomicBool::new(false);
static HIGH_EXECUTOR: AtomicPtr<raw::Executor> = AtomicPtr::new(core::ptr::null_mut());

#[unsafe(export_name = "__pender")]
fn pend(context: *mut ()) {
    if context.is_null() {
        READY.store(true, Ordering::Release);
    } else {
        NVIC::pend(Interrupt(HIGH));
    }
}

/// Starts the executor whose tasks break in on those of thread mode. Once.
///
/// # Safety
/// What is spawned there goes over to the interrupt: it must not be shared with thread mode, but
/// through critical sections.
pub unsafe fn high(peripherals: &mut cortex_m::Peripherals) -> Spawner {
    static EXECUTOR: StaticCell<raw::Executor> = StaticCell::new();
    let executor: &'static raw::Executor = EXECUTOR.init(raw::Executor::new(core::ptr::without_provenance_mut(1)));
    HIGH_EXECUTOR.store(core::ptr::from_ref(executor).cast_mut(), Ordering::Release);
    // SAFETY: a lower priority than that of any critical section's mask, which masks all.
    unsafe { peripherals.NVIC.set_priority(Interrupt(HIGH), HIGH_PRIORITY) };
    interrupts::enable(HIGH);
    executor.spawner()
}

/// Polls the tasks of [`high`].
pub(crate) fn on_interrupt() {
    // SAFETY: null, or what `high` made of a static.
    if let Some(executor) = unsafe { HIGH_EXECUTOR.load(Ordering::Acquire).as_ref() } {
        // SAFETY: only this interrupt polls it, and does not nest.
        unsafe { executor.poll() };
    }
}

/// An executor of the thread mode, for `#[embassy_executor::main]`.
pub struct Executor(raw::Executor);

impl Executor {
    /// One that has no tasks yet.
    #[allow(clippy::new_without_default, reason = "there is one, made by the macro")]
    pub fn new() -> Self {
        Self(raw::Executor::new(core::ptr::null_mut()))
    }

    /// Runs what `start` spawns, for ever.
    pub fn run(&'static mut self, start: impl FnOnce(Spawner)) -> ! {
        start(self.0.spawner());
        loop {
            READY.store(false, Ordering::Release);
            // SAFETY: `run` has the only reference, so polls neither overlap nor nest.
            unsafe { self.0.poll() };
            clock::sleep_unless(|| READY.load(Ordering::Acquire));
        }
    }
}
