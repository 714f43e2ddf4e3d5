//! Answers against the OpenAPI document: what is answered is what the document says, and nothing more.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// So many different answers of a route and status are looked at.
const ENOUGH: usize = 200;

/// The document, made strict: an object has no property that is not named.
pub(crate) struct Document {
    document: Value,
    validators: Mutex<HashMap<String, jsonschema::Validator>>,
    /// Answers that were looked at and are as they should be, by route and status: many are the same, and some tests ask ten
    /// thousand times.
    known: Mutex<HashMap<String, HashSet<u64>>>,
}

impl Document {
    pub(crate) fn new(mut document: Value) -> Self {
        for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
            // Kubernetes adds fields of its own to what it stores.
            if name != "AsyncTask" {
                close(schema);
            }
        }
        Self { document, validators: Mutex::default(), known: Mutex::default() }
    }

    /// How an answer differs from what the document says of its route.
    pub(crate) fn differs(
        &self,
        method: &str,
        path: &str,
        status: u16,
        media_type: &str,
        body: &[u8],
    ) -> Option<String> {
        let path = path.split('?').next().unwrap_or_default();
        let Some((template, route)) = self.route(path) else {
            return (status != 404)
                .then(|| format!("{method} {path} is answered {status}, and is not in the document"));
        };
        // HEAD is a GET without its body.
        let (method, body) = if method == "HEAD" { ("GET", &b""[..]) } else { (method, body) };
        let operation = &route[method.to_ascii_lowercase()];
        if operation.is_null() {
            return (status != 404)
                .then(|| format!("{method} {template} is answered {status}, and is not in the document"));
        }
        let responses = &operation["responses"];
        let said = responses.get(status.to_string()).or_else(|| responses.get("default").filter(|_| status >= 400));
        let Some(said) = said else { return Some(format!("{method} {template}: {status} is not in the document")) };
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let content = said["content"].as_object()?;
        let Some(schema) = content.get(essence).map(|content| &content["schema"]) else {
            return Some(format!(
                "{method} {template} {status}: {essence:?} is none of {:?}",
                content.keys().collect::<Vec<_>>()
            ));
        };
        if !essence.ends_with("json") || schema.is_null() || body.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let (kind, this) = (format!("{method} {template} {status}"), hasher.finish());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(kind).or_default();
        if known.contains(&this) || known.len() >= ENOUGH {
            return None;
        }
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return Some(format!("{method} {template} {status}: no JSON"));
        };
        let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = validators.entry(schema.to_string()).or_insert_with(|| {
            let root = json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [schema], "components": self.document["components"],
            });
            jsonschema::validator_for(&root).expect("the document holds schemas")
        });
        let Some(first) = validator.iter_errors(&answer).next() else {
            known.insert(this);
            return None;
        };
        Some(format!("{method} {template} {status}: {first} at {:?} of {answer:#}", first.instance_path().to_string()))
    }

    fn route(&self, path: &str) -> Option<(&str, &Value)> {
        let parts: Vec<&str> = path.split('/').collect();
        let fits = |template: &str| {
            let wanted: Vec<&str> = template.split('/').collect();
            wanted.len() == parts.len()
                && wanted.iter().zip(&parts).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
        };
        let paths = self.document["paths"].as_object()?;
        paths.iter().find(|(template, _)| fits(template)).map(|(template, route)| (template.as_str(), route))
    }
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") && !members.contains_key("additionalProperties") {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
            for (name, member) in members {
                // What is put together from several has the properties of all.
                if name != "allOf" {
                    close(member);
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(close),
        _ => {}
    }
}
