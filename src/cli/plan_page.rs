//! The plan of a run as a part of its page: every step with its mark and word, what it waits for and how far it is.

use std::fmt::Write as _;

use super::fan_out;
use super::render::View;
use super::tree::{Place, places};
use super::words::{Paint, ahead, clean, elapsed, grouped, indent, size, table};
use asynctask_api::definition::{Outcome, WhenSpec};
use asynctask_api::state::StepState;
use asynctask_api::task::{AsyncTaskStatus, PlannedStep, StepFailure, StepProgress, StepStatus};
use asynctask_plan::retry::Codes;

/// The steps that will occur, as a tree; empty status: nothing is known yet.
pub(crate) fn plan(status: Option<&AsyncTaskStatus>, view: View) -> String {
    let title = view.paint.bold("Plan");
    let Some(known) = status.filter(|s| !s.plan.is_empty()) else {
        return format!("{title}\n  not known until the run is admitted\n");
    };
    let steps = Steps { known, view };
    let mut text = format!("{title}{}\n", steps.count());
    let places = places(&known.plan);
    let rows: Vec<_> = places.iter().map(|place| steps.row(place)).collect();
    for (place, row) in places.iter().zip(table(&rows).lines()) {
        let _ = writeln!(text, "  {row}");
        text.push_str(&indent(&steps.below(&known.plan[place.step]), &format!("  {} ", place.under)));
    }
    text
}

/// What matters of the steps that are at work, for one line.
pub(crate) fn at_work(known: &AsyncTaskStatus) -> Option<String> {
    let words = known.plan.iter().filter_map(|planned| {
        let step = known.steps.iter().find(|step| step.name == planned.name)?;
        let title = clean(&planned.title);
        match step.state? {
            StepState::Running => {
                let detail = fan_out::line(known, planned, step, None).or_else(|| detail(planned, step));
                Some(detail.map_or(title.clone(), |detail| format!("{title}  ({detail})")))
            }
            StepState::Retrying => Some(format!("{title}  ({})", retrying(step))),
            _ => None,
        }
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| words.join(" · "))
}

struct Steps<'a> {
    known: &'a AsyncTaskStatus,
    view: View,
}

impl Steps<'_> {
    fn status(&self, name: &str) -> StepStatus {
        self.known.steps.iter().find(|step| step.name == name).cloned().unwrap_or_default()
    }

    fn state(&self, name: &str) -> StepState {
        self.status(name).state.unwrap_or(StepState::Waiting)
    }

    fn is_single(&self) -> bool {
        self.known.plan.len() == 1
    }

    /// `  2 of 4 steps are over, 1 skipped`; of a single step there is nothing to count.
    fn count(&self) -> String {
        if self.is_single() {
            return String::new();
        }
        let states: Vec<_> = self.known.plan.iter().map(|step| self.state(&step.name)).collect();
        let over = states.iter().filter(|state| state.is_over()).count();
        let skipped = states.iter().filter(|state| **state == StepState::Skipped).count();
        let of_them = if skipped > 0 { format!(", {skipped} of them skipped") } else { String::new() };
        self.view.paint.dim(&format!("  {over} of {} steps are over{of_them}", states.len()))
    }

    fn row(&self, place: &Place) -> Vec<String> {
        let planned = &self.known.plan[place.step];
        let step = self.status(&planned.name);
        let state = step.state.unwrap_or(StepState::Waiting);
        let until = step.finish_time.as_ref().map_or(self.view.now, |t| t.0);
        let took = step.start_time.as_ref().filter(|_| state != StepState::Waiting);
        vec![
            format!("{}{}", place.lead, word(state, self.view.paint)),
            self.quiet(planned, clean(&planned.name)),
            self.quiet(planned, clean(&planned.title)),
            took.map(|t| elapsed(t.0, until)).unwrap_or_default(),
            self.about(planned, &step, place).join(", "),
        ]
    }

    /// The operator's own work stands back behind the author's.
    fn quiet(&self, planned: &PlannedStep, text: String) -> String {
        if planned.built_in.is_some() { self.view.paint.dim(&text) } else { text }
    }

    fn about(&self, planned: &PlannedStep, step: &StepStatus, place: &Place) -> Vec<String> {
        let state = step.state.unwrap_or(StepState::Waiting);
        if let (StepState::Skipped, Some(message)) = (state, &step.message) {
            return vec![clean(message)];
        }
        let mut about = Vec::new();
        about.extend(fan_out::line(self.known, planned, step, Some(self.view.now)));
        about.extend(detail(planned, step).map(|detail| format!("({detail})")));
        about.extend(taken_over(planned, step));
        about.extend(self.folds(state, planned).then(|| stages_in_short(planned)));
        about.extend(step.attempt.filter(|n| *n > 1 && state != StepState::Retrying).map(|n| format!("attempt {n}")));
        about.extend(planned.when.as_ref().map(|when| self.condition(planned, when, state)));
        if !place.after.is_empty() {
            about.push(format!("after {}", clean(&place.after.join(", "))));
        }
        about.extend(planned.recovers.then(|| "makes up for the failure".to_owned()));
        about
    }

    /// Stages of a step that nothing happens in are told by their number, so that a long plan can be read at once.
    fn folds(&self, state: StepState, planned: &PlannedStep) -> bool {
        let told = planned.fan_out.is_none() && planned.stages.len() > 1;
        !self.is_single() && state == StepState::Waiting && told
    }

    /// Why a step occurs: as the author said it, and once it occurs as it is.
    fn condition(&self, planned: &PlannedStep, when: &WhenSpec, state: StepState) -> String {
        if !matches!(state, StepState::Waiting | StepState::Canceled)
            && let Some(cause) = self.cause(planned, when)
        {
            return format!("because {cause}");
        }
        let on = match when.named().collect::<Vec<_>>().as_slice() {
            [] => "any step".to_owned(),
            names => clean(&names.join(" or ")),
        };
        let outcomes: Vec<_> = when.outcome.iter().map(|outcome| outcome.words()).collect();
        let codes = match when.exit_codes.as_slice() {
            [] => String::new(),
            codes => format!(" (exit code {})", clean(&codes.join(" or "))),
        };
        format!("only if {on} {}{codes}", outcomes.join(" or "))
    }

    /// The step that has ended as a condition asks for, and how.
    fn cause(&self, planned: &PlannedStep, when: &WhenSpec) -> Option<String> {
        let any = when.is_of_any();
        let all = planned.depends_on.iter().map(String::as_str);
        let on: Vec<&str> = if any { all.collect() } else { when.named().collect() };
        let codes = Codes::parse(&when.exit_codes).unwrap_or_default();
        let ended = |name: &str| {
            let outcome = Outcome::of(self.state(name)).filter(|outcome| when.outcome.contains(outcome))?;
            let code = self.status(name).failure.and_then(|failure| failure.exit_code);
            let stands = outcome != Outcome::Failed || codes.hold(code) && !(any && self.made_up_for(name));
            stands.then_some(outcome)
        };
        on.into_iter().find_map(|name| Some(format!("{} {}", clean(name), ended(name)?.words())))
    }

    /// Whether an alternative of the step gave its result.
    fn made_up_for(&self, name: &str) -> bool {
        let answers =
            |step: &&PlannedStep| step.recovers && step.when.iter().flat_map(WhenSpec::named).any(|on| on == name);
        let ended_well = |step: &PlannedStep| Outcome::of(self.state(&step.name)) == Some(Outcome::Complete);
        self.known.plan.iter().filter(answers).any(ended_well)
    }

    /// The lines below a step.
    fn below(&self, planned: &PlannedStep) -> String {
        let step = self.status(&planned.name);
        let state = step.state.unwrap_or(StepState::Waiting);
        let paint = self.view.paint;
        let mut text = String::new();
        if let Some(waiting) = step.waiting.as_ref().filter(|_| state == StepState::Running) {
            let _ =
                writeln!(text, "its pod waits: {}: {}", paint.red(&clean(&waiting.reason)), clean(&waiting.message));
        }
        if state == StepState::Retrying {
            let _ = writeln!(text, "{}", retrying(&step));
            text.push_str(&self.next_attempt(&step));
        }
        // Of a single step the block about the run's failure says it all.
        if let Some(failure) = step.failure.as_ref().filter(|_| state == StepState::Failed && !self.is_single()) {
            let _ = writeln!(text, "{}", failed(failure));
        }
        if planned.fan_out.is_some() {
            text.push_str(&fan_out::failures(&step, paint));
        } else if self.is_single() || matches!(state, StepState::Running | StepState::Failed | StepState::Canceled) {
            text.push_str(&stages(planned, &step, paint));
        }
        let sentence = step.progress.as_ref().and_then(|p| p.message.as_deref());
        if let Some(sentence) = sentence.filter(|_| matches!(state, StepState::Running | StepState::Failed)) {
            let _ = writeln!(text, "{}", paint.dim(&clean(sentence)));
        }
        text
    }

    fn next_attempt(&self, step: &StepStatus) -> String {
        let next = step.attempt.unwrap_or(1) + 1;
        let at = step.until.as_ref().map(|until| format!(" at {}", ahead(until.0, self.view.now)));
        format!("attempt {next}{}\n", at.unwrap_or_default())
    }
}

/// The state of a step with its mark.
fn word(state: StepState, paint: Paint) -> String {
    match state {
        StepState::Waiting => format!("· {}", state.as_str()),
        StepState::Running => paint.cyan(&format!("▶ {}", state.as_str())),
        StepState::Complete => paint.green(&format!("✔ {}", state.as_str())),
        StepState::PartiallyComplete => paint.yellow(&format!("◐ {}", state.as_str())),
        StepState::Retrying => paint.cyan(&format!("↻ {}", state.as_str())),
        StepState::Failed => paint.red(&format!("✘ {}", state.as_str())),
        StepState::Canceled => format!("■ {}", state.as_str()),
        StepState::Skipped => paint.dim(&format!("- {}", state.as_str())),
    }
}

/// Whose result it has, wholly or in part.
fn taken_over(planned: &PlannedStep, step: &StepStatus) -> Option<String> {
    let run = clean(&step.adopted.as_ref()?.name);
    let whole = step.state == Some(StepState::Complete) && step.start_time.is_none();
    let part = planned.fan_out.is_some() && !whole;
    Some(if part { format!("with what succeeded in {run}") } else { format!("taken over from {run}") })
}

/// `attempt 2 failed: OOMKilled (exit code 137): …`
fn retrying(step: &StepStatus) -> String {
    let attempt = step.attempt.unwrap_or(1);
    let why = step.failure.as_ref().map(|failure| format!(": {}", failed(failure))).unwrap_or_default();
    format!("attempt {attempt} failed{why}")
}

fn failed(failure: &StepFailure) -> String {
    let code = failure.code.as_ref().map(|code| format!(" · {}", clean(code))).unwrap_or_default();
    let exit = failure.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
    format!("{}{code}{exit}: {}", clean(&failure.reason), clean(&failure.message))
}

/// `stage 2 of 3: Walking, 40/58 blocks`
pub(crate) fn detail(planned: &PlannedStep, step: &StepStatus) -> Option<String> {
    // What single shards say is not in the status.
    if planned.fan_out.is_some() {
        return None;
    }
    // Of a step that is done only the sum is of interest.
    let at_work = matches!(step.state, Some(StepState::Running | StepState::Failed | StepState::Canceled));
    let stage = step.stage.as_deref().filter(|_| at_work);
    let stage = stage.map(|stage| match planned.stages.iter().position(|s| s == stage) {
        Some(at) => format!("stage {} of {}: {}", at + 1, planned.stages.len(), clean(stage)),
        None => format!("stage {}", clean(stage)),
    });
    let counts = at_work || matches!(step.state, Some(StepState::Complete | StepState::PartiallyComplete));
    let units = step.progress.as_ref().filter(|_| counts).and_then(units);
    let emitted = step.emitted.map(|emitted| {
        let (items, shards) = (fan_out::number(emitted.items, "item"), fan_out::number(emitted.shards, "shard"));
        format!("{items} in {shards}")
    });
    let all: Vec<_> = [stage, emitted.or(units)].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn units(progress: &StepProgress) -> Option<String> {
    let unit = progress.unit.as_deref();
    let number = |n: i64| if unit == Some("bytes") { size(n.unsigned_abs()) } else { grouped(n) };
    let unit = unit.filter(|u| *u != "bytes").map(|u| format!(" {}", clean(u))).unwrap_or_default();
    match (progress.done, progress.total) {
        (Some(done), Some(total)) => Some(format!("{}/{}{unit}", number(done), number(total))),
        (Some(done), None) => Some(format!("{}{unit}", number(done))),
        (None, _) => None,
    }
}

fn stages_in_short(planned: &PlannedStep) -> String {
    format!("{} stages", planned.stages.len())
}

/// One line per declared stage.
fn stages(planned: &PlannedStep, step: &StepStatus, paint: Paint) -> String {
    let state = step.state.unwrap_or(StepState::Waiting);
    let at = step.stage.as_deref().and_then(|stage| planned.stages.iter().position(|s| s == stage));
    let row = |(n, name): (usize, &String)| vec![stage_word(state, at, n, paint), clean(name)];
    table(&planned.stages.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// What became of stage `n` of a step that is in stage `at`.
fn stage_word(state: StepState, at: Option<usize>, n: usize, paint: Paint) -> String {
    let ended = matches!(state, StepState::Failed | StepState::Canceled);
    match (state, at) {
        (StepState::Complete | StepState::PartiallyComplete, _) => paint.green("✔ done"),
        (_, Some(at)) if n < at && (ended || state == StepState::Running) => paint.green("✔ done"),
        (StepState::Running, Some(at)) if n == at => paint.cyan("▶ now"),
        (StepState::Failed, Some(at)) if n == at => paint.red("✘ here"),
        (StepState::Canceled, Some(at)) if n == at => "■ here".to_owned(),
        (StepState::Failed | StepState::Canceled | StepState::Skipped, _) => "· not reached".to_owned(),
        (StepState::Running | StepState::Retrying | StepState::Waiting, _) => "· next".to_owned(),
    }
}
