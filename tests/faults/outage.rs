//! R14: the API server refuses everything for a while, or has lost its etcd. Runs go on afterwards, and nobody hammers
//! at the door meanwhile.

use std::time::{Duration, Instant};

use crate::component::{Away, Component};
use crate::every_write::{reference, settled};
use crate::proxy::Traffic;
use crate::scenario::Scenario;
use crate::site::{Site, site};
use crate::support::{Namespace, until};
use crate::table::{Outcome, report};

/// Runs that are in progress when it begins.
const RUNS: usize = 3;
/// Most writes a minute that the operator tries while nothing can be written, for that many runs: it gives up its lease
/// after a few tries, and for each run there is a try with growing pauses. Half of it was seen.
const WRITES_A_MINUTE: usize = 90;
/// The same for reads: four kinds of our own, Jobs, pods, nodes, and each asks again after a growing pause.
const READS_A_MINUTE: usize = 400;
/// Before a kubelet starts again a container that has ended.
const STARTED_AGAIN: Duration = Duration::from_millis(500);

/// The API server refuses until this is dropped, also of a test that fails.
struct Refusing<'a>(&'a Site);

impl<'a> Refusing<'a> {
    fn new(site: &'a Site, status: u16) -> Self {
        site.proxy.refuse(Some(status));
        Self(site)
    }
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        self.0.proxy.refuse(None);
    }
}

/// Plays the kubelet for so long: an operator that has ended, as one does that cannot keep its lease, is started again.
fn keep_running(site: &Site, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::sleep(STARTED_AGAIN);
        site.operator.start();
    }
}

/// What is wrong after something took the API server away for a time. `during`: tries while it was away.
fn outage<T>(place: &str, time: Duration, begin: impl FnOnce(&'static Site) -> T) -> Vec<Outcome> {
    let site = site();
    let scenario = Scenario::read("slow", site);
    let reference = reference(&scenario, site);
    let runs: Vec<Namespace> = (0..RUNS).map(|_| Namespace::new("outage")).collect();
    for ns in &runs {
        site.proxy.watch(&ns.name, None);
        scenario.begin(ns);
    }
    for ns in &runs {
        until("the program runs", || (!site.ledger.runs(&ns.name).is_empty()).then_some(()));
    }
    let (before, starts, began) = (site.proxy.traffic(), site.operator.starts(), Instant::now());
    let away = begin(site);
    keep_running(site, time);
    let tried = site.proxy.traffic() - before;
    drop(away);
    let (lasted, back) = (began.elapsed(), Instant::now());
    for ns in &runs {
        until("the run goes on", || {
            site.operator.start();
            (ns.get("asynctask", scenario.task())["status"]["state"] == "Complete").then_some(())
        });
    }
    let starts = site.operator.starts() - starts;
    println!(
        "R14 {place}: {tried:?} tried in {time:?}; away for {lasted:?}; all over {:?} after; operator started again {starts} ×",
        back.elapsed()
    );
    let against = |ns| settled(ns, &reference.end, site);
    let outcomes = runs.iter().map(|ns| Outcome::at(place, against(ns)));
    outcomes
        .chain([Outcome::at(place, [None, None, bounded(tried, time), None, None]).unasked(&[0, 1, 3, 4])])
        .collect()
}

/// Whether so much was tried in a time as may be.
fn bounded(tried: Traffic, time: Duration) -> Option<String> {
    let a_minute = |count: usize| count * 60 / usize::try_from(time.as_secs()).unwrap();
    let (writes, reads) = (a_minute(tried.writes), a_minute(tried.reads));
    println!("{writes} writes and {reads} reads a minute");
    let few = writes <= WRITES_A_MINUTE && reads <= READS_A_MINUTE;
    (!few)
        .then(|| format!("{writes} writes and {reads} reads a minute, at most {WRITES_A_MINUTE} and {READS_A_MINUTE}"))
}

fn answered(status: u16, time: Duration) -> Vec<Outcome> {
    outage(&format!("{status} for {time:?}"), time, |site| Refusing::new(site, status))
}

#[test]
fn r14_after_an_outage_of_the_api_server_runs_go_on() {
    report("R14", "API server answers 500 for 10 s", &answered(500, Duration::from_secs(10)));
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r14_after_half_a_minute_of_any_refusal_runs_go_on() {
    for status in [429, 500, 410] {
        report("R14", &format!("API server answers {status} for 30 s"), &answered(status, Duration::from_secs(30)));
    }
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r14_after_half_a_minute_without_etcd_runs_go_on() {
    let outcomes = outage("etcd away", Duration::from_secs(30), |_| Away::kill(Component("etcd")));
    report("R14", "etcd killed, back after 30 s", &outcomes);
}

#[test]
fn tries_are_counted_by_the_minute() {
    let tried = |writes, reads| bounded(Traffic { reads, writes }, Duration::from_secs(30));
    assert!(tried(WRITES_A_MINUTE / 2, READS_A_MINUTE / 2).is_none());
    assert!(tried(WRITES_A_MINUTE / 2 + 1, 0).is_some());
    assert!(tried(0, READS_A_MINUTE / 2 + 1).is_some());
}
