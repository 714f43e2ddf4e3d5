//! All that is known about a run at one moment. What has to be read depends on [`phase`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::agent::Agent;
use super::definition::ValidatedDefinition;
use super::names;
use super::retention::Retention;
use super::shards::ShardSet;
use super::stores::NoStore;
use super::tally::Tally;
use asynctask_api::names::{ANNOTATION_FINISHED, ANNOTATION_REPLACED_BY, FINALIZER_OUTPUTS};
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, RevisionRef, StepStatus, StoreRef};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_contract::wire::{CommittedFile, Emitted, FailureReport, ItemCounts, Termination};

/// Longest name of an object.
const NAME_MAX: usize = 253;

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not admitted: a decision is due.
    New,
    /// Bears the mark of a finished run and no status: restored from a backup or from Git. Never runs.
    Restored,
    /// Pinned to a revision, and not over: it waits for its turn, runs, or is being cancelled.
    Pinned,
    /// Over.
    Finished,
    /// To be deleted.
    Deleting,
}

/// Where a run is in its life: from the object alone.
#[must_use]
pub fn phase(task: &AsyncTask) -> Phase {
    if task.metadata.deletion_timestamp.is_some() {
        return Phase::Deleting;
    }
    let pinned = task.status.as_ref().is_some_and(|status| status.revision.is_some());
    match state(task) {
        None if is_marked(task) => Phase::Restored,
        Some(state) if state.is_terminal() => Phase::Finished,
        _ if pinned => Phase::Pinned,
        _ => Phase::New,
    }
}

/// State in the status.
#[must_use]
pub fn state(task: &AsyncTask) -> Option<TaskState> {
    task.status.as_ref().and_then(|status| status.state)
}

/// Whether the object bears the mark of a finished run.
pub(super) fn is_marked(task: &AsyncTask) -> bool {
    task.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ANNOTATION_FINISHED))
}

/// Name of the newer run for whose sake this one is cancelled.
pub(super) fn replaced_by(task: &AsyncTask) -> Option<&str> {
    let newer = task.metadata.annotations.as_ref()?.get(ANNOTATION_REPLACED_BY)?;
    // Whoever creates a run that is cancelled from the start can write anything here.
    (newer.len() <= NAME_MAX).then_some(newer)
}

/// Whether our finalizer holds the object.
pub(super) fn is_held(task: &AsyncTask) -> bool {
    task.metadata.finalizers.as_ref().is_some_and(|held| held.iter().any(|name| name == FINALIZER_OUTPUTS))
}

/// Number of the attempt a step is in or was in last; 0 before the first.
#[must_use]
pub fn attempt(step: &StepStatus) -> u32 {
    step.attempt.and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(0)
}

/// Steps whose Job was made and whose end is not recorded, with their attempts.
pub fn running(status: &AsyncTaskStatus) -> impl Iterator<Item = (&str, u32)> {
    let runs = status.steps.iter().filter(|step| step.state == Some(StepState::Running));
    runs.map(|step| (step.name.as_str(), attempt(step)))
}

/// Name of the Job of an attempt of this run.
#[must_use]
pub fn job_name(task: &AsyncTask, step: &str, attempt: u32) -> String {
    let metadata = &task.metadata;
    let (name, uid) = (metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref().unwrap_or_default());
    names::job(name, uid, step, attempt)
}

/// How long other containers of a pod may go on after its program has ended: what a mesh or a log shipper injects ends on
/// its own, or never.
pub const LINGER: Duration = Duration::from_secs(10);

/// How long a pod may take to be ready before it is asked what it waits for.
pub const READY_PATIENCE: Duration = Duration::from_secs(15);

/// Whether the pods of a run have something to tell that its Jobs do not: one is slow to start, or the next attempt
/// must not begin before the last pod of the one before has ended.
#[must_use]
pub fn needs_pods(task: &AsyncTask, jobs: &[JobFact], now: Timestamp) -> bool {
    let Some(status) = &task.status else { return false };
    // Of many pods some are always on their way: once a shard has ended, they do start.
    let begun = |job: &JobFact| job.indexes.as_ref().is_some_and(|it| it.succeeded > 0 || !it.failed.is_empty());
    let slow = |job: &JobFact| {
        job.end.is_none() && !job.ready && !job.suspended && !begun(job) && job.is_older(READY_PATIENCE, now)
    };
    let again = |step: &StepStatus| match step.state {
        Some(StepState::Waiting) => step.attempt.is_some(),
        Some(StepState::Retrying) => step.until.as_ref().is_none_or(|until| until.0 <= now),
        _ => false,
    };
    // A Job that spreads and is gone may have left pods that still write.
    let gone = |(step, number): (&str, u32)| {
        let fans_out = status.steps.iter().any(|known| known.name == step && known.shards.is_some());
        fans_out && !jobs.iter().any(|job| job.step == step && job.attempt == number)
    };
    let ending = status.state == Some(TaskState::Canceling) || task.spec.is_canceled();
    ending || running(status).any(gone) || jobs.iter().any(slow) || status.steps.iter().any(again)
}

/// All that is known about a run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The object. Parameters are only in [`Admission`]: copies kept in memory come without.
    pub task: Arc<AsyncTask>,
    /// What was read beside it.
    pub seen: Seen,
}

/// What was read beside the object, by [`Phase`].
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// [`Phase::New`]
    New(Box<Admission>),
    /// [`Phase::Pinned`]
    Pinned(Box<Execution>),
    /// [`Phase::Restored`] needs no more.
    Nothing,
    /// [`Phase::Finished`]
    Finished {
        /// The runs that read its results where they are; looked for only when something of it is due.
        takers: Vec<Taker>,
    },
    /// [`Phase::Deleting`]
    Deleting(Remains),
}

/// What decides whether a run may start.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// What it wants to run.
    pub definition: DefinitionFact,
    /// Which store it would use; meaningless until the definition is ready.
    pub store: Result<StoreRef, NoStore>,
    /// The run's parameters, read live.
    pub parameters: Value,
    /// What is known of each upload that `spec.inputs` names, by input.
    pub uploads: BTreeMap<String, UploadFact>,
    /// The run that `spec.retryOf` names, if it names one.
    pub retry: Option<RetryFact>,
    /// What is known of each output of another run that `spec.inputs` names, by input.
    pub outputs: BTreeMap<String, OutputFact>,
    /// The newest run of its name since [`once_since`]; the error: the store does not tell.
    pub earlier: Result<Option<EarlierRun>, String>,
    /// Its Jobs, if somebody made any already: us, before we could say so.
    pub jobs: Vec<JobFact>,
    /// Its pods, when it is to be cancelled.
    pub pods: Vec<PodFact>,
    /// Its place in the queue, once it was asked for.
    pub turn: Option<Turn>,
    /// What a pod must be told of the agent; `None` until the operator knows.
    pub agent: Option<Agent>,
}

/// A run that had the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierRun {
    /// When it was created.
    pub created: Timestamp,
    /// The state it was last in, as the history says it.
    pub state: String,
    /// Whether the operator deleted it because its retention was over.
    pub expired: bool,
    /// What was asked for, without the parameters where the definition keeps them out of the history.
    pub spec: Value,
}

/// Longest time for which a name can be kept from running again, in hours: a leap year.
const ONCE_MAX: i64 = 366 * 24;
/// How long before its retention began a run may have been created, to be found still: it waits and works before, and who
/// applies a file again and again does so soon after. The object that is there from then on keeps its name.
const BESIDE: SignedDuration = SignedDuration::from_hours(31 * 24);

/// Since when a run of the same name may keep this one from running; `None`: none does. What is no number of hours counts as
/// the longest time: nothing runs twice because of a spelling.
#[must_use]
pub fn once_since(task: &AsyncTask, retention: &Retention, now: Timestamp) -> Option<Timestamp> {
    let most = SignedDuration::from_hours(ONCE_MAX);
    let back = match &task.spec.once {
        Some(once) => once.strip_suffix('h').and_then(|hours| hours.parse().ok()).map(SignedDuration::from_hours),
        None => SignedDuration::try_from(retention.longest()?).ok().and_then(|kept| kept.checked_add(BESIDE)),
    };
    now.checked_sub(back.unwrap_or(most).clamp(SignedDuration::ZERO, most)).ok()
}

/// Whether a run may start now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may, and its place is taken.
    Go,
    /// Others come first.
    Wait {
        /// Its place, from 1.
        position: Option<i32>,
        /// Why.
        why: Trouble,
    },
    /// It will never: its key is taken, or it was replaced by a newer run.
    Never {
        /// The state it ends in.
        state: TaskState,
        /// Why.
        why: Trouble,
    },
}

/// What is known of a definition.
#[derive(Clone, Debug, PartialEq)]
pub enum DefinitionFact {
    /// It, or the revision asked for, is not there; the sentence says which.
    Missing(String),
    /// It is there and cannot be run; the sentence says why.
    NotReady(String),
    /// It can be run.
    Ready {
        /// The revision a run is pinned to.
        revision: RevisionRef,
        /// Its content.
        content: Arc<ValidatedDefinition>,
    },
}

/// What is known of the run that another one continues.
#[derive(Clone, Debug, PartialEq)]
pub enum RetryFact {
    /// There is none of this name.
    Missing,
    /// It is there, read as it is now.
    Found(Box<AsyncTask>),
}

/// What is known of an output of another run.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputFact {
    /// There is no such run.
    Missing,
    /// The run, read as it is now.
    Of(Box<AsyncTask>),
}

/// What is known of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadFact {
    /// There is none of this id.
    Missing,
    /// The store did not answer.
    Unreadable(String),
    /// Its record.
    Found {
        /// Who uploaded it.
        uploader: String,
        /// Definition it was uploaded for.
        definition: String,
        /// Input it was uploaded for.
        input: String,
        /// Whether all bytes have come.
        complete: bool,
    },
}

/// A Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFact {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Whether this very run owns it.
    pub ours: bool,
    /// The step it is an attempt of.
    pub step: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Name of the revision it was built from.
    pub revision: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When the Job controller took it up; later than `created` when a queue held it.
    pub started: Option<Timestamp>,
    /// Whether a queue holds it.
    pub suspended: bool,
    /// Whether its pod runs and is ready.
    pub ready: bool,
    /// Whether its deletion was asked for.
    pub deleting: bool,
    /// How it ended, once it has.
    pub end: Option<JobEnd>,
    /// Of a fan-out: what its indexes do.
    pub indexes: Option<IndexFact>,
}

/// What the indexes of a Job do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFact {
    /// The shards it runs, in the order of its indexes.
    pub shards: ShardSet,
    /// Shards that had failed for good before it, of a Job that runs only the rest.
    pub failed_before: u32,
    /// Pods that run or are about to.
    pub active: u32,
    /// Indexes whose pod ended with exit code 0.
    pub succeeded: u32,
    /// Shards that will not be tried again.
    pub failed: ShardSet,
}

impl JobFact {
    /// When the time for its start began to count.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.started.or(self.created)
    }

    /// Whether that is longer ago than this.
    #[must_use]
    pub fn is_older(&self, than: Duration, now: Timestamp) -> bool {
        self.since().and_then(|since| since.checked_add(than).ok()).is_some_and(|then| then <= now)
    }
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Its pod ended with exit code 0.
    Succeeded,
    /// It gave up.
    Failed {
        /// The Job controller's word.
        reason: String,
        /// The Job controller's sentence.
        message: String,
    },
    /// It is not there any more.
    Gone,
}

/// A run that is pinned and not over.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// What it is pinned to; the sentence says why it cannot be read.
    pub content: Result<Arc<ValidatedDefinition>, String>,
    /// The Jobs of all its attempts that are there.
    pub jobs: Vec<JobFact>,
    /// What the attempts of steps whose Job has ended left, by step; the error says why it cannot be read now.
    pub results: BTreeMap<String, Result<Results, Trouble>>,
    /// What came of the shards of steps that fan out and whose Job has ended, or that are to run what is left of them, by
    /// step; the error says why it cannot be read now.
    pub tallies: BTreeMap<String, Result<Tally, Trouble>>,
    /// Until then counts of shards are no news: a status is not written with every pod that ends.
    pub quiet_until: Option<Timestamp>,
    /// Its pods, where [`needs_pods`] says so.
    pub pods: Vec<PodFact>,
    /// Its place in the queue, once it was asked for.
    pub turn: Option<Turn>,
    /// What a pod must be told of the agent; `None` until the operator knows.
    pub agent: Option<Agent>,
}

/// Something that is not as it must be and may become so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// What the attempts of a step left in the store, and the pods that are still there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Valid commits.
    pub commits: Vec<CommitFact>,
    /// Reports of failure.
    pub failures: Vec<FailureFact>,
    /// Logs of pods that left no report: killed ones. Read only when there is no commit.
    pub logs: Vec<LogFact>,
    /// Pods of the run. Read only when there is no commit.
    pub pods: Vec<PodFact>,
}

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitFact {
    /// Pod that made it.
    pub pod_uid: String,
    /// Its files.
    pub files: Vec<CommittedFile>,
    /// What was emitted.
    pub emitted: Option<Emitted>,
    /// What became of its items.
    pub items: Option<ItemCounts>,
    /// What people should know of it.
    pub warning: Option<String>,
    /// Image that its program ran from.
    pub image: Option<String>,
}

/// A report of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureFact {
    /// Pod that made it.
    pub pod_uid: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// When.
    pub failed_at: Timestamp,
    /// What it says.
    pub report: FailureReport,
}

/// A log without a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFact {
    /// Pod that wrote it.
    pub pod_uid: String,
    /// The log.
    pub file: CommittedFile,
}

/// A pod and how its program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFact {
    /// UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// The step it runs.
    pub step: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it has not ended.
    pub alive: bool,
    /// Whether its program was started.
    pub started: bool,
    /// Whether it was drained, evicted or preempted: Kubernetes says so.
    pub disrupted: bool,
    /// Whether somebody asked for its deletion.
    pub deleted: bool,
    /// Why no node takes it: a sentence of the scheduler's.
    pub unschedulable: Option<String>,
    /// Why the pod itself failed: `DeadlineExceeded`, `Evicted`.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What its container `task` waits for, when it never started: reason and sentence.
    pub waiting: Option<(String, String)>,
    /// How its container `task` ended.
    pub exit: Option<ExitFact>,
    /// Image of its container `task`, as the node resolved it.
    pub image: Option<String>,
}

impl PodFact {
    /// Whether its program may still write.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.alive && self.exit.is_none()
    }

    /// Until when other containers may go on after the program has ended; `None`: there is no program that ended, or no
    /// container that goes on.
    #[must_use]
    pub fn lingers_until(&self) -> Option<Timestamp> {
        let ended = self.exit.as_ref().filter(|_| self.alive)?.at?;
        ended.checked_add(LINGER).ok()
    }
}

/// The pod of an attempt whose program has ended although its Job has not: another container goes on.
#[must_use]
pub fn lingering<'a>(pods: &'a [PodFact], step: &str, attempt: u32) -> Option<(&'a PodFact, Timestamp)> {
    // One that somebody ends, as a queue does that takes a Job back, is replaced.
    let mine = pods.iter().filter(|pod| pod.step == step && pod.attempt == attempt && !pod.deleted);
    mine.filter_map(|pod| Some((pod, pod.lingers_until()?))).next_back()
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitFact {
    /// Exit code.
    pub code: i32,
    /// The container runtime's word: `Error`, `OOMKilled`, `ContainerCannotRun`…
    pub reason: String,
    /// When.
    pub at: Option<Timestamp>,
    /// What the agent left for people, when it could.
    pub said: Option<Termination>,
    /// What the runtime left, when the agent could not.
    pub message: String,
}

/// What is left of a run that is to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Its Jobs.
    pub jobs: Vec<JobRef>,
    /// How many of its pods have not ended.
    pub pods: usize,
    /// In how many of them the program may still be at work.
    pub at_work: usize,
    /// The runs that read its keys, or are about to.
    pub takers: Vec<Taker>,
}

/// A run that reads results of another one where they are: it continues that run, or has an output of it as an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Name.
    pub name: String,
    /// What it reads.
    pub reads: Reads,
}

/// What a run reads of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// It has not ended and continues that run: any of its results.
    Any,
    /// It has not ended and was given this as its inputs.
    Inputs(BTreeSet<String>),
    /// It is over and still shows files of that run among its own outputs.
    Shown {
        /// Outputs that are wholly that run's.
        whole: BTreeSet<String>,
        /// Outputs that are so in part: of the shards that were taken over.
        partly: BTreeSet<String>,
    },
}

impl Taker {
    /// Whether it reads an output of this name.
    #[must_use]
    pub fn reads(&self, output: &str) -> bool {
        match &self.reads {
            Reads::Any => true,
            Reads::Inputs(outputs) => outputs.contains(output),
            Reads::Shown { whole, partly } => whole.contains(output) || partly.contains(output),
        }
    }

    /// Whether it is over, and its output of this name is that run's and nothing else.
    #[must_use]
    pub fn shows(&self, output: &str) -> bool {
        matches!(&self.reads, Reads::Shown { whole, .. } if whole.contains(output))
    }
}

/// A Job to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRef {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Whether its deletion was asked for.
    pub deleting: bool,
}
