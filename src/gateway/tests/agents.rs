//! One attempt from its first call to its commit, and what may go wrong on the way.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::fake::{Answer, JOB, POD, TASK, World};
use asynctask_storage::Digest;

fn file(content: &[u8]) -> Value {
    json!({"output": "report", "seq": 0, "path": "report.json", "size": content.len(), "sha256": Digest::of(content).to_string()})
}

async fn plan(world: &World, file: Value) -> Answer {
    world.call("pod", "POST", "/agent/v1/files", Some(file)).await
}

/// Sends bytes as a plan says.
async fn put(world: &World, plan: &Value, bytes: &'static [u8]) -> Answer {
    let request = &plan["request"];
    let mut put = Request::builder()
        .method(request["method"].as_str().expect("a method"))
        .uri(request["url"].as_str().expect("a path"))
        .header("authorization", "Bearer pod");
    for (name, value) in request["headers"].as_object().expect("headers") {
        put = put.header(name, value.as_str().expect("text"));
    }
    world.send(put.body(Body::from(bytes)).expect("a request")).await
}

async fn store(world: &World, file: Value, bytes: &'static [u8]) {
    let answer = put(world, &plan(world, file).await.json(), bytes).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
}

async fn commit(world: &World, files: Value) -> Answer {
    world.call("pod", "POST", "/agent/v1/commit", Some(json!({"files": files}))).await
}

async fn assignment(world: &World) -> Answer {
    world.call("pod", "GET", "/agent/v1/assignment", None).await
}

#[tokio::test]
async fn an_attempt_starts_stores_and_commits_once() {
    let world = World::new();
    let work = assignment(&world).await;
    assert_eq!(work.header("cache-control"), "no-store");
    let work = work.json();
    assert_eq!(work["verdict"], "Run");
    assert_eq!(work["parameters"], json!({"course": "c"}));
    assert_eq!(work["stages"], json!(["Unpacking", "Updating", "Indexing"]));
    assert_eq!(work["guarded"], json!(["Updating", "Indexing"]));
    assert_eq!(work["outputs"], json!([{"name": "report", "path": "report.json"}]));

    store(&world, file(b"{}"), b"{}").await;
    let again = put(&world, &plan(&world, file(b"{}")).await.json(), b"{}").await;
    assert_eq!(again.status, StatusCode::PRECONDITION_FAILED, "a stored file is never replaced");
    assert_eq!(commit(&world, json!([file(b"{}")])).await.status, StatusCode::NO_CONTENT);
    assert_eq!(commit(&world, json!([file(b"{}")])).await.status, StatusCode::NO_CONTENT, "the answer may be lost");
    assert_eq!(commit(&world, json!([])).await.status, StatusCode::CONFLICT, "a commit is never changed");
    assert_eq!(assignment(&world).await.json()["verdict"], "AlreadyCommitted");
    let stored = world.stored();
    assert!(stored.iter().any(|key| key.ends_with("studio/task-uid/import/000000/pod-uid/commit")), "{stored:?}");
}

#[tokio::test]
async fn altered_or_truncated_bytes_leave_nothing() {
    let world = World::new();
    let plan = plan(&world, file(b"whole")).await.json();
    for bytes in [&b"whale"[..], b"who", b"whole and more"] {
        let answer = put(&world, &plan, bytes).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text());
    }
    assert!(world.stored().is_empty(), "{:?}", world.stored());
    let bare = Request::put("/agent/v1/files/report/0/content").header("authorization", "Bearer pod");
    let unannounced = world.send(bare.body(Body::from("x")).expect("a request")).await;
    assert_eq!(unannounced.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn only_declared_outputs_under_decent_paths_are_taken() {
    let world = World::new();
    let with = |key: &str, value: Value| {
        let mut file = file(b"x");
        file[key] = value;
        file
    };
    for (wrong, word) in [
        (with("output", json!("other")), "UnknownOutput"),
        (with("output", json!("../report")), "UnknownOutput"),
        (with("seq", json!(1000)), "UnknownOutput"),
        (with("path", json!("../../etc/passwd")), "InvalidPath"),
        (with("path", json!("/etc/passwd")), "InvalidPath"),
        (with("path", json!("a\r\nb")), "InvalidPath"),
        (with("sha256", json!("abc")), "InvalidDigest"),
        (with("mediaType", json!("text/html\r\nx: y")), "InvalidMediaType"),
        (json!({"output": "log", "seq": 1, "path": "log", "size": 1, "sha256": "0"}), "UnknownOutput"),
        (json!({"output": "log", "seq": 0, "path": "log", "size": 1u64 << 30, "sha256": "0"}), "LogTooLarge"),
    ] {
        let answer = plan(&world, wrong.clone()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong} {}", answer.text());
        assert_eq!(answer.json()["title"], word, "{wrong}");
    }
}

#[tokio::test]
async fn the_log_is_written_over_and_may_be_committed() {
    let world = World::new();
    let log = |content: &'static [u8]| json!({"output": "log", "seq": 0, "path": "log", "size": content.len(), "sha256": Digest::of(content).to_string()});
    store(&world, log(b"first"), b"first").await;
    store(&world, log(b"first and second"), b"first and second").await;
    assert_eq!(commit(&world, json!([log(b"first")])).await.json()["title"], "NotStored");
    assert_eq!(commit(&world, json!([log(b"first and second")])).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_commit_names_only_what_is_stored() {
    let world = World::new();
    let missing = commit(&world, json!([file(b"{}")])).await;
    assert_eq!(
        (missing.status, missing.json()["title"].clone()),
        (StatusCode::UNPROCESSABLE_ENTITY, json!("NotStored"))
    );
    store(&world, file(b"{}"), b"{}").await;
    let mut shorter = file(b"{}");
    shorter["size"] = json!(1);
    assert_eq!(commit(&world, json!([shorter])).await.json()["title"], "NotStored");
    let twice = commit(&world, json!([file(b"{}"), file(b"{}")])).await;
    assert_eq!(twice.json()["title"], "InvalidCommit");
    assert_eq!(assignment(&world).await.json()["verdict"], "Run", "nothing was committed");
}

#[tokio::test]
async fn an_attempt_whose_run_is_over_is_fenced_and_cannot_commit() {
    for (path, edit) in [
        (TASK, json!({"status": {"state": "Failed"}})),
        (TASK, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        (TASK, json!({"metadata": {"uid": "another"}})),
        (TASK, json!({"status": {"steps": [{"name": "import", "state": "Running", "attempt": 2}]}})),
        (JOB, json!({"metadata": {"uid": "another"}})),
        (JOB, json!({"status": {"conditions": [{"type": "Failed", "status": "True"}]}})),
    ] {
        let world = World::new();
        store(&world, file(b"{}"), b"{}").await;
        world.cluster.edit(path, |object| merge(object, &edit));
        let fenced = assignment(&world).await.json();
        assert_eq!(fenced["verdict"], "Stop", "{edit}");
        assert!(!fenced["message"].as_str().expect("a sentence").is_empty());
        let refused = commit(&world, json!([file(b"{}")])).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{edit} {}", refused.text());
        assert!(!world.stored().iter().any(|key| key.ends_with("/commit")), "{edit}");
    }
}

#[tokio::test]
async fn a_terminating_pod_does_not_start_but_may_commit() {
    let world = World::new();
    store(&world, file(b"{}"), b"{}").await;
    world.cluster.edit(POD, |pod| merge(pod, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
    assert_eq!(assignment(&world).await.json()["verdict"], "Stop");
    assert_eq!(commit(&world, json!([file(b"{}")])).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_pod_that_was_deleted_by_force_has_no_say_any_more() {
    let world = World::new();
    store(&world, file(b"{}"), b"{}").await;
    let forced = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
    world.cluster.edit(POD, |pod| merge(pod, &forced));
    assert_eq!(assignment(&world).await.json()["verdict"], "Stop");
    let refused = commit(&world, json!([file(b"{}")])).await;
    assert_eq!((refused.status, refused.json()["title"].clone()), (StatusCode::CONFLICT, json!("Superseded")));
    assert!(!world.stored().iter().any(|key| key.ends_with("/commit")));
    // One that is given time to end is still there.
    world.cluster.edit(POD, |pod| merge(pod, &json!({"metadata": {"deletionGracePeriodSeconds": 30}})));
    assert_eq!(commit(&world, json!([file(b"{}")])).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_pod_that_is_gone_or_not_ours_is_nobody() {
    let world = World::new();
    world.cluster.edit(POD, |pod| merge(pod, &json!({"metadata": {"uid": "another"}})));
    assert_eq!(assignment(&world).await.status, StatusCode::UNAUTHORIZED, "made anew under the old name");
    world.cluster.remove(POD);
    assert_eq!(assignment(&world).await.status, StatusCode::UNAUTHORIZED);
    for edit in [
        json!({"metadata": {"labels": {"asynctask.dev/task-uid": "another"}}}),
        json!({"metadata": {"labels": null}}),
        json!({"metadata": {"ownerReferences": null}}),
    ] {
        let world = World::new();
        world.cluster.edit(POD, |pod| merge(pod, &edit));
        assert_eq!(assignment(&world).await.status, StatusCode::FORBIDDEN, "{edit}");
    }
}

#[tokio::test]
async fn an_attempt_the_operator_has_not_written_down_is_told_to_ask_again() {
    let world = World::new();
    world.cluster.edit(TASK, |task| merge(task, &json!({"status": null})));
    let answer = assignment(&world).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn stage_and_progress_reach_the_status_on_the_version_that_was_read() {
    let world = World::new();
    let said = json!({"done": 3, "total": 10, "unit": "blocks"});
    *world.cluster.conflicts.lock().expect("no panic") = 1;
    assert_eq!(world.call("pod", "POST", "/agent/v1/progress", Some(said)).await.status, StatusCode::NO_CONTENT);
    let patch = world.cluster.patches.lock().expect("no panic").remove(0);
    assert_eq!(patch["metadata"], json!({"name": "run-1", "uid": "task-uid", "resourceVersion": "7"}));
    assert_eq!(
        patch["status"],
        json!({
            "progress": "3/10 blocks",
            "steps": [{"name": "import", "progress": {"done": 3, "total": 10, "unit": "blocks"}}],
        })
    );
    let stage = world.call("pod", "POST", "/agent/v1/stage", Some(json!({"stage": "Updating"}))).await;
    assert_eq!(stage.status, StatusCode::NO_CONTENT, "{}", stage.text());
    assert_eq!(world.cluster.patches.lock().expect("no panic")[0]["status"]["steps"][0]["stage"], "Updating");
    let unknown = world.call("pod", "POST", "/agent/v1/stage", Some(json!({"stage": "Dreaming"}))).await;
    assert_eq!(unknown.json()["title"], "UnknownStage");
}

#[tokio::test]
async fn a_program_that_reports_all_the_time_is_told_to_wait_and_makes_no_storm() {
    let world = World::new();
    let mut taken = 0;
    for done in 0..100 {
        let answer = world.call("pod", "POST", "/agent/v1/progress", Some(json!({"done": done, "total": 100}))).await;
        taken += usize::from(answer.status == StatusCode::NO_CONTENT);
        if answer.status != StatusCode::NO_CONTENT {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
        }
    }
    assert!((10..20).contains(&taken), "{taken} of 100");
    assert_eq!(world.cluster.patches.lock().expect("no panic").len(), taken);
}

#[tokio::test]
async fn a_file_that_is_larger_than_any_store_takes_is_refused_before_its_bytes() {
    let announced = |size: &str| {
        let mut headers = axum::http::HeaderMap::new();
        headers.insert("x-asynctask-size", size.parse().expect("a header"));
        headers.insert("x-asynctask-sha256", "0".repeat(64).parse().expect("a header"));
        crate::transfer::announced(&headers).map(|expected| expected.size).map_err(|refused| refused.to_string())
    };
    assert_eq!(announced("671088640000"), Ok(671_088_640_000));
    for size in ["671088640001", "18446744073709551615"] {
        let refused = announced(size).expect_err("too large");
        assert!(refused.contains("at most 671088640000"), "{refused}");
    }
}

#[tokio::test]
async fn a_task_that_has_ended_is_never_written_to_again() {
    let world = World::new();
    // The chain is remembered from before the end; the task itself is read each time.
    assert_eq!(
        world.call("pod", "POST", "/agent/v1/progress", Some(json!({"done": 1}))).await.status,
        StatusCode::NO_CONTENT
    );
    world.cluster.edit(TASK, |task| merge(task, &json!({"status": {"state": "Complete"}})));
    world.cluster.patches.lock().expect("no panic").clear();
    for (path, body) in [("/agent/v1/progress", json!({"done": 2})), ("/agent/v1/stage", json!({"stage": "Updating"}))]
    {
        assert_eq!(world.call("pod", "POST", path, Some(body)).await.status, StatusCode::CONFLICT, "{path}");
    }
    assert!(world.cluster.patches.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_failure_is_recorded_once_with_the_log_that_is_really_there() {
    let world = World::new();
    let log = json!({"output": "log", "seq": 0, "path": "log", "size": 3, "sha256": Digest::of(b"log").to_string()});
    let report = json!({"code": "InvalidCourse", "message": "no course.xml", "exitCode": 70, "log": log});
    assert_eq!(world.call("pod", "POST", "/agent/v1/failure", Some(report)).await.status, StatusCode::NO_CONTENT);
    let other = json!({"code": "Other", "message": "later", "exitCode": 1});
    assert_eq!(world.call("pod", "POST", "/agent/v1/failure", Some(other)).await.status, StatusCode::NO_CONTENT);
    let open = world.gateway.stores.by_name("volume").await.expect("open");
    let key = open.layout.task("studio", "task-uid").and_then(|task| task.step("import")?.attempt(0, "pod-uid"));
    let bytes = open.store.get_bytes(&key.expect("valid").failure(), 1 << 20).await.expect("a record");
    let record: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(record["report"]["code"], "InvalidCourse", "what was said first stands");
    assert_eq!(record["report"]["log"], Value::Null, "this log was never stored");
}

/// JSON merge patch, as far as these tests need it.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(members) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in members {
                merge(&mut into[key], value);
            }
        }
        other => *into = other.clone(),
    }
}
