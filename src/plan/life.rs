//! The life of a run from its admission to its end: what its steps did is judged, what somebody asked for is heeded,
//! what comes next is started, and the end is seen.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::attempt::{Judged, judge};
use super::cancel::is_cleanup;
use super::decide::{Action, CancelNews, News, PODS_AGAIN, Plan, ShardsEnd, StepNews, Verdict, later};
use super::definition::{ValidatedDefinition, ValidatedStep};
use super::failure::{self, refusal};
use super::flow::{self, Fate};
use super::job::{self, Run};
use super::retry::{self, Next, Spent};
use super::snapshot::{Execution, JobFact, JobRef, PodFact, Trouble, Turn, attempt, job_name};
use super::{cancel, end, seal, spread, wait};
use asynctask_api::AsyncTask;
use asynctask_api::condition;
use asynctask_api::definition::Outcome;
use asynctask_api::state::{StepState, TaskState};
use asynctask_api::task::{AsyncTaskStatus, ShardsStatus, StepStatus, Waiting};

/// Between two looks while the operator does not know yet how to build a Job.
const AGENT_AGAIN: Duration = Duration::from_secs(1);
/// Why a run is in progress when all is well.
pub(super) const RUNNING: &str = "Running";
/// Why a run is being cancelled: somebody asked for it.
const CANCELING: &str = condition::CANCEL_REQUESTED;
/// Words of steps that never came to their turn.
const CANCELED: &str = "the run was cancelled";
pub(super) const OVERDUE: &str = "the run's deadline has passed";

/// What comes next for a pinned run. `status` is what is known of it.
pub(super) fn plan(task: &AsyncTask, status: AsyncTaskStatus, execution: &Execution, now: Timestamp) -> Plan {
    let content = match &execution.content {
        Ok(content) => content,
        Err(why) => return without_revision(&status, execution, why, now),
    };
    let mut life = Life::new(task, status, execution, content, now);
    match life.status.state.unwrap_or(TaskState::Pending) {
        TaskState::Pending => life.pending(),
        TaskState::InProgress => life.in_progress(),
        TaskState::Canceling => life.canceling(),
        TaskState::Complete | TaskState::PartiallyComplete | TaskState::Failed | TaskState::Canceled => Plan::rest(),
    }
}

/// Nobody can say how such a run goes on: what runs is ended first.
fn without_revision(status: &AsyncTaskStatus, execution: &Execution, why: &str, now: Timestamp) -> Plan {
    let alive: Vec<&JobFact> = execution.jobs.iter().filter(|job| job.ours && job.end.is_none()).collect();
    if alive.is_empty() {
        return Plan::say(Verdict::Fails(refusal("DefinitionGone", why.to_owned())));
    }
    let doomed = alive.into_iter().filter(|job| !job.deleting).map(|job| Action::DeleteJob(reference(job)));
    let state = status.state.unwrap_or(TaskState::Pending);
    let trouble = Trouble { reason: "DefinitionGone", message: format!("{why}. Its pods are ended first") };
    Plan::act(doomed.collect(), Verdict::held(state, &trouble)).wake(later(now, PODS_AGAIN))
}

fn reference(job: &JobFact) -> JobRef {
    JobRef { name: job.name.clone(), uid: job.uid.clone(), deleting: job.deleting }
}

/// A run under the eyes of the plan: `status.steps` are worked on, in the order of the definition's steps.
pub(super) struct Life<'a> {
    pub(super) task: &'a AsyncTask,
    pub(super) status: AsyncTaskStatus,
    pub(super) execution: &'a Execution,
    pub(super) content: &'a ValidatedDefinition,
    pub(super) now: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    pub(super) plan: Plan,
    pub(super) trouble: Option<Trouble>,
}

impl<'a> Life<'a> {
    fn new(
        task: &'a AsyncTask,
        mut status: AsyncTaskStatus,
        execution: &'a Execution,
        content: &'a ValidatedDefinition,
        now: Timestamp,
    ) -> Self {
        let mut known: BTreeMap<String, StepStatus> =
            status.steps.drain(..).map(|step| (step.name.clone(), step)).collect();
        let step = |step: &ValidatedStep| {
            known.remove(&step.name).unwrap_or_else(|| StepStatus { name: step.name.clone(), ..StepStatus::default() })
        };
        status.steps = content.steps.iter().map(step).collect();
        let began = status.steps.iter().filter_map(|step| step.start_time.as_ref()).map(|time| time.0).min();
        let deadline = content.deadline.map(|deadline| later(began.unwrap_or(now), deadline));
        Self { task, status, execution, content, now, deadline, plan: Plan::default(), trouble: None }
    }

    // ---- by state

    fn pending(&mut self) -> Plan {
        self.delete_strays();
        if self.task.spec.is_canceled() {
            return self.cancel_pending();
        }
        if let Some(plan) = wait::before_the_queue(self) {
            return plan;
        }
        match &self.execution.turn {
            None => {
                let claim = wait::claim(self);
                self.plan.actions.push(Action::Take(claim));
                self.say(Verdict::Unchanged)
            }
            Some(Turn::Wait { position, why }) => {
                self.plan.news.queue = Some(wait::place(self, *position));
                let verdict = Verdict::held(TaskState::Pending, why);
                self.say(verdict)
            }
            Some(Turn::Never { state, why }) => {
                self.skip_waiting(CANCELED, |_| true);
                match state {
                    TaskState::Failed => self.say(Verdict::Fails(refusal(why.reason, why.message.clone()))),
                    state => self.say(Verdict::held(*state, why)),
                }
            }
            Some(Turn::Go) => {
                self.plan.news.queue = Some(wait::place(self, None));
                self.start_what_can(|_| true);
                if matches!(end::verdict(self), Some(Verdict::Is { .. })) {
                    // It has nothing left to do: it ends as every run does, out of InProgress.
                    self.wake(self.now);
                    return self.say(Verdict::is(TaskState::InProgress, RUNNING, None));
                }
                self.go_on()
            }
        }
    }

    fn in_progress(&mut self) -> Plan {
        self.delete_strays();
        self.judge_attempts();
        self.come_back_for_strays();
        let asked = self.task.spec.is_canceled() || self.task.spec.is_suspended();
        let forbidden = asked.then(|| self.content.cancellation.forbidden(&self.status.steps)).flatten();
        let over = self.status.steps.iter().all(|step| state(step).is_over());
        match forbidden {
            _ if !asked || over => self.start_what_can(|_| true),
            None if self.task.spec.is_canceled() => return self.begin_cancel(),
            None => return self.suspend(),
            // Nothing new begins, but what cannot be interrupted goes on, its further attempts too.
            Some(why) if self.task.spec.is_canceled() => {
                self.plan.news.cancel = Some(CancelNews::NotNow(why));
                self.start_what_can(|step| state(step) == StepState::Retrying);
            }
            Some(why) => {
                self.start_what_can(|step| state(step) == StepState::Retrying);
                // What is in the way is told, and tried again, whatever was asked.
                if self.trouble.is_none() {
                    let verdict = Verdict::is(TaskState::InProgress, "SuspendLater", Some(why));
                    let verdict = end::verdict(self).unwrap_or(verdict);
                    return self.say(verdict);
                }
            }
        }
        self.go_on()
    }

    fn canceling(&mut self) -> Plan {
        self.delete_strays();
        self.judge_attempts();
        self.come_back_for_strays();
        self.plan.news.cancel = Some(CancelNews::Accepted(self.content.cancellation.effect()));
        let cleanups: Vec<bool> = self.content.steps.iter().map(is_cleanup).collect();
        let of_cleanup = |step: &StepStatus, steps: &[StepStatus]| {
            steps.iter().position(|other| other.name == step.name).is_some_and(|index| cleanups[index])
        };
        let steps = self.status.steps.clone();
        self.skip_waiting(CANCELED, |step| !of_cleanup(step, &steps));
        if self.is_quiet() {
            self.start_what_can(|step| of_cleanup(step, &steps));
        } else {
            self.wake(later(self.now, PODS_AGAIN));
        }
        if self.is_quiet() {
            self.seal_canceled();
        }
        let over = self.status.steps.iter().all(|step| state(step).is_over());
        if over && self.is_quiet() {
            let verdict = end::canceled(self);
            return self.say(verdict);
        }
        let message = format!("pods are ended and cleanup steps run{}", self.content.cancellation.effect());
        let verdict = match self.trouble.take() {
            Some(trouble) => {
                self.plan.blocked = true;
                Verdict::held(TaskState::Canceling, &trouble)
            }
            None => Verdict::is(TaskState::Canceling, CANCELING, Some(message)),
        };
        self.say(verdict)
    }

    /// In progress: the end, or what there is to say on the way.
    fn go_on(&mut self) -> Plan {
        let verdict = match (end::verdict(self), self.trouble.take()) {
            (_, Some(trouble)) => {
                self.plan.blocked = true;
                Verdict::held(TaskState::InProgress, &trouble)
            }
            (Some(verdict), None) => verdict,
            (None, None) if self.waits_for_agent() => Verdict::Unchanged,
            (None, None) => end::on_the_way(self),
        };
        self.say(verdict)
    }

    fn waits_for_agent(&self) -> bool {
        self.execution.agent.is_none() && self.status.steps.iter().all(|step| state(step) != StepState::Running)
    }

    pub(super) fn say(&mut self, verdict: Verdict) -> Plan {
        let mut plan = std::mem::take(&mut self.plan);
        plan.news.verdict = verdict;
        plan
    }

    pub(super) fn wake(&mut self, at: Timestamp) {
        self.plan = std::mem::take(&mut self.plan).wake(at);
    }

    // ---- what was asked for

    /// What never ran has nothing to clean up; what ran before it was held has.
    fn cancel_pending(&mut self) -> Plan {
        let ran = self.status.steps.iter().any(|step| step.attempt.is_some());
        if ran || !self.is_quiet() {
            return self.begin_cancel();
        }
        self.skip_waiting(CANCELED, |_| true);
        self.plan.news.cancel = Some(CancelNews::Accepted(String::new()));
        let verdict = end::canceled(self);
        self.say(verdict)
    }

    /// Written down before anything is ended: the gateway lets nobody in from then on.
    fn begin_cancel(&mut self) -> Plan {
        let content = self.content;
        for (index, step) in content.steps.iter().enumerate() {
            let now = &self.status.steps[index];
            let held = state(now) == StepState::Waiting && now.attempt.is_some();
            let at_work = matches!(state(now), StepState::Running | StepState::Retrying);
            match state(now) {
                _ if at_work && is_cleanup(step) => {}
                _ if at_work || held => self.news(index, StepNews::Cancels),
                StepState::Waiting if !is_cleanup(step) => self.news(index, StepNews::Skips(CANCELED.to_owned())),
                _ => {}
            }
        }
        let effect = content.cancellation.effect();
        self.plan.news.cancel = Some(CancelNews::Accepted(effect.clone()));
        self.wake(later(self.now, PODS_AGAIN));
        self.say(Verdict::is(
            TaskState::Canceling,
            CANCELING,
            Some(format!("{}{effect}", cancel::why(self.task).message)),
        ))
    }

    fn suspend(&mut self) -> Plan {
        for index in 0..self.status.steps.len() {
            if state(&self.status.steps[index]) == StepState::Running {
                self.news(index, StepNews::Suspends);
            }
        }
        self.plan.news.queue = Some(wait::place(self, None));
        let verdict = wait::suspended(self.task);
        self.say(verdict)
    }

    fn skip_waiting(&mut self, words: &str, which: impl Fn(&StepStatus) -> bool) {
        for index in 0..self.status.steps.len() {
            let step = &self.status.steps[index];
            if state(step) == StepState::Waiting && which(step) {
                self.news(index, StepNews::Skips(words.to_owned()));
            }
        }
    }

    // ---- attempts

    fn judge_attempts(&mut self) {
        let content = self.content;
        for (index, step) in content.steps.iter().enumerate() {
            let now = &self.status.steps[index];
            if state(now) != StepState::Running {
                continue;
            }
            let cleaning = self.status.state == Some(TaskState::Canceling);
            // What cleans up has its own time, whatever the run's.
            let deadline = self.deadline.filter(|_| step.when.is_none());
            if let Some(fan_out) = &step.fan_out {
                self.judge_shards(index, fan_out, deadline);
                continue;
            }
            match judge(step, attempt(now), self.execution, deadline, self.now) {
                Judged::Runs { waiting, wake_at } => self.waits(index, waiting, wake_at),
                Judged::Held(trouble) => self.trouble = Some(trouble),
                Judged::Done(sealed) => {
                    self.seal(step, &sealed);
                    self.news(index, StepNews::Completes(sealed));
                }
                Judged::Failed { failure, cause, log } => {
                    let next = cause.filter(|_| !cleaning).map_or(Next::Over { retriable: None }, |cause| {
                        retry::next(&step.retry, cause, Spent::of(now), attempt(now))
                    });
                    self.failed(index, failure, log, next);
                }
            }
        }
    }

    pub(super) fn waits(&mut self, index: usize, waiting: Option<Waiting>, wake_at: Option<Timestamp>) {
        if waiting != self.status.steps[index].waiting {
            self.news(index, StepNews::Waits(waiting));
        }
        if let Some(at) = wake_at {
            self.wake(at);
        }
    }

    fn failed(
        &mut self,
        index: usize,
        failure: asynctask_api::task::Failure,
        log: Option<super::seal::Sealed>,
        next: Next,
    ) {
        match next {
            Next::Again { after, counts } => {
                let until = later(self.now, after);
                self.wake(until);
                self.news(index, StepNews::Retries { failure, until, counts });
            }
            Next::Over { retriable } => {
                let failure = asynctask_api::task::Failure { retriable: failure.retriable.or(retriable), ..failure };
                self.fail(index, failure, log);
            }
            Next::Exhausted { attempts } => self.fail(index, failure::exhausted(failure, attempts), log),
        }
    }

    fn fail(&mut self, index: usize, failure: asynctask_api::task::Failure, log: Option<super::seal::Sealed>) {
        let content = self.content;
        if let Some(sealed) = &log {
            self.seal(&content.steps[index], sealed);
        }
        self.news(index, StepNews::Fails(failure, log));
    }

    fn seal(&mut self, step: &ValidatedStep, sealed: &super::seal::Sealed) {
        self.plan.actions.push(Action::Seal { step: step.name.clone(), sealed: sealed.clone() });
    }

    // ---- what comes next

    /// Starts and skips steps until nothing moves any more: the end of one is the turn of the next.
    fn start_what_can(&mut self, which: impl Fn(&StepStatus) -> bool) {
        let overdue = self.deadline.is_some_and(|deadline| deadline <= self.now);
        loop {
            let before = self.plan.news.steps.len();
            for index in 0..self.content.steps.len() {
                let step = &self.status.steps[index];
                if which(step) {
                    match state(step) {
                        StepState::Retrying => self.retry(index),
                        StepState::Waiting => self.turn(index, overdue),
                        _ => {}
                    }
                }
            }
            if self.plan.news.steps.len() == before {
                return;
            }
        }
    }

    fn retry(&mut self, index: usize) {
        match self.status.steps[index].until.as_ref().map(|until| until.0) {
            Some(until) if until > self.now => self.wake(until),
            _ => self.start(index),
        }
    }

    fn turn(&mut self, index: usize, overdue: bool) {
        let fates: Vec<Fate> = self.status.steps.iter().map(fate).collect();
        match flow::turn(&self.content.steps, &fates, index) {
            flow::Turn::Wait => {}
            flow::Turn::Skip(words) => self.news(index, StepNews::Skips(words)),
            flow::Turn::Empty(words) => {
                self.news(index, StepNews::Counts(ShardsStatus::default()));
                self.news(index, StepNews::Skips(words));
            }
            flow::Turn::Start if overdue && self.content.steps[index].when.is_none() => {
                self.news(index, StepNews::Skips(OVERDUE.to_owned()));
            }
            flow::Turn::Start => self.start(index),
        }
    }

    /// The next attempt, once no pod of the one before is left.
    fn start(&mut self, index: usize) {
        let content = self.content;
        let (step, before) = (&content.steps[index], attempt(&self.status.steps[index]));
        // The pod of an attempt that began and was not written down is let in once it is.
        let earlier = |pod: &PodFact| pod.step == step.name && pod.attempt <= before && pod.alive;
        if self.execution.pods.iter().any(earlier) {
            return self.wake(later(self.now, PODS_AGAIN));
        }
        let number = before + 1;
        let name = job_name(self.task, &step.name, number);
        let there = self.execution.jobs.iter().find(|job| job.name == name);
        if there.is_some_and(|job| job.deleting) {
            return self.wake(later(self.now, PODS_AGAIN));
        }
        if there.is_none() {
            let Some(agent) = &self.execution.agent else { return self.wake(later(self.now, AGENT_AGAIN)) };
            let shards = match &step.fan_out {
                None => None,
                Some(fan_out) => match self.next_shards(index, fan_out) {
                    Some(shards) => Some(shards),
                    None => return,
                },
            };
            let job = job::build(step, &self.run(), number, shards.as_ref(), content.pods_kept, agent);
            self.plan.actions.push(Action::CreateJob { step: step.name.clone(), job });
        }
        self.news(index, StepNews::Starts { attempt: number, job: there.cloned() });
        if let Some(fan_out) = &step.fan_out
            && let Some(total) = spread::total(&self.status, &content.steps, index, fan_out)
            && self.status.steps[index].shards.is_none()
        {
            self.news(index, StepNews::Counts(ShardsStatus { total: total.into(), ..ShardsStatus::default() }));
        }
    }

    fn run(&self) -> Run {
        let (metadata, spec) = (&self.task.metadata, &self.task.spec);
        Run {
            name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            origin: self
                .status
                .origin
                .as_ref()
                .map(|run| &run.uid)
                .or(metadata.uid.as_ref())
                .cloned()
                .unwrap_or_default(),
            owner: spec.owner.clone().unwrap_or_default(),
            team: spec.team.clone().unwrap_or_default(),
            revision: self.status.revision.as_ref().map(|revision| revision.name.clone()).unwrap_or_default(),
            priority_class: spec.priority_class_name.clone(),
            labels: job::handed_on(metadata.labels.as_ref(), self.content),
        }
    }

    // ---- what is not wanted any more

    /// Jobs that belong to nothing the status says: of attempts that were given up, held or cancelled. By what is written
    /// down: an attempt that is given up now loses its Job once that is written, too.
    fn delete_strays(&mut self) {
        let strays: Vec<JobRef> = self.unfinished().filter(|job| self.is_stray(job)).map(reference).collect();
        self.plan.actions.extend(strays.into_iter().filter(|job| !job.deleting).map(Action::DeleteJob));
    }

    /// Our own writes wake nobody.
    fn come_back_for_strays(&mut self) {
        if self.unfinished().any(|job| !job.deleting && self.is_stray(job)) {
            self.wake(later(self.now, PODS_AGAIN));
        }
    }

    pub(super) fn unfinished(&self) -> impl Iterator<Item = &'a JobFact> {
        self.execution.jobs.iter().filter(|job| job.ours && job.end.is_none())
    }

    fn is_stray(&self, job: &JobFact) -> bool {
        let Some(index) = self.content.steps.iter().position(|step| step.name == job.step) else { return true };
        let step = &self.status.steps[index];
        let asked = self.task.spec.is_canceled() || self.task.spec.is_suspended();
        let wanted = !asked || is_cleanup(&self.content.steps[index]);
        match state(step) {
            StepState::Running => job.attempt != attempt(step),
            // Made a moment ago, and not written down yet.
            StepState::Waiting | StepState::Retrying => !wanted || job.attempt != attempt(step) + 1,
            StepState::Complete
            | StepState::PartiallyComplete
            | StepState::Failed
            | StepState::Canceled
            | StepState::Skipped => true,
        }
    }

    /// Whether nothing is left of what was cancelled: no Job that has not ended, and no pod that lives.
    fn is_quiet(&self) -> bool {
        let runs = |step: &str| self.status.steps.iter().any(|s| s.name == step && state(s) == StepState::Running);
        // A cleanup's Job may be there before its start is written down: it is waited for by its step, not the other way.
        let made = |job: &JobFact| !job.deleting && !self.is_stray(job);
        let at_work = |step: &str| runs(step) || self.unfinished().any(|job| job.step == step && made(job));
        let job = self.unfinished().any(|job| !at_work(&job.step));
        !job && !self.execution.pods.iter().any(|pod| pod.alive && !at_work(&pod.step))
    }

    // ---- the working copy

    /// Notes what became of a step, also for all that is decided after it.
    pub(super) fn news(&mut self, index: usize, news: StepNews) {
        let step = &mut self.status.steps[index];
        match &news {
            StepNews::Starts { attempt, .. } => {
                step.state = Some(StepState::Running);
                step.attempt = i32::try_from(*attempt).ok();
                step.waiting = None;
            }
            StepNews::Waits(waiting) => step.waiting.clone_from(waiting),
            StepNews::Completes(sealed) => {
                (step.state, step.emitted) = (Some(seal::state(sealed)), seal::emitted(sealed))
            }
            StepNews::Counts(counts) => step.shards = Some(counts.clone()),
            StepNews::ShardsEnd { end, .. } => match end {
                ShardsEnd::Done { partial } => step.state = Some(seal::whole_or_part(*partial)),
                ShardsEnd::Canceled => step.state = Some(StepState::Canceled),
                ShardsEnd::Failed(failure) => {
                    step.state = Some(StepState::Failed);
                    step.failure = Some(failure::brief(failure));
                }
            },
            StepNews::Retries { failure, counts, .. } => {
                step.state = Some(StepState::Retrying);
                step.failure = Some(failure::brief(failure));
                step.until = None;
                retry::count(step, *counts);
            }
            StepNews::Fails(failure, _) => {
                step.state = Some(StepState::Failed);
                step.failure = Some(failure::brief(failure));
            }
            StepNews::Skips(words) => (step.state, step.message) = (Some(StepState::Skipped), Some(words.clone())),
            StepNews::Cancels => step.state = Some(StepState::Canceled),
            StepNews::Suspends => step.state = Some(StepState::Waiting),
        }
        if let StepNews::Retries { until, .. } = &news {
            step.until = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(*until));
        }
        let name = step.name.clone();
        self.plan.news.steps.push((name, news));
    }
}

pub(super) fn state(step: &StepStatus) -> StepState {
    step.state.unwrap_or(StepState::Waiting)
}

pub(super) fn fate(step: &StepStatus) -> Fate {
    let halted = match step.message.as_deref() {
        Some(CANCELED) => Some(Outcome::Canceled),
        Some(OVERDUE) => Some(Outcome::Failed),
        Some(_) | None => None,
    };
    Fate {
        state: state(step),
        halted,
        exit_code: step.failure.as_ref().and_then(|failure| failure.exit_code),
        emitted: step.emitted.as_ref().map(|emitted| emitted.shards),
        shards: step.shards.as_ref().map(|shards| shards.total),
    }
}

/// News of a run that has none of its own yet.
pub(super) fn with_pins(plan: Plan, pins: super::decide::Pins) -> Plan {
    Plan { news: News { pins: Some(pins), ..plan.news }, ..plan }
}
