//! Which step comes next: from what became of the others. One step at a time, and always the same answer.

use super::definition::ValidatedStep;
use super::fanout::{BuiltIn, FanOut, Source};
use super::retry::Codes;
use asynctask_api::definition::Outcome;
use asynctask_api::state::StepState;

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
    /// Shards it emitted for another step.
    pub emitted: Option<i64>,
    /// Shards it has.
    pub shards: Option<i64>,
}

impl Fate {
    /// Whether it did not occur because there was nothing to do.
    fn is_empty(self) -> bool {
        self.state == StepState::Skipped && self.shards == Some(0)
    }
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
    /// It does not occur because there is nothing to do, which is as good as done.
    Empty(String),
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
    if waits { Turn::Wait } else { with_shards(steps, fates, index) }
}

/// Whether there is a shard to start.
fn with_shards(steps: &[ValidatedStep], fates: &[Fate], index: usize) -> Turn {
    match (&steps[index].fan_out, &steps[index].built_in) {
        (Some(FanOut { source: Source::Items { step }, .. }), _) if fates[*step].emitted == Some(0) => {
            Turn::Empty(format!("there is nothing to do: step {} emitted no items", steps[*step].name))
        }
        (Some(_), _) if fates[index].shards == Some(0) => {
            Turn::Empty("there is nothing to do: the run asks for 0 shards".to_owned())
        }
        (_, Some(BuiltIn::Assemble { of })) if !has_segments(fates[*of]) => {
            Turn::Skip(format!("step {} {}", steps[*of].name, ended(fates[*of].state)))
        }
        _ => Turn::Start,
    }
}

/// Whether there is something to put together, be it nothing.
fn has_segments(fate: Fate) -> bool {
    matches!(fate.state, StepState::Complete | StepState::PartiallyComplete) || fate.is_empty()
}

/// Whether the condition holds; `None` while that is not known.
fn met(steps: &[ValidatedStep], fates: &[Fate], when: &When) -> Option<Result<(), String>> {
    let (fate, name) = (fates[when.step], &steps[when.step].name);
    let outcome = match fate.state {
        StepState::Waiting | StepState::Running | StepState::Retrying => return None,
        StepState::Complete | StepState::PartiallyComplete => Some(Outcome::Complete),
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
        StepState::Complete | StepState::PartiallyComplete => Some(Ok(())),
        StepState::Waiting | StepState::Running | StepState::Retrying => None,
        StepState::Canceled => Some(Err(index)),
        StepState::Skipped if fates[index].is_empty() => Some(Ok(())),
        StepState::Skipped => match steps[index].built_in {
            // Whatever made up for a step made up for its appended outputs.
            Some(BuiltIn::Assemble { of }) => satisfied(steps, fates, of, on),
            Some(BuiltIn::Split { .. }) | None => stood_aside(steps, fates, index, on),
        },
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
            StepState::Complete | StepState::PartiallyComplete => return Some(true),
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
        StepState::Complete | StepState::PartiallyComplete => "ended well",
        StepState::Failed => "failed",
        StepState::Canceled => "was cancelled",
        StepState::Skipped => "was skipped",
        StepState::Waiting | StepState::Running | StepState::Retrying => "has not ended",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::definition::validate;
    use asynctask_api::TaskDefinitionSpec;

    fn read(steps: &[Value]) -> Option<Vec<ValidatedStep>> {
        let with_template = |step: &Value| {
            let mut step = step.clone();
            step["template"] = json!({"spec": {"containers": [{"name": "task", "image": "a:1", "command": ["/run"]}]}});
            step
        };
        let steps: Vec<Value> = steps.iter().map(with_template).collect();
        let spec: TaskDefinitionSpec = serde_json::from_value(json!({"title": "T", "steps": steps})).expect("decodes");
        Some(validate(&spec).ok()?.steps)
    }

    /// Runs the steps to their end. `fates` tells by name how those end that do not end well; the answer is one line:
    /// in which order the steps ended and how, skipped ones with their words.
    fn told(steps: &[Value], fates: &[(&str, StepState, Option<i32>)]) -> Vec<String> {
        let steps = read(steps).expect("valid");
        let fate = |name: &str| {
            let told = fates.iter().find(|(other, ..)| *other == name);
            told.map_or((StepState::Complete, None), |(_, state, code)| (*state, *code))
        };
        run(&steps, fate).1
    }

    fn run(steps: &[ValidatedStep], fate: impl Fn(&str) -> (StepState, Option<i32>)) -> (Vec<Fate>, Vec<String>) {
        let mut fates =
            vec![Fate { state: StepState::Waiting, exit_code: None, emitted: None, shards: None }; steps.len()];
        let mut story = Vec::new();
        for _ in 0..steps.len() {
            let open = (0..steps.len()).filter(|step| fates[*step].state == StepState::Waiting);
            let next = open.map(|step| (step, turn(steps, &fates, step))).find(|(_, turn)| *turn != Turn::Wait);
            let Some((step, turn)) = next else { break };
            let name = &steps[step].name;
            let (state, exit_code) = if turn == Turn::Start { fate(name) } else { (StepState::Skipped, None) };
            fates[step] = Fate { state, exit_code, emitted: None, shards: None };
            story.push(match turn {
                Turn::Skip(words) | Turn::Empty(words) => format!("{name} Skipped: {words}"),
                Turn::Start | Turn::Wait => format!("{name} {}", state.as_str()),
            });
        }
        (fates, story)
    }

    fn failed(name: &str, code: i32) -> (&str, StepState, Option<i32>) {
        (name, StepState::Failed, Some(code))
    }

    /// a, then b and c side by side, then d; `slow` in the place of b when that one ends with 70; `undo` cleans up.
    fn diamond() -> Vec<Value> {
        vec![
            json!({"name": "a"}),
            json!({"name": "b"}),
            json!({"name": "c", "dependsOn": ["a"]}),
            json!({"name": "slow", "when": {"step": "b", "outcome": ["Failed"], "exitCodes": ["70"]}, "recovers": true}),
            json!({"name": "d", "dependsOn": ["b", "c"]}),
            json!({"name": "undo", "when": {"step": "d", "outcome": ["Failed", "Canceled"]}}),
        ]
    }

    #[test]
    fn a_diamond_joins_and_its_alternatives_are_skipped_in_words() {
        assert_eq!(
            told(&diamond(), &[]),
            [
                "a Complete",
                "b Complete",
                "c Complete",
                "slow Skipped: not needed: step b ended well",
                "d Complete",
                "undo Skipped: not needed: step d ended well",
            ]
        );
    }

    #[test]
    fn an_alternative_makes_up_for_a_failure() {
        let story = told(&diamond(), &[failed("b", 70)]);
        assert_eq!(story[1..5], ["b Failed", "c Complete", "slow Complete", "d Complete"]);
        let steps = read(&diamond()).expect("valid");
        let fate = |name: &str| if name == "b" { (StepState::Failed, Some(70)) } else { (StepState::Complete, None) };
        let (fates, _) = run(&steps, fate);
        assert_eq!(recovered(&steps, &fates, 1), Some(true));
    }

    #[test]
    fn an_alternative_for_other_codes_is_not_needed_and_the_failure_stands() {
        let story = told(&diamond(), &[failed("b", 1)]);
        assert_eq!(story[3], "slow Skipped: not needed: step b failed with exit code 1");
        assert_eq!(story[4], "d Skipped: step b failed");
        assert_eq!(story[5], "undo Skipped: not needed: step d was skipped");
    }

    #[test]
    fn an_alternative_that_fails_makes_up_for_nothing() {
        assert_eq!(told(&diamond(), &[failed("b", 70), failed("slow", 1)])[4], "d Skipped: step b failed");
    }

    #[test]
    fn what_cleans_up_runs_after_a_failure_and_after_a_cancellation() {
        assert_eq!(told(&diamond(), &[failed("d", 2)])[4..], ["d Failed", "undo Complete"]);
        let canceled = [("d", StepState::Canceled, None)];
        assert_eq!(told(&diamond(), &canceled)[4..], ["d Canceled", "undo Complete"]);
    }

    #[test]
    fn a_chain_behind_a_failure_is_skipped_to_its_end() {
        let chain: Vec<Value> = ["a", "b", "c"].iter().map(|name| json!({"name": name})).collect();
        assert_eq!(
            told(&chain, &[failed("a", 1)]),
            ["a Failed", "b Skipped: step a failed", "c Skipped: step b was skipped"]
        );
    }

    #[test]
    fn alternatives_that_were_not_needed_are_in_nobodys_way() {
        let steps = [
            json!({"name": "a"}),
            json!({"name": "b", "when": {"step": "a", "outcome": ["Failed"]}, "recovers": true}),
            json!({"name": "c", "when": {"step": "b", "outcome": ["Failed"]}, "recovers": true}),
            json!({"name": "d"}),
        ];
        assert_eq!(told(&steps, &[])[3], "d Complete");
        assert_eq!(told(&steps, &[failed("a", 1)])[2..], ["c Skipped: not needed: step b ended well", "d Complete"]);
        assert_eq!(told(&steps, &[failed("a", 1), failed("b", 1)])[2..], ["c Complete", "d Complete"]);
    }

    #[test]
    fn nothing_goes_on_behind_a_failure_that_no_alternative_answered_to() {
        let steps = [
            json!({"name": "import"}),
            json!({"name": "rollback", "when": {"step": "import", "outcome": ["Failed"], "exitCodes": ["70"]}}),
            json!({"name": "publish"}),
        ];
        assert_eq!(told(&steps, &[failed("import", 1)])[2], "publish Skipped: step import failed");
        assert_eq!(told(&steps, &[])[2], "publish Complete");
    }

    #[test]
    fn an_alternative_of_two_steps_does_not_wait_for_what_it_makes_up_for() {
        let steps = [
            json!({"name": "a"}),
            json!({"name": "fetch", "when": {"step": "a", "outcome": ["Failed"], "exitCodes": ["70"]}}),
            json!({"name": "again", "when": {"step": "a", "outcome": ["Failed"]}, "dependsOn": ["fetch"], "recovers": true}),
        ];
        assert_eq!(told(&steps, &[failed("a", 70)]), ["a Failed", "fetch Complete", "again Complete"]);
        assert_eq!(told(&steps, &[failed("a", 1)])[2], "again Complete");
    }

    #[test]
    fn a_step_waits_while_a_failure_may_still_be_made_up_for() {
        let steps = read(&diamond()).expect("valid");
        let state = |state| Fate { state, exit_code: Some(70), emitted: None, shards: None };
        use StepState::{Complete, Failed, Running, Waiting};
        let fates = [Complete, Failed, Complete, Running, Waiting, Waiting].map(state);
        assert_eq!((turn(&steps, &fates, 4), recovered(&steps, &fates, 1)), (Turn::Wait, None));
        assert_eq!(turn(&steps, &fates, 5), Turn::Wait);
    }

    /// A step: what it depends on, what it answers to and how, whether it recovers, and its own end.
    type Drawn = (Option<Vec<usize>>, Option<(usize, u8)>, bool, u8);

    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        let step = (
            proptest::option::of(proptest::collection::vec(0..6usize, 0..3)),
            proptest::option::of((0..6usize, 1..4u8)),
            any::<bool>(),
            0..4u8,
        );
        proptest::collection::vec(step, 6)
    }

    fn declared((index, (depends_on, when, recovers, _)): (usize, &Drawn)) -> Value {
        let mut step = json!({"name": format!("s{index}")});
        if let Some(on) = depends_on {
            let on: std::collections::BTreeSet<&usize> = on.iter().filter(|other| **other < index).collect();
            step["dependsOn"] = on.iter().map(|other| format!("s{other}")).collect();
        }
        if let Some((other, kind)) = when.filter(|(other, _)| *other != index) {
            let outcome = [json!(["Complete"]), json!(["Failed"]), json!(["Failed", "Canceled"])];
            step["when"] = json!({"step": format!("s{other}"), "outcome": outcome[usize::from(kind) - 1]});
            if kind > 1 {
                step["recovers"] = json!(recovers);
            }
        }
        step
    }

    proptest! {
        #[test]
        fn whatever_was_declared_comes_to_its_end(drawn in drawn()) {
            let declared: Vec<Value> = drawn.iter().enumerate().map(declared).collect();
            let Some(steps) = read(&declared) else { return Ok(()) };
            let fate = |name: &str| match drawn[name[1..].parse::<usize>().expect("a number")].3 {
                0 => (StepState::Failed, Some(1)),
                1 => (StepState::Canceled, None),
                _ => (StepState::Complete, None),
            };
            let (fates, story) = run(&steps, fate);
            prop_assert!(fates.iter().all(|fate| fate.state.is_over()), "{declared:#?}\n{story:?}");
        }
    }
}
