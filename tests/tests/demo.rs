//! The demonstration, as `tianyu demo` runs it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway::config;
use gateway::demo::{Options, run};
use gateway::sinks::history::Reader;
use system_tests::{Influx, Tianyu, free_port, influx, until};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_second_demo_goes_on_with_the_data_of_the_first() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for _ in 0..2 {
        // Each with a runtime of its own, as two processes have; the data must be free in between.
        tokio::runtime::Runtime::new()?.block_on(once(folder.path()))?;
    }
    assert!(folder.path().join("fuqing-pond.flash").exists());
    Ok(())
}

/// Runs a demo until it has brought more readings.
async fn once(folder: &Path) -> Result<()> {
    let reader = Reader::new(&folder.join("history"));
    let (before, _) = reader.count()?;
    let stop = CancellationToken::new();
    let options = Options {
        data_dir: folder.to_owned(),
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        influx: None,
        speed: 60.0,
        recorded: None,
        seed: 1,
    };
    let mut demo = tokio::spawn(run(options, stop.clone()));
    let more = || async {
        let count = reader.count().ok()?.0;
        (count > before + 100).then_some(())
    };
    tokio::select! {
        counted = until("more readings", Duration::from_secs(60), more) => counted?,
        ended = &mut demo => anyhow::bail!("the demo ended: {:?}", ended?),
    }
    stop.cancel();
    demo.await??;
    let (count, clashes) = reader.count()?;
    assert!(count > before + 100);
    assert_eq!(clashes, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_of_the_shipped_program_shows_four_sites_answers_and_stops_when_it_is_told() -> Result<()> {
    let mut tianyu = Tianyu::new()?;
    let http = free_port()?;
    let address = format!("127.0.0.1:{http}");
    tianyu.start(&["demo", "--data", "here", "--http", &address, "--time-lapse", "30"])?;
    for node in simulator::sites::NODES {
        let line = tianyu.line(&format!("{node} age="), SOON).await?;
        ensure!(line.contains("[好]"), "{line}");
    }
    let live =
        tianyu.answers(http, "api/v1/live", SOON, |body| body.contains("\"property\":\"soil_moisture\"")).await?;
    for wanted in ["\"unit_symbol\":\"mg/L\"", "\"flag\":1", "\"age_ms\":", "\"kind\":\"aerator\""] {
        ensure!(live.contains(wanted), "{wanted}: {live}");
    }
    let status = tianyu.terminate(SOON).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_writes_to_an_influxdb_too() -> Result<()> {
    let Some(server) = Influx::start().await? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, influx::TOKEN)?;
    let target = config::Influx {
        url: server.url(),
        org: influx::ORG.to_owned(),
        bucket: influx::BUCKET.to_owned(),
        token_file,
        required: false,
        timeout_ms: config::INFLUX_TIMEOUT_MS,
    };
    let options = Options {
        data_dir: folder.path().join("data"),
        http: SocketAddr::from(([127, 0, 0, 1], 0)),
        influx: Some(target),
        speed: 60.0,
        recorded: None,
        seed: 1,
    };
    let stop = CancellationToken::new();
    let demo = tokio::spawn(run(options, stop.clone()));
    let flux = format!(
        "from(bucket: \"{}\") |> range(start: 0, stop: 2100-01-01T00:00:00Z) |> filter(fn: (r) => r._field == \"dissolved_oxygen\") \
         |> group(columns: [\"node\"]) |> count()",
        influx::BUCKET
    );
    until("oxygen of three sites in InfluxDB", SOON, || async {
        let rows = server.query(&flux).await.ok()?;
        (rows.len() == 3).then_some(())
    })
    .await?;
    stop.cancel();
    demo.await??;
    Ok(())
}
