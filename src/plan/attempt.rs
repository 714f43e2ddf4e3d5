//! What became of the attempt a step is in.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::decide::{PODS_AGAIN, later};
use super::definition::ValidatedStep;
use super::failure;
use super::retry::Cause;
use super::seal::{self, Sealed};
use super::snapshot::{Execution, JobEnd, JobFact, PodFact, READY_PATIENCE, Results, Trouble, lingering};
use asynctask_api::condition::cut;
use asynctask_api::task::{Failure, Waiting};

/// Between two looks at a pod that does not start.
const START_AGAIN: Duration = Duration::from_secs(15);

/// What became of an attempt.
pub(super) enum Judged {
    /// It goes on.
    Runs {
        /// What its pod waits for.
        waiting: Option<Waiting>,
        /// When to look again.
        wake_at: Option<Timestamp>,
    },
    /// It has ended, but how cannot be known now.
    Held(Trouble),
    /// It gave its result.
    Done(Sealed),
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// The same for the retry rules; `None`: nothing is to follow.
        cause: Option<Cause>,
        /// Its log.
        log: Option<Sealed>,
    },
}

/// Judges attempt `attempt` of a step. `deadline`: the end of the whole run's time.
pub(super) fn judge(
    step: &ValidatedStep,
    attempt: u32,
    execution: &Execution,
    deadline: Option<Timestamp>,
    now: Timestamp,
) -> Judged {
    let job = execution.jobs.iter().find(|job| job.ours && job.step == step.name && job.attempt == attempt);
    match job {
        Some(job) if job.end.is_none() && job.suspended => judge_start(step, job, execution, deadline, false, now),
        Some(job) if job.end.is_none() => match lingering(&execution.pods, &step.name, attempt) {
            // Its program has ended: nothing but what was injected into the pod goes on, and that is not waited for.
            Some((pod, until)) if until <= now => ended(step, attempt, &end_of(pod), execution, now),
            Some((_, until)) => Judged::Runs { waiting: None, wake_at: Some(until) },
            None => judge_start(step, job, execution, deadline, false, now),
        },
        Some(JobFact { end: Some(end), .. }) => ended(step, attempt, end, execution, now),
        _ => ended(step, attempt, &JobEnd::Gone, execution, now),
    }
}

/// Judges an attempt whose Job has not ended: whether it starts in time. `begun`: pods of it are known to have run.
pub(super) fn judge_start(
    step: &ValidatedStep,
    job: &JobFact,
    execution: &Execution,
    deadline: Option<Timestamp>,
    begun: bool,
    now: Timestamp,
) -> Judged {
    if deadline.is_some_and(|deadline| deadline <= now) {
        return Judged::Failed { failure: failure::of_deadline(&step.name), cause: None, log: None };
    }
    if job.ready || job.suspended || begun {
        return Judged::Runs { waiting: None, wake_at: deadline };
    }
    let slow = job.is_older(READY_PATIENCE, now);
    let pods = || execution.pods.iter().filter(|pod| pod.step == job.step && pod.attempt == job.attempt);
    let started = pods().any(|pod| pod.started);
    let waiting = (slow && !started).then(|| waits_for(job, pods().next_back()));
    if job.is_older(step.start_timeout, now) && !started {
        let waiting = waiting.unwrap_or_default();
        let (failure, cause) = failure::of_start(&step.name, step.start_timeout, &waiting);
        return Judged::Failed { failure, cause: Some(cause), log: None };
    }
    let since = job.since().unwrap_or(now);
    let look = if slow { later(now, START_AGAIN) } else { later(since, READY_PATIENCE) };
    let wake_at = [Some(look), Some(later(since, step.start_timeout)), deadline];
    // A pod that started and is not ready yet, or not any more, has nothing to hurry us.
    let wake_at = if started { deadline } else { wake_at.into_iter().flatten().filter(|at| *at > now).min() };
    Judged::Runs { waiting, wake_at }
}

fn waits_for(job: &JobFact, pod: Option<&PodFact>) -> Waiting {
    let (reason, message) = match pod {
        None => (
            "NoPod".to_owned(),
            format!(
                "the Job controller has made no pod yet: a quota or an admission policy may be in the way, see kubectl \
                 describe job {}",
                job.name
            ),
        ),
        Some(PodFact { unschedulable: Some(why), .. }) => ("Unschedulable".to_owned(), why.clone()),
        Some(PodFact { waiting: Some((reason, message)), .. }) => (reason.clone(), message.clone()),
        Some(PodFact { name, .. }) => {
            ("PodPending".to_owned(), format!("the pod has not started yet, see kubectl describe pod {name}"))
        }
    };
    Waiting { reason: cut(&reason, 63), message: cut(&message, 256) }
}

/// What the Job controller would say of the program's end.
fn end_of(pod: &PodFact) -> JobEnd {
    match &pod.exit {
        Some(exit) if exit.code == 0 => JobEnd::Succeeded,
        Some(_) | None => JobEnd::Failed { reason: "PodFailed".to_owned(), message: String::new() },
    }
}

/// The Job has ended. Any valid commit counts, whatever the Job says: a deadline can fail a pod whose program was
/// done.
fn ended(step: &ValidatedStep, attempt: u32, end: &JobEnd, execution: &Execution, now: Timestamp) -> Judged {
    let again = Judged::Runs { waiting: None, wake_at: Some(later(now, PODS_AGAIN)) };
    let results = match execution.results.get(&step.name) {
        None => return again,
        Some(Err(trouble)) => return Judged::Held(trouble.clone()),
        Some(Ok(results)) => results,
    };
    if let Some(sealed) = seal::winner(&results.commits) {
        return Judged::Done(sealed);
    }
    let results = of_attempt(results, &step.name, attempt);
    // A Job that is deleted goes before its pods, and they still have something to tell.
    if results.pods.iter().any(PodFact::is_at_work) {
        return again;
    }
    let (failure, cause) = failure::of_step(&step.name, end, &results);
    Judged::Failed { failure, cause: Some(cause), log: seal::log(&results) }
}

fn of_attempt(results: &Results, step: &str, attempt: u32) -> Results {
    let mut own = results.clone();
    own.pods.retain(|pod| pod.step == step && pod.attempt == attempt);
    own.failures.retain(|failure| failure.attempt == attempt);
    own
}
