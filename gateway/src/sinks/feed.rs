//! Feeds: one thread a sink, from the spool behind its own cursor. A batch is stored, then the
//! cursor moves; what fails is tried again with growing pauses, for as long as it takes.
//!
//! A sink that may lag is detached when the spool needs the room: the range it missed is written
//! down, and fed to it from the local history when it is back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use serde::{Deserialize, Serialize};
use spool::{Consumer, Read, Reader, Spool};

use super::history::{self, History};
use super::influx::{self, WriteError, Writer};
use super::line::Lines;
use crate::entry::{Accepted, Entry};

/// Entries of one batch.
const ENTRIES_MAX: usize = 5000;
/// How long a batch may wait to fill.
const LINGER: Duration = Duration::from_millis(200);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Lines of one write to InfluxDB.
const LINES_MAX: usize = 5000;
/// Refused lines kept to be looked at.
const REFUSED_KEPT: usize = 100;

/// How a sink stands.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether acknowledgement waits for it when it falls behind.
    pub required: bool,
    /// First spool index it has not stored.
    pub position: u64,
    /// Entries that wait for it.
    pub behind: u64,
    /// What its last attempt failed with; none when it went well.
    pub error: Option<String>,
    /// Whether it waits for a person (a wrong token, a missing bucket).
    pub needs_a_person: bool,
    /// Whether it is detached and will be fed from the history.
    pub detached: bool,
    /// Readings or lines refused for good.
    pub refused: u64,
    /// The newest of them with the reason.
    pub refused_latest: Vec<String>,
    /// Readings set aside because another record has their series and time.
    pub clashes: u64,
}

/// A sink's failure to store a batch.
#[derive(Debug)]
pub struct Failure {
    what: String,
    needs_a_person: bool,
}

/// What stores batches.
pub trait Sink: Send {
    /// Stores what came at spool positions `first..=last`, durably by the sink's own measure.
    fn store(&mut self, batch: &[Accepted], first: u64, last: u64, status: &mut Status) -> Result<(), Failure>;
}

impl Sink for History {
    fn store(&mut self, batch: &[Accepted], first: u64, last: u64, status: &mut Status) -> Result<(), Failure> {
        let stored = History::store(self, batch, first, last).map_err(|e| Failure {
            needs_a_person: matches!(e, history::HistoryError::Foreign { .. }),
            what: e.to_string(),
        })?;
        status.clashes += stored.clashes;
        counter!("tianyu_history_rows_total").increment(stored.new);
        counter!("tianyu_history_clashes_total").increment(stored.clashes);
        Ok(())
    }
}

/// InfluxDB as a sink.
pub struct Influx(pub Box<dyn Writer>);

impl Sink for Influx {
    fn store(&mut self, batch: &[Accepted], _first: u64, _last: u64, status: &mut Status) -> Result<(), Failure> {
        let mut lines = Lines::default();
        batch.iter().for_each(|accepted| lines.push(accepted));
        let refused = influx::write_all(&mut *self.0, &lines, LINES_MAX)
            .map_err(|e| Failure { needs_a_person: matches!(e, WriteError::Refused { .. }), what: e.to_string() })?;
        counter!("tianyu_influx_lines_total").increment((lines.len() - refused.len()) as u64);
        for line in refused {
            counter!("tianyu_influx_refused_lines_total").increment(1);
            tracing::warn!(line = line.line, why = line.why, "InfluxDB refuses this line; it is kept in the history");
            status.refused += 1;
            status.refused_latest.push(format!("{}: {}", line.why, line.line));
            let over = status.refused_latest.len().saturating_sub(REFUSED_KEPT);
            status.refused_latest.drain(..over);
        }
        Ok(())
    }
}

/// Range of spool positions that a detached sink missed; kept in a file until it was fed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Missed {
    first: u64,
    last: u64,
}

/// A sink's thread, its cursor and its state.
pub struct Feed {
    name: &'static str,
    required: bool,
    spool: SpoolOf,
    consumer: Consumer,
    status: Arc<Mutex<Status>>,
    stop: Arc<AtomicBool>,
    /// The history to be fed from after having been detached, and where to remember what.
    again: Option<(history::Reader, PathBuf)>,
}

/// Whoever keeps the spool.
pub type SpoolOf = Arc<dyn AsRef<Spool> + Send + Sync>;

/// A running feed.
pub struct Handle {
    status: Arc<Mutex<Status>>,
    stop: Arc<AtomicBool>,
    consumer: Consumer,
    required: bool,
    thread: Option<std::thread::JoinHandle<()>>,
    spool: SpoolOf,
}

impl Handle {
    /// How the sink stands.
    pub fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        let usage = (*self.spool).as_ref().usage();
        status.position = self.consumer.position();
        status.behind = usage.synced.saturating_sub(status.position);
        status.detached = !self.consumer.attached();
        status
    }

    /// Lets the spool go on without this sink, if it may lag. Whether it was detached now.
    pub fn make_room(&self) -> bool {
        let usage = (*self.spool).as_ref().usage();
        let position = self.consumer.position();
        // Room is made only by whoever is the last; a sink that keeps up stays.
        let others = usage.consumers.iter().filter(|(_, _, attached)| *attached).map(|(_, next, _)| *next).min();
        if self.required || !self.consumer.attached() || position >= usage.synced || others.is_none_or(|o| o < position)
        {
            return false;
        }
        match self.consumer.detach() {
            Ok(()) => {
                tracing::warn!(
                    sink = lock(&self.status).name,
                    "the spool is full: this sink will be fed from the history"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "detach a sink");
                false
            }
        }
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        (*self.spool).as_ref().wake();
    }

    /// Waits for the thread's end.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a sink's thread has panicked");
        }
    }
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Prepares a feed; `again` for a sink that may lag.
    pub fn new(
        name: &'static str,
        required: bool,
        spool: SpoolOf,
        again: Option<(history::Reader, PathBuf)>,
    ) -> Result<Self, spool::ReadError> {
        let consumer = (*spool).as_ref().consumer(name)?;
        let status = Arc::new(Mutex::new(Status { name: name.to_owned(), required, ..Status::default() }));
        Ok(Self { name, required, spool, consumer, status, stop: Arc::default(), again })
    }

    /// Starts the thread.
    pub fn start(self, sink: Box<dyn Sink>) -> Result<Handle, std::io::Error> {
        let consumer = (*self.spool).as_ref().consumer(self.name).map_err(std::io::Error::other)?;
        let mut handle = Handle {
            status: Arc::clone(&self.status),
            stop: Arc::clone(&self.stop),
            consumer,
            required: self.required,
            thread: None,
            spool: Arc::clone(&self.spool),
        };
        let thread = std::thread::Builder::new().name(format!("sink-{}", self.name));
        handle.thread = Some(thread.spawn(move || self.run(sink))?);
        Ok(handle)
    }

    fn spool(&self) -> &Spool {
        (*self.spool).as_ref()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(self, mut sink: Box<dyn Sink>) {
        let mut reader = self.consumer.reader();
        while !self.stopping() {
            if !self.consumer.attached() {
                // Someone else's words for "the spool goes on without you": try to come back.
                match self.come_back(&mut *sink) {
                    Some(at) => reader = at,
                    None => continue,
                }
            }
            self.feed_missed(&mut *sink);
            let first = reader.next_index();
            let batch = match self.batch(&mut reader) {
                Ok(batch) => batch,
                Err(error) => {
                    self.failed(&Failure { what: error.to_string(), needs_a_person: false });
                    self.pause(PAUSES.1);
                    reader = self.consumer.reader();
                    continue;
                }
            };
            let next = reader.next_index();
            if next == first || !self.store(&mut *sink, &batch, first, next - 1) {
                if next != first && !self.stopping() {
                    reader = self.consumer.reader();
                }
                continue;
            }
            if let Err(error) = self.consumer.commit_and_sync(next) {
                self.failed(&Failure { what: error.to_string(), needs_a_person: false });
            }
        }
    }

    /// Entries as they have come, up to a batch's size or its time.
    fn batch(&self, reader: &mut Reader) -> Result<Vec<Accepted>, spool::ReadError> {
        let mut batch = Vec::new();
        let mut lines = 0;
        self.spool().wait_beyond(reader.next_index(), Duration::from_millis(500));
        let by = Instant::now() + LINGER;
        while lines < ENTRIES_MAX && !self.stopping() {
            match reader.read()? {
                Some(Read::Entry { index, bytes }) => match Entry::decode(&bytes) {
                    Ok(Entry::Accepted(accepted)) => {
                        lines += accepted.records.len();
                        batch.push(accepted);
                    }
                    Ok(Entry::Window(_)) => {}
                    Err(error) => {
                        counter!("tianyu_sink_unreadable_total", "sink" => self.name).increment(1);
                        tracing::error!(sink = self.name, index, %error, "an entry cannot be read");
                    }
                },
                Some(Read::Corrupt { path, offset, bytes }) => {
                    counter!("tianyu_spool_corrupt_total", "sink" => self.name).increment(1);
                    tracing::error!(sink = self.name, path = %path.display(), offset, bytes, "the spool is damaged here");
                }
                None => {
                    let left = by.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.spool().wait_beyond(reader.next_index(), left) {
                        break;
                    }
                }
            }
        }
        gauge!("tianyu_sink_position", "sink" => self.name).set(reader.next_index() as f64);
        Ok(batch)
    }

    /// Stores until it is done; `false` when stopped or detached before that.
    fn store(&self, sink: &mut dyn Sink, batch: &[Accepted], first: u64, last: u64) -> bool {
        let mut pause = PAUSES.0;
        while !self.stopping() {
            let mut status = lock(&self.status).clone();
            match sink.store(batch, first, last, &mut status) {
                Ok(()) => {
                    if status.error.take().is_some() {
                        tracing::info!(sink = self.name, "it takes data again");
                    }
                    status.needs_a_person = false;
                    *lock(&self.status) = status;
                    return true;
                }
                Err(failure) => {
                    self.failed(&failure);
                    self.pause(pause);
                    pause = (pause * 2).min(PAUSES.1);
                    if !self.consumer.attached() {
                        return false;
                    }
                }
            }
        }
        false
    }

    fn failed(&self, failure: &Failure) {
        counter!("tianyu_sink_failures_total", "sink" => self.name).increment(1);
        let mut status = lock(&self.status);
        if status.error.as_ref() != Some(&failure.what) {
            tracing::warn!(
                sink = self.name,
                error = failure.what,
                needs_a_person = failure.needs_a_person,
                "cannot store"
            );
        }
        status.error = Some(failure.what.clone());
        status.needs_a_person = failure.needs_a_person;
    }

    /// Waits, but not longer than until it is stopped or the spool moves on.
    fn pause(&self, pause: Duration) {
        let by = Instant::now() + pause;
        while !self.stopping() && Instant::now() < by {
            std::thread::park_timeout(Duration::from_millis(100).min(by.saturating_duration_since(Instant::now())));
        }
    }

    /// Attaches a detached sink again once it answers; from where to read on.
    fn come_back(&self, sink: &mut dyn Sink) -> Option<Reader> {
        // What it is sent anyway, once more: whether it takes that tells whether it is there.
        let mut reader = self.consumer.reader();
        let first = reader.next_index();
        let tried = self.batch(&mut reader).map_err(|e| Failure { what: e.to_string(), needs_a_person: false });
        let mut status = lock(&self.status).clone();
        let stored = tried.and_then(|batch| sink.store(&batch, first, reader.next_index(), &mut status));
        if let Err(failure) = stored {
            self.failed(&failure);
            self.pause(PAUSES.1);
            return None;
        }
        match self.consumer.attach() {
            Ok(missed) => {
                if let (Some(range), Some((_, path))) = (missed, &self.again)
                    && range.end > range.start
                {
                    self.remember(path, Some(Missed { first: range.start, last: range.end - 1 }));
                }
                Some(self.consumer.reader())
            }
            Err(error) => {
                self.failed(&Failure { what: error.to_string(), needs_a_person: false });
                self.pause(PAUSES.1);
                None
            }
        }
    }

    /// What was missed, from the history. Not before the history itself has all of it.
    fn feed_missed(&self, sink: &mut dyn Sink) {
        let Some((history, path)) = &self.again else { return };
        let Some(missed) = recall(path) else { return };
        let mut whole = true;
        let fed = history.replay(missed.first, missed.last, |batch| {
            whole = whole && self.store(sink, &batch, missed.first, missed.last);
        });
        match fed {
            Ok(()) if whole => {
                tracing::info!(
                    sink = self.name,
                    first = missed.first,
                    last = missed.last,
                    "what it missed was fed from the history"
                );
                self.remember(path, None);
            }
            Ok(()) => {}
            Err(error) => {
                self.failed(&Failure { what: error.to_string(), needs_a_person: false });
                self.pause(PAUSES.1);
            }
        }
    }

    fn remember(&self, path: &std::path::Path, missed: Option<Missed>) {
        let result = match missed.map(|new| match recall(path) {
            Some(old) => Missed { first: old.first.min(new.first), last: old.last.max(new.last) },
            None => new,
        }) {
            Some(missed) => serde_json::to_vec(&missed).map_err(std::io::Error::other).and_then(|bytes| {
                let beside = path.with_extension("new");
                std::fs::write(&beside, bytes)?;
                std::fs::File::open(&beside)?.sync_all()?;
                std::fs::rename(&beside, path)
            }),
            None => std::fs::remove_file(path),
        };
        if let Err(error) = result {
            tracing::error!(sink = self.name, path = %path.display(), %error, "remember what the sink missed");
        }
    }
}

fn recall(path: &std::path::Path) -> Option<Missed> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use spool::memory::Memory;
    use spool::{Options, Spool};

    use super::*;
    use crate::sinks::samples;

    struct Owned(Spool);

    impl AsRef<Spool> for Owned {
        fn as_ref(&self) -> &Spool {
            &self.0
        }
    }

    /// InfluxDB as far as this matters: away or there, and what it was sent.
    #[derive(Clone, Default)]
    struct Server {
        here: Arc<AtomicBool>,
        lines: Arc<Mutex<std::collections::BTreeMap<String, u32>>>,
        told: Option<mpsc::Sender<()>>,
    }

    impl Writer for Server {
        fn write(&mut self, lines: &str) -> Result<(), WriteError> {
            if let Some(told) = &self.told
                && told.send(()).is_err()
            {
                return Err(WriteError::Later("the test has ended".into()));
            }
            if !self.here.load(Ordering::SeqCst) {
                return Err(WriteError::Later("away".into()));
            }
            let mut all = self.lines.lock().unwrap();
            for line in lines.lines() {
                *all.entry(line.rsplit(' ').next().unwrap().to_owned()).or_default() += 1;
            }
            Ok(())
        }
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let by = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < by, "{what}: not within 30 s");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_sink_away_for_longer_than_the_spool_holds_is_fed_from_the_history_without_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes_max: 3000, free_bytes_min: 0, ..Options::default() };
        let (spool, _) =
            Spool::open(Arc::new(Memory::new()), std::path::Path::new("log"), options, Box::new(|| {}), &mut |_| {})
                .unwrap();
        let spool: SpoolOf = Arc::new(Owned(spool));
        let base = 1_778_000_000_000;
        let append = |from: u32, to: u32| {
            for seq in from..to {
                let accepted = samples::accepted(seq, base + i64::from(seq) * 1000);
                let entry = Entry::Accepted(accepted).encode();
                (*spool).as_ref().append_and_sync(&entry, &mut Vec::new).unwrap();
            }
        };
        let history = History::open(folder.path()).unwrap();
        let mut history =
            Feed::new("history", true, Arc::clone(&spool), None).unwrap().start(Box::new(history)).unwrap();
        let (told, asked) = mpsc::channel();
        let server = Server { told: Some(told), ..Server::default() };
        let again = Some((history::Reader::new(folder.path()), folder.path().join("influx.missed")));
        let influx = Feed::new("influx", false, Arc::clone(&spool), again).unwrap();
        let mut influx = influx.start(Box::new(Influx(Box::new(server.clone())))).unwrap();

        append(0, 100);
        asked.recv_timeout(Duration::from_secs(30)).unwrap();
        until("the history has all", || history.status().behind == 0);
        assert_eq!((*spool).as_ref().usage().oldest, 0, "a sink that waits keeps the spool");
        assert!(!history.make_room() && influx.make_room());
        append(100, 150);
        until("the spool has let go", || (*spool).as_ref().usage().oldest > 90);
        server.here.store(true, Ordering::SeqCst);
        append(150, 200);
        until("all has arrived", || server.lines.lock().unwrap().len() == 200);
        until("nothing is missed any more", || !folder.path().join("influx.missed").exists());
        assert!(!influx.status().detached);
        assert!(server.lines.lock().unwrap().values().all(|lines| *lines >= 2), "both lines of each round");
        for feed in [&mut history, &mut influx] {
            feed.stop();
            feed.join();
        }
    }
}
