//! The steps of a definition: what each says of itself and of the others.

use std::time::Duration;

use super::definition::ValidatedStep;
use super::fanout;
use super::findings::Findings;
use super::flow::When;
use super::graph::{Graph, find};
use super::retry::{Backoff, Codes, Policy, Rule, UNCOUNTED};
use super::template;
use asynctask_api::TaskDefinitionSpec;
use asynctask_api::definition::{BackoffSpec, Outcome, RetryRule, RetrySpec, StepInputSpec, StepSpec, WhenSpec};
use asynctask_api::quantity;

/// Most steps of a definition.
const MAX_STEPS: usize = 24;
/// Most stages of all steps: a run's status carries them.
const MAX_STAGES: usize = 96;
/// Longest attempt where the definition names no limit.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest time until a program starts where the definition names no limit.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// Reads the steps. Those with violations are left out.
pub(super) fn validate(spec: &TaskDefinitionSpec, findings: &mut Findings) -> Vec<ValidatedStep> {
    let steps = &spec.steps;
    count(spec, findings);
    let graph = Graph::of(steps);
    let read: Vec<_> = (0..steps.len()).filter_map(|index| validate_step(spec, &graph, index, findings)).collect();
    circles(steps, &graph, findings);
    fanout::check(spec, &graph, findings);
    if read.len() == steps.len() { fanout::with_built_ins(spec, read) } else { read }
}

fn count(spec: &TaskDefinitionSpec, findings: &mut Findings) {
    let steps = &spec.steps;
    if steps.is_empty() || steps.len() > MAX_STEPS {
        let sentence = format!("steps: has {} entries: declare at least one and at most {MAX_STEPS}", steps.len());
        findings.plan(sentence);
    }
    let built_in = fanout::built_ins(spec);
    if built_in > 0 && steps.len() + built_in > MAX_STEPS {
        let all = steps.len() + built_in;
        let sentence = format!(
            "steps: are {all} with the {built_in} built-in ones that split inputs and put outputs together, at most \
             {MAX_STEPS} are taken"
        );
        findings.plan(sentence);
    }
    findings.unique("steps", steps.iter().map(|step| step.name.as_str()));
    let stages: usize = steps.iter().map(|step| step.stages.len()).sum();
    if stages > MAX_STAGES {
        findings.plan(format!("steps: have {stages} stages in all, at most {MAX_STAGES} are taken: join some"));
    }
}

fn circles(steps: &[StepSpec], graph: &Graph, findings: &mut Findings) {
    let (circle, hint) = match (graph.circle(), graph.wider_circle()) {
        (Some(circle), _) => (circle, ""),
        (None, Some(circle)) => {
            (circle, " (a step also waits for those with `recovers` that answer to a step it depends on)")
        }
        (None, None) => return,
    };
    let names: Vec<&str> = circle.iter().map(|step| steps[*step].name.as_str()).collect();
    let names = names.join(" → ");
    findings.plan(format!("steps: {names} wait for each other{hint}: take a name out of one's dependsOn"));
}

fn validate_step(
    spec: &TaskDefinitionSpec,
    graph: &Graph,
    index: usize,
    findings: &mut Findings,
) -> Option<ValidatedStep> {
    let step = &spec.steps[index];
    let field = format!("steps[{}]", step.name);
    findings.unique(format!("{field}.stages"), step.stages.iter().map(String::as_str));
    depends_on(spec, graph, index, &field, findings);
    let when = step.when.as_ref().and_then(|when| read_when(when, graph.when(index), step, spec, findings));
    recovers(step, &field, findings);
    inputs(spec, graph, index, &field, findings);
    run_inputs(spec, step, &field, findings);
    let timeout = findings.duration(format!("{field}.timeout"), step.timeout.as_deref(), TIMEOUT);
    let start = findings.duration(format!("{field}.startTimeout"), step.start_timeout.as_deref(), START_TIMEOUT);
    let retry = step.retry.as_ref().map_or(Some(Policy::default()), |retry| read_retry(retry, &field, findings));
    let workspace = step.workspace.as_ref().map(|workspace| workspace.size.clone());
    if let Some(size) = &workspace {
        findings.take(format!("{field}.workspace.size"), quantity::bytes(size));
    }
    let fan_out = fanout::read(spec, graph, index, findings);
    if step.fan_out.is_some() && fan_out.is_none() {
        return None;
    }
    let template = template::validate(&step.template, &format!("{field}.template"), findings);
    Some(ValidatedStep {
        name: step.name.clone(),
        title: step.title.clone().unwrap_or_else(|| step.name.clone()),
        stages: step.stages.clone(),
        needs: graph.needs(index).to_vec(),
        when,
        recovers: step.recovers == Some(true),
        inputs: step.inputs.clone(),
        run_inputs: step.run_inputs.clone(),
        timeout: timeout?,
        start_timeout: start?,
        retry: retry?,
        workspace,
        emits: fanout::emits(spec, step),
        fan_out,
        built_in: None,
        template: template?,
    })
}

/// The inputs of the run that a step names are declared.
fn run_inputs(spec: &TaskDefinitionSpec, step: &StepSpec, field: &str, findings: &mut Findings) {
    let named = step.run_inputs.as_deref().unwrap_or_default();
    findings.unique(format!("{field}.runInputs"), named.iter().map(String::as_str));
    let known: Vec<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
    for name in named.iter().filter(|name| !known.contains(&name.as_str())) {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        findings.plan(format!("{field}.runInputs: the definition has no input {name:?}: {known}"));
    }
}

/// Notes a name that is the step's own or no step's.
fn expect_other(field: &str, name: &str, step: &StepSpec, steps: &[StepSpec], findings: &mut Findings) {
    if name == step.name {
        findings.plan(format!("{field}: {name:?} is the step itself: name another one"));
    } else if find(steps, name).is_none() {
        let known: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        findings.plan(format!("{field}: there is no step {name:?}: name one of {}", known.join(", ")));
    }
}

fn depends_on(spec: &TaskDefinitionSpec, graph: &Graph, index: usize, field: &str, findings: &mut Findings) {
    let (steps, step) = (&spec.steps, &spec.steps[index]);
    let field = format!("{field}.dependsOn");
    let names = step.depends_on.as_deref().unwrap_or_default();
    findings.unique(&field, names.iter().map(String::as_str));
    let of_any = step.when.as_ref().is_some_and(WhenSpec::is_of_any);
    for name in names {
        expect_other(&field, name, step, steps, findings);
        if of_any && find(steps, name).is_some_and(|other| graph.when(index).contains(&other)) {
            findings.plan(format!(
                "{field}: {name:?} is one of the steps that it answers to, however they ended: leave it out, or name steps \
                 in `when`"
            ));
        }
    }
}

fn read_when(
    when: &WhenSpec,
    others: &[usize],
    step: &StepSpec,
    spec: &TaskDefinitionSpec,
    findings: &mut Findings,
) -> Option<When> {
    let field = format!("steps[{}].when", step.name);
    if when.step.is_some() && !when.steps.is_empty() {
        findings.plan(format!("{field}: has `step` and `steps`: write all names into `steps`"));
    }
    if let Some(name) = &when.step {
        expect_other(&format!("{field}.step"), name, step, &spec.steps, findings);
    }
    findings.unique(format!("{field}.steps"), when.steps.iter().map(String::as_str));
    for name in &when.steps {
        expect_other(&format!("{field}.steps"), name, step, &spec.steps, findings);
    }
    let any = when.is_of_any();
    if any && others.is_empty() {
        findings.plan(format!("{field}: names no step, and there is none that does not come after it: list it last, or name steps in `when`"));
    }
    if when.outcome.is_empty() {
        findings.plan(format!("{field}.outcome: is empty: name Complete, Failed or Canceled"));
    }
    findings.unique(format!("{field}.outcome"), when.outcome.iter().map(|outcome| outcome.as_str()));
    if !when.exit_codes.is_empty() && !when.outcome.contains(&Outcome::Failed) {
        let hint = "add Failed to `outcome` or leave the codes out";
        findings.plan(format!("{field}.exitCodes: only failures have exit codes: {hint}"));
    }
    let codes = findings.take(format!("{field}.exitCodes"), Codes::parse(&when.exit_codes));
    (any || others.len() == when.named().count()).then_some(())?;
    Some(When { steps: others.to_vec(), any, outcomes: when.outcome.clone(), codes: codes? })
}

fn recovers(step: &StepSpec, field: &str, findings: &mut Findings) {
    let answers = step.when.as_ref().is_some_and(|when| when.outcome.contains(&Outcome::Failed));
    if step.recovers == Some(true) && !answers {
        let hint = "add `when` with outcome Failed, or leave `recovers` out";
        findings.plan(format!("{field}.recovers: there is no failure it could make up for: {hint}"));
    }
    if step.recovers == Some(true) && step.when.as_ref().is_some_and(WhenSpec::is_of_any) {
        let hint = "name the steps it makes up for in `when`, or leave `recovers` out";
        findings.plan(format!("{field}.recovers: it answers to any step, and cannot make up for all of them: {hint}"));
    }
}

fn inputs(spec: &TaskDefinitionSpec, graph: &Graph, index: usize, field: &str, findings: &mut Findings) {
    let step = &spec.steps[index];
    findings.unique(format!("{field}.inputs"), step.inputs.iter().map(|input| input.name.as_str()));
    for input in &step.inputs {
        let field = format!("{field}.inputs[{}]", input.name);
        if spec.inputs.iter().any(|other| other.name == input.name) {
            findings.plan(format!("{field}: the definition's `inputs` have one of this name too: choose another"));
        }
        if let Some(why) = unreachable(spec, graph, index, input) {
            findings.plan(format!("{field}.output: {why}"));
        }
    }
}

/// Why the output cannot be there when the step starts.
fn unreachable(spec: &TaskDefinitionSpec, graph: &Graph, index: usize, input: &StepInputSpec) -> Option<String> {
    let Some(output) = spec.outputs.iter().find(|output| output.name == input.output) else {
        let hint = "declare it in the definition's `outputs`";
        return Some(format!("there is no output {:?}: {hint}", input.output));
    };
    // An output of no step is a violation of its own.
    let writer = find(&spec.steps, &output.step)?;
    let (writer_name, name) = (&output.step, &spec.steps[index].name);
    (!graph.precedes(writer, index)).then(|| {
        format!(
            "{:?} is written by step {writer_name}, which {name} does not wait for: add it to dependsOn",
            output.name
        )
    })
}

fn read_retry(retry: &RetrySpec, step: &str, findings: &mut Findings) -> Option<Policy> {
    let field = format!("{step}.retry");
    let limit = findings.count(format!("{field}.limit"), retry.limit.unwrap_or(0), 0);
    let uncounted = retry
        .uncounted_limit
        .map_or(Some(UNCOUNTED), |limit| findings.count(format!("{field}.uncountedLimit"), limit, 0));
    let backoff = read_backoff(retry.backoff.as_ref(), &format!("{field}.backoff"), findings);
    let read = |(index, rule)| read_rule(rule, &format!("{field}.rules[{index}]"), findings);
    let rules: Vec<Option<Rule>> = retry.rules.iter().enumerate().map(read).collect();
    let rules: Vec<Rule> = rules.into_iter().collect::<Option<_>>()?;
    for (index, rule) in rules.iter().enumerate() {
        if let Some(earlier) = rules[..index].iter().position(|earlier| earlier.covers(rule)) {
            let hint = "move it up or leave it out";
            let sentence = format!("{field}.rules[{index}]: never matches, rules[{earlier}] matches it all: {hint}");
            findings.plan(sentence);
        }
    }
    Some(Policy { limit: limit?, uncounted: uncounted?, backoff: backoff?, rules })
}

fn read_rule(rule: &RetryRule, field: &str, findings: &mut Findings) -> Option<Rule> {
    if rule.exit_codes.is_empty() && rule.reasons.is_empty() {
        findings.plan(format!("{field}: names neither exitCodes nor reasons: say which failures it is for"));
    }
    let codes = findings.take(format!("{field}.exitCodes"), Codes::parse(&rule.exit_codes))?;
    Some(Rule { codes, reasons: rule.reasons.clone(), action: rule.action })
}

fn read_backoff(backoff: Option<&BackoffSpec>, field: &str, findings: &mut Findings) -> Option<Backoff> {
    let unsaid = Backoff::default();
    let Some(backoff) = backoff else { return Some(unsaid) };
    let max = findings.duration(format!("{field}.max"), backoff.max.as_deref(), unsaid.max);
    // A short `max` alone is meant as it is, whatever the default of `initial`.
    let start = unsaid.initial.min(max.unwrap_or(unsaid.max));
    let initial = findings.duration(format!("{field}.initial"), backoff.initial.as_deref(), start);
    let factor =
        backoff.factor.map_or(Some(unsaid.factor), |factor| findings.count(format!("{field}.factor"), factor, 1));
    let (initial, max) = (initial?, max?);
    if initial > max {
        let sentence = format!("{field}: initial is longer than max ({}s): make max at least as long", max.as_secs());
        findings.plan(sentence);
        return None;
    }
    Some(Backoff { initial, factor: factor?, max })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::definition::{ValidatedDefinition, validate};
    use asynctask_api::definition::{FailureKind, RetryAction};

    /// Steps by their names and what is declared beside name and template.
    fn definition(steps: &[(&str, Value)], extra: Value) -> Result<ValidatedDefinition, Vec<String>> {
        let full = |(name, more): &(&str, Value)| {
            let mut step = json!({"name": name, "template": {"spec": {"containers": [
                {"name": "task", "image": "a:1", "command": ["/run"]},
            ]}}});
            for (key, value) in more.as_object().into_iter().flatten() {
                step[key] = value.clone();
            }
            step
        };
        let mut spec = json!({"title": "T", "steps": steps.iter().map(full).collect::<Vec<_>>()});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let spec: TaskDefinitionSpec = serde_json::from_value(spec).expect("decodes");
        validate(&spec).map_err(|error| error.violations.into_iter().map(|found| found.sentence).collect())
    }

    fn valid(steps: &[(&str, Value)]) -> Vec<ValidatedStep> {
        definition(steps, Value::Null).expect("valid").steps
    }

    /// The sentences of a definition whose second step, of three, is declared so.
    fn refused(second: Value) -> Vec<String> {
        definition(&[("a", Value::Null), ("b", second), ("c", Value::Null)], Value::Null).expect_err("a violation")
    }

    fn starts(found: &[String], starts: &[&str]) {
        let fits =
            found.len() == starts.len() && found.iter().zip(starts).all(|(found, start)| found.starts_with(start));
        assert!(fits, "{found:#?}\nshould start with\n{starts:#?}");
    }

    #[test]
    fn a_step_waits_for_the_one_above_unless_it_says_otherwise() {
        let steps = valid(&[
            ("a", Value::Null),
            ("b", Value::Null),
            ("c", json!({"dependsOn": ["a"]})),
            ("d", json!({"dependsOn": ["c", "b"]})),
            ("e", json!({"dependsOn": []})),
            ("undo", json!({"when": {"step": "b", "outcome": ["Failed", "Canceled"], "exitCodes": ["70"]}})),
            ("redo", json!({"when": {"step": "b", "outcome": ["Failed"]}, "dependsOn": ["undo"], "recovers": true})),
        ]);
        let needs: Vec<Vec<usize>> = steps.iter().map(|step| step.needs.clone()).collect();
        assert_eq!(needs, [vec![], vec![0], vec![0], vec![1, 2], vec![], vec![1], vec![1, 5]]);
        let codes = Codes::parse(&["70".to_owned()]).expect("codes");
        let when = When { steps: vec![1], any: false, outcomes: vec![Outcome::Failed, Outcome::Canceled], codes };
        assert_eq!(steps[5].when, Some(when));
        assert!(!steps[5].recovers && steps[6].recovers);
    }

    #[test]
    fn there_are_1_to_24_steps_of_different_names_and_96_stages() {
        starts(&definition(&[], Value::Null).expect_err("none"), &["steps: has 0 entries: declare at least one"]);
        let names: Vec<String> = (0..25).map(|index| format!("s{index}")).collect();
        let many: Vec<(&str, Value)> = names.iter().map(|name| (name.as_str(), Value::Null)).collect();
        assert_eq!(valid(&many[..24]).len(), 24);
        starts(&definition(&many, Value::Null).expect_err("25"), &["steps: has 25 entries"]);
        let twice = [("a", Value::Null), ("a", Value::Null)];
        starts(
            &definition(&twice, Value::Null).expect_err("twice"),
            &["steps: \"a\" occurs twice: give each its own name"],
        );
        let stages = |count: usize| json!({"stages": (0..count).map(|index| index.to_string()).collect::<Vec<_>>()});
        assert_eq!(valid(&[("a", stages(90)), ("b", stages(6))]).len(), 2);
        let found = definition(&[("a", stages(90)), ("b", stages(7))], Value::Null).expect_err("97");
        starts(&found, &["steps: have 97 stages in all, at most 96 are taken"]);
    }

    #[test]
    fn what_a_step_depends_on_is_another_step() {
        let found = refused(json!({"dependsOn": ["b", "x", "a", "a"]}));
        starts(
            &found,
            &[
                "steps[b].dependsOn: \"a\" occurs twice",
                "steps[b].dependsOn: \"b\" is the step itself: name another one",
                "steps[b].dependsOn: there is no step \"x\": name one of a, b, c",
            ],
        );
    }

    #[test]
    fn steps_that_wait_for_each_other_are_named_in_their_circle() {
        starts(&refused(json!({"dependsOn": ["c"]})), &["steps: b → c → b wait for each other: take a name out"]);
        // a may fail and be made up for by `slow`, so whoever needs a waits for `slow` too.
        let found = definition(
            &[
                ("a", Value::Null),
                ("b", Value::Null),
                ("slow", json!({"when": {"step": "a", "outcome": ["Failed"]}, "dependsOn": ["b"], "recovers": true})),
            ],
            Value::Null,
        );
        starts(&found.expect_err("deadlock"), &["steps: b → slow → b wait for each other (a step also waits for"]);
    }

    #[test]
    fn when_names_how_another_step_has_ended() {
        let when = |step: &str, outcome: Value, codes: Value| json!({"when": {"step": step, "outcome": outcome, "exitCodes": codes}});
        for (second, start) in [
            (
                when("x", json!(["Failed"]), json!([])),
                "steps[b].when.step: there is no step \"x\": name one of a, b, c",
            ),
            (when("b", json!(["Failed"]), json!([])), "steps[b].when.step: \"b\" is the step itself"),
            (when("a", json!([]), json!([])), "steps[b].when.outcome: is empty: name Complete, Failed or Canceled"),
            (when("a", json!(["Failed", "Failed"]), json!([])), "steps[b].when.outcome: \"Failed\" occurs twice"),
            (when("a", json!(["Canceled"]), json!(["70"])), "steps[b].when.exitCodes: only failures have exit codes"),
            (when("a", json!(["Failed"]), json!(["70-x"])), "steps[b].when.exitCodes: \"70-x\" is no exit code"),
        ] {
            starts(&refused(second), &[start]);
        }
        starts(&refused(json!({"recovers": true})), &["steps[b].recovers: there is no failure it could make up for"]);
        for (second, start) in [
            (
                json!({"when": {"step": "a", "steps": ["a"], "outcome": ["Failed"]}}),
                "steps[b].when: has `step` and `steps`: write all names into `steps`",
            ),
            (json!({"when": {"steps": ["a", "a"], "outcome": ["Failed"]}}), "steps[b].when.steps: \"a\" occurs twice"),
            (
                json!({"when": {"steps": ["a", "x"], "outcome": ["Failed"]}}),
                "steps[b].when.steps: there is no step \"x\": name one of a, b, c",
            ),
            (
                json!({"when": {"outcome": ["Failed"]}, "recovers": true}),
                "steps[b].recovers: it answers to any step, and cannot make up for all of them",
            ),
        ] {
            starts(&refused(second), &[start]);
        }
        let alone = definition(&[("a", json!({"when": {"outcome": ["Failed"]}}))], Value::Null);
        starts(&alone.expect_err("nothing to answer to"), &["steps[a].when: names no step, and there is none"]);
        let mut complete = when("a", json!(["Complete"]), json!([]));
        complete["recovers"] = json!(true);
        starts(&refused(complete), &["steps[b].recovers: there is no failure"]);
    }

    #[test]
    fn an_input_of_a_step_is_an_output_it_waits_for() {
        let read = |input: Value, depends_on: Value| {
            let outputs = json!({
                "inputs": [{"name": "archive"}],
                "outputs": [{"name": "list", "step": "a", "path": "l"}, {"name": "side", "step": "side", "path": "s"}],
            });
            definition(
                &[
                    ("a", Value::Null),
                    ("b", Value::Null),
                    ("side", json!({"dependsOn": []})),
                    ("c", json!({"dependsOn": depends_on, "inputs": input})),
                ],
                outputs,
            )
        };
        let read_steps = read(json!([{"name": "in", "output": "list"}]), json!(["b"])).expect("valid").steps;
        assert_eq!((read_steps[3].inputs[0].name.as_str(), read_steps[3].inputs[0].output.as_str()), ("in", "list"));
        for (input, start) in [
            (json!([{"name": "in", "output": "none"}]), "steps[c].inputs[in].output: there is no output \"none\""),
            (
                json!([{"name": "in", "output": "side"}]),
                "steps[c].inputs[in].output: \"side\" is written by step side, which c does not wait for",
            ),
            (
                json!([{"name": "archive", "output": "list"}]),
                "steps[c].inputs[archive]: the definition's `inputs` have one",
            ),
            (
                json!([{"name": "i", "output": "list"}, {"name": "i", "output": "list"}]),
                "steps[c].inputs: \"i\" occurs twice",
            ),
        ] {
            starts(&read(input, json!(["b"])).expect_err("a violation"), &[start]);
        }
    }

    #[test]
    fn retry_is_read_with_its_documented_values() {
        assert_eq!(valid(&[("a", Value::Null)])[0].retry, Policy::default());
        let retry = json!({"limit": 2, "backoff": {"max": "5s"}, "rules": [
            {"exitCodes": ["64-78"], "action": "Fail"}, {"reasons": ["Disruption"], "action": "Ignore"},
        ]});
        let read = valid(&[("a", json!({"retry": retry, "startTimeout": "5m"}))]).remove(0);
        assert_eq!((read.start_timeout.as_secs(), read.retry.limit), (300, 2));
        let seconds = Duration::from_secs(5);
        assert_eq!(read.retry.backoff, Backoff { initial: seconds, factor: 2, max: seconds });
        let codes = Codes::parse(&["64-78".to_owned()]).expect("codes");
        assert_eq!(
            read.retry.rules,
            [
                Rule { codes, reasons: vec![], action: RetryAction::Fail },
                Rule { codes: Codes::default(), reasons: vec![FailureKind::Disruption], action: RetryAction::Ignore },
            ]
        );
    }

    #[test]
    fn a_retry_that_cannot_be_meant_so_is_refused() {
        let rules = |rules: Value| json!({"retry": {"rules": rules}});
        for (second, start) in [
            (json!({"startTimeout": "soon"}), "steps[b].startTimeout: \"soon\" is not a duration"),
            (json!({"retry": {"limit": -1}}), "steps[b].retry.limit: -1 is too small"),
            (json!({"retry": {"backoff": {"factor": 0}}}), "steps[b].retry.backoff.factor: 0 is too small"),
            (
                json!({"retry": {"backoff": {"initial": "1h"}}}),
                "steps[b].retry.backoff: initial is longer than max (300s)",
            ),
            (rules(json!([{"action": "Ignore"}])), "steps[b].retry.rules[0]: names neither exitCodes nor reasons"),
            (
                rules(json!([{"exitCodes": ["0"], "action": "Fail"}])),
                "steps[b].retry.rules[0].exitCodes: \"0\" is no exit code",
            ),
            (
                rules(
                    json!([{"exitCodes": ["1-9"], "action": "Fail"}, {"exitCodes": ["2", "5-6"], "action": "Retry"}]),
                ),
                "steps[b].retry.rules[1]: never matches, rules[0] matches it all",
            ),
            (
                rules(
                    json!([{"reasons": ["Lost"], "action": "Fail"}, {"reasons": ["Lost"], "exitCodes": ["1"], "action": "Retry"}]),
                ),
                "steps[b].retry.rules[1]: never matches",
            ),
        ] {
            starts(&refused(second), &[start]);
        }
    }

    proptest! {
        #[test]
        fn a_graph_is_taken_if_and_only_if_it_has_no_circle(edges in proptest::collection::vec((0..8usize, 0..8usize), 0..16)) {
            let names: Vec<String> = (0..8).map(|index| format!("s{index}")).collect();
            let of = |step: usize| {
                let mut on: Vec<&str> = edges.iter().filter(|(from, to)| *from == step && to != from).map(|(_, to)| names[*to].as_str()).collect();
                on.sort_unstable();
                on.dedup();
                json!({"dependsOn": on})
            };
            let steps: Vec<(&str, Value)> = (0..8).map(|step| (names[step].as_str(), of(step))).collect();
            // Reachability by brute force: whoever comes back to itself is in a circle.
            let mut reach = [[false; 8]; 8];
            edges.iter().filter(|(from, to)| from != to).for_each(|(from, to)| reach[*from][*to] = true);
            for (via, from, to) in (0..8).flat_map(|via| (0..8).flat_map(move |from| (0..8).map(move |to| (via, from, to)))) {
                reach[from][to] |= reach[from][via] && reach[via][to];
            }
            let circular = (0..8).any(|step| reach[step][step]);
            match definition(&steps, Value::Null) {
                Err(found) => prop_assert!(circular && found.len() == 1 && found[0].contains("wait for each other"), "{found:?}"),
                Ok(read) => {
                    prop_assert!(!circular);
                    for (step, read) in read.steps.iter().enumerate() {
                        prop_assert!(read.needs.iter().all(|need| reach[step][*need] && !reach[*need][step]));
                    }
                }
            }
        }
    }
}
