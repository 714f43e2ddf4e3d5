//! Holds a definition until the runs that are pinned to it have ended: its revisions would go with it.

use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::api::TaskDefinition;
use crate::api::names::{FINALIZER_RUNS, MANAGER_OPERATOR};
use crate::runtime::client::{explain, is_status};

/// The list of finalizers cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the finalizers of TaskDefinition {name} cannot be written: {}", explain(.source))]
pub(super) struct HoldError {
    name: String,
    source: kube::Error,
}

pub(super) fn is_held(definition: &ObjectMeta) -> bool {
    finalizers(definition).any(|name| name == FINALIZER_RUNS)
}

/// Where the API server has done so at creation, nothing is written.
pub(super) async fn hold(client: &Client, definition: &ObjectMeta) -> Result<(), HoldError> {
    if is_held(definition) {
        return Ok(());
    }
    let held = finalizers(definition).chain([FINALIZER_RUNS]);
    write(client, definition, held.collect()).await
}

/// Lets it go.
pub(super) async fn release(client: &Client, definition: &ObjectMeta) -> Result<(), HoldError> {
    let held = finalizers(definition).filter(|name| *name != FINALIZER_RUNS);
    write(client, definition, held.collect()).await
}

fn finalizers(definition: &ObjectMeta) -> impl Iterator<Item = &str> {
    definition.finalizers.iter().flatten().map(String::as_str)
}

/// Only the version that was looked at: the list is written whole.
async fn write(client: &Client, definition: &ObjectMeta, held: Vec<&str>) -> Result<(), HoldError> {
    let name = definition.name.clone().unwrap_or_default();
    let api = Api::<TaskDefinition>::namespaced(client.clone(), &definition.namespace.clone().unwrap_or_default());
    let patch = json!({"metadata": {"resourceVersion": definition.resource_version, "finalizers": held}});
    let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
    match api.patch_metadata(&name, &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(gone) if is_status(&gone, 404) => Ok(()),
        Err(source) => Err(HoldError { name, source }),
    }
}
