//! `tianyu node provision`: a board's console, spoken as a program (`firmware/platform/CONSOLE.md`).
//!
//! Everything is bounded: the wait for each answer, the pieces that are sent again, the wait for a
//! restart.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway::node_file::NodeFile;
use rustix::termios::{self, OptionalActions, SpecialCodeIndex};

/// Longest wait for an answer, for that to `provision end`, and for a board that restarts.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const STORED_WITHIN: Duration = Duration::from_secs(30);
const RESTARTED_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait within one read of the port.
const READ_WITHIN: Duration = Duration::from_millis(100);
/// Bytes of an image in one piece: 96 characters of base64.
const PIECE: usize = 72;
/// Pieces that may be sent again in a transfer, and attempts to get a board's attention.
const AGAIN_MAX: usize = 10;
const ATTENTION_MAX: usize = 3;
/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 4_096;
/// The console's speed.
const BAUD: u32 = 115_200;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A way to a console.
struct Port {
    stream: Box<dyn Stream>,
    /// Nothing to read means that it is over; on a serial port only that nothing has come yet.
    ends: bool,
}

/// A board's console.
struct Console {
    port: Port,
    line: Vec<u8>,
}

/// What the console answers: its data, and the line that ends it.
struct Answer {
    data: Vec<String>,
    end: String,
}

/// Opens a serial port, a Unix socket (`unix:PATH`) or a TCP port (`tcp:HOST:PORT`).
fn open(port: &str) -> anyhow::Result<Port> {
    let doing = || format!("open {port}");
    if let Some(path) = port.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).with_context(doing)?;
        stream.set_read_timeout(Some(READ_WITHIN)).with_context(doing)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).with_context(doing)?;
        return Ok(Port { stream: Box::new(stream), ends: true });
    }
    if let Some(address) = port.strip_prefix("tcp:") {
        let stream = TcpStream::connect(address).with_context(doing)?;
        stream.set_read_timeout(Some(READ_WITHIN)).with_context(doing)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).with_context(doing)?;
        return Ok(Port { stream: Box::new(stream), ends: true });
    }
    let file = std::fs::OpenOptions::new().read(true).write(true).open(port).with_context(doing)?;
    ensure!(rustix::termios::isatty(&file), "{port} is no serial port; or write unix:PATH or tcp:HOST:PORT");
    let mut modes = termios::tcgetattr(&file).with_context(doing)?;
    modes.make_raw();
    modes.set_speed(BAUD).with_context(doing)?;
    // A read comes back after a tenth of a second, with or without a byte.
    modes.special_codes[SpecialCodeIndex::VMIN] = 0;
    modes.special_codes[SpecialCodeIndex::VTIME] = 1;
    termios::tcsetattr(&file, OptionalActions::Flush, &modes).with_context(doing)?;
    Ok(Port { stream: Box::new(file), ends: false })
}

impl Console {
    fn new(port: Port) -> Self {
        Self { port, line: Vec::new() }
    }

    fn send(&mut self, line: &str) -> anyhow::Result<()> {
        self.port.stream.write_all(format!("{line}\n").as_bytes()).context("write to the console")?;
        self.port.stream.flush().context("write to the console")
    }

    /// The next line, without its end; none when the time is over.
    fn line(&mut self, until: Instant) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
            }
            ensure!(self.line.len() < LINE_BYTES_MAX, "the other side sends no lines: is this the node's console?");
            if Instant::now() >= until {
                return Ok(None);
            }
            let mut chunk = [0; 512];
            match self.port.stream.read(&mut chunk) {
                Ok(0) if self.port.ends => bail!("the other side has closed the console"),
                Ok(length) => self.line.extend_from_slice(&chunk[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error).context("read the console"),
            }
        }
    }

    /// The answer to what was sent; none when it does not come in time. Echoes and prompts are
    /// passed over.
    fn answer(&mut self, within: Duration) -> anyhow::Result<Option<Answer>> {
        let until = Instant::now() + within;
        let mut data = Vec::new();
        while let Some(line) = self.line(until)? {
            // An echo may stand before it on the same line as the prompt.
            if let Some(rest) = line.strip_prefix("DATA ") {
                data.push(rest.to_owned());
            } else if line == "OK" || line.starts_with("OK ") || line == "ERROR" || line.starts_with("ERROR ") {
                return Ok(Some(Answer { data, end: line }));
            }
        }
        Ok(None)
    }

    fn ask(&mut self, what: &str, within: Duration) -> anyhow::Result<Answer> {
        self.send(what)?;
        self.answer(within)?.with_context(|| format!("no answer to \"{what}\" within {} s", within.as_secs()))
    }

    /// Ends what may be half typed or half sent, and has what a board says of itself.
    fn attention(&mut self) -> anyhow::Result<Shown> {
        for _ in 0..ATTENTION_MAX {
            self.send("")?;
            self.send("provision abort")?;
            // An empty line may be answered as well, if a transfer was under way.
            while self.answer(Duration::from_millis(500))?.is_some() {}
            self.send("provision show")?;
            if let Some(answer) = self.answer(ANSWER_WITHIN)?
                && let Some(shown) = Shown::of(&answer)
            {
                return Ok(shown);
            }
        }
        bail!("nobody answers as a node's console does; is the board flashed, and this its port?")
    }

    /// Sends an image; what the console says of it at the end.
    fn transfer(&mut self, what: &str, image: &[u8]) -> anyhow::Result<String> {
        let begun = self.ask(&format!("provision {what} {} {:08x}", image.len(), crc(image)), ANSWER_WITHIN)?;
        ensure!(begun.end == "OK 0", "the {what}: {}", begun.end);
        let (mut at, mut again) = (0, 0);
        while at < image.len() {
            let piece = &image[at..image.len().min(at + PIECE)];
            self.send(&STANDARD.encode(piece))?;
            let come = match self.answer(ANSWER_WITHIN)? {
                Some(answer) => count(&answer.end),
                None => None,
            };
            match come {
                Some(come) if come == at + piece.len() => at = come,
                _ => {
                    again += 1;
                    ensure!(again <= AGAIN_MAX, "the {what}: too many pieces were not understood");
                    // How far has it come?
                    let answer = self.ask("", ANSWER_WITHIN)?;
                    at = count(&answer.end)
                        .filter(|come| *come <= image.len())
                        .with_context(|| format!("the {what}: {}", answer.end))?;
                }
            }
            eprint!("\r{what}: {at} of {} bytes", image.len());
        }
        eprintln!();
        let end = self.ask("provision end", STORED_WITHIN)?.end;
        match end.strip_prefix("OK ") {
            Some(end) => Ok(end.to_owned()),
            None => bail!("the node did not take the {what}: {end}"),
        }
    }
}

/// N of `OK N`.
fn count(end: &str) -> Option<usize> {
    end.strip_prefix("OK ")?.parse().ok()
}

/// What a board says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    board: String,
    firmware: String,
    name: String,
    /// Check sum of the settings it has.
    settings: Option<u32>,
    /// Number, check sum and state of the config it has.
    config: Option<(u16, u32, String)>,
}

impl Shown {
    fn of(answer: &Answer) -> Option<Self> {
        let get = |key: &str| {
            let line = answer.data.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.map(str::trim)
        };
        if answer.end != "OK" {
            return None;
        }
        let sum = |text: &str| u32::from_str_radix(text, 16).ok();
        let config = get("config").and_then(|text| {
            let mut words = text.split_whitespace();
            let (number, crc) = (words.next()?.parse().ok()?, sum(words.next()?)?);
            Some((number, crc, words.next().unwrap_or_default().to_owned()))
        });
        let text = |key| get(key).map(str::to_owned);
        Some(Self {
            board: text("board")?,
            firmware: text("firmware")?,
            name: text("name")?,
            settings: get("settings").and_then(sum),
            config,
        })
    }
}

/// CRC-32 of IEEE 802.3.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Gives a board its settings and its config. `config` makes an image that is newer than the number
/// that runs.
pub(super) fn run(
    port: &str,
    node: &NodeFile,
    settings: Option<&[u8]>,
    config: impl FnOnce(u16) -> anyhow::Result<(u16, Vec<u8>)>,
) -> anyhow::Result<()> {
    let mut console = Console::new(open(port)?);
    let shown = console.attention()?;
    println!("board     {} with firmware {}", shown.board, shown.firmware);
    ensure!(
        shown.board == node.board.name,
        "this is a {}, and the file is for a {}: nothing was changed",
        shown.board,
        node.board.name
    );
    let runs = shown.config.as_ref().map_or(0, |(number, ..)| *number);
    let (mut number, mut image) = (runs, Vec::new());
    let (wanted, wanted_image) = config(runs)?;
    let is_there = shown.config.as_ref().is_some_and(|(_, sum, _)| *sum == crc(&wanted_image));
    let mut restart = false;
    match settings {
        Some(settings) if shown.settings != Some(crc(settings)) => {
            let end = console.transfer("settings", settings)?;
            println!("settings  {end}");
            restart = true;
        }
        Some(_) => println!("settings  are there already"),
        None => {}
    }
    if is_there {
        println!("config    {wanted} is there already");
    } else {
        (number, image) = (wanted, wanted_image);
        let end = console.transfer("config", &image)?;
        println!("config    {end}");
        restart |= end.ends_with("stored");
    }
    let shown = if restart { restarted(console, port)? } else { console.attention()? };
    if let Some(settings) = settings {
        ensure!(shown.settings == Some(crc(settings)), "the node does not have the settings that were sent");
        ensure!(shown.name == node.name.as_str(), "the node calls itself \"{}\"", shown.name);
    }
    let Some((has, sum, state)) = shown.config else { bail!("the node has no config") };
    ensure!(
        is_there || (has, sum) == (number, crc(&image)),
        "the node runs config {has}, not {number}: it gave the new one up; see its console: config history"
    );
    println!("runs      \"{}\", config {has}, {state}", shown.name);
    Ok(())
}

/// Restarts the board; what it says of itself afterwards.
fn restarted(mut console: Console, port: &str) -> anyhow::Result<Shown> {
    let answer = console.ask("provision restart", ANSWER_WITHIN)?;
    ensure!(answer.end.starts_with("OK"), "the node does not restart: {}", answer.end);
    let until = Instant::now() + RESTARTED_WITHIN;
    loop {
        // A USB port goes away with the board and comes back with it.
        match console.attention() {
            Ok(shown) => return Ok(shown),
            Err(error) if Instant::now() >= until => {
                return Err(error)
                    .with_context(|| format!("the node is not back after {} s", RESTARTED_WITHIN.as_secs()));
            }
            Err(_) => {
                std::thread::sleep(READ_WITHIN);
                if let Ok(opened) = open(port) {
                    console = Console::new(opened);
                }
            }
        }
    }
}
