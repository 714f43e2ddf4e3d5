//! Agent ⇄ gateway, `/agent/v1`. JSON bodies in camelCase; sizes in bytes; digests as lower-case hex SHA-256.
//!
//! Unknown fields are ignored on both sides, so that an agent one minor version older or newer still understands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Paths of the agent API, below the gateway's base URL.
pub mod path {
    /// `GET` → [`super::Assignment`].
    pub const ASSIGNMENT: &str = "/agent/v1/assignment";
    /// `GET …/{name}/content[?file=n]` → the bytes of an input (proxied stores only): of the upload, or of file `n` of
    /// the output that the step takes.
    pub const INPUTS: &str = "/agent/v1/inputs";
    /// `POST` [`super::NewFile`] → [`super::UploadPlan`].
    pub const FILES: &str = "/agent/v1/files";
    /// `POST` [`super::PartsRequest`] → [`super::PartsReply`].
    pub const PARTS: &str = "/agent/v1/files/parts";
    /// `POST` [`super::CompleteRequest`] → 204.
    pub const COMPLETE: &str = "/agent/v1/files/complete";
    /// `POST` [`super::StageRequest`] → 204.
    pub const STAGE: &str = "/agent/v1/stage";
    /// `POST` [`super::Progress`] → 204.
    pub const PROGRESS: &str = "/agent/v1/progress";
    /// `POST` [`super::Commit`] → 204, only once the record is durable.
    pub const COMMIT: &str = "/agent/v1/commit";
    /// `POST` [`super::FailureReport`] → 204.
    pub const FAILURE: &str = "/agent/v1/failure";
}

/// Title of the problem (status 409) that answers [`path::STAGE`] when a guarded stage must not be entered, because the
/// run is to be cancelled or held.
pub const CANCELED: &str = "Canceled";

/// The answer to the agent's first call: the fence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict")]
pub enum Assignment {
    /// Start the program with this work.
    Run(Box<Work>),
    /// This step already has a committed result: exit 0 without starting.
    AlreadyCommitted,
    /// Do not start; `message` says why in a sentence.
    #[serde(rename_all = "camelCase")]
    Stop {
        /// Why, for people.
        message: String,
    },
}

/// All the agent needs to run one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// The run's parameters: a JSON object, valid against the revision's schema.
    pub parameters: serde_json::Value,
    /// Files to fetch before the program starts.
    #[serde(default)]
    pub inputs: Vec<InputSource>,
    /// Outputs to collect after it ended.
    #[serde(default)]
    pub outputs: Vec<OutputDeclaration>,
    /// Stages the definition declares; another name is refused.
    #[serde(default)]
    pub stages: Vec<String>,
    /// Of the stages those behind the barrier: the program enters one only when [`path::STAGE`] has said yes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guarded: Vec<String>,
    /// PEM certificates that sign the store's certificate, beside the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ca: Option<String>,
    /// Ceilings the agent keeps.
    pub limits: Limits,
}

/// Ceilings the agent keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest stored log, in bytes; of a longer one head and tail are kept.
    pub log_bytes: u64,
    /// Most files in one commit.
    pub files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes: 8 << 20, files: 1000 }
    }
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputSource {
    /// Name of the input in the definition.
    pub name: String,
    /// Where the file goes, relative to `$ASYNCTASK_INPUTS`; absent: to `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of the whole file; checked while it is written.
    pub sha256: String,
    /// Where the bytes are.
    pub source: SignedRequest,
}

/// A request that somebody may make once they hold it.
///
/// A `url` that begins with `/` is a path of the gateway and needs the caller's own token; any other is complete
/// as it is, and **no token may be attached**: credentials stay with the host they were made for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SignedRequest {
    /// HTTP method.
    pub method: String,
    /// Absolute URL, or a path of the gateway.
    pub url: String,
    /// Headers that must be sent exactly so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// A signed URL is a key: it never reaches a log through `{:?}`.
impl std::fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.url.split('?').next().unwrap_or_default();
        write!(f, "SignedRequest({} {shown}?…)", self.method)
    }
}

/// An output the program is expected to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDeclaration {
    /// Name of the output.
    pub name: String,
    /// File or folder below `$ASYNCTASK_OUTPUTS`.
    pub path: String,
    /// Declared media type of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// One file the agent wants to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewFile {
    /// Name of a declared output, or `log`.
    pub output: String,
    /// Number of the file within its output, from 0.
    pub seq: u32,
    /// Path of the file relative to `$ASYNCTASK_OUTPUTS`; the author's own name, only ever kept as data.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256.
    pub sha256: String,
    /// Media type; absent: `application/octet-stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// How to store a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum UploadPlan {
    /// One PUT of the whole file.
    Single {
        /// The PUT. An answer of 412 means that the key exists already: equal content counts as success
        /// (the commit compares it).
        request: SignedRequest,
    },
    /// Parts of `part_size` bytes (the last one shorter); ask for each part's URL, then complete.
    Multipart {
        /// Identifies the started upload; give it back with each call.
        upload_id: String,
        /// Bytes per part.
        part_size: u64,
    },
}

/// Asks for the URLs of some parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartsRequest {
    /// Output and number of the file; absent in the people's API, where the path names the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileRef>,
    /// From [`UploadPlan::Multipart`].
    pub upload_id: String,
    /// The parts.
    pub parts: Vec<PartToSign>,
}

/// Which file of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FileRef {
    /// Name of the output.
    pub output: String,
    /// Number of the file within its output.
    pub seq: u32,
}

/// One part before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartToSign {
    /// From 1.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of the part.
    pub sha256: String,
}

/// The signed PUTs, in the order asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartsReply {
    /// One per part.
    pub requests: Vec<SignedRequest>,
}

/// Ends a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CompleteRequest {
    /// Output and number of the file; absent in the people's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileRef>,
    /// From [`UploadPlan::Multipart`].
    pub upload_id: String,
    /// Every part, in order.
    pub parts: Vec<SentPart>,
}

/// One part after it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "gateway", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SentPart {
    /// From 1.
    pub number: u32,
    /// The `ETag` header of the store's answer, quotes included.
    pub etag: String,
    /// Hex SHA-256 of the part.
    pub sha256: String,
}

/// Enters a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageRequest {
    /// One of the definition's stages.
    pub stage: String,
}

/// How far the program is. Absent fields keep their last value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Units done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<i64>,
    /// Units in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Name of the unit, in the plural ("blocks").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One line of the FIFO `$ASYNCTASK_PROGRESS`. The helper commands write the same lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ProgressLine {
    /// `{"type":"stage","stage":"Verifying"}`
    Stage(StageRequest),
    /// `{"type":"progress","done":3,"total":10,"unit":"blocks","message":"…"}`
    Progress(Progress),
    /// `{"type":"fail","code":"InvalidCourse","message":"…","link":"…"}`
    Fail(AuthorFailure),
    /// `{"type":"done"}`: the result is whole even if SIGTERM has come.
    Done,
}

/// What an author says about a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorFailure {
    /// A short CamelCase word programs can tell apart.
    pub code: String,
    /// A sentence for people: what happened and what to do.
    pub message: String,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// A file that is part of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedFile {
    /// Name of the output.
    pub output: String,
    /// Number of the file within its output.
    pub seq: u32,
    /// Path relative to `$ASYNCTASK_OUTPUTS`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256 of the whole file.
    pub sha256: String,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

/// Publishes the attempt's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Every file of every output, the log included.
    pub files: Vec<CommittedFile>,
}

/// Why an attempt failed; recorded in the store, shown in `status.failure`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    /// A CamelCase word: the author's `code`, or the agent's own (`OutputMissing`, `InputInvalid`, `Terminated`, …).
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Exit code of the agent for this attempt.
    pub exit_code: i32,
    /// Stage the program was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Last lines of stdout and stderr, at most 2 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// The stored log, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<CommittedFile>,
}

/// The pod's termination message: one JSON of at most 4096 bytes, for people; the truth is the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// `Succeeded`, `Failed`, `AlreadyCommitted` or `Fenced`.
    pub outcome: String,
    /// As in [`FailureReport::code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Last stage entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Whether the gateway acknowledged the commit.
    pub committed: bool,
    /// Last lines of stdout and stderr, at most 2 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}
