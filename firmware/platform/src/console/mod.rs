//! The console: lines in, lines out, over any serial port (`CONSOLE.md`).
//!
//! It asks the node half one question at a time and never touches the node itself. It works without
//! network, config and settings.

mod command;
mod text;
mod transfer;

use core::fmt::Write as _;

use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::mutex::MutexGuard;
use embassy_time::{Duration, Timer, with_timeout};
use embedded_io_async::{Read, Write};
use heapless::{String, Vec};

use crate::CRC32;
use crate::ask::{Answer, Ask, Image, NotStored, Scanned, Stored, StoredAs};
use crate::exchange::{Exchange, ImageBuffer};
use command::{Command, Mistake, Provision, parse};
use transfer::{PIECE_BYTES_MAX, PIECE_CHARS_MAX, Transfer, Unfit};

/// Characters of a line.
const LINE_MAX: usize = 128;
/// Characters of an answer that are written at once.
const TEXT_MAX: usize = 1_280;
/// Longest that a port may take to be rid of an answer; nobody may be listening.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for the node half: it may be in the middle of an erase.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for an address of a scan: three rounds of an hour, and no longer than anybody has patience.
const SCAN_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for storing: sectors of a config are erased.
const STORE_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the image buffer.
const BUFFER_WITHIN: Duration = Duration::from_secs(5);
/// A transfer that is silent for so long is forgotten.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Faults and configs that are listed.
const LISTED_MAX: u8 = 16;

type Text = String<TEXT_MAX>;
type Guard = MutexGuard<'static, CriticalSectionRawMutex, ImageBuffer>;

/// What a byte makes of a line that is being typed.
enum Typed {
    /// Nothing yet.
    More,
    /// It is whole.
    Line,
    /// It was too long.
    TooLong,
}

/// A line that is being typed.
#[derive(Default)]
struct Editor {
    line: Vec<u8, LINE_MAX>,
    too_long: bool,
}

impl Editor {
    /// Takes a byte; what to echo.
    fn take(&mut self, byte: u8) -> (Typed, &'static [u8]) {
        match byte {
            b'\n' if core::mem::take(&mut self.too_long) => (Typed::TooLong, b"\r\n"),
            b'\n' => (Typed::Line, b"\r\n"),
            b'\r' => (Typed::More, b""),
            0x08 | 0x7f => (Typed::More, if self.line.pop().is_some() { b"\x08 \x08" } else { b"" }),
            b' '..=b'~' => {
                self.too_long |= self.line.push(byte).is_err();
                if self.too_long {
                    self.line.clear();
                }
                (Typed::More, b"")
            }
            _ => (Typed::More, b""),
        }
    }
}

struct Console<T> {
    exchange: &'static Exchange,
    port: T,
    transfer: Option<(Transfer, Guard)>,
}

/// Serves the console for ever.
pub async fn run<T: Read + Write>(exchange: &'static Exchange, port: T) -> ! {
    let mut console = Console { exchange, port, transfer: None };
    let mut editor = Editor::default();
    loop {
        let mut bytes = [0; 32];
        let came = if console.transfer.is_some() {
            with_timeout(SILENT_AFTER, console.port.read(&mut bytes)).await
        } else {
            Ok(console.port.read(&mut bytes).await)
        };
        let count = match came {
            Ok(Ok(count)) if count > 0 => count,
            Ok(_) => {
                // A port that was unplugged comes back some time.
                Timer::after_millis(200).await;
                continue;
            }
            Err(_) => {
                console.forget();
                continue;
            }
        };
        for byte in bytes.get(..count).unwrap_or_default() {
            let (typed, echo) = editor.take(*byte);
            if console.transfer.is_none() {
                let printed = if (b' '..=b'~').contains(byte) { core::slice::from_ref(byte) } else { echo };
                console.write(printed).await;
            }
            match typed {
                Typed::More => {}
                Typed::TooLong => console.say("ERROR line too long").await,
                Typed::Line => {
                    let line = core::mem::take(&mut editor.line);
                    console.line(core::str::from_utf8(&line).unwrap_or_default().trim()).await;
                }
            }
        }
    }
}

impl<T: Read + Write> Console<T> {
    async fn write(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            // Nobody listening is nobody to tell.
            let _written = with_timeout(WRITE_WITHIN, async {
                self.port.write_all(bytes).await?;
                self.port.flush().await
            })
            .await;
        }
    }

    async fn say(&mut self, line: &str) {
        self.write(line.as_bytes()).await;
        self.write(b"\r\n").await;
    }

    async fn show(&mut self, text: &Text) {
        self.write(text.as_bytes()).await;
    }

    async fn ask(&mut self, ask: Ask, limit: Duration) -> Option<Answer> {
        self.exchange.answers.reset();
        self.exchange.asks.signal(ask);
        self.exchange.wake();
        let answer = with_timeout(limit, self.exchange.answers.wait()).await.ok();
        if answer.is_none() {
            self.say("ERROR busy the node does not answer in time").await;
        }
        answer
    }

    /// Ends a transfer: the network may have its buffer back.
    fn forget(&mut self) {
        self.transfer = None;
        self.exchange.let_go(false);
    }

    async fn line(&mut self, line: &str) {
        if let Some((transfer, buffer)) = &mut self.transfer
            && !line.starts_with("provision")
        {
            let fine = line.is_empty() || transfer.piece(line, &mut **buffer);
            let come = transfer.come();
            let mut text = Text::new();
            let _fits = match fine {
                true => write!(text, "OK {come}\r\n"),
                false => write!(text, "ERROR piece that is no base64 of what is missing, {come} bytes have come\r\n"),
            };
            return self.show(&text).await;
        }
        if line.is_empty() {
            return;
        }
        match parse(line) {
            Err(Mistake::Unknown) => self.say("ERROR unknown command, try help").await,
            Err(Mistake::Usage(usage)) => {
                self.write(b"ERROR usage ").await;
                self.say(usage).await;
            }
            Ok(Command::Provision(provision)) => self.provision(provision).await,
            Ok(command) => self.command(command).await,
        }
    }

    async fn command(&mut self, command: Command) {
        let mut out = Text::new();
        match command {
            Command::Help => self.write(text::HELP.as_bytes()).await,
            Command::Status => {
                if let Some(Answer::Status(status)) = self.ask(Ask::Status, ANSWER_WITHIN).await {
                    let _fits = text::status(&mut out, &status);
                }
            }
            Command::Channels => self.channels().await,
            Command::Scan { bus, from, to } => self.scan(bus, from, to).await,
            Command::SelfTest => {
                if let Some(Answer::Tested(tested)) = self.ask(Ask::SelfTest, ANSWER_WITHIN).await {
                    let _fits = text::tested(&mut out, &tested);
                }
            }
            Command::Faults => self.list(Ask::Fault, "no faults").await,
            Command::History => self.list(Ask::History, "no configs").await,
            Command::Config => self.config().await,
            Command::Confirm => {
                if let Some(Answer::Confirmed(done)) = self.ask(Ask::Confirm, ANSWER_WITHIN).await {
                    self.say(if done { "confirmed" } else { "no config is on trial" }).await;
                }
            }
            Command::Calibrate { channel, minutes } => {
                let ask = Ask::Calibrate { channel, for_s: minutes * 60 };
                if let Some(Answer::Calibrated(outcome)) = self.ask(ask, ANSWER_WITHIN).await {
                    let _fits = match (outcome, minutes) {
                        (Err(_), _) => write!(out, "there is no channel {channel}\r\n"),
                        (Ok(()), 0) => write!(out, "channel {channel} is not being calibrated any more\r\n"),
                        (Ok(()), _) => write!(out, "channel {channel} is being calibrated for {minutes} min\r\n"),
                    };
                }
            }
            Command::Reboot => {
                self.say("restarting").await;
                self.exchange.asks.signal(Ask::Reboot);
                self.exchange.wake();
            }
            // Told apart by the caller.
            Command::Provision(_) => {}
        }
        self.show(&out).await;
    }

    async fn channels(&mut self) {
        for index in 0..=u8::MAX {
            let Some(Answer::Channel(channel)) = self.ask(Ask::Channel(index), ANSWER_WITHIN).await else { return };
            let Some(channel) = channel else {
                if index == 0 {
                    self.say("no channels").await;
                }
                return;
            };
            let mut out = Text::new();
            let _fits = text::channel(&mut out, index, &channel);
            self.show(&out).await;
        }
    }

    async fn scan(&mut self, bus: u8, from: u8, to: u8) {
        let mut found = 0u8;
        for address in from..=to {
            let Some(Answer::Scanned(scanned)) = self.ask(Ask::Scan { bus, address }, SCAN_WITHIN).await else {
                return;
            };
            let mut out = Text::new();
            let _fits = text::scanned(&mut out, address, &scanned);
            self.show(&out).await;
            found += u8::from(matches!(scanned, Scanned::Somebody(_)));
            if matches!(scanned, Scanned::NoLine | Scanned::NoRoom) || self.is_key_pressed().await {
                break;
            }
        }
        let mut out = Text::new();
        let _fits = write!(out, "{found} found\r\n");
        self.show(&out).await;
    }

    async fn is_key_pressed(&mut self) -> bool {
        let mut byte = [0];
        let pressed = select(self.port.read(&mut byte), embassy_futures::yield_now()).await;
        matches!(pressed, Either::First(Ok(1)))
    }

    async fn list(&mut self, ask: fn(u8) -> Ask, none: &str) {
        for n in 0..LISTED_MAX {
            let entry = match self.ask(ask(n), ANSWER_WITHIN).await {
                Some(Answer::Fault(entry) | Answer::History(entry)) => entry,
                _ => return,
            };
            match entry {
                Some(entry) => self.say(&entry).await,
                None if n == 0 => return self.say(none).await,
                None => return,
            }
        }
    }

    async fn config(&mut self) {
        let Some(Answer::Config(config)) = self.ask(Ask::Config, ANSWER_WITHIN).await else { return };
        let Some((number, digest, period_s, channels, actuators, trial)) = config else {
            return self.say("no config").await;
        };
        let mut out = Text::new();
        let _fits = write!(out, "config {number} ({digest:08x}), {}", text::trial(trial));
        let _fits = write!(out, ": every {period_s} s, {channels} channels, {actuators} actuators\r\n");
        self.show(&out).await;
        self.channels().await;
        for index in 0..actuators {
            let Some(Answer::Actuator(Some(actuator))) = self.ask(Ask::Actuator(index), ANSWER_WITHIN).await else {
                return;
            };
            let mut out = Text::new();
            let _fits = text::actuator(&mut out, index, &actuator);
            self.show(&out).await;
        }
    }

    async fn provision(&mut self, provision: Provision) {
        match provision {
            Provision::Begin { image, bytes, crc } => self.begin(image, bytes, crc).await,
            Provision::End => self.end().await,
            Provision::Abort => {
                self.forget();
                self.say("OK aborted").await;
            }
            Provision::Show => {
                if let Some(Answer::Has(stored)) = self.ask(Ask::Stored, ANSWER_WITHIN).await {
                    self.has(&stored).await;
                }
            }
            Provision::Read => self.read().await,
            Provision::Restart => {
                self.say("OK restart").await;
                self.exchange.asks.signal(Ask::Reboot);
                self.exchange.wake();
            }
        }
    }

    async fn begin(&mut self, image: Image, bytes: usize, crc: u32) {
        self.forget();
        let Some(transfer) = Transfer::new(image, bytes, crc) else {
            return self.say("ERROR usage LENGTH is 1-512 for settings, 1-8192 for a config").await;
        };
        self.exchange.let_go(true);
        match with_timeout(BUFFER_WITHIN, self.exchange.image.lock()).await {
            Ok(buffer) => {
                self.transfer = Some((transfer, buffer));
                self.say("OK 0").await;
            }
            Err(_) => {
                self.exchange.let_go(false);
                self.say("ERROR busy the buffer is in use").await;
            }
        }
    }

    async fn end(&mut self) {
        let Some((transfer, buffer)) = self.transfer.take() else {
            return self.say("ERROR state nothing is being sent").await;
        };
        let whole = transfer.end(&*buffer);
        drop(buffer);
        match whole {
            Ok(bytes) => {
                let ask = Ask::Store { image: transfer.image, bytes };
                if let Some(Answer::Stored(outcome)) = self.ask(ask, STORE_WITHIN).await {
                    self.stored(outcome).await;
                }
            }
            Err(Unfit::Short) => self.say("ERROR short fewer bytes came than were announced").await,
            Err(Unfit::Crc) => self.say("ERROR crc what came is not what was announced").await,
        }
        // Settings hold secrets, and the buffer is everybody's.
        if transfer.image == Image::Settings
            && let Ok(mut buffer) = self.exchange.image.try_lock()
        {
            buffer.fill(0);
        }
        self.exchange.let_go(false);
    }

    async fn stored(&mut self, outcome: Result<StoredAs, NotStored>) {
        let mut out = Text::new();
        let _fits = match outcome {
            Ok(StoredAs::Settings) => write!(out, "OK settings stored\r\n"),
            Ok(StoredAs::Trial(number)) => write!(out, "OK config {number} trial\r\n"),
            Ok(StoredAs::Later(number)) => write!(out, "OK config {number} stored\r\n"),
            Err(why @ NotStored::Flash) => write!(out, "ERROR flash {why}\r\n"),
            Err(why @ NotStored::Busy) => write!(out, "ERROR busy {why}\r\n"),
            Err(why) => write!(out, "ERROR refused {why}\r\n"),
        };
        self.show(&out).await;
    }

    async fn has(&mut self, stored: &Stored) {
        let Some(Answer::Status(status)) = self.ask(Ask::Status, ANSWER_WITHIN).await else { return };
        let mut out = Text::new();
        let _fits = write!(out, "DATA board {}\r\nDATA firmware {}\r\n", status.board, status.firmware);
        let _fits = match &stored.name {
            Some(name) => write!(out, "DATA name {name}\r\n"),
            None => write!(out, "DATA name -\r\n"),
        };
        let _fits = match stored.settings {
            Some(crc) => write!(out, "DATA settings {crc:08x}\r\n"),
            None => write!(out, "DATA settings -\r\n"),
        };
        let _fits = match stored.config {
            Some((number, crc, trial)) => write!(out, "DATA config {number} {crc:08x} {}\r\n", text::trial(trial)),
            None => write!(out, "DATA config -\r\n"),
        };
        let _fits =
            write!(out, "DATA boot {}\r\nDATA config-max {}\r\nOK\r\n", stored.boot, node::config::IMAGE_BYTES_MAX);
        self.show(&out).await;
    }

    async fn read(&mut self) {
        self.transfer = None;
        self.exchange.let_go(true);
        // Had and given back: the network stays away, and the node half finds it free.
        if with_timeout(BUFFER_WITHIN, self.exchange.image.lock()).await.is_ok() {
            self.read_back().await;
        } else {
            self.say("ERROR busy the buffer is in use").await;
        }
        self.exchange.let_go(false);
    }

    async fn read_back(&mut self) {
        let Some(Answer::Read(length)) = self.ask(Ask::ReadBack, STORE_WITHIN).await else { return };
        let Some(length) = length else { return self.say("ERROR none there is no config").await };
        let Ok(buffer) = self.exchange.image.try_lock() else {
            return self.say("ERROR busy the buffer is in use").await;
        };
        let image = buffer.get(..length).unwrap_or_default();
        let crc = CRC32.checksum(image);
        for piece in image.chunks(PIECE_BYTES_MAX) {
            let mut text = [0; PIECE_CHARS_MAX];
            let text = transfer::encode(piece, &mut text);
            self.write(b"DATA ").await;
            self.say(text).await;
        }
        drop(buffer);
        let mut out = Text::new();
        let _fits = write!(out, "OK {length} {crc:08x}\r\n");
        self.show(&out).await;
    }
}
