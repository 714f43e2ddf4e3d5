//! The history record of a run: every change of its state, readable after the object is gone.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::TaskController;
use super::apply::way_out;
use super::results::require_owner;
use asynctask_api::AsyncTask;
use asynctask_api::outputs::HistoryParameters;
use asynctask_plan::keep::history_until;
use asynctask_plan::snapshot::Trouble;
use asynctask_storage::records::{HistoryDue, HistoryRecord, RECORD_MAX, VERSION, decode, encode};
use asynctask_storage::{PutMode, StoreError};

impl TaskController {
    /// Writes down what is known of the run, beside what was recorded before.
    pub(super) async fn record(&self, task: &AsyncTask) -> Result<(), Trouble> {
        let pinned = task.status.as_ref().and_then(|status| status.store.as_ref());
        let pinned = pinned.expect("invariant: only a run that has a store is recorded");
        // One that is being deleted is held by it.
        let deleted = task.metadata.deletion_timestamp.is_some();
        let hint = if deleted { format!(". {}", way_out(task, pinned)) } else { String::new() };
        let fail = |reason: &'static str, error: &dyn std::error::Error| Trouble {
            reason,
            message: format!(
                "the history record of this run cannot be written: {error}. It is tried again until it can be{hint}"
            ),
        };
        let open = self.context.stores.by_ref(pinned).await.map_err(|error| fail(error.reason(), &error))?;
        require_owner(&open).await.map_err(|error| fail(error.reason(), &error))?;
        // Parameters are in no copy: the object as it is now has them.
        let live = self.live(task).await.map_err(|error| fail("ReadTask", &error))?;
        let spec = live.map_or_else(|| json(&task.spec), |live| json(&live.spec));
        let record = of(task, kept(task, spec), Timestamp::now());
        let key = open.layout.history(&record.namespace, record.created_at, &record.name, &record.uid);
        let key = key.map_err(|error| fail("InvalidKey", &error))?;
        let earlier = match open.store.get_bytes(&key, RECORD_MAX).await {
            Ok(bytes) => Some(decode::<HistoryRecord>(&bytes).map_err(|error| fail("InvalidRecord", &error))?),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(fail(error.reason(), &error)),
        };
        let put = open.store.put(&key, encode(&record.merge(earlier)), PutMode::Overwrite).await;
        put.map_err(|error| fail(error.reason(), &error))?;
        // After it: a date without a record deletes nothing.
        let Some(delete_at) = history_until(task) else { return Ok(()) };
        let (name, task_uid) = (task.name_any(), task.uid().unwrap_or_default());
        let key = open.layout.due(&task.namespace().unwrap_or_default(), delete_at, &task_uid);
        let key = key.map_err(|error| fail("InvalidKey", &error))?;
        let due = HistoryDue { name, task_uid, created_at: created(task, delete_at), delete_at };
        let put = open.store.put(&key, encode(&due), PutMode::Overwrite).await;
        put.map_err(|error| fail(error.reason(), &error))
    }
}

fn created(task: &AsyncTask, otherwise: Timestamp) -> Timestamp {
    task.creation_timestamp().map_or(otherwise, |time| time.0)
}

/// As it was asked for, without the parameters where the definition says so.
fn kept(task: &AsyncTask, mut spec: Value) -> Value {
    let keep = task.status.as_ref().and_then(|status| status.keep.as_ref());
    if keep.is_some_and(|keep| keep.history_parameters == Some(HistoryParameters::Drop)) {
        spec.as_object_mut().expect("invariant: a spec is an object").remove("parameters");
    }
    spec
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("invariant: what came from the API server is JSON")
}

fn of(task: &AsyncTask, spec: Value, now: Timestamp) -> HistoryRecord {
    let status = task.status.clone().unwrap_or_default();
    let decoded = "invariant: a transition is an object";
    let transition = |transition| serde_json::from_value(json(transition)).expect(decoded);
    HistoryRecord {
        version: VERSION,
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        uid: task.uid().unwrap_or_default(),
        created_at: created(task, now),
        spec,
        state: status.state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        revision: status.revision.as_ref().map(json),
        store: status.store.as_ref().map(json),
        transitions: status.transitions.iter().map(transition).collect(),
        steps: status.steps.iter().map(json).collect(),
        failure: status.failure.as_ref().map(json),
        outputs: status.outputs.iter().map(json).collect(),
        recorded_at: now,
    }
}
