//! Where bytes live: key layout, the store traits, their backends.
//!
//! The object store holds bytes and decides nothing: PUT, GET, LIST and DELETE are all that correctness needs.
//! [`PutMode::Create`] and the limits inside signed requests are a belt on top; a store that ignores them still
//! gives the same results, because every decision is a compare-and-swap on our own objects.
//!
//! | backend | signs | for |
//! |---|---|---|
//! | [`s3`] | yes, unless told not to | production: bytes go straight between pods, people and the store |
//! | [`cloud`] | no: proxied through the gateway | Google Cloud Storage and Azure Blob Storage |
//! | [`filesystem`] | no: proxied through the gateway | a first try, on one volume |
//! | [`memory`] | no | tests |
//!
//! Keys come from [`layout`] only. All backends pass one suite: `tests/storage`.

pub mod cloud;
mod connect;
pub mod digest;
pub mod error;
pub mod filesystem;
pub mod layout;
pub mod limits;
pub mod memory;
mod pieces;
pub mod probe;
pub mod records;
pub mod s3;
mod signing;
mod walk;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

pub use digest::{Difference, Digest, Expected};
pub use error::{RetryClass, StoreError};
pub use layout::{Layout, Prefix};
pub use signing::{Audience, FILE_MAX, GetShape, PartLimits, PutLimits, Signer, UploadShape, plan_upload};

/// Bytes on their way into a store. The error is the sender's (a client that went away).
pub type Incoming<'a> = BoxStream<'a, Result<Bytes, std::io::Error>>;

/// Bytes on their way out of a store.
pub type Outgoing = BoxStream<'static, Result<Bytes, StoreError>>;

/// Whether an existing object may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Replace what is there.
    Overwrite,
    /// Only if the key is free; otherwise [`StoreError::AlreadyExists`]. Atomic on the filesystem and in memory; on
    /// S3 as good as the store's `If-None-Match`. There a lost reply is asked for again, so the answer can also mean
    /// that this very call stored the object: who minds compares.
    Create,
}

/// What a store knows about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Changes whenever the content does.
    pub etag: Option<String>,
    /// Digest of the whole content, where the store can vouch for it: not for multipart uploads on S3, never in a
    /// listing.
    pub sha256: Option<Digest>,
}

/// An opened object.
pub struct Object {
    /// Of the whole object, whatever the range.
    pub meta: Meta,
    /// Which bytes `stream` gives.
    pub range: Range<u64>,
    /// The bytes.
    pub stream: Outgoing,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("meta", &self.meta).field("range", &self.range).finish_non_exhaustive()
    }
}

/// One page of a listing. Most stores sort by the keys' bytes, some walk folders; whatever their order, it is always
/// the same, and each key comes once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most the limit asked for.
    pub objects: Vec<Meta>,
    /// Whether there is more; go on after the last key of this page.
    pub more: bool,
}

/// A place for bytes.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// Where this store is, for people: an endpoint and bucket, or a folder. Without credentials.
    fn location(&self) -> String;

    /// Stores bytes; durable when it returns.
    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError>;

    /// Stores a stream in constant memory; durable when it returns. Leaves nothing under `key` (and an object that
    /// was there untouched) when length or digest differ from `expected`.
    async fn put_stream(
        &self,
        key: &str,
        bytes: Incoming<'_>,
        expected: Expected,
        mode: PutMode,
    ) -> Result<(), StoreError>;

    /// Opens an object; a range is cut at the object's end.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError>;

    /// What is known about an object, without its bytes.
    async fn head(&self, key: &str) -> Result<Meta, StoreError>;

    /// At most `limit` (1 to 1,000) objects below `prefix`, the ones that follow `after` (the last key of the page
    /// before).
    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// Names of the folders right below `prefix`, in no order. For places with few of them: they come in one list.
    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError>;

    /// Throws away what is left of uploads below `prefix` that were begun before `before` and never became an object. Says
    /// of how many. Of services that do so themselves, or have no call for it, it is none.
    async fn abandon(&self, prefix: &Prefix, before: Timestamp) -> Result<u64, StoreError> {
        let _ = (prefix, before);
        Ok(0)
    }

    /// Deletes objects; one that is not there counts as deleted. Any number of keys: batches are the store's affair.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Present when others can be let in by signed requests; absent: the gateway passes the bytes on.
    fn signer(&self) -> Option<&dyn Signer> {
        None
    }

    /// Reads a small object whole; refuses one of more than `max` bytes before it fills the memory.
    async fn get_bytes(&self, key: &str, max: u64) -> Result<Bytes, StoreError> {
        let mut object = self.get(key, None).await?;
        let too_large = || StoreError::TooLarge { key: key.to_owned(), max };
        if object.meta.size > max {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = object.stream.next().await {
            whole.extend_from_slice(&chunk?);
            if whole.len() as u64 > max {
                return Err(too_large());
            }
        }
        Ok(whole.freeze())
    }
}

/// Keys deleted between two looks at the listing; also the most S3 takes in one call.
pub const DELETE_BATCH: usize = 1000;

/// Deletes all objects below `prefix`, a batch at a time, and says how many. Stopped half way it can be called again.
///
/// # Errors
/// The first call to the store that fails, and a store that still lists what it said it has deleted.
pub async fn delete_prefix(store: &dyn ObjectStore, prefix: &Prefix) -> Result<u64, StoreError> {
    delete_chosen(store, prefix, |_| true).await
}

/// As [`delete_prefix`], of the keys that are chosen.
///
/// # Errors
/// As [`delete_prefix`].
pub async fn delete_chosen(
    store: &dyn ObjectStore,
    prefix: &Prefix,
    choose: impl Fn(&str) -> bool + Send,
) -> Result<u64, StoreError> {
    let mut deleted = 0;
    let mut gone: Vec<String> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        // After a key that stays: a page that begins after a deleted key is asking for trouble.
        let page = store.list(prefix, after.as_deref(), DELETE_BATCH).await?;
        let (keys, stay): (Vec<String>, Vec<String>) =
            page.objects.into_iter().map(|meta| meta.key).partition(|key| choose(key));
        if let Some(first) = keys.first().filter(|first| gone.contains(first)) {
            return Err(StoreError::Other {
                action: format!("delete {first}"),
                detail: "the store accepts the deletion and still lists the object".to_owned(),
            });
        }
        if !keys.is_empty() {
            store.delete(&keys).await?;
            deleted += keys.len() as u64;
        }
        if !page.more {
            return Ok(deleted);
        }
        after = stay.into_iter().next_back().or(after);
        gone = keys;
    }
}

/// The bytes of an object that a range means.
fn clamp(meta: &Meta, range: Option<Range<u64>>) -> Result<Range<u64>, StoreError> {
    match range {
        None => Ok(0..meta.size),
        Some(range) if range.start < meta.size.min(range.end) => Ok(range.start..range.end.min(meta.size)),
        Some(_) => Err(StoreError::RangeNotSatisfiable { key: meta.key.clone(), size: meta.size }),
    }
}
