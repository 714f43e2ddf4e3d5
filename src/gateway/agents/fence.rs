//! The fence: may this attempt start, and may it still write? Pure; the facts are read live by whoever asks.

use asynctask_api::TaskState;
use asynctask_api::state::StepState;

/// What counts about the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFacts {
    pub(super) deleting: bool,
    pub(super) state: Option<TaskState>,
    /// Somebody asked that the run be held.
    pub(super) suspended: bool,
    /// State of the step, as recorded.
    pub(super) step: Option<StepState>,
    /// The step is in the stage that must not be interrupted, or behind it.
    pub(super) guarded: bool,
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

/// Whether an attempt may still commit, or enter a stage. A terminating pod may: it is the current attempt until the
/// record says otherwise. A run that is being cancelled still lets the steps write that clean up after it.
pub(super) fn open(task: TaskFacts, job: JobFacts) -> Result<(), Closed> {
    let over = |why: String| Err(Closed::Over(why));
    let (step, current) = of_current(task, job)?;
    if let Some(why) = interrupted(step, task.suspended, current) {
        return over(why);
    }
    if job.deleting {
        return over("the Job of this attempt is being deleted".into());
    }
    if job.finished {
        return over("the Job of this attempt has ended".into());
    }
    match (task.state, step) {
        (Some(TaskState::InProgress | TaskState::Canceling), StepState::Running) => Ok(()),
        _ => Err(Closed::NotYet),
    }
}

/// Whether an attempt may still upload and report, which decides nothing. One that was interrupted may, as long as the
/// run waits for the end of its pods: its log and its last words are all that people will have of it.
pub(super) fn heard(task: TaskFacts, job: JobFacts) -> Result<(), Closed> {
    match (task.step, of_current(task, job)) {
        (Some(StepState::Canceled), Ok(_)) => Ok(()),
        (Some(StepState::Waiting), Ok(_)) if task.suspended => Ok(()),
        _ => open(task, job),
    }
}

/// State of the step and number of its attempt, when this is the attempt of a run that is not over.
fn of_current(task: TaskFacts, job: JobFacts) -> Result<(StepState, u32), Closed> {
    let over = |why: String| Err(Closed::Over(why));
    // What is half done in a guarded stage goes on to its end: the operator waits for it.
    if task.deleting && !task.guarded {
        return over("the AsyncTask is being deleted".into());
    }
    if let Some(why) = task.state.and_then(ended) {
        return over(why);
    }
    let (Some(step), Some(current)) = (task.step, task.current) else { return Err(Closed::NotYet) };
    if job.attempt > current {
        return Err(Closed::NotYet);
    }
    if job.attempt < current {
        return over(format!("attempt {} was superseded by attempt {current}", job.attempt));
    }
    Ok((step, current))
}

/// Why nothing of a run in this state may write any more.
fn ended(state: TaskState) -> Option<String> {
    match state {
        TaskState::Pending | TaskState::InProgress | TaskState::Canceling => None,
        TaskState::Canceled => Some(format!("the run was cancelled (state {state})")),
        TaskState::Complete | TaskState::PartiallyComplete | TaskState::Failed => {
            Some(format!("the run is over (state {state})"))
        }
    }
}

/// Why the recorded attempt of a step in this state may not go on.
fn interrupted(step: StepState, suspended: bool, attempt: u32) -> Option<String> {
    match step {
        StepState::Canceled => Some("the run was cancelled".into()),
        StepState::Waiting if suspended => Some("the run is suspended".into()),
        StepState::Retrying => Some(format!("attempt {attempt} has failed and is superseded by the next one")),
        StepState::Complete | StepState::PartiallyComplete | StepState::Failed | StepState::Skipped => {
            Some(format!("the step is over (state {})", step.as_str()))
        }
        StepState::Running | StepState::Waiting => None,
    }
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
    use StepState::{Retrying, Running, Skipped, Waiting};
    use TaskState::{Canceled, Canceling, Complete, Failed, InProgress, PartiallyComplete, Pending};

    fn task(state: TaskState) -> TaskFacts {
        TaskFacts {
            deleting: false,
            state: Some(state),
            suspended: false,
            step: Some(Running),
            guarded: false,
            current: Some(2),
        }
    }

    fn at(step: StepState) -> TaskFacts {
        TaskFacts { step: Some(step), ..task(InProgress) }
    }

    fn job(attempt: u32) -> JobFacts {
        JobFacts { attempt, deleting: false, finished: false }
    }

    fn stops(verdict: &Verdict, part: &str) {
        assert!(matches!(verdict, Verdict::Stop(why) if why.contains(part)), "{verdict:?} should say {part:?}");
    }

    #[test]
    fn the_current_attempt_of_a_running_step_starts() {
        assert_eq!(start(task(InProgress), job(2), false, false), Verdict::Run);
        assert_eq!(start(task(Canceling), job(2), false, false), Verdict::Run, "what cleans up");
    }

    #[test]
    fn nothing_starts_once_the_run_is_over() {
        for state in [Complete, PartiallyComplete, Failed] {
            stops(&start(task(state), job(2), false, false), "is over");
            stops(&start(task(state), job(2), false, true), "is over");
        }
        stops(&start(task(Canceled), job(2), false, false), "cancelled");
        let deleted = TaskFacts { deleting: true, ..task(InProgress) };
        stops(&start(deleted, job(2), false, true), "deleted");
    }

    #[test]
    fn nothing_starts_once_the_step_is_over_or_was_interrupted() {
        for state in [InProgress, Canceling] {
            let canceled = TaskFacts { step: Some(StepState::Canceled), ..task(state) };
            stops(&start(canceled, job(2), false, false), "cancelled");
        }
        for over in [StepState::Complete, StepState::Failed, Skipped] {
            stops(&start(at(over), job(2), false, false), "the step is over");
        }
        stops(&start(at(Retrying), job(2), false, false), "superseded");
        for state in [Pending, InProgress] {
            let held = TaskFacts { suspended: true, step: Some(Waiting), ..task(state) };
            stops(&start(held, job(2), false, false), "suspended");
        }
    }

    #[test]
    fn a_request_to_hold_the_run_counts_once_the_operator_has_recorded_it() {
        let asked = TaskFacts { suspended: true, ..task(InProgress) };
        assert_eq!(start(asked, job(2), false, false), Verdict::Run);
        let resumed = TaskFacts { suspended: false, step: Some(Waiting), ..task(InProgress) };
        assert_eq!(start(resumed, job(2), false, false), Verdict::NotYet, "the next attempt is not recorded yet");
    }

    #[test]
    fn an_attempt_that_was_superseded_stops() {
        stops(&start(task(InProgress), job(1), false, false), "superseded by attempt 2");
        stops(&start(at(Waiting), job(1), false, false), "superseded by attempt 2");
        stops(&start(task(InProgress), JobFacts { deleting: true, ..job(2) }, false, false), "being deleted");
        stops(&start(at(Waiting), JobFacts { deleting: true, ..job(2) }, false, false), "being deleted");
        stops(&start(task(InProgress), JobFacts { finished: true, ..job(2) }, false, false), "has ended");
    }

    #[test]
    fn an_attempt_the_operator_has_not_written_down_waits() {
        let unwritten = [
            (task(Pending), job(2)),
            (TaskFacts { state: None, ..task(Pending) }, job(2)),
            (TaskFacts { current: None, ..task(InProgress) }, job(2)),
            (TaskFacts { step: None, ..task(InProgress) }, job(2)),
            (at(Waiting), job(2)),
            (task(InProgress), job(3)),
            (at(Retrying), job(3)),
            (TaskFacts { suspended: true, ..at(Waiting) }, job(3)),
        ];
        for (task, job) in unwritten {
            assert_eq!(start(task, job, false, false), Verdict::NotYet, "{task:?} {job:?}");
        }
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

    /// The states of run and step, and whether it is to be held, that let an attempt through.
    fn let_through(
        by: fn(TaskFacts, JobFacts) -> Result<(), Closed>,
        job: JobFacts,
    ) -> Vec<(TaskState, StepState, bool)> {
        let mut through = Vec::new();
        for state in TaskState::ALL {
            for step in StepState::ALL {
                for suspended in [false, true] {
                    if by(TaskFacts { step: Some(step), suspended, ..task(state) }, job).is_ok() {
                        through.push((state, step, suspended));
                    }
                }
            }
        }
        through
    }

    #[test]
    fn a_guarded_stage_goes_on_while_the_run_is_being_deleted() {
        for state in [InProgress, Canceling] {
            let inside = TaskFacts { deleting: true, guarded: true, ..task(state) };
            assert_eq!((open(inside, job(2)), heard(inside, job(2))), (Ok(()), Ok(())));
            assert!(open(inside, job(1)).is_err(), "superseded");
            assert!(open(inside, JobFacts { deleting: true, ..job(2) }).is_err(), "its Job goes too");
            assert!(open(TaskFacts { guarded: false, ..inside }, job(2)).is_err());
        }
    }

    #[test]
    fn of_all_states_of_run_and_step_two_let_an_attempt_write() {
        let running = |state| [(state, Running, false), (state, Running, true)];
        assert_eq!(let_through(open, job(2)), [running(InProgress), running(Canceling)].concat());
    }

    #[test]
    fn who_was_interrupted_is_heard_until_the_run_is_over() {
        let deleted = JobFacts { deleting: true, finished: true, ..job(2) };
        let canceled = |state| [(state, StepState::Canceled, false), (state, StepState::Canceled, true)];
        let held = |state| [vec![(state, Waiting, true)], canceled(state).to_vec()].concat();
        assert_eq!(let_through(heard, deleted), [held(Pending), held(InProgress), held(Canceling)].concat());
        assert!(let_through(heard, job(1)).is_empty(), "superseded");
        assert!(
            heard(TaskFacts { deleting: true, step: Some(StepState::Canceled), ..task(Canceling) }, job(2)).is_err()
        );
    }
}
