//! The whole life of a run on the real cluster: plans of several steps, retries, alternatives, cancel, hold, history.

use serde_json::Value;

use crate::ledger::Ledger;
use crate::support::{Namespace, cli, root, run, steps, task, until};

/// A diamond with an alternative and a cleanup. `left` fails with 70 where the parameter says so; every step writes to
/// the ledger.
fn diamond(ledger: &Ledger, more: &str) -> String {
    let say = |what: &str| ledger.write(&format!("$ASYNCTASK_NAME/{what}/$ASYNCTASK_ATTEMPT"));
    let result = r#"echo "$ASYNCTASK_STEP" > "$ASYNCTASK_OUTPUTS/$ASYNCTASK_STEP.txt""#;
    let left = format!(
        r#"{}; grep -q '"fail": *true' "$ASYNCTASK_PARAMETERS" && exit 70; cat "$ASYNCTASK_INPUTS/base" > "$ASYNCTASK_OUTPUTS/left.txt""#,
        say("left")
    );
    let join = format!(r#"{}; cat "$ASYNCTASK_INPUTS"/* > "$ASYNCTASK_OUTPUTS/join.txt""#, say("join"));
    let right = format!("{}; {result}", say("right"));
    steps(
        "diamond",
        &format!(
            "  parameters: {{type: object, properties: {{fail: {{type: boolean}}}}}}\n  outputs:\n  \
             - {{name: base, step: read, path: read.txt}}\n  - {{name: left, step: left, path: left.txt}}\n  \
             - {{name: right, step: right, path: right.txt}}\n  - {{name: joined, step: join, path: join.txt}}\n{more}"
        ),
        &[
            ("read", &format!("{}; {result}", say("read")), ""),
            ("left", &left, "dependsOn: [read], inputs: [{name: base, output: base}]"),
            ("right", &right, "dependsOn: [read]"),
            ("repair", &say("repair"), r#"when: {step: left, outcome: [Failed], exitCodes: ["70"]}, recovers: true"#),
            ("join", &join, "dependsOn: [left, right], inputs: [{name: l, output: left}, {name: r, output: right}]"),
            ("clean", &say("clean"), "when: {step: right, outcome: [Failed, Canceled]}"),
        ],
    )
}

fn states(status: &Value) -> Vec<String> {
    let steps = status["steps"].as_array().unwrap().iter();
    steps.map(|step| format!("{}={}", step["name"].as_str().unwrap(), step["state"].as_str().unwrap())).collect()
}

fn with(name: &str, definition: &str, spec: &str) -> String {
    task(name, definition).replacen("spec: {", &format!("spec: {{{spec}, "), 1)
}

#[test]
fn steps_run_as_the_plan_says_and_hand_their_outputs_on() {
    let (ns, ledger) = (Namespace::new("diamond"), Ledger::open());
    ns.define("diamond", &diamond(&ledger, ""));
    ns.apply(&with("plain", "diamond", "suspend: true")).ok();
    until("it is pinned", || ns.status("plain")["plan"].as_array().map(|plan| plan.len() == 6).filter(|six| *six));
    let before = cli(&["-n", &ns.name, "status", "plain"]).ok();
    assert!(before.contains("Suspended") && before.contains("repair"), "{before}");
    cli(&["-n", &ns.name, "resume", "plain"]).ok();
    ns.apply(&with("broken", "diamond", "parameters: {fail: true}")).ok();
    let status = ns.finished("plain");
    assert_eq!(status["state"], "Complete", "{status:#}");
    assert_eq!(
        states(&status),
        ["read=Complete", "left=Complete", "right=Complete", "repair=Skipped", "join=Complete", "clean=Skipped"]
    );
    let out = std::env::temp_dir().join(format!("diamond-{}", std::process::id()));
    cli(&["-n", &ns.name, "outputs", "get", "plain", "-o", out.to_str().unwrap()]).ok();
    let found = run(std::process::Command::new("find").args([out.to_str().unwrap(), "-name", "join.txt"]), None).ok();
    assert_eq!(std::fs::read_to_string(found.trim()).unwrap(), "read\nright\n");
    let after = cli(&["-n", &ns.name, "status", "plain"]).ok();
    assert!(after.contains("not needed: step left ended well"), "{after}");
    assert_eq!(ledger.lines("plain/").len(), 4, "{:?}", ledger.lines(""));

    // The alternative makes up for the failure: what waits for both goes on, without the missing file.
    let status = ns.finished("broken");
    assert_eq!((&status["state"], &status["reason"]), (&"Complete".into(), &"Recovered".into()), "{status:#}");
    assert!(states(&status).contains(&"left=Failed".to_owned()), "{status:#}");
    assert_eq!(ledger.lines("broken/repair/").len(), 1);
}

#[test]
fn a_cancelled_run_ends_its_pods_cleans_up_once_and_works_no_more() {
    let (ns, ledger) = (Namespace::new("cancel"), Ledger::open());
    let tick = ledger.write("$ASYNCTASK_NAME/tick");
    let work = format!("while true; do {tick}; sleep 0.5; done");
    let clean = ledger.write("$ASYNCTASK_NAME/clean/$ASYNCTASK_ATTEMPT");
    let when = "when: {step: work, outcome: [Canceled]}";
    let definition = steps(
        "endless",
        "  cancellation: {allowed: Always, effect: Half of the report may be there.}",
        &[("work", &work, ""), ("after", "true", ""), ("clean", &clean, when)],
    );
    ns.define("endless", &definition);
    ns.apply(&task("a", "endless")).ok();
    until("it works", || (!ledger.lines("a/tick").is_empty()).then_some(()));
    let said = cli(&["-n", &ns.name, "cancel", "a", "--wait"]).ok();
    assert!(said.contains("Half of the report may be there."), "{said}");
    let status = ns.finished("a");
    assert_eq!((&status["state"], &status["reason"]), (&"Canceled".into(), &"CanceledByUser".into()), "{status:#}");
    assert_eq!(states(&status), ["work=Canceled", "after=Skipped", "clean=Complete"]);
    assert_eq!(ledger.lines("a/clean/"), ["a/clean/1"]);
    let pods =
        ns.kubectl(&["get", "pods", "-o", "jsonpath={.items[?(@.status.phase==\"Running\")].metadata.name}"]).ok();
    assert_eq!(pods, "", "no pod is left");
    let ticks = ledger.lines("a/tick").len();
    // Cancelled twice, and taken back: the first changes nothing, the second is refused.
    ns.kubectl(&["patch", "asynctask", "a", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).ok();
    let back = ns.kubectl(&["patch", "asynctask", "a", "--type=merge", "-p", r#"{"spec":{"cancel":false}}"#]).refused();
    assert!(back.contains("spec.cancel cannot be taken back"), "{back}");
    assert_eq!(ledger.lines("a/tick").len(), ticks, "no work after Canceled");
}

#[test]
fn one_step_cleans_up_whatever_goes_wrong() {
    let (ns, ledger) = (Namespace::new("any"), Ledger::open());
    let step = |step: &str| {
        let told = ledger.write(&format!("$ASYNCTASK_NAME/{step}"));
        format!(r#"{told}; case "$ASYNCTASK_NAME" in {step}-fails) exit 3;; {step}-stays) sleep 600;; esac"#)
    };
    let definition = steps(
        "parallel",
        "",
        &[
            ("read", &step("read"), ""),
            ("left", &step("left"), "dependsOn: [read]"),
            ("right", &step("right"), "dependsOn: [read]"),
            ("clean", &step("clean"), "when: {outcome: [Failed, Canceled]}"),
            ("after", &step("after"), ""),
        ],
    );
    ns.define("parallel", &definition);
    for name in ["good", "read-fails", "right-fails", "left-stays"] {
        ns.apply(&task(name, "parallel")).ok();
    }
    until("one works", || (!ledger.lines("left-stays/left").is_empty()).then_some(()));
    cli(&["-n", &ns.name, "cancel", "left-stays"]).ok();
    for (name, state, clean) in [
        ("good", "Complete", "Skipped"),
        ("read-fails", "Failed", "Complete"),
        ("right-fails", "Failed", "Complete"),
        ("left-stays", "Canceled", "Complete"),
    ] {
        let status = ns.finished(name);
        assert_eq!(status["state"], state, "{status:#}");
        assert!(states(&status).contains(&format!("clean={clean}")), "{:?}", states(&status));
        let cleaned = usize::from(clean == "Complete");
        assert_eq!(ledger.lines(&format!("{name}/clean")).len(), cleaned, "{name}");
        let shown = cli(&["-n", &ns.name, "status", name]).ok();
        let told = if cleaned == 1 { "because " } else { "not needed: no step failed or was cancelled" };
        assert!(shown.contains(told), "{shown}");
    }
}

#[test]
fn a_guarded_stage_is_not_interrupted_and_the_request_is_kept() {
    let (ns, ledger) = (Namespace::new("guard"), Ledger::open());
    let inside = ledger.write("$ASYNCTASK_NAME/inside");
    let go = ledger.write("$ASYNCTASK_NAME/end");
    // Inside it stays until a file is there, which the test writes into the pod.
    let work = format!(
        r#""$ASYNCTASK_AGENT" stage Updating || exit 3; {inside}; while [ ! -e "$ASYNCTASK_OUTPUTS/go" ]; do sleep 0.2; done; {go}"#
    );
    let more = "  cancellation: {allowed: UntilStage, stage: Updating, effect: The course is unchanged until then.}";
    let definition = steps("guarded", more, &[("work", &work, "stages: [Reading, Updating]"), ("after", "true", "")]);
    ns.define("guarded", &definition);
    ns.apply(&task("late", "guarded")).ok();
    until("it is inside", || (!ledger.lines("late/inside").is_empty()).then_some(()));
    let said = cli(&["-n", &ns.name, "cancel", "late"]).ok();
    assert!(said.contains("The course is unchanged until then."), "{said}");
    let refused = until("the request is answered", || {
        let status = ns.status("late");
        let found = status["conditions"].as_array()?.iter().find(|c| c["type"] == "CancelRequested")?.clone();
        Some(found)
    });
    assert_eq!((&refused["status"], &refused["reason"]), (&"True".into(), &"NotNow".into()), "{refused:#}");
    assert!(refused["message"].as_str().unwrap().contains("Updating"), "{refused:#}");
    assert_eq!(ns.status("late")["state"], "InProgress");
    let why = cli(&["-n", &ns.name, "why", "late"]).ok();
    assert!(why.contains("Updating"), "{why}");
    ns.let_end("asynctask.dev/step=work");
    let status = ns.finished("late");
    assert_eq!(states(&status), ["work=Complete", "after=Skipped"], "{status:#}");
    assert_eq!(status["state"], "Canceled");
    assert_eq!(ledger.lines("late/end").len(), 1, "the stage ran to its end");
}

#[test]
fn retries_follow_the_rules_and_only_what_is_the_authors_counts() {
    let (ns, ledger) = (Namespace::new("retry"), Ledger::open());
    let say = ledger.write("$ASYNCTASK_NAME/$ASYNCTASK_ATTEMPT");
    let flaky = format!(r#"{say}; [ "$ASYNCTASK_ATTEMPT" = 2 ] || exit 9"#);
    let retry = r#"retry: {limit: 2, backoff: {initial: 1s}, rules: [{exitCodes: ["64-78"], action: Fail}]}"#;
    ns.define("flaky", &steps("flaky", "", &[("work", &flaky, retry)]));
    ns.define("hopeless", &steps("hopeless", "", &[("work", &format!("{say}; exit 65"), retry)]));
    ns.define(
        "drained",
        &steps("drained", "", &[("work", &format!("{say}; [ $ASYNCTASK_ATTEMPT = 2 ] || sleep 600"), "")]),
    );
    for name in ["flaky", "hopeless", "drained"] {
        ns.apply(&task(name, name)).ok();
    }
    until("it works", || (!ledger.lines("drained/1").is_empty()).then_some(()));
    let pod = ns.kubectl(&["get", "pods", "-l", "asynctask.dev/task=drained", "-o", "name"]).ok();
    ns.kubectl(&["delete", pod.trim(), "--wait=false"]).ok();
    let status = ns.finished("flaky");
    assert_eq!((&status["state"], &status["steps"][0]["attempt"]), (&"Complete".into(), &2.into()), "{status:#}");
    assert_eq!(ledger.lines("flaky/"), ["flaky/1", "flaky/2"]);
    let events = ns.kubectl(&[
        "get",
        "events",
        "--field-selector",
        "reason=AttemptFailed",
        "-o",
        "jsonpath={.items[*].note}{.items[*].message}",
    ]);
    let events = events.ok();
    assert!(events.contains("attempt 1 of step work failed"), "{events}");
    let status = ns.finished("hopeless");
    assert_eq!((&status["failure"]["exitCode"], &status["failure"]["retriable"]), (&65.into(), &false.into()));
    assert_eq!(ledger.lines("hopeless/"), ["hopeless/1"], "a rule says that it is final");
    let status = ns.finished("drained");
    assert_eq!((&status["state"], &status["steps"][0]["attempt"]), (&"Complete".into(), &2.into()), "{status:#}");
    assert_eq!(status["steps"][0]["counted"], Value::Null, "a drained pod spends no retry");
}

#[test]
fn what_a_pod_waits_for_is_said_within_a_minute() {
    let ns = Namespace::new("waits");
    let definition = steps("nowhere", "", &[("work", "true", "startTimeout: 40s")]);
    let image = definition.split("image: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    ns.define("nowhere", &definition.replace(&image, "127.0.0.1:1/nothing:1").replace("IfNotPresent", "Always"));
    let huge = steps("huge", "", &[("work", "true", "startTimeout: 40s")]);
    ns.define(
        "huge",
        &huge.replace("imagePullPolicy:", "resources: {requests: {cpu: 999}}\n          imagePullPolicy:"),
    );
    ns.apply(&task("pull", "nowhere")).ok();
    ns.apply(&task("large", "huge")).ok();
    let waiting = |name: &str, known: &[&str]| {
        until("it says what it waits for", || {
            let status = ns.status(name);
            let reason = status["steps"][0]["waiting"]["reason"].as_str()?.to_owned();
            known.contains(&reason.as_str()).then_some((reason, status["reason"].as_str()?.to_owned()))
        })
    };
    let (reason, of_run) = waiting("pull", &["ErrImagePull", "ImagePullBackOff"]);
    assert_eq!(of_run, reason);
    waiting("large", &["Unschedulable"]);
    let why = cli(&["-n", &ns.name, "why", "large"]).ok();
    assert!(why.to_lowercase().contains("cpu"), "{why}");
    let failed = |name: &str| ns.finished(name)["failure"]["reason"].as_str().unwrap().to_owned();
    assert_eq!((failed("pull").as_str(), failed("large").as_str()), ("ImagePull", "StartTimeout"));
}

#[test]
fn the_history_of_a_run_outlives_its_object() {
    let ns = Namespace::new("history");
    ns.define("quick", &steps("quick", "", &[("work", "true", "")]));
    ns.apply(&task("a", "quick")).ok();
    assert_eq!(ns.finished("a")["state"], "Complete");
    until("it is marked", || {
        ns.get("asynctask", "a")["metadata"]["annotations"]["asynctask.dev/finished"].as_str().map(drop)
    });
    ns.kubectl(&["delete", "asynctask", "a"]).ok();
    assert_eq!(ns.get("asynctask", "a"), Value::Null);
    let said = cli(&["-n", &ns.name, "history", "a"]).ok();
    assert!(said.contains("InProgress") && said.contains("Complete"), "{said}");
}

#[test]
fn the_sample_of_the_book_runs_as_it_says() {
    let ns = Namespace::new("book");
    let sample = std::fs::read_to_string(root().join("docs/src/samples/diamond.yaml")).unwrap();
    ns.define("diamond", &sample);
    ns.apply(&with("good", "diamond", "parameters: {course: one}")).ok();
    ns.apply(&with("bad", "diamond", "parameters: {course: two, badMedia: true}")).ok();
    let (good, bad) = (ns.finished("good"), ns.finished("bad"));
    assert_eq!((&good["state"], &good["reason"]), (&"Complete".into(), &"StepsSucceeded".into()), "{good:#}");
    assert_eq!((&bad["state"], &bad["reason"]), (&"Complete".into(), &"Recovered".into()), "{bad:#}");
}
