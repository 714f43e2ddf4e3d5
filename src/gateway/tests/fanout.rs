//! The agents of a fan-out: the planner, the shards, and what puts their files together.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::fake::{Answer, TASK, World};
use super::shards::{self, keys, put, run, say, seal, seal_send, volume};
use asynctask_storage::Digest;

async fn assignment(world: &World, pod: &str) -> Value {
    let answer = world.call(pod, "GET", "/agent/v1/assignment", None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

/// As an agent announces it.
fn file(output: &str, seq: u32, content: &str) -> Value {
    let sha256 = Digest::of(content.as_bytes()).to_string();
    json!({"output": output, "seq": seq, "path": format!("{output}.txt"), "size": content.len(), "sha256": sha256})
}

async fn upload(world: &World, pod: &str, output: &str, seq: u32, content: &'static str) -> Answer {
    let planned = world.call(pod, "POST", "/agent/v1/files", Some(file(output, seq, content))).await;
    if planned.status != StatusCode::OK {
        return planned;
    }
    let request = &planned.json()["request"];
    let mut put =
        Request::put(request["url"].as_str().expect("a path")).header("authorization", format!("Bearer {pod}"));
    for (name, value) in request["headers"].as_object().expect("headers") {
        put = put.header(name, value.as_str().expect("text"));
    }
    world.send(put.body(Body::from(content)).expect("a request")).await
}

async fn commit(world: &World, pod: &str, body: Value) -> Answer {
    world.call(pod, "POST", "/agent/v1/commit", Some(body)).await
}

/// The planner is sealed, with two shards of items.
async fn planned(world: &World) {
    let digest = seal(world, "task-uid", "plan", &[("intro", "to,state\nfirst,sent\n")]).await;
    say(world, "plan", &json!({"state": "Complete", "attempt": 1, "manifest": digest}));
    let open = volume(world).await;
    let winner = keys(&open, "task-uid", "plan").attempt(0, "winner").expect("valid");
    put(&open, &winner.items(0), "1\n2\n").await;
    put(&open, &winner.items(1), "3\n").await;
    say(world, "send", &json!({"shards": {"total": 2, "active": 2, "succeeded": 0, "failed": 0}}));
}

#[tokio::test]
async fn a_planner_stores_its_shards_and_commits_how_many_there_are() {
    let world = shards::world();
    run(&world, "planner", "plan", None);
    let work = assignment(&world, "planner").await;
    assert_eq!(
        work["emits"],
        json!({"itemsPerShard": 2, "shards": 100_000, "items": 50_000_000, "lineBytes": 1 << 20})
    );
    assert_eq!((&work["shard"], &work["builtIn"]), (&Value::Null, &Value::Null));
    for (seq, lines) in [(0, "1\n2\n"), (1, "3\n")] {
        assert_eq!(upload(&world, "planner", "items", seq, lines).await.status, StatusCode::NO_CONTENT);
    }
    let again = upload(&world, "planner", "items", 1, "4\n").await;
    assert_eq!(again.status, StatusCode::PRECONDITION_FAILED, "a shard is never replaced");
    let beyond = upload(&world, "planner", "items", 100_000, "5\n").await;
    assert_eq!(beyond.json()["title"], "TooManyShards");

    for (wrong, word) in [
        (json!({"files": []}), "InvalidCommit"),
        (json!({"files": [], "emitted": {"shards": 2, "items": 5}}), "InvalidCommit"),
        (json!({"files": [], "emitted": {"shards": 3, "items": 5}}), "NotStored"),
        (json!({"files": [], "emitted": {"shards": 1, "items": 2}}), "NotStored"),
    ] {
        let answer = commit(&world, "planner", wrong.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["title"].clone()),
            (StatusCode::UNPROCESSABLE_ENTITY, json!(word)),
            "{wrong}"
        );
    }
    let right = json!({"files": [], "emitted": {"shards": 2, "items": 3}});
    assert_eq!(commit(&world, "planner", right.clone()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(commit(&world, "planner", right).await.status, StatusCode::NO_CONTENT, "the answer may be lost");
    let other = json!({"files": [], "emitted": {"shards": 2, "items": 4}});
    assert_eq!(commit(&world, "planner", other).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_planner_may_have_found_nothing() {
    let world = shards::world();
    run(&world, "planner", "plan", None);
    let nothing = json!({"files": [], "emitted": {"shards": 0, "items": 0}});
    assert_eq!(commit(&world, "planner", nothing).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_empty_shard_of_items_is_none() {
    let world = shards::world();
    run(&world, "planner", "plan", None);
    upload(&world, "planner", "items", 0, "").await;
    let said = json!({"files": [], "emitted": {"shards": 1, "items": 1}});
    assert_eq!(commit(&world, "planner", said).await.json()["title"], "NotStored");
}

#[tokio::test]
async fn only_a_step_that_emits_stores_items() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "worker", "send", Some(0));
    assert_eq!(upload(&world, "worker", "items", 0, "1\n").await.json()["title"], "UnknownOutput");
    let files = json!([file("sent", 0, "x")]);
    let said = commit(&world, "worker", json!({"files": files, "emitted": {"shards": 0, "items": 0}})).await;
    assert_eq!(said.json()["title"], "InvalidCommit");
}

#[tokio::test]
async fn a_shard_is_given_its_items_and_writes_under_its_own_number() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "worker", "send", Some(1));
    let work = assignment(&world, "worker").await;
    let shard = &work["shard"];
    assert_eq!((&shard["number"], &shard["of"], &shard["items"]["size"]), (&json!(1), &json!(2), &json!(2)));
    assert_eq!(shard["items"]["sha256"], Digest::of(b"3\n").to_string());
    let items = world.call("worker", "GET", shard["items"]["source"]["url"].as_str().expect("a path"), None).await;
    assert_eq!(items.text(), "3\n");
    let outputs: Vec<&Value> =
        work["outputs"].as_array().expect("a list").iter().map(|output| &output["name"]).collect();
    assert_eq!(outputs, ["sent", "failures", "pages"]);
    assert_eq!(work["outputs"][1]["failedItems"], true);

    upload(&world, "worker", "sent", 0, "3").await;
    let counts = json!({"attempted": 1, "failed": 1, "skipped": 0, "reasons": {"InvalidEmail": 1}});
    let done = commit(&world, "worker", json!({"files": [file("sent", 0, "3")], "items": counts})).await;
    assert_eq!(done.status, StatusCode::NO_CONTENT, "{}", done.text());
    let key = "send/000001/worker-uid/commit";
    assert!(world.stored().iter().any(|stored| stored.ends_with(key)), "{:?}", world.stored());
    let record = volume(&world).await;
    let own = keys(&record, "task-uid", "send").attempt(1, "worker-uid").expect("valid");
    let bytes = record.store.get_bytes(&own.commit(), 1 << 20).await.expect("a record");
    let record: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((&record["shard"], &record["items"]["reasons"]["InvalidEmail"]), (&json!(1), &json!(1)));

    assert_eq!(assignment(&world, "worker").await["verdict"], "AlreadyCommitted");
    run(&world, "neighbour", "send", Some(0));
    assert_eq!(assignment(&world, "neighbour").await["verdict"], "Run", "another shard has committed, not this one");
}

#[tokio::test]
async fn of_a_job_that_runs_some_shards_the_index_stands_for_one_of_them() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "worker", "send", Some(0));
    let job = "/apis/batch/v1/namespaces/studio/jobs/run-1-send";
    world.cluster.edit(job, |job| job["metadata"]["annotations"] = json!({"asynctask.dev/shards": "1"}));
    assert_eq!(assignment(&world, "worker").await["shard"]["number"], 1);
    let report = json!({"code": "Bounced", "message": "no server", "exitCode": 70});
    assert_eq!(world.call("worker", "POST", "/agent/v1/failure", Some(report)).await.status, StatusCode::NO_CONTENT);
    assert!(world.stored().iter().any(|key| key.ends_with("send/000001/worker-uid/failure")), "{:?}", world.stored());
}

#[tokio::test]
async fn a_pod_that_is_not_the_part_of_its_step_it_should_be_gets_nothing() {
    let world = shards::world();
    planned(&world).await;
    // No index; a plain Job for a fan-out; an Indexed one for a plain step; a shard that does not exist.
    run(&world, "lost", "send", Some(0));
    let pod = "/api/v1/namespaces/studio/pods/lost";
    world.cluster.edit(pod, |pod| {
        let labels = pod["metadata"]["labels"].as_object_mut().expect("labels");
        labels.remove("batch.kubernetes.io/job-completion-index").expect("an index");
    });
    let refused = world.call("lost", "GET", "/agent/v1/assignment", None).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    for (pod, step, index) in [("beyond", "send", Some(2)), ("indexed", "sum", Some(0)), ("plain", "send", None)] {
        run(&world, pod, step, index);
        let refused = world.call(pod, "GET", "/agent/v1/assignment", None).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{pod} {}", refused.text());
    }
}

#[tokio::test]
async fn items_of_a_planner_that_was_taken_over_are_read_in_the_run_that_wrote_them() {
    let world = shards::world();
    let digest = seal(&world, "first-uid", "plan", &[]).await;
    let adopted = json!({"name": "run-0", "uid": "first-uid"});
    say(&world, "plan", &json!({"state": "Complete", "manifest": digest, "adopted": adopted}));
    let open = volume(&world).await;
    put(&open, &keys(&open, "first-uid", "plan").attempt(0, "winner").expect("valid").items(0), "7\n").await;
    say(&world, "send", &json!({"shards": {"total": 1, "active": 1, "succeeded": 0, "failed": 0}}));
    run(&world, "worker", "send", Some(0));
    let url = assignment(&world, "worker").await["shard"]["items"]["source"]["url"].clone();
    assert_eq!(world.call("worker", "GET", url.as_str().expect("a path"), None).await.text(), "7\n");
}

#[tokio::test]
async fn a_shard_gives_one_segment_and_counts_that_add_up() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "worker", "send", Some(0));
    upload(&world, "worker", "sent", 0, "a").await;
    upload(&world, "worker", "sent", 1, "b").await;
    let one = json!([file("sent", 0, "a")]);
    let many: serde_json::Map<String, Value> = (0..10).map(|n| (format!("Reason{n}"), json!(0))).collect();
    for wrong in [
        json!({"files": []}),
        json!({"files": [file("sent", 0, "a"), file("sent", 1, "b")]}),
        json!({"files": one, "items": {"attempted": 1, "failed": 1, "skipped": 1}}),
        json!({"files": one, "items": {"attempted": u64::MAX, "failed": u64::MAX, "skipped": 1}}),
        json!({"files": one, "items": {"attempted": 1, "failed": 1, "skipped": 0, "reasons": {"x y": 1}}}),
        json!({"files": one, "items": {"attempted": 1, "failed": 0, "skipped": 0, "reasons": {"Bad": 1}}}),
        json!({"files": one, "items": {"attempted": 1, "failed": 0, "skipped": 0, "reasons": many}}),
    ] {
        let answer = commit(&world, "worker", wrong.clone()).await;
        assert_eq!(answer.json()["title"], "InvalidCommit", "{wrong}");
    }
    assert_eq!(commit(&world, "worker", json!({"files": one})).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_shards_stage_and_progress_are_heard_and_not_written_down() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "worker", "send", Some(0));
    for (path, body) in [("stage", json!({"stage": "Sending"})), ("progress", json!({"done": 1}))] {
        let answer = world.call("worker", "POST", &format!("/agent/v1/{path}"), Some(body)).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path} {}", answer.text());
    }
    let unknown = world.call("worker", "POST", "/agent/v1/stage", Some(json!({"stage": "Dreaming"}))).await;
    assert_eq!(unknown.json()["title"], "UnknownStage");
    assert!(world.cluster.patches.lock().expect("no panic").is_empty());
    world.cluster.edit(TASK, |task| task["status"]["state"] = json!("Canceled"));
    let late = world.call("worker", "POST", "/agent/v1/stage", Some(json!({"stage": "Sending"}))).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn an_assembling_step_is_given_the_base_and_every_segment_in_order() {
    let world = shards::world();
    planned(&world).await;
    seal_send(&world, "task-uid").await;
    run(&world, "assembler", "assemble-send", None);
    let work = assignment(&world, "assembler").await;
    assert_eq!(work["inputs"], json!([]));
    let paths: Vec<&Value> = work["outputs"].as_array().expect("a list").iter().map(|output| &output["path"]).collect();
    assert_eq!(paths, ["sent.csv", "failures.jsonl"], "and not pages, which are kept apart");
    let built_in = &work["builtIn"];
    assert_eq!(built_in["kind"], "Assemble");
    let sent = &built_in["outputs"][0];
    assert_eq!((&sent["output"], &sent["header"], &sent["segments"]), (&json!("sent"), &json!(true), &json!(4)));
    assert_eq!(built_in["outputs"][1], json!({"output": "failures", "header": false, "segments": 0}));
    let base = world.call("assembler", "GET", sent["base"]["source"]["url"].as_str().expect("a path"), None).await;
    assert_eq!(base.text(), "to,state\nfirst,sent\n");

    let listed = world.call("assembler", "GET", "/agent/v1/segments?output=sent&from=1", None).await.json();
    assert_eq!(listed["next"], Value::Null);
    let mut read = Vec::new();
    for segment in listed["segments"].as_array().expect("a list") {
        let got = world.call("assembler", "GET", segment["source"]["url"].as_str().expect("a path"), None).await;
        assert_eq!(segment["sha256"], Digest::of(&got.body).to_string());
        read.push(got.text());
    }
    assert_eq!(read, ["to,state\n1,sent\n", "to,state\n3,sent\n", "to,state\n4,sent\n"], "2 has failed");
    for wrong in [
        "segments?output=pages",
        "segments?output=nothing",
        "segments/sent/4/content",
        "segments/failures/base/content",
    ] {
        let answer = world.call("assembler", "GET", &format!("/agent/v1/{wrong}"), None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{wrong}");
    }

    upload(&world, "assembler", "sent", 0, "all").await;
    upload(&world, "assembler", "failures", 0, "").await;
    let one = commit(&world, "assembler", json!({"files": [file("sent", 0, "all")]})).await;
    assert_eq!(one.json()["title"], "InvalidCommit", "each output is put together");
    let both = json!({"files": [file("sent", 0, "all"), file("failures", 0, "")]});
    assert_eq!(commit(&world, "assembler", both).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn nothing_is_put_together_before_all_shards_are_sealed() {
    let world = shards::world();
    planned(&world).await;
    run(&world, "assembler", "assemble-send", None);
    let early = world.call("assembler", "GET", "/agent/v1/assignment", None).await;
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE);
    say(&world, "send", &json!({"state": "Skipped"}));
    assert_eq!(assignment(&world, "assembler").await["builtIn"]["outputs"][0]["segments"], 0, "there was no item");
}

#[tokio::test]
async fn other_steps_have_no_segments() {
    let world = shards::world();
    planned(&world).await;
    seal_send(&world, "task-uid").await;
    run(&world, "planner", "plan", None);
    for path in ["segments?output=intro", "segments/intro/0/content", "items/content"] {
        let answer = world.call("planner", "GET", &format!("/agent/v1/{path}"), None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_later_step_takes_the_appended_file_from_the_step_that_put_it_together() {
    let world = shards::world();
    seal_send(&world, "task-uid").await;
    let digest = seal(&world, "task-uid", "assemble-send", &[("sent", "all"), ("failures", "")]).await;
    say(&world, "assemble-send", &json!({"state": "Complete", "manifest": digest}));
    run(&world, "summary", "sum", None);
    let inputs = assignment(&world, "summary").await["inputs"].clone();
    assert_eq!(inputs.as_array().map(Vec::len), Some(1), "{inputs}");
    let read = world.call("summary", "GET", inputs[0]["source"]["url"].as_str().expect("a path"), None).await;
    assert_eq!(read.text(), "all");
}

/// Another run, finished, of which the failures are wanted as recipients.
async fn other_run(world: &World, edit: Value) {
    let other = TASK.replace("run-1", "run-0");
    let task = world.cluster.objects.lock().expect("no panic")[TASK].clone();
    world.cluster.set(&other, task);
    let digest = seal(world, "other-uid", "assemble-send", &[("failures", "7\n")]).await;
    world.cluster.edit(&other, |task| {
        task["metadata"] = json!({"name": "run-0", "namespace": "studio", "uid": "other-uid"});
        task["status"]["state"] = json!("PartiallyComplete");
        task["status"]["steps"] = json!([{"name": "assemble-send", "state": "Complete", "manifest": digest}]);
        task["status"]["outputs"] = json!([{"name": "failures", "step": "assemble-send", "files": 1, "size": 2}]);
        super::agents::merge(task, &edit);
    });
    world.cluster.edit(TASK, |task| {
        task["spec"]["inputs"] = json!({"recipients": {"output": {"task": "run-0", "name": "failures"}}});
    });
}

#[tokio::test]
async fn an_output_of_another_run_is_cut_into_items() {
    let world = shards::world();
    other_run(&world, json!({})).await;
    world
        .cluster
        .edit(TASK, |task| task["spec"]["inputs"]["logo"] = json!({"upload": "00000000-0000-4000-8000-000000000000"}));
    run(&world, "cutter", "split-again", None);
    let work = assignment(&world, "cutter").await;
    assert_eq!(work["builtIn"], json!({"kind": "Split", "input": "recipients"}));
    assert_eq!(work["emits"]["itemsPerShard"], 100);
    let inputs = work["inputs"].as_array().expect("a list");
    assert_eq!(inputs.len(), 1, "only what it cuts, and not the upload, which does not even exist: {work}");
    let read = world.call("cutter", "GET", inputs[0]["source"]["url"].as_str().expect("a path"), None).await;
    assert_eq!(read.text(), "7\n");
}

#[tokio::test]
async fn an_output_of_a_run_whose_definition_is_gone_is_still_found() {
    let world = shards::world();
    let outputs = json!([{"name": "failures", "step": "assemble-send", "files": 1, "size": 2}]);
    let revision = json!({"name": "course-import-0", "uid": "gone", "number": 0});
    other_run(&world, json!({"status": {"outputs": outputs, "revision": revision}})).await;
    run(&world, "cutter", "split-again", None);
    assert_eq!(assignment(&world, "cutter").await["inputs"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_store_that_was_withdrawn_gives_nothing_to_programs() {
    let world = shards::world();
    other_run(&world, json!({})).await;
    run(&world, "cutter", "split-again", None);
    assert_eq!(assignment(&world, "cutter").await["inputs"].as_array().map(Vec::len), Some(1));
    let store = "/apis/asynctask.dev/v1alpha1/outputstores/volume";
    world.cluster.edit(store, |store| store["spec"]["namespaces"] = json!({"matchLabels": {"stage": "prod"}}));
    // Another gateway: this one believes what it read of a store for ten seconds.
    let world = world.again();
    let answer = world.call("cutter", "GET", "/agent/v1/assignment", None).await;
    assert_eq!(answer.json()["title"], "InputMissing", "{}", answer.text());
    assert!(answer.text().contains("is not open to namespace"), "{}", answer.text());
}

#[tokio::test]
async fn the_shards_of_an_input_have_their_items_and_not_the_whole_of_it() {
    let world = shards::world();
    other_run(&world, json!({})).await;
    let digest = seal(&world, "task-uid", "split-again", &[]).await;
    say(&world, "split-again", &json!({"state": "Complete", "attempt": 1, "manifest": digest}));
    let open = volume(&world).await;
    put(&open, &keys(&open, "task-uid", "split-again").attempt(0, "winner").expect("valid").items(0), "7\n").await;
    say(&world, "again", &json!({"shards": {"total": 1, "active": 1, "succeeded": 0, "failed": 0}}));
    run(&world, "worker", "again", Some(0));
    let work = assignment(&world, "worker").await;
    assert_eq!((&work["inputs"], &work["shard"]["items"]["size"]), (&json!([]), &json!(2)));
    let whole = world.call("worker", "GET", "/agent/v1/inputs/recipients/content", None).await;
    assert_eq!(whole.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_run_of_strangers_is_as_unknown_as_one_that_never_was() {
    let mut said = Vec::new();
    for edit in [
        json!({"spec": {"owner": "eve", "team": "team-b"}}),
        json!({"status": {"state": "InProgress"}}),
        json!({"status": {"steps": []}}),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ] {
        let world = shards::world();
        other_run(&world, edit).await;
        run(&world, "cutter", "split-again", None);
        let answer = world.call("cutter", "GET", "/agent/v1/assignment", None).await;
        assert_eq!(answer.json()["title"], "InputMissing");
        said.push(answer.text());
    }
    let world = shards::world();
    other_run(&world, json!({})).await;
    world.cluster.remove(&TASK.replace("run-1", "run-0"));
    run(&world, "cutter", "split-again", None);
    said.push(world.call("cutter", "GET", "/agent/v1/assignment", None).await.text());
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
}
