//! The stack's bounds, its guard, and how deep it has been.
//!
//! It lies below all data, at the beginning of the RAM (`memory.x`), so one that overflows leaves the
//! RAM instead of overwriting what the program knows.

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

/// What `cortex-m-rt` paints the stack with before `main` (its feature `paint-stack`).
const PAINT: u32 = 0xcccc_cccc;

/// Guards the stack: ARMv8-M has a limit register for that; before it, the MPU forbids the 32 KiB below
/// the RAM, where nothing is that a program uses.
pub fn guard() {
    #[cfg(armv8m)]
    // SAFETY: the limit is the end of the stack's own memory.
    unsafe {
        core::arch::asm!("msr MSPLIM, {}", in(reg) (&raw const _stack_end) as u32)
    };
    #[cfg(not(armv8m))]
    {
        use cortex_m::peripheral::MPU;

        /// Never executed, no access, 2^(14 + 1) bytes, on (Arm DDI 0403E B3.5.9, DDI 0419E B3.5.8).
        const NO_ACCESS: u32 = 1 << 28 | 14 << 1 | 1;
        /// On; where no region says otherwise, all is as without an MPU.
        const ON: u32 = 1 << 2 | 1;
        const SIZE: u32 = 0x8000;
        // SAFETY: called once at the start; the region has no memory that a program uses.
        let mpu = unsafe { &*MPU::PTR };
        // SAFETY: as above.
        unsafe {
            mpu.rnr.write(0);
            mpu.rbar.write(bounds().start - SIZE);
            mpu.rasr.write(NO_ACCESS);
            mpu.ctrl.write(ON);
        }
        cortex_m::asm::dsb();
        cortex_m::asm::isb();
    }
}

/// Addresses of the stack.
pub(crate) fn bounds() -> core::ops::Range<u32> {
    (&raw const _stack_end) as u32..(&raw const _stack_start) as u32
}

/// A word of the stack; `None` outside it.
pub(crate) fn word(at: u32) -> Option<u32> {
    let bounds = bounds();
    let inside = at.is_multiple_of(4) && bounds.contains(&at);
    // SAFETY: aligned, and within the stack's memory, whatever is there.
    inside.then(|| unsafe { core::ptr::read_volatile(at as *const u32) })
}

/// Deepest that the stack has been since the start, and its size, bytes.
pub fn depth() -> (u32, u32) {
    let bounds = bounds();
    let untouched = bounds.clone().step_by(4).take_while(|at| word(*at) == Some(PAINT)).count();
    let size = bounds.end - bounds.start;
    (size - untouched as u32 * 4, size)
}
