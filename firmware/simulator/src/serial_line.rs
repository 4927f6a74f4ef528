//! A Modbus line over a stream of bytes, in real time: what an emulated board's UART is joined to.
//!
//! Frames are told apart by what they are, and by silence where that does not help: QEMU gives its
//! UART's bytes as they are written, not at a rate. So a rate that is set wrong goes unseen here;
//! the lines of [`crate::host`] see it. Answers come when a probe would have sent them.

use std::collections::VecDeque;

use sensors::modbus::{LineSettings, crc16};
use telemetry::Property;

use crate::instrument::{Answer, Instrument};
use crate::relay_board::RelayBoard;

/// Longest frame, bytes (serial line guide §2.5.1).
const FRAME_MAX: usize = 256;
/// Answers on their way; what a babbling line sends beyond them is lost.
const ANSWERS_MAX: usize = 16;

/// Somebody on a line who may answer to a frame.
pub trait Slave {
    /// What it answers to the bytes of a frame that ended at `now_us`; `truth` gives what is true
    /// at a depth, m.
    fn hear(
        &mut self,
        frame: &[u8],
        line: LineSettings,
        now_us: u64,
        truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) -> Option<Answer>;
}

impl Slave for Instrument {
    fn hear(
        &mut self,
        frame: &[u8],
        line: LineSettings,
        now_us: u64,
        truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) -> Option<Answer> {
        // A profile that cannot be read is a probe that is not there.
        self.answer(frame, line, now_us, truth).ok().flatten()
    }
}

impl Slave for RelayBoard {
    fn hear(
        &mut self,
        frame: &[u8],
        line: LineSettings,
        now_us: u64,
        _truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) -> Option<Answer> {
        self.answer(frame, line, now_us)
    }
}

/// A line and what has come on it.
#[derive(Debug)]
pub struct SerialLine {
    settings: LineSettings,
    heard: Vec<u8>,
    heard_us: u64,
    answers: VecDeque<(u64, Vec<u8>)>,
    frames: u64,
}

impl SerialLine {
    /// A line on which nobody has spoken; answers take as long as characters do at these settings.
    pub fn new(settings: LineSettings) -> Self {
        Self { settings, heard: Vec::new(), heard_us: 0, answers: VecDeque::new(), frames: 0 }
    }

    /// Frames heard so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes what the board has sent, at `now_us`.
    pub fn on_bytes(
        &mut self,
        bytes: &[u8],
        now_us: u64,
        slaves: &mut [&mut dyn Slave],
        truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) {
        if now_us.saturating_sub(self.heard_us) > self.settings.frame_gap_us() {
            self.end_frame(slaves, truth);
        }
        self.heard_us = now_us;
        for byte in bytes {
            if self.heard.len() == FRAME_MAX {
                self.heard.clear();
            }
            self.heard.push(*byte);
            if is_request(&self.heard) {
                self.end_frame(slaves, truth);
            }
        }
    }

    /// What has to be sent to the board by `now_us`, and what is lost to silence by then ends.
    pub fn poll(
        &mut self,
        now_us: u64,
        slaves: &mut [&mut dyn Slave],
        truth: &dyn Fn(Property, f64) -> Option<f64>,
    ) -> Vec<u8> {
        if now_us.saturating_sub(self.heard_us) > self.settings.frame_gap_us() {
            self.end_frame(slaves, truth);
        }
        let mut due = Vec::new();
        while let Some((_, bytes)) = self.answers.pop_front_if(|(at_us, _)| *at_us <= now_us) {
            due.extend(bytes);
        }
        due
    }

    /// When it has to be polled, µs.
    pub fn wake_us(&self) -> u64 {
        let silence_us = self.heard_us + self.settings.frame_gap_us() + 1;
        let answer_us = self.answers.front().map_or(u64::MAX, |(at_us, _)| *at_us);
        if self.heard.is_empty() { answer_us } else { answer_us.min(silence_us) }
    }

    fn end_frame(&mut self, slaves: &mut [&mut dyn Slave], truth: &dyn Fn(Property, f64) -> Option<f64>) {
        let frame = std::mem::take(&mut self.heard);
        if frame.is_empty() {
            return;
        }
        self.frames += 1;
        // The board's own bytes took no time; on a line they would have.
        let ended_us = self.heard_us + self.settings.chars_us(frame.len());
        for slave in slaves {
            if let Some(answer) = slave.hear(&frame, self.settings, ended_us, truth)
                && self.answers.len() < ANSWERS_MAX
            {
                let at_us = ended_us + answer.after_us;
                let place = self.answers.partition_point(|(other_us, _)| *other_us <= at_us);
                self.answers.insert(place, (at_us, answer.bytes));
            }
        }
    }
}

/// Whether these are all bytes of a request, by its function's length and its check sum.
fn is_request(bytes: &[u8]) -> bool {
    let length = match bytes {
        // Application protocol §6: 1–6 have four bytes behind the function, 15 and 16 say how many.
        [_, 1..=6, ..] => 8,
        [_, 15 | 16, _, _, _, _, count, ..] => 9 + usize::from(*count),
        _ => return false,
    };
    bytes.len() == length && crc16(&bytes[..length - 2]).to_le_bytes() == bytes[length - 2..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every frame with one byte, the frame's length.
    struct Counter(u64);

    impl Slave for Counter {
        fn hear(
            &mut self,
            frame: &[u8],
            _: LineSettings,
            _: u64,
            _: &dyn Fn(Property, f64) -> Option<f64>,
        ) -> Option<Answer> {
            Some(Answer { after_us: self.0, bytes: vec![frame.len() as u8] })
        }
    }

    const READ: [u8; 8] = [1, 3, 0, 0, 0, 1, 0x84, 0x0a];

    fn nothing(_: Property, _: f64) -> Option<f64> {
        None
    }

    #[test]
    fn a_request_is_answered_after_its_own_and_the_probes_time() {
        let mut line = SerialLine::new(LineSettings::DEFAULT);
        let slave: &mut dyn Slave = &mut Counter(20_000);
        line.on_bytes(&READ, 1_000, &mut [slave], &nothing);
        // 8 characters of 10 bits at 9600 bit/s.
        let at_us = 1_000 + 8_334 + 20_000;
        assert_eq!(line.wake_us(), at_us);
        assert!(line.poll(at_us - 1, &mut [], &nothing).is_empty());
        assert_eq!(line.poll(at_us, &mut [], &nothing), [8]);
        assert_eq!((line.wake_us(), line.frames()), (u64::MAX, 1));
    }

    #[test]
    fn requests_in_one_piece_are_told_apart_and_halves_are_joined() {
        let mut line = SerialLine::new(LineSettings::DEFAULT);
        let slave: &mut dyn Slave = &mut Counter(0);
        let write = [[1, 16, 0, 0, 0, 1, 2, 0, 7].as_slice(), &crc16(&[1, 16, 0, 0, 0, 1, 2, 0, 7]).to_le_bytes()];
        let stream = [&READ[..], &write.concat(), &READ].concat();
        let (a, b) = stream.split_at(13);
        line.on_bytes(a, 0, &mut [slave], &nothing);
        line.on_bytes(b, 1_000, &mut [slave], &nothing);
        assert_eq!(line.poll(1_000_000, &mut [], &nothing), [8, 8, 11]);
    }

    #[test]
    fn silence_ends_what_is_no_request() {
        let mut line = SerialLine::new(LineSettings::DEFAULT);
        let slave: &mut dyn Slave = &mut Counter(0);
        line.on_bytes(&READ[..5], 0, &mut [slave], &nothing);
        // 3.5 characters.
        assert_eq!(line.wake_us(), 3_647);
        assert!(line.poll(3_646, &mut [slave], &nothing).is_empty());
        line.on_bytes(&READ, 3_647, &mut [slave], &nothing);
        assert_eq!(line.poll(1_000_000, &mut [], &nothing), [5, 8]);
    }
}
