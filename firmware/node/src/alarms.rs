//! The node's own alarms: bits in a snapshot, events in the ring.

/// An alarm; its number is the bit in a snapshot and the subject of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alarm {
    /// Oxygen is below the critical level of an aerator.
    OxygenCritical = 0,
    /// An actuator stands in its safe state because its channel cannot be trusted.
    ControlBlind = 1,
    /// The flash does not keep what is written.
    Storage = 2,
}

impl Alarm {
    /// Every alarm.
    pub const ALL: [Self; 3] = [Self::OxygenCritical, Self::ControlBlind, Self::Storage];

    /// Its bit.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}
