//! What came of the shards of a fan-out: one after the other in their order, never all of them in memory.
//!
//! ```text
//! LIST ─► what the pods of each shard left ─┐
//! sealed pages of the run that is continued ┴─► what counts, shard by shard ─┬─► Tally
//!                                                                            └─► pages and their manifest
//! ```
//! Both sums come from the same stream, so they say the same.

mod listing;
mod pages;
mod reading;
mod sealed;
mod tallies;

#[cfg(test)]
mod tests;

use futures::TryStreamExt;
use kube::ResourceExt;

pub(super) use self::pages::unsealed;
pub(super) use self::tallies::{Ended, Tallies, due};

use self::pages::Pages;
use self::reading::{Logs, Place};
use self::sealed::Sealed;
use super::TaskController;
use super::results::{Reader, stuck};
use asynctask_api::AsyncTask;
use asynctask_api::task::StepStatus;
use asynctask_contract::wire::FailedBy;
use asynctask_plan::snapshot::Trouble;
use asynctask_plan::status::ShardSeal;
use asynctask_plan::tally::{ShardFact, Tally};
use asynctask_runtime::client::explain;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::Digest;
use asynctask_storage::layout::{InvalidPart, StepKeys};
use asynctask_storage::records::{SealedShard, ShardFailure};

/// The run whose successful shards a step takes over.
#[derive(Clone, Debug)]
struct Source {
    uid: String,
    manifest: Digest,
}

impl TaskController {
    /// Adds up what came of the shards of a step.
    ///
    /// # Errors
    /// What stands in the way: as long as anything cannot be read, nothing is decided.
    pub(super) async fn tally(&self, task: &AsyncTask, step: &str, total: u32) -> Result<Tally, Trouble> {
        let (open, source) = self.sources(task, step).await?;
        let uid = task.uid().unwrap_or_default();
        tally(&place(&open, task, &uid, step)?, source.as_ref(), total).await
    }

    /// Writes down what became of each shard of a step.
    ///
    /// # Errors
    /// What stands in the way; all that was written is the same when it is written again.
    pub(super) async fn seal_shards(&self, task: &AsyncTask, step: &str, total: u32) -> Result<ShardSeal, Trouble> {
        let (open, source) = self.sources(task, step).await?;
        let uid = task.uid().unwrap_or_default();
        let sealed = seal(&place(&open, task, &uid, step)?, source.as_ref(), total).await?;
        self.tallies.forget(&uid, step);
        Ok(sealed)
    }

    /// Where the shards are: the store the run is pinned to, and the result of the run that it continues.
    async fn sources(&self, task: &AsyncTask, step: &str) -> Result<(OpenStore, Option<Source>), Trouble> {
        let status = task.status.as_ref();
        let pinned = status.and_then(|status| status.store.as_ref());
        let pinned = pinned.expect("invariant: a step that ran is pinned to a store");
        let open = self.context.stores.by_ref(pinned).await.map_err(|error| stuck(error.reason(), &error))?;
        let step = status.and_then(|status| status.steps.iter().find(|other| other.name == step));
        let source = match step {
            Some(step) => self.source(task, step).await?,
            None => None,
        };
        Ok((open, source))
    }

    /// The sealed result of this step in the run that is continued; what its status says is final.
    async fn source(&self, task: &AsyncTask, step: &StepStatus) -> Result<Option<Source>, Trouble> {
        let Some(adopted) = &step.adopted else { return Ok(None) };
        let name = &adopted.name;
        let trouble = |reason, what: String| Trouble {
            reason,
            message: format!("AsyncTask {name}, whose shards this run takes over, {what}"),
        };
        let read = self.tasks(task).get_opt(name).await;
        let read = read.map_err(|error| trouble("ReadTask", format!("cannot be read: {}", explain(&error))))?;
        let Some(found) = read.filter(|found| found.uid().as_ref() == Some(&adopted.uid)) else {
            return Err(trouble("SourceGone", "is gone: cancel this run and create another one".to_owned()));
        };
        let status = found.status.unwrap_or_default();
        let sealed = status.steps.into_iter().find(|other| other.name == step.name).and_then(|step| step.manifest);
        let Some(sealed) = sealed else { return Ok(None) };
        let manifest = sealed.parse().map_err(|error| stuck("InvalidRecord", &error))?;
        Ok(Some(Source { uid: adopted.uid.clone(), manifest }))
    }
}

fn place<'a>(open: &'a OpenStore, task: &AsyncTask, uid: &'a str, step: &'a str) -> Result<Place<'a>, Trouble> {
    let namespace = task.namespace().unwrap_or_default();
    Ok(Place { keys: keys(open, &namespace, uid, step)?, reader: Reader { open, uid, step }, namespace })
}

fn keys(open: &OpenStore, namespace: &str, uid: &str, step: &str) -> Result<StepKeys, Trouble> {
    let keys = open.layout.task(namespace, uid).and_then(|keys| keys.step(step));
    keys.map_err(|error: InvalidPart| stuck("InvalidKey", &error))
}

async fn tally(place: &Place<'_>, source: Option<&Source>, total: u32) -> Result<Tally, Trouble> {
    let mut tally = Tally::default();
    let given = Sealed::of(place, source).await?;
    let mut shards = std::pin::pin!(place.shards(given, total, Logs::Leave));
    while let Some(shard) = shards.try_next().await? {
        tally.add(shard.shard, fact(&shard));
    }
    Ok(tally)
}

async fn seal(place: &Place<'_>, source: Option<&Source>, total: u32) -> Result<ShardSeal, Trouble> {
    let (mut tally, mut pages) = (Tally::default(), Pages::new(place));
    let given = Sealed::of(place, source).await?;
    let mut shards = std::pin::pin!(place.shards(given, total, Logs::Seal));
    while let Some(shard) = shards.try_next().await? {
        tally.add(shard.shard, fact(&shard));
        pages.add(shard).await?;
    }
    let (manifest, outputs) = pages.finish().await?;
    Ok(ShardSeal { manifest: manifest.to_string(), tally, outputs })
}

/// What counts about a sealed shard.
fn fact(shard: &SealedShard) -> ShardFact {
    match &shard.failure {
        None => ShardFact::Committed { items: shard.items.clone() },
        // An attempt that said anything said with which code it ended, or whose failure it was.
        Some(failure) if failure.failed_by.is_none() && failure.exit_code.is_none() => ShardFact::Silent,
        Some(ShardFailure { code, message, failed_by, exit_code: _ }) => ShardFact::Failed {
            code: code.clone(),
            message: message.clone(),
            failed_by: failed_by.unwrap_or(FailedBy::Program),
        },
    }
}
