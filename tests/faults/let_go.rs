//! S07: what is due, what a user deletes and what is used once go at the same time, from keys with a common beginning, and
//! the operator crashes in the midst of it. Just these go, and once.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::oracle::{End, all_keys};
use crate::rules::{Fault, Point};
use crate::site::{Site, site};
use crate::support::{Namespace, cli, steps, task, until};
use crate::table::{Outcome, report};

/// Names with a common beginning, in two steps for which the same is true, and what becomes of each.
const OUTPUTS: &str = "  store: faulty
  outputs:
  - {name: r, step: w, path: r, retention: {for: 1s}}
  - {name: re, step: wo, path: re, retention: {useOnce: {window: 1s}}}
  - {name: rep, step: w, path: rep, retention: {forever: true}}
  - {name: repo, step: wo, path: repo, retention: {for: 3s}}
  - {name: report, step: w, path: report, retention: {forever: true}}
  - {name: reported, step: wo, path: reported, retention: {useOnce: {}}}";
const WRITE: &str = "for name in r re rep repo report reported; do echo $name > $ASYNCTASK_OUTPUTS/$name; done";
/// Why each is gone, if it is. Of one a user's deletion and its time race.
const REASONS: [(&str, &[&str]); 6] = [
    ("r", &["Expired"]),
    ("re", &["Used"]),
    ("rep", &["Deleted"]),
    ("repo", &["Deleted", "Expired"]),
    ("report", &["kept"]),
    ("reported", &["kept"]),
];

/// Each deletion is one request a step: how many-th of them, and what happens to it.
const PLACES: [(usize, Fault); 6] = [
    (1, Fault::CrashBefore),
    (1, Fault::CrashAfter),
    (1, Fault::LoseReply),
    (2, Fault::CrashBefore),
    (2, Fault::CrashAfter),
    (3, Fault::CrashBefore),
];

fn ended(ns: &Namespace, outputs: &str) {
    let both = [("w", WRITE, ""), ("wo", WRITE, "")];
    ns.define("many", &steps("many", outputs, &both));
    ns.apply(&task("one", "many")).ok();
}

fn outputs(ns: &Namespace) -> BTreeMap<String, String> {
    let status = ns.status("one");
    let why = |output: &Value| output["gone"]["why"].as_str().unwrap_or("kept").to_owned();
    let outputs = status["outputs"].as_array().into_iter().flatten().filter(|output| output["name"] != "log");
    outputs.map(|output| (output["name"].as_str().unwrap().to_owned(), why(output))).collect()
}

fn keys(ns: &Namespace, site: &Site) -> Vec<String> {
    site.runtime.block_on(all_keys(&ns.name, site)).into_iter().collect()
}

/// Names of the outputs that have bytes.
fn bytes(ns: &Namespace, site: &Site) -> Vec<String> {
    let of = |key: &String| Some(key.split_once("/files/")?.1.split('/').next()?.to_owned());
    let mut names: Vec<String> = keys(ns, site).iter().filter_map(of).filter(|name| name != "log").collect();
    names.sort();
    names
}

fn version(ns: &Namespace) -> Value {
    ns.get("asynctask", "one")["metadata"]["resourceVersion"].clone()
}

#[test]
fn s07_what_goes_for_three_reasons_at_once_goes_alone_whenever_the_operator_crashes() {
    let site = site();
    let runs: Vec<Namespace> = PLACES.iter().map(|_| Namespace::new("let-go")).collect();
    let neighbour = Namespace::named(format!("{}0", runs[0].name));
    let all = || runs.iter().zip(PLACES);
    for (ns, (nth, fault)) in all() {
        let what = "POST in the store".to_owned();
        site.proxy.watch(&ns.name, Some((Point { what, nth }, fault)));
        ended(ns, OUTPUTS);
    }
    site.proxy.watch(&neighbour.name, None);
    ended(&neighbour, "  store: faulty\n  outputs: [{name: r, step: w, path: r, retention: {forever: true}}]");
    let untouched = {
        neighbour.finished("one");
        keys(&neighbour, site)
    };
    for ns in &runs {
        ns.finished("one");
        std::thread::scope(|scope| {
            let people = [
                vec!["outputs", "get", "one", "re", "--to", "-"],
                vec!["outputs", "rm", "one", "rep", "--yes"],
                vec!["outputs", "rm", "one", "repo", "--yes"],
            ];
            for mut says in people {
                says.extend(["-n", &ns.name]);
                scope.spawn(move || cli(&says));
            }
        });
    }

    let mut outcomes = Vec::new();
    for (ns, (nth, fault)) in all() {
        until("what is due is gone", || {
            let now = outputs(ns);
            REASONS
                .iter()
                .all(|(name, whys)| now.get(*name).is_some_and(|why| whys.contains(&why.as_str())))
                .then_some(())
        });
        // Who deletes it again finds it deleted.
        let (before, writes) = (version(ns), site.proxy.run(&ns.name, |run| run.writes.len()));
        let again = cli(&["outputs", "rm", "one", "rep", "re", "r", "--yes", "-n", &ns.name]);
        let same =
            again.code == 0 && version(ns) == before && site.proxy.run(&ns.name, |run| run.writes.len()) == writes;
        let left = bytes(ns, site);
        let end = End::of(ns, site);
        let [_, leaked] = end.judge_bytes();
        outcomes.push(Outcome {
            place: format!("{fault:?} {nth}"),
            struck: site.proxy.run(&ns.name, |run| run.struck),
            against: [
                None,
                (!same).then(|| format!("a second deletion is written down: {}", again.err)),
                (end.changes.get("create jobs") != Some(&2)).then(|| format!("{:?}", end.changes)),
                (left != ["report", "reported"]).then(|| format!("bytes of {left:?}")),
                leaked,
            ],
            unasked: &[0],
        });
    }
    // With the object goes the rest, and nothing of whoever has a name that begins alike.
    for ns in &runs {
        ns.kubectl(&["delete", "asynctask", "one", "--timeout=120s"]).ok();
        ns.kubectl(&["delete", "asynctask", "one", "--ignore-not-found"]).ok();
    }
    let rest: Vec<String> = runs.iter().flat_map(|ns| keys(ns, site)).filter(|key| !key.contains("/_")).collect();
    // Its history may have come since.
    let beside = keys(&neighbour, site);
    let taken: Vec<&String> = untouched.iter().filter(|key| !beside.contains(key)).collect();
    outcomes.push(
        Outcome::at(
            "deletion of the run",
            [
                None,
                None,
                None,
                (!rest.is_empty() || !taken.is_empty()).then(|| format!("{rest:?}; taken from beside it: {taken:?}")),
                None,
            ],
        )
        .unasked(&[0, 1, 2, 4]),
    );
    report("S07", "crash while outputs go for several reasons", &outcomes);
}
