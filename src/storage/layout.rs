//! The one file that knows keys.
//!
//! ```text
//! <prefix>/_owner
//! <prefix>/<namespace>/_uploads/<id>/{data,record}
//! <prefix>/<namespace>/_gone/<task-uid>.json
//! <prefix>/<namespace>/_due/<yyyy-mm-dd>/<task-uid>.json
//! <prefix>/<namespace>/_history/<yyyy>/<mm>/<task-name>/<seconds>-<task-uid>.json
//! <prefix>/<namespace>/<task-uid>/<step>/manifest-<sha256>
//! <prefix>/<namespace>/<task-uid>/<step>/<shard>/<pod-uid>/{commit,failure,log,files/<output>/<seq>,items/<n>}
//! ```
//!
//! `<shard>` has six digits, so that a listing gives the shards in their order and a reader needs no memory of them.
//! `<seconds>` are those from the creation of the run to the end of its month, seven digits: of the runs of a name the newest
//! comes first.
//!
//! Every part is a name that Kubernetes made or checked, and is checked again here: it can hold no `/` and cannot
//! begin with `_` or `.`, so no name can be taken for another part, for `_owner`, `_uploads`, `_gone`,
//! `_due` or `_history`.

mod history;

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

pub use self::history::HistoryKey;
use super::digest::Digest;
use asynctask_contract::env::LOG_OUTPUT;

/// Longest part of a key: a Kubernetes object name.
const PART_MAX: usize = 253;

/// A text that cannot be part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} cannot be the {what} in a store key: 1 to 253 of a-z A-Z 0-9 - _ . are allowed, not starting with _ or ."
)]
pub struct InvalidPart {
    what: &'static str,
    value: String,
}

fn checked(what: &'static str, value: &str) -> Result<String, InvalidPart> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=PART_MAX).contains(&value.len()) && !value.starts_with(['_', '.']) && value.bytes().all(allowed) {
        Ok(value.to_owned())
    } else {
        // A hostile value is shown escaped and cut: it ends up in logs.
        Err(InvalidPart { what, value: value.chars().take(80).collect() })
    }
}

/// What the keys of a listing begin with. Empty or ending in `/`, so `a/` never covers `ab`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// As the beginning of a key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Keys of one OutputStore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: Prefix,
}

impl Layout {
    /// `prefix` as in the OutputStore: parts joined by `/`, or empty for the whole bucket.
    ///
    /// # Errors
    /// A part that is empty or holds anything but letters, digits, `-`, `_`, `.`.
    pub fn new(prefix: &str) -> Result<Self, InvalidPart> {
        if prefix.is_empty() {
            return Ok(Self { root: Prefix(String::new()) });
        }
        for part in prefix.split('/') {
            checked("prefix", part)?;
        }
        Ok(Self { root: Prefix(format!("{prefix}/")) })
    }

    /// All keys of this store.
    #[must_use]
    pub fn root(&self) -> &Prefix {
        &self.root
    }

    /// Says which cluster writes here: [`super::records::OwnerRecord`].
    #[must_use]
    pub fn owner(&self) -> String {
        format!("{}_owner", self.root)
    }

    /// Written, read and deleted by a probe. Below `_probe/`, where no namespace can be.
    pub(crate) fn probe(&self, cluster_uid: &str) -> Result<(Prefix, String), InvalidPart> {
        let prefix = Prefix(format!("{}_probe/{}/", self.root, checked("cluster UID", cluster_uid)?));
        let key = format!("{prefix}object");
        Ok((prefix, key))
    }

    /// Keys of one run.
    ///
    /// # Errors
    /// A name or UID that cannot be part of a key.
    pub fn task(&self, namespace: &str, task_uid: &str) -> Result<TaskKeys, InvalidPart> {
        let (namespace, uid) = (checked("namespace", namespace)?, checked("task UID", task_uid)?);
        Ok(TaskKeys { prefix: Prefix(format!("{}{namespace}/{uid}/", self.root)) })
    }

    /// Keys of one upload.
    ///
    /// # Errors
    /// A name or id that cannot be part of a key.
    pub fn upload(&self, namespace: &str, id: &str) -> Result<UploadKeys, InvalidPart> {
        let (namespace, id) = (checked("namespace", namespace)?, checked("upload id", id)?);
        Ok(UploadKeys { prefix: Prefix(format!("{}{namespace}/_uploads/{id}/", self.root)) })
    }

    /// To list all uploads of a namespace; the keys of their records end in [`UPLOAD_RECORD`].
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn uploads_in(&self, namespace: &str) -> Result<Prefix, InvalidPart> {
        Ok(Prefix(format!("{}{}/_uploads/", self.root, checked("namespace", namespace)?)))
    }

    /// Where [`super::records::GoneRecord`] of a run is: beside its keys, which are gone.
    ///
    /// # Errors
    /// A name or UID that cannot be part of a key.
    pub fn gone(&self, namespace: &str, task_uid: &str) -> Result<String, InvalidPart> {
        Ok(format!("{}{}{RECORD}", self.gone_in(namespace)?, checked("task UID", task_uid)?))
    }

    /// To list all of those of a namespace; their keys end in [`RECORD`].
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn gone_in(&self, namespace: &str) -> Result<Prefix, InvalidPart> {
        Ok(Prefix(format!("{}{}/_gone/", self.root, checked("namespace", namespace)?)))
    }

    /// Where [`super::records::HistoryDue`] of a run is, filed under the day (UTC) on which its record is to be deleted.
    ///
    /// # Errors
    /// A name or UID that cannot be part of a key.
    pub fn due(&self, namespace: &str, delete_at: Timestamp, task_uid: &str) -> Result<String, InvalidPart> {
        let day = self.due_on(namespace, delete_at.to_zoned(TimeZone::UTC).date())?;
        Ok(format!("{day}{}{RECORD}", checked("task UID", task_uid)?))
    }

    /// To find the days on which something of a namespace is due: its folders.
    pub fn due_in(&self, namespace: &str) -> Result<Prefix, InvalidPart> {
        Ok(Prefix(format!("{}{}/_due/", self.root, checked("namespace", namespace)?)))
    }

    /// To list what is due on a day; the keys end in [`RECORD`].
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn due_on(&self, namespace: &str, day: Date) -> Result<Prefix, InvalidPart> {
        Ok(Prefix(format!("{}{day}/", self.due_in(namespace)?)))
    }
}

/// End of the key of an upload's record.
pub const UPLOAD_RECORD: &str = "/record";
/// End of the keys of history records, of what says when they are due, and of markers that keys were deleted.
pub const RECORD: &str = ".json";

/// Keys of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskKeys {
    prefix: Prefix,
}

impl TaskKeys {
    /// All that belongs to the run.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Keys of one step.
    ///
    /// # Errors
    /// A name that cannot be part of a key.
    pub fn step(&self, name: &str) -> Result<StepKeys, InvalidPart> {
        Ok(StepKeys { prefix: Prefix(format!("{}{}/", self.prefix, checked("step", name)?)) })
    }
}

/// Keys of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepKeys {
    prefix: Prefix,
}

impl StepKeys {
    /// To list all attempts; [`Self::parse`] reads the keys found.
    #[must_use]
    pub fn attempts_prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The sealed result, named by its content: never overwritten, whoever writes it twice writes the same.
    #[must_use]
    pub fn manifest(&self, sha256: Digest) -> String {
        format!("{}manifest-{sha256}", self.prefix)
    }

    /// Keys of one attempt. A plain step has the one shard 0.
    ///
    /// # Errors
    /// A UID that cannot be part of a key.
    pub fn attempt(&self, shard: u32, pod_uid: &str) -> Result<AttemptKeys, InvalidPart> {
        Ok(AttemptKeys { prefix: Prefix(format!("{}{shard:06}/{}/", self.prefix, checked("pod UID", pod_uid)?)) })
    }

    /// To list the attempts of one shard.
    #[must_use]
    pub fn shard_prefix(&self, shard: u32) -> Prefix {
        Prefix(format!("{}{shard:06}/", self.prefix))
    }

    /// Reads a key found below [`Self::attempts_prefix`]. `None`: not an attempt's key (a manifest, or foreign).
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<AttemptKey> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        let mut parts = rest.splitn(3, '/');
        let (shard, pod_uid, below) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = match below.split('/').collect::<Vec<_>>()[..] {
            ["commit"] => AttemptKind::Commit,
            ["failure"] => AttemptKind::Failure,
            ["log"] => AttemptKind::Log,
            ["files", output, seq] => {
                AttemptKind::File { output: checked("output", output).ok()?, seq: parse_number(seq)? }
            }
            ["items", number] => AttemptKind::Items { number: parse_number(number)? },
            _ => return None,
        };
        Some(AttemptKey { shard: parse_shard(shard)?, pod_uid: checked("pod UID", pod_uid).ok()?, kind })
    }
}

fn parse_shard(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|shard| format!("{shard:06}") == text)
}

/// Only the spelling we write: `007` and `+7` would be second names of `7`.
fn parse_number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|number| number.to_string() == text)
}

/// What a listed key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptKey {
    /// Which shard of the step; 0 for a plain step.
    pub shard: u32,
    /// Which pod wrote it.
    pub pod_uid: String,
    /// What it is.
    pub kind: AttemptKind,
}

impl AttemptKey {
    /// Name of the output that it is of; `None`: a record, or items on their way.
    #[must_use]
    pub fn output(&self) -> Option<&str> {
        match &self.kind {
            AttemptKind::Log => Some(LOG_OUTPUT),
            AttemptKind::File { output, .. } => Some(output),
            AttemptKind::Commit | AttemptKind::Failure | AttemptKind::Items { .. } => None,
        }
    }
}

/// What an attempt leaves in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// [`super::records::CommitRecord`]
    Commit,
    /// [`super::records::FailureRecord`]
    Failure,
    /// The log.
    Log,
    /// A file of an output.
    File {
        /// Name of the output.
        output: String,
        /// Number of the file within it.
        seq: u32,
    },
    /// Items that a planner emitted, for one shard.
    Items {
        /// Number of the shard.
        number: u32,
    },
}

/// Keys of one attempt: all that one pod may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptKeys {
    prefix: Prefix,
}

impl AttemptKeys {
    /// All that the pod may write.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// [`super::records::CommitRecord`]
    #[must_use]
    pub fn commit(&self) -> String {
        format!("{}commit", self.prefix)
    }

    /// [`super::records::FailureRecord`]
    #[must_use]
    pub fn failure(&self) -> String {
        format!("{}failure", self.prefix)
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}log", self.prefix)
    }

    /// The items of shard `number`, written by a planner.
    #[must_use]
    pub fn items(&self, number: u32) -> String {
        format!("{}items/{number}", self.prefix)
    }

    /// To list the shards of items that a planner wrote.
    #[must_use]
    pub fn items_prefix(&self) -> Prefix {
        Prefix(format!("{}items/", self.prefix))
    }

    /// A file of an output; the built-in output `log` has its one file at [`Self::log`].
    ///
    /// # Errors
    /// A name that cannot be part of a key, or a second file of the log.
    pub fn file(&self, output: &str, seq: u32) -> Result<String, InvalidPart> {
        match (output, seq) {
            (LOG_OUTPUT, 0) => Ok(self.log()),
            (LOG_OUTPUT, _) => Err(InvalidPart { what: "file of the log", value: seq.to_string() }),
            _ => Ok(format!("{}files/{}/{seq}", self.prefix, checked("output", output)?)),
        }
    }
}

/// Keys of one upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadKeys {
    prefix: Prefix,
}

impl UploadKeys {
    /// All that belongs to the upload.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The bytes.
    #[must_use]
    pub fn data(&self) -> String {
        format!("{}data", self.prefix)
    }

    /// [`super::records::UploadRecord`]
    #[must_use]
    pub fn record(&self) -> String {
        format!("{}record", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step() -> StepKeys {
        let layout = Layout::new("prod/tasks").expect("valid");
        layout.task("studio", "t-1").and_then(|task| task.step("import")).expect("valid")
    }

    #[test]
    fn keys_are_the_documented_ones() {
        let layout = Layout::new("prod/tasks").expect("valid");
        let attempt = step().attempt(0, "p-1").expect("valid");
        assert_eq!(layout.owner(), "prod/tasks/_owner");
        assert_eq!(layout.task("studio", "t-1").expect("valid").prefix().as_str(), "prod/tasks/studio/t-1/");
        assert_eq!(attempt.commit(), "prod/tasks/studio/t-1/import/000000/p-1/commit");
        assert_eq!(attempt.failure(), "prod/tasks/studio/t-1/import/000000/p-1/failure");
        assert_eq!(attempt.log(), "prod/tasks/studio/t-1/import/000000/p-1/log");
        assert_eq!(attempt.file("report", 3).expect("valid"), "prod/tasks/studio/t-1/import/000000/p-1/files/report/3");
        assert_eq!(attempt.file("log", 0).expect("valid"), attempt.log());
        assert!(attempt.file("log", 1).is_err());
        let empty = Digest::of(b"");
        assert_eq!(step().manifest(empty), format!("prod/tasks/studio/t-1/import/manifest-{empty}"));
        let upload = layout.upload("studio", "u-1").expect("valid");
        assert_eq!(upload.data(), "prod/tasks/studio/_uploads/u-1/data");
        assert_eq!(upload.record(), "prod/tasks/studio/_uploads/u-1/record");
        assert_eq!(Layout::new("").expect("valid").owner(), "_owner");
    }

    #[test]
    fn names_that_could_be_read_as_something_else_are_refused() {
        let layout = Layout::new("p").expect("valid");
        for bad in
            ["", "_owner", "_uploads", "..", ".", ".x", "a/b", "a\\b", "a b", "é", "a\n", "a%2fb", &"x".repeat(254)]
        {
            assert!(layout.task(bad, "uid").is_err(), "namespace {bad:?}");
            assert!(layout.task("ns", bad).is_err(), "uid {bad:?}");
            assert!(layout.upload("ns", bad).is_err(), "upload {bad:?}");
            assert!(layout.history("ns", Timestamp::UNIX_EPOCH, bad, "uid").is_err(), "name {bad:?}");
            assert!(layout.history("ns", Timestamp::UNIX_EPOCH, "name", bad).is_err(), "uid {bad:?}");
            assert!(step().attempt(0, bad).is_err(), "pod {bad:?}");
            assert!(step().attempt(0, "p").expect("valid").file(bad, 0).is_err(), "output {bad:?}");
        }
        for bad in ["/", "/a", "a/", "a//b", "a/../b", "_x", "a/_owner"] {
            assert!(Layout::new(bad).is_err(), "prefix {bad:?}");
        }
    }

    #[test]
    fn keys_that_no_attempt_writes_are_not_parsed() {
        let step = step();
        let manifest = step.manifest(Digest::of(b""));
        let at = |rest: &str| format!("{}{rest}", step.attempts_prefix());
        for key in [
            manifest,
            at("0/p"),
            at("0/p/"),
            at("0/p/other"),
            at("00/p/commit"),
            at("+1/p/commit"),
            at("x/p/commit"),
            at("0/_p/commit"),
            at("0/p/files/report"),
            at("0/p/files/report/01"),
            at("0/p/files/report/1/2"),
            "prod/tasks/studio/t-1/importer/0/p/commit".to_owned(),
        ] {
            assert_eq!(step.parse(&key), None, "{key}");
        }
    }

    const NAME: &str = "[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?";

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            prefix in prop::collection::vec(NAME, 0..3), ns in NAME, uid in NAME, step in NAME,
            shard in any::<u32>(), pod in NAME, output in NAME, seq in any::<u32>(),
        ) {
            prop_assume!(output != LOG_OUTPUT);
            let layout = Layout::new(&prefix.join("/")).expect("valid");
            let step = layout.task(&ns, &uid).and_then(|task| task.step(&step)).expect("valid");
            let attempt = step.attempt(shard, &pod).expect("valid");
            let file = attempt.file(&output, seq).expect("valid");
            for (key, kind) in [
                (attempt.commit(), AttemptKind::Commit),
                (attempt.failure(), AttemptKind::Failure),
                (attempt.log(), AttemptKind::Log),
                (file, AttemptKind::File { output: output.clone(), seq }),
            ] {
                prop_assert!(key.starts_with(attempt.prefix().as_str()));
                prop_assert_eq!(step.parse(&key), Some(AttemptKey { shard, pod_uid: pod.clone(), kind }));
            }
        }

        #[test]
        fn no_run_can_reach_into_another(
            a in (NAME, NAME), b in (NAME, NAME), step in NAME, pod in NAME,
        ) {
            prop_assume!(a != b);
            let layout = Layout::new("p").expect("valid");
            let theirs = layout.task(&b.0, &b.1).expect("valid");
            let key = theirs.step(&step).and_then(|step| step.attempt(0, &pod)).expect("valid").commit();
            let ours = layout.task(&a.0, &a.1).expect("valid");
            prop_assert!(!key.starts_with(ours.prefix().as_str()));
            prop_assert!(!layout.owner().starts_with(ours.prefix().as_str()));
        }
    }
}
