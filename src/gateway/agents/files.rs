//! Files of an attempt: where each may go, and the bytes themselves where the store cannot take them.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::declared::Declared;
use super::{Attempt, DONE, Desk};
use crate::Shared;
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::request::{self, LIST, Names, Payload};
use crate::target::{self, Target};
use crate::transfer::{self, OPAQUE};
use asynctask_contract::env::{ITEMS_OUTPUT, LOG_OUTPUT};
use asynctask_contract::file_path::validate_path;
use asynctask_contract::wire::{
    CompleteRequest, FileRef, Limits, NewFile, PartsReply, PartsRequest, SignedRequest, UploadPlan, path, word,
};
use asynctask_plan::fanout::MAX_SHARDS;
use asynctask_storage::digest::{Digest, Expected};
use asynctask_storage::{Audience, PutMode};

/// How long a signed request for an agent is good for: 64 MiB over a slow line.
pub(super) const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The line that marks the cut of a long log comes on top of the limit.
const LOG_SLACK: u64 = 64 << 10;

/// Where a file of the attempt goes.
struct Place {
    key: String,
    mode: PutMode,
}

/// The place of a file, if the attempt may write it.
async fn place(gateway: &Shared, attempt: &Attempt, desk: &Desk, output: &str, seq: u32) -> Result<Place, Refusal> {
    let file = || desk.own.file(output, seq).map_err(|_| undeclared(output, "cannot be stored"));
    if output == LOG_OUTPUT {
        // The log is flushed again and again; each time it is the whole log.
        return match seq {
            0 => Ok(Place { key: file()?, mode: PutMode::Overwrite }),
            _ => Err(undeclared(output, "has the one file 0")),
        };
    }
    let declared = Declared::of(gateway, attempt).await?;
    if output == ITEMS_OUTPUT && declared.step().emits.is_some() {
        if seq >= MAX_SHARDS {
            let message = format!("a step emits at most {MAX_SHARDS} shards of items: raise itemsPerShard");
            return Err(Refusal::invalid("TooManyShards", message));
        }
        return Ok(Place { key: desk.own.items(seq), mode: PutMode::Create });
    }
    let limit = Limits::default().files;
    if seq >= limit {
        return Err(undeclared(output, &format!("may have {limit} files")));
    }
    match declared.output(output) {
        Some(_) => Ok(Place { key: file()?, mode: PutMode::Create }),
        None => Err(undeclared(output, "is not declared for this step")),
    }
}

/// The run may write so many bytes more.
async fn allow(gateway: &Shared, attempt: &Attempt, output: &str, seq: u32, size: u64) -> Result<(), Refusal> {
    let declared = Declared::of(gateway, attempt).await?;
    gateway.allowances.pass(attempt, &declared, output, seq, size)
}

fn undeclared(output: &str, what: &str) -> Refusal {
    let shown: String = output.chars().take(63).collect();
    Refusal::invalid("UnknownOutput", format!("output {shown:?} {what}: see the outputs of the TaskDefinition"))
}

pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: asynctask_storage::digest::InvalidDigest| {
        Refusal::invalid(word::INVALID_DIGEST, error.to_string())
    })
}

/// `POST /agent/v1/files`
pub(super) async fn plan(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(file): Payload<NewFile>,
) -> Result<Json<UploadPlan>, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("upload", attempt.what());
    attempt.require_heard()?;
    validate_path(&file.path).map_err(|error| Refusal::invalid("InvalidPath", error.to_string()))?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let Place { key, mode } = place(&gateway, &attempt, &desk, &file.output, file.seq).await?;
    allow(&gateway, &attempt, &file.output, file.seq, file.size).await?;
    if file.output == LOG_OUTPUT && file.size > Limits::default().log_bytes + LOG_SLACK {
        let message = format!("a log has at most {} bytes: keep its head and tail", Limits::default().log_bytes);
        return Err(Refusal::invalid("LogTooLarge", message));
    }
    let expected = Expected { size: file.size, sha256: digest(&file.sha256)? };
    let target = Target { open: &desk.open, key, audience: Audience::Internal, lifetime: LIFETIME };
    let media_type = request::media_type(file.media_type.as_deref().unwrap_or(OPAQUE))?;
    let proxied = format!("{}/{}/{}/content", path::FILES, file.output, file.seq);
    Ok(Json(target.plan(expected, media_type, mode, &proxied).await?))
}

/// `PUT /agent/v1/files/{output}/{seq}/content`
pub(super) async fn receive(
    State(gateway): State<Shared>,
    agent: Agent,
    Names((output, seq)): Names<(String, u32)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("upload", attempt.what());
    attempt.require_heard()?;
    let expected = transfer::announced(&headers)?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let Place { key, mode } = place(&gateway, &attempt, &desk, &output, seq).await?;
    allow(&gateway, &attempt, &output, seq, expected.size).await?;
    target::take(&desk.open, &key, body, expected, mode).await?;
    Ok(DONE)
}

/// `POST /agent/v1/files/parts`
pub(super) async fn parts(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(asked): Payload<PartsRequest>,
) -> Result<Json<PartsReply>, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("upload", attempt.what());
    attempt.require_heard()?;
    let desk = Desk::of(&gateway, &attempt).await?;
    let target = target(&gateway, &attempt, &desk, asked.file.as_ref()).await?;
    let requests: Vec<SignedRequest> = target.sign_parts(&asked).await?;
    Ok(Json(PartsReply { requests }))
}

/// `POST /agent/v1/files/complete`
pub(super) async fn complete(
    State(gateway): State<Shared>,
    agent: Agent,
    Payload(asked): Payload<CompleteRequest, LIST>,
) -> Result<StatusCode, Refusal> {
    let attempt = gateway.attempts.recent(&agent.pod).await?;
    agent.trail.asks("upload", attempt.what());
    attempt.require_heard()?;
    let desk = Desk::of(&gateway, &attempt).await?;
    target(&gateway, &attempt, &desk, asked.file.as_ref()).await?.complete(&asked.upload_id, &asked.parts).await?;
    Ok(DONE)
}

async fn target<'a>(
    gateway: &Shared,
    attempt: &Attempt,
    desk: &'a Desk,
    file: Option<&FileRef>,
) -> Result<Target<'a>, Refusal> {
    let file = file.ok_or_else(|| Refusal::BadRequest("`file` is missing: name output and seq of the file".into()))?;
    let Place { key, mode: _ } = place(gateway, attempt, desk, &file.output, file.seq).await?;
    Ok(Target { open: &desk.open, key, audience: Audience::Internal, lifetime: LIFETIME })
}
