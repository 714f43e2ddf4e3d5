//! R03, R04, R07, R15: what the operator sees is no longer so, or changes all the time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::every_write::{reference, settled};
use crate::oracle::{EDITED, End};
use crate::scenario::Scenario;
use crate::site::{Site, site};
use crate::support::{Namespace, SYSTEM, evidence, kubectl, until};
use crate::table::{Outcome, report};

/// Long enough for the operator to do what it should not.
const A_WHILE: Duration = Duration::from_secs(4);
/// How long the last writes may take after the end of a run.
const SETTLING: Duration = Duration::from_secs(30);

/// All watches go on at the end, also of a test that fails.
struct Frozen<'a>(&'a Site);

impl<'a> Frozen<'a> {
    fn new(site: &'a Site, resources: &[&str]) -> Self {
        site.proxy.freeze(resources);
        Self(site)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.proxy.thaw();
    }
}

fn ran(site: &Site, ns: &Namespace) {
    until("the program runs", || (!site.ledger.runs(&ns.name).is_empty()).then_some(()));
}

#[test]
fn r04_a_success_behind_frozen_watches_is_recorded_once() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let reference = reference(&scenario, site);
    let ns = Namespace::new("frozen");
    site.proxy.watch(&ns.name, None);
    let frozen = Frozen::new(site, &["jobs", "pods"]);
    scenario.begin(&ns);
    ran(site, &ns);
    ns.wait("condition=Complete", "job --all", 120);
    ns.kubectl(&["delete", "pods", "--all"]).ok();

    drop(frozen);

    scenario.end(&ns);
    let against = settled(&ns, &reference.end.with_pods_deleted(), site);
    report("R04", "watches of Jobs and pods frozen", &[Outcome::at("from start to pod deletion", against)]);
}

#[test]
fn r03_a_task_made_anew_behind_a_frozen_watch_runs_untouched() {
    let site = site();
    let scenario = Scenario::read("slow", site);
    let reference = reference(&scenario, site);
    let ns = Namespace::new("anew");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    ran(site, &ns);
    let frozen = Frozen::new(site, &["asynctasks"]);
    // In the operator's name: it would let go, but does not see the deletion, and nobody else may.
    ns.kubectl(&["delete", "asynctask", scenario.task(), "--wait=false"]).ok();
    let release = r#"{"metadata":{"finalizers":null}}"#;
    let operator = format!("--as=system:serviceaccount:{SYSTEM}:asynctask-operator");
    ns.kubectl(&["patch", "asynctask", scenario.task(), "--type=merge", "-p", release, &operator]).ok();
    let gone = || ns.kubectl(&["get", "jobs", "-o", "name"]).ok().trim().is_empty().then_some(());
    until("the Job of the first is collected", gone);
    scenario.begin(&ns);
    std::thread::sleep(A_WHILE);

    drop(frozen);

    scenario.end(&ns);
    let [_, objects, _, _, leaked] = settled_objects(&ns, &reference.end, site);
    let runs: usize = site.ledger.runs(&ns.name).values().sum();
    let ledger = (runs != 2).then(|| format!("{runs} runs of two tasks"));
    let jobs = End::of(&ns, site).changes.get("create jobs").copied().unwrap_or_default();
    let audit = (jobs != 2).then(|| format!("{jobs} Jobs of two tasks"));
    // The bucket still holds what the first task left.
    let outcome = Outcome::at("a frozen watch", [ledger, objects, audit, None, leaked]).unasked(&[3]);
    report("R03", "made anew under its name", &[outcome]);
}

/// Waits for the objects only: what the first task left in ledger, audit log and bucket stays.
fn settled_objects(ns: &Namespace, reference: &End, site: &Site) -> [Option<String>; 5] {
    let started = Instant::now();
    loop {
        let against = End::of(ns, site).judge(reference);
        if against[1].is_none() {
            return against;
        }
        if started.elapsed() > SETTLING {
            evidence::show(&format!("not after {SETTLING:?}: the objects of {} are as without a fault", ns.name));
            return against;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn r07_an_old_view_of_a_finished_task_starts_no_pod() {
    let site = site();
    let scenario = Scenario::read("one-step", site);
    let tasks = "/apis/asynctask.dev/v1alpha1/asynctasks";
    let ns = Namespace::new("replay");
    site.proxy.watch(&ns.name, None);
    site.operator.kill();
    scenario.begin(&ns);
    let old = kubectl(&["get", "--raw", tasks]).ok();
    site.operator.start();
    scenario.end(&ns);
    // Gone with its pods: the garbage collector would delete them at its own pace.
    ns.kubectl(&["delete", "jobs", "--all", "--cascade=foreground"]).ok();
    let before = End::of(&ns, site);

    site.operator.kill();
    let frozen = Frozen::new(site, &["asynctasks"]);
    site.proxy.list_is("asynctasks", old);
    site.operator.start();
    std::thread::sleep(A_WHILE);
    let during = End::of(&ns, site);
    drop(frozen);
    std::thread::sleep(A_WHILE);

    let places = [("old view", during), ("after it", End::of(&ns, site))];
    let outcomes: Vec<_> = places.iter().map(|(place, end)| Outcome::at(place, end.judge(&before))).collect();
    report("R07", "old view of a finished task", &outcomes);
}

#[test]
fn r15_labels_and_annotations_that_change_all_the_time_stop_nothing() {
    let site = site();
    let scenario = Scenario::read("slow", site);
    let reference = reference(&scenario, site);
    let ns = Namespace::new("edited");
    site.proxy.watch(&ns.name, None);
    scenario.begin(&ns);
    let finished = || ns.get("asynctask", scenario.task())["status"]["state"] == "Complete";
    let mut editors = Editors::start(&ns.name, scenario.task());
    until("the task is complete, whoever edits it", || finished().then_some(()));
    let edits = editors.stop();

    assert!(edits > 0, "nobody edited anything");
    let remove = format!("{EDITED}-");
    ns.kubectl(&["annotate", "asynctask", scenario.task(), &remove]).ok();
    ns.kubectl(&["label", "asynctask", scenario.task(), &remove]).ok();
    let against = settled(&ns, &reference.end, site);
    report("R15", "labels and annotations edited", &[Outcome::at(&format!("{edits} edits"), against)]);
}

/// Somebody who edits label and annotation, as fast as one shell can.
struct Editors(std::process::Child, std::path::PathBuf);

impl Editors {
    fn start(namespace: &str, task: &str) -> Self {
        let count = std::env::temp_dir().join(format!("{namespace}.edits"));
        // One API server client, kept open: a process an edit would be too slow.
        let script = format!(
            "kubectl proxy --port=0 > {count}.port & trap \"kill $!\" EXIT; trap exit TERM; \
             until grep -q : {count}.port; do sleep 0.05; done; url=http://$(sed 's/.* on //' {count}.port); n=0; \
             while sleep 0.05; do n=$((n+1)); curl -s -o /dev/null -X PATCH -H 'Content-Type: application/merge-patch+json' \
             -d '{{\"metadata\":{{\"labels\":{{\"{EDITED}\":\"n'$n'\"}},\"annotations\":{{\"{EDITED}\":\"n'$n'\"}}}}}}' \
             $url/apis/asynctask.dev/v1alpha1/namespaces/{namespace}/asynctasks/{task}; echo $n > {count}; done",
            count = count.display(),
        );
        let child = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap(), count)
    }

    /// How many edits there were.
    fn stop(&mut self) -> usize {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
        std::fs::read_to_string(&self.1).ok().and_then(|n| n.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Editors {
    fn drop(&mut self) {
        self.stop();
    }
}
