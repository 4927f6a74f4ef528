//! Computed quantities on this machine; `tests/tests/emulated.rs` asks the same of a Cortex-M3.

mod vectors;

#[test]
fn computed_quantities_meet_the_domains_vectors() {
    let mut count = 0;
    vectors::all(&mut |vector| {
        assert!(vector.is_met(), "{vector}");
        count += 1;
    });
    assert!(count > 0);
}
