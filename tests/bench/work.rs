//! The work that is measured: the same pods as a task of ours and as a Job without us, and the wait for their end.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use asynctask_operator::api::AsyncTask;
use asynctask_operator::api::names::ANNOTATION_FINISHED;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::site::Site;
use crate::support::{Namespace, evidence, kubectl};

/// Objects that are created side by side.
const TOGETHER: usize = 32;
/// Longest time without anything new before a measurement is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Pods of this template are on a fake node without a scheduler, and run until the stand-in ends them.
fn template() -> Value {
    json!({
        "metadata": {"labels": {"stays": "yes"}},
        "spec": {
            "nodeName": "fake-0",
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "task", "image": "none", "command": ["true"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

fn merged(mut object: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut object, more) else { panic!("not an object") };
    fields.extend(more);
    object
}

/// A definition of one step; `step` and `spec` say more of either.
pub(crate) fn define(ns: &Namespace, name: &str, step: Value, spec: Value) {
    let step = merged(json!({"name": "work", "timeout": "12h", "template": template()}), step);
    let definition = json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "TaskDefinition", "metadata": {"name": name},
        "spec": merged(json!({"title": name, "steps": [step]}), spec),
    });
    ns.define(name, &definition.to_string());
}

pub(crate) fn task(name: &str, definition: &str) -> AsyncTask {
    let task = json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": name},
        "spec": {"definition": {"name": definition}},
    });
    serde_json::from_value(task).unwrap()
}

/// A Job of one pod.
pub(crate) fn job(name: &str) -> Job {
    let spec = json!({"backoffLimit": 0, "template": template()});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

/// An Indexed Job.
pub(crate) fn indexed(name: &str, completions: usize, parallelism: usize) -> Job {
    let mut job = job(name);
    let spec = job.spec.as_mut().unwrap();
    spec.completion_mode = Some("Indexed".to_owned());
    spec.completions = Some(i32::try_from(completions).unwrap());
    spec.parallelism = Some(i32::try_from(parallelism).unwrap());
    job
}

/// Objects of a namespace.
pub(crate) fn of<K>(site: &Site, ns: &Namespace) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(site.client.clone(), &ns.name)
}

/// Creates many.
pub(crate) async fn create_all<K>(api: &Api<K>, objects: impl IntoIterator<Item = K>)
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    let one = |object: K| async move { api.create(&PostParams::default(), &object).await.map(drop) };
    stream::iter(objects).map(one).buffer_unordered(TOGETHER).try_collect::<()>().await.unwrap();
}

/// When so many objects were seen to be over, for the first time. `see` is shown every version that the watch tells of.
pub(crate) async fn until_all<K>(api: Api<K>, count: usize, mut over: impl FnMut(&K) -> bool) -> Instant
where
    K: Clone + Debug + DeserializeOwned + Resource + Send + 'static,
    K::DynamicType: Default,
{
    let mut done = std::collections::HashSet::new();
    let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while done.len() < count {
        let change = tokio::time::timeout(PATIENCE, changes.next()).await;
        let change = change.unwrap_or_else(|_| {
            let what = format!("nothing new for {PATIENCE:?}; {} of {count} are over", done.len());
            evidence::show(&what);
            panic!("{what}");
        });
        match change.expect("a watch does not end") {
            Ok(object) if over(&object) => {
                done.insert(object.meta().uid.clone());
            }
            Ok(_) => {}
            Err(error) => println!("a watch: {error}"),
        }
    }
    Instant::now()
}

/// Whether a Job is complete; one that failed is no measurement.
pub(crate) fn job_is_over(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str| conditions.iter().any(|it| it.type_ == kind && it.status == "True");
    assert!(!is("Failed"), "{} failed: {conditions:?}", job.name_any());
    is("Complete")
}

/// Whether a run is complete; one that ended otherwise is no measurement.
pub(crate) fn task_is_over(task: &AsyncTask) -> bool {
    let Some(status) = &task.status else { return false };
    let over = status.conditions.iter().any(|it| it.type_ == "Finished" && it.status == "True");
    let state = serde_json::to_value(status.state).unwrap();
    assert!(!over || state == "Complete", "{} is {state}: {:?} {:?}", task.name_any(), status.reason, status.message);
    over
}

/// Whether the operator has nothing more to write about a run.
pub(crate) fn is_marked(task: &AsyncTask) -> bool {
    task_is_over(task) && task.annotations().contains_key(ANNOTATION_FINISHED)
}

/// Removes a namespace and waits, so that what comes next has the machine for itself.
pub(crate) fn clear(site: &Site, ns: Namespace) {
    site.runtime.block_on(async {
        remove_all(of::<AsyncTask>(site, &ns)).await;
        remove_all(of::<Job>(site, &ns)).await;
        remove_all(of::<Pod>(site, &ns)).await;
    });
    kubectl(&["delete", "namespace", &ns.name, "--timeout=900s"]).ok();
    drop(ns);
}

/// All objects of a kind, by one call and not one by one, and the wait until their finalizers let them go.
async fn remove_all<K>(api: Api<K>)
where
    K: Clone + Debug + DeserializeOwned + Resource,
{
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
    // A collection of many is deleted in more than one call where the server's time for one is up.
    while let Err(error) = api.delete_collection(&now, &ListParams::default()).await {
        println!("what was measured is still being removed: {error}");
    }
    while !api.list_metadata(&ListParams::default().limit(1)).await.unwrap().items.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
