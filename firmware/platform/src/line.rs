//! Modbus lines: between a port that waits and a node that must not.

use core::cell::RefCell;

use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use embassy_time::{Duration, Timer};
use embedded_hal::digital::OutputPin;
use embedded_io_async::{Read, Write};
use heapless::{Deque, Vec};
use sensors::modbus::{LineSettings, REQUEST_LEN_MAX, RESPONSE_LEN_MAX};

use crate::exchange::Exchange;

/// Bytes that wait to be looked at; the longest answer, and the noise before it.
const HEARD_BYTES: usize = RESPONSE_LEN_MAX + 32;
/// Bytes taken off a port at once.
const CHUNK: usize = 32;
/// Rest after an error of a port.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// A serial port behind an RS-485 transceiver.
///
/// `read` gives what has come as soon as there is something, and loses nothing when its future is
/// dropped; `flush` returns when the last bit has left. What comes while nobody reads is the
/// driver's to keep.
pub trait Port: Read + Write {
    /// Takes on speed and parity, if they are others than before.
    fn set(&mut self, line: &LineSettings) -> Result<(), Self::Error>;
}

/// The pin of a transceiver that knows by itself when to drive.
#[derive(Clone, Copy, Debug)]
pub struct NoPin;

impl embedded_hal::digital::ErrorType for NoPin {
    type Error = core::convert::Infallible;
}

impl OutputPin for NoPin {
    fn set_low(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

struct State {
    heard: Deque<u8, HEARD_BYTES>,
    request: Option<(LineSettings, Vec<u8, REQUEST_LEN_MAX>)>,
    errors: u32,
}

/// A line, as both sides see it.
pub struct Line {
    state: Mutex<CriticalSectionRawMutex, RefCell<State>>,
    asked: Signal<CriticalSectionRawMutex, ()>,
}

impl Line {
    pub(crate) const fn new() -> Self {
        let state = State { heard: Deque::new(), request: None, errors: 0 };
        Self { state: Mutex::new(RefCell::new(state)), asked: Signal::new() }
    }

    fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        self.state.lock(|state| work(&mut state.borrow_mut()))
    }

    /// Puts a frame on it.
    pub(crate) fn send(&self, line: &LineSettings, frame: &[u8]) {
        // A request is never longer than there is room for.
        if let Ok(frame) = Vec::from_slice(frame) {
            self.with(|state| state.request = Some((*line, frame)));
            self.asked.signal(());
        }
    }

    /// Takes what came since.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> usize {
        self.with(|state| {
            let mut count = 0;
            for place in buffer {
                let Some(byte) = state.heard.pop_front() else { break };
                *place = byte;
                count += 1;
            }
            count
        })
    }

    /// What its port had to complain about since boot.
    pub fn errors(&self) -> u32 {
        self.with(|state| state.errors)
    }

    /// Keeps the newest bytes: a line that babbles is cut off by its turn's own time.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        self.with(|state| {
            for byte in bytes {
                if state.heard.is_full() {
                    state.heard.pop_front();
                }
                let _fits = state.heard.push_back(*byte);
            }
        });
    }

    /// Takes the request as the port would.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Option<(LineSettings, Vec<u8, REQUEST_LEN_MAX>)> {
        self.with(|state| state.request.take())
    }

    async fn request(&self) -> (LineSettings, Vec<u8, REQUEST_LEN_MAX>) {
        loop {
            if let Some(request) = self.with(|state| state.request.take()) {
                return request;
            }
            self.asked.wait().await;
        }
    }
}

/// Serves line `bus` for ever. `drive` is the pin that makes the transceiver drive the line, [`NoPin`]
/// where it needs none. A board runs this in a task per line.
pub async fn run_line<P: Port, D: OutputPin>(exchange: &Exchange, bus: usize, mut port: P, mut drive: D) -> ! {
    let Some(line) = exchange.line(bus) else {
        loop {
            core::future::pending::<()>().await;
        }
    };
    let mut bytes = [0; CHUNK];
    loop {
        let error = match select(port.read(&mut bytes), line.request()).await {
            Either::First(Ok(count)) => {
                line.hear(bytes.get(..count).unwrap_or_default());
                exchange.wake();
                count == 0
            }
            Either::First(Err(_)) => true,
            Either::Second((settings, frame)) => {
                let mut fine = port.set(&settings).is_ok();
                fine &= drive.set_high().is_ok();
                fine &= port.write_all(&frame).await.is_ok();
                fine &= port.flush().await.is_ok();
                fine &= drive.set_low().is_ok();
                !fine
            }
        };
        if error {
            line.with(|state| state.errors = state.errors.saturating_add(1));
            // A port that fails at once must not keep others from their turn.
            Timer::after(ERROR_PAUSE).await;
        }
    }
}
