//! Count and time of calls, by route template: never by a name somebody chose.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use asynctask_runtime::metrics::Metrics;

/// Count and time of calls.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    total: Family<Call, Counter>,
    duration: Family<Route, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

impl Requests {
    /// Registers both metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let total = Family::default();
        metrics.register("requests", "Calls by method, route template and class of status", total.clone());
        let buckets: fn() -> Histogram =
            || Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0]);
        let duration = Family::new_with_constructor(buckets);
        metrics.register("request_duration_seconds", "Time until the head of the answer", duration.clone());
        Self { total, duration }
    }

    /// Counts one call.
    pub(crate) fn observe(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let (method, route) = (bounded(method), route.to_owned());
        let call = Call { method, route: route.clone(), status: class(status) };
        self.total.get_or_create(&call).inc();
        self.duration.get_or_create(&Route { method, route }).observe(took.as_secs_f64());
    }
}

/// A client may invent methods; a label may not.
fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        0..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_whatever_a_client_sends() {
        let metrics = Metrics::new("gateway");
        let requests = Requests::new(&metrics);
        let odd = Method::from_bytes(b"BREW").expect("a token");
        requests.observe(&odd, "unmatched", StatusCode::NOT_FOUND, Duration::from_millis(3));
        let text = metrics.encode().expect("text");
        let line = r#"asynctask_requests_total{method="other",route="unmatched",status="4xx"} 1"#;
        assert!(text.contains(line), "{text}");
    }
}
