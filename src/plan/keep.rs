//! How long what is no output is kept: uploads, and the history record. What the definition says is pinned in the status
//! when the run is admitted, as nobody knows the definition any more when it is needed.

use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

use super::decide::later;
use super::findings::Findings;
use asynctask_api::outputs::{KeepStatus, RetentionSpec};
use asynctask_api::task::AsyncTaskStatus;
use asynctask_api::{AsyncTask, TaskState};

/// Reads it; inside, `None` where nothing is said.
pub(super) fn validate(said: &RetentionSpec, findings: &mut Findings) -> Option<Option<KeepStatus>> {
    let inputs = findings.maybe_duration("retention.inputs", said.inputs.as_deref());
    let history = findings.maybe_duration("retention.history", said.history.as_deref());
    let seconds = |span: Option<Duration>| span.and_then(|span| i64::try_from(span.as_secs()).ok());
    let keep = KeepStatus {
        inputs_seconds: seconds(inputs?),
        history_seconds: seconds(history?),
        history_parameters: said.history_parameters,
    };
    Some((keep != KeepStatus::default()).then_some(keep))
}

/// Whether a run, or one that continues it, may still need the files that were uploaded for it.
#[must_use]
pub fn needs_uploads(task: &AsyncTask, now: Timestamp) -> bool {
    let Some(status) = &task.status else { return true };
    let span = status.keep.as_ref().and_then(|keep| keep.inputs_seconds);
    match (status.state, span, ended_at(status)) {
        (Some(TaskState::Complete), Some(seconds), Some(end)) => now < after(end, seconds),
        _ => true,
    }
}

/// When the history record of a run may be deleted; `None`: never, or the run goes on.
#[must_use]
pub fn history_until(task: &AsyncTask) -> Option<Timestamp> {
    let status = task.status.as_ref()?;
    let seconds = status.keep.as_ref()?.history_seconds?;
    let deleted = task.metadata.deletion_timestamp.as_ref().map(|at| at.0);
    Some(after(ended_at(status).or(deleted)?, seconds))
}

fn ended_at(status: &AsyncTaskStatus) -> Option<Timestamp> {
    status.transitions.last().filter(|change| change.to.is_terminal()).map(|change| change.at.0)
}

fn after(from: Timestamp, seconds: i64) -> Timestamp {
    later(from, Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    /// A run that came into a state at the beginning of 2026.
    fn run(state: &str, keep: &Value) -> AsyncTask {
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "t"},
            "spec": {"definition": {"name": "d"}},
            "status": {"state": state, "keep": keep, "transitions": [
                {"seq": 1, "to": "InProgress", "at": "2025-12-31T00:00:00Z", "reason": "Started"},
                {"seq": 2, "from": "InProgress", "to": state, "at": "2026-01-01T00:00:00Z", "reason": "Ended"},
            ]},
        }))
        .expect("a task")
    }

    #[test]
    fn uploads_are_needed_until_success_has_had_its_time_and_else_always() {
        let day = json!({"inputsSeconds": 86_400});
        let needed = |state: &str, keep: &Value, now: &str| needs_uploads(&run(state, keep), at(now));
        assert!(needed("Complete", &day, "2026-01-01T23:59:59Z"));
        assert!(!needed("Complete", &day, "2026-01-02T00:00:00Z"));
        for unfinished in ["Failed", "PartiallyComplete", "Canceled", "InProgress", "Pending"] {
            assert!(needed(unfinished, &day, "2030-01-01T00:00:00Z"), "{unfinished} may be tried again");
        }
        assert!(needed("Complete", &Value::Null, "2030-01-01T00:00:00Z"), "nothing is said");
    }

    #[test]
    fn history_is_kept_from_the_end_on_also_where_that_is_the_deletion() {
        let year = json!({"historySeconds": 365 * 86_400});
        assert_eq!(history_until(&run("Failed", &year)), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(history_until(&run("Failed", &json!({"inputsSeconds": 1}))), None, "for ever");
        let mut task = run("InProgress", &year);
        assert_eq!(history_until(&task), None, "it goes on");
        let deleted = serde_json::from_value(json!("2026-06-01T00:00:00Z")).expect("a time");
        task.metadata.deletion_timestamp = Some(deleted);
        assert_eq!(history_until(&task), Some(at("2027-06-01T00:00:00Z")));
    }
}
