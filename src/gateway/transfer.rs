//! Bytes that pass through the gateway, for stores that cannot let others in: both ways a chunk at a time.

use std::io;
use std::ops::Range;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE,
    RANGE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt, TryStreamExt};

use super::problem::Refusal;
use asynctask_storage::digest::{Digest, Expected};
use asynctask_storage::{FILE_MAX, Incoming, ObjectStore};

/// Without a byte for this long a sender counts as gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Most bytes read of a body that nobody wants.
const DRAINED: u64 = 1 << 30;
/// Media type of everything that is given out: what an author claims is data, not something for a browser to run.
pub(crate) const OPAQUE: &str = "application/octet-stream";
/// Announced size of a body, beside its `Content-Length`, which a proxy in between may drop.
pub(crate) const SIZE: &str = "x-asynctask-size";
/// Announced hex SHA-256 of a body.
pub(crate) const SHA256: &str = "x-asynctask-sha256";

/// What the headers of a proxied PUT announce.
pub(crate) fn announced(headers: &HeaderMap) -> Result<Expected, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = text(SIZE).and_then(|size| size.parse().ok());
    let sha256 = text(SHA256).and_then(|digest| digest.parse().ok());
    match (size, sha256) {
        (Some(size), _) if size > FILE_MAX => Err(too_large(size)),
        (Some(size), Some(sha256)) => Ok(Expected { size, sha256 }),
        _ => Err(Refusal::BadRequest(format!(
            "send the headers {SIZE} and {SHA256} exactly as the upload plan names them"
        ))),
    }
}

/// Refuses a file that no store takes.
pub(crate) fn too_large(size: u64) -> Refusal {
    Refusal::invalid(
        "FileTooLarge",
        format!("a file of {size} bytes is too large: at most {FILE_MAX}, which is 625 GiB. Split it"),
    )
}

/// Reads a body that nobody wants to its end, within reason: many a client sends all of it before it reads the answer, and takes a
/// connection that is closed meanwhile for a failure.
pub(crate) async fn drain(body: Body) {
    let reading = async {
        let (mut chunks, mut read) = (body.into_data_stream(), 0_u64);
        while let Some(Ok(chunk)) = chunks.next().await {
            read += chunk.len() as u64;
            if read > DRAINED {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(SILENCE, reading).await;
}

/// A request's body on its way into a store.
pub(crate) fn incoming(body: Body) -> Incoming<'static> {
    let chunks: BoxStream<'static, _> = body.into_data_stream().boxed();
    unfold(Some(chunks), |chunks| async {
        let mut chunks = chunks?;
        match tokio::time::timeout(SILENCE, chunks.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(chunks))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "no byte came for a minute")), None)),
        }
    })
    .boxed()
}

/// A stored file that is given out.
pub(crate) struct Download<'a> {
    pub(crate) store: &'a dyn ObjectStore,
    pub(crate) key: &'a str,
    pub(crate) sha256: Digest,
    pub(crate) disposition: &'a str,
}

impl Download<'_> {
    /// Streams the file, or the one range of it that is asked for. `sent` is run when all bytes of the file have been sent
    /// in this answer.
    pub(crate) async fn answer(
        &self,
        asked: &HeaderMap,
        sent: Option<BoxFuture<'static, ()>>,
    ) -> Result<Response, Refusal> {
        let (size, range) = self.part(asked).await?;
        let object = self.store.get(self.key, range.clone()).await?;
        let sent = sent.filter(|_| object.range == (0..size));
        let (status, headers) = self.head(size, range.is_some(), &object.range);
        Ok((status, headers, Body::from_stream(counted(object.stream, size, sent))).into_response())
    }

    /// What the answer would begin with: to whoever asks how long the file is.
    pub(crate) async fn length(&self, asked: &HeaderMap) -> Result<Response, Refusal> {
        let (size, range) = self.part(asked).await?;
        let is_part = range.is_some();
        Ok(self.head(size, is_part, &range.unwrap_or(0..size)).into_response())
    }

    fn etag(&self) -> String {
        format!("\"{}\"", self.sha256)
    }

    /// Bytes of the file, and the range of it that is asked for.
    async fn part(&self, asked: &HeaderMap) -> Result<(u64, Option<Range<u64>>), Refusal> {
        let size = self.store.head(self.key).await?.size;
        let Some(range) = wanted(asked, &self.etag()) else { return Ok((size, None)) };
        let range = range.within(size).ok_or_else(|| Refusal::Store(self.behind_the_end(size)))?;
        Ok((size, Some(range)))
    }

    fn head(&self, size: u64, is_part: bool, range: &Range<u64>) -> (StatusCode, HeaderMap) {
        let mut headers = private();
        let mut set = |name: HeaderName, value: &str| {
            headers.insert(
                name,
                HeaderValue::from_str(value).expect("invariant: digits, digests and escaped names are ASCII"),
            );
        };
        set(CONTENT_TYPE, OPAQUE);
        set(CONTENT_DISPOSITION, self.disposition);
        set(ACCEPT_RANGES, "bytes");
        set(ETAG, &self.etag());
        set(CONTENT_LENGTH, &(range.end - range.start).to_string());
        if !is_part {
            return (StatusCode::OK, headers);
        }
        set(CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        (StatusCode::PARTIAL_CONTENT, headers)
    }

    fn behind_the_end(&self, size: u64) -> asynctask_storage::StoreError {
        asynctask_storage::StoreError::RangeNotSatisfiable { key: self.key.to_owned(), size }
    }
}

/// The same bytes; `sent` begins with the last of them, whether or not anybody asks for what follows it.
fn counted<E>(
    bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    size: u64,
    mut sent: Option<BoxFuture<'static, ()>>,
) -> impl Stream<Item = Result<Bytes, E>> + Send + 'static {
    let mut left = size;
    bytes.inspect_ok(move |chunk| {
        left = left.saturating_sub(chunk.len() as u64);
        if let Some(sent) = sent.take_if(|_| left == 0) {
            tokio::spawn(sent);
        }
    })
}

/// Headers of every answer that gives out bytes or the way to them: not kept by caches, not told to other sites, not
/// guessed at by browsers.
pub(crate) fn private() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

/// One range as RFC 9110 spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// `bytes=5-` or `bytes=5-9`
    From { first: u64, last: Option<u64> },
    /// `bytes=-5`
    Last(u64),
}

impl Wanted {
    /// The bytes meant; `None`: not a single one.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| last.saturating_add(1)).min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// The range asked for. Several ranges, other units and what cannot be read are ignored, as the standard allows; a
/// range of another version of the file too.
fn wanted(headers: &HeaderMap, etag: &str) -> Option<Wanted> {
    if headers.get(IF_RANGE).is_some_and(|version| version.as_bytes() != etag.as_bytes()) {
        return None;
    }
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    match (first, last) {
        ("", count) => Some(Wanted::Last(number(count)?)),
        (first, "") => Some(Wanted::From { first: number(first)?, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wanted::From { first, last: Some(last) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: &str) -> Option<Range<u64>> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, range.parse().expect("a header value"));
        wanted(&headers, "\"x\"").and_then(|wanted| wanted.within(10))
    }

    #[test]
    fn ranges_as_the_standard_spells_them() {
        assert_eq!(asked("bytes=0-"), Some(0..10));
        assert_eq!(asked("bytes=3-5"), Some(3..6));
        assert_eq!(asked("bytes=3-99"), Some(3..10));
        assert_eq!(asked("bytes=-4"), Some(6..10));
        assert_eq!(asked("bytes=-99"), Some(0..10));
        assert_eq!(asked(&format!("bytes=0-{}", u64::MAX)), Some(0..10));
    }

    #[test]
    fn a_range_behind_the_end_is_told_from_one_that_cannot_be_read() {
        assert_eq!(Wanted::From { first: 10, last: None }.within(10), None);
        assert_eq!(Wanted::Last(0).within(10), None);
        let mut headers = HeaderMap::new();
        for ignored in ["bytes=5-3", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=+1-2", "bytes=--1", "bytes"] {
            headers.insert(RANGE, ignored.parse().expect("a header value"));
            assert_eq!(wanted(&headers, "\"x\""), None, "{ignored}");
        }
    }

    #[test]
    fn a_range_of_another_version_is_not_given() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=1-"));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"old\""));
        assert_eq!(wanted(&headers, "\"x\""), None);
        headers.insert(IF_RANGE, HeaderValue::from_static("\"x\""));
        assert!(wanted(&headers, "\"x\"").is_some());
    }
}
