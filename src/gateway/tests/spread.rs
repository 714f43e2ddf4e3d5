//! What people see of a fan-out: its shards, their logs, and another run that goes on with it.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::fake::TASK;
use super::shards::{FAILED, keys, put, record, say, seal_send, volume, world};

const RUN: &str = "/api/v1/namespaces/studio/tasks/run-1";

fn numbers(list: &Value) -> Vec<u64> {
    list["shards"].as_array().expect("a list").iter().map(|shard| shard["shard"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn shards_are_listed_by_their_numbers_while_they_run() {
    let world = world();
    let open = volume(&world).await;
    say(
        &world,
        "send",
        &json!({"state": "Running", "attempt": 1, "shards": {"total": 5, "active": 2, "succeeded": 1, "failed": 0}}),
    );
    let send = keys(&open, "task-uid", "send");
    record(&open, &send, 0, "pod-a", None).await;
    record(&open, &send, 2, "p", Some("Older")).await;
    record(&open, &send, 2, "pod-b", Some("Newer")).await;
    let list = world.call("alice", "GET", &format!("{RUN}/shards?step=send&limit=3"), None).await.json();
    assert_eq!(numbers(&list), [0, 1, 2], "{list}");
    let states: Vec<_> =
        list["shards"].as_array().expect("a list").iter().map(|shard| shard["state"].clone()).collect();
    assert_eq!(states, ["Succeeded", "Waiting", "Waiting"]);
    assert_eq!((&list["shards"][2]["code"], &list["shards"][0]["items"]["skipped"]), (&json!("Newer"), &json!(1)));
    let next = list["continue"].as_str().expect("there are more");
    let rest =
        world.call("alice", "GET", &format!("{RUN}/shards?step=send&limit=3&continue={next}"), None).await.json();
    assert_eq!((numbers(&rest), &rest["continue"]), (vec![3, 4], &Value::Null));
}

#[tokio::test]
async fn sealed_shards_are_told_from_their_pages_and_failed_ones_alone() {
    let world = world();
    seal_send(&world, "task-uid").await;
    let all = world.call("alice", "GET", &format!("{RUN}/shards?step=send"), None).await.json();
    assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);
    let failed = world.call("alice", "GET", &format!("{RUN}/shards?step=send&state=Failed"), None).await.json();
    assert_eq!((numbers(&failed), &failed["shards"][0]["state"]), (vec![u64::from(FAILED)], &json!("Failed")));
    for (query, status) in [
        ("step=plan", StatusCode::UNPROCESSABLE_ENTITY),
        ("step=send&state=Lost", StatusCode::BAD_REQUEST),
        ("step=send&limit=0", StatusCode::BAD_REQUEST),
        ("step=send&continue=x", StatusCode::BAD_REQUEST),
    ] {
        let answer = world.call("alice", "GET", &format!("{RUN}/shards?{query}"), None).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_log_of_a_shard_can_be_read_before_it_is_sealed() {
    let world = world();
    let open = volume(&world).await;
    say(
        &world,
        "send",
        &json!({"state": "Running", "attempt": 1, "shards": {"total": 5, "active": 2, "succeeded": 0, "failed": 0}}),
    );
    let attempt = keys(&open, "task-uid", "send").attempt(3, "pod-a").expect("valid");
    put(&open, &attempt.log(), "line\n").await;
    let answer = world.call("alice", "GET", &log("step=send&shard=3"), None).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "line\n".to_owned()));
    assert_eq!(world.call("alice", "GET", &log("step=send&shard=4"), None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.call("alice", "GET", &log("shard=3"), None).await.status, StatusCode::BAD_REQUEST);
}

fn log(query: &str) -> String {
    format!("{RUN}/outputs/log/files/0/download?{query}")
}

#[tokio::test]
async fn the_sealed_log_of_a_shard_is_that_of_its_winner_or_of_its_failure() {
    let world = world();
    seal_send(&world, "task-uid").await;
    for shard in [0, FAILED, 4] {
        let answer = world.call("alice", "GET", &log(&format!("step=send&shard={shard}")), None).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, format!("log of {shard}")));
    }
    let beyond = world.call("alice", "GET", &log("step=send&shard=5"), None).await;
    assert_eq!(beyond.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn of_several_pods_of_a_shard_the_log_of_the_one_that_counts_is_given() {
    let world = world();
    let open = volume(&world).await;
    say(
        &world,
        "send",
        &json!({"state": "Running", "attempt": 1, "shards": {"total": 5, "active": 0, "succeeded": 0, "failed": 0}}),
    );
    let send = keys(&open, "task-uid", "send");
    let pods = [("pod-c", "said nothing, and most of all"), ("pod-bbb", "the newest"), ("pod-aa", "an older failure")];
    for (pod, content) in pods {
        put(&open, &send.attempt(3, pod).expect("valid").log(), content).await;
    }
    let said = || async { world.call("alice", "GET", &log("step=send&shard=3"), None).await.text() };
    assert_eq!(said().await, "said nothing, and most of all", "no pod has reported yet");
    record(&open, &send, 3, "pod-aa", Some("Older")).await;
    record(&open, &send, 3, "pod-bbb", Some("Newer")).await;
    assert_eq!(said().await, "the newest");
    put(&open, &send.attempt(3, "pod-b").expect("valid").log(), "won").await;
    record(&open, &send, 3, "pod-b", None).await;
    assert_eq!(said().await, "won");
}

#[tokio::test]
async fn shards_that_a_run_takes_over_are_shown_before_its_own_are_sealed() {
    let world = world();
    let other = TASK.replace("run-1", "run-0");
    seal_send(&world, "first-uid").await;
    let source = world.cluster.objects.lock().expect("no panic")[TASK].clone();
    world.cluster.set(&other, source);
    world.cluster.edit(&other, |task| {
        task["metadata"] = json!({"name": "run-0", "namespace": "studio", "uid": "first-uid"});
    });
    let waiting = json!({"name": "send", "state": "Waiting", "shards": {"total": 5, "active": 0, "succeeded": 0, "failed": 0}, "adopted": {"name": "run-0", "uid": "first-uid"}});
    world.cluster.edit(TASK, |task| task["status"]["steps"] = json!([waiting]));
    let states = || async {
        let list = world.call("alice", "GET", &format!("{RUN}/shards?step=send"), None).await.json();
        let shards = list["shards"].as_array().expect("a list").clone();
        shards.iter().map(|shard| shard["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states().await, ["Succeeded", "Succeeded", "Waiting", "Succeeded", "Succeeded"]);
    let taken = world.call("alice", "GET", &log("step=send&shard=1"), None).await;
    assert_eq!((taken.status, taken.text()), (StatusCode::OK, "log of 1".to_owned()));
    // Another run has the name by now.
    world.cluster.edit(&other, |task| task["metadata"]["uid"] = json!("another-uid"));
    assert_eq!(states().await, ["Waiting"; 5]);
    let gone = world.call("alice", "GET", &log("step=send&shard=1"), None).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_run_is_continued_by_its_owner_as_a_member_of_its_team_only() {
    let world = world();
    let path = format!("{RUN}/retry");
    let asked = || world.call("alice", "POST", &path, Some(json!({"name": "run-2"})));
    for edit in [json!({"owner": "bob"}), json!({"owner": "alice", "team": "team-b"})] {
        world.cluster.edit(TASK, |task| {
            task["status"]["state"] = json!("Failed");
            super::agents::merge(&mut task["spec"], &edit);
        });
        let refused = asked().await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{edit}: {}", refused.text());
    }
    world.cluster.edit(TASK, |task| task["spec"]["team"] = json!("team-a"));
    let made = asked().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let made = made.json();
    let revision = json!({"name": "course-import", "revision": "course-import-1"});
    assert_eq!((&made["spec"]["team"], &made["spec"]["definition"]), (&json!("team-a"), &revision));
    assert_eq!(made["spec"]["parameters"], json!({"course": "c"}));
}

#[tokio::test]
async fn the_same_key_continues_a_run_once() {
    let world = world();
    world.cluster.edit(TASK, |task| task["status"]["state"] = json!("Failed"));
    let retry = || {
        let request = Request::post(format!("{RUN}/retry")).header("authorization", "Bearer alice");
        let request = request.header("content-type", "application/json").header("idempotency-key", "k");
        world.send(request.body(Body::from("{}")).expect("a request"))
    };
    let (first, again) = (retry().await, retry().await);
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK), "{}", again.text());
    let name = first.json()["metadata"]["name"].clone();
    assert!(name.as_str().is_some_and(|name| name.starts_with("run-1-retry-")), "{name}");
    assert_eq!(again.json()["metadata"]["name"], name);
}

#[tokio::test]
async fn a_finished_run_goes_on_in_another_one_of_its_owner() {
    let world = world();
    let path = format!("{RUN}/retry");
    let running = world.call("alice", "POST", &path, Some(json!({"name": "run-2"}))).await;
    assert_eq!(running.status, StatusCode::CONFLICT, "{}", running.text());
    world.cluster.edit(TASK, |task| task["status"]["state"] = json!("PartiallyComplete"));
    let made = world.call("alice", "POST", &path, Some(json!({"name": "run-2"}))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["spec"]["retryOf"]["name"], &made["spec"]["owner"]), (&json!("run-1"), &json!("alice")));
    world.cluster.edit(TASK, |task| task["status"]["state"] = json!("Complete"));
    assert_eq!(world.call("alice", "POST", &path, Some(json!({"name": "run-3"}))).await.status, StatusCode::CONFLICT);
}
