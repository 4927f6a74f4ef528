//! The time of the lines: who may hold one for how long, and whether everybody gets a turn.

use sensors::modbus::slot_us_max;
use sensors::profile::slot_ms_max;

use super::{BUSES_MAX, Config, ConfigError};
use crate::relay::{board_us_max, pace_us};

impl Config {
    /// Longest slot of a probe, ms, with the two settings that one may be told first.
    #[inline(never)]
    pub fn probe_slot_ms_max(&self, index: u8) -> Option<u64> {
        let (_, profile, settings) = self.probe(index)?;
        let told = (0..2).filter_map(|n| self.setting(index, n)).map(|(r, s)| slot_us_max(&r, &s) / 1_000);
        Some(u64::from(slot_ms_max(&profile, &settings)) + told.sum::<u64>())
    }

    /// Longest slot of a relay board, ms, whatever the line does.
    pub fn relay_slot_ms_max(&self, index: u8) -> u64 {
        board_us_max(self, index).0.div_ceil(1_000)
    }

    /// Longest from a decision to the answer that a coil of this relay board is written, ms, however
    /// often a question has to be repeated: the slot that is open, and what the boards on its line
    /// need that have something to switch at the same time.
    pub fn switch_ms_max(&self, relay: u8) -> u64 {
        let Some(bus) = self.relays.get(usize::from(relay)).map(|board| board.bus) else { return 0 };
        let switching: u64 = self.boards_on(bus).map(|index| board_us_max(self, index).1.div_ceil(1_000)).sum();
        let longest = self.boards_on(bus).map(|index| self.relay_slot_ms_max(index)).max().unwrap_or(0);
        switching + longest.max(self.longest_probe_ms(bus))
    }

    fn boards_on(&self, bus: u8) -> impl Iterator<Item = u8> {
        (0u8..).zip(&self.relays).filter(move |(_, board)| board.bus == bus).map(|(index, _)| index)
    }

    fn probes_on(&self, bus: u8) -> impl Iterator<Item = u8> {
        (0u8..).zip(&self.probes).filter(move |(_, probe)| probe.bus == bus).map(|(index, _)| index)
    }

    fn longest_probe_ms(&self, bus: u8) -> u64 {
        self.probes_on(bus).filter_map(|index| self.probe_slot_ms_max(index)).max().unwrap_or(0)
    }

    /// Whether a round has room for every probe and relay board, and no board is kept waiting until
    /// its time-out. Needs probes and boards that exist.
    #[inline(never)]
    pub(super) fn validate_lines(&self) -> Result<(), ConfigError> {
        let period_ms = u64::from(self.period_s) * 1_000;
        for bus in 0..BUSES_MAX as u8 {
            let probes: u64 = self.probes_on(bus).filter_map(|index| self.probe_slot_ms_max(index)).sum();
            let boards = self.relays.iter().enumerate().filter(|(_, board)| board.bus == bus);
            let turns = boards.map(|(index, board)| {
                let turns = (period_ms * 1_000).div_ceil(pace_us(self, board).max(1));
                turns * self.relay_slot_ms_max(index as u8)
            });
            if probes + turns.sum::<u64>() > period_ms {
                return Err(ConfigError::Slow(bus));
            }
        }
        for (index, board) in (0u8..).zip(&self.relays).filter(|(_, board)| board.time_out_s > 0) {
            // Boards and probes take turns. What is left of the time-out is for a turn that fails.
            let longest = self.longest_probe_ms(board.bus);
            let waits: u64 = self.boards_on(board.bus).map(|index| self.relay_slot_ms_max(index) + longest).sum();
            if (longest + waits) * 3 > u64::from(board.time_out_s) * 1_000 {
                return Err(ConfigError::RelayTimeOut(index));
            }
        }
        Ok(())
    }
}
