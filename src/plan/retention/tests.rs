//! What goes when, and what stays for whom.

use serde_json::json;

use super::*;
use crate::definition::validate as definition;
use crate::snapshot::Reads;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn spec(outputs: &Value, retention: &Value) -> TaskDefinitionSpec {
    let template = json!({"spec": {"containers": [{"name": "task", "image": "a:1", "command": ["/run"]}]}});
    serde_json::from_value(json!({
        "title": "Report", "steps": [{"name": "s", "template": template}], "outputs": outputs, "retention": retention,
        "parameters": {"type": "object", "required": ["end"], "properties": {"end": {}, "other": {}}},
    }))
    .expect("a definition")
}

fn output(retention: &Value) -> Value {
    json!({"name": "report", "step": "s", "path": "r", "retention": retention})
}

fn retention(outputs: &Value, task: &Value) -> Retention {
    definition(&spec(outputs, task)).expect("valid").retention
}

/// A run that ended at the beginning of 2026 with one file a declared output, and a log.
fn ended_run(outputs: &Value, task: &Value, parameters: &Value) -> AsyncTask {
    let retention = retention(outputs, task);
    let names = outputs.as_array().expect("a list").iter().map(|output| output["name"].as_str().expect("a name"));
    let given = |name: &str| OutputStatus { name: name.into(), step: "s".into(), files: 1, ..OutputStatus::default() };
    let mut status = AsyncTaskStatus {
        state: Some(asynctask_api::TaskState::Complete),
        outputs: names.chain([LOG_OUTPUT]).map(given).collect(),
        kept_until: pinned(&retention, parameters).expect("dates"),
        ..AsyncTaskStatus::default()
    };
    describe(&mut status.outputs, &retention);
    ended(&mut status, &retention, at("2026-01-01T00:00:00Z"));
    serde_json::from_value(json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
        "spec": {"definition": {"name": "d"}}, "status": status,
    }))
    .expect("a task")
}

fn status(task: &mut AsyncTask) -> &mut AsyncTaskStatus {
    task.status.as_mut().expect("a status")
}

/// What a plan deletes, in words.
fn deletes(plan: &Plan) -> Vec<String> {
    let words = plan.actions.iter().map(|action| match action {
        Action::DeleteOutputs(names) => names.iter().cloned().collect::<Vec<_>>().join(","),
        Action::RecordExpiry => "recorded".to_owned(),
        Action::DeleteTask => "the task".to_owned(),
        other => format!("{other:?}"),
    });
    words.collect()
}

fn apply(task: &mut AsyncTask, plan: &Plan) {
    for output in &mut status(task).outputs {
        if let Some((_, gone)) = plan.news.gone.iter().find(|(name, _)| *name == output.name) {
            output.gone = Some(gone.clone());
        }
    }
    if plan.news.trim {
        let before = std::mem::take(status(task));
        *status(task) = trimmed(before);
    }
}

#[test]
fn a_retention_says_one_thing() {
    let wrong = [
        (json!({}), "outputs[report].retention: say with exactly one of useOnce, for, until and forever"),
        (json!({"for": "1h", "forever": true}), "outputs[report].retention: say with exactly one"),
        (json!({"forever": false}), "outputs[report].retention: say with exactly one"),
        (json!({"for": "soon"}), "outputs[report].retention.for: \"soon\" is not a duration"),
        (json!({"useOnce": {"window": "0s"}}), "outputs[report].retention.useOnce.window: \"0s\" is not"),
        (json!({"useOnce": {}, "atMost": "2h"}), "outputs[report].retention.atMost: says nothing beside"),
        (json!({"until": {}}), "outputs[report].retention.until: name exactly one of date and parameter"),
        (json!({"until": {"parameter": "other"}}), "outputs[report].retention.until.parameter: a run may come without"),
    ];
    for (declared, start) in wrong {
        let invalid = definition(&spec(&json!([output(&declared)]), &json!({}))).expect_err("a violation");
        let said: Vec<_> = invalid.violations.iter().map(|violation| violation.sentence.as_str()).collect();
        assert!(said.iter().any(|sentence| sentence.starts_with(start)), "{start}: {said:?}");
    }
}

#[test]
fn each_output_has_its_own_date_and_the_task_the_last() {
    let outputs = json!([
        {"name": "for", "step": "s", "path": "a", "retention": {"for": "24h"}},
        {"name": "date", "step": "s", "path": "b", "retention": {"until": {"date": "2026-02-01T00:00:00Z"}}},
        {"name": "course", "step": "s", "path": "c", "retention": {"until": {"parameter": "end"}}},
        {"name": "plain", "step": "s", "path": "d"},
    ]);
    let task = ended_run(&outputs, &json!({"task": "720h"}), &json!({"end": "2026-06-30"}));
    let expiry_of = |name: &str| {
        let outputs = &task.status.as_ref().expect("a status").outputs;
        expiry(&task, outputs.iter().find(|output| output.name == name).expect("there"))
    };
    assert_eq!(expiry_of("for"), Some(at("2026-01-02T00:00:00Z")));
    assert_eq!(expiry_of("date"), Some(at("2026-02-01T00:00:00Z")));
    assert_eq!(expiry_of("course"), Some(at("2026-06-30T00:00:00Z")));
    assert_eq!((expiry_of("plain"), expiry_of("log")), (None, None));
    assert_eq!(end_of_task(&task), Some(at("2026-06-30T00:00:00Z")), "it outlives its own 30 days");
}

#[test]
fn a_parameter_that_is_no_date_is_told() {
    let retention = retention(&json!([output(&json!({"until": {"parameter": "end"}}))]), &json!({}));
    for good in ["2026-06-30", "2026-06-30T12:00:00Z", "2026-06-30T12:00:00+02:00"] {
        assert!(pinned(&retention, &json!({"end": good})).is_ok(), "{good}");
    }
    let naive = ["2026-06-30T23:59:59", "2026-06-30T23:59", "2026-06-30 23:59:59", "2026-06-30t12", "2026-06-30 "];
    let naive = naive.map(|text| json!(text));
    for bad in [json!("June"), json!(7), json!(null), json!("2026-13-01")].into_iter().chain(naive) {
        let said = pinned(&retention, &json!({"end": bad})).expect_err("no date");
        assert!(said[0].starts_with("/end: ") && said[0].contains("output report"), "{said:?}");
    }
}

#[test]
fn what_is_due_goes_and_the_rest_stays_until_its_time() {
    let outputs = json!([
        {"name": "a", "step": "s", "path": "a", "retention": {"for": "1h"}},
        {"name": "ab", "step": "s", "path": "b", "retention": {"for": "2h"}},
    ]);
    let mut task = ended_run(&outputs, &json!({"task": "3h"}), &json!({"end": ""}));
    let first = plan(&task, &[], at("2026-01-01T00:30:00Z"));
    assert_eq!((deletes(&first), first.wake_at), (vec![], Some(at("2026-01-01T01:00:00Z"))));
    let second = plan(&task, &[], at("2026-01-01T01:00:00Z"));
    assert_eq!(deletes(&second), ["a"], "a neighbour with the same beginning stays");
    apply(&mut task, &second);
    let again = plan(&task, &[], at("2026-01-01T01:00:00Z"));
    assert_eq!((deletes(&again), again.wake_at), (vec![], Some(at("2026-01-01T02:00:00Z"))), "nothing twice");
    assert_eq!(deletes(&plan(&task, &[], at("2026-01-01T03:00:00Z"))), ["the task"]);
}

#[test]
fn what_is_kept_for_ever_holds_the_task_and_its_details_go() {
    let mut task = ended_run(&json!([output(&json!({"forever": true}))]), &json!({"task": "1h"}), &json!({}));
    let step = json!({"name": "s", "title": "S", "dependsOn": []});
    status(&mut task).plan = vec![serde_json::from_value(step).expect("a step")];
    let now = at("2100-01-01T00:00:00Z");
    let trims = plan(&task, &[], now);
    assert!(deletes(&trims).is_empty() && trims.news.trim);
    apply(&mut task, &trims);
    let rests = plan(&task, &[], now);
    assert!(rests.actions.is_empty() && !rests.news.trim, "{rests:?}");
    assert!(rests.wake_at.is_some_and(|at| at <= later(now, LOOK_AGAIN)));
    assert_eq!(status(&mut task).outputs.len(), 2);
}

#[test]
fn a_user_keeps_it_longer_within_what_the_definition_allows() {
    let outputs = json!([output(&json!({"for": "1h", "atMost": "48h"}))]);
    let mut task = ended_run(&outputs, &json!({}), &json!({"end": ""}));
    let until = |task: &AsyncTask| expiry(task, &task.status.as_ref().expect("a status").outputs[0]);
    for (wanted, kept) in [
        ("2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
        ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
        ("2027-01-01T00:00:00Z", "2026-01-03T00:00:00Z"),
    ] {
        task.spec.keep_until = Some(Time(at(wanted)));
        assert_eq!(until(&task), Some(at(kept)), "{wanted}");
    }
    let mut fixed = ended_run(&json!([output(&json!({"for": "1h"}))]), &json!({}), &json!({"end": ""}));
    fixed.spec.keep_until = Some(Time(at("2027-01-01T00:00:00Z")));
    assert_eq!(until(&fixed), Some(at("2026-01-01T01:00:00Z")));
}

#[test]
fn what_was_claimed_goes_when_its_window_ends_and_is_told_with_the_user() {
    let mut task = ended_run(&json!([output(&json!({"useOnce": {"window": "10m"}}))]), &json!({}), &json!({}));
    assert!(plan(&task, &[], at("2027-01-01T00:00:00Z")).actions.is_empty(), "unclaimed it stays");
    let claim =
        json!({"output": "report", "user": "ada", "at": "2026-01-01T01:00:00Z", "until": "2026-01-01T01:10:00Z"});
    status(&mut task).claims = vec![serde_json::from_value(claim).expect("a claim")];
    assert!(plan(&task, &[], at("2026-01-01T01:09:59Z")).actions.is_empty());
    let goes = plan(&task, &[], at("2026-01-01T01:10:00Z"));
    assert_eq!(deletes(&goes), ["report"]);
    let (_, gone) = &goes.news.gone[0];
    assert_eq!((gone.why, gone.by.as_deref()), (GoneWhy::Used, Some("ada")));
}

#[test]
fn what_somebody_deletes_goes_at_once_with_their_name() {
    let mut task = ended_run(&json!([output(&json!({"forever": true}))]), &json!({}), &json!({}));
    let deletion = json!({"output": "report", "user": "tom", "at": "2026-01-01T01:00:00Z"});
    status(&mut task).deletions = vec![serde_json::from_value(deletion).expect("a deletion")];
    let goes = plan(&task, &[], at("2026-01-01T01:00:01Z"));
    assert_eq!((deletes(&goes), goes.news.gone[0].1.by.as_deref()), (vec!["report".to_owned()], Some("tom")));
}

#[test]
fn what_another_run_reads_waits_for_it() {
    let task = ended_run(&json!([output(&json!({"for": "1h"}))]), &json!({}), &json!({"end": ""}));
    let waits = |reads: Reads| {
        let waits = plan(&task, &[Taker { name: "again".into(), reads }], at("2026-01-01T02:00:00Z"));
        let Verdict::Stays(trouble) = &waits.news.verdict else { return (waits.actions, None) };
        (waits.actions.clone(), Some(trouble.message.clone()))
    };
    let shows = |name: &str| Reads::Shown { whole: [name.to_owned()].into(), partly: [].into() };
    let partly = Reads::Shown { whole: [].into(), partly: ["report".to_owned()].into() };
    for reads in [Reads::Any, Reads::Inputs(["report".to_owned()].into()), shows("report"), partly] {
        let (actions, why) = waits(reads);
        assert!(actions.is_empty() && why.is_some_and(|why| why.contains("run again")));
    }
    let (actions, why) = waits(shows("other"));
    assert!(matches!(&actions[..], [Action::DeleteOutputs(_)]) && why.is_none(), "nobody shows it any more");
}

#[test]
fn what_somebody_deletes_is_deleted_where_it_was_taken_over() {
    let mut task = ended_run(&json!([output(&json!({"for": "1h"}))]), &json!({}), &json!({"end": ""}));
    let deletion = json!({"output": "report", "user": "ada", "at": "2026-01-01T00:30:00Z"});
    status(&mut task).deletions = vec![serde_json::from_value(deletion).expect("a deletion")];
    let taker = |reads| Taker { name: "again".into(), reads };
    let shown = |whole: &[&str], partly: &[&str]| Reads::Shown {
        whole: whole.iter().map(ToString::to_string).collect(),
        partly: partly.iter().map(ToString::to_string).collect(),
    };
    let asked = plan(&task, &[taker(shown(&["report"], &[]))], at("2026-01-01T00:31:00Z"));
    let (run, output, user) = ("again".to_owned(), "report".to_owned(), "ada".to_owned());
    assert_eq!(asked.actions, [Action::DeleteTaken { run, output, user }]);
    for (reads, why) in [
        (Reads::Any, "what has not ended is asked when it has"),
        (shown(&[], &["report"]), "what has files of its own in it is not deleted because of others"),
    ] {
        assert!(plan(&task, &[taker(reads)], at("2026-01-01T00:31:00Z")).actions.is_empty(), "{why}");
    }
}
