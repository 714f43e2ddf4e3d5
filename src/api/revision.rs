//! TaskRevision: an immutable snapshot of a definition.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::TaskDefinitionSpec;
use super::state::RevisionState;

/// An immutable snapshot of a TaskDefinition. Made by the operator; runs are pinned to it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "asynctask.dev",
    version = "v1alpha1",
    kind = "TaskRevision",
    plural = "taskrevisions",
    shortname = "trev",
    category = "async",
    namespaced,
    status = "TaskRevisionStatus",
    derive = "PartialEq",
    doc = "An immutable snapshot of a TaskDefinition. Made by the operator only; every run is pinned to one and ends on it.",
    printcolumn = r#"{"name":"Definition","type":"string","jsonPath":".spec.definition"}"#,
    printcolumn = r#"{"name":"Number","type":"integer","jsonPath":".spec.number"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    selectable = ".spec.definition"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a TaskRevision is immutable: change the TaskDefinition, which makes a new one"}]))]
pub struct TaskRevisionSpec {
    /// Name of the TaskDefinition.
    #[schemars(length(max = 253))]
    pub definition: String,
    /// Counts the revisions of the definition from 1.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// Hex SHA-256 of the canonical content.
    #[schemars(length(min = 64, max = 64))]
    pub hash: String,
    /// The definition as it was.
    pub content: TaskDefinitionSpec,
}

/// What becomes of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRevisionStatus {
    /// `Current`, `Draining` while runs that are not over are pinned to it, then `Retired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RevisionState>,
}
