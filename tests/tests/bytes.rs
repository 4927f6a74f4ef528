//! What a reading costs on the wire and in a node's flash, from the real node core on simulated
//! instruments with the noise that they have. `tests/bench bytes` has the figures beside others.

use anyhow::Result;
use system_tests::delivery::{deliver, pond_of_eight};

#[test]
fn a_day_of_eight_channels_costs_at_most_one_and_a_half_bytes_a_reading_on_the_wire_and_five_in_flash() -> Result<()> {
    for seed in 1..=3 {
        let delivery = deliver(pond_of_eight(seed)?, 24 * 60, 24)?;
        assert!(delivery.readings() >= 24 * 60 * 8);
        let (wire, flash) = (delivery.wire_bytes_per_reading(), delivery.flash_bytes_per_reading());
        println!("measured: {wire:.2} B on the wire and {flash:.2} B in flash a reading");
        assert!(wire <= 1.5, "{wire:.2} B a reading on the wire");
        assert!(flash <= 5.0, "{flash:.2} B a reading in flash");
    }
    Ok(())
}

#[test]
fn a_live_round_of_eight_channels_costs_at_most_48_bytes() -> Result<()> {
    for seed in 1..=3 {
        let delivery = deliver(pond_of_eight(seed)?, 60, 1)?;
        let most = delivery.reports.iter().map(Vec::len).max();
        assert!(most.is_some_and(|bytes| bytes <= 48), "{most:?} bytes");
    }
    Ok(())
}
