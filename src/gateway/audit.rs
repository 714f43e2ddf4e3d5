//! One structured line per decision: who, what, whether, with which status. Never a URL, a token or a body.
//!
//! The line is written in one place, after the answer is known, so no route can forget it. Handlers only fill in
//! what they learn on the way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::metrics::Requests;

/// What is learnt about a call while it is handled. Travels in the request's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Arc<Mutex<Entry>>);

#[derive(Clone, Debug, Default)]
struct Entry {
    who: Option<String>,
    verb: Option<&'static str>,
    what: Option<String>,
    refused: bool,
}

impl Trail {
    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who calls: a user name, or a pod.
    pub(crate) fn who(&self, who: impl Into<String>) {
        self.entry().who = Some(who.into());
    }

    /// Whose share a call counts in: a person's, or that of all pods of a namespace.
    pub(crate) fn caller(&self) -> Option<String> {
        let who = self.entry().who.clone()?;
        let namespace = who.strip_prefix("pod/").and_then(|pod| pod.split_once('/'));
        Some(namespace.map_or(who.clone(), |(namespace, _)| format!("pod/{namespace}")))
    }

    /// What is asked for, and of what. Only names that were checked.
    pub(crate) fn asks(&self, verb: &'static str, what: impl Into<String>) {
        let mut entry = self.entry();
        entry.verb = Some(verb);
        entry.what = Some(what.into());
    }

    /// The answer was no. Told apart from "not there", which the caller is not.
    pub(crate) fn refused(&self) {
        self.entry().refused = true;
    }
}

/// Writes the line and counts the call.
pub(crate) async fn record(State(requests): State<Requests>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trail = Trail::default();
    request.extensions_mut().insert(trail.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let took = started.elapsed();
    requests.observe(&method, route, response.status(), took);
    write(&trail.entry(), &method, route, response.status(), took);
    response
}

/// Calls an agent makes all the time; of no interest unless they are refused.
const ROUTINE: &[&str] = &["/agent/v1/files", "/agent/v1/progress", "/agent/v1/inputs"];

fn write(entry: &Entry, method: &Method, route: &str, status: StatusCode, took: Duration) {
    let decision = match status.as_u16() {
        _ if entry.refused => "refused",
        401 | 403 => "refused",
        0..400 => "allowed",
        400..500 => "invalid",
        _ => "failed",
    };
    let who = entry.who.as_deref().unwrap_or("-");
    let verb = entry.verb.unwrap_or("-");
    let what = entry.what.as_deref().unwrap_or("-");
    let (status, ms) = (status.as_u16(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    if decision == "allowed" && ROUTINE.iter().any(|prefix| route.starts_with(prefix)) {
        tracing::debug!(target: "audit", who, verb, what, decision, status, %method, route, ms, "audit");
    } else {
        tracing::info!(target: "audit", who, verb, what, decision, status, %method, route, ms, "audit");
    }
}
