//! Whose turn it is: by priority, then the namespaces in turn, then by age, as far as the limits allow, and one per
//! concurrency key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::snapshot::Trouble;
use asynctask_api::definition::ConcurrencyPolicy;
use asynctask_api::names::LEASE_PREFIX;

/// Name of the Lease that stands for a concurrency key: the same for the same values, whatever their order.
#[must_use]
pub fn lease_name(namespace: &str, definition: &str, key: &[String], parameters: &Value) -> Option<String> {
    if key.is_empty() {
        return None;
    }
    let values: BTreeMap<&String, &Value> = key.iter().map(|name| (name, &parameters[name.as_str()])).collect();
    let digest = Sha256::digest(super::revision::canonical_text(&json!([namespace, definition, values])).as_bytes());
    Some(format!("{LEASE_PREFIX}{}", &hex::encode(digest)[..40]))
}

/// Name of the Lease that stands for the one use of an upload.
#[must_use]
pub fn upload_lease(id: &str) -> String {
    format!("{LEASE_PREFIX}upload-{id}")
}

/// Why a run fails whose upload has served another one.
#[must_use]
pub fn used(input: &str, upload: &str) -> Trouble {
    let message = format!(
        "inputs.{input}: upload {upload} has served another run, and the definition takes a file for one run only: upload \
         the file again, or continue that run with retryOf"
    );
    Trouble { reason: "InputUsed", message }
}

/// Most runs in progress at a time, beside what definitions say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In all namespaces together.
    pub overall: Option<usize>,
    /// In each namespace.
    pub per_namespace: Option<usize>,
}

/// A run that is in progress or could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its definition.
    pub definition: String,
    /// Value of its PriorityClass.
    pub priority: i32,
    /// When it was created.
    pub created: Timestamp,
    /// Most runs of its definition at a time.
    pub max_running: Option<usize>,
    /// The Lease of its key.
    pub lease: Option<String>,
    /// What becomes of it when its key is taken.
    pub policy: ConcurrencyPolicy,
    /// Whether it is in progress.
    pub runs: bool,
}

/// What the queue says to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It may start.
    Go,
    /// Others come first.
    Wait {
        /// Its place, from 1.
        position: usize,
        /// What there is no room in.
        why: Full,
    },
    /// Its key is taken by a run in progress.
    Busy {
        /// Its place among those that want the key, from 1.
        position: usize,
        /// UID of the run that has it.
        holder: String,
    },
    /// A newer run of the same key takes its place.
    Replaced {
        /// UID of that run.
        by: String,
    },
}

/// What there is no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The definition's own `maxRunning`.
    Definition,
    /// The limit of each namespace.
    Namespace,
    /// The limit of the operator.
    Operator,
    /// Another run that waits comes first for the same key.
    Key,
}

/// Why a run is cancelled whose place a newer one takes.
#[must_use]
pub fn replaced(newer: &str) -> Trouble {
    let message = format!("the newer run {newer} of the same concurrency key takes its place");
    Trouble { reason: "Replaced", message }
}

/// All runs that are in progress or could be, by UID.
pub type Entries = HashMap<String, Entry>;

/// Runs of the same key that are older, when this one replaces them: by UID.
#[must_use]
pub fn replaces(entries: &Entries, uid: &str) -> Vec<String> {
    let Some(own) = entries.get(uid).filter(|own| own.policy == ConcurrencyPolicy::Replace && own.lease.is_some())
    else {
        return Vec::new();
    };
    let older = |(other, entry): &(&String, &Entry)| {
        entry.lease == own.lease && (entry.created, other.as_str()) < (own.created, uid)
    };
    let mut found: Vec<String> = entries.iter().filter(older).map(|(uid, _)| uid.clone()).collect();
    found.sort();
    found
}

/// The runs, and the order in which those that wait go: kept until something changes.
#[derive(Clone, Debug, Default)]
pub struct Line {
    entries: Entries,
    order: Option<Vec<String>>,
}

impl Line {
    /// The runs, by UID.
    #[must_use]
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// A run enters the line, or says anew what it asks for.
    pub fn enter(&mut self, uid: &str, entry: Entry) {
        if self.entries.get(uid) != Some(&entry) {
            self.entries.insert(uid.to_owned(), entry);
            self.order = None;
        }
    }

    /// A run starts, or gives its place back.
    pub fn set_runs(&mut self, uid: &str, runs: bool) {
        if let Some(own) = self.entries.get_mut(uid).filter(|own| own.runs != runs) {
            own.runs = runs;
            self.order = None;
        }
    }

    /// Keeps only some; whether others were there.
    pub fn retain(&mut self, mut stays: impl FnMut(&String, &Entry) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|uid, entry| stays(uid, entry));
        let fewer = self.entries.len() < before;
        if fewer {
            self.order = None;
        }
        fewer
    }

    /// A run leaves the line; whether it was in it.
    pub fn remove(&mut self, uid: &str) -> bool {
        let was_there = self.entries.remove(uid).is_some();
        if was_there {
            self.order = None;
        }
        was_there
    }

    /// Whether a run may start now. The answer does not take its place: set `runs` for that.
    pub fn place(&mut self, limits: Limits, uid: &str) -> Place {
        place_in(&self.entries, Self::ordered(&mut self.order, &self.entries), limits, uid)
    }

    /// Runs that may start now, first come first: whoever has to be woken when there is room again.
    pub fn next(&mut self, limits: Limits) -> Vec<String> {
        next_in(&self.entries, Self::ordered(&mut self.order, &self.entries), limits)
    }

    fn ordered<'a>(
        order: &'a mut Option<Vec<String>>,
        entries: &'a Entries,
    ) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        let order = order.get_or_insert_with(|| line(entries).into_iter().map(|(uid, _)| uid.clone()).collect());
        order.iter().filter_map(|uid| entries.get_key_value(uid))
    }
}

fn place_in<'a>(
    entries: &'a Entries,
    line: impl Iterator<Item = (&'a String, &'a Entry)>,
    limits: Limits,
    uid: &str,
) -> Place {
    let Some(own) = entries.get(uid) else { return Place::Go };
    if own.policy == ConcurrencyPolicy::Replace
        && let Some(by) = newer(entries, uid, own)
    {
        return Place::Replaced { by };
    }
    let mut room = Room::new(entries, limits);
    if !room.is_limited(own) {
        return Place::Go;
    }
    let mut ahead: Vec<&Entry> = Vec::new();
    for (other, entry) in line {
        let full = room.refuses(entry);
        if other == uid {
            return match full {
                None => Place::Go,
                Some(Refusal::Busy(holder)) => {
                    Place::Busy { position: 1 + ahead.iter().filter(|e| e.lease == own.lease).count(), holder }
                }
                Some(Refusal::Full(why)) => {
                    Place::Wait { position: 1 + ahead.iter().filter(|e| competes(e, own, why)).count(), why }
                }
            };
        }
        if full.is_none() {
            room.take(entry);
        }
        ahead.push(entry);
    }
    Place::Go
}

fn next_in<'a>(
    entries: &'a Entries,
    line: impl Iterator<Item = (&'a String, &'a Entry)>,
    limits: Limits,
) -> Vec<String> {
    let mut room = Room::new(entries, limits);
    let mut go = Vec::new();
    for (uid, entry) in line {
        if room.refuses(entry).is_none() {
            room.take(entry);
            go.push(uid.clone());
        }
    }
    go
}

/// Runs that wait, in the order in which they go. Of one priority each namespace has its turn, whoever has more in progress
/// later: thousands of runs of one of them delay a run of another by no more than one.
fn line(entries: &Entries) -> Vec<(&String, &Entry)> {
    let mut line: Vec<(&String, &Entry)> = entries.iter().filter(|(_, entry)| !entry.runs).collect();
    line.sort_by_key(|(uid, entry)| (Reverse(entry.priority), entry.created, *uid));
    let mut turns: HashMap<(i32, &str), usize> = HashMap::new();
    for entry in entries.values().filter(|entry| entry.runs) {
        *turns.entry((entry.priority, &entry.namespace)).or_default() += 1;
    }
    let mut line: Vec<(usize, (&String, &Entry))> = line
        .into_iter()
        .map(|(uid, entry)| {
            let turn = turns.entry((entry.priority, &entry.namespace)).or_default();
            *turn += 1;
            (*turn, (uid, entry))
        })
        .collect();
    line.sort_by_key(|(turn, (_, entry))| (Reverse(entry.priority), *turn));
    line.into_iter().map(|(_, waiting)| waiting).collect()
}

fn newer(entries: &Entries, uid: &str, own: &Entry) -> Option<String> {
    own.lease.as_ref()?;
    let later = |(other, entry): &(&String, &Entry)| {
        entry.lease == own.lease && (entry.created, other.as_str()) > (own.created, uid)
    };
    entries.iter().filter(later).max_by_key(|(uid, entry)| (entry.created, (*uid).clone())).map(|(uid, _)| uid.clone())
}

fn competes(other: &Entry, own: &Entry, why: Full) -> bool {
    let same_namespace = other.namespace == own.namespace;
    match why {
        Full::Operator => true,
        Full::Namespace => same_namespace,
        Full::Definition => same_namespace && other.definition == own.definition,
        Full::Key => other.lease == own.lease,
    }
}

enum Refusal {
    Busy(String),
    Full(Full),
}

/// What is taken.
struct Room<'a> {
    limits: Limits,
    overall: usize,
    namespaces: HashMap<&'a str, usize>,
    definitions: HashMap<(&'a str, &'a str), usize>,
    holders: HashMap<&'a str, &'a str>,
    wanted: HashSet<&'a str>,
}

impl<'a> Room<'a> {
    fn new(entries: &'a Entries, limits: Limits) -> Self {
        let mut room = Self {
            limits,
            overall: 0,
            namespaces: HashMap::new(),
            definitions: HashMap::new(),
            holders: HashMap::new(),
            wanted: HashSet::new(),
        };
        for (uid, entry) in entries.iter().filter(|(_, entry)| entry.runs) {
            room.take(entry);
            if let Some(lease) = &entry.lease {
                room.holders.insert(lease, uid);
            }
        }
        room.wanted.clear();
        room
    }

    fn is_limited(&self, entry: &Entry) -> bool {
        let Limits { overall, per_namespace } = self.limits;
        entry.lease.is_some() || entry.max_running.is_some() || overall.is_some() || per_namespace.is_some()
    }

    fn refuses(&self, entry: &Entry) -> Option<Refusal> {
        if let Some(lease) = &entry.lease {
            if let Some(holder) = self.holders.get(lease.as_str()) {
                return Some(Refusal::Busy((*holder).to_owned()));
            }
            if self.wanted.contains(lease.as_str()) {
                return Some(Refusal::Full(Full::Key));
            }
        }
        let definition = (entry.namespace.as_str(), entry.definition.as_str());
        let taken = self.definitions.get(&definition).copied().unwrap_or(0);
        if entry.max_running.is_some_and(|max| taken >= max) {
            return Some(Refusal::Full(Full::Definition));
        }
        let taken = self.namespaces.get(entry.namespace.as_str()).copied().unwrap_or(0);
        if self.limits.per_namespace.is_some_and(|max| taken >= max) {
            return Some(Refusal::Full(Full::Namespace));
        }
        self.limits.overall.is_some_and(|max| self.overall >= max).then_some(Refusal::Full(Full::Operator))
    }

    fn take(&mut self, entry: &'a Entry) {
        self.overall += 1;
        *self.namespaces.entry(&entry.namespace).or_default() += 1;
        *self.definitions.entry((&entry.namespace, &entry.definition)).or_default() += 1;
        if let Some(lease) = &entry.lease {
            self.wanted.insert(lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn place(entries: &Entries, limits: Limits, uid: &str) -> Place {
        place_in(entries, line(entries).into_iter(), limits, uid)
    }

    fn next(entries: &Entries, limits: Limits) -> Vec<String> {
        next_in(entries, line(entries).into_iter(), limits)
    }

    fn entry(name: &str, priority: i32, created: i64) -> Entry {
        Entry {
            namespace: "studio".into(),
            name: name.into(),
            definition: "import".into(),
            priority,
            created: Timestamp::from_second(created).expect("in range"),
            max_running: None,
            lease: None,
            policy: ConcurrencyPolicy::Queue,
            runs: false,
        }
    }

    fn keyed(name: &str, created: i64, policy: ConcurrencyPolicy) -> Entry {
        Entry { lease: Some("k".into()), policy, ..entry(name, 0, created) }
    }

    fn entries(list: Vec<Entry>) -> Entries {
        list.into_iter().map(|entry| (entry.name.clone(), entry)).collect()
    }

    fn max(n: usize, list: Vec<Entry>) -> Entries {
        entries(list.into_iter().map(|entry| Entry { max_running: Some(n), ..entry }).collect())
    }

    #[test]
    fn priority_comes_before_age() {
        let all = max(1, vec![entry("old", 0, 1), entry("new", 0, 2), entry("urgent", 9, 3)]);
        assert_eq!(place(&all, Limits::default(), "urgent"), Place::Go);
        assert_eq!(place(&all, Limits::default(), "old"), Place::Wait { position: 2, why: Full::Definition });
        assert_eq!(place(&all, Limits::default(), "new"), Place::Wait { position: 3, why: Full::Definition });
        assert_eq!(next(&all, Limits::default()), ["urgent"]);
    }

    #[test]
    fn one_definition_that_is_full_is_in_nobody_elses_way() {
        let mut all = max(1, vec![Entry { runs: true, ..entry("a", 0, 1) }, entry("b", 0, 2)]);
        all.insert("c".into(), Entry { definition: "export".into(), max_running: Some(1), ..entry("c", 0, 3) });
        assert_eq!(next(&all, Limits::default()), ["c"]);
        let namespace = Limits { per_namespace: Some(1), overall: None };
        assert_eq!(place(&all, namespace, "c"), Place::Wait { position: 2, why: Full::Namespace });
        let overall = Limits { per_namespace: None, overall: Some(1) };
        all.insert("d".into(), Entry { namespace: "lms".into(), ..entry("d", 0, 9) });
        assert_eq!(
            place(&all, overall, "d"),
            Place::Wait { position: 1, why: Full::Operator },
            "its namespace runs nothing"
        );
    }

    #[test]
    fn of_one_priority_the_namespaces_go_in_turn() {
        let of = |namespace: &str, entry: Entry| Entry { namespace: namespace.into(), ..entry };
        let mut list: Vec<Entry> = (0..1000).map(|n| entry(&format!("many-{n:03}"), 0, n)).collect();
        list.extend([
            of("lms", entry("one", 0, 5000)),
            of("lms", entry("two", 0, 5001)),
            of("ops", entry("urgent", 9, 6000)),
        ]);
        let limits = |n| Limits { overall: Some(n), per_namespace: None };
        let mut all = entries(list);
        let mut first = next(&all, limits(5));
        first.sort();
        assert_eq!(first, ["many-000", "many-001", "one", "two", "urgent"]);
        assert_eq!(place(&all, limits(1), "one"), Place::Wait { position: 3, why: Full::Operator });
        assert_eq!(place(&all, limits(1), "many-999"), Place::Wait { position: 1003, why: Full::Operator });
        // Whoever has runs in progress had those turns.
        for name in ["many-000", "many-001", "many-002"] {
            all.get_mut(name).expect("there").runs = true;
        }
        assert_eq!(
            next(&all, limits(6)).into_iter().collect::<BTreeSet<_>>(),
            BTreeSet::from(["one".into(), "two".into(), "urgent".into()])
        );
    }

    #[test]
    fn of_those_that_want_a_key_the_first_gets_it() {
        use ConcurrencyPolicy::Queue;
        let all = entries(vec![keyed("a", 1, Queue), keyed("b", 2, Queue)]);
        assert_eq!(place(&all, Limits::default(), "a"), Place::Go);
        assert_eq!(place(&all, Limits::default(), "b"), Place::Wait { position: 2, why: Full::Key });
        let all =
            entries(vec![Entry { runs: true, ..keyed("a", 1, Queue) }, keyed("b", 2, Queue), keyed("c", 3, Queue)]);
        assert_eq!(place(&all, Limits::default(), "c"), Place::Busy { position: 2, holder: "a".into() });
    }

    #[test]
    fn the_newest_replaces_all_others() {
        use ConcurrencyPolicy::Replace;
        let all = entries(vec![
            Entry { runs: true, ..keyed("a", 1, Replace) },
            keyed("b", 2, Replace),
            keyed("c", 2, Replace),
        ]);
        assert_eq!(replaces(&all, "c"), ["a", "b"]);
        assert_eq!(place(&all, Limits::default(), "b"), Place::Replaced { by: "c".into() });
        assert_eq!(place(&all, Limits::default(), "c"), Place::Busy { position: 2, holder: "a".into() });
    }

    #[test]
    fn the_name_of_a_lease_hangs_on_the_values_alone() {
        let name = |key: &[&str], parameters: Value| {
            let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
            lease_name("studio", "import", &key, &parameters)
        };
        let one = name(&["a", "b"], json!({"a": 1, "b": {"x": 1, "y": 2}}));
        assert_eq!(one, name(&["b", "a"], json!({"b": {"y": 2, "x": 1}, "a": 1, "c": 9})));
        assert_ne!(one, name(&["a", "b"], json!({"a": "1", "b": {"x": 1, "y": 2}})));
        assert!(one.is_some_and(|name| name.len() <= 63));
        assert_eq!(name(&[], json!({})), None);
    }

    proptest! {
        /// Whoever is told to go is let in, one after the other; then no limit is passed, no key is held twice, and
        /// nobody waits although there is room.
        #[test]
        fn limits_hold_and_no_room_is_left(
            runs in proptest::collection::vec((0..3u8, 0..3u8, 0..4i32, 0..50i64, 0..4u8), 1..40),
            max_running in 1..4usize, per_namespace in 1..6usize, overall in 1..8usize,
        ) {
            let limits = Limits { overall: Some(overall), per_namespace: Some(per_namespace) };
            let mut all = Entries::new();
            for (index, (namespace, definition, priority, created, key)) in runs.into_iter().enumerate() {
                let lease = (key > 0).then(|| format!("{namespace}-{definition}-{key}"));
                let name = format!("r{index}");
                let entry = Entry {
                    namespace: format!("n{namespace}"), definition: format!("d{definition}"), lease,
                    max_running: Some(max_running), ..entry(&name, priority, created)
                };
                all.insert(name, entry);
            }
            let mut kept = Line::default();
            all.iter().for_each(|(uid, entry)| kept.enter(uid, entry.clone()));
            let mut asked: Vec<String> = all.keys().cloned().collect();
            asked.sort();
            let mut started = true;
            while started {
                started = false;
                for uid in &asked {
                    let found = place(&all, limits, uid);
                    prop_assert_eq!(&kept.place(limits, uid), &found, "the order that is kept is the order there is");
                    prop_assert_eq!(kept.next(limits), next(&all, limits));
                    if !all[uid].runs && found == Place::Go {
                        all.get_mut(uid).expect("known").runs = true;
                        kept.set_runs(uid, true);
                        started = true;
                    }
                }
            }
            let running: Vec<&Entry> = all.values().filter(|entry| entry.runs).collect();
            prop_assert!(running.len() <= overall);
            for entry in &running {
                let same = |other: &&&Entry| other.namespace == entry.namespace;
                prop_assert!(running.iter().filter(same).count() <= per_namespace);
                prop_assert!(running.iter().filter(same).filter(|o| o.definition == entry.definition).count() <= max_running);
                prop_assert!(entry.lease.is_none() || running.iter().filter(|o| o.lease == entry.lease).count() == 1);
            }
            prop_assert_eq!(next(&all, limits), Vec::<String>::new());
        }
    }
}
