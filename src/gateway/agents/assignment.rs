//! `GET /agent/v1/assignment`: the fence, and all an attempt needs to run.

use axum::Json;
use axum::extract::State;

use super::fence::{self, Verdict};
use super::{Attempt, Desk, attempt::not_yet, revision};
use crate::api::TaskRevision;
use crate::contract::wire::{Assignment, InputSource, Limits, OutputDeclaration, SignedRequest, Work, path};
use crate::gateway::Shared;
use crate::gateway::identity::Agent;
use crate::gateway::problem::Refusal;
use crate::gateway::transfer::OPAQUE;
use crate::storage::layout::AttemptKind;
use crate::storage::records::{RECORD_MAX, UploadRecord, decode};
use crate::storage::{Audience, GetShape, StoreError};

use super::files::LIFETIME;

pub(super) async fn assignment(State(gateway): State<Shared>, agent: Agent) -> Result<Json<Assignment>, Refusal> {
    let attempt = match gateway.attempts.live(&agent.pod).await {
        Ok(attempt) => attempt,
        // Job or task are gone: that is an answer to this question, not a failure to give one.
        Err(Refusal::Superseded(message)) => return Ok(Json(Assignment::Stop { message })),
        Err(refusal) => return Err(refusal),
    };
    agent.trail.asks("start", attempt.what());
    let (task, job, terminating) = (attempt.task_facts(), attempt.job, attempt.terminating);
    // The store is asked only for an attempt that might run.
    let mut verdict = fence::start(task, job, terminating, false);
    if fence::open(task, job).is_ok() {
        let desk = Desk::of(&gateway, &attempt).await?;
        verdict = fence::start(task, job, terminating, is_committed(&desk).await?);
        if verdict == Verdict::Run {
            let revision = revision(&gateway, &attempt).await?;
            return Ok(Json(Assignment::Run(Box::new(work(&desk, &attempt, &revision).await?))));
        }
    }
    match verdict {
        Verdict::AlreadyCommitted => Ok(Json(Assignment::AlreadyCommitted)),
        Verdict::Stop(message) => {
            agent.trail.refused();
            Ok(Json(Assignment::Stop { message }))
        }
        Verdict::NotYet | Verdict::Run => Err(not_yet()),
    }
}

/// Whether any attempt of the step has committed.
async fn is_committed(desk: &Desk) -> Result<bool, StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = desk.open.store.list(desk.step.attempts_prefix(), after.as_deref(), 1000).await?;
        let commit = |key: &str| matches!(desk.step.parse(key), Some(found) if found.kind == AttemptKind::Commit);
        if page.objects.iter().any(|object| commit(&object.key)) {
            return Ok(true);
        }
        after = page.objects.into_iter().last().map(|last| last.key);
        if !page.more || after.is_none() {
            return Ok(false);
        }
    }
}

async fn work(desk: &Desk, attempt: &Attempt, revision: &TaskRevision) -> Result<Work, Refusal> {
    let content = &revision.spec.content;
    let spec = &attempt.task.spec;
    let mut inputs = Vec::new();
    for (name, input) in &spec.inputs {
        let (record, key) = upload(desk, attempt, name, &input.upload).await?;
        inputs.push(InputSource {
            name: name.clone(),
            size: record.size,
            sha256: record.sha256.to_string(),
            source: source(desk, name, &key).await?,
        });
    }
    let outputs = content.outputs.iter().filter(|output| output.step == attempt.step).map(|output| OutputDeclaration {
        name: output.name.clone(),
        path: output.path.clone(),
        media_type: output.media_type.clone(),
    });
    let step = content.steps.iter().find(|step| step.name == attempt.step);
    Ok(Work {
        parameters: spec.parameters.clone().unwrap_or_else(|| serde_json::json!({})),
        inputs,
        outputs: outputs.collect(),
        stages: step.map(|step| step.stages.clone()).unwrap_or_default(),
        store_ca: desk.open.ca.clone(),
        limits: Limits::default(),
    })
}

/// The upload an input names, if this run may read it: complete, by the run's owner, for this definition and input.
pub(super) async fn upload(
    desk: &Desk,
    attempt: &Attempt,
    input: &str,
    id: &str,
) -> Result<(UploadRecord, String), Refusal> {
    // One sentence for all of it: it must not tell a foreign upload from one that does not exist.
    let missing = || {
        let message = format!(
            "input {input:?}: there is no complete upload {id:?} of this run's owner for it: upload the file again"
        );
        Refusal::invalid("InputMissing", message)
    };
    let keys = desk.open.layout.upload(&attempt.namespace, id).map_err(|_| missing())?;
    let bytes = match desk.open.store.get_bytes(&keys.record(), RECORD_MAX).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let record: UploadRecord = decode(&bytes)?;
    let spec = &attempt.task.spec;
    let fits = record.complete
        && spec.owner.as_ref() == Some(&record.uploader)
        && record.namespace == attempt.namespace
        && record.definition == spec.definition.name
        && record.input == input;
    if fits { Ok((record, keys.data())) } else { Err(missing()) }
}

async fn source(desk: &Desk, input: &str, key: &str) -> Result<SignedRequest, Refusal> {
    let Some(signer) = desk.open.store.signer() else {
        return Ok(SignedRequest {
            method: "GET".to_owned(),
            url: format!("{}/{input}/content", path::INPUTS),
            headers: std::collections::BTreeMap::new(),
        });
    };
    let shape = GetShape { content_disposition: "attachment".to_owned(), content_type: OPAQUE.to_owned() };
    Ok(signer.sign_get(key, &shape, LIFETIME, Audience::Internal).await?)
}
