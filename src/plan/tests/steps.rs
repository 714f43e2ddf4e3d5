//! Plans of several steps, retries, cancellation, holding, queue: one turn of the life of a run each.

use super::*;
use crate::decide::CancelNews;
use asynctask_api::state::StepState;

/// A diamond with an alternative and a cleanup:
///
/// ```text
/// read ─► left ──► join        repair: if left failed, recovers · clean: if right failed or was cancelled
///     └─► right ─┘
/// ```
pub(super) fn diamond(more: &Value) -> Story {
    let step = |name: &str, rest: Value| {
        let mut step = json!({"name": name, "template": template()});
        step.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
        step
    };
    let mut spec = json!({"steps": [
        step("read", json!({})),
        step("left", json!({"dependsOn": ["read"], "stages": ["Safe", "Writing", "Done"]})),
        step("right", json!({"dependsOn": ["read"], "retry": {"limit": 1, "backoff": {"initial": "10s"}}})),
        step("repair", json!({"when": {"step": "left", "outcome": ["Failed"], "exitCodes": ["70"]}, "recovers": true})),
        step("join", json!({"dependsOn": ["left", "right"]})),
        step("clean", json!({"when": {"step": "right", "outcome": ["Failed", "Canceled"]}})),
    ]});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    task("a").with(|story| story.admission.definition = definition(spec))
}

impl Story {
    fn done(self, step: &str, now: i64) -> Self {
        self.left(step, JobEnd::Succeeded, Ok(committed(&["p"]))).go(now)
    }

    fn fails(self, step: &str, code: i32, now: i64) -> Self {
        let attempt = self.world.jobs.iter().filter(|job| job.step == step).map(|job| job.attempt).max().unwrap_or(1);
        let failed = PodFact { step: step.into(), attempt, exit: Some(exit(code, "Error")), started: true, ..pod("p") };
        self.left(step, backoff(), Ok(Results { pods: vec![failed], ..Results::default() })).go(now)
    }

    /// The platform fails the attempt: its agent says so.
    fn platform_fails(self, step: &str, now: i64) -> Self {
        let attempt = self.world.jobs.iter().filter(|job| job.step == step).map(|job| job.attempt).max().unwrap_or(1);
        let ended = ExitFact { said: Some(said("UploadFailed", FailedBy::Platform, None)), ..exit(241, "Error") };
        let failed = PodFact { step: step.into(), attempt, exit: Some(ended), started: true, ..pod("p") };
        self.left(step, backoff(), Ok(Results { pods: vec![failed], ..Results::default() })).go(now)
    }

    fn canceled(self) -> Self {
        self.with(|story| story.task.spec.cancel = Some(true))
    }

    fn states(&self) -> Vec<(&str, StepState)> {
        self.status().steps.iter().map(|step| (step.name.as_str(), step.state.expect("a state"))).collect()
    }

    fn of(&self, step: &str) -> &asynctask_api::task::StepStatus {
        self.status().steps.iter().find(|known| known.name == step).expect("a step")
    }

    fn state_of(&self, step: &str) -> StepState {
        self.of(step).state.expect("a state")
    }

    /// No pod of the run lives any more, and its Jobs are gone.
    fn quiet(self) -> Self {
        self.with(|story| story.world.pods.iter_mut().for_each(|pod| pod.alive = false))
    }

    fn alive(self, step: &str, attempt: u32) -> Self {
        let living = PodFact { step: step.into(), attempt, alive: true, started: true, ..pod(step) };
        self.with(|story| story.world.pods.push(living))
    }
}

// ---- the graph

#[test]
fn steps_start_as_soon_as_what_they_wait_for_is_done_and_unneeded_ones_are_skipped_in_words() {
    use StepState::{Complete, Running, Skipped, Waiting};
    let story = diamond(&json!({})).admitted();
    assert_eq!(story.status().plan.len(), 6, "all that may occur is known from the first second");
    assert_eq!(story.states()[..2], [("read", Running), ("left", Waiting)]);
    let story = story.done("read", 2);
    assert_eq!(story.states()[..3], [("read", Complete), ("left", Running), ("right", Running)]);
    assert_eq!(story.status().step.as_deref(), Some("left,right"));
    let story = story.done("right", 3).done("left", 4);
    assert_eq!(story.states()[3..], [("repair", Skipped), ("join", Running), ("clean", Skipped)]);
    assert!(story.of("repair").message.as_ref().expect("words").contains("not needed: step left ended well"));
    story.done("join", 5).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn an_alternative_makes_up_for_the_failure_it_answers_to() {
    let story = diamond(&json!({})).admitted().done("read", 2).done("right", 3).fails("left", 70, 4);
    story.is(TaskState::InProgress, "Running");
    assert_eq!((story.state_of("repair"), story.state_of("join")), (StepState::Running, StepState::Waiting));
    let story = story.done("repair", 5);
    assert_eq!(story.state_of("join"), StepState::Running);
    let story = story.done("join", 6);
    story.is(TaskState::Complete, "Recovered").says("left");
    assert_eq!(story.status().failure, None);
}

#[test]
fn another_exit_code_is_no_case_for_the_alternative_and_the_first_failure_stands() {
    let story = diamond(&json!({})).admitted().done("read", 2).fails("left", 3, 4);
    assert_eq!(story.state_of("repair"), StepState::Skipped);
    assert!(story.of("repair").message.as_ref().expect("words").contains("exit code 3"));
    assert_eq!(story.state_of("join"), StepState::Skipped, "{:?}", story.states());
    let story = story.done("right", 5);
    story.is(TaskState::Failed, "StepFailed");
    let failure = story.status().failure.as_ref().expect("why");
    assert_eq!((failure.step.as_deref(), failure.exit_code), (Some("left"), Some(3)));
    assert_eq!(story.status().transitions.last().and_then(|last| last.step.as_deref()), Some("left"));
}

// ---- retries

#[test]
fn a_failed_attempt_is_followed_by_another_after_its_back_off() {
    let story = diamond(&json!({})).admitted().done("read", 2).done("left", 3).fails("right", 1, 10);
    let step = story.of("right");
    assert_eq!((step.state, step.attempt, step.counted), (Some(StepState::Retrying), Some(1), Some(1)));
    assert_eq!(step.until, Some(Time(at(20))));
    story.is(TaskState::InProgress, "Retrying").says("attempt 1 of step right failed");
    assert_eq!(story.plan(at(15)).wake_at, Some(at(20)));
    let story = story.go(20);
    assert_eq!((story.state_of("right"), story.of("right").attempt), (StepState::Running, Some(2)));
    let story = story.fails("right", 1, 30);
    assert_eq!((story.state_of("right"), story.state_of("clean")), (StepState::Failed, StepState::Running));
    let story = story.done("clean", 31);
    story.is(TaskState::Failed, "StepFailed");
    // The retry is told among the changes of state.
    let told =
        story.status().transitions.iter().map(|it| (it.to, it.reason.as_str(), it.step.as_deref())).collect::<Vec<_>>();
    let retrying = (TaskState::InProgress, "Retrying", Some("right"));
    assert_eq!(told[1..], [retrying, (TaskState::Failed, "StepFailed", Some("right"))], "{told:?}");
}

#[test]
fn the_next_attempt_waits_until_no_pod_of_the_one_before_is_left() {
    let story = diamond(&json!({})).admitted().done("read", 2).fails("right", 1, 10).alive("right", 1);
    let plan = story.plan(at(20));
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(at(21))), "{plan:?}");
    assert_eq!(story.quiet().go(22).of("right").attempt, Some(2));
}

#[test]
fn an_attempt_whose_start_was_not_written_down_does_not_wait_for_its_own_pod() {
    let story = diamond(&json!({})).admitted().done("read", 2).fails("right", 1, 10);
    // The operator that made the Job was gone before it could say so; the pod waits to be let in.
    let story = story.with(|story| {
        let job = story.job_of("right", 2);
        story.world.jobs.push(job);
    });
    let story = story.alive("right", 2).go(20);
    assert_eq!((story.state_of("right"), story.of("right").attempt), (StepState::Running, Some(2)));
}

#[test]
fn failures_of_the_platform_do_not_count() {
    let mut story = task("a").admitted();
    for attempt in 1..5 {
        assert_eq!(story.of("import").attempt, Some(attempt));
        story = story.platform_fails("import", 100_000 * i64::from(attempt));
        assert_eq!((story.state_of("import"), story.of("import").counted), (StepState::Retrying, None));
        story = story.go(100_000 * i64::from(attempt) + 400);
    }
    story.done("import", 900_000).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn a_run_whose_attempts_fail_and_fail_is_stalled_and_then_fails() {
    let mut story = task("a").with(|story| {
        let steps = json!([{"name": "import", "retry": {"uncountedLimit": 4}, "template": template()}]);
        story.admission.definition = definition(json!({"steps": steps}));
    });
    story = story.admitted();
    for attempt in 1..=4 {
        story = story.platform_fails("import", 1000 * i64::from(attempt));
        let stalled = if attempt < 3 { ("False", "Retrying") } else { ("True", "AttemptsFail") };
        assert_eq!(story.condition(condition::STALLED), stalled, "attempt {attempt}");
        assert_eq!((story.of("import").uncounted, story.of("import").counted), (Some(attempt), None));
        story = story.go(1000 * i64::from(attempt) + 400);
        assert_eq!(story.status().transitions.len(), 1 + usize::try_from(attempt).expect("a number"));
        assert_eq!(story.condition(condition::STALLED).0, stalled.0, "also while the next one runs");
    }
    let story = story.platform_fails("import", 9000);
    story.is(TaskState::Failed, "StepFailed").says("5 attempts in a row");
    assert_eq!(story.status().failure.as_ref().and_then(|failure| failure.retriable), Some(true));
}

#[test]
fn a_container_that_never_ends_is_not_waited_for() {
    let lingers = |code, at_second| {
        let ended = ExitFact { at: Some(at(at_second)), ..exit(code, "Completed") };
        PodFact { alive: true, started: true, exit: Some(ended), ..pod("p") }
    };
    let story = task("a").admitted().with(|story| {
        story.world.jobs[0].ready = false;
        story.world.pods = vec![lingers(0, 20)];
        story.world.results.insert("import".into(), Ok(committed(&["p"])));
    });
    assert_eq!(story.plan(at(22)).wake_at, Some(at(30)), "most such containers end by themselves");
    assert_eq!(
        story.plan(at(31)).wake_at,
        Some(at(32)),
        "its Job goes once its end is written down, which wakes nobody"
    );
    let done = story.clone().go(31);
    assert_eq!(done.state_of("import"), StepState::Complete);
    assert!(matches!(done.plan(at(32)).actions[..], [Action::DeleteJob(_)]), "its pod is ended");
    let going = done.with(|story| story.world.jobs[0].deleting = true).go(33);
    going.is(TaskState::Complete, "StepsSucceeded");
    let failed = story.with(|story| {
        story.world.pods = vec![lingers(3, 20)];
        story.world.results.clear();
    });
    assert_eq!(failed.go(31).state_of("import"), StepState::Failed);
}

#[test]
fn a_late_commit_of_an_earlier_attempt_is_the_result() {
    let story = diamond(&json!({})).admitted().done("read", 2).fails("right", 1, 10).go(20);
    let late = committed(&["p-of-attempt-1"]);
    let story = story.left("right", backoff(), Ok(late)).go(30);
    assert_eq!(story.state_of("right"), StepState::Complete);
}

// ---- starting

#[test]
fn a_pod_that_does_not_start_is_explained_within_a_minute_and_given_up_in_time() {
    let pulling =
        PodFact { waiting: Some(("ImagePullBackOff".into(), "no such image".into())), alive: true, ..pod("p") };
    let story = task("a").admitted().with(|story| {
        story.world.jobs[0].ready = false;
        story.world.pods = vec![pulling];
    });
    let wake = story.plan(at(2)).wake_at.expect("it looks again");
    assert!(wake <= at(60), "{wake}");
    let story = story.go(20);
    story.is(TaskState::InProgress, "ImagePullBackOff").says("no such image");
    assert_eq!(story.of("import").waiting.as_ref().expect("waits").reason, "ImagePullBackOff");
    let story = story.go(601);
    story.is(TaskState::InProgress, "ImagePullBackOff");
    assert_eq!(story.state_of("import"), StepState::Failed);
    let Action::DeleteJob(job) = &story.plan(at(602)).actions[0] else { panic!("its Job goes") };
    assert_eq!(job.name, "a-import-0a1b2c3d-1");
    let story = story.go(602).go(603);
    story.is(TaskState::Failed, "ImagePull").says("startTimeout");
}

#[test]
fn time_in_a_queue_of_jobs_does_not_count_as_time_to_start() {
    let story = task("a").admitted().with(|story| {
        (story.world.jobs[0].ready, story.world.jobs[0].suspended) = (false, true);
    });
    story.go(99_999).is(TaskState::InProgress, "Running");
}

#[test]
fn the_deadline_ends_the_whole_run_but_not_what_cleans_up() {
    let story = diamond(&json!({"deadline": "100s"})).admitted().done("read", 2);
    let story = story.go(101);
    assert_eq!((story.state_of("left"), story.state_of("right")), (StepState::Failed, StepState::Failed));
    assert_eq!(story.state_of("clean"), StepState::Running);
    let story = story.go(102).go(103).done("clean", 110).go(111);
    story.is(TaskState::Failed, "Timeout").says("deadline");
}

// ---- cancel

#[test]
fn a_run_that_is_cancelled_before_it_starts_makes_no_job() {
    let fresh = task("a").canceled();
    assert_eq!(fresh.plan(at(1)).actions, []);
    fresh.go(1).is(TaskState::Canceled, "CanceledByUser");
    let trouble = Trouble { reason: "Queued", message: "place 3".into() };
    let wait = Turn::Wait { position: Some(3), why: trouble };
    let queued = task("a").with(|story| story.world.turn = Some(wait)).go(1);
    queued.is(TaskState::Pending, "Queued");
    let story = queued.canceled();
    assert_eq!(story.plan(at(2)).actions, []);
    story.go(2).is(TaskState::Canceled, "CanceledByUser");
}

#[test]
fn a_cancelled_run_is_ended_cleaned_up_once_and_over_only_when_no_pod_is_left() {
    let story = diamond(&json!({})).admitted().done("read", 2).alive("left", 1).alive("right", 1).canceled();
    let plan = story.plan(at(3));
    assert_eq!(plan.actions, [], "written down first");
    let story = story.go(3);
    story.is(TaskState::Canceling, "CancelRequested");
    assert_eq!((story.state_of("left"), story.state_of("join")), (StepState::Canceled, StepState::Skipped));
    assert_eq!(story.condition(condition::CANCEL_REQUESTED), ("True", "Accepted"));
    let deleted = story.plan(at(4)).actions;
    assert!(matches!(&deleted[..], [Action::DeleteJob(_), Action::DeleteJob(_)]), "{deleted:?}");
    let story = story.go(4).go(5);
    assert_eq!(story.state_of("clean"), StepState::Waiting, "a pod still lives");
    let story = story.quiet().go(6);
    assert_eq!(story.state_of("clean"), StepState::Running);
    story.is(TaskState::Canceling, "CancelRequested");
    let story = story.done("clean", 7);
    story.is(TaskState::Canceled, "CanceledByUser");
    assert_eq!(story.of("clean").attempt, Some(1));
}

#[test]
fn a_run_that_is_cancelled_for_a_newer_one_says_so_from_its_request_to_its_end() {
    let replaced = |story: Story| {
        story.canceled().with(|story| {
            story.task.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_REPLACED_BY.into(), "newer".into())]));
        })
    };
    let words = "the newer run newer of the same concurrency key takes its place";
    replaced(task("a")).go(1).is(TaskState::Canceled, "Replaced").says(words);
    let story = replaced(task("a").admitted().alive("import", 1)).go(2);
    story.is(TaskState::Canceling, "CancelRequested").says(words);
    story.quiet().go(3).go(4).is(TaskState::Canceled, "Replaced").says(words);
}

#[test]
fn a_name_that_no_run_can_have_replaces_nothing() {
    let story = task("a").canceled().with(|story| {
        let forged = "x".repeat(100_000);
        story.task.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_REPLACED_BY.into(), forged)]));
    });
    story.go(1).is(TaskState::Canceled, "CanceledByUser");
}

#[test]
fn a_cleanup_whose_start_was_not_written_down_goes_on() {
    let story = diamond(&json!({})).admitted().done("read", 2).canceled().go(3).go(4).go(5);
    assert_eq!(story.state_of("clean"), StepState::Running);
    let story = story.alive("clean", 1).with(|story| {
        let status = story.task.status.as_mut().expect("a status");
        let step = status.steps.iter_mut().find(|step| step.name == "clean").expect("a step");
        (step.state, step.attempt) = (Some(StepState::Waiting), None);
    });
    assert_eq!(story.plan(at(6)).actions, [], "its Job is there");
    assert_eq!(story.go(6).state_of("clean"), StepState::Running);
}

#[test]
fn a_cleanup_that_fails_is_not_repeated_and_the_run_is_cancelled_all_the_same() {
    let story = diamond(&json!({})).admitted().done("read", 2).canceled().go(3).go(4).go(5);
    let story = story.fails("clean", 1, 6);
    story.is(TaskState::Canceled, "CanceledByUser").says("clean failed while it cleaned up");
}

const GUARDED: &str =
    r#"{"cancellation": {"allowed": "UntilStage", "stage": "Writing", "effect": "Nothing is written."}}"#;

#[test]
fn a_request_that_comes_too_late_is_kept_and_takes_effect_when_the_step_has_ended() {
    let guarded: Value = serde_json::from_str(GUARDED).expect("JSON");
    let story = diamond(&guarded).admitted().done("read", 2);
    let story = story.with(|story| {
        let status = story.task.status.as_mut().expect("a status");
        let step = status.steps.iter_mut().find(|step| step.name == "left").expect("a step");
        (step.stage, step.guarded) = (Some("Writing".into()), Some(true));
    });
    let story = story.canceled().go(3);
    story.is(TaskState::InProgress, "Running");
    let found = story.status().conditions.iter().find(|c| c.type_ == condition::CANCEL_REQUESTED).expect("said");
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("True", "NotNow"));
    assert!(found.message.contains("Writing") && found.message.contains("Nothing is written."), "{}", found.message);
    let story = story.done("right", 4);
    assert_eq!(story.state_of("join"), StepState::Waiting, "nothing new begins");
    let story = story.done("left", 5);
    story.is(TaskState::Canceling, "CancelRequested");
    assert_eq!(story.state_of("left"), StepState::Complete);
    story.go(6).is(TaskState::Canceled, "CanceledByUser");
}

#[test]
fn a_run_whose_last_step_ends_before_it_can_be_cancelled_is_complete() {
    let guarded: Value = serde_json::from_str(r#"{"cancellation": {"allowed": "Never"}}"#).expect("JSON");
    let story = task("a").with(|story| story.admission.definition = definition(guarded)).admitted().canceled().go(2);
    assert_eq!(story.condition(condition::CANCEL_REQUESTED), ("True", "NotNow"));
    let story = story.done("import", 3);
    story.is(TaskState::Complete, "StepsSucceeded");
    assert_eq!(story.plan(at(4)).actions, [Action::Record, Action::Mark(TaskState::Complete)]);
}

#[test]
fn what_is_committed_when_the_request_is_seen_counts() {
    let story = task("a").admitted().canceled().done("import", 3);
    story.is(TaskState::Complete, "StepsSucceeded");
}

// ---- hold

#[test]
fn a_held_run_stops_its_pods_and_goes_on_with_a_new_attempt_that_spends_no_retry() {
    let story = task("a").admitted().alive("import", 1).with(|story| story.task.spec.suspend = Some(true)).go(2);
    story.is(TaskState::Pending, "Suspended");
    assert_eq!((story.state_of("import"), story.of("import").attempt), (StepState::Waiting, Some(1)));
    assert!(matches!(story.plan(at(3)).actions[..], [Action::DeleteJob(_)]));
    let story = story.go(3).with(|story| story.task.spec.suspend = None).go(4);
    assert_eq!(story.of("import").attempt, Some(1), "its pod has not ended");
    let story = story.quiet().go(5);
    assert_eq!((story.of("import").attempt, story.of("import").counted), (Some(2), None));
    story.is(TaskState::InProgress, "Running");
    story.done("import", 6).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn results_that_cannot_be_read_are_read_again_although_the_run_is_to_be_held_when_its_step_has_ended() {
    let never: Value = serde_json::from_str(r#"{"cancellation": {"allowed": "Never"}}"#).expect("JSON");
    let story = task("a").with(|story| story.admission.definition = definition(never)).admitted();
    let story = story.with(|story| story.task.spec.suspend = Some(true)).go(2);
    story.is(TaskState::InProgress, "SuspendLater");
    let silent = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
    let story = story.left("import", JobEnd::Succeeded, Err(silent)).go(3);
    story.is(TaskState::InProgress, "StoreUnreachable");
    assert!(story.plan(at(4)).blocked, "nobody says when the store answers again");
    story.done("import", 5).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn a_run_starts_not_before_its_time() {
    let story = task("a").with(|story| story.task.spec.start_after = Some(Time(at(50))));
    let plan = story.plan(at(1));
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(at(50))));
    let story = story.go(1);
    story.is(TaskState::Pending, "Scheduled");
    assert_eq!(story.condition(condition::ACCEPTED).0, "True", "it is pinned to what it was asked for");
    story.go(50).is(TaskState::InProgress, "Running");
}

// ---- queue

#[test]
fn a_run_asks_for_its_turn_and_is_pinned_while_it_waits() {
    let concurrency = json!({
        "concurrency": {"key": ["course"], "maxRunning": 2},
        "parameters": {"type": "object", "required": ["course"], "properties": {"course": {"type": "string"}}},
    });
    let story = task("a").with(|story| {
        story.admission.definition = definition(concurrency);
        story.admission.parameters = json!({"course": "x"});
        story.world.turn = None;
    });
    let [Action::Take(Claim { max_running, key, .. })] = &story.plan(at(1)).actions[..] else { panic!("it asks") };
    assert_eq!(*max_running, Some(2));
    let lease = key.as_ref().expect("a key").lease.clone();
    let why = Trouble { reason: "Queued", message: "place 3".into() };
    let story = story.with(|story| story.world.turn = Some(Turn::Wait { position: Some(3), why })).go(1);
    story.is(TaskState::Pending, "Queued").says("place 3");
    let queue = story.status().queue.as_ref().expect("its place");
    assert_eq!((queue.position, queue.lease.as_ref()), (Some(3), Some(&lease)));
    assert_eq!(story.status().revision, Some(revision()));
    // The definition changes: it stays what it was pinned to, key included.
    let story = story.with(|story| story.world.turn = Some(Turn::Go)).go(2);
    story.is(TaskState::InProgress, "Running");
    let story = story.done("import", 3);
    assert_eq!(story.plan(at(4)).actions[0], Action::ReleaseKey(lease));
}

#[test]
fn a_run_that_waits_too_long_for_its_turn_fails() {
    let timeout = json!({"queueTimeout": "1h"});
    let why = Trouble { reason: "Queued", message: "place 3".into() };
    let story = task("a").with(|story| {
        story.admission.definition = definition(timeout);
        story.world.turn = Some(Turn::Wait { position: Some(3), why });
    });
    let story = story.go(1);
    assert_eq!(story.plan(at(2)).wake_at, Some(at(3600)));
    story.go(3600).is(TaskState::Failed, "QueueTimeout").says("Queued");
}

#[test]
fn a_priority_that_the_definition_does_not_offer_is_refused() {
    let offer = json!({"priorityClasses": ["batch-low"]});
    let wants = |class: &str| {
        let class = class.to_owned();
        task("a").with(|story| {
            story.admission.definition = definition(offer.clone());
            story.task.spec.priority_class_name = Some(class);
        })
    };
    wants("system-node-critical").go(1).is(TaskState::Failed, "PriorityClassNotAllowed").says("batch-low");
    wants("batch-low").go(1).is(TaskState::InProgress, "Running");
}

// ---- history

#[test]
fn a_transition_is_recorded_before_it_falls_out_of_the_status() {
    let mut story = task("a").admitted();
    for round in 0..40 {
        let now = 10 + round * 10;
        story = story.with(|story| story.task.spec.suspend = Some(true)).go(now).go(now + 1);
        story = story.with(|story| story.task.spec.suspend = None);
        let plan = story.plan(at(now + 2));
        let full = story.status().transitions.len() == 32;
        assert_eq!(plan.actions.first() == Some(&Action::Record), full, "round {round}");
        story = story.go(now + 2);
    }
    let transitions = &story.status().transitions;
    assert_eq!((transitions.len(), transitions.last().map(|last| last.seq)), (32, Some(81)));
}

#[test]
fn the_news_of_a_request_to_cancel_say_when() {
    let story = task("a").admitted().canceled();
    let News { cancel, steps, .. } = story.plan(at(2)).news;
    assert_eq!(cancel, Some(CancelNews::Accepted(String::new())));
    assert_eq!(steps, [("import".to_owned(), StepNews::Cancels)]);
}
