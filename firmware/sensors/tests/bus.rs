//! The master on a bad line: whatever comes or does not come, a turn ends within its slot, and
//! nothing is taken for an answer that is none.

use std::collections::VecDeque;

use proptest::prelude::*;
use sensors::{
    modbus::{
        Bus, LineSettings, ModbusError, Parity, ReadFunction::Holding, Request, RunError, Settings, Step, Transaction,
        crc16, run_transaction, slot_us_max,
    },
    profile::{Sample, Slot, SlotStep, compile, slot_ms_max},
};
use telemetry::MissingReason;

/// A line on which bytes arrive at stated times. Time passes only in `idle`.
#[derive(Default)]
struct Line {
    now_us: u64,
    /// (arrival, byte), in order of arrival.
    coming: VecDeque<(u64, u8)>,
    /// What each question, in turn, is answered with: (delay after the question's end, bytes).
    answers: VecDeque<Vec<(u64, Vec<u8>)>>,
    echo: bool,
    sent: Vec<(u64, Vec<u8>)>,
    settings: Option<LineSettings>,
}

impl Line {
    fn answering(answers: impl IntoIterator<Item = Vec<(u64, Vec<u8>)>>) -> Self {
        Self { answers: answers.into_iter().collect(), ..Self::default() }
    }

    fn schedule(&mut self, from_us: u64, bytes: &[u8]) {
        let line = self.settings.unwrap_or(LineSettings::DEFAULT);
        for (at, byte) in bytes.iter().enumerate() {
            self.coming.push_back((from_us + line.chars_us(at + 1), *byte));
        }
        self.coming.make_contiguous().sort_by_key(|(at, _)| *at);
    }
}

impl Bus for Line {
    type Error = core::convert::Infallible;

    fn configure(&mut self, line: LineSettings) -> Result<(), Self::Error> {
        self.settings = Some(line);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.sent.push((self.now_us, bytes.to_vec()));
        let line = self.settings.unwrap_or(LineSettings::DEFAULT);
        if self.echo {
            self.schedule(self.now_us, bytes);
        }
        let end_us = self.now_us + line.chars_us(bytes.len());
        for (delay_us, answer) in self.answers.pop_front().unwrap_or_default() {
            self.schedule(end_us + delay_us, &answer);
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error> {
        let mut len = 0;
        while let Some((_, byte)) = self.coming.front().filter(|(at, _)| *at <= self.now_us) {
            let Some(place) = into.get_mut(len) else { break };
            *place = *byte;
            len += 1;
            self.coming.pop_front();
        }
        Ok(len)
    }

    fn now_us(&mut self) -> u64 {
        self.now_us
    }

    fn idle(&mut self, until_us: u64) {
        let next = self.coming.front().map_or(until_us, |(at, _)| *at);
        self.now_us = self.now_us.max(next.min(until_us));
    }
}

const SOIL: [u8; 13] = [0x01, 0x03, 0x08, 0x02, 0x92, 0xFF, 0x9B, 0x03, 0xE8, 0x00, 0x38, 0x57, 0xB6];

const SETTINGS: Settings = Settings { line: LineSettings::DEFAULT, echo: false, response_ms: 100, retries: 1 };

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut frame = body.to_vec();
    frame.extend(crc16(body).to_le_bytes());
    frame
}

fn ask() -> Request {
    Request::read(1, Holding, 0, 4).unwrap()
}

/// Runs one transaction; gives its outcome, its registers, and the time it took.
fn run(line: &mut Line, request: Request, settings: Settings) -> (Result<Vec<u8>, ModbusError>, u64) {
    let begun = line.now_us;
    let slot = slot_us_max(&request, &settings);
    let mut transaction = Transaction::new(request, settings, begun);
    let outcome = match run_transaction(line, &mut transaction) {
        Ok(()) => Ok(transaction.data().to_vec()),
        Err(RunError::Modbus(error)) => Err(error),
        Err(RunError::Bus(never)) => match never {},
    };
    let took = line.now_us - begun;
    assert!(took <= slot, "took {took} of {slot} µs");
    (outcome, took)
}

#[test]
fn an_answer_is_taken_as_soon_as_it_is_whole() {
    let mut line = Line::answering([vec![(20_000, SOIL.to_vec())]]);
    let (outcome, took) = run(&mut line, ask(), SETTINGS);
    assert_eq!(outcome.unwrap(), SOIL[3..11]);
    let wire = SETTINGS.line.frame_gap_us() + SETTINGS.line.chars_us(8) + 20_000;
    assert_eq!(took, wire + SETTINGS.line.chars_us(13));
}

#[test]
fn a_question_waits_for_three_and_a_half_characters_of_silence() {
    let gap_us = SETTINGS.line.frame_gap_us();
    for others in [0, 1, 20] {
        let mut line = Line::answering([vec![(5_000, SOIL.to_vec())]]);
        line.schedule(0, &vec![0x55; others]);
        run(&mut line, ask(), SETTINGS).0.unwrap();
        assert_eq!(line.sent[0].0, SETTINGS.line.chars_us(others) + gap_us);
    }
}

#[test]
fn a_dead_slave_costs_its_slot_and_no_more() {
    let mut line = Line::default();
    let (outcome, took) = run(&mut line, ask(), SETTINGS);
    assert_eq!(outcome, Err(ModbusError::Timeout));
    assert_eq!(line.sent.len(), 2);
    assert!(took < 260_000, "{took}");
}

#[test]
fn an_answer_that_came_in_time_and_is_noticed_late_counts() {
    let mut transaction = Transaction::new(ask(), SETTINGS, 0);
    assert!(matches!(transaction.poll(10_000), Step::Send));
    transaction.on_rx(&SOIL, 900_000);
    assert_eq!(transaction.poll(900_000), Step::Done(Ok(())));
}

#[test]
fn the_own_echo_is_stripped_and_alone_is_no_answer() {
    let echoing = Settings { echo: true, ..SETTINGS };
    let mut line = Line::answering([vec![(5_000, SOIL.to_vec())]]);
    line.echo = true;
    assert_eq!(run(&mut line, ask(), echoing).0.unwrap(), SOIL[3..11]);

    let write = Request::write_single(1, 0x1020, 30).unwrap();
    let mut line = Line { echo: true, ..Line::default() };
    assert_eq!(run(&mut line, write.clone(), echoing).0, Err(ModbusError::Timeout));

    let mut line = Line::answering([vec![(5_000, write.bytes().to_vec())]]);
    line.echo = true;
    assert_eq!(run(&mut line, write, echoing).0, Ok(vec![]));
}

#[test]
fn an_echo_nobody_announced_is_passed_over_and_told() {
    let mut line = Line::answering([vec![(5_000, SOIL.to_vec())]]);
    line.echo = true;
    let mut transaction = Transaction::new(ask(), SETTINGS, 0);
    run_transaction(&mut line, &mut transaction).unwrap();
    assert_eq!(transaction.data(), &SOIL[3..11]);
    assert!(transaction.unexpected_echo());
}

#[test]
fn an_announced_echo_that_never_comes_does_not_hide_the_answer() {
    let echoing = Settings { echo: true, ..SETTINGS };
    let mut line = Line::answering([vec![(5_000, SOIL.to_vec())]]);
    assert_eq!(run(&mut line, ask(), echoing).0.unwrap(), SOIL[3..11]);
}

#[test]
fn a_damaged_answer_is_asked_for_again_at_once() {
    let mut damaged = SOIL;
    damaged[4] ^= 0x10;
    let mut line = Line::answering([vec![(5_000, damaged.to_vec())], vec![(5_000, SOIL.to_vec())]]);
    let (outcome, took) = run(&mut line, ask(), SETTINGS);
    assert_eq!(outcome.unwrap(), SOIL[3..11]);
    assert!(took < 100_000, "the first attempt's time-out was waited for: {took}");
}

#[test]
fn a_refusal_is_final_and_busy_is_not() {
    let refusal = vec![(5_000, vec![0x01, 0x83, 0x02, 0xC0, 0xF1])];
    let mut line = Line::answering([refusal]);
    assert_eq!(run(&mut line, ask(), SETTINGS).0, Err(ModbusError::Exception(2)));
    assert_eq!(line.sent.len(), 1);

    let busy = vec![(5_000, sealed(&[0x01, 0x83, 0x06]))];
    let mut line = Line::answering([busy, vec![(5_000, SOIL.to_vec())]]);
    assert_eq!(run(&mut line, ask(), SETTINGS).0.unwrap(), SOIL[3..11]);
}

#[test]
fn the_late_answer_of_the_slave_before_is_passed_over() {
    let late = sealed(&[9, 3, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let mut line = Line::answering([vec![(2_000, late.clone()), (40_000, SOIL.to_vec())]]);
    assert_eq!(run(&mut line, ask(), SETTINGS).0.unwrap(), SOIL[3..11]);
    // Alone it is no answer, and it is told whose it was.
    let mut line = Line::answering([vec![(2_000, late.clone())], vec![(2_000, late)]]);
    assert_eq!(run(&mut line, ask(), SETTINGS).0, Err(ModbusError::WrongAddress(9)));
}

#[test]
fn a_stream_that_never_ends_is_cut_off() {
    for byte in [0x00, 0x01, 0xFF] {
        let babble = vec![(0, vec![byte; 4_000])];
        let mut line = Line::answering([babble]);
        let (outcome, _) = run(&mut line, ask(), SETTINGS);
        assert!(matches!(outcome, Err(ModbusError::TooLong | ModbusError::Busy | ModbusError::Framing)), "{outcome:?}");
    }
}

#[test]
fn a_line_that_is_never_silent_is_busy_not_stuck() {
    let mut line = Line::default();
    line.schedule(0, &[0xAA; 1_000]);
    assert_eq!(run(&mut line, ask(), SETTINGS).0, Err(ModbusError::Busy));
    assert!(line.sent.is_empty());
}

#[test]
fn every_prefix_and_every_bit_flip_of_an_answer_ends_without_a_value() {
    let once = Settings { retries: 0, ..SETTINGS };
    for cut in 0..SOIL.len() {
        let mut line = Line::answering([vec![(5_000, SOIL[..cut].to_vec())]]);
        assert!(run(&mut line, ask(), once).0.is_err(), "cut at {cut}");
    }
    for bit in 0..SOIL.len() * 8 {
        let mut flipped = SOIL;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let mut line = Line::answering([vec![(5_000, flipped.to_vec())]]);
        assert!(run(&mut line, ask(), once).0.is_err(), "bit {bit}");
    }
}

#[test]
fn coils_are_written_and_read_back_over_a_bad_line() {
    let write = Request::write_coils(1, 0, 8, 0x41).unwrap();
    let read = Request::read_coils(1, 0, 8).unwrap();
    let confirmed = [0x01, 0x0F, 0x00, 0x00, 0x00, 0x08, 0x54, 0x0D];
    let coils = [0x01, 0x01, 0x01, 0x41, 0x91, 0xB8];
    // The first confirmation is lost, and the adapter hears itself: what it hears is no answer.
    let echoing = Settings { echo: true, ..SETTINGS };
    for settings in [SETTINGS, echoing] {
        let mut line =
            Line::answering([vec![], vec![(5_000, confirmed.to_vec())], vec![], vec![(5_000, coils.to_vec())]]);
        line.echo = settings.echo;
        assert_eq!(run(&mut line, write.clone(), settings).0, Ok(vec![]));
        assert_eq!(run(&mut line, read.clone(), settings).0, Ok(vec![0x41]));
        assert_eq!(line.sent.len(), 4);
        let mut deaf = Line { echo: settings.echo, ..Line::default() };
        assert!(run(&mut deaf, write.clone(), settings).0.is_err());
        assert!(run(&mut deaf, read.clone(), settings).0.is_err());
    }
}

#[test]
fn a_broadcast_is_sent_once_and_given_time_to_be_obeyed() {
    let mut line = Line::default();
    let request = Request::write_single(0, 0x07D0, 5).unwrap();
    let (outcome, took) = run(&mut line, request, SETTINGS);
    assert_eq!(outcome, Ok(vec![]));
    assert_eq!(line.sent.len(), 1);
    assert!(took >= 100_000);
}

/// Runs a probe's turn; gives its samples and the time it took.
fn turn(line: &mut Line, name: &str) -> (Vec<Result<Sample, MissingReason>>, u64) {
    let compiled = compile::built_in(name).unwrap().unwrap();
    let profile = compiled.profile().unwrap();
    let settings = profile.settings();
    line.configure(settings.line).unwrap();
    let begun = line.now_us;
    let mut slot = Slot::new(&profile, profile.address(), settings, begun);
    let mut chunk = [0; 64];
    loop {
        let len = line.read(&mut chunk).unwrap();
        slot.on_rx(&chunk[..len], line.now_us);
        match slot.poll(&profile, line.now_us) {
            SlotStep::Wait { until_us } => line.idle(until_us),
            SlotStep::Send => line.write(slot.tx_bytes()).unwrap(),
            SlotStep::Done => break,
        }
    }
    let took = line.now_us - begun;
    let slot_us = u64::from(slot_ms_max(&profile, &settings)) * 1_000;
    assert!(took <= slot_us, "took {took} of {slot_us} µs");
    (slot.samples().to_vec(), took)
}

fn weather(block: usize) -> Vec<u8> {
    let bodies: [&[u8]; 4] = [
        &[1, 3, 8, 0x00, 0x0E, 0x00, 0x01, 0x00, 0x02, 0x00, 0x6E],
        &[1, 3, 6, 0x01, 0xC3, 0x00, 0xF6, 0x02, 0x06],
        &[1, 3, 6, 0x00, 0x05, 0x00, 0x0F, 0x03, 0xFB],
        &[1, 3, 4, 0x00, 0x00, 0x00, 0x32],
    ];
    sealed(bodies[block])
}

#[test]
fn a_turn_fits_in_little_ram() {
    // One per bus, on a node of 48 KB.
    assert!(size_of::<Transaction>() <= 400, "{}", size_of::<Transaction>());
    assert!(size_of::<Slot>() <= 672, "{}", size_of::<Slot>());
}

#[test]
fn a_probe_of_four_blocks_is_read_in_one_turn() {
    let mut line = Line::answering((0..4).map(|block| vec![(5_000, weather(block))]));
    let (samples, _) = turn(&mut line, "dfrobot-sen0658");
    assert_eq!(samples.len(), 10);
    assert!(samples.iter().all(Result::is_ok));
    assert_eq!(samples[9].unwrap().value, 50.0);
}

#[test]
fn a_silent_probe_is_not_waited_for_once_per_block() {
    let (samples, took) = turn(&mut Line::default(), "dfrobot-sen0658");
    assert_eq!(samples, [Err(MissingReason::NoAnswer); 10]);
    // Two attempts at the first of four blocks.
    assert!(took < 1_200_000, "{took}");
}

#[test]
fn one_refused_block_does_not_cost_the_others() {
    let refused = vec![(5_000, sealed(&[1, 0x83, 2]))];
    let answers = (0..4).map(|block| match block {
        1 => refused.clone(),
        _ => vec![(5_000, weather(block))],
    });
    let (samples, _) = turn(&mut Line::answering(answers), "dfrobot-sen0658");
    assert_eq!(samples[3..6], [Err(MissingReason::Exception); 3]);
    assert!(samples[..3].iter().chain(&samples[6..]).all(Result::is_ok));
}

#[test]
fn a_probe_that_falls_silent_midway_keeps_what_it_said() {
    let answers = (0..2).map(|block| vec![(5_000, weather(block))]);
    let (samples, _) = turn(&mut Line::answering(answers), "dfrobot-sen0658");
    assert!(samples[..6].iter().all(Result::is_ok));
    assert_eq!(samples[6..], [Err(MissingReason::NoAnswer); 4]);
}

#[test]
fn a_late_answer_of_one_block_is_never_the_value_of_another() {
    // Blocks 1 and 2 have the same shape. A slave slower than its time-out answers both attempts
    // at block 1: the first answer is taken, its twin comes when block 2 would have been asked.
    for late_us in (525_000..1_200_000).step_by(25_000) {
        let late = vec![(late_us, weather(1))];
        let mut line = Line::answering([vec![(5_000, weather(0))], late.clone(), late]);
        let (samples, _) = turn(&mut line, "dfrobot-sen0658");
        let own = [0.14, 1.0, 110.0, 45.1, 24.6, 51.8];
        for (index, sample) in samples.iter().enumerate() {
            let value = sample.map(|it| it.value).ok();
            assert!(
                value.is_none() || value == own.get(index).copied(),
                "answers {late_us} µs late gave quantity {index} {value:?}"
            );
        }
    }
}

#[test]
fn a_question_lost_to_noise_delays_only_blocks_that_could_be_confused() {
    let answers = [
        vec![(5_000, weather(0))],
        vec![],
        vec![(5_000, weather(1))],
        vec![(5_000, weather(2))],
        vec![(5_000, weather(3))],
    ];
    let (samples, _) = turn(&mut Line::answering(answers), "dfrobot-sen0658");
    assert!(samples.iter().all(Result::is_ok));
}

proptest! {
    #[test]
    fn whatever_comes_whenever_a_turn_ends_in_its_slot(
        baud in prop::sample::select(vec![1_200_u32, 4_800, 9_600, 19_200, 115_200]),
        even in any::<bool>(),
        echo in any::<bool>(),
        echoes in any::<bool>(),
        response_ms in 10_u16..300,
        retries in 0_u8..6,
        count in 1_u8..=60,
        noise in prop::collection::vec((0_u64..400_000, prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        before in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let parity = if even { Parity::Even } else { Parity::None };
        let settings = Settings { line: LineSettings::new(baud, parity, 1).unwrap(), echo, response_ms, retries };
        let mut line = Line::answering([noise.clone(), noise]);
        line.echo = echoes;
        line.settings = Some(settings.line);
        line.schedule(0, &before);
        // `run` asserts the bound; noise has one chance in 2^40 to be an answer.
        prop_assert!(run(&mut line, Request::read(1, Holding, 0, count).unwrap(), settings).0.is_err());
    }

    #[test]
    fn how_the_bytes_are_cut_into_chunks_does_not_matter(cuts in prop::collection::vec(1_usize..6, 1..12), echo in any::<bool>()) {
        let settings = Settings { echo, ..SETTINGS };
        let mut transaction = Transaction::new(ask(), settings, 0);
        let mut now_us = 0;
        while let Step::Wait { until_us } = transaction.poll(now_us) {
            now_us = until_us;
        }
        let stream = if echo { [transaction.tx_bytes(), &SOIL].concat() } else { SOIL.to_vec() };
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (chunk, more) = rest.split_at((*cut).min(rest.len()));
            now_us += 1_000;
            transaction.on_rx(chunk, now_us);
            rest = more;
            if rest.is_empty() {
                break;
            }
            let waits = matches!(transaction.poll(now_us), Step::Wait { .. });
            prop_assert!(waits);
        }
        prop_assert_eq!(transaction.poll(now_us), Step::Done(Ok(())));
        prop_assert_eq!(transaction.data(), &SOIL[3..11]);
    }
}
