//! Two boards under one node name, both alive: each has a ring of its own, and its readings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use rusqlite::{Connection, OpenFlags};
use system_tests::Plan;
use system_tests::farm::{HOUR, Seat};
use telemetry::record::EventCode;

const NAME: &str = "pond-0";

/// Two boards of one name, the second switched on this much later.
fn twins(later_ms: u64) -> Result<Plan> {
    let mut plan = Plan::mixed(1, 60, 61)?;
    let parts = plan.parts(0, NAME, 60, 62)?;
    plan.nodes.push(Seat { parts, begins_ms: later_ms, drift_ppm: 0 });
    Ok(plan)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_boards_under_one_name_take_turns_and_no_reading_of_either_is_lost_or_doubled() -> Result<()> {
    let mut farm = twins(7_013)?.start().await?;
    farm.fleet.run_until(6 * HOUR).await?;
    farm.fleet.run_until_delivered(7 * HOUR).await?;
    let (agreement, stored) = farm.agreement().await?;
    // What each knows to be receipted is stored.
    let released: BTreeMap<u32, u32> = farm
        .fleet
        .hosts()
        .filter_map(|host| {
            let node = host.node()?;
            Some((node.ring()?.0, node.session().released()?))
        })
        .collect();
    for (_, ring, seq) in &agreement.unstored {
        ensure!(released.get(ring).is_some_and(|released| seq >= released), "{ring} {seq} is receipted and not stored");
    }
    let rounds = |ring: u32| stored.keys().filter(|(_, of, _)| *of == ring).count();
    let rings: BTreeSet<u32> = stored.keys().map(|(_, ring, _)| *ring).collect();
    ensure!(rings.len() == 2 && rings.iter().all(|ring| rounds(*ring) >= 6 * 60), "{rings:?}");

    // Whoever looks sees it: one name has said twice that its ring is new.
    let mut formatted = Vec::new();
    for entry in std::fs::read_dir(farm.history())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sqlite") {
            let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut select = file.prepare("SELECT value FROM event WHERE node = ?1 AND code = ?2")?;
            let rows = select.query_map((NAME, EventCode::RingFormatted.id()), |row| row.get::<_, u32>(0))?;
            formatted.extend(rows.collect::<Result<Vec<_>, _>>()?);
        }
    }
    ensure!(formatted.iter().copied().collect::<BTreeSet<_>>() == rings && formatted.len() == 2, "{formatted:?}");
    let nodes = farm.gateway.acceptor().nodes();
    ensure!(nodes.len() == 1 && nodes[0].node == NAME && nodes[0].other_content == 0, "{nodes:?}");
    ensure!(farm.gateway.acceptor().waiting().is_empty(), "something waits");
    farm.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_boards_under_one_name_took_at_the_same_instants_is_stored_or_held_and_never_overwritten() -> Result<()>
{
    let mut plan = twins(0)?;
    // To the millisecond: the same clock, too.
    plan.nodes[0].drift_ppm = 0;
    let mut farm = plan.start().await?;
    farm.fleet.run_until(6 * HOUR).await?;
    farm.fleet.run_until_delivered(7 * HOUR).await?;
    let (agreement, stored) = farm.agreement().await?;
    let waiting = farm.gateway.acceptor().waiting();
    ensure!(!waiting.is_empty(), "two boards of one name and clock, and nothing clashes");
    let is_held = |ring: u32, seq: u32| {
        waiting.iter().any(|(_, it)| it.ring == ring && (it.from..it.from + it.count).contains(&seq))
    };
    let mut held = 0;
    for host in farm.fleet.hosts() {
        let Some(node) = host.node() else { continue };
        let (Some((ring, ..)), Some(released)) = (node.ring(), node.session().released()) else { continue };
        for (_, of, seq) in agreement.unstored.iter().filter(|(_, of, seq)| *of == ring && *seq < released) {
            ensure!(is_held(*of, *seq), "{of} {seq} is receipted and neither stored nor held");
            held += 1;
        }
    }
    let doubled: Vec<_> = stored.keys().filter(|(_, ring, seq)| is_held(*ring, *seq)).collect();
    ensure!(doubled.is_empty(), "stored and held: {doubled:?}");
    println!("measured: {} rounds of two boards stored, {held} held", stored.len());
    farm.stop().await?;
    Ok(())
}
