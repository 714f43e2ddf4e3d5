//! Which step comes next: from what became of the others. One step at a time, and always the same answer.

use super::definition::ValidatedStep;
use super::retry::Codes;
use crate::api::definition::Outcome;
use crate::api::state::StepState;

/// A step occurs only when another one has ended so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// Index of the other step.
    pub step: usize,
    /// How it has ended: one of these.
    pub outcomes: Vec<Outcome>,
    /// Of failures only those with one of these codes.
    pub codes: Codes,
}

/// What became of a step so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Its state.
    pub state: StepState,
    /// Exit code of its last failure.
    pub exit_code: Option<i32>,
}

/// What is to become of a step that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes on waiting.
    Wait,
    /// It starts.
    Start,
    /// It does not occur, and these are the words.
    Skip(String),
}

/// What is to become of the waiting step `index`. `fates` are those of all steps, in the order of `steps`.
#[must_use]
pub fn turn(steps: &[ValidatedStep], fates: &[Fate], index: usize) -> Turn {
    let step = &steps[index];
    let on = step.when.as_ref().map(|when| when.step);
    if let Some(when) = &step.when {
        match met(steps, fates, when) {
            None => return Turn::Wait,
            Some(Err(words)) => return Turn::Skip(words),
            Some(Ok(())) => {}
        }
    }
    let mut waits = false;
    for need in step.needs.iter().copied().filter(|need| Some(*need) != on) {
        match satisfied(steps, fates, need, on) {
            Some(Ok(())) => {}
            Some(Err(blamed)) => {
                return Turn::Skip(format!("step {} {}", steps[blamed].name, ended(fates[blamed].state)));
            }
            None => waits = true,
        }
    }
    if waits { Turn::Wait } else { Turn::Start }
}

/// Whether the condition holds; `None` while that is not known.
fn met(steps: &[ValidatedStep], fates: &[Fate], when: &When) -> Option<Result<(), String>> {
    let (fate, name) = (fates[when.step], &steps[when.step].name);
    let outcome = match fate.state {
        StepState::Waiting | StepState::Running | StepState::Retrying => return None,
        StepState::Complete => Some(Outcome::Complete),
        StepState::Failed => Some(Outcome::Failed),
        StepState::Canceled => Some(Outcome::Canceled),
        StepState::Skipped => None,
    };
    let fits = outcome.is_some_and(|outcome| when.outcomes.contains(&outcome));
    let code_fits = outcome != Some(Outcome::Failed) || when.codes.hold(fate.exit_code);
    if fits && code_fits {
        return Some(Ok(()));
    }
    let code = fate.exit_code.filter(|_| fits).map(|code| format!(" with exit code {code}")).unwrap_or_default();
    Some(Err(format!("not needed: step {name} {}{code}", ended(fate.state))))
}

/// Whether a step that others wait for gave what they wait for, or which step is to blame; `None` while that is not
/// known. `on` is the step that the waiting one answers to: what became of that one was judged already.
fn satisfied(steps: &[ValidatedStep], fates: &[Fate], index: usize, on: Option<usize>) -> Option<Result<(), usize>> {
    match fates[index].state {
        StepState::Complete => Some(Ok(())),
        StepState::Waiting | StepState::Running | StepState::Retrying => None,
        StepState::Canceled => Some(Err(index)),
        StepState::Skipped => stood_aside(steps, fates, index, on),
        StepState::Failed => {
            recovered(steps, fates, index).map(|recovered| if recovered { Ok(()) } else { Err(index) })
        }
    }
}

/// A step that was not needed is in nobody's way: the step it would have answered to stands in its place. What did not
/// occur because nothing before it did is missed.
fn stood_aside(steps: &[ValidatedStep], fates: &[Fate], index: usize, on: Option<usize>) -> Option<Result<(), usize>> {
    let Some(when) = &steps[index].when else { return Some(Err(index)) };
    match met(steps, fates, when) {
        Some(Err(_)) if Some(when.step) == on => Some(Ok(())),
        Some(Err(_)) => satisfied(steps, fates, when.step, on),
        Some(Ok(())) | None => Some(Err(index)),
    }
}

/// Whether another step made up for this one's failure; `None` while one still may.
#[must_use]
pub fn recovered(steps: &[ValidatedStep], fates: &[Fate], index: usize) -> Option<bool> {
    let answers = |step: &ValidatedStep| step.recovers && step.when.as_ref().is_some_and(|when| when.step == index);
    let mut open = false;
    for other in (0..steps.len()).filter(|other| answers(&steps[*other])) {
        match fates[other].state {
            StepState::Complete => return Some(true),
            StepState::Waiting | StepState::Running | StepState::Retrying => open = true,
            StepState::Failed => match recovered(steps, fates, other) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => open = true,
            },
            StepState::Canceled | StepState::Skipped => {}
        }
    }
    if open { None } else { Some(false) }
}

fn ended(state: StepState) -> &'static str {
    match state {
        StepState::Complete => "ended well",
        StepState::Failed => "failed",
        StepState::Canceled => "was cancelled",
        StepState::Skipped => "was skipped",
        StepState::Waiting | StepState::Running | StepState::Retrying => "has not ended",
    }
}
