//! From Rust types to CRDs: what the derive cannot say is added here, once for all kinds.
//!
//! * every string, list and map is bounded, so that a status cannot outgrow etcd and CEL can price its rules;
//! * list-maps require their key only: two writers with server-side apply otherwise block each other;
//! * rules that must hold for the object as a whole stand at its root: one on `.status` is passed by `status: null`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::state::TaskState;
use super::{AsyncTask, OutputStore, TaskDefinition, TaskRevision};

/// Longest string whose field names no limit of its own.
const MAX_LENGTH: u64 = super::condition::MESSAGE_MAX as u64;
/// Longest list whose field names no limit of its own.
const MAX_ITEMS: u64 = 64;
/// Largest map whose field names no limit of its own.
const MAX_PROPERTIES: u64 = 64;

/// Schema of a field that holds any JSON object: parameters, a JSON Schema, a pod template.
pub(super) fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A time that the API server's rules and all of our programs read alike. RFC 3339 has more: small letters, leap seconds, a date
/// such as 2027-02-30 by its form; and databases say \"for ever\" with the last second of the year 9999, beyond which arithmetic ends.
pub const TIME: &str = concat!(
    "^(([1-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])-",
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|",
    "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29)",
    "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
);

/// Schema of a time that somebody writes. It has no `format`: rules would be handed the time instead of the text, and one that cannot be
/// read would make each of them fail for ever.
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    written_time(&[])
}

/// The same, of a time that can only be moved to a later one.
pub(super) fn later_time(_: &mut SchemaGenerator) -> Schema {
    written_time(&[json!({
        "rule": format!("self == oldSelf || [self, oldSelf].exists(time, !time.matches('{TIME}')) || timestamp(self) >= timestamp(oldSelf)"),
        "message": "can be moved to a later time only",
    })])
}

fn written_time(rules: &[Value]) -> Schema {
    let readable = json!({
        "rule": format!("self.matches('{TIME}')"),
        "message": "must be a time such as 2027-01-31T10:00:00Z or 2027-01-31T12:00:00+02:00: a year up to 9998, capital T and Z, at most nine digits of a second",
    });
    let rules: Vec<&Value> = [&readable].into_iter().chain(rules).collect();
    json_schema!({ "type": "string", "maxLength": 40, "nullable": true, "x-kubernetes-validations": rules })
}

/// Schema of a number or a text: a count, or a part such as `5%`.
pub(super) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}] })
}

/// Every CRD with the name of its file, ready to be written or applied.
///
/// # Panics
/// Never for the types of this crate: a test generates them all.
pub fn all() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("asynctasks.yaml", finish(&AsyncTask::crd(), &[terminal_is_final()])),
        ("outputstores.yaml", finish(&OutputStore::crd(), &[])),
        ("taskdefinitions.yaml", finish(&TaskDefinition::crd(), &[])),
        ("taskrevisions.yaml", finish(&TaskRevision::crd(), &[])),
    ]
}

/// The rule that keeps a finished run finished, from the one table of states.
fn terminal_is_final() -> Value {
    let ended: Vec<&str> = TaskState::ALL.into_iter().filter(|s| s.is_terminal()).map(TaskState::as_str).collect();
    json!({
        "rule": format!(
            "!has(oldSelf.status) || !has(oldSelf.status.state) || !(oldSelf.status.state in {ended:?}) || \
             (has(self.status) && has(self.status.state) && self.status.state == oldSelf.status.state)"
        ),
        "message": "the run has ended and its state is final: create another AsyncTask to run it again",
    })
}

fn finish(crd: &CustomResourceDefinition, root_rules: &[Value]) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CRD is JSON");
    for version in value["spec"]["versions"].as_array_mut().expect("a CRD has versions") {
        let schema = &mut version["schema"]["openAPIV3Schema"];
        bound(schema);
        if !root_rules.is_empty() {
            schema["x-kubernetes-validations"] = Value::Array(root_rules.to_vec());
        }
        schema["required"] = json!(["spec"]);
    }
    serde_json::from_value(value).expect("still a CRD")
}

/// Bounds strings, lists and maps that name no limit, and loosens list-maps to their keys; whole tree.
fn bound(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    // An absent text is absent: the empty default is Rust's, and would break the field's own minimum.
    node.retain(|key, value| key != "default" || value != "");
    match node.get("type").and_then(Value::as_str) {
        Some("string") if !node.contains_key("enum") && !node.contains_key("format") => {
            default_limit(node, "maxLength", MAX_LENGTH);
        }
        Some("array") => {
            default_limit(node, "maxItems", MAX_ITEMS);
            loosen_list_map(node);
        }
        Some("object") if node.contains_key("additionalProperties") => {
            default_limit(node, "maxProperties", MAX_PROPERTIES);
        }
        _ => {}
    }
    for (key, child) in node.iter_mut() {
        match key.as_str() {
            "properties" => child.as_object_mut().into_iter().flatten().for_each(|(_, v)| bound(v)),
            "items" | "additionalProperties" => bound(child),
            _ => {}
        }
    }
}

fn default_limit(node: &mut Map<String, Value>, key: &str, limit: u64) {
    node.entry(key).or_insert_with(|| json!(limit));
}

fn loosen_list_map(node: &mut Map<String, Value>) {
    if node.get("x-kubernetes-list-type").and_then(Value::as_str) != Some("map") {
        return;
    }
    if let Some(keys) = node.get("x-kubernetes-list-map-keys").cloned() {
        node["items"]["required"] = keys;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    fn walk(node: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        visit(path, node);
        if let Some(properties) = node.get("properties").and_then(Value::as_object) {
            for (name, child) in properties {
                walk(child, &format!("{path}.{name}"), visit);
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = node.get(key).filter(|c| c.is_object()) {
                walk(child, &format!("{path}[]"), visit);
            }
        }
    }

    #[test]
    fn every_crd_is_small_bounded_and_free_of_unsigned_numbers() {
        for (file, crd) in super::all() {
            let json = serde_json::to_value(&crd).expect("json");
            assert!(serde_json::to_vec(&json).expect("json").len() < 100 * 1024, "{file} is too large");
            let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk(schema, file, &mut |path, node| match node["type"].as_str() {
                Some("string") => assert!(
                    ["maxLength", "enum", "format"].iter().any(|k| node.get(k).is_some()),
                    "{path} is unbounded"
                ),
                Some("array") => {
                    assert!(node.get("maxItems").is_some(), "{path} is unbounded");
                    if node["x-kubernetes-list-type"] == "map" {
                        assert_eq!(node["items"]["required"], node["x-kubernetes-list-map-keys"], "{path}");
                    }
                }
                Some("integer") => {
                    assert!(!node["format"].as_str().unwrap_or("").starts_with("uint"), "{path} is unsigned");
                }
                _ => {}
            });
        }
    }

    #[test]
    fn every_field_of_ours_is_explained() {
        for (file, crd) in super::all() {
            let json = serde_json::to_value(&crd).expect("json");
            let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            walk(schema, file, &mut |path, node| {
                if !path.ends_with(']') && path != file {
                    assert!(node.get("description").is_some(), "{path} has no description");
                }
            });
        }
    }

    /// Properties of a part of the AsyncTask's schema.
    fn fields(pointer: &str) -> Vec<String> {
        let json = super::all().into_iter().find(|(file, _)| *file == "asynctasks.yaml").map(|(_, crd)| crd);
        let json = serde_json::to_value(json).expect("json");
        let schema = json.pointer(&format!("/spec/versions/0/schema/openAPIV3Schema/properties/{pointer}/properties"));
        schema.and_then(Value::as_object).expect("an object").keys().cloned().collect()
    }

    #[test]
    fn the_gateway_is_let_change_only_what_is_its_own() {
        let policy = include_str!("../../charts/asynctask-operator/templates/admission.yaml");
        // Of `spec.cancel` and a step's `guarded` the policy says which change is allowed.
        let parts = [
            ("spec", ["cancel"].as_slice(), "object.spec.", "oldObject.spec."),
            ("status", &["steps", "progress", "claims", "deletions"], "object.status.", "oldObject.status."),
            ("status/properties/steps/items", &["name", "stage", "progress", "guarded"], "o.", "s."),
        ];
        for (part, own, one, other) in parts {
            for field in fields(part).iter().filter(|field| !own.contains(&field.as_str())) {
                let same = ["?", ""].map(|maybe| format!("{one}{maybe}{field} == {other}{maybe}{field}"));
                assert!(
                    same.iter().any(|same| policy.contains(same)),
                    "{part}.{field}: nothing keeps the gateway off it"
                );
            }
        }
    }
}
