//! One Modbus probe read by its profile: frames, time-outs, retries, conversion.
#![no_std]
#![no_main]

use core::hint::black_box;

use panic_halt as _;
use sensors::profile::{Profile, Slot};

#[cortex_m_rt::entry]
fn main() -> ! {
    loop {
        if let Ok(profile) = Profile::decode(black_box(&[])) {
            let mut slot = Slot::new(&profile, black_box(1), profile.settings(), 0);
            slot.on_rx(black_box(&[]), black_box(1));
            black_box(slot.poll(&profile, black_box(2)));
            black_box((slot.samples(), slot.tx_bytes()));
        }
    }
}
