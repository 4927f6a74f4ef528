//! Time that waits for what is under way, and for nothing else.

use std::time::Duration;

use simulator::clock::VirtualClock;
use simulator::fleet::{Endpoint, Order};
use simulator::host::{Flash, Host};
use simulator::lockstep::{Link, Lockstep};
use simulator::sites;
use telemetry::NodeName;
use telemetry::mac::Key;
use tokio::net::TcpListener;

/// 2026-06-01T00:00 in Fuzhou.
const BEGAN_MS: i64 = 1_780_243_200_000;
const HOUR: u64 = 3_600_000;

fn keys(node: &NodeName) -> Key {
    Key::derive(&[7; 32], node)
}

/// The pond, whose clock is this fast, against a port.
fn fleet(port: u16, drift_ppm: i32) -> Lockstep {
    let parts = sites::pond(&keys, 1, Flash::new(sites::FLASH_SECTORS)).unwrap();
    let host = Host::new(parts, BEGAN_MS, 0).unwrap().drifting(drift_ppm);
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port };
    Lockstep::new(vec![(host, "token".to_owned())], &endpoint, VirtualClock::new(BEGAN_MS))
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_stops_time_and_the_node_is_named() {
    // Connections are taken by the system, and nobody says a word on them.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut fleet = fleet(silent.local_addr().unwrap().port(), 0).patient(Duration::from_millis(200));
    let stuck = fleet.run_until(HOUR).await.unwrap_err();
    assert_eq!((stuck.node.as_str(), stuck.what, stuck.at_ms), (sites::NODES[0], "a connection", 0));
    assert_eq!(fleet.now_ms(), 0);
}

#[tokio::test]
async fn without_a_gateway_time_goes_on_and_every_round_is_taken() {
    // Bound and dropped: whoever connects is refused.
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let mut fleet = fleet(port, 0);
    fleet.run_until(HOUR).await.unwrap();
    let times: Vec<u64> = fleet.hosts().flat_map(Host::ledger).map(|taken| taken.at_ms).collect();
    let period_ms = u64::from(fleet.hosts().next().unwrap().config().period_s) * 1_000;
    assert_eq!(times, (0..HOUR / period_ms).map(|round| round * period_ms).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_fast_clock_takes_its_rounds_early_and_a_node_without_power_none() {
    let mut fleet = fleet(1, 100);
    fleet.link(sites::NODES[0], Link::Down).unwrap();
    fleet.run_until(HOUR).await.unwrap();
    fleet.order(sites::NODES[0], Order::PowerOff).unwrap();
    fleet.run_until(2 * HOUR).await.unwrap();
    let host = &fleet.stop()[0];
    let last = host.ledger().last().unwrap();
    // 100 ppm of an hour are 360 ms.
    let (own_ms, true_ms) = (last.round.t_ms, last.at_ms);
    assert!((HOUR - 20_000..HOUR).contains(&true_ms), "{true_ms}");
    assert!((355..=361).contains(&(own_ms - true_ms)), "{own_ms} {true_ms}");
}
