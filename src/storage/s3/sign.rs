//! Signed requests and the multipart calls around them.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};

use super::super::digest::Digest;
use super::super::error::StoreError;
use super::super::signing::{Audience, GetShape, PartLimits, PutLimits, Signer};
use super::super::{Difference, PutMode};
use super::S3Store;
use super::failure::Act;
use asynctask_contract::wire::{SentPart, SignedRequest, StoredPart};

impl S3Store {
    fn client_for(&self, audience: Audience) -> &Client {
        match audience {
            Audience::Internal => &self.internal,
            Audience::Public => &self.public,
        }
    }

    /// Makes parts one object. The parts go when it succeeds.
    pub(super) async fn complete(
        &self,
        key: &str,
        upload_id: &str,
        parts: Vec<CompletedPart>,
        mode: PutMode,
    ) -> Result<(), StoreError> {
        let complete = self.internal.complete_multipart_upload().bucket(&self.options.bucket).key(key);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = complete.upload_id(upload_id).multipart_upload(parts);
        let complete = match mode {
            PutMode::Overwrite => complete,
            PutMode::Create => complete.if_none_match("*"),
        };
        let sent = complete.send().await;
        sent.map(drop).map_err(|error| self.failed(Act { verb: "complete the upload of", key }, &error))
    }
}

fn expiring(key: &str, ttl: Duration) -> Result<PresigningConfig, StoreError> {
    // The signature counts in seconds, and a store refuses what lives for none.
    let config = if ttl < Duration::from_secs(1) { None } else { PresigningConfig::expires_in(ttl).ok() };
    config.ok_or_else(|| StoreError::Other {
        action: format!("sign a request for {key}"),
        detail: format!("a signed request lives between one second and one week, not {ttl:?}"),
    })
}

fn handed_out(signed: &PresignedRequest) -> SignedRequest {
    SignedRequest {
        method: signed.method().to_owned(),
        url: signed.uri().to_owned(),
        headers: signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

fn length(key: &str, size: u64) -> Result<i64, StoreError> {
    i64::try_from(size).map_err(|_| StoreError::TooLarge { key: key.to_owned(), max: i64::MAX as u64 })
}

#[async_trait]
impl Signer for S3Store {
    async fn sign_put(
        &self,
        key: &str,
        limits: &PutLimits,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError> {
        let put = self.client_for(audience).put_object().bucket(&self.options.bucket).key(key);
        let put = put.content_length(length(key, limits.size)?).content_type(&limits.content_type);
        let put = put.checksum_sha256(limits.sha256.to_base64());
        let put = put.set_server_side_encryption(self.options.sse()).set_ssekms_key_id(self.options.kms_key());
        let put = match limits.mode {
            PutMode::Overwrite => put,
            PutMode::Create => put.if_none_match("*"),
        };
        let signed = put.presigned(expiring(key, ttl)?).await;
        signed.map(|signed| handed_out(&signed)).map_err(|error| self.failed(Act { verb: "sign", key }, &error))
    }

    async fn sign_get(
        &self,
        key: &str,
        shape: &GetShape,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError> {
        let get = self.client_for(audience).get_object().bucket(&self.options.bucket).key(key);
        let get = get.response_content_disposition(&shape.content_disposition);
        let get = get.response_content_type(&shape.content_type);
        let signed = get.presigned(expiring(key, ttl)?).await;
        signed.map(|signed| handed_out(&signed)).map_err(|error| self.failed(Act { verb: "sign", key }, &error))
    }

    async fn start_multipart(&self, key: &str, content_type: &str) -> Result<String, StoreError> {
        let create = self.internal.create_multipart_upload().bucket(&self.options.bucket).key(key);
        let create = create.content_type(content_type).checksum_algorithm(ChecksumAlgorithm::Sha256);
        let create = create.set_server_side_encryption(self.options.sse()).set_ssekms_key_id(self.options.kms_key());
        let act = Act { verb: "start an upload of", key };
        let created = create.send().await.map_err(|error| self.failed(act, &error))?;
        created.upload_id.ok_or_else(|| StoreError::Other {
            action: format!("{} {key}", act.verb),
            detail: "the store gave no upload id".to_owned(),
        })
    }

    async fn sign_part(
        &self,
        key: &str,
        upload_id: &str,
        part: &PartLimits,
        ttl: Duration,
        audience: Audience,
    ) -> Result<SignedRequest, StoreError> {
        let put = self.client_for(audience).upload_part().bucket(&self.options.bucket).key(key);
        let put = put.upload_id(upload_id).part_number(part.number.cast_signed());
        let put = put.content_length(length(key, part.size)?).checksum_sha256(part.sha256.to_base64());
        let signed = put.presigned(expiring(key, ttl)?).await;
        signed.map(|signed| handed_out(&signed)).map_err(|error| self.failed(Act { verb: "sign", key }, &error))
    }

    async fn stored_parts(&self, key: &str, upload_id: &str) -> Result<Vec<StoredPart>, StoreError> {
        let list = self.internal.list_parts().bucket(&self.options.bucket).key(key).upload_id(upload_id);
        let (mut after, mut stored) = (None, Vec::new());
        loop {
            let page = list.clone().set_part_number_marker(after).send().await;
            let page = page.map_err(|error| self.failed(Act { verb: "list the parts of", key }, &error))?;
            stored.extend(page.parts.unwrap_or_default().into_iter().filter_map(|part| {
                let number = u32::try_from(part.part_number?).ok()?;
                Some(StoredPart { number, size: u64::try_from(part.size?).ok()?, etag: part.e_tag? })
            }));
            after = page.next_part_number_marker.filter(|_| page.is_truncated.unwrap_or(false));
            if after.is_none() {
                return Ok(stored);
            }
        }
    }

    async fn complete_multipart(&self, key: &str, upload_id: &str, parts: &[SentPart]) -> Result<(), StoreError> {
        let altered = || StoreError::Altered { key: key.to_owned(), difference: Difference::RefusedByStore };
        let part = |sent: &SentPart| {
            let digest: Digest = sent.sha256.parse().map_err(|_| altered())?;
            let part = CompletedPart::builder().part_number(sent.number.cast_signed()).e_tag(&sent.etag);
            Ok(part.checksum_sha256(digest.to_base64()).build())
        };
        let parts = parts.iter().map(part).collect::<Result<Vec<_>, StoreError>>()?;
        self.complete(key, upload_id, parts, PutMode::Create).await
    }

    async fn abort_multipart(&self, key: &str, upload_id: &str) -> Result<(), StoreError> {
        let abort = self.internal.abort_multipart_upload().bucket(&self.options.bucket).key(key);
        match abort.upload_id(upload_id).send().await.map_err(|error| self.failed(Act { verb: "abort", key }, &error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
