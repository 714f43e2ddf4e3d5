//! What every controller is handed.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use asynctask_api::condition::cut;
use asynctask_api::names::ANNOTATION_UNREADABLE;
use asynctask_plan::agent::{Agent, GatewayAccess, Injection};
use asynctask_plan::queue::Limits;
use asynctask_runtime::client::explain;
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::stores::Stores;

/// Longest note of an Event.
pub(super) const NOTE_MAX: usize = 1024;

/// What every controller is handed.
pub struct Context {
    /// The operator's client; its user agent is `asynctask-operator/<version>`. It leaves the parameters of AsyncTasks out.
    pub client: Client,
    /// The same with the parameters.
    pub whole: Client,
    /// The same for watches.
    pub watches: Client,
    /// The operator's own namespace: its Secrets, its lease, its gateway.
    pub namespace: String,
    /// Most runs in progress at a time.
    pub limits: Limits,
    /// Opened OutputStores.
    pub stores: Stores,
    /// The process's registry.
    pub metrics: Metrics,
    /// Count and time of reconciles.
    pub reconciles: Reconciles,
    /// Count of what cannot be read.
    pub set_aside: SetAside,
    /// The agent's image and how it gets into pods.
    pub agent: AgentSettings,
    /// Refuse definitions whose images are named by a tag.
    pub require_digest: bool,
    /// Where agents find the gateway; `None` until the certificate exists.
    pub gateway: watch::Receiver<Option<GatewayAccess>>,
    /// Events in the operator's name.
    pub events: Recorder,
    /// Cancelled when the process is to end: take nothing new, finish what was begun.
    pub stopping: CancellationToken,
}

/// The agent's image and how it gets into pods.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Image that holds the agent.
    pub image: String,
    /// Names of Secrets for it.
    pub pull_secrets: Vec<String>,
    /// `None` until the probe has decided.
    pub injection: watch::Receiver<Option<Injection>>,
}

impl Context {
    /// What a pod has to be told about the agent; `None` until injection and gateway are both known, and then no Job
    /// can be built.
    #[must_use]
    pub fn agent(&self) -> Option<Agent> {
        let injection = (*self.agent.injection.borrow())?;
        let gateway = self.gateway.borrow().clone()?;
        let AgentSettings { image, pull_secrets, .. } = self.agent.clone();
        Some(Agent { image, pull_secrets, injection, gateway })
    }

    /// Says of an object that it cannot be read, and why; gives the sentence.
    pub(super) async fn set_aside(&self, object: &ObjectReference, error: &str) -> String {
        let error = &without_values(error);
        let kind = object.kind.clone().unwrap_or_default();
        let (uid, namespace, name) = (&object.uid, &object.namespace, &object.name);
        tracing::warn!(uid, namespace, kind, name, error, "this object cannot be read, and is set aside");
        self.set_aside.0.get_or_create(&KindLabel { kind }).inc();
        let why = format!("it cannot be read: {error}. Correct it, delete it, or upgrade the operator");
        let event = Event {
            type_: EventType::Warning,
            reason: "Unreadable".to_owned(),
            note: Some(cut(&why, NOTE_MAX)),
            action: "Read".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.events.publish(&event, object).await {
            tracing::warn!(uid, error = explain(&error), "the Event cannot be written");
        }
        why
    }
}

/// Why an object cannot be read: what our client found, or else the decoder.
pub(super) fn reason<'a>(of: &'a ObjectMeta, error: &'a str) -> &'a str {
    of.annotations.as_ref().and_then(|said| said.get(ANNOTATION_UNREADABLE)).map_or(error, String::as_str)
}

/// An error of the decoder without the values it quotes: what is in an object is nobody else's business.
fn without_values(error: &str) -> String {
    let parts = error.split('"').enumerate();
    parts.map(|(number, part)| if number % 2 == 0 { part } else { "\"…\"" }).collect()
}

/// Objects that cannot be read, by kind.
#[derive(Clone, Debug, Default)]
pub struct SetAside(Family<KindLabel, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

impl SetAside {
    /// Registers the count.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let family = Family::default();
        metrics.register(
            "objects_set_aside",
            "Objects that were looked at and cannot be read, by kind; they stop no other",
            family.clone(),
        );
        Self(family)
    }
}

/// Count and time of reconciles, by controller and result.
#[derive(Clone, Debug)]
pub struct Reconciles {
    total: Family<ReconcileLabels, Counter>,
    duration: Family<ControllerLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

impl Reconciles {
    /// Registers both metrics.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let total = Family::default();
        metrics.register(
            "reconciles",
            "Reconciles by controller and result (ok, or the reason of the error)",
            total.clone(),
        );
        let buckets: fn() -> Histogram =
            || Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let duration = Family::new_with_constructor(buckets);
        metrics.register("reconcile_duration_seconds", "Time of a reconcile", duration.clone());
        Self { total, duration }
    }

    /// Counts one reconcile. `result` is `ok` or the `reason()` of the error.
    pub fn observe(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.total.get_or_create(&ReconcileLabels { controller, result }).inc();
        self.duration.get_or_create(&ControllerLabels { controller }).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::without_values;

    #[test]
    fn what_the_decoder_quotes_of_an_object_is_told_to_nobody() {
        let said = r#"invalid type: string "a secret", expected a boolean at line 1 column 9, not "another""#;
        let told = r#"invalid type: string "…", expected a boolean at line 1 column 9, not "…""#;
        assert_eq!(without_values(said), told);
        assert_eq!(without_values("missing field `spec`"), "missing field `spec`");
    }
}
