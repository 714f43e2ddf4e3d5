//! Stands in for agents: speaks the agent API with the token of a pod, and for the kubelet of a fake node, which says
//! how a pod ended.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use asynctask_operator::contract::env::TOKEN_AUDIENCE;
use asynctask_operator::contract::wire::{Commit, CommittedFile, FailedBy, FailureReport, UploadPlan, path};
use asynctask_operator::storage::Digest;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use reqwest::{Certificate, Method};
use serde_json::{Value, json};

use crate::support::{Namespace, PATIENCE, SYSTEM, evidence, gateway_ca, get};

/// Of an Indexed Job's pod.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Between two tries.
const MOMENT: Duration = Duration::from_millis(100);

/// A way to both, and the namespace it is for.
pub(crate) struct StandIn {
    client: Client,
    gateway: reqwest::Client,
    url: String,
    namespace: String,
}

/// A pod whose agent is played.
#[derive(Clone, Debug)]
pub(crate) struct Played {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) shard: u32,
    pub(crate) token: String,
}

/// The gateway's answer: status, and body if there is one.
pub(crate) type Answer = (u16, Value);

/// The pods of a namespace, as somebody else may see and change them.
pub(crate) async fn pods_as(user: &str, namespace: &str) -> Api<Pod> {
    let mut config = Config::infer().await.unwrap();
    config.auth_info.impersonate = Some(user.to_owned());
    Api::namespaced(Client::try_from(config).unwrap(), namespace)
}

impl StandIn {
    pub(crate) async fn new(ns: &Namespace) -> Self {
        let client = Client::try_default().await.unwrap();
        // The pod itself: a Service forgets pods on a node that is not heard of.
        let pods = get(&["-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=gateway"]);
        let pod = &pods["items"][0];
        let ip: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let port = &ports.iter().find(|port| port["name"] == "https").unwrap()["containerPort"];
        let host = format!("asynctask-gateway.{SYSTEM}.svc");
        let roots = Certificate::from_pem_bundle(&std::fs::read(gateway_ca()).unwrap()).unwrap();
        let gateway =
            reqwest::Client::builder().tls_certs_only(roots).no_proxy().resolve(&host, SocketAddr::new(ip, 0));
        let url = format!("https://{host}:{port}");
        Self { client, gateway: gateway.build().unwrap(), url, namespace: ns.name.clone() }
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The running pods of a step.
    pub(crate) async fn running(&self, step: &str) -> Vec<Pod> {
        let which = ListParams::default().labels(&format!("asynctask.dev/step={step}")).fields("status.phase=Running");
        self.pods().list(&which).await.unwrap().items
    }

    /// Plays this pod's agent from now on: with a token as the kubelet asks for it. `None`: it is gone.
    pub(crate) async fn play(&self, pod: &Pod) -> Option<Played> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap());
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
        let request = json!({"spec": {"audiences": [TOKEN_AUDIENCE], "boundObjectRef": bound}});
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let made = accounts.create_token_request("default", &PostParams::default(), &request).await;
        let token = match made {
            Ok(made) => made.status.unwrap().token,
            Err(kube::Error::Api(refused)) if refused.code == 404 || refused.code == 409 => return None,
            Err(error) => panic!("{error}"),
        };
        let index = pod.labels().get(INDEX).or_else(|| pod.annotations().get(INDEX));
        let shard = index.map_or(0, |index| index.parse().unwrap());
        Some(Played { name, uid, shard, token })
    }

    /// A call as the agent makes it.
    pub(crate) async fn call(&self, pod: &Played, method: Method, path: &str, body: &Value) -> Answer {
        let began = Instant::now();
        loop {
            let request = self.gateway.request(method.clone(), format!("{}{path}", self.url));
            let answer = request.bearer_auth(&pod.token).json(body).send().await.unwrap();
            let status = answer.status().as_u16();
            let late = began.elapsed() > PATIENCE;
            if status == 503 && late {
                evidence::show(&format!("not after {PATIENCE:?}: {method} {path} of {} is answered", self.namespace));
            }
            if status != 503 || late {
                return (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default());
            }
            tokio::time::sleep(MOMENT).await;
        }
    }

    /// The first call of an agent: what it is told to do.
    pub(crate) async fn verdict(&self, pod: &Played) -> String {
        let (status, said) = self.call(pod, Method::GET, path::ASSIGNMENT, &Value::Null).await;
        match (status, said["verdict"].as_str()) {
            (200, Some(verdict)) => verdict.to_owned(),
            // Its pod is gone meanwhile.
            (401, _) => "Gone".to_owned(),
            _ => panic!("{status}: {said:#}"),
        }
    }

    /// Uploads the one file of an output.
    pub(crate) async fn store(&self, pod: &Played, output: &str, path: &str, bytes: &[u8]) -> CommittedFile {
        let (size, sha256) = (bytes.len() as u64, Digest::of(bytes).to_string());
        let file = json!({"output": output, "seq": 0, "path": path, "size": size, "sha256": sha256});
        let (status, said) = self.call(pod, Method::POST, self::path::FILES, &file).await;
        assert_eq!(status, 200, "{said:#}");
        let UploadPlan::Single { request } = serde_json::from_value(said).unwrap() else { panic!("a small file") };
        let mut put = reqwest::Client::new().put(&request.url).body(bytes.to_vec());
        for (name, value) in &request.headers {
            put = put.header(name, value);
        }
        let stored = put.send().await.unwrap();
        assert!(stored.status().is_success(), "{}", stored.text().await.unwrap());
        CommittedFile { output: output.to_owned(), seq: 0, path: path.to_owned(), size, sha256, media_type: None }
    }

    pub(crate) async fn commit(&self, pod: &Played, files: Vec<CommittedFile>) -> Answer {
        let commit = Commit { files, ..Commit::default() };
        self.call(pod, Method::POST, path::COMMIT, &serde_json::to_value(commit).unwrap()).await
    }

    /// Reports that the program failed.
    pub(crate) async fn fail(&self, pod: &Played, exit_code: i32) -> Answer {
        let report = FailureReport {
            code: "Hopeless".to_owned(),
            message: "this one always fails".to_owned(),
            link: None,
            exit_code,
            failed_by: Some(FailedBy::Program),
            stopped_by: None,
            stage: None,
            log_tail: String::new(),
            log: None,
        };
        self.call(pod, Method::POST, path::FAILURE, &serde_json::to_value(report).unwrap()).await
    }

    /// The kubelet's word that the pod has ended.
    pub(crate) async fn end(&self, pod: &Played, exit_code: i32) {
        let pods = self.pods();
        let Some(object) = pods.get_opt(&pod.name).await.unwrap() else { return };
        let (now, phase) = (jiff::Timestamp::now(), if exit_code == 0 { "Succeeded" } else { "Failed" });
        let ended = |name: &str| {
            json!({
                "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "startedAt": now, "finishedAt": now}},
            })
        };
        let containers: Vec<Value> =
            object.spec.unwrap().containers.iter().map(|container| ended(&container.name)).collect();
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"phase": phase, "containerStatuses": containers}});
        match pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {}
            // Deleted meanwhile.
            Err(kube::Error::Api(refused)) if refused.code == 404 || refused.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
    }
}
