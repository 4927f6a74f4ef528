//! What the log promises when anything stops or fails, tried at every operation.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spool::memory::{Failure, Memory, Unsynced};
use spool::{
    AppendAndSyncError, AppendError, Files as _, OpenError, Options, Read, ReadError, Recovery, Replay, Spool,
    read_only,
};

const FATES: [Unsynced; 4] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn, Unsynced::Holed];

/// Bytes of a segment's header, and of a record's head: see `format.rs`.
const HEADER: usize = 40;
const HEAD: usize = 28;

fn folder() -> PathBuf {
    PathBuf::from("log")
}

fn small() -> Options {
    Options { segment_bytes_max: 300, retry_after: Duration::ZERO, free_bytes_min: 0, ..Options::default() }
}

/// An owner whose state is the list of entries it was told are durable or replayed.
struct Owner {
    spool: Spool,
    state: Vec<u64>,
    /// What was replayed, as it came.
    replayed: Vec<u64>,
    recovery: Recovery,
}

impl Owner {
    fn open(memory: &Memory) -> Result<Self, OpenError> {
        Self::open_with(memory, small())
    }

    fn open_with(memory: &Memory, options: Options) -> Result<Self, OpenError> {
        let (mut state, mut replayed) = (Vec::new(), Vec::new());
        let (spool, recovery) =
            Spool::open(Arc::new(memory.clone()), &folder(), options, Box::new(|| {}), &mut |replay| match replay {
                Replay::Checkpoint(bytes) => state = decode(&bytes),
                Replay::Entry { bytes, .. } => {
                    let name = decode(&bytes)[0];
                    replayed.push(name);
                    // Entries are known by name: one that was sent again is the same.
                    if !state.contains(&name) {
                        state.push(name);
                    }
                }
            })?;
        Ok(Self { spool, state, replayed, recovery })
    }

    fn append(&mut self, name: u64) -> Result<(), AppendAndSyncError> {
        let state = self.state.clone();
        loop {
            match self.spool.append_and_sync(&encode(&[name]), &mut || encode(&state)) {
                // The sync thread is still telling everyone of the failure before this.
                Err(AppendAndSyncError::Append(AppendError::Failed)) => std::thread::yield_now(),
                result => {
                    result?;
                    self.state.push(name);
                    return Ok(());
                }
            }
        }
    }
}

fn encode(names: &[u64]) -> Vec<u8> {
    names.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
}

fn read_all(spool: &Spool, from: u64) -> Vec<u64> {
    let mut reader = spool.reader(from);
    let mut names = Vec::new();
    while let Some(read) = reader.read().unwrap() {
        match read {
            Read::Entry { bytes, .. } => names.push(decode(&bytes)[0]),
            Read::Corrupt { .. } => panic!("corrupt: {read:?}"),
        }
    }
    names
}

/// Appends, rotates, consumes, commits, removes; what was acknowledged and committed.
fn script(owner: &mut Owner, names: std::ops::Range<u64>, acknowledged: &mut Vec<u64>, committed: &mut u64) {
    let consumer = owner.spool.consumer("sink");
    for name in names {
        if owner.append(name).is_ok() {
            acknowledged.push(name);
        }
        if let (Ok(consumer), 2) = (&consumer, name % 3) {
            let next = owner.spool.usage().synced;
            if consumer.commit_and_sync(next).is_ok() {
                *committed = next;
            }
        }
    }
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged_and_invents_nothing() {
    let operations = {
        let memory = Memory::new();
        let mut owner = Owner::open(&memory).unwrap();
        script(&mut owner, 0..24, &mut Vec::new(), &mut 0);
        drop(owner);
        memory.operations()
    };
    assert!(operations > 80, "the script does {operations} operations");
    for unsynced in FATES {
        for at in 0..operations {
            let memory = Memory::new();
            memory.fail_at(at, Failure::Crash);
            let (mut acknowledged, mut committed) = (Vec::new(), 0);
            if let Ok(mut owner) = Owner::open(&memory) {
                script(&mut owner, 0..24, &mut acknowledged, &mut committed);
            }
            memory.crash(unsynced);
            let mut last = None;
            for _ in 0..3 {
                let owner = Owner::open(&memory).unwrap();
                let here = format!("crash at {at}, {unsynced:?}");
                for name in &acknowledged {
                    assert!(owner.state.contains(name), "{name} is lost; {here}");
                }
                let mut sorted = owner.state.clone();
                sorted.dedup();
                assert_eq!(sorted.len(), owner.state.len(), "doubled; {here}");
                assert!(owner.state.is_sorted() && owner.state.iter().all(|n| *n < 24), "{:?}; {here}", owner.state);
                let position = owner.spool.consumer("sink").unwrap().position();
                assert!(position >= committed, "cursor fell back from {committed} to {position}; {here}");
                assert!(position <= committed + 4, "cursor ran ahead to {position}; {here}");
                let unread = read_all(&owner.spool, position);
                assert!(acknowledged.iter().rev().take(2).all(|n| owner.state.contains(n)));
                if let Some(last) = last.replace((owner.state.clone(), unread.clone(), position)) {
                    assert_eq!(last, (owner.state.clone(), unread, position), "opening changed something; {here}");
                }
            }
            // And it goes on.
            let mut owner = Owner::open(&memory).unwrap();
            owner.append(99).unwrap();
            assert_eq!(read_all(&owner.spool, 0).last(), Some(&99));
        }
    }
}

#[test]
fn a_failed_operation_is_never_an_acknowledged_loss_nor_a_double() {
    let operations = {
        let memory = Memory::new();
        let mut owner = Owner::open(&memory).unwrap();
        script(&mut owner, 0..12, &mut Vec::new(), &mut 0);
        drop(owner);
        memory.operations()
    };
    for unsynced in FATES {
        for at in 0..operations {
            let memory = Memory::new();
            memory.fail_at(at, Failure::Once);
            let mut acknowledged = Vec::new();
            let Ok(mut owner) = Owner::open(&memory) else { continue };
            // What was refused is sent again, as a node does, until it is taken.
            for name in 0..12 {
                let tries = (0..3).find(|_| owner.append(name).is_ok());
                assert!(tries.is_some(), "{name} was never taken; failure at {at}");
                acknowledged.push(name);
            }
            assert_eq!(read_all(&owner.spool, 0), acknowledged, "live readers; failure at {at}");
            drop(owner);
            memory.crash(unsynced);
            let owner = Owner::open(&memory).unwrap();
            assert_eq!(owner.state, acknowledged, "after reopening; failure at {at}, {unsynced:?}");
            assert_eq!(read_all(&owner.spool, 0), acknowledged, "readers; failure at {at}, {unsynced:?}");
            assert_eq!(exported(&memory), acknowledged, "export; failure at {at}, {unsynced:?}");
            drop(owner);
            // Without the newest checkpoint there is more to replay, and no more than there was.
            let newest = segments(&memory).pop().unwrap();
            memory.damage(&newest, HEADER + HEAD - 1);
            let owner = Owner::open(&memory).unwrap();
            assert_eq!(owner.state, acknowledged, "without the newest checkpoint; failure at {at}, {unsynced:?}");
            let mut once = owner.replayed.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once, owner.replayed, "replayed doubly; failure at {at}, {unsynced:?}");
        }
    }
}

#[test]
fn one_sync_serves_everyone_who_waits() {
    let memory = Memory::new();
    let owner = Owner::open_with(&memory, Options { free_bytes_min: 0, ..Options::default() }).unwrap();
    let before = memory.operations();
    let told = Arc::new(AtomicU32::new(0));
    let (tell, all_told) = std::sync::mpsc::channel::<()>();
    // While the first callback holds the sync thread, the others queue up.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let first = Box::new(move |_| assert!(gate.lock().unwrap().recv().is_ok()));
    owner.spool.append_then(b"first", &mut Vec::new, first).unwrap();
    for _ in 0..100 {
        let (told, tell) = (Arc::clone(&told), tell.clone());
        let done = Box::new(move |result: Result<u64, _>| {
            result.unwrap();
            told.fetch_add(1, Ordering::Relaxed);
            drop(tell);
        });
        owner.spool.append_then(b"entry", &mut Vec::new, done).unwrap();
    }
    drop(tell);
    go.send(()).unwrap();
    assert!(all_told.recv().is_err());
    assert_eq!(told.load(Ordering::Relaxed), 100);
    // Segment: create, head, sync, folder; then a write and a sync for the first, and for the rest.
    assert!(memory.operations() - before <= 4 + 2 + 2 + 2, "{} operations", memory.operations() - before);
}

#[test]
fn a_full_log_refuses_and_takes_again_when_a_consumer_has_moved_on() {
    let memory = Memory::new();
    let mut owner = Owner::open_with(&memory, Options { budget_bytes: 2000, ..small() }).unwrap();
    let consumer = owner.spool.consumer("sink").unwrap();
    let mut name = 0;
    let refused = loop {
        match owner.append(name) {
            Ok(()) => name += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendAndSyncError::Append(AppendError::Budget { .. })), "{refused}");
    consumer.commit_and_sync(name).unwrap();
    owner.append(name).unwrap();
    assert!(owner.spool.usage().bytes < 2000);
}

#[test]
fn a_lagging_consumer_can_be_detached_and_is_told_what_it_missed() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    let (lagging, quick) = (owner.spool.consumer("influx").unwrap(), owner.spool.consumer("history").unwrap());
    for name in 0..40 {
        owner.append(name).unwrap();
    }
    quick.commit_and_sync(40).unwrap();
    assert_eq!(owner.spool.usage().oldest, 0);
    lagging.detach().unwrap();
    // What it still had in hand may be stored after that; it stays detached.
    lagging.commit_and_sync(1).unwrap();
    assert!(!lagging.attached());
    quick.commit_and_sync(40).unwrap();
    let oldest = owner.spool.usage().oldest;
    assert!(oldest > 20, "{oldest}");
    drop((owner, lagging, quick));
    let owner = Owner::open(&memory).unwrap();
    let lagging = owner.spool.consumer("influx").unwrap();
    assert!(!lagging.attached());
    let mut told = None;
    let failed: Result<(), ReadError> = lagging.attach(|_| Err(ReadError::Header(PathBuf::new())));
    assert!(failed.is_err() && !lagging.attached() && lagging.position() == 1, "without a note nothing changes");
    let note = |missed| {
        told = Some(missed);
        Ok::<_, ReadError>(())
    };
    lagging.attach(note).unwrap();
    assert_eq!((told, lagging.position()), (Some(1..oldest), oldest));
    assert_eq!(read_all(&owner.spool, lagging.position()), (oldest..40).collect::<Vec<_>>());
}

#[test]
fn no_crash_makes_forgotten_what_a_detached_consumer_missed() {
    let note = folder().join("note");
    // What it missed is noted in the same file system, so that every crash point is tried.
    let write = |memory: &Memory, missed: std::ops::Range<u64>| {
        let file = memory.create(&note)?;
        file.write_at(0, &encode(&[missed.start, missed.end]))?;
        file.sync()?;
        memory.sync_dir(&folder())
    };
    let script = |memory: &Memory, acknowledged: &mut u64| -> Result<(), Box<dyn std::error::Error>> {
        let mut owner = Owner::open(memory)?;
        let (lagging, quick) = (owner.spool.consumer("influx")?, owner.spool.consumer("history")?);
        for name in 0..40 {
            owner.append(name)?;
            *acknowledged = name + 1;
        }
        lagging.detach()?;
        quick.commit_and_sync(30)?;
        let io = |source| ReadError::Io { doing: "note", path: note.clone(), source };
        lagging.attach(|missed| write(memory, missed).map_err(io))?;
        quick.commit_and_sync(40)?;
        Ok(())
    };
    let memory = Memory::new();
    script(&memory, &mut 0).unwrap();
    let operations = memory.operations();
    for unsynced in FATES {
        for failure in [Failure::Crash, Failure::Once] {
            for at in 0..operations {
                let memory = Memory::new();
                memory.fail_at(at, failure);
                let mut acknowledged = 0;
                let failed = script(&memory, &mut acknowledged).is_err();
                memory.crash(unsynced);
                let owner = Owner::open(&memory).unwrap();
                let position = owner.spool.consumer("influx").unwrap().position();
                let oldest = owner.spool.usage().oldest;
                let mut noted = [0; 16];
                if let Ok(file) = memory.open(&note, false) {
                    file.read_at(0, &mut noted).unwrap();
                }
                let noted = decode(&noted);
                // It consumed nothing itself: all before its cursor must be in the note, and what
                // is gone from the log behind its cursor is seen by comparing the two.
                let known = position == 0 || (noted[0] == 0 && noted[1] >= position);
                assert!(known, "{failure:?} at {at}, {unsynced:?}: at {position} of {oldest}, noted {noted:?}");
                assert!(failed || position == noted[1]);
                let from = position.max(oldest);
                assert!(read_all(&owner.spool, from).len() as u64 >= acknowledged.saturating_sub(from));
            }
        }
    }
}

#[test]
fn a_closed_log_can_be_opened_by_another_while_its_owner_still_holds_it() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    let consumer = owner.spool.consumer("sink").unwrap();
    owner.append(0).unwrap();
    owner.spool.close();
    assert!(consumer.commit_and_sync(1).is_err());
    let refused = owner.spool.append_and_sync(&encode(&[1]), &mut Vec::new);
    assert_eq!(refused, Err(AppendAndSyncError::Append(AppendError::Closed)));
    let mut next = Owner::open(&memory).unwrap();
    next.append(1).unwrap();
    assert_eq!(next.state, [0, 1]);
}

#[test]
fn a_nearly_full_disk_stops_appends_and_a_freed_one_resumes_them() {
    let memory = Memory::new();
    memory.set_free(50);
    let mut owner = Owner::open_with(&memory, Options { free_bytes_min: 100, ..small() }).unwrap();
    let refused = owner.append(0).unwrap_err();
    assert_eq!(refused, AppendError::Watermark { free: 50, least: 100 }.into());
    memory.set_free(1000);
    owner.append(0).unwrap();
}

#[test]
fn a_disk_that_fills_up_within_a_segment_is_noticed_in_time() {
    let memory = Memory::new();
    let options = Options { free_bytes_min: 100, ..Options::default() };
    let mut owner = Owner::open_with(&memory, options).unwrap();
    owner.append(0).unwrap();
    memory.set_free(50);
    let taken = (1..1000).take_while(|name| owner.append(*name).is_ok()).count();
    assert!(taken < 256, "{taken} entries were taken");
    assert!(matches!(owner.append(1), Err(AppendAndSyncError::Append(AppendError::Watermark { .. }))));
    memory.set_free(1000);
    owner.append(1).unwrap();
}

#[test]
fn what_waits_for_the_disk_counts_and_is_bounded() {
    let bounds = [
        Options { queue_bytes_max: 200, ..small() },
        Options { budget_bytes: 600, ..small() },
        Options { budget_bytes: 600, segment_bytes_max: 10_000, ..small() },
    ];
    for options in bounds {
        let memory = Memory::new();
        let owner = Owner::open_with(&memory, options).unwrap();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let first = Box::new(move |_| gate.lock().unwrap().recv().unwrap());
        owner.spool.append_then(&[0; 8], &mut Vec::new, first).unwrap();
        let append = || owner.spool.append_then(&[0; 8], &mut Vec::new, Box::new(|_| {}));
        let refused = (0..100).find_map(|_| append().err());
        let busy = options.queue_bytes_max == 200;
        assert!(
            matches!((&refused, busy), (Some(AppendError::Busy(_)), true) | (Some(AppendError::Budget { .. }), false)),
            "{refused:?}"
        );
        go.send(()).unwrap();
        drop(owner);
        assert!(Owner::open(&memory).unwrap().spool.usage().bytes <= options.budget_bytes);
    }
}

#[test]
fn an_entry_longer_than_allowed_is_refused() {
    let memory = Memory::new();
    let owner = Owner::open_with(&memory, Options { entry_bytes_max: 8, ..small() }).unwrap();
    owner.spool.append_and_sync(&[0; 8], &mut Vec::new).unwrap();
    let refused = owner.spool.append_and_sync(&[0; 9], &mut Vec::new).unwrap_err();
    assert_eq!(refused, AppendError::TooLong { length: 9, most: 8 }.into());
}

#[test]
fn after_a_failure_the_disk_is_left_alone_for_a_while() {
    let memory = Memory::new();
    let owner = Owner::open_with(&memory, Options { retry_after: Duration::from_secs(3600), ..small() }).unwrap();
    memory.fail_at(0, Failure::Once);
    assert!(matches!(owner.spool.append_and_sync(b"entry", &mut Vec::new), Err(AppendAndSyncError::Sync(_))));
    let before = memory.operations();
    for _ in 0..100 {
        assert_eq!(owner.spool.append_and_sync(b"entry", &mut Vec::new), Err(AppendError::Failed.into()));
    }
    assert_eq!(memory.operations(), before);
}

#[test]
fn a_cursor_that_is_damaged_or_of_another_log_is_none() {
    use spool::Files as _;
    let (here, there) = (Memory::new(), Memory::new());
    for memory in [&here, &there] {
        let mut owner = Owner::open(memory).unwrap();
        let consumer = owner.spool.consumer("sink").unwrap();
        for name in 0..5 {
            owner.append(name).unwrap();
        }
        consumer.commit_and_sync(4).unwrap();
    }
    let path = folder().join("sink.cursor");
    let read = |memory: &Memory| {
        let mut bytes = [0; 25];
        assert_eq!(memory.open(&path, false).unwrap().read_at(0, &mut bytes).unwrap(), 25);
        bytes
    };
    let foreign = read(&there);
    for at in 0..25 {
        let mut damaged = read(&here);
        damaged[at] ^= 1;
        for bytes in [damaged, foreign] {
            let memory = memory_with_copy(&here);
            let file = memory.open(&path, true).unwrap();
            file.write_at(0, &bytes).unwrap();
            file.sync().unwrap();
            let owner = Owner::open(&memory).unwrap();
            assert_eq!(owner.spool.consumer("sink").unwrap().position(), 0, "byte {at}");
        }
    }
}

#[test]
fn a_full_or_read_only_disk_is_an_error_that_passes() {
    for failure in [Failure::Full, Failure::ReadOnly] {
        let memory = Memory::new();
        let mut owner = Owner::open(&memory).unwrap();
        owner.append(0).unwrap();
        memory.fail_at(0, failure);
        assert!(matches!(owner.append(1), Err(AppendAndSyncError::Sync(_))));
        memory.heal();
        owner.append(1).unwrap();
        assert_eq!(read_all(&owner.spool, 0), [0, 1]);
        assert_eq!(owner.spool.usage().failures, 1);
    }
}

#[test]
fn damage_costs_one_entry_and_is_said() {
    let memory = Memory::new();
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let mut owner = Owner::open_with(&memory, options).unwrap();
    for name in 0..10 {
        owner.append(name).unwrap();
    }
    drop(owner);
    let path = segments(&memory).remove(0);
    let (start, entry) = (HEADER + HEAD, HEAD + 8);
    let mut costs = Vec::new();
    for offset in start..start + 10 * entry {
        let memory = memory_with_copy(&memory);
        memory.damage(&path, offset);
        let owner = Owner::open_with(&memory, options).unwrap();
        let lost: Vec<_> = (0..10).filter(|n| !owner.state.contains(n)).collect();
        assert_eq!(lost.len(), 1, "byte {offset} cost {lost:?}");
        assert!(owner.recovery.corrupt.len() == 1 || owner.recovery.torn_bytes == entry as u64, "byte {offset} unsaid");
        costs.push(lost[0]);
    }
    assert!(costs.is_sorted() && costs[0] == 0 && costs.last() == Some(&9));
}

/// The same content in a system of its own.
fn memory_with_copy(from: &Memory) -> Memory {
    use spool::Files as _;
    let to = Memory::new();
    for path in from.names() {
        let file = from.open(&path, false).unwrap();
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let copy = to.create(&path).unwrap();
        copy.write_at(0, &bytes).unwrap();
        copy.sync().unwrap();
    }
    to.sync_dir(&folder()).unwrap();
    to
}

/// What `spool export` would show.
fn exported(memory: &Memory) -> Vec<u64> {
    let mut names = Vec::new();
    read_only(memory, &folder(), &mut |replay| {
        if let Replay::Entry { bytes, .. } = replay {
            names.push(decode(&bytes)[0]);
        }
    })
    .unwrap();
    names
}

/// Appends these while the sync thread is held, so that all are written and synced together;
/// what `before` does happens while they wait. Whether each became durable.
fn append_together(owner: &mut Owner, names: std::ops::Range<u64>, before: impl FnOnce()) -> Vec<bool> {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (held, holding) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let first = Box::new(move |_| {
        held.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
    });
    let state = owner.state.clone();
    owner.spool.append_then(&encode(&[names.start]), &mut || encode(&state), first).unwrap();
    owner.state.push(names.start);
    holding.recv().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    for name in names.start + 1..names.end {
        let (tell, state) = (tell.clone(), owner.state.clone());
        let done = Box::new(move |result: Result<u64, _>| tell.send(result.is_ok()).unwrap());
        owner.spool.append_then(&encode(&[name]), &mut || encode(&state), done).unwrap();
        owner.state.push(name);
    }
    drop(tell);
    before();
    go.send(()).unwrap();
    told.iter().collect()
}

fn segments(memory: &Memory) -> Vec<PathBuf> {
    memory.names().into_iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).collect()
}

#[test]
fn a_damaged_header_costs_nothing_behind_it() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    for name in 0..30 {
        owner.append(name).unwrap();
    }
    drop(owner);
    let middle = segments(&memory).remove(1);
    memory.damage(&middle, 20);
    let owner = Owner::open(&memory).unwrap();
    assert_eq!(owner.state, (0..30).collect::<Vec<_>>());
}

#[test]
fn only_one_may_write_and_anyone_may_read() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    for name in 0..20 {
        owner.append(name).unwrap();
    }
    assert!(matches!(Owner::open(&memory), Err(OpenError::InUse(_))));
    let mut names = Vec::new();
    let summary = read_only(&memory, &folder(), &mut |replay| {
        if let Replay::Entry { bytes, .. } = replay {
            names.push(decode(&bytes)[0]);
        }
    })
    .unwrap();
    assert_eq!(names, (0..20).collect::<Vec<_>>());
    assert!(summary.len() > 1 && summary.iter().all(|s| s.corrupt.is_empty() && s.unfinished_bytes == 0));
}

#[test]
fn a_foreign_or_newer_file_is_refused_and_left_alone() {
    use spool::Files as _;
    for (bytes, newer) in
        [(b"TYSPOOL\0\x03\0\0\0".to_vec(), true), (b"something else entirely here, really".to_vec(), false)]
    {
        let memory = Memory::new();
        Owner::open(&memory).unwrap().append(0).unwrap();
        let path = Path::new("log/00000000000000ff.seg");
        let mut bytes = bytes;
        if newer {
            bytes.resize(40, 0);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..12]), &bytes[16..]).to_le_bytes();
            bytes[12..16].copy_from_slice(&crc);
        }
        let file = memory.create(path).unwrap();
        file.write_at(0, &bytes).unwrap();
        let error = Owner::open(&memory).err().unwrap();
        assert!(matches!((&error, newer), (OpenError::Newer { .. }, true) | (OpenError::Foreign(_), false)), "{error}");
        assert!(memory.names().contains(&path.to_owned()));
    }
}

#[test]
fn a_real_directory_keeps_its_entries_over_ten_openings() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = Vec::new();
    for round in 0..10u64 {
        let mut seen = Vec::new();
        let (spool, recovery) = Spool::open(
            Arc::new(spool::Disk),
            folder.path(),
            Options { free_bytes_min: 0, segment_bytes_max: 500, ..Options::default() },
            Box::new(|| {}),
            &mut |replay| match replay {
                Replay::Checkpoint(bytes) => seen = decode(&bytes),
                Replay::Entry { bytes, .. } => seen.push(decode(&bytes)[0]),
            },
        )
        .unwrap();
        assert_eq!(seen, state);
        assert_eq!(recovery.torn_bytes, 0);
        for name in round * 20..round * 20 + 20 {
            let before = state.clone();
            spool.append_and_sync(&encode(&[name]), &mut || encode(&before)).unwrap();
            state.push(name);
        }
        assert_eq!(read_all(&spool, 0), state);
    }
}

#[test]
fn a_file_cut_or_flipped_anywhere_still_opens() {
    use std::fs;
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let mut seen = Vec::new();
        let options = Options { free_bytes_min: 0, ..Options::default() };
        let (spool, _) = Spool::open(Arc::new(spool::Disk), folder.path(), options, Box::new(|| {}), &mut |replay| {
            if let Replay::Entry { bytes, .. } = replay {
                seen.push(decode(&bytes)[0]);
            }
        })?;
        Ok::<_, OpenError>((spool, seen))
    };
    let (spool, _) = open().unwrap();
    let consumer = spool.consumer("sink").unwrap();
    for name in 0..5 {
        spool.append_and_sync(&encode(&[name]), &mut Vec::new).unwrap();
    }
    drop((spool, consumer));
    let path = folder.path().join("0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (_, seen) = open().unwrap();
        assert!(seen.iter().copied().eq(0..seen.len() as u64), "cut at {cut}: {seen:?}");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        // The log's name stands in its cursors as well: no header is worth more than itself.
        let costs = usize::from(bit / 8 >= HEADER + HEAD);
        match open() {
            Ok((_, seen)) => {
                assert!(seen.is_sorted() && seen.iter().all(|n| *n < 5), "bit {bit}: {seen:?}");
                assert_eq!(seen.len(), 5 - costs, "bit {bit}: {seen:?}");
            }
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
}

#[test]
fn of_a_group_torn_anywhere_only_what_has_all_before_it_is_kept() {
    for count in 2..12 {
        for unsynced in FATES {
            let memory = Memory::new();
            let options = Options { free_bytes_min: 0, ..Options::default() };
            let mut owner = Owner::open_with(&memory, options).unwrap();
            owner.append(0).unwrap();
            // They are written; their sync never comes back.
            let durable = append_together(&mut owner, 1..1 + count, || memory.fail_at(1, Failure::Crash));
            assert!(durable.iter().all(|durable| !durable));
            drop(owner);
            memory.crash(unsynced);
            let owner = Owner::open_with(&memory, options).unwrap();
            let here = format!("{count}, {unsynced:?}: {:?}", owner.state);
            assert!(owner.state.iter().copied().eq(0..owner.state.len() as u64), "a hole; {here}");
            assert!(owner.state.len() >= 2, "what was acknowledged is lost; {here}");
            assert_eq!(owner.recovery.corrupt, [], "torn is not damaged; {here}");
            let torn = matches!(unsynced, Unsynced::Torn | Unsynced::Holed);
            assert_eq!(owner.recovery.torn_bytes > 0, torn, "{here}");
            let kept = owner.state.clone();
            drop(owner);
            // What was cut is cut for good.
            memory.crash(Unsynced::Dropped);
            let mut owner = Owner::open_with(&memory, options).unwrap();
            assert_eq!((&owner.state, owner.recovery.torn_bytes), (&kept, 0), "{here}");
            owner.append(99).unwrap();
            assert_eq!(read_all(&owner.spool, 0), owner.state);
        }
    }
}

#[test]
fn the_last_group_is_cut_at_the_first_of_several_tears() {
    let memory = Memory::new();
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let mut owner = Owner::open_with(&memory, options).unwrap();
    owner.append(0).unwrap();
    append_together(&mut owner, 1..10, || {});
    drop(owner);
    let path = segments(&memory).remove(0);
    for (one, other) in (2..10).flat_map(|one| (one..10).map(move |other| (one, other))) {
        let memory = memory_with_copy(&memory);
        for torn in [one, other] {
            memory.damage(&path, HEADER + HEAD + torn * (HEAD + 8) + HEAD + torn % 8);
        }
        if one == other {
            memory.damage(&path, HEADER + HEAD + one * (HEAD + 8));
        }
        let owner = Owner::open_with(&memory, options).unwrap();
        assert!(owner.state.iter().copied().eq(0..one as u64), "{one}, {other}: {:?}", owner.state);
        assert_eq!((owner.recovery.corrupt.len(), owner.recovery.torn_bytes), (0, ((10 - one) * (HEAD + 8)) as u64));
    }
}

#[test]
fn one_entry_of_a_long_segment_is_read_without_all_before_it() {
    let memory = Memory::new();
    let owner = Owner::open_with(&memory, Options { free_bytes_min: 0, ..Options::default() }).unwrap();
    let long = |n: u64| [encode(&[n]), vec![0; 200]].concat();
    for n in 0..8000 {
        owner.spool.append_then(&long(n), &mut Vec::new, Box::new(|_| {})).unwrap();
    }
    assert!(owner.spool.wait_beyond(7999, Duration::from_secs(60)));
    let read = |index| owner.spool.reader(index).read().unwrap();
    assert_eq!(read(7999), Some(Read::Entry { index: 7999, bytes: long(7999) }));
    for index in (0..8000).step_by(77) {
        let before = memory.bytes_read();
        assert_eq!(read(index), Some(Read::Entry { index, bytes: long(index) }));
        let cost = memory.bytes_read() - before;
        assert!(cost <= 3 * (64 << 10), "{cost} bytes for entry {index}");
    }
}

#[test]
fn a_read_that_fails_is_no_damage_and_costs_nothing() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    for name in 0..20 {
        owner.append(name).unwrap();
    }
    let mut reader = owner.spool.reader(0);
    assert!(matches!(reader.read().unwrap(), Some(Read::Entry { index: 0, .. })));
    memory.fail_reads();
    let mut names = vec![0];
    while let Ok(read) = reader.read() {
        // What was read ahead is still there.
        let Some(Read::Entry { bytes, .. }) = read else { panic!("{read:?}") };
        names.extend(decode(&bytes));
    }
    assert!(reader.read().is_err());
    memory.heal();
    while let Some(Read::Entry { bytes, .. }) = reader.read().unwrap() {
        names.extend(decode(&bytes));
    }
    assert!(names.iter().copied().eq(0..20), "{names:?}");
    drop((owner, reader));
    let before = (memory.names(), memory.operations());
    memory.fail_reads();
    assert!(matches!(Owner::open(&memory), Err(OpenError::Io { .. })));
    assert_eq!((memory.names(), memory.operations()), before);
    memory.heal();
    assert_eq!(Owner::open(&memory).unwrap().state, (0..20).collect::<Vec<_>>());
}

#[test]
fn damage_in_a_group_that_others_followed_costs_one_entry() {
    let memory = Memory::new();
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let mut owner = Owner::open_with(&memory, options).unwrap();
    assert!(append_together(&mut owner, 0..8, || {}).iter().all(|durable| *durable));
    owner.append(8).unwrap();
    owner.append(9).unwrap();
    drop(owner);
    let path = segments(&memory).remove(0);
    for lost in 0..9 {
        let memory = memory_with_copy(&memory);
        memory.damage(&path, HEADER + HEAD + lost * (HEAD + 8) + HEAD);
        let owner = Owner::open_with(&memory, options).unwrap();
        assert!(owner.state.iter().copied().eq((0..10).filter(|n| *n != lost as u64)), "{lost}: {:?}", owner.state);
        assert_eq!((owner.recovery.corrupt.len(), owner.recovery.torn_bytes), (1, 0));
    }
}

#[test]
fn entries_that_wait_while_segments_change_are_all_there_afterwards() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    assert!(append_together(&mut owner, 0..60, || {}).iter().all(|durable| *durable));
    assert!(owner.spool.usage().segments > 4);
    drop(owner);
    memory.crash(Unsynced::Dropped);
    let owner = Owner::open(&memory).unwrap();
    assert_eq!(read_all(&owner.spool, 0), (0..60).collect::<Vec<_>>());
    assert_eq!(owner.state, (0..60).collect::<Vec<_>>());
}

#[test]
fn a_record_of_another_place_or_log_is_no_entry() {
    use spool::Files as _;
    let options = Options { free_bytes_min: 0, ..Options::default() };
    let (here, there) = (Memory::new(), Memory::new());
    for memory in [&here, &there] {
        let mut owner = Owner::open_with(memory, options).unwrap();
        for name in 0..4 {
            owner.append(name + if std::ptr::eq(memory, &there) { 10 } else { 0 }).unwrap();
        }
    }
    let path = segments(&here).remove(0);
    let entry = |n: usize| HEADER + HEAD + n * (HEAD + 8);
    let read = |memory: &Memory, n| {
        let mut bytes = vec![0; HEAD + 8];
        memory.open(&path, false).unwrap().read_at(entry(n) as u64, &mut bytes).unwrap();
        bytes
    };
    for stale in [read(&here, 3), read(&there, 3)] {
        let memory = memory_with_copy(&here);
        let file = memory.open(&path, true).unwrap();
        // Once behind the end, as a recycled block would bring it; once over another entry.
        let at = if stale == read(&here, 3) { entry(4) } else { entry(3) };
        file.write_at(at as u64, &stale).unwrap();
        file.sync().unwrap();
        let owner = Owner::open_with(&memory, options).unwrap();
        assert!(owner.state.iter().copied().eq(0..owner.state.len() as u64), "{:?}", owner.state);
        assert_eq!(owner.recovery.torn_bytes, stale.len() as u64);
    }
}

#[test]
fn an_index_that_a_consumer_has_passed_is_never_given_again() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    let consumer = owner.spool.consumer("sink").unwrap();
    for name in 0..5 {
        owner.append(name).unwrap();
    }
    consumer.commit_and_sync(5).unwrap();
    drop((owner, consumer));
    memory.damage(&segments(&memory).pop().unwrap(), HEADER + HEAD + 4 * (HEAD + 8));
    let mut owner = Owner::open(&memory).unwrap();
    assert_eq!(owner.state, [0, 1, 2, 3]);
    owner.append(5).unwrap();
    let position = owner.spool.consumer("sink").unwrap().position();
    assert_eq!(read_all(&owner.spool, position), [5]);
}

#[test]
fn a_lost_checkpoint_is_made_up_for_by_the_one_before() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    let consumer = owner.spool.consumer("sink").unwrap();
    for name in 0..40 {
        owner.append(name).unwrap();
    }
    consumer.commit_and_sync(40).unwrap();
    drop((owner, consumer));
    assert_eq!(segments(&memory).len(), 2, "what is consumed is let go but for two checkpoints");
    memory.crash(Unsynced::Dropped);
    assert_eq!(segments(&memory).len(), 2, "what was let go stays gone");
    memory.damage(&segments(&memory).pop().unwrap(), HEADER + HEAD);
    let owner = Owner::open(&memory).unwrap();
    assert_eq!(owner.recovery.checkpoints_lost, 1);
    assert_eq!(owner.state, (0..40).collect::<Vec<_>>());
}

#[test]
fn attempts_that_fail_leave_no_files_behind() {
    for at in 0..6 {
        let memory = Memory::new();
        let mut owner = Owner::open(&memory).unwrap();
        for round in 0..5 {
            memory.fail_at(at, Failure::Once);
            assert!(matches!(owner.append(round), Err(AppendAndSyncError::Sync(_))), "operation {at}");
        }
        owner.append(9).unwrap();
        assert_eq!(segments(&memory).len(), owner.spool.usage().segments, "operation {at}");
    }
}

#[test]
fn a_checkpoint_too_long_to_be_read_again_is_refused() {
    let memory = Memory::new();
    let owner = Owner::open(&memory).unwrap();
    let refused = owner.spool.append_and_sync(b"entry", &mut || vec![0; (64 << 20) + 1]).unwrap_err();
    assert!(matches!(refused, AppendAndSyncError::Append(AppendError::TooLong { .. })), "{refused}");
    owner.spool.append_and_sync(b"entry", &mut Vec::new).unwrap();
}

#[test]
fn a_long_checkpoint_does_not_make_a_segment_of_each_entry() {
    let memory = Memory::new();
    let owner = Owner::open(&memory).unwrap();
    for _ in 0..16 {
        owner.spool.append_and_sync(&[7; 9], &mut || vec![0; 1000]).unwrap();
    }
    assert_eq!(owner.spool.usage().segments, 2);
}

#[test]
fn the_lock_is_held_until_the_last_write() {
    let memory = Memory::new();
    let owner = Owner::open(&memory).unwrap();
    let slot = Arc::new(Mutex::new(None));
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let (gate, of, at) = (Mutex::new(gate), Arc::clone(&slot), memory.clone());
    let done = Box::new(move |_| {
        gate.lock().unwrap().recv().unwrap();
        // The last owner lets go on the sync thread, while entries still wait for it.
        drop(of.lock().unwrap().take());
        tell.send(Owner::open(&at).err()).unwrap();
    });
    owner.spool.append_then(b"entry 1", &mut Vec::new, done).unwrap();
    owner.spool.append_then(b"entry 2", &mut Vec::new, Box::new(|_| {})).unwrap();
    *slot.lock().unwrap() = Some(owner);
    go.send(()).unwrap();
    assert!(matches!(told.recv().unwrap(), Some(OpenError::InUse(_))));
}

#[test]
fn a_panic_in_a_callback_closes_the_log_and_leaves_nobody_waiting() {
    let memory = Memory::new();
    let owner = Owner::open(&memory).unwrap();
    owner.spool.append_then(b"entry", &mut Vec::new, Box::new(|_| panic!("as this test wants"))).unwrap();
    let refused = loop {
        match owner.spool.append_and_sync(b"entry", &mut Vec::new) {
            Ok(_) => {}
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, AppendError::Closed.into());
}

#[test]
fn what_a_detached_consumer_misses_is_told_whatever_goes_on_beside_it() {
    let memory = Memory::new();
    let mut owner = Owner::open(&memory).unwrap();
    let (lagging, quick) = (owner.spool.consumer("influx").unwrap(), owner.spool.consumer("history").unwrap());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Relaxed) {
                lagging.detach().unwrap();
                std::thread::yield_now();
                lagging
                    .attach(|missed| {
                        seen.extend(missed);
                        Ok::<_, ReadError>(())
                    })
                    .unwrap();
                let mut reader = lagging.reader();
                for _ in 0..3 {
                    if let Some(Read::Entry { index, .. }) = reader.read().unwrap() {
                        seen.push(index);
                    }
                }
                lagging.commit_and_sync(reader.next_index()).unwrap();
            }
            seen
        });
        for name in 0..3000 {
            // A checkpoint of its own: the state would grow without end.
            owner.spool.append_and_sync(&encode(&[name]), &mut Vec::new).unwrap();
            quick.commit_and_sync(name + 1).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let seen = seen.join().unwrap();
        owner.state = seen;
    });
    let seen = &owner.state;
    assert!(seen.iter().copied().eq(0..seen.len() as u64), "a hole or a double among {} indices", seen.len());
}
