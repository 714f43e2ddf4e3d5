//! Whatever happens, in whatever order.

use super::*;

/// What may happen to a run between two looks.
#[derive(Clone, Debug)]
enum Event {
    DefinitionMissing,
    DefinitionNotReady,
    DefinitionReady,
    NoStore,
    Store,
    BadParameters,
    AgentKnown(bool),
    JobEnds(u8, u8),
    ResultsUnreadable,
    Deleted,
    PodsLeft(usize),
    Time(u8),
    /// The operator looks; a fault may hit what it does.
    Look(Option<u8>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => Just(Event::DefinitionMissing),
        1 => Just(Event::DefinitionNotReady),
        1 => Just(Event::DefinitionReady),
        1 => Just(Event::NoStore),
        1 => Just(Event::Store),
        1 => Just(Event::BadParameters),
        1 => any::<bool>().prop_map(Event::AgentKnown),
        1 => (0..3u8, 0..5u8).prop_map(|(end, left)| Event::JobEnds(end, left)),
        1 => Just(Event::ResultsUnreadable),
        1 => Just(Event::Deleted),
        1 => (0..3usize).prop_map(Event::PodsLeft),
        1 => (0..60u8).prop_map(Event::Time),
        5 => Just(Event::Look(None)),
        2 => (0..3u8).prop_map(|fault| Event::Look(Some(fault))),
    ];
    proptest::collection::vec(event, 1..40)
}

fn results(left: u8) -> Results {
    let failures =
        vec![FailureFact { pod_uid: "p".into(), attempt: 1, failed_at: at(3), report: report("X", left == 2) }];
    match left {
        0 => Results::default(),
        1 => committed(&["p"]),
        2 | 3 => Results { failures, ..Results::default() },
        _ => Results { pods: vec![PodFact { exit: Some(exit(9, "Error")), ..pod("p") }], ..Results::default() },
    }
}

fn happen(mut story: Story, event: &Event, now: &mut i64) -> Story {
    match event {
        Event::DefinitionMissing => story.admission.definition = DefinitionFact::Missing("gone".into()),
        Event::DefinitionNotReady => story.admission.definition = DefinitionFact::NotReady("not ready".into()),
        Event::DefinitionReady => story.admission.definition = definition(json!({})),
        Event::NoStore => story.admission.store = Err(NoStore::NoDefault),
        Event::Store => story.admission.store = Ok(StoreRef { name: "team".into(), uid: "s-1".into() }),
        Event::BadParameters => story.admission.parameters = json!({"unknown": 1}),
        Event::AgentKnown(known) => {
            let agent = task("x").admission.agent;
            story.admission.agent = if *known { agent } else { None };
        }
        Event::JobEnds(end, left) => {
            let end = [JobEnd::Succeeded, backoff(), JobEnd::Gone][usize::from(*end)].clone();
            story = story.left("import", end, Ok(results(*left)));
        }
        Event::ResultsUnreadable => {
            let trouble = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
            story = story.left("import", JobEnd::Succeeded, Err(trouble));
        }
        Event::Deleted => story = story.deleted(*now),
        Event::PodsLeft(pods) => story.remains.pods = *pods,
        Event::Time(seconds) => *now += i64::from(*seconds),
        Event::Look(fault) => {
            story = story.step(at(*now), |applied| match fault {
                Some(0) => {
                    let trouble = Trouble { reason: "StoreUnreachable", message: "no answer".into() };
                    *applied = Applied { trouble: Some(trouble), ..Applied::default() };
                }
                Some(1) => applied.jobs.values_mut().for_each(|job| job.ours = false),
                Some(_) => applied.jobs.values_mut().for_each(|job| job.revision = None),
                None => {}
            });
        }
    }
    story
}

proptest! {
    #[test]
    fn whatever_happens_states_move_as_the_table_says_and_terminal_ones_stay(events in events()) {
        let (mut story, mut now) = (task("a"), 0);
        for event in &events {
            let before = story.task.status.clone().unwrap_or_default();
            story = happen(story, event, &mut now);
            let after = story.task.status.clone().unwrap_or_default();
            if before.state != after.state {
                let from = before.state.unwrap_or(TaskState::Pending);
                let to = after.state.expect("a state is never taken back");
                prop_assert!(from.next().contains(&to) || before.state.is_none() && to == TaskState::Pending,
                    "{from} → {to} by {event:?}");
                prop_assert_eq!(after.transitions.last().map(|last| (last.from, last.to)), Some((before.state, to)));
                prop_assert_eq!(after.transitions.len(), before.transitions.len() + 1);
            }
            if before.state.is_some_and(TaskState::is_terminal) {
                prop_assert_eq!((&before.failure, &before.outputs, &before.steps),
                    (&after.failure, &after.outputs, &after.steps));
            }
            prop_assert!(before.revision.is_none() || before.revision == after.revision, "a run keeps its revision");
            prop_assert!(before.store.is_none() || before.store == after.store, "a run keeps its store");
            prop_assert!(story.is_looked_at_again(now), "{:?}", story.plan(at(now)));
        }
    }

    #[test]
    fn the_same_snapshot_gives_the_same_plan_and_a_plan_that_was_applied_leaves_nothing_to_do(events in events()) {
        let (mut story, mut now) = (task("a"), 0);
        for event in &events {
            story = happen(story, event, &mut now);
            prop_assert_eq!(story.plan(at(now)), story.plan(at(now)));
        }
        // Held, started, ended, marked, let go: five looks at most, then rest, as long as nothing else happens.
        let mut settled = story;
        for _ in 0..5 {
            settled = settled.go(now);
        }
        let plan = settled.plan(at(now));
        prop_assert_eq!(&plan.actions, &vec![], "{:?}", settled.task.status);
        let said = status(&settled.snapshot(), &plan, &Applied::default(), at(now + 1000));
        prop_assert_eq!(said, operators_part(&settled.task.status.clone().unwrap_or_default()), "no news");
    }
}
