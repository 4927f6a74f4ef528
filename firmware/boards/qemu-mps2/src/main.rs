//! The node on the emulated board.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use qemu_mps2::uart::Uart;

#[embassy_executor::main(entry = "cortex_m_rt::entry", executor = "qemu_mps2::executor::Executor")]
async fn main(_spawner: Spawner) {
    let board = qemu_mps2::start();
    let Some(mut console) = Uart::open(0, 115_200) else { qemu_mps2::reset::restart() };
    let Ok(_sent) = embedded_io_async::Write::write(&mut console, b"started\n").await;
    let _ = board;
}
