//! Runs the node core on an emulated board and says how deep its stack has been: from a boot on
//! blank flash, through rounds, sessions, receipts and an outage longer than the ring, to a new
//! config and a boot that reads what the ring holds. Thirty-two channels: direct inputs, probes on
//! two lines, one that is computed.
#![no_std]
#![no_main]

use core::cell::Cell;
use core::mem::MaybeUninit;

use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS, exit};
use cortex_m_semihosting::hprintln;
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use node::config::{Actuator, Calibration, Channel, Config, Formula, IMAGE_BYTES_MAX, Probe, Source};
use node::control::{Pauses, Rule};
use node::sample::Lines;
use node::{Identity, Io, Node, RestartCause};
use sensors::modbus::{LineSettings, crc16};
use telemetry::limits::CHANNELS_MAX;
use telemetry::mac::Key;
use telemetry::record::Reading;
use telemetry::session::{Nonce, Receipt, Session};
use telemetry::topic::{Down, Up};
use telemetry::{ActuatorKind, MissingReason, NodeName, Property, Quality, Report};

const SECTOR: usize = 4096;
const FLASH: usize = 4 * SECTOR;
const ROUNDS: u64 = 30;
/// More than the ring holds.
const OUTAGE_ROUNDS: u64 = 400;
/// Of a probe that answers temperature and humidity.
const PROFILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xy-md02.bin"));
/// Probes, by twos on either line.
const PROBES: u8 = 6;
const PERIOD_US: u64 = 10_000_000;
/// Most that the node core may need of the stack, B: with its static RAM it leaves more than half of
/// 48 KB to a network stack.
const STACK_MAX: usize = 10 * 1024;

/// Flash in RAM, which outlives a boot.
#[derive(Clone, Copy)]
struct Flash(&'static [Cell<u8>]);

impl Flash {
    fn part(&self, from: u32, length: usize) -> Result<&'static [Cell<u8>], Outside> {
        self.0.get(from as usize..from as usize + length).ok_or(Outside)
    }
}

#[derive(Debug)]
struct Outside;

impl NorFlashError for Outside {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

impl ErrorType for Flash {
    type Error = Outside;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Outside> {
        let cells = self.part(offset, bytes.len())?;
        bytes.iter_mut().zip(cells).for_each(|(byte, cell)| *byte = cell.get());
        Ok(())
    }

    fn capacity(&self) -> usize {
        FLASH
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Outside> {
        self.part(from, (to - from) as usize)?.iter().for_each(|cell| cell.set(0xff));
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Outside> {
        let cells = self.part(offset, bytes.len())?;
        bytes.iter().zip(cells).for_each(|(byte, cell)| cell.set(*byte));
        Ok(())
    }
}

/// Inputs that move a little, probes that answer at once, and a gateway that has everything at once.
#[derive(Default)]
struct Board {
    /// By line: the answer that is under way, and how much of it was taken.
    answers: [([u8; 9], usize); 2],
    reads: u32,
    nonce: Option<Nonce>,
    /// Ring and next seq of a receipt that is due, and whether it tells the time.
    due: Option<(u32, u32, bool)>,
    reports: u32,
}

impl Lines for Board {
    /// 25.6 °C and 60.3 %RH, whoever is asked.
    fn send(&mut self, bus: u8, _line: &LineSettings, frame: &[u8]) {
        let mut answer = [frame[0], frame[1], 4, 1, 0, 2, 91, 0, 0];
        let check = crc16(&answer[..7]).to_le_bytes();
        answer[7..].copy_from_slice(&check);
        self.answers[usize::from(bus)] = (answer, 0);
    }

    fn receive(&mut self, bus: u8, buffer: &mut [u8]) -> usize {
        let (answer, taken) = &mut self.answers[usize::from(bus)];
        if answer[0] == 0 {
            return 0;
        }
        let left = &answer[*taken..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        *taken += count;
        count
    }
}

impl Io for Board {
    fn direct(&mut self, input: u8) -> Result<f32, MissingReason> {
        self.reads += 1;
        let base = if input == 0 { 6.0 } else { 20.0 };
        Ok(base + (self.reads % 7) as f32 / 100.0)
    }

    fn switch(&mut self, _actuator: u8, _on: bool) {}

    fn publish(&mut self, channel: Up, payload: &[u8]) -> bool {
        match channel {
            Up::Session => {
                if let Ok(Session::Open(open)) = Session::decode(payload) {
                    self.nonce = Some(open.nonce);
                    self.due = Some((open.ring, open.floor, true));
                }
            }
            Up::Report => {
                if let Ok(report) = Report::decode(payload) {
                    let envelope = report.envelope;
                    self.due = Some((envelope.ring, envelope.first + envelope.count, false));
                    self.reports += 1;
                }
            }
            Up::Live => {}
        }
        true
    }
}

fn name() -> NodeName {
    NodeName::new("probe").unwrap()
}

/// The image of a config with every channel taken: oxygen, temperature, saturation of the two,
/// temperatures, and what the probes measure.
#[inline(never)]
fn image(number: u16, buffer: &mut [u8]) -> usize {
    let mut config = Config::new(number);
    config.period_s = (PERIOD_US / 1_000_000) as u16;
    config.batch_records = 6;
    let profile = config.add_profile(PROFILE).unwrap();
    for probe in 0..PROBES {
        config.probes.push(Probe { bus: probe % 2, address: 1 + probe, profile, settings: None }).unwrap();
    }
    let first_of_probes = CHANNELS_MAX as u8 - 2 * PROBES;
    for channel in 0..CHANNELS_MAX as u8 {
        let inputs = [0, 1].into_iter().collect();
        let (property, source) = match channel {
            0 => (Property::DissolvedOxygen, Source::Direct { input: 0 }),
            2 => (Property::OxygenSaturation, Source::Computed { formula: Formula::OxygenSaturation, inputs }),
            channel if channel >= first_of_probes => {
                let n = channel - first_of_probes;
                let property = [Property::AirTemperature, Property::RelativeHumidity][usize::from(n % 2)];
                (property, Source::Probe { probe: n / 2, quantity: n % 2 })
            }
            _ => (Property::WaterTemperature, Source::Direct { input: channel }),
        };
        let channel = Channel {
            property,
            source,
            calibration: Calibration::default(),
            limits: Default::default(),
            compensate_with: None,
        };
        config.channels.push(channel).unwrap();
    }
    let pauses = Pauses { on_s: 120, off_s: 60 };
    let rule = Rule::Aerator { channel: 0, on_below: 4.0, off_above: 5.5, critical: 2.0, pauses };
    config.actuators.push(Actuator::new(ActuatorKind::Aerator, rule)).unwrap();
    config.encode(buffer).unwrap()
}

#[inline(never)]
fn make(place: &'static mut MaybeUninit<Node<Flash>>) -> &'static mut Node<Flash> {
    let identity = Identity { name: name(), key: Key::new([7; 32]), firmware: "0.1.0", board: "probe" };
    place.write(Node::new(identity))
}

/// Lets time pass and receipts come; the time after it.
#[inline(never)]
fn serve(node: &mut Node<Flash>, board: &mut Board, mut now_us: u64, until_us: u64) -> u64 {
    while now_us < until_us {
        let wake_us = node.poll(now_us, board);
        if let (Some(nonce), Some((ring, next, with_utc))) = (board.nonce, board.due.take()) {
            let utc_ms = with_utc.then_some(1_795_449_600_000);
            let (mut body, mut sealed) = ([0; 64], [0; 128]);
            let length = Receipt { ring, next, utc_ms }.encode(&mut body).unwrap();
            let length = Key::new([7; 32]).seal(&name(), Down::Receipt, nonce, &body[..length], &mut sealed).unwrap();
            assert!(node.message(Down::Receipt, &sealed[..length], now_us).is_none());
        } else {
            now_us = wake_us.max(now_us + 1_000);
        }
    }
    now_us
}

#[inline(never)]
fn reconfigure(node: &mut Node<Flash>, sealed: &[u8], now_us: u64) {
    let image = node.message(Down::Config, sealed, now_us).unwrap();
    node.apply(image, now_us).unwrap();
}

unsafe extern "C" {
    static _stack_start: u32;
    static _stack_end: u32;
}

/// Paints the stack below its caller as cortex-m-rt painted all of it before `main`.
#[inline(never)]
fn paint() {
    let here = 0;
    // This function's own frame and a little more stays as it is.
    let end = (&raw const here).wrapping_sub(16);
    let mut at = (&raw const _stack_end).cast_mut();
    while at.cast_const() < end {
        // SAFETY: RAM below the stack pointer, which nothing uses: there is no heap and no interrupt.
        unsafe { at.write_volatile(cortex_m_rt::STACK_PAINT_VALUE) };
        at = at.wrapping_add(1);
    }
}

/// Bytes of stack that are no longer painted.
fn stack_used() -> usize {
    let (mut at, start) = (&raw const _stack_end, &raw const _stack_start);
    // SAFETY: the linker script puts RAM between the two; nothing is borrowed from it by name.
    while at < start && unsafe { at.read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
        at = at.wrapping_add(1);
    }
    start as usize - at as usize
}

#[cortex_m_rt::entry]
fn main() -> ! {
    static mut NODE: MaybeUninit<Node<Flash>> = MaybeUninit::uninit();
    static mut BYTES: [u8; FLASH] = [0xff; FLASH];
    static mut IMAGE: [u8; IMAGE_BYTES_MAX] = [0; IMAGE_BYTES_MAX];
    static mut SEALED: [u8; IMAGE_BYTES_MAX] = [0; IMAGE_BYTES_MAX];
    let mut board = Board::default();
    let length = image(1, IMAGE);

    let flash = Flash(Cell::from_mut(BYTES.as_mut_slice()).as_slice_of_cells());

    paint();
    let node = make(NODE);
    node.boot(flash, &IMAGE[..length], 1, 0, RestartCause::Power).unwrap();
    let booting = stack_used();

    node.connected(0);
    paint();
    let now_us = serve(node, &mut board, 0, ROUNDS * PERIOD_US);
    node.disconnected(now_us);
    let now_us = serve(node, &mut board, now_us, now_us + OUTAGE_ROUNDS * PERIOD_US);
    node.connected(now_us);
    let now_us = serve(node, &mut board, now_us, now_us + ROUNDS * PERIOD_US);
    let serving = stack_used();

    let image_length = image(2, IMAGE);
    let nonce = board.nonce.unwrap();
    let length = Key::new([7; 32]).seal(&name(), Down::Config, nonce, &IMAGE[..image_length], SEALED).unwrap();
    paint();
    reconfigure(node, &SEALED[..length], now_us);
    let reconfiguring = stack_used();

    serve(node, &mut board, now_us, now_us + ROUNDS * PERIOD_US);
    let counters = node.counters();
    assert!(u64::from(counters.rounds) >= OUTAGE_ROUNDS + 3 * ROUNDS - 4 && counters.unkept == 0);
    assert!(board.reports > 0 && counters.lost > 0, "{:?}", counters);
    let fine = |reading: &Reading| matches!(reading.quality, Quality::Present { .. });
    assert!(node.round().readings.len() == CHANNELS_MAX && node.round().readings.iter().all(fine));

    paint();
    node.boot(flash, &IMAGE[..image_length], 1, 0, RestartCause::Power).unwrap();
    let rebooting = stack_used();
    assert!(node.boot_number() == 2);
    hprintln!(
        "stack of the node core, B: first boot {}, rounds and receipts {}, new config {}, later boot {}",
        booting,
        serving,
        reconfiguring,
        rebooting
    );
    assert!(booting.max(serving).max(reconfiguring).max(rebooting) <= STACK_MAX, "more than {STACK_MAX} B");
    loop {
        exit(EXIT_SUCCESS);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    hprintln!("{}", info);
    loop {
        exit(EXIT_FAILURE);
    }
}
