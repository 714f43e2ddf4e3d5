//! An AsyncTask as its text says it, whatever its parameters are: they are the one field in which anything may stand.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::AsyncTask;
use super::names::ANNOTATION_UNREADABLE;

/// Bytes of parameters that are looked at. As the API server spells them they may be six times as many as
/// `asynctask_plan::parameters::MAX_BYTES`, which counts them exactly.
const MAX_BYTES: usize = 512 << 10;

type Fields = BTreeMap<String, Box<RawValue>>;

/// Reads the text of an AsyncTask. Parameters that are too large or too deep are left out, and [`ANNOTATION_UNREADABLE`] of
/// the result says why. Of one that is being deleted the rest of the spec may be unreadable too: what it was asked for matters
/// no more.
///
/// # Errors
/// Something else of it cannot be read.
pub fn read(text: &str) -> Result<AsyncTask, serde_json::Error> {
    let mut fields: Fields = serde_json::from_str(text)?;
    let mut spec: Fields =
        fields.get("spec").map_or_else(|| Ok(Fields::new()), |spec| serde_json::from_str(spec.get()))?;
    let parameters = spec.remove("parameters");
    let mut task = match with_spec(&mut fields, &spec) {
        Err(_) if is_being_deleted(&fields) => {
            spec.retain(|field, _| field == "definition");
            with_spec(&mut fields, &spec)?
        }
        read => read?,
    };
    match parameters.map(|parameters| value(&parameters)) {
        Some(Ok(parameters)) => task.spec.parameters = Some(parameters).filter(|parameters| !parameters.is_null()),
        Some(Err(why)) => {
            task.metadata.annotations.get_or_insert_default().insert(ANNOTATION_UNREADABLE.to_owned(), why);
        }
        None => {}
    }
    Ok(task)
}

fn with_spec(fields: &mut Fields, spec: &Fields) -> Result<AsyncTask, serde_json::Error> {
    fields.insert("spec".to_owned(), to_raw_value(spec)?);
    AsyncTask::deserialize(&*to_raw_value(fields)?)
}

fn is_being_deleted(fields: &Fields) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<serde::de::IgnoredAny>,
    }
    let metadata = fields.get("metadata").and_then(|metadata| serde_json::from_str(metadata.get()).ok());
    metadata.is_some_and(|Metadata { deletion_timestamp }| deletion_timestamp.is_some())
}

fn value(parameters: &RawValue) -> Result<Value, String> {
    let size = parameters.get().len();
    if size > MAX_BYTES {
        return Err(format!("spec.parameters has {size} bytes: hand large data over as an input"));
    }
    serde_json::from_str(parameters.get()).map_err(|error| format!("spec.parameters cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(parameters: &str) -> String {
        format!(
            r#"{{"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {{"name": "a", "uid": "u-1"}},
                "spec": {{"definition": {{"name": "d"}}, "cancel": true, "parameters": {parameters}}}, "status": {{"state": "Pending"}}}}"#
        )
    }

    fn why(task: &AsyncTask) -> Option<&str> {
        task.metadata.annotations.as_ref()?.get(ANNOTATION_UNREADABLE).map(String::as_str)
    }

    #[test]
    fn what_can_be_read_is_what_serde_reads() {
        for parameters in [r#"{"a": [1, {"b": "\u00e9"}]}"#, "{}", "null"] {
            let text = text(parameters);
            assert_eq!(read(&text).expect("a task"), serde_json::from_str::<AsyncTask>(&text).expect("a task"));
        }
        assert!(read(r#"{"metadata": {}, "spec": {}}"#).expect_err("no definition").to_string().contains("definition"));
        assert!(read("[]").is_err());
    }

    #[test]
    fn one_that_is_being_deleted_is_read_whatever_it_was_asked_for() {
        let odd = text("{}").replace(r#""cancel": true"#, r#""cancel": "9999-12-31T23:59:59Z""#);
        assert!(read(&odd).is_err());
        let task =
            read(&odd.replace(r#""uid""#, r#""deletionTimestamp": "2027-01-31T10:00:00Z", "uid""#)).expect("a task");
        assert_eq!((task.spec.definition.name.as_str(), task.spec.cancel), ("d", None));
        assert!(task.status.is_some(), "it says in which store the outputs are");
    }

    #[test]
    fn parameters_that_nobody_can_read_are_left_out_and_the_rest_is_read() {
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        let large = json!("x".repeat(MAX_BYTES)).to_string();
        for (parameters, said) in [(deep, "recursion limit"), (large, "hand large data over")] {
            let task = read(&text(&parameters)).expect("a task");
            assert!(why(&task).is_some_and(|why| why.contains(said)), "{:?}", why(&task));
            assert_eq!(task.spec.parameters, None);
            assert_eq!((task.spec.cancel, task.metadata.uid.as_deref()), (Some(true), Some("u-1")));
            assert!(task.status.is_some());
        }
    }
}
