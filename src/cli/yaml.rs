//! YAML as kubectl reads it, which is version 1.1: `NO` is false, `0440` is octal, `<<` merges. What a file means must not
//! depend on who reads it, so what `lint` says and what `run -f` sends is what the API server would get.

use std::collections::{BTreeSet, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

/// Most values of a document, those that aliases repeat included: a few lines can stand for billions.
const VALUES: usize = 100_000;
/// Deepest nesting.
const DEPTH: usize = 100;

/// A text that kubectl would not take, or that has no equal in JSON.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum YamlError {
    /// Not YAML.
    #[error("{0}")]
    Syntax(String),
    /// YAML without an equal in JSON.
    #[error("line {line}: {what}")]
    Shape {
        /// From 1.
        line: usize,
        /// What it is.
        what: String,
    },
}

/// Every document up to the first one that cannot be read, and what is wrong with that.
pub(crate) fn documents(text: &str) -> (Vec<Value>, Option<YamlError>) {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let read = event.map_err(|error| YamlError::Syntax(error.to_string()));
        let read = read.and_then(|(event, span)| {
            reader.take(event).map_err(|what| YamlError::Shape { line: span.start.line(), what })
        });
        if let Err(error) = read {
            return (reader.documents, Some(error));
        }
    }
    (reader.documents, None)
}

#[derive(Default)]
struct Reader {
    documents: Vec<Value>,
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    values: usize,
}

/// A list or a mapping whose end has not come yet, and its anchor.
struct Open {
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Value>),
    Mapping {
        members: Map<String, Value>,
        /// Keys that stand here, not in something that is merged.
        own: BTreeSet<String>,
        key: Option<Key>,
    },
}

enum Key {
    Name(String),
    Merge,
}

impl Reader {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) => (self.values, self.anchors) = (0, HashMap::new()),
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                if self.expects_key() {
                    let key = key(&text, is_plain, tag.as_deref())?;
                    if anchor > 0 {
                        self.anchors.insert(anchor, Value::from(text.as_ref()));
                    }
                    return self.begin_member(key);
                }
                self.value(scalar(&text, is_plain, tag.as_deref())?, anchor)?;
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().ok_or("an alias of what is not complete yet")?;
                self.count(size(&value))?;
                if self.expects_key() {
                    let Value::String(name) = value else { return Err("an alias of no text as a key".to_owned()) };
                    return self.begin_member(Key::Name(name));
                }
                self.place(value)?;
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Content::List(Vec::new()))?,
            Event::MappingStart(anchor, _) => {
                self.begin(anchor, Content::Mapping { members: Map::new(), own: BTreeSet::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { anchor, content } = self.open.pop().ok_or("an end without a beginning")?;
                let value = match content {
                    Content::List(items) => Value::Array(items),
                    Content::Mapping { members, .. } => Value::Object(members),
                };
                self.value(value, anchor)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn begin(&mut self, anchor: usize, content: Content) -> Result<(), String> {
        if self.expects_key() {
            return Err("a list or a mapping as a key: JSON has texts only".to_owned());
        }
        if self.open.len() == DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
        self.open.push(Open { anchor, content });
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Mapping { key: None, .. }, .. }))
    }

    fn begin_member(&mut self, begun: Key) -> Result<(), String> {
        let Some(Open { content: Content::Mapping { own, key, .. }, .. }) = self.open.last_mut() else { return Ok(()) };
        if let Key::Name(name) = &begun
            && !own.insert(name.clone())
        {
            return Err(format!("the key {name:?} stands twice in one mapping: only one of the values would count"));
        }
        *key = Some(begun);
        Ok(())
    }

    /// A value that is complete.
    fn value(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.count(1)?;
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        self.place(value)
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        if self.values > VALUES { Err(format!("more than {VALUES} values, aliases included")) } else { Ok(()) }
    }

    fn place(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(value),
            Some(Content::List(items)) => items.push(value),
            Some(Content::Mapping { members, key, .. }) => match key.take() {
                Some(Key::Name(name)) => drop(members.insert(name, value)),
                Some(Key::Merge) => merge(members, value)?,
                None => return Err("a value without a key".to_owned()),
            },
        }
        Ok(())
    }
}

/// As kubectl's library does it: what is merged replaces what stood before, what follows replaces it; of several mappings
/// the first has the last word.
fn merge(members: &mut Map<String, Value>, value: Value) -> Result<(), String> {
    let wrong = || "`<<` merges mappings, and this is something else".to_owned();
    match value {
        Value::Object(more) => members.extend(more),
        Value::Array(mappings) => {
            for mapping in mappings.into_iter().rev() {
                let Value::Object(more) = mapping else { return Err(wrong()) };
                members.extend(more);
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => 0,
    }
}

fn key(text: &str, is_plain: bool, tag: Option<&Tag>) -> Result<Key, String> {
    if is_plain && tag.is_none() && text == "<<" {
        return Ok(Key::Merge);
    }
    match scalar(text, is_plain, tag)? {
        Value::String(text) => Ok(Key::Name(text)),
        Value::Null => Err("a key without a name".to_owned()),
        other => Ok(Key::Name(other.to_string())),
    }
}

fn scalar(text: &str, is_plain: bool, tag: Option<&Tag>) -> Result<Value, String> {
    // Any other tag makes it a text; so does one that means nothing to JSON.
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match (tag.is_some(), core) {
        (false, _) if is_plain => plain(text),
        (true, Some("int" | "float" | "bool" | "null")) => plain(text),
        _ => Ok(Value::from(text)),
    }
}

/// What a text without quotes stands for.
fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        _ => {}
    }
    let (negative, unsigned) = (text.starts_with('-'), text.strip_prefix(['+', '-']).unwrap_or(text));
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err(format!("{text} is no number of JSON: quote it"));
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(Value::from(text));
    }
    let digits = unsigned.replace('_', "");
    let number = integer(&digits, negative).or_else(|| float(&digits, negative));
    Ok(number.map_or_else(|| Value::from(text), Value::Number))
}

/// `0x`, `0o` and `0b` as in Go, and a leading zero as in C.
fn integer(digits: &str, negative: bool) -> Option<Number> {
    if digits.contains(['+', '-']) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let read = u64::from_str_radix(digits, radix).ok()?;
    match negative {
        true => i64::try_from(-i128::from(read)).ok().map(Number::from),
        false => Some(Number::from(read)),
    }
}

/// A whole one is written without a point, as the API server would.
fn float(digits: &str, negative: bool) -> Option<Number> {
    let known = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if digits.starts_with(['+', '-']) || !digits.bytes().all(known) || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let read: f64 = digits.parse().ok()?;
    let read = if negative { -read } else { read };
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
    let whole = (read.fract() == 0.0 && read.abs() < 9_007_199_254_740_992.0).then(|| Number::from(read as i64));
    whole.or_else(|| Number::from_f64(read))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        match documents(text) {
            (mut all, None) if all.len() == 1 => all.remove(0),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn wrong(text: &str) -> String {
        documents(text).1.expect("refused").to_string()
    }

    /// Each value as `kubectl create --dry-run=client -o json` of 1.34 shows it.
    #[test]
    fn a_plain_text_is_what_kubectl_takes_it_for() {
        for (text, value) in [
            ("NO", json!(false)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("'NO'", json!("NO")),
            ("\"on\"", json!("on")),
            ("!!str NO", json!("NO")),
            ("Norway", json!("Norway")),
            ("~", json!(null)),
            ("", json!(null)),
            ("0440", json!(288)),
            ("0o440", json!(288)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("-010", json!(-8)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("089", json!(89)),
            ("1.10", json!(1.1)),
            ("3.0", json!(3)),
            ("-1.5e3", json!(-1500)),
            (".5", json!(0.5)),
            ("1e3", json!(1000)),
            ("9223372036854775807", json!(9_223_372_036_854_775_807_i64)),
            ("-9223372036854775808", json!(-9_223_372_036_854_775_808_i64)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("2027-01-31", json!("2027-01-31")),
            ("2027-01-31T10:00:00Z", json!("2027-01-31T10:00:00Z")),
            ("12:30", json!("12:30")),
            ("1.2.3", json!("1.2.3")),
            ("10Gi", json!("10Gi")),
            ("0xzz", json!("0xzz")),
            ("+", json!("+")),
            (".", json!(".")),
            ("--5", json!("--5")),
            ("e5", json!("e5")),
            ("1e", json!("1e")),
        ] {
            assert_eq!(one(&format!("a: {text}\n"))["a"], value, "{text}");
        }
    }

    #[test]
    fn keys_are_texts() {
        assert_eq!(one("NO: 1\n1: 2\nnull_key: 3\n'y': 4\n"), json!({"false": 1, "1": 2, "null_key": 3, "y": 4}));
        assert!(wrong("? [a]\n: 1\n").contains("as a key"));
        assert!(wrong("~: 1\n").contains("without a name"));
        assert!(wrong("a: 1\nb: 2\na: 3\n").contains("\"a\" stands twice"), "{}", wrong("a: 1\nb: 2\na: 3\n"));
    }

    #[test]
    fn merge_keys_fill_in_and_what_follows_wins() {
        let text = "base: &base {a: 1, b: 1}\nmore: &more {b: 2, c: 2}\nboth:\n  <<: [*base, *more]\n  c: 3\nold:\n  a: 9\n  <<: *base\n";
        let read = one(text);
        assert_eq!(read["both"], json!({"a": 1, "b": 1, "c": 3}));
        assert_eq!(read["old"], json!({"a": 1, "b": 1}), "as kubectl's library has it");
        assert_eq!(one("'<<': {a: 1}\n"), json!({"<<": {"a": 1}}), "in quotes it is a name");
        assert!(wrong("<<: 5\n").contains("merges mappings"));
    }

    #[test]
    fn a_few_lines_do_not_stand_for_billions() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        assert!(wrong(&text).contains("100000 values"), "{}", wrong(&text));
        assert!(wrong(&"[".repeat(200)).contains("100 levels"));
    }

    #[test]
    fn documents_follow_each_other_up_to_the_one_that_is_broken() {
        let (read, error) = documents("a: 1\n---\n{\"b\": [2]}\n---\nc: [\n");
        assert_eq!(read, [json!({"a": 1}), json!({"b": [2]})]);
        assert!(matches!(error, Some(YamlError::Syntax(_))), "{error:?}");
        assert_eq!(documents("").0, Vec::<Value>::new());
    }
}
