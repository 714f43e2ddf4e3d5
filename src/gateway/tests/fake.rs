//! An API server in memory, as far as the gateway asks it: objects by path, tokens, rights. And a world in it: one
//! namespace, one definition, one running task, one filesystem store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::openapi::Document;
use super::unconditional::as_told;
use crate::metrics::Requests;
use crate::{Gateway, Shared, router};
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::stores::Stores;

pub(super) const NS: &str = "studio";
pub(super) const TASKS: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks";
pub(super) const TASK: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/asynctasks/run-1";
pub(super) const JOB: &str = "/apis/batch/v1/namespaces/studio/jobs/run-1-import";
pub(super) const POD: &str = "/api/v1/namespaces/studio/pods/run-1-import-x";
const TDEF: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/taskdefinitions/course-import";
pub(super) const TREV: &str = "/apis/asynctask.dev/v1alpha1/namespaces/studio/taskrevisions/course-import-1";
const STORES: &str = "/apis/asynctask.dev/v1alpha1/outputstores";

/// What the API server holds.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) objects: Mutex<BTreeMap<String, Value>>,
    tokens: Mutex<HashMap<String, Value>>,
    rights: Mutex<HashSet<String>>,
    /// Method and path of each call but reviews, oldest first.
    pub(super) calls: Mutex<Vec<String>>,
    /// Body of each patch.
    pub(super) patches: Mutex<Vec<Value>>,
    /// So many patches are answered with a conflict.
    pub(super) conflicts: Mutex<u32>,
    /// Seed of the number of turns that each call waits for others; 0: none.
    pub(super) disorder: Mutex<u64>,
}

impl Cluster {
    pub(super) fn set(&self, path: &str, object: Value) {
        self.objects.lock().expect("no panic").insert(path.to_owned(), object);
    }

    pub(super) fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.objects.lock().expect("no panic").get_mut(path).expect("an object of the world"));
    }

    pub(super) fn remove(&self, path: &str) {
        self.objects.lock().expect("no panic").remove(path).expect("an object of the world");
    }

    /// All that one person may do, for another one too.
    pub(super) fn grant_as(&self, user: &str, like: &str) {
        let mut rights = self.rights.lock().expect("no panic");
        let theirs: Vec<_> = rights.iter().filter_map(|right| right.strip_prefix(&format!("{like} "))).collect();
        let own: Vec<String> = theirs.into_iter().map(|rule| format!("{user} {rule}")).collect();
        rights.extend(own);
    }

    /// The right is taken away again.
    pub(super) fn revoke(&self, user: &str, rule: &str) {
        self.rights.lock().expect("no panic").remove(&format!("{user} {rule}"));
    }

    /// `rule` is `<verb> asynctasks[/<sub>]`.
    pub(super) fn grant(&self, user: &str, rule: &str) {
        self.rights.lock().expect("no panic").insert(format!("{user} {rule}"));
    }

    /// A pod that runs a step of run-1, its Job beside it; its token is its name. `index`: the Job is an Indexed one.
    pub(super) fn run(&self, pod: &str, step: &str, index: Option<u32>) {
        let extra = json!({
            "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [format!("{pod}-uid")],
        });
        let user = json!({"username": "system:serviceaccount:studio:default", "extra": extra});
        let token = json!({"audience": "asynctask-agent", "user": user});
        self.tokens.lock().expect("no panic").insert(pod.to_owned(), token);
        let name = format!("run-1-{step}");
        let owner = ("asynctask.dev/v1alpha1", "AsyncTask", "run-1", "task-uid");
        let mut job = object("batch/v1", "Job", &name, &format!("{name}-uid"), Some(owner));
        job["metadata"]["labels"]["asynctask.dev/step"] = json!(step);
        let mode = if index.is_some() { "Indexed" } else { "NonIndexed" };
        job["spec"] = json!({"completionMode": mode, "template": {}});
        self.set(&format!("/apis/batch/v1/namespaces/studio/jobs/{name}"), job);
        let owner = ("batch/v1", "Job", name.as_str(), format!("{name}-uid"));
        let owner = (owner.0, owner.1, owner.2, owner.3.as_str());
        let mut object = object("v1", "Pod", pod, &format!("{pod}-uid"), Some(owner));
        if let Some(index) = index {
            object["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = json!(index.to_string());
        }
        self.set(&format!("/api/v1/namespaces/studio/pods/{pod}"), object);
    }

    fn turns(&self) -> u64 {
        let mut seed = self.disorder.lock().expect("no panic");
        // Marsaglia's xorshift: 0 stays 0.
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % 8
    }

    fn reviewed_token(&self, spec: &Value) -> Value {
        let tokens = self.tokens.lock().expect("no panic");
        let known = tokens.get(spec["token"].as_str().unwrap_or_default());
        let audience = spec["audiences"].get(0).and_then(Value::as_str);
        match known {
            Some(user) if user["audience"].as_str() == audience => {
                json!({"authenticated": true, "user": user["user"], "audiences": audience.map(|a| vec![a])})
            }
            _ => json!({"authenticated": false}),
        }
    }

    fn reviewed_access(&self, spec: &Value) -> Value {
        let asked = &spec["resourceAttributes"];
        let sub = asked["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        let (user, verb) = (spec["user"].as_str().unwrap_or_default(), asked["verb"].as_str().unwrap_or_default());
        let rule = format!("{user} {verb} asynctasks{sub}");
        let allowed = asked["namespace"] == NS && self.rights.lock().expect("no panic").contains(&rule);
        json!({"allowed": allowed})
    }

    fn answer(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        if path.ends_with("/tokenreviews") {
            return (201, json!({"spec": {}, "status": self.reviewed_token(&body["spec"])}));
        }
        if path.ends_with("/subjectaccessreviews") {
            return (201, json!({"spec": {}, "status": self.reviewed_access(&body["spec"])}));
        }
        self.calls.lock().expect("no panic").push(format!("{method} {path}"));
        let mut objects = self.objects.lock().expect("no panic");
        match method {
            "PATCH" => {
                let mut conflicts = self.conflicts.lock().expect("no panic");
                if *conflicts > 0 {
                    *conflicts -= 1;
                    return failure(409, "Conflict");
                }
                let Some(object) = objects.get_mut(path.trim_end_matches("/status")) else {
                    return failure(404, "NotFound");
                };
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                self.patches.lock().expect("no panic").push(body.clone());
                change(object, body);
                (200, object.clone())
            }
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if objects.contains_key(&path) {
                    return failure(409, "AlreadyExists");
                }
                objects.insert(path, body.clone());
                (201, body.clone())
            }
            _ => match objects.get(path) {
                Some(object) => (200, object.clone()),
                None if path == TASKS || path == STORES => {
                    let inside = objects.iter().filter(|(key, _)| key.starts_with(&format!("{path}/")));
                    let items: Vec<Value> = inside.map(|(_, object)| object.clone()).collect();
                    (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
                }
                None => failure(404, "NotFound"),
            },
        }
    }
}

/// A patch makes a new version of an object: merged, with lists of named things merged by name.
fn change(object: &mut Value, patch: &Value) {
    let mut patch = patch.clone();
    if let Some(Value::Object(metadata)) = patch.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    merge(object, &patch);
    let version: u64 = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(patch)) => {
            for named in patch {
                match into.iter_mut().find(|known| known["name"] == named["name"]) {
                    Some(known) => merge(known, named),
                    None => into.push(named.clone()),
                }
            }
        }
        (into, other) => *into = other.clone(),
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (code, status)
}

fn client(cluster: &Arc<Cluster>) -> Client {
    let cluster = Arc::clone(cluster);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let cluster = Arc::clone(&cluster);
        async move {
            for _ in 0..cluster.turns() {
                tokio::task::yield_now().await;
            }
            let (head, body) = request.into_parts();
            let bytes = axum::body::to_bytes(Body::new(body), 1 << 20).await?;
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let (code, answer) = cluster.answer(head.method.as_str(), head.uri.path(), &body);
            let answer = http::Response::builder().status(code).body(Body::from(answer.to_string()))?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
        }
    });
    Client::new(service, "default")
}

fn stores(client: &Client, volume: &TempDir) -> Stores {
    Stores::new(client.clone(), "asynctask-system", Some(volume.path().to_owned())).wrapped(as_told)
}

/// A gateway and the cluster it stands in.
pub(super) struct World {
    pub(super) cluster: Arc<Cluster>,
    pub(super) router: axum::Router,
    pub(super) volume: Arc<tempfile::TempDir>,
    pub(super) gateway: Shared,
}

impl World {
    pub(super) fn new() -> Self {
        Self::paced(0)
    }

    /// One that takes so many calls a second of one person.
    pub(super) fn paced(per_second: u32) -> Self {
        let cluster = Arc::new(Cluster::default());
        populate(&cluster);
        let client = client(&cluster);
        let volume = Arc::new(tempfile::tempdir().expect("a folder"));
        let stores = stores(&client, &volume);
        let gateway = Arc::new(Gateway::new(client, stores).paced(per_second));
        let router = router(Arc::clone(&gateway), Requests::new(&Metrics::new("gateway")));
        Self { cluster, router, volume, gateway }
    }

    /// The same cluster and volume with a gateway that knows nothing yet.
    pub(super) fn again(&self) -> Self {
        let client = client(&self.cluster);
        let stores = stores(&client, &self.volume);
        let gateway = Arc::new(Gateway::new(client, stores));
        let router = router(Arc::clone(&gateway), Requests::new(&Metrics::new("gateway")));
        Self { cluster: Arc::clone(&self.cluster), router, volume: Arc::clone(&self.volume), gateway }
    }

    /// Each answer of the people's API is what the document says.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        static DOCUMENT: LazyLock<Document> =
            LazyLock::new(|| Document::new(serde_json::from_str(&crate::openapi()).expect("JSON")));
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let answer = self.answer(request).await;
        if path.starts_with("/api/v1/") {
            let (status, media_type) = (answer.status.as_u16(), answer.header("content-type"));
            assert_eq!(DOCUMENT.differs(&method, &path, status, media_type, &answer.body), None);
        }
        answer
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = axum::body::to_bytes(response.into_body(), 8 << 20).await.expect("a body");
        Answer { status, headers, body: body.to_vec() }
    }

    pub(super) async fn call(&self, who: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {who}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request.body(body).expect("a request")).await
    }

    /// Every file below the volume that holds bytes of a task or an upload.
    pub(super) fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.volume.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                if entry.is_dir() {
                    open.push(entry);
                } else {
                    found.push(entry.strip_prefix(self.volume.path()).expect("below").display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }
}

fn populate(cluster: &Cluster) {
    let mut tokens = cluster.tokens.lock().expect("no panic");
    let people = [("alice", vec!["team-a"]), ("bob", vec!["team-b"]), ("tom", vec!["team-a"]), ("eve", vec![])];
    for (user, groups) in people {
        let token = user;
        tokens.insert(token.into(), json!({"user": {"username": user, "groups": groups}}));
    }
    let extra = json!({
        "authentication.kubernetes.io/pod-name": ["run-1-import-x"],
        "authentication.kubernetes.io/pod-uid": ["pod-uid"],
    });
    let user = json!({"username": "system:serviceaccount:studio:default", "extra": extra});
    tokens.insert("pod".into(), json!({"audience": "asynctask-agent", "user": user}));
    drop(tokens);
    for rule in [
        "list asynctasks",
        "get asynctasks",
        "create asynctasks",
        "get asynctasks/outputs",
        "create asynctasks/uploads",
        "create asynctasks/cancel",
        "create asynctasks/retry",
        "get asynctasks/history",
    ] {
        cluster.grant("alice", rule);
    }
    cluster
        .set("/api/v1/namespaces/studio", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}}));
    cluster.set(
        POD,
        object("v1", "Pod", "run-1-import-x", "pod-uid", Some(("batch/v1", "Job", "run-1-import", "job-uid"))),
    );
    let owner = ("asynctask.dev/v1alpha1", "AsyncTask", "run-1", "task-uid");
    cluster.set(JOB, object("batch/v1", "Job", "run-1-import", "job-uid", Some(owner)));
    cluster.set(&format!("{STORES}/volume"), store());
    cluster.set(TDEF, definition());
    cluster.set(TREV, revision());
    cluster.set(TASK, task());
}

fn object(api_version: &str, kind: &str, name: &str, uid: &str, owner: Option<(&str, &str, &str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .iter()
        .map(|(version, kind, name, uid)| {
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
        })
        .collect();
    let labels =
        json!({"asynctask.dev/task-uid": "task-uid", "asynctask.dev/step": "import", "asynctask.dev/attempt": "1"});
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": NS, "uid": uid, "labels": labels, "ownerReferences": owners},
    })
}

fn store() -> Value {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Probed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore",
        "metadata": {"name": "volume", "uid": "store-uid", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"filesystem": {"folder": "outputs"}, "default": true},
        "status": {"observedGeneration": 1, "conditions": [ready]},
    })
}

fn content() -> Value {
    let containers = json!([{"name": "task", "image": "example/import", "command": ["import"]}]);
    json!({
        "title": "Import course",
        "parameters": {"type": "object", "required": ["course"], "properties": {"course": {"type": "string"}}},
        "inputs": [{"name": "archive", "mediaTypes": ["application/gzip"], "maxSize": "1Ki"}],
        "steps": [
            {"name": "fetch", "template": {"spec": {"containers": containers}}},
            {
                "name": "import", "stages": ["Unpacking", "Updating", "Indexing"],
                "inputs": [{"name": "pages", "output": "pages"}], "template": {"spec": {"containers": containers}},
            },
        ],
        "outputs": [
            {"name": "pages", "step": "fetch", "path": "pages"},
            {"name": "report", "step": "import", "title": "Import report", "path": "report.json"},
        ],
        "cancellation": {"allowed": "UntilStage", "stage": "Updating", "effect": "The course is unchanged."},
        "priorityClasses": ["batch-low"],
    })
}

fn definition() -> Value {
    json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "TaskDefinition",
        "metadata": {"name": "course-import", "namespace": NS, "uid": "def-uid"}, "spec": content(),
        "status": {"revision": {"name": "course-import-1", "uid": "rev-uid", "number": 1}},
    })
}

fn revision() -> Value {
    json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "TaskRevision",
        "metadata": {"name": "course-import-1", "namespace": NS, "uid": "rev-uid"},
        "spec": {"definition": "course-import", "number": 1, "hash": "0".repeat(64), "content": content()},
    })
}

fn task() -> Value {
    json!({
        "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
        "metadata": {"name": "run-1", "namespace": NS, "uid": "task-uid", "resourceVersion": "7"},
        "spec": {"definition": {"name": "course-import"}, "owner": "alice", "parameters": {"course": "c"}},
        "status": {
            "state": "InProgress", "revision": {"name": "course-import-1", "uid": "rev-uid", "number": 1},
            "store": {"name": "volume", "uid": "store-uid"}, "steps": [{"name": "import", "state": "Running", "attempt": 1}],
        },
    })
}
