//! Pods on lost nodes. A node that is not heard of ends no pod, and a Job whose next pod comes when the last one has
//! ended (`podReplacementPolicy: Failed`) waits for it for ever. Such a pod is given up: marked Failed, as Kubernetes
//! itself marks the pods of a node that is gone, and deleted by force. What its program may still want to commit then is
//! refused by the gateway.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use super::watches;
use asynctask_api::names::{LABEL_TASK_UID, MANAGER_OPERATOR};
use asynctask_runtime::client::{explain, explain_watch, is_status};

type NodeEvent = watcher::Event<Node>;

/// Longest time between two looks at the nodes.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The word for it on the pod and in the Event.
const REASON: &str = "NodeLost";

/// Runs until the process ends.
pub(super) async fn run(context: Arc<Context>, lost_after: Duration) {
    let (nodes, stream) = nodes(&context);
    let mut stream = std::pin::pin!(stream);
    let mut known = false;
    let mut look = interval((lost_after / 10).clamp(Duration::from_secs(1), LOOK_AGAIN));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.stopping.cancelled() => return,
            event = stream.next() => {
                let Some(event) = event else { return };
                known = is_known(known, &event);
                if let Err(error) = event {
                    tracing::warn!(
                        error = explain_watch(&error),
                        "nodes cannot be watched: until they can, no pod is given up, whatever node it is on"
                    );
                }
            }
            _ = look.tick(), if known => sweep(&context, &nodes.state(), lost_after, Timestamp::now()).await,
        }
    }
}

/// Whether the nodes are known as they are now. What was seen before a watch broke off is no ground to end a pod: the
/// node may have come back since, or it is we who hear of nobody.
fn is_known(before: bool, event: &Result<NodeEvent, watcher::Error>) -> bool {
    match event {
        Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => before,
        Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => true,
        Err(_) => false,
    }
}

fn nodes(context: &Context) -> (Store<Node>, impl Stream<Item = Result<NodeEvent, watcher::Error>> + Send + 'static) {
    let (reader, writer) = reflector::store();
    let nodes = Api::<Node>::all(context.watches.clone());
    let stream = watcher(nodes, watches::config()).modify(slim).default_backoff().reflect(writer);
    (reader, stream)
}

fn slim(node: &mut Node) {
    node.metadata.annotations = None;
    node.metadata.labels = None;
    node.spec = Some(NodeSpec::default());
    let conditions = node.status.take().and_then(|status| status.conditions).unwrap_or_default();
    let conditions = conditions.into_iter().filter(|condition| condition.type_ == "Ready").collect();
    node.status = Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() });
}

/// Since when a node is not heard of, if that is longer ago than this. One that says itself that it is not ready lives, and so
/// may its pods: `False` is its kubelet's word, `Unknown` that of who waits for it.
fn lost_since(node: &Node, after: Duration, now: Timestamp) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    let silent = |condition: &&NodeCondition| condition.type_ == "Ready" && condition.status == "Unknown";
    let since = conditions.iter().find(silent)?.last_transition_time.as_ref()?.0;
    since.checked_add(after).is_ok_and(|then| then <= now).then_some(since)
}

async fn sweep(context: &Context, nodes: &[Arc<Node>], lost_after: Duration, now: Timestamp) {
    for node in nodes {
        let Some(since) = lost_since(node, lost_after, now) else { continue };
        let name = node.name_any();
        if let Err(error) = give_up(context, &name, since).await {
            tracing::warn!(node = name, error = explain(&error), "the pods of a lost node cannot be ended now");
        }
    }
}

async fn give_up(context: &Context, node: &str, since: Timestamp) -> Result<(), kube::Error> {
    let which = ListParams::default().labels(LABEL_TASK_UID).fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(context.client.clone()).list(&which).await?.items;
    for pod in pods.iter().filter(|pod| is_on(pod, node)) {
        let api = Api::<Pod>::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        let marked = match progress(pod) {
            Progress::Untouched => mark(&api, pod, node, since).await?,
            Progress::Marked => true,
            Progress::Over => false,
        };
        if !marked {
            continue;
        }
        delete(&api, pod).await?;
        if progress(pod) == Progress::Untouched {
            tell(context, pod, node, since).await;
        }
    }
    Ok(())
}

/// A server that does not know the field selector would give the pods of all nodes.
fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// How far a pod is given up. All of it is on the pod: nothing is remembered, and nothing is done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its program runs, as far as anybody knows.
    Untouched,
    /// Marked by us, and not deleted yet.
    Marked,
    /// It has ended, or nothing is left to do.
    Over,
}

fn progress(pod: &Pod) -> Progress {
    let status = pod.status.as_ref();
    let deleted = pod.metadata.deletion_grace_period_seconds == Some(0) && pod.metadata.deletion_timestamp.is_some();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Failed") if !deleted && status.is_some_and(|status| status.reason.as_deref() == Some(REASON)) => {
            Progress::Marked
        }
        Some("Failed" | "Succeeded") => Progress::Over,
        _ => Progress::Untouched,
    }
}

/// Deleting alone is not enough: the Job controller's finalizer holds the pod until it has ended. `false`: it is gone,
/// or another one has its name.
async fn mark(api: &Api<Pod>, pod: &Pod, node: &str, since: Timestamp) -> Result<bool, kube::Error> {
    let message = format!("node {node} has not been heard of since {since}");
    let disrupted = json!({
        "type": "DisruptionTarget", "status": "True", "reason": REASON, "message": message,
        "lastTransitionTime": Timestamp::now(),
    });
    let patch = json!({
        "metadata": {"uid": pod.uid()},
        "status": {"phase": "Failed", "reason": REASON, "message": message, "conditions": [disrupted]},
    });
    let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
    match api.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch)).await {
        Ok(_) => Ok(true),
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn delete(api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    let this = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(this), ..DeleteParams::default() };
    match api.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn tell(context: &Context, pod: &Pod, node: &str, since: Timestamp) {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let task_uid = pod.labels().get(LABEL_TASK_UID);
    tracing::info!(uid = task_uid, namespace, pod = name, node, %since, "pod of a lost node given up");
    let run = match run_of(context, pod, &namespace).await {
        Ok(Some(run)) => run,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(uid = task_uid, error = explain(&error), "whose pod it was cannot be read");
            return;
        }
    };
    let note = format!(
        "node {node} has not been heard of since {since}: pod {name} is given up, and its work is done again elsewhere. \
         Bring the node back or delete it"
    );
    let event = Event {
        type_: EventType::Warning,
        reason: REASON.to_owned(),
        note: Some(note),
        action: "GiveUp".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.events.publish(&event, &run).await {
        tracing::warn!(uid = task_uid, error = explain(&error), "the Event cannot be written");
    }
}

/// The run a pod belongs to: the owner of its Job.
async fn run_of(context: &Context, pod: &Pod, namespace: &str) -> Result<Option<ObjectReference>, kube::Error> {
    let Some(owner) = controller_of(pod.owner_references()) else { return Ok(None) };
    let job = Api::<Job>::namespaced(context.client.clone(), namespace).get_metadata_opt(&owner.name).await?;
    let run = job.as_ref().and_then(|job| controller_of(job.owner_references()));
    Ok(run.map(|run| ObjectReference {
        api_version: Some(run.api_version.clone()),
        kind: Some(run.kind.clone()),
        name: Some(run.name.clone()),
        namespace: Some(namespace.to_owned()),
        uid: Some(run.uid.clone()),
        ..ObjectReference::default()
    }))
}

fn controller_of(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests;
