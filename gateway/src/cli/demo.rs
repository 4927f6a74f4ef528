//! `tianyu demo`: what its command line means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use gateway::config::{INFLUX_TIMEOUT_MS, Influx, Log};
use gateway::demo::{self, Options};

/// Only trouble is worth a line beside the table.
const LOG: &str = "warn";

/// The command line of the demonstration.
#[derive(clap::Args)]
pub(super) struct DemoArguments {
    /// Where everything is kept; a second start goes on with what is there
    #[arg(long, value_name = "DIR", default_value = "tianyu-demo")]
    data: PathBuf,
    /// Address of the page with JSON of the same
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Simulated seconds that pass in a real one, 0.1 to 60
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    time_lapse: f64,
    /// Let the upper probe of the near-shore cage replay this recorded series (CSV of an aquaMeasure
    /// logger)
    #[arg(long, value_name = "FILE")]
    recorded: Option<PathBuf>,
    /// Recorded seconds that pass in a simulated one, 1 to 86400; its rows are hours apart
    #[arg(long, value_name = "N", default_value_t = 600.0, requires = "recorded")]
    speed: f64,
    /// Chance: the same seed gives the same places
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write into this InfluxDB 2 as well, such as http://127.0.0.1:8086
    #[arg(long, value_name = "URL", requires_all = ["influx_org", "influx_bucket", "influx_token_file"])]
    influx_url: Option<String>,
    /// Its organisation
    #[arg(long = "org", id = "influx_org", value_name = "ORG", requires = "influx_url")]
    org: Option<String>,
    /// Its bucket
    #[arg(long = "bucket", id = "influx_bucket", value_name = "BUCKET", requires = "influx_url")]
    bucket: Option<String>,
    /// File with a token that may write the bucket
    #[arg(long = "token-file", id = "influx_token_file", value_name = "FILE", requires = "influx_url")]
    token_file: Option<PathBuf>,
}

/// Runs the demonstration until Ctrl-C.
pub(super) fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let DemoArguments { data, http, time_lapse, recorded, speed, seed, influx_url, org, bucket, token_file } =
        arguments;
    anyhow::ensure!(
        http.ip().is_loopback(),
        "{http} is reachable from other machines and the page has no log-in: use 127.0.0.1 or [::1]"
    );
    anyhow::ensure!((1.0..=86_400.0).contains(&speed), "--speed is {speed}: it can be 1 to 86400");
    let recorded = recorded.map(|file| (file, speed));
    let influx = match (influx_url, org, bucket, token_file) {
        (Some(url), Some(org), Some(bucket), Some(token_file)) => {
            Some(Influx { url, org, bucket, token_file, required: false, timeout_ms: INFLUX_TIMEOUT_MS })
        }
        _ => None,
    };
    super::log_to_stderr(&Log { filter: LOG.to_owned(), json: false })?;
    super::until_told(async |shutdown| {
        demo::run(Options { data_dir: data, http, influx, speed: time_lapse, recorded, seed }, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}
