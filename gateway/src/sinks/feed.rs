//! Feeds: one thread a sink, from the spool behind its own cursor. A batch is stored, then the
//! cursor moves; what fails is tried again with growing pauses, for as long as it takes.
//!
//! A sink that may lag is detached when the spool needs the room: the range it missed is written
//! down, and fed to it from the local history when it is back, one step after each batch of what
//! is new. So neither waits for the other, and a sink that is back stays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use serde::Serialize;
use spool::{Consumer, Read, Reader, Spool};
use tokio_util::sync::CancellationToken;

use super::history::{self, History};
use super::influx::{self, WriteError, Writer};
use super::line::Lines;
use super::missed::{Again, MissedError};
use crate::entry::{Accepted, Entry};

/// Entries of one batch.
const ENTRIES_MAX: usize = 5000;
/// How long a batch may wait to fill.
const LINGER: Duration = Duration::from_millis(200);
/// How long nothing new is waited for before the thread looks around.
const IDLE: Duration = Duration::from_millis(500);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest pause that a server may ask for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(300);
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
    /// Spool positions that it missed and that are still to be fed to it from the history.
    pub missed: u64,
    /// Why feeding them does not go on, if so.
    pub missed_error: Option<String>,
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
    /// How long the server asks to be left alone.
    pause: Option<Duration>,
}

impl Failure {
    /// One that time may heal.
    fn passing(what: impl ToString) -> Self {
        Self { what: what.to_string(), needs_a_person: false, pause: None }
    }
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
            ..Failure::passing(e)
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
        let refused = influx::write_all(&mut *self.0, &lines, LINES_MAX).map_err(|error| {
            let needs_a_person = matches!(error, WriteError::Refused { .. });
            let pause = if let WriteError::Later { pause, .. } = &error { *pause } else { None };
            Failure { what: error.to_string(), needs_a_person, pause }
        })?;
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

/// A sink's thread, its cursor and its state.
pub struct Feed {
    name: &'static str,
    required: bool,
    spool: SpoolOf,
    consumer: Consumer,
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
    /// The history to be fed from after having been detached.
    again: Option<Again>,
}

/// Whoever keeps the spool.
pub type SpoolOf = Arc<dyn AsRef<Spool> + Send + Sync>;

/// A running feed.
pub struct Handle {
    status: Arc<Mutex<Status>>,
    stop: CancellationToken,
    consumer: Consumer,
    required: bool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
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

    /// Lets the spool go on without this sink. Whether that was done.
    fn detach(&self) -> bool {
        let sink = lock(&self.status).name.clone();
        match self.consumer.detach() {
            Ok(()) => {
                counter!("tianyu_sink_detached_total", "sink" => sink.clone()).increment(1);
                tracing::warn!(sink, "the spool is full: this sink will be fed from the history");
                true
            }
            Err(error) => {
                tracing::error!(sink, %error, "detach a sink");
                false
            }
        }
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.stop.cancel();
        (*self.spool).as_ref().wake();
    }

    /// Waits for the thread's end.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a sink's thread has panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes room while the spool is `full`: of the sinks that may lag, those that keep what every
/// required one has stored are detached, the one furthest behind first. How many were.
pub fn make_room(feeds: &[Handle], full: impl Fn() -> bool) -> usize {
    let needed = feeds.iter().filter(|f| f.required).map(|f| f.consumer.position()).min().unwrap_or(0);
    let mut lagging: Vec<_> = feeds.iter().filter(|f| !f.required && f.consumer.attached()).collect();
    lagging.sort_by_key(|f| f.consumer.position());
    let behind = lagging.iter().take_while(|f| f.consumer.position() < needed);
    behind.take_while(|_| full()).filter(|f| f.detach()).count()
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Prepares a feed; `again` for a sink that can be fed from the history. `stop` ends it, and
    /// whatever the sink itself waits for.
    pub fn new(
        name: &'static str,
        required: bool,
        spool: SpoolOf,
        again: Option<Again>,
        stop: CancellationToken,
    ) -> Result<Self, spool::ReadError> {
        let consumer = (*spool).as_ref().consumer(name)?;
        let status = Arc::new(Mutex::new(Status { name: name.to_owned(), required, ..Status::default() }));
        Ok(Self { name, required, spool, consumer, status, stop, again })
    }

    /// Starts the thread.
    pub fn start(self, sink: Box<dyn Sink>) -> Result<Handle, std::io::Error> {
        let handle = Handle {
            status: Arc::clone(&self.status),
            stop: self.stop.clone(),
            consumer: (*self.spool).as_ref().consumer(self.name).map_err(std::io::Error::other)?,
            required: self.required,
            thread: Mutex::default(),
            spool: Arc::clone(&self.spool),
        };
        let thread = std::thread::Builder::new().name(format!("sink-{}", self.name));
        let thread = thread.spawn(move || self.run(sink))?;
        *handle.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(handle)
    }

    fn spool(&self) -> &Spool {
        (*self.spool).as_ref()
    }

    fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn run(mut self, mut sink: Box<dyn Sink>) {
        let mut again = self.again.take();
        let mut reader = self.consumer.reader();
        // What it stands in front of may be gone: it was detached when the gateway ended, or a
        // crash came between two files.
        let mut gap = self.consumer.position() < self.spool().usage().oldest;
        let mut not_before = Instant::now();
        while !self.stopping() {
            if gap || !self.consumer.attached() {
                let Some(at) = self.come_back(&mut *sink, again.as_mut()) else { continue };
                (reader, gap, not_before) = (at, false, Instant::now());
            }
            let mut fed = false;
            if let Some(again) = again.as_mut().filter(|_| Instant::now() >= not_before) {
                match self.feed_missed(&mut *sink, again) {
                    Ok(more) => fed = more,
                    Err(error) => {
                        self.missed_failed(&error);
                        not_before = Instant::now() + PAUSES.1;
                    }
                }
            }
            let first = reader.next_index();
            let (wait, linger) = if fed { (Duration::ZERO, Duration::ZERO) } else { (IDLE, LINGER) };
            let batch = match self.batch(&mut reader, wait, linger) {
                Ok(batch) => batch,
                Err(error) => {
                    self.failed(&Failure::passing(error));
                    self.pause(PAUSES.1);
                    reader = self.consumer.reader();
                    continue;
                }
            };
            let next = reader.next_index();
            if next == first {
                continue;
            }
            if !self.store(&mut *sink, &batch, first, next - 1) {
                reader = self.consumer.reader();
                continue;
            }
            if let Err(error) = self.consumer.commit_and_sync(next) {
                self.failed(&Failure::passing(error));
            }
        }
    }

    /// Entries as they have come, up to a batch's size or its time.
    fn batch(&self, reader: &mut Reader, wait: Duration, linger: Duration) -> Result<Vec<Accepted>, spool::ReadError> {
        let mut batch = Vec::new();
        let mut lines = 0;
        self.spool().wait_beyond(reader.next_index(), wait);
        let by = Instant::now() + linger;
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
                Err(_) if self.stopping() => return false,
                Err(failure) => {
                    self.failed(&failure);
                    self.pause(failure.pause.map_or(pause, |asked| asked.min(ASKED_PAUSE_MAX).max(pause)));
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
    fn come_back(&self, sink: &mut dyn Sink, again: Option<&mut Again>) -> Option<Reader> {
        // What it is sent anyway, once more: whether it takes that tells whether it is there.
        let mut reader = self.consumer.reader();
        let first = reader.next_index();
        let tried = self.batch(&mut reader, IDLE, Duration::ZERO).map_err(Failure::passing);
        let mut status = lock(&self.status).clone();
        let back = tried
            .and_then(|batch| sink.store(&batch, first, reader.next_index(), &mut status))
            .and_then(|()| self.attach(again).map_err(Failure::passing));
        match back {
            Ok(missed) => {
                let mut status = lock(&self.status);
                (status.error, status.needs_a_person, status.missed) = (None, false, missed);
                Some(self.consumer.reader())
            }
            Err(_) if self.stopping() => None,
            Err(failure) => {
                self.failed(&failure);
                self.pause(failure.pause.map_or(PAUSES.1, |asked| asked.min(ASKED_PAUSE_MAX).max(PAUSES.1)));
                None
            }
        }
    }

    /// Attaches; how many positions are to be fed again.
    fn attach(&self, mut again: Option<&mut Again>) -> Result<u64, MissedError> {
        self.consumer.attach(|missed| {
            counter!("tianyu_sink_missed_total", "sink" => self.name).increment(missed.end - missed.start);
            match again.as_deref_mut() {
                Some(again) => {
                    tracing::warn!(
                        sink = self.name,
                        first = missed.start,
                        before = missed.end,
                        "it is back, and fed what it missed from the history"
                    );
                    again.add(&missed)
                }
                None => {
                    tracing::error!(
                        sink = self.name,
                        first = missed.start,
                        before = missed.end,
                        "entries were gone from the spool before this sink had them"
                    );
                    Ok(())
                }
            }
        })?;
        again.map_or(Ok(0), Again::positions)
    }

    /// One step of what was missed, from the history, which has all of it: segments go only when
    /// every attached sink has committed beyond them, and the history is never detached. Whether
    /// there was one.
    fn feed_missed(&self, sink: &mut dyn Sink, again: &mut Again) -> Result<bool, MissedError> {
        let step = again.step()?;
        let positions = again.positions()?;
        {
            let mut status = lock(&self.status);
            (status.missed, status.missed_error) = (positions, None);
        }
        gauge!("tianyu_sink_missed", "sink" => self.name).set(positions as f64);
        let Some((batch, mark)) = step else { return Ok(false) };
        // The sinks that are fed from a history keep no positions of their own.
        if self.store(sink, &batch, 0, 0) {
            again.fed(mark)?;
        } else {
            // Detached again, or stopped: from the note, when it is back.
            again.forget_step();
        }
        Ok(true)
    }

    fn missed_failed(&self, error: &MissedError) {
        counter!("tianyu_sink_failures_total", "sink" => self.name).increment(1);
        let (mut status, text) = (lock(&self.status), error.to_string());
        if status.missed_error.as_ref() != Some(&text) {
            tracing::error!(sink = self.name, error = text, "what it missed cannot be fed from the history now");
        }
        status.missed_error = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::mpsc;

    use spool::memory::Memory;
    use spool::{Files as _, Options, Spool};

    use super::*;
    use crate::sinks::samples;

    struct Owned(Spool);

    impl AsRef<Spool> for Owned {
        fn as_ref(&self) -> &Spool {
            &self.0
        }
    }

    /// InfluxDB as far as this matters: away or there, and what it was sent.
    #[derive(Clone)]
    struct Server {
        here: Arc<AtomicBool>,
        /// After so many requests it is away again.
        requests_left: Arc<AtomicU32>,
        lines: Arc<Mutex<std::collections::BTreeMap<String, u32>>>,
        told: Option<mpsc::Sender<()>>,
    }

    impl Default for Server {
        fn default() -> Self {
            let requests_left = Arc::new(AtomicU32::new(u32::MAX));
            Self { here: Arc::default(), requests_left, lines: Arc::default(), told: None }
        }
    }

    impl Writer for Server {
        fn write(&mut self, lines: &str) -> Result<(), WriteError> {
            if let Some(told) = &self.told
                && told.send(()).is_err()
            {
                return Err(WriteError::later("the test has ended"));
            }
            let left = self.requests_left.load(Ordering::SeqCst);
            if !self.here.load(Ordering::SeqCst) || left == 0 {
                return Err(WriteError::later("away"));
            }
            self.requests_left.store(left - 1, Ordering::SeqCst);
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

    /// A spool in memory and a folder with a history, which gateways follow one another on.
    struct Farm {
        folder: tempfile::TempDir,
        memory: Memory,
        server: Server,
        asked: mpsc::Receiver<()>,
    }

    struct Running {
        spool: SpoolOf,
        feeds: Vec<Handle>,
    }

    impl Farm {
        fn new() -> Self {
            let (told, asked) = mpsc::channel();
            let server = Server { told: Some(told), ..Server::default() };
            Self { folder: tempfile::tempdir().unwrap(), memory: Memory::new(), server, asked }
        }

        fn note(&self) -> std::path::PathBuf {
            self.folder.path().join("influx.missed")
        }

        fn start(&self) -> Running {
            let options = Options { segment_bytes_max: 3000, free_bytes_min: 0, ..Options::default() };
            let (spool, _) = Spool::open(
                Arc::new(self.memory.clone()),
                std::path::Path::new("log"),
                options,
                Box::new(|| {}),
                &mut |_| {},
            )
            .unwrap();
            let spool: SpoolOf = Arc::new(Owned(spool));
            let history = History::open(self.folder.path()).unwrap();
            let again = Again::new(history::Reader::new(self.folder.path()), self.note());
            let feed = |name, required, again| {
                Feed::new(name, required, Arc::clone(&spool), again, CancellationToken::new()).unwrap()
            };
            let feeds = vec![
                feed("history", true, None).start(Box::new(history)).unwrap(),
                feed("influx", false, Some(again)).start(Box::new(Influx(Box::new(self.server.clone())))).unwrap(),
            ];
            Running { spool, feeds }
        }

        fn stored(&self) -> usize {
            self.server.lines.lock().unwrap().len()
        }
    }

    impl Running {
        fn append(&self, seqs: std::ops::Range<u32>) {
            for seq in seqs {
                let accepted = samples::accepted(seq, 1_778_000_000_000 + i64::from(seq) * 1000);
                let entry = Entry::Accepted(accepted).encode();
                (*self.spool).as_ref().append_and_sync(&entry, &mut Vec::new).unwrap();
            }
        }

        fn oldest(&self) -> u64 {
            (*self.spool).as_ref().usage().oldest
        }

        fn history_has_all(&self) {
            until("the history has all", || self.feeds[0].status().behind == 0);
        }

        fn stop(self) {
            self.feeds.iter().for_each(Handle::stop);
            self.feeds.iter().for_each(Handle::join);
            (*self.spool).as_ref().close();
        }
    }

    #[test]
    fn a_sink_away_for_longer_than_the_spool_holds_is_fed_from_the_history_without_a_hole() {
        let farm = Farm::new();
        let gateway = farm.start();
        gateway.append(0..100);
        farm.asked.recv_timeout(Duration::from_secs(30)).unwrap();
        gateway.history_has_all();
        assert_eq!(gateway.oldest(), 0, "a sink that waits keeps the spool");
        assert_eq!(make_room(&gateway.feeds, || false), 0, "nothing is done while there is room");
        assert_eq!(make_room(&gateway.feeds, || true), 1);
        assert!(gateway.feeds[1].status().detached && !gateway.feeds[0].status().detached);
        gateway.append(100..150);
        until("the spool has let go", || gateway.oldest() > 90);
        farm.server.here.store(true, Ordering::SeqCst);
        gateway.append(150..200);
        until("all has arrived", || farm.stored() == 200);
        until("nothing is missed any more", || !farm.note().exists());
        until("it says so", || gateway.feeds[1].status().missed == 0);
        assert!(!gateway.feeds[1].status().detached);
        assert!(farm.server.lines.lock().unwrap().values().all(|lines| *lines >= 2), "both lines of each round");
        gateway.stop();
    }

    #[test]
    fn a_gateway_that_ends_while_a_sink_is_detached_or_fed_again_leaves_no_hole() {
        let farm = Farm::new();
        let gateway = farm.start();
        gateway.append(0..100);
        farm.asked.recv_timeout(Duration::from_secs(30)).unwrap();
        gateway.history_has_all();
        assert_eq!(make_room(&gateway.feeds, || true), 1);
        gateway.append(100..150);
        until("the spool has let go", || gateway.oldest() > 90);
        gateway.stop();

        // Detached at the start, and still away.
        let gateway = farm.start();
        assert!(gateway.feeds[1].status().detached);
        gateway.append(150..200);
        gateway.history_has_all();
        // It comes back for one request: enough to be attached, not to be fed.
        farm.server.requests_left.store(1, Ordering::SeqCst);
        farm.server.here.store(true, Ordering::SeqCst);
        until("it is noted what it missed", || farm.note().exists());
        until("it is attached", || !gateway.feeds[1].status().detached);
        gateway.stop();
        assert!(farm.stored() < 200 && farm.note().exists());

        // It missed some, and is away for long again: both are fed.
        let gateway = farm.start();
        gateway.append(200..300);
        gateway.history_has_all();
        until("it has failed", || gateway.feeds[1].status().error.is_some());
        assert_eq!(make_room(&gateway.feeds, || true), 1);
        gateway.append(300..350);
        until("the spool has let go", || gateway.oldest() > 290);
        farm.server.requests_left.store(u32::MAX, Ordering::SeqCst);
        until("all has arrived", || farm.stored() == 350);
        until("nothing is missed any more", || !farm.note().exists());
        gateway.stop();
    }

    #[test]
    fn what_is_gone_from_the_spool_before_an_attached_sink_had_it_is_fed_from_the_history() {
        let farm = Farm::new();
        let gateway = farm.start();
        gateway.append(0..100);
        gateway.history_has_all();
        gateway.stop();
        // As a cursor from an older copy of the folder would stand: attached, and too far back.
        let cursor = std::path::Path::new("log/influx.cursor");
        let file = farm.memory.open(cursor, false).unwrap();
        let mut old = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
        file.read_at(0, &mut old).unwrap();
        let gateway = farm.start();
        assert_eq!(make_room(&gateway.feeds, || true), 1);
        gateway.append(100..150);
        until("the spool has let go", || gateway.oldest() > 90);
        gateway.stop();
        farm.memory.open(cursor, true).unwrap().write_at(0, &old).unwrap();
        farm.server.here.store(true, Ordering::SeqCst);
        let gateway = farm.start();
        until("all has arrived", || farm.stored() == 150);
        gateway.stop();
    }

    #[test]
    fn a_feed_whose_server_never_answers_stops_at_once() {
        let farm = Farm::new();
        let gateway = farm.start();
        gateway.append(0..10);
        farm.asked.recv_timeout(Duration::from_secs(30)).unwrap();
        let asked_to = Instant::now();
        gateway.stop();
        assert!(asked_to.elapsed() < Duration::from_secs(5), "{:?}", asked_to.elapsed());
    }
}
