//! The node's flash ring over the smallest flash driver there can be.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::hint::black_box;

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use node::ring::Ring;
use panic_halt as _;
use telemetry::limits::RECORD_BYTES_MAX;

struct Flash;

impl ErrorType for Flash {
    type Error = Infallible;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        black_box((offset, bytes));
        Ok(())
    }

    fn capacity(&self) -> usize {
        black_box(1 << 20)
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        black_box((from, to));
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        black_box((offset, bytes));
        Ok(())
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut buffer = [0; RECORD_BYTES_MAX];
    loop {
        if let Ok((mut ring, made)) = Ring::open_or_format(Flash, black_box(1)) {
            black_box(made);
            black_box(ring.append(black_box(&[1])).is_ok());
            black_box(ring.read(black_box(1), &mut buffer).is_ok());
            black_box(ring.advance(black_box(9)).is_ok());
            black_box((ring.id(), ring.floor(), ring.next_seq()));
        }
    }
}
