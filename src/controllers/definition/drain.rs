//! Records which revisions drain, and removes retired ones. What is asked are field selectors with a limit of one: no
//! count is stored, so no run costs a write here.

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use asynctask_api::names::MANAGER_OPERATOR;
use asynctask_api::state::RevisionState;
use asynctask_api::{AsyncTask, TaskRevision};
use asynctask_plan::drain::{self, Drain, RevisionFact};
use asynctask_runtime::client::{explain, is_status};

/// Revisions that are asked about at a time.
const AT_A_TIME: usize = 4;
/// Most runs that are counted; beyond that the number says nothing more to anybody.
pub(super) const MOST_COUNTED: u32 = 100;

/// Why the revisions were not looked after.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrainError {
    /// Something could not be listed.
    #[error("the {what} of TaskDefinition {definition} cannot be listed: {}", explain(.source))]
    List {
        /// What.
        what: &'static str,
        /// The definition.
        definition: String,
        /// What the client said.
        source: kube::Error,
    },
    /// A state could not be recorded.
    #[error("the status of TaskRevision {name} cannot be written: {}", explain(.source))]
    Record {
        /// The revision.
        name: String,
        /// What the client said.
        source: kube::Error,
    },
    /// A retired revision could not be removed.
    #[error("the retired TaskRevision {name} cannot be deleted: {}", explain(.source))]
    Delete {
        /// The revision.
        name: String,
        /// What the client said.
        source: kube::Error,
    },
}

impl DrainError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::List { .. } => "ListRuns",
            Self::Record { .. } => "RecordRevision",
            Self::Delete { .. } => "DeleteRevision",
        }
    }
}

/// The revisions of one definition and the runs on them.
pub(super) struct Drains<'a> {
    definition: &'a ObjectMeta,
    name: String,
    revisions: Api<TaskRevision>,
    /// To list them: one that cannot be read does not hide the others.
    guarded: Api<DeserializeGuard<TaskRevision>>,
    tasks: Api<AsyncTask>,
}

impl<'a> Drains<'a> {
    pub(super) fn of(client: &Client, definition: &'a ObjectMeta) -> Self {
        let namespace = definition.namespace.clone().unwrap_or_default();
        Self {
            definition,
            name: definition.name.clone().unwrap_or_default(),
            revisions: Api::namespaced(client.clone(), &namespace),
            guarded: Api::namespaced(client.clone(), &namespace),
            tasks: Api::namespaced(client.clone(), &namespace),
        }
    }

    /// Runs that are pinned to some revision and not over; at most [`MOST_COUNTED`].
    pub(super) async fn runs(&self) -> Result<usize, DrainError> {
        let params = ListParams::default().fields(&drain::runs_of(&self.name)).limit(MOST_COUNTED);
        let found = self.tasks.list_metadata(&params).await.map_err(|source| self.cannot_list("runs", source))?;
        Ok(found.items.len())
    }

    /// Records every state that is news and removes what is beyond `kept`. `current` is the name of the revision that
    /// new runs are pinned to, if they are pinned to any.
    pub(super) async fn tend(&self, current: Option<&str>, kept: usize) -> Result<Drain, DrainError> {
        let drain = drain::plan(current, self.facts(current).await?, kept);
        for (name, state) in &drain.states {
            self.record(name, *state).await?;
        }
        for revision in &drain.goes {
            self.remove(revision).await?;
        }
        Ok(drain)
    }

    async fn facts(&self, current: Option<&str>) -> Result<Vec<RevisionFact>, DrainError> {
        let of_this = ListParams::default().fields(&format!("spec.definition={}", self.name));
        let listed = self.guarded.list(&of_this).await.map_err(|source| self.cannot_list("revisions", source))?;
        let readable = listed.items.into_iter().filter_map(|revision| revision.0.ok());
        let ours = |revision: &TaskRevision| {
            let owners = revision.owner_references();
            revision.metadata.deletion_timestamp.is_none()
                && owners.iter().any(|owner| Some(&owner.uid) == self.definition.uid.as_ref())
        };
        let fact = async |revision: TaskRevision| {
            let name = revision.name_any();
            // Of the current one nothing depends on it.
            let busy = Some(name.as_str()) != current && self.is_busy(&name).await?;
            let state = revision.status.as_ref().and_then(|status| status.state);
            let uid = revision.uid().unwrap_or_default();
            Ok(RevisionFact { name, uid, number: revision.spec.number, state, busy })
        };
        stream::iter(readable.filter(ours)).map(fact).buffer_unordered(AT_A_TIME).try_collect().await
    }

    async fn is_busy(&self, revision: &str) -> Result<bool, DrainError> {
        let params = ListParams::default().fields(&drain::runs_on(revision)).limit(1);
        let found = self.tasks.list_metadata(&params).await.map_err(|source| self.cannot_list("runs", source))?;
        Ok(!found.items.is_empty())
    }

    async fn record(&self, name: &str, state: RevisionState) -> Result<(), DrainError> {
        let patch = json!({
            "apiVersion": TaskRevision::api_version(&()), "kind": TaskRevision::kind(&()), "status": {"state": state},
        });
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        match self.revisions.patch_status(name, &params, &Patch::Apply(&patch)).await {
            Ok(_) => {
                tracing::info!(uid = self.definition.uid, revision = name, state = state.as_str(), "revision");
                Ok(())
            }
            Err(gone) if is_status(&gone, 404) => Ok(()),
            Err(source) => Err(DrainError::Record { name: name.to_owned(), source }),
        }
    }

    /// Asked again right before: a run may have been pinned to it meanwhile.
    async fn remove(&self, revision: &RevisionFact) -> Result<(), DrainError> {
        if self.is_busy(&revision.name).await? {
            return Ok(());
        }
        let this = Preconditions { uid: Some(revision.uid.clone()), resource_version: None };
        match self.revisions.delete(&revision.name, &DeleteParams::default().preconditions(this)).await {
            Ok(_) => {
                let (uid, revision) = (self.definition.uid.as_deref(), revision.name.as_str());
                tracing::info!(uid, revision, "retired revision removed");
                Ok(())
            }
            Err(gone) if is_status(&gone, 404) || is_status(&gone, 409) => Ok(()),
            Err(source) => Err(DrainError::Delete { name: revision.name.clone(), source }),
        }
    }

    fn cannot_list(&self, what: &'static str, source: kube::Error) -> DrainError {
        DrainError::List { what, definition: self.name.clone(), source }
    }
}
