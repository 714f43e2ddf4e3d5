//! `GET /agent/v1/assignment`: the fence, and all an attempt needs to run.

use axum::Json;
use axum::extract::State;

use super::declared::Declared;
use super::fence::{self, Verdict};
use super::{Attempt, Desk, assembly, attempt::not_yet, inputs, items};
use crate::identity::Agent;
use crate::problem::Refusal;
use crate::{Gateway, Shared};
use asynctask_api::definition::OutputSpec;
use asynctask_contract::wire::{Assignment, BuiltIn, EmitLimits, Limits, OutputDeclaration, Work};
use asynctask_plan::definition::ValidatedStep;
use asynctask_plan::fanout::{self, MAX_ITEMS, MAX_LINE, MAX_SHARDS};
use asynctask_storage::StoreError;
use asynctask_storage::layout::AttemptKind;

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
        let committed = is_committed(&desk, attempt.shard.unwrap_or(0)).await?;
        verdict = fence::start(task, job, terminating, committed);
        if verdict == Verdict::Run {
            let declared = Declared::of(&gateway, &attempt).await?;
            let work = work(&gateway, &desk, &attempt, &declared).await?;
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

/// Whether any attempt of the shard has committed; a plain step has the one shard 0.
async fn is_committed(desk: &Desk, shard: u32) -> Result<bool, StoreError> {
    let attempts = desk.step.shard_prefix(shard);
    let mut after: Option<String> = None;
    loop {
        let page = desk.open.store.list(&attempts, after.as_deref(), 1000).await?;
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

async fn work(gateway: &Gateway, desk: &Desk, attempt: &Attempt, declared: &Declared) -> Result<Work, Refusal> {
    let step = declared.step();
    Ok(Work {
        parameters: attempt.task.spec.parameters.clone().unwrap_or_else(|| serde_json::json!({})),
        inputs: inputs::sources(gateway, desk, attempt, declared).await?,
        outputs: declared.outputs().map(|output| declaration(step, output)).collect(),
        stages: step.stages.clone(),
        guarded: declared.definition().cancellation.behind(&step.name, &step.stages).to_vec(),
        emits: step.emits.map(limits),
        shard: items::work(gateway, desk, attempt, declared).await?,
        built_in: match &step.built_in {
            None => None,
            Some(fanout::BuiltIn::Split { input }) => Some(BuiltIn::Split { input: input.clone() }),
            Some(fanout::BuiltIn::Assemble { .. }) => {
                Some(BuiltIn::Assemble { outputs: assembly::outputs(gateway, desk, attempt, declared).await? })
            }
        },
        store_ca: desk.open.ca.clone(),
        limits: Limits::default(),
    })
}

fn declaration(step: &ValidatedStep, output: &OutputSpec) -> OutputDeclaration {
    // What is put together is a file like any other, the list of failed items too.
    let assembled = step.built_in.is_some();
    let path = if assembled && output.path.is_empty() { format!("{}.jsonl", output.name) } else { output.path.clone() };
    OutputDeclaration {
        name: output.name.clone(),
        path,
        media_type: output.media_type.clone(),
        failed_items: output.failed_items == Some(true) && !assembled,
        one_file: (step.fan_out.is_some() || assembled) && fanout::is_appended(output, true),
    }
}

const fn limits(items_per_shard: u32) -> EmitLimits {
    EmitLimits { items_per_shard, shards: MAX_SHARDS, items: MAX_ITEMS, line_bytes: MAX_LINE }
}
