//! The chart is uninstalled, and installed again.

use std::process::Command;

use crate::support::{Namespace, SYSTEM, forget_gateway, kubectl, root, run, script, task, until};

const OTHER: &str = "asynctask-elsewhere";

fn helm(args: &[&str], more: &[&str]) -> crate::support::Said {
    run(Command::new("helm").args(args).args(more), None)
}

fn install(release: &str, namespace: &str, values: &str, more: &[&str]) -> crate::support::Said {
    let chart = root().join("charts/asynctask-operator");
    helm(
        &["install", release, chart.to_str().unwrap(), "-n", namespace, "-f", values, "--wait", "--timeout=180s"],
        more,
    )
}

#[test]
fn what_is_left_can_be_deleted_and_another_release_takes_over() {
    let ns = Namespace::new("uninstall");
    ns.define(
        "quick",
        &script("quick", "echo kept > $ASYNCTASK_OUTPUTS/a", "  outputs: [{name: a, step: work, path: a}]"),
    );
    for name in ["goes", "stays"] {
        ns.apply(&task(name, "quick")).ok();
        assert_eq!(ns.finished(name)["state"], "Complete");
    }
    let values = std::env::temp_dir().join("uninstall-values.yaml");
    let values = values.to_str().unwrap();
    std::fs::write(values, helm(&["get", "values", "asynctask", "-n", SYSTEM, "-o", "yaml"], &[]).ok()).unwrap();

    helm(&["uninstall", "asynctask", "-n", SYSTEM, "--wait"], &[]).ok();
    ns.kubectl(&["delete", "asynctask", "goes", "--timeout=30s"]).ok();
    let finalizers = ns.get("asynctask", "stays")["metadata"]["finalizers"].clone();
    assert!(finalizers.is_null(), "nobody is there who would take them away: {finalizers}");

    // Elsewhere and under another name: the CRDs, and with them all objects, are there, and become this release's.
    let elsewhere = ["--create-namespace", "--set=filesystem.enabled=false"];
    install("tasks", OTHER, values, &elsewhere).ok();
    let crd = kubectl(&["get", "crd", "asynctasks.asynctask.dev", "-o", "jsonpath={.metadata.annotations}"]).ok();
    assert!(crd.contains(r#""meta.helm.sh/release-name":"tasks""#), "{crd}");
    until("what is there is held again", || {
        ns.get("asynctask", "stays")["metadata"]["finalizers"]
            .to_string()
            .contains("asynctask.dev/outputs")
            .then_some(())
    });
    helm(
        &[
            "upgrade",
            "tasks",
            "-n",
            OTHER,
            "--reuse-values",
            "--set=log.filter=info",
            root().join("charts/asynctask-operator").to_str().unwrap(),
        ],
        &[],
    )
    .ok();
    let second = install("second", "second", values, &["--create-namespace"]).refused();
    assert!(second.contains("release tasks in namespace asynctask-elsewhere, and it cannot have two"), "{second}");

    helm(&["uninstall", "tasks", "-n", OTHER, "--wait"], &[]).ok();
    install("asynctask", SYSTEM, values, &[]).ok();
    forget_gateway();
    kubectl(&["delete", "namespace", OTHER, "second", "--wait=false", "--ignore-not-found"]).ok();
    ns.apply(&task("again", "quick")).ok();
    assert_eq!(ns.finished("again")["state"], "Complete", "its store was there all the time");
}
