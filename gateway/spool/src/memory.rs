//! A file system in memory that tells synced from unsynced and can fail at any operation, so
//! that every crash point of a log, and of what is built on it, can be tried.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::files::{Files, LogFile};

/// What a crash does with data that were never synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// They are gone.
    Dropped,
    /// They came to the disk all the same.
    Kept,
    /// Half of each write came to the disk, and rubbish after it.
    Torn,
    /// The last half of each write came to the disk, and zeros before it: blocks are written in
    /// any order.
    Holed,
}

/// How operations fail from the chosen one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The machine is gone: every operation fails until [`Memory::crash`].
    Crash,
    /// This one operation fails with EIO; the next ones work.
    Once,
    /// Writes and creations fail with ENOSPC.
    Full,
    /// Writes and creations fail with EROFS.
    ReadOnly,
}

#[derive(Clone, Default)]
struct Node {
    content: Vec<u8>,
    synced: Vec<u8>,
    /// Start and end of each write since the last sync.
    writes: Vec<(usize, usize)>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    /// Names as programs see them.
    names: BTreeMap<PathBuf, usize>,
    /// Names as they would be after a crash.
    synced_names: BTreeMap<PathBuf, usize>,
    operations: u64,
    fail_at: Option<(u64, Failure)>,
    fail_reads: bool,
    bytes_read: u64,
    locked: BTreeMap<PathBuf, Arc<()>>,
    free: Option<u64>,
}

/// The file system; clones are the same one.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

struct MemoryFile {
    system: Memory,
    node: usize,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Makes the changing operation number `at` (counted from now, first = 0) fail, and what
    /// follows from that.
    pub fn fail_at(&self, at: u64, failure: Failure) {
        let mut state = self.lock();
        state.fail_at = Some((state.operations + at, failure));
    }

    /// Lets every read fail with EIO from now on.
    pub fn fail_reads(&self) {
        self.lock().fail_reads = true;
    }

    /// Bytes read from files so far.
    pub fn bytes_read(&self) -> u64 {
        self.lock().bytes_read
    }

    /// No more failures.
    pub fn heal(&self) {
        let mut state = self.lock();
        (state.fail_at, state.fail_reads) = (None, false);
    }

    /// What [`Files::free_bytes`] says.
    pub fn set_free(&self, bytes: u64) {
        self.lock().free = Some(bytes);
    }

    /// Cuts the power: what was not synced meets its fate, locks are gone, operations work again.
    pub fn crash(&self, unsynced: Unsynced) {
        let mut state = self.lock();
        for node in &mut state.nodes {
            match unsynced {
                Unsynced::Dropped => node.content.clone_from(&node.synced),
                Unsynced::Kept => {}
                Unsynced::Torn => {
                    for &(start, end) in &node.writes {
                        let half = start + (end - start) / 2;
                        for byte in node.content.iter_mut().take(end).skip(half) {
                            *byte ^= 0x5A;
                        }
                    }
                }
                Unsynced::Holed => {
                    for &(start, end) in &node.writes {
                        let half = start + (end - start) / 2;
                        node.content[start..half].fill(0);
                    }
                }
            }
            node.synced.clone_from(&node.content);
            node.writes.clear();
        }
        if unsynced != Unsynced::Kept {
            state.names = state.synced_names.clone();
        }
        state.synced_names = state.names.clone();
        (state.fail_at, state.fail_reads) = (None, false);
        state.locked.clear();
    }

    /// Changes one byte of a file in place, as failing media do.
    pub fn damage(&self, path: &Path, offset: usize) {
        let mut state = self.lock();
        if let Some(&node) = state.names.get(path) {
            for bytes in [&mut state.nodes[node].content] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= 0x10;
                }
            }
            let content = state.nodes[node].content.clone();
            state.nodes[node].synced = content;
        }
    }

    /// Names of the files there are.
    pub fn names(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// Counts an operation and says whether it fails.
    fn operate(&self, writes: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let now = state.operations;
        state.operations += 1;
        let Some((at, failure)) = state.fail_at else { return Ok(state) };
        if now < at {
            return Ok(state);
        }
        match failure {
            Failure::Crash => Err(io::Error::other("the machine is gone")),
            Failure::Once if now == at => Err(io::Error::from_raw_os_error(5)),
            Failure::Full if writes => Err(io::ErrorKind::StorageFull.into()),
            Failure::ReadOnly if writes => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(state),
        }
    }
}

impl LogFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.system.lock();
        if state.fail_reads {
            return Err(io::Error::from_raw_os_error(5));
        }
        let content = &state.nodes[self.node].content;
        let start = (offset as usize).min(content.len());
        let read = buffer.len().min(content.len() - start);
        buffer[..read].copy_from_slice(&content[start..start + read]);
        state.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.system.operate(true)?;
        let node = &mut state.nodes[self.node];
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if node.content.len() < end {
            node.content.resize(end, 0);
        }
        node.content[start..end].copy_from_slice(bytes);
        node.writes.push((start, end));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.system.operate(false)?;
        let node = &mut state.nodes[self.node];
        node.synced.clone_from(&node.content);
        node.writes.clear();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.system.operate(true)?;
        state.nodes[self.node].content.truncate(length as usize);
        state.nodes[self.node].writes.clear();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.system.lock().nodes[self.node].content.len() as u64)
    }
}

impl Files for Memory {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let mut state = self.operate(true)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = state.nodes.len();
        state.nodes.push(Node::default());
        state.names.insert(path.to_owned(), node);
        drop(state);
        Ok(Box::new(MemoryFile { system: self.clone(), node }))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn LogFile>> {
        let node = *self.lock().names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile { system: self.clone(), node }))
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.lock().names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.operate(false)?.names.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operate(false)?;
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.operate(false)?;
        let State { names, synced_names, .. } = &mut *state;
        synced_names.retain(|path, _| path.parent() != Some(folder));
        let inside = names.iter().filter(|(path, _)| path.parent() == Some(folder));
        synced_names.extend(inside.map(|(path, node)| (path.clone(), *node)));
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.lock().free.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = Memory::lock(self);
        match state.locked.get(path) {
            Some(held) if Arc::strong_count(held) > 1 => Ok(None),
            _ => {
                let guard = Arc::new(());
                state.locked.insert(path.to_owned(), Arc::clone(&guard));
                Ok(Some(Box::new(guard)))
            }
        }
    }
}
