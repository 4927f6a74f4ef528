//! What a sink missed while it was detached: a note on the disk of which spool positions, and the
//! way through the history by which they are fed to it again.
//!
//! The note is durable before the cursor passes what it names ([`spool::Consumer::attach`]), and
//! every step is marked in it once the sink has stored it: a kill at any moment costs one step
//! that is stored again, never one that is not. It owns no feeding; [`super::feed`] does that.

use std::collections::VecDeque;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::history::{HistoryError, Mark, Reader, Replay};
use crate::entry::Accepted;

/// Ranges of one note; beyond this they are made one that covers all of them.
const RANGES_MAX: usize = 16;

/// Why what was missed cannot be noted or fed.
#[derive(Debug, thiserror::Error)]
pub enum MissedError {
    /// The note.
    #[error("{doing} {path}: {source}", path = path.display())]
    Note {
        /// What was tried.
        doing: &'static str,
        /// The note.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The cursor.
    #[error(transparent)]
    Cursor(#[from] spool::ReadError),
}

/// Spool positions that were missed, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Missed {
    first: u64,
    last: u64,
    /// How far they were fed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fed: Option<Mark>,
}

/// The note on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    missed: VecDeque<Missed>,
}

impl Note {
    fn add(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.missed.push_back(Missed { first: range.start, last: range.end - 1, fed: None });
        if self.missed.len() > RANGES_MAX {
            let first = self.missed.iter().map(|m| m.first).min().unwrap_or(0);
            let last = self.missed.iter().map(|m| m.last).max().unwrap_or(u64::MAX);
            self.missed = [Missed { first, last, fed: None }].into();
        }
    }
}

/// What one sink missed, and the history that has it.
pub struct Again {
    history: Reader,
    path: PathBuf,
    /// As on the disk; none until it was read.
    note: Option<Note>,
    replay: Option<Replay>,
}

impl Again {
    /// Feeds from `history`, remembering in the file `path`.
    pub fn new(history: Reader, path: PathBuf) -> Self {
        Self { history, path, note: None, replay: None }
    }

    fn note(&mut self) -> Result<&mut Note, MissedError> {
        let note = match self.note.take() {
            Some(note) => note,
            None => read(&self.path)?,
        };
        Ok(self.note.insert(note))
    }

    /// Adds a range, durably.
    pub fn add(&mut self, range: &Range<u64>) -> Result<(), MissedError> {
        let mut note = self.note()?.clone();
        note.add(range);
        write(&self.path, &note)?;
        (self.note, self.replay) = (Some(note), None);
        Ok(())
    }

    /// Spool positions that are still to be fed.
    pub fn positions(&mut self) -> Result<u64, MissedError> {
        let sizes = self.note()?.missed.iter().map(|m| m.last.saturating_sub(m.first).saturating_add(1));
        Ok(sizes.fold(0, u64::saturating_add))
    }

    /// The next records to be fed, and the mark for [`Again::fed`]; none when nothing is missed.
    pub fn step(&mut self) -> Result<Option<(Vec<Accepted>, Mark)>, MissedError> {
        loop {
            let Some(missed) = self.note()?.missed.front().cloned() else { return Ok(None) };
            let replay = match &mut self.replay {
                Some(replay) => replay,
                none => none.insert(self.history.replay(missed.first, missed.last, missed.fed.as_ref())?),
            };
            if let Some(step) = replay.step()? {
                return Ok(Some(step));
            }
            let mut note = self.note()?.clone();
            note.missed.pop_front();
            write(&self.path, &note)?;
            (self.note, self.replay) = (Some(note), None);
            tracing::info!(first = missed.first, last = missed.last, "what a sink missed was fed from the history");
        }
    }

    /// The last step was not stored: the way is begun anew from the note.
    pub fn forget_step(&mut self) {
        self.replay = None;
    }

    /// The sink has stored everything up to `mark`.
    pub fn fed(&mut self, mark: Mark) -> Result<(), MissedError> {
        let mut note = self.note()?.clone();
        if let Some(missed) = note.missed.front_mut() {
            missed.fed = Some(mark);
        }
        write(&self.path, &note)?;
        self.note = Some(note);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Note, MissedError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Note::default()),
        Err(source) => return Err(MissedError::Note { doing: "read", path: path.to_owned(), source }),
    };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        // Which range it was is not known any more, but all of it is in the history.
        tracing::error!(path = %path.display(), %error, "the note of what a sink missed is damaged: it is fed the whole history");
        Note { missed: [Missed { first: 0, last: u64::MAX, fed: None }].into() }
    }))
}

/// Replaces the note whole: written beside, synced, renamed over, folder synced. An empty one is
/// no file.
fn write(path: &Path, note: &Note) -> Result<(), MissedError> {
    let at = |doing| move |source| MissedError::Note { doing, path: path.to_owned(), source };
    if note.missed.is_empty() {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at("remove")(error)),
            _ => {}
        }
    } else {
        let bytes = serde_json::to_vec(note).map_err(|e| at("write")(e.into()))?;
        let beside = path.with_extension("new");
        let mut file = std::fs::File::create(&beside).map_err(at("make"))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(at("write"))?;
        std::fs::rename(&beside, path).map_err(at("replace"))?;
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("sync the folder of"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::history::History;
    use crate::sinks::samples;

    const MAY: i64 = 1_778_000_000_000;

    /// A history of `count` records, each of its own spool position, ten seconds apart.
    fn history(folder: &Path, count: u32) {
        let mut history = History::open(folder).unwrap();
        for seq in 0..count {
            let accepted = samples::accepted(seq, MAY + i64::from(seq) * 10_000);
            history.store(&[accepted], seq.into(), seq.into()).unwrap();
        }
    }

    fn again(folder: &Path) -> Again {
        Again::new(Reader::new(folder), folder.join("sink.missed"))
    }

    fn seqs(batch: &[Accepted]) -> Vec<u32> {
        batch.iter().flat_map(|a| a.records.iter().map(|r| r.seq)).collect()
    }

    #[test]
    fn a_kill_between_any_two_steps_costs_at_most_that_step() {
        let folder = tempfile::tempdir().unwrap();
        history(folder.path(), 200);
        again(folder.path()).add(&(20..150)).unwrap();
        let (mut fed, mut steps) = (Vec::new(), 0);
        loop {
            // Opened anew each time, as after a kill; every other time before the mark was set.
            let mut again = again(folder.path());
            let Some((batch, mark)) = again.step().unwrap() else { break };
            steps += 1;
            fed.extend(seqs(&batch));
            if steps % 2 == 0 {
                again.fed(mark).unwrap();
            }
        }
        assert!(steps > 4 && fed.len() <= 2 * 130, "{steps} steps, {} fed", fed.len());
        fed.sort_unstable();
        fed.dedup();
        assert_eq!(fed, (20..150).collect::<Vec<_>>());
        assert!(!folder.path().join("sink.missed").exists());
    }

    #[test]
    fn what_is_missed_twice_is_fed_twice_over_and_the_note_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        history(folder.path(), 60);
        let mut twice = again(folder.path());
        for at in 0..20 {
            twice.add(&(at * 2..at * 2 + 1)).unwrap();
        }
        assert!(twice.note().unwrap().missed.len() <= RANGES_MAX);
        let mut fed = Vec::new();
        while let Some((batch, mark)) = twice.step().unwrap() {
            fed.extend(seqs(&batch));
            twice.fed(mark).unwrap();
        }
        assert!((0..20).all(|at| fed.contains(&(at * 2))), "{fed:?}");
        assert_eq!(twice.positions().unwrap(), 0);
    }

    #[test]
    fn a_damaged_note_means_everything_and_an_unreadable_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        history(folder.path(), 5);
        let path = folder.path().join("sink.missed");
        std::fs::write(&path, b"{\"missed\":[{\"fir").unwrap();
        let (batch, _) = again(folder.path()).step().unwrap().unwrap();
        assert_eq!(seqs(&batch), [0, 1, 2, 3, 4]);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(again(folder.path()).step(), Err(MissedError::Note { .. })));
    }
}
