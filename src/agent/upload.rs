//! Files to the store: hashed, signed for, sent; one PUT or parts, as the gateway plans.
//!
//! Memory stays flat: a body is read from the file while it is sent, and at most [`IN_FLIGHT`] bodies are on their way.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, ETAG};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::client::{CallError, Fault, Gateway, Transport, send, transfer_time};
use super::outputs::Found;
use super::retry::{Decision, Kind, Peer, Tries};
use asynctask_contract::wire::{
    CommittedFile, CompleteRequest, FailedBy, FileRef, NewFile, PartToSign, PartsReply, PartsRequest, SentPart,
    SignedRequest, UploadPlan, path,
};

/// Bodies on their way at once, over all files.
pub(crate) const IN_FLIGHT: usize = 4;
/// Bytes read at a time: one TLS record. Each body on its way holds several of these; 128 KiB sent 1 GiB a tenth faster
/// and made the agent a third larger.
const CHUNK: usize = 16 << 10;
const ACT: &str = "store the outputs";

/// A file could not be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("cannot read {path:?}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path:?} was not stored: {said}")]
    Refused { path: String, by: FailedBy, said: String },
    #[error("{path:?} was not stored: the gateway's plan of {part_size} bytes a part cannot be followed")]
    Plan { path: String, part_size: u64 },
    #[error("{path:?} was not stored: {source}")]
    Call { path: String, source: CallError },
}

impl UploadError {
    /// Whose failure it is.
    pub(crate) fn failed_by(&self) -> FailedBy {
        match self {
            Self::Read { .. } => FailedBy::Contract,
            Self::Refused { by, .. } => *by,
            Self::Plan { .. } => FailedBy::Agent,
            Self::Call { source, .. } => source.failed_by(),
        }
    }
}

/// Sends files, sharing one allowance.
pub(crate) struct Uploader {
    gateway: Arc<Gateway>,
    transport: Arc<Transport>,
    slots: Semaphore,
}

/// A piece of a file.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    length: u64,
}

impl Uploader {
    pub(crate) fn new(gateway: Arc<Gateway>, transport: Arc<Transport>) -> Self {
        Self { gateway, transport, slots: Semaphore::new(IN_FLIGHT) }
    }

    /// Stores every file; the answer is in the order given.
    pub(crate) async fn store_all(&self, found: Vec<Found>) -> Result<Vec<CommittedFile>, UploadError> {
        stream::iter(found).map(|file| self.store(file)).buffered(IN_FLIGHT).try_collect().await
    }

    /// Stores one file.
    pub(crate) async fn store(&self, found: Found) -> Result<CommittedFile, UploadError> {
        let sha256 = digest(found.file.clone(), Span { offset: 0, length: found.size })
            .await
            .map_err(|source| UploadError::Read { path: found.path.clone(), source })?;
        let file = NewFile {
            output: found.output,
            seq: found.seq,
            path: found.path,
            size: found.size,
            sha256,
            media_type: found.media_type,
        };
        match self.plan(&file).await? {
            UploadPlan::Single { request } => self.send_whole(&found.file, &file, request).await?,
            UploadPlan::Multipart { upload_id, part_size } => {
                self.send_parts(&found.file, &file, upload_id, part_size).await?;
            }
        }
        Ok(CommittedFile {
            output: file.output,
            seq: file.seq,
            path: file.path,
            size: file.size,
            sha256: file.sha256,
            media_type: file.media_type,
        })
    }

    async fn plan(&self, file: &NewFile) -> Result<UploadPlan, UploadError> {
        self.gateway.post("ask where to store a file", path::FILES, file).await.map_err(|source| called(file, source))
    }

    async fn send_whole(&self, from: &Path, file: &NewFile, mut request: SignedRequest) -> Result<(), UploadError> {
        let mut tries = Tries::default();
        loop {
            match self.put(&request, from, Span { offset: 0, length: file.size }).await {
                // 412: the key is taken, so an earlier try arrived and only its answer was lost. The commit compares.
                Ok(_) | Err((_, Fault { kind: Kind::Status { code: 412, .. }, .. })) => return Ok(()),
                Err((peer, fault)) => self.wait(file, peer, fault, &mut tries).await?,
            }
            // Signed URLs live for a minute, waits may be longer.
            request = match self.plan(file).await? {
                UploadPlan::Single { request } => request,
                UploadPlan::Multipart { part_size, .. } => {
                    return Err(UploadError::Plan { path: file.path.clone(), part_size });
                }
            };
        }
    }

    async fn send_parts(
        &self,
        from: &Path,
        file: &NewFile,
        upload_id: String,
        part_size: u64,
    ) -> Result<(), UploadError> {
        if part_size == 0 || file.size == 0 {
            return Err(UploadError::Plan { path: file.path.clone(), part_size });
        }
        let count = u32::try_from(file.size.div_ceil(part_size))
            .map_err(|_| UploadError::Plan { path: file.path.clone(), part_size })?;
        let parts = stream::iter(1..=count)
            .map(|number| {
                let offset = u64::from(number - 1) * part_size;
                let span = Span { offset, length: part_size.min(file.size - offset) };
                self.send_part(from, file, &upload_id, number, span)
            })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let end = CompleteRequest { file: Some(reference(file)), upload_id, parts };
        self.gateway
            .tell("put the parts of a file together", path::COMPLETE, &end)
            .await
            .map_err(|source| called(file, source))
    }

    async fn send_part(
        &self,
        from: &Path,
        file: &NewFile,
        upload_id: &str,
        number: u32,
        span: Span,
    ) -> Result<SentPart, UploadError> {
        let sha256 = digest(from.to_owned(), span)
            .await
            .map_err(|source| UploadError::Read { path: file.path.clone(), source })?;
        let ask = PartsRequest {
            file: Some(reference(file)),
            upload_id: upload_id.to_owned(),
            parts: vec![PartToSign { number, size: span.length, sha256: sha256.clone() }],
        };
        let mut tries = Tries::default();
        loop {
            let reply: PartsReply = self
                .gateway
                .post("ask where to store a part", path::PARTS, &ask)
                .await
                .map_err(|source| called(file, source))?;
            let Some(request) = reply.requests.first() else {
                return Err(UploadError::Refused {
                    path: file.path.clone(),
                    by: FailedBy::Agent,
                    said: format!("the gateway gave no address for part {number}"),
                });
            };
            match self.put(request, from, span).await {
                Ok(etag) => return Ok(SentPart { number, etag, sha256 }),
                Err((peer, fault)) => self.wait(file, peer, fault, &mut tries).await?,
            }
        }
    }

    async fn wait(&self, file: &NewFile, peer: Peer, fault: Fault, tries: &mut Tries) -> Result<(), UploadError> {
        match self.gateway.wait_after(ACT, peer, &fault, tries).await {
            Decision::Again(_) => Ok(()),
            Decision::Stop => {
                Err(UploadError::Refused { path: file.path.clone(), by: fault.failed_by(peer), said: fault.said })
            }
        }
    }

    /// One PUT; answers with the ETag.
    async fn put(&self, signed: &SignedRequest, from: &Path, span: Span) -> Result<String, (Peer, Fault)> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let local = |said: String| (Peer::Store, Fault::new(Kind::File, said));
        let (peer, request) = self.transport.request(signed).map_err(|fault| (Peer::Gateway, fault))?;
        let mut file = tokio::fs::File::open(from).await.map_err(|error| local(error.to_string()))?;
        file.seek(SeekFrom::Start(span.offset)).await.map_err(|error| local(error.to_string()))?;
        let unread = Arc::new(AtomicBool::new(false));
        let broken = Arc::clone(&unread);
        let body = ReaderStream::with_capacity(file.take(span.length), CHUNK)
            .inspect_err(move |_| broken.store(true, Ordering::Relaxed));
        let mut request = request.timeout(transfer_time(span.length)).body(reqwest::Body::wrap_stream(body));
        if !signed.headers.keys().any(|name| name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str())) {
            request = request.header(CONTENT_LENGTH, span.length);
        }
        match send(peer, request).await {
            Ok(answer) => {
                self.gateway.works_again();
                let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
                Ok(etag.unwrap_or_default().to_owned())
            }
            Err(_) if unread.load(Ordering::Relaxed) => Err(local("its file cannot be read any more".to_owned())),
            Err(fault) if is_shorter(from, span) => Err(local(format!("its file was cut meanwhile ({})", fault.said))),
            Err(fault) => Err((peer, fault)),
        }
    }
}

fn reference(file: &NewFile) -> FileRef {
    FileRef { output: file.output.clone(), seq: file.seq }
}

fn called(file: &NewFile, source: CallError) -> UploadError {
    UploadError::Call { path: file.path.clone(), source }
}

/// A body that ends early breaks the connection, which must not be taken for a weakness of the store.
fn is_shorter(path: &Path, span: Span) -> bool {
    std::fs::metadata(path).map_or(true, |meta| meta.len() < span.offset + span.length)
}

/// Hex SHA-256 of a piece of a file, off the thread that serves signals and progress.
async fn digest(path: PathBuf, span: Span) -> io::Result<String> {
    let hashing = tokio::task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(span.offset))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut left = span.length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match file.read(&mut buffer[..most])? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
                length => {
                    hash.update(&buffer[..length]);
                    left -= length as u64;
                }
            }
        }
        Ok(hex::encode(hash.finalize()))
    });
    hashing.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_piece_is_hashed_and_a_short_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"xxabc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(path.clone(), Span { offset: 2, length: 3 }).await.unwrap(), abc);
        let error = digest(path, Span { offset: 2, length: 4 }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
