//! Whose turn it is: the order of the queue on fake nodes, where many runs cost nothing, and concurrency keys with real
//! programs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::ledger::Ledger;
use crate::support::{Namespace, get, kubectl, kubectl_in, script, steps, task, until};

/// How many runs of the definition may be in progress at a time.
const PLACES: usize = 5;

/// How many runs the queue is tried with. `make e2e SUITE=scale` asks for more than the short form.
fn size() -> usize {
    std::env::var("SCALE_TASKS").map_or(60, |text| text.parse().unwrap())
}

/// The states of all runs of a namespace as the API server tells them: every change, in the order of the writes.
struct Watch(Child);

impl Watch {
    fn of(ns: &Namespace) -> Self {
        let line = "jsonpath={.metadata.name} {.status.state}{\"\\n\"}";
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["-n", &ns.name, "get", "asynctasks", "--watch", "-o", line]);
        Self(kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Name and state of each change so far; the watch ends.
    fn end(mut self) -> Vec<(String, String)> {
        self.0.kill().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let pair = |line: &str| line.split_once(' ').map(|(name, state)| (name.to_owned(), state.trim().to_owned()));
        text.lines().filter_map(pair).collect()
    }
}

/// Two PriorityClasses, gone at the end.
struct Classes {
    high: String,
    low: String,
}

impl Classes {
    fn new(ns: &Namespace) -> Self {
        let classes = Self { high: format!("{}-high", ns.name), low: format!("{}-low", ns.name) };
        for (name, value) in [(&classes.high, 1000), (&classes.low, 10)] {
            let class = format!(
                "{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {name}}}, value: {value}, \
                 preemptionPolicy: Never}}"
            );
            kubectl_in(&["apply"], &class).ok();
        }
        classes
    }
}

impl Drop for Classes {
    fn drop(&mut self) {
        kubectl(&["delete", "priorityclass", &self.high, &self.low]);
    }
}

/// Pods of the definition find no node until the fake ones carry the label of this namespace.
fn on_fake_nodes(ns: &Namespace, classes: &Classes) -> String {
    let (high, low) = (&classes.high, &classes.low);
    let more = format!("  concurrency: {{maxRunning: {PLACES}}}\n  priorityClasses: [{high}, {low}]");
    let place = format!(
        "nodeSelector: {{door: {}}}\n        tolerations: [{{key: kwok.x-k8s.io/node, operator: Exists}}]\n        \
         securityContext:\n          runAsNonRoot",
        ns.name
    );
    steps("busy", &more, &[("work", "true", "")]).replacen("securityContext:\n          runAsNonRoot", &place, 1)
}

/// Opens the door, for the pods of one namespace.
fn open_the_door(ns: &Namespace) {
    kubectl(&["label", "nodes", "-l", "type=kwok", "--overwrite", &format!("door={}", ns.name)]).ok();
}

fn many(range: std::ops::Range<usize>, class: impl Fn(usize) -> String) -> String {
    let one = |n: usize| {
        let class = format!("spec: {{priorityClassName: {}, ", class(n));
        task(&format!("t{n:04}"), "busy").replacen("spec: {", &class, 1)
    };
    range.map(one).collect::<Vec<_>>().join("\n---\n")
}

/// Replays the changes: the most runs that were in progress at the same time, and the order in which they started.
fn replay(changes: &[(String, String)]) -> (usize, Vec<String>) {
    let (mut running, mut most, mut started) = (BTreeSet::new(), 0, Vec::new());
    for (name, state) in changes {
        if state == "InProgress" {
            if running.insert(name) {
                started.push(name.clone());
            }
        } else {
            running.remove(name);
        }
        most = most.max(running.len());
    }
    (most, started)
}

fn in_state(ns: &Namespace, state: &str) -> usize {
    let selector = format!("--field-selector=status.state={state}");
    get(&["-n", &ns.name, "asynctasks", &selector])["items"].as_array().map_or(0, Vec::len)
}

/// The order in which the runs that waited should start.
fn expected(ns: &Namespace, classes: &Classes) -> BTreeMap<String, (Reverse<bool>, String, String)> {
    let tasks = get(&["-n", &ns.name, "asynctasks"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let order = |task: &Value| {
        let high = Reverse(task["spec"]["priorityClassName"] == classes.high.as_str());
        let meta = &task["metadata"];
        (text(&meta["name"]), (high, text(&meta["creationTimestamp"]), text(&meta["uid"])))
    };
    tasks["items"].as_array().unwrap().iter().map(order).collect()
}

#[test]
fn many_runs_pass_five_at_a_time_by_priority_then_age_and_none_is_left() {
    let (ns, size) = (Namespace::new("line"), size());
    let classes = Classes::new(&ns);
    ns.define("busy", &on_fake_nodes(&ns, &classes));
    let watch = Watch::of(&ns);
    // The first ones take all places and stay there, so that all others wait when the door is opened.
    ns.create(&many(0..PLACES, |_| classes.low.clone()));
    until("all places are taken", || (in_state(&ns, "InProgress") == PLACES).then_some(()));
    let class = |n: usize| if n.is_multiple_of(3) { classes.high.clone() } else { classes.low.clone() };
    ns.create(&many(PLACES..size, class));
    until("all others wait", || (in_state(&ns, "Pending") == size - PLACES).then_some(()));

    open_the_door(&ns);

    let mut ended = 0;
    while ended < size {
        // Each step forward has its own patience: a thousand runs take their time.
        ended = until("the line moves on", || Some(in_state(&ns, "Failed")).filter(|now| *now > ended));
    }
    let tasks = get(&["-n", &ns.name, "asynctasks"]);
    for task in tasks["items"].as_array().unwrap() {
        // No agent runs on a fake node, so nothing was committed: each had its turn, and its pod.
        assert_eq!(task["status"]["failure"]["reason"], "OutputNotCommitted", "{task:#}");
    }
    let (most, started) = replay(&watch.end());
    assert_eq!((most, started.len()), (PLACES, size), "at a time, and in all");
    let order = expected(&ns, &classes);
    let late = &started[PLACES..];
    for (at, name) in late.iter().enumerate() {
        // Runs that get their turn together are written down in any order, and there are never more than the places.
        let overtaken = late[..at].iter().filter(|other| order[*other] > order[name]).count();
        assert!(overtaken < PLACES, "{name} started {at}th, after {overtaken} that should come later");
    }
    println!("{size} runs, {most} at a time");
}

/// A program that says when it begins and ends; one that is named `first` ends when it is told.
fn keyed(name: &str, ledger: &Ledger, policy: &str, pause: &str) -> String {
    let (begin, end) = (ledger.write("$ASYNCTASK_NAME/begin"), ledger.write("$ASYNCTASK_NAME/end"));
    let shell = format!(
        r#"{begin}; if [ "$ASYNCTASK_NAME" = first ]; then while [ ! -e "$ASYNCTASK_OUTPUTS/go" ]; do sleep 0.2; done; fi; sleep {pause}; {end}"#
    );
    let more = format!(
        "  parameters: {{type: object, required: [course], properties: {{course: {{type: string}}}}}}\n  \
         concurrency: {{key: [course], policy: {policy}}}"
    );
    script(name, &shell, &more)
}

fn of_course(name: &str, definition: &str, course: &str) -> String {
    task(name, definition).replacen("spec: {", &format!("spec: {{parameters: {{course: {course}}}, "), 1)
}

fn begun(ledger: &Ledger, name: &str) {
    until("it works", || (!ledger.lines(&format!("{name}/begin")).is_empty()).then_some(()));
}

#[test]
fn runs_of_one_key_that_queue_go_one_at_a_time_in_order() {
    let (ns, ledger) = (Namespace::new("key-queue"), Ledger::open());
    ns.define("queues", &keyed("queues", &ledger, "Queue", "0"));
    ns.apply(&of_course("first", "queues", "a")).ok();
    begun(&ledger, "first");
    let others: Vec<String> = (1..10).map(|n| of_course(&format!("t{n}"), "queues", "a")).collect();
    ns.create(&others.join("\n---\n"));
    ns.apply(&of_course("free", "queues", "b")).ok();
    assert_eq!(ns.finished("free")["state"], "Complete", "another key is in nobody's way");
    until("all others wait", || (in_state(&ns, "Pending") == others.len()).then_some(()));
    assert_eq!(ns.status("t9")["reason"], "ConcurrencyKeyBusy");
    let tasks = get(&["-n", &ns.name, "asynctasks"]);

    ns.let_end("asynctask.dev/task=first");

    let age = |task: &Value| {
        let meta = &task["metadata"];
        (meta["creationTimestamp"].to_string(), meta["uid"].to_string(), meta["name"].as_str().unwrap().to_owned())
    };
    let mut line: Vec<_> = tasks["items"].as_array().unwrap().iter().map(age).collect();
    line.retain(|(_, _, name)| name != "free" && name != "first");
    line.sort();
    let mut wanted = vec!["first/begin".to_owned(), "first/end".to_owned()];
    for (_, _, name) in line {
        assert_eq!(ns.finished(&name)["state"], "Complete");
        wanted.extend([format!("{name}/begin"), format!("{name}/end")]);
    }
    let mut said = ledger.lines("");
    said.retain(|line| !line.starts_with("free/"));
    assert_eq!(said, wanted);
}

#[test]
fn a_run_whose_key_is_taken_is_rejected_until_the_key_is_free() {
    let (ns, ledger) = (Namespace::new("key-reject"), Ledger::open());
    ns.define("rejects", &keyed("rejects", &ledger, "Reject", "0"));
    ns.apply(&of_course("first", "rejects", "a")).ok();
    begun(&ledger, "first");

    ns.apply(&of_course("second", "rejects", "a")).ok();

    let status = ns.finished("second");
    assert_eq!((&status["state"], &status["reason"]), (&"Failed".into(), &"ConcurrencyKeyBusy".into()), "{status:#}");
    assert!(status["message"].as_str().unwrap().contains("first"), "{status:#}");
    assert_eq!(ledger.lines("second/"), Vec::<String>::new());
    ns.let_end("asynctask.dev/task=first");
    assert_eq!(ns.finished("first")["state"], "Complete");
    ns.apply(&of_course("third", "rejects", "a")).ok();
    assert_eq!(ns.finished("third")["state"], "Complete");
}

#[test]
fn of_runs_that_replace_each_other_the_newest_is_left() {
    let (ns, ledger) = (Namespace::new("key-replace"), Ledger::open());
    ns.define("replaces", &keyed("replaces", &ledger, "Replace", "1"));
    ns.apply(&of_course("first", "replaces", "a")).ok();
    begun(&ledger, "first");

    let others: Vec<String> = (1..5).map(|n| of_course(&format!("t{n}"), "replaces", "a")).collect();
    ns.create(&others.join("\n---\n"));

    let ends = ["first", "t1", "t2", "t3", "t4"].map(|name| (name, ns.finished(name)));
    let complete: Vec<&str> =
        ends.iter().filter(|(_, status)| status["state"] == "Complete").map(|(name, _)| *name).collect();
    assert_eq!(complete.len(), 1, "{ends:#?}");
    assert_ne!(complete, ["first"], "an older one does not survive");
    for (name, status) in ends.iter().filter(|(name, _)| *name != complete[0]) {
        assert_eq!(
            (&status["state"], &status["reason"]),
            (&"Canceled".into(), &"Replaced".into()),
            "{name}: {status:#}"
        );
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("newer run t"), "{name}: {message}");
    }
    let ended: Vec<String> = ledger.lines("").into_iter().filter(|line| line.ends_with("/end")).collect();
    assert_eq!(ended, [format!("{}/end", complete[0])], "only one did its work");
}
