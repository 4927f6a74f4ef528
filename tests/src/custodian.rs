//! A node as far as custody goes, over real MQTT: it keeps every record until the gateway's own
//! sealed receipt, and knows afterwards exactly what it was told. No instruments, no flash: what
//! is tested with it is the gateway.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rumqttc::{AsyncClient, ConnectionError, Event, MqttOptions, Packet, QoS};
use telemetry::limits::UNRECEIPTED_RECORDS_MAX;
use telemetry::mac::Key;
use telemetry::quality::Quality;
use telemetry::record::{ChannelDescription, Description, Reading, Record, Round};
use telemetry::report::ReportWriter;
use telemetry::session::{Anchor, Nonce, Open, Ready, Receipt, Session};
use telemetry::topic::{self, Down, Up};
use telemetry::{NodeName, Property};

use crate::Tianyu;

/// Pause of a node whose log-in was refused: further refusals are answered late.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// How a node works.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Time between two rounds.
    pub every: Duration,
    /// Most rounds of one report, at first.
    pub report_rounds: u32,
    /// Without progress for this long, a session is opened anew.
    pub patience: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self { every: Duration::from_millis(5), report_rounds: 24, patience: Duration::from_millis(800) }
    }
}

impl From<Duration> for Habits {
    /// A round every so often, and the rest as usual.
    fn from(every: Duration) -> Self {
        Self { every, ..Self::default() }
    }
}

/// The node; it runs until it is dropped.
#[derive(Debug)]
pub struct Custodian {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: NodeName,
    /// Every record ever made; the index is its seq.
    records: Mutex<Vec<Record>>,
    released: AtomicU32,
    /// Messages that the endpoint or the broker has acknowledged.
    acknowledged: AtomicU32,
    habits: Habits,
    report_rounds: AtomicU32,
    producing: AtomicBool,
    started: Instant,
}

impl Custodian {
    /// Makes credentials with `tianyu node add` and starts delivering to MQTT at `port`: rounds of
    /// one dissolved-oxygen reading, each with a value of its own. A gateway that runs already
    /// reads credentials again only from time to time: start it afterwards.
    ///
    /// # Errors
    /// When the credentials cannot be made.
    pub async fn start(tianyu: &Tianyu, name: &str, port: u16, habits: impl Into<Habits>) -> Result<Self> {
        let habits = habits.into();
        let (status, lines) = tianyu.command(&["node", "add", name], Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "tianyu node add {name}: {lines:?}");
        let value = |key: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim().to_owned()).with_context(|| format!("no {key} in {lines:?}"))
        };
        let token = value("token")?;
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&value("key")?[2 * at..2 * at + 2], 16)?;
        }
        let name = NodeName::new(name)?;
        let shared = Arc::new(Shared {
            name,
            records: Mutex::new(vec![Record::Description(description())]),
            released: AtomicU32::new(0),
            acknowledged: AtomicU32::new(0),
            habits,
            report_rounds: AtomicU32::new(habits.report_rounds),
            producing: AtomicBool::new(true),
            started: Instant::now(),
        });
        let task = tokio::spawn(Arc::clone(&shared).run(token, Key::new(key), port));
        Ok(Self { shared, task })
    }

    /// Stops making rounds; delivery goes on. How many there are.
    pub fn stop_producing(&self) -> u32 {
        self.shared.producing.store(false, Ordering::SeqCst);
        self.shared.len() - 1
    }

    /// Cuts reports of at most so many rounds from now on.
    pub fn cut(&self, report_rounds: u32) {
        self.shared.report_rounds.store(report_rounds, Ordering::SeqCst);
    }

    /// Makes rounds again.
    pub fn go_on_producing(&self) {
        self.shared.producing.store(true, Ordering::SeqCst);
    }

    /// Records that the gateway has receipted, the description included.
    #[must_use]
    pub fn released(&self) -> u32 {
        self.shared.released.load(Ordering::SeqCst)
    }

    /// Messages that the endpoint or the broker has acknowledged; to the node that means nothing.
    #[must_use]
    pub fn acknowledged(&self) -> u32 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Whether everything made so far is receipted.
    #[must_use]
    pub fn done(&self) -> bool {
        self.released() >= self.shared.len()
    }
}

impl Drop for Custodian {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn description() -> Description {
    let channel =
        ChannelDescription { channel: 0, property: Property::DissolvedOxygen.id(), calibration: 0, period_s: 1 };
    Description {
        t_ms: 0,
        config: 1,
        digest: 1,
        drift_ppm: 40,
        firmware: heapless::String::new(),
        board: heapless::String::new(),
        channels: [channel].into_iter().collect(),
        actuators: heapless::Vec::new(),
    }
}

/// One connection's conversation.
struct Talk {
    client: AsyncClient,
    nonce: Nonce,
    opened_ms: u64,
    opened: Instant,
    ready: bool,
    sent: u32,
    progress: Instant,
}

impl Shared {
    fn records(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.records().len()).unwrap_or(u32::MAX)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(self: Arc<Self>, token: String, key: Key, port: u16) {
        let mut ticks = tokio::time::interval(self.habits.every);
        let mut sessions = 0u64;
        loop {
            let mut options = MqttOptions::new(self.name.as_str(), "127.0.0.1", port);
            options.set_credentials(self.name.as_str(), token.as_str()).set_clean_session(true);
            let (client, mut events) = AsyncClient::new(options, 256);
            let mut talk = Talk {
                client,
                nonce: Nonce([0; 8]),
                opened_ms: 0,
                opened: Instant::now(),
                ready: false,
                sent: 0,
                progress: Instant::now(),
            };
            let (mut connected, mut subscribed) = (false, false);
            let filter = format!("{}/{}/down/#", topic::PREFIX, self.name);
            if talk.client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                continue;
            }
            loop {
                tokio::select! {
                    // Not before it is connected: what is polled then is the connecting itself, and
                    // each tick would begin it anew. Rounds that are due are made up for.
                    _ = ticks.tick(), if connected => {
                        self.produce();
                        if subscribed && talk.progress.elapsed() > self.habits.patience && !self.all_released() {
                            sessions += 1;
                            self.open(&mut talk, sessions);
                        }
                        self.send(&mut talk);
                    }
                    event = events.poll() => match event {
                        Ok(Event::Incoming(Packet::ConnAck(_))) => connected = true,
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            subscribed = true;
                            sessions += 1;
                            self.open(&mut talk, sessions);
                        }
                        Ok(Event::Incoming(Packet::Publish(p))) => {
                            self.receive(&mut talk, &key, &p.payload);
                            self.send(&mut talk);
                        }
                        Ok(Event::Incoming(Packet::PubAck(_))) => {
                            self.acknowledged.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(_) => {}
                        Err(ConnectionError::ConnectionRefused(_)) => {
                            tokio::time::sleep(REFUSED_PAUSE).await;
                            break;
                        }
                        // The gateway is gone, or has closed: begin anew at the next tick.
                        Err(_) => break,
                    },
                }
            }
            ticks.tick().await;
            self.produce();
        }
    }

    fn all_released(&self) -> bool {
        self.released.load(Ordering::SeqCst) >= self.len()
    }

    fn produce(&self) {
        if self.producing.load(Ordering::SeqCst) {
            let t_ms = self.now_ms();
            let mut records = self.records();
            // Two rounds never share an instant, and no two rounds a value.
            let last = records.last().and_then(Record::t_ms).unwrap_or(0);
            let value = i32::try_from(records.len()).unwrap_or(i32::MAX);
            let reading = Reading { channel: 0, value, raw: None, quality: Quality::GOOD };
            let t_ms = t_ms.max(last + 1);
            records.push(Record::Round(Round { t_ms, config: 1, readings: [reading].into_iter().collect() }));
        }
    }

    fn open(&self, talk: &mut Talk, session: u64) {
        talk.nonce = Nonce((session ^ u64::from(std::process::id()) << 32).to_be_bytes());
        (talk.opened_ms, talk.opened) = (self.now_ms(), Instant::now());
        (talk.ready, talk.progress) = (false, Instant::now());
        // What was receipted is released: the node no longer holds it.
        let floor = self.released.load(Ordering::SeqCst);
        let open = Open { nonce: talk.nonce, ring: 7, boot: 1, floor, next: self.len(), mono_ms: talk.opened_ms };
        self.say(talk, &Session::Open(open));
    }

    fn say(&self, talk: &Talk, session: &Session) {
        let mut bytes = [0; 512];
        if let Ok(length) = session.encode(&mut bytes) {
            self.publish(talk, Up::Session, &bytes[..length]);
        }
    }

    fn publish(&self, talk: &Talk, channel: Up, bytes: &[u8]) -> bool {
        let topic = topic::up(&self.name, channel);
        talk.client.try_publish(topic.as_str(), QoS::AtLeastOnce, false, bytes.to_vec()).is_ok()
    }

    fn receive(&self, talk: &mut Talk, key: &Key, message: &[u8]) {
        let Ok(body) = key.open(&self.name, Down::Receipt, talk.nonce, message) else { return };
        let Ok(receipt) = Receipt::decode(body) else { return };
        if !talk.ready
            && let Some(utc_ms) = receipt.utc_ms
        {
            let error_ms = u32::try_from(talk.opened.elapsed().as_millis()).unwrap_or(u32::MAX);
            let anchor = Anchor { boot: 1, mono_ms: talk.opened_ms, utc_ms, error_ms, drift_ppm: 40 };
            let ready = Ready { nonce: talk.nonce, ring: 7, anchors: [anchor].into_iter().collect() };
            self.say(talk, &Session::Ready(ready));
            (talk.ready, talk.sent) = (true, receipt.next);
        }
        if receipt.next > self.released.fetch_max(receipt.next, Ordering::SeqCst) {
            talk.progress = Instant::now();
        }
    }

    fn send(&self, talk: &mut Talk) {
        let released = self.released.load(Ordering::SeqCst);
        let records = self.records();
        let end = u32::try_from(records.len()).unwrap_or(u32::MAX).min(released + UNRECEIPTED_RECORDS_MAX);
        let report_rounds = self.report_rounds.load(Ordering::SeqCst);
        while talk.ready && talk.sent < end {
            let mut bytes = [0; 1024];
            let mut writer = ReportWriter::new(&mut bytes, 7, talk.sent, 1, self.now_ms());
            for record in &records[talk.sent as usize..end.min(talk.sent + report_rounds) as usize] {
                if writer.push(record).is_err() {
                    break;
                }
            }
            let count = writer.count();
            match writer.finish() {
                Ok(length) if self.publish(talk, Up::Report, &bytes[..length]) => talk.sent += count,
                // The client's queue is full: the next tick goes on.
                _ => return,
            }
        }
    }
}
