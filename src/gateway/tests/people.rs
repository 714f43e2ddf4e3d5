//! What people do: create, upload, look, download.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::fake::{Answer, TASK, TASKS, World};
use asynctask_storage::records::{Manifest, ManifestFile, VERSION};
use asynctask_storage::{Digest, PutMode};

const NEW: &str = "/api/v1/namespaces/studio/tasks";
const UPLOADS: &str = "/api/v1/namespaces/studio/uploads";

async fn create(world: &World, key: &str, body: Value) -> Answer {
    let request = Request::post(NEW)
        .header("authorization", "Bearer alice")
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    world.send(request.body(Body::from(body.to_string())).expect("a request")).await
}

fn run(course: &str) -> Value {
    json!({"definition": "course-import", "parameters": {"course": course}})
}

#[tokio::test]
async fn the_same_key_makes_one_task_owned_by_who_asked() {
    let world = World::new();
    let first = create(&world, "k", run("c")).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let task = first.json();
    let name = task["metadata"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(task["spec"]["owner"], "alice");
    assert_eq!(first.header("location"), format!("{NEW}/{name}"));
    let again = create(&world, "k", run("c")).await;
    assert_eq!((again.status, again.json()["metadata"]["name"].clone()), (StatusCode::OK, json!(name)));
    let other = create(&world, "k", run("another")).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "the key was used for another run");
    let made = world.cluster.objects.lock().expect("no panic").keys().filter(|key| key.starts_with(TASKS)).count();
    assert_eq!(made, 2, "run-1 and this one");
}

#[tokio::test]
async fn a_run_may_continue_another_one_and_read_what_it_gave() {
    let world = World::new();
    let mut asked = run("c");
    asked["retryOf"] = json!("run-1");
    asked["inputs"] = json!({"archive": {"output": {"task": "run-1", "name": "report"}}});
    let made = create(&world, "k", asked.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let spec = made.json()["spec"].clone();
    assert_eq!(spec["retryOf"], json!({"name": "run-1"}));
    assert_eq!(spec["inputs"], asked["inputs"]);
    asked["inputs"] = json!({"archive": {"output": {"task": "run-1"}}});
    assert_eq!(create(&world, "l", asked).await.status, StatusCode::BAD_REQUEST, "which output?");
}

#[tokio::test]
async fn what_the_definition_does_not_take_is_told_in_full_and_nothing_is_left() {
    let world = World::new();
    let wrong = create(&world, "k", json!({"definition": "course-import", "inputs": {"x": {"upload": "u"}}})).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong.json()["violations"].as_array().map(Vec::len), Some(2), "{}", wrong.text());
    let unknown = create(&world, "k", json!({"definition": "no-such"})).await;
    assert_eq!(unknown.json()["title"], "UnknownDefinition");
    let unread = create(&world, "k", json!({"definition": "course-import", "owner": "bob"})).await;
    assert_eq!(unread.status, StatusCode::BAD_REQUEST, "an owner cannot be chosen");
    let team =
        create(&world, "k", json!({"definition": "course-import", "parameters": {"course": "c"}, "team": "team-b"}))
            .await;
    assert_eq!(team.status, StatusCode::FORBIDDEN);
    let calls = world.cluster.calls.lock().expect("no panic");
    assert!(!calls.iter().any(|call| call.starts_with("POST")), "{calls:?}");
}

#[tokio::test]
async fn tasks_are_listed_as_the_objects_they_are() {
    let world = World::new();
    world.cluster.edit(TASK, |task| {
        task["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply"}]);
        task["status"]["state"] = json!("AStateOfTomorrow");
    });
    let listed = world.call("alice", "GET", NEW, None).await.json();
    assert_eq!(listed["items"][0]["kind"], "AsyncTask");
    assert_eq!(listed["items"][0]["status"]["state"], "AStateOfTomorrow", "what we cannot read is still shown");
    assert_eq!(listed["items"][0]["metadata"]["managedFields"], Value::Null);
    let read = world.call("alice", "GET", &format!("{NEW}/run-1"), None).await.json();
    assert_eq!(read["status"]["state"], "AStateOfTomorrow");
    for bad in ["?limit=0", "?limit=x", "?state=Nope", "?colour=red"] {
        assert_eq!(
            world.call("alice", "GET", &format!("{NEW}{bad}"), None).await.status,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

async fn begin(world: &World, content: &[u8]) -> Value {
    let asked = json!({
        "definition": "course-import", "input": "archive", "size": content.len(),
        "sha256": Digest::of(content).to_string(), "mediaType": "application/gzip",
    });
    let begun = world.call("alice", "POST", UPLOADS, Some(asked)).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text());
    begun.json()
}

async fn send(world: &World, begun: &Value, bytes: &'static [u8]) -> Answer {
    let request = &begun["plan"]["request"];
    let put = Request::put(request["url"].as_str().expect("a path")).header("authorization", "Bearer alice");
    world.send(put.body(Body::from(bytes)).expect("a request")).await
}

#[tokio::test]
async fn an_upload_becomes_an_input_of_its_uploaders_run_only() {
    let world = World::new();
    let begun = begin(&world, b"archive").await;
    let id = begun["id"].as_str().expect("an id").to_owned();
    let complete = format!("{UPLOADS}/{id}/complete");
    let early = world.call("alice", "POST", &complete, Some(json!({}))).await;
    assert_eq!(early.json()["title"], "NotStored");
    assert_eq!(send(&world, &begun, b"tampered").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(send(&world, &begun, b"archive").await.status, StatusCode::NO_CONTENT);
    assert_eq!(send(&world, &begun, b"archive").await.status, StatusCode::PRECONDITION_FAILED);

    let assigned = |owner: &'static str, id: String| {
        world.cluster.edit(TASK, |task| {
            task["spec"]["owner"] = json!(owner);
            task["spec"]["inputs"] = json!({"archive": {"upload": id}});
        });
        world.call("pod", "GET", "/agent/v1/assignment", None)
    };
    assert_eq!(assigned("alice", id.clone()).await.json()["title"], "InputMissing", "it is not complete");
    for _ in 0..2 {
        assert_eq!(world.call("alice", "POST", &complete, Some(json!({}))).await.status, StatusCode::NO_CONTENT);
    }
    let work = assigned("alice", id.clone()).await.json();
    assert_eq!(work["inputs"][0]["source"]["url"], "/agent/v1/inputs/archive/content");
    let input = world.call("pod", "GET", "/agent/v1/inputs/archive/content", None).await;
    assert_eq!((input.status, input.text()), (StatusCode::OK, "archive".to_owned()));
    let foreign = assigned("bob", id).await.text();
    let unknown = assigned("bob", "00000000-0000-4000-8000-000000000000".into()).await.text();
    let without_id = |text: String| text.split("complete upload").next().unwrap_or_default().to_owned();
    assert_eq!(without_id(foreign), without_id(unknown));
}

#[tokio::test]
async fn a_file_its_input_does_not_take_is_refused_before_it_is_sent() {
    let world = World::new();
    let asked = |key: &str, value: Value| {
        let sha256 = Digest::of(b"").to_string();
        let mut body = json!({"definition": "course-import", "input": "archive", "size": 1, "sha256": sha256, "mediaType": "application/gzip"});
        body[key] = value;
        body
    };
    for (wrong, word) in [
        (asked("size", json!(1025)), "InputTooLarge"),
        (asked("mediaType", json!("text/html")), "MediaTypeNotAccepted"),
        (asked("input", json!("other")), "UnknownInput"),
        (asked("definition", json!("other")), "UnknownDefinition"),
        (asked("sha256", json!("x")), "InvalidDigest"),
    ] {
        let answer = world.call("alice", "POST", UPLOADS, Some(wrong)).await;
        assert_eq!((answer.status, answer.json()["title"].clone()), (StatusCode::UNPROCESSABLE_ENTITY, json!(word)));
    }
    assert!(world.stored().is_empty());
}

/// Seals a result of two files, as the operator does.
pub(super) async fn seal(world: &World) {
    let open = world.gateway.stores.by_name("volume").await.expect("open");
    let step = open.layout.task("studio", "task-uid").and_then(|task| task.step("import")).expect("valid");
    let attempt = step.attempt(0, "pod-uid").expect("valid");
    let mut files = Vec::new();
    for (output, path, content) in [("report", "Übung \"1\".html", &b"0123456789"[..]), ("log", "log", b"said")] {
        let key = attempt.file(output, 0).expect("valid");
        open.store.put(&key, bytes::Bytes::from_static(content), PutMode::Create).await.expect("stored");
        files.push(ManifestFile {
            output: output.into(),
            seq: 0,
            path: path.into(),
            size: content.len() as u64,
            sha256: Digest::of(content),
            media_type: Some("text/html".into()),
            key,
        });
    }
    let mut manifest = Manifest {
        version: VERSION,
        task_uid: "task-uid".into(),
        step: "import".into(),
        pod_uid: "pod-uid".into(),
        files,
        pages: Vec::new(),
    };
    let (bytes, digest) = manifest.seal();
    open.store.put(&step.manifest(digest), bytes, PutMode::Create).await.expect("stored");
    world.cluster.edit(TASK, |task| task["status"]["steps"][0]["manifest"] = json!(digest.to_string()));
}

#[tokio::test]
async fn outputs_are_listed_once_they_are_sealed() {
    let world = World::new();
    let outputs = format!("{NEW}/run-1/outputs");
    assert_eq!(world.call("alice", "GET", &outputs, None).await.json(), json!({"outputs": []}));
    seal(&world).await;
    let listed = world.call("alice", "GET", &outputs, None).await.json();
    assert_eq!(listed["outputs"][0]["title"], "Import report");
    assert_eq!(listed["outputs"][0]["files"][0]["sha256"], Digest::of(b"0123456789").to_string());
    assert_eq!(listed["outputs"][1]["name"], "log");
}

#[tokio::test]
async fn a_download_is_an_attachment_of_opaque_bytes_and_can_be_resumed() {
    let world = World::new();
    seal(&world).await;
    let path = format!("{NEW}/run-1/outputs/report/files/0/download");
    let whole = world.call("alice", "GET", &path, None).await;
    assert_eq!((whole.status, whole.text()), (StatusCode::OK, "0123456789".to_owned()));
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert!(whole.header("content-disposition").starts_with("attachment; filename=\""));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("content-length", "10"),
    ] {
        assert_eq!(whole.header(name), value);
    }
    let part = |range: &str| {
        Request::get(&path)
            .header("authorization", "Bearer alice")
            .header("range", range)
            .body(Body::empty())
            .expect("a request")
    };
    let rest = world.send(part("bytes=7-")).await;
    assert_eq!(
        (rest.status, rest.text(), rest.header("content-range")),
        (StatusCode::PARTIAL_CONTENT, "789".into(), "bytes 7-9/10")
    );
    let behind = world.send(part("bytes=10-")).await;
    assert_eq!((behind.status, behind.header("content-range")), (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10"));
    let beyond = world.call("alice", "GET", &path.replace("files/0", "files/1"), None).await;
    assert_eq!(beyond.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_program_gets_a_ticket_and_a_browser_is_led() {
    let world = World::new();
    seal(&world).await;
    let path = format!("{NEW}/run-1/outputs/report/files/0/download");
    let ask = |accept: &str| {
        Request::post(&path)
            .header("authorization", "Bearer alice")
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request")
    };
    let ticket = world.send(ask("application/json")).await;
    assert_eq!(ticket.header("cache-control"), "no-store");
    let ticket = ticket.json();
    assert_eq!(ticket["request"], json!({"method": "GET", "url": path}));
    assert_eq!(ticket["expiresIn"], Value::Null, "this path authorises each time");
    assert_eq!(ticket["file"]["size"], 10);
    let led = world.send(ask("text/html,*/*")).await;
    assert_eq!((led.status, led.header("location")), (StatusCode::SEE_OTHER, path.as_str()));
}

#[tokio::test]
async fn the_document_is_free_and_names_every_route() {
    let world = World::new();
    let served = world.send(Request::get("/openapi.json").body(Body::empty()).expect("a request")).await.json();
    assert_eq!(served["paths"].as_object().map(serde_json::Map::len), Some(18));
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    let printed: Value = serde_json::from_str(&crate::openapi()).expect("JSON");
    assert_eq!(served, printed);
    // Whoever makes a client of it finds what it refers to.
    let text = served.to_string();
    let references: Vec<&str> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        assert!(served.pointer(reference).is_some(), "{reference} is nowhere");
    }
}
