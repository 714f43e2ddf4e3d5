//! What cannot be decoded is set aside object by object, before anybody decodes it: one object of one tenant must not make
//! the list unreadable that all tenants are in, nor fill the memory of the process.
//!
//! Every JSON answer of the API server passes through [`Screen`], byte by byte, holding one object at a time. The managed fields
//! and what `kubectl apply` keeps are left out of each object: nothing here needs them, they are most of its bytes, and whoever
//! may patch an object can put a time there that no program can read. An object of a list or a watch that is too large or
//! nested too deeply is replaced by a stub: its identity, and [`ANNOTATION_UNREADABLE`], which says why. Kinds with required
//! fields then fail to decode one by one in `DeserializeGuard`, and the rest of the list is read.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Either};
use serde_json::json;

use super::names::ANNOTATION_UNREADABLE;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Levels that an object may be nested: `serde_json` reads 128, and a list or an event is around it.
const MAX_DEPTH: usize = 100;
/// Bytes that an object may have, without its managed fields. What admission lets in is smaller.
const MAX_BYTES: usize = 512 << 10;
/// Bytes of a field that is kept of an object that is set aside.
const MAX_KEPT: usize = 8 << 10;
/// Bytes of a key that can be one of those looked for.
const MAX_KEY: usize = 64;
/// Levels whose keys matter: list, items, object, metadata, annotations, and one to spare.
const KEYS: usize = 7;

/// Where `kubectl apply` keeps what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields of the metadata that are kept of an object that is set aside: who it is, and what its end waits for.
const KEPT: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "name",
    "namespace",
    "resourceVersion",
    "uid",
];

/// What is left out of each object, beside its managed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Nothing more.
    Nothing,
    /// The parameters of AsyncTasks, which may be large, and are read one by one where they are judged.
    Parameters,
}

/// Screens the body of an answer, when it is JSON.
pub fn screened<B>(
    answer: Response<B>,
    without: Without,
) -> Response<impl http_body::Body<Data = Bytes, Error = BoxError>>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    let (parts, body) = answer.into_parts();
    let body = if is_json(&parts.headers) {
        let mut screen = Screen::new(without);
        Either::Left(body.map_frame(move |frame| frame.map_data(|data| screen.pass(&data))))
    } else {
        Either::Right(body)
    };
    Response::from_parts(parts, body)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// An object, a list of objects, or the events of a watch, one after the other.
#[derive(Debug)]
struct Screen {
    without: Without,
    /// Of each open container, whether it is an array.
    open: Vec<bool>,
    /// The latest key of each of the outer levels.
    keys: [Vec<u8>; KEYS],
    state: LexerState,
    /// The element of a list, or the object of an event, that we are in.
    object: Option<Held>,
    /// The kind of the object that we are in, as JSON.
    kind: Vec<u8>,
    /// How many containers are open around the kind while it is read.
    reads_kind: Option<usize>,
    /// How many containers are open around the value that is left out.
    leaves_out: Option<usize>,
    passed: Vec<u8>,
}

/// What the next byte may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LexerState {
    /// A key or the end of an object comes.
    Key,
    /// A value comes.
    Value,
    /// Behind a key or the first byte of a value.
    Behind,
    /// In the string of a key or of a value; whether the last byte escapes the next.
    In { key: bool, escaped: bool },
}

/// An object that was not passed on yet.
#[derive(Debug, Default)]
struct Held {
    /// How many containers are open in it, itself included, when its fields begin.
    base: usize,
    bytes: Vec<u8>,
    size: usize,
    depth: usize,
    kept: Vec<(String, Vec<u8>)>,
    /// How many containers are open around the value that is kept now.
    keeps: Option<usize>,
}

impl Screen {
    fn new(without: Without) -> Self {
        Self {
            without,
            open: Vec::new(),
            keys: Default::default(),
            state: LexerState::Value,
            object: None,
            kind: Vec::new(),
            reads_kind: None,
            leaves_out: None,
            passed: Vec::new(),
        }
    }

    /// What of these bytes, and of those before, can be passed on.
    fn pass(&mut self, bytes: &[u8]) -> Bytes {
        for byte in bytes {
            self.step(*byte);
        }
        Bytes::from(std::mem::take(&mut self.passed))
    }

    fn step(&mut self, byte: u8) {
        if let LexerState::In { key, escaped } = self.state {
            let ends = byte == b'"' && !escaped;
            if key && !ends {
                let level = self.open.len();
                if let Some(known) = self.keys.get_mut(level).filter(|known| known.len() <= MAX_KEY) {
                    known.push(byte);
                }
            }
            let inside = LexerState::In { key, escaped: byte == b'\\' && !escaped };
            self.state = if ends { LexerState::Behind } else { inside };
            return self.put(byte);
        }
        match byte {
            b'"' if self.state == LexerState::Key => {
                if let Some(known) = self.keys.get_mut(self.open.len()) {
                    known.clear();
                }
                self.state = LexerState::In { key: true, escaped: false };
                self.put(byte);
            }
            b'"' => {
                self.begin(byte);
                self.state = LexerState::In { key: false, escaped: false };
                self.put(byte);
            }
            b'{' | b'[' => {
                self.begin(byte);
                self.put(byte);
                self.open.push(byte == b'[');
                self.state = if byte == b'[' { LexerState::Value } else { LexerState::Key };
                if let Some(object) = &mut self.object
                    && self.leaves_out.is_none()
                {
                    object.depth = object.depth.max(self.open.len() + 1 - object.base);
                }
            }
            b'}' | b']' => {
                self.end();
                self.put(byte);
                self.open.pop();
                self.state = if self.open.is_empty() { LexerState::Value } else { LexerState::Behind };
                if let Some(object) = self.object.take_if(|object| self.open.len() < object.base) {
                    self.passed.extend(object.told());
                }
            }
            b',' => {
                self.end();
                self.put(byte);
                self.state = if self.open.last() == Some(&true) { LexerState::Value } else { LexerState::Key };
            }
            b':' => {
                self.put(byte);
                self.state = LexerState::Value;
            }
            byte if byte.is_ascii_whitespace() => self.put(byte),
            byte => {
                self.begin(byte);
                self.put(byte);
            }
        }
    }

    fn put(&mut self, byte: u8) {
        if self.leaves_out.is_some() {
            return;
        }
        if self.reads_kind.is_some() && self.kind.len() <= MAX_KEY {
            self.kind.push(byte);
        }
        match &mut self.object {
            Some(object) => object.put(byte),
            None => self.passed.push(byte),
        }
    }

    /// A value begins, unless one has begun already.
    fn begin(&mut self, byte: u8) {
        if self.state != LexerState::Value {
            return;
        }
        self.state = LexerState::Behind;
        let level = self.open.len();
        let base = self.object.as_ref().map_or(1, |object| object.base);
        if self.leaves_out.is_none()
            && let Some(instead) = self.left_out(level, base)
        {
            instead.iter().for_each(|byte| self.put(*byte));
            self.leaves_out = Some(level);
        }
        if level == base && self.key(level) == "kind" {
            self.kind.clear();
            self.reads_kind = Some(level);
        }
        let name = self.key(level);
        let own = level == base && ["apiVersion", "kind"].contains(&name);
        let of_metadata = level == base + 1 && self.key(base) == "metadata" && KEPT.contains(&name);
        let kept = (own || of_metadata).then(|| name.to_owned());
        let begins = byte == b'{' && self.is_object(level);
        match (&mut self.object, kept) {
            (Some(object), Some(name)) => {
                object.kept.push((name, Vec::new()));
                object.keeps = Some(level);
            }
            (Some(_), None) => {}
            (None, _) if begins => {
                self.object = Some(Held { base: level + 1, ..Held::default() });
                self.kind.clear();
            }
            (None, _) => {}
        }
    }

    /// A value may have ended, and its container goes on or ends.
    fn end(&mut self) {
        let level = self.open.len();
        self.leaves_out.take_if(|began| *began == level);
        self.reads_kind.take_if(|began| *began == level);
        if let Some(object) = &mut self.object {
            object.keeps.take_if(|began| *began == level);
        }
    }

    /// Whether the value that begins is an element of a list or the object of an event.
    fn is_object(&self, level: usize) -> bool {
        let of_list = level == 2 && self.open == [false, true] && self.key(1) == "items";
        of_list || level == 1 && self.key(1) == "object"
    }

    /// What stands in the place of a value that is left out.
    fn left_out(&self, level: usize, base: usize) -> Option<&'static [u8]> {
        match (level.checked_sub(base)?, self.key(base), self.key(base + 1)) {
            (1, "metadata", "managedFields") => Some(b"null"),
            (1, "spec", "parameters") if self.without == Without::Parameters && self.kind == b"\"AsyncTask\"" => {
                Some(b"null")
            }
            // The object once more, escaped.
            (2, "metadata", "annotations") if self.key(base + 2) == LAST_APPLIED => Some(b"\"\""),
            _ => None,
        }
    }

    /// The latest key of a level; empty where it is long, and none that is looked for.
    fn key(&self, level: usize) -> &str {
        let known = self.keys.get(level).filter(|key| key.len() <= MAX_KEY);
        known.and_then(|key| str::from_utf8(key).ok()).unwrap_or_default()
    }
}

impl Held {
    fn put(&mut self, byte: u8) {
        self.size += 1;
        if self.size <= MAX_BYTES {
            self.bytes.push(byte);
        }
        if self.keeps.is_some()
            && let Some((_, value)) = self.kept.last_mut()
            && value.len() <= MAX_KEPT
        {
            value.push(byte);
        }
    }

    /// The object, or what stands for it.
    fn told(self) -> Vec<u8> {
        let why = if self.size > MAX_BYTES {
            format!("it has {} bytes, of which at most {MAX_BYTES} can be read", self.size)
        } else if self.depth > MAX_DEPTH {
            format!("it is nested {} levels deep, of which at most {MAX_DEPTH} can be read", self.depth)
        } else {
            return self.bytes;
        };
        let mut stub = json!({"metadata": {"annotations": {ANNOTATION_UNREADABLE: why}}});
        for (name, value) in self.kept {
            // What is too long, or too deep, to be kept is left out.
            let Some(value) = (value.len() <= MAX_KEPT).then(|| serde_json::from_slice(&value).ok()).flatten() else {
                continue;
            };
            let into = if KEPT.contains(&name.as_str()) { &mut stub["metadata"] } else { &mut stub };
            into[name] = value;
        }
        stub.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is passed on of a text that comes in pieces of this many bytes.
    fn passed(text: &str, piece: usize, without: Without) -> String {
        let mut screen = Screen::new(without);
        let passed: Vec<u8> = text.as_bytes().chunks(piece).flat_map(|bytes| screen.pass(bytes)).collect();
        String::from_utf8(passed).expect("UTF-8")
    }

    /// The same, whatever the pieces.
    fn screen(text: &str, without: Without) -> Value {
        let whole = passed(text, text.len(), without);
        for piece in [1, 7, 4096] {
            assert_eq!(passed(text, piece, without), whole);
        }
        serde_json::from_str(&whole).unwrap_or_else(|error| panic!("{error}: {whole}"))
    }

    fn task(name: &str, parameters: Value) -> Value {
        json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {
                "finalizers": ["asynctask.dev/outputs"], "labels": {"a{": "}\\\"]"}, "managedFields": [{"time": "9999-12-31T23:59:59Z"}],
                "name": name, "namespace": "studio", "uid": "u-1",
            },
            "spec": {"definition": {"name": "import"}, "parameters": parameters}, "status": {"metadata": {"managedFields": 1}},
        })
    }

    fn list(items: &[Value]) -> String {
        json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"continue": "c", "resourceVersion": "7"}}).to_string()
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"items": inner}) })
    }

    /// Without the managed fields, and nothing else.
    fn slim(mut object: Value) -> Value {
        object["metadata"]["managedFields"] = Value::Null;
        object
    }

    #[test]
    fn what_can_be_read_is_passed_on_without_its_managed_fields() {
        let tasks = [task("a", json!({"items": [{"x": "\\"}, []], "object": {}})), task("b", nested(MAX_DEPTH - 3))];
        let passed = screen(&list(&tasks), Without::Nothing);
        assert_eq!(passed["items"], json!(tasks.clone().map(slim)));
        assert_eq!(passed["metadata"], json!({"continue": "c", "resourceVersion": "7"}));
        let single = tasks[0].to_string();
        assert_eq!(screen(&single, Without::Nothing), slim(tasks[0].clone()));
        let pretty = serde_json::to_string_pretty(&tasks[1]).expect("JSON");
        assert_eq!(screen(&pretty, Without::Nothing), slim(tasks[1].clone()));
    }

    #[test]
    fn an_object_that_is_too_deep_or_too_large_is_set_aside_and_the_others_are_not() {
        let deep = format!("[{}1{}]", "[".repeat(9000), "]".repeat(9000));
        let large = json!("x".repeat(MAX_BYTES)).to_string();
        for (hostile, why) in [(deep, "nested 9003 levels deep"), (large, "bytes, of which at most 524288 can be read")]
        {
            let of_items = list(&[task("a", json!({})), task("bad", json!("here")), task("c", json!({}))]);
            let passed = screen(&of_items.replace("\"here\"", &hostile), Without::Nothing);
            assert_eq!(passed["items"][0], slim(task("a", json!({}))));
            assert_eq!(passed["items"][2], slim(task("c", json!({}))));
            let stub = &passed["items"][1];
            let said = stub["metadata"]["annotations"][ANNOTATION_UNREADABLE].as_str().expect("a reason");
            assert!(said.contains(why), "{said}");
            assert_eq!(
                (&stub["kind"], &stub["spec"], &stub["metadata"]["labels"]),
                (&json!("AsyncTask"), &Value::Null, &Value::Null)
            );
            assert_eq!(stub["metadata"]["finalizers"], json!(["asynctask.dev/outputs"]));
            assert_eq!((&stub["metadata"]["name"], &stub["metadata"]["uid"]), (&json!("bad"), &json!("u-1")));

            let events = format!(
                "{}\n{}\n",
                json!({"type": "ADDED", "object": task("bad", json!("here"))})
                    .to_string()
                    .replace("\"here\"", &hostile),
                json!({"object": task("c", json!({})), "type": "ADDED"}),
            );
            let lines: Vec<Value> = passed_lines(&events);
            assert_eq!((&lines[0]["type"], &lines[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("bad")));
            assert_eq!(lines[0]["object"]["spec"], Value::Null);
            assert_eq!(lines[1]["object"], slim(task("c", json!({}))));
        }
    }

    fn passed_lines(events: &str) -> Vec<Value> {
        passed(events, 100, Without::Nothing).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn what_is_left_out_is_neither_too_large_nor_too_deep() {
        let mut object = task("a", nested(200));
        object["metadata"]["managedFields"] = nested(200);
        object["metadata"]["annotations"] = json!({LAST_APPLIED: "\\\"x".repeat(MAX_BYTES), "mine": "y"});
        let passed = screen(&list(&[object]), Without::Parameters);
        let mut kept = slim(task("a", Value::Null));
        kept["metadata"]["annotations"] = json!({LAST_APPLIED: "", "mine": "y"});
        assert_eq!(passed["items"][0], kept);
    }

    #[test]
    fn a_stub_keeps_little_however_much_there_is() {
        let names: Vec<String> = (0..20_000).map(|number| format!("example.com/{number}")).collect();
        let mut large = task("bad", json!("x".repeat(MAX_BYTES)));
        large["metadata"]["finalizers"] = json!(names);
        let passed = screen(&list(&[large]), Without::Nothing);
        assert_eq!(passed["items"][0]["metadata"]["finalizers"], Value::Null);
        assert_eq!(passed["items"][0]["metadata"]["namespace"], "studio");
        assert!(passed.to_string().len() < 1000);
    }

    #[test]
    fn parameters_are_left_out_of_tasks_alone_however_large_they_are() {
        let parameters = json!({"ids": vec![1; MAX_BYTES]});
        let mut definition = task("d", json!({"type": "object"}));
        definition["kind"] = json!("TaskDefinition");
        let passed = screen(&list(&[task("a", parameters), definition.clone()]), Without::Parameters);
        assert_eq!(passed["items"][0], slim(task("a", Value::Null)));
        assert_eq!(passed["items"][1], slim(definition.clone()));
        assert_eq!(screen(&task("a", json!({"a": 1})).to_string(), Without::Parameters), slim(task("a", Value::Null)));
        assert_eq!(screen(&definition.to_string(), Without::Parameters), slim(definition));
    }

    #[test]
    fn what_is_no_object_of_kubernetes_passes_as_it_is() {
        for text in [
            "{}",
            "[]",
            "null",
            "12",
            "\"a\"",
            r#"{"items": null, "object": 3, "metadata": []}"#,
            r#"{"items":[1,[],"x",{}]}"#,
            "",
        ] {
            assert_eq!(passed(text, 1, Without::Nothing), text);
        }
        assert!(!is_json(&HeaderMap::new()), "logs of pods have no type, or another");
    }
}
