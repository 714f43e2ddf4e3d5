//! Which OutputStores a namespace may use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::api::OutputStore;
use crate::gateway::Gateway;
use crate::gateway::problem::Refusal;
use crate::runtime::client::is_status;

/// The OutputStores of the cluster, and the labels of a namespace, which decide which of them are open to it.
pub(super) async fn stores(
    gateway: &Gateway,
    namespace: &str,
) -> Result<(Vec<OutputStore>, BTreeMap<String, String>), Refusal> {
    let stores = Api::<OutputStore>::all(gateway.client.clone()).list(&ListParams::default()).await;
    let stores = stores.map_err(|source| Refusal::Kube { act: "list OutputStores", source })?;
    let labels = match Api::<Namespace>::all(gateway.client.clone()).get_metadata(namespace).await {
        Ok(namespace) => namespace.labels().clone(),
        Err(source) if is_status(&source, 404) => return Err(Refusal::NotFound),
        Err(source) => return Err(Refusal::Kube { act: "read a namespace", source }),
    };
    Ok((stores.items, labels))
}
