//! Everything that befalls nodes in the field, at random, for days: power cuts, restarts, erased
//! rings, links that are cut, lossy and slow, rings too small for an outage. What is stored is what
//! was taken, but for exactly what was erased or overwritten before it could be delivered.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use gateway::accept::held::Reason;
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use simulator::fleet::Order;
use simulator::host::Flash;
use simulator::lockstep::Link;
use system_tests::farm::{HOUR, mixed_name};
use system_tests::{Farm, Plan, books, long};

const NODES: usize = 10;
const MINUTE: u64 = HOUR / 60;
/// Every third node has so few sectors that an outage of a day overflows its ring.
const SMALL_SECTORS: usize = 8;

/// What can be known, when it happens, of records that nobody will ever have.
#[derive(Default)]
struct Losses {
    /// Seqs by node and ring.
    gone: BTreeMap<(String, u32), BTreeSet<u32>>,
    /// Ring and floor of each node when it was last looked at.
    floors: BTreeMap<String, (u32, u32)>,
}

impl Losses {
    /// The first seq of a ring that the gateway does not have.
    fn next(farm: &Farm, node: &str, ring: u32) -> u32 {
        let nodes = farm.gateway.acceptor().nodes();
        nodes.iter().find(|it| it.node == node && it.ring == Some(ring)).map_or(0, |it| it.next)
    }

    fn add(&mut self, node: &str, ring: u32, seqs: std::ops::Range<u32>) {
        self.gone.entry((node.to_owned(), ring)).or_default().extend(seqs);
    }

    /// What was overwritten since the last look and never delivered.
    fn look(&mut self, farm: &Farm) {
        for host in farm.fleet.hosts() {
            let Some((ring, floor, _)) = host.node().and_then(|node| node.ring()) else { continue };
            let node = host.name().as_str();
            let before = self.floors.get(node).copied();
            if before == Some((ring, floor)) {
                continue;
            }
            let from = before.filter(|(of, _)| *of == ring).map_or(0, |(_, floor)| floor);
            let next = Self::next(farm, node, ring);
            self.add(node, ring, from.max(next)..floor.max(next));
            self.floors.insert(node.to_owned(), (ring, floor));
        }
    }

    /// A ring is about to be erased.
    fn erased(&mut self, farm: &Farm, node: &str) {
        // Of a node without power it is not known how far its ring goes: as far as seqs do.
        let host = farm.fleet.host(node);
        let last = host.and_then(|host| host.ledger().last()).map(|taken| taken.ring);
        let ring = host.and_then(|host| Some(host.node()?.ring()?.0)).or(last);
        if let Some(ring) = ring {
            let newest = host.into_iter().flat_map(|host| host.ledger()).filter(|taken| taken.ring == ring);
            let end = newest.filter_map(|taken| taken.seq).max().map_or(0, |seq| seq + 1);
            self.add(node, ring, Self::next(farm, node, ring)..end);
        }
    }

    fn has(&self, (node, ring, seq): &books::Name) -> bool {
        self.gone.get(&(node.clone(), *ring)).is_some_and(|seqs| seqs.contains(seq))
    }
}

/// Something that befalls a node now; what it was.
fn befall(farm: &mut Farm, losses: &mut Losses, chance: &mut impl Rng) -> Result<&'static str> {
    let name = mixed_name(chance.random_range(0..NODES));
    let link = |farm: &mut Farm, link| farm.fleet.link(&name, link);
    Ok(match chance.random_range(0..100u32) {
        0..15 => {
            farm.fleet.order(&name, Order::PowerOff)?;
            "power cuts"
        }
        15..40 => {
            let runs = farm.fleet.host(&name).is_some_and(|host| host.node().is_some());
            farm.fleet.order(&name, if runs { Order::Restart } else { Order::PowerOn })?;
            if runs { "restarts" } else { "returns of power" }
        }
        40..45 => {
            losses.erased(farm, &name);
            farm.fleet.order(&name, Order::EraseRing)?;
            "erased rings"
        }
        45..65 => {
            link(farm, Link::Down)?;
            "link cuts"
        }
        65..75 => {
            link(farm, Link::Lossy { share: chance.random_range(0.05..0.5) })?;
            "lossy links"
        }
        75..80 => {
            // Beyond two seconds, no clock can be had.
            link(farm, Link::Slow { ms: chance.random_range(100..3_000) })?;
            "slow links"
        }
        _ => {
            link(farm, Link::Up)?;
            "good links"
        }
    })
}

async fn campaign(seed: u64, days: u64) -> Result<()> {
    let mut plan = Plan::mixed(NODES, 60, seed)?;
    for seat in plan.nodes.iter_mut().step_by(3) {
        seat.parts.flash = Flash::new(SMALL_SECTORS);
    }
    let mut farm = plan.start().await?;
    let (mut losses, mut chance) = (Losses::default(), ChaCha8Rng::seed_from_u64(seed));
    let mut befallen: BTreeMap<&str, u32> = BTreeMap::new();
    let end = days * 24 * HOUR;
    let mut at = HOUR;
    while at < end {
        while farm.fleet.step(at).await? {
            losses.look(&farm);
        }
        losses.look(&farm);
        *befallen.entry(befall(&mut farm, &mut losses, &mut chance)?).or_default() += 1;
        at += chance.random_range(MINUTE..HOUR);
    }
    // All is well again, and what they hold is delivered.
    for index in 0..NODES {
        let name = mixed_name(index);
        farm.fleet.link(&name, Link::Up)?;
        if farm.fleet.host(&name).is_some_and(|host| host.node().is_none()) {
            farm.fleet.order(&name, Order::PowerOn)?;
        }
    }
    let kept: Vec<_> = farm.fleet.hosts().filter_map(|host| host.node()?.ring()).map(|(_, _, next)| next).collect();
    loop {
        let released = farm.fleet.hosts().filter_map(|host| host.node()?.session().released());
        if released.zip(&kept).filter(|(released, kept)| released >= *kept).count() == NODES {
            break;
        }
        ensure!(farm.fleet.step(end + HOUR).await?, "not everything is delivered");
        losses.look(&farm);
    }
    let (agreement, _) = farm.agreement().await?;
    let waiting = farm.gateway.acceptor().waiting();
    let held_for = |(node, ring, seq): &books::Name| {
        let covers = |it: &gateway::accept::held::Summary| {
            it.node == *node && it.ring == *ring && (it.from..it.from + it.count).contains(seq)
        };
        waiting.iter().find(|(_, it)| covers(it)).map(|(_, it)| it.reason)
    };
    let (mut lost, mut held, mut waits) = (0, 0, 0);
    for name in &agreement.unstored {
        let host = farm.fleet.host(&name.0).and_then(|host| host.node()).context("it runs")?;
        let present = host.ring().is_some_and(|(ring, ..)| ring == name.1);
        if losses.has(name) {
            lost += 1;
        } else if let Some(reason) = held_for(name) {
            // A boot that never knew the time waits for a later one of its ring that does; all of
            // those that have their ring still know it now.
            let for_ever = !present && reason.blocks();
            ensure!(for_ever || reason == Reason::Clash, "seed {seed}: {name:?} is held: {}", reason.text());
            held += 1;
        } else if present && host.session().released().is_some_and(|released| name.2 >= released) {
            waits += 1;
        } else {
            anyhow::bail!("seed {seed}: {name:?} is lost, and nothing has happened to it");
        }
    }
    let stored_and_gone = books::taken(farm.fleet.hosts())?;
    let gone = stored_and_gone.keys().filter(|name| losses.has(name)).count();
    ensure!(gone == lost, "seed {seed}: {gone} rounds were gone before they were delivered, and {lost} are not stored");
    println!(
        "measured: seed {seed}, {days} days: {} rounds stored, {lost} erased or overwritten, {held} held, {waits} not \
         yet due; dates off by at most {} ms, {} stated; {befallen:?}",
        agreement.rounds, agreement.off_ms_max, agreement.error_ms_max
    );
    farm.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befalls_nodes_for_days_exactly_what_was_erased_or_overwritten_is_lost() -> Result<()> {
    let (seeds, days) = if long() { (1..=8, 7) } else { (1..=1, 3) };
    for seed in seeds {
        campaign(seed, days).await?;
    }
    Ok(())
}
