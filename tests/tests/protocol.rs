//! The protocol page says what the code does: its tables are those of the code, and its examples
//! are the golden bytes. With `TIANYU_WRITE_PAGE=1` the tables are written anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use telemetry::mac::Key;
use telemetry::quality::{MissingReason, Quality};
use telemetry::record::{Reading, Record, Round};
use telemetry::session::{Nonce, Receipt};
use telemetry::topic::Down;
use telemetry::{ActuatorKind, NodeName, Property};

const QUALITY: &str = include_str!("../../firmware/telemetry/src/quality.rs");
const RECORD: &str = include_str!("../../firmware/telemetry/src/record.rs");
const LIMITS: &str = include_str!("../../firmware/telemetry/src/limits.rs");
const CONTROL: &str = include_str!("../../firmware/node/src/control.rs");
const SLOTS: &str = include_str!("../../firmware/node/src/slots.rs");
const ALARMS: &str = include_str!("../../firmware/telemetry/src/alarm.rs");
const GOLDEN: &str = include_str!("../../firmware/telemetry/tests/golden-1.txt");

fn page() -> (PathBuf, Result<String>) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../firmware/telemetry/CUSTODY.md"));
    let text = std::fs::read_to_string(&path).context("the page");
    (path, text)
}

/// What stands between the mark `<!-- what: name -->` and the next `<!-- end -->`.
fn marked<'p>(page: &'p str, what: &str, name: &str) -> Result<&'p str> {
    let mark = format!("<!-- {what}: {name} -->\n");
    let (_, rest) = page.split_once(&mark).with_context(|| format!("the page has no {}", mark.trim()))?;
    Ok(rest.split_once("<!-- end -->").with_context(|| format!("{what} {name} has no end"))?.0)
}

/// The items that carry a documentation comment in the block that begins with the line `start`:
/// each with its comment on one line.
fn documented<'s>(source: &'s str, start: &str) -> Result<Vec<(&'s str, String)>> {
    let (_, block) = source.split_once(&format!("\n{start}\n")).with_context(|| format!("no {start:?}"))?;
    let mut items = Vec::new();
    let mut comment = String::new();
    for line in block.lines().take_while(|line| *line != "}").map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            comment = format!("{comment} {}", words.trim())
                .trim()
                .replace("[`", "`")
                .replace("`]", "`")
                .replace("(a table of `CUSTODY.md`)", "(see below)");
        } else if !comment.is_empty() && !line.starts_with('#') {
            items.push((line.trim_end_matches([',', ';']), std::mem::take(&mut comment)));
        }
    }
    ensure!(!items.is_empty(), "nothing is documented in {start:?}");
    Ok(items)
}

/// Rows of an enum's table: what stands behind `=`, and the comment.
fn numbered(source: &str, start: &str) -> Result<Vec<Vec<String>>> {
    let items = documented(source, start)?.into_iter();
    items
        .map(|(item, comment)| {
            let (_, number) = item.split_once(" = ").with_context(|| format!("no number in {item:?}"))?;
            Ok(vec![number.to_owned(), comment])
        })
        .collect()
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    rows.iter().fold(line(&head) + &rule, |table, row| table + &line(row))
}

fn properties() -> String {
    let rows = Property::ALL.iter().map(|property| {
        let of = property.facts();
        let unit = if of.symbol.is_empty() { of.unit } else { of.symbol };
        vec![
            property.id().to_string(),
            format!("`{}`", of.name),
            unit.to_owned(),
            of.digits.to_string(),
            format!("{} … {}", of.min, of.max),
            of.medium.name().to_owned(),
        ]
    });
    table(&["id", "name", "unit", "digits", "plausible", "stored under"], rows.collect())
}

fn tests() -> Result<String> {
    let mut rows = Vec::new();
    for (item, comment) in documented(QUALITY, "impl Tests {")? {
        let Some((name, value)) = item.strip_prefix("pub const ").and_then(|item| item.split_once(": Self = Self("))
        else {
            continue;
        };
        let value = value.trim_end_matches(')');
        let bit: u32 = match value {
            "0" => continue,
            "1" => 0,
            shifted => shifted.strip_prefix("1 << ").context("a test is one bit")?.parse()?,
        };
        rows.push(vec![bit.to_string(), (1u32 << bit).to_string(), name.to_lowercase().replace('_', " "), comment]);
    }
    ensure!(rows.len() >= 12, "only {} tests were found", rows.len());
    Ok(table(&["bit", "value", "test", ""], rows))
}

fn reasons() -> Result<String> {
    let comments = documented(QUALITY, "reasons! {")?;
    ensure!(comments.len() == MissingReason::ALL.len(), "each reason has a comment");
    let rows = MissingReason::ALL
        .iter()
        .zip(comments)
        .map(|(reason, (_, comment))| vec![reason.id().to_string(), format!("`{}`", reason.name()), comment]);
    Ok(table(&["reason", "name", ""], rows.collect()))
}

fn events() -> Result<String> {
    // In the order of their numbers, as `from_id` has them; the last is for those of newer nodes.
    let items = documented(RECORD, "pub enum EventCode {")?;
    let rows = (1u8..).zip(&items).take(items.len() - 1).map(|(code, (variant, comment))| {
        let of = format!("{:?}", telemetry::record::EventCode::from_id(code));
        ensure!(of == *variant, "event {code} is {of}, and not {variant}");
        Ok(vec![code.to_string(), comment.clone()])
    });
    Ok(table(
        &["code", "what happened, and what subject, value and detail are (0 where nothing is said)"],
        rows.collect::<Result<_>>()?,
    ))
}

fn limits() -> Result<String> {
    let source = format!("\nlimits\n{LIMITS}");
    let rows = documented(&source, "limits")?.into_iter().map(|(item, comment)| {
        let (_, value) = item.split_once(" = ").with_context(|| format!("no value in {item:?}"))?;
        let product = value.split('*').map(|n| n.trim().replace('_', "").parse::<u64>()).product::<Result<u64, _>>();
        Ok(vec![product.with_context(|| format!("value of {item:?}"))?.to_string(), comment])
    });
    Ok(table(&["limit", ""], rows.collect::<Result<_>>()?))
}

#[test]
fn every_table_of_the_page_is_that_of_the_code() -> Result<()> {
    let tables = BTreeMap::from([
        ("properties", properties()),
        ("tests", tests()?),
        ("reasons", reasons()?),
        ("events", events()?),
        ("causes", table(&["cause", ""], numbered(CONTROL, "pub enum Cause {")?)),
        ("given up", table(&["reason", ""], numbered(SLOTS, "pub enum Reason {")?)),
        ("refusals", table(&["outcome", ""], numbered(CONTROL, "pub enum Refusal {")?)),
        ("alarms", table(&["alarm", ""], numbered(ALARMS, "pub enum Alarm {")?)),
        (
            "actuators",
            table(
                &["kind", "name"],
                ActuatorKind::ALL.iter().map(|kind| vec![kind.id().to_string(), kind.name().to_owned()]).collect(),
            ),
        ),
        ("limits", limits()?),
    ]);
    let (path, page) = page();
    let mut page = page?;
    let write = std::env::var_os("TIANYU_WRITE_PAGE").is_some();
    for (name, right) in &tables {
        let shown = marked(&page, "table", name)?;
        if write {
            let mark = format!("<!-- table: {name} -->\n");
            page = page.replace(&format!("{mark}{shown}<!-- end -->"), &format!("{mark}{right}<!-- end -->"));
            continue;
        }
        ensure!(
            shown == right,
            "CUSTODY.md shows another table of {name} than the code has; TIANYU_WRITE_PAGE=1 writes it:\n{right}"
        );
    }
    ensure!(page.matches("<!-- table: ").count() == tables.len(), "a table of the page is compared with nothing");
    if write {
        std::fs::write(path, page).context("write the page")?;
    }
    Ok(())
}

/// The hex digits of an example, whatever stands behind them.
fn example(page: &str, name: &str) -> Result<String> {
    let lines = marked(page, "bytes", name)?.lines();
    Ok(lines.filter_map(|line| line.split_whitespace().next()).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> Result<&'static str> {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.with_context(|| format!("no golden {name}"))
}

#[test]
fn the_examples_of_the_page_are_the_bytes_of_the_code() -> Result<()> {
    let page = page().1?;
    ensure!(example(&page, "mixed report")? == golden("mixed report")?, "the page's report is not the golden one");

    let key: [u8; 32] = std::array::from_fn(|at| at as u8);
    let (node, nonce) = (NodeName::new("pond-7")?, Nonce([1, 2, 3, 4, 5, 6, 7, 8]));
    let mut body = [0; 64];
    let length = Receipt { ring: 9, next: 20, utc_ms: Some(1_790_000_000_000) }.encode(&mut body)?;
    ensure!(hex(&body[..length]) == golden("receipt")?);
    let mut sealed = [0; 128];
    let sealed_length = Key::new(key).seal(&node, Down::Receipt, nonce, &body[..length], &mut sealed)?;
    ensure!(example(&page, "sealed receipt")? == hex(&sealed[..sealed_length]), "{}", hex(&sealed[..sealed_length]));

    let reading = Reading { channel: 0, value: 719, raw: Some(731), quality: Quality::GOOD };
    let round = Round { t_ms: 1000, config: 1, readings: [reading].into_iter().collect() };
    // As kept in a ring: behind the kind and the boot.
    let length_of_round = Record::Round(round).encode(0, &mut sealed)?;
    ensure!(
        example(&page, "good with raw")? == hex(&sealed[3..length_of_round]),
        "{}",
        hex(&sealed[3..length_of_round])
    );

    let input = [b"ty1/receipt/pond-7\0".as_slice(), &nonce.0, &body[..length]].concat();
    ensure!(example(&page, "mac input")? == hex(&input), "{}", hex(&input));
    ensure!(telemetry::report::digest(b"123456789") == 0xe306_9283, "the page's check of the CRC");
    ensure!(page.matches("<!-- bytes: ").count() == 4, "an example of the page is compared with nothing");
    Ok(())
}
