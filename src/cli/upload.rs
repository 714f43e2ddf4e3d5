//! Sends a file that will be an input: to the store by signed requests, or through the gateway when it says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Body, Response};
use serde::Serialize;
use tokio_util::io::ReaderStream;

use super::begun::Begun;
use super::gateway::{Gateway, GatewayError, accepted};
use super::inputs::{CHUNK, digest, section};
use super::meter::Meter;
use super::retry::Retry;
use asynctask_contract::people::{UploadCompletion, UploadRequest, UploadView};
use asynctask_contract::wire::{PartToSign, PartsReply, PartsRequest, SentPart, SignedRequest, StoredPart, UploadPlan};

/// Parts on their way at once.
const IN_FLIGHT: usize = 4;

/// A file that could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The file cannot be read (any more).
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// File.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The gateway does not take it.
    #[error("cannot start the upload of input {input:?}: {source}")]
    Start {
        /// Input.
        input: String,
        /// Why.
        source: GatewayError,
    },
    /// Bytes did not arrive.
    #[error("cannot send {}: {source}. Run the command again: what has arrived is not sent twice, unless the file changed meanwhile", file.display())]
    Send {
        /// File.
        file: PathBuf,
        /// Why.
        source: GatewayError,
    },
    /// A plan that cannot be followed.
    #[error("cannot send {}: the gateway's plan {what}", file.display())]
    Plan {
        /// File.
        file: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The bytes arrived, but not as announced.
    #[error("cannot complete the upload of input {input:?}: {source}")]
    Complete {
        /// Input.
        input: String,
        /// Why.
        source: GatewayError,
    },
}

struct Sender<'a> {
    gateway: &'a Gateway,
    store: reqwest::Client,
    namespace: &'a str,
    id: &'a str,
    file: &'a Path,
    meter: &'a Arc<Meter>,
}

/// Uploads `file` as `request` announces it, or what is left of it where an earlier command was broken off; the answer goes
/// into `spec.inputs.<name>.upload`.
pub(crate) async fn upload(
    gateway: &Gateway,
    namespace: &str,
    request: &UploadRequest,
    file: &Path,
    meter: &Arc<Meter>,
    mut begun: Begun,
) -> Result<String, UploadError> {
    let input = &request.input;
    let start = |source| UploadError::Start { input: input.clone(), source };
    let earlier = match begun.id() {
        Some(id) => known(gateway, gateway.path(namespace, &["uploads", &id])).await.map_err(start)?,
        None => None,
    };
    let UploadView { upload: started, stored, parts } = match earlier {
        Some(view) => view,
        None => {
            let upload = gateway.post(gateway.path(namespace, &["uploads"]), request).await.map_err(start)?;
            UploadView { upload, stored: false, parts: Vec::new() }
        }
    };
    begun.keep(&started.id);
    let store = gateway.store(started.ca.as_deref()).map_err(start)?;
    let sender = Sender { gateway, store, namespace, id: &started.id, file, meter };
    let completion = match &started.plan {
        _ if stored => UploadCompletion::default(),
        UploadPlan::Single { request: put } => {
            sender.put(put, 0, request.size, true).await?;
            UploadCompletion::default()
        }
        UploadPlan::Multipart { upload_id, part_size } => {
            sender.parts(upload_id, *part_size, request.size, &parts).await?
        }
    };
    let complete = gateway.path(namespace, &["uploads", &started.id, "complete"]);
    let done = again(async || gateway.post_empty(complete.clone(), &completion).await).await;
    done.map_err(|source| {
        if !source.is_transient() {
            begun.forget();
        }
        UploadError::Complete { input: input.clone(), source }
    })?;
    begun.forget();
    Ok(started.id)
}

/// An upload that was begun earlier, unless the gateway or the store has given it up.
async fn known(gateway: &Gateway, url: reqwest::Url) -> Result<Option<UploadView>, GatewayError> {
    match again(async || gateway.get(url.clone()).await).await {
        Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(None),
        view => view.map(Some),
    }
}

impl Sender<'_> {
    fn failed(&self, source: GatewayError) -> UploadError {
        UploadError::Send { file: self.file.to_owned(), source }
    }

    async fn parts(
        &self,
        upload_id: &str,
        part_size: u64,
        size: u64,
        stored: &[StoredPart],
    ) -> Result<UploadCompletion, UploadError> {
        if part_size == 0 {
            return Err(UploadError::Plan { file: self.file.to_owned(), what: "cuts it into parts of no size" });
        }
        let count = size.div_ceil(part_size);
        let numbers = u32::try_from(count)
            .map_err(|_| UploadError::Plan { file: self.file.to_owned(), what: "cuts it into too many parts" })?;
        let mut parts: Vec<SentPart> = stream::iter(1..=numbers)
            .map(|number| {
                let offset = u64::from(number - 1) * part_size;
                let size = part_size.min(size - offset);
                let stored = stored.iter().find(|part| (part.number, part.size) == (number, size));
                self.part(upload_id, number, offset, size, stored)
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await?;
        parts.sort_by_key(|part| part.number);
        Ok(UploadCompletion { upload_id: Some(upload_id.to_owned()), parts })
    }

    /// One part: its own checksum, its own short-lived URL, its own retries. What is stored is not sent.
    async fn part(
        &self,
        upload_id: &str,
        number: u32,
        offset: u64,
        size: u64,
        stored: Option<&StoredPart>,
    ) -> Result<SentPart, UploadError> {
        let sha256 = digest(self.file, offset, size, None)
            .await
            .map_err(|source| UploadError::Read { file: self.file.to_owned(), source })?;
        if let Some(part) = stored {
            self.meter.add(size);
            return Ok(SentPart { number, etag: part.etag.clone(), sha256 });
        }
        let ask = PartsRequest {
            file: None,
            upload_id: upload_id.to_owned(),
            parts: vec![PartToSign { number, size, sha256: sha256.clone() }],
        };
        let url = self.gateway.path(self.namespace, &["uploads", self.id, "parts"]);
        let signed: PartsReply =
            again(async || self.post(url.clone(), &ask).await).await.map_err(|e| self.failed(e))?;
        let put = signed
            .requests
            .first()
            .ok_or(UploadError::Plan { file: self.file.to_owned(), what: "names no request for a part" })?;
        let reply = self.put(put, offset, size, false).await?;
        let etag = reply.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).ok_or(UploadError::Plan {
            file: self.file.to_owned(),
            what: "leads to a store that names no ETag for a part",
        })?;
        Ok(SentPart { number, etag: etag.to_owned(), sha256 })
    }

    async fn post<B: Serialize + Sync, T: serde::de::DeserializeOwned>(
        &self,
        url: reqwest::Url,
        body: &B,
    ) -> Result<T, GatewayError> {
        self.gateway.post(url, body).await
    }

    /// PUTs a section of the file, again after a broken connection. `once`: the key can be written only once, so 412
    /// means that an earlier try arrived; its checksum is compared when the upload is completed.
    async fn put(&self, put: &SignedRequest, offset: u64, size: u64, once: bool) -> Result<Response, UploadError> {
        let mut retry = Retry::default();
        loop {
            let sent = Arc::new(AtomicU64::new(0));
            let body = self.body(offset, size, &sent).await?;
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(size))]);
            let error = match self.gateway.perform(&self.store, put, headers, Some(body)).await {
                Ok((reply, _)) if once && reply.status() == StatusCode::PRECONDITION_FAILED => return Ok(reply),
                Ok((reply, peer)) => match accepted(reply, peer).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.meter.back(sent.load(Ordering::Relaxed));
            match retry.pause().filter(|_| error.is_transient()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(self.failed(error)),
            }
        }
    }

    async fn body(&self, offset: u64, size: u64, sent: &Arc<AtomicU64>) -> Result<Body, UploadError> {
        let reader = section(self.file, offset, size)
            .await
            .map_err(|source| UploadError::Read { file: self.file.to_owned(), source })?;
        let (meter, sent) = (Arc::clone(self.meter), Arc::clone(sent));
        let bytes = ReaderStream::with_capacity(reader, CHUNK).inspect_ok(move |chunk| {
            meter.add(chunk.len() as u64);
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        Ok(Body::wrap_stream(bytes))
    }
}

/// Repeats a call that may be repeated, while the failure is one that passes.
async fn again<T>(call: impl AsyncFn() -> Result<T, GatewayError>) -> Result<T, GatewayError> {
    let mut retry = Retry::default();
    loop {
        match call().await {
            Err(error) if error.is_transient() => match retry.pause() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
            done => return done,
        }
    }
}
