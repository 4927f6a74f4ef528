//! The stack's bounds, its guard, and how deep it has been.
//!
//! It lies below all data (`memory.x`). Below it the MPU lets nothing be touched, so that an
//! overflow faults before it has harmed anything. (On the MPS2 itself there is nothing below
//! either; QEMU reads zeros there and says no word, hence the MPU.)

use crate::registers::Registers;

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

/// What `cortex-m-rt` paints the stack with before `main` (its feature `paint-stack`).
const PAINT: u32 = 0xcccc_cccc;

/// What the guard covers: 256 MiB, up to where the RAM begins.
pub(crate) const GUARD: core::ops::Range<u32> = 0x1000_0000..0x2000_0000;

// MPU registers (ARMv7-M Architecture Reference Manual B3.5).
const MPU_CTRL: usize = 0x94;
const MPU_RNR: usize = 0x98;
const MPU_RBAR: usize = 0x9c;
const MPU_RASR: usize = 0xa0;
/// On; where no region says otherwise, all is as without an MPU.
const MPU_CTRL_ON: u32 = 1 << 2 | 1;
/// Never executed, no access, 2^(27 + 1) bytes, on.
const MPU_RASR_GUARD: u32 = 1 << 28 | 27 << 1 | 1;

/// Guards the stack.
pub(crate) fn guard() {
    // SAFETY: the System Control Space; the region covers no memory that a program has.
    let mpu = unsafe { Registers::new(0xe000_ed00) };
    mpu.write(MPU_RNR, 0);
    mpu.write(MPU_RBAR, GUARD.start);
    mpu.write(MPU_RASR, MPU_RASR_GUARD);
    mpu.write(MPU_CTRL, MPU_CTRL_ON);
    cortex_m::asm::dsb();
    cortex_m::asm::isb();
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

/// Size of the stack, bytes.
pub fn size() -> u32 {
    let bounds = bounds();
    bounds.end - bounds.start
}

/// The most that has been in use since the start, bytes.
pub fn used_max() -> u32 {
    let bounds = bounds();
    let untouched = bounds.clone().step_by(4).take_while(|at| word(*at) == Some(PAINT)).count();
    size() - untouched as u32 * 4
}
