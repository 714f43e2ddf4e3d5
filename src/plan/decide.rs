//! What is to be done next, and what is to be said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::admit;
use super::life;
use super::retention;
use super::seal::Sealed;
use super::snapshot::{
    JobFact, JobRef, Remains, Seen, Snapshot, Taker, Trouble, attempt, is_held, is_marked, job_name, state,
};
use asynctask_api::definition::{ConcurrencyPolicy, OutputSpec};
use asynctask_api::names::{ANNOTATION_ABANDON, ANNOTATION_INTERRUPT};
use asynctask_api::outputs::{Gone, KeepStatus, KeptUntil};
use asynctask_api::state::StepState;
use asynctask_api::task::{
    Failure, OutputStatus, PlannedStep, QueueStatus, RevisionRef, RunRef, ShardsStatus, StepStatus, StoreRef, Waiting,
};
use asynctask_api::{AsyncTask, TaskState};

/// Between two looks at pods that have to end: nothing wakes us when they do.
pub(super) const PODS_AGAIN: Duration = Duration::from_secs(1);
/// Longest time between two looks at a run that is under way, and up to a quarter more by UID, so that runs that were seen
/// together part. Events wake it sooner: this is for the one that is lost.
const RESYNC: Duration = Duration::from_secs(60);
/// Between two looks at runs that need the results of one that is to be deleted.
const ADOPTERS_AGAIN: Duration = Duration::from_secs(5);
/// How long pods may take to end before the object says what it waits for.
pub(super) const PODS_PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done, in this order, and what is to be said once it is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Effects, in order. Each can be repeated without harm.
    pub actions: Vec<Action>,
    /// What the status is to say.
    pub news: News,
    /// When to look again although nothing may have changed.
    pub wake_at: Option<Timestamp>,
    /// Something is in the way that tells nobody when it is gone.
    pub blocked: bool,
}

/// An effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Hold the object until its keys are gone (servers without our admission policy).
    Hold,
    /// Ask the queue whether the run may start, and take its place in it.
    Take(Claim),
    /// Make a Job; one of the same name that this run owns is as good.
    CreateJob {
        /// The step.
        step: String,
        /// The Job.
        job: Value,
    },
    /// Write the manifest of a step.
    Seal {
        /// The step.
        step: String,
        /// Its files.
        sealed: Sealed,
    },
    /// Write the manifest of a step that fans out: what became of each of its shards.
    SealShards {
        /// The step.
        step: String,
        /// How many shards there are.
        total: u32,
    },
    /// Give the key back.
    ReleaseKey(String),
    /// Write the history record.
    Record,
    /// Mark the object as finished, for whoever restores it from a backup.
    Mark(TaskState),
    /// Delete a Job of exactly this UID, and its pods.
    DeleteJob(JobRef),
    /// Delete all keys of the run.
    DeleteKeys(StoreRef),
    /// Leave what is in a store that is gone for good.
    Abandon(StoreRef),
    /// Delete the files of these outputs.
    DeleteOutputs(BTreeSet<String>),
    /// Ask for the deletion of an output of another run that is over: it shows a file of this run, which somebody deleted.
    DeleteTaken {
        /// Name of the other run.
        run: String,
        /// The output, of both.
        output: String,
        /// Who deleted it.
        user: String,
    },
    /// Delete the object of a run whose time is up.
    DeleteTask,
    /// Write into the history that the retention of the run is over.
    RecordExpiry,
    /// Let the object go.
    Release,
}

/// What a run asks of the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Most runs of its definition at a time.
    pub max_running: Option<u32>,
    /// The PriorityClass that says how early its turn comes.
    pub priority_class: Option<String>,
    /// Its concurrency key.
    pub key: Option<Key>,
    /// Uploads that serve one run only, by input.
    pub uploads: BTreeMap<String, String>,
    /// UID of the first of the runs that continue each other: they count as one.
    pub origin: String,
}

/// A concurrency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Name of the Lease that stands for it.
    pub lease: String,
    /// What becomes of the run when another one holds it.
    pub policy: ConcurrencyPolicy,
}

/// What the status is to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// It was admitted.
    pub pins: Option<Pins>,
    /// Its place in the queue, when that is known anew.
    pub queue: Option<QueueStatus>,
    /// What became of steps.
    pub steps: Vec<(String, StepNews)>,
    /// What became of the request to cancel it.
    pub cancel: Option<CancelNews>,
    /// Outputs that are deleted, by name.
    pub gone: Vec<(String, Gone)>,
    /// Its details have had their time.
    pub trim: bool,
    /// What became of the run.
    pub verdict: Verdict,
}

/// What became of the request to cancel a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelNews {
    /// It takes effect; with the declared effect.
    Accepted(String),
    /// It is kept for later; the sentence says why.
    NotNow(String),
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum StepNews {
    /// An attempt starts, once its Job is there.
    Starts {
        /// Its number.
        attempt: u32,
        /// Its Job, if that was there before.
        job: Option<JobFact>,
    },
    /// What its pod waits for; `None`: nothing any more.
    Waits(Option<Waiting>),
    /// It gave its result, once that is sealed.
    Completes(Sealed),
    /// What its shards do.
    Counts(ShardsStatus),
    /// Its shards have ended, once that is sealed.
    ShardsEnd {
        /// How.
        end: ShardsEnd,
        /// Outputs that people see as they are: those that no later step puts together.
        published: Vec<OutputSpec>,
    },
    /// An attempt failed and another one follows.
    Retries {
        /// Why it failed.
        failure: Failure,
        /// When the next one starts.
        until: Timestamp,
        /// Whether the failure counts against the limit.
        counts: bool,
    },
    /// It failed for good; with the log, where there is one.
    Fails(Failure, Option<Sealed>),
    /// It does not occur, and these are the words.
    Skips(String),
    /// It was at work when the run was cancelled.
    Cancels,
    /// It was at work when the run was held: its next attempt comes later.
    Suspends,
}

/// How a step that fans out ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardsEnd {
    /// With as many results as are needed.
    Done {
        /// Not with all of them.
        partial: bool,
    },
    /// With too few.
    Failed(Failure),
    /// It was cancelled; what was done by then is kept for whoever continues it.
    Canceled,
}

/// What became of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Verdict {
    /// What the status says already.
    #[default]
    Unchanged,
    /// It is, or ends, in a state.
    Is {
        /// The state.
        state: TaskState,
        /// Why: a CamelCase word.
        reason: String,
        /// The same for people.
        message: Option<String>,
    },
    /// It failed.
    Fails(Failure),
    /// It is over, and what was asked of it since changes nothing: that was seen.
    Seen,
    /// It cannot be deleted yet.
    Stays(Trouble),
}

impl Verdict {
    pub(super) fn is(state: TaskState, reason: impl Into<String>, message: Option<String>) -> Self {
        Self::Is { state, reason: reason.into(), message }
    }

    pub(super) fn held(state: TaskState, trouble: &Trouble) -> Self {
        Self::is(state, trouble.reason, Some(trouble.message.clone()))
    }
}

/// What a run is pinned to when it is admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Pins {
    /// Its revision.
    pub revision: RevisionRef,
    /// Its store.
    pub store: StoreRef,
    /// The steps that may occur.
    pub plan: Vec<PlannedStep>,
    /// The same as they are at the start: waiting, or taken over from the run that this one continues.
    pub steps: Vec<StepStatus>,
    /// Outputs that were taken over.
    pub outputs: Vec<OutputStatus>,
    /// The first of the runs that continue each other.
    pub origin: Option<RunRef>,
    /// Dates to which outputs are kept that hang on its parameters.
    pub kept_until: Vec<KeptUntil>,
    /// How long its uploads and its history record are kept.
    pub keep: Option<KeepStatus>,
}

impl Plan {
    /// Nothing to do but to say something.
    pub(super) fn say(verdict: Verdict) -> Self {
        Self::act(Vec::new(), verdict)
    }

    pub(super) fn rest() -> Self {
        Self::default()
    }

    pub(super) fn act(actions: Vec<Action>, verdict: Verdict) -> Self {
        Self { actions, news: News { verdict, ..News::default() }, ..Self::default() }
    }

    pub(super) fn wake(self, at: Timestamp) -> Self {
        Self { wake_at: Some(self.wake_at.map_or(at, |before| before.min(at))), ..self }
    }
}

/// What is to be done next. The same snapshot at the same time gives the same plan.
#[must_use]
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let task = &snapshot.task;
    // Somebody took our finalizer away, as the chart does when it is uninstalled: what the run wrote would stay for ever.
    let has_store = task.status.as_ref().is_some_and(|status| status.store.is_some());
    if has_store && matches!(snapshot.seen, Seen::Pinned(_) | Seen::Finished { .. }) && !is_held(task) {
        return Plan::act(vec![Action::Hold], Verdict::Unchanged);
    }
    match &snapshot.seen {
        Seen::New(admission) => resynced(admit::plan(task, admission, now), task, now),
        Seen::Pinned(execution) => {
            let status = task.status.clone().unwrap_or_default();
            let before = (status.state, status.transitions.len());
            let plan = life::plan(task, status, execution, now);
            resynced(recorded(plan, before), task, now)
        }
        Seen::Nothing => finished(task, &[], now),
        Seen::Finished { takers } => finished(task, takers, now),
        Seen::Deleting(remains) => deleting(snapshot, remains, now),
    }
}

/// Whatever event is lost, a run that is under way is looked at again. One that waits for its start asks for its turn again
/// and again anyway, at a pace of its own.
fn resynced(plan: Plan, task: &AsyncTask, now: Timestamp) -> Plan {
    if matches!(plan.news.verdict, Verdict::Is { state: TaskState::Pending, .. }) {
        return plan;
    }
    let uid = task.metadata.uid.as_deref().unwrap_or_default();
    let spread = uid.bytes().map(u64::from).sum::<u64>() % (RESYNC.as_secs() / 4 + 1);
    plan.wake(later(now, RESYNC + Duration::from_secs(spread)))
}

/// A transition that would fall out of the status is in the history record before.
fn recorded(mut plan: Plan, (state, transitions): (Option<TaskState>, usize)) -> Plan {
    let move_of_state = match &plan.news.verdict {
        Verdict::Is { state: to, .. } => state != Some(*to),
        Verdict::Fails(_) => true,
        Verdict::Unchanged | Verdict::Seen | Verdict::Stays(_) => false,
    };
    let retries = plan.news.steps.iter().filter(|(_, news)| matches!(news, StepNews::Retries { .. })).count();
    let new = retries + usize::from(move_of_state);
    if new > 0 && transitions + new > super::status::TRANSITIONS {
        plan.actions.insert(0, Action::Record);
    }
    plan
}

/// The moment `after` from `now`; far beyond the calendar counts as its end.
pub(super) fn later(now: Timestamp, after: Duration) -> Timestamp {
    now.checked_add(after).unwrap_or(Timestamp::MAX)
}

const RESTORED: &str = "this run was over before the object was restored or applied again, and does not run twice: create \
                        an AsyncTask of another name to run it again";

fn finished(task: &AsyncTask, takers: &[Taker], now: Timestamp) -> Plan {
    match state(task) {
        None => Plan::say(Verdict::is(TaskState::Canceled, "Restored", Some(RESTORED.to_owned()))),
        Some(state) if state.is_terminal() && !is_marked(task) => {
            let actions = key(task).into_iter().chain(record(task)).chain([Action::Mark(state)]);
            Plan::act(actions.collect(), Verdict::Unchanged)
        }
        // Whoever waits for a condition waits for one that speaks of the object as it is.
        Some(_)
            if task.status.as_ref().is_some_and(|status| status.observed_generation != task.metadata.generation) =>
        {
            Plan::say(Verdict::Seen)
        }
        Some(_) => retention::plan(task, takers, now),
    }
}

fn key(task: &AsyncTask) -> Option<Action> {
    let lease = task.status.as_ref()?.queue.as_ref()?.lease.clone()?;
    Some(Action::ReleaseKey(lease))
}

/// A run that has no store left no trace in one; one that is marked was recorded before.
fn record(task: &AsyncTask) -> Option<Action> {
    if is_marked(task) {
        return None;
    }
    task.status.as_ref()?.store.as_ref().map(|_| Action::Record)
}

/// Whether an administrator said that the outputs in this very store are lost.
fn is_abandoned(task: &AsyncTask, store: &StoreRef) -> bool {
    let said = task.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_ABANDON));
    said.is_some_and(|name| *name == store.name)
}

/// Whether somebody who may said that a step is to end also in its guarded stage.
fn is_interrupted(task: &AsyncTask) -> bool {
    task.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_INTERRUPT)).is_some_and(|said| said == "true")
}

/// Jobs first, then the pods' end, then the keys: whoever could still write is gone before anything is deleted.
fn deleting(snapshot: &Snapshot, remains: &Remains, now: Timestamp) -> Plan {
    let task = &snapshot.task;
    if !is_held(task) {
        return Plan::rest();
    }
    let guarded = guarded(task).filter(|_| remains.at_work > 0 && !is_interrupted(task));
    let spared = |job: &&JobRef| guarded.as_ref().is_some_and(|(_, name)| *name == job.name);
    let doomed = remains.jobs.iter().filter(|job| !job.deleting && !spared(job));
    let doomed: Vec<Action> = doomed.cloned().map(Action::DeleteJob).collect();
    if let Some((step, _)) = guarded.as_ref().filter(|_| remains.jobs.iter().any(|job| !job.deleting && spared(&job))) {
        let verdict = Verdict::Stays(inside_guarded_stage(task, step));
        return Plan::act(doomed, verdict).wake(later(now, PODS_AGAIN));
    }
    if !remains.jobs.is_empty() || remains.pods > 0 {
        let since = task.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let verdict = waiting_for_pods(since, remains.pods, now).map_or(Verdict::Unchanged, Verdict::Stays);
        return Plan::act(doomed, verdict).wake(later(now, PODS_AGAIN));
    }
    if !remains.takers.is_empty() {
        // They read its keys; nothing wakes us when the last of them is gone.
        let verdict = Verdict::Stays(retention::needed(&remains.takers.iter().collect::<Vec<_>>()));
        return Plan::act(Vec::new(), verdict).wake(later(now, ADOPTERS_AGAIN));
    }
    // Without a store the run never wrote a key: agents are let in only once it is pinned.
    let pinned = task.status.as_ref().and_then(|status| status.store.clone());
    let of_store: Vec<Action> = match pinned {
        Some(store) if is_abandoned(task, &store) => vec![Action::Abandon(store)],
        pinned => record(task).into_iter().chain(pinned.map(Action::DeleteKeys)).collect(),
    };
    let actions = of_store.into_iter().chain(key(task));
    Plan::act(actions.chain([Action::Release]).collect(), Verdict::Unchanged)
}

/// The step that is in the stage which must not be interrupted, and the name of its Job.
fn guarded(task: &AsyncTask) -> Option<(&str, String)> {
    let steps = &task.status.as_ref()?.steps;
    let step = steps.iter().find(|step| step.guarded == Some(true) && step.state == Some(StepState::Running))?;
    Some((&step.name, job_name(task, &step.name, attempt(step))))
}

fn inside_guarded_stage(task: &AsyncTask, step: &str) -> Trouble {
    let task = task.metadata.name.as_deref().unwrap_or_default();
    Trouble {
        reason: "InGuardedStage",
        message: format!(
            "step {step} is in the stage that must not be interrupted: the run is deleted when the step has ended, at its \
             `timeout` at the latest. Whoever has the right `interrupt` on asynctasks ends it at once: kubectl annotate \
             asynctask {task} {ANNOTATION_INTERRUPT}=true"
        ),
    }
}

fn waiting_for_pods(since: Option<Timestamp>, pods: usize, now: Timestamp) -> Option<Trouble> {
    (pods > 0 && now > later(since?, PODS_PATIENCE)).then(|| Trouble {
        reason: "PodsNotEnded",
        message: format!(
            "waits for the end of {pods} pod(s) of this run: as long as one can write, its outputs are not deleted. \
             Look at them with kubectl get pods; one on a lost node has to be deleted by force"
        ),
    })
}
