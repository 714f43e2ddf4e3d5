//! Other runs that a run has to do with: those it takes something from, and those that take from it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::TaskController;
use super::error::TaskError;
use asynctask_api::AsyncTask;
use asynctask_plan::inputs::is_theirs;
use asynctask_plan::retention::is_due;
use asynctask_plan::snapshot::{OutputFact, Phase, RetryFact, phase};

impl TaskController {
    /// The run that this one continues.
    pub(super) async fn retry(&self, task: &AsyncTask) -> Result<Option<RetryFact>, TaskError> {
        let Some(retry_of) = &task.spec.retry_of else { return Ok(None) };
        let found = self.neighbour(task, &retry_of.name).await?;
        Ok(Some(found.map_or(RetryFact::Missing, |run| RetryFact::Found(Box::new(run)))))
    }

    /// The runs whose outputs this one takes, by input.
    pub(super) async fn outputs(&self, task: &AsyncTask) -> Result<BTreeMap<String, OutputFact>, TaskError> {
        let mut facts = BTreeMap::new();
        for (input, reference) in &task.spec.inputs {
            if let Some(output) = &reference.output {
                let found = self.neighbour(task, &output.task).await?;
                facts.insert(input.clone(), found.map_or(OutputFact::Missing, |run| OutputFact::Of(Box::new(run))));
            }
        }
        Ok(facts)
    }

    /// A run of the same namespace, as it is now.
    async fn neighbour(&self, task: &AsyncTask, name: &str) -> Result<Option<AsyncTask>, TaskError> {
        let read = match self.whole(&task.namespace().unwrap_or_default(), name).await {
            // What nobody can read gives nobody anything.
            Err(kube::Error::SerdeError(_)) => Ok(None),
            read => read,
        };
        read.map_err(|source| TaskError::ReadNeighbour { name: name.to_owned(), source })
    }

    /// The same, where something of a run that is over is to be deleted; of one that rests nobody is asked.
    pub(super) fn needed_by(&self, task: &AsyncTask) -> Vec<String> {
        if is_due(task, Timestamp::now()) { self.adopters(task) } else { Vec::new() }
    }

    /// Names of the runs that need the keys of this one. From our copy: whoever is let in is in it before.
    pub(super) fn adopters(&self, task: &AsyncTask) -> Vec<String> {
        let namespace = task.namespace();
        let there = self.caches.tasks.state_filter(|guarded| guarded.namespace() == namespace);
        let there: Vec<&AsyncTask> = there.iter().filter_map(|guarded| guarded.0.as_ref().ok()).collect();
        adopters(task, &there)
    }
}

/// Runs that took results over from a run, directly or through others, or that are about to, and are to stay.
fn adopters(task: &AsyncTask, there: &[&AsyncTask]) -> Vec<String> {
    let mut sources: Vec<&AsyncTask> = vec![task];
    let mut takers: BTreeMap<String, &AsyncTask> = BTreeMap::new();
    while let Some(source) = sources.pop() {
        for other in there.iter().filter(|other| takes_from(other, source)) {
            if takers.insert(other.uid().unwrap_or_default(), other).is_none() {
                sources.push(other);
            }
        }
    }
    let staying = takers.values().filter(|taker| taker.metadata.deletion_timestamp.is_none());
    staying.map(|taker| taker.name_any()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn takes_from(other: &AsyncTask, source: &AsyncTask) -> bool {
    let adopted = other.status.iter().flat_map(|status| &status.steps).filter_map(|step| step.adopted.as_ref());
    let has_taken = adopted.into_iter().any(|adopted| Some(&adopted.uid) == source.metadata.uid.as_ref());
    // Our copy of a run that was let in a moment ago may not say yet what it took.
    let (own, its) = (&other.spec, &source.spec);
    let named = own.retry_of.as_ref().is_some_and(|retry_of| retry_of.name == source.name_any());
    let may_retry = own.owner == its.owner && own.team == its.team;
    // Its agents read the file when they begin, also in a later attempt. What somebody else may not take, they cannot hold by
    // naming it.
    let inputs = own.inputs.values().filter_map(|input| input.output.as_ref());
    let reads =
        inputs.into_iter().any(|output| output.task == source.name_any() && is_theirs(own, source, &output.name))
            && matches!(phase(other), Phase::New | Phase::Pinned);
    has_taken || reads || named && may_retry && phase(other) == Phase::New
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::adopters;
    use asynctask_api::AsyncTask;

    fn run(name: &str, status: &Value) -> AsyncTask {
        serde_json::from_value(json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask",
            "metadata": {"name": name, "namespace": "studio", "uid": format!("uid-{name}")},
            "spec": {"definition": {"name": "d"}}, "status": status,
        }))
        .expect("a task")
    }

    fn took_from(name: &str, source: &str) -> AsyncTask {
        let adopted = json!({"name": source, "uid": format!("uid-{source}")});
        run(name, &json!({"state": "InProgress", "steps": [{"name": "plan", "adopted": adopted}]}))
    }

    fn deleted(mut task: AsyncTask) -> AsyncTask {
        task.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time"));
        task
    }

    #[test]
    fn whoever_took_a_result_needs_its_keys() {
        let (first, other) = (run("first", &json!({})), run("other", &json!({})));
        let again = took_from("again", "first");
        assert_eq!(adopters(&first, &[&first, &other, &again]), ["again"]);
        assert!(adopters(&again, &[&first, &other, &again]).is_empty());
        assert!(adopters(&first, &[&first, &other, &deleted(again)]).is_empty());
    }

    #[test]
    fn what_was_taken_over_twice_is_needed_by_the_last_one() {
        let (first, third) = (run("first", &json!({})), took_from("third", "second"));
        let second = deleted(took_from("second", "first"));
        assert_eq!(adopters(&first, &[&second, &third]), ["third"], "its pages name keys of the first");
    }

    #[test]
    fn a_run_that_is_about_to_take_something_over_counts_until_it_is_over() {
        let first = run("first", &json!({}));
        let mut again = run("again", &json!({}));
        again.spec.retry_of = Some(serde_json::from_value(json!({"name": "first"})).expect("a reference"));
        assert_eq!(adopters(&first, &[&again]), ["again"]);
        let failed = run("again", &json!({"state": "Failed"}));
        assert!(adopters(&first, &[&AsyncTask { spec: again.spec, ..failed }]).is_empty());
    }

    #[test]
    fn nobody_holds_by_naming_it_what_they_may_not_take() {
        let given = json!({"state": "Complete", "outputs": [{"name": "report", "step": "s", "files": 1, "size": 1}]});
        let mut first = run("first", &given);
        first.spec.owner = Some("ada".into());
        let reads = |owner: &str| {
            let mut other = run("other", &json!({}));
            other.spec.owner = Some(owner.into());
            let input = json!({"output": {"task": "first", "name": "report"}});
            other.spec.inputs.insert("archive".into(), serde_json::from_value(input).expect("an input"));
            other
        };
        assert_eq!(adopters(&first, &[&reads("ada")]), ["other"]);
        assert!(adopters(&first, &[&reads("mallory")]).is_empty());
        let mut again = run("again", &json!({}));
        again.spec.owner = Some("mallory".into());
        again.spec.retry_of = Some(serde_json::from_value(json!({"name": "first"})).expect("a reference"));
        assert!(adopters(&first, &[&again]).is_empty());
    }
}
