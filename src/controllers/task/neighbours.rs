//! Other runs that a run has to do with: those it takes something from, and those that take from it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::TaskController;
use super::error::TaskError;
use super::watch::Of;
use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::outputs::OutputDeletion;
use asynctask_api::{AsyncTask, TaskState};
use asynctask_contract::env::LOG_OUTPUT;
use asynctask_plan::inputs::is_theirs;
use asynctask_plan::retention::is_due;
use asynctask_plan::snapshot::{OutputFact, Phase, Reads, RetryFact, Taker, phase, state};
use asynctask_runtime::client::is_status;

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
    pub(super) fn takers_if_due(&self, task: &AsyncTask) -> Vec<Taker> {
        if is_due(task, Timestamp::now()) { self.takers(task) } else { Vec::new() }
    }

    /// The runs that read keys of this one. From our copy: whoever is let in is in it before.
    pub(super) fn takers(&self, task: &AsyncTask) -> Vec<Taker> {
        let namespace = task.namespace().unwrap_or_default();
        takers(task, |source| {
            let naming = Of::Naming { namespace: namespace.clone(), task: source.name_any() };
            let found = self.caches.found(&[naming, Of::Took(source.uid().unwrap_or_default())]);
            found.iter().filter_map(|guarded| guarded.0.as_ref().ok().cloned()).collect()
        })
    }

    /// Asks for the deletion of an output of another run, in the name of who deleted it where it was made. Exactly the version
    /// that was read: should it have changed, the plan says so again.
    pub(super) async fn delete_taken(
        &self,
        task: &AsyncTask,
        run: &str,
        output: &str,
        user: &str,
    ) -> Result<(), TaskError> {
        let fail = |source| TaskError::DeleteTaken { name: run.to_owned(), source };
        let Some(taker) = self.tasks(task).get_opt(run).await.map_err(fail)? else { return Ok(()) };
        let status = taker.status.clone().unwrap_or_default();
        let is_there = status.outputs.iter().any(|known| known.name == output && known.gone.is_none());
        if !is_there || !is_over(&taker) || status.deletions.iter().any(|asked| asked.output == output) {
            return Ok(());
        }
        let deletion = OutputDeletion { output: output.to_owned(), user: user.to_owned(), at: Time(Timestamp::now()) };
        let deletions: Vec<_> = status.deletions.iter().cloned().chain([deletion]).collect();
        let patch = json!({
            "metadata": {"uid": taker.uid(), "resourceVersion": taker.resource_version()},
            "status": {"deletions": deletions},
        });
        let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
        match self.tasks(task).patch_status(run, &params, &Patch::Merge(patch)).await {
            Err(error) if !is_status(&error, 404) && !is_status(&error, 409) => Err(fail(error)),
            _ => Ok(()),
        }
    }
}

/// Runs that took results over from a run, directly or through others, or that are about to, and are to stay. `near`: those
/// that may have to do with one.
fn takers(task: &AsyncTask, near: impl Fn(&AsyncTask) -> Vec<AsyncTask>) -> Vec<Taker> {
    let mut sources = vec![task.clone()];
    let mut uids: BTreeSet<String> = task.uid().into_iter().collect();
    let mut found: BTreeMap<String, (AsyncTask, Reads)> = BTreeMap::new();
    while let Some(source) = sources.pop() {
        for other in near(&source) {
            let uid = other.uid().unwrap_or_default();
            if let Some(reads) = reads(&other, &source)
                && !found.contains_key(&uid)
            {
                uids.insert(uid.clone());
                sources.push(other.clone());
                found.insert(uid, (other, reads));
            }
        }
    }
    let staying = found.into_values().filter(|(taker, _)| taker.metadata.deletion_timestamp.is_none());
    let takers = staying.filter_map(|(taker, reads)| {
        if !is_over(&taker) {
            return Some(Taker { name: taker.name_any(), reads });
        }
        let (whole, partly) = shown(&taker, &uids);
        let shows_any = !whole.is_empty() || !partly.is_empty();
        shows_any.then(|| Taker { name: taker.name_any(), reads: Reads::Shown { whole, partly } })
    });
    takers.collect()
}

fn is_over(task: &AsyncTask) -> bool {
    state(task).is_some_and(TaskState::is_terminal)
}

/// What a run that is over shows of others, by their UIDs.
fn shown(taker: &AsyncTask, uids: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut whole, mut partly) = (BTreeSet::new(), BTreeSet::new());
    let Some(status) = &taker.status else { return (whole, partly) };
    for step in &status.steps {
        if !step.adopted.as_ref().is_some_and(|adopted| uids.contains(&adopted.uid)) {
            continue;
        }
        let there = status.outputs.iter().filter(|output| output.gone.is_none() && output.step == step.name);
        // A step that also ran in this run has files of its own beside them.
        let names = if step.attempt.is_none() { &mut whole } else { &mut partly };
        names.extend(there.map(|output| output.name.clone()));
        // The logs of shards are listed nowhere, and are there as long as the run.
        if step.shards.is_some() {
            partly.insert(LOG_OUTPUT.to_owned());
        }
    }
    (whole, partly)
}

/// What a run reads of another one directly, if anything.
fn reads(other: &AsyncTask, source: &AsyncTask) -> Option<Reads> {
    let adopted = other.status.iter().flat_map(|status| &status.steps).filter_map(|step| step.adopted.as_ref());
    let has_taken = adopted.into_iter().any(|adopted| Some(&adopted.uid) == source.metadata.uid.as_ref());
    // Our copy of a run that was let in a moment ago may not say yet what it took.
    let (own, its) = (&other.spec, &source.spec);
    let named = own.retry_of.as_ref().is_some_and(|retry_of| retry_of.name == source.name_any());
    let may_retry = own.owner == its.owner && own.team == its.team;
    if has_taken || named && may_retry && phase(other) == Phase::New {
        return Some(Reads::Any);
    }
    // Its agents read the file when they begin, also in a later attempt. What somebody else may not take, they cannot hold by
    // naming it.
    let inputs = own.inputs.values().filter_map(|input| input.output.as_ref());
    let theirs = inputs.filter(|output| output.task == source.name_any() && is_theirs(own, source, &output.name));
    let inputs: BTreeSet<String> = theirs.map(|output| output.name.clone()).collect();
    (!inputs.is_empty() && matches!(phase(other), Phase::New | Phase::Pinned)).then_some(Reads::Inputs(inputs))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Reads, takers};
    use asynctask_api::AsyncTask;

    fn adopters(task: &AsyncTask, there: &[&AsyncTask]) -> Vec<String> {
        takers(task, |_| there.iter().map(|task| (*task).clone()).collect())
            .into_iter()
            .map(|taker| taker.name)
            .collect()
    }

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
    fn a_run_that_is_over_needs_what_it_still_shows() {
        let first = run("first", &json!({}));
        let over = |gone: &Value| {
            let adopted = json!({"name": "first", "uid": "uid-first"});
            let output = |name: &str, step: &str, gone: &Value| {
                let mut output = json!({"name": name, "step": step, "files": 1, "size": 1});
                if !gone.is_null() {
                    output["gone"] = gone.clone();
                }
                output
            };
            let steps = json!([{"name": "plan", "adopted": adopted}, {"name": "work"}]);
            let outputs =
                [output("list", "plan", gone), output("log", "plan", gone), output("report", "work", &json!(null))];
            run("again", &json!({"state": "Complete", "steps": steps, "outputs": outputs}))
        };
        let there = over(&json!(null));
        let found = takers(&first, |_| vec![there.clone()]);
        let whole = ["list".to_owned(), "log".to_owned()].into();
        assert_eq!(found[0].reads, Reads::Shown { whole, partly: [].into() }, "report is its own");
        let gone = over(&json!({"at": "2026-01-01T00:00:00Z", "why": "Expired"}));
        assert!(takers(&first, |_| vec![gone.clone()]).is_empty());
        // What it took from this run somebody else took from it.
        let mut third = took_from("third", "again");
        third.metadata.uid = Some("uid-third".into());
        let both = takers(&first, |_| vec![gone.clone(), third.clone()]);
        assert_eq!(both.iter().map(|taker| taker.name.as_str()).collect::<Vec<_>>(), ["third"]);
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
