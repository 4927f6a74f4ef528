//! What a node says and hears: a record out of its ring into a report, a session, a snapshot, and
//! a sealed receipt or command.
#![no_std]
#![no_main]

use core::hint::black_box;

use panic_halt as _;
use telemetry::limits::{CONTROL_BYTES_MAX, REPORT_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use telemetry::mac::Key;
use telemetry::report::ReportWriter;
use telemetry::session::{Command, Nonce, Receipt, Session};
use telemetry::snapshot::Snapshot;
use telemetry::topic::Down;
use telemetry::{NodeName, Record};

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut report = [0; REPORT_BYTES_MAX];
    let mut control = [0; CONTROL_BYTES_MAX];
    let mut snapshot = [0; SNAPSHOT_BYTES_MAX];
    loop {
        let stored: &[u8] = black_box(&[]);
        let heard: &[u8] = black_box(&[]);
        if let Ok((boot, record)) = Record::decode(stored) {
            let mut writer = ReportWriter::new(&mut report, 1, 1, boot, 1);
            black_box(writer.push(&record).is_ok());
            black_box(writer.finish().is_ok());
            black_box(record.encode(boot, &mut control).is_ok());
            if let Record::Round(round) = record {
                let newest = Snapshot { boot, sent_ms: 1, round, actuators: 0, alarms: 0 };
                black_box(newest.encode(&mut snapshot).is_ok());
            }
        }
        if let Ok(session) = Session::decode(heard) {
            black_box(session.encode(&mut control).is_ok());
        }
        if let Ok(node) = NodeName::new(black_box("n")) {
            let key = Key::derive(black_box(&[0; 32]), &node);
            let nonce = Nonce(black_box([0; 8]));
            if let Ok(body) = key.open(&node, Down::Receipt, nonce, heard) {
                black_box(Receipt::decode(body).is_ok());
            }
            if let Ok(body) = key.open(&node, Down::Command, nonce, heard) {
                black_box(Command::decode(body).is_ok());
            }
        }
        black_box((&report, &control, &snapshot));
    }
}
