//! R08, R10: fan-outs on fake nodes. The test speaks for the agent of each pod, and the Job controller is the real one:
//! it is killed in the midst of its work, or makes one pod too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use asynctask_operator::storage::ObjectStore;
use asynctask_operator::storage::records::{Manifest, ManifestPage, RECORD_MAX, SealedShard, decode};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::Value;

use crate::component::Component;
use crate::oracle::{End, all_keys};
use crate::site::{Site, site};
use crate::stand_in::{Played, StandIn, pods_as};
use crate::support::{Namespace, evidence, get, steps, task, until};
use crate::table::{Outcome, report};

const CONTROLLER_MANAGER: Component = Component("controller-manager");
/// Agents played at a time.
const AT_A_TIME: usize = 16;
/// One shard of so many fails for good.
const HOPELESS: u32 = 10;
/// The code they end with.
const GIVES_UP: i32 = 70;
/// How long the Job controller may take to let go of pods that have ended.
const LETTING_GO: Duration = Duration::from_secs(30);
const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// A fan-out whose pods are on fake nodes, where they stay until somebody says that they have ended.
fn spread(shards: u32, outputs: &str) -> String {
    let more = format!("  store: faulty\n  retention: {{pods: 1h}}{outputs}");
    let said = format!(
        "fanOut: {{shards: {shards}, parallelism: 40, tolerate: {{failedShards: {shards}}}}}, \
         retry: {{limit: 3, rules: [{{exitCodes: [\"{GIVES_UP}\"], action: Fail}}]}}"
    );
    let place = "    template:\n      metadata: {labels: {stays: \"yes\"}}\n      spec:\n        nodeSelector: {type: kwok}\n        \
                 tolerations: [{key: kwok.x-k8s.io/node, operator: Exists}]\n";
    steps("spread", &more, &[("spread", "true", &said)]).replacen("    template:\n      spec:\n", place, 1)
}

/// A run of it.
fn begun(topic: &str, shards: u32, outputs: &str, site: &Site) -> (Namespace, StandIn) {
    let ns = Namespace::new(topic);
    site.proxy.watch(&ns.name, None);
    ns.define("spread", &spread(shards, outputs));
    let agents = site.runtime.block_on(StandIn::new(&ns));
    ns.apply(&task("run", "spread")).ok();
    (ns, agents)
}

fn step(ns: &Namespace) -> Value {
    ns.status("run")["steps"][0].clone()
}

/// What the played programs did: shard → how often one was told to run.
type Ran = Mutex<BTreeMap<u32, usize>>;

/// Plays the agent of each pod until the run is over.
async fn play_all(agents: &StandIn, ran: &Ran, over: impl Fn() -> bool) {
    let mut seen = BTreeSet::new();
    while !over() {
        let pods = agents.running("spread").await;
        let new: Vec<Pod> = pods.into_iter().filter(|pod| seen.insert(pod.uid())).collect();
        stream::iter(new).for_each_concurrent(AT_A_TIME, |pod| async move { play(agents, ran, &pod).await }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn play(agents: &StandIn, ran: &Ran, pod: &Pod) {
    let Some(pod) = agents.play(pod).await else { return };
    if agents.verdict(&pod).await != "Run" {
        return agents.end(&pod, 0).await;
    }
    *ran.lock().unwrap_or_else(PoisonError::into_inner).entry(pod.shard).or_default() += 1;
    let hopeless = pod.shard % HOPELESS == 3;
    let (status, said) =
        if hopeless { agents.fail(&pod, GIVES_UP).await } else { agents.commit(&pod, Vec::new()).await };
    // The Job controller took the pod away meanwhile: another one does it.
    assert!(matches!(status, 204 | 401 | 409), "shard {}: {status} {said:#}", pod.shard);
    agents.end(&pod, if hopeless { GIVES_UP } else { 0 }).await;
}

/// Shards of the Job that are done, one way or the other, by its own status.
fn done(job: &Value) -> usize {
    let status = &job["status"];
    let succeeded = status["succeeded"].as_u64().unwrap_or_default();
    usize::try_from(succeeded).unwrap() + intervals(status["failedIndexes"].as_str().unwrap_or_default())
}

/// How many numbers are in `3,7-9`.
fn intervals(text: &str) -> usize {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let count = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        to.parse::<usize>().unwrap() - from.parse::<usize>().unwrap() + 1
    };
    parts.map(count).sum()
}

fn job(ns: &Namespace) -> Value {
    get(&["-n", &ns.name, "jobs", "-l", "asynctask.dev/step=spread"])["items"][0].clone()
}

/// Kills the Job controller each time a part of the shards is done; how far the Job was then.
fn kill_in_between(ns: &Namespace, shards: usize, kills: usize) -> Vec<usize> {
    let mut struck = Vec::new();
    for part in 1..=kills {
        let far = until(&format!("the next part of the shards of {} is done", ns.name), || {
            let far = done(&job(ns));
            (far >= shards * part / (kills + 1)).then_some(far)
        });
        CONTROLLER_MANAGER.kill();
        // Pods end meanwhile, and nobody counts them.
        std::thread::sleep(Duration::from_secs(1));
        CONTROLLER_MANAGER.restart();
        struck.push(far);
    }
    struck
}

fn killed(shards: u32, kills: usize) {
    let site = site();
    let (ns, agents) = begun("counted", shards, "", site);
    let (ran, began) = (Ran::default(), Instant::now());
    let struck = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_in_between(&ns, shards as usize, kills));
        let over = || step(&ns)["finishTime"].is_string() || began.elapsed() > Duration::from_secs(900);
        site.runtime.block_on(play_all(&agents, &ran, over));
        killer.join().unwrap()
    });
    let status = ns.finished("run");
    println!("{shards} shards in {:?}, killed when {struck:?} were done", began.elapsed());
    assert!(struck.iter().all(|far| *far < shards as usize), "it was over before: {struck:?}");
    let against = counted(&ns, shards, &status, &ran, site);
    report(
        "R08",
        &format!("controller-manager killed {kills} ×"),
        &[Outcome::at(&format!("{shards} shards"), against)],
    );
}

/// What the oracles have against a fan-out that is over.
fn counted(ns: &Namespace, shards: u32, status: &Value, ran: &Ran, site: &Site) -> [Option<String>; 5] {
    let differ = |what: String, same: bool| (!same).then_some(what);
    let failed = (0..shards).filter(|shard| shard % HOPELESS == 3).count() as u64;
    let wanted = (u64::from(shards), 0, u64::from(shards) - failed, failed);
    // O1: each ran, and none twice.
    let ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
    let once = ran.len() == shards as usize && ran.values().all(|times| *times == 1);
    let twice: Vec<_> = ran.iter().filter(|(_, times)| **times != 1).collect();
    let ledger = differ(format!("{} of {shards} ran; not once: {twice:?}", ran.len()), once);
    // O2: Job, status and sealed result say the same, and nothing holds a pod.
    let said = &status["steps"][0]["shards"];
    let number = |field: &str| said[field].as_u64().unwrap_or_default();
    let said = (number("total"), number("active"), number("succeeded"), number("failed"));
    let of_job = done(&job(ns));
    let pages = site.runtime.block_on(sealed(status, ns, site));
    let gave = pages.iter().filter(|shard| shard.failure.is_none()).count() as u64;
    let held = held_pods(ns);
    let same = said == wanted && of_job == shards as usize && (pages.len() as u64, gave) == (wanted.0, wanted.2);
    let objects = differ(
        format!(
            "status {said:?}, not {wanted:?}; Job {of_job}; sealed {}, {gave} gave a result; held: {held:?}",
            pages.len()
        ),
        same && held.is_empty(),
    );
    // O3: one Job, and a pod a shard.
    let end = End::of(ns, site);
    let made = |kind: &str| end.changes.get(kind).copied().unwrap_or_default();
    let (jobs, pods) = (made("create jobs"), made("create pods"));
    let audit = differ(format!("{jobs} Jobs and {pods} pods made"), (jobs, pods) == (1, shards as usize));
    let [bytes, leaked] = end.judge_bytes();
    [ledger, objects, audit, bytes, leaked]
}

/// Pods that have ended and that the Job controller still holds, once it has had time to let go.
fn held_pods(ns: &Namespace) -> Vec<String> {
    let began = Instant::now();
    loop {
        let pods = get(&["-n", &ns.name, "pods"]);
        let holds = |pod: &&Value| pod["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        let held: Vec<String> = pods["items"].as_array().unwrap().iter().filter(holds).map(name).collect();
        if held.is_empty() {
            return held;
        }
        if began.elapsed() > LETTING_GO {
            evidence::show(&format!("not after {LETTING_GO:?}: the Job controller lets go of all pods of {}", ns.name));
            return held;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Every shard of the sealed result of the first step, in their order.
pub(crate) async fn sealed(status: &Value, ns: &Namespace, site: &Site) -> Vec<SealedShard> {
    let sealed = status["steps"][0]["manifest"].as_str().unwrap();
    let keys = all_keys(&ns.name, site).await;
    let read = async |digest: &str| {
        let name = format!("/manifest-{digest}");
        let key = keys.iter().find(|key| key.ends_with(&name)).unwrap_or_else(|| panic!("no {name} in {keys:?}"));
        site.store.get_bytes(key, RECORD_MAX).await.unwrap()
    };
    let manifest = Manifest::open(&read(sealed).await, sealed.parse().unwrap()).unwrap();
    let mut shards = Vec::new();
    for page in manifest.pages {
        shards.extend(decode::<ManifestPage>(&read(&page.sha256.to_string()).await).unwrap().shards);
    }
    shards
}

#[test]
fn r08_a_killed_job_controller_loses_no_shard_and_counts_none_twice() {
    killed(100, 2);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn r08_a_job_controller_killed_five_times_in_a_thousand_shards() {
    killed(1000, 5);
}

/// The Job controller's own account: nobody else may make such a pod.
const JOB_CONTROLLER: &str = "system:serviceaccount:kube-system:job-controller";

/// Another live pod for the shard of this one.
async fn twin(of: &Pod, name: &str, pods: &Api<Pod>) -> Pod {
    let mut twin = Pod { status: None, ..of.clone() };
    let (metadata, spec) = (&mut twin.metadata, twin.spec.as_mut().unwrap());
    metadata.name = Some(name.to_owned());
    metadata.generate_name = None;
    (metadata.uid, metadata.resource_version, metadata.creation_timestamp) = (None, None, None);
    metadata.managed_fields = None;
    assert!(metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|one| one == TRACKING)), "as the Job's own");
    spec.node_name = None;
    pods.create(&PostParams::default(), &twin).await.unwrap()
}

#[test]
fn r10_of_two_live_pods_of_a_shard_that_both_commit_one_counts() {
    let site = site();
    let outputs = "\n  outputs: [{name: part, step: spread, path: part.txt}]";
    let (ns, agents) = begun("twins", 3, outputs, site);
    until("all pods run", || (site.runtime.block_on(agents.running("spread")).len() == 3).then_some(()));
    // It would take the second one away.
    let frozen = CONTROLLER_MANAGER.freeze();
    let (told, late) = site.runtime.block_on(both_commit(&ns, &agents));
    drop(frozen);
    let status = ns.finished("run");

    let shards = site.runtime.block_on(sealed(&status, &ns, site));
    let files: Vec<usize> = shards.iter().map(|shard| shard.files.len()).collect();
    let winner = told.iter().map(|pod| pod.uid.as_str()).min().unwrap();
    let key = &shards[1].files[0].key;
    let bytes = site.runtime.block_on(site.store.get_bytes(key, RECORD_MAX)).unwrap();
    let content = String::from_utf8(bytes.to_vec()).unwrap();
    let differ = |what: String, same: bool| (!same).then_some(what);
    let ledger = differ(format!("the later pod was told {late}"), late == "AlreadyCommitted");
    let one = files == [1, 1, 1] && shards[1].pod_uid == winner && content == format!("of {winner}");
    let counted = status["outputs"][0]["files"] == 3 && status["state"] == "Complete";
    let objects = differ(format!("{files:?} files, {content:?} of {}: {status:#}", shards[1].pod_uid), one && counted);
    // The bytes of the other pod go with the task.
    let end = End::of(&ns, site);
    let strays: Vec<_> = end.strays.iter().filter(|key| !told.iter().any(|pod| key.contains(&pod.uid))).collect();
    let bytes = differ(format!("strays: {strays:?}"), strays.is_empty() && end.strays.len() == 1);
    let [_, leaked] = end.judge_bytes();
    report(
        "R10",
        "two live pods of a shard commit",
        &[Outcome::at("one shard of 3", [ledger, objects, None, bytes, leaked])],
    );
}

/// The two pods that committed for shard 1, and what a third one was told.
async fn both_commit(ns: &Namespace, agents: &StandIn) -> (Vec<Played>, String) {
    let pods = agents.running("spread").await;
    let controller = pods_as(JOB_CONTROLLER, &ns.name).await;
    let mut played = Vec::new();
    for pod in &pods {
        played.push(agents.play(pod).await.unwrap());
    }
    let at = played.iter().position(|pod| pod.shard == 1).unwrap();
    let second = agents.play(&twin(&pods[at], "twin", &controller).await).await.unwrap();
    let both = vec![played[at].clone(), second];
    for pod in &both {
        assert_eq!(agents.verdict(pod).await, "Run", "{}", pod.name);
    }
    played.retain(|pod| pod.shard != 1);
    for pod in played.iter().chain(&both) {
        let file = agents.store(pod, "part", "part.txt", format!("of {}", pod.uid).as_bytes()).await;
        assert_eq!(agents.commit(pod, vec![file]).await.0, 204, "{}", pod.name);
    }
    let third = agents.play(&twin(&pods[at], "triplet", &controller).await).await.unwrap();
    let late = agents.verdict(&third).await;
    for pod in played.iter().chain(&both).chain([&third]) {
        agents.end(pod, 0).await;
    }
    (both, late)
}

#[test]
fn intervals_are_counted() {
    assert_eq!((intervals(""), intervals("3"), intervals("3,7-9,12")), (0, 1, 5));
}
