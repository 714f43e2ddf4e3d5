//! The fence: may this attempt start, and may it still write? Pure; the facts are read live by whoever asks.

use crate::api::TaskState;

/// What counts about the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFacts {
    pub(super) deleting: bool,
    pub(super) state: Option<TaskState>,
    /// Number of the step's current attempt, once the operator has recorded it together with revision and store.
    pub(super) current: Option<u32>,
}

/// What counts about the Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JobFacts {
    pub(super) attempt: u32,
    pub(super) deleting: bool,
    /// Its end is recorded: no pod of it runs, as far as the cluster knows.
    pub(super) finished: bool,
}

/// The answer to an agent's first call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start.
    Run,
    /// The step has its result: do not start, and all is well.
    AlreadyCommitted,
    /// The operator has not written down the start yet: ask again.
    NotYet,
    /// Do not start.
    Stop(String),
}

/// Why an attempt may not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Not yet recorded: ask again.
    NotYet,
    /// For good.
    Over(String),
}

/// Whether an attempt that runs may still upload, report and commit. A terminating pod may: it is the current attempt
/// until its Job says otherwise.
pub(super) fn open(task: TaskFacts, job: JobFacts) -> Result<(), Closed> {
    let over = |why: String| Err(Closed::Over(why));
    if task.deleting {
        return over("the AsyncTask is being deleted".into());
    }
    match task.state {
        Some(state @ (TaskState::Canceling | TaskState::Canceled)) => {
            return over(format!("the run was cancelled (state {state})"));
        }
        Some(state @ (TaskState::Complete | TaskState::PartiallyComplete | TaskState::Failed)) => {
            return over(format!("the run is over (state {state})"));
        }
        None | Some(TaskState::Pending) => return Err(Closed::NotYet),
        Some(TaskState::InProgress) => {}
    }
    let Some(current) = task.current else { return Err(Closed::NotYet) };
    if job.attempt < current {
        return over(format!("attempt {} was superseded by attempt {current}", job.attempt));
    }
    if job.attempt > current {
        return Err(Closed::NotYet);
    }
    if job.deleting {
        return over("the Job of this attempt is being deleted".into());
    }
    if job.finished {
        return over("the Job of this attempt has ended".into());
    }
    Ok(())
}

/// Whether an attempt may start. `committed`: a commit record of any attempt of the step exists.
pub(super) fn start(task: TaskFacts, job: JobFacts, terminating: bool, committed: bool) -> Verdict {
    match open(task, job) {
        Err(Closed::NotYet) => Verdict::NotYet,
        Err(Closed::Over(why)) => Verdict::Stop(why),
        Ok(()) if committed => Verdict::AlreadyCommitted,
        Ok(()) if terminating => Verdict::Stop("the pod is being terminated".into()),
        Ok(()) => Verdict::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::{Canceled, Canceling, Complete, Failed, InProgress, PartiallyComplete, Pending};

    fn task(state: TaskState) -> TaskFacts {
        TaskFacts { deleting: false, state: Some(state), current: Some(2) }
    }

    fn job(attempt: u32) -> JobFacts {
        JobFacts { attempt, deleting: false, finished: false }
    }

    fn stops(verdict: &Verdict, part: &str) {
        assert!(matches!(verdict, Verdict::Stop(why) if why.contains(part)), "{verdict:?} should say {part:?}");
    }

    #[test]
    fn the_current_attempt_of_a_running_task_starts() {
        assert_eq!(start(task(InProgress), job(2), false, false), Verdict::Run);
    }

    #[test]
    fn nothing_starts_once_the_run_is_over() {
        for state in [Complete, PartiallyComplete, Failed] {
            stops(&start(task(state), job(2), false, false), "is over");
            stops(&start(task(state), job(2), false, true), "is over");
        }
        for state in [Canceling, Canceled] {
            stops(&start(task(state), job(2), false, false), "cancelled");
        }
        let deleted = TaskFacts { deleting: true, ..task(InProgress) };
        stops(&start(deleted, job(2), false, true), "deleted");
    }

    #[test]
    fn an_attempt_that_was_superseded_stops() {
        stops(&start(task(InProgress), job(1), false, false), "superseded by attempt 2");
        stops(&start(task(InProgress), JobFacts { deleting: true, ..job(2) }, false, false), "being deleted");
        stops(&start(task(InProgress), JobFacts { finished: true, ..job(2) }, false, false), "has ended");
    }

    #[test]
    fn an_attempt_the_operator_has_not_written_down_waits() {
        assert_eq!(start(task(Pending), job(2), false, false), Verdict::NotYet);
        assert_eq!(start(TaskFacts { state: None, ..task(Pending) }, job(2), false, false), Verdict::NotYet);
        assert_eq!(start(TaskFacts { current: None, ..task(InProgress) }, job(2), false, false), Verdict::NotYet);
        assert_eq!(start(task(InProgress), job(3), false, false), Verdict::NotYet);
    }

    #[test]
    fn a_committed_step_is_not_run_again() {
        assert_eq!(start(task(InProgress), job(2), false, true), Verdict::AlreadyCommitted);
        assert_eq!(start(task(InProgress), job(2), true, true), Verdict::AlreadyCommitted);
    }

    #[test]
    fn a_terminating_pod_does_not_start_but_may_still_write() {
        stops(&start(task(InProgress), job(2), true, false), "terminated");
        assert_eq!(open(task(InProgress), job(2)), Ok(()));
    }

    #[test]
    fn who_may_not_start_may_not_write_either() {
        for state in [Complete, PartiallyComplete, Failed, Canceling, Canceled] {
            assert!(matches!(open(task(state), job(2)), Err(Closed::Over(_))), "{state}");
        }
        assert!(matches!(open(task(InProgress), job(1)), Err(Closed::Over(_))));
        assert!(matches!(open(task(InProgress), JobFacts { finished: true, ..job(2) }), Err(Closed::Over(_))));
    }
}
