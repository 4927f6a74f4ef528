//! What a node remembers across a reset, though not across a power cut: why it restarted, how often,
//! in the middle of what, how deep its stack was, and its last fault.
//!
//! The board places a [`Kept`] in RAM that is not cleared at start, takes it by reference, and hands it
//! to everything that wants to note something, its fault handler included. It is made of atomic
//! words, so any content is a valid one, and nobody has to own it. A code over the words tells
//! content from chance.

use core::sync::atomic::{AtomicU32, Ordering};

use node::RestartCause;

/// Addresses of a backtrace.
pub const BACKTRACE_MAX: usize = 6;
/// Words that the code covers.
const WORDS: usize = 9 + BACKTRACE_MAX;
/// First word of a kept memory of this layout: "TYK" and its version.
const MAGIC: u32 = 0x5459_4b02;

const MAGIC_AT: usize = 0;
/// Boots since power came.
const BOOTS_AT: usize = 1;
/// Deepest that the stack was, bytes.
const STACK_AT: usize = 2;
/// Resets in a row: flash in the low byte, network in the next, sampling in the third.
const RESETS_AT: usize = 3;
/// The reset that the program asked for: 0 none, else [`Asked`].
const ASKED_AT: usize = 4;
/// Kind of the last fault, 0 = none; then its address, and a word more.
const FAULT_AT: usize = 5;
const ADDRESS_AT: usize = 6;
const DETAIL_AT: usize = 7;
/// Time since boot when it was last looked at, s.
const UP_AT: usize = 8;
const BACKTRACE_AT: usize = 9;

/// What a node is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Starting.
    Start = 1,
    /// Running.
    Run = 2,
    /// A flash operation.
    Flash = 3,
}

impl Stage {
    const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            1 => Self::Start,
            2 => Self::Run,
            3 => Self::Flash,
            _ => return None,
        })
    }
}

/// Why the program reset the node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Asked {
    /// Somebody asked for it at the console.
    Person = 1,
    /// The network half does not go on.
    Network = 2,
    /// Sampling does not go on.
    Sampling = 3,
    /// A config did not prove itself.
    Config = 4,
}

impl Asked {
    const fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            1 => Self::Person,
            2 => Self::Network,
            3 => Self::Sampling,
            4 => Self::Config,
            _ => return None,
        })
    }
}

/// A fault of the processor, or a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// What: the board's number for it, above 0. By custom 1 = panic, 2 = hard fault, 3 = stack
    /// overflow, 4 = bus fault, 5 = an unexpected interrupt.
    pub kind: u8,
    /// The instruction; of a panic, where it was called, or its line.
    pub address: u32,
    /// Fault status register, or cause.
    pub detail: u32,
    /// Return addresses, newest first; 0 where there is none.
    pub backtrace: [u32; BACKTRACE_MAX],
}

/// What was kept from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Why the node restarted, as far as anybody knows.
    pub cause: RestartCause,
    /// Boots since power came, with this one.
    pub boots: u32,
    /// What it was in the middle of when it was reset.
    pub stage: Option<Stage>,
    /// The reset that the program asked for.
    pub asked: Option<Asked>,
    /// The fault that ended the boot before.
    pub fault: Option<Fault>,
    /// Deepest that the stack of an earlier boot was, bytes.
    pub stack: u32,
    /// How long the boot before lasted, s, within some seconds.
    pub up_s: u32,
    /// Resets in a row put down to the flash.
    pub flash_resets: u8,
    /// Resets in a row because the network half did not go on.
    pub network_resets: u8,
}

/// The memory itself.
#[derive(Debug)]
#[repr(C)]
pub struct Kept {
    words: [AtomicU32; WORDS],
    code: AtomicU32,
    /// The stage and its complement: it changes too often for the code.
    stage: AtomicU32,
}

impl Kept {
    /// An empty one; on a board it lies in memory that is not cleared, and this is never called.
    #[expect(clippy::new_without_default, reason = "a memory is placed, not made by default")]
    pub const fn new() -> Self {
        #[expect(clippy::declare_interior_mutable_const, reason = "the pattern of an array of atomics")]
        const ZERO: AtomicU32 = AtomicU32::new(0);
        Self { words: [ZERO; WORDS], code: ZERO, stage: ZERO }
    }

    /// Begins a boot: says what was before, and forgets what is told once. `cause` is what the
    /// hardware says of the reset; it is made more precise by what the program had noted.
    pub fn begin(&self, cause: RestartCause) -> Before {
        let whole = self.get(MAGIC_AT) == MAGIC && self.code.load(Ordering::Relaxed) == self.code_now();
        let fresh = !whole || matches!(cause, RestartCause::Power | RestartCause::BrownOut);
        if fresh {
            self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            self.stage.store(0, Ordering::Relaxed);
        }
        let stage = self.stage();
        let fault = Some(self.fault()).filter(|fault| fault.kind != 0);
        let asked = Asked::from_id(self.get(ASKED_AT));
        let cause = match (fault, asked, cause) {
            (Some(_), ..) => RestartCause::Fault,
            (None, Some(_), RestartCause::Unknown) => RestartCause::Software,
            (.., cause) => cause,
        };
        let [mut flash_resets, network_resets, sampling_resets, _] = self.get(RESETS_AT).to_le_bytes();
        if cause == RestartCause::Watchdog && stage == Some(Stage::Flash) {
            flash_resets = flash_resets.saturating_add(1);
        }
        let boots = self.get(BOOTS_AT).wrapping_add(1);
        let (stack, up_s) = (self.get(STACK_AT), self.get(UP_AT));
        let resets = u32::from_le_bytes([flash_resets, network_resets, sampling_resets, 0]);
        for (at, value) in
            [(MAGIC_AT, MAGIC), (BOOTS_AT, boots), (RESETS_AT, resets), (ASKED_AT, 0), (FAULT_AT, 0), (UP_AT, 0)]
        {
            self.put(at, value);
        }
        self.seal();
        self.enter(Stage::Start);
        Before { cause, boots, stage, asked, fault, stack, up_s, flash_resets, network_resets }
    }

    /// Notes what the node is in the middle of; what it was in the middle of before.
    pub fn enter(&self, stage: Stage) -> Stage {
        let before = self.stage().unwrap_or(Stage::Run);
        let id = u32::from(stage as u8);
        self.stage.store(id | (!id << 16), Ordering::Relaxed);
        before
    }

    /// Notes a fault; for a fault handler or a panic handler, which then resets.
    pub fn note_fault(&self, fault: Fault) {
        self.put(FAULT_AT, u32::from(fault.kind));
        self.put(ADDRESS_AT, fault.address);
        self.put(DETAIL_AT, fault.detail);
        for (n, address) in fault.backtrace.into_iter().enumerate() {
            self.put(BACKTRACE_AT + n, address);
        }
        self.seal();
    }

    /// Notes that the program resets the node now, and counts it where it counts.
    pub fn note_reset(&self, why: Asked) {
        self.put(ASKED_AT, why as u32);
        let [flash, network, sampling, _] = self.get(RESETS_AT).to_le_bytes();
        let network = network.saturating_add(u8::from(why == Asked::Network));
        let sampling = sampling.saturating_add(u8::from(why == Asked::Sampling));
        self.put(RESETS_AT, u32::from_le_bytes([flash, network, sampling, 0]));
        self.seal();
    }

    /// The flash works: its resets are forgotten.
    pub fn flash_is_fine(&self) {
        self.put(RESETS_AT, self.get(RESETS_AT) & !0xff);
        self.seal();
    }

    /// The network half goes on: its resets are forgotten.
    pub fn network_is_fine(&self) {
        self.put(RESETS_AT, self.get(RESETS_AT) & !0xff00);
        self.seal();
    }

    /// Notes how deep the stack is, bytes, of which the deepest is kept, and how long the node has run, s.
    pub fn note(&self, stack: u32, up_s: u32) {
        let stack = stack.max(self.get(STACK_AT));
        if (stack, up_s) != (self.get(STACK_AT), self.get(UP_AT)) {
            self.put(STACK_AT, stack);
            self.put(UP_AT, up_s);
            self.seal();
        }
    }

    fn fault(&self) -> Fault {
        let mut backtrace = [0; BACKTRACE_MAX];
        for (n, address) in backtrace.iter_mut().enumerate() {
            *address = self.get(BACKTRACE_AT + n);
        }
        let kind = self.get(FAULT_AT).to_le_bytes();
        Fault {
            kind: kind.first().copied().unwrap_or(0),
            address: self.get(ADDRESS_AT),
            detail: self.get(DETAIL_AT),
            backtrace,
        }
    }

    fn stage(&self) -> Option<Stage> {
        let word = self.stage.load(Ordering::Relaxed);
        let id = word & 0xffff;
        let whole = word >> 16 == !id & 0xffff;
        u8::try_from(id).ok().filter(|_| whole).and_then(Stage::from_id)
    }

    fn get(&self, at: usize) -> u32 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn put(&self, at: usize, value: u32) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn code_now(&self) -> u32 {
        let mut digest = crate::CRC32.digest();
        for word in &self.words {
            digest.update(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        digest.finalize()
    }

    fn seal(&self) {
        self.code.store(self.code_now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_before_is_believed_after_a_power_cut_or_from_chance() {
        let kept = Kept::new();
        for word in &kept.words {
            word.store(0xdead_beef, Ordering::Relaxed);
        }
        let before = kept.begin(RestartCause::Watchdog);
        assert_eq!((before.boots, before.fault, before.stage, before.asked), (1, None, None, None));
        kept.note(900, 60);
        kept.note_fault(Fault { kind: 2, address: 0x1234, ..Fault::default() });
        let before = kept.begin(RestartCause::Power);
        assert_eq!((before.cause, before.boots, before.fault, before.stack), (RestartCause::Power, 1, None, 0));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..WORDS * 32 {
            let kept = Kept::new();
            kept.begin(RestartCause::Power);
            kept.note(900, 60);
            let word = &kept.words[bit / 32];
            word.store(word.load(Ordering::Relaxed) ^ 1 << (bit % 32), Ordering::Relaxed);
            assert_eq!(kept.begin(RestartCause::Software).stack, 0, "bit {bit}");
        }
    }

    #[test]
    fn a_fault_is_told_once_with_where_it_was() {
        let kept = Kept::new();
        kept.begin(RestartCause::Power);
        let fault = Fault { kind: 2, address: 0x800_1234, detail: 7, backtrace: [1, 2, 3, 4, 5, 6] };
        kept.note_fault(fault);
        let before = kept.begin(RestartCause::Software);
        assert_eq!((before.cause, before.fault, before.boots), (RestartCause::Fault, Some(fault), 2));
        assert_eq!(kept.begin(RestartCause::Software).fault, None);
    }

    #[test]
    fn a_watchdog_in_a_flash_operation_counts_against_the_flash_until_it_works() {
        let kept = Kept::new();
        kept.begin(RestartCause::Power);
        for resets in 1..=3 {
            kept.enter(Stage::Flash);
            assert_eq!(kept.begin(RestartCause::Watchdog).flash_resets, resets);
        }
        kept.enter(Stage::Run);
        assert_eq!(kept.begin(RestartCause::Watchdog).flash_resets, 3, "not the flash's fault");
        kept.flash_is_fine();
        assert_eq!(kept.begin(RestartCause::Software).flash_resets, 0);
    }

    #[test]
    fn resets_for_the_network_count_apart_and_are_forgotten_when_it_goes_on() {
        let kept = Kept::new();
        kept.begin(RestartCause::Power);
        kept.note_reset(Asked::Network);
        let before = kept.begin(RestartCause::Software);
        assert_eq!((before.asked, before.network_resets, before.flash_resets), (Some(Asked::Network), 1, 0));
        kept.network_is_fine();
        assert_eq!(kept.begin(RestartCause::Software).network_resets, 0);
    }
}
