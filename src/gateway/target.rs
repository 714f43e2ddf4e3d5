//! One key somebody may write: how, in which pieces, and the end of it. Agents and people differ in who they are, not
//! in this.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;

use super::problem::Refusal;
use super::transfer::{self, SHA256, SIZE};
use asynctask_contract::wire::{PartToSign, PartsRequest, SentPart, SignedRequest, StoredPart, UploadPlan, word};
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::digest::{Digest, Expected, InvalidDigest};
use asynctask_storage::{
    Audience, FILE_MAX, PartLimits, PutLimits, PutMode, Signer, StoreError, UploadShape, plan_upload,
};

/// Most parts signed by one call.
const PARTS_AT_ONCE: usize = 100;
/// Most parts of one file, as S3 has it.
const PARTS: u32 = 10_000;

/// A key and who writes to it.
pub(crate) struct Target<'a> {
    pub(crate) open: &'a OpenStore,
    pub(crate) key: String,
    pub(crate) audience: Audience,
    /// How long each signed request is good for.
    pub(crate) lifetime: Duration,
}

impl Target<'_> {
    /// How to store the file. `proxied` is the path of the gateway that takes the bytes where the store cannot.
    pub(crate) async fn plan(
        &self,
        expected: Expected,
        media_type: &str,
        mode: PutMode,
        proxied: &str,
    ) -> Result<UploadPlan, Refusal> {
        if expected.size > FILE_MAX {
            return Err(transfer::too_large(expected.size));
        }
        let Some(signer) = self.open.store.signer() else {
            return Ok(UploadPlan::Single { request: through_gateway(expected, media_type, proxied) });
        };
        match plan_upload(expected.size) {
            UploadShape::Single => {
                let limits = PutLimits {
                    size: expected.size,
                    sha256: expected.sha256,
                    content_type: media_type.to_owned(),
                    mode,
                };
                let request = signer.sign_put(&self.key, &limits, self.lifetime, self.audience).await?;
                Ok(UploadPlan::Single { request })
            }
            UploadShape::Multipart { part_size, .. } => {
                let upload_id = signer.start_multipart(&self.key, media_type).await?;
                Ok(UploadPlan::Multipart { upload_id, part_size })
            }
        }
    }

    /// The parts that have come; `None`: they are one file already.
    pub(crate) async fn stored(&self, upload_id: &str) -> Result<Option<Vec<StoredPart>>, Refusal> {
        match self.signer()?.stored_parts(&self.key, upload_id).await {
            Err(StoreError::NotFound { .. }) => self.require_file().await.map(|()| None),
            stored => Ok(Some(stored?)),
        }
    }

    /// Signs the PUTs of some parts.
    pub(crate) async fn sign_parts(&self, asked: &PartsRequest) -> Result<Vec<SignedRequest>, Refusal> {
        let signer = self.signer()?;
        if !(1..=PARTS_AT_ONCE).contains(&asked.parts.len()) {
            return Err(Refusal::BadRequest(format!("ask for 1 to {PARTS_AT_ONCE} parts at once")));
        }
        let mut requests = Vec::with_capacity(asked.parts.len());
        for part in &asked.parts {
            let limits = limits(part)?;
            let signed = signer.sign_part(&self.key, &asked.upload_id, &limits, self.lifetime, self.audience).await?;
            requests.push(signed);
        }
        Ok(requests)
    }

    /// Makes the parts one file. Doing it twice is doing it once.
    pub(crate) async fn complete(&self, upload_id: &str, parts: &[SentPart]) -> Result<(), Refusal> {
        match self.signer()?.complete_multipart(&self.key, upload_id, parts).await {
            // Gone because an earlier call succeeded and only its answer was lost; or never begun.
            Err(StoreError::NotFound { .. } | StoreError::AlreadyExists { .. }) => self.require_file().await,
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    async fn require_file(&self) -> Result<(), Refusal> {
        match self.open.store.head(&self.key).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => Err(upload_unknown()),
            Err(error) => Err(error.into()),
        }
    }

    fn signer(&self) -> Result<&dyn Signer, Refusal> {
        self.open.store.signer().ok_or_else(|| Refusal::Conflict {
            word: "NoParts",
            message: "this store takes a file in one piece: follow the plan you were given".into(),
        })
    }
}

pub(crate) fn upload_unknown() -> Refusal {
    Refusal::Conflict {
        word: "UploadUnknown",
        message: "the store knows no such upload (it may have been given up): begin it again".into(),
    }
}

fn through_gateway(expected: Expected, media_type: &str, path: &str) -> SignedRequest {
    let headers = [
        (CONTENT_TYPE.as_str(), media_type.to_owned()),
        (SIZE, expected.size.to_string()),
        (SHA256, expected.sha256.to_string()),
    ];
    let headers: BTreeMap<_, _> = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    SignedRequest { method: "PUT".to_owned(), url: path.to_owned(), headers }
}

fn limits(part: &PartToSign) -> Result<PartLimits, Refusal> {
    if !(1..=PARTS).contains(&part.number) || part.size == 0 {
        return Err(Refusal::invalid(
            word::INVALID_PART,
            format!("parts are numbered from 1 to {PARTS} and are not empty"),
        ));
    }
    let sha256: Digest = part.sha256.parse().map_err(|error: InvalidDigest| {
        Refusal::invalid(word::INVALID_DIGEST, format!("part {}: {error}", part.number))
    })?;
    Ok(PartLimits { number: part.number, size: part.size, sha256 })
}

/// Takes the bytes of a file whose store cannot take them from the sender. Others are refused: the gateway must stay out of
/// the way of large files.
pub(crate) async fn take(
    open: &OpenStore,
    key: &str,
    body: Body,
    expected: Expected,
    mode: PutMode,
) -> Result<(), Refusal> {
    if open.store.signer().is_some() {
        return Err(Refusal::Conflict {
            word: "StoreTakesBytes",
            message: "the bytes of this store do not pass the gateway: follow the plan you were given".into(),
        });
    }
    // Before the bytes are read; and not every store refuses to write a key twice.
    if mode == PutMode::Create && is_stored(open, key).await? {
        transfer::drain(body).await;
        return Err(Refusal::Stored);
    }
    open.store.put_stream(key, transfer::incoming(body), expected, mode).await?;
    Ok(())
}

/// Whether there is something under the key.
pub(crate) async fn is_stored(open: &OpenStore, key: &str) -> Result<bool, Refusal> {
    match open.store.head(key).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
