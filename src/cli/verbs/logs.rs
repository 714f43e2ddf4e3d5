//! `logs`: of the live pod while there is one, else the stored one, which outlives it.

use std::collections::BTreeSet;

use futures::{AsyncReadExt, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{ListParams, LogParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use crate::api::AsyncTask;
use crate::api::names::LABEL_TASK_UID;
use crate::cli::cluster::{ClusterError, is_transient, status, watch_failure};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::follow::exit_of;
use crate::cli::inputs::CHUNK;
use crate::cli::terminal::PrintError;
use crate::cli::verbs::outputs;
use crate::contract::env::{CONTAINER, LOG_OUTPUT};

/// Print what the program of a run wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the run
    name: String,
    /// Go on until the run ends
    #[arg(short, long)]
    follow: bool,
}

/// A log that is nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    /// Nothing ran yet.
    #[error("AsyncTask {name:?} has not started: {state}. With -f the command waits for it")]
    NotStarted {
        /// Task.
        name: String,
        /// What it waits for.
        state: String,
    },
    /// Only the stored log may be read, and it is stored at the end.
    #[error(
        "the pods of AsyncTask {name:?} cannot be read with your rights, and the stored log comes with the end of \
         the run: with -f the command waits for it"
    )]
    NotStored {
        /// Task.
        name: String,
    },
    /// The run left none.
    #[error("AsyncTask {name:?} has ended and left no log: its program wrote nothing, or never ran")]
    None {
        /// Task.
        name: String,
    },
}

/// Prints the log of the newest pod, or follows them all.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<Exit, CliError> {
    let act = format!("read AsyncTask {:?}", args.name);
    let task = session.tasks().get(&args.name).await.map_err(ClusterError::on(act))?;
    let pods = Pods::of(session, &task);
    if args.follow {
        follow(session, &pods, &task).await?
    } else {
        once(session, &pods, &task).await?
    }
    Ok(Exit::Ok)
}

async fn once(session: &Session, pods: &Pods, task: &AsyncTask) -> Result<(), CliError> {
    let found = match pods.list().await {
        Ok(found) => found,
        Err(error) if error.status().is_some_and(|s| s.code == 403) => return stored(session, task).await,
        Err(error) => return Err(error.into()),
    };
    let started = found.iter().filter(|pod| has_started(pod)).max_by_key(|pod| created(pod));
    match started {
        Some(pod) => match pods.copy(&pod.name_any(), false).await? {
            Copied::All => Ok(()),
            Copied::Gone => stored(session, task).await,
        },
        None if exit_of(task).is_some() => stored(session, task).await,
        None => {
            let name = task.name_any();
            Err(LogsError::NotStarted { name, state: waits_for(task, &found) }.into())
        }
    }
}

/// Every pod of the run as it comes, until the run has ended. A run without any, or whose pods may not be read, shows
/// its stored log at the end.
async fn follow(session: &Session, pods: &Pods, task: &AsyncTask) -> Result<(), CliError> {
    let config = watcher::Config::default().labels(&pods.selector);
    let mut comings = watcher(pods.api.clone(), config).default_backoff().applied_objects().boxed();
    let mut changes = watcher::watch_object(session.tasks(), &task.name_any()).default_backoff().boxed();
    let mut seen = BTreeSet::new();
    let mut latest = task.clone();
    let mut readable = true;
    while exit_of(&latest).is_none() {
        tokio::select! {
            Some(pod) = comings.next(), if readable => match pod {
                Ok(pod) => pods.copy_new(&pod, &mut seen).await?,
                // What passes is tried again by the stream itself.
                Err(error) => readable = watch_failure(error).is_none_or(|e| is_transient(&e)),
            },
            Some(change) = changes.next() => match change {
                Ok(Some(task)) => latest = task,
                Ok(None) => return Ok(()),
                Err(error) => if let Some(e) = watch_failure(error).filter(|e| !is_transient(e)) {
                    return Err(ClusterError::new(format!("watch AsyncTask {:?}", task.name_any()), e).into());
                }
            }
        }
    }
    // A pod that began and ended between two looks.
    if readable && let Ok(mut rest) = pods.list().await {
        rest.sort_by_key(created);
        for pod in &rest {
            pods.copy_new(pod, &mut seen).await?;
        }
    }
    if seen.is_empty() { stored(session, &latest).await } else { Ok(()) }
}

/// The log in the store, through the gateway.
async fn stored(session: &Session, task: &AsyncTask) -> Result<(), CliError> {
    let name = task.name_any();
    if exit_of(task).is_none() {
        return Err(LogsError::NotStored { name }.into());
    }
    let gateway = session.gateway().await?;
    let list = outputs::list(&gateway, &session.namespace, &name).await?;
    let log = list.outputs.iter().find(|o| o.name == LOG_OUTPUT).and_then(|o| o.files.first());
    let Some(file) = log else { return Err(LogsError::None { name }.into()) };
    let link = gateway.path(&session.namespace, &["tasks", &name, "outputs", LOG_OUTPUT, "files", "0", "download"]);
    outputs::stdout(&gateway, link, file).await
}

/// Whether the log of a pod could be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    All,
    Gone,
}

/// The pods of one run.
struct Pods {
    api: Api<Pod>,
    selector: String,
}

impl Pods {
    fn of(session: &Session, task: &AsyncTask) -> Self {
        let selector = format!("{LABEL_TASK_UID}={}", task.uid().unwrap_or_default());
        Self { api: Api::namespaced(session.client.clone(), &session.namespace), selector }
    }

    async fn list(&self) -> Result<Vec<Pod>, ClusterError> {
        let params = ListParams::default().labels(&self.selector);
        Ok(self.api.list(&params).await.map_err(ClusterError::on("list the pods of the run"))?.items)
    }

    /// Copies the log of a pod that has started and was not copied yet.
    async fn copy_new(&self, pod: &Pod, seen: &mut BTreeSet<String>) -> Result<(), CliError> {
        let uid = pod.uid().unwrap_or_default();
        if has_started(pod) && !seen.contains(&uid) && self.copy(&pod.name_any(), true).await? == Copied::All {
            seen.insert(uid);
        }
        Ok(())
    }

    /// Bytes as they are: what a program writes is its own.
    async fn copy(&self, name: &str, follow: bool) -> Result<Copied, CliError> {
        let params = LogParams { container: Some(CONTAINER.to_owned()), follow, ..LogParams::default() };
        let act = format!("read the log of pod {name:?}");
        let mut log = match self.api.log_stream(name, &params).await {
            Ok(log) => log,
            // Gone between the list and this call, its node gone, or its log not for us.
            Err(error) if status(&error).is_some_and(|s| matches!(s.code, 403 | 404)) => return Ok(Copied::Gone),
            Err(error) => return Err(ClusterError::new(act, error).into()),
        };
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = log
                .read(&mut buffer)
                .await
                .map_err(|e| ClusterError::new(format!("{act} to its end"), kube::Error::ReadEvents(e)))?;
            if n == 0 {
                return Ok(Copied::All);
            }
            write(&buffer[..n])?;
        }
    }
}

fn write(bytes: &[u8]) -> Result<(), PrintError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn created(pod: &Pod) -> Option<jiff::Timestamp> {
    pod.creation_timestamp().map(|t| t.0)
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|c| c.name == CONTAINER)
}

fn has_started(pod: &Pod) -> bool {
    container(pod).and_then(|c| c.state.as_ref()).is_some_and(|s| s.running.is_some() || s.terminated.is_some())
}

/// What the newest pod waits for, else what the task says.
fn waits_for(task: &AsyncTask, pods: &[Pod]) -> String {
    let newest = pods.iter().max_by_key(|pod| created(pod));
    let waiting = newest.and_then(container).and_then(|c| c.state.as_ref()?.waiting.as_ref());
    let words = waiting.map(|w| [w.reason.as_deref(), w.message.as_deref()]);
    let known = task.status.as_ref();
    let words =
        words.unwrap_or_else(|| [known.and_then(|s| s.reason.as_deref()), known.and_then(|s| s.message.as_deref())]);
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() { "nothing is known of it yet".to_owned() } else { crate::cli::words::clean(&words.join(": ")) }
}

#[cfg(test)]
mod tests {
    use super::{has_started, waits_for};
    use crate::api::AsyncTask;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn pod(state: Value) -> Pod {
        let statuses = json!([{"name": "sidecar", "state": {"running": {}}}, {"name": "task", "state": state}]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}}))
            .expect("a pod")
    }

    #[test]
    fn a_pod_has_a_log_once_the_container_task_runs_or_ran() {
        assert!(has_started(&pod(json!({"running": {}}))));
        assert!(has_started(&pod(json!({"terminated": {"exitCode": 1}}))));
        assert!(!has_started(&pod(json!({"waiting": {"reason": "PodInitializing"}}))), "a sidecar that runs is not it");
        assert!(!has_started(&Pod::default()));
    }

    #[test]
    fn what_a_run_waits_for_is_told_by_its_pod_or_by_itself() {
        let task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}}, "status": {"reason": "StoreNotReady", "message": "no store"}
        }))
        .expect("a task");
        let waiting = pod(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
        assert_eq!(waits_for(&task, &[waiting]), "ImagePullBackOff: no such image");
        assert_eq!(waits_for(&task, &[]), "StoreNotReady: no store");
    }
}
