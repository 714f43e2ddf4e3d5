//! What a run gives back: who may see it, how long it is kept, and what became of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may see an output, of those who may see outputs at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// The run's owner.
    #[default]
    Owner,
    /// The owner and whoever is in the group `spec.team` of the run.
    Team,
    /// Whoever may `get` `asynctasks/outputs` in the namespace.
    Namespace,
}

impl Visibility {
    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Team => "Team",
            Self::Namespace => "Namespace",
        }
    }
}

/// How long things are kept after a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionSpec {
    /// Finished pods (and their live logs), for example `10m`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pods: Option<String>,
    /// The AsyncTask with its logs, for example `720h`, counted from the end of the run; absent: until somebody deletes
    /// it. It stays as long as one of its outputs does: until then only its details go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub task: Option<String>,
    /// Files that were uploaded for a run that is `Complete`, for example `168h`, counted from its end; absent: as long as
    /// the AsyncTask. Those of any other run stay as long as its AsyncTask: a retry needs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub inputs: Option<String>,
    /// The history record, for example `8760h`, counted from the end of the run; absent: for ever. It stays as long as the
    /// AsyncTask does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub history: Option<String>,
    /// Whether the history record holds the run's parameters; absent: `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_parameters: Option<HistoryParameters>,
}

/// Whether a history record holds parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HistoryParameters {
    /// It does.
    Keep,
    /// It does not.
    Drop,
}

/// What the definition says of keeping what no output is; pinned, as the definition may be gone when it is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeepStatus {
    /// How many seconds after its end a run that is `Complete` keeps its uploads; absent: as long as the AsyncTask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_seconds: Option<i64>,
    /// How many seconds after the end of the run its history record is kept; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_seconds: Option<i64>,
    /// Whether the history record holds the parameters; absent: `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_parameters: Option<HistoryParameters>,
}

/// How long an output is kept: exactly one of `useOnce`, `for`, `until` and `forever`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputRetention {
    /// Until one person has fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_once: Option<UseOnce>,
    /// So long after the end of the run, for example `720h`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub span: Option<String>,
    /// To a date, such as the end of a course.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// True: until somebody deletes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forever: Option<bool>,
    /// How long after the end of the run `spec.keepUntil` of a run can keep it at most, for example `2160h`; absent: not
    /// longer than said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub at_most: Option<String>,
}

/// An output that one person fetches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UseOnce {
    /// How long that person may fetch it again, should a download break off, for example `15m`; absent: `1h`. Then it is
    /// deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub window: Option<String>,
}

/// A date: exactly one of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Until {
    /// The date itself, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::crd::time")]
    pub date: Option<Time>,
    /// Name of a parameter that holds it, RFC 3339: as a date (its beginning, UTC) or with a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub parameter: Option<String>,
}

/// Why an output is no longer there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// When it was deleted.
    pub at: Time,
    /// Why.
    pub why: GoneWhy,
    /// Who deleted or fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub by: Option<String>,
}

/// Why an output was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GoneWhy {
    /// Its time was up.
    Expired,
    /// Somebody deleted it.
    Deleted,
    /// It was for one use, and was used.
    Used,
}

impl GoneWhy {
    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "Expired",
            Self::Deleted => "Deleted",
            Self::Used => "Used",
        }
    }
}

/// Somebody fetches an output that is for one use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputClaim {
    /// The output.
    #[schemars(length(max = 63))]
    pub output: String,
    /// Who.
    #[schemars(length(max = 253))]
    pub user: String,
    /// When.
    pub at: Time,
    /// Until then the same user may fetch it again; then it is deleted.
    pub until: Time,
}

/// Somebody wants an output to be deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputDeletion {
    /// The output.
    #[schemars(length(max = 63))]
    pub output: String,
    /// Who.
    #[schemars(length(max = 253))]
    pub user: String,
    /// When.
    pub at: Time,
}

/// Until when an output is kept whose retention depends on the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptUntil {
    /// The output.
    #[schemars(length(max = 63))]
    pub output: String,
    /// The date.
    pub until: Time,
}

/// One output of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// Name in the definition, or `log`.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Step that wrote it.
    #[schemars(length(max = 30))]
    pub step: String,
    /// Number of files.
    pub files: i64,
    /// Sum of their bytes.
    pub size: i64,
    /// Declared media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127))]
    pub media_type: Option<String>,
    /// Who may see it; absent: the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Of an output for one use: how many seconds whoever claims it may fetch it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_once_seconds: Option<i64>,
    /// When it is deleted; absent: not before the AsyncTask is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// To which date `spec.keepUntil` can keep it at most; absent: it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensible_to: Option<Time>,
    /// It was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
}
