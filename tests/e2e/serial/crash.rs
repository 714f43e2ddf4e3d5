//! kill -9 and lost commits: nothing is lost, nothing runs twice unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use crate::component::{back, kill};
use crate::support::{Namespace, SYSTEM, audit, kubectl, script, stored, task, until};

/// How many Jobs there ever were, by the audit log. A creation whose sender was killed may be made and yet not be called
/// so; then the Job controller writes the status of a Job that nobody is said to have made.
fn jobs_made(ns: &Namespace) -> usize {
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in audit(&ns.name) {
        let (object, body) = (&line["objectRef"], &line["responseObject"]["metadata"]);
        let granted = line["responseStatus"]["code"].as_i64().is_some_and(|code| code < 300)
            && !line["requestURI"].as_str().unwrap_or_default().contains("dryRun");
        if !granted || object["resource"] != "jobs" {
            continue;
        }
        if object["subresource"] == "status" {
            made.entry(object["name"].as_str().unwrap().to_owned()).or_default();
        } else if let (Some(name), Some(uid)) = (body["name"].as_str(), body["uid"].as_str()) {
            made.entry(name.to_owned()).or_default().insert(uid.to_owned());
        }
    }
    made.values().map(|uids| uids.len().max(1)).sum()
}

/// The operator is away as long as this lives, and back for the other tests even when one fails.
struct Away;

impl Away {
    fn new() -> Self {
        kubectl(&["-n", SYSTEM, "scale", "deployment/asynctask-operator", "--replicas=0"]).ok();
        Self
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        kubectl(&["-n", SYSTEM, "scale", "deployment/asynctask-operator", "--replicas=1"]);
        kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/asynctask-operator", "--timeout=120s"]);
    }
}

const SLOW: &str = r#"$ASYNCTASK_AGENT stage First; i=0; while [ $i -lt 6 ]; do i=$((i+1)); sleep 1; done
$ASYNCTASK_AGENT stage Second; echo whole > $ASYNCTASK_OUTPUTS/report.txt"#;
const REPORT: &str = "  outputs: [{name: report, step: work, path: report.txt}]";

#[test]
fn operator_and_gateway_killed_at_three_points_cost_nothing() {
    for component in ["operator", "gateway"] {
        let ns = Namespace::new(&format!("kill-{component}"));
        ns.define("slow", &script("slow", SLOW, REPORT));
        // As it begins.
        ns.apply(&task("t", "slow")).ok();
        kill(component);
        until("the pod runs", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
        // In the middle.
        back(component);
        kill(component);
        until("the second stage, or the end", || {
            let status = ns.status("t");
            (status["steps"][0]["stage"] == "Second" || status["state"] == "Complete").then_some(())
        });
        // As it ends.
        back(component);
        kill(component);

        let status = ns.finished("t");
        back(component);

        assert_eq!(status["state"], "Complete", "{status:#}");
        assert_eq!(jobs_made(&ns), 1, "{component}");
        let uid = ns.get("asynctask", "t")["metadata"]["uid"].as_str().unwrap().to_owned();
        let commits = stored(&uid).into_iter().filter(|path| path.ends_with("commit")).count();
        assert_eq!(commits, 1, "{component}");
    }
}

#[test]
fn a_pod_that_succeeds_without_a_commit_is_not_complete() {
    let ns = Namespace::new("commit");
    ns.define("slow", &script("slow", SLOW, REPORT));
    ns.apply(&task("t", "slow")).ok();
    until("the pod runs", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
    let away = Away::new();
    ns.wait("condition=Complete", "job --all", 120);
    let uid = ns.get("asynctask", "t")["metadata"]["uid"].as_str().unwrap().to_owned();
    let commits: Vec<_> = stored(&uid).into_iter().filter(|path| path.ends_with("commit")).collect();
    assert_eq!(commits.len(), 1);
    std::fs::remove_file(&commits[0]).unwrap();

    drop(away);

    let status = ns.finished("t");
    assert_eq!(status["failure"]["reason"], "OutputNotCommitted", "{status:#}");
}
