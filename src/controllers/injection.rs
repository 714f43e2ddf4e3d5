//! How the agent gets into pods: by an image volume where nodes can mount images, else by an init container. The
//! only way to know is to try, so a pod is started once per agent image and server version; a ConfigMap remembers what
//! came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Error as WaitError, await_condition};
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_contract::env::{AGENT_DIR, AGENT_FILE};
use asynctask_plan::agent::Injection;
use asynctask_runtime::backoff::Backoff;
use asynctask_runtime::client::{explain, explain_watch, is_status};
use asynctask_runtime::health::Readiness;

/// ConfigMap that remembers. Deleting it and restarting the operator asks the nodes again.
const MEMORY: &str = "asynctask-agent-injection";
/// How long a node may take to start the probe.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long runs wait for the answer. Until it is there the init container serves, which works everywhere.
const HELD: Duration = Duration::from_secs(5);
/// Name of the need in readiness.
const NEED: &str = "injection";

/// What an administrator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Try image volumes, and fall back.
    Auto,
    /// Image volumes, untried.
    ImageVolume,
    /// An init container.
    InitContainer,
}

impl Choice {
    fn fixed(self) -> Option<Injection> {
        match self {
            Self::Auto => None,
            Self::ImageVolume => Some(Injection::ImageVolume),
            Self::InitContainer => Some(Injection::InitContainer),
        }
    }
}

/// What failed.
#[derive(Debug, thiserror::Error)]
enum InjectionError {
    #[error("the version of the API server cannot be read: {}", explain(.0))]
    Version(#[source] kube::Error),
    #[error("ConfigMap {MEMORY} cannot be read: {}", explain(.0))]
    Recall(#[source] kube::Error),
    #[error("ConfigMap {MEMORY} cannot be written: {}", explain(.0))]
    Remember(#[source] kube::Error),
    #[error("the probe pod cannot be created: {}", explain(.0))]
    Create(#[source] kube::Error),
    #[error("the probe pod cannot be watched: {}", explain_watch(.0))]
    Watch(#[source] kube::runtime::watcher::Error),
    #[error("the probe pod cannot be deleted: {}", explain(.0))]
    Delete(#[source] kube::Error),
}

/// What was found out, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision {
    injection: Injection,
    why: String,
    /// Whether the nodes said so; a node that was busy or could not pull the image said nothing.
    certain: bool,
}

/// Finds out how the agent gets into pods.
pub(super) struct Injector {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) image: String,
    /// Names of Secrets for it.
    pub(super) pull_secrets: Vec<String>,
    pub(super) choice: Choice,
    pub(super) readiness: Readiness,
    pub(super) decided: watch::Sender<Option<Injection>>,
}

impl Injector {
    /// Decides, then waits for `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut deciding = std::pin::pin!(self.decide());
        tokio::select! {
            () = stop.cancelled() => return,
            decision = &mut deciding => return self.settle(&decision, stop).await,
            () = sleep(HELD) => {
                let why = "the probe pod has not answered yet; until it does, runs use an init container";
                tracing::warn!(image = self.image, why, "how the agent gets into pods");
                self.readiness.met(NEED, format!("{}: {why}", Injection::InitContainer.as_str()));
                self.decided.send_replace(Some(Injection::InitContainer));
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            decision = deciding => self.settle(&decision, stop).await,
        }
    }

    async fn settle(&self, decision: &Decision, stop: CancellationToken) {
        let Decision { injection, why, certain } = decision;
        if *certain {
            tracing::info!(injection = injection.as_str(), image = self.image, why, "how the agent gets into pods");
        } else {
            tracing::warn!(injection = injection.as_str(), image = self.image, why, "how the agent gets into pods");
        }
        self.readiness.met(NEED, format!("{}: {why}", injection.as_str()));
        self.decided.send_replace(Some(*injection));
        stop.cancelled().await;
    }

    async fn decide(&self) -> Decision {
        if let Some(injection) = self.choice.fixed() {
            return Decision { injection, why: "chosen by --agent-injection".to_owned(), certain: true };
        }
        self.readiness.missing(NEED, "trying whether nodes can mount the agent's image as a volume");
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            match self.find_out().await {
                Ok(decision) => return decision,
                Err(error) => {
                    tracing::warn!(%error, "how the agent gets into pods cannot be found out, trying again");
                    self.readiness.missing(NEED, error.to_string());
                }
            }
            sleep(backoff.failed(NEED, std::time::Instant::now())).await;
        }
    }

    async fn find_out(&self) -> Result<Decision, InjectionError> {
        let server = self.client.apiserver_version().await.map_err(InjectionError::Version)?.git_version;
        let memories = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let memory = memories.get_opt(MEMORY).await.map_err(InjectionError::Recall)?;
        if let Some(decision) = memory.and_then(|memory| recall(&memory.data?, &self.image, &server)) {
            return Ok(decision);
        }
        let decision = self.probe().await?;
        if decision.certain {
            let memory = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": MEMORY, "labels": labels()},
                "data": remembered(&decision, &self.image, &server),
            });
            let params = PatchParams::apply(MANAGER_OPERATOR).force();
            memories.patch(MEMORY, &params, &Patch::Apply(&memory)).await.map_err(InjectionError::Remember)?;
        }
        Ok(decision)
    }

    async fn probe(&self) -> Result<Decision, InjectionError> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let name = pod_name(&self.image);
        let pod: Pod = serde_json::from_value(probe_pod(&name, &self.image, &self.pull_secrets))
            .expect("invariant: the probe is a Pod");
        match pods
            .create(&PostParams { field_manager: Some(MANAGER_OPERATOR.into()), ..PostParams::default() }, &pod)
            .await
        {
            Ok(_) => {}
            // A probe of before a restart: it is as good as a new one.
            Err(error) if is_status(&error, 409) => {}
            Err(error) if is_status(&error, 422) || is_status(&error, 400) => return Ok(refused(&explain(&error))),
            Err(error) => return Err(InjectionError::Create(error)),
        }
        let ended =
            await_condition(pods.clone(), &name, |pod: Option<&Pod>| pod.is_none_or(|pod| verdict(pod).is_some()));
        let decision = match timeout(PATIENCE, ended).await {
            Ok(Ok(pod)) => {
                pod.as_ref().and_then(verdict).unwrap_or_else(|| undecided("somebody deleted the probe pod"))
            }
            Ok(Err(WaitError::ProbeFailed(source))) => return Err(InjectionError::Watch(source)),
            Err(_) => {
                let pod = pods.get_opt(&name).await.ok().flatten();
                let waits = pod.as_ref().and_then(waits_for).map(|words| format!(": {words}")).unwrap_or_default();
                undecided(&format!("the probe pod did not start within {} s{waits}", PATIENCE.as_secs()))
            }
        };
        match pods.delete(&name, &DeleteParams::default().grace_period(0)).await {
            Ok(_) => Ok(decision),
            Err(error) if is_status(&error, 404) => Ok(decision),
            Err(error) => Err(InjectionError::Delete(error)),
        }
    }
}

fn refused(words: &str) -> Decision {
    let why = format!("the API server refuses image volumes: {words}");
    Decision { injection: Injection::InitContainer, why, certain: true }
}

fn undecided(words: &str) -> Decision {
    let why = format!("{words}; the next start of the operator tries again");
    Decision { injection: Injection::InitContainer, why, certain: false }
}

/// What the probe says; `None` while it says nothing.
fn verdict(pod: &Pod) -> Option<Decision> {
    let status = pod.status.as_ref()?;
    let state = status.container_statuses.as_ref().and_then(|all| all.first()).and_then(|c| c.state.as_ref());
    match (status.phase.as_deref(), state) {
        (Some("Succeeded"), _) => Some(Decision {
            injection: Injection::ImageVolume,
            why: "the probe pod ran the agent from an image volume".to_owned(),
            certain: true,
        }),
        (Some("Failed"), Some(ContainerState { terminated: Some(ended), .. })) => {
            let words = ended.message.as_deref().or(ended.reason.as_deref()).unwrap_or("no reason given");
            let why = format!("the agent in an image volume ended with code {}: {words}", ended.exit_code);
            Some(Decision { injection: Injection::InitContainer, why, certain: true })
        }
        (Some("Failed"), _) => Some(undecided(&format!(
            "the probe pod failed before its container started ({})",
            status.reason.as_deref().unwrap_or("no reason given")
        ))),
        (_, Some(ContainerState { waiting: Some(waiting), .. })) if cannot_mount(waiting.reason.as_deref()) => {
            let words = waiting.message.as_deref().unwrap_or("no reason given");
            let why = format!("the node cannot mount images as volumes: {words}");
            Some(Decision { injection: Injection::InitContainer, why, certain: true })
        }
        _ => None,
    }
}

/// What a pod that does not start waits for, in the words of kubelet or scheduler.
fn waits_for(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.as_ref().and_then(|all| all.first()?.state.as_ref()?.waiting.clone());
    let of_container = waiting.map(|waiting| [waiting.reason, waiting.message]);
    let unscheduled = || {
        let condition = status.conditions.as_ref()?.iter().find(|condition| condition.status == "False")?;
        Some([condition.reason.clone(), condition.message.clone()])
    };
    let words: Vec<String> = of_container.or_else(unscheduled)?.into_iter().flatten().collect();
    Some(words.join(": "))
}

/// Reasons of the kubelet for a container whose image is there but which it cannot make. Failing to pull is none.
fn cannot_mount(reason: Option<&str>) -> bool {
    matches!(
        reason,
        Some("ImageVolumeMountFailed" | "CreateContainerError" | "CreateContainerConfigError" | "RunContainerError")
    )
}

fn recall(data: &BTreeMap<String, String>, image: &str, server: &str) -> Option<Decision> {
    if data.get("image")? != image || data.get("server")? != server {
        return None;
    }
    let word = data.get("injection")?;
    let injection =
        [Injection::ImageVolume, Injection::InitContainer].into_iter().find(|known| known.as_str() == word)?;
    let why = data.get("why").cloned().unwrap_or_default();
    Some(Decision { injection, why: format!("{why} (remembered in ConfigMap {MEMORY})"), certain: true })
}

fn remembered(decision: &Decision, image: &str, server: &str) -> Value {
    json!({"image": image, "server": server, "injection": decision.injection.as_str(), "why": decision.why})
}

fn pod_name(image: &str) -> String {
    format!("asynctask-agent-probe-{}", &hex::encode(Sha256::digest(image))[..8])
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": "asynctask-operator", "app.kubernetes.io/component": "probe"})
}

/// Passes the `restricted` profile. The agent's image serves twice: as the container's and as the volume's.
fn probe_pod(name: &str, image: &str, pull_secrets: &[String]) -> Value {
    let pull_secrets: Vec<Value> = pull_secrets.iter().map(|name| json!({"name": name})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels()},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": PATIENCE.as_secs(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull_secrets,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [format!("{AGENT_DIR}/{AGENT_FILE}"), "version"],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                },
                "volumeMounts": [{"name": "agent", "mountPath": AGENT_DIR, "readOnly": true}],
            }],
            "volumes": [{"name": "agent", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}],
        },
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::{Value, json};

    use super::{pod_name, probe_pod, recall, remembered, verdict};
    use asynctask_plan::agent::Injection;

    fn judged(status: Value) -> Option<(Injection, bool)> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("pod");
        verdict(&pod).map(|decision| (decision.injection, decision.certain))
    }

    fn container(state: Value) -> Value {
        json!([{"name": "probe", "image": "a", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    #[test]
    fn only_what_nodes_say_of_image_volumes_is_certain() {
        use Injection::{ImageVolume, InitContainer};
        let waiting = |reason| json!({"phase": "Pending", "containerStatuses": container(json!({"waiting": {"reason": reason}}))});
        let ended =
            json!({"phase": "Failed", "containerStatuses": container(json!({"terminated": {"exitCode": 128}}))});
        for (status, expected) in [
            (json!({"phase": "Pending"}), None),
            (waiting("ContainerCreating"), None),
            (waiting("ImagePullBackOff"), None),
            (waiting("ImageVolumeMountFailed"), Some((InitContainer, true))),
            (waiting("CreateContainerError"), Some((InitContainer, true))),
            (json!({"phase": "Running"}), None),
            (json!({"phase": "Succeeded"}), Some((ImageVolume, true))),
            (ended, Some((InitContainer, true))),
            (json!({"phase": "Failed", "reason": "DeadlineExceeded"}), Some((InitContainer, false))),
        ] {
            assert_eq!(judged(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn a_decision_is_remembered_for_the_same_image_and_server_only() {
        let pod: Pod = serde_json::from_value(json!({"status": {"phase": "Succeeded"}})).expect("pod");
        let decision = verdict(&pod).expect("decided");
        let memory = json!({"data": remembered(&decision, "agent:1", "v1.37.2")});
        let data = serde_json::from_value::<ConfigMap>(memory).expect("map").data.expect("data");
        let recalled = recall(&data, "agent:1", "v1.37.2").expect("same");
        assert_eq!(recalled.injection, Injection::ImageVolume);
        assert!(recalled.why.contains("remembered"), "{}", recalled.why);
        assert_eq!(recall(&data, "agent:2", "v1.37.2"), None);
        assert_eq!(recall(&data, "agent:1", "v1.38.0"), None);
    }

    #[test]
    fn the_probe_is_named_after_its_image_and_is_a_pod() {
        assert_eq!(pod_name("agent:1"), pod_name("agent:1"));
        assert_ne!(pod_name("agent:1"), pod_name("agent:2"));
        let pod: Pod = serde_json::from_value(probe_pod("p", "agent:1", &["registry".to_owned()])).expect("pod");
        let spec = pod.spec.expect("spec");
        assert_eq!(spec.image_pull_secrets.expect("secrets")[0].name, "registry");
        assert_eq!(
            spec.volumes.expect("volumes")[0].image.as_ref().expect("image").reference.as_deref(),
            Some("agent:1")
        );
    }
}
