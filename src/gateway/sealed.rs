//! The sealed result of a step. That of a fan-out has pages: a file, or a shard, is found by the counts of the pages
//! before it, and only the pages it is in are read.

use std::ops::Range;
use std::sync::Arc;

use kube::ResourceExt;

use super::Gateway;
use super::problem::Refusal;
use asynctask_api::AsyncTask;
use asynctask_api::task::StepStatus;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::StoreError;
use asynctask_storage::digest::Digest;
use asynctask_storage::layout::{AttemptKeys, InvalidPart, StepKeys};
use asynctask_storage::records::{Manifest, ManifestFile, ManifestPage, PageRef, SealedShard, Volume};

/// Pages of shards read for one answer.
const PAGES_AT_ONCE: usize = 16;

/// A sealed result and where it is.
pub(crate) struct Sealed<'a> {
    gateway: &'a Gateway,
    open: &'a OpenStore,
    /// Keys of the step in the run that sealed it: another one, where the step was taken over.
    keys: StepKeys,
    manifest: Arc<Manifest>,
}

impl<'a> Sealed<'a> {
    /// The result a status names; `None` while there is none.
    pub(crate) async fn of(
        gateway: &'a Gateway,
        open: &'a OpenStore,
        task: &AsyncTask,
        step: &StepStatus,
    ) -> Result<Option<Self>, Refusal> {
        let Some(named) = &step.manifest else { return Ok(None) };
        let sealed: Digest =
            named.parse().map_err(|_| Refusal::Defect("a status names a manifest that is no digest".into()))?;
        let (namespace, own) = (task.namespace().unwrap_or_default(), task.uid().unwrap_or_default());
        let read = |uid: String| {
            let keys = keys(open, &namespace, &uid, &step.name);
            async move { gateway.catalog.manifest(open, &keys?, sealed).await }
        };
        // A step that was taken over whole is sealed in the run it comes from; one that only went on where that had
        // stopped, here. Under a digest is the same content everywhere, or none.
        let manifest = match (read(own).await, &step.adopted) {
            (Err(Refusal::Store(StoreError::NotFound { .. })), Some(adopted)) => read(adopted.uid.clone()).await?,
            (found, _) => found?,
        };
        // Which of both it was, the manifest tells, also when it was remembered.
        let keys = keys(open, &namespace, &manifest.task_uid, &step.name)?;
        Ok(Some(Self { gateway, open, keys, manifest }))
    }

    /// As [`Self::of`], by the name of the step.
    pub(crate) async fn of_step(
        gateway: &'a Gateway,
        open: &'a OpenStore,
        task: &AsyncTask,
        step: &str,
    ) -> Result<Option<Self>, Refusal> {
        match status_of(task, step) {
            Some(status) => Self::of(gateway, open, task, status).await,
            None => Ok(None),
        }
    }

    /// Whether it is of many pods.
    pub(crate) fn is_fan_out(&self) -> bool {
        !self.manifest.pages.is_empty()
    }

    /// What the winning attempt of a step of one pod has written.
    pub(crate) fn winner(&self) -> Result<AttemptKeys, Refusal> {
        self.keys.attempt(0, &self.manifest.pod_uid).map_err(defect)
    }

    /// How much of an output there is.
    pub(crate) fn volume(&self, output: &str) -> Volume {
        let mut sum = Volume::default();
        for file in self.manifest.files.iter().filter(|file| file.output == output) {
            sum = added(sum, Volume { files: 1, bytes: file.size });
        }
        self.manifest.pages.iter().filter_map(|page| page.outputs.get(output)).fold(sum, |sum, more| added(sum, *more))
    }

    /// Names of the outputs that have files.
    pub(crate) fn outputs(&self) -> Vec<&str> {
        let files = self.manifest.files.iter().map(|file| file.output.as_str());
        let pages = self.manifest.pages.iter().flat_map(|page| page.outputs.keys().map(String::as_str));
        let mut names: Vec<&str> = files.chain(pages).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// At most `limit` files of an output, from number `from` on.
    pub(crate) async fn files(&self, output: &str, from: u64, limit: usize) -> Result<Vec<ManifestFile>, Refusal> {
        Ok(self.files_of_shards(output, from, limit).await?.into_iter().map(|(_, file)| file).collect())
    }

    /// As [`Self::files`], each with the shard that wrote it; 0 for a step of one pod.
    pub(crate) async fn files_of_shards(
        &self,
        output: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u32, ManifestFile)>, Refusal> {
        let wanted = |file: &&ManifestFile| file.output == output;
        let place = |from: u64| usize::try_from(from).unwrap_or(usize::MAX);
        if self.manifest.pages.is_empty() {
            let files = self.manifest.files.iter().filter(wanted).skip(place(from)).take(limit);
            return Ok(files.map(|file| (0, file.clone())).collect());
        }
        let (mut skip, mut found) = (from, Vec::new());
        for page in &self.manifest.pages {
            if found.len() >= limit {
                break;
            }
            let here = page.outputs.get(output).map_or(0, |volume| volume.files);
            if skip >= here {
                skip -= here;
                continue;
            }
            let read = self.page(page).await?;
            let of = |shard: &SealedShard| -> Vec<_> {
                shard.files.iter().filter(wanted).map(|file| (shard.shard, file.clone())).collect()
            };
            found.extend(read.shards.iter().flat_map(of).skip(place(skip)).take(limit - found.len()));
            skip = 0;
        }
        Ok(found)
    }

    /// File number `number` of an output.
    pub(crate) async fn file(&self, output: &str, number: u64) -> Result<Option<ManifestFile>, Refusal> {
        Ok(self.files(output, number, 1).await?.pop())
    }

    /// The shards of a range that the result speaks of, in their order.
    pub(crate) async fn shards(&self, range: Range<u32>) -> Result<Vec<SealedShard>, Refusal> {
        let mut found = Vec::new();
        for page in &self.manifest.pages {
            if page.first < range.end && page.first.saturating_add(page.shards) > range.start {
                let read = self.page(page).await?;
                found.extend(read.shards.iter().filter(|shard| range.contains(&shard.shard)).cloned());
            }
        }
        Ok(found)
    }

    /// At most `limit` shards from number `from` on, of those that failed, of those that did not, or of all; and the
    /// number of the first one that was not looked at.
    pub(crate) async fn some_shards(
        &self,
        from: u32,
        limit: usize,
        failed: Option<bool>,
    ) -> Result<(Vec<SealedShard>, Option<u32>), Refusal> {
        let (mut found, mut read) = (Vec::new(), 0);
        for page in &self.manifest.pages {
            let wanted = match failed {
                None => page.shards,
                Some(true) => page.failed,
                Some(false) => page.shards.saturating_sub(page.failed),
            };
            if wanted == 0 || page.first.saturating_add(page.shards) <= from {
                continue;
            }
            if read == PAGES_AT_ONCE {
                return Ok((found, Some(page.first)));
            }
            read += 1;
            let page = self.page(page).await?;
            let fits = |shard: &&SealedShard| failed.is_none_or(|failed| shard.failure.is_some() == failed);
            for shard in page.shards.iter().filter(|shard| shard.shard >= from).filter(fits) {
                if found.len() == limit {
                    return Ok((found, Some(shard.shard)));
                }
                found.push(shard.clone());
            }
        }
        Ok((found, None))
    }

    async fn page(&self, page: &PageRef) -> Result<Arc<ManifestPage>, Refusal> {
        self.gateway.catalog.page(self.open, &self.keys, page.sha256).await
    }
}

/// What a task's status says of a step.
pub(crate) fn status_of<'a>(task: &'a AsyncTask, step: &str) -> Option<&'a StepStatus> {
    task.status.as_ref()?.steps.iter().find(|known| known.name == step)
}

/// Keys of a step of a run.
pub(crate) fn keys(open: &OpenStore, namespace: &str, uid: &str, step: &str) -> Result<StepKeys, Refusal> {
    open.layout.task(namespace, uid).and_then(|task| task.step(step)).map_err(defect)
}

fn defect(error: InvalidPart) -> Refusal {
    Refusal::Defect(error.to_string())
}

fn added(sum: Volume, more: Volume) -> Volume {
    Volume { files: sum.files.saturating_add(more.files), bytes: sum.bytes.saturating_add(more.bytes) }
}
