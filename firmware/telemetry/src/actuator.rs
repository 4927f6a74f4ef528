//! Kinds of actuators, by the number that configs and descriptions carry.

macro_rules! kinds {
    ($( $id:literal $variant:ident $name:literal $zh:literal; )*) => {
        /// What an actuator is. The discriminant is the wire's number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ActuatorKind { $( #[doc = $name] $variant = $id, )* }

        impl ActuatorKind {
            /// Every kind.
            pub const ALL: &'static [ActuatorKind] = &[ $( ActuatorKind::$variant, )* ];

            /// The kind of this number; none that this version does not know.
            pub const fn from_id(id: u8) -> Option<Self> {
                match id { $( $id => Some(Self::$variant), )* _ => None }
            }

            /// Its number.
            pub const fn id(self) -> u8 {
                self as u8
            }

            /// Its name, as stored and shown.
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

kinds! {
    1 Aerator "aerator" "增氧机";
    2 Heater "heater" "加热器";
    3 Fan "fan" "风机";
    4 Vent "vent" "通风窗";
    5 CarbonDioxideDoser "co2_doser" "二氧化碳";
    6 Irrigation "irrigation" "灌溉";
    7 Doser "doser" "投药";
    8 Siren "siren" "警报器";
    9 Feeder "feeder" "投饵机";
    10 Lamp "lamp" "补光灯";
    11 Pad "pad" "湿帘";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_number() {
        for &kind in ActuatorKind::ALL {
            assert_eq!(ActuatorKind::from_id(kind.id()), Some(kind));
        }
        assert_eq!(ActuatorKind::from_id(0), None);
    }
}
