//! What is watched, and which run each change wakes. Copies are kept small: parameters, specs of Jobs and contents of
//! definitions are read when they are needed.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use governor::clock::Clock;
use governor::{Quota, RateLimiter};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::scheduler::{ScheduleRequest, scheduler};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::index::Index;
use crate::watches::{NoPause, config};
use asynctask_api::names::{
    ANNOTATION_ABANDON, ANNOTATION_CANCELED_BY, ANNOTATION_FAILED_BEFORE, ANNOTATION_FINISHED, ANNOTATION_INTERRUPT,
    ANNOTATION_REPLACED_BY, ANNOTATION_REVISION, ANNOTATION_SHARDS, ANNOTATION_SUSPENDED_BY, ANNOTATION_UNREADABLE,
    LABEL_TASK_UID,
};
use asynctask_api::{AsyncTask, OutputStore, TaskDefinition};
use asynctask_plan::snapshot::{Phase, phase};
use asynctask_runtime::client::explain_watch;

/// How often at once a definition or a store wakes the runs that wait for it.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(5).expect("invariant: not zero");
/// Between two of its changes that do after those.
const BETWEEN: Duration = Duration::from_secs(10);
/// After so many changes it is forgotten what has not changed for a while.
const FORGET: u32 = 4096;
/// Up to this place in the queue a run is woken by a change of its definition. Those behind it are when their turn comes.
const NEAR: i32 = 10;

/// A run as the watch gives it: one that cannot be read does not stop the others.
pub(super) type Guarded = DeserializeGuard<AsyncTask>;

/// What runs are looked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Of {
    /// They wait for their start.
    Waiting,
    /// They wait for the start on this definition.
    WaitingFor { namespace: String, definition: String },
    /// They name this run of their namespace as what they continue, or take something from.
    Naming { namespace: String, task: String },
    /// They took over results of the run with this UID.
    Took(String),
}

/// Copies of what is watched beside the runs.
#[derive(Clone)]
pub(super) struct Caches {
    pub(super) tasks: Store<Guarded>,
    pub(super) tasks_of: Index<Guarded, Of>,
    pub(super) jobs: Store<Job>,
    /// By the UID of their run.
    pub(super) jobs_of: Index<Job, String>,
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
        let (tasks_of, jobs_of) = (Index::new(ways_to_task), Index::new(run_of_job));
        Self { tasks, tasks_of, jobs, jobs_of, definitions, stores, filled: Arc::default() }
    }

    /// Runs that are found by any of these, as the copy shows them.
    pub(super) fn found(&self, by: &[Of]) -> Vec<Arc<Guarded>> {
        let found: HashSet<ObjectRef<Guarded>> = by.iter().flat_map(|of| self.tasks_of.get(of)).collect();
        found.iter().filter_map(|object| self.tasks.get(object)).collect()
    }
}

fn ways_to_task(guarded: &Guarded) -> Vec<Of> {
    let (Ok(task), Some(namespace)) = (&guarded.0, guarded.namespace()) else { return Vec::new() };
    let definition = task.spec.definition.name.clone();
    let waiting = [Of::Waiting, Of::WaitingFor { namespace: namespace.clone(), definition }];
    let waiting = waiting.into_iter().filter(|_| phase(task) == Phase::New);
    let outputs = task.spec.inputs.values().filter_map(|input| Some(&input.output.as_ref()?.task));
    let named = outputs.chain(task.spec.retry_of.as_ref().map(|retry_of| &retry_of.name));
    let naming = named.map(|task| Of::Naming { namespace: namespace.clone(), task: task.clone() });
    let steps = task.status.iter().flat_map(|status| &status.steps);
    let took = steps.filter_map(|step| Some(Of::Took(step.adopted.as_ref()?.uid.clone())));
    waiting.chain(naming).chain(took).collect()
}

fn run_of_job(job: &Job) -> Vec<String> {
    job.labels().get(LABEL_TASK_UID).cloned().into_iter().collect()
}

/// The controller of runs and the copies it decides on. `woken`: runs whose turn may have come.
pub(super) fn controller(
    client: &Client,
    woken: impl Stream<Item = ObjectRef<Guarded>> + Send + 'static,
) -> (Controller<Guarded>, Caches) {
    let (tasks, task_writer) = reflector::store();
    let (jobs, job_writer) = reflector::store();
    let (definitions, definition_stream) = definitions(client);
    let (stores, store_stream) = stores(client);
    let caches = Caches::new(tasks, jobs, definitions, stores);
    let task_stream = task_stream(client, task_writer, caches.tasks_of.clone());
    let job_stream = job_stream(client, job_writer, caches.jobs_of.clone());
    let controller = woken_by(&caches, task_stream, job_stream, definition_stream, store_stream);
    (controller.reconcile_on(woken), caches)
}

/// Which change wakes whom.
fn woken_by(
    caches: &Caches,
    task_stream: impl Stream<Item = Events<Guarded>> + Send + 'static,
    job_stream: impl Stream<Item = Events<Job>> + Send + 'static,
    definition_stream: impl Stream<Item = Events<DeserializeGuard<TaskDefinition>>> + Send + 'static,
    store_stream: impl Stream<Item = Events<DeserializeGuard<OutputStore>>> + Send + 'static,
) -> Controller<Guarded> {
    let (by_definition, by_store) = (caches.clone(), caches.clone());
    let definitions = eased(definition_stream).flat_map(move |definition| {
        let (namespace, definition) = (definition.namespace.unwrap_or_default(), definition.name);
        stream::iter(near_their_start(&by_definition, &Of::WaitingFor { namespace, definition }))
    });
    let stores = eased(store_stream).flat_map(move |_| stream::iter(near_their_start(&by_store, &Of::Waiting)));
    Controller::for_stream(task_stream, caches.tasks.clone())
        .trigger_backoff(NoPause)
        .owns_stream(job_stream)
        .reconcile_on(definitions)
        .reconcile_on(stores)
}

/// Runs that wait, but for those that have many others before them.
fn near_their_start(caches: &Caches, of: &Of) -> Vec<ObjectRef<Guarded>> {
    let position = |task: &AsyncTask| task.status.as_ref()?.queue.as_ref()?.position;
    let is_near = |guarded: &Guarded| {
        let task = guarded.0.as_ref().ok().filter(|task| phase(task) == Phase::New);
        task.is_some_and(|task| position(task).is_none_or(|position| position <= NEAR))
    };
    let waiting = caches.found(std::slice::from_ref(of));
    waiting.iter().filter(|guarded| is_near(guarded)).map(|guarded| ObjectRef::from_obj(guarded.as_ref())).collect()
}

/// Objects that change: of each the first few changes at once, then one in a while, and the last in any case. Whoever edits
/// an object all the time wakes nobody all the time.
fn eased<K>(
    changes: impl Stream<Item = Events<K>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + 'static,
{
    let quota = Quota::with_period(BETWEEN).expect("invariant: not zero").allow_burst(AT_ONCE);
    let limiter = RateLimiter::hashmap(quota);
    let mut changes_seen = 0_u32;
    let requests = changes.filter_map(move |change| {
        let request = match change {
            Ok(object) => {
                let message = ObjectRef::from_obj(&object);
                let wait = limiter.check_key(&message).err().map(|early| early.wait_time_from(limiter.clock().now()));
                changes_seen = changes_seen.wrapping_add(1);
                if changes_seen.is_multiple_of(FORGET) {
                    limiter.retain_recent();
                }
                Some(ScheduleRequest { message, run_at: Instant::now() + wait.unwrap_or_default() })
            }
            Err(error) => {
                tracing::warn!(error = explain_watch(&error), "a watch broke off and is begun again");
                None
            }
        };
        future::ready(request)
    });
    scheduler(requests)
}

type Events<K> = Result<K, watcher::Error>;

fn task_stream(
    client: &Client,
    writer: reflector::store::Writer<Guarded>,
    index: Index<Guarded, Of>,
) -> impl Stream<Item = Events<Guarded>> + Send + 'static {
    watcher(Api::<Guarded>::all(client.clone()), config())
        .modify(slim_task)
        .default_backoff()
        .inspect_ok(move |event| index.see(event))
        .reflect(writer)
        .applied_objects()
        // Our own status writes and the gateway's change none of them, but for what people want of outputs.
        .predicate_filter(
            predicates::generation.combine(predicates::finalizers).combine(wanted_of_outputs),
            PredicateConfig::default(),
        )
}

/// Changes when somebody claims, has fetched or deletes an output, which the gateway writes into the status, abandons all of
/// them, or interrupts what must not be.
fn wanted_of_outputs(guarded: &Guarded) -> Option<u64> {
    let task = guarded.0.as_ref().ok()?;
    let status = task.status.as_ref()?;
    let mut hasher = DefaultHasher::new();
    let claims = status.claims.iter().map(|claim| (&claim.output, &claim.user, Some(claim.until.0)));
    let deletions = status.deletions.iter().map(|deletion| (&deletion.output, &deletion.user, None));
    claims.chain(deletions).collect::<Vec<_>>().hash(&mut hasher);
    [ANNOTATION_ABANDON, ANNOTATION_INTERRUPT].map(|said| task.annotations().get(said)).hash(&mut hasher);
    Some(hasher.finish())
}

/// Annotations that decide something.
const OF_TASKS: [&str; 7] = [
    ANNOTATION_ABANDON,
    ANNOTATION_CANCELED_BY,
    ANNOTATION_FINISHED,
    ANNOTATION_INTERRUPT,
    ANNOTATION_REPLACED_BY,
    ANNOTATION_SUSPENDED_BY,
    ANNOTATION_UNREADABLE,
];

/// Of the annotations only our own decide anything.
fn slim_task(guarded: &mut Guarded) {
    guarded.annotations_mut().retain(|key, _| OF_TASKS.contains(&key.as_str()));
}

fn job_stream(
    client: &Client,
    writer: reflector::store::Writer<Job>,
    index: Index<Job, String>,
) -> impl Stream<Item = Events<Job>> + Send + 'static {
    watcher(Api::<Job>::all(client.clone()), config().labels(LABEL_TASK_UID))
        .modify(slim_job)
        .default_backoff()
        .inspect_ok(move |event| index.see(event))
        .reflect(writer)
        // A Job that is deleted matters as much as one that ends.
        .touched_objects()
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
        let caches = Caches::new(tasks, reflector::store().0, reflector::store().0, reflector::store().0);
        let controller =
            woken_by(&caches, rest, jobs.chain(stream::pending()), definitions, fails.chain(stream::pending()));
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
