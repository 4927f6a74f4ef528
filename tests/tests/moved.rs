//! A node that is carried to another pond: each reading belongs to the pond it was taken in.

use anyhow::{Result, ensure};
use simulator::lockstep::Link;
use system_tests::farm::{BEGAN_MS, HOUR};
use system_tests::{Influx, Plan, books};

/// When it is carried over, by the registry: 2026-06-01T03:00:30 in Fuzhou.
const MOVED_MS: i64 = BEGAN_MS + 3 * HOUR as i64 + 30_000;

const STAYS: &str = r#"
[[site]]
name = "fuqing"
adcode = 350181
[[site.unit]]
name = "1号塘"
kind = "pond"
[[site.unit]]
name = "2号塘"
kind = "pond"

[[node]]
name = "pond-0"
[[node.at]]
since = 2020-01-01T00:00:00+08:00
site = "fuqing"
unit = "1号塘"
points = { "3" = "1.2 m", "4" = "1.2 m" }
"#;

const MOVED: &str = r#"
[[node.at]]
since = 2026-06-01T03:00:30+08:00
site = "fuqing"
unit = "2号塘"
points = { "3" = "1.2 m", "4" = "1.2 m" }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_took_before_it_was_moved_lands_in_the_old_pond_although_it_arrives_afterwards() -> Result<()> {
    let Some(influx) = Influx::start().await? else { return Ok(()) };
    let name = "pond-0";
    let mut plan = Plan::mixed(1, 60, 41)?;
    plan.influx = Some(influx);
    plan.sites = STAYS.to_owned();
    let mut farm = plan.start().await?;
    farm.fleet.run_until(HOUR).await?;
    farm.fleet.link(name, Link::Down)?;
    farm.fleet.run_until(5 * HOUR).await?;
    farm.register(&format!("{STAYS}{MOVED}")).await?;
    farm.fleet.run_until(6 * HOUR).await?;
    farm.fleet.link(name, Link::Up)?;
    farm.fleet.run_until(7 * HOUR).await?;
    ensure!(farm.fleet.run_until_delivered(8 * HOUR).await?, "its rounds are not delivered");

    // By the registry as it is now, in the history and in InfluxDB.
    let (agreement, stored) = farm.agreement().await?;
    farm.nothing_lost(&agreement)?;
    let (mut old, mut new) = (0, 0);
    for (name, taken) in books::taken(farm.fleet.hosts())? {
        let Some(stored) = stored.get(&name) else { continue };
        let unit = if taken.at_ms < MOVED_MS { "1号塘" } else { "2号塘" };
        *(if taken.at_ms < MOVED_MS { &mut old } else { &mut new }) += 1;
        ensure!(stored.readings.iter().all(|it| it.2.2 == unit), "{name:?} of {}: {stored:?}", taken.at_ms);
    }
    ensure!(old >= 180 && new >= 230, "{old} rounds before it was moved, {new} after");
    farm.stop().await?;
    Ok(())
}
