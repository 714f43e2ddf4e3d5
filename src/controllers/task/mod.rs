//! AsyncTasks: admitted, run as Jobs, sealed, and taken away with all they wrote.
//!
//! ```text
//! watch ─► observe ─► plan (pure) ─► apply ─► status (pure) ─► report ─► Events
//! ```
//! Nothing is remembered that a restart could lose: names are derived, effects can be repeated, and each status write
//! is bound to the version that was looked at.

mod apply;
mod error;
mod freshness;
mod observe;
mod report;
mod results;
mod revisions;
mod watch;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Action, Config, Error as QueueError};
use kube::{Resource, ResourceExt};

use self::apply::Done;
use self::error::TaskError;
use self::freshness::Freshness;
use self::report::Ended;
use self::revisions::Revisions;
use self::watch::{Caches, Guarded};
use super::context::Context;
use super::pace::{Next, Pace};
use crate::api::{AsyncTask, TaskState};
use crate::plan::decide::{Plan, Verdict, plan};
use crate::plan::snapshot::{JobFact, Snapshot, state};
use crate::runtime::client::{explain_watch, is_status};

/// Longest delay between two tries.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// A reconcile that takes longer has failed. Long enough to delete a page of outputs from a slow store many times.
const DEADLINE: Duration = Duration::from_secs(120);
/// Reconciles at a time.
const CONCURRENCY: u16 = 16;
/// Until the watch has shown our own last write.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Between two looks at a run that cannot start yet. What it waits for wakes it; a namespace's labels do not.
const WAITING_AGAIN: Duration = Duration::from_secs(30);
/// Steps of one reconcile: from new to running are three, from ended to marked two; each conflict costs one.
const ROUNDS: usize = 8;

struct TaskController {
    context: Arc<Context>,
    pace: Pace,
    caches: Caches,
    revisions: Revisions,
    freshness: Freshness,
    ended: Ended,
}

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>) {
    let (controller, caches) = watch::controller(&context.client);
    let state = Arc::new(TaskController {
        pace: Pace::new("task", DEADLINE, MAX_DELAY, context.reconciles.clone()),
        caches,
        revisions: Revisions::new(context.client.clone()),
        freshness: Freshness::default(),
        ended: Ended::new(&context.metrics),
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
    let task = match &guarded.0 {
        Ok(task) => task,
        Err(invalid) => {
            let (uid, namespace, name) = (guarded.uid(), guarded.namespace(), guarded.name_any());
            tracing::warn!(uid, namespace, task = name, error = invalid.error, "this AsyncTask cannot be read");
            return Ok(Action::await_change());
        }
    };
    state.caches.ready().await;
    if state.freshness.is_stale(task) {
        return Ok(Action::requeue(CATCH_UP));
    }
    let (uid, generation) = (task.uid().unwrap_or_default(), task.meta().generation);
    Ok(state.pace.run(&uid, generation, state.look(Arc::new(task.clone()))).await)
}

/// What follows a round.
enum Step {
    /// Look at this at once.
    Again(Arc<AsyncTask>),
    /// Enough for now.
    Done(Next),
}

impl TaskController {
    async fn look(&self, mut task: Arc<AsyncTask>) -> Result<Next, TaskError> {
        let mut known = None;
        for _ in 0..ROUNDS {
            let Some(snapshot) = self.observe(task, known.take()).await? else { return Ok(Next::Rest) };
            let now = Timestamp::now();
            let plan = plan(&snapshot, now);
            let step = match self.round(&snapshot, &plan, now).await {
                Ok((step, job)) => {
                    known = job;
                    step
                }
                // Somebody else wrote a moment before us: look at what it is now.
                Err(error) if is_conflict(&error) => match self.live(&snapshot.task).await? {
                    Some(live) => Step::Again(live),
                    None => Step::Done(Next::Rest),
                },
                Err(error) => return Err(error),
            };
            match step {
                Step::Again(newer) => task = newer,
                Step::Done(next) => return Ok(next),
            }
        }
        Err(TaskError::Contended)
    }

    async fn round(
        &self,
        snapshot: &Snapshot,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(Step, Option<JobFact>), TaskError> {
        let done = self.apply(&snapshot.task, &plan.actions).await?;
        if done.released {
            self.freshness.forget(&snapshot.task.uid().unwrap_or_default());
            tracing::info!(uid = snapshot.task.uid(), task = snapshot.task.name_any(), "let go");
            return Ok((Step::Done(Next::Rest), None));
        }
        if let Some(task) = &done.task {
            return Ok((Step::Again(Arc::clone(task)), None));
        }
        let written = self.report(snapshot, plan, &done.applied, now).await?;
        let step = follow(snapshot, plan, &done, written, now);
        Ok((step, done.applied.job))
    }
}

/// What comes after a round that was reported.
fn follow(snapshot: &Snapshot, plan: &Plan, done: &Done, written: Option<Arc<AsyncTask>>, now: Timestamp) -> Step {
    if done.applied.trouble.is_some() {
        return Step::Done(Next::TryAgain);
    }
    // It ended: mark it. It started on a Job that was there: that may have ended already.
    let goes_on = |task: &AsyncTask| {
        state(task).is_some_and(|state| state.is_terminal() || state == TaskState::InProgress && !done.created)
    };
    let started = matches!(plan.verdict, Verdict::Starts(_));
    match written {
        Some(task) if state(&task) != state(&snapshot.task) && goes_on(&task) => Step::Again(task),
        // The Job that is there was built from another revision: look again, from that one.
        None if started && !done.created => Step::Again(Arc::clone(&snapshot.task)),
        _ => Step::Done(next(plan, now)),
    }
}

fn next(plan: &Plan, now: Timestamp) -> Next {
    if let Some(wake_at) = plan.wake_at {
        let left = Duration::try_from(wake_at.duration_since(now)).unwrap_or_default();
        return Next::LookAgain(left.max(CATCH_UP));
    }
    match plan.verdict {
        Verdict::Waits(_) => Next::LookAgain(WAITING_AGAIN),
        Verdict::Held(_) | Verdict::Stays(_) => Next::TryAgain,
        _ => Next::Rest,
    }
}

/// A write bound to a version that is not the newest any more.
fn is_conflict(error: &TaskError) -> bool {
    match error {
        TaskError::WriteStatus(source) | TaskError::Hold(source) | TaskError::Release(source) => is_status(source, 409),
        _ => false,
    }
}
