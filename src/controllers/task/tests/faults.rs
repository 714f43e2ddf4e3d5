//! Each write of a run lost once, before it arrives or after it was done: the end is the same, and nothing is done twice.

use super::*;
use crate::fake::Fault;

/// A whole life: made, run, sealed, marked, deleted.
async fn life(fault: Option<(usize, Fault)>) -> (Value, Vec<String>, Vec<String>) {
    let mut world = world();
    if let Some((number, fault)) = fault {
        world.server.fail(number, fault);
    }
    world.settle().await;
    world.commit(POD).await;
    world.job_ends("Complete");
    world.settle().await;
    let mut end = world.server.get(TASK).expect("the task is there");
    mask(&mut end);
    world.delete();
    for _ in 0..3 {
        world.settle().await;
    }
    assert!(world.server.get(TASK).is_none(), "{fault:?}: it is still held");
    (end, world.files(), world.server.writes())
}

/// Hides what differs from run to run: versions and clocks.
fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, child) in members.iter_mut() {
                if key.ends_with("Time") || key == "at" || key == "resourceVersion" {
                    *child = Value::Null;
                } else {
                    mask(child);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

#[tokio::test]
async fn every_write_may_be_lost_once_and_the_end_is_the_same() {
    let (reference, files, writes) = life(None).await;
    assert_eq!((files.len(), writes.len()), (0, 6), "{writes:?}");
    for number in 0..writes.len() {
        for fault in [Fault::Lost, Fault::Unanswered] {
            let (end, files, writes) = life(Some((number, fault))).await;
            assert_eq!(end, reference, "write {number} {fault:?}");
            assert_eq!(files, Vec::<String>::new(), "write {number} {fault:?}");
            let jobs = writes.iter().filter(|write| write.starts_with("POST")).count();
            // One lost on its way was sent again; one that was done is found, or tried once more and found then.
            assert!(jobs <= 2, "write {number} {fault:?}: {writes:?}");
        }
    }
}

#[tokio::test]
async fn a_status_written_by_the_gateway_meanwhile_costs_a_look_and_nothing_else() {
    let mut world = world();
    world.look().await.expect("admitted");
    world.commit(POD).await;
    world.job_ends("Complete");
    let copy = world.task();
    world.server.change(TASK, |task| task["status"]["progress"] = json!("Writing 3/10"));
    world.look_at(copy).await.expect("sealed");
    assert_eq!(world.state().0, "Complete");
}

#[tokio::test]
async fn a_foreign_job_of_the_same_name_is_left_alone() {
    let world = world();
    let foreign =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-run-0a1b2c3d-1", "uid": "x"}});
    world.server.put(JOB, foreign);
    world.look().await.expect("refused");
    assert_eq!(world.state(), ("Failed".into(), "NameConflict".into()));
    assert_eq!(world.server.get(JOB).expect("it is there")["metadata"]["uid"], "x");
}

#[tokio::test]
async fn a_job_made_by_another_operator_from_another_revision_is_taken_as_it_is() {
    let world = world();
    world.server.put(JOB, json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": "a-run-0a1b2c3d-1", "uid": "x", "labels": {"asynctask.dev/task-uid": UID},
            "annotations": {"asynctask.dev/revision": "report-older"},
            "ownerReferences": [{"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "name": "a", "uid": UID, "controller": true}],
        },
    }));
    let path = |name: &str| format!("{OURS}/taskrevisions/{name}");
    let current = world.server.get(&format!("{OURS}/taskdefinitions/report")).expect("a definition");
    let name = current["status"]["revision"]["name"].as_str().expect("a name").to_owned();
    let mut older = world.server.get(&path(&name)).expect("a revision");
    older["metadata"]["name"] = json!("report-older");
    older["metadata"]["uid"] = json!("r-0");
    world.server.put(&path("report-older"), older);
    world.look().await.expect("admitted");
    assert_eq!(world.task().status.expect("a status").revision.expect("pinned").name, "report-older");
}
