//! What became of a run, while its object is there and when it is gone.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fake::{TASK, World};
use asynctask_storage::PutMode;
use asynctask_storage::records::{HistoryRecord, VERSION, encode};

const HISTORY: &str = "/api/v1/namespaces/studio/tasks/run-1/history";

async fn record(world: &World, uid: &str, created: Timestamp) {
    let record: HistoryRecord = serde_json::from_value(json!({
        "version": VERSION, "namespace": "studio", "name": "run-1", "uid": uid, "createdAt": created,
        "spec": {"parameters": {"course": "c"}}, "state": "Complete", "recordedAt": created,
        "transitions": [{"seq": 1, "to": "InProgress", "at": created, "reason": "Running"}],
    }))
    .expect("a record");
    let open = world.gateway.stores.by_name("volume").await.expect("open");
    let key = open.layout.history("studio", created, "run-1", uid).expect("valid");
    open.store.put(&key, encode(&record), PutMode::Overwrite).await.expect("stored");
}

#[tokio::test]
async fn the_runs_of_a_name_are_told_newest_first_also_when_the_object_is_gone() {
    let world = World::new();
    let now = Timestamp::now();
    let day = jiff::SignedDuration::from_hours(24);
    record(&world, "older", now - day * 200).await;
    record(&world, "newer", now - day).await;
    record(&world, "too-old", now - day * 500).await;
    for gone in [false, true] {
        if gone {
            world.cluster.remove(TASK);
        }
        let answer = world.call("alice", "GET", HISTORY, None).await;
        let runs = answer.json()["runs"].as_array().expect("a list").clone();
        let uids: Vec<_> = runs.iter().map(|run| run["uid"].as_str().expect("a UID")).collect();
        assert_eq!(uids, ["newer", "older"], "gone: {gone}");
        assert_eq!(runs[0]["spec"]["parameters"], json!({"course": "c"}));
        assert_eq!(runs[0]["transitions"][0]["reason"], "Running");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hides_no_other_and_of_many_the_newest_are_told() {
    let world = World::new();
    let (now, second) = (Timestamp::now(), jiff::SignedDuration::from_secs(1));
    for number in 0..25 {
        record(&world, &format!("u-{number:02}"), now - second * number).await;
    }
    let open = world.gateway.stores.by_name("volume").await.expect("open");
    let newer = open.layout.history("studio", now + second, "run-1", "of-a-newer-release").expect("valid");
    open.store.put(&newer, br#"{"version": 99}"#.to_vec().into(), PutMode::Overwrite).await.expect("stored");
    let answer = world.call("alice", "GET", HISTORY, None).await.json();
    let uids: Vec<_> = answer["runs"].as_array().expect("runs").iter().filter_map(|run| run["uid"].as_str()).collect();
    assert!((19..=20).contains(&uids.len()), "{uids:?}");
    assert_eq!((uids[0], uids[18]), ("u-00", "u-18"));
    world.cluster.grant("alice", "list asynctasks/history");
    let past = world.call("alice", "GET", "/api/v1/namespaces/studio/history", None).await.json();
    assert_eq!(past["runs"].as_array().map(Vec::len), Some(25), "{past}");
    assert!(past["missing"][0].as_str().is_some_and(|said| said.contains("1 records cannot be read")), "{past}");
}

#[tokio::test]
async fn a_run_without_a_record_has_an_empty_history_and_no_run_none() {
    let world = World::new();
    assert_eq!(world.call("alice", "GET", HISTORY, None).await.json(), json!({"runs": []}));
    world.cluster.remove(TASK);
    assert_eq!(world.call("alice", "GET", HISTORY, None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_may_read_tasks_may_not_therefore_read_of_those_that_are_gone() {
    let world = World::new();
    record(&world, "newer", Timestamp::now()).await;
    world.cluster.grant("bob", "get asynctasks");
    assert_eq!(world.call("bob", "GET", HISTORY, None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_named_and_the_others_are_read() {
    const PAST: &str = "/api/v1/namespaces/studio/history";
    let world = World::new();
    world.cluster.grant("alice", "list asynctasks/history");
    record(&world, "newer", Timestamp::now()).await;
    assert_eq!(world.call("alice", "GET", PAST, None).await.json()["missing"], Value::Null);
    let path = "/apis/asynctask.dev/v1alpha1/outputstores/bucket";
    let mut other = world.cluster.objects.lock().expect("no panic")[&path.replace("bucket", "volume")].clone();
    other["metadata"] = json!({"name": "bucket", "uid": "bucket", "generation": 1});
    other["spec"] = json!({"s3": {"bucket": "b", "credentialsSecret": {"name": "not-there"}}});
    world.cluster.set(path, other);

    let answer = world.call("alice", "GET", PAST, None).await.json();
    assert_eq!(answer["runs"][0]["uid"], "newer", "{answer}");
    let missing = answer["missing"][0].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert!(missing.starts_with("OutputStore bucket: ") && missing.contains("the store cannot be used"), "{missing}");
    assert!(!missing.contains("not-there"), "what it is made of is for administrators: {missing}");

    world.cluster.remove(&path.replace("bucket", "volume"));
    let refused = world.call("alice", "GET", PAST, None).await;
    assert!(refused.status.is_server_error() || refused.status == StatusCode::CONFLICT, "{}", refused.status);
}
