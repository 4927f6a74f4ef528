//! Contacts, pulse counters, ADC inputs and outputs of a board whose processor has them as plain pins.
//!
//! Tasks look at the pins; [`Buses`](sensors::part::Buses) of the node half asks what they have seen
//! and waits for nobody. A board runs these tasks where they are late least: in an executor above the
//! network's.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod buses;
pub mod i2c;
mod outputs;

use core::cell::RefCell;

use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use embassy_time::{Duration, Instant, Ticker};
use embedded_hal::digital::InputPin;
use embedded_hal_async::digital::Wait;
use sensors::contact::Contact;
use sensors::pulse::EdgeCounter;
use sensors::rms::{Converter, Rms};

pub use buses::PlainBuses;
pub use outputs::Outputs;

/// Contacts are looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A level counts after so long, µs: longer than switches and relays bounce.
const HOLD_US: u64 = 20_000;
/// Edges that come sooner after one are bouncing, µs: reed contacts bounce for a ms, flow meters give
/// up to 200 pulses/s.
const DEAD_US: u64 = 2_000;
/// ADC inputs are sampled so often, Hz: forty times in a period of the mains.
pub const SAMPLES_HZ: u32 = 2_000;

#[derive(Debug)]
struct State<const C: usize, const P: usize, const A: usize> {
    contacts: [Contact; C],
    counters: [EdgeCounter; P],
    windows: [Option<Rms>; A],
}

/// What has been seen on C contacts, P counters and A ADC inputs. It lies in a static.
pub struct Inputs<const C: usize, const P: usize, const A: usize> {
    state: Mutex<CriticalSectionRawMutex, RefCell<State<C, P, A>>>,
    begun: Signal<CriticalSectionRawMutex, u8>,
    converter: Converter,
}

impl<const C: usize, const P: usize, const A: usize> Inputs<C, P, A> {
    /// Nothing seen yet. The converter gives `count_max` at `reference_v`.
    pub const fn new(count_max: u16, reference_v: f32) -> Self {
        let state = State {
            contacts: [Contact::new(HOLD_US); C],
            counters: [EdgeCounter::new(DEAD_US); P],
            windows: [None; A],
        };
        let converter = Converter { rate_hz: SAMPLES_HZ, count_max, reference_v };
        Self { state: Mutex::new(RefCell::new(state)), begun: Signal::new(), converter }
    }

    fn with<R>(&self, work: impl FnOnce(&mut State<C, P, A>) -> R) -> R {
        self.state.lock(|state| work(&mut state.borrow_mut()))
    }

    /// Looks at all contacts for ever. They switch to ground, against a pull-up: low is closed.
    pub async fn watch<I: InputPin>(&self, mut pins: [I; C]) -> ! {
        let mut ticker = Ticker::every(LOOK_EVERY);
        loop {
            ticker.next().await;
            let now_us = Instant::now().as_micros();
            for (n, pin) in pins.iter_mut().enumerate() {
                // A pin that cannot be read stays as it was last seen.
                if let Ok(closed) = pin.is_low() {
                    self.with(|state| {
                        if let Some(contact) = state.contacts.get_mut(n) {
                            contact.on_level(closed, now_us);
                        }
                    });
                }
            }
        }
    }

    /// Counts the falling edges of one pin for ever.
    pub async fn count<I: Wait>(&self, n: usize, mut pin: I) -> ! {
        loop {
            if pin.wait_for_falling_edge().await.is_err() {
                // The pin cannot be waited for: that does not change by asking on.
                core::future::pending::<()>().await;
            }
            let now_us = Instant::now().as_micros();
            self.with(|state| {
                if let Some(counter) = state.counters.get_mut(n) {
                    counter.on_edge(now_us);
                }
            });
        }
    }

    /// Samples the ADC input that is asked for, for ever: one window at a time. `read` converts one
    /// input now; `None` when the converter does not.
    pub async fn sample(&self, mut read: impl FnMut(u8) -> Option<u16>) -> ! {
        loop {
            let input = self.begun.wait().await;
            let mut ticker = Ticker::every(Duration::from_hz(u64::from(SAMPLES_HZ)));
            loop {
                ticker.next().await;
                let Some(count) = read(input) else { break };
                let more = self.with(|state| {
                    let window = state.windows.get_mut(usize::from(input)).and_then(Option::as_mut);
                    window.is_some_and(|window| window.push(count))
                });
                if !more || self.begun.signaled() {
                    break;
                }
            }
        }
    }

    fn contact(&self, input: u8) -> Option<bool> {
        self.with(|state| state.contacts.get(usize::from(input)).and_then(Contact::closed))
    }

    fn counted(&self, input: u8) -> Option<u32> {
        self.with(|state| state.counters.get(usize::from(input)).map(EdgeCounter::count))
    }

    fn begin_window(&self, input: u8) -> bool {
        let there = self.with(|state| {
            let place = state.windows.get_mut(usize::from(input));
            place.map(|place| *place = Some(Rms::new(self.converter))).is_some()
        });
        if there {
            self.begun.signal(input);
        }
        there
    }

    fn window(&self, input: u8) -> Option<Rms> {
        self.with(|state| state.windows.get(usize::from(input)).copied().flatten())
    }
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;
    use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

    use embassy_futures::poll_once;
    use embassy_time::MockDriver;
    use embedded_hal::digital::ErrorType;

    use super::*;

    /// A pin whose level a test sets.
    struct Wire(&'static AtomicBool);

    impl ErrorType for Wire {
        type Error = Infallible;
    }

    impl InputPin for Wire {
        fn is_high(&mut self) -> Result<bool, Infallible> {
            Ok(self.0.load(Ordering::Relaxed))
        }

        fn is_low(&mut self) -> Result<bool, Infallible> {
            self.is_high().map(|high| !high)
        }
    }

    #[test]
    fn tasks_see_contacts_and_fill_windows_while_nobody_waits_for_them() {
        static LEVEL: AtomicBool = AtomicBool::new(true);
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let time = MockDriver::get();
        let inputs: Inputs<1, 1, 1> = Inputs::new(4_095, 3.3);
        let mut watch = core::pin::pin!(inputs.watch([Wire(&LEVEL)]));
        // A square wave of 50 Hz: forty samples are one period.
        let mut sample = core::pin::pin!(inputs.sample(|_| {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            Some(if n / 20 % 2 == 0 { 1_000 } else { 3_000 })
        }));
        let mut pass = |ms: u64| {
            for _ in 0..2 * ms {
                let _pending = poll_once(watch.as_mut());
                let _pending = poll_once(sample.as_mut());
                time.advance(Duration::from_micros(500));
            }
        };
        assert_eq!(inputs.contact(0), None, "nobody has looked yet");
        pass(40);
        assert_eq!(inputs.contact(0), Some(false));
        LEVEL.store(false, Ordering::Relaxed);
        pass(10);
        assert_eq!(inputs.contact(0), Some(false), "it may be bouncing");
        pass(30);
        assert_eq!(inputs.contact(0), Some(true));
        assert_eq!(inputs.contact(1), None, "there is one");
        assert!(inputs.begin_window(0) && !inputs.begin_window(1));
        pass(5);
        assert!(inputs.window(0).unwrap().volts().is_err(), "less than a period");
        pass(200);
        let volts = inputs.window(0).unwrap().volts().unwrap();
        let expected = 1_000.0 / 4_095.0 * 3.3;
        assert!((volts - expected).abs() < 0.01, "{volts} V for {expected}");
    }
}
