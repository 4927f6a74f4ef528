//! The built-in MQTT endpoint, 3.1.1 and 5: nodes publish on their own up topics and listen to
//! their own down topics, nothing else. It routes nothing between clients, retains nothing and
//! keeps no session: custody is the node's and the gateway's affair, not MQTT's.
//!
//! A PUBACK leaves when the message is durable, in order. When it cannot be taken, the connection
//! is closed (MQTT 5: DISCONNECT 0x97) and the node comes back; nothing that could be stored
//! later is ever answered with an error. QoS 2 is refused as a protocol asks: by "maximum QoS 1"
//! in version 5, by closing in 3.1.1. RETAIN is unavailable in version 5; in 3.1.1, where a
//! server cannot say so, the flag is passed over.

mod connection;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::custody::{Accept, Downlinks};

/// Bounds of the endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address; nodes behind one router share one.
    pub connections_per_address_max: usize,
    /// Bytes of one packet.
    pub packet_bytes_max: usize,
    /// Messages of one connection that wait to become durable; beyond this nothing is read.
    pub in_flight_max: u16,
    /// From TCP (and TLS) to a complete CONNECT.
    pub connect_within: Duration,
    /// Longest keep-alive; a longer or missing one is taken for this.
    pub keep_alive_max: Duration,
    /// Longest wait for a client to take what is sent to it.
    pub write_within: Duration,
    /// Failed log-ins from one address within a minute that are answered at once and logged. Never
    /// a reason to turn others away: a hundred nodes share a router's address.
    pub failed_logins_max: u32,
    /// How long the answer to each further one is kept back.
    pub failed_login_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 10_000,
            packet_bytes_max: 4096,
            in_flight_max: 32,
            connect_within: Duration::from_secs(10),
            keep_alive_max: Duration::from_secs(1200),
            write_within: Duration::from_secs(10),
            failed_logins_max: 20,
            failed_login_pause: Duration::from_secs(3),
        }
    }
}

/// Addresses whose failed log-ins are remembered; beyond this the memory starts anew.
const ADDRESSES_REMEMBERED_MAX: usize = 4096;
/// How long failed log-ins are remembered.
const FAILED_LOGINS_FOR: Duration = Duration::from_secs(60);
/// TLS records small enough for a node's buffer.
const TLS_FRAGMENT_BYTES: usize = 2048;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("read {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// Certificate and key do not go together, or are of an unknown kind.
    #[error("use the certificate and key: {0}")]
    Unfit(#[from] tokio_rustls::rustls::Error),
}

/// TLS from a certificate chain and a key in PEM files.
pub fn tls(certificate: &std::path::Path, key: &std::path::Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |path: &std::path::Path, why: String| TlsError::File { path: path.display().to_string(), why };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable(certificate, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.max_fragment_size = Some(TLS_FRAGMENT_BYTES);
    Ok(Arc::new(config))
}

/// The endpoint, shared by all its connections.
pub struct Endpoint {
    accept: Arc<dyn Accept>,
    downlinks: Downlinks,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    connections: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, Address>>,
}

#[derive(Clone, Copy)]
struct Address {
    connections: usize,
    failed_logins: u32,
    since: Instant,
}

impl Endpoint {
    /// An endpoint that hands what arrives to `accept`.
    pub fn new(
        accept: Arc<dyn Accept>,
        downlinks: Downlinks,
        limits: Limits,
        tls: Option<Arc<ServerConfig>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            accept,
            downlinks,
            limits,
            tls: tls.map(TlsAcceptor::from),
            connections: AtomicUsize::new(0),
            addresses: Mutex::default(),
        })
    }

    /// Serves `listener` until `shutdown`; returns when the last connection has ended.
    pub async fn run(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(peer.ip()) {
                    Some(admission) => {
                        let (endpoint, shutdown) = (Arc::clone(&self), shutdown.clone());
                        tasks.spawn(async move {
                            endpoint.serve(stream, peer.ip(), shutdown).await;
                            drop(admission);
                        });
                    }
                    None => counter!("tianyu_endpoint_turned_away_total").increment(1),
                },
                Err(error) => {
                    // Out of descriptors, or the peer went away before it was taken.
                    counter!("tianyu_endpoint_accept_errors_total").increment(1);
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn serve(&self, stream: TcpStream, peer: IpAddr, shutdown: CancellationToken) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "set TCP_NODELAY");
        }
        let by = Instant::now() + self.limits.connect_within;
        match &self.tls {
            None => connection::serve(self, stream, peer, by, shutdown).await,
            Some(tls) => match tokio::time::timeout_at(by, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection::serve(self, stream, peer, by, shutdown).await,
                Ok(Err(error)) => {
                    counter!("tianyu_endpoint_tls_failures_total").increment(1);
                    tracing::debug!(%peer, %error, "TLS handshake");
                }
                Err(_) => counter!("tianyu_endpoint_tls_failures_total").increment(1),
            },
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Admission> {
        if self.connections.load(Ordering::Relaxed) >= self.limits.connections_max {
            return None;
        }
        let mut addresses = self.addresses();
        if addresses.len() >= ADDRESSES_REMEMBERED_MAX {
            addresses.retain(|_, a| a.connections > 0);
        }
        let fresh = Address { connections: 0, failed_logins: 0, since: Instant::now() };
        let address = addresses.entry(peer).or_insert(fresh);
        if address.since.elapsed() > FAILED_LOGINS_FOR {
            (address.failed_logins, address.since) = (0, Instant::now());
        }
        if address.connections >= self.limits.connections_per_address_max {
            return None;
        }
        address.connections += 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(Admission { endpoint: Arc::clone(self), peer })
    }

    /// Counts a failed log-in; whether its address has had too many.
    fn login_failed(&self, peer: IpAddr) -> bool {
        counter!("tianyu_endpoint_login_failures_total").increment(1);
        let mut addresses = self.addresses();
        let Some(address) = addresses.get_mut(&peer) else { return false };
        address.failed_logins += 1;
        address.failed_logins > self.limits.failed_logins_max
    }
}

/// A place among the connections, given back when dropped.
struct Admission {
    endpoint: Arc<Endpoint>,
    peer: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.endpoint.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.endpoint.addresses().get_mut(&self.peer) {
            address.connections = address.connections.saturating_sub(1);
        }
    }
}
