//! What can fail while a run is looked after. Each is tried again with growing delays.

use crate::pace::Reason;
use asynctask_runtime::client::explain;

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    #[error("the AsyncTask cannot be read: {}", explain(.0))]
    ReadTask(#[source] kube::Error),
    #[error("AsyncTask {name}, which this run takes from, cannot be read: {}", explain(.source))]
    ReadNeighbour { name: String, source: kube::Error },
    #[error("TaskDefinition {name} cannot be read: {}", explain(.source))]
    ReadDefinition { name: String, source: kube::Error },
    #[error("TaskRevision {name} cannot be read: {}", explain(.source))]
    ReadRevision { name: String, source: kube::Error },
    #[error("the OutputStores cannot be listed: {}", explain(.0))]
    ListStores(#[source] kube::Error),
    #[error("namespace {name}, whose labels say which stores are open to it, cannot be read: {}", explain(.source))]
    ReadNamespace { name: String, source: kube::Error },
    #[error("Job {name} cannot be read: {}", explain(.source))]
    ReadJob { name: String, source: kube::Error },
    #[error("the Jobs of the run cannot be listed: {}", explain(.0))]
    ListJobs(#[source] kube::Error),
    #[error("the pods of the run cannot be listed: {}", explain(.0))]
    ListPods(#[source] kube::Error),
    #[error("Job {name} cannot be created: {}", explain(.source))]
    CreateJob { name: String, source: kube::Error },
    #[error("Job {name} cannot be deleted: {}", explain(.source))]
    DeleteJob { name: String, source: kube::Error },
    #[error("the AsyncTask cannot be held by our finalizer: {}", explain(.0))]
    Hold(#[source] kube::Error),
    #[error("the AsyncTask cannot be marked as finished: {}", explain(.0))]
    Mark(#[source] kube::Error),
    #[error("the AsyncTask, whose time is up, cannot be deleted: {}", explain(.0))]
    DeleteTask(#[source] kube::Error),
    #[error("the AsyncTask cannot be let go: {}", explain(.0))]
    Release(#[source] kube::Error),
    #[error("Lease {name}, which stands for the run's concurrency key, cannot be used: {}", explain(.source))]
    Lease { name: String, source: kube::Error },
    #[error("PriorityClass {name} cannot be read: {}", explain(.source))]
    ReadPriority { name: String, source: kube::Error },
    #[error("AsyncTask {name}, which this run replaces, cannot be cancelled: {}", explain(.source))]
    Replace { name: String, source: kube::Error },
    #[error("an output that run {name} took over from this one cannot be deleted there: {}", explain(.source))]
    DeleteTaken { name: String, source: kube::Error },
    #[error("the status cannot be written: {}", explain(.0))]
    WriteStatus(#[source] kube::Error),
    #[error("others write to the AsyncTask faster than it can be looked at")]
    Contended,
}

impl Reason for TaskError {
    fn reason(&self) -> &'static str {
        match self {
            Self::ReadTask(_) => "ReadTask",
            Self::ReadNeighbour { .. } => "ReadNeighbour",
            Self::ReadDefinition { .. } => "ReadDefinition",
            Self::ReadRevision { .. } => "ReadRevision",
            Self::ListStores(_) => "ListStores",
            Self::ReadNamespace { .. } => "ReadNamespace",
            Self::ReadJob { .. } => "ReadJob",
            Self::ListJobs(_) => "ListJobs",
            Self::ListPods(_) => "ListPods",
            Self::CreateJob { .. } => "CreateJob",
            Self::DeleteJob { .. } => "DeleteJob",
            Self::Hold(_) => "Hold",
            Self::Mark(_) => "Mark",
            Self::DeleteTaken { .. } => "DeleteTaken",
            Self::DeleteTask(_) => "DeleteTask",
            Self::Release(_) => "Release",
            Self::Lease { .. } => "Lease",
            Self::ReadPriority { .. } => "ReadPriority",
            Self::Replace { .. } => "Replace",
            Self::WriteStatus(_) => "WriteStatus",
            Self::Contended => "Contended",
        }
    }
}
