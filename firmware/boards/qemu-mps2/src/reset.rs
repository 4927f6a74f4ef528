//! Why the board was reset, kept in memory that a reset leaves as it is.
//!
//! Whoever resets on purpose says so first: the program, the fault handler, the watchdog's NMI. A
//! fault leaves where it was and the return addresses that were on the stack.

use core::mem::MaybeUninit;

use crate::stack;

/// Return addresses that are kept of a fault.
pub const TRACE_MAX: usize = 8;
/// Words of the stack that are searched for return addresses.
const SEARCHED_MAX: u32 = 256;
/// Bytes for the fault handlers' own stack.
const FAULT_STACK_BYTES: usize = 512;

/// What is kept is whole.
const MAGIC: u32 = u32::from_le_bytes(*b"TyRs");

// Fault status (ARMv7-M Architecture Reference Manual B3.2.15).
const CFSR_STACKING: u32 = 1 << 4 | 1 << 12;
const CFSR_MEMORY_ADDRESS: u32 = 1 << 7;
const CFSR_BUS_ADDRESS: u32 = 1 << 15;

/// Why the board starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// Power came: the memory held nothing.
    Power = 1,
    /// Reset from outside, or by the watchdog without its NMI: nobody has said why.
    Unknown = 2,
    /// The program asked for it.
    Software = 3,
    /// The watchdog bit; the fault is where the processor hung.
    Watchdog = 4,
    /// The processor faulted.
    Fault = 5,
    /// The stack overflowed.
    StackOverflow = 6,
    /// The program panicked.
    Panic = 7,
}

/// Where a fault was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Address of the instruction; 0 when it is not known.
    pub pc: u32,
    /// The link register then; 0 when it is not known.
    pub lr: u32,
    /// The processor's fault status, CFSR.
    pub status: u32,
    /// The address that was touched; 0 when there was none.
    pub address: u32,
    /// Words from the stack that look like return addresses, innermost first; then zeros.
    pub trace: [u32; TRACE_MAX],
}

impl Fault {
    const NONE: Self = Self { pc: 0, lr: 0, status: 0, address: 0, trace: [0; TRACE_MAX] };
}

/// What a start knows of the run before it.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Why the board starts.
    pub cause: Cause,
    /// Resets since power came.
    pub resets: u32,
    /// Where the run before this ended, when it did not end on purpose.
    pub fault: Option<Fault>,
    /// What was last given to [`keep`]; 0 after power came.
    pub kept: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Kept {
    magic: u32,
    cause: u32,
    resets: u32,
    word: u32,
    fault: Fault,
}

#[unsafe(link_section = ".uninit.reset")]
static mut KEPT: MaybeUninit<Kept> = MaybeUninit::uninit();

/// The fault handlers' own: the program's may be what is wrong.
#[repr(C, align(8))]
struct FaultStack([u8; FAULT_STACK_BYTES]);

#[unsafe(link_section = ".uninit.reset")]
static mut FAULT_STACK: MaybeUninit<FaultStack> = MaybeUninit::uninit();

fn kept() -> Kept {
    // SAFETY: any bits make a `Kept`: it is integers all through. Nobody holds a reference.
    unsafe { core::ptr::read_volatile((&raw const KEPT).cast::<Kept>()) }
}

fn set_kept(kept: Kept) {
    // SAFETY: nobody holds a reference; single words are not torn, and the magic is among them.
    unsafe { core::ptr::write_volatile((&raw mut KEPT).cast::<Kept>(), kept) }
}

/// Tells of the run before this one. Once, at the start.
pub(crate) fn boot() -> Boot {
    let before = kept();
    let fresh = before.magic != MAGIC;
    let cause = match before.cause {
        _ if fresh => Cause::Power,
        3 => Cause::Software,
        4 => Cause::Watchdog,
        5 => Cause::Fault,
        6 => Cause::StackOverflow,
        7 => Cause::Panic,
        _ => Cause::Unknown,
    };
    let known = matches!(cause, Cause::Watchdog | Cause::Fault | Cause::StackOverflow | Cause::Panic);
    let (resets, word) = if fresh { (0, 0) } else { (before.resets.wrapping_add(1), before.word) };
    set_kept(Kept { magic: MAGIC, cause: Cause::Unknown as u32, resets, word, fault: Fault::NONE });
    Boot { cause, resets, fault: known.then_some(before.fault), kept: word }
}

/// Keeps a word for the next start, through any reset but not through a loss of power.
pub fn keep(word: u32) {
    critical_section::with(|_| set_kept(Kept { word, ..kept() }));
}

/// Resets the board on purpose.
pub fn restart() -> ! {
    end(Cause::Software, Fault::NONE)
}

fn end(cause: Cause, fault: Fault) -> ! {
    set_kept(Kept { cause: cause as u32, fault, ..kept() });
    cortex_m::peripheral::SCB::sys_reset()
}

/// Words from `from` on that look like return addresses: odd, within the program, behind a call.
fn trace(from: u32) -> [u32; TRACE_MAX] {
    unsafe extern "C" {
        static __stext: u32;
        static __etext: u32;
    }
    let text = (&raw const __stext) as u32..(&raw const __etext) as u32;
    let words = (0..SEARCHED_MAX).map_while(|index| stack::word(from + 4 * index));
    let mut found = words.filter(|word| word & 1 == 1 && text.contains(word));
    core::array::from_fn(|_| found.next().unwrap_or(0))
}

/// Called by the handlers below with the exception's frame, on a stack of its own.
extern "C" fn note(frame: u32) -> ! {
    // SAFETY: read-only use of the System Control Space.
    let scb = unsafe { &*cortex_m::peripheral::SCB::PTR };
    let status = scb.cfsr.read();
    let address = if status & CFSR_MEMORY_ADDRESS != 0 {
        scb.mmfar.read()
    } else if status & CFSR_BUS_ADDRESS != 0 {
        scb.bfar.read()
    } else {
        0
    };
    // VECTACTIVE: 2 is the NMI (B3.2.4).
    let cause = if scb.icsr.read() & 0x1ff == 2 {
        Cause::Watchdog
    } else if status & CFSR_STACKING != 0 || stack::GUARD.contains(&address) {
        Cause::StackOverflow
    } else {
        Cause::Fault
    };
    // The frame: r0–r3, r12, lr, pc, psr (B1.5.6). It is not there when stacking it failed.
    let whole = status & CFSR_STACKING == 0;
    let of_frame = |index: u32| if whole { stack::word(frame + 4 * index) } else { None };
    let trace = trace(if whole { frame + 32 } else { stack::bounds().start });
    let (lr, pc) = (of_frame(5).unwrap_or(0), of_frame(6).unwrap_or(0));
    end(cause, Fault { pc, lr, status, address, trace })
}

macro_rules! handler {
    ($name:literal, $function:ident) => {
        /// Calls [`note`] on its own stack, touching the program's no more.
        ///
        /// # Safety
        /// For the vector table only.
        #[unsafe(naked)]
        #[unsafe(export_name = $name)]
        unsafe extern "C" fn $function() -> ! {
            core::arch::naked_asm!(
                "mov r0, sp",
                "movw r1, #:lower16:{stack}",
                "movt r1, #:upper16:{stack}",
                "add r1, r1, #{bytes}",
                "mov sp, r1",
                "b {note}",
                stack = sym FAULT_STACK,
                bytes = const FAULT_STACK_BYTES,
                note = sym note,
            )
        }
    };
}
handler!("HardFault", hard_fault);
handler!("NonMaskableInt", non_maskable);

/// Does not look at the panic: its texts and places would take a tenth of the flash. The return addresses
/// tell where it was.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    end(Cause::Panic, Fault { trace: trace(cortex_m::register::msp::read()), ..Fault::NONE })
}
