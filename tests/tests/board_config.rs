//! A node made by writing a file, on the emulated board: provisioned over its serial port, given other
//! configs through the gateway, and back by itself from one that does not prove itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::board::{Options, Pond};
use system_tests::books::Stored;
use system_tests::station::{NOWHERE, WITHIN};
use system_tests::until;

/// Boots after which a config that has not proved itself is given up (`node::trial`), and one more.
const BOOTS: u32 = 5;

fn file(port: u16, period_s: u32, address: u8) -> String {
    format!(
        "[node]\nname = \"pond-1\"\nboard = \"qemu-mps2\"\nperiod_s = {period_s}\nbatch_records = 1\nhold_s = 1\n\
         [link]\nkind = \"ethernet\"\n[gateway]\nhost = \"10.0.2.2\"\nport = {port}\n\
         [[probe]]\nname = \"do\"\nprofile = \"quick.toml\"\nline = \"rs485-0\"\naddress = {address}\n\
         response_ms = 100\nretries = 0\n\
         [[channel]]\nname = \"oxygen\"\nproperty = \"dissolved_oxygen\"\nprobe = \"do\"\n\
         [[channel]]\nname = \"board\"\nproperty = \"air_temperature\"\npart = \"tmp105\"\nbus = \"i2c-0\"\naddress = 0x48\n\
         [[actuator]]\nname = \"aerator\"\nkind = \"aerator\"\noutput = \"out-0\"\n\
         [actuator.aerator]\nchannel = \"oxygen\"\non_below = 4.5\noff_above = 6.0\ncritical = 3.0\n"
    )
}

/// Waits until the node says of its config what is wanted.
async fn says(pond: &Pond, wanted: &str) -> Result<String> {
    until(wanted, 2 * WITHIN, || async { pond.board.status().await.ok().filter(|status| status.contains(wanted)) })
        .await
}

/// A board that was provisioned with the file over its serial port and has proved itself.
async fn made() -> Result<Option<Pond>> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(None) };
    let (status, lines) = pond.station.tianyu.command(&["node", "revoke", "pond-1"], WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    pond.station.tianyu.file("quick.toml", &Pond::profile()?.replace("renke-rs-ldo-n01", "quick"))?;
    pond.station.tianyu.file("pond-1.toml", &file(pond.settings.port, 3, 1))?;
    pond.board.start().await?;
    let serial = format!("unix:{}", pond.board.port().display());
    let provision = ["node", "provision", "--serial", &serial, "pond-1.toml", "--by", "li"];
    let (status, lines) = pond.station.tianyu.command(&provision, 2 * WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    says(&pond, "confirmed").await?;
    pond.stored("a round", |_, _| true).await?;
    Ok(Some(pond))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_calibrated_against_a_standard_and_its_readings_name_the_calibration() -> Result<()> {
    let Some(pond) = made().await? else { return Ok(()) };
    let calibrate = [
        "node",
        "calibrate",
        "pond-1.toml",
        "oxygen",
        "--standard",
        "7.55",
        "--by",
        "li",
        "--next-due",
        "2027-05-25",
        "--yes",
    ];
    let (status, lines) = pond.station.tianyu.command(&calibrate, 4 * WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    let oxygen = |stored: &Stored| {
        let found = stored.readings.iter().find(|(_, name, ..)| name == "dissolved_oxygen");
        found.map(|(.., reading)| reading.clone())
    };
    let calibrated = |stored: &Stored| oxygen(stored).is_some_and(|it| it.calibration == 1);
    let (_, stored) = pond.stored("a reading under the calibration", |_, stored| calibrated(stored)).await?;
    let reading = oxygen(&stored);
    let fine = reading.as_ref().is_some_and(|it| it.value == Some(7.55) && it.raw == Some(7.19));
    ensure!(fine, "{reading:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_node_another_config_is_confirmed_and_one_without_its_probe_rolls_back() -> Result<()> {
    let Some(mut pond) = made().await? else { return Ok(()) };
    let port = pond.settings.port;

    // Another period: on trial, and confirmed by the receipt of its description and a reading.
    pond.station.tianyu.file("pond-1.toml", &file(port, 4, 1))?;
    let push = ["node", "push", "pond-1.toml", "--by", "li"];
    let (status, lines) = pond.station.tianyu.command(&push, 2 * WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    let second = says(&pond, "config 2 ").await?;
    ensure!(second.contains("trial") || second.contains("confirmed"), "{second}");
    says(&pond, "confirmed").await?;

    // One whose oxygen probe is not there: the aerator's rule never reads, so it is given up.
    pond.station.tianyu.file("pond-1.toml", &file(port, 4, 9))?;
    let (_, lines) = pond.station.tianyu.command(&push, 2 * WITHIN).await?;
    says(&pond, "config 3 ").await.map_err(|error| error.context(lines.join("\n")))?;
    for _ in 0..BOOTS {
        pond.board.restart().await?;
        says(&pond, "config ").await?;
    }
    let back = says(&pond, "config 2 ").await?;
    ensure!(back.contains("confirmed"), "{back}");
    let told = |line: &String| line.contains("gave") || line.contains("given up") || line.contains("rolled");
    let configs = until("the gateway knows that it was given up", WITHIN, || async {
        let (_, lines) = pond.station.tianyu.command(&["node", "configs", "pond-1"], WITHIN).await.ok()?;
        lines.iter().any(told).then_some(lines)
    })
    .await?;
    println!("measured: {}", configs.join(" | "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_and_counted_until_the_node_is_provisioned_anew() -> Result<()> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    let token = pond.settings.token;
    pond.settings.token[0] ^= 1;
    pond.provision().await?;
    until("a refused log-in", WITHIN, || async {
        pond.board.status().await.ok().filter(|status| !status.contains("log-in 0"))
    })
    .await?;
    ensure!(pond.history().unwrap_or_default().is_empty(), "something was stored");
    pond.settings.token = token;
    pond.reprovision_settings().await?;
    pond.stored("a round after the right token", |_, _| true).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flash_that_fails_costs_records_and_no_cycle_of_control() -> Result<()> {
    use emulation::control::Word;
    use telemetry::Property;

    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    pond.provision().await?;
    pond.stored("a first round", |_, _| true).await?;
    for word in [Word::FailPrograms, Word::FailErases] {
        pond.board.flash().set(word, 1)?;
    }
    let aerates = |on: bool| {
        let tank = pond.tank.clone();
        until("the aerator", Duration::from_secs(30), move || {
            let tank = tank.clone();
            async move { (tank.is_on(0) == Some(on)).then_some(()) }
        })
    };
    for (oxygen, on) in [(3.0, true), (7.0, false), (3.0, true), (7.0, false)] {
        pond.tank.set(Property::DissolvedOxygen, oxygen);
        aerates(on).await?;
    }
    let status = says(&pond, "storage").await?;
    ensure!(!status.contains("not kept 0,"), "{status}");
    for word in [Word::FailPrograms, Word::FailErases] {
        pond.board.flash().set(word, 0)?;
    }
    // It is left alone for a minute after three failures, then tried again.
    says(&pond, "alarms: none").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_line_finds_the_probe_by_its_address_and_tells_what_it_looks_like() -> Result<()> {
    let Some(mut pond) = Pond::new(Some(NOWHERE), "", Options::default()).await? else { return Ok(()) };
    pond.provision().await?;
    pond.stored("a first round", |_, _| true).await?;
    pond.board.type_line("scan 0 1 4").await?;
    let found = pond.board.console_line("found address 1", WITHIN).await?;
    ensure!(found.contains("renke"), "{found}");
    pond.board.console_line("> 01 03", WITHIN).await?;
    pond.board.console_line("1 found", WITHIN).await?;
    // Sampling went on: a round that began after the scan has the probe's value.
    let rounds = pond.history()?.len();
    until("rounds after the scan", WITHIN, || async { pond.history().ok().filter(|it| it.len() > rounds + 1) }).await?;
    Ok(())
}
