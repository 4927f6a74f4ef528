//! `tianyu node calibrate`: one or two points, at the probe, through the running gateway.
//!
//! The node marks what it reads meanwhile and controls nothing by it. What was measured, by whom and
//! when the next one is due is kept with the config that carries the correction.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use gateway::configs::{Calibration, Configs, Correction, Line, Point, What};
use gateway::control::{Newest, Request};
use gateway::node_file::NodeFile;
use node::config::Source;
use telemetry::Property;

use super::node::order;
use super::node_field::{keep, person, push};

/// What is asked.
#[derive(clap::Args)]
pub(super) struct CalibrateArguments {
    /// The node file; the channel's calibration is written into it
    file: PathBuf,
    /// The channel's name
    channel: String,
    /// The standard's value in the channel's unit; twice for two points. Asked for where it is missing
    #[arg(long, value_name = "VALUE", num_args = 1, allow_negative_numbers = true)]
    standard: Vec<f64>,
    /// Calibrate at two points although only one standard is given
    #[arg(long)]
    two_points: bool,
    /// When the next one is due, such as 2027-02-01; by default in three months
    #[arg(long, value_name = "DATE")]
    next_due: Option<jiff::civil::Date>,
    /// Ask nothing: for scripts
    #[arg(long)]
    yes: bool,
    /// Longest wait for a steady reading, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    within: u64,
    /// How long to wait for the node to take the new config, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Who calibrates
    #[arg(long, value_name = "WHO", default_value_t = person())]
    by: String,
}

impl CalibrateArguments {
    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}

/// Readings that have to agree before one is called steady.
const STEADY: usize = 5;
/// How often it is looked for a new one.
const LOOK: Duration = Duration::from_millis(500);
/// What is beyond the wait for two steady readings: time for a person between them, s.
const SPARE_S: u64 = 600;
/// Longest that a node marks a channel as being calibrated, s.
const MARKED_S_MAX: u64 = 7_200;
/// A pH electrode has 85 to 105 % of the ideal slope (domain page §2, unverified).
const PH_SLOPE: std::ops::RangeInclusive<f64> = 0.85..=1.05;
/// Beyond it the probe or the standard is not what it is taken for; no source, a bound of good sense.
const SLOPE: std::ops::RangeInclusive<f64> = 0.5..=2.0;
/// The same of a shift without a slope, as a share of what is plausible of the property.
const SHIFT_MAX: f64 = 0.1;

/// A channel under calibration.
struct Bench<'a> {
    data: &'a Path,
    node: &'a NodeFile,
    channel: u8,
    property: Property,
    before: Correction,
    within: Duration,
}

/// Does it.
pub(super) fn run(data: &Path, arguments: CalibrateArguments, node: &NodeFile) -> anyhow::Result<ExitCode> {
    let CalibrateArguments { file, channel, standard, two_points, next_due, yes, within, wait, by } = arguments;
    let names: Vec<_> = node.channels.iter().map(|it| format!("\"{}\"", it.name)).collect();
    let index = node.channels.iter().position(|it| it.name == channel);
    let index = index.with_context(|| format!("there is no channel \"{channel}\"; there is {}", names.join(", ")))?;
    let of = node.config.channels.get(index).context("the channel is in the config")?;
    ensure!(
        !matches!(of.source, Source::Computed { .. }),
        "\"{channel}\" is computed: calibrate what it is computed from"
    );
    ensure!(standard.len() <= 2, "one or two standards, not {}", standard.len());
    ensure!(!(yes && standard.is_empty()), "without a person to ask, give --standard");
    let count = if two_points { 2 } else { standard.len().max(1) };
    ensure!(!(yes && standard.len() < count), "without a person to ask, give --standard twice");
    let set = of.calibration;
    let bench = Bench {
        data,
        node,
        channel: u8::try_from(index).context("a channel's number")?,
        property: of.property,
        before: Correction { number: set.number, slope: set.slope, offset: set.offset },
        within: Duration::from_secs(within),
    };
    let marked_s = (within * count as u64 + SPARE_S).min(MARKED_S_MAX);
    println!("{}", bench.mark(u32::try_from(marked_s)?, &by)?);
    let measured = bench.points(&standard, count, yes).and_then(|points| Ok((bench.correction(&points)?, points)));
    // Whatever came of it, the node goes back to work.
    let over = bench.mark(0, &by);
    let (after, points) = measured?;
    println!("{}", over?);

    let before = bench.before;
    println!("before    slope {} offset {}", before.slope, before.offset);
    println!("after     slope {} offset {}", after.slope, after.offset);
    if !yes && !asked("keep it and give it to the node? (yes/no)")?.starts_with('y') {
        println!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let next_due = next_due.unwrap_or_else(|| {
        let today = jiff::tz::offset(8).to_datetime(jiff::Timestamp::now()).date();
        today.saturating_add(jiff::Span::new().months(3))
    });
    let text = with_calibration(&node.text, &channel, &after)?;
    let changed =
        NodeFile::parse(&file, text.clone()).map_err(|complaints| anyhow::anyhow!(gateway::listing(&complaints)))?;
    let mut expected = node.config.clone();
    if let Some(of) = expected.channels.get_mut(index) {
        of.calibration = node::config::Calibration { number: after.number, slope: after.slope, offset: after.offset };
    }
    ensure!(
        changed.config == expected,
        "{}: write calibration = {} yourself, and push it",
        file.display(),
        shown(&after)
    );
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let (number, ..) = keep(data, &changed, &by)?;
    let calibration = Calibration {
        channel,
        index: bench.channel,
        property: bench.property.name().to_owned(),
        before,
        after,
        points,
        next_due: next_due.to_string(),
    };
    let line = Line { by: by.clone(), calibration: Some(calibration), ..Line::of(number, What::Calibrated) };
    Configs::of(data).note(&changed.name, &line)?;
    println!("kept      in {} and with config {number}; next due {next_due}", file.display());
    push(data, &changed, wait, &by)
}

impl Bench<'_> {
    fn mark(&self, for_s: u32, by: &str) -> anyhow::Result<String> {
        let (node, channel, by) = (self.node.name.to_string(), self.channel, by.to_owned());
        order(self.data, &Request::Calibrate { node, channel, for_s, by })
    }

    fn points(&self, standards: &[f64], count: usize, yes: bool) -> anyhow::Result<Vec<Point>> {
        let unit = self.property.facts().symbol;
        let mut points: Vec<Point> = Vec::new();
        for n in 0..count {
            let known = standards.get(n).copied();
            if !yes {
                let what = known.map_or_else(|| "the standard".to_owned(), |it| format!("the standard of {it} {unit}"));
                asked(&format!("put the probe into {what} and press Enter"))?;
            }
            // A script cannot say when the probe has been moved: the reading says it.
            let away = match (points.first(), known) {
                (Some(first), Some(standard)) => Some((first.raw, (standard - first.standard).abs() * 0.3)),
                _ => None,
            };
            let (raw, factor) = self.steady(away)?;
            let standard = match known {
                Some(standard) => standard,
                None => {
                    let text = asked(&format!("it reads {raw} {unit}; the standard's value in {unit}?"))?;
                    text.parse().with_context(|| format!("\"{text}\" is no number"))?
                }
            };
            ensure!(standard.is_finite(), "{standard} is no standard");
            println!("point     standard {standard} {unit}, instrument {raw} {unit}");
            // What is compensated for after the correction is taken out of the standard.
            points.push(Point { standard: standard / factor, raw });
        }
        Ok(points)
    }

    /// A steady uncorrected reading, and by how much the node's compensation changes it.
    fn steady(&self, away: Option<(f64, f64)>) -> anyhow::Result<(f64, f64)> {
        let until = Instant::now() + self.within;
        let (mut seen, mut last): (Vec<(f64, f64)>, Option<u64>) = (Vec::new(), None);
        while Instant::now() < until {
            let text = order(self.data, &Request::Newest { node: self.node.name.to_string() })?;
            let newest: Newest = serde_json::from_str(&text).context("read the newest values")?;
            if last.replace(newest.t_ms) != Some(newest.t_ms) {
                let reading = newest.readings.iter().find(|(channel, ..)| *channel == self.channel);
                match reading {
                    Some((_, value, raw, true)) => {
                        let value = self.property.value(*value);
                        let (raw, factor) = self.uncorrected(value, raw.map(|raw| self.property.value(raw)));
                        seen.push((raw, factor));
                        eprintln!("reads     {raw:.3} {}", self.property.facts().symbol);
                    }
                    _ => {
                        eprintln!("reads     nothing");
                        seen.clear();
                    }
                }
            }
            let newest = seen.get(seen.len().saturating_sub(STEADY)..).unwrap_or_default();
            let (low, high) = newest.iter().fold((f64::MAX, f64::MIN), |(l, h), (raw, _)| (l.min(*raw), h.max(*raw)));
            let moved = away.is_none_or(|(from, by)| (low - from).abs() >= by && (high - from).abs() >= by);
            if newest.len() == STEADY && high - low <= self.band(high) && moved {
                let mean = |of: fn(&(f64, f64)) -> f64| newest.iter().map(of).sum::<f64>() / STEADY as f64;
                return Ok((mean(|it| it.0), mean(|it| it.1)));
            }
            std::thread::sleep(LOOK);
        }
        bail!(
            "no steady reading within {} s: wait for the probe to settle, or give more time with --within",
            self.within.as_secs()
        )
    }

    /// The instrument's own value of a reading, and the factor of what compensates behind the
    /// correction.
    fn uncorrected(&self, value: f64, raw: Option<f64>) -> (f64, f64) {
        let (slope, offset) = (f64::from(self.before.slope), f64::from(self.before.offset));
        let Some(raw) = raw else { return ((value - offset) / slope, 1.0) };
        let corrected = slope * raw + offset;
        let compensates =
            self.node.config.channels.get(usize::from(self.channel)).is_some_and(|it| it.compensate_with.is_some());
        let factor = if compensates && corrected.abs() > 0.1 { value / corrected } else { 1.0 };
        (raw, if (0.5..=1.5).contains(&factor) { factor } else { 1.0 })
    }

    /// Within which steady readings lie.
    fn band(&self, at: f64) -> f64 {
        match self.property {
            Property::DissolvedOxygen => 0.1,
            Property::Ph | Property::SoilPh => 0.03,
            _ => (at.abs() * 0.01).max(3.0 / 10f64.powi(i32::from(self.property.facts().digits))),
        }
    }

    fn correction(&self, points: &[Point]) -> anyhow::Result<Correction> {
        let before = self.before;
        let (slope, offset) = match points {
            [a, b] => {
                let span = b.raw - a.raw;
                ensure!(span.abs() > self.band(a.raw.max(b.raw)), "the instrument reads the same in both standards");
                let slope = (b.standard - a.standard) / span;
                (slope, a.standard - slope * a.raw)
            }
            // A pH electrode ages in its zero point first; and at zero nothing has a slope.
            [only]
                if matches!(self.property, Property::Ph | Property::SoilPh)
                    || only.standard.abs() <= self.band(0.0) =>
            {
                let slope = f64::from(before.slope);
                (slope, only.standard - slope * only.raw)
            }
            [only] => {
                ensure!(only.raw > 0.0, "the instrument reads {}: it cannot be corrected by a slope", only.raw);
                (only.standard / only.raw, 0.0)
            }
            _ => bail!("one or two points"),
        };
        match self.property {
            Property::Ph | Property::SoilPh if points.len() == 2 => {
                let electrode = 1.0 / slope;
                ensure!(
                    PH_SLOPE.contains(&electrode),
                    "the electrode has {:.0} % of its slope, 85 to 105 % is sound: clean or replace it, and look at the buffers",
                    electrode * 100.0
                );
            }
            _ => ensure!(
                SLOPE.contains(&slope),
                "a slope of {slope:.3} is no correction: the probe is not in the standard, or is broken"
            ),
        }
        let facts = self.property.facts();
        let moves = points.iter().map(|it| it.standard - (f64::from(before.slope) * it.raw + f64::from(before.offset)));
        let most = SHIFT_MAX * f64::from(facts.max - facts.min);
        if points.len() == 1 && slope == f64::from(before.slope) && moves.map(f64::abs).any(|it| it > most) {
            bail!(
                "it would be shifted by more than {most:.1} {}: the probe is not in the standard, or is broken",
                facts.symbol
            );
        }
        let number = before.number.checked_add(1).context("a channel's calibrations have run out of numbers")?;
        Ok(Correction { number, slope: slope as f32, offset: offset as f32 })
    }
}

/// Asks whoever sits here.
fn asked(what: &str) -> anyhow::Result<String> {
    print!("{what} ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line).context("read the answer")?;
    ensure!(read > 0, "nobody answers; for scripts: --yes --standard VALUE");
    Ok(line.trim().to_owned())
}

fn shown(of: &Correction) -> String {
    format!("{{ number = {}, slope = {:?}, offset = {:?} }}", of.number, of.slope, of.offset)
}

/// The file's text with a channel's calibration; everything else stays as it was written.
fn with_calibration(text: &str, channel: &str, after: &Correction) -> anyhow::Result<String> {
    let line = format!("calibration = {}\n", shown(after));
    let key =
        |line: &str, key: &str| line.trim_start().strip_prefix(key).is_some_and(|it| it.trim_start().starts_with('='));
    let named = |line: &str| {
        let value = toml::from_str::<toml::Table>(line).ok().and_then(|it| Some(it.get("name")?.as_str()? == channel));
        key(line, "name") && value.unwrap_or(false)
    };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_head = |line: &&str| line.trim_start().starts_with('[');
    let mut begin = 0;
    while begin < lines.len() {
        let end = lines[begin + 1..].iter().position(is_head).map_or(lines.len(), |at| begin + 1 + at);
        if lines[begin].trim().starts_with("[[channel]]")
            && let Some(name) = lines[begin..end].iter().position(|line| named(line))
        {
            let old = lines[begin..end].iter().position(|line| key(line, "calibration"));
            let mut out = String::with_capacity(text.len() + line.len());
            for (n, of) in lines.iter().enumerate() {
                if old.is_none_or(|old| n != begin + old) {
                    out.push_str(of);
                }
                let here = old.map_or(begin + name, |old| begin + old);
                if n == here {
                    if !out.ends_with('\n') {
                        out.push('\n');
                    }
                    out.push_str(&line);
                }
            }
            return Ok(out);
        }
        begin = end;
    }
    bail!(
        "the [[channel]] \"{channel}\" is not where a person would look for it; write calibration = {} yourself",
        shown(after)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const POND: &str = include_str!("../../examples/nodes/pond.toml");

    #[test]
    fn a_calibration_is_written_into_its_channel_and_nothing_else_changes() {
        let after = Correction { number: 4, slope: 1.05, offset: -0.125 };
        for channel in ["oxygen 1.5 m", "water"] {
            let text = with_calibration(POND, channel, &after).unwrap();
            let node = NodeFile::parse(Path::new("pond.toml"), text.clone()).unwrap();
            let at = node.channels.iter().position(|it| it.name == channel).unwrap();
            let mut old = NodeFile::parse(Path::new("pond.toml"), POND.to_owned()).unwrap().config;
            old.channels[at].calibration = node::config::Calibration { number: 4, slope: 1.05, offset: -0.125 };
            assert_eq!(node.config, old, "{channel}");
            assert!(text.lines().count() - POND.lines().count() <= 1);
        }
        assert!(with_calibration(POND, "nobody", &after).is_err());
    }

    fn bench(node: &NodeFile, property: Property) -> Bench<'_> {
        let before = Correction { number: 1, slope: 1.0, offset: 0.0 };
        Bench { data: Path::new(""), node, channel: 0, property, before, within: Duration::ZERO }
    }

    #[test]
    fn one_and_two_points_give_the_line_through_them_and_what_no_sound_probe_needs_is_refused() {
        let node = NodeFile::parse(Path::new("pond.toml"), POND.to_owned()).unwrap();
        let of = |property, points: &[(f64, f64)]| {
            let points: Vec<_> =
                points.iter().map(|(standard, raw)| Point { standard: *standard, raw: *raw }).collect();
            bench(&node, property).correction(&points).map(|it| (it.number, it.slope, it.offset))
        };
        assert_eq!(of(Property::DissolvedOxygen, &[(8.0, 10.0)]).unwrap(), (2, 0.8, 0.0));
        assert_eq!(of(Property::DissolvedOxygen, &[(0.0, 0.25)]).unwrap(), (2, 1.0, -0.25));
        assert_eq!(of(Property::DissolvedOxygen, &[(0.0, 0.5), (8.0, 8.5)]).unwrap(), (2, 1.0, -0.5));
        assert_eq!(of(Property::Ph, &[(7.0, 7.25)]).unwrap(), (2, 1.0, -0.25));
        assert_eq!(of(Property::Conductivity, &[(1.413, 1.413 * 0.8)]).unwrap(), (2, 1.25, 0.0));
        // 94 % of the ideal slope is sound (domain page §2), 80 % is not.
        assert!(of(Property::Ph, &[(7.0, 7.0), (4.0, 7.0 - 3.0 * 0.94)]).is_ok());
        let told = of(Property::Ph, &[(7.0, 7.0), (4.0, 7.0 - 3.0 * 0.80)]).unwrap_err().to_string();
        assert!(told.contains("80 % of its slope"), "{told}");
        assert!(of(Property::DissolvedOxygen, &[(8.0, 2.0)]).is_err());
        assert!(of(Property::Conductivity, &[(1.4, 1.4), (12.9, 1.4)]).is_err());
        assert!(of(Property::Conductivity, &[(1.4, 0.0)]).is_err());
        let told = of(Property::DissolvedOxygen, &[(0.0, 4.7)]).unwrap_err().to_string();
        assert!(told.contains("shifted by more than 2.5 mg/L"), "{told}");
    }

    #[test]
    fn the_nodes_own_compensation_is_taken_out_of_the_standard() {
        let text = include_str!("../../examples/nodes/cage.toml").replace("passphrase_file", "#");
        let node = NodeFile::parse(Path::new("cage.toml"), text).unwrap();
        let oxygen = node.channels.iter().position(|it| it.name == "oxygen").unwrap() as u8;
        let bench = Bench { channel: oxygen, ..bench(&node, Property::DissolvedOxygen) };
        assert_eq!(bench.uncorrected(6.4, Some(8.0)), (8.0, 0.8));
        assert_eq!(bench.uncorrected(6.4, None), (6.4, 1.0));
    }
}
