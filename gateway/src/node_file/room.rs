//! How long a board's ring holds what a node takes: counted by filling one, not estimated.

use node::config::{Config, Source};
use node::ring::Ring;
use simulator::nor::Nor;
use telemetry::record::{Reading, Round};
use telemetry::{Quality, Record, limits::RECORD_BYTES_MAX};

use super::board::{Area, Board};

/// Rounds that are put into a ring at most, so that it stays quick.
const ROUNDS_MAX: u32 = 400_000;

/// What a ring holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Bytes of flash.
    pub bytes: u32,
    /// Rounds that fit when all channels are well.
    pub rounds: u32,
    /// Days that these are.
    pub days: f64,
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the ring of {} KiB holds {} rounds, {:.1} days offline", self.bytes / 1024, self.rounds, self.days)
    }
}

/// Fills a ring of the board's geometry; nothing where no ring can be made of it.
pub fn ring(board: &Board, config: &Config) -> Option<Room> {
    let sectors = board.flash.sectors_of(Area::Ring)?;
    let (count, size) = (sectors.len(), *sectors.first()?);
    let rounds = match (size, board.flash.write) {
        (4_096, 1..=4) => fill(Nor::<4_096, 4>::new(count), config),
        (4_096, _) => fill(Nor::<4_096, 32>::new(count), config),
        (8_192, _) => fill(Nor::<8_192, 16>::new(count), config),
        (16_384, _) => fill(Nor::<16_384, 16>::new(count), config),
        (131_072, _) => fill(Nor::<131_072, 16>::new(count), config),
        _ => None,
    }?;
    let days = f64::from(rounds) * f64::from(config.period_s) / 86_400.0;
    Some(Room { bytes: board.flash.area(Area::Ring).1, rounds, days })
}

fn fill<F: embedded_storage::nor_flash::NorFlash>(flash: F, config: &Config) -> Option<u32> {
    let (mut ring, _) = Ring::open_or_format(flash, 1).ok()?;
    let mut buffer = [0; RECORD_BYTES_MAX];
    let mut round = Round { t_ms: 0, config: 1, readings: heapless::Vec::new() };
    for n in 0..ROUNDS_MAX {
        round.t_ms = u64::from(n) * u64::from(config.period_s) * 1_000;
        round.readings.clear();
        for (index, channel) in (0u8..).zip(&config.channels) {
            let facts = channel.property.facts();
            // Somewhere in the lower half of what is plausible, never twice the same.
            let value = facts.min + (facts.max - facts.min) * (0.2 + 0.3 * (n % 97) as f32 / 97.0);
            let value = channel.property.quantize(value)?;
            let corrected = channel.compensate_with.is_some() || channel.calibration != Default::default();
            let raw = (corrected && !matches!(channel.source, Source::Computed { .. })).then_some(value - 1);
            round.readings.push(Reading { channel: index, value, raw, quality: Quality::GOOD }).ok()?;
        }
        let length = Record::Round(round.clone()).encode(1, &mut buffer).ok()?;
        if ring.append(buffer.get(..length)?).ok()?.overwritten.is_some() {
            return Some(n);
        }
    }
    Some(ROUNDS_MAX)
}
