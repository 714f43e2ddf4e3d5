//! Parameters against their JSON Schema. Operator, gateway and command line call the same function, so that what one
//! accepts no other refuses.
//!
//! Nothing is ever fetched: a schema may point into itself only. Patterns run on an engine without backtracking:
//! parameters come from users, and one value must not be able to keep the operator busy.

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Number, Value};

use asynctask_api::condition::cut;

/// Largest parameters, in bytes of JSON.
pub const MAX_BYTES: usize = 64 * 1024;

/// 2^63: from here on the API server has no integers.
const LARGEST: f64 = 9_223_372_036_854_775_808.0;

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
    let inexact = inexact(parameters, schema, "");
    if !inexact.is_empty() {
        return inexact;
    }
    let Some(schema) = schema else {
        return undeclared(parameters);
    };
    // The definition would not be Ready; said here too, because the caller may hold one that was never checked.
    let unusable = |error| vec![format!("/: the definition's own schema cannot be used: {error}")];
    against(schema, parameters).unwrap_or_else(unusable)
}

/// Whether two values are the same to whoever reads them as JSON: 1.0 is 1 (RFC 8259 knows one kind of number), and the API
/// server keeps the one as the other.
#[must_use]
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => one == other,
            _ => one.as_f64() == other.as_f64(),
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let found = |(key, value): (&String, &Value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(found)
        }
        (one, other) => one == other,
    }
}

/// Numbers that the API server does not keep as they are: beyond the largest integer it knows, digits are lost without a
/// word. Where the schema does not say that it is one, what has no digits of an integer any more is a quantity.
fn inexact(value: &Value, schema: Option<&Value>, at: &str) -> Vec<String> {
    match value {
        Value::Number(number) if is_lost(number, schema) => {
            let hint = "give it as a text in quotes";
            vec![cut(
                &format!("{at}: {number} is beyond ±{} and would not be kept exactly: {hint}", i64::MAX),
                MAX_SENTENCE,
            )]
        }
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.get("items"));
            let of = |(index, item)| inexact(item, schema, &format!("{at}/{index}"));
            items.iter().enumerate().flat_map(of).collect()
        }
        Value::Object(members) => {
            let of = |(key, member): (&String, &Value)| {
                let schema = schema.and_then(|schema| schema.get("properties")?.get(key));
                inexact(member, schema, &format!("{at}/{}", cut(key, 63)))
            };
            members.iter().flat_map(of).collect()
        }
        _ => Vec::new(),
    }
}

fn is_lost(number: &Number, schema: Option<&Value>) -> bool {
    let beyond = number.as_i64().is_none() && number.as_f64().is_some_and(|number| number.abs() >= LARGEST);
    let integer = schema.and_then(|schema| schema.get("type")).is_some_and(|of| match of {
        Value::Array(types) => types.iter().any(|one| one == "integer"),
        one => one == "integer",
    });
    beyond && (number.is_u64() || integer)
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
    let schema = &without_odd_annotations(schema, false);
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

/// Without titles and descriptions that are no texts, as `title: Yes` is in YAML: they decide nothing, and the API server
/// takes them. `names`: the members are names of parameters, or of definitions, and not keywords.
fn without_odd_annotations(schema: &Value, names: bool) -> Value {
    match schema {
        Value::Object(members) => {
            let is_odd = |key: &str, value: &Value| {
                matches!(key, "title" | "description" | "$comment")
                    && !value.is_string()
                    && !value.is_object()
                    && !names
            };
            let kept = members.iter().filter(|(key, value)| !is_odd(key, value)).map(|(key, value)| {
                if !names && matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    // Values, not schemas.
                    return (key.clone(), value.clone());
                }
                let inner =
                    !names && matches!(key.as_str(), "properties" | "patternProperties" | "$defs" | "definitions");
                (key.clone(), without_odd_annotations(value, inner))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| without_odd_annotations(item, false)).collect()),
        other => other.clone(),
    }
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
    use super::{MAX_BYTES, SchemaError, check_schema, same, violations};
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
    fn a_number_that_would_not_be_kept_is_refused_and_named() {
        let open = json!({"properties": {"a": {"items": {"properties": {"id": {"type": "integer"}}}}}});
        for kept in ["9223372036854775807", "-9223372036854775808", "9007199254740993", "1e18"] {
            let parameters = serde_json::from_str(&format!(r#"{{"a":[{{"id":{kept}}}]}}"#)).expect("JSON");
            assert_eq!(violations(Some(&open), &parameters), Vec::<String>::new(), "{kept}");
        }
        for lost in
            ["9223372036854775808", "18446744073709551615", "-9223372036854775809", "1e19", "12345678901234567890123"]
        {
            let parameters = serde_json::from_str(&format!(r#"{{"a":[{{"id":{lost}}}]}}"#)).expect("JSON");
            let found = violations(Some(&open), &parameters);
            assert!(
                found.len() == 1 && found[0].starts_with("/a/0/id: ") && found[0].contains("in quotes"),
                "{found:?}"
            );
        }
        let said = |text: &str| violations(Some(&json!({})), &serde_json::from_str(text).expect("JSON"));
        assert_eq!(said(r#"{"mass": 1.989e30, "part": 0.1}"#), Vec::<String>::new(), "nobody counts in it");
        assert_eq!(said(r#"{"id": 18446744073709551615}"#).len(), 1, "an integer, whatever the schema says");
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for (one, other) in [(json!(1.0), json!(1)), (json!({"a": [2.0, "x"]}), json!({"a": [2, "x"]}))] {
            assert!(same(&one, &other) && same(&other, &one), "{one} {other}");
        }
        for (one, other) in [
            (json!(1.5), json!(1)),
            (json!("1"), json!(1)),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64)),
            (json!({"a": 1}), json!({"a": 1, "b": 1})),
            (json!([1]), json!([1, 1])),
            (json!({}), json!([])),
        ] {
            assert!(!same(&one, &other) && !same(&other, &one), "{one} {other}");
        }
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
    fn a_title_that_yaml_made_a_switch_of_decides_nothing() {
        let schema = json!({"properties": {
            "answer": {"type": "string", "title": true, "description": 5}, "title": true, "note": {"const": {"title": true}},
        }, "additionalProperties": false});
        assert_eq!(check_schema(&schema), Ok(()));
        assert_eq!(violations(Some(&schema), &json!({"answer": "a", "title": 7})), Vec::<String>::new());
        assert_eq!(violations(Some(&schema), &json!({"answer": 1, "other": 7})).len(), 2);
        assert_eq!(violations(Some(&schema), &json!({"note": {"title": true}})), Vec::<String>::new());
    }

    #[test]
    fn a_hostile_value_cannot_keep_a_pattern_busy() {
        let schema = json!({"properties": {"a": {"pattern": "^(a+)+$"}}});
        let started = std::time::Instant::now();
        assert_eq!(violations(Some(&schema), &json!({"a": format!("{}!", "a".repeat(40_000))})).len(), 1);
        assert!(started.elapsed().as_secs() < 5);
    }
}
