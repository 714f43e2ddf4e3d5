//! What never changes once it is written: revisions of definitions, and manifests of results. Remembered, because a
//! step of 1,000 files would read the same revision 1,000 times.

use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client, ResourceExt};

use super::cache::Cache;
use super::problem::Refusal;
use asynctask_api::task::RevisionRef;
use asynctask_api::{TaskDefinition, TaskRevision, condition};
use asynctask_plan::definition::{ValidatedDefinition, validate};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::digest::Digest;
use asynctask_storage::layout::StepKeys;
use asynctask_storage::records::{Manifest, ManifestPage, RECORD_MAX};

/// Not for freshness, which is eternal: so that what nobody asks for any more goes.
const KEPT: Duration = Duration::from_secs(300);
const REVISIONS: usize = 256;
/// A manifest lists up to 1,000 files, so these are some tens of MiB at the very most.
const MANIFESTS: usize = 64;
/// A page of a fan-out is as large as a manifest, and whoever reads them reads one after the other.
const PAGES: usize = 8;

/// Reads revisions and manifests.
pub(crate) struct Catalog {
    client: Client,
    revisions: Cache<String, Arc<TaskRevision>>,
    definitions: Cache<String, Arc<ValidatedDefinition>>,
    manifests: Cache<Digest, Arc<Manifest>>,
    pages: Cache<Digest, Arc<ManifestPage>>,
}

impl Catalog {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            revisions: Cache::new(KEPT, REVISIONS),
            definitions: Cache::new(KEPT, REVISIONS),
            manifests: Cache::new(KEPT, MANIFESTS),
            pages: Cache::new(KEPT, PAGES),
        }
    }

    /// What a run pinned to this revision consists of, the operator's own steps included.
    pub(crate) async fn definition(
        &self,
        namespace: &str,
        pinned: &RevisionRef,
    ) -> Result<Arc<ValidatedDefinition>, Refusal> {
        if let Some(definition) = self.definitions.get(&pinned.uid) {
            return Ok(definition);
        }
        let revision = self.pinned(namespace, pinned).await?;
        let valid = validate(&revision.spec.content).map_err(|error| Refusal::Conflict {
            word: "DefinitionInvalid",
            message: format!("TaskRevision {} cannot be run by this release: {error}", pinned.name),
        })?;
        let definition = Arc::new(valid);
        self.definitions.put(pinned.uid.clone(), Arc::clone(&definition));
        Ok(definition)
    }

    /// The revision a run is pinned to.
    pub(crate) async fn pinned(&self, namespace: &str, pinned: &RevisionRef) -> Result<Arc<TaskRevision>, Refusal> {
        if let Some(revision) = self.revisions.get(&pinned.uid) {
            return Ok(revision);
        }
        let read = self.revision(namespace, &pinned.name).await?;
        let same = read.filter(|revision| revision.uid().as_ref() == Some(&pinned.uid));
        let revision = Arc::new(same.ok_or_else(|| Refusal::Conflict {
            word: "DefinitionGone",
            message: format!(
                "TaskRevision {}, to which this run is pinned, was deleted: create the run anew",
                pinned.name
            ),
        })?);
        self.revisions.put(pinned.uid.clone(), Arc::clone(&revision));
        Ok(revision)
    }

    /// The revision a new run would be pinned to: the one named, else the definition's current one.
    pub(crate) async fn current(
        &self,
        namespace: &str,
        definition: &str,
        revision: Option<&str>,
    ) -> Result<Arc<TaskRevision>, Refusal> {
        let unknown = |what: &str, name: &str| {
            let kind = what.to_lowercase();
            let message = format!(
                "{what} {name:?} does not exist in namespace {namespace}: `kubectl -n {namespace} get {kind}s` lists them"
            );
            Refusal::invalid("UnknownDefinition", message)
        };
        if let Some(name) = revision {
            let read = self.revision(namespace, name).await?;
            let of_it = read.filter(|read| read.spec.definition == definition);
            return of_it.map(Arc::new).ok_or_else(|| unknown("TaskRevision", name));
        }
        let definitions = Api::<TaskDefinition>::namespaced(self.client.clone(), namespace);
        let read = definitions.get_opt(definition).await;
        let read = read.map_err(|source| Refusal::Kube { act: "read a TaskDefinition", source })?;
        let read = read.ok_or_else(|| unknown("TaskDefinition", definition))?;
        match read.status.as_ref().and_then(|status| status.revision.as_ref()) {
            Some(current) => self.pinned(namespace, current).await,
            None => Err(not_ready(&read)),
        }
    }

    async fn revision(&self, namespace: &str, name: &str) -> Result<Option<TaskRevision>, Refusal> {
        let revisions = Api::<TaskRevision>::namespaced(self.client.clone(), namespace);
        revisions.get_opt(name).await.map_err(|source| Refusal::Kube { act: "read a TaskRevision", source })
    }

    /// A sealed result below the keys of a step, checked against its digest.
    pub(crate) async fn manifest(
        &self,
        open: &OpenStore,
        step: &StepKeys,
        sealed: Digest,
    ) -> Result<Arc<Manifest>, Refusal> {
        if let Some(manifest) = self.manifests.get(&sealed) {
            return Ok(manifest);
        }
        let bytes = open.store.get_bytes(&step.manifest(sealed), RECORD_MAX).await?;
        let manifest = Arc::new(Manifest::open(&bytes, sealed)?);
        self.manifests.put(sealed, Arc::clone(&manifest));
        Ok(manifest)
    }

    /// A page of one, checked likewise.
    pub(crate) async fn page(
        &self,
        open: &OpenStore,
        step: &StepKeys,
        sealed: Digest,
    ) -> Result<Arc<ManifestPage>, Refusal> {
        if let Some(page) = self.pages.get(&sealed) {
            return Ok(page);
        }
        let bytes = open.store.get_bytes(&step.manifest(sealed), RECORD_MAX).await?;
        let page = Arc::new(ManifestPage::open(&bytes, sealed)?);
        self.pages.put(sealed, Arc::clone(&page));
        Ok(page)
    }
}

fn not_ready(definition: &TaskDefinition) -> Refusal {
    let conditions = definition.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == condition::READY);
    let why = ready.map_or("it has not been checked yet", |ready| ready.message.as_str());
    Refusal::Conflict {
        word: "DefinitionNotReady",
        message: format!("TaskDefinition {} has no usable revision: {why}", definition.name_any()),
    }
}
