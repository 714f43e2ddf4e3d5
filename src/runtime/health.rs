//! `/healthz`, `/readyz` and `/metrics`. A process that is not ready says what it waits for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::{CONTENT_TYPE, Metrics};

/// What the process waits for. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    needs: Arc<Mutex<BTreeMap<&'static str, Need>>>,
}

#[derive(Clone, Debug)]
enum Need {
    Met(String),
    Missing(String),
}

impl Readiness {
    /// Nothing is needed yet, so the process is ready; name its needs before serving.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `what` is missing; `why` says so for people, with what to do if somebody has to do something.
    pub fn missing(&self, what: &'static str, why: impl Into<String>) {
        self.lock().insert(what, Need::Missing(why.into()));
    }

    /// `what` is there; `how` says more for people.
    pub fn met(&self, what: &'static str, how: impl Into<String>) {
        self.lock().insert(what, Need::Met(how.into()));
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|need| matches!(need, Need::Met(_)))
    }

    /// One line per need: `[+]` met, `[-]` missing.
    #[must_use]
    pub fn report(&self) -> String {
        let line = |(what, need): (&&str, &Need)| match need {
            Need::Met(how) => format!("[+] {what}: {how}\n"),
            Need::Missing(why) => format!("[-] {what}: {why}\n"),
        };
        self.lock().iter().map(line).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Need>> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Health {
    readiness: Readiness,
    metrics: Metrics,
}

/// Health cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is taken or not ours.
    #[error("health and metrics cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server broke down.
    #[error("the server of health and metrics ended: {0}")]
    Serve(std::io::Error),
}

/// Serves until `stop`.
///
/// # Errors
/// The address cannot be listened on, or the server broke down.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), HealthError> {
    let listener = TcpListener::bind(address).await.map_err(|source| HealthError::Listen { address, source })?;
    tracing::info!(%address, "serving health and metrics");
    axum::serve(listener, routes(readiness, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(HealthError::Serve)
}

fn routes(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .with_state(Health { readiness, metrics })
}

async fn ready(State(Health { readiness, .. }): State<Health>) -> (StatusCode, String) {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, readiness.report())
}

async fn figures(State(Health { metrics, .. }): State<Health>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Readiness, routes};
    use crate::metrics::Metrics;
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    async fn get(readiness: &Readiness, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("request");
        let answer = routes(readiness.clone(), Metrics::new("operator")).oneshot(request).await.expect("answer");
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.expect("body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn readiness_names_what_it_waits_for_and_alive_is_not_ready() {
        let readiness = Readiness::new();
        readiness.missing("lease", "asynctask-operator has not been read yet");
        readiness.met("CRDs", "4 kinds served");
        let (status, text) = get(&readiness, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "[+] CRDs: 4 kinds served\n[-] lease: asynctask-operator has not been read yet\n");
        assert_eq!(get(&readiness, "/healthz").await.0, StatusCode::OK);

        readiness.met("lease", "held");
        assert_eq!(get(&readiness, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served_as_text() {
        let (status, text) = get(&Readiness::new(), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("asynctask_build_info") && text.ends_with("# EOF\n"), "{text}");
    }
}
