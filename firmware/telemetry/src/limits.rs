//! Bounds that both sides rely on. Each is part of the protocol: raising one is a new version.

/// Channels a node may have; a channel is named by its index.
pub const CHANNELS_MAX: usize = 32;
/// Actuators a node may drive.
pub const ACTUATORS_MAX: usize = 8;
/// Bytes of one record as kept in a node's ring.
pub const RECORD_BYTES_MAX: usize = 512;
/// Bytes of one report as an MQTT payload.
pub const REPORT_BYTES_MAX: usize = 1024;
/// Bytes of one snapshot as an MQTT payload.
pub const SNAPSHOT_BYTES_MAX: usize = 512;
/// Bytes of any session message, receipt or command.
pub const CONTROL_BYTES_MAX: usize = 512;
/// Bytes of a node name.
pub const NODE_NAME_BYTES_MAX: usize = 32;
/// Records a node may have under way beyond the last receipt; the gateway remembers the content
/// of at least as many, so that an honest duplicate is always recognised.
pub const UNRECEIPTED_RECORDS_MAX: u32 = 256;
/// Clock anchors told when a session becomes ready; boots beyond these are dated as estimates.
pub const ANCHORS_MAX: usize = 8;
/// Longest round trip, in milliseconds, from which a node takes the time of day.
pub const CLOCK_ROUND_TRIP_MS_MAX: u32 = 2_000;
/// A node renews its session, and with it its clock, after this many milliseconds.
pub const SESSION_RENEWAL_MS: u64 = 6 * 3_600_000;
/// The drift of a node's clock that is assumed where its description states none, in parts per
/// million: twice what a common 20 ppm crystal does over −20…60 °C.
pub const DRIFT_PPM_DEFAULT: u16 = 40;
