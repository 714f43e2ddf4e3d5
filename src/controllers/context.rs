//! What every controller is handed.

use std::time::Duration;

use kube::Client;
use kube::runtime::events::Recorder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use asynctask_plan::agent::{Agent, GatewayAccess, Injection};
use asynctask_plan::queue::Limits;
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::stores::Stores;

/// What every controller is handed.
pub struct Context {
    /// The operator's client; its user agent is `asynctask-operator/<version>`.
    pub client: Client,
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
        Some(Agent { image: self.agent.image.clone(), injection, gateway })
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
