//! S06: a pod is drained while its result is on its way to a store that takes its time.

use serde_json::Value;

use crate::absence::evict;
use crate::oracle::End;
use crate::scenario::Scenario;
use crate::site::{Site, site};
use crate::support::{Namespace, until};
use crate::table::{Outcome, report};

/// All files go on at the end, also of a test that fails.
struct Slow<'a>(&'a Site);

impl<'a> Slow<'a> {
    fn new(site: &'a Site, ns: &Namespace) -> Self {
        site.proxy.slow(Some(&ns.name));
        Self(site)
    }
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.0.proxy.slow(None);
    }
}

fn pods(ns: &Namespace) -> Vec<Value> {
    let list: Value = serde_json::from_str(&ns.kubectl(&["get", "pods", "-o", "json"]).ok()).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// A run whose only pod is drained when its file has been sent and has not arrived. It arrives while the pod is given time to
/// end, or when that is over.
fn drained(in_time: bool, site: &Site) -> Outcome {
    let scenario = Scenario::read("one-step", site);
    let ns = Namespace::new("draining");
    site.proxy.watch(&ns.name, None);
    let slow = Slow::new(site, &ns);
    scenario.begin(&ns);
    until("the file is on its way", || (site.proxy.waited() > 0).then_some(()));
    let pod = pods(&ns)[0]["metadata"].clone();
    evict(&ns.name, pod["name"].as_str().unwrap());
    until("the pod is told to end, or is gone", || {
        let all = pods(&ns);
        let found = all.iter().find(|found| found["metadata"]["uid"] == pod["uid"]);
        let told = found.is_some_and(|found| !found["metadata"]["deletionTimestamp"].is_null());
        (if in_time { told } else { found.is_none() }).then_some(())
    });
    let early = ns.status(scenario.task())["state"].clone();
    drop(slow);
    scenario.end(&ns);

    let end = End::of(&ns, site);
    let times = if in_time { 1 } else { 2 };
    let runs: Vec<_> = end.ledger.iter().map(|(run, times)| (run.as_str(), *times)).collect();
    let ran = (runs != [("one work 1", times)]).then(|| format!("{runs:?}, not {times}"));
    let step = &ns.status(scenario.task())["steps"][0];
    let counted = (early != "InProgress" || !step["counted"].is_null())
        .then(|| format!("{early} without a commit, or the drain spent a retry: {step}"));
    let [strays, leaked] = end.judge_bytes();
    let place = if in_time { "the file arrives in time" } else { "the pod is killed before" };
    Outcome::at(place, [ran, counted, None, strays, leaked]).unasked(&[2])
}

#[test]
fn s06_a_pod_that_is_drained_while_it_sends_its_file_commits_or_is_run_again() {
    let site = site();
    report("S06", "pod drained while it sends its file", &[true, false].map(|in_time| drained(in_time, site)));
}
