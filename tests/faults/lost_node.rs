//! R09: a node that is not heard of. Its pods are given up, and what they still want to commit is refused.

use std::time::Instant;

use asynctask_operator::storage::ObjectStore;
use asynctask_operator::storage::records::RECORD_MAX;
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::Method;
use serde_json::{Value, json};

use crate::component::Component;
use crate::operator::Operator;
use crate::oracle::{End, all_keys};
use crate::scenario::Scenario;
use crate::site::{Site, site};
use crate::stand_in::{Played, StandIn, pods_as};
use crate::support::{Namespace, SYSTEM, get, kubectl, kubectl_in, until};
use crate::table::{Outcome, report};

const KUBELET: Component = Component("kubelet");
/// After how long the operator gives up pods here.
const LOST_AFTER: &str = "3s";

/// Who says that the node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The test, in place of the node controller.
    AtOnce,
    /// The node controller itself, when the kubelet's lease is old enough.
    ByTheNodeController,
}

/// The operator of the site, with less patience, until this is dropped.
struct Hasty<'a>(&'a Site, Option<Operator>);

impl<'a> Hasty<'a> {
    fn new(site: &'a Site) -> Self {
        site.operator.kill();
        let start = site.start.clone().with("--node-lost-after", LOST_AFTER);
        Self(site, Some(Operator::new(start, "asynctask-operator-faults")))
    }
}

impl Drop for Hasty<'_> {
    fn drop(&mut self) {
        drop(self.1.take());
        self.0.operator.start();
    }
}

/// The ledger answers again, also when the test fails.
struct Waiting<'a>(&'a Site);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.ledger.release();
    }
}

fn lost(said: Said, name: &str) {
    let site = site();
    let scenario = Scenario::read("zombie", site);
    let ns = Namespace::new("zombie");
    site.proxy.watch(&ns.name, None);
    site.ledger.hold(&ns.name, "one work 1 half way");
    let waiting = Waiting(site);
    scenario.begin(&ns);
    until("the program is half way", || (site.ledger.lines(&ns.name).len() == 2).then_some(()));
    let agents = site.runtime.block_on(StandIn::new(&ns));
    let zombie = site.runtime.block_on(async {
        let pod = agents.running("work").await.remove(0);
        agents.play(&pod).await.unwrap()
    });
    let node = ns.get("pod", &zombie.name)["spec"]["nodeName"].as_str().unwrap().to_owned();
    let mut refused = Vec::new();

    let hasty = Hasty::new(site);
    let (frozen, began) = (KUBELET.freeze(), Instant::now());
    if said == Said::AtOnce {
        say_lost(&node);
    }
    until("the pod on the lost node is given up", || given_up(&ns, &zombie).then_some(()));
    println!("given up {:?} after the kubelet froze", began.elapsed());
    // Its replacement may wait for the node; whoever gives up pods must not find it there when the node comes back.
    drop(hasty);
    drop(waiting);
    refused.push(wants_to_commit(site, &agents, &zombie));
    drop(frozen);
    until("the node is heard of again", || ready(&node).then_some(()));
    refused.push(wants_to_commit(site, &agents, &zombie));
    scenario.end(&ns);
    refused.push(wants_to_commit(site, &agents, &zombie));

    report("R09", name, &[Outcome::at(LOST_AFTER, against(&ns, site, &zombie, &refused))]);
}

fn against(ns: &Namespace, site: &Site, zombie: &Played, refused: &[u16]) -> [Option<String>; 5] {
    let differ = |what: String, same: bool| (!same).then_some(what);
    let end = End::of(ns, site);
    let runs = end.ledger.get("one work 1").copied().unwrap_or_default();
    let all_refused = refused.iter().all(|status| matches!(status, 401 | 409));
    let ledger = differ(format!("{runs} runs of two; the zombie was told {refused:?}"), runs == 2 && all_refused);
    let status = ns.status("one");
    let step = &status["steps"][0];
    let counted = step["attempt"] == 1 && step["counted"].is_null();
    let objects = differ(format!("the lost pod counts: {step}"), counted);
    let audit = differ(format!("{:?}", end.changes), end.changes.get("create jobs") == Some(&1));
    let keys = site.runtime.block_on(all_keys(&ns.name, site));
    let commits: Vec<_> = keys.iter().filter(|key| key.ends_with("/commit")).collect();
    let report = keys.iter().find(|key| key.contains("/files/report/") && !key.contains(&zombie.uid));
    let content = report.map(|key| site.runtime.block_on(site.store.get_bytes(key, RECORD_MAX)).unwrap());
    let whole = content.as_deref() == Some(b"whole\n".as_slice());
    let strays: Vec<_> = end.strays.iter().filter(|key| !key.contains(&zombie.uid)).collect();
    let one = commits.len() == 1 && !commits[0].contains(&zombie.uid);
    let bytes = differ(
        format!("commits {commits:?}, content {content:?}, strays {strays:?}"),
        one && whole && strays.is_empty(),
    );
    let [_, leaked] = end.judge_bytes();
    [ledger, objects, audit, bytes, leaked]
}

/// What the gateway tells a program on the lost node that has done its work.
fn wants_to_commit(site: &Site, agents: &StandIn, zombie: &Played) -> u16 {
    let commit = json!({"files": []});
    let path = asynctask_operator::contract::wire::path::COMMIT;
    let (status, said) = site.runtime.block_on(agents.call(zombie, Method::POST, path, &commit));
    println!("the zombie is told {status}: {}", said["detail"]);
    status
}

/// The pod is gone, or is as far as the API server lets it.
fn given_up(ns: &Namespace, zombie: &Played) -> bool {
    let pod = ns.get("pod", &zombie.name);
    pod["metadata"]["uid"] != zombie.uid.as_str() || pod["metadata"]["deletionGracePeriodSeconds"] == 0
}

fn condition(node: &str) -> Value {
    let node = get(&["node", node]);
    let conditions = node["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == "Ready").unwrap().clone()
}

fn ready(node: &str) -> bool {
    condition(node)["status"] == "True"
}

/// As the node controller has it when a kubelet has not been heard of for too long.
fn say_lost(node: &str) {
    let unknown = json!({"status": {"conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": jiff::Timestamp::now(),
    }]}});
    let patch = unknown.to_string();
    kubectl(&["patch", "node", node, "--subresource=status", "--type=strategic", "-p", &patch]).ok();
    assert!(!ready(node));
}

#[test]
fn r09_a_pod_on_a_node_that_is_said_to_be_lost_is_replaced_and_its_commit_refused() {
    lost(Said::AtOnce, "node lost, as said by the test");
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r09_a_pod_on_a_node_that_the_cluster_loses_is_replaced_and_its_commit_refused() {
    lost(Said::ByTheNodeController, "kubelet frozen until the node is lost");
}

#[test]
fn the_operator_may_give_up_pods_of_steps_and_no_others() {
    let site = site();
    let operator = format!("system:serviceaccount:{SYSTEM}:asynctask-operator");
    let may = |verb: &str, what: &str| {
        // What follows a slash would be a name.
        let (resource, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        let said = kubectl(&["auth", "can-i", verb, resource, &part, "--all-namespaces", "--as", &operator]);
        said.out.trim() == "yes"
    };
    for (verb, what) in
        [("list", "nodes"), ("watch", "nodes"), ("list", "pods"), ("patch", "pods/status"), ("delete", "pods")]
    {
        assert!(may(verb, what), "the operator may not {verb} {what}");
    }
    for (verb, what) in [("patch", "pods"), ("update", "pods/status"), ("patch", "nodes"), ("deletecollection", "pods")]
    {
        assert!(!may(verb, what), "the operator may {verb} {what}");
    }

    let ns = Namespace::new("rights");
    site.proxy.watch(&ns.name, None);
    Scenario::read("slow", site).begin(&ns);
    let ours = until("the pod of the step is there", || {
        let pods = get(&["-n", &ns.name, "pods", "-l", "asynctask.dev/step=work"]);
        pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned)
    });
    kubectl_in(&["-n", &ns.name, "create"], &stranger()).ok();
    site.runtime.block_on(async {
        let pods = pods_as(&operator, &ns.name).await;
        let lost = Patch::Strategic(json!({"status": {"reason": "NodeLost"}}));
        let (patch, delete) =
            (PatchParams { dry_run: true, ..PatchParams::default() }, DeleteParams::default().dry_run());
        pods.patch_status(&ours, &patch, &lost).await.unwrap();
        pods.delete(&ours, &delete).await.unwrap();
        let marked = pods.patch_status("stranger", &patch, &lost).await.map(drop);
        for said in [marked, pods.delete("stranger", &delete).await.map(drop)] {
            let said = said.unwrap_err().to_string();
            assert!(said.contains("gives up pods of steps only"), "{said}");
        }
    });
}

/// A pod of somebody else's.
fn stranger() -> String {
    let secure = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let spec = json!({
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "image": "localhost/stranger:0", "imagePullPolicy": "Never", "securityContext": secure}],
    });
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec}).to_string()
}
