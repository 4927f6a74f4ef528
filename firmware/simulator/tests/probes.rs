//! Simulated probes, read by the driver that reads real ones.

use sensors::modbus::{ModbusError, Settings};
use sensors::profile::compile::{built_in, profiles};
use sensors::profile::{Sample, Slot, SlotStep};
use simulator::instrument::{Fault, Instrument};
use telemetry::{MissingReason, Property};

/// Reads one turn; what came and when it was over.
fn turn(
    probe: &mut Instrument,
    profile: &str,
    from_us: u64,
    truth: impl Fn(Property, f64) -> Option<f64> + Copy,
) -> (Vec<Result<Sample, MissingReason>>, Option<ModbusError>, u64) {
    let compiled = built_in(profile).unwrap().unwrap();
    let profile = compiled.profile().unwrap();
    let settings: Settings = profile.settings();
    let mut now_us = from_us;
    let mut slot = Slot::new(&profile, profile.address(), settings, now_us);
    let mut under_way: Vec<(u64, Vec<u8>)> = Vec::new();
    for _ in 0..1_000 {
        match slot.poll(&profile, now_us) {
            SlotStep::Send => {
                let ends_us = now_us + settings.line.chars_us(slot.tx_bytes().len());
                if let Some(answer) = probe.answer(slot.tx_bytes(), settings.line, ends_us, truth).unwrap() {
                    under_way.push((ends_us + answer.after_us, answer.bytes));
                }
            }
            SlotStep::Wait { until_us } => {
                let arrives = under_way.iter().map(|(at_us, _)| *at_us).min().unwrap_or(u64::MAX);
                now_us = until_us.min(arrives).max(now_us);
                under_way.retain(|(at_us, bytes)| {
                    let here = *at_us <= now_us;
                    if here {
                        slot.on_rx(bytes, now_us);
                    }
                    !here
                });
            }
            SlotStep::Done => return (slot.samples().to_vec(), slot.error(), now_us),
        }
    }
    panic!("the turn does not end");
}

/// A value in the middle of what is plausible, different for each property.
fn truth(property: Property, _depth_m: f64) -> Option<f64> {
    let facts = property.facts();
    // Level probes count mm in sixteen bits.
    let max = if property == Property::Level { 30.0 } else { f64::from(facts.max.min(200.0)) };
    Some(f64::from(facts.min.max(0.0)) + (max - f64::from(facts.min.max(0.0))) * 0.37)
}

fn probe(profile: &str) -> Instrument {
    let compiled = built_in(profile).unwrap().unwrap();
    let address = compiled.profile().unwrap().address();
    Instrument::new(compiled, address, 1.0, 7)
}

const OXYGEN: &str = "renke-rs-ldo-n01";

fn with(fault: Fault) -> (Vec<Result<Sample, MissingReason>>, Option<ModbusError>) {
    let mut probe = probe(OXYGEN);
    probe.set_fault(Some(fault), 0);
    let (samples, error, _) = turn(&mut probe, OXYGEN, 0, truth);
    (samples, error)
}

#[test]
fn every_profile_reads_back_what_is_true() {
    for (name, _) in profiles() {
        let mut probe = probe(name).exact();
        let (samples, error, _) = turn(&mut probe, name, 0, truth);
        assert_eq!(error, None, "{name}");
        let compiled = built_in(name).unwrap().unwrap();
        for (sample, quantity) in samples.iter().zip(compiled.profile().unwrap().quantities()) {
            if !quantity.valid.is_none_or(|range| range.max > 10.0) {
                continue;
            }
            let (value, wanted) = match sample {
                Ok(sample) => (f64::from(sample.value), truth(quantity.property, 1.0).unwrap()),
                Err(reason) => panic!("{name} {:?}: {reason:?}", quantity.property),
            };
            assert!((value - wanted).abs() <= 0.51, "{name} {:?}: {value}, not {wanted}", quantity.property);
        }
    }
}

#[test]
fn noise_is_seeded_and_small() {
    let run = || turn(&mut probe(OXYGEN), OXYGEN, 0, truth).0;
    assert_eq!(run(), run());
    let value = f64::from(run()[1].unwrap().value);
    let wanted = truth(Property::DissolvedOxygen, 1.0).unwrap();
    assert!(value != wanted && (value - wanted).abs() < 0.1, "{value} {wanted}");
}

#[test]
fn a_silent_probe_and_one_at_another_address_do_not_answer() {
    for fault in [Fault::Silent, Fault::OtherAddress(9)] {
        let (samples, error) = with(fault);
        assert_eq!(samples[1], Err(MissingReason::NoAnswer), "{fault:?}");
        assert!(error.is_some());
    }
}

#[test]
fn noise_bad_check_sums_and_babble_give_no_value() {
    for fault in [Fault::Noise, Fault::BadCrc, Fault::NeverEnds] {
        let (samples, error) = with(fault);
        assert!(samples.iter().all(Result::is_err), "{fault:?}: {samples:?}");
        assert!(error.is_some(), "{fault:?}");
    }
}

#[test]
fn an_exception_is_told_as_such() {
    let (samples, error) = with(Fault::Exception(4));
    assert!(samples.iter().all(Result::is_err));
    assert!(matches!(error, Some(ModbusError::Exception(_))), "{error:?}");
}

#[test]
fn an_echo_does_not_hide_the_answer() {
    let (samples, _) = with(Fault::Echo);
    assert!(samples[1].is_ok(), "{samples:?}");
}

#[test]
fn a_stuck_probe_gives_the_same_whatever_is_true() {
    let mut probe = probe(OXYGEN);
    probe.set_fault(Some(Fault::Stuck), 0);
    let (before, _, at_us) = turn(&mut probe, OXYGEN, 0, truth);
    let (after, _, _) = turn(&mut probe, OXYGEN, at_us, |of, depth_m| truth(of, depth_m).map(|it| it * 0.5));
    assert_eq!(before, after);
}

#[test]
fn drift_rises_and_fouling_falls_but_leaves_the_temperature() {
    let day_us = 86_400_000_000;
    let after_ten_days = |fault| {
        let mut probe = probe(OXYGEN).exact();
        probe.set_fault(Some(fault), 0);
        turn(&mut probe, OXYGEN, 10 * day_us, truth).0
    };
    let true_oxygen = truth(Property::DissolvedOxygen, 1.0).unwrap();
    let drifted = after_ten_days(Fault::Drift { share_per_day: 0.01 });
    assert!((f64::from(drifted[1].unwrap().value) / true_oxygen - 1.1).abs() < 0.01);
    let fouled = after_ten_days(Fault::Fouling { share_per_day: 0.05 });
    assert!((f64::from(fouled[1].unwrap().value) / true_oxygen - 0.95f64.powi(10)).abs() < 0.01);
    let warm = f64::from(fouled[2].unwrap().value);
    assert!((warm - truth(Property::WaterTemperature, 1.0).unwrap()).abs() < 0.01);
}

#[test]
fn a_probe_that_has_not_measured_gives_its_power_on_value() {
    let (samples, _) = with(Fault::PowerOn { value: 0.0 });
    assert_eq!(samples[1].unwrap().value, 0.0);
}

#[test]
fn a_setting_that_is_written_is_kept_and_an_unknown_register_refused() {
    let compiled = built_in(OXYGEN).unwrap().unwrap();
    let profile = compiled.profile().unwrap();
    let mut probe = probe(OXYGEN);
    let line = profile.settings().line;
    let request = profile.write_request(sensors::profile::Setting::Salinity, 30.0, 1).unwrap();
    let answer = probe.answer(request.bytes(), line, 0, truth).unwrap().unwrap();
    assert_eq!(answer.bytes, request.bytes());
    assert_eq!(probe.written(0x1020), Some(30));
    let unknown = sensors::modbus::Request::write_single(1, 0x4444, 1).unwrap();
    let answer = probe.answer(unknown.bytes(), line, 0, truth).unwrap().unwrap();
    assert_eq!(answer.bytes[1..3], [0x86, 2]);
}
