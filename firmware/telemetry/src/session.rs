//! Sessions: how a node and its gateway agree on where they stand and what time it is.
//!
//! Node: [`Open`] → gateway: [`Receipt`] with UTC → node: [`Ready`] with the anchors by which
//! its records are dated → reports. Later receipts only release. `CUSTODY.md` has the whole
//! conversation.

use minicbor::decode::Decoder;

use crate::cbor::{self, Malformed, TooLong};
use crate::limits::ANCHORS_MAX;

/// Random bytes by which a node names a session. Without them nothing is released, set or switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 8]);

/// A node opens a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Fresh random bytes.
    pub nonce: Nonce,
    /// The ring its records are in.
    pub ring: u32,
    /// Its current boot.
    pub boot: u16,
    /// The oldest seq it still holds; equals `next` when it holds none.
    pub floor: u32,
    /// The seq its next record will get.
    pub next: u32,
    /// Milliseconds since boot at sending.
    pub mono_ms: u64,
}

/// The instant at which a node's clock and UTC were known together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The boot.
    pub boot: u16,
    /// Milliseconds since that boot.
    pub mono_ms: u64,
    /// UTC at that instant, in milliseconds since 1970.
    pub utc_ms: i64,
    /// Bound of the error, in milliseconds.
    pub error_ms: u32,
    /// Bound of the clock's drift, in parts per million.
    pub drift_ppm: u16,
}

/// A node is ready to deliver: which of its boots have a known clock. The newest boots first;
/// records of a boot not named here are dated as estimates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The session.
    pub nonce: Nonce,
    /// The ring.
    pub ring: u32,
    /// One for each boot that has one.
    pub anchors: heapless::Vec<Anchor, ANCHORS_MAX>,
}

/// What a node says on its session topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// `[version, 1, nonce, ring, boot, floor, next, mono_ms]`
    Open(Open),
    /// `[version, 2, nonce, ring, [[boot, mono_ms, utc_ms, error_ms, drift_ppm]…]]`
    Ready(Ready),
}

impl Session {
    /// Encodes it.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        cbor::encode(buffer, |e| {
            match self {
                Self::Open(o) => {
                    e.array(8)?.u8(crate::VERSION)?.u8(1)?.bytes(&o.nonce.0)?.u32(o.ring)?.u16(o.boot)?;
                    e.u32(o.floor)?.u32(o.next)?.u64(o.mono_ms)?;
                }
                Self::Ready(r) => {
                    e.array(5)?.u8(crate::VERSION)?.u8(2)?.bytes(&r.nonce.0)?.u32(r.ring)?;
                    e.array(r.anchors.len() as u64)?;
                    for a in &r.anchors {
                        e.array(5)?.u16(a.boot)?.u64(a.mono_ms)?.i64(a.utc_ms)?.u32(a.error_ms)?.u16(a.drift_ppm)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Decodes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(bytes);
        let length = cbor::versioned(&mut d, 5)?;
        let kind = d.u8()?;
        let nonce = Nonce(d.bytes()?.try_into().map_err(|_| Malformed::Shape)?);
        let ring = d.u32()?;
        let (session, read) = match kind {
            1 if length >= 8 => {
                let open = Open { nonce, ring, boot: d.u16()?, floor: d.u32()?, next: d.u32()?, mono_ms: d.u64()? };
                if open.floor > open.next {
                    return Err(Malformed::Shape);
                }
                (Self::Open(open), 8)
            }
            2 => {
                let mut anchors = heapless::Vec::new();
                for _ in 0..cbor::array(&mut d, 0)? {
                    let fields = cbor::array(&mut d, 5)?;
                    let anchor = Anchor {
                        boot: d.u16()?,
                        mono_ms: d.u64()?,
                        utc_ms: d.i64()?,
                        error_ms: d.u32()?,
                        drift_ppm: d.u16()?,
                    };
                    cbor::skip(&mut d, fields - 5)?;
                    anchors.push(anchor).map_err(|_| Malformed::Limit)?;
                }
                (Self::Ready(Ready { nonce, ring, anchors }), 5)
            }
            _ => return Err(Malformed::Shape),
        };
        cbor::skip(&mut d, length - read)?;
        if d.position() == bytes.len() { Ok(session) } else { Err(Malformed::Shape) }
    }
}

/// The gateway has everything of `ring` before `next`, for good. Travels sealed
/// (see [`crate::mac::Key::seal`]): `[version, ring, next, utc_ms / null]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The ring.
    pub ring: u32,
    /// The first seq the gateway does not have.
    pub next: u32,
    /// UTC in milliseconds, in the receipt that answers [`Open`], if the gateway knows it.
    pub utc_ms: Option<i64>,
}

impl Receipt {
    /// Encodes the body to be sealed.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        cbor::encode(buffer, |e| {
            e.array(4)?.u8(crate::VERSION)?.u32(self.ring)?.u32(self.next)?;
            match self.utc_ms {
                Some(utc_ms) => e.i64(utc_ms)?,
                None => e.null()?,
            };
            Ok(())
        })
    }

    /// Decodes an opened body.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        let length = cbor::versioned(&mut d, 4)?;
        let (ring, next) = (d.u32()?, d.u32()?);
        let utc_ms = if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            None
        } else {
            Some(d.i64()?)
        };
        cbor::skip(&mut d, length - 4)?;
        if d.position() == body.len() { Ok(Self { ring, next, utc_ms }) } else { Err(Malformed::Shape) }
    }
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Open a new session: the gateway has lost, or now knows, something that needs one.
    Reopen,
    /// Switch an actuator, for at most `for_s` seconds; the node's own rules still decide.
    Switch {
        /// Which.
        actuator: u8,
        /// On or off.
        on: bool,
        /// How long the order holds, in seconds.
        for_s: u32,
    },
    /// A channel's probe is being calibrated: what it says is marked, and nothing is controlled by it.
    Calibrate {
        /// Which.
        channel: u8,
        /// For at most so long, in seconds; 0 = no longer.
        for_s: u32,
    },
}

/// A command, sealed like a receipt: `[version, counter, not_after_ms, kind, …]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Rises with each command of a session; a node obeys each number once.
    pub counter: u32,
    /// The node's own clock, in milliseconds since boot, after which it must not be obeyed.
    pub not_after_ms: u64,
    /// What to do.
    pub order: Order,
}

impl Command {
    /// Encodes the body to be sealed.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, TooLong> {
        cbor::encode(buffer, |e| {
            let fields = match self.order {
                Order::Reopen => 4,
                Order::Calibrate { .. } => 6,
                Order::Switch { .. } => 7,
            };
            e.array(fields)?.u8(crate::VERSION)?.u32(self.counter)?.u64(self.not_after_ms)?;
            match self.order {
                Order::Reopen => e.u8(1)?,
                Order::Switch { actuator, on, for_s } => e.u8(2)?.u8(actuator)?.bool(on)?.u32(for_s)?,
                Order::Calibrate { channel, for_s } => e.u8(3)?.u8(channel)?.u32(for_s)?,
            };
            Ok(())
        })
    }

    /// Decodes an opened body.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        let length = cbor::versioned(&mut d, 4)?;
        let (counter, not_after_ms) = (d.u32()?, d.u64()?);
        let (order, read) = match d.u8()? {
            1 => (Order::Reopen, 4),
            2 if length >= 7 => (Order::Switch { actuator: d.u8()?, on: d.bool()?, for_s: d.u32()? }, 7),
            3 if length >= 6 => (Order::Calibrate { channel: d.u8()?, for_s: d.u32()? }, 6),
            _ => return Err(Malformed::Shape),
        };
        cbor::skip(&mut d, length - read)?;
        if d.position() == body.len() { Ok(Self { counter, not_after_ms, order }) } else { Err(Malformed::Shape) }
    }
}
