//! What a reading costs in flash, how long the ring holds out without a gateway, and how fast its
//! sectors wear, on the flash of each board: the table in the documentation of `node::ring`.

use node::ring::Ring;
use simulator::nor::Nor;
use simulator::world::{Pond, World};
use telemetry::Property::{
    AirPressure, BatteryVoltage, DissolvedOxygen, Level, OxygenSaturation, Ph, Turbidity, WaterTemperature,
};
use telemetry::record::{Reading, Round};
use telemetry::{Property, Quality};

/// Ten minutes.
const PERIOD_MS: u64 = 600_000;
const ROUNDS_A_DAY: f64 = 86_400_000.0 / PERIOD_MS as f64;

/// Rounds of eight channels of a pond, as they come when the node has been running for weeks.
struct Rounds {
    pond: Pond,
    n: u64,
}

impl Rounds {
    fn new() -> Self {
        Self { pond: Pond::new(7), n: 2_000 }
    }

    fn next(&mut self) -> Round {
        self.n += 1;
        let t_ms = self.n * PERIOD_MS;
        self.pond.step(1_790_000_000_000 + t_ms as i64, PERIOD_MS as f64 / 1_000.0);
        // What the pond's model does not have moves as little as it does.
        let n = self.n as f64;
        let value = |property: Property, otherwise: f64| {
            let value = self.pond.value(property, 0.5).unwrap_or(otherwise);
            property.quantize(value as f32).unwrap()
        };
        let values = [
            value(DissolvedOxygen, 7.0),
            value(OxygenSaturation, 92.0),
            value(WaterTemperature, 27.0),
            value(Ph, 8.1),
            value(Turbidity, 12.0 + 3.0 * (n / 40.0).sin()),
            value(Level, 1.8 + 0.02 * (n / 70.0).sin()),
            value(AirPressure, 1009.0 + 3.0 * (n / 90.0).sin()),
            value(BatteryVoltage, 12.6 + 0.4 * (n / 23.0).sin()),
        ];
        let readings = (0..).zip(values).map(|(channel, value)| {
            let quality = Quality::GOOD;
            Reading { channel, value, raw: None, quality }
        });
        Round { t_ms, config: 3, readings: readings.collect() }
    }
}

struct Cost {
    bytes_a_reading: f64,
    days: f64,
    cycles_a_year: f64,
}

/// Goes round a ring of these sectors until each has been given up twice.
fn measure<const S: usize, const W: usize>(sectors: usize) -> Cost {
    let (mut ring, _) = Ring::open_or_format(Nor::<S, W>::new(sectors), 7).unwrap();
    let mut rounds = Rounds::new();
    let mut buffer = [0; 512];
    // The floor after each sector that was given up: between two of these is all that one holds, its
    // header and padding included.
    let mut floors = vec![];
    let mut held_min = u32::MAX;
    while floors.len() < 2 * sectors {
        let before = ring.floor();
        let length = rounds.next().encode(7, &mut buffer).unwrap();
        ring.append(&buffer[..length]).unwrap();
        ring.prepare().unwrap();
        if ring.floor() != before {
            floors.push(ring.floor());
            held_min = held_min.min(ring.next_seq() - ring.floor());
        }
    }
    let gone = f64::from(floors[floors.len() - 1] - floors[0]);
    let rounds_a_sector = gone / (floors.len() - 1) as f64;
    Cost {
        bytes_a_reading: S as f64 / (rounds_a_sector * 8.0),
        days: f64::from(held_min) / ROUNDS_A_DAY,
        cycles_a_year: 365.0 * ROUNDS_A_DAY / (rounds_a_sector * sectors as f64),
    }
}

#[test]
fn a_reading_costs_at_most_5_bytes_and_256_kib_last_a_month_where_words_are_small() {
    let boards = [
        ("pico-w, pico-2-w", 4_096, 1, 64, measure::<4_096, 1>(64)),
        ("esp32-c3, qemu-mps2, nRF", 4_096, 4, 64, measure::<4_096, 4>(64)),
        ("8-byte words", 4_096, 8, 64, measure::<4_096, 8>(64)),
        ("nucleo-f767zi by words", 262_144, 4, 3, measure::<262_144, 4>(3)),
        ("nucleo-f767zi by 16", 262_144, 16, 3, measure::<262_144, 16>(3)),
        ("32-byte words", 131_072, 32, 4, measure::<131_072, 32>(4)),
    ];
    let page = include_str!("../../node/src/ring.rs");
    let mut told = true;
    for (board, sector, write, sectors, Cost { bytes_a_reading, days, cycles_a_year }) in boards {
        let row = format!(
            "{sectors} × {} KiB | {write} | {bytes_a_reading:.2} | {days:.0} | {cycles_a_year:.1} |",
            sector / 1024
        );
        println!("{board} | {row}");
        // What is said is what was measured.
        told &= page.contains(&row);
        if write <= 4 {
            assert!(bytes_a_reading <= 5.0, "{board}: {bytes_a_reading:.2} bytes a reading");
        }
        assert!(days >= 30.0, "{board}: {days:.1} days");
        // 100,000 cycles (W25Q16JV datasheet), 10,000 (STM32F767 datasheet): a century.
        assert!(cycles_a_year < 100.0, "{board}: {cycles_a_year:.1} cycles a year");
    }
    assert!(told, "the documentation of the ring says something else");
}
