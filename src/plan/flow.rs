//! Which step comes next: from what became of the others. One step at a time, and always the same answer.

use std::collections::BTreeSet;

use super::definition::ValidatedStep;
use super::fanout::{BuiltIn, FanOut, Source};
use super::retry::Codes;
use asynctask_api::definition::Outcome;
use asynctask_api::state::StepState;

/// A step occurs only when another one has ended so, of several any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    /// Indexes of the other steps.
    pub steps: Vec<usize>,
    /// They are not named, but all that the step does not come before: a failure that was made up for does not count.
    pub any: bool,
    /// How it has ended: one of these.
    pub outcomes: Vec<Outcome>,
    /// Of failures only those with one of these codes.
    pub codes: Codes,
}

impl When {
    /// The steps that are named, if any is.
    #[must_use]
    pub fn named(&self) -> Option<&[usize]> {
        (!self.any).then_some(&self.steps)
    }
}

/// What became of a step so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Its state.
    pub state: StepState,
    /// Of a skipped step: what befell the run before its turn came.
    pub halted: Option<Outcome>,
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
    let on = step.when.as_ref().map_or(&[][..], |when| &when.steps);
    if let Some(when) = &step.when {
        match met(steps, fates, when) {
            None => return Turn::Wait,
            Some(Err(words)) => return Turn::Skip(words),
            Some(Ok(())) => {}
        }
    }
    let mut waits = false;
    for need in step.needs.iter().copied().filter(|need| !on.contains(need)) {
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
    if !when.steps.iter().all(|step| fates[*step].state.is_over()) {
        return None;
    }
    for step in when.steps.iter().copied() {
        let fate = fates[step];
        let Some(outcome) = outcome(fate, when.any).filter(|outcome| when.outcomes.contains(outcome)) else { continue };
        let failed = outcome == Outcome::Failed;
        let made_up_for = when.any && fate.state == StepState::Failed && recovered(steps, fates, step)?;
        if !made_up_for && (!failed || when.codes.hold(fate.exit_code)) {
            return Some(Ok(()));
        }
    }
    Some(Err(not_needed(steps, fates, when)))
}

/// How a step that is over has ended, if it occurred; among any steps also what befell those that did not come to their
/// turn.
fn outcome(fate: Fate, any: bool) -> Option<Outcome> {
    Outcome::of(fate.state).or_else(|| fate.halted.filter(|_| any))
}

/// In words: none of the steps has ended so.
fn not_needed(steps: &[ValidatedStep], fates: &[Fate], when: &When) -> String {
    if let (false, [step]) = (when.any, when.steps.as_slice()) {
        let fate = fates[*step];
        let fits = outcome(fate, false).is_some_and(|outcome| when.outcomes.contains(&outcome));
        let code = fate.exit_code.filter(|_| fits).map(|code| format!(" with exit code {code}")).unwrap_or_default();
        return format!("not needed: step {} {}{code}", steps[*step].name, ended(fate.state));
    }
    let made_up_for = |step: &usize| fates[*step].state == StepState::Failed;
    if when.any
        && when.outcomes.contains(&Outcome::Failed)
        && when.codes.is_empty()
        && when.steps.iter().any(made_up_for)
    {
        return "not needed: an alternative made up for what failed".to_owned();
    }
    let who = if when.any {
        "no step".to_owned()
    } else {
        let names: Vec<&str> = when.steps.iter().map(|step| steps[*step].name.as_str()).collect();
        format!("none of the steps {}", names.join(", "))
    };
    let outcomes: Vec<&str> = when.outcomes.iter().map(|outcome| outcome.words()).collect();
    let codes = when.codes.texts();
    let codes = if codes.is_empty() { String::new() } else { format!(" (exit code {})", codes.join(" or ")) };
    format!("not needed: {who} {}{codes}", outcomes.join(" or "))
}

/// Whether a step that others wait for gave what they wait for, or which step is to blame; `None` while that is not
/// known. `on` are the steps that the waiting one answers to: what became of those was judged already.
fn satisfied(steps: &[ValidatedStep], fates: &[Fate], index: usize, on: &[usize]) -> Option<Result<(), usize>> {
    let (mut seen, mut open, mut waits) = (BTreeSet::from([index]), vec![index], false);
    while let Some(index) = open.pop() {
        match fates[index].state {
            StepState::Complete | StepState::PartiallyComplete => {}
            StepState::Waiting | StepState::Running | StepState::Retrying => waits = true,
            StepState::Canceled => return Some(Err(index)),
            StepState::Skipped if fates[index].is_empty() => {}
            StepState::Skipped => match in_its_place(steps, fates, index, on) {
                Some(others) => open.extend(others.into_iter().filter(|other| seen.insert(*other))),
                None => return Some(Err(index)),
            },
            StepState::Failed => match recovered(steps, fates, index) {
                Some(true) => {}
                Some(false) => return Some(Err(index)),
                None => waits = true,
            },
        }
    }
    (!waits).then_some(Ok(()))
}

/// Who stands in the place of a step that was skipped. One that was not needed is in nobody's way: the steps it would have
/// answered to stand there. What did not occur because nothing before it did is missed: `None`.
fn in_its_place(steps: &[ValidatedStep], fates: &[Fate], index: usize, on: &[usize]) -> Option<Vec<usize>> {
    // Whatever made up for a step made up for its appended outputs.
    if let Some(BuiltIn::Assemble { of }) = steps[index].built_in {
        return Some(vec![of]);
    }
    let when = steps[index].when.as_ref()?;
    let Some(Err(_)) = met(steps, fates, when) else { return None };
    Some(when.steps.iter().copied().filter(|step| !on.contains(step)).collect())
}

/// Whether another step made up for this one's failure, or for the failure of one that should have; `None` while one still
/// may.
#[must_use]
pub fn recovered(steps: &[ValidatedStep], fates: &[Fate], index: usize) -> Option<bool> {
    let answers = |step: &ValidatedStep, failed: usize| {
        let named = step.when.as_ref().filter(|when| step.recovers && when.named().is_some());
        named.is_some_and(|when| when.steps.contains(&failed) && when.codes.hold(fates[failed].exit_code))
    };
    let (mut seen, mut open, mut waits) = (BTreeSet::from([index]), vec![index], false);
    while let Some(failed) = open.pop() {
        for other in (0..steps.len()).filter(|other| answers(&steps[*other], failed)) {
            match fates[other].state {
                StepState::Complete | StepState::PartiallyComplete => return Some(true),
                StepState::Waiting | StepState::Running | StepState::Retrying => waits = true,
                StepState::Failed if seen.insert(other) => open.push(other),
                StepState::Failed | StepState::Canceled | StepState::Skipped => {}
            }
        }
    }
    if waits { None } else { Some(false) }
}

fn ended(state: StepState) -> &'static str {
    match Outcome::of(state) {
        Some(outcome) => outcome.words(),
        None if state == StepState::Skipped => "was skipped",
        None => "has not ended",
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
            vec![
                Fate { state: StepState::Waiting, halted: None, exit_code: None, emitted: None, shards: None };
                steps.len()
            ];
        let mut story = Vec::new();
        for _ in 0..steps.len() {
            let open = (0..steps.len()).filter(|step| fates[*step].state == StepState::Waiting);
            let next = open.map(|step| (step, turn(steps, &fates, step))).find(|(_, turn)| *turn != Turn::Wait);
            let Some((step, turn)) = next else { break };
            let name = &steps[step].name;
            let (state, exit_code) = if turn == Turn::Start { fate(name) } else { (StepState::Skipped, None) };
            fates[step] = Fate { state, halted: None, exit_code, emitted: None, shards: None };
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

    /// a, then b and c side by side, `slow` in the place of b; whatever fails or is cancelled is cleaned up once.
    fn cleaned() -> Vec<Value> {
        let mut steps = diamond();
        steps[5] = json!({"name": "undo", "when": {"outcome": ["Failed", "Canceled"]}});
        steps.push(json!({"name": "tell"}));
        steps
    }

    #[test]
    fn one_step_cleans_up_whatever_failed() {
        assert_eq!(
            told(&cleaned(), &[])[5..],
            ["undo Skipped: not needed: no step failed or was cancelled", "tell Complete"]
        );
        for name in ["b", "c", "d"] {
            let story = told(&cleaned(), &[failed(name, 1)]);
            assert!(story.contains(&"undo Complete".to_owned()), "{story:?}");
        }
        // It comes after everything, and only what stands counts.
        assert_eq!(told(&cleaned(), &[failed("a", 1)]).last().expect("a story"), "tell Complete");
        let made_up_for = told(&cleaned(), &[failed("b", 70)]);
        assert_eq!(made_up_for[5], "undo Skipped: not needed: an alternative made up for what failed");
        let stands = told(&cleaned(), &[failed("b", 70), failed("slow", 1)]);
        assert!(stands.contains(&"undo Complete".to_owned()), "{stands:?}");
    }

    #[test]
    fn a_step_for_any_waits_for_all_and_knows_what_befell_the_run() {
        let steps = read(&cleaned()).expect("valid");
        use StepState::{Complete, Failed, Running, Skipped, Waiting};
        let fate = |state| Fate { state, halted: None, exit_code: Some(1), emitted: None, shards: None };
        let mut fates = [Complete, Failed, Running, Skipped, Waiting, Waiting, Waiting].map(fate).to_vec();
        assert_eq!(turn(&steps, &fates, 5), Turn::Wait, "c still runs");
        fates = [Complete, Skipped, Skipped, Skipped, Skipped, Waiting, Waiting].map(fate).to_vec();
        assert!(matches!(turn(&steps, &fates, 5), Turn::Skip(_)));
        for halted in [Outcome::Canceled, Outcome::Failed] {
            fates[4].halted = Some(halted);
            assert_eq!(turn(&steps, &fates, 5), Turn::Start, "{halted:?} before d had its turn");
        }
    }

    #[test]
    fn one_step_answers_to_several() {
        let steps = |when: Value| {
            let mut steps = diamond();
            steps[5] = json!({"name": "undo", "when": when});
            steps
        };
        let several = steps(json!({"steps": ["b", "c"], "outcome": ["Failed"]}));
        assert_eq!(told(&several, &[failed("c", 1)])[5], "undo Complete");
        assert_eq!(told(&several, &[failed("a", 1)])[5], "undo Skipped: not needed: none of the steps b, c failed");
        let coded = steps(json!({"steps": ["b", "c"], "outcome": ["Failed"], "exitCodes": ["7", "9"]}));
        let skipped = "undo Skipped: not needed: none of the steps b, c failed (exit code 7 or 9)";
        assert_eq!(told(&coded, &[failed("c", 1)])[5], skipped);
        assert_eq!(told(&coded, &[failed("c", 9)])[5], "undo Complete");
        let both = [
            json!({"name": "a"}),
            json!({"name": "b", "dependsOn": []}),
            json!({"name": "again", "when": {"steps": ["a", "b"], "outcome": ["Failed"]}, "recovers": true}),
            json!({"name": "c", "dependsOn": ["a", "b"]}),
        ];
        assert_eq!(told(&both, &[failed("b", 1)])[2..], ["again Complete", "c Complete"]);
        assert_eq!(told(&both, &[failed("b", 1), failed("again", 1)])[3], "c Skipped: step b failed");
    }

    #[test]
    fn an_alternative_of_several_makes_up_only_for_failures_it_answers_to() {
        let steps = [
            json!({"name": "a"}),
            json!({"name": "b", "dependsOn": []}),
            json!({"name": "again", "when": {"steps": ["a", "b"], "outcome": ["Failed"], "exitCodes": ["70"]}, "recovers": true}),
            json!({"name": "c", "dependsOn": ["a", "b"]}),
        ];
        assert_eq!(told(&steps, &[failed("a", 70), failed("b", 70)])[2..], ["again Complete", "c Complete"]);
        let story = told(&steps, &[failed("a", 1), failed("b", 70)]);
        assert!(story.contains(&"c Skipped: step a failed".to_owned()), "{story:?}");
    }

    #[test]
    fn a_chain_of_alternatives_of_all_before_is_judged_in_no_time() {
        for recovers in [true, false] {
            let mut steps = vec![json!({"name": "s0"})];
            for number in 1..22 {
                let before: Vec<String> = (0..number).map(|before| format!("s{before}")).collect();
                let when = json!({"steps": before, "outcome": ["Failed"]});
                steps.push(json!({"name": format!("s{number}"), "when": when, "recovers": recovers}));
            }
            steps.push(json!({"name": "last", "dependsOn": ["s0", "s21"]}));
            let all: Vec<String> = (0..22).map(|number| format!("s{number}")).collect();
            let fates: Vec<_> = all.iter().filter(|_| recovers).map(|name| failed(name, 1)).collect();
            let end = if recovers { "last Skipped: step s0 failed" } else { "last Complete" };
            assert_eq!(told(&steps, &fates).last().map(String::as_str), Some(end));
        }
    }

    #[test]
    fn a_step_waits_while_a_failure_may_still_be_made_up_for() {
        let steps = read(&diamond()).expect("valid");
        let state = |state| Fate { state, halted: None, exit_code: Some(70), emitted: None, shards: None };
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
            proptest::option::of((0..8usize, 1..4u8)),
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
            step["when"] = json!({"outcome": outcome[usize::from(kind) - 1]});
            match other {
                6 => {}
                7 => step["when"]["steps"] = json!([format!("s{}", (index + 1) % 6), format!("s{}", (index + 2) % 6)]),
                other => step["when"]["step"] = json!(format!("s{other}")),
            }
            if kind > 1 && other != 6 {
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
