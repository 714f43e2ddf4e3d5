//! S3 and what speaks like it. Bytes go straight between pods, people and the store, by signed requests.
//!
//! Only what every S3 server has is relied on: PUT, GET, HEAD, LIST, DELETE and multipart uploads. Conditions and
//! checksums are sent always and trusted as far as the server honours them.

mod client;
mod failure;
mod identity;
mod sign;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;

pub use client::{Encryption, Keys, S3Options};
use failure::Act;

use super::digest::{Digest, Expected};
use super::error::StoreError;
use super::layout::Prefix;
use super::pieces::Pieces;
use super::{DELETE_BATCH, Incoming, Meta, Object, ObjectStore, Outgoing, Page, PutMode, Signer, clamp, signing};

/// One bucket.
pub struct S3Store {
    options: S3Options,
    internal: Client,
    public: Client,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("options", &self.options).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Checks the options; does not ask the store yet.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] says which option.
    pub fn new(options: S3Options) -> Result<Self, StoreError> {
        let (internal, public) = options.clients()?;
        Ok(Self { options, internal, public })
    }

    fn shown_location(&self) -> String {
        format!("bucket {} at {}", self.options.bucket, self.options.shown_endpoint())
    }

    async fn put_verified(&self, key: &str, bytes: Bytes, digest: Digest, mode: PutMode) -> Result<(), StoreError> {
        let put = self.internal.put_object().bucket(&self.options.bucket).key(key);
        let put = put.checksum_sha256(digest.to_base64()).body(ByteStream::from(bytes));
        let put = put.set_server_side_encryption(self.options.sse()).set_ssekms_key_id(self.options.kms_key());
        let put = match mode {
            PutMode::Overwrite => put,
            PutMode::Create => put.if_none_match("*"),
        };
        put.send().await.map(drop).map_err(|error| self.failed(Act { verb: "write", key }, &error))
    }

    /// Sends part after part; each is in memory only while it is sent.
    async fn put_parts(
        &self,
        key: &str,
        upload_id: &str,
        mut pieces: Pieces<'_>,
        part_size: u64,
    ) -> Result<Vec<CompletedPart>, StoreError> {
        let mut parts = Vec::new();
        for number in 1.. {
            let piece = pieces.next(part_size).await?;
            if piece.is_empty() {
                break;
            }
            let checksum = Digest::of(&piece).to_base64();
            let part = self.internal.upload_part().bucket(&self.options.bucket).key(key).upload_id(upload_id);
            let part = part.part_number(number).checksum_sha256(&checksum).body(ByteStream::from(piece));
            let sent = part.send().await.map_err(|error| self.failed(Act { verb: "write a part of", key }, &error))?;
            let etag = sent.e_tag.unwrap_or_default();
            parts.push(CompletedPart::builder().part_number(number).e_tag(etag).checksum_sha256(checksum).build());
        }
        pieces.finish()?;
        Ok(parts)
    }

    async fn delete_batch(&self, keys: &[String]) -> Result<(), StoreError> {
        let identify = |key: &String| {
            ObjectIdentifier::builder().key(key).build().expect("invariant: an identifier with a key is whole")
        };
        let objects = keys.iter().map(identify).collect();
        let batch = Delete::builder().set_objects(Some(objects)).quiet(true).build();
        let batch = batch.expect("invariant: a batch with objects is whole");
        let act = Act { verb: "delete", key: &keys[0] };
        let sent = self.internal.delete_objects().bucket(&self.options.bucket).delete(batch).send().await;
        let answer = sent.map_err(|error| self.failed(act, &error))?;
        for refused in answer.errors() {
            let code = refused.code().unwrap_or_default();
            if code != "NoSuchKey" {
                // The answer as a whole was 200: the code alone says what happened to this key.
                let status = if code == "AccessDenied" { 403 } else { 500 };
                let key = refused.key().unwrap_or_default();
                return Err(self.answered(Act { key, ..act }, Some(code), refused.message(), status));
            }
        }
        Ok(())
    }

    /// A 416 does not say how long the object is.
    async fn out_of_range(&self, key: &str, range: Range<u64>) -> StoreError {
        match self.head(key).await.map(|meta| clamp(&meta, Some(range))) {
            Ok(Err(error)) | Err(error) => error,
            Ok(Ok(_)) => StoreError::Other {
                action: format!("read {key}"),
                detail: "the store refused a range that lies inside the object".to_owned(),
            },
        }
    }
}

/// The store's own bytes as a stream of ours.
fn outgoing(body: ByteStream, endpoint: String) -> Outgoing {
    futures::stream::try_unfold(body, move |mut body| {
        let endpoint = endpoint.clone();
        async move {
            match body.try_next().await {
                Ok(chunk) => Ok(chunk.map(|chunk| (chunk, body))),
                Err(error) => {
                    Err(StoreError::Unreachable { endpoint, detail: format!("the answer broke off: {error}") })
                }
            }
        }
    })
    .boxed()
}

/// Size of the whole object from `bytes 0-9/1234`.
fn whole_size(content_range: Option<&str>) -> Option<u64> {
    content_range?.rsplit_once('/')?.1.parse().ok()
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

#[async_trait]
impl ObjectStore for S3Store {
    fn location(&self) -> String {
        self.shown_location()
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
        let upload_id = self.start_multipart(key, "application/octet-stream").await?;
        let sent = match self.put_parts(key, &upload_id, pieces, part_size).await {
            Ok(parts) => self.complete(key, &upload_id, parts, mode).await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            // The first error counts; parts left over are no object.
            let _ = self.abort_multipart(key, &upload_id).await;
        }
        sent
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, StoreError> {
        let mut get = self.internal.get_object().bucket(&self.options.bucket).key(key);
        if let Some(range) = &range {
            if range.is_empty() {
                return Err(self.out_of_range(key, range.clone()).await);
            }
            // Servers read the end as a signed number.
            let last = range.end.min(i64::MAX.cast_unsigned()) - 1;
            get = get.range(format!("bytes={}-{last}", range.start));
        } else {
            // Some servers send the whole object's checksum with a part of it.
            get = get.checksum_mode(ChecksumMode::Enabled);
        }
        let answer = match get.send().await {
            Ok(answer) => answer,
            Err(SdkError::ServiceError(refused)) if refused.raw().status().as_u16() == 416 => {
                return Err(self.out_of_range(key, range.unwrap_or_default()).await);
            }
            Err(error) => return Err(self.failed(Act { verb: "read", key }, &error)),
        };
        let meta = Meta {
            key: key.to_owned(),
            size: whole_size(answer.content_range()).unwrap_or_else(|| size(answer.content_length)),
            etag: answer.e_tag,
            sha256: answer.checksum_sha256.as_deref().and_then(Digest::from_base64),
        };
        let range = clamp(&meta, range)?;
        Ok(Object { meta, range, stream: outgoing(answer.body, self.options.shown_endpoint()) })
    }

    async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        let head = self.internal.head_object().bucket(&self.options.bucket).key(key);
        let sent = head.checksum_mode(ChecksumMode::Enabled).send().await;
        let answer = sent.map_err(|error| self.failed(Act { verb: "read", key }, &error))?;
        Ok(Meta {
            key: key.to_owned(),
            size: size(answer.content_length),
            etag: answer.e_tag,
            sha256: answer.checksum_sha256.as_deref().and_then(Digest::from_base64),
        })
    }

    async fn list(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let act = Act { verb: "list", key: prefix.as_str() };
        let list = self.internal.list_objects_v2().bucket(&self.options.bucket).prefix(prefix.as_str());
        let list = list.set_start_after(after.map(ToOwned::to_owned));
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let answer = list.max_keys(limit).send().await.map_err(|error| self.failed(act, &error))?;
        let more = answer.is_truncated.unwrap_or(false);
        let objects = answer.contents.unwrap_or_default().into_iter().map(|object| Meta {
            key: object.key.unwrap_or_default(),
            size: size(object.size),
            etag: object.e_tag,
            sha256: None,
        });
        Ok(Page { objects: objects.collect(), more })
    }

    async fn folders(&self, prefix: &Prefix) -> Result<Vec<String>, StoreError> {
        let act = Act { verb: "list", key: prefix.as_str() };
        let list = self.internal.list_objects_v2().bucket(&self.options.bucket).prefix(prefix.as_str()).delimiter("/");
        let mut pages = list.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(act, &error))?;
            let below = page.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix);
            names.extend(
                below.filter_map(|folder| Some(folder.strip_prefix(prefix.as_str())?.trim_end_matches('/').to_owned())),
            );
        }
        Ok(names)
    }

    async fn abandon(&self, prefix: &Prefix, before: Timestamp) -> Result<u64, StoreError> {
        let act = Act { verb: "list the uploads below", key: prefix.as_str() };
        let list = self.internal.list_multipart_uploads().bucket(&self.options.bucket).prefix(prefix.as_str());
        let (mut key, mut id, mut aborted) = (None, None, 0);
        loop {
            let page = list.clone().set_key_marker(key).set_upload_id_marker(id).send().await;
            let page = page.map_err(|error| self.failed(act, &error))?;
            for upload in page.uploads.unwrap_or_default() {
                let (Some(key), Some(id), Some(begun)) = (upload.key, upload.upload_id, upload.initiated) else {
                    continue;
                };
                if begun.secs() < before.as_second() {
                    self.abort_multipart(&key, &id).await?;
                    aborted += 1;
                }
            }
            if !page.is_truncated.unwrap_or(false) {
                return Ok(aborted);
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        for batch in keys.chunks(DELETE_BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    fn signer(&self) -> Option<&dyn Signer> {
        self.options.signs.then_some(self as &dyn Signer)
    }
}
