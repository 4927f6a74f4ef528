//! The newest values as a table that fits the terminal, and as lines where there is none.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::live::{LiveActuator, LiveNode, LiveReading};
use telemetry::Flag;

/// Columns of one reading, the space behind it included.
const CELL: usize = 43;
/// Columns of a reading's name and depth, and of its value.
const NAME: usize = 16;
const VALUE: usize = 7;

/// Columns and lines of the terminal; what most have where it does not say.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Everything as a table of so many columns, and fewer than so many lines.
pub(super) fn table(nodes: &BTreeMap<String, LiveNode>, now_ms: i64, (columns, lines): (usize, usize)) -> String {
    let mut all = Vec::new();
    let cells = (columns / CELL).max(1);
    for (name, node) in nodes {
        let place = node.readings.first().map_or("", |it| it.unit.as_str());
        let mut head = format!("{name}  {place}  {} s", node.age_ms(now_ms) / 1_000);
        for it in &node.actuators {
            // Writing into a string does not fail.
            let _ = write!(head, "  {}", actuator(it));
        }
        for it in &node.alarms {
            let name =
                it.name.map_or_else(|| format!("#{}", it.alarm), |alarm| format!("{} {}", alarm.zh(), alarm.name()));
            let _ = write!(head, "  ! {name}");
        }
        all.push(fit(&head, columns));
        for row in node.readings.chunks(cells) {
            let row: String = row.iter().map(cell).collect();
            all.push(fit(&row, columns).trim_end().to_owned());
        }
    }
    let most = lines.saturating_sub(2).max(1);
    if all.len() > most {
        let left = all.len() - (most - 1);
        all.truncate(most - 1);
        all.push(format!("… {left} 行 lines"));
    }
    all.push(String::new());
    all.join("\n")
}

/// One reading in its columns.
fn cell(it: &LiveReading) -> String {
    let name = match it.point.is_empty() {
        true => it.title.zh.to_owned(),
        false => format!("{} {}", it.title.zh, it.point),
    };
    // The sign says it without colour, and without Chinese.
    let sign = match it.flag {
        1 => "+",
        9 => "-",
        _ => "?",
    };
    let text = format!("{} {} {} {sign}{}", pad(&name, NAME), right(&value(it), VALUE), it.unit_symbol, quality(it));
    format!("{} ", pad(&text, CELL - 1))
}

fn actuator(it: &LiveActuator) -> String {
    let name = it.kind.map_or_else(|| format!("#{}", it.actuator), |kind| kind.zh().to_owned());
    format!("{name} {}", if it.on { "开 on" } else { "关 off" })
}

fn quality(it: &LiveReading) -> String {
    let flag = Flag::from_id(it.flag).unwrap_or_default().zh();
    it.reason.map_or_else(|| flag.to_owned(), |reason| format!("{flag}:{}", reason.zh()))
}

fn value(it: &LiveReading) -> String {
    it.value.map_or_else(|| "—".to_owned(), |value| format!("{value}"))
}

/// As much of a text as so many columns hold.
fn fit(text: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |letter: &char| {
        used += letter.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(fits).collect()
}

fn pad(text: &str, columns: usize) -> String {
    let text = fit(text, columns);
    let free = columns.saturating_sub(text.width());
    text + &" ".repeat(free)
}

fn right(text: &str, columns: usize) -> String {
    " ".repeat(columns.saturating_sub(text.width())) + text
}

/// One node's newest values as a line.
pub(super) fn line(name: &str, node: &LiveNode, now_ms: i64) -> String {
    let mut text = format!("{name} age={:.1}s", node.age_ms(now_ms) as f64 / 1e3);
    for it in &node.readings {
        // Writing into a string does not fail.
        let _ = write!(text, " {}", it.property);
        if !it.point.is_empty() {
            let _ = write!(text, "@{}", it.point.replace(' ', ""));
        }
        let _ = write!(text, "={}{}[{}]", value(it), it.unit_symbol, quality(it));
    }
    for it in &node.actuators {
        let kind = it.kind.map_or("actuator", |kind| kind.name());
        let _ = write!(text, " {kind}={}", if it.on { "on" } else { "off" });
    }
    for it in &node.alarms {
        let _ = write!(
            text,
            " !{}",
            it.name.map_or_else(|| format!("alarm-{}", it.alarm), |alarm| alarm.name().to_owned())
        );
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Title;
    use telemetry::{ActuatorKind, MissingReason};

    fn nodes() -> BTreeMap<String, LiveNode> {
        let reading = |point: &str, value, flag, reason| LiveReading {
            property: "dissolved_oxygen",
            title: Title { zh: "溶解氧", en: "dissolved oxygen" },
            unit_symbol: "mg/L",
            site: "s".into(),
            unit: "1号塘".into(),
            point: point.into(),
            value,
            flag,
            tests: 0,
            reason,
        };
        let node = LiveNode {
            arrived_ms: 1_000,
            age_at_sending_ms: 500,
            readings: vec![
                reading("0.3 m", Some(6.25), 1, None),
                reading("1.2 m", None, 9, Some(MissingReason::NoAnswer)),
                reading("", Some(3.5), 3, None),
            ],
            actuators: vec![LiveActuator { actuator: 0, kind: Some(ActuatorKind::Aerator), on: true }],
            alarms: Vec::new(),
        };
        (0..9).map(|n| (format!("pond-{n}"), node.clone())).collect()
    }

    #[test]
    fn a_table_is_never_wider_nor_longer_than_the_terminal() {
        for (columns, lines) in [(20, 5), (80, 24), (120, 40), (300, 100)] {
            let text = table(&nodes(), 3_000, (columns, lines));
            assert!(text.lines().all(|line| line.width() <= columns), "{columns}: {text}");
            assert!(text.lines().count() < lines, "{lines}: {text}");
        }
    }

    #[test]
    fn value_unit_quality_and_age_are_told() {
        let text = table(&nodes(), 3_000, (120, 40));
        let wanted =
            ["pond-0  1号塘  2 s  增氧机 开 on", "溶解氧 0.3 m        6.25 mg/L +好", "— mg/L -缺测:无应答", "?可疑"];
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let text = line("pond-0", &nodes()["pond-0"], 3_000);
        assert_eq!(
            text,
            "pond-0 age=2.5s dissolved_oxygen@0.3m=6.25mg/L[好] dissolved_oxygen@1.2m=—mg/L[缺测:无应答] \
             dissolved_oxygen=3.5mg/L[可疑] aerator=on\n"
        );
    }
}
