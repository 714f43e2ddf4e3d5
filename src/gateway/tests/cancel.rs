//! Cancelling a run, and the barrier before the stage from which on it is not cancelled.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::fake::{Answer, TASK, World};

const CANCEL: &str = "/api/v1/namespaces/studio/tasks/run-1/cancel";

async fn cancel(world: &World) -> Answer {
    world.call("alice", "POST", CANCEL, None).await
}

async fn enter(world: &World, stage: &str) -> Answer {
    world.call("pod", "POST", "/agent/v1/stage", Some(json!({"stage": stage}))).await
}

fn step(world: &World) -> Value {
    world.cluster.objects.lock().expect("no panic")[TASK]["status"]["steps"][0].clone()
}

#[tokio::test]
async fn cancelling_says_what_it_will_do_and_asking_twice_is_asking_once() {
    let world = World::new();
    for _ in 0..2 {
        let answer = cancel(&world).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.json(), json!({"requested": true, "effect": "The course is unchanged."}));
    }
    let patches = world.cluster.patches.lock().expect("no panic").clone();
    assert_eq!(
        patches,
        [
            json!({"metadata": {"annotations": {"asynctask.dev/canceled-by": "alice"}, "uid": "task-uid"}, "spec": {"cancel": true}})
        ]
    );
}

#[tokio::test]
async fn a_request_that_comes_too_late_is_kept_and_says_why() {
    let world = World::new();
    assert_eq!(enter(&world, "Updating").await.status, StatusCode::NO_CONTENT);
    let refused = cancel(&world).await.json();
    let why = refused["refusedNow"].as_str().expect("a sentence");
    assert!(
        why.contains("step import has entered stage Updating") && why.contains("The course is unchanged."),
        "{why}"
    );
    assert_eq!(world.cluster.objects.lock().expect("no panic")[TASK]["spec"]["cancel"], true);
}

#[tokio::test]
async fn a_run_that_is_over_is_not_cancelled() {
    let world = World::new();
    world.cluster.edit(TASK, |task| task["status"]["state"] = json!("Complete"));
    let answer = cancel(&world).await;
    assert_eq!((answer.status, answer.json()["title"].clone()), (StatusCode::CONFLICT, json!("RunIsOver")));
    assert!(world.cluster.patches.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_guarded_stage_is_written_with_its_mark_which_later_writes_keep() {
    let world = World::new();
    enter(&world, "Unpacking").await;
    assert_eq!(step(&world)["guarded"], Value::Null);
    enter(&world, "Updating").await;
    world.call("pod", "POST", "/agent/v1/progress", Some(json!({"done": 1}))).await;
    let patches = world.cluster.patches.lock().expect("no panic").clone();
    let last = &patches[patches.len() - 1]["status"]["steps"][0];
    assert_eq!((&last["guarded"], &last["stage"]), (&json!(true), &json!("Updating")));
}

#[tokio::test]
async fn who_was_asked_to_stop_enters_no_guarded_stage_and_every_other_one() {
    for asked in ["cancel", "suspend"] {
        let world = World::new();
        // What was believed a moment ago does not count.
        world.call("pod", "POST", "/agent/v1/progress", Some(json!({"done": 1}))).await;
        world.cluster.edit(TASK, |task| task["spec"][asked] = json!(true));
        for guarded in ["Updating", "Indexing"] {
            let answer = enter(&world, guarded).await;
            assert_eq!((answer.status, answer.json()["title"].clone()), (StatusCode::CONFLICT, json!("Canceled")));
        }
        assert_eq!(step(&world)["guarded"], Value::Null);
        assert_eq!(enter(&world, "Unpacking").await.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn who_is_past_the_barrier_goes_on_in_this_attempt_and_the_next() {
    let world = World::new();
    assert_eq!(enter(&world, "Updating").await.status, StatusCode::NO_CONTENT);
    cancel(&world).await;
    assert_eq!(enter(&world, "Indexing").await.status, StatusCode::NO_CONTENT);
    assert_eq!(enter(&world, "Unpacking").await.status, StatusCode::NO_CONTENT, "the next attempt begins anew");
    assert_eq!(enter(&world, "Updating").await.status, StatusCode::NO_CONTENT, "half done is not done");
}

/// R21 in small: whoever is first, both sides see the same order.
#[tokio::test]
async fn no_run_is_cancelled_inside_the_guarded_stage_in_500_races() {
    let world = World::new();
    let fresh = world.cluster.objects.lock().expect("no panic")[TASK].clone();
    let mut entered = 0;
    for race in 1..=500 {
        world.cluster.edit(TASK, |task| {
            *task = fresh.clone();
            task["metadata"]["resourceVersion"] = json!((race * 100).to_string());
        });
        world.cluster.patches.lock().expect("no panic").clear();
        *world.cluster.disorder.lock().expect("no panic") = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(race);
        // It has fewer calls to make before its write, so it sets out later by up to as much.
        let canceling = async {
            for _ in 0..race % 24 {
                tokio::task::yield_now().await;
            }
            cancel(&world).await
        };
        let (stage, canceled) = tokio::join!(enter(&world, "Updating"), canceling);
        assert_eq!(canceled.status, StatusCode::OK, "{}", canceled.text());
        let order: Vec<&str> = world.cluster.patches.lock().expect("no panic").iter().map(kind).collect();
        let told = canceled.json()["refusedNow"].is_string();
        match stage.status {
            StatusCode::NO_CONTENT => {
                entered += 1;
                assert_eq!((order, told), (vec!["entered", "canceled"], true), "race {race}");
            }
            _ => {
                assert_eq!(stage.json()["title"], "Canceled", "race {race}: {}", stage.text());
                assert_eq!((order, told), (vec!["canceled"], false), "race {race}");
            }
        }
    }
    assert!((50..450).contains(&entered), "both orders are met: entered {entered} times of 500");
}

fn kind(patch: &Value) -> &'static str {
    match (&patch["spec"]["cancel"], &patch["status"]["steps"][0]["guarded"]) {
        (Value::Bool(true), Value::Null) => "canceled",
        (Value::Null, Value::Bool(true)) => "entered",
        _ => "something else",
    }
}
