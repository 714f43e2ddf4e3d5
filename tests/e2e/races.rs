//! Requests to cancel, raced against the entry of the guarded stage: real gateway, operator and API server. The pods are
//! on fake nodes, and the test speaks for each with a token of that very pod.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use asynctask_operator::api::AsyncTask;
use asynctask_operator::contract::env::TOKEN_AUDIENCE;
use asynctask_operator::contract::wire::{CANCELED, path};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use reqwest::{Certificate, Method};
use serde_json::{Value, json};

use crate::support::{Namespace, audit, by_account, gateway_address, gateway_ca, gateway_url, get, steps, task, until};

/// Runs that are there at a time.
const TOGETHER: usize = 50;
/// Races at a time.
const AT_A_TIME: usize = 4;

/// How many races are run. `make e2e SUITE=scale` asks for more than the short form.
fn size() -> usize {
    std::env::var("SCALE_RACES").map_or(40, |text| text.parse().unwrap())
}

/// What the gateway said to a program that wanted to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Entered,
    Refused,
}

/// A run whose pod is there.
struct Run {
    name: String,
    pod: String,
    pod_uid: String,
}

/// Both ends of a race: the API server that takes the request to cancel, and the gateway that lets programs in.
struct Track {
    client: Client,
    gateway: reqwest::Client,
    namespace: String,
    /// Microseconds between the two starts at which either may be first: moved after each race.
    aim: AtomicU64,
}

impl Track {
    async fn new(ns: &Namespace) -> Self {
        let (host, ip) = gateway_address().split_once(":443:").unwrap();
        let address: SocketAddr = format!("{ip}:443").parse().unwrap();
        let roots = Certificate::from_pem_bundle(&std::fs::read(gateway_ca()).unwrap()).unwrap();
        let gateway = reqwest::Client::builder().tls_certs_only(roots).no_proxy().resolve(host, address);
        let client = Client::try_default().await.unwrap();
        Self { client, gateway: gateway.build().unwrap(), namespace: ns.name.clone(), aim: AtomicU64::new(50_000) }
    }

    /// A token of this pod, as the kubelet asks for it.
    async fn token(&self, run: &Run) -> String {
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": run.pod, "uid": run.pod_uid});
        let request = json!({"spec": {"audiences": [TOKEN_AUDIENCE], "boundObjectRef": bound}});
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let made = accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token
    }

    /// Status and body of a call as the agent makes it.
    async fn call(&self, method: Method, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", gateway_url());
        let answer = self.gateway.request(method, url).bearer_auth(token).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Wants to enter until there is a yes or a no.
    async fn enter(&self, token: &str) -> Answer {
        loop {
            let (status, said) = self.call(Method::POST, path::STAGE, token, &json!({"stage": "Updating"})).await;
            match (status, said["title"].as_str().unwrap_or_default()) {
                (204, _) => return Answer::Entered,
                // The second and the third: its Job, or it itself, is gone.
                (409, CANCELED | "Superseded") | (401, _) => return Answer::Refused,
                (503, _) => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{status}: {said:#}"),
            }
        }
    }

    async fn cancel(&self, run: &Run) {
        let tasks = Api::<AsyncTask>::namespaced(self.client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        tasks.patch(&run.name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn race(&self, run: &Run) -> Answer {
        let token = self.token(run).await;
        let (status, said) = self.call(Method::GET, path::ASSIGNMENT, &token, &Value::Null).await;
        assert_eq!((status, &said["verdict"]), (200, &"Run".into()), "{}: {said:#}", run.name);
        let aim = self.aim.load(Ordering::Relaxed);
        let jitter = RandomState::new().hash_one(&run.name) % (2 * aim + 1);
        let cancel = async {
            tokio::time::sleep(Duration::from_micros(jitter)).await;
            self.cancel(run).await;
        };
        let (answer, ()) = tokio::join!(self.enter(&token), cancel);
        let closer = |aim| Some(if answer == Answer::Entered { aim * 4 / 5 } else { aim * 5 / 4 + 100 });
        let _ = self.aim.fetch_update(Ordering::Relaxed, Ordering::Relaxed, closer);
        answer
    }
}

/// A definition whose pods are on fake nodes, where they stay.
fn guarded() -> String {
    let more = "  cancellation: {allowed: UntilStage, stage: Updating}";
    let place = "    template:\n      metadata: {labels: {stays: \"yes\"}}\n      spec:\n        nodeSelector: {type: kwok}\n        \
                 tolerations: [{key: kwok.x-k8s.io/node, operator: Exists}]\n";
    let definition = steps("guarded", more, &[("work", "true", "stages: [Reading, Updating]")]);
    definition.replacen("    template:\n      spec:\n", place, 1)
}

fn listed(ns: &Namespace, kind: &str) -> Vec<Value> {
    get(&["-n", &ns.name, kind])["items"].as_array().cloned().unwrap_or_default()
}

fn of_task(object: &Value) -> &str {
    object["metadata"]["labels"]["asynctask.dev/task"].as_str().unwrap_or_default()
}

/// Starts runs and waits until each is in progress and has its pod.
fn started(ns: &Namespace, names: &[String]) -> Vec<Run> {
    ns.create(&names.iter().map(|name| task(name, "guarded")).collect::<Vec<_>>().join("\n---\n"));
    until("all runs work", || {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let pods = listed(ns, "pods");
        let works = |pod: &&Value| pod["status"]["phase"] == "Running" && names.iter().any(|name| name == of_task(pod));
        let run = |pod: &Value| Run {
            name: of_task(pod).to_owned(),
            pod: text(&pod["metadata"]["name"]),
            pod_uid: text(&pod["metadata"]["uid"]),
        };
        let runs: Vec<Run> = pods.iter().filter(works).map(run).collect();
        let written = listed(ns, "asynctasks").iter().filter(|task| task["status"]["state"] == "InProgress").count();
        (runs.len() == names.len() && written == names.len()).then_some(runs)
    })
}

fn named<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    objects.iter().find(|object| object["metadata"]["name"] == name).unwrap()
}

fn condition<'a>(task: &'a Value, kind: &str) -> Option<&'a Value> {
    task["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whoever entered is told that it cannot be now, and nothing is done to it.
fn goes_on_inside(ns: &Namespace, entered: &[&Run]) {
    let latched = |task: &Value| condition(task, "CancelRequested").is_some_and(|said| said["reason"] == "NotNow");
    let tasks = until("each request is answered", || {
        let tasks = listed(ns, "asynctasks");
        entered.iter().all(|run| latched(named(&tasks, &run.name))).then_some(tasks)
    });
    let (jobs, pods) = (listed(ns, "jobs"), listed(ns, "pods"));
    for run in entered {
        let task = named(&tasks, &run.name);
        let (state, step) = (&task["status"]["state"], &task["status"]["steps"][0]);
        assert_eq!((state, &step["state"]), (&"InProgress".into(), &"Running".into()), "{task:#}");
        let pod = named(&pods, &run.pod);
        assert_eq!((&pod["metadata"]["uid"], &pod["status"]["phase"]), (&json!(run.pod_uid), &"Running".into()));
        let job = jobs.iter().find(|job| of_task(job) == run.name).unwrap();
        for object in [job, pod] {
            assert_eq!(object["metadata"]["deletionTimestamp"], Value::Null, "{object:#}");
        }
    }
}

/// States a run went through.
fn states(task: &Value) -> Vec<&str> {
    let moves = task["status"]["transitions"].as_array().unwrap().iter().filter(|t| t["from"] != t["to"]);
    moves.map(|t| t["to"].as_str().unwrap()).collect()
}

/// How each ended: inside only by itself, else cancelled and with no pod.
fn ended(ns: &Namespace, races: &[(Run, Answer)]) {
    let over = |task: &&Value| condition(task, "Finished").is_some_and(|said| said["status"] == "True");
    let tasks = until("all are over", || {
        let tasks = listed(ns, "asynctasks");
        (tasks.iter().filter(over).count() == tasks.len()).then_some(tasks)
    });
    let (jobs, pods) = (listed(ns, "jobs"), listed(ns, "pods"));
    for (run, answer) in races {
        let task = named(&tasks, &run.name);
        let (status, step) = (&task["status"], &task["status"]["steps"][0]);
        match answer {
            Answer::Entered => {
                assert_eq!((&step["stage"], &step["guarded"]), (&"Updating".into(), &true.into()), "{task:#}");
                // No agent runs on a fake node, so nothing was committed when the pod ended.
                assert_eq!(
                    (states(task), &status["reason"]),
                    (vec!["InProgress", "Failed"], &"OutputNotCommitted".into())
                );
            }
            Answer::Refused => {
                assert_eq!((&step["stage"], &step["guarded"]), (&Value::Null, &Value::Null), "{task:#}");
                assert_eq!(states(task), ["InProgress", "Canceling", "Canceled"], "{task:#}");
                assert!(
                    !jobs.iter().chain(&pods).any(|object| of_task(object) == run.name),
                    "{}: something is left",
                    run.name
                );
            }
        }
    }
}

/// What the API server wrote down of them: who entered did so on a version that nobody had asked to end, and only the
/// Jobs of the others were deleted.
fn written_down(ns: &Namespace, races: &[(Run, Answer)]) {
    let lines = audit(&ns.name);
    let of = |account: &str, verb: &str, run: &Run| -> Vec<&Value> {
        let same = |name: &str| name == run.name || name.starts_with(&format!("{}-", run.name));
        let lines = lines.iter().filter(|line| line["verb"] == verb && by_account(line, account));
        lines.filter(|line| line["objectRef"]["name"].as_str().is_some_and(same)).collect()
    };
    for (run, answer) in races {
        let entries = of("asynctask-gateway", "patch", run);
        let deleted = of("asynctask-operator", "delete", run);
        let cancel: Vec<&Value> = entries.iter().map(|line| &line["responseObject"]["spec"]["cancel"]).collect();
        match answer {
            Answer::Entered => assert_eq!((cancel, deleted.len()), (vec![&Value::Null], 0), "{}", run.name),
            Answer::Refused => assert_eq!((cancel, deleted.len()), (vec![], 1), "{}", run.name),
        }
    }
}

#[test]
fn a_run_is_cancelled_before_its_guarded_stage_or_not_inside_it() {
    let ns = Namespace::new("races");
    ns.define("guarded", &guarded());
    // Of several that are there somebody may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let track = runtime.block_on(Track::new(&ns));
    let (mut entered, mut refused) = (0, 0);
    let names: Vec<String> = (0..size()).map(|n| format!("r{n:03}")).collect();
    for names in names.chunks(TOGETHER) {
        let runs = started(&ns, names);
        let race = async |run: Run| {
            let answer = track.race(&run).await;
            (run, answer)
        };
        let races: Vec<(Run, Answer)> =
            runtime.block_on(stream::iter(runs).map(race).buffer_unordered(AT_A_TIME).collect());
        let inside: Vec<&Run> =
            races.iter().filter(|(_, answer)| *answer == Answer::Entered).map(|(run, _)| run).collect();
        goes_on_inside(&ns, &inside);
        // Only these: pods of runs that were cancelled go meanwhile.
        let pods: Vec<&str> = inside.iter().map(|run| run.pod.as_str()).collect();
        if !pods.is_empty() {
            ns.kubectl(&[&["label", "pods"], pods.as_slice(), &["stays-"]].concat()).ok();
        }
        ended(&ns, &races);
        written_down(&ns, &races);
        (entered, refused) = (entered + inside.len(), refused + races.len() - inside.len());
        ns.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]).ok();
        until("they are gone", || listed(&ns, "asynctasks").is_empty().then_some(()));
    }
    println!("{} races: {entered} entered first, {refused} were cancelled first", entered + refused);
    assert!(entered > 0 && refused > 0, "{entered} entered, {refused} were cancelled: that is no race");
}
