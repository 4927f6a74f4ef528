//! The consumers' side: reading what is durable, and remembering how far.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::files::{Files, LogFile};
use crate::format::{Header, HeaderRead, Item, Scan};
use crate::log::{MARK_BYTES, Shared, Spool};
use crate::recovery::{OpenError, Replay, Seen, io_at, look};

/// What a reader finds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// An entry.
    Entry {
        /// Its index.
        index: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Bytes that can no longer be read; reading goes on behind them.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// Why a reader or consumer could not go on. Corruption is no error: see [`Read::Corrupt`].
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file operation failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A segment's header can no longer be read.
    #[error("the header of {path} is damaged", path = .0.display())]
    Header(PathBuf),
}

struct Current {
    first: u64,
    file: Box<dyn LogFile>,
    path: PathBuf,
    scan: Scan,
    /// Offset up to which this segment's places are noted.
    marked: u64,
}

/// Reads durable entries in order, beside the writer.
pub struct Reader {
    shared: Arc<Shared>,
    next: u64,
    current: Option<Current>,
}

impl Reader {
    /// The first index not yet given out.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// The next entry, or `None` when all that is durable has been read.
    pub fn read(&mut self) -> Result<Option<Read>, ReadError> {
        loop {
            let (synced, segment) = {
                let inner = self.shared.lock();
                let at = inner.segments.partition_point(|s| s.end <= self.next);
                (inner.synced, inner.segments.get(at).cloned())
            };
            let Some(segment) = segment.filter(|_| self.next < synced) else { return Ok(None) };
            if self.current.as_ref().is_none_or(|c| c.first != segment.first) {
                self.current = Some(self.enter(segment.first)?);
                self.next = self.next.max(segment.first);
            }
            let Some(current) = &mut self.current else { return Ok(None) };
            let path = &current.path;
            let io = |source| ReadError::Io { doing: "read", path: path.clone(), source };
            let before = current.scan.offset();
            let item = current.scan.next(&*current.file).map_err(io)?;
            if let Item::Entry { index, .. } = &item
                && before >= current.marked + MARK_BYTES
            {
                self.shared.mark(current.first, *index, before);
                current.marked = before;
            }
            match item {
                Item::Checkpoint(_) => {}
                Item::Entry { index, .. } if index < self.next => {}
                Item::Entry { index, .. } if index >= segment.end => {
                    // Written but not durable, or never to be: stay in front of it.
                    current.scan.back_to(before);
                    self.next = self.next.max(segment.end);
                }
                Item::Entry { index, body, .. } => {
                    self.next = index + 1;
                    return Ok(Some(Read::Entry { index, bytes: body }));
                }
                Item::Corrupt { offset, bytes } => {
                    return Ok(Some(Read::Corrupt { path: path.clone(), offset, bytes }));
                }
                Item::Torn { .. } | Item::End if current.scan.stale() => {
                    // Read ahead before the writer had written this: look again.
                    current.scan.refresh();
                }
                Item::Torn { offset, bytes } => {
                    // Durable entries that should be here are not readable: say so, go on behind.
                    self.next = segment.end;
                    debug_assert_eq!(offset, before);
                    return Ok(Some(Read::Corrupt { path: path.clone(), offset, bytes }));
                }
                Item::End => self.next = segment.end,
            }
        }
    }

    fn enter(&self, first: u64) -> Result<Current, ReadError> {
        let path = self.shared.path(first);
        let io = |source| ReadError::Io { doing: "open", path: path.clone(), source };
        let file = self.shared.files.open(&path, false).map_err(io)?;
        let mut scan = Scan::new(self.shared.id);
        if let Some(offset) = self.shared.marked(first, self.next) {
            scan.back_to(offset);
        }
        Ok(Current { first, file, path, marked: scan.offset(), scan })
    }
}

/// A named reader with a durable cursor. Segments stay until every attached consumer has
/// committed beyond them.
pub struct Consumer {
    shared: Arc<Shared>,
    name: String,
}

impl Spool {
    /// A reader from `index` on; what was removed before it is passed over.
    pub fn reader(&self, index: u64) -> Reader {
        Reader { shared: Arc::clone(&self.shared), next: index, current: None }
    }

    /// The consumer `name`, attached at the oldest entry if it is new.
    ///
    /// # Errors
    /// When the cursor of a new consumer cannot be written.
    pub fn consumer(&self, name: &str) -> Result<Consumer, ReadError> {
        let consumer = Consumer { shared: Arc::clone(&self.shared), name: name.to_owned() };
        let known = self.shared.lock().consumers.contains_key(name);
        if !known {
            consumer.change(|_, oldest| Ok::<_, ReadError>(Cursor { next: oldest, attached: true }))?;
        }
        Ok(consumer)
    }

    /// Forgets a consumer that no longer exists, so that it keeps nothing back.
    pub fn forget(&self, name: &str) -> Result<(), ReadError> {
        Self::forget_cursor(&self.shared, name).map_err(|source| ReadError::Io {
            doing: "remove",
            path: crate::cursor::path(&self.shared.folder, name),
            source,
        })
    }
}

impl Consumer {
    fn change<E: From<ReadError>>(&self, change: impl FnOnce(Cursor, u64) -> Result<Cursor, E>) -> Result<(), E> {
        let mut failed = None;
        let changed = Spool::change_cursor(&self.shared, &self.name, |before, oldest| {
            let before = before.unwrap_or(Cursor { next: oldest, attached: true });
            change(before, oldest).map_err(|error| failed = Some(error)).ok()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        changed.map_err(|source| {
            let path = crate::cursor::path(&self.shared.folder, &self.name);
            ReadError::Io { doing: "keep the cursor", path, source }.into()
        })
    }

    fn cursor(&self) -> Cursor {
        self.shared.lock().consumers.get(&self.name).copied().unwrap_or(Cursor { next: 0, attached: true })
    }

    /// The first index not yet consumed.
    pub fn position(&self) -> u64 {
        self.cursor().next
    }

    /// Whether it keeps segments from being removed.
    pub fn attached(&self) -> bool {
        self.cursor().attached
    }

    /// Everything before `next` is consumed, for good: durable when this returns.
    pub fn commit_and_sync(&self, next: u64) -> Result<(), ReadError> {
        self.change(|cursor, _| Ok(Cursor { next, ..cursor }))
    }

    /// Stops keeping segments; where it stood stays known.
    pub fn detach(&self) -> Result<(), ReadError> {
        self.change(|cursor, _| Ok(Cursor { attached: false, ..cursor }))
    }

    /// Keeps segments again from the oldest still there. If entries went meanwhile, `note` is
    /// told which, and must make that durable: only when it has does the cursor pass them, so
    /// that no crash can make them forgotten. Nothing goes while it does.
    ///
    /// # Errors
    /// When `note` fails or the cursor cannot be written; then nothing has changed.
    pub fn attach<E: From<ReadError>>(
        &self,
        note: impl FnOnce(std::ops::Range<u64>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.change(|Cursor { next: stood, .. }, oldest| {
            if stood < oldest {
                note(stood..oldest)?;
            }
            Ok(Cursor { next: stood.max(oldest), attached: true })
        })
    }

    /// Reads on from the cursor.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared), next: self.position(), current: None }
    }
}

/// One segment as `inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The file.
    pub path: PathBuf,
    /// Index of its first entry.
    pub first: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entries that read well.
    pub entries: u64,
    /// Places that do not: offset and bytes.
    pub corrupt: Vec<(u64, u64)>,
    /// Bytes at the end that make no entry: being written, or torn by a crash.
    pub unfinished_bytes: u64,
}

/// Reads a log's folder without its lock, also while another process writes it. `each` gets
/// every checkpoint and entry in order.
pub fn read_only(
    files: &dyn Files,
    folder: &Path,
    each: &mut dyn FnMut(Replay),
) -> Result<Vec<SegmentSummary>, OpenError> {
    let (seen, _) = look(files, folder, false)?;
    let mut summaries = Vec::new();
    for Seen { header, path, file, bytes, valid_before } in seen {
        let mut summary = SegmentSummary {
            first: header.first,
            bytes,
            entries: 0,
            corrupt: Vec::new(),
            unfinished_bytes: 0,
            path: path.clone(),
        };
        if let HeaderRead::Broken = Header::read(&*file).map_err(io_at("read", &path))? {
            summary.corrupt.push((0, crate::format::HEADER as u64));
        }
        let mut scan = Scan::new(header.spool);
        loop {
            match scan.next(&*file).map_err(io_at("read", &path))? {
                Item::Checkpoint(body) => each(Replay::Checkpoint(body)),
                Item::Entry { index, .. } if index >= valid_before => {}
                Item::Entry { index, body, .. } => {
                    summary.entries += 1;
                    each(Replay::Entry { index, bytes: body });
                }
                Item::Corrupt { offset, bytes } => summary.corrupt.push((offset, bytes)),
                Item::Torn { bytes, .. } => {
                    summary.unfinished_bytes = bytes;
                    break;
                }
                Item::End => break,
            }
        }
        summaries.push(summary);
    }
    Ok(summaries)
}
