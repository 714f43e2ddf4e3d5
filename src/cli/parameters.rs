//! From `-p name=value` and `-f file` to the parameters of a run: texts become what the definition's schema says.

use serde_json::{Map, Value};

use crate::yaml;

/// How far references of a schema are followed.
const DEEPEST: usize = 8;

/// A parameter that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ParameterError {
    /// No `=`.
    #[error("-p {0:?} has no value: write -p NAME=VALUE")]
    Split(String),
    /// The same name twice.
    #[error("parameter {0:?} is given twice: give a list as JSON, for example -p '{0}=[\"a\",\"b\"]'")]
    Repeat(String),
    /// The text is none of the declared types.
    #[error("-p {name}={text:?}: the definition declares {name:?} as {expected}; write for example -p {example}")]
    Type {
        /// Parameter.
        name: String,
        /// What was given.
        text: String,
        /// Declared types, as words.
        expected: String,
        /// One that would be read.
        example: String,
    },
    /// The file is no YAML or JSON.
    #[error("{file}: the parameters are neither YAML nor JSON: {reason}")]
    Syntax {
        /// File.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// The file holds no mapping.
    #[error("{file}: parameters are a mapping of names to values, not {found}")]
    Shape {
        /// File.
        file: String,
        /// What it holds instead.
        found: &'static str,
    },
}

/// Splits `name=value`; for clap.
pub(crate) fn split(text: &str) -> Result<(String, String), ParameterError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ParameterError::Split(text.to_owned())),
    }
}

/// Reads a parameter file, YAML or JSON.
pub(crate) fn read(file: &str, content: &str) -> Result<Map<String, Value>, ParameterError> {
    let wrong = |reason: String| ParameterError::Syntax { file: file.to_owned(), reason };
    let (mut documents, error) = yaml::documents(content);
    if let Some(error) = error {
        return Err(wrong(error.to_string()));
    }
    if documents.len() > 1 {
        return Err(wrong(format!("it has {} documents, and parameters are one", documents.len())));
    }
    match documents.pop().unwrap_or_default() {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(ParameterError::Shape { file: file.to_owned(), found: kind(&other) }),
    }
}

/// Lays the pairs over the file's parameters, each typed by the definition's schema.
pub(crate) fn assemble(
    schema: Option<&Value>,
    file: Map<String, Value>,
    pairs: &[(String, String)],
) -> Result<Map<String, Value>, ParameterError> {
    let mut given = Map::new();
    for (name, text) in pairs {
        if given.insert(name.clone(), typed(schema, name, text)?).is_some() {
            return Err(ParameterError::Repeat(name.clone()));
        }
    }
    let mut all = file;
    all.extend(given);
    Ok(all)
}

/// One text as the first of the declared types that can hold it. Without a declared type a text stays a text: what a
/// program gets must not depend on what the text happens to look like.
fn typed(schema: Option<&Value>, name: &str, text: &str) -> Result<Value, ParameterError> {
    let Some(property) = schema.and_then(|root| property(root, name)) else {
        return Ok(Value::from(text));
    };
    let types = declared(property.root, property.schema, 0);
    if types.is_empty() {
        return Ok(constant(property.schema, text).unwrap_or_else(|| Value::from(text)));
    }
    types.iter().find_map(|kind| parse(kind, text)).ok_or_else(|| ParameterError::Type {
        name: name.to_owned(),
        text: text.to_owned(),
        expected: types.join(" or "),
        example: example(name, &types[0]),
    })
}

struct Property<'a> {
    root: &'a Value,
    schema: &'a Value,
}

fn property<'a>(root: &'a Value, name: &str) -> Option<Property<'a>> {
    let open = || root.get("additionalProperties").or_else(|| referred(root, root)?.get("additionalProperties"));
    Some(Property { root, schema: member(root, root, name, 0).or_else(open)? })
}

/// The schema of a member, wherever the schema of the whole names it: itself, behind a local `$ref`, or in one of `allOf`.
fn member<'a>(root: &'a Value, schema: &'a Value, name: &str, depth: usize) -> Option<&'a Value> {
    // A schema may refer to itself; no sensible one is deeper.
    if depth > DEEPEST {
        return None;
    }
    let own = schema.get("properties").and_then(|members| members.get(name));
    let all_of = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    let mut parts = referred(root, schema).into_iter().chain(all_of);
    own.or_else(|| parts.find_map(|part| member(root, part, name, depth + 1)))
}

/// What a local `$ref` points to.
fn referred<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    root.pointer(schema.get("$ref").and_then(Value::as_str)?.strip_prefix('#')?)
}

/// Types a schema declares: its own, those of a local `$ref`, those of its parts and alternatives.
fn declared(root: &Value, schema: &Value, depth: usize) -> Vec<String> {
    // A schema may refer to itself; no sensible one is deeper.
    if depth > DEEPEST {
        return Vec::new();
    }
    match schema.get("type") {
        Some(Value::String(one)) => return vec![one.clone()],
        Some(Value::Array(many)) => return many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => {}
    }
    if let Some(target) = referred(root, schema) {
        return declared(root, target, depth + 1);
    }
    let mut types = Vec::new();
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for alternative in schema.get(keyword).and_then(Value::as_array).into_iter().flatten() {
            for kind in declared(root, alternative, depth + 1) {
                if !types.contains(&kind) {
                    types.push(kind);
                }
            }
        }
    }
    types
}

/// The member of an untyped `enum` or `const` that reads as the text.
fn constant(schema: &Value, text: &str) -> Option<Value> {
    let single = schema.get("const").into_iter();
    let many = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let reads_as = |value: &Value| match value {
        Value::String(own) => own == text,
        other => serde_json::from_str::<Value>(text).is_ok_and(|given| given == *other),
    };
    single.chain(many).find(|value| reads_as(value)).cloned()
}

fn parse(kind: &str, text: &str) -> Option<Value> {
    if kind == "string" {
        return Some(Value::from(text));
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let fits = match kind {
        // 3.0 is an integer to JSON Schema.
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    };
    fits.then_some(value)
}

fn example(name: &str, kind: &str) -> String {
    match kind {
        "integer" => format!("{name}=3"),
        "number" => format!("{name}=0.5"),
        "boolean" => format!("{name}=true"),
        "array" => format!("'{name}=[\"a\",\"b\"]'"),
        "object" => format!("'{name}={{\"key\":\"value\"}}'"),
        "null" => format!("{name}=null"),
        _ => format!("{name}=text"),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests {
    use super::{ParameterError, assemble, read, split};
    use serde_json::{Map, Value, json};

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "course": {"type": "string"},
                "depth": {"type": "integer"},
                "ratio": {"type": "number"},
                "dry": {"type": "boolean"},
                "tags": {"type": "array"},
                "map": {"type": "object"},
                "maybe": {"type": ["integer", "null"]},
                "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "text-first": {"type": ["string", "integer"]},
                "ref": {"$ref": "#/$defs/count"},
                "loop": {"$ref": "#/$defs/loop"},
                "level": {"enum": [1, 2, "high"]},
                "any": {}
            },
            "$defs": {"count": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}
        })
    }

    fn one(name: &str, text: &str) -> Result<Value, ParameterError> {
        let pairs = [(name.to_owned(), text.to_owned())];
        assemble(Some(&schema()), Map::new(), &pairs).map(|mut all| all.remove(name).expect("present"))
    }

    #[test]
    fn a_text_becomes_what_the_schema_says() {
        for (name, text, expected) in [
            ("course", "42", json!("42")),
            ("course", "", json!("")),
            ("course", "a=b", json!("a=b")),
            ("depth", "42", json!(42)),
            ("depth", "-1", json!(-1)),
            ("depth", "3.0", json!(3.0)),
            ("ratio", "0.5", json!(0.5)),
            ("ratio", "7", json!(7)),
            ("dry", "true", json!(true)),
            ("tags", "[\"a\",1]", json!(["a", 1])),
            ("map", "{\"k\":[]}", json!({"k": []})),
            ("maybe", "null", json!(null)),
            ("maybe", "5", json!(5)),
            ("either", "5", json!(5)),
            ("either", "five", json!("five")),
            ("text-first", "5", json!("5")),
            ("ref", "9", json!(9)),
            ("loop", "9", json!("9")),
            ("level", "2", json!(2)),
            ("level", "high", json!("high")),
            ("any", "12", json!("12")),
            ("undeclared", "true", json!("true")),
        ] {
            assert_eq!(one(name, text), Ok(expected), "-p {name}={text}");
        }
    }

    #[test]
    fn a_text_of_the_wrong_type_is_refused_with_an_example() {
        for (name, text) in
            [("depth", "deep"), ("depth", "1.5"), ("dry", "yes"), ("tags", "a,b"), ("map", "[]"), ("maybe", "x")]
        {
            let error = one(name, text).expect_err(name);
            assert!(matches!(error, ParameterError::Type { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(
            one("depth", "deep").expect_err("no integer").to_string(),
            "-p depth=\"deep\": the definition declares \"depth\" as integer; write for example -p depth=3"
        );
    }

    #[test]
    fn undeclared_names_take_the_type_of_additional_properties() {
        let open = json!({"additionalProperties": {"type": "integer"}});
        let pairs = [("n".to_owned(), "4".to_owned())];
        assert_eq!(assemble(Some(&open), Map::new(), &pairs).expect("typed")["n"], json!(4));
        let closed = json!({"additionalProperties": false});
        assert_eq!(assemble(Some(&closed), Map::new(), &pairs).expect("kept")["n"], json!("4"));
    }

    #[test]
    fn a_type_is_found_wherever_the_schema_names_it() {
        let schema = json!({"$ref": "#/$defs/run", "$defs": {
            "run": {"allOf": [{"properties": {"a": {"type": "string"}}}, {"$ref": "#/$defs/more"}]},
            "more": {"properties": {"n": {"allOf": [{"type": "integer"}, {"maximum": 9}]}}, "additionalProperties": false},
        }});
        let pairs = [("n".to_owned(), "4".to_owned()), ("a".to_owned(), "4".to_owned())];
        let all = assemble(Some(&schema), Map::new(), &pairs).expect("typed");
        assert_eq!(Value::Object(all), json!({"n": 4, "a": "4"}));
        let circle = json!({"$ref": "#"});
        assert_eq!(assemble(Some(&circle), Map::new(), &pairs).expect("kept")["n"], json!("4"));
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_a_name_stands_once() {
        let file = read("p.yaml", "course: from-file\ndepth: 1\n").expect("a mapping");
        let all = assemble(Some(&schema()), file, &[("depth".into(), "2".into())]).expect("typed");
        assert_eq!(Value::Object(all), json!({"course": "from-file", "depth": 2}));
        let twice = [("depth".to_owned(), "1".to_owned()), ("depth".to_owned(), "2".to_owned())];
        assert_eq!(assemble(None, Map::new(), &twice), Err(ParameterError::Repeat("depth".into())));
    }

    #[test]
    fn a_file_is_a_mapping_in_yaml_or_json() {
        assert_eq!(read("f", "{\"a\": 1}").expect("json")["a"], json!(1));
        assert!(read("f", "").expect("empty").is_empty());
        assert!(matches!(read("f", "- a"), Err(ParameterError::Shape { found: "a list", .. })));
        assert!(matches!(read("f", "a: [unclosed"), Err(ParameterError::Syntax { .. })));
    }

    #[test]
    fn a_pair_needs_a_name_and_an_equals_sign() {
        assert_eq!(split("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(split("a").is_err());
        assert!(split("=b").is_err());
    }
}
