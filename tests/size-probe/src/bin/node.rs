//! The whole node core as a board uses it: a config decoded from its image, boot, rounds, messages,
//! a new config. The node itself is static, as on a board.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::hint::black_box;
use core::mem::MaybeUninit;

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use node::sample::Lines;
use node::{Identity, Io, Node, RestartCause};
use panic_halt as _;
use sensors::modbus::LineSettings;
use telemetry::mac::Key;
use telemetry::topic::{Down, Up};
use telemetry::{MissingReason, NodeName};

/// The smallest flash driver there can be.
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

/// Lines, inputs, outputs and MQTT that go nowhere.
struct Board;

impl Lines for Board {
    fn send(&mut self, bus: u8, line: &LineSettings, frame: &[u8]) {
        black_box((bus, line, frame));
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        black_box((bus, buffer)).1.len()
    }
}

impl Io for Board {
    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        Ok(black_box(f32::from(input)))
    }

    fn switch(&mut self, actuator: u8, on: bool) {
        black_box((actuator, on));
    }

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        black_box((channel, payload)).1.is_empty()
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    static mut NODE: MaybeUninit<Node<Flash>> = MaybeUninit::uninit();
    let mut board = Board;
    loop {
        let image: &[u8] = black_box(&[]);
        let Ok(name) = NodeName::new(black_box("n")) else { continue };
        let identity = Identity { name, key: Key::new(black_box([0; 32])), firmware: "0.1.0", board: "probe" };
        let node = NODE.write(Node::new(identity));
        if node.boot(Flash, image, black_box(1), 0, RestartCause::Power).is_err() {
            continue;
        }
        let now_us = black_box(1);
        node.connected(now_us);
        for kind in [Down::Receipt, Down::Command, Down::Config] {
            if let Some(image) = node.message(kind, black_box(&[]), now_us) {
                black_box(node.apply(image, now_us).is_ok());
            }
        }
        black_box(node.poll(now_us, &mut board));
        node.disconnected(now_us);
        black_box((node.is_config_proven(), node.alarms(), node.counters()));
    }
}
