//! The way to the bytes of one file: a redirect for browsers, a ticket for programs, a stream where the store cannot let
//! others in.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::header::{ACCEPT, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use futures::FutureExt;

use super::rights::Once;
use crate::Shared;
use crate::disposition::attachment;
use crate::problem::Refusal;
use crate::transfer::{Download, OPAQUE, private};
use asynctask_contract::people::{DownloadTicket, FileView};
use asynctask_contract::wire::SignedRequest;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::records::ManifestFile;
use asynctask_storage::{Audience, GetShape};

/// One file of a result that the caller may read.
pub(super) struct Chosen {
    pub(super) open: OpenStore,
    pub(super) file: ManifestFile,
    /// The whole of an output for one use.
    pub(super) once: Option<Once>,
}

pub(super) fn view(file: &ManifestFile) -> FileView {
    FileView {
        path: file.path.clone(),
        size: file.size,
        sha256: file.sha256.to_string(),
        media_type: file.media_type.clone(),
        number: None,
        step: None,
    }
}

impl Chosen {
    /// The answer to a GET: there, or the bytes. To a HEAD: how many they are, as a signed URL is good for a GET only.
    pub(super) async fn download(
        self,
        gateway: &Shared,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let disposition = attachment(&self.file.path);
        let (store, key, sha256) = (&*self.open.store, &self.file.key, self.file.sha256);
        let file = Download { store, key, sha256, disposition: &disposition };
        if method == Method::HEAD {
            return file.length(headers).await;
        }
        if let Some(signed) = self.signed().await? {
            return see_other(&signed.url);
        }
        let sent = self.once.map(|once| once.used_up(Arc::clone(gateway)).boxed());
        file.answer(headers, sent).await
    }

    /// The answer to a POST of the same path.
    pub(super) async fn ticket(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response, Refusal> {
        let signed = self.signed().await?;
        let expires_in = signed.as_ref().map(|_| self.open.ttl.as_secs());
        let request = signed.unwrap_or_else(|| SignedRequest {
            method: "GET".to_owned(),
            url: uri.path_and_query().map_or_else(|| uri.path(), |path| path.as_str()).to_owned(),
            headers: BTreeMap::new(),
        });
        if !prefers_json(headers) {
            return see_other(&request.url);
        }
        // A path of the gateway is reached as the gateway itself was.
        let ca = expires_in.and(self.open.ca.clone());
        let ticket = DownloadTicket { request, expires_in, ca, file: view(&self.file) };
        Ok((private(), Json(ticket)).into_response())
    }

    /// The signed URL of the file, where the store has such.
    async fn signed(&self) -> Result<Option<SignedRequest>, Refusal> {
        let Some(signer) = self.open.store.signer() else { return Ok(None) };
        let shape = GetShape { content_disposition: attachment(&self.file.path), content_type: OPAQUE.to_owned() };
        Ok(Some(signer.sign_get(&self.file.key, &shape, self.open.ttl, Audience::Public).await?))
    }
}

fn see_other(location: &str) -> Result<Response, Refusal> {
    let mut headers = private();
    let location = HeaderValue::from_str(location).map_err(|_| Refusal::Defect("a URL that is no header".into()))?;
    headers.insert(LOCATION, location);
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// Whether the caller is a program that reads JSON, not a browser that follows.
fn prefers_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    accepted.contains("application/json") && !accepted.contains("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_led_and_programs_are_told() {
        let with = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            prefers_json(&headers)
        };
        assert!(with("application/json"));
        assert!(!with("text/html,application/xhtml+xml,application/json;q=0.9"));
        assert!(!with("*/*") && !prefers_json(&HeaderMap::new()));
    }
}
