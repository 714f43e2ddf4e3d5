//! Whose failure was it, on a real cluster: what ordinary programs and files do to an attempt, how often it is tried, and
//! what people are told. The whole table is in `src/plan/tests/endings.rs` and `tests/agent/blame.rs`.

use serde_json::Value;

use crate::support::{Namespace, cli, kubectl, script, steps, task, until};

/// Two attempts that count, close behind each other.
const TWICE: &str = "retry: {limit: 1, backoff: {initial: 1s, max: 1s}}";

/// A program, and how its run ends.
struct Case {
    name: &'static str,
    shell: &'static str,
    outputs: &'static str,
    attempts: i64,
    code: &'static str,
    words: &'static str,
}

const fn case(name: &'static str, shell: &'static str, attempts: i64, code: &'static str, words: &'static str) -> Case {
    Case { name, shell, outputs: "", attempts, code, words }
}

const fn leaves(name: &'static str, shell: &'static str, code: &'static str, words: &'static str) -> Case {
    Case { name, shell, outputs: "  outputs: [{name: pages, step: work, path: pages/}]", attempts: 1, code, words }
}

/// The program's failures count (the kubelet makes `$` of `$$`), and what another attempt would not change is not tried again.
const CASES: &[Case] = &[
    case("exits-3", "exit 3", 2, "ExitCode3", "exit code 3"),
    case("exits-143", "exit 143", 2, "ExitCode143", "exit code 143"),
    case("exits-240", "exit 240", 2, "ExitCode240", "exit code 240"),
    case("exits-241", "exit 241", 2, "ExitCode241", "exit code 241"),
    case("exits-244", "exit 244", 2, "ExitCode244", "exit code 244"),
    case("exits-245", "exit 245", 2, "ExitCode245", "exit code 245"),
    case("kills-itself", "kill -TERM $$$$", 2, "Signal15", "SIGTERM"),
    case("kills-its-group", "trap 'kill 0' EXIT; exit 0", 2, "Signal15", "SIGTERM"),
    // The agent is process 1 of the container.
    case("stops-the-container", "kill -TERM 1; sleep 60", 2, "Terminated", "a process of the container"),
    case(
        "bar",
        r"printf '\r 50%%|##  | 1/2\r100%%|####| 2/2\rERROR: no title\n' >&2; exit 1",
        2,
        "ExitCode1",
        "ERROR: no title",
    ),
    leaves(
        "backslash",
        r"mkdir $ASYNCTASK_OUTPUTS/pages; touch $ASYNCTASK_OUTPUTS/pages/'a\b'",
        "OutputRefused",
        "backslash",
    ),
    leaves("unreadable", "mkdir -m 000 $ASYNCTASK_OUTPUTS/pages", "OutputRefused", "pages"),
    leaves("forgets", "true", "OutputMissing", "leave an empty file"),
];

/// The run with the given name ends in so many attempts.
fn ends(ns: &Namespace, name: &str, attempts: i64, code: &str, words: &str) {
    let status = ns.finished(name);
    let failure = &status["failure"];
    println!("{name}: {} attempt(s), {}: {}", status["steps"][0]["attempt"], failure["code"], failure["message"]);
    assert_eq!((&status["state"], &failure["code"]), (&"Failed".into(), &Value::from(code)), "{name}: {status:#}");
    assert_eq!(status["steps"][0]["attempt"], attempts, "{name}: {status:#}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains(words) && !message.contains(char::is_control), "{name}: {message:?}");
}

#[test]
fn what_is_the_programs_counts_and_what_cannot_change_is_not_tried_again() {
    let ns = Namespace::new("blame");
    for case in CASES {
        let definition = steps(case.name, case.outputs, &[("work", case.shell, TWICE)]);
        ns.apply(&definition).ok();
    }
    let misspelt = script("misspelt", "true", "").replace("[sh, -c, \"true\"]", "[/reprot.sh]");
    let misspelt = misspelt.replace("stages: [First, Second]", TWICE);
    ns.apply(&misspelt).ok();
    for name in CASES.iter().map(|case| case.name).chain(["misspelt"]) {
        ns.wait("condition=Ready", &format!("taskdefinition/{name}"), 60);
        ns.apply(&task(name, name)).ok();
    }
    for Case { name, attempts, code, words, .. } in CASES {
        ends(&ns, name, *attempts, code, words);
    }
    ends(&ns, "misspelt", 1, "CommandNotStarted", "/reprot.sh");
}

#[test]
fn a_child_that_runs_out_of_memory_is_told_as_such() {
    let ns = Namespace::new("memory");
    let rule = "retry: {limit: 3, rules: [{reasons: [OOMKilled], action: Fail}]}";
    // It ends with the code that a shell gives for a child that was killed.
    let definition = steps("greedy", "", &[("work", "tail /dev/zero; exit $?", rule)]);
    let limits = "          resources: {limits: {memory: 48Mi}}\n          command:";
    ns.define("greedy", &definition.replace("          command:", limits));
    ns.apply(&task("t", "greedy")).ok();
    ends(&ns, "t", 1, "OutOfMemory", "resources.limits.memory");
}

#[test]
fn a_shard_that_ends_with_a_code_of_the_agents_is_the_programs() {
    let ns = Namespace::new("blame-shards");
    let fan = format!("fanOut: {{shards: 3, parallelism: 3}}, {}", "retry: {limit: 1}");
    ns.define("spread", &steps("spread", "", &[("work", "[ $ASYNCTASK_SHARD != 1 ] || exit 241", &fan)]));
    ns.apply(&task("t", "spread")).ok();
    let status = ns.finished("t");
    let failure = &status["failure"];
    assert_eq!((&failure["reason"], &failure["code"]), (&"ShardsFailed".into(), &"ExitCode241".into()), "{status:#}");
    assert_eq!(status["steps"][0]["attempt"], 1, "no further Job is made of it");
}

#[test]
fn what_a_program_leaves_behind_is_waited_for_and_told() {
    let ns = Namespace::new("leftovers");
    let outputs = "  outputs: [{name: rows, step: work, path: rows.csv, mediaType: text/csv}]";
    let slow = r#"{ sleep 2; seq 1 3000; } > "$ASYNCTASK_OUTPUTS/rows.csv" & exit 0"#;
    ns.define("slow", &script("slow", slow, outputs));
    let daemon = r#"sleep 600 >/dev/null 2>&1 & echo 1 > "$ASYNCTASK_OUTPUTS/rows.csv""#;
    ns.define("daemon", &script("daemon", daemon, outputs));
    ns.apply(&task("slow", "slow")).ok();
    ns.apply(&task("daemon", "daemon")).ok();
    assert_eq!(ns.finished("slow")["state"], "Complete");
    let rows = cli(&["-n", &ns.name, "outputs", "get", "slow", "rows", "-o", "-"]).ok();
    assert_eq!(rows.lines().count(), 3000, "a result that is Complete is whole");
    let status = ns.finished("daemon");
    assert_eq!(status["state"], "Complete", "{status:#}");
    assert!(status["steps"][0]["message"].as_str().is_some_and(|said| said.contains("\"sleep\"")), "{status:#}");
}

#[test]
fn names_from_macos_bytes_and_long_names_are_kept_as_they_are_meant() {
    let ns = Namespace::new("kept");
    let pages = "  outputs: [{name: pages, step: work, path: pages/}]";
    let mac = r#"mkdir "$ASYNCTASK_OUTPUTS/pages"; echo x > "$ASYNCTASK_OUTPUTS/pages/$(printf 'u\314\210bung.txt')""#;
    ns.define("mac", &script("mac", mac, pages));
    // gzip files behind each other are one gzip file, with a line's end between them they are not.
    let append =
        "  outputs: [{name: rows, step: send-reminder-emails, path: r.gz, mediaType: application/gzip, append: {}}]";
    let zip = r#"seq 1 40 | gzip -n > "$ASYNCTASK_OUTPUTS/r.gz""#;
    let fan = [("send-reminder-emails", zip, "fanOut: {shards: 12, parallelism: 6}")];
    ns.define("zip", &steps("zip", append, &fan));
    let long = "data-science-101-spring-term-2027-week-12-twelve-shards";
    ns.apply(&task("mac", "mac")).ok();
    ns.apply(&task(long, "zip")).ok();
    assert_eq!(ns.finished("mac")["state"], "Complete");
    let listed = cli(&["-n", &ns.name, "outputs", "ls", "mac"]).ok();
    assert!(listed.contains("pages/\u{fc}bung.txt"), "{listed}");
    assert_eq!(ns.finished(long)["state"], "Complete", "{:#}", ns.status(long));
    let to = std::env::temp_dir().join(format!("{}.gz", ns.name));
    cli(&["-n", &ns.name, "outputs", "get", long, "rows", "-o", to.to_str().unwrap()]).ok();
    let rows = crate::support::run(std::process::Command::new("gzip").args(["-dc"]).arg(&to), None).ok();
    assert_eq!(rows.lines().count(), 12 * 40);
    std::fs::remove_file(to).unwrap();
}

#[test]
fn two_outputs_with_one_path_are_both_fetched() {
    let ns = Namespace::new("twice");
    let outputs = "  outputs: [{name: a, step: one, path: report.txt}, {name: b, step: two, path: report.txt}]";
    let writes = r#"echo $ASYNCTASK_STEP > "$ASYNCTASK_OUTPUTS/report.txt""#;
    ns.define("twice", &steps("twice", outputs, &[("one", writes, ""), ("two", writes, "")]));
    ns.apply(&task("t", "twice")).ok();
    assert_eq!(ns.finished("t")["state"], "Complete");
    let to = std::env::temp_dir().join(&ns.name);
    let folder = format!("{}/", to.display());
    for more in [&[][..], &["--force"]] {
        cli(&[&["-n", ns.name.as_str(), "outputs", "get", "t", "-o", &folder], more].concat()).ok();
        let read = |name: &str| std::fs::read_to_string(to.join(name).join("report.txt")).unwrap();
        assert_eq!((read("a"), read("b")), ("one\n".into(), "two\n".into()));
        std::fs::remove_dir_all(&to).unwrap();
    }
}

/// Stands for a mesh, Vault or a log shipper that injects an ordinary container: it is there when the program has ended.
const INJECTED: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NAME}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  matchConditions: [{name: not-yet, expression: "!object.spec.containers.exists(c, c.name == 'proxy')"}]
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        [JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{
          name: "proxy", image: "IMAGE", imagePullPolicy: "IfNotPresent",
          command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"],
          securityContext: Object.spec.containers.securityContext{
            allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65532,
            capabilities: Object.spec.containers.securityContext.capabilities{drop: ["ALL"]}}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: NAME}
spec:
  policyName: NAME
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}}
"#;

#[test]
fn a_container_that_was_injected_and_never_ends_is_not_waited_for() {
    let ns = Namespace::new("injected");
    let policy = INJECTED.replace("NAME", &ns.name).replace("IMAGE", &crate::support::variable("HELLO_REPORT_IMAGE"));
    crate::support::kubectl_in(&["apply"], &policy).ok();
    let outputs = "  outputs: [{name: ok, step: work, path: ok.txt}]";
    ns.define("quick", &script("quick", r#"echo ok > "$ASYNCTASK_OUTPUTS/ok.txt""#, outputs));
    // The API server takes its time to know a policy.
    let pods = || ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.containers[*].name}"]).ok();
    until("the policy holds", || {
        ns.kubectl(&["delete", "asynctask", "t", "--ignore-not-found", "--timeout=60s"]).ok();
        ns.apply(&task("t", "quick")).ok();
        until("a pod is made", || (!pods().is_empty()).then_some(()));
        pods().contains("proxy").then_some(())
    });
    let status = ns.finished("t");
    assert_eq!(status["state"], "Complete", "{status:#}");
    let time = |of: &Value| of.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let conditions = status["conditions"].as_array().unwrap();
    let finished = conditions.iter().find(|condition| condition["type"] == "Finished").unwrap();
    let after = time(&finished["lastTransitionTime"]).duration_since(time(&status["steps"][0]["finishTime"]));
    // A fruitless look at a run comes after 75 s, and the pod has 30 s for its end.
    assert!(after.as_secs() < 30, "the run is over when its step is: {after:?}");
    kubectl(&["delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", &ns.name]).ok();
}

#[test]
fn a_run_kept_in_git_does_not_run_again_after_its_retention() {
    let ns = Namespace::new("once");
    let retention = "  retention: {pods: 1s, task: 1s}";
    for definition in ["invoices", "changed"] {
        ns.define(definition, &script(definition, "echo sent", retention));
    }
    let run = task("october", "invoices");
    ns.apply(&run).ok();
    let first = ns.get("asynctask", "october")["metadata"]["uid"].clone();
    // As GitOps does, until the retention has taken the object away.
    let again = until("the object is another one", || {
        ns.apply(&run).ok();
        let uid = ns.get("asynctask", "october")["metadata"]["uid"].clone();
        (!uid.is_null() && uid != first).then_some(uid)
    });
    let status = ns.finished("october");
    assert_eq!((&status["state"], &status["reason"]), (&"Canceled".into(), &"RanBefore".into()), "{status:#}");
    let selector = format!("asynctask.dev/task-uid={}", again.as_str().unwrap());
    assert_eq!(ns.kubectl(&["get", "jobs", "-l", &selector, "-o", "name"]).ok(), "");
    // The same for a time of its own, and of what is another request nobody says that it ran.
    ns.kubectl(&["delete", "asynctask", "october", "--timeout=60s"]).ok();
    ns.apply(&run.replace("}}}", "}, once: 24h}}")).ok();
    let status = ns.finished("october");
    assert_eq!((&status["state"], &status["reason"]), (&"Canceled".into(), &"RanBefore".into()), "{status:#}");
    // Its own retention is a second long, and may be over.
    ns.kubectl(&["delete", "asynctask", "october", "--timeout=60s", "--ignore-not-found"]).ok();
    ns.apply(&task("october", "changed")).ok();
    assert_eq!(ns.finished("october")["state"], "Complete", "another request of the same name");
}

#[test]
fn a_run_is_deleted_after_its_guarded_stage() {
    let ns = Namespace::new("guarded-delete");
    let cancellation = "  cancellation: {allowed: UntilStage, stage: First}";
    let shell = r#"trap 'echo told >&2; exit 1' TERM; "$ASYNCTASK_AGENT" stage First
        for part in 1 2 3 4 5 6; do echo "part $part"; sleep 1; done
        "$ASYNCTASK_AGENT" stage Second && echo whole"#;
    ns.define("moves", &script("moves", shell, cancellation));
    ns.apply(&task("t", "moves")).ok();
    until("the stage is entered", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
    let pod = ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]).ok();
    let log = std::thread::scope(|scope| {
        let follows = scope.spawn(|| ns.kubectl(&["logs", "-f", &pod, "-c", "task"]).out);
        ns.kubectl(&["delete", "asynctask", "t", "--timeout=120s"]).ok();
        follows.join().unwrap()
    });
    assert!(log.contains("whole") && !log.contains("told"), "it got to the end of its stage: {log}");
}

#[test]
fn who_must_ends_a_run_inside_its_guarded_stage() {
    let ns = Namespace::new("interrupt");
    let cancellation = "  cancellation: {allowed: UntilStage, stage: First}";
    ns.define("moves", &script("moves", r#""$ASYNCTASK_AGENT" stage First; exec sleep 3600"#, cancellation));
    ns.apply(&task("t", "moves")).ok();
    until("the stage is entered", || (ns.status("t")["steps"][0]["stage"] == "First").then_some(()));
    let ada = ns.person("ada", Some("edit"));
    let interrupt = ["annotate", "asynctask", "t", "asynctask.dev/interrupt=true"];
    ada.kubectl(&["delete", "asynctask", "t", "--wait=false"], None).ok();
    let told = until("it says what it waits for", || {
        let conditions = ns.status("t")["conditions"].clone();
        conditions.as_array()?.iter().find(|c| c["reason"] == "InGuardedStage").map(|c| c["message"].to_string())
    });
    assert!(told.contains(&interrupt.join(" ")), "{told}");
    let refused = ada.kubectl(&interrupt, None).refused();
    assert!(refused.contains("the verb `interrupt` on asynctasks"), "{refused}");
    ns.kubectl(&["create", "role", "interrupts", "--verb=interrupt", "--resource=asynctasks.asynctask.dev"]).ok();
    let account = format!("--serviceaccount={}:ada", ns.name);
    ns.kubectl(&["create", "rolebinding", "interrupts", "--role=interrupts", &account]).ok();
    until("the right is known", || (ada.kubectl(&interrupt, None).code == 0).then_some(()));
    until("it is gone", || ns.get("asynctask", "t").is_null().then_some(()));
}
