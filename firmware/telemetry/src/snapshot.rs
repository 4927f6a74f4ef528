//! Snapshots: the newest values, actuator states and alarms, sent at once and never stored.

use minicbor::decode::Decoder;

use crate::cbor::{self, Malformed, TooLong};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::record::Round;
use crate::rounds::{RoundsReader, RoundsWriter};

/// The state of a node at an instant: `[version, boot, sent_ms, round, actuators, alarms]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its current boot.
    pub boot: u16,
    /// Milliseconds since boot at sending.
    pub sent_ms: u64,
    /// The newest value of each channel; `t_ms` is when the newest of them was taken.
    pub round: Round,
    /// Bit n: actuator n is on, as read back where it can be.
    pub actuators: u8,
    /// Bit n: the node's own alarm n is active.
    pub alarms: u32,
}

impl Snapshot {
    /// Encodes it.
    #[inline(never)]
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        let capacity = buffer.len();
        let too_long = TooLong { capacity };
        let mut packed = [0; SNAPSHOT_BYTES_MAX];
        let mut writer = RoundsWriter::new(self.sent_ms);
        writer.push(&mut packed, &self.round).map_err(|_| too_long)?;
        let length = writer.finish(&mut packed).map_err(|_| too_long)?;
        cbor::encode(buffer, |e| {
            e.array(6)?.u8(crate::VERSION)?.u16(self.boot)?.u64(self.sent_ms)?;
            e.bytes(packed.get(..length).unwrap_or_default())?.u8(self.actuators)?.u32(self.alarms)?;
            Ok(())
        })
    }

    /// Decodes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(Malformed::Limit);
        }
        let mut d = Decoder::new(bytes);
        let length = cbor::versioned(&mut d, 6)?;
        let (boot, sent_ms) = (d.u16()?, d.u64()?);
        let mut rounds = RoundsReader::new(d.bytes()?, sent_ms);
        let mut round = Round::default();
        rounds.next_into(&mut round).ok_or(Malformed::Shape)?.map_err(|_| Malformed::Shape)?;
        if !rounds.is_at_end() {
            return Err(Malformed::Shape);
        }
        let (actuators, alarms) = (d.u8()?, d.u32()?);
        cbor::skip(&mut d, length - 6)?;
        if d.position() != bytes.len() {
            return Err(Malformed::Shape);
        }
        Ok(Self { boot, sent_ms, round, actuators, alarms })
    }
}
