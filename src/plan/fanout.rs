//! Steps that run as many pods: what an author declares, and the operator's own steps around them.
//!
//! ```text
//! split-send ─► send ─► assemble-send        `send` fans out over an input and appends to one file
//! ```
//! A step that fans out over an input has a built-in step before it that cuts the input into items; one with appended
//! outputs has one behind it that puts them together. Both are steps like any other: a Job, attempts, a sealed result.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::built_in;
use super::definition::ValidatedStep;
use super::findings::Findings;
use super::flow::When;
use super::graph::{Graph, find};
use super::retry::Policy;
use asynctask_api::TaskDefinitionSpec;
use asynctask_api::definition::{FailureKind, FanOutSpec, ItemsFrom, OutputSpec, RetryAction, StepSpec};
use asynctask_contract::media_type::is_lines;

/// Most shards of a step.
pub const MAX_SHARDS: u32 = 100_000;
/// Most items of a step.
pub const MAX_ITEMS: u64 = 50_000_000;
/// Longest item: its line in bytes, without the line's end.
pub const MAX_LINE: u64 = 1 << 20;
/// Items per shard where the definition does not say.
pub const ITEMS_PER_SHARD: i32 = 100;
/// Pods at a time where the definition does not say.
const PARALLELISM: i32 = 10;
/// Longest name of a step that has built-in ones beside it: `assemble-` and it are a name, too.
const NAME_MAX: usize = 21;
/// Longest time of a built-in step.
const TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// The work of a step in shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanOut {
    /// Where the shards come from.
    pub source: Source,
    /// Most pods at a time.
    pub parallelism: u32,
    /// How many shards may fail.
    pub shards: Tolerance,
    /// How many items may fail.
    pub items: Tolerance,
}

/// Where shards come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The items of an earlier step, by its index.
    Items {
        /// The step.
        step: usize,
    },
    /// A number.
    Fixed(u32),
    /// A parameter of the run.
    Parameter(String),
}

/// How many may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// So many.
    Count(u64),
    /// So many of a hundred, rounded down.
    Percent(u8),
    /// Any number.
    Any,
}

impl Tolerance {
    /// Of so many in all.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count.min(total),
            // Divided first, so that no number is too large; the rest is rounded down as the whole would be.
            Self::Percent(percent) => {
                let percent = u64::from(percent);
                total / 100 * percent + total % 100 * percent / 100
            }
            Self::Any => total,
        }
    }

    fn read(value: Option<&IntOrString>, unsaid: Self) -> Result<Self, String> {
        match value {
            None => Ok(unsaid),
            Some(IntOrString::Int(count)) => {
                let count = u64::try_from(*count);
                count.map(Self::Count).map_err(|_| "is below 0: write a number or a part such as \"5%\"".to_owned())
            }
            Some(IntOrString::String(text)) => {
                let percent = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
                let percent = percent.filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or_else(|| {
                    format!("{text:?} is neither a number nor a part from \"0%\" to \"100%\", in whole percents")
                })
            }
        }
    }
}

/// The operator's own work, as a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Cuts an input into items.
    Split {
        /// The input.
        input: String,
    },
    /// Puts the appended outputs of a step together.
    Assemble {
        /// Index of that step.
        of: usize,
    },
}

/// Name of the step that cuts the input of another one.
#[must_use]
pub fn split_name(step: &str) -> String {
    format!("split-{step}")
}

/// Name of the step that puts the outputs of another one together.
#[must_use]
pub fn assemble_name(step: &str) -> String {
    format!("assemble-{step}")
}

/// Whether the files of all shards become one.
#[must_use]
pub fn is_appended(output: &OutputSpec, fans_out: bool) -> bool {
    output.append.is_some() || (fans_out && output.failed_items == Some(true))
}

/// Reads what a step says of its shards.
pub(super) fn read(spec: &TaskDefinitionSpec, graph: &Graph, index: usize, findings: &mut Findings) -> Option<FanOut> {
    let step = &spec.steps[index];
    let declared = step.fan_out.as_ref()?;
    let field = format!("steps[{}].fanOut", step.name);
    if step.emits_items == Some(true) {
        findings.plan(format!("{field}: a step that fans out cannot emit items itself: let an earlier step do that"));
    }
    retries(step, findings);
    let source = source(spec, graph, index, declared, &field, findings);
    let parallelism = declared.parallelism.unwrap_or(PARALLELISM);
    let parallelism = findings.count(format!("{field}.parallelism"), parallelism, 1);
    let tolerate = declared.tolerate.clone().unwrap_or_default();
    let shards = Tolerance::read(tolerate.failed_shards.as_ref(), Tolerance::Count(0));
    let shards = findings.take(format!("{field}.tolerate.failedShards"), shards);
    let items = Tolerance::read(tolerate.failed_items.as_ref(), Tolerance::Any);
    let items = findings.take(format!("{field}.tolerate.failedItems"), items);
    Some(FanOut { source: source?, parallelism: parallelism?, shards: shards?, items: items? })
}

fn source(
    spec: &TaskDefinitionSpec,
    graph: &Graph,
    index: usize,
    declared: &FanOutSpec,
    field: &str,
    findings: &mut Findings,
) -> Option<Source> {
    if declared.items_per_shard.is_some() && declared.items_from.is_none() {
        findings.plan(format!("{field}.itemsPerShard: says nothing without itemsFrom: leave it out"));
    }
    match (&declared.items_from, declared.shards, &declared.shards_from) {
        (Some(from), None, None) => {
            per_shard(declared, field, findings)?;
            items(spec, graph, index, from, &format!("{field}.itemsFrom"), findings)
        }
        (None, Some(shards), None) => {
            let count = u32::try_from(shards).ok().filter(|count| (1..=MAX_SHARDS).contains(count));
            let count = count.ok_or_else(|| format!("{shards} shards: from 1 to {MAX_SHARDS} are possible"));
            findings.take(format!("{field}.shards"), count).map(Source::Fixed)
        }
        (None, None, Some(from)) => {
            parameter(spec, &from.parameter, &format!("{field}.shardsFrom.parameter"), findings);
            Some(Source::Parameter(from.parameter.clone()))
        }
        _ => {
            findings
                .plan(format!("{field}: say with exactly one of itemsFrom, shards and shardsFrom what the shards are"));
            None
        }
    }
}

fn per_shard(declared: &FanOutSpec, field: &str, findings: &mut Findings) -> Option<u32> {
    findings.count(format!("{field}.itemsPerShard"), declared.items_per_shard.unwrap_or(ITEMS_PER_SHARD), 1)
}

fn items(
    spec: &TaskDefinitionSpec,
    graph: &Graph,
    index: usize,
    from: &ItemsFrom,
    field: &str,
    findings: &mut Findings,
) -> Option<Source> {
    let own = &spec.steps[index].name;
    match (&from.step, &from.input) {
        (Some(name), None) => {
            let Some(planner) = find(&spec.steps, name) else {
                findings.plan(format!("{field}.step: there is no step {name:?}: name one with `emitsItems: true`"));
                return None;
            };
            if spec.steps[planner].emits_items != Some(true) {
                findings.plan(format!("{field}.step: step {name} emits no items: give it `emitsItems: true`"));
            } else if !graph.precedes(planner, index) {
                findings.plan(format!("{field}.step: {own} does not wait for step {name}: add it to dependsOn"));
            }
            Some(Source::Items { step: planner })
        }
        (None, Some(name)) => {
            match spec.inputs.iter().find(|input| input.name == *name) {
                None => findings.plan(format!("{field}.input: there is no input {name:?}: declare it in `inputs`")),
                Some(input) if !input.required => {
                    findings.plan(format!("{field}.input: a run may come without {name}: make it `required`"));
                }
                Some(_) => {}
            }
            // The step that cuts it is added later, and its index with it.
            Some(Source::Items { step: usize::MAX })
        }
        _ => {
            findings.plan(format!("{field}: name exactly one of step and input"));
            None
        }
    }
}

fn parameter(spec: &TaskDefinitionSpec, name: &str, field: &str, findings: &mut Findings) {
    let schema = spec.parameters.as_ref();
    let declared = schema.and_then(|schema| schema.get("properties")?.get(name));
    let required = schema.and_then(|schema| schema.get("required")?.as_array());
    let required = required.is_some_and(|names| names.iter().any(|other| other == name));
    match declared {
        None => findings.plan(format!("{field}: {name:?} is no parameter: declare it in `parameters.properties`")),
        Some(schema) if schema.get("type") != Some(&Value::from("integer")) => {
            findings.plan(format!("{field}: parameter {name} is no number of shards: give it `type: integer`"));
        }
        Some(_) if !required => {
            findings.plan(format!("{field}: a run may come without {name}: add it to `parameters.required`"));
        }
        Some(_) => {}
    }
}

/// The Job controller retries shards: it knows exit codes and disruptions, and has its own back-off.
fn retries(step: &StepSpec, findings: &mut Findings) {
    let Some(retry) = &step.retry else { return };
    let field = format!("steps[{}].retry", step.name);
    if retry.backoff.is_some() {
        findings.plan(format!(
            "{field}.backoff: shards of a fan-out have the back-off of the Job controller: leave it out"
        ));
    }
    for (index, rule) in retry.rules.iter().enumerate() {
        let field = format!("{field}.rules[{index}]");
        if rule.action == RetryAction::Ignore && !rule.exit_codes.is_empty() {
            findings.plan(format!(
                "{field}.action: Ignore on exit codes would repeat a shard of a fan-out without end: write Retry or Fail"
            ));
        }
        if rule.reasons.iter().any(|reason| *reason != FailureKind::Disruption) {
            let hint = "only exitCodes, or the reason Disruption, can be told apart for the shards of a fan-out";
            findings.plan(format!("{field}.reasons: {hint}"));
        }
        if !rule.reasons.is_empty() && !rule.exit_codes.is_empty() {
            findings.plan(format!("{field}: in a fan-out a rule names either exitCodes or reasons"));
        }
    }
}

/// What only all steps together show: who takes the items of whom, and whether the outputs can be as declared.
pub(super) fn check(spec: &TaskDefinitionSpec, graph: &Graph, findings: &mut Findings) {
    for step in spec.steps.iter().filter(|step| step.emits_items == Some(true)) {
        let takers = takers(spec, &step.name);
        if takers.is_empty() {
            findings.plan(format!(
                "steps[{}].emitsItems: no step fans out over its items: name it in a fanOut.itemsFrom",
                step.name
            ));
        }
        let sizes = takers.iter().map(|taker| taker.items_per_shard.unwrap_or(ITEMS_PER_SHARD));
        if sizes.collect::<std::collections::BTreeSet<_>>().len() > 1 {
            findings.plan(format!(
                "steps[{}].emitsItems: steps take its items in shards of different sizes: give them the same itemsPerShard",
                step.name
            ));
        }
    }
    spec.outputs.iter().for_each(|output| self::output(spec, graph, output, findings));
    for step in spec.steps.iter().filter(|step| step.fan_out.is_some()) {
        guarded(spec, step, findings);
        names(spec, step, findings);
    }
}

fn takers<'a>(spec: &'a TaskDefinitionSpec, planner: &str) -> Vec<&'a FanOutSpec> {
    let fans = spec.steps.iter().filter_map(|step| step.fan_out.as_ref());
    fans.filter(|fan| fan.items_from.as_ref().and_then(|from| from.step.as_deref()) == Some(planner)).collect()
}

fn output(spec: &TaskDefinitionSpec, graph: &Graph, output: &OutputSpec, findings: &mut Findings) {
    let field = format!("outputs[{}]", output.name);
    let Some(writer) = find(&spec.steps, &output.step) else { return };
    if output.failed_items == Some(true) && !output.path.is_empty() {
        findings.plan(format!("{field}.path: the agent writes the failed items itself: leave the path out"));
    }
    let Some(append) = &output.append else { return };
    if output.path.ends_with('/') {
        findings.plan(format!(
            "{field}.append: {:?} is a folder, and only one file of each shard is put together: name the file",
            output.path
        ));
    }
    let is_text = output.media_type.as_deref().is_none_or(is_lines);
    if append.header == Some(true) && !is_text {
        let media_type = output.media_type.as_deref().unwrap_or_default();
        findings.plan(format!("{field}.append.header: {media_type} has no lines, so no header: leave it out"));
    }
    if spec.steps[writer].fan_out.is_none() {
        findings.plan(format!("{field}.append: step {} does not fan out, so there is nothing to append", output.step));
    }
    let Some(base) = &append.base else { return };
    let field = format!("{field}.append.base");
    let written = spec.outputs.iter().any(|other| other.name == base.output && other.step == base.step);
    match find(&spec.steps, &base.step) {
        None => findings.plan(format!("{field}.step: there is no step {:?}", base.step)),
        Some(_) if !written => {
            findings.plan(format!("{field}.output: step {} has no output {:?}: declare it", base.step, base.output));
        }
        Some(earlier) if !graph.precedes(earlier, writer) => {
            let (step, writer) = (&base.step, &output.step);
            findings.plan(format!("{field}.step: {writer} does not wait for step {step}: add it to dependsOn"));
        }
        Some(_) => {}
    }
}

/// Of many pods each would enter the stage on its own.
fn guarded(spec: &TaskDefinitionSpec, step: &StepSpec, findings: &mut Findings) {
    let stage = spec.cancellation.as_ref().and_then(|cancellation| cancellation.stage.as_ref());
    if let Some(stage) = stage.filter(|stage| step.stages.contains(stage)) {
        let name = &step.name;
        findings.plan(format!(
            "cancellation.stage: {stage:?} belongs to step {name}, which fans out: name one of another step"
        ));
    }
}

fn names(spec: &TaskDefinitionSpec, step: &StepSpec, findings: &mut Findings) {
    let built_in =
        [splits(step).map(|_| split_name(&step.name)), assembles(spec, step).then(|| assemble_name(&step.name))];
    for name in built_in.into_iter().flatten() {
        if step.name.len() > NAME_MAX {
            findings.plan(format!(
                "steps[{}].name: has a built-in step {name} beside it: use at most {NAME_MAX} characters",
                step.name
            ));
        }
        if find(&spec.steps, &name).is_some() {
            findings
                .plan(format!("steps[{name}].name: is the name of the built-in step of {}: choose another", step.name));
        }
    }
}

fn splits(step: &StepSpec) -> Option<&String> {
    step.fan_out.as_ref()?.items_from.as_ref()?.input.as_ref()
}

fn assembles(spec: &TaskDefinitionSpec, step: &StepSpec) -> bool {
    let fans_out = step.fan_out.is_some();
    fans_out && spec.outputs.iter().any(|output| output.step == step.name && is_appended(output, true))
}

/// How many built-in steps a definition has.
pub(super) fn built_ins(spec: &TaskDefinitionSpec) -> usize {
    spec.steps.iter().map(|step| usize::from(splits(step).is_some()) + usize::from(assembles(spec, step))).sum()
}

/// Items per shard that a planner cuts, when somebody takes them.
pub(super) fn emits(spec: &TaskDefinitionSpec, step: &StepSpec) -> Option<u32> {
    (step.emits_items == Some(true)).then_some(())?;
    let taker = takers(spec, &step.name).into_iter().next()?;
    u32::try_from(taker.items_per_shard.unwrap_or(ITEMS_PER_SHARD)).ok()
}

/// The steps with the built-in ones among them, each before or behind its own; all indexes are new.
pub(super) fn with_built_ins(spec: &TaskDefinitionSpec, steps: Vec<ValidatedStep>) -> Vec<ValidatedStep> {
    let mut places = Vec::with_capacity(steps.len());
    let mut next = 0;
    for step in &spec.steps {
        next += usize::from(splits(step).is_some());
        places.push(next);
        next += 1 + usize::from(assembles(spec, step));
    }
    let mut all = Vec::with_capacity(next);
    for ((declared, mut step), place) in spec.steps.iter().zip(steps).zip(places.iter().copied()) {
        renumber(&mut step, &places);
        behind_assembling(spec, &places, &mut step);
        if let Some(input) = splits(declared) {
            let emits = declared.fan_out.as_ref().and_then(|fan| fan.items_per_shard).unwrap_or(ITEMS_PER_SHARD);
            let split = ValidatedStep {
                name: split_name(&step.name),
                title: format!("Reading {input}"),
                emits: u32::try_from(emits).ok(),
                built_in: Some(BuiltIn::Split { input: input.clone() }),
                ..beside(&step)
            };
            let index = all.len();
            step.needs.push(index);
            if let Some(fan_out) = &mut step.fan_out {
                fan_out.source = Source::Items { step: index };
            }
            all.push(split);
        }
        let assemble = assembles(spec, declared).then(|| ValidatedStep {
            name: assemble_name(&step.name),
            title: format!("Putting the files of {} together", step.name),
            needs: vec![place],
            built_in: Some(BuiltIn::Assemble { of: place }),
            ..beside(&step)
        });
        all.push(step);
        all.extend(assemble);
    }
    all
}

fn renumber(step: &mut ValidatedStep, places: &[usize]) {
    for need in &mut step.needs {
        *need = places[*need];
    }
    if let Some(when) = &mut step.when {
        when.steps.iter_mut().for_each(|step| *step = places[*step]);
    }
    if let Some(FanOut { source: Source::Items { step }, .. }) = &mut step.fan_out
        && *step != usize::MAX
    {
        *step = places[*step];
    }
}

/// Whoever waits for a step waits for its outputs, too. Who answers to its failure does not, but whoever answers to any
/// step answers to the built-in ones as well.
fn behind_assembling(spec: &TaskDefinitionSpec, places: &[usize], step: &mut ValidatedStep) {
    let declared = || spec.steps.iter().zip(places.iter().copied());
    let assembled = declared().filter(|(other, _)| assembles(spec, other)).map(|(_, place)| place);
    let answers_to = step.when.as_ref().and_then(When::named).unwrap_or_default();
    let waits = |place: &usize| step.needs.contains(place) && !answers_to.contains(place);
    let behind: Vec<usize> = assembled.filter(waits).map(|place| place + 1).collect();
    let split = declared().filter(|(other, _)| splits(other).is_some()).map(|(_, place)| place);
    if let Some(when) = step.when.as_mut().filter(|when| when.any) {
        let before: Vec<usize> = split.filter(|place| when.steps.contains(place)).map(|place| place - 1).collect();
        when.steps.extend(behind.iter().chain(&before));
        when.steps.sort_unstable();
    }
    step.needs.extend(behind);
    step.needs.sort_unstable();
}

/// What a built-in step has from the step it works for: when it occurs, and before what.
fn beside(step: &ValidatedStep) -> ValidatedStep {
    ValidatedStep {
        stages: Vec::new(),
        recovers: false,
        inputs: Vec::new(),
        timeout: TIMEOUT,
        retry: Policy { limit: 3, ..Policy::default() },
        fan_out: None,
        emits: None,
        template: built_in::placement(&step.template),
        ..step.clone()
    }
}
