//! Atlas EZO circuits.

use sensors::part::Part;
use telemetry::Property;

use super::{Chip, Nack, Seen};
use crate::world::oxygen_saturation_mg_l;

pub(super) struct Ezo {
    part: Part,
    temperature: Property,
    told_c: f64,
    told_salinity: f64,
    told_kpa: f64,
    /// From when on, status, and text.
    answer: Option<(u64, u8, String)>,
}

impl Ezo {
    pub(super) fn new(part: Part, temperature: Property) -> Self {
        let told_c = if part == Part::EzoDo { 20.0 } else { 25.0 };
        Self { part, temperature, told_c, told_salinity: 0.0, told_kpa: 101.3, answer: None }
    }

    /// What it reads, as it writes it: right when it was told what is true.
    fn reading(&self, seen: &Seen<'_>) -> String {
        let true_c = seen.value(self.temperature);
        match self.part {
            Part::EzoPh => {
                // The electrode's slope is in proportion to the absolute temperature.
                let off = (seen.value(Property::Ph) - 7.0) * (true_c + 273.15) / (self.told_c + 273.15);
                format!("{:.3}", 7.0 + off)
            }
            Part::EzoDo => {
                let true_salinity = seen.value(Property::Salinity);
                let told = oxygen_saturation_mg_l(self.told_c, self.told_salinity) * self.told_kpa;
                let hpa = (seen.truth)(Property::AirPressure).unwrap_or(1_013.0);
                let real = oxygen_saturation_mg_l(true_c, true_salinity) * hpa / 10.0;
                format!("{:.2}", seen.value(Property::DissolvedOxygen) * told / real)
            }
            Part::EzoEc => {
                let us_cm = seen.value(Property::Conductivity) * 1_000.0 / (1.0 + 0.019 * (self.told_c - 25.0));
                match us_cm {
                    ..=99.99 => format!("{us_cm:.2}"),
                    ..=999.9 => format!("{us_cm:.1}"),
                    ..=9_999.0 => format!("{us_cm:.0}"),
                    _ => format!("{:.0}", (us_cm / 10.0).round() * 10.0),
                }
            }
            _ => format!("{true_c:.3}"),
        }
    }
}

impl Chip for Ezo {
    fn write(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Result<(), Nack> {
        let text = String::from_utf8_lossy(bytes).to_uppercase();
        let mut fields = text.split(',');
        let (name, number, unit) =
            (fields.next().unwrap_or_default(), fields.next().and_then(|it| it.parse::<f64>().ok()), fields.next());
        let mut set_ms = 300;
        let (status, text) = match (name, number, unit, self.part) {
            ("R", None, None, part) => {
                set_ms = if part == Part::EzoPh { 900 } else { 600 };
                (1, self.reading(seen))
            }
            ("T", Some(celsius), None, Part::EzoPh | Part::EzoDo | Part::EzoEc) => {
                self.told_c = celsius;
                (1, String::new())
            }
            ("S", Some(salinity), Some("PPT"), Part::EzoDo) => {
                self.told_salinity = salinity;
                (1, String::new())
            }
            ("P", Some(kpa), None, Part::EzoDo) => {
                self.told_kpa = kpa;
                (1, String::new())
            }
            _ => (2, String::new()),
        };
        self.answer = Some((seen.now_us + set_ms * 1_000, status, text));
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], seen: &Seen<'_>) -> Result<(), Nack> {
        into.fill(0);
        let (status, text) = match self.answer.take() {
            None => (255, String::new()),
            Some((from_us, status, text)) if seen.now_us >= from_us => (status, text),
            early => {
                self.answer = early;
                (254, String::new())
            }
        };
        into.iter_mut().zip([status].into_iter().chain(text.bytes())).for_each(|(place, byte)| *place = byte);
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.part, self.temperature);
    }
}
