//! Runs tasks, and sleeps in between.
//!
//! embassy's own executor sleeps by `WFE`, which QEMU takes for nothing: it would use a core of
//! the host for each board. This one sleeps by `WFI`, and counts for how long, so that a duty
//! cycle can be measured.

use core::sync::atomic::{AtomicBool, Ordering};

use embassy_executor::{Spawner, raw};

use crate::clock;

/// A task has become ready since tasks were last polled.
static READY: AtomicBool = AtomicBool::new(false);

#[unsafe(export_name = "__pender")]
fn pend(_context: *mut ()) {
    READY.store(true, Ordering::Release);
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
