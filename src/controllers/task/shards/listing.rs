//! What the pods of each shard left, from a listing in the order of the shards.

use std::collections::BTreeMap;
use std::vec;

use crate::task::results::{PAGE, stuck};
use asynctask_plan::snapshot::Trouble;
use asynctask_storage::layout::{AttemptKey, AttemptKind, StepKeys};
use asynctask_storage::{Meta, ObjectStore};

/// What one pod left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) commit: bool,
    pub(super) failure: bool,
    pub(super) log: bool,
}

/// What the pods of one shard left, by their UIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) shard: u32,
    pub(super) pods: BTreeMap<String, Left>,
}

impl Group {
    fn add(&mut self, pod_uid: String, kind: Kind) {
        let left = self.pods.entry(pod_uid).or_default();
        match kind {
            Kind::Commit => left.commit = true,
            Kind::Failure => left.failure = true,
            Kind::Log => left.log = true,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Commit,
    Failure,
    Log,
}

/// Lists, a page at a time, and remembers one shard.
pub(super) struct Listing<'a> {
    store: &'a dyn ObjectStore,
    keys: &'a StepKeys,
    page: vec::IntoIter<Meta>,
    after: Option<String>,
    more: bool,
    begun: Option<Group>,
}

/// A listing whose shards go backwards: what was passed over would be taken for missing.
#[derive(Debug, thiserror::Error)]
#[error("the store lists shard {found} behind shard {before}: it does not list keys in their order and cannot be used")]
struct Unordered {
    before: u32,
    found: u32,
}

impl<'a> Listing<'a> {
    pub(super) fn new(store: &'a dyn ObjectStore, keys: &'a StepKeys) -> Self {
        Self { store, keys, page: Vec::new().into_iter(), after: None, more: true, begun: None }
    }

    /// The next shard of which anything is there.
    pub(super) async fn next(&mut self) -> Result<Option<Group>, Trouble> {
        let mut group = self.begun.take();
        loop {
            let Some((shard, pod_uid, kind)) = self.key().await? else { return Ok(group) };
            match &mut group {
                Some(group) if group.shard == shard => group.add(pod_uid, kind),
                Some(group) if group.shard > shard => {
                    return Err(stuck("StoreUnordered", &Unordered { before: group.shard, found: shard }));
                }
                begun => {
                    let mut next = Group { shard, ..Group::default() };
                    next.add(pod_uid, kind);
                    match begun.take() {
                        None => group = Some(next),
                        Some(whole) => {
                            self.begun = Some(next);
                            return Ok(Some(whole));
                        }
                    }
                }
            }
        }
    }

    async fn key(&mut self) -> Result<Option<(u32, String, Kind)>, Trouble> {
        loop {
            for meta in self.page.by_ref() {
                if let Some(found) = self.keys.parse(&meta.key).and_then(record) {
                    return Ok(Some(found));
                }
            }
            if !self.more {
                return Ok(None);
            }
            let page = self.store.list(self.keys.attempts_prefix(), self.after.as_deref(), PAGE).await;
            let page = page.map_err(|error| stuck(error.reason(), &error))?;
            self.after = page.objects.last().map(|meta| meta.key.clone());
            self.more = page.more && self.after.is_some();
            self.page = page.objects.into_iter();
        }
    }
}

/// Files are named by the commit.
fn record(key: AttemptKey) -> Option<(u32, String, Kind)> {
    let kind = match key.kind {
        AttemptKind::Commit => Kind::Commit,
        AttemptKind::Failure => Kind::Failure,
        AttemptKind::Log => Kind::Log,
        AttemptKind::File { .. } | AttemptKind::Items { .. } => return None,
    };
    Some((key.shard, key.pod_uid, kind))
}
