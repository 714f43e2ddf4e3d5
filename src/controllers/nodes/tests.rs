//! Lost nodes against an API server that knows one pod.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::{Error, Event};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Progress, is_known, lost_since, progress, slim, sweep};
use crate::context::{AgentSettings, Context, Reconciles, SetAside};
use asynctask_plan::queue::Limits;
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::stores::Stores;

const AFTER: Duration = Duration::from_secs(300);

type Asked = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// Answers lists of pods with these, the Job with one of the run, and takes everything else.
fn server(pods: Value) -> (Client, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (pods, seen) = (pods.clone(), Arc::clone(&seen));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let path = head.uri.path().to_owned();
            let answer = match path.as_str() {
                "/api/v1/pods" => json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}),
                path if path.contains("/jobs/") => json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": {"name": "a-run-1", "uid": "j", "ownerReferences": [{
                        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "name": "a", "uid": "t",
                        "controller": true,
                    }]},
                }),
                path if path.contains("/pods/") => pod("p", "lost", "Failed"),
                _ => body.clone(),
            };
            let path = format!("{path}?{}", head.uri.query().unwrap_or_default());
            seen.lock().expect("no panic").push((head.method, path, body));
            let response = Response::builder().status(200).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    (Client::new(service, "asynctask-system"), asked)
}

fn context(client: Client) -> Context {
    let metrics = Metrics::new("operator");
    let reporter = Reporter { controller: "asynctask-operator".into(), instance: Some("test".into()) };
    Context {
        stores: Stores::new(client.clone(), "asynctask-system", None),
        namespace: "asynctask-system".into(),
        limits: Limits::default(),
        reconciles: Reconciles::new(&metrics),
        set_aside: SetAside::new(&metrics),
        agent: AgentSettings { image: "agent:1".into(), pull_secrets: Vec::new(), injection: watch::channel(None).1 },
        require_digest: false,
        gateway: watch::channel(None).1,
        events: Recorder::new(client.clone(), reporter),
        watches: client.clone(),
        whole: client.clone(),
        client,
        stopping: CancellationToken::new(),
        metrics,
    }
}

fn pod(name: &str, node: &str, phase: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "studio", "uid": format!("uid-{name}"),
            "labels": {"asynctask.dev/task-uid": "t"},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "a-run-1", "uid": "j", "controller": true},
            ],
        },
        "spec": {"nodeName": node, "containers": [{"name": "task"}]},
        "status": {"phase": phase},
    })
}

fn node(name: &str, ready: &str, since: &str) -> Arc<Node> {
    let mut node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"a": "b"}},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"conditions": [
            {"type": "MemoryPressure", "status": "Unknown", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "Ready", "status": ready, "lastTransitionTime": since},
        ]},
    }))
    .expect("a node");
    slim(&mut node);
    Arc::new(node)
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().expect("a time")
}

#[test]
fn a_node_is_lost_when_it_was_not_ready_for_long_enough() {
    let since = |ready, since| lost_since(&node("n", ready, since), AFTER, now());
    assert_eq!(since("Unknown", "2026-01-01T00:05:00Z"), "2026-01-01T00:05:00Z".parse().ok());
    assert_eq!(since("False", "2026-01-01T00:00:00Z"), None, "its kubelet lives, and so may its pods");
    assert_eq!(since("Unknown", "2026-01-01T00:05:01Z"), None);
    assert_eq!(since("True", "2026-01-01T00:00:00Z"), None);
    assert_eq!(lost_since(&Node::default(), AFTER, now()), None);
}

#[tokio::test]
async fn pods_of_a_lost_node_are_marked_and_deleted_by_their_uid_and_the_run_is_told() {
    let (client, asked) = server(json!([pod("p", "lost", "Running"), pod("q", "lost", "Succeeded")]));
    let nodes = [node("fine", "True", "2020-01-01T00:00:00Z"), node("lost", "Unknown", "2026-01-01T00:00:00Z")];
    sweep(&context(client), &nodes, AFTER, now()).await;
    let asked = asked.lock().expect("no panic");
    let calls: Vec<String> = asked
        .iter()
        .map(|(method, path, _)| format!("{method} {}", path.split('?').next().unwrap_or_default()))
        .collect();
    assert_eq!(
        calls,
        [
            "GET /api/v1/pods",
            "PATCH /api/v1/namespaces/studio/pods/p/status",
            "DELETE /api/v1/namespaces/studio/pods/p",
            "GET /apis/batch/v1/namespaces/studio/jobs/a-run-1",
            "POST /apis/events.k8s.io/v1/namespaces/studio/events",
        ]
    );
    assert!(asked[0].1.contains("labelSelector=asynctask.dev%2Ftask-uid"), "{}", asked[0].1);
    assert!(asked[0].1.contains("fieldSelector=spec.nodeName%3Dlost"), "{}", asked[0].1);
    let (mark, delete, event) = (&asked[1].2, &asked[2].2, &asked[4].2);
    assert_eq!((&mark["metadata"]["uid"], &mark["status"]["phase"]), (&json!("uid-p"), &json!("Failed")));
    assert_eq!(mark["status"]["conditions"][0]["type"], "DisruptionTarget");
    assert_eq!((&delete["gracePeriodSeconds"], &delete["preconditions"]["uid"]), (&json!(0), &json!("uid-p")));
    assert_eq!((&event["regarding"]["kind"], &event["regarding"]["uid"]), (&json!("AsyncTask"), &json!("t")));
    assert_eq!(event["reason"], "NodeLost");
}

#[tokio::test]
async fn pods_of_other_nodes_stay() {
    let (client, asked) = server(json!([pod("p", "fine", "Running")]));
    sweep(&context(client), &[node("lost", "Unknown", "2026-01-01T00:00:00Z")], AFTER, now()).await;
    assert_eq!(asked.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn where_no_node_is_heard_of_pods_stay() {
    let (client, asked) = server(json!([pod("p", "lost", "Running")]));
    sweep(&context(client), &[], AFTER, now()).await;
    assert!(asked.lock().expect("no panic").is_empty());
}

#[test]
fn nodes_are_known_while_their_watch_is_whole() {
    let refused = || Err(Error::NoResourceVersion);
    let lost = || Ok(Event::InitApply(Node::clone(&node("lost", "Unknown", "2026-01-01T00:00:00Z"))));
    assert!(!is_known(false, &Ok(Event::Init)));
    assert!(!is_known(false, &lost()), "the first list has not come to its end");
    assert!(is_known(false, &Ok(Event::InitDone)));
    assert!(!is_known(true, &refused()), "the node may have come back since");
    assert!(!is_known(false, &lost()), "and is not asked about before all are");
    assert!(is_known(true, &Ok(Event::Init)), "the store holds what was known until the new list is whole");
    assert!(is_known(false, &Ok(Event::Delete(Node::default()))));
}

#[test]
fn a_pod_is_given_up_once_and_a_half_done_one_to_the_end() {
    let progress = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod("p", "lost", "Running");
        change(&mut pod);
        progress(&serde_json::from_value::<Pod>(pod).expect("a pod"))
    };
    let deleted = |pod: &mut Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    };
    let marked = |pod: &mut Value| pod["status"] = json!({"phase": "Failed", "reason": "NodeLost"});
    assert_eq!(progress(&|_| {}), Progress::Untouched);
    assert_eq!(progress(&deleted), Progress::Untouched, "somebody deleted it by force: its Job waits all the same");
    assert_eq!(progress(&marked), Progress::Marked);
    assert_eq!(
        progress(&|pod| {
            marked(pod);
            deleted(pod);
        }),
        Progress::Over
    );
    assert_eq!(progress(&|pod| pod["status"] = json!({"phase": "Failed"})), Progress::Over);
}
