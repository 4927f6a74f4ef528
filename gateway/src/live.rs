//! The live view: each node's newest snapshot, placed. In memory only; what it shows is gone with
//! the gateway, and its age is always shown beside it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use telemetry::record::ActuatorDescription;
use telemetry::snapshot::Snapshot;
use telemetry::{ActuatorKind, Alarm, MissingReason};

use crate::entry::{Observation, Place};

/// Nodes shown; beyond this the one heard longest ago makes room.
const NODES_MAX: usize = 20_000;

/// A name as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Title {
    /// In Chinese.
    pub zh: &'static str,
    /// In English.
    pub en: &'static str,
}

/// An actuator as its node says it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveActuator {
    /// Its number on the node.
    pub actuator: u8,
    /// What it is; none for a kind this program does not know.
    #[serde(serialize_with = "kind_name")]
    pub kind: Option<ActuatorKind>,
    /// Whether it is on.
    pub on: bool,
}

/// An active alarm of a node's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveAlarm {
    /// Its number.
    pub alarm: u8,
    /// Which; none for one this program does not know.
    #[serde(serialize_with = "alarm_name")]
    pub name: Option<Alarm>,
}

fn alarm_name<S: serde::Serializer>(alarm: &Option<Alarm>, serializer: S) -> Result<S::Ok, S::Error> {
    alarm.map(Alarm::name).serialize(serializer)
}

/// Every alarm of a snapshot's bits, also those that only a newer node raises.
fn alarms(bits: u32) -> Vec<LiveAlarm> {
    let active = (0u8..32).filter(|alarm| bits >> alarm & 1 == 1);
    active.map(|alarm| LiveAlarm { alarm, name: Alarm::ALL.get(usize::from(alarm)).copied() }).collect()
}

fn kind_name<S: serde::Serializer>(kind: &Option<ActuatorKind>, serializer: S) -> Result<S::Ok, S::Error> {
    kind.map(ActuatorKind::name).serialize(serializer)
}

fn reason_name<S: serde::Serializer>(reason: &Option<MissingReason>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.map(MissingReason::name).serialize(serializer)
}

/// One newest value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveReading {
    /// Field name of the property.
    pub property: &'static str,
    /// Its name in Chinese and in English.
    pub title: Title,
    /// Unit as people read it.
    pub unit_symbol: &'static str,
    /// Site.
    pub site: String,
    /// Unit of the site.
    pub unit: String,
    /// Point of the unit.
    pub point: String,
    /// Value; none where missing.
    pub value: Option<f64>,
    /// QARTOD flag.
    pub flag: u8,
    /// Tests that fired.
    pub tests: u16,
    /// Why it is missing.
    #[serde(serialize_with = "reason_name")]
    pub reason: Option<MissingReason>,
}

/// One node's newest state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveNode {
    /// When it arrived: UTC in milliseconds by the gateway's clock.
    pub arrived_ms: i64,
    /// How old the newest value was when it was sent, in milliseconds.
    pub age_at_sending_ms: u64,
    /// Its values.
    pub readings: Vec<LiveReading>,
    /// Its actuators.
    pub actuators: Vec<LiveActuator>,
    /// Its alarms that are active.
    pub alarms: Vec<LiveAlarm>,
}

impl LiveNode {
    /// How old its newest values are by a clock that shows `now_ms`.
    pub fn age_ms(&self, now_ms: i64) -> u64 {
        u64::try_from(now_ms - self.arrived_ms).unwrap_or(0).saturating_add(self.age_at_sending_ms)
    }
}

/// All of it.
#[derive(Default)]
pub struct Live {
    nodes: Mutex<BTreeMap<String, LiveNode>>,
    changed: tokio::sync::Notify,
}

impl Live {
    /// Takes in a snapshot with its placed readings and the actuators that the node has.
    pub fn update(
        &self,
        node: &str,
        now_ms: i64,
        snapshot: &Snapshot,
        actuators: &[ActuatorDescription],
        readings: &[Observation],
        places: &[Place],
    ) {
        let actuator = |of: &ActuatorDescription| LiveActuator {
            actuator: of.actuator,
            kind: ActuatorKind::from_id(of.kind),
            on: snapshot.actuators.checked_shr(of.actuator.into()).unwrap_or(0) & 1 == 1,
        };
        let readings = readings
            .iter()
            .filter_map(|o| {
                let (property, place) = (o.property()?, places.get(usize::from(o.place))?);
                let (zh, en) = property.titles();
                Some(LiveReading {
                    property: property.name(),
                    title: Title { zh, en },
                    unit_symbol: property.facts().symbol,
                    site: place.site.clone(),
                    unit: place.unit.clone(),
                    point: place.point.clone(),
                    value: o.value(),
                    flag: o.flag,
                    tests: o.tests,
                    reason: o.reason(),
                })
            })
            .collect();
        let live = LiveNode {
            arrived_ms: now_ms,
            age_at_sending_ms: snapshot.sent_ms.saturating_sub(snapshot.round.t_ms),
            readings,
            actuators: actuators.iter().map(actuator).collect(),
            alarms: alarms(snapshot.alarms),
        };
        {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
                let oldest = nodes.iter().min_by_key(|(_, n)| n.arrived_ms).map(|(name, _)| name.clone());
                oldest.and_then(|name| nodes.remove(&name));
            }
            nodes.insert(node.to_owned(), live);
        }
        self.changed.notify_waiters();
    }

    /// Everything as it stands.
    pub fn all(&self) -> BTreeMap<String, LiveNode> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the next change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
