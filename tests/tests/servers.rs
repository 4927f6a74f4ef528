//! The servers that other tests rely on are real, and come back with their data.

use std::time::Duration;

use anyhow::Result;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use system_tests::influx::BUCKET;
use system_tests::ledger::Answer;
use system_tests::{Influx, Ledger, Mosquitto};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

async fn oxygen(influx: &Influx) -> Result<Vec<f64>> {
    let flux =
        format!("from(bucket: \"{BUCKET}\") |> range(start: 0) |> filter(fn: (r) => r._measurement == \"water\")");
    influx.query(&flux).await?.iter().map(|row| Ok(row["_value"].parse()?)).collect()
}

#[tokio::test]
async fn a_line_written_to_influxdb_is_read_back_even_after_a_kill() -> Result<()> {
    let Some(mut influx) = Influx::start().await? else { return Ok(()) };
    let (status, answer) = influx.write("water,site=lianjiang,unit=pond-1 oxygen=6.25 1700000000000").await?;
    assert_eq!(status, 204, "{answer}");
    assert_eq!(oxygen(&influx).await?, [6.25]);

    influx.kill()?;
    influx.restart().await?;
    assert_eq!(oxygen(&influx).await?, [6.25]);
    Ok(())
}

#[tokio::test]
async fn influxdb_names_the_line_that_it_refuses() -> Result<()> {
    let Some(influx) = Influx::start().await? else { return Ok(()) };
    let (status, answer) = influx.write("water oxygen=1 1\nwater oxygen=NaN 2").await?;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("unable to parse 'water oxygen=NaN 2'"), "{answer}");
    assert!(oxygen(&influx).await?.is_empty());
    Ok(())
}

/// Connects, publishes one message to itself at QoS 1 and waits until it is back.
async fn echo(port: u16) -> Result<Vec<u8>> {
    let (client, mut connection) = AsyncClient::new(MqttOptions::new("servers", "127.0.0.1", port), 10);
    client.subscribe("echo", QoS::AtLeastOnce).await?;
    let conversation = async {
        loop {
            match connection.poll().await? {
                Event::Incoming(Packet::SubAck(_)) => {
                    client.publish("echo", QoS::AtLeastOnce, false, "6.25").await?;
                }
                Event::Incoming(Packet::Publish(message)) => return Ok(message.payload.to_vec()),
                _ => {}
            }
        }
    };
    tokio::time::timeout(ANSWER_WITHIN, conversation).await?
}

#[tokio::test]
async fn a_message_through_mosquitto_comes_back_even_after_a_kill() -> Result<()> {
    let Some(mut mosquitto) = Mosquitto::start("max_queued_messages 0").await? else { return Ok(()) };
    assert_eq!(echo(mosquitto.port()).await?, b"6.25");

    mosquitto.kill()?;
    mosquitto.restart().await?;
    assert_eq!(echo(mosquitto.port()).await?, b"6.25");
    Ok(())
}

#[tokio::test]
async fn the_ledger_shows_what_influxdb_hides() -> Result<()> {
    let ledger = Ledger::start().await?;
    // Stored, but the writer is told otherwise and so repeats it.
    ledger.answer(Answer { stored: true, status: 503, text: "too late".to_owned() });
    ledger.answer(Answer { stored: false, status: 429, text: "too many".to_owned() });
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = client.post(format!("{}/api/v2/write", ledger.url())).body("water oxygen=6.25 1\n");
        statuses.push(request.send().await?.status().as_u16());
    }
    assert_eq!(statuses, [503, 429, 204]);
    let lines = ledger.lines_when(ANSWER_WITHIN, |lines| lines.len() == 2).await?;
    assert_eq!(lines, ["water oxygen=6.25 1"; 2]);
    assert_eq!(ledger.requests(), 3);
    Ok(())
}
