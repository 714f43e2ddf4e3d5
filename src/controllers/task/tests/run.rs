//! Runs as they are meant to go, and copies that are older than the truth.

use super::*;
use asynctask_storage::records::Manifest;

#[tokio::test]
async fn a_run_takes_four_writes_and_two_events_from_new_to_marked() {
    let mut world = world();
    world.look().await.expect("admitted");
    assert_eq!(world.state(), ("InProgress".into(), "Running".into()));
    world.look().await.expect("nothing to do");
    world.commit(POD).await;
    world.job_ends("Complete");
    world.look().await.expect("sealed");
    assert_eq!(world.state(), ("Complete".into(), "StepsSucceeded".into()));
    world.look().await.expect("nothing to do");
    let status = format!("PATCH {TASK}/status");
    assert_eq!(world.server.writes(), [format!("POST {JOBS}"), status.clone(), status, format!("PATCH {TASK}")]);
    assert_eq!(world.server.events(), 2);
    let text = world.controller.context.metrics.encode().expect("text");
    assert!(text.contains(r#"asynctask_tasks_ended_total{state="Complete",reason="StepsSucceeded"} 1"#), "{text}");
}

#[tokio::test]
async fn the_status_names_a_manifest_that_leads_to_the_committed_bytes() {
    let mut world = world();
    world.look().await.expect("admitted");
    world.commit(POD).await;
    world.job_ends("Failed");
    world.look().await.expect("sealed");
    let status = world.task().status.expect("a status");
    let sealed: Digest = status.steps[0].manifest.as_deref().expect("sealed").parse().expect("a digest");
    let bytes = world.store().get_bytes(&world.keys().manifest(sealed), 1 << 20).await.expect("stored");
    let manifest = Manifest::open(&bytes, sealed).expect("the sealed one");
    let file = world.store().get_bytes(&manifest.files[0].key, 10).await.expect("its file");
    assert_eq!(&file[..], b"result");
}

#[tokio::test]
async fn records_of_another_run_do_not_count_and_one_of_a_newer_release_holds_the_decision() {
    let mut world = world();
    world.look().await.expect("admitted");
    let forged = CommitRecord { task_uid: "another".into(), ..world.record("pod-2") };
    world.put(&world.keys().attempt(0, "pod-2").expect("keys").commit(), &records::encode(&forged)).await;
    let newer = world.keys().attempt(0, "pod-3").expect("keys").failure();
    world.put(&newer, br#"{"version":99}"#).await;
    world.job_ends("Complete");
    assert_eq!(world.look().await.expect("held"), Next::TryAgain);
    assert_eq!(world.state(), ("InProgress".into(), "RecordTooNew".into()));
    world.store().delete(&[newer]).await.expect("deleted");
    world.look().await.expect("judged");
    assert_eq!(world.state(), ("Failed".into(), "OutputNotCommitted".into()));
}

#[tokio::test]
async fn an_emptied_store_is_not_taken_for_one_without_commits_nor_for_a_deleted_run() {
    let mut world = world();
    world.look().await.expect("admitted");
    world.commit(POD).await;
    world.job_ends("Complete");
    let (mounted, away) = (world.volume.path().join("trial"), world.volume.path().join("away"));
    std::fs::rename(&mounted, &away).expect("unmounted");
    std::fs::create_dir(&mounted).expect("an empty folder");
    assert_eq!(world.look().await.expect("held"), Next::TryAgain);
    assert_eq!(world.state(), ("InProgress".into(), "StoreEmptied".into()));
    world.server.remove(JOB);
    let finished = world.server.get(TASK).expect("the task");
    world.delete();
    assert_eq!(world.look().await.expect("held"), Next::TryAgain);
    assert!(world.server.get(TASK).is_some(), "it is still held");
    world.server.put(TASK, finished);
    std::fs::remove_dir(&mounted).expect("empty");
    std::fs::rename(&away, &mounted).expect("mounted");
    world.look().await.expect("sealed");
    assert_eq!(world.state().0, "Complete");
}

#[tokio::test]
async fn an_old_copy_of_a_finished_run_starts_nothing() {
    let mut world = world();
    let old = world.task();
    world.look().await.expect("admitted");
    world.commit(POD).await;
    world.job_ends("Complete");
    world.look().await.expect("sealed");
    world.server.remove(JOB);
    let before = world.server.writes();
    world.look_at(old).await.expect("the truth was asked for");
    assert_eq!(world.server.writes(), before);
}

#[tokio::test]
async fn an_old_copy_of_a_run_takes_no_job_away_from_a_newer_attempt() {
    let mut world = world();
    world.look().await.expect("admitted");
    let old = world.task();
    world.server.change(TASK, |task| task["status"]["steps"][0]["attempt"] = json!(2));
    let (first, second) = (world.server.get(JOB).expect("a Job"), JOB.replace("-1", "-2"));
    let mut next = first.clone();
    next["metadata"]["name"] = json!("a-run-0a1b2c3d-2");
    next["metadata"]["labels"]["asynctask.dev/attempt"] = json!("2");
    world.server.put(&second, next);
    world.show(&second);
    world.look_at(old).await.expect("the truth was asked for");
    assert!(world.server.get(&second).is_some(), "{:?}", world.server.writes());
}

#[tokio::test]
async fn a_run_made_anew_under_the_same_name_is_not_touched_through_the_old_copy() {
    let world = world();
    let mut old = world.task();
    world.server.put(TASK, new_task("a", "another"));
    let before = world.server.writes();
    for state in [None, Some("InProgress")] {
        if state.is_some() {
            // Even one that believes in a Job: its write is bound to a version that is gone.
            old.status = serde_json::from_value(json!({"state": state, "steps": [{"name": "run", "attempt": 1}]})).ok();
        }
        world.look_at(old.clone()).await.expect("nothing to do");
    }
    old.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    world.look_at(old).await.expect("nothing to do");
    let refused = |write: &&String| !before.contains(write);
    assert!(world.server.writes().iter().filter(refused).all(|write| write.starts_with("PATCH")), "no Job");
    let task = world.server.get(TASK).expect("it is there");
    assert_eq!((&task["metadata"]["uid"], task.get("status")), (&json!("another"), None));
    assert_eq!(task["metadata"]["finalizers"], json!(["asynctask.dev/outputs"]));
}

#[tokio::test]
async fn a_deleted_run_takes_its_job_and_its_keys_with_it_and_nothing_else() {
    let mut world = world();
    world.look().await.expect("admitted");
    world.commit(POD).await;
    world.job_ends("Complete");
    world.look().await.expect("sealed");
    let neighbour = "asynctask/studio/0a1b2c3d-0000-4000-8000-0000000000001/run/0/p/commit";
    world.put(neighbour, b"not ours").await;
    world.delete();
    assert!(matches!(world.look().await, Ok(Next::LookAgain(_))), "the Job goes first");
    assert!(world.server.get(JOB).is_none());
    assert_eq!(world.look().await.expect("let go"), Next::Rest);
    assert!(world.server.get(TASK).is_none());
    assert_eq!(world.files().len(), 1, "{:?}", world.files());
    assert!(world.files()[0].ends_with(neighbour));
    let record = world.history().await;
    assert_eq!((record.state.as_str(), record.transitions.len()), ("Complete", 2), "it outlives the object");
}

#[tokio::test]
async fn a_store_that_is_gone_holds_the_deleted_run_and_says_so_once() {
    let world = world();
    world.look().await.expect("admitted");
    world.server.remove(JOB);
    world.server.remove(STORE);
    world.delete();
    assert_eq!(world.look().await.expect("held"), Next::TryAgain);
    let stalled =
        |world: &World| world.task().status.expect("a status").conditions.into_iter().find(|c| c.type_ == "Stalled");
    let said = stalled(&world).expect("said");
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", "StoreNotFound"));
    assert!(said.message.contains("the history record of this run cannot be written"), "{}", said.message);
    assert!(said.message.contains("asynctask.dev/abandon-outputs="), "and what can be done: {}", said.message);
    let before = world.server.writes().len();
    assert_eq!(world.look().await.expect("held"), Next::TryAgain);
    assert_eq!(world.server.writes().len(), before, "the same trouble is no news");
}

#[tokio::test]
async fn whether_a_name_ran_before_is_told_by_its_newest_record() {
    let world = world();
    let now = jiff::Timestamp::now();
    let layout = Layout::new("asynctask").expect("a prefix");
    let objects = world.volume.path().join("trial/objects");
    let put = |created, uid: &str, bytes: &[u8]| {
        let file = objects.join(layout.history("studio", created, "a", uid).expect("a key"));
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(&file, bytes).expect("written");
        file
    };
    let record = |uid: &str, hours: i64| {
        let created = now - jiff::SignedDuration::from_hours(hours);
        let record = json!({
            "version": records::VERSION, "namespace": "studio", "name": "a", "uid": uid, "createdAt": created.to_string(),
            "spec": {}, "state": "Complete", "recordedAt": created.to_string(),
        });
        put(created, uid, record.to_string().as_bytes())
    };
    // More of them than one page has: those of other UIDs that come first by name are older.
    for number in 0..30 {
        record(&format!("{number:04}"), 30 + number);
    }
    let recent = record("recent", 1);
    world.server.change(TASK, |task| task["spec"]["once"] = json!("24h"));
    let fresh = world.task();
    world.look().await.expect("judged");
    assert_eq!(world.state(), ("Canceled".into(), "RanBefore".into()));
    assert_eq!(world.server.get(JOB), None);

    std::fs::remove_file(recent).expect("removed");
    let torn = put(now - jiff::SignedDuration::from_hours(2), "torn", b"{");
    world.server.put(TASK, serde_json::to_value(&fresh).expect("JSON"));
    world.look().await.expect("it waits");
    assert_eq!(world.state(), ("Pending".into(), "StoreNotReady".into()));
    let said = world.task().status.and_then(|status| status.message).expect("a message");
    assert!(said.contains("-torn.json cannot be read"), "{said}");

    std::fs::remove_file(torn).expect("removed");
    world.look().await.expect("admitted");
    assert_eq!(world.state().0, "InProgress");
}

/// As the watch shows what it cannot read.
fn unreadable(world: &World) -> Guarded {
    let metadata = world.server.get(TASK).expect("it is there")["metadata"].clone();
    let guarded: Guarded = serde_json::from_value(json!({"metadata": metadata})).expect("a guard");
    assert!(guarded.0.is_err());
    guarded
}

#[tokio::test]
async fn a_run_whose_parameters_nobody_can_read_fails_and_can_be_deleted() {
    let world = world();
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    world.server.change(TASK, |task| task["spec"]["parameters"] = json!({"v": deep}));
    world.controller.look_at_unreadable(&unreadable(&world), "").await.expect("judged");
    assert_eq!(world.state(), ("Failed".into(), "InvalidParameters".into()));
    let said = world.task().status.and_then(|status| status.message).expect("a message");
    assert!(said.contains("spec.parameters cannot be read: recursion limit exceeded"), "{said}");
    assert_eq!(world.server.get(JOB), None);
    world.delete();
    world.controller.look_at_unreadable(&unreadable(&world), "").await.expect("let go");
    assert_eq!(world.server.get(TASK), None);
}

#[tokio::test]
async fn a_run_that_nobody_can_read_says_so_stops_nothing_and_can_be_deleted() {
    let world = world();
    world.look().await.expect("admitted");
    world.server.change(TASK, |task| task["spec"]["keepUntil"] = json!("9999-12-31T23:59:59Z"));
    let error = r#"invalid value: string "9999-12-31", expected a time"#;
    assert_eq!(world.controller.look_at_unreadable(&unreadable(&world), error).await.expect("said"), Next::Rest);
    let status = world.server.get(TASK).expect("it is there")["status"].clone();
    let conditions = status["conditions"].as_array().expect("conditions");
    let stalled = conditions.iter().find(|condition| condition["type"] == "Stalled").expect("it is said");
    assert_eq!(stalled["reason"], "Unreadable");
    let said = stalled["message"].as_str().expect("a message");
    assert!(said.contains("invalid value: string") && !said.contains("9999"), "no value is quoted: {said}");
    assert!(world.server.events() > 0);
    assert!(world.server.get(JOB).is_some(), "its Job is left alone");
    world.server.remove(JOB);
    world.delete();
    world.controller.look_at_unreadable(&unreadable(&world), error).await.expect("let go");
    assert_eq!(world.server.get(TASK), None);
}
