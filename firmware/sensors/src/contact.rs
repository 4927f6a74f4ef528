//! Contacts: mains present, local switches, floats. A level counts once it has stood for a while.

/// A debounced contact.
#[derive(Clone, Copy, Debug)]
pub struct Contact {
    hold_us: u64,
    closed: Option<bool>,
    seen: Option<(bool, u64)>,
}

impl Contact {
    /// A level counts after it has been the same for `hold_us`: 20 ms or more for switches.
    pub const fn new(hold_us: u64) -> Self {
        Self { hold_us, closed: None, seen: None }
    }

    /// The level at this time; to be told at every edge, or every few ms.
    pub fn on_level(&mut self, closed: bool, now_us: u64) {
        match self.seen {
            Some((level, since_us)) if level == closed => {
                if now_us.saturating_sub(since_us) >= self.hold_us {
                    self.closed = Some(closed);
                }
            }
            _ => self.seen = Some((closed, now_us)),
        }
    }

    /// True when closed; none until a level has stood long enough.
    pub fn closed(&self) -> Option<bool> {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounce_is_no_change_and_a_level_that_stands_is_one() {
        let mut contact = Contact::new(20_000);
        contact.on_level(false, 0);
        assert_eq!(contact.closed(), None);
        contact.on_level(false, 20_000);
        assert_eq!(contact.closed(), Some(false));
        for at_us in (30_000..80_000).step_by(10_000) {
            contact.on_level(at_us % 20_000 == 0, at_us);
            assert_eq!(contact.closed(), Some(false), "{at_us}");
        }
        contact.on_level(true, 100_000);
        contact.on_level(true, 119_999);
        assert_eq!(contact.closed(), Some(false));
        contact.on_level(true, 120_000);
        assert_eq!(contact.closed(), Some(true));
    }
}
