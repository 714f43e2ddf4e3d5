//! What counts of all that the pods of a shard left.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt, stream};

use super::listing::{Group, Left, Listing};
use super::sealed::Sealed;
use crate::task::results::{LOG_MAX, LOG_TYPE, Reader, require_owner, stuck};
use asynctask_api::condition::cut;
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::wire::{CommittedFile, ItemCounts, REASONS};
use asynctask_plan::snapshot::Trouble;
use asynctask_storage::layout::{AttemptKeys, StepKeys};
use asynctask_storage::records::{CommitRecord, FailureRecord, ManifestFile, SealedShard, ShardFailure};
use asynctask_storage::{Expected, StoreError};

/// Shards read side by side.
pub(super) const READS: usize = 32;
/// Longest words of a failure that are sealed; its log says all.
const CODE_MAX: usize = 63;
const MESSAGE_MAX: usize = 512;
/// Stands for reasons beyond [`REASONS`].
const OTHER: &str = "Other";

/// Whether the logs of pods that left no word are looked at: only their digest can be sealed, so they are read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logs {
    Leave,
    Seal,
}

/// Where the shards of a step are.
pub(super) struct Place<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) namespace: String,
    pub(super) keys: StepKeys,
}

/// What is known of a shard before its records are read.
struct Found {
    shard: u32,
    pods: BTreeMap<String, Left>,
    given: Option<SealedShard>,
}

/// Own keys and those of the run that is continued, shard by shard.
struct Merge<'a> {
    place: &'a Place<'a>,
    listing: Listing<'a>,
    group: Option<Group>,
    given: Sealed<'a>,
    shard: u32,
    total: u32,
    missing: bool,
}

impl Merge<'_> {
    async fn next(&mut self) -> Result<Option<Found>, Trouble> {
        let shard = self.shard;
        if shard == self.total {
            if self.missing {
                // An emptied store looks as if nobody had left anything.
                require_owner(self.place.reader.open).await.map_err(|error| stuck(error.reason(), &error))?;
            }
            return Ok(None);
        }
        self.shard += 1;
        if self.group.as_ref().is_none_or(|group| group.shard < shard) {
            self.group = self.listing.next().await?;
        }
        let own = self.group.take_if(|group| group.shard == shard);
        let given = self.given.take(shard).await?.filter(|shard| shard.failure.is_none());
        self.missing |= own.is_none() && given.is_none();
        Ok(Some(Found { shard, pods: own.map(|group| group.pods).unwrap_or_default(), given }))
    }
}

impl<'a> Place<'a> {
    /// What became of shards `0..total`, in their order.
    pub(super) fn shards(
        &'a self,
        given: Sealed<'a>,
        total: u32,
        logs: Logs,
    ) -> impl Stream<Item = Result<SealedShard, Trouble>> + 'a {
        let listing = Listing::new(self.reader.open.store.as_ref(), &self.keys);
        let merge = Merge { place: self, listing, group: None, given, shard: 0, total, missing: false };
        stream::try_unfold(merge, |mut merge| async move { Ok(merge.next().await?.map(|found| (found, merge))) })
            .map(move |found| async move { self.judge(found?, logs).await })
            .buffered(READS)
    }

    /// A commit counts, of several the one of the smallest pod UID; without one what the run that is continued has;
    /// without that the last word.
    async fn judge(&self, found: Found, logs: Logs) -> Result<SealedShard, Trouble> {
        let shard = found.shard;
        for (pod_uid, _) in found.pods.iter().filter(|(_, left)| left.commit) {
            if let Some(committed) = self.commit(shard, pod_uid).await? {
                return Ok(committed);
            }
        }
        if let Some(given) = found.given {
            return Ok(given);
        }
        let mut last: Option<FailureRecord> = None;
        for (pod_uid, _) in found.pods.iter().filter(|(_, left)| left.failure) {
            let record = self.failure(shard, pod_uid).await?;
            let newest = |record: &FailureRecord| (record.failed_at, record.pod_uid.clone());
            last = last.into_iter().chain(record).max_by_key(newest);
        }
        match last {
            Some(last) => self.failed(&found.pods, last, logs).await,
            None => self.silent(shard, &found.pods, logs).await,
        }
    }

    async fn commit(&self, shard: u32, pod_uid: &str) -> Result<Option<SealedShard>, Trouble> {
        let attempt = self.attempt(shard, pod_uid)?;
        let (key, reader) = (attempt.commit(), &self.reader);
        let Some(record) = reader.record::<CommitRecord>(&key).await? else { return Ok(None) };
        let of_step = record.task_uid == reader.uid && record.step == reader.step;
        if !of_step || record.shard != shard || record.pod_uid != pod_uid {
            return Ok(None);
        }
        let mut files = Vec::with_capacity(record.files.len());
        for file in record.files {
            let Some(file) = sealed_file(shard, &attempt, file) else {
                tracing::warn!(uid = reader.uid, key, "a record with a file that cannot be is passed over");
                return Ok(None);
            };
            files.push(file);
        }
        files.sort_by(|a, b| (&a.output, a.seq).cmp(&(&b.output, b.seq)));
        let (attempt, items) = (record.attempt, record.items.map(bounded));
        Ok(Some(SealedShard { shard, pod_uid: record.pod_uid, attempt, files, items, failure: None }))
    }

    async fn failure(&self, shard: u32, pod_uid: &str) -> Result<Option<FailureRecord>, Trouble> {
        let key = self.attempt(shard, pod_uid)?.failure();
        let record = self.reader.record::<FailureRecord>(&key).await?;
        Ok(record.filter(|record| {
            let of_step = record.task_uid == self.reader.uid && record.step == self.reader.step;
            of_step && record.shard == shard && record.pod_uid == pod_uid
        }))
    }

    async fn failed(
        &self,
        pods: &BTreeMap<String, Left>,
        last: FailureRecord,
        logs: Logs,
    ) -> Result<SealedShard, Trouble> {
        let FailureRecord { shard, pod_uid, attempt, report, .. } = last;
        let keys = self.attempt(shard, &pod_uid)?;
        let (exit_code, failed_by) = (report.programs_exit_code(), report.failed_by);
        let reported = report.log.and_then(|log| sealed_file(shard, &keys, log));
        let log = match reported.filter(|log| log.output == LOG_OUTPUT) {
            None if pods.get(&pod_uid).is_some_and(|left| left.log) => self.log(shard, &keys, logs).await?,
            reported => reported,
        };
        let failure = ShardFailure {
            code: cut(&report.code, CODE_MAX),
            message: cut(&report.message, MESSAGE_MAX),
            exit_code,
            failed_by,
        };
        let files = log.into_iter().collect();
        Ok(SealedShard { shard, pod_uid, attempt, files, items: None, failure: Some(failure) })
    }

    /// Nobody left a word; a log perhaps. Of several any will do, as long as it is always the same.
    async fn silent(&self, shard: u32, pods: &BTreeMap<String, Left>, logs: Logs) -> Result<SealedShard, Trouble> {
        let log = match pods.iter().rfind(|(_, left)| left.log) {
            Some((pod_uid, _)) => self.log(shard, &self.attempt(shard, pod_uid)?, logs).await?,
            None => None,
        };
        let failure = ShardFailure {
            code: "OutputNotCommitted".to_owned(),
            message: "the pod left neither a result nor a report".to_owned(),
            exit_code: None,
            failed_by: None,
        };
        Ok(SealedShard {
            shard,
            pod_uid: String::new(),
            attempt: 0,
            files: log.into_iter().collect(),
            items: None,
            failure: Some(failure),
        })
    }

    /// A log that no report vouches for, if it is wanted. Never more than a piece of it is in memory.
    async fn log(&self, shard: u32, attempt: &AttemptKeys, logs: Logs) -> Result<Option<ManifestFile>, Trouble> {
        if logs == Logs::Leave {
            return Ok(None);
        }
        let key = attempt.log();
        let read = match self.reader.open.store.get(&key, None).await {
            Ok(object) => Expected::of_stream(object.stream, LOG_MAX).await,
            // Listed a moment ago and gone.
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        let read = read.map_err(|error| stuck(error.reason(), &error))?;
        // A larger one is no log of ours.
        let Some(Expected { size, sha256 }) = read else { return Ok(None) };
        let (output, path) = (LOG_OUTPUT.to_owned(), format!("{shard}/{LOG_OUTPUT}.txt"));
        Ok(Some(ManifestFile { output, seq: 0, path, size, sha256, media_type: Some(LOG_TYPE.to_owned()), key }))
    }

    fn attempt(&self, shard: u32, pod_uid: &str) -> Result<AttemptKeys, Trouble> {
        self.keys.attempt(shard, pod_uid).map_err(|error| stuck("InvalidKey", &error))
    }
}

/// A file as it is sealed; `None` for one that no gateway of ours let through.
fn sealed_file(shard: u32, attempt: &AttemptKeys, file: CommittedFile) -> Option<ManifestFile> {
    Some(ManifestFile {
        sha256: file.sha256.parse().ok()?,
        key: attempt.file(&file.output, file.seq).ok()?,
        path: format!("{shard}/{}", file.path),
        output: file.output,
        seq: file.seq,
        size: file.size,
        media_type: file.media_type,
    })
}

/// What a pod says of its items, in no more words than an agent of ours uses: a page holds a thousand of them.
fn bounded(items: ItemCounts) -> ItemCounts {
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in items.reasons {
        let reason = cut(&reason, CODE_MAX);
        let known = reasons.contains_key(&reason) || reasons.len() + 1 < REASONS;
        let sum = reasons.entry(if known { reason } else { OTHER.to_owned() }).or_default();
        *sum = sum.saturating_add(count);
    }
    ItemCounts { reasons, ..items }
}
