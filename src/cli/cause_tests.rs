use serde_json::{Value, json};

use super::{Facts, JobFact, Known, cause};
use asynctask_api::AsyncTask;

fn run(spec: Value, status: Value) -> AsyncTask {
    let mut spec = spec;
    spec["definition"] = json!({"name": "course-import"});
    serde_json::from_value(json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
        "metadata": {"name": "import-7"}, "spec": spec, "status": status,
    }))
    .expect("an AsyncTask")
}

fn why(task: &AsyncTask, facts: &Facts) -> (String, String) {
    let cause = cause(task, facts, "2026-11-24T08:00:00Z".parse().expect("a time"));
    (cause.what, cause.next)
}

fn pending(reason: &str, message: &str) -> Value {
    json!({"state": "Pending", "reason": reason, "message": message})
}

fn step(step: Value) -> Value {
    json!({"state": "InProgress", "reason": "Running", "steps": [step]})
}

fn waiting(reason: &str, message: &str) -> Value {
    step(json!({"name": "import", "state": "Running", "waiting": {"reason": reason, "message": message}}))
}

fn job(job: JobFact) -> Facts {
    Facts { jobs: Known::Is(vec![JobFact { step: "import".into(), ..job }]), ..Facts::default() }
}

/// The states and reasons of the book's tables.
fn reasons() -> Vec<(String, String)> {
    let book = crate::golden::project("docs/src/operations.md");
    let page = book.split("## What each reason means").nth(1).expect("the section");
    let page = page.split("Of a store:").next().expect("its tables");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")).map(|row| row.split(" | ").collect::<Vec<_>>());
    let mut found = Vec::new();
    for row in rows.filter(|row| row.len() > 1) {
        let states = match row[0] {
            "any of these" | "Pending, InProgress" => vec!["Pending", "InProgress"],
            "Failed before any step" => vec!["Failed"],
            state => vec![state],
        };
        let names = row[1].split('`').skip(1).step_by(2).filter(|name| name.starts_with(char::is_uppercase));
        for name in names {
            found.extend(states.iter().map(|state| ((*state).to_owned(), name.to_owned())));
        }
    }
    found
}

#[test]
fn every_reason_of_the_book_has_a_sentence_and_what_can_be_done() {
    let reasons = reasons();
    assert!(reasons.len() > 40, "{reasons:?}");
    for (state, reason) in reasons {
        let step = json!({"name": "import", "state": "Running"});
        let mut status = json!({"state": state, "reason": reason, "message": "the words of it", "steps": [step]});
        if state == "Failed" {
            status["failure"] = json!({"step": "import", "reason": reason, "message": "the words of it"});
        }
        let (what, next) = why(&run(json!({}), status), &Facts::default());
        assert!(what.len() > 10 && next.len() > 6, "{state} {reason}: {what} / {next}");
        for broken in [": :", ": .", ":: ", "  "] {
            assert!(!what.contains(broken) && !next.contains(broken), "{state} {reason}: {what} / {next}");
        }
        // Whoever reads it learns what is known: why it stands still, but for what is told better in other words.
        let told = ["Scheduled", "Suspended", "Running", "Retrying"].contains(&reason.as_str());
        assert!(told || what.contains("the words of it") || state == "PartiallyComplete", "{state} {reason}: {what}");
        crate::golden::typed(&next);
    }
}

#[test]
fn each_cause_has_its_sentence_and_its_remedy() {
    let queued = json!({
        "state": "Pending", "reason": "Queued", "message": "5 of 5 runs are in progress", "queue": {"position": 3},
    });
    let retrying = json!({
        "name": "import", "state": "Retrying", "attempt": 2, "until": "2026-11-24T08:00:20Z",
        "failure": {"reason": "OOMKilled", "message": "more than 1Gi"},
    });
    let failed = json!({
        "state": "Failed", "reason": "StepFailed",
        "failure": {"step": "import", "reason": "StepFailed", "exitCode": 65, "message": "no gzip", "retriable": false},
    });
    for (spec, status, what, next) in [
        (json!({}), json!({}), "The operator has not looked at it yet", "longer than a minute"),
        (
            json!({"startAfter": "2026-11-24T09:00:00Z"}),
            pending("Scheduled", "x"),
            "not to start before 09:00:00Z (in 60m)",
            "starts by itself",
        ),
        (json!({}), pending("Suspended", "x"), "somebody suspended it", "kubectl asynctask resume import-7"),
        (json!({}), queued, "(position 3: 2 runs start before it): Queued: 5 of 5 runs", "starts by itself"),
        (json!({}), pending("StoreNotReady", "no answer"), "stored: StoreNotReady: no answer", "get outputstores"),
        (
            json!({}),
            pending("DefinitionNotReady", "gone"),
            "course-import cannot be run",
            "asynctask definitions` lists what can be run",
        ),
        (json!({}), waiting("ImagePullBackOff", "not found"), "image of step import cannot be pulled", "pull secret"),
        (
            json!({}),
            waiting("Unschedulable", "0/3 nodes"),
            "No node takes the pod of step import: 0/3",
            "ask for nodes",
        ),
        (json!({}), waiting("NoPod", "quota"), "The Job of step import gets no pod: quota", "resourcequota"),
        (json!({}), waiting("CreateContainerError", "m"), "waits: CreateContainerError: m", "startTimeout"),
        (
            json!({}),
            step(retrying),
            "Attempt 2 of step import failed: OOMKilled",
            "attempt 3 starts by itself at 08:00:20Z",
        ),
        (json!({}), step(json!({"name": "import", "state": "Running"})), "Nothing is wrong: step import runs", "watch"),
        (
            json!({}),
            json!({"state": "InProgress", "reason": "StoreNotReady", "message": "no answer"}),
            "cannot go on now: StoreNotReady: no answer",
            "Mend",
        ),
        (
            json!({"suspend": true}),
            json!({"state": "InProgress", "reason": "SuspendLater", "message": "step import has entered Updating"}),
            "although it is to be suspended: step import has entered Updating",
            "wait for the step",
        ),
        (json!({"cancel": true}), json!({"state": "Canceling"}), "It is being cancelled", "grace period"),
        (json!({}), json!({"state": "Complete"}), "It is Complete: all steps succeeded", "outputs get import-7"),
        (json!({}), json!({"state": "Canceled"}), "It was cancelled", "rerun import-7"),
        (json!({}), failed, "failed in step import: StepFailed (exit code 65): no gzip", "would end the same way"),
    ] {
        let (said, remedy) = why(&run(spec, status.clone()), &Facts::default());
        assert!(said.contains(what), "{status}: {said}");
        assert!(remedy.contains(next), "{status}: {remedy}");
    }
}

#[test]
fn whoever_holds_the_key_is_named_when_that_may_be_read() {
    let task = run(json!({}), pending("ConcurrencyKeyBusy", "run import-6 is in progress"));
    let holder = |holder| why(&task, &Facts { holder, ..Facts::default() });
    assert!(holder(Known::Is("import-6".into())).1.contains("watch import-6"));
    for unread in [Known::Denied("Leases"), Known::Nothing] {
        assert!(holder(unread).0.ends_with("ConcurrencyKeyBusy: run import-6 is in progress"), "the operator's word");
    }
}

#[test]
fn the_definitions_own_word_counts_more_than_the_runs() {
    let task = run(json!({}), pending("DefinitionNotReady", "old"));
    let facts = Facts { definition: Known::Is("serviceaccount \"x\" not found".into()), ..Facts::default() };
    assert_eq!(why(&task, &facts).0, "TaskDefinition course-import cannot be run: serviceaccount \"x\" not found");
}

#[test]
fn a_job_that_is_held_or_gets_no_pod_is_told_before_its_pod_could_be() {
    let task = run(json!({}), waiting("NoPod", "the Job has made no pod"));
    let held = job(JobFact { suspended: true, queue: Some("night".into()), ..JobFact::default() });
    assert!(why(&task, &held).0.contains("is held in queue night"));
    let refused = Facts { refusal: Known::Is("exceeded quota: pods=10".into()), ..job(JobFact::default()) };
    assert_eq!(why(&task, &refused).0, "The Job of step import gets no pod: exceeded quota: pods=10");
    let denied = Facts { refusal: Known::Denied("Events"), ..job(JobFact::default()) };
    assert!(why(&task, &denied).0.ends_with("(you may not read Events here, which may say more)"));
    let got_one = Facts { refusal: Known::Is("old".into()), ..job(JobFact { active: true, ..JobFact::default() }) };
    assert!(!why(&task, &got_one).0.contains("old"), "an old refusal is none");
}

#[test]
fn a_refused_cancellation_is_why_it_still_runs() {
    let mut status = step(json!({"name": "import", "state": "Running"}));
    status["conditions"] = json!([{
        "type": "CancelRequested", "status": "True", "reason": "NotNow", "message": "step import is in stage Updating",
        "lastTransitionTime": "2026-11-24T08:00:00Z",
    }]);
    let (what, _) = why(&run(json!({"cancel": true}), status), &Facts::default());
    assert!(what.ends_with("refused for now: step import is in stage Updating"), "{what}");
}

#[test]
fn attempts_that_fail_and_fail_are_told_also_while_the_next_one_runs() {
    for state in ["Running", "Retrying"] {
        let mut status = step(json!({"name": "import", "state": state, "attempt": 4, "uncounted": 3}));
        status["conditions"] = json!([{
            "type": "Stalled", "status": "True", "reason": "AttemptsFail", "message": "step import has failed 3 times",
            "lastTransitionTime": "2026-11-24T08:00:00Z",
        }]);
        let (what, next) = why(&run(json!({}), status), &Facts::default());
        assert_eq!(what, "Its attempts fail: step import has failed 3 times");
        assert!(next.contains("uncountedLimit"), "{next}");
    }
}

#[test]
fn a_deletion_that_cannot_be_says_what_it_waits_for() {
    let mut task = run(json!({}), json!({"state": "Complete"}));
    task.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-24T07:00:00Z")).expect("a time");
    assert!(why(&task, &Facts::default()).0.starts_with("It is being deleted: its pods"));
    let stalled = json!({"state": "Complete", "conditions": [{
        "type": "Stalled", "status": "True", "reason": "StoreNotReady", "message": "no answer",
        "lastTransitionTime": "2026-11-24T08:00:00Z",
    }]});
    task.status = serde_json::from_value(stalled).expect("a status");
    assert!(why(&task, &Facts::default()).0.ends_with("cannot be yet: StoreNotReady: no answer"));
}

fn golden(text: &str) -> AsyncTask {
    serde_yaml_ng::from_str(text).expect("an AsyncTask")
}

#[test]
fn of_a_fan_out_the_failures_are_counted_and_the_next_command_is_named() {
    for (text, what, next) in [
        (
            include_str!("golden/shards_before.yaml"),
            "step plan runs, and step send waits for its items",
            "watch mail-1",
        ),
        (
            include_str!("golden/shards_during.yaml"),
            "Step send goes on; so far 3 of 1,000 shards failed: 3 shards: InvalidEmail – no @",
            "shards mail-1 --failed",
        ),
        (
            include_str!("golden/shards_partial.yaml"),
            "not clean, within what is tolerated: step send: 43 shards: InvalidEmail – no @ in the address; 1 shard: Temp",
            "`kubectl asynctask retry mail-1` runs only them again",
        ),
        (
            include_str!("golden/shards_failed.yaml"),
            "It failed in step send: ShardsFailed · InvalidEmail: 44 of 1000 shards gave no result",
            "`kubectl asynctask retry mail-1` takes over what succeeded",
        ),
    ] {
        let (said, remedy) = why(&golden(text), &Facts::default());
        assert!(said.contains(what), "{said}");
        assert!(remedy.contains(next), "{remedy}");
    }
}

#[test]
fn too_many_failed_items_are_nothing_a_retry_could_mend() {
    let mut task = golden(include_str!("golden/shards_failed.yaml"));
    let status = task.status.as_mut().expect("a status");
    let shards = status.steps[1].shards.as_mut().expect("shards");
    (shards.succeeded, shards.failed) = (shards.total, 0);
    status.failure.as_mut().expect("a failure").reason = "ItemsFailed".into();
    let (_, remedy) = why(&task, &Facts::default());
    assert!(remedy.contains("rerun mail-1") && !remedy.contains("retry mail-1"), "{remedy}");
}

#[test]
fn items_that_failed_without_their_shard_are_for_another_run() {
    let mut task = golden(include_str!("golden/shards_partial.yaml"));
    let step = &mut task.status.as_mut().expect("a status").steps[1];
    step.shards.as_mut().expect("shards").failed = 0;
    step.failures.retain(|failure| failure.items.is_some());
    let (said, remedy) = why(&task, &Facts::default());
    assert!(said.ends_with("step send: 12 items: Bounced"), "{said}");
    assert!(remedy.contains("input of another run") && !remedy.contains("retry"), "{remedy}");
}
