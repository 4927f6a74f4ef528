//! TLS 1.3 to a gateway whose public key is pinned.
//!
//! The pin is the SHA-256 of the certificate's SubjectPublicKeyInfo. Nothing else of the certificate is
//! looked at: neither its dates, which nobody can check before the time of day is known, nor names nor
//! issuers. The gateway proves that it has the key by signing the handshake. The key is one of P-256;
//! the certificate has to fit into one record.
//!
//! embedded-tls 0.19 goes on to the end of a handshake in which the server leaves its certificate and
//! signature out. So [`open`] looks afterwards whether both came and held.

use embedded_io_async::{ErrorType, Read, Write};
use embedded_tls::{
    Aes128GcmSha256, CertificateEntryRef, CertificateRef, CertificateVerifyRef, CryptoProvider, SignatureScheme,
    TlsConfig, TlsConnection, TlsContext, TlsError, TlsVerifier,
};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use rand_chacha::ChaCha20Rng;
use rand_core::CryptoRngCore;
use sha2::{Digest, Sha256};

use super::Setback;
use super::mqtt::Busy;

/// A record of 2,048 bytes (`gateway/src/endpoint`) with its padding, type and tag.
const READ_BYTES: usize = 2_048 + 64;
/// A report and its topic in one record; what is longer takes two.
const WRITE_BYTES: usize = 1_280 + 128;
/// DER of a SubjectPublicKeyInfo of P-256 before the 64 bytes of its point (RFC 5480).
const P256_HEAD: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// Bytes that are the same in front of the point's own marker.
const POINT_AT: usize = P256_HEAD.len() - 1;
/// What a server signs is preceded by this (RFC 8446, 4.4.3).
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\x00";

/// Room for records.
#[derive(Debug)]
pub(super) struct Buffers {
    read: [u8; READ_BYTES],
    write: [u8; WRITE_BYTES],
}

impl Buffers {
    pub(super) const fn new() -> Self {
        Self { read: [0; READ_BYTES], write: [0; WRITE_BYTES] }
    }
}

/// How far the server has proved itself.
enum Proof {
    Nothing,
    /// The certificate has the pinned key; this was said up to it.
    Certificate(VerifyingKey, Sha256),
    /// And the handshake is signed with it.
    Signature,
}

struct Pinned<'a> {
    rng: &'a mut ChaCha20Rng,
    pin: &'a [u8; 32],
    proof: Proof,
    /// Another key than the one pinned was seen.
    foreign: bool,
}

impl CryptoProvider for Pinned<'_> {
    type CipherSuite = Aes128GcmSha256;
    type Signature = p256::ecdsa::DerSignature;

    fn rng(&mut self) -> impl CryptoRngCore {
        &mut *self.rng
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Self::CipherSuite>, TlsError> {
        Ok(self)
    }
}

impl TlsVerifier<Aes128GcmSha256> for Pinned<'_> {
    fn set_hostname_verification(&mut self, _name: &str) -> Result<(), TlsError> {
        Ok(())
    }

    fn verify_certificate(&mut self, transcript: &Sha256, certificate: CertificateRef<'_>) -> Result<(), TlsError> {
        self.proof = Proof::Nothing;
        let Some(CertificateEntryRef::X509(der)) = certificate.entries.first() else {
            return Err(TlsError::InvalidCertificate);
        };
        let info = public_key_info(der).ok_or(TlsError::InvalidCertificate)?;
        if <[u8; 32]>::from(Sha256::digest(info)) != *self.pin {
            self.foreign = true;
            return Err(TlsError::InvalidCertificate);
        }
        let point = info.strip_prefix(&P256_HEAD).and_then(|_| info.get(POINT_AT..));
        let key = point.and_then(|point| VerifyingKey::from_sec1_bytes(point).ok());
        self.proof = Proof::Certificate(key.ok_or(TlsError::InvalidCertificate)?, transcript.clone());
        Ok(())
    }

    fn verify_signature(&mut self, verify: CertificateVerifyRef<'_>) -> Result<(), TlsError> {
        let Proof::Certificate(key, transcript) = core::mem::replace(&mut self.proof, Proof::Nothing) else {
            return Err(TlsError::InvalidSignature);
        };
        if !matches!(verify.signature_scheme, SignatureScheme::EcdsaSecp256r1Sha256) {
            return Err(TlsError::InvalidSignatureScheme);
        }
        let mut message = heapless::Vec::<u8, 130>::new();
        let whole = message.resize(64, b' ').is_ok()
            && message.extend_from_slice(CONTEXT).is_ok()
            && message.extend_from_slice(&transcript.finalize()).is_ok();
        let signature = Signature::from_der(verify.signature).ok().filter(|_| whole);
        let signature = signature.ok_or(TlsError::InvalidSignature)?;
        key.verify(&message, &signature).map_err(|_| TlsError::InvalidSignature)?;
        self.proof = Proof::Signature;
        Ok(())
    }
}

/// A DER element that `bytes` begin with: all of it, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&first, rest) = bytes.get(1..)?.split_first()?;
    let (head, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81 => (3, usize::from(*rest.first()?)),
        0x82 => (4, usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]))),
        _ => return None,
    };
    let (all, after) = bytes.split_at_checked(head + length)?;
    Some((all, all.get(head..)?, after))
}

/// The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280, 4.1).
fn public_key_info(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // The version is there in all but the oldest: then serial number, algorithm, issuer, validity, subject.
    let version = *rest.first()? == 0xa0;
    for _ in 0..5 + usize::from(version) {
        (.., rest) = element(rest)?;
    }
    element(rest).map(|(all, ..)| all)
}

/// What lies below TLS: it notes that a record is half read, or half written.
pub(super) struct Below<'a, T> {
    transport: T,
    busy: &'a Busy,
}

impl<T: ErrorType> ErrorType for Below<'_, T> {
    type Error = T::Error;
}

impl<T: Read> Read for Below<'_, T> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, T::Error> {
        let count = self.transport.read(bytes).await?;
        self.busy.set(true);
        Ok(count)
    }
}

impl<T: Write> Write for Below<'_, T> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, T::Error> {
        self.busy.set(true);
        self.transport.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), T::Error> {
        self.transport.flush().await
    }
}

/// A transport that is TLS.
pub(super) struct Tls<'a, T: Read + Write + 'a> {
    connection: TlsConnection<'a, Below<'a, T>, Aes128GcmSha256>,
    busy: &'a Busy,
}

impl<T: Read + Write> ErrorType for Tls<'_, T> {
    type Error = TlsError;
}

impl<T: Read + Write> Read for Tls<'_, T> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, TlsError> {
        let result = self.connection.read(bytes).await;
        self.busy.set(false);
        result
    }
}

impl<T: Read + Write> Write for Tls<'_, T> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, TlsError> {
        let result = self.connection.write(bytes).await;
        self.busy.set(false);
        result
    }

    async fn flush(&mut self) -> Result<(), TlsError> {
        let result = self.connection.flush().await;
        self.busy.set(false);
        result
    }
}

/// Makes TLS of a transport, to the gateway with this pin and to nobody else.
pub(super) async fn open<'a, T: Read + Write + 'a>(
    transport: T,
    busy: &'a Busy,
    pin: &[u8; 32],
    rng: &mut ChaCha20Rng,
    buffers: &'a mut Buffers,
) -> Result<Tls<'a, T>, Setback> {
    let mut connection = TlsConnection::new(Below { transport, busy }, &mut buffers.read, &mut buffers.write);
    let mut pinned = Pinned { rng, pin, proof: Proof::Nothing, foreign: false };
    let config = TlsConfig::new();
    let opened = connection.open(TlsContext::new(&config, &mut pinned)).await;
    if pinned.foreign {
        return Err(Setback::Pin);
    }
    opened.map_err(|_| Setback::Tls)?;
    if !matches!(pinned.proof, Proof::Signature) {
        return Err(Setback::Pin);
    }
    busy.set(false);
    Ok(Tls { connection, busy })
}
