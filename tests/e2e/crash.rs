//! kill -9, eviction, lost commits: nothing is lost, nothing runs twice unnoticed.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::{Cluster, Namespace, SYSTEM, audit, get, kubectl, run, script, stored, task, until};

/// `kill -9` of a component's process, as soon as there is one: after a kill the kubelet takes a while to start the next.
fn kill(component: &str) {
    let pid = until(&format!("a process of the {component}"), || process(component));
    run(Command::new("kill").args(["-9", &pid]), None).ok();
}

/// The process of the component's pod, told from those of other clusters by the pod's UID in its cgroup. A pod that is
/// being deleted does not count: it is of a Deployment scaled down before.
pub(crate) fn process(component: &str) -> Option<String> {
    let selector = format!("app.kubernetes.io/component={component}");
    let pods = get(&["-n", SYSTEM, "pods", "-l", &selector]);
    let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pod = pods["items"].as_array().unwrap().iter().find(stays)?;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let pattern = format!("^/usr/local/bin/asynctask-{component}");
    let pids = run(Command::new("pgrep").args(["-f", &pattern]), None).out;
    let ours = pids.split_whitespace().find(|pid| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        cgroup.contains(uid) || cgroup.contains(&uid.replace('-', "_"))
    });
    ours.map(str::to_owned)
}

pub(crate) fn back(component: &str) {
    kubectl(&["-n", SYSTEM, "rollout", "status", &format!("deployment/asynctask-{component}"), "--timeout=120s"]).ok();
}

/// How many Jobs there ever were, by the audit log. A creation whose sender was killed may be made and yet not be called
/// so, but then the Job controller writes about the Job.
fn jobs_made(ns: &Namespace) -> usize {
    let lines = audit(&ns.name);
    let written = lines.iter().filter(|line| {
        line["objectRef"]["resource"] == "jobs"
            && line["responseStatus"]["code"].as_i64().is_some_and(|code| code < 300)
            && !line["requestURI"].as_str().unwrap_or_default().contains("dryRun")
    });
    written.filter_map(|line| line["responseObject"]["metadata"]["uid"].as_str()).collect::<BTreeSet<_>>().len()
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
    let _turn = Cluster::alone();
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
    let _turn = Cluster::alone();
    let ns = Namespace::new("commit");
    ns.define("slow", &script("slow", SLOW, REPORT));
    ns.apply(&task("t", "slow")).ok();
    until("the pod runs", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
    let away = Away::new();
    ns.kubectl(&["wait", "--for=condition=Complete", "job", "--all", "--timeout=120s"]).ok();
    let uid = ns.get("asynctask", "t")["metadata"]["uid"].as_str().unwrap().to_owned();
    let commits: Vec<_> = stored(&uid).into_iter().filter(|path| path.ends_with("commit")).collect();
    assert_eq!(commits.len(), 1);
    std::fs::remove_file(&commits[0]).unwrap();

    drop(away);

    let status = ns.finished("t");
    assert_eq!(status["failure"]["reason"], "OutputNotCommitted", "{status:#}");
}

/// A program as graceful-shutdown handlers make them: on SIGTERM it leaves half a result and exits 0.
const GRACEFUL: &str = r#"trap 'echo half > $ASYNCTASK_OUTPUTS/report.txt; exit 0' TERM
$ASYNCTASK_AGENT stage First; i=0; while [ $i -lt 100 ]; do i=$((i+1)); sleep 0.1; done
echo whole > $ASYNCTASK_OUTPUTS/report.txt"#;

fn first_pod(ns: &Namespace) -> String {
    until("the pod runs", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
    ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]).ok()
}

#[test]
fn a_deleted_pod_that_exits_0_on_sigterm_is_no_success_and_its_step_is_tried_again() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("deleted");
    ns.define("graceful", &script("graceful", GRACEFUL, REPORT));
    ns.apply(&task("t", "graceful")).ok();
    let pod = first_pod(&ns);

    ns.kubectl(&["delete", "pod", &pod, "--wait=false"]).ok();

    let status = ns.finished("t");
    let step = &status["steps"][0];
    assert_eq!(
        (&status["state"], &step["attempt"], &step["counted"]),
        (&"Complete".into(), &2.into(), &serde_json::Value::Null)
    );
    let whole = "whole\n".len();
    assert_eq!(status["outputs"][0]["size"], whole, "not the half that the first attempt left: {status:#}");
}

#[test]
fn an_evicted_pod_that_exits_0_on_sigterm_is_replaced_and_the_result_is_whole() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("evicted");
    ns.define("graceful", &script("graceful", GRACEFUL, REPORT));
    ns.apply(&task("t", "graceful")).ok();
    let pod = first_pod(&ns);
    let eviction = serde_json::json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod, "namespace": ns.name }
    });
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", ns.name);
    run(Command::new("kubectl").args(["create", "--raw", &path, "-f", "-"]), Some(&eviction.to_string())).ok();

    let status = ns.finished("t");

    assert_eq!(status["state"], "Complete", "{status:#}");
    let whole = crate::support::cli(&["-n", &ns.name, "outputs", "get", "t", "report", "-o", "-"]).ok();
    assert_eq!(whole, "whole\n");
}
