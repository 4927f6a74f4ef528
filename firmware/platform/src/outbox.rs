//! What the node wants to publish, on its way to the network half: a ring of whole messages.
//!
//! It takes a message whole or not at all, and only while a connection is served: what was meant for
//! one connection never goes out on another.

use core::cell::RefCell;

use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use telemetry::limits::{REPORT_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use telemetry::topic::Up;

/// Kind and length before each message.
const HEAD_BYTES: usize = 3;
/// Bytes of the ring: the largest report and snapshot, and a message of the session.
pub(crate) const OUTBOX_BYTES: usize = REPORT_BYTES_MAX + SNAPSHOT_BYTES_MAX + 256 + 3 * HEAD_BYTES;

struct Ring {
    open: bool,
    bytes: [u8; OUTBOX_BYTES],
    head: usize,
    used: usize,
    /// Something did not fit since the last message was taken.
    refused: bool,
}

/// Messages on their way out. One fills it, one empties it.
pub(crate) struct Outbox {
    ring: Mutex<CriticalSectionRawMutex, RefCell<Ring>>,
    filled: Signal<CriticalSectionRawMutex, ()>,
}

impl Ring {
    /// Copies in at `at` bytes behind the head.
    fn write(&mut self, at: usize, from: &[u8]) {
        let start = (self.head + at) % OUTBOX_BYTES;
        let (whole, rest) = from.split_at(from.len().min(OUTBOX_BYTES - start));
        if let Some(place) = self.bytes.get_mut(start..start + whole.len()) {
            place.copy_from_slice(whole);
        }
        if let Some(place) = self.bytes.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
    }

    /// Copies out from `at` bytes behind the head.
    fn read(&self, at: usize, to: &mut [u8]) {
        let start = (self.head + at) % OUTBOX_BYTES;
        let count = to.len().min(OUTBOX_BYTES - start);
        let (whole, rest) = to.split_at_mut(count);
        if let Some(bytes) = self.bytes.get(start..start + count) {
            whole.copy_from_slice(bytes);
        }
        if let Some(bytes) = self.bytes.get(..rest.len()) {
            rest.copy_from_slice(bytes);
        }
    }

    fn first(&self) -> Option<(Up, usize)> {
        if self.used < HEAD_BYTES {
            return None;
        }
        let mut head = [0; HEAD_BYTES];
        self.read(0, &mut head);
        let [kind, low, high] = head;
        let up = match kind {
            0 => Up::Report,
            1 => Up::Session,
            _ => Up::Live,
        };
        Some((up, usize::from(u16::from_le_bytes([low, high]))))
    }

    fn clear(&mut self, open: bool) {
        (self.open, self.head, self.used, self.refused) = (open, 0, 0, false);
    }
}

impl Outbox {
    /// An empty one that takes nothing yet.
    pub(crate) const fn new() -> Self {
        let ring = Ring { open: false, bytes: [0; OUTBOX_BYTES], head: 0, used: 0, refused: false };
        Self { ring: Mutex::new(RefCell::new(ring)), filled: Signal::new() }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Ring) -> R) -> R {
        self.ring.lock(|ring| work(&mut ring.borrow_mut()))
    }

    /// Takes messages from now on; what was there is forgotten.
    pub(crate) fn open(&self) {
        self.with(|ring| ring.clear(true));
    }

    /// Takes none any more; what was there is forgotten.
    pub(crate) fn close(&self) {
        self.with(|ring| ring.clear(false));
    }

    /// Takes a message whole, or not: `false` when there is no room, or no connection.
    pub(crate) fn push(&self, up: Up, payload: &[u8]) -> bool {
        let taken = self.with(|ring| {
            let fits = ring.open && ring.used + HEAD_BYTES + payload.len() <= OUTBOX_BYTES;
            let Some(length) = u16::try_from(payload.len()).ok().filter(|_| fits) else {
                ring.refused = true;
                return false;
            };
            let kind = match up {
                Up::Report => 0,
                Up::Session => 1,
                Up::Live => 2,
            };
            let [low, high] = length.to_le_bytes();
            ring.write(ring.used, &[kind, low, high]);
            ring.write(ring.used + HEAD_BYTES, payload);
            ring.used += HEAD_BYTES + payload.len();
            true
        });
        if taken {
            self.filled.signal(());
        }
        taken
    }

    /// Kind and length of the oldest message.
    pub(crate) fn first(&self) -> Option<(Up, usize)> {
        self.with(|ring| ring.first())
    }

    /// Copies the oldest message; its length, or `None` when there is none or no room for it.
    pub(crate) fn copy(&self, to: &mut [u8]) -> Option<usize> {
        self.with(|ring| {
            let (_, length) = ring.first()?;
            ring.read(HEAD_BYTES, to.get_mut(..length)?);
            Some(length)
        })
    }

    /// Drops the oldest message; whether something had been refused that may fit now.
    pub(crate) fn pop(&self) -> bool {
        self.with(|ring| {
            if let Some((_, length)) = ring.first() {
                ring.head = (ring.head + HEAD_BYTES + length) % OUTBOX_BYTES;
                ring.used -= HEAD_BYTES + length;
            }
            core::mem::take(&mut ring.refused)
        })
    }

    /// Waits until there may be a message.
    pub(crate) async fn filled(&self) {
        while self.first().is_none() {
            self.filled.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn take(outbox: &Outbox) -> Option<(Up, Vec<u8>)> {
        let (up, length) = outbox.first()?;
        let mut bytes = vec![0; length];
        assert_eq!(outbox.copy(&mut bytes), Some(length));
        outbox.pop();
        Some((up, bytes))
    }

    #[test]
    fn the_largest_report_snapshot_and_a_message_of_the_session_fit_at_once() {
        let outbox = Outbox::new();
        outbox.open();
        assert!(outbox.push(Up::Session, &[1; 256]));
        assert!(outbox.push(Up::Report, &[2; REPORT_BYTES_MAX]));
        assert!(outbox.push(Up::Live, &[3; SNAPSHOT_BYTES_MAX]));
        assert!(!outbox.push(Up::Live, &[]), "it is full");
        assert!(outbox.pop_was_refused(), "and says so when there is room again");
        assert!(!outbox.pop_was_refused());
    }

    impl Outbox {
        fn pop_was_refused(&self) -> bool {
            self.pop()
        }
    }

    #[test]
    fn what_was_meant_for_one_connection_never_goes_out_on_another() {
        let outbox = Outbox::new();
        assert!(!outbox.push(Up::Live, &[1]), "no connection yet");
        outbox.open();
        assert!(outbox.push(Up::Live, &[2]));
        outbox.close();
        assert!(!outbox.push(Up::Live, &[3]));
        assert_eq!(take(&outbox), None);
        outbox.open();
        assert!(outbox.push(Up::Report, &[4]));
        assert_eq!(take(&outbox), Some((Up::Report, vec![4])));
        assert_eq!(take(&outbox), None);
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_and_in_order(steps in proptest::collection::vec((0u8..4, 0usize..1100), 1..200)) {
            let outbox = Outbox::new();
            outbox.open();
            let mut model: VecDeque<(Up, Vec<u8>)> = VecDeque::new();
            let mut used = 0;
            for (n, (kind, length)) in steps.into_iter().enumerate() {
                let up = match kind {
                    0 => Up::Report,
                    1 => Up::Session,
                    2 => Up::Live,
                    _ => {
                        let expected = model.pop_front();
                        used -= expected.as_ref().map_or(0, |(_, bytes)| bytes.len() + HEAD_BYTES);
                        prop_assert_eq!(take(&outbox), expected);
                        continue;
                    }
                };
                let payload = vec![n as u8; length];
                let fits = used + HEAD_BYTES + length <= OUTBOX_BYTES;
                prop_assert_eq!(outbox.push(up, &payload), fits);
                if fits {
                    used += HEAD_BYTES + length;
                    model.push_back((up, payload));
                }
            }
        }
    }
}
