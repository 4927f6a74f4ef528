//! Authentication of what a gateway tells a node: HMAC-SHA-256 (RFC 2104) under the node's own
//! key, over the message's kind, the node's name and the session's nonce, cut to 16 bytes.
//!
//! The nonce is not sent: a message of another session, another node or another kind does not
//! verify, so nothing old can be replayed to a node.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cbor::{self, Malformed, TooLong};
use crate::name::NodeName;
use crate::session::Nonce;
use crate::topic::Down;

/// A node's key. Derived by the gateway from its master key and the node's name.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Bytes of a MAC on the wire.
pub const MAC_BYTES: usize = 16;

/// Why a message from a gateway is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not the bytes of a sealed message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not sealed for this node, kind and session.
    #[error("the message is not sealed for this node and session")]
    Forged,
}

impl Key {
    /// A key of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of `node` under a master key (HMAC as a key derivation, NIST SP 800-108 in one block).
    pub fn derive(master: &[u8; 32], node: &NodeName) -> Self {
        let mut mac = hmac(master);
        mac.update(b"tianyu node key 1");
        mac.update(node.as_str().as_bytes());
        Self(mac.finalize().into_bytes().into())
    }

    /// The bytes, for provisioning.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn tag(&self, node: &NodeName, kind: Down, nonce: Nonce, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = hmac(&self.0);
        for part in [b"ty1/".as_slice(), kind.name().as_bytes(), b"/", node.as_str().as_bytes(), &[0], &nonce.0] {
            mac.update(part);
        }
        mac.update(body);
        mac
    }

    /// Seals `body` for one node's session into `buffer`: `[body, mac]`.
    pub fn seal(
        &self,
        node: &NodeName,
        kind: Down,
        nonce: Nonce,
        body: &[u8],
        buffer: &mut [u8],
    ) -> Result<usize, TooLong> {
        let tag = self.tag(node, kind, nonce, body).finalize().into_bytes();
        cbor::encode(buffer, |e| {
            e.array(2)?.bytes(body)?.bytes(tag.get(..MAC_BYTES).unwrap_or_default())?;
            Ok(())
        })
    }

    /// The body of what [`Key::seal`] sealed for this node, kind and session.
    pub fn open<'b>(
        &self,
        node: &NodeName,
        kind: Down,
        nonce: Nonce,
        message: &'b [u8],
    ) -> Result<&'b [u8], OpenError> {
        let mut d = minicbor::Decoder::new(message);
        let length = cbor::array(&mut d, 2)?;
        let body = d.bytes().map_err(Malformed::from)?;
        let tag = d.bytes().map_err(Malformed::from)?;
        if length != 2 || tag.len() != MAC_BYTES || d.position() != message.len() {
            return Err(Malformed::Shape.into());
        }
        self.tag(node, kind, nonce, body).verify_truncated_left(tag).map_err(|_| OpenError::Forged)?;
        Ok(body)
    }
}

/// In constant time.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl Eq for Key {}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    // One block of key material is padded, never hashed, and any length is valid: no failure.
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    block.iter_mut().zip(key).for_each(|(place, byte)| *place = *byte);
    Hmac::new(&block)
}
