//! Local history: the readings and events of a farm that has no server, and the source from
//! which a sink that fell behind is fed again.
//!
//! One SQLite file per month of phenomenon time (UTC), so that damage is confined; each is whole
//! by itself, with its own table of series. Rows are keyed by series and time and carry the
//! record's name. Every batch is one transaction per file with `synchronous=FULL`: when
//! [`History::store`] returns, the rows are on the disk, and only then does the caller move its
//! cursor. There is deliberately no second cursor in the file: a batch stored twice is the same
//! rows, because key and name decide.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::entry::{Accepted, Content, Dated, Observation, Place};

/// `PRAGMA application_id` of a history file: "Tyhi".
const APPLICATION_ID: i32 = 0x5479_6869;
/// `PRAGMA user_version`: the format.
const FORMAT: i32 = 1;
/// Files kept open for writing.
const OPEN_FILES_MAX: usize = 4;
/// Series ids remembered; beyond this the memory starts anew.
const SERIES_REMEMBERED_MAX: usize = 100_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS series (
  id INTEGER PRIMARY KEY, medium TEXT NOT NULL, adcode INTEGER NOT NULL, site TEXT NOT NULL, unit TEXT NOT NULL,
  node TEXT NOT NULL, point TEXT NOT NULL, property TEXT NOT NULL,
  UNIQUE (site, unit, point, property, node, medium, adcode)) STRICT;
CREATE TABLE IF NOT EXISTS reading (
  series INTEGER NOT NULL, time_ms INTEGER NOT NULL, value REAL, flag INTEGER NOT NULL, tests INTEGER NOT NULL,
  raw REAL, calibration INTEGER NOT NULL, error_ms INTEGER NOT NULL, ring INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (series, time_ms)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
  node TEXT NOT NULL, ring INTEGER NOT NULL, seq INTEGER NOT NULL, time_ms INTEGER NOT NULL, error_ms INTEGER NOT NULL,
  code INTEGER NOT NULL, subject INTEGER NOT NULL, value INTEGER NOT NULL, detail INTEGER NOT NULL,
  adcode INTEGER, site TEXT, unit TEXT, point TEXT,
  PRIMARY KEY (node, ring, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clash (
  series INTEGER NOT NULL, time_ms INTEGER NOT NULL, ring INTEGER NOT NULL, seq INTEGER NOT NULL,
  value REAL, flag INTEGER NOT NULL, tests INTEGER NOT NULL,
  PRIMARY KEY (series, time_ms, ring, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intake (
  first INTEGER NOT NULL, last INTEGER NOT NULL, time_min_ms INTEGER NOT NULL, time_max_ms INTEGER NOT NULL,
  PRIMARY KEY (first, last)) STRICT, WITHOUT ROWID;
";

/// What went wrong with the history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// SQLite could not do it.
    #[error("{doing} {path}: {source}", path = path.display())]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The folder cannot be made or listed.
    #[error("open {path}: {source}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a history file, or a newer program's.
    #[error("{path} is {found}; move it away, or use the program that wrote it", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
}

/// What storing a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows that are new.
    pub new: u64,
    /// Rows that were there already, under the same name.
    pub again: u64,
    /// Readings whose series and time are taken by a record of another name; set aside in `clash`.
    pub clashes: u64,
}

/// A reading as it stands in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Phenomenon time, UTC in milliseconds.
    pub time_ms: i64,
    /// Value in the property's unit; none where missing.
    pub value: Option<f64>,
    /// QARTOD flag.
    pub flag: u8,
    /// Tests and missing reason, as in the `<p>_tests` field.
    pub tests: i64,
    /// Bound of the date's error.
    pub error_ms: u64,
}

/// The history's folder, open for writing.
pub struct History {
    folder: PathBuf,
    files: BTreeMap<String, File>,
}

struct File {
    connection: Connection,
    series: Series,
}

/// Ids of series that are known, by node, place and property: found without copying a name.
#[derive(Default)]
struct Series {
    ids: HashMap<String, HashMap<Place, BTreeMap<u8, i64>>>,
    count: usize,
}

/// A reading on its way into its file.
struct Incoming<'b> {
    series: i64,
    accepted: &'b Accepted,
    record: &'b Dated,
    reading: &'b Observation,
}

/// The month a time falls into, as the file's name has it.
fn period(time_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(time_ms) {
        Ok(at) => at.strftime("%Y-%m").to_string(),
        // Acceptance dates nothing outside jiff's years −9999…9999; a file for what it could not be.
        Err(_) => "undated".to_owned(),
    }
}

impl History {
    /// Opens the folder, making it when it is not there.
    pub fn open(folder: &Path) -> Result<Self, HistoryError> {
        std::fs::create_dir_all(folder).map_err(|source| HistoryError::Folder { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), files: BTreeMap::new() })
    }

    /// Stores the records of spool positions `first..=last`, durably.
    pub fn store(&mut self, batch: &[Accepted], first: u64, last: u64) -> Result<Stored, HistoryError> {
        let mut periods: BTreeMap<String, Vec<(&Accepted, &Dated)>> = BTreeMap::new();
        for accepted in batch {
            for record in &accepted.records {
                if matches!(record.content, Content::Round { .. } | Content::Event { .. }) {
                    periods.entry(period(record.date_ms)).or_default().push((accepted, record));
                }
            }
        }
        let mut stored = Stored::default();
        for (name, records) in periods {
            let file = self.file(&name)?;
            let done = file.store(&records, first, last);
            if done.is_err() {
                // The ids of a transaction that was rolled back are not to be trusted.
                file.series = Series::default();
            }
            let done = done.map_err(|source| HistoryError::Sqlite {
                doing: "store readings in",
                path: self.folder.join(format!("{name}.sqlite")),
                source,
            })?;
            stored.new += done.new;
            stored.again += done.again;
            stored.clashes += done.clashes;
        }
        Ok(stored)
    }

    fn file(&mut self, name: &str) -> Result<&mut File, HistoryError> {
        if !self.files.contains_key(name) && self.files.len() >= OPEN_FILES_MAX {
            // Late data go to old months: the oldest open one is closed.
            self.files.pop_first();
        }
        match self.files.entry(name.to_owned()) {
            std::collections::btree_map::Entry::Occupied(open) => Ok(open.into_mut()),
            std::collections::btree_map::Entry::Vacant(slot) => {
                Ok(slot.insert(File::open(self.folder.join(format!("{name}.sqlite")))?))
            }
        }
    }
}

impl File {
    fn open(path: PathBuf) -> Result<Self, HistoryError> {
        let sqlite = |doing| {
            let path = path.clone();
            move |source| HistoryError::Sqlite { doing, path, source }
        };
        let connection = Connection::open(&path).map_err(sqlite("open"))?;
        check(&connection, &path)?;
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
                 BEGIN IMMEDIATE;
                 PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT}; {SCHEMA}
                 COMMIT;"
            ))
            .map_err(sqlite("prepare"))?;
        Ok(Self { connection, series: Series::default() })
    }

    fn store(&mut self, records: &[(&Accepted, &Dated)], first: u64, last: u64) -> rusqlite::Result<Stored> {
        let Self { connection, series, .. } = self;
        let mut stored = Stored::default();
        let transaction = connection.transaction()?;
        {
            let mut reading = transaction.prepare_cached(
                "INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
            )?;
            let mut event = transaction.prepare_cached(
                "INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING",
            )?;
            let (mut time_min, mut time_max) = (i64::MAX, i64::MIN);
            let mut incoming = Vec::new();
            for (accepted, record) in records {
                time_min = time_min.min(record.date_ms);
                time_max = time_max.max(record.date_ms);
                match &record.content {
                    Content::Round { readings, .. } => {
                        for r in readings {
                            let (Some(place), Some(_)) = (accepted.places.get(usize::from(r.place)), r.property())
                            else {
                                continue;
                            };
                            let series = series.id(&transaction, &accepted.node, r, place)?;
                            incoming.push(Incoming { series, accepted, record, reading: r });
                        }
                    }
                    Content::Event { code, subject, value, detail, place } => {
                        let place = place.and_then(|at| accepted.places.get(usize::from(at)));
                        let new = event.execute(params![
                            accepted.node,
                            accepted.ring,
                            record.seq,
                            record.date_ms,
                            i64::try_from(record.error_ms).unwrap_or(i64::MAX),
                            code,
                            subject,
                            value,
                            detail,
                            place.map(|p| p.adcode),
                            place.map(|p| &p.site),
                            place.map(|p| &p.unit),
                            place.map(|p| &p.point),
                        ])?;
                        if new == 1 { stored.new += 1 } else { stored.again += 1 }
                    }
                    Content::Description(_) | Content::Loss(..) | Content::Gone => {}
                }
            }
            // In the order of the table each of its pages is touched once, however many nodes take
            // turns. The sort keeps the order of arrival where a series and time come twice.
            incoming.sort_by_key(|row| (row.series, row.record.date_ms));
            for row in incoming {
                let Incoming { series, accepted, record, reading: r } = row;
                let error_ms = i64::try_from(record.error_ms).unwrap_or(i64::MAX);
                let new = reading.execute(params![
                    series,
                    record.date_ms,
                    r.value(),
                    r.flag,
                    r.tests_field(),
                    r.raw(),
                    r.calibration,
                    error_ms,
                    accepted.ring,
                    record.seq
                ])?;
                if new == 1 {
                    stored.new += 1;
                } else if taken_by_another(&transaction, series, accepted.ring, record)? {
                    transaction
                        .prepare_cached("INSERT INTO clash VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING")?
                        .execute(params![
                            series,
                            record.date_ms,
                            accepted.ring,
                            record.seq,
                            r.value(),
                            r.flag,
                            r.tests_field()
                        ])?;
                    stored.clashes += 1;
                } else {
                    stored.again += 1;
                }
            }
            if time_min <= time_max {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO intake VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![position(first), position(last), time_min, time_max])?;
            }
        }
        transaction.commit()?;
        Ok(stored)
    }
}

/// SQLite's integers are signed; positions stay below 2^63.
fn position(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn taken_by_another(connection: &Connection, series: i64, ring: u32, record: &Dated) -> rusqlite::Result<bool> {
    let (r, s): (u32, u32) = connection
        .prepare_cached("SELECT ring, seq FROM reading WHERE series = ?1 AND time_ms = ?2")?
        .query_row(params![series, record.date_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((r, s) != (ring, record.seq))
}

impl Series {
    /// The id of a reading's series, made where it is new.
    fn id(
        &mut self,
        connection: &Connection,
        node: &str,
        reading: &Observation,
        place: &Place,
    ) -> rusqlite::Result<i64> {
        let known = self.ids.get(node).and_then(|places| places.get(place)?.get(&reading.property));
        if let Some(id) = known {
            return Ok(*id);
        }
        if self.count >= SERIES_REMEMBERED_MAX {
            *self = Self::default();
        }
        let id = series_id(connection, node, reading, place)?;
        let places = self.ids.entry(node.to_owned()).or_default();
        places.entry(place.clone()).or_default().insert(reading.property, id);
        self.count += 1;
        Ok(id)
    }
}

fn series_id(connection: &Connection, node: &str, reading: &Observation, place: &Place) -> rusqlite::Result<i64> {
    let (medium, property) = reading.property().map_or(("", ""), |p| (p.medium().name(), p.name()));
    let tags = params![place.site, place.unit, place.point, property, node, medium, place.adcode];
    let find = "SELECT id FROM series WHERE site=?1 AND unit=?2 AND point=?3 AND property=?4 AND node=?5 AND medium=?6 AND adcode=?7";
    if let Some(id) = connection.prepare_cached(find)?.query_row(tags, |row| row.get(0)).optional()? {
        return Ok(id);
    }
    connection
        .prepare_cached(
            "INSERT INTO series (site, unit, point, property, node, medium, adcode) VALUES (?1,?2,?3,?4,?5,?6,?7)",
        )?
        .execute(tags)?;
    Ok(connection.last_insert_rowid())
}

/// Refuses what is not ours, before anything is written to it.
fn check(connection: &Connection, path: &Path) -> Result<(), HistoryError> {
    let pragma =
        |name| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
                .map_err(|source| HistoryError::Sqlite { doing: "read", path: path.to_owned(), source })
        };
    let foreign = |found: String| Err(HistoryError::Foreign { path: path.to_owned(), found });
    let (application, format) = (pragma("application_id")?, pragma("user_version")?);
    match (application, format) {
        // A new file, or one that a kill has left before the transaction that makes it ours.
        (0, 0) if is_empty(connection, path)? => Ok(()),
        (APPLICATION_ID, 1..=FORMAT) => Ok(()),
        (APPLICATION_ID, newer) => foreign(format!("of history format {newer}; this program knows {FORMAT}")),
        _ => foreign("not a history file".to_owned()),
    }
}

/// Whether nothing was ever made in this file.
fn is_empty(connection: &Connection, path: &Path) -> Result<bool, HistoryError> {
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
        .map(|objects| objects == 0)
        .map_err(|source| HistoryError::Sqlite { doing: "read", path: path.to_owned(), source })
}

/// The history for reading, beside a running gateway or without one.
pub struct Reader {
    folder: PathBuf,
}

/// Which series to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Site name.
    pub site: String,
    /// Unit name.
    pub unit: String,
    /// Point name, empty where there is only one.
    pub point: String,
    /// Property name.
    pub property: String,
}

impl Reader {
    /// A reader of this folder; it need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn files(&self) -> Result<Vec<PathBuf>, HistoryError> {
        let folder = |source| HistoryError::Folder { path: self.folder.clone(), source };
        let listing = match std::fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(folder(error)),
        };
        let mut files = Vec::new();
        for entry in listing {
            let path = entry.map_err(folder)?.path();
            if path.extension().is_some_and(|e| e == "sqlite") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn each<T>(
        &self,
        within: impl Fn(&str) -> bool,
        mut read: impl FnMut(&Connection) -> rusqlite::Result<Vec<T>>,
    ) -> Result<Vec<T>, HistoryError> {
        let mut all = Vec::new();
        for path in self.files()? {
            if !path.file_stem().and_then(|s| s.to_str()).is_some_and(&within) {
                continue;
            }
            let sqlite = |source| HistoryError::Sqlite { doing: "read", path: path.clone(), source };
            if let Some(connection) = open_to_read(&path)? {
                all.extend(read(&connection).map_err(sqlite)?);
            }
        }
        Ok(all)
    }

    /// Rows of one series with `from_ms <= time < to_ms`, oldest first, at most `limit` of each month.
    pub fn rows(&self, which: &Selection, from_ms: i64, to_ms: i64, limit: u32) -> Result<Vec<Row>, HistoryError> {
        let (first, last) = (period(from_ms), period(to_ms.saturating_sub(1)));
        self.each(|month| month >= first.as_str() && month <= last.as_str(), |c| {
            c.prepare_cached(
                "SELECT time_ms, value, flag, tests, error_ms FROM reading JOIN series ON series.id = reading.series
                 WHERE site=?1 AND unit=?2 AND point=?3 AND property=?4 AND time_ms >= ?5 AND time_ms < ?6
                 ORDER BY time_ms LIMIT ?7",
            )?
            .query_map(params![which.site, which.unit, which.point, which.property, from_ms, to_ms, limit], |r| {
                Ok(Row { time_ms: r.get(0)?, value: r.get(1)?, flag: r.get(2)?, tests: r.get(3)?, error_ms: r.get::<_, i64>(4)?.unsigned_abs() })
            })?
            .collect()
        })
    }

    /// How many readings there are, and how many were set aside because of a clash.
    pub fn count(&self) -> Result<(u64, u64), HistoryError> {
        let counts = self.each(
            |_| true,
            |c| {
                let n: i64 = c.query_row("SELECT count(*) FROM reading", [], |r| r.get(0))?;
                let clashes: i64 = c.query_row("SELECT count(*) FROM clash", [], |r| r.get(0))?;
                Ok(vec![(n.unsigned_abs(), clashes.unsigned_abs())])
            },
        )?;
        Ok(counts.into_iter().fold((0, 0), |(n, c), (dn, dc)| (n + dn, c + dc)))
    }

    /// The way through the records that came at spool positions `first..=last`, to feed a sink
    /// that was detached over that range; what was handed over before `from` is passed over.
    /// Records of neighbouring positions may come along: who takes them stores the same rows
    /// again.
    pub fn replay(&self, first: u64, last: u64, from: Option<&Mark>) -> Result<Replay, HistoryError> {
        let mut spans = VecDeque::new();
        for path in self.files()? {
            let month = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
            if from.is_some_and(|mark| month < mark.month) {
                continue;
            }
            let sqlite = |source| HistoryError::Sqlite { doing: "read", path: path.clone(), source };
            let Some(connection) = open_to_read(&path)? else { continue };
            let (min, max): (Option<i64>, Option<i64>) = connection
                .query_row(
                    "SELECT min(time_min_ms), max(time_max_ms) FROM intake WHERE last >= ?1 AND first <= ?2",
                    params![position(first), position(last)],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .map_err(sqlite)?;
            if let (Some(min), Some(max)) = (min, max) {
                let mark = from.filter(|mark| mark.month == month).map_or(i64::MIN, |mark| mark.time_ms);
                spans.push_back(Span { path, month, from_ms: min.max(mark), to_ms: max });
            }
        }
        Ok(Replay { spans, window_ms: WINDOW_MS })
    }
}

/// None when the file is not made yet.
fn open_to_read(path: &Path) -> Result<Option<Connection>, HistoryError> {
    let sqlite = |source| HistoryError::Sqlite { doing: "read", path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(sqlite)?;
    check(&connection, path)?;
    Ok(if is_empty(&connection, path)? { None } else { Some(connection) })
}

/// How far a replay has come: all of earlier months, and of this one all before `time_ms`, has
/// been handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    month: String,
    time_ms: i64,
}

/// A way through part of the history in steps, each with its own look into the file: between two
/// steps nothing is kept open, however long the taker needs. A step covers a window of time that
/// is fitted to how much there is.
#[derive(Debug)]
pub struct Replay {
    spans: VecDeque<Span>,
    window_ms: i64,
}

/// Part of one month's file; both ends belong to it.
#[derive(Debug)]
struct Span {
    path: PathBuf,
    month: String,
    from_ms: i64,
    to_ms: i64,
}

/// Rows of one step. A single millisecond is never parted, whatever it holds.
const REPLAY_ROWS_MAX: usize = 10_000;
/// First window of a replay.
const WINDOW_MS: i64 = 60_000;
/// Longest window: a month's file in one step.
const WINDOW_MS_MAX: i64 = 31 * 86_400_000;

impl Replay {
    /// The next records and the mark behind them; none when all has been handed over.
    pub fn step(&mut self) -> Result<Option<(Vec<Accepted>, Mark)>, HistoryError> {
        while let Some(span) = self.spans.front_mut() {
            if span.from_ms > span.to_ms {
                self.spans.pop_front();
                continue;
            }
            let Some(connection) = open_to_read(&span.path)? else {
                self.spans.pop_front();
                continue;
            };
            let sqlite = |source| HistoryError::Sqlite { doing: "read", path: span.path.clone(), source };
            let end = span.from_ms.saturating_add(self.window_ms - 1).min(span.to_ms);
            let limit = if self.window_ms == 1 { usize::MAX } else { REPLAY_ROWS_MAX };
            let Some((batch, rows)) = window(&connection, span.from_ms, end, limit).map_err(sqlite)? else {
                self.window_ms = (self.window_ms / 4).max(1);
                continue;
            };
            if rows < REPLAY_ROWS_MAX / 4 {
                self.window_ms = (self.window_ms * 2).min(WINDOW_MS_MAX);
            }
            span.from_ms = end.saturating_add(1);
            if !batch.is_empty() {
                let mark = Mark { month: span.month.clone(), time_ms: span.from_ms };
                return Ok(Some((batch, mark)));
            }
        }
        Ok(None)
    }
}

/// The records of `from..=to` in order of time and their rows; none when there are more than
/// `limit`.
fn window(c: &Connection, from: i64, to: i64, limit: usize) -> rusqlite::Result<Option<(Vec<Accepted>, usize)>> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut count = 0;
    let mut batch: BTreeMap<(i64, String, u32, u32), Accepted> = BTreeMap::new();
    let record = |key: &(i64, String, u32, u32), error_ms: i64, content| Accepted {
        node: key.1.clone(),
        ring: key.2,
        boot: 0,
        arrived_ms: key.0,
        places: Vec::new(),
        records: vec![Dated { seq: key.3, date_ms: key.0, error_ms: error_ms.unsigned_abs(), t_ms: 0, content }],
        held: None,
        window: Vec::new(),
    };
    // Series first, so that each is sought by its key: nothing orders all readings by time.
    let mut statement = c.prepare_cached(
        "SELECT time_ms, node, ring, seq, error_ms, adcode, site, unit, point, property, value, flag, tests, raw, calibration
         FROM series CROSS JOIN reading ON reading.series = series.id AND time_ms BETWEEN ?1 AND ?2 LIMIT ?3",
    )?;
    let mut rows = statement.query(params![from, to, most])?;
    while let Some(row) = rows.next()? {
        count += 1;
        if count > limit {
            return Ok(None);
        }
        let name: String = row.get(9)?;
        let Some(property) = telemetry::Property::from_name(&name) else { continue };
        let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let error_ms: i64 = row.get(4)?;
        let accepted = batch
            .entry(key)
            .or_insert_with_key(|key| record(key, error_ms, Content::Round { config: 0, readings: Vec::new() }));
        let place = Place { adcode: row.get(5)?, site: row.get(6)?, unit: row.get(7)?, point: row.get(8)? };
        let at = accepted.places.iter().position(|p| *p == place).unwrap_or_else(|| {
            accepted.places.push(place);
            accepted.places.len() - 1
        });
        let tests: i64 = row.get(12)?;
        // The rows were made from quantized integers, and quantize to the same again.
        let quantize = |v: Option<f64>| v.and_then(|v| property.quantize_exact(v));
        let reading = Observation {
            channel: 0,
            property: property.id(),
            place: u8::try_from(at).unwrap_or(u8::MAX),
            flag: row.get(11)?,
            value: quantize(row.get(10)?).unwrap_or(0),
            tests: (tests & 0xFFFF) as u16,
            reason: ((tests >> 16) & 0xFF) as u8,
            calibration: row.get(14)?,
            raw: quantize(row.get(13)?),
        };
        if let Some(Dated { content: Content::Round { readings, .. }, .. }) = accepted.records.first_mut() {
            readings.push(reading);
        }
    }
    let mut events = c.prepare_cached(
        "SELECT time_ms, node, ring, seq, error_ms, code, subject, value, detail, adcode, site, unit, point
         FROM event WHERE time_ms BETWEEN ?1 AND ?2 LIMIT ?3",
    )?;
    let mut rows = events.query(params![from, to, most])?;
    while let Some(row) = rows.next()? {
        count += 1;
        if count > limit {
            return Ok(None);
        }
        let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let adcode: Option<u32> = row.get(9)?;
        let content = Content::Event {
            code: row.get(5)?,
            subject: row.get(6)?,
            value: row.get(7)?,
            detail: row.get(8)?,
            place: adcode.map(|_| 0),
        };
        let mut accepted = record(&key, row.get(4)?, content);
        if let Some(adcode) = adcode {
            accepted.places.push(Place { adcode, site: row.get(10)?, unit: row.get(11)?, point: row.get(12)? });
        }
        batch.insert(key, accepted);
    }
    Ok(Some((batch.into_values().collect(), count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::line::Lines;
    use crate::sinks::samples;

    const MAY: i64 = 1_778_000_000_000;

    fn selection() -> Selection {
        Selection {
            site: "福清一号".into(),
            unit: "1,号=塘".into(),
            point: "0.5 m".into(),
            property: "dissolved_oxygen".into(),
        }
    }

    #[test]
    fn a_batch_stored_twice_is_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        let batch = [samples::accepted(1, MAY), samples::accepted(2, MAY + 60_000)];
        assert_eq!(history.store(&batch, 1, 2).unwrap(), Stored { new: 6, again: 0, clashes: 0 });
        drop(history);
        let mut history = History::open(folder.path()).unwrap();
        assert_eq!(history.store(&batch, 1, 2).unwrap(), Stored { new: 0, again: 6, clashes: 0 });
        let rows = Reader::new(folder.path()).rows(&selection(), MAY, MAY + 1, 10).unwrap();
        assert_eq!(rows, [Row { time_ms: MAY, value: Some(7.19), flag: 1, tests: 0, error_ms: 20 }]);
    }

    #[test]
    fn two_names_on_one_series_and_time_are_counted_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        history.store(&[samples::accepted(1, MAY)], 1, 1).unwrap();
        assert_eq!(history.store(&[samples::accepted(2, MAY)], 2, 2).unwrap(), Stored { new: 0, again: 0, clashes: 3 });
        assert_eq!(Reader::new(folder.path()).count().unwrap(), (3, 3));
    }

    #[test]
    fn each_month_is_a_file_and_late_data_find_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        for month in 0..7 {
            history.store(&[samples::accepted(month, MAY - i64::from(month) * 31 * 86_400_000)], 1, 1).unwrap();
        }
        assert_eq!(
            std::fs::read_dir(folder.path())
                .unwrap()
                .filter(|f| f.as_ref().unwrap().path().extension().unwrap() == "sqlite")
                .count(),
            7
        );
        assert_eq!(Reader::new(folder.path()).rows(&selection(), 0, i64::MAX, 10).unwrap().len(), 7);
        assert_eq!(history.files.len(), OPEN_FILES_MAX);
    }

    #[test]
    fn a_foreign_or_newer_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2026-05.sqlite");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE x (a)").unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut history = History::open(folder.path()).unwrap();
        let error = history.store(&[samples::accepted(1, MAY)], 1, 1).unwrap_err();
        assert!(matches!(error, HistoryError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!("PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=2"))
            .unwrap();
        assert!(
            history.store(&[samples::accepted(1, MAY)], 1, 1).unwrap_err().to_string().contains("history format 2")
        );
    }

    #[test]
    fn a_file_that_a_kill_left_half_made_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2026-05.sqlite");
        // What is there after the first of the statements that make a file.
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode=WAL").unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 0);
        assert_eq!(Reader::new(folder.path()).count().unwrap(), (0, 0));
        let mut history = History::open(folder.path()).unwrap();
        assert_eq!(history.store(&[samples::accepted(1, MAY)], 1, 1).unwrap().new, 3);
    }

    #[test]
    fn a_replay_gives_the_lines_that_were_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        let batches = [
            vec![samples::accepted(1, MAY)],
            vec![samples::accepted(2, MAY + 60_000)],
            vec![samples::accepted(3, MAY + 120_000)],
        ];
        for (at, batch) in (1..).zip(&batches) {
            history.store(batch, at, at).unwrap();
        }
        let lines = |accepted: &[Accepted]| {
            let mut lines = Lines::default();
            accepted.iter().for_each(|a| lines.push(a));
            let mut all: Vec<_> = (0..lines.len()).map(|at| lines.text(at..at + 1).to_owned()).collect();
            all.sort();
            all
        };
        let mut again = Vec::new();
        let mut replay = Reader::new(folder.path()).replay(2, 2, None).unwrap();
        while let Some((batch, _)) = replay.step().unwrap() {
            again.extend(batch);
        }
        assert_eq!(lines(&again).len(), 2);
        let sorted = |line: &str| {
            let mut fields: Vec<_> = line.trim().split([',', ' ']).map(str::to_owned).collect();
            fields.sort();
            fields
        };
        let (got, want): (Vec<_>, Vec<_>) =
            (lines(&again).iter().map(|l| sorted(l)).collect(), lines(&batches[1]).iter().map(|l| sorted(l)).collect());
        assert_eq!(got, want);
    }
}
