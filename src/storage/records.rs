//! Records kept in the store beside the bytes: JSON, camelCase, with a version where they outlive a release.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::Digest;
use asynctask_contract::wire::{CommittedFile, Emitted, FailedBy, FailureReport, ItemCounts};

/// Version written into records; readers refuse a newer one.
pub const VERSION: u32 = 1;

/// Largest record that is read: 1,000 files with paths of 1,024 bytes, escaped, fit.
pub const RECORD_MAX: u64 = 8 << 20;

/// The one statement that an attempt succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitRecord {
    /// [`VERSION`]
    pub version: u32,
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// Name of the step.
    pub step: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// UID of the pod.
    pub pod_uid: String,
    /// Number of the shard; 0 for a step of one pod.
    #[serde(default)]
    pub shard: u32,
    /// Every file of the attempt, the log included.
    pub files: Vec<CommittedFile>,
    /// What was emitted, by a step that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<Emitted>,
    /// What became of its items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// What people should know of it: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Image that its program ran from, as the node resolved it; absent when the node had not said it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the gateway wrote this.
    pub committed_at: Timestamp,
}

/// What an attempt said about its failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRecord {
    /// [`VERSION`]
    pub version: u32,
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// Name of the step.
    pub step: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Number of the shard; 0 for a step of one pod.
    #[serde(default)]
    pub shard: u32,
    /// UID of the pod.
    pub pod_uid: String,
    /// The agent's report.
    pub report: FailureReport,
    /// When the gateway wrote this.
    pub failed_at: Timestamp,
}

/// The sealed result of a step. Its key is its digest, so a reader can check that it is the one the status names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`VERSION`]
    pub version: u32,
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// Name of the step.
    pub step: String,
    /// UID of the pod whose commit won; empty for a fan-out, whose shards name theirs.
    pub pod_uid: String,
    /// The files, ordered by output and number within it; empty for a fan-out.
    pub files: Vec<ManifestFile>,
    /// The shards of a fan-out, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<PageRef>,
}

/// A page of a fan-out's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageRef {
    /// Digest of the page, which is also its name.
    pub sha256: Digest,
    /// Number of its first shard.
    pub first: u32,
    /// Number of its shards.
    pub shards: u32,
    /// How many of them gave no result.
    pub failed: u32,
    /// Files and bytes of each output in it.
    pub outputs: BTreeMap<String, Volume>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Some shards of a fan-out, in their order. Its key is its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestPage {
    /// [`VERSION`]
    pub version: u32,
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// Name of the step.
    pub step: String,
    /// The shards; every one of the fan-out is in exactly one page.
    pub shards: Vec<SealedShard>,
}

/// What became of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedShard {
    /// Its number, from 0.
    pub shard: u32,
    /// UID of the pod whose commit won, or whose failure was the last one told; empty: nobody left a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// Number of the attempt; 0 when nobody left a word.
    #[serde(default)]
    pub attempt: u32,
    /// Its files; of a failed one only the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ManifestFile>,
    /// What became of its items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Why it gave no result; absent: it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ShardFailure>,
}

/// Why a shard gave no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardFailure {
    /// A CamelCase word: the author's or ours.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// Exit code of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whose failure it was; absent: nobody left a word, or an agent of an older release did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_by: Option<FailedBy>,
}

/// A file of a sealed result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Name of the output.
    pub output: String,
    /// Number of the file within its output.
    pub seq: u32,
    /// Path relative to `$ASYNCTASK_OUTPUTS`: the author's own name.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub sha256: Digest,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Where the bytes are.
    pub key: String,
}

impl ManifestPage {
    /// The bytes to store and their digest.
    #[must_use]
    pub fn seal(&self) -> (Bytes, Digest) {
        let bytes = encode(self);
        let digest = Digest::of(&bytes);
        (bytes, digest)
    }

    /// Reads a stored page and checks that it is the one that was sealed.
    ///
    /// # Errors
    /// Bytes with another digest, or not a page.
    pub fn open(bytes: &[u8], sealed: Digest) -> Result<Self, RecordError> {
        opened(bytes, sealed)
    }
}

fn opened<T: DeserializeOwned>(bytes: &[u8], sealed: Digest) -> Result<T, RecordError> {
    let found = Digest::of(bytes);
    if found != sealed {
        return Err(RecordError::NotTheSealed { found, sealed });
    }
    decode(bytes)
}

impl Manifest {
    /// The bytes to store and their digest, the same for the same result: files sorted, fields in declared order.
    #[must_use]
    pub fn seal(&mut self) -> (Bytes, Digest) {
        self.files.sort_by(|a, b| (&a.output, a.seq).cmp(&(&b.output, b.seq)));
        let bytes = encode(self);
        let digest = Digest::of(&bytes);
        (bytes, digest)
    }

    /// Reads a stored manifest and checks that it is the one that was sealed.
    ///
    /// # Errors
    /// Bytes with another digest, or not a manifest.
    pub fn open(bytes: &[u8], sealed: Digest) -> Result<Self, RecordError> {
        opened(bytes, sealed)
    }
}

/// A file somebody uploaded to be an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadRecord {
    /// Id, also part of its keys.
    pub id: String,
    /// User who uploaded it; nobody else may use it.
    pub uploader: String,
    /// Namespace it may be used in.
    pub namespace: String,
    /// Definition it was uploaded for.
    pub definition: String,
    /// Input of that definition.
    pub input: String,
    /// Bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub sha256: Digest,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The store's id of an upload in parts, by which it is continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multipart: Option<String>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Whether all bytes have come; only then it can be an input.
    pub complete: bool,
}

/// Says that all keys of a run were deleted. What was still on its way then comes later, and is swept by this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoneRecord {
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// When its keys were deleted.
    pub deleted_at: Timestamp,
}

/// Says from when on the history record of a run is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryDue {
    /// Name of the AsyncTask.
    pub name: String,
    /// UID of the AsyncTask.
    pub task_uid: String,
    /// When the AsyncTask was created.
    pub created_at: Timestamp,
    /// From then on.
    pub delete_at: Timestamp,
}

/// What became of a run: written while it lives, read when its AsyncTask is gone. What the API defines is kept as the
/// API spells it, so this room need not know the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRecord {
    /// [`VERSION`]
    pub version: u32,
    /// Namespace of the AsyncTask.
    pub namespace: String,
    /// Name of the AsyncTask.
    pub name: String,
    /// UID of the AsyncTask.
    pub uid: String,
    /// When the AsyncTask was created.
    pub created_at: Timestamp,
    /// `spec`, as asked for.
    pub spec: Value,
    /// `status.state`
    pub state: String,
    /// `status.reason`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `status.message`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `status.revision`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Value>,
    /// `status.store`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Value>,
    /// Every change of state, the oldest first; the status holds only the newest.
    #[serde(default)]
    pub transitions: Vec<RecordedTransition>,
    /// `status.steps`
    #[serde(default)]
    pub steps: Vec<Value>,
    /// `status.failure`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Value>,
    /// `status.outputs`
    #[serde(default)]
    pub outputs: Vec<Value>,
    /// When this was written.
    pub recorded_at: Timestamp,
    /// When the operator deleted the AsyncTask, because its retention was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Timestamp>,
}

/// One of `status.transitions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedTransition {
    /// Counts the changes of a run from 1.
    pub seq: i64,
    /// The rest of it.
    #[serde(flatten)]
    pub change: Map<String, Value>,
}

impl HistoryRecord {
    /// This record with the transitions that only the one written before still knows.
    #[must_use]
    pub fn merge(self, earlier: Option<Self>) -> Self {
        let expired_at = self.expired_at.or(earlier.as_ref().and_then(|record| record.expired_at));
        let before = earlier.into_iter().flat_map(|record| record.transitions);
        let by_seq: BTreeMap<i64, _> =
            before.chain(self.transitions).map(|transition| (transition.seq, transition)).collect();
        Self { transitions: by_seq.into_values().collect(), expired_at, ..self }
    }
}

/// Which cluster writes below a prefix. A second one is refused: it would sweep what it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRecord {
    /// UID of the namespace `kube-system`.
    pub cluster_uid: String,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not what we write.
    #[error("not a record of this kind: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer release.
    #[error("written in version {found} of the format, this release reads up to {VERSION}: upgrade it")]
    TooNew {
        /// Version found.
        found: u32,
    },
    /// A manifest under a foreign name.
    #[error("the manifest has SHA-256 {found}, the status names {sealed}: it was changed after it was sealed")]
    NotTheSealed {
        /// Digest of the bytes.
        found: Digest,
        /// Digest in the status.
        sealed: Digest,
    },
}

/// The bytes to store.
#[must_use]
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("invariant: records have string keys and no failing serializer").into()
}

/// Reads stored bytes, refusing versions this release does not know.
///
/// # Errors
/// Not JSON of this shape, or too new.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    /// Read first: a newer record may have another shape.
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(default)]
        version: Option<u32>,
    }
    match serde_json::from_slice::<Versioned>(bytes)?.version {
        Some(found) if found > VERSION => Err(RecordError::TooNew { found }),
        _ => Ok(serde_json::from_slice(bytes)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(output: &str, seq: u32) -> ManifestFile {
        ManifestFile {
            output: output.into(),
            seq,
            path: format!("{output}/{seq}"),
            size: 1,
            sha256: Digest::of(b"x"),
            media_type: None,
            key: format!("k/{output}/{seq}"),
        }
    }

    fn manifest(files: Vec<ManifestFile>) -> Manifest {
        Manifest { version: VERSION, task_uid: "t".into(), step: "s".into(), pod_uid: "p".into(), files, pages: vec![] }
    }

    #[test]
    fn a_manifest_has_one_spelling_whatever_the_order_of_its_files() {
        let one = manifest(vec![file("b", 0), file("a", 10), file("a", 9)]).seal();
        let two = manifest(vec![file("a", 9), file("b", 0), file("a", 10)]).seal();
        assert_eq!(one, two);
        let read = Manifest::open(&one.0, one.1).expect("just sealed");
        let order: Vec<_> = read.files.iter().map(|f| (f.output.as_str(), f.seq)).collect();
        assert_eq!(order, [("a", 9), ("a", 10), ("b", 0)]);
    }

    #[test]
    fn a_manifest_changed_after_sealing_is_refused() {
        let (bytes, sealed) = manifest(vec![file("a", 0)]).seal();
        let changed = String::from_utf8_lossy(&bytes).replace("k/a/0", "k/b/0");
        assert!(matches!(Manifest::open(changed.as_bytes(), sealed), Err(RecordError::NotTheSealed { .. })));
    }

    #[test]
    fn a_newer_record_is_refused_before_its_shape_is_judged() {
        let error = decode::<Manifest>(br#"{"version":2,"pages":[]}"#).expect_err("newer");
        assert!(matches!(error, RecordError::TooNew { found: 2 }), "{error}");
        assert!(matches!(decode::<Manifest>(b"{"), Err(RecordError::Malformed(_))));
    }

    #[test]
    fn records_without_a_version_are_read() {
        let owner = OwnerRecord { cluster_uid: "c".into() };
        assert_eq!(&encode(&owner)[..], br#"{"clusterUid":"c"}"#);
        assert_eq!(decode::<OwnerRecord>(&encode(&owner)).expect("round trip"), owner);
    }

    fn history(seqs: &[i64], word: &str) -> HistoryRecord {
        let transition = |seq: &i64| serde_json::json!({"seq": seq, "to": "InProgress", "reason": word});
        serde_json::from_value(serde_json::json!({
            "version": VERSION, "namespace": "studio", "name": "run", "uid": "t-1", "spec": {"owner": "ada"},
            "createdAt": Timestamp::UNIX_EPOCH, "recordedAt": Timestamp::UNIX_EPOCH, "state": word,
            "transitions": seqs.iter().map(transition).collect::<Vec<_>>(),
        }))
        .expect("a record")
    }

    #[test]
    fn a_later_history_record_keeps_the_transitions_that_the_status_has_forgotten() {
        let merged = history(&[3, 4], "Later").merge(Some(history(&[1, 2, 3], "Earlier")));
        let seqs: Vec<_> = merged.transitions.iter().map(|transition| transition.seq).collect();
        assert_eq!((seqs, merged.state.as_str()), (vec![1, 2, 3, 4], "Later"));
        assert_eq!(merged.transitions[2].change["reason"], "Later", "the newer word counts");
        assert_eq!(history(&[1], "Only").merge(None), history(&[1], "Only"));
    }

    #[test]
    fn a_transition_is_recorded_as_the_api_spells_it() {
        let spelt = serde_json::json!({"seq": 2, "from": "Pending", "to": "InProgress", "reason": "Started"});
        let recorded: RecordedTransition = serde_json::from_value(spelt.clone()).expect("a transition");
        assert_eq!(serde_json::to_value(&recorded).expect("JSON"), spelt);
    }

    #[test]
    fn the_largest_commit_fits_into_a_record() {
        let path = "\u{7f}é\"\\".repeat(171);
        let committed = CommittedFile {
            output: "o".repeat(63),
            seq: 999,
            path,
            size: u64::MAX,
            sha256: Digest::of(b"").to_string(),
            media_type: Some("m".repeat(127)),
        };
        let record = CommitRecord {
            version: VERSION,
            task_uid: "u".repeat(36),
            step: "s".repeat(63),
            attempt: 1,
            pod_uid: "p".repeat(36),
            shard: 0,
            files: vec![committed; 1001],
            emitted: None,
            items: None,
            warning: None,
            image: None,
            committed_at: Timestamp::UNIX_EPOCH,
        };
        assert!((encode(&record).len() as u64) < RECORD_MAX / 2);
    }
}
