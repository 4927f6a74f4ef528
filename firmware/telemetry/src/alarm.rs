//! The alarms that a node raises itself: bits in a snapshot, events in its ring.

/// An alarm; its number is the bit in a snapshot and the subject of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alarm {
    /// Oxygen is below the critical level of an aerator.
    OxygenCritical = 0,
    /// The channel of a rule, an interlock or a proof cannot be trusted.
    ControlBlind = 1,
    /// The flash does not keep what is written.
    Storage = 2,
    /// An aerator is switched on and does not run, or its coil does not follow.
    NotRunning = 3,
    /// An actuator, or its coil, does not do what it is told: another than an aerator does not go
    /// on, or any does not go off.
    Unproven = 4,
    /// An aerator has run for twenty minutes and oxygen does not rise.
    Ineffective = 5,
    /// Mains is gone.
    MainsLost = 6,
    /// Somebody has switched an actuator by hand.
    Manual = 7,
    /// The channel of a rule is being calibrated.
    Calibrating = 8,
    /// A relay board does not answer, or does not keep its time-out: whatever hangs on it may be otherwise than it is
    /// told.
    RelayBoard = 9,
}

impl Alarm {
    /// Every alarm.
    pub const ALL: [Self; 10] = [
        Self::OxygenCritical,
        Self::ControlBlind,
        Self::Storage,
        Self::NotRunning,
        Self::Unproven,
        Self::Ineffective,
        Self::MainsLost,
        Self::Manual,
        Self::Calibrating,
        Self::RelayBoard,
    ];

    /// Those that sound the siren: the animals have no time to lose.
    pub const CRITICAL: u32 = Self::OxygenCritical.bit() | Self::NotRunning.bit() | Self::MainsLost.bit();

    /// Its bit.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Its name, as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OxygenCritical => "oxygen_critical",
            Self::ControlBlind => "control_blind",
            Self::Storage => "storage",
            Self::NotRunning => "not_running",
            Self::Unproven => "unproven",
            Self::Ineffective => "ineffective",
            Self::MainsLost => "mains_lost",
            Self::Manual => "manual",
            Self::Calibrating => "calibrating",
            Self::RelayBoard => "relay_board",
        }
    }

    /// Its name in Chinese, as shown.
    pub const fn zh(self) -> &'static str {
        match self {
            Self::OxygenCritical => "溶氧危急",
            Self::ControlBlind => "控制失去依据",
            Self::Storage => "存储故障",
            Self::NotRunning => "增氧机未运转",
            Self::Unproven => "设备未按指令动作",
            Self::Ineffective => "增氧无效",
            Self::MainsLost => "市电中断",
            Self::Manual => "现场手动",
            Self::Calibrating => "校准中",
            Self::RelayBoard => "继电器板失联",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alarm_stands_at_its_own_bit() {
        for (bit, alarm) in (0u32..).zip(Alarm::ALL) {
            assert_eq!(alarm.bit(), 1 << bit);
        }
    }
}
