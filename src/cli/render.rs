//! Pages about a run, as text: a pure function of the object and the time. Every mark has its word beside it.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::words::{Paint, clean, clean_lines, elapsed, indent, moment, size, table};
use crate::api::state::StepState;
use crate::api::task::{AsyncTask, AsyncTaskStatus, Failure, PlannedStep, StepProgress, StepStatus};
use crate::api::{TaskDefinition, TaskState};

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
    page.push_str(&plan(task, view));
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
    format!("{}  {}\n{}", view.paint.bold(&name), state(task.status.as_ref(), view), plan(task, view))
}

/// One line for a log: state, then the step that matters.
pub(crate) fn line(task: &AsyncTask) -> String {
    let Some(known) = &task.status else { return TaskState::Pending.to_string() };
    let state = known.state.unwrap_or(TaskState::Pending);
    let mut line = state.to_string();
    if let Some(failure) = known.failure.as_ref().filter(|_| state.is_terminal()) {
        let code = failure.code.as_ref().map(|c| format!(" {}", clean(c))).unwrap_or_default();
        let _ = write!(line, "  {}{code}: {}", clean(&failure.reason), clean(&failure.message));
        return line;
    }
    let running = known.steps.iter().find(|s| s.state == Some(StepState::Running));
    let planned = running.and_then(|s| known.plan.iter().find(|p| p.name == s.name));
    if let (Some(step), Some(planned)) = (running.filter(|_| !state.is_terminal()), planned) {
        let _ = write!(line, "  {}", clean(&planned.title));
        if let Some(detail) = detail(planned, step) {
            let _ = write!(line, "  ({detail})");
        }
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

/// The state with its mark, and why it is so.
fn state(status: Option<&AsyncTaskStatus>, view: View) -> String {
    let Some(known) = status.filter(|s| s.state.is_some()) else {
        return "· Pending  The operator has not looked at it yet".to_owned();
    };
    let state = known.state.unwrap_or(TaskState::Pending);
    let word = match state {
        TaskState::Pending => format!("· {state}"),
        TaskState::InProgress | TaskState::Canceling => view.paint.cyan(&format!("▶ {state}")),
        TaskState::Complete | TaskState::PartiallyComplete => view.paint.green(&format!("✔ {state}")),
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

/// The steps that occur, with what became of each.
pub(crate) fn plan(task: &AsyncTask, view: View) -> String {
    let mut text = format!("{}\n", view.paint.bold("Plan"));
    let Some(known) = task.status.as_ref().filter(|s| !s.plan.is_empty()) else {
        text.push_str("  not known until the run is admitted\n");
        return text;
    };
    let waiting = StepStatus::default();
    let rows: Vec<_> =
        known.plan.iter().map(|planned| step_row(planned, step(known, planned, &waiting), view)).collect();
    for (planned, row) in known.plan.iter().zip(table(&rows).lines()) {
        let _ = writeln!(text, "  {row}");
        text.push_str(&stages(planned, step(known, planned, &waiting), view));
    }
    text
}

fn step<'a>(known: &'a AsyncTaskStatus, planned: &PlannedStep, waiting: &'a StepStatus) -> &'a StepStatus {
    known.steps.iter().find(|s| s.name == planned.name).unwrap_or(waiting)
}

fn step_row(planned: &PlannedStep, step: &StepStatus, view: View) -> Vec<String> {
    let state = step.state.unwrap_or(StepState::Waiting);
    let word = match state {
        StepState::Waiting => format!("· {}", state.as_str()),
        StepState::Running => view.paint.cyan(&format!("▶ {}", state.as_str())),
        StepState::Complete => view.paint.green(&format!("✔ {}", state.as_str())),
        StepState::Retrying => view.paint.cyan(&format!("↻ {}", state.as_str())),
        StepState::Failed => view.paint.red(&format!("✘ {}", state.as_str())),
        StepState::Canceled => format!("■ {}", state.as_str()),
        StepState::Skipped => view.paint.dim(&format!("- {}", state.as_str())),
    };
    let mut about = detail(planned, step).map(|d| format!("({d})")).unwrap_or_default();
    if let Some(attempt) = step.attempt.filter(|n| *n > 1) {
        let _ = write!(about, " attempt {attempt}");
    }
    let until = step.finish_time.as_ref().map_or(view.now, |t| t.0);
    let took = step.start_time.as_ref().map(|t| elapsed(t.0, until)).unwrap_or_default();
    vec![word, clean(&planned.title), about.trim().to_owned(), took]
}

/// `stage 2 of 3: Walking, 40/58 blocks`
fn detail(planned: &PlannedStep, step: &StepStatus) -> Option<String> {
    // Of a step that is done only the sum is of interest.
    let current = step.stage.as_deref().filter(|_| step.state != Some(StepState::Complete));
    let stage = current.map(|stage| match planned.stages.iter().position(|s| s == stage) {
        Some(at) => format!("stage {} of {}: {}", at + 1, planned.stages.len(), clean(stage)),
        None => format!("stage {}", clean(stage)),
    });
    let units = step.progress.as_ref().and_then(units);
    match (stage, units) {
        (Some(stage), Some(units)) => Some(format!("{stage}, {units}")),
        (one, other) => one.or(other),
    }
}

fn units(progress: &StepProgress) -> Option<String> {
    let unit = progress.unit.as_deref();
    let number = |n: i64| if unit == Some("bytes") { size(n.unsigned_abs()) } else { n.to_string() };
    let unit = unit.filter(|u| *u != "bytes").map(|u| format!(" {}", clean(u))).unwrap_or_default();
    match (progress.done, progress.total) {
        (Some(done), Some(total)) => Some(format!("{}/{}{unit}", number(done), number(total))),
        (Some(done), None) => Some(format!("{}{unit}", number(done))),
        (None, _) => None,
    }
}

/// One line per declared stage, and the program's own sentence below them.
fn stages(planned: &PlannedStep, step: &StepStatus, view: View) -> String {
    let state = step.state.unwrap_or(StepState::Waiting);
    let at = step.stage.as_deref().and_then(|stage| planned.stages.iter().position(|s| s == stage));
    let row = |(n, name): (usize, &String)| vec![stage_word(state, at, n, view.paint), clean(name)];
    let rows: Vec<_> = planned.stages.iter().enumerate().map(row).collect();
    let mut text = indent(&table(&rows), "      ");
    let sentence = step.progress.as_ref().and_then(|p| p.message.as_deref());
    if let Some(sentence) = sentence.filter(|_| state != StepState::Complete) {
        let _ = writeln!(text, "      {}", view.paint.dim(&clean(sentence)));
    }
    text
}

/// What became of stage `n` of a step that is in stage `at`.
fn stage_word(state: StepState, at: Option<usize>, n: usize, paint: Paint) -> String {
    match (state, at) {
        (StepState::Complete, _) => paint.green("✔ done"),
        (StepState::Running | StepState::Failed, Some(at)) if n < at => paint.green("✔ done"),
        (StepState::Running, Some(at)) if n == at => paint.cyan("▶ now"),
        (StepState::Failed, Some(at)) if n == at => paint.red("✘ here"),
        (StepState::Failed | StepState::Canceled | StepState::Skipped, _) => "· not reached".to_owned(),
        (StepState::Running | StepState::Retrying | StepState::Waiting, _) => "· next".to_owned(),
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
    let row = |t: &crate::api::task::Transition| vec![moment(t.at.0), t.to.to_string(), clean(&t.reason)];
    let rows: Vec<_> = known.transitions.iter().map(row).collect();
    indent(&table(&rows), "  ")
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
    let outputs: Vec<_> = known.iter().flat_map(|s| &s.outputs).map(|o| o.name.as_str()).collect();
    let extra = vec![
        or_dash(task.spec.team.as_deref()),
        known.and_then(|s| s.revision.as_ref()).map_or_else(|| "-".to_owned(), |r| r.number.to_string()),
        or_dash(known.and_then(|s| s.reason.as_deref())),
        or_dash(Some(&outputs.join(","))),
    ];
    (row, extra)
}

/// Whether a definition admits runs, in a few words.
pub(crate) fn readiness(definition: &TaskDefinition) -> String {
    let ready = definition.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == crate::api::condition::READY);
    match ready {
        Some(c) if c.status == "True" => "Ready".to_owned(),
        Some(c) => format!("not ready: {}", clean(&c.reason)),
        None => "not ready: the operator has not looked at it yet".to_owned(),
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
