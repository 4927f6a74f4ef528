//! `tianyu node`: credentials, and what only a farm's own tools need.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway::configs::{Configs, What};
use gateway::control;
use gateway::credentials::Credentials;
use telemetry::NodeName;

/// What is asked.
#[derive(clap::Subcommand)]
pub(super) enum NodeCommand {
    /// Make a node's token and key; the token is shown this once
    Add {
        /// Node name: 1 to 32 of a-z, 0-9 and '-'
        name: String,
    },
    /// List nodes
    List,
    /// Revoke a node's token; a running gateway closes its connection at once
    Revoke {
        /// Node name
        name: String,
    },
    /// List the configs that a node was given: number, digest, who, when, what became of each
    Configs {
        /// Node name
        name: String,
    },
    #[cfg(feature = "field")]
    #[command(flatten)]
    Field(super::node_field::FieldCommand),
}

/// Does it.
pub(super) fn run(data: &Path, command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Add { name: text } => {
            let (mut credentials, node) = (Credentials::open(data)?, name(&text)?);
            let token = credentials.add(&node)?;
            let key: String = credentials.key(&node).as_bytes().iter().map(|b| format!("{b:02x}")).collect();
            println!("node  {node}\ntoken {token}\nkey   {key}");
            eprintln!("The token is not kept and cannot be shown again.");
            tell(data)?;
        }
        NodeCommand::List => {
            for (name, entry) in Credentials::open(data)?.list() {
                let state = entry.revoked.as_ref().map_or_else(|| "valid".to_owned(), |at| format!("revoked {at}"));
                println!("{name:32} made {}  {state}", entry.created);
            }
        }
        NodeCommand::Revoke { name: text } => {
            Credentials::open(data)?.revoke(&name(&text)?)?;
            println!("revoked");
            tell(data)?;
        }
        NodeCommand::Configs { name: text } => configs(data, &name(&text)?)?,
        #[cfg(feature = "field")]
        NodeCommand::Field(command) => return super::node_field::run(data, command),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn name(text: &str) -> anyhow::Result<NodeName> {
    NodeName::new(text).with_context(|| format!("\"{text}\""))
}

fn configs(data: &Path, node: &NodeName) -> anyhow::Result<()> {
    let configs = Configs::of(data);
    let (versions, log) = (configs.versions(node)?, configs.log(node)?);
    if versions.is_empty() {
        println!("\"{node}\" was given no config from here");
    }
    for it in versions {
        println!(
            "{:>5}  {:08x}  {}  {:<16}  {}",
            it.number,
            it.digest,
            it.at,
            it.by,
            state(it.state, &it.since, &it.why)
        );
        for line in log.iter().filter(|line| (line.what, line.number) == (What::Calibrated, it.number)) {
            if let Some(of) = &line.calibration {
                let (before, after) = (of.before, of.after);
                println!(
                    "       calibrated \"{}\": slope {} offset {} before, slope {} offset {} after; next due {}",
                    of.channel, before.slope, before.offset, after.slope, after.offset, of.next_due
                );
            }
        }
    }
    Ok(())
}

/// What became of a config, in words.
pub(super) fn state(what: What, since: &str, why: &str) -> String {
    let what = match what {
        What::Kept | What::Calibrated => return "kept".to_owned(),
        What::Pushed => "waits for the node",
        What::Sent => "sent",
        What::Taken => "the node runs it",
        What::GivenUp => return format!("given up by the node, {since}: {why}"),
        What::Superseded => "a newer one went in its place",
    };
    format!("{what}, {since}")
}

/// Tells a gateway that runs on this data to read its credentials again; without one there is
/// nobody to tell.
pub(super) fn tell(data: &Path) -> anyhow::Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match control::ask(data, &control::Request::Reload) {
        Ok(answer) if answer.done => Ok(()),
        Ok(answer) => anyhow::bail!("the running gateway did not take it: {}", answer.text),
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(()),
        Err(error) => Err(error).context("tell the running gateway; it reads the file again by itself within seconds"),
    }
}

/// Has the running gateway do something; what it says.
#[cfg(feature = "field")]
pub(super) fn order(data: &Path, request: &control::Request) -> anyhow::Result<String> {
    let answer = control::ask(data, request).with_context(|| {
        format!("ask the gateway of {}; does it run, and is this its data directory (--data)?", data.display())
    })?;
    anyhow::ensure!(answer.done, "{}", answer.text);
    Ok(answer.text)
}
