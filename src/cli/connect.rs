//! From flags and kubeconfig to a session with the API server.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tower::util::MapResponseLayer;

use super::gateway::{Gateway, GatewayError};
use super::proxy::{self, Environment, InvalidProxy};
use asynctask_api::quarantine::{Without, screened};
use asynctask_api::{AsyncTask, TaskDefinition};

/// Which cluster, which namespace, which gateway.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Namespace; default: the one of the context
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Kubeconfig file; default: $KUBECONFIG, then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// URL of the gateway; default: a port-forward to one of its pods
    #[arg(long, global = true, value_name = "URL", env = "ASYNCTASK_GATEWAY_URL")]
    pub(crate) gateway_url: Option<String>,
    /// PEM file with the certificates that sign the gateway's; default: the public roots, or the operator's own for a
    /// port-forward
    #[arg(long, global = true, value_name = "FILE", env = "ASYNCTASK_GATEWAY_CA_FILE")]
    pub(crate) gateway_ca: Option<PathBuf>,
    /// Namespace of the operator and its gateway
    #[arg(long, global = true, value_name = "NAME", default_value = "asynctask-system")]
    pub(crate) operator_namespace: String,
    /// Service of the gateway: the name its certificate carries
    #[arg(long, global = true, value_name = "NAME", default_value = "asynctask-gateway")]
    pub(crate) gateway_service: String,
}

/// A session that could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No usable kubeconfig.
    #[error("cannot read the kubeconfig: {0}. Check $KUBECONFIG, --kubeconfig and --context")]
    Kubeconfig(#[source] KubeconfigError),
    /// Neither a kubeconfig nor a pod's own credentials.
    #[error("no cluster to talk to: {0}. Set $KUBECONFIG or --kubeconfig")]
    Infer(#[source] kube::config::InferConfigError),
    /// A proxy that cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    /// The client refuses what the kubeconfig says.
    #[error("cannot use the credentials of the kubeconfig: {0}")]
    Client(#[source] kube::Error),
}

/// The API server, as the user's kubeconfig reaches it.
#[derive(Clone)]
pub(crate) struct Session {
    /// Client of the API server.
    pub(crate) client: Client,
    /// Namespace all names belong to.
    pub(crate) namespace: String,
    config: Config,
    args: ConnectionArgs,
}

impl Session {
    /// Reads the kubeconfig; talks to nobody yet.
    pub(crate) async fn open(args: &ConnectionArgs) -> Result<Self, ConnectError> {
        let config = config(args).await?;
        let screen = MapResponseLayer::new(|answer| screened(answer, Without::Nothing));
        let builder = ClientBuilder::try_from(config.clone()).map_err(ConnectError::Client)?;
        let client = builder.with_layer(&screen).build();
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client, namespace, config, args: args.clone() })
    }

    /// Tasks of the namespace.
    pub(crate) fn tasks(&self) -> Api<AsyncTask> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Pods of the namespace.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Definitions of the namespace.
    pub(crate) fn definitions(&self) -> Api<TaskDefinition> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The gateway, asked with the same credentials.
    pub(crate) async fn gateway(&self) -> Result<Gateway, GatewayError> {
        Gateway::open(&self.client, &self.config, &self.args).await
    }
}

/// The client library decides by the address of the proxy whether it is used; kubectl by that of the server, and so do we.
async fn config(args: &ConnectionArgs) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let (mut config, kubeconfig) = if let Some(file) = &args.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(file).map_err(ConnectError::Kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await;
        (config.map_err(ConnectError::Kubeconfig)?, Some(kubeconfig))
    } else if options.context.is_some() {
        let config = Config::from_kubeconfig(&options).await.map_err(ConnectError::Kubeconfig)?;
        (config, Kubeconfig::read().ok())
    } else {
        (Config::infer().await.map_err(ConnectError::Infer)?, Kubeconfig::read().ok())
    };
    let environment = Environment::of_process();
    config.proxy_url =
        proxy::of_cluster(&config.cluster_url, kubeconfig.as_ref(), args.context.as_deref(), &environment)?;
    Ok(config)
}
