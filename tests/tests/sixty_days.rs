//! Sixty days of nodes in the field, on one virtual clock: power fails every day, the network is
//! away for a day every week, the ring goes round many times, and boot numbers and the low half of
//! seqs go over their wraps. Nothing is lost, doubled or misdated, and nothing has grown.

use anyhow::{Context as _, Result, ensure};
use node::ring::Ring;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use simulator::fleet::Order;
use simulator::host::Flash;
use simulator::lockstep::Link;
use system_tests::farm::{HOUR, mixed_name};
use system_tests::{Farm, Plan};
use telemetry::Record;
use telemetry::record::{Event, EventCode};

const NODES: usize = 2;
const DAYS: u64 = 60;
const DAY: u64 = 24 * HOUR;
const PERIOD_S: u16 = 180;
/// 256 KiB, so the ring goes round about every third week.
const SECTORS: usize = 64;
/// Boot numbers are 16 bits: a cut a day goes over the wrap in the middle.
const BOOT: u16 = u16::MAX - 30;
/// Frames keep the low 16 bits of a seq: these go over the wrap in the third week.
const SEQ: u32 = u16::MAX as u32 + 1 - 15_000;
/// Dates are off by half a round trip, and by 40 ppm of a day without a gateway and of six hours
/// until a session is renewed.
const ERROR_MS_MAX: u64 = (DAY + 6 * HOUR) * 40 / 1_000_000 + 100;
/// What the gateway's log keeps when everything is in the history: the segment that is written.
const SPOOL_BYTES_MAX: u64 = 64 << 20;

/// A ring that has seen better days: its next boot and seq are just short of their wraps.
fn aged(flash: &Flash, id: u32) -> Result<()> {
    let mut ring = Ring::format(flash.clone(), id)?;
    // Round once, so that no sector speaks of seqs before.
    for seq in (SEQ..).take(SECTORS) {
        ring.advance(seq)?;
    }
    let mut bytes = [0; 64];
    let event = Event { t_ms: 0, code: EventCode::Restarted, subject: 0, value: 1, detail: 0 };
    let length = Record::Event(event).encode(BOOT, &mut bytes)?;
    ring.append(&bytes[..length])?;
    Ok(())
}

async fn delivered(farm: &mut Farm, by: u64) -> Result<()> {
    ensure!(farm.fleet.run_until_delivered(by).await?, "not delivered by {} h", by / HOUR);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_days_of_power_cuts_outages_and_wraps_lose_and_misdate_nothing() -> Result<()> {
    let mut plan = Plan::mixed(NODES, PERIOD_S, 60)?;
    for (id, seat) in (1..).zip(&mut plan.nodes) {
        seat.parts.flash = Flash::new(SECTORS);
        aged(&seat.parts.flash, id)?;
    }
    let mut farm = plan.start().await?;
    let mut chance = ChaCha8Rng::seed_from_u64(60);
    for day in 0..DAYS {
        // The last day of each week is without a network.
        let away = day % 7 == 6;
        let link = if away { Link::Down } else { Link::Up };
        for index in 0..NODES {
            farm.fleet.link(&mixed_name(index), link)?;
        }
        let mut cuts: Vec<_> = (0..NODES).map(|index| (chance.random_range(HOUR..DAY - HOUR), index)).collect();
        cuts.sort_unstable();
        for (at, index) in cuts {
            farm.fleet.run_until(day * DAY + at).await?;
            farm.fleet.order(&mixed_name(index), Order::Restart)?;
        }
        farm.fleet.run_until((day + 1) * DAY).await?;
    }
    for index in 0..NODES {
        farm.fleet.link(&mixed_name(index), Link::Up)?;
    }
    delivered(&mut farm, DAYS * DAY + HOUR).await?;
    let (agreement, stored) = farm.agreement().await?;
    farm.nothing_lost(&agreement)?;
    ensure!(agreement.error_ms_max <= ERROR_MS_MAX, "{} ms stated", agreement.error_ms_max);
    let expected = NODES as u64 * DAYS * DAY / 1_000 / u64::from(PERIOD_S);
    ensure!(stored.len() as u64 >= expected, "a stall: {} rounds of {expected}", stored.len());
    for host in farm.fleet.hosts() {
        let node = host.node().context("it runs")?;
        let (ring, _, next) = node.ring().context("its ring is sound")?;
        ensure!(node.boot_number() < 60, "boots went over their wrap: {}", node.boot_number());
        ensure!(next > u32::from(u16::MAX) + 1, "seqs went over theirs: {next}");
        ensure!((1..=NODES as u32).contains(&ring), "the ring was made anew");
        ensure!(node.counters().lost == 0 && node.alarms() & telemetry::Alarm::Storage.bit() == 0);
    }
    let spool: u64 = std::fs::read_dir(farm.directory().join("spool"))?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum::<Result<_>>()?;
    ensure!(spool <= SPOOL_BYTES_MAX, "the gateway's log has grown to {spool} bytes");
    println!(
        "measured: {DAYS} days, {} rounds; dates off by at most {} ms, {} stated; spool {spool} bytes",
        agreement.rounds, agreement.off_ms_max, agreement.error_ms_max
    );
    farm.stop().await?;
    Ok(())
}
