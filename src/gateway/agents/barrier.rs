//! The barrier before a guarded stage: from there on a run is not cancelled, so nobody enters who was asked to stop.
//! Pure; whoever asks writes the entry on exactly the version that was judged, so that of a request to cancel and an
//! entry one comes first for everybody.

use crate::problem::Refusal;
use asynctask_api::task::StepStatus;
use asynctask_api::{AsyncTask, TaskState};

/// Lets the step of this task pass.
pub(super) fn pass(task: &AsyncTask, step: &StepStatus) -> Result<(), Refusal> {
    // Half done is not done: who is past it, in this attempt or an earlier one, goes on to the end.
    if step.guarded == Some(true) {
        return Ok(());
    }
    let state = task.status.as_ref().and_then(|status| status.state);
    let why = match state {
        _ if task.spec.is_canceled() => "the run is to be cancelled",
        Some(TaskState::Canceling | TaskState::Canceled) => "the run is being cancelled",
        _ if task.spec.is_suspended() => "the run is to be held",
        // Whether a run that is over, or not written down yet, may write at all is the fence's question.
        _ => return Ok(()),
    };
    Err(Refusal::Canceled(format!("{why}: the stage was not entered; leave everything as it is and end")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn passes(spec: serde_json::Value, state: TaskState, guarded: Option<bool>) -> bool {
        let mut task: AsyncTask = serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "run"},
            "spec": {"definition": {"name": "import"}}, "status": {"state": state},
        }))
        .expect("a task");
        task.spec.cancel = spec["cancel"].as_bool();
        task.spec.suspend = spec["suspend"].as_bool();
        let result = pass(&task, &StepStatus { name: "import".into(), guarded, ..StepStatus::default() });
        assert!(matches!(result, Ok(()) | Err(Refusal::Canceled(_))), "{result:?}");
        result.is_ok()
    }

    #[test]
    fn nobody_passes_who_was_asked_to_stop() {
        let (none, cancel, suspend) = (json!({}), json!({"cancel": true}), json!({"suspend": true}));
        assert!(passes(none.clone(), TaskState::InProgress, None));
        assert!(passes(json!({"cancel": false, "suspend": false}), TaskState::InProgress, None));
        assert!(!passes(cancel, TaskState::InProgress, None));
        assert!(!passes(suspend, TaskState::InProgress, None));
        assert!(!passes(none.clone(), TaskState::Canceling, None));
        assert!(!passes(none, TaskState::Canceled, None));
    }

    #[test]
    fn who_is_past_it_goes_on_whatever_is_asked() {
        assert!(passes(json!({"cancel": true, "suspend": true}), TaskState::InProgress, Some(true)));
    }
}
