//! A run that continues another one: what it may continue, and what it takes over.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use super::definition::ValidatedDefinition;
use super::fanout::assemble_name;
use super::retention::is_leaving;
use super::snapshot::{RetryFact, state};
use asynctask_api::AsyncTask;
use asynctask_api::state::{StepState, TaskState};
use asynctask_api::task::{OutputStatus, RunRef, StepStatus};
use asynctask_contract::env::LOG_OUTPUT;

/// What is taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Adopted {
    /// Steps, by the order of the definition: done, or waiting.
    pub(super) steps: Vec<StepStatus>,
    /// Their outputs.
    pub(super) outputs: Vec<OutputStatus>,
    /// The first of the runs that continue each other.
    pub(super) origin: Option<RunRef>,
}

/// Why the run cannot continue the other one, if it cannot. `parameters` are this run's.
pub(super) fn refusal(task: &AsyncTask, fact: &RetryFact, parameters: &serde_json::Value) -> Option<String> {
    let name = task.spec.retry_of.as_ref().map(|retry| retry.name.as_str()).unwrap_or_default();
    // One sentence for a foreign run and for one that is not there.
    let unknown = format!("there is no run {name:?} of this owner and team: correct spec.retryOf.name");
    let RetryFact::Found(source) = fact else { return Some(unknown) };
    if source.metadata.deletion_timestamp.is_some() {
        return Some(format!("run {name} is being deleted, and what it did with it: create a run without retryOf"));
    }
    let (own, its) = (&task.spec, &source.spec);
    if own.owner != its.owner || own.team != its.team {
        return Some(unknown);
    }
    let given = its.parameters.clone().unwrap_or_else(|| serde_json::json!({}));
    let status = source.status.as_ref();
    let why = match state(source) {
        _ if own.definition.name != its.definition.name => {
            format!("it ran TaskDefinition {}: name the same definition", its.definition.name)
        }
        Some(TaskState::Complete) => {
            "it is Complete, so nothing is left to do: create a run without retryOf".to_owned()
        }
        Some(state) if !state.is_terminal() => {
            format!("it has not ended (state {state}): wait for its end or cancel it")
        }
        None => "it has not ended: wait for its end or cancel it".to_owned(),
        Some(_) if given != *parameters => {
            "its parameters are others, and what it did was done with those: give the same".to_owned()
        }
        Some(_) if own.inputs != its.inputs => {
            "its inputs are others, and what it did was done with those: give the same".to_owned()
        }
        Some(_) if status.is_none_or(|status| status.revision.is_none()) => {
            "it was refused before it was pinned to a revision, so it did nothing: create a run without retryOf"
                .to_owned()
        }
        Some(_) => return None,
    };
    Some(format!("run {name} cannot be continued: {why}"))
}

/// Whether all that a step gave is there and may be read again: not what was deleted, nor what is for one use.
fn is_intact(source: &AsyncTask, step: &str, now: Timestamp) -> bool {
    let assembling = assemble_name(step);
    let outputs = source.status.iter().flat_map(|status| &status.outputs);
    let mut given = outputs.filter(|output| output.step == step || output.step == assembling);
    let stays = |output: &OutputStatus| !is_leaving(source, output, now) && output.use_once_seconds.is_none();
    given.all(|output| output.name == LOG_OUTPUT || stays(output))
}

/// What a run of this content takes over from another one: whole steps whose every predecessor was taken over too, and
/// of a step that fans out the shards that gave their result.
pub(super) fn adopt(content: &ValidatedDefinition, source: &AsyncTask, now: Timestamp) -> Adopted {
    let before = source.status.clone().unwrap_or_default();
    let own = RunRef {
        name: source.metadata.name.clone().unwrap_or_default(),
        uid: source.metadata.uid.clone().unwrap_or_default(),
    };
    let mut whole = BTreeSet::new();
    let mut adopted = Adopted { origin: before.origin.clone().or(Some(own.clone())), ..Adopted::default() };
    for (index, step) in content.steps.iter().enumerate() {
        let waiting = StepStatus { name: step.name.clone(), state: Some(StepState::Waiting), ..StepStatus::default() };
        let known = before.steps.iter().find(|known| known.name == step.name);
        let known = known.filter(|known| known.manifest.is_some() || known.adopted.is_some());
        let ready = step.needs.iter().all(|need| whole.contains(need));
        let Some(known) = known.filter(|_| ready && is_intact(source, &step.name, now)) else {
            adopted.steps.push(waiting);
            continue;
        };
        // What was taken over and not gone on with stays where it was made.
        let untouched = known.attempt.is_none() || known.manifest.is_none();
        let from = known.adopted.clone().filter(|_| untouched).unwrap_or(own.clone());
        match known.state {
            Some(StepState::Complete) => {
                whole.insert(index);
                adopted.outputs.extend(before.outputs.iter().filter(|output| output.step == step.name).cloned());
                adopted.steps.push(StepStatus {
                    adopted: Some(from),
                    attempt: None,
                    stage: None,
                    guarded: None,
                    progress: None,
                    ..known.clone()
                });
            }
            // Its shards: those that gave their result are not run again.
            Some(
                StepState::PartiallyComplete
                | StepState::Failed
                | StepState::Canceled
                | StepState::Skipped
                | StepState::Waiting
                | StepState::Retrying,
            ) if step.fan_out.is_some() => {
                let shards = known.shards.clone();
                adopted.steps.push(StepStatus { adopted: Some(from), shards, ..waiting });
            }
            _ => adopted.steps.push(waiting),
        }
    }
    adopted
}
