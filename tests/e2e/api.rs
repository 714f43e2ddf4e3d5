//! Reads of the API server, asked many times a second by those who wait: a process of kubectl for each would take the
//! processors from whom they wait for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};

use http::Request;
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The kinds that are read: names they go by, the path before the namespace, whether they have one.
const KINDS: &[(&[&str], &str, bool)] = &[
    (&["asynctasks", "asynctask"], "/apis/asynctask.dev/v1alpha1", true),
    (&["taskdefinitions", "taskdefinition"], "/apis/asynctask.dev/v1alpha1", true),
    (&["taskrevisions", "taskrevision"], "/apis/asynctask.dev/v1alpha1", true),
    (&["outputstores", "outputstore"], "/apis/asynctask.dev/v1alpha1", false),
    (&["jobs", "job"], "/apis/batch/v1", true),
    (&["pods", "pod"], "/api/v1", true),
    (&["events", "event"], "/api/v1", true),
    (&["configmaps", "configmap"], "/api/v1", true),
    (&["services", "service"], "/api/v1", true),
    (&["nodes", "node"], "/api/v1", false),
    (&["deployments", "deployment"], "/apis/apps/v1", true),
    (&["leases", "lease"], "/apis/coordination.k8s.io/v1", true),
    (&["clusterqueues", "clusterqueue"], "/apis/kueue.x-k8s.io/v1beta2", false),
    (&["workloads", "workload"], "/apis/kueue.x-k8s.io/v1beta2", true),
];

/// The path that `kubectl get ARGUMENTS` asks for: `[-n NAMESPACE] KIND [NAME] [-l LABELS] [--field-selector=FIELDS]`.
fn path(arguments: &[&str]) -> String {
    let (mut namespace, mut query, mut words) = (None, Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "-n" => namespace = rest.next(),
            "-l" => query.push(format!("labelSelector={}", escaped(rest.next().expect("a selector")))),
            other => match other.strip_prefix("--field-selector=") {
                Some(fields) => query.push(format!("fieldSelector={}", escaped(fields))),
                None => words.push(other),
            },
        }
    }
    let kind = KINDS.iter().find(|(names, ..)| names.contains(&words[0]));
    let (names, group, namespaced) = kind.unwrap_or_else(|| panic!("add {} to the kinds that are read", words[0]));
    let mut path = (*group).to_owned();
    if *namespaced {
        path += &format!("/namespaces/{}", namespace.unwrap_or_else(|| panic!("{arguments:?}: no namespace")));
    }
    path += &format!("/{}", names[0]);
    if let Some(name) = words.get(1) {
        path += &format!("/{name}");
    }
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The administrator of the cluster of this run. A runtime of its own: whoever asks may be inside of another.
pub(crate) fn administrator() -> &'static (Runtime, Client) {
    static ADMINISTRATOR: OnceLock<(Runtime, Client)> = OnceLock::new();
    ADMINISTRATOR.get_or_init(|| {
        // Of several that are there somebody may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = within(&runtime, async { Client::try_from(Config::infer().await.unwrap()).unwrap() });
        (runtime, client)
    })
}

pub(crate) fn within<T: Send + 'static>(runtime: &Runtime, act: impl Future<Output = T> + Send + 'static) -> T {
    let (done, waits) = mpsc::channel();
    runtime.spawn(async move { done.send(act.await) });
    waits.recv().expect("the answer of a task that does not panic")
}

/// An object or a list as the API server tells it, or null when there is none.
#[track_caller]
pub(crate) fn get(arguments: &[&str]) -> Value {
    let path = path(arguments);
    let (runtime, client) = administrator();
    let (asked, client) = (path.clone(), client.clone());
    let answer = within(runtime, async move {
        client.request::<Value>(Request::get(asked).body(Vec::new()).expect("a path is a URI")).await
    });
    match answer {
        Ok(object) => object,
        Err(kube::Error::Api(status)) if status.code == 404 => Value::Null,
        Err(error) => panic!("GET {path}: {error}"),
    }
}

/// The lines of the audit log that were read so far, by namespace, and up to which byte.
#[derive(Default)]
struct Audit {
    read: u64,
    lines: HashMap<String, Vec<String>>,
}

/// What a line speaks of.
#[derive(Deserialize)]
struct Subject {
    #[serde(rename = "objectRef", default)]
    object: Object,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    namespace: String,
}

/// Lines of the API server's audit log that speak of a namespace. The log is read once, however often somebody asks.
pub(crate) fn audit(namespace: &str) -> Vec<Value> {
    static AUDIT: Mutex<Option<Audit>> = Mutex::new(None);
    let mut audit = AUDIT.lock().unwrap_or_else(PoisonError::into_inner);
    let audit = audit.get_or_insert_default();
    let mut file = File::open(crate::support::variable("ASYNCTASK_AUDIT_LOG")).unwrap();
    file.seek(SeekFrom::Start(audit.read)).unwrap();
    let (mut file, mut line) = (BufReader::new(file), String::new());
    // A line without its end is being written: it is read the next time.
    while file.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        audit.read += line.len() as u64;
        if let Ok(subject) = serde_json::from_str::<Subject>(&line) {
            audit.lines.entry(subject.object.namespace).or_default().push(line.clone());
        }
        line.clear();
    }
    let lines = audit.lines.get(namespace).into_iter().flatten();
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn reads_ask_for_the_path_that_kubectl_would() {
    assert_eq!(path(&["-n", "a", "asynctask", "t"]), "/apis/asynctask.dev/v1alpha1/namespaces/a/asynctasks/t");
    assert_eq!(path(&["node", "n"]), "/api/v1/nodes/n");
    assert_eq!(path(&["-n", "a", "pods", "-l", "b=c,d"]), "/api/v1/namespaces/a/pods?labelSelector=b%3Dc%2Cd");
    assert_eq!(
        path(&["-n", "a", "jobs", "--field-selector=x=y"]),
        "/apis/batch/v1/namespaces/a/jobs?fieldSelector=x%3Dy"
    );
}
