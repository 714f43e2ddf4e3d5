//! An object, and a request to the API server, in lines. What may be secret is not in them: kinds that are not meant to be
//! shown, parameters, templates, bodies.

use std::collections::{BTreeSet, VecDeque};
use std::io::BufRead;

use serde_json::Value;

use super::SYSTEM;

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn uid(object: &Value) -> Option<String> {
    object["metadata"]["uid"].as_str().map(str::to_owned)
}

/// Of the kinds whose UIDs are in our logs.
pub(super) fn is_ours(object: &Value) -> bool {
    ["AsyncTask", "TaskDefinition"].contains(&text(&object["kind"]))
}

/// Whether something of this object is still to come.
pub(super) fn unfinished(object: &Value) -> bool {
    let is = |kind: &str| conditions(object).any(|it| it["type"] == kind && it["status"] == "True");
    match text(&object["kind"]) {
        "AsyncTask" => !is("Finished") || !object["metadata"]["deletionTimestamp"].is_null(),
        "Job" => !is("Complete") && !is("Failed"),
        "Pod" => !["Succeeded", "Failed"].contains(&text(&object["status"]["phase"])),
        _ => false,
    }
}

/// The lines about an object; none about a kind that is not meant to be shown.
pub(super) fn describe(object: &Value) -> Vec<String> {
    match text(&object["kind"]) {
        "AsyncTask" => run(object),
        "Pod" => vec![pod(object)],
        "Event" => vec![event(object)],
        "Lease" => vec![format!("{}: {}", identity(object), object["spec"])],
        "Node" => {
            vec![format!("{}: {}", identity(object), conditions(object).map(condition).collect::<Vec<_>>().join("; "))]
        }
        "TaskDefinition" | "TaskRevision" | "Job" | "OutputStore" | "Deployment" => {
            vec![format!("{}: {}", identity(object), object["status"])]
        }
        _ => Vec::new(),
    }
}

/// Kind and name, and what there is to say about the object's own life.
fn identity(object: &Value) -> String {
    let meta = &object["metadata"];
    let mut words = vec![format!("{} {}", text(&object["kind"]), text(&meta["name"]))];
    for (field, word) in [("uid", "uid"), ("resourceVersion", "version"), ("deletionTimestamp", "deleted at")] {
        words.extend(meta[field].as_str().map(|value| format!("{word} {value}")));
    }
    let held: Vec<&str> = list(&meta["finalizers"]).iter().map(text).collect();
    if !held.is_empty() {
        words.push(format!("held by {}", held.join(" and ")));
    }
    words.join(", ")
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    list(&object["status"]["conditions"]).iter()
}

fn condition(of: &Value) -> String {
    let [kind, status, reason, message] = ["type", "status", "reason", "message"].map(|field| text(&of[field]));
    format!("{kind}={status} {reason}: {message} ({})", text(&of["lastTransitionTime"]))
}

/// A run that goes on with its conditions and steps, one that is over in a line. Its parameters are left out.
fn run(task: &Value) -> Vec<String> {
    let status = &task["status"];
    let [state, reason, message] = ["state", "reason", "message"].map(|field| text(&status[field]));
    let asked =
        ["cancel", "suspend"].map(|flag| if task["spec"][flag] == true { format!(", {flag}") } else { String::new() });
    let mut lines = vec![format!("{}{}: {state} {reason} {message}", identity(task), asked.concat())];
    if unfinished(task) {
        lines.extend(conditions(task).map(|it| format!("  {}", condition(it))));
        lines.extend(list(&status["steps"]).iter().map(|step| format!("  step {step}")));
        for field in ["queue", "transitions"] {
            lines.extend(Some(&status[field]).filter(|it| !it.is_null()).map(|it| format!("  {field} {it}")));
        }
    }
    lines
}

/// Phase, node, what is not yet true of a pod, and the states of its containers.
fn pod(pod: &Value) -> String {
    let status = &pod["status"];
    let mut parts = vec![format!("{} on {}", text(&status["phase"]), text(&pod["spec"]["nodeName"]))];
    parts.extend(conditions(pod).filter(|it| it["status"] != "True").map(condition));
    for container in list(&status["initContainerStatuses"]).iter().chain(list(&status["containerStatuses"])) {
        let restarts = container["restartCount"].as_u64().unwrap_or_default();
        parts.push(format!("{} {} restarted {restarts} ×", text(&container["name"]), container["state"]));
    }
    format!("{}: {}", identity(pod), parts.join("; "))
}

fn event(event: &Value) -> String {
    let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
    let at = times.into_iter().find_map(Value::as_str).unwrap_or_else(|| text(&event["metadata"]["creationTimestamp"]));
    let count = event["series"]["count"].as_u64().or(event["count"].as_u64()).unwrap_or(1);
    let of = &event["involvedObject"];
    let [kind, name, reason, message] = [&of["kind"], &of["name"], &event["reason"], &event["message"]].map(text);
    format!("{at} {kind}/{name} {reason} {count} ×: {message}")
}

/// The requests about a namespace that changed something, or were ours; `uids` learns of runs that are gone meanwhile.
pub(super) fn requests(log: impl BufRead, namespace: &str, uids: &mut BTreeSet<String>) -> Vec<String> {
    let needle = format!("\"namespace\":\"{namespace}\"");
    let mut kept = VecDeque::new();
    for line in log.lines().map_while(Result::ok).filter(|line| line.contains(&needle)) {
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        if ["asynctasks", "taskdefinitions"].contains(&text(&line["objectRef"]["resource"])) {
            uids.extend(uid(&line["responseObject"]));
        }
        if matters(&line) {
            kept.push_back(request(&line));
        }
    }
    kept.into()
}

/// Events are shown as they are. Of reads only those of operator and gateway: a test that waits reads five times a second.
fn matters(line: &Value) -> bool {
    let read = ["get", "list", "watch"].contains(&text(&line["verb"]));
    let ours = text(&line["user"]["username"]).starts_with(&format!("system:serviceaccount:{SYSTEM}:"));
    line["objectRef"]["resource"] != "events" && (!read || ours)
}

/// When, who, what and the answer's code: never a body.
fn request(line: &Value) -> String {
    let object = &line["objectRef"];
    // A name that the server makes up is only in its answer.
    let name = object["name"].as_str().unwrap_or_else(|| text(&line["responseObject"]["metadata"]["name"]));
    let parts = [text(&object["resource"]), name, text(&object["subresource"])];
    let what = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let tried = if text(&line["requestURI"]).contains("dryRun=") { " (dry run)" } else { "" };
    let [at, user, verb] = [&line["requestReceivedTimestamp"], &line["user"]["username"], &line["verb"]].map(text);
    format!("{at} {user} {verb} {what}{tried} {}", line["responseStatus"]["code"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CANARY: &str = "CANARY-evidence-5e1f";

    fn written(verb: &str, user: &str, resource: &str) -> Value {
        json!({
            "requestReceivedTimestamp": "2026-01-01T00:00:00.5Z", "verb": verb, "user": {"username": user},
            "objectRef": {"resource": resource, "namespace": "ns-1", "name": "one"}, "responseStatus": {"code": 200},
        })
    }

    #[test]
    fn a_request_is_shown_without_its_bodies() {
        let mut line = written("update", "somebody", "secrets");
        line["objectRef"]["subresource"] = json!("part");
        line["requestURI"] = json!("/api/v1/namespaces/ns-1/secrets/one?dryRun=All");
        line["requestObject"] = json!({"data": {"key": CANARY}});
        line["responseObject"] = json!({"data": {"key": CANARY}});
        assert_eq!(request(&line), "2026-01-01T00:00:00.5Z somebody update secrets/one/part (dry run) 200");
    }

    #[test]
    fn a_name_that_the_server_made_up_is_shown() {
        let mut line = written("create", "job-controller", "pods");
        line["objectRef"]["name"] = Value::Null;
        line["responseObject"] = json!({"metadata": {"name": "one-x7k"}});
        assert_eq!(request(&line), "2026-01-01T00:00:00.5Z job-controller create pods/one-x7k 200");
    }

    #[test]
    fn of_the_audit_log_only_what_changes_something_or_is_ours_is_kept() {
        let operator = format!("system:serviceaccount:{SYSTEM}:asynctask-operator");
        let mut created = written("create", "somebody", "asynctasks");
        created["responseObject"] = json!({"metadata": {"uid": "uid-1"}});
        let mut elsewhere = written("create", "somebody", "pods");
        elsewhere["objectRef"]["namespace"] = json!("ns-10");
        let log = [
            created,
            elsewhere,
            written("get", "system:admin", "asynctasks"),
            written("get", &operator, "asynctasks"),
            written("create", "system:node:n", "events"),
        ];
        let log: String =
            log.iter().map(|line| format!("{line}\n")).chain(["{\"namespace\":\"ns-1\"".to_owned()]).collect();
        let mut uids = BTreeSet::new();
        let kept = requests(log.as_bytes(), "ns-1", &mut uids);
        let verbs: Vec<_> = kept.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!((verbs, uids), (vec!["create", "get"], BTreeSet::from(["uid-1".to_owned()])));
    }

    #[test]
    fn nothing_of_a_secret_or_of_what_a_run_was_given_is_shown() {
        let objects = [
            json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": CANARY}, "stringData": {"key": CANARY}}),
            json!({"kind": "AsyncTask", "metadata": {"name": "one", "annotations": {"last-applied": CANARY}},
                   "spec": {"parameters": {"password": CANARY}}}),
            json!({"kind": "Pod", "metadata": {"name": "p"},
                   "spec": {"containers": [{"name": "task", "env": [{"name": "KEY", "value": CANARY}]}]}}),
            json!({"kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {"env": CANARY}}}}),
        ];
        let shown = objects.iter().flat_map(describe).collect::<Vec<_>>().join("\n");
        assert!(shown.contains("AsyncTask one") && shown.contains("Pod p") && shown.contains("Job j"), "{shown}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
}
