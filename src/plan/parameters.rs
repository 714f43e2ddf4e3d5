//! Parameters against their JSON Schema. Operator, gateway and command line call the same function, so that what one
//! accepts no other refuses.
//!
//! Nothing is ever fetched: a schema may point into itself only. Patterns run on an engine without backtracking:
//! parameters come from users, and one value must not be able to keep the operator busy.

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use asynctask_api::condition::cut;

/// Largest parameters, in bytes of JSON.
pub const MAX_BYTES: usize = 64 * 1024;

/// Longest sentence for one violation: the value it quotes may be huge.
const MAX_SENTENCE: usize = 400;

/// A schema that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Points out of itself.
    #[error("{at}: {reference:?} points out of the schema: only references that begin with # are followed")]
    RemoteReference {
        /// JSON pointer of the reference.
        at: String,
        /// The reference.
        reference: String,
    },
    /// Not a JSON Schema 2020-12.
    #[error("{0}")]
    Invalid(String),
}

/// Every way in which `parameters` violate `schema`; empty: none. Each is a sentence that begins with the JSON pointer
/// of the value it speaks of.
#[must_use]
pub fn violations(schema: Option<&Value>, parameters: &Value) -> Vec<String> {
    let size = parameters.to_string().len();
    if size > MAX_BYTES {
        let hint = "hand large data over as an input";
        return vec![format!("/: the parameters have {size} bytes, at most {MAX_BYTES} are taken: {hint}")];
    }
    let Some(schema) = schema else {
        return undeclared(parameters);
    };
    // The definition would not be Ready; said here too, because the caller may hold one that was never checked.
    let unusable = |error| vec![format!("/: the definition's own schema cannot be used: {error}")];
    against(schema, parameters).unwrap_or_else(unusable)
}

/// Every way in which a value of any size violates a schema.
///
/// # Errors
/// The schema cannot be used.
pub fn against(schema: &Value, value: &Value) -> Result<Vec<String>, SchemaError> {
    Ok(compile(schema)?.iter_errors(value).map(|error| sentence(&error)).collect())
}

/// Checks a schema before anybody relies on it.
pub(crate) fn check_schema(schema: &Value) -> Result<(), SchemaError> {
    compile(schema).map(drop)
}

fn compile(schema: &Value) -> Result<Validator, SchemaError> {
    refuse_remote_references(schema, "")?;
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .offline()
        .build(schema)
        .map_err(|error| SchemaError::Invalid(sentence(&error)))
}

fn undeclared(parameters: &Value) -> Vec<String> {
    match parameters {
        Value::Null => Vec::new(),
        Value::Object(given) => {
            given.keys().map(|name| format!("/{}: this definition takes no parameters", cut(name, 63))).collect()
        }
        _ => vec!["/: parameters are an object".to_owned()],
    }
}

fn sentence(error: &ValidationError<'_>) -> String {
    let at = error.instance_path().as_str();
    cut(&format!("{}: {error}", if at.is_empty() { "/" } else { at }), MAX_SENTENCE)
}

/// `$ref` and `$dynamicRef` must stay inside, wherever they stand; `$id` and `$anchor` name only what is inside.
fn refuse_remote_references(node: &Value, at: &str) -> Result<(), SchemaError> {
    match node {
        Value::Object(members) => {
            refuse_in_object(members, at)?;
            members.iter().try_for_each(|(key, child)| refuse_remote_references(child, &format!("{at}/{key}")))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, child)| refuse_remote_references(child, &format!("{at}/{index}"))),
        _ => Ok(()),
    }
}

fn refuse_in_object(members: &Map<String, Value>, at: &str) -> Result<(), SchemaError> {
    for key in ["$ref", "$dynamicRef"] {
        if let Some(reference) = members.get(key).and_then(Value::as_str).filter(|text| !text.starts_with('#')) {
            return Err(SchemaError::RemoteReference { at: format!("{at}/{key}"), reference: cut(reference, 200) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, SchemaError, check_schema, violations};
    use serde_json::json;

    #[test]
    fn every_violation_is_listed_with_its_place() {
        let schema = json!({
            "type": "object", "required": ["course", "mode"], "additionalProperties": false,
            "properties": {
                "course": {"type": "string", "pattern": "^course-v1:"}, "limit": {"maximum": 5}, "mode": {"type": "integer"},
            },
        });
        let found = violations(Some(&schema), &json!({"course": "x", "limit": 9, "extra": 1}));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().any(|v| v == r#"/course: "x" does not match "^course-v1:""#), "{found:?}");
        assert!(found.iter().any(|v| v.starts_with("/limit: 9 is greater than")), "{found:?}");
        assert!(found.iter().any(|v| v.contains(r#""mode" is a required property"#)), "{found:?}");
        assert!(found.iter().any(|v| v.contains("'extra' was unexpected")), "{found:?}");
        assert_eq!(violations(Some(&schema), &json!({"course": "course-v1:a", "mode": 1})), Vec::<String>::new());
    }

    #[test]
    fn a_definition_without_a_schema_takes_no_parameters() {
        assert_eq!(violations(None, &json!({})), Vec::<String>::new());
        assert_eq!(violations(None, &json!(null)), Vec::<String>::new());
        assert_eq!(violations(None, &json!({"a": 1})), ["/a: this definition takes no parameters"]);
        assert_eq!(violations(None, &json!([])).len(), 1);
    }

    #[test]
    fn huge_parameters_are_refused_and_huge_values_are_cut() {
        let large = json!({"a": "x".repeat(MAX_BYTES)});
        assert!(violations(Some(&json!({})), &large)[0].contains("at most 65536"));
        let schema = json!({"properties": {"a": {"maxLength": 1}}});
        let found = violations(Some(&schema), &json!({"a": "x".repeat(9000)}));
        assert!(found.len() == 1 && found[0].len() <= 400, "{found:?}");
    }

    #[test]
    fn a_schema_cannot_reach_out_of_itself() {
        for outside in ["http://169.254.169.254/x", "file:///etc/passwd", "other.json#/a", "urn:x"] {
            let schema = json!({"properties": {"a": {"items": [{"$ref": outside}]}}});
            assert!(matches!(check_schema(&schema), Err(SchemaError::RemoteReference { .. })), "{outside}");
            assert!(violations(Some(&schema), &json!({}))[0].contains("points out of the schema"));
        }
        let inside = json!({"$defs": {"c": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/c"}}});
        assert_eq!(check_schema(&inside), Ok(()));
        assert_eq!(violations(Some(&inside), &json!({"a": 1})).len(), 1);
    }

    #[test]
    fn what_is_no_schema_is_said_so() {
        let error = check_schema(&json!({"type": "strnig"})).expect_err("no such type").to_string();
        assert!(error.contains("strnig"), "{error}");
        assert!(check_schema(&json!({"pattern": "("})).is_err());
        // Look-around needs backtracking.
        assert!(check_schema(&json!({"pattern": "(?=a)b"})).is_err());
    }

    #[test]
    fn a_hostile_value_cannot_keep_a_pattern_busy() {
        let schema = json!({"properties": {"a": {"pattern": "^(a+)+$"}}});
        let started = std::time::Instant::now();
        assert_eq!(violations(Some(&schema), &json!({"a": format!("{}!", "a".repeat(40_000))})).len(), 1);
        assert!(started.elapsed().as_secs() < 5);
    }
}
