//! What the status says, from what was seen and what was really done.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::decide::{Pins, Plan, Verdict};
use super::failure::refusal;
use super::seal::{self, Sealed};
use super::snapshot::{JobFact, Phase, Snapshot, Trouble, current_attempt, phase};
use crate::api::condition::{self, Claim, cut};
use crate::api::state::{StepState, TaskState};
use crate::api::task::{AsyncTaskStatus, Failure, StepStatus, Transition};

/// Transitions kept in the status.
const TRANSITIONS: usize = 32;

/// What came of a plan's actions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// The Job that was made, or that was there already.
    pub job: Option<JobFact>,
    /// Hex digest of the manifest that was written.
    pub manifest: Option<String>,
    /// What stopped the actions half way.
    pub trouble: Option<Trouble>,
}

/// The operator's part of the status: without `progress` of the run and `stage` and `progress` of its steps, which are
/// the gateway's.
#[must_use]
pub fn operators_part(status: &AsyncTaskStatus) -> AsyncTaskStatus {
    let steps = status.steps.iter().cloned();
    AsyncTaskStatus {
        progress: None,
        steps: steps.map(|step| StepStatus { stage: None, progress: None, ..step }).collect(),
        ..status.clone()
    }
}

/// The operator's part of the status, once a plan was applied. Equal to the one before unless there is news.
#[must_use]
pub fn status(snapshot: &Snapshot, plan: &Plan, applied: &Applied, now: Timestamp) -> AsyncTaskStatus {
    let task = &snapshot.task;
    let before = operators_part(&task.status.clone().unwrap_or_default());
    let news = News {
        step: current_attempt(task).map(|(step, _)| step.to_owned()),
        generation: task.metadata.generation,
        now,
    };
    match effective(plan, applied, phase(task)) {
        Verdict::Unchanged => before,
        Verdict::Waits(trouble) => news.state(before, TaskState::Pending, trouble.reason, Some(&trouble.message)),
        Verdict::Starts(pins) => match &applied_job(snapshot, applied) {
            Some(job) => news.starts(before, &pins, job),
            None => before,
        },
        Verdict::Runs => news.state(before, TaskState::InProgress, RUNNING, None),
        Verdict::Held(trouble) => news.state(before, TaskState::InProgress, trouble.reason, Some(&trouble.message)),
        Verdict::Completes(sealed) => news.completes(before, &sealed, applied),
        Verdict::Fails(failure, log) => news.fails(before, failure, log.as_ref(), applied),
        Verdict::Restored => news.state(before, TaskState::Canceled, "Restored", Some(RESTORED)),
        Verdict::Stays(trouble) => news.stays(before, &trouble),
    }
}

/// Why a run is in progress when all is well.
const RUNNING: &str = "Running";

const RESTORED: &str = "this run was over before the object was restored or applied again, and does not run twice: create \
                        an AsyncTask of another name to run it again";

fn applied_job(snapshot: &Snapshot, applied: &Applied) -> Option<JobFact> {
    let seen = match &snapshot.seen {
        super::snapshot::Seen::New(admission) => admission.job.clone(),
        _ => None,
    };
    applied.job.clone().or(seen)
}

/// What can be said after all: of what was planned only that which was done.
fn effective(plan: &Plan, applied: &Applied, phase: Phase) -> Verdict {
    if let Some(trouble) = &applied.trouble {
        return match phase {
            Phase::New => Verdict::Waits(trouble.clone()),
            Phase::Running => Verdict::Held(trouble.clone()),
            Phase::Deleting => Verdict::Stays(trouble.clone()),
            Phase::Restored | Phase::Finished => Verdict::Unchanged,
        };
    }
    match (&plan.verdict, &applied.job) {
        (Verdict::Starts(_), Some(job)) if !job.ours => {
            let name = &job.name;
            let message = format!(
                "a Job named {name} that belongs to something else is in the way: delete it, and create an AsyncTask of \
                 another name"
            );
            Verdict::Fails(refusal("NameConflict", message), None)
        }
        // Somebody made the Job on another revision a moment before us. That one counts: look at it first.
        (Verdict::Starts(pins), Some(job)) if job.revision.as_ref() != Some(&pins.revision.name) => Verdict::Unchanged,
        (verdict, _) => verdict.clone(),
    }
}

struct News {
    /// The step that is not over.
    step: Option<String>,
    generation: Option<i64>,
    now: Timestamp,
}

impl News {
    /// Moves to a state, if the table of states has the move; else says nothing new.
    fn state(&self, before: AsyncTaskStatus, to: TaskState, reason: &str, message: Option<&str>) -> AsyncTaskStatus {
        let from = before.state;
        if !is_legal(from, to) {
            return before;
        }
        let message = message.map(|message| cut(message, 4096));
        let mut after = AsyncTaskStatus {
            observed_generation: self.generation,
            state: Some(to),
            reason: Some(reason.to_owned()),
            message,
            ..before
        };
        if from != Some(to) {
            let seq = after.transitions.last().map_or(0, |last| last.seq) + 1;
            after.transitions.push(Transition {
                seq,
                from,
                to,
                at: Time(self.now),
                reason: reason.to_owned(),
                step: None,
            });
            let surplus = after.transitions.len().saturating_sub(TRANSITIONS);
            after.transitions.drain(..surplus);
        }
        let claims = claims(&after, to);
        after.conditions = claims.iter().map(|claim| claim.on(&after.conditions, self.generation, self.now)).collect();
        after
    }

    fn starts(&self, before: AsyncTaskStatus, pins: &Pins, job: &JobFact) -> AsyncTaskStatus {
        let began = job.created.unwrap_or(self.now);
        let steps = pins.plan.iter().enumerate().map(|(index, step)| StepStatus {
            name: step.name.clone(),
            state: Some(if index == 0 { StepState::Running } else { StepState::Waiting }),
            attempt: (index == 0).then_some(1),
            start_time: (index == 0).then_some(Time(began)),
            ..StepStatus::default()
        });
        let pinned = AsyncTaskStatus {
            revision: Some(pins.revision.clone()),
            store: Some(pins.store.clone()),
            step: pins.plan.first().map(|step| step.name.clone()),
            plan: pins.plan.clone(),
            steps: steps.collect(),
            ..before
        };
        self.state(pinned, TaskState::InProgress, RUNNING, None)
    }

    fn completes(&self, before: AsyncTaskStatus, sealed: &Sealed, applied: &Applied) -> AsyncTaskStatus {
        let done = AsyncTaskStatus { step: None, ..self.end_step(before, StepState::Complete, Some(sealed), applied) };
        self.state(done, TaskState::Complete, "StepsSucceeded", None)
    }

    fn fails(
        &self,
        before: AsyncTaskStatus,
        failure: Failure,
        log: Option<&Sealed>,
        applied: &Applied,
    ) -> AsyncTaskStatus {
        let (reason, message) = (failure.reason.clone(), failure.message.clone());
        let ended = self.end_step(before, StepState::Failed, log, applied);
        let failed = AsyncTaskStatus { failure: Some(failure), ..ended };
        self.state(failed, TaskState::Failed, &reason, Some(&message))
    }

    /// Ends the current step. Files are named only together with the manifest that lists them.
    fn end_step(
        &self,
        mut status: AsyncTaskStatus,
        state: StepState,
        sealed: Option<&Sealed>,
        applied: &Applied,
    ) -> AsyncTaskStatus {
        let current = status.steps.iter_mut().find(|step| Some(&step.name) == self.step.as_ref());
        let Some(step) = current else { return status };
        step.state = Some(state);
        step.finish_time = Some(Time(self.now));
        if let (Some(sealed), Some(manifest)) = (sealed, &applied.manifest) {
            step.manifest = Some(manifest.clone());
            let outputs = seal::outputs(&step.name, sealed);
            status.outputs.extend(outputs);
        }
        status
    }

    /// Whatever its state: it is to be deleted and cannot be.
    fn stays(&self, before: AsyncTaskStatus, trouble: &Trouble) -> AsyncTaskStatus {
        let claim = Claim::new(condition::STALLED, Some(true), trouble.reason, &trouble.message);
        let stalled = claim.on(&before.conditions, self.generation, self.now);
        let others = before.conditions.iter().filter(|condition| condition.type_ != condition::STALLED).cloned();
        let conditions: Vec<Condition> = others.chain([stalled]).collect();
        AsyncTaskStatus { conditions, ..before }
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
        claim(condition::STALLED, Some(failed), &message),
    ]
}
