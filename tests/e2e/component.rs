//! Operator and gateway as processes of this machine: killed, waited for, weighed.

use std::process::Command;

use crate::support::{SYSTEM, get, kubectl, run, until};

/// `kill -9` of a component's process, as soon as there is one: after a kill the kubelet takes a while to start the next.
pub(crate) fn kill(component: &str) {
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

/// The highest resident memory of a process since it was last asked to forget it.
pub(crate) fn peak(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// From now on a process has a new peak.
pub(crate) fn forget(pid: &str) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// How often containers of operator and gateway were restarted by anybody but us.
pub(crate) fn restarts() -> i64 {
    let pods = get(&["-n", SYSTEM, "pods"]);
    let pods = pods["items"].as_array().unwrap().iter();
    pods.flat_map(|pod| pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default())
        .map(|container| container["restartCount"].as_i64().unwrap())
        .sum()
}
