//! Random walks through the life of a run of several steps, in a world that loses, delays and repeats: whatever
//! happens, the promises hold.

use super::*;
use asynctask_api::task::StepStatus;

/// What may happen between two looks.
#[derive(Clone, Debug)]
enum Event {
    /// The Job of a step that runs ends: with a commit, a failure of the program, a failure of ours, or without a trace.
    Ends(u8, u8),
    /// All pods that live end.
    PodsEnd,
    /// Somebody cancels the run.
    Cancel,
    /// Somebody holds it, or lets it go on.
    Hold(bool),
    /// The program of a step enters the guarded stage.
    Guard(u8),
    Time(u16),
    /// The operator looks; a fault may hit what it does.
    Look(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// What it did is done, but it died before it could say so.
    Dies,
    /// The status was written by somebody else a moment before: nothing is said.
    Conflict,
    /// The store does not take the manifest.
    Store,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let fault = prop_oneof![5 => Just(Fault::None), 1 => Just(Fault::Dies), 1 => Just(Fault::Conflict), 1 => Just(Fault::Store)];
    let event = prop_oneof![
        6 => (0..6u8, 0..4u8).prop_map(|(step, how)| Event::Ends(step, how)),
        2 => Just(Event::PodsEnd),
        1 => Just(Event::Cancel),
        1 => any::<bool>().prop_map(Event::Hold),
        1 => (0..6u8).prop_map(Event::Guard),
        2 => (1..400u16).prop_map(Event::Time),
        10 => fault.prop_map(Event::Look),
    ];
    proptest::collection::vec(event, 1..80)
}

/// A run and what its programs did, as a ledger would have it.
struct Walk {
    story: Story,
    now: i64,
    /// Attempts whose Job was ever made.
    made: Vec<(String, u32)>,
    /// Whether the run was cancelled while a guarded stage was being worked in.
    broke_in: bool,
}

impl Walk {
    fn new() -> Self {
        let spec = json!({"allowed": "UntilStage", "stage": "Writing", "effect": "Nothing is written."});
        let story = steps::diamond(&json!({"cancellation": spec, "deadline": "2000s"}));
        Self { story, now: 1, made: Vec::new(), broke_in: false }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Ends(step, how) => self.end(usize::from(*step), *how),
            Event::PodsEnd => self.story.world.pods.iter_mut().for_each(|pod| pod.alive = false),
            Event::Cancel => self.story.task.spec.cancel = Some(true),
            Event::Hold(hold) => self.story.task.spec.suspend = Some(*hold),
            Event::Guard(step) => self.guard(usize::from(*step)),
            Event::Time(seconds) => self.now += i64::from(*seconds),
            Event::Look(fault) => self.look(*fault),
        }
    }

    fn end(&mut self, index: usize, how: u8) {
        let name = self.story.content().steps[index].name.clone();
        let open = |job: &&JobFact| job.step == name && job.end.is_none();
        let Some(attempt) = self.story.world.jobs.iter().find(open).map(|job| job.attempt) else { return };
        self.story.world.pods.retain(|pod| pod.step != name || pod.attempt != attempt);
        let over = PodFact { step: name.clone(), attempt, started: true, ..pod("p") };
        let with = |code, by| {
            let ended = ExitFact { said: Some(said("X", by, None)), ..exit(code, "Error") };
            Results { pods: vec![PodFact { exit: Some(ended), ..over.clone() }], ..Results::default() }
        };
        let (end, left) = match how {
            0 => (JobEnd::Succeeded, committed(&["p"])),
            1 => (backoff(), with(70, FailedBy::Program)),
            2 => (backoff(), with(240, FailedBy::Platform)),
            _ => (JobEnd::Succeeded, Results::default()),
        };
        self.story.world.results.insert(name.clone(), Ok(left));
        let own = |job: &&mut JobFact| job.step == name && job.attempt == attempt;
        self.story.world.jobs.iter_mut().find(own).expect("it is there").end = Some(end);
    }

    /// It is over, and nothing is left to do.
    fn rests(&self) -> bool {
        let over = self.story.status().state.is_some_and(TaskState::is_terminal);
        over && self.story.world.jobs.iter().all(|job| job.end.is_some())
            && self.story.plan(at(self.now)).actions.is_empty()
    }

    /// The gateway's compare-and-swap: only while nobody asked for the end or a hold.
    fn guard(&mut self, index: usize) {
        let asked = self.story.task.spec.is_canceled() || self.story.task.spec.is_suspended();
        let Some(status) = self.story.task.status.as_mut() else { return };
        let Some(step) = status.steps.get_mut(index) else { return };
        let may = status.state == Some(TaskState::InProgress) && step.state == Some(StepState::Running);
        if may && !asked && step.name == "left" {
            step.guarded = Some(true);
        }
    }

    fn look(&mut self, fault: Fault) {
        let before = self.story.task.status.clone();
        let guarded = |status: &AsyncTaskStatus| {
            let inside = |step: &&StepStatus| step.guarded == Some(true) && step.state == Some(StepState::Running);
            status.steps.iter().find(inside).map(|step| step.name.clone())
        };
        let inside = before.as_ref().and_then(guarded);
        let plan = self.story.plan(at(self.now));
        for action in &plan.actions {
            if let Action::CreateJob { step, job } = action {
                let attempt = job["metadata"]["labels"]["asynctask.dev/attempt"].as_str().expect("a label");
                self.made.push((step.clone(), attempt.parse().expect("a number")));
            }
        }
        let silent = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
        let story = self.story.clone().step(at(self.now), |applied| {
            if fault == Fault::Store && !applied.manifests.is_empty() {
                (applied.manifests, applied.trouble) = (BTreeMap::new(), Some(silent));
            }
        });
        // Each Job that was made has a pod that lives until it ends.
        let pods = story.world.jobs.iter().filter(|job| job.end.is_none());
        let living = pods.map(|job| PodFact {
            step: job.step.clone(),
            attempt: job.attempt,
            alive: true,
            started: true,
            ..pod("x")
        });
        let mut all: Vec<PodFact> = story.world.pods.iter().filter(|pod| pod.alive).cloned().collect();
        all.extend(
            living
                .filter(|new| !story.world.pods.iter().any(|pod| (&pod.step, pod.attempt) == (&new.step, new.attempt))),
        );
        self.story = story.with(|story| story.world.pods = all);
        if matches!(fault, Fault::Dies | Fault::Conflict) {
            self.story.task.status = before;
            return;
        }
        let status = self.story.status();
        if let Some(step) = inside {
            let now = status.steps.iter().find(|known| known.name == step).and_then(|known| known.state);
            self.broke_in |= matches!(now, Some(StepState::Canceled | StepState::Waiting));
        }
    }
}

fn check(walk: &Walk, before: &AsyncTaskStatus, event: &Event) -> Result<(), TestCaseError> {
    let after = walk.story.task.status.clone().unwrap_or_default();
    if before.state != after.state {
        let from = before.state.unwrap_or(TaskState::Pending);
        let to = after.state.expect("a state is never taken back");
        prop_assert!(
            from.next().contains(&to) || before.state.is_none() && to == TaskState::Pending,
            "{from} → {to} by {event:?}"
        );
    }
    if before.state.is_some_and(TaskState::is_terminal) {
        prop_assert_eq!((before.state, &before.outputs), (after.state, &after.outputs));
    }
    for step in &before.steps {
        let now = after.steps.iter().find(|now| now.name == step.name).expect("steps stay");
        if step.state.is_some_and(StepState::is_over) {
            prop_assert_eq!((step.state, &step.manifest), (now.state, &now.manifest), "{} is over", &step.name);
        }
        prop_assert!(now.attempt >= step.attempt, "attempts only grow");
    }
    prop_assert!(!walk.broke_in, "a guarded stage was broken into");
    let outputs: std::collections::BTreeSet<_> =
        after.outputs.iter().map(|output| (&output.step, &output.name)).collect();
    prop_assert_eq!(outputs.len(), after.outputs.len(), "each output once");
    if matches!(event, Event::Look(_)) {
        prop_assert!(walk.story.is_looked_at_again(walk.now), "{:?}", walk.story.plan(at(walk.now)));
    }
    let canceled = after.state == Some(TaskState::Canceled);
    prop_assert!(
        !canceled || before.state == after.state || !walk.story.world.pods.iter().any(|pod| pod.alive),
        "no pod is left"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens_steps_end_once_attempts_are_numbered_and_a_guarded_stage_is_never_broken_into(events in events()) {
        let mut walk = Walk::new();
        for event in &events {
            let before = walk.story.task.status.clone().unwrap_or_default();
            walk.happen(event);
            check(&walk, &before, event)?;
        }
        // Nothing was made twice unnoticed: a Job is made again under its name only when it was not written down.
        let status = walk.story.task.status.clone().unwrap_or_default();
        for (step, attempt) in &walk.made {
            let known = status.steps.iter().find(|known| known.name == *step).and_then(|known| known.attempt).unwrap_or(0);
            prop_assert!(i64::from(*attempt) <= i64::from(known) + 1, "{step} {attempt}: attempts follow each other");
        }
    }

    #[test]
    fn every_run_comes_to_an_end_and_then_there_is_nothing_left_to_do(events in events()) {
        let mut walk = Walk::new();
        for event in &events {
            walk.happen(event);
        }
        walk.story.task.spec.suspend = None;
        // Most are over after a few rounds, and nothing happens in those that follow; a few are enough to see that.
        let mut rest = 0;
        for _ in 0..200 {
            for step in 0..6 {
                walk.happen(&Event::Ends(step, 0));
            }
            walk.happen(&Event::PodsEnd);
            walk.happen(&Event::Time(400));
            walk.happen(&Event::Look(Fault::None));
            rest = if walk.rests() { rest + 1 } else { 0 };
            if rest == 5 {
                break;
            }
        }
        let state = walk.story.status().state.expect("a state");
        prop_assert!(state.is_terminal(), "{state} for ever: {:?}", walk.story.status());
        prop_assert_eq!(walk.story.plan(at(walk.now)).actions, vec![], "a plan that was applied leaves nothing");
        let left = walk.story.world.jobs.iter().filter(|job| job.end.is_none()).count();
        prop_assert_eq!(left, 0, "no Job is left behind");
    }
}
