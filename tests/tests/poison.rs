//! A node that sends nothing but poison, as fast as it can: nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use simulator::fleet::Endpoint;
use system_tests::books::{Name, Stored};
use system_tests::farm::{HOUR, NODE_TOKEN};
use system_tests::{Plan, until};
use telemetry::NodeName;
use telemetry::report::{Report, digest};
use telemetry::session::{Nonce, Open, Session};
use telemetry::topic::{self, Up};
use tokio::task::JoinHandle;

/// The node's name and its ring.
const POISON: (&str, u32) = ("poison-49", 666);
/// Records that each of its reports claims.
const CLAIMED: u32 = 7;
/// Reports under way at once.
const UNDER_WAY: usize = 20;

/// A report of a good envelope and check sum whose records nobody can read (`telemetry.cddl`:
/// `[ring, first, count, boot, sent_ms, version, segment…, crc]`).
fn poison(first: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0x88, 0x1a];
    bytes.extend(POISON.1.to_be_bytes());
    bytes.push(0x1a);
    bytes.extend(first.to_be_bytes());
    bytes.extend([CLAIMED as u8, 1, 0, telemetry::VERSION]);
    // Where rounds should stand, a byte string of what begins no round: a hundred bytes of 0xff.
    bytes.extend([0x58, 100]);
    bytes.extend([0xff; 100]);
    let sum = digest(&bytes);
    bytes.push(0x44);
    bytes.extend(sum.to_be_bytes());
    let report = Report::decode(&bytes)?;
    ensure!(report.envelope.first == first && report.envelope.count == CLAIMED, "{:?}", report.envelope);
    ensure!(report.records().any(|record| record.is_err()), "these records can be read");
    Ok(bytes)
}

/// Sends poison until it is aborted; what was acknowledged is counted.
fn pour(endpoint: &Endpoint, acknowledged: Arc<AtomicU32>) -> Result<JoinHandle<Result<()>>> {
    let name = NodeName::new(POISON.0)?;
    let mut options = MqttOptions::new(POISON.0, &endpoint.host, endpoint.port);
    options.set_credentials(POISON.0, NODE_TOKEN);
    let (client, mut events) = AsyncClient::new(options, 2 * UNDER_WAY);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    Ok(tokio::spawn(async move {
        let (session, report) = (topic::up(&name, Up::Session), topic::up(&name, Up::Report));
        let open = Open { nonce: Nonce([6; 8]), ring: POISON.1, boot: 1, floor: 0, next: 0, mono_ms: 0 };
        let mut bytes = [0; 512];
        let length = Session::Open(open).encode(&mut bytes)?;
        client.try_publish(session.as_str(), QoS::AtLeastOnce, false, &bytes[..length])?;
        let (mut first, mut under_way) = (0, 1);
        loop {
            while under_way < UNDER_WAY {
                client.try_publish(report.as_str(), QoS::AtLeastOnce, false, poison(first)?)?;
                (first, under_way) = (first.wrapping_add(CLAIMED), under_way + 1);
            }
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await? {
                under_way -= 1;
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        }
    }))
}

/// What 49 nodes have stored after some hours; with poison beside them, or without.
async fn hours(poisoned: bool) -> Result<std::collections::BTreeMap<Name, Stored>> {
    const HOURS: u64 = 1;
    let mut plan = Plan::mixed(49, 60, 51)?;
    plan.guests.push(POISON.0.to_owned());
    // Its share is used up on the way: what comes then is not even held.
    plan.config.spool.held_node_mib = 1;
    let mut farm = plan.start().await?;
    let acknowledged = Arc::new(AtomicU32::new(0));
    let pouring = if poisoned { Some(pour(&farm.endpoint, Arc::clone(&acknowledged))?) } else { None };
    let began = std::time::Instant::now();
    farm.fleet.run_until(HOURS * HOUR).await?;
    ensure!(farm.fleet.run_until_delivered(HOURS * HOUR + HOUR / 4).await?, "the 49 are not delivered");
    let took = began.elapsed();
    if let Some(pouring) = pouring {
        let held = || farm.gateway.acceptor().waiting();
        let full = || async { (held().usage_of(POISON.0).0 > (1 << 20) - 2_048).then_some(()) };
        until("its share of the held log is used up", Duration::from_secs(120), full).await?;
        // It goes on being answered without being held.
        let before = acknowledged.load(Ordering::SeqCst);
        let more = || async { (acknowledged.load(Ordering::SeqCst) > before + 100).then_some(()) };
        until("more poison is acknowledged", Duration::from_secs(60), more).await?;
        ensure!(!pouring.is_finished(), "it was cut off: {:?}", pouring.await);
        pouring.abort();
        let held = held();
        ensure!(held.usage_of(POISON.0).0 <= 1 << 20, "{} bytes are held", held.usage_of(POISON.0).0);
        let others: Vec<_> = held.iter().filter(|(_, of)| of.node != POISON.0).collect();
        ensure!(others.is_empty(), "others wait too: {others:?}");
        println!(
            "measured: {HOURS} h of 49 nodes in {took:.1?} beside {} reports of poison, {} of them held",
            acknowledged.load(Ordering::SeqCst),
            held.len()
        );
    } else {
        println!("measured: {HOURS} h of 49 nodes in {took:.1?} without poison");
    }
    let (agreement, stored) = farm.agreement().await?;
    farm.nothing_lost(&agreement)?;
    // Every report had its receipt in the very instant it was sent: none was waited for in vain,
    // and none sent again.
    for host in farm.fleet.hosts() {
        let session = host.node().map(|node| node.counters().session).unwrap_or_default();
        ensure!((session.timeouts, session.resent) == (0, 0), "{}: {session:?}", host.name());
        ensure!(session.sessions == 1, "{}: {session:?}", host.name());
    }
    farm.stop().await?;
    Ok(stored)
}

/// Simulated time passes only while nothing is under way, so had any of the 49 waited for anything
/// that the other run did not wait for, a date would differ. It is no matter how fast the machine
/// is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_node_that_sends_only_poison_the_other_49_lose_nothing_and_wait_for_nothing() -> Result<()> {
    let (without, with) = (hours(false).await?, hours(true).await?);
    assert!(without.len() > 49 * 60);
    let differs = without.iter().find(|(name, stored)| with.get(*name) != Some(*stored));
    assert_eq!(differs, None);
    assert_eq!(without.len(), with.len());
    Ok(())
}
