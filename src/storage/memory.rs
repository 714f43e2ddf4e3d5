//! A store in memory, for tests.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::digest::{Digest, Expected, Verifier};
use super::error::StoreError;
use super::layout::Prefix;
use super::{Incoming, Meta, Object, ObjectStore, Page, PutMode, clamp};

/// Objects in a sorted map.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryStore({} objects)", self.objects().len())
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().expect("invariant: nothing panics while it holds the map")
    }

    fn find(&self, key: &str) -> Result<(Meta, Bytes), StoreError> {
        let bytes = self.objects().get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.to_owned() })?;
        let digest = Digest::of(&bytes);
        let meta = Meta {
            key: key.to_owned(),
            size: bytes.len() as u64,
            etag: Some(format!("\"{digest}\"")),
            sha256: Some(digest),
        };
        Ok((meta, bytes))
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let mut objects = self.objects();
        if mode == PutMode::Create && objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.to_owned() });
        }
        objects.insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn put_stream(
        &self,
        key: &str,
        mut bytes: Incoming<'_>,
        expected: Expected,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        let altered = |difference| StoreError::Altered { key: key.to_owned(), difference };
        let mut verifier = Verifier::new(expected);
        let mut whole = BytesMut::new();
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|source| StoreError::Interrupted { key: key.to_owned(), source })?;
            verifier.update(&chunk).map_err(altered)?;
            whole.extend_from_slice(&chunk);
        }
        verifier.finish().map_err(altered)?;
        self.put(key, whole.freeze(), mode).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let (meta, bytes) = self.find(key)?;
        let range = clamp(&meta, range)?;
        let place = |at: u64| usize::try_from(at).expect("invariant: the object is in memory");
        let part = bytes.slice(place(range.start)..place(range.end));
        Ok(Object { meta, range, stream: futures::stream::once(async move { Ok(part) }).boxed() })
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        self.find(key).map(|(meta, _)| meta)
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let objects = self.objects();
        let from = match after {
            Some(after) if after > prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(prefix.as_str()),
        };
        let mut found = objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix.as_str()))
            .map(|(key, bytes)| Meta { key: key.clone(), size: bytes.len() as u64, etag: None, sha256: None });
        let objects = found.by_ref().take(limit).collect();
        Ok(Page { objects, more: found.next().is_some() })
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        let objects = self.objects();
        let below = objects.keys().filter_map(|key| key.strip_prefix(prefix.as_str())?.split_once('/'));
        let mut names: Vec<String> = below.map(|(name, _)| name.to_owned()).collect();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }
}
