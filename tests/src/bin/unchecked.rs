//! `tianyu run` without the checks that keep a farm's limits sensible: tests fill a spool of one
//! MiB in seconds, and a configuration for people refuses that.

use gateway::config::{self, Config};
use gateway::{Surroundings, run};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (config, _): (Config, String) = config::read("tianyu.toml".as_ref())?;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr).init();
    let surroundings =
        Surroundings::from(&config, std::sync::Arc::new(gateway::clock::SystemClock::trusted()), Some(metrics)).await?;
    let (shutdown, mut terminate) =
        (CancellationToken::new(), tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stop.cancel();
    });
    run(config, surroundings, shutdown, |_| tracing::info!("ready")).await
}
