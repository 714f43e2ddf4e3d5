//! AsyncTask: one run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::counts::{EmittedStatus, FailureCount, ItemsStatus, ShardsStatus};
use super::definition::WhenSpec;
pub use super::outputs::OutputStatus;
use super::outputs::{KeepStatus, KeptUntil, OutputClaim, OutputDeletion};
use super::state::{StepState, TaskState};

/// One run of a TaskDefinition. The name is the idempotency key: applying it twice runs it once.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "asynctask.dev",
    version = "v1alpha1",
    kind = "AsyncTask",
    plural = "asynctasks",
    shortname = "atask",
    category = "async",
    namespaced,
    status = "AsyncTaskStatus",
    derive = "PartialEq",
    doc = "One run of a TaskDefinition. The name is the idempotency key: applying it twice runs it once. A finished run is never reopened.",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.step"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Definition","type":"string","jsonPath":".spec.definition.name"}"#,
    printcolumn = r#"{"name":"Owner","type":"string","jsonPath":".spec.owner"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Rev","type":"integer","jsonPath":".status.revision.number","priority":1}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason","priority":1}"#,
    printcolumn = r#"{"name":"Outputs","type":"string","jsonPath":".status.results","priority":1}"#,
    selectable = ".spec.owner",
    selectable = ".spec.team",
    selectable = ".spec.definition.name",
    selectable = ".status.state",
    selectable = ".status.revision.name",
    selectable = ".status.store.name"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.definition == oldSelf.definition", "message": "spec.definition is immutable: a run stays what it was asked to be. Create another AsyncTask"},
    {"rule": "has(self.parameters) == has(oldSelf.parameters) && (!has(self.parameters) || self.parameters == oldSelf.parameters)", "message": "spec.parameters is immutable: a run stays what it was asked to be. Create another AsyncTask"},
    {"rule": "has(self.inputs) == has(oldSelf.inputs) && (!has(self.inputs) || self.inputs == oldSelf.inputs)", "message": "spec.inputs is immutable: a run stays what it was asked to be. Create another AsyncTask"},
    {"rule": "has(self.owner) == has(oldSelf.owner) && (!has(self.owner) || self.owner == oldSelf.owner)", "message": "spec.owner is immutable"},
    {"rule": "has(self.team) == has(oldSelf.team) && (!has(self.team) || self.team == oldSelf.team)", "message": "spec.team is immutable"},
    {"rule": "has(self.startAfter) == has(oldSelf.startAfter) && (!has(self.startAfter) || self.startAfter == oldSelf.startAfter)", "message": "spec.startAfter is immutable: cancel this run and create another AsyncTask"},
    {"rule": "has(self.priorityClassName) == has(oldSelf.priorityClassName) && (!has(self.priorityClassName) || self.priorityClassName == oldSelf.priorityClassName)", "message": "spec.priorityClassName is immutable: cancel this run and create another AsyncTask"},
    {"rule": "has(self.once) == has(oldSelf.once) && (!has(self.once) || self.once == oldSelf.once)", "message": "spec.once is immutable: create another AsyncTask"},
    {"rule": "has(self.retryOf) == has(oldSelf.retryOf) && (!has(self.retryOf) || self.retryOf == oldSelf.retryOf)", "message": "spec.retryOf is immutable: create another AsyncTask"},
    {"rule": "!has(oldSelf.keepUntil) || has(self.keepUntil)", "message": "spec.keepUntil can be moved to a later time only"},
    {"rule": "!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)", "message": "spec.cancel cannot be taken back: create another AsyncTask to run it again"}
]))]
pub struct AsyncTaskSpec {
    /// What to run.
    pub definition: DefinitionRef,
    /// Values for the definition's parameters; data only, never templated into a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::free_object")]
    pub parameters: Option<Value>,
    /// Files, by the name of the definition's input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub inputs: BTreeMap<String, InputRef>,
    /// User the run belongs to; absent: the user who creates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub owner: Option<String>,
    /// Group the run belongs to: one of the owner's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub team: Option<String>,
    /// Not to start before this time; absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::time")]
    pub start_after: Option<Time>,
    /// True: hold the run. Pods that run are stopped and start anew when it is false again; no retry is spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// True: end the run. One way: it cannot be taken back. Leave it out of manifests that are kept in Git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
    /// A finished run of the same owner, team, definition, parameters and inputs: what succeeded in it is taken over, and
    /// only the rest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RetryOf>,
    /// Not to run when a run of this name was created within so many hours before, whatever its spec was and also when its object
    /// is gone. The history records in the store tell, so a definition whose `retention.history` is shorter forgets sooner.
    /// From `1h` to `8784h`; absent: not to run when this is the same spec again, of a run that its retention removed, as
    /// happens to objects that are applied from Git again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 5),
        regex(pattern = r"^([1-9][0-9]{0,2}|[1-7][0-9]{3}|8[0-6][0-9]{2}|87[0-7][0-9]|878[0-4])h$")
    )]
    pub once: Option<String>,
    /// Keep the outputs to this date, as far as the definition lets them be kept longer (`outputs[].retention.atMost`). It
    /// can be moved to a later date only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::later_time")]
    pub keep_until: Option<Time>,
    /// PriorityClass of the run's pods and its place in the queue: one of the definition's `priorityClasses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

impl AsyncTaskSpec {
    /// Whether the run is to be held.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspend == Some(true)
    }

    /// Whether the run is to be ended.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.cancel == Some(true)
    }
}

/// Which definition, and optionally which of its revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefinitionRef {
    /// Name of a TaskDefinition in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of a TaskRevision of it; absent: the current one when the run is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub revision: Option<String>,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryOf {
    /// Its name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where an input comes from: exactly one of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.upload) != has(self.output)", "message": "name either an upload or an output of another run"},
]))]
pub struct InputRef {
    /// Id of a completed upload of the same owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 36, max = 36), regex(pattern = r"^[0-9a-f-]{36}$"))]
    pub upload: Option<String>,
    /// An output, of one file, of a finished run of the same owner or the same team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRef>,
}

/// An output of another run in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputRef {
    /// Name of the AsyncTask.
    #[schemars(length(min = 1, max = 253))]
    pub task: String,
    /// Name of the output.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// What is known of a run. Written by the operator; `claims`, `deletions`, and `stage`, `guarded` and `progress` of a step
/// by the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AsyncTaskStatus {
    /// Generation the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State of the run; terminal ones are final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// Why it is in this state: a CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// The revision the run is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionRef>,
    /// The store its outputs are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreRef>,
    /// Its place among the runs that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// The first run of those that continue each other with `retryOf`: its UID is in every idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<RunRef>,
    /// Step the run is in: one word for a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub step: Option<String>,
    /// How far the current step is, in words for a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub progress: Option<String>,
    /// The steps that will occur, as the revision declares them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub plan: Vec<PlannedStep>,
    /// What became of each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub steps: Vec<StepStatus>,
    /// The newest changes of state; all of them are in the history record in the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub transitions: Vec<Transition>,
    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What the run gave back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub outputs: Vec<OutputStatus>,
    /// Until when outputs are kept whose retention depends on the run's parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub kept_until: Vec<KeptUntil>,
    /// How long its uploads and its history record are kept; absent: as long as the AsyncTask, and for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepStatus>,
    /// Who fetches outputs that are for one use. Written by the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub claims: Vec<OutputClaim>,
    /// Which outputs are to be deleted because somebody said so. Written by the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub deletions: Vec<OutputDeletion>,
    /// When the details of a run that is over are dropped, and the AsyncTask itself once no output is left; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Names of the declared outputs that can be fetched, for a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub results: Option<String>,
    /// `Accepted`, `Finished`, `Succeeded`, `OutputsReady`, `CancelRequested`, `Reconciling`, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A run's place among those that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// How many runs have to start before it, and one: 1 is next. Exact up to 10, then rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i32>,
    /// Name of the Lease that stands for its concurrency key: whoever holds it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub lease: Option<String>,
}

/// A TaskRevision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRef {
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Number within its definition.
    pub number: i64,
}

/// An OutputStore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreRef {
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// An AsyncTask of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunRef {
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// A step as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStep {
    /// Name.
    #[schemars(length(max = 30))]
    pub name: String,
    /// Name for people.
    #[schemars(length(max = 60))]
    pub title: String,
    /// Its stages in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 96), inner(length(max = 60)))]
    pub stages: Vec<String>,
    /// Steps it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24), inner(length(max = 30)))]
    pub depends_on: Vec<String>,
    /// It occurs only when this is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<WhenSpec>,
    /// Its success makes up for the failure it answers to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovers: bool,
    /// It runs one pod for each shard of its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<PlannedFanOut>,
    /// The operator's own work for another step: `Split` cuts an input into items, `Assemble` puts appended outputs
    /// together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in: Option<BuiltInKind>,
}

/// What is known of a fan-out before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedFanOut {
    /// Step whose items it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30))]
    pub items_from: Option<String>,
    /// Number of shards, unless it depends on items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<i64>,
    /// Most pods at a time.
    pub parallelism: i64,
}

/// Work of the operator's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BuiltInKind {
    /// Cuts an input into items.
    Split,
    /// Puts appended outputs together.
    Assemble,
}

/// What became of a step. Only `name` is required: operator and gateway each apply their own fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Name of the step.
    #[schemars(length(max = 30))]
    pub name: String,
    /// State of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StepState>,
    /// Number of the attempt, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// Failed attempts that count against `retry.limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<i32>,
    /// Failed attempts in a row that do not count: the platform's failures, disruptions, and what a rule ignores. With
    /// more of them than `retry.uncountedLimit` the step fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<i32>,
    /// When the next attempt starts, while it is Retrying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// What its pod waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Why it is skipped, or what else there is to know of its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
    /// Why its last attempt failed, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
    /// Stage the program says it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    pub stage: Option<String>,
    /// True once the stage of `cancellation.stage` was entered: until the step ends the run is not cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded: Option<bool>,
    /// How far the program says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<StepProgress>,
    /// What it emitted for a later step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<EmittedStatus>,
    /// Of a fan-out: what became of its shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardsStatus>,
    /// What became of its items; told when its result is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemsStatus>,
    /// Failures of shards and items, equal ones counted together; the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub failures: Vec<FailureCount>,
    /// Image that its program ran from, as the node resolved it (`name@sha256:…`): of an image named by a tag the only way to know
    /// what ran. Absent when the node had not said so by the end, and of a step that fans out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The run whose result, or whose successful shards, this step took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<RunRef>,
    /// When its Job was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_time: Option<Time>,
    /// Hex SHA-256 of the manifest that lists its files: the one result that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub manifest: Option<String>,
}

/// What a step's pod waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Kubernetes' word for it, or ours: ImagePullBackOff, Unschedulable, NoPod…
    #[schemars(length(max = 63))]
    pub reason: String,
    /// The same for people.
    #[schemars(length(max = 256))]
    pub message: String,
}

/// Why a step's last attempt failed, in short; of the failure that ends the run, `status.failure` says all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepFailure {
    /// What failed: StepFailed, Timeout, OutputNotCommitted…
    #[schemars(length(max = 63))]
    pub reason: String,
    /// The author's own word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub code: Option<String>,
    /// Exit code of the program; absent when it was not the program that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The beginning of its message.
    #[schemars(length(max = 256))]
    pub message: String,
}

/// How far a program says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepProgress {
    /// Units done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<i64>,
    /// Units in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Name of the unit, in the plural.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30))]
    pub unit: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
}

/// One change of state; or a step that is tried again, from a state to the same with the reason `Retrying`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Counts the changes of this run from 1.
    pub seq: i64,
    /// State before; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TaskState>,
    /// State after.
    pub to: TaskState,
    /// When.
    pub at: Time,
    /// Why: a CamelCase word.
    #[schemars(length(max = 63))]
    pub reason: String,
    /// Step that was the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30))]
    pub step: Option<String>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Step that failed; absent when the run was refused before any step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30))]
    pub step: Option<String>,
    /// What failed: StepFailed, Timeout, InvalidParameters, InputMissing, OutputNotCommitted…
    #[schemars(length(max = 63))]
    pub reason: String,
    /// The author's own word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub code: Option<String>,
    /// What happened and what to do.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Exit code of the program; absent when it was not the program that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether running it again may succeed; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retriable: Option<bool>,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub link: Option<String>,
    /// Last lines the program wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub log_tail: Option<String>,
}
