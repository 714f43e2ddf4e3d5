//! From a definition's content to its immutable revision.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::names;
use asynctask_api::{TaskDefinition, TaskDefinitionSpec, TaskRevision, TaskRevisionSpec};

/// Hex SHA-256 of the content, whatever the order in which its maps were written.
#[must_use]
pub fn hash(content: &TaskDefinitionSpec) -> String {
    let json = serde_json::to_value(content).expect("invariant: a definition is JSON, it was decoded from it");
    hex::encode(Sha256::digest(canonical_text(&json).as_bytes()))
}

/// JSON with the keys of every object in byte order and no spaces.
pub(super) fn canonical_text(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    text
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            out.push('{');
            for (index, (key, child)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(child, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, child) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(child, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// The revision of a definition as it is now. It goes with its definition: the garbage collector sees to that.
#[must_use]
pub fn build(definition: &TaskDefinition, number: i64) -> TaskRevision {
    let hash = hash(&definition.spec);
    let name = definition.name_any();
    TaskRevision {
        metadata: ObjectMeta {
            name: Some(names::revision(&name, &hash)),
            namespace: definition.namespace(),
            owner_references: definition.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: TaskRevisionSpec { definition: name, number, hash, content: definition.spec.clone() },
        status: None,
    }
}

/// Images of a definition that are named by a tag: what runs can change without a new revision. Sorted, each once.
#[must_use]
pub fn unpinned_images(content: &TaskDefinitionSpec) -> Vec<String> {
    // A template that is none has no images.
    let templates = content.steps.iter().filter_map(|step| PodTemplateSpec::deserialize(&step.template).ok());
    let containers = templates.filter_map(|template| template.spec).flat_map(|spec| {
        let inits = spec.init_containers.unwrap_or_default();
        inits.into_iter().chain(spec.containers)
    });
    let mut images: Vec<String> =
        containers.filter_map(|container| container.image).filter(|image| !image.contains("@sha256:")).collect();
    images.sort();
    images.dedup();
    images
}

/// What is to be said of images that are named by a tag.
#[must_use]
pub fn by_tag_sentence(images: &[String]) -> String {
    format!(
        "named by a tag, so what runs can change without a new revision: {}. Name them by digest (image@sha256:…)",
        images.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{build, canonical, hash, unpinned_images};
    use asynctask_api::{TaskDefinition, TaskDefinitionSpec};

    fn content(image: &str) -> TaskDefinitionSpec {
        serde_json::from_value(json!({"title": "T", "steps": [{"name": "s", "template": {"spec": {
            "initContainers": [{"name": "proxy", "image": "p@sha256:1"}],
            "containers": [{"name": "task", "image": image, "command": ["x"]}],
        }}}]}))
        .expect("decodes")
    }

    #[test]
    fn the_order_of_keys_does_not_make_a_revision() {
        let (mut a, mut b) = (String::new(), String::new());
        canonical(&json!({"b": [1, {"y": null, "x": "\"é\n"}], "a": true}), &mut a);
        canonical(&json!({"a": true, "b": [1, {"x": "\"é\n", "y": null}]}), &mut b);
        assert_eq!(a, b);
        assert_eq!(a, r#"{"a":true,"b":[1,{"x":"\"é\n","y":null}]}"#);
    }

    #[test]
    fn the_hash_of_a_content_stays_over_releases() {
        // Another value here makes a new revision of every definition when the operator is upgraded.
        assert_eq!(hash(&content("a:1")), "48f8217af336f8c2031c4f38846f360b16220c8e1212d510bd3042b57edc03d6");
        assert_ne!(hash(&content("a:1")), hash(&content("a:2")));
    }

    #[test]
    fn a_revision_belongs_to_its_definition() {
        let mut definition = TaskDefinition::new("hello", content("a:1"));
        definition.metadata.namespace = Some("studio".into());
        definition.metadata.uid = Some("u-1".into());
        let revision = build(&definition, 3);
        let name = revision.metadata.name.clone().expect("named");
        assert_eq!(name, format!("hello-{}", &revision.spec.hash[..10]));
        let owner = &revision.metadata.owner_references.as_ref().expect("owned")[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("TaskDefinition", "u-1", Some(true)));
        assert_eq!((revision.spec.number, &revision.spec.content), (3, &definition.spec));
    }

    #[test]
    fn a_tag_is_not_a_pin() {
        assert_eq!(unpinned_images(&content("a:1")), ["a:1"]);
        assert_eq!(unpinned_images(&content("a@sha256:2")), Vec::<String>::new());
    }
}
