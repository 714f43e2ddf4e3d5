//! `GET /agent/v1/assignment`: the fence, and all an attempt needs to run.

use axum::Json;
use axum::extract::State;

use super::fence::{self, Verdict};
use super::{Attempt, Desk, attempt::not_yet, inputs, revision};
use crate::api::TaskDefinitionSpec;
use crate::contract::wire::{Assignment, Limits, OutputDeclaration, Work};
use crate::gateway::identity::Agent;
use crate::gateway::problem::Refusal;
use crate::gateway::{Gateway, Shared};
use crate::plan::cancel::Cancellation;
use crate::storage::StoreError;
use crate::storage::layout::AttemptKind;

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
            let work = work(&gateway, &desk, &attempt, &revision.spec.content).await?;
            return Ok(Json(Assignment::Run(Box::new(work))));
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

async fn work(
    gateway: &Gateway,
    desk: &Desk,
    attempt: &Attempt,
    content: &TaskDefinitionSpec,
) -> Result<Work, Refusal> {
    let outputs = content.outputs.iter().filter(|output| output.step == attempt.step).map(|output| OutputDeclaration {
        name: output.name.clone(),
        path: output.path.clone(),
        media_type: output.media_type.clone(),
        failed_items: output.failed_items == Some(true),
    });
    let step = content.steps.iter().find(|step| step.name == attempt.step);
    let stages = step.map(|step| step.stages.as_slice()).unwrap_or_default();
    let cancellation = Cancellation::of(content.cancellation.as_ref(), &content.steps);
    Ok(Work {
        parameters: attempt.task.spec.parameters.clone().unwrap_or_else(|| serde_json::json!({})),
        inputs: inputs::sources(gateway, desk, attempt, content).await?,
        outputs: outputs.collect(),
        stages: stages.to_vec(),
        guarded: cancellation.behind(&attempt.step, stages).to_vec(),
        emits: None,
        shard: None,
        built_in: None,
        store_ca: desk.open.ca.clone(),
        limits: Limits::default(),
    })
}
