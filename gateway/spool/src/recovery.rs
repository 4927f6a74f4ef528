//! Opening a log: what is there, where it ends, and what its owner must replay.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cursor::{self, Cursor};
use crate::files::{Files, LogFile};
use crate::format::{self, Header, HeaderRead, Item, Scan};
use crate::log::{Found, Options, Segment, Spool};

/// Why a log cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error("{path} is in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// A file operation failed; the log may be fine.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file with a segment's name that is none, or one of another log.
    #[error("{path} is not a segment of this log; move it away", path = .0.display())]
    Foreign(PathBuf),
    /// Written by another version of the program.
    #[error("{path} has format {format}; this program knows {known}: use the program that wrote it", path = path.display(), known = format::FORMAT)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

/// What an owner is told while its log opens, oldest first.
#[derive(Debug, PartialEq, Eq)]
pub enum Replay {
    /// The state to begin with. Told once, before any entry, if there is one.
    Checkpoint(Vec<u8>),
    /// An entry appended after that state.
    Entry {
        /// Its index.
        index: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// What recovery found that a person may want to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes cut from the end of the newest segment: its last group of entries, from the first
    /// that is not whole, was not acknowledged as far as can be told.
    pub torn_bytes: u64,
    /// Places that are no longer readable: file, offset, bytes.
    pub corrupt: Vec<(PathBuf, u64, u64)>,
    /// Checkpoints that could not be read.
    pub checkpoints_lost: u32,
    /// Entries replayed.
    pub replayed: u64,
}

pub(crate) struct Seen {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn LogFile>,
    pub(crate) bytes: u64,
    /// Entries at or beyond this index are not the log's.
    pub(crate) valid_before: u64,
}

pub(crate) fn io_at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { doing, path, source }
}

/// The segments of a folder, oldest first, without those that were never completely made.
pub(crate) fn look(files: &dyn Files, folder: &Path, write: bool) -> Result<(Vec<Seen>, Vec<PathBuf>), OpenError> {
    let names = files.list(folder).map_err(io_at("list", folder))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| format::parse_segment_name(name)).collect();
    firsts.sort_unstable();
    let mut seen: Vec<Seen> = Vec::new();
    let mut broken = Vec::new();
    for first in firsts {
        let path = folder.join(format::segment_name(first));
        let file = match files.open(&path, write) {
            Ok(file) => file,
            // Removed by the writer between the listing and now.
            Err(e) if !write && e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io_at("open", &path)(e)),
        };
        let bytes = file.length().map_err(io_at("read", &path))?;
        match Header::read(&*file).map_err(io_at("read", &path))? {
            HeaderRead::Fine(header) if header.first == first => {
                seen.push(Seen { header, path, file, bytes, valid_before: u64::MAX });
            }
            HeaderRead::Fine(_) => return Err(OpenError::Foreign(path)),
            HeaderRead::Newer(format) => return Err(OpenError::Newer { path, format }),
            HeaderRead::Broken => broken.push((first, path, file, bytes, false)),
            HeaderRead::Foreign => broken.push((first, path, file, bytes, true)),
        }
    }
    // The cursors know the log's name too, if it is the only segment whose header is damaged.
    let id = match seen.first() {
        Some(segment) => Some(segment.header.spool),
        None => cursors(files, folder)?.first().map(|(_, spool, _)| *spool),
    };
    if let Some(other) = seen.iter().find(|s| Some(s.header.spool) != id) {
        return Err(OpenError::Foreign(other.path.clone()));
    }
    // A damaged header costs itself: the entries behind it still carry their own sums. One that
    // nothing stands behind was never completely made, and nothing in it was acknowledged.
    let mut unmade = Vec::new();
    for (first, path, file, bytes, foreign) in broken {
        let spool = id.unwrap_or(0);
        let entries = Scan::new(spool).next(&*file).map_err(io_at("read", &path))?;
        if matches!(entries, Item::Torn { .. } | Item::End) {
            if foreign {
                return Err(OpenError::Foreign(path));
            }
            unmade.push(path);
        } else {
            let header = Header { spool, first, valid_before: first };
            seen.push(Seen { header, path, file, bytes, valid_before: u64::MAX });
        }
    }
    seen.sort_by_key(|s| s.header.first);
    let mut valid_before = u64::MAX;
    for segment in seen.iter_mut().rev() {
        segment.valid_before = valid_before;
        valid_before = valid_before.min(segment.header.valid_before);
    }
    Ok((seen, unmade))
}

/// Every whole cursor in a folder: consumer, the log it belongs to, cursor.
fn cursors(files: &dyn Files, folder: &Path) -> Result<Vec<(String, u64, Cursor)>, OpenError> {
    let mut all = Vec::new();
    for file in files.list(folder).map_err(io_at("list", folder))? {
        if let Some(name) = cursor::parse_name(&file) {
            let path = cursor::path(folder, name);
            if let Some((spool, cursor)) = cursor::read(files, folder, name).map_err(io_at("read", &path))? {
                all.push((name.to_owned(), spool, cursor));
            }
        }
    }
    Ok(all)
}

impl Spool {
    /// Opens or makes the log in `folder`, tells `replay` what its owner's state is made of, and
    /// starts the sync thread. `failed` is called on that thread whenever queued entries were
    /// lost to a failed write or sync, after each of them was told so and before any other is
    /// taken: the owner goes back to what it knows to be durable.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        options: Options,
        failed: Box<dyn Fn() + Send>,
        replay: &mut dyn FnMut(Replay),
    ) -> Result<(Self, Recovery), OpenError> {
        files.create_dir(folder).map_err(io_at("make", folder))?;
        let lock_path = folder.join("lock");
        let lock = files.lock(&lock_path).map_err(io_at("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| OpenError::InUse(folder.to_owned()))?;
        let (seen, unmade) = look(&*files, folder, true)?;
        for path in unmade {
            files.remove(&path).map_err(io_at("remove", &path))?;
        }
        let mut recovery = Recovery::default();
        let id = match seen.first() {
            Some(segment) => segment.header.spool,
            None => random_id(),
        };
        let mut found = scan(&*files, seen, &mut recovery, replay)?;
        // A cursor of another log, or a damaged one, is none: its consumer starts over.
        let mine = cursors(&*files, folder)?.into_iter().filter(|(_, spool, _)| *spool == id);
        let consumers: BTreeMap<String, Cursor> = mine.map(|(name, _, cursor)| (name, cursor)).collect();
        // An index a consumer has seen is never given again, whatever became of the file.
        let consumed = consumers.values().map(|c| c.next).max().unwrap_or(0);
        let last = found.last().map_or(0, |s| s.end.max(s.first + 1));
        let next = consumed.max(last);
        if let Some(newest) = found.last_mut() {
            newest.end = newest.end.max(newest.first);
        }
        let found = Found { id, segments: found, next, consumers, lock };
        let spool =
            Self::start(files, folder, options, found, failed).map_err(io_at("start the sync thread for", folder))?;
        Ok((spool, recovery))
    }
}

fn scan(
    files: &dyn Files,
    seen: Vec<Seen>,
    recovery: &mut Recovery,
    replay: &mut dyn FnMut(Replay),
) -> Result<Vec<Segment>, OpenError> {
    // The newest whole checkpoint is where the owner begins.
    let mut begin = 0;
    for (at, segment) in seen.iter().enumerate().rev() {
        let first = Scan::new(segment.header.spool).next(&*segment.file).map_err(io_at("read", &segment.path))?;
        if let Item::Checkpoint(state) = first {
            replay(Replay::Checkpoint(state));
            begin = at;
            break;
        }
        recovery.checkpoints_lost += 1;
    }
    let mut segments = Vec::new();
    let newest = seen.len().saturating_sub(1);
    for (at, segment) in seen.into_iter().enumerate() {
        let Seen { header, path, file, mut bytes, valid_before } = segment;
        if valid_before <= header.first {
            // All of it failed to become durable, and later segments say so.
            drop(file);
            files.remove(&path).map_err(io_at("remove", &path))?;
            continue;
        }
        let mut end = header.first;
        if at < begin {
            end = valid_before;
        } else {
            if at == newest {
                let sound = sound_length(&header, &*file).map_err(io_at("read", &path))?;
                if sound < bytes {
                    file.truncate(sound).and_then(|()| file.sync()).map_err(io_at("truncate", &path))?;
                    recovery.torn_bytes += bytes - sound;
                    bytes = sound;
                }
            }
            let mut scan = Scan::new(header.spool);
            loop {
                match scan.next(&*file).map_err(io_at("read", &path))? {
                    Item::Checkpoint(_) => {}
                    Item::Entry { index, .. } if index >= valid_before => {}
                    Item::Entry { index, body, .. } => {
                        end = index + 1;
                        recovery.replayed += 1;
                        replay(Replay::Entry { index, bytes: body });
                    }
                    Item::Corrupt { offset, bytes } => recovery.corrupt.push((path.clone(), offset, bytes)),
                    // What an abandoned segment ends with was never acknowledged.
                    Item::Torn { .. } | Item::End => break,
                }
            }
            if valid_before != u64::MAX {
                end = valid_before;
            }
        }
        segments.push(Segment { first: header.first, end, bytes });
    }
    Ok(segments)
}

/// How many bytes of the newest segment can be relied on. Its last group of entries may have been
/// on its way when everything stopped: from the first one of them that is not whole, none was
/// acknowledged, and to keep a later one would pretend that those before it had been kept. Damage
/// in earlier groups has happened to entries that were durable, and costs only these.
fn sound_length(header: &Header, file: &dyn LogFile) -> io::Result<u64> {
    let mut scan = Scan::new(header.spool);
    // Where damage begins that nothing whole has followed yet.
    let mut damage = None;
    // The first damage in the group of the last whole entry, and the last index it took.
    let mut hole: Option<(u64, u64)> = None;
    loop {
        match scan.next(file)? {
            Item::Checkpoint(_) => damage = None,
            Item::Corrupt { offset, .. } => damage = damage.or(Some(offset)),
            Item::Entry { index, group, .. } => {
                hole = hole.filter(|(_, last)| *last >= group);
                if let Some(offset) = damage.take()
                    && index > group
                {
                    hole = Some((hole.map_or(offset, |(first, _)| first), index - 1));
                }
            }
            Item::Torn { offset, .. } => return Ok(hole.map_or(offset, |(first, _)| first)),
            Item::End => return Ok(hole.map_or(scan.offset(), |(first, _)| first)),
        }
    }
}

/// Names a new log; two logs never share it, so neither takes the other's records for its own.
fn random_id() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's hasher is seeded by the operating system's randomness.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}
