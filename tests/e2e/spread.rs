//! Fan-out on the real cluster: from a planner's items to one file, and on in another run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ledger::Ledger;
use crate::support::{Namespace, audit, cli, in_time, root, steps, task, until};

/// Shards of the test that kills pods; `make e2e SUITE=spread` runs 200.
fn killed_shards() -> usize {
    std::env::var("SPREAD_SHARDS").map_or(24, |text| text.parse().unwrap())
}

fn output(ns: &Namespace, task: &str, output: &str) -> String {
    cli(&["-n", &ns.name, "outputs", "get", task, output, "-o", "-"]).ok()
}

fn step<'a>(status: &'a Value, name: &str) -> &'a Value {
    let steps = status["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name}: {status:#}"))
}

/// Pods that were made in the namespace, by the audit log.
fn pods_made(ns: &Namespace) -> usize {
    let made = |line: &&Value| {
        let object = &line["objectRef"];
        let done = line["responseStatus"]["code"] == 201
            && !line["requestURI"].as_str().unwrap_or_default().contains("dryRun");
        line["verb"] == "create" && object["resource"] == "pods" && object["subresource"].is_null() && done
    };
    audit(&ns.name).iter().filter(made).count()
}

#[test]
fn the_bulk_email_example_writes_to_everybody_once_and_lists_who_could_not_be_reached() {
    let ns = Namespace::new("bulk-email");
    ns.example("bulk-email", None);
    ns.apply("{apiVersion: asynctask.dev/v1alpha1, kind: AsyncTask, metadata: {name: mail}, spec: {definition: {name: bulk-email}, parameters: {recipients: 430}}}").ok();
    let status = ns.finished("mail");
    println!("{}", cli(&["-n", &ns.name, "status", "mail"]).ok());
    assert_eq!(status["state"], "PartiallyComplete", "{status:#}");
    let send = step(&status, "send");
    assert_eq!((&send["shards"]["total"], &send["shards"]["succeeded"]), (&9.into(), &9.into()), "{send:#}");
    let items = &send["items"];
    assert_eq!((&items["attempted"], &items["failed"], &items["succeeded"]), (&430.into(), &8.into(), &422.into()));

    let sent = output(&ns, "mail", "sent");
    let ids: Vec<u32> = sent.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    let expected: Vec<u32> = (1..=430).filter(|id| id % 50 != 0).collect();
    assert_eq!(sent.lines().next(), Some("id,email,key"));
    assert_eq!(ids, expected, "each once and in order");
    let failed = output(&ns, "mail", "failures");
    assert_eq!(failed.lines().count(), 8, "{failed}");
    assert_eq!(failed.lines().next(), Some(r#"{"id":50,"email":"student-50.example.org"}"#));
    assert_eq!(output(&ns, "mail", "summary").trim(), "422 messages were sent.");
    assert!(serde_json::to_vec(&status).unwrap().len() < 32 << 10);

    // What failed is the input of the next run as it stands.
    let file = std::fs::read_to_string(root().join("manifests/examples/bulk-email/from-a-file.yaml")).unwrap();
    ns.define("bulk-email-file", &file);
    ns.apply("{apiVersion: asynctask.dev/v1alpha1, kind: AsyncTask, metadata: {name: again}, spec: {definition: {name: bulk-email-file}, inputs: {recipients: {output: {task: mail, name: failures}}}}}").ok();
    let status = ns.finished("again");
    assert!(["Complete", "PartiallyComplete"].contains(&status["state"].as_str().unwrap()), "{status:#}");
    assert_eq!(step(&status, "split-send")["emitted"]["items"], 8);
    assert_eq!(step(&status, "send")["items"]["attempted"], 8);
}

/// A definition over a number of shards; each writes its number, and `more` may make it fail.
fn numbered(name: &str, shards: usize, more: &str, said: &str) -> String {
    let shell = format!(r#"{more}; printf 'shard\n%s\n' "$ASYNCTASK_SHARD" > "$ASYNCTASK_OUTPUTS/part.csv""#);
    let outputs = "  outputs: [{name: all, step: spread, path: part.csv, append: {header: true}}]";
    let said = format!(
        "fanOut: {{shards: {shards}, parallelism: 6, {said}}}, retry: {{limit: 3, rules: [{{exitCodes: [\"70\"], action: Fail}}]}}"
    );
    steps(name, outputs, &[("spread", &shell, &said)])
}

fn whole(shards: usize) -> String {
    let lines: String = (0..shards).map(|shard| format!("{shard}\n")).collect();
    format!("shard\n{lines}")
}

#[test]
fn a_retry_runs_only_the_shards_that_failed_and_its_file_is_whole() {
    let ns = Namespace::new("only-failed");
    // Three shards fail in the first run: what they need is not there yet.
    let fails = r#"case "$ASYNCTASK_NAME/$ASYNCTASK_SHARD" in first/3|first/17|first/29) exit 70 ;; esac"#;
    ns.define("numbers", &numbered("numbers", 50, fails, "tolerate: {failedShards: 3}"));
    ns.apply(&task("first", "numbers")).ok();
    let first = ns.finished("first");
    assert_eq!(first["state"], "PartiallyComplete", "{first:#}");
    assert_eq!(first["steps"][0]["shards"]["failedIndexes"], "3,17,29", "{first:#}");
    assert_eq!(output(&ns, "first", "all").lines().count(), 1 + 47);
    let shards = cli(&["-n", &ns.name, "shards", "first", "--failed"]).ok();
    println!("{shards}");

    let before = pods_made(&ns);
    let said = cli(&["-n", &ns.name, "retry", "first", "--name", "second"]).ok();
    println!("{said}");
    let second = ns.finished("second");
    assert_eq!(second["state"], "Complete", "{second:#}");
    assert_eq!(output(&ns, "second", "all"), whole(50));
    assert_eq!(pods_made(&ns) - before, 3 + 1, "three shards, and one that puts the file together");

    // The first run's keys are needed: it goes after the second.
    ns.kubectl(&["delete", "asynctask", "first", "--wait=false"]).ok();
    until("the first run says what it waits for", || {
        let conditions = ns.status("first")["conditions"].clone();
        conditions.as_array()?.iter().any(|c| c["reason"] == "ResultsInUse").then_some(())
    });
    ns.kubectl(&["delete", "asynctask", "second", "--timeout=60s"]).ok();
    until("the first run is gone", || ns.get("asynctask", "first").is_null().then_some(()));
}

/// How often a shard's pod is killed, by its number: every fourth fails once by itself instead. More would be no other test,
/// as the Job controller waits longer after each.
fn kills(shard: usize) -> usize {
    [0, 1, 2, 1][shard % 4]
}

/// Kills the pod of a shard that has begun to work, with and without a grace period in turns. Of every fourth shard it comes
/// at some moment around the commit, which is not waited for.
fn kill(ns: &Namespace, shard: usize) {
    if shard % 4 == 3 {
        std::thread::sleep(Duration::from_millis(100 * (shard as u64 * 3 % 10)));
    }
    let index = format!("asynctask.dev/step=spread,batch.kubernetes.io/job-completion-index={shard}");
    let force: &[&str] =
        if (shard / 4).is_multiple_of(2) { &["--grace-period=0", "--force"] } else { &["--grace-period=1"] };
    // The program has begun, which the kubelet may not have said yet.
    let unfinished = ["--field-selector=status.phase!=Succeeded,status.phase!=Failed", "--wait=false"];
    ns.kubectl(&[&["delete", "pods", "-l", &index], &unfinished[..], force].concat());
}

#[test]
fn whatever_is_killed_each_shard_is_in_the_file_once() {
    let ns = Namespace::new("killed");
    let ledger = Ledger::open();
    let shards = killed_shards();
    let nth = ledger.count(&format!("{}/$ASYNCTASK_SHARD", ns.name));
    // Those that are killed in their work do nothing else; those killed around their commit end by themselves.
    let shell = format!(
        r#"case {nth}/$((ASYNCTASK_SHARD % 4)) in 1/0) exit 1 ;; 1/1|1/2|2/2) sleep 300 ;; */3) sleep 0.$((ASYNCTASK_SHARD % 9)) ;; esac"#
    );
    let definition = numbered("killed", shards, &shell, "tolerate: {failedShards: 0}")
        .replace("limit: 3", "limit: 40")
        .replace("command: [sh,", "command: [bash,");
    ns.define("killed", &definition);
    ns.apply(&task("run", "killed")).ok();
    let (mut killed, started) = (0, Instant::now());
    let mut due: Vec<usize> = (0..shards).flat_map(|shard| std::iter::repeat_n(shard, kills(shard))).collect();
    std::thread::scope(|scope| {
        let mut struck = vec![0; shards];
        while !due.is_empty() {
            in_time(&format!("the shards {due:?} begin once more"), started, Duration::from_secs(600));
            let began = ledger.lines(&format!("{}/", ns.name));
            let times = |shard: usize| began.iter().filter(|line| line.ends_with(&format!("/{shard}"))).count();
            due.retain(|&shard| {
                let waits = times(shard) <= struck[shard];
                if !waits {
                    struck[shard] += 1;
                    killed += 1;
                    let ns = &ns;
                    scope.spawn(move || kill(ns, shard));
                }
                waits
            });
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let status = ns.finished("run");
    assert_eq!(status["state"], "Complete", "{status:#}");
    assert_eq!(output(&ns, "run", "all"), whole(shards), "each once and in order");
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for line in ledger.lines(&format!("{}/", ns.name)) {
        *ran.entry(line).or_default() += 1;
    }
    println!("{shards} shards, {} programs began, {killed} pods killed", ran.values().sum::<usize>());
    assert_eq!(ran.len(), shards);
}

#[test]
fn nothing_to_do_is_said_in_words() {
    let ns = Namespace::new("nothing");
    ns.example("bulk-email", None);
    ns.apply("{apiVersion: asynctask.dev/v1alpha1, kind: AsyncTask, metadata: {name: none}, spec: {definition: {name: bulk-email}, parameters: {recipients: 0}}}").ok();
    let status = ns.finished("none");
    assert_eq!(status["state"], "Complete", "{status:#}");
    let send = step(&status, "send");
    assert_eq!(
        (&send["state"], &send["message"]),
        (&"Skipped".into(), &"there is nothing to do: step plan emitted no items".into())
    );
}

#[test]
fn items_that_are_none_fail_the_planner_and_name_the_line() {
    let ns = Namespace::new("bad-items");
    let planner = |name: &str, shell: &str| {
        steps(
            name,
            "",
            &[
                ("plan", shell, "emitsItems: true"),
                ("send", "true", "fanOut: {itemsFrom: {step: plan}, itemsPerShard: 1}"),
            ],
        )
    };
    let cases = [
        ("no-json", r#"printf '{"id":1}\n{"id":2}\nthree\n' > "$ASYNCTASK_EMIT""#, "line 3"),
        (
            "too-long",
            r#"(printf '"'; head -c 1100000 /dev/zero | tr '\0' x; printf '"\n') > "$ASYNCTASK_EMIT""#,
            "line 1",
        ),
    ];
    for (name, shell, _) in cases {
        ns.define(name, &planner(name, shell));
        ns.apply(&task(name, name)).ok();
    }
    for (name, _, part) in cases {
        let status = ns.finished(name);
        let message = status["message"].as_str().unwrap_or_default();
        println!("{name}: {message:?}");
        assert_eq!(status["state"], "Failed", "{status:#}");
        assert!(message.contains(part), "{name}: {message}");
        assert!(step(&status, "send")["shards"].is_null(), "nothing of a dead planner is used");
    }
}
