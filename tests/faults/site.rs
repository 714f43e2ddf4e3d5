//! What all faults share: one cluster, one store, one proxy, one operator on this machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use asynctask_operator::storage::s3::{Keys, S3Options, S3Store};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::ledger::Ledger;
use crate::operator::{Operator, Start};
use crate::proxy::Proxy;
use crate::seaweedfs::{Seaweed, SeaweedOptions};
use crate::support::{SYSTEM, get, host_ip, kubectl, kubectl_in, until};

/// The OutputStore behind the proxy.
const STORE: &str = "faulty";
/// What all keys in the bucket begin with.
pub(crate) const PREFIX: &str = "faults";

/// Everything a fault needs.
pub(crate) struct Site {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) operator: Arc<Operator>,
    pub(crate) ledger: Ledger,
    /// The bucket, not through the proxy.
    pub(crate) store: S3Store,
    pub(crate) runtime: Runtime,
    pub(crate) start: Start,
    /// Never to be seen in a log, an Event or a status.
    pub(crate) canaries: Vec<String>,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/faults/run.sh, or `make test-faults`"))
}

/// Set up by whoever asks first.
pub(crate) fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(Site::new)
}

/// A function of bash that tells the ledger what begins, and goes on when it has heard. It tells until it is heard, as what
/// no ledger has heard of has not run; by its first word the ledger knows what it has heard before. `$times` is the how
/// many-th of its kind it is.
const TELL: &str = r#"tell() { local id=$HOSTNAME-$RANDOM step=$ASYNCTASK_STEP${ASYNCTASK_SHARD:+/$ASYNCTASK_SHARD}; until { exec 3<>/dev/tcp/LEDGER && echo "$id $ASYNCTASK_NAMESPACE $ASYNCTASK_NAME $step $ASYNCTASK_ATTEMPT${*:+ $*}" >&3 && read -r written times <&3; } 2>/dev/null; do sleep 0.2; done; }"#;

impl Site {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let folder = PathBuf::from(variable("FAULTS_FOLDER"));
        let ip: IpAddr = host_ip().parse().unwrap();
        let cluster = admin();
        let proxy = {
            let _inside = runtime.enter();
            Proxy::new(&decode(&cluster["certificate-authority-data"]))
        };

        // The installed operator gives its lease back and goes; its successor is ours.
        kubectl(&["-n", SYSTEM, "scale", "deployment/asynctask-operator", "--replicas=0"]).ok();
        kubectl(&["-n", SYSTEM, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator"]);
        let token = kubectl(&["-n", SYSTEM, "create", "token", "asynctask-operator", "--duration=2h"]).ok();
        let token = token.trim().to_owned();
        let api = runtime.block_on(proxy.api_server(cluster["server"].as_str().unwrap()));
        let volume = variable("E2E_VOLUME");
        let start = Start::like_the_deployment(&folder, variable("FAULTS_OPERATOR").into(), &volume);
        std::fs::write(&start.kubeconfig, kubeconfig(&format!("http://{api}"), &token).to_string()).unwrap();

        let (store, secret, seaweed) = store(ip, &folder);
        let front = runtime.block_on(proxy.store(ip, &seaweed));
        let operator = Arc::new(Operator::new(start.clone(), "asynctask-operator-faults"));
        let crashing = Arc::clone(&operator);
        proxy.crash_is(move || crashing.crash());
        declare(&format!("http://{front}"), &store, &secret);
        let ledger = Ledger::open(ip);
        Self { proxy, operator, ledger, store: opened(store), runtime, start, canaries: vec![token, secret] }
    }

    /// Fills in what manifests do not know.
    pub(crate) fn fill_in(&self, text: &str) -> String {
        let ledger = self.ledger.address;
        text.replace("${IMAGE}", &variable("HELLO_REPORT_IMAGE"))
            .replace("${TELL}", &TELL.replace("LEDGER", &format!("{}/{}", ledger.ip(), ledger.port())))
    }
}

/// The cluster of the administrator's kubeconfig.
fn admin() -> Value {
    let view = kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).ok();
    let view: Value = serde_json::from_str(&view).unwrap();
    view["clusters"][0]["cluster"].clone()
}

fn decode(base64: &Value) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64.as_str().unwrap()).unwrap()
}

fn kubeconfig(server: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "faults",
        "clusters": [{"name": "faults", "cluster": {"server": server}}],
        "users": [{"name": "faults", "user": {"token": token}}],
        "contexts": [{"name": "faults", "context": {"cluster": "faults", "user": "faults"}}],
    })
}

/// Starts the S3 server: how to open it, its secret, where it is.
fn store(ip: IpAddr, folder: &std::path::Path) -> (S3Options, String, String) {
    let seaweed = Seaweed::start(&SeaweedOptions { bind_ip: ip, ..SeaweedOptions::default() });
    // Ours lives in a static, which is never dropped: the script that started us stops the server by this pid.
    std::fs::write(folder.join("seaweed.pid"), seaweed.pid().to_string()).unwrap();
    let options = S3Options {
        endpoint: Some(seaweed.endpoint.clone()),
        public_endpoint: None,
        region: "faults".to_owned(),
        bucket: seaweed.bucket.clone(),
        path_style: true,
        keys: Some(Keys::new(&*seaweed.access_key, &*seaweed.secret_key)),
        ca_bundle: None,
        encryption: None,
        signs: true,
    };
    let (secret, endpoint) = (seaweed.secret_key.clone(), seaweed.endpoint.clone());
    std::mem::forget(seaweed);
    (options, secret, endpoint)
}

fn opened(options: S3Options) -> S3Store {
    S3Store::new(options).unwrap()
}

/// Registers the store under the address of the proxy.
fn declare(endpoint: &str, options: &S3Options, secret: &str) {
    let id = options.keys.as_ref().map(|keys| &keys.access_key_id);
    let documents = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": STORE, "namespace": SYSTEM},
         "stringData": {"accessKeyId": id, "secretAccessKey": secret}},
        {"apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "metadata": {"name": STORE},
         "spec": {"prefix": PREFIX, "s3": {"endpoint": endpoint, "bucket": options.bucket, "pathStyle": true,
                  "credentialsSecret": {"name": STORE}}}},
    ]});
    // A kept cluster still has that of the run before, at an address that is gone.
    kubectl(&["delete", "outputstore", STORE, "--ignore-not-found"]).ok();
    kubectl_in(&["apply"], &documents.to_string()).ok();
    until("the store behind the proxy is Ready", || {
        let status = get(&["outputstore", STORE])["status"].clone();
        let ready = status["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ready.then_some(())
    });
}
