//! What came of a run, and whether it is what came of it without a fault.

use std::collections::{BTreeMap, BTreeSet};

use asynctask_operator::storage::records::RECORD_MAX;
use asynctask_operator::storage::{Layout, ObjectStore};
use serde_json::Value;

use crate::site::{PREFIX, Site};
use crate::support::{Namespace, audit, get};

/// Names of the oracles, in the order of [`End::judge`].
pub(crate) const NAMES: [&str; 5] = ["O1 ledger", "O2 objects", "O3 audit", "O4 bucket", "O5 secrets"];

/// Names of pods tell nothing.
const PODS_DELETED: &str = "delete pods";

/// What came of a run, without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// O1: how often each attempt began.
    pub(crate) ledger: BTreeMap<String, usize>,
    /// O2: the objects that are there.
    objects: BTreeMap<String, Value>,
    /// O3: how often something was created or deleted.
    pub(crate) changes: BTreeMap<String, usize>,
    /// O4: the keys in the bucket.
    keys: Vec<String>,
    /// O4: keys that no manifest names, and names without a key.
    pub(crate) strays: Vec<String>,
    /// O5: where a secret was seen.
    pub(crate) leaks: Vec<String>,
}

impl End {
    /// Looks at a namespace as it is now.
    pub(crate) fn of(ns: &Namespace, site: &Site) -> Self {
        let (keys, strays) = site.runtime.block_on(bucket(&ns.name, site));
        let mut keys: Vec<String> = keys.iter().map(|key| masked(key, &ns.name)).collect();
        keys.sort();
        Self {
            ledger: site.ledger.runs(&ns.name),
            objects: objects(ns),
            changes: changes(&ns.name),
            keys,
            strays,
            leaks: leaks(ns, site),
        }
    }

    /// The same after somebody has deleted the pods.
    pub(crate) fn with_pods_deleted(mut self) -> Self {
        self.changes.insert(PODS_DELETED.to_owned(), 1);
        self
    }

    /// What the last two oracles have against it, where there is no run to compare it with.
    pub(crate) fn judge_bytes(&self) -> [Option<String>; 2] {
        let any = |what: &str, found: &[String]| (!found.is_empty()).then(|| format!("{what}{}", found.join(", ")));
        [any("strays: ", &self.strays), any("", &self.leaks)]
    }

    /// One answer an oracle: nothing, or what is wrong.
    pub(crate) fn judge(&self, reference: &Self) -> [Option<String>; 5] {
        let differ = |what: String, same: bool| (!same).then_some(what);
        let wanted = |now: &dyn std::fmt::Debug, then: &dyn std::fmt::Debug| format!("{now:?}, not {then:?}");
        [
            differ(wanted(&self.ledger, &reference.ledger), self.ledger == reference.ledger),
            differ(difference(&self.objects, &reference.objects), self.objects == reference.objects),
            differ(wanted(&self.changes, &reference.changes), self.changes == reference.changes),
            differ(
                format!("{}; strays: {:?}", wanted(&self.keys, &reference.keys), self.strays),
                self.keys == reference.keys && self.strays.is_empty(),
            ),
            differ(self.leaks.join(", "), self.leaks.is_empty()),
        ]
    }
}

/// Our kinds and the Jobs, each without what differs from run to run.
fn objects(ns: &Namespace) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    for kind in ["asynctasks", "taskdefinitions", "taskrevisions", "jobs"] {
        for object in get(&["-n", &ns.name, kind])["items"].as_array().unwrap() {
            let name = masked(object["metadata"]["name"].as_str().unwrap(), &ns.name);
            objects.insert(format!("{kind} {name}"), lasting(object, &ns.name));
        }
    }
    objects
}

/// The label and annotation that somebody sets all the time: the Job gets the value that is set when it is made.
pub(crate) const EDITED: &str = "edited";
/// Fields that say how it went, not what came of it.
const PASSING: &[&str] = &["managedFields", "resourceVersion", "generation", "observedGeneration", "seq", EDITED];

fn lasting(value: &Value, namespace: &str) -> Value {
    match value {
        Value::String(text) => masked(text, namespace).into(),
        // Whether a run is seen to wait depends on who is faster.
        Value::Array(items) => {
            items.iter().filter(|item| item["to"] != "Pending").map(|item| lasting(item, namespace)).collect()
        }
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !PASSING.contains(&name.as_str()) && !name.ends_with("last-applied-configuration"))
            .filter(|(name, value)| *name != "from" || *value != "Pending")
            // Whether the node has said which image a step runs before the step is over.
            .filter(|(name, _)| *name != "image" || !fields.contains_key("state"))
            .map(|(name, value)| (masked(name, namespace), lasting(value, namespace)))
            .collect(),
        other => other.clone(),
    }
}

/// A text without the namespace, times, UIDs and hashes in it.
fn masked(text: &str, namespace: &str) -> String {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return "TIME".to_owned();
    }
    let text = text.replace(namespace, "NAMESPACE");
    let mut masked = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        // The seconds in the key of a history record have seven digits.
        let is_hash = bare.len() >= 7 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        masked.push_str(if is_hash { "HASH" } else { bare });
        masked.push_str(&word[bare.len()..]);
    }
    // What is left of a UID: the four-digit groups between its long ends.
    let groups: Vec<&str> = masked.split('-').collect();
    let is_group = |part: &&str| part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
    groups.into_iter().filter(|part| !is_group(part)).collect::<Vec<_>>().join("-")
}

/// What the API server let be created and deleted, by whomever: how often, of which kind.
fn changes(namespace: &str) -> BTreeMap<String, usize> {
    let (mut changes, mut pods) = (BTreeMap::new(), BTreeSet::new());
    for line in audit(namespace) {
        let (verb, object) = (line["verb"].as_str().unwrap_or_default(), &line["objectRef"]);
        let resource = object["resource"].as_str().unwrap_or_default();
        let ours = ["asynctasks", "taskdefinitions", "taskrevisions", "jobs", "pods"].contains(&resource);
        let done = line["responseStatus"]["code"].as_i64().is_some_and(|code| code < 300);
        let tried = line["requestURI"].as_str().unwrap_or_default().contains("dryRun");
        let made = ours && done && !tried && verb == "create";
        if made && resource == "pods" {
            pods.extend(pod_made(&line));
        } else if made && object["subresource"].is_null() {
            *changes.entry(format!("{verb} {resource}")).or_default() += 1;
        }
        // Deleting is asked for more than once by its nature: what counts is what was deleted.
        if ours && done && verb == "delete" {
            let name = masked(object["name"].as_str().unwrap_or_default(), namespace);
            changes.insert(
                if resource == "pods" { PODS_DELETED.to_owned() } else { format!("delete {resource} {name}") },
                1,
            );
        }
    }
    if !pods.is_empty() {
        changes.insert("create pods".to_owned(), pods.len());
    }
    changes
}

/// The name of a pod that a granted request shows to be there: its creation, or its binding to a node. A Job controller
/// that is killed does not wait for its replies, and the log then calls a creation cut off that was made all the same.
fn pod_made(line: &Value) -> Option<String> {
    let name = match line["objectRef"]["subresource"].as_str() {
        None => &line["responseObject"]["metadata"]["name"],
        Some("binding") => &line["objectRef"]["name"],
        Some(_) => return None,
    };
    name.as_str().map(str::to_owned)
}

/// Keys of a namespace; those that are neither named by a manifest nor of a kind that stands by itself, and names of
/// keys that are not there.
async fn bucket(namespace: &str, site: &Site) -> (Vec<String>, Vec<String>) {
    let keys = all_keys(namespace, site).await;
    let last = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let mut named = BTreeSet::new();
    for key in keys.iter().filter(|key| last(key).starts_with("manifest-")) {
        let bytes = site.store.get_bytes(key, RECORD_MAX).await.unwrap();
        // A manifest names files; that of a fan-out names pages, whose shards do.
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
        let of_shards = list(&manifest, "shards").into_iter().flat_map(|shard| list(&shard, "files"));
        let files = list(&manifest, "files").into_iter().chain(of_shards);
        named.extend(files.map(|file| file["key"].as_str().unwrap().to_owned()));
    }
    let stands = |key: &&String| {
        let last = last(key);
        key.contains("/_history/")
            || last.starts_with("manifest-")
            || ["commit", "failure", "log"].contains(&last.as_str())
    };
    let strays = keys.iter().filter(|key| !stands(key) && !named.contains(*key)).chain(named.difference(&keys));
    let strays = strays.cloned().collect();
    (keys.into_iter().collect(), strays)
}

/// All keys of a namespace.
pub(crate) async fn all_keys(namespace: &str, site: &Site) -> BTreeSet<String> {
    let below = Layout::new(&format!("{PREFIX}/{namespace}")).unwrap();
    let (mut keys, mut after) = (BTreeSet::new(), None::<String>);
    loop {
        let page = site.store.list(below.root(), after.as_deref(), 1000).await.unwrap();
        after = page.objects.last().map(|meta| meta.key.clone());
        // The marker that a run's keys were deleted is swept a day later.
        keys.extend(page.objects.into_iter().map(|meta| meta.key).filter(|key| !key.contains("/_gone/")));
        if !page.more || after.is_none() {
            return keys;
        }
    }
}

fn leaks(ns: &Namespace, site: &Site) -> Vec<String> {
    let log = std::fs::read_to_string(&site.start.log).unwrap_or_default();
    let kinds = ["events", "asynctasks", "taskdefinitions", "jobs"];
    let told = kinds.map(|kind| get(&["-n", &ns.name, kind]).to_string()).concat();
    let places = [("the operator's log", log), ("objects and Events", told)];
    let leaky = |(_, text): &&(&str, String)| site.canaries.iter().any(|secret| text.contains(secret));
    places.iter().filter(leaky).map(|(place, _)| format!("a secret is in {place}")).collect()
}

/// The first places where two sets of objects differ.
fn difference(now: &BTreeMap<String, Value>, then: &BTreeMap<String, Value>) -> String {
    let names: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        compare(name, now.get(name).unwrap_or(&Value::Null), then.get(name).unwrap_or(&Value::Null), &mut found);
    }
    found.truncate(5);
    found.join("; ")
}

fn compare(path: &str, now: &Value, then: &Value, found: &mut Vec<String>) {
    match (now, then) {
        (Value::Object(a), Value::Object(b)) => {
            for field in a.keys().chain(b.keys().filter(|field| !a.contains_key(*field))) {
                compare(&format!("{path}.{field}"), &now[field], &then[field], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{at}]"), a, b, found);
            }
        }
        _ if now == then => {}
        _ => found.push(format!("{path} is {now}, not {then}")),
    }
}

#[test]
fn what_differs_from_run_to_run_is_masked() {
    let uid = "0a1b2c3d-1111-4abc-8def-000000000000";
    assert_eq!(masked(&format!("faults/ns-1/{uid}/work/0/log"), "ns-1"), "faults/NAMESPACE/HASH-HASH/work/0/log");
    assert_eq!(masked("one-work-0a1b2c3d-2", "ns-1"), "one-work-HASH-2");
    assert_eq!(
        masked(&format!("_history/2026/11/one/0099449-{uid}.json"), "ns-1"),
        "_history/2026/11/one/HASH-HASH-HASH.json"
    );
    assert_eq!(masked("2026-01-01T00:00:00Z", "ns-1"), "TIME");
    let object = serde_json::json!({"metadata": {"resourceVersion": "1", "name": "one"}, "n": 2});
    assert_eq!(lasting(&object, "ns-1"), serde_json::json!({"metadata": {"name": "one"}, "n": 2}));
}
