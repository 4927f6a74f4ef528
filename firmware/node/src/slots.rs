//! Two slots for an image, of which one runs and the other takes the next: for the config, and in
//! another region for the settings.
//!
//! A slot is half of a flash region: a header, marks, the image. A new image goes into the slot that
//! does not run; its header is written when all of it has been read back, and the mark that begins
//! its trial when the header has. Nothing else makes it run. What becomes of it is told by further
//! marks, each in a write unit of its own, of which the last that is whole counts: a boot of the
//! trial, confirmed, condemned, told. Confirmed, condemned and told are written twice, and by
//! [`Slots::boot_counted`] a second time if a cut came between: what has been seen once stays so,
//! although a torn word may read differently each time.
//!
//! A trial that was booted more than [`BOOTS_MAX`] times without being confirmed has failed by
//! itself. Where there is no other image to go back to, an image stays on trial instead.

mod marks;

use embedded_storage::nor_flash::NorFlash;
use heapless::String;
use telemetry::report::{Digest, digest};

use self::marks::{MARKS_MAX, Mark, Marks};
use crate::envelope::BOARD_BYTES_MAX;
use crate::flash::{self, ALIGN_MAX};

/// Boots of a trial; with the next one it has failed.
pub const BOOTS_MAX: u8 = 4;
/// Bytes that say who wrote an image.
pub const WHO_BYTES_MAX: usize = 32;

/// Names the layout.
const MAGIC: [u8; 4] = *b"TYS1";
/// Room of a slot's header: a multiple of every write size in use.
const HEAD: usize = 3 * ALIGN_MAX;
/// Bytes of it before its check sum.
const FIELDS: usize = 76;
/// Bytes of an image that are looked at at once: whole units of any flash.
const CHUNK: usize = 4 * ALIGN_MAX;

/// Where an image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// With the firmware.
    Factory,
    /// Over the console.
    Serial,
    /// From the gateway.
    Mqtt,
}

/// Why an image was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A reason this version does not know.
    Unknown = 0,
    /// A channel that control looks at has not had one value.
    Unread = 1,
    /// The gateway has not acknowledged its description.
    Untold = 2,
    /// The node was booted too often before it was confirmed.
    Boots = 3,
    /// A person said so.
    Person = 4,
    /// The node does not take it: it is not valid.
    Invalid = 5,
}

impl Reason {
    const fn from_id(id: u8) -> Self {
        match id {
            1 => Self::Unread,
            2 => Self::Untold,
            3 => Self::Boots,
            4 => Self::Person,
            5 => Self::Invalid,
            _ => Self::Unknown,
        }
    }
}

/// How an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On trial, and booted so often.
    Trial {
        /// Boots so far.
        boots: u8,
    },
    /// It has proved itself.
    Confirmed,
    /// It was given up.
    Condemned {
        /// Why.
        reason: Reason,
        /// Whether a record says so already.
        told: bool,
    },
}

/// An image in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Slot 0 or 1.
    pub slot: u8,
    /// Rises with each image staged here.
    pub generation: u32,
    /// Its length, bytes.
    pub length: usize,
    /// CRC-32C of it.
    pub sum: u32,
    /// Who wrote it.
    pub who: String<WHO_BYTES_MAX>,
    /// When, s UTC; 0 = not known.
    pub when_s: u64,
    /// Where it came from.
    pub source: Source,
    /// How it stands.
    pub state: State,
}

/// What is in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing that was ever finished.
    Empty,
    /// An image that is damaged.
    Damaged,
    /// An image for another board: the flash was moved.
    OtherBoard,
    /// An image.
    Kept(Entry),
}

/// Why the slots cannot do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError<E> {
    /// The region is no two slots with room for an image, or its write size is not supported.
    #[error("the flash region cannot hold two slots")]
    Geometry,
    /// The flash did not obey.
    #[error("the flash failed: {0:?}")]
    Flash(E),
    /// The flash does not keep what is written.
    #[error("the flash does not keep what is written")]
    Worn,
    /// An image is 1 byte to what [`Slots::room`] says.
    #[error("an image of {0} bytes")]
    Length(usize),
    /// The image that runs is on trial, and the other slot is what it may have to go back to.
    #[error("the image that runs is on trial: it has to be confirmed or given up first")]
    OnTrial,
    /// More or less of an image came than was announced, or none was.
    #[error("the image is not as long as was announced")]
    Staging,
    /// Nothing runs.
    #[error("there is no image")]
    Unprovisioned,
    /// There is no other image to go back to.
    #[error("there is no other image to go back to")]
    NoOther,
}

/// An image on its way into a slot.
#[derive(Clone, Debug)]
struct Staging {
    entry: Entry,
    written: usize,
    sum: Digest,
    carry: [u8; ALIGN_MAX],
    carried: usize,
}

/// The two slots.
#[derive(Debug)]
pub struct Slots<F> {
    flash: F,
    board: String<BOARD_BYTES_MAX>,
    slots: [Slot; 2],
    marks: [Marks; 2],
    running: Option<u8>,
    staging: Option<Staging>,
}

impl<F: NorFlash> Slots<F> {
    const UNIT: usize = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
    const MARK: usize = if Self::UNIT > marks::BYTES { Self::UNIT } else { marks::BYTES };
    const IMAGE: usize = (HEAD + MARKS_MAX * Self::MARK).next_multiple_of(ALIGN_MAX);

    /// Opens the slots of `board`, at most 16 bytes, in a region of two slots of whole sectors. It
    /// writes nothing; a node calls [`Slots::boot_counted`] next.
    ///
    /// # Errors
    /// When the region cannot hold slots, or the flash does not answer. A damaged slot is no error.
    pub fn open(flash: F, board: &str) -> Result<Self, SlotError<F::Error>> {
        let size = flash.capacity() / 2;
        let fits = size.is_multiple_of(F::ERASE_SIZE)
            && size > Self::IMAGE
            && u32::try_from(flash.capacity()).is_ok()
            && Self::UNIT <= ALIGN_MAX
            && ALIGN_MAX.is_multiple_of(Self::UNIT)
            && Self::MARK.is_multiple_of(Self::UNIT);
        let board = String::try_from(board).map_err(|_| SlotError::Geometry)?;
        if !fits {
            return Err(SlotError::Geometry);
        }
        let slots = [Slot::Empty, Slot::Empty];
        let mut opened = Self { flash, board, slots, marks: [Marks::NONE; 2], running: None, staging: None };
        opened.look(0)?;
        opened.look(1)?;
        opened.choose();
        Ok(opened)
    }

    /// Bytes of an image at most.
    pub fn room(&self) -> usize {
        self.size() - Self::IMAGE
    }

    /// The image that runs; `None` while the node is not provisioned.
    pub fn running(&self) -> Option<&Entry> {
        self.entry(self.running?)
    }

    /// Whether the image that runs is on trial and there is another to go back to.
    pub fn is_on_trial(&self) -> bool {
        let on_trial = self.running().is_some_and(|entry| matches!(entry.state, State::Trial { .. }));
        on_trial && self.fallback().is_some()
    }

    /// What is in the slots.
    pub fn history(&self) -> &[Slot; 2] {
        &self.slots
    }

    /// An image that was given up and of which no record says so yet.
    pub fn untold(&self) -> Option<&Entry> {
        let untold = |entry: &&Entry| matches!(entry.state, State::Condemned { told: false, .. });
        [0, 1].into_iter().filter_map(|slot| self.entry(slot)).find(untold)
    }

    /// Where an image lies in the region, and its length: for boards that see their flash in memory.
    pub fn place(&self, entry: &Entry) -> (u32, usize) {
        (self.address(entry.slot, Self::IMAGE), entry.length)
    }

    /// Reads an image of [`Slots::running`] or [`Slots::history`], from `from` on, as much as there
    /// is and as `buffer` has room for; how many bytes.
    ///
    /// # Errors
    /// When the flash does not obey.
    pub fn read(&mut self, entry: &Entry, from: usize, buffer: &mut [u8]) -> Result<usize, SlotError<F::Error>> {
        let length = entry.length.saturating_sub(from).min(buffer.len());
        let mut bytes = [0; CHUNK];
        let mut done = 0;
        while done < length {
            // Whole units of the flash, of which not all are asked for.
            let at = from + done;
            let skip = at % ALIGN_MAX;
            let address = self.address(entry.slot, Self::IMAGE + at - skip);
            let room = CHUNK.min((entry.length - at + skip).next_multiple_of(ALIGN_MAX));
            let place = bytes.get_mut(..room).ok_or(SlotError::Geometry)?;
            self.flash.read(address, place).map_err(SlotError::Flash)?;
            let part = (room - skip).min(length - done);
            for (to, byte) in buffer.iter_mut().skip(done).zip(place.iter().skip(skip).take(part)) {
                *to = *byte;
            }
            done += part;
        }
        Ok(length)
    }

    /// The image that runs, whole and checked, in `buffer`.
    ///
    /// # Errors
    /// When none runs, it is longer than `buffer`, the flash fails, or it is no longer what it was.
    pub fn read_image<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], SlotError<F::Error>> {
        let entry = self.running().ok_or(SlotError::Unprovisioned)?.clone();
        let place = buffer.get_mut(..entry.length).ok_or(SlotError::Length(entry.length))?;
        self.read(&entry, 0, place)?;
        if digest(place) != entry.sum {
            return Err(SlotError::Worn);
        }
        Ok(place)
    }

    /// Takes in a whole image; on success it is on trial and is what runs.
    ///
    /// # Errors
    /// As [`Slots::begin`], [`Slots::push`] and [`Slots::finish`]. Then what ran goes on running.
    pub fn stage(&mut self, image: &[u8], who: &str, when_s: u64, source: Source) -> Result<(), SlotError<F::Error>> {
        self.begin(image.len(), who, when_s, source)?;
        self.push(image)?;
        self.finish()
    }

    /// Begins to take in an image of `length` bytes: erases the slot that does not run. `who` is cut
    /// to [`WHO_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// When there is no room for it, the other slot is still needed, or the flash fails.
    #[inline(never)]
    pub fn begin(&mut self, length: usize, who: &str, when_s: u64, source: Source) -> Result<(), SlotError<F::Error>> {
        self.staging = None;
        if length == 0 || length > self.room() {
            return Err(SlotError::Length(length));
        }
        if self.is_on_trial() {
            return Err(SlotError::OnTrial);
        }
        let generations = [0, 1].into_iter().filter_map(|slot| self.entry(slot)).map(|entry| entry.generation);
        let generation = generations.max().unwrap_or(0).saturating_add(1);
        let slot = self.running.map_or(0, |running| 1 - running);
        let mut name = String::new();
        for letter in who.chars() {
            if name.push(letter).is_err() {
                break;
            }
        }
        let state = State::Trial { boots: 0 };
        let entry = Entry { slot, generation, length, sum: 0, who: name, when_s, source, state };
        self.forget(slot);
        let from = self.address(slot, 0);
        self.flash.erase(from, from + self.size() as u32).map_err(SlotError::Flash)?;
        self.staging =
            Some(Staging { entry, written: 0, sum: Digest::default(), carry: [0xff; ALIGN_MAX], carried: 0 });
        Ok(())
    }

    /// Takes in the next bytes of the image.
    ///
    /// # Errors
    /// When none was begun, these are too many, or the flash fails. Then it has to be begun again.
    #[inline(never)]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SlotError<F::Error>> {
        let mut staging = self.staging.take().ok_or(SlotError::Staging)?;
        if staging.written + staging.carried + bytes.len() > staging.entry.length {
            return Err(SlotError::Staging);
        }
        staging.sum.update(bytes);
        for byte in bytes {
            if let Some(place) = staging.carry.get_mut(staging.carried) {
                *place = *byte;
            }
            staging.carried += 1;
            if staging.carried == ALIGN_MAX {
                self.write_carry(&mut staging)?;
            }
        }
        self.staging = Some(staging);
        Ok(())
    }

    /// All of the image is there: reads it back and puts it on trial; it is what runs from now on.
    ///
    /// # Errors
    /// When it is shorter than announced, or the flash fails or does not keep it.
    #[inline(never)]
    pub fn finish(&mut self) -> Result<(), SlotError<F::Error>> {
        let mut staging = self.staging.take().ok_or(SlotError::Staging)?;
        if staging.written + staging.carried != staging.entry.length {
            return Err(SlotError::Staging);
        }
        if staging.carried > 0 {
            self.write_carry(&mut staging)?;
        }
        let mut entry = staging.entry;
        entry.sum = staging.sum.finalize();
        if self.sum(&entry)? != Some(entry.sum) {
            return Err(SlotError::Worn);
        }
        let slot = entry.slot;
        let head = encode(&entry, &self.board);
        let at = self.address(slot, 0);
        self.flash.write(at, &head).map_err(SlotError::Flash)?;
        if !flash::reads_back(&mut self.flash, at, &head).map_err(SlotError::Flash)? {
            return Err(SlotError::Worn);
        }
        self.write_mark(&entry, Mark::Begun)?;
        self.keep(slot, Slot::Kept(entry));
        self.choose();
        Ok(())
    }

    /// The node has booted. Counts it while the image is on trial, and makes sure that all that was
    /// seen of the slots stays so. To be called once after [`Slots::open`], before anything is done
    /// on what runs; [`Slots::running`] may be another image after it.
    ///
    /// # Errors
    /// When the flash fails. The node goes on with what [`Slots::running`] says.
    #[inline(never)]
    pub fn boot_counted(&mut self) -> Result<(), SlotError<F::Error>> {
        for slot in [0, 1] {
            let Some(entry) = self.entry(slot).cloned() else { continue };
            // Not even begun: the mark that begins it may be there, and read so the next time.
            let void = Mark::Told(Reason::Unknown as u8);
            if self.marks_of(slot).state().is_none() {
                self.write_mark(&entry, void)?;
            }
            if let Some(mark) = self.marks_of(slot).unsure() {
                self.write_mark(&entry, mark)?;
            }
            let State::Trial { boots } = entry.state else { continue };
            if self.running == Some(slot) && boots <= BOOTS_MAX {
                self.write_mark(&entry, Mark::Boot)?;
                self.set_state(slot, State::Trial { boots: boots + 1 });
            }
        }
        self.choose();
        // A trial that was booted too often, with another image to go back to.
        for slot in [0, 1] {
            let overdue =
                matches!(self.entry(slot), Some(Entry { state: State::Trial { boots }, .. }) if *boots > BOOTS_MAX);
            if overdue && self.running != Some(slot) {
                self.give_up(slot, Reason::Boots)?;
            }
        }
        Ok(())
    }

    /// The image that runs has proved itself. Once this returns it is never on trial again.
    ///
    /// # Errors
    /// When none runs, or the flash fails: then it may be confirmed or not, and this may be called
    /// again.
    pub fn confirm(&mut self) -> Result<(), SlotError<F::Error>> {
        let entry = self.running().ok_or(SlotError::Unprovisioned)?.clone();
        if entry.state == State::Confirmed {
            return Ok(());
        }
        self.write_mark(&entry, Mark::Confirmed)?;
        self.write_mark(&entry, Mark::Confirmed)?;
        self.set_state(entry.slot, State::Confirmed);
        Ok(())
    }

    /// Gives up the image that runs, on trial or not: the other one is what runs from now on.
    ///
    /// # Errors
    /// When none runs, there is no other one, or the flash fails: then it may be given up or not, and
    /// this may be called again.
    pub fn condemn(&mut self, reason: Reason) -> Result<(), SlotError<F::Error>> {
        let slot = self.running.ok_or(SlotError::Unprovisioned)?;
        self.fallback().ok_or(SlotError::NoOther)?;
        self.give_up(slot, reason)?;
        self.choose();
        Ok(())
    }

    /// A record says that [`Slots::untold`] was given up.
    ///
    /// # Errors
    /// When the flash fails: then it may be told again.
    pub fn mark_told(&mut self) -> Result<(), SlotError<F::Error>> {
        let Some(entry) = self.untold().cloned() else { return Ok(()) };
        let State::Condemned { reason, .. } = entry.state else { return Ok(()) };
        self.write_mark(&entry, Mark::Told(reason as u8))?;
        self.write_mark(&entry, Mark::Told(reason as u8))?;
        self.set_state(entry.slot, State::Condemned { reason, told: true });
        Ok(())
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    fn give_up(&mut self, slot: u8, reason: Reason) -> Result<(), SlotError<F::Error>> {
        let entry = self.entry(slot).ok_or(SlotError::Unprovisioned)?.clone();
        self.write_mark(&entry, Mark::Condemned(reason as u8))?;
        self.write_mark(&entry, Mark::Condemned(reason as u8))?;
        self.set_state(slot, State::Condemned { reason, told: false });
        Ok(())
    }

    fn write_carry(&mut self, staging: &mut Staging) -> Result<(), SlotError<F::Error>> {
        let at = self.address(staging.entry.slot, Self::IMAGE + staging.written);
        let length = staging.carried.next_multiple_of(Self::UNIT);
        let bytes = staging.carry.get(..length).ok_or(SlotError::Geometry)?;
        self.flash.write(at, bytes).map_err(SlotError::Flash)?;
        staging.written += staging.carried;
        staging.carried = 0;
        staging.carry = [0xff; ALIGN_MAX];
        Ok(())
    }

    /// Writes a mark into the next unit that nothing has touched, and reads it back.
    fn write_mark(&mut self, entry: &Entry, mark: Mark) -> Result<(), SlotError<F::Error>> {
        let slot = entry.slot;
        while let Some(index) = self.marks_of(slot).next() {
            let at = self.address(slot, HEAD + usize::from(index) * Self::MARK);
            // What failed before may have touched it.
            if flash::is_blank(&mut self.flash, at, Self::MARK, flash::BLANK_READS).map_err(SlotError::Flash)? {
                let mut bytes = [0xff; ALIGN_MAX];
                mark.write(entry.generation, index, &mut bytes);
                let bytes = bytes.get(..Self::MARK).ok_or(SlotError::Geometry)?;
                self.flash.write(at, bytes).map_err(SlotError::Flash)?;
                if flash::reads_back(&mut self.flash, at, bytes).map_err(SlotError::Flash)? {
                    self.marks_of(slot).found(index, Some(mark));
                    return Ok(());
                }
            }
            self.marks_of(slot).skip();
        }
        Err(SlotError::Worn)
    }

    /// Looks at what is in a slot.
    fn look(&mut self, slot: u8) -> Result<(), SlotError<F::Error>> {
        self.forget(slot);
        let mut head = [0; HEAD];
        let at = self.address(slot, 0);
        if !flash::load(&mut self.flash, at, &mut head).map_err(SlotError::Flash)? {
            self.keep(slot, Slot::Damaged);
            return Ok(());
        }
        let Some((mut entry, board)) = decode(slot, &head) else {
            let blank = head.iter().all(|byte| *byte == 0xff);
            self.keep(slot, if blank { Slot::Empty } else { Slot::Damaged });
            return Ok(());
        };
        for index in 0..MARKS_MAX as u8 {
            let mut bytes = [0; ALIGN_MAX];
            let at = self.address(slot, HEAD + usize::from(index) * Self::MARK);
            let place = bytes.get_mut(..Self::MARK).ok_or(SlotError::Geometry)?;
            let readable = flash::load(&mut self.flash, at, place).map_err(SlotError::Flash)?;
            let mark = Mark::read(entry.generation, index, place).filter(|_| readable);
            let blank = mark.is_none()
                && flash::is_blank(&mut self.flash, at, Self::MARK, flash::BLANK_READS).map_err(SlotError::Flash)?;
            if !blank {
                self.marks_of(slot).found(index, mark);
            }
        }
        self.marks_of(slot).skip();
        // Without a mark its staging was cut before all of it had been read back: it never runs.
        let state = self.marks_of(slot).state().unwrap_or(State::Condemned { reason: Reason::Unknown, told: true });
        entry.state = state;
        let found = if board != self.board {
            Slot::OtherBoard
        } else if entry.length > self.room() || self.sum(&entry)? != Some(entry.sum) {
            Slot::Damaged
        } else {
            Slot::Kept(entry)
        };
        self.keep(slot, found);
        Ok(())
    }

    /// The check sum of an image as it lies in the flash; `None` when part of it cannot be read.
    fn sum(&mut self, entry: &Entry) -> Result<Option<u32>, SlotError<F::Error>> {
        let mut sum = Digest::default();
        let mut bytes = [0; CHUNK];
        let mut done = 0;
        while done < entry.length {
            let part = CHUNK.min(entry.length - done);
            let at = self.address(entry.slot, Self::IMAGE + done);
            let place = bytes.get_mut(..part.next_multiple_of(Self::UNIT)).ok_or(SlotError::Geometry)?;
            if !flash::load(&mut self.flash, at, place).map_err(SlotError::Flash)? {
                return Ok(None);
            }
            sum.update(place.get(..part).unwrap_or_default());
            done += part;
        }
        Ok(Some(sum.finalize()))
    }

    /// Decides what runs: the newest that was not given up and has not been booted too often, else
    /// the newest that was at least not given up.
    fn choose(&mut self) {
        let best = |overdue: bool| {
            let fits = |entry: &&Entry| match entry.state {
                State::Confirmed => true,
                State::Trial { boots } => overdue || boots <= BOOTS_MAX,
                State::Condemned { .. } => false,
            };
            let all = [0, 1].into_iter().filter_map(|slot| self.entry(slot));
            all.filter(fits).max_by_key(|entry| entry.generation).map(|entry| entry.slot)
        };
        self.running = best(false).or_else(|| best(true));
    }

    /// The image to go back to when the one that runs is given up.
    fn fallback(&self) -> Option<&Entry> {
        let other = 1 - self.running?;
        self.entry(other).filter(|entry| !matches!(entry.state, State::Condemned { .. }))
    }

    fn entry(&self, slot: u8) -> Option<&Entry> {
        match self.slots.get(usize::from(slot)) {
            Some(Slot::Kept(entry)) => Some(entry),
            _ => None,
        }
    }

    fn set_state(&mut self, slot: u8, state: State) {
        if let Some(Slot::Kept(entry)) = self.slots.get_mut(usize::from(slot)) {
            entry.state = state;
        }
    }

    fn marks_of(&mut self, slot: u8) -> &mut Marks {
        let [first, second] = &mut self.marks;
        if slot == 0 { first } else { second }
    }

    fn keep(&mut self, slot: u8, found: Slot) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = found;
        }
    }

    fn forget(&mut self, slot: u8) {
        self.keep(slot, Slot::Empty);
        *self.marks_of(slot) = Marks::NONE;
    }

    fn size(&self) -> usize {
        self.flash.capacity() / 2
    }

    fn address(&self, slot: u8, at: usize) -> u32 {
        // It fits: the region's capacity was checked against u32 when it was opened.
        (usize::from(slot) * self.size() + at) as u32
    }
}

fn encode(entry: &Entry, board: &str) -> [u8; HEAD] {
    let mut bytes = [0xff; HEAD];
    let source = match entry.source {
        Source::Factory => 0,
        Source::Serial => 1,
        Source::Mqtt => 2,
    };
    let lengths = [source, entry.who.len() as u8, board.len() as u8, 0];
    let parts: [(usize, &[u8]); 8] = [
        (0, &MAGIC),
        (4, &entry.generation.to_be_bytes()),
        (8, &(entry.length as u32).to_be_bytes()),
        (12, &entry.sum.to_be_bytes()),
        (16, &entry.when_s.to_be_bytes()),
        (24, &lengths),
        (28, entry.who.as_bytes()),
        (60, board.as_bytes()),
    ];
    for (from, part) in parts {
        for (place, byte) in bytes.iter_mut().skip(from).zip(part) {
            *place = *byte;
        }
    }
    let (fields, rest) = bytes.split_at_mut(FIELDS);
    for (place, byte) in rest.iter_mut().zip(digest(fields).to_be_bytes()) {
        *place = byte;
    }
    bytes
}

/// What a header says, and of which board.
fn decode(slot: u8, bytes: &[u8; HEAD]) -> Option<(Entry, String<BOARD_BYTES_MAX>)> {
    let (fields, rest) = bytes.split_at_checked(FIELDS)?;
    if !fields.starts_with(&MAGIC) || digest(fields) != u32::from_be_bytes(*rest.first_chunk()?) {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(*fields.get(at..)?.first_chunk()?));
    let text = |from: usize, length: u8| core::str::from_utf8(fields.get(from..from + usize::from(length))?).ok();
    let [source, who, board, _] = *fields.get(24..)?.first_chunk::<4>()?;
    let source = match source {
        0 => Source::Factory,
        1 => Source::Serial,
        2 => Source::Mqtt,
        _ => return None,
    };
    let entry = Entry {
        slot,
        generation: word(4)?,
        length: word(8)? as usize,
        sum: word(12)?,
        who: String::try_from(text(28, who)?).ok()?,
        when_s: u64::from_be_bytes(*fields.get(16..)?.first_chunk()?),
        source,
        state: State::Trial { boots: 0 },
    };
    Some((entry, String::try_from(text(60, board)?).ok()?))
}
