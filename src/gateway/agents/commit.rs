//! `POST /agent/v1/commit`: publishes an attempt's result. Answers only once the record is durable.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use futures::StreamExt;
use futures::stream::{self, TryStreamExt};

use super::files::digest;
use super::{DONE, Desk, revision};
use crate::api::TaskRevision;
use crate::contract::env::LOG_OUTPUT;
use crate::contract::wire::{Commit, CommittedFile, Limits};
use crate::gateway::Shared;
use crate::gateway::identity::Agent;
use crate::gateway::problem::Refusal;
use crate::gateway::request::{LIST, Payload, media_type};
use crate::storage::digest::Digest;
use crate::storage::records::{self, CommitRecord, RECORD_MAX};
use crate::storage::{PutMode, StoreError, validate_path};

/// Objects looked at side by side.
const LOOKS: usize = 16;

pub(super) async fn commit(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(commit): Payload<Commit, LIST>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.live(&agent.pod).await?;
    agent.trail.asks("commit", attempt.what());
    attempt.require_open()?;
    let revision = revision(&gateway, &attempt).await?;
    let files = checked(&commit, &revision, &attempt.step)?;
    let desk = Desk::of(&gateway, &attempt).await?;
    if let Some(earlier) = earlier(&desk).await? {
        return same(&earlier, &commit);
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
        shard: 0,
        files: commit.files.clone(),
        emitted: commit.emitted,
        items: commit.items.clone(),
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
    if earlier.files == commit.files {
        return Ok(DONE);
    }
    Err(Refusal::Conflict {
        word: "CommittedOtherwise",
        message: "this attempt has committed another list of files before: a commit is never changed".into(),
    })
}

/// The files of a commit that may be one at all.
fn checked(commit: &Commit, revision: &TaskRevision, step: &str) -> Result<Vec<(CommittedFile, Digest)>, Refusal> {
    let invalid = |message: String| Refusal::invalid("InvalidCommit", message);
    let limit = Limits::default().files as usize;
    if commit.files.len() > limit + 1 {
        return Err(invalid(format!("a commit has at most {limit} files and the log: put them into an archive")));
    }
    let declared = |output: &str| {
        let outputs = &revision.spec.content.outputs;
        output == LOG_OUTPUT || outputs.iter().any(|known| known.name == output && known.step == step)
    };
    let mut seen = BTreeSet::new();
    let mut files = Vec::with_capacity(commit.files.len());
    for file in &commit.files {
        let shown: String = file.output.chars().take(63).collect();
        if !declared(&file.output) {
            return Err(invalid(format!("output {shown:?} is not declared for step {step}")));
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
    Ok(files)
}

/// The object is there, as long as announced, and with the announced content where the store knows it.
async fn stored(desk: &Desk, file: CommittedFile, sha256: Digest) -> Result<(), Refusal> {
    let what = format!("file {} of output {:?}", file.seq, file.output);
    let invalid = |message: String| Refusal::invalid("NotStored", message);
    let key = desk.own.file(&file.output, file.seq).map_err(|_| invalid(format!("{what} cannot be stored")))?;
    match desk.open.store.head(&key).await {
        Ok(meta) if meta.size != file.size => {
            Err(invalid(format!("{what} has {} bytes in the store, announced were {}", meta.size, file.size)))
        }
        Ok(meta) if meta.sha256.is_some_and(|stored| stored != sha256) => {
            Err(invalid(format!("{what} has another content in the store than announced")))
        }
        Ok(_) => Ok(()),
        Err(StoreError::NotFound { .. }) => Err(invalid(format!("{what} is not in the store: upload it before"))),
        Err(error) => Err(error.into()),
    }
}
