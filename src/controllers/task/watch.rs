//! What is watched, and which run each change wakes. Copies are kept small: parameters, specs of Jobs and contents of
//! definitions are read when they are needed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures::{Stream, future};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use crate::watches::{NoPause, config};
use asynctask_api::names::{
    ANNOTATION_ABANDON, ANNOTATION_FAILED_BEFORE, ANNOTATION_FINISHED, ANNOTATION_REPLACED_BY, ANNOTATION_REVISION,
    ANNOTATION_SHARDS, ANNOTATION_UNREADABLE, LABEL_TASK_UID,
};
use asynctask_api::{AsyncTask, OutputStore, TaskDefinition};
use asynctask_plan::snapshot::{Phase, phase};

/// A run as the watch gives it: one that cannot be read does not stop the others.
pub(super) type Guarded = DeserializeGuard<AsyncTask>;

/// Copies of what is watched beside the runs.
#[derive(Clone)]
pub(super) struct Caches {
    pub(super) tasks: Store<Guarded>,
    pub(super) jobs: Store<Job>,
    pub(super) definitions: Store<DeserializeGuard<TaskDefinition>>,
    pub(super) stores: Store<DeserializeGuard<OutputStore>>,
    filled: Arc<OnceCell<()>>,
}

impl Caches {
    pub(super) fn new(
        tasks: Store<Guarded>,
        jobs: Store<Job>,
        definitions: Store<DeserializeGuard<TaskDefinition>>,
        stores: Store<DeserializeGuard<OutputStore>>,
    ) -> Self {
        Self { tasks, jobs, definitions, stores, filled: Arc::default() }
    }
}

/// The controller of runs and the copies it decides on. `woken`: runs whose turn may have come.
pub(super) fn controller(
    client: &Client,
    woken: impl Stream<Item = ObjectRef<Guarded>> + Send + 'static,
) -> (Controller<Guarded>, Caches) {
    let (tasks, task_stream) = tasks(client);
    let (jobs, job_stream) = jobs(client);
    let (definitions, definition_stream) = definitions(client);
    let (stores, store_stream) = stores(client);
    let controller = woken_by(tasks.clone(), task_stream, job_stream, definition_stream, store_stream);
    (controller.reconcile_on(woken), Caches::new(tasks, jobs, definitions, stores))
}

/// Which change wakes whom.
fn woken_by(
    tasks: Store<Guarded>,
    task_stream: impl Stream<Item = Events<Guarded>> + Send + 'static,
    job_stream: impl Stream<Item = Events<Job>> + Send + 'static,
    definition_stream: impl Stream<Item = Events<DeserializeGuard<TaskDefinition>>> + Send + 'static,
    store_stream: impl Stream<Item = Events<DeserializeGuard<OutputStore>>> + Send + 'static,
) -> Controller<Guarded> {
    let (by_definition, by_store) = (tasks.clone(), tasks.clone());
    Controller::for_stream(task_stream, tasks)
        .trigger_backoff(NoPause)
        .owns_stream(job_stream)
        .watches_stream(definition_stream, move |definition| {
            let (namespace, name) = (definition.namespace(), definition.name_any());
            waiting(&by_definition, move |task| task.namespace() == namespace && task.spec.definition.name == name)
        })
        .watches_stream(store_stream, move |_| waiting(&by_store, |_| true))
}

/// Runs that are not admitted yet, of those that `concerned` picks.
fn waiting(tasks: &Store<Guarded>, concerned: impl Fn(&AsyncTask) -> bool) -> Vec<ObjectRef<Guarded>> {
    let is_waiting =
        |guarded: &Guarded| guarded.0.as_ref().is_ok_and(|task| phase(task) == Phase::New && concerned(task));
    tasks.state_filter(is_waiting).iter().map(|guarded| ObjectRef::from_obj(guarded.as_ref())).collect()
}

type Events<K> = Result<K, watcher::Error>;

fn tasks(client: &Client) -> (Store<Guarded>, impl Stream<Item = Events<Guarded>> + Send + 'static) {
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<Guarded>::all(client.clone()), config())
        .modify(slim_task)
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        // Our own status writes and the gateway's change none of them, but for what people want of outputs.
        .predicate_filter(
            predicates::generation.combine(predicates::finalizers).combine(wanted_of_outputs),
            PredicateConfig::default(),
        );
    (reader, stream)
}

/// Changes when somebody claims, has fetched or deletes an output, which the gateway writes into the status, or abandons all
/// of them.
fn wanted_of_outputs(guarded: &Guarded) -> Option<u64> {
    let task = guarded.0.as_ref().ok()?;
    let status = task.status.as_ref()?;
    let mut hasher = DefaultHasher::new();
    let claims = status.claims.iter().map(|claim| (&claim.output, &claim.user, Some(claim.until.0)));
    let deletions = status.deletions.iter().map(|deletion| (&deletion.output, &deletion.user, None));
    claims.chain(deletions).collect::<Vec<_>>().hash(&mut hasher);
    task.annotations().get(ANNOTATION_ABANDON).hash(&mut hasher);
    Some(hasher.finish())
}

/// Annotations that decide something.
const OF_TASKS: [&str; 4] = [ANNOTATION_FINISHED, ANNOTATION_REPLACED_BY, ANNOTATION_ABANDON, ANNOTATION_UNREADABLE];

/// Of the annotations only our own decide anything.
fn slim_task(guarded: &mut Guarded) {
    guarded.annotations_mut().retain(|key, _| OF_TASKS.contains(&key.as_str()));
}

fn jobs(client: &Client) -> (Store<Job>, impl Stream<Item = Events<Job>> + Send + 'static) {
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<Job>::all(client.clone()), config().labels(LABEL_TASK_UID))
        .modify(slim_job)
        .default_backoff()
        .reflect(writer)
        // A Job that is deleted matters as much as one that ends.
        .touched_objects();
    (reader, stream)
}

/// What [`super::facts::job_fact`] reads. Of 10,000 shards the numbers of those that are done are long, and no news.
pub(super) fn slim_job(job: &mut Job) {
    const KEPT: [&str; 3] = [ANNOTATION_REVISION, ANNOTATION_SHARDS, ANNOTATION_FAILED_BEFORE];
    job.annotations_mut().retain(|key, _| KEPT.contains(&key.as_str()));
    let JobSpec { suspend, completion_mode, completions, .. } = job.spec.take().unwrap_or_default();
    job.spec = Some(JobSpec { suspend, completion_mode, completions, ..JobSpec::default() });
    let JobStatus { conditions, ready, start_time, active, succeeded, failed_indexes, .. } =
        job.status.take().unwrap_or_default();
    job.status =
        Some(JobStatus { conditions, ready, start_time, active, succeeded, failed_indexes, ..JobStatus::default() });
}

fn definitions(
    client: &Client,
) -> (
    Store<DeserializeGuard<TaskDefinition>>,
    impl Stream<Item = Events<DeserializeGuard<TaskDefinition>>> + Send + 'static,
) {
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<DeserializeGuard<TaskDefinition>>::all(client.clone()), config())
        .modify(slim_definition)
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    (reader, stream)
}

fn slim_definition(guarded: &mut DeserializeGuard<TaskDefinition>) {
    guarded.annotations_mut().clear();
    if let Ok(definition) = &mut guarded.0 {
        // What runs is read from the revision.
        definition.spec.parameters = None;
        definition.spec.steps = Vec::new();
        definition.spec.outputs = Vec::new();
    }
}

fn stores(
    client: &Client,
) -> (Store<DeserializeGuard<OutputStore>>, impl Stream<Item = Events<DeserializeGuard<OutputStore>>> + Send + 'static)
{
    let (reader, writer) = reflector::store();
    let stream = watcher(Api::<DeserializeGuard<OutputStore>>::all(client.clone()), config())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    (reader, stream)
}

impl Caches {
    /// Waits until all copies are there: what is missing from a half-filled one looks deleted.
    pub(super) async fn ready(&self) {
        // One waits for all: a Store wakes only the last of those who wait for it, and the others would sleep for ever.
        let filled = self.filled.get_or_init(|| async {
            // The writers live in the streams of the controller, which live as long as it.
            let _ = future::join4(
                self.tasks.wait_until_ready(),
                self.jobs.wait_until_ready(),
                self.definitions.wait_until_ready(),
                self.stores.wait_until_ready(),
            )
            .await;
        });
        filled.await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use futures::channel::{mpsc, oneshot};
    use futures::stream::{self, FuturesUnordered, StreamExt};
    use kube::ResourceExt;
    use kube::runtime::controller::Action;
    use kube::runtime::{reflector, watcher};
    use serde_json::{Value, json};

    use super::{Caches, woken_by};

    fn of<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).expect("an object")
    }

    #[tokio::test]
    async fn a_watch_that_fails_and_fails_holds_up_no_other() {
        let (tasks, mut writer) = reflector::store();
        let task = json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {"name": "a", "namespace": "studio", "uid": "u"}, "spec": {"definition": {"name": "d"}},
        });
        writer.apply_watcher_event(&watcher::Event::InitApply(of(task)));
        writer.apply_watcher_event(&watcher::Event::InitDone);
        let owner = json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "name": "a", "uid": "u", "controller": true,
        });
        let job = of(json!({"metadata": {"name": "a-run-1", "namespace": "studio", "ownerReferences": [owner]}}));
        // The Job ends when the other watch fails for the twentieth time.
        let (ends, ended) = oneshot::channel();
        let mut ends = Some(ends);
        let fails = stream::iter(1..=20).map(move |time| {
            let ends = ends.take_if(|_| time == 20);
            ends.into_iter().for_each(|ends| ends.send(()).expect("somebody waits for it"));
            Err(watcher::Error::NoResourceVersion)
        });
        let jobs =
            stream::once(async move { ended.await.map(|()| job).map_err(|_| watcher::Error::NoResourceVersion) });
        let (rest, definitions) = (stream::pending(), stream::pending());
        let controller =
            woken_by(tasks, rest, jobs.chain(stream::pending()), definitions, fails.chain(stream::pending()));
        let (seen, mut looked_at) = mpsc::unbounded();
        let running = controller.run(
            |task, seen| {
                let _ = seen.unbounded_send(task.name_any());
                std::future::ready(Ok::<_, Infallible>(Action::await_change()))
            },
            |_, never: &Infallible, _| match *never {},
            Arc::new(seen),
        );
        let running = tokio::spawn(running.for_each(|_| std::future::ready(())));
        let first = tokio::time::timeout(Duration::from_secs(5), looked_at.next()).await;
        assert_eq!(first.ok().flatten().as_deref(), Some("a"));
        running.abort();
    }

    #[tokio::test]
    async fn everybody_who_waits_for_the_copies_goes_on_once_they_are_there() {
        let (tasks, mut tasks_writer) = reflector::store();
        let (jobs, mut jobs_writer) = reflector::store();
        let (definitions, mut definitions_writer) = reflector::store();
        let (stores, mut stores_writer) = reflector::store();
        let caches = Caches::new(tasks, jobs, definitions, stores);
        let mut waiting: FuturesUnordered<_> = (0..3).map(|_| caches.ready()).collect();
        assert!(futures::poll!(waiting.next()).is_pending());

        tasks_writer.apply_watcher_event(&watcher::Event::InitDone);
        jobs_writer.apply_watcher_event(&watcher::Event::InitDone);
        definitions_writer.apply_watcher_event(&watcher::Event::InitDone);
        stores_writer.apply_watcher_event(&watcher::Event::InitDone);

        for gone_on in 0..3 {
            let next = tokio::time::timeout(Duration::from_secs(5), waiting.next()).await;
            assert_eq!(next.ok(), Some(Some(())), "only {gone_on} of 3 went on");
        }
    }
}
