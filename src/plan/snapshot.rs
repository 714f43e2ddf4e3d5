//! All that is known about a run at one moment. What has to be read depends on [`phase`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::agent::Agent;
use super::definition::ValidatedDefinition;
use super::names;
use super::stores::NoStore;
use crate::api::names::{ANNOTATION_FINISHED, FINALIZER_OUTPUTS};
use crate::api::state::StepState;
use crate::api::task::{RevisionRef, StoreRef};
use crate::api::{AsyncTask, TaskState};
use crate::contract::wire::{CommittedFile, FailureReport, Termination};

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not admitted: a decision is due.
    New,
    /// Bears the mark of a finished run and no status: restored from a backup or from Git. Never runs.
    Restored,
    /// Its Job was made.
    Running,
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
    match state(task) {
        None if is_marked(task) => Phase::Restored,
        None | Some(TaskState::Pending) => Phase::New,
        Some(TaskState::InProgress | TaskState::Canceling) => Phase::Running,
        Some(TaskState::Complete | TaskState::PartiallyComplete | TaskState::Failed | TaskState::Canceled) => {
            Phase::Finished
        }
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

/// Whether our finalizer holds the object.
pub(super) fn is_held(task: &AsyncTask) -> bool {
    task.metadata.finalizers.as_ref().is_some_and(|held| held.iter().any(|name| name == FINALIZER_OUTPUTS))
}

/// Step and attempt that run now: the first step that is not over.
#[must_use]
pub fn current_attempt(task: &AsyncTask) -> Option<(&str, u32)> {
    let steps = task.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
    let over = |state: Option<StepState>| matches!(state, Some(StepState::Complete | StepState::Failed));
    let step = steps.iter().find(|step| !over(step.state))?;
    Some((&step.name, step.attempt.and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(1)))
}

/// Name of the Job of an attempt of this run.
#[must_use]
pub fn job_name(task: &AsyncTask, step: &str, attempt: u32) -> String {
    let metadata = &task.metadata;
    let (name, uid) = (metadata.name.as_deref().unwrap_or_default(), metadata.uid.as_deref().unwrap_or_default());
    names::job(name, uid, step, attempt)
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
    /// [`Phase::Running`]
    Running(Execution),
    /// [`Phase::Restored`] and [`Phase::Finished`] need no more.
    Nothing,
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
    /// Its Job, if somebody made it already: us, before we could say so.
    pub job: Option<JobFact>,
    /// What a pod must be told of the agent; `None` until the operator knows.
    pub agent: Option<Agent>,
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
    /// Whether this very run owns it.
    pub ours: bool,
    /// Name of the revision it was built from.
    pub revision: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// How it ended, once it has.
    pub end: Option<JobEnd>,
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

/// A run whose Job was made.
#[derive(Clone, Debug, PartialEq)]
pub enum Execution {
    /// The Job has not ended.
    Runs,
    /// The Job has ended.
    Ended {
        /// How.
        end: JobEnd,
        /// What it left; the error says why it cannot be read now.
        results: Result<Results, Trouble>,
    },
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitFact {
    /// Pod that made it.
    pub pod_uid: String,
    /// Its files.
    pub files: Vec<CommittedFile>,
}

/// A report of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureFact {
    /// Pod that made it.
    pub pod_uid: String,
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
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it has not ended.
    pub alive: bool,
    /// Why the pod itself failed: `DeadlineExceeded`, `Evicted`.
    pub reason: Option<String>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What its container `task` waits for, when it never started: reason and sentence.
    pub waiting: Option<(String, String)>,
    /// How its container `task` ended.
    pub exit: Option<ExitFact>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitFact {
    /// Exit code.
    pub code: i32,
    /// The container runtime's word: `Error`, `OOMKilled`, `ContainerCannotRun`…
    pub reason: String,
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
