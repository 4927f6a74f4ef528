//! Every built-in profile against frames: recorded where there are any, else computed.

use sensors::{
    modbus::{ReadFunction, Request, Scan, crc16, scan},
    profile::{
        CompensatedBy, Profile, Sample, Setting, WriteError,
        compile::{self, Compiled},
    },
};
use telemetry::{MissingReason, Property, Tests};

fn built_in(name: &str) -> Compiled {
    compile::built_in(name).unwrap().unwrap()
}

/// Runs (request, answer) pairs through the profile; the answers must be those of its own requests.
fn read(profile: &Profile<'_>, frames: &[(&[u8], &[u8])]) -> Vec<Result<Sample, MissingReason>> {
    let mut samples = vec![Err(MissingReason::NotRead); profile.quantities().count()];
    for (index, block) in profile.blocks().enumerate() {
        let request = profile.request(block, profile.address()).unwrap();
        let Some((_, answer)) = frames.iter().find(|(ask, _)| *ask == request.bytes()) else {
            continue;
        };
        let Scan::Answer { start, end } = scan(&request, answer) else {
            panic!("{answer:02X?} does not answer {:02X?}", request.bytes());
        };
        profile.convert(index, Ok(&answer[start..end]), |at, sample| samples[at] = sample);
    }
    samples
}

fn values(samples: &[Result<Sample, MissingReason>]) -> Vec<f32> {
    samples.iter().map(|it| it.as_ref().unwrap().value).collect()
}

/// A frame with the CRC that belongs to it.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut frame = body.to_vec();
    frame.extend(crc16(body).to_le_bytes());
    frame
}

const SOIL_A: [u8; 13] = [0x01, 0x03, 0x08, 0x02, 0x92, 0xFF, 0x9B, 0x03, 0xE8, 0x00, 0x38, 0x57, 0xB6];

#[test]
fn soil_map_a_reads_the_vendors_frame() {
    let compiled = built_in("soil-a");
    let profile = compiled.profile().unwrap();
    let ask = [0x01, 0x03, 0x00, 0x00, 0x00, 0x04, 0x44, 0x09];
    let samples = read(&profile, &[(&ask, &SOIL_A)]);
    assert_eq!(values(&samples), [65.8, -10.1, 1000.0, 5.6]);
    let properties: Vec<_> = profile.quantities().map(|it| it.property).collect();
    assert_eq!(
        properties,
        [Property::SoilMoisture, Property::SoilTemperature, Property::SoilConductivity, Property::SoilPh]
    );
}

#[test]
fn soil_map_a_with_three_registers_gives_three_values_and_no_ph() {
    // Logged from a probe without pH.
    let answer = [0x01, 0x03, 0x06, 0x01, 0xEF, 0x01, 0x44, 0x00, 0x04, 0xB5, 0x59];
    let request = Request::read(1, ReadFunction::Holding, 0, 3).unwrap();
    assert_eq!(request.bytes(), [0x01, 0x03, 0x00, 0x00, 0x00, 0x03, 0x05, 0xCB]);
    assert_eq!(scan(&request, &answer), Scan::Answer { start: 3, end: 9 });
    let data = &answer[3..9];
    let compiled = built_in("soil-a");
    let profile = compiled.profile().unwrap();
    let samples: Vec<_> = profile.quantities().map(|it| it.convert(data)).collect();
    assert_eq!(values(&samples[..3]), [49.5, 32.4, 4.0]);
    assert_eq!(samples[3], Err(MissingReason::Garbled));
}

#[test]
fn a_good_crc_does_not_make_npk_of_conductivity() {
    let ask = [0x01, 0x03, 0x00, 0x00, 0x00, 0x07, 0x04, 0x08];
    let answer = [
        0x01, 0x03, 0x0E, 0x03, 0xE8, 0x01, 0x36, 0x1F, 0x2C, 0x00, 0x3F, 0x06, 0x5A, 0x07, 0xCF, 0x07, 0xCF, 0x88,
        0x57,
    ];
    let compiled = built_in("soil-a-npk");
    let samples = read(&compiled.profile().unwrap(), &[(&ask, &answer)]);
    assert_eq!(values(&samples[..5]), [100.0, 31.0, 7980.0, 6.3, 1626.0]);
    // The moisture stands at the end of its scale, nitrogen was never measured: both are doubtful.
    let tests: Vec<_> = samples[..5].iter().map(|it| it.unwrap().tests).collect();
    assert_eq!(tests, [Tests::PROBE, Tests::NONE, Tests::NONE, Tests::NONE, Tests::PROBE]);
    assert_eq!(samples[5..], [Err(MissingReason::OutOfRange); 2]);
    // The plain profile does not ask for them at all.
    let plain = built_in("soil-a");
    let asked: u8 = plain.profile().unwrap().blocks().map(|it| it.count).sum();
    assert_eq!(asked, 4);
}

#[test]
fn jxct_asks_for_npk_as_its_manual_does_and_keeps_ph_in_hundredths() {
    let compiled = built_in("soil-b-jxct");
    let profile = compiled.profile().unwrap();
    let samples = read(
        &profile,
        &[
            (&sealed(&[1, 3, 0, 0x06, 0, 1]), &sealed(&[1, 3, 2, 0x02, 0x9E])),
            (&sealed(&[1, 3, 0, 0x12, 0, 2]), &sealed(&[1, 3, 4, 0x01, 0x0A, 0xFF, 0xE2])),
            (&sealed(&[1, 3, 0, 0x15, 0, 1]), &sealed(&[1, 3, 2, 0x01, 0x2C])),
            (&[0x01, 0x03, 0x00, 0x1E, 0x00, 0x03, 0x65, 0xCD], &sealed(&[1, 3, 6, 0, 0x20, 0, 0x25, 0, 0x30])),
        ],
    );
    assert_eq!(values(&samples), [6.7, 26.6, -3.0, 300.0, 32.0, 37.0, 48.0]);
    assert!(samples[4..].iter().all(|it| it.unwrap().tests == Tests::PROBE));
}

#[test]
fn soil_map_c_has_temperature_before_moisture_and_ph_last() {
    let compiled = built_in("soil-c");
    let profile = compiled.profile().unwrap();
    let samples = read(
        &profile,
        &[(
            &sealed(&[2, 3, 0, 0, 0, 8]),
            &sealed(&[2, 3, 16, 0x00, 0xF6, 0x01, 0x5E, 0x02, 0x58, 0x01, 0x4A, 0, 12, 0, 20, 0, 30, 0x00, 0x44]),
        )],
    );
    assert_eq!(values(&samples), [24.6, 35.0, 600.0, 330.0, 12.0, 20.0, 30.0, 6.8]);
}

#[test]
fn renke_oxygen_is_a_fraction_and_compensated_by_the_probe() {
    let compiled = built_in("renke-rs-ldo-n01");
    let profile = compiled.profile().unwrap();
    let samples = read(
        &profile,
        &[(
            &[0x01, 0x03, 0x00, 0x00, 0x00, 0x06, 0xC5, 0xC8],
            &[0x01, 0x03, 0x0C, 0x3F, 0x6B, 0x02, 0x0C, 0x40, 0xE6, 0x14, 0x7B, 0x41, 0xDB, 0x33, 0x33, 0xBC, 0xC9],
        )],
    );
    for (value, wanted) in values(&samples).into_iter().zip([91.8, 7.19, 27.4]) {
        assert!((value - wanted).abs() < 1e-4, "{value} instead of {wanted}");
    }
    let sides: Vec<_> = profile.quantities().map(|it| it.compensated_by).collect();
    assert_eq!(sides, [CompensatedBy::Probe, CompensatedBy::Probe, CompensatedBy::Nobody]);
}

#[test]
fn renke_is_calibrated_and_told_salinity_with_the_frames_of_the_domain_page() {
    let compiled = built_in("renke-rs-ldo-n01");
    let profile = compiled.profile().unwrap();
    let frame = |setting, value| profile.write_request(setting, value, 1).map(|it| it.bytes().to_vec());
    assert_eq!(frame(Setting::CalibrateZero, 0.0).unwrap(), [0x01, 0x06, 0x10, 0x10, 0x00, 0x01, 0x4D, 0x0F]);
    assert_eq!(frame(Setting::CalibrateFull, 0.0).unwrap(), [0x01, 0x06, 0x10, 0x10, 0x00, 0x02, 0x0D, 0x0E]);
    assert_eq!(frame(Setting::Salinity, 30.0).unwrap(), [0x01, 0x06, 0x10, 0x20, 0x00, 0x1E, 0x0C, 0xC8]);
    assert_eq!(frame(Setting::Pressure, 101.3).unwrap()[4..6], 10_130_u16.to_be_bytes());
    for impossible in [f32::NAN, -1.0, 1e6] {
        assert_eq!(frame(Setting::Salinity, impossible), Err(WriteError::Value(Setting::Salinity)));
    }
    assert_eq!(frame(Setting::Baud, 9600.0), Err(WriteError::Unsupported(Setting::Baud)));
}

#[test]
fn rates_are_written_as_the_makers_code() {
    let compiled = built_in("soil-a");
    let profile = compiled.profile().unwrap();
    let request = profile.write_request(Setting::Baud, 9600.0, 1).unwrap();
    assert_eq!(request.bytes()[..6], [1, 6, 0x07, 0xD1, 0, 2]);
    assert_eq!(profile.write_request(Setting::Baud, 19_200.0, 1), Err(WriteError::Value(Setting::Baud)));
}

#[test]
fn no_oxygen_at_all_is_a_value() {
    let compiled = built_in("renke-rs-ldo-n01");
    let profile = compiled.profile().unwrap();
    let mut data = [0_u8; 12];
    for low in [0.0_f32, 0.1, 0.4, -0.05] {
        data[4..8].copy_from_slice(&low.to_be_bytes());
        let oxygen = profile.quantities().nth(1).unwrap().convert(&data).unwrap();
        assert_eq!((oxygen.value, oxygen.tests), (low, Tests::NONE));
    }
    data[4..8].copy_from_slice(&f32::NAN.to_be_bytes());
    assert_eq!(profile.quantities().nth(1).unwrap().convert(&data), Err(MissingReason::Sentinel));
}

#[test]
fn the_weather_station_reads_its_own_log() {
    let compiled = built_in("dfrobot-sen0658");
    let profile = compiled.profile().unwrap();
    let samples = read(
        &profile,
        &[
            (
                &[0x01, 0x03, 0x01, 0xF4, 0x00, 0x04, 0x04, 0x07],
                &[0x01, 0x03, 0x08, 0x00, 0x0E, 0x00, 0x01, 0x00, 0x02, 0x00, 0x6E, 0x67, 0xFB],
            ),
            (
                &[0x01, 0x03, 0x01, 0xF8, 0x00, 0x03, 0x85, 0xC6],
                &[0x01, 0x03, 0x06, 0x01, 0xC3, 0x00, 0xF6, 0x02, 0x06, 0x05, 0xE5],
            ),
            (
                &[0x01, 0x03, 0x01, 0xFB, 0x00, 0x03, 0x75, 0xC6],
                &[0x01, 0x03, 0x06, 0x00, 0x05, 0x00, 0x0F, 0x03, 0xFB, 0x9C, 0x05],
            ),
            (
                &[0x01, 0x03, 0x01, 0xFE, 0x00, 0x02, 0xA4, 0x07],
                &[0x01, 0x03, 0x04, 0x00, 0x00, 0x00, 0x32, 0x7B, 0xE6],
            ),
        ],
    );
    assert_eq!(values(&samples), [0.14, 1.0, 110.0, 45.1, 24.6, 51.8, 5.0, 15.0, 1019.0, 50.0]);
}

#[test]
fn register_503_of_a_louver_box_is_what_its_label_says() {
    let ask = sealed(&[1, 3, 0x01, 0xF4, 0, 8]);
    let answer = sealed(&[
        1, 3, 16, 0x02, 0xA3, 0xFF, 0x9C, 0x01, 0xC2, 0x01, 0xF4, 0x00, 0x28, 0x03, 0xF5, 0x00, 0x01, 0x86, 0xA0,
    ]);
    let dust = built_in("louver-box-pm25");
    let samples = read(&dust.profile().unwrap(), &[(&ask, &answer)]);
    assert_eq!(values(&samples), [67.5, -10.0, 45.0, 500.0, 40.0, 1013.0, 100_000.0]);
    let gas = built_in("louver-box-co2");
    let profile = gas.profile().unwrap();
    assert_eq!(profile.quantities().nth(3).unwrap().property, Property::CarbonDioxide);
    assert_eq!(values(&read(&profile, &[(&ask, &answer)])), [67.5, -10.0, 45.0, 500.0, 1013.0, 100_000.0]);
}

#[test]
fn xy_md02_is_read_with_function_04() {
    let compiled = built_in("xy-md02");
    let samples = read(
        &compiled.profile().unwrap(),
        &[(&[0x01, 0x04, 0x00, 0x01, 0x00, 0x02, 0x20, 0x0B], &[0x01, 0x04, 0x04, 0x01, 0x31, 0x02, 0x22, 0x2A, 0xCE])],
    );
    assert_eq!(values(&samples), [30.5, 54.6]);
}

#[test]
fn supmea_leaves_compensation_to_the_node_and_hach_does_its_own() {
    let supmea = built_in("supmea-do7013");
    let profile = supmea.profile().unwrap();
    let samples =
        read(&profile, &[(&sealed(&[1, 3, 0, 0, 0, 3]), &sealed(&[1, 3, 6, 0x01, 0x12, 0x02, 0xCF, 0x03, 0x96]))]);
    assert_eq!(values(&samples), [27.4, 7.19, 91.8]);
    assert_eq!(profile.quantities().nth(1).unwrap().compensated_by, CompensatedBy::Node);

    let hach = built_in("hach-ldo-aqs");
    let profile = hach.profile().unwrap();
    let samples = read(
        &profile,
        &[
            (&sealed(&[247, 3, 0, 0, 0, 2]), &sealed(&[247, 3, 4, 0x1F, 0x92, 0x0A, 0x51])),
            (&sealed(&[247, 3, 0, 11, 0, 1]), &sealed(&[247, 3, 2, 0, 98])),
        ],
    );
    assert_eq!(values(&samples), [8.082, 26.41, 98.0]);
    assert_eq!(profile.quantities().next().unwrap().compensated_by, CompensatedBy::Probe);
}

#[test]
fn a_waveshare_board_is_spoken_to_with_the_frames_of_eight_channel_boards() {
    let compiled = built_in("waveshare-relay-8ch");
    let relay = compiled.profile().unwrap().relay().unwrap();
    let write = relay.write_request(1, 0, 0xFF).unwrap();
    assert_eq!(write.bytes(), [0x01, 0x0F, 0x00, 0x00, 0x00, 0x08, 0x01, 0xFF, 0xBE, 0xD5]);
    let confirmed = [0x01, 0x0F, 0x00, 0x00, 0x00, 0x08, 0x54, 0x0D];
    assert_eq!(scan(&write, &confirmed), Scan::Answer { start: 0, end: 0 });
    let read = relay.read_request(1, 0).unwrap();
    assert_eq!(read.bytes(), [0x01, 0x01, 0x00, 0x00, 0x00, 0x08, 0x3D, 0xCC]);
    let Scan::Answer { start, end } = scan(&read, &[0x01, 0x01, 0x01, 0x41, 0x91, 0xB8]) else { panic!() };
    assert_eq!((start, end), (3, 4));
    let closed: Vec<_> = (0..8).filter(|n| relay.is_closed(0, *n, &[0x41]) == Some(true)).collect();
    assert_eq!(closed, [0, 6]);
    assert_eq!(relay.time_out, None);
}

#[test]
fn a_wiren_board_module_is_told_its_safe_mode_in_seconds() {
    let compiled = built_in("wb-mr6c");
    let profile = compiled.profile().unwrap();
    assert_eq!(profile.settings().line.stop_bits(), 2);
    let relay = profile.relay().unwrap();
    let time_out = relay.time_out.unwrap();
    let raw = time_out.raw(30).unwrap();
    assert_eq!(time_out.write_request(5, raw).unwrap().bytes()[..6], [5, 6, 0, 8, 0, 30]);
    assert_eq!(time_out.read_request(5).unwrap().bytes()[..6], [5, 3, 0, 8, 0, 1]);
    assert_eq!(relay.write_request(5, 0, 0b10_0001).unwrap().bytes()[..8], [5, 15, 0, 0, 0, 6, 1, 0x21]);
}

#[test]
fn an_r421a08_is_commanded_and_asked_relay_by_relay() {
    let compiled = built_in("r421a08");
    let relay = compiled.profile().unwrap().relay().unwrap();
    let on = relay.write_request(1, 0, 1).unwrap();
    assert_eq!(on.bytes()[..6], [1, 6, 0, 1, 1, 0]);
    assert_eq!(relay.write_request(1, 7, 0).unwrap().bytes()[..6], [1, 6, 0, 8, 2, 0]);
    let read = relay.read_request(1, 7).unwrap();
    assert_eq!(read.bytes()[..6], [1, 3, 0, 8, 0, 1]);
    assert_eq!(relay.is_closed(7, 7, &[0, 1]), Some(true));
}

#[test]
fn a_supmea_ph_probe_gives_hundredths_of_ph_and_tenths_of_a_degree() {
    let compiled = built_in("supmea-ph8001");
    let profile = compiled.profile().unwrap();
    let ask = sealed(&[1, 3, 0, 0, 0, 2]);
    let samples = read(&profile, &[(&ask, &sealed(&[1, 3, 4, 0x01, 0x10, 0x03, 0x35]))]);
    assert_eq!(values(&samples), [27.2, 8.21]);
    // A head without an electrode reads nothing, which no water does.
    let samples = read(&profile, &[(&ask, &sealed(&[1, 3, 4, 0x01, 0x10, 0, 0]))]);
    assert_eq!(samples[1], Err(MissingReason::OutOfRange));
}

#[test]
fn in_situ_says_how_far_a_value_is_to_be_trusted_and_low_oxygen_is_never_hidden() {
    let compiled = built_in("in-situ-rdo-pro");
    let profile = compiled.profile().unwrap();
    let asks = [37, 45, 53].map(|start| sealed(&[1, 3, 0, start, 0, 5]));
    let answer = |value: f32, parameter: u8, unit: u8, quality: u8| {
        let [a, b, c, d] = value.to_be_bytes();
        sealed(&[1, 3, 10, a, b, c, d, 0, parameter, 0, unit, 0, quality])
    };
    let read_all = |quality: u8, oxygen: f32| {
        let answers = [answer(oxygen, 20, 117, quality), answer(26.25, 1, 1, 0), answer(18.5, 21, 177, 0)];
        let frames: Vec<(&[u8], &[u8])> = asks.iter().zip(&answers).map(|(ask, it)| (&ask[..], &it[..])).collect();
        read(&profile, &frames)
    };
    assert_eq!(values(&read_all(0, 1.5)), [1.5, 26.25, 18.5]);
    // Calibration expired, cap worn: warnings, and the value counts.
    for warned in [1, 2, 5] {
        assert_eq!(read_all(warned, 0.25)[0].as_ref().unwrap().value, 0.25);
    }
    let wanted = [
        (3, MissingReason::Fault),
        (4, MissingReason::WarmUp),
        (6, MissingReason::Fault),
        (7, MissingReason::Sentinel),
        (99, MissingReason::Fault),
    ];
    for (quality, reason) in wanted {
        assert_eq!(read_all(quality, 0.0)[0], Err(reason));
    }
    assert_eq!(profile.quantities().next().unwrap().compensated_by, CompensatedBy::Probe);
}

#[test]
fn daviteqs_own_frame_is_9_1_ntu() {
    // User guide of July 2021, §6.5: one register.
    let request = Request::read(1, ReadFunction::Holding, 0x0101, 1).unwrap();
    assert_eq!(request.bytes(), [0x01, 0x03, 0x01, 0x01, 0x00, 0x01, 0xD4, 0x36]);
    let answer = [0x01, 0x03, 0x02, 0x00, 0x5B, 0xF9, 0xBF];
    assert_eq!(scan(&request, &answer), Scan::Answer { start: 3, end: 5 });
    let compiled = built_in("daviteq-mbrtu-tbd");
    let ask = sealed(&[1, 3, 1, 0, 0, 2]);
    let samples = read(&compiled.profile().unwrap(), &[(&ask, &sealed(&[1, 3, 4, 0x01, 0x00, answer[3], answer[4]]))]);
    assert_eq!(values(&samples), [25.6, 9.1]);
}

#[test]
fn boqus_ammonium_probe_gives_nitrogen_beside_ph_and_temperature() {
    let compiled = built_in("boqu-bh-485-nh");
    let profile = compiled.profile().unwrap();
    let floats = |numbers: &[f32]| {
        let mut frame = vec![10, 3, numbers.len() as u8 * 4];
        frame.extend(numbers.iter().flat_map(|it| it.to_be_bytes()));
        sealed(&frame)
    };
    let samples = read(
        &profile,
        &[(&sealed(&[10, 3, 0, 0, 0, 4]), &floats(&[27.5, 8.125])), (&sealed(&[10, 3, 0, 16, 0, 2]), &floats(&[0.75]))],
    );
    assert_eq!(values(&samples), [27.5, 8.125, 0.75]);
    assert_eq!(profile.quantities().nth(2).unwrap().property, Property::TotalAmmonia);
}

#[test]
fn a_leveline_measures_metres_of_water_and_with_electrodes_its_salt() {
    let level = built_in("aquaread-leveline");
    let ask = sealed(&[1, 4, 0, 0, 0, 3]);
    // 26.41 °C, 150.0 mbar.
    let answer = sealed(&[1, 4, 6, 0x0A, 0x51, 0, 0, 0x05, 0xDC]);
    let samples = read(&level.profile().unwrap(), &[(&ask, &answer)]);
    assert!((values(&samples)[0] - 26.41).abs() < 1e-4 && (values(&samples)[1] - 1.529_55).abs() < 1e-4);
    // It lies dry: a little less than nothing, in two's complement.
    let dry = sealed(&[1, 4, 6, 0x0A, 0x51, 0xFF, 0xFF, 0xFF, 0xF6]);
    assert!((values(&read(&level.profile().unwrap(), &[(&ask, &dry)]))[1] + 0.010_197).abs() < 1e-5);

    let ctd = built_in("aquaread-leveline-ctd");
    let ask = sealed(&[1, 4, 0, 0, 0, 10]);
    let answer = sealed(&[
        1, 4, 20, 0x0A, 0x51, 0, 0, 0x05, 0xDC, // as above
        0, 0, 0xC8, 0x14, // 51220 µS/cm
        0, 0, 0xB0, 0xA0, // at 20 °C: not asked for by the profile
        0, 0, 0xC2, 0x24, // 49700 µS/cm at 25 °C
        0x0C, 0xB2, // 32.50
    ]);
    let samples = values(&read(&ctd.profile().unwrap(), &[(&ask, &answer)]));
    for (value, wanted) in samples.into_iter().zip([26.41, 1.529_55, 51.22, 49.7, 32.5]) {
        assert!((value - wanted).abs() < 1e-3, "{value} instead of {wanted}");
    }
}

#[test]
fn a_level_in_another_unit_than_the_profiles_is_refused() {
    let compiled = built_in("qdy30a");
    let profile = compiled.profile().unwrap();
    let ask = sealed(&[1, 3, 0, 2, 0, 3]);
    // cm with one decimal: 152.9 cm.
    let samples = read(&profile, &[(&ask, &sealed(&[1, 3, 6, 0, 17, 0, 1, 0x05, 0xF9]))]);
    assert_eq!(values(&samples), [1.529]);
    let kpa = read(&profile, &[(&ask, &sealed(&[1, 3, 6, 0, 1, 0, 1, 0x05, 0xF9]))]);
    assert_eq!(kpa, [Err(MissingReason::Fault)]);
}
