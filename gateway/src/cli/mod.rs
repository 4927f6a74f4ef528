//! The commands. Exit codes: 0 well, 1 something went wrong, 2 the command line is wrong (by
//! clap), 3 what was checked is wrong.

#[cfg(feature = "field")]
mod calibrate;
#[cfg(feature = "field")]
mod demo;
mod held;
mod inspect;
mod node;
#[cfg(feature = "field")]
mod node_field;
#[cfg(feature = "field")]
mod provision;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use gateway::clock::SystemClock;
use gateway::config::{Complaint, Config, Log};
use gateway::registry::Registry;
use gateway::{Gateway, Surroundings, accept, listing, metric, run};
use spool::Disk;
use tokio_util::sync::CancellationToken;

/// What was checked is wrong.
const WRONG: u8 = 3;

/// 田渔 Tianyu: collects what instruments on ponds, cages and fields measure, loses nothing it
/// has acknowledged, and writes it to a local history and to InfluxDB.
#[derive(Parser)]
#[command(
    name = "tianyu",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 well; 1 something went wrong; 2 the command line is wrong; 3 what was checked is wrong.\n\
                  Try it: tianyu demo"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until it is told to stop (Ctrl-C or SIGTERM)
    Run {
        /// Configuration file; see the commented example in gateway/examples/tianyu.toml
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Believe the machine's clock although later dates are in the log: after it ran ahead and
        /// was set right
        #[arg(long)]
        trust_clock: bool,
    },
    /// Show it all at once: a gateway and four simulated sites in this process, nothing to install
    #[cfg(feature = "field")]
    Demo(demo::DemoArguments),
    /// Check configuration, registry and node files: file, line, column, what is wrong, what would be right
    Check {
        /// tianyu.toml, sites.toml or node files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Make nodes: credentials, images, configs, calibration
    Node {
        /// The gateway's data directory
        #[arg(long, value_name = "DIR", default_value = "tianyu-data")]
        data: PathBuf,
        #[command(subcommand)]
        command: node::NodeCommand,
    },
    /// Look into the durable log, also while a gateway writes it
    Spool {
        /// The gateway's data directory
        #[arg(long, value_name = "DIR", default_value = "tianyu-data")]
        data: PathBuf,
        #[command(subcommand)]
        command: SpoolCommand,
    },
    /// See and settle what waits for a description, a place or a clock, or was refused
    Held {
        /// The gateway's data directory
        #[arg(long, value_name = "DIR", default_value = "tianyu-data")]
        data: PathBuf,
        #[command(subcommand)]
        command: held::HeldCommand,
    },
    /// Print completions for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum SpoolCommand {
    /// Segments, entries, bytes
    Inspect,
    /// Read everything; exit code 3 if something is damaged
    Verify,
    /// Print every record as a line of JSON
    Export,
}

/// Runs a command.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    match command(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tianyu: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config, trust_clock } => run_gateway(&config, trust_clock),
        #[cfg(feature = "field")]
        Command::Demo(arguments) => demo::run(arguments),
        Command::Check { files } => check(&files),
        Command::Node { data, command } => node::run(&data, command),
        Command::Spool { data, command } => match command {
            SpoolCommand::Inspect => inspect::inspect(&data, false),
            SpoolCommand::Verify => inspect::inspect(&data, true),
            SpoolCommand::Export => inspect::export(&data),
        },
        Command::Held { data, command } => held::run(&data, command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "tianyu", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run_gateway(path: &std::path::Path, trust_clock: bool) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(complaints) => {
            eprintln!("{}", listing(&complaints));
            return Ok(ExitCode::from(WRONG));
        }
    };
    if let Err(complaints) = Registry::load(&config.sites) {
        eprintln!("{}", listing(&complaints));
        return Ok(ExitCode::from(WRONG));
    }
    log_to_stderr(&config.log)?;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    metric::describe();
    until_told(async |shutdown| {
        let clock = if trust_clock { SystemClock::trusted() } else { SystemClock::new() };
        let surroundings = Surroundings::from(&config, Arc::new(clock), Some(metrics)).await?;
        run(config, surroundings, shutdown, |gateway| {
            tokio::spawn(hang_ups(gateway));
            tracing::info!("ready");
        })
        .await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts logging, one line an event.
fn log_to_stderr(settings: &Log) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.filter).context("read log.filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    if settings.json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(())
}

/// Runs `work` on a runtime of its own until it ends; SIGINT and SIGTERM ask it to.
fn until_told<F: Future<Output = anyhow::Result<()>>>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(signals(shutdown.clone()));
        work(shutdown).await
    })
}

/// Waits for SIGINT or SIGTERM; a second one ends the process at once.
async fn signals(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be caught; stop with SIGKILL, nothing is lost by it");
        return;
    };
    for told in 0..2 {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if told == 1 {
            std::process::exit(130);
        }
        shutdown.cancel();
    }
}

/// SIGHUP reads registry and credentials again.
async fn hang_ups(gateway: Arc<Gateway>) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hang_up) => {
            while hang_up.recv().await.is_some() {
                gateway.reload();
            }
        }
        Err(error) => tracing::error!(%error, "SIGHUP cannot be caught; files are read again when they change"),
    }
}

fn check(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut complaints = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        #[cfg(feature = "field")]
        if gateway::node_file::NodeFile::is(&text) {
            match gateway::node_file::NodeFile::load(file) {
                Ok(node) => println!("{}", node_field::summary(&node)),
                Err(found) => complaints.extend(found),
            }
            continue;
        }
        // A registry file is known by its tables; everything else is a gateway's configuration.
        let registry = text.lines().any(|line| matches!(line.trim(), "[[site]]" | "[[node]]"));
        if registry {
            complaints.extend(Registry::load(std::slice::from_ref(file)).err().unwrap_or_default());
            continue;
        }
        match Config::load(file) {
            Ok(config) => match Registry::load(&config.sites) {
                Ok(registry) => complaints.extend(shared_series(&config, &registry)?),
                Err(found) => complaints.extend(found),
            },
            Err(found) => complaints.extend(found),
        }
    }
    if complaints.is_empty() {
        println!("{} checked, nothing wrong", files.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{}", listing(&complaints));
    Ok(ExitCode::from(WRONG))
}

/// Channels that the registry would merge, by what the gateway's log says that its nodes measure.
fn shared_series(config: &Config, registry: &Registry) -> anyhow::Result<Vec<Complaint>> {
    if !config.data_dir.join("spool").is_dir() {
        return Ok(Vec::new());
    }
    let described = accept::described(&Disk, &config.data_dir)
        .with_context(|| format!("read the log in {}", config.data_dir.display()))?;
    Ok(described.iter().flat_map(|(node, description)| registry.shared_series(node.as_str(), description)).collect())
}
