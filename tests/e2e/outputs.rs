//! What becomes of outputs: who sees them, how long they are kept, and that one for one use is one person's.

use serde_json::Value;

use crate::support::{Namespace, Person, cli, root, script, steps, stored, task, until};

/// A definition whose program writes one file an output. `outputs`: name, and what else is said of it.
pub(crate) fn writer(name: &str, outputs: &[(&str, &str)], more: &str) -> String {
    let shell: Vec<_> =
        outputs.iter().map(|(name, _)| format!("echo {name} > $ASYNCTASK_OUTPUTS/{name}.txt")).collect();
    let declared: Vec<_> =
        outputs.iter().map(|(name, said)| format!("{{name: {name}, step: work, path: {name}.txt, {said}}}")).collect();
    script(
        name,
        &format!("echo writing; {}", shell.join("; ")),
        &format!("  outputs: [{}]\n{more}", declared.join(", ")),
    )
}

fn route(ns: &Namespace, task: &str, output: &str) -> String {
    format!("/api/v1/namespaces/{}/tasks/{task}/outputs/{output}", ns.name)
}

pub(crate) fn download(ns: &Namespace, task: &str, output: &str) -> String {
    format!("{}/files/0/download", route(ns, task, output))
}

/// A run that somebody starts themselves, in a team that all service accounts of the namespace are members of.
fn owned(ns: &Namespace, owner: &Person, name: &str, definition: &str, team: bool) {
    let team = if team { format!(", team: \"system:serviceaccounts:{}\"", ns.name) } else { String::new() };
    let spec = format!("spec: {{definition: {{name: {definition}}}{team}}}");
    let document = task(name, definition).replace(&format!("spec: {{definition: {{name: {definition}}}}}"), &spec);
    owner.kubectl(&["-n", &ns.name, "apply", "-f", "-"], Some(&document)).ok();
    assert_eq!(ns.finished(name)["state"], "Complete", "{:#}", ns.status(name));
}

/// Keys of a run, without its history.
pub(crate) fn files(uid: &str) -> Vec<std::path::PathBuf> {
    stored(uid).into_iter().filter(|path| !path.to_string_lossy().contains("/_history/")).collect()
}

pub(crate) fn output<'a>(status: &'a Value, name: &str) -> &'a Value {
    let outputs = status["outputs"].as_array().unwrap();
    outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("no output {name}: {status:#}"))
}

#[test]
fn an_output_is_seen_by_those_its_definition_names_and_deleted_by_them() {
    let ns = Namespace::new("visible");
    let outputs = [("mine", "visibility: Owner"), ("ours", "visibility: Team"), ("all", "visibility: Namespace")];
    ns.define("writer", &writer("writer", &outputs, ""));
    let (ada, tom) = (ns.person("ada", Some("edit")), ns.person("tom", Some("edit")));
    owned(&ns, &ada, "with-team", "writer", true);
    owned(&ns, &ada, "alone", "writer", false);
    let sees = |who: &Person, task: &str| -> Vec<u16> {
        let each = outputs.iter().map(|(output, _)| who.http("GET", &download(&ns, task, output), &[]).status);
        each.collect()
    };
    assert_eq!(sees(&ada, "with-team"), [200, 200, 200]);
    assert_eq!(sees(&tom, "with-team"), [404, 200, 200]);
    assert_eq!(sees(&tom, "alone"), [404, 404, 200]);
    let listed = tom.http("GET", &format!("/api/v1/namespaces/{}/tasks/with-team/outputs", ns.name), &[]).json();
    let names: Vec<_> = listed["outputs"].as_array().unwrap().iter().map(|output| output["name"].clone()).collect();
    assert_eq!(names, ["ours", "all", "log"]);
    let found = tom.cli(&["outputs", "find", "--definition", "writer", "-o", "json"]).ok();
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    let found: Vec<_> = found.iter().map(|it| format!("{}/{}", it["task"], it["output"]).replace('"', "")).collect();
    assert_eq!(found, ["alone/all", "with-team/ours", "with-team/all"]);
    // One that cannot be seen and one that is not there are answered alike.
    let (hidden, missing) = (download(&ns, "with-team", "mine"), download(&ns, "with-team", "none"));
    assert_eq!(tom.http("GET", &hidden, &[]).body, tom.http("GET", &missing, &[]).body);

    assert_eq!(tom.http("DELETE", &route(&ns, "with-team", "mine"), &[]).status, 404);
    println!("{}", tom.cli(&["outputs", "rm", "with-team", "ours"]).ok());
    let gone = ada.http("GET", &download(&ns, "with-team", "ours"), &[]);
    let tombstone = format!("deleted by system:serviceaccount:{}:tom", ns.name);
    assert!(gone.status == 410 && gone.body.contains(&tombstone), "{gone:?}");
    let status = until("its bytes are gone", || {
        let status = ns.status("with-team");
        (!output(&status, "ours")["gone"].is_null()).then_some(status)
    });
    assert_eq!(output(&status, "ours")["gone"]["why"], "Deleted", "{status:#}");
    let uid = ns.get("asynctask", "with-team")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(stored(&uid).iter().all(|path| !path.to_string_lossy().contains("/files/ours/")));
    assert_eq!(sees(&ada, "with-team"), [200, 410, 200], "its neighbours are there");
    assert_eq!(tom.http("DELETE", &route(&ns, "with-team", "ours"), &[]).status, 204, "twice is once");
    println!("{}", ada.cli(&["outputs", "ls", "with-team"]).ok());
}

#[test]
fn what_has_had_its_time_goes_and_the_task_after_the_last_of_it() {
    let ns = Namespace::new("kept");
    let outputs = [
        ("a", "retention: {for: 2s}"),
        ("ab", "retention: {for: 8s, atMost: 720h}"),
        ("held", "retention: {forever: true}"),
    ];
    ns.define("short", &writer("short", &outputs[..2], "  retention: {task: 3s}"));
    ns.define("long", &writer("long", &outputs, "  retention: {task: 1s}"));
    ns.define("extended", &writer("extended", &outputs[1..2], "  retention: {task: 1s}"));
    for name in ["short", "long", "extended"] {
        ns.apply(&task(name, name)).ok();
    }
    let uid = ns.get("asynctask", "short")["metadata"]["uid"].as_str().unwrap().to_owned();
    let status = ns.finished("extended");
    println!("{}", crate::support::cli(&["-n", &ns.name, "keep", "extended", "--until", "2999-01-01"]).ok());
    println!("{}", crate::support::cli(&["-n", &ns.name, "retention", "preview"]).ok());
    assert_eq!(status["state"], "Complete");
    ns.finished("long");

    until("the short one is gone with its keys", || {
        (ns.get("asynctask", "short").is_null() && files(&uid).is_empty()).then_some(())
    });
    let past = crate::support::cli(&["-n", &ns.name, "list", "--history", "--definition", "short"]).ok();
    println!("{past}");
    assert!(past.lines().any(|line| line.starts_with("short ") && line.contains("Complete")), "{past}");
    let status = until("the long one has only what is kept for ever", || {
        let status = ns.status("long");
        let gone = |name: &str| !output(&status, name)["gone"].is_null();
        (gone("a") && gone("ab")).then_some(status)
    });
    assert!(
        output(&status, "held")["gone"].is_null() && output(&status, "a")["gone"]["why"] == "Expired",
        "{status:#}"
    );
    assert!(status["plan"].is_null(), "its details had their time: {status:#}");
    let held = crate::support::cli(&["-n", &ns.name, "outputs", "get", "long", "held", "-o", "-"]).ok();
    assert_eq!(held, "held\n");
    let kept = crate::support::cli(&["-n", &ns.name, "outputs", "get", "extended", "ab", "-o", "-"]).ok();
    assert_eq!(kept, "ab\n", "somebody asked for it to be kept");
}

#[test]
fn an_upload_for_one_run_serves_that_run_and_its_retry_and_no_other() {
    let ns = Namespace::new("one-run");
    let alice = ns.person("alice", Some("edit"));
    let declared =
        "  inputs: [{name: text, required: true, once: true}]\n  outputs: [{name: copy, step: work, path: copy}]";
    // The first run fails, so that there is something to continue.
    let shell = "cp $ASYNCTASK_INPUTS/text $ASYNCTASK_OUTPUTS/copy; case $ASYNCTASK_NAME in first) exit 1;; esac";
    ns.define("once", &script("once", shell, declared));
    let text = format!("text={}", root().join("README.md").display());
    let first = alice.cli(&["run", "once", "--name", "first", "--input", &text, "--wait"]);
    assert_eq!(first.code, 4, "{}{}", first.out, first.err);
    let upload = ns.get("asynctask", "first")["spec"]["inputs"]["text"]["upload"].as_str().unwrap().to_owned();

    let other =
        task("other", "once").replace("name: once}", &format!("name: once}}, inputs: {{text: {{upload: {upload}}}}}"));
    alice.kubectl(&["-n", &ns.name, "apply", "-f", "-"], Some(&other)).ok();
    let status = ns.finished("other");
    println!("{}", status["message"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Failed".into(), &"InputUsed".into()), "{status:#}");
    assert!(status["message"].as_str().unwrap().contains(&upload), "{status:#}");
    assert_eq!(ns.kubectl(&["get", "jobs", "-o", "name"]).ok().lines().count(), 1, "nothing of it ran");

    alice.cli(&["retry", "first", "--name", "second", "--wait"]).ok();
    assert_eq!(ns.status("second")["state"], "Complete");
}

#[test]
fn what_another_run_took_over_goes_with_it_when_somebody_deletes_it_and_not_before() {
    let ns = Namespace::new("taken");
    let outputs = "  outputs: [{name: list, step: plan, path: list.txt, retention: {for: 15s}}, {name: page, step: plan, path: page.txt}]";
    let plan = r#"echo list > "$ASYNCTASK_OUTPUTS/list.txt"; echo page > "$ASYNCTASK_OUTPUTS/page.txt""#;
    let work = r#"test "$ASYNCTASK_NAME" != first"#;
    ns.define("two", &steps("two", outputs, &[("plan", plan, ""), ("work", work, "")]));
    ns.apply(&task("first", "two")).ok();
    assert_eq!(ns.finished("first")["state"], "Failed");
    ns.apply(&task("second", "two").replace("}}}", "}, retryOf: {name: first}}}")).ok();
    assert_eq!(ns.finished("second")["state"], "Complete");
    assert_eq!(ns.status("second")["steps"][0]["adopted"]["name"], "first", "{:#}", ns.status("second"));
    let uid = ns.get("asynctask", "first")["metadata"]["uid"].as_str().unwrap().to_owned();
    let there = |output: &str| files(&uid).iter().any(|path| path.to_string_lossy().contains(&format!("/{output}/")));

    // Its time is up in both: nobody shows it any more, so its bytes go, although the second run is there for ever.
    for run in ["second", "first"] {
        until("its time is up", || {
            output(&ns.status(run), "list")["gone"]["why"].as_str().map(|why| assert_eq!(why, "Expired"))
        });
    }
    assert!(!there("list") && there("page"));

    // Somebody deletes it where it was made: it is deleted where it was taken over, too.
    cli(&["-n", &ns.name, "outputs", "rm", "first", "page"]).ok();
    for run in ["second", "first"] {
        until("it is deleted", || {
            output(&ns.status(run), "page")["gone"]["why"].as_str().map(|why| assert_eq!(why, "Deleted"))
        });
    }
    assert!(!there("page"));
}

#[test]
fn what_a_run_may_write_has_an_end() {
    let ns = Namespace::new("bytes");
    let shell = r#"head -c "$1" /dev/zero > "$ASYNCTASK_OUTPUTS/a"; head -c "$1" /dev/zero > "$ASYNCTASK_OUTPUTS/b""#;
    let outputs = |output: &str, run: &str| {
        format!(
            "  maxOutputSize: \"{run}\"\n  outputs: [{{name: a, step: work, path: a, maxSize: \"{output}\"}}, {{name: b, step: work, path: b}}]"
        )
    };
    let shell = shell.replace("$1", "10000");
    for (name, of_output, of_run, says) in [
        ("fits", "10k", "20k", ""),
        ("output", "9999", "1Mi", "takes at most 9999 (maxSize)"),
        ("run", "10k", "19999", "may write at most 19999"),
    ] {
        ns.define(name, &script(name, &shell, &outputs(of_output, of_run)));
        ns.apply(&task(name, name)).ok();
        let status = ns.finished(name);
        let expected = if says.is_empty() { "Complete" } else { "Failed" };
        assert_eq!(status["state"], expected, "{status:#}");
        assert!(status["message"].as_str().unwrap_or_default().contains(says), "{name}: {status:#}");
    }
}
