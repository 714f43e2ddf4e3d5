//! R01, R02 and refusals: one fault at every write of a scenario.
//!
//! A run without a fault tells which writes there are. Then there is one run a write, each in a namespace of its own,
//! several beside each other: a crash at the write of one comes to the others as a crash at any moment, which they have
//! to bear too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::oracle::End;
use crate::rules::{Fault, Point, points};
use crate::scenario::Scenario;
use crate::site::{Site, site};
use crate::support::{Namespace, until};
use crate::table::{Outcome, report};

/// Runs beside each other: more than these make one another slow.
const COHORT: usize = 12;
/// How long the last writes of a run may take after its end, on a busy machine and after a crash.
const SETTLING: Duration = Duration::from_secs(45);
/// No write for this long, and a run is over.
const QUIET: Duration = Duration::from_secs(3);

/// What a scenario comes to without faults.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) end: End,
    pub(crate) writes: Vec<String>,
}

/// Runs a scenario without a fault, once for all tests.
pub(crate) fn reference(scenario: &Scenario, site: &Site) -> Reference {
    static KNOWN: Mutex<BTreeMap<&str, Reference>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(scenario.name).or_insert_with(|| unharmed(scenario, site)).clone()
}

fn unharmed(scenario: &Scenario, site: &Site) -> Reference {
    let ns = Namespace::new("reference");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    scenario.end(&ns);
    let (mut seen, mut since) = (0, Instant::now());
    until("the reference run is quiet", || {
        let now = site.proxy.run(&ns.name, |run| run.writes.len());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        (since.elapsed() > QUIET).then_some(())
    });
    let writes = site.proxy.run(&ns.name, |run| run.writes.clone());
    println!("writes of {}: {writes:#?}", scenario.name);
    Reference { end: End::of(&ns, site), writes }
}

/// Looks until nothing is wrong any more, or the time is up.
pub(crate) fn settled(ns: &Namespace, reference: &End, site: &Site) -> [Option<String>; 5] {
    let started = Instant::now();
    loop {
        let against = End::of(ns, site).judge(reference);
        if against.iter().all(Option::is_none) || started.elapsed() > SETTLING {
            return against;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn cohort(scenario: &Scenario, reference: &Reference, points: &[Point], fault: Fault, site: &Site) -> Vec<Outcome> {
    let runs: Vec<Namespace> = points.iter().map(|_| Namespace::new("faulty")).collect();
    for (ns, point) in runs.iter().zip(points) {
        site.proxy.watch(&ns.name, Some((point.clone(), fault)));
        scenario.begin(ns);
    }
    runs.iter().for_each(|ns| scenario.end(ns));
    runs.iter().for_each(|ns| drop(settled(ns, &reference.end, site)));
    // And it stays so: what comes late and twice is still seen.
    std::thread::sleep(Duration::from_secs(1));
    let judged = runs.iter().zip(points).map(|(ns, point)| Outcome {
        place: format!("{point} of {}", scenario.name),
        struck: site.proxy.run(&ns.name, |run| run.struck),
        against: End::of(ns, site).judge(&reference.end),
    });
    judged.collect()
}

fn every_write(id: &str, name: &str, scenarios: &[&'static str], fault: Fault) {
    let site = site();
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        let scenario = Scenario::read(scenario, site);
        let reference = reference(&scenario, site);
        for points in points(&reference.writes).chunks(COHORT) {
            outcomes.extend(cohort(&scenario, &reference, points, fault, site));
        }
    }
    report(id, name, &outcomes);
}

/// The scenarios of the short form hold each write of the operator at least once.
const SHORT: &[&str] = &["deleted"];
const ALL: &[&str] = &["one-step", "deleted"];

#[test]
fn two_runs_without_a_fault_come_to_the_same() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let (one, other) = (reference(&scenario, site), unharmed(&scenario, site));
    report("–", "none", &[Outcome::at("nowhere", other.end.judge(&one.end))]);
}

#[test]
fn r01_an_operator_killed_before_any_write_makes_it_after_all() {
    every_write("R01", "crash before each write", SHORT, Fault::CrashBefore);
}

#[test]
fn r01_an_operator_killed_after_any_write_does_not_repeat_it() {
    every_write("R01", "crash after each write", SHORT, Fault::CrashAfter);
}

#[test]
fn r02_a_reply_lost_after_any_write_costs_nothing() {
    every_write("R02", "reply to each write lost", SHORT, Fault::LoseReply);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r01_killed_before_any_write_of_all_scenarios() {
    every_write("R01", "crash before each write, all scenarios", ALL, Fault::CrashBefore);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r01_killed_after_any_write_of_all_scenarios() {
    every_write("R01", "crash after each write, all scenarios", ALL, Fault::CrashAfter);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r02_replies_lost_in_all_scenarios() {
    every_write("R02", "reply to each write lost, all scenarios", ALL, Fault::LoseReply);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r14_a_refusal_of_any_write_is_tried_again() {
    for status in [409, 429, 500] {
        every_write("R14", &format!("each write answered {status}"), ALL, Fault::Answer(status));
    }
}

#[test]
#[ignore = "long: make test-faults-full"]
fn any_write_may_be_late() {
    every_write("–", "each write five seconds late", ALL, Fault::Hold(Duration::from_secs(5)));
}
