//! A durable log of opaque entries: segments, group commit, cursors.
//!
//! **Goals.** An entry that was told durable is there after any crash, once, in order. What the
//! disk damages costs itself and is said. Everything has a bound, and what exceeds it is refused
//! before it is taken. **Non-goals.** Telemetry (it knows bytes and indices), deletion of single
//! entries, compression, many writers.
//!
//! **Operation.** [`Spool::append_then`] puts entries in a queue in order; one thread writes and
//! `fdatasync`s whatever has queued up and then tells everyone who waits: one sync serves all.
//! Readers see only what is synced. A consumer's cursor is durable by itself; segments go when
//! every attached consumer has committed beyond them, but for the newest two: the checkpoint of
//! the first stands for all that was, and that of the second if the first cannot be read.
//!
//! **Failure.** A write or sync that failed is never tried again on its file. All that was queued
//! is told so, the owner goes back to its durable state, and after a pause the next entry begins
//! a new segment, whose header says where the ones before it ended: what a failed sync may have
//! left behind that point is never shown. Only if the machine stops before such a segment stands
//! can an entry that was *not* acknowledged be found afterwards; owners know entries by name.
//!
//! **Recovery.** Open reads the newest whole checkpoint and tells its owner every entry after it;
//! a damaged record is skipped to the next whole one. Of the last group of entries nobody knows
//! whether its sync was over: it is cut where its first entry is missing, so that no entry is
//! found without those appended before it (a disk writes blocks in any order). I/O errors are
//! errors, never damage. Layout: see `format.rs`.

mod cursor;
pub mod files;
mod format;
mod log;
pub mod memory;
mod reader;
mod recovery;

pub use files::{Disk, Files};
pub use log::{AppendAndSyncError, AppendError, Done, Options, Spool, SyncError, Usage};
pub use reader::{Consumer, Read, ReadError, Reader, SegmentSummary, read_only};
pub use recovery::{OpenError, Recovery, Replay};
