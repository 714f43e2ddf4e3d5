//! The cluster, and the operator and the gateway that are measured: processes of this machine, built with
//! optimisations, with the rights of their service accounts.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use kube::Client;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::operator::{Operator, Start};
use crate::sizes::{folder, host};
use crate::support::{SYSTEM, gateway_ca, get, kubectl, run, until};

/// Everything that is measured, and the way to it.
pub(crate) struct Site<'a> {
    pub(crate) runtime: &'a Runtime,
    /// As the administrator.
    pub(crate) client: Client,
    pub(crate) operator: Operator,
    /// Metrics of the operator.
    metrics: String,
    /// Runs as long as this is there.
    _gateway: Operator,
    pub(crate) gateway_address: SocketAddr,
    /// Of the filesystem store.
    pub(crate) volume: PathBuf,
}

const OPERATOR: &str = "operator-bench";
const GATEWAY: &str = "gateway-bench";

impl<'a> Site<'a> {
    pub(crate) fn new(runtime: &'a Runtime) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = runtime.block_on(Client::try_default()).unwrap();
        let volume = folder().join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        let metrics = free("127.0.0.1");
        let mut start = start("asynctask-operator", &volume);
        start.arguments.push(format!("--listen={metrics}"));
        let operator = Operator::new(start, OPERATOR);
        until("the trial store is Ready", || {
            let status = get(&["outputstore", "trial"])["status"].clone();
            status["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True").then_some(())
        });
        until("the gateway's certificate is there", || {
            (!get(&["-n", SYSTEM, "configmap", "asynctask-gateway-ca"]).is_null()).then_some(())
        });
        let gateway_address = free(&host().to_string());
        let mut start = self::start("asynctask-gateway", &volume);
        start.arguments.extend([format!("--listen={gateway_address}"), "--health-listen=127.0.0.1:0".to_owned()]);
        let gateway = Operator::new(start, GATEWAY);
        let site = Self {
            runtime,
            client,
            operator,
            metrics: format!("http://{metrics}/metrics"),
            _gateway: gateway,
            gateway_address,
            volume,
        };
        until("the gateway answers", || runtime.block_on(site.answers()).then_some(()));
        site
    }

    /// A client that knows the gateway by the name in its certificate.
    pub(crate) fn http(&self) -> reqwest::Client {
        let roots = reqwest::Certificate::from_pem_bundle(&std::fs::read(gateway_ca()).unwrap()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only(roots).no_proxy();
        let client = client.resolve(&name(), self.gateway_address).redirect(reqwest::redirect::Policy::none());
        client.build().unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", name(), self.gateway_address.port())
    }

    async fn answers(&self) -> bool {
        self.http().get(self.url("/api/v1/nothing")).send().await.is_ok()
    }

    pub(crate) fn operator_pid(&self) -> u32 {
        pid(OPERATOR)
    }

    pub(crate) fn gateway_pid(&self) -> u32 {
        pid(GATEWAY)
    }

    /// Of the cluster.
    pub(crate) fn api_server_pid(&self) -> u32 {
        let file =
            folder().join("../clusters").join(std::env::var("BENCH_CLUSTER").unwrap()).join("pids/kube-apiserver");
        let identity: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        u32::try_from(identity["pid"].as_u64().unwrap()).unwrap()
    }

    /// How many reconciles of tasks the operator has done since it began; `None` while it does not answer.
    pub(crate) fn reconciles(&self) -> Option<u64> {
        let text = self.runtime.block_on(async { reqwest::get(&self.metrics).await.ok()?.text().await.ok() })?;
        let counts = text
            .lines()
            .filter(|line| line.starts_with("asynctask_reconciles_total{") && line.contains("controller=\"task\""));
        Some(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// A new process with nothing in memory.
    pub(crate) fn restart_operator(&self) {
        self.operator.crash();
        until("the operator answers", || self.reconciles());
    }
}

fn name() -> String {
    format!("asynctask-gateway.{SYSTEM}.svc")
}

/// An address that nobody listens on.
fn free(ip: &str) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

fn pid(name: &str) -> u32 {
    std::fs::read_to_string(folder().join(format!("{name}.pid"))).unwrap().parse().unwrap()
}

/// A binary of the build that this suite is from: `<target>/<profile>/` holds it, `deps/` below that us.
fn beside_us(binary: &str) -> PathBuf {
    let us = std::env::current_exe().unwrap();
    us.ancestors().nth(2).unwrap().join(binary)
}

/// As the Deployment of the chart has it, with a kubeconfig of its account, whose name is the binary's too, and the volume
/// where it is on this machine.
fn start(account: &str, volume: &Path) -> Start {
    let deployment = get(&["-n", SYSTEM, "deployment", account]);
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let here = |argument: &Value| match argument.as_str().unwrap() {
        root if root.starts_with("--filesystem-root=") => format!("--filesystem-root={}", volume.display()),
        other => other.to_owned(),
    };
    let token = kubectl(&["-n", SYSTEM, "create", "token", account, "--duration=12h"]).ok();
    let kubeconfig = folder().join(format!("{account}.json"));
    let view = kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).ok();
    let mut view: Value = serde_json::from_str(&view).unwrap();
    view["users"][0]["user"] = json!({"token": token.trim()});
    std::fs::write(&kubeconfig, view.to_string()).unwrap();
    let log = folder().join(format!("{account}.log"));
    Start { binary: beside_us(account), kubeconfig, log, arguments: arguments.iter().map(here).collect() }
}

/// Keeps a process, all its threads, on some of the cores.
pub(crate) fn pin(pid: u32, cores: &str) {
    run(std::process::Command::new("taskset").args(["-a", "-p", "-c", cores, &pid.to_string()]), None).ok();
}
