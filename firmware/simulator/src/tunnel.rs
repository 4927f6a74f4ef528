//! The host's end of the emulated board's tunnel: what QEMU lacks, answered by simulated parts.
//!
//! Bytes and time come in, bytes go out; whoever owns the socket passes them on.

use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource, Operation};
use emulation::tunnel::{self, Finder, READ, SAMPLES_MAX, Status};

use crate::world::World;

/// Silence after which the end of a frame will not come, µs: the board has been killed in the
/// middle of it.
const SILENCE_US: u64 = 50_000;

/// When something is asked, and of what world.
pub struct Moment<'w> {
    /// Time since the simulation began, µs.
    pub now_us: u64,
    /// What is true, and what outputs change.
    pub world: &'w mut dyn World,
}

/// What is at the board's pins and buses. Nothing, unless said otherwise: `None` is what a number
/// gives that the board does not have.
pub trait Peripherals {
    /// A transaction on an I2C bus.
    ///
    /// # Errors
    /// When nobody acknowledges, or the bus is held.
    fn i2c(
        &mut self,
        _bus: u8,
        _address: u8,
        _operations: &mut [Operation<'_>],
        _at: &mut Moment<'_>,
    ) -> Option<Result<(), ErrorKind>> {
        None
    }

    /// The board drives an output pin; the level that it then has.
    fn set_pin(&mut self, _pin: u8, _high: bool, _at: &mut Moment<'_>) -> Option<bool> {
        None
    }

    /// The level of a pin.
    fn pin(&mut self, _pin: u8, _at: &mut Moment<'_>) -> Option<bool> {
        None
    }

    /// Whether a contact is closed.
    fn contact(&mut self, _input: u8, _at: &mut Moment<'_>) -> Option<bool> {
        None
    }

    /// Pulses since the counter began, modulo 2³².
    fn pulses(&mut self, _counter: u8, _at: &mut Moment<'_>) -> Option<u32> {
        None
    }

    /// The converter begins a window of samples.
    fn start_adc(&mut self, _channel: u8, _at: &mut Moment<'_>) -> Option<()> {
        None
    }

    /// Samples of the window from number `first` on, at most `count`, as far as it has come.
    fn adc(&mut self, _channel: u8, _first: u8, _count: u8, _at: &mut Moment<'_>) -> Option<Vec<u16>> {
        None
    }

    /// A reset of a 1-Wire bus; whether a part tells its presence.
    fn one_wire_reset(&mut self, _bus: u8, _at: &mut Moment<'_>) -> Option<bool> {
        None
    }

    /// A bit from the board.
    fn one_wire_write(&mut self, _bus: u8, _bit: bool, _at: &mut Moment<'_>) -> Option<()> {
        None
    }

    /// A bit for the board.
    fn one_wire_read(&mut self, _bus: u8, _at: &mut Moment<'_>) -> Option<bool> {
        None
    }
}

/// One connection's state.
#[derive(Debug, Default)]
pub struct Tunnel {
    finder: Finder,
    heard_us: u64,
    questions: u64,
}

impl Tunnel {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Questions answered so far.
    pub fn questions(&self) -> u64 {
        self.questions
    }

    /// Takes what the board has sent; what goes back to it.
    pub fn on_bytes(&mut self, bytes: &[u8], at: &mut Moment<'_>, parts: &mut dyn Peripherals) -> Vec<u8> {
        if at.now_us.saturating_sub(self.heard_us) > SILENCE_US {
            self.finder.forget();
        }
        self.heard_us = at.now_us;
        let mut answers = Vec::new();
        for byte in bytes {
            self.finder.push(*byte);
            while let Some(frame) = self.finder.next_frame() {
                let outcome = match tunnel::Operation::from_byte(frame.operation) {
                    Some(operation) => answer(operation, frame.payload, at, parts),
                    None => Err(Status::Malformed),
                };
                let payload = match outcome {
                    Ok(mut data) => {
                        data.insert(0, Status::Done as u8);
                        data
                    }
                    Err(status) => vec![status as u8],
                };
                let whole = tunnel::frame(frame.number, frame.operation, &payload)
                    .or_else(|| tunnel::frame(frame.number, frame.operation, &[Status::Malformed as u8]));
                answers.extend(whole.into_iter().flatten());
                self.questions += 1;
            }
        }
        answers
    }
}

/// What follows [`Status::Done`], or the other status.
fn answer(
    operation: tunnel::Operation,
    payload: &[u8],
    at: &mut Moment<'_>,
    parts: &mut dyn Peripherals,
) -> Result<Vec<u8>, Status> {
    use tunnel::Operation as Of;

    let there = |level: Option<bool>| level.map(|it| vec![u8::from(it)]);
    let outcome = match (operation, payload) {
        (Of::I2c, &[bus, address, ref operations @ ..]) => return i2c(bus, address, operations, at, parts),
        (Of::SetPin, &[pin, level @ (0 | 1)]) => there(parts.set_pin(pin, level == 1, at)),
        (Of::GetPin, &[pin]) => there(parts.pin(pin, at)),
        (Of::Pulses, &[counter]) => parts.pulses(counter, at).map(|it| it.to_le_bytes().to_vec()),
        (Of::Contact, &[input]) => there(parts.contact(input, at)),
        (Of::StartAdc, &[channel]) => parts.start_adc(channel, at).map(|()| Vec::new()),
        (Of::Adc, &[channel, first, count]) if usize::from(count) <= SAMPLES_MAX => {
            let samples = parts.adc(channel, first, count, at);
            samples.map(|it| it.into_iter().take(count.into()).flat_map(u16::to_le_bytes).collect())
        }
        (Of::OneWireReset, &[bus]) => there(parts.one_wire_reset(bus, at)),
        (Of::OneWireWrite, &[bus, bit @ (0 | 1)]) => parts.one_wire_write(bus, bit == 1, at).map(|()| Vec::new()),
        (Of::OneWireRead, &[bus]) => there(parts.one_wire_read(bus, at)),
        (Of::OneWireWriteBytes, &[bus, ref bytes @ ..]) => {
            let mut bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
            bits.try_for_each(|bit| parts.one_wire_write(bus, bit, at)).map(|()| Vec::new())
        }
        (Of::OneWireReadBytes, &[bus, count]) => (0..count)
            .map(|_| (0..8).try_fold(0, |byte, bit| Some(byte | u8::from(parts.one_wire_read(bus, at)?) << bit)))
            .collect(),
        _ => return Err(Status::Malformed),
    };
    outcome.ok_or(Status::Absent)
}

fn i2c(
    bus: u8,
    address: u8,
    mut operations: &[u8],
    at: &mut Moment<'_>,
    parts: &mut dyn Peripherals,
) -> Result<Vec<u8>, Status> {
    /// A read by its length, a write by its bytes.
    enum Transfer<'b> {
        Read(Vec<u8>),
        Write(&'b [u8]),
    }
    let mut transfers = Vec::new();
    while let Some((length, rest)) = operations.split_first() {
        let count = usize::from(length & !READ);
        operations = if length & READ != 0 {
            transfers.push(Transfer::Read(vec![0; count]));
            rest
        } else {
            let (bytes, rest) = rest.split_at_checked(count).ok_or(Status::Malformed)?;
            transfers.push(Transfer::Write(bytes));
            rest
        };
    }
    let mut list: Vec<Operation<'_>> = transfers
        .iter_mut()
        .map(|transfer| match transfer {
            Transfer::Read(bytes) => Operation::Read(bytes),
            Transfer::Write(bytes) => Operation::Write(bytes),
        })
        .collect();
    match parts.i2c(bus, address, &mut list, at).ok_or(Status::Absent)? {
        Ok(()) => {}
        Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data)) => return Err(Status::NoData),
        Err(ErrorKind::NoAcknowledge(_)) => return Err(Status::NoAddress),
        Err(_) => return Err(Status::Held),
    }
    let read = transfers.into_iter().filter_map(|transfer| match transfer {
        Transfer::Read(bytes) => Some(bytes),
        Transfer::Write(_) => None,
    });
    Ok(read.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Pond;

    /// A part at 0x44 that gives back what was written to it, a bus 1 that is held, a pin that
    /// sticks, and a 1-Wire bus that repeats what it hears.
    #[derive(Default)]
    struct Bench {
        written: Vec<u8>,
        bits: std::collections::VecDeque<bool>,
    }

    impl Peripherals for Bench {
        fn i2c(
            &mut self,
            bus: u8,
            address: u8,
            ops: &mut [Operation<'_>],
            _: &mut Moment<'_>,
        ) -> Option<Result<(), ErrorKind>> {
            match (bus, address) {
                (0, 0x44) => {
                    for operation in ops {
                        match operation {
                            Operation::Write(bytes) => self.written = bytes.to_vec(),
                            Operation::Read(bytes) => bytes.fill_with(|| self.written.pop().unwrap_or(0xff)),
                        }
                    }
                    Some(Ok(()))
                }
                (0, 0x45) => Some(Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data))),
                (0, _) => Some(Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address))),
                (1, _) => Some(Err(ErrorKind::ArbitrationLoss)),
                _ => None,
            }
        }

        fn set_pin(&mut self, pin: u8, high: bool, _: &mut Moment<'_>) -> Option<bool> {
            [Some(high), Some(false)].get(usize::from(pin)).copied().flatten()
        }

        fn pulses(&mut self, counter: u8, at: &mut Moment<'_>) -> Option<u32> {
            (counter == 0).then_some(at.now_us as u32)
        }

        fn adc(&mut self, _: u8, first: u8, count: u8, _: &mut Moment<'_>) -> Option<Vec<u16>> {
            Some((first.into()..).map(|n: u16| n << 8).take(usize::from(count) + 5).collect())
        }

        fn one_wire_write(&mut self, _: u8, bit: bool, _: &mut Moment<'_>) -> Option<()> {
            self.bits.push_back(bit);
            Some(())
        }

        fn one_wire_read(&mut self, _: u8, _: &mut Moment<'_>) -> Option<bool> {
            Some(self.bits.pop_front().unwrap_or(true))
        }
    }

    fn hand(tunnel: &mut Tunnel, bytes: &[u8], now_us: u64, bench: &mut Bench) -> Vec<u8> {
        tunnel.on_bytes(bytes, &mut Moment { now_us, world: &mut Pond::new(1) }, bench)
    }

    fn ask(bench: &mut Bench, operation: tunnel::Operation, payload: &[u8]) -> Vec<u8> {
        let question = tunnel::frame(7, operation as u8, payload).unwrap();
        let bytes = hand(&mut Tunnel::new(), &question, 70_000, bench);
        let mut finder = Finder::new();
        bytes.iter().for_each(|byte| finder.push(*byte));
        let frame = finder.next_frame().unwrap();
        assert_eq!((frame.number, frame.operation), (7, operation as u8));
        frame.payload.to_vec()
    }

    #[test]
    fn every_operation_is_answered_as_its_peripheral_says() {
        use tunnel::Operation as Of;
        let bench = &mut Bench::default();
        assert_eq!(ask(bench, Of::I2c, &[0, 0x44, 3, 1, 2, 3, READ | 2, READ | 2]), [0, 3, 2, 1, 0xff]);
        assert_eq!(ask(bench, Of::I2c, &[0, 0x45, 1, 1]), [Status::NoData as u8]);
        assert_eq!(ask(bench, Of::I2c, &[0, 0x46, 0]), [Status::NoAddress as u8]);
        assert_eq!(ask(bench, Of::I2c, &[1, 0x46, READ | 1]), [Status::Held as u8]);
        assert_eq!(ask(bench, Of::I2c, &[2, 0x46]), [Status::Absent as u8]);
        assert_eq!(ask(bench, Of::I2c, &[0, 0x44, 3, 1, 2]), [Status::Malformed as u8]);
        assert_eq!(ask(bench, Of::SetPin, &[0, 1]), [0, 1]);
        assert_eq!(ask(bench, Of::SetPin, &[1, 1]), [0, 0]);
        assert_eq!(ask(bench, Of::SetPin, &[2, 1]), [Status::Absent as u8]);
        assert_eq!(ask(bench, Of::SetPin, &[0, 2]), [Status::Malformed as u8]);
        assert_eq!(ask(bench, Of::Pulses, &[0]), [0, 0x70, 0x11, 1, 0]);
        assert_eq!(ask(bench, Of::Adc, &[0, 3, 2]), [0, 0, 3, 0, 4]);
        assert_eq!(ask(bench, Of::OneWireWriteBytes, &[0, 0xb1, 0x02]), [0]);
        assert_eq!(ask(bench, Of::OneWireRead, &[0]), [0, 1]);
        assert_eq!(ask(bench, Of::OneWireWrite, &[0, 0]), [0]);
        assert_eq!(ask(bench, Of::OneWireReadBytes, &[0, 2]), [0, 0x58, 0x01]);
        assert_eq!(ask(bench, Of::OneWireReset, &[0]), [Status::Absent as u8]);
    }

    #[test]
    fn an_answer_that_fits_no_frame_is_told() {
        let reads = [0, 0x44, READ | 0x7f, READ | 0x7f];
        assert_eq!(ask(&mut Bench::default(), tunnel::Operation::I2c, &reads), [Status::Malformed as u8]);
    }

    #[test]
    fn half_a_question_is_forgotten_when_the_board_was_killed() {
        let question = tunnel::frame(1, tunnel::Operation::Pulses as u8, &[0]).unwrap();
        let (mut tunnel, bench) = (Tunnel::new(), &mut Bench::default());
        assert!(hand(&mut tunnel, &question[..3], 0, bench).is_empty());
        assert!(!hand(&mut tunnel, &question[3..], SILENCE_US, bench).is_empty());
        // The first byte alone would take the next question's for its length.
        assert!(hand(&mut tunnel, &question[..1], SILENCE_US, bench).is_empty());
        assert!(!hand(&mut tunnel, &question, 2 * SILENCE_US + 1, bench).is_empty());
        assert_eq!(tunnel.questions(), 2);
    }
}
