//! An API server in memory: versions, preconditions and finalizers as the real one keeps them, and faults on demand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::context::{AgentSettings, Context, Reconciles, SetAside};
use asynctask_api::quarantine::{Without, screened};
use asynctask_plan::agent::{GatewayAccess, Injection};
use asynctask_plan::queue::Limits;
use asynctask_runtime::metrics::Metrics;
use asynctask_runtime::stores::Stores;

/// When a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It never arrived.
    Lost,
    /// It was done, but the answer was lost.
    Unanswered,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    reads: usize,
    writes: Vec<String>,
    fault: Option<(usize, Fault)>,
}

/// The API server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

type Answer = (StatusCode, Value);

impl Server {
    /// As the operator's client sees it.
    pub(super) fn client(&self) -> Client {
        self.client_without(Without::Parameters)
    }

    pub(super) fn client_without(&self, without: Without) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a body");
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let query = head.uri.query().unwrap_or_default().to_owned();
                let (status, answer) = server.answer(&head.method, head.uri.path(), &query, &body);
                let response = Response::builder().status(status).header("content-type", "application/json");
                let response = response.body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(screened(response.expect("a response"), without))
            }
        });
        Client::new(service, "asynctask-system")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Puts an object there as somebody else would.
    pub(super) fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    pub(super) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let mut object = state.objects.get(path).cloned().expect("it is there");
        change(&mut object);
        state.store(path, object);
    }

    pub(super) fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Writes so far, Events apart: `POST …/jobs`.
    pub(super) fn writes(&self) -> Vec<String> {
        self.state().writes.iter().filter(|write| !write.contains("/events")).cloned().collect()
    }

    /// Reads so far.
    pub(super) fn reads(&self) -> usize {
        self.state().reads
    }

    pub(super) fn events(&self) -> usize {
        self.state().writes.iter().filter(|write| write.contains("/events")).count()
    }

    /// Lets the write of this number (from 0, Events apart) fail once.
    pub(super) fn fail(&self, number: usize, fault: Fault) {
        self.state().fault = Some((number, fault));
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &Value) -> Answer {
        let mut state = self.state();
        if method == Method::GET {
            state.reads += 1;
            return state.read(path, query);
        }
        let number = state.writes.iter().filter(|write| !write.contains("/events")).count();
        state.writes.push(format!("{method} {path}"));
        let hit = state.fault.filter(|(at, _)| *at == number && !path.contains("/events"));
        if let Some((_, Fault::Lost)) = hit {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let answer = state.write(method, path, body);
        if hit.is_some() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        answer
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn read(&self, path: &str, query: &str) -> Answer {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let listed = ["/jobs", "/pods", "/outputstores", "/asynctasks", "/taskrevisions"]
            .iter()
            .any(|kind| path.ends_with(kind));
        if !listed {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let wanted = query.split("task-uid%3D").nth(1).and_then(|rest| rest.split(['&', '%']).next());
        let fields = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=")).unwrap_or_default();
        let fields = percent_decode_str(fields).decode_utf8_lossy();
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{path}/")))
            .map(|(_, object)| object)
            .filter(|object| wanted.is_none_or(|uid| object["metadata"]["labels"]["asynctask.dev/task-uid"] == uid))
            .filter(|object| has_fields(object, &fields))
            .collect();
        (StatusCode::OK, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn write(&mut self, method: &Method, path: &str, body: &Value) -> Answer {
        match *method {
            Method::POST => self.create(path, body),
            Method::PATCH => self.patch(path, body),
            Method::DELETE => self.delete(path, body),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn create(&mut self, path: &str, body: &Value) -> Answer {
        let key = format!("{path}/{}", body["metadata"]["name"].as_str().expect("a name"));
        if self.objects.contains_key(&key) {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        let mut object = body.clone();
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version + 1));
        object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
        (StatusCode::CREATED, self.store(&key, object))
    }

    /// A merge patch of metadata and `spec.cancel`, or an apply of the whole status.
    fn patch(&mut self, path: &str, body: &Value) -> Answer {
        let key = path.strip_suffix("/status").unwrap_or(path);
        let Some(mut object) = self.objects.get(key).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        for field in ["resourceVersion", "uid"] {
            let wanted = &body["metadata"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return failure(StatusCode::CONFLICT, "Conflict");
            }
        }
        if path.ends_with("/status") {
            object["status"] = body["status"].clone();
        }
        if let Some(finalizers) = body["metadata"].get("finalizers") {
            object["metadata"]["finalizers"] = finalizers.clone();
        }
        for (name, value) in body["metadata"]["annotations"].as_object().into_iter().flatten() {
            object["metadata"]["annotations"][name] = value.clone();
        }
        if let Some(cancel) = body["spec"].get("cancel") {
            object["spec"]["cancel"] = cancel.clone();
        }
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
        if !held && object["metadata"].get("deletionTimestamp").is_some() {
            self.objects.remove(key);
            return (StatusCode::OK, object);
        }
        (StatusCode::OK, self.store(key, object))
    }

    /// Pods of a Job go with it, as the garbage collector does it.
    fn delete(&mut self, path: &str, body: &Value) -> Answer {
        let Some(object) = self.objects.get(path).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        if body["preconditions"]["uid"] != object["metadata"]["uid"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        self.objects.remove(path);
        (StatusCode::OK, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }
}

/// Whether an object fits a field selector: `a.b=x,c!=y`.
fn has_fields(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, value) = term.split_once('=').expect("a term");
        let (path, unlike) = path.strip_suffix('!').map_or((path, false), |path| (path, true));
        let found = object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str);
        (found.unwrap_or_default() == value) != unlike
    })
}

/// Kept beside a context: without them its controller would wait for what never comes.
pub(super) type Senders = (watch::Sender<Option<Injection>>, watch::Sender<Option<GatewayAccess>>);

/// What a controller is handed: this API server, and the stores of this folder.
pub(super) fn context(server: &Server, volume: &Path) -> (Arc<Context>, Senders) {
    let (injection_sender, injection) = watch::channel(Some(Injection::ImageVolume));
    let access = GatewayAccess { url: "https://gateway".into(), ca_pem: "PEM".into() };
    let (access_sender, gateway) = watch::channel(Some(access));
    let (client, metrics) = (server.client(), Metrics::new("operator"));
    let reporter = Reporter { controller: "asynctask-operator".into(), instance: Some("test".into()) };
    let context = Arc::new(Context {
        stores: Stores::new(client.clone(), "asynctask-system", Some(volume.to_owned())),
        namespace: "asynctask-system".into(),
        limits: Limits::default(),
        reconciles: Reconciles::new(&metrics),
        set_aside: SetAside::new(&metrics),
        agent: AgentSettings { image: "agent:1".into(), pull_secrets: Vec::new(), injection },
        require_digest: false,
        gateway,
        events: Recorder::new(client.clone(), reporter),
        watches: client.clone(),
        whole: server.client_without(Without::Nothing),
        client,
        stopping: CancellationToken::new(),
        metrics,
    });
    (context, (injection_sender, access_sender))
}

fn failure(status: StatusCode, reason: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": status.as_u16(),
    });
    (status, body)
}
