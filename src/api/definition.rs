//! TaskDefinition: what can be run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outputs::{OutputRetention, RetentionSpec, Visibility};
use super::state::StepState;

/// What can be run: parameters, inputs, steps with their pod templates, and the outputs they give.
///
/// Each change of the content becomes an immutable TaskRevision; runs that have started keep theirs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "asynctask.dev",
    version = "v1alpha1",
    kind = "TaskDefinition",
    plural = "taskdefinitions",
    shortname = "tdef",
    category = "async",
    namespaced,
    status = "TaskDefinitionStatus",
    derive = "PartialEq",
    doc = "What can be run: parameters, inputs, steps with their pod templates, and the outputs they give. Each change becomes an immutable TaskRevision; runs that have started keep theirs.",
    printcolumn = r#"{"name":"Title","type":"string","jsonPath":".spec.title"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".status.revision.number"}"#,
    printcolumn = r#"{"name":"Draining","type":"string","jsonPath":".status.draining"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinitionSpec {
    /// Name for people, at most 60 characters.
    #[schemars(length(min = 1, max = 60))]
    pub title: String,
    /// What the task does, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub description: Option<String>,
    /// JSON Schema (2020-12) that `AsyncTask.spec.parameters` must satisfy; absent: no parameters. No remote `$ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::free_object")]
    pub parameters: Option<Value>,
    /// Files a run comes with, before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<InputSpec>,
    /// What runs, in the order it is shown. A step waits for the one above it unless it says otherwise.
    #[schemars(length(min = 1, max = 24))]
    pub steps: Vec<StepSpec>,
    /// Files the task gives back. The log of every step is kept as output `log` without being declared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub outputs: Vec<OutputSpec>,
    /// Most bytes that a run may write to the store, all outputs, attempts and shards together, for example `50Gi`; absent: as
    /// many as the administrator allows. Each replica of the gateway counts what it was told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub max_output_size: Option<String>,
    /// Name of the OutputStore for outputs and uploads; absent: the default store when the run is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub store: Option<String>,
    /// Longest time of a whole run from the start of its first step, retries included, for example `6h`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub deadline: Option<String>,
    /// Longest time a run waits for its start, for example `24h`; absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub queue_timeout: Option<String>,
    /// When a run can be cancelled; absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<CancellationSpec>,
    /// How many runs may be in progress at a time; absent: as many as the operator's own limits allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySpec>,
    /// PriorityClasses a run may choose from; a run can name no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub priority_classes: Vec<String>,
    /// Keys of labels that the Jobs and pods of a run get from its AsyncTask, for quotas and bills, beside
    /// `kueue.x-k8s.io/queue-name`; no other label is handed on. Whoever may create AsyncTasks sets them: list none by which a
    /// Service, a NetworkPolicy or a webhook selects pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 317)))]
    pub labels_from_task: Vec<String>,
    /// How many revisions that nothing runs on any more are kept, beside the current one; absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub revision_history_limit: Option<i32>,
    /// How long things are kept after a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
}

/// When a run can be cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancellationSpec {
    /// `Always`, `UntilStage` or `Never` while a step runs. A request that comes too late is kept and takes effect
    /// once the step has ended; before the first step starts a run can always be cancelled.
    pub allowed: Allowed,
    /// With `UntilStage`: the stage from which on its step is not interrupted. Entering it waits until the operator's
    /// side has agreed, so a run is never cancelled inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 60))]
    pub stage: Option<String>,
    /// What a cancelled run leaves behind, for people: shown before they cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub effect: Option<String>,
}

/// When a run can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Allowed {
    /// At any time.
    Always,
    /// Until a stage is entered.
    UntilStage,
    /// Not while a step runs.
    Never,
}

/// How many runs may be in progress at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcurrencySpec {
    /// Names of parameters: of the runs with equal values of these, one is in progress at a time. Exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub key: Vec<String>,
    /// What becomes of a run whose key is taken; absent: `Queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ConcurrencyPolicy>,
    /// Most runs of this definition that are in progress at a time; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_running: Option<i32>,
}

/// What becomes of a run whose key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// It waits until the key is free: by priority, then by age.
    #[default]
    Queue,
    /// It fails with ConcurrencyKeyBusy.
    Reject,
    /// The older run is cancelled, then it starts.
    Replace,
}

/// A file a run needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputSpec {
    /// Name; the file appears as `$ASYNCTASK_INPUTS/<name>`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    pub title: Option<String>,
    /// Accepted media types; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 127)))]
    pub media_types: Vec<String>,
    /// Largest file, for example `2Gi`; absent: `5Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub max_size: Option<String>,
    /// True: a run without it is refused. Absent: false, and the program finds no file when a run comes without.
    #[serde(default)]
    pub required: bool,
    /// True: an uploaded file serves one run and those that continue it with `retryOf`; no other. Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<bool>,
}

/// One step: a Job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepSpec {
    /// Name, unique in the definition.
    #[schemars(length(min = 1, max = 30), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    pub title: Option<String>,
    /// The stages the program goes through, in order: what a page can draw before anything runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 96), inner(length(min = 1, max = 60)))]
    pub stages: Vec<String>,
    /// Steps that have to succeed before it starts; absent: the step above it, or with `when` the steps it answers
    /// to; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), inner(length(min = 1, max = 30)))]
    pub depends_on: Option<Vec<String>>,
    /// It occurs only when another step has ended so: an alternative, or what cleans up. Else it is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<WhenSpec>,
    /// With `when`: its success makes up for the failure it answers to, and the run goes on as if that step had
    /// succeeded. Absent: false, the failure stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<bool>,
    /// True: the program writes items to `$ASYNCTASK_EMIT`, one JSON value per line, for a later step that fans out over
    /// them. Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emits_items: Option<bool>,
    /// The step runs as many pods, one for each shard of the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<FanOutSpec>,
    /// Files it takes from outputs of earlier steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<StepInputSpec>,
    /// Which of the run's inputs its program gets, by name; absent: all of them; empty: none. A step that cleans up has no need to
    /// fetch gigabytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub run_inputs: Option<Vec<String>>,
    /// Longest time of one attempt, for example `30m`; absent: `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
    /// Longest time from the making of its Job until its program starts: pulling the image, finding a node. For example
    /// `5m`; absent: `10m`. Time in which the Job is held by a queue does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub start_timeout: Option<String>,
    /// What follows a failed attempt; absent: the step fails. Failures of the platform (a drained node, a store or a
    /// gateway that does not answer) are retried in any case and never count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// The writable folder of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceSpec>,
    /// A PodTemplateSpec as in a Job, with exactly one container named `task`. Its `command` is required: the agent
    /// must know what to start.
    #[schemars(schema_with = "super::crd::free_object")]
    pub template: Value,
}

/// The work of a step in shards: one pod for each. Say where they come from with exactly one of `itemsFrom`, `shards`
/// and `shardsFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FanOutSpec {
    /// Items, which are cut into shards of `itemsPerShard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_from: Option<ItemsFrom>,
    /// With `itemsFrom`: items per shard; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub items_per_shard: Option<i32>,
    /// A fixed number of shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub shards: Option<i32>,
    /// As many shards as a parameter of the run says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards_from: Option<ShardsFrom>,
    /// Most pods at a time; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub parallelism: Option<i32>,
    /// How much may fail before the step fails; absent: no shard, and any number of items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<TolerateSpec>,
}

/// Where items come from: exactly one of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemsFrom {
    /// An earlier step with `emitsItems`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 30))]
    pub step: Option<String>,
    /// An input of the definition: each of its lines is an item, a JSON value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub input: Option<String>,
}

/// As many shards as a parameter says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardsFrom {
    /// Name of a parameter that is an integer.
    #[schemars(length(min = 1, max = 253))]
    pub parameter: String,
}

/// How much may fail: a number, or a part of all such as `5%`, rounded down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TolerateSpec {
    /// Shards; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::int_or_string")]
    pub failed_shards: Option<IntOrString>,
    /// Items that programs called failed; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::int_or_string")]
    pub failed_items: Option<IntOrString>,
}

/// The files of all shards as one, in the order of the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppendSpec {
    /// True: each shard's file begins with the same line, and it is kept once. Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// A file of an earlier step that comes before all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSpec>,
}

/// A file of an earlier step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseSpec {
    /// The step.
    #[schemars(length(min = 1, max = 30))]
    pub step: String,
    /// Its output: one file.
    #[schemars(length(min = 1, max = 63))]
    pub output: String,
}

/// A step occurs only when another one has ended so. With neither `step` nor `steps` it answers to any step of the run
/// but those that come after it; a failure that another step made up for does not count then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhenSpec {
    /// The other step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 30))]
    pub step: Option<String>,
    /// Several steps, in the place of `step`: it occurs once all of them are over, if any has ended so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24), inner(length(min = 1, max = 30)))]
    pub steps: Vec<String>,
    /// How it has ended: one of these. Steps that have `Canceled` here run once when the run is cancelled while the other
    /// step runs.
    #[schemars(length(min = 1, max = 3))]
    pub outcome: Vec<Outcome>,
    /// Of failures only those with one of these exit codes: `"70"` or `"64-78"`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 7)))]
    pub exit_codes: Vec<String>,
}

impl WhenSpec {
    /// The steps it names.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.step.iter().chain(&self.steps).map(String::as_str)
    }

    /// Whether it names none: it answers to any step.
    #[must_use]
    pub fn is_of_any(&self) -> bool {
        self.named().next().is_none()
    }
}

/// How a step has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// It gave its result.
    Complete,
    /// It failed and is not tried again.
    Failed,
    /// It ran when the run was cancelled.
    Canceled,
}

impl Outcome {
    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
        }
    }

    /// What a step did that has ended so, in a sentence.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Complete => "ended well",
            Self::Failed => "failed",
            Self::Canceled => "was cancelled",
        }
    }

    /// Of a step in this state; `None`: it has not ended, or did not occur.
    #[must_use]
    pub const fn of(state: StepState) -> Option<Self> {
        match state {
            StepState::Complete | StepState::PartiallyComplete => Some(Self::Complete),
            StepState::Failed => Some(Self::Failed),
            StepState::Canceled => Some(Self::Canceled),
            StepState::Waiting | StepState::Running | StepState::Retrying | StepState::Skipped => None,
        }
    }
}

/// A file, or a folder, that a step takes from an output of an earlier step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepInputSpec {
    /// Name; it appears as `$ASYNCTASK_INPUTS/<name>`: a file when the output is one file, else a folder.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The output. Its step must be one that this step waits for, directly or not.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub output: String,
}

/// What follows a failed attempt of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Attempts after the first that may be spent on failures that count; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub limit: Option<i32>,
    /// Failed attempts in a row that may go by without counting; one more, and the step fails. Absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub uncounted_limit: Option<i32>,
    /// Time between an attempt's end and the next one's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffSpec>,
    /// The first one that matches decides; none: the failure counts and is retried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<RetryRule>,
}

/// Time between an attempt's end and the next one's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackoffSpec {
    /// After the first failure, for example `10s`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub initial: Option<String>,
    /// Each further time is so many times as long; absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub factor: Option<i32>,
    /// Longest time, for example `5m`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub max: Option<String>,
}

/// What follows failures of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryRule {
    /// Exit codes of the program, `"70"` or `"64-78"`; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 7)))]
    pub exit_codes: Vec<String>,
    /// Kinds of failure; empty: any. A rule names exit codes, reasons or both; both must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub reasons: Vec<FailureKind>,
    /// What follows.
    pub action: RetryAction,
}

/// Kinds of failure a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureKind {
    /// The pod was drained, evicted, preempted or deleted. Ignored unless a rule says otherwise.
    Disruption,
    /// The program used more memory than its limit.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// The image could not be pulled within `startTimeout`.
    ImagePull,
    /// The program did not start within `startTimeout` for another cause.
    StartTimeout,
    /// The attempt took longer than `timeout`.
    Timeout,
    /// The pod ended with exit code 0 and without a result.
    OutputNotCommitted,
    /// The Job is gone and left neither a result nor a report.
    Lost,
    /// The program ended with another exit code than 0.
    ExitCode,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryAction {
    /// The step has failed: no further attempt.
    Fail,
    /// It counts, and is retried while `limit` allows.
    Retry,
    /// It is retried and does not count.
    Ignore,
}

/// The writable folder of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceSpec {
    /// Limit of the folder and ephemeral-storage request of the pod, for example `5Gi`.
    #[schemars(length(max = 32))]
    pub size: String,
}

/// A result of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// Name, unique in the definition; not `log`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Step that writes it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 30))]
    pub step: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    pub title: Option<String>,
    /// File or folder below `$ASYNCTASK_OUTPUTS`; left out with `failedItems` only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 255))]
    pub path: String,
    /// Media type of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127))]
    pub media_type: Option<String>,
    /// Most bytes of its files in one attempt, of a step that fans out in one shard, for example `2Gi`; absent: no limit of
    /// its own. An attempt that writes more fails, and that counts as the program's failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub max_size: Option<String>,
    /// Who may see it; absent: `Owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// How long it is kept; absent: as long as the AsyncTask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<OutputRetention>,
    /// Of a step that fans out: the files of all shards are put together into one. Absent: each shard's are kept apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<AppendSpec>,
    /// True: the output is the list of the items that the program called failed (`item-failed`), one JSON value a line; it
    /// can be the input of another run. Absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_items: Option<bool>,
}

/// What the operator found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinitionStatus {
    /// Generation the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision new runs are pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<super::task::RevisionRef>,
    /// Numbers of older revisions that runs still wait or run on, for a column: `2, 3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub draining: Option<String>,
    /// `Ready`: new runs are admitted. `ImagesPinned`: every image is named by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
