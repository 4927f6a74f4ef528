//! Faults and panics, kept in memory that a reset leaves as it is, and the reset that follows.

use core::mem::MaybeUninit;

use platform::kept::{BACKTRACE_MAX, Fault, Kept};

use crate::stack;

/// Kinds of [`Fault`], as the platform has them by custom.
const PANIC: u8 = 1;
const HARD_FAULT: u8 = 2;
const STACK_OVERFLOW: u8 = 3;
const INTERRUPT: u8 = 5;
/// Words of the stack that are searched for return addresses.
const SEARCHED_MAX: u32 = 256;
/// Bytes for the fault handler's own stack.
const FAULT_STACK_BYTES: usize = 512;

unsafe extern "Rust" {
    /// The board's own way to reset the processor.
    safe fn board_reset() -> !;
}

// Not cleared at start: cortex-m-rt leaves `.uninit` alone.
#[unsafe(link_section = ".uninit.kept")]
static KEPT: MaybeUninit<Kept> = MaybeUninit::uninit();

/// The fault handler's own: the program's may be what is wrong.
#[repr(C, align(8))]
struct FaultStack([u8; FAULT_STACK_BYTES]);

#[unsafe(link_section = ".uninit.faultstack")]
static mut FAULT_STACK: MaybeUninit<FaultStack> = MaybeUninit::uninit();

/// What is kept across resets.
pub fn kept() -> &'static Kept {
    // SAFETY: it is atomic words all through, and RAM always holds some word.
    unsafe { KEPT.assume_init_ref() }
}

/// Words from `from` on that look like return addresses: odd, within the program.
fn trace(from: u32) -> [u32; BACKTRACE_MAX] {
    unsafe extern "C" {
        static __stext: u32;
        static __etext: u32;
    }
    let text = (&raw const __stext) as u32..(&raw const __etext) as u32;
    let words = (0..SEARCHED_MAX).map_while(|index| stack::word(from + 4 * index));
    let mut found = words.filter(|word| word & 1 == 1 && text.contains(word));
    core::array::from_fn(|_| found.next().unwrap_or(0))
}

/// The fault status register; ARMv6-M has none.
fn status() -> u32 {
    #[cfg(armv6m)]
    return 0;
    #[cfg(not(armv6m))]
    // SAFETY: it is only read.
    unsafe {
        (*cortex_m::peripheral::SCB::PTR).cfsr.read()
    }
}

/// Called by the handler below with the exception's frame, on a stack of its own.
extern "C" fn note(frame: u32) -> ! {
    /// Stacking failed, or the limit of the stack was passed (Arm DDI 0403E B3.2.15, DDI 0553 D1.2.39).
    const STACKING: u32 = 1 << 4 | 1 << 12 | 1 << 20;
    let status = status();
    // The frame: r0–r3, r12, lr, pc, psr (DDI 0403E B1.5.6). It is not there when stacking it failed.
    let pc = if status & STACKING == 0 { stack::word(frame + 24) } else { None };
    // A frame outside the stack's memory: it has overflowed.
    let overflowed = status & STACKING != 0 || pc.is_none();
    let from = if overflowed { stack::bounds().start } else { frame + 20 };
    kept().note_fault(Fault {
        kind: if overflowed { STACK_OVERFLOW } else { HARD_FAULT },
        address: pc.unwrap_or(0),
        detail: status,
        backtrace: trace(from),
    });
    board_reset()
}

/// Calls [`note`] on its own stack, touching the program's no more. On ARMv6-M an overflow that
/// leaves no room for the exception's frame locks the processor up instead, and the watchdog resets it.
///
/// # Safety
/// For the vector table only.
#[unsafe(naked)]
#[unsafe(export_name = "HardFault")]
unsafe extern "C" fn hard_fault() -> ! {
    core::arch::naked_asm!(
        "mov r0, sp",
        "ldr r1, 1f",
        "mov sp, r1",
        "ldr r1, 2f",
        "bx r1",
        ".balign 4",
        "1: .word {stack} + {bytes}",
        "2: .word {note}",
        stack = sym FAULT_STACK,
        bytes = const FAULT_STACK_BYTES,
        note = sym note,
    )
}

/// An interrupt or exception that nobody serves.
#[unsafe(export_name = "DefaultHandler")]
extern "C" fn unexpected() -> ! {
    // SAFETY: it is only read.
    let active = unsafe { (*cortex_m::peripheral::SCB::PTR).icsr.read() } & 0x1ff;
    let backtrace = trace(here());
    kept().note_fault(Fault { kind: INTERRUPT, address: 0, detail: active, backtrace });
    board_reset()
}

fn here() -> u32 {
    cortex_m::register::msp::read()
}

/// Without a look at what the panic says: its texts and places would be in the flash. The backtrace says where.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    let backtrace = trace(here());
    kept().note_fault(Fault { kind: PANIC, address: backtrace[0], detail: 0, backtrace });
    board_reset()
}
