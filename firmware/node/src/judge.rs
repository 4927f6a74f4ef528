//! From what the sources gave to a round: calibrate, compensate, compute, test.
//!
//! It owns the order of those steps and nothing else: formulas are in `compute`, tests in
//! `quality`.

use heapless::Vec;
use sensors::profile::Sample;
use telemetry::limits::CHANNELS_MAX;
use telemetry::record::{Reading, Round};
use telemetry::{Flag, MissingReason, Quality, Tests};

use crate::compute;
use crate::config::{Channel, Config, Formula, Source};
use crate::control::Seen;
use crate::quality::{History, from_input};

/// Water temperature assumed for the salinity of oxygen when there is none, °C; the value is then
/// marked as having a doubtful input. The factor moves by 0.1 % a degree.
const CELSIUS_ASSUMED: f32 = 20.0;

/// Salinity up to which ammonia is computed as in fresh water (domain page §2).
const FRESH_PSU_MAX: f32 = 5.0;

/// What is known of every channel of a config.
#[derive(Debug)]
pub(crate) struct Judge {
    histories: Vec<History, CHANNELS_MAX>,
    values: Vec<Seen, CHANNELS_MAX>,
}

const NOT_SEEN: Seen = Seen { value: None, quality: Quality::Missing(MissingReason::NotRead) };

impl Judge {
    /// For no config.
    pub(crate) const fn new() -> Self {
        Self { histories: Vec::new(), values: Vec::new() }
    }

    /// Knows nothing of any channel of this config.
    pub(crate) fn restart(&mut self, config: &Config) {
        self.histories.clear();
        self.values.clear();
        for _ in &config.channels {
            // A config has no more than there is room for.
            if self.histories.push(History::default()).is_err() || self.values.push(NOT_SEEN).is_err() {
                break;
            }
        }
    }

    /// What the last round says of a channel.
    pub(crate) fn seen(&self, channel: u8) -> Option<Seen> {
        self.values.get(usize::from(channel)).copied()
    }

    /// Remembers a round of an earlier boot, `age_ms` before this one.
    pub(crate) fn recall(&mut self, config: &Config, round: &Round, age_ms: i64) {
        for reading in &round.readings {
            let index = usize::from(reading.channel);
            let fine = matches!(reading.quality, Quality::Present { flag, .. } if flag != Flag::Fail);
            if let (Some(channel), Some(history), true) =
                (config.channels.get(index), self.histories.get_mut(index), fine)
            {
                let value = channel.property.value_f32(reading.value);
                history.recall(channel.property.facts(), value, age_ms);
            }
        }
    }

    /// Makes the round `into` of what the sources gave; bit n of `calibrating`: channel n is being
    /// calibrated.
    pub(crate) fn round(
        &mut self,
        config: &Config,
        t_ms: u64,
        calibrating: u32,
        into: &mut Round,
        mut taken: impl FnMut(usize, &Channel) -> Result<Sample, MissingReason>,
    ) {
        (into.t_ms, into.config) = (t_ms, config.number);
        into.readings.clear();
        let mut raws: [Result<Sample, MissingReason>; CHANNELS_MAX] = [Err(MissingReason::NotRead); CHANNELS_MAX];
        // First everything measured, calibrated: compensation may look at a higher index.
        for ((index, channel), raw) in config.channels.iter().enumerate().zip(&mut raws) {
            if !matches!(channel.source, Source::Computed { .. }) {
                *raw = taken(index, channel).map(|sample| {
                    let marked = calibrating >> (index % CHANNELS_MAX) & 1 == 1;
                    let tests = if marked { sample.tests.with(Tests::CALIBRATING) } else { sample.tests };
                    Sample { tests, ..sample }
                });
            }
        }
        for (index, channel) in config.channels.iter().enumerate() {
            let (raw, input) = match &channel.source {
                Source::Computed { formula, inputs } => self.compute(config, *formula, inputs),
                _ => (raws.get(index).copied().unwrap_or(Err(MissingReason::NotRead)), Quality::GOOD),
            };
            let value = raw.map(|sample| {
                let Sample { value, tests } = sample;
                let value = channel.calibration.slope * value + channel.calibration.offset;
                match channel.compensate_with {
                    Some(with) if config.salinity_psu > 0.0 => {
                        let (celsius, doubt) = celsius(config, &raws, with);
                        let factor = compute::oxygen_salinity_factor(celsius, config.salinity_psu);
                        Sample { value: value * factor, tests: tests.with(doubt) }
                    }
                    _ => Sample { value, tests },
                }
            });
            let reading = self.reading(config, channel, index, t_ms, raw, value, input);
            if into.readings.push(reading).is_err() {
                break;
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a pipeline; a struct would be made for this call only")]
    fn reading(
        &mut self,
        config: &Config,
        channel: &Channel,
        index: usize,
        t_ms: u64,
        raw: Result<Sample, MissingReason>,
        value: Result<Sample, MissingReason>,
        input: Quality,
    ) -> Reading {
        let property = channel.property;
        let quantized = value.and_then(|sample| {
            let quantized = property.quantize(sample.value).ok_or(MissingReason::OutOfRange)?;
            Ok((sample, quantized))
        });
        let mut reading =
            Reading { channel: index as u8, value: 0, raw: None, quality: Quality::Missing(MissingReason::NotRead) };
        let mut seen = NOT_SEEN;
        match quantized {
            Ok((sample, quantized)) => {
                reading.value = quantized;
                reading.raw = raw.ok().and_then(|raw| property.quantize(raw.value)).filter(|raw| *raw != quantized);
                let period_ms = i64::from(config.period_s) * 1_000;
                let own = self.histories.get_mut(index).map_or(Quality::GOOD, |history| {
                    let t_ms = i64::try_from(t_ms).unwrap_or(i64::MAX);
                    history.judge(property.facts(), &channel.limits, sample.value, t_ms, period_ms, sample.tests)
                });
                reading.quality = from_input(own, input);
                seen = Seen { value: Some(sample.value), quality: reading.quality };
            }
            Err(reason) => {
                reading.quality = Quality::Missing(reason);
                seen.quality = reading.quality;
            }
        }
        if let Some(place) = self.values.get_mut(index) {
            *place = seen;
        }
        reading
    }

    /// A computed value and the worst quality of what it was computed from.
    fn compute(&self, config: &Config, formula: Formula, inputs: &[u8]) -> (Result<Sample, MissingReason>, Quality) {
        let mut values = [0.0; 4];
        let mut worst = Quality::GOOD;
        for (place, input) in values.iter_mut().zip(inputs) {
            let Some(Seen { value: Some(value), quality }) = self.seen(*input) else {
                return (Err(MissingReason::Input), Quality::GOOD);
            };
            *place = value;
            if quality.flag().rank() > worst.flag().rank() {
                worst = quality;
            }
        }
        let [a, b, c, d] = values;
        let given = |n: usize, value: f32, otherwise: f32| if inputs.len() > n { value } else { otherwise };
        let mut tests = Tests::NONE;
        let value = match formula {
            Formula::OxygenSaturation => {
                compute::oxygen_saturation(a, b, given(2, c, config.salinity_psu), given(3, d, config.pressure_hpa))
            }
            Formula::UnionizedAmmonia => {
                let psu = given(3, d, config.salinity_psu);
                if psu > FRESH_PSU_MAX {
                    // Probes are calibrated in NBS buffers, whose scale is neither of sea water's.
                    tests = Tests::CONDITIONS;
                    a * compute::unionized_fraction_free(b, c, psu)
                } else {
                    a * compute::unionized_fraction(b, c)
                }
            }
            Formula::Salinity => compute::salinity(a, b),
            Formula::Conductivity25 => compute::conductivity_25(a, b),
            Formula::VapourPressureDeficit => compute::vapour_pressure_deficit(a, b, config.leaf_warmer_c),
            Formula::DewPoint => compute::dew_point(a, b),
            Formula::AbsoluteHumidity => compute::absolute_humidity(a, b),
        };
        let sample = Sample { value, tests };
        (if value.is_finite() { Ok(sample) } else { Err(MissingReason::Input) }, worst)
    }
}

/// The calibrated temperature of a channel, or what is assumed, with the mark of doubt.
fn celsius(config: &Config, raws: &[Result<Sample, MissingReason>; CHANNELS_MAX], channel: u8) -> (f32, Tests) {
    let index = usize::from(channel);
    match (config.channels.get(index), raws.get(index)) {
        (Some(channel), Some(Ok(sample))) => {
            let value = channel.calibration.slope * sample.value + channel.calibration.offset;
            (value, sample.tests)
        }
        _ => (CELSIUS_ASSUMED, Tests::INPUT),
    }
}
