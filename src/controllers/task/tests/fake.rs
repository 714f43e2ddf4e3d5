//! An API server in memory: versions, preconditions and finalizers as the real one keeps them, and faults on demand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

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
    writes: Vec<String>,
    fault: Option<(usize, Fault)>,
}

/// The API server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

type Answer = (StatusCode, Value);

impl Server {
    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a body");
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let query = head.uri.query().unwrap_or_default().to_owned();
                let (status, answer) = server.answer(&head.method, head.uri.path(), &query, &body);
                let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(response.expect("a response"))
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
        let listed = ["/jobs", "/pods", "/outputstores"].iter().any(|kind| path.ends_with(kind));
        if !listed {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let wanted = query.split("task-uid%3D").nth(1).and_then(|rest| rest.split(['&', '%']).next());
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{path}/")))
            .map(|(_, object)| object)
            .filter(|object| wanted.is_none_or(|uid| object["metadata"]["labels"]["asynctask.dev/task-uid"] == uid))
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

    /// A merge patch of metadata, or an apply of the whole status.
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

fn failure(status: StatusCode, reason: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": status.as_u16(),
    });
    (status, body)
}
