//! Writes the sealed result of a fan-out: pages, and the manifest that names them.
//!
//! Everything is named by its content. Whoever seals again, after a crash half way, writes the same.

use std::collections::BTreeMap;

use super::reading::Place;
use asynctask_plan::snapshot::Trouble;
use asynctask_storage::records::{
    Manifest, ManifestFile, ManifestPage, PageRef, RECORD_MAX, SealedShard, VERSION, Volume,
};
use asynctask_storage::{Digest, PutMode, StoreError};

/// Shards in a page, and files in a page of more than one shard.
pub(super) const PAGE: usize = 1000;

/// Files and bytes of each output, as a status counts them.
pub(super) type Outputs = BTreeMap<String, (i64, i64)>;

/// Writes pages, and remembers one.
pub(super) struct Pages<'a> {
    place: &'a Place<'a>,
    written: Vec<PageRef>,
    page: Vec<SealedShard>,
    files: usize,
    seqs: BTreeMap<String, u32>,
    outputs: BTreeMap<String, Volume>,
}

/// A result that no reader could open.
#[derive(Debug, thiserror::Error)]
#[error(
    "its manifest would have {bytes} bytes, more than the {RECORD_MAX} that are read: let each shard write fewer files"
)]
struct TooMany {
    bytes: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn new(place: &'a Place<'a>) -> Self {
        let (seqs, outputs) = (BTreeMap::new(), BTreeMap::new());
        Self { place, written: Vec::new(), page: Vec::new(), files: 0, seqs, outputs }
    }

    /// Adds a shard. Shards come in ascending order, each once.
    pub(super) async fn add(&mut self, mut shard: SealedShard) -> Result<(), Trouble> {
        let full = self.page.len() == PAGE || self.files + shard.files.len() > PAGE;
        if full && !self.page.is_empty() {
            self.flush().await?;
        }
        for file in &mut shard.files {
            let next = self.seqs.entry(file.output.clone()).or_default();
            file.seq = *next;
            *next += 1;
        }
        self.files += shard.files.len();
        self.page.push(shard);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Trouble> {
        let shards = std::mem::take(&mut self.page);
        self.files = 0;
        let mut outputs: BTreeMap<String, Volume> = BTreeMap::new();
        shards.iter().flat_map(|shard| &shard.files).for_each(|file| count(&mut outputs, file));
        for (output, volume) in &outputs {
            let sum = self.outputs.entry(output.clone()).or_default();
            sum.files += volume.files;
            sum.bytes = sum.bytes.saturating_add(volume.bytes);
        }
        let number = |count: usize| u32::try_from(count).expect("invariant: a page has a thousand shards");
        let (first, many) = (shards.first().map_or(0, |shard| shard.shard), number(shards.len()));
        let failed = number(shards.iter().filter(|shard| shard.failure.is_some()).count());
        let (task_uid, step) = (self.place.reader.uid.to_owned(), self.place.reader.step.to_owned());
        let (bytes, sha256) = ManifestPage { version: VERSION, task_uid, step, shards }.seal();
        self.put(bytes, sha256).await?;
        self.written.push(PageRef { sha256, first, shards: many, failed, outputs });
        Ok(())
    }

    /// The manifest comes last: as long as it is not there, nothing is sealed.
    pub(super) async fn finish(mut self) -> Result<(Digest, Outputs), Trouble> {
        if !self.page.is_empty() {
            self.flush().await?;
        }
        let (task_uid, step) = (self.place.reader.uid.to_owned(), self.place.reader.step.to_owned());
        let pages = std::mem::take(&mut self.written);
        let mut manifest =
            Manifest { version: VERSION, task_uid, step, pod_uid: String::new(), files: Vec::new(), pages };
        let (bytes, sha256) = manifest.seal();
        let size = bytes.len() as u64;
        if size > RECORD_MAX {
            return Err(unsealed("ManifestTooLarge", &TooMany { bytes: size }));
        }
        self.put(bytes, sha256).await?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let outputs = self.outputs.iter();
        Ok((sha256, outputs.map(|(name, it)| (name.clone(), (number(it.files), number(it.bytes)))).collect()))
    }

    async fn put(&self, bytes: bytes::Bytes, sha256: Digest) -> Result<(), Trouble> {
        let key = self.place.keys.manifest(sha256);
        match self.place.reader.open.store.put(&key, bytes, PutMode::Create).await {
            // Named by its content: what is there is the same.
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(unsealed(error.reason(), &error)),
        }
    }
}

fn count(outputs: &mut BTreeMap<String, Volume>, file: &ManifestFile) {
    let volume = outputs.entry(file.output.clone()).or_default();
    volume.files += 1;
    volume.bytes = volume.bytes.saturating_add(file.size);
}

/// Why the result of a step is not sealed yet.
pub(in crate::task) fn unsealed(reason: &'static str, error: &dyn std::error::Error) -> Trouble {
    Trouble {
        reason,
        message: format!(
            "the step has ended, but its result cannot be sealed: {error}. It is tried again until it can be"
        ),
    }
}
