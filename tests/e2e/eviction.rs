//! Pods that are deleted or evicted: half a result is none, and the step is tried again.

use std::process::Command;

use crate::support::{Namespace, run, script, task, until};

const REPORT: &str = "  outputs: [{name: report, step: work, path: report.txt}]";

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
