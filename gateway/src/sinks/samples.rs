//! Entries for the tests of the sinks.

use crate::entry::{Accepted, Content, Dated, Observation, Place};
use telemetry::Property;

/// One round of three readings at two points: good and corrected, missing, suspect.
pub(crate) fn accepted(seq: u32, date_ms: i64) -> Accepted {
    let place =
        |point: &str| Place {
            adcode: 350_181, site: "福清一号".into(), unit: "1,号=塘".into(), point: point.into()
        };
    let reading = |property: Property, place, flag, value| Observation {
        channel: 0,
        property: property.id(),
        place,
        flag,
        value,
        tests: 0,
        reason: 0,
        calibration: 0,
        raw: None,
    };
    let readings = vec![
        Observation { raw: Some(731), calibration: 2, ..reading(Property::DissolvedOxygen, 0, 1, 719) },
        Observation { reason: 1, ..reading(Property::WaterTemperature, 0, 9, 0) },
        Observation { tests: 8, ..reading(Property::AirTemperature, 1, 3, -350) },
    ];
    Accepted {
        node: "pond-7".into(),
        ring: 9,
        boot: 1,
        arrived_ms: date_ms + 100,
        places: vec![place("0.5 m"), place("")],
        records: vec![Dated {
            seq,
            date_ms,
            error_ms: 20,
            t_ms: 1000,
            content: Content::Round { config: 1, readings },
        }],
        held: None,
        window: Vec::new(),
    }
}
