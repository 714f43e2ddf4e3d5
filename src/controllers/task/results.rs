//! What the attempts of a step left: records in the store, and what Kubernetes says of their pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;

use asynctask_api::AsyncTask;
use asynctask_api::names::{LABEL_ATTEMPT, LABEL_STEP};
use asynctask_contract::env::{CONTAINER, LOG_OUTPUT};
use asynctask_contract::wire::{CommittedFile, Termination};
use asynctask_plan::snapshot::{CommitFact, ExitFact, FailureFact, LogFact, PodFact, Results, Trouble};
use asynctask_runtime::stores::{OpenStore, Stores};
use asynctask_storage::StoreError;
use asynctask_storage::digest::Expected;
use asynctask_storage::layout::{AttemptKey, AttemptKind, InvalidPart, StepKeys};
use asynctask_storage::records::{self, CommitRecord, FailureRecord, RECORD_MAX, RecordError};

/// Keys per page of a listing.
pub(super) const PAGE: usize = 1000;
/// Largest log that is sealed without a report of it: above what an agent stores.
pub(super) const LOG_MAX: u64 = 16 << 20;
/// A pod's log without a report is plain text, as every log.
pub(super) const LOG_TYPE: &str = "text/plain";

/// Reads all records of a step. Pods are the caller's.
///
/// # Errors
/// What stands in the way: as long as anything cannot be read, nothing is decided.
pub(super) async fn read(stores: &Stores, task: &AsyncTask, step: &str) -> Result<Results, Trouble> {
    let status = task.status.as_ref();
    let Some(pinned) = status.and_then(|status| status.store.as_ref()) else { return Ok(Results::default()) };
    let open = stores.by_ref(pinned).await.map_err(|error| stuck(error.reason(), &error))?;
    let reader = Reader { open: &open, uid: &task.uid().unwrap_or_default(), step };
    let keys = open.layout.task(&task.namespace().unwrap_or_default(), reader.uid);
    let keys = keys.and_then(|keys| keys.step(step)).map_err(|error: InvalidPart| stuck("InvalidKey", &error))?;
    reader.all(&keys).await
}

pub(super) fn stuck(reason: &'static str, error: &dyn std::error::Error) -> Trouble {
    Trouble {
        reason,
        message: format!(
            "the step has ended, but its results cannot be read: {error}. They are read again until they can be"
        ),
    }
}

/// Reads what the attempts of a step left.
pub(super) struct Reader<'a> {
    pub(super) open: &'a OpenStore,
    /// UID of the run.
    pub(super) uid: &'a str,
    pub(super) step: &'a str,
}

impl Reader<'_> {
    async fn all(&self, keys: &StepKeys) -> Result<Results, Trouble> {
        let found = self.list(keys).await?;
        let mut results = Results::default();
        for (pod_uid, kinds) in &found {
            let attempt = keys.attempt(0, pod_uid).map_err(|error| stuck("InvalidKey", &error))?;
            if kinds.contains(&Kind::Commit) {
                results.commits.extend(self.commit(&attempt.commit(), pod_uid).await?);
            }
            if kinds.contains(&Kind::Failure) {
                results.failures.extend(self.failure(&attempt.failure(), pod_uid).await?);
            }
        }
        if results.commits.is_empty() {
            require_owner(self.open).await.map_err(|error| stuck(error.reason(), &error))?;
            for (pod_uid, kinds) in &found {
                let reported = |failure: &FailureFact| failure.pod_uid == *pod_uid && failure.report.log.is_some();
                if kinds.contains(&Kind::Log) && !results.failures.iter().any(reported) {
                    let attempt = keys.attempt(0, pod_uid).map_err(|error| stuck("InvalidKey", &error))?;
                    results.logs.extend(self.log(&attempt.log(), pod_uid).await?);
                }
            }
        }
        Ok(results)
    }

    /// What each pod left. Files are not remembered: a step may have many.
    async fn list(&self, keys: &StepKeys) -> Result<BTreeMap<String, BTreeSet<Kind>>, Trouble> {
        let mut found: BTreeMap<String, BTreeSet<Kind>> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.open.store.list(keys.attempts_prefix(), after.as_deref(), PAGE).await;
            let page = page.map_err(|error| stuck(error.reason(), &error))?;
            for (pod_uid, kind) in page.objects.iter().filter_map(|meta| keys.parse(&meta.key)).filter_map(record) {
                found.entry(pod_uid).or_default().insert(kind);
            }
            after = page.objects.last().map(|meta| meta.key.clone());
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn commit(&self, key: &str, pod_uid: &str) -> Result<Option<CommitFact>, Trouble> {
        let Some(record) = self.record::<CommitRecord>(key).await? else { return Ok(None) };
        let ours = record.task_uid == self.uid && record.step == self.step && record.pod_uid == pod_uid;
        Ok(ours.then_some(CommitFact {
            pod_uid: record.pod_uid,
            files: record.files,
            emitted: record.emitted,
            items: record.items,
            warning: record.warning,
            image: record.image,
        }))
    }

    async fn failure(&self, key: &str, pod_uid: &str) -> Result<Option<FailureFact>, Trouble> {
        let Some(record) = self.record::<FailureRecord>(key).await? else { return Ok(None) };
        let ours = record.task_uid == self.uid && record.step == self.step && record.pod_uid == pod_uid;
        let failed_at = record.failed_at;
        let (pod_uid, attempt) = (record.pod_uid, record.attempt);
        Ok(ours.then_some(FailureFact { pod_uid, attempt, failed_at, report: record.report }))
    }

    /// A record; `None` for what is none. One of a newer release is no reason to call a step failed.
    pub(super) async fn record<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Trouble> {
        let Some(bytes) = self.bytes(key, RECORD_MAX).await? else { return Ok(None) };
        match records::decode(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error @ RecordError::TooNew { .. }) => Err(stuck("RecordTooNew", &error)),
            Err(error) => {
                tracing::warn!(uid = self.uid, key, %error, "what lies here is no record and is passed over");
                Ok(None)
            }
        }
    }

    async fn log(&self, key: &str, pod_uid: &str) -> Result<Option<LogFact>, Trouble> {
        // Of many pods at a time: their bytes pass and are not held.
        let counted = match self.open.store.get(key, None).await {
            Ok(object) => Expected::of_stream(object.stream, LOG_MAX).await,
            Err(error) => Err(error),
        };
        let Expected { size, sha256 } = match counted {
            Ok(Some(counted)) => counted,
            // Larger than anything of ours, or listed a moment ago and gone: not what we look for.
            Ok(None) | Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(stuck(error.reason(), &error)),
        };
        let file = CommittedFile {
            output: LOG_OUTPUT.to_owned(),
            seq: 0,
            path: format!("{LOG_OUTPUT}.txt"),
            size,
            sha256: sha256.to_string(),
            media_type: Some(LOG_TYPE.to_owned()),
        };
        Ok(Some(LogFact { pod_uid: pod_uid.to_owned(), file }))
    }

    async fn bytes(&self, key: &str, max: u64) -> Result<Option<bytes::Bytes>, Trouble> {
        match self.open.store.get_bytes(key, max).await {
            Ok(bytes) => Ok(Some(bytes)),
            // Listed a moment ago and gone, or larger than anything of ours: not what we look for.
            Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(stuck(error.reason(), &error)),
        }
    }
}

/// A store that was emptied, or whose volume is not mounted, answers every question with "nothing there".
#[derive(Debug, thiserror::Error)]
pub(crate) enum Emptied {
    /// Not even our own mark is there.
    #[error(
        "the store at {location} lacks the record {key} that the operator wrote there, so what it does not show may \
         still exist: mount its volume or bring its content back"
    )]
    NoOwner { location: String, key: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Emptied {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoOwner { .. } => "StoreEmptied",
            Self::Store(error) => error.reason(),
        }
    }
}

/// Makes sure that "nothing there" can be believed: the mark that was written when the store became Ready is there.
pub(crate) async fn require_owner(open: &OpenStore) -> Result<(), Emptied> {
    let key = open.layout.owner();
    match open.store.head(&key).await {
        Ok(_) => Ok(()),
        Err(StoreError::NotFound { .. }) => Err(Emptied::NoOwner { location: open.store.location(), key }),
        Err(error) => Err(error.into()),
    }
}

/// What is read of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Commit,
    Failure,
    Log,
}

/// A plain step has the one shard 0; files are named by the commit.
fn record(key: AttemptKey) -> Option<(String, Kind)> {
    let kind = match key.kind {
        AttemptKind::Commit => Kind::Commit,
        AttemptKind::Failure => Kind::Failure,
        AttemptKind::Log => Kind::Log,
        AttemptKind::File { .. } | AttemptKind::Items { .. } => return None,
    };
    (key.shard == 0).then_some((key.pod_uid, kind))
}

/// Whether no program of the pod runs any more.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What Kubernetes says of a pod.
pub(super) fn pod_fact(pod: &Pod) -> PodFact {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let task = containers.iter().find(|container| container.name == CONTAINER);
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
    let refused = |condition: &&PodCondition| condition.type_ == "PodScheduled" && condition.status == "False";
    let started = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    PodFact {
        uid: pod.uid().unwrap_or_default(),
        name: pod.name_any(),
        step: label(LABEL_STEP),
        attempt: label(LABEL_ATTEMPT).parse().unwrap_or_default(),
        started: task.and_then(|task| task.state.as_ref()).is_some_and(started),
        disrupted: conditions.iter().any(|it| it.type_ == "DisruptionTarget" && it.status == "True"),
        deleted: pod.metadata.deletion_timestamp.is_some(),
        unschedulable: conditions.iter().find(refused).map(|it| it.message.clone().unwrap_or_default()),
        created: pod.creation_timestamp().map(|time| time.0),
        alive: !has_ended(pod),
        reason: status.and_then(|status| status.reason.clone()),
        message: status.and_then(|status| status.message.clone()).filter(|message| !message.is_empty()),
        // An init container whose image cannot be fetched says more than the task that waits for it.
        waiting: inits.iter().chain(task).find_map(waiting),
        exit: task.and_then(exit),
        image: task.map(|task| task.image_id.clone()).filter(|image| !image.is_empty()),
    }
}

fn waiting(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| reason != "PodInitializing")?;
    Some((reason, waiting.message.clone().unwrap_or_default()))
}

fn exit(container: &ContainerStatus) -> Option<ExitFact> {
    let ended = container.state.as_ref()?.terminated.as_ref()?;
    let message = ended.message.clone().unwrap_or_default();
    Some(ExitFact {
        code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        at: ended.finished_at.as_ref().map(|time| time.0),
        said: serde_json::from_str::<Termination>(&message).ok(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::pod_fact;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "status": status})).expect("a pod")
    }

    #[test]
    fn a_termination_message_of_the_agent_is_understood() {
        let said =
            json!({"outcome": "Failed", "code": "InvalidCourse", "message": "no course.xml", "committed": false});
        let fact = pod_fact(&pod(&json!({"containerStatuses": [
            {"name": "task", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 65, "reason": "Error", "message": said.to_string()}}},
        ]})));
        let exit = fact.exit.expect("it ended");
        assert_eq!((exit.code, exit.said.expect("understood").message.as_str()), (65, "no course.xml"));
    }

    #[test]
    fn any_other_termination_message_is_kept_as_it_is() {
        let fact = pod_fact(&pod(&json!({"reason": "DeadlineExceeded", "containerStatuses": [
            {"name": "task", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 128, "reason": "ContainerCannotRun", "message": "no such file"}}},
        ]})));
        let exit = fact.exit.expect("it ended");
        assert_eq!((exit.said, exit.message.as_str()), (None, "no such file"));
        assert_eq!(fact.reason.as_deref(), Some("DeadlineExceeded"));
    }

    #[test]
    fn what_a_container_waits_for_is_found_in_init_containers_too() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "m"}});
        let container = |name: &str, state: Value| {
            json!({
                "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            })
        };
        let fact = pod_fact(&pod(&json!({
            "initContainerStatuses": [container("asynctask-agent", waiting("ImagePullBackOff"))],
            "containerStatuses": [container("task", waiting("PodInitializing"))],
        })));
        assert_eq!(fact.waiting, Some(("ImagePullBackOff".into(), "m".into())));
        assert_eq!(fact.exit, None);
    }
}
