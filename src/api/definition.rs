//! TaskDefinition: what can be run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be run: parameters, inputs, the step with its pod template, and the outputs it gives.
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
    doc = "What can be run: parameters, inputs, the step with its pod template, and the outputs it gives. Each change becomes an immutable TaskRevision; runs that have started keep theirs.",
    printcolumn = r#"{"name":"Title","type":"string","jsonPath":".spec.title"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".status.revision.number"}"#,
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
    /// Files a run needs before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub inputs: Vec<InputSpec>,
    /// What runs. Exactly one step in this version.
    #[schemars(length(min = 1, max = 1))]
    pub steps: Vec<StepSpec>,
    /// Files the task gives back. The log of every step is kept as output `log` without being declared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub outputs: Vec<OutputSpec>,
    /// Name of the OutputStore for outputs and uploads; absent: the default store when the run is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub store: Option<String>,
    /// How long things are kept after a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
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
    /// Whether a run without it is refused.
    #[serde(default)]
    pub required: bool,
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
    /// Longest time of one attempt, for example `30m`; absent: `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub timeout: Option<String>,
    /// The writable folder of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceSpec>,
    /// A PodTemplateSpec as in a Job, with exactly one container named `task`. Its `command` is required: the agent
    /// must know what to start.
    #[schemars(schema_with = "super::crd::free_object")]
    pub template: Value,
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
    /// File or folder below `$ASYNCTASK_OUTPUTS`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 255))]
    pub path: String,
    /// Media type of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127))]
    pub media_type: Option<String>,
}

/// How long things are kept after a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Finished pods (and their live logs), for example `10m`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pods: Option<String>,
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
    /// `Ready`: new runs are admitted. `ImagesPinned`: every image is named by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
