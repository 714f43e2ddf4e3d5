//! Programs of people ⇄ gateway, `/api/v1`. Tasks travel as the AsyncTask objects they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::{ItemCounts, SignedRequest, UploadPlan};

/// The outputs of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputList {
    /// Declared outputs in the order of the definition, then `log`.
    pub outputs: Vec<OutputView>,
}

/// One output and its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OutputView {
    /// Name in the definition.
    pub name: String,
    /// Title for people.
    pub title: String,
    /// Step that wrote it; of the output `log` the first that did.
    pub step: String,
    /// Sum of its files, in bytes.
    pub size: u64,
    /// How many files it has.
    #[serde(default)]
    pub count: u64,
    /// Its files, the first 1,000 of them; each has its `number` for the download route.
    pub files: Vec<FileView>,
    /// There are more than are listed here; each can be downloaded by its number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Who may see it: `Owner`, `Team` or `Namespace`.
    #[serde(default)]
    pub visibility: String,
    /// When it is deleted (RFC 3339); absent: not before the task is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// It is for one use: asking for the way to a file of it (POST) claims it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_once: bool,
    /// Of an output for one use: who has claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// It is no longer there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<GoneView>,
}

/// Why an output is no longer there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct GoneView {
    /// When (RFC 3339).
    pub at: String,
    /// `Expired`, `Deleted` or `Used`.
    pub why: String,
    /// Who deleted or fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Outputs of some runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FoundOutputs {
    /// The outputs.
    pub outputs: Vec<FoundOutput>,
    /// Give it back as `continue` for the next ones; absent: these were the last. A page may be empty and not the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An output and the run it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FoundOutput {
    /// Name of the AsyncTask.
    pub task: String,
    /// Name of its TaskDefinition.
    pub definition: String,
    /// Its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// When the AsyncTask was created (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Name of the output.
    pub output: String,
    /// Step that wrote it.
    pub step: String,
    /// How many files it has.
    pub files: u64,
    /// Sum of their bytes.
    pub size: u64,
    /// Media type the author declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Who may see it: `Owner`, `Team` or `Namespace`.
    pub visibility: String,
    /// When it is deleted (RFC 3339); absent: not before the task is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// It is for one use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_once: bool,
}

/// Some shards of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShardList {
    /// The step.
    pub step: String,
    /// The shards, in their order.
    pub shards: Vec<ShardView>,
    /// Give it back as `continue` for the next ones; absent: these were the last. A page may be empty and not the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What became of a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ShardView {
    /// Its number, from 0.
    pub shard: u32,
    /// What became of it.
    pub state: ShardState,
    /// Number of the step's attempt that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What became of its items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Why it failed, or failed last: a CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Exit code of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Some of the segments that an appended output consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SegmentList {
    /// The output.
    pub output: String,
    /// The step whose shards wrote them.
    pub step: String,
    /// Each begins with the same line, which the whole has once.
    pub header: bool,
    /// How many there are, the base file included.
    pub count: u64,
    /// Sum of all of them, in bytes.
    pub size: u64,
    /// The segments, in the order in which they make the whole.
    pub segments: Vec<SegmentView>,
    /// Give it back as `continue` for the next ones; absent: these were the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A part of an appended output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SegmentView {
    /// Its place, from 0: the `n` of its download route.
    pub number: u64,
    /// The shard that wrote it; absent: it is the base file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of all of it.
    pub sha256: String,
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ShardState {
    /// It gave its result.
    Succeeded,
    /// It gave none, and is not tried again in this run.
    Failed,
    /// It has given none yet: it waits, runs or is tried again.
    Waiting,
}

/// Asks for another run that takes over what succeeded in this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryRequest {
    /// Name of the new run; absent: `<name>-retry-<…>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One file of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FileView {
    /// Path the author gave it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of the whole file.
    pub sha256: String,
    /// Media type the author declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// In a list of outputs: the `number` of the download route. Numbers begin at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// In a list of outputs: the step that wrote it. The output `log` has files of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Permission to read one file once, now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DownloadTicket {
    /// The GET to make. A path of the gateway needs the caller's own token.
    pub request: SignedRequest,
    /// Seconds until the store refuses the URL; absent for a path of the gateway, which authorises each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// PEM certificates that sign the store's certificate, when the public roots do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What is behind it.
    pub file: FileView,
}

/// Announces a file that will be an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UploadRequest {
    /// Name of the TaskDefinition that will read it.
    pub definition: String,
    /// Name of the input in that definition.
    pub input: String,
    /// Bytes; refused above the input's `maxSize`.
    pub size: u64,
    /// Hex SHA-256 of the whole file.
    pub sha256: String,
    /// Media type; refused unless the input lists it (or lists none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// A started upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UploadStarted {
    /// Goes into `spec.inputs.<name>.upload` once the upload is complete.
    pub id: String,
    /// How to send the bytes.
    pub plan: UploadPlan,
    /// PEM certificates that sign the store's certificate, when the public roots do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// How far an upload has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UploadView {
    /// As it was begun, its requests signed anew.
    pub upload: UploadStarted,
    /// Whether all bytes are stored: what is left is to complete it, which may be done again.
    pub stored: bool,
    /// Parts that are stored, in order: they need not be sent again.
    pub parts: Vec<super::wire::StoredPart>,
}

/// Ends an upload: for a multipart plan with its parts, else with none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UploadCompletion {
    /// `uploadId` of the upload plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_id: Option<String>,
    /// Every part, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<super::wire::SentPart>,
}

/// Asks for a run. Its owner is the user who asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewTask {
    /// Name of the TaskDefinition.
    pub definition: String,
    /// Name of one of its revisions; absent: the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Values for the definition's parameters: an object, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Value>,
    /// Files, by the name of the definition's input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, NewInput>,
    /// One of the user's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Not to start before this time (RFC 3339); absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_after: Option<String>,
    /// One of the definition's `priorityClasses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// A finished run of the same owner, team, definition, parameters and inputs: what succeeded in it is taken over, and
    /// only the rest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// Name of the AsyncTask; absent: made from the definition's name and the header `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Where an input of a new run comes from: exactly one of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewInput {
    /// Id of a completed upload of the same user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// An output of another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputOfRun>,
}

/// An output, of one file, of a finished run of the same owner or the same team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutputOfRun {
    /// Name of the AsyncTask.
    pub task: String,
    /// Name of the output.
    pub name: String,
}

/// A request to cancel is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CancelRequested {
    /// The task says so now, for good.
    pub requested: bool,
    /// What a cancelled run leaves behind, in the words of its author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Why it does not take effect now, and when it will; absent: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_now: Option<String>,
}

/// What became of the runs that had one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryList {
    /// History records, the newest run first: `spec`, `state`, every one of `transitions`, `steps`, `failure`, `outputs`.
    pub runs: Vec<serde_json::Value>,
}

/// History records of some runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PastRuns {
    /// The records, as the history of one run has them, the newest month first.
    pub runs: Vec<serde_json::Value>,
    /// Stores that could not be asked, each with why: records that lie there are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Give it back as `continue` for the next ones; absent: these were the last. A page may be empty and not the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The schema of an AsyncTask is the API server's, which the gateway puts into the document.
#[cfg(feature = "openapi")]
fn task_objects() -> utoipa::openapi::schema::Array {
    utoipa::openapi::schema::Array::new(utoipa::openapi::Ref::from_schema_name("AsyncTask"))
}

/// Some tasks of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskList {
    /// AsyncTask objects.
    #[cfg_attr(feature = "openapi", schema(schema_with = task_objects))]
    pub items: Vec<serde_json::Value>,
    /// Give it back as `continue` for the next ones; absent: these were the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `about:blank`: the status says what kind it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// A CamelCase word programs can tell apart.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened, to what, and what to do next.
    pub detail: String,
    /// Each violation, when there are several (parameters against their schema).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
}
