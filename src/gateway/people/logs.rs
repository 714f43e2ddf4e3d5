//! The log of a step, or of one shard of it: sealed, or as a pod has left it.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::readable::{Readable, taken_over};
use super::shards::record;
use crate::Gateway;
use crate::problem::Refusal;
use crate::sealed::{self, Sealed, status_of};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::StoreError;
use asynctask_storage::digest::Expected;
use asynctask_storage::layout::{AttemptKind, StepKeys};
use asynctask_storage::records::{FailureRecord, ManifestFile};

/// Longest log that is measured before it is sent: above what an agent stores.
const LOG_MAX: u64 = 16 << 20;

/// The log of a step, or of one of its shards: the sealed one, else one that a pod has left by now, else the one of the
/// run that this one continues.
pub(super) async fn log(
    gateway: &Gateway,
    readable: &Readable,
    open: &OpenStore,
    step: &str,
    shard: Option<u32>,
) -> Result<Option<ManifestFile>, Refusal> {
    let Some(status) = status_of(&readable.task, step) else { return Ok(None) };
    if let Some(sealed) = Sealed::of(gateway, open, &readable.task, status).await? {
        return of_shard(&sealed, shard).await;
    }
    let keys = sealed::keys(open, &readable.namespace, &readable.task.uid().unwrap_or_default(), step)?;
    if let Some(found) = unsealed(open, &keys, shard).await? {
        return Ok(Some(found));
    }
    match taken_over(gateway, open, &readable.namespace, status).await? {
        Some(sealed) => of_shard(&sealed, shard).await,
        None => Ok(None),
    }
}

async fn of_shard(sealed: &Sealed<'_>, shard: Option<u32>) -> Result<Option<ManifestFile>, Refusal> {
    let Some(number) = shard.filter(|_| sealed.is_fan_out()) else { return sealed.file(LOG_OUTPUT, 0).await };
    let shards = sealed.shards(number..number.saturating_add(1)).await?;
    Ok(shards.into_iter().flat_map(|shard| shard.files).find(|file| file.output == LOG_OUTPUT))
}

/// What a pod has left of itself.
#[derive(Default)]
struct Left {
    commit: bool,
    failure: Option<String>,
    log: Option<String>,
}

async fn unsealed(open: &OpenStore, keys: &StepKeys, shard: Option<u32>) -> Result<Option<ManifestFile>, Refusal> {
    let pods = pods(open, keys, shard.unwrap_or(0)).await?;
    let Some(key) = most_telling(open, pods).await? else { return Ok(None) };
    // Nobody vouches for it yet, so it is measured as it is now. Never more than a piece of it is in memory.
    let read = match open.store.get(&key, None).await {
        Ok(object) => Expected::of_stream(object.stream, LOG_MAX).await?,
        // Listed a moment ago and gone.
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // A larger one is no log of ours.
    let Some(Expected { size, sha256 }) = read else { return Ok(None) };
    let name = format!("{LOG_OUTPUT}.txt");
    let path = shard.map_or(name.clone(), |shard| format!("{shard}/{name}"));
    let (output, media_type) = (LOG_OUTPUT.to_owned(), Some("text/plain".to_owned()));
    Ok(Some(ManifestFile { output, seq: 0, path, size, sha256, media_type, key }))
}

async fn pods(open: &OpenStore, keys: &StepKeys, shard: u32) -> Result<BTreeMap<String, Left>, Refusal> {
    let mut pods: BTreeMap<String, Left> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = open.store.list(&keys.shard_prefix(shard), after.as_deref(), 1000).await?;
        after = page.objects.last().map(|meta| meta.key.clone());
        for meta in page.objects {
            let Some(key) = keys.parse(&meta.key) else { continue };
            let left = pods.entry(key.pod_uid).or_default();
            match key.kind {
                AttemptKind::Commit => left.commit = true,
                AttemptKind::Failure => left.failure = Some(meta.key),
                AttemptKind::Log => left.log = Some(meta.key),
                AttemptKind::File { .. } | AttemptKind::Items { .. } => {}
            }
        }
        if !page.more || after.is_none() {
            return Ok(pods);
        }
    }
}

/// The log that the seal would choose: of the attempt that wins, else of the last reported failure, else any.
async fn most_telling(open: &OpenStore, mut pods: BTreeMap<String, Left>) -> Result<Option<String>, Refusal> {
    if let Some(winner) = pods.values_mut().find(|left| left.commit) {
        return Ok(winner.log.take());
    }
    pods.retain(|_, left| left.log.is_some());
    let mut newest = None;
    for left in pods.values() {
        let Some(failure) = &left.failure else { continue };
        let Some(FailureRecord { failed_at, .. }) = record::<FailureRecord>(open, failure).await? else { continue };
        newest = newest.max(Some((failed_at, left.log.clone())));
    }
    let silent = || pods.into_values().next_back().and_then(|left| left.log);
    Ok(newest.map_or_else(silent, |(_, log)| log))
}
