//! Steps that fan out: from the planner's items to the end of the last shard, and beyond it in another run.

use super::*;
use crate::seal::Sealed;
use crate::shards::ShardSet;
use crate::snapshot::{IndexFact, RetryFact};
use crate::tally::ShardFact;
use asynctask_api::task::EmittedStatus;
use asynctask_contract::wire::{Emitted, ItemCounts};

/// plan emits, send fans out over it and appends to one file, report comes after.
fn mail(more: &Value) -> Value {
    let mut spec = json!({"title": "T", "steps": [
        {"name": "plan", "emitsItems": true, "template": template()},
        {"name": "send", "fanOut": {"itemsFrom": {"step": "plan"}, "itemsPerShard": 10, "parallelism": 4,
         "tolerate": {"failedShards": "10%"}}, "retry": {"limit": 1}, "template": template()},
        {"name": "report", "template": template()},
    ], "outputs": [
        {"name": "sent", "step": "send", "path": "sent.csv", "append": {"header": true}},
        {"name": "pages", "step": "send", "path": "pages/"},
    ]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec["steps"][1][key] = value.clone();
    }
    spec
}

fn mailing(more: &Value) -> Story {
    task("a").with(|story| {
        let spec: TaskDefinitionSpec = serde_json::from_value(mail(more)).expect("decodes");
        let content = Arc::new(validate(&spec).expect("valid"));
        story.admission.definition = DefinitionFact::Ready { revision: revision(), content };
    })
}

fn tally(committed: u32, failed: &[(&str, FailedBy)], silent: u32) -> Tally {
    let mut tally = Tally::default();
    let mut shard = 0;
    let mut add = |fact: ShardFact| {
        tally.add(shard, fact);
        shard += 1;
    };
    for (code, failed_by) in failed {
        add(ShardFact::Failed { code: (*code).into(), message: "no".into(), failed_by: *failed_by });
    }
    (0..silent).for_each(|_| add(ShardFact::Silent));
    let items = ItemCounts { attempted: 10, ..ItemCounts::default() };
    (0..committed).for_each(|_| add(ShardFact::Committed { items: Some(items.clone()) }));
    tally
}

impl Story {
    /// The planner commits so many shards.
    fn emitted(self, shards: u32, now: i64) -> Self {
        let emitted = Some(Emitted { shards, items: u64::from(shards) * 10 });
        let commit = CommitFact { pod_uid: "p".into(), files: vec![file("log")], emitted, ..CommitFact::default() };
        self.left("plan", JobEnd::Succeeded, Ok(Results { commits: vec![commit], ..Results::default() })).go(now)
    }

    /// The Job of `send` ends, and this came of it.
    fn spread(self, end: JobEnd, tally: Tally, now: i64) -> Self {
        let story = self.with(|story| drop(story.world.tallies.insert("send".into(), tally)));
        story.left("send", end, Ok(Results::default())).go(now)
    }

    fn send(&self) -> &asynctask_api::task::StepStatus {
        self.status().steps.iter().find(|step| step.name == "send").expect("a step")
    }

    fn state_now(&self, step: &str) -> StepState {
        let step = self.status().steps.iter().find(|known| known.name == step);
        step.and_then(|step| step.state).expect("a state")
    }

    fn created(&self, now: i64) -> Value {
        let plan = self.plan(at(now));
        let made = plan.actions.into_iter().find_map(|action| match action {
            Action::CreateJob { job, .. } => Some(job),
            _ => None,
        });
        made.expect("a Job is made")
    }
}

fn exceeded() -> JobEnd {
    JobEnd::Failed { reason: "FailedIndexes".into(), message: "Job has failed indexes".into() }
}

#[test]
fn built_in_steps_stand_beside_the_ones_they_work_for() {
    let story = mailing(&json!({})).admitted();
    let plan: Vec<_> = story.status().plan.iter().map(|step| (step.name.as_str(), step.depends_on.join(","))).collect();
    let expected = [("plan", ""), ("send", "plan"), ("assemble-send", "send"), ("report", "send,assemble-send")];
    assert_eq!(plan, expected.map(|(name, needs)| (name, needs.to_owned())));
}

#[test]
fn a_fan_out_is_one_indexed_job_over_the_shards_that_were_emitted() {
    let story = mailing(&json!({"retry": {"limit": 1, "rules": [
        {"exitCodes": ["64-66"], "action": "Fail"}, {"reasons": ["Disruption"], "action": "Retry"},
    ]}}));
    let story = story.admitted();
    let before = story.clone().left(
        "plan",
        JobEnd::Succeeded,
        Ok(Results {
            commits: vec![CommitFact {
                pod_uid: "p".into(),
                emitted: Some(Emitted { shards: 25, items: 250 }),
                ..CommitFact::default()
            }],
            ..Results::default()
        }),
    );
    let after = before.go(2);
    assert_eq!(after.status().steps[0].emitted, Some(EmittedStatus { shards: 25, items: 250 }));
    let job = after
        .clone()
        .with(|story| story.task.status.as_mut().expect("status").steps[1].state = Some(StepState::Waiting));
    let job = job.with(|story| {
        story.world.jobs.retain(|job| job.step != "send");
        story.task.status.as_mut().expect("status").steps[1].attempt = None;
    });
    let spec = job.created(3)["spec"].clone();
    assert_eq!(
        (&spec["completionMode"], &spec["completions"], &spec["parallelism"]),
        (&json!("Indexed"), &json!(25), &json!(4))
    );
    assert_eq!((&spec["backoffLimitPerIndex"], &spec["maxFailedIndexes"]), (&json!(1), &json!(2)));
    assert_eq!(spec["backoffLimit"], Value::Null);
    let rules: Vec<_> =
        spec["podFailurePolicy"]["rules"].as_array().expect("rules").iter().map(|r| r["action"].clone()).collect();
    assert_eq!(rules, ["FailIndex", "Count", "Ignore"].map(|action| json!(action)));
    assert_eq!(spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"], json!([64, 65, 66]));
}

#[test]
fn no_items_is_nothing_to_do_and_all_is_well() {
    let story = mailing(&json!({})).admitted().emitted(0, 2);
    assert_eq!(story.state_now("send"), StepState::Skipped);
    assert_eq!(story.send().message.as_deref(), Some("there is nothing to do: step plan emitted no items"));
    // The file is there all the same, and empty.
    assert_eq!(story.state_now("assemble-send"), StepState::Running);
    let story = story.left("assemble-send", JobEnd::Succeeded, Ok(committed(&["p"]))).go(3);
    story.left("report", JobEnd::Succeeded, Ok(committed(&["p"]))).go(4).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn what_the_shards_do_is_shown_once_a_second_at_most() {
    let story = mailing(&json!({})).admitted().emitted(30, 2);
    let moved = |story: &mut Story, succeeded: u32| {
        let job = story.world.jobs.iter_mut().find(|job| job.step == "send").expect("a Job");
        let failed: ShardSet = [7].into_iter().collect();
        let shards = ShardSet::all(30);
        job.indexes = Some(IndexFact { shards, active: 4, succeeded, failed, failed_before: 0 });
    };
    let story = story.with(|story| moved(story, 12)).go(3);
    let shards = story.send().shards.clone().expect("counters");
    assert_eq!((shards.total, shards.active, shards.succeeded, shards.failed), (30, 4, 12, 1));
    assert_eq!(shards.failed_indexes.as_deref(), Some("7"));
    let story = story.with(|story| moved(story, 13)).with(|story| story.world.quiet_until = Some(at(4)));
    let plan = story.plan(at(3));
    assert_eq!((plan.news.steps.len(), plan.wake_at), (0, Some(at(4))));
    assert_eq!(story.go(4).send().shards.as_ref().expect("counters").succeeded, 13);
}

#[test]
fn failures_within_the_tolerance_make_a_part_of_a_result() {
    let story = mailing(&json!({})).admitted().emitted(30, 2);
    let failed =
        [("InvalidEmail", FailedBy::Program), ("InvalidEmail", FailedBy::Program), ("Bounced", FailedBy::Program)];
    let story = story.spread(exceeded(), tally(27, &failed, 0), 3);
    let send = story.send();
    assert_eq!((send.state, send.manifest.is_some()), (Some(StepState::PartiallyComplete), true));
    let shards = send.shards.as_ref().expect("counters");
    assert_eq!((shards.succeeded, shards.failed, shards.failed_indexes.as_deref()), (27, 3, Some("0-2")));
    assert_eq!(send.items.expect("items").attempted, 270);
    let told: Vec<_> = send.failures.iter().map(|f| (f.code.as_str(), f.shards)).collect();
    assert_eq!(told, [("InvalidEmail", Some(2)), ("Bounced", Some(1))]);
    let outputs: Vec<_> =
        story.status().outputs.iter().filter(|o| o.step == "send").map(|o| (o.name.as_str(), o.files)).collect();
    assert_eq!(outputs, [("log", 3)], "appended outputs are the assembling step's");
    let story = story.left("assemble-send", JobEnd::Succeeded, Ok(committed(&["p"]))).go(4);
    let story = story.left("report", JobEnd::Succeeded, Ok(committed(&["p"]))).go(5);
    story.is(TaskState::PartiallyComplete, "SomeFailed").says("step send: 3 of 30 shards failed");
}

#[test]
fn one_failure_too_many_fails_the_step_and_says_which() {
    let story = mailing(&json!({})).admitted().emitted(30, 2);
    let failed = [("InvalidEmail", FailedBy::Program); 4];
    let story = story.spread(exceeded(), tally(20, &failed, 6), 3);
    assert_eq!((story.state_now("send"), story.state_now("assemble-send")), (StepState::Failed, StepState::Skipped));
    story
        .is(TaskState::Failed, "ShardsFailed")
        .says("10 of 30 shards gave no result, 3 are tolerated: 4 shards InvalidEmail");
    assert!(story.send().manifest.is_some(), "what was done can be continued");
}

#[test]
fn only_shards_without_a_commit_are_run_again() {
    let story = mailing(&json!({})).admitted().emitted(30, 2);
    let story = story.spread(JobEnd::Succeeded, tally(27, &[("Bad", FailedBy::Program)], 2), 3);
    let send = story.send();
    assert_eq!((send.state, send.counted), (Some(StepState::Retrying), Some(1)));
    assert_eq!(send.failure.as_ref().expect("a failure").reason, "OutputNotCommitted");
    let job = story.created(60);
    assert_eq!(job["metadata"]["annotations"]["asynctask.dev/shards"], "1-2");
    assert_eq!(job["metadata"]["annotations"]["asynctask.dev/failed-before"], "1");
    assert_eq!((&job["spec"]["completions"], &job["spec"]["maxFailedIndexes"]), (&json!(2), &json!(2)));
    let story = story.go(60).spread(JobEnd::Succeeded, tally(29, &[("Bad", FailedBy::Program)], 0), 61);
    assert_eq!(story.state_now("send"), StepState::PartiallyComplete);
}

#[test]
fn what_the_platform_did_does_not_count_and_without_a_retry_the_rest_is_lost() {
    let story = mailing(&json!({"retry": {"limit": 0}})).admitted().emitted(10, 2);
    let story = story.spread(exceeded(), tally(9, &[("GatewayUnreachable", FailedBy::Platform)], 0), 3);
    assert_eq!((story.send().state, story.send().counted), (Some(StepState::Retrying), None));
    let story = story.go(60).spread(JobEnd::Succeeded, tally(8, &[], 2), 61);
    story.is(TaskState::Failed, "ShardsFailed").says("2 of 10 shards gave no result, 1 are tolerated");
}

#[test]
fn failed_items_have_a_tolerance_of_their_own() {
    let strict = json!({"fanOut": {"itemsFrom": {"step": "plan"}, "tolerate": {"failedItems": "1%"}}});
    let with_failed = |failed: u64| {
        let mut sum = Tally::default();
        let reasons = BTreeMap::from([("Bounced".to_owned(), failed)]);
        sum.add(0, ShardFact::Committed { items: Some(ItemCounts { attempted: 200, failed, skipped: 0, reasons }) });
        mailing(&strict).admitted().emitted(1, 2).spread(JobEnd::Succeeded, sum, 3)
    };
    assert_eq!(with_failed(2).state_now("send"), StepState::PartiallyComplete);
    with_failed(3).is(TaskState::Failed, "ItemsFailed").says("3 of 200 items failed, 2 are tolerated: 3 items Bounced");
}

#[test]
fn a_cancelled_fan_out_keeps_what_was_done() {
    let story = mailing(&json!({})).admitted().emitted(30, 2).with(|story| story.task.spec.cancel = Some(true));
    let story = story.with(|story| drop(story.world.tallies.insert("send".into(), tally(5, &[], 25)))).go(3);
    assert_eq!(story.state_now("send"), StepState::Canceled);
    let story = story.with(|story| story.world.jobs.clear()).go(4).go(5);
    story.is(TaskState::Canceled, "CanceledByUser");
    assert!(story.send().manifest.is_some());
}

#[test]
fn another_run_takes_over_what_succeeded_and_runs_the_rest() {
    let first = mailing(&json!({})).admitted().emitted(30, 2);
    let first = first.spread(exceeded(), tally(26, &[("Bad", FailedBy::Program); 4], 0), 3);
    first.is(TaskState::Failed, "ShardsFailed");
    let again = |change: &dyn Fn(&mut Story)| {
        let mut second = mailing(&json!({}));
        second.task.metadata.name = Some("b".into());
        second.task.metadata.uid = Some("ffffffff-0000-4000-8000-000000000000".into());
        let spec = json!({"definition": {"name": "import"}, "owner": "ada", "retryOf": {"name": "a"}});
        second.task.spec = serde_json::from_value(spec).expect("a spec");
        second.admission.retry = Some(RetryFact::Found(Box::new(first.task.clone())));
        second.world.tallies.insert("send".into(), tally(26, &[], 4));
        change(&mut second);
        second.go(100)
    };
    let second = again(&|_| ());
    assert_eq!(second.status().origin.as_ref().expect("an origin").uid, UID);
    let planner = &second.status().steps[0];
    assert_eq!(
        (planner.state, planner.adopted.as_ref().map(|run| run.name.as_str())),
        (Some(StepState::Complete), Some("a"))
    );
    let story = second.go(101);
    let send = story.send();
    assert_eq!((send.state, send.attempt), (Some(StepState::Running), Some(1)));
    let story = story.spread(JobEnd::Succeeded, tally(30, &[], 0), 102);
    assert_eq!(story.state_now("send"), StepState::Complete);

    again(&|second| second.task.spec.owner = Some("eve".into()))
        .is(TaskState::Failed, "RetryRefused")
        .says("there is no run \"a\"");
    again(&|second| second.admission.retry = Some(RetryFact::Missing)).says("there is no run \"a\"");
    again(&|second| second.task.spec.definition.name = "other".into()).says("name the same definition");
}

#[test]
fn shards_of_a_run_that_continues_are_told_by_their_own_numbers() {
    let first = mailing(&json!({})).admitted().emitted(30, 2).spread(
        exceeded(),
        tally(26, &[("Bad", FailedBy::Program); 4], 0),
        3,
    );
    let mut second = mailing(&json!({}));
    second.task.spec.retry_of = first.task.spec.retry_of.clone();
    second.admission.retry = Some(RetryFact::Found(Box::new(first.task.clone())));
    second.world.tallies.insert("send".into(), tally(26, &[], 4));
    let pinned = second.go(100);
    let job = pinned.created(101);
    assert_eq!(job["metadata"]["annotations"]["asynctask.dev/shards"], "0-3");
    assert_eq!(job["spec"]["completions"], json!(4));
    let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("env").clone();
    let key = env.iter().find(|variable| variable["name"] == "ASYNCTASK_IDEMPOTENCY_KEY").expect("a key");
    assert_eq!(key["value"], format!("{UID}/send/0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever became of however many shards and items, the status stays within 32 KiB.
    #[test]
    fn a_status_stays_small_whatever_the_numbers(step in 2..7u32, seed in any::<u64>()) {
        let total = 100_000u32;
        let mut sum = Tally::default();
        for shard in 0..total {
            let word = "x".repeat(200);
            let fact = if shard % step == 0 {
                ShardFact::Failed { code: format!("{word}{}", u64::from(shard) ^ seed), message: "é".repeat(4000), failed_by: FailedBy::Program }
            } else {
                let reasons = BTreeMap::from([(format!("Reason{shard}"), 5)]);
                ShardFact::Committed { items: Some(ItemCounts { attempted: 10, failed: 5, skipped: 1, reasons }) }
            };
            sum.add(shard, fact);
        }
        let tolerant = json!({"fanOut": {"itemsFrom": {"step": "plan"}, "tolerate": {"failedShards": "100%"}}});
        let story = mailing(&tolerant).admitted().emitted(total, 2).spread(exceeded(), sum, 3);
        let bytes = serde_json::to_vec(story.status()).expect("JSON").len();
        prop_assert!(bytes < 32 << 10, "{bytes}");
    }
}

#[test]
fn sealed_results_of_plain_steps_tell_their_items() {
    let counts = ItemCounts { attempted: 4, failed: 1, skipped: 0, reasons: BTreeMap::new() };
    let sealed = Sealed { pod_uid: "p".into(), items: Some(counts), ..Sealed::default() };
    assert_eq!(crate::seal::state(&sealed), StepState::PartiallyComplete);
}
