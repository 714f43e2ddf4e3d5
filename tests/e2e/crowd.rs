//! One run beside a crowd: another tenant has thousands of runs that are over and thousands that wait, and edits their
//! definition once a second. A long form; `make e2e SUITE=crowd` prints the figures.

use std::time::{Duration, Instant};

use crate::component::{forget, peak, process, restarts};
use crate::harm::{end_of_audit, while_edited, writes_since};
use crate::support::{Namespace, get, script, task, until, variable};

/// Runs of the quiet tenant, before and beside the crowd.
const RUNS: usize = 30;

fn number(name: &str) -> usize {
    variable(name).parse().unwrap()
}

fn runs(quiet: &Namespace, what: &str) -> Vec<Duration> {
    let time = |number: usize| {
        let name = format!("{what}-{number}");
        let begun = Instant::now();
        quiet.create(&task(&name, "works"));
        assert_eq!(quiet.finished(&name)["state"], "Complete", "{name}");
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..RUNS).map(time).collect();
    times.sort();
    let shown = times.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect::<Vec<_>>().join(" ");
    println!("{what}: median {:?}, slowest {:?} of {RUNS}: {shown}", times[RUNS / 2], times[RUNS - 1]);
    times
}

fn create(ns: &Namespace, documents: &[String]) {
    documents.chunks(250).for_each(|some| ns.create(&some.join("\n---\n")));
}

#[test]
fn a_run_beside_a_crowd_takes_its_time() {
    let (quiet, crowd) = (Namespace::new("quiet"), Namespace::new("crowd"));
    quiet.define("works", &script("works", "echo works", ""));
    let undisturbed = runs(&quiet, "alone");
    let (finished, waiting) = (number("CROWD_FINISHED"), number("CROWD_WAITING"));
    crowd.define("one", &script("one", "sleep 7200", "  concurrency: {maxRunning: 1}"));
    // Over before they begin: that leaves the same object as any other end.
    let over = |number: usize| task(&format!("over-{number}"), "one").replace("}}}", "}, cancel: true}}");
    let begun = Instant::now();
    create(&crowd, &(0..finished).map(over).collect::<Vec<_>>());
    create(&crowd, &(0..waiting).map(|number| task(&format!("waits-{number}"), "one")).collect::<Vec<_>>());
    println!("{finished} and {waiting} runs created in {:?}", begun.elapsed());
    for number in [0, finished / 2, finished - 1] {
        crowd.wait("condition=Finished", &format!("asynctask/over-{number}"), 1800);
    }
    let last = format!("waits-{}", waiting - 1);
    until("the last of them has its place", || (!crowd.status(&last)["queue"]["position"].is_null()).then_some(()));
    println!("all of them were looked at after {:?}", begun.elapsed());

    let before = restarts();
    let components = ["operator", "gateway"].map(|component| process(component).unwrap());
    components.iter().for_each(|pid| forget(pid));
    let beside = while_edited(&crowd, "one", || {
        let (begun, audit) = (Instant::now(), end_of_audit());
        let beside = runs(&quiet, "beside");
        println!("API writes of ours: {:.1}/s", writes_since(audit) as f64 / begun.elapsed().as_secs_f64());
        beside
    });
    let [operator, gateway] = components.map(|pid| peak(&pid).unwrap_or(0) >> 10);
    println!("operator {operator} MiB, gateway {gateway} MiB");
    assert_eq!(restarts(), before);
    assert!(get(&["-n", &crowd.name, "asynctask", &last])["status"]["state"] == "Pending");
    assert!(beside[RUNS - 1] <= undisturbed[RUNS - 1] * 2, "{beside:?} beside {undisturbed:?}");
}
