//! What people see of a fan-out: its shards, their logs, and another run that goes on with it.

use http::StatusCode;
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
    let log = |query: &str| format!("{RUN}/outputs/log/files/0/download?{query}");
    let answer = world.call("alice", "GET", &log("step=send&shard=3"), None).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "line\n".to_owned()));
    assert_eq!(world.call("alice", "GET", &log("step=send&shard=4"), None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.call("alice", "GET", &log("shard=3"), None).await.status, StatusCode::BAD_REQUEST);
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
