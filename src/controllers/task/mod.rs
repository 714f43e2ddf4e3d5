//! AsyncTasks: admitted, run as Jobs, sealed, and taken away with all they wrote.
//!
//! ```text
//! watch ─► observe ─► plan (pure) ─► apply ─► status (pure) ─► report ─► Events
//! ```
//! Nothing is remembered that a restart could lose: names are derived, effects can be repeated, and each status write
//! is bound to the version that was looked at.

mod apply;
mod error;
mod facts;
mod fair;
mod freshness;
mod history;
mod index;
mod neighbours;
mod observe;
mod queue;
mod quiet;
mod report;
mod results;
mod revisions;
mod shards;
mod watch;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Action, Config, Error as QueueError};
use kube::{Resource, ResourceExt};

use self::apply::Done;
use self::error::TaskError;
use self::fair::Shares;
use self::freshness::Freshness;
use self::observe::Known;
use self::queue::Queue;
use self::quiet::Quiet;
use self::report::Ended;
pub(super) use self::results::{Emptied, require_owner};
use self::revisions::Revisions;
use self::shards::Tallies;
use self::watch::{Caches, Guarded};
use super::context::{Context, reason};
use super::pace::{Next, Pace};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_plan::decide::{Action as PlannedAction, Plan, StepNews, Verdict, plan};
use asynctask_plan::fanout::MAX_SHARDS;
use asynctask_plan::snapshot::{Phase, Seen, Snapshot, Turn, phase, state};
use asynctask_runtime::client::{explain_watch, is_status};

/// Longest delay between two tries.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// A reconcile that takes longer has failed. Long enough to delete a page of outputs from a slow store many times.
const DEADLINE: Duration = Duration::from_secs(120);
/// On top of it for each shard that may have to be read and sealed.
const A_SHARD: Duration = Duration::from_millis(10);
/// Reconciles at a time.
const CONCURRENCY: u16 = 16;
/// Until the watch has shown our own last write.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Between two looks at a run that cannot start yet. What it waits for wakes it; a namespace's labels do not.
const WAITING_AGAIN: Duration = Duration::from_secs(30);
/// Steps of one reconcile: from new to running are four, from ended to marked three; each conflict costs one.
const ROUNDS: usize = 12;

struct TaskController {
    context: Arc<Context>,
    pace: Pace,
    caches: Caches,
    revisions: Revisions,
    freshness: Freshness,
    queue: Queue,
    tallies: Tallies,
    quiet: Quiet,
    ended: Ended,
    shares: Shares,
}

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let (wake, woken) = mpsc::unbounded();
    let (controller, caches) = watch::controller(&context.watches, woken);
    let state = Arc::new(TaskController {
        pace: Pace::new("task", DEADLINE, MAX_DELAY, context.reconciles.clone()),
        queue: Queue::new(context.client.clone(), context.limits, caches.tasks.clone(), wake),
        caches,
        revisions: Revisions::new(context.client.clone()),
        freshness: Freshness::default(),
        tallies: Tallies::default(),
        quiet: Quiet::default(),
        ended: Ended::new(&context.metrics),
        shares: Shares::default(),
        context: Arc::clone(&context),
    });
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(context.stopping.clone().cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, state)
        .for_each(|result| {
            if let Err(QueueError::QueueError(error)) = result {
                tracing::warn!(error = explain_watch(&error), "a watch broke off and is begun again");
            }
            std::future::ready(())
        })
        .await;
}

async fn reconcile(guarded: Arc<Guarded>, state: Arc<TaskController>) -> Result<Action, Infallible> {
    state.caches.ready().await;
    let (uid, generation) = (guarded.uid().unwrap_or_default(), guarded.meta().generation);
    let store = guarded.0.as_ref().ok().and_then(|task| task.status.as_ref()?.store.as_ref());
    let namespace = guarded.namespace().unwrap_or_default();
    let turn = match state.shares.take(&namespace, store.map(|store| store.uid.as_str())) {
        Ok(turn) => turn,
        Err(pause) => return Ok(Action::requeue(pause)),
    };
    let task = match &guarded.0 {
        Ok(task) => task,
        Err(invalid) => {
            let look = state.look_at_unreadable(&guarded, &invalid.error);
            return Ok(state.pace.run(&uid, generation, look).await);
        }
    };
    if state.freshness.is_stale(task) {
        return Ok(Action::requeue(CATCH_UP));
    }
    let deadline = DEADLINE + A_SHARD * shards(task);
    let look = async {
        let looked = state.look(Arc::new(task.clone())).await;
        turn.went(looked.as_ref().is_ok_and(|next| *next != Next::TryAgain));
        looked
    };
    Ok(state.pace.run_within(deadline, &uid, generation, look).await)
}

/// How many shards the largest fan-out of a run has.
fn shards(task: &AsyncTask) -> u32 {
    let steps = task.status.iter().flat_map(|status| &status.steps);
    let totals = steps.filter_map(|step| u32::try_from(step.shards.as_ref()?.total).ok());
    totals.max().unwrap_or(0).min(MAX_SHARDS)
}

/// What follows a round.
enum Step {
    /// Look at this at once.
    Again(Arc<AsyncTask>),
    /// Enough for now.
    Done(Next),
}

impl TaskController {
    /// One that the watch cannot show may still be read by itself: the rest of it is judged as always, and it can be deleted.
    async fn look_at_unreadable(&self, guarded: &Guarded, error: &str) -> Result<Next, TaskError> {
        let (namespace, name) = (guarded.namespace().unwrap_or_default(), guarded.name_any());
        match self.whole(&namespace, &name).await {
            Ok(Some(task)) if task.uid() == guarded.uid() => self.look(Arc::new(task)).await,
            Ok(_) => Ok(Next::Rest),
            Err(kube::Error::SerdeError(_)) => {
                let why = self.context.set_aside(&guarded.object_ref(&()), reason(guarded.meta(), error)).await;
                self.say_unreadable(guarded.meta(), &why).await?;
                Ok(Next::Rest)
            }
            Err(source) => Err(TaskError::ReadTask(source)),
        }
    }

    async fn look(&self, mut task: Arc<AsyncTask>) -> Result<Next, TaskError> {
        let mut known = Known::default();
        // Whether to make or to delete a Job is decided on the object as it is now: a copy may be older than the run's end,
        // or than the attempt that the Job is of.
        let mut live = false;
        for _ in 0..ROUNDS {
            if phase(&task) == Phase::New && !live {
                let Some(read) = self.live(&task).await? else { return Ok(Next::Rest) };
                (task, live) = (read, true);
            }
            let snapshot = self.observe(Arc::clone(&task), known.clone()).await?;
            let now = Timestamp::now();
            let plan = plan(&snapshot, now);
            if !live && touches_jobs(&plan) {
                let Some(read) = self.live(&task).await? else { return Ok(Next::Rest) };
                (task, live) = (read, true);
                continue;
            }
            let step = match self.round(&snapshot, &plan, now).await {
                Ok((step, learnt)) => {
                    known.jobs.extend(learnt.jobs);
                    known.turn = learnt.turn.or(known.turn);
                    step
                }
                // Somebody else wrote a moment before us: look at what it is now.
                Err(error) if is_conflict(&error) => match self.live(&task).await? {
                    Some(live) => Step::Again(live),
                    None => Step::Done(Next::Rest),
                },
                Err(error) => return Err(error),
            };
            match step {
                Step::Again(newer) => (task, live) = (newer, true),
                Step::Done(next) => return Ok(next),
            }
        }
        Err(TaskError::Contended)
    }

    async fn round(&self, snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Result<(Step, Known), TaskError> {
        let task = &snapshot.task;
        let uid = task.uid().unwrap_or_default();
        if !is_in_line(snapshot, plan) {
            self.queue.leave(&uid);
        }
        let done = self.apply(task, &plan.actions).await?;
        if done.released {
            self.freshness.forget(&uid);
            self.tallies.forget_all(&uid);
            self.quiet.forget(&uid);
            self.queue.leave(&uid);
            tracing::info!(uid, task = task.name_any(), "let go");
            return Ok((Step::Done(Next::Rest), Known::default()));
        }
        let known = Known { jobs: done.applied.jobs.values().cloned().collect(), turn: done.turn.clone() };
        if done.turn.is_some() {
            return Ok((Step::Again(Arc::clone(task)), known));
        }
        if let Some(task) = &done.task {
            return Ok((Step::Again(Arc::clone(task)), known));
        }
        let written = self.report(snapshot, plan, &done.applied, now).await?;
        if written.as_ref().and_then(|task| state(task)).is_some_and(TaskState::is_terminal) {
            self.queue.leave(&uid);
        }
        Ok((follow(snapshot, plan, &done, written, now), known))
    }
}

fn touches_jobs(plan: &Plan) -> bool {
    plan.actions.iter().any(|action| matches!(action, PlannedAction::CreateJob { .. } | PlannedAction::DeleteJob(_)))
}

fn turn_of(snapshot: &Snapshot) -> Option<Turn> {
    match &snapshot.seen {
        Seen::New(admission) => admission.turn.clone(),
        Seen::Pinned(execution) => execution.turn.clone(),
        Seen::Nothing | Seen::Finished { .. } | Seen::Deleting(_) => None,
    }
}

/// Whether the run has, or asks for, a place in the queue.
fn is_in_line(snapshot: &Snapshot, plan: &Plan) -> bool {
    let asks = plan.actions.iter().any(|action| matches!(action, PlannedAction::Take(_)));
    let runs = matches!(state(&snapshot.task), Some(TaskState::InProgress | TaskState::Canceling));
    asks || turn_of(snapshot).is_some() || runs && phase(&snapshot.task) == Phase::Pinned
}

/// What comes after a round that was reported.
fn follow(snapshot: &Snapshot, plan: &Plan, done: &Done, written: Option<Arc<AsyncTask>>, now: Timestamp) -> Step {
    if done.applied.trouble.is_some() {
        return Step::Done(Next::TryAgain);
    }
    let starts = |(_, news): &(String, StepNews)| matches!(news, StepNews::Starts { .. });
    let gives_up = |(_, news): &(String, StepNews)| matches!(news, StepNews::Retries { .. } | StepNews::Fails(..));
    let started = plan.news.steps.iter().any(starts);
    match written {
        // It ended: mark it. Somebody asked for its end: end what runs. An attempt was given up: so is its Job. It
        // started on a Job that was there: that may have ended already.
        Some(task) if moved(snapshot, &task) || started && !done.created || plan.news.steps.iter().any(gives_up) => {
            Step::Again(task)
        }
        // The Job that is there was built from another revision: look again, from that one.
        None if started && !done.created => Step::Again(Arc::clone(&snapshot.task)),
        _ => Step::Done(next(plan, now)),
    }
}

/// Whether the state changed to one in which there is something to do at once.
fn moved(snapshot: &Snapshot, written: &AsyncTask) -> bool {
    let (before, after) = (state(&snapshot.task), state(written));
    let held = before == Some(TaskState::InProgress) && after == Some(TaskState::Pending);
    before != after && (held || after.is_some_and(|state| state.is_terminal() || state == TaskState::Canceling))
}

fn next(plan: &Plan, now: Timestamp) -> Next {
    if plan.blocked {
        return Next::TryAgain;
    }
    let by_itself = match &plan.news.verdict {
        Verdict::Is { state: TaskState::Pending, .. } => Some(waiting_again(plan)),
        Verdict::Stays(_) => return Next::TryAgain,
        _ => None,
    };
    let at = plan.wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(CATCH_UP));
    match (at, by_itself) {
        (None, None) => Next::Rest,
        (one, other) => Next::LookAgain(one.into_iter().chain(other).min().unwrap_or(WAITING_AGAIN)),
    }
}

/// Far behind in the queue a run looks at its place less often: all of them together cost no more than the first few.
fn waiting_again(plan: &Plan) -> Duration {
    let position = plan.news.queue.as_ref().and_then(|queue| queue.position).unwrap_or(0);
    WAITING_AGAIN * u32::try_from(position / 10).unwrap_or(0).clamp(1, 60)
}

/// A write bound to a version that is not the newest any more.
fn is_conflict(error: &TaskError) -> bool {
    match error {
        TaskError::WriteStatus(source) | TaskError::Hold(source) | TaskError::Release(source) => is_status(source, 409),
        _ => false,
    }
}
