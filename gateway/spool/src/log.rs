//! The writer's side: append, group commit, rotation, budget, failure.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cursor::{self, Cursor};
use crate::files::{Files, LogFile};
use crate::format::{self, Header, Kind};

/// Bytes of a segment between two noted places: 16 bytes of memory each.
pub(crate) const MARK_BYTES: u64 = 64 << 10;

/// Bounds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment is closed when its entries have grown to this many bytes.
    pub segment_bytes_max: u64,
    /// Appends are refused when all segments together would exceed this.
    pub budget_bytes: u64,
    /// Appends are refused when the file system has less free than this.
    pub free_bytes_min: u64,
    /// Longest entry.
    pub entry_bytes_max: u32,
    /// Most that may wait for the disk in memory.
    pub queue_bytes_max: usize,
    /// Pause after a failed write or sync before another segment is tried.
    pub retry_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes_max: 32 << 20,
            budget_bytes: 4 << 30,
            free_bytes_min: 512 << 20,
            entry_bytes_max: 1 << 20,
            queue_bytes_max: 32 << 20,
            retry_after: Duration::from_secs(1),
        }
    }
}

/// Why an entry was not taken. Nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log has reached its budget.
    #[error("the log holds {held} of {budget} bytes")]
    Budget {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        budget: u64,
    },
    /// The file system is nearly full.
    #[error("the file system has {free} bytes free, and {least} must stay free")]
    Watermark {
        /// Bytes free.
        free: u64,
        /// Bytes that must stay free.
        least: u64,
    },
    /// The disk does not keep up.
    #[error("{0} bytes wait for the disk already")]
    Busy(usize),
    /// A write or sync has failed; another segment will be tried soon.
    #[error("the last write failed; another segment is tried soon")]
    Failed,
    /// The entry, or the checkpoint before it, is longer than allowed.
    #[error("an entry or checkpoint of {length} bytes is longer than {most}")]
    TooLong {
        /// Its bytes.
        length: usize,
        /// Bytes allowed.
        most: u32,
    },
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
}

/// A taken entry did not become durable. It may still be found after a restart: who appends
/// again must know its entries by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the log: {0}")]
pub struct SyncError(pub String);

/// What is called once an entry is durable, or known not to be; on the log's own thread.
pub type Done = Box<dyn FnOnce(Result<u64, SyncError>) + Send>;

/// Bytes and entries held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in segments.
    pub bytes: u64,
    /// Segments.
    pub segments: usize,
    /// First index still there.
    pub oldest: u64,
    /// First index not yet durable.
    pub synced: u64,
    /// Consumers: name, first index not consumed, attached.
    pub consumers: Vec<(String, u64, bool)>,
    /// Failed writes or syncs so far.
    pub failures: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Index beyond its last valid entry; grows while it is the newest.
    pub(crate) end: u64,
    pub(crate) bytes: u64,
}

struct Active {
    first: u64,
    /// Where its first entry stands.
    start: u64,
    /// Where the next one will.
    offset: u64,
}

/// A run of records for one segment, written and synced together.
struct Chunk {
    segment: u64,
    /// Header and checkpoint, when the segment is to be made.
    make: Option<Vec<u8>>,
    offset: u64,
    bytes: Vec<u8>,
    waiting: Vec<(u64, Done)>,
}

pub(crate) struct Inner {
    pub(crate) segments: Vec<Segment>,
    active: Option<Active>,
    pub(crate) next: u64,
    pub(crate) synced: u64,
    queue: Vec<Chunk>,
    queued_bytes: usize,
    failing: bool,
    retry_at: Option<Instant>,
    pub(crate) closing: bool,
    failures: u64,
    appends: u64,
    pub(crate) consumers: BTreeMap<String, Cursor>,
}

pub(crate) struct Shared {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) folder: PathBuf,
    pub(crate) options: Options,
    pub(crate) id: u64,
    inner: Mutex<Inner>,
    /// Held while a cursor changes, from looking at the log to the last unlinking: a segment must
    /// not go while a consumer comes back to it, and two changes must not share a file.
    cursors: Mutex<()>,
    /// Where entries stand in segments that were read: by segment, index and offset every
    /// [`MARK_BYTES`], so that a single entry is found without reading all before it.
    marks: Mutex<BTreeMap<u64, Vec<(u64, u64)>>>,
    work: Condvar,
    pub(crate) progress: Condvar,
}

impl Shared {
    /// The state holds no invariant across a panic that a later reader could be hurt by.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<(u64, u64)>>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the entry `index` stands at `offset` of a segment.
    pub(crate) fn mark(&self, segment: u64, index: u64, offset: u64) {
        let mut marks = self.marks();
        let marks = marks.entry(segment).or_default();
        if marks.last().is_none_or(|(_, last)| offset >= last + MARK_BYTES) {
            marks.push((index, offset));
        }
    }

    /// The nearest noted offset of a segment that is not beyond `index`.
    pub(crate) fn marked(&self, segment: u64, index: u64) -> Option<u64> {
        let marks = self.marks();
        let marks = marks.get(&segment)?;
        let beyond = marks.partition_point(|(marked, _)| *marked <= index);
        marks.get(beyond.checked_sub(1)?).map(|(_, offset)| *offset)
    }

    pub(crate) fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format::segment_name(first))
    }
}

/// The log, open for writing. Dropping it closes it.
pub struct Spool {
    pub(crate) shared: Arc<Shared>,
    /// The sync thread, until it is closed.
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What recovery found, for [`Spool::start`].
pub(crate) struct Found {
    pub(crate) id: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) next: u64,
    pub(crate) consumers: BTreeMap<String, Cursor>,
    pub(crate) lock: Box<dyn Send + Sync>,
}

impl Spool {
    pub(crate) fn start(
        files: Arc<dyn Files>,
        folder: &Path,
        options: Options,
        found: Found,
        failed: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let inner = Inner {
            segments: found.segments,
            active: None,
            next: found.next,
            synced: found.next,
            queue: Vec::new(),
            queued_bytes: 0,
            failing: false,
            retry_at: None,
            closing: false,
            failures: 0,
            appends: 0,
            consumers: found.consumers,
        };
        let shared = Arc::new(Shared {
            files,
            folder: folder.to_owned(),
            options,
            id: found.id,
            inner: Mutex::new(inner),
            cursors: Mutex::new(()),
            marks: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        let lock = found.lock;
        let thread = std::thread::Builder::new().name("spool-sync".into()).spawn(move || {
            let ended = Ended(&worker);
            sync_loop(&worker, &*failed);
            drop(ended);
            // Whoever writes last lets the next one in: a cursor may still be on its way.
            drop(worker.cursors.lock().unwrap_or_else(PoisonError::into_inner));
            drop(lock);
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes out what is queued and gives the writer's lock back; later appends and commits are
    /// refused. Whoever still holds the log keeps nobody from opening it.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.progress.notify_all();
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The last owner may let go within a callback, on the sync thread itself: it then ends by
        // itself once the queue is empty.
        if thread.thread().id() != std::thread::current().id() {
            // A panic of the sync thread has been printed; there is nothing left to save here.
            drop(thread.join());
        }
    }

    /// Takes an entry in order; `done` is called once it is durable. `checkpoint` is asked for
    /// the owner's state *before* this entry, when the entry begins a new segment.
    ///
    /// # Errors
    /// When refused, `done` is not called and nothing is kept.
    pub fn append_then(
        &self,
        entry: &[u8],
        checkpoint: &mut dyn FnMut() -> Vec<u8>,
        done: Done,
    ) -> Result<u64, AppendError> {
        let shared = &*self.shared;
        let options = &shared.options;
        if entry.len() > options.entry_bytes_max as usize {
            return Err(AppendError::TooLong { length: entry.len(), most: options.entry_bytes_max });
        }
        let mut inner = shared.lock();
        if inner.closing {
            return Err(AppendError::Closed);
        }
        if inner.failing || inner.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(AppendError::Failed);
        }
        if inner.queued_bytes > options.queue_bytes_max {
            return Err(AppendError::Busy(inner.queued_bytes));
        }
        let size = (format::HEAD + entry.len()) as u64;
        let held = inner.segments.iter().map(|s| s.bytes).sum::<u64>() + inner.queued_bytes as u64;
        if held + size > options.budget_bytes {
            return Err(AppendError::Budget { held, budget: options.budget_bytes });
        }
        // A look at the file system costs a call: at each new segment and at every 256th entry
        // taken. One that is refused does not count, so the next one looks again.
        let full = inner.active.as_ref().is_none_or(|a| a.offset - a.start + size > options.segment_bytes_max);
        if full || inner.appends.is_multiple_of(256) {
            let free = shared.files.free_bytes(&shared.folder).unwrap_or(0);
            if free < options.free_bytes_min {
                return Err(AppendError::Watermark { free, least: options.free_bytes_min });
            }
        }
        // The thread waits only for an empty queue: whoever fills it wakes it, nobody else needs to.
        let idle = inner.queue.is_empty();
        let index = inner.next;
        if full {
            let header = Header { spool: shared.id, first: index, valid_before: valid_before(&inner) };
            let mut make = header.encode().to_vec();
            let state = checkpoint();
            if state.len() > format::BODY_MAX as usize {
                // Written, it could not be read again.
                return Err(AppendError::TooLong { length: state.len(), most: format::BODY_MAX });
            }
            format::encode_record(&mut make, shared.id, format::HEADER as u64, index, Kind::Checkpoint, &state);
            let held = held + make.len() as u64;
            if held + size > options.budget_bytes {
                return Err(AppendError::Budget { held, budget: options.budget_bytes });
            }
            let offset = make.len() as u64;
            inner.queued_bytes += make.len();
            inner.active = Some(Active { first: index, start: offset, offset });
            inner.queue.push(Chunk {
                segment: index,
                make: Some(make),
                offset,
                bytes: Vec::new(),
                waiting: Vec::new(),
            });
        }
        inner.appends += 1;
        let Some(active) = &mut inner.active else { return Err(AppendError::Failed) };
        let (segment, offset) = (active.first, active.offset);
        active.offset += size;
        if inner.queue.last().is_none_or(|chunk| chunk.segment != segment) {
            inner.queue.push(Chunk { segment, make: None, offset, bytes: Vec::new(), waiting: Vec::new() });
        }
        if let Some(chunk) = inner.queue.last_mut() {
            // A queue is shorter than four thousand million entries: its bytes are bounded.
            let back = chunk.waiting.len() as u32;
            format::encode_record(&mut chunk.bytes, shared.id, offset, index, Kind::Entry { back }, entry);
            chunk.waiting.push((index, done));
        }
        inner.queued_bytes += size as usize;
        inner.next += 1;
        drop(inner);
        if idle {
            shared.work.notify_one();
        }
        Ok(index)
    }

    /// Appends and waits until the entry is durable.
    pub fn append_and_sync(
        &self,
        entry: &[u8],
        checkpoint: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<u64, AppendAndSyncError> {
        let (tell, told) = std::sync::mpsc::channel();
        let done = Box::new(move |result| {
            // The receiver waits below for exactly this.
            drop(tell.send(result));
        });
        self.append_then(entry, checkpoint, done)?;
        match told.recv() {
            Ok(result) => Ok(result?),
            Err(_) => Err(AppendError::Closed.into()),
        }
    }

    /// What is held, and where everyone is.
    pub fn usage(&self) -> Usage {
        let inner = self.shared.lock();
        Usage {
            bytes: inner.segments.iter().map(|s| s.bytes).sum(),
            segments: inner.segments.len(),
            oldest: inner.segments.first().map_or(inner.synced, |s| s.first),
            synced: inner.synced,
            consumers: inner.consumers.iter().map(|(n, c)| (n.clone(), c.next, c.attached)).collect(),
            failures: inner.failures,
        }
    }
}

/// Why an entry is not durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendAndSyncError {
    /// It was not taken.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It was taken and not synced.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where the segments before a new one end: beyond everything queued for a segment that is
/// still fine, but not beyond what failed.
fn valid_before(inner: &Inner) -> u64 {
    if inner.active.is_some() { inner.next } else { inner.synced }
}

/// Tells everyone when the sync thread is over. If a callback's panic has ended it, what is queued
/// is let go unsaid and nothing more is taken.
struct Ended<'s>(&'s Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.closing = true;
        let queue = std::mem::take(&mut inner.queue);
        drop(inner);
        drop(queue);
        self.0.progress.notify_all();
    }
}

fn sync_loop(shared: &Shared, failed: &dyn Fn()) {
    let mut open: Option<(u64, Box<dyn LogFile>)> = None;
    loop {
        let mut inner = shared.lock();
        while inner.queue.is_empty() && !inner.closing {
            inner = shared.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let chunks = std::mem::take(&mut inner.queue);
        if chunks.is_empty() {
            return;
        }
        drop(inner);
        let mut chunks = chunks.into_iter();
        while let Some(chunk) = chunks.next() {
            match write_and_sync(shared, &mut open, &chunk) {
                Ok(()) => {
                    let waiting = committed(shared, chunk);
                    for (index, done) in waiting {
                        done(Ok(index));
                    }
                }
                Err(error) => {
                    // Never this file again: its unsynced pages may be gone, or still come out.
                    open = None;
                    if chunk.make.is_some() {
                        // Nothing in it was ever told durable. If it stays, because this fails as
                        // well, the next opening removes it: a later header says where it ended.
                        drop(shared.files.remove(&shared.path(chunk.segment)));
                    }
                    fail(shared, &error, chunk, chunks);
                    failed();
                    let mut inner = shared.lock();
                    inner.retry_at = Some(Instant::now() + shared.options.retry_after);
                    inner.failing = false;
                    break;
                }
            }
        }
    }
}

fn write_and_sync(shared: &Shared, open: &mut Option<(u64, Box<dyn LogFile>)>, chunk: &Chunk) -> io::Result<()> {
    if let Some(make) = &chunk.make {
        let file = shared.files.create(&shared.path(chunk.segment))?;
        file.write_at(0, make)?;
        // Header and checkpoint become durable before any entry can be acknowledged.
        file.sync()?;
        shared.files.sync_dir(&shared.folder)?;
        *open = Some((chunk.segment, file));
    }
    match open {
        Some((segment, file)) if *segment == chunk.segment => {
            file.write_at(chunk.offset, &chunk.bytes)?;
            file.sync()
        }
        _ => Err(io::Error::other("the segment is not open")),
    }
}

fn committed(shared: &Shared, chunk: Chunk) -> Vec<(u64, Done)> {
    let mut inner = shared.lock();
    let made = chunk.make.as_ref().map_or(0, Vec::len);
    let bytes = made + chunk.bytes.len();
    inner.queued_bytes = inner.queued_bytes.saturating_sub(bytes);
    if chunk.make.is_some() {
        inner.segments.push(Segment { first: chunk.segment, end: chunk.segment, bytes: 0 });
    }
    let end = chunk.waiting.last().map_or(inner.synced, |(index, _)| index + 1);
    if let Some(segment) = inner.segments.last_mut() {
        segment.bytes += bytes as u64;
        segment.end = end;
    }
    inner.synced = end;
    drop(inner);
    shared.progress.notify_all();
    chunk.waiting
}

fn fail(shared: &Shared, error: &io::Error, chunk: Chunk, rest: std::vec::IntoIter<Chunk>) {
    let mut inner = shared.lock();
    inner.failing = true;
    inner.failures += 1;
    inner.active = None;
    let queued = std::mem::take(&mut inner.queue);
    inner.queued_bytes = 0;
    drop(inner);
    let error = SyncError(error.to_string());
    for chunk in std::iter::once(chunk).chain(rest).chain(queued) {
        for (_, done) in chunk.waiting {
            done(Err(error.clone()));
        }
    }
}

/// A reader's place among the consumers; see [`crate::Consumer`].
impl Spool {
    /// Blocks until something beyond `index` is durable, the time is over, or the log closes.
    /// Whether something is.
    pub fn wait_beyond(&self, index: u64, timeout: Duration) -> bool {
        let inner = self.shared.lock();
        let (inner, _) = self
            .shared
            .progress
            .wait_timeout_while(inner, timeout, |inner| inner.synced <= index && !inner.closing)
            .unwrap_or_else(PoisonError::into_inner);
        inner.synced > index
    }

    /// Wakes everyone in [`Spool::wait_beyond`] whose predicate has changed elsewhere.
    pub fn wake(&self) {
        self.shared.progress.notify_all();
    }

    /// Changes a consumer's cursor, durably, and removes segments that nobody attached needs any
    /// more. `change` is given the cursor, if there is one, and the oldest index there is; with
    /// `None` all stays as it is.
    pub(crate) fn change_cursor(
        shared: &Shared,
        name: &str,
        change: impl FnOnce(Option<Cursor>, u64) -> Option<Cursor>,
    ) -> io::Result<()> {
        let _one_at_a_time = shared.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, oldest) = {
            let inner = shared.lock();
            if inner.closing {
                return Err(io::Error::other("the log is closed"));
            }
            (inner.consumers.get(name).copied(), inner.segments.first().map_or(inner.synced, |s| s.first))
        };
        let Some(cursor) = change(before, oldest) else { return Ok(()) };
        if before != Some(cursor) {
            cursor::write(&*shared.files, &shared.folder, name, shared.id, cursor)?;
        }
        let mut inner = shared.lock();
        inner.consumers.insert(name.to_owned(), cursor);
        let needed = inner.consumers.values().filter(|c| c.attached).map(|c| c.next).min();
        let Some(needed) = needed else { return Ok(()) };
        // The newest two stay: a checkpoint stands for all that was, and a second one for the
        // case that the first can no longer be read.
        let older = inner.segments.len().saturating_sub(2);
        let consumed = inner.segments[..older].iter().take_while(|s| s.end <= needed).count();
        // Out of the list first: nobody may be told that the oldest entry is one about to go.
        let mut gone: Vec<Segment> = inner.segments.drain(..consumed).collect();
        drop(inner);
        if gone.is_empty() {
            return Ok(());
        }
        while let Some(segment) = gone.first() {
            let first = segment.first;
            match shared.files.remove(&shared.path(first)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    // Still there, and still counted; the next commit tries again.
                    shared.lock().segments.splice(0..0, gone);
                    return Err(e);
                }
                _ => drop(gone.remove(0)),
            }
            shared.marks().remove(&first);
        }
        shared.files.sync_dir(&shared.folder)
    }

    /// Forgets a consumer, durably.
    pub(crate) fn forget_cursor(shared: &Shared, name: &str) -> io::Result<()> {
        let _one_at_a_time = shared.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.files.remove(&cursor::path(&shared.folder, name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        shared.files.sync_dir(&shared.folder)?;
        shared.lock().consumers.remove(name);
        Ok(())
    }
}
