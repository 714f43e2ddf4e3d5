//! Outputs of earlier steps as inputs.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::fake::{TASK, World};
use asynctask_storage::records::{Manifest, ManifestFile, VERSION};
use asynctask_storage::{Digest, PutMode};

/// Step `fetch` has given `pages/a.txt` and `pages/b/c.txt`, each with its own path as content, and a log.
async fn seal(world: &World) {
    let open = world.gateway.stores.by_name("volume").await.expect("open");
    let step = open.layout.task("studio", "task-uid").and_then(|task| task.step("fetch")).expect("valid");
    let attempt = step.attempt(0, "pod-0").expect("valid");
    let mut files = Vec::new();
    for (output, seq, path) in [("pages", 0, "pages/a.txt"), ("pages", 1, "pages/b/c.txt"), ("log", 0, "log")] {
        let key = attempt.file(output, seq).expect("valid");
        open.store.put(&key, path.into(), PutMode::Create).await.expect("stored");
        let (size, sha256) = (path.len() as u64, Digest::of(path.as_bytes()));
        files.push(ManifestFile { output: output.into(), seq, path: path.into(), size, sha256, media_type: None, key });
    }
    let mut manifest = Manifest {
        version: VERSION,
        task_uid: "task-uid".into(),
        step: "fetch".into(),
        pod_uid: "pod-0".into(),
        files,
        pages: Vec::new(),
    };
    let (bytes, digest) = manifest.seal();
    open.store.put(&step.manifest(digest), bytes, PutMode::Create).await.expect("stored");
    world.cluster.edit(TASK, |task| {
        let done = json!({"name": "fetch", "state": "Complete", "attempt": 1, "manifest": digest.to_string()});
        task["status"]["steps"].as_array_mut().expect("steps").push(done);
    });
}

#[tokio::test]
async fn a_step_is_given_each_file_of_the_output_it_takes() {
    let world = World::new();
    seal(&world).await;
    let work = world.call("pod", "GET", "/agent/v1/assignment", None).await.json();
    let inputs = work["inputs"].as_array().expect("a list");
    let paths: Vec<&Value> = inputs.iter().map(|input| &input["path"]).collect();
    assert_eq!(paths, ["pages/a.txt", "pages/b/c.txt"]);
    for input in inputs {
        let url = input["source"]["url"].as_str().expect("a path");
        let read = world.call("pod", "GET", url, None).await;
        assert_eq!(read.text(), input["path"].as_str().expect("text"));
        assert_eq!(input["sha256"], Digest::of(&read.body).to_string());
    }
}

#[tokio::test]
async fn an_output_that_does_not_exist_is_no_input() {
    let world = World::new();
    let work = world.call("pod", "GET", "/agent/v1/assignment", None).await.json();
    assert_eq!((&work["verdict"], &work["inputs"]), (&json!("Run"), &json!([])));
}

#[tokio::test]
async fn only_files_of_declared_inputs_are_given() {
    let world = World::new();
    seal(&world).await;
    for wrong in ["pages/content?file=2", "pages/content", "log/content?file=0", "report/content?file=0"] {
        let answer = world.call("pod", "GET", &format!("/agent/v1/inputs/{wrong}"), None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{wrong}");
    }
}
