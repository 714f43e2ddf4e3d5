//! A run that is deleted in each of its phases and in each way, while its store is away; then all with their namespace.

use asynctask_operator::storage::s3::{Keys, S3Options, S3Store};
use asynctask_operator::storage::{Layout, ObjectStore};

use crate::away::gated;
use crate::stores::{access_key, secret_key};
use crate::support::{Namespace, get, kubectl, script, task, until};

const STORE: &str = "deletion";
/// What becomes of the dependents of an object that is deleted, as far as whoever deletes it says.
const WAYS: [&str; 3] = ["foreground", "background", "orphan"];
/// Definition, and the state in which its run is deleted.
const PHASES: [(&str, &str); 5] = [
    ("waits", "Pending"),
    ("sleeps", "InProgress"),
    ("lingers", "Canceling"),
    ("works", "Complete"),
    ("breaks", "Failed"),
];

fn define(ns: &Namespace) {
    let outputs = format!("  store: {STORE}\n  outputs: [{{name: report, step: work, path: report.txt}}]");
    let writes = "echo kept > $ASYNCTASK_OUTPUTS/report.txt";
    for (name, shell) in [
        ("waits", writes),
        ("sleeps", "$ASYNCTASK_AGENT stage First; exec sleep 300"),
        ("lingers", "trap '' TERM; $ASYNCTASK_AGENT stage First; sleep 300 & wait; wait"),
        ("works", writes),
        ("breaks", "exit 1"),
    ] {
        ns.define(name, &script(name, shell, &outputs));
    }
}

/// Starts a run of each definition, and waits until it is where it is to be deleted.
fn begin(ns: &Namespace, way: &str) -> Vec<String> {
    let name = |definition: &str| format!("{definition}-{way}");
    for (definition, _) in PHASES {
        let held = "name: waits}, suspend: true";
        ns.apply(&task(&name(definition), definition).replace("name: waits}", held)).ok();
    }
    let runs = |definition: &str| {
        let run = name(definition);
        until(&format!("{run} runs"), || (ns.status(&run)["steps"][0]["stage"] == "First").then_some(()));
    };
    runs("sleeps");
    runs("lingers");
    ns.kubectl(&["patch", "asynctask", &name("lingers"), "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).ok();
    for (definition, state) in PHASES {
        let run = name(definition);
        until(&format!("{run} is {state}"), || (ns.status(&run)["state"] == state).then_some(()));
    }
    PHASES.iter().map(|(definition, _)| name(definition)).collect()
}

/// Keys of a namespace that belong to runs: their history stays, and that they were deleted.
fn keys(namespace: &str) -> Vec<String> {
    let spec = get(&["outputstore", "seaweed"])["spec"]["s3"].clone();
    let store = S3Store::new(S3Options {
        endpoint: spec["endpoint"].as_str().map(str::to_owned),
        public_endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: spec["bucket"].as_str().unwrap().to_owned(),
        path_style: true,
        keys: Some(Keys::new(access_key(), secret_key())),
        ca_bundle: None,
        encryption: None,
        signs: true,
    });
    let layout = Layout::new(&format!("e2e-{STORE}/{namespace}")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let page = runtime.block_on(store.unwrap().list(layout.root(), None, 1000)).unwrap();
    let keys = page.objects.into_iter().map(|meta| meta.key);
    keys.filter(|key| !key.contains("/_history/") && !key.contains("/_gone/")).collect()
}

fn left(ns: &Namespace) -> usize {
    let count = |kind| get(&["-n", &ns.name, kind])["items"].as_array().map_or(0, Vec::len);
    ["asynctasks", "jobs", "pods", "leases"].map(count).iter().sum()
}

#[test]
fn whatever_a_run_is_doing_when_it_is_deleted_nothing_is_left_of_it() {
    let gate = gated(STORE);
    let ns = Namespace::new("deletion");
    define(&ns);
    let doomed: Vec<(&str, Vec<String>)> = WAYS.iter().map(|way| (*way, begin(&ns, way))).collect();
    assert!(keys(&ns.name).len() >= 9, "results and logs: {:?}", keys(&ns.name));
    gate.close();
    for (way, runs) in &doomed {
        for run in runs {
            ns.kubectl(&["delete", "asynctask", run, "--wait=false", &format!("--cascade={way}")]).ok();
        }
    }
    gate.stay_closed("deletions", WAYS.len() * PHASES.len(), || {
        for run in WAYS.iter().flat_map(|way| ["works", "breaks"].map(|phase| format!("{phase}-{way}"))) {
            assert!(!ns.get("asynctask", &run).is_null(), "{run} is gone, and its keys are not");
        }
    });
    for run in doomed.iter().flat_map(|(_, runs)| runs) {
        ns.wait("delete", &format!("asynctask/{run}"), 180);
    }
    until("no Job, pod or Lease is left", || (left(&ns) == 0).then_some(()));
    assert_eq!(keys(&ns.name), Vec::<String>::new());

    begin(&ns, "with-all");
    assert!(!keys(&ns.name).is_empty());
    // The namespace controller asks for every kind of the cluster, several times over: on a busy machine that takes minutes.
    kubectl(&["delete", "namespace", &ns.name, "--timeout=600s"]).ok();
    assert_eq!(keys(&ns.name), Vec::<String>::new(), "with the namespace");
    kubectl(&["delete", "outputstore", STORE, "--timeout=60s"]).ok();
}

#[test]
fn outputs_in_a_store_that_is_gone_for_good_can_be_abandoned_by_an_administrator() {
    let gate = gated("lost");
    let ns = Namespace::new("lost");
    let outputs = "  store: lost\n  outputs: [{name: report, step: work, path: report.txt}]";
    ns.define("works", &script("works", "echo kept > $ASYNCTASK_OUTPUTS/report.txt", outputs));
    ns.apply(&task("t", "works")).ok();
    assert_eq!(ns.finished("t")["state"], "Complete");
    gate.close();
    ns.kubectl(&["delete", "asynctask", "t", "--wait=false"]).ok();
    let stalled = until("the operator says what holds it", || {
        let status = ns.status("t");
        let stalled =
            status["conditions"].as_array()?.iter().find(|it| it["type"] == "Stalled" && it["status"] == "True")?;
        Some(stalled["message"].as_str()?.to_owned())
    });
    println!("{stalled}");
    let abandon = ["annotate", "asynctask", "t", "asynctask.dev/abandon-outputs=lost"];
    let editor = ns.person("editor", Some("admin"));
    let refused = editor.kubectl(&[&["-n", ns.name.as_str()], &abandon[..]].concat(), None).refused();
    assert!(refused.contains("the verb `abandon` on asynctasks/outputs"), "{refused}");
    assert!(stalled.contains(&abandon[3..].join(" ")), "the message says how: {stalled}");
    ns.kubectl(&abandon).ok();
    ns.wait("delete", "asynctask/t", 60);
    kubectl(&["delete", "outputstore", "lost", "--timeout=60s"]).ok();
}
