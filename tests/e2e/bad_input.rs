//! Bad input: each has its sentence, and leaves nothing behind.

use std::process::Command;

use crate::support::{Cluster, Namespace, cli, root, run, script, task};

/// The task ends as Failed for this reason, its message says these words, and no Job was made.
#[track_caller]
fn refused(ns: &Namespace, name: &str, reason: &str, words: &[&str]) {
    let status = ns.finished(name);
    println!("{name}: {}", status["message"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Failed".into(), &reason.into()), "{status:#}");
    for word in words {
        assert!(status["failure"]["message"].as_str().unwrap().contains(word), "{word}: {status:#}");
    }
    let jobs = ns.kubectl(&["get", "jobs", "-l", &format!("asynctask.dev/task={name}"), "-o", "name"]).ok();
    assert_eq!(jobs, "", "a refused task has a Job");
}

#[test]
fn a_task_of_an_unknown_definition_is_refused_by_name() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("unknown");
    ns.apply(&task("t", "missing")).ok();
    refused(&ns, "t", "DefinitionGone", &["missing"]);
}

#[test]
fn every_violation_of_the_parameters_is_listed() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("params");
    ns.example("hello-report", None);
    ns.apply(&task("t", "hello-report").replace("}}}", "}, parameters: {lines: none, colour: red}}}")).ok();
    refused(&ns, "t", "InvalidParameters", &["name", "lines", "colour"]);
}

#[test]
fn a_missing_and_an_unknown_upload_read_alike() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("input");
    ns.example("course-outline", None);
    ns.apply(&task("none", "course-outline")).ok();
    refused(&ns, "none", "InputMissing", &["archive"]);
    let upload = "}, inputs: {archive: {upload: 11111111-1111-4111-8111-111111111111}}}}";
    ns.apply(&task("unknown", "course-outline").replace("}}}", upload)).ok();
    refused(&ns, "unknown", "InputMissing", &["archive"]);
}

#[test]
fn a_template_the_server_refuses_is_reported_in_the_servers_words() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("template");
    // `restricted` refuses it, which only a dry-run of the Pod shows.
    ns.apply(&script("bad", "true", "").replace("allowPrivilegeEscalation: false", "privileged: true")).ok();
    ns.kubectl(&["wait", "--for=condition=Ready=False", "taskdefinition/bad", "--timeout=60s"]).ok();
    let status = ns.get("taskdefinition", "bad")["status"].clone();
    println!("{status:#}");
    let ready = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    assert_eq!(ready["reason"], "InvalidTemplate");
    assert!(ready["message"].as_str().unwrap().contains("privileged"), "{ready}");
    assert_eq!(ns.kubectl(&["get", "taskrevisions", "-o", "name"]).ok(), "");
}

#[test]
fn an_output_that_was_declared_but_not_written_fails_the_run() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("output");
    ns.define("lazy", &script("lazy", "true", "  outputs: [{name: report, step: work, path: report.txt}]"));
    ns.apply(&task("t", "lazy")).ok();
    let status = ns.finished("t");
    println!("{}", status["failure"]);
    assert_eq!(status["state"], "Failed");
    assert_eq!(status["failure"]["code"], "OutputMissing");
    assert!(status["failure"]["message"].as_str().unwrap().contains("report.txt"));
}

#[test]
fn hostile_archives_fail_with_a_sentence() {
    let _turn = Cluster::shared();
    let ns = Namespace::new("archives");
    ns.example("course-outline", None);
    let dir = std::env::temp_dir().join(&ns.name);
    std::fs::create_dir_all(&dir).unwrap();
    for kind in ["not-gzip", "dotdot", "absolute", "symlink", "bomb"] {
        let file = dir.join(format!("{kind}.tar.gz"));
        let script = root().join("tests/e2e/archives.py");
        run(Command::new("python3").arg(script).arg(kind).arg(&file), None).ok();
        let input = format!("archive={}", file.display());

        let said = cli(&["-n", &ns.name, "run", "course-outline", "--name", kind, "--input", &input, "--wait"]);

        assert_eq!(said.code, 4, "{kind}: {}{}", said.out, said.err);
        let failure = ns.status(kind)["failure"].clone();
        println!("{kind}: {}", failure["message"]);
        assert_eq!((&failure["code"], &failure["exitCode"]), (&"InvalidArchive".into(), &65.into()), "{failure:#}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
