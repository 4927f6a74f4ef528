//! One connection: CONNECT, then messages up and down until it ends.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use metrics::counter;
use telemetry::NodeName;
use telemetry::topic::{self, Up};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Endpoint;
use super::wire::{self, Connect, Incoming, Reason, Refusal, Told, Version, Will};
use crate::custody::{Arrival, Closing, Link, Login, Reply, Verdict};

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// How a connection ended.
enum End {
    /// By the client's word, or with nothing left to say to it.
    Quiet,
    /// The client's last will is due.
    Abrupt,
    /// The endpoint says why and closes.
    Because(Reason),
}

/// Messages that wait for their verdict, in the order of their PUBACKs.
#[derive(Default)]
struct Pending {
    queue: Mutex<Queue>,
    notify: Notify,
}

#[derive(Default)]
struct Queue {
    /// Number of the message at the front.
    front: u64,
    messages: VecDeque<(u16, Option<Verdict>)>,
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// A place at the end, and the reply that fills it.
    fn reply(self: &Arc<Self>, id: u16) -> Reply {
        let number = {
            let mut queue = self.lock();
            queue.messages.push_back((id, None));
            queue.front + queue.messages.len() as u64 - 1
        };
        let pending = Arc::clone(self);
        Reply::new(move |verdict| {
            {
                let mut queue = pending.lock();
                let at = number.checked_sub(queue.front).and_then(|at| usize::try_from(at).ok());
                if let Some((_, slot)) = at.and_then(|at| queue.messages.get_mut(at)) {
                    *slot = Some(verdict);
                }
            }
            pending.notify.notify_one();
        })
    }

    /// The next message to be acknowledged; `Err` when it was refused.
    fn next(&self) -> Option<Result<u16, ()>> {
        let mut queue = self.lock();
        let (id, verdict) = *queue.messages.front()?;
        let result = match verdict? {
            Verdict::Done => Ok(id),
            Verdict::Refused => Err(()),
        };
        queue.messages.pop_front();
        queue.front += 1;
        Some(result)
    }
}

struct Connection<'e, S> {
    endpoint: &'e Endpoint,
    stream: S,
    version: Version,
    node: NodeName,
    link: Arc<Link>,
    pending: Arc<Pending>,
    incoming: BytesMut,
    outgoing: BytesMut,
    client_packet_max: u32,
    /// It has subscribed to some of its down topics.
    listening: bool,
}

/// Serves one connection to its end.
pub(super) async fn serve<S>(endpoint: &Endpoint, mut stream: S, peer: IpAddr, by: Instant, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut incoming = BytesMut::with_capacity(READ_BYTES);
    let hello = tokio::time::timeout_at(by, hello(endpoint, &mut stream, &mut incoming)).await;
    let Ok(Some((version, connect))) = hello else {
        counter!("tianyu_endpoint_no_connect_total").increment(1);
        return;
    };
    let mut outgoing = BytesMut::new();
    let node = match admit(endpoint, &connect) {
        Ok(node) => node,
        Err(refusal) => {
            if refusal == Refusal::NotAuthorized {
                if endpoint.login_failed(peer) {
                    // It holds one of its own connections meanwhile, and nobody else's.
                    tokio::time::sleep(endpoint.limits.failed_login_pause).await;
                } else {
                    tracing::warn!(%peer, user = connect.user.escape_debug().to_string(), "log-in refused");
                }
            }
            if wire::connack(version, &mut outgoing, Err(refusal)).is_ok() {
                send(&mut stream, &mut outgoing, endpoint.limits.write_within).await;
            }
            return;
        }
    };
    let keep_alive = match connect.keep_alive_s {
        0 => endpoint.limits.keep_alive_max,
        s => Duration::from_secs(s.into()).min(endpoint.limits.keep_alive_max),
    };
    let told = Told {
        in_flight_max: endpoint.limits.in_flight_max,
        packet_max: u32::try_from(endpoint.limits.packet_bytes_max).unwrap_or(u32::MAX),
        keep_alive_s: u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX),
    };
    if wire::connack(version, &mut outgoing, Ok(told)).is_err() {
        return;
    }
    let link = endpoint.downlinks.connect(&node);
    endpoint.accept.connection(&node, true);
    counter!("tianyu_endpoint_connections_total").increment(1);
    let mut connection = Connection {
        endpoint,
        stream,
        version,
        node,
        link,
        pending: Arc::default(),
        incoming,
        outgoing,
        client_packet_max: connect.packet_max,
        listening: false,
    };
    let end = connection.run(keep_alive, shutdown).await;
    connection.end(end, connect.will).await;
}

async fn hello<S>(endpoint: &Endpoint, stream: &mut S, incoming: &mut BytesMut) -> Option<(Version, Connect)>
where
    S: AsyncRead + Unpin,
{
    let packet_max = endpoint.limits.packet_bytes_max;
    loop {
        if let Some(version) = wire::version(incoming, packet_max).ok()? {
            match wire::read(version, incoming, packet_max).ok()? {
                Some(Incoming::Connect(connect)) => return Some((version, connect)),
                Some(_) => return None,
                None => {}
            }
        }
        if stream.read_buf(incoming).await.ok()? == 0 {
            return None;
        }
    }
}

fn admit(endpoint: &Endpoint, connect: &Connect) -> Result<NodeName, Refusal> {
    let node = NodeName::new(&connect.user).map_err(|_| Refusal::NotAuthorized)?;
    if endpoint.accept.login(&node, connect.token.as_bytes()) == Login::Denied {
        return Err(Refusal::NotAuthorized);
    }
    // One connection a node: the client id must not be able to name another.
    if !connect.client_id.is_empty() && connect.client_id != connect.user {
        return Err(Refusal::BadClientId);
    }
    if let Some(will) = &connect.will {
        let own = topic::parse_up(&will.topic).is_some_and(|(of, _)| of == node);
        if !own || will.retain || will.qos > 1 {
            return Err(Refusal::NotAuthorized);
        }
    }
    Ok(node)
}

/// Whether a node may subscribe to this filter: its own down topics, one by one or all.
fn may_subscribe(node: &NodeName, filter: &str) -> bool {
    topic::parse_down(filter).is_some_and(|(of, _)| of == *node)
        || filter
            .strip_prefix(topic::PREFIX)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.strip_prefix(node.as_str()))
            .is_some_and(|rest| matches!(rest, "/down/#" | "/down/+"))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, out: &mut BytesMut, within: Duration) -> bool {
    if out.is_empty() {
        return true;
    }
    let sent = tokio::time::timeout(within, async {
        stream.write_all(out).await?;
        stream.flush().await
    })
    .await;
    out.clear();
    matches!(sent, Ok(Ok(())))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(&mut self, keep_alive: Duration, shutdown: CancellationToken) -> End {
        let patience = keep_alive + keep_alive / 2;
        let mut heard = Instant::now();
        let silence = tokio::time::sleep_until(heard + patience);
        // Asked for once: each new request would take the lock that all connections share.
        let told_to_stop = shutdown.cancelled();
        tokio::pin!(silence, told_to_stop);
        let link = Arc::clone(&self.link);
        let pending = Arc::clone(&self.pending);
        loop {
            if !send(&mut self.stream, &mut self.outgoing, self.endpoint.limits.write_within).await {
                return End::Abrupt;
            }
            let may_read = pending.len() < usize::from(self.endpoint.limits.in_flight_max);
            let outcome = tokio::select! {
                biased;
                () = &mut told_to_stop => Err(End::Because(Reason::ServerShuttingDown)),
                () = pending.notify.notified() => self.acknowledge(),
                () = link.notify.notified() => self.deliver(),
                read = self.stream.read_buf(&mut self.incoming), if may_read => match read {
                    Ok(0) | Err(_) => Err(End::Abrupt),
                    Ok(_) => {
                        heard = Instant::now();
                        self.packets()
                    }
                },
                () = &mut silence => {
                    if heard.elapsed() >= patience {
                        Err(End::Because(Reason::KeepAliveTimeout))
                    } else {
                        silence.as_mut().reset(heard + patience);
                        Ok(())
                    }
                }
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// Sends the PUBACKs that are due, and reads on where that made room.
    fn acknowledge(&mut self) -> Result<(), End> {
        while let Some(result) = self.pending.next() {
            let id = result.map_err(|()| End::Because(Reason::QuotaExceeded))?;
            wire::puback(self.version, &mut self.outgoing, id).map_err(|_| End::Abrupt)?;
        }
        self.packets()
    }

    fn deliver(&mut self) -> Result<(), End> {
        let (messages, closing) = self.link.take();
        // Before it has subscribed, there is nobody to hear them; a node opens its session after that.
        for (channel, payload) in messages.into_iter().filter(|_| self.listening) {
            if payload.len() + 64 > self.client_packet_max as usize {
                counter!("tianyu_endpoint_down_too_large_total").increment(1);
                continue;
            }
            let topic = topic::down(&self.node, channel);
            wire::publish(self.version, &mut self.outgoing, &topic, &payload).map_err(|_| End::Abrupt)?;
        }
        match closing {
            None => Ok(()),
            Some(Closing::TakenOver) => Err(End::Because(Reason::SessionTakenOver)),
            Some(Closing::Administrative) => Err(End::Because(Reason::AdministrativeAction)),
        }
    }

    /// Handles the whole packets that have come, as many as may be in flight.
    fn packets(&mut self) -> Result<(), End> {
        let packet_max = self.endpoint.limits.packet_bytes_max;
        while self.pending.len() < usize::from(self.endpoint.limits.in_flight_max) {
            let packet = wire::read(self.version, &mut self.incoming, packet_max).map_err(|error| {
                counter!("tianyu_endpoint_malformed_total").increment(1);
                tracing::debug!(node = %self.node, %error, "malformed packet");
                End::Because(match error {
                    wire::Error::TooLarge(_) => Reason::PacketTooLarge,
                    _ => Reason::MalformedPacket,
                })
            })?;
            match packet {
                Some(packet) => self.packet(packet)?,
                None => break,
            }
        }
        Ok(())
    }

    fn packet(&mut self, packet: Incoming) -> Result<(), End> {
        let (version, out) = (self.version, &mut self.outgoing);
        match packet {
            Incoming::Publish { qos: 2, .. } => return Err(End::Because(Reason::QoSNotSupported)),
            Incoming::Publish { retain: true, .. } if version == Version::V5 => {
                return Err(End::Because(Reason::RetainNotSupported));
            }
            Incoming::Publish { alias: true, .. } => return Err(End::Because(Reason::TopicAliasInvalid)),
            Incoming::Publish { topic, qos, id, payload, .. } => {
                let Some(channel) = self.own(&topic) else {
                    counter!("tianyu_endpoint_foreign_topics_total").increment(1);
                    tracing::warn!(node = %self.node, topic = topic.escape_debug().to_string(), "not this node's topic");
                    return Err(End::Because(Reason::NotAuthorized));
                };
                let reply = if qos == 0 { Reply::nobody() } else { self.pending.reply(id) };
                self.endpoint.accept.arrive(Arrival { node: self.node.clone(), channel, payload }, reply);
                Ok(())
            }
            Incoming::Subscribe { id, filters } => {
                let allowed: Vec<bool> = filters.iter().map(|f| may_subscribe(&self.node, f)).collect();
                self.listening |= allowed.contains(&true);
                wire::suback(version, out, id, &allowed)
            }
            Incoming::Unsubscribe { id, filters } => wire::unsuback(version, out, id, filters),
            Incoming::Ping => {
                wire::pong(out);
                Ok(())
            }
            Incoming::PubAck => Ok(()),
            Incoming::Disconnect { with_will } => return Err(if with_will { End::Abrupt } else { End::Quiet }),
            Incoming::Connect(_) | Incoming::Unexpected => return Err(End::Because(Reason::ProtocolError)),
        }
        .map_err(|_| End::Abrupt)
    }

    fn own(&self, topic: &str) -> Option<Up> {
        topic::parse_up(topic).filter(|(node, _)| *node == self.node).map(|(_, channel)| channel)
    }

    async fn end(mut self, end: End, will: Option<Will>) {
        let current = self.endpoint.downlinks.disconnect(&self.node, &self.link);
        if current {
            self.endpoint.accept.connection(&self.node, false);
        }
        if let End::Because(reason) = &end {
            counter!("tianyu_endpoint_closed_total", "reason" => format!("{reason:?}")).increment(1);
            // What became durable in the meantime is still acknowledged.
            while let Some(Ok(id)) = self.pending.next() {
                if wire::puback(self.version, &mut self.outgoing, id).is_err() {
                    break;
                }
            }
            wire::disconnect(self.version, &mut self.outgoing, *reason);
            send(&mut self.stream, &mut self.outgoing, self.endpoint.limits.write_within).await;
        }
        if let (Some(will), true, false) = (will, current, matches!(end, End::Quiet))
            && let Some(channel) = self.own(&will.topic)
        {
            let arrival = Arrival { node: self.node.clone(), channel, payload: will.payload };
            self.endpoint.accept.arrive(arrival, Reply::nobody());
        }
        // A peer that is gone cannot be told goodbye.
        drop(tokio::time::timeout(self.endpoint.limits.write_within, self.stream.shutdown()).await);
    }
}
