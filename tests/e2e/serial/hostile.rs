//! One tenant sends whatever the API server takes; another's runs go on, through a restart and all lists made anew.

use http::Request;
use serde_json::{Value, json};

use crate::api::{administrator, within};
use crate::component::restarts;
use crate::support::{Namespace, SYSTEM, Upgraded, get, kubectl, root, script, task, until};

/// Stands where a hostile value goes.
const HERE: &str = "@here@";
/// In values that must be in no log.
const CANARY: &str = "CANARY-hostile-7c1e";

/// What is put into texts.
fn texts() -> Vec<String> {
    let times = [
        "9999-12-31T23:59:59Z",
        "2027-01-31t10:00:00z",
        "2027-02-29T10:00:00Z",
        "2027-01-31T10:00:00+99:00",
        "2027-01-31T10:00:00.123456789123Z",
        "0000-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
    ];
    let odd = ["", " ", "\u{202e}\u{0}x", "../..", "e\u{308}", "-1", "9999999999999h", "8760h", "[[[[{{{{"];
    let texts =
        times.into_iter().chain(odd).map(str::to_owned).chain([65, 300, 70_000].map(|length| "x".repeat(length)));
    texts.map(|text| json!(text).to_string()).collect()
}

/// Brackets in brackets, so many levels deep; `beside`: with others beside them, which no pattern finds.
fn nested(levels: usize, beside: bool) -> String {
    let (open, close) = if beside { ("[[],", "]") } else { ("[", "]") };
    format!("{}\"{CANARY}\"{}", open.repeat(levels), close.repeat(levels))
}

/// What is put where any value may stand.
fn anything() -> Vec<String> {
    let values = [
        r#"{"": null, "a.b/c": {"$ref": "https://example.com/x"}, "__proto__": 1}"#.to_owned(),
        r#"{"numbers": [1e308, -1e308, 1e-320, 9223372036854775807, -9223372036854775808, 0.1e1, -0.0]}"#.to_owned(),
        r#"{"text": "\ud800\udc00\u0000\uffff\u2028"}"#.to_owned(),
        r#"{"lone": "\ud800"}"#.to_owned(),
        format!(r#"{{"deep": {}}}"#, nested(60, false)),
        format!(r#"{{"deep": {}}}"#, nested(130, true)),
        format!(r#"{{"deep": {}}}"#, nested(2000, true)),
        format!(r#"{{"wide": [1{}], "x": "{CANARY}"}}"#, ",1".repeat(60_000)),
        format!(r#"{{"large": "{CANARY}{}"}}"#, "x".repeat(1_300_000)),
        format!("{{{}}}", (0..2000).map(|n| format!("\"{n}\": {{}}")).collect::<Vec<_>>().join(",")),
    ];
    values.to_vec()
}

fn numbers() -> Vec<String> {
    ["-9223372036854775808", "-1", "0", "2147483648", "9007199254740993", "9223372036854775807", "1e300", "0.5"]
        .map(str::to_owned)
        .to_vec()
}

/// Every field of a schema, with what can be put there.
fn fields(schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, Vec<String>)>) {
    let at = |name: &str| path.iter().cloned().chain([name.to_owned()]).collect::<Vec<_>>();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        fields(field, &at(name), found);
    }
    match schema["type"].as_str() {
        Some("array") => {
            fields(&schema["items"], &at("0"), found);
            let many = format!("[{}]", vec!["{}"; 65].join(","));
            found.push((path.to_vec(), vec!["[]".to_owned(), "[null]".to_owned(), many]));
        }
        Some("object") if schema["x-kubernetes-preserve-unknown-fields"] == true => {
            found.push((path.to_vec(), anything()))
        }
        Some("object") => {
            fields(&schema["additionalProperties"], &at("any"), found);
            found.push((path.to_vec(), vec!["{}".to_owned(), "null".to_owned()]));
        }
        Some("string") => found.push((path.to_vec(), texts())),
        Some("integer" | "number") => found.push((path.to_vec(), numbers())),
        Some("boolean") => found.push((path.to_vec(), vec!["true".to_owned(), "false".to_owned()])),
        _ => found.push((path.to_vec(), numbers().into_iter().chain(texts()).collect())),
    }
}

/// An object with one field replaced by what stands for a hostile value.
fn with(base: &Value, path: &[String]) -> String {
    let mut object = base.clone();
    let mut place = &mut object["spec"];
    for name in path {
        if let Ok(index) = name.parse::<usize>() {
            if !place.is_array() {
                *place = json!([{}]);
            }
            place = &mut place[index];
        } else {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[name];
        }
    }
    *place = json!(HERE);
    object.to_string()
}

/// Documents of a kind, each hostile in one field of its spec or in its metadata.
pub(crate) fn documents(kind: &str, file: &str, base: &Value) -> Vec<String> {
    let crd = std::fs::read_to_string(root().join("crds").join(file)).unwrap();
    let crd: Value = serde_yaml_ng::from_str(&crd).unwrap();
    let mut found = Vec::new();
    fields(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], &[], &mut found);
    let mut documents: Vec<String> = found
        .iter()
        .flat_map(|(path, values)| values.iter().map(|value| with(base, path).replace(&format!("\"{HERE}\""), value)))
        .collect();
    let many: serde_json::Map<String, Value> = (0..3000).map(|n| (format!("example.com/l{n}"), json!("x"))).collect();
    for metadata in [
        json!({"labels": many}),
        json!({"annotations": {"example.com/large": format!("{CANARY}{}", "x".repeat(250_000))}}),
        json!({"creationTimestamp": "9999-12-31T23:59:59Z"}),
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "none"}]}),
        json!({"managedFields": [{"manager": CANARY, "operation": "Update", "apiVersion": "asynctask.dev/v1alpha1", "time": "9999-12-31T23:59:59Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]}),
    ] {
        let mut object = base.clone();
        object["metadata"] = metadata;
        documents.push(object.to_string());
    }
    println!("{kind}: {} documents", documents.len());
    documents
}

/// Creates an object as somebody; the status and what the API server says.
pub(crate) fn post_as(user: &str, path: &str, body: String) -> (u16, String) {
    send_as(user, Request::post(path).header("content-type", "application/json"), body)
}

/// Changes an object as somebody, by a JSON patch.
fn patch_as(user: &str, path: &str, body: String) -> (u16, String) {
    send_as(user, Request::patch(path).header("content-type", "application/json-patch+json"), body)
}

fn send_as(user: &str, request: http::request::Builder, body: String) -> (u16, String) {
    let groups = request.header("impersonate-user", user).header("impersonate-group", "system:serviceaccounts");
    let groups = groups.header("impersonate-group", "system:authenticated");
    let request = groups.body(kube::client::Body::from(body.into_bytes())).expect("a path is a URI");
    let (runtime, client) = administrator();
    let client = client.clone();
    within(runtime, async move {
        let (head, body) = client.send(request).await.expect("an answer").into_parts();
        let said = body.collect_bytes().await.expect("its body");
        (head.status.as_u16(), String::from_utf8_lossy(&said).into_owned())
    })
}

/// Sends one document of so many; how many were taken.
fn send(ns: &Namespace, user: &str, plural: &str, documents: &[String], one_of: usize) -> usize {
    let path = format!("/apis/asynctask.dev/v1alpha1/namespaces/{}/{plural}", ns.name);
    let mut taken = 0;
    for (number, document) in documents.iter().enumerate().filter(|(number, _)| number % one_of == 0) {
        let metadata = format!("\"metadata\":{{\"generateName\":\"h{number}-\",");
        let (empty, full) = ("\"metadata\":{}", "\"metadata\":{");
        let document = match document.contains(empty) {
            true => document.replacen(empty, &format!("{}}}", metadata.trim_end_matches(',')), 1),
            false => document.replacen(full, &metadata, 1),
        };
        let (status, said) = post_as(user, &path, document);
        // Refused in words, never by a rule that fails.
        assert!([201, 400, 403, 413, 422].contains(&status), "{number}: {status} {said}");
        assert!(!said.contains("evaluation error") && !said.contains("failed evaluating"), "{number}: {said}");
        taken += usize::from(status == 201);
    }
    println!("{plural}: {taken} taken");
    taken
}

fn count(ns: &Namespace, kind: &str) -> usize {
    kubectl(&["-n", &ns.name, "get", kind, "-o", "name"]).out.lines().count()
}

#[test]
fn whatever_the_api_server_takes_of_one_tenant_stops_no_other_and_can_be_deleted() {
    let (quiet, hostile) = (Namespace::new("quiet"), Namespace::new("hostile"));
    quiet.define("works", &script("works", "echo works", ""));
    hostile.define("works", &script("works", "sleep 300", ""));
    let eve = hostile.person("eve", Some("edit"));
    let user = format!("system:serviceaccount:{}:eve", hostile.name);

    let before = restarts();

    // A Job of hers that no program can read: a time of the year 9999 among its managed fields.
    hostile.apply(&task("j", "works")).ok();
    let job = until("the Job is there", || {
        let jobs = get(&["-n", &hostile.name, "jobs"]);
        Some(jobs["items"][0]["metadata"]["name"].as_str()?.to_owned())
    });
    let patch = json!([{"op": "replace", "path": "/metadata/managedFields/0/time", "value": "9999-12-31T23:59:59Z"},
        {"op": "add", "path": "/metadata/annotations/example.com~1x", "value": "y"}]);
    let (status, said) =
        patch_as(&user, &format!("/apis/batch/v1/namespaces/{}/jobs/{job}", hostile.name), patch.to_string());
    assert_eq!(status, 200, "{said}");

    let base = json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {}, "spec": {"definition": {"name": "none"}}});
    let tasks = documents("AsyncTask", "asynctasks.yaml", &base);
    let mut base: Value = serde_yaml_ng::from_str(&script("works", "echo works", "")).unwrap();
    base["metadata"] = json!({});
    let definitions = documents("TaskDefinition", "taskdefinitions.yaml", &base);
    let mut taken = send(&hostile, &user, "asynctasks", &tasks, 1);
    taken += send(&hostile, &user, "taskdefinitions", &definitions, 7);
    // What the policy keeps out was there before it, or is on a cluster without it.
    let policy = kubectl(&["get", "validatingadmissionpolicybinding", "asynctask-sizes", "-o", "json"]).ok();
    kubectl(&["delete", "validatingadmissionpolicybinding", "asynctask-sizes"]).ok();
    let admits = format!(
        r#"{{"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {{"name": "probe"}}, "spec": {{"definition": {{"name": "none"}}, "parameters": {{"v": {}}}}}}}"#,
        nested(70, false)
    );
    let path = format!("/apis/asynctask.dev/v1alpha1/namespaces/{}/asynctasks", hostile.name);
    until("the policy is gone", || (post_as(&user, &path, admits.clone()).0 == 201).then_some(()));
    let free: Vec<String> = tasks.iter().filter(|document| document.contains("\"parameters\"")).cloned().collect();
    for _ in 0..4 {
        taken += send(&hostile, &user, "asynctasks", &free, 1);
    }
    taken += send(
        &hostile,
        &user,
        "taskdefinitions",
        &definitions.iter().filter(|it| it.len() > 100_000).cloned().collect::<Vec<_>>(),
        1,
    );
    crate::support::kubectl_in(&["apply"], &policy).ok();
    println!("{taken} hostile objects are there");
    assert!(taken > 100, "{taken}");

    quiet.apply(&task("beside", "works")).ok();
    assert_eq!(quiet.finished("beside")["state"], "Complete");
    assert_eq!(restarts(), before, "nobody was killed");
    // Everything is listed anew, by new pods.
    let loud = Upgraded::set("log.filter", "debug");
    quiet.apply(&task("after", "works")).ok();
    assert_eq!(quiet.finished("after")["state"], "Complete");

    for of in ["tasks?limit=500", "outputs"] {
        let listed = eve.http("GET", &format!("/api/v1/namespaces/{}/{of}", hostile.name), &[]);
        assert_eq!(listed.status, 200, "{of}: {listed:?}");
    }
    eve.cli(&["-n", &hostile.name, "list"]).ok();

    for kind in ["asynctasks", "taskdefinitions"] {
        kubectl(&["-n", &hostile.name, "delete", kind, "--all", "--wait=false"]).ok();
    }
    until("all of them are gone", || (count(&hostile, "asynctasks") == 0).then_some(()));
    until("the definitions as well", || (count(&hostile, "taskdefinitions") == 0).then_some(()));
    assert_eq!(restarts(), 0, "nobody was killed");
    for component in ["operator", "gateway"] {
        let log = kubectl(&["-n", SYSTEM, "logs", &format!("deployment/asynctask-{component}"), "--tail=-1"]).ok();
        assert!(log.contains("DEBUG"), "the {component} is loud");
        let told =
            log.lines().find(|line| line.contains(CANARY)).map(|line| line.chars().take(2000).collect::<String>());
        assert_eq!(told, None, "the {component} told what is in an object");
    }
    drop(loud);
    kubectl(&["delete", "namespace", &hostile.name, "--timeout=600s"]).ok();
}
