//! The fault log: why the node stopped, kept across reset and power cuts in a small flash region of
//! its own.
//!
//! Entries of 64 bytes lie one behind the other, each with a number and a check sum; the region is
//! gone round, so that its sectors wear alike. A damaged entry costs itself. Only the sector that is
//! begun next is ever erased, with the oldest entries.

use embedded_storage::nor_flash::NorFlash;
use telemetry::report::digest;

use crate::flash::{self, ALIGN_MAX, BLANK_READS};

/// Room of an entry: a multiple of every write size in use.
const ENTRY: usize = 2 * ALIGN_MAX;
/// Bytes of an entry that say something, and their check sum.
const FIELDS: usize = 50;
/// Places tried for one entry before the flash is called worn out.
const ATTEMPTS_MAX: u8 = 3;
/// Words of a backtrace.
pub const TRACE_MAX: usize = 4;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The watchdog bit; detail = which part had not advanced.
    Watchdog,
    /// The processor faulted; detail = its fault status.
    Processor,
    /// The stack overflowed.
    Stack,
    /// A panic, which nothing but the start-up may have; detail = line.
    Panic,
    /// The voltage fell.
    BrownOut,
    /// A part was restarted by its software deadline; detail = which.
    Deadline,
    /// A flash region does not obey; detail = which.
    Flash,
    /// A kind this version does not know.
    Other(u8),
}

impl FaultKind {
    /// By number.
    pub const fn from_id(id: u8) -> Self {
        match id {
            1 => Self::Watchdog,
            2 => Self::Processor,
            3 => Self::Stack,
            4 => Self::Panic,
            5 => Self::BrownOut,
            6 => Self::Deadline,
            7 => Self::Flash,
            other => Self::Other(other),
        }
    }

    /// Its number.
    pub const fn id(self) -> u8 {
        match self {
            Self::Watchdog => 1,
            Self::Processor => 2,
            Self::Stack => 3,
            Self::Panic => 4,
            Self::BrownOut => 5,
            Self::Deadline => 6,
            Self::Flash => 7,
            Self::Other(id) => id,
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Boots of the node until then.
    pub boot: u32,
    /// Time since that boot, s.
    pub uptime_s: u32,
    /// Where: program counter; 0 = not known.
    pub pc: u32,
    /// From where: link register; 0 = not known.
    pub lr: u32,
    /// The address that was at fault, where there is one; else 0.
    pub address: u32,
    /// Return addresses, the innermost first; 0 = no more.
    pub trace: [u32; TRACE_MAX],
    /// Most stack that was ever used, bytes; 0 = not known.
    pub stack_bytes: u32,
    /// See [`FaultKind`].
    pub detail: u32,
}

/// Why the log cannot do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultLogError<E> {
    /// Fewer than two sectors, sectors smaller than an entry, or an unsupported write size.
    #[error("the flash region cannot hold a fault log")]
    Geometry,
    /// The flash did not obey.
    #[error("the flash failed: {0:?}")]
    Flash(E),
    /// Several places in a row did not keep what was written.
    #[error("the flash does not keep what is written")]
    Worn,
}

/// The log.
#[derive(Debug)]
pub struct FaultLog<F> {
    flash: F,
    entries: usize,
    /// Number of the newest entry and its place.
    newest: Option<(u32, usize)>,
    /// Where the next goes. At the beginning of a sector, that is erased first.
    next: usize,
}

impl<F: NorFlash> FaultLog<F> {
    const PER_SECTOR: usize = F::ERASE_SIZE / ENTRY;

    /// Opens the log in `flash`, whatever is there. It writes nothing.
    ///
    /// # Errors
    /// When the region cannot hold one, or the flash does not answer.
    pub fn open(flash: F) -> Result<Self, FaultLogError<F::Error>> {
        let unit = F::WRITE_SIZE.max(F::READ_SIZE);
        let fits = flash.capacity() >= 2 * F::ERASE_SIZE
            && u32::try_from(flash.capacity()).is_ok()
            && F::ERASE_SIZE.is_multiple_of(ENTRY)
            && ENTRY.is_multiple_of(unit);
        if !fits {
            return Err(FaultLogError::Geometry);
        }
        let entries = flash.capacity() / F::ERASE_SIZE * Self::PER_SECTOR;
        let mut log = Self { flash, entries, newest: None, next: 0 };
        for at in 0..entries {
            if let Some((number, _)) = log.entry(at)?
                && log.newest.is_none_or(|(newest, _)| newest < number)
            {
                log.newest = Some((number, at));
            }
        }
        if let Some((_, at)) = log.newest {
            log.next = log.behind(at, 1);
            // Behind all that is not blank in its sector, and one place more: what was begun there may
            // look blank and not be.
            let mut place = log.next;
            while !place.is_multiple_of(Self::PER_SECTOR) {
                let from = (place * ENTRY) as u32;
                place = log.behind(place, 1);
                if !flash::is_blank(&mut log.flash, from, ENTRY, BLANK_READS).map_err(FaultLogError::Flash)? {
                    log.next = place;
                }
            }
            if !log.next.is_multiple_of(Self::PER_SECTOR) {
                log.next = log.behind(log.next, 1);
            }
        }
        Ok(log)
    }

    /// Keeps a fault: when this returns, it is in the flash and has been read back. Its number.
    ///
    /// # Errors
    /// When the flash does not obey, or does not keep it.
    pub fn append(&mut self, fault: &Fault) -> Result<u32, FaultLogError<F::Error>> {
        let number = self.newest.map_or(1, |(newest, _)| newest.saturating_add(1));
        let bytes = encode(number, fault);
        for _ in 0..ATTEMPTS_MAX {
            let at = self.next;
            self.next = self.behind(at, 1);
            let from = (at * ENTRY) as u32;
            if at.is_multiple_of(Self::PER_SECTOR) {
                let erased = self.flash.erase(from, from + F::ERASE_SIZE as u32);
                if erased.is_err() {
                    // Nothing may go into a sector that is not erased.
                    self.next = self.behind(at, Self::PER_SECTOR);
                }
                erased.map_err(FaultLogError::Flash)?;
            }
            self.flash.write(from, &bytes).map_err(FaultLogError::Flash)?;
            if flash::reads_back(&mut self.flash, from, &bytes).map_err(FaultLogError::Flash)? {
                self.newest = Some((number, at));
                return Ok(number);
            }
        }
        Err(FaultLogError::Worn)
    }

    /// The newest faults whose number is below `below` (`u32::MAX` for the newest of all) with their
    /// numbers, newest first, as many as there is room for in `faults`; how many.
    ///
    /// # Errors
    /// When the flash does not answer.
    pub fn read(&mut self, below: u32, faults: &mut [(u32, Fault)]) -> Result<usize, FaultLogError<F::Error>> {
        let Some((_, newest)) = self.newest else { return Ok(0) };
        let mut last = below;
        let mut count = 0;
        for step in 0..self.entries {
            let Some(place) = faults.get_mut(count) else { break };
            let at = self.behind(newest, self.entries - step);
            if let Some(found) = self.entry(at)?
                && found.0 < last
            {
                last = found.0;
                *place = found;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// The place that comes `steps` behind another, round the region.
    fn behind(&self, at: usize, steps: usize) -> usize {
        (at + steps).checked_rem(self.entries).unwrap_or(0)
    }

    fn entry(&mut self, at: usize) -> Result<Option<(u32, Fault)>, FaultLogError<F::Error>> {
        let mut bytes = [0; ENTRY];
        let readable = flash::load(&mut self.flash, (at * ENTRY) as u32, &mut bytes).map_err(FaultLogError::Flash)?;
        Ok(if readable { decode(&bytes) } else { None })
    }
}

fn encode(number: u32, fault: &Fault) -> [u8; ENTRY] {
    let mut bytes = [0xff; ENTRY];
    let [t0, t1, t2, t3] = fault.trace;
    let Fault { boot, uptime_s, pc, lr, address, stack_bytes, detail, .. } = *fault;
    let words = [number, boot, uptime_s, pc, lr, address, t0, t1, t2, t3, stack_bytes, detail];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    bytes[48] = fault.kind.id();
    // Fixed, so that a region of zeros is no entry.
    bytes[49] = b'F';
    let (fields, rest) = bytes.split_at_mut(FIELDS);
    let sum = digest(fields).to_be_bytes();
    for (place, byte) in rest.iter_mut().zip(sum) {
        *place = byte;
    }
    bytes
}

fn decode(bytes: &[u8; ENTRY]) -> Option<(u32, Fault)> {
    let (fields, rest) = bytes.split_at_checked(FIELDS)?;
    let (sum, _) = rest.split_first_chunk::<4>()?;
    if digest(fields) != u32::from_be_bytes(*sum) || bytes[49] != b'F' {
        return None;
    }
    let mut words = fields.chunks_exact(4).map(|word| match *word {
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    });
    let mut word = || words.next().unwrap_or(0);
    let number = word();
    let fault = Fault {
        boot: word(),
        uptime_s: word(),
        pc: word(),
        lr: word(),
        address: word(),
        trace: [word(), word(), word(), word()],
        stack_bytes: word(),
        detail: word(),
        kind: FaultKind::from_id(bytes[48]),
    };
    Some((number, fault))
}
