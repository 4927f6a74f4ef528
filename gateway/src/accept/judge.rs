//! The gateway's own tests of quality: climatology, deviation and neighbours (QARTOD manuals,
//! strongly recommended tests), in bits of their own beside the node's. They only ever worsen a
//! flag, to suspect, and nothing they say reaches control.
//!
//! They know what this program has seen since it started and nothing more: a channel whose past is
//! too short, or that has too few neighbours, is not tested. Low oxygen is never made suspect: it
//! is the emergency itself (domain page §0.1).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};

use telemetry::limits::CHANNELS_MAX;
use telemetry::{Flag, Property, Tests};

use crate::entry::{Accepted, Content, Observation, Place};
use crate::registry::Registry;

/// A change of more than so many standard deviations is suspect (QARTOD rate of change test;
/// domain page §5: 3 over 25 h).
const DEVIATIONS_MAX: f64 = 3.0;
/// Over which time the standard deviation is taken.
const SPREAD_MS: f64 = 25.0 * 3_600_000.0;
/// A channel is tested once it has been seen for so long.
const SPREAD_MS_MIN: i64 = 6 * 3_600_000;
/// Changes over a longer time are none of this test's.
const CHANGE_MS_MAX: i64 = 3_600_000;
/// Neighbours are readings taken within this time of each other.
const NEIGHBOUR_MS: i64 = 15 * 60_000;
/// Fewer do not outvote a reading.
const NEIGHBOURS_MIN: usize = 2;
/// Neighbours remembered of one property in one unit.
const NEIGHBOURS_MAX: usize = 16;
/// Units and properties with neighbours; beyond this no new ones are learnt.
const BOARDS_MAX: usize = 100_000;

/// What a channel's values were like lately: exponentially weighted over [`SPREAD_MS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spread {
    property: u8,
    mean: f64,
    variance: f64,
    last: f64,
    last_ms: i64,
    since_ms: i64,
}

impl Spread {
    fn deviates(&self, property: Property, value: f64, date_ms: i64) -> bool {
        let smallest = f64::from(property.facts().rate_max) / 4.0;
        let past = self.property == property.id() && self.last_ms - self.since_ms >= SPREAD_MS_MIN;
        let recent = date_ms > self.last_ms && date_ms - self.last_ms <= CHANGE_MS_MAX;
        past && recent
            && !is_low_oxygen(property, value, self.last)
            && (value - self.last).abs() > (DEVIATIONS_MAX * self.variance.sqrt()).max(smallest)
    }

    fn learn(&mut self, property: Property, value: f64, date_ms: i64) {
        if self.property != property.id() || self.since_ms == 0 {
            let property = property.id();
            *self = Self { property, mean: value, variance: 0.0, last: value, last_ms: date_ms, since_ms: date_ms };
            return;
        }
        if date_ms <= self.last_ms {
            return;
        }
        let weight = 1.0 - (-((date_ms - self.last_ms) as f64) / SPREAD_MS).exp();
        let off = value - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        (self.last, self.last_ms) = (value, date_ms);
    }
}

/// The spreads of a node's channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spreads(Vec<Spread>);

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    node: u64,
    channel: u8,
    date_ms: i64,
    value: f64,
}

/// The newest good values of each property in each unit, from all nodes.
#[derive(Debug, Default)]
pub(crate) struct Boards(HashMap<u64, Vec<Neighbour>>);

/// Falling oxygen is what everything here is for, and no fault of the probe.
fn is_low_oxygen(property: Property, value: f64, than: f64) -> bool {
    matches!(property, Property::DissolvedOxygen | Property::OxygenSaturation) && value < than
}

fn number(of: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The units of these places, as numbers. Points of one unit are neighbours, whatever their depth:
/// the limit leaves room for layers.
fn units(places: &[Place]) -> Vec<u64> {
    places.iter().map(|place| number((&place.site, &place.unit))).collect()
}

/// The board of a property in a unit.
fn board(unit: u64, property: Property) -> u64 {
    // An odd factor keeps units apart; properties are few and small.
    unit.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(property.id().into())
}

fn is_trusted(reading: &Observation) -> bool {
    matches!(reading.flag(), Flag::Good | Flag::NotEvaluated)
}

impl Boards {
    /// Remembers the newest trusted values of an entry that is in force.
    pub(crate) fn learn(&mut self, accepted: &Accepted) {
        let (node, units) = (number(&accepted.node), units(&accepted.places));
        let mut seen = 0u32;
        for record in accepted.records.iter().rev() {
            let Content::Round { readings, .. } = &record.content else { continue };
            for reading in readings {
                let bit = 1u32.checked_shl(u32::from(reading.channel)).unwrap_or(0);
                let (Some(property), Some(value)) = (reading.property(), reading.value()) else { continue };
                let Some(unit) = units.get(usize::from(reading.place)) else { continue };
                if seen & bit != 0 || property.facts().rate_max <= 0.0 || !is_trusted(reading) {
                    continue;
                }
                seen |= bit;
                self.put(
                    board(*unit, property),
                    Neighbour { node, channel: reading.channel, date_ms: record.date_ms, value },
                );
            }
        }
    }

    fn put(&mut self, board: u64, new: Neighbour) {
        if self.0.len() >= BOARDS_MAX && !self.0.contains_key(&board) {
            return;
        }
        let all = self.0.entry(board).or_default();
        if let Some(known) = all.iter_mut().find(|n| n.node == new.node && n.channel == new.channel) {
            if known.date_ms <= new.date_ms {
                *known = new;
            }
        } else if all.len() < NEIGHBOURS_MAX {
            all.push(new);
        } else if let Some(oldest) = all.iter_mut().min_by_key(|n| n.date_ms) {
            // The one heard longest ago makes room.
            *oldest = new;
        }
    }

    /// Trusted values of other channels in the same unit at about the same time.
    fn around(&self, board: u64, node: u64, channel: u8, date_ms: i64) -> impl Iterator<Item = f64> {
        let all = self.0.get(&board).into_iter().flatten();
        all.filter(move |n| {
            (n.node, n.channel) != (node, channel) && n.date_ms.abs_diff(date_ms) <= NEIGHBOUR_MS.unsigned_abs()
        })
        .map(|n| n.value)
    }
}

/// Judges the readings of one round, and lets the channels' spreads learn from them.
pub(crate) fn judge(
    readings: &mut [Observation],
    places: &[Place],
    spreads: &mut Spreads,
    boards: &Boards,
    registry: &Registry,
    node: &str,
    date_ms: i64,
) {
    let (node, units) = (number(node), units(places));
    for at in 0..readings.len() {
        let Some(reading) = readings.get(at).copied() else { continue };
        let (Some(property), Some(value)) = (reading.property(), reading.value()) else { continue };
        let at_place = usize::from(reading.place);
        let (Some(place), Some(unit)) = (places.get(at_place), units.get(at_place)) else { continue };
        if reading.flag() == Flag::Fail {
            continue;
        }
        let mut tests = Tests::NONE;
        if registry.climatology(place, property, date_ms).is_some_and(|(min, max)| !(min..=max).contains(&value)) {
            tests = tests.with(Tests::CLIMATOLOGY);
        }
        if property.facts().rate_max > 0.0 {
            if spreads.of(reading.channel).is_some_and(|s| s.deviates(property, value, date_ms)) {
                tests = tests.with(Tests::DEVIATION);
            }
            let beside = readings.iter().enumerate().filter(|(other, r)| {
                let alike = *other != at && r.property == reading.property && is_trusted(r);
                alike && units.get(usize::from(r.place)) == Some(unit)
            });
            let beside = beside.filter_map(|(_, r)| r.value());
            let around = boards.around(board(*unit, property), node, reading.channel, date_ms);
            if disagrees(property, value, beside.chain(around)) {
                tests = tests.with(Tests::NEIGHBOUR);
            }
            spreads.learn(reading.channel, property, value, date_ms);
        }
        if let Some(reading) = readings.get_mut(at)
            && !tests.is_none()
        {
            reading.tests = reading.tests().with(tests).bits();
            reading.flag = reading.flag().rolled_up(Flag::Suspect).id();
        }
    }
}

/// Whether a value is far from the middle of its neighbours: by more than twice what the property
/// changes in its whole rate window.
fn disagrees(property: Property, value: f64, neighbours: impl Iterator<Item = f64>) -> bool {
    let mut all = [0.0; NEIGHBOURS_MAX];
    let mut count = 0;
    for (slot, neighbour) in all.iter_mut().zip(neighbours) {
        *slot = neighbour;
        count += 1;
    }
    if count < NEIGHBOURS_MIN {
        return false;
    }
    let Some(all) = all.get_mut(..count) else { return false };
    all.sort_by(f64::total_cmp);
    let middle = all.get(count / 2).zip(all.get((count - 1) / 2)).map_or(value, |(a, b)| (a + b) / 2.0);
    !is_low_oxygen(property, value, middle) && (value - middle).abs() > 2.0 * f64::from(property.facts().rate_max)
}

impl Spreads {
    fn of(&self, channel: u8) -> Option<&Spread> {
        self.0.get(usize::from(channel))
    }

    fn learn(&mut self, channel: u8, property: Property, value: f64, date_ms: i64) {
        let at = usize::from(channel);
        if at >= CHANNELS_MAX {
            return;
        }
        if self.0.len() <= at {
            self.0.resize(at + 1, Spread::default());
        }
        if let Some(spread) = self.0.get_mut(at) {
            spread.learn(property, value, date_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const NOON: i64 = 1_795_000_000_000;

    fn place(point: &str) -> Place {
        Place { adcode: 350_181, site: "s".into(), unit: "u".into(), point: point.into() }
    }

    fn reading(channel: u8, property: Property, value: f64) -> Observation {
        Observation {
            channel,
            property: property.id(),
            place: 0,
            flag: Flag::Good.id(),
            value: property.quantize_exact(value).unwrap(),
            tests: 0,
            reason: 0,
            calibration: 0,
            raw: None,
        }
    }

    /// Judges one reading of channel 0; its flag and the gateway's tests.
    fn one(
        spreads: &mut Spreads,
        boards: &Boards,
        registry: &Registry,
        of: Observation,
        date_ms: i64,
    ) -> (Flag, Tests) {
        let mut readings = [of];
        judge(&mut readings, &[place("")], spreads, boards, registry, "a", date_ms);
        (readings[0].flag(), readings[0].tests())
    }

    /// A day of the usual: a daily swing and a little noise.
    fn usual(spreads: &mut Spreads, property: Property, middle: f64) -> i64 {
        let none = (Boards::default(), Registry::default());
        let mut at = NOON;
        for n in 0..288 {
            at = NOON + n * 300_000;
            let value =
                middle + (n as f64 / 288.0 * std::f64::consts::TAU).sin() + 0.05 * ((n * 7919) % 13) as f64 / 13.0;
            let judged = one(spreads, &none.0, &none.1, reading(0, property, value), at);
            assert_eq!(judged, (Flag::Good, Tests::NONE), "{n}");
        }
        at
    }

    #[test]
    fn a_leap_beyond_the_channels_own_spread_is_suspect_and_falling_oxygen_never() {
        for property in [Property::WaterTemperature, Property::DissolvedOxygen] {
            let (mut spreads, boards, registry) = (Spreads::default(), Boards::default(), Registry::default());
            let at = usual(&mut spreads, property, 8.0);
            let up = one(&mut spreads.clone(), &boards, &registry, reading(0, property, 14.0), at + 300_000);
            assert_eq!(up, (Flag::Suspect, Tests::DEVIATION));
            let down = one(&mut spreads, &boards, &registry, reading(0, property, 1.0), at + 300_000);
            let falls = if property == Property::DissolvedOxygen { (Flag::Good, Tests::NONE) } else { up };
            assert_eq!(down, falls, "{property:?}");
        }
    }

    #[test]
    fn a_short_past_and_a_long_gap_are_no_ground_to_doubt_a_value() {
        let (boards, registry) = (Boards::default(), Registry::default());
        let mut spreads = Spreads::default();
        one(&mut spreads, &boards, &registry, reading(0, Property::WaterTemperature, 20.0), NOON);
        let young = one(&mut spreads, &boards, &registry, reading(0, Property::WaterTemperature, 29.0), NOON + 60_000);
        assert_eq!(young, (Flag::Good, Tests::NONE));
        let mut spreads = Spreads::default();
        let at = usual(&mut spreads, Property::WaterTemperature, 20.0);
        let late = one(&mut spreads, &boards, &registry, reading(0, Property::WaterTemperature, 29.0), at + DAY);
        assert_eq!(late, (Flag::Good, Tests::NONE));
        // Older than what is known: a backlog is not held against the present.
        let old = one(&mut spreads, &boards, &registry, reading(0, Property::WaterTemperature, 5.0), NOON);
        assert_eq!(old, (Flag::Good, Tests::NONE));
    }

    fn boards(values: &[(&str, f64, i64)]) -> Boards {
        let mut boards = Boards::default();
        for (node, value, date_ms) in values {
            let readings = vec![reading(0, Property::WaterTemperature, *value)];
            let content = Content::Round { config: 1, readings };
            let record = crate::entry::Dated { seq: 1, date_ms: *date_ms, error_ms: 0, t_ms: 0, content };
            boards.learn(&Accepted {
                node: (*node).into(),
                ring: 1,
                boot: 1,
                arrived_ms: 0,
                places: vec![place("0.5 m")],
                records: vec![record],
                held: None,
                window: Vec::new(),
            });
        }
        boards
    }

    #[test]
    fn a_reading_far_from_its_neighbours_is_suspect_and_two_of_them_are_needed() {
        let of = |value| reading(0, Property::WaterTemperature, value);
        for (neighbours, value, wanted) in [
            (&[("b", 20.0, NOON), ("c", 21.0, NOON)][..], 25.5, Tests::NEIGHBOUR),
            (&[("b", 20.0, NOON), ("c", 21.0, NOON)], 23.0, Tests::NONE),
            (&[("b", 20.0, NOON)], 30.0, Tests::NONE),
            // Too long ago, and the channel itself, are no neighbours.
            (&[("b", 20.0, NOON), ("c", 21.0, NOON - 3_600_000)], 30.0, Tests::NONE),
            (&[("b", 20.0, NOON), ("a", 21.0, NOON)], 30.0, Tests::NONE),
        ] {
            let boards = boards(neighbours);
            let (_, tests) = one(&mut Spreads::default(), &boards, &Registry::default(), of(value), NOON + 60_000);
            assert_eq!(tests, wanted, "{neighbours:?}");
        }
    }

    #[test]
    fn what_the_node_has_failed_or_missed_is_left_as_it_is() {
        let boards = boards(&[("b", 20.0, NOON), ("c", 21.0, NOON)]);
        for flag in [Flag::Fail, Flag::Missing] {
            let of = Observation { flag: flag.id(), tests: 4, ..reading(0, Property::WaterTemperature, 30.0) };
            let judged = one(&mut Spreads::default(), &boards, &Registry::default(), of, NOON);
            assert_eq!(judged, (flag, Tests::GROSS_RANGE));
        }
    }
}
