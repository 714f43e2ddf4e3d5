//! Changes under way: definitions, and what is deleted while runs go on.

use jiff::Timestamp;
use serde_json::Value;

use crate::support::{Namespace, cli, get, script, task, until};

/// A program that writes a word when it is told to end, and shows a stage meanwhile.
pub(crate) fn says(word: &str, more: &str) -> String {
    let shell = format!(
        r#""$ASYNCTASK_AGENT" stage First; while [ ! -e "$ASYNCTASK_OUTPUTS/go" ]; do sleep 0.2; done; echo {word} > "$ASYNCTASK_OUTPUTS/report.txt""#
    );
    script("changes", &shell, &format!("  outputs: [{{name: report, step: work, path: report.txt}}]\n{more}"))
}

pub(crate) fn works(ns: &Namespace, name: &str) {
    until(&format!("{name} works"), || (ns.status(name)["steps"][0]["stage"] == "First").then_some(()));
}

fn waits(ns: &Namespace, name: &str) {
    until(&format!("{name} waits"), || (ns.status(name)["reason"] == "Queued").then_some(()));
}

pub(crate) fn release(ns: &Namespace, name: &str) {
    works(ns, name);
    ns.let_end(&format!("asynctask.dev/task={name}"));
}

#[track_caller]
pub(crate) fn ends_with(ns: &Namespace, name: &str, word: &str, revision: i64) {
    let status = ns.finished(name);
    assert_eq!(status["state"], "Complete", "{name}: {status:#}");
    assert_eq!(status["revision"]["number"], revision, "{name}: {status:#}");
    let report = cli(&["-n", &ns.name, "outputs", "get", name, "report", "-o", "-"]).ok();
    assert_eq!(report.trim(), word, "{name}");
}

/// State of a revision, by its number.
fn state(ns: &Namespace, number: i64) -> Value {
    let revisions = get(&["-n", &ns.name, "taskrevisions"]);
    let found = revisions["items"].as_array().unwrap().iter().find(|r| r["spec"]["number"] == number).cloned();
    found.map(|revision| revision["status"]["state"].clone()).unwrap_or_default()
}

/// What the command line says of a revision.
fn shown(ns: &Namespace, number: i64) -> String {
    let page = cli(&["-n", &ns.name, "definitions", "changes"]).ok();
    let start = format!("{number} ");
    let line = page.lines().map(str::trim).find(|line| line.starts_with(&start) && line.contains("changes-"));
    line.unwrap_or_else(|| panic!("no revision {number}: {page}")).to_owned()
}

fn revision_is_ready(ns: &Namespace, number: i64) {
    until(&format!("revision {number} is current"), || {
        let status = ns.get("taskdefinition", "changes")["status"].clone();
        (status["revision"]["number"] == number).then_some(())
    });
}

#[test]
fn runs_end_on_the_revision_they_were_asked_on_and_it_retires_after_the_last() {
    let ns = Namespace::new("revisions");
    ns.define("changes", &says("one", "  concurrency: {maxRunning: 2}"));
    for name in ["a", "b"] {
        ns.apply(&task(name, "changes")).ok();
        works(&ns, name);
    }
    ns.apply(&task("c", "changes")).ok();
    waits(&ns, "c");
    // Age is told in seconds: of two runs of one second neither is the older, and the second has room for one.
    let created: Timestamp =
        ns.get("asynctask", "c")["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    until("a second later", || (Timestamp::now().as_second() > created.as_second()).then_some(()));
    ns.apply(&task("d", "changes")).ok();
    waits(&ns, "d");

    // Other parameters, another program, and room for one more.
    let parameters = "  parameters: {type: object, required: [word], properties: {word: {type: string}}}";
    ns.apply(&says("two", &format!("  concurrency: {{maxRunning: 3}}\n{parameters}"))).ok();
    revision_is_ready(&ns, 2);
    ns.apply(&task("new", "changes").replacen("spec: {", "spec: {parameters: {word: x}, ", 1)).ok();
    works(&ns, "new");

    until("revision 1 drains", || (state(&ns, 1) == "Draining").then_some(()));
    assert_eq!(state(&ns, 2), "Current");
    let line = shown(&ns, 1);
    assert!(line.contains("Draining") && line.contains("4 runs"), "{line}");
    for (name, word, revision) in [("a", "one", 1), ("b", "one", 1), ("c", "one", 1), ("new", "two", 2)] {
        release(&ns, name);
        ends_with(&ns, name, word, revision);
    }
    works(&ns, "d");
    assert_eq!(state(&ns, 1), "Draining", "one run is left on it");
    release(&ns, "d");
    ends_with(&ns, "d", "one", 1);
    until("revision 1 retires", || (state(&ns, 1) == "Retired").then_some(()));
    let line = shown(&ns, 1);
    assert!(line.contains("Retired") && line.contains("0 runs"), "{line}");
}

#[test]
fn a_definition_that_is_deleted_stays_until_its_runs_have_ended() {
    let ns = Namespace::new("removed");
    ns.define("changes", &says("one", ""));
    ns.apply(&task("a", "changes")).ok();
    works(&ns, "a");

    ns.kubectl(&["delete", "taskdefinition", "changes", "--wait=false"]).ok();

    // Whoever comes later is told; by then the operator has seen the deletion.
    ns.apply(&task("late", "changes")).ok();
    until("the late one is answered", || ns.status("late")["reason"].as_str().map(drop));
    let definition = ns.get("taskdefinition", "changes");
    assert!(definition["metadata"]["deletionTimestamp"].is_string(), "it is kept: {definition:#}");
    until("its revision drains", || (state(&ns, 1) == "Draining").then_some(()));
    release(&ns, "a");
    ends_with(&ns, "a", "one", 1);
    until("the definition is gone", || ns.get("taskdefinition", "changes").is_null().then_some(()));
    let late = ns.status("late");
    assert_ne!(late["state"], "InProgress", "{late:#}");
    assert_eq!(late["revision"], Value::Null, "{late:#}");
}
