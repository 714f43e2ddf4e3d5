//! What a retry takes over from a run that is over, and what it runs: in words, from the status of that run. Pure; the
//! operator is the one who decides, by the same rule.

use super::fan_out::number;
use super::words::{clean, grouped};
use asynctask_api::TaskState;
use asynctask_api::definition::WhenSpec;
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTask, AsyncTaskStatus, PlannedStep, StepStatus};

/// What becomes of the steps of a run in its retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// Steps whose result is taken over.
    pub(crate) whole: Vec<String>,
    /// Fan-outs of which the shards that gave a result are taken over.
    pub(crate) parts: Vec<Part>,
    /// Steps that run.
    pub(crate) rest: Vec<String>,
    /// Whether a step runs that was not stopped by another one.
    cause: bool,
}

/// A fan-out that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Step.
    pub(crate) step: String,
    /// Shards that gave their result.
    pub(crate) done: i64,
    /// All shards.
    pub(crate) total: i64,
}

impl Takeover {
    /// From the status of the run that is to be retried.
    pub(crate) fn of(known: &AsyncTaskStatus) -> Self {
        let mut all = Self::default();
        for planned in &known.plan {
            let ready = needs(planned).all(|need| all.whole.iter().any(|taken| taken == need));
            let step = known.steps.iter().find(|step| step.name == planned.name);
            let kept = step.filter(|step| ready && (step.manifest.is_some() || step.adopted.is_some()));
            let state = step.and_then(|step| step.state).unwrap_or(StepState::Waiting);
            if kept.is_some() && state == StepState::Complete {
                all.whole.push(planned.name.clone());
            } else if let Some(part) = kept.and_then(|step| part(planned, step)) {
                all.cause |= part.done < part.total;
                all.parts.push(part);
            } else if state != StepState::Skipped || planned.when.is_none() {
                all.cause |= ready;
                // What answers to the end of others runs again only if they end so again.
                all.rest.extend((planned.when.is_none() || ready).then(|| planned.name.clone()));
            }
        }
        all
    }

    /// Whether anything is taken over.
    pub(crate) fn is_some(&self) -> bool {
        !self.whole.is_empty() || self.parts.iter().any(|part| part.done > 0)
    }

    /// `Taken over from mail-1: plan, 956 of 1,000 shards of send. To run: 44 shards of send, summary`
    pub(crate) fn sentence(&self, source: &str) -> String {
        let whole = self.whole.iter().map(|step| clean(step));
        let part = |part: &Part| format!("{} of {} of {}", grouped(part.done), number(part.total, "shard"), part.step);
        let taken: Vec<_> = whole.chain(self.parts.iter().map(part).map(|text| clean(&text))).collect();
        let missing = self.parts.iter().filter(|part| part.done < part.total);
        let missing = missing.map(|part| format!("{} of {}", number(part.total - part.done, "shard"), part.step));
        let rest: Vec<_> = missing.chain(self.rest.iter().cloned()).map(|text| clean(&text)).collect();
        let taken = if taken.is_empty() { "nothing".to_owned() } else { taken.join(", ") };
        format!("Taken over from {}: {taken}. To run: {}", clean(source), rest.join(", "))
    }
}

/// Why a run cannot be retried, and what can be done instead; `None`: it can be.
pub(crate) fn refusal(task: &AsyncTask) -> Option<String> {
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    let rerun = format!("`kubectl asynctask rerun {name}` submits the same once more");
    let known = task.status.as_ref();
    let state = known.and_then(|known| known.state).unwrap_or(TaskState::Pending);
    if !state.is_terminal() {
        return Some(format!(
            "AsyncTask {name:?} is not over ({state}): wait for its end, or cancel it, then retry it"
        ));
    }
    if state == TaskState::Complete {
        return Some(format!("AsyncTask {name:?} is Complete: nothing of it is left to run. {rerun}"));
    }
    let known = known.filter(|known| known.revision.is_some() && !known.plan.is_empty());
    let Some(known) = known else {
        return Some(format!("AsyncTask {name:?} ended before its first step: there is nothing to take over. {rerun}"));
    };
    (!Takeover::of(known).cause).then(|| {
        format!(
            "AsyncTask {name:?} has no step and no shard that gave no result: a retry would end the same way. Items that \
             failed are in its outputs, and such a file can be the input of another run"
        )
    })
}

fn needs(planned: &PlannedStep) -> impl Iterator<Item = &str> {
    planned.depends_on.iter().map(String::as_str).chain(planned.when.iter().flat_map(WhenSpec::named))
}

fn part(planned: &PlannedStep, step: &StepStatus) -> Option<Part> {
    let shards = step.shards.as_ref().filter(|_| planned.fan_out.is_some())?;
    Some(Part { step: planned.name.clone(), done: shards.succeeded, total: shards.total })
}

#[cfg(test)]
mod tests {
    use super::{Takeover, refusal};
    use asynctask_api::AsyncTask;
    use asynctask_api::state::{StepState, TaskState};
    use serde_json::{Value, json};

    fn golden(text: &str) -> AsyncTask {
        serde_yaml_ng::from_str(text).expect("an AsyncTask")
    }

    fn sentence(task: &AsyncTask) -> String {
        Takeover::of(task.status.as_ref().expect("a status")).sentence("mail-1")
    }

    fn run(state: &str, plan: Value, steps: Value) -> AsyncTask {
        let revision = json!({"name": "d-1", "uid": "r", "number": 1});
        let status = json!({"state": state, "revision": revision, "plan": plan, "steps": steps});
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {"name": "mail-1"},
            "spec": {"definition": {"name": "d"}}, "status": status,
        }))
        .expect("an AsyncTask")
    }

    #[test]
    fn of_a_fan_out_only_the_missing_shards_run_and_all_behind_it() {
        let expected = "Taken over from mail-1: plan, 956 of 1,000 shards of send. \
                        To run: 44 shards of send, assemble-send, summary";
        for text in [include_str!("golden/shards_partial.yaml"), include_str!("golden/shards_failed.yaml")] {
            let task = golden(text);
            assert_eq!(refusal(&task), None);
            assert_eq!(sentence(&task), expected);
        }
    }

    #[test]
    fn a_fan_out_that_was_never_sealed_runs_as_a_whole() {
        let mut task = golden(include_str!("golden/shards_failed.yaml"));
        task.status.as_mut().expect("a status").steps[1].manifest = None;
        assert_eq!(sentence(&task), "Taken over from mail-1: plan. To run: send, assemble-send, summary");
    }

    #[test]
    fn a_complete_step_behind_one_that_runs_again_runs_too_and_alternatives_wait_for_their_cause() {
        let step = |name: &str, needs: Value| json!({"name": name, "title": "", "dependsOn": needs});
        let mut lite = step("lite", json!(["c"]));
        lite["when"] = json!({"step": "c", "outcome": ["Failed"]});
        let plan =
            json!([step("a", json!([])), step("b", json!(["a"])), step("c", json!([])), step("d", json!(["c"])), lite]);
        let steps = json!([
            {"name": "a", "state": "Failed"}, {"name": "b", "state": "Complete", "manifest": "00"},
            {"name": "c", "state": "Complete", "manifest": "00"}, {"name": "d", "state": "Complete", "manifest": "00"},
            {"name": "lite", "state": "Skipped"},
        ]);
        assert_eq!(sentence(&run("Failed", plan, steps)), "Taken over from mail-1: c, d. To run: a, b");
    }

    #[test]
    fn shards_that_a_retry_itself_had_taken_over_are_taken_over_again() {
        let mut task = golden(include_str!("golden/shards_retry.yaml"));
        let known = task.status.as_mut().expect("a status");
        (known.state, known.steps[1].state) = (Some(TaskState::Canceled), Some(StepState::Canceled));
        let expected = "Taken over from mail-1: plan, 970 of 1,000 shards of send. \
                        To run: 30 shards of send, assemble-send, summary";
        assert_eq!(sentence(&task), expected);
        assert_eq!(refusal(&task), None);
    }

    #[test]
    fn a_run_without_anything_to_run_again_is_refused_with_what_to_do() {
        let plan = json!([{"name": "send", "title": "", "fanOut": {"parallelism": 1}}, {"name": "b", "title": "", "dependsOn": ["send"]}]);
        let shards = json!({"total": 3, "active": 0, "succeeded": 3, "failed": 0});
        let send = json!({"name": "send", "state": "PartiallyComplete", "manifest": "00", "shards": shards});
        let steps = json!([send, {"name": "b", "state": "Complete"}]);
        for (task, expected) in [
            (golden(include_str!("golden/shards_during.yaml")), "is not over (InProgress): wait"),
            (
                golden(include_str!("golden/complete.yaml")),
                "is Complete: nothing of it is left to run. `kubectl asynctask rerun",
            ),
            (run("Failed", json!([]), json!([])), "ended before its first step"),
            (run("PartiallyComplete", plan, steps), "a retry would end the same way"),
        ] {
            let told = refusal(&task).expect("refused");
            assert!(told.contains(expected), "{told}");
        }
    }
}
