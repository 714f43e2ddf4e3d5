//! Who gets nothing, and learns nothing by it.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;

use super::fake::{TASK, World};
use crate::{agents, people};

/// Method and path of every route, with names put in.
pub(super) fn routes(which: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    if which != "people" {
        found.extend(agents::routes().into_iter().map(|(method, path, _)| (method.to_owned(), path)));
    }
    if which != "agents" {
        let document = serde_json::to_value(people::api().1).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            let methods = item.as_object().expect("operations").keys();
            found.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
        }
    }
    let id = "00000000-0000-4000-8000-000000000000";
    let put_in = |path: &str| {
        let path = path.replace("{namespace}", "studio").replace("{id}", id).replace("{number}", "0");
        path.replace("{name}", "run-1").replace("{output}", "report").replace("{seq}", "0")
    };
    found.iter().map(|(method, path)| (method.clone(), put_in(path))).collect()
}

#[tokio::test]
async fn every_route_refuses_whoever_has_no_credentials() {
    let world = World::new();
    let routes = routes("all");
    assert!(routes.len() >= 20, "{routes:?}");
    for (method, path) in routes {
        for credential in [None, Some("Bearer nothing"), Some("Bearer "), Some("Basic YTpi"), Some("alice")] {
            let mut request = Request::builder().method(method.as_str()).uri(&path);
            if let Some(credential) = credential {
                request = request.header("authorization", credential);
            }
            let answer = world.send(request.body(Body::empty()).expect("a request")).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} with {credential:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"asynctask\"");
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
}

#[tokio::test]
async fn a_pods_token_is_no_persons_and_a_persons_no_pods() {
    let world = World::new();
    for (method, path) in routes("people") {
        assert_eq!(world.call("pod", &method, &path, None).await.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    for (method, path) in routes("agents") {
        assert_eq!(world.call("alice", &method, &path, None).await.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

#[tokio::test]
async fn nothing_tells_a_forbidden_task_from_an_unknown_one() {
    let world = World::new();
    let of_a_task = routes("people").into_iter().filter(|(_, path)| path.contains("/tasks/run-1"));
    for (method, path) in of_a_task {
        let forbidden = world.call("bob", &method, &path, None).await;
        let elsewhere = world.call("alice", &method, &path.replace("studio", "lms"), None).await;
        let unknown = world.call("alice", &method, &path.replace("run-1", "run-2"), None).await;
        let crooked = world.call("alice", &method, &path.replace("run-1", "..%2frun-1"), None).await;
        assert_eq!(forbidden.status, StatusCode::NOT_FOUND, "{method} {path}");
        for other in [elsewhere, unknown, crooked] {
            assert_eq!(other.status, forbidden.status, "{method} {path}");
            assert_eq!(other.body, forbidden.body, "{method} {path}");
            assert_eq!(other.headers, forbidden.headers, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn who_may_see_a_task_may_not_therefore_read_its_outputs() {
    let world = World::new();
    world.cluster.grant("bob", "get asynctasks");
    let task = "/api/v1/namespaces/studio/tasks/run-1";
    assert_eq!(world.call("bob", "GET", task, None).await.status, StatusCode::OK);
    assert_eq!(world.call("bob", "GET", &format!("{task}/outputs"), None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_of_somebody_else_is_as_unknown_as_one_that_never_was() {
    let world = World::new();
    world.cluster.grant("bob", "create asynctasks/uploads");
    let sha256 = asynctask_storage::Digest::of(b"x").to_string();
    let asked = json!({"definition": "course-import", "input": "archive", "size": 1, "sha256": sha256, "mediaType": "application/gzip"});
    let begun = world.call("alice", "POST", "/api/v1/namespaces/studio/uploads", Some(asked)).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text());
    let own = format!("/api/v1/namespaces/studio/uploads/{}/complete", begun.json()["id"].as_str().expect("an id"));
    let never = "/api/v1/namespaces/studio/uploads/00000000-0000-4000-8000-000000000000/complete";
    let foreign = world.call("bob", "POST", &own, Some(json!({}))).await;
    let unknown = world.call("bob", "POST", never, Some(json!({}))).await;
    assert_eq!((foreign.status, unknown.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND));
    assert_eq!(foreign.body, unknown.body);
}

#[tokio::test]
async fn without_the_right_nothing_is_listed_created_or_begun() {
    let world = World::new();
    let sha256 = asynctask_storage::Digest::of(b"x").to_string();
    for (method, path, body) in [
        ("GET", "/api/v1/namespaces/studio/tasks", None),
        ("POST", "/api/v1/namespaces/studio/tasks", Some(json!({"definition": "course-import"}))),
        (
            "POST",
            "/api/v1/namespaces/studio/uploads",
            Some(json!({"definition": "no-such", "input": "archive", "size": 1, "sha256": sha256})),
        ),
    ] {
        let answer = world.call("bob", method, path, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
        assert!(answer.text().contains("asynctask"), "says which right is missing: {}", answer.text());
    }
    assert!(world.cluster.calls.lock().expect("no panic").is_empty(), "nothing was read before the right was");
    assert!(world.stored().is_empty());
}

#[tokio::test]
async fn a_body_above_its_limit_is_refused_before_it_is_read() {
    let world = World::new();
    let endless = || Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let request = |who: Option<&str>| {
        let mut request = Request::post("/api/v1/namespaces/studio/tasks")
            .header("content-type", "application/json")
            .header("content-length", 2u64 << 30);
        if let Some(who) = who {
            request = request.header("authorization", format!("Bearer {who}"));
        }
        request.body(endless()).expect("a request")
    };
    assert_eq!(world.send(request(Some("alice"))).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.send(request(None)).await.status, StatusCode::UNAUTHORIZED);
    // Without an announced length it is read up to the limit and no further.
    let long = json!({"definition": "x".repeat(300 << 10)});
    let answer = world.call("alice", "POST", "/api/v1/namespaces/studio/tasks", Some(long)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let parameters = json!({"definition": "course-import", "parameters": {"course": "x".repeat(65 << 10)}});
    let answer = world.call("alice", "POST", "/api/v1/namespaces/studio/tasks", Some(parameters)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text().contains("65536"), "{}", answer.text());
}

#[tokio::test]
async fn another_sites_page_cannot_make_a_browser_act() {
    let world = World::new();
    let from = |site: &str, method: &str| {
        Request::builder()
            .method(method)
            .uri("/api/v1/namespaces/studio/tasks")
            .header("authorization", "Bearer alice")
            .header("content-type", "application/json")
            .header("sec-fetch-site", site)
            .body(Body::from(json!({"definition": "course-import", "parameters": {"course": "c"}}).to_string()))
            .expect("a request")
    };
    for site in ["cross-site", "same-site", "anything"] {
        assert_eq!(world.send(from(site, "POST")).await.status, StatusCode::FORBIDDEN, "{site}");
    }
    assert_eq!(world.send(from("cross-site", "GET")).await.status, StatusCode::OK);
    assert_eq!(world.send(from("same-origin", "POST")).await.status, StatusCode::CREATED);
    // Browsers that do not say where a call comes from still say which page made it.
    for (origin, status) in [
        ("https://evil.example.com", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
        ("https://tasks.example.com:8443", StatusCode::CREATED),
    ] {
        let mut old = from("none", "POST");
        old.headers_mut().remove("sec-fetch-site");
        old.headers_mut().insert("origin", origin.parse().expect("a header value"));
        old.headers_mut().insert("host", "tasks.example.com:8443".parse().expect("a header value"));
        assert_eq!(world.send(old).await.status, status, "{origin}");
    }
    let mut plain = from("none", "POST");
    plain.headers_mut().insert("content-type", "text/plain".parse().expect("a header value"));
    assert_eq!(world.send(plain).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "no form can send it");
}

#[tokio::test]
async fn a_refusal_is_never_remembered() {
    let world = World::new();
    let task = "/api/v1/namespaces/studio/tasks/run-1";
    assert_eq!(world.call("bob", "GET", task, None).await.status, StatusCode::NOT_FOUND);
    world.cluster.grant("bob", "get asynctasks");
    assert_eq!(world.call("bob", "GET", task, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_path_nobody_knows_and_a_method_nobody_takes_say_the_same() {
    let world = World::new();
    for (method, path) in
        [("GET", "/nothing"), ("DELETE", "/api/v1/namespaces/studio/tasks/run-1"), ("GET", "/agent/v1/commit")]
    {
        let answer = world.call("alice", method, path, None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert!(world.cluster.objects.lock().expect("no panic").contains_key(TASK));
}

#[tokio::test]
async fn nobody_asks_more_often_than_all_others_can_bear() {
    for (method, path) in routes("people") {
        let world = World::paced(1);
        for _ in 0..10 {
            let answer = world.call("eve", &method, &path, None).await;
            assert_ne!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
        }
        let answer = world.call("eve", &method, &path, None).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
        assert_eq!((answer.header("retry-after"), answer.header("content-type")), ("1", "application/problem+json"));
        let other = world.call("bob", &method, &path, None).await;
        assert_ne!(other.status, StatusCode::TOO_MANY_REQUESTS, "{method} {path}: bob has asked nothing");
    }
    let world = World::paced(1);
    for _ in 0..30 {
        let answer = world.call("pod", "GET", "/agent/v1/assignment", None).await;
        assert_eq!(answer.status, StatusCode::OK, "agents have a pace of their own");
    }
}
