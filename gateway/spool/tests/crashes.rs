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

const FATES: [Unsynced; 3] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];

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
    recovery: Recovery,
}

impl Owner {
    fn open(memory: &Memory) -> Result<Self, OpenError> {
        Self::open_with(memory, small())
    }

    fn open_with(memory: &Memory, options: Options) -> Result<Self, OpenError> {
        let mut state = Vec::new();
        let (spool, recovery) =
            Spool::open(Arc::new(memory.clone()), &folder(), options, Box::new(|| {}), &mut |replay| match replay {
                Replay::Checkpoint(bytes) => state = decode(&bytes),
                Replay::Entry { bytes, .. } => {
                    let name = decode(&bytes)[0];
                    // Entries are known by name: one that was sent again is the same.
                    if !state.contains(&name) {
                        state.push(name);
                    }
                }
            })?;
        Ok(Self { spool, state, recovery })
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
    quick.commit_and_sync(40).unwrap();
    let oldest = owner.spool.usage().oldest;
    assert!(oldest > 30, "{oldest}");
    drop((owner, lagging, quick));
    let owner = Owner::open(&memory).unwrap();
    let lagging = owner.spool.consumer("influx").unwrap();
    assert!(!lagging.attached());
    let mut told = None;
    let failed: Result<(), ReadError> = lagging.attach(|_| Err(ReadError::Header(PathBuf::new())));
    assert!(failed.is_err() && !lagging.attached() && lagging.position() == 0, "without a note nothing changes");
    let note = |missed| {
        told = Some(missed);
        Ok::<_, ReadError>(())
    };
    lagging.attach(note).unwrap();
    assert_eq!(told, Some(0..oldest));
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
    let length = 40 + 24 + 10 * 32;
    let mut costs = Vec::new();
    for offset in 40 + 24..length {
        let memory = memory_with_copy(&memory);
        memory.damage(&path, offset);
        let owner = Owner::open_with(&memory, options).unwrap();
        let lost: Vec<_> = (0..10).filter(|n| !owner.state.contains(n)).collect();
        assert_eq!(lost.len(), 1, "byte {offset} cost {lost:?}");
        assert!(owner.recovery.corrupt.len() == 1 || owner.recovery.torn_bytes == 32, "byte {offset} unsaid");
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
    let summary = read_only(&memory, &folder(), &mut |_, bytes| names.push(decode(bytes)[0])).unwrap();
    assert_eq!(names, (0..20).collect::<Vec<_>>());
    assert!(summary.len() > 1 && summary.iter().all(|s| s.corrupt.is_empty() && s.unfinished_bytes == 0));
}

#[test]
fn a_foreign_or_newer_file_is_refused_and_left_alone() {
    use spool::Files as _;
    for (bytes, newer) in
        [(b"TYSPOOL\0\x02\0\0\0".to_vec(), true), (b"something else entirely here, really".to_vec(), false)]
    {
        let memory = Memory::new();
        Owner::open(&memory).unwrap().append(0).unwrap();
        let path = Path::new("log/00000000000000ff.seg");
        let mut bytes = bytes;
        if newer {
            bytes.resize(40, 0);
            let crc = crc32c::crc32c(&bytes[16..]).to_le_bytes();
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
    for name in 0..5 {
        spool.append_and_sync(&encode(&[name]), &mut Vec::new).unwrap();
    }
    drop(spool);
    let path = folder.path().join("0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (_, seen) = open().unwrap();
        assert!(seen.iter().copied().eq(0..seen.len() as u64), "cut at {cut}: {seen:?}");
    }
    for bit in 12 * 8..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        match open() {
            Ok((_, seen)) => assert!(seen.is_sorted() && seen.iter().all(|n| *n < 5), "bit {bit}: {seen:?}"),
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
}
