//! The demonstration, as `tianyu demo` runs it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use gateway::demo::{Options, run};
use gateway::sinks::history::Reader;
use system_tests::until;
use tokio_util::sync::CancellationToken;

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
