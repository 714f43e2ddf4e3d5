//! From what an author wrote to what can be run: every violation is found, each a sentence that names its field.
//!
//! What the CRD's schema bounds already (lengths, the spelling of names) is not repeated here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::cancel::Cancellation;
use super::fanout::{self, BuiltIn, FanOut, is_appended};
use super::findings::Findings;
pub use super::findings::{InvalidDefinition, Part, Violation};
use super::flow::When;
use super::retention::Retention;
use super::{job, parameters, retention, retry, steps};
use asynctask_api::TaskDefinitionSpec;
use asynctask_api::definition::{
    Allowed, CancellationSpec, ConcurrencyPolicy, InputSpec, Outcome, OutputSpec, StepInputSpec, StepSpec,
};
use asynctask_api::quantity;
use asynctask_contract::env::{ITEMS_OUTPUT, LOG_OUTPUT};
use asynctask_contract::file_path::{PathError, validate_path};
use asynctask_contract::media_type::is_media_type;

/// Largest definition, in bytes of JSON.
const MAX_BYTES: usize = 256 * 1024;
/// Largest input where the definition names no limit: 5 GiB.
const MAX_INPUT: u64 = 5 << 30;
/// Revisions kept although nothing runs on them, where the definition does not say.
const REVISIONS_KEPT: i32 = 5;
/// How long finished pods are kept where the definition does not say.
const PODS_KEPT: Duration = Duration::from_secs(600);

/// A definition that can be run. Made by [`validate`] only.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedDefinition {
    /// JSON Schema of the parameters; absent: none are taken.
    pub parameters: Option<Value>,
    /// Files a run needs or takes.
    pub inputs: Vec<ValidatedInput>,
    /// Steps in the order they run.
    pub steps: Vec<ValidatedStep>,
    /// Declared outputs, in their order.
    pub outputs: Vec<OutputSpec>,
    /// Most bytes of an output in one attempt, where one is declared.
    pub max_sizes: BTreeMap<String, u64>,
    /// Most bytes of all outputs of a run; `None`: as many as the operator allows.
    pub max_output_size: Option<u64>,
    /// Store by name; absent: the default.
    pub store: Option<String>,
    /// Longest time of a whole run.
    pub deadline: Option<Duration>,
    /// Longest time a run waits for its start.
    pub queue_timeout: Option<Duration>,
    /// When a run can be cancelled.
    pub cancellation: Cancellation,
    /// How many runs may be in progress at a time.
    pub concurrency: Concurrency,
    /// PriorityClasses a run may choose from.
    pub priority_classes: Vec<String>,
    /// Labels of an AsyncTask that go on to its Jobs and pods.
    pub labels_from_task: Vec<String>,
    /// Revisions kept although nothing runs on them.
    pub revisions_kept: usize,
    /// How long a finished Job and its pods are kept.
    pub pods_kept: Duration,
    /// Who may see the outputs, and how long they and the AsyncTask are kept.
    pub retention: Retention,
}

/// How many runs may be in progress at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concurrency {
    /// Parameters whose values make the key; empty: there is none.
    pub key: Vec<String>,
    /// What becomes of a run whose key is taken.
    pub policy: ConcurrencyPolicy,
    /// Most runs of the definition at a time.
    pub max_running: Option<u32>,
}

/// A file a run needs or takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedInput {
    /// Name.
    pub name: String,
    /// Whether a run without it is refused.
    pub required: bool,
    /// Accepted media types; empty: any.
    pub media_types: Vec<String>,
    /// Largest file, in bytes.
    pub max_size: u64,
    /// Whether an upload serves one run only.
    pub once: bool,
}

/// A step that can become a Job.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedStep {
    /// Name.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Stages in order.
    pub stages: Vec<String>,
    /// Indexes of the steps it waits for.
    pub needs: Vec<usize>,
    /// It occurs only when this is so.
    pub when: Option<When>,
    /// Its success makes up for the failure it answers to.
    pub recovers: bool,
    /// Outputs of earlier steps that it takes.
    pub inputs: Vec<StepInputSpec>,
    /// Which of the run's inputs it gets; `None`: all.
    pub run_inputs: Option<Vec<String>>,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Longest time until its program starts.
    pub start_timeout: Duration,
    /// What follows a failed attempt.
    pub retry: retry::Policy,
    /// Limit of the work folder, as a Kubernetes quantity.
    pub workspace: Option<String>,
    /// It emits items, so many per shard.
    pub emits: Option<u32>,
    /// It runs a pod for each shard.
    pub fan_out: Option<FanOut>,
    /// It is the operator's own work, and there is no template.
    pub built_in: Option<BuiltIn>,
    /// The author's pod template: shape checked, one container `task`, nothing of ours in the way.
    pub(super) template: Value,
}

impl ValidatedDefinition {
    /// The outputs whose files a step writes: its own, or those that it puts together.
    pub fn outputs_of<'a>(&'a self, step: &'a ValidatedStep) -> impl Iterator<Item = &'a OutputSpec> {
        let writer = match &step.built_in {
            Some(BuiltIn::Assemble { of }) => &self.steps[*of].name,
            Some(BuiltIn::Split { .. }) | None => &step.name,
        };
        let assembles = matches!(step.built_in, Some(BuiltIn::Assemble { .. }));
        self.outputs.iter().filter(move |output| output.step == *writer && (!assembles || is_appended(output, true)))
    }

    /// The step that gives an output to people and later steps: the one that puts it together, where one does.
    #[must_use]
    pub fn giver(&self, output: &OutputSpec) -> Option<&ValidatedStep> {
        let writer = self.steps.iter().find(|step| step.name == output.step)?;
        let name = fanout::assemble_name(&writer.name);
        let appended = writer.fan_out.is_some() && is_appended(output, true);
        if appended { self.steps.iter().find(|step| step.name == name) } else { Some(writer) }
    }
}

/// Reads a definition.
///
/// # Errors
/// Every violation there is.
pub fn validate(spec: &TaskDefinitionSpec) -> Result<ValidatedDefinition, InvalidDefinition> {
    let mut findings = Findings::default();
    let size = serde_json::to_vec(spec).map_or(0, |json| json.len());
    if size > MAX_BYTES {
        findings.plan(format!("spec: has {size} bytes, at most {MAX_BYTES} are taken"));
    }
    if let Some(Err(error)) = spec.parameters.as_ref().map(parameters::check_schema) {
        findings.add(Part::ParametersSchema, format!("parameters: not a usable JSON Schema 2020-12: {error}"));
    }
    let inputs = inputs(&spec.inputs, &mut findings);
    let steps = steps::validate(spec, &mut findings);
    outputs(spec, &mut findings);
    let limits = limits(spec, &mut findings);
    match limits {
        Some(limits) if findings.len() == 0 => Ok(assemble(spec, inputs, steps, limits)),
        _ => Err(findings.invalid()),
    }
}

/// What bounds a run as a whole.
struct Limits {
    deadline: Option<Duration>,
    queue_timeout: Option<Duration>,
    concurrency: Concurrency,
    revisions_kept: usize,
    pods_kept: Duration,
    retention: Retention,
    max_sizes: BTreeMap<String, u64>,
    max_output_size: Option<u64>,
}

fn limits(spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Limits> {
    let deadline = findings.maybe_duration("deadline", spec.deadline.as_deref());
    let queue_timeout = findings.maybe_duration("queueTimeout", spec.queue_timeout.as_deref());
    if let Some(declared) = &spec.cancellation {
        cancellation(declared, &spec.steps, findings);
    }
    let concurrency = concurrency(spec, findings);
    findings.unique("priorityClasses", spec.priority_classes.iter().map(String::as_str));
    findings.unique("labelsFromTask", spec.labels_from_task.iter().map(String::as_str));
    for label in spec.labels_from_task.iter().filter(|label| !job::can_be_handed_on(label)) {
        findings.plan(format!("labelsFromTask: {label:?} is not a task's to set: it is the operator's, the Job controller's or a deployment tool's"));
    }
    let revisions = spec.revision_history_limit.unwrap_or(REVISIONS_KEPT);
    let revisions_kept = findings.count("revisionHistoryLimit", revisions, 1);
    let pods = spec.retention.as_ref().and_then(|retention| retention.pods.as_deref());
    let pods_kept = findings.duration("retention.pods", pods, PODS_KEPT);
    let retention = retention::validate(spec, findings);
    let max_sizes = spec.outputs.iter().filter_map(|output| {
        let field = format!("outputs[{}].maxSize", output.name);
        let most = findings.take(field, quantity::bytes(output.max_size.as_deref()?))?;
        Some((output.name.clone(), most))
    });
    let max_sizes = max_sizes.collect();
    let max_output_size = spec.max_output_size.as_deref();
    let max_output_size = max_output_size.and_then(|text| findings.take("maxOutputSize", quantity::bytes(text)));
    Some(Limits {
        max_sizes,
        max_output_size,
        retention: retention?,
        deadline: deadline?,
        queue_timeout: queue_timeout?,
        concurrency: concurrency?,
        revisions_kept: usize::try_from(revisions_kept?).unwrap_or(usize::MAX),
        pods_kept: pods_kept?,
    })
}

fn assemble(
    spec: &TaskDefinitionSpec,
    inputs: Vec<ValidatedInput>,
    steps: Vec<ValidatedStep>,
    limits: Limits,
) -> ValidatedDefinition {
    ValidatedDefinition {
        parameters: spec.parameters.clone(),
        inputs,
        steps,
        outputs: spec.outputs.clone(),
        max_sizes: limits.max_sizes,
        max_output_size: limits.max_output_size,
        store: spec.store.clone(),
        deadline: limits.deadline,
        queue_timeout: limits.queue_timeout,
        cancellation: Cancellation::of(spec.cancellation.as_ref(), &spec.steps),
        concurrency: limits.concurrency,
        priority_classes: spec.priority_classes.clone(),
        labels_from_task: spec.labels_from_task.clone(),
        revisions_kept: limits.revisions_kept,
        pods_kept: limits.pods_kept,
        retention: limits.retention,
    }
}

fn inputs(specs: &[InputSpec], findings: &mut Findings) -> Vec<ValidatedInput> {
    findings.unique("inputs", specs.iter().map(|input| input.name.as_str()));
    let read = |input: &InputSpec| {
        let field = format!("inputs[{}].maxSize", input.name);
        let max_size =
            input.max_size.as_deref().map_or(Some(MAX_INPUT), |text| findings.take(field, quantity::bytes(text)));
        Some(ValidatedInput {
            name: input.name.clone(),
            required: input.required,
            media_types: input.media_types.clone(),
            max_size: max_size?,
            once: input.once == Some(true),
        })
    };
    specs.iter().filter_map(read).collect()
}

/// What cannot be read off the words alone: `Cancellation::of` takes them as they are.
fn cancellation(spec: &CancellationSpec, steps: &[StepSpec], findings: &mut Findings) {
    let field = "cancellation.stage";
    match (spec.allowed, &spec.stage) {
        (Allowed::UntilStage, None) => {
            findings.plan(format!("{field}: is missing: name the stage from which on the run is not interrupted"));
        }
        (Allowed::UntilStage, Some(stage)) => guarded_stage(stage, field, steps, findings),
        (Allowed::Always | Allowed::Never, Some(_)) => {
            findings.plan(format!("{field}: says nothing without `allowed: UntilStage`: set that or leave it out"));
        }
        (Allowed::Always | Allowed::Never, None) => {}
    }
}

fn guarded_stage(stage: &str, field: &str, steps: &[StepSpec], findings: &mut Findings) {
    let known = || steps.iter().flat_map(|step| step.stages.iter().map(String::as_str));
    match known().filter(|other| *other == stage).count() {
        0 => {
            let known: Vec<&str> = known().collect();
            let hint = if known.is_empty() {
                "no step declares `stages`".to_owned()
            } else {
                format!("name one of {}", known.join(", "))
            };
            findings.plan(format!("{field}: unknown stage {stage:?}: {hint}"));
        }
        1 => {
            let cleans = |step: &&StepSpec| {
                let when = step.when.as_ref();
                when.is_some_and(|when| when.outcome.contains(&Outcome::Canceled))
                    && step.stages.iter().any(|s| s == stage)
            };
            if let Some(step) = steps.iter().find(cleans) {
                let name = &step.name;
                findings.plan(format!(
                    "{field}: {stage:?} belongs to step {name}, which cleans up after a cancelled run, where the stage can \
                     never be entered: name one of another step"
                ));
            }
        }
        _ => findings
            .plan(format!("{field}: {stage:?} is a stage of several steps: give the one that is meant its own name")),
    }
}

fn concurrency(spec: &TaskDefinitionSpec, findings: &mut Findings) -> Option<Concurrency> {
    let Some(limits) = &spec.concurrency else { return Some(Concurrency::default()) };
    findings.unique("concurrency.key", limits.key.iter().map(String::as_str));
    for name in &limits.key {
        let schema = spec.parameters.as_ref();
        let declared = schema.and_then(|schema| schema.get("properties")?.get(name)).is_some();
        let required = schema.and_then(|schema| schema.get("required")?.as_array());
        let required = required.is_some_and(|names| names.iter().any(|other| other == name.as_str()));
        if !declared {
            findings.plan(format!("concurrency.key: {name:?} is no parameter: declare it in `parameters.properties`"));
        } else if !required {
            let why = "runs without it would not share a key";
            findings
                .plan(format!("concurrency.key: {name:?} may be left out, and {why}: add it to `parameters.required`"));
        }
    }
    let max_running = limits.max_running.map(|most| findings.count("concurrency.maxRunning", most, 1));
    let max_running = max_running.map_or(Some(None), |most| most.map(Some))?;
    Some(Concurrency { key: limits.key.clone(), policy: limits.policy.unwrap_or_default(), max_running })
}

fn outputs(spec: &TaskDefinitionSpec, findings: &mut Findings) {
    findings.unique("outputs", spec.outputs.iter().map(|output| output.name.as_str()));
    for output in &spec.outputs {
        let field = format!("outputs[{}]", output.name);
        if output.name == LOG_OUTPUT {
            let sentence = format!("{field}: the name is taken by the log that every step has: choose another");
            findings.plan(sentence);
        }
        if !spec.steps.iter().any(|step| step.name == output.step) {
            let known: Vec<&str> = spec.steps.iter().map(|step| step.name.as_str()).collect();
            let known = known.join(", ");
            findings.plan(format!("{field}.step: there is no step {:?}: name one of {known}", output.step));
        }
        if let Some(media_type) = output.media_type.as_deref().filter(|text| !is_media_type(text)) {
            let like = "write it like text/csv, at most 127 characters";
            findings.plan(format!("{field}.mediaType: {media_type:?} is not a media type: {like}"));
        }
        let emits = |step: &&StepSpec| step.name == output.step && step.emits_items == Some(true);
        if output.name == ITEMS_OUTPUT && spec.steps.iter().any(|step| emits(&step)) {
            findings.plan(format!("{field}: the name is taken by the items that the step emits: choose another"));
        }
        if output.failed_items == Some(true) {
            continue;
        }
        if let Some(why) = unusable_path(&output.path) {
            findings.plan(format!("{field}.path: {:?} {why}", output.path));
        }
    }
}

/// Why a path cannot be the place of an output below `$ASYNCTASK_OUTPUTS`.
fn unusable_path(path: &str) -> Option<String> {
    // A folder may be written with a slash at its end.
    match validate_path(path.strip_suffix('/').unwrap_or(path)) {
        Ok(()) => None,
        Err(PathError::Empty) => Some("is empty: name a file or folder below $ASYNCTASK_OUTPUTS".to_owned()),
        Err(why) => Some(format!("cannot be stored: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{Concurrency, InvalidDefinition, Part, ValidatedDefinition, validate};
    use asynctask_api::TaskDefinitionSpec;
    use asynctask_api::definition::ConcurrencyPolicy;

    fn definition(change: impl FnOnce(&mut Value)) -> Result<ValidatedDefinition, InvalidDefinition> {
        let mut spec = json!({
            "title": "Report",
            "steps": [{"name": "report", "template": {"spec": {"containers": [
                {"name": "task", "image": "a:1", "command": ["/run"]},
            ]}}}],
        });
        change(&mut spec);
        validate(&serde_json::from_value::<TaskDefinitionSpec>(spec).expect("decodes"))
    }

    fn sentences(change: impl FnOnce(&mut Value)) -> Vec<(Part, String)> {
        let error = definition(change).expect_err("a violation");
        error.violations.into_iter().map(|violation| (violation.part, violation.sentence)).collect()
    }

    fn all_start(found: &[(Part, String)], starts: &[&str]) {
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for ((_, sentence), start) in found.iter().zip(starts) {
            assert!(sentence.starts_with(start), "{sentence:?} should start with {start:?}");
        }
    }

    #[test]
    fn what_is_left_out_gets_its_documented_value() {
        let read = definition(|spec| spec["inputs"] = json!([{"name": "archive"}])).expect("valid");
        assert_eq!((read.pods_kept.as_secs(), read.steps[0].timeout.as_secs()), (600, 3600));
        assert_eq!((read.inputs[0].max_size, read.inputs[0].required), (5 << 30, false));
        assert_eq!(read.steps[0].title, "report");
    }

    #[test]
    fn the_examples_are_valid() {
        for yaml in [
            include_str!("../../manifests/examples/hello-report/definition.yaml"),
            include_str!("../../manifests/examples/course-outline/definition.yaml"),
        ] {
            let object: Value = serde_yaml_ng::from_str(yaml).expect("YAML");
            let spec: TaskDefinitionSpec = serde_json::from_value(object["spec"].clone()).expect("decodes");
            validate(&spec).expect("valid");
        }
    }

    #[test]
    fn every_violation_is_found_at_once() {
        let found = sentences(|spec| {
            spec["parameters"] = json!({"type": "nothing"});
            spec["inputs"] = json!([{"name": "a", "maxSize": "much"}, {"name": "a"}]);
            spec["maxOutputSize"] = json!("more");
            spec["steps"][0]["timeout"] = json!("soon");
            spec["steps"][0]["workspace"] = json!({"size": "-1"});
            spec["steps"][0]["stages"] = json!(["A", "A"]);
            spec["outputs"] = json!([
                {"name": "log", "step": "report", "path": "a"}, {"name": "b", "step": "other", "path": "/etc"},
                {"name": "b", "step": "report", "path": "../x"}, {"name": "c", "step": "report"},
            ]);
            spec["retention"] = json!({"pods": "0s"});
        });
        let starts = [
            "parameters: ",
            "inputs: \"a\" occurs twice",
            "inputs[a].maxSize: ",
            "steps[report].stages: \"A\" occurs twice",
            "steps[report].timeout: ",
            "steps[report].workspace.size: ",
            "outputs: \"b\" occurs twice",
            "outputs[log]: the name is taken",
            "outputs[b].step: there is no step \"other\": name one of report",
            "outputs[b].path: \"/etc\" cannot be stored: the path is absolute",
            "outputs[b].path: \"../x\" cannot be stored: the path contains `..`",
            "outputs[c].path: \"\" is empty",
            "retention.pods: ",
            "maxOutputSize: ",
        ];
        all_start(&found, &starts);
    }

    #[test]
    fn the_reason_names_the_part() {
        let error = definition(|spec| spec["parameters"] = json!({"$ref": "http://a/b"})).expect_err("remote");
        assert_eq!(error.reason(), "InvalidParametersSchema");
        let error = definition(|spec| spec["steps"][0]["template"] = json!({})).expect_err("no spec");
        assert_eq!(error.reason(), "InvalidTemplate");
        let error = definition(|spec| spec["retention"] = json!({"pods": "x"})).expect_err("no duration");
        assert_eq!(error.reason(), "InvalidPlan");
    }

    #[test]
    fn a_run_as_a_whole_is_bounded_as_declared() {
        let read = definition(|spec| {
            spec["deadline"] = json!("6h");
            spec["queueTimeout"] = json!("24h");
            spec["revisionHistoryLimit"] = json!(2);
            spec["parameters"] = json!({"properties": {"course": {}}, "required": ["course"]});
            spec["concurrency"] = json!({"key": ["course"], "policy": "Replace", "maxRunning": 20});
        });
        let read = read.expect("valid");
        let hours = |count: u64| Some(Duration::from_secs(3600 * count));
        assert_eq!((read.deadline, read.queue_timeout, read.revisions_kept), (hours(6), hours(24), 2));
        let policy = ConcurrencyPolicy::Replace;
        assert_eq!(read.concurrency, Concurrency { key: vec!["course".into()], policy, max_running: Some(20) });
        let unsaid = definition(|_| {}).expect("valid");
        assert_eq!((unsaid.deadline, unsaid.queue_timeout, unsaid.revisions_kept), (None, None, 5));
        assert_eq!(unsaid.concurrency, Concurrency::default());
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let found = sentences(|spec| {
            spec["parameters"] = json!({"properties": {"course": {}, "mode": {}}, "required": ["course"]});
            spec["deadline"] = json!("late");
            spec["queueTimeout"] = json!("0s");
            spec["concurrency"] = json!({"key": ["course", "mode", "none", "course"], "maxRunning": 0});
            spec["priorityClasses"] = json!(["low", "low"]);
            spec["revisionHistoryLimit"] = json!(0);
        });
        let starts = [
            "deadline: \"late\" is not a duration",
            "queueTimeout: \"0s\" is not a duration",
            "concurrency.key: \"course\" occurs twice",
            "concurrency.key: \"mode\" may be left out, and runs without it would not share a key",
            "concurrency.key: \"none\" is no parameter: declare it in `parameters.properties`",
            "concurrency.maxRunning: 0 is too small: write at least 1",
            "priorityClasses: \"low\" occurs twice",
            "revisionHistoryLimit: 0 is too small",
        ];
        all_start(&found, &starts);
    }

    #[test]
    fn the_guarded_stage_is_one_stage_of_one_step() {
        let two = |cancellation: Value| {
            move |spec: &mut Value| {
                spec["steps"] = json!([spec["steps"][0], spec["steps"][0]]);
                spec["steps"][1]["name"] = json!("other");
                spec["steps"][0]["stages"] = json!(["Reading", "Updating"]);
                spec["steps"][1]["stages"] = json!(["Reading"]);
                spec["cancellation"] = cancellation;
            }
        };
        let until = |stage: &str| json!({"allowed": "UntilStage", "stage": stage});
        definition(two(until("Updating"))).expect("valid");
        for (cancellation, start) in [
            (until("Gone"), "cancellation.stage: unknown stage \"Gone\": name one of Reading, Updating, Reading"),
            (until("Reading"), "cancellation.stage: \"Reading\" is a stage of several steps"),
            (json!({"allowed": "UntilStage"}), "cancellation.stage: is missing: name the stage"),
            (json!({"allowed": "Never", "stage": "Updating"}), "cancellation.stage: says nothing without"),
        ] {
            all_start(&sentences(two(cancellation)), &[start]);
        }
        let cleans = sentences(|spec| {
            two(until("Updating"))(spec);
            spec["steps"][0]["stages"] = json!(["Reading"]);
            spec["steps"][1]["stages"] = json!(["Updating"]);
            spec["steps"][1]["when"] = json!({"step": "report", "outcome": ["Canceled"]});
        });
        assert!(cleans.iter().any(|(_, s)| s.contains("cleans up after a cancelled run")), "{cleans:?}");
        let none = sentences(|spec| spec["cancellation"] = until("Gone"));
        all_start(&none, &["cancellation.stage: unknown stage \"Gone\": no step declares `stages`"]);
    }

    #[test]
    fn a_huge_definition_is_refused() {
        let found = sentences(|spec| spec["parameters"] = json!({"description": "x".repeat(300_000)}));
        assert!(found[0].1.contains("at most 262144"), "{found:?}");
    }
}
