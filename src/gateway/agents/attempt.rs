//! From a pod's identity to the attempt it runs: Pod → controller Job → controller AsyncTask, UIDs compared at each
//! link. A name alone proves nothing: an object may have been made anew under it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Api, Client, ResourceExt};

use super::fence::{self, Closed, JobFacts, TaskFacts};
use crate::cache::Cache;
use crate::identity::PodIdentity;
use crate::problem::Refusal;
use asynctask_api::AsyncTask;
use asynctask_api::condition::cut;
use asynctask_api::names::{ANNOTATION_SHARDS, GROUP, LABEL_ATTEMPT, LABEL_STEP, LABEL_TASK_UID};
use asynctask_api::task::{RevisionRef, StoreRef};
use asynctask_contract::env::CONTAINER;
use asynctask_plan::shards::ShardSet;

/// Label, and annotation, of a pod of an Indexed Job: which of its indexes it runs.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How long the chain behind a pod is believed where no decision hangs on it: uploads and progress.
const BELIEVED: Duration = Duration::from_secs(10);
const REMEMBERED: usize = 10_000;
/// Longest name of an image.
const IMAGE_MAX: usize = 512;

/// The attempt a pod runs.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) task: Arc<AsyncTask>,
    pub(super) namespace: String,
    pub(super) step: String,
    /// Which shard of a fan-out; `None`: the step is one pod.
    pub(super) shard: Option<u32>,
    pub(super) pod_uid: String,
    pub(super) terminating: bool,
    /// Image that its program runs from, as the node resolved it, once the node has said so.
    pub(super) image: Option<String>,
    pub(super) job: JobFacts,
}

impl Attempt {
    pub(super) fn task_uid(&self) -> String {
        self.task.uid().unwrap_or_default()
    }

    /// For the audit line.
    pub(super) fn what(&self) -> String {
        let shard = self.shard.map(|shard| format!(" shard {shard}")).unwrap_or_default();
        format!("{}/{} {}/{}{shard}", self.namespace, self.task.name_any(), self.step, self.job.attempt)
    }

    pub(super) fn task_facts(&self) -> TaskFacts {
        let status = self.task.status.as_ref();
        let step = status.and_then(|status| status.steps.iter().find(|step| step.name == self.step));
        TaskFacts {
            deleting: self.task.metadata.deletion_timestamp.is_some(),
            state: status.and_then(|status| status.state),
            suspended: self.task.spec.is_suspended(),
            step: step.and_then(|step| step.state),
            guarded: step.is_some_and(|step| step.guarded == Some(true)),
            current: step.and_then(|step| step.attempt).and_then(|attempt| u32::try_from(attempt).ok()),
        }
    }

    /// Lets the call go on while the attempt may commit or enter a stage.
    pub(super) fn require_open(&self) -> Result<(), Refusal> {
        fence::open(self.task_facts(), self.job).map_err(refusal)
    }

    /// Lets the call go on while the attempt may upload or report.
    pub(super) fn require_heard(&self) -> Result<(), Refusal> {
        fence::heard(self.task_facts(), self.job).map_err(refusal)
    }

    pub(super) fn revision(&self) -> Result<&RevisionRef, Refusal> {
        self.task.status.as_ref().and_then(|status| status.revision.as_ref()).ok_or_else(not_yet)
    }

    pub(super) fn store(&self) -> Result<&StoreRef, Refusal> {
        self.task.status.as_ref().and_then(|status| status.store.as_ref()).ok_or_else(not_yet)
    }
}

fn refusal(closed: Closed) -> Refusal {
    match closed {
        Closed::NotYet => not_yet(),
        Closed::Over(why) => Refusal::Superseded(why),
    }
}

pub(super) fn not_yet() -> Refusal {
    Refusal::NotYet("the operator has not written down the start of this attempt yet: ask again in a second".into())
}

/// Finds attempts and remembers them for a moment.
pub(crate) struct Attempts {
    client: Client,
    recent: Cache<String, Arc<Attempt>>,
}

impl Attempts {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, recent: Cache::new(BELIEVED, REMEMBERED) }
    }

    /// All of the chain, read now.
    pub(super) async fn live(&self, pod: &PodIdentity) -> Result<Arc<Attempt>, Refusal> {
        let attempt = Arc::new(self.read(pod).await?);
        self.recent.put(pod.uid.clone(), Arc::clone(&attempt));
        Ok(attempt)
    }

    /// The chain as it was at most ten seconds ago.
    pub(super) async fn recent(&self, pod: &PodIdentity) -> Result<Arc<Attempt>, Refusal> {
        match self.recent.get(&pod.uid) {
            Some(attempt) => Ok(attempt),
            None => self.live(pod).await,
        }
    }

    /// The same attempt with its task read now.
    pub(super) async fn with_live_task(&self, attempt: &Attempt) -> Result<Attempt, Refusal> {
        let task = self.task(&attempt.namespace, &attempt.task.name_any(), &attempt.task_uid()).await?;
        Ok(Attempt { task: Arc::new(task), ..attempt.clone() })
    }

    async fn read(&self, identity: &PodIdentity) -> Result<Attempt, Refusal> {
        let namespace = &identity.namespace;
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pod = pods.get_opt(&identity.name).await;
        let pod = pod.map_err(|source| Refusal::Kube { act: "read the calling pod", source })?;
        // The token outlives its pod by a moment; a pod that is gone has no say.
        let pod = pod.filter(|pod| pod.uid().as_deref() == Some(&identity.uid)).ok_or(Refusal::Unauthenticated)?;
        if is_given_up(&pod.metadata) {
            let why = "this pod was deleted by force, and its work is done elsewhere: nothing of it is taken any more";
            return Err(Refusal::Superseded(why.into()));
        }
        let stranger = || Refusal::Forbidden("this pod runs no step of an AsyncTask".into());
        let labelled = pod.labels().get(LABEL_TASK_UID).ok_or_else(stranger)?;
        let job = controller(pod.owner_references(), "batch", "Job").ok_or_else(stranger)?;
        let job = self.job(namespace, job).await?;
        let owner = controller(job.owner_references(), GROUP, "AsyncTask").ok_or_else(stranger)?;
        if *labelled != owner.uid {
            return Err(stranger());
        }
        let task = self.task(namespace, &owner.name, &owner.uid).await?;
        let label = |key: &str| job.labels().get(key).cloned();
        let attempt = label(LABEL_ATTEMPT).and_then(|text| text.parse().ok()).ok_or_else(stranger)?;
        let facts = JobFacts { attempt, deleting: job.metadata.deletion_timestamp.is_some(), finished: finished(&job) };
        Ok(Attempt {
            task: Arc::new(task),
            namespace: namespace.clone(),
            step: label(LABEL_STEP).ok_or_else(stranger)?,
            shard: shard(&pod.metadata, &job)?,
            pod_uid: identity.uid.clone(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            image: image(&pod),
            job: facts,
        })
    }

    async fn job(&self, namespace: &str, owner: &OwnerReference) -> Result<Job, Refusal> {
        let read = Api::<Job>::namespaced(self.client.clone(), namespace).get_opt(&owner.name).await;
        let read = read.map_err(|source| Refusal::Kube { act: "read the Job of the calling pod", source })?;
        let same = read.filter(|job| job.uid().as_ref() == Some(&owner.uid));
        same.ok_or_else(|| Refusal::Superseded("the Job of this attempt is gone".into()))
    }

    async fn task(&self, namespace: &str, name: &str, uid: &str) -> Result<AsyncTask, Refusal> {
        let read = Api::<AsyncTask>::namespaced(self.client.clone(), namespace).get_opt(name).await;
        let read = read.map_err(|source| Refusal::Kube { act: "read the AsyncTask of the calling pod", source })?;
        let same = read.filter(|task| task.uid().as_deref() == Some(uid));
        same.ok_or_else(|| Refusal::Superseded("the AsyncTask was deleted".into()))
    }
}

fn controller<'a>(owners: &'a [OwnerReference], group: &str, kind: &str) -> Option<&'a OwnerReference> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let (its_group, _) = owner.api_version.split_once('/')?;
    (its_group == group && owner.kind == kind).then_some(owner)
}

/// Whether a pod is gone for the cluster, whatever still runs of it on a node that is not heard of. It is listed only
/// until the Job controller has counted it. A kubelet says the same of a pod whose containers have ended.
fn is_given_up(pod: &ObjectMeta) -> bool {
    pod.deletion_timestamp.is_some() && pod.deletion_grace_period_seconds == Some(0)
}

/// The shard a pod runs: its index, or what the index stands for where the Job runs only some of the shards. A pod of
/// which nobody knows must not write where another one's results are.
fn shard(pod: &ObjectMeta, job: &Job) -> Result<Option<u32>, Refusal> {
    if job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) != Some("Indexed") {
        return Ok(None);
    }
    let unknown = |what: &str| Refusal::Forbidden(format!("the shard of this pod cannot be told: {what}"));
    let said = [&pod.labels, &pod.annotations];
    let index = said.into_iter().flatten().find_map(|map| map.get(COMPLETION_INDEX));
    let index = index.and_then(|index| index.parse().ok());
    let index = index.ok_or_else(|| unknown("it names no index of its Job"))?;
    let Some(packed) = job.annotations().get(ANNOTATION_SHARDS) else { return Ok(Some(index)) };
    let shards = ShardSet::unpack(packed).map_err(|_| unknown("its Job names no list of shards"))?;
    shards.nth(index).map(Some).ok_or_else(|| unknown("its Job has no shard for its index"))
}

/// The node's word for the image of the author's container: `name@sha256:…`.
fn image(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let task = containers.iter().find(|container| container.name == CONTAINER)?;
    Some(cut(&task.image_id, IMAGE_MAX)).filter(|image| !image.is_empty())
}

fn finished(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let over = |kind: &str, status: &str| matches!(kind, "Complete" | "Failed") && status == "True";
    conditions.is_some_and(|all| all.iter().any(|condition| over(&condition.type_, &condition.status)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn owner(api_version: &str, kind: &str, controller: Option<bool>) -> OwnerReference {
        OwnerReference { api_version: api_version.into(), kind: kind.into(), controller, ..OwnerReference::default() }
    }

    #[test]
    fn only_the_controller_of_the_right_kind_is_followed() {
        let job = owner("batch/v1", "Job", Some(true));
        assert!(controller(std::slice::from_ref(&job), "batch", "Job").is_some());
        assert!(controller(&[owner("batch/v1", "Job", None)], "batch", "Job").is_none());
        assert!(controller(&[owner("evil.example/v1", "Job", Some(true))], "batch", "Job").is_none());
        assert!(controller(&[owner("v1", "Job", Some(true))], "batch", "Job").is_none());
        assert!(controller(&[owner("apps/v1", "ReplicaSet", Some(true)), job], "batch", "Job").is_none());
    }
    fn of(pod: serde_json::Value, job: serde_json::Value) -> Result<Option<u32>, Refusal> {
        let pod: ObjectMeta = serde_json::from_value(pod).expect("metadata");
        shard(&pod, &serde_json::from_value(job).expect("a Job"))
    }

    #[test]
    fn an_index_stands_for_its_shard() {
        let label = json!({"labels": {COMPLETION_INDEX: "2"}});
        let annotated = json!({"annotations": {COMPLETION_INDEX: "2"}});
        let job = |shards: serde_json::Value| json!({"metadata": {"annotations": shards}, "spec": {"completionMode": "Indexed", "template": {}}});
        assert!(matches!(of(label.clone(), job(json!({}))), Ok(Some(2))));
        assert!(matches!(of(annotated, job(json!({}))), Ok(Some(2))), "servers that do not label");
        assert!(matches!(of(label.clone(), job(json!({ANNOTATION_SHARDS: "3,7-9"}))), Ok(Some(8))));
        assert!(matches!(of(label.clone(), json!({"spec": {"template": {}}})), Ok(None)), "a plain Job");
        for (pod, shards) in [
            (json!({}), json!({})),
            (json!({"labels": {COMPLETION_INDEX: "-1"}}), json!({})),
            (label.clone(), json!({ANNOTATION_SHARDS: "3,7"})),
            (label.clone(), json!({ANNOTATION_SHARDS: "some"})),
        ] {
            assert!(matches!(of(pod.clone(), job(shards.clone())), Err(Refusal::Forbidden(_))), "{pod} {shards}");
        }
    }
}
