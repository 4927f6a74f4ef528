//! The commands as a person uses them, on the real binary.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use system_tests::custodian::Custodian;
use system_tests::{Tianyu, free_port, until};

const SOON: Duration = Duration::from_secs(30);

const SITE: &str = "[[site]]\nname = \"s\"\nadcode = 350181\n[[site.unit]]\nname = \"塘 1\"\nkind = \"pond\"\n";

fn node(name: &str) -> String {
    format!("[[node]]\nname = \"{name}\"\n[[node.at]]\nsince = 2020-01-01T00:00:00Z\nsite = \"s\"\nunit = \"塘 1\"\n")
}

/// A gateway that knows the place of `pond-1` only; its MQTT and HTTP ports.
async fn gateway() -> Result<(Tianyu, u16, u16)> {
    let mut tianyu = Tianyu::new()?;
    let (mqtt, http) = (free_port()?, free_port()?);
    tianyu.file("sites.toml", &format!("{SITE}{}", node("pond-1")))?;
    tianyu.file(
        "tianyu.toml",
        &format!("sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"127.0.0.1:{mqtt}\"]\n[api]\nlisten = \"127.0.0.1:{http}\"\n"),
    )?;
    tianyu.run()?;
    tianyu.line("ready", SOON).await?;
    Ok((tianyu, mqtt, http))
}

/// Runs a command to its end; its exit code and output.
async fn command(tianyu: &Tianyu, arguments: &[&str]) -> Result<(i32, String)> {
    let (status, lines) = tianyu.command(arguments, SOON).await?;
    Ok((status.code().context("ended by a signal")?, lines.join("\n")))
}

#[tokio::test]
async fn check_names_file_line_column_and_remedy_and_its_exit_code_means_it() -> Result<()> {
    let tianyu = Tianyu::new()?;
    tianyu.file("sites.toml", &format!("{SITE}{}", node("pond-1").replace("塘 1", "塘 2")))?;
    tianyu.file("tianyu.toml", "sites = [\"sites.toml\"]\n[endpoint]\nlisten = [\"0.0.0.0:1883\"]\n")?;
    let (code, text) = command(&tianyu, &["check", "tianyu.toml", "sites.toml"]).await?;
    ensure!(code == 3, "{code}: {text}");
    ensure!(text.contains("tianyu.toml:3:1: 0.0.0.0:1883") && text.contains("allow_plaintext = true"), "{text}");
    ensure!(text.contains("sites.toml:12:8: site \"s\" has no unit \"塘 2\"; it has \"塘 1\""), "{text}");
    tianyu.file("sites.toml", &format!("{SITE}{}", node("pond-1")))?;
    let (code, text) = command(&tianyu, &["check", "sites.toml"]).await?;
    ensure!(code == 0 && text.contains("nothing wrong"), "{code}: {text}");
    ensure!(command(&tianyu, &["check", "absent.toml"]).await?.0 == 1);
    ensure!(command(&tianyu, &["chekc"]).await?.0 == 2);
    Ok(())
}

#[tokio::test]
async fn help_reads_for_every_command_and_completions_for_every_shell() -> Result<()> {
    let tianyu = Tianyu::new()?;
    let (code, text) = command(&tianyu, &["--help"]).await?;
    ensure!(code == 0 && text.contains("Exit codes") && text.contains("tianyu demo"), "{text}");
    for of in ["run", "demo", "check", "node", "spool", "held"] {
        ensure!(text.contains(&format!("  {of} ")), "{of} is not in {text}");
        let (code, text) = command(&tianyu, &[of, "--help"]).await?;
        ensure!(code == 0 && text.contains("Usage: tianyu"), "{text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, text) = command(&tianyu, &["completions", shell]).await?;
        ensure!(code == 0 && text.contains("held"), "{shell}: {text}");
    }
    let (code, text) = command(&tianyu, &["--version"]).await?;
    ensure!(code == 0 && text == format!("tianyu {}", env!("CARGO_PKG_VERSION")), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_listed_shown_dropped_and_taken_in_once_its_place_is_known() -> Result<()> {
    let (mut tianyu, mqtt, http) = gateway().await?;
    let (code, text) = command(&tianyu, &["held", "list"]).await?;
    ensure!(code == 0 && text == "0 waiting", "{text}");
    let strays = [
        Custodian::start(&tianyu, "pond-2", mqtt, Duration::from_millis(20)).await?,
        Custodian::start(&tianyu, "pond-3", mqtt, Duration::from_millis(20)).await?,
    ];
    until("receipts for what waits", SOON, || async { strays.iter().all(|s| s.released() > 5).then_some(()) }).await?;
    for stray in &strays {
        stray.stop_producing();
    }
    until("all receipts", SOON, || async { strays.iter().all(Custodian::done).then_some(()) }).await?;

    let (_, list) = command(&tianyu, &["held", "list"]).await?;
    let first = |node: &str| {
        let line = list.lines().find(|line| line.contains(node))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let (of_2, of_3) = (first("pond-2").context("pond-2 waits")?, first("pond-3").context("pond-3 waits")?);
    let (code, text) = command(&tianyu, &["held", "show", &of_2]).await?;
    ensure!(
        code == 0 && text.contains("sites.toml does not say") && text.contains("remedy") && text.contains("bytes "),
        "{text}"
    );
    let (code, text) = command(&tianyu, &["held", "replay", &of_2]).await?;
    ensure!(code == 1 && text.contains("sites.toml"), "{text}");
    let (code, text) =
        command(&tianyu, &["held", "resolve", &of_2, "--began", "2026-11-01T00:00:00Z", "--by", "test"]).await?;
    ensure!(code == 1 && text.contains("sites.toml"), "it waits for a place, not for a date: {text}");
    let (code, text) = command(&tianyu, &["held", "drop", &of_3, "--by", " "]).await?;
    ensure!(code == 1 && text.contains("say who"), "{text}");
    let (code, text) = command(&tianyu, &["held", "drop", &of_3, "--by", "test"]).await?;
    ensure!(code == 0 && text == "dropped", "{text}");
    let (code, text) = command(&tianyu, &["held", "show", &of_3]).await?;
    ensure!(code == 1 && text.contains("nothing waits under"), "{text}");

    // The place of one of them becomes known; a person tells by a signal.
    tianyu.file("sites.toml", &format!("{SITE}{}{}", node("pond-1"), node("pond-2")))?;
    tianyu.signal(Signal::HUP)?;
    let rest = until("pond-2 is placed", SOON, || async {
        let (_, list) = command(&tianyu, &["held", "list"]).await.ok()?;
        (!list.contains("pond-2")).then_some(list)
    })
    .await?;
    ensure!(rest.contains("pond-3"), "{rest}");
    tianyu.answers(http, "api/v1/nodes", SOON, |body| body.contains("\"node\":\"pond-2\"")).await?;
    let (code, export) = command(&tianyu, &["spool", "export"]).await?;
    ensure!(code == 0 && export.contains("\"node\":\"pond-2\""), "{export}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_registry_is_said_and_the_old_one_stays() -> Result<()> {
    let (mut tianyu, mqtt, http) = gateway().await?;
    let custodian = Custodian::start(&tianyu, "pond-1", mqtt, Duration::from_millis(20)).await?;
    tianyu.file("sites.toml", &SITE.replace("350181", "350199"))?;
    tianyu.signal(Signal::HUP)?;
    tianyu.line("the old one stays in force", SOON).await?;
    let from = custodian.released();
    until("reports are still taken", SOON, || async { (custodian.released() > from + 5).then_some(()) }).await?;
    let held = tianyu.answers(http, "api/v1/pipeline", SOON, |_| true).await?;
    ensure!(held.contains("\"held\":0"), "{held}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_put_out_and_stays_out_until_it_gets_another_token() -> Result<()> {
    let (tianyu, mqtt, http) = gateway().await?;
    let custodian = Custodian::start(&tianyu, "pond-1", mqtt, Duration::from_millis(20)).await?;
    until("receipts", SOON, || async { (custodian.released() > 3).then_some(()) }).await?;
    let (code, text) = command(&tianyu, &["node", "add", "pond-1"]).await?;
    ensure!(code == 1 && text.contains("revoke them first"), "{text}");
    ensure!(command(&tianyu, &["node", "revoke", "pond-1"]).await?.0 == 0);
    tianyu
        .answers(http, "api/v1/nodes", SOON, |body| {
            body.contains("\"connected\":false") && !body.contains("\"connected\":true")
        })
        .await?;
    let (_, list) = command(&tianyu, &["node", "list"]).await?;
    ensure!(list.contains("pond-1") && list.contains("revoked"), "{list}");
    tianyu.line("log-in refused", SOON).await?;
    ensure!(command(&tianyu, &["node", "add", "pond-1"]).await?.0 == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_running_gateway_can_be_looked_into() -> Result<()> {
    let (tianyu, mqtt, _) = gateway().await?;
    let custodian = Custodian::start(&tianyu, "pond-1", mqtt, Duration::from_millis(5)).await?;
    until("receipts", SOON, || async { (custodian.released() > 100).then_some(()) }).await?;
    for what in ["inspect", "verify"] {
        let (code, text) = command(&tianyu, &["spool", what]).await?;
        ensure!(code == 0 && text.contains("spool: 1 segments") && text.contains("entries"), "{text}");
    }
    let (code, export) = command(&tianyu, &["spool", "export"]).await?;
    let seqs: Vec<u64> = export
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line)?["seq"].as_u64().context("a seq"))
        .collect::<Result<_>>()?;
    ensure!(code == 0 && seqs.len() > 100 && seqs.iter().copied().eq(0..seqs.len() as u64), "{seqs:?}");
    Ok(())
}
