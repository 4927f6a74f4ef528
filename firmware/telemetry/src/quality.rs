//! The quality that travels with each value: QARTOD flag, the tests that fired, and why a value
//! is missing.

/// QARTOD's primary flag (IOOS manual for flags, §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// Passed every test that ran.
    Good = 1,
    /// Not evaluated.
    #[default]
    NotEvaluated = 2,
    /// Suspect.
    Suspect = 3,
    /// Failed.
    Fail = 4,
    /// There is no value.
    Missing = 9,
}

impl Flag {
    /// The flag of this number.
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            1 => Self::Good,
            2 => Self::NotEvaluated,
            3 => Self::Suspect,
            4 => Self::Fail,
            9 => Self::Missing,
            _ => return None,
        })
    }

    /// Its number.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Its name in Chinese, as shown.
    pub const fn zh(self) -> &'static str {
        match self {
            Self::Good => "好",
            Self::NotEvaluated => "未检验",
            Self::Suspect => "可疑",
            Self::Fail => "不合格",
            Self::Missing => "缺测",
        }
    }

    /// Roll-up rank, low to high: 9, 2, 1, 3, 4.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::NotEvaluated => 1,
            Self::Good => 2,
            Self::Suspect => 3,
            Self::Fail => 4,
        }
    }

    /// The higher of two in QARTOD's roll-up order.
    #[must_use]
    pub const fn rolled_up(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
}

/// The tests that fired on a value. The node's are bits 0–9, the gateway's 10–15: in separate
/// bits, so that what control saw stays readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tests(u16);

impl Tests {
    /// No test fired.
    pub const NONE: Self = Self(0);
    /// A sample came too late after the one before.
    pub const GAP: Self = Self(1);
    /// The value is no number, or its frame was malformed.
    pub const SYNTAX: Self = Self(1 << 1);
    /// Outside the plausible range.
    pub const GROSS_RANGE: Self = Self(1 << 2);
    /// Changed faster than the property can.
    pub const RATE: Self = Self(1 << 3);
    /// Stands out from its neighbours in time.
    pub const SPIKE: Self = Self(1 << 4);
    /// Unchanged for too long.
    pub const STUCK: Self = Self(1 << 5);
    /// The probe itself said its value is doubtful.
    pub const PROBE: Self = Self(1 << 6);
    /// Taken while the channel was being calibrated.
    pub const CALIBRATING: Self = Self(1 << 7);
    /// Computed from an input that was itself suspect or failed.
    pub const INPUT: Self = Self(1 << 8);
    /// Computed outside the conditions that its formula is exact for, such as un-ionised ammonia of
    /// sea water from a pH in NBS buffers. Only informs, like [`Tests::GAP`].
    pub const CONDITIONS: Self = Self(1 << 9);
    /// Gateway: outside the season's climatology.
    pub const CLIMATOLOGY: Self = Self(1 << 10);
    /// Gateway: deviates from the channel's own recent distribution.
    pub const DEVIATION: Self = Self(1 << 11);
    /// Gateway: disagrees with its neighbours in space.
    pub const NEIGHBOUR: Self = Self(1 << 12);

    /// From the wire's bits.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// To the wire's bits.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` fired.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none fired.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

macro_rules! reasons {
    ($( $(#[$doc:meta])* $id:literal $variant:ident $name:literal $zh:literal; )*) => {
        /// Why there is no value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum MissingReason { $( $(#[$doc])* $variant = $id, )* }

        impl MissingReason {
            /// Every reason.
            pub const ALL: &'static [MissingReason] = &[ $( MissingReason::$variant, )* ];
            /// The reason of this number; one that a newer node gave reads as [`MissingReason::Unknown`].
            pub const fn from_id(id: u8) -> Self {
                match id { $( $id => Self::$variant, )* _ => Self::Unknown }
            }
            /// Its number.
            pub const fn id(self) -> u8 { self as u8 }
            /// Its name, as shown and stored.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }
            /// Its name in Chinese, as shown.
            pub const fn zh(self) -> &'static str {
                match self { $( Self::$variant => $zh, )* }
            }
        }
    };
}

reasons! {
    /// A reason this version does not know.
    0 Unknown "unknown" "未知";
    /// The instrument did not answer within its slot.
    1 NoAnswer "no_answer" "无应答";
    /// Its answer's check sum was wrong.
    2 Crc "crc" "校验错误";
    /// It answered with an exception.
    3 Exception "exception" "设备报错";
    /// It answered with the value that stands for "none".
    4 Sentinel "sentinel" "无读数";
    /// Its raw value is outside what the part can give, such as 3 mA on a 4–20 mA loop.
    5 OutOfRange "out_of_range" "超出量程";
    /// It has not been powered for long enough.
    6 WarmUp "warm_up" "预热中";
    /// The channel is switched off.
    7 Disabled "disabled" "已停用";
    /// The round ended before its turn came.
    8 NotRead "not_read" "未轮到";
    /// The bus or part reported a fault.
    9 Fault "fault" "故障";
    /// It still shows the value it has after power-on.
    10 PowerOnValue "power_on_value" "上电初值";
    /// Bytes came that make no answer.
    11 Garbled "garbled" "乱码";
    /// A value this one is computed from is missing.
    12 Input "input" "输入缺测";
}

/// Flag, tests and, where there is no value, the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quality {
    /// There is a value.
    Present {
        /// Anything but [`Flag::Missing`].
        flag: Flag,
        /// The tests that fired.
        tests: Tests,
    },
    /// There is none.
    Missing(MissingReason),
}

impl Quality {
    /// A value that passed.
    pub const GOOD: Self = Self::Present { flag: Flag::Good, tests: Tests::NONE };

    /// The QARTOD flag.
    pub const fn flag(self) -> Flag {
        match self {
            Self::Present { flag, .. } => flag,
            Self::Missing(_) => Flag::Missing,
        }
    }
}

impl Default for Quality {
    fn default() -> Self {
        Self::GOOD
    }
}
