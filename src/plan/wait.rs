//! What a run waits for before its steps start: somebody's word, a time, its turn.

use super::actor;
use super::decide::{Claim, Key, Plan, Verdict, later};
use super::failure::refusal;
use super::life::Life;
use asynctask_api::names::ANNOTATION_SUSPENDED_BY;
use asynctask_api::task::QueueStatus;
use asynctask_api::{AsyncTask, TaskState};

/// What keeps it from asking for its turn, if anything.
pub(super) fn before_the_queue(life: &mut Life<'_>) -> Option<Plan> {
    let spec = &life.task.spec;
    if spec.is_suspended() {
        return Some(life.say(suspended(life.task)));
    }
    let created = life.task.metadata.creation_timestamp.as_ref().map_or(life.now, |time| time.0);
    let from = spec.start_after.as_ref().map_or(created, |time| time.0.max(created));
    if from > life.now {
        life.wake(from);
        let message = format!("starts at {from}, as spec.startAfter says");
        return Some(life.say(Verdict::is(TaskState::Pending, "Scheduled", Some(message))));
    }
    // The time in which it waits for its first start; one that was held has started.
    let ran = life.status.steps.iter().any(|step| step.attempt.is_some());
    let limit = life.content.queue_timeout.filter(|_| !ran)?;
    let until = later(from, limit);
    if until > life.now {
        life.wake(until);
        return None;
    }
    let message = format!(
        "it waited longer than the definition's queueTimeout of {limit:?} for its start ({}). Run it again when there is \
         room, or raise queueTimeout",
        life.status.reason.as_deref().unwrap_or("Pending")
    );
    Some(life.say(Verdict::Fails(refusal("QueueTimeout", message))))
}

pub(super) fn suspended(task: &AsyncTask) -> Verdict {
    let who = actor::by(task, ANNOTATION_SUSPENDED_BY);
    let message = format!("{who} suspended it: set spec.suspend to false to go on. No retry is spent");
    Verdict::is(TaskState::Pending, "Suspended", Some(message))
}

/// What it asks of the queue.
pub(super) fn claim(life: &Life<'_>) -> Claim {
    let concurrency = &life.content.concurrency;
    let lease = life.status.queue.as_ref().and_then(|queue| queue.lease.clone());
    let once = life.content.inputs.iter().filter(|input| input.once);
    let upload = |name: &String| Some((name.clone(), life.task.spec.inputs.get(name)?.upload.clone()?));
    let own = || life.task.metadata.uid.clone().unwrap_or_default();
    Claim {
        uploads: once.filter_map(|input| upload(&input.name)).collect(),
        origin: life.status.origin.as_ref().map_or_else(own, |first| first.uid.clone()),
        max_running: concurrency.max_running,
        priority_class: life.task.spec.priority_class_name.clone(),
        key: lease.map(|lease| Key { lease, policy: concurrency.policy }),
    }
}

/// Its place, beside the key that it keeps the name of.
pub(super) fn place(life: &Life<'_>, position: Option<i32>) -> QueueStatus {
    QueueStatus { position, lease: life.status.queue.as_ref().and_then(|queue| queue.lease.clone()) }
}
