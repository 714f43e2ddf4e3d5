//! A store that ignores conditions, as some do: with it tests show that nothing depends on them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use asynctask_storage::{Expected, Incoming, Meta, Object, ObjectStore, Page, Prefix, PutMode, Signer, StoreError};

/// `make test-stores` runs this suite once more with every store made so.
pub(super) fn as_told(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    match std::env::var_os("ASYNCTASK_UNCONDITIONAL") {
        Some(_) => Arc::new(Unconditional(store)),
        None => store,
    }
}

/// Replaces whatever it is told to create.
#[derive(Debug)]
struct Unconditional(Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Unconditional {
    fn location(&self) -> String {
        self.0.location()
    }

    async fn put(&self, key: &str, bytes: Bytes, _: PutMode) -> Result<(), StoreError> {
        self.0.put(key, bytes, PutMode::Overwrite).await
    }

    async fn put_stream(
        &self,
        key: &str,
        bytes: Incoming<'_>,
        expected: Expected,
        _: PutMode,
    ) -> Result<(), StoreError> {
        self.0.put_stream(key, bytes, expected, PutMode::Overwrite).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        self.0.get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        self.0.head(key).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.0.list(prefix, after, limit).await
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        self.0.folders(prefix).await
    }

    async fn abandon(&self, prefix: &Prefix, before: Timestamp) -> Result<u64, StoreError> {
        self.0.abandon(prefix, before).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.0.delete(keys).await
    }

    fn signer(&self) -> Option<&dyn Signer> {
        self.0.signer()
    }
}
