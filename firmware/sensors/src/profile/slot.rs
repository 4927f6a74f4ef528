//! One probe's turn on the bus.

use heapless::Vec;
use telemetry::MissingReason;

use super::{Block, Profile, QUANTITIES_MAX, Sample};
use crate::modbus::{ModbusError, Settings, Step, Transaction, slot_us_max};

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStep {
    /// Nothing before `until_us`, unless bytes arrive.
    Wait {
        /// On the caller's clock, µs.
        until_us: u64,
    },
    /// Put [`Slot::tx_bytes`] on the line now.
    Send,
    /// The probe's turn is over; [`Slot::samples`] are complete.
    Done,
}

/// Longest that one probe's turn can take, ms, whatever the line does. A probe that does not
/// answer at all takes no more than its first block's share.
///
/// A block of the same shape as an earlier one counts twice, because it may have to wait for a
/// twin of the earlier one's answer to pass.
pub fn slot_ms_max(profile: &Profile<'_>, settings: &Settings) -> u32 {
    let us: u64 = profile
        .blocks()
        .enumerate()
        .filter_map(|(index, block)| {
            let request = profile.request(block, profile.address()).ok()?;
            let shares = 1 + u64::from(has_twin_shape(profile, index, block));
            Some(shares * slot_us_max(&request, settings))
        })
        .sum();
    u32::try_from(us.div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Whether an answer to an earlier block could be taken for one to this.
fn has_twin_shape(profile: &Profile<'_>, index: usize, block: Block) -> bool {
    profile.blocks().take(index).any(|it| (it.function, it.count) == (block.function, block.count))
}

/// Reads one probe, block by block, and converts what comes.
///
/// The profile is passed in at each call, so that a slot can live beside the config that holds
/// the profile's bytes; it must be the same one each time.
#[derive(Debug)]
pub struct Slot {
    address: u8,
    settings: Settings,
    block: usize,
    transaction: Option<Transaction>,
    /// Until when a twin of an answer of this turn may arrive.
    twin_until_us: u64,
    /// The next block has the shape of an earlier one and waits until then.
    held_until_us: Option<u64>,
    samples: Vec<Result<Sample, MissingReason>, QUANTITIES_MAX>,
    error: Option<ModbusError>,
    unexpected_echo: bool,
}

impl Slot {
    /// Begins a probe's turn at `now_us`.
    pub fn new(profile: &Profile<'_>, address: u8, settings: Settings, now_us: u64) -> Self {
        let mut this = Self {
            address,
            settings,
            block: 0,
            transaction: None,
            twin_until_us: now_us,
            held_until_us: None,
            samples: Vec::new(),
            error: None,
            unexpected_echo: false,
        };
        // `collect` could panic; what `Profile::decode` accepted fits.
        let count = profile.quantities().count().min(QUANTITIES_MAX);
        let _fits = this.samples.resize(count, Err(MissingReason::NotRead));
        this.begin_block(profile, now_us);
        this
    }

    /// The frame to send.
    pub fn tx_bytes(&self) -> &[u8] {
        self.transaction.as_ref().map_or(&[], |transaction| transaction.tx_bytes())
    }

    /// Takes bytes that came off the line.
    pub fn on_rx(&mut self, bytes: &[u8], now_us: u64) {
        if let Some(transaction) = &mut self.transaction {
            transaction.on_rx(bytes, now_us);
        }
    }

    /// Moves on to `now_us` and says what to do.
    pub fn poll(&mut self, profile: &Profile<'_>, now_us: u64) -> SlotStep {
        if let Some(until_us) = self.held_until_us {
            if now_us < until_us {
                return SlotStep::Wait { until_us };
            }
            self.held_until_us = None;
            self.ask(profile, now_us);
        }
        // Each pass ends a block, and there are at most BLOCKS_MAX of them.
        while let Some(transaction) = &mut self.transaction {
            match transaction.poll(now_us) {
                Step::Wait { until_us } => return SlotStep::Wait { until_us },
                Step::Send => return SlotStep::Send,
                Step::Done(outcome) => {
                    let outcome = outcome.map(|()| transaction.data());
                    let samples = &mut self.samples;
                    profile.convert(self.block, outcome.map_err(ModbusError::missing_reason), |index, sample| {
                        if let Some(place) = samples.get_mut(index) {
                            *place = sample;
                        }
                    });
                    let error = outcome.err();
                    let twin_until_us = transaction.twin_until_us().unwrap_or(0);
                    self.twin_until_us = self.twin_until_us.max(twin_until_us);
                    self.unexpected_echo |= transaction.unexpected_echo();
                    self.error = self.error.or(error);
                    self.block += 1;
                    match error {
                        // A late answer to this block could be taken for the next one's, and a
                        // dead probe shall not be waited for once per block.
                        Some(error) if error.leaves_answer_owed() => {
                            self.transaction = None;
                            self.give_up(profile, error.missing_reason());
                        }
                        _ => self.begin_block(profile, now_us),
                    }
                }
            }
        }
        match self.held_until_us {
            Some(until_us) => SlotStep::Wait { until_us },
            None => SlotStep::Done,
        }
    }

    /// One per quantity, in the profile's order; [`MissingReason::NotRead`] until its block is in.
    pub fn samples(&self) -> &[Result<Sample, MissingReason>] {
        &self.samples
    }

    /// What went wrong first, for the node's diagnostics.
    pub fn error(&self) -> Option<ModbusError> {
        self.error
    }

    /// The adapter echoes although the settings say that it does not.
    pub fn unexpected_echo(&self) -> bool {
        self.unexpected_echo
    }

    fn begin_block(&mut self, profile: &Profile<'_>, now_us: u64) {
        self.transaction = None;
        let Some(block) = profile.blocks().nth(self.block) else {
            return;
        };
        if now_us < self.twin_until_us && has_twin_shape(profile, self.block, block) {
            self.held_until_us = Some(self.twin_until_us);
        } else {
            self.ask(profile, now_us);
        }
    }

    fn ask(&mut self, profile: &Profile<'_>, now_us: u64) {
        self.transaction = profile
            .blocks()
            .nth(self.block)
            .and_then(|block| profile.request(block, self.address).ok())
            .map(|request| Transaction::new(request, self.settings, now_us));
    }

    /// The blocks that were not asked for any more share the reason.
    fn give_up(&mut self, profile: &Profile<'_>, reason: MissingReason) {
        for (sample, quantity) in self.samples.iter_mut().zip(profile.quantities()) {
            if usize::from(quantity.block) >= self.block {
                *sample = Err(reason);
            }
        }
    }
}
