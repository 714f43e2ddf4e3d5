//! What an author's pod template must and must not say. The API server judges the rest by a dry-run.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, VolumeMount};
use serde_json::Value;

use super::findings::{Findings, Part};
use asynctask_api::names::PREFIX;
use asynctask_contract::env::{AGENT_DIR, CONTAINER, TERMINATION_FILE, TOKEN_FILE, WORK_DIR};

/// Names of volumes and init containers that begin so are ours.
pub(super) const OURS: &str = "asynctask-";

/// Variables that begin so are ours.
const ENV_PREFIX: &str = "ASYNCTASK_";

/// Checks a template and gives it back as it is, so that fields newer than our types survive.
pub(super) fn validate(template: &Value, field: &str, findings: &mut Findings) -> Option<Value> {
    let before = findings.len();
    match serde_json::from_value::<PodTemplateSpec>(template.clone()) {
        Err(error) => findings.add(Part::Template, format!("{field}: not a pod template: {error}")),
        Ok(typed) => {
            let mut check = Check { field, findings };
            check.metadata(template);
            match &typed.spec {
                None => check.add("spec", "is missing"),
                Some(spec) => check.spec(spec),
            }
        }
    }
    (findings.len() == before).then(|| template.clone())
}

struct Check<'a> {
    field: &'a str,
    findings: &'a mut Findings,
}

impl Check<'_> {
    fn add(&mut self, below: &str, what: &str) {
        self.findings.add(Part::Template, format!("{}.{below}: {what}", self.field));
    }

    /// Of the metadata of a pod only labels and annotations are the author's.
    fn metadata(&mut self, template: &Value) {
        let Some(metadata) = template.get("metadata").and_then(Value::as_object) else { return };
        for (key, value) in metadata {
            match key.as_str() {
                "labels" | "annotations" => {
                    let keys = value.as_object().into_iter().flat_map(|map| map.keys());
                    for name in keys.filter(|name| name.starts_with(PREFIX)) {
                        self.add(&format!("metadata.{key}[{name}]"), "the prefix asynctask.dev/ is the operator's");
                    }
                }
                // Written by tools that print whole objects; says nothing.
                "creationTimestamp" if value.is_null() => {}
                _ => {
                    self.add(&format!("metadata.{key}"), "the Job names and owns its pods: only labels and annotations")
                }
            }
        }
    }

    fn spec(&mut self, spec: &PodSpec) {
        if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Never") {
            self.add("spec.restartPolicy", "must be Never or left out: a new attempt gets a new pod");
        }
        if spec.active_deadline_seconds.is_some() {
            self.add("spec.activeDeadlineSeconds", "is set by the step's `timeout`: use that");
        }
        if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
            self.add("spec.ephemeralContainers", "cannot be part of a template");
        }
        for volume in spec.volumes.iter().flatten().filter(|volume| volume.name.starts_with(OURS)) {
            let at = format!("spec.volumes[{}]", volume.name);
            self.add(&at, "names that begin with asynctask- are the operator's: choose another");
        }
        for container in spec.init_containers.iter().flatten().filter(|container| container.name.starts_with(OURS)) {
            let at = format!("spec.initContainers[{}]", container.name);
            self.add(&at, "names that begin with asynctask- are the operator's: choose another");
        }
        for container in spec.containers.iter().filter(|container| container.name != CONTAINER) {
            let at = format!("spec.containers[{}]", container.name);
            let hint = "only the container `task` can be here: make it a sidecar, an init container with restartPolicy: Always";
            self.add(&at, hint);
        }
        let mut tasks = spec.containers.iter().filter(|container| container.name == CONTAINER);
        match (tasks.next(), tasks.next()) {
            (Some(task), None) => self.task(task),
            (Some(_), Some(_)) => self.add("spec.containers[task]", "occurs twice"),
            (None, _) => self.add("spec.containers", "there is no container named `task`: it runs the program"),
        }
    }

    fn task(&mut self, task: &Container) {
        let at = "spec.containers[task]";
        if task.command.as_ref().is_none_or(Vec::is_empty) {
            let hint = "is required: the agent must know what to start, the image's own entrypoint is not seen";
            self.add(&format!("{at}.command"), hint);
        }
        if task.image.as_ref().is_none_or(String::is_empty) {
            self.add(&format!("{at}.image"), "is required");
        }
        if task.termination_message_path.as_ref().is_some_and(|path| path != TERMINATION_FILE) {
            self.add(&format!("{at}.terminationMessagePath"), "the agent writes to /dev/termination-log: leave it out");
        }
        for variable in task.env.iter().flatten().filter(|variable| variable.name.starts_with(ENV_PREFIX)) {
            let hint = "variables that begin with ASYNCTASK_ are the operator's: choose another name";
            self.add(&format!("{at}.env[{}]", variable.name), hint);
        }
        for mount in task.volume_mounts.iter().flatten().filter(|mount| in_our_way(mount)) {
            let hint = "the operator mounts its own folders there: choose another path";
            self.add(&format!("{at}.volumeMounts[{}]", mount.mount_path), hint);
        }
    }
}

/// At, below or right above a folder of ours: a mount there would hide or be hidden.
fn in_our_way(mount: &VolumeMount) -> bool {
    let token_dir = TOKEN_FILE.rsplit_once('/').map_or(TOKEN_FILE, |(dir, _)| dir);
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
    };
    let theirs = parts(&mount.mount_path);
    let above = parts(AGENT_DIR).first() == theirs.first() && theirs.len() == 1;
    above || [AGENT_DIR, WORK_DIR, token_dir, TERMINATION_FILE].iter().any(|ours| theirs.starts_with(&parts(ours)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::findings::Findings;
    use super::validate;

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut template = json!({
            "metadata": {"labels": {"app": "x"}, "creationTimestamp": null},
            "spec": {
                "initContainers": [{"name": "proxy", "image": "p", "restartPolicy": "Always"}],
                "containers": [{"name": "task", "image": "a:1", "command": ["/run"], "futureField": 1}],
            },
        });
        change(&mut template);
        let mut findings = Findings::default();
        let read = validate(&template, "t", &mut findings);
        assert_eq!(read.is_some(), findings.len() == 0, "{findings:?}");
        assert!(read.is_none_or(|read| read == template), "a valid template is kept as it is");
        findings.sentences()
    }

    fn one(change: impl FnOnce(&mut Value), start: &str) {
        let found = found(change);
        assert!(found.len() == 1 && found[0].starts_with(start), "{found:?} should start with {start:?}");
    }

    #[test]
    fn sidecars_labels_and_fields_we_do_not_know_are_the_authors() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn the_container_task_is_the_only_one_and_has_a_command() {
        let other = found(|t| t["spec"]["containers"][0]["name"] = json!("main"));
        assert!(other.len() == 2 && other[0].starts_with("t.spec.containers[main]: only the container"), "{other:?}");
        assert!(other[1].starts_with("t.spec.containers: there is no container named `task`"), "{other:?}");
        one(|t| t["spec"]["containers"] = json!([]), "t.spec.containers: there is no container named `task`");
        one(|t| t["spec"]["containers"][0]["command"] = json!([]), "t.spec.containers[task].command: is required");
        one(|t| t["spec"]["containers"][0]["image"] = json!(""), "t.spec.containers[task].image: is required");
        let two = |t: &mut Value| {
            let task = t["spec"]["containers"][0].clone();
            t["spec"]["containers"] = json!([task.clone(), task]);
        };
        one(two, "t.spec.containers[task]: occurs twice");
    }

    #[test]
    fn what_the_job_owns_is_refused() {
        one(|t| t["metadata"]["generateName"] = json!("x-"), "t.metadata.generateName: the Job names");
        one(|t| t["metadata"]["ownerReferences"] = json!([]), "t.metadata.ownerReferences: ");
        one(|t| t["metadata"]["labels"]["asynctask.dev/task-uid"] = json!("x"), "t.metadata.labels[asynctask.dev/");
        one(|t| t["spec"]["restartPolicy"] = json!("OnFailure"), "t.spec.restartPolicy: must be Never");
        one(|t| t["spec"]["activeDeadlineSeconds"] = json!(5), "t.spec.activeDeadlineSeconds: is set by");
        one(|t| t["spec"]["ephemeralContainers"] = json!([{"name": "d"}]), "t.spec.ephemeralContainers: ");
        assert_eq!(found(|t| t["spec"]["restartPolicy"] = json!("Never")), Vec::<String>::new());
    }

    #[test]
    fn nothing_stands_in_the_agents_way() {
        one(|t| t["spec"]["volumes"] = json!([{"name": "asynctask-work"}]), "t.spec.volumes[asynctask-work]: ");
        one(|t| t["spec"]["initContainers"][0]["name"] = json!("asynctask-agent"), "t.spec.initContainers[asynctask-");
        let env = |t: &mut Value| t["spec"]["containers"][0]["env"] = json!([{"name": "ASYNCTASK_UID", "value": "x"}]);
        one(env, "t.spec.containers[task].env[ASYNCTASK_UID]: ");
        let message = |t: &mut Value| t["spec"]["containers"][0]["terminationMessagePath"] = json!("/x");
        one(message, "t.spec.containers[task].terminationMessagePath: ");
        for path in
            ["/asynctask", "/asynctask/", "/asynctask/work/data", "//asynctask/./bin", "/var/run/secrets/asynctask.dev"]
        {
            let mount =
                |t: &mut Value| t["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": path}]);
            one(mount, &format!("t.spec.containers[task].volumeMounts[{path}]: "));
        }
        for path in ["/asynctasks", "/data", "/var/run/secrets/kubernetes.io/serviceaccount", "/asynctask/data"] {
            let mount =
                |t: &mut Value| t["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": path}]);
            assert_eq!(found(mount), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn what_is_no_template_is_said_so() {
        one(|t| *t = json!({"spec": {"containers": "x"}}), "t: not a pod template: ");
        one(|t| *t = json!({}), "t.spec: is missing");
    }
}
