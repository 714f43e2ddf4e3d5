//! A loopback port that leads to a pod of the gateway, through the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::why;

/// Port the gateway's pods serve TLS on.
const GATEWAY_PORT: u16 = 8443;
/// How long the pod's side may take to say why it closed.
const LAST_WORD: Duration = Duration::from_secs(1);
const SELECTOR: &str = "app.kubernetes.io/name=asynctask-operator,app.kubernetes.io/component=gateway";

/// A way to the gateway that could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The pods cannot be seen.
    #[error("cannot look for the gateway in namespace {namespace:?}: {}", why(.source))]
    List {
        /// Where.
        namespace: String,
        /// Why.
        source: kube::Error,
    },
    /// There is none, or none is ready.
    #[error("no gateway pod in namespace {namespace:?} {state}")]
    Pod {
        /// Where.
        namespace: String,
        /// Absent or not ready.
        state: &'static str,
    },
    /// The API server refuses.
    #[error("cannot open a port-forward to the gateway in namespace {namespace:?}: {}", why(.source))]
    Open {
        /// Where.
        namespace: String,
        /// Why.
        source: kube::Error,
    },
    /// No port of our own.
    #[error("cannot listen on a loopback port: {0}")]
    Listen(#[source] std::io::Error),
    /// The stream has no such port.
    #[error("the API server opened a port-forward without its port")]
    Stream,
}

/// An open way; closed when dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    address: SocketAddr,
    trouble: Trouble,
    _accepting: AbortOnDropHandle<()>,
}

/// The last thing that went wrong behind the loopback port: the client in front sees only a closed connection.
type Trouble = Arc<Mutex<Option<String>>>;

impl Forward {
    /// Opens it. A first connection is made and thrown away, so that a refusal is told here and not as a broken pipe.
    pub(crate) async fn open(client: Client, namespace: &str) -> Result<Self, ForwardError> {
        let pods = Pods { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() };
        drop(pods.connect().await?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(ForwardError::Listen)?;
        let address = listener.local_addr().map_err(ForwardError::Listen)?;
        let trouble = Trouble::default();
        let accepting = tokio::spawn(accept(listener, pods, Arc::clone(&trouble)));
        Ok(Self { address, trouble, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// The loopback address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went wrong last, once.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Every connection belongs to the set, so that dropping the listener ends them all.
async fn accept(listener: TcpListener, pods: Pods, trouble: Trouble) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let (pods, trouble) = (pods.clone(), Arc::clone(&trouble));
                connections.spawn(async move {
                    if let Err(sentence) = carry(stream, &pods).await {
                        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut near: TcpStream, pods: &Pods) -> Result<(), String> {
    let mut forwarder = pods.connect().await.map_err(|e| e.to_string())?;
    let mut far = forwarder.take_stream(GATEWAY_PORT).ok_or_else(|| ForwardError::Stream.to_string())?;
    let error = forwarder.take_error(GATEWAY_PORT);
    // How it ended shows in front of the port; only what the pod's side says is worth keeping.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    drop(far);
    let said = match error {
        Some(error) => tokio::time::timeout(LAST_WORD, error).await.ok().flatten(),
        None => None,
    };
    forwarder.abort();
    said.map_or(Ok(()), Err)
}

#[derive(Clone)]
struct Pods {
    api: Api<Pod>,
    namespace: String,
}

impl Pods {
    /// A pod is chosen anew for each connection: one that was ready may be gone by the next.
    async fn connect(&self) -> Result<kube::api::Portforwarder, ForwardError> {
        let name = self.ready().await?;
        let namespace = self.namespace.clone();
        self.api.portforward(&name, &[GATEWAY_PORT]).await.map_err(|source| ForwardError::Open { namespace, source })
    }

    async fn ready(&self) -> Result<String, ForwardError> {
        let namespace = self.namespace.clone();
        let pods = self
            .api
            .list(&ListParams::default().labels(SELECTOR))
            .await
            .map_err(|source| ForwardError::List { namespace: namespace.clone(), source })?;
        let state = if pods.items.is_empty() { "exists" } else { "is ready" };
        pods.items
            .into_iter()
            .find(is_ready)
            .and_then(|pod| pod.metadata.name)
            .ok_or(ForwardError::Pod { namespace, state })
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
