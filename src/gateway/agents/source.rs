//! A file an agent reads, and the way to its bytes: a signed request where the store has such, else a path of ours.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::response::Response;

use super::Desk;
use super::files::LIFETIME;
use crate::problem::Refusal;
use crate::transfer::{Download, OPAQUE};
use asynctask_contract::wire::SignedRequest;
use asynctask_runtime::stores::OpenStore;
use asynctask_storage::digest::Digest;
use asynctask_storage::{Audience, GetShape};

/// Where the bytes are.
pub(super) struct Source {
    pub(super) key: String,
    /// The store of another run; `None`: that of the attempt's own.
    pub(super) open: Option<OpenStore>,
}

impl Source {
    pub(super) fn own(key: String) -> Self {
        Self { key, open: None }
    }

    fn open<'a>(&'a self, desk: &'a Desk) -> &'a OpenStore {
        self.open.as_ref().unwrap_or(&desk.open)
    }

    /// As the agent is told. `proxied` is the path of the gateway that gives the bytes where the store cannot.
    pub(super) async fn request(
        &self,
        desk: &Desk,
        proxied: impl FnOnce() -> String,
    ) -> Result<SignedRequest, Refusal> {
        let open = self.open(desk);
        // An agent is told the certificates of one store.
        let trusted = open.ca == desk.open.ca;
        match open.store.signer().filter(|_| trusted) {
            None => Ok(SignedRequest { method: "GET".to_owned(), url: proxied(), headers: BTreeMap::new() }),
            Some(signer) => {
                let shape = GetShape { content_disposition: "attachment".to_owned(), content_type: OPAQUE.to_owned() };
                Ok(signer.sign_get(&self.key, &shape, LIFETIME, Audience::Internal).await?)
            }
        }
    }

    /// The bytes, through the gateway.
    pub(super) async fn answer(&self, desk: &Desk, sha256: Digest, headers: &HeaderMap) -> Result<Response, Refusal> {
        let store = &*self.open(desk).store;
        Download { store, key: &self.key, sha256, disposition: "attachment" }.answer(headers, None).await
    }
}
