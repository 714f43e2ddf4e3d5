//! The operator is upgraded while runs go on.

use crate::revisions::{ends_with, release, says, works};
use crate::support::{Namespace, SYSTEM, Upgraded, kubectl, task};

fn operators() -> String {
    let component = "app.kubernetes.io/component=operator";
    kubectl(&["-n", SYSTEM, "get", "pods", "-l", component, "--field-selector=status.phase=Running", "-o", "name"]).ok()
}

/// UIDs of the Jobs and pods of a namespace, and how often their containers were started again.
fn children(ns: &Namespace) -> String {
    let line = "jsonpath={range .items[*]}{.kind} {.metadata.uid} {.status.containerStatuses[*].restartCount}\n{end}";
    ns.kubectl(&["get", "jobs,pods", "-o", line]).ok()
}

#[test]
fn an_upgrade_of_the_operator_disturbs_no_run() {
    let ns = Namespace::new("upgrade");
    ns.define("changes", &says("one", ""));
    ns.apply(&task("a", "changes")).ok();
    works(&ns, "a");
    let (before, old) = (children(&ns), operators());
    assert_eq!(before.lines().count(), 2, "a Job and its pod: {before}");

    let upgraded = Upgraded::set("log.filter", "debug");

    assert_ne!(operators(), old, "a new operator");
    ns.apply(&task("b", "changes")).ok();
    works(&ns, "b");
    let after = children(&ns);
    assert!(before.lines().all(|line| after.lines().any(|other| other == line)), "{before}\n{after}");
    for name in ["a", "b"] {
        release(&ns, name);
        ends_with(&ns, name, "one", 1);
    }
    drop(upgraded);
}
