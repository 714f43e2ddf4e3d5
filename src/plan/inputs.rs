//! The files a run names against the inputs its definition declares.

use std::collections::BTreeMap;

use super::definition::ValidatedInput;
use super::snapshot::{OutputFact, UploadFact};
use crate::api::condition::cut;
use crate::api::task::OutputRef;
use crate::api::{AsyncTask, TaskState};

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
            let usable = outputs.get(name).is_some_and(|fact| is_given(fact, task, owner, output));
            let (from, output) = (cut(from, 63), cut(output, 63));
            return (!usable).then(|| {
                format!(
                    "inputs.{shown}: there is no finished run {from} of {owner} or of the same team that gave one file as \
                     output {output}: correct spec.inputs.{shown}.output"
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

/// Whether the output may be read: of a run of the same owner or the same team, which is over and gave it as one file.
fn is_given(fact: &OutputFact, task: &AsyncTask, owner: &str, output: &str) -> bool {
    let OutputFact::Of(from) = fact else { return false };
    let same_owner = from.spec.owner.as_deref() == Some(owner);
    let same_team = task.spec.team.is_some() && from.spec.team == task.spec.team;
    let status = from.status.as_ref().filter(|status| status.state.is_some_and(TaskState::is_terminal));
    let given = status.and_then(|status| status.outputs.iter().find(|known| known.name == output));
    (same_owner || same_team) && given.is_some_and(|given| given.files == 1)
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

    use serde_json::json;

    use super::{UploadFact, ValidatedInput, unreadable, violations};
    use crate::api::AsyncTask;

    const ID: &str = "0a1b2c3d-0000-4000-8000-000000000000";

    fn declared() -> [ValidatedInput; 2] {
        let input =
            |name: &str, required| ValidatedInput { name: name.into(), required, media_types: vec![], max_size: 1 };
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
        violations(&declared(), task, "ada", &BTreeMap::from([("archive".to_owned(), fact)]), &BTreeMap::new())
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
    fn what_is_missing_and_what_is_unknown_is_named() {
        let found = violations(&declared(), &task(&["other"]), "ada", &BTreeMap::new(), &BTreeMap::new());
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
