//! Reads only: what the plan needs to know, by the phase the run is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Request;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::TaskController;
use super::error::TaskError;
use super::facts::job_fact;
use super::history;
use super::results;
use super::revisions::Known as KnownRevision;
use super::shards::{self, Ended};
use asynctask_api::condition::{self, READY};
use asynctask_api::names::{LABEL_STEP, LABEL_TASK_UID};
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, RevisionRef, StoreRef};
use asynctask_api::{AsyncTask, OutputStore, TaskDefinition, whole};
use asynctask_plan::definition::ValidatedDefinition;
use asynctask_plan::snapshot::{
    Admission, DefinitionFact, EarlierRun, Execution, JobFact, JobRef, Phase, Remains, Results, RetryFact, Seen,
    Snapshot, Trouble, Turn, UploadFact, attempt, job_name, lingering, needs_pods, once_since, phase, running,
};
use asynctask_plan::stores::{NoStore, choose};
use asynctask_plan::tally::Tally;
use asynctask_runtime::client::is_status;
use asynctask_storage::StoreError;
use asynctask_storage::records::{self, RECORD_MAX, UploadRecord};

/// Field selector of pods whose program may still run.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// What this reconcile knows beside what the watches show.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Jobs that were made a moment ago.
    pub(super) jobs: Vec<JobFact>,
    /// What the queue said.
    pub(super) turn: Option<Turn>,
}

/// The store a run would use, and what it knows of its uploads and of earlier runs of its name.
struct OfStore {
    store: Result<StoreRef, NoStore>,
    uploads: BTreeMap<String, UploadFact>,
    earlier: Result<Option<EarlierRun>, String>,
}

impl OfStore {
    fn none(why: NoStore) -> Self {
        Self { store: Err(why), uploads: BTreeMap::new(), earlier: Ok(None) }
    }
}

impl TaskController {
    /// All that the plan needs to know.
    pub(super) async fn observe(&self, task: Arc<AsyncTask>, known: Known) -> Result<Snapshot, TaskError> {
        let seen = match phase(&task) {
            Phase::New => Seen::New(Box::new(self.admission(&task, known).await?)),
            Phase::Pinned => Seen::Pinned(Box::new(self.execution(&task, known).await?)),
            Phase::Restored => Seen::Nothing,
            Phase::Finished => Seen::Finished { takers: self.takers_if_due(&task) },
            Phase::Deleting => Seen::Deleting(self.remains(&task).await?),
        };
        Ok(Snapshot { task, seen })
    }

    /// The object as it is now; `None` when it, or the one we know, is gone.
    pub(super) async fn live(&self, task: &AsyncTask) -> Result<Option<Arc<AsyncTask>>, TaskError> {
        let read = self.whole(&task.namespace().unwrap_or_default(), &task.name_any()).await;
        Ok(read.map_err(TaskError::ReadTask)?.filter(|live| live.uid() == task.uid()).map(Arc::new))
    }

    /// A run as it is now, with its parameters.
    pub(super) async fn whole(&self, namespace: &str, name: &str) -> Result<Option<AsyncTask>, kube::Error> {
        let path = AsyncTask::url_path(&(), Some(namespace));
        let request = Request::get(format!("{path}/{name}")).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.context.whole.request_text(request).await {
            Ok(text) => whole::read(&text).map(Some).map_err(kube::Error::SerdeError),
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn tasks(&self, task: &AsyncTask) -> Api<AsyncTask> {
        Api::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default())
    }

    async fn admission(&self, task: &AsyncTask, known: Known) -> Result<Admission, TaskError> {
        let jobs = if known.jobs.is_empty() { self.cached_jobs_of(task) } else { known.jobs };
        let (retry, outputs) = (self.retry(task).await?, self.outputs(task).await?);
        let continued = match &retry {
            Some(RetryFact::Found(run)) => run.status.clone().unwrap_or_default(),
            Some(RetryFact::Missing) | None => AsyncTaskStatus::default(),
        };
        let definition = self.definition(task, jobs.first(), continued.revision.as_ref()).await?;
        let OfStore { store, uploads, earlier } = match &definition {
            // What is taken over is in that run's store, so this run's own results are, too.
            DefinitionFact::Ready { content, .. } => {
                let wanted = continued.store.as_ref().map(|store| store.name.as_str()).or(content.store.as_deref());
                self.store(task, wanted, once_since(task, &content.retention, Timestamp::now())).await?
            }
            DefinitionFact::Missing(_) | DefinitionFact::NotReady(_) => OfStore::none(NoStore::NoDefault),
        };
        let parameters = task.spec.parameters.clone().unwrap_or_else(|| json!({}));
        let pods = if task.spec.is_canceled() { self.pods(task, &[]).await? } else { Vec::new() };
        let pods = pods.iter().map(results::pod_fact).collect();
        let (turn, agent) = (known.turn, self.context.agent());
        Ok(Admission { definition, store, parameters, uploads, retry, outputs, earlier, jobs, pods, turn, agent })
    }

    fn cached_jobs_of(&self, task: &AsyncTask) -> Vec<JobFact> {
        let Some(uid) = task.uid() else { return Vec::new() };
        let namespace = task.namespace();
        let of_task = |job: &Arc<Job>| job.namespace() == namespace && job.labels().get(LABEL_TASK_UID) == Some(&uid);
        let found = self.caches.jobs_of.get(&uid).into_iter().filter_map(|job| self.caches.jobs.get(&job));
        found.filter(of_task).map(|job| job_fact(&job, task)).filter(|job| job.ours).collect()
    }

    /// Which revision the run would be pinned to: the one its Job was built from, the one it asks for, the one of the
    /// run that it continues, or the definition's current one.
    async fn definition(
        &self,
        task: &AsyncTask,
        job: Option<&JobFact>,
        continued: Option<&RevisionRef>,
    ) -> Result<DefinitionFact, TaskError> {
        let namespace = task.namespace().unwrap_or_default();
        let wanted = &task.spec.definition;
        let built_from = job.and_then(|job| job.revision.as_ref());
        let continued = continued.map(|revision| &revision.name);
        if let Some(name) = built_from.or(wanted.revision.as_ref()).or(continued) {
            let known = self.revisions.named(&namespace, name).await?;
            let known = known.filter(|known| known.definition == wanted.name);
            let missing = || {
                let hint = "leave spec.definition.revision and spec.retryOf out to run the current one";
                let definition = &wanted.name;
                format!("TaskRevision {name} of {definition} does not exist in namespace {namespace}: {hint}")
            };
            return Ok(known.map_or_else(|| DefinitionFact::Missing(missing()), usable));
        }
        let Some(definition) = self.find_definition(&namespace, &wanted.name).await? else {
            let name = &wanted.name;
            let hint = "create it there, or correct spec.definition.name in a new AsyncTask";
            let what = format!("TaskDefinition {name} does not exist in namespace {namespace}: {hint}");
            return Ok(DefinitionFact::Missing(what));
        };
        match current(&definition) {
            Err(why) => Ok(DefinitionFact::NotReady(why)),
            Ok(reference) => {
                let gone = || format!("the revision of TaskDefinition {} is on its way", wanted.name);
                let known = self.revisions.pinned(&namespace, &reference).await?;
                Ok(known.map_or_else(|| DefinitionFact::NotReady(gone()), usable))
            }
        }
    }

    /// From our copy when that is ready to run; else as it is now: it may have become so a moment ago.
    async fn find_definition(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<DeserializeGuard<TaskDefinition>>>, TaskError> {
        let cached = self.caches.definitions.get(&ObjectRef::new(name).within(namespace));
        if let Some(ready) = cached.filter(|definition| current(definition).is_ok()) {
            return Ok(Some(ready));
        }
        let api = Api::<DeserializeGuard<TaskDefinition>>::namespaced(self.context.client.clone(), namespace);
        let read = api.get_opt(name).await;
        let read = read.map_err(|source| TaskError::ReadDefinition { name: name.to_owned(), source })?;
        Ok(read.map(Arc::new))
    }

    /// The store the run would use, and what it knows.
    async fn store(
        &self,
        task: &AsyncTask,
        wanted: Option<&str>,
        once_since: Option<Timestamp>,
    ) -> Result<OfStore, TaskError> {
        let cached = self.caches.stores.state().iter().filter_map(|store| store.0.as_ref().ok().cloned()).collect();
        let chosen = match self.choose(task, wanted, cached).await? {
            Ok(store) => Ok(store),
            // One may have become ready a moment ago.
            Err(_) => {
                let api = Api::<DeserializeGuard<OutputStore>>::all(self.context.client.clone());
                let listed = api.list(&ListParams::default()).await.map_err(TaskError::ListStores)?;
                self.choose(task, wanted, listed.items.into_iter().filter_map(|store| store.0.ok()).collect()).await?
            }
        };
        let store = match chosen {
            Ok(store) => store,
            Err(none) => return Ok(OfStore::none(none)),
        };
        let uploads = self.uploads(task, &store).await;
        let earlier = match once_since {
            Some(since) => self.earlier(task, &store, since).await,
            None => Ok(None),
        };
        let store = StoreRef { name: store.name_any(), uid: store.uid().unwrap_or_default() };
        Ok(OfStore { store: Ok(store), uploads, earlier })
    }

    /// The newest run of this name since then, by the history records of each month.
    async fn earlier(
        &self,
        task: &AsyncTask,
        store: &OutputStore,
        since: Timestamp,
    ) -> Result<Option<EarlierRun>, String> {
        let open = self.context.stores.open(store).await.map_err(|error| error.to_string())?;
        let found = history::since(&open, task, since).await.map_err(|error| error.to_string())?;
        Ok(found.map(history::earlier))
    }

    async fn choose(
        &self,
        task: &AsyncTask,
        wanted: Option<&str>,
        stores: Vec<OutputStore>,
    ) -> Result<Result<OutputStore, NoStore>, TaskError> {
        let name = task.namespace().unwrap_or_default();
        // Labels decide only where a store asks for them.
        let labels = if stores.iter().any(|store| store.spec.namespaces.is_some()) {
            let api = Api::<Namespace>::all(self.context.client.clone());
            let read = api.get_metadata(&name).await;
            read.map_err(|source| TaskError::ReadNamespace { name, source })?.labels().clone()
        } else {
            BTreeMap::new()
        };
        Ok(choose(&stores, wanted, &labels).cloned())
    }

    async fn uploads(&self, task: &AsyncTask, store: &OutputStore) -> BTreeMap<String, UploadFact> {
        let namespace = task.namespace().unwrap_or_default();
        let mut facts = BTreeMap::new();
        for (input, reference) in &task.spec.inputs {
            if let Some(upload) = &reference.upload {
                facts.insert(input.clone(), self.upload(&namespace, upload, store).await);
            }
        }
        facts
    }

    async fn upload(&self, namespace: &str, id: &str, store: &OutputStore) -> UploadFact {
        let open = match self.context.stores.open(store).await {
            Ok(open) => open,
            Err(error) => return UploadFact::Unreadable(error.to_string()),
        };
        // An id that can be no part of a key was never given out.
        let Ok(keys) = open.layout.upload(namespace, id) else { return UploadFact::Missing };
        let bytes = match open.store.get_bytes(&keys.record(), RECORD_MAX).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => {
                let emptied = results::require_owner(&open).await.err();
                return emptied.map_or(UploadFact::Missing, |error| UploadFact::Unreadable(error.to_string()));
            }
            Err(error) => return UploadFact::Unreadable(error.to_string()),
        };
        match records::decode::<UploadRecord>(&bytes) {
            Ok(record) if record.namespace == namespace && record.id == id => UploadFact::Found {
                uploader: record.uploader,
                definition: record.definition,
                input: record.input,
                complete: record.complete,
            },
            Ok(_) => UploadFact::Missing,
            Err(error) => UploadFact::Unreadable(error.to_string()),
        }
    }

    async fn execution(&self, task: &AsyncTask, known: Known) -> Result<Execution, TaskError> {
        let status = task.status.clone().unwrap_or_default();
        let content = self.content(task, &status).await?;
        let jobs = self.jobs_of(task, &status, known.jobs).await?;
        let fans = fans_out(&status, content.as_deref().ok());
        let mut results = BTreeMap::new();
        for (step, attempt) in running(&status).filter(|(step, _)| !fans.contains(step)) {
            let job = jobs.iter().find(|job| job.step == step && job.attempt == attempt);
            if job.is_none_or(|job| job.end.is_some()) {
                results.insert(step.to_owned(), results::read(&self.context.stores, task, step).await);
            }
        }
        let unexplained = |left: &Result<Results, Trouble>| left.as_ref().is_ok_and(|left| left.commits.is_empty());
        let now = Timestamp::now();
        let mut pods = Vec::new();
        if results.values().any(unexplained) || needs_pods(task, &jobs, now) {
            pods = self.pods(task, &fans).await?.iter().map(results::pod_fact).collect();
        }
        for (step, attempt) in running(&status).filter(|(step, _)| !fans.contains(step)) {
            let over = lingering(&pods, step, attempt).is_some_and(|(_, until)| until <= now);
            if over && !results.contains_key(step) {
                results.insert(step.to_owned(), results::read(&self.context.stores, task, step).await);
            }
        }
        for left in results.values_mut().flatten() {
            left.pods.clone_from(&pods);
        }
        let tallies = self.tallies_of(task, &status, &fans, &jobs).await;
        let quiet_until = self.quiet.until(&task.uid().unwrap_or_default(), Timestamp::now());
        let (turn, agent) = (known.turn, self.context.agent());
        Ok(Execution { content, jobs, results, tallies, quiet_until, pods, turn, agent })
    }

    /// What came of the shards of steps whose pods have ended, or that are to run what is left of them.
    async fn tallies_of(
        &self,
        task: &AsyncTask,
        status: &AsyncTaskStatus,
        fans: &[&str],
        jobs: &[JobFact],
    ) -> BTreeMap<String, Result<Tally, Trouble>> {
        let mut tallies = BTreeMap::new();
        for step in status.steps.iter().filter(|step| fans.contains(&step.name.as_str())) {
            let total = step.shards.as_ref().and_then(|shards| u32::try_from(shards.total).ok());
            let (Some(total), Some(end)) = (total, shards::due(step, jobs, Timestamp::now())) else { continue };
            let (uid, name) = (task.uid().unwrap_or_default(), step.name.clone());
            let ended = Ended { uid, step: name.clone(), attempt: attempt(step), end };
            let tally = match self.tallies.recall(&ended) {
                Some(tally) => Ok(tally),
                None => self.tally(task, &name, total).await,
            };
            if let Ok(tally) = &tally {
                self.tallies.remember(ended, tally.clone());
            }
            tallies.insert(name, tally);
        }
        tallies
    }

    async fn content(
        &self,
        task: &AsyncTask,
        status: &AsyncTaskStatus,
    ) -> Result<Result<Arc<ValidatedDefinition>, String>, TaskError> {
        let pinned = status.revision.as_ref().expect("invariant: only a pinned run is asked for its content");
        let known = self.revisions.pinned(&task.namespace().unwrap_or_default(), pinned).await?;
        let Some(known) = known else {
            let name = &pinned.name;
            return Ok(Err(format!("TaskRevision {name}, which this run is pinned to, was deleted: run it again")));
        };
        Ok(known.content.map_err(|invalid| {
            format!("TaskRevision {} does not pass the checks of this operator: {invalid}", pinned.name)
        }))
    }

    /// The Jobs of the attempts that steps are in, and of those that come next. One that must be there and is in no
    /// copy is asked for.
    async fn jobs_of(
        &self,
        task: &AsyncTask,
        status: &AsyncTaskStatus,
        known: Vec<JobFact>,
    ) -> Result<Vec<JobFact>, TaskError> {
        let namespace = task.namespace().unwrap_or_default();
        let mut jobs = Vec::new();
        for step in &status.steps {
            for number in attempt(step)..=attempt(step) + 1 {
                let name = job_name(task, &step.name, number);
                let cached = self.caches.jobs.get(&ObjectRef::new(&name).within(&namespace));
                let cached =
                    cached.map(|job| job_fact(&job, task)).or_else(|| known.iter().find(|j| j.name == name).cloned());
                let must_be = step.state == Some(StepState::Running) && number == attempt(step);
                let fact = if cached.is_none() && must_be { self.job(task, &name).await? } else { cached };
                jobs.extend(fact.filter(|job| job.ours));
            }
        }
        Ok(jobs)
    }

    /// The Job of this name as it is now.
    pub(super) async fn job(&self, task: &AsyncTask, name: &str) -> Result<Option<JobFact>, TaskError> {
        let api = Api::<Job>::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default());
        let read = api.get_opt(name).await;
        let read = read.map_err(|source| TaskError::ReadJob { name: name.to_owned(), source })?;
        Ok(read.map(|job| job_fact(&job, task)))
    }

    /// Of steps that fan out only the pods that have not ended: there are no more of them than run side by side.
    async fn pods(&self, task: &AsyncTask, fans: &[&str]) -> Result<Vec<Pod>, TaskError> {
        if fans.is_empty() {
            return self.list_pods(task, of_task(task)).await;
        }
        let (labels, fans) = (of_task(task).label_selector.unwrap_or_default(), fans.join(","));
        let plain = ListParams::default().labels(&format!("{labels},{LABEL_STEP} notin ({fans})"));
        let shards = ListParams::default().labels(&format!("{labels},{LABEL_STEP} in ({fans})")).fields(NOT_ENDED);
        let mut pods = self.list_pods(task, plain).await?;
        pods.extend(self.list_pods(task, shards).await?);
        Ok(pods)
    }

    async fn list_pods(&self, task: &AsyncTask, which: ListParams) -> Result<Vec<Pod>, TaskError> {
        let api = Api::<Pod>::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default());
        Ok(api.list(&which).await.map_err(TaskError::ListPods)?.items)
    }

    /// What could still write. Both are listed live: a Job made a moment ago is in no copy.
    async fn remains(&self, task: &AsyncTask) -> Result<Remains, TaskError> {
        let namespace = task.namespace().unwrap_or_default();
        let api = Api::<Job>::namespaced(self.context.client.clone(), &namespace);
        let jobs = api.list_metadata(&of_task(task)).await.map_err(TaskError::ListJobs)?;
        let pods = self.list_pods(task, of_task(task).fields(NOT_ENDED)).await?;
        let alive: Vec<&Pod> = pods.iter().filter(|pod| !results::has_ended(pod)).collect();
        let at_work = alive.iter().filter(|pod| results::pod_fact(pod).is_at_work()).count();
        let jobs = jobs.items.into_iter().map(|job| JobRef {
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
        });
        Ok(Remains { jobs: jobs.collect(), pods: alive.len(), at_work, takers: self.takers(task) })
    }
}

/// Steps that fan out, also of a revision that cannot be read.
fn fans_out<'a>(status: &'a AsyncTaskStatus, content: Option<&ValidatedDefinition>) -> Vec<&'a str> {
    let declared = |name: &str| {
        content.is_some_and(|content| content.steps.iter().any(|step| step.name == name && step.fan_out.is_some()))
    };
    let fans = status.steps.iter().filter(|step| step.shards.is_some() || declared(&step.name));
    fans.map(|step| step.name.as_str()).collect()
}

fn of_task(task: &AsyncTask) -> ListParams {
    ListParams::default().labels(&format!("{LABEL_TASK_UID}={}", task.uid().unwrap_or_default()))
}

fn usable(known: KnownRevision) -> DefinitionFact {
    match known.content {
        Ok(content) => DefinitionFact::Ready { revision: known.reference, content },
        Err(invalid) => DefinitionFact::NotReady(format!(
            "revision {} does not pass the checks of this operator: {invalid}",
            known.reference.name
        )),
    }
}

/// The revision a definition offers now, or why there is none.
fn current(guarded: &DeserializeGuard<TaskDefinition>) -> Result<RevisionRef, String> {
    let name = guarded.name_any();
    let definition = guarded.0.as_ref().map_err(|error| format!("TaskDefinition {name} cannot be read: {error}"))?;
    let status =
        definition.status.as_ref().filter(|status| status.observed_generation == definition.metadata.generation);
    let Some(status) = status else { return Err(format!("TaskDefinition {name} is being checked")) };
    match (&status.revision, condition::is_true(&status.conditions, READY)) {
        (Some(revision), true) => Ok(revision.clone()),
        _ => {
            let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
            let why = ready.map_or("it was not checked yet", |ready| ready.message.as_str());
            Err(format!("TaskDefinition {name} is not ready: {why}"))
        }
    }
}
