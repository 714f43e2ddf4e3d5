//! Whether a run may start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::adopt::{self, Adopted, adopt};
use super::decide::{Action, PODS_AGAIN, Pins, Plan, Verdict, later};
use super::definition::{ValidatedDefinition, ValidatedStep};
use super::failure::refusal;
use super::fanout::{BuiltIn, FanOut, MAX_SHARDS, Source};
use super::snapshot::{Admission, DefinitionFact, EarlierRun, Execution, RetryFact, Trouble, is_held};
use super::{cancel, inputs, life, parameters, queue, retention};
use asynctask_api::definition::WhenSpec;
use asynctask_api::names::ANNOTATION_UNREADABLE;
use asynctask_api::state::StepState;
use asynctask_api::task::{
    AsyncTaskStatus, BuiltInKind, PlannedFanOut, PlannedStep, QueueStatus, RevisionRef, ShardsStatus, StepStatus,
    StoreRef,
};
use asynctask_api::{AsyncTask, TaskState};

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
        let unreadable = task.metadata.annotations.iter().filter_map(|said| said.get(ANNOTATION_UNREADABLE).cloned());
        refuse_if("InvalidParameters", "the parameters cannot be judged", &unreadable.collect::<Vec<_>>())?;
        let violations = parameters::violations(content.parameters.as_ref(), &admission.parameters);
        let violations = if violations.is_empty() { counts(content, &admission.parameters) } else { violations };
        let dates = retention::pinned(&content.retention, &admission.parameters);
        let violations = if violations.is_empty() { dates.err().unwrap_or_default() } else { violations };
        refuse_if("InvalidParameters", "the parameters do not fit the definition", &violations)?;
        refuse_if("PriorityClassNotAllowed", "the run cannot have this priority", &priority(task, content))?;
    }
    if let Some(fact) = admission.retry.as_ref().filter(|_| !checked_before) {
        let refused = adopt::refusal(task, fact, &admission.parameters);
        refuse_if("RetryRefused", "the run cannot be started", &refused.into_iter().collect::<Vec<_>>())?;
    }
    let store = admission.store.as_ref().map_err(|error| wait("StoreNotReady", error.to_string()))?;
    if !checked_before {
        once(task, admission, content)?;
    }
    if let Some(RetryFact::Found(source)) = &admission.retry {
        let before = source.status.as_ref().and_then(|status| status.store.as_ref());
        if before.is_some_and(|before| before.uid != store.uid) {
            let message = "what the other run did is in a store that is gone: create a run without retryOf";
            return Err(refuse("RetryRefused", message.to_owned()));
        }
    }
    if !checked_before {
        if let Some(message) = inputs::unreadable(&admission.uploads) {
            return Err(wait("StoreNotReady", message));
        }
        let violations = inputs::violations(&content.inputs, task, owner, &admission.uploads, &admission.outputs, now);
        refuse_if("InputMissing", "the inputs do not fit the definition", &violations)?;
    }
    Ok(Cleared { revision, content, store })
}

/// Why a run does not run again.
pub(super) const RAN_BEFORE: &str = "RanBefore";

/// Refuses what ran before: as far as `spec.once` goes back, or, without it, what retention removed and is applied again.
fn once(task: &AsyncTask, admission: &Admission, content: &ValidatedDefinition) -> Result<(), Box<Plan>> {
    let earlier = admission.earlier.as_ref().map_err(|error| wait("StoreNotReady", error.clone()))?;
    let Some(earlier) = earlier else { return Ok(()) };
    let EarlierRun { created, state, .. } = earlier;
    let message = match &task.spec.once {
        Some(once) => format!(
            "a run of this name was created at {created} and was last in state {state}, and spec.once says not to run again within \
             {once}: to run it all the same, create an AsyncTask of another name"
        ),
        None if is_applied_again(task, admission, content, earlier) => format!(
            "a run of this name, with the same spec, was created at {created} and was last in state {state}; its retention was over, \
             so the operator deleted it. Applying the same file again does not run it again. To run it again, create an \
             AsyncTask of another name, or one with spec.once: 1h"
        ),
        None => return Ok(()),
    };
    Err(Box::new(Plan::say(Verdict::is(TaskState::Canceled, RAN_BEFORE, Some(message)))))
}

/// Whether this is the same request as an earlier one whose object went by its retention. Somebody who deletes an object
/// means its name to be free.
fn is_applied_again(
    task: &AsyncTask,
    admission: &Admission,
    content: &ValidatedDefinition,
    earlier: &EarlierRun,
) -> bool {
    // Where the history has no parameters nobody can say that they are the same.
    let none = admission.parameters.as_object().is_some_and(serde_json::Map::is_empty);
    let comparable = content.retention.records_parameters() || none;
    earlier.expired && comparable && is_same_request(task, &admission.parameters, &earlier.spec)
}

/// Whether two specs ask for the same, whoever asks for it and whatever is to become of the run.
fn is_same_request(task: &AsyncTask, parameters: &Value, before: &Value) -> bool {
    const ASIDE: [&str; 7] = ["cancel", "keepUntil", "once", "owner", "priorityClassName", "suspend", "team"];
    let without = |spec: &Value, also: Option<&str>| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !ASIDE.contains(&field.as_str()) && also != Some(field));
        spec
    };
    // Our copy of the object has no parameters, and none are the same as those of an empty object.
    let mut spec = without(&json!(task.spec), Some("parameters"));
    spec.insert("parameters".to_owned(), parameters.clone());
    let mut before = without(before, None);
    before.entry("parameters").or_insert_with(|| json!({}));
    spec == before
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
    let adopted = match &admission.retry {
        Some(RetryFact::Found(source)) => adopt(content, source, now),
        Some(RetryFact::Missing) | None => {
            Adopted { steps: waiting(content, &admission.parameters), ..Adopted::default() }
        }
    };
    let pins = Pins {
        revision: cleared.revision.clone(),
        store: cleared.store.clone(),
        plan: content.steps.iter().map(|step| planned(step, content, &admission.parameters)).collect(),
        steps: adopted.steps,
        outputs: adopted.outputs,
        origin: adopted.origin,
        kept_until: retention::pinned(&content.retention, &admission.parameters).unwrap_or_default(),
        keep: content.retention.keep.clone(),
    };
    let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
    let key = &content.concurrency.key;
    let lease = queue::lease_name(namespace, &task.spec.definition.name, key, &admission.parameters);
    let queue = lease.map(|lease| QueueStatus { position: None, lease: Some(lease) });
    let before = task.status.clone().unwrap_or_default();
    let status = AsyncTaskStatus {
        revision: Some(pins.revision.clone()),
        store: Some(pins.store.clone()),
        steps: pins.steps.clone(),
        outputs: pins.outputs.clone(),
        origin: pins.origin.clone(),
        queue,
        ..before
    };
    let execution = Execution {
        content: Ok(Arc::clone(cleared.content)),
        jobs: admission.jobs.clone(),
        results: BTreeMap::new(),
        // Shards of another run are counted once this one is pinned to them.
        tallies: BTreeMap::new(),
        quiet_until: None,
        pods: admission.pods.clone(),
        turn: admission.turn.clone(),
        agent: admission.agent.clone(),
    };
    let plan = life::plan(task, status, &execution, now);
    // Nothing is said as long as there is nothing to say: with its first word the run is pinned.
    if plan.news.verdict == Verdict::Unchanged { plan } else { life::with_pins(plan, pins) }
}

/// The steps before anything has happened. What hangs on parameters is read here: nobody keeps them in memory.
fn waiting(content: &ValidatedDefinition, parameters: &Value) -> Vec<StepStatus> {
    let step = |step: &ValidatedStep| StepStatus {
        name: step.name.clone(),
        state: Some(StepState::Waiting),
        shards: step
            .fan_out
            .as_ref()
            .and_then(|fan_out| shards(fan_out, parameters))
            .map(|total| ShardsStatus { total, ..ShardsStatus::default() }),
        ..StepStatus::default()
    };
    content.steps.iter().map(step).collect()
}

/// Number of shards, unless it depends on items.
fn shards(fan_out: &FanOut, parameters: &Value) -> Option<i64> {
    match &fan_out.source {
        Source::Items { .. } => None,
        Source::Fixed(shards) => Some(i64::from(*shards)),
        Source::Parameter(name) => parameters[name.as_str()].as_i64(),
    }
}

/// What is wrong with parameters that are numbers of shards.
fn counts(content: &ValidatedDefinition, parameters: &Value) -> Vec<String> {
    let wrong = |step: &ValidatedStep| {
        let Source::Parameter(name) = &step.fan_out.as_ref()?.source else { return None };
        let value = &parameters[name.as_str()];
        let fits = value.as_u64().is_some_and(|count| count <= u64::from(MAX_SHARDS));
        (!fits).then(|| format!("/{name}: {value} shards of step {}: from 0 to {MAX_SHARDS} are possible", step.name))
    };
    content.steps.iter().filter_map(wrong).collect()
}

fn planned(step: &ValidatedStep, content: &ValidatedDefinition, parameters: &Value) -> PlannedStep {
    let name = |index: &usize| content.steps[*index].name.clone();
    PlannedStep {
        name: step.name.clone(),
        title: step.title.clone(),
        stages: step.stages.clone(),
        depends_on: step.needs.iter().map(name).collect(),
        when: step.when.as_ref().map(|when| WhenSpec {
            step: when.named().filter(|named| named.len() == 1).and_then(<[usize]>::first).map(name),
            steps: when.named().filter(|named| named.len() > 1).unwrap_or_default().iter().map(name).collect(),
            outcome: when.outcomes.clone(),
            exit_codes: when.codes.texts(),
        }),
        recovers: step.recovers,
        fan_out: step.fan_out.as_ref().map(|fan_out| PlannedFanOut {
            items_from: match fan_out.source {
                Source::Items { step } => Some(name(&step)),
                Source::Fixed(_) | Source::Parameter(_) => None,
            },
            shards: shards(fan_out, parameters),
            parallelism: i64::from(fan_out.parallelism),
        }),
        built_in: step.built_in.as_ref().map(|built_in| match built_in {
            BuiltIn::Split { .. } => BuiltInKind::Split,
            BuiltIn::Assemble { .. } => BuiltInKind::Assemble,
        }),
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
