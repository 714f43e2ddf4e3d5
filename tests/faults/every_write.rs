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
use crate::support::{Namespace, evidence, until};
use crate::table::{Outcome, explain, report};

/// Runs beside each other: more than these make one another slow.
const COHORT: usize = 12;
/// How long the last writes of a run may take after its end, on a busy machine and after a crash: longer than the operator
/// gives a call that hangs (two minutes) before it begins anew.
const SETTLING: Duration = Duration::from_secs(300);
/// Without a cause a run settles sooner. One that does not is told with what it waits for, whatever becomes of it.
const SOON: Duration = Duration::from_secs(30);
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
    scenario.act(&ns, &site.ledger);
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

/// Looks until nothing is wrong any more, or the time is up, and then shows why.
pub(crate) fn settled(ns: &Namespace, reference: &End, site: &Site) -> [Option<String>; 5] {
    settled_at_last(Instant::now() + SETTLING, ns, reference, site)
}

fn settled_at_last(deadline: Instant, ns: &Namespace, reference: &End, site: &Site) -> [Option<String>; 5] {
    let against = settled_by(deadline, ns, reference, site);
    if against.iter().any(Option::is_some) {
        evidence::show(&format!("not after {SETTLING:?}: {} is as without a fault", ns.name));
    }
    against
}

fn settled_by(deadline: Instant, ns: &Namespace, reference: &End, site: &Site) -> [Option<String>; 5] {
    loop {
        let against = End::of(ns, site).judge(reference);
        if against.iter().all(Option::is_none) || Instant::now() > deadline {
            return against;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A place for a fault: a write of a scenario.
type Place = (Scenario, Point);

/// Every write of these scenarios.
fn places(scenarios: &[&'static str], site: &Site) -> Vec<Place> {
    let mut places = Vec::new();
    for scenario in scenarios {
        let scenario = Scenario::read(scenario, site);
        let writes = reference(&scenario, site).writes;
        places.extend(points(&writes).into_iter().map(|point| (scenario.clone(), point)));
    }
    places
}

fn cohort(places: &[Place], fault: Fault, site: &Site) -> Vec<Outcome> {
    let runs: Vec<Namespace> = places.iter().map(|_| Namespace::new("faulty")).collect();
    let all = || runs.iter().zip(places);
    for (ns, (scenario, point)) in all() {
        site.proxy.watch(&ns.name, Some((point.clone(), fault)));
        scenario.begin(ns);
    }
    all().for_each(|(ns, (scenario, _))| scenario.act(ns, &site.ledger));
    // One time for all: a run that never ends is told by its objects, and does not keep the others from being judged.
    let deadline = Instant::now() + SETTLING;
    let (began, starts) = (Instant::now(), site.operator.starts());
    for (ns, (scenario, point)) in all() {
        let wanted = &reference(scenario, site).end;
        let soon = settled_by(began + SOON, ns, wanted, site);
        if soon.iter().any(Option::is_some) {
            explain(
                &format!("after {SOON:?} {point} of {} in {}", scenario.name, ns.name),
                &evidence::of(std::slice::from_ref(&ns.name)),
            );
            settled_at_last(deadline, ns, wanted, site);
        }
        let after = began.elapsed().as_secs_f64();
        println!("{point} of {}: looked at for {after:.0} s after the last act", scenario.name);
    }
    println!("the operator was started {} times meanwhile", site.operator.starts() - starts);
    // And it stays so: what comes late and twice is still seen.
    std::thread::sleep(Duration::from_secs(1));
    let judged = all().map(|(ns, (scenario, point))| Outcome {
        place: format!("{point} of {}", scenario.name),
        struck: site.proxy.run(&ns.name, |run| run.struck),
        against: End::of(ns, site).judge(&reference(scenario, site).end),
        unasked: &[],
    });
    judged.collect()
}

/// The scenarios hold each write of the operator at least once.
const SCENARIOS: &[&str] = &["retried", "cancelled", "deleted"];

fn every_write(id: &str, name: &str, fault: Fault) {
    let site = site();
    let places = places(SCENARIOS, site);
    let outcomes: Vec<_> = places.chunks(COHORT).flat_map(|places| cohort(places, fault, site)).collect();
    report(id, name, &outcomes);
}

/// The short form: as many writes as run beside each other, evenly spread. `shift` makes those of two faults differ.
fn some_writes(id: &str, name: &str, fault: Fault, shift: usize) {
    let site = site();
    let places = places(SCENARIOS, site);
    let apart = places.len().div_ceil(COHORT);
    let some: Vec<_> = places.into_iter().skip(shift % apart).step_by(apart).collect();
    report(id, name, &cohort(&some, fault, site));
}

#[test]
fn two_runs_without_a_fault_come_to_the_same() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let (one, other) = (reference(&scenario, site), unharmed(&scenario, site));
    report("–", "none", &[Outcome::at("nowhere", other.end.judge(&one.end))]);
}

#[test]
fn r01_an_operator_killed_before_a_write_makes_it_after_all() {
    some_writes("R01", "crash before some writes", Fault::CrashBefore, 0);
}

#[test]
fn r01_an_operator_killed_after_a_write_does_not_repeat_it() {
    some_writes("R01", "crash after some writes", Fault::CrashAfter, 1);
}

#[test]
fn r02_a_reply_lost_after_a_write_costs_nothing() {
    some_writes("R02", "reply to some writes lost", Fault::LoseReply, 2);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r01_killed_before_every_write() {
    every_write("R01", "crash before each write", Fault::CrashBefore);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r01_killed_after_every_write() {
    every_write("R01", "crash after each write", Fault::CrashAfter);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r02_the_reply_to_every_write_lost() {
    every_write("R02", "reply to each write lost", Fault::LoseReply);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r14_a_refusal_of_any_write_is_tried_again() {
    for status in [409, 429, 500] {
        every_write("R14", &format!("each write answered {status}"), Fault::Answer(status));
    }
}

#[test]
#[ignore = "long: make test-faults-full"]
fn any_write_may_be_late() {
    every_write("–", "each write five seconds late", Fault::Hold(Duration::from_secs(5)));
}
