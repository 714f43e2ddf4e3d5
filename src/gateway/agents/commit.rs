//! `POST /agent/v1/commit`: publishes an attempt's result. Answers only once the record is durable.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::StatusCode;
use futures::StreamExt;
use futures::stream::{self, TryStreamExt};

use super::declared::Declared;
use super::files::digest;
use super::{DONE, Desk, emitted};
use crate::Shared;
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::request::{LIST, Payload, media_type};
use asynctask_api::condition::cut;
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_contract::file_path::validate_path;
use asynctask_contract::wire::{Commit, CommittedFile, ItemCounts, Limits, REASONS, word};
use asynctask_plan::fanout::{BuiltIn, MAX_ITEMS, is_appended};
use asynctask_storage::digest::Digest;
use asynctask_storage::records::{self, CommitRecord, RECORD_MAX};
use asynctask_storage::{PutMode, StoreError};

/// Objects looked at side by side.
const LOOKS: usize = 16;
/// Longest warning: what a status shows of it.
const WARNING_MAX: usize = 256;

pub(super) async fn commit(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(commit): Payload<Commit, LIST>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.live(&agent.pod).await?;
    agent.trail.asks("commit", attempt.what());
    attempt.require_open()?;
    let declared = Declared::of(&gateway, &attempt).await?;
    let files = checked(&commit, &declared)?;
    let desk = Desk::of(&gateway, &attempt).await?;
    if let Some(earlier) = earlier(&desk).await? {
        return same(&earlier, &commit);
    }
    if let Some(said) = commit.emitted {
        emitted::stored(&desk, said).await?;
    }
    stream::iter(files).map(|(file, sha256)| stored(&desk, file, sha256)).buffered(LOOKS).try_collect::<()>().await?;
    // Looking at 1,000 objects takes its time: the run may have ended meanwhile.
    let attempt = gateway.attempts.live(&agent.pod).await?;
    attempt.require_open()?;
    let record = CommitRecord {
        version: records::VERSION,
        task_uid: attempt.task_uid(),
        step: attempt.step.clone(),
        attempt: attempt.job.attempt,
        pod_uid: attempt.pod_uid.clone(),
        shard: attempt.shard.unwrap_or(0),
        files: commit.files.clone(),
        emitted: commit.emitted,
        items: commit.items.clone(),
        warning: commit.warning.as_deref().map(|warning| cut(warning, WARNING_MAX)),
        image: attempt.image.clone(),
        committed_at: jiff::Timestamp::now(),
    };
    match desk.open.store.put(&desk.own.commit(), records::encode(&record), PutMode::Create).await {
        Ok(()) => Ok(DONE),
        Err(StoreError::AlreadyExists { .. }) => match earlier(&desk).await? {
            Some(earlier) => same(&earlier, &commit),
            None => Err(Refusal::NotYet("the commit is being written by another call: send it again".into())),
        },
        Err(error) => Err(error.into()),
    }
}

/// What this pod committed before. Read first, because not every store refuses to write a key twice.
async fn earlier(desk: &Desk) -> Result<Option<CommitRecord>, Refusal> {
    match desk.open.store.get_bytes(&desk.own.commit(), RECORD_MAX).await {
        Ok(bytes) => Ok(Some(records::decode(&bytes)?)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn same(earlier: &CommitRecord, commit: &Commit) -> Result<StatusCode, Refusal> {
    if earlier.files == commit.files && earlier.emitted == commit.emitted && earlier.items == commit.items {
        return Ok(DONE);
    }
    Err(Refusal::Conflict {
        word: "CommittedOtherwise",
        message: "this attempt has committed another result before: a commit is never changed".into(),
    })
}

/// The files of a commit that may be one at all.
fn checked(commit: &Commit, declared: &Declared) -> Result<Vec<(CommittedFile, Digest)>, Refusal> {
    emitted::check(declared.step().emits, commit.emitted).map_err(invalid)?;
    commit.items.as_ref().map_or(Ok(()), counted).map_err(invalid)?;
    let limit = Limits::default().files as usize;
    if commit.files.len() > limit + 1 {
        return Err(invalid(format!("a commit has at most {limit} files and the log: put them into an archive")));
    }
    let mut seen = BTreeSet::new();
    let mut files = Vec::with_capacity(commit.files.len());
    for file in &commit.files {
        let shown: String = file.output.chars().take(63).collect();
        if file.output != LOG_OUTPUT && declared.output(&file.output).is_none() {
            return Err(invalid(format!("output {shown:?} is not declared for step {}", declared.step().name)));
        }
        if !seen.insert((&file.output, file.seq)) {
            return Err(invalid(format!("file {} of output {shown:?} is listed twice", file.seq)));
        }
        validate_path(&file.path).map_err(|error| invalid(error.to_string()))?;
        if let Some(declared) = &file.media_type {
            media_type(declared)?;
        }
        files.push((file.clone(), digest(&file.sha256)?));
    }
    appended(commit, declared).map_err(invalid)?;
    Ok(files)
}

fn invalid(message: String) -> Refusal {
    Refusal::invalid("InvalidCommit", message)
}

/// Of an output that is put together each shard gives one segment, and the step behind them the one file. Only of the
/// failed items of a shard there may be none.
fn appended(commit: &Commit, declared: &Declared) -> Result<(), String> {
    let step = declared.step();
    let assembles = match step.built_in {
        Some(BuiltIn::Assemble { .. }) => true,
        Some(BuiltIn::Split { .. }) | None => false,
    };
    if step.fan_out.is_none() && !assembles {
        return Ok(());
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &commit.files {
        *counts.entry(&file.output).or_default() += 1;
    }
    for output in declared.outputs().filter(|output| is_appended(output, true)) {
        let least = usize::from(assembles || output.failed_items != Some(true));
        let count = counts.get(output.name.as_str()).copied().unwrap_or_default();
        if !(least..=1).contains(&count) {
            return Err(format!(
                "output {} has {count} files, and is put together from one of each shard: write the one file {}",
                output.name, output.path
            ));
        }
    }
    Ok(())
}

/// Counts that add up, by words that can be shown.
fn counted(items: &ItemCounts) -> Result<(), String> {
    let ended = items.failed.checked_add(items.skipped);
    if items.attempted > MAX_ITEMS || ended.is_none_or(|ended| ended > items.attempted) {
        return Err(format!(
            "{} items failed and {} were skipped of {}: these are no counts of at most {MAX_ITEMS} items",
            items.failed, items.skipped, items.attempted
        ));
    }
    let is_word = |word: &String| (1..=63).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric());
    let named: u64 = items.reasons.values().fold(0, |sum, count| sum.saturating_add(*count));
    // Beside the reasons told apart there is the one for all others.
    if items.reasons.len() > REASONS + 1 || !items.reasons.keys().all(is_word) || named > items.failed {
        return Err(format!(
            "the reasons of failed items must be words of at most 63 letters and digits, at most {REASONS} and one for \
             the rest, and count no more items than failed"
        ));
    }
    Ok(())
}

/// The object is there, as long as announced, and with the announced content where the store knows it.
async fn stored(desk: &Desk, file: CommittedFile, sha256: Digest) -> Result<(), Refusal> {
    let what = format!("file {} of output {:?}", file.seq, file.output);
    let missing = |message: String| Refusal::invalid(word::NOT_STORED, message);
    let key = desk.own.file(&file.output, file.seq).map_err(|_| missing(format!("{what} cannot be stored")))?;
    match desk.open.store.head(&key).await {
        Ok(meta) if meta.size != file.size => {
            Err(missing(format!("{what} has {} bytes in the store, announced were {}", meta.size, file.size)))
        }
        Ok(meta) if meta.sha256.is_some_and(|stored| stored != sha256) => {
            Err(missing(format!("{what} has another content in the store than announced")))
        }
        Ok(_) => Ok(()),
        Err(StoreError::NotFound { .. }) => Err(missing(format!("{what} is not in the store: upload it before"))),
        Err(error) => Err(error.into()),
    }
}
