//! Why a run is where it is: the first cause, in one sentence, and what to do. Pure: everything it speaks of was read
//! before.

use jiff::Timestamp;

use super::advice::Failed;
use super::fan_out::{self, number};
use super::render::{cancel_request, place_in_queue};
use super::takeover::{self, Takeover};
use super::words::{Paint, ahead, clean, grouped};
use asynctask_api::condition::{CANCEL_REQUESTED, NOT_NOW, STALLED};
use asynctask_api::names::ANNOTATION_SUSPENDED_BY;
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, Failure, PlannedStep, StepStatus, Waiting};
use asynctask_api::{AsyncTask, TaskState};
use asynctask_plan::actor::by;

/// Kinds of failure told of a step.
const KINDS: usize = 3;

/// Something the person may not be allowed to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// It was not asked for, or there is none.
    #[default]
    Nothing,
    /// It may not be read; the name of the kind.
    Denied(&'static str),
    /// What was read.
    Is(T),
}

/// What was read beside the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Why the definition admits no runs.
    pub(crate) definition: Known<String>,
    /// The run that holds the concurrency key.
    pub(crate) holder: Known<String>,
    /// The Jobs of the run.
    pub(crate) jobs: Known<Vec<JobFact>>,
    /// Why the newest Job has no pod, in the Job controller's words.
    pub(crate) refusal: Known<String>,
}

/// A Job of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobFact {
    /// Step it is of.
    pub(crate) step: String,
    /// Queue that may hold it.
    pub(crate) queue: Option<String>,
    /// Whether it is held.
    pub(crate) suspended: bool,
    /// Whether it has a pod that has not ended.
    pub(crate) active: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// What it is.
    pub(crate) what: String,
    /// What to do.
    pub(crate) next: String,
}

impl Cause {
    fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

/// The first cause.
pub(crate) fn cause(task: &AsyncTask, facts: &Facts, now: Timestamp) -> Cause {
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    if task.metadata.deletion_timestamp.is_some() {
        return deleting(task);
    }
    let known = task.status.as_ref().and_then(|status| Some((status, status.state?)));
    let Some((status, state)) = known else {
        return Cause::new(
            "The operator has not looked at it yet",
            "Nothing, unless it lasts longer than a minute: then ask whether the operator runs (its Deployment and its \
             log, in the operator's namespace)",
        );
    };
    match state {
        TaskState::Pending => pending(task, status, facts, now),
        TaskState::InProgress => running(task, status, facts, now),
        TaskState::Canceling => canceling(task, status, facts),
        TaskState::PartiallyComplete => partial(&name, status),
        TaskState::Complete => Cause::new(
            match &status.message {
                Some(message) => format!("It is Complete: {}", clean(message)),
                None => "It is Complete: all steps succeeded".to_owned(),
            },
            format!("`kubectl asynctask outputs get {name}` fetches what it gave back"),
        ),
        TaskState::Canceled => Cause::new(format!("It was cancelled{}", said(status)), rerun(&name)),
        TaskState::Failed => failed(&name, task, status),
    }
}

fn canceling(task: &AsyncTask, status: &AsyncTaskStatus, facts: &Facts) -> Cause {
    let running = status.steps.iter().filter(|step| step.state == Some(StepState::Running));
    if let Some(Cause { what, next }) = running.filter_map(|step| stuck(task, step, facts)).next() {
        return Cause::new(format!("It is being cancelled, and waits for a cleanup step. {what}"), next);
    }
    if status.reason.as_deref().is_some_and(|reason| reason != CANCEL_REQUESTED) {
        return Cause::new(
            format!("It is being cancelled and cannot go on now{}", said(status)),
            "Correct what the message names: the operator tries again by itself",
        );
    }
    let message = status.message.as_deref().map(clean).unwrap_or_default();
    Cause::new(
        format!("It is being cancelled{}", after_colon(&message)),
        "Nothing: pods have the grace period of their template to end",
    )
}

/// Reason and message of the status as the rest of a sentence.
fn said(status: &AsyncTaskStatus) -> String {
    let texts = [&status.reason, &status.message].into_iter().flatten().map(|text| clean(text));
    texts.fold(String::new(), |all, text| format!("{all}: {text}"))
}

fn rerun(name: &str) -> String {
    format!("`kubectl asynctask rerun {name}` submits it once more")
}

fn retry(name: &str) -> String {
    format!("`kubectl asynctask retry {name}` takes over what succeeded and runs the rest")
}

fn deleting(task: &AsyncTask) -> Cause {
    let conditions = task.status.iter().flat_map(|s| &s.conditions);
    let stalled = conditions.into_iter().find(|c| c.type_ == STALLED && c.status == "True");
    match stalled.filter(|c| !c.message.is_empty()) {
        Some(c) => Cause::new(
            format!("It is being deleted and cannot be yet: {}: {}", clean(&c.reason), clean(&c.message)),
            "Mend what the message names: the operator tries again by itself",
        ),
        None => Cause::new(
            "It is being deleted: its pods have to end, and its files have to go from the store",
            "Nothing, unless it lasts: then read the operator's log",
        ),
    }
}

fn pending(task: &AsyncTask, status: &AsyncTaskStatus, facts: &Facts, now: Timestamp) -> Cause {
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    let definition = clean(&task.spec.definition.name);
    let message = said(status);
    match status.reason.as_deref().unwrap_or_default() {
        "Scheduled" => {
            let at = task.spec.start_after.as_ref().map(|at| ahead(at.0, now)).unwrap_or_default();
            Cause::new(
                format!("It is not to start before {at}"),
                "Nothing: it starts by itself. To start at once, cancel it and submit another without --start-after",
            )
        }
        "Suspended" => Cause::new(
            format!("{} suspended it", clean(&by(task, ANNOTATION_SUSPENDED_BY))),
            format!("`kubectl asynctask resume {name}` lets it go on"),
        ),
        "ConcurrencyKeyBusy" => key_busy(&message, facts),
        "Queued" => {
            let place = status.queue.as_ref().and_then(place_in_queue);
            let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
            Cause::new(
                format!("It waits in the queue{place}{message}"),
                "Nothing: it starts by itself. `kubectl asynctask list --state InProgress` shows what runs",
            )
        }
        "DefinitionNotReady" => Cause::new(
            match &facts.definition {
                Known::Is(why) => format!("TaskDefinition {definition} cannot be run: {}", clean(why)),
                Known::Denied(_) | Known::Nothing => format!("TaskDefinition {definition} cannot be run{message}"),
            },
            "Correct the definition, or apply it if it is missing: `kubectl asynctask definitions` lists what can be run. The run \
             starts by itself then",
        ),
        "StoreNotReady" => Cause::new(
            format!("Its results could not be stored{message}"),
            "Ask the administrators: `kubectl get outputstores` shows what is wrong. The run starts by itself then",
        ),
        _ => Cause::new(format!("It waits{message}"), "Nothing, unless the message names something to mend"),
    }
}

fn key_busy(message: &str, facts: &Facts) -> Cause {
    match &facts.holder {
        Known::Is(holder) => Cause::new(
            format!("Run {} with the same concurrency key is in progress", clean(holder)),
            format!("Wait for it: `kubectl asynctask watch {}`", clean(holder)),
        ),
        Known::Denied(_) | Known::Nothing => Cause::new(
            format!("Another run of its concurrency key is first{message}"),
            "Wait for it: this one starts by itself",
        ),
    }
}

fn running(task: &AsyncTask, status: &AsyncTaskStatus, facts: &Facts, now: Timestamp) -> Cause {
    if status.reason.as_deref() == Some("SuspendLater") {
        let until = status.message.as_deref().map(clean).unwrap_or_default();
        return Cause::new(format!("It runs on although it is to be suspended: {until}"), "Nothing: wait for the step");
    }
    // Attempt after attempt: told also while the next one happens to run.
    let stalled = status.conditions.iter().find(|c| c.type_ == STALLED && c.status == "True");
    if let Some(stalled) = stalled {
        return Cause::new(
            format!("Its attempts fail: {}", clean(&stalled.message)),
            "Fix what the message names: after some more (`retry.uncountedLimit` of the step) the run fails",
        );
    }
    // The operator itself is in trouble: whatever the steps say may be old.
    let is_ordinary = |reason: &str| matches!(reason, "Running" | "Retrying");
    if status.reason.as_deref().is_some_and(|reason| !is_ordinary(reason)) && status.message.is_some() {
        return Cause::new(format!("It cannot go on now{}", said(status)), "Mend what the message names");
    }
    let of = |state: StepState| status.steps.iter().filter(move |step| step.state == Some(state));
    let stuck = of(StepState::Running).find_map(|step| stuck(task, step, facts));
    if let Some(cause) = stuck {
        return cause;
    }
    if let Some(step) = of(StepState::Retrying).next() {
        return retrying(step, now);
    }
    let refused = status.conditions.iter().any(|c| c.type_ == CANCEL_REQUESTED && c.reason == NOT_NOW);
    if let Some(request) = cancel_request(task).filter(|_| refused) {
        return Cause::new(
            format!("It runs on although it is to be cancelled: {request}"),
            "Nothing: wait for the step",
        );
    }
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    if let Some(cause) = of(StepState::Running).find_map(|step| failing(&name, step)) {
        return cause;
    }
    if let Some(cause) = of(StepState::Running).find_map(|step| again(&name, step)) {
        return cause;
    }
    let names: Vec<_> = of(StepState::Running).map(|step| clean(&step.name)).collect();
    match names.as_slice() {
        [] => Cause::new("Nothing is wrong: its next step is about to start", "Nothing"),
        names => Cause::new(
            format!("Nothing is wrong: step {} runs{}", names.join(" and step "), for_items(status, names)),
            format!("`kubectl asynctask watch {name}` follows it"),
        ),
    }
}

/// A step that runs once more: why the attempt before failed is said as long as nothing better is known.
fn again(name: &str, step: &StepStatus) -> Option<Cause> {
    let (attempt, failure) = (step.attempt.filter(|attempt| *attempt > 1)?, step.failure.as_ref()?);
    let of = clean(&step.name);
    Some(Cause::new(
        format!(
            "Attempt {attempt} of step {of} runs. The one before failed: {}: {}",
            clean(&failure.reason),
            clean(&failure.message)
        ),
        format!(
            "Nothing, should it be cured by itself; else correct what failed. `kubectl asynctask logs {name} --step {of}` shows what it writes"
        ),
    ))
}

/// Which steps wait for the items of those that run.
fn for_items(status: &AsyncTaskStatus, running: &[String]) -> String {
    let from = |planned: &PlannedStep| planned.fan_out.as_ref().and_then(|fan_out| fan_out.items_from.clone());
    let waits = |planned: &&PlannedStep| from(planned).is_some_and(|from| running.contains(&from));
    let waiting: Vec<_> = status.plan.iter().filter(waits).map(|planned| clean(&planned.name)).collect();
    if waiting.is_empty() {
        String::new()
    } else {
        format!(", and step {} waits for its items", waiting.join(" and step "))
    }
}

/// A fan-out that goes on although some of its shards will give nothing.
fn failing(name: &str, step: &StepStatus) -> Option<Cause> {
    let shards = step.shards.as_ref().filter(|shards| shards.failed > 0)?;
    let failed = format!("{} of {} failed", grouped(shards.failed), number(shards.total, "shard"));
    Some(Cause::new(
        format!("Step {} goes on; so far {failed}{}", clean(&step.name), kinds(step)),
        format!(
            "Nothing, while that is no more than it tolerates. `kubectl asynctask shards {name} --failed` lists them"
        ),
    ))
}

/// The most frequent failures of a step.
fn kinds(step: &StepStatus) -> String {
    let kinds = step.failures.iter().take(KINDS).map(|failure| fan_out::failed(failure, Paint { on: false }));
    let kinds: Vec<_> = kinds.collect();
    if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join("; ")) }
}

fn partial(name: &str, status: &AsyncTaskStatus) -> Cause {
    let steps = status.steps.iter().filter(|step| step.state == Some(StepState::PartiallyComplete));
    let steps: Vec<_> = steps.map(|step| format!("step {}{}", clean(&step.name), kinds(step))).collect();
    let failed = status.steps.iter().filter_map(|step| step.shards.as_ref()).any(|shards| shards.failed > 0);
    let next = if failed {
        format!(
            "`kubectl asynctask shards {name} --failed` lists the shards, `kubectl asynctask retry {name}` runs only \
             them again"
        )
    } else {
        format!(
            "If the definition has an output for failed items, `kubectl asynctask outputs ls {name}` shows it, and it can \
             be the input of another run"
        )
    };
    Cause::new(format!("It is over, but not clean, within what is tolerated: {}", steps.join(", ")), next)
}

fn stuck(task: &AsyncTask, step: &StepStatus, facts: &Facts) -> Option<Cause> {
    let job = match &facts.jobs {
        Known::Is(jobs) => jobs.iter().find(|job| job.step == step.name),
        Known::Denied(_) | Known::Nothing => None,
    };
    let name = clean(&step.name);
    if let Some(job) = job.filter(|job| job.suspended) {
        return Some(match &job.queue {
            Some(queue) => Cause::new(
                format!("The Job of step {name} is held in queue {}: it is not admitted now", clean(queue)),
                "Wait for it, or ask whoever runs the queue: `kubectl get workloads` shows its place",
            ),
            None => Cause::new(
                format!("The Job of step {name} is held: its `spec.suspend` is true"),
                "Ask whoever suspended it to resume it; time in which it is held does not count",
            ),
        });
    }
    if let (Known::Is(refusal), true) = (&facts.refusal, job.is_some_and(|job| !job.active)) {
        return Some(no_pod(&name, refusal));
    }
    step.waiting.as_ref().map(|waiting| held_up(task, &name, waiting, facts))
}

/// What follows a colon, if there is anything.
fn after_colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn no_pod(step: &str, why: &str) -> Cause {
    Cause::new(
        format!("The Job of step {step} gets no pod: {}", clean(why)),
        "If a quota is used up, wait or ask for more: `kubectl describe resourcequota` shows it. Else mend what the \
         message names",
    )
}

fn held_up(task: &AsyncTask, step: &str, waiting: &Waiting, facts: &Facts) -> Cause {
    let definition = clean(&task.spec.definition.name);
    let message = clean(&waiting.message);
    match waiting.reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Cause::new(
            format!("The image of step {step} cannot be pulled: {message}"),
            format!("Check the image's name and the pull secret in TaskDefinition {definition}, then run it again"),
        ),
        "Unschedulable" => Cause::new(
            format!("No node takes the pod of step {step}: {message}"),
            "It starts when a node has room for it: ask for nodes, or lower what its template requests",
        ),
        "NoPod" => {
            let mut cause = no_pod(step, &message);
            if let Known::Denied(kind) = &facts.refusal {
                cause.what.push_str(&format!(" (you may not read {kind} here, which may say more)"));
            }
            cause
        }
        reason => Cause::new(
            format!("The pod of step {step} waits: {}{}", clean(reason), after_colon(&message)),
            "Mend what the message names; `startTimeout` ends the wait",
        ),
    }
}

fn retrying(step: &StepStatus, now: Timestamp) -> Cause {
    let (name, attempt) = (clean(&step.name), step.attempt.unwrap_or(1));
    let why = step.failure.as_ref().map(|f| format!(": {}: {}", clean(&f.reason), clean(&f.message)));
    let until = step.until.as_ref().map(|until| format!(" at {}", ahead(until.0, now))).unwrap_or_default();
    Cause::new(
        format!("Attempt {attempt} of step {name} failed{}", why.unwrap_or_default()),
        format!("Nothing: attempt {} starts by itself{until}", attempt + 1),
    )
}

fn failed(name: &str, task: &AsyncTask, status: &AsyncTaskStatus) -> Cause {
    let Some(failure) = &status.failure else {
        return Cause::new(
            format!("It failed{}", said(status)),
            format!("`kubectl asynctask logs {name}` may say more"),
        );
    };
    let Failure { step, reason, code, message, exit_code, link, .. } = failure;
    let step = step.as_ref().map(|step| format!(" in step {}", clean(step))).unwrap_or_default();
    let code = code.as_ref().map(|code| format!(" · {}", clean(code))).unwrap_or_default();
    let exit = exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
    let more = link.as_ref().map(|link| format!(". More: {}", clean(link))).unwrap_or_default();
    let goes_on = Takeover::of(status).is_some() && takeover::refusal(task).is_none();
    let again = if goes_on { retry(name) } else { rerun(name) };
    let failed = status.steps.iter().find(|other| failure.step.as_ref() == Some(&other.name));
    let shards = failed.and_then(|step| step.shards.as_ref()).is_some_and(|shards| shards.failed > 0);
    let next = Failed { name, definition: &task.spec.definition.name, failure, shards, again }.next();
    let what = format!("It failed{step}: {}{code}{exit}: {}{more}", clean(reason), clean(message));
    Cause::new(what, next)
}

#[cfg(test)]
#[path = "cause_tests.rs"]
mod tests;
