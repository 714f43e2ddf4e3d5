//! Says what was decided: the status if it is news, then an Event and a count for each change of state that matters.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;

use super::TaskController;
use super::error::TaskError;
use crate::context::NOTE_MAX;
use asynctask_api::condition::{self, Claim, cut};
use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, StepStatus};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_plan::decide::Plan;
use asynctask_plan::snapshot::{Snapshot, state};
use asynctask_plan::status::{Applied, operators_part, status};
use asynctask_runtime::client::explain;
use asynctask_runtime::metrics::Metrics;

/// Runs that ended, by state and reason.
#[derive(Clone, Debug)]
pub(super) struct Ended(Family<EndLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    state: &'static str,
    reason: String,
}

impl Ended {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let family = Family::default();
        metrics.register(
            "tasks_ended",
            "AsyncTasks that reached a terminal state, by state and reason",
            family.clone(),
        );
        Self(family)
    }

    /// `reason` is one of the plan's own words, never a user's.
    fn count(&self, state: TaskState, reason: &str) {
        self.0.get_or_create(&EndLabels { state: state.as_str(), reason: reason.to_owned() }).inc();
    }
}

/// Field manager of what is said of a run that cannot be read.
const MANAGER_UNREADABLE: &str = "asynctask-operator-unreadable";

impl TaskController {
    /// Writes the status if it is news; gives the object as it is then.
    pub(super) async fn report(
        &self,
        snapshot: &Snapshot,
        plan: &Plan,
        applied: &Applied,
        now: Timestamp,
    ) -> Result<Option<Arc<AsyncTask>>, TaskError> {
        let before = operators_part(&snapshot.task.status.clone().unwrap_or_default());
        let after = status(snapshot, plan, applied, now);
        if after == before {
            return Ok(None);
        }
        let written = self.write(&snapshot.task, &after).await?;
        for step in after.steps.iter().filter(|step| gave_up_an_attempt(&before, step)) {
            self.publish(&written, &attempt_failed(step)).await;
        }
        if after.state != before.state {
            self.tell(&written, &after).await;
        }
        Ok(Some(written))
    }

    /// Says of a run that it cannot be read: in a condition of its own manager, beside what the status has.
    pub(super) async fn say_unreadable(&self, of: &ObjectMeta, why: &str) -> Result<(), TaskError> {
        let resource = ApiResource::erase::<AsyncTask>(&());
        let (name, namespace) = (of.name.as_deref().unwrap_or_default(), of.namespace.as_deref().unwrap_or_default());
        let stalled = Claim::new(condition::STALLED, Some(true), "Unreadable", why);
        let created = of.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let patch = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"uid": of.uid},
            // The same each time, so that saying it again changes nothing.
            "status": {"conditions": [stalled.on(&[], of.generation, created)]},
        });
        let api = Api::<DynamicObject>::namespaced_with(self.context.client.clone(), namespace, &resource);
        let params = PatchParams::apply(MANAGER_UNREADABLE).force();
        let written = api.patch_status(name, &params, &Patch::Apply(patch)).await;
        written.map(drop).map_err(TaskError::WriteStatus)
    }

    /// Only the version that was looked at. The status of a run that the watch gave is that of its whole.
    async fn write(&self, task: &AsyncTask, status: &AsyncTaskStatus) -> Result<Arc<AsyncTask>, TaskError> {
        let name = task.name_any();
        let patch = json!({
            "apiVersion": AsyncTask::api_version(&()),
            "kind": AsyncTask::kind(&()),
            "metadata": {"name": name, "uid": task.uid(), "resourceVersion": task.resource_version()},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        let written = self.tasks(task).patch_status(&name, &params, &Patch::Apply(patch)).await;
        let mut written = written.map_err(TaskError::WriteStatus)?;
        // They never change, and the answer has none.
        written.spec.parameters.clone_from(&task.spec.parameters);
        self.freshness.wrote(&written);
        self.quiet.wrote(&written, Timestamp::now());
        Ok(Arc::new(written))
    }

    /// At most two Events a run beside those of attempts that failed: that it started, and how it ended.
    async fn tell(&self, task: &AsyncTask, status: &AsyncTaskStatus) {
        let Some(now) = state(task) else { return };
        let reason = status.reason.as_deref().unwrap_or_default();
        let (uid, namespace, name) = (task.uid(), task.namespace(), task.name_any());
        tracing::info!(uid, namespace, task = name, state = now.as_str(), reason, "state changed");
        let event = match now {
            TaskState::InProgress => started(status),
            ended if ended.is_terminal() => {
                self.ended.count(ended, reason);
                finished(ended, reason, status.message.as_deref())
            }
            _ => return,
        };
        self.publish(task, &event).await;
    }

    async fn publish(&self, task: &AsyncTask, event: &Event) {
        if let Err(error) = self.context.events.publish(event, &task.object_ref(&())).await {
            tracing::warn!(uid = task.uid(), error = explain(&error), "the Event cannot be written");
        }
    }
}

/// Whether an attempt of the step failed since, and another one follows.
fn gave_up_an_attempt(before: &AsyncTaskStatus, step: &StepStatus) -> bool {
    let known = before.steps.iter().find(|known| known.name == step.name);
    step.state == Some(StepState::Retrying) && known.is_none_or(|known| known.state != step.state)
}

fn attempt_failed(step: &StepStatus) -> Event {
    let (failure, attempt) = (step.failure.clone().unwrap_or_default(), step.attempt.unwrap_or_default());
    let until = step.until.as_ref().map(|until| until.0.to_string()).unwrap_or_default();
    let (name, reason, message) = (&step.name, failure.reason, failure.message);
    let note = format!("attempt {attempt} of step {name} failed ({reason}): {message}. The next one starts at {until}");
    event(EventType::Warning, "AttemptFailed", note)
}

fn started(status: &AsyncTaskStatus) -> Event {
    let revision = status.revision.as_ref().map(|revision| revision.name.as_str()).unwrap_or_default();
    let store = status.store.as_ref().map(|store| store.name.as_str()).unwrap_or_default();
    event(EventType::Normal, "Started", format!("runs on revision {revision}, outputs go to store {store}"))
}

fn finished(state: TaskState, reason: &str, message: Option<&str>) -> Event {
    let kind = if state.is_success() { EventType::Normal } else { EventType::Warning };
    let also = message.map(|message| format!(": {message}")).unwrap_or_default();
    event(kind, "Finished", format!("{state} ({reason}){also}"))
}

fn event(type_: EventType, reason: &str, note: String) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(cut(&note, NOTE_MAX)),
        action: "Run".to_owned(),
        secondary: None,
    }
}
