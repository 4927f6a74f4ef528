//! TLS against a real rustls, and against servers that rustls would never be.

use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use sha2::Digest as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::*;
use crate::network::Setback;
use crate::network::tls::{Buffers, open};

mod liar;

struct Gateway {
    key: rcgen::KeyPair,
    certificate: CertificateDer<'static>,
    pin: [u8; 32],
}

fn gateway(algorithm: &'static rcgen::SignatureAlgorithm) -> Gateway {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let certificate = rcgen::CertificateParams::new(["gateway.farm".into()]).unwrap().self_signed(&key).unwrap();
    let pin = sha2::Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into();
    Gateway { key, certificate: certificate.der().clone(), pin }
}

/// Shows a certificate and signs with a key, whether they go together or not.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A gateway's TLS as `gateway/src/endpoint` makes it, with that certificate and that key.
fn acceptor(certificate: &Gateway, key: &Gateway) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.key.serialize_der()));
    let key = ring::sign::any_supported_type(&key).unwrap();
    let shown = Shown(Arc::new(CertifiedKey::new(vec![certificate.certificate.clone()], key)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.max_fragment_size = Some(2_048);
    TlsAcceptor::from(Arc::new(config))
}

/// What comes of a handshake with that pin, and of an echo over it.
async fn echo(acceptor: TlsAcceptor, pin: [u8; 32], message: &[u8]) -> Result<Vec<u8>, Setback> {
    // A pipe narrower than a record: each is read and written in pieces.
    let (near, far) = duplex(700);
    let server = async {
        let Ok(mut stream) = acceptor.accept(far).await else { return };
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            if stream.write_all(&bytes[..count]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    };
    let client = async {
        let (mut buffers, busy) = (Box::new(Buffers::new()), mqtt::Busy::new(false));
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut tls = open(FromTokio::new(near), &busy, &pin, &mut rng, &mut buffers).await?;
        assert!(!busy.get());
        let mut answer = Vec::new();
        for part in message.chunks(1_000) {
            embedded_io_async::Write::write_all(&mut tls, part).await.unwrap();
            embedded_io_async::Write::flush(&mut tls).await.unwrap();
            let mut bytes = vec![0; part.len()];
            embedded_io_async::Read::read_exact(&mut tls, &mut bytes).await.unwrap();
            assert!(!busy.get(), "whole records only");
            answer.extend(bytes);
        }
        Ok(answer)
    };
    let (answer, ()) = tokio::join!(client, server);
    answer
}

#[tokio::test]
async fn a_handshake_with_the_pinned_gateway_carries_what_is_said() {
    let gateway = gateway(&rcgen::PKCS_ECDSA_P256_SHA256);
    let message: Vec<u8> = (0..10_000).map(|n| n as u8).collect();
    assert_eq!(echo(acceptor(&gateway, &gateway), gateway.pin, &message).await, Ok(message));
}

#[tokio::test]
async fn a_gateway_with_another_key_is_refused_whatever_its_certificate_says() {
    let [pinned, other] = [(); 2].map(|()| gateway(&rcgen::PKCS_ECDSA_P256_SHA256));
    assert_eq!(echo(acceptor(&other, &other), pinned.pin, b"x").await, Err(Setback::Pin));
    for bit in [0, 100, 255] {
        let mut pin = pinned.pin;
        pin[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(echo(acceptor(&pinned, &pinned), pin, b"x").await, Err(Setback::Pin), "bit {bit}");
    }
}

#[tokio::test]
async fn the_pinned_certificate_in_the_hands_of_somebody_without_its_key_is_refused() {
    let [pinned, thief] = [(); 2].map(|()| gateway(&rcgen::PKCS_ECDSA_P256_SHA256));
    assert_eq!(echo(acceptor(&pinned, &thief), pinned.pin, b"x").await, Err(Setback::Tls));
}

#[tokio::test]
async fn a_server_that_leaves_its_certificate_out_is_refused() {
    let pinned = gateway(&rcgen::PKCS_ECDSA_P256_SHA256);
    let signed = |verify: bool| (pinned.certificate.to_vec(), verify);
    for (shown, expected) in
        [(None, Setback::Pin), (Some(signed(false)), Setback::Pin), (Some(signed(true)), Setback::Tls)]
    {
        let (near, far) = duplex(4_096);
        let (mut buffers, busy) = (Box::new(Buffers::new()), mqtt::Busy::new(false));
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let client = open(FromTokio::new(near), &busy, &pinned.pin, &mut rng, &mut buffers);
        let (opened, finished) = tokio::join!(client, liar::serve(far, shown.clone()));
        assert_eq!(opened.map(|_| ()), Err(expected), "{}", shown.is_some());
        // The lie is a good one: where nothing was signed, the handshake itself came to its end.
        assert_eq!(finished, expected == Setback::Pin);
    }
}

#[tokio::test]
async fn a_key_of_another_kind_is_refused_even_when_it_is_pinned() {
    let gateway = gateway(&rcgen::PKCS_ED25519);
    assert_eq!(echo(acceptor(&gateway, &gateway), gateway.pin, b"x").await, Err(Setback::Tls));
}

#[tokio::test]
async fn a_server_that_is_no_tls_or_falls_silent_is_refused() {
    for nonsense in [&b"\x20\x03\0\0\0"[..], b"\x15\x03\x03\0\x02\x02\x28", b"HTTP/1.1 400\r\n\r\n", b""] {
        let (near, mut far) = duplex(4_096);
        far.write_all(nonsense).await.unwrap();
        far.shutdown().await.unwrap();
        let (mut buffers, busy) = (Box::new(Buffers::new()), mqtt::Busy::new(false));
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let opened = open(FromTokio::new(near), &busy, &[1; 32], &mut rng, &mut buffers).await;
        assert_eq!(opened.map(|_| ()), Err(Setback::Tls), "{nonsense:?}");
    }
}

/// Carries bytes both ways; while `held` is set, what comes from the server stops after so many.
async fn relay(
    near: DuplexStream,
    far: DuplexStream,
    held: &std::sync::Mutex<Option<usize>>,
    go: &tokio::sync::Notify,
) {
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
        (tokio::io::split(near), tokio::io::split(far));
    let up = async { tokio::io::copy(&mut near_read, &mut far_write).await.map(|_| ()) };
    let down = async {
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = far_read.read(&mut bytes).await {
            let held = held.lock().unwrap().take().map_or(count, |held| held.min(count));
            near_write.write_all(&bytes[..held]).await?;
            if held < count {
                go.notified().await;
                near_write.write_all(&bytes[held..count]).await?;
            }
        }
        near_write.shutdown().await
    };
    // Either side may go first.
    tokio::select! { _ = up => {}, _ = down => {} }
}

#[tokio::test]
async fn a_message_waits_until_a_record_that_is_half_read_is_whole() {
    let gateway = gateway(&rcgen::PKCS_ECDSA_P256_SHA256);
    for held in [1, 5, 30] {
        let exchange = exchange();
        let (near, middle) = duplex(8_192);
        let (other_middle, far) = duplex(8_192);
        let (hold, go) = (std::sync::Mutex::new(None), tokio::sync::Notify::new());
        let (mut buffers, busy) = (Box::new(Buffers::new()), mqtt::Busy::new(false));
        let (settings, mut tx) = (settings(), [0; mqtt::TX_BYTES]);
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut image = exchange.image.lock().await;
        let client = async {
            let tls = open(FromTokio::new(near), &busy, &gateway.pin, &mut rng, &mut buffers).await.unwrap();
            mqtt::converse(tls, &busy, exchange, &settings, image.as_mut_slice(), &mut tx).await
        };
        let server = async {
            let stream = acceptor(&gateway, &gateway).accept(far).await.unwrap();
            let mut server = Server(stream);
            server.welcome().await;
            connected(exchange).await;
            *hold.lock().unwrap() = Some(held);
            server.publish("ty/1/pond-7/down/receipt", b"receipt").await;
            // The node has begun to read the record when nothing of it is on the way any more.
            while !busy.get() {
                tokio::task::yield_now().await;
            }
            assert!(exchange.outbox.push(Up::Session, b"meanwhile"));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            go.notify_one();
            assert_eq!(exchange.down.receive().await.payload, b"receipt");
            let (_, _, payload) = server.published().await;
            assert_eq!(payload, b"meanwhile");
        };
        let all = async { tokio::join!(client, server) };
        let over = tokio::time::timeout(core::time::Duration::from_secs(20), async {
            tokio::select! {
                (over, ()) = all => over,
                () = relay(middle, other_middle, &hold, &go) => Err(Failure::Lost),
            }
        });
        assert_eq!(over.await.unwrap(), Err(Failure::Lost), "the server went away, {held} bytes held");
        assert!(exchange.connection().up, "the connection had stood");
    }
}
