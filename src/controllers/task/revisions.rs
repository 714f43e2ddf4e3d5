//! Revisions read and validated once: they never change, and a burst of runs shares one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::{Api, Client, ResourceExt};

use super::error::TaskError;
use asynctask_api::TaskRevision;
use asynctask_api::task::RevisionRef;
use asynctask_plan::definition::{InvalidDefinition, ValidatedDefinition, validate};

/// Revisions kept: as many as run at a time in most clusters. All are dropped when they are more.
const KEPT: usize = 128;

/// A revision that was read.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) reference: RevisionRef,
    /// Its definition.
    pub(super) definition: String,
    /// Its content, or what today's rules have against it.
    pub(super) content: Result<Arc<ValidatedDefinition>, InvalidDefinition>,
}

/// Reads revisions.
pub(super) struct Revisions {
    client: Client,
    known: Mutex<HashMap<String, Known>>,
}

impl Revisions {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The very revision a definition points to; `None` when it is gone or another one has its name.
    pub(super) async fn pinned(&self, namespace: &str, pinned: &RevisionRef) -> Result<Option<Known>, TaskError> {
        let recalled = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&pinned.uid).cloned();
        match recalled {
            Some(known) => Ok(Some(known)),
            None => Ok(self.named(namespace, &pinned.name).await?.filter(|known| known.reference.uid == pinned.uid)),
        }
    }

    /// The revision of this name.
    pub(super) async fn named(&self, namespace: &str, name: &str) -> Result<Option<Known>, TaskError> {
        let api = Api::<TaskRevision>::namespaced(self.client.clone(), namespace);
        let read = api.get_opt(name).await;
        let read = read.map_err(|source| TaskError::ReadRevision { name: name.to_owned(), source })?;
        let Some(revision) = read else { return Ok(None) };
        let uid = revision.uid().unwrap_or_default();
        let known = Known {
            reference: RevisionRef { name: name.to_owned(), uid: uid.clone(), number: revision.spec.number },
            content: validate(&revision.spec.content).map(Arc::new),
            definition: revision.spec.definition,
        };
        let mut kept = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(uid, known.clone());
        Ok(Some(known))
    }
}
