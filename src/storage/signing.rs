//! Letting others in for one request: what is signed, and how large uploads are cut.

use std::time::Duration;

use async_trait::async_trait;

use super::PutMode;
use super::digest::Digest;
use super::error::StoreError;
use asynctask_contract::wire::{SentPart, SignedRequest, StoredPart};

/// Up to here a file goes in one PUT.
const SINGLE_PUT_MAX: u64 = 64 << 20;
/// Smallest part of a larger file; also what a sender holds in memory per part in flight.
const PART_SIZE_MIN: u64 = 16 << 20;
/// S3 takes no more parts than these.
const PARTS_MAX: u64 = 10_000;

/// Who will use a signed request: it is made for a host name, and pods and people may see different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Pods of the cluster: the store's own endpoint.
    Internal,
    /// People: the public endpoint, where the store has one.
    Public,
}

/// What a signed PUT is good for; all of it is part of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutLimits {
    /// Exact length in bytes.
    pub size: u64,
    /// Digest of the whole body; the store compares.
    pub sha256: Digest,
    /// Media type stored with the object.
    pub content_type: String,
    /// [`PutMode::Create`] signs `If-None-Match: *`: the PUT can never replace an object. Only the log of an attempt
    /// is written over, by the attempt itself.
    pub mode: PutMode,
}

/// How a signed GET presents the bytes; all of it is part of the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetShape {
    /// The answer's `Content-Disposition`.
    pub content_disposition: String,
    /// The answer's `Content-Type`.
    pub content_type: String,
}

/// Makes requests that others may send without credentials of their own, until `ttl` is over.
///
/// Signing is local: it does not ask the store, and a signed request for a missing key is possible.
#[async_trait]
pub trait Signer: Send + Sync {
    /// One PUT of one key.
    async fn sign_put(
        &self,
        key: &str,
        limits: &PutLimits,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError>;

    /// GETs of one key, by the given time, ranges included.
    async fn sign_get(
        &self,
        key: &str,
        shape: &GetShape,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError>;

    /// Begins a multipart upload (a call to the store) and gives its id.
    async fn start_multipart(&self, key: &str, content_type: &str) -> Result<String, StoreError>;

    /// One PUT of one part; `number` counts from 1.
    async fn sign_part(
        &self,
        key: &str,
        upload_id: &str,
        part: &PartLimits,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError>;

    /// The parts that have come, in order (a call to the store, more than one above 1,000 parts). Once the upload is
    /// complete or thrown away, the answer is [`StoreError::NotFound`].
    async fn stored_parts(&self, key: &str, upload_id: &str) -> Result<Vec<StoredPart>, StoreError>;

    /// Makes the parts one object (a call to the store). [`StoreError::Altered`] when a part is missing or differs.
    /// Once it has succeeded, the upload id is gone and the call answers [`StoreError::NotFound`].
    async fn complete_multipart(&self, key: &str, upload_id: &str, parts: &[SentPart]) -> Result<(), StoreError>;

    /// Throws the parts away (a call to the store); an unknown upload counts as thrown away.
    async fn abort_multipart(&self, key: &str, upload_id: &str) -> Result<(), StoreError>;
}

/// What a signed PUT of a part is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLimits {
    /// From 1.
    pub number: u32,
    /// Exact length in bytes.
    pub size: u64,
    /// Digest of the part; the store compares.
    pub sha256: Digest,
}

/// How a file of some size is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadShape {
    /// In one PUT.
    Single,
    /// In `parts` parts of `part_size` bytes, the last one shorter.
    Multipart {
        /// Bytes per part.
        part_size: u64,
        /// How many.
        parts: u32,
    },
}

/// Largest file: 10,000 parts of 64 MiB. A larger part would have to be held in memory on its way through the gateway.
pub const FILE_MAX: u64 = PARTS_MAX * SINGLE_PUT_MAX;

/// Cuts a file of `size` bytes: one PUT up to 64 MiB, above it parts of at least 16 MiB, at most 10,000 of them.
#[must_use]
pub fn plan_upload(size: u64) -> UploadShape {
    if size <= SINGLE_PUT_MAX {
        return UploadShape::Single;
    }
    let part_size = part_size(size);
    let parts = u32::try_from(size.div_ceil(part_size)).expect("invariant: never more than 10,000 parts");
    UploadShape::Multipart { part_size, parts }
}

/// Whole MiB, so that the figure means something to who reads it.
pub(super) fn part_size(size: u64) -> u64 {
    size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART_SIZE_MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bounds_are_the_documented_ones() {
        assert_eq!(plan_upload(0), UploadShape::Single);
        assert_eq!(plan_upload(64 << 20), UploadShape::Single);
        assert_eq!(plan_upload((64 << 20) + 1), UploadShape::Multipart { part_size: 16 << 20, parts: 5 });
        assert_eq!(plan_upload(160_000 << 20), UploadShape::Multipart { part_size: 16 << 20, parts: 10_000 });
        assert_eq!(plan_upload((160_000 << 20) + 1), UploadShape::Multipart { part_size: 17 << 20, parts: 9_412 });
    }

    proptest! {
        #[test]
        fn parts_cover_the_file_exactly_and_are_never_too_many(size in (SINGLE_PUT_MAX + 1)..(50 << 40)) {
            let UploadShape::Multipart { part_size, parts } = plan_upload(size) else {
                panic!("{size} is above the single-PUT limit");
            };
            prop_assert!(u64::from(parts) <= PARTS_MAX);
            prop_assert!(part_size >= PART_SIZE_MIN);
            prop_assert!(part_size * u64::from(parts) >= size);
            prop_assert!(part_size * u64::from(parts - 1) < size);
        }
    }
}
