//! The real Kueue in the way: runs wait in its queue, are preempted and admitted again, and lose nothing by it. `make e2e
//! SUITE=kueue` installs it from its own chart.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Namespace, cli, get, kubectl, kubectl_in, script, task, until};

/// Longer than a run may need to start.
const LONG: Duration = Duration::from_secs(25);
/// Ends once it is told to.
const WAITS: &str = r#"until [ -e $ASYNCTASK_OUTPUTS/go ]; do sleep 0.2; done"#;

/// A queue with one processor, which more important Jobs take from others.
fn queue(ns: &Namespace) {
    let name = &ns.name;
    let objects = format!(
        r#"
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {{name: {name}}}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {{name: {name}}}
spec:
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}
  preemption: {{withinClusterQueue: LowerPriority}}
  resourceGroups:
  - coveredResources: [cpu]
    flavors: [{{name: {name}, resources: [{{name: cpu, nominalQuota: "1"}}]}}]
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {{name: night, namespace: {name}}}
spec: {{clusterQueue: {name}}}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: WorkloadPriorityClass
metadata: {{name: {name}}}
value: 1000
"#
    );
    kubectl_in(&["apply"], &objects).ok();
    wait(ns, true);
}

/// Whether the queue admits anybody.
fn open(ns: &Namespace, open: bool) {
    let policy = if open { "None" } else { "Hold" };
    let patch = format!(r#"{{"spec":{{"stopPolicy":"{policy}"}}}}"#);
    kubectl(&["patch", "clusterqueue", &ns.name, "--type=merge", "-p", &patch]).ok();
    wait(ns, open);
}

fn wait(ns: &Namespace, active: bool) {
    let active = if active { "True" } else { "False" };
    until("Kueue knows of the queue", || {
        let queue = get(&["clusterqueue", &ns.name]);
        let conditions = queue["status"]["conditions"].as_array()?;
        conditions.iter().any(|c| c["type"] == "Active" && c["status"] == active).then_some(())
    });
}

/// A run of this name in the queue, of a program that takes the whole of it.
fn submit(ns: &Namespace, name: &str, definition: &str) {
    let labels = format!("name: {name}, labels: {{kueue.x-k8s.io/queue-name: night}}");
    ns.apply(&task(name, definition).replace(&format!("name: {name}"), &labels)).ok();
}

fn define(ns: &Namespace, name: &str, more: &str) {
    let definition =
        script(name, WAITS, "").replace("timeout: 5m", &format!("timeout: 5m\n    startTimeout: 20s\n{more}"));
    let takes = "imagePullPolicy: IfNotPresent\n          resources: {requests: {cpu: 300m}}";
    ns.define(name, &definition.replace("imagePullPolicy: IfNotPresent", takes));
}

fn why(ns: &Namespace, name: &str) -> String {
    cli(&["-n", &ns.name, "why", name]).ok()
}

/// The only Job of the run that is not being deleted, once it is held or goes on.
fn job(ns: &Namespace, run: &str, held: bool) -> String {
    until(if held { "its Job is held" } else { "its Job goes on" }, || {
        let jobs = get(&["-n", &ns.name, "jobs", "-l", &format!("asynctask.dev/task={run}")]);
        let jobs = jobs["items"].as_array()?;
        let job = jobs.iter().find(|job| job["metadata"]["deletionTimestamp"].is_null())?;
        (job["spec"]["suspend"] == held).then(|| job["metadata"]["name"].as_str().unwrap().to_owned())
    })
}

fn pods(ns: &Namespace, run: &str) -> Vec<Value> {
    let pods = get(&["-n", &ns.name, "pods", "-l", &format!("asynctask.dev/task={run}")]);
    pods["items"].as_array().unwrap().clone()
}

fn running(ns: &Namespace, run: &str) {
    until("its program runs", || {
        let runs = |pod: &Value| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
        let pods = pods(ns, run);
        (pods.len() == 1 && runs(&pods[0])).then_some(())
    });
}

/// Tells the program of the run to end, and waits until the run has.
fn complete(ns: &Namespace, run: &str) -> Value {
    running(ns, run);
    ns.let_end(&format!("asynctask.dev/task={run}"));
    let status = ns.finished(run);
    assert_eq!(status["state"], "Complete", "{status:#}");
    status
}

/// Somebody more important, who takes the whole queue until it is deleted.
fn important(ns: &Namespace) {
    let name = &ns.name;
    let image = crate::support::variable("HELLO_REPORT_IMAGE");
    let job = format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: important, labels: {{kueue.x-k8s.io/queue-name: night, kueue.x-k8s.io/priority-class: {name}}}}}
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: c
        image: {image}
        imagePullPolicy: IfNotPresent
        command: [sleep, "3600"]
        resources: {{requests: {{cpu: 900m}}}}
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
    );
    kubectl_in(&["-n", name, "apply"], &job).ok();
}

#[test]
fn a_run_waits_in_the_queue_is_preempted_and_goes_on_and_loses_no_attempt() {
    let ns = Namespace::new("kueue");
    queue(&ns);
    define(&ns, "waits", "    retry: {limit: 0}");

    // Longer in the queue than a run has time to start.
    open(&ns, false);
    submit(&ns, "t", "waits");
    job(&ns, "t", true);
    let begun = Instant::now();
    assert!(why(&ns, "t").contains("is held in queue night"), "{}", why(&ns, "t"));
    until("it was held for long enough", || (begun.elapsed() > LONG).then_some(()));
    assert!(why(&ns, "t").contains("is held in queue night"), "{}", why(&ns, "t"));
    open(&ns, true);
    running(&ns, "t");

    // Preempted, and admitted again once the other is gone: longer away than a run has time to start, too.
    important(&ns);
    job(&ns, "t", true);
    until("its pod is gone", || pods(&ns, "t").is_empty().then_some(()));
    let begun = Instant::now();
    assert_eq!(ns.status("t")["state"], "InProgress", "{:#}", ns.status("t"));
    assert!(why(&ns, "t").contains("is held in queue night"), "{}", why(&ns, "t"));
    until("it was preempted for long enough", || (begun.elapsed() > LONG).then_some(()));
    ns.kubectl(&["delete", "job", "important"]).ok();
    running(&ns, "t");

    let status = complete(&ns, "t");
    let step = &status["steps"][0];
    assert_eq!((&step["attempt"], &step["counted"]), (&1.into(), &Value::Null), "no attempt is lost: {status:#}");
}

#[test]
fn a_run_that_is_suspended_by_hand_queues_again_when_it_is_resumed() {
    let ns = Namespace::new("kueue-hand");
    queue(&ns);
    define(&ns, "waits", "    retry: {limit: 0}");
    submit(&ns, "t", "waits");
    running(&ns, "t");
    cli(&["-n", &ns.name, "suspend", "t"]).ok();
    until("nothing of it runs", || pods(&ns, "t").is_empty().then_some(()));
    assert!(why(&ns, "t").contains("suspended it"), "{}", why(&ns, "t"));
    until("Kueue gives its place away", || {
        let workloads = get(&["-n", &ns.name, "workloads"]);
        workloads["items"].as_array()?.is_empty().then_some(())
    });
    open(&ns, false);
    cli(&["-n", &ns.name, "resume", "t"]).ok();
    let held = job(&ns, "t", true);
    assert!(why(&ns, "t").contains("is held in queue night"), "{}", why(&ns, "t"));
    open(&ns, true);
    running(&ns, "t");

    // The Job itself, by somebody who passes Kueue by: its pod ends, and Kueue lets it go on.
    let pod = pods(&ns, "t")[0]["metadata"]["uid"].clone();
    ns.kubectl(&["patch", "job", &held, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]).ok();
    until("its pod is gone", || pods(&ns, "t").iter().all(|other| other["metadata"]["uid"] != pod).then_some(()));
    let status = complete(&ns, "t");
    assert_eq!(status["steps"][0]["counted"], Value::Null, "no attempt is lost: {status:#}");
}

#[test]
fn shards_that_gave_their_result_are_kept_when_the_others_are_preempted() {
    let ns = Namespace::new("kueue-shards");
    queue(&ns);
    // The first two end by themselves, the others when they are told to.
    let shell = r#"[ "$ASYNCTASK_SHARD" -lt 2 ] || until [ -e $ASYNCTASK_OUTPUTS/go ]; do sleep 0.2; done"#;
    let fans = "timeout: 5m\n    startTimeout: 20s\n    retry: {limit: 0}\n    fanOut: {shards: 4, parallelism: 2}";
    let takes = "imagePullPolicy: IfNotPresent\n          resources: {requests: {cpu: 300m}}";
    let definition = script("shards", shell, "").replace("timeout: 5m", fans);
    ns.define("shards", &definition.replace("imagePullPolicy: IfNotPresent", takes));
    submit(&ns, "t", "shards");
    until("two shards gave their result", || (ns.status("t")["steps"][0]["shards"]["succeeded"] == 2).then_some(()));
    important(&ns);
    job(&ns, "t", true);
    until("its pods are gone", || {
        let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded";
        pods(&ns, "t").iter().all(ended).then_some(())
    });
    assert!(why(&ns, "t").contains("is held in queue night"), "{}", why(&ns, "t"));
    ns.kubectl(&["delete", "job", "important"]).ok();
    let go = format!("{}/outputs/go", asynctask_operator::contract::env::WORK_DIR);
    until("its other shards are told to end", || {
        for pod in pods(&ns, "t").iter().filter(|pod| pod["status"]["phase"] == "Running") {
            let pod = pod["metadata"]["name"].as_str().unwrap();
            ns.kubectl(&["exec", pod, "-c", "task", "--", "touch", &go]);
        }
        ns.status("t")["state"].as_str().is_some_and(|state| state == "Complete" || state == "Failed").then_some(())
    });
    let status = ns.status("t");
    assert_eq!(status["state"], "Complete", "{status:#}");
    let shards = &status["steps"][0]["shards"];
    assert_eq!((&shards["succeeded"], &shards["failed"]), (&4.into(), &0.into()), "{status:#}");
    assert_eq!(status["steps"][0]["counted"], Value::Null, "{status:#}");
}
