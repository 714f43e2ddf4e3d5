//! Names of labels, annotations, finalizers, field managers and virtual subresources. One list, no literals elsewhere.

/// API group of every kind.
pub const GROUP: &str = "asynctask.dev";
/// Prefix of our labels and annotations; only our accounts may set them (an admission policy says so).
pub const PREFIX: &str = "asynctask.dev/";

/// Label: UID of the AsyncTask a Job or Pod belongs to.
pub const LABEL_TASK_UID: &str = "asynctask.dev/task-uid";
/// Label: name of the AsyncTask, cut to 63 characters; for people and selectors, never for decisions.
pub const LABEL_TASK: &str = "asynctask.dev/task";
/// Label: name of the step.
pub const LABEL_STEP: &str = "asynctask.dev/step";
/// Label: number of the attempt.
pub const LABEL_ATTEMPT: &str = "asynctask.dev/attempt";

/// Annotation on an AsyncTask that has reached a terminal state: a copy restored from a backup never runs again.
pub const ANNOTATION_FINISHED: &str = "asynctask.dev/finished";
/// Annotation on an AsyncTask that is cancelled because a newer run of its concurrency key takes its place: the name of
/// that run. Written together with `spec.cancel`.
pub const ANNOTATION_REPLACED_BY: &str = "asynctask.dev/replaced-by";
/// Annotation on an AsyncTask that an administrator sets when the store of its outputs is gone for good: the store's name.
/// The task then goes without them.
pub const ANNOTATION_ABANDON: &str = "asynctask.dev/abandon-outputs";
/// Annotation on an AsyncTask: who set `spec.cancel`. Written by admission, and by the gateway for whom it asked.
pub const ANNOTATION_CANCELED_BY: &str = "asynctask.dev/canceled-by";
/// Annotation on an AsyncTask: who set `spec.suspend` last.
pub const ANNOTATION_SUSPENDED_BY: &str = "asynctask.dev/suspended-by";
/// Annotation on an AsyncTask that is deleted, by whoever may `interrupt` it: `true` ends a step also in the stage that must not
/// be interrupted.
pub const ANNOTATION_INTERRUPT: &str = "asynctask.dev/interrupt";
/// Annotation that our client puts in the place of what is too large or too deep to be read: why. No object in the API server
/// has it.
pub const ANNOTATION_UNREADABLE: &str = "asynctask.dev/unreadable";
/// Annotation on the pod template: hash of the revision it was built from.
pub const ANNOTATION_REVISION: &str = "asynctask.dev/revision";

/// Annotation on the Job of a fan-out that runs only some of the shards: which ones, in the order of the Job's indexes.
pub const ANNOTATION_SHARDS: &str = "asynctask.dev/shards";
/// Annotation on such a Job: how many shards had failed for good before it.
pub const ANNOTATION_FAILED_BEFORE: &str = "asynctask.dev/failed-before";

/// Holds an AsyncTask until its keys are gone from the store.
pub const FINALIZER_OUTPUTS: &str = "asynctask.dev/outputs";

/// Holds a TaskDefinition until no run that is not over is pinned to a revision of it.
pub const FINALIZER_RUNS: &str = "asynctask.dev/runs";

/// Holds an OutputStore until no run has its outputs there.
pub const FINALIZER_TASKS: &str = "asynctask.dev/tasks";

/// Begins the names of Leases that stand for concurrency keys.
pub const LEASE_PREFIX: &str = "asynctask-key-";
/// Label and annotation by which Kueue finds the queue of a Job; copied from the AsyncTask.
pub const KUEUE_QUEUE: &str = "kueue.x-k8s.io/queue-name";

/// Field manager of the operator.
pub const MANAGER_OPERATOR: &str = "asynctask-operator";
/// Field manager of the gateway; for a step's live fields `/<step>` is appended.
pub const MANAGER_GATEWAY: &str = "asynctask-gateway";

/// Virtual subresources people are granted by RBAC: `asynctasks/outputs` and so on.
pub mod subresource {
    /// `get`: list and download outputs of a run; `list`: find outputs of all runs; `delete`: delete them. Of the outputs that their visibility lets one see.
    /// `abandon`: let a deleted task go although its outputs cannot be deleted.
    pub const OUTPUTS: &str = "outputs";
    /// `bypass`: see outputs whatever their visibility.
    pub const VISIBILITY: &str = "visibility";
    /// `create`: upload an input.
    pub const UPLOADS: &str = "uploads";
    /// `set`: create tasks for another owner.
    pub const OWNER: &str = "owner";
    /// `get`: read the history of a run, also when the object is gone; `list`: of all runs.
    pub const HISTORY: &str = "history";
    /// `create`: cancel a run through the gateway.
    pub const CANCEL: &str = "cancel";
    /// `create`: run again, through the gateway, what did not succeed in a run.
    pub const RETRY: &str = "retry";
}
