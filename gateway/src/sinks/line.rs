//! Line protocol: what InfluxDB is sent. Pure: the same entry always gives the same lines, so a
//! batch sent twice is stored once.
//!
//! Measurement = medium; tags `adcode`, `node`, `point`, `site`, `unit`, sorted, those without a
//! value left out; fields `<p>`, `<p>_flag`, and where they say something `<p>_raw`, `<p>_tests`,
//! `<p>_cal`; `time_error_s` where the date is not within two seconds. Milliseconds.

use std::fmt::Write as _;

use telemetry::Medium;

use crate::entry::{Accepted, Content, Dated, Observation, Place};

/// Dates with a larger error say so in `time_error_s`.
pub const TIME_ERROR_TOLD_MS: u64 = 2_000;

/// Lines, each with its own place in the text, so that one can be sent without the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    text: String,
    /// End of each line, its newline included.
    ends: Vec<usize>,
}

impl Lines {
    /// Number of lines.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Lines `range` as text.
    pub fn text(&self, range: std::ops::Range<usize>) -> &str {
        let start = range.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let end = range.end.checked_sub(1).map_or(0, |last| self.ends[last]);
        &self.text[start..end.max(start)]
    }

    /// Adds the lines of an entry.
    pub fn push(&mut self, accepted: &Accepted) {
        for record in &accepted.records {
            match &record.content {
                Content::Round { readings, .. } => self.round(accepted, record, readings),
                Content::Event { code, subject, value, detail, place } => {
                    let place = place.and_then(|at| accepted.places.get(usize::from(at)));
                    let fields = format!(
                        "event_code={code}i,event_subject={subject}i,event_value={value}i,event_detail={detail}i"
                    );
                    self.line(Medium::Node, &accepted.node, place, &fields, record);
                }
                Content::Description(_) | Content::Loss(..) | Content::Gone => {}
            }
        }
    }

    fn round(&mut self, accepted: &Accepted, record: &Dated, readings: &[Observation]) {
        // One line for each medium and place: readings of a round that share them share a line.
        let mut written = [false; telemetry::limits::CHANNELS_MAX];
        for (at, first) in readings.iter().enumerate() {
            let Some(medium) = first.property().map(|p| p.medium()) else { continue };
            if written.get(at).copied().unwrap_or(true) {
                continue;
            }
            let mut fields = String::with_capacity(256);
            for (other, reading) in readings.iter().enumerate().skip(at) {
                let same = reading.place == first.place && reading.property().map(|p| p.medium()) == Some(medium);
                if let (true, Some(slot)) = (same, written.get_mut(other)) {
                    *slot = true;
                    field(&mut fields, reading);
                }
            }
            self.line(medium, &accepted.node, accepted.places.get(usize::from(first.place)), &fields, record);
        }
    }

    fn line(&mut self, medium: Medium, node: &str, place: Option<&Place>, fields: &str, record: &Dated) {
        let text = &mut self.text;
        text.push_str(medium.name());
        let adcode = place.map(|p| p.adcode.to_string());
        let tags = [
            ("adcode", adcode.as_deref()),
            ("node", Some(node)),
            ("point", place.map(|p| p.point.as_str())),
            ("site", place.map(|p| p.site.as_str())),
            ("unit", place.map(|p| p.unit.as_str())),
        ];
        for (key, value) in tags {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                text.push(',');
                text.push_str(key);
                text.push('=');
                escape(text, value);
            }
        }
        text.push(' ');
        text.push_str(fields);
        if record.error_ms > TIME_ERROR_TOLD_MS {
            put(text, format_args!(",time_error_s={}", record.error_ms as f64 / 1e3));
        }
        put(text, format_args!(" {}\n", record.date_ms));
        self.ends.push(text.len());
    }
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let written = text.write_fmt(args);
    debug_assert!(written.is_ok());
}

fn field(fields: &mut String, reading: &Observation) {
    let Some(name) = reading.property().map(|p| p.name()) else { return };
    if !fields.is_empty() {
        fields.push(',');
    }
    put(fields, format_args!("{name}_flag={}i", reading.flag().id()));
    if let Some(value) = reading.value() {
        put(fields, format_args!(",{name}={value}"));
    }
    if let Some(raw) = reading.raw() {
        put(fields, format_args!(",{name}_raw={raw}"));
    }
    if reading.tests_field() != 0 {
        put(fields, format_args!(",{name}_tests={}i", reading.tests_field()));
    }
    if reading.calibration != 0 {
        put(fields, format_args!(",{name}_cal={}i", reading.calibration));
    }
}

/// Escapes a tag value. Line protocol cannot carry a newline in a tag and reads a backslash
/// before a separator as its escape; the registry refuses both, and here they become `_`, so
/// that no name can ever begin a line of its own.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            ',' | ' ' | '=' => {
                text.push('\\');
                text.push(c);
            }
            '\\' => text.push('_'),
            c if c.is_control() => text.push('_'),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::samples;

    #[test]
    fn readings_of_one_medium_and_place_share_a_line() {
        let mut lines = Lines::default();
        lines.push(&samples::accepted(7, 1_790_000_000_000));
        assert_eq!(
            lines.text(0..lines.len()),
            "water,adcode=350181,node=pond-7,point=0.5\\ m,site=福清一号,unit=1\\,号\\=塘 \
             dissolved_oxygen_flag=1i,dissolved_oxygen=7.19,dissolved_oxygen_raw=7.31,dissolved_oxygen_cal=2i,\
             water_temperature_flag=9i,water_temperature_tests=65536i 1790000000000\n\
             air,adcode=350181,node=pond-7,site=福清一号,unit=1\\,号\\=塘 \
             air_temperature_flag=3i,air_temperature=-3.5,air_temperature_tests=8i 1790000000000\n"
        );
    }

    #[test]
    fn a_name_cannot_begin_a_line_of_its_own() {
        let mut accepted = samples::accepted(7, 1_790_000_000_000);
        accepted.places[0].unit = "a\nwater,b=c d=1\r\\".into();
        let mut lines = Lines::default();
        lines.push(&accepted);
        assert_eq!(lines.text(0..lines.len()).lines().count(), lines.len());
        assert!(lines.text(0..1).contains("unit=a_water\\,b\\=c\\ d\\=1__ "));
    }

    #[test]
    fn an_uncertain_date_says_so() {
        let mut accepted = samples::accepted(7, 1_790_000_000_000);
        accepted.records[0].error_ms = 90_500;
        let mut lines = Lines::default();
        lines.push(&accepted);
        assert!(lines.text(0..1).contains(",time_error_s=90.5 "));
    }

    #[test]
    fn any_run_of_lines_can_be_sent_alone() {
        let mut lines = Lines::default();
        for seq in 0..3 {
            lines.push(&samples::accepted(seq, 1_790_000_000_000 + i64::from(seq)));
        }
        let all = lines.text(0..lines.len()).to_owned();
        for cut in 0..=lines.len() {
            assert_eq!(format!("{}{}", lines.text(0..cut), lines.text(cut..lines.len())), all);
        }
    }
}
