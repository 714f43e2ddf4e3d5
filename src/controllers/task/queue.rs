//! The runs that are in progress or could be: whose turn it is, and who is woken when there is room again.
//!
//! The line is kept in memory, for one operator at a time; after a fail-over it is approximate until every run has
//! asked again. A concurrency key is exact all the same: a Lease stands for it, and whoever holds that may run.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::OnceCell;

use super::error::TaskError;
use super::watch::Guarded;
use asynctask_api::definition::ConcurrencyPolicy;
use asynctask_api::names::{ANNOTATION_REPLACED_BY, MANAGER_OPERATOR};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_plan::decide::{Claim, Key};
use asynctask_plan::queue::{Entry, Full, Limits, Line, Place, replaced, replaces, upload_lease, used};
use asynctask_plan::snapshot::{Phase, Trouble, Turn, phase, state};
use asynctask_runtime::client::is_status;

/// How long the value of a PriorityClass is believed; it is immutable, but the class can be made anew.
const BELIEVED: Duration = Duration::from_secs(300);
/// Between two looks for runs in the line whose object is gone.
const VANISHED: Duration = Duration::from_secs(60);
/// Tries to write what others change at the same time.
const TRIES: usize = 3;

/// The line.
pub(super) struct Queue {
    client: Client,
    limits: Limits,
    tasks: Store<Guarded>,
    wake: UnboundedSender<ObjectRef<Guarded>>,
    filled: OnceCell<()>,
    line: Mutex<Line>,
    /// When it was last made sure that they are there.
    checked: Mutex<Instant>,
    priorities: Mutex<HashMap<String, (i32, Instant)>>,
}

impl Queue {
    pub(super) fn new(
        client: Client,
        limits: Limits,
        tasks: Store<Guarded>,
        wake: UnboundedSender<ObjectRef<Guarded>>,
    ) -> Self {
        let (filled, line, priorities) = (OnceCell::new(), Mutex::default(), Mutex::default());
        let checked = Mutex::new(Instant::now());
        Self { client, limits, tasks, wake, filled, line, checked, priorities }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the run's turn. `Go` takes its place.
    pub(super) async fn take(&self, task: &AsyncTask, claim: &Claim) -> Result<Turn, TaskError> {
        self.filled.get_or_init(async || self.fill()).await;
        self.drop_vanished(Instant::now());
        let uid = task.uid().unwrap_or_default();
        let priority = self.priority(claim.priority_class.as_deref()).await?;
        let found = self.ask(&uid, task, claim, priority);
        for (older, entry) in self.replaced(&uid) {
            self.replace(&older, &entry, &task.name_any()).await?;
        }
        if found != Place::Go {
            return Ok(self.wait(&uid, claim, &found));
        }
        match self.reserve(task, claim).await {
            Ok(None) => {}
            Ok(Some(why)) => {
                self.give_back(&uid);
                return Ok(Turn::Never { state: TaskState::Failed, why });
            }
            Err(error) => {
                self.give_back(&uid);
                return Err(error);
            }
        }
        let Some(key) = &claim.key else { return Ok(Turn::Go) };
        match self.hold(task, key).await {
            Ok(None) => Ok(Turn::Go),
            // Its place is given back; who holds the key is known to the API server only.
            Ok(Some(holder)) => {
                self.give_back(&uid);
                Ok(self.wait(&uid, claim, &Place::Busy { position: 1, holder }))
            }
            Err(error) => {
                self.give_back(&uid);
                Err(error)
            }
        }
    }

    /// What the line says; with `Go` its place is taken at once, so that nobody else is told the same.
    fn ask(&self, uid: &str, task: &AsyncTask, claim: &Claim, priority: i32) -> Place {
        let mut line = self.line();
        let runs = line.entries().get(uid).is_some_and(|entry| entry.runs);
        line.enter(uid, Entry { runs, ..entry(task, claim, priority) });
        let found = if runs { Place::Go } else { line.place(self.limits, uid) };
        if found == Place::Go {
            line.set_runs(uid, true);
        }
        found
    }

    fn give_back(&self, uid: &str) {
        self.line().set_runs(uid, false);
    }

    /// The run is not in the line any more: it ended, is held, or is gone. Whoever has room now is woken.
    pub(super) fn leave(&self, uid: &str) {
        let mut line = self.line();
        if line.remove(uid) {
            self.wake_next(&mut line);
        }
    }

    /// Takes out runs whose object went without our letting it go: somebody took its finalizer away. Nobody looks at such a
    /// run any more, and its place would be taken for ever.
    pub(super) fn drop_vanished(&self, now: Instant) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*checked) < VANISHED {
            return;
        }
        *checked = now;
        let mut line = self.line();
        let vanished = line.retain(|uid, entry| {
            let copy = self.tasks.get(&ObjectRef::new(&entry.name).within(&entry.namespace));
            copy.is_some_and(|copy| copy.uid().as_ref() == Some(uid))
        });
        if vanished {
            self.wake_next(&mut line);
        }
    }

    fn wake_next(&self, line: &mut Line) {
        for uid in line.next(self.limits) {
            if let Some(entry) = line.entries().get(&uid) {
                // Nobody listens any more when the process ends.
                let _ = self.wake.unbounded_send(ObjectRef::new(&entry.name).within(&entry.namespace));
            }
        }
    }

    /// What is in progress already, when the operator starts.
    fn fill(&self) {
        let mut line = self.line();
        for guarded in self.tasks.state() {
            let Ok(task) = &guarded.0 else { continue };
            let runs = matches!(state(task), Some(TaskState::InProgress | TaskState::Canceling));
            if phase(task) == Phase::Pinned && runs {
                let lease = task.status.as_ref().and_then(|status| status.queue.as_ref()?.lease.clone());
                let key = lease.map(|lease| Key { lease, policy: ConcurrencyPolicy::Queue });
                let claim = Claim { key, ..Claim::default() };
                line.enter(&task.uid().unwrap_or_default(), Entry { runs, ..entry(task, &claim, 0) });
            }
        }
    }

    fn wait(&self, uid: &str, claim: &Claim, found: &Place) -> Turn {
        let policy = claim.key.as_ref().map(|key| key.policy).unwrap_or_default();
        let line = self.line();
        let entries = line.entries();
        let name = |uid: &str| entries.get(uid).map_or_else(|| format!("of UID {uid}"), |entry| entry.name.clone());
        let busy = |message: String| Trouble { reason: "ConcurrencyKeyBusy", message };
        let never = |state: TaskState, why: Trouble| Turn::Never { state, why };
        match found {
            Place::Go => Turn::Go,
            Place::Replaced { by } => never(TaskState::Canceled, replaced(&name(by))),
            Place::Busy { holder, .. } if policy == ConcurrencyPolicy::Reject => {
                let message = format!(
                    "run {} of the same concurrency key is in progress, and the definition's policy is Reject: run it \
                     again when that one has ended",
                    name(holder)
                );
                never(TaskState::Failed, busy(message))
            }
            Place::Busy { position, holder } => {
                let verb = if policy == ConcurrencyPolicy::Replace { "is being cancelled" } else { "is in progress" };
                let message = format!("run {} of the same concurrency key {verb}: waits for its end", name(holder));
                Turn::Wait { position: shown(*position), why: busy(message) }
            }
            Place::Wait { position, why } => {
                let limit = entries.get(uid).and_then(|entry| entry.max_running);
                Turn::Wait { position: shown(*position), why: self.full(*why, *position, limit) }
            }
        }
    }

    fn full(&self, why: Full, position: usize, limit: Option<usize>) -> Trouble {
        let number = |limit: Option<usize>| limit.map(|limit| limit.to_string()).unwrap_or_default();
        let place = rounded(position);
        let message = match why {
            Full::Definition => {
                format!("place {place}: {} runs of this definition are in progress, its maxRunning", number(limit))
            }
            Full::Namespace => {
                format!(
                    "place {place}: {} runs are in progress in this namespace, as many as may be",
                    number(self.limits.per_namespace)
                )
            }
            Full::Operator => {
                format!("place {place}: {} runs are in progress, as many as may be", number(self.limits.overall))
            }
            Full::Key => format!("place {place} among the runs of the same concurrency key"),
        };
        Trouble { reason: "Queued", message }
    }

    async fn priority(&self, class: Option<&str>) -> Result<i32, TaskError> {
        let Some(name) = class else { return Ok(0) };
        let lock = || self.priorities.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(name).filter(|(_, since)| since.elapsed() < BELIEVED).map(|(value, _)| *value);
        if let Some(value) = known {
            return Ok(value);
        }
        let read = Api::<PriorityClass>::all(self.client.clone()).get_opt(name).await;
        let read = read.map_err(|source| TaskError::ReadPriority { name: name.to_owned(), source })?;
        // One that is not there: the API server will refuse the pods and say so.
        let value = read.map_or(0, |class| class.value);
        lock().insert(name.to_owned(), (value, Instant::now()));
        Ok(value)
    }

    // ---- keys

    /// Older runs of the same key, by UID.
    fn replaced(&self, uid: &str) -> Vec<(String, Entry)> {
        let line = self.line();
        let entries = line.entries();
        let older = replaces(entries, uid);
        older.into_iter().filter_map(|uid| entries.get(&uid).cloned().map(|entry| (uid, entry))).collect()
    }

    /// Cancels an older run for the sake of a newer one, on a version that nobody had asked to end: who asked first is
    /// the one it was cancelled for.
    async fn replace(&self, uid: &str, older: &Entry, newer: &str) -> Result<(), TaskError> {
        let api = Api::<AsyncTask>::namespaced(self.client.clone(), &older.namespace);
        let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
        let fail = |source| TaskError::Replace { name: older.name.clone(), source };
        let settled = |task: &AsyncTask| task.spec.is_canceled() || state(task).is_some_and(TaskState::is_terminal);
        let same = |task: &AsyncTask| task.uid().as_deref() == Some(uid);
        // Both are final, so an old copy that says so is as good as a new one.
        let copy = self.tasks.get(&ObjectRef::new(&older.name).within(&older.namespace));
        if copy.is_some_and(|copy| copy.0.as_ref().is_ok_and(|task| same(task) && settled(task))) {
            return Ok(());
        }
        let mut tries = 1;
        loop {
            let read = api.get_opt(&older.name).await.map_err(fail)?;
            let Some(found) = read.filter(|found| same(found) && !settled(found)) else { return Ok(()) };
            let version = found.resource_version();
            let metadata = json!({"resourceVersion": version, "annotations": {ANNOTATION_REPLACED_BY: newer}});
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"cancel": true}}));
            match api.patch(&older.name, &params, &patch).await {
                Ok(_) => return Ok(()),
                Err(gone) if is_status(&gone, 404) => return Ok(()),
                Err(lost) if is_status(&lost, 409) && tries < TRIES => tries += 1,
                Err(source) => return Err(fail(source)),
            }
        }
    }

    /// Makes uploads that serve one run this run's, or that of the runs it continues; else says which one is another's.
    /// Their Leases stay when the run is gone, until the upload is.
    async fn reserve(&self, task: &AsyncTask, claim: &Claim) -> Result<Option<Trouble>, TaskError> {
        let namespace = task.namespace().unwrap_or_default();
        let leases = Api::<Lease>::namespaced(self.client.clone(), &namespace);
        let params = PostParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PostParams::default() };
        for (input, upload) in &claim.uploads {
            let name = upload_lease(upload);
            let mut metadata = lease(task, &name, None).metadata;
            metadata.owner_references = None;
            let spec = LeaseSpec {
                holder_identity: Some(claim.origin.clone()),
                acquire_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            };
            let holder = match leases.create(&params, &Lease { metadata, spec: Some(spec) }).await {
                Ok(_) => continue,
                Err(error) if is_status(&error, 409) => leases.get(&name).await.map(|found| holder(&found)),
                Err(error) => Err(error),
            };
            let holder = holder.map_err(|source| TaskError::Lease { name: name.clone(), source })?;
            if holder.as_ref() != Some(&claim.origin) {
                return Ok(Some(used(input, upload)));
            }
        }
        Ok(None)
    }

    /// Makes the Lease ours; else the UID of the run that holds it.
    async fn hold(&self, task: &AsyncTask, key: &Key) -> Result<Option<String>, TaskError> {
        let uid = task.uid().unwrap_or_default();
        let leases = Api::<Lease>::namespaced(self.client.clone(), &task.namespace().unwrap_or_default());
        let fail = |source| TaskError::Lease { name: key.lease.clone(), source };
        let params = PostParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PostParams::default() };
        for _ in 0..TRIES {
            let Some(found) = leases.get_opt(&key.lease).await.map_err(fail)? else {
                match leases.create(&params, &lease(task, &key.lease, None)).await {
                    Ok(_) => return Ok(None),
                    Err(error) if is_status(&error, 409) => continue,
                    Err(error) => return Err(fail(error)),
                }
            };
            let holder = holder(&found).unwrap_or_default();
            if holder == uid {
                return Ok(None);
            }
            if self.is_unfinished(&found, &holder).await? {
                return Ok(Some(holder));
            }
            match leases.replace(&key.lease, &params, &lease(task, &key.lease, found.resource_version())).await {
                Ok(_) => return Ok(None),
                Err(error) if is_status(&error, 409) || is_status(&error, 404) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(Some(String::new()))
    }

    /// Whether the run that holds a Lease is there and not over.
    async fn is_unfinished(&self, lease: &Lease, holder: &str) -> Result<bool, TaskError> {
        let Some(owner) = lease.owner_references().iter().find(|owner| owner.uid == holder) else { return Ok(false) };
        // Only its state matters, also of one that cannot be read otherwise.
        let (kind, namespace) = (ApiResource::erase::<AsyncTask>(&()), lease.namespace().unwrap_or_default());
        let tasks = Api::<DynamicObject>::namespaced_with(self.client.clone(), &namespace, &kind);
        let read = tasks.get_opt(&owner.name).await.map_err(TaskError::ReadTask)?;
        let same = read.filter(|task| task.uid().as_deref() == Some(holder));
        let state =
            |task: &DynamicObject| serde_json::from_value::<TaskState>(task.data["status"]["state"].clone()).ok();
        Ok(same.is_some_and(|task| !state(&task).is_some_and(TaskState::is_terminal)))
    }

    /// Gives the key back, if this run holds it.
    pub(super) async fn release_key(&self, task: &AsyncTask, name: &str) -> Result<(), TaskError> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &task.namespace().unwrap_or_default());
        let fail = |source| TaskError::Lease { name: name.to_owned(), source };
        let Some(found) = leases.get_opt(name).await.map_err(fail)? else { return Ok(()) };
        if holder(&found) != task.uid() {
            return Ok(());
        }
        let this = Preconditions { uid: found.uid(), resource_version: found.resource_version() };
        match leases.delete(name, &DeleteParams { preconditions: Some(this), ..DeleteParams::default() }).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
            Err(error) => Err(fail(error)),
        }
    }
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone())
}

fn lease(task: &AsyncTask, name: &str, version: Option<String>) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: task.namespace(),
            resource_version: version,
            // It goes with the run that holds it.
            owner_references: Some(vec![OwnerReference {
                api_version: AsyncTask::api_version(&()).into_owned(),
                kind: AsyncTask::kind(&()).into_owned(),
                name: task.name_any(),
                uid: task.uid().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: task.uid(),
            acquire_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

fn entry(task: &AsyncTask, claim: &Claim, priority: i32) -> Entry {
    Entry {
        namespace: task.namespace().unwrap_or_default(),
        name: task.name_any(),
        definition: task.spec.definition.name.clone(),
        priority,
        created: task.creation_timestamp().map(|time| time.0).unwrap_or_default(),
        max_running: claim.max_running.and_then(|max| usize::try_from(max).ok()),
        lease: claim.key.as_ref().map(|key| key.lease.clone()),
        policy: claim.key.as_ref().map(|key| key.policy).unwrap_or_default(),
        runs: false,
    }
}

/// Exact up to 10, then rounded up to two digits: a place far behind is no news with each run that ends.
fn rounded(position: usize) -> usize {
    let mut unit = 1;
    while position / unit >= 100 {
        unit *= 10;
    }
    if position > 10 { position.div_ceil(unit.max(10)) * unit.max(10) } else { position }
}

fn shown(position: usize) -> Option<i32> {
    i32::try_from(rounded(position)).ok()
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn a_place_is_exact_near_the_head_and_round_far_behind() {
        let cases = [(1, 1), (10, 10), (11, 20), (99, 100), (101, 110), (1234, 1300), (10_000, 10_000)];
        for (position, shown) in cases {
            assert_eq!(rounded(position), shown, "{position}");
        }
    }
}
