//! Which OutputStores a namespace may use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::Gateway;
use crate::problem::Refusal;
use asynctask_api::OutputStore;
use asynctask_plan::stores::is_open;
use asynctask_runtime::client::is_status;

/// The OutputStores of the cluster, and the labels of a namespace, which decide which of them are open to it.
pub(crate) async fn stores(
    gateway: &Gateway,
    namespace: &str,
) -> Result<(Vec<OutputStore>, BTreeMap<String, String>), Refusal> {
    let stores = Api::<OutputStore>::all(gateway.client.clone()).list(&ListParams::default()).await;
    let stores = stores.map_err(|source| Refusal::Kube { act: "list OutputStores", source })?;
    Ok((stores.items, labels(gateway, namespace).await?))
}

async fn labels(gateway: &Gateway, namespace: &str) -> Result<BTreeMap<String, String>, Refusal> {
    match Api::<Namespace>::all(gateway.client.clone()).get_metadata(namespace).await {
        Ok(namespace) => Ok(namespace.labels().clone()),
        Err(source) if is_status(&source, 404) => Err(Refusal::NotFound),
        Err(source) => Err(Refusal::Kube { act: "read a namespace", source }),
    }
}

/// The store may be read from by people of a namespace now; what a run was pinned to may have been withdrawn since.
/// Labels are looked at where a store asks for some.
pub(crate) async fn require_open(gateway: &Gateway, store: &OutputStore, namespace: &str) -> Result<(), Refusal> {
    if store.spec.namespaces.is_none() || is_open(store, &labels(gateway, namespace).await?) {
        return Ok(());
    }
    let message = format!(
        "OutputStore {}, which the results of this run are in, is not open to namespace {namespace} any more: an \
         administrator decides that (spec.namespaces of the store, labels of the namespace)",
        store.name_any()
    );
    Err(Refusal::Conflict { word: "StoreNotOpen", message })
}
