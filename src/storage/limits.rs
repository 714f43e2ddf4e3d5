//! Which limits of a signed request a store keeps: tried as somebody would who was handed one and means ill.
//!
//! Nothing depends on them (a commit compares sizes and who committed decides), but whoever holds a URL for its minute can
//! do what the store does not keep. So it is found out, and said.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_DISPOSITION, CONTENT_LENGTH, ETAG, ORIGIN,
};
use reqwest::{Client, Method, Response, StatusCode};

use super::connect::http_client;
use super::digest::Digest;
use super::error::{StoreError, innermost};
use super::layout::Layout;
use super::probe::ProbeError;
use super::signing::{Audience, GetShape, PartLimits, PutLimits, Signer};
use super::{ObjectStore, PutMode, delete_prefix};
use asynctask_contract::wire::{SentPart, SignedRequest};

/// What a store keeps of what was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A body of another length is refused.
    pub length: bool,
    /// A body with another digest is refused.
    pub checksum: bool,
    /// A second PUT with the same request is refused.
    pub once: bool,
    /// A download is given as the attachment it was signed as.
    pub attachment: bool,
    /// Uploads in parts work.
    pub parts: bool,
    /// A page of any other site may send to it (CORS).
    pub any_origin: bool,
}

const CONTENT: &[u8] = b"signed by the AsyncTask operator to see what this store keeps of it\n";
const TTL: Duration = Duration::from_secs(60);
const DISPOSITION: &str = "attachment; filename=\"probe.txt\"";
/// A site that nobody has.
const SOMEWHERE: &str = "https://asynctask-probe.invalid";

/// Tries it below the prefix of the probe, and leaves nothing there. `ca` signs the service's certificate, beside the
/// public roots.
///
/// # Errors
/// A signed request that is followed to the letter and is not honoured; a store that does not answer.
pub async fn limits(
    store: &dyn ObjectStore,
    signer: &dyn Signer,
    layout: &Layout,
    cluster_uid: &str,
    ca: Option<&str>,
) -> Result<Limits, ProbeError> {
    let (prefix, _) = layout.probe(cluster_uid)?;
    let trial = Trial { signer, http: http_client(ca).map_err(ProbeError::Signed)?, store };
    let found = trial.all(prefix.as_str()).await.map_err(ProbeError::Signed);
    // The first error counts; the next probe writes to the same keys.
    let swept = delete_prefix(store, &prefix).await.map_err(ProbeError::Delete);
    let found = found?;
    swept?;
    Ok(found)
}

struct Trial<'a> {
    signer: &'a dyn Signer,
    http: Client,
    store: &'a dyn ObjectStore,
}

impl Trial<'_> {
    async fn all(&self, prefix: &str) -> Result<Limits, StoreError> {
        let key = |name: &str| format!("{prefix}signed-{name}");
        let whole = key("whole");
        self.store.delete(std::slice::from_ref(&whole)).await?;
        let put = self.put(&whole).await?;
        self.honoured("PUT", &self.send(&put, CONTENT).await?)?;
        let once = refused(&self.send(&put, CONTENT).await?);

        let mut longer = self.put(&key("longer")).await?;
        // The header is what is signed; the client would send the real length by itself.
        longer.headers.remove(CONTENT_LENGTH.as_str());
        let length = refused(&self.send(&longer, &[CONTENT, b"!"].concat()).await?);

        let mut other = CONTENT.to_vec();
        other[0] ^= 1;
        let checksum = refused(&self.send(&self.put(&key("other")).await?, &other).await?);

        let get = self.signer.sign_get(&whole, &shape(), TTL, Audience::Internal).await?;
        let any_origin = self.any_origin(&put).await?;
        let got = self.send(&get, b"").await?;
        self.honoured("GET", &got)?;
        let attachment = got.headers().get(CONTENT_DISPOSITION).is_some_and(|given| given == DISPOSITION);
        Ok(Limits { length, checksum, once, attachment, parts: self.parts(&key("parts")).await, any_origin })
    }

    async fn put(&self, key: &str) -> Result<SignedRequest, StoreError> {
        let limits = PutLimits {
            size: CONTENT.len() as u64,
            sha256: Digest::of(CONTENT),
            content_type: "text/plain".to_owned(),
            mode: PutMode::Create,
        };
        self.signer.sign_put(key, &limits, TTL, Audience::Internal).await
    }

    /// Whether an upload of one part ends as an object.
    async fn parts(&self, key: &str) -> bool {
        let sent = async {
            let upload_id = self.signer.start_multipart(key, "text/plain").await?;
            let digest = Digest::of(CONTENT);
            let part = PartLimits { number: 1, size: CONTENT.len() as u64, sha256: digest };
            let request = self.signer.sign_part(key, &upload_id, &part, TTL, Audience::Internal).await?;
            let answer = self.send(&request, CONTENT).await?;
            let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
            let part = SentPart { number: 1, etag, sha256: digest.to_string() };
            let completed = self.signer.complete_multipart(key, &upload_id, &[part]).await;
            if completed.is_err() {
                self.signer.abort_multipart(key, &upload_id).await?;
            }
            completed
        };
        sent.await.is_ok()
    }

    /// Asks as a browser does before a page of another site may PUT.
    async fn any_origin(&self, put: &SignedRequest) -> Result<bool, StoreError> {
        let asked = self.http.request(Method::OPTIONS, &put.url).header(ORIGIN, SOMEWHERE);
        let answer = asked.header(ACCESS_CONTROL_REQUEST_METHOD, "PUT").send().await.map_err(|e| self.silent(&e))?;
        Ok(answer.status().is_success() && answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN))
    }

    async fn send(&self, request: &SignedRequest, body: &[u8]) -> Result<Response, StoreError> {
        let method = request.method.parse().unwrap_or(Method::PUT);
        let mut sent = self.http.request(method, &request.url);
        for (name, value) in &request.headers {
            sent = sent.header(name, value);
        }
        if !body.is_empty() {
            sent = sent.body(Bytes::copy_from_slice(body));
        }
        sent.send().await.map_err(|error| self.silent(&error))
    }

    fn honoured(&self, verb: &str, answer: &Response) -> Result<(), StoreError> {
        if answer.status().is_success() {
            return Ok(());
        }
        Err(StoreError::PermissionDenied {
            endpoint: self.store.location(),
            action: format!("take a signed {verb} as it was signed"),
            code: format!("HTTP {}", answer.status().as_u16()),
        })
    }

    fn silent(&self, error: &reqwest::Error) -> StoreError {
        StoreError::Unreachable { endpoint: self.store.location(), detail: innermost(error).to_string() }
    }
}

fn shape() -> GetShape {
    GetShape { content_disposition: DISPOSITION.to_owned(), content_type: "application/octet-stream".to_owned() }
}

/// What is not stored was refused, whatever the word for it; a store that fails has kept nothing.
fn refused(answer: &Response) -> bool {
    answer.status().is_client_error() && answer.status() != StatusCode::TOO_MANY_REQUESTS
}

impl Limits {
    /// What an administrator should know of a store that does not keep all, in sentences; empty if it does.
    #[must_use]
    pub fn advice(self) -> Vec<&'static str> {
        let all = [
            (self.parts, "uploads in parts fail: files above 64 MiB cannot be stored; allow multipart uploads"),
            (
                self.length,
                "a signed upload takes more bytes than announced: who holds one can fill the bucket; set a quota",
            ),
            (
                self.checksum,
                "a signed upload takes other bytes than announced: use a service that compares x-amz-checksum-sha256",
            ),
            (self.once, "a signed upload can be sent again within its time; nothing is lost, the commit compares"),
            (
                self.attachment,
                "downloads are not given as attachments: give it a domain of its own, where no cookie is at stake",
            ),
            (!self.any_origin, "pages of any site may send to it (CORS): allow the gateway's origin only"),
        ];
        all.into_iter().filter(|(kept, _)| !kept).map(|(_, advice)| advice).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn there_is_advice_for_each_limit_that_is_not_kept() {
        let best =
            Limits { length: true, checksum: true, once: true, attachment: true, parts: true, any_origin: false };
        assert!(best.advice().is_empty());
        let worst =
            Limits { length: false, checksum: false, once: false, attachment: false, parts: false, any_origin: true };
        assert_eq!(worst.advice().len(), 6);
    }
}
