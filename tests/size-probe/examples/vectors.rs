//! Computes the domain's vectors and says which of them it misses, then ends the emulation: well
//! only when there are none.
#![no_std]
#![no_main]

use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS, exit};
use cortex_m_semihosting::hprintln;

#[path = "../../../firmware/node/tests/vectors/mod.rs"]
mod vectors;

#[cortex_m_rt::entry]
fn main() -> ! {
    let (mut count, mut missed) = (0, 0);
    vectors::all(&mut |vector| {
        count += 1;
        if !vector.is_met() {
            missed += 1;
            hprintln!("missed: {}", vector);
        }
    });
    hprintln!("{} vectors, {} missed", count, missed);
    loop {
        exit(if count > 0 && missed == 0 { EXIT_SUCCESS } else { EXIT_FAILURE });
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    hprintln!("{}", info);
    loop {
        exit(EXIT_FAILURE);
    }
}
