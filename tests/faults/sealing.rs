//! S05: the operator crashes around the writes that seal a result, and a segment comes late. One result is frozen.

use std::time::Duration;

use asynctask_operator::contract::wire::CommittedFile;
use asynctask_operator::storage::records::{CommitRecord, Manifest, RECORD_MAX, SealedShard, VERSION, encode};
use asynctask_operator::storage::{Digest, Layout, ObjectStore, PutMode};
use kube::api::ListParams;
use serde_json::Value;

use crate::every_write::{Reference, reference};
use crate::fan_out::sealed;
use crate::oracle::{End, all_keys};
use crate::rules::{Fault, MANIFEST, Point, SEAL, points};
use crate::scenario::Scenario;
use crate::site::{PREFIX, Site, site};
use crate::stand_in::{Played, StandIn};
use crate::support::{Namespace, script, until};
use crate::table::{Outcome, report};

/// UIDs smaller than all that are given out: of several commits of a shard theirs would count. The second is smaller.
const LATE: [&str; 2] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000000"];
/// Long enough for the operator to do what it should not.
const A_WHILE: Duration = Duration::from_secs(2);
/// The shard that they are for.
const SHARD: u32 = 1;

/// Places in order: after each page and manifest, before and after each status that seals.
fn places(reference: &Reference) -> Vec<(Point, Fault)> {
    let mut places = Vec::new();
    for point in points(&reference.writes) {
        match point.what.as_str() {
            MANIFEST => places.push((point, Fault::CrashAfter)),
            SEAL => places.extend([(point.clone(), Fault::CrashBefore), (point, Fault::CrashAfter)]),
            _ => {}
        }
    }
    places
}

fn crashed_at((point, fault): (Point, Fault), scenario: &Scenario, reference: &Reference, site: &Site) -> Outcome {
    let place = format!("{fault:?} {point}");
    let ns = Namespace::new("sealed");
    site.proxy.watch(&ns.name, Some((point, fault)));
    site.operator.stays_down_after_a_crash();
    scenario.begin(&ns);
    until("the operator has crashed", || site.proxy.run(&ns.name, |run| run.struck).then_some(()));
    until("it is down", || (!site.operator.runs()).then_some(()));
    let (agents, pod) = site.runtime.block_on(shard_pod(&ns));
    let frozen = manifest(&ns);
    // One that asks is refused: its Job has ended. One that was let through before that is written all the same.
    let mut told = vec![commits_late(site, &agents, &pod)];
    in_flight(&ns, LATE[0], site);
    site.operator.start();
    scenario.end(&ns);
    let (first, shards) = (manifest(&ns), read(&ns, site));
    told.push(commits_late(site, &agents, &pod));
    in_flight(&ns, LATE[1], site);
    // One that remembers nothing looks at all of it again.
    site.operator.crash();
    // What it does for somebody else shows that it leads.
    Namespace::new("after").define("report", &script("report", "true", "  store: faulty"));
    std::thread::sleep(A_WHILE);

    let differ = |what: String, same: bool| (!same).then_some(what);
    let end = End::of(&ns, site);
    let refused = told.iter().all(|status| matches!(status, 401 | 409));
    let ledger = differ(
        format!("{:?}, not {:?}; late commits were told {told:?}", end.ledger, reference.end.ledger),
        end.ledger == reference.end.ledger && refused,
    );
    let last = manifest(&ns);
    let once = shards.iter().map(|shard| shard.shard).eq(0..3) && shards.iter().all(|shard| shard.files.len() == 1);
    let kept = first.is_some() && first == last && (frozen.is_none() || frozen == first) && read(&ns, site) == shards;
    let whole = site.runtime.block_on(assembled(&ns, site)) == expected(&shards);
    let objects = differ(
        format!("manifests {frozen:?}, {first:?}, {last:?} of {shards:#?}; whole: {whole}"),
        once && kept && whole,
    );
    let audit =
        differ(format!("{:?}, not {:?}", end.changes, reference.end.changes), end.changes == reference.end.changes);
    // Late bytes that do not count, and those of the pod that they took the place of, go with the task.
    let of_shard = format!("/spread/{SHARD:06}/");
    let strays: Vec<_> = end.strays.iter().filter(|key| !key.contains(&of_shard)).collect();
    let bytes = differ(format!("strays: {strays:?}"), strays.is_empty());
    let [_, leaked] = end.judge_bytes();
    Outcome::at(&place, [ledger, objects, audit, bytes, leaked])
}

/// Digest of the result of the fan-out, by the status.
fn manifest(ns: &Namespace) -> Option<String> {
    ns.status("one")["steps"][0]["manifest"].as_str().map(str::to_owned)
}

fn read(ns: &Namespace, site: &Site) -> Vec<SealedShard> {
    site.runtime.block_on(sealed(&ns.status("one"), ns, site))
}

/// The pod that ran the shard, which has ended.
async fn shard_pod(ns: &Namespace) -> (StandIn, Played) {
    let agents = StandIn::new(ns).await;
    let pods = agents.pods().list(&ListParams::default().labels("asynctask.dev/step=spread")).await.unwrap();
    for pod in pods {
        let played = agents.play(&pod).await.unwrap();
        if played.shard == SHARD {
            return (agents, played);
        }
    }
    panic!("no pod of shard {SHARD}");
}

fn commits_late(site: &Site, agents: &StandIn, pod: &Played) -> u16 {
    let (status, said) = site.runtime.block_on(agents.commit(pod, Vec::new()));
    println!("a late commit is told {status}: {}", said["detail"]);
    status
}

/// Bytes and record of a commit that the gateway had let through before the Job ended.
fn in_flight(ns: &Namespace, pod_uid: &str, site: &Site) {
    let task_uid = ns.get("asynctask", "one")["metadata"]["uid"].as_str().unwrap().to_owned();
    let keys = Layout::new(PREFIX).unwrap().task(&ns.name, &task_uid).unwrap().step("spread").unwrap();
    let keys = keys.attempt(SHARD, pod_uid).unwrap();
    let bytes = late(pod_uid);
    let file = CommittedFile {
        output: "all".to_owned(),
        seq: 0,
        path: "part.csv".to_owned(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes.as_bytes()).to_string(),
        media_type: None,
    };
    let record = CommitRecord {
        version: VERSION,
        task_uid,
        step: "spread".to_owned(),
        attempt: 1,
        pod_uid: pod_uid.to_owned(),
        shard: SHARD,
        files: vec![file],
        emitted: None,
        items: None,
        warning: None,
        image: None,
        committed_at: jiff::Timestamp::now(),
    };
    site.runtime.block_on(async {
        site.store.put(&keys.file("all", 0).unwrap(), bytes.into(), PutMode::Create).await.unwrap();
        site.store.put(&keys.commit(), encode(&record), PutMode::Create).await.unwrap();
    });
}

fn late(pod_uid: &str) -> String {
    format!("shard\nlate {pod_uid}\n")
}

/// The file that the sealed shards make.
fn expected(shards: &[SealedShard]) -> String {
    let line = |shard: &SealedShard| match LATE.iter().find(|uid| **uid == shard.pod_uid) {
        Some(uid) => format!("late {uid}\n"),
        None => format!("{}\n", shard.shard),
    };
    format!("shard\n{}", shards.iter().map(line).collect::<String>())
}

/// The file that was put together.
async fn assembled(ns: &Namespace, site: &Site) -> String {
    let status: Value = ns.status("one");
    let digest = status["steps"][1]["manifest"].as_str().unwrap();
    let keys = all_keys(&ns.name, site).await;
    let key = keys.iter().find(|key| key.ends_with(&format!("manifest-{digest}"))).unwrap();
    let bytes = site.store.get_bytes(key, RECORD_MAX).await.unwrap();
    let manifest = Manifest::open(&bytes, digest.parse().unwrap()).unwrap();
    let file = manifest.files.iter().find(|file| file.output == "all").unwrap();
    let bytes = site.store.get_bytes(&file.key, RECORD_MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn s05_a_crash_between_manifest_and_status_freezes_one_result() {
    let site = site();
    let scenario = Scenario::read("sealed", site);
    let reference = reference(&scenario, site);
    let place = places(&reference).into_iter().find(|(point, _)| point.what == SEAL).unwrap();
    report("S05", "crash before the status that seals", &[crashed_at(place, &scenario, &reference, site)]);
}

#[test]
#[ignore = "long: make test-faults-full"]
fn s05_a_crash_anywhere_around_a_seal_freezes_one_result() {
    let site = site();
    let scenario = Scenario::read("sealed", site);
    let reference = reference(&scenario, site);
    let places = places(&reference).into_iter();
    let outcomes: Vec<_> = places.map(|place| crashed_at(place, &scenario, &reference, site)).collect();
    report("S05", "crash around each write that seals", &outcomes);
}
