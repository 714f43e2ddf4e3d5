//! What an author may declare of a fan-out: each mistake is told with its field.

use super::*;
use crate::fanout::{FanOut, Source, Tolerance};

fn declared(change: impl FnOnce(&mut Value)) -> Result<ValidatedDefinition, Vec<String>> {
    let mut spec = json!({
        "title": "T",
        "parameters": {"type": "object", "required": ["weeks"], "properties": {"weeks": {"type": "integer"}, "who": {"type": "string"}}},
        "inputs": [{"name": "people", "required": true}, {"name": "notes"}],
        "steps": [
            {"name": "plan", "emitsItems": true, "template": template()},
            {"name": "send", "fanOut": {"itemsFrom": {"step": "plan"}}, "template": template()},
        ],
        "outputs": [{"name": "intro", "step": "plan", "path": "intro.csv"}],
    });
    change(&mut spec);
    let spec: TaskDefinitionSpec = serde_json::from_value(spec).expect("decodes");
    validate(&spec).map_err(|error| error.violations.into_iter().map(|found| found.sentence).collect())
}

fn with_fan_out(fan_out: Value) -> Result<ValidatedDefinition, Vec<String>> {
    declared(|spec| spec["steps"][1]["fanOut"] = fan_out)
}

#[track_caller]
fn refused(found: Result<ValidatedDefinition, Vec<String>>, start: &str) {
    let found = found.expect_err("a violation");
    assert!(found.iter().any(|sentence| sentence.starts_with(start)), "{found:#?}\nshould have {start:?}");
}

#[test]
fn defaults_are_a_hundred_items_a_shard_ten_pods_and_no_failure() {
    let valid = declared(|_| ()).expect("valid");
    let fan_out = valid.steps[1].fan_out.clone().expect("a fan-out");
    let source = Source::Items { step: 0 };
    assert_eq!(fan_out, FanOut { source, parallelism: 10, shards: Tolerance::Count(0), items: Tolerance::Any });
    assert_eq!(valid.steps[0].emits, Some(100));
}

#[test]
fn a_part_is_rounded_down() {
    for (percent, total, expected) in [(5, 19, 0), (5, 20, 1), (5, 39, 1), (100, 7, 7), (33, 50_000_000, 16_500_000)] {
        assert_eq!(Tolerance::Percent(percent).of(total), expected, "{percent} % of {total}");
    }
    assert_eq!((Tolerance::Count(9).of(3), Tolerance::Any.of(3)), (3, 3));
}

#[test]
fn what_the_shards_are_is_said_once() {
    refused(with_fan_out(json!({})), "steps[send].fanOut: say with exactly one of itemsFrom, shards and shardsFrom");
    refused(
        with_fan_out(json!({"shards": 3, "itemsFrom": {"step": "plan"}})),
        "steps[send].fanOut: say with exactly one",
    );
    refused(with_fan_out(json!({"itemsFrom": {}})), "steps[send].fanOut.itemsFrom: name exactly one of step and input");
    refused(with_fan_out(json!({"shards": 3, "itemsPerShard": 9})), "steps[send].fanOut.itemsPerShard: says nothing");
    refused(with_fan_out(json!({"shards": 100_001})), "steps[send].fanOut.shards: 100001 shards: from 1 to 100000");
    let found = with_fan_out(json!({"shards": 3}));
    refused(found, "steps[plan].emitsItems: no step fans out over its items");
}

#[test]
fn items_come_from_an_earlier_step_that_emits_them_or_from_an_input_that_is_there() {
    refused(
        with_fan_out(json!({"itemsFrom": {"step": "gone"}})),
        "steps[send].fanOut.itemsFrom.step: there is no step \"gone\"",
    );
    refused(
        declared(|spec| spec["steps"][0]["emitsItems"] = json!(false)),
        "steps[send].fanOut.itemsFrom.step: step plan emits no items",
    );
    refused(
        declared(|spec| spec["steps"][1]["dependsOn"] = json!([])),
        "steps[send].fanOut.itemsFrom.step: send does not wait for step plan",
    );
    refused(
        with_fan_out(json!({"itemsFrom": {"input": "gone"}})),
        "steps[send].fanOut.itemsFrom.input: there is no input \"gone\"",
    );
    refused(
        with_fan_out(json!({"itemsFrom": {"input": "notes"}})),
        "steps[send].fanOut.itemsFrom.input: a run may come without notes",
    );
    refused(
        declared(|spec| spec["steps"][1]["emitsItems"] = json!(true)),
        "steps[send].fanOut: a step that fans out cannot emit",
    );
}

#[test]
fn an_input_is_cut_by_a_step_of_its_own() {
    let valid = declared(|spec| {
        spec["steps"][0]["emitsItems"] = json!(false);
        spec["steps"][1]["fanOut"] = json!({"itemsFrom": {"input": "people"}, "itemsPerShard": 7});
    });
    let valid = valid.expect("valid");
    let names: Vec<_> = valid.steps.iter().map(|step| (step.name.as_str(), step.needs.clone())).collect();
    assert_eq!(names, [("plan", vec![]), ("split-send", vec![0]), ("send", vec![0, 1])]);
    assert_eq!(valid.steps[1].emits, Some(7));
    assert_eq!(valid.steps[2].fan_out.as_ref().expect("a fan-out").source, Source::Items { step: 1 });
}

#[test]
fn a_number_of_shards_is_a_parameter_that_every_run_gives() {
    let from = |name: &str| with_fan_out(json!({"shardsFrom": {"parameter": name}}));
    refused(from("gone"), "steps[send].fanOut.shardsFrom.parameter: \"gone\" is no parameter");
    refused(from("who"), "steps[send].fanOut.shardsFrom.parameter: parameter who is no number");
}

#[test]
fn tolerances_are_numbers_or_parts() {
    let tolerate =
        |value: Value| with_fan_out(json!({"itemsFrom": {"step": "plan"}, "tolerate": {"failedShards": value}}));
    assert!(tolerate(json!(3)).is_ok() && tolerate(json!("5%")).is_ok());
    for wrong in [json!("120%"), json!("5"), json!("x%"), json!(-1), json!("1.5%")] {
        refused(tolerate(wrong), "steps[send].fanOut.tolerate.failedShards: ");
    }
}

#[test]
fn the_job_controller_cannot_do_all_that_an_author_may_write() {
    let retry = |retry: Value| declared(|spec| spec["steps"][1]["retry"] = retry);
    refused(
        retry(json!({"backoff": {"initial": "1s"}})),
        "steps[send].retry.backoff: shards of a fan-out have the back-off",
    );
    let rule = |rule: Value| retry(json!({"limit": 2, "rules": [rule]}));
    refused(
        rule(json!({"exitCodes": ["70"], "action": "Ignore"})),
        "steps[send].retry.rules[0].action: Ignore on exit codes",
    );
    refused(
        rule(json!({"reasons": ["OOMKilled"], "action": "Fail"})),
        "steps[send].retry.rules[0].reasons: only exitCodes",
    );
    let both = json!({"reasons": ["Disruption"], "exitCodes": ["7"], "action": "Fail"});
    refused(rule(both), "steps[send].retry.rules[0]: in a fan-out a rule names either");
    assert!(rule(json!({"exitCodes": ["70"], "action": "Fail"})).is_ok());
}

#[test]
fn only_a_fan_out_appends_and_its_base_comes_before_it() {
    let append = |step: &str, append: Value| {
        declared(|spec| {
            let output = json!({"name": "sent", "step": step, "path": "sent.csv", "append": append});
            spec["outputs"].as_array_mut().expect("outputs").push(output);
        })
    };
    assert!(append("send", json!({"base": {"step": "plan", "output": "intro"}})).is_ok());
    refused(append("plan", json!({})), "outputs[sent].append: step plan does not fan out");
    refused(
        append("send", json!({"base": {"step": "gone", "output": "x"}})),
        "outputs[sent].append.base.step: there is no step",
    );
    refused(
        append("send", json!({"base": {"step": "plan", "output": "x"}})),
        "outputs[sent].append.base.output: step plan has no output",
    );
    let list = declared(|spec| {
        let output = json!({"name": "bad", "step": "send", "path": "x", "failedItems": true});
        spec["outputs"].as_array_mut().expect("outputs").push(output);
    });
    refused(list, "outputs[bad].path: the agent writes the failed items itself");
}

#[test]
fn names_leave_room_for_built_in_steps() {
    let named = |name: &str| {
        declared(|spec| {
            spec["steps"][1]["name"] = json!(name);
            let output = json!({"name": "sent", "step": name, "path": "sent.csv", "append": {}});
            spec["outputs"].as_array_mut().expect("outputs").push(output);
        })
    };
    assert!(named(&"s".repeat(21)).is_ok());
    refused(named(&"s".repeat(22)), "steps[ssssssssssssssssssssss].name: has a built-in step");
    let taken = declared(|spec| {
        let output = json!({"name": "sent", "step": "send", "path": "sent.csv", "append": {}});
        spec["outputs"].as_array_mut().expect("outputs").push(output);
        let step = json!({"name": "assemble-send", "template": template()});
        spec["steps"].as_array_mut().expect("steps").push(step);
    });
    refused(taken, "steps[assemble-send].name: is the name of the built-in step of send");
}

#[test]
fn a_guarded_stage_is_no_stage_of_a_fan_out() {
    let guarded = declared(|spec| {
        spec["steps"][1]["stages"] = json!(["Sending"]);
        spec["cancellation"] = json!({"allowed": "UntilStage", "stage": "Sending"});
    });
    refused(guarded, "cancellation.stage: \"Sending\" belongs to step send, which fans out");
}
