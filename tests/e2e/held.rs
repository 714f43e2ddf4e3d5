//! Jobs that a queue holds: made suspended, let go on when there is room, taken back, as Kueue does it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Namespace, cli, get, kubectl, kubectl_in, script, task, until};

/// Stands for the queue's webhook: Jobs with its label are made suspended.
fn queue(ns: &Namespace) {
    let name = &ns.name;
    let policy = format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules:
    - {{apiGroups: [batch], apiVersions: [v1], operations: [CREATE], resources: [jobs]}}
  matchConditions:
  - {{name: queued, expression: "has(object.metadata.labels) && 'kueue.x-k8s.io/queue-name' in object.metadata.labels"}}
  mutations:
  - patchType: JSONPatch
    jsonPatch: {{expression: "[JSONPatch{{op: \"add\", path: \"/spec/suspend\", value: true}}]"}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}
"#
    );
    kubectl_in(&["apply"], &policy).ok();
    let probe = "{apiVersion: batch/v1, kind: Job, metadata: {name: probe, labels: {kueue.x-k8s.io/queue-name: night}}, spec: {template: {spec: \
                 {restartPolicy: Never, containers: [{name: c, image: i}]}}}}";
    until("the queue is there", || {
        let made = kubectl_in(&["-n", name, "create", "--dry-run=server", "-o", "json"], probe).out;
        let made: Value = serde_json::from_str(&made).ok()?;
        (made["spec"]["suspend"] == true).then_some(())
    });
}

fn hold(ns: &Namespace, job: &str, held: bool) {
    let patch = format!("{{\"spec\":{{\"suspend\":{held}}}}}");
    ns.kubectl(&["patch", "job", job, "--type=merge", "-p", &patch]).ok();
}

#[test]
fn time_in_a_queue_of_jobs_counts_nowhere_and_a_job_that_is_taken_back_loses_no_attempt() {
    let ns = Namespace::new("held");
    queue(&ns);
    let shell = r#"until [ -e $ASYNCTASK_OUTPUTS/go ]; do sleep 0.2; done"#;
    let definition =
        script("waits", shell, "").replace("timeout: 5m", "timeout: 5m\n    startTimeout: 20s\n    retry: {limit: 0}");
    ns.define("waits", &definition);
    let begun = Instant::now();
    ns.apply(&task("t", "waits").replace("name: t", "name: t, labels: {kueue.x-k8s.io/queue-name: night}")).ok();
    let job = until("its Job is held", || {
        let jobs = get(&["-n", &ns.name, "jobs"]);
        let job = jobs["items"].get(0)?;
        (job["spec"]["suspend"] == true).then(|| job["metadata"]["name"].as_str().unwrap().to_owned())
    });
    let why = cli(&["-n", &ns.name, "why", "t"]).ok();
    assert!(why.contains("is held in queue night"), "{why}");
    // Longer than `startTimeout`.
    until("it was held for long enough", || (begun.elapsed() > Duration::from_secs(25)).then_some(()));
    hold(&ns, &job, false);
    let running = || {
        until("its program runs", || {
            let pods = get(&["-n", &ns.name, "pods"]);
            let pods = pods["items"].as_array()?;
            pods.iter()
                .any(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null())
                .then_some(())
        })
    };
    running();
    // Taken back for somebody more important, and admitted again.
    hold(&ns, &job, true);
    until("its pod is gone", || get(&["-n", &ns.name, "pods"])["items"].as_array()?.is_empty().then_some(()));
    assert_eq!(ns.status("t")["state"], "InProgress", "{:#}", ns.status("t"));
    hold(&ns, &job, false);
    running();
    until("it is told to end", || {
        let pods = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
        let go = "/var/run/asynctask/outputs/go";
        let dir = asynctask_operator::contract::env::WORK_DIR;
        let go = go.replace("/var/run/asynctask", dir);
        [0, 137].contains(&ns.kubectl(&["exec", &pods, "-c", "task", "--", "touch", &go]).code).then_some(())
    });
    let status = ns.finished("t");
    assert_eq!(status["state"], "Complete", "{status:#}");
    assert_eq!(status["steps"][0]["attempt"], 1, "no attempt is lost: {status:#}");
    kubectl(&["delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", &ns.name]).ok();
}
