//! From a step to its Job. Pure: the same step, run and agent give the same Job.
//!
//! The template is edited as JSON, not through our types: fields of a newer Kubernetes pass untouched. Everything a
//! user chose (name, owner, team) reaches the pod as a variable's value, `$` doubled because the kubelet expands
//! `$(NAME)` in values; beside that only as labels the template does not set, and as one of the definition's own
//! priority classes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::agent::{Agent, Injection};
use super::definition::{ValidatedDefinition, ValidatedStep};
use super::indexed::ShardRun;
use super::{built_in, names, retry};
use asynctask_api::names::{ANNOTATION_REVISION, GROUP, LABEL_ATTEMPT, LABEL_STEP, LABEL_TASK, LABEL_TASK_UID, PREFIX};
use asynctask_contract::env::{self, AGENT_DIR, AGENT_FILE, CONTAINER, TOKEN_AUDIENCE, TOKEN_FILE, WORK_DIR};

/// Seconds a pod's token is good for; the kubelet renews it before.
const TOKEN_SECONDS: u32 = 600;

const AGENT_VOLUME: &str = "asynctask-agent";
const WORK_VOLUME: &str = "asynctask-work";
const TOKEN_VOLUME: &str = "asynctask-token";

/// User of the init container where the author's pod would run it as root; the agent's image says the same.
const AGENT_USER: u32 = 65532;

/// UID of a run that never is.
const STAND_IN: &str = "00000000-0000-4000-8000-000000000000";

/// The run a Job belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Name of the AsyncTask.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// UID of the first of the runs that continue each other; its own, if it continues none.
    pub origin: String,
    /// User it belongs to.
    pub owner: String,
    /// Group it belongs to; empty when to none.
    pub team: String,
    /// Name of the revision it is pinned to.
    pub revision: String,
    /// PriorityClass it chose among those of its definition.
    pub priority_class: Option<String>,
    /// Labels its user gave it; [`handed_on`] says which of them reach the Job.
    pub labels: BTreeMap<String, String>,
}

impl Run {
    /// A run that never is: for the dry-run that proves a definition.
    #[must_use]
    pub fn stand_in(namespace: &str, definition: &str) -> Self {
        Self {
            name: format!("check-{definition}"),
            namespace: namespace.to_owned(),
            uid: STAND_IN.to_owned(),
            origin: STAND_IN.to_owned(),
            owner: "nobody".to_owned(),
            team: String::new(),
            revision: definition.to_owned(),
            priority_class: None,
            labels: BTreeMap::new(),
        }
    }
}

/// Labels by which tools know what they installed: on a Job they would make the tool take it for its own.
const LABELS_OF_TOOLS: [&str; 2] = ["app.kubernetes.io/managed-by", "app.kubernetes.io/instance"];

/// The label that always goes on: by it Kueue finds the queue.
const QUEUE_NAME: &str = "kueue.x-k8s.io/queue-name";

/// Whether a definition may have a label of an AsyncTask handed on to its Jobs and pods. Ours would claim another run, and
/// the Job controller's own are its.
pub(super) fn can_be_handed_on(label: &str) -> bool {
    let of_controller = label.starts_with("batch.kubernetes.io/") || matches!(label, "controller-uid" | "job-name");
    !label.starts_with(PREFIX) && !LABELS_OF_TOOLS.contains(&label) && !of_controller
}

/// The `batch/v1` Job of an attempt of a step. `shards`: which ones it runs, of a step that fans out.
#[must_use]
pub fn build(
    step: &ValidatedStep,
    run: &Run,
    attempt: u32,
    shards: Option<&ShardRun>,
    pods_kept: Duration,
    agent: &Agent,
) -> Value {
    let mut job = of_one_pod(step, run, attempt, pods_kept, agent);
    if let (Some(shards), Some(fan_out)) = (shards, &step.fan_out) {
        let annotations = entry(object(&mut job, "metadata"), "annotations");
        annotations.extend(shards.annotations());
        let spec = object(&mut job, "spec");
        // Each index has its own.
        spec.remove("backoffLimit");
        spec.extend(shards.spec(step, fan_out));
    }
    job
}

fn of_one_pod(step: &ValidatedStep, run: &Run, attempt: u32, pods_kept: Duration, agent: &Agent) -> Value {
    let own = own_labels(step, run, attempt);
    let mut labels = json!(run.labels);
    extend(labels.as_object_mut().expect("invariant: a map is an object"), &own);
    let annotations = json!({ANNOTATION_REVISION: run.revision});
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names::job(&run.name, &run.uid, &step.name, attempt),
            "namespace": run.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "AsyncTask", "name": run.name, "uid": run.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [
                {"action": on_disruption(step), "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            // The next pod starts when the one before is gone, not when it is asked to go.
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": seconds(pods_kept),
            "template": pod_template(step, run, attempt, agent, &own, &annotations),
        },
    })
}

fn own_labels(step: &ValidatedStep, run: &Run, attempt: u32) -> Value {
    json!({
        LABEL_TASK_UID: run.uid,
        LABEL_TASK: names::label_value(&run.name),
        LABEL_STEP: step.name,
        LABEL_ATTEMPT: attempt.to_string(),
    })
}

/// Labels of an AsyncTask that its Jobs and pods get: no others, or whoever may create AsyncTasks would decide which Services,
/// policies and webhooks take the pods for theirs.
#[must_use]
pub fn handed_on(
    labels: Option<&BTreeMap<String, String>>,
    definition: &ValidatedDefinition,
) -> BTreeMap<String, String> {
    let listed = |label: &String| label == QUEUE_NAME || definition.labels_from_task.contains(label);
    let labels = labels.into_iter().flatten().filter(|(label, _)| listed(label));
    labels.map(|(label, value)| (label.clone(), value.clone())).collect()
}

/// An evicted pod is replaced within its attempt, unless the author has a rule for disruptions: then the attempt ends,
/// and the rule is asked.
fn on_disruption(step: &ValidatedStep) -> &'static str {
    if retry::ignores_disruption(&step.retry) { "Ignore" } else { "FailJob" }
}

/// The Pod of a Job, to dry-run it as well: a Job's own dry-run lets through what its pods are refused for. Without
/// our labels, which only the Job controller may set on a pod.
#[must_use]
pub fn pod_of(job: &Value) -> Value {
    let mut metadata = job["spec"]["template"]["metadata"].clone();
    if let Some(labels) = metadata["labels"].as_object_mut() {
        labels.retain(|key, _| !key.starts_with(PREFIX));
    }
    metadata["name"] = job["metadata"]["name"].clone();
    metadata["namespace"] = job["metadata"]["namespace"].clone();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": job["spec"]["template"]["spec"]})
}

/// Whole seconds, rounded up: a timeout of half a second is not none.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn pod_template(
    step: &ValidatedStep,
    run: &Run,
    attempt: u32,
    agent: &Agent,
    own_labels: &Value,
    annotations: &Value,
) -> Value {
    let mut template = step.template.clone();
    let metadata = object(&mut template, "metadata");
    metadata.remove("creationTimestamp");
    let labels = entry(metadata, "labels");
    for (label, value) in &run.labels {
        // What the author's template says stays: its services and policies select by it.
        labels.entry(label.clone()).or_insert(json!(value));
    }
    extend(labels, own_labels);
    extend(entry(metadata, "annotations"), annotations);
    let spec = object(&mut template, "spec");
    spec.insert("restartPolicy".into(), json!("Never"));
    spec.insert("activeDeadlineSeconds".into(), json!(seconds(step.timeout)));
    if let Some(class) = &run.priority_class {
        spec.insert("priorityClassName".into(), json!(class));
    }
    // A program has no business with the API server unless its author says so.
    spec.entry("automountServiceAccountToken").or_insert(json!(false));
    let as_root = spec.get("securityContext").and_then(|context| context.get("runAsUser")) == Some(&json!(0));
    list(spec, "volumes").extend(volumes(step, agent));
    for name in &agent.pull_secrets {
        let secret = json!({"name": name});
        let secrets = list(spec, "imagePullSecrets");
        if !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }
    if step.built_in.is_some() {
        list(spec, "containers").push(built_in::container(agent));
    } else if agent.injection == Injection::InitContainer {
        list(spec, "initContainers").insert(0, install_container(&agent.image, as_root));
    }
    let task = list(spec, "containers")
        .iter_mut()
        .find(|container| container["name"] == CONTAINER)
        .and_then(Value::as_object_mut)
        .expect("invariant: a validated template has the container task");
    wrap(task, step, variables(step, run, attempt, agent));
    template
}

/// Puts the agent before the author's command and mounts what it needs.
fn wrap(task: &mut Map<String, Value>, step: &ValidatedStep, variables: Vec<Value>) {
    if step.built_in.is_none() {
        list(task, "command").splice(0..0, [json!(format!("{AGENT_DIR}/{AGENT_FILE}")), json!("run"), json!("--")]);
        list(task, "volumeMounts").push(json!({"name": AGENT_VOLUME, "mountPath": AGENT_DIR, "readOnly": true}));
    }
    // Before the author's own, so that theirs may refer to ours.
    list(task, "env").splice(0..0, variables);
    let token_dir = TOKEN_FILE.rsplit_once('/').map_or(TOKEN_FILE, |(dir, _)| dir);
    list(task, "volumeMounts").extend([
        json!({"name": WORK_VOLUME, "mountPath": WORK_DIR}),
        json!({"name": TOKEN_VOLUME, "mountPath": token_dir, "readOnly": true}),
    ]);
    if let Some(size) = &step.workspace {
        let requests = entry(entry(task, "resources"), "requests");
        requests.entry("ephemeral-storage").or_insert(json!(size));
    }
}

fn volumes(step: &ValidatedStep, agent: &Agent) -> Vec<Value> {
    let binary = match agent.injection {
        Injection::ImageVolume => json!({"image": {"reference": agent.image, "pullPolicy": "IfNotPresent"}}),
        Injection::InitContainer => json!({"emptyDir": {}}),
    };
    let work = step.workspace.as_ref().map_or(json!({}), |size| json!({"sizeLimit": size}));
    let (_, token_file) = TOKEN_FILE.rsplit_once('/').unwrap_or(("", TOKEN_FILE));
    let token = json!({"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": token_file});
    // A pod of the agent's own image brings it along.
    let agent = step.built_in.is_none().then(|| named(AGENT_VOLUME, binary));
    let others = [
        named(WORK_VOLUME, json!({"emptyDir": work})),
        named(TOKEN_VOLUME, json!({"projected": {"sources": [{"serviceAccountToken": token}]}})),
    ];
    agent.into_iter().chain(others).collect()
}

fn named(name: &str, mut volume: Value) -> Value {
    volume["name"] = json!(name);
    volume
}

/// Copies the agent's binary. Passes the `restricted` profile whatever the author's pod looks like.
fn install_container(image: &str, as_root: bool) -> Value {
    let mut container = json!({
        "name": AGENT_VOLUME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("/{AGENT_FILE}"), "install", format!("{AGENT_DIR}/{AGENT_FILE}")],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": AGENT_VOLUME, "mountPath": AGENT_DIR}],
    });
    if as_root {
        container["securityContext"]["runAsUser"] = json!(AGENT_USER);
    }
    container
}

fn variables(step: &ValidatedStep, run: &Run, attempt: u32, agent: &Agent) -> Vec<Value> {
    let idempotency_key = format!("{}/{}/0", run.origin, step.name);
    let attempt = attempt.to_string();
    [
        (env::NAME, run.name.as_str()),
        (env::NAMESPACE, run.namespace.as_str()),
        (env::UID, run.uid.as_str()),
        (env::STEP, step.name.as_str()),
        (env::ATTEMPT, attempt.as_str()),
        (env::OWNER, run.owner.as_str()),
        (env::TEAM, run.team.as_str()),
        (env::IDEMPOTENCY_KEY, idempotency_key.as_str()),
        (env::GATEWAY_URL, agent.gateway.url.as_str()),
        (env::GATEWAY_CA, agent.gateway.ca_pem.as_str()),
    ]
    .into_iter()
    .map(|(name, value)| json!({"name": name, "value": value.replace('$', "$$")}))
    .collect()
}

/// The object below a key; one that is missing or null is made.
fn entry<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let child = parent.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = json!({});
    }
    child.as_object_mut().expect("invariant: a validated template has objects where its type has them")
}

fn object<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    entry(parent.as_object_mut().expect("invariant: a validated template is an object"), key)
}

/// The list below a key; one that is missing or null is made.
fn list<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let child = parent.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = json!([]);
    }
    child.as_array_mut().expect("invariant: a validated template has lists where its type has them")
}

fn extend(map: &mut Map<String, Value>, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        map.insert(key.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Run, build, handed_on, pod_of};
    use crate::agent::{Agent, GatewayAccess, Injection};
    use crate::definition::{ValidatedStep, validate};
    use asynctask_api::TaskDefinitionSpec;

    fn agent(injection: Injection) -> Agent {
        let gateway =
            GatewayAccess { url: "https://asynctask-gateway.asynctask-system.svc:443".into(), ca_pem: "PEM\n".into() };
        Agent { image: "agent:1".into(), pull_secrets: Vec::new(), injection, gateway }
    }

    fn step(change: impl FnOnce(&mut Value)) -> ValidatedStep {
        let mut step = json!({
            "name": "report", "timeout": "90s", "workspace": {"size": "64Mi"},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {
                    "securityContext": {"runAsNonRoot": true},
                    "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
                    "containers": [{
                        "name": "task", "image": "hello:1", "command": ["/report.sh"], "args": ["-v"],
                        "env": [{"name": "LANG", "value": "C.UTF-8"}],
                        "resources": {"requests": {"cpu": "10m"}}, "futureField": {"kept": true},
                    }],
                },
            },
        });
        change(&mut step);
        let spec: TaskDefinitionSpec = serde_json::from_value(json!({"title": "T", "steps": [step]})).expect("decodes");
        validate(&spec).expect("valid").steps.remove(0)
    }

    fn run() -> Run {
        Run {
            name: "hello-ada".into(),
            namespace: "studio".into(),
            uid: "0a1b2c3d-0000-4000-8000-000000000000".into(),
            origin: "0a1b2c3d-0000-4000-8000-000000000000".into(),
            owner: "ada@example.org".into(),
            team: "course-v1:edX+DemoX+2026".into(),
            revision: "hello-0123456789".into(),
            priority_class: None,
            labels: BTreeMap::new(),
        }
    }

    fn labelled(labels: &[(&str, &str)]) -> Run {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        Run { labels, ..run() }
    }

    fn of(run: &Run, step: &ValidatedStep) -> Value {
        build(step, run, 1, None, Duration::from_secs(600), &agent(Injection::ImageVolume))
    }

    fn job(injection: Injection) -> Value {
        build(&step(|_| {}), &run(), 1, None, Duration::from_secs(600), &agent(injection))
    }

    #[test]
    fn the_job_is_the_documented_one() {
        let golden: Value = serde_yaml_ng::from_str(include_str!("golden/job.yaml")).expect("YAML");
        let built = job(Injection::ImageVolume);
        assert_eq!(built, golden, "built:\n{}", serde_yaml_ng::to_string(&built).expect("YAML"));
    }

    #[test]
    fn where_image_volumes_do_not_work_an_init_container_brings_the_agent() {
        let job = job(Injection::InitContainer);
        let golden: Value = serde_yaml_ng::from_str(include_str!("golden/init-container.yaml")).expect("YAML");
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(
            spec["initContainers"][0],
            golden,
            "{}",
            serde_yaml_ng::to_string(&spec["initContainers"]).expect("YAML")
        );
        assert_eq!(spec["initContainers"][1]["name"], "proxy");
        assert_eq!(spec["volumes"][0], json!({"name": "asynctask-agent", "emptyDir": {}}));
    }

    #[test]
    fn the_agent_is_installed_as_nobody_even_beside_a_program_of_root() {
        let root = step(|step| step["template"]["spec"]["securityContext"] = json!({"runAsUser": 0}));
        let job = build(&root, &run(), 1, None, Duration::from_secs(1), &agent(Injection::InitContainer));
        assert_eq!(job["spec"]["template"]["spec"]["initContainers"][0]["securityContext"]["runAsUser"], 65532);
    }

    #[test]
    fn what_is_built_is_what_kubernetes_reads() {
        for injection in [Injection::ImageVolume, Injection::InitContainer] {
            let job = job(injection);
            let typed: Job = serde_json::from_value(job.clone()).expect("a Job");
            assert_eq!(typed.spec.expect("spec").backoff_limit, Some(0));
            serde_json::from_value::<Pod>(pod_of(&job)).expect("a Pod");
        }
    }

    #[test]
    fn a_users_text_is_data_and_nothing_else() {
        let hostile = Run { owner: "$(HOME)$$(X)".into(), team: "a: b\n- $(ASYNCTASK_GATEWAY_CA)".into(), ..run() };
        let plain = build(&step(|_| {}), &run(), 1, None, Duration::from_secs(600), &agent(Injection::ImageVolume));
        let mut job = build(&step(|_| {}), &hostile, 1, None, Duration::from_secs(600), &agent(Injection::ImageVolume));
        let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().expect("env");
        let value = |env: &[Value], name: &str| env.iter().position(|v| v["name"] == name).expect("set");
        let (owner, team) = (value(env, "ASYNCTASK_OWNER"), value(env, "ASYNCTASK_TEAM"));
        assert_eq!(env[owner]["value"], "$$(HOME)$$$$(X)");
        assert_eq!(env[team]["value"], "a: b\n- $$(ASYNCTASK_GATEWAY_CA)");
        env[owner]["value"] = json!(run().owner);
        env[team]["value"] = json!(run().team);
        assert_eq!(job, plain, "nothing else depends on it");
    }

    #[test]
    fn an_author_may_ask_for_a_token_and_for_less_storage() {
        let own = step(|step| {
            let spec = &mut step["template"]["spec"];
            spec["automountServiceAccountToken"] = json!(true);
            spec["containers"][0]["resources"]["requests"]["ephemeral-storage"] = json!("1Mi");
        });
        let job = build(&own, &run(), 2, None, Duration::from_millis(1500), &agent(Injection::ImageVolume));
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["automountServiceAccountToken"], true);
        assert_eq!(spec["containers"][0]["resources"]["requests"]["ephemeral-storage"], "1Mi");
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 2);
        assert_eq!(job["metadata"]["name"], "hello-ada-report-0a1b2c3d-2");
    }

    #[test]
    fn the_pod_of_the_dry_run_does_not_claim_to_be_a_tasks() {
        let job = build(
            &step(|_| {}),
            &Run::stand_in("studio", "hello"),
            1,
            None,
            Duration::from_secs(1),
            &agent(Injection::ImageVolume),
        );
        let pod = pod_of(&job);
        assert_eq!(pod["metadata"]["labels"], json!({"app": "hello"}));
        assert_eq!(pod["metadata"]["namespace"], "studio");
        assert_eq!(pod["spec"], job["spec"]["template"]["spec"]);
    }

    #[test]
    fn labels_that_the_definition_lists_reach_job_and_pod_but_replace_nothing() {
        let run = labelled(&[("kueue.x-k8s.io/queue-name", "team-a"), ("cost-center", "42"), ("app", "mine")]);
        let (job, plain) = (of(&run, &step(|_| {})), job(Injection::ImageVolume));
        let added = |labels: &Value, before: &Value| -> Value {
            let labels = labels.as_object().expect("labels").iter();
            labels
                .filter(|(label, value)| before.get(label.as_str()) != Some(value))
                .map(|(l, v)| (l.clone(), v.clone()))
                .collect()
        };
        assert_eq!(
            added(&job["metadata"]["labels"], &plain["metadata"]["labels"]),
            json!({"kueue.x-k8s.io/queue-name": "team-a", "cost-center": "42", "app": "mine"})
        );
        let (pod, before) =
            (&job["spec"]["template"]["metadata"]["labels"], &plain["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(added(pod, before), json!({"kueue.x-k8s.io/queue-name": "team-a", "cost-center": "42"}));
        assert_eq!(pod["app"], "hello", "the author's");
    }

    #[test]
    fn no_label_is_handed_on_that_the_definition_does_not_list() {
        let definition = |labels: &[&str]| {
            let spec = json!({"title": "T", "labelsFromTask": labels, "steps": [{"name": "a", "template": {
                "spec": {"containers": [{"name": "task", "image": "i", "command": ["c"]}]},
            }}]});
            crate::definition::validate(&serde_json::from_value(spec).expect("decodes"))
        };
        let labels = ["kueue.x-k8s.io/queue-name", "cost-center", "app", "azure.workload.identity/use", "istio.io/rev"];
        let labels: BTreeMap<String, String> = labels.map(|label| (label.to_owned(), "x".to_owned())).into();
        let keys = |listed: &[&str]| {
            let handed = handed_on(Some(&labels), &definition(listed).expect("valid"));
            handed.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys(&[]), ["kueue.x-k8s.io/queue-name"]);
        assert_eq!(keys(&["cost-center", "other"]), ["cost-center", "kueue.x-k8s.io/queue-name"]);
        for refused in
            ["asynctask.dev/task-uid", "batch.kubernetes.io/job-name", "job-name", "app.kubernetes.io/managed-by"]
        {
            let said = definition(&[refused]).expect_err("not a task's").to_string();
            assert!(said.contains("labelsFromTask") && said.contains(refused), "{said}");
        }
    }

    #[test]
    fn a_run_has_the_priority_class_it_chose() {
        let chosen = Run { priority_class: Some("batch-low".into()), ..run() };
        let class = |job: &Value| job["spec"]["template"]["spec"]["priorityClassName"].clone();
        assert_eq!(
            (class(&of(&chosen, &step(|_| {}))), class(&job(Injection::ImageVolume))),
            (json!("batch-low"), Value::Null)
        );
    }

    #[test]
    fn a_rule_for_disruptions_is_asked_because_the_job_ends() {
        let action = |step: &ValidatedStep| of(&run(), step)["spec"]["podFailurePolicy"]["rules"][0]["action"].clone();
        assert_eq!(action(&step(|_| {})), "Ignore");
        let rule = |action: &str| json!({"rules": [{"reasons": ["Disruption"], "action": action}]});
        assert_eq!(action(&step(|step| step["retry"] = rule("Ignore"))), "Ignore");
        for counts in ["Retry", "Fail"] {
            assert_eq!(action(&step(|step| step["retry"] = rule(counts))), "FailJob");
        }
    }

    proptest! {
        /// A04: of the pod's spec a run chooses the values of our variables and a priority class, and nothing else.
        #[test]
        fn a_run_decides_nothing_about_its_pod(
            texts in proptest::collection::vec(any::<String>(), 5),
            labels in proptest::collection::btree_map(".{1,20}", ".{0,20}", 0..5),
        ) {
            let [name, namespace, owner, team, class] = texts.try_into().expect("five");
            let strange = Run { name, namespace, owner, team, labels, priority_class: Some(class.clone()), ..run() };
            let step = step(|_| {});
            let mut spec = of(&strange, &step)["spec"]["template"]["spec"].clone();
            let mut plain = job(Injection::ImageVolume)["spec"]["template"]["spec"].clone();
            prop_assert_eq!(spec.as_object_mut().expect("spec").remove("priorityClassName"), Some(json!(class)));
            let variables = |spec: &mut Value| spec["containers"][0]["env"].take();
            let (strange, ours) = (variables(&mut spec), variables(&mut plain));
            let names = |list: &Value| list.as_array().expect("env").iter().map(|v| v["name"].clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&strange), names(&ours));
            prop_assert_eq!(spec, plain);
        }
    }
}
