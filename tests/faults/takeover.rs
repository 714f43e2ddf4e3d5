//! R06, R22: two operators. The first one falls asleep in the middle of a write and wakes when another has taken over.

use std::time::{Duration, Instant};

use crate::every_write::{reference, settled};
use crate::operator::Operator;
use crate::rules::{Fault, points};
use crate::scenario::Scenario;
use crate::site::site;
use crate::support::{Namespace, SYSTEM, get, until};
use crate::table::{Outcome, report};

const SUCCESSOR: &str = "asynctask-operator-successor";
/// Longer than the lease lasts without its holder.
const SLEEP: Duration = Duration::from_secs(24);

#[test]
#[ignore = "long: make test-faults-full"]
fn r06_a_leader_that_sleeps_past_its_lease_wakes_in_the_middle_of_a_write() {
    let outcomes = asleep_in("one-step", |_| true, |_| None);
    report("R06", "leader asleep in each write", &outcomes);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r22_two_leaders_that_admit_two_tasks_of_one_key_run_one_at_a_time() {
    let outcomes = asleep_in("keyed", |write| write.contains("leases"), overlap);
    report("R22", "leader asleep while it takes a key", &outcomes);
}

/// One run for each write that `of` picks: the leader falls asleep in it. `also` has the last word on what programs said.
fn asleep_in(scenario: &'static str, of: fn(&str) -> bool, also: fn(&[String]) -> Option<String>) -> Vec<Outcome> {
    let site = site();
    let scenario = Scenario::read(scenario, site);
    let reference = reference(&scenario, site);
    let mut outcomes = Vec::new();
    for point in points(&reference.writes).into_iter().filter(|point| of(&point.what)) {
        let successor = Operator::new(site.start.clone(), SUCCESSOR);
        let ns = Namespace::new("asleep");
        site.proxy.watch(&ns.name, Some((point.clone(), Fault::Hold(SLEEP))));
        scenario.begin(&ns);
        until("the write is on its way", || site.proxy.run(&ns.name, |run| run.struck).then_some(()));
        let arrives = Instant::now() + SLEEP;
        site.operator.signal("-STOP");
        until("the successor leads", || (holder() == SUCCESSOR).then_some(()));
        scenario.end(&ns);
        // The write arrives only now, in the name of the first.
        std::thread::sleep(arrives.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
        site.operator.signal("-CONT");
        let mut against = settled(&ns, &reference.end, site);
        against[0] = against[0].take().or_else(|| also(&site.ledger.lines(&ns.name)));
        outcomes.push(Outcome { place: point.to_string(), struck: true, against, unasked: &[] });
        drop(successor);
        free_the_lease();
        site.operator.crash();
    }
    outcomes
}

/// Programs that say when they begin and when they are over: no other begins in between.
fn overlap(lines: &[String]) -> Option<String> {
    let alone = |pair: &[String]| matches!(pair, [begun, over] if *over == format!("{begun} over"));
    (!lines.chunks(2).all(alone)).then(|| format!("at the same time: {lines:?}"))
}

#[test]
fn what_begins_before_another_is_over_overlaps() {
    let lines = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(overlap(&lines("one,one over,two,two over")), None);
    assert!(overlap(&lines("one,two,one over,two over")).is_some());
}

fn holder() -> String {
    let lease = get(&["-n", SYSTEM, "lease", "asynctask-operator"]);
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// A killed holder's lease would run out by itself, later than the next test likes to wait.
fn free_the_lease() {
    crate::support::kubectl(&["-n", SYSTEM, "delete", "lease", "asynctask-operator"]).ok();
}
