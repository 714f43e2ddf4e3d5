//! The files a run names against the inputs its definition declares.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::definition::ValidatedInput;
use super::retention;
use super::snapshot::{OutputFact, UploadFact};
use asynctask_api::condition::cut;
use asynctask_api::outputs::{OutputStatus, Visibility};
use asynctask_api::task::{AsyncTaskSpec, OutputRef};
use asynctask_api::{AsyncTask, TaskState};

/// Why uploads cannot be judged now: the store does not answer.
pub(super) fn unreadable(uploads: &BTreeMap<String, UploadFact>) -> Option<String> {
    uploads.iter().find_map(|(input, fact)| match fact {
        UploadFact::Unreadable(why) => Some(format!("the upload for input {input:?} cannot be looked up: {why}")),
        UploadFact::Missing | UploadFact::Found { .. } => None,
    })
}

/// Every way in which the run's inputs differ from what is declared. A foreign upload, one for another input and one
/// that never was are told in the same words.
pub(super) fn violations(
    declared: &[ValidatedInput],
    task: &AsyncTask,
    owner: &str,
    uploads: &BTreeMap<String, UploadFact>,
    outputs: &BTreeMap<String, OutputFact>,
    now: Timestamp,
) -> Vec<String> {
    let given = &task.spec.inputs;
    let missing = declared.iter().filter(|input| input.required && !given.contains_key(&input.name));
    let missing = missing.map(|input| {
        let name = &input.name;
        format!(
            "inputs.{name}: is required: upload a file for it and give the upload's id in spec.inputs.{name}.upload, or \
             name an output of another run in spec.inputs.{name}.output"
        )
    });
    let wrong = given.iter().filter_map(|(name, reference)| {
        let shown = cut(name, 63);
        if !declared.iter().any(|input| input.name == *name) {
            let known: Vec<&str> = declared.iter().map(|input| input.name.as_str()).collect();
            let known =
                if known.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", known.join(", ")) };
            return Some(format!("inputs.{shown}: the definition has no such input: {known}"));
        }
        if let Some(OutputRef { task: from, name: output }) = &reference.output {
            let usable = match outputs.get(name) {
                Some(OutputFact::Of(from)) => may_take(&task.spec, from, output, now),
                Some(OutputFact::Missing) | None => false,
            };
            let (from, output) = (cut(from, 63), cut(output, 63));
            return (!usable).then(|| {
                format!(
                    "inputs.{shown}: there is no finished run {from} of {owner}, or of the same team and shown to it, that gave \
                     one file as output {output} and still has it: correct spec.inputs.{shown}.output"
                )
            });
        }
        let usable = uploads.get(name).is_some_and(|fact| is_usable(fact, owner, &task.spec.definition.name, name));
        let upload = cut(reference.upload.as_deref().unwrap_or_default(), 63);
        (!usable).then(|| {
            format!(
                "inputs.{shown}: {upload} is no finished upload of {owner} for this input of this definition: upload \
                 the file again and give the id you get"
            )
        })
    });
    missing.chain(wrong).collect()
}

/// Whether a run may take an output of another one: that is over and gave it as one file which is there to stay, and it is
/// of the same owner, or of the same team and shown to it.
fn may_take(reader: &AsyncTaskSpec, from: &AsyncTask, output: &str, now: Timestamp) -> bool {
    given(from, output).is_some_and(|given| !retention::is_leaving(from, given, now)) && may_read(reader, from, output)
}

/// Whether a run that was let in may read what it takes: until it has, its source is held, also when its time is up.
#[must_use]
pub fn may_read(reader: &AsyncTaskSpec, from: &AsyncTask, output: &str) -> bool {
    let given = given(from, output).filter(|given| given.files == 1 && given.gone.is_none());
    given.is_some() && from.metadata.deletion_timestamp.is_none() && is_theirs(reader, from, output)
}

/// Whether an output of another run is of the same owner, or of the same team and shown to it, whatever has become of it.
#[must_use]
pub fn is_theirs(reader: &AsyncTaskSpec, from: &AsyncTask, output: &str) -> bool {
    let same =
        |own: &Option<String>, its: &Option<String>| own.as_ref().is_some_and(|own| !own.is_empty()) && own == its;
    let Some(given) = given(from, output) else { return false };
    let shared = matches!(given.visibility, Some(Visibility::Team | Visibility::Namespace));
    // What is for one use is fetched by one person, not read by runs.
    given.use_once_seconds.is_none()
        && (same(&reader.owner, &from.spec.owner) || shared && same(&reader.team, &from.spec.team))
}

/// What a run that is over says of an output.
fn given<'a>(from: &'a AsyncTask, output: &str) -> Option<&'a OutputStatus> {
    let status = from.status.as_ref().filter(|status| status.state.is_some_and(TaskState::is_terminal))?;
    status.outputs.iter().find(|known| known.name == output)
}

fn is_usable(fact: &UploadFact, owner: &str, wanted_definition: &str, wanted_input: &str) -> bool {
    match fact {
        UploadFact::Missing | UploadFact::Unreadable(_) => false,
        UploadFact::Found { uploader, definition, input, complete } => {
            *complete && uploader == owner && definition == wanted_definition && input == wanted_input
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::{UploadFact, ValidatedInput, may_read, may_take, unreadable, violations};
    use asynctask_api::AsyncTask;
    use asynctask_api::task::AsyncTaskSpec;

    const ID: &str = "0a1b2c3d-0000-4000-8000-000000000000";

    fn declared() -> [ValidatedInput; 2] {
        let input = |name: &str, required| ValidatedInput {
            name: name.into(),
            required,
            media_types: vec![],
            max_size: 1,
            once: false,
        };
        [input("archive", true), input("extra", false)]
    }

    fn task(names: &[&str]) -> AsyncTask {
        let inputs: BTreeMap<&str, _> = names.iter().map(|name| (*name, json!({"upload": ID}))).collect();
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "a"},
            "spec": {"definition": {"name": "import"}, "inputs": inputs},
        }))
        .expect("a task")
    }

    fn found(uploader: &str, definition: &str, input: &str, complete: bool) -> UploadFact {
        UploadFact::Found { uploader: uploader.into(), definition: definition.into(), input: input.into(), complete }
    }

    fn judge(task: &AsyncTask, fact: UploadFact) -> Vec<String> {
        violations(
            &declared(),
            task,
            "ada",
            &BTreeMap::from([("archive".to_owned(), fact)]),
            &BTreeMap::new(),
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_finished_upload_of_the_owner_is_taken() {
        assert_eq!(judge(&task(&["archive"]), found("ada", "import", "archive", true)), Vec::<String>::new());
    }

    #[test]
    fn every_other_upload_is_refused_in_the_same_words() {
        let task = task(&["archive"]);
        let missing = judge(&task, UploadFact::Missing);
        assert!(missing[0].contains("no finished upload of ada"), "{missing:?}");
        for other in [
            found("eve", "import", "archive", true),
            found("ada", "export", "archive", true),
            found("ada", "import", "extra", true),
            found("ada", "import", "archive", false),
        ] {
            assert_eq!(judge(&task, other), missing);
        }
    }

    #[test]
    fn a_run_takes_outputs_of_its_owner_and_those_shown_to_its_team() {
        let spec = |owner: &str, team: Option<&str>| -> AsyncTaskSpec {
            serde_json::from_value(json!({"definition": {"name": "d"}, "owner": owner, "team": team})).expect("a spec")
        };
        let from = |owner: &str, team: Option<&str>, more: Value| -> AsyncTask {
            let mut output = json!({"name": "report", "step": "s", "files": 1, "size": 1});
            output.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            serde_json::from_value(json!({
                "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "a"},
                "spec": {"definition": {"name": "d"}, "owner": owner, "team": team},
                "status": {"state": "Complete", "outputs": [output]},
            }))
            .expect("a task")
        };
        let (team, none) = (json!({"visibility": "Team"}), json!({}));
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().expect("a time");
        let takes = |reader: AsyncTaskSpec, from: AsyncTask| may_take(&reader, &from, "report", now);
        assert!(takes(spec("ada", None), from("ada", Some("x"), none.clone())));
        assert!(takes(spec("ada", Some("x")), from("eve", Some("x"), team.clone())));
        assert!(!takes(spec("ada", Some("x")), from("eve", Some("x"), none.clone())), "it is eve's alone");
        assert!(!takes(spec("ada", None), from("eve", None, team.clone())), "no team is not a common one");
        assert!(!takes(spec("ada", Some("")), from("eve", Some(""), team.clone())));
        assert!(!takes(spec("ada", Some("x")), from("eve", Some("y"), team)));
        assert!(!takes(spec("ada", None), from("ada", None, json!({"useOnceSeconds": 60}))));
        let gone = json!({"gone": {"at": "2026-01-01T00:00:00Z", "why": "Deleted", "by": "ada"}});
        assert!(!takes(spec("ada", None), from("ada", None, gone)));
        assert!(!may_take(&spec("ada", None), &from("ada", None, none), "other", now));
        let up = json!({"expiresAt": "2026-01-01T00:00:00Z"});
        assert!(
            may_read(&spec("ada", None), &from("ada", None, up.clone()), "report"),
            "a run that was let in holds it"
        );
        assert!(!takes(spec("ada", None), from("ada", None, up)), "its time is up, whether or not it is deleted");
        let mut asked = from("ada", None, json!({}));
        let deletion = json!({"output": "report", "user": "ada", "at": "2026-01-01T00:00:00Z"});
        asked.status.as_mut().expect("a status").deletions =
            vec![serde_json::from_value(deletion).expect("a deletion")];
        assert!(!takes(spec("ada", None), asked), "it is on its way out");
    }

    #[test]
    fn what_is_missing_and_what_is_unknown_is_named() {
        let found = violations(
            &declared(),
            &task(&["other"]),
            "ada",
            &BTreeMap::new(),
            &BTreeMap::new(),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("inputs.archive: is required"), "{found:?}");
        assert!(
            found[1].starts_with("inputs.other: the definition has no such input: it takes archive, extra"),
            "{found:?}"
        );
    }

    #[test]
    fn a_silent_store_is_no_missing_upload() {
        let silent = BTreeMap::from([("archive".to_owned(), UploadFact::Unreadable("no answer".into()))]);
        assert!(unreadable(&silent).is_some_and(|why| why.contains("no answer")));
        assert_eq!(unreadable(&BTreeMap::from([("archive".to_owned(), UploadFact::Missing)])), None);
    }
}
