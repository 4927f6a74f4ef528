//! Entries as acceptance puts them into the spool: rounds of eight readings of many nodes.

use gateway::entry::{Accepted, Content, Dated, Observation, Place};

use crate::sender::{CHANNELS, round};

/// 2026-11-02T00:00Z: a month with room on both sides.
pub(crate) const BEGAN_MS: i64 = 1_793_577_600_000;

/// Round `seq` of node number `node`, dated `date_ms`.
pub(crate) fn accepted(node: u32, seq: u32, date_ms: i64) -> Accepted {
    let place =
        Place {
            adcode: 350_181, site: "福清养殖场".into(), unit: format!("{}号塘", node % 50), point: "".into()
        };
    let readings = round(seq.wrapping_add(node)).readings;
    let observations = readings.iter().zip(CHANNELS).map(|(reading, (property, _))| Observation {
        channel: reading.channel,
        property: property.id(),
        place: 0,
        flag: 1,
        value: reading.value,
        tests: 0,
        reason: 0,
        calibration: 0,
        raw: None,
    });
    let content = Content::Round { config: 1, readings: observations.collect() };
    Accepted {
        node: format!("node-{node}"),
        ring: 7,
        boot: 1,
        arrived_ms: date_ms,
        places: vec![place],
        records: vec![Dated { seq, date_ms, error_ms: 20, t_ms: 0, content }],
        held: None,
        window: Vec::new(),
    }
}
