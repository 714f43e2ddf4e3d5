//! Holds an object until what hangs on it has ended: its deletion waits for a finalizer of ours.

use std::fmt::Debug;

use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_runtime::client::{explain, is_status};

/// The list of finalizers cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the finalizers of {kind} {name} cannot be written: {}", explain(.source))]
pub(super) struct HoldError {
    kind: String,
    name: String,
    source: kube::Error,
}

pub(super) fn is_held(of: &ObjectMeta, finalizer: &str) -> bool {
    finalizers(of).any(|name| name == finalizer)
}

/// Where the API server has done so at creation, nothing is written.
pub(super) async fn hold<K>(api: &Api<K>, of: &ObjectMeta, finalizer: &str) -> Result<(), HoldError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if is_held(of, finalizer) {
        return Ok(());
    }
    write(api, of, finalizers(of).chain([finalizer]).collect()).await
}

/// Lets it go.
pub(super) async fn release<K>(api: &Api<K>, of: &ObjectMeta, finalizer: &str) -> Result<(), HoldError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    write(api, of, finalizers(of).filter(|name| *name != finalizer).collect()).await
}

fn finalizers(of: &ObjectMeta) -> impl Iterator<Item = &str> {
    of.finalizers.iter().flatten().map(String::as_str)
}

/// Only the version that was looked at: the list is written whole.
async fn write<K>(api: &Api<K>, of: &ObjectMeta, held: Vec<&str>) -> Result<(), HoldError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = of.name.clone().unwrap_or_default();
    let patch = json!({"metadata": {"resourceVersion": of.resource_version, "finalizers": held}});
    let params = PatchParams { field_manager: Some(MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
    match api.patch_metadata(&name, &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(gone) if is_status(&gone, 404) => Ok(()),
        Err(source) => Err(HoldError { kind: K::kind(&()).into_owned(), name, source }),
    }
}
