//! The pages for integrators say what the boards' files say, and their results follow from their own
//! numbers. With `TIANYU_WRITE_PAGE=1` the tables are written anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use system_tests::Tianyu;
use telemetry::Alarm;
use telemetry::quality::MissingReason;

const FIRMWARE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../firmware");
const CONTROL: &str = include_str!("../../firmware/node/src/control.rs");

/// A page.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(name: &str) -> Result<Self> {
        let path = Path::new(FIRMWARE).join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, text })
    }

    /// What stands between the mark of a table and the next end.
    fn marked(&self, table: &str) -> Result<&str> {
        let mark = format!("<!-- table: {table} -->\n");
        let (_, rest) = self.text.split_once(&mark).with_context(|| format!("the page has no {}", mark.trim()))?;
        Ok(rest.split_once("<!-- end -->").with_context(|| format!("{table} has no end"))?.0)
    }

    /// The cells of a table's rows, without its head.
    fn rows(&self, table: &str) -> Result<Vec<Vec<String>>> {
        let lines = self.marked(table)?.lines().skip(2);
        let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let rows: Vec<Vec<String>> = lines.map(cells).collect();
        ensure!(!rows.is_empty(), "{table} is empty");
        Ok(rows)
    }

    /// Compares a table with what it should be, or writes it.
    fn holds(&self, table: &str, right: &str) -> Result<()> {
        static ONE_WRITER: Mutex<()> = Mutex::new(());
        if std::env::var_os("TIANYU_WRITE_PAGE").is_some() {
            let _one = ONE_WRITER.lock().unwrap_or_else(PoisonError::into_inner);
            let mut page = Self { path: self.path.clone(), text: std::fs::read_to_string(&self.path)? };
            let mark = format!("<!-- table: {table} -->\n");
            let old = format!("{mark}{}<!-- end -->", page.marked(table)?);
            page.text = page.text.replace(&old, &format!("{mark}{right}<!-- end -->"));
            return std::fs::write(&page.path, &page.text).context("write the page");
        }
        let (name, shown) = (self.path.display(), self.marked(table)?);
        ensure!(shown == right, "{name} shows another table of {table}; TIANYU_WRITE_PAGE=1 writes it:\n{right}");
        Ok(())
    }
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    rows.iter().fold(line(&head) + &rule, |table, row| table + &line(row))
}

/// The boards' files, by folder.
fn boards() -> Result<BTreeMap<String, toml::Table>> {
    let mut boards = BTreeMap::new();
    for folder in std::fs::read_dir(Path::new(FIRMWARE).join("boards"))? {
        let file = folder?.path().join("board.toml");
        if let Ok(text) = std::fs::read_to_string(&file) {
            let board: toml::Table = text.parse().with_context(|| file.display().to_string())?;
            boards.insert(string(&board, "name")?, board);
        }
    }
    ensure!(boards.len() >= 5, "only {} boards were found", boards.len());
    Ok(boards)
}

fn string(table: &toml::Table, key: &str) -> Result<String> {
    Ok(table.get(key).and_then(toml::Value::as_str).with_context(|| format!("no text {key}"))?.to_owned())
}

fn strings(table: &toml::Table, key: &str) -> Vec<String> {
    let items = table.get(key).and_then(toml::Value::as_array).into_iter().flatten();
    items.filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_wiring_table_has_the_pins_of_every_board_s_file() -> Result<()> {
    let kinds = [
        ("lines", "RS-485"),
        ("i2c", "I2C"),
        ("onewire", "1-Wire"),
        ("outputs", "outputs 输出"),
        ("contacts", "contacts 触点"),
        ("pulses", "pulses 脉冲"),
        ("adcs", "analog 模拟"),
    ];
    let mut rows = Vec::new();
    for (name, board) in boards()? {
        if string(&board, "status")? == "runs in emulation" {
            continue;
        }
        for (key, kind) in kinds {
            let Some(places) = board.get(key).and_then(toml::Value::as_table) else { continue };
            let (names, at) = (strings(places, "names"), strings(places, "at"));
            ensure!(!names.is_empty() && (at.is_empty() || at.len() == names.len()), "{name}: {key}");
            let at = at.iter().map(Some).chain(std::iter::repeat(None));
            let shown = names.iter().zip(at).map(|(name, at)| match at {
                Some(at) => format!("`{name}`: {at}"),
                None => format!("`{name}`"),
            });
            rows.push(vec![format!("`{name}`"), kind.to_owned(), shown.collect::<Vec<_>>().join("; ")]);
        }
    }
    ensure!(rows.len() >= 20, "only {} rows", rows.len());
    Page::read("README.md")?.holds("pins", &table(&["Board", "What", "Name in the node file, and where it is"], &rows))
}

#[test]
fn no_board_is_said_to_be_more_than_its_file_says() -> Result<()> {
    let mut rows = Vec::new();
    for (name, board) in boards()? {
        let status = string(&board, "status")?;
        ensure!(["runs in emulation", "builds; not tried on hardware"].contains(&status.as_str()), "{name}: {status}");
        let links = strings(&board, "links").join(", ");
        rows.push(vec![format!("`{name}`"), string(&board, "title")?, string(&board, "processor")?, links, status]);
    }
    Page::read("README.md")?.holds("boards", &table(&["Board", "", "Processor", "Link", "Status"], &rows))
}

#[test]
fn the_causes_are_those_of_control() -> Result<()> {
    let (_, block) = CONTROL.split_once("\npub enum Cause {\n").context("control has no causes")?;
    let (mut rows, mut comment) = (Vec::new(), "");
    for line in block.lines().take_while(|line| *line != "}").map(str::trim) {
        match (line.strip_prefix("/// "), line.split_once(" = ")) {
            (Some(words), _) => comment = words,
            (None, Some((_, number))) => rows.push(vec![number.trim_end_matches(',').to_owned(), comment.to_owned()]),
            (None, None) => bail!("{line:?}"),
        }
    }
    ensure!(rows.len() >= 16, "only {} causes", rows.len());
    Page::read("README.md")?.holds("causes", &table(&["Cause", ""], &rows))
}

/// What stands in backquotes.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What the console can say: its source, and that of the errors that it shows, without comments and tests.
fn console() -> Result<String> {
    let source = Path::new(FIRMWARE).join("platform/src");
    let mut files = vec![source.join("board.rs")];
    for file in std::fs::read_dir(source.join("console")).context("the console")? {
        files.push(file?.path());
    }
    let mut text = String::new();
    for file in files {
        let whole = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let program = whole.split("#[cfg(test)]").next().unwrap_or_default().lines();
        for line in program.filter(|line| !line.trim_start().starts_with("//")) {
            text += line;
            text.push('\n');
        }
    }
    Ok(text)
}

#[test]
fn what_the_trouble_shooting_looks_for_is_what_the_console_says() -> Result<()> {
    let console = console()?;
    let (mut seen, rows) = (0, Page::read("README.md")?.rows("trouble")?);
    for row in &rows {
        let [symptom, look, ..] = &row[..] else { bail!("{row:?}") };
        ensure!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{symptom} has an empty cell");
        for span in spans(look) {
            let reason =
                span.strip_prefix("MISSING: ").map(|name| MissingReason::ALL.iter().any(|it| it.name() == name));
            let alarm = Alarm::ALL.iter().any(|alarm| alarm.name() == span);
            let cause = span.strip_prefix("started by ").is_some_and(|cause| console.contains(&format!("\"{cause}\"")));
            ensure!(
                reason.unwrap_or(alarm || cause || console.contains(span)),
                "{symptom}: the console never says {span:?}"
            );
            seen += 1;
        }
    }
    ensure!(rows.len() >= 25 && seen >= 40, "{} rows, {seen} words", rows.len());
    Ok(())
}

#[tokio::test]
async fn every_command_of_the_pages_is_one_and_takes_what_is_shown() -> Result<()> {
    let tianyu = Tianyu::new()?;
    let mut seen = 0;
    for page in ["README.md", "boards/README.md"] {
        let text = Page::read(page)?.text;
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        for line in blocks.chain(spans(&text)).filter_map(|line| line.strip_prefix("tianyu ")) {
            let shown = line.split('#').next().unwrap_or_default().split_whitespace();
            let is_name = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let (mut arguments, options): (Vec<&str>, Vec<&str>) =
                (shown.clone().take_while(is_name).collect(), shown.filter(|word| word.starts_with("--")).collect());
            arguments.push("--help");
            let (status, help) = tianyu.command(&arguments, Duration::from_secs(30)).await?;
            let help = help.join("\n");
            ensure!(status.success(), "{page}: tianyu {line}: {help}");
            for option in options {
                ensure!(help.contains(option), "{page}: tianyu {line}: no {option}:\n{help}");
            }
            seen += 1;
        }
    }
    ensure!(seen >= 8, "only {seen} commands were found");
    Ok(())
}

/// Numbers of the page's first column, by name.
fn numbers(page: &Page, table: &str) -> Result<BTreeMap<String, f64>> {
    let rows = page.rows(table)?.into_iter();
    rows.map(|row| match &row[..] {
        [name, value, _] => Ok((name.clone(), value.parse().with_context(|| format!("{name}: {value}"))?)),
        _ => bail!("{row:?} of {table}"),
    })
    .collect()
}

/// Seconds a day that a cell of the table of use says, with `rounds` and `batches` a day.
fn seconds(cell: &str, rounds: f64, batches: f64) -> Result<f64> {
    let times = |suffix: &str, factor: f64| {
        cell.strip_suffix(suffix).map(|number| Ok::<f64, anyhow::Error>(number.parse::<f64>()? * factor))
    };
    match cell {
        "all" => Ok(86_400.0),
        "–" => Ok(0.0),
        _ => times(" s a round", rounds)
            .or_else(|| times(" s a batch", batches))
            .or_else(|| times(" h", 3_600.0))
            .with_context(|| format!("no time in {cell:?}"))?,
    }
}

#[test]
fn the_energy_of_a_day_follows_from_the_page_s_own_currents_and_times() -> Result<()> {
    const PROFILES: [(&str, &str, &str); 3] =
        [("`always`", "10 s", "10 s"), ("`pond`", "60 s", "60 s"), ("`battery`", "600 s", "3600 s")];
    const WIRED: &str = "what is wired to it";
    let page = Page::read("ENERGY.md")?;
    let every = |text: &str| -> Result<f64> { Ok(86_400.0 / text.trim_end_matches(" s").parse::<f64>()?) };
    for (name, rounds, batches) in PROFILES {
        ensure!(page.text.contains(&format!("\n| {name} | {rounds} | {batches} |")), "another profile {name}");
    }

    let assumed = numbers(&page, "assumptions")?;
    let assume = |name: &str| assumed.get(name).copied().with_context(|| format!("no assumption {name}"));
    let mut loads = BTreeMap::new();
    for row in page.rows("loads")? {
        let [name, volts, milliamperes, source] = &row[..] else { bail!("{row:?}") };
        ensure!(source.len() > 20, "{name} has no source");
        let volts: f64 = volts.parse()?;
        let efficiency = if volts < 12.0 { assume("efficiency")? } else { 1.0 };
        loads.insert(name.clone(), volts * milliamperes.parse::<f64>()? / 1_000.0 / efficiency);
    }

    // In the order of the page.
    let mut names: Vec<String> = Vec::new();
    let mut watt_hours: BTreeMap<String, [f64; 3]> = BTreeMap::new();
    for row in page.rows("use")? {
        let [board, load, cells @ ..] = &row[..] else { bail!("{row:?}") };
        let watts = loads.get(load).with_context(|| format!("no load {load}"))?;
        if !names.contains(board) {
            names.push(board.clone());
        }
        let sums = watt_hours.entry(board.clone()).or_default();
        ensure!(cells.len() == PROFILES.len(), "{row:?}");
        for ((sum, cell), (_, rounds, batches)) in sums.iter_mut().zip(cells).zip(PROFILES) {
            *sum += watts * seconds(cell, every(rounds)?, every(batches)?)? / 3_600.0;
        }
    }

    let head = ["Board", "`always`", "`pond`", "`battery`"];
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| [name.clone()].into_iter().chain(watt_hours[name].map(|wh| format!("{wh:.2} Wh"))).collect())
        .collect();
    page.holds("energy", &table(&head, &rows))?;

    let wired = *watt_hours.get(WIRED).context("nothing is wired")?;
    let mut rows = Vec::new();
    for name in names.iter().filter(|name| *name != WIRED && !name.contains("outlook")) {
        let mut row = vec![name.clone()];
        for (own, wired) in watt_hours[name].iter().zip(wired) {
            let day = own + wired;
            let battery = day * assume("days")? / (assume("battery V")? * assume("depth")?);
            let panel = day / (assume("sun h")? * assume("system")?) * assume("margin")?;
            row.push(format!("{day:.1} Wh, {battery:.0} Ah, {panel:.0} W"));
        }
        rows.push(row);
    }
    page.holds("sizing", &table(&head, &rows))
}
