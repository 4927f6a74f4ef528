//! What the processor starts: the few words at the flash's beginning that start image A.
//!
//! They say the same whatever the image is, so an image can be replaced without touching them, and
//! one day they can be replaced by a loader that chooses between the two images: the room is there.

core::arch::global_asm!(
    ".section .loader, \"ax\", %progbits",
    ".global __loader",
    ".balign 4",
    "__loader:",
    // The first two vectors: stack and start.
    ".word _stack_start",
    ".word __loader_start",
    ".thumb_func",
    ".type __loader_start, %function",
    "__loader_start:",
    // VTOR (Arm DDI 0419E B3.2.5, DDI 0403E B3.2.5).
    "ldr r1, 2f",
    "ldr r0, 1f",
    "str r0, [r1]",
    "ldr r1, [r0]",
    "msr msp, r1",
    "ldr r0, [r0, #4]",
    "bx r0",
    ".balign 4",
    "1: .word __vector_table",
    "2: .word 0xe000ed08",
);
