//! Every part that gives a direct input, as one engine: what there is ([`Part`]), and one turn of
//! any of them ([`Driver`]).
//!
//! A board implements [`Buses`]. A node has one [`Driver`] for each part that its config names,
//! starts all of them when a round begins, and polls each when it asks to be. Nothing waits. A part
//! that is dead costs its own turn only, and gives the reason; no value is ever given twice.

mod driver;

pub use driver::{Buses, Driver, NoWire, Source, Step};

use telemetry::Property;

use crate::{bh1750, bme280, ds18b20, ezo, rms, scd4x, sht::Family, tmp105, veml7700};

/// What a part hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// I2C, at an address.
    I2c,
    /// 1-Wire, known by a ROM code or alone.
    OneWire,
    /// A contact input of the board, debounced.
    Contact,
    /// A pulse counter of the board.
    Counter,
    /// An ADC input of the board.
    Adc,
}

/// One of the quantities that a part gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantity {
    /// Its name in a config.
    pub name: &'static str,
    /// The unit it comes in, as [`telemetry::Facts::unit`] writes units.
    pub unit: &'static str,
    /// What it can be the measurement of, in that unit; empty for anything, through the slope of
    /// the config's input.
    pub properties: &'static [Property],
}

macro_rules! parts {
    ($($(#[$doc:meta])* $id:literal $part:ident $name:literal $title:literal $bus:ident $addresses:expr, $ready_ms:expr, $turn_ms:expr,
        [$($quantity:literal $unit:literal $properties:expr),+];)*) => {
        /// A kind of part. Numbers are for ever: config images name parts by them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Part { $( #[doc = $title] $(#[$doc])* $part = $id, )* }

        impl Part {
            /// Every part, by its number.
            pub const ALL: &'static [Part] = &[$(Part::$part),*];

            /// The part of this number.
            pub const fn from_id(id: u8) -> Option<Self> {
                match id { $( $id => Some(Self::$part), )* _ => None }
            }

            /// The part of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $name => Some(Self::$part), )* _ => None }
            }

            /// Its name in a config.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$part => $name, )* }
            }

            /// Maker, type and what it measures.
            pub const fn title(self) -> &'static str {
                match self { $( Self::$part => $title, )* }
            }

            /// What it hangs on.
            pub const fn bus(self) -> Bus {
                match self { $( Self::$part => Bus::$bus, )* }
            }

            /// I2C addresses it can have, the usual one first; empty on other buses.
            pub const fn addresses(self) -> &'static [u8] {
                match self {
                    $( Self::$part => {
                        const ADDRESSES: &[u8] = $addresses;
                        ADDRESSES
                    } )*
                }
            }

            /// What it gives; an input's `quantity` is an index of this.
            pub const fn quantities(self) -> &'static [Quantity] {
                match self { $( Self::$part => &[
                    $(Quantity { name: $quantity, unit: $unit, properties: $properties }),+
                ], )* }
            }

            /// When a sound part has its values, ms from the start of a turn. The first turn of an
            /// SCD4x takes 5.5 s, for it has to be set going.
            pub const fn ready_ms(self) -> u32 {
                match self { $( Self::$part => $ready_ms, )* }
            }

            /// When a turn has ended, whatever the part does, ms from its start.
            pub const fn turn_ms_max(self) -> u32 {
                match self { $( Self::$part => $turn_ms + MARGIN_MS, )* }
            }
        }
    };
}

/// What transactions and late polls may add to a turn, ms.
const MARGIN_MS: u32 = 50;

const TEMPERATURES: &[Property] = &[Property::AirTemperature, Property::WaterTemperature, Property::SoilTemperature];
const CONDUCTIVITIES: &[Property] = &[Property::Conductivity, Property::Conductivity25];

parts! {
    1 Sht4x "sht4x" "Sensirion SHT40/41/45: air temperature and humidity" I2c
        &[0x44, 0x45, 0x46], Family::Sht4x.duration_ms(), Family::Sht4x.duration_ms(),
        ["temperature" "Cel" TEMPERATURES, "humidity" "%" &[Property::RelativeHumidity]];
    2 Sht3x "sht3x" "Sensirion SHT30/31/35: air temperature and humidity" I2c
        &[0x44, 0x45], Family::Sht3x.duration_ms(), Family::Sht3x.duration_ms(),
        ["temperature" "Cel" TEMPERATURES, "humidity" "%" &[Property::RelativeHumidity]];
    3 Scd4x "scd4x" "Sensirion SCD40/41: CO2, air temperature and humidity" I2c
        &[scd4x::ADDRESS], 10, scd4x::TURN_MS_MAX,
        ["co2" "[ppm]" &[Property::CarbonDioxide], "temperature" "Cel" TEMPERATURES,
         "humidity" "%" &[Property::RelativeHumidity]];
    4 Bme280 "bme280" "Bosch BME280: air temperature, humidity and pressure" I2c
        &[bme280::ADDRESS, 0x77], 10, bme280::TURN_MS_MAX,
        ["temperature" "Cel" TEMPERATURES, "humidity" "%" &[Property::RelativeHumidity],
         "pressure" "hPa" &[Property::AirPressure]];
    5 Bh1750 "bh1750" "ROHM BH1750: illuminance" I2c
        &[bh1750::ADDRESS, 0x5C], 365, bh1750::TURN_MS_MAX,
        ["illuminance" "lx" &[Property::Illuminance]];
    6 Veml7700 "veml7700" "Vishay VEML7700/6030: illuminance" I2c
        &[veml7700::ADDRESS, 0x48], veml7700::TURN_MS_MAX, veml7700::TURN_MS_MAX,
        ["illuminance" "lx" &[Property::Illuminance]];
    7 EzoPh "ezo-ph" "Atlas Scientific EZO pH" I2c
        &[ezo::Circuit::Ph.address()], 1_200, ezo::TURN_MS_MAX,
        ["ph" "[pH]" &[Property::Ph]];
    8 EzoDo "ezo-do" "Atlas Scientific EZO D.O.: dissolved oxygen" I2c
        &[ezo::Circuit::Oxygen.address()], 1_500, ezo::TURN_MS_MAX,
        ["oxygen" "mg/L" &[Property::DissolvedOxygen]];
    9 EzoEc "ezo-ec" "Atlas Scientific EZO EC: conductivity" I2c
        &[ezo::Circuit::Conductivity.address()], 900, ezo::TURN_MS_MAX,
        ["conductivity" "mS/cm" CONDUCTIVITIES];
    10 EzoRtd "ezo-rtd" "Atlas Scientific EZO RTD: temperature" I2c
        &[ezo::Circuit::Temperature.address()], 600, ezo::TURN_MS_MAX,
        ["temperature" "Cel" TEMPERATURES];
    11 Tmp105 "tmp105" "TMP105/75/102/275, LM75: temperature" I2c
        &[0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F], tmp105::TURN_MS_MAX, tmp105::TURN_MS_MAX,
        ["temperature" "Cel" TEMPERATURES];
    12 Ds18b20 "ds18b20" "Maxim DS18B20: temperature" OneWire
        &[], ds18b20::TURN_MS_MAX, ds18b20::TURN_MS_MAX,
        ["temperature" "Cel" TEMPERATURES];
    13 Ads1115 "ads1115" "TI ADS1115: four 4–20 mA loops on 100 Ω, or voltages" I2c
        &[0x48, 0x49, 0x4A, 0x4B], 40, 160,
        ["loop-0" "mA" &[], "loop-1" "mA" &[], "loop-2" "mA" &[], "loop-3" "mA" &[],
         "volt-0" "V" &[], "volt-1" "V" &[], "volt-2" "V" &[], "volt-3" "V" &[]];
    14 Contact "contact" "contact: mains present, switch, float" Contact
        &[], 0, 0,
        ["state" "1" &[]];
    15 Pulse "pulse" "pulse counter: rain gauge, flow meter" Counter
        &[], 0, 0,
        ["amount" "1" &[], "rate" "1/s" &[]];
    16 AdcRms "adc-rms" "current clamp on an ADC: proof that a motor runs" Adc
        &[], rms::WINDOW_MS, 2 * rms::WINDOW_MS,
        ["volts" "V" &[]];
}

impl Part {
    /// Its number.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The number of its quantity of this name.
    pub fn quantity(self, name: &str) -> Option<u8> {
        (0..).zip(self.quantities()).find(|(_, it)| it.name == name).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_for_ever() {
        let golden = [
            "sht4x", "sht3x", "scd4x", "bme280", "bh1750", "veml7700", "ezo-ph", "ezo-do", "ezo-ec", "ezo-rtd",
            "tmp105", "ds18b20", "ads1115", "contact", "pulse", "adc-rms",
        ];
        assert_eq!(golden.len(), Part::ALL.len());
        for (id, name) in (1..).zip(golden) {
            let part = Part::from_id(id).unwrap();
            assert_eq!((part.id(), part.name(), Part::from_name(name)), (id, name, Some(part)));
        }
        assert_eq!((Part::from_id(0), Part::from_id(17), Part::from_name("bmp280")), (None, None, None));
    }

    #[test]
    fn quantities_come_in_the_unit_of_what_they_measure() {
        for part in Part::ALL {
            for quantity in part.quantities() {
                for property in quantity.properties {
                    assert_eq!(property.facts().unit, quantity.unit, "{} of {}", quantity.name, part.name());
                }
            }
            assert!(part.ready_ms() <= part.turn_ms_max());
            assert_eq!(part.addresses().is_empty(), part.bus() != Bus::I2c);
        }
        assert_eq!(Part::Bme280.quantity("co2"), None);
        assert_eq!(Part::Bme280.quantity("pressure"), Some(2));
    }
}
