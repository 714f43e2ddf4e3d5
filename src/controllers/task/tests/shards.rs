//! What is read and done for steps that fan out, and for runs that take something from others.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::{JOB, OURS, POD, TASK, UID, World, condition, new_task, template, world, world_of};
use crate::pace::Next;
use crate::task::observe::Known;
use asynctask_api::AsyncTask;
use asynctask_plan::decide::Action;
use asynctask_plan::snapshot::{Admission, DefinitionFact, Execution, OutputFact, Remains, RetryFact, Seen};
use asynctask_storage::records::{Manifest, ManifestPage, RECORD_MAX};
use asynctask_storage::{Digest, ObjectStore};

const OTHER: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks/before";
const OTHER_UID: &str = "11111111-0000-4000-8000-000000000000";

fn fan_out() -> World {
    world_of(&json!([{"name": "run", "fanOut": {"shards": 3}, "template": template()}]))
}

impl World {
    fn revision(&self) -> Value {
        let definition = self.server.get(&format!("{OURS}/taskdefinitions/report")).expect("a definition");
        definition["status"]["revision"].clone()
    }

    /// A run of the definition in which the step is so.
    fn is(&self, path: &str, step: &Value) {
        let (revision, store) = (self.revision(), json!({"name": "trial", "uid": "s-1"}));
        let status = json!({"state": "InProgress", "revision": revision, "store": store, "steps": [step]});
        self.server.change(path, |task| task["status"] = status);
    }

    /// Another run in the namespace.
    fn before(&self) {
        self.server.put(OTHER, new_task("before", OTHER_UID));
    }

    async fn seen(&self) -> Seen {
        let task = Arc::new(self.task());
        self.controller.observe(task, Known::default()).await.expect("observed").seen
    }

    async fn execution(&self) -> Execution {
        let Seen::Pinned(execution) = self.seen().await else { panic!("it is pinned") };
        *execution
    }

    async fn admission(&self) -> Admission {
        let Seen::New(admission) = self.seen().await else { panic!("it is new") };
        *admission
    }

    fn watch_shows(&mut self, path: &str) {
        let task = self.server.get(path).expect("it is there");
        let task: DeserializeGuard<AsyncTask> = serde_json::from_value(task).expect("a task");
        self.show_task(&watcher::Event::Apply(task));
    }
}

fn running() -> Value {
    let shards = json!({"total": 3, "active": 0, "succeeded": 0, "failed": 0});
    json!({"name": "run", "state": "Running", "attempt": 1, "shards": shards})
}

#[tokio::test]
async fn shards_are_added_up_once_when_the_job_has_ended_and_its_results_are_not_read_beside() {
    let world = fan_out();
    world.is(TASK, &running());
    for shard in 0..2 {
        world.commit_shard(shard, POD).await;
    }
    let execution = world.execution().await;
    let tally = execution.tallies["run"].as_ref().expect("a sum");
    assert_eq!((tally.committed, tally.lost().to_string()), (2, "2".into()));
    assert!(execution.results.is_empty());
    // No pod can have added anything since: it is not read again.
    world.commit_shard(2, POD).await;
    assert_eq!(world.execution().await.tallies, execution.tallies);
}

#[tokio::test]
async fn sealing_reads_anew_and_the_sum_is_forgotten() {
    let world = fan_out();
    world.is(TASK, &running());
    world.commit_shard(0, POD).await;
    assert_eq!(world.execution().await.tallies["run"].as_ref().expect("a sum").committed, 1);
    world.commit_shard(2, "pod-2").await;
    let seal = Action::SealShards { step: "run".into(), total: 3 };
    let done = world.controller.apply(&world.task(), &[seal]).await.expect("applied");
    let sealed = &done.applied.shards["run"];
    assert_eq!((sealed.tally.committed, sealed.outputs["out"]), (2, (2, 12)));
    let manifest: Digest = sealed.manifest.parse().expect("a digest");
    let bytes = world.store().get_bytes(&world.keys().manifest(manifest), RECORD_MAX).await.expect("sealed");
    let manifest = Manifest::open(&bytes, manifest).expect("a manifest");
    let page = manifest.pages[0].sha256;
    let bytes = world.store().get_bytes(&world.keys().manifest(page), RECORD_MAX).await.expect("sealed");
    let page = ManifestPage::open(&bytes, page).expect("a page");
    let bytes = world.store().get_bytes(&page.shards[2].files[0].key, 100).await.expect("its bytes");
    assert_eq!(&bytes[..], b"result");
    assert_eq!(world.execution().await.tallies["run"].as_ref().expect("a sum").committed, 2);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_told_and_asked_again() {
    let world = fan_out();
    world.is(TASK, &running());
    let mark = world.volume.path().join("trial/objects/asynctask/_owner");
    std::fs::remove_file(&mark).expect("removed");
    let execution = world.execution().await;
    assert_eq!(execution.tallies["run"].as_ref().expect_err("emptied").reason, "StoreEmptied");
    std::fs::write(&mark, br#"{"clusterUid":"c"}"#).expect("the mark");
    assert!(world.execution().await.tallies["run"].is_ok());
}

#[tokio::test]
async fn what_a_run_takes_over_is_read_from_the_run_it_continues() {
    let world = fan_out();
    world.before();
    world.is(TASK, &running());
    for shard in 0..2 {
        world.commit_shard(shard, POD).await;
    }
    let seal = Action::SealShards { step: "run".into(), total: 3 };
    let done = world.controller.apply(&world.task(), &[seal]).await.expect("applied");
    // The run that is there is the one before; the new one takes over.
    let mut first = running();
    (first["state"], first["manifest"]) = (json!("Failed"), json!(done.applied.shards["run"].manifest));
    world.is(TASK, &first);
    let mut again = running();
    again["state"] = json!("Waiting");
    again["attempt"] = Value::Null;
    again["adopted"] = json!({"name": "a", "uid": UID});
    world.is(OTHER, &again);
    let task: AsyncTask = serde_json::from_value(world.server.get(OTHER).expect("it is there")).expect("a task");
    let seen = world.controller.observe(Arc::new(task), Known::default()).await.expect("observed").seen;
    let Seen::Pinned(execution) = seen else { panic!("it is pinned") };
    let tally = execution.tallies["run"].as_ref().expect("a sum");
    assert_eq!((tally.committed, tally.lost().to_string()), (2, "2".into()));

    world.server.remove(TASK);
    let task: AsyncTask = serde_json::from_value(world.server.get(OTHER).expect("it is there")).expect("a task");
    let gone = world.controller.tally(&task, "run", 3).await.expect_err("gone");
    assert_eq!(gone.reason, "SourceGone");
}

#[tokio::test]
async fn counts_are_no_news_for_a_second_after_they_were_written() {
    let world = fan_out();
    world.is(TASK, &running());
    assert_eq!(world.execution().await.quiet_until, None);
    let now = jiff::Timestamp::now();
    world.controller.quiet.wrote(&world.task(), now);
    let until = world.execution().await.quiet_until.expect("quiet");
    assert_eq!(until.duration_since(now).as_secs(), 1);
}

#[tokio::test]
async fn a_run_that_continues_another_is_for_its_revision_and_store() {
    let world = world();
    world.before();
    world.is(OTHER, &json!({"name": "run", "state": "Failed"}));
    // The definition has moved on and is broken, and another store is the default.
    world.server.change(&format!("{OURS}/taskdefinitions/report"), |definition| {
        definition["status"] = json!({"observedGeneration": 0});
    });
    let (revision, path) =
        (world.server.get(OTHER).expect("it is there"), "/apis/asynctask.dev/v1alpha1/outputstores/new");
    world.server.put(
        path,
        json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore",
            "metadata": {"name": "new", "uid": "s-0", "generation": 1, "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"filesystem": {"folder": "new"}, "default": true},
            "status": {"observedGeneration": 1, "conditions": [condition("Ready")]},
        }),
    );
    world.server.change(TASK, |task| task["spec"]["retryOf"] = json!({"name": "before"}));
    let admission = world.admission().await;
    let Some(RetryFact::Found(run)) = &admission.retry else { panic!("it is there: {:?}", admission.retry) };
    assert_eq!(run.metadata.uid.as_deref(), Some(OTHER_UID));
    let DefinitionFact::Ready { revision: pinned, .. } = &admission.definition else { panic!("{admission:?}") };
    assert_eq!(json!(pinned.name), revision["status"]["revision"]["name"]);
    assert_eq!(admission.store.expect("a store").name, "trial");

    world.server.remove(OTHER);
    assert_eq!(world.admission().await.retry, Some(RetryFact::Missing));
}

#[tokio::test]
async fn the_runs_whose_outputs_are_taken_are_read_as_they_are_now() {
    let world = world();
    world.before();
    world.server.change(TASK, |task| {
        task["spec"]["inputs"] = json!({
            "archive": {"output": {"task": "before", "name": "report"}},
            "other": {"output": {"task": "gone", "name": "report"}},
        });
    });
    let admission = world.admission().await;
    let OutputFact::Of(run) = &admission.outputs["archive"] else { panic!("it is there") };
    assert_eq!(run.metadata.uid.as_deref(), Some(OTHER_UID));
    assert_eq!(admission.outputs["other"], OutputFact::Missing);
    assert_eq!(admission.retry, None);
}

#[tokio::test]
async fn a_deleted_run_knows_who_took_its_results_over() {
    let mut world = world();
    world.before();
    world.delete();
    world.is(OTHER, &json!({"name": "run", "state": "Complete", "adopted": {"name": "a", "uid": UID}}));
    world.watch_shows(OTHER);
    let Seen::Deleting(Remains { takers, .. }) = world.seen().await else { panic!("it is deleted") };
    assert_eq!(takers.iter().map(|taker| taker.name.as_str()).collect::<Vec<_>>(), ["before"]);
}

impl World {
    fn status_writes(&self) -> usize {
        self.server.writes().iter().filter(|write| write.ends_with("/asynctasks/a/status")).count()
    }
}

#[tokio::test]
async fn however_many_pods_end_in_a_second_their_counts_are_written_once() {
    let mut world = fan_out();
    world.settle().await;
    let before = world.status_writes();
    for succeeded in 0..=2 {
        for ready in 0..5 {
            world.controller.quiet.wrote(&world.task(), jiff::Timestamp::now());
            world.job_is(&json!({"active": 3 - succeeded, "succeeded": succeeded, "ready": ready}));
            let next = world.look().await.expect("looked at");
            let Next::LookAgain(after) = next else { panic!("it looks again when they are news: {next:?}") };
            assert!(after <= Duration::from_secs(1), "{after:?}");
        }
    }
    assert_eq!(world.status_writes(), before, "the last write was a moment ago");
    let began = jiff::Timestamp::now();
    world.controller.quiet.wrote(&world.task(), began - Duration::from_secs(2));
    assert_eq!(world.controller.quiet.until(UID, began), None);
    world.look().await.expect("looked at");
    assert_eq!(world.status_writes(), before + 1);
    assert!(world.controller.quiet.until(UID, began).is_some(), "from this write on it is quiet again");
    let step = &world.task().status.expect("a status").steps[0];
    let shards = step.shards.as_ref().expect("shards");
    assert_eq!((shards.total, shards.active, shards.succeeded), (3, 1, 2));
}

#[tokio::test]
async fn a_run_that_fans_out_ends_with_what_its_shards_committed() {
    let mut world = fan_out();
    world.settle().await;
    assert_eq!(world.server.get(JOB).expect("a Job")["spec"]["completions"], 3);
    for shard in 0..3 {
        world.commit_shard(shard, &format!("pod-{shard}")).await;
    }
    world.job_is(&json!({"succeeded": 3, "conditions": [condition("Complete")]}));
    world.settle().await;
    assert_eq!(world.state(), ("Complete".into(), "StepsSucceeded".into()));
    let step = world.task().status.expect("a status").steps.remove(0);
    let manifest: Digest = step.manifest.expect("sealed").parse().expect("a digest");
    let bytes = world.store().get_bytes(&world.keys().manifest(manifest), RECORD_MAX).await.expect("sealed");
    assert_eq!(Manifest::open(&bytes, manifest).expect("a manifest").pages[0].shards, 3);
    let shards = step.shards.expect("shards");
    assert_eq!((shards.total, shards.succeeded, shards.failed), (3, 3, 0));
}
