//! A disk that is nearly full, full, or read-only, as a small file system of its own: the gateway
//! refuses and says so, and goes on when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::custodian::Habits;
use system_tests::station::{NODES, NOWHERE, WITHIN, answer_over_mqtt5};
use system_tests::{Station, skip};

/// MQTT 5, "quota exceeded" (MQTT 5.0 §3.14.2.1).
const QUOTA_EXCEEDED: u8 = 0x97;

/// A file system in memory, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `mib` MiB; none where that is not allowed, which counts the test as skipped.
    fn mount(at: &Path, mib: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tianyu-tests"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Ok(Some(Self(at.to_owned())));
        }
        skip("the right to mount a small file system")?;
        Ok(None)
    }

    fn remount(&self, how: &str) -> Result<()> {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status()?;
        ensure!(status.success(), "mount -o remount,{how}: {status}");
        Ok(())
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes up all but `bytes` of it; what is returned gives that back.
    fn fill_up_to(&self, bytes: u64) -> Result<PathBuf> {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast)?;
        let block = vec![0; 64 << 10];
        // Others write too: until it is so, or nothing more fits.
        while self.free()? > bytes {
            if let Err(error) = std::io::Write::write_all(&mut file, &block) {
                ensure!(error.kind() == std::io::ErrorKind::StorageFull, "{error}");
                break;
            }
        }
        Ok(ballast)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the gateway that uses it ends after this.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

async fn station(spool: &str) -> Result<Option<(Station, Disk)>> {
    let station = Station::new(Some(NOWHERE), &format!("[spool]\n{spool}\n"))?;
    let disk = Disk::mount(&station.tianyu.directory().join("tianyu-data"), 48)?;
    Ok(disk.map(|disk| (station, disk)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nearly_full_disk_stops_acknowledgement_until_there_is_room() -> Result<()> {
    let Some((mut station, disk)) = station("free_mib = 16").await? else { return Ok(()) };
    let token = station.token(NODES[5]).await?;
    station.begin(3, Habits::default()).await?;
    station.progress(20).await?;
    let ballast = disk.fill_up_to(12 << 20)?;
    let health = station.health("refusing").await?;
    ensure!(health["error"].as_str().is_some_and(|error| error.contains("free")), "{health}");
    let answer = answer_over_mqtt5(station.mqtt, NODES[5], &token).await?;
    ensure!(answer == Some(QUOTA_EXCEEDED), "{answer:?}");
    // What is acknowledged still reaches the history: the watermark leaves room for it.
    station.sink("history", |sink| sink["error"].is_null() && sink["behind"] == 0).await?;
    std::fs::remove_file(ballast)?;
    station.progress(20).await?;
    station.health("ok").await?;
    station.settle().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_any_room_loses_nothing_that_was_acknowledged() -> Result<()> {
    // No watermark at all, so that writes meet the end of the disk.
    let Some((mut station, disk)) = station("free_mib = 0").await? else { return Ok(()) };
    let token = station.token(NODES[5]).await?;
    station.tianyu.unchecked();
    station.begin(3, Habits::default()).await?;
    for full in 0..3 {
        station.progress(20).await?;
        let ballast = disk.fill_up_to(0)?;
        let health = station.health("refusing").await?;
        ensure!(health["error"].is_string(), "{health}");
        let answer = answer_over_mqtt5(station.mqtt, NODES[5], &token).await?;
        ensure!(answer == Some(QUOTA_EXCEEDED), "{answer:?}");
        if full == 1 {
            // And a gateway that starts on a full disk.
            station.tianyu.kill()?;
            station.tianyu.run()?;
        }
        std::fs::remove_file(ballast)?;
        if full == 1 {
            started_again(&mut station).await?;
        }
        station.progress(20).await?;
        station.health("ok").await?;
    }
    station.settle().await?;
    Ok(())
}

/// Waits until it is ready, starting it again where it has ended with an error.
async fn started_again(station: &mut Station) -> Result<()> {
    if station.tianyu.line("ready", Duration::from_secs(5)).await.is_err() {
        let said = station.tianyu.process()?.lines().join("\n");
        ensure!(said.contains("No space left"), "{said}");
        station.start().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_is_said_at_the_start_and_nothing_is_changed() -> Result<()> {
    let Some((mut station, disk)) = station("free_mib = 16").await? else { return Ok(()) };
    station.begin(2, Habits::default()).await?;
    station.progress(20).await?;
    let status = station.tianyu.terminate(WITHIN).await?;
    ensure!(status.success(), "{status}");
    disk.remount("ro")?;
    let (status, lines) = station.tianyu.command(&["run", "--config", "tianyu.toml"], WITHIN).await?;
    ensure!(!status.success(), "it ran on a read-only disk");
    let said = lines.last().context("it said nothing")?;
    ensure!(said.to_lowercase().contains("read-only"), "{said}");
    // Reading needs no writing.
    let (status, lines) = station.tianyu.command(&["spool", "verify"], WITHIN).await?;
    ensure!(status.success(), "{lines:?}");
    disk.remount("rw")?;
    station.start().await?;
    station.progress(20).await?;
    station.settle().await?;
    Ok(())
}
