//! R05, R16, R20, R23: the operator or a pod goes while things happen, and objects come back that were gone.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::every_write::{reference, settled};
use crate::oracle::End;
use crate::scenario::Scenario;
use crate::site::site;
use crate::support::{Namespace, kubectl_in, until};
use crate::table::{Outcome, report};

/// What lies between the attempts of `hopeless`: four seconds, then eight.
const BACK_OFFS: Duration = Duration::from_secs(12);

#[test]
fn r05_what_ended_while_the_operator_was_away_counts_once() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let reference = reference(&scenario, site);
    let ns = Namespace::new("away");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    until("the program runs", || (!site.ledger.runs(&ns.name).is_empty()).then_some(()));
    site.operator.kill();
    ns.wait("condition=Complete", "job --all", 120);
    ns.kubectl(&["delete", "pods", "--all"]).ok();

    site.operator.start();

    scenario.end(&ns);
    let against = settled(&ns, &reference.end.with_pods_deleted(), site);
    report("R05", "operator away, pods deleted", &[Outcome::at("the end of the Job", against)]);
}

#[test]
fn r16_a_back_off_outlives_the_operator() {
    let site = site();
    let scenario = Scenario::read("hopeless", site);
    let reference = reference(&scenario, site);
    let ns = Namespace::new("hopeless");
    site.proxy.watch(&ns.name, None);
    let (mut crashes, mut lasted) = (0, Duration::ZERO);
    scenario.begin(&ns);
    until("the first attempt began", || (!site.ledger.runs(&ns.name).is_empty()).then_some(()));
    let started = Instant::now();
    until("the task gave up, however often the operator began anew", || {
        std::thread::sleep(Duration::from_secs(2));
        site.operator.crash();
        crashes += 1;
        lasted = started.elapsed();
        (ns.get("asynctask", scenario.task())["status"]["state"] == "Failed").then_some(())
    });
    let mut against = settled(&ns, &reference.end, site);
    if lasted < BACK_OFFS {
        against[0] = Some(format!("three attempts within {lasted:?}, not {BACK_OFFS:?} or more"));
    }
    report("R16", "permanent failure, operator restarted", &[Outcome::at(&format!("{crashes} restarts"), against)]);
}

#[test]
fn r20_a_drained_pod_that_ends_well_half_way_is_run_again() {
    let site = site();
    let scenario = Scenario::read("drained", site);
    let ns = Namespace::new("drained");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    until("the program runs", || (!site.ledger.runs(&ns.name).is_empty()).then_some(()));
    let pods = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]).ok();
    evict(&ns.name, pods.trim());
    scenario.end(&ns);

    let (end, status) = (End::of(&ns, site), ns.status(scenario.task()));
    let runs: Vec<_> = end.ledger.iter().map(|(run, times)| (run.as_str(), *times)).collect();
    let ran = (runs != [("one work 1", 2)]).then(|| format!("{runs:?}"));
    let step = &status["steps"][0];
    let counted = (!step["counted"].is_null()).then(|| format!("the eviction spent a retry: {step}"));
    let [_, _, _, strays, leaked] = end.judge(&end);
    report("R20", "pod drained, ends well", &[Outcome::at("half way", [ran, counted, None, strays, leaked])]);
}

/// As `kubectl drain` does it.
pub(crate) fn evict(namespace: &str, pod: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let eviction = serde_json::json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace},
    });
    kubectl_in(&["create", "--raw", &path], &eviction.to_string()).ok();
}

#[test]
fn r23_a_finished_task_that_is_applied_again_from_a_backup_does_not_run_again() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let ns = Namespace::new("restored");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    scenario.end(&ns);
    let marked = until("the end is marked", || {
        let task = ns.get("asynctask", scenario.task());
        task["metadata"]["annotations"]["asynctask.dev/finished"].is_string().then_some(task)
    });
    ns.kubectl(&["delete", "asynctask", scenario.task(), "--timeout=120s"]).ok();

    kubectl_in(&["create"], &without_what_a_backup_leaves_out(marked).to_string()).ok();

    until("the restored task is over", || {
        (ns.get("asynctask", scenario.task())["status"]["reason"] == "Restored").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    // The deletion took the Job and the bytes; what matters is that nothing began anew.
    let end = End::of(&ns, site);
    let once = |what: &str, count: usize| (count != 1).then(|| format!("{what}: {count}, not 1"));
    let [_, _, _, _, leaked] = end.judge(&end);
    let ran = once("runs", end.ledger.values().sum());
    let created = once("Jobs created", end.changes.get("create jobs").copied().unwrap_or_default());
    let outcome = Outcome::at("a backup", [ran, None, created, None, leaked]).unasked(&[1, 3]);
    report("R23", "finished task restored", &[outcome]);
}

/// What tools for backups strip before they create an object anew: its identity, and its status.
fn without_what_a_backup_leaves_out(mut object: Value) -> Value {
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    object.as_object_mut().unwrap().remove("status");
    object
}
