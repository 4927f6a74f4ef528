//! The emulated board speaks TLS 1.3 to the real gateway, whose key it has pinned, and to no other.

use anyhow::{Context as _, Result, ensure};
use system_tests::board::Pond;
use system_tests::station::{NOWHERE, Station, WITHIN};
use system_tests::until;

/// A certificate for the gateway, with the SHA-256 of its public key.
fn certify(station: &Station) -> Result<[u8; 32]> {
    let made = rcgen::generate_simple_self_signed(["gateway.farm".to_owned()])?;
    station.tianyu.file("gateway.crt", &made.cert.pem())?;
    station.tianyu.file("gateway.key", &made.signing_key.serialize_pem())?;
    let key = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
    let sum = tokio_rustls::rustls::crypto::ring::default_provider();
    let hash = sum.cipher_suites.iter().filter_map(|suite| suite.tls13());
    let hash = hash.map(|suite| suite.common.hash_provider).find(|hash| hash.output_len() == 32);
    let digest = hash.context("a suite with SHA-256")?.hash(&key);
    digest.as_ref().try_into().context("32 bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_pins_its_gateways_key_and_refuses_a_gateway_whose_key_has_changed() -> Result<()> {
    let station = Station::new(Some(NOWHERE), "")?;
    let pin = certify(&station)?;
    let config = std::fs::read_to_string(station.tianyu.directory().join("tianyu.toml"))?;
    let secure = config.replace("[api]", "certificate = \"gateway.crt\"\nkey = \"gateway.key\"\n[api]");
    station.tianyu.file("tianyu.toml", &secure)?;
    let Some(mut pond) = Pond::over_tls(station, pin).await? else { return Ok(()) };
    pond.provision().await?;
    pond.stored("a round over TLS", |_, _| true).await?;
    println!("measured: {}", pond.board.status().await?.lines().last().unwrap_or_default());

    // The same gateway with another key: the node tells it apart, and keeps what it has.
    pond.station.tianyu.kill()?;
    let _other = certify(&pond.station)?;
    pond.station.start().await?;
    let before = pond.history()?.len();
    let status = until("a refused key", WITHIN, || async {
        pond.board.status().await.ok().filter(|status| !status.contains("other key 0"))
    })
    .await?;
    ensure!(pond.history()?.len() == before, "something was delivered to another key: {status}");
    Ok(())
}
