//! R06: two operators. The first one falls asleep in the middle of a write and wakes when another has taken over.

use std::time::Duration;

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
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let reference = reference(&scenario, site);
    let mut outcomes = Vec::new();
    for point in points(&reference.writes) {
        let successor = Operator::new(site.start.clone(), SUCCESSOR);
        let ns = Namespace::new("asleep");
        site.proxy.watch(&ns.name, Some((point.clone(), Fault::Hold(SLEEP))));
        scenario.begin(&ns);
        until("the write is on its way", || site.proxy.run(&ns.name, |run| run.struck).then_some(()));
        site.operator.signal("-STOP");
        until("the successor leads", || (holder() == SUCCESSOR).then_some(()));
        scenario.end(&ns);
        // The write arrives only now, in the name of the first.
        std::thread::sleep(SLEEP);
        site.operator.signal("-CONT");
        let against = settled(&ns, &reference.end, site);
        outcomes.push(Outcome { place: point.to_string(), struck: true, against });
        drop(successor);
        free_the_lease();
        site.operator.crash();
    }
    report("R06", "leader asleep in each write", &outcomes);
}

fn holder() -> String {
    let lease = get(&["-n", SYSTEM, "lease", "asynctask-operator"]);
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// A killed holder's lease would run out by itself, later than the next test likes to wait.
fn free_the_lease() {
    crate::support::kubectl(&["-n", SYSTEM, "delete", "lease", "asynctask-operator"]).ok();
}
