//! What the chart cannot do by itself: letting go of what it leaves behind, and taking over what an earlier release left.

use std::fmt::Debug;

use futures::stream::{self, StreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::hold::{HoldError, is_held, release};
use asynctask_api::names::{FINALIZER_OUTPUTS, FINALIZER_RUNS, FINALIZER_TASKS};
use asynctask_api::{AsyncTask, OutputStore, TaskDefinition};
use asynctask_runtime::client::{explain, is_status};

/// Objects listed at a time.
const PAGE: u32 = 500;
/// Objects released side by side.
const AT_ONCE: usize = 16;
/// Rounds over all objects: one that somebody wrote to meanwhile is released in the next.
const ROUNDS: usize = 3;

/// Why the chart's own Job failed.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The objects cannot be listed.
    #[error("the objects of kind {kind} cannot be listed: {}", explain(.source))]
    List {
        /// Their kind.
        kind: String,
        /// What the client said.
        source: kube::Error,
    },
    /// An object still has our finalizer.
    #[error("{held} of {kind} are still held by the finalizer {finalizer}; the first: {why}")]
    Held {
        /// Their kind.
        kind: String,
        /// How many.
        held: usize,
        /// Which one.
        finalizer: &'static str,
        /// What the first failed with.
        why: String,
    },
    /// A CRD cannot be written.
    #[error("the CRD {name} cannot be applied: {}", explain(.source))]
    Crd {
        /// Its name.
        name: String,
        /// What the client said.
        source: kube::Error,
    },
}

/// Takes our finalizers from all objects, so that they, and their namespaces, can be deleted without an operator. What is in
/// the stores stays there. Gives the number of objects by kind.
///
/// # Errors
/// What cannot be listed or written.
pub async fn let_go(client: &Client) -> Result<[(&'static str, usize); 3], ChartError> {
    Ok([
        ("AsyncTasks", let_go_of(&Held::<AsyncTask> { by: FINALIZER_OUTPUTS, api: in_namespace }, client).await?),
        (
            "TaskDefinitions",
            let_go_of(&Held::<TaskDefinition> { by: FINALIZER_RUNS, api: in_namespace }, client).await?,
        ),
        ("OutputStores", let_go_of(&Held::<OutputStore> { by: FINALIZER_TASKS, api: of_cluster }, client).await?),
    ])
}

/// A kind of ours, what holds its objects, and where they are.
struct Held<K> {
    by: &'static str,
    api: fn(&Client, &str) -> Api<K>,
}

fn in_namespace<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    client: &Client,
    namespace: &str,
) -> Api<K> {
    Api::namespaced(client.clone(), namespace)
}

fn of_cluster(client: &Client, _: &str) -> Api<OutputStore> {
    Api::all(client.clone())
}

async fn let_go_of<K>(of: &Held<K>, client: &Client) -> Result<usize, ChartError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&()).into_owned();
    let mut released = 0;
    for round in 1..=ROUNDS {
        let (done, failed) = round_of(of, client).await?;
        released += done;
        match failed.first() {
            None => break,
            Some(first) if round == ROUNDS => {
                let (held, why, finalizer) = (failed.len(), first.to_string(), of.by);
                return Err(ChartError::Held { kind, held, finalizer, why });
            }
            Some(_) => {}
        }
    }
    Ok(released)
}

/// How many were released, and what failed.
async fn round_of<K>(of: &Held<K>, client: &Client) -> Result<(usize, Vec<HoldError>), ChartError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (mut released, mut failed) = (0, Vec::new());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = match Api::<K>::all(client.clone()).list_metadata(&page).await {
            Ok(listed) => listed,
            // Its CRD is gone, and all objects with it.
            Err(error) if is_status(&error, 404) => return Ok((released, failed)),
            Err(source) => return Err(ChartError::List { kind: K::kind(&()).into_owned(), source }),
        };
        let held = listed.items.iter().filter(|object| is_held(&object.metadata, of.by));
        let releasing = held.map(async |object| {
            let api = (of.api)(client, &object.namespace().unwrap_or_default());
            release(&api, &object.metadata, of.by).await
        });
        let results: Vec<_> = stream::iter(releasing).buffer_unordered(AT_ONCE).collect().await;
        for result in results {
            match result {
                Ok(()) => released += 1,
                Err(error) => failed.push(error),
            }
        }
        match listed.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => page = page.continue_token(&more),
            None => return Ok((released, failed)),
        }
    }
}

/// Applies the CRDs of this version and makes them those of a helm release: an earlier one left them, and helm would not touch
/// what is another's.
///
/// # Errors
/// The first that cannot be written.
pub async fn take_over_crds(client: &Client, release: &str, namespace: &str) -> Result<usize, ChartError> {
    let crds = asynctask_api::crd::all();
    let (api, params) = (Api::<CustomResourceDefinition>::all(client.clone()), PatchParams::apply("helm").force());
    for (_, crd) in &crds {
        let mut crd = crd.clone();
        let name = crd.name_any();
        crd.labels_mut().insert("app.kubernetes.io/managed-by".into(), "Helm".into());
        let annotations = [
            ("meta.helm.sh/release-name", release),
            ("meta.helm.sh/release-namespace", namespace),
            ("helm.sh/resource-policy", "keep"),
        ];
        crd.annotations_mut().extend(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let body = json!(crd);
        let applied = api.patch(&name, &params, &Patch::Apply(&body)).await;
        applied.map_err(|source| ChartError::Crd { name: name.clone(), source })?;
    }
    Ok(crds.len())
}
