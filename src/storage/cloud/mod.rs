//! Google Cloud Storage and Azure Blob Storage, by the crate `object_store`. Bytes pass the gateway both ways.
//!
//! Neither service keeps a SHA-256 of what it stores, so ours travels with the object as metadata `sha256`, set with the
//! upload that it was verified against. An upload in parts asks whether its key is free before the parts become an
//! object: that is no condition the service keeps, and nothing depends on it.

mod azure;
mod failure;
mod google;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, GetResult, MultipartUpload,
    ObjectMeta, ObjectStore as _, PutMultipartOptions, PutOptions, PutPayload, RetryConfig,
};

pub use azure::{AzureCredential, AzureOptions};
pub use google::GoogleOptions;

use super::connect::{
    ANSWER_TIMEOUT, ATTEMPTS, CONNECT_TIMEOUT, FIRST_PAUSE, misconfigured, require_provider, trusted,
};
use super::digest::{Digest, Expected};
use super::error::StoreError;
use super::layout::Prefix;
use super::pieces::Pieces;
use super::{Incoming, Meta, Object, ObjectStore, Page, PutMode, clamp, signing};

/// Name of the metadata that holds the digest.
const DIGEST: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("sha256"));

/// One bucket or container.
pub struct CloudStore {
    service: Arc<dyn object_store::ObjectStore>,
    /// Bucket or container with its service, for people.
    location: String,
    /// The service, for people.
    endpoint: String,
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudStore").field("location", &self.location).finish_non_exhaustive()
    }
}

/// How both services are talked to.
fn client_options(ca_bundle: Option<&str>, endpoint: Option<&str>) -> Result<ClientOptions, StoreError> {
    require_provider();
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new()
        .with_allow_http(plain)
        .with_no_system_certificates(true)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(ANSWER_TIMEOUT)
        // Of a whole transfer; the two above notice a service that stands still.
        .with_timeout_disabled();
    trusted(ca_bundle)?.iter().try_fold(options, |options, pem| {
        let certificate = Certificate::from_pem(pem.as_bytes());
        let certificate =
            certificate.map_err(|_| misconfigured("a certificate of the CA bundle is none".to_owned()))?;
        Ok(options.with_root_certificate(certificate))
    })
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, ..BackoffConfig::default() },
        max_retries: usize::try_from(ATTEMPTS - 1).expect("invariant: a few attempts"),
        ..RetryConfig::default()
    }
}

fn with_digest(digest: Digest) -> Attributes {
    Attributes::from_iter([(DIGEST, digest.to_string())])
}

fn meta(key: &str, found: ObjectMeta, attributes: &Attributes) -> Meta {
    let sha256 = attributes.get(&DIGEST).and_then(|digest| digest.parse().ok());
    Meta { key: key.to_owned(), size: found.size, etag: found.e_tag, sha256 }
}

/// Refuses keys that the crate would spell in another way; [`super::layout`] makes none of them.
fn path(key: &str) -> Result<Path, StoreError> {
    match Path::parse(key) {
        Ok(path) if path.as_ref() == key => Ok(path),
        _ => Err(StoreError::Other { action: format!("use the key {key:?}"), detail: "it is no path".to_owned() }),
    }
}

impl CloudStore {
    async fn put_verified(&self, key: &str, bytes: Bytes, digest: Digest, mode: PutMode) -> Result<(), StoreError> {
        let mode = match mode {
            PutMode::Overwrite => object_store::PutMode::Overwrite,
            PutMode::Create => object_store::PutMode::Create,
        };
        let options = PutOptions { mode, attributes: with_digest(digest), ..PutOptions::default() };
        let put = self.service.put_opts(&path(key)?, bytes.into(), options).await;
        put.map(drop).map_err(|error| self.failed("write", key, &error))
    }

    /// Sends part after part, each in memory only while it is sent, and makes them an object if nothing speaks against.
    async fn send(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        mut pieces: Pieces<'_>,
        part_size: u64,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        loop {
            let piece = pieces.next(part_size).await?;
            if piece.is_empty() {
                break;
            }
            let sent = upload.put_part(PutPayload::from(piece)).await;
            sent.map_err(|error| self.failed("write a part of", key, &error))?;
        }
        pieces.finish()?;
        if mode == PutMode::Create {
            match self.head(key).await {
                Err(StoreError::NotFound { .. }) => {}
                Ok(_) => return Err(StoreError::AlreadyExists { key: key.to_owned() }),
                Err(error) => return Err(error),
            }
        }
        upload.complete().await.map(drop).map_err(|error| self.failed("complete the upload of", key, &error))
    }

    async fn delete_once(&self, keys: &[String]) -> Result<(), StoreError> {
        let paths: Vec<_> = keys.iter().map(|key| path(key)).collect::<Result<_, _>>()?;
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = self.service.delete_stream(paths);
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("delete from", keys.first().map_or("", String::as_str), &error)),
            }
        }
        Ok(())
    }

    async fn open(&self, key: &str, options: GetOptions) -> Result<GetResult, StoreError> {
        self.service.get_opts(&path(key)?, options).await.map_err(|error| self.failed("read", key, &error))
    }
}

#[async_trait]
impl ObjectStore for CloudStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let digest = Digest::of(&bytes);
        self.put_verified(key, bytes, digest, mode).await
    }

    async fn put_stream(
        &self,
        key: &str,
        bytes: Incoming<'_>,
        expected: Expected,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        let pieces = Pieces::new(key, bytes, expected);
        let part_size = signing::part_size(expected.size);
        if expected.size <= part_size {
            let whole = pieces.whole(expected).await?;
            return self.put_verified(key, whole, expected.sha256, mode).await;
        }
        let options = PutMultipartOptions { attributes: with_digest(expected.sha256), ..Default::default() };
        let started = self.service.put_multipart_opts(&path(key)?, options).await;
        let mut upload = started.map_err(|error| self.failed("start an upload of", key, &error))?;
        let sent = self.send(key, upload.as_mut(), pieces, part_size, mode).await;
        if sent.is_err() {
            // The first error counts; parts left over are no object.
            let _ = upload.abort().await;
        }
        sent
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let mut options = GetOptions::default();
        if let Some(range) = range {
            // Neither service says how long an object is when it refuses a range.
            options.range = Some(GetRange::Bounded(clamp(&self.head(key).await?, Some(range))?));
        }
        let opened = self.open(key, options).await?;
        let meta = meta(key, opened.meta.clone(), &opened.attributes);
        let (range, endpoint) = (opened.range.clone(), self.endpoint.clone());
        let broken = move |error: object_store::Error| StoreError::Unreachable {
            endpoint: endpoint.clone(),
            detail: format!("the answer broke off: {}", failure::transport(&error)),
        };
        Ok(Object { meta, range, stream: opened.into_stream().map_err(broken).boxed() })
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let found = self.open(key, GetOptions { head: true, ..GetOptions::default() }).await?;
        Ok(meta(key, found.meta, &found.attributes))
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let below = path(prefix.as_str().trim_end_matches('/'))?;
        let listed = match after {
            Some(after) => self.service.list_with_offset(Some(&below), &path(after)?),
            None => self.service.list(Some(&below)),
        };
        // A server that does not know where to begin, as Azure's emulator, begins at the start.
        let listed =
            listed.try_filter(|found| std::future::ready(after.is_none_or(|after| found.location.as_ref() > after)));
        let found: Result<Vec<ObjectMeta>, _> = listed.take(limit + 1).try_collect().await;
        let mut found = found.map_err(|error| self.failed("list", prefix.as_str(), &error))?;
        let more = found.len() > limit;
        found.truncate(limit);
        let objects = found.into_iter().map(|found| Meta {
            key: found.location.to_string(),
            size: found.size,
            etag: found.e_tag,
            sha256: None,
        });
        Ok(Page { objects: objects.collect(), more })
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        let below = path(prefix.as_str().trim_end_matches('/'))?;
        let listed = self.service.list_with_delimiter(Some(&below)).await;
        let listed = listed.map_err(|error| self.failed("list", prefix.as_str(), &error))?;
        let name = |folder: &Path| folder.as_ref().strip_prefix(prefix.as_str()).map(str::to_owned);
        Ok(listed.common_prefixes.iter().filter_map(name).collect())
    }

    /// What is gone may be deleted again, so a connection that broke is no reason to give up; the crate tries again only
    /// what reads.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.delete_once(keys).await {
                Err(StoreError::Unreachable { .. }) => tokio::time::sleep(pause).await,
                done => return done,
            }
            pause *= 2;
        }
        self.delete_once(keys).await
    }
}
