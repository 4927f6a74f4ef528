//! What `/metrics` shows, each with its meaning. Counters are raised where things happen; gauges
//! are taken from the pipeline's state when somebody asks.

use metrics::{describe_counter, describe_gauge, gauge};

use crate::Pipeline;

/// Name and meaning of every counter.
const COUNTERS: &[(&str, &str)] = &[
    ("tianyu_broker_disconnects_total", "connections to the broker that ended"),
    ("tianyu_broker_down_full_total", "messages to nodes that the broker's client had no room for"),
    ("tianyu_broker_foreign_topics_total", "messages from the broker on topics that are no node's"),
    ("tianyu_broker_refused_subscriptions_total", "subscriptions that the broker refused"),
    ("tianyu_broker_refused_total", "messages from the broker that could not be taken"),
    ("tianyu_clashes_total", "reports held because another ring of their node has a record of the same instant"),
    ("tianyu_endpoint_accept_errors_total", "connections that could not be accepted"),
    ("tianyu_endpoint_closed_total", "connections closed by the endpoint, by reason"),
    ("tianyu_endpoint_connections_total", "connections that logged in"),
    ("tianyu_endpoint_down_too_large_total", "messages to nodes that are longer than the node takes"),
    ("tianyu_endpoint_foreign_topics_total", "connections closed for publishing on a topic that is not theirs"),
    ("tianyu_endpoint_login_failures_total", "log-ins with an unknown name, a wrong or a revoked token"),
    ("tianyu_endpoint_malformed_total", "connections closed for a packet that is no MQTT"),
    ("tianyu_endpoint_no_connect_total", "connections that did not log in in time"),
    ("tianyu_endpoint_tls_failures_total", "TLS handshakes that failed"),
    ("tianyu_endpoint_turned_away_total", "connections beyond the limits"),
    ("tianyu_held_over_budget_total", "reports not held because their node has too much waiting already"),
    ("tianyu_held_total", "reports that went into the held log, by reason"),
    ("tianyu_history_clashes_total", "readings set aside because another record has their series and time"),
    ("tianyu_history_rows_total", "rows stored in the local history"),
    ("tianyu_influx_lines_total", "lines stored in InfluxDB"),
    ("tianyu_influx_refused_lines_total", "lines that InfluxDB refuses for good; the history has them"),
    ("tianyu_new_rings_total", "rings not seen before: new, erased or swapped boards"),
    ("tianyu_other_content_total", "reports that gave a known name other content; two boards of one name?"),
    ("tianyu_records_lost_by_node_total", "records that a node no longer held when it came back"),
    ("tianyu_refused_total", "reports and sessions that the durable log did not take; nodes keep them"),
    ("tianyu_reports_ahead_total", "reports that came before their predecessors"),
    ("tianyu_reports_duplicate_total", "reports that held nothing new"),
    ("tianyu_reports_malformed_total", "reports whose envelope cannot be read"),
    ("tianyu_reports_without_session_total", "reports of a ring for which no session was opened"),
    ("tianyu_sessions_malformed_total", "session messages that cannot be read"),
    ("tianyu_sessions_stale_total", "session messages of a session that is not the node's last"),
    ("tianyu_sink_detached_total", "times a sink was let fall behind because the spool needed the room"),
    ("tianyu_sink_failures_total", "attempts of a sink that failed, by sink"),
    ("tianyu_sink_missed_total", "spool entries that a detached sink missed, to be fed from the history"),
    ("tianyu_sink_unreadable_total", "spool entries that this program cannot read, by sink"),
    ("tianyu_snapshots_malformed_total", "snapshots that cannot be read"),
    ("tianyu_snapshots_unplaced_total", "snapshots of which the place or the meaning is not known"),
    ("tianyu_spool_corrupt_total", "damaged places in the spool, by sink that met them"),
    ("tianyu_spool_failures_total", "writes or syncs of the durable logs that failed"),
    ("tianyu_unknown_nodes_total", "messages behind a broker from nodes without credentials"),
];

/// Name and meaning of every gauge.
const GAUGES: &[(&str, &str)] = &[
    ("tianyu_clock_known_good", "1 while the gateway's own clock is believed"),
    ("tianyu_refusing", "1 while the durable log takes nothing"),
    ("tianyu_spool_bytes", "bytes in the spool"),
    ("tianyu_held_entries", "entries that wait in the held log"),
    ("tianyu_nodes_connected", "nodes connected to the built-in endpoint"),
    ("tianyu_sink_behind", "spool entries that wait for a sink"),
    ("tianyu_sink_detached", "1 while a sink is detached from the spool"),
    ("tianyu_sink_failing", "1 while a sink's last attempt has failed"),
    ("tianyu_sink_missed", "spool entries that a sink is still to be fed from the history"),
    ("tianyu_sink_position", "first spool index that a sink has not read"),
];

/// Tells the recorder what each means.
pub fn describe() {
    for (name, meaning) in COUNTERS {
        describe_counter!(*name, *meaning);
    }
    for (name, meaning) in GAUGES {
        describe_gauge!(*name, *meaning);
    }
}

/// Sets the gauges that are the pipeline's state.
pub fn set(pipeline: &Pipeline, connected: usize) {
    let yes = |it: bool| f64::from(u8::from(it));
    gauge!("tianyu_clock_known_good").set(yes(pipeline.clock_known_good));
    gauge!("tianyu_refusing").set(yes(pipeline.refusing.is_some()));
    gauge!("tianyu_spool_bytes").set(pipeline.spool_bytes as f64);
    gauge!("tianyu_held_entries").set(pipeline.held as f64);
    gauge!("tianyu_nodes_connected").set(connected as f64);
    for sink in &pipeline.sinks {
        let name = sink.name.clone();
        gauge!("tianyu_sink_behind", "sink" => name.clone()).set(sink.behind as f64);
        gauge!("tianyu_sink_detached", "sink" => name.clone()).set(yes(sink.detached));
        gauge!("tianyu_sink_failing", "sink" => name).set(yes(sink.error.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn used(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used(&path, names);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("metric.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for rest in text.split("!(\"tianyu_").skip(1) {
                    names.insert(format!("tianyu_{}", rest.split('"').next().unwrap()));
                }
            }
        }
    }

    #[test]
    fn every_metric_is_described_and_every_description_is_of_one() {
        let mut names = BTreeSet::new();
        used(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        let set_here = ["clock_known_good", "refusing", "spool_bytes", "held_entries", "nodes_connected"];
        let set_here = set_here.into_iter().chain(["sink_behind", "sink_detached", "sink_failing"]);
        names.extend(set_here.map(|name| format!("tianyu_{name}")));
        let described: BTreeSet<String> = COUNTERS.iter().chain(GAUGES).map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names, described);
    }
}
