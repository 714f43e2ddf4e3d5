//! Holes found in review stay closed: each is tried against the API server.

use crate::support::{Namespace, SYSTEM, get, kubectl, kubectl_in, script, task, until};

fn operator(ns: &Namespace, patch: &str) -> crate::support::Said {
    let user = format!("--as=system:serviceaccount:{SYSTEM}:asynctask-operator");
    ns.kubectl(&["patch", "asynctask", "t", "--subresource=status", "--type=merge", "-p", patch, &user])
}

/// kubectl reads before it patches a subresource; our accounts have no use for that right outside of this test.
fn allow_reading_status(ns: &Namespace) {
    ns.kubectl(&["create", "role", "read-status", "--verb=get", "--resource=asynctasks/status"]).ok();
    let account = format!("--serviceaccount={SYSTEM}:asynctask-operator");
    ns.kubectl(&["create", "rolebinding", "read-status", "--role=read-status", &account]).ok();
}

#[test]
fn a_finished_task_stays_finished_even_for_the_operator() {
    let ns = Namespace::new("final");
    allow_reading_status(&ns);
    ns.define("quick", &script("quick", "true", ""));
    ns.apply(&task("t", "quick")).ok();
    ns.finished("t");

    for patch in [r#"{"status":null}"#, r#"{"status":{"state":null}}"#, r#"{"status":{"state":"InProgress"}}"#] {
        let said = operator(&ns, patch).refused();
        assert!(said.contains("the run has ended and its state is final"), "{patch}: {said}");
    }
    assert_eq!(ns.status("t")["state"], "Complete");
}

#[test]
fn the_operator_cannot_change_what_a_definition_runs_or_where_a_store_is() {
    let ns = Namespace::new("specs");
    ns.define("quick", &script("quick", "true", ""));
    let user = format!("--as=system:serviceaccount:{SYSTEM}:asynctask-operator");
    for (of, patch) in [
        (["taskdefinition", "quick"], r#"{"spec":{"title":"another"}}"#),
        (["outputstore", "trial"], r#"{"spec":{"default":false}}"#),
    ] {
        let said = ns.kubectl(&["patch", of[0], of[1], "--type=merge", "-p", patch, &user]).refused();
        assert!(said.contains("finalizers and status only"), "{of:?}: {said}");
    }
}

#[test]
fn status_and_our_names_are_nobody_elses_to_write() {
    let ns = Namespace::new("guard");
    ns.define("quick", &script("quick", "true", ""));
    ns.apply(&task("t", "quick")).ok();
    ns.finished("t");
    for (args, word) in [
        (
            &["patch", "asynctask", "t", "--subresource=status", "--type=merge", "-p", r#"{"status":{"message":"x"}}"#]
                [..],
            "only the operator",
        ),
        (&["annotate", "asynctask", "t", "--overwrite", "asynctask.dev/finished=no"], "metadata.annotations"),
        (&["annotate", "asynctask", "t", "asynctask.dev/replaced-by=x"], "metadata.annotations"),
        (&["label", "asynctask", "t", "asynctask.dev/task-uid=x"], "metadata.labels"),
        (
            &["patch", "asynctask", "t", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#],
            "metadata.finalizers",
        ),
        (&["delete", "taskrevision", "--all"], "made and removed by the operator"),
    ] {
        let said = ns.kubectl(args).refused();
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let marked = "metadata: {name: u, annotations: {asynctask.dev/replaced-by: x}}";
    let said = ns.apply(&task("u", "quick").replace("metadata: {name: u}", marked)).refused();
    assert!(said.contains("metadata.annotations"), "{said}");
}

#[test]
fn an_owner_cannot_be_taken_away_changed_or_borrowed() {
    let ns = Namespace::new("owner");
    let alice = ns.person("alice", Some("edit"));
    alice.kubectl(&["apply", "-f", "-"], Some(&task("t", "nothing"))).ok();
    let own = ns.get("asynctask", "t")["spec"]["owner"].clone();
    assert_eq!(own, format!("system:serviceaccount:{}:alice", ns.name));

    // Removing it is undone by the policy; setting another is refused.
    alice.kubectl(&["patch", "asynctask", "t", "--type=json", "-p", r#"[{"op":"remove","path":"/spec/owner"}]"#], None);
    assert_eq!(ns.get("asynctask", "t")["spec"]["owner"], own);
    let said = alice.kubectl(&["patch", "asynctask", "t", "--type=merge", "-p", r#"{"spec":{"owner":"eve"}}"#], None);
    assert!(said.refused().contains("spec.owner is immutable"));
    for (field, word) in [("owner: bob", "is not you"), ("team: wheel", "you are not in the group")] {
        let foreign = task("f", "nothing").replace("}}}", &format!("}}, {field}}}}}"));
        let said = alice.kubectl(&["apply", "-f", "-"], Some(&foreign)).refused();
        assert!(said.contains(word), "{field}: {said}");
    }
}

#[test]
fn nobody_forges_a_child_of_a_task() {
    let ns = Namespace::new("forge");
    let alice = ns.person("alice", Some("edit"));
    // Fit for `restricted`, so that only our policy stands in its way.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: forged, labels: {asynctask.dev/task-uid: x}}, spec: \
               {securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}, containers: \
               [{name: task, image: x, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}";
    let said = alice.kubectl(&["create", "-f", "-"], Some(pod)).refused();
    assert!(said.contains("come from the Job controller only"), "{said}");
    let job = "{apiVersion: batch/v1, kind: Job, metadata: {name: forged, ownerReferences: [{apiVersion: \
               asynctask.dev/v1alpha1, kind: AsyncTask, name: t, uid: 00000000-0000-0000-0000-000000000000, controller: true}]}, \
               spec: {template: {spec: {restartPolicy: Never, containers: [{name: task, image: x}]}}}}";
    let said = alice.kubectl(&["create", "-f", "-"], Some(job)).refused();
    assert!(said.contains("only the operator makes Jobs of an AsyncTask"), "{said}");
    let job = "{apiVersion: batch/v1, kind: Job, metadata: {name: forged, labels: {mine: yes-it-is}}, spec: {template: {metadata: {labels: \
               {asynctask.dev/task-uid: x}}, spec: {restartPolicy: Never, containers: [{name: task, image: x}]}}}}";
    let said = alice.kubectl(&["create", "-f", "-"], Some(job)).refused();
    assert!(said.contains("only the operator labels pods"), "{said}");
    ns.define("works", &script("works", "sleep 300", ""));
    ns.apply(&task("t", "works")).ok();
    let job = until("its Job is there", || {
        let jobs = get(&["-n", &ns.name, "jobs"]);
        Some(format!("job/{}", jobs["items"][0]["metadata"]["name"].as_str()?))
    });
    for annotation in ["asynctask.dev/shards=0-4294967295", "asynctask.dev/mine=1"] {
        let said = alice.kubectl(&["annotate", &job, annotation, "--overwrite"], None).refused();
        assert!(said.contains("the prefix asynctask.dev/ is the operator's"), "{annotation}: {said}");
    }
    alice.kubectl(&["annotate", &job, "example.com/mine=yes"], None).ok();
    let revision = "{apiVersion: asynctask.dev/v1alpha1, kind: TaskRevision, metadata: {name: forged}, spec: {definition: d, \
                    number: 1, hash: 0000000000000000000000000000000000000000000000000000000000000000, content: {title: x, \
                    steps: [{name: s, template: {}}]}}}";
    kubectl_in(&["-n", &ns.name, "create"], revision).refused();
}

#[test]
fn a_finished_task_restored_from_a_backup_never_runs_again() {
    let ns = Namespace::new("restore");
    ns.define("quick", &script("quick", "true", ""));
    let restored = task("t", "quick")
        .replace("metadata: {name: t}", "metadata: {name: t, annotations: {asynctask.dev/finished: Complete}}");
    let marks = "annotations: {asynctask.dev/finished: Canceled, asynctask.dev/replaced-by: x}";
    let replaced = task("u", "quick")
        .replace("metadata: {name: u}", &format!("metadata: {{name: u, {marks}}}"))
        .replacen("spec: {", "spec: {cancel: true, ", 1);
    for document in [&restored, &replaced] {
        ns.apply(document).ok();
    }

    for name in ["t", "u"] {
        let status = ns.finished(name);
        assert_eq!((&status["state"], &status["reason"]), (&"Canceled".into(), &"Restored".into()), "{status:#}");
    }
    assert_eq!(ns.kubectl(&["get", "jobs,pods", "-o", "name"]).ok(), "");
}

#[test]
fn a_priority_class_is_listed_by_whoever_may_use_it() {
    let ns = Namespace::new("priorities");
    let class = format!("urgent-{}", ns.name);
    kubectl_in(
        &["apply"],
        &format!("{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {class}}}, value: 1000}}"),
    )
    .ok();
    let ada = ns.person("ada", Some("edit"));
    let definition = script("quick", "true", &format!("  priorityClasses: [{class}]"));
    let apply = || ada.kubectl(&["apply", "-f", "-"], Some(&definition));
    let said = apply().refused();
    assert!(said.contains(&format!("spec.priorityClasses: you may not use {class}")), "{said}");
    let name = ns.name.as_str();
    let rules = format!(
        "[{{apiGroups: [scheduling.k8s.io], resources: [priorityclasses], resourceNames: [{class}], verbs: [use]}}]"
    );
    let role = "apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole";
    kubectl_in(&["apply"], &format!("{{{role}, metadata: {{name: {name}}}, rules: {rules}}}")).ok();
    kubectl(&["create", "clusterrolebinding", name, "--clusterrole", name, &format!("--serviceaccount={name}:ada")])
        .ok();
    until("the right is known", || (apply().code == 0).then_some(()));
    // What somebody else listed stays when others change the rest.
    kubectl(&["delete", "clusterrolebinding,clusterrole", name]).ok();
    until("the right is gone", || {
        let more = definition.replace(&format!("[{class}]"), &format!("[{class}, other]"));
        (ada.kubectl(&["apply", "-f", "-"], Some(&more)).code != 0).then_some(())
    });
    ada.kubectl(&["patch", "taskdefinition", "quick", "--type=merge", "-p", r#"{"spec":{"title":"Other"}}"#], None)
        .ok();
    kubectl(&["delete", "priorityclass", &class]).ok();
}
