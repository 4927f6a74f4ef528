//! Observed properties: what a channel measures, in which unit, at which scale, within which
//! plausible range.
//!
//! Limits follow the project's domain page §1 (its proposed defaults); a farm's config may
//! narrow them. The id is the wire's name and the field name is the database's: neither is ever
//! reused or changed.

/// Where a property is observed; the measurement it is stored under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Medium {
    /// Pond, cage or sea water.
    Water,
    /// The air of a greenhouse or a barn.
    Air,
    /// Soil or substrate.
    Soil,
    /// The open sky.
    Weather,
    /// A thing the node switches.
    Actuator,
    /// The node itself.
    Node,
}

impl Medium {
    /// The InfluxDB measurement.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Water => "water",
            Self::Air => "air",
            Self::Soil => "soil",
            Self::Weather => "weather",
            Self::Actuator => "actuator",
            Self::Node => "node",
        }
    }
}

/// What is known of a property besides its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Field name, `snake_case`.
    pub name: &'static str,
    /// Unit by UCUM (`{NTU}` and `[ppm]` where UCUM has none of its own).
    pub unit: &'static str,
    /// The unit as people read it.
    pub symbol: &'static str,
    /// Measurement it is stored under.
    pub medium: Medium,
    /// Decimal digits kept: a value is an integer times 10^-digits.
    pub digits: u8,
    /// Least plausible value; below it the gross range test fails.
    pub min: f32,
    /// Greatest plausible value.
    pub max: f32,
    /// Change over `rate_window_s` seconds above which a value is suspect; 0 = not tested.
    pub rate_max: f32,
    /// Window of `rate_max`, in seconds.
    pub rate_window_s: u32,
    /// Seconds within `stuck_band` after which a value is called stuck; 0 = not tested.
    pub stuck_after_s: u32,
    /// Width within which a value counts as unchanged.
    pub stuck_band: f32,
}

macro_rules! properties {
    ($( $(#[$doc:meta])* $id:literal $variant:ident $name:literal $unit:literal $symbol:literal $zh:literal $en:literal
        $medium:ident $digits:literal $min:literal..$max:literal rate $rate:literal/$window:literal stuck $stuck:literal/$band:literal; )*) => {
        /// An observed property. The discriminant is the wire id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Property { $( #[doc = concat!($en, ", `", $unit, "`")] $(#[$doc])* $variant = $id, )* }

        impl Property {
            /// Every property, by id.
            pub const ALL: &'static [Property] = &[ $( Property::$variant, )* ];

            /// The property with this wire id.
            pub const fn from_id(id: u8) -> Option<Self> {
                match id { $( $id => Some(Property::$variant), )* _ => None }
            }

            /// The property with this field name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $name => Some(Property::$variant), )* _ => None }
            }

            /// Its names for people, Chinese and English. Apart from [`Facts`], because no node shows them.
            pub const fn titles(self) -> (&'static str, &'static str) {
                match self { $( Property::$variant => ($zh, $en), )* }
            }

            /// All that is known of it.
            pub const fn facts(self) -> &'static Facts {
                match self { $( Property::$variant => &Facts {
                    name: $name, unit: $unit, symbol: $symbol, medium: Medium::$medium, digits: $digits,
                    min: $min, max: $max, rate_max: $rate, rate_window_s: $window, stuck_after_s: $stuck, stuck_band: $band,
                }, )* }
            }
        }
    };
}

properties! {
    1  DissolvedOxygen "dissolved_oxygen" "mg/L" "mg/L" "溶解氧" "dissolved oxygen" Water 2 -0.2..25.0 rate 3.0/600 stuck 3600/0.01;
    2  OxygenSaturation "oxygen_saturation" "%" "%" "溶氧饱和度" "oxygen saturation" Water 1 0.0..250.0 rate 0.0/0 stuck 0/0.0;
    3  Ph "ph" "[pH]" "pH" "酸碱度" "pH" Water 2 2.0..12.0 rate 0.5/600 stuck 21600/0.01;
    4  WaterTemperature "water_temperature" "Cel" "°C" "水温" "water temperature" Water 2 -2.0..42.0 rate 2.0/600 stuck 21600/0.01;
    5  Salinity "salinity" "1" "" "盐度" "salinity" Water 2 0.0..42.0 rate 3.0/600 stuck 43200/0.01;
    6  Conductivity "conductivity" "mS/cm" "mS/cm" "电导率" "electrical conductivity" Water 3 0.0..80.0 rate 3.0/600 stuck 43200/0.001;
    7  Conductivity25 "conductivity_25" "mS/cm" "mS/cm" "电导率(25 °C)" "electrical conductivity at 25 °C" Water 3 0.0..80.0 rate 0.0/0 stuck 0/0.0;
    8  Turbidity "turbidity" "{NTU}" "NTU" "浊度" "turbidity" Water 1 0.0..4000.0 rate 0.0/0 stuck 86400/0.1;
    9  TotalAmmonia "total_ammonia" "mg/L" "mg/L" "总氨氮" "total ammonia nitrogen" Water 3 0.0..100.0 rate 0.0/0 stuck 86400/0.001;
    10 UnionizedAmmonia "unionized_ammonia" "mg/L" "mg/L" "非离子氨氮" "un-ionized ammonia nitrogen" Water 4 0.0..50.0 rate 0.0/0 stuck 0/0.0;
    11 Nitrite "nitrite" "mg/L" "mg/L" "亚硝酸盐氮" "nitrite nitrogen" Water 3 0.0..20.0 rate 0.0/0 stuck 0/0.0;
    12 Orp "orp" "mV" "mV" "氧化还原电位" "oxidation-reduction potential" Water 0 -1500.0..1500.0 rate 200.0/600 stuck 43200/1.0;
    13 Level "level" "m" "m" "水位" "water level" Water 3 -10.0..100.0 rate 0.3/600 stuck 604800/0.001;
    14 ChlorophyllA "chlorophyll_a" "ug/L" "µg/L" "叶绿素a" "chlorophyll a" Water 1 0.0..500.0 rate 0.0/0 stuck 86400/0.1;
    15 CurrentSpeed "current_speed" "m/s" "m/s" "流速" "current speed" Water 3 0.0..3.0 rate 0.0/0 stuck 21600/0.001;
    16 WaveHeight "wave_height" "m" "m" "有效波高" "significant wave height" Water 2 0.0..20.0 rate 0.0/0 stuck 0/0.0;
    20 AirTemperature "air_temperature" "Cel" "°C" "气温" "air temperature" Air 2 -20.0..60.0 rate 5.0/300 stuck 10800/0.01;
    21 RelativeHumidity "relative_humidity" "%" "%RH" "相对湿度" "relative humidity" Air 1 0.0..100.0 rate 0.0/0 stuck 0/0.0;
    22 CarbonDioxide "carbon_dioxide" "[ppm]" "ppm" "二氧化碳" "carbon dioxide" Air 0 300.0..10000.0 rate 1000.0/300 stuck 21600/1.0;
    23 Par "par" "umol/(m2.s)" "µmol/(m²·s)" "光合有效辐射" "photosynthetically active radiation" Air 0 0.0..2600.0 rate 0.0/0 stuck 0/0.0;
    24 Illuminance "illuminance" "lx" "lx" "光照度" "illuminance" Air 0 0.0..200000.0 rate 0.0/0 stuck 0/0.0;
    25 VapourPressureDeficit "vapour_pressure_deficit" "kPa" "kPa" "饱和水汽压差" "vapour pressure deficit" Air 3 0.0..20.0 rate 0.0/0 stuck 0/0.0;
    26 DewPoint "dew_point" "Cel" "°C" "露点" "dew point" Air 2 -60.0..60.0 rate 0.0/0 stuck 0/0.0;
    27 AbsoluteHumidity "absolute_humidity" "g/m3" "g/m³" "绝对湿度" "absolute humidity" Air 2 0.0..150.0 rate 0.0/0 stuck 0/0.0;
    30 SoilMoisture "soil_moisture" "%" "%" "土壤含水量" "volumetric water content" Soil 1 0.0..100.0 rate 15.0/600 stuck 604800/0.1;
    31 SoilTemperature "soil_temperature" "Cel" "°C" "土壤温度" "soil temperature" Soil 1 -40.0..80.0 rate 0.0/0 stuck 604800/0.1;
    32 SoilConductivity "soil_conductivity" "uS/cm" "µS/cm" "土壤电导率" "soil electrical conductivity" Soil 0 0.0..20000.0 rate 0.0/0 stuck 0/0.0;
    33 SoilPh "soil_ph" "[pH]" "pH" "土壤酸碱度" "soil pH" Soil 2 3.0..9.0 rate 0.0/0 stuck 0/0.0;
    34 SoilNitrogen "soil_nitrogen" "mg/kg" "mg/kg" "土壤氮" "soil nitrogen" Soil 0 0.0..1999.0 rate 0.0/0 stuck 0/0.0;
    35 SoilPhosphorus "soil_phosphorus" "mg/kg" "mg/kg" "土壤磷" "soil phosphorus" Soil 0 0.0..1999.0 rate 0.0/0 stuck 0/0.0;
    36 SoilPotassium "soil_potassium" "mg/kg" "mg/kg" "土壤钾" "soil potassium" Soil 0 0.0..1999.0 rate 0.0/0 stuck 0/0.0;
    37 SoilSalt "soil_salt" "mg/L" "mg/L" "土壤盐分" "soil salt" Soil 0 0.0..20000.0 rate 0.0/0 stuck 0/0.0;
    40 WindSpeed "wind_speed" "m/s" "m/s" "风速" "wind speed" Weather 2 0.0..60.0 rate 0.0/0 stuck 0/0.0;
    41 WindDirection "wind_direction" "deg" "°" "风向" "wind direction" Weather 0 0.0..360.0 rate 0.0/0 stuck 0/0.0;
    42 WindForce "wind_force" "1" "级" "风力" "wind force (Beaufort)" Weather 0 0.0..17.0 rate 0.0/0 stuck 0/0.0;
    43 Rain "rain" "mm" "mm" "雨量" "rain" Weather 1 0.0..500.0 rate 0.0/0 stuck 0/0.0;
    44 AirPressure "air_pressure" "hPa" "hPa" "气压" "air pressure" Weather 1 500.0..1100.0 rate 0.0/0 stuck 0/0.0;
    45 Pm25 "pm2_5" "ug/m3" "µg/m³" "PM2.5" "particulate matter below 2.5 µm" Weather 0 0.0..1000.0 rate 0.0/0 stuck 0/0.0;
    46 Pm10 "pm10" "ug/m3" "µg/m³" "PM10" "particulate matter below 10 µm" Weather 0 0.0..1000.0 rate 0.0/0 stuck 0/0.0;
    47 SoundLevel "sound_level" "dB" "dB" "噪声" "sound level" Weather 1 0.0..140.0 rate 0.0/0 stuck 0/0.0;
    50 ActuatorState "state" "1" "" "开关状态" "actuator state" Actuator 0 0.0..1.0 rate 0.0/0 stuck 0/0.0;
    51 MotorCurrent "motor_current" "A" "A" "电机电流" "motor current" Actuator 2 0.0..200.0 rate 0.0/0 stuck 0/0.0;
    60 BatteryVoltage "battery_voltage" "V" "V" "电池电压" "battery voltage" Node 3 0.0..60.0 rate 0.0/0 stuck 0/0.0;
    61 SignalStrength "signal_strength" "dBm" "dBm" "信号强度" "signal strength" Node 0 -150.0..0.0 rate 0.0/0 stuck 0/0.0;
    62 Mains "mains" "1" "" "市电" "mains present" Node 0 0.0..1.0 rate 0.0/0 stuck 0/0.0;
    63 Tilt "tilt" "deg" "°" "倾角" "tilt" Node 1 0.0..180.0 rate 0.0/0 stuck 0/0.0;
}

const POW10: [u32; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

impl Property {
    /// The wire id.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The field name.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Measurement it is stored under.
    pub const fn medium(self) -> Medium {
        self.facts().medium
    }

    /// Steps of the kept integer in one unit.
    fn steps(self) -> u32 {
        POW10.get(usize::from(self.facts().digits)).copied().unwrap_or(1)
    }

    /// A value in the property's unit, as the integer that is kept and sent: rounded to the
    /// property's digits, half away from zero. `None` for NaN, infinities and what no `i32` holds.
    pub fn quantize(self, value: f32) -> Option<i32> {
        // In integers, which give what doubles would: a node has none. A float is its 24 bits times a
        // power of two (IEEE 754), and those times at most 10^7 fit 48 bits.
        let bits = value.to_bits();
        let exponent = (bits >> 23 & 0xff) as i32;
        let mantissa = bits & 0x7f_ffff | if exponent > 0 { 0x80_0000 } else { 0 };
        let scaled = u64::from(mantissa) * u64::from(self.steps());
        let size = match exponent.max(1) - 150 {
            // Infinities, NaN, and whole numbers that no `i32` holds.
            9.. => return None,
            left @ 0..=8 => scaled << left,
            right @ -63..=-1 => (scaled + (1 << (-right - 1))) >> -right,
            _ => 0,
        };
        let size = i64::try_from(size).ok()?;
        i32::try_from(if value < 0.0 { -size } else { size }).ok()
    }

    /// The kept integer of a value that [`Property::value`] gave: its inverse.
    pub fn quantize_exact(self, value: f64) -> Option<i32> {
        let scaled = value * f64::from(self.steps());
        if !(scaled > -2_147_483_649.0 && scaled < 2_147_483_648.0) {
            return None;
        }
        Some(if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 } as i32)
    }

    /// The value in the property's unit of a kept integer: the double nearest to the decimal.
    pub fn value(self, quantized: i32) -> f64 {
        f64::from(quantized) / f64::from(self.steps())
    }

    /// The same in single precision, for a node.
    pub fn value_f32(self, quantized: i32) -> f32 {
        quantized as f32 / self.steps() as f32
    }

    /// The factor and offset to the unit SenML calls primary (RFC 8428 §12.1), with its name;
    /// `None` where SenML registers none.
    pub const fn senml(self) -> Option<(&'static str, f64)> {
        Some(match self.facts().unit.as_bytes() {
            b"mg/L" => ("kg/m3", 1e-3),
            b"ug/L" => ("kg/m3", 1e-6),
            b"g/m3" => ("kg/m3", 1e-3),
            b"Cel" => ("Cel", 1.0),
            b"[pH]" => ("pH", 1.0),
            b"{NTU}" => ("NTU", 1.0),
            b"mS/cm" => ("S/m", 0.1),
            b"uS/cm" => ("S/m", 1e-4),
            b"m" => ("m", 1.0),
            b"mm" => ("m", 1e-3),
            b"m/s" => ("m/s", 1.0),
            b"lx" => ("lx", 1.0),
            b"V" => ("V", 1.0),
            b"mV" => ("V", 1e-3),
            b"A" => ("A", 1.0),
            b"hPa" => ("Pa", 100.0),
            b"kPa" => ("Pa", 1e3),
            _ => return None,
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Property {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Property {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Property;
            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("the name of an observed property, such as \"dissolved_oxygen\"")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Property, E> {
                Property::from_name(name).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(name), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_is_found_by_its_id_and_by_its_name() {
        for &p in Property::ALL {
            assert_eq!(Property::from_id(p.id()), Some(p));
            assert_eq!(Property::from_name(p.name()), Some(p));
            assert!(p.facts().min < p.facts().max, "{}", p.name());
        }
    }

    #[test]
    fn quantizing_rounds_to_the_propertys_digits_and_refuses_what_is_no_number() {
        let p = Property::DissolvedOxygen;
        assert_eq!(p.quantize(7.194), Some(719));
        assert_eq!(p.quantize(-0.005_1), Some(-1));
        assert_eq!(p.value(719), 7.19);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9] {
            assert_eq!(p.quantize(bad), None);
        }
    }

    #[test]
    fn anoxic_water_is_plausible() {
        // An emergency must never be filtered away as a bad reading (domain page §0.1).
        assert!(Property::DissolvedOxygen.facts().min < 0.0);
    }
}
