//! The steps of a definition: what each says of itself and of the others.

use std::time::Duration;

use super::definition::{Findings, ValidatedStep};
use super::flow::When;
use super::graph::{Graph, find};
use super::retry::{Backoff, Codes, Policy, Rule};
use super::template;
use crate::api::TaskDefinitionSpec;
use crate::api::definition::{BackoffSpec, Outcome, RetryRule, RetrySpec, StepInputSpec, StepSpec, WhenSpec};
use crate::api::quantity;

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
    count(steps, findings);
    let graph = Graph::of(steps);
    let read = (0..steps.len()).filter_map(|index| validate_step(spec, &graph, index, findings)).collect();
    circles(steps, &graph, findings);
    read
}

fn count(steps: &[StepSpec], findings: &mut Findings) {
    if steps.is_empty() || steps.len() > MAX_STEPS {
        let sentence = format!("steps: has {} entries: declare at least one and at most {MAX_STEPS}", steps.len());
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
    depends_on(&spec.steps, step, &field, findings);
    let when = step.when.as_ref().and_then(|when| read_when(when, graph.when(index), step, spec, findings));
    recovers(step, &field, findings);
    inputs(spec, graph, index, &field, findings);
    let timeout = findings.duration(format!("{field}.timeout"), step.timeout.as_deref(), TIMEOUT);
    let start = findings.duration(format!("{field}.startTimeout"), step.start_timeout.as_deref(), START_TIMEOUT);
    let retry = step.retry.as_ref().map_or(Some(Policy::default()), |retry| read_retry(retry, &field, findings));
    let workspace = step.workspace.as_ref().map(|workspace| workspace.size.clone());
    if let Some(size) = &workspace {
        findings.take(format!("{field}.workspace.size"), quantity::bytes(size));
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
        timeout: timeout?,
        start_timeout: start?,
        retry: retry?,
        workspace,
        template: template?,
    })
}

/// Notes a name that is the step's own or no step's; true when it is another step's.
fn is_other(field: &str, name: &str, step: &StepSpec, steps: &[StepSpec], findings: &mut Findings) -> bool {
    if name == step.name {
        findings.plan(format!("{field}: {name:?} is the step itself: name another one"));
    } else if find(steps, name).is_none() {
        let known: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        findings.plan(format!("{field}: there is no step {name:?}: name one of {}", known.join(", ")));
    } else {
        return true;
    }
    false
}

fn depends_on(steps: &[StepSpec], step: &StepSpec, field: &str, findings: &mut Findings) {
    let field = format!("{field}.dependsOn");
    let names = step.depends_on.as_deref().unwrap_or_default();
    findings.unique(&field, names.iter().map(String::as_str));
    for name in names {
        is_other(&field, name, step, steps, findings);
    }
}

fn read_when(
    when: &WhenSpec,
    named: Option<usize>,
    step: &StepSpec,
    spec: &TaskDefinitionSpec,
    findings: &mut Findings,
) -> Option<When> {
    let field = format!("steps[{}].when", step.name);
    let other = is_other(&format!("{field}.step"), &when.step, step, &spec.steps, findings);
    if when.outcome.is_empty() {
        findings.plan(format!("{field}.outcome: is empty: name Complete, Failed or Canceled"));
    }
    findings.unique(format!("{field}.outcome"), when.outcome.iter().map(|outcome| outcome.as_str()));
    if !when.exit_codes.is_empty() && !when.outcome.contains(&Outcome::Failed) {
        let hint = "add Failed to `outcome` or leave the codes out";
        findings.plan(format!("{field}.exitCodes: only failures have exit codes: {hint}"));
    }
    let codes = findings.take(format!("{field}.exitCodes"), Codes::parse(&when.exit_codes));
    Some(When { step: named.filter(|_| other)?, outcomes: when.outcome.clone(), codes: codes? })
}

fn recovers(step: &StepSpec, field: &str, findings: &mut Findings) {
    let answers = step.when.as_ref().is_some_and(|when| when.outcome.contains(&Outcome::Failed));
    if step.recovers == Some(true) && !answers {
        let hint = "add `when` with outcome Failed, or leave `recovers` out";
        findings.plan(format!("{field}.recovers: there is no failure it could make up for: {hint}"));
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
    Some(Policy { limit: limit?, backoff: backoff?, rules })
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
