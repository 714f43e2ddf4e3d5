//! Stands in for what no fake node has: a kubelet that ends the pods, and an agent that commits before. Pods without us
//! are ended by the same hand, so that what is compared differs in the commit only.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use asynctask_operator::api::names::{LABEL_ATTEMPT, LABEL_STEP, LABEL_TASK_UID};
use asynctask_operator::contract::env::TOKEN_AUDIENCE;
use asynctask_operator::contract::wire::{Commit, CommittedFile, path};
use asynctask_operator::storage::layout::AttemptKeys;
use asynctask_operator::storage::records::{self, CommitRecord};
use asynctask_operator::storage::{Digest, Layout, ObjectStore, PutMode, StoreError};
use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::site::Site;

/// Pods that are ended side by side.
const TOGETHER: usize = 32;
/// What keys of a store begin with that says nothing else.
pub(crate) const PREFIX: &str = "asynctask";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// How a pod commits.
#[derive(Clone)]
pub(crate) enum Voice {
    /// Not at all: it is none of ours.
    Silent,
    /// The record is put where the gateway would put it.
    Store { store: Arc<dyn ObjectStore>, layout: Layout, output: Option<&'static str> },
    /// By the calls that an agent makes at least: which attempt it is, and the commit.
    Gateway { http: reqwest::Client, base: String },
}

impl Voice {
    /// Records in the filesystem store of the site.
    pub(crate) fn store(site: &Site) -> Self {
        let folder = site.volume.join("trial");
        let store = asynctask_operator::storage::filesystem::FilesystemStore::open(&folder).unwrap();
        Self::Store { store: Arc::new(store), layout: Layout::new(PREFIX).unwrap(), output: None }
    }

    /// Calls of the site's gateway.
    pub(crate) fn gateway(site: &Site) -> Self {
        Self::Gateway { http: site.http(), base: site.url("") }
    }
}

/// Works until it is dropped.
pub(crate) struct StandIn(JoinHandle<()>);

impl StandIn {
    /// Ends the pods of a namespace as soon as they run.
    pub(crate) fn begin(site: &Site, namespace: &str, voice: Voice) -> Self {
        let hand = Hand { client: site.client.clone(), namespace: namespace.to_owned(), voice, seen: Mutex::default() };
        Self(site.runtime.spawn(hand.work()))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Hand {
    client: Client,
    namespace: String,
    voice: Voice,
    seen: Mutex<HashSet<String>>,
}

impl Hand {
    async fn work(self) {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let running = watcher(pods, watcher::Config::default().fields("status.phase=Running"));
        let running = running.default_backoff().applied_objects();
        running.for_each_concurrent(TOGETHER, |pod| self.pod(pod)).await;
    }

    async fn pod(&self, pod: Result<Pod, watcher::Error>) {
        let pod = match pod {
            Ok(pod) => pod,
            Err(error) => return println!("the stand-in's watch: {error}"),
        };
        let new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid().unwrap());
        if new {
            self.commit(&pod).await;
            self.end(&pod).await;
        }
    }

    async fn commit(&self, pod: &Pod) {
        match &self.voice {
            Voice::Silent => {}
            Voice::Store { store, layout, output } => {
                let (record, keys) = record(pod, layout);
                let record = with_output(record, &keys, store.as_ref(), *output).await;
                match store.put(&keys.commit(), records::encode(&record), PutMode::Create).await {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                    Err(error) => panic!("a commit cannot be stored: {error}"),
                }
            }
            Voice::Gateway { http, base } => {
                let token = self.token(pod).await;
                let commit = serde_json::to_value(Commit::default()).unwrap();
                call(http, Method::GET, &format!("{base}{}", path::ASSIGNMENT), &token, &Value::Null).await;
                call(http, Method::POST, &format!("{base}{}", path::COMMIT), &token, &commit).await;
            }
        }
    }

    /// A token of this pod, as the kubelet asks for it.
    async fn token(&self, pod: &Pod) -> String {
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid()});
        let request = json!({"spec": {"audiences": [TOKEN_AUDIENCE], "boundObjectRef": bound}});
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let made = accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token
    }

    /// As the kubelet says it.
    async fn end(&self, pod: &Pod) {
        let now = Timestamp::now();
        let ended = json!({"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now});
        let container = json!({
            "name": "task", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "started": false,
            "state": {"terminated": ended},
        });
        let status = json!({"status": {"phase": "Succeeded", "containerStatuses": [container]}});
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let ended = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
        if let Err(error) = ended {
            println!("pod {} cannot be ended: {error}", pod.name_any());
        }
    }
}

/// Asks again while the answer is that it is too early.
async fn call(http: &reqwest::Client, method: Method, url: &str, token: &str, body: &Value) {
    loop {
        let asked = http.request(method.clone(), url).bearer_auth(token);
        let asked = if body.is_null() { asked } else { asked.json(body) };
        let answer = asked.send().await.unwrap();
        match answer.status() {
            status if status.is_success() => return,
            StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(Duration::from_millis(50)).await,
            status => panic!("{url}: {status}: {}", answer.text().await.unwrap_or_default()),
        }
    }
}

/// What the gateway would write of a pod that commits nothing but its success, and where.
fn record(pod: &Pod, layout: &Layout) -> (CommitRecord, AttemptKeys) {
    let label = |key: &str| pod.labels()[key].clone();
    let index = pod.labels().get(INDEX).or_else(|| pod.annotations().get(INDEX));
    let shard = index.map_or(0, |index| index.parse().unwrap());
    let (task_uid, step, pod_uid) = (label(LABEL_TASK_UID), label(LABEL_STEP), pod.uid().unwrap());
    let keys = layout.task(&pod.namespace().unwrap(), &task_uid).unwrap().step(&step).unwrap();
    let keys = keys.attempt(shard, &pod_uid).unwrap();
    let record = CommitRecord {
        version: records::VERSION,
        task_uid,
        step,
        attempt: label(LABEL_ATTEMPT).parse().unwrap(),
        pod_uid,
        shard,
        files: Vec::new(),
        emitted: None,
        items: None,
        warning: None,
        image: None,
        committed_at: Timestamp::now(),
    };
    (record, keys)
}

async fn with_output(
    mut record: CommitRecord,
    keys: &AttemptKeys,
    store: &dyn ObjectStore,
    output: Option<&str>,
) -> CommitRecord {
    let Some(output) = output else { return record };
    let bytes = bytes::Bytes::from_static(b"what somebody waits for\n");
    let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes).to_string());
    store.put(&keys.file(output, 0).unwrap(), bytes, PutMode::Overwrite).await.unwrap();
    let (output, path) = (output.to_owned(), format!("{output}.txt"));
    record.files.push(CommittedFile { output, seq: 0, path, size, sha256, media_type: None });
    record
}
