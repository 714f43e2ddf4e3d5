//! The AsyncTask a `run` asks for, and whether one that exists asks for the same.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Map, Value};

use asynctask_api::AsyncTask;
use asynctask_api::names::KUEUE_QUEUE;
use asynctask_api::task::{AsyncTaskSpec, DefinitionRef, InputRef, OutputRef, RetryOf};
use asynctask_plan::parameters::same;

/// Annotation with the checksum of each input's file. An upload has a new id each time; this tells whether it is the
/// same file. Not under the operator's own prefix, which is guarded.
const INPUTS_ANNOTATION: &str = "cli.asynctask.dev/inputs-sha256";
/// Letters that make no words, as Kubernetes itself uses them for generated names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest part of the definition's name in a generated one: the whole stays a DNS label.
const STEM: usize = 57;
/// Longest name that is made here.
const NAME_MAX: usize = 63;
/// Between the name of a run and the number of its retry.
const RETRY: &str = "-retry-";

/// What a run asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// Definition.
    pub(crate) definition: String,
    /// Valid against its schema.
    pub(crate) parameters: Map<String, Value>,
    /// Group.
    pub(crate) team: Option<String>,
    /// PriorityClass.
    pub(crate) priority: Option<String>,
    /// Hex SHA-256 of each input's file.
    pub(crate) inputs: BTreeMap<String, String>,
    /// Inputs that another run gave back.
    pub(crate) outputs: BTreeMap<String, OutputRef>,
    /// Not to start before. When a run starts is no part of what it is: "in an hour" is another time at each repetition.
    pub(crate) start_after: Option<Timestamp>,
    /// Whether it begins held. It may have been let go since, so this is no part of what it is either.
    pub(crate) suspend: bool,
}

impl Wanted {
    /// The object; `uploads` are the ids of the inputs' uploads.
    pub(crate) fn task(&self, name: &str, namespace: &str, uploads: BTreeMap<String, String>) -> AsyncTask {
        let annotations = (!self.inputs.is_empty()).then(|| {
            let text = serde_json::to_string(&self.inputs).expect("invariant: a map of texts is JSON");
            BTreeMap::from([(INPUTS_ANNOTATION.to_owned(), text)])
        });
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations,
            ..ObjectMeta::default()
        };
        let uploads = uploads.into_iter().map(|(name, upload)| (name, InputRef { upload: Some(upload), output: None }));
        let outputs = self.outputs.clone().into_iter();
        let outputs = outputs.map(|(name, output)| (name, InputRef { upload: None, output: Some(output) }));
        let spec = AsyncTaskSpec {
            start_after: self.start_after.map(Time),
            suspend: self.suspend.then_some(true),
            cancel: None,
            retry_of: None,
            once: None,
            keep_until: None,
            priority_class_name: self.priority.clone(),
            definition: DefinitionRef { name: self.definition.clone(), revision: None },
            parameters: (!self.parameters.is_empty()).then(|| Value::Object(self.parameters.clone())),
            inputs: uploads.chain(outputs).collect(),
            owner: None,
            team: self.team.clone(),
        };
        AsyncTask { metadata, spec, status: None }
    }

    /// In what an existing task differs; `None`: it is this very run.
    pub(crate) fn difference(&self, existing: &AsyncTask) -> Option<&'static str> {
        let spec = &existing.spec;
        let parameters = spec.parameters.clone().unwrap_or_else(|| Value::Object(Map::new()));
        let inputs: BTreeMap<String, String> = existing
            .annotations()
            .get(INPUTS_ANNOTATION)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let (taken, sent): (Vec<_>, Vec<_>) = spec.inputs.iter().partition(|(_, input)| input.output.is_some());
        let same_names = sent.iter().map(|(name, _)| *name).eq(self.inputs.keys());
        let taken: BTreeMap<_, _> =
            taken.into_iter().filter_map(|(name, input)| Some((name.clone(), input.output.clone()?))).collect();
        if spec.definition.name != self.definition || spec.definition.revision.is_some() {
            Some("its definition")
        } else if !same(&parameters, &Value::Object(self.parameters.clone())) {
            Some("its parameters")
        } else if spec.team != self.team {
            Some("its team")
        } else if spec.priority_class_name != self.priority {
            Some("its priority")
        } else if !same_names || inputs != self.inputs {
            Some("the files of its inputs")
        } else if taken != self.outputs {
            Some("the outputs it takes as inputs")
        } else {
            None
        }
    }
}

/// A new run that asks for what `source` asked for. Its owner is whoever creates it; neither the time of its start nor
/// what was done to the first one is repeated.
pub(crate) fn once_more(source: &AsyncTask, name: &str, same_revision: bool) -> AsyncTask {
    let kept = |all: &BTreeMap<String, String>, key: &str| {
        all.get(key).map(|value| BTreeMap::from([(key.to_owned(), value.clone())]))
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: source.metadata.namespace.clone(),
        annotations: kept(source.annotations(), INPUTS_ANNOTATION),
        labels: kept(source.labels(), KUEUE_QUEUE),
        ..ObjectMeta::default()
    };
    let pinned = source.status.as_ref().and_then(|s| s.revision.as_ref()).map(|revision| revision.name.clone());
    let asked = source.spec.definition.revision.clone();
    let revision = pinned.or(asked).filter(|_| same_revision);
    let spec = AsyncTaskSpec {
        definition: DefinitionRef { name: source.spec.definition.name.clone(), revision },
        owner: None,
        start_after: None,
        suspend: None,
        cancel: None,
        keep_until: None,
        ..source.spec.clone()
    };
    AsyncTask { metadata, spec, status: None }
}

/// A new run that takes over what succeeded in `source`, on the revision that one was pinned to.
pub(crate) fn retry_of(source: &AsyncTask, name: &str) -> AsyncTask {
    let mut task = once_more(source, name, true);
    task.spec.retry_of = source.metadata.name.clone().map(|name| RetryOf { name });
    task
}

/// `<source>-retry-<number>`; the retry of a retry counts on.
pub(crate) fn retry_name(source: &str, number: u32) -> String {
    let stem = match source.rsplit_once(RETRY) {
        Some((stem, before)) if !stem.is_empty() && before.parse::<u32>().is_ok() => stem,
        _ => source,
    };
    let end = format!("{RETRY}{number}");
    let stem = stem.get(..NAME_MAX - end.len()).unwrap_or(stem).trim_end_matches(['-', '.']);
    format!("{stem}{end}")
}

/// `<definition>-<5 letters>`: chosen here and not by the server, so that a create whose answer was lost can be told
/// from one that never arrived.
pub(crate) fn generated_name(definition: &str, random: u128) -> String {
    let mut stem = definition.get(..STEM).unwrap_or(definition).trim_end_matches(['-', '.']).replace('.', "-");
    stem.push('-');
    let mut rest = random;
    for _ in 0..5 {
        let (next, letter) = (rest / LETTERS.len() as u128, rest % LETTERS.len() as u128);
        stem.push(char::from(LETTERS[letter as usize]));
        rest = next;
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::{OutputRef, Wanted, generated_name, once_more, retry_name, retry_of};
    use serde_json::{Map, json};
    use std::collections::BTreeMap;

    fn wanted() -> Wanted {
        Wanted {
            definition: "course-outline".into(),
            parameters: json!({"depth": 2}).as_object().cloned().unwrap_or_else(Map::new),
            team: Some("authors".into()),
            priority: Some("batch-low".into()),
            inputs: BTreeMap::from([("archive".into(), "aa".into())]),
            outputs: BTreeMap::new(),
            start_after: None,
            suspend: false,
        }
    }

    fn uploads(id: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("archive".into(), id.into())])
    }

    #[test]
    fn a_task_made_of_the_same_wishes_is_the_same_run_whatever_its_upload() {
        let task = wanted().task("n", "ns", uploads("0001"));
        assert_eq!(wanted().difference(&task), None);
        let bare = Wanted { parameters: Map::new(), inputs: BTreeMap::new(), team: None, ..wanted() };
        let task = bare.task("n", "ns", BTreeMap::new());
        assert_eq!((task.spec.parameters.clone(), task.metadata.annotations.clone()), (None, None));
        assert_eq!(bare.difference(&task), None);
    }

    #[test]
    fn any_other_wish_is_another_run() {
        let task = wanted().task("n", "ns", uploads("0001"));
        for (other, field) in [
            (Wanted { definition: "other".into(), ..wanted() }, "its definition"),
            (Wanted { parameters: Map::new(), ..wanted() }, "its parameters"),
            (Wanted { team: None, ..wanted() }, "its team"),
            (Wanted { priority: None, ..wanted() }, "its priority"),
            (
                Wanted { inputs: BTreeMap::from([("archive".into(), "bb".into())]), ..wanted() },
                "the files of its inputs",
            ),
            (Wanted { inputs: BTreeMap::new(), ..wanted() }, "the files of its inputs"),
        ] {
            assert_eq!(other.difference(&task), Some(field));
        }
        let mut by_hand = task;
        by_hand.metadata.annotations = None;
        assert_eq!(wanted().difference(&by_hand), Some("the files of its inputs"), "nobody knows which file it was");
    }

    #[test]
    fn a_run_that_is_held_or_starts_later_is_the_same_run() {
        let later = Wanted { start_after: Some(jiff::Timestamp::UNIX_EPOCH), suspend: true, ..wanted() };
        let task = later.task("n", "ns", uploads("0001"));
        assert!(task.spec.is_suspended() && task.spec.start_after.is_some());
        assert_eq!(wanted().difference(&task), None);
    }

    #[test]
    fn once_more_asks_for_the_same_and_repeats_nothing_that_was_done() {
        let mut first = Wanted { suspend: true, ..wanted() }.task("n", "ns", uploads("0001"));
        (first.spec.owner, first.spec.cancel) = (Some("ada".into()), Some(true));
        first.metadata.labels = Some(BTreeMap::from([
            ("kueue.x-k8s.io/queue-name".into(), "night".into()),
            ("app.kubernetes.io/managed-by".into(), "gitops".into()),
        ]));
        let pinned = json!({"revision": {"name": "course-outline-1", "uid": "r", "number": 1}});
        first.status = serde_json::from_value(pinned).expect("a status");
        let again = once_more(&first, "m", false);
        assert_eq!(wanted().difference(&again), None);
        let spec = &again.spec;
        assert_eq!((spec.owner.clone(), spec.suspend, spec.cancel), (None, None, None));
        assert_eq!(
            again.metadata.labels.expect("labels").into_keys().collect::<Vec<_>>(),
            ["kueue.x-k8s.io/queue-name"]
        );
        let same = once_more(&first, "m", true);
        assert_eq!(same.spec.definition.revision.as_deref(), Some("course-outline-1"));
    }

    #[test]
    fn a_retry_is_the_same_run_on_the_same_revision_and_says_whom_it_goes_on_from() {
        let mut first = wanted().task("n", "ns", uploads("0001"));
        let pinned = json!({"revision": {"name": "course-outline-1", "uid": "r", "number": 1}});
        first.status = serde_json::from_value(pinned).expect("a status");
        first.spec.owner = Some("ada".into());
        let spec = retry_of(&first, "n-retry-1").spec;
        assert_eq!(spec.retry_of.expect("a source").name, "n");
        assert_eq!(spec.definition.revision.as_deref(), Some("course-outline-1"));
        assert_eq!(
            (spec.parameters, spec.inputs, spec.team),
            (first.spec.parameters, first.spec.inputs, first.spec.team)
        );
        assert_eq!(spec.owner, None, "the server writes whoever creates it");
    }

    #[test]
    fn retries_are_numbered_and_their_names_stay_short() {
        for (source, number, expected) in [
            ("mail-1", 1, "mail-1-retry-1"),
            ("mail-1-retry-1", 2, "mail-1-retry-2"),
            ("mail-retry-x", 1, "mail-retry-x-retry-1"),
        ] {
            assert_eq!(retry_name(source, number), expected);
        }
        assert_eq!(retry_name(&"x".repeat(63), 10).len(), 63);
    }

    #[test]
    fn an_input_from_another_run_is_a_part_of_what_is_asked_for() {
        let output = |task: &str| OutputRef { task: task.into(), name: "failures".into() };
        let from = |task: &str| Wanted { outputs: BTreeMap::from([("more".into(), output(task))]), ..wanted() };
        let task = from("mail-1").task("n", "ns", uploads("0001"));
        assert_eq!(task.spec.inputs.len(), 2);
        assert_eq!(task.spec.inputs["more"].output, Some(output("mail-1")));
        assert_eq!(from("mail-1").difference(&task), None);
        assert_eq!(from("mail-2").difference(&task), Some("the outputs it takes as inputs"));
        assert_eq!(wanted().difference(&task), Some("the outputs it takes as inputs"));
    }

    #[test]
    fn a_generated_name_is_a_dns_label_of_the_definition_and_five_letters() {
        assert_eq!(generated_name("hello", 0), "hello-bbbbb");
        assert_eq!(generated_name("a.b", 1), "a-b-cbbbb");
        let long = generated_name(&"x".repeat(200), u128::MAX);
        assert_eq!(long.len(), 63);
        assert_ne!(generated_name("hello", 1), generated_name("hello", 2));
    }
}
