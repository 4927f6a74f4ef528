//! Lines a second into a real InfluxDB 2.7 through the product's sink (its own encoder, gzip,
//! influxdb2); beside it a bare HTTP client that posts lines made before, 5,000 a request.

use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use gateway::entry::Accepted;
use gateway::sinks::feed::{Influx as Sink, Sink as _, Status};
use gateway::sinks::influx::{Client, Target, Timeouts};
use gateway::sinks::line::Lines;
use system_tests::Influx;
use system_tests::influx::{BUCKET, ORG, TOKEN};
use system_tests::measure::{RUNS, Spread, own_cpu};
use tokio_util::sync::CancellationToken;

use crate::entries::{BEGAN_MS, accepted};

const NODES: u32 = 1_000;
/// Rounds of each node in one run; each is a line.
const ROUNDS: u32 = 50;
/// Lines of one request.
const REQUEST_LINES: usize = 5_000;

fn entries(run: u32) -> Vec<Accepted> {
    let rounds = run * ROUNDS..(run + 1) * ROUNDS;
    rounds.flat_map(|seq| (0..NODES).map(move |node| accepted(node, seq, BEGAN_MS + i64::from(seq) * 60_000))).collect()
}

pub(crate) async fn run() -> Result<()> {
    let Some(server) = Influx::start().await? else { return Ok(()) };
    let url = server.url();
    // The sink waits for its answers on a thread of its own, as in the gateway.
    let work = tokio::task::spawn_blocking(move || compare(&url));
    work.await?
}

fn compare(url: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let target = Target { url: url.to_owned(), org: ORG.into(), bucket: BUCKET.into(), token: TOKEN.into() };
    let (timeouts, stop) = (Timeouts::default(), CancellationToken::new());
    let mut sink = Sink(Box::new(Client::new(target, timeouts, stop, runtime.handle().clone())?));
    let http = reqwest::Client::builder().no_proxy().build().context("HTTP client")?;
    let write = format!("{url}/api/v2/write?org={ORG}&bucket={BUCKET}&precision=ms");
    let count = f64::from(NODES * ROUNDS);
    let [mut ours, mut bare, mut our_cpu, mut bare_cpu] = [const { Vec::new() }; 4];
    // The first two runs make the series.
    for run in 0..=RUNS as u32 {
        let batch = entries(2 * run);
        let (used, began) = (own_cpu()?, Instant::now());
        for batch in batch.chunks(REQUEST_LINES) {
            sink.store(batch, 0, 0, &mut Status::default()).map_err(|failure| anyhow!("{failure:?}"))?;
        }
        let (our_time, our_use) = (began.elapsed(), own_cpu()? - used);

        let mut lines = Lines::default();
        entries(2 * run + 1).iter().for_each(|accepted| lines.push(accepted));
        let (used, began) = (own_cpu()?, Instant::now());
        for first in (0..lines.len()).step_by(REQUEST_LINES) {
            let body = lines.text(first..lines.len().min(first + REQUEST_LINES)).to_owned();
            let request = http.post(&write).header("Authorization", format!("Token {TOKEN}")).body(body);
            runtime.block_on(async { request.send().await?.error_for_status() })?;
        }
        if run > 0 {
            ours.push(count / our_time.as_secs_f64());
            our_cpu.push(our_use.as_secs_f64() * 1e6 / count);
            bare.push(count / began.elapsed().as_secs_f64());
            bare_cpu.push((own_cpu()? - used).as_secs_f64() * 1e6 / count);
        }
    }
    println!("lines of 8 values into InfluxDB 2.7, {REQUEST_LINES} a request\n");
    println!("{:>20} {:>30} {:>30} {:>8}", "", "product's sink", "bare HTTP, no encoding", "ratio");
    for (what, ours, bare) in [("lines/s", ours, bare), ("own CPU, µs a line", our_cpu, bare_cpu)] {
        let (ours, bare) = (Spread::of(ours), Spread::of(bare));
        println!("{what:>20} {:>30} {:>30} {:>8.2}", ours.to_string(), bare.to_string(), ours.median / bare.median);
    }
    Ok(())
}
