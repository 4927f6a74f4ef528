//! A server of TLS 1.3 (RFC 8446) that comes to the end of a handshake without any key of its own: it
//! leaves its certificate and signature out, or signs with nothing.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes128Gcm, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::{EncodedPoint, PublicKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};
use std::vec;
use std::vec::Vec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

fn expand(secret: &[u8], label: &str, context: &[u8], length: usize) -> Vec<u8> {
    let mut info = (length as u16).to_be_bytes().to_vec();
    let label = [b"tls13 ", label.as_bytes()].concat();
    info.push(label.len() as u8);
    info.extend(&label);
    info.push(context.len() as u8);
    info.extend(context);
    let mut out = vec![0; length];
    Hkdf::<Sha256>::from_prk(secret).unwrap().expand(&info, &mut out).unwrap();
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    [&[kind, a, b, c], body].concat()
}

async fn record(stream: &mut DuplexStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut body).await.ok()?;
    Some((head[0], body))
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &(body.len() as u16).to_be_bytes()[..], body].concat()
}

/// Serves a handshake; `shown` is a certificate, and whether something that is no signature follows it.
/// Whether the client finished the handshake.
pub(super) async fn serve(mut stream: DuplexStream, shown: Option<(Vec<u8>, bool)>) -> bool {
    let Some((22, hello)) = record(&mut stream).await else { return false };
    // Group 23 with a point of 65 bytes: the client's share.
    let share = [0, 0x17, 0, 65];
    let at = hello.windows(4).position(|window| window == share).unwrap() + 4;
    let client = PublicKey::from_sec1_bytes(&hello[at..at + 65]).unwrap();
    let session = &hello[38..39 + usize::from(hello[38])];

    let secret = EphemeralSecret::random(&mut ChaCha20Rng::from_seed([3; 32]));
    let point: EncodedPoint = secret.public_key().to_encoded_point(false);
    let mut body = vec![3, 3];
    body.extend([0x55; 32]);
    body.extend(session);
    body.extend([0x13, 0x01, 0]);
    let mut extensions = vec![0, 0x2b, 0, 2, 3, 4, 0, 0x33, 0, 69];
    extensions.extend(share);
    extensions.extend(point.as_bytes());
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let answer = message(2, &body);
    stream.write_all(&framed(22, &answer)).await.unwrap();

    let mut transcript = Sha256::new();
    transcript.update(&hello);
    transcript.update(&answer);
    let nothing = Sha256::digest(b"");
    let (early, _) = Hkdf::<Sha256>::extract(Some(&[0; 32]), &[0; 32]);
    let salt = expand(&early, "derived", &nothing, 32);
    let shared = secret.diffie_hellman(&client);
    let (handshake, _) = Hkdf::<Sha256>::extract(Some(&salt), shared.raw_secret_bytes());
    let traffic = expand(&handshake, "s hs traffic", &transcript.clone().finalize(), 32);
    let cipher = Aes128Gcm::new_from_slice(&expand(&traffic, "key", b"", 16)).unwrap();
    let iv = expand(&traffic, "iv", b"", 12);

    let mut flight = vec![message(8, &[0, 0])];
    if let Some((certificate, verify)) = shown {
        let entry = [&(certificate.len() as u32).to_be_bytes()[1..], &certificate, &[0, 0]].concat();
        flight.push(message(11, &[&[0], &(entry.len() as u32).to_be_bytes()[1..], &entry].concat()));
        if verify {
            // r = s = 1.
            flight.push(message(15, &[4, 3, 0, 8, 0x30, 6, 2, 1, 1, 2, 1, 1]));
        }
    }
    for said in &flight {
        transcript.update(said);
    }
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&expand(&traffic, "finished", b"", 32)).unwrap();
    mac.update(&transcript.finalize());
    flight.push(message(20, &mac.finalize().into_bytes()));
    for (n, said) in flight.iter().enumerate() {
        let mut nonce = iv.clone();
        nonce[11] ^= n as u8;
        let plain = [said.as_slice(), &[22]].concat();
        let head = [23, 3, 3, 0, 0];
        let length = ((plain.len() + 16) as u16).to_be_bytes();
        let head = [&head[..3], &length].concat();
        let sealed = cipher.encrypt(Nonce::from_slice(&nonce), Payload { msg: &plain, aad: &head }).unwrap();
        if stream.write_all(&framed(23, &sealed)).await.is_err() {
            return false;
        }
    }
    // The client's own Finished comes in a record of application data; a client that gave up is gone.
    while let Some((kind, body)) = record(&mut stream).await {
        if kind == 23 {
            return body.len() == 4 + 32 + 1 + 16;
        }
    }
    false
}
