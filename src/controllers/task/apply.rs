//! Effects of a plan, in its order. Each can be repeated without harm, and stops where something is in the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::TaskController;
use super::error::TaskError;
use super::facts::job_fact;
use super::results::require_owner;
use super::shards::unsealed;
use asynctask_api::names::{ANNOTATION_ABANDON, ANNOTATION_FINISHED, FINALIZER_OUTPUTS, MANAGER_OPERATOR};
use asynctask_api::task::StoreRef;
use asynctask_api::{AsyncTask, TaskState};
use asynctask_plan::decide::Action;
use asynctask_plan::seal::Sealed;
use asynctask_plan::snapshot::{JobRef, Trouble, Turn};
use asynctask_plan::status::Applied;
use asynctask_runtime::client::{explain, is_status};
use asynctask_storage::records::{GoneRecord, Manifest, ManifestFile, VERSION, encode};
use asynctask_storage::{PutMode, StoreError, delete_chosen, delete_prefix};

/// What came of the actions.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What the status is made from.
    pub(super) applied: Applied,
    /// The object after a change to its metadata.
    pub(super) task: Option<Arc<AsyncTask>>,
    /// A Job was made that was not there before.
    pub(super) created: bool,
    /// What the queue said.
    pub(super) turn: Option<Turn>,
    /// Nothing of ours holds the object any more.
    pub(super) released: bool,
}

impl TaskController {
    /// Applies actions. One that meets trouble stops those that rest on what came before; steps stand for themselves.
    pub(super) async fn apply(&self, task: &AsyncTask, actions: &[Action]) -> Result<Done, TaskError> {
        let mut done = Done::default();
        for action in actions {
            let alone = matches!(
                action,
                Action::CreateJob { .. } | Action::Seal { .. } | Action::SealShards { .. } | Action::DeleteJob(_)
            );
            if done.applied.trouble.is_none() || alone {
                self.act(task, action, &mut done).await?;
            }
        }
        Ok(done)
    }

    async fn act(&self, task: &AsyncTask, action: &Action, done: &mut Done) -> Result<(), TaskError> {
        match action {
            Action::Hold => done.task = Some(self.hold(task).await?),
            Action::Take(claim) => done.turn = Some(self.queue.take(task, claim).await?),
            Action::CreateJob { step, job } => self.create_job(task, step, job, done).await?,
            Action::Seal { step, sealed } => match self.seal(task, step, sealed).await {
                Ok(manifest) => drop(done.applied.manifests.insert(step.clone(), manifest)),
                Err(trouble) => done.applied.trouble = Some(trouble),
            },
            Action::SealShards { step, total } => match self.seal_shards(task, step, *total).await {
                Ok(sealed) => drop(done.applied.shards.insert(step.clone(), sealed)),
                Err(trouble) => done.applied.trouble = Some(trouble),
            },
            Action::ReleaseKey(lease) => self.queue.release_key(task, lease).await?,
            Action::Record => done.applied.trouble = self.record(task, false).await.err(),
            Action::RecordExpiry => done.applied.trouble = self.record(task, true).await.err(),
            Action::Mark(state) => done.task = Some(self.mark(task, *state).await?),
            Action::DeleteJob(job) => self.delete_job(task, job).await?,
            Action::DeleteKeys(store) => done.applied.trouble = self.delete_keys(task, store).await.err(),
            Action::Abandon(store) => {
                let (uid, store) = (task.uid().unwrap_or_default(), &store.name);
                tracing::warn!(
                    uid,
                    store,
                    "an administrator abandoned the outputs of this run: what is in the store stays there"
                );
            }
            Action::DeleteOutputs(outputs) => done.applied.trouble = self.delete_outputs(task, outputs).await.err(),
            Action::DeleteTaken { run, output, user } => self.delete_taken(task, run, output, user).await?,
            Action::DeleteTask => self.delete_task(task).await?,
            Action::Release => {
                self.release(task).await?;
                done.released = true;
            }
        }
        Ok(())
    }

    /// Only the version that was looked at: the list of finalizers is written whole.
    async fn hold(&self, task: &AsyncTask) -> Result<Arc<AsyncTask>, TaskError> {
        let held: Vec<&str> = task.finalizers().iter().map(String::as_str).chain([FINALIZER_OUTPUTS]).collect();
        let patch = json!({"metadata": {"resourceVersion": task.resource_version(), "finalizers": held}});
        self.patch_metadata(task, patch).await.map_err(TaskError::Hold)
    }

    async fn release(&self, task: &AsyncTask) -> Result<(), TaskError> {
        let held: Vec<&String> = task.finalizers().iter().filter(|name| *name != FINALIZER_OUTPUTS).collect();
        let patch = json!({"metadata": {"resourceVersion": task.resource_version(), "finalizers": held}});
        match self.patch_metadata(task, patch).await {
            Ok(_) => Ok(()),
            Err(gone) if is_status(&gone, 404) => Ok(()),
            Err(source) => Err(TaskError::Release(source)),
        }
    }

    /// Any version of this very object: whoever edits other annotations at the same time is not in the way.
    async fn mark(&self, task: &AsyncTask, state: TaskState) -> Result<Arc<AsyncTask>, TaskError> {
        let patch = json!({"metadata": {"uid": task.uid(), "annotations": {ANNOTATION_FINISHED: state.as_str()}}});
        self.patch_metadata(task, patch).await.map_err(TaskError::Mark)
    }

    async fn patch_metadata(&self, task: &AsyncTask, patch: Value) -> Result<Arc<AsyncTask>, kube::Error> {
        let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
        let patched = self.tasks(task).patch_metadata(&task.name_any(), &params, &Patch::Merge(patch)).await?;
        let task = AsyncTask { metadata: patched.metadata, ..task.clone() };
        self.freshness.wrote(&task);
        Ok(Arc::new(task))
    }

    /// One that is there already and this run's own is as good: somebody was faster, or the answer to us was lost.
    async fn create_job(&self, task: &AsyncTask, step: &str, job: &Value, done: &mut Done) -> Result<(), TaskError> {
        let object: DynamicObject = serde_json::from_value(job.clone()).expect("invariant: a built Job is an object");
        let name = object.name_any();
        let resource = ApiResource::erase::<Job>(&());
        let namespace = task.namespace().unwrap_or_default();
        let api = Api::<DynamicObject>::namespaced_with(self.context.client.clone(), &namespace, &resource);
        let params = PostParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PostParams::default() };
        match api.create(&params, &object).await {
            Ok(made) => {
                let job: Job = made.try_parse().expect("invariant: the API server's Job is a Job");
                done.applied.jobs.insert(step.to_owned(), job_fact(&job, task));
                done.created = true;
                Ok(())
            }
            Err(error) if is_status(&error, 409) => match self.job(task, &name).await? {
                Some(job) => {
                    done.applied.jobs.insert(step.to_owned(), job);
                    Ok(())
                }
                None => Err(TaskError::CreateJob { name, source: error }),
            },
            Err(error) if is_refusal(&error) => {
                let message = format!("the API server refuses Job {name}: {}", explain(&error));
                done.applied.trouble = Some(Trouble { reason: "JobRefused", message });
                Ok(())
            }
            Err(source) => Err(TaskError::CreateJob { name, source }),
        }
    }

    async fn seal(&self, task: &AsyncTask, step: &str, sealed: &Sealed) -> Result<String, Trouble> {
        let fail = unsealed;
        let pinned = task.status.as_ref().and_then(|status| status.store.as_ref());
        let pinned = pinned.expect("invariant: what is sealed was read from the store the run is pinned to");
        let open = self.context.stores.by_ref(pinned).await.map_err(|error| fail(error.reason(), &error))?;
        let uid = task.uid().unwrap_or_default();
        let keys = open.layout.task(&task.namespace().unwrap_or_default(), &uid).and_then(|keys| keys.step(step));
        let keys = keys.map_err(|error| fail("InvalidKey", &error))?;
        let attempt = keys.attempt(0, &sealed.pod_uid).map_err(|error| fail("InvalidKey", &error))?;
        let mut files = Vec::with_capacity(sealed.files.len());
        for file in &sealed.files {
            files.push(ManifestFile {
                output: file.output.clone(),
                seq: file.seq,
                path: file.path.clone(),
                size: file.size,
                sha256: file.sha256.parse().map_err(|error| fail("InvalidRecord", &error))?,
                media_type: file.media_type.clone(),
                key: attempt.file(&file.output, file.seq).map_err(|error| fail("InvalidKey", &error))?,
            });
        }
        let pod_uid = sealed.pod_uid.clone();
        let (bytes, digest) =
            Manifest { version: VERSION, task_uid: uid, step: step.to_owned(), pod_uid, files, pages: Vec::new() }
                .seal();
        match open.store.put(&keys.manifest(digest), bytes, PutMode::Create).await {
            // Named by its content: what is there is the same.
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(digest.to_string()),
            Err(error) => Err(fail(error.reason(), &error)),
        }
    }

    /// Exactly the Job that was seen, with its pods. One that is gone or was made anew meanwhile is no error. It stays
    /// until its pods have ended: they can tell their last words, and its end is the event that theirs is not.
    async fn delete_job(&self, task: &AsyncTask, job: &JobRef) -> Result<(), TaskError> {
        let api = Api::<Job>::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default());
        let this = Preconditions { uid: Some(job.uid.clone()), resource_version: None };
        match api.delete(&job.name, &DeleteParams { preconditions: Some(this), ..DeleteParams::foreground() }).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
            Err(source) => Err(TaskError::DeleteJob { name: job.name.clone(), source }),
        }
    }

    /// Exactly the version that was looked at: whoever extends its time at this moment is heard.
    async fn delete_task(&self, task: &AsyncTask) -> Result<(), TaskError> {
        let this = Preconditions { uid: task.uid(), resource_version: task.resource_version() };
        let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        tracing::info!(uid = task.uid(), task = task.name_any(), "its time is up: it is deleted");
        match self.tasks(task).delete(&task.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
            Err(source) => Err(TaskError::DeleteTask(source)),
        }
    }

    async fn delete_outputs(&self, task: &AsyncTask, outputs: &BTreeSet<String>) -> Result<(), Trouble> {
        let fail = |reason: &'static str, error: &dyn std::error::Error| Trouble {
            reason,
            message: format!(
                "outputs of this run whose time is up cannot be deleted: {error}. It is tried again until they are gone"
            ),
        };
        let Some(status) = &task.status else { return Ok(()) };
        let pinned = status.store.as_ref().expect("invariant: only a run that has a store gave outputs");
        let open = self.context.stores.by_ref(pinned).await.map_err(|error| fail(error.reason(), &error))?;
        require_owner(&open).await.map_err(|error| fail(error.reason(), &error))?;
        let uid = task.uid().unwrap_or_default();
        let keys = open.layout.task(&task.namespace().unwrap_or_default(), &uid);
        let keys = keys.map_err(|error| fail("InvalidKey", &error))?;
        let mut deleted = 0;
        for step in &status.steps {
            let keys = keys.step(&step.name).map_err(|error| fail("InvalidKey", &error))?;
            // Of every attempt: what a losing one left is no less somebody's output.
            let chosen = |key: &str| {
                keys.parse(key).is_some_and(|key| key.output().is_some_and(|output| outputs.contains(output)))
            };
            let some = delete_chosen(open.store.as_ref(), keys.attempts_prefix(), chosen).await;
            deleted += some.map_err(|error| fail(error.reason(), &error))?;
        }
        tracing::info!(uid, ?outputs, objects = deleted, "outputs deleted");
        Ok(())
    }

    async fn delete_keys(&self, task: &AsyncTask, store: &StoreRef) -> Result<(), Trouble> {
        let fail = |reason: &'static str, error: &dyn std::error::Error| Trouble {
            reason,
            message: format!(
                "the outputs of this run cannot be deleted, and until they are the object stays: {error}. It is tried \
                 again until they are gone. {}",
                way_out(task, store)
            ),
        };
        let open = self.context.stores.by_ref(store).await.map_err(|error| fail(error.reason(), &error))?;
        let uid = task.uid().unwrap_or_default();
        let keys = open.layout.task(&task.namespace().unwrap_or_default(), &uid);
        let keys = keys.map_err(|error| fail("InvalidKey", &error))?;
        require_owner(&open).await.map_err(|error| fail(error.reason(), &error))?;
        // What is still on its way comes after this; by the marker it is known for what it is.
        let marker = open.layout.gone(&task.namespace().unwrap_or_default(), &uid);
        let marker = marker.map_err(|error| fail("InvalidKey", &error))?;
        let gone = GoneRecord { task_uid: uid.clone(), deleted_at: Timestamp::now() };
        let marked = open.store.put(&marker, encode(&gone), PutMode::Overwrite).await;
        marked.map_err(|error| fail(error.reason(), &error))?;
        let deleted = delete_prefix(open.store.as_ref(), keys.prefix()).await;
        let deleted = deleted.map_err(|error| fail(error.reason(), &error))?;
        tracing::info!(uid, objects = deleted, "outputs deleted");
        Ok(())
    }
}

/// What an administrator can do about a run that cannot be deleted because its store is gone.
pub(super) fn way_out(task: &AsyncTask, store: &StoreRef) -> String {
    format!(
        "Should the store be gone for good, an administrator abandons the outputs: kubectl annotate asynctask {} \
         {ANNOTATION_ABANDON}={}",
        task.name_any(),
        store.name
    )
}

/// The API server understood and said no: the same call may be taken later, but not because it is repeated at once.
fn is_refusal(error: &kube::Error) -> bool {
    [400, 403, 404, 422].into_iter().any(|code| is_status(error, code))
}
