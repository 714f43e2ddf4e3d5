//! Everything at once: valid, odd and hostile objects, programs that end in every way, a store that falls silent, and floods of
//! strangers, while a quiet tenant goes on with its work. Half an hour long with `make e2e SUITE=mixture`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hostile::{documents, post_as};
use crate::away::gated;
use crate::component::{forget, peak, process, restarts};
use crate::harm::{AGENT, AtEnd, REPORTS, Strangers};
use crate::ledger::Ledger;
use crate::support::{Namespace, SYSTEM, kubectl, script, steps, task, variable};

/// A run of the quiet tenant that takes longer is late: its program takes no time, its pod some seconds.
const LATE: Duration = Duration::from_secs(30);
/// Objects of a tenant before it deletes all of them.
const MANY: usize = 150;

/// How programs end: with success, by a failure of their own, by a signal, by their timeout, by what they leave, and beside
/// the agent.
const PROGRAMS: &[&str] = &[
    "true",
    "exit 1",
    "exit 143",
    "exit 240",
    "kill -9 $$",
    "kill -TERM $$",
    "kill -9 1; sleep 1",
    "sleep 60",
    "trap '' TERM; sleep 60",
    "setsid sleep 30 & exit 0",
    r#"yes "line of a log" | head -c 30000000"#,
    r#"mkdir -p $ASYNCTASK_OUTPUTS/d; : > "$ASYNCTASK_OUTPUTS/d/$(printf "u\314\210").txt""#,
    r#"head -c 20000000 /dev/zero > "$ASYNCTASK_OUTPUTS/d""#,
    r#"ln -s /etc/passwd "$ASYNCTASK_OUTPUTS/d""#,
    r#""$ASYNCTASK_AGENT" fail --code Odd --message "$(head -c 5000 /dev/zero | tr '\0' x)""#,
    r#"for n in $(seq 200); do "$ASYNCTASK_AGENT" progress $n 200; done"#,
    "exec 0<&- 1>&- 2>&-; sleep 1",
    r#"rm -rf "$ASYNCTASK_OUTPUTS"; exit 0"#,
];

/// A seeded sequence: the same mixture each time.
struct Chance(Mutex<u64>);

impl Chance {
    fn below(&self, bound: usize) -> usize {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state % bound as u64).unwrap()
    }
}

/// Runs of programs that end in every way, some of them canceled, held, deleted or annotated while they go on.
fn odd(ns: &Namespace, chance: &Chance, stop: &AtomicBool, made: &AtomicUsize) {
    for (number, shell) in PROGRAMS.iter().enumerate() {
        let more = "  retention: {pods: 1s, task: 20s}\n  outputs: [{name: d, step: work, path: d/}]";
        let name = format!("p{number}");
        let definition = steps(&name, more, &[("work", shell, "retry: {limit: 1}")]);
        ns.apply(&definition.replace("timeout: 5m", "timeout: 10s")).ok();
    }
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (name, of) = (format!("r{number}"), chance.below(PROGRAMS.len()));
        number += 1;
        ns.apply(&task(&name, &format!("p{of}")));
        made.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2000 + chance.below(2000) as u64));
        match chance.below(8) {
            0 => drop(ns.kubectl(&["patch", "asynctask", &name, "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#])),
            1 => drop(ns.kubectl(&["patch", "asynctask", &name, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#])),
            2 => drop(ns.kubectl(&["delete", "asynctask", &name, "--wait=false"])),
            3 => drop(ns.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"])),
            4 => drop(ns.kubectl(&["delete", "jobs", "--all", "--wait=false"])),
            _ => {}
        }
        if number % MANY == 0 {
            ns.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]);
        }
    }
}

/// Objects that are hostile in one field, a definition that is edited all the time, a store that falls silent and speaks again.
fn hostile(ns: &Namespace, chance: &Chance, stop: &AtomicBool, made: &AtomicUsize) {
    let base = json!({"apiVersion": "asynctask.dev/v1alpha1", "kind": "AsyncTask", "metadata": {}, "spec": {"definition": {"name": "none"}}});
    let mut tasks = documents("AsyncTask", "asynctasks.yaml", &base);
    let mut base: Value = serde_yaml_ng::from_str(&script("works", "echo works", "")).unwrap();
    base["metadata"] = json!({});
    let definitions = documents("TaskDefinition", "taskdefinitions.yaml", &base);
    tasks.retain(|document| document.len() < 300_000);
    ns.kubectl(&["create", "serviceaccount", "eve"]).ok();
    let account = format!("--serviceaccount={}:eve", ns.name);
    ns.kubectl(&["create", "rolebinding", "eve", "--clusterrole=edit", &account]).ok();
    let user = format!("system:serviceaccount:{}:eve", ns.name);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let of_tasks = chance.below(4) > 0;
        let (plural, documents) = if of_tasks { ("asynctasks", &tasks) } else { ("taskdefinitions", &definitions) };
        let metadata = format!("\"metadata\":{{\"generateName\":\"h{number}-\"");
        let document =
            documents[chance.below(documents.len())].replacen("\"metadata\":{}", &format!("{metadata}}}"), 1);
        let path = format!("/apis/asynctask.dev/v1alpha1/namespaces/{}/{plural}", ns.name);
        let (status, said) = post_as(&user, &path, document);
        assert!([201, 400, 403, 413, 422].contains(&status), "{status} {said}");
        made.fetch_add(usize::from(status == 201), Ordering::Relaxed);
        number += 1;
        let title = json!({"spec": {"title": format!("Edit {number}")}}).to_string();
        ns.kubectl(&["patch", "taskdefinition", "kept", "--type=merge", "-p", &title]);
        ns.apply(&task(&format!("k{number}"), "kept"));
        std::thread::sleep(Duration::from_millis(1000));
        if number % MANY == 0 {
            ns.kubectl(&["delete", "asynctasks", "--all", "--wait=false"]);
        }
    }
}

/// Nobody knows them.
fn strangers(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let calling = Strangers::call();
        pause(stop, Duration::from_secs(5));
        drop(calling);
        pause(stop, Duration::from_secs(15));
    }
}

/// Where the time of a run went: its own times, those of its Job and pod, and what the operator said of it.
fn explain(quiet: &Namespace, name: &str, status: &Value) {
    println!("{name} was late: {} {:#}", status["transitions"], status["steps"]);
    for kind in ["job", "pod"] {
        let selector = format!("asynctask.dev/task={name}");
        let found = quiet.kubectl(&["get", kind, "-l", &selector, "-o", "json"]).out;
        let found: Value = serde_json::from_str(&found).unwrap_or_default();
        println!("{kind}: {} {:#}", found["items"][0]["metadata"]["creationTimestamp"], found["items"][0]["status"]);
    }
    let uid = quiet.get("asynctask", name)["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let log = kubectl(&["-n", SYSTEM, "logs", "deployment/asynctask-operator", "--since=5m"]).out;
    log.lines().filter(|line| line.contains(&uid) || line.contains("watch")).for_each(|line| println!("{line}"));
}

fn pause(stop: &AtomicBool, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_quiet_tenant_hears_nothing_of_the_others() {
    let seconds = std::env::var("MIXTURE_SECONDS").map_or(30, |seconds| seconds.parse().unwrap());
    let seed = 0x2026_1129_u64;
    println!("{seconds} s, seed {seed:#x}");
    let (quiet, odd_one, hostile_one) = (Namespace::new("quiet"), Namespace::new("odd"), Namespace::new("harm"));
    let (chance, ledger, gate) = (Chance(Mutex::new(seed)), Ledger::open(), gated("mixture"));
    quiet.define("works", &script("works", &ledger.write("$ASYNCTASK_NAME"), ""));
    let kept = "  store: mixture\n  retention: {pods: 1s}\n  concurrency: {maxRunning: 2}\n  outputs: [{name: x, step: work, path: x}]";
    hostile_one.define("kept", &script("kept", "echo x > $ASYNCTASK_OUTPUTS/x", kept));
    let loops = steps("loops", "", &[("work", &format!("python3 - <<'REPORTS'{AGENT}{REPORTS}REPORTS\n"), "")]);
    hostile_one.define("loops", &loops.replace(&variable("HELLO_REPORT_IMAGE"), &variable("COURSE_OUTLINE_IMAGE")));
    // A program that never rests has a whole processor: only where nothing else runs beside.
    if seconds > 60 {
        hostile_one.apply(&task("loops", "loops")).ok();
    }

    let before = restarts();
    let components = ["operator", "gateway"].map(|component| process(component).unwrap());
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut times: Vec<(String, Duration)> = Vec::new();
    let mut peaks: Vec<[u64; 2]> = Vec::new();
    std::thread::scope(|scope| {
        let others = [
            scope.spawn(|| odd(&odd_one, &chance, &stop, &made)),
            scope.spawn(|| hostile(&hostile_one, &chance, &stop, &made)),
            scope.spawn(|| strangers(&stop)),
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    gate.fall_silent();
                    pause(&stop, Duration::from_secs(20));
                    gate.speak();
                    pause(&stop, Duration::from_secs(20));
                }
            }),
        ];
        let end = AtEnd(|| stop.store(true, Ordering::Relaxed));
        let begun = Instant::now();
        for third in 1..=3 {
            components.iter().for_each(|pid| forget(pid));
            while begun.elapsed().as_secs() < seconds * third / 3 && others.iter().all(|other| !other.is_finished()) {
                let name = format!("q-{}", times.len());
                let begun = Instant::now();
                quiet.create(&task(&name, "works"));
                let status = quiet.finished(&name);
                assert_eq!(status["state"], "Complete", "{name}: {status:#}");
                if begun.elapsed() > LATE {
                    explain(&quiet, &name, &status);
                }
                times.push((name, begun.elapsed()));
            }
            peaks.push([0, 1].map(|of| peak(&components[of]).unwrap_or(0) >> 10));
        }
        drop(end);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
    let mut sorted: Vec<Duration> = times.iter().map(|(_, time)| *time).collect();
    sorted.sort();
    let (median, p99, slowest) = (sorted[sorted.len() / 2], sorted[sorted.len() * 99 / 100], sorted[sorted.len() - 1]);
    println!("{} quiet runs: median {median:?}, p99 {p99:?}, slowest {slowest:?}", times.len());
    println!("{} objects of the others", made.load(Ordering::Relaxed));
    println!("peaks of operator and gateway in MiB, by thirds: {peaks:?}");
    println!("restarts: {}", restarts() - before);
    for (name, time) in &times {
        assert_eq!(ledger.lines(name).iter().filter(|line| *line == name).count(), 1, "{name} ran once");
        assert!(*time <= LATE, "{name} took {time:?}");
    }
    assert_eq!(restarts(), before, "nobody was killed");
    for of in 0..2 {
        // Memory that is once taken is kept; what grows with time goes on growing.
        assert!(peaks[2][of] <= peaks[1][of] * 5 / 4 + 8, "{peaks:?}");
    }
    for ns in [&odd_one, &hostile_one] {
        kubectl(&["-n", &ns.name, "delete", "asynctasks", "--all", "--wait=false"]).ok();
    }
    kubectl(&["delete", "namespace", &odd_one.name, &hostile_one.name, "--timeout=600s"]).ok();
    kubectl(&["delete", "outputstore", "mixture", "--timeout=120s"]).ok();
}
