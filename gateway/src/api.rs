//! The gateway over HTTP: JSON for people and programs, metrics for Prometheus, health for
//! whoever restarts things. Read-only: it has no log-in, so it changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, serve};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::live::LiveNode;
use crate::{Gateway, metric};

#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    metrics: Option<PrometheusHandle>,
}

/// Serves until `shutdown`.
pub async fn run(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    metrics: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(health))
        .route("/metrics", get(prometheus))
        .route("/api/v1/live", get(live))
        .route("/api/v1/sites", get(sites))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/pipeline", get(pipeline))
        .route("/api/v1/held", get(held))
        .route("/api/v1/held/{index}", get(held_one))
        .with_state(Shared { gateway, metrics });
    serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

async fn index() -> Json<serde_json::Value> {
    Json(json!({
        "name": "tianyu",
        "version": env!("CARGO_PKG_VERSION"),
        "see": ["/api/v1/live", "/api/v1/sites", "/api/v1/nodes", "/api/v1/pipeline", "/api/v1/held", "/metrics", "/healthz"],
    }))
}

/// 200 while reports can be taken in; 503 with the reason when not.
async fn health(State(shared): State<Shared>) -> Response {
    let pipeline = shared.gateway.pipeline();
    let sink = pipeline.sinks.iter().find(|s| s.required && s.error.is_some());
    let ill = match (&pipeline.refusing, sink) {
        (Some(why), _) => json!({ "status": "refusing", "error": why }),
        (None, Some(sink)) => json!({ "status": "degraded", "sink": sink.name, "error": sink.error }),
        (None, None) => {
            return Json(json!({ "status": "ok", "clock_known_good": pipeline.clock_known_good })).into_response();
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(ill)).into_response()
}

async fn prometheus(State(shared): State<Shared>) -> String {
    let connected = shared.gateway.acceptor().nodes().iter().filter(|node| node.connected).count();
    metric::set(&shared.gateway.pipeline(), connected);
    shared.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default()
}

/// A node as shown, with what only the moment of asking tells.
#[derive(Serialize)]
struct Shown {
    age_ms: u64,
    #[serde(flatten)]
    node: LiveNode,
}

async fn live(State(shared): State<Shared>) -> Response {
    let now_ms = shared.gateway.now_ms();
    let all = shared.gateway.live().all();
    let nodes: BTreeMap<_, _> =
        all.into_iter().map(|(name, node)| (name, Shown { age_ms: node.age_ms(now_ms), node })).collect();
    Json(json!({ "now_ms": now_ms, "nodes": nodes })).into_response()
}

async fn sites(State(shared): State<Shared>) -> Response {
    let registry = shared.gateway.registry();
    let sites: Vec<_> = registry
        .sites()
        .iter()
        .map(|s| {
            let units: Vec<_> =
                s.units.iter().map(|u| json!({ "name": u.name, "title": u.title, "kind": u.kind })).collect();
            json!({ "name": s.name, "title": s.title, "adcode": s.adcode, "units": units })
        })
        .collect();
    Json(sites).into_response()
}

async fn nodes(State(shared): State<Shared>) -> Response {
    Json(shared.gateway.acceptor().nodes()).into_response()
}

async fn pipeline(State(shared): State<Shared>) -> Response {
    Json(shared.gateway.pipeline()).into_response()
}

async fn held(State(shared): State<Shared>) -> Response {
    let waiting = shared.gateway.acceptor().waiting();
    let all: Vec<_> = waiting.iter().map(|(index, summary)| json!({ "index": index, "entry": summary })).collect();
    Json(all).into_response()
}

async fn held_one(State(shared): State<Shared>, Path(index): Path<u64>) -> Response {
    match shared.gateway.acceptor().read_held(index) {
        Some(w) => {
            let payload: String = w.payload.iter().map(|b| format!("{b:02x}")).collect();
            Json(json!({
                "node": w.node, "ring": w.ring, "from": w.from, "count": w.count,
                "arrived_ms": w.arrived_ms, "reason": w.reason.text(), "remedy": w.reason.remedy(), "payload": payload,
            }))
            .into_response()
        }
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": "nothing waits under this index" }))).into_response(),
    }
}
