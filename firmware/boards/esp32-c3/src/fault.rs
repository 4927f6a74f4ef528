//! Faults and panics, kept in memory that a reset leaves as it is, and the reset that follows; the stack's depth.
//!
//! esp-hal watches the word at the stack's end and makes a panic of each exception; what the processor says
//! of it is still in its registers then.

use core::mem::MaybeUninit;

use platform::kept::{BACKTRACE_MAX, Fault, Kept};
use riscv::register::{mcause, mepc, mtval};

/// Kinds of [`Fault`], as the platform has them by custom.
const PANIC: u8 = 1;
const HARD_FAULT: u8 = 2;
const STACK_OVERFLOW: u8 = 3;
/// Causes that esp-hal makes of an overflow: its own, and the watchpoint on the stack's end.
const OVERFLOW_CAUSES: [usize; 2] = [14, 3];
/// What the stack is painted with.
const PAINT: u32 = 0xcccc_cccc;
/// Bytes at the stack's end that are esp-hal's: its guard, and what it keeps below it (esp_config.yml,
/// `stack-guard-offset`).
const GUARD_BYTES: u32 = 64;
/// Bytes above the painted part that the painter itself needs.
const PAINTER_BYTES: u32 = 512;

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

// Not cleared at start but when power comes: as esp-hal's `ram(unstable(rtc_fast, persistent))` places it.
#[unsafe(link_section = ".rtc_fast.persistent")]
static KEPT: MaybeUninit<Kept> = MaybeUninit::zeroed();

/// What is kept across resets.
pub(crate) fn kept() -> &'static Kept {
    // SAFETY: it is atomic words all through, and RAM always holds some word.
    unsafe { KEPT.assume_init_ref() }
}

fn painted() -> core::ops::Range<u32> {
    (&raw const _stack_end) as u32 + GUARD_BYTES..(&raw const _stack_start) as u32
}

/// Paints what of the stack is not in use. Once, first of all.
#[inline(never)]
pub(crate) fn paint_stack() {
    let here: u32;
    // SAFETY: it reads the stack pointer.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) here) };
    for at in (painted().start..here.saturating_sub(PAINTER_BYTES)).step_by(4) {
        // SAFETY: below the stack pointer, within the stack's memory, which nobody else has.
        unsafe { core::ptr::write_volatile(at as *mut u32, PAINT) };
    }
}

/// Deepest that the stack has been since the start, and its size, bytes.
pub(crate) fn stack_depth() -> (u32, u32) {
    let painted = painted();
    // SAFETY: aligned words of the stack's memory, whatever is there.
    let is_untouched = |at: &u32| unsafe { core::ptr::read_volatile(*at as *const u32) == PAINT };
    let untouched = painted.clone().step_by(4).take_while(is_untouched).count();
    let size = painted.end - painted.start;
    (size - untouched as u32 * 4, size)
}

/// Return addresses, newest first, as frame pointers lead to them (RISC-V calling convention).
#[inline(never)]
fn trace() -> [u32; BACKTRACE_MAX] {
    /// The RAM that frames can be in (ESP32-C3 technical reference manual, table 3.3-1).
    const RAM: core::ops::Range<u32> = 0x3fc8_0000..0x3fce_0000;
    let mut frame: u32;
    // SAFETY: it reads the frame pointer.
    unsafe { core::arch::asm!("mv {}, s0", out(reg) frame) };
    core::array::from_fn(|_| {
        if !RAM.contains(&frame.wrapping_sub(8)) || !frame.is_multiple_of(4) {
            return 0;
        }
        // SAFETY: aligned words of the RAM, whatever is there.
        let (ra, before) =
            unsafe { ((frame as *const u32).sub(1).read_volatile(), (frame as *const u32).sub(2).read_volatile()) };
        frame = before;
        ra
    })
}

/// Resets the chip.
pub(crate) fn reset() -> ! {
    esp_hal::system::software_reset()
}

/// Without a look at what the panic says: its texts and places would be in the flash.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    let backtrace = trace();
    let [newest, ..] = backtrace;
    // Every exception ends here, so the last trap was one only if this is it; 0 is what a start leaves.
    let cause = mcause::read();
    let fault = if cause.is_exception() && cause.bits() != 0 {
        let kind = if OVERFLOW_CAUSES.contains(&cause.code()) { STACK_OVERFLOW } else { HARD_FAULT };
        let detail = (cause.code() as u32) << 27 | mtval::read() as u32 & 0x07ff_ffff;
        Fault { kind, address: mepc::read() as u32, detail, backtrace }
    } else {
        Fault { kind: PANIC, address: newest, detail: 0, backtrace }
    };
    kept().note_fault(fault);
    reset()
}
