//! The gateway's certificate: the operator is its authority, so that agents and people can be sure whom they talk to
//! without anything else being installed. Where somebody else (cert-manager) keeps the Secret, it is left to them.
//!
//! | object | holds |
//! |---|---|
//! | Secret `asynctask-gateway-ca` | the authority and its key; read by the operator alone |
//! | Secret `asynctask-gateway-tls` | the gateway's certificate and key; the gateway watches it |
//! | ConfigMap `asynctask-gateway-ca` | the trusted roots, for people |

mod authority;
mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::authority::{Authority, Leaf, MintError};
use self::decide::{CERTIFICATE, CROSS, Decision, KEY, MANAGED_BY, PREVIOUS, ROOTS, US, decide};
use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_plan::agent::GatewayAccess;
use asynctask_runtime::backoff::Backoff;
use asynctask_runtime::client::explain;
use asynctask_runtime::health::Readiness;

/// Secret of the authority, and ConfigMap of its roots.
const AUTHORITY: &str = "asynctask-gateway-ca";
/// Secret of the gateway's certificate.
const LEAF: &str = "asynctask-gateway-tls";
/// Name of the need in readiness.
const NEED: &str = "certificate";
/// How often everything is looked at though nothing seems to have happened: clocks jump, ConfigMaps get deleted.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// A look that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);

/// What failed.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{what} {name} in namespace {namespace} cannot be read: {}", explain(.source))]
    Read { what: &'static str, name: &'static str, namespace: String, source: kube::Error },
    #[error("{what} {name} in namespace {namespace} cannot be written: {}", explain(.source))]
    Write { what: &'static str, name: &'static str, namespace: String, source: kube::Error },
    #[error(transparent)]
    Mint(#[from] MintError),
    #[error("the API server did not answer within {}s", DEADLINE.as_secs())]
    Deadline,
}

/// Keeps the certificate.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Name of the gateway's Service.
    pub(super) service: String,
    pub(super) readiness: Readiness,
    pub(super) access: watch::Sender<Option<GatewayAccess>>,
}

impl Keeper {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        self.readiness.missing(NEED, format!("Secret {LEAF} has not been read yet"));
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let changes = |name| watch_object(secrets.clone(), name).default_backoff().boxed();
        let mut changes = futures::stream::select(changes(AUTHORITY), changes(LEAF));
        loop {
            let look = timeout(DEADLINE, self.look()).await;
            let pause = match look.unwrap_or(Err(KeepError::Deadline)) {
                Ok(pause) => {
                    backoff.forget(LEAF);
                    pause
                }
                Err(error) => {
                    self.readiness.missing(NEED, error.to_string());
                    tracing::warn!(%error, "the gateway's certificate cannot be kept, trying again");
                    backoff.failed(LEAF, std::time::Instant::now())
                }
            };
            let failing = backoff.remaining(LEAF, std::time::Instant::now()).is_some();
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
                _ = changes.next(), if !failing => {}
            }
        }
    }

    /// Does all there is to do and says when to look again.
    async fn look(&self) -> Result<Duration, KeepError> {
        let names = server_names(&self.service, &self.namespace);
        // Each turn does one act and looks again at what came of it; three is the most it takes.
        loop {
            let (authority, leaf) = (self.read::<Secret>(AUTHORITY).await?, self.read::<Secret>(LEAF).await?);
            let now = Timestamp::now();
            match decide(authority.as_ref(), leaf.as_ref(), &names, now) {
                Decision::MakeAuthority { why, succeeds } => {
                    tracing::info!(why, "making a certificate authority for the gateway");
                    let made = succeeds.map_or_else(|| Authority::create(now), |before| before.succeed(now))?;
                    self.write(AUTHORITY, authority_secret(made), authority).await?;
                }
                Decision::Issue { why, authority } => {
                    tracing::info!(why, "issuing the gateway's certificate");
                    self.write(LEAF, leaf_secret(authority.issue(&names, now)?), leaf).await?;
                }
                Decision::Keep { bundle, wake_at } => {
                    self.publish(bundle, format!("good until it is renewed at {wake_at}")).await?;
                    let pause: Duration = now.duration_until(wake_at).try_into().unwrap_or_default();
                    return Ok(LOOK_AGAIN.min(pause));
                }
                Decision::Foreign { bundle } => {
                    self.publish(bundle, format!("Secret {LEAF} is kept by somebody else")).await?;
                    return Ok(LOOK_AGAIN);
                }
            }
        }
    }

    /// Tells people and pods whom to trust.
    async fn publish(&self, bundle: String, how: String) -> Result<(), KeepError> {
        let held = self.read::<ConfigMap>(AUTHORITY).await?;
        let said = held.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(ROOTS));
        if said != Some(&bundle) {
            let data = BTreeMap::from([(ROOTS.to_owned(), bundle.clone())]);
            let map = ConfigMap { metadata: metadata(), data: Some(data), ..ConfigMap::default() };
            self.write(AUTHORITY, map, held).await?;
        }
        let access =
            GatewayAccess { url: format!("https://{}.{}.svc:443", self.service, self.namespace), ca_pem: bundle };
        self.access.send_if_modified(|current| {
            let differs = current.as_ref() != Some(&access);
            *current = Some(access);
            differs
        });
        self.readiness.met(NEED, how);
        Ok(())
    }

    async fn read<K>(&self, name: &'static str) -> Result<Option<K>, KeepError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (api, what) = (Api::<K>::namespaced(self.client.clone(), &self.namespace), kind::<K>());
        let namespace = || self.namespace.clone();
        api.get_opt(name).await.map_err(|source| KeepError::Read { what, name, namespace: namespace(), source })
    }

    /// Writes only over what was read: another operator may be at the same work.
    async fn write<K>(&self, name: &'static str, mut object: K, over: Option<K>) -> Result<(), KeepError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + k8s_openapi::Resource
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        object.meta_mut().name = Some(name.to_owned());
        object.meta_mut().resource_version = over.and_then(|over| over.resource_version());
        let (api, what) = (Api::<K>::namespaced(self.client.clone(), &self.namespace), kind::<K>());
        let namespace = self.namespace.clone();
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        let written = api.patch(name, &params, &Patch::Apply(&object)).await;
        written.map(drop).map_err(|source| KeepError::Write { what, name, namespace, source })
    }
}

fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    if K::kind(&()) == "Secret" { "Secret" } else { "ConfigMap" }
}

/// Every name under which the gateway is called: inside the cluster, and through a port-forward.
fn server_names(service: &str, namespace: &str) -> BTreeSet<String> {
    let inside = ["", ".svc", ".svc.cluster.local"].map(|end| format!("{service}.{namespace}{end}"));
    inside.into_iter().chain([service.to_owned(), "localhost".to_owned()]).collect()
}

fn metadata() -> ObjectMeta {
    let labels = [(MANAGED_BY, US), ("app.kubernetes.io/name", US), ("app.kubernetes.io/component", "gateway")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ObjectMeta { labels: Some(labels.into()), ..ObjectMeta::default() }
}

fn secret(kind: &str, data: impl IntoIterator<Item = (&'static str, String)>) -> Secret {
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
    Secret { metadata: metadata(), type_: Some(kind.to_owned()), data: Some(data.collect()), ..Secret::default() }
}

fn authority_secret(authority: Authority) -> Secret {
    let bridge = authority.previous.into_iter().flat_map(|old| [(PREVIOUS, old.root), (CROSS, old.cross)]);
    secret("Opaque", [(CERTIFICATE, authority.root), (KEY, authority.key)].into_iter().chain(bridge))
}

fn leaf_secret(leaf: Leaf) -> Secret {
    secret("kubernetes.io/tls", [(CERTIFICATE, leaf.chain), (KEY, leaf.key)])
}

#[cfg(test)]
mod tests {
    use super::server_names;

    #[test]
    fn the_certificate_is_good_for_every_name_the_gateway_is_called_by() {
        let names: Vec<_> = server_names("gw", "ns").into_iter().collect();
        assert_eq!(names, ["gw", "gw.ns", "gw.ns.svc", "gw.ns.svc.cluster.local", "localhost"]);
    }
}
