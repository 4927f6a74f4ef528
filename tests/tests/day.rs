//! A day of many simulated nodes, on one virtual clock with the gateway: every reading arrives,
//! once, as it was taken.

use std::time::Instant;

use anyhow::{Result, ensure};
use system_tests::farm::HOUR;
use system_tests::{Influx, Plan};

/// Nodes of the day.
const NODES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_of_fifty_nodes_over_a_day_is_in_influxdb_and_in_the_history_exactly_once() -> Result<()> {
    let Some(influx) = Influx::start().await? else { return Ok(()) };
    let mut plan = Plan::mixed(NODES, 60, 21)?;
    plan.influx = Some(influx);
    let began = Instant::now();
    let mut farm = plan.start().await?;
    farm.fleet.run_until(24 * HOUR).await?;
    // The last rounds wait for company, at most ten minutes.
    ensure!(farm.fleet.run_until_delivered(24 * HOUR + HOUR / 4).await?, "the day's last rounds are not delivered");
    let ran = began.elapsed();
    let (agreement, _) = farm.agreement().await?;
    farm.nothing_lost(&agreement)?;
    println!(
        "measured: a day of {NODES} nodes in {ran:.1?}, stored and compared in {:.1?}: {} rounds, {} readings; \
         dates within {} ms where {} ms are stated",
        began.elapsed() - ran,
        agreement.rounds,
        agreement.readings,
        agreement.off_ms_max,
        agreement.error_ms_max
    );
    ensure!(agreement.rounds >= NODES * 24 * 60, "only {} rounds", agreement.rounds);
    // Sessions are renewed every six hours, within which 40 ppm are 0.9 s: no date needs a mark.
    ensure!(agreement.error_ms_max <= 2_000, "{} ms stated", agreement.error_ms_max);
    // In lock-step nothing is late, so nothing was ever sent again.
    for host in farm.fleet.hosts() {
        let counters = host.node().map(|node| node.counters()).unwrap_or_default();
        let session = counters.session;
        ensure!((session.timeouts, session.resent, counters.lost) == (0, 0, 0), "{}: {counters:?}", host.name());
    }
    farm.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_seed_gives_the_same_history_to_the_last_field() -> Result<()> {
    let run = async |seed| {
        let mut farm = Plan::mixed(4, 60, seed)?.start().await?;
        farm.fleet.run_until(2 * HOUR).await?;
        ensure!(farm.fleet.run_until_delivered(2 * HOUR + HOUR / 4).await?, "not delivered");
        let (_, stored) = farm.agreement().await?;
        farm.stop().await?;
        Ok(stored)
    };
    let first = run(5).await?;
    assert!(first.len() > 4 * 2 * 60);
    assert_eq!(first, run(5).await?);
    assert_ne!(first, run(6).await?);
    Ok(())
}
