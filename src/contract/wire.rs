//! Agent ⇄ gateway, `/agent/v1`. JSON bodies in camelCase; sizes in bytes; digests as lower-case hex SHA-256.
//!
//! Unknown fields are ignored on both sides, so that an agent one minor version older or newer still understands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::failure::{FailedBy, FailureReport, StoppedBy, Termination};

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
    /// `GET …?output=name&from=n` → [`super::Segments`]: what an assembling step puts together.
    pub const SEGMENTS: &str = "/agent/v1/segments";
    /// `GET …/content` → the bytes of the shard's items (proxied stores only).
    pub const ITEMS: &str = "/agent/v1/items";
}

/// Title of the problem (status 409) that answers [`path::STAGE`] when a guarded stage must not be entered, because the
/// run is to be cancelled or held.
pub const CANCELED: &str = "Canceled";

/// Titles of problems (status 422) by which an agent tells whose failure a refusal speaks of. Any other of that status speaks
/// of what the definition asks for or the program left.
pub mod word {
    /// An input is gone, or never came.
    pub const INPUT_MISSING: &str = "InputMissing";
    /// What is to be published is not in the store as announced.
    pub const NOT_STORED: &str = "NotStored";
    /// The bytes that came are not the ones announced.
    pub const CONTENT_ALTERED: &str = "ContentAltered";
    /// No digest.
    pub const INVALID_DIGEST: &str = "InvalidDigest";
    /// No part of an upload.
    pub const INVALID_PART: &str = "InvalidPart";
    /// No stage of the step; the agent knows them all.
    pub const UNKNOWN_STAGE: &str = "UnknownStage";
}

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
    /// What the program, or the built-in work, may emit; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emits: Option<EmitLimits>,
    /// Which shard of a fan-out this is; absent: the step is one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardWork>,
    /// Work that the agent does itself: there is no program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in: Option<BuiltIn>,
    /// PEM certificates that sign the store's certificate, beside the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_ca: Option<String>,
    /// Ceilings the agent keeps.
    pub limits: Limits,
}

/// Ceilings for emitted items, and where shards are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmitLimits {
    /// Items per shard; the last one may have fewer.
    pub items_per_shard: u32,
    /// Most shards.
    pub shards: u32,
    /// Most items.
    pub items: u64,
    /// Longest item, in bytes of its line without the line's end.
    pub line_bytes: u64,
}

/// One shard of a fan-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardWork {
    /// Number of the shard, from 0: the same over retries and over runs that continue this one.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// Its items; absent: the fan-out is over a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemsSource>,
}

/// The items of a shard: JSON lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemsSource {
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256, where the store knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the bytes are.
    pub source: SignedRequest,
}

/// Work that the agent does itself, with the same isolation and limits as a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum BuiltIn {
    /// Emits each line of an input as an item.
    Split {
        /// Name of the input.
        input: String,
    },
    /// Puts the segments of outputs together, in order.
    Assemble {
        /// The outputs; each becomes one file at its declared path.
        outputs: Vec<AssembledOutput>,
    },
}

/// An output that is put together from segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssembledOutput {
    /// Name of the output.
    pub output: String,
    /// Whether every segment begins with the same line, which is to be kept once.
    pub header: bool,
    /// Number of segments, the base file not counted.
    pub segments: u32,
    /// File that comes before all segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Segment>,
}

/// A piece of an output that is put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256.
    pub sha256: String,
    /// Where the bytes are.
    pub source: SignedRequest,
}

/// Some segments of an output, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Segments {
    /// From the number asked for on.
    pub segments: Vec<Segment>,
    /// Number of the next one; absent: these were the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// Ceilings the agent keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Largest stored log, in bytes; of a longer one head and tail are kept.
    pub log_bytes: u64,
    /// Most files in one commit.
    pub files: u32,
    /// How long processes that the program left behind may go on writing to its outputs, in seconds.
    #[serde(default = "writer_seconds")]
    pub writer_seconds: u64,
}

const fn writer_seconds() -> u64 {
    60
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes: 8 << 20, files: 1000, writer_seconds: writer_seconds() }
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// The agent writes it: the items that the program called failed, one a line. There may be none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed_items: bool,
    /// It is one file, as it is put together with those of other shards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_file: bool,
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind")]
pub enum UploadPlan {
    /// One PUT of the whole file.
    Single {
        /// The PUT. An answer of 412 means that the key exists already: equal content counts as success
        /// (the commit compares it).
        request: SignedRequest,
    },
    /// Parts of `partSize` bytes (the last one shorter); ask for each part's URL, then complete.
    Multipart {
        /// Identifies the started upload; give it back with each call.
        #[serde(rename = "uploadId")]
        upload_id: String,
        /// Bytes per part.
        #[serde(rename = "partSize")]
        part_size: u64,
    },
}

/// Asks for the URLs of some parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartsRequest {
    /// Output and number of the file; absent in the people's API, where the path names the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileRef>,
    /// `uploadId` of the upload plan.
    pub upload_id: String,
    /// The parts.
    pub parts: Vec<PartToSign>,
}

/// Which file of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct FileRef {
    /// Name of the output.
    pub output: String,
    /// Number of the file within its output.
    pub seq: u32,
}

/// One part before it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartsReply {
    /// One per part.
    pub requests: Vec<SignedRequest>,
}

/// Ends a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CompleteRequest {
    /// Output and number of the file; absent in the people's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileRef>,
    /// `uploadId` of the upload plan.
    pub upload_id: String,
    /// Every part, in order.
    pub parts: Vec<SentPart>,
}

/// One part after it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SentPart {
    /// From 1.
    pub number: u32,
    /// The `ETag` header of the store's answer, quotes included.
    pub etag: String,
    /// Hex SHA-256 of the part.
    pub sha256: String,
}

/// One part that is in the store, of an upload that was broken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct StoredPart {
    /// From 1.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Its `ETag`, as the store gave it with the part.
    pub etag: String,
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
    /// `{"type":"item-failed","item":{"id":7},"reason":"InvalidEmail"}`: the program goes on with the next item.
    #[serde(rename = "item-failed")]
    ItemFailed(FailedItem),
    /// `{"type":"skip","count":1}`: items that needed nothing done.
    Skip {
        /// How many.
        count: u64,
    },
    /// `{"type":"done"}`: the result is whole even if SIGTERM has come.
    Done,
}

/// An item that failed while the program went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedItem {
    /// The item, or enough of it to do it again.
    pub item: serde_json::Value,
    /// A CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of the items of an attempt. Succeeded are those that neither failed nor were skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ItemCounts {
    /// Items given to the program, or reported by it where it was given none.
    pub attempted: u64,
    /// Called failed.
    pub failed: u64,
    /// Skipped.
    pub skipped: u64,
    /// Failed ones by their reason; at most 8 are told apart, the rest is under `Other`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
}

/// Most reasons told apart in [`ItemCounts::reasons`].
pub const REASONS: usize = 8;

/// What a planner emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Emitted {
    /// Shards that were stored, numbered from 0.
    pub shards: u32,
    /// Items in them.
    pub items: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Every file of every output, the log included.
    pub files: Vec<CommittedFile>,
    /// What was emitted, by a step that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<Emitted>,
    /// What became of the items; absent: the program was given none and spoke of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// What people should know of a result that counts all the same: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}
