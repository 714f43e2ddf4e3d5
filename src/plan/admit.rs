//! Whether a run may start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::decide::{Action, PODS_AGAIN, Pins, Plan, Verdict, later};
use super::definition::{ValidatedDefinition, ValidatedStep};
use super::failure::refusal;
use super::snapshot::{Admission, DefinitionFact, Execution, Trouble, is_held};
use super::{cancel, inputs, life, parameters, queue};
use crate::api::definition::WhenSpec;
use crate::api::task::{AsyncTaskStatus, PlannedStep, QueueStatus, RevisionRef, StoreRef};
use crate::api::{AsyncTask, TaskState};

/// How long a definition may be missing: an apply of many files may create the run a moment before it.
const DEFINITION_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn plan(task: &AsyncTask, admission: &Admission, now: Timestamp) -> Plan {
    if task.spec.is_canceled() && admission.jobs.is_empty() {
        if admission.pods.iter().any(|pod| pod.alive) {
            return Plan::rest().wake(later(now, PODS_AGAIN));
        }
        let Trouble { reason, message } = cancel::why(task);
        let message = format!("{message}; it was not admitted, and nothing ran");
        return Plan::say(Verdict::is(TaskState::Canceled, reason, Some(message)));
    }
    match check(task, admission, now) {
        Ok(cleared) => start(task, admission, &cleared, now),
        Err(plan) => *plan,
    }
}

/// What a run needs to start, once all of it is there.
struct Cleared<'a> {
    revision: &'a RevisionRef,
    content: &'a Arc<ValidatedDefinition>,
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
    let checked_before = !admission.jobs.is_empty();
    if !checked_before {
        let violations = parameters::violations(content.parameters.as_ref(), &admission.parameters);
        refuse_if("InvalidParameters", "the parameters do not fit the definition", &violations)?;
        refuse_if("PriorityClassNotAllowed", "the run cannot have this priority", &priority(task, content))?;
    }
    let store = admission.store.as_ref().map_err(|error| wait("StoreNotReady", error.to_string()))?;
    if !checked_before {
        if let Some(message) = inputs::unreadable(&admission.uploads) {
            return Err(wait("StoreNotReady", message));
        }
        let violations = inputs::violations(&content.inputs, task, owner, &admission.uploads);
        refuse_if("InputMissing", "the inputs do not fit the definition", &violations)?;
    }
    Ok(Cleared { revision, content, store })
}

fn priority(task: &AsyncTask, content: &ValidatedDefinition) -> Vec<String> {
    let allowed = &content.priority_classes;
    let wanted = task.spec.priority_class_name.iter().filter(|wanted| !allowed.contains(wanted));
    let say = |wanted: &String| {
        let choice = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        format!("spec.priorityClassName: {wanted:?} is not one the definition lets a run choose: it allows {choice}")
    };
    wanted.map(say).collect()
}

fn definition<'a>(
    task: &AsyncTask,
    fact: &'a DefinitionFact,
    now: Timestamp,
) -> Result<(&'a RevisionRef, &'a Arc<ValidatedDefinition>), Box<Plan>> {
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

/// Pinned, and from then on as every pinned run: what can start starts at once.
fn start(task: &AsyncTask, admission: &Admission, cleared: &Cleared<'_>, now: Timestamp) -> Plan {
    if !is_held(task) {
        return Plan::act(vec![Action::Hold], Verdict::Unchanged);
    }
    let content = cleared.content;
    let pins = Pins {
        revision: cleared.revision.clone(),
        store: cleared.store.clone(),
        plan: content.steps.iter().map(|step| planned(step, content)).collect(),
    };
    let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
    let key = &content.concurrency.key;
    let lease = queue::lease_name(namespace, &task.spec.definition.name, key, &admission.parameters);
    let queue = lease.map(|lease| QueueStatus { position: None, lease: Some(lease) });
    let before = task.status.clone().unwrap_or_default();
    let status =
        AsyncTaskStatus { revision: Some(pins.revision.clone()), store: Some(pins.store.clone()), queue, ..before };
    let execution = Execution {
        content: Ok(Arc::clone(cleared.content)),
        jobs: admission.jobs.clone(),
        results: BTreeMap::new(),
        pods: admission.pods.clone(),
        turn: admission.turn.clone(),
        agent: admission.agent.clone(),
    };
    let plan = life::plan(task, status, &execution, now);
    // Nothing is said as long as there is nothing to say: with its first word the run is pinned.
    if plan.news.verdict == Verdict::Unchanged { plan } else { life::with_pins(plan, pins) }
}

fn planned(step: &ValidatedStep, content: &ValidatedDefinition) -> PlannedStep {
    let name = |index: &usize| content.steps[*index].name.clone();
    PlannedStep {
        name: step.name.clone(),
        title: step.title.clone(),
        stages: step.stages.clone(),
        depends_on: step.needs.iter().map(name).collect(),
        when: step.when.as_ref().map(|when| WhenSpec {
            step: name(&when.step),
            outcome: when.outcomes.clone(),
            exit_codes: when.codes.texts(),
        }),
        recovers: step.recovers,
    }
}

fn wait(reason: &'static str, message: String) -> Box<Plan> {
    Box::new(Plan::say(Verdict::held(TaskState::Pending, &Trouble { reason, message })))
}

fn refuse(reason: &str, message: String) -> Box<Plan> {
    Box::new(Plan::say(Verdict::Fails(refusal(reason, message))))
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
