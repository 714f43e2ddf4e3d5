//! Bad input: each has its sentence, and leaves nothing behind.

use std::process::Command;

use crate::support::{Namespace, cli, root, run, script, steps, task};

/// The task ends as Failed for this reason, its message says these words, and no Job was made.
#[track_caller]
fn refused(ns: &Namespace, name: &str, reason: &str, words: &[&str]) {
    let status = ns.finished(name);
    println!("{name}: {}", status["message"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Failed".into(), &reason.into()), "{status:#}");
    for word in words {
        assert!(status["failure"]["message"].as_str().unwrap().contains(word), "{word}: {status:#}");
    }
    let jobs = ns.kubectl(&["get", "jobs", "-l", &format!("asynctask.dev/task={name}"), "-o", "name"]).ok();
    assert_eq!(jobs, "", "a refused task has a Job");
}

#[test]
fn a_task_of_an_unknown_definition_is_refused_by_name() {
    let ns = Namespace::new("unknown");
    ns.apply(&task("t", "missing")).ok();
    refused(&ns, "t", "DefinitionGone", &["missing"]);
}

#[test]
fn every_violation_of_the_parameters_is_listed() {
    let ns = Namespace::new("params");
    ns.example("hello-report", None);
    ns.apply(&task("t", "hello-report").replace("}}}", "}, parameters: {lines: none, colour: red}}}")).ok();
    refused(&ns, "t", "InvalidParameters", &["name", "lines", "colour"]);
}

#[test]
fn a_missing_and_an_unknown_upload_read_alike() {
    let ns = Namespace::new("input");
    ns.example("course-outline", None);
    ns.apply(&task("none", "course-outline")).ok();
    refused(&ns, "none", "InputMissing", &["archive"]);
    let upload = "}, inputs: {archive: {upload: 11111111-1111-4111-8111-111111111111}}}}";
    ns.apply(&task("unknown", "course-outline").replace("}}}", upload)).ok();
    refused(&ns, "unknown", "InputMissing", &["archive"]);
}

#[test]
fn a_template_the_server_refuses_is_reported_in_the_servers_words() {
    let ns = Namespace::new("template");
    // `restricted` refuses it, which only a dry-run of the Pod shows.
    ns.apply(&script("bad", "true", "").replace("allowPrivilegeEscalation: false", "privileged: true")).ok();
    ns.wait("condition=Ready=False", "taskdefinition/bad", 60);
    let status = ns.get("taskdefinition", "bad")["status"].clone();
    println!("{status:#}");
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!(ready["reason"], "InvalidTemplate");
    assert!(ready["message"].as_str().unwrap().contains("privileged"), "{ready}");
    assert_eq!(ns.kubectl(&["get", "taskrevisions", "-o", "name"]).ok(), "");
}

#[test]
fn an_output_that_was_declared_but_not_written_fails_the_run() {
    let ns = Namespace::new("output");
    ns.define("lazy", &script("lazy", "true", "  outputs: [{name: report, step: work, path: report.txt}]"));
    ns.apply(&task("t", "lazy")).ok();
    let status = ns.finished("t");
    println!("{}", status["failure"]);
    assert_eq!(status["state"], "Failed");
    assert_eq!(status["failure"]["code"], "OutputMissing");
    assert!(status["failure"]["message"].as_str().unwrap().contains("report.txt"));
}

#[test]
fn hostile_archives_fail_with_a_sentence() {
    let ns = Namespace::new("archives");
    ns.example("course-outline", None);
    let dir = std::env::temp_dir().join(&ns.name);
    std::fs::create_dir_all(&dir).unwrap();
    for kind in ["not-gzip", "dotdot", "absolute", "symlink", "bomb"] {
        let file = dir.join(format!("{kind}.tar.gz"));
        let script = root().join("tests/e2e/archives.py");
        run(Command::new("python3").arg(script).arg(kind).arg(&file), None).ok();
        let input = format!("archive={}", file.display());

        let said = cli(&["-n", &ns.name, "run", "course-outline", "--name", kind, "--input", &input, "--wait"]);

        assert_eq!(said.code, 4, "{kind}: {}{}", said.out, said.err);
        let failure = ns.status(kind)["failure"].clone();
        println!("{kind}: {}", failure["message"]);
        assert_eq!((&failure["code"], &failure["exitCode"]), (&"InvalidArchive".into(), &65.into()), "{failure:#}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// The definition is not usable, and the sentence that says so begins with the field.
#[track_caller]
fn no_plan(ns: &Namespace, name: &str, document: &str, field: &str, words: &[&str]) {
    ns.apply(document).ok();
    ns.wait("condition=Ready=False", &format!("taskdefinition/{name}"), 60);
    let status = ns.get("taskdefinition", name)["status"].clone();
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    let message = ready["message"].as_str().unwrap();
    println!("{name}: {message}");
    assert_eq!(ready["reason"], "InvalidPlan", "{ready:#}");
    assert!(message.contains(field) && words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn a_plan_that_cannot_be_is_refused_with_its_field() {
    let ns = Namespace::new("plan");
    let of = |name: &str, more: &str, list: &[(&str, &str, &str)]| steps(name, more, list);
    let circle = [("one", "true", "dependsOn: [two]"), ("two", "true", "dependsOn: [one]")];
    no_plan(&ns, "circle", &of("circle", "", &circle), "steps: ", &["one", "two", "wait for each other"]);
    let when = [("one", "true", ""), ("two", "true", "when: {step: gone, outcome: [Failed]}")];
    no_plan(&ns, "when", &of("when", "", &when), "steps[two].when.step: ", &["\"gone\"", "one"]);
    let guarded = "  cancellation: {allowed: UntilStage, stage: Writing}";
    let reading = [("one", "true", "stages: [Reading]")];
    no_plan(&ns, "stage", &of("stage", guarded, &reading), "cancellation.stage: ", &["\"Writing\"", "Reading"]);
    let twice = [("one", "true", ""), ("one", "true", "")];
    no_plan(&ns, "twice", &of("twice", "", &twice), "steps: ", &["\"one\"", "twice"]);
    assert_eq!(ns.kubectl(&["get", "taskrevisions", "-o", "name"]).ok(), "");
}

#[test]
fn a_fan_out_that_cannot_be_is_refused_with_its_field() {
    let ns = Namespace::new("fan-out");
    let of = |name: &str, said: &str| steps(name, "", &[("plan", "true", ""), ("send", "true", said)]);
    let tolerance = of("tolerance", "fanOut: {shards: 3, tolerate: {failedShards: 120%}}");
    no_plan(&ns, "tolerance", &tolerance, "steps[send].fanOut.tolerate.failedShards: ", &["\"120%\"", "100%"]);
    let silent = of("silent", "fanOut: {itemsFrom: {step: plan}}");
    no_plan(&ns, "silent", &silent, "steps[send].fanOut.itemsFrom.step: ", &["plan", "emitsItems"]);
    let backoff = of("backoff", "fanOut: {shards: 3}, retry: {limit: 2, backoff: {initial: 10s}}");
    no_plan(&ns, "backoff", &backoff, "steps[send].retry.backoff: ", &["fan"]);
    let ignore = of("ignore", "fanOut: {shards: 3}, retry: {limit: 2, rules: [{exitCodes: [\"70\"], action: Ignore}]}");
    no_plan(&ns, "ignore", &ignore, "steps[send].retry.rules[0].action: ", &["without end"]);
    assert_eq!(ns.kubectl(&["get", "taskrevisions", "-o", "name"]).ok(), "");

    let said = ns.apply(&of("many", "fanOut: {shards: 100001}")).refused();
    println!("many: {said}");
    assert!(said.contains("fanOut.shards") && said.contains("100000"), "{said}");
    let shards = "  parameters: {type: object, required: [count], properties: {count: {type: integer}}}";
    ns.define("asked", &steps("asked", shards, &[("send", "true", "fanOut: {shardsFrom: {parameter: count}}")]));
    ns.apply(&task("t", "asked").replace("spec: {", "spec: {parameters: {count: 100001}, ")).ok();
    refused(&ns, "t", "InvalidParameters", &["100001", "100000"]);
}

#[test]
fn a_revision_that_is_not_there_is_refused_by_name() {
    let ns = Namespace::new("revision");
    ns.define("quick", &script("quick", "true", ""));
    ns.apply(&task("t", "quick").replace("name: quick", "name: quick, revision: quick-0123456789")).ok();
    refused(&ns, "t", "DefinitionGone", &["quick-0123456789"]);
}

#[test]
fn what_was_asked_for_cannot_be_changed() {
    let ns = Namespace::new("changed");
    ns.define("quick", &script("quick", "true", ""));
    ns.apply(&task("t", "quick").replace("spec: {", "spec: {suspend: true, cancel: true, parameters: {a: 1}, ")).ok();
    let changes = [
        (r#"{"spec":{"cancel":false}}"#, "spec.cancel"),
        (r#"{"spec":{"cancel":null}}"#, "spec.cancel"),
        (r#"{"spec":{"parameters":{"a":2}}}"#, "spec.parameters"),
        (r#"{"spec":{"parameters":null}}"#, "spec.parameters"),
        (r#"{"spec":{"definition":{"name":"other"}}}"#, "spec.definition"),
        (r#"{"spec":{"owner":"somebody-else"}}"#, "spec.owner"),
        (r#"{"spec":{"priorityClassName":"high"}}"#, "spec.priorityClassName"),
        (r#"{"spec":{"startAfter":"2030-01-01T00:00:00Z"}}"#, "spec.startAfter"),
    ];
    for (change, field) in changes {
        let said = ns.kubectl(&["patch", "asynctask", "t", "--type=merge", "-p", change]).refused();
        println!("{change}: {said}");
        assert!(said.contains(field), "{change}: {said}");
    }
}
