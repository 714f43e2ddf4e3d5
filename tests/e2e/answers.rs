//! What people are told: by which step, by whom, from which image.

use serde_json::{Value, json};

use crate::outputs::download;
use crate::support::{Namespace, cli, get, script, steps, task, until};

#[test]
fn the_logs_of_all_steps_are_shown_the_failed_one_first() {
    let ns = Namespace::new("logs");
    let all = [
        ("read", "echo reading; echo read", ""),
        ("count", "echo Traceback; exit 3", ""),
        ("clean", "echo cleaning", "when: {step: count, outcome: [Failed]}"),
    ];
    ns.define("three", &steps("three", "  retention: {pods: 1s}", &all));
    ns.apply(&task("t", "three")).ok();
    assert_eq!(ns.finished("t")["state"], "Failed");
    let expected = "count │ Traceback\nread  │ reading\nread  │ read\nclean │ cleaning\n";
    let logs = || cli(&["-n", &ns.name, "logs", "t"]).ok();
    assert_eq!(logs(), expected);
    until("the pods are gone", || {
        let pods = get(&["-n", &ns.name, "pods"]);
        pods["items"].as_array()?.is_empty().then_some(())
    });
    assert_eq!(logs(), expected, "from the store");
    assert_eq!(cli(&["-n", &ns.name, "logs", "t", "--step", "count"]).ok(), "Traceback\n");
    let why = cli(&["-n", &ns.name, "why", "t"]).ok();
    assert!(why.contains("`kubectl asynctask logs t --step count` shows what it wrote"), "{why}");

    let folder = std::env::temp_dir().join(format!("logs-{}", ns.name));
    cli(&["-n", &ns.name, "outputs", "get", "t", "log", "-o", &format!("{}/", folder.display())]).ok();
    let mut found: Vec<String> = std::fs::read_dir(folder.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["clean.txt", "count.txt", "read.txt"]);
    assert_eq!(std::fs::read_to_string(folder.join("log/count.txt")).unwrap(), "Traceback\n");
}

#[test]
fn who_asked_for_the_end_or_the_stop_of_a_run_is_said() {
    let ns = Namespace::new("actors");
    ns.define("sleeps", &script("sleeps", "trap 'exit 0' TERM; sleep 600 & wait", ""));
    let (ada, tom) = (ns.person("ada", Some("edit")), ns.person("tom", Some("edit")));
    let user = |who: &str| format!("system:serviceaccount:{}:{who}", ns.name);
    for name in ["by-kubectl", "by-gateway", "held"] {
        ada.kubectl(&["apply", "-f", "-"], Some(&task(name, "sleeps"))).ok();
    }
    ns.wait("jsonpath={.status.state}=InProgress", "asynctask/held", 120);
    tom.kubectl(&["patch", "asynctask", "by-kubectl", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#], None).ok();
    let path = format!("/api/v1/namespaces/{}/tasks/by-gateway/cancel", ns.name);
    assert_eq!(tom.http("POST", &path, &[]).status, 200);
    for name in ["by-kubectl", "by-gateway"] {
        let status = ns.finished(name);
        assert_eq!((&status["state"], &status["reason"]), (&"Canceled".into(), &"CanceledByUser".into()), "{status:#}");
        assert!(
            status["message"].as_str().unwrap().contains(&format!("{} asked for the end", user("tom"))),
            "{status:#}"
        );
    }
    tom.cli(&["-n", &ns.name, "suspend", "held"]).ok();
    ns.wait("jsonpath={.status.reason}=Suspended", "asynctask/held", 120);
    let why = ada.cli(&["-n", &ns.name, "why", "held"]).ok();
    assert!(why.contains(&format!("{} suspended it", user("tom"))), "{why}");
    ada.cli(&["-n", &ns.name, "keep", "held", "--until", "2027-06-30"]).ok();
    assert_eq!(ns.get("asynctask", "held")["metadata"]["annotations"]["asynctask.dev/kept-by"], user("ada"));
    // Nobody says it was another.
    let forged = tom.kubectl(
        &["annotate", "asynctask", "held", "--overwrite", &format!("asynctask.dev/canceled-by={}", user("ada"))],
        None,
    );
    assert!(forged.refused().contains("metadata.annotations"));
    let claimed = format!("asynctask.dev/suspended-by={}", user("ada"));
    let claimed = ada.kubectl(&["annotate", "asynctask", "held", "--overwrite", &claimed], None);
    assert!(claimed.refused().contains("metadata.annotations"), "whoever changes nothing else is not written down");
    ns.kubectl(&["delete", "asynctask", "held", "--wait=false"]).ok();
}

#[test]
fn an_image_that_is_named_by_a_tag_is_said_and_what_ran_is_known() {
    let ns = Namespace::new("images");
    let definition = script("tagged", "sleep 2", "");
    let applied = ns.apply(&definition);
    assert!(applied.err.contains("an image is named by a tag"), "{}", applied.err);
    applied.ok();
    ns.wait("condition=Ready", "taskdefinition/tagged", 60);
    let file = std::env::temp_dir().join("tagged.yaml");
    std::fs::write(&file, &definition).unwrap();
    for said in [cli(&["lint", file.to_str().unwrap()]).ok(), cli(&["-n", &ns.name, "definitions", "tagged"]).ok()] {
        assert!(said.contains("named by a tag, so what runs can change without a new revision"), "{said}");
    }
    ns.apply(&task("t", "tagged")).ok();
    let status = ns.finished("t");
    assert!(status["steps"][0]["image"].as_str().is_some_and(|image| image.contains("sha256:")), "{status:#}");
    let history: Value = serde_json::from_str(&cli(&["-n", &ns.name, "history", "t", "-o", "json"]).ok()).unwrap();
    assert!(history.to_string().contains(status["steps"][0]["image"].as_str().unwrap()), "{history:#}");
}

#[test]
fn what_cannot_be_is_refused_before_a_run_is_made() {
    let ns = Namespace::new("before");
    let more = "  parameters: {type: object, required: [course], properties: {course: {type: string}}}\n  inputs: [{name: file}]";
    ns.define("takes", &script("takes", "true", more));
    let ada = ns.person("ada", Some("edit"));
    ns.apply(&task("wrong", "takes")).ok();
    assert_eq!(ns.finished("wrong")["reason"], "InvalidParameters");
    let why = cli(&["-n", &ns.name, "why", "wrong"]).ok();
    assert!(
        why.contains("`kubectl asynctask definitions takes` shows what it takes") && !why.contains("logs"),
        "{why}"
    );
    let again = cli(&["-n", &ns.name, "rerun", "wrong"]);
    assert_eq!(again.code, 2, "{}", again.err);
    assert!(again.err.contains("the parameters do not fit the definition"), "{}", again.err);

    // An upload that was begun and never finished.
    let tasks = format!("/api/v1/namespaces/{}", ns.name);
    let send = |path: &str, body: &Value, more: &[&str]| {
        let body = body.to_string();
        let all = [&["-H", "content-type: application/json", "-d", &body][..], more].concat();
        ada.http("POST", &format!("{tasks}/{path}"), &all)
    };
    let upload = json!({"definition": "takes", "input": "file", "size": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"});
    let begun = send("uploads", &upload, &[]).json();
    let asked =
        json!({"definition": "takes", "parameters": {"course": "c"}, "inputs": {"file": {"upload": begun["id"]}}});
    let key = ["-H", "idempotency-key: one"];
    let refused = send("tasks", &asked, &key);
    assert_eq!((refused.status, &refused.json()["title"]), (422, &json!("InputMissing")), "{refused:?}");
    let sent = begun["plan"]["request"].clone();
    let headers: Vec<String> = sent["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()))
        .collect();
    let headers: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
    let put =
        || ada.http("PUT", sent["url"].as_str().unwrap(), &[&headers[..], &["--data-binary", "abc"]].concat()).status;
    assert_eq!((put(), put()), (204, 412), "a second time it is told, and the connection stays");
    assert_eq!(send(&format!("uploads/{}/complete", begun["id"].as_str().unwrap()), &json!({}), &[]).status, 204);
    assert_eq!(send("tasks", &asked, &key).status, 201, "the key was not used up");
    assert_eq!(ada.http("GET", &download(&ns, "none", "log"), &[]).status, 404);
}

#[test]
fn the_newest_runs_come_first_page_by_page() {
    let ns = Namespace::new("newest");
    ns.define("works", &script("works", "true", ""));
    let ada = ns.person("ada", Some("edit"));
    for name in ["e", "d", "c", "b", "a"] {
        ns.apply(&task(name, "works").replace("spec: {", "spec: {suspend: true, ")).ok();
    }
    let all = get(&["-n", &ns.name, "asynctasks"]);
    let place =
        |task: &Value| (task["metadata"]["creationTimestamp"].to_string(), task["metadata"]["name"].to_string());
    let mut expected: Vec<_> = all["items"].as_array().unwrap().iter().map(place).collect();
    expected.sort();
    expected.reverse();
    let (mut told, mut next) = (Vec::new(), String::new());
    for _ in 0..3 {
        let page = ada.http("GET", &format!("/api/v1/namespaces/{}/tasks?order=newest&limit=2{next}", ns.name), &[]);
        assert_eq!(page.status, 200, "{}", page.body);
        let page = page.json();
        told.extend(page["items"].as_array().unwrap().iter().map(place));
        next = page["continue"].as_str().map(|next| format!("&continue={next}")).unwrap_or_default();
    }
    assert_eq!((told, next), (expected, String::new()));
    let wrong = ada.http("GET", &format!("/api/v1/namespaces/{}/tasks?order=newest&continue=x", ns.name), &[]);
    assert_eq!(wrong.status, 400, "{}", wrong.body);
}
