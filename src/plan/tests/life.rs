//! Each turn a run can take, one test each.

use super::*;

// ---- admission

#[test]
fn a_run_starts_on_the_current_revision_and_the_chosen_store() {
    let story = task("a");
    let plan = story.plan(at(1));
    let Action::CreateJob { job, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(job["metadata"]["name"], "a-import-0a1b2c3d-1");
    assert_eq!(job["metadata"]["annotations"]["asynctask.dev/revision"], "import-0123456789");
    let story = story.admitted();
    story.is(TaskState::InProgress, "Running");
    let status = story.status();
    assert_eq!((&status.revision, status.step.as_deref()), (&Some(revision()), Some("import")));
    assert_eq!(status.plan[0].stages, ["Reading"]);
    let step = &status.steps[0];
    assert_eq!((step.state, step.attempt, &step.start_time), (Some(StepState::Running), Some(1), &Some(Time(at(1)))));
    assert_eq!(story.condition(condition::ACCEPTED), ("True", "Pinned"));
    assert_eq!(story.condition(condition::SUCCEEDED).0, "Unknown");
    assert_eq!(story.condition(condition::RECONCILING).0, "True");
}

#[test]
fn a_run_is_held_by_our_finalizer_before_its_job_is_made() {
    let story = task("a").with(|story| story.task.metadata.finalizers = None);
    assert_eq!(story.plan(at(1)).actions, [Action::Hold]);
    assert!(matches!(story.go(1).plan(at(1)).actions[..], [Action::CreateJob { .. }]));
}

#[test]
fn a_definition_that_is_missing_is_waited_for_and_then_given_up() {
    let missing =
        |story: &mut Story| story.admission.definition = DefinitionFact::Missing("no definition import".into());
    let story = task("a").with(missing).go(1);
    story.is(TaskState::Pending, "DefinitionNotReady").says("waiting for 30s");
    assert_eq!(story.plan(at(2)).wake_at, Some(at(30)));
    let story = story.go(30);
    story.is(TaskState::Failed, "DefinitionGone").says("no definition import");
    assert_eq!(story.condition(condition::ACCEPTED).0, "False");
    assert_eq!(story.condition(condition::STALLED).0, "True");
}

#[test]
fn a_definition_or_store_that_is_not_ready_is_waited_for_without_end() {
    let unready = |story: &mut Story| story.admission.definition = DefinitionFact::NotReady("being checked".into());
    task("a").with(unready).go(99_999).is(TaskState::Pending, "DefinitionNotReady").says("being checked");
    let no_store = |story: &mut Story| story.admission.store = Err(NoStore::NoDefault);
    let story = task("a").with(no_store).go(99_999);
    story.is(TaskState::Pending, "StoreNotReady").says("ask an administrator");
    let found = story.with(|story| story.admission.store = Ok(StoreRef { name: "b".into(), uid: "s".into() }));
    found.go(100_000).is(TaskState::InProgress, "Running");
}

#[test]
fn bad_parameters_are_refused_with_every_violation_and_no_pod() {
    let schema = json!({"parameters": {"required": ["a", "b"], "properties": {"c": {"type": "string"}}}});
    let story = task("a").with(|story| {
        story.admission.definition = definition(schema);
        story.admission.parameters = json!({"c": 1});
    });
    assert_eq!(story.plan(at(1)).actions, []);
    let story = story.go(1);
    story.is(TaskState::Failed, "InvalidParameters").says("\"a\" is a required property");
    story.says("\"b\" is a required property").says("/c: 1 is not of type \"string\"");
    assert_eq!(story.status().failure.as_ref().expect("why").step, None);
}

#[test]
fn inputs_must_be_there_and_a_silent_store_is_no_reason_to_refuse() {
    let story = task("a").with(|story| {
        story.admission.definition = definition(json!({"inputs": [{"name": "archive", "required": true}]}));
    });
    story.clone().go(1).is(TaskState::Failed, "InputMissing").says("inputs.archive: is required");
    let silent = UploadFact::Unreadable("no answer".into());
    let waiting = story.with(|story| {
        story.task.spec.inputs = serde_json::from_value(json!({"archive": {"upload": UID}})).expect("inputs");
        story.admission.uploads = BTreeMap::from([("archive".into(), silent)]);
    });
    waiting.go(1).is(TaskState::Pending, "StoreNotReady").says("no answer");
}

#[test]
fn a_run_without_owner_is_refused() {
    task("a").with(|story| story.task.spec.owner = None).go(1).is(TaskState::Failed, "OwnerMissing");
}

#[test]
fn a_run_waits_quietly_until_the_operator_knows_its_agent() {
    let story = task("a").with(|story| story.admission.agent = None);
    let plan = story.plan(at(1));
    assert_eq!((plan.actions, plan.news.verdict, plan.wake_at), (vec![], Verdict::Unchanged, Some(at(2))));
}

#[test]
fn a_job_that_is_there_already_is_taken_up_on_its_own_revision() {
    let story = task("a");
    let job = story.job();
    let story = story.with(|story| {
        story.world.jobs = vec![job];
        // What was checked before the Job was made is not asked again.
        story.admission.definition = definition(json!({"inputs": [{"name": "archive", "required": true}]}));
    });
    assert_eq!(story.plan(at(5)).actions, []);
    story.go(5).is(TaskState::InProgress, "Running");
}

#[test]
fn a_job_made_by_another_operator_from_another_revision_is_looked_at_first() {
    let story = task("a");
    let other = JobFact { revision: Some("import-9999999999".into()), ..story.job() };
    let story = story.step(at(1), |applied| drop(applied.jobs.insert("import".into(), other)));
    assert_eq!(story.status().state, None, "nothing is pinned to what does not run");
}

#[test]
fn a_foreign_job_of_the_same_name_is_not_taken_for_ours() {
    let story = task("a");
    let foreign = JobFact { ours: false, revision: None, ..story.job() };
    let story = story.step(at(1), |applied| drop(applied.jobs.insert("import".into(), foreign)));
    story.is(TaskState::Failed, "NameConflict").says("belongs to");
}

#[test]
fn a_job_the_api_server_refuses_keeps_the_run_pending_with_its_words() {
    let refused = Trouble { reason: "JobRefused", message: "exceeded quota: count/jobs.batch".into() };
    let story = task("a").step(at(1), |applied| *applied = Applied { trouble: Some(refused), ..Applied::default() });
    story.is(TaskState::Pending, "JobRefused").says("exceeded quota");
}

// ---- the end of a step

#[test]
fn a_commit_makes_the_run_complete_whatever_the_job_says() {
    for end in [JobEnd::Succeeded, backoff(), JobEnd::Gone] {
        let story = task("a").admitted().ended(end, committed(&["p-2", "p-1"]));
        story.is(TaskState::Complete, "StepsSucceeded");
        let status = story.status();
        assert_eq!(status.steps[0].manifest, Some("5".repeat(64)));
        let names: Vec<_> = status.outputs.iter().map(|output| output.name.as_str()).collect();
        assert_eq!((names, &status.failure, &status.step), (vec!["report", "log"], &None, &None));
        assert_eq!(story.condition(condition::OUTPUTS_READY).0, "True");
        assert_eq!(story.condition(condition::RECONCILING).0, "False");
    }
}

#[test]
fn exit_code_0_without_a_commit_is_no_success() {
    let pods = vec![PodFact { exit: Some(exit(0, "Completed")), ..pod("p-1") }];
    let story = task("a").admitted().ended(JobEnd::Succeeded, Results { pods, ..Results::default() });
    story.is(TaskState::Failed, "OutputNotCommitted");
    assert_eq!(story.status().outputs, []);
}

#[test]
fn what_the_author_said_about_the_failure_is_shown_with_the_log() {
    let failure = |uid: &str, second, code| FailureFact {
        pod_uid: uid.into(),
        attempt: 1,
        failed_at: at(second),
        report: report(code, true),
    };
    let failures = vec![failure("p-2", 7, "InvalidCourse"), failure("p-1", 3, "Terminated")];
    let story = task("a").admitted().ended(backoff(), Results { failures, ..Results::default() });
    story.is(TaskState::Failed, "StepFailed").says("no course.xml");
    let status = story.status();
    let why = status.failure.as_ref().expect("why");
    assert_eq!(
        (why.step.as_deref(), why.code.as_deref(), why.exit_code),
        (Some("import"), Some("InvalidCourse"), Some(65))
    );
    assert_eq!(status.outputs[0].name, "log");
    assert!(status.steps[0].manifest.is_some());
    assert_eq!(story.condition(condition::OUTPUTS_READY).0, "False");
}

/// A status that its schema refuses cannot be written at all, and the run would stand still for ever.
#[test]
fn whatever_was_said_the_status_is_what_its_schema_takes() {
    let crds = asynctask_api::crd::all();
    let crd = crds.into_iter().map(|(_, crd)| json!(crd)).find(|crd| crd["spec"]["names"]["kind"] == "AsyncTask");
    let crd = crd.expect("a CRD");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    for piece in ["x", "é", "\u{1f980}", "\"\n"] {
        let said = FailureReport {
            message: piece.repeat(9000),
            link: Some(format!("https://{}", piece.repeat(3000))),
            log_tail: piece.repeat(9000),
            ..report(&piece.repeat(300), true)
        };
        for (attempts, uncounted) in [(1, None), (1, Some(19))] {
            let failures =
                vec![FailureFact { pod_uid: "p".into(), attempt: attempts, failed_at: at(5), report: said.clone() }];
            let story = task("a").admitted().with(|story| {
                story.task.status.as_mut().expect("status").steps[0].uncounted = uncounted;
            });
            let results = Results { failures, ..Results::default() };
            let story = story.ended(backoff(), results);
            let violations = crate::parameters::against(schema, &json!(story.status())).expect("a schema");
            assert_eq!(violations, Vec::<String>::new(), "{piece:?}");
        }
    }
}

#[test]
fn a_timeout_is_told_as_such_although_the_agent_reported_its_end() {
    let failures =
        vec![FailureFact { pod_uid: "p".into(), attempt: 1, failed_at: at(5), report: report("Terminated", true) }];
    let pods = vec![PodFact { reason: Some("DeadlineExceeded".into()), exit: Some(exit(143, "Error")), ..pod("p") }];
    let story = task("a").admitted().ended(backoff(), Results { failures, pods, ..Results::default() });
    story.is(TaskState::Failed, "Timeout");
    assert_eq!(story.status().failure.as_ref().expect("why").log_tail.as_deref(), Some("line"));
    assert_eq!(story.status().outputs[0].name, "log");
}

#[test]
fn a_kill_that_the_agent_cannot_explain_is_explained_by_the_pod_but_never_an_authors_own_words() {
    let table = [("Signal9", "OutOfMemory"), ("ExitCode137", "OutOfMemory"), ("InvalidCourse", "InvalidCourse")];
    for (code, shown) in table {
        let failures =
            vec![FailureFact { pod_uid: "p".into(), attempt: 1, failed_at: at(5), report: report(code, false) }];
        let pods = vec![PodFact { exit: Some(exit(137, "OOMKilled")), ..pod("p") }];
        let story = task("a").admitted().ended(backoff(), Results { failures, pods, ..Results::default() });
        assert_eq!(story.status().failure.as_ref().expect("why").code.as_deref(), Some(shown));
    }
}

#[test]
fn a_killed_pod_still_leaves_its_log() {
    let logs = vec![LogFact { pod_uid: "p".into(), file: file("log") }];
    let pods = vec![PodFact { exit: Some(exit(137, "OOMKilled")), ..pod("p") }];
    let story = task("a").admitted().ended(backoff(), Results { logs, pods, ..Results::default() });
    assert_eq!(story.is(TaskState::Failed, "StepFailed").status().outputs[0].name, "log");
}

#[test]
fn a_job_that_is_gone_without_a_trace_is_lost() {
    task("a").admitted().ended(JobEnd::Gone, Results::default()).is(TaskState::Failed, "Lost");
    task("a")
        .admitted()
        .ended(backoff(), Results::default())
        .is(TaskState::Failed, "Lost")
        .says("BackoffLimitExceeded");
}

#[test]
fn a_job_that_was_deleted_is_judged_when_its_pod_has_ended() {
    let dying = PodFact { alive: true, ..pod("p") };
    let story = task("a").admitted().ended(JobEnd::Gone, Results { pods: vec![dying], ..Results::default() });
    story.is(TaskState::InProgress, "Running");
    assert_eq!(story.plan(at(10)).wake_at, Some(at(11)));
    let dead = PodFact { deleted: true, exit: Some(exit(143, "Error")), ..pod("p") };
    let story = story.ended(JobEnd::Gone, Results { pods: vec![dead], ..Results::default() });
    story.is(TaskState::InProgress, "Retrying").says("drained, evicted or deleted");
    assert_eq!(story.status().steps[0].counted, None, "it is not the author's doing");
}

#[test]
fn a_store_that_cannot_be_read_or_written_holds_the_run_and_fails_nothing() {
    let silent = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
    let unread = silent.clone();
    let story = task("a").admitted().left("import", backoff(), Err(unread)).go(9);
    story.is(TaskState::InProgress, "StoreUnreachable").says("no answer");
    // Read, but the manifest cannot be written.
    let story = story.left("import", JobEnd::Succeeded, Ok(committed(&["p"])));
    let story = story.step(at(10), |applied| *applied = Applied { trouble: Some(silent), ..Applied::default() });
    story.is(TaskState::InProgress, "StoreUnreachable");
    assert_eq!(story.status().outputs, [], "nothing is promised that is not there");
    story.go(11).is(TaskState::Complete, "StepsSucceeded");
}

#[test]
fn what_the_gateway_says_of_a_step_stays_the_gateways() {
    let story = task("a").admitted().with(|story| {
        let status = story.task.status.as_mut().expect("status");
        status.progress = Some("Reading 3/10".into());
        status.steps[0].stage = Some("Reading".into());
    });
    let plan = story.plan(at(5));
    let said = status(&story.snapshot(), &plan, &Applied::default(), at(5));
    assert_eq!((said.progress.as_ref(), said.steps[0].stage.as_ref()), (None, None));
    assert_eq!(said, operators_part(story.status()), "it is no news for the operator either");
}

#[test]
fn a_move_that_the_table_of_states_does_not_have_is_not_made() {
    let story = task("a").with(|story| story.admission.agent = None).go(1);
    let leap = Plan::say(Verdict::is(TaskState::Complete, "StepsSucceeded", None));
    assert_eq!(&status(&story.snapshot(), &leap, &Applied::default(), at(2)), story.status());
}

// ---- after the end

#[test]
fn a_finished_run_is_marked_once_and_never_touched_again() {
    let story = task("a").admitted().job_failed(1);
    assert_eq!(story.plan(at(20)).actions, [Action::Record, Action::Mark(TaskState::Failed)]);
    let story = story.go(20);
    assert_eq!(story.plan(at(99_999)), Plan::rest());
}

#[test]
fn what_is_asked_of_a_finished_run_is_seen_and_changes_nothing() {
    let story = task("a").admitted().job_failed(1).go(20).with(|story| {
        story.task.spec.cancel = Some(true);
        story.task.metadata.generation = Some(2);
    });
    let before = story.status().clone();
    let story = story.go(30);
    let after = story.status();
    assert_eq!((after.observed_generation, after.state), (Some(2), Some(TaskState::Failed)));
    assert_eq!((&after.transitions, &after.failure), (&before.transitions, &before.failure));
    assert!(after.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    assert_eq!(story.plan(at(31)), Plan::rest());
}

#[test]
fn what_nobody_can_read_is_no_parameter() {
    let why = "spec.parameters has 1363211 bytes: hand large data over as an input";
    let odd = |story: &mut Story| {
        let why = BTreeMap::from([(ANNOTATION_UNREADABLE.to_owned(), why.to_owned())]);
        story.task.metadata.annotations = Some(why);
    };
    task("a").with(odd).go(1).is(TaskState::Failed, "InvalidParameters").says(why);
}

/// A run that retention removed.
fn earlier(created: i64, spec: &Value) -> EarlierRun {
    EarlierRun { created: at(created), state: "Complete".into(), expired: true, spec: spec.clone() }
}

#[test]
fn what_ran_before_does_not_run_again_where_it_says_so() {
    let earlier = earlier(-3600, &json!({"definition": {"name": "import"}}));
    let once = |earlier| {
        task("a").with(|story: &mut Story| {
            story.task.spec.once = Some("24h".into());
            story.admission.earlier = earlier;
        })
    };
    let again = once(Ok(Some(earlier)));
    let none_starts = |story: &Story| {
        assert!(story.plan(at(1)).actions.iter().all(|action| !matches!(action, Action::CreateJob { .. })));
    };
    none_starts(&again);
    let refused = again.go(1);
    refused.is(TaskState::Canceled, "RanBefore").says("last in state Complete").says("another name");
    none_starts(&refused);
    once(Ok(None)).go(1).is(TaskState::InProgress, "Running");
    once(Err("no answer".into())).go(1).is(TaskState::Pending, "StoreNotReady").says("no answer");
    for (once, hours) in [("1h", 1), ("24h", 24), ("9999h", 8784), ("nonsense", 8784)] {
        let story = task("a").with(|story| story.task.spec.once = Some(once.into()));
        assert_eq!(once_since(&story.task, &story.content().retention, at(0)), Some(at(-3600 * hours)), "{once}");
    }
    let since = |extra| once_since(&task("a").task, &content(extra).retention, at(0));
    assert_eq!(since(json!({})), None, "without retention.task nothing is asked of the store");
    assert_eq!(since(json!({"retention": {"task": "24h"}})), Some(at(-3600 * 32 * 24)));
    assert_eq!(since(json!({"retention": {"task": "8760h"}})), Some(at(-3600 * 8784)));
    let output = |kept| json!({"retention": {"task": "24h"}, "outputs": [{"name": "o", "step": "import", "path": "o", "retention": kept}]});
    assert_eq!(
        since(output(json!({"for": "720h"}))),
        Some(at(-3600 * 61 * 24)),
        "the object stays as long as its outputs"
    );
    assert_eq!(since(output(json!({"forever": true}))), Some(at(-3600 * 8784)));
}

#[test]
fn what_retention_removed_does_not_run_again_when_the_same_is_applied_again() {
    let asked = json!({"definition": {"name": "import"}, "owner": "eve", "parameters": {"month": 10}, "cancel": false});
    let again = |spec: &Value, change: &dyn Fn(&mut Story)| {
        let story = task("a").with(|story: &mut Story| {
            story.admission.definition = definition(json!({"parameters": {}, "retention": {"task": "1h"}}));
            story.admission.parameters = json!({"month": 10});
            story.admission.earlier = Ok(Some(earlier(-9000, spec)));
            change(story);
        });
        story.go(1)
    };
    let refused = again(&asked, &|_| ());
    refused.is(TaskState::Canceled, "RanBefore").says("with the same spec").says("another name");
    assert_eq!(refused.status().expires_at, None, "it stays in the place of the other");
    assert!(refused.plan(at(2)).actions.iter().all(|action| !matches!(action, Action::CreateJob { .. })));
    let runs = |story: Story| {
        story.is(TaskState::InProgress, "Running");
    };
    // Somebody deleted it.
    runs(again(&asked, &|story| {
        story.admission.earlier = Ok(Some(EarlierRun { expired: false, ..earlier(-9000, &asked) }));
    }));
    // Other requests.
    runs(again(&asked, &|story| story.admission.parameters = json!({"month": 11})));
    runs(again(&json!({"definition": {"name": "import"}}), &|_| ()));
    runs(again(&asked, &|story| story.task.spec.start_after = Some(Time(at(-1)))));
    // Parameters that are in no history are compared with nothing; without any there is nothing to compare.
    let drops = |story: &mut Story, parameters: Value| {
        let retention = json!({"task": "1h", "historyParameters": "Drop"});
        story.admission.definition = definition(json!({"parameters": {}, "retention": retention}));
        story.admission.parameters = parameters;
    };
    let unsaid = json!({"definition": {"name": "import"}});
    runs(again(&unsaid, &|story| drops(story, json!({"month": 10}))));
    again(&unsaid, &|story| drops(story, json!({}))).is(TaskState::Canceled, "RanBefore");
    // Where `once` says how long, it alone counts.
    runs(again(&asked, &|story| {
        story.task.spec.once = Some("1h".into());
        story.admission.earlier = Ok(None);
    }));
}

#[test]
fn a_restored_copy_of_a_finished_run_never_runs() {
    let story = task("a").with(|story| {
        story.task.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_FINISHED.into(), "Complete".into())]));
    });
    assert_eq!(phase(&story.task), Phase::Restored);
    assert_eq!(story.plan(at(1)).actions, []);
    let story = story.go(1);
    story.is(TaskState::Canceled, "Restored").says("another name");
    assert_eq!(story.condition(condition::FINISHED).0, "True");
    assert_eq!(story.plan(at(2)), Plan::rest());
}

// ---- deletion

#[test]
fn nothing_is_deleted_from_the_store_while_a_pod_could_write() {
    let job = JobRef { name: "j".into(), uid: "j-1".into(), deleting: false };
    let remains = Remains { jobs: vec![job.clone()], pods: 1, ..Remains::default() };
    let story = task("a").admitted().deleted(5).with(|story| story.remains = remains);
    let plan = story.plan(at(6));
    assert_eq!((plan.actions, plan.wake_at), (vec![Action::DeleteJob(job)], Some(at(7))));
    let story = story.go(6);
    assert_eq!(story.plan(at(7)).actions, [], "its pod has not ended");
    let late = story.clone().go(66);
    assert_eq!(late.condition(condition::STALLED), ("True", "PodsNotEnded"));
    let story = story.with(|story| story.remains.pods = 0);
    let store = StoreRef { name: "team".into(), uid: "s-1".into() };
    assert_eq!(story.plan(at(8)).actions, [Action::Record, Action::DeleteKeys(store), Action::Release]);
    assert_eq!(story.go(8).task.metadata.finalizers, None);
}

#[test]
fn a_guarded_stage_ends_before_the_run_is_deleted() {
    let spec = json!({"cancellation": {"allowed": "UntilStage", "stage": "Reading"}});
    let story = task("a").with(|story| story.admission.definition = definition(spec)).admitted();
    let job = |attempt| JobRef { name: job_name(&story.task, "import", attempt), uid: "j-1".into(), deleting: false };
    let remains = Remains { jobs: vec![job(1), job(7)], pods: 1, at_work: 1, ..Remains::default() };
    let inside = story.clone().deleted(5).with(|story| {
        story.task.status.as_mut().expect("status").steps[0].guarded = Some(true);
        story.remains = remains.clone();
    });
    assert_eq!(inside.plan(at(6)).actions, [Action::DeleteJob(job(7))], "what is not in it goes at once");
    let told = inside.clone().go(6);
    assert_eq!(told.condition(condition::STALLED), ("True", "InGuardedStage"));
    let over = inside.with(|story| story.remains.at_work = 0);
    assert_eq!(over.plan(at(7)).actions.len(), 2, "its program has ended, whatever else goes on in its pod");
    let before = story.deleted(5).with(|story| story.remains = remains);
    assert_eq!(before.plan(at(6)).actions.len(), 2, "the stage was not entered");
}

#[test]
fn outputs_are_abandoned_only_in_the_store_that_is_named() {
    let abandons = |name: &str| {
        let story = task("a").admitted().deleted(5).with(|story| {
            story.task.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_ABANDON.into(), name.into())]));
        });
        story.plan(at(6)).actions
    };
    let store = StoreRef { name: "team".into(), uid: "s-1".into() };
    assert_eq!(abandons("team"), [Action::Abandon(store.clone()), Action::Release]);
    assert_eq!(abandons("true"), [Action::Record, Action::DeleteKeys(store), Action::Release]);
}

#[test]
fn a_dead_store_holds_the_object_and_says_so() {
    let dead = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
    let story = task("a").admitted().job_failed(1).deleted(20);
    let story = story.step(at(21), |applied| applied.trouble = Some(dead.clone()));
    assert!(story.task.metadata.finalizers.is_some());
    assert_eq!(story.condition(condition::STALLED), ("True", "StoreUnreachable"));
    assert_eq!(story.status().state, Some(TaskState::Failed), "its state stays");
    let before = story.status().clone();
    let again = story.step(at(50), |applied| applied.trouble = Some(dead));
    assert_eq!(again.status(), &before, "the same trouble is no news");
}

#[test]
fn a_run_that_never_had_a_store_is_simply_let_go() {
    assert_eq!(task("a").deleted(1).plan(at(2)).actions, [Action::Release]);
    let ours_no_more = task("a").deleted(1).with(|story| story.task.metadata.finalizers = Some(vec!["other".into()]));
    assert_eq!(ours_no_more.plan(at(2)), Plan::rest());
}

proptest! {
    #[test]
    fn every_time_that_the_schema_takes_can_be_read(time in asynctask_api::crd::TIME.trim_matches(['^', '$'])) {
        let read: Time = serde_json::from_value(json!(time)).expect("a time");
        // Arithmetic on it ends nowhere near.
        prop_assert!(read.0.checked_add(k8s_openapi::jiff::SignedDuration::from_hours(24 * 300)).is_ok());
    }
}
