//! What a person wants of a node: a config to run, a channel to be calibrated. Sealed for the node's
//! session, so that nothing old can be sent to it again, and followed until the node says what became
//! of it.
//!
//! A config waits for its node, one a node, the newest; a command does not: it expires.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use telemetry::limits::CONTROL_BYTES_MAX;
use telemetry::mac::{Key, MAC_BYTES};
use telemetry::record::{ChannelDescription, Description, EventCode, Record, Round};
use telemetry::session::{Command, Nonce, Order};
use telemetry::topic::Down;
use telemetry::{NodeName, Property};

use super::{Acceptor, session};
use crate::configs::{Configs, ConfigsError, Line, What};
use crate::custody::Sent;
use crate::entry::{Accepted, Content};

/// A config is sent to a session so often at most, and no sooner than so long after the last time: it
/// travels without acknowledgement, and a node that has it says so within a report's time.
const SENDS_MAX: u8 = 5;
const SEND_AGAIN: Duration = Duration::from_secs(30);
/// A command must not be obeyed later than so long after it was given.
const OBEY_WITHIN_MS: i64 = 30_000;
/// Longest wait for the answer to a command: its report's way here included.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// Answers that are remembered.
const ANSWERS_MAX: usize = 64;
/// What an image needs around it when it is sealed.
const SEAL_BYTES: usize = MAC_BYTES + 16;

/// Orders that are under way.
pub(super) struct Orders {
    configs: Configs,
    core: Mutex<Core>,
    answered: Condvar,
}

#[derive(Default)]
struct Core {
    pending: HashMap<NodeName, Pending>,
    answers: VecDeque<(NodeName, u32, i64)>,
    newest: HashMap<NodeName, (i64, Round)>,
    /// Counter of the last command.
    commanded: u32,
}

/// A config that its node shall have.
struct Pending {
    number: u16,
    image: Vec<u8>,
    sent: Option<(Nonce, u8, Instant)>,
}

/// What a node says of its orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It runs this config, of this digest.
    Runs(u16, u32),
    /// It has given this one up, for this reason.
    GaveUp(u16, i64),
    /// It answers a command.
    Answer(u32, i64),
}

/// Why an order is not given.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such node.
    #[error("there is no node \"{0}\" with credentials; see: tianyu node list")]
    Unknown(String),
    /// It could not be reached.
    #[error("\"{0}\" is not connected: try again when it is")]
    Away(NodeName),
    /// When it is now on the node's clock is not known.
    #[error("the clock of \"{0}\" is not known yet, so the order could not expire: try again in a minute")]
    Clockless(NodeName),
    /// No answer came.
    #[error("\"{0}\" has not answered within {1} s; the order has expired")]
    Silent(NodeName, u64),
    /// It will not.
    #[error("\"{node}\" refuses: {why}")]
    Refused {
        /// The node.
        node: NodeName,
        /// Why.
        why: &'static str,
    },
    /// It would mix two channels up.
    #[error("{0}")]
    Merges(String),
    /// Kept configs.
    #[error(transparent)]
    Configs(#[from] ConfigsError),
    /// It cannot be told.
    #[error("the order is too long to be sent")]
    TooLong,
}

/// Code of the event by which a node says that it has given a config up.
const GIVEN_UP: u8 = 9;

/// What of an entry concerns orders.
pub(super) fn news(accepted: &Accepted) -> Vec<News> {
    let mut news = Vec::new();
    for record in &accepted.records {
        match &record.content {
            Content::Event { code, value, detail, .. } => {
                let number = u16::try_from(*value);
                if *code == EventCode::ConfigApplied.id()
                    && let (Ok(number), Ok(digest)) = (number, u32::try_from(*detail))
                {
                    news.push(News::Runs(number, digest));
                } else if *code == GIVEN_UP
                    && let Ok(number) = number
                {
                    news.push(News::GaveUp(number, *detail));
                } else if *code == EventCode::CommandAnswered.id()
                    && let Ok(counter) = u32::try_from(*value)
                {
                    news.push(News::Answer(counter, *detail));
                }
            }
            Content::Description(bytes) => {
                if let Ok((_, Record::Description(it))) = Record::decode(bytes) {
                    news.push(News::Runs(it.config, it.digest));
                }
            }
            _ => {}
        }
    }
    news
}

/// Why a node has given a config up (CUSTODY.md, table "given up").
fn given_up(reason: i64) -> &'static str {
    match reason {
        1 => "a channel that control looks at has not had one value",
        2 => "its description was not acknowledged in time",
        3 => "the node was booted too often before it was confirmed",
        4 => "a person at the node said so",
        5 => "the node does not take it: it is not valid there",
        _ => "for a reason that this program does not know",
    }
}

/// Why a node refuses a command (CUSTODY.md, table "outcomes").
fn refusal(outcome: i64) -> &'static str {
    match outcome {
        1 => "it has no such channel or actuator",
        2 => "oxygen is low, or nobody can be sure that it is not",
        3 => "the actuator stands in its safe state, or in for a broken one",
        4 => "an interlock forces the actuator",
        5 => "the actuator is switched by hand",
        6 => "aerators run at night",
        _ => "for a reason that this program does not know",
    }
}

impl Orders {
    /// Takes up what was under way when the gateway stopped.
    pub(super) fn open(data_dir: &Path) -> Self {
        let configs = Configs::of(data_dir);
        let mut core = Core::default();
        match configs.nodes() {
            Ok(nodes) => {
                for node in nodes {
                    match waiting(&configs, &node) {
                        Ok(Some(pending)) => drop(core.pending.insert(node, pending)),
                        Ok(None) => {}
                        Err(error) => tracing::error!(%node, %error, "a pushed config is not sent"),
                    }
                }
            }
            Err(error) => tracing::error!(%error, "pushed configs are not sent"),
        }
        Self { configs, core: Mutex::new(core), answered: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest round of a node, and when it came.
    pub(super) fn learn(&self, node: &NodeName, now_ms: i64, round: &Round) {
        self.lock().newest.insert(node.clone(), (now_ms, round.clone()));
    }

    /// A node has said something, durably.
    pub(super) fn hear(&self, node: &NodeName, news: &[News]) {
        for it in news {
            if let Err(error) = self.follow(node, *it) {
                tracing::error!(%node, ?it, %error, "what became of an order is not kept");
            }
        }
    }

    fn follow(&self, node: &NodeName, news: News) -> Result<(), ConfigsError> {
        let (number, line) = match news {
            News::Answer(counter, outcome) => {
                let mut core = self.lock();
                if core.answers.len() == ANSWERS_MAX {
                    core.answers.pop_front();
                }
                core.answers.push_back((node.clone(), counter, outcome));
                self.answered.notify_all();
                return Ok(());
            }
            News::Runs(number, digest) => (number, Line { digest: Some(digest), ..Line::of(number, What::Taken) }),
            News::GaveUp(number, reason) => {
                (number, Line { why: given_up(reason).to_owned(), ..Line::of(number, What::GivenUp) })
            }
        };
        let versions = self.configs.versions(node)?;
        let Some(version) = versions.iter().find(|it| it.number == number) else { return Ok(()) };
        // Descriptions come again at every boot, and one from before is no word on the one pushed.
        let is_news = match line.what {
            What::Taken => matches!(version.state, What::Kept | What::Pushed | What::Sent),
            _ => version.state != What::GivenUp,
        };
        if is_news && line.digest.is_some_and(|digest| digest != version.digest) {
            tracing::warn!(%node, number, "the node runs another config under this number; push it under the next");
        }
        if is_news && line.digest.is_none_or(|digest| digest == version.digest) {
            tracing::info!(%node, number, what = ?line.what, why = line.why, "a config");
            self.configs.note(node, &line)?;
            let mut core = self.lock();
            if core.pending.get(node).is_some_and(|it| it.number == number) {
                core.pending.remove(node);
            }
        }
        Ok(())
    }
}

/// The config that a node has been pushed last, while nobody knows what became of it.
fn waiting(configs: &Configs, node: &NodeName) -> Result<Option<Pending>, ConfigsError> {
    let versions = configs.versions(node)?;
    let newest = versions.iter().rev().find(|it| it.state != What::Kept);
    match newest.filter(|it| matches!(it.state, What::Pushed | What::Sent)) {
        Some(it) => Ok(Some(Pending { number: it.number, image: configs.image(node, it.number)?, sent: None })),
        None => Ok(None),
    }
}

impl Acceptor {
    /// Gives a node a config that is kept already; `channels` are the properties that it measures.
    /// What will become of it, in words.
    ///
    /// # Errors
    /// When the node is unknown, or two of its channels would share a series.
    pub fn push_config(&self, node: &str, number: u16, channels: &[u8], by: &str) -> Result<String, OrderError> {
        let name = self.known(node)?;
        let described = describe(number, channels);
        let complaints = self.lock().registry.shared_series(node, &described);
        if !complaints.is_empty() {
            return Err(OrderError::Merges(crate::listing(&complaints)));
        }
        let image = self.orders.configs.image(&name, number)?;
        {
            let mut core = self.orders.lock();
            if let Some(before) = core.pending.get(&name).filter(|it| it.number != number) {
                let line = Line { by: by.to_owned(), ..Line::of(before.number, What::Superseded) };
                self.orders.configs.note(&name, &line)?;
            }
            let line = Line { by: by.to_owned(), ..Line::of(number, What::Pushed) };
            self.orders.configs.note(&name, &line)?;
            core.pending.insert(name.clone(), Pending { number, image, sent: None });
        }
        Ok(match self.offer_config(&name) {
            Some(Sent::Queued) => format!("config {number} is sent to \"{name}\""),
            _ => format!("config {number} waits until \"{name}\" is connected"),
        })
    }

    /// Sends configs that wait to nodes that are there.
    pub fn offer_configs(&self) {
        let nodes: Vec<_> = self.orders.lock().pending.keys().cloned().collect();
        for node in nodes {
            self.offer_config(&node);
        }
    }

    fn offer_config(&self, node: &NodeName) -> Option<Sent> {
        let (key, nonce) = self.session_of(node)?;
        let (number, sealed, times) = {
            let core = self.orders.lock();
            let pending = core.pending.get(node)?;
            let times = match pending.sent {
                Some((before, times, at)) if before == nonce => {
                    if times >= SENDS_MAX || at.elapsed() < SEND_AGAIN {
                        return None;
                    }
                    times
                }
                _ => 0,
            };
            let mut sealed = vec![0; pending.image.len() + SEAL_BYTES];
            let length = key.seal(node, Down::Config, nonce, &pending.image, &mut sealed).ok()?;
            sealed.truncate(length);
            (pending.number, Bytes::from(sealed), times)
        };
        let sent = self.downlinks.send(node, Down::Config, sealed);
        if sent != Sent::Queued {
            return Some(sent);
        }
        {
            let mut core = self.orders.lock();
            let pending = core.pending.get_mut(node).filter(|it| it.number == number)?;
            pending.sent = Some((nonce, times + 1, Instant::now()));
        }
        let line = Line::of(number, What::Sent);
        if times == 0
            && let Err(error) = self.orders.configs.note(node, &line)
        {
            tracing::error!(%node, number, %error, "that a config was sent is not kept");
        }
        Some(sent)
    }

    /// Has a node mark a channel as being calibrated for so long, or with 0 no longer; waits until it
    /// says that it does.
    ///
    /// # Errors
    /// When it is not there, does not answer, or refuses.
    pub fn calibrate(&self, node: &str, channel: u8, for_s: u32) -> Result<(), OrderError> {
        let name = self.known(node)?;
        let (key, nonce) = self.session_of(&name).ok_or_else(|| OrderError::Away(name.clone()))?;
        let now = self.clock.utc();
        let mono_ms = self.node_mono_ms(&name, now.ms).filter(|_| now.known_good);
        let mono_ms = mono_ms.ok_or_else(|| OrderError::Clockless(name.clone()))?;
        let counter = {
            let mut core = self.orders.lock();
            // As in `offer_utc`: rises also across a restart of the gateway.
            core.commanded = ((now.ms / 100) as u32).max(core.commanded.wrapping_add(1));
            core.commanded
        };
        let not_after_ms = mono_ms.saturating_add_signed(OBEY_WITHIN_MS);
        let command = Command { counter, not_after_ms, order: Order::Calibrate { channel, for_s } };
        let mut body = [0; CONTROL_BYTES_MAX];
        let length = command.encode(&mut body).map_err(|_| OrderError::TooLong)?;
        let sealed = session::seal(&name, &key, Down::Command, nonce, &body[..length]).ok_or(OrderError::TooLong)?;
        if self.downlinks.send(&name, Down::Command, sealed) != Sent::Queued {
            return Err(OrderError::Away(name));
        }
        let until = Instant::now() + ANSWER_WITHIN;
        let mut core = self.orders.lock();
        loop {
            let mine = core.answers.iter().find(|(of, number, _)| (of, *number) == (&name, counter));
            match mine {
                Some((.., 0)) => return Ok(()),
                Some((.., outcome)) => return Err(OrderError::Refused { node: name, why: refusal(*outcome) }),
                None => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(OrderError::Silent(name, ANSWER_WITHIN.as_secs()));
            }
            let waited = self.orders.answered.wait_timeout(core, left);
            core = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The newest round that a node has shown since this gateway started, and when it came.
    pub fn newest(&self, node: &str) -> Result<Option<(i64, Round)>, OrderError> {
        let name = self.known(node)?;
        Ok(self.orders.lock().newest.get(&name).cloned())
    }

    fn known(&self, node: &str) -> Result<NodeName, OrderError> {
        let name = NodeName::new(node).ok().filter(|name| self.lock().credentials.known(name));
        name.ok_or_else(|| OrderError::Unknown(node.to_owned()))
    }

    fn session_of(&self, node: &NodeName) -> Option<(Key, Nonce)> {
        let mut core = self.lock();
        let nonce = core.nodes.get(node)?.session?.nonce;
        Some((core.key(node), nonce))
    }

    /// What the clock of a node's present boot shows now, by its anchors.
    fn node_mono_ms(&self, node: &NodeName, now_ms: i64) -> Option<u64> {
        let core = self.lock();
        let state = core.nodes.get(node)?;
        let session = state.session?;
        let anchors = &state.ring(session.ring)?.anchors;
        let anchor = anchors.iter().rfind(|it| it.boot == session.boot)?;
        Some(anchor.mono_ms.saturating_add_signed(now_ms.saturating_sub(anchor.utc_ms)))
    }
}

/// A description as far as series go.
fn describe(config: u16, channels: &[u8]) -> Description {
    let known = (0u8..).zip(channels).filter(|(_, property)| Property::from_id(**property).is_some());
    let channels = known.map(|(channel, property)| ChannelDescription {
        channel,
        property: *property,
        calibration: 0,
        period_s: 0,
    });
    let mut described = Description {
        t_ms: 0,
        config,
        digest: 0,
        drift_ppm: 0,
        firmware: Default::default(),
        board: Default::default(),
        channels: Default::default(),
        actuators: Default::default(),
    };
    for channel in channels {
        // A node has no more of them than there is room for.
        let _fits = described.channels.push(channel);
    }
    described
}
