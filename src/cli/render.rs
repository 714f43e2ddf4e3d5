//! Pages about a run, as text: a pure function of the object and the time. Every mark has its word beside it.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::plan_page::{at_work, plan};
use super::words::{Paint, ahead, clean, clean_lines, elapsed, indent, moment, size, table};
use asynctask_api::condition::{CANCEL_REQUESTED, NOT_NOW, READY};
use asynctask_api::task::{AsyncTask, AsyncTaskStatus, Failure, QueueStatus, Transition};
use asynctask_api::{TaskDefinition, TaskState};

/// What a page depends on beside the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Now.
    pub(crate) now: Timestamp,
    /// Colours or none.
    pub(crate) paint: Paint,
}

/// The whole page of `status`.
pub(crate) fn status(task: &AsyncTask, view: View) -> String {
    let empty = AsyncTaskStatus::default();
    let known = task.status.as_ref().unwrap_or(&empty);
    let mut page = head(task, known, view);
    page.push('\n');
    page.push_str(&plan(task.status.as_ref(), view));
    if let Some(failure) = &known.failure {
        let _ = write!(page, "\n{}", failure_block(failure, view));
    }
    if !known.outputs.is_empty() {
        let name = task.metadata.name.as_deref().unwrap_or_default();
        let hint = view.paint.dim(&format!("(kubectl asynctask outputs get {name})"));
        let _ = write!(page, "\n{}  {hint}\n{}", view.paint.bold("Outputs"), outputs(known));
    }
    if !known.transitions.is_empty() {
        let _ = write!(page, "\n{}\n{}", view.paint.bold("Transitions"), transitions(known));
    }
    page
}

/// What `watch` draws again and again: name, state and plan.
pub(crate) fn live(task: &AsyncTask, view: View) -> String {
    let name = clean(task.metadata.name.as_deref().unwrap_or_default());
    format!("{}  {}\n{}", view.paint.bold(&name), state(task.status.as_ref(), view), plan(task.status.as_ref(), view))
}

/// One line for a log: state, then the steps that matter.
pub(crate) fn line(task: &AsyncTask) -> String {
    let Some(known) = &task.status else { return TaskState::Pending.to_string() };
    let state = known.state.unwrap_or(TaskState::Pending);
    let mut line = state.to_string();
    if let Some(failure) = known.failure.as_ref().filter(|_| state.is_terminal()) {
        let code = failure.code.as_ref().map(|c| format!(" {}", clean(c))).unwrap_or_default();
        let _ = write!(line, "  {}{code}: {}", clean(&failure.reason), clean(&failure.message));
        return line;
    }
    if let Some(steps) = at_work(known).filter(|_| !state.is_terminal()) {
        let _ = write!(line, "  {steps}");
    } else if let Some(reason) = reason(known, state) {
        let _ = write!(line, "  {reason}");
    }
    line
}

fn head(task: &AsyncTask, known: &AsyncTaskStatus, view: View) -> String {
    let spec = &task.spec;
    let namespace = task.metadata.namespace.as_deref().unwrap_or_default();
    let revision = known.revision.as_ref().map(|r| format!(", revision {}", r.number)).unwrap_or_default();
    let mut rows = vec![
        ("Task", format!("{} (namespace {namespace})", clean(task.metadata.name.as_deref().unwrap_or_default()))),
        ("State", state(task.status.as_ref(), view)),
        ("Definition", format!("{}{revision}", clean(&spec.definition.name))),
    ];
    rows.extend(spec.retry_of.as_ref().map(|source| ("Retry of", clean(&source.name))));
    rows.extend(waits(task, known, view));
    rows.extend(spec.owner.as_ref().map(|owner| ("Owner", clean(owner))));
    rows.extend(spec.team.as_ref().map(|team| ("Team", clean(team))));
    rows.extend(known.store.as_ref().map(|store| ("Store", store.name.clone())));
    if let Some(created) = &task.metadata.creation_timestamp {
        let age = format!("{} (created {})", elapsed(created.0, view.now), moment(created.0));
        rows.push(("Age", age));
    }
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![view.paint.bold(key), value]).collect();
    table(&rows)
}

/// What a run that has not ended waits for, as far as it is asked or told to.
fn waits(task: &AsyncTask, known: &AsyncTaskStatus, view: View) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if known.state.is_some_and(TaskState::is_terminal) {
        return rows;
    }
    let queue = known.queue.as_ref().and_then(place_in_queue);
    rows.extend(queue.map(|place| ("Queue", place)));
    let start = task.spec.start_after.as_ref().filter(|at| at.0 > view.now);
    rows.extend(start.map(|at| ("Starts", format!("not before {}", ahead(at.0, view.now)))));
    rows.extend(task.spec.priority_class_name.as_ref().map(|class| ("Priority", clean(class))));
    rows.extend(cancel_request(task).map(|request| ("Cancel", request)));
    rows
}

/// `position 3: 2 runs start before it`
pub(crate) fn place_in_queue(queue: &QueueStatus) -> Option<String> {
    Some(match queue.position? {
        ..=1 => "position 1: it is next".to_owned(),
        2 => "position 2: 1 run starts before it".to_owned(),
        position @ ..=10 => format!("position {position}: {} runs start before it", position - 1),
        position => format!("about position {position}"),
    })
}

/// What became of the wish to end the run, while it has not ended.
pub(crate) fn cancel_request(task: &AsyncTask) -> Option<String> {
    if !task.spec.is_canceled() {
        return None;
    }
    let conditions = task.status.iter().flat_map(|s| &s.conditions);
    let told = conditions.into_iter().find(|c| c.type_ == CANCEL_REQUESTED);
    Some(match told {
        Some(c) if c.reason == NOT_NOW => format!("refused for now: {}", clean(&c.message)),
        Some(c) if !c.message.is_empty() => format!("requested: {}", clean(&c.message)),
        Some(_) => "requested".to_owned(),
        None => "requested; the operator has not looked at it yet".to_owned(),
    })
}

/// The state with its mark, and why it is so.
fn state(status: Option<&AsyncTaskStatus>, view: View) -> String {
    let Some(known) = status.filter(|s| s.state.is_some()) else {
        return "· Pending  The operator has not looked at it yet".to_owned();
    };
    let state = known.state.unwrap_or(TaskState::Pending);
    let word = match state {
        TaskState::Pending => format!("· {state}"),
        TaskState::InProgress | TaskState::Canceling => view.paint.cyan(&format!("▶ {state}")),
        TaskState::Complete => view.paint.green(&format!("✔ {state}")),
        TaskState::PartiallyComplete => view.paint.yellow(&format!("◐ {state}")),
        TaskState::Failed => view.paint.red(&format!("✘ {state}")),
        TaskState::Canceled => format!("■ {state}"),
    };
    match reason(known, state) {
        Some(reason) => format!("{word}  {reason}"),
        None => word,
    }
}

/// Reason and message, unless they only repeat the state or stand in the block about the failure.
fn reason(known: &AsyncTaskStatus, state: TaskState) -> Option<String> {
    let reason = known.reason.as_deref().filter(|r| *r != state.as_str()).map(clean);
    let message = known.message.as_deref().filter(|_| known.failure.is_none()).map(clean);
    match (reason, message) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (one, other) => one.or(other),
    }
}

fn failure_block(failure: &Failure, view: View) -> String {
    let place = failure.step.as_ref().map(|step| format!(" in step {}", clean(step))).unwrap_or_default();
    let mut text = format!("{}{place}\n", view.paint.bold("Failure"));
    let code = failure.code.as_ref().map(|code| format!(" · {}", clean(code))).unwrap_or_default();
    let exit = failure.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
    let title = format!("{}{code}", clean(&failure.reason));
    let _ = writeln!(text, "  {}{exit}", view.paint.red(&title));
    text.push_str(&indent(&clean_lines(&failure.message).join("\n"), "  "));
    if let Some(link) = &failure.link {
        let _ = writeln!(text, "  More: {}", clean(link));
    }
    if let Some(tail) = failure.log_tail.as_deref().filter(|tail| !tail.trim().is_empty()) {
        text.push_str("  Last lines of the log:\n");
        text.push_str(&indent(&clean_lines(tail).join("\n"), "    │ "));
    }
    text
}

fn outputs(known: &AsyncTaskStatus) -> String {
    let mut rows = vec![["NAME", "STEP", "FILES", "SIZE", "TYPE"].map(str::to_owned).to_vec()];
    rows.extend(known.outputs.iter().map(|output| {
        vec![
            output.name.clone(),
            output.step.clone(),
            output.files.to_string(),
            size(output.size.unsigned_abs()),
            output.media_type.as_deref().map_or_else(|| "-".to_owned(), clean),
        ]
    }));
    indent(&table(&rows), "  ")
}

fn transitions(known: &AsyncTaskStatus) -> String {
    let rows: Vec<_> = known.transitions.iter().map(transition).collect();
    indent(&table(&rows), "  ")
}

/// A row about one change of state.
pub(crate) fn transition(change: &Transition) -> Vec<String> {
    let step = change.step.as_ref().map(|step| format!("step {}", clean(step))).unwrap_or_default();
    vec![moment(change.at.0), change.to.to_string(), clean(&change.reason), step]
}

/// A row of `list`; `extra` holds what `-o wide` adds.
pub(crate) fn list_row(task: &AsyncTask, now: Timestamp) -> (Vec<String>, Vec<String>) {
    let known = task.status.as_ref();
    let or_dash = |text: Option<&str>| text.filter(|t| !t.is_empty()).map_or_else(|| "-".to_owned(), clean);
    let created = task.metadata.creation_timestamp.as_ref();
    let row = vec![
        or_dash(task.metadata.name.as_deref()),
        known.and_then(|s| s.state).unwrap_or(TaskState::Pending).to_string(),
        or_dash(known.and_then(|s| s.step.as_deref())),
        or_dash(known.and_then(|s| s.progress.as_deref())),
        or_dash(Some(&task.spec.definition.name)),
        or_dash(task.spec.owner.as_deref()),
        created.map_or_else(|| "-".to_owned(), |t| elapsed(t.0, now)),
    ];
    let extra = vec![
        or_dash(task.spec.team.as_deref()),
        known.and_then(|s| s.revision.as_ref()).map_or_else(|| "-".to_owned(), |r| r.number.to_string()),
        or_dash(known.and_then(|s| s.reason.as_deref())),
        or_dash(known.and_then(results).as_deref()),
    ];
    (row, extra)
}

/// Names of what can be fetched. The operator's own column is cut; a status without it lists the outputs.
fn results(known: &AsyncTaskStatus) -> Option<String> {
    let names = || known.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(",");
    known.results.clone().or_else(|| Some(names()))
}

/// Whether a definition admits runs, in a few words.
pub(crate) fn readiness(definition: &TaskDefinition) -> String {
    let ready = definition.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == READY);
    match ready {
        Some(c) if c.status == "True" => "Ready".to_owned(),
        Some(c) => format!("not ready: {}", clean(&c.reason)),
        None => "not ready: the operator has not looked at it yet".to_owned(),
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
