//! A run that fans out, for the tests: `plan` emits items, `send` works on them and appends, `again` works on an input.

use bytes::Bytes;
use serde_json::{Value, json};

use super::fake::{TASK, TREV, World};
use asynctask_contract::wire::ItemCounts;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::layout::StepKeys;
use asynctask_storage::records::{
    Manifest, ManifestFile, ManifestPage, PageRef, SealedShard, ShardFailure, VERSION, Volume, encode,
};
use asynctask_storage::{Digest, PutMode};

/// A world whose run is of such a definition. Steps are in no state yet.
pub(super) fn world() -> World {
    let world = World::new();
    let template = json!({"spec": {"containers": [{"name": "task", "image": "example/mail", "command": ["mail"]}]}});
    world.cluster.edit(TREV, |revision| {
        revision["spec"]["content"] = json!({
            "title": "Bulk mail",
            "parameters": {"type": "object", "properties": {"course": {"type": "string"}}},
            "inputs": [{"name": "recipients", "required": true}, {"name": "logo"}],
            "steps": [
                {"name": "plan", "emitsItems": true, "template": template},
                {
                    "name": "send", "stages": ["Sending"], "template": template,
                    "fanOut": {"itemsFrom": {"step": "plan"}, "itemsPerShard": 2, "tolerate": {"failedShards": "50%"}},
                },
                {"name": "again", "template": template, "fanOut": {"itemsFrom": {"input": "recipients"}}},
                {"name": "sum", "template": template, "inputs": [{"name": "all", "output": "sent"}]},
            ],
            "outputs": [
                {"name": "intro", "step": "plan", "path": "intro.csv"},
                {
                    "name": "sent", "step": "send", "path": "sent.csv", "title": "Sent",
                    "append": {"header": true, "base": {"step": "plan", "output": "intro"}},
                },
                {"name": "failures", "step": "send", "failedItems": true},
                {"name": "pages", "step": "send", "path": "pages"},
            ],
        });
    });
    world.cluster.edit(TASK, |task| task["status"]["steps"] = json!([]));
    world
}

/// Says something of a step in the status.
pub(super) fn say(world: &World, step: &str, said: &Value) {
    world.cluster.edit(TASK, |task| {
        let steps = task["status"]["steps"].as_array_mut().expect("steps");
        let place = steps.iter().position(|known| known["name"] == step).unwrap_or_else(|| {
            steps.push(json!({"name": step}));
            steps.len() - 1
        });
        super::agents::merge(&mut steps[place], said);
    });
}

/// A pod that runs a step; its token is its name.
pub(super) fn run(world: &World, pod: &str, step: &str, index: Option<u32>) {
    world.cluster.run(pod, step, index);
    say(world, step, &json!({"state": "Running", "attempt": 1}));
}

pub(super) async fn volume(world: &World) -> OpenStore {
    world.gateway.stores.by_name("volume").await.expect("open")
}

pub(super) fn keys(open: &OpenStore, uid: &str, step: &str) -> StepKeys {
    open.layout.task("studio", uid).and_then(|task| task.step(step)).expect("valid")
}

pub(super) async fn put(open: &OpenStore, key: &str, bytes: impl Into<Bytes>) {
    open.store.put(key, bytes.into(), PutMode::Overwrite).await.expect("stored");
}

/// Stores a file of an attempt.
pub(super) async fn store(
    open: &OpenStore,
    step: &StepKeys,
    (shard, pod): (u32, &str),
    (output, seq): (&str, u32),
    content: &str,
) -> ManifestFile {
    let key = step.attempt(shard, pod).and_then(|attempt| attempt.file(output, seq)).expect("valid");
    put(open, &key, content.to_owned()).await;
    let (size, sha256) = (content.len() as u64, Digest::of(content.as_bytes()));
    ManifestFile { output: output.into(), seq, path: format!("{output}.txt"), size, sha256, media_type: None, key }
}

async fn root(open: &OpenStore, uid: &str, step: &str, pod: &str, result: (Vec<ManifestFile>, Vec<PageRef>)) -> String {
    let (files, pages) = result;
    let (task_uid, step_name) = (uid.to_owned(), step.to_owned());
    let mut manifest = Manifest { version: VERSION, task_uid, step: step_name, pod_uid: pod.into(), files, pages };
    let (bytes, digest) = manifest.seal();
    put(open, &keys(open, uid, step).manifest(digest), bytes).await;
    digest.to_string()
}

/// Seals a step of one pod, and gives the digest.
pub(super) async fn seal(world: &World, uid: &str, step: &str, outputs: &[(&str, &str)]) -> String {
    let open = volume(world).await;
    let step_keys = keys(&open, uid, step);
    let mut files = Vec::new();
    for (output, content) in outputs {
        files.push(store(&open, &step_keys, (0, "winner"), (output, 0), content).await);
    }
    root(&open, uid, step, "winner", (files, Vec::new())).await
}

/// Number of a shard that failed in [`seal_send`].
pub(super) const FAILED: u32 = 2;

/// Seals `send` of five shards on pages of two and says so: shard 2 has failed and left its log, each other one has a
/// segment, a log and as many pages as its number. Gives the digest.
pub(super) async fn seal_send(world: &World, uid: &str) -> String {
    let open = volume(world).await;
    let step = keys(&open, uid, "send");
    let mut shards = Vec::new();
    let mut seq = 0;
    for shard in 0..5 {
        let pod = format!("p{shard}");
        let own = (shard, pod.as_str());
        let mut files = vec![store(&open, &step, own, ("log", 0), &format!("log of {shard}")).await];
        if shard != FAILED {
            for number in 0..shard {
                let mut page = store(&open, &step, own, ("pages", number), &format!("page {shard}.{number}")).await;
                (page.seq, page.path) = (seq, format!("{shard}/pages/{number}.txt"));
                seq += 1;
                files.push(page);
            }
            files.push(store(&open, &step, own, ("sent", 0), &format!("to,state\n{shard},sent\n")).await);
        }
        let failure =
            ShardFailure { code: "Bounced".into(), message: "no server".into(), exit_code: Some(70), failed_by: None };
        let items = ItemCounts { attempted: 2, failed: 1, skipped: 0, reasons: [("Bad".into(), 1)].into() };
        let (items, failure) = if shard == FAILED { (None, Some(failure)) } else { (Some(items), None) };
        shards.push(SealedShard { shard, pod_uid: pod, attempt: 1, files, items, failure });
    }
    let mut pages = Vec::new();
    for some in shards.chunks(2) {
        let (task_uid, step_name) = (uid.to_owned(), "send".to_owned());
        let page = ManifestPage { version: VERSION, task_uid, step: step_name, shards: some.to_vec() };
        let (bytes, sha256) = page.seal();
        put(&open, &step.manifest(sha256), bytes).await;
        let mut outputs = std::collections::BTreeMap::<String, Volume>::new();
        for file in some.iter().flat_map(|shard| &shard.files) {
            let volume = outputs.entry(file.output.clone()).or_default();
            *volume = Volume { files: volume.files + 1, bytes: volume.bytes + file.size };
        }
        let failed = some.iter().filter(|shard| shard.failure.is_some()).count() as u32;
        pages.push(PageRef { sha256, first: some[0].shard, shards: some.len() as u32, failed, outputs });
    }
    let digest = root(&open, uid, "send", "", (Vec::new(), pages)).await;
    let shards = json!({"total": 5, "active": 0, "succeeded": 4, "failed": 1, "failedIndexes": "2"});
    say(world, "send", &json!({"state": "PartiallyComplete", "attempt": 1, "manifest": digest, "shards": shards}));
    digest
}

/// Leaves a record of an attempt of a shard.
pub(super) async fn record(open: &OpenStore, step: &StepKeys, shard: u32, pod: &str, failure: Option<&str>) {
    let attempt = step.attempt(shard, pod).expect("valid");
    let record = json!({
        "version": VERSION, "taskUid": "task-uid", "step": "send", "attempt": 1, "shard": shard, "podUid": pod,
        "files": [], "items": {"attempted": 2, "failed": 0, "skipped": 1},
        "committedAt": "2026-01-01T00:00:00Z", "failedAt": format!("2026-01-01T00:00:{:02}Z", pod.len()),
        "report": {"code": failure, "message": "no server", "exitCode": 70},
    });
    let key = if failure.is_some() { attempt.failure() } else { attempt.commit() };
    put(open, &key, encode(&record)).await;
}
