//! What is to be done next, and what is to be said about it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::admit;
use super::failure;
use super::seal::{self, Sealed};
use super::snapshot::{
    Execution, JobEnd, JobRef, Remains, Results, Seen, Snapshot, Trouble, current_attempt, is_held, is_marked,
};
use crate::api::TaskState;
use crate::api::task::{Failure, PlannedStep, RevisionRef, StoreRef};

/// Between two looks at pods that have to end: nothing wakes us when they do.
const PODS_AGAIN: Duration = Duration::from_secs(1);
/// How long pods may take to end before the object says what it waits for.
const PODS_PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done, in this order, and what is to be said once it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Effects, in order. Each can be repeated without harm.
    pub actions: Vec<Action>,
    /// What the status is to say.
    pub verdict: Verdict,
    /// When to look again although nothing may have changed.
    pub wake_at: Option<Timestamp>,
}

/// An effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold the object until its keys are gone (servers without our admission policy).
    Hold,
    /// Make a Job; one of the same name that this run owns is as good.
    CreateJob(Value),
    /// Write the manifest of a step.
    Seal {
        /// The step.
        step: String,
        /// Its files.
        sealed: Sealed,
    },
    /// Mark the object as finished, for whoever restores it from a backup.
    Mark(TaskState),
    /// Delete a Job of exactly this UID, and its pods.
    DeleteJob(JobRef),
    /// Delete all keys of the run.
    DeleteKeys(StoreRef),
    /// Let the object go.
    Release,
}

/// What the status is to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// What it says.
    Unchanged,
    /// It cannot start yet.
    Waits(Trouble),
    /// It runs, once its Job is there.
    Starts(Pins),
    /// It runs and nothing is in the way.
    Runs,
    /// It runs, but something is in the way.
    Held(Trouble),
    /// It gave its result.
    Completes(Sealed),
    /// It failed; with the log, where there is one.
    Fails(Failure, Option<Sealed>),
    /// It is a copy of a run that is over.
    Restored,
    /// It cannot be deleted yet.
    Stays(Trouble),
}

/// What a run is pinned to when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Its revision.
    pub revision: RevisionRef,
    /// Its store.
    pub store: StoreRef,
    /// The steps that will occur.
    pub plan: Vec<PlannedStep>,
}

impl Plan {
    /// Nothing to do but to say something.
    pub(super) fn say(verdict: Verdict) -> Self {
        Self { actions: Vec::new(), verdict, wake_at: None }
    }

    pub(super) fn rest() -> Self {
        Self::say(Verdict::Unchanged)
    }

    pub(super) fn act(actions: Vec<Action>, verdict: Verdict) -> Self {
        Self { actions, verdict, wake_at: None }
    }

    pub(super) fn wake(self, at: Timestamp) -> Self {
        Self { wake_at: Some(at), ..self }
    }
}

/// What is to be done next. The same snapshot at the same time gives the same plan.
#[must_use]
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    match &snapshot.seen {
        Seen::New(admission) => admit::plan(&snapshot.task, admission, now),
        Seen::Running(execution) => running(snapshot, execution, now),
        Seen::Nothing => finished(snapshot),
        Seen::Deleting(remains) => deleting(snapshot, remains, now),
    }
}

/// The moment `after` from `now`; far beyond the calendar counts as its end.
pub(super) fn later(now: Timestamp, after: Duration) -> Timestamp {
    now.checked_add(after).unwrap_or(Timestamp::MAX)
}

fn running(snapshot: &Snapshot, execution: &Execution, now: Timestamp) -> Plan {
    let Execution::Ended { end, results } = execution else { return Plan::say(Verdict::Runs) };
    match results {
        Err(trouble) => Plan::say(Verdict::Held(trouble.clone())),
        // A Job that is deleted goes before its pods, and they still have something to tell.
        Ok(results) if results.commits.is_empty() && results.pods.iter().any(|pod| pod.alive) => {
            Plan::say(Verdict::Runs).wake(later(now, PODS_AGAIN))
        }
        Ok(results) => over(snapshot, end, results),
    }
}

/// The Job has ended and all it left is known. Any valid commit counts, whatever the Job says: a deadline can fail a
/// pod whose program was done.
fn over(snapshot: &Snapshot, end: &JobEnd, results: &Results) -> Plan {
    let Some((step, _)) = current_attempt(&snapshot.task) else { return Plan::rest() };
    let seal = |sealed: &Sealed| Action::Seal { step: step.to_owned(), sealed: sealed.clone() };
    match seal::winner(&results.commits) {
        Some(sealed) => Plan::act(vec![seal(&sealed)], Verdict::Completes(sealed)),
        None => {
            let log = seal::log(results);
            let failure = failure::of_step(step, end, results);
            Plan::act(log.iter().map(seal).collect(), Verdict::Fails(failure, log))
        }
    }
}

fn finished(snapshot: &Snapshot) -> Plan {
    match super::snapshot::state(&snapshot.task) {
        None => Plan::say(Verdict::Restored),
        Some(state) if state.is_terminal() && !is_marked(&snapshot.task) => {
            Plan::act(vec![Action::Mark(state)], Verdict::Unchanged)
        }
        Some(_) => Plan::rest(),
    }
}

/// Jobs first, then the pods' end, then the keys: whoever could still write is gone before anything is deleted.
fn deleting(snapshot: &Snapshot, remains: &Remains, now: Timestamp) -> Plan {
    let task = &snapshot.task;
    if !is_held(task) {
        return Plan::rest();
    }
    let doomed: Vec<Action> = remains.jobs.iter().filter(|job| !job.deleting).cloned().map(Action::DeleteJob).collect();
    if !remains.jobs.is_empty() || remains.pods > 0 {
        let verdict = waiting_for_pods(snapshot, remains.pods, now).map_or(Verdict::Unchanged, Verdict::Stays);
        return Plan::act(doomed, verdict).wake(later(now, PODS_AGAIN));
    }
    // Without a store the run never wrote a key: agents are let in only once it is pinned.
    let pinned = task.status.as_ref().and_then(|status| status.store.clone());
    let actions = pinned.map(Action::DeleteKeys).into_iter().chain([Action::Release]).collect();
    Plan::act(actions, Verdict::Unchanged)
}

fn waiting_for_pods(snapshot: &Snapshot, pods: usize, now: Timestamp) -> Option<Trouble> {
    let since = snapshot.task.metadata.deletion_timestamp.as_ref()?.0;
    (pods > 0 && now > later(since, PODS_PATIENCE)).then(|| Trouble {
        reason: "PodsNotEnded",
        message: format!(
            "waits for the end of {pods} pod(s) of this run: as long as one can write, its outputs are not deleted. \
             Look at them with kubectl get pods; one on a lost node has to be deleted by force"
        ),
    })
}
