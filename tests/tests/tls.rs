//! Nodes that speak TLS to the shipped gateway, with certificate files as a farm has them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use system_tests::Station;
use system_tests::custodian::Habits;
use system_tests::station::{NODES, NOWHERE, WITHIN, answer_over_mqtt5};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A node's TLS layer: what comes in plain on the returned port goes to `gateway` in TLS, which
/// must show the certificate `pinned`. Ended when the test's runtime ends.
async fn tunnel(gateway: u16, pinned: CertificateDer<'static>) -> Result<u16> {
    let mut roots = RootCertStore::empty();
    roots.add(pinned)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                // A gateway that is away, or another one: the node sees its connection end.
                let stream = TcpStream::connect(("127.0.0.1", gateway)).await?;
                let name = ServerName::try_from("gateway.farm").map_err(std::io::Error::other)?;
                let mut secure = connector.connect(name, stream).await?;
                tokio::io::copy_bidirectional(&mut plain, &mut secure).await
            });
        }
    });
    Ok(port)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_deliver_over_tls_through_kills_and_nobody_gets_in_without() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()])?;
    let mut station = Station::new(Some(NOWHERE), "")?;
    station.tianyu.file("gateway.crt", &made.cert.pem())?;
    station.tianyu.file("gateway.key", &made.signing_key.serialize_pem())?;
    let config = std::fs::read_to_string(station.tianyu.directory().join("tianyu.toml"))?;
    let secure = config.replace("[api]", "certificate = \"gateway.crt\"\nkey = \"gateway.key\"\n[api]");
    station.tianyu.file("tianyu.toml", &secure)?;
    let (status, lines) = station.tianyu.command(&["check", "tianyu.toml"], WITHIN).await?;
    ensure!(status.success(), "{lines:?}");

    let gateway = station.mqtt;
    let token = station.token(NODES[5]).await?;
    station.mqtt = tunnel(gateway, made.cert.der().clone()).await?;
    station.begin(3, Habits::default()).await?;
    for _ in 0..3 {
        station.progress(50).await?;
        station.tianyu.kill()?;
        station.start().await?;
    }
    ensure!(answer_over_mqtt5(station.mqtt, NODES[5], &token).await?.is_none());

    // In plain, with the right token: no MQTT is spoken, and the connection ends.
    let plain = answer_over_mqtt5(gateway, NODES[5], &token).await;
    ensure!(plain.is_err(), "{plain:?}");
    let mut stream = TcpStream::connect(("127.0.0.1", gateway)).await?;
    stream.write_all(&[0x10, 0x0C, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 0]).await?;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    // It may also be reset, which is an end as well.
    drop(ended.context("the connection stays open")?);
    ensure!(answer.first() != Some(&0x20), "it answered in plain: {answer:?}");
    // A node that pins another key does not deliver to this gateway.
    let other = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()])?;
    let wrong = tunnel(gateway, other.cert.der().clone()).await?;
    ensure!(answer_over_mqtt5(wrong, NODES[5], &token).await.is_err());
    ensure!(station.counter("tianyu_endpoint_tls_failures_total", "").await? >= 2.0);

    station.settle().await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_whose_certificate_cannot_be_used_says_so_and_does_not_start() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()])?;
    let other = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()])?;
    let station = Station::new(Some(NOWHERE), "")?;
    let config = std::fs::read_to_string(station.tianyu.directory().join("tianyu.toml"))?;
    let secure = config.replace("[api]", "certificate = \"gateway.crt\"\nkey = \"gateway.key\"\n[api]");
    station.tianyu.file("tianyu.toml", &secure)?;
    for (certificate, key, said) in [
        (Some(made.cert.pem()), None, "gateway.key"),
        (None, Some(made.signing_key.serialize_pem()), "gateway.crt"),
        (Some(made.cert.pem()), Some(other.signing_key.serialize_pem()), "certificate and key"),
        (Some("no PEM".to_owned()), Some(made.signing_key.serialize_pem()), "certificate"),
    ] {
        for (name, content) in [("gateway.crt", certificate), ("gateway.key", key)] {
            let path = station.tianyu.file(name, content.as_deref().unwrap_or_default())?;
            if content.is_none() {
                std::fs::remove_file(path)?;
            }
        }
        let (status, lines) = station.tianyu.command(&["run", "--config", "tianyu.toml"], WITHIN).await?;
        ensure!(!status.success() && lines.iter().any(|line| line.contains(said)), "{said}: {lines:?}");
    }
    Ok(())
}
