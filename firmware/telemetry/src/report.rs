//! Reports: any run of consecutive records of one boot, behind an envelope that no version
//! changes.
//!
//! `[ring, first, count, boot, sent_ms, version, segment…, crc]`: a CBOR array of at most 23
//! items. Ring, first seq, count, boot, send stamp and version stand first and the CRC-32C of
//! everything before it, as a four-byte string, stands last, in every version for ever. A gateway can therefore name, keep and
//! receipt what it cannot yet read.

use minicbor::data::Type;
use minicbor::decode::Decoder;

use crate::cbor::{self, Malformed, TooLong};
use crate::limits::{REPORT_BYTES_MAX, UNRECEIPTED_RECORDS_MAX};
use crate::record::{self, Record, Round};
use crate::rounds::{RoundsReader, RoundsWriter};

/// CRC-32C (Castagnoli), as iSCSI has it.
static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
const CRC_ITEM: usize = 5;
const FIXED_ITEMS: u8 = 7;
/// Segments in one report: what still fits a one-byte array head.
const SEGMENTS_MAX: u8 = 23 - FIXED_ITEMS;

/// The check sum that stands for a record's content (see [`Record::encode`]).
pub fn digest(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// The same over `head` and then `tail`, without room for both in one piece.
pub fn digest_of_both(head: &[u8], tail: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(head);
    digest.update(tail);
    digest.finalize()
}

/// The same, piece by piece.
#[derive(Clone)]
pub struct Digest(crc::Digest<'static, u32>);

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Digest")
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self(CRC.digest())
    }
}

impl Digest {
    /// Adds what follows.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The check sum of all that was added.
    pub fn finalize(self) -> u32 {
        self.0.finalize()
    }
}

/// What every version of a report says in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The ring its records are named in.
    pub ring: u32,
    /// Seq of the first record.
    pub first: u32,
    /// How many consecutive seqs it covers.
    pub count: u32,
    /// The boot in whose clock the records' times are.
    pub boot: u16,
    /// When it was sent: milliseconds since the sender's current boot.
    pub sent_ms: u64,
    /// Version of the segments.
    pub version: u8,
}

/// A report, checked as far as its envelope.
#[derive(Clone, Debug)]
pub struct Report<'b> {
    /// What it covers.
    pub envelope: Envelope,
    segments: &'b [u8],
    items: u64,
}

/// Why bytes are no report.
pub type ReportError = Malformed;

impl<'b> Report<'b> {
    /// Checks length, check sum and envelope. A newer version is no error here: look at
    /// `envelope.version`, or let [`Report::records`] refuse it.
    pub fn decode(payload: &'b [u8]) -> Result<Self, Malformed> {
        if payload.len() > REPORT_BYTES_MAX {
            return Err(Malformed::Limit);
        }
        let (rest, crc) = payload.split_last_chunk::<4>().ok_or(Malformed::Shape)?;
        let (head, mark) = rest.split_at_checked(rest.len().wrapping_sub(1)).ok_or(Malformed::Shape)?;
        if mark != [0x44] {
            return Err(Malformed::Shape);
        }
        if CRC.checksum(head) != u32::from_be_bytes(*crc) {
            return Err(Malformed::Checksum);
        }
        let mut d = Decoder::new(head);
        let length = cbor::array(&mut d, u64::from(FIXED_ITEMS))?;
        let envelope = Envelope {
            ring: d.u32()?,
            first: d.u32()?,
            count: d.u32()?,
            boot: d.u16()?,
            sent_ms: d.u64()?,
            version: d.u8()?,
        };
        let last = envelope.count.checked_sub(1).and_then(|n| envelope.first.checked_add(n));
        if last.is_none() || envelope.version == 0 {
            return Err(Malformed::Shape);
        }
        if envelope.count > UNRECEIPTED_RECORDS_MAX {
            return Err(Malformed::Limit);
        }
        let segments = head.get(d.position()..).ok_or(Malformed::Shape)?;
        Ok(Self { envelope, segments, items: length - u64::from(FIXED_ITEMS) })
    }

    /// The records, in order of seq; as many as the envelope counts, or an error at the first
    /// that cannot be read.
    pub fn records(&self) -> Records<'b> {
        Records {
            decoder: Decoder::new(self.segments),
            items: self.items,
            reference_ms: self.envelope.sent_ms,
            left: self.envelope.count,
            run: None,
            gone: 0,
            newer: (self.envelope.version > crate::VERSION).then_some(self.envelope.version),
            failed: false,
        }
    }
}

/// Iterator over a report's records.
#[derive(Clone)]
pub struct Records<'b> {
    decoder: Decoder<'b>,
    items: u64,
    reference_ms: u64,
    left: u32,
    run: Option<RoundsReader<'b>>,
    gone: u32,
    newer: Option<u8>,
    failed: bool,
}

impl Records<'_> {
    fn step(&mut self) -> Result<Option<Record>, Malformed> {
        if let Some(version) = self.newer {
            return Err(Malformed::Newer(version));
        }
        loop {
            if self.gone > 0 {
                self.gone -= 1;
                return Ok(Some(Record::Gone));
            }
            if let Some(run) = &mut self.run {
                let mut round = Round::default();
                match run.next_into(&mut round) {
                    Some(Ok(())) => return Ok(Some(Record::Round(round))),
                    Some(Err(_)) => return Err(Malformed::Shape),
                    None => self.run = None,
                }
            }
            if self.items == 0 {
                return if self.decoder.position() == self.decoder.input().len() {
                    Ok(None)
                } else {
                    Err(Malformed::Shape)
                };
            }
            self.items -= 1;
            if self.decoder.datatype()? == Type::Bytes {
                self.run = Some(RoundsReader::new(self.decoder.bytes()?, self.reference_ms));
                continue;
            }
            let mut record = Record::Gone;
            let count = record::decode_segment(&mut self.decoder, &mut record)?;
            if record == Record::Gone {
                self.gone = count.min(self.left);
                continue;
            }
            return Ok(Some(record));
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match (self.step(), self.left) {
            (Ok(None), 0) => return None,
            (Ok(Some(record)), 1..) => {
                self.left -= 1;
                return Some(Ok(record));
            }
            (Err(error), _) => error,
            // More or fewer records than the envelope counts.
            (Ok(_), _) => Malformed::Shape,
        };
        self.failed = true;
        Some(Err(result))
    }
}

/// Writes a report record by record, as far as they fit.
pub struct ReportWriter<'b> {
    buffer: &'b mut [u8],
    /// End of the closed segments.
    at: usize,
    envelope: Envelope,
    segments: u8,
    run: Option<RoundsWriter>,
}

/// Room kept in front for the longest head: array, ring, first, count, boot, sent, version.
const HEAD_MAX: usize = 1 + 5 + 5 + 3 + 3 + 9 + 1;
/// Room kept in front of a run for the longest string head.
const RUN_HEAD_MAX: usize = 3;

/// The record does not fit into this report: send it and begin another with this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the report is full")]
pub struct ReportFull;

impl<'b> ReportWriter<'b> {
    /// Begins a report of records of `boot`, the first of them named `first`. What is written
    /// never exceeds the buffer nor [`REPORT_BYTES_MAX`].
    pub fn new(buffer: &'b mut [u8], ring: u32, first: u32, boot: u16, sent_ms: u64) -> Self {
        let room = buffer.len().min(REPORT_BYTES_MAX);
        let envelope = Envelope { ring, first, count: 0, boot, sent_ms, version: crate::VERSION };
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        Self { buffer, at: HEAD_MAX, envelope, segments: 0, run: None }
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.envelope.count
    }

    /// Adds the next record, or leaves the report as it was.
    pub fn push(&mut self, record: &Record) -> Result<(), ReportFull> {
        if self.envelope.count == UNRECEIPTED_RECORDS_MAX {
            return Err(ReportFull);
        }
        match record {
            Record::Round(round) => self.push_round(round)?,
            other => self.push_segment(other)?,
        }
        self.envelope.count += 1;
        Ok(())
    }

    fn push_round(&mut self, round: &Round) -> Result<(), ReportFull> {
        let end = self.buffer.len().saturating_sub(CRC_ITEM);
        let fresh = self.run.is_none();
        if fresh && self.segments == SEGMENTS_MAX {
            return Err(ReportFull);
        }
        let space = self.buffer.get_mut(self.at + RUN_HEAD_MAX..end).ok_or(ReportFull)?;
        let run = self.run.get_or_insert_with(|| RoundsWriter::new(self.envelope.sent_ms));
        let result = run.push(space, round).map_err(|_| ReportFull);
        if fresh {
            match result {
                Ok(()) => self.segments += 1,
                Err(_) => self.run = None,
            }
        }
        result
    }

    fn push_segment(&mut self, record: &Record) -> Result<(), ReportFull> {
        let end = self.buffer.len().saturating_sub(CRC_ITEM);
        // Measure first: a run is closed only for a segment that fits behind it.
        let open = self.run.as_ref().map_or(0, |run| RUN_HEAD_MAX + run.bytes());
        if self.segments == SEGMENTS_MAX {
            return Err(ReportFull);
        }
        let space = self.buffer.get_mut(self.at + open..end).ok_or(ReportFull)?;
        let length = record::encode_segment(record, space).map_err(|_| ReportFull)?;
        let from = self.at + open;
        self.close_run().map_err(|_| ReportFull)?;
        self.move_down(from, length, self.at).map_err(|_| ReportFull)?;
        self.at += length;
        self.segments += 1;
        Ok(())
    }

    fn close_run(&mut self) -> Result<(), TooLong> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let capacity = self.buffer.len();
        let start = self.at + RUN_HEAD_MAX;
        let too_long = TooLong { capacity };
        let length = run.finish(self.buffer.get_mut(start..).ok_or(too_long)?).map_err(|_| too_long)?;
        let head = cbor::encode(self.buffer.get_mut(self.at..start).ok_or(too_long)?, |e| {
            e.bytes_len(length as u64)?;
            Ok(())
        })?;
        self.move_down(start, length, self.at + head)?;
        self.at += head + length;
        Ok(())
    }

    /// Writes envelope and check sum; the report is the buffer's first bytes, as many as returned.
    ///
    /// # Errors
    /// With a buffer too small for any report.
    pub fn finish(mut self) -> Result<usize, TooLong> {
        let capacity = self.buffer.len();
        self.close_run()?;
        let v = self.envelope;
        let items = u64::from(FIXED_ITEMS + self.segments);
        let head_room = self.buffer.get_mut(..HEAD_MAX).ok_or(TooLong { capacity })?;
        let head = cbor::encode(head_room, |e| {
            e.array(items)?.u32(v.ring)?.u32(v.first)?.u32(v.count)?.u16(v.boot)?.u64(v.sent_ms)?.u8(v.version)?;
            Ok(())
        })?;
        let length = self.at.saturating_sub(HEAD_MAX);
        self.move_down(HEAD_MAX, length, head)?;
        let (content, rest) = self.buffer.split_at_mut_checked(head + length).ok_or(TooLong { capacity })?;
        let [c0, c1, c2, c3] = CRC.checksum(content).to_be_bytes();
        *rest.first_chunk_mut::<CRC_ITEM>().ok_or(TooLong { capacity })? = [0x44, c0, c1, c2, c3];
        Ok(head + length + CRC_ITEM)
    }

    /// Moves bytes towards the front.
    fn move_down(&mut self, from: usize, length: usize, to: usize) -> Result<(), TooLong> {
        let too_long = TooLong { capacity: self.buffer.len() };
        for n in 0..length {
            let byte = *self.buffer.get(from + n).ok_or(too_long)?;
            *self.buffer.get_mut(to + n).ok_or(too_long)? = byte;
        }
        Ok(())
    }
}
