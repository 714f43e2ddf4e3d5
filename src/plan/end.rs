//! How a run ends, and what there is to say before.

use super::decide::{ShardsEnd, StepNews, Verdict};
use super::failure::of_deadline;
use super::life::{Life, OVERDUE, RUNNING, fate, state};
use super::snapshot::{JobFact, Trouble};
use super::{cancel, flow};
use asynctask_api::TaskState;
use asynctask_api::state::StepState;
use asynctask_api::task::{Failure, StepStatus};

/// How the run ends; `None` while a step is not over, or a Job of one that is has not ended.
pub(super) fn verdict(life: &Life<'_>) -> Option<Verdict> {
    let over = life.status.steps.iter().all(|step| state(step).is_over());
    // What an injected container keeps alive of a step that gave its result is being deleted, and nobody waits for it.
    let lingers = |job: &&JobFact| {
        let step = life.status.steps.iter().find(|step| step.name == job.step);
        job.deleting
            && step.is_some_and(|step| matches!(state(step), StepState::Complete | StepState::PartiallyComplete))
    };
    if !over || !life.unfinished().all(|job| lingers(&job)) {
        return None;
    }
    let fates: Vec<_> = life.status.steps.iter().map(fate).collect();
    let failed = |index: &usize| fates[*index].state == StepState::Failed;
    let stands = |index: &usize| flow::recovered(&life.content.steps, &fates, *index) != Some(true);
    let all: Vec<usize> = (0..fates.len()).filter(failed).collect();
    let mut standing: Vec<usize> = all.iter().copied().filter(stands).collect();
    // Those that failed now have no time yet, and come after those that have.
    standing.sort_by_key(|index| {
        let finished = life.status.steps[*index].finish_time.as_ref().map(|time| time.0);
        (finished.is_none(), finished)
    });
    let overdue = |step: &&StepStatus| step.message.as_deref() == Some(OVERDUE);
    let late = life.status.steps.iter().find(overdue);
    // What failed while it cleaned up after the deadline is not why the run failed.
    let only_cleaned_up = late.is_some() && standing.iter().all(|index| life.content.steps[*index].when.is_some());
    Some(match standing.first() {
        Some(index) if !only_cleaned_up => Verdict::Fails(whole(life, &life.status.steps[*index])),
        _ if let Some(step) = late => Verdict::Fails(of_deadline(&step.name)),
        Some(index) => Verdict::Fails(whole(life, &life.status.steps[*index])),
        None if all.is_empty() && partial(life).is_some() => {
            Verdict::is(TaskState::PartiallyComplete, "SomeFailed", partial(life))
        }
        None if all.is_empty() => Verdict::is(TaskState::Complete, "StepsSucceeded", None),
        None => {
            let names: Vec<&str> = all.iter().map(|index| life.content.steps[*index].name.as_str()).collect();
            let message = format!("step {} failed, and an alternative made up for it", names.join(", "));
            match partial(life) {
                Some(part) => {
                    Verdict::is(TaskState::PartiallyComplete, "SomeFailed", Some(format!("{message}; {part}")))
                }
                None => Verdict::is(TaskState::Complete, "Recovered", Some(message)),
            }
        }
    })
}

/// What is missing of a result that is good enough, if anything.
fn partial(life: &Life<'_>) -> Option<String> {
    let of = |step: &StepStatus| {
        let shards = step.shards.as_ref().filter(|shards| shards.failed > 0);
        let shards = shards.map(|shards| format!("{} of {} shards", shards.failed, shards.total));
        let items = step.items.as_ref().filter(|items| items.failed > 0);
        let items = items.map(|items| format!("{} of {} items", items.failed, items.attempted));
        let told: Vec<String> = shards.into_iter().chain(items).collect();
        let told = if told.is_empty() { "some shards or items".to_owned() } else { told.join(" and ") };
        format!("step {}: {told} failed, no more than are tolerated", step.name)
    };
    let partial = life.status.steps.iter().filter(|step| state(step) == StepState::PartiallyComplete);
    let told: Vec<String> = partial.map(of).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// The failure of a step with all that is known of it.
fn whole(life: &Life<'_>, step: &StepStatus) -> Failure {
    let of_step = |failure: &&Failure| failure.step.as_ref() == Some(&step.name);
    let now = life.plan.news.steps.iter().find_map(|(name, news)| match news {
        StepNews::Fails(failure, _) | StepNews::ShardsEnd { end: ShardsEnd::Failed(failure), .. }
            if *name == step.name =>
        {
            Some(failure)
        }
        _ => None,
    });
    if let Some(known) = now.or(life.status.failure.as_ref().filter(of_step)) {
        return known.clone();
    }
    let brief = step.failure.clone().unwrap_or_default();
    Failure {
        step: Some(step.name.clone()),
        reason: brief.reason,
        code: brief.code,
        message: brief.message,
        exit_code: brief.exit_code,
        ..super::failure::blank()
    }
}

/// The end of a run that was cancelled.
pub(super) fn canceled(life: &Life<'_>) -> Verdict {
    let failed: Vec<&str> = life
        .status
        .steps
        .iter()
        .filter(|step| state(step) == StepState::Failed && step.finish_time.is_none())
        .map(|step| step.name.as_str())
        .collect();
    let cleanup = if failed.is_empty() {
        String::new()
    } else {
        format!("; step {} failed while it cleaned up", failed.join(", "))
    };
    let Trouble { reason, message } = cancel::why(life.task);
    let message = format!("{message}{}{cleanup}", life.content.cancellation.effect());
    Verdict::is(TaskState::Canceled, reason, Some(message))
}

/// What there is to say while it goes on: the first thing that is in the way.
pub(super) fn on_the_way(life: &Life<'_>) -> Verdict {
    let waits = life.status.steps.iter().find_map(|step| Some((step, step.waiting.as_ref()?)));
    if let Some((step, waiting)) = waits {
        let message = format!("the pod of step {} does not start: {}", step.name, waiting.message);
        return Verdict::is(TaskState::InProgress, waiting.reason.clone(), Some(message));
    }
    let in_state = |wanted: StepState| life.status.steps.iter().find(|step| state(step) == wanted);
    match (in_state(StepState::Running), in_state(StepState::Retrying)) {
        (None, Some(step)) => {
            let failure = step.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
            let attempt = step.attempt.unwrap_or(0);
            let until = step.until.as_ref().map(|until| format!(", the next one starts at {}", until.0));
            let message =
                format!("attempt {attempt} of step {} failed{}: {failure}", step.name, until.unwrap_or_default());
            Verdict::is(TaskState::InProgress, "Retrying", Some(message))
        }
        _ => Verdict::is(TaskState::InProgress, RUNNING, None),
    }
}
