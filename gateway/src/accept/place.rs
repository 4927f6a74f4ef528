//! From a node's records to placed observations: what each channel means by the description of
//! the record's config, where it stood by the registry.

use telemetry::record::{Description, Round};
use telemetry::{Property, Quality};

use super::held::Reason;
use crate::entry::{Observation, Place};
use crate::registry::Registry;

/// Collects the places an entry refers to.
#[derive(Default)]
pub(crate) struct Places(pub(crate) Vec<Place>);

impl Places {
    pub(crate) fn index(&mut self, place: &Place) -> Option<u8> {
        let at = self.0.iter().position(|p| p == place).unwrap_or_else(|| {
            self.0.push(place.clone());
            self.0.len() - 1
        });
        u8::try_from(at).ok()
    }
}

/// Places the readings of a round taken at `date_ms`.
pub(crate) fn round(
    registry: &Registry,
    node: &str,
    description: Option<&Description>,
    round: &Round,
    date_ms: i64,
    places: &mut Places,
) -> Result<Vec<Observation>, Reason> {
    let description = description.ok_or(Reason::NoDescription)?;
    let mut observations: Vec<Observation> = Vec::with_capacity(round.readings.len());
    for reading in &round.readings {
        let channel =
            description.channels.iter().find(|c| c.channel == reading.channel).ok_or(Reason::NoDescription)?;
        let property = Property::from_id(channel.property).ok_or(Reason::UnknownProperty)?;
        let place = registry.place(node, Some(reading.channel), date_ms).ok_or(Reason::Unplaced)?;
        let place = places.index(place).ok_or(Reason::Unplaced)?;
        if observations.iter().any(|o| o.place == place && o.property == property.id()) {
            return Err(Reason::SharedSeries);
        }
        let (flag, tests, reason) = match reading.quality {
            Quality::Present { flag, tests } => (flag.id(), tests.bits(), 0),
            Quality::Missing(reason) => (telemetry::Flag::Missing.id(), 0, reason.id()),
        };
        observations.push(Observation {
            channel: reading.channel,
            property: property.id(),
            place,
            flag,
            value: reading.value,
            tests,
            reason,
            calibration: channel.calibration,
            raw: reading.raw,
        });
    }
    Ok(observations)
}
