//! The console: lines in, lines out, over any serial port (`CONSOLE.md`).
//!
//! It asks the node half one question at a time and never touches the node itself. It works without
//! network, config and settings. There is one place where it waits for the port to take text: a future
//! is as large as all its waits, and code as well.

mod command;
mod editor;
mod job;
mod text;
mod transfer;

use core::fmt::Write as _;

use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::mutex::MutexGuard;
use embassy_time::{Duration, Timer, with_timeout};
use embedded_io_async::{Read, Write};
use heapless::String;

use crate::CRC32;
use crate::ask::Image;
use crate::exchange::{Exchange, ImageBuffer};
use command::{Command, Mistake, Provision, parse};
use editor::{Editor, Typed};
use job::{Job, Next};
use transfer::{PIECE_BYTES_MAX, PIECE_CHARS_MAX, Transfer, Unfit};

/// Characters of an answer that are written at once.
const OUT_MAX: usize = 1_024;
/// Longest that a port may take to be rid of an answer; nobody may be listening.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait for the node half: it may be in the middle of an erase.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for an address of a scan: room between rounds.
const SCAN_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for storing: sectors of a config are erased.
const STORE_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for the image buffer.
const BUFFER_WITHIN: Duration = Duration::from_secs(5);
/// A transfer that is silent for so long is forgotten.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// A port that was unplugged is looked at so often.
const UNPLUGGED_PAUSE: Duration = Duration::from_millis(200);

type Guard = MutexGuard<'static, CriticalSectionRawMutex, ImageBuffer>;

struct Console<T> {
    exchange: &'static Exchange,
    port: T,
    out: String<OUT_MAX>,
    transfer: Option<(Transfer, Guard)>,
}

/// What a line asks for, beyond what was said at once.
enum Work {
    Nothing,
    Job(Job),
    /// To be sent: the image buffer is needed.
    Begin(Transfer),
    ReadBack,
}

/// Serves the console for ever. `port` loses nothing when the future of a read is dropped.
pub async fn run<T: Read + Write>(exchange: &'static Exchange, port: T) -> ! {
    let mut console = Console { exchange, port, out: String::new(), transfer: None };
    let mut editor = Editor::new();
    loop {
        let mut bytes = [0; 32];
        let count = match with_timeout(SILENT_AFTER, console.port.read(&mut bytes)).await {
            Ok(Ok(count)) if count > 0 => count,
            Ok(_) => {
                Timer::after(UNPLUGGED_PAUSE).await;
                continue;
            }
            Err(_) => {
                console.forget();
                continue;
            }
        };
        for byte in bytes.get(..count).unwrap_or_default() {
            let typed = editor.take(*byte, console.transfer.is_none(), &mut console.out);
            let work = match typed {
                Typed::More => Work::Nothing,
                Typed::TooLong => {
                    console.say("ERROR line too long");
                    Work::Nothing
                }
                Typed::Line => {
                    let work = console.line(editor.line());
                    editor.clear();
                    work
                }
            };
            console.work(work).await;
        }
    }
}

impl<T: Read + Write> Console<T> {
    fn say(&mut self, line: &str) {
        let _cut = write!(self.out, "{line}\r\n");
    }

    /// Writes what there is to say.
    async fn flush(&mut self) {
        if !self.out.is_empty() {
            // Nobody listening is nobody to tell.
            let _written = with_timeout(WRITE_WITHIN, async {
                self.port.write_all(self.out.as_bytes()).await?;
                self.port.flush().await
            })
            .await;
            self.out.clear();
        }
    }

    /// Ends a transfer: the network may have its buffer back.
    fn forget(&mut self) {
        self.transfer = None;
        self.exchange.let_go(false);
    }

    /// Reads a line and says what can be said at once.
    fn line(&mut self, line: &str) -> Work {
        if let Some((transfer, buffer)) = &mut self.transfer
            && !line.starts_with("provision")
        {
            let fine = line.is_empty() || transfer.piece(line, &mut **buffer);
            let come = transfer.come();
            let _cut = match fine {
                true => write!(self.out, "OK {come}\r\n"),
                false => {
                    write!(self.out, "ERROR piece that is no base64 of what is missing, {come} bytes have come\r\n")
                }
            };
            return Work::Nothing;
        }
        if line.is_empty() {
            return Work::Nothing;
        }
        match parse(line) {
            Err(Mistake::Unknown) => self.say("ERROR unknown command, try help"),
            Err(Mistake::Usage(usage)) => {
                let _cut = write!(self.out, "ERROR usage {usage}\r\n");
            }
            Ok(Command::Help) => {
                let _cut = self.out.push_str(text::HELP);
            }
            Ok(Command::Provision(provision)) => return self.provision(provision),
            Ok(command) => return Job::of(command).map_or(Work::Nothing, Work::Job),
        }
        Work::Nothing
    }

    fn provision(&mut self, provision: Provision) -> Work {
        match provision {
            Provision::Begin { image, bytes, crc } => {
                self.forget();
                match Transfer::new(image, bytes, crc) {
                    Some(transfer) => return Work::Begin(transfer),
                    None => self.say("ERROR usage LENGTH is at most 512 for settings, 8192 for a config"),
                }
            }
            Provision::End => match self.transfer.take() {
                None => self.say("ERROR state nothing is being sent"),
                Some((transfer, mut buffer)) => match transfer.end(&*buffer) {
                    Ok(bytes) => return Work::Job(Job::Store { image: transfer.image, bytes }),
                    Err(why) => {
                        self.say(match why {
                            Unfit::Short => "ERROR short fewer bytes came than were announced",
                            Unfit::Crc => "ERROR crc what came is not what was announced",
                        });
                        buffer.fill(0);
                        drop(buffer);
                        self.forget();
                    }
                },
            },
            Provision::Abort => {
                self.forget();
                self.say("OK aborted");
            }
            Provision::Show => return Work::Job(Job::Show),
            Provision::Read => {
                self.forget();
                return Work::ReadBack;
            }
            Provision::Restart => {
                self.say("OK restart");
                return Work::Job(Job::Reboot);
            }
        }
        Work::Nothing
    }

    async fn work(&mut self, work: Work) {
        let mut job = match work {
            Work::Nothing => return self.flush().await,
            Work::Job(job) => job,
            Work::Begin(_) | Work::ReadBack => {
                // The network lets go of the buffer, and stays away until it is told to go on.
                self.exchange.let_go(true);
                match (with_timeout(BUFFER_WITHIN, self.exchange.image.lock()).await, work) {
                    (Ok(buffer), Work::Begin(transfer)) => {
                        self.transfer = Some((transfer, buffer));
                        self.say("OK 0");
                        return self.flush().await;
                    }
                    (Ok(_), _) => Job::ReadBack,
                    (Err(_), _) => {
                        self.exchange.let_go(false);
                        self.say("ERROR busy the buffer is in use");
                        return self.flush().await;
                    }
                }
            }
        };
        loop {
            let limit = match job {
                Job::Scan { .. } => SCAN_WITHIN,
                Job::Store { .. } | Job::ReadBack => STORE_WITHIN,
                _ => ANSWER_WITHIN,
            };
            self.flush().await;
            self.exchange.answers.reset();
            self.exchange.asks.signal(job.ask());
            self.exchange.wake();
            let next = match with_timeout(limit, self.exchange.answers.wait()).await {
                Ok(answer) => job.take(&answer, &mut self.out),
                // A node that restarts has nothing more to say.
                Err(_) if job == Job::Reboot => Next::Done,
                Err(_) => {
                    self.say("ERROR busy the node does not answer in time");
                    Next::Done
                }
            };
            job = match next {
                Next::Ask(_) if matches!(job, Job::Scan { .. }) && self.is_key_pressed().await => break,
                Next::Ask(next) => next,
                Next::Done => break,
                Next::Send(bytes) => {
                    self.send(bytes).await;
                    break;
                }
            };
        }
        self.end_job(job);
        self.flush().await;
    }

    /// Gives back what a job had taken.
    fn end_job(&mut self, job: Job) {
        if let Job::Store { image, .. } = job {
            // Settings hold secrets, and the buffer is everybody's.
            if image == Image::Settings
                && let Ok(mut buffer) = self.exchange.image.try_lock()
            {
                buffer.fill(0);
            }
        }
        if matches!(job, Job::Store { .. } | Job::ReadBack) {
            self.exchange.let_go(false);
        }
    }

    async fn is_key_pressed(&mut self) -> bool {
        let mut byte = [0];
        let pressed = select(self.port.read(&mut byte), embassy_futures::yield_now()).await;
        matches!(pressed, Either::First(Ok(1)))
    }

    /// Sends what the node half has put into the image buffer.
    async fn send(&mut self, bytes: usize) {
        let Ok(buffer) = self.exchange.image.try_lock() else {
            return self.say("ERROR busy the buffer is in use");
        };
        let image = buffer.get(..bytes).unwrap_or_default();
        for piece in image.chunks(PIECE_BYTES_MAX) {
            let mut text = [0; PIECE_CHARS_MAX];
            let _cut = write!(self.out, "DATA {}\r\n", transfer::encode(piece, &mut text));
            self.flush().await;
        }
        let crc = CRC32.checksum(image);
        let _cut = write!(self.out, "OK {bytes} {crc:08x}\r\n");
    }
}
