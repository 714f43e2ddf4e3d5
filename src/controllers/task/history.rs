//! The history record of a run: every change of its state, readable after the object is gone.

use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Timestamp, ToSpan};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::TaskController;
use super::apply::way_out;
use super::results::{Emptied, require_owner};
use asynctask_api::AsyncTask;
use asynctask_api::outputs::HistoryParameters;
use asynctask_plan::keep::history_until;
use asynctask_plan::snapshot::{EarlierRun, Trouble};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::records::{HistoryDue, HistoryRecord, RECORD_MAX, RecordError, VERSION, decode, encode};
use asynctask_storage::{Meta, PutMode, StoreError};

/// Keys that are listed at a time to find the newest record of a name: one is the run's own, and few are no records.
const NEWEST: usize = 10;

impl TaskController {
    /// Writes down what is known of the run, beside what was recorded before. `expired`: its retention is over, and it is
    /// about to be deleted for that.
    pub(super) async fn record(&self, task: &AsyncTask, expired: bool) -> Result<(), Trouble> {
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
        let now = Timestamp::now();
        let record = HistoryRecord { expired_at: expired.then_some(now), ..of(task, kept(task, spec), now) };
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

/// Why nobody can say whether there was a run of a name.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsure {
    #[error(
        "the history record {key} cannot be read ({source}): bring it back, or delete it if that run does not matter"
    )]
    Record { key: String, source: RecordError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Emptied(#[from] Emptied),
}

/// The record of the newest other run of this name that was created since then.
///
/// # Errors
/// The store does not tell, or it lacks our own mark: then it would tell nothing of what is there.
pub(super) async fn since(
    open: &OpenStore,
    task: &AsyncTask,
    since: Timestamp,
) -> Result<Option<HistoryRecord>, Unsure> {
    let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
    let month = |at: Timestamp| at.to_zoned(TimeZone::UTC).date().first_of_month();
    let months = std::iter::successors(Some(month(Timestamp::now())), |month| month.checked_sub(1.month()).ok());
    for month in months.take_while(|first| *first >= month(since)) {
        // A name that can be no key was never recorded.
        let Ok(folder) = open.layout.history_of(&namespace, month.year(), month.month(), &name) else {
            return Ok(None);
        };
        let mut after = None;
        loop {
            // The newest comes first.
            let page = open.store.list(&folder, after.as_deref(), NEWEST).await?;
            for Meta { key, .. } in &page.objects {
                let Some(found) = open.layout.parse_history(key) else { continue };
                if Some(&found.uid) == task.metadata.uid.as_ref() {
                    continue;
                }
                if found.created < since {
                    return require_owner(open).await.map(|()| None).map_err(Unsure::from);
                }
                let bytes = match open.store.get_bytes(key, RECORD_MAX).await {
                    Ok(bytes) => bytes,
                    Err(StoreError::NotFound { .. }) => continue,
                    Err(error) => return Err(error.into()),
                };
                return match decode(&bytes) {
                    Ok(record) => Ok(Some(record)),
                    // It may be the one that matters: where the run says that it runs once, nothing starts then.
                    Err(source) if task.spec.once.is_some() => Err(Unsure::Record { key: key.clone(), source }),
                    Err(error) => {
                        tracing::warn!(key, %error, "a history record cannot be read, and keeps no name");
                        Ok(None)
                    }
                };
            }
            match page.objects.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
    }
    require_owner(open).await?;
    Ok(None)
}

/// What the plan needs to know of it.
pub(super) fn earlier(record: HistoryRecord) -> EarlierRun {
    let HistoryRecord { created_at: created, state, expired_at, spec, .. } = record;
    EarlierRun { created, state, expired: expired_at.is_some(), spec }
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
        expired_at: None,
    }
}
