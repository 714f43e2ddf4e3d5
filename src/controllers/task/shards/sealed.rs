//! The sealed shards of the run that is continued, a page at a time.

use std::vec;

use super::reading::Place;
use super::{Source, keys};
use crate::task::results::stuck;
use asynctask_plan::snapshot::Trouble;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::layout::StepKeys;
use asynctask_storage::records::{Manifest, ManifestPage, PageRef, RECORD_MAX, RecordError, SealedShard};
use asynctask_storage::{Digest, StoreError};

/// Reads pages, and remembers one.
pub(super) struct Sealed<'a> {
    open: &'a OpenStore,
    keys: Option<StepKeys>,
    pages: vec::IntoIter<PageRef>,
    page: vec::IntoIter<SealedShard>,
    head: Option<SealedShard>,
}

impl<'a> Sealed<'a> {
    /// Those of the source; without one there are none.
    pub(super) async fn of(place: &Place<'a>, source: Option<&Source>) -> Result<Self, Trouble> {
        let open = place.reader.open;
        let none = Vec::new().into_iter();
        let mut sealed = Self { open, keys: None, pages: Vec::new().into_iter(), page: none, head: None };
        if let Some(source) = source {
            let keys = keys(open, &place.namespace, &source.uid, place.reader.step)?;
            let bytes = sealed.bytes(&keys, source.manifest).await?;
            let manifest = Manifest::open(&bytes, source.manifest).map_err(|error| unreadable(&error))?;
            sealed.pages = manifest.pages.into_iter();
            sealed.keys = Some(keys);
        }
        Ok(sealed)
    }

    /// What became of a shard there. Shards are asked for in ascending order.
    pub(super) async fn take(&mut self, shard: u32) -> Result<Option<SealedShard>, Trouble> {
        loop {
            match &self.head {
                Some(head) if head.shard == shard => return Ok(self.head.take()),
                Some(head) if head.shard > shard => return Ok(None),
                Some(_) | None => self.head = self.next().await?,
            }
            if self.head.is_none() {
                return Ok(None);
            }
        }
    }

    async fn next(&mut self) -> Result<Option<SealedShard>, Trouble> {
        loop {
            if let Some(shard) = self.page.next() {
                return Ok(Some(shard));
            }
            let (Some(keys), Some(page)) = (&self.keys, self.pages.next()) else { return Ok(None) };
            let bytes = self.bytes(keys, page.sha256).await?;
            let page = ManifestPage::open(&bytes, page.sha256).map_err(|error| unreadable(&error))?;
            self.page = page.shards.into_iter();
        }
    }

    /// What is sealed is there: one that is not is no shard without a result.
    async fn bytes(&self, keys: &StepKeys, sha256: Digest) -> Result<bytes::Bytes, Trouble> {
        let read = self.open.store.get_bytes(&keys.manifest(sha256), RECORD_MAX).await;
        read.map_err(|error: StoreError| stuck(error.reason(), &error))
    }
}

fn unreadable(error: &RecordError) -> Trouble {
    let reason = match error {
        RecordError::TooNew { .. } => "RecordTooNew",
        RecordError::Malformed(_) | RecordError::NotTheSealed { .. } => "InvalidRecord",
    };
    stuck(reason, error)
}
