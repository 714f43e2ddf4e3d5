//! A newer run of a concurrency key takes the place of an older one.

use super::*;
use asynctask_api::names::ANNOTATION_REPLACED_BY;

const NEWER: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks/b";

/// The older run is in progress, and a newer one of the same key is there.
async fn two() -> World {
    let world = world();
    let parameters = json!({"type": "object", "required": ["course"], "properties": {"course": {"type": "string"}}});
    let concurrency = json!({"key": ["course"], "policy": "Replace"});
    furnish(&world.server, &json!({"parameters": parameters, "concurrency": concurrency}));
    world.server.change(TASK, |task| task["spec"]["parameters"] = json!({"course": "a"}));
    world.look().await.expect("admitted");
    assert_eq!(world.state(), ("InProgress".into(), "Running".into()));
    let mut newer = new_task("b", "1b2c3d4e-0000-4000-8000-000000000000");
    newer["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:09Z");
    newer["spec"]["parameters"] = json!({"course": "a"});
    world.server.put(NEWER, newer);
    world
}

impl World {
    async fn look_at_newer(&self) -> (String, String) {
        let read = || serde_json::from_value::<AsyncTask>(self.server.get(NEWER).expect("it is there"));
        self.look_at(read().expect("a task")).await.expect("no fault");
        let status = read().expect("a task").status.expect("a status");
        (status.state.expect("a state").to_string(), status.reason.expect("a reason"))
    }

    /// Who the older run is cancelled for, and how often it was written to but for its status.
    fn replaced_by(&self) -> (Option<String>, usize) {
        let newer = self.task().metadata.annotations.unwrap_or_default().remove(ANNOTATION_REPLACED_BY);
        (newer, self.server.writes().iter().filter(|write| **write == format!("PATCH {TASK}")).count())
    }
}

#[tokio::test]
async fn the_older_run_is_cancelled_once_for_the_newer_one() {
    let world = two().await;

    assert_eq!(world.look_at_newer().await, ("Pending".into(), "ConcurrencyKeyBusy".into()));
    world.look_at_newer().await;

    assert_eq!((world.task().spec.cancel, world.replaced_by()), (Some(true), (Some("b".into()), 1)));
    world.look().await.expect("cancelled");
    assert_eq!(world.state(), ("Canceled".into(), "Replaced".into()));
    let message = world.task().status.expect("a status").message.expect("a message");
    assert!(message.contains("newer run b"), "{message}");
}

#[tokio::test]
async fn who_asked_for_its_end_before_stands() {
    let world = two().await;
    world.server.change(TASK, |task| task["spec"]["cancel"] = json!(true));

    assert_eq!(world.look_at_newer().await, ("Pending".into(), "ConcurrencyKeyBusy".into()));

    assert_eq!(world.replaced_by(), (None, 0));
}

#[tokio::test]
async fn a_run_that_is_over_or_another_one_of_its_name_is_left_alone() {
    let world = two().await;
    world.server.change(TASK, |task| task["status"]["state"] = json!("Complete"));
    world.look_at_newer().await;
    assert_eq!(world.replaced_by(), (None, 0));

    let world = two().await;
    world.server.put(TASK, new_task("a", "2c3d4e5f-0000-4000-8000-000000000000"));
    world.look_at_newer().await;
    assert_eq!((world.task().spec.cancel, world.replaced_by()), (None, (None, 0)));
}
