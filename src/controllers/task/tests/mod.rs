//! The controller against an API server in memory and a real store on a folder.

mod faults;
mod queue;
mod replace;
mod resync;
mod run;
mod shards;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::{reflector, watcher};
use serde_json::{Value, json};

use super::error::TaskError;
use super::fair::Shares;
use super::freshness::Freshness;
use super::queue::Queue;
use super::quiet::Quiet;
use super::report::Ended;
use super::revisions::Revisions;
use super::shards::Tallies;
use super::watch::{Caches, Guarded};
use super::{Pace, TaskController};
use crate::fake::{Senders, Server, context};
use crate::pace::Next;
use asynctask_api::definition::TaskDefinitionStatus;
use asynctask_api::task::RevisionRef;
use asynctask_api::{AsyncTask, TaskDefinition, TaskState};
use asynctask_contract::wire::CommittedFile;
use asynctask_plan::queue::Limits;
use asynctask_plan::revision;
use asynctask_storage::filesystem::FilesystemStore;
use asynctask_storage::layout::StepKeys;
use asynctask_storage::records::{self, CommitRecord, HistoryRecord};
use asynctask_storage::{Digest, Layout, ObjectStore, PutMode};

const UID: &str = "0a1b2c3d-0000-4000-8000-000000000000";
const POD: &str = "pod-1";
const TASK: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks/a";
const JOBS: &str = "/apis/batch/v1/namespaces/studio/jobs";
const JOB: &str = "/apis/batch/v1/namespaces/studio/jobs/a-run-0a1b2c3d-1";
const STORE: &str = "/apis/asynctask.dev/v1alpha1/outputstores/trial";
const OURS: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio";

/// A cluster with a definition, a store and one new run of it.
struct World {
    server: Server,
    volume: tempfile::TempDir,
    controller: TaskController,
    jobs: reflector::store::Writer<Job>,
    tasks: reflector::store::Writer<Guarded>,
    /// Kept: without it the controller would wait for a copy that never fills.
    _senders: Senders,
}

/// What runs where a test says nothing else.
fn plain() -> Value {
    json!([{"name": "run", "template": template()}])
}

fn template() -> Value {
    json!({"spec": {"containers": [{"name": "task", "image": "i@sha256:0", "command": ["c"]}]}})
}

fn world() -> World {
    world_of(&plain())
}

fn world_of(steps: &Value) -> World {
    let server = Server::default();
    let volume = tempfile::tempdir().expect("folder");
    let marked = volume.path().join("trial/objects/asynctask");
    std::fs::create_dir_all(&marked).expect("folder");
    std::fs::write(marked.join("_owner"), br#"{"clusterUid":"c"}"#).expect("the mark of a probed store");
    furnish(&server, &json!({"steps": steps}));
    let (tasks, tasks_writer) = reflector::store();
    let (jobs_reader, jobs) = reflector::store();
    let (definitions, _) = reflector::store();
    let (stores, _) = reflector::store();
    let (context, senders) = context(&server, volume.path());
    let client = context.client.clone();
    let controller = TaskController {
        pace: Pace::new("task", Duration::from_secs(5), Duration::from_secs(5), context.reconciles.clone()),
        caches: Caches::new(tasks.clone(), jobs_reader, definitions, stores),
        revisions: Revisions::new(client.clone()),
        queue: Queue::new(client, Limits::default(), tasks, mpsc::unbounded().0),
        freshness: Freshness::default(),
        tallies: Tallies::default(),
        quiet: Quiet::default(),
        ended: Ended::new(&context.metrics),
        shares: Shares::default(),
        context,
    };
    World { server, volume, controller, jobs, tasks: tasks_writer, _senders: senders }
}

/// `more` is what else the definition's spec says.
fn furnish(server: &Server, more: &Value) {
    let mut definition = json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "TaskDefinition",
        "metadata": {"name": "report", "namespace": "studio", "uid": "d-1", "generation": 1},
        "spec": {"title": "Report", "steps": plain()},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        definition["spec"][field] = value.clone();
    }
    let mut definition: TaskDefinition = serde_json::from_value(definition).expect("a definition");
    let mut revision = revision::build(&definition, 1);
    revision.metadata.uid = Some("r-1".into());
    let name = revision.metadata.name.clone().expect("named");
    let ready = condition("Ready");
    definition.status = Some(TaskDefinitionStatus {
        observed_generation: Some(1),
        revision: Some(RevisionRef { name: name.clone(), uid: "r-1".into(), number: 1 }),
        draining: None,
        conditions: vec![serde_json::from_value(ready.clone()).expect("a condition")],
    });
    let put = |path: String, object: Value| server.put(&path, object);
    put(format!("{OURS}/taskdefinitions/report"), serde_json::to_value(definition).expect("JSON"));
    put(format!("{OURS}/taskrevisions/{name}"), serde_json::to_value(revision).expect("JSON"));
    put(
        STORE.into(),
        json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore",
            "metadata": {"name": "trial", "uid": "s-1", "generation": 1},
            "spec": {"filesystem": {"folder": "trial"}, "default": true},
            "status": {"observedGeneration": 1, "conditions": [ready]},
        }),
    );
    put(TASK.into(), new_task("a", UID));
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn new_task(name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
        "metadata": {
            "name": name, "namespace": "studio", "uid": uid, "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["asynctask.dev/outputs"],
        },
        "spec": {"definition": {"name": "report"}, "owner": "ada"},
    })
}

impl World {
    fn task(&self) -> AsyncTask {
        serde_json::from_value(self.server.get(TASK).expect("the task is there")).expect("a task")
    }

    /// One reconcile of the task as it is.
    async fn look(&self) -> Result<Next, TaskError> {
        self.look_at(self.task()).await
    }

    async fn look_at(&self, copy: AsyncTask) -> Result<Next, TaskError> {
        self.controller.look(Arc::new(copy)).await
    }

    /// Reconciles until nothing fails, as the back-off would have it.
    async fn settle(&self) {
        for _ in 0..5 {
            if self.server.get(TASK).is_none() || self.look().await.is_ok() {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.server.writes());
    }

    fn state(&self) -> (String, String) {
        let status = self.task().status.expect("a status");
        (status.state.expect("a state").to_string(), status.reason.expect("a reason"))
    }

    fn store(&self) -> FilesystemStore {
        FilesystemStore::open(&self.volume.path().join("trial")).expect("a store")
    }

    fn keys(&self) -> StepKeys {
        let layout = Layout::new("asynctask").expect("a prefix");
        layout.task("studio", UID).and_then(|task| task.step("run")).expect("keys")
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.store().put(key, bytes.to_vec().into(), PutMode::Create).await.expect("stored");
    }

    /// What agent and gateway leave when a program succeeds in this pod.
    async fn commit(&self, pod_uid: &str) {
        self.commit_shard(0, pod_uid).await;
    }

    async fn commit_shard(&self, shard: u32, pod_uid: &str) {
        let attempt = self.keys().attempt(shard, pod_uid).expect("keys");
        self.put(&attempt.file("out", 0).expect("a key"), b"result").await;
        let record = CommitRecord { shard, ..self.record(pod_uid) };
        self.put(&attempt.commit(), &records::encode(&record)).await;
    }

    fn record(&self, pod_uid: &str) -> CommitRecord {
        let sha256 = Digest::of(b"result").to_string();
        let file =
            CommittedFile { output: "out".into(), seq: 0, path: "out.txt".into(), size: 6, sha256, media_type: None };
        CommitRecord {
            version: records::VERSION,
            task_uid: UID.into(),
            step: "run".into(),
            attempt: 1,
            pod_uid: pod_uid.into(),
            shard: 0,
            files: vec![file],
            emitted: None,
            items: None,
            warning: None,
            image: None,
            committed_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// The Job controller says that the Job has ended, and the watch shows it.
    fn job_ends(&mut self, how: &str) {
        self.job_is(&json!({"conditions": [condition(how)]}));
    }

    /// The Job controller gives the Job this status, and the watch shows it.
    fn job_is(&mut self, status: &Value) {
        self.server.change(JOB, |job| job["status"] = status.clone());
        self.show(JOB);
    }

    /// The watch has an event: the index hears of it before the copy does.
    fn show_job(&mut self, event: &watcher::Event<Job>) {
        self.controller.caches.jobs_of.see(event);
        self.jobs.apply_watcher_event(event);
    }

    fn show_task(&mut self, event: &watcher::Event<Guarded>) {
        self.controller.caches.tasks_of.see(event);
        self.tasks.apply_watcher_event(event);
    }

    /// The watch shows a Job.
    fn show(&mut self, job: &str) {
        let job: Job = serde_json::from_value(self.server.get(job).expect("a Job")).expect("a Job");
        self.show_job(&watcher::Event::Apply(job));
    }

    /// Somebody deletes the task.
    fn delete(&self) {
        let now = jiff::Timestamp::now().to_string();
        self.server.change(TASK, |task| task["metadata"]["deletionTimestamp"] = json!(now));
    }

    /// The history record of the run.
    async fn history(&self) -> HistoryRecord {
        let layout = Layout::new("asynctask").expect("a prefix");
        let created = "2026-01-01T00:00:00Z".parse().expect("a time");
        let key = layout.history("studio", created, "a", UID).expect("a key");
        let bytes = self.store().get_bytes(&key, records::RECORD_MAX).await.expect("recorded");
        records::decode(&bytes).expect("a record")
    }

    /// Every object of the store but its mark and the history, as a file.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                if ["_owner", "_history", "_gone"].iter().any(|name| path.ends_with(name)) {
                    continue;
                }
                if path.is_dir() { walk(&path, found) } else { found.push(path.display().to_string()) }
            }
        }
        let mut found = Vec::new();
        walk(&self.volume.path().join("trial/objects"), &mut found);
        found
    }
}
