//! Whether a run may start.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::decide::{Action, Pins, Plan, Verdict, later};
use super::definition::ValidatedDefinition;
use super::failure::refusal;
use super::job::{self, Run};
use super::snapshot::{Admission, DefinitionFact, Trouble, is_held};
use super::{inputs, parameters};
use crate::api::AsyncTask;
use crate::api::task::{PlannedStep, RevisionRef, StoreRef};

/// How long a definition may be missing: an apply of many files may create the run a moment before it.
const DEFINITION_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks while the operator does not know yet how to build a Job.
const AGENT_AGAIN: Duration = Duration::from_secs(1);
/// The first attempt. A later one comes with the rules that say when.
const FIRST: u32 = 1;

pub(super) fn plan(task: &AsyncTask, admission: &Admission, now: Timestamp) -> Plan {
    match check(task, admission, now) {
        Ok(cleared) => start(task, admission, &cleared, now),
        Err(plan) => *plan,
    }
}

/// What a run needs to start, once all of it is there.
struct Cleared<'a> {
    owner: &'a str,
    revision: &'a RevisionRef,
    content: &'a ValidatedDefinition,
    store: &'a StoreRef,
}

fn check<'a>(task: &'a AsyncTask, admission: &'a Admission, now: Timestamp) -> Result<Cleared<'a>, Box<Plan>> {
    let Some(owner) = task.spec.owner.as_deref() else {
        let message =
            "spec.owner is missing: this cluster does not set it by itself, so name the user the run belongs to";
        return Err(refuse("OwnerMissing", message.to_owned()));
    };
    let (revision, content) = definition(task, &admission.definition, now)?;
    // A run whose Job is there was checked before it was made; what it was checked against may be gone by now.
    let checked_before = admission.job.is_some();
    if !checked_before {
        let violations = parameters::violations(content.parameters.as_ref(), &admission.parameters);
        refuse_if("InvalidParameters", "the parameters do not fit the definition", &violations)?;
    }
    let store = admission.store.as_ref().map_err(|error| wait("StoreNotReady", error.to_string()))?;
    if !checked_before {
        if let Some(message) = inputs::unreadable(&admission.uploads) {
            return Err(wait("StoreNotReady", message));
        }
        let violations = inputs::violations(&content.inputs, task, owner, &admission.uploads);
        refuse_if("InputMissing", "the inputs do not fit the definition", &violations)?;
    }
    Ok(Cleared { owner, revision, content, store })
}

fn definition<'a>(
    task: &AsyncTask,
    fact: &'a DefinitionFact,
    now: Timestamp,
) -> Result<(&'a RevisionRef, &'a ValidatedDefinition), Box<Plan>> {
    match fact {
        DefinitionFact::Ready { revision, content } => Ok((revision, content)),
        DefinitionFact::NotReady(why) => Err(wait("DefinitionNotReady", why.clone())),
        DefinitionFact::Missing(what) => {
            let created = task.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
            let until = later(created, DEFINITION_PATIENCE);
            if now >= until {
                return Err(refuse("DefinitionGone", what.clone()));
            }
            let message = format!("{what}. It may still be on its way: waiting for {}s", DEFINITION_PATIENCE.as_secs());
            Err(Box::new(wait("DefinitionNotReady", message).wake(until)))
        }
    }
}

fn start(task: &AsyncTask, admission: &Admission, cleared: &Cleared<'_>, now: Timestamp) -> Plan {
    if !is_held(task) {
        return Plan::act(vec![Action::Hold], Verdict::Unchanged);
    }
    let content = cleared.content;
    let steps = content.steps.iter();
    let pins = Pins {
        revision: cleared.revision.clone(),
        store: cleared.store.clone(),
        plan: steps
            .map(|step| PlannedStep {
                name: step.name.clone(),
                title: step.title.clone(),
                stages: step.stages.clone(),
                depends_on: Vec::new(),
                when: None,
                recovers: step.recovers,
            })
            .collect(),
    };
    if admission.job.is_some() {
        return Plan::say(Verdict::Starts(pins));
    }
    let Some(agent) = &admission.agent else {
        return Plan::rest().wake(later(now, AGENT_AGAIN));
    };
    let metadata = &task.metadata;
    let run = Run {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        owner: cleared.owner.to_owned(),
        team: task.spec.team.clone().unwrap_or_default(),
        revision: cleared.revision.name.clone(),
        priority_class: None,
        labels: BTreeMap::new(),
    };
    let first = content.steps.first().expect("invariant: the schema of a definition wants a step");
    let job = job::build(first, &run, FIRST, content.pods_kept, agent);
    Plan::act(vec![Action::CreateJob(job)], Verdict::Starts(pins))
}

fn wait(reason: &'static str, message: String) -> Box<Plan> {
    Box::new(Plan::say(Verdict::Waits(Trouble { reason, message })))
}

fn refuse(reason: &str, message: String) -> Box<Plan> {
    Box::new(Plan::say(Verdict::Fails(refusal(reason, message), None)))
}

fn refuse_if(reason: &str, what: &str, violations: &[String]) -> Result<(), Box<Plan>> {
    if violations.is_empty() {
        return Ok(());
    }
    Err(refuse(reason, format!("{what}: {}", enumerate(violations))))
}

/// All sentences, as many as a message takes; of the rest their number.
fn enumerate(sentences: &[String]) -> String {
    const ROOM: usize = 3900;
    let mut text = String::new();
    for (index, sentence) in sentences.iter().enumerate() {
        if text.len() + sentence.len() > ROOM {
            return format!("{text}; and {} more", sentences.len() - index);
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.push_str(sentence);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::enumerate;

    #[test]
    fn a_message_takes_as_many_sentences_as_fit_and_counts_the_rest() {
        let few = ["a".to_owned(), "b".to_owned()];
        assert_eq!(enumerate(&few), "a; b");
        let many = vec!["x".repeat(400); 100];
        let text = enumerate(&many);
        assert!(text.len() < 4000 && text.ends_with("and 91 more"), "{}", text.len());
    }
}
