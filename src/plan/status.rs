//! What the status says, from what was seen and what was really done.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::admit::RAN_BEFORE;
use super::decide::{CancelNews, News, Pins, Plan, ShardsEnd, StepNews, Verdict};
use super::definition::ValidatedDefinition;
use super::failure::{brief, refusal};
use super::seal::{self, Sealed};
use super::snapshot::{DefinitionFact, JobFact, Phase, Seen, Snapshot, Trouble, phase};
use super::spread::summed;
use super::tally::{ShardFact, Tally};
use super::{retention, retry};
use asynctask_api::condition::{self, Claim, cut};
use asynctask_api::definition::OutputSpec;
use asynctask_api::outputs::{Gone, OutputStatus};
use asynctask_api::state::{StepState, TaskState};
use asynctask_api::task::{AsyncTaskStatus, Failure, QueueStatus, StepStatus, Transition};
use asynctask_contract::env::LOG_OUTPUT;

/// Transitions kept in the status; all are in the history record.
pub(super) const TRANSITIONS: usize = 32;

/// What came of a plan's actions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Jobs that were made, or that were there already, by step.
    pub jobs: BTreeMap<String, JobFact>,
    /// Hex digests of the manifests that were written, by step.
    pub manifests: BTreeMap<String, String>,
    /// Of steps that fan out: what is in the manifests that were written.
    pub shards: BTreeMap<String, ShardSeal>,
    /// What stopped an action.
    pub trouble: Option<Trouble>,
}

/// What is in the manifest of a step that fans out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardSeal {
    /// Hex digest of the manifest.
    pub manifest: String,
    /// Sum over the shards, as they were sealed.
    pub tally: Tally,
    /// Files and bytes of each output, by its name.
    pub outputs: BTreeMap<String, (i64, i64)>,
}

/// The operator's part of the status: without `progress` of the run and `stage`, `guarded` and `progress` of its steps,
/// and without `claims` and `deletions`, which are the gateway's.
#[must_use]
pub fn operators_part(status: &AsyncTaskStatus) -> AsyncTaskStatus {
    let steps = status.steps.iter().cloned();
    AsyncTaskStatus {
        progress: None,
        claims: Vec::new(),
        deletions: Vec::new(),
        steps: steps.map(|step| StepStatus { stage: None, guarded: None, progress: None, ..step }).collect(),
        ..status.clone()
    }
}

/// The operator's part of the status, once a plan was applied. Equal to the one before unless there is news.
#[must_use]
pub fn status(snapshot: &Snapshot, plan: &Plan, applied: &Applied, now: Timestamp) -> AsyncTaskStatus {
    let task = &snapshot.task;
    let before = operators_part(&task.status.clone().unwrap_or_default());
    let writer = Writer { generation: task.metadata.generation, now };
    let effective = effective(&plan.news, applied, phase(task), before.state);
    // Somebody made a Job on another revision a moment before us. That one counts: look at it first.
    let Some(News { pins, queue, steps, cancel, gone, trim, verdict }) = effective else { return before };
    let was_over = before.state.is_some_and(TaskState::is_terminal);
    let stalled = before.state == Some(TaskState::Failed);
    let mut after = before;
    if let Some(pins) = pins {
        after = pinned(after, &pins);
    }
    if let Some(queue) = queue {
        after.queue = Some(queue).filter(|queue| *queue != QueueStatus::default());
    }
    for (name, news) in &steps {
        writer.step(&mut after, name, news, applied);
        if let Some(step) = after.steps.iter_mut().find(|step| step.name == *name && step.image.is_none()) {
            step.image = image_of(snapshot, step);
        }
    }
    if let Some(content) = content(snapshot) {
        retention::describe(&mut after.outputs, &content.retention);
    }
    if !gone.is_empty() {
        after.outputs.iter_mut().for_each(|output| mark_gone(output, &gone));
        // What was in the way is not any more.
        let claim =
            Claim::new(condition::STALLED, Some(stalled), "OutputsDeleted", "outputs whose time was up are deleted");
        after.conditions = with(&after.conditions, &claim, &writer);
    }
    if trim {
        after = retention::trimmed(after);
    }
    after.step = at_work(&after);
    after.results = results(&after);
    if let Some(cancel) = &cancel {
        after.conditions = with(&after.conditions, &writer.claim_of(cancel), &writer);
    }
    let mut after = match verdict {
        Verdict::Unchanged => after,
        Verdict::Is { state, reason, message } => {
            let failure = after.failure.take().filter(|_| !state.is_success());
            writer.state(AsyncTaskStatus { failure, ..after }, state, &reason, message.as_deref(), None)
        }
        Verdict::Fails(failure) => {
            let (reason, message, step) = (failure.reason.clone(), failure.message.clone(), failure.step.clone());
            let failed = AsyncTaskStatus { failure: Some(failure), ..after };
            writer.state(failed, TaskState::Failed, &reason, Some(&message), step)
        }
        Verdict::Seen => {
            let seen = |condition: Condition| Condition { observed_generation: writer.generation, ..condition };
            let conditions = after.conditions.into_iter().map(seen).collect();
            AsyncTaskStatus { observed_generation: writer.generation, conditions, ..after }
        }
        Verdict::Stays(trouble) => {
            let claim = Claim::new(condition::STALLED, Some(true), trouble.reason, &trouble.message);
            AsyncTaskStatus { conditions: with(&after.conditions, &claim, &writer), ..after }
        }
    };
    if let Some(content) = content(snapshot)
        && !was_over
        && after.state.is_some_and(TaskState::is_terminal)
    {
        retention::ended(&mut after, &content.retention, now);
        // It stays in the place of the run that retention removed, or whoever applies it would do so again and again.
        if after.reason.as_deref() == Some(RAN_BEFORE) && snapshot.task.spec.once.is_none() {
            after.expires_at = None;
        }
    }
    after
}

/// What the run consists of, where that is known.
fn content(snapshot: &Snapshot) -> Option<&ValidatedDefinition> {
    match &snapshot.seen {
        Seen::Pinned(execution) => execution.content.as_deref().ok(),
        Seen::New(admission) => match &admission.definition {
            DefinitionFact::Ready { content, .. } => Some(content),
            DefinitionFact::Missing(_) | DefinitionFact::NotReady(_) => None,
        },
        Seen::Nothing | Seen::Finished { .. } | Seen::Deleting(_) => None,
    }
}

/// Image of the last pod that was read of an attempt.
fn image_of(snapshot: &Snapshot, step: &StepStatus) -> Option<String> {
    let Seen::Pinned(execution) = &snapshot.seen else { return None };
    let left = execution.results.get(&step.name).and_then(|results| results.as_ref().ok()).map(|results| &results.pods);
    let pods = execution.pods.iter().chain(left.into_iter().flatten());
    let attempt = step.attempt.and_then(|attempt| u32::try_from(attempt).ok());
    let its = pods.filter(|pod| pod.step == step.name && Some(pod.attempt) == attempt && step.shards.is_none());
    its.filter_map(|pod| pod.image.as_deref()).next_back().map(|image| cut(image, 512))
}

fn mark_gone(output: &mut OutputStatus, gone: &[(String, Gone)]) {
    if let Some((_, gone)) = gone.iter().find(|(name, _)| *name == output.name).filter(|_| output.gone.is_none()) {
        output.gone = Some(gone.clone());
    }
}

/// What can be said after all: of what was planned only that which was done. `None`: nothing, look again.
fn effective(news: &News, applied: &Applied, phase: Phase, state: Option<TaskState>) -> Option<News> {
    let mut news = news.clone();
    let revision = news.pins.as_ref().map(|pins| &pins.revision.name);
    if revision.is_some_and(|name| applied.jobs.values().any(|job| job.ours && job.revision.as_ref() != Some(name))) {
        return None;
    }
    let foreign = applied.jobs.iter().find(|(_, job)| !job.ours).map(|(step, job)| (step.clone(), job.name.clone()));
    news.steps.retain(|(step, news)| match news {
        StepNews::Starts { job, .. } => job.is_some() || applied.jobs.get(step).is_some_and(|job| job.ours),
        StepNews::Completes(_) => applied.manifests.contains_key(step),
        StepNews::ShardsEnd { .. } => applied.shards.contains_key(step),
        _ => true,
    });
    if let Some(trouble) = &applied.trouble {
        news.verdict = match phase {
            Phase::New => Verdict::held(TaskState::Pending, trouble),
            Phase::Pinned => Verdict::held(state.unwrap_or(TaskState::Pending), trouble),
            Phase::Deleting => Verdict::Stays(trouble.clone()),
            Phase::Finished if !news.gone.is_empty() => Verdict::Stays(trouble.clone()),
            Phase::Restored | Phase::Finished => Verdict::Unchanged,
        };
        (news.gone, news.trim) = (Vec::new(), false);
    } else if let Some((step, name)) = foreign {
        let message = format!(
            "a Job named {name} that belongs to something else is in the way: delete it, and create an AsyncTask of \
             another name"
        );
        let failure = Failure { step: Some(step.clone()), ..refusal("NameConflict", message) };
        let first = news.pins.is_some() || state == Some(TaskState::Pending);
        news.verdict = if first { Verdict::Fails(failure.clone()) } else { Verdict::Unchanged };
        news.steps.push((step, StepNews::Fails(failure, None)));
    }
    Some(news)
}

fn pinned(before: AsyncTaskStatus, pins: &Pins) -> AsyncTaskStatus {
    AsyncTaskStatus {
        origin: pins.origin.clone(),
        outputs: pins.outputs.clone(),
        kept_until: pins.kept_until.clone(),
        keep: pins.keep.clone(),
        revision: Some(pins.revision.clone()),
        store: Some(pins.store.clone()),
        plan: pins.plan.clone(),
        steps: pins.steps.clone(),
        ..before
    }
}

/// Names of the steps that are at work, for a column.
fn at_work(status: &AsyncTaskStatus) -> Option<String> {
    let works = |step: &&StepStatus| matches!(step.state, Some(StepState::Running | StepState::Retrying));
    let names: Vec<&str> = status.steps.iter().filter(works).map(|step| step.name.as_str()).collect();
    (!names.is_empty()).then(|| cut(&names.join(","), 100))
}

/// Names of the outputs people wait for.
fn results(status: &AsyncTaskStatus) -> Option<String> {
    let declared = status.outputs.iter().filter(|output| output.name != LOG_OUTPUT && output.gone.is_none());
    let names: Vec<&str> = declared.map(|output| output.name.as_str()).collect();
    (!names.is_empty()).then(|| cut(&names.join(","), 100))
}

/// The conditions with one of them said anew.
fn with(conditions: &[Condition], claim: &Claim, writer: &Writer) -> Vec<Condition> {
    let said = claim.on(conditions, writer.generation, writer.now);
    let others = conditions.iter().filter(|condition| condition.type_ != claim.kind).cloned();
    others.chain([said]).collect()
}

struct Writer {
    generation: Option<i64>,
    now: Timestamp,
}

impl Writer {
    fn claim_of(&self, cancel: &CancelNews) -> Claim {
        match cancel {
            CancelNews::Accepted(effect) => Claim::new(
                condition::CANCEL_REQUESTED,
                Some(true),
                "Accepted",
                format!("the run is being cancelled{effect}"),
            ),
            CancelNews::NotNow(why) => Claim::new(condition::CANCEL_REQUESTED, Some(true), condition::NOT_NOW, why),
        }
    }

    fn step(&self, status: &mut AsyncTaskStatus, name: &str, news: &StepNews, applied: &Applied) {
        let Some(index) = status.steps.iter().position(|step| step.name == name) else { return };
        let step = &mut status.steps[index];
        match news {
            StepNews::Starts { attempt, job } => {
                let began = applied.jobs.get(name).or(job.as_ref()).and_then(|job| job.created).unwrap_or(self.now);
                step.state = Some(StepState::Running);
                step.attempt = i32::try_from(*attempt).ok();
                step.start_time.get_or_insert(Time(began));
                (step.until, step.waiting) = (None, None);
            }
            StepNews::Waits(waiting) => step.waiting.clone_from(waiting),
            StepNews::Completes(sealed) => {
                self.end(step, seal::state(sealed));
                step.failure = None;
                step.message = sealed.warning.as_ref().map(|warning| cut(warning, 256));
                step.image.clone_from(&sealed.image);
                step.emitted = seal::emitted(sealed);
                let items = sealed.items.clone().unwrap_or_default();
                let mut tally = Tally::default();
                tally.add(0, ShardFact::Committed { items: Some(items) });
                (step.items, step.failures) = (tally.items(), tally.failures());
                seal(status, index, sealed, applied);
            }
            StepNews::Counts(counts) => step.shards = Some(counts.clone()),
            StepNews::ShardsEnd { end, published } => self.shards_end(status, index, end, published, applied),
            StepNews::Retries { failure, until, counts } => {
                step.state = Some(StepState::Retrying);
                step.until = Some(Time(*until));
                step.failure = Some(brief(failure));
                step.waiting = None;
                retry::count(step, *counts);
                let (state, name) = (status.state.unwrap_or(TaskState::Pending), step.name.clone());
                // While nothing can be recorded no change of state falls out for it.
                if applied.trouble.is_none() || status.transitions.len() < TRANSITIONS {
                    self.moves(status, Some(state), state, "Retrying", Some(name));
                }
            }
            StepNews::Fails(failure, log) => {
                self.end(step, StepState::Failed);
                step.failure = Some(brief(failure));
                status.failure.get_or_insert_with(|| failure.clone());
                if let Some(log) = log {
                    seal(status, index, log, applied);
                }
            }
            StepNews::Skips(words) => {
                self.end(step, StepState::Skipped);
                step.message = Some(cut(words, 256));
            }
            StepNews::Cancels => self.end(step, StepState::Canceled),
            StepNews::Suspends => {
                step.state = Some(StepState::Waiting);
                (step.until, step.waiting) = (None, None);
            }
        }
    }

    fn shards_end(
        &self,
        status: &mut AsyncTaskStatus,
        index: usize,
        end: &ShardsEnd,
        published: &[OutputSpec],
        applied: &Applied,
    ) {
        let step = &mut status.steps[index];
        let Some(sealed) = applied.shards.get(&step.name) else { return };
        let total = step.shards.as_ref().map_or(0, |shards| shards.total);
        step.shards = Some(summed(u32::try_from(total).unwrap_or(u32::MAX), &sealed.tally));
        (step.items, step.failures) = (sealed.tally.items(), sealed.tally.failures());
        step.manifest = Some(sealed.manifest.clone());
        match end {
            ShardsEnd::Done { partial } => {
                self.end(step, seal::whole_or_part(*partial));
                step.failure = None;
            }
            ShardsEnd::Failed(failure) => {
                self.end(step, StepState::Failed);
                step.failure = Some(brief(failure));
                status.failure.get_or_insert_with(|| failure.clone());
            }
            ShardsEnd::Canceled => {}
        }
        let name = status.steps[index].name.clone();
        status.outputs.retain(|output| output.step != name);
        status.outputs.extend(seal::shard_outputs(&name, sealed, published));
    }

    fn end(&self, step: &mut StepStatus, state: StepState) {
        step.state = Some(state);
        step.finish_time = Some(Time(self.now));
        (step.until, step.waiting) = (None, None);
    }

    /// Notes a change of state, or that a step is tried again.
    fn moves(
        &self,
        status: &mut AsyncTaskStatus,
        from: Option<TaskState>,
        to: TaskState,
        reason: &str,
        step: Option<String>,
    ) {
        let seq = status.transitions.last().map_or(0, |last| last.seq) + 1;
        status.transitions.push(Transition { seq, from, to, at: Time(self.now), reason: reason.to_owned(), step });
        let surplus = status.transitions.len().saturating_sub(TRANSITIONS);
        status.transitions.drain(..surplus);
    }

    /// Moves to a state, if the table of states has the move; else says nothing new.
    fn state(
        &self,
        before: AsyncTaskStatus,
        to: TaskState,
        reason: &str,
        message: Option<&str>,
        step: Option<String>,
    ) -> AsyncTaskStatus {
        let from = before.state;
        if !is_legal(from, to) {
            return before;
        }
        let message = message.map(|message| cut(message, MESSAGE_MAX));
        let mut after = AsyncTaskStatus {
            observed_generation: self.generation,
            state: Some(to),
            reason: Some(reason.to_owned()),
            message,
            ..before
        };
        if from != Some(to) {
            self.moves(&mut after, from, to, reason, step);
        }
        let requested =
            after.conditions.iter().find(|condition| condition.type_ == condition::CANCEL_REQUESTED).cloned();
        let claims = claims(&after, to);
        let said = claims.iter().map(|claim| claim.on(&after.conditions, self.generation, self.now));
        after.conditions = said.chain(requested).collect();
        after
    }
}

/// Longest message of a run.
const MESSAGE_MAX: usize = 4096;

/// Files are named only together with the manifest that lists them.
fn seal(status: &mut AsyncTaskStatus, index: usize, sealed: &Sealed, applied: &Applied) {
    let step = &mut status.steps[index];
    if let Some(manifest) = applied.manifests.get(&step.name) {
        step.manifest = Some(manifest.clone());
        let outputs = seal::outputs(&step.name, sealed);
        status.outputs.extend(outputs);
    }
}

fn is_legal(from: Option<TaskState>, to: TaskState) -> bool {
    // A run that has no state yet is as good as Pending.
    let from = from.unwrap_or(TaskState::Pending);
    from == to && !from.is_terminal() || from.next().contains(&to)
}

fn claims(status: &AsyncTaskStatus, state: TaskState) -> [Claim; 6] {
    let reason = status.reason.clone().unwrap_or_default();
    let message = status.message.clone().unwrap_or_default();
    let claim = |kind, holds, message: &str| Claim::new(kind, holds, reason.clone(), message);
    let terminal = state.is_terminal();
    let failed = state == TaskState::Failed;
    let accepted = match &status.revision {
        Some(revision) => {
            let message = format!("pinned to revision {} ({})", revision.number, revision.name);
            Claim::new(condition::ACCEPTED, Some(true), "Pinned", message)
        }
        None => claim(condition::ACCEPTED, if terminal { Some(false) } else { None }, &message),
    };
    let succeeded = terminal.then_some(state.is_success());
    let log_only = if status.outputs.is_empty() { "" } else { "only the log can be fetched" };
    let outputs = if state.is_success() { "all outputs can be fetched" } else { log_only };
    [
        accepted,
        claim(condition::FINISHED, Some(terminal), &message),
        claim(condition::SUCCEEDED, succeeded, &message),
        claim(condition::OUTPUTS_READY, Some(state.is_success()), outputs),
        claim(condition::RECONCILING, Some(!terminal), &message),
        stalled(status, failed).unwrap_or_else(|| claim(condition::STALLED, Some(failed), &message)),
    ]
}

/// A run that goes on, and whose attempts fail and fail: somebody should look before the last of them.
fn stalled(status: &AsyncTaskStatus, over: bool) -> Option<Claim> {
    let step = status.steps.iter().filter(|_| !over).find(|step| retry::is_stalled(step))?;
    let why = step.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
    let message = format!(
        "step {} has failed {} times in a row in ways that do not count: {why}",
        step.name,
        step.uncounted.unwrap_or_default()
    );
    Some(Claim::new(condition::STALLED, Some(true), "AttemptsFail", cut(&message, MESSAGE_MAX)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::Writer;
    use asynctask_api::state::TaskState;
    use asynctask_api::task::AsyncTaskStatus;

    /// An AsyncTask as it is right after it came to a state.
    fn task(state: TaskState) -> Value {
        let before = TaskState::ALL.into_iter().find(|before| before.next().contains(&state));
        let before = AsyncTaskStatus { state: before, ..AsyncTaskStatus::default() };
        let writer = Writer { generation: Some(1), now: Timestamp::UNIX_EPOCH };
        let status = writer.state(before, state, "Example", Some("an example"), None);
        let metadata = json!({"name": state.as_str().to_lowercase(), "namespace": "default", "generation": 1});
        json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": metadata, "status": status})
    }

    #[test]
    fn tools_that_know_kstatus_were_tried_with_each_state_as_we_write_it() {
        let tasks: BTreeMap<_, _> = TaskState::ALL.into_iter().map(|state| (state.as_str(), task(state))).collect();
        let page = serde_json::to_string_pretty(&tasks).expect("tasks are JSON") + "\n";
        // CARGO_MANIFEST_DIR of the run, not of the build: checkouts share a target folder.
        let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let file = std::path::Path::new(&root).join("../../tests/kstatus/tasks.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &page).expect("written");
        }
        let tried = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(page == tried, "tests/kstatus/tasks.json is older (UPDATE_GOLDEN=1 writes it anew):\n{page}");
    }
}
