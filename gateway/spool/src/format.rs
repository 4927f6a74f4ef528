//! The bytes on disk. Everything is little-endian.
//!
//! A segment file is named by the index of its first entry, 16 hexadecimal digits and `.seg`:
//!
//! ```text
//! header      magic "TYSPOOL\0" · format u32 · crc u32 of format and what follows · spool u64 · first u64 · valid_before u64
//! checkpoint  one record of kind 1: whatever the owner needs to know of all that came before
//! entries     records of kind 0
//! record      mark u32 · kind and length u32 · index u64 · back u32 · head crc u32 · body crc u32 · body
//! ```
//!
//! The head's CRC-32C covers spool, file offset, kind, length, index and back, so that neither a
//! stale block nor a record of another log or place is ever taken for one of this place.
//! `valid_before` says where the segments before this one ended: what an earlier segment holds at
//! or beyond that index was never acknowledged (its sync failed) and is passed over. `back` says
//! how many entries before this one were written and synced together with it: of the last such
//! group nobody knows whether its sync was over, and a disk may have kept the end of it and lost
//! the beginning.

use std::io;

use crate::files::LogFile;

/// First bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"TYSPOOL\0";
/// Version of the format. (1 was never released.)
pub(crate) const FORMAT: u32 = 2;
/// Bytes of a segment's header.
pub(crate) const HEADER: usize = 40;
/// Bytes of a record's head.
pub(crate) const HEAD: usize = 28;
const MARK: u32 = 0x7E59_A11D;
const CHECKPOINT_BIT: u32 = 1 << 31;
/// Longest body any version may write; longer lengths are not believed.
pub(crate) const BODY_MAX: u32 = 64 << 20;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) spool: u64,
    pub(crate) first: u64,
    pub(crate) valid_before: u64,
}

/// What a header turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderRead {
    Fine(Header),
    /// Too short, or its CRC is wrong: never completely written, or damaged.
    Broken,
    Newer(u32),
    Foreign,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.spool.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.valid_before.to_le_bytes());
        let crc = Self::crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn crc(bytes: &[u8; HEADER]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[8..12]), &bytes[16..])
    }

    pub(crate) fn read(file: &dyn LogFile) -> io::Result<HeaderRead> {
        let mut bytes = [0; HEADER];
        let read = file.read_at(0, &mut bytes)?;
        let (format, crc) = (u32_at(&bytes, 8), u32_at(&bytes, 12));
        // A whole header but for its magic has been damaged just there.
        if read < HEADER || Self::crc(&bytes) != crc {
            let known = read.min(8);
            let foreign = bytes[..known] != MAGIC[..known] && bytes[..known].iter().any(|b| *b != 0);
            return Ok(if foreign { HeaderRead::Foreign } else { HeaderRead::Broken });
        }
        if format != FORMAT {
            return Ok(HeaderRead::Newer(format));
        }
        Ok(HeaderRead::Fine(Self {
            spool: u64_at(&bytes, 16),
            first: u64_at(&bytes, 24),
            valid_before: u64_at(&bytes, 32),
        }))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn head_crc(spool: u64, offset: u64, length: u32, index: u64, back: u32) -> u32 {
    let mut covered = [0; 32];
    covered[..8].copy_from_slice(&spool.to_le_bytes());
    covered[8..16].copy_from_slice(&offset.to_le_bytes());
    covered[16..20].copy_from_slice(&length.to_le_bytes());
    covered[20..28].copy_from_slice(&index.to_le_bytes());
    covered[28..32].copy_from_slice(&back.to_le_bytes());
    crc32c::crc32c(&covered)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Checkpoint,
    /// An entry, of a group that began so many entries before it.
    Entry {
        back: u32,
    },
}

/// Appends a record that will stand at `offset` of its file.
pub(crate) fn encode_record(out: &mut Vec<u8>, spool: u64, offset: u64, index: u64, kind: Kind, body: &[u8]) {
    let (bit, back) = match kind {
        Kind::Checkpoint => (CHECKPOINT_BIT, 0),
        Kind::Entry { back } => (0, back),
    };
    let length = body.len() as u32 | bit;
    out.extend_from_slice(&MARK.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&back.to_le_bytes());
    out.extend_from_slice(&head_crc(spool, offset, length, index, back).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Checkpoint(Vec<u8>),
    Entry {
        index: u64,
        /// Index of the first entry that was written and synced together with it.
        group: u64,
        body: Vec<u8>,
    },
    /// Bytes that are no record, up to the next one.
    Corrupt {
        offset: u64,
        bytes: u64,
    },
    /// Bytes that are no record, up to the end.
    Torn {
        offset: u64,
        bytes: u64,
    },
    End,
}

/// Reads a segment from front to back.
pub(crate) struct Scan {
    spool: u64,
    offset: u64,
    /// Bytes of the file from `at` on.
    buffer: Vec<u8>,
    at: u64,
    /// Nothing has been given out of the buffer since it was last read anew.
    fresh: bool,
}

impl Scan {
    pub(crate) fn new(spool: u64) -> Self {
        Self { spool, offset: HEADER as u64, buffer: Vec::new(), at: 0, fresh: true }
    }

    /// The first byte not yet read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&mut self, file: &dyn LogFile, offset: u64, length: usize) -> io::Result<&[u8]> {
        let inside = offset >= self.at && offset + length as u64 <= self.at + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(length.max(CHUNK), 0);
            self.at = offset;
            match file.read_at(offset, &mut self.buffer) {
                Ok(read) => self.buffer.truncate(read),
                Err(error) => {
                    // Nothing was read: what stands in the buffer is not the file's.
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        let start = (offset - self.at) as usize;
        let end = (start + length).min(self.buffer.len());
        Ok(&self.buffer[start.min(end)..end])
    }

    /// Goes back to an offset that [`Scan::offset`] gave.
    pub(crate) fn back_to(&mut self, offset: u64) {
        self.offset = offset;
        self.fresh = false;
    }

    /// Whether what was read ahead may be older than what the file holds by now.
    pub(crate) fn stale(&self) -> bool {
        !self.fresh
    }

    /// Forgets what was read ahead: the file may have grown.
    pub(crate) fn refresh(&mut self) {
        self.buffer.clear();
        self.fresh = true;
    }

    /// The record at `offset`, if a whole one stands there.
    fn record(&mut self, file: &dyn LogFile, offset: u64) -> io::Result<Option<(Item, u64)>> {
        let spool = self.spool;
        let head = self.bytes(file, offset, HEAD)?;
        if head.len() < HEAD || u32_at(head, 0) != MARK {
            return Ok(None);
        }
        let (length, index, back) = (u32_at(head, 4), u64_at(head, 8), u32_at(head, 16));
        let (crc, body_crc) = (u32_at(head, 20), u32_at(head, 24));
        let size = length & !CHECKPOINT_BIT;
        if size > BODY_MAX || crc != head_crc(spool, offset, length, index, back) {
            return Ok(None);
        }
        let body = self.bytes(file, offset + HEAD as u64, size as usize)?;
        if body.len() < size as usize || crc32c::crc32c(body) != body_crc {
            return Ok(None);
        }
        let body = body.to_vec();
        let group = index.saturating_sub(back.into());
        let item =
            if length & CHECKPOINT_BIT != 0 { Item::Checkpoint(body) } else { Item::Entry { index, group, body } };
        Ok(Some((item, offset + HEAD as u64 + u64::from(size))))
    }

    /// The next item. A corrupt record is confined: reading goes on at the next whole one.
    pub(crate) fn next(&mut self, file: &dyn LogFile) -> io::Result<Item> {
        if let Some((item, end)) = self.record(file, self.offset)? {
            self.offset = end;
            self.fresh = false;
            return Ok(item);
        }
        let length = file.length()?;
        let start = self.offset;
        if start >= length {
            return Ok(Item::End);
        }
        let mut at = start + 1;
        while at + HEAD as u64 <= length {
            let window = self.bytes(file, at, CHUNK)?;
            match window.windows(4).position(|w| w == MARK.to_le_bytes()) {
                Some(skip) => {
                    at += skip as u64;
                    if self.record(file, at)?.is_some() {
                        self.offset = at;
                        return Ok(Item::Corrupt { offset: start, bytes: at - start });
                    }
                    at += 1;
                }
                None if window.len() > 3 => at += window.len() as u64 - 3,
                None => break,
            }
        }
        Ok(Item::Torn { offset: start, bytes: length - start })
    }
}

/// The file name of the segment whose first entry is `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:016x}.seg")
}

/// The first index that a file name says, if it is a segment's.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
